//! A few nodes and a wire between them that takes no time.

mod watch;

use std::collections::BTreeSet;

use bytes::Bytes;
use macula_identity::Place;
use rand::SeedableRng;

use super::*;
use crate::record::tests::{World, provider, realm};
use crate::record::{self, sign};
use message::{request, response};

struct Net {
    world: World,
    now: Now,
    nodes: BTreeMap<NodeId, Dht>,
    order: Vec<NodeId>,
    /// They do not answer.
    silent: BTreeSet<NodeId>,
    /// What is left for the test to see.
    outputs: BTreeMap<NodeId, Vec<Output>>,
}

impl Net {
    fn new() -> Self {
        let world = World::new();
        Self {
            now: world.now,
            world,
            nodes: BTreeMap::new(),
            order: Vec::new(),
            silent: BTreeSet::new(),
            outputs: BTreeMap::new(),
        }
    }

    /// Adds a node, which meets the first one.
    fn add(&mut self, place: Place, server: bool) -> NodeId {
        let name = format!("n{}", self.nodes.len());
        let me = self.world.node(place, &name, server);
        let id = me.identity.id;
        let rng = StdRng::seed_from_u64(self.nodes.len() as u64);
        let dht = Dht::new(Config::default(), me, self.world.trust(), rng);
        self.nodes.insert(id, dht);
        self.order.push(id);
        if self.order.len() > 1 {
            self.connect(id, self.order[0]);
        }
        self.run();
        id
    }

    fn peer(&mut self, name: &str, server: bool) -> NodeId {
        self.add(Place::Realm(realm(name)), server)
    }

    fn address(&self, id: NodeId) -> SocketAddr {
        let at = self.order.iter().position(|known| *known == id).unwrap();
        format!("10.0.{}.{}:9443", at / 250, at % 250 + 1).parse().unwrap()
    }

    fn identity(&self, id: NodeId) -> Identity {
        self.nodes[&id].me.identity.clone()
    }

    fn connect(&mut self, a: NodeId, b: NodeId) {
        for (at, other) in [(a, b), (b, a)] {
            let (identity, address) = (self.identity(other), self.address(other));
            self.nodes.get_mut(&at).unwrap().handle_connected(self.now, &identity, vec![address]);
        }
    }

    fn ask(
        &mut self,
        from: NodeId,
        to: NodeId,
        body: request::Body,
    ) -> Result<response::Body, Fault> {
        let (identity, observed) = (self.identity(from), self.address(from));
        let to = self.nodes.get_mut(&to).unwrap();
        to.handle_request(self.now, &identity, observed, body)
    }

    /// Carries messages until nobody has any.
    fn run(&mut self) {
        loop {
            let output = self
                .nodes
                .iter_mut()
                .find_map(|(id, dht)| dht.poll_output().map(|output| (*id, output)));
            let Some((from, output)) = output else { return };
            match output {
                Output::Request { id, to, body } => {
                    if self.silent.contains(&to.id) {
                        continue;
                    }
                    self.connect(from, to.id);
                    let result = self.ask(from, to.id, body);
                    self.nodes.get_mut(&from).unwrap().handle_response(self.now, id, result);
                }
                Output::Cancel { .. } => {}
                Output::Found { .. }
                | Output::Followed { .. }
                | Output::Announced { .. }
                | Output::Withdrawn { .. } => {
                    self.outputs.entry(from).or_default().push(output);
                }
            }
        }
    }

    /// Lets time pass, each deadline at its instant.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self
            .nodes
            .iter()
            .filter(|(id, _)| !self.silent.contains(id))
            .filter_map(|(_, dht)| dht.poll_timeout())
            .min()
            && deadline.at <= end.instant
        {
            self.now = self.now + deadline.at.saturating_duration_since(self.now.instant);
            for (id, dht) in &mut self.nodes {
                if !self.silent.contains(id) {
                    dht.handle_timeout(self.now);
                }
            }
            self.run();
        }
        self.now = end;
    }

    fn announce(&mut self, id: NodeId, name: &str) -> usize {
        let now = self.now;
        self.outputs.clear();
        self.nodes.get_mut(&id).unwrap().announce(now, record::Kind::Provider, name);
        self.run();
        self.pass(Duration::from_secs(5));
        self.outputs
            .remove(&id)
            .unwrap_or_default()
            .into_iter()
            .find_map(|output| match output {
                Output::Announced { stored, .. } => Some(stored),
                _ => None,
            })
            .expect("the round has ended")
    }

    fn find(&mut self, id: NodeId, name: &str) -> Found {
        let now = self.now;
        self.outputs.clear();
        let of = self.nodes[&id].my_realm().cloned().unwrap_or_else(|| realm("r"));
        self.nodes.get_mut(&id).unwrap().find_values(now, &of, Kind::Provider, name);
        self.run();
        // Longer than any lookup lasts.
        self.pass(Duration::from_secs(9));
        self.outputs
            .remove(&id)
            .unwrap_or_default()
            .into_iter()
            .find_map(|output| match output {
                Output::Found { found, .. } => Some(found),
                _ => None,
            })
            .expect("the lookup has ended")
    }
}

fn publishers(found: &Found) -> Vec<NodeId> {
    found.records.iter().map(|found| found.record.publisher.id).collect()
}

#[test]
fn what_one_peer_announces_another_finds_with_its_address() {
    let mut net = Net::new();
    for _ in 0..3 {
        net.add(Place::Bootstrap, true);
    }
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    assert_eq!(net.announce(a, "cart.add"), 3);
    let found = net.find(b, "cart.add");
    assert_eq!(publishers(&found), [a]);
    assert_eq!(found.records[0].addresses, [net.address(a)]);
    assert!(found.complete);
    assert_eq!(publishers(&net.find(b, "cart.remove")), []);
}

#[test]
fn a_record_is_repeated_while_it_is_announced_and_gone_when_it_is_withdrawn() {
    let mut net = Net::new();
    for _ in 0..3 {
        net.add(Place::Bootstrap, true);
    }
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    net.announce(a, "cart.add");
    net.pass(Duration::from_secs(600));
    assert_eq!(publishers(&net.find(b, "cart.add")), [a]);
    let now = net.now;
    net.nodes.get_mut(&a).unwrap().withdraw(now, Kind::Provider, "cart.add");
    net.run();
    let withdrawn =
        net.outputs[&a].iter().any(|output| matches!(output, Output::Withdrawn { deleted: 3, .. }));
    assert!(withdrawn, "{:?}", net.outputs[&a]);
    assert_eq!(publishers(&net.find(b, "cart.add")), []);
    net.pass(Duration::from_secs(600));
    assert!(net.nodes.values().all(|dht| dht.records() == 0));
}

#[test]
fn what_keepers_lost_when_they_started_again_is_announced_anew_as_soon_as_one_is_back() {
    let mut net = Net::new();
    let keepers = [(); 3].map(|()| net.add(Place::Bootstrap, true));
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    net.announce(a, "cart.add");
    // All end at once, and come back under their ids with nothing.
    net.silent.extend(keepers);
    for keeper in keepers {
        for peer in [a, b] {
            net.nodes.get_mut(&peer).unwrap().handle_disconnected(net.now, keeper, true);
        }
        let me = net.nodes[&keeper].me.clone();
        let empty = Dht::new(Config::default(), me, net.world.trust(), StdRng::seed_from_u64(9));
        net.nodes.insert(keeper, empty);
    }
    net.run();
    net.silent.clear();
    net.connect(b, keepers[0]);
    assert_eq!(publishers(&net.find(b, "cart.add")), [], "nobody has told it yet");
    net.connect(a, keepers[0]);
    net.run();
    assert_eq!(publishers(&net.find(b, "cart.add")), [a]);
}

#[test]
fn a_record_whose_publisher_crashed_expires() {
    let mut net = Net::new();
    net.add(Place::Bootstrap, true);
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    net.announce(a, "cart.add");
    net.silent.insert(a);
    assert_eq!(publishers(&net.find(b, "cart.add")), [a]);
    net.pass(Config::default().record_ttl);
    assert_eq!(publishers(&net.find(b, "cart.add")), []);
}

#[test]
fn a_withdrawal_hides_what_a_storer_that_missed_it_still_shows() {
    let mut net = Net::new();
    let first = net.add(Place::Bootstrap, true);
    net.add(Place::Bootstrap, true);
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    assert_eq!(net.announce(a, "cart.add"), 2);
    net.silent.insert(first);
    let now = net.now;
    net.nodes.get_mut(&a).unwrap().withdraw(now, Kind::Provider, "cart.add");
    net.run();
    net.pass(Duration::from_secs(5));
    net.silent.clear();
    net.connect(b, first);
    assert_eq!(publishers(&net.find(b, "cart.add")), []);
}

#[test]
fn announced_before_anybody_is_there_it_is_stored_when_somebody_comes() {
    let mut net = Net::new();
    let a = net.peer("r", false);
    assert_eq!(net.announce(a, "cart.add"), 0);
    let server = net.add(Place::Bootstrap, true);
    net.pass(Duration::from_secs(5));
    assert_eq!(net.nodes[&server].records(), 1);
}

#[test]
fn what_a_serving_peer_keeps_alone_it_announces_again_until_another_keeps_it() {
    let mut net = Net::new();
    let a = net.peer("r", true);
    assert_eq!(net.announce(a, "cart.add"), 1, "itself");
    let rounds = |net: &mut Net| {
        net.outputs.clear();
        net.pass(Duration::from_secs(60));
        net.outputs.remove(&a).unwrap_or_default().len()
    };
    assert!(rounds(&mut net) > 1);
    net.add(Place::Bootstrap, true);
    net.pass(Duration::from_secs(5));
    assert_eq!(rounds(&mut net), 0);
}

#[test]
fn a_peer_of_one_realm_learns_nothing_of_another() {
    let mut net = Net::new();
    let infrastructure = net.add(Place::Bootstrap, true);
    let mut servers = BTreeMap::new();
    for n in 0..10 {
        let name = if n % 2 == 0 { "r" } else { "s" };
        servers.entry(name).or_insert_with(Vec::new).push(net.peer(name, true));
    }
    net.announce(servers["s"][0], "secret");
    net.announce(servers["r"][0], "open");
    let asker = net.peer("r", false);
    let key = Bytes::copy_from_slice(Key::of(&realm("s"), Kind::Provider, "secret").as_bytes());
    let find = |named: &str| {
        [
            request::Body::FindNode(message::FindNode { target: key.clone(), realm: named.into() }),
            request::Body::FindValue(message::FindValue {
                key: key.clone(),
                realm: named.into(),
                ..Default::default()
            }),
        ]
    };
    for body in find("").into_iter().chain(find("r")) {
        let (records, closest) = match net.ask(asker, infrastructure, body).unwrap() {
            response::Body::Nodes(nodes) => (Vec::new(), nodes.closest),
            response::Body::Values(values) => (values.records, values.closest),
            other => panic!("{other:?}"),
        };
        assert_eq!(records, []);
        let shown: Vec<_> =
            closest.into_iter().map(|contact| Contact::try_from(contact).unwrap().id).collect();
        assert!(servers["r"].iter().all(|id| shown.contains(id)), "its own realm is shown");
        assert!(servers["s"].iter().all(|id| !shown.contains(id)), "the other is not");
    }
    for body in find("s") {
        let refused = net.ask(asker, infrastructure, body.clone()).unwrap_err();
        assert_eq!(refused.code, Code::RealmMismatch);
        // Infrastructure may name any, of a server that keeps it.
        assert_eq!(
            net.ask(infrastructure, servers["r"][0], body.clone()).unwrap_err().code,
            Code::RealmMismatch
        );
        assert!(net.ask(infrastructure, servers["s"][0], body).is_ok());
    }
    for dht in net.nodes.values() {
        if let Some(mine) = dht.my_realm() {
            let others = dht.table_sizes().into_iter().filter(|(scope, _)| {
                *scope != Scope::Infrastructure && *scope != Scope::Realm(mine.clone())
            });
            assert_eq!(others.count(), 0);
        }
    }
    assert_eq!(publishers(&net.find(asker, "open")), [servers["r"][0]]);
}

#[test]
fn who_holds_no_grant_answers_pings_and_nothing_else() {
    let mut net = Net::new();
    net.add(Place::Bootstrap, true);
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    let target = Bytes::from_static(&[0; 20]);
    let find = request::Body::FindNode(message::FindNode { target, realm: String::new() });
    assert_eq!(net.ask(a, b, find).unwrap_err().code, Code::NotAServer);
    let ping = request::Body::Ping(message::Ping {});
    assert_eq!(net.ask(a, b, ping), Ok(response::Body::Pong(message::Pong {})));
}

#[test]
fn a_peer_stores_its_own_records_only_and_deletes_only_what_is_withdrawn() {
    let mut net = Net::new();
    let server = net.add(Place::Bootstrap, true);
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    let me = net.nodes[&a].me.clone();
    let record = Some(sign(&provider("r", "x"), &me.key, &me.chain).unwrap());
    let store =
        request::Body::Store(message::Store { record: record.clone(), addresses: Vec::new() });
    let delete = request::Body::Delete(message::Delete { record });
    assert_eq!(net.ask(b, server, store.clone()).unwrap_err().code, Code::Unauthorized);
    assert_eq!(net.ask(a, server, delete).unwrap_err().code, Code::InvalidRecord);
    assert!(net.ask(a, server, store).is_ok());
    let nothing = request::Body::Store(message::Store { record: None, addresses: Vec::new() });
    assert_eq!(net.ask(a, server, nothing).unwrap_err().code, Code::InvalidRecord);
    assert_eq!(net.nodes[&server].counters().records_refused, 3);
}

#[test]
fn a_server_of_one_realm_keeps_no_record_of_another() {
    let mut net = Net::new();
    net.add(Place::Bootstrap, true);
    let (server, other) = (net.peer("r", true), net.peer("s", false));
    let me = net.nodes[&other].me.clone();
    let record = Some(sign(&provider("s", "x"), &me.key, &me.chain).unwrap());
    let store = request::Body::Store(message::Store { record, addresses: Vec::new() });
    assert_eq!(net.ask(other, server, store).unwrap_err().code, Code::RealmMismatch);
}

#[test]
fn only_those_met_on_a_connection_enter_a_table() {
    let mut net = Net::new();
    let server = net.add(Place::Bootstrap, true);
    let (a, b) = (net.peer("r", false), net.peer("r", true));
    let contacts = net.nodes[&server].contacts(a.into(), &Scope::Realm(realm("r")), 20);
    assert_eq!(contacts.iter().map(|contact| contact.id).collect::<Vec<_>>(), [b]);
    // One whose grant was withdrawn leaves.
    let mut identity = net.identity(b);
    identity.grants.server = false;
    let now = net.now;
    let dht = net.nodes.get_mut(&server).unwrap();
    dht.handle_connected(now, &identity, vec!["10.0.0.9:1".parse().unwrap()]);
    assert_eq!(dht.contacts(a.into(), &Scope::Realm(realm("r")), 20), []);
}

#[test]
fn a_renewed_certificate_signs_everything_anew() {
    let mut net = Net::new();
    net.add(Place::Bootstrap, true);
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    net.announce(a, "cart.add");
    let before = net.find(b, "cart.add").records[0].record.signed.certificate.clone();
    net.world.now = net.now;
    let me = net.world.peer("r", "n1");
    let now = net.now;
    net.nodes.get_mut(&a).unwrap().set_me(now, me);
    net.run();
    net.pass(Duration::from_secs(1));
    let after = net.find(b, "cart.add").records[0].record.signed.certificate.clone();
    assert_ne!(before, after);
}

#[test]
fn what_no_storer_would_take_is_refused_at_once_and_what_stood_still_stands() {
    let mut net = Net::new();
    net.add(Place::Bootstrap, true);
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    let now = net.now;
    let many = |count| record::Kind::Subscriber { patterns: vec!["a.b".parse().unwrap(); count] };
    let dht = net.nodes.get_mut(&a).unwrap();
    dht.announce(now, many(64), "a");
    dht.announce(now, many(65), "a");
    net.run();
    let refused = net.outputs[&a].iter().any(|output| {
        matches!(output, Output::Announced { refused: Some(fault), .. }
            if fault.code == Code::TooLarge)
    });
    assert!(refused);
    let now = net.now;
    net.outputs.clear();
    net.nodes.get_mut(&b).unwrap().find_values(now, &realm("r"), Kind::Subscriber, "a");
    net.run();
    let found = net.outputs[&b]
        .iter()
        .any(|output| matches!(output, Output::Found { found, .. } if found.records.len() == 1));
    assert!(found);
}

#[test]
fn an_answer_that_nobody_waits_for_is_ignored() {
    let mut net = Net::new();
    let a = net.add(Place::Bootstrap, true);
    let now = net.now;
    let dht = net.nodes.get_mut(&a).unwrap();
    dht.handle_response(now, RequestId(7), Ok(response::Body::Pong(message::Pong {})));
    dht.handle_response(now, RequestId(u64::MAX), Err(Fault::of(Code::Timeout)));
    assert!(dht.poll_output().is_none());
}

#[test]
fn sixty_servers_of_which_a_fifth_crash_still_find_everything() {
    let mut net = Net::new();
    for _ in 0..60 {
        net.peer("r", true);
    }
    net.pass(Duration::from_secs(20));
    for n in 0..10 {
        let publisher = net.order[n * 6 + 1];
        assert_eq!(net.announce(publisher, &format!("p{n}")), K);
    }
    net.silent = net.order.iter().step_by(5).copied().collect();
    net.pass(Duration::from_secs(10));
    for n in 0..10 {
        let asker = net.order[n * 5 + 2];
        let found = net.find(asker, &format!("p{n}"));
        assert_eq!(publishers(&found), [net.order[n * 6 + 1]]);
        assert!(found.complete);
        assert!(found.asked <= 40, "{} asked", found.asked);
    }
}

#[test]
fn a_realm_with_servers_enough_is_told_and_asked_at_the_infrastructure_too() {
    let mut net = Net::new();
    let infrastructure = net.add(Place::Bootstrap, true);
    for _ in 0..40 {
        net.peer("r", true);
    }
    net.pass(Duration::from_secs(20));
    let (a, b) = (net.order[1], net.order[2]);
    for n in 0..5 {
        let name = format!("p{n}");
        assert!(net.announce(a, &name) >= K);
        let key = Key::of(&realm("r"), Kind::Provider, &name);
        let dht = &net.nodes[&infrastructure];
        let kept =
            dht.store.find(net.now, key, &realm("r"), a).any(|(publisher, _)| publisher == a);
        assert!(kept, "{name} is kept by infrastructure");
        // Of those who keep it only the infrastructure is left.
        net.silent = net.order[3..].iter().copied().collect();
        let found = net.find(b, &name);
        assert_eq!(publishers(&found), [a]);
        assert!(found.rounds >= 1);
        net.silent.clear();
        for id in net.order.clone() {
            net.connect(b, id);
        }
        net.run();
    }
}

#[test]
fn infrastructure_that_is_the_kth_keeps_what_a_nearer_publisher_keeps_itself() {
    let mut net = Net::new();
    let infrastructure = net.add(Place::Bootstrap, true);
    for _ in 0..K {
        net.peer("r", true);
    }
    let realm = realm("r");
    let key = |name: &str| Key::of(&realm, Kind::Provider, name);
    // As many peers as it takes for a key to which the infrastructure is the k-th beside the nearest of
    // them, who publishes: where ids of chance lie decides which ranks there are.
    let (name, publisher) = loop {
        net.peer("r", true);
        assert!(net.order.len() < 200, "no key has it as the k-th");
        let nearer = |name: &str| {
            let distance = |id: NodeId| key(name).distance(id);
            let peers = net.order[1..].iter().copied();
            let mut nearer: Vec<_> =
                peers.filter(|id| distance(*id) < distance(infrastructure)).collect();
            nearer.sort_by_key(|id| distance(*id));
            nearer
        };
        let mut names = (0..1000).map(|n| format!("p{n}"));
        if let Some(name) = names.find(|name| nearer(name).len() == K) {
            let publisher = nearer(&name)[0];
            break (name, publisher);
        }
    };
    net.pass(Duration::from_secs(20));
    net.announce(publisher, &name);
    let kept = net.nodes[&infrastructure].store.find(net.now, key(&name), &realm, publisher);
    assert_eq!(kept.map(|(publisher, _)| publisher).collect::<Vec<_>>(), [publisher]);
}

#[test]
fn a_lookup_ends_at_its_deadline_and_not_before() {
    let mut net = Net::new();
    let a = net.add(Place::Bootstrap, true);
    let b = net.add(Place::Bootstrap, true);
    let (now, target) = (net.now, Key::from_bytes([7; 20]));
    let dht = net.nodes.get_mut(&a).unwrap();
    // Nothing else would end it.
    dht.config.request_timeout = Duration::from_secs(60);
    dht.config.slow_after = Duration::from_secs(60);
    let lookup = dht.find_nodes(now, target, Scope::Infrastructure);
    let mut ended = |after: Duration| {
        dht.handle_timeout(now + after);
        std::iter::from_fn(|| dht.poll_output()).find_map(|output| match output {
            Output::Found { lookup: it, found } if it == lookup => Some(found),
            _ => None,
        })
    };
    let end = Duration::from_secs(8);
    assert!(ended(end.checked_sub(Duration::from_millis(1)).unwrap()).is_none());
    let found = ended(end).unwrap();
    assert!(!found.complete && found.closest.is_empty());
    assert_eq!((found.asked, found.answered, found.rounds), (1, 0, 0));
    assert!(net.nodes[&a].contacts(b.into(), &Scope::Infrastructure, 1).len() == 1);
}

#[test]
fn whoever_asks_too_much_is_told_when_to_come_back_and_is_left_alone_until_then() {
    let mut net = Net::new();
    let (a, b) = (net.add(Place::Bootstrap, true), net.add(Place::Bootstrap, true));
    let peer = net.peer("r", false);
    let few = budget::Rate { per_second: 10, burst: 3 };
    net.nodes.get_mut(&a).unwrap().config.budget.peer = few;
    let target = Bytes::from_static(&[0; 20]);
    let find = request::Body::FindNode(message::FindNode { target, realm: String::new() });
    net.pass(Duration::from_secs(20));
    for _ in 0..3 {
        assert!(net.ask(peer, a, find.clone()).is_ok());
    }
    let refused = net.ask(peer, a, find.clone()).unwrap_err();
    assert_eq!(refused.code, Code::Overloaded);
    let pause = refused.retry_after.unwrap();
    assert!(refused.because.contains("come back in 250 ms"), "{}", refused.because);
    let ping = request::Body::Ping(message::Ping {});
    assert!(net.ask(peer, a, ping).is_ok());
    assert!(net.ask(b, a, find).is_ok(), "infrastructure has a budget of its own");
    assert_eq!(net.nodes[&a].counters().requests_over_budget, 1);

    // The lookup that hears it goes on without that node, which stays known.
    let asked = |net: &mut Net| {
        let now = net.now;
        let dht = net.nodes.get_mut(&peer).unwrap();
        let before = dht.counters().requests_sent;
        dht.find_nodes(now, Key::from_bytes([9; 20]), Scope::Realm(realm("r")));
        net.run();
        net.nodes[&peer].counters().requests_sent - before
    };
    assert_eq!(asked(&mut net), 2);
    assert_eq!(asked(&mut net), 1, "it is left alone");
    assert_eq!(net.nodes[&peer].contacts(a.into(), &Scope::Infrastructure, 2).len(), 2);
    net.now = net.now + (pause - Duration::from_millis(1));
    assert_eq!(asked(&mut net), 1);
    net.now = net.now + Duration::from_millis(1);
    assert_eq!(asked(&mut net), 2);
}

#[test]
fn a_peer_that_joins_with_a_thousand_announcements_is_within_its_budget() {
    let mut net = Net::new();
    let server = net.add(Place::Bootstrap, true);
    let peer = net.peer("r", false);
    let now = net.now;
    for n in 0..1000 {
        let dht = net.nodes.get_mut(&peer).unwrap();
        dht.announce(now, record::Kind::Provider, &format!("p{n}"));
    }
    net.run();
    assert_eq!(net.nodes[&server].records(), 1000);
    assert_eq!(net.nodes[&server].counters().requests_over_budget, 0);
}

/// How many records each node has sent where they belong.
fn replicated(net: &Net) -> u64 {
    net.nodes.values().map(|dht| dht.counters().records_replicated).sum()
}

#[test]
fn infrastructure_that_comes_is_brought_what_it_shall_keep_once_and_with_addresses() {
    let mut net = Net::new();
    for _ in 0..3 {
        net.add(Place::Bootstrap, true);
    }
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    for n in 0..10 {
        net.announce(a, &format!("p{n}"));
    }
    let now = net.now;
    net.nodes.get_mut(&a).unwrap().withdraw(now, Kind::Provider, "p0");
    net.run();
    // From here on nobody but the infrastructure can bring them.
    net.silent.insert(a);
    assert_eq!(replicated(&net), 0);
    let newcomer = net.add(Place::Bootstrap, true);
    net.pass(Duration::from_secs(5));
    assert_eq!(net.nodes[&newcomer].records(), 10, "the mark of the withdrawal among them");
    assert_eq!(replicated(&net), 10, "each by one node");
    net.silent.extend([net.order[0], net.order[1], net.order[2]]);
    net.connect(b, newcomer);
    let found = net.find(b, "p7");
    assert_eq!(publishers(&found), [a]);
    assert_eq!(found.records[0].addresses, [net.address(a)]);
    assert_eq!(publishers(&net.find(b, "p0")), []);
    net.silent.clear();
    net.silent.insert(a);
    // They expire when they would have.
    net.pass(Config::default().record_ttl);
    assert!(net.nodes.iter().all(|(id, dht)| *id == a || dht.records() == 0));
}

#[test]
fn three_that_hold_everything_send_it_once_at_most_when_one_comes_back_and_then_are_quiet() {
    let mut net = Net::new();
    let keepers = [(); 3].map(|()| net.add(Place::Bootstrap, true));
    let a = net.peer("r", false);
    for n in 0..10 {
        net.announce(a, &format!("p{n}"));
    }
    net.silent.insert(a);
    for other in &keepers[1..] {
        for (at, gone) in [(keepers[0], *other), (*other, keepers[0])] {
            net.nodes.get_mut(&at).unwrap().handle_disconnected(net.now, gone, true);
        }
    }
    net.pass(Duration::from_secs(5));
    assert_eq!(replicated(&net), 0, "nobody has become the k-th of three");
    for other in &keepers[1..] {
        net.connect(keepers[0], *other);
    }
    net.pass(Duration::from_secs(5));
    let sent = replicated(&net);
    assert!((10..=30).contains(&sent), "{sent} sent");
    net.pass(Duration::from_secs(60));
    assert_eq!(replicated(&net), sent);
    assert!(keepers.iter().all(|keeper| net.nodes[keeper].records() == 10));
}

#[test]
fn who_has_become_the_kth_is_brought_what_the_one_that_went_kept() {
    let mut net = Net::new();
    // So few that no bucket is full, and everybody knows everybody.
    for _ in 0..24 {
        net.add(Place::Bootstrap, true);
    }
    net.pass(Duration::from_secs(10));
    let a = net.peer("r", false);
    let key = |n: usize| Key::of(&realm("r"), Kind::Provider, &format!("p{n}"));
    for n in 0..10 {
        assert_eq!(net.announce(a, &format!("p{n}")), K);
    }
    let gone = net.order[5];
    net.silent.extend([a, gone]);
    // The publisher does not notice, or it would bring them itself.
    for id in net.order.clone().into_iter().filter(|id| *id != a) {
        net.nodes.get_mut(&id).unwrap().handle_disconnected(net.now, gone, true);
    }
    net.run();
    net.pass(Duration::from_secs(5));
    let holds = |net: &Net, id: &NodeId, n| {
        net.nodes[id].store.find(net.now, key(n), &realm("r"), a).count() == 1
    };
    for n in 0..10 {
        let mut living: Vec<_> = net.order[..24].iter().copied().filter(|id| *id != gone).collect();
        living.sort_by_key(|id| key(n).distance(*id));
        assert!(living[..K].iter().all(|id| holds(&net, id, n)), "p{n}");
        assert!(!living[K..].iter().any(|id| holds(&net, id, n)), "p{n}");
    }
    let sent = replicated(&net);
    assert!((1..=10).contains(&sent), "{sent} sent");
}

#[test]
fn where_a_publisher_is_infrastructure_may_say_and_a_peer_may_not() {
    let mut net = Net::new();
    let (server, other) = (net.add(Place::Bootstrap, true), net.add(Place::Bootstrap, true));
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    let me = net.nodes[&a].me.clone();
    let told: Vec<SocketAddr> = vec!["10.7.7.7:1".parse().unwrap(), "0.0.0.0:1".parse().unwrap()];
    let store = |sequence| {
        let record = record::Record { sequence, ..provider("r", "x") };
        let record = Some(sign(&record, &me.key, &me.chain).unwrap());
        let addresses = told.iter().map(|address| (*address).into()).collect();
        request::Body::Store(message::Store { record, addresses })
    };
    let shown = |net: &Net| {
        let key = provider("r", "x").key();
        let realm = realm("r");
        let mut found = net.nodes[&server].store.find(net.now, key, &realm, a);
        found.next().map(|(_, entry)| entry.addresses.clone()).unwrap_or_default()
    };
    assert!(net.ask(other, server, store(1)).is_ok());
    assert_eq!(shown(&net), [told[0]], "what can be dialled");
    assert!(net.ask(a, server, store(1)).is_ok());
    assert_eq!(shown(&net), [net.address(a)], "the publisher itself is where it is seen");
    assert!(net.ask(other, server, store(1)).is_ok());
    assert_eq!(shown(&net), [net.address(a), told[0]], "the same again adds");
    assert!(net.ask(a, server, store(2)).is_ok());
    assert_eq!(shown(&net), [net.address(a)]);
    // What is kept already is no reason to let everybody bring it, or to keep it longer.
    assert_eq!(net.ask(b, server, store(2)).unwrap_err().code, Code::Unauthorized);
    net.now = net.now + Duration::from_secs(60);
    assert_eq!(net.ask(other, server, store(2)).unwrap_err().code, Code::RecordExpired);
}
