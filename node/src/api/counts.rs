//! `GET /v1/counts`: which nodes this one is connected to, by HTTPS and for the operator alone.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use macula_config::counts::{Counts, Node, PATH};
use macula_identity::operator::counts_server_config;
use macula_identity::{Subject, tls};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::into_tokio;
use crate::identity::Source;
use crate::peer::Peer;
use crate::supervise::{Kind, Spawner, Tree, failpoint};

/// Connections at a time. The operator needs one; the others are for strangers to hold in vain, at
/// some 20 KiB each.
const CONNECTIONS: usize = 32;

/// How long the handshake may take: what a stranger who says nothing holds one for.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// How long one may last in all, from the first byte of TLS to the answer.
const LONGEST: Duration = Duration::from_secs(10);

/// How long no connection is taken after taking one failed.
const PAUSE: Duration = Duration::from_millis(100);

/// What the listener needs.
#[derive(Debug)]
struct Server {
    listener: tokio::net::TcpListener,
    source: Source,
    ca: PathBuf,
    peer: Peer,
    tasks: Spawner,
    connections: Arc<Semaphore>,
}

/// Adds the listener to the node's tree. Its certificate is the node's own of the moment; `ca` is the
/// file of the operator's CA.
///
/// # Errors
/// When the listener cannot be used.
pub fn add_counts(
    tree: &mut Tree,
    runtime: &Handle,
    listener: TcpListener,
    source: Source,
    ca: PathBuf,
    peer: &Peer,
) -> io::Result<()> {
    let server = Arc::new(Server {
        listener: into_tokio(listener, runtime)?,
        source,
        ca,
        peer: peer.clone(),
        tasks: tree.spawner(),
        connections: Arc::new(Semaphore::new(CONNECTIONS)),
    });
    tree.child(Kind::Admin, "counts", runtime, move |stop| {
        let server = server.clone();
        async move {
            stop.run_until_cancelled(server.run()).await;
            Ok::<(), io::Error>(())
        }
    });
    Ok(())
}

impl Server {
    async fn run(self: &Arc<Self>) {
        loop {
            failpoint(Kind::Admin);
            // A crowd waits in the kernel's queue, which is bounded too.
            let permit = self.connections.clone().acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let this = self.clone();
                    self.tasks.spawn(Kind::Http, async move {
                        if timeout(LONGEST, this.serve(stream)).await.is_err() {
                            debug!("a connection for the counts took too long");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot take a connection for the counts");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream) {
        let config = match self.config() {
            Ok(config) => config,
            Err(because) => {
                warn!(because, "the counts cannot be told");
                return;
            }
        };
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream);
        let refused = match timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => return self.converse(stream).await,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not say who it is in time".to_owned(),
        };
        self.peer.metrics().counts_refused.inc();
        debug!(because = refused, "somebody else asked for the counts");
    }

    async fn converse(&self, stream: TlsStream<TcpStream>) {
        let service = service_fn(|request| self.answer(request));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            debug!(%error, "a connection for the counts ended");
        }
    }

    fn config(&self) -> Result<rustls::ServerConfig, String> {
        let credentials = self.source.borrow().clone();
        let ca = std::fs::read_to_string(&self.ca)
            .map_err(|error| format!("{}: {error}", self.ca.display()))?;
        let presented = tls::Credentials::new(&credentials.chain, &credentials.key);
        counts_server_config(&presented, &ca, &credentials.mesh.trust_domain)
            .map_err(|error| error.to_string())
    }

    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let mut response = Response::default();
        if request.uri().path() != PATH {
            *response.status_mut() = StatusCode::NOT_FOUND;
        } else if request.method() != Method::GET {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        } else {
            let counts = self.counts().await?;
            let body = serde_json::to_vec(&counts).expect("counts can be written as JSON");
            *response.body_mut() = Full::from(body);
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
        }
        Ok(response)
    }

    async fn counts(&self) -> io::Result<Counts> {
        let status = self.peer.status().await.map_err(|fault| io::Error::other(fault.because))?;
        let node = |id: String, subject: &str| {
            let subject: Subject = subject.parse().map_err(io::Error::other)?;
            let realm = subject.realm().map(ToString::to_string);
            Ok(Node { id, role: subject.role(), realm })
        };
        let links = status.connections.into_iter().map(|link| node(link.id, &link.subject));
        Ok(Counts {
            links: links.collect::<io::Result<_>>()?,
            node: node(status.node.id, &status.certificate.subject)?,
        })
    }
}
