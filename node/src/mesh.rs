//! The actor that drives one node's [`Engine`](macula_proto::engine::Engine) over real connections,
//! on the data plane's own thread.
//!
//! | file | holds |
//! | --- | --- |
//! | `actor` | the loop: inputs to the engine, outputs to the network; a file for each kind |
//! | `keep` | what goes to the disk, and what comes back from there |
//! | `nodes` | what is known of each other node: its link, a dial under way, what waits for it |
//! | `outbox` | messages that wait for a flow |
//! | `serve` | the tasks of one link: requests and flows, in and out |
//! | `seeds` | which seeds to dial, and when |

mod actor;
mod nodes;
mod outbox;
mod seeds;
mod serve;

pub(crate) use serve::exchange;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use macula_proto::identity::NodeId;
use macula_proto::name::{ProcedureName, TopicName, TopicPattern};
use macula_proto::payload::Payload;
use macula_proto::{Code, Fault};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::discovery;
use crate::disk;
use crate::identity::{Source, Trouble};
use crate::metrics::Metrics;
use crate::peer::{Handler, QueueSender};
use crate::status::Status;
use crate::supervise::{Kind, Tree};

/// Commands that wait for the actor; then their senders wait.
const COMMANDS: usize = 1024;

/// What a node is told at its start.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where to dial from and listen; port 0 takes a free one, and keeps it.
    pub listen: SocketAddr,
    /// Who the node is.
    pub source: Source,
    /// What keeps it from its next certificate.
    pub trouble: Option<Trouble>,
    /// Where the seeds are.
    pub seeds: discovery::Handle,
    /// What keeps records and contacts over a restart.
    pub disk: Option<disk::Handle>,
}

/// A node at work. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handle(Arc<Shared>);

/// What the handle and the actor share, and what survives the actor.
#[derive(Debug)]
pub(crate) struct Shared {
    config: Config,
    commands: mpsc::Sender<Command>,
    inbox: tokio::sync::Mutex<mpsc::Receiver<Command>>,
    /// Commands of things that were dropped: each ends something that exists, which bounds them.
    endings: mpsc::UnboundedSender<Command>,
    endings_inbox: tokio::sync::Mutex<mpsc::UnboundedReceiver<Command>>,
    registry: Mutex<Registry>,
    metrics: Arc<Metrics>,
    /// Rises from false to true once.
    ready: watch::Sender<bool>,
    /// Stops the tree that the actor is a child of.
    tree_stop: CancellationToken,
    /// The actor takes no more commands.
    stop: CancellationToken,
    stopped: CancellationToken,
    next_token: AtomicU64,
    incarnation: AtomicU64,
    address: OnceLock<SocketAddr>,
}

/// What is replayed when the actor restarts.
#[derive(Debug, Default)]
struct Registry {
    subscriptions: BTreeMap<u64, (TopicPattern, Arc<QueueSender>)>,
    procedures: BTreeMap<ProcedureName, Serving>,
}

/// One procedure that is served.
#[derive(Clone)]
struct Serving {
    token: u64,
    handler: Arc<dyn Handler>,
    runtime: tokio::runtime::Handle,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("token", &self.token).finish_non_exhaustive()
    }
}

type Reply<T> = oneshot::Sender<Result<T, Fault>>;

/// Whom to ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A node that this one has met, or knows from the DHT.
    Node(NodeId),
    /// Whoever answers at this UDP address.
    Address(SocketAddr),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(id) => id.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl std::str::FromStr for Target {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err(Fault::new(Code::InvalidRequest, "port 0 cannot be dialled"));
            }
            return Ok(Self::Address(address));
        }
        text.parse().map(Self::Node).map_err(|_| {
            let because = "a target is ADDRESS:PORT, or a node id of 40 hexadecimal digits";
            Fault::new(Code::InvalidRequest, because)
        })
    }
}

/// The answer to a ping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// Who answered: 40 hexadecimal digits.
    pub id: String,
    /// Its SPIFFE ID.
    pub subject: String,
    /// Where it is.
    pub address: String,
    /// The round trip of a request on the open connection, in microseconds.
    pub rtt_us: u64,
}

/// What others ask of the actor.
pub(crate) enum Command {
    Publish {
        topic: TopicName,
        payload: Payload,
        reply: Option<Reply<usize>>,
    },
    Subscribe {
        pattern: TopicPattern,
        queue: QueueSender,
        reply: Reply<u64>,
    },
    Unsubscribe {
        token: u64,
    },
    Call {
        id: u64,
        procedure: ProcedureName,
        payload: Payload,
        timeout: Duration,
        reply: Reply<Payload>,
    },
    CancelCall {
        id: u64,
    },
    Advertise {
        procedure: ProcedureName,
        handler: Arc<dyn Handler>,
        runtime: tokio::runtime::Handle,
        reply: Reply<u64>,
    },
    Withdraw {
        procedure: ProcedureName,
        token: u64,
    },
    Status {
        reply: Reply<Status>,
    },
    Ping {
        target: Target,
        reply: Reply<Pong>,
    },
}

impl Handle {
    /// Starts the actor as a child of the tree, on the runtime of the data plane.
    pub(crate) fn start(
        config: Config,
        metrics: Arc<Metrics>,
        tree: &mut Tree,
        tree_stop: CancellationToken,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (endings, endings_inbox) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            config,
            commands,
            inbox: inbox.into(),
            endings,
            endings_inbox: endings_inbox.into(),
            registry: Mutex::default(),
            metrics,
            ready: watch::Sender::new(false),
            tree_stop,
            stop: CancellationToken::new(),
            stopped: CancellationToken::new(),
            next_token: AtomicU64::new(1),
            incarnation: AtomicU64::new(0),
            address: OnceLock::new(),
        });
        let (actor, tasks) = (shared.clone(), tree.spawner());
        // It stops by `Handle::stop`, which lets it say goodbye; the token of its life is for later.
        tree.child(Kind::Mesh, "mesh", runtime, move |stop| {
            let (shared, tasks) = (actor.clone(), tasks.clone());
            async move {
                let asked = shared.stop.clone();
                tokio::spawn(async move {
                    stop.cancelled().await;
                    asked.cancel();
                });
                actor::run(shared, tasks).await
            }
        });
        Self(shared)
    }

    /// Hands a command to the actor; waits while its queue is full.
    pub(crate) async fn send(&self, command: Command) -> Result<(), Fault> {
        if self.0.stop.is_cancelled() {
            return Err(stopping());
        }
        self.0.commands.send(command).await.map_err(|_| stopping())
    }

    /// Hands over that something was dropped. Never waits.
    pub(crate) fn send_later(&self, command: Command) {
        // Without a receiver the node has stopped, and with it everything that could end.
        let _ = self.0.endings.send(command);
    }

    /// A number for a call, by which it can be cancelled.
    pub(crate) fn next_call(&self) -> u64 {
        self.0.next_token.fetch_add(1, Ordering::Relaxed)
    }

    /// What the node knows of itself.
    pub(crate) async fn status(&self) -> Result<Status, Fault> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Status { reply }).await?;
        answer.await.unwrap_or_else(|_| Err(restarted()))
    }

    /// The round trip to a node, connecting if need be.
    pub(crate) async fn ping(&self, target: Target) -> Result<Pong, Fault> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Ping { target, reply }).await?;
        answer.await.unwrap_or_else(|_| Err(restarted()))
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.0.ready.borrow() && !self.0.stop.is_cancelled()
    }

    pub(crate) async fn ready(&self) -> Result<(), Fault> {
        let mut ready = self.0.ready.subscribe();
        tokio::select! {
            joined = ready.wait_for(|ready| *ready) => joined.map(drop).map_err(|_| stopping()),
            () = self.0.stop.cancelled() => Err(stopping()),
        }
    }

    /// The UDP address, once it is bound.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.0.address.get().copied()
    }

    /// Leaves the mesh, and waits until the others have been told and every task has ended.
    pub(crate) async fn stop(&self) {
        self.0.tree_stop.cancel();
        self.0.stopped.cancelled().await;
    }

    /// Every task has ended, for whatever reason.
    pub(crate) fn on_stopped(&self) {
        self.0.stop.cancel();
        *self.0.registry() = Registry::default();
        self.0.stopped.cancel();
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect("nothing panics while it holds the registry")
    }

    /// The time now, but later than any incarnation before: a restarted actor counts from one.
    fn next_incarnation(&self) -> u64 {
        let now = clock::now().unix_ms;
        let before = self.incarnation.load(Ordering::Relaxed);
        let incarnation = now.max(before + 1);
        self.incarnation.store(incarnation, Ordering::Relaxed);
        incarnation
    }
}

/// Cancels a call when its caller is dropped before the answer.
pub(crate) struct CancelOnDrop {
    mesh: Handle,
    id: Option<u64>,
}

impl CancelOnDrop {
    pub(crate) fn new(mesh: Handle, id: u64) -> Self {
        Self { mesh, id: Some(id) }
    }

    /// The answer is there.
    pub(crate) fn disarm(mut self) {
        self.id = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.mesh.send_later(Command::CancelCall { id });
        }
    }
}

pub(crate) fn stopping() -> Fault {
    Fault::new(Code::Draining, "this node is stopping")
}

pub(crate) fn restarted() -> Fault {
    Fault::new(Code::Internal, "the data plane of this node was restarted meanwhile")
}
