//! What the application listens on: the sidecar's callbacks, and its own tallies and readiness.

use std::net::Ipv4Addr;

use anyhow::Context;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::tallies::Tallies;

/// Where it listens.
pub(crate) const PORT: u16 = 8080;

/// The callback of a procedure.
pub(crate) fn callback(procedure: &str) -> String {
    format!("http://127.0.0.1:{PORT}/call/{procedure}")
}

/// Serves until the end.
pub(crate) async fn serve(tallies: Tallies) -> anyhow::Result<()> {
    let routes = Router::new()
        .route("/call/{procedure}", post(answer))
        .route(
            "/tallies",
            get(async |State(tallies): State<Tallies>| tallies.to_json().to_string()),
        )
        .route("/ready", get(ready))
        .with_state(tallies);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
        .await
        .with_context(|| format!("cannot listen on port {PORT}"))?;
    axum::serve(listener, routes).await.context("the listener failed")
}

async fn ready(State(tallies): State<Tallies>) -> StatusCode {
    if tallies.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Answers a call: the sum of an array of numbers, and of anything else an echo; and who answered.
async fn answer(
    State(tallies): State<Tallies>,
    Path(procedure): Path<String>,
    headers: HeaderMap,
    body: String,
) -> String {
    let caller = headers.get("macula-caller-name").and_then(|name| name.to_str().ok());
    let answer = match sum(&body) {
        Some(sum) => json!({ "by": tallies.name(), "sum": sum }),
        None => json!({ "by": tallies.name(), "echo": body }),
    };
    tallies.answered(&procedure, caller.unwrap_or("nobody"), &answer);
    answer.to_string()
}

fn sum(body: &str) -> Option<i64> {
    let numbers: Value = serde_json::from_str(body).ok()?;
    numbers.as_array()?.iter().map(Value::as_i64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_of_numbers_is_added_and_nothing_else() {
        assert_eq!(sum("[1, 2, 39]"), Some(42));
        assert_eq!(sum("[1, \"2\"]"), None);
        assert_eq!(sum("hello"), None);
    }
}
