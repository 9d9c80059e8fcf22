//! The API and the admin address of a node that has no certificate yet: it says so, and why.

use std::net::TcpListener;
use std::sync::Arc;

use http::{Request, Response, request};
use hyper::body::Incoming;
use macula_proto::{Code, Fault};
use tokio::runtime::Handle;

use super::body::Body;
use super::endpoints::{document, metrics_text, text};
use super::limits::Times;
use super::problem::Problem;
use super::route::{self, Route};
use super::server::{Answering, Service};
use super::{Surface, door, listen};
use crate::identity::Trouble;
use crate::metrics::Metrics;
use crate::status::Status;
use crate::supervise::{Counters, Tree};

/// What such a node can tell.
#[derive(Clone, Debug)]
pub struct Room {
    /// What is known of the node, but for what it waits for.
    pub status: Arc<Status>,
    /// What keeps it from its certificate.
    pub trouble: Trouble,
    /// The node's own.
    pub metrics: Arc<Metrics>,
}

/// Serves an address until the tree stops.
///
/// # Errors
/// When the listener cannot be used.
pub fn add_waiting(
    tree: &mut Tree,
    runtime: &Handle,
    listener: TcpListener,
    surface: Surface,
    room: Room,
) -> std::io::Result<()> {
    let service = Arc::new(Waiting { surface, room, counters: tree.counters() });
    listen(tree, runtime, listener, surface, Times::default(), service)
}

#[derive(Debug)]
struct Waiting {
    surface: Surface,
    room: Room,
    counters: Arc<Counters>,
}

impl Waiting {
    fn because(&self) -> String {
        match &*self.room.trouble.borrow() {
            Some(Fault { code, because, .. }) => format!("no certificate yet: {code}: {because}"),
            None => "no certificate yet: the operator was asked, and has not answered".to_owned(),
        }
    }

    fn handle(&self, head: &request::Parts) -> Result<Response<Body>, Problem> {
        if self.surface == Surface::Application {
            door::check(head)?;
        }
        match route::parse(self.surface, &head.method, &head.uri)? {
            Route::Live => Ok(text("live\n")),
            Route::Metrics => Ok(metrics_text(&self.room.metrics, &self.counters)),
            Route::Status => {
                let mut status = Status::clone(&self.room.status);
                status.waiting = vec![self.because()];
                Ok(document(http::StatusCode::OK, &serde_json::json!(status)))
            }
            Route::Ready
            | Route::Publish(_)
            | Route::Subscribe(_)
            | Route::Call(_)
            | Route::Advertise(_)
            | Route::Withdraw(_)
            | Route::Ping(_) => Err(Problem::new(Code::Starting, self.because())),
        }
    }
}

impl Service for Waiting {
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answering {
        Box::pin(async move {
            let (head, _body) = request.into_parts();
            self.handle(&head)
        })
    }

    fn metrics(&self) -> &Metrics {
        &self.room.metrics
    }
}
