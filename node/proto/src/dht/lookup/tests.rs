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

/// Where everybody is who is there.
const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn contact(id: NodeId) -> Contact {
    Contact { id, addresses: vec![HERE] }
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

/// What those do who are not honest.
#[derive(Clone, Copy, Debug)]
enum Malice {
    /// They tell of nodes beside the target that do not exist.
    Invents,
    /// They tell of each other only.
    Closes,
    /// They tell of the nearest there are, and say that they are where nobody is.
    Misplaces,
}

/// Runs a lookup among liars, as [`run`] does; who is asked where it is not does not answer.
fn run_among(
    swarm: &mut Swarm,
    target: Key,
    seeds: &[NodeId],
    liars: &BTreeSet<NodeId>,
    malice: Malice,
) -> Lookup {
    let mut lookup = Lookup::new(target, ME, seeds.iter().copied().map(contact));
    let (mut under_way, mut silent) = (Vec::new(), Vec::new());
    while !lookup.is_finished() {
        while let Some(to) = lookup.poll_ask() {
            under_way.push(to);
        }
        if under_way.is_empty() {
            let node: NodeId = silent.pop().expect("it waits for somebody");
            lookup.on_failure(node);
            continue;
        }
        let to = under_way.remove(0);
        let is_there = swarm.nodes.contains(&to.id) && to.addresses.contains(&HERE);
        if !is_there {
            lookup.on_slow(to.id);
            silent.push(to.id);
        } else if liars.contains(&to.id) {
            let answer = lie(swarm, target, liars, malice);
            lookup.on_answer(to.id, answer);
        } else {
            let answer = swarm.answer(to.id, target);
            lookup.on_answer(to.id, answer);
        }
    }
    lookup
}

fn lie(swarm: &mut Swarm, target: Key, liars: &BTreeSet<NodeId>, malice: Malice) -> Vec<Contact> {
    match malice {
        Malice::Invents => (0..K)
            .map(|_| {
                let id = Distance::within_bucket(150, swarm.rng.random()).from(target);
                contact(NodeId::from_bytes(*id.as_bytes()))
            })
            .collect(),
        Malice::Closes => {
            let mut known: Vec<_> = liars.iter().copied().collect();
            known.sort_by_key(|liar| target.distance(*liar));
            known.into_iter().take(K).map(contact).collect()
        }
        Malice::Misplaces => {
            let nowhere = (1..=MAX_ADDRESSES)
                .map(|n| format!("10.9.9.{n}:1").parse().unwrap())
                .collect::<Vec<_>>();
            let nearest = swarm.nearest(target, &BTreeSet::new()).into_iter();
            nearest.map(|id| Contact { id, addresses: nowhere.clone() }).collect()
        }
    }
}

#[test]
fn a_path_of_liars_hides_nothing_that_the_others_find() {
    for malice in [Malice::Invents, Malice::Closes, Malice::Misplaces] {
        for seed in 0..30 {
            let mut swarm = Swarm::new(500, seed);
            let target = swarm.target();
            let seeds = swarm.nodes[..3].to_vec();
            // The seed of one path, and everybody to whom it leads.
            let liars: BTreeSet<_> =
                swarm.nodes.iter().skip(2).step_by(25).take(20).copied().collect();
            let lookup = run_among(&mut swarm, target, &seeds, &liars, malice);
            let nearest = swarm.nearest(target, &BTreeSet::new());
            assert_eq!(ids(&lookup.closest()), nearest, "{malice:?}, seed {seed}");
            assert!(lookup.is_complete(), "{malice:?}, seed {seed}");
            assert!(lookup.asked() < MAX_ASKED, "{malice:?}, {} asked", lookup.asked());
        }
    }
}

#[test]
fn when_a_fifth_of_all_lie_the_nearest_are_still_found() {
    for malice in [Malice::Invents, Malice::Closes, Malice::Misplaces] {
        let (mut hits, mut of) = (0, 0);
        for seed in 0..40 {
            let mut swarm = Swarm::new(400, seed);
            let target = swarm.target();
            let seeds = swarm.nodes[..9].to_vec();
            let liars: BTreeSet<_> = swarm.nodes.iter().skip(3).step_by(5).copied().collect();
            let lookup = run_among(&mut swarm, target, &seeds, &liars, malice);
            let found = ids(&lookup.closest());
            // One record is at the k nearest: a single honest one of them shows it.
            let honest = swarm.nearest(target, &liars);
            let honest: Vec<_> = honest.into_iter().take(16).collect();
            hits += honest.iter().filter(|node| found.contains(node)).count();
            of += honest.len();
            assert!(honest.iter().any(|node| found.contains(node)), "{malice:?}, seed {seed}");
        }
        assert!(hits * 100 >= of * 95, "{malice:?}: {hits} of {of} of the nearest");
    }
}

#[test]
fn who_tells_of_nobody_who_lives_is_soon_not_believed_and_whoever_answers_clears_him() {
    let mut swarm = Swarm::new(100, 6);
    let target = swarm.target();
    let [first, second, third] = swarm.nodes[..3] else { unreachable!() };
    let told = swarm.nearest(target, &[first, second, third].into());
    let mut lookup = Lookup::new(target, ME, [contact(first)]);
    lookup.poll_ask();
    lookup.on_answer(first, told.iter().copied().map(contact));
    let mut asked = Vec::new();
    while let Some(to) = lookup.poll_ask() {
        lookup.on_slow(to.id);
        asked.push(to.id);
    }
    assert_eq!(asked.len(), usize::try_from(DOUBTS).unwrap() + 1);
    assert!(!lookup.is_finished(), "one of them may still answer");
    lookup.on_answer(asked[0], []);
    assert!(lookup.poll_ask().is_some());
}

#[test]
fn infrastructure_is_asked_however_far_it_is_and_keeps_what_belongs_to_the_realm() {
    let mut swarm = Swarm::new(500, 7);
    let target = swarm.target();
    swarm.nodes.sort_by_key(|node| target.distance(*node));
    let far = swarm.nodes[400..403].to_vec();
    let near = swarm.nodes[..K].to_vec();
    let contacts = |nodes: &[NodeId]| nodes.iter().copied().map(contact).collect::<Vec<_>>();
    let mut lookup = Lookup::with_infrastructure(target, ME, contacts(&far), contacts(&near));
    let first: BTreeSet<_> =
        std::iter::from_fn(|| lookup.poll_ask()).map(|contact| contact.id).collect();
    assert_eq!(first, far.iter().copied().collect(), "one on each path");
    lookup.on_failure(far[0]);
    lookup.on_answer(far[1], []);
    while let Some(to) = lookup.poll_ask() {
        lookup.on_answer(to.id, []);
    }
    assert!(!lookup.is_finished(), "the last of the infrastructure is waited for");
    assert!(!lookup.is_complete());
    lookup.on_answer(far[2], []);
    assert!(lookup.is_finished() && lookup.is_complete());
    assert_eq!(ids(&lookup.closest()), near);
    assert_eq!(ids(&lookup.keepers(K)), [&near[..], &far[1..]].concat());
}

#[test]
fn who_is_skipped_is_not_asked_and_not_found() {
    let mut swarm = Swarm::new(3, 8);
    let target = swarm.target();
    let nodes = swarm.nodes.clone();
    let mut lookup = Lookup::new(target, ME, nodes.iter().copied().map(contact));
    let skipped = lookup.poll_ask().unwrap().id;
    lookup.on_skipped(skipped);
    while let Some(to) = lookup.poll_ask() {
        lookup.on_answer(to.id, [contact(skipped)]);
    }
    assert!(lookup.is_finished() && lookup.is_complete());
    assert_eq!((lookup.asked(), lookup.answered()), (2, 2));
    assert!(!ids(&lookup.closest()).contains(&skipped));
}

#[test]
fn a_lookup_that_is_stopped_asks_nobody_more_and_is_not_complete() {
    let mut swarm = Swarm::new(100, 9);
    let target = swarm.target();
    let mut lookup = Lookup::new(target, ME, swarm.nodes[..5].iter().copied().map(contact));
    let first = lookup.poll_ask().unwrap().id;
    let answer = swarm.answer(first, target);
    lookup.on_answer(first, answer);
    lookup.stop();
    assert!(lookup.is_finished() && lookup.poll_ask().is_none());
    assert!(!lookup.is_complete());
    assert_eq!(ids(&lookup.closest()), [first]);
}

#[test]
fn rounds_are_counted_from_the_seeds_and_bounded() {
    let id = |n: u8| NodeId::from_bytes([255 - n; 20]);
    let mut lookup = Lookup::new(Key::from(ME), ME, [contact(id(0))]);
    // Each knows the next, which is nearer, and there is no end of them.
    let mut rounds = 0;
    while let Some(to) = lookup.poll_ask() {
        rounds += 1;
        assert_eq!(to.id, id(rounds - 1));
        lookup.on_answer(to.id, [contact(id(rounds))]);
        assert_eq!(lookup.rounds(), usize::from(rounds));
    }
    assert_eq!(usize::from(rounds), MAX_ROUNDS);
    for size in [20, 200, 2000, 10_000] {
        let mut swarm = Swarm::new(size, 10);
        let target = swarm.target();
        let seeds = swarm.nodes[..3].to_vec();
        let lookup = run(&mut swarm, target, &seeds, &BTreeSet::new());
        assert!(lookup.rounds() <= 7, "{size} servers took {} rounds", lookup.rounds());
    }
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
