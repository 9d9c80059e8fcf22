//! Takes connections, up to the limit, and serves HTTP/1.1 on each.
//!
//! What the requests mean is none of its business: a [`Service`] answers them. It sees to it that
//! every request is answered in time, by name and in bounded memory.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use macula_proto::Code;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::body::Body;
use super::guard::{Guarded, Watch};
use super::limits::{self, Times};
use super::problem::Problem;
use super::route;
use super::task::in_own_task;
use crate::metrics::{Class, Metrics};
use crate::supervise::{Kind, Spawner, failpoint};

/// How long no connection is taken after taking one failed: usually for want of a file descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// What a [`Service`] answers with, in the end.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Problem>> + Send>>;

/// Answers requests.
pub(super) trait Service: Send + Sync + 'static {
    /// Answers one, in a task of its own, which is dropped when the client is gone.
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answering;

    /// What is counted is counted here.
    fn metrics(&self) -> &Metrics;
}

/// One listener and what it serves.
#[derive(Debug)]
pub(super) struct Server<S> {
    listener: TcpListener,
    service: Arc<S>,
    tasks: Spawner,
    times: Times,
    connections: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

impl<S: Service> Server<S> {
    pub(super) fn new(
        listener: TcpListener,
        service: Arc<S>,
        tasks: Spawner,
        times: Times,
        connections: usize,
    ) -> Self {
        Self {
            listener,
            service,
            tasks,
            times,
            connections: Arc::new(Semaphore::new(connections)),
            refusals: Arc::new(Semaphore::new(limits::REFUSALS)),
        }
    }

    /// Takes connections until it is told to stop. Those that are open have tasks of their own.
    pub(super) async fn run(self: Arc<Self>, kind: Kind, stop: CancellationToken) {
        loop {
            failpoint(kind);
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.take(stream),
                Err(error) => {
                    warn!(%error, "cannot take an HTTP connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn take(self: &Arc<Self>, stream: TcpStream) {
        if let Ok(permit) = self.connections.clone().try_acquire_owned() {
            let this = self.clone();
            self.tasks.spawn(Kind::Http, async move {
                let _open = Open::new(&this.service);
                this.serve(stream).await;
                drop(permit);
            });
            return;
        }
        self.service.metrics().http_refused.inc(Code::TooManyConnections);
        let Ok(permit) = self.refusals.clone().try_acquire_owned() else { return };
        let linger = self.times.linger;
        self.tasks.spawn(Kind::Http, async move {
            let because = "every connection that the API may have is open";
            let problem = Problem::new(Code::TooManyConnections, because);
            let problem = problem.tried(|| "open an HTTP connection".to_owned());
            part(stream, &problem.last_words(), linger).await;
            drop(permit);
        });
    }

    /// Serves one connection to its end.
    async fn serve(self: &Arc<Self>, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "the connection is gone already");
            return;
        }
        let watch = Watch::new(self.times);
        let (this, seen) = (self.clone(), watch.clone());
        let service = service_fn(move |request| {
            seen.on_request();
            let (this, seen) = (this.clone(), seen.clone());
            Box::pin(async move {
                let response = this.answer(request).await;
                Ok::<_, std::convert::Infallible>(response.map(|body| seen.on_answer(body)))
            })
        });
        let mut connection = http1::Builder::new()
            .max_headers(limits::HEADERS)
            .max_header_size(limits::HEAD_BYTES)
            .max_buf_size(limits::BUFFER)
            // The guard's work.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(Guarded::new(stream, watch.clone())), service);
        let stopping = self.tasks.stopping();
        let ended = tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
            () = stopping.cancelled() => {
                // Whoever has just connected has asked already; the words are still on their way.
                let begun = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
                    Poll::Pending if !watch.is_fresh() => Poll::Ready(None),
                    other => other.map(Some),
                });
                if let Ok(Some(ended)) = timeout(limits::ARRIVAL, begun).await {
                    ended
                } else {
                    Pin::new(&mut connection).graceful_shutdown();
                    let rest = poll_fn(|cx| connection.poll_without_shutdown(cx));
                    timeout(self.times.drain, rest).await.unwrap_or(Ok(()))
                }
            }
        };
        let error = ended.err();
        if let Some(error) = &error {
            debug!(error = super::body::with_sources(error), "an HTTP connection ended");
        }
        let problem = watch.verdict(error.as_ref());
        let last_words = problem.map_or_else(Vec::new, |problem| {
            self.service.metrics().http_refused.inc(problem.code());
            problem.tried(|| "read an HTTP request".to_owned()).last_words()
        });
        part(connection.into_parts().io.into_inner().into_inner(), &last_words, self.times.linger)
            .await;
    }

    /// Answers one request, whatever happens to the task that does.
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let endpoint = route::endpoint(request.uri().path());
        let path: String = request.uri().path().chars().take(200).collect();
        let tried = format!("{} {path}", request.method());
        let service = self.service.clone();
        let work = async move {
            failpoint(Kind::Http);
            service.answer(request).await
        };
        let answer = in_own_task(&self.tasks, Kind::Http, work).await.unwrap_or_else(|| {
            Err(Problem::new(Code::Internal, "the task that handled the request died"))
        });
        let metrics = self.service.metrics();
        let response = answer.unwrap_or_else(|problem| {
            metrics.http_refused.inc(problem.code());
            problem.tried(|| tried).response()
        });
        metrics.http_requests.inc((endpoint, Class::of(response.status().as_u16())));
        response
    }
}

/// Says the last words and closes, so that they are read: what the client still sends is thrown
/// away for a moment, because closing with bytes unread resets the connection (RFC 9112 §9.6).
async fn part(mut stream: TcpStream, last_words: &[u8], linger: Duration) {
    // Whatever fails here, the connection is closed, which is what is wanted.
    let _ = timeout(linger, async {
        stream.write_all(last_words).await?;
        stream.shutdown().await?;
        let mut ignored = [0; 4096];
        while stream.read(&mut ignored).await? > 0 {}
        Ok::<(), std::io::Error>(())
    })
    .await;
}

/// Counts a connection for as long as it is open.
struct Open<S: Service>(Arc<S>);

impl<S: Service> Open<S> {
    fn new(service: &Arc<S>) -> Self {
        service.metrics().http_connections.inc();
        Self(service.clone())
    }
}

impl<S: Service> Drop for Open<S> {
    fn drop(&mut self) {
        self.0.metrics().http_connections.dec();
    }
}
