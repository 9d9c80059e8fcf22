//! What a node that follows a name is told, and what it does when nobody tells it.

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert_eq, proptest};
use rand::Rng;
use rand::seq::IndexedRandom;

use super::*;
use crate::dht::follow::{MAX_KNOWN, WATCHED};

const NAME: &str = "cart.add";

impl Net {
    fn follow(&mut self, id: NodeId) {
        let now = self.now;
        self.nodes.get_mut(&id).unwrap().follow(now, Kind::Provider, NAME);
        self.run();
    }

    fn withdraw(&mut self, id: NodeId) {
        let now = self.now;
        self.nodes.get_mut(&id).unwrap().withdraw(now, Kind::Provider, NAME);
        self.run();
    }

    fn say(&mut self, id: NodeId) {
        let now = self.now;
        self.nodes.get_mut(&id).unwrap().announce(now, record::Kind::Provider, NAME);
        self.run();
    }

    fn fail(&mut self, at: NodeId, other: NodeId) {
        let now = self.now;
        self.nodes.get_mut(&at).unwrap().handle_disconnected(now, other, true);
        self.run();
    }

    /// What a follower was told since the last time: `+` and `-` with the publisher.
    fn told(&mut self, id: NodeId) -> Vec<(char, NodeId)> {
        let outputs = self.outputs.remove(&id).unwrap_or_default();
        let changes = outputs.into_iter().flat_map(|output| match output {
            Output::Followed { changes, .. } => changes,
            _ => Vec::new(),
        });
        let told = changes.map(|it| (if it.says.is_some() { '+' } else { '-' }, it.publisher));
        told.collect()
    }

    /// Whether its leases hold, as the last word on it was.
    fn is_held(&self, id: NodeId) -> bool {
        let outputs = self.outputs[&id].iter().rev();
        let mut words = outputs.filter_map(|output| match output {
            Output::Followed { held, .. } => Some(*held),
            _ => None,
        });
        words.next().unwrap()
    }

    fn asked(&self, id: NodeId) -> u64 {
        self.nodes[&id].counters().requests_sent
    }
}

/// Three bootstraps, and two peers of a realm that do nothing yet.
fn mesh() -> (Net, [NodeId; 3], NodeId, NodeId) {
    let mut net = Net::new();
    let bootstraps = [(); 3].map(|()| net.add(Place::Bootstrap, true));
    let (a, b) = (net.peer("r", false), net.peer("r", false));
    net.pass(Duration::from_secs(10));
    net.outputs.clear();
    (net, bootstraps, a, b)
}

#[test]
fn who_follows_a_name_is_told_of_arrivals_and_withdrawals_and_asks_nothing_meanwhile() {
    let (mut net, _, a, b) = mesh();
    net.follow(b);
    assert!(net.is_held(b));
    assert_eq!(net.told(b), []);
    let asked = net.asked(b);
    net.say(a);
    assert_eq!(net.told(b), [('+', a)], "once, though three storers tell of it");
    net.say(a);
    assert_eq!(net.told(b), [], "it says the same as before");
    net.withdraw(a);
    assert_eq!(net.told(b), [('-', a)]);
    net.say(a);
    assert_eq!(net.told(b), [('+', a)]);
    assert_eq!(net.asked(b), asked);
}

#[test]
fn what_stands_already_is_told_with_its_address_and_what_ends_is_told_too() {
    let (mut net, _, a, b) = mesh();
    net.say(a);
    net.follow(b);
    let found = net.outputs[&b].iter().find_map(|output| match output {
        Output::Followed { changes, .. } => changes.first().cloned(),
        _ => None,
    });
    assert_eq!(found.unwrap().says.unwrap().addresses, [net.address(a)]);
    net.told(b);
    net.silent.insert(a);
    net.pass(Config::default().record_ttl + Duration::from_secs(1));
    assert_eq!(net.told(b), [('-', a)]);
}

#[test]
fn a_holder_that_was_away_is_told_what_it_missed_and_nothing_twice() {
    let (mut net, _, a, b) = mesh();
    let c = net.peer("r", false);
    net.follow(b);
    net.say(a);
    assert_eq!(net.told(b), [('+', a)]);
    net.silent.insert(b);
    net.withdraw(a);
    net.say(c);
    assert_eq!(net.told(b), []);
    net.silent.clear();
    net.pass(Duration::from_secs(15));
    let mut told = net.told(b);
    told.sort();
    let mut missed = [('-', a), ('+', c)];
    missed.sort();
    assert_eq!(told, missed);
}

#[test]
fn when_its_storers_are_gone_others_take_their_place_and_they_too_when_they_are_back() {
    let (mut net, bootstraps, a, b) = mesh();
    net.say(a);
    net.follow(b);
    assert_eq!(net.told(b), [('+', a)]);
    for bootstrap in bootstraps {
        net.silent.insert(bootstrap);
        net.fail(a, bootstrap);
        net.fail(b, bootstrap);
    }
    net.pass(Duration::from_secs(60));
    assert!(!net.is_held(b));
    assert_eq!(net.told(b), [], "what was said stands");
    // They come back under their ids, with nothing.
    for bootstrap in bootstraps {
        let me = net.nodes[&bootstrap].me.clone();
        let empty = Dht::new(Config::default(), me, net.world.trust(), StdRng::seed_from_u64(9));
        net.nodes.insert(bootstrap, empty);
        net.connect(bootstrap, bootstraps[0]);
    }
    net.silent.clear();
    net.connect(a, bootstraps[0]);
    net.connect(b, bootstraps[0]);
    net.pass(Duration::from_secs(40));
    assert!(net.is_held(b));
    assert_eq!(net.told(b), []);
    net.withdraw(a);
    assert_eq!(net.told(b), [('-', a)]);
}

#[test]
fn a_publisher_that_crashed_is_not_shown_until_it_answers_again() {
    let (mut net, bootstraps, a, b) = mesh();
    net.say(a);
    net.follow(b);
    net.told(b);
    net.silent.insert(a);
    // A storer has noticed, and says so.
    net.fail(bootstraps[0], a);
    net.pass(Duration::from_secs(3));
    assert_eq!(net.told(b), [('-', a)]);
    net.silent.clear();
    net.pass(Duration::from_secs(20));
    assert_eq!(net.told(b), [('+', a)]);
}

#[test]
fn a_storers_word_alone_hides_nobody() {
    let (mut net, bootstraps, a, b) = mesh();
    net.say(a);
    net.follow(b);
    net.told(b);
    for bootstrap in bootstraps {
        net.fail(bootstrap, a);
    }
    net.pass(Duration::from_secs(30));
    assert_eq!(net.told(b), []);
}

#[test]
fn who_says_goodbye_is_gone_and_is_there_again_when_it_says_so() {
    let (mut net, _, a, b) = mesh();
    net.say(a);
    net.follow(b);
    net.told(b);
    net.nodes.get_mut(&b).unwrap().forget_publisher(a);
    net.run();
    assert_eq!(net.told(b), [('-', a)]);
    net.say(a);
    assert_eq!(net.told(b), [('+', a)]);
}

#[test]
fn a_push_that_lacks_something_makes_its_receiver_ask_for_it() {
    let (mut net, bootstraps, a, b) = mesh();
    net.say(a);
    net.follow(b);
    let key = Key::of(&realm("r"), Kind::Provider, NAME);
    let push = |since: message::Version, truncated| message::Changed {
        key: Bytes::copy_from_slice(key.as_bytes()),
        count: since.count + 1,
        since: Some(since),
        truncated,
        ..Default::default()
    };
    let version = net.nodes[&bootstraps[0]].version();
    let ahead = message::Version { count: version.count + 7, ..version };
    for (changed, asks) in
        [(push(version, true), 1), (push(ahead, false), 1), (push(version, false), 0)]
    {
        net.pass(Duration::from_secs(1));
        let asked = net.asked(b);
        let body = request::Body::Changed(changed);
        assert_eq!(net.ask(bootstraps[0], b, body), Ok(response::Body::Noted(message::Noted {})));
        assert_eq!(net.asked(b) - asked, asks);
        net.run();
        // And what it has then is what the storer has.
        if asks > 0 {
            let body = request::Body::Changed(push(net.nodes[&bootstraps[0]].version(), false));
            let asked = net.asked(b);
            net.ask(bootstraps[0], b, body).unwrap();
            assert_eq!(net.asked(b), asked);
        }
    }
}

#[test]
fn who_does_not_follow_refuses_a_push_by_name_and_its_lease_ends() {
    let (mut net, bootstraps, a, b) = mesh();
    net.follow(b);
    assert!(bootstraps.iter().all(|id| net.nodes[id].leases() == 1));
    net.nodes.get_mut(&b).unwrap().unfollow(Kind::Provider, NAME);
    net.say(a);
    assert!(bootstraps.iter().all(|id| net.nodes[id].leases() == 0));
    assert_eq!(net.told(b).len(), 0);
    // Nor is anybody believed who holds no lease of ours.
    net.follow(b);
    let key = Key::of(&realm("r"), Kind::Provider, NAME);
    let key = Bytes::copy_from_slice(key.as_bytes());
    let body = request::Body::Changed(message::Changed { key, ..Default::default() });
    assert_eq!(net.ask(a, b, body).unwrap_err().code, Code::NotWatching);
}

#[test]
fn a_lease_that_nobody_renews_ends() {
    let (mut net, bootstraps, _, b) = mesh();
    net.follow(b);
    net.pass(Duration::from_secs(600));
    assert!(bootstraps.iter().all(|id| net.nodes[id].leases() == 1), "it is renewed");
    net.silent.insert(b);
    net.pass(Duration::from_secs(91));
    assert!(bootstraps.iter().all(|id| net.nodes[id].leases() == 0));
}

#[test]
fn one_lease_more_than_a_node_may_have_is_refused_by_name_and_the_records_are_shown() {
    let (mut net, bootstraps, a, b) = mesh();
    net.say(a);
    let find = |n: u32| {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&n.to_be_bytes());
        let key = if n == 1024 {
            Bytes::copy_from_slice(Key::of(&realm("r"), Kind::Provider, NAME).as_bytes())
        } else {
            Bytes::copy_from_slice(&key)
        };
        request::Body::FindValue(message::FindValue { key, lease_ms: 60_000, ..Default::default() })
    };
    for n in 0..=1024 {
        let Ok(response::Body::Values(values)) = net.ask(b, bootstraps[0], find(n)) else {
            panic!("values are shown")
        };
        let expected = if n < 1024 { None } else { Some(Code::TooManyWatches.number()) };
        assert_eq!(values.refused.map(|failure| failure.code), expected);
        assert_eq!(values.lease_ms, if n < 1024 { 60_000 } else { 0 });
        assert_eq!(values.records.len(), usize::from(n == 1024));
    }
    // One that it has may be renewed, and another node is not concerned.
    let renewed = net.ask(b, bootstraps[0], find(7)).unwrap();
    assert!(matches!(renewed, response::Body::Values(values) if values.lease_ms > 0));
    let other = net.ask(a, bootstraps[0], find(7)).unwrap();
    assert!(matches!(other, response::Body::Values(values) if values.lease_ms > 0));
}

#[test]
fn a_lease_is_left_with_the_nearest_alone_and_never_longer_than_it_may_be() {
    let mut net = Net::new();
    for _ in 0..30 {
        net.add(Place::Gateway, true);
    }
    let b = net.peer("r", false);
    net.pass(Duration::from_secs(20));
    net.follow(b);
    let key = Key::of(&realm("r"), Kind::Provider, NAME);
    let mut holders: Vec<_> = net.order.clone();
    holders.sort_by_key(|id| key.distance(*id));
    holders.retain(|id| *id != b);
    let given = |id: &NodeId| net.nodes[id].leases();
    assert!(holders[..WATCHED].iter().all(|id| given(id) == 1));
    assert!(holders[WATCHED..].iter().all(|id| given(id) == 0));
    let key = Bytes::copy_from_slice(key.as_bytes());
    let long = message::FindValue { key, lease_ms: u32::MAX, ..Default::default() };
    let answer = net.ask(b, holders[7], request::Body::FindValue(long)).unwrap();
    assert!(matches!(answer, response::Body::Values(values) if values.lease_ms == 90_000));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever happened, and whoever was away meanwhile: what a follower was told adds up to what a
    /// fresh lookup finds.
    #[test]
    fn what_is_told_adds_up_to_what_stands(seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut net = Net::new();
        let servers: Vec<_> = (0..8).map(|_| net.add(Place::Bootstrap, true)).collect();
        let peers: Vec<_> = (0..4).map(|_| net.peer("r", false)).collect();
        let follower = net.peer("r", false);
        net.pass(Duration::from_secs(10));
        net.follow(follower);
        let mut shown = BTreeSet::new();
        let mut listen = |net: &mut Net| {
            for (sign, publisher) in net.told(follower) {
                match sign {
                    '+' => shown.insert(publisher),
                    _ => shown.remove(&publisher),
                };
            }
            shown.clone()
        };
        for _ in 0..40 {
            let peer = *peers.choose(&mut rng).unwrap();
            match rng.random_range(0..8) {
                0..3 => net.say(peer),
                3..5 => net.withdraw(peer),
                5 => {
                    let away = *servers.choose(&mut rng).unwrap();
                    if net.silent.len() < 3 {
                        net.silent.insert(away);
                    }
                }
                6 => {
                    net.silent.insert(follower);
                }
                _ => net.silent.clear(),
            }
            listen(&mut net);
            net.pass(Duration::from_secs(rng.random_range(0..30)));
            listen(&mut net);
        }
        net.silent.clear();
        net.pass(Duration::from_secs(120));
        let told = listen(&mut net);
        let found: BTreeSet<_> = publishers(&net.find(follower, NAME)).into_iter().collect();
        prop_assert_eq!(told, found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever storers show in whatever order, again or not at all but for the last word: what is told in the
    /// end is each publisher's last word.
    #[test]
    fn what_is_told_does_not_depend_on_the_order_in_which_it_is_shown(
        order in Just((0_u64..12).collect::<Vec<_>>()).prop_shuffle(),
        again in vec(0_u64..12, 0..12),
        last_stands in any::<[bool; 3]>(),
    ) {
        let (mut net, _, _, b) = mesh();
        net.follow(b);
        net.told(b);
        let now = net.now;
        let publisher = |n: u64| NodeId::from_bytes([n as u8 + 1; 20]);
        let mut shown = BTreeSet::new();
        for word in order.into_iter().chain(again) {
            let (n, at) = (word % 3, word / 3);
            let follower = net.nodes.get_mut(&b).unwrap();
            let mut identity = follower.me.identity.clone();
            identity.id = publisher(n);
            let record = record::Record {
                incarnation: at / 2,
                sequence: at % 2,
                withdrawn: if at == 3 { !last_stands[n as usize] } else { at == 1 },
                expiry_ms: now.unix_ms + 60_000,
                ..provider("r", NAME)
            };
            let signed = message::SignedRecord::default();
            let verified = record::VerifiedRecord { record, publisher: identity.into(), signed };
            follower.follow_own(now, &verified, Some("10.9.9.9:1".parse().unwrap()));
            net.run();
            for (sign, publisher) in net.told(b) {
                match sign {
                    '+' => shown.insert(publisher),
                    _ => shown.remove(&publisher),
                };
            }
        }
        let standing = (0..3).filter(|n| last_stands[*n as usize]).map(publisher);
        prop_assert_eq!(shown, standing.collect::<BTreeSet<_>>());
    }
}

#[test]
fn who_makes_room_for_others_under_a_name_is_told_as_gone() {
    let (mut net, _, _, b) = mesh();
    net.follow(b);
    net.told(b);
    let now = net.now;
    let follower = net.nodes.get_mut(&b).unwrap();
    let publisher = |n: usize| {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        NodeId::from_bytes(id)
    };
    for n in 0..=MAX_KNOWN {
        let mut identity = follower.me.identity.clone();
        identity.id = publisher(n);
        let expiry_ms = now.unix_ms + 60_000 + n as u64;
        let record = record::Record { expiry_ms, ..provider("r", NAME) };
        let signed = message::SignedRecord::default();
        let verified = record::VerifiedRecord { record, publisher: identity.into(), signed };
        follower.follow_own(now, &verified, Some("10.9.9.9:1".parse().unwrap()));
    }
    net.run();
    let told = net.told(b);
    let gone: Vec<_> = told.iter().filter(|(what, _)| *what == '-').collect();
    assert_eq!(gone, [&('-', publisher(0))], "the one that ends first");
    assert_eq!(told.len(), MAX_KNOWN + 2);
}

#[test]
fn a_storer_that_names_others_than_publishers_under_its_key_as_lost_makes_no_work() {
    let (mut net, [storer, ..], a, b) = mesh();
    net.say(a);
    net.follow(b);
    let now = net.now;
    let follower = net.nodes.get_mut(&b).unwrap();
    follower.follow(now, Kind::Provider, "other");
    net.run();
    let follower = net.nodes.get_mut(&b).unwrap();
    let mut pinged = |name: &str| {
        let key = Key::of(&realm("r"), Kind::Provider, name);
        let changed = message::Changed {
            key: Bytes::copy_from_slice(key.as_bytes()),
            lost: vec![Bytes::copy_from_slice(a.as_bytes())],
            ..message::Changed::default()
        };
        follower.on_changed(now, storer, changed).unwrap();
        let mut outputs = std::mem::take(&mut follower.outputs).into_iter();
        outputs.any(|output| match output {
            Output::Request { body, .. } => matches!(body, request::Body::Ping(_)),
            _ => false,
        })
    };
    assert!(!pinged("other"));
    assert!(pinged(NAME));
}

#[test]
fn a_node_that_is_told_that_it_is_gone_itself_knows_better() {
    let (mut net, [storer, ..], a, _) = mesh();
    net.say(a);
    net.follow(a);
    let now = net.now;
    let follower = net.nodes.get_mut(&a).unwrap();
    let key = Key::of(&realm("r"), Kind::Provider, NAME);
    let changed = message::Changed {
        key: Bytes::copy_from_slice(key.as_bytes()),
        lost: vec![Bytes::copy_from_slice(a.as_bytes())],
        ..message::Changed::default()
    };
    follower.on_changed(now, storer, changed).unwrap();
    let mut asked = std::mem::take(&mut follower.outputs).into_iter();
    assert!(!asked.any(|output| matches!(output, Output::Request { to, .. } if to.id == a)));
}

#[test]
fn who_watches_a_guessed_key_of_another_realm_is_told_of_nobody() {
    let (mut net, [storer, ..], a, b) = mesh();
    let stranger = net.peer("s", false);
    net.say(a);
    let key = Key::of(&realm("r"), Kind::Provider, NAME);
    let find = message::FindValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        lease_ms: 90_000,
        ..message::FindValue::default()
    };
    for watcher in [b, stranger] {
        let asked = net.ask(watcher, storer, request::Body::FindValue(find.clone()));
        let Ok(response::Body::Values(values)) = asked else { panic!("{asked:?}") };
        assert_eq!(values.records.len(), usize::from(watcher == b));
        assert_eq!(values.lease_ms, 90_000);
    }
    let now = net.now;
    let told = |storer: &mut Dht| {
        let outputs = std::mem::take(&mut storer.outputs).into_iter();
        let told = outputs.filter_map(|output| match output {
            Output::Request { to, body: request::Body::Changed(_), .. } => Some(to.id),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    // Both have the same version: what one is told must not serve for the other.
    let me = net.nodes[&a].me.clone();
    let record = record::Record { sequence: 99, ..provider("r", NAME) };
    let record = Some(sign(&record, &me.key, &me.chain).unwrap());
    let store = request::Body::Store(message::Store { record, addresses: Vec::new() });
    net.ask(a, storer, store).unwrap();
    let storer = net.nodes.get_mut(&storer).unwrap();
    assert_eq!(told(storer), [b]);
    storer.drop_leases(b);
    storer.handle_disconnected(now, a, true);
    assert_eq!(told(storer), []);
}

#[test]
fn a_lease_of_a_millisecond_is_not_asked_for_without_a_pause() {
    let (mut net, _, _, b) = mesh();
    net.follow(b);
    net.pass(Duration::from_secs(30));
    let start = net.now;
    let follower = net.nodes.get_mut(&b).unwrap();
    let mut asked = 0;
    for step in 0..6_000 {
        let now = start + Duration::from_millis(step * 10);
        follower.handle_timeout(now);
        for output in std::mem::take(&mut follower.outputs) {
            let Output::Request { id, body: request::Body::FindValue(find), .. } = output else {
                continue;
            };
            asked += usize::from(find.lease_ms > 0);
            let values = message::Values { lease_ms: 1, ..message::Values::default() };
            follower.handle_response(now, id, Ok(response::Body::Values(values)));
        }
    }
    assert!((10..=250).contains(&asked), "{asked} in a minute, of three storers");
}
