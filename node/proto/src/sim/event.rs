//! What will happen, and what is between two nodes when it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use macula_identity::NodeId;

use super::links::Ending;
use super::meter::{self, Cause};
use crate::engine::RequestId;
use crate::pubsub::{Message, flow};
use crate::realm::Expected;
use crate::wire::{FrameDecoder, message};
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
    pub(super) const fn at(&self) -> NodeId {
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

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) to: NodeId,
    /// What is asked again should the link end, if it may be.
    pub(super) again: Option<Pending>,
}

/// A request that waits for a link.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) id: RequestId,
    pub(super) body: request::Body,
    pub(super) repeatable: bool,
    /// Whether it went back to waiting before, because its link was dead or ended.
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

/// What a request is for.
pub(super) const fn cause_of_request(body: &request::Body) -> Cause {
    match body {
        request::Body::FindValue(message::FindValue { lease_ms: 1.., .. }) => Cause::Watch,
        request::Body::FindNode(_) | request::Body::FindValue(_) => Cause::Lookup,
        request::Body::Store(_) | request::Body::Delete(_) => Cause::Store,
        request::Body::Changed(_) => Cause::Watch,
        request::Body::Ping(_) => Cause::Ping,
        request::Body::Call(_) => Cause::Call,
    }
}

/// What an answer is for. A refusal counts with lookups: it names no question.
pub(super) const fn cause_of_response(body: &response::Body) -> Cause {
    match body {
        response::Body::Values(message::Values { lease_ms: 1.., .. }) => Cause::Watch,
        response::Body::Nodes(_) | response::Body::Values(_) | response::Body::Failure(_) => {
            Cause::Lookup
        }
        response::Body::Stored(_) | response::Body::Deleted(_) => Cause::Store,
        response::Body::Noted(_) => Cause::Watch,
        response::Body::Pong(_) => Cause::Ping,
        response::Body::Answer(_) => Cause::Call,
    }
}
