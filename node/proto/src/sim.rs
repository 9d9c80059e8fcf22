//! Many nodes in one thread, in virtual time, from one seed.
//!
//! Each node is the very [`Engine`] that the shell drives, with a real certificate and the real
//! verifier; between them travel the bytes of the shipping codec, cut wherever chance has it. What
//! the shell adds (dials, links, probes) `network` models after it. The same seed tells the same
//! story twice; [`Swarm::digest`] says whether it did.
//!
//! | file | holds |
//! | --- | --- |
//! | `cast` | the nodes' certificates |
//! | `network` | what will happen, and bytes that arrive |
//! | `links`, `asking` | dials and links; requests and messages on their way to one |
//! | `witness` | the law that no peer sees anything of another realm |
//! | `story` | the hash of everything that happened |

mod asking;
mod cast;
mod links;
mod network;
mod story;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use macula_identity::{Identity, NodeId, Place, RealmName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::dht;
use crate::engine::{Engine, Output, RequestId};
use crate::time::Now;

use cast::Cast;
use network::{Event, Path};
use story::Story;
use witness::Witness;

/// The wall clock at which every story begins: a noon of 2026.
const NOON_MS: u64 = 1_781_000_000_000;
/// Within this time from the beginning everybody starts, in an order of chance, the first
/// bootstrap excepted.
pub const JOINING: Duration = Duration::from_secs(5);
/// How many bootstraps a peer dials when it starts; infrastructure dials them all.
const SEEDS: usize = 3;

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
    rng: StdRng,
    start: Now,
    now: Now,
    /// By when they happen, then in the order in which they were foreseen.
    events: BTreeMap<(Instant, u64), Event>,
    next_event: u64,
    next_link: u64,
    nodes: BTreeMap<NodeId, Node>,
    by_address: BTreeMap<SocketAddr, NodeId>,
    happened: Vec<Happened>,
    witness: Witness,
    story: Story,
}

#[derive(Debug)]
struct Node {
    identity: Arc<Identity>,
    engine: Engine,
    address: SocketAddr,
    /// On a square map whose side is one: latency grows with distance.
    place: (f64, f64),
    is_alive: bool,
    /// The earliest wake-up that is foreseen.
    wake: Option<Instant>,
    paths: BTreeMap<NodeId, Path>,
    /// Requests that were sent and wait for an answer, and whom they were sent to.
    asked: BTreeMap<RequestId, NodeId>,
    /// Requests that were cancelled while they waited for a link.
    cancelled: BTreeSet<RequestId>,
}

impl Swarm {
    /// A mesh whose nodes are about to start.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let start = Now { instant: Instant::now(), unix_ms: NOON_MS };
        let mut swarm = Self {
            trace: options.trace,
            rng: StdRng::seed_from_u64(options.seed),
            start,
            now: start,
            events: BTreeMap::new(),
            next_event: 0,
            next_link: 0,
            nodes: BTreeMap::new(),
            by_address: BTreeMap::new(),
            happened: Vec::new(),
            witness: Witness::default(),
            story: Story::new(),
        };
        let cast = Cast::new(options.seed, start);
        for n in 0..options.bootstraps {
            swarm.add(&cast, Place::Bootstrap, &format!("b{n}"), true);
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

    fn add(&mut self, cast: &Cast, place: Place, name: &str, server: bool) {
        let me = cast.node(self.start, place, name, server);
        let id = me.identity.id;
        self.witness.meet(&me.identity);
        let count = u32::try_from(self.nodes.len()).expect("fewer nodes than addresses");
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + count);
        let address = SocketAddr::from((ip, 9443));
        let rng = StdRng::from_seed(self.rng.random());
        let node = Node {
            identity: Arc::new(me.identity.clone()),
            engine: Engine::new(dht::Config::default(), me, cast.trust(), rng),
            address,
            place: (self.rng.random(), self.rng.random()),
            is_alive: true,
            wake: None,
            paths: BTreeMap::new(),
            asked: BTreeMap::new(),
            cancelled: BTreeSet::new(),
        };
        self.by_address.insert(address, id);
        self.nodes.insert(id, node);
        let joins = if count == 0 { Duration::ZERO } else { JOINING.mul_f64(self.rng.random()) };
        self.foresee(joins, Event::Start(id));
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
        let now = self.now;
        let living = self.nodes.get_mut(&node).filter(|node| node.is_alive);
        let result = deed(&mut living.expect("commands go to the living").engine, now);
        self.settle(node);
        result
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= end.instant
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.start + at.duration_since(self.start.instant);
            self.happen(event);
        }
        self.now = end;
    }

    /// The nodes die at this instant, and nobody is told.
    pub fn crash(&mut self, nodes: &[NodeId]) {
        for id in nodes {
            self.note(*id, "crashes");
            let node = self.nodes.get_mut(id).expect("only nodes of this mesh crash");
            node.is_alive = false;
            node.wake = None;
            let paths = std::mem::take(&mut node.paths);
            for other in paths.into_keys() {
                self.foresee(network::IDLE_TIMEOUT, Event::FellSilent { at: other, other: *id });
            }
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
        self.events.insert((self.now.after(after), self.next_event), event);
        self.next_event += 1;
    }
}
