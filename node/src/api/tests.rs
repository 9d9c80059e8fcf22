//! The server over real sockets, byte by byte: each limit has its name, and what is just within it
//! is answered. The endpoints that need a mesh are tested in `tests/`, over a real one.

mod callback;
mod limits;
mod whole;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::body::{self, Body};
use super::door;
use super::limits::Times;
use super::server::{Answering, Server, Service};
use crate::metrics::Metrics;
use crate::supervise::{Kind, Settings, Spawner, Tree};

/// Short, and far enough apart to tell which one struck.
const TIMES: Times = Times {
    head: Duration::from_millis(300),
    body: Duration::from_millis(300),
    idle: Duration::from_millis(600),
    write: Duration::from_millis(300),
    ping: Duration::from_millis(100),
    linger: Duration::from_millis(500),
    drain: Duration::from_millis(300),
};

/// Answers with the body that it got; `/panic` panics, `/stream` never ends.
#[derive(Debug, Default)]
struct Echo {
    metrics: Metrics,
}

impl Service for Echo {
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answering {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            door::check(&head)?;
            match head.uri.path() {
                "/panic" => panic!("as the test asked"),
                "/ignore" => return Ok(Response::new(Body::full("ignored"))),
                "/never" => std::future::pending().await,
                "/stream" => {
                    let (sender, receiver) = mpsc::channel(1);
                    tokio::spawn(async move {
                        while sender.send(Bytes::from(vec![b'x'; 64 << 10])).await.is_ok() {}
                    });
                    return Ok(Response::new(Body::Stream(receiver)));
                }
                _ => {}
            }
            Ok(Response::new(Body::full(body::read(body, TIMES.body).await?)))
        })
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// A server in the test's process.
struct Running {
    address: SocketAddr,
    echo: Arc<Echo>,
    tasks: Spawner,
    stop: CancellationToken,
}

impl Running {
    async fn start() -> Self {
        Self::with_connections(8).await
    }

    async fn with_connections(connections: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let tasks = Tree::new(Settings::default(), stop.clone()).spawner();
        let echo = Arc::new(Echo::default());
        let server = Server::new(listener, echo.clone(), tasks.clone(), TIMES, connections);
        tokio::spawn(Arc::new(server).run(Kind::HttpApi, stop.clone()));
        Self { address, echo, tasks, stop }
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), read: Vec::new() }
    }

    /// Sends these bytes and reads one answer.
    async fn ask(&self, bytes: impl AsRef<[u8]>) -> Answered {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client.answer().await.expect("an answer")
    }
}

/// A client that sends whatever it likes.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
struct Answered {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next answer, by its Content-Length; `None` when the connection ended instead.
    async fn answer(&mut self) -> Option<Answered> {
        let patience = Duration::from_secs(5);
        tokio::time::timeout(patience, self.read_answer()).await.expect("an answer, or an end")
    }

    async fn read_answer(&mut self) -> Option<Answered> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap().to_lowercase();
        let field = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = field.map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length {
            self.more().await.expect("the rest of the body");
        }
        let body = self.read.drain(..length).collect();
        Some(Answered { status: head[9..12].parse().unwrap(), head, body })
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.read).await.unwrap_or(0) {
            0 => None,
            _ => Some(()),
        }
    }

    /// Whether the server closes the connection soon.
    async fn is_closed(&mut self) -> bool {
        tokio::time::timeout(Duration::from_secs(3), self.more())
            .await
            .is_ok_and(|more| more.is_none())
    }
}

impl Answered {
    /// The code of the problem document that this must be.
    fn code(&self) -> String {
        let head = &self.head;
        assert!(head.contains("content-type: application/problem+json\r\n"), "{self:?}");
        let document: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(document["status"], self.status);
        for field in ["type", "title", "detail", "tried", "next"] {
            assert!(!document[field].as_str().unwrap().is_empty(), "{field} in {document}");
        }
        assert!(document["retryable"].is_boolean());
        document["code"].as_str().unwrap().to_owned()
    }
}
