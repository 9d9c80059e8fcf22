//! The sidecar's HTTP API (docs/API.md), as an application sees it.

use std::fmt;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::events::Events;

/// Where the sidecar is, and connections to it.
#[derive(Clone, Debug)]
pub(crate) struct Sidecar {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Why something failed: the code of the problem that came back.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// Nobody answered, or not to the end.
    fn unreachable(error: impl Into<anyhow::Error>) -> Self {
        Self { code: "no_sidecar".to_owned(), detail: format!("{:#}", error.into()) }
    }

    fn read(status: StatusCode, body: &[u8]) -> Self {
        let problem: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name: &str| problem[name].as_str().map(str::to_owned);
        Self {
            code: field("code").unwrap_or_else(|| status.as_u16().to_string()),
            detail: field("detail").unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()),
        }
    }
}

impl Sidecar {
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        let base = url.trim_end_matches('/').to_owned();
        base.parse::<http::Uri>().with_context(|| format!("{url:?} is no URL"))?;
        Ok(Self { base, client: Client::builder(TokioExecutor::new()).build_http() })
    }

    /// Calls a procedure and gives its answer: the document if it is JSON, else the text.
    pub(crate) async fn call(&self, procedure: &str, body: &str) -> Result<Value, Failure> {
        let answer = self.ask(Method::POST, &format!("/v1/call/{procedure}"), body).await?;
        Ok(serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    /// Publishes, and says to how many subscribing nodes.
    pub(crate) async fn publish(&self, topic: &str, text: &str) -> Result<u64, Failure> {
        let answer = self.ask(Method::POST, &format!("/v1/publish/{topic}"), text).await?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        Ok(answer["subscribers"].as_u64().unwrap_or_default())
    }

    /// Has the calls of a procedure brought to a path of this application.
    pub(crate) async fn advertise(&self, procedure: &str, callback: &str) -> Result<(), Failure> {
        let body = json!({ "callback": callback }).to_string();
        self.ask(Method::PUT, &format!("/v1/advertise/{procedure}"), &body).await.map(drop)
    }

    /// Subscribes; when this returns, publishers can find the subscription.
    pub(crate) async fn subscribe(&self, pattern: &str) -> Result<Events, Failure> {
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("topic", pattern).finish();
        let answer = self.send(Method::GET, &format!("/v1/subscribe?{query}"), "").await?;
        Ok(Events::new(answer.into_body()))
    }

    /// What the sidecar says of itself.
    pub(crate) async fn get(&self, path: &str) -> Result<String, Failure> {
        self.ask(Method::GET, path, "").await
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> Result<String, Failure> {
        let answer = self.send(method, path, body).await?.into_body().collect().await;
        let bytes = answer.map_err(Failure::unreachable)?.to_bytes();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &str,
    ) -> Result<http::Response<hyper::body::Incoming>, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("content-type", "text/plain")
            .header("macula-timeout", "5s")
            .body(Full::from(body.to_owned()))
            .map_err(Failure::unreachable)?;
        let answer = self.client.request(request).await.map_err(Failure::unreachable)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = answer.into_body().collect().await.map_err(Failure::unreachable)?.to_bytes();
        Err(Failure::read(status, &bytes))
    }
}
