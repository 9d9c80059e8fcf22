//! Lookups in a pure swarm: nodes are ids and the contacts they know.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::dht::bucket::K;

const ME: NodeId = NodeId::from_bytes([0; 20]);

/// Servers with tables as Kademlia fills them: of each bucket twenty at most.
struct Swarm {
    nodes: Vec<NodeId>,
    rng: StdRng,
}

impl Swarm {
    fn new(size: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = (0..size).map(|_| NodeId::from_bytes(rng.random())).collect();
        Self { nodes, rng }
    }

    /// What one node answers: the nearest of those in its buckets.
    fn answer(&mut self, from: NodeId, target: Key) -> Vec<Contact> {
        let mut buckets: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| **node != from) {
            let index = Key::from(from).distance(*node).leading_zeros();
            buckets.entry(index).or_default().push(*node);
        }
        let mut known = Vec::new();
        for bucket in buckets.into_values() {
            let start = self.rng.random_range(0..bucket.len());
            known.extend(bucket.iter().cycle().skip(start).take(K.min(bucket.len())));
        }
        known.sort_by_key(|node| target.distance(*node));
        known.into_iter().take(K).map(contact).collect()
    }

    fn nearest(&self, target: Key, without: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let mut nodes: Vec<_> = self.nodes.iter().filter(|n| !without.contains(n)).collect();
        nodes.sort_by_key(|node| target.distance(**node));
        nodes.into_iter().take(K).copied().collect()
    }

    fn target(&mut self) -> Key {
        Key::from_bytes(self.rng.random())
    }
}

fn contact(id: NodeId) -> Contact {
    Contact { id, addresses: vec!["10.0.0.1:9443".parse().unwrap()] }
}

fn ids(contacts: &[Contact]) -> Vec<NodeId> {
    contacts.iter().map(|contact| contact.id).collect()
}

/// Runs a lookup while `dead` never answer: each becomes slow at once, and fails when nothing else
/// happens. Gives the lookup.
fn run(swarm: &mut Swarm, target: Key, seeds: &[NodeId], dead: &BTreeSet<NodeId>) -> Lookup {
    let mut lookup = Lookup::new(target, ME, seeds.iter().copied().map(contact));
    let (mut under_way, mut silent) = (Vec::new(), Vec::new());
    while !lookup.is_finished() {
        while let Some(to) = lookup.poll_ask() {
            under_way.push(to.id);
        }
        assert!(under_way.len() <= ALPHA, "{} under way", under_way.len());
        if let Some(node) = under_way.pop() {
            if dead.contains(&node) {
                lookup.on_slow(node);
                silent.push(node);
            } else {
                let answer = swarm.answer(node, target);
                lookup.on_answer(node, answer);
            }
        } else {
            let node = silent.pop().expect("a lookup that is not finished waits for somebody");
            lookup.on_failure(node);
        }
    }
    lookup
}

#[test]
fn finds_the_k_nearest_of_a_swarm_and_asks_few() {
    for size in [1, 5, 20, 200, 2000] {
        let mut swarm = Swarm::new(size, size as u64);
        let target = swarm.target();
        let seeds = [swarm.nodes[0]];
        let lookup = run(&mut swarm, target, &seeds, &BTreeSet::new());
        assert_eq!(ids(&lookup.closest()), swarm.nearest(target, &BTreeSet::new()));
        assert!(lookup.is_complete());
        assert!(lookup.asked() <= 40, "{size} servers, {} asked", lookup.asked());
    }
}

#[test]
fn a_fifth_that_crashed_costs_at_most_a_third_of_the_servers() {
    for seed in 0..40 {
        let mut swarm = Swarm::new(200, seed);
        let dead: BTreeSet<_> = swarm.nodes.iter().step_by(5).copied().collect();
        let target = swarm.target();
        let seeds = swarm.nodes[..20].to_vec();
        let lookup = run(&mut swarm, target, &seeds, &dead);
        let living = swarm.nearest(target, &dead);
        let found = ids(&lookup.closest());
        let hits = living.iter().filter(|node| found.contains(node)).count();
        assert!(hits >= 15, "seed {seed}: {hits} of the 20 nearest");
        assert!(lookup.asked() <= 66, "seed {seed}: {} asked", lookup.asked());
        assert!(found.iter().all(|node| !dead.contains(node)));
    }
}

#[test]
fn ends_when_nobody_answers() {
    let mut swarm = Swarm::new(300, 1);
    let dead = swarm.nodes.iter().copied().collect();
    let (target, seeds) = (swarm.target(), swarm.nodes.clone());
    let lookup = run(&mut swarm, target, &seeds, &dead);
    assert_eq!((lookup.asked(), lookup.answered()), (MAX_ASKED, 0));
    assert!(lookup.closest().is_empty());
    assert!(!lookup.is_complete(), "there are nodes that were never asked");
}

#[test]
fn ends_at_once_when_nobody_is_known() {
    let lookup = Lookup::new(Key::from(ME), ME, []);
    assert!(lookup.is_finished());
    assert_eq!(lookup.asked(), 0);
}

#[test]
fn a_late_answer_counts() {
    let mut swarm = Swarm::new(5, 3);
    let target = swarm.target();
    let seeds = swarm.nodes.clone();
    let mut lookup = Lookup::new(target, ME, seeds.into_iter().map(contact));
    let slow = lookup.poll_ask().unwrap().id;
    lookup.on_slow(slow);
    while let Some(to) = lookup.poll_ask() {
        lookup.on_answer(to.id, []);
    }
    assert!(!lookup.is_finished(), "it still waits for the slow one");
    lookup.on_answer(slow, []);
    assert!(lookup.is_finished() && lookup.is_complete());
    assert_eq!(lookup.closest()[0].id, slow);
}

#[test]
fn never_asks_itself_nor_who_has_no_address_nor_believes_who_was_not_asked() {
    let mut swarm = Swarm::new(3, 4);
    let target = swarm.target();
    let [a, b, c] = swarm.nodes[..] else { unreachable!() };
    let mut lookup = Lookup::new(target, ME, [contact(a)]);
    lookup.on_answer(b, [contact(c)]);
    assert_eq!(lookup.poll_ask().unwrap().id, a);
    let nowhere = Contact { id: b, addresses: Vec::new() };
    lookup.on_answer(a, [contact(ME), nowhere, contact(a)]);
    lookup.on_answer(a, [contact(c)]);
    assert!(lookup.is_finished());
    assert_eq!(ids(&lookup.closest()), [a]);
}

#[test]
fn an_answer_adds_no_more_than_k_contacts() {
    let mut swarm = Swarm::new(500, 5);
    let target = swarm.target();
    let first = swarm.nodes[0];
    let mut lookup = Lookup::new(target, ME, [contact(first)]);
    lookup.poll_ask();
    lookup.on_answer(first, swarm.nodes[1..].iter().copied().map(contact));
    assert_eq!(lookup.candidates.len(), 1 + K);
}

proptest! {
    /// Whoever answers, is slow or fails, in whatever order: it ends, and within its bounds.
    #[test]
    fn always_ends(seed in any::<u64>(), size in 1..120_usize) {
        let mut swarm = Swarm::new(size, seed);
        let target = swarm.target();
        let seeds = swarm.nodes.clone();
        let mut lookup = Lookup::new(target, ME, seeds.into_iter().map(contact));
        let mut under_way = Vec::new();
        let mut steps = 0;
        while !lookup.is_finished() {
            steps += 1;
            prop_assert!(steps < 10 * MAX_ASKED);
            while let Some(to) = lookup.poll_ask() {
                under_way.push(to.id);
            }
            prop_assert!(!under_way.is_empty());
            let at = swarm.rng.random_range(0..under_way.len());
            match swarm.rng.random_range(0..3) {
                0 => lookup.on_slow(under_way[at]),
                1 => lookup.on_failure(under_way.swap_remove(at)),
                _ => {
                    let node = under_way.swap_remove(at);
                    let answer = swarm.answer(node, target);
                    lookup.on_answer(node, answer);
                }
            }
        }
        prop_assert!(lookup.asked() <= MAX_ASKED);
    }
}
