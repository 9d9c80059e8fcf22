//! What each endpoint does.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, request};
use hyper::body::Incoming;
use macula_config::period;
use macula_proto::Code;
use macula_proto::name::{ProcedureName, TopicName, TopicPattern};
use serde_json::json;
use tokio::sync::Mutex;

use super::body::{self, Body};
use super::callback::{self, Callbacks};
use super::limits::{self, Times};
use super::problem::Problem;
use super::route::{self, Route};
use super::{Surface, door, events};
use crate::metrics::{self, Metrics};
use crate::peer::{Advertisement, Peer};
use crate::supervise::{Counters, Spawner};

type Answer = Result<Response<Body>, Problem>;

/// The endpoints of one surface of one node.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) surface: Surface,
    pub(super) peer: Peer,
    pub(super) tasks: Spawner,
    pub(super) times: Times,
    /// How the node's tasks fare.
    pub(super) counters: Arc<Counters>,
    /// The port that this API is at.
    pub(super) port: u16,
    pub(super) callbacks: Callbacks,
    /// What was advertised here. Locked while one is made or taken back, so that the one that the
    /// mesh has and the one that is kept here are the same.
    pub(super) advertisements: Mutex<BTreeMap<ProcedureName, Advertisement>>,
}

impl Endpoints {
    /// Does what a request asks. May be dropped half way: that cancels a call.
    pub(super) async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        if self.surface == Surface::Application {
            door::check(&head)?;
        }
        let route = route::parse(self.surface, &head.method, &head.uri)?;
        if route.needs_mesh() {
            self.check_ready()?;
        }
        match route {
            Route::Publish(topic) => self.publish(topic, &head, body).await,
            Route::Subscribe(pattern) => self.subscribe(pattern).await,
            Route::Call(procedure) => self.call(procedure, &head, body).await,
            Route::Advertise(procedure) => self.advertise(procedure, body).await,
            Route::Withdraw(procedure) => self.withdraw(&procedure).await,
            Route::Status => self.status().await,
            Route::Live => Ok(text("live\n")),
            Route::Ready => self.check_ready().map(|()| text("ready\n")),
            Route::Metrics => Ok(metrics_text(self.peer.metrics(), &self.counters)),
            Route::Ping(target) => {
                Ok(document(StatusCode::OK, &json!(self.peer.ping(target).await?)))
            }
        }
    }

    fn check_ready(&self) -> Result<(), Problem> {
        if self.peer.is_ready() {
            Ok(())
        } else if self.tasks.stopping().is_cancelled() {
            Err(Problem::new(Code::Draining, Code::Draining.because()))
        } else {
            Err(Problem::new(Code::Starting, Code::Starting.because()))
        }
    }

    async fn publish(&self, topic: TopicName, head: &request::Parts, body: Incoming) -> Answer {
        refuse_to_wait(&head.headers)?;
        let body = body::read(body, self.times.body).await?;
        let payload = body::payload(&head.headers, body)?;
        let subscribers = self.peer.publish(topic, payload).await?;
        Ok(document(StatusCode::ACCEPTED, &json!({ "subscribers": subscribers })))
    }

    async fn subscribe(&self, pattern: TopicPattern) -> Answer {
        let subscription = self.peer.subscribe(pattern).await?;
        let body = events::stream(subscription, self.times, &self.tasks);
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, NO_STORE);
        Ok(response)
    }

    async fn call(
        &self,
        procedure: ProcedureName,
        head: &request::Parts,
        body: Incoming,
    ) -> Answer {
        let timeout = timeout(&head.headers)?;
        let body = body::read(body, self.times.body).await?;
        let payload = body::payload(&head.headers, body)?;
        let answer = self.peer.call(procedure, payload, timeout).await?;
        let mut response = Response::new(Body::full(answer.body.clone()));
        body::describe(&answer, response.headers_mut());
        Ok(response)
    }

    async fn advertise(&self, procedure: ProcedureName, body: Incoming) -> Answer {
        let body = body::read(body, self.times.body).await?;
        let callback = callback::parse(&body, self.port)?;
        let mut advertisements = self.advertisements.lock().await;
        let handler = self.callbacks.handler(callback);
        let advertisement = self.peer.advertise(procedure.clone(), handler).await?;
        advertisements.insert(procedure, advertisement);
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn withdraw(&self, procedure: &ProcedureName) -> Answer {
        match self.advertisements.lock().await.remove(procedure) {
            Some(_withdrawn_by_being_dropped) => Ok(empty(StatusCode::NO_CONTENT)),
            None => {
                let because = format!("{procedure} is not advertised through this API");
                Err(Problem::new(Code::NotFound, because))
            }
        }
    }

    async fn status(&self) -> Answer {
        let status = self.peer.status().await?;
        Ok(document(StatusCode::OK, &json!(status)))
    }
}

/// The node's metrics and its tasks', as OpenMetrics text.
pub(super) fn metrics_text(metrics: &Metrics, counters: &Counters) -> Response<Body> {
    let mut response = text(metrics.render(counters));
    let content_type = HeaderValue::from_static(metrics::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

pub(super) fn text(text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, NO_STORE);
    response
}

pub(super) fn document(status: StatusCode, document: &serde_json::Value) -> Response<Body> {
    let mut response = text(format!("{document}\n"));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Refuses `Prefer: wait` (RFC 7240 §4.3), with or without seconds: to accept it and not to wait
/// would be taken for an acknowledgement.
fn refuse_to_wait(headers: &HeaderMap) -> Result<(), Problem> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    let waits = preferences.any(|preference| {
        let name = preference.split(['=', ';']).next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case("wait")
    });
    if waits {
        let because = "`Prefer: wait` asks for an acknowledged delivery, which this version lacks";
        return Err(Problem::new(Code::Unsupported, because));
    }
    Ok(())
}

/// The deadline that a caller asks for: `2s`, `500ms`, or seconds as in `1.5`.
fn timeout(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(given) = headers.get(callback::TIMEOUT) else { return Ok(limits::CALL_TIMEOUT) };
    let text = given.to_str().unwrap_or_default().trim();
    let seconds = || {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let seconds = f64::from_str(text).ok().filter(|_| plain)?;
        Duration::try_from_secs_f64(seconds).ok()
    };
    let refuse = |because| Err(Problem::new(Code::InvalidRequest, because));
    match period::parse(text).ok().or_else(seconds) {
        None => {
            let because = format!("Macula-Timeout is {given:?}; write 2s, 500ms, or seconds: 1.5");
            refuse(because)
        }
        Some(Duration::ZERO) => refuse("Macula-Timeout is zero; leave it out for 10s".to_owned()),
        Some(timeout) if timeout > limits::LONGEST_CALL => {
            refuse("Macula-Timeout is more than 1h, the longest".to_owned())
        }
        Some(timeout) => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        [(HeaderName::from_static(name), HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn reads_a_deadline_as_people_write_it() {
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), Duration::from_secs(10));
        for (text, millis) in
            [("2s", 2000), ("500ms", 500), ("1.5", 1500), (" 3 ", 3000), ("1h", 3_600_000)]
        {
            let read = timeout(&headers("macula-timeout", text)).unwrap();
            assert_eq!(read, Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn refuses_a_deadline_that_is_none() {
        for text in ["", "0", "0ms", "-1", "soon", "1.5s", "3601s", "61m", "1e3", "inf", "nan"] {
            let problem = timeout(&headers("macula-timeout", text)).unwrap_err();
            assert_eq!(problem.code(), Code::InvalidRequest, "{text}");
        }
    }

    #[test]
    fn refuses_to_wait_however_it_is_asked() {
        for text in ["wait", "wait=5", "respond-async, wait=10", "Wait", " wait ; foo"] {
            let problem = refuse_to_wait(&headers("prefer", text)).unwrap_err();
            assert_eq!(problem.code(), Code::Unsupported, "{text}");
        }
        for text in ["respond-async", "return=minimal", "waiting", ""] {
            assert!(refuse_to_wait(&headers("prefer", text)).is_ok(), "{text}");
        }
    }
}
