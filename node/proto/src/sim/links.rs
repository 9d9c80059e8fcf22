//! Dials and links: how they come up, and how they end. It follows the shell (`macula-node`'s `mesh`), step
//! by step.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use macula_identity::NodeId;
use rand::Rng;
use rand::seq::SliceRandom;

use super::event::{Asked, DIAL_AGAIN_AFTER, DIAL_TIMEOUT, Event, Link, Path};
use super::meter::{self, Cause};
use super::{SEEDS, Swarm};
use crate::engine::RequestId;
use crate::error::{Code, Fault};
use crate::pubsub::flow;
use crate::realm::{Expected, judge};
use crate::wire::{Contact, FrameDecoder};

/// How often links that nothing uses are looked for.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(5);
/// A link that nothing used for this long is closed, unless it leads to a seed.
const UNUSED: Duration = Duration::from_secs(60);
/// The first pause after a failed dial of a seed; it doubles up to the longest, and is jittered by half.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A seed that was lost is noticed by the next upkeep.
const NOTICED: Duration = Duration::from_millis(250);

/// How the other end ends a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It knows nothing of it any more.
    Reset,
    /// Nothing used it.
    Unused,
    /// The node leaves.
    Draining,
}

/// The bootstraps that a node dials, in an order of its own.
#[derive(Debug, Default)]
pub(super) struct Seeds {
    all: Vec<(NodeId, Seed)>,
}

#[derive(Debug)]
struct Seed {
    failures: u32,
    not_before: Instant,
}

impl Swarm {
    /// Dials as many bootstraps as are wanting.
    pub(super) fn dial_seeds(&mut self, node: NodeId) {
        let now = self.now.instant;
        let wanted =
            if self.identity(node).subject.role().is_infrastructure() { usize::MAX } else { SEEDS };
        let bootstraps = self.bootstraps.clone();
        let it = self.node(node);
        if it.seeds.all.is_empty() {
            let fresh = |id| (id, Seed { failures: 0, not_before: now });
            it.seeds.all = bootstraps.into_iter().filter(|id| *id != node).map(fresh).collect();
            it.seeds.all.shuffle(&mut it.rng);
        }
        let mut busy = 0;
        for (seed, _) in &it.seeds.all {
            let is_busy = matches!(it.paths.get(seed), Some(Path::Up(_) | Path::Dialling { .. }));
            busy += usize::from(is_busy);
        }
        let mut to_dial = Vec::new();
        for (seed, state) in &it.seeds.all {
            let is_free = matches!(it.paths.get(seed), None | Some(Path::Failed { .. }));
            if busy < wanted && is_free && state.not_before <= now {
                busy += 1;
                to_dial.push(*seed);
            }
        }
        for seed in to_dial {
            let path = Path::Dialling { waiting: Vec::new(), outbox: Vec::new() };
            self.node(node).paths.insert(seed, path);
            self.dial(node, seed, Some(seed), Expected::Bootstrap, Duration::ZERO);
        }
        self.settle(node);
    }

    /// A handshake and the exchange of Hellos, with whoever is there, after so long.
    pub(super) fn dial(
        &mut self,
        from: NodeId,
        to: NodeId,
        at: Option<NodeId>,
        expected: Expected,
        after: Duration,
    ) {
        let began = self.now.instant + after;
        let takes = match at.filter(|at| self.is_reachable(from, *at)) {
            Some(at) => self.handshake(from, at).min(DIAL_TIMEOUT),
            None => DIAL_TIMEOUT,
        };
        self.foresee(after + takes, Event::Dialled { from, to, at, expected, began });
    }

    pub(super) fn on_dialled(
        &mut self,
        from: NodeId,
        to: NodeId,
        at: Option<NodeId>,
        expected: Expected,
        began: Instant,
    ) {
        let Some(met) = at.filter(|at| self.is_reachable(from, *at)) else {
            let left = (began + DIAL_TIMEOUT).saturating_duration_since(self.now.instant);
            if !left.is_zero() {
                return self.foresee(left, Event::Dialled { from, to, at, expected, began });
            }
            self.node(from).sent_bytes += meter::VAIN_DIAL_BYTES;
            self.meter.count(Cause::Handshake, 0, meter::VAIN_DIAL_BYTES);
            return self.on_dial_failed(from, to, &Fault::new(Code::Unreachable, "no answer"));
        };
        for end in [from, met] {
            self.node(end).sent_bytes += meter::HANDSHAKE_BYTES;
            self.meter.count(Cause::Handshake, 2, meter::HANDSHAKE_BYTES);
        }
        let (caller, callee) = (self.identity(from), self.identity(met));
        let judged = judge(&callee, &caller, Expected::Anyone)
            .and_then(|()| judge(&caller, &callee, expected));
        if let Err(fault) = judged {
            return self.on_dial_failed(from, to, &fault);
        }
        let existing = self.nodes[&from].link_to(met);
        if existing.is_some() && existing == self.nodes[&met].link_to(from) {
            // Of two that were dialled at once the first stays.
            return;
        }
        let number = self.next_link;
        self.next_link += 1;
        self.connect(from, met, number);
        self.connect(met, from, number);
        self.settle(from);
        self.settle(met);
    }

    /// One end of a new link, which takes the place of one whose other end is gone.
    fn connect(&mut self, at: NodeId, other: NodeId, number: u64) {
        let (now, identity) = (self.now_at(at), self.identity(other));
        let address = self.nodes[&other].address;
        let link = Link {
            number,
            heard: now.instant,
            used: now.instant,
            told: now.instant,
            quiet: now.instant,
            writer: None,
            written: 0,
            decoder: FrameDecoder::default(),
            reader: flow::Reader::new(other),
            next: 0,
            early: BTreeMap::new(),
        };
        let node = self.node(at);
        let before = node.paths.insert(other, Path::Up(Box::new(link)));
        if let Some(seed) = node.seeds.get(other) {
            seed.failures = 0;
        }
        node.engine.handle_connected(now, &identity, vec![address]);
        match before {
            Some(Path::Dialling { waiting, outbox }) => {
                for pending in waiting {
                    self.ask_over_link(at, other, pending);
                }
                for message in outbox {
                    self.send_over_link(at, other, &message);
                }
            }
            Some(path @ Path::Up(_)) => {
                self.meter_idle(at, path, now.instant);
                self.interrupt(at, other, false);
            }
            Some(Path::Failed { .. }) | None => {}
        }
    }

    fn on_dial_failed(&mut self, from: NodeId, to: NodeId, fault: &Fault) {
        let now = self.now_at(from);
        let node = self.node(from);
        if let Some(seed) = node.seeds.get(to) {
            seed.failures = seed.failures.saturating_add(1);
            let pause = FIRST_PAUSE * 2_u32.pow(seed.failures.min(8) - 1);
            let jitter = node.rng.random_range(0.5..1.0);
            let pause = pause.min(LONGEST_PAUSE).mul_f64(jitter);
            let seed = node.seeds.get(to).expect("looked for above");
            seed.not_before = now.instant + pause;
            self.foresee(pause, Event::DialSeeds(from));
        }
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
        self.unlink(at, other, true);
    }

    fn unlink(&mut self, at: NodeId, other: NodeId, failed: bool) {
        let now = self.now_at(at);
        let node = self.node(at);
        if node.link_to(other).is_none() {
            return;
        }
        let path = node.paths.remove(&other).expect("looked for above");
        self.meter_idle(at, path, now.instant);
        let node = self.node(at);
        node.engine.handle_disconnected(now, other, failed);
        let is_seed = node.seeds.get(other).is_some();
        self.interrupt(at, other, failed);
        if is_seed {
            self.foresee(NOTICED, Event::DialSeeds(at));
        }
        self.settle(at);
    }

    /// Whoever waits for an answer over the link that was there waits in vain. Unless it has failed, what may
    /// be asked again is.
    fn interrupt(&mut self, at: NodeId, other: NodeId, failed: bool) {
        let mut waiting = Vec::new();
        let now = self.now_at(at);
        let node = self.node(at);
        let asked = node.asked.iter().filter(|(_, asked)| asked.to == other);
        let lost: Vec<RequestId> = asked.map(|(id, _)| *id).collect();
        for id in lost {
            let Some(Asked { again, .. }) = node.asked.remove(&id) else { continue };
            if let Some(again) = again.filter(|_| !failed) {
                waiting.push(again);
                continue;
            }
            let fault = Fault::new(Code::Interrupted, "its connection ended");
            node.engine.handle_response(now, id, Err(fault));
        }
        let contact = Contact { id: other, addresses: vec![self.nodes[&other].address] };
        for again in waiting {
            self.ask(at, &contact, again);
        }
    }

    /// The other end said that the link is over.
    pub(super) fn on_closed(&mut self, at: NodeId, other: NodeId, link: u64, how: Ending) {
        if self.nodes[&at].link_to(other) != Some(link) {
            return;
        }
        self.unlink(at, other, how != Ending::Unused);
        if how == Ending::Draining {
            self.node(at).engine.handle_left(other);
            self.settle(at);
        }
    }

    /// Closes links that nothing used for long, and forgets dials that failed.
    pub(super) fn look_after(&mut self, id: NodeId) {
        self.foresee(LOOK_AFTER, Event::LookAfter(id));
        let now = self.now.instant;
        let node = self.node(id);
        let is_seed = |other: &NodeId| node.seeds.all.iter().any(|(seed, _)| seed == other);
        let mut unused = Vec::new();
        let mut over = Vec::new();
        for (other, path) in &node.paths {
            match path {
                Path::Up(link) if link.used + UNUSED < now && !is_seed(other) => {
                    unused.push((*other, link.number));
                }
                Path::Failed { until } if *until < now => over.push(*other),
                Path::Up(_) | Path::Failed { .. } | Path::Dialling { .. } => {}
            }
        }
        for other in over {
            node.paths.remove(&other);
        }
        for (other, link) in unused {
            self.unlink(id, other, false);
            if self.way_is_open(id, other) {
                let takes = self.latency(id, other);
                let how = Ending::Unused;
                self.foresee(takes, Event::Closed { at: other, other: id, link, how });
            }
        }
    }
}

impl Seeds {
    fn get(&mut self, id: NodeId) -> Option<&mut Seed> {
        self.all.iter_mut().find(|(seed, _)| *seed == id).map(|(_, seed)| seed)
    }
}
