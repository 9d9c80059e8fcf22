//! Speaks to a node's HTTP API, and turns everything that goes wrong into a [`Failure`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use macula_config::period;
use macula_proto::Code;
use macula_proto::wire::MAX_PAYLOAD;
use serde_json::Value;

use super::failure::{Failure, printable};
use crate::status::Status;

/// Where a node's HTTP API is: `http://127.0.0.1:7780`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeUrl(String);

impl FromStr for NodeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "it is written http://HOST:PORT, as in http://127.0.0.1:7780";
        let uri: Uri = text.parse().map_err(|error| format!("{error}; {example}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err("a node's API is loopback and http, not https".to_owned()),
            Some(_) | None => return Err(example.to_owned()),
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("nothing follows the port; {example}"));
        }
        match uri.authority() {
            Some(authority) if !authority.as_str().contains('@') => {
                Ok(Self(format!("http://{authority}")))
            }
            Some(_) | None => Err(example.to_owned()),
        }
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One node, over connections that are kept. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    url: NodeUrl,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// One request, and how a failure of it is told.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// What the person wanted: ``call `math.add` ``.
    pub(crate) tried: String,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    /// How long until the answer's head must be there.
    pub(crate) within: Duration,
}

impl Ask {
    /// A request without headers or body, answered within [`PATIENCE`].
    pub(crate) fn new(tried: impl Into<String>, method: Method, path: impl Into<String>) -> Self {
        let (tried, path) = (tried.into(), path.into());
        Self { tried, method, path, headers: Vec::new(), body: Bytes::new(), within: PATIENCE }
    }
}

/// How long a node that is on this machine may take for what it does alone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a TCP connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The most bytes of an answer: a payload, or a status of some thousand connections.
const MAX_ANSWER: usize = 4 * MAX_PAYLOAD;
/// The most bytes of a problem document.
const MAX_PROBLEM: usize = 64 << 10;

impl Node {
    /// A client; nothing is connected yet.
    pub(crate) fn new(url: NodeUrl) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        Self { url, http: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// Asks, and gives the answer when its head is there and says 2xx.
    ///
    /// # Errors
    /// The node's refusal, or that there is none, or that it is silent.
    pub(crate) async fn open(&self, ask: Ask) -> Result<Response<Incoming>, Failure> {
        let Ask { tried, method, path, headers, body, within } = ask;
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|error| {
            Failure::new(Code::InvalidRequest, &tried, format!("no such request: {error}"))
        })?;
        let response = match tokio::time::timeout(within, self.http.request(request)).await {
            Err(_) => return Err(self.silent(&tried, within)),
            Ok(Err(error)) => return Err(self.no_answer(&tried, &error)),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem = Limited::new(response.into_body(), MAX_PROBLEM).collect();
        let problem = match tokio::time::timeout(PATIENCE, problem).await {
            Ok(Ok(problem)) => problem.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        Err(Failure::from_problem(status.as_u16(), &problem, &tried, &self.url.0))
    }

    /// Asks, and gives the whole answer with its content type.
    ///
    /// # Errors
    /// As [`open`](Self::open), and an answer that breaks off or is too large.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<(Bytes, String), Failure> {
        let (tried, within) = (ask.tried.clone(), ask.within);
        let response = self.open(ask).await?;
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let content_type = printable(content_type);
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
        match tokio::time::timeout(within, body).await {
            Err(_) => Err(self.silent(&tried, within)),
            Ok(Ok(body)) => Ok((body.to_bytes(), content_type)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let because = format!("the answer has more than {MAX_ANSWER} bytes");
                Err(Failure::new(Code::TooLarge, tried, because))
            }
            Ok(Err(error)) => Err(self.went_away(&tried, &error)),
        }
    }

    /// Asks, and reads the answer as JSON.
    ///
    /// # Errors
    /// As [`ask`](Self::ask), and an answer that is no JSON.
    pub(crate) async fn ask_json(&self, ask: Ask) -> Result<Value, Failure> {
        let tried = ask.tried.clone();
        let (body, _) = self.ask(ask).await?;
        serde_json::from_slice(&body).map_err(|error| self.not_ours(tried, &error))
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// As [`ask_json`](Self::ask_json).
    pub(crate) async fn status(&self) -> Result<Status, Failure> {
        let tried = format!("ask {} for its status", self.url);
        let value = self.ask_json(Ask::new(tried.clone(), Method::GET, "/v1/status")).await?;
        serde_json::from_value(value).map_err(|error| self.not_ours(tried, &error))
    }

    /// The node ended the connection in the middle of an answer.
    pub(crate) fn went_away(&self, tried: &str, error: &dyn fmt::Display) -> Failure {
        let because = format!("the node at {} went away: {error}", self.url);
        Failure::new(Code::Unreachable, tried, because)
            .with_next("See whether the node still runs, and what its log ends with.")
    }

    /// The node's answer is not what its version should say.
    pub(crate) fn not_ours(&self, tried: String, error: &dyn fmt::Display) -> Failure {
        let because = format!("the answer of {} cannot be read: {error}", self.url);
        Failure::new(Code::Protocol, tried, because)
            .with_next("Compare the versions of the node and of this command (`--version`).")
    }

    fn no_answer(&self, tried: &str, error: &hyper_util::client::legacy::Error) -> Failure {
        if !error.is_connect() {
            return self.went_away(tried, &Causes(error));
        }
        let because = format!("no node answers at {}: {}", self.url, Causes(error));
        Failure::new(Code::Unreachable, tried, because)
            .with_next("Start one: `macula-node dev`; or say where it is: `--url`, MACULA_URL.")
    }

    fn silent(&self, tried: &str, within: Duration) -> Failure {
        let because = format!("{} said nothing for {}", self.url, period::format(within));
        Failure::new(Code::Timeout, tried, because)
    }
}

/// The innermost cause: the outer ones say "client error" and "connect".
struct Causes<'a>(&'a dyn std::error::Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut innermost = self.0;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        write!(f, "{innermost}")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::exit::Exit;
    use super::*;

    /// A server that answers its one connection with these bytes and closes it. Gives what it read.
    pub(crate) async fn answering(
        answer: impl Into<String>,
    ) -> (Node, tokio::task::JoinHandle<String>) {
        let (node, server) = answering_each(vec![answer.into()]).await;
        (node, tokio::spawn(async { server.await.unwrap().remove(0) }))
    }

    /// A server that gives each connection the next of these answers and closes it. Gives what it
    /// read from each.
    pub(crate) async fn answering_each(
        answers: Vec<String>,
    ) -> (Node, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                requests.push(request(&mut stream).await);
                let answer = answer.replacen("\r\n", "\r\nConnection: close\r\n", 1);
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
            requests
        });
        (Node::new(url.parse().unwrap()), server)
    }

    async fn request(stream: &mut TcpStream) -> String {
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut buffer).await.unwrap();
            request.extend(&buffer[..count]);
            let text = String::from_utf8_lossy(&request);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if count == 0 || length.is_none_or(|length| length.parse() == Ok(body.len())) {
                return text.into_owned();
            }
        }
    }

    /// A whole response with this status line and body.
    pub(crate) fn response(status: &str, content_type: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    fn call() -> Ask {
        Ask::new("call `a`", Method::POST, "/v1/call/a")
    }

    #[test]
    fn an_url_is_a_scheme_a_host_and_a_port() {
        for text in ["http://127.0.0.1:7780", "http://localhost:1/", "http://[::1]:7780"] {
            let url: NodeUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text.trim_end_matches('/'));
        }
        for text in
            ["", "127.0.0.1:7780", "https://a", "http://a/b", "http://a?b", "http://u@a", "a b"]
        {
            assert!(text.parse::<NodeUrl>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_says_how_to_start_a_node() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let failure = Node::new(url.parse().unwrap()).ask(call()).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("unreachable", Exit::Unreachable));
        assert!(failure.because.starts_with(&format!("no node answers at {url}: ")), "{failure:?}");
        assert!(failure.next.starts_with("Start one: `macula-node dev`"));
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_nodes_words() {
        let problem = r#"{"code":"no_provider","detail":"none in dev.local","tried":"call `a`"}"#;
        let (node, _server) =
            answering(response("404 Not Found", "application/problem+json", problem)).await;
        let failure = node.ask(call()).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("no_provider", Exit::Unreachable));
        assert_eq!(failure.because, "none in dev.local");
    }

    #[tokio::test]
    async fn a_node_that_dies_before_or_within_its_answer_went_away() {
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
            let (node, _server) = answering(answer).await;
            let failure = node.ask(call()).await.unwrap_err();
            assert_eq!(failure.exit, Exit::Unreachable, "{answer:?}");
            assert!(failure.because.contains("went away"), "{failure:?}");
        }
    }

    #[tokio::test]
    async fn a_node_that_is_silent_meets_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let node = Node::new(url.parse().unwrap());
        let ask = Ask { within: Duration::from_millis(20), ..call() };
        let failure = node.ask(ask).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("timeout", Exit::Deadline));
        assert!(failure.because.ends_with("said nothing for 20ms"));
    }

    #[tokio::test]
    async fn another_programs_answer_is_not_believed() {
        for answer in
            [response("200 OK", "text/html", "<html>"), response("404 No", "a/b", "<html>")]
        {
            let (node, _server) = answering(answer).await;
            let failure = node.ask_json(call()).await.unwrap_err();
            assert_eq!((failure.code.as_str(), failure.exit), ("protocol", Exit::Failed));
        }
    }
}
