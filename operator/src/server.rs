//! The operator's three servers: webhook, enrolment, and health with metrics.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use macula_api::names::ports;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::metrics::CONTENT_TYPE;
use crate::{admission, enrolment};

/// How long requests that are under way may take when the operator stops.
const GRACE: Duration = Duration::from_secs(10);

/// What readiness waits for: the stores to be filled, and the `caBundle` to be seen right.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// The cluster is known.
    pub known: watch::Receiver<bool>,
    /// The webhook configuration has our CA.
    pub trusted: watch::Receiver<bool>,
}

impl Readiness {
    fn waits_for(&self) -> Option<&'static str> {
        if !*self.known.borrow() {
            Some("the cluster's objects have not been listed yet")
        } else if !*self.trusted.borrow() {
            Some("the webhook configuration macula-operator does not have the operator's CA yet")
        } else {
            None
        }
    }
}

/// Serves until it is told to stop.
///
/// # Errors
/// When a port cannot be bound.
pub async fn run(
    ctx: Arc<Context>,
    tls: RustlsConfig,
    readiness: Readiness,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let at = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let handle = Handle::new();
    let stopping = handle.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        stopping.graceful_shutdown(Some(GRACE));
    });
    let webhook = axum_server::bind_rustls(at(ports::WEBHOOK), tls.clone())
        .handle(handle.clone())
        .serve(admission::routes(ctx.clone()).into_make_service());
    let enrolment = axum_server::bind_rustls(at(ports::ENROLMENT), tls)
        .handle(handle.clone())
        .serve(enrolment::routes(ctx.clone()).into_make_service());
    let admin = axum_server::bind(at(ports::ADMIN))
        .handle(handle)
        .serve(admin(ctx, readiness).into_make_service());
    tokio::try_join!(webhook, enrolment, admin)?;
    Ok(())
}

fn admin(ctx: Arc<Context>, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz/live", get(|| async { "live\n" }))
        .route("/healthz/ready", get(ready))
        .with_state(readiness)
        .route("/metrics", get(metrics).with_state(ctx))
}

async fn ready(State(readiness): State<Readiness>) -> impl IntoResponse {
    match readiness.waits_for() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(ctx): State<Arc<Context>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], ctx.metrics.render())
}
