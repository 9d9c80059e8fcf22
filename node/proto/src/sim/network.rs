//! What happens, and bytes on their way from one node to another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use macula_identity::{Identity, NodeId};
use rand::Rng;

use super::event::{Event, Packet, Path, Pending, Stream, cause_of_response};
use super::hostile::Twisted;
use super::links::Ending;
use super::meter::{self, Cause};
use super::{Happened, Node, Swarm};
use crate::engine::{Handled, Output, RequestId, failure_of};
use crate::error::{Code, Fault};
use crate::payload::Payload;
use crate::time::Now;
use crate::wire::{Frame, FrameDecoder, message};
use message::response;

/// A node that is heard is a contact again, looked after this often (`macula-node`'s `UPKEEP`).
const UPKEEP: Duration = Duration::from_millis(250);
/// One way between neighbours, in microseconds.
const NEAR_US: f64 = 1_000.0;
/// One way between opposite corners of the map.
const FAR_US: f64 = 80_000.0;

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
        let rng = &mut self.node(to).cuts;
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
                if self.node(to).asked.remove(&id).is_some() {
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

/// What every handler here answers.
fn echo(payload: Payload) -> response::Body {
    let content_type = payload.content_type.to_string();
    response::Body::Answer(message::Answer { payload: payload.body, content_type })
}
