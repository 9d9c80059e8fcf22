//! What befalls packets, machines and clocks.
//!
//! Above QUIC a stream loses, repeats and reorders nothing. So a lost packet shows as the time until it is
//! sent again, and holds up what follows on its stream; other streams overtake it. Requests and responses are
//! streams of their own, so they do arrive in any order. What is sent into a cut is sent again until the cut
//! ends or the link does.

use std::time::Duration;

use macula_identity::NodeId;
use rand::Rng;

use super::Swarm;
use super::event::{Event, IDLE_TIMEOUT};

/// What links do to packets. The default is fair.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// The share of packets that are lost, from 0 to 1.
    pub loss: f64,
    /// The most that a packet takes longer than its distance wants.
    pub jitter: Duration,
}

/// The delay that the other end may add to its acknowledgement (RFC 9000 §18.2, `max_ack_delay`).
const ACK_DELAY: Duration = Duration::from_millis(25);

impl Swarm {
    /// What links do from now on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Cuts the mesh: between these nodes and the others no packet passes, either way. An earlier cut is
    /// replaced.
    pub fn split(&mut self, island: &[NodeId]) {
        self.heal();
        for id in island {
            self.node(*id).island = 1;
        }
        self.watch_for_silence(|one, other| one.island != other.island);
    }

    /// What these nodes send is lost, while they hear everything: half of a cut.
    pub fn mute(&mut self, nodes: &[NodeId]) {
        for id in nodes {
            self.node(*id).is_mute = true;
        }
        self.watch_for_silence(|one, other| one.is_mute || other.is_mute);
    }

    /// Ends every cut, of both ways and of one.
    pub fn heal(&mut self) {
        for node in self.nodes.values_mut() {
            node.island = 0;
            node.is_mute = false;
        }
        self.open_since = self.now.instant;
    }

    /// The machines sleep, and their clocks go on: what is due meanwhile happens late, all at once.
    pub fn pause(&mut self, nodes: &[NodeId], lasts: Duration) {
        for id in nodes {
            self.note(*id, "sleeps");
            let until = self.now.after(lasts);
            let node = self.node(*id);
            node.paused_until = Some(until);
            let slept_through = lasts >= IDLE_TIMEOUT;
            self.foresee(lasts, Event::Resumes { node: *id, slept_through });
            if slept_through {
                self.die_down(*id);
            }
        }
    }

    /// Sets how far a node's wall clock is off, in milliseconds.
    pub fn set_clock(&mut self, node: NodeId, off_ms: i64) {
        self.node(node).clock_ms = off_ms;
    }

    pub(super) fn on_resumed(&mut self, id: NodeId, slept_through: bool) {
        let node = self.node(id);
        node.paused_until = None;
        if slept_through && node.is_alive {
            let links: Vec<_> = node.paths.keys().copied().collect();
            for other in links {
                self.disconnect(id, other);
            }
        }
    }

    /// Whether a packet that leaves now arrives, but for its luck.
    pub(super) fn way_is_open(&self, from: NodeId, to: NodeId) -> bool {
        let (one, other) = (&self.nodes[&from], &self.nodes[&to]);
        !one.is_mute && one.island == other.island
    }

    /// Whether the other end would answer a packet that leaves now.
    pub(super) fn is_reachable(&self, from: NodeId, to: NodeId) -> bool {
        let node = &self.nodes[&to];
        node.is_alive
            && node.paused_until.is_none()
            && self.way_is_open(from, to)
            && self.way_is_open(to, from)
    }

    /// Whether this packet of the node is lost.
    pub(super) fn is_lost(&mut self, from: NodeId) -> bool {
        let loss = self.weather.loss;
        loss > 0.0 && self.node(from).rng.random_bool(loss)
    }

    /// How much later than its distance wants this packet of the node arrives.
    pub(super) fn jitter(&mut self, from: NodeId) -> Duration {
        let most = self.weather.jitter;
        if most.is_zero() { most } else { most.mul_f64(self.node(from).rng.random()) }
    }

    /// When a packet that nobody acknowledged is sent again (RFC 9002 §6.2.1): twice the time there and back,
    /// and twice as long each time.
    pub(super) fn resends_after(&self, from: NodeId, to: NodeId, attempt: u32) -> Duration {
        let pause = 4 * self.latency(from, to) + self.weather.jitter + ACK_DELAY;
        (pause * 2_u32.pow(attempt.min(6))).min(IDLE_TIMEOUT)
    }

    /// How long a handshake takes: two round trips, and what is lost of their four packets.
    pub(super) fn handshake(&mut self, from: NodeId, to: NodeId) -> Duration {
        let mut takes = 4 * self.latency(from, to);
        for _ in 0..4 {
            takes += self.jitter(from);
            let mut attempt = 0;
            while self.is_lost(from) && attempt < 6 {
                takes += self.resends_after(from, to, attempt);
                attempt += 1;
            }
        }
        takes
    }

    /// Links whose ends may hear nothing of each other from now on are looked at when they would have timed out.
    fn watch_for_silence(&mut self, concerned: impl Fn(&super::Node, &super::Node) -> bool) {
        let mut watched = Vec::new();
        for (id, node) in &self.nodes {
            for (other, number) in node.links() {
                if concerned(node, &self.nodes[&other]) {
                    watched.push((*id, other, number));
                }
            }
        }
        for (at, other, link) in watched {
            self.foresee(IDLE_TIMEOUT, Event::FellSilent { at, other, link });
        }
    }

    /// A node says nothing any more: the other ends of its links will notice.
    pub(super) fn die_down(&mut self, id: NodeId) {
        let links: Vec<_> = self.nodes[&id].links().collect();
        for (other, link) in links {
            self.foresee(IDLE_TIMEOUT, Event::FellSilent { at: other, other: id, link });
        }
    }

    /// A link was foreseen to end of silence: has the other end been heard since?
    pub(super) fn on_silence(&mut self, at: NodeId, other: NodeId, link: u64) {
        let whole = self.nodes[&other].link_to(at) == Some(link);
        let sender = &self.nodes[&other];
        let is_heard = whole
            && sender.is_alive
            && sender.paused_until.is_none()
            && self.way_is_open(other, at);
        if is_heard || self.nodes[&at].link_to(other) != Some(link) {
            return;
        }
        self.disconnect(at, other);
        // Nobody keeps the other end alive any more.
        if self.nodes[&other].link_to(at) == Some(link) {
            self.foresee(IDLE_TIMEOUT, Event::FellSilent { at: other, other: at, link });
        }
    }
}
