//! What lies between engines: dials, links, latency, and what a crash does to them. It follows the
//! shell (`macula-node`'s `mesh`), step by step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use macula_identity::{Identity, NodeId};
use rand::Rng;

use super::{Happened, Node, Swarm};
use crate::engine::{Handled, Output, RequestId, failure_of};
use crate::error::{Code, Fault};
use crate::payload::Payload;
use crate::pubsub::{Message, flow};
use crate::realm::Expected;
use crate::wire::{Frame, FrameDecoder, message};
use message::{request, response};

/// A link whose other end says nothing for this long has ended.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A dial that nobody answers fails after this.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// After a dial has failed, nobody waits for another for this long.
pub(super) const DIAL_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What must not run twice goes to a node that was heard within this time, or answers a ping first.
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(1);
/// How long that ping may take.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// One way between neighbours, in microseconds.
const NEAR_US: f64 = 1_000.0;
/// One way between opposite corners of the map.
const FAR_US: f64 = 80_000.0;

/// What will happen.
#[derive(Debug)]
pub(super) enum Event {
    /// A node starts, and dials its seeds.
    Start(NodeId),
    /// The engine wants its timeout.
    Wake(NodeId),
    /// A dial has succeeded, or is given up.
    Dialled { from: NodeId, to: NodeId, expected: Expected, began: Instant },
    /// A ping before a request was answered, or has timed out.
    Probed { from: NodeId, to: NodeId, pending: Pending },
    /// Bytes arrive.
    Arrives { from: NodeId, to: NodeId, stream: Stream, bytes: Bytes },
    /// The link to a node that crashed has been silent for too long.
    FellSilent { at: NodeId, other: NodeId },
}

/// On which stream of a link bytes travel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Request(RequestId),
    Response(RequestId),
    Flow { link: u64 },
}

/// A request that waits for a link.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: RequestId,
    pub(super) body: request::Body,
    pub(super) repeatable: bool,
    /// Whether it went back to waiting before, because its link was dead.
    pub(super) again: bool,
}

/// One end's way to another node.
#[derive(Debug)]
pub(super) enum Path {
    Dialling { waiting: Vec<Pending>, outbox: Vec<Arc<Message>> },
    Up(Box<Link>),
    Failed { until: Instant },
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Link {
    /// Both ends' number of it.
    pub(super) number: u64,
    pub(super) heard: Instant,
    pub(super) writer: Option<flow::Writer>,
    pub(super) decoder: FrameDecoder,
    pub(super) reader: flow::Reader,
}

impl Swarm {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Start(node) if self.is_alive(node) => self.dial_seeds(node),
            Event::Wake(node) if self.nodes[&node].wake == Some(self.now.instant) => {
                let (now, it) = (self.now, self.node(node));
                it.wake = None;
                it.engine.handle_timeout(now);
                self.settle(node);
            }
            Event::Dialled { from, to, expected, began } if self.is_alive(from) => {
                self.on_dialled(from, to, expected, began);
            }
            Event::Probed { from, to, pending } if self.is_alive(from) => {
                self.on_probed(from, to, pending);
            }
            Event::Arrives { from, to, stream, bytes } if self.is_alive(to) => {
                self.on_arrival(from, to, stream, &bytes);
            }
            Event::FellSilent { at, other } if self.is_alive(at) => self.disconnect(at, other),
            // Of the dead, or of a wake-up that was brought forward.
            Event::Start(_)
            | Event::Wake(_)
            | Event::Dialled { .. }
            | Event::Probed { .. }
            | Event::Arrives { .. }
            | Event::FellSilent { .. } => {}
        }
    }

    /// Carries out what a node wants done, until it wants nothing.
    pub(super) fn settle(&mut self, id: NodeId) {
        let now = self.now;
        while let Some(output) = self.node(id).engine.poll_output(now) {
            match output {
                Output::Request { id: request, to, body, timeout: _, repeatable } => {
                    let pending = Pending { id: request, body, repeatable, again: false };
                    self.ask(id, &to, pending);
                }
                Output::Cancel(request) => {
                    let node = self.node(id);
                    if node.asked.remove(&request).is_none() {
                        node.cancelled.insert(request);
                    }
                }
                Output::Invoke { id: request, call } => {
                    let answer = echo(call.payload);
                    self.node(id).engine.handle_response(now, request, Ok(answer));
                }
                Output::Send { to, message } => {
                    for subscriber in to.iter() {
                        self.send(id, *subscriber, &message);
                    }
                }
                Output::Deliver { .. }
                | Output::Gap { .. }
                | Output::Published { .. }
                | Output::Returned { .. }
                | Output::Announced { .. }
                | Output::LookedUp { .. } => {
                    let at = self.elapsed();
                    self.happened.push(Happened { at, node: id, output });
                }
            }
        }
        let node = self.node(id);
        let due = node.engine.poll_timeout().map(|deadline| deadline.at.max(now.instant));
        if let Some(at) = due
            && node.wake.is_none_or(|wake| at < wake)
        {
            node.wake = Some(at);
            self.foresee(at.duration_since(now.instant), Event::Wake(id));
        }
    }

    // ---- bytes ----

    pub(super) fn carry(&mut self, from: NodeId, to: NodeId, stream: Stream, bytes: Bytes) {
        let takes = self.latency(from, to);
        self.foresee(takes, Event::Arrives { from, to, stream, bytes });
    }

    fn on_arrival(&mut self, from: NodeId, to: NodeId, stream: Stream, bytes: &Bytes) {
        let now = self.now;
        // Without a link at this end: it was given up meanwhile.
        let Some(Path::Up(mut link)) = self.node(to).paths.remove(&from) else { return };
        link.heard = now.instant;
        let mut one = FrameDecoder::default();
        let decoder = match stream {
            Stream::Request(_) | Stream::Response(_) => &mut one,
            Stream::Flow { .. } => &mut link.decoder,
        };
        let frames = self.decode(decoder, bytes.clone());
        let mut messages = Vec::new();
        for frame in &frames {
            self.witness.see(from, to, frame);
        }
        self.story.tell(self.elapsed(), from, to, bytes, &frames);
        if let Stream::Flow { link: number } = stream {
            assert_eq!(number, link.number, "links are not replaced while both ends live");
            let read = frames.iter().map(|frame| {
                link.reader.read(frame.clone()).expect("what a writer writes can be read")
            });
            messages.extend(read.flatten());
        }
        self.node(to).paths.insert(from, Path::Up(link));
        for read in messages {
            self.node(to).engine.handle_message(read.dropped, read.message);
        }
        for frame in frames {
            self.handle(from, to, stream, frame);
        }
        self.settle(to);
    }

    /// Cuts the bytes wherever chance has it, and reads them as a stream.
    fn decode(&mut self, decoder: &mut FrameDecoder, mut bytes: Bytes) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let chunk = bytes.split_to(self.rng.random_range(1..=bytes.len()));
            decoder.feed(chunk, &mut frames).expect("what is encoded can be decoded");
        }
        assert!(decoder.is_between_frames(), "whole frames were sent");
        frames
    }

    fn handle(&mut self, from: NodeId, to: NodeId, stream: Stream, frame: Frame) {
        let (now, asker) = (self.now, self.identity(from));
        let observed = self.nodes[&from].address;
        match (stream, frame) {
            (Stream::Request(id), Frame::Request(request)) => {
                let handled = self.node(to).engine.handle_request(now, &asker, observed, request);
                let body = match handled {
                    Ok(Handled::Respond(body)) => body,
                    Ok(Handled::Invoke(call)) => echo(call.payload),
                    Err(fault) => response::Body::Failure(failure_of(&fault)),
                };
                let response = Frame::Response(message::Response { body: Some(body) });
                let bytes = response.to_bytes().expect("what an engine answers fits its frame");
                self.carry(to, from, Stream::Response(id), bytes);
            }
            (Stream::Response(id), Frame::Response(response)) => {
                let node = self.node(to);
                if node.asked.remove(&id).is_some() {
                    let body = response.body.ok_or_else(|| Fault::of(Code::Protocol));
                    node.engine.handle_response(now, id, body);
                }
            }
            (Stream::Flow { .. }, Frame::FlowOpen(_) | Frame::Publish(_)) => {}
            (stream, frame) => panic!("{:?} on {stream:?}", frame.kind()),
        }
    }

    // ---- the map ----

    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("nodes die, and are never forgotten")
    }

    pub(super) fn is_alive(&self, id: NodeId) -> bool {
        self.nodes[&id].is_alive
    }

    pub(super) fn identity(&self, id: NodeId) -> Arc<Identity> {
        self.nodes[&id].identity.clone()
    }

    /// One way from one to the other.
    pub(super) fn latency(&self, one: NodeId, other: NodeId) -> Duration {
        let ((x, y), (u, v)) = (self.nodes[&one].place, self.nodes[&other].place);
        let distance = ((x - u).powi(2) + (y - v).powi(2)).sqrt() / std::f64::consts::SQRT_2;
        Duration::from_micros((NEAR_US + (FAR_US - NEAR_US) * distance) as u64)
    }
}

/// What every handler here answers.
fn echo(payload: Payload) -> response::Body {
    let content_type = payload.content_type.to_string();
    response::Body::Answer(message::Answer { payload: payload.body, content_type })
}
