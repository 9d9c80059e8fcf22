//! The node's HTTP API on loopback, and the admin listener for health and metrics (docs/API.md).
//!
//! | file | holds |
//! | --- | --- |
//! | `server` | connections: how many, how long, and their ends |
//! | `guard` | the watch over one connection, between hyper and the socket |
//! | `door` | who may ask: no foreign host, no foreign web page |
//! | `route` | which endpoint is meant |
//! | `endpoints` | what each does |
//! | `body` | bodies, read and written, and the headers that pass through |
//! | `waiting` | what is answered before there is a certificate |
//! | `counts` | what infrastructure tells the operator |
//! | `events` | subscriptions as server-sent events |
//! | `callback` | procedures that an application serves over HTTP |
//! | `problem` | refusals as problem documents |
//! | `task` | work whose panic is its own |
//! | `limits` | every bound, with its reason |

mod body;
mod callback;
mod counts;
mod door;
mod endpoints;
mod events;
mod guard;
mod limits;
mod problem;
mod route;
mod server;
mod task;
#[cfg(test)]
mod tests;
mod waiting;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::supervise::{Counters, Kind, Tree};
use callback::Callbacks;
use endpoints::Endpoints;
use limits::Times;
use server::{Answering, Server, Service};

pub use counts::add_counts;
pub use waiting::{Room, add_waiting};

/// What is served at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Everything, for programs on this machine: on loopback only.
    Application,
    /// Health and metrics only, for whoever can reach the address. They name no realm, no topic
    /// and no procedure.
    Admin,
}

/// Adds a listener to the node's tree. What is advertised over it outlives a restart of the
/// listener's task, and ends with the tree. The counters are those of the tree, for the metrics.
///
/// # Errors
/// When the listener cannot be used, or is not on loopback where it must be.
pub fn add(
    tree: &mut Tree,
    runtime: &Handle,
    listener: TcpListener,
    surface: Surface,
    peer: &Peer,
    counters: &Arc<Counters>,
) -> io::Result<()> {
    let (tasks, times) = (tree.spawner(), Times::default());
    let endpoints = Arc::new(Endpoints {
        surface,
        peer: peer.clone(),
        tasks: tasks.clone(),
        times,
        counters: counters.clone(),
        port: listener.local_addr()?.port(),
        callbacks: Callbacks::new(tasks),
        advertisements: Mutex::default(),
    });
    listen(tree, runtime, listener, surface, times, endpoints)
}

/// Makes the listener and what is served at it a child of the tree.
fn listen<S: Service>(
    tree: &mut Tree,
    runtime: &Handle,
    listener: TcpListener,
    surface: Surface,
    times: Times,
    service: Arc<S>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let (kind, name, connections) = match surface {
        Surface::Application => (Kind::HttpApi, "http_api", limits::CONNECTIONS),
        Surface::Admin => (Kind::Admin, "admin", limits::ADMIN_CONNECTIONS),
    };
    if surface == Surface::Application && !address.ip().is_loopback() {
        let because = format!("the API listens on loopback only, and {address} is not");
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, because));
    }
    let listener = into_tokio(listener, runtime)?;
    let server = Arc::new(Server::new(listener, service, tree.spawner(), times, connections));
    tree.child(kind, name, runtime, move |stop| {
        let server = server.clone();
        async move {
            server.run(kind, stop).await;
            Ok::<(), io::Error>(())
        }
    });
    Ok(())
}

fn into_tokio(listener: TcpListener, runtime: &Handle) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    let _within = runtime.enter();
    tokio::net::TcpListener::from_std(listener)
}

impl Service for Endpoints {
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answering {
        Box::pin(self.handle(request))
    }

    fn metrics(&self) -> &Metrics {
        self.peer.metrics()
    }
}
