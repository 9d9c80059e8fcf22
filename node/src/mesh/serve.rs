//! The tasks of one link: its requests and flows, in and out, and its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use macula_proto::engine::{RequestId, failure_of};
use macula_proto::identity::Role;
use macula_proto::pubsub::flow;
use macula_proto::wire::message;
use macula_proto::wire::message::{request, response};
use macula_proto::{Code, Fault};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::nodes::Pending;
use super::outbox::Outbox;
use crate::clock;
use crate::peer::{Caller, Handler, Request};
use crate::supervise::{Counters, Kind, Spawner, failpoint};
use crate::transport::{FlowReader, Link, RequestStream};

/// A request that must not run twice goes to a node that was heard within this time, or answers a
/// ping first.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// How long that ping may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// While an answer is waited for, the link is looked after this often: a node that was killed says
/// nothing, and the deadline may be far.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How long the other end may then take to answer a ping. Longer than before a request: what is
/// under way is lost with the link.
const WATCH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a superseded link may take to finish what is under way on it.
const RETIREMENT: Duration = Duration::from_secs(5);

/// How long nothing may have been under way on it before it is closed, at least.
const QUIET: Duration = Duration::from_millis(100);

/// What a link's tasks tell the actor.
pub(super) enum Event {
    /// A request arrived.
    Request { link: Link, request: message::Request, reply: oneshot::Sender<Answer> },
    /// A request of ours was answered or failed.
    Response { id: RequestId, result: Result<response::Body, Fault> },
    /// A request of ours was not sent, since its link turned out dead.
    Again { link: Link, pending: Pending },
    /// Messages arrived.
    Messages(Vec<flow::Read>),
    /// The link ended.
    Unlinked { link: Link, fault: Fault },
}

/// What to do with a request that arrived.
pub(super) enum Answer {
    Respond(response::Body),
    Invoke(Invocation),
}

/// A handler, to be run for one call.
pub(super) struct Invocation {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) request: Request,
    /// Where its panic is counted.
    pub(super) counters: Arc<Counters>,
}

/// One link's tasks share this.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) link: Link,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
    pub(super) superseded: CancellationToken,
    /// Ends every task of the actor.
    pub(super) life: CancellationToken,
    pub(super) tasks: Spawner,
    /// Requests and flows under way on this link.
    pub(super) busy: Arc<AtomicUsize>,
    /// Of this node.
    pub(super) incarnation: u64,
    /// Whether messages may flow: both ends are peers, of one realm then.
    pub(super) flows: bool,
}

/// Something under way on a link. Gives itself back when dropped.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Context {
    /// Starts the tasks of the link. A panic in one ends the link, and nothing else.
    pub(super) fn start(&self) {
        let serve = self.clone();
        self.spawn(Kind::Connection, async move { serve.accept().await });
        if self.flows {
            let write = self.clone();
            self.spawn(Kind::Flow, async move { write.write_flow().await });
        }
        let retire = self.clone();
        self.spawn(Kind::Connection, async move { retire.retire().await });
    }

    fn spawn(&self, kind: Kind, task: impl Future<Output = ()> + Send + 'static) {
        let (life, link) = (self.life.clone(), self.link.clone());
        self.tasks.spawn(kind, async move {
            let broken = CloseOnPanic(Some(link));
            life.run_until_cancelled(task).await;
            broken.disarm();
        });
    }

    /// Serves what the other end opens, until the link ends.
    async fn accept(&self) {
        let until = self.link.valid_until();
        let left = Duration::from_secs(until).saturating_sub(clock::now_since_epoch());
        let expiry = tokio::time::sleep(left);
        tokio::pin!(expiry);
        let fault = loop {
            failpoint(Kind::Connection);
            tokio::select! {
                request = self.link.accept_request() => match request {
                    Ok(stream) => self.serve(stream),
                    Err(fault) => break fault,
                },
                flow = self.link.accept_flow() => match flow {
                    Ok(flow) => self.read(flow),
                    Err(fault) => break fault,
                },
                () = &mut expiry => {
                    self.link.close(Code::CertificateExpired, "a certificate of this connection has expired");
                    let because = "a certificate of the connection has expired";
                    break Fault::new(Code::CertificateExpired, because);
                }
            }
        };
        // Without a receiver the actor is gone, and knows no links.
        let _ = self.events.send(Event::Unlinked { link: self.link.clone(), fault }).await;
    }

    fn serve(&self, mut stream: RequestStream) {
        let (link, events, busy) = (self.link.clone(), self.events.clone(), Busy::new(&self.busy));
        self.tasks.spawn(
            Kind::Stream,
            self.until_end(async move {
                let _busy = busy;
                failpoint(Kind::Stream);
                let request = match stream.request().await {
                    Ok(request) => request,
                    Err(fault) => {
                        // The asker may have gone, which is then no news.
                        let _ = stream.respond(response::Body::Failure(failure_of(&fault))).await;
                        return;
                    }
                };
                link.on_heard();
                let (reply, answer) = oneshot::channel();
                if events.send(Event::Request { link, request, reply }).await.is_err() {
                    return;
                }
                let body = match answer.await {
                    Ok(Answer::Respond(body)) => body,
                    Ok(Answer::Invoke(invocation)) => tokio::select! {
                        body = invocation.run() => body,
                        () = stream.cancelled() => return,
                    },
                    Err(_) => response::Body::Failure(failure_of(&super::restarted())),
                };
                // The asker may have gone.
                let _ = stream.respond(body).await;
            }),
        );
    }

    fn read(&self, flow: FlowReader) {
        if !self.flows {
            flow.refuse(Code::Unsupported);
            return;
        }
        let context = self.clone();
        let busy = Busy::new(&self.busy);
        self.spawn(Kind::Flow, async move {
            let _busy = busy;
            let _turn = context.gate.lock().await;
            context.read_flow(flow).await;
        });
    }

    async fn read_flow(&self, mut flow: FlowReader) {
        let publisher = self.link.identity().id;
        let mut reader = flow::Reader::new(publisher);
        loop {
            failpoint(Kind::Flow);
            let frames = match flow.read().await {
                Ok(Some(frames)) => frames,
                Ok(None) => return,
                Err(fault) => {
                    tracing::debug!(%publisher, %fault, "a flow broke off");
                    return flow.refuse(fault.code);
                }
            };
            self.link.on_heard();
            let mut messages = Vec::with_capacity(frames.len());
            for frame in frames {
                match reader.read(frame) {
                    Ok(read) => messages.extend(read),
                    Err(fault) => {
                        tracing::warn!(%publisher, %fault, "refused a flow");
                        return flow.refuse(fault.code);
                    }
                }
            }
            if self.events.send(Event::Messages(messages)).await.is_err() {
                return;
            }
        }
    }

    /// Writes what the outbox holds, until a better link comes.
    async fn write_flow(&self) {
        let _turn = tokio::select! {
            biased;
            // A link that is the worse one from its first day never gets a turn.
            () = self.superseded.cancelled() => return,
            _ = self.link.closed() => return,
            turn = self.outbox.turn.lock() => turn,
        };
        let mut encoder = flow::Writer::default();
        let mut batch = BytesMut::new();
        let mut flow = None;
        loop {
            failpoint(Kind::Flow);
            tokio::select! {
                biased;
                () = self.superseded.cancelled() => break,
                _ = self.link.closed() => return,
                () = self.outbox.filled() => {}
            }
            let (stream, _) = match &mut flow {
                Some(flow) => flow,
                None => match self.link.open_flow().await {
                    Ok(stream) => {
                        flow::Writer::open(self.incarnation, &mut batch);
                        // Until the other end has all of it, the link must not retire.
                        flow.insert((stream, Busy::new(&self.busy)))
                    }
                    Err(_) => return,
                },
            };
            let count = self.outbox.take(&mut encoder, &mut batch);
            self.link.on_used();
            if let Err(fault) = stream.write(&mut batch).await {
                tracing::debug!(node = %self.link.identity().id, %fault, "a flow could not be written");
                self.outbox.on_lost(count);
                return;
            }
        }
        if let Some((stream, _busy)) = flow {
            // On failure the link has ended, and what it held with it.
            let _ = stream.finish().await;
        }
    }

    /// Closes a superseded link when nothing is under way on it any more.
    async fn retire(&self) {
        tokio::select! {
            _ = self.link.closed() => return,
            () = self.superseded.cancelled() => {}
        }
        let quiet = async {
            // Until requests and flows, in and out, have ended; and the other end, which may learn
            // of the newer link half a round trip later, has had time to begin none here.
            let enough = QUIET.max(3 * self.link.rtt());
            let mut check = tokio::time::interval(QUIET / 5);
            let mut since = Instant::now();
            while since.elapsed() < enough {
                check.tick().await;
                if self.busy.load(Ordering::Relaxed) > 0 {
                    since = Instant::now();
                }
            }
        };
        let _ = tokio::time::timeout(RETIREMENT, quiet).await;
        self.link.close(Code::Superseded, "a newer connection took its place");
    }

    fn until_end<F: Future<Output = ()> + Send + 'static>(
        &self,
        task: F,
    ) -> impl Future<Output = ()> + Send + use<F> {
        let life = self.life.clone();
        async move {
            life.run_until_cancelled(task).await;
        }
    }

    /// Sends a request of ours.
    pub(super) fn ask(&self, pending: Pending, cancelled: CancellationToken) {
        let (link, events, busy) = (self.link.clone(), self.events.clone(), Busy::new(&self.busy));
        self.tasks.spawn(
            Kind::Stream,
            self.until_end(async move {
                let _busy = busy;
                failpoint(Kind::Stream);
                let id = pending.id;
                let asked = cancelled.run_until_cancelled(ask(&link, pending)).await;
                let event = match asked {
                    None => return,
                    Some(Asked::Response(result)) => Event::Response { id, result },
                    Some(Asked::Dead(pending)) => {
                        link.close(Code::Unreachable, "did not answer a ping");
                        Event::Again { link, pending }
                    }
                    Some(Asked::Ended(pending)) => Event::Again { link, pending },
                };
                // Without a receiver nobody waits for it.
                let _ = events.send(event).await;
            }),
        );
    }
}

enum Asked {
    Response(Result<response::Body, Fault>),
    /// It was not asked: the link does not answer.
    Dead(Pending),
    /// The link ended, perhaps since nobody had used it, and what was asked may be asked again.
    Ended(Pending),
}

async fn ask(link: &Link, pending: Pending) -> Asked {
    link.on_used();
    if !pending.repeatable && link.silent_for() > PROBE_AFTER {
        let ping = request::Body::Ping(message::Ping {});
        let probe = tokio::time::timeout(PROBE_TIMEOUT, exchange(link, ping)).await;
        if !matches!(probe, Ok(Ok(_))) {
            return Asked::Dead(pending);
        }
    }
    let answered = async {
        tokio::select! {
            answer = exchange(link, pending.body.clone()) => match answer {
                Err(Fault { code: Code::Unreachable | Code::Interrupted, .. })
                    if pending.repeatable && !pending.again => None,
                answer => Some(answer),
            },
            fault = silence(link) => Some(Err(fault)),
        }
    };
    match tokio::time::timeout(pending.timeout, answered).await {
        Ok(Some(result)) => Asked::Response(result),
        Ok(None) => Asked::Ended(pending),
        Err(_) => Asked::Response(Err(Fault::new(Code::Timeout, "no answer before the deadline"))),
    }
}

/// Ends when the link turns out to be dead, and closes it.
async fn silence(link: &Link) -> Fault {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        if link.silent_for() <= WATCH_EVERY {
            continue;
        }
        let ping = request::Body::Ping(message::Ping {});
        let pong = tokio::time::timeout(WATCH_TIMEOUT, exchange(link, ping)).await;
        if !matches!(pong, Ok(Ok(_))) {
            let because = "the node does not answer any more";
            link.close(Code::Unreachable, because);
            return Fault::new(Code::Interrupted, because);
        }
    }
}

/// One request and its response. `unreachable`: it was certainly not sent.
pub(crate) async fn exchange(link: &Link, body: request::Body) -> Result<response::Body, Fault> {
    let mut stream =
        link.open_request().await.map_err(|fault| Fault::new(Code::Unreachable, fault.because))?;
    let answer = stream.ask(body).await?;
    link.on_heard();
    Ok(answer)
}

impl Invocation {
    /// Runs the handler in a task of its own. Dropping this cancels it.
    pub(super) async fn run(self) -> response::Body {
        let Self { handler, runtime, request, counters } = self;
        let timeout = request.timeout;
        let task = runtime.spawn(async move {
            failpoint(Kind::Handler);
            handler.call(request).await
        });
        let task = tokio_util::task::AbortOnDropHandle::new(task);
        let result = match tokio::time::timeout(timeout, task).await {
            Err(_) => Err(Fault::new(Code::Timeout, "the handler did not answer in time")),
            Ok(Err(error)) if error.is_panic() => {
                counters.panicked(Kind::Handler);
                Err(Fault::new(Code::HandlerError, "the handler panicked"))
            }
            Ok(Err(_)) => Err(Fault::new(Code::HandlerError, "the handler's runtime has ended")),
            Ok(Ok(result)) => result,
        };
        let result = result.and_then(|payload| payload.check().map(|()| payload));
        match result {
            Ok(payload) => response::Body::Answer(message::Answer {
                payload: payload.body,
                content_type: payload.content_type.to_string(),
            }),
            Err(fault) => response::Body::Failure(failure_of(&fault)),
        }
    }
}

/// The caller's side of a request, from its link.
pub(super) fn caller(link: &Link) -> Caller {
    let identity = link.identity();
    Caller { id: identity.id, name: identity.subject.name.clone() }
}

/// Whether messages may flow between these two roles.
pub(super) fn may_flow(mine: Role, theirs: Role) -> bool {
    mine == Role::Peer && theirs == Role::Peer
}

/// Closes the link when its task panics: half a link would be worse.
struct CloseOnPanic(Option<Link>);

impl CloseOnPanic {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnPanic {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.close(Code::Internal, "a task of the connection failed");
        }
    }
}
