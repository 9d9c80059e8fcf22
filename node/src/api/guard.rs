//! A connection under watch: what is late ends it, and no refusal is without its problem document.
//!
//! hyper answers a head that it cannot parse with a bare status, and one that does not come with
//! nothing. [`Guarded`] stands between hyper and the socket. It knows from the calls that pass it
//! which request the connection is at, so it can time each part, and take away what hyper says when
//! no answer of ours is under way; [`Watch::verdict`] then tells what to say instead.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use macula_config::period;
use macula_proto::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::{Body, with_sources};
use super::limits::{self, Times};
use super::problem::Problem;

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    Fresh,
    /// Between two requests.
    Idle,
    /// Some of a request's head is there.
    Head,
    /// The request is being handled.
    Busy,
    /// hyper has the answer, and its body is not at its end.
    Answering,
    /// hyper has all of the answer, and may not have written all of it.
    Flushing,
}

/// Why the connection was ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// A head did not arrive in time.
    Slow,
    /// No further request came.
    Idle,
    /// hyper could not parse a head, and would have answered this.
    Unparsed { status: [u8; 3] },
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    ended: Option<Ended>,
}

/// What the socket's guard, the service and the answers' bodies know together of a connection.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    state: Arc<Mutex<State>>,
    times: Times,
}

impl Watch {
    pub(super) fn new(times: Times) -> Self {
        let state = State { phase: Phase::Fresh, since: Instant::now(), ended: None };
        Self { state: Arc::new(Mutex::new(state)), times }
    }

    /// Nothing has come yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.state().phase == Phase::Fresh
    }

    /// A request's head is complete.
    pub(super) fn on_request(&self) {
        self.state().phase = Phase::Busy;
    }

    /// The answer is there: hyper may write from here to the end of this body.
    pub(super) fn on_answer(&self, body: Body) -> Answer {
        self.state().phase = Phase::Answering;
        Answer { body, watch: self.clone() }
    }

    /// What to tell the client when hyper is done with the connection; `None` when there is nothing
    /// to say, or no way.
    pub(super) fn verdict(&self, error: Option<&hyper::Error>) -> Option<Problem> {
        let (ended, phase) = {
            let state = self.state();
            (state.ended, state.phase)
        };
        match (ended, phase) {
            (Some(Ended::Slow), _) => {
                let head = period::format(self.times.head);
                let because = format!("the request's headers were not there within {head}");
                Some(Problem::new(Code::SlowClient, because))
            }
            // 431 Request Header Fields Too Large, 414 URI Too Long.
            (Some(Ended::Unparsed { status: [b'4', b'3', b'1'] | [b'4', b'1', b'4'] }), _) => {
                let because = format!(
                    "more than {} headers, or more than {} bytes of them",
                    limits::HEADERS,
                    limits::HEAD_BYTES,
                );
                Some(Problem::new(Code::HeadersTooLarge, because))
            }
            (Some(Ended::Unparsed { status: _ }), _) | (None, Phase::Head) => error.map(|error| {
                let because = format!("the request's head cannot be read: {}", with_sources(error));
                Problem::new(Code::InvalidRequest, because)
            }),
            (Some(Ended::Idle), _)
            | (
                None,
                Phase::Fresh | Phase::Idle | Phase::Busy | Phase::Answering | Phase::Flushing,
            ) => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.state();
        state.phase = phase;
        state.since = Instant::now();
    }

    fn on_read(&self) {
        let phase = self.state().phase;
        if matches!(phase, Phase::Fresh | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    fn on_flushed(&self) {
        let phase = self.state().phase;
        if phase == Phase::Flushing {
            self.enter(Phase::Idle);
        }
    }

    /// When what is awaited now is late, and what that is called.
    fn read_deadline(&self) -> Option<(Instant, Ended)> {
        let state = self.state();
        match state.phase {
            Phase::Fresh | Phase::Head => Some((state.since + self.times.head, Ended::Slow)),
            Phase::Idle => Some((state.since + self.times.idle, Ended::Idle)),
            Phase::Busy | Phase::Answering | Phase::Flushing => None,
        }
    }

    /// Whether hyper writes this of its own accord, and in place of an answer: it must not go out.
    fn intercepts(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        match state.phase {
            Phase::Answering | Phase::Flushing => false,
            Phase::Fresh | Phase::Idle | Phase::Head | Phase::Busy => {
                let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.first_chunk());
                match status {
                    // 100 Continue.
                    Some(b"100") => false,
                    status => {
                        let status = *status.unwrap_or(b"400");
                        state.ended.get_or_insert(Ended::Unparsed { status });
                        true
                    }
                }
            }
        }
    }
}

/// The body of an answer; the connection is past it when hyper has dropped it.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    watch: Watch,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.watch.enter(Phase::Flushing);
    }
}

/// A stream under watch.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    watch: Watch,
    reading: Timer,
    writing: Timer,
    /// Since when the client has not taken a byte.
    stalled: Option<Instant>,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, watch: Watch) -> Self {
        Self { stream, watch, reading: Timer::default(), writing: Timer::default(), stalled: None }
    }

    /// The stream, no longer under watch.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Poll::Ready(outcome) = Pin::new(&mut this.stream).poll_read(cx, buffer) {
            if buffer.filled().len() > before {
                this.watch.on_read();
            }
            return Poll::Ready(outcome);
        }
        if let Some((deadline, ended)) = this.watch.read_deadline()
            && this.reading.poll(cx, deadline).is_ready()
        {
            this.watch.state().ended = Some(ended);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

// Not vectored, so that hyper begins each answer with a write of its own: see `intercepts`.
impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.watch.intercepts(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        if let Poll::Ready(outcome) = Pin::new(&mut this.stream).poll_write(cx, bytes) {
            this.stalled = None;
            return Poll::Ready(outcome);
        }
        let since = *this.stalled.get_or_insert_with(Instant::now);
        if this.writing.poll(cx, since + this.watch.times.write).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes the socket when its own buffer is empty, and not before.
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        if outcome.is_ready() {
            this.watch.on_flushed();
            // hyper may read again only when the socket has something, which may be never.
            if let Some((deadline, _)) = this.watch.read_deadline() {
                let _woken_when_it_has_passed = this.reading.poll(cx, deadline);
            }
        }
        outcome
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// A sleep whose end may move.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}
