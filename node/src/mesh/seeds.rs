//! Which seeds to dial, and when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use macula_proto::Fault;
use macula_proto::identity::NodeId;
use rand::Rng;
use rand::seq::IteratorRandom;

/// Seeds that a peer keeps a connection to; infrastructure keeps one to each.
const ENOUGH_FOR_A_PEER: usize = 3;
/// The first pause after a failed dial; it doubles up to the longest, and is jittered by half, so
/// that a restarted seed is not met by everybody at once.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An address that led to ourselves is looked at again after this: addresses are used again.
const SELF_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Seeds {
    seeds: BTreeMap<SocketAddr, Seed>,
}

#[derive(Debug)]
struct Seed {
    node: Option<NodeId>,
    dialling: bool,
    failures: u32,
    /// Why the last dial failed, until one succeeds.
    fault: Option<Fault>,
    not_before: Instant,
}

impl Seeds {
    /// Takes what the names resolve to now.
    pub(super) fn set(&mut self, now: Instant, addresses: &[SocketAddr]) {
        self.seeds.retain(|address, _| addresses.contains(address));
        for address in addresses {
            self.seeds.entry(*address).or_insert(Seed {
                node: None,
                dialling: false,
                failures: 0,
                fault: None,
                not_before: now,
            });
        }
    }

    /// The seeds to dial now; they count as being dialled from here on. A peer picks among them, so that
    /// not all peers keep the same ones.
    pub(super) fn next_dials(&mut self, now: Instant, all: bool) -> Vec<SocketAddr> {
        let busy = self.seeds.values().filter(|seed| seed.node.is_some() || seed.dialling).count();
        let most = self.seeds.len();
        let wanted = if all { most } else { ENOUGH_FOR_A_PEER.saturating_sub(busy).min(most) };
        let due = self
            .seeds
            .iter_mut()
            .filter(|(_, seed)| seed.node.is_none() && !seed.dialling && seed.not_before <= now);
        let picked = due.choose_multiple(&mut rand::rng(), wanted);
        let dials = picked.into_iter().map(|(address, seed)| {
            seed.dialling = true;
            *address
        });
        dials.collect()
    }

    /// A dial led to this node.
    pub(super) fn on_connected(&mut self, address: SocketAddr, node: NodeId) {
        if let Some(seed) = self.seeds.get_mut(&address) {
            let not_before = seed.not_before;
            *seed =
                Seed { node: Some(node), dialling: false, failures: 0, fault: None, not_before };
        }
    }

    /// A dial led to ourselves.
    pub(super) fn on_self(&mut self, now: Instant, address: SocketAddr) {
        if let Some(seed) = self.seeds.get_mut(&address) {
            seed.dialling = false;
            seed.not_before = now + SELF_PAUSE;
        }
    }

    /// A dial failed. Gives whether that is news: the first failure, or one with another code.
    pub(super) fn on_failed(&mut self, now: Instant, address: SocketAddr, fault: Fault) -> bool {
        let mut news = false;
        if let Some(seed) = self.seeds.get_mut(&address) {
            news = seed.fault.as_ref().is_none_or(|before| before.code != fault.code);
            seed.dialling = false;
            seed.failures = seed.failures.saturating_add(1);
            seed.fault = Some(fault);
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(seed.failures.min(8) - 1);
            let jitter = rand::rng().random_range(0.5..1.0);
            seed.not_before = now + pause.min(LONGEST_PAUSE).mul_f64(jitter);
        }
        news
    }

    /// The seeds whose last dial failed, and why.
    pub(super) fn failed(&self) -> impl Iterator<Item = (SocketAddr, &Fault)> {
        self.seeds.iter().filter_map(|(address, seed)| Some((*address, seed.fault.as_ref()?)))
    }

    /// No link to this node is left; gives the address if it was a seed.
    pub(super) fn on_lost(&mut self, now: Instant, node: NodeId) -> Option<SocketAddr> {
        let (address, seed) = self.seeds.iter_mut().find(|(_, seed)| seed.node == Some(node))?;
        seed.node = None;
        seed.not_before = now;
        Some(*address)
    }

    /// Whether a connection to this node is kept although nothing uses it.
    pub(super) fn holds(&self, node: NodeId) -> bool {
        self.seeds.values().any(|seed| seed.node == Some(node))
    }
}

#[cfg(test)]
mod tests {
    use macula_proto::Code;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_peer_dials_three_and_infrastructure_all() {
        let (now, addresses) = (Instant::now(), [1, 2, 3, 4, 5].map(address));
        let mut seeds = Seeds::default();
        seeds.set(now, &addresses);
        assert_eq!(seeds.next_dials(now, false).len(), 3);
        assert_eq!(seeds.next_dials(now, false).len(), 0, "three are being dialled");
        assert_eq!(seeds.next_dials(now, true).len(), 2);
    }

    #[test]
    fn a_failed_seed_is_left_alone_for_a_while_and_another_is_dialled() {
        let (now, addresses) = (Instant::now(), [1, 2, 3, 4].map(address));
        let mut seeds = Seeds::default();
        seeds.set(now, &addresses);
        let first = seeds.next_dials(now, false);
        let fault = Fault::of(Code::Unreachable);
        assert!(seeds.on_failed(now, first[0], fault.clone()), "news");
        assert!(!seeds.on_failed(now, first[0], fault.clone()), "the same again");
        assert_eq!(seeds.failed().collect::<Vec<_>>(), [(first[0], &fault)]);
        let fourth = addresses.into_iter().find(|it| !first.contains(it)).unwrap();
        assert_eq!(seeds.next_dials(now, false), [fourth]);
        assert_eq!(seeds.next_dials(now + LONGEST_PAUSE, true), [first[0]]);
    }

    #[test]
    fn a_lost_seed_is_dialled_again_at_once_and_ourselves_never_soon() {
        let (now, node) = (Instant::now(), NodeId::from_bytes([1; 20]));
        let mut seeds = Seeds::default();
        seeds.set(now, &[address(1), address(2)]);
        seeds.next_dials(now, true);
        seeds.on_connected(address(1), node);
        seeds.on_self(now, address(2));
        assert!(seeds.holds(node));
        assert_eq!(seeds.on_lost(now, node), Some(address(1)));
        assert_eq!(seeds.next_dials(now, true), [address(1)]);
        assert_eq!(seeds.next_dials(now + SELF_PAUSE, true), [address(2)]);
    }
}
