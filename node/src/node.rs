//! One node, put together: the tree of its tasks, and the thread of its data plane.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use macula_config::Seed;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::discovery::{Discovery, Resolver, Schedule};
use crate::identity::{Source, Trouble};
use crate::metrics::Metrics;
use crate::supervise::{self, Ended, Kind, Settings, Tree};
use crate::{api, disk, mesh, peer::Peer};

/// What a node is made of.
#[derive(Debug)]
pub struct Parts {
    /// The UDP address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who it is.
    pub source: Source,
    /// What keeps it from its next certificate, where somebody says so.
    pub trouble: Option<Trouble>,
    /// Where to find the mesh.
    pub seeds: Vec<Seed>,
    /// Looks up the seeds' names.
    pub resolver: Resolver,
    /// How often.
    pub schedule: Schedule,
    /// Where the application's API is served, if it is.
    pub api: Option<TcpListener>,
    /// Where health and metrics are served, if they are.
    pub admin: Option<TcpListener>,
    /// Where the operator is told the counts, with the file of its CA; on infrastructure alone.
    pub counts: Option<(TcpListener, PathBuf)>,
    /// Where infrastructure keeps records and contacts, if it does. A peer keeps none.
    pub data_dir: Option<PathBuf>,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// How patient its supervisor is.
    pub supervision: Settings,
}

/// A node at work.
#[derive(Debug)]
pub struct Node {
    peer: Peer,
    stop: CancellationToken,
    running: JoinHandle<Result<(), Ended>>,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The thread of the data plane.
    #[error("cannot start the data plane")]
    DataPlane(#[source] std::io::Error),
    /// A listener.
    #[error("cannot listen")]
    Listen(#[source] std::io::Error),
}

impl Node {
    /// Starts the node; `more` adds children of its own to the tree, such as the one that renews
    /// the identity. Must be called within a runtime, on which all but the data plane runs.
    ///
    /// # Errors
    /// When the data plane or a listener cannot be set up. That the UDP address is taken shows when
    /// the tree ends.
    pub fn start(
        parts: Parts,
        more: impl FnOnce(&mut Tree, &Handle, &Arc<Metrics>),
    ) -> Result<Self, StartError> {
        let Parts {
            listen,
            source,
            trouble,
            seeds,
            resolver,
            schedule,
            api,
            admin,
            counts,
            data_dir,
            metrics,
            supervision,
        } = parts;
        let stop = CancellationToken::new();
        let here = Handle::current();
        let mut tree = Tree::new(supervision, stop.clone());
        more(&mut tree, &here, &metrics);
        let (discovery, seeds) = Discovery::new(&seeds, resolver, schedule);
        tree.child(Kind::Discovery, "discovery", &here, move |stop| {
            let discovery = discovery.clone();
            async move {
                stop.run_until_cancelled(discovery.run()).await;
                Ok::<(), supervise::Error>(())
            }
        });
        let data_plane = DataPlane::start().map_err(StartError::DataPlane)?;
        let identity = source.borrow().identity.clone();
        let data_dir = data_dir.filter(|_| identity.subject.role().is_infrastructure());
        // Before the mesh, so that it ends after it, and writes what that hands over at its end.
        let disk = data_dir.map(|folder| {
            let mesh = identity.subject.mesh.as_str();
            disk::Handle::start(folder, identity.id, mesh, metrics.clone(), &mut tree, &here)
        });
        let config = mesh::Config { listen, source: source.clone(), trouble, seeds, disk };
        let mesh =
            mesh::Handle::start(config, metrics, &mut tree, stop.clone(), &data_plane.handle);
        let peer = Peer::new(mesh.clone());
        let counters = tree.counters();
        if let Some(listener) = api {
            api::add(&mut tree, &here, listener, api::Surface::Application, &peer, &counters)
                .map_err(StartError::Listen)?;
        }
        if let Some(listener) = admin {
            api::add(&mut tree, &here, listener, api::Surface::Admin, &peer, &counters)
                .map_err(StartError::Listen)?;
        }
        if let Some((listener, ca)) = counts {
            api::add_counts(&mut tree, &here, listener, source, ca, &peer)
                .map_err(StartError::Listen)?;
        }
        let running = tokio::spawn(async move {
            let outcome = tree.run().await;
            mesh.on_stopped();
            drop(data_plane);
            outcome
        });
        Ok(Self { peer, stop, running })
    }

    /// The node's membership, for an application in this process.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The node's membership alone; the node ends by [`Peer::leave`].
    #[must_use]
    pub fn into_peer(self) -> Peer {
        self.peer
    }

    /// Waits until the node ends by itself, which it does only when it cannot go on.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn ended(&mut self) -> Result<(), Ended> {
        (&mut self.running).await.expect("a supervisor does not panic")
    }

    /// Leaves the mesh and stops every task.
    ///
    /// # Errors
    /// When a task did not stop as it should.
    pub async fn stop(self) -> Result<(), Ended> {
        self.stop.cancel();
        self.running.await.expect("a supervisor does not panic")
    }

    /// Stops the node when this is cancelled.
    #[must_use]
    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }
}

/// The thread of the data plane: one current_thread runtime, which carried 2.6 times the requests a
/// second of a shared multi-threaded one, at a seventh of the latency (measured).
struct DataPlane {
    handle: Handle,
    stop: CancellationToken,
}

impl DataPlane {
    fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let until = stop.clone();
        std::thread::Builder::new()
            .name("macula-data".to_owned())
            .spawn(move || runtime.block_on(until.cancelled()))?;
        Ok(Self { handle, stop })
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
