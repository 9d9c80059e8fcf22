//! Procedures that an application serves over HTTP: each call is a POST to its callback.
//! docs/API.md states the contract.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
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
use super::task::in_own_task;
use crate::peer::{self, Caller};
use crate::supervise::{Kind, Spawner, failpoint};

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
pub(super) struct Callbacks {
    client: Client<HttpConnector, Full<Bytes>>,
    tasks: Spawner,
}

impl Callbacks {
    pub(super) fn new(tasks: Spawner) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(limits::CALLBACK_IDLE)
            .http1_max_buf_size(limits::BUFFER)
            .build(connector);
        Self { client, tasks }
    }

    /// What answers the calls of a procedure that has this callback.
    pub(super) fn handler(&self, callback: Uri) -> impl peer::Handler {
        let this = self.clone();
        move |request: peer::Request| {
            let (this, callback) = (this.clone(), callback.clone());
            async move {
                let tasks = this.tasks.clone();
                let call = async move {
                    failpoint(Kind::Callback);
                    this.call(callback, request).await
                };
                in_own_task(&tasks, Kind::Callback, call).await.unwrap_or_else(|| {
                    Err(Fault::new(Code::Internal, "the task that ran the callback died"))
                })
            }
        }
    }

    async fn call(&self, callback: Uri, request: peer::Request) -> Result<Payload, Fault> {
        let timeout = request.timeout;
        let request = post(callback, request);
        tokio::time::timeout(timeout, self.exchange(request)).await.unwrap_or_else(|_| {
            Err(Fault::new(Code::Timeout, "the callback did not answer before the deadline"))
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Payload, Fault> {
        // No redirect is followed: the client has no such thing.
        let response = self.client.request(request).await.map_err(|error| {
            // Another provider is tried after `handler_unavailable`, so it must be certain that the
            // application never had the request.
            if error.is_connect() {
                let because = format!("the callback cannot be reached: {}", with_sources(&error));
                return Fault::new(Code::HandlerUnavailable, because);
            }
            let because =
                format!("the callback broke off before its answer: {}", with_sources(&error));
            Fault::new(Code::Interrupted, because)
        })?;
        if response.status().is_success() {
            answer(response).await
        } else {
            Err(error(response).await)
        }
    }
}

/// The request that a call becomes.
fn post(callback: Uri, request: peer::Request) -> Request<Full<Bytes>> {
    let peer::Request { procedure, payload, caller: Caller { id, name }, timeout } = request;
    let mut post = Request::new(Full::new(payload.body.clone()));
    *post.method_mut() = Method::POST;
    *post.uri_mut() = callback;
    let headers = post.headers_mut();
    describe(&payload, headers);
    for (key, value) in [
        (PROCEDURE, procedure.to_string()),
        (CALLER, id.to_string()),
        (CALLER_NAME, name.to_string()),
        (TIMEOUT, format!("{}ms", timeout.as_millis())),
    ] {
        let value = HeaderValue::try_from(value).expect("names and numbers are ASCII");
        headers.insert(key, value);
    }
    post
}

const PROCEDURE: HeaderName = HeaderName::from_static("macula-procedure");
const CALLER: HeaderName = HeaderName::from_static("macula-caller");
const CALLER_NAME: HeaderName = HeaderName::from_static("macula-caller-name");
/// What is left of the caller's deadline here, and all of it in `POST /v1/call/{procedure}`.
pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("macula-timeout");

/// The answer of a callback that succeeded.
async fn answer(response: Response<Incoming>) -> Result<Payload, Fault> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, limits::BODY).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let because = format!("the callback's answer has more than {} bytes", limits::BODY);
            return Fault::new(Code::TooLarge, because);
        }
        let because = format!("the callback broke off its answer: {}", with_sources(&*error));
        Fault::new(Code::Interrupted, because)
    })?;
    payload(&head.headers, body.to_bytes()).map_err(|problem| {
        let because = format!("the callback's answer cannot be carried: {}", problem.because());
        Fault::new(Code::HandlerError, because)
    })
}

/// What a callback that did not succeed says: its status, and the beginning of its body.
async fn error(response: Response<Incoming>) -> Fault {
    let (head, mut body) = response.into_parts();
    let mut text = Vec::new();
    while text.len() < limits::ERROR_TEXT
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(bytes) = frame.into_data() {
            text.extend_from_slice(&bytes[..bytes.len().min(limits::ERROR_TEXT - text.len())]);
        }
    }
    let text = String::from_utf8_lossy(&text);
    let (status, text) = (head.status, text.trim());
    let because = if status.is_redirection() {
        format!("the callback answered {status}, and redirects are not followed")
    } else if text.is_empty() {
        format!("the callback answered {status}")
    } else {
        format!("the callback answered {status}: {text}")
    };
    Fault::new(Code::HandlerError, because)
}
