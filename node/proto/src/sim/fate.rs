//! Nodes that crash, leave and come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use macula_identity::NodeId;

use super::event::{Event, Path};
use super::{Meter, Swarm};
use crate::dht::Me;

/// How long a node that leaves waits for its records to be withdrawn (`macula-node`'s `LEAVE_PATIENCE`).
const LEAVING: Duration = Duration::from_millis(500);

impl Swarm {
    /// The nodes die at this instant, and nobody is told.
    pub fn crash(&mut self, nodes: &[NodeId]) {
        for id in nodes {
            self.note(*id, "crashes");
            self.die_down(*id);
            self.end(*id);
        }
    }

    /// The node takes back what it said, tells its neighbours, and is gone half a second later.
    pub fn leave(&mut self, node: NodeId) {
        self.note(node, "leaves");
        self.command(node, |engine, now| engine.leave(now));
        self.foresee(LEAVING, Event::Leaves(node));
    }

    pub(super) fn on_left(&mut self, id: NodeId) {
        let links: Vec<_> = self.nodes[&id].links().collect();
        for (other, link) in links {
            if self.way_is_open(id, other) {
                let takes = self.latency(id, other);
                let how = super::links::Ending::Draining;
                self.foresee(takes, Event::Closed { at: other, other: id, link, how });
            } else {
                let takes = super::event::IDLE_TIMEOUT;
                self.foresee(takes, Event::FellSilent { at: other, other: id, link });
            }
        }
        self.end(id);
    }

    fn end(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("only nodes of this mesh end");
        node.is_alive = false;
        node.wake = None;
        node.paused_until = None;
        node.asked.clear();
        node.cancelled.clear();
        let paths = std::mem::take(&mut node.paths);
        node.seeds = super::links::Seeds::default();
        for path in paths.into_values() {
            self.meter_idle(id, path, now.instant);
        }
    }

    /// The machine starts again: the same name and address, a new incarnation, and an empty memory. What its
    /// application did is for the caller to repeat.
    ///
    /// # Panics
    /// When there is no such node, or it lives.
    pub fn start_again(&mut self, id: NodeId) {
        let now = self.now_at(id);
        let node = &self.nodes[&id];
        assert!(!node.is_alive, "only the dead start again");
        let me = Arc::new(Me { incarnation: now.unix_ms, ..(*node.me).clone() });
        let engine = self.engine_of(&me, node.seed);
        let started = self.now.instant;
        let node = self.node(id);
        (node.me, node.engine, node.is_alive, node.started) = (me, engine, true, started);
        self.ledger.forget(id);
        self.foresee(Duration::ZERO, Event::Start(id));
    }

    /// Whether the node is awake.
    #[must_use]
    pub fn is_awake(&self, node: NodeId) -> bool {
        let node = &self.nodes[&node];
        node.is_alive && node.paused_until.is_none()
    }

    /// For how long the node has lived; nothing when it does not.
    #[must_use]
    pub fn age(&self, node: NodeId) -> Option<Duration> {
        let node = &self.nodes[&node];
        node.is_alive.then(|| self.now.instant.saturating_duration_since(node.started))
    }

    /// Whether packets pass between these two, as things are.
    #[must_use]
    pub fn are_joined(&self, one: NodeId, other: NodeId) -> bool {
        self.way_is_open(one, other) && self.way_is_open(other, one)
    }

    /// How far a node's wall clock is off, in milliseconds.
    #[must_use]
    pub fn clock(&self, node: NodeId) -> i64 {
        self.nodes[&node].clock_ms
    }

    /// How many connections a node has.
    #[must_use]
    pub fn links(&self, node: NodeId) -> usize {
        self.nodes[&node].links().count()
    }

    /// What was sent until now, by cause and by each living node, what keeps links open included.
    pub fn sent(&mut self) -> (Meter, BTreeMap<NodeId, u64>) {
        let now = self.now.instant;
        let mut idle = Vec::new();
        for (id, node) in &mut self.nodes {
            for path in node.paths.values_mut() {
                if let Path::Up(link) = path {
                    idle.push((*id, link.quiet(now)));
                }
            }
        }
        for (id, times) in idle {
            self.meter_quiet(id, times);
        }
        let alive = self.nodes.iter().filter(|(_, node)| node.is_alive);
        (self.meter, alive.map(|(id, node)| (*id, node.sent_bytes)).collect())
    }
}
