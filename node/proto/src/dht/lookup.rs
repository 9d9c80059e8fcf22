//! One iterative lookup, as a value: whom to ask next, and when it is done (Kademlia §2.3).
//!
//! It asks the nearest known node that has not been asked, [`ALPHA`] at a time, until the k nearest
//! that did not fail have all answered. One that is slow frees its place among the α and among the
//! k, and its answer still counts. A search for values does not stop at the first: a key holds a set, and
//! sets are merged from all k.

use std::collections::BTreeMap;

use macula_identity::NodeId;

use super::K;
use crate::key::{Distance, Key};
use crate::wire::{Contact, MAX_ADDRESSES};

/// How many requests of a lookup are under way at a time: α of the paper.
pub const ALPHA: usize = 3;
/// The most nodes that a lookup asks. Twenty answer, a few are on the way there, and of both some
/// have gone: among 10,000 servers of which a fifth crashed, that makes some forty.
pub const MAX_ASKED: usize = 60;

/// A lookup under way.
#[derive(Debug)]
pub struct Lookup {
    target: Key,
    me: NodeId,
    /// Nearest first.
    candidates: BTreeMap<Distance, Candidate>,
    asked: usize,
    answered: usize,
}

#[derive(Debug)]
struct Candidate {
    contact: Contact,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Asked,
    Slow,
    Answered,
    Failed,
}

impl Lookup {
    /// A lookup of the nodes nearest to `target`, that starts with these.
    #[must_use]
    pub fn new(target: Key, me: NodeId, seeds: impl IntoIterator<Item = Contact>) -> Self {
        let candidates = BTreeMap::new();
        let mut lookup = Self { target, me, candidates, asked: 0, answered: 0 };
        lookup.learn(seeds);
        lookup
    }

    /// What is looked for.
    #[must_use]
    pub const fn target(&self) -> Key {
        self.target
    }

    /// Whom to ask now. It counts as asked.
    pub fn poll_ask(&mut self) -> Option<Contact> {
        let under_way = self.candidates.values().filter(|c| c.state == State::Asked).count();
        if under_way >= ALPHA {
            return None;
        }
        let distance = self.next_new()?;
        let candidate = self.candidates.get_mut(&distance).expect("found just now");
        candidate.state = State::Asked;
        self.asked += 1;
        Some(candidate.contact.clone())
    }

    fn next_new(&self) -> Option<Distance> {
        if self.asked >= MAX_ASKED {
            return None;
        }
        // As if the slow had failed: when they have, whom to ask instead is already known.
        let prompt = self.candidates.iter().filter(|(_, candidate)| match candidate.state {
            State::New | State::Asked | State::Answered => true,
            State::Slow | State::Failed => false,
        });
        let mut nearest = prompt.take(K);
        let new = nearest.find(|(_, c)| c.state == State::New);
        new.map(|(distance, _)| *distance)
    }

    /// The k nearest that have not failed.
    fn nearest(&self) -> impl Iterator<Item = (&Distance, &Candidate)> {
        self.candidates.iter().filter(|(_, c)| c.state != State::Failed).take(K)
    }

    /// The node has not answered yet: another may be asked beside it.
    pub fn on_slow(&mut self, node: NodeId) {
        if let Some(candidate) = self.candidate(node)
            && candidate.state == State::Asked
        {
            candidate.state = State::Slow;
        }
    }

    /// The node answered, and knows these.
    pub fn on_answer(&mut self, node: NodeId, contacts: impl IntoIterator<Item = Contact>) {
        let Some(candidate) = self.candidate(node) else { return };
        match candidate.state {
            State::Asked | State::Slow => candidate.state = State::Answered,
            State::New | State::Answered | State::Failed => return,
        }
        self.answered += 1;
        // More than k is not what was asked for.
        self.learn(contacts.into_iter().take(K));
    }

    /// The node does not answer, or refuses.
    pub fn on_failure(&mut self, node: NodeId) {
        if let Some(candidate) = self.candidate(node) {
            match candidate.state {
                State::New | State::Asked | State::Slow => candidate.state = State::Failed,
                State::Answered | State::Failed => {}
            }
        }
    }

    fn candidate(&mut self, node: NodeId) -> Option<&mut Candidate> {
        self.candidates.get_mut(&self.target.distance(node))
    }

    fn learn(&mut self, contacts: impl IntoIterator<Item = Contact>) {
        for contact in contacts {
            if contact.id == self.me || contact.addresses.is_empty() {
                continue;
            }
            let candidate =
                self.candidates.entry(self.target.distance(contact.id)).or_insert_with(|| {
                    Candidate {
                        contact: Contact { id: contact.id, addresses: Vec::new() },
                        state: State::New,
                    }
                });
            let known = &mut candidate.contact.addresses;
            for address in contact.addresses {
                if known.len() < MAX_ADDRESSES && !known.contains(&address) {
                    known.push(address);
                }
            }
        }
    }

    /// Whether there is nobody left to ask or to wait for.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let waits = self.nearest().any(|(_, c)| matches!(c.state, State::Asked | State::Slow));
        !waits && self.next_new().is_none()
    }

    /// Whether the k nearest that have not failed have all answered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.nearest().all(|(_, c)| c.state == State::Answered)
    }

    /// The k nearest that answered, nearest first.
    #[must_use]
    pub fn closest(&self) -> Vec<Contact> {
        let answered = self.candidates.values().filter(|c| c.state == State::Answered);
        answered.take(K).map(|candidate| candidate.contact.clone()).collect()
    }

    /// How many nodes were asked.
    #[must_use]
    pub const fn asked(&self) -> usize {
        self.asked
    }

    /// How many of them answered.
    #[must_use]
    pub const fn answered(&self) -> usize {
        self.answered
    }
}

#[cfg(test)]
mod tests;
