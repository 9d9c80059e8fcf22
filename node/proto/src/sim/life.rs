//! What applications do: they subscribe, advertise, publish, call and look up, and somebody checks what came
//! of it.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use macula_identity::{NodeId, Place, RealmName};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};

use super::Swarm;
use crate::dht::{Found, K, LookupId};
use crate::error::Fault;
use crate::key::{Key, Kind, Scope};
use crate::name::{ProcedureName, TopicName, TopicPattern};
use crate::payload::Payload;
use crate::pubsub::PublishId;
use crate::rpc::CallId;

/// What a node announced longer ago than this, others must find.
const KNOWN_AFTER: Duration = Duration::from_secs(10);
/// A lookup or a publish that has not ended by then never will: 60 servers, three at a time, each given up for
/// another after half a second and for good after two.
const PATIENCE: Duration = Duration::from_secs(15);
/// The deadline of a call, and when it must have ended.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_PATIENCE: Duration = Duration::from_millis(5_500);
/// How many peers publish and call; the others only listen.
const ACTORS: usize = 200;
/// So many peers share a room, or a procedure.
const A_ROOM: usize = 10;
/// How many changes are watched.
pub(super) const WATCHES: usize = 20;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    /// A lookup for servers.
    Nodes,
    /// A lookup for records.
    Values,
    /// A message.
    Publish,
    /// A call.
    Call,
}

/// What came of one deed.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) sort: Sort,
    pub(super) began: Duration,
    /// Why it failed, if it did.
    pub(super) failure: Option<String>,
    /// Of a lookup.
    pub(super) cost: Option<Cost>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) asked: usize,
    pub(super) rounds: usize,
    pub(super) took: Duration,
    /// Of the twenty nearest, which share was found.
    pub(super) agreed: Option<f64>,
}

/// What one peer's application does whenever it runs.
#[derive(Clone, Debug)]
struct Role {
    realm: RealmName,
    patterns: Vec<TopicPattern>,
    procedures: Vec<ProcedureName>,
    /// Since when.
    since: Duration,
}

#[derive(Debug)]
struct Deed {
    from: NodeId,
    began: Duration,
    incarnation: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Nodes { lookup: LookupId, nearest: Vec<NodeId> },
    Values { lookup: LookupId, wanted: Wanted },
    Publish { number: u64, wanted: Wanted },
    Call { number: u64, wanted: Wanted },
}

/// Nodes of which something is expected, and their incarnations.
type Wanted = Vec<(NodeId, u64)>;

/// One change that somebody waits to see.
#[derive(Debug)]
pub(super) struct Watch {
    publisher: NodeId,
    topic: TopicName,
    newcomer: NodeId,
    pub(super) subscribed: Option<Duration>,
    pub(super) heard: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Life {
    rng: StdRng,
    roles: BTreeMap<NodeId, Role>,
    actors: Vec<NodeId>,
    deeds: BTreeMap<(Duration, u64), Deed>,
    next: u64,
    found: BTreeMap<(NodeId, LookupId), (Duration, Found)>,
    published: BTreeMap<u64, Result<usize, Fault>>,
    returned: BTreeMap<u64, Result<Payload, Fault>>,
    delivered: BTreeMap<u64, BTreeSet<NodeId>>,
    awaited: BTreeSet<(NodeId, LookupId)>,
    /// Until when what a node did is excused: it slept, or was cut off.
    disturbed: BTreeMap<NodeId, Duration>,
    pub(super) watches: Vec<Watch>,
    pub(super) outcomes: Vec<Outcome>,
}

impl Life {
    pub(super) fn new(seed: u64, swarm: &Swarm) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let peers: Vec<_> = swarm
            .living()
            .filter_map(|node| Some((node.id, node.subject.realm()?.clone())))
            .filter(|(id, _)| swarm.hostility(*id).is_none())
            .collect();
        let rooms = (peers.len() / A_ROOM).max(1);
        let mut roles = BTreeMap::new();
        for (at, (id, realm)) in peers.iter().enumerate() {
            let (room, service) = (rng.random_range(0..rooms), rng.random_range(0..rooms));
            let pattern = match at % 400 {
                0 => "*.alarm".to_owned(),
                n if n % 2 == 0 => format!("room{room}.**"),
                _ => format!("room{room}.temp"),
            };
            let role = Role {
                realm: realm.clone(),
                patterns: vec![pattern.parse().expect("a pattern of this form is one")],
                procedures: vec![procedure(service)],
                since: Duration::MAX,
            };
            roles.insert(*id, role);
        }
        let actors: Vec<_> = roles.keys().copied().choose_multiple(&mut rng, ACTORS);
        Self {
            rng,
            roles,
            actors,
            deeds: BTreeMap::new(),
            next: 0,
            found: BTreeMap::new(),
            published: BTreeMap::new(),
            returned: BTreeMap::new(),
            delivered: BTreeMap::new(),
            awaited: BTreeSet::new(),
            disturbed: BTreeMap::new(),
            watches: Vec::new(),
            outcomes: Vec::new(),
        }
    }

    /// The honest peers.
    pub(super) fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.roles.keys().copied()
    }

    /// Every procedure that somebody has.
    pub(super) fn procedures(&self) -> Vec<ProcedureName> {
        let all: BTreeSet<_> = self.roles.values().flat_map(|role| &role.procedures).collect();
        all.into_iter().cloned().collect()
    }

    /// A peer's application starts: it subscribes and advertises.
    pub(super) fn begin(&mut self, swarm: &mut Swarm, id: NodeId) {
        let now = swarm.elapsed();
        let Some(role) = self.roles.get_mut(&id) else { return };
        role.since = now;
        for pattern in role.patterns.clone() {
            // At most a few: far from too many.
            let _ = swarm.command(id, |engine, _| engine.subscribe(pattern));
        }
        for procedure in role.procedures.clone() {
            let _ = swarm.command(id, |engine, _| engine.advertise(procedure));
        }
    }

    /// What befell nodes for good has ended.
    pub(super) fn recover(&mut self, now: Duration) {
        for until in self.disturbed.values_mut() {
            *until = now.min(*until);
        }
    }

    /// What a node does until then is excused.
    pub(super) fn excuse(&mut self, id: NodeId, until: Duration) {
        let known = self.disturbed.entry(id).or_default();
        *known = until.max(*known);
    }

    // ---- deeds ----

    /// One of each sort.
    pub(super) fn act(&mut self, swarm: &mut Swarm) {
        self.look_for_nodes(swarm);
        self.look_for_values(swarm);
        self.publish(swarm);
        self.call(swarm);
    }

    fn anybody(&mut self, swarm: &Swarm) -> Option<(NodeId, RealmName)> {
        for _ in 0..10 {
            let id = *self.actors.choose(&mut self.rng)?;
            if swarm.is_awake(id) && swarm.age(id) > Some(KNOWN_AFTER) {
                return Some((id, self.roles[&id].realm.clone()));
            }
        }
        None
    }

    fn deed(&mut self, swarm: &Swarm, from: NodeId, patience: Duration, what: What) {
        let began = swarm.elapsed();
        let incarnation = swarm.engine(from).me().incarnation;
        self.next += 1;
        let deed = Deed { from, began, incarnation, what };
        self.deeds.insert((began + patience, self.next), deed);
    }

    fn look_for_nodes(&mut self, swarm: &mut Swarm) {
        let Some((from, realm)) = self.anybody(swarm) else { return };
        let target = Key::from_bytes(self.rng.random());
        let scope = Scope::Realm(realm);
        let nearest = nearest(swarm, from, target, &scope);
        let lookup = swarm.command(from, |engine, now| engine.find_nodes(now, target, scope));
        self.awaited.insert((from, lookup));
        self.deed(swarm, from, PATIENCE, What::Nodes { lookup, nearest });
    }

    fn look_for_values(&mut self, swarm: &mut Swarm) {
        let Some((from, realm)) = self.anybody(swarm) else { return };
        let Some(name) = self.some_procedure(swarm, from, &realm) else { return };
        let wanted = self.wanted(swarm, from, &realm, |role| role.procedures.contains(&name));
        let lookup = swarm.command(from, |engine, now| {
            engine.find_values(now, &realm, Kind::Provider, name.as_str())
        });
        self.awaited.insert((from, lookup));
        self.deed(swarm, from, PATIENCE, What::Values { lookup, wanted });
    }

    fn publish(&mut self, swarm: &mut Swarm) {
        let Some((from, realm)) = self.anybody(swarm) else { return };
        let room = self.rng.random_range(0..(self.roles.len() / A_ROOM).max(1));
        let what = ["temp", "door"].choose(&mut self.rng).expect("there are two");
        let topic: TopicName =
            format!("room{room}.{what}").parse().expect("a topic of this form is one");
        let wanted = self.wanted(swarm, from, &realm, |role| {
            role.patterns.iter().any(|pattern| pattern.matches(&topic))
        });
        let number = self.next + 1;
        let payload = Payload::new(format!("m{number}"), "text/plain");
        self.delivered.insert(number, BTreeSet::new());
        self.deed(swarm, from, PATIENCE, What::Publish { number, wanted });
        swarm.command(from, |engine, now| engine.publish(now, PublishId(number), topic, payload));
    }

    fn call(&mut self, swarm: &mut Swarm) {
        let Some((from, realm)) = self.anybody(swarm) else { return };
        let Some(name) = self.some_procedure(swarm, from, &realm) else { return };
        let wanted = self.wanted(swarm, from, &realm, |role| role.procedures.contains(&name));
        let number = self.next + 1;
        let payload = Payload::new(format!("m{number}"), "text/plain");
        self.deed(swarm, from, CALL_PATIENCE, What::Call { number, wanted });
        swarm.command(from, |engine, now| {
            engine.call(now, CallId(number), name, payload, CALL_TIMEOUT);
        });
    }

    /// One that somebody whom this node can reach has provided for long enough.
    fn some_procedure(
        &mut self,
        swarm: &Swarm,
        from: NodeId,
        realm: &RealmName,
    ) -> Option<ProcedureName> {
        let now = swarm.elapsed();
        for _ in 0..20 {
            let (id, role) = self.roles.iter().choose(&mut self.rng)?;
            if role.realm == *realm && is_known(swarm, now, from, *id, role) {
                return role.procedures.first().cloned();
            }
        }
        None
    }

    fn wanted(
        &self,
        swarm: &Swarm,
        from: NodeId,
        realm: &RealmName,
        does: impl Fn(&Role) -> bool,
    ) -> Wanted {
        let now = swarm.elapsed();
        let these = self.roles.iter().filter(|(id, role)| {
            role.realm == *realm && does(role) && is_known(swarm, now, from, **id, role)
        });
        these.map(|(id, _)| (*id, swarm.engine(*id).me().incarnation)).collect()
    }

    // ---- watches ----

    /// Some publishers, each with one who listens already.
    pub(super) fn prepare_watches(&mut self, swarm: &mut Swarm) {
        for n in 0..WATCHES {
            let Some((publisher, realm)) = self.anybody(swarm) else { return };
            let mine = self.roles.iter().filter(|(id, role)| {
                role.realm == realm && **id != publisher && swarm.is_awake(**id)
            });
            let others = mine.map(|(id, _)| *id).choose_multiple(&mut self.rng, 2);
            let [old, newcomer] = others[..] else { return };
            let topic: TopicName = format!("watch{n}.news").parse().expect("a topic");
            let pattern: TopicPattern = format!("watch{n}.news").parse().expect("a pattern");
            let _ = swarm.command(old, |engine, _| engine.subscribe(pattern));
            self.watches.push(Watch { publisher, topic, newcomer, subscribed: None, heard: None });
        }
    }

    /// Every publisher says something; with `n`, the newcomer of that watch subscribes.
    pub(super) fn watch(&mut self, swarm: &mut Swarm, n: Option<usize>) {
        let now = swarm.elapsed();
        if let Some(watch) = n.and_then(|n| self.watches.get_mut(n)) {
            watch.subscribed = Some(now);
            let pattern: TopicPattern = watch.topic.as_str().parse().expect("a topic is a pattern");
            let _ = swarm.command(watch.newcomer, |engine, _| engine.subscribe(pattern));
        }
        for watch in &self.watches {
            self.next += 1;
            let (id, topic) = (PublishId(self.next), watch.topic.clone());
            let payload = Payload::new("w", "text/plain");
            swarm.command(watch.publisher, |engine, now| engine.publish(now, id, topic, payload));
        }
    }
}

/// Whether this node must be able to find what that one announces.
fn is_known(swarm: &Swarm, now: Duration, from: NodeId, id: NodeId, role: &Role) -> bool {
    role.since.saturating_add(KNOWN_AFTER) < now && swarm.is_awake(id) && swarm.are_joined(from, id)
}

/// The honest ones among the servers that are nearest to a place, of those that have been there for a while.
fn nearest(swarm: &Swarm, from: NodeId, target: Key, scope: &Scope) -> Vec<NodeId> {
    let serves = |place: &Place| match (place, scope) {
        (Place::Bootstrap | Place::Gateway, _) => true,
        (Place::Realm(theirs), Scope::Realm(mine)) => theirs == mine,
        (Place::Realm(_), Scope::Infrastructure) => false,
    };
    let mut nearest: Vec<NodeId> = swarm
        .living()
        .filter(|node| node.id != from && node.grants.server && serves(&node.subject.place))
        .map(|node| node.id)
        .filter(|id| swarm.age(*id) > Some(KNOWN_AFTER) && swarm.are_joined(from, *id))
        .collect();
    if nearest.len() > K {
        nearest.select_nth_unstable_by_key(K - 1, |node| target.distance(*node));
        nearest.truncate(K);
    }
    nearest.sort_by_key(|node| target.distance(*node));
    nearest.retain(|id| swarm.hostility(*id).is_none());
    nearest
}

pub(super) fn procedure(n: usize) -> ProcedureName {
    format!("service{n}.run").parse().expect("a procedure of this form is one")
}
