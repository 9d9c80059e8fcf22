//! Dials and links: how they come up, and how they end.

use std::time::Instant;

use macula_identity::{NodeId, Place};
use rand::seq::IndexedRandom;

use super::network::{DIAL_AGAIN_AFTER, DIAL_TIMEOUT, Event, Link, Path};
use super::{Node, SEEDS, Swarm};
use crate::engine::RequestId;
use crate::error::{Code, Fault};
use crate::pubsub::flow;
use crate::realm::{Expected, judge};
use crate::wire::FrameDecoder;

impl Swarm {
    pub(super) fn dial_seeds(&mut self, node: NodeId) {
        self.note(node, "starts");
        let is_seed = |other: &&Node| {
            other.identity.id != node && other.identity.subject.place == Place::Bootstrap
        };
        let mut seeds: Vec<NodeId> =
            self.nodes.values().filter(is_seed).map(|seed| seed.identity.id).collect();
        if !self.identity(node).subject.role().is_infrastructure() {
            seeds = seeds.choose_multiple(&mut self.rng, SEEDS).copied().collect();
        }
        for seed in seeds {
            if let std::collections::btree_map::Entry::Vacant(path) =
                self.node(node).paths.entry(seed)
            {
                path.insert(Path::Dialling { waiting: Vec::new(), outbox: Vec::new() });
                self.dial(node, seed, Expected::Bootstrap);
            }
        }
        self.settle(node);
    }

    /// A handshake and the exchange of Hellos: two round trips.
    pub(super) fn dial(&mut self, from: NodeId, to: NodeId, expected: Expected) {
        let began = self.now.instant;
        let takes = if self.is_alive(to) { 4 * self.latency(from, to) } else { DIAL_TIMEOUT };
        self.foresee(takes, Event::Dialled { from, to, expected, began });
    }

    pub(super) fn on_dialled(
        &mut self,
        from: NodeId,
        to: NodeId,
        expected: Expected,
        began: Instant,
    ) {
        if !self.is_alive(to) {
            let left = (began + DIAL_TIMEOUT).saturating_duration_since(self.now.instant);
            if !left.is_zero() {
                return self.foresee(left, Event::Dialled { from, to, expected, began });
            }
            return self.on_dial_failed(from, to, &Fault::new(Code::Unreachable, "no answer"));
        }
        let (caller, callee) = (self.identity(from), self.identity(to));
        let judged = judge(&callee, &caller, Expected::Anyone)
            .and_then(|()| judge(&caller, &callee, expected));
        if let Err(fault) = judged {
            return self.on_dial_failed(from, to, &fault);
        }
        let number = self.next_link;
        self.next_link += 1;
        self.connect(from, to, number);
        self.connect(to, from, number);
        self.settle(from);
        self.settle(to);
    }

    /// One end of a new link. Of two that were dialled at once the first stays.
    pub(super) fn connect(&mut self, at: NodeId, other: NodeId, number: u64) {
        let (now, identity) = (self.now, self.identity(other));
        let address = self.nodes[&other].address;
        let node = self.node(at);
        if matches!(node.paths.get(&other), Some(Path::Up(_))) {
            return;
        }
        let link = Link {
            number,
            heard: now.instant,
            writer: None,
            decoder: FrameDecoder::default(),
            reader: flow::Reader::new(other),
        };
        let before = node.paths.insert(other, Path::Up(Box::new(link)));
        node.engine.handle_connected(now, &identity, vec![address]);
        if let Some(Path::Dialling { waiting, outbox }) = before {
            for pending in waiting {
                self.ask_over_link(at, other, pending);
            }
            for message in outbox {
                self.send_over_link(at, other, &message);
            }
        }
    }

    pub(super) fn on_dial_failed(&mut self, from: NodeId, to: NodeId, fault: &Fault) {
        let now = self.now;
        let node = self.node(from);
        if !matches!(node.paths.get(&to), Some(Path::Dialling { .. })) {
            return;
        }
        let failed = Path::Failed { until: now.instant + DIAL_AGAIN_AFTER };
        if let Some(Path::Dialling { waiting, outbox: _ }) = node.paths.insert(to, failed) {
            for pending in waiting {
                let fault = Fault::new(Code::Unreachable, fault.because.clone());
                node.engine.handle_response(now, pending.id, Err(fault));
            }
        }
        self.settle(from);
    }

    /// The link is gone, and whoever was asked over it may or may not have acted.
    pub(super) fn disconnect(&mut self, at: NodeId, other: NodeId) {
        let now = self.now;
        let node = self.node(at);
        if !matches!(node.paths.get(&other), Some(Path::Up(_))) {
            return;
        }
        node.paths.remove(&other);
        let asked = node.asked.iter().filter(|(_, to)| **to == other);
        let lost: Vec<RequestId> = asked.map(|(id, _)| *id).collect();
        node.engine.handle_disconnected(now, other, true);
        for id in lost {
            node.asked.remove(&id);
            let fault = Fault::new(Code::Interrupted, "its connection ended");
            node.engine.handle_response(now, id, Err(fault));
        }
        self.settle(at);
    }
}
