//! What the peers of one mesh do, before and after a fifth crashes, and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use macula_proto::Code;
use macula_proto::dht::LookupId;
use macula_proto::engine::Output;
use macula_proto::identity::{NodeId, Place, RealmName};
use macula_proto::key::{Key, Kind, Scope};
use macula_proto::name::{ProcedureName, TopicName, TopicPattern};
use macula_proto::payload::Payload;
use macula_proto::pubsub::PublishId;
use macula_proto::rpc::CallId;
use macula_proto::sim::{JOINING, Swarm};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::{AFTER_THE_CRASH, DEADLINE, DEEDS, PROCEDURES, ROOMS, SETTLING, Story, Tally};

pub(super) struct Life {
    seed: u64,
    rng: StdRng,
    servers: usize,
    peers: Vec<(NodeId, RealmName)>,
    next: u64,
    lookups: Vec<(NodeId, LookupId, Sought)>,
    publishes: Vec<Published>,
    calls: Vec<(NodeId, CallId, Payload)>,
    story: (Tally, Tally, Tally),
    most_asked: usize,
}

/// What a lookup is for.
struct Sought {
    target: Key,
    scope: Scope,
    /// The living whose record it must find, of a lookup for records.
    publishers: Option<BTreeSet<NodeId>>,
}

struct Published {
    from: NodeId,
    id: PublishId,
    /// The payload, which no other publish has.
    body: String,
    /// The living whose patterns match, its own publisher included.
    to: BTreeSet<NodeId>,
}

impl Life {
    pub(super) fn new(seed: u64, swarm: &Swarm) -> Self {
        let peers = swarm.living().filter_map(|node| match &node.subject.place {
            Place::Realm(realm) => Some((node.id, realm.clone())),
            Place::Bootstrap | Place::Gateway => None,
        });
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            servers: swarm.living().filter(|node| node.subject.role().is_infrastructure()).count(),
            peers: peers.collect(),
            next: 0,
            lookups: Vec::new(),
            publishes: Vec::new(),
            calls: Vec::new(),
            story: Default::default(),
            most_asked: 0,
        }
    }

    pub(super) fn lead(&mut self, swarm: &mut Swarm) {
        swarm.run_for(JOINING + SETTLING);
        self.subscribe_and_advertise(swarm);
        swarm.run_for(Duration::from_secs(5));
        // So that publishers and callers remember some who will be dead.
        self.act(swarm, DEEDS / 2, Duration::from_secs(3));
        self.judge(swarm, "before the crash");
        let (lookups, publishes, calls) = std::mem::take(&mut self.story);
        for tally in [lookups, publishes, calls] {
            assert_eq!(tally.failures, [""; 0], "while everybody lives, nothing fails");
        }

        let mut everybody: Vec<NodeId> = swarm.living().map(|node| node.id).collect();
        everybody.shuffle(&mut self.rng);
        everybody.truncate(everybody.len() / 5);
        swarm.crash(&everybody);
        self.peers.retain(|(peer, _)| !everybody.contains(peer));
        swarm.run_for(AFTER_THE_CRASH);
        self.act(swarm, DEEDS, DEADLINE);
        self.judge(swarm, "after the crash");
    }

    pub(super) fn story(self, swarm: &Swarm) -> Story {
        let (lookups, publishes, calls) = self.story;
        Story {
            seed: self.seed,
            servers: self.servers,
            lookups,
            publishes,
            calls,
            most_asked: self.most_asked,
            frames: swarm.frames(),
            took: Duration::ZERO,
        }
    }

    /// Half of each realm subscribes, half provides; a few do both.
    fn subscribe_and_advertise(&mut self, swarm: &mut Swarm) {
        for (at, (peer, _)) in self.peers.clone().into_iter().enumerate() {
            if at % 2 == 0 || at % 10 == 1 {
                let room = self.rng.random_range(0..ROOMS);
                let patterns = match at % 20 {
                    0 => vec!["**".to_owned()],
                    2 => vec!["*.temp".to_owned(), format!("room{room}.door")],
                    4 | 6 | 8 => vec![format!("room{room}.**")],
                    10 | 11 => vec![format!("room{room}.*"), format!("room{room}.temp")],
                    _ => vec![format!("room{room}.temp")],
                };
                for pattern in patterns {
                    let pattern: TopicPattern = pattern.parse().unwrap();
                    swarm.command(peer, |engine, _| engine.subscribe(pattern)).unwrap();
                }
            }
            if at % 2 == 1 || at % 10 == 0 {
                let procedure = procedure(self.rng.random_range(0..PROCEDURES));
                swarm.command(peer, |engine, _| engine.advertise(procedure)).unwrap();
            }
        }
    }

    /// Begins this many deeds of each sort within two seconds, and waits this long for the last.
    fn act(&mut self, swarm: &mut Swarm, deeds: usize, patience: Duration) {
        let pause = Duration::from_secs(2) / u32::try_from(deeds).unwrap();
        for n in 0..deeds {
            match n % 4 {
                0 => self.look_for_nodes(swarm),
                1 => self.look_for_nothing(swarm),
                _ => self.look_for_providers(swarm),
            }
            self.publish(swarm);
            self.call(swarm);
            swarm.run_for(pause);
        }
        swarm.run_for(patience + Duration::from_millis(100));
    }

    fn anybody(&mut self) -> (NodeId, RealmName) {
        self.peers.choose(&mut self.rng).unwrap().clone()
    }

    fn look_for_nodes(&mut self, swarm: &mut Swarm) {
        let target = Key::from_bytes(self.rng.random());
        let everybody: Vec<_> = swarm.living().map(|node| node.id).collect();
        let from = *everybody.choose(&mut self.rng).unwrap();
        let realm = swarm.engine(from).me().identity.subject.realm().cloned();
        let scope = realm.map_or(Scope::Infrastructure, Scope::Realm);
        let id = swarm.command(from, |engine, now| engine.find_nodes(now, target, scope.clone()));
        self.lookups.push((from, id, Sought { target, scope, publishers: None }));
    }

    fn look_for_nothing(&mut self, swarm: &mut Swarm) {
        let (from, realm) = self.anybody();
        let name = format!("nobody.{}", self.rng.random::<u32>());
        self.look_for_records(swarm, from, &realm, &name, BTreeSet::new());
    }

    fn look_for_providers(&mut self, swarm: &mut Swarm) {
        let (from, realm) = self.anybody();
        let procedure = procedure(self.rng.random_range(0..PROCEDURES));
        let providers = self.providers(swarm, &realm, &procedure);
        self.look_for_records(swarm, from, &realm, procedure.as_str(), providers);
    }

    fn look_for_records(
        &mut self,
        swarm: &mut Swarm,
        from: NodeId,
        realm: &RealmName,
        name: &str,
        publishers: BTreeSet<NodeId>,
    ) {
        let target = Key::of(realm, Kind::Provider, name);
        let id =
            swarm.command(from, |engine, now| engine.find_values(now, realm, Kind::Provider, name));
        let scope = Scope::Realm(realm.clone());
        self.lookups.push((from, id, Sought { target, scope, publishers: Some(publishers) }));
    }

    /// The living of the realm who advertise it.
    fn providers(
        &self,
        swarm: &Swarm,
        realm: &RealmName,
        procedure: &ProcedureName,
    ) -> BTreeSet<NodeId> {
        let mine = self.peers.iter().filter(|(_, theirs)| theirs == realm).map(|(peer, _)| *peer);
        mine.filter(|peer| swarm.engine(*peer).rpc().advertised().any(|it| it == procedure))
            .collect()
    }

    fn publish(&mut self, swarm: &mut Swarm) {
        let (from, realm) = self.anybody();
        let room = self.rng.random_range(0..ROOMS);
        let what = ["temp", "door", "light"].choose(&mut self.rng).unwrap();
        let topic: TopicName = format!("room{room}.{what}").parse().unwrap();
        let wants = |peer: &NodeId| {
            swarm.engine(*peer).pubsub().subscriptions().any(|(_, it)| it.matches(&topic))
        };
        let mine = self.peers.iter().filter(|(_, theirs)| *theirs == realm).map(|(peer, _)| *peer);
        let to = mine.filter(wants).collect();
        self.next += 1;
        let (id, body) = (PublishId(self.next), format!("message {}", self.next));
        let payload = Payload::new(body.clone(), "text/plain");
        swarm.note(from, format_args!("publishes {body} to {topic} for {realm}"));
        swarm.command(from, |engine, now| engine.publish(now, id, topic, payload));
        self.publishes.push(Published { from, id, body, to });
    }

    fn call(&mut self, swarm: &mut Swarm) {
        let (from, realm) = self.anybody();
        let living = (0..PROCEDURES).map(procedure);
        let living: Vec<_> =
            living.filter(|it| !self.providers(swarm, &realm, it).is_empty()).collect();
        let procedure = living.choose(&mut self.rng).unwrap().clone();
        self.next += 1;
        let id = CallId(self.next);
        let payload = Payload::new(format!("question {}", self.next), "text/plain");
        swarm.note(from, format_args!("calls {procedure} of {realm}: question {}", self.next));
        self.calls.push((from, id, payload.clone()));
        swarm.command(from, |engine, now| engine.call(now, id, procedure, payload, DEADLINE));
    }

    // ---- what came of it ----

    /// Reads what happened, and counts what succeeded.
    fn judge(&mut self, swarm: &mut Swarm, when: &str) {
        swarm.inspect();
        assert_eq!(swarm.broken().first().map(ToString::to_string), None);
        let mut found = BTreeMap::new();
        let mut returned = BTreeMap::new();
        let mut published = BTreeMap::new();
        let mut delivered: BTreeMap<String, Vec<NodeId>> = BTreeMap::new();
        for it in swarm.take_happened() {
            match it.output {
                Output::LookedUp { lookup, found: it_found } => {
                    self.most_asked = self.most_asked.max(it_found.asked);
                    found.insert((it.node, lookup), it_found);
                }
                Output::Returned { id, result } => {
                    returned.insert((it.node, id), result);
                }
                Output::Published { id, result } => {
                    published.insert((it.node, id), result);
                }
                Output::Deliver { message, .. } => {
                    let body = String::from_utf8(message.payload.body.to_vec()).unwrap();
                    delivered.entry(body).or_default().push(it.node);
                }
                Output::Gap { .. } | Output::Announced { .. } => {}
                other => panic!("{other:?} is not for an application"),
            }
        }
        let (lookups, publishes, calls) = &mut self.story;
        for (from, id, sought) in self.lookups.drain(..) {
            let result = sought.holds(swarm, from, found.get(&(from, id)));
            if let Err(why) = &result {
                swarm.note(from, format_args!("looked in vain {when}: {why}"));
            }
            lookups.count(result);
        }
        // A publish succeeds when it said so, and each living subscriber has the message once.
        for Published { from, id, body, to } in self.publishes.drain(..) {
            let mut got = delivered.remove(&body).unwrap_or_default();
            got.sort();
            let said = published.get(&(from, id));
            let wanted: Vec<_> = to.into_iter().collect();
            // Who crashed after it was delivered does not count.
            let result = match said {
                Some(Ok(_)) if got == wanted => Ok(()),
                Some(said) => {
                    let names = |ids: &[NodeId]| {
                        let names = ids
                            .iter()
                            .map(|id| swarm.engine(*id).me().identity.subject.name.to_string());
                        names.collect::<Vec<_>>().join(" ")
                    };
                    Err(format!(
                        "{body}: {said:?}, wanted by {}, got by {}",
                        names(&wanted),
                        names(&got)
                    ))
                }
                None => Err(format!("{body}: no answer")),
            };
            if let Err(why) = &result {
                swarm.note(from, format_args!("published in vain {when}: {why}"));
            }
            publishes.count(result);
        }
        // A call succeeds when its own payload comes back.
        for (from, id, payload) in self.calls.drain(..) {
            let result = match returned.get(&(from, id)) {
                Some(Ok(answer)) if answer.body == payload.body => Ok(()),
                Some(Ok(_)) => Err("another's answer".to_owned()),
                Some(Err(fault)) => Err(fault.to_string()),
                None => Err(Code::Timeout.to_string()),
            };
            if let Err(why) = &result {
                swarm.note(from, format_args!("called in vain {when}: {why}"));
            }
            calls.count(result);
        }
    }
}

impl Sought {
    /// A lookup succeeds when it says that it is complete, the servers that it found are the
    /// twenty living ones that are nearest, and it has the record of every living publisher.
    fn holds(
        &self,
        swarm: &Swarm,
        from: NodeId,
        found: Option<&macula_proto::dht::Found>,
    ) -> Result<(), String> {
        let found = found.ok_or("it did not end")?;
        if !found.complete {
            return Err(format!(
                "{} asked, {} answered, not complete",
                found.asked, found.answered
            ));
        }
        let serves = |place: &Place| match (place, &self.scope) {
            (Place::Bootstrap | Place::Gateway, _) => true,
            (Place::Realm(theirs), Scope::Realm(mine)) => theirs == mine,
            (Place::Realm(_), Scope::Infrastructure) => false,
        };
        let mut nearest: Vec<NodeId> = swarm
            .living()
            .filter(|node| node.id != from && node.grants.server && serves(&node.subject.place))
            .map(|node| node.id)
            .collect();
        nearest.sort_by_key(|node| self.target.distance(*node));
        nearest.truncate(macula_proto::dht::K);
        let closest: Vec<NodeId> = found.closest.iter().map(|contact| contact.id).collect();
        if closest != nearest {
            let missed = nearest.iter().filter(|node| !closest.contains(node)).count();
            return Err(format!("{missed} of the nearest were not found"));
        }
        let publishers = found.records.iter().map(|found| found.record.publisher.id);
        let publishers: BTreeSet<_> = publishers.collect();
        match &self.publishers {
            Some(wanted) if !publishers.is_superset(wanted) => {
                Err(format!("{} records of {}", publishers.len(), wanted.len()))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn procedure(n: usize) -> ProcedureName {
    format!("procedure{n}.run").parse().unwrap()
}
