//! The loop of the data plane: inputs to the engine, outputs to the network. It never waits for
//! anything but its next input.

mod commands;
mod keep;
mod links;
mod outputs;
mod requests;
mod upkeep;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use macula_proto::dht::{self, Me, Trust};
use macula_proto::engine::{Engine, RequestId};
use macula_proto::identity::{NodeId, Role};
use macula_proto::key::Kind as RecordKind;
use macula_proto::pubsub::{PublishId, SubscriptionId};
use macula_proto::rpc::CallId;
use macula_proto::{Code, Fault};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::keep::Keep;
use super::nodes::Nodes;
use super::seeds::Seeds;
use super::serve::Event;
use super::{Pong, Reply, Shared};
use crate::clock;
use crate::identity::Credentials;
use crate::peer::{Delivery, QueueSender};
use crate::supervise::{Kind, Spawner, failpoint};
use crate::transport::{BindError, Endpoint, Link};

/// Events of links that wait for the actor; then the links' tasks wait, and with them the senders.
const EVENTS: usize = 1024;
/// Inputs that are taken before outputs are done: what makes batches.
const AT_ONCE: usize = 256;
/// How often seeds, idle links and gauges are looked after.
const UPKEEP: Duration = Duration::from_millis(250);
/// A link that nothing used for this long is closed, unless it leads to a seed.
const UNUSED: Duration = Duration::from_secs(60);
/// How long `subscribe` and `advertise` wait until they can be found; then they go on in the
/// background.
const ANNOUNCE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a node that leaves waits for its records to be withdrawn.
const LEAVE_PATIENCE: Duration = Duration::from_millis(500);
/// How long a restarted actor waits for the socket of the one before.
const REBIND_PATIENCE: Duration = Duration::from_secs(3);

/// Runs one incarnation of the node, until it is stopped or breaks.
pub(super) async fn run(shared: Arc<Shared>, tasks: Spawner) -> Result<(), BindError> {
    // Held for the actor's life: a restarted actor takes them over.
    let mut commands = shared.inbox.lock().await;
    let mut endings = shared.endings_inbox.lock().await;
    let incarnation = shared.next_incarnation();
    let credentials = shared.config.source.borrow().clone();
    let endpoint = bind(&shared, incarnation).await?;
    let address = *shared.address.get_or_init(|| endpoint.local_address());
    tracing::info!(%address, node = %credentials.identity.id, "listening");
    let (events_in, mut events) = mpsc::channel(EVENTS);
    let (dials_in, mut dials) = mpsc::channel(EVENTS);
    let life = CancellationToken::new();
    let _end_tasks = life.clone().drop_guard();
    let accepting = endpoint.clone();
    let me = me(&credentials, incarnation);
    let trust = trust(&credentials);
    let rng = StdRng::from_rng(&mut rand::rng());
    let keep = shared.config.disk.clone().map(Keep::new);
    let dht_config = dht::Config { keep: keep.is_some(), ..dht::Config::default() };
    let mut actor = Actor {
        keep,
        engine: Engine::new(dht_config, me, trust, rng),
        credentials,
        endpoint,
        tasks,
        life,
        events: events_in,
        dials: dials_in,
        nodes: Nodes::default(),
        seeds: Seeds::default(),
        requests: HashMap::new(),
        pings: HashMap::new(),
        tokens: HashMap::new(),
        queues: HashMap::new(),
        calls: HashMap::new(),
        publishes: HashMap::new(),
        announcing: Vec::new(),
        next_publish: 1,
        next_ping: u64::MAX,
        shared: shared.clone(),
    };
    actor.replay();
    let mut found = shared.config.seeds.found();
    let mut source = shared.config.source.clone();
    let mut upkeep = tokio::time::interval(UPKEEP);
    upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(AT_ONCE);
    let mut arrived = Vec::with_capacity(AT_ONCE);
    actor.seeds.set(Instant::now(), &found.borrow_and_update().seeds.clone());
    actor.do_outputs();
    loop {
        failpoint(Kind::Mesh);
        let due = actor.engine.poll_timeout().map(|deadline| deadline.at);
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            _ = upkeep.tick() => actor.look_after(),
            Some(ending) = endings.recv() => actor.handle_command(clock::now(), ending),
            Some(dialled) = dials.recv() => actor.handle_dialled(dialled),
            Some(incoming) = accepting.accept() => actor.greet(incoming),
            Ok(()) = source.changed() => {
                let credentials = source.borrow_and_update().clone();
                actor.handle_credentials(credentials);
            }
            Ok(()) = found.changed() => {
                let seeds = found.borrow_and_update().seeds.clone();
                actor.seeds.set(Instant::now(), &seeds);
                actor.dial_seeds();
            }
            () = until(due) => actor.engine.handle_timeout(clock::now()),
            count = events.recv_many(&mut arrived, AT_ONCE) => {
                debug_assert!(count > 0, "the actor holds a sender");
                arrived.drain(..).for_each(|event| actor.handle_event(event));
            }
            count = commands.recv_many(&mut batch, AT_ONCE) => {
                debug_assert!(count > 0, "the shared state holds a sender");
                let now = clock::now();
                batch.drain(..).for_each(|command| actor.handle_command(now, command));
            }
            Some(found) = Keep::found(&mut actor.keep) => actor.handle_kept(found),
        }
        // However much arrives from the network, the application has its turn.
        let now = clock::now();
        for command in std::iter::from_fn(|| commands.try_recv().ok()).take(AT_ONCE) {
            actor.handle_command(now, command);
        }
        actor.do_outputs();
    }
    // Stopping: take back what was announced, wait a moment until the storers know, then say
    // goodbye to everybody; who waits for an answer hears that the node is gone.
    actor.engine.leave(clock::now());
    actor.do_outputs();
    let patience = tokio::time::sleep(LEAVE_PATIENCE);
    tokio::pin!(patience);
    while !actor.requests.is_empty() {
        tokio::select! {
            () = &mut patience => break,
            Some(event) = events.recv() => actor.handle_event(event),
        }
        actor.do_outputs();
    }
    actor.keep_the_last().await;
    actor.endpoint.close(Code::Draining).await;
    Ok(())
}

/// Binds the socket. One that replaces another waits until that has let go of the address: quinn
/// keeps a socket until its connections have drained (RFC 9000 §10.2).
async fn bind(shared: &Shared, incarnation: u64) -> Result<Endpoint, BindError> {
    let until = Instant::now() + REBIND_PATIENCE;
    let before = shared.address.get().copied();
    loop {
        let listen = before.unwrap_or(shared.config.listen);
        let source = shared.config.source.clone();
        match Endpoint::bind(listen, source, incarnation, shared.metrics.clone()) {
            Err(BindError::Bind { source, .. })
                if source.kind() == std::io::ErrorKind::AddrInUse
                    && before.is_some()
                    && Instant::now() < until =>
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            bound => return bound,
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// A dial or a greeting that came to an end.
pub(super) struct Dialled {
    why: Why,
    result: Result<Link, Fault>,
}

enum Why {
    Accepted,
    Seed(SocketAddr),
    Node(NodeId),
    Ping(Reply<Pong>),
}

struct Actor {
    shared: Arc<Shared>,
    keep: Option<Keep>,
    engine: Engine,
    credentials: Arc<Credentials>,
    endpoint: Endpoint,
    tasks: Spawner,
    life: CancellationToken,
    events: mpsc::Sender<Event>,
    dials: mpsc::Sender<Dialled>,
    nodes: Nodes,
    seeds: Seeds,
    /// Requests under way, and how to stop each.
    requests: HashMap<RequestId, CancellationToken>,
    /// Pings of the application, by an id that the engine never gives.
    pings: HashMap<RequestId, (Instant, Link, Reply<Pong>)>,
    tokens: HashMap<u64, SubscriptionId>,
    queues: HashMap<SubscriptionId, Arc<QueueSender>>,
    calls: HashMap<CallId, Reply<macula_proto::payload::Payload>>,
    publishes: HashMap<PublishId, Reply<usize>>,
    /// Who waits until something can be found.
    announcing: Vec<Announcing>,
    next_publish: u64,
    next_ping: u64,
}

struct Announcing {
    kind: RecordKind,
    name: String,
    until: Instant,
    token: u64,
    reply: Reply<u64>,
}

impl Actor {
    /// Takes up what the actor before this one served.
    fn replay(&mut self) {
        let registry = self.shared.registry();
        for (token, (pattern, queue)) in &registry.subscriptions {
            if let Ok((id, _)) = self.engine.subscribe(pattern.clone()) {
                self.tokens.insert(*token, id);
                self.queues.insert(id, queue.clone());
                // What came while nobody listened is not known; that something may have is.
                queue.push(Delivery::Gap { missed: 0 });
            }
        }
        for procedure in registry.procedures.keys() {
            // They fitted before.
            let _ = self.engine.advertise(procedure.clone());
        }
        drop(registry);
        if self.credentials.identity.subject.role() == Role::Bootstrap {
            self.shared.ready.send_replace(true);
        }
    }
}

fn me(credentials: &Credentials, incarnation: u64) -> Arc<Me> {
    Arc::new(Me {
        identity: credentials.identity.clone(),
        key: credentials.key.clone(),
        chain: credentials.chain.clone(),
        incarnation,
    })
}

fn trust(credentials: &Credentials) -> Trust {
    Trust { bundle: credentials.bundle.clone(), mesh: credentials.mesh.clone() }
}

/// Whatever kept a request from being sent, for the engine it was not sent.
fn not_sent(fault: &Fault) -> Fault {
    Fault::new(Code::Unreachable, format!("{}: {}", fault.code, fault.because))
}
