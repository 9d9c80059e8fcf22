//! Many nodes in one thread, in virtual time, from one seed.
//!
//! Each node is the very [`Engine`] that the shell drives, with a real certificate and the real
//! verifier; between them travel the bytes of the shipping codec, cut wherever chance has it. What
//! the shell adds (dials, links, probes, seeds) is modelled after it. The same seed tells the same
//! story twice; [`Swarm::digest`] says whether it did. Each node draws from chances of its own, so a
//! story does not change for one realm when another comes to the mesh.
//!
//! | file | holds |
//! | --- | --- |
//! | `cast` | the nodes' certificates |
//! | `event`, `network` | what will happen, and what follows of it |
//! | `links`, `asking` | dials and links; requests and messages on their way to one |
//! | `fate` | nodes that crash, leave and come back |
//! | `weather` | loss, cuts, machines that sleep, clocks that are wrong |
//! | `hostile` | members that misbehave |
//! | `laws`, `witness` | what must hold at every moment |
//! | `meter` | what it costs in bytes |
//! | `story` | the hash of everything that happened |
//! | `plan`, `life`, `run` | a scenario, what applications do in it, and its telling |
//! | `report`, `chart` | what came of it, as a table and as a picture |

mod asking;
pub(crate) mod cast;
pub mod chart;
mod event;
mod fate;
mod hostile;
mod laws;
mod life;
mod links;
mod meter;
mod network;
pub mod plan;
pub mod report;
pub mod run;
mod story;
mod weather;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use macula_identity::{Identity, NodeId, Place, RealmName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ring::digest;

use crate::dht::{self, K, Me, Trust};
use crate::engine::{Engine, Output, RequestId};
use crate::time::Now;
use crate::wire::Contact;

use cast::Cast;
use event::{Asked, Event, Path};
pub use hostile::Hostility;
pub use laws::{Broken, Law};
pub use meter::{Cause, Meter, Traffic};
use story::Story;
pub use weather::Weather;
use witness::Witness;

/// The wall clock at which every story begins: a noon of 2026.
const NOON_MS: u64 = 1_781_000_000_000;
/// Within this time from the beginning everybody starts, in an order of chance, the first
/// bootstrap excepted.
pub const JOINING: Duration = Duration::from_secs(5);
/// How many bootstraps a peer keeps a connection to; infrastructure keeps one to each.
const SEEDS: usize = 3;
/// The most contacts of one scope: what a table of the core holds, sixteen buckets.
const K_TABLE: usize = 16 * K;

/// What a mesh consists of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything else follows from it.
    pub seed: u64,
    /// Bootstraps; at least one.
    pub bootstraps: usize,
    /// Gateways.
    pub gateways: usize,
    /// The tenants.
    pub realms: Vec<Tenant>,
    /// Whether to print what happens as it happens.
    pub trace: bool,
}

/// One realm's peers.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Its name.
    pub realm: RealmName,
    /// Peers that hold the server grant.
    pub servers: usize,
    /// Peers that only ask.
    pub clients: usize,
}

/// What an engine told its application, or whoever measures.
#[derive(Debug)]
pub struct Happened {
    /// Since the beginning.
    pub at: Duration,
    /// At which node.
    pub node: NodeId,
    /// One of `Deliver`, `Gap`, `Published`, `Returned`, `Announced` and `LookedUp`.
    pub output: Output,
}

/// A mesh. Give nodes commands with [`Swarm::command`], let time pass with [`Swarm::run_for`], and
/// read what came of it with [`Swarm::take_happened`].
#[derive(Debug)]
pub struct Swarm {
    trace: bool,
    seed: u64,
    trust: Trust,
    start: Now,
    now: Now,
    /// By when they happen, then in the order in which they were foreseen.
    events: BTreeMap<(Instant, u64), Event>,
    next_event: u64,
    next_link: u64,
    nodes: BTreeMap<NodeId, Node>,
    by_address: BTreeMap<SocketAddr, NodeId>,
    bootstraps: Vec<NodeId>,
    accomplices: Vec<Contact>,
    weather: Weather,
    /// When the last cut ended.
    open_since: Instant,
    happened: Vec<Happened>,
    witness: Witness,
    ledger: laws::Ledger,
    broken: Vec<Broken>,
    meter: Meter,
    told: u64,
    story: Story,
}

#[derive(Debug)]
struct Node {
    identity: Arc<Identity>,
    me: Arc<Me>,
    engine: Engine,
    address: SocketAddr,
    /// What its own chances follow from: the seed of the story, and its name.
    seed: u64,
    rng: StdRng,
    /// Where bytes are cut. Apart, since how many there are follows from certificates, which are new in each run.
    cuts: StdRng,
    /// On a square map whose side is one: latency grows with distance.
    place: (f64, f64),
    is_alive: bool,
    /// Since when it lives, for the last time.
    started: Instant,
    paused_until: Option<Instant>,
    /// How far its wall clock is off.
    clock_ms: i64,
    /// No packet passes from one island to another.
    island: u8,
    is_mute: bool,
    hostile: Option<hostile::Hostile>,
    seeds: links::Seeds,
    sent_bytes: u64,
    /// The earliest wake-up that is foreseen.
    wake: Option<Instant>,
    paths: BTreeMap<NodeId, Path>,
    /// Requests that were sent and wait for an answer.
    asked: BTreeMap<RequestId, Asked>,
    /// Requests that were cancelled while they waited for a link.
    cancelled: BTreeSet<RequestId>,
}

impl Node {
    /// The links that are up: to whom, and their numbers.
    fn links(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.paths.iter().filter_map(|(other, path)| match path {
            Path::Up(link) => Some((*other, link.number)),
            Path::Dialling { .. } | Path::Failed { .. } => None,
        })
    }

    fn link_to(&self, other: NodeId) -> Option<u64> {
        match self.paths.get(&other) {
            Some(Path::Up(link)) => Some(link.number),
            Some(Path::Dialling { .. } | Path::Failed { .. }) | None => None,
        }
    }
}

impl Swarm {
    /// A mesh whose nodes are about to start.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let start = Now { instant: Instant::now(), unix_ms: NOON_MS };
        let cast = Cast::new(options.seed, start);
        let mut swarm = Self {
            trace: options.trace,
            seed: options.seed,
            trust: cast.trust(),
            start,
            now: start,
            events: BTreeMap::new(),
            next_event: 0,
            next_link: 0,
            nodes: BTreeMap::new(),
            by_address: BTreeMap::new(),
            bootstraps: Vec::new(),
            accomplices: Vec::new(),
            weather: Weather::default(),
            open_since: start.instant,
            happened: Vec::new(),
            witness: Witness::default(),
            ledger: laws::Ledger::default(),
            broken: Vec::new(),
            meter: Meter::default(),
            told: 0,
            story: Story::new(),
        };
        for n in 0..options.bootstraps {
            let id = swarm.add(&cast, Place::Bootstrap, &format!("b{n}"), true);
            swarm.bootstraps.push(id);
        }
        for n in 0..options.gateways {
            swarm.add(&cast, Place::Gateway, &format!("g{n}"), true);
        }
        for Tenant { realm, servers, clients } in &options.realms {
            for n in 0..servers + clients {
                swarm.add(&cast, Place::Realm(realm.clone()), &format!("p{n}"), n < *servers);
            }
        }
        swarm
    }

    fn add(&mut self, cast: &Cast, place: Place, name: &str, server: bool) -> NodeId {
        let me = cast.node(self.start, place, name, server);
        let id = me.identity.id;
        let count = u32::try_from(self.nodes.len()).expect("fewer nodes than addresses");
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + count);
        let address = SocketAddr::from((ip, 9443));
        self.witness.meet(&me.identity, address);
        let seed = rng_of(self.seed, &me.identity.subject.to_string()).random();
        let mut rng = rng_of(seed, "network");
        let place = (rng.random(), rng.random());
        let joins = if count == 0 { Duration::ZERO } else { JOINING.mul_f64(rng.random()) };
        let node = Node {
            identity: Arc::new(me.identity.clone()),
            engine: self.engine_of(&me, seed),
            me,
            address,
            seed,
            rng,
            cuts: rng_of(seed, "cuts"),
            place,
            is_alive: true,
            started: self.now.instant + joins,
            paused_until: None,
            clock_ms: 0,
            island: 0,
            is_mute: false,
            hostile: None,
            seeds: links::Seeds::default(),
            sent_bytes: 0,
            wake: None,
            paths: BTreeMap::new(),
            asked: BTreeMap::new(),
            cancelled: BTreeSet::new(),
        };
        self.by_address.insert(address, id);
        self.nodes.insert(id, node);
        self.foresee(joins, Event::Start(id));
        id
    }

    fn engine_of(&self, me: &Arc<Me>, seed: u64) -> Engine {
        let rng = rng_of(seed, &format!("engine {}", me.incarnation));
        Engine::new(dht::Config::default(), me.clone(), self.trust.clone(), rng)
    }

    /// How much time has passed since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now.instant.duration_since(self.start.instant)
    }

    /// Who is alive, ordered by id.
    pub fn living(&self) -> impl Iterator<Item = &Identity> {
        let alive = self.nodes.values().filter(|node| node.is_alive);
        alive.map(|node| &*node.identity)
    }

    /// One node, as its application sees it.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn engine(&self, node: NodeId) -> &Engine {
        &self.nodes[&node].engine
    }

    /// Has a node do something, and carries out what follows of it.
    ///
    /// # Panics
    /// When there is no such node, or it is not alive.
    pub fn command<R>(&mut self, node: NodeId, deed: impl FnOnce(&mut Engine, Now) -> R) -> R {
        let now = self.now_at(node);
        let living = self.nodes.get_mut(&node).filter(|node| node.is_alive);
        let result = deed(&mut living.expect("commands go to the living").engine, now);
        self.settle(node);
        result
    }

    /// Lets time pass, until then or until a law is broken.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= end.instant
            && self.broken.is_empty()
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.start + at.duration_since(self.start.instant);
            self.told += 1;
            self.happen(event);
        }
        if self.broken.is_empty() {
            self.now = end;
        }
    }

    /// What nodes told their applications since the last time.
    pub fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    /// How many frames have arrived.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.story.frames
    }

    /// How much has happened.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.told
    }

    /// The same for the same seed and commands.
    #[must_use]
    pub fn digest(&self) -> String {
        self.story.digest()
    }

    /// Prints a line of the story, when it is traced.
    pub fn note(&self, node: NodeId, what: impl std::fmt::Display) {
        if self.trace {
            let subject = &self.nodes[&node].identity.subject;
            println!("{:>10.6} {} {what}", self.elapsed().as_secs_f64(), subject.name);
        }
    }

    fn foresee(&mut self, after: Duration, event: Event) {
        self.foresee_at(self.now.after(after), event);
    }

    fn foresee_at(&mut self, at: Instant, event: Event) {
        self.events.insert((at, self.next_event), event);
        self.next_event += 1;
    }
}

/// Chances that follow from a number and a name, and from nothing else.
fn rng_of(seed: u64, name: &str) -> StdRng {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&seed.to_be_bytes());
    hash.update(name.as_bytes());
    let seed: [u8; 32] = hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
    StdRng::from_seed(seed)
}
