//! What will happen, and bytes on their way from one node to another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use macula_identity::{Identity, NodeId};
use rand::Rng;

use super::hostile::Twisted;
use super::links::Ending;
use super::meter::{self, Cause};
use super::{Happened, Node, Swarm};
use crate::engine::{Handled, Output, RequestId, failure_of};
use crate::error::{Code, Fault};
use crate::payload::Payload;
use crate::pubsub::{Message, flow};
use crate::realm::Expected;
use crate::time::Now;
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
/// A node that is heard is a contact again, looked after this often (`macula-node`'s `UPKEEP`).
const UPKEEP: Duration = Duration::from_millis(250);
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
    /// Seeds may be dialled again.
    DialSeeds(NodeId),
    /// Links that nothing uses are closed.
    LookAfter(NodeId),
    /// A dial has succeeded, or is given up. `at` is who is met, if anybody, where `to` was said to be.
    Dialled { from: NodeId, to: NodeId, at: Option<NodeId>, expected: Expected, began: Instant },
    /// A ping before a request was answered, or has timed out.
    Probed { from: NodeId, to: NodeId, link: u64, pending: Pending },
    /// What was lost is sent again.
    Resends(Packet),
    /// Bytes arrive.
    Arrives(Packet),
    /// A link has perhaps been silent for too long.
    FellSilent { at: NodeId, other: NodeId, link: u64 },
    /// The other end says that the link is over.
    Closed { at: NodeId, other: NodeId, link: u64, how: Ending },
    /// A machine wakes up.
    Resumes { node: NodeId, slept_through: bool },
    /// A node that leaves is gone.
    Leaves(NodeId),
    /// A hostile node does something of its own.
    Mischief(NodeId),
}

impl Event {
    /// At whom it happens, and so when: a machine that sleeps does it late.
    const fn at(&self) -> NodeId {
        match self {
            Self::Start(node)
            | Self::Wake(node)
            | Self::DialSeeds(node)
            | Self::LookAfter(node)
            | Self::Leaves(node)
            | Self::Mischief(node)
            | Self::Resumes { node, .. } => *node,
            Self::Dialled { from, .. } | Self::Probed { from, .. } => *from,
            Self::Resends(packet) => packet.from,
            Self::Arrives(packet) => packet.to,
            Self::FellSilent { at, .. } | Self::Closed { at, .. } => *at,
        }
    }
}

/// Bytes of one stream on one link.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) link: u64,
    pub(super) stream: Stream,
    pub(super) bytes: Bytes,
    pub(super) cause: Cause,
    /// How often it was lost.
    pub(super) attempt: u32,
}

/// On which stream of a link bytes travel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Request(RequestId),
    Response(RequestId),
    /// The one flow of this direction, and which part of it.
    Flow(u64),
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
    /// When it last carried anything but what keeps it open.
    pub(super) used: Instant,
    /// Since when what keeps it open has not been counted.
    pub(super) quiet: Instant,
    /// When the engine was last told that the other end lives.
    pub(super) told: Instant,
    pub(super) writer: Option<flow::Writer>,
    /// How many parts of the flow were sent.
    pub(super) written: u64,
    pub(super) decoder: FrameDecoder,
    pub(super) reader: flow::Reader,
    /// The next part of the flow to be read, and those that overtook it.
    pub(super) next: u64,
    pub(super) early: BTreeMap<u64, Bytes>,
}

impl Link {
    /// How often it had to be kept open since this was last asked, or something was sent or heard.
    pub(super) fn quiet(&mut self, now: Instant) -> u64 {
        let quiet = now.saturating_duration_since(self.quiet);
        let times = (quiet.as_millis() / meter::KEEP_ALIVE.as_millis()) as u32;
        self.quiet += meter::KEEP_ALIVE * times;
        times.into()
    }
}

impl Swarm {
    pub(super) fn happen(&mut self, event: Event) {
        let node = &self.nodes[&event.at()];
        if !node.is_alive {
            return;
        }
        if let Some(until) = node.paused_until
            && !matches!(event, Event::Resumes { .. })
        {
            return self.foresee_at(until, event);
        }
        match event {
            Event::Start(node) => {
                self.note(node, "starts");
                let phase = self.node(node).rng.random_range(0.0..1.0);
                self.foresee(super::links::LOOK_AFTER.mul_f64(phase), Event::LookAfter(node));
                self.dial_seeds(node);
            }
            Event::Wake(node) => {
                if self.nodes[&node].wake == Some(self.now.instant) {
                    let now = self.now_at(node);
                    let it = self.node(node);
                    it.wake = None;
                    it.engine.handle_timeout(now);
                    self.settle(node);
                } else if self.nodes[&node].wake.is_some_and(|wake| wake < self.now.instant) {
                    // It slept when it should have woken.
                    self.node(node).wake = None;
                    self.settle(node);
                }
            }
            Event::DialSeeds(node) => self.dial_seeds(node),
            Event::LookAfter(node) => self.look_after(node),
            Event::Dialled { from, to, at, expected, began } => {
                self.on_dialled(from, to, at, expected, began);
            }
            Event::Probed { from, to, link, pending } => self.on_probed(from, to, link, pending),
            Event::Resends(packet) => {
                if self.nodes[&packet.from].link_to(packet.to) == Some(packet.link) {
                    self.transmit(packet);
                }
            }
            Event::Arrives(packet) => self.on_arrival(packet),
            Event::FellSilent { at, other, link } => self.on_silence(at, other, link),
            Event::Closed { at, other, link, how } => self.on_closed(at, other, link, how),
            Event::Resumes { node, slept_through } => self.on_resumed(node, slept_through),
            Event::Leaves(node) => self.on_left(node),
            Event::Mischief(node) => self.on_mischief(node),
        }
    }

    /// Carries out what a node wants done, until it wants nothing.
    pub(super) fn settle(&mut self, id: NodeId) {
        let now = self.now_at(id);
        while let Some(output) = self.node(id).engine.poll_output(now) {
            self.judge_output(id, &output);
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
            self.foresee_at(at, Event::Wake(id));
        }
    }

    // ---- bytes ----

    /// Sends bytes over a link that is up.
    pub(super) fn carry(
        &mut self,
        from: NodeId,
        to: NodeId,
        (stream, cause): (Stream, Cause),
        bytes: Bytes,
    ) {
        let now = self.now.instant;
        let Some(Path::Up(link)) = self.node(from).paths.get_mut(&to) else { return };
        let times = link.quiet(now);
        (link.used, link.quiet) = (now, now);
        let link = link.number;
        self.meter_quiet(from, times);
        self.transmit(Packet { from, to, link, stream, bytes, cause, attempt: 0 });
    }

    /// Sends a packet, for the first time or again.
    pub(super) fn transmit(&mut self, packet: Packet) {
        let Packet { from, to, attempt, .. } = packet;
        let cost = meter::on_the_wire(packet.bytes.len());
        self.node(from).sent_bytes += cost;
        if attempt > 0 {
            self.meter.count(Cause::Resent, 0, cost);
        } else {
            self.meter.count(packet.cause, 1, cost);
        }
        if !self.way_is_open(from, to) || self.is_lost(from) {
            let pause = self.resends_after(from, to, attempt);
            return self.foresee(pause, Event::Resends(Packet { attempt: attempt + 1, ..packet }));
        }
        let takes = self.latency(from, to) + self.jitter(from);
        self.foresee(takes, Event::Arrives(packet));
    }

    fn on_arrival(&mut self, packet: Packet) {
        let Packet { from, to, link: number, stream, bytes, .. } = packet;
        let now = self.now_at(to);
        if self.nodes[&to].link_to(from) != Some(number) {
            // A stateless reset (RFC 9000 §10.3): this end knows nothing of that connection any more.
            if self.way_is_open(to, from) {
                let takes = self.latency(from, to);
                let closed =
                    Event::Closed { at: from, other: to, link: number, how: Ending::Reset };
                self.foresee(takes, closed);
            }
            return;
        }
        let Some(Path::Up(mut link)) = self.node(to).paths.remove(&from) else { return };
        let times = link.quiet(now.instant);
        (link.heard, link.used, link.quiet) = (now.instant, now.instant, now.instant);
        self.meter_quiet(to, times);
        if now.instant.saturating_duration_since(link.told) >= UPKEEP {
            link.told = now.instant;
            let (identity, address) = (self.identity(from), self.nodes[&from].address);
            self.node(to).engine.handle_connected(now, &identity, vec![address]);
        }
        let (frames, messages) = match stream {
            Stream::Request(_) | Stream::Response(_) => {
                let mut one = FrameDecoder::default();
                (self.decode(from, to, &mut one, bytes.clone()), Vec::new())
            }
            Stream::Flow(part) => {
                let mut frames = Vec::new();
                link.early.insert(part, bytes.clone());
                // What comes behind a lost packet waits for it.
                while let Some(bytes) = link.early.remove(&link.next) {
                    link.next += 1;
                    frames.extend(
                        self.decode(from, to, &mut link.decoder, bytes).unwrap_or_default(),
                    );
                }
                let read = frames.iter().map(|frame| {
                    link.reader.read(frame.clone()).expect("what a writer writes can be read")
                });
                let messages: Vec<_> = read.flatten().collect();
                (Ok(frames), messages)
            }
        };
        if self.nodes[&from].hostile.is_none() {
            for frame in frames.iter().flatten() {
                if let Err(how) = self.witness.see(from, to, frame) {
                    self.breaks(super::Law::NoForeignNames, to, how);
                }
            }
        }
        let none = Vec::new();
        self.story.tell(self.elapsed(), from, to, &bytes, frames.as_ref().unwrap_or(&none));
        self.node(to).paths.insert(from, Path::Up(link));
        for read in messages {
            self.node(to).engine.handle_message(read.dropped, read.message);
        }
        match frames {
            Ok(frames) => {
                for frame in frames {
                    self.handle(from, to, stream, frame);
                }
            }
            Err(fault) => {
                if let Stream::Response(id) = stream
                    && self.node(to).asked.remove(&id).is_some()
                {
                    self.node(to).engine.handle_response(now, id, Err(fault));
                }
            }
        }
        self.settle(to);
    }

    /// Cuts the bytes wherever chance has it, and reads them as a stream.
    fn decode(
        &mut self,
        from: NodeId,
        to: NodeId,
        decoder: &mut FrameDecoder,
        mut bytes: Bytes,
    ) -> Result<Vec<Frame>, Fault> {
        let is_honest = self.nodes[&from].hostile.is_none();
        let rng = &mut self.node(to).rng;
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let chunk = bytes.split_to(rng.random_range(1..=bytes.len()));
            if let Err(fault) = decoder.feed(chunk, &mut frames) {
                assert!(!is_honest, "what is encoded can be decoded: {fault}");
                return Err(fault);
            }
        }
        assert!(decoder.is_between_frames(), "whole frames were sent");
        Ok(frames)
    }

    fn handle(&mut self, from: NodeId, to: NodeId, stream: Stream, frame: Frame) {
        match (stream, frame) {
            (Stream::Request(id), Frame::Request(request)) => self.serve(from, to, id, request),
            (Stream::Response(id), Frame::Response(response)) => {
                let now = self.now_at(to);
                if let Some((_, trail)) = self.node(to).asked.remove(&id) {
                    if let (Some(target), Some(body)) = (trail, &response.body) {
                        self.on_named(to, target, from, body);
                    }
                    if let Some(response::Body::Values(values)) = &response.body
                        && self.nodes[&from].hostile.is_none()
                    {
                        let me = &self.nodes[&from].me;
                        let records = values.records.iter().filter_map(|it| it.record.as_ref());
                        records.for_each(|record| self.ledger.hear(from, me, record));
                    }
                    let body = response.body.ok_or_else(|| Fault::of(Code::Protocol));
                    self.node(to).engine.handle_response(now, id, body);
                }
            }
            (Stream::Flow(_), Frame::FlowOpen(_) | Frame::Publish(_)) => {}
            (stream, frame) => panic!("{:?} on {stream:?}", frame.kind()),
        }
    }

    fn serve(&mut self, from: NodeId, to: NodeId, id: RequestId, request: message::Request) {
        let (now, asker) = (self.now_at(to), self.identity(from));
        let observed = self.nodes[&from].address;
        let asked = self.nodes[&to].hostile.as_ref().and(request.body.clone());
        let handled = self.node(to).engine.handle_request(now, &asker, observed, request);
        let mut result = match handled {
            Ok(Handled::Respond(body)) => Ok(body),
            Ok(Handled::Invoke(call)) => Ok(echo(call.payload)),
            Err(fault) => Err(fault),
        };
        let mut after = Duration::ZERO;
        if let Some(request) = asked {
            let accomplices = std::mem::take(&mut self.accomplices);
            let hostile = self.node(to).hostile.as_mut().expect("it was hostile just now");
            Twisted { result, after } = hostile.twist(&request, from, result, &accomplices);
            self.accomplices = accomplices;
        }
        let body = result.unwrap_or_else(|fault| response::Body::Failure(failure_of(&fault)));
        let cause = cause_of_response(&body);
        let response = Frame::Response(message::Response { body: Some(body) });
        let bytes = response.to_bytes().expect("what an engine answers fits its frame");
        let stream = Stream::Response(id);
        if after.is_zero() {
            return self.carry(to, from, (stream, cause), bytes);
        }
        if let Some(link) = self.nodes[&to].link_to(from) {
            let packet = Packet { from: to, to: from, link, stream, bytes, cause, attempt: 0 };
            self.foresee(after, Event::Resends(packet));
        }
    }

    // ---- what links cost while they are idle ----

    pub(super) fn meter_quiet(&mut self, at: NodeId, times: u64) {
        if times > 0 {
            self.node(at).sent_bytes += times * meter::KEEP_ALIVE_BYTES;
            self.meter.count(Cause::KeepAlive, 0, times * meter::KEEP_ALIVE_BYTES);
        }
    }

    pub(super) fn meter_idle(&mut self, at: NodeId, mut path: Path, now: Instant) {
        if let Path::Up(link) = &mut path {
            let times = link.quiet(now);
            self.meter_quiet(at, times);
        }
    }

    // ---- the map ----

    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("nodes die, and are never forgotten")
    }

    pub(super) fn identity(&self, id: NodeId) -> Arc<Identity> {
        self.nodes[&id].identity.clone()
    }

    /// What the clocks of this node say.
    pub(super) fn now_at(&self, id: NodeId) -> Now {
        let off = self.nodes[&id].clock_ms;
        Now { unix_ms: self.now.unix_ms.saturating_add_signed(off), ..self.now }
    }

    /// One way from one to the other.
    pub(super) fn latency(&self, one: NodeId, other: NodeId) -> Duration {
        let ((x, y), (u, v)) = (self.nodes[&one].place, self.nodes[&other].place);
        let distance = ((x - u).powi(2) + (y - v).powi(2)).sqrt() / std::f64::consts::SQRT_2;
        Duration::from_micros((NEAR_US + (FAR_US - NEAR_US) * distance) as u64)
    }
}

/// What a request is for.
pub(super) const fn cause_of_request(body: &request::Body) -> Cause {
    match body {
        request::Body::FindNode(_) | request::Body::FindValue(_) => Cause::Lookup,
        request::Body::Store(_) | request::Body::Delete(_) => Cause::Store,
        request::Body::Ping(_) => Cause::Ping,
        request::Body::Call(_) => Cause::Call,
    }
}

/// What an answer is for. A refusal counts with lookups: it names no question.
const fn cause_of_response(body: &response::Body) -> Cause {
    match body {
        response::Body::Nodes(_) | response::Body::Values(_) | response::Body::Failure(_) => {
            Cause::Lookup
        }
        response::Body::Stored(_) | response::Body::Deleted(_) => Cause::Store,
        response::Body::Pong(_) => Cause::Ping,
        response::Body::Answer(_) => Cause::Call,
    }
}

/// What every handler here answers.
fn echo(payload: Payload) -> response::Body {
    let content_type = payload.content_type.to_string();
    response::Body::Answer(message::Answer { payload: payload.body, content_type })
}
