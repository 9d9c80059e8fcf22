//! Procedures that an application serves over HTTP: each call is a POST to its callback.
//! docs/API.md states the contract.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use macula_proto::payload::Payload;
use macula_proto::{Code, Fault};
use serde::Deserialize;

use super::body::{describe, payload, with_sources};
use super::door::is_loopback;
use super::limits;
use super::problem::Problem;
use crate::peer::{self, Caller};
use crate::supervise::{Kind, failpoint};

/// How long an idle connection to a callback is kept. Short of what servers usually allow.
const IDLE: Duration = Duration::from_secs(30);

/// The body of `PUT /v1/advertise/{procedure}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Offer {
    callback: String,
}

/// Parses an offer's callback; `own` is the port of this API, which must not call itself.
pub(super) fn parse(body: &[u8], own: u16) -> Result<Uri, Problem> {
    let refuse = |because: String| Problem::new(Code::InvalidRequest, because);
    let Offer { callback } = serde_json::from_slice(body).map_err(|error| {
        let shape = r#"{"callback":"http://127.0.0.1:PORT/path"}"#;
        refuse(format!("the body is not {shape}: {error}"))
    })?;
    let uri: Uri =
        callback.parse().map_err(|error| refuse(format!("the callback is not a URL: {error}")))?;
    if uri.scheme_str() != Some("http") {
        return Err(refuse("the callback is not an http:// URL".to_owned()));
    }
    let authority = uri.authority().ok_or_else(|| refuse("the callback has no host".to_owned()))?;
    if authority.as_str().contains('@') {
        return Err(refuse("the callback holds a user or password".to_owned()));
    }
    if !is_loopback(authority) {
        let because = "the callback must be on this machine: 127.0.0.1, [::1] or localhost";
        return Err(refuse(because.to_owned()));
    }
    match uri.port_u16().unwrap_or(80) {
        0 => Err(refuse("the callback's port is 0".to_owned())),
        port if port == own => Err(refuse("the callback is this very API".to_owned())),
        _ => Ok(uri),
    }
}

/// Calls callbacks, over connections that are kept for the next call.
#[derive(Clone, Debug)]
pub(super) struct Caller_ {
    client: Client<HttpConnector, Full<Bytes>>,
}
