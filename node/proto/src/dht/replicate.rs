//! What this node brings to others when infrastructure comes or goes (docs/PROTOCOL.md §5.4).
//!
//! Publishers repeat their records every few minutes, and at once when they see a keeper go. Until
//! then a newcomer would answer with nothing for keys to which it is near, and a key that lost a keeper
//! would have one less. So the nearest of the infrastructure that holds a record sends it to the one that
//! now shall have it too: one node, not twenty. Each arrival and departure is one walk through the store by
//! cursor, one walk at a time, a few records under way; nothing is queued but who came and who went.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use macula_identity::NodeId;
use rand::Rng;

use super::ask::Purpose;
use super::{Dht, K};
use crate::error::Fault;
use crate::key::{Key, Scope};
use crate::name::RealmName;
use crate::time::{Deadline, Now};
use crate::wire::{Contact, MAX_RETRY_AFTER, message};
use message::{request, response};

/// How many records are on their way at a time: with an answer in a millisecond thousands a second, and never
/// more than these in anybody's memory.
pub(super) const MAX_RUNNING: usize = 8;
/// How many records are looked at before others get their turn.
pub(super) const MAX_LOOKED_AT: usize = 256;
/// Between two such looks.
const STEP: Duration = Duration::from_millis(20);
/// How many arrivals and departures wait for their walk; past it publishers bring their records themselves,
/// a few minutes later at most.
pub(super) const MAX_CHANGES: usize = 256;
/// A walk begins this long after its reason, at the earliest: a node that only changes its connection is
/// back by then, and who has just come knows its neighbours.
const SETTLE: Duration = Duration::from_secs(1);
/// And by chance this much later, so that all who noticed do not send at once.
const JITTER: Duration = Duration::from_secs(2);

/// Who came and who went, and how far the walk for the first of them is.
#[derive(Debug, Default)]
pub(super) struct Replication {
    changes: VecDeque<Change>,
    running: usize,
}

#[derive(Debug)]
struct Change {
    node: NodeId,
    what: What,
    due: Instant,
    /// What was stored from this age on came when the change was known, and went where it belongs.
    before: u64,
    /// The record that was looked at last.
    cursor: Option<(Key, NodeId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Came,
    Went,
}

impl Replication {
    /// When to call [`Dht::replicate`].
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let change = self.changes.front().filter(|_| self.running < MAX_RUNNING)?;
        Some(Deadline::new(change.due, "replication"))
    }
}

impl Dht {
    /// Infrastructure that was not known was met.
    pub(super) fn on_came(&mut self, now: Now, node: NodeId) {
        self.on_change(now, node, What::Came);
    }

    /// A node is gone, or serves no longer.
    pub(super) fn forget(&mut self, now: Now, node: NodeId) {
        if self.tables.remove(node) == Some(Scope::Infrastructure) {
            self.on_change(now, node, What::Went);
        }
    }

    fn on_change(&mut self, now: Now, node: NodeId, what: What) {
        // Only infrastructure may bring the records of others.
        if self.my_realm().is_some() {
            return;
        }
        // Of one node the last word counts: who went and is back has what it had.
        self.replication.changes.retain(|change| change.node != node);
        if self.store.len() == 0 || self.replication.changes.len() >= MAX_CHANGES {
            return;
        }
        let due = now.after(SETTLE + JITTER.mul_f64(self.rng.random()));
        let before = self.store.count();
        self.replication.changes.push_back(Change { node, what, due, before, cursor: None });
    }

    /// Goes on with the walk that is due, as far as it may.
    pub(super) fn replicate(&mut self, now: Now) {
        let mut looked_at = 0;
        while self.replication.running < MAX_RUNNING
            && let Some(change) = self.replication.changes.front()
            && change.due <= now.instant
        {
            let Some((key, publisher, entry)) = self.store.next(change.cursor) else {
                self.replication.changes.pop_front();
                continue;
            };
            let to = self.replica_goes_to(change, key, &entry.realm);
            let is_wanted = entry.age < change.before && entry.expires_at > now.instant;
            let replica = to.as_ref().filter(|_| is_wanted).map(|_| {
                let record = Some(entry.signed.clone());
                if entry.withdrawn {
                    return request::Body::Delete(message::Delete { record });
                }
                let addresses = entry.addresses.iter().map(|address| (*address).into()).collect();
                request::Body::Store(message::Store { record, addresses })
            });
            // What goes to nobody takes all of its key along.
            let last = if to.is_some() { publisher } else { NodeId::from_bytes([0xff; 20]) };
            let change = self.replication.changes.front_mut().expect("looked at above");
            change.cursor = Some((key, last));
            looked_at += 1;
            if looked_at == MAX_LOOKED_AT {
                change.due = now.after(STEP);
            }
            if let (Some(to), Some(body)) = (to, replica) {
                self.replication.running += 1;
                self.counters.records_replicated += 1;
                self.send(now, to, body, Purpose::Replica);
            }
        }
    }

    /// Who shall have what is under this key because of the change, when it is this node that sends it.
    fn replica_goes_to(&self, change: &Change, key: Key, realm: &RealmName) -> Option<Contact> {
        let mine = key.distance(self.me.identity.id);
        let changed = key.distance(change.node);
        // Of all of the infrastructure that may hold it, the nearest sends it.
        let mut others = self.tables.infrastructure().filter(|other| other.id != change.node);
        if others.any(|other| key.distance(other.id) < mine) {
            return None;
        }
        let scope = Scope::Realm(realm.clone());
        let others = self.tables.closest(key, &scope, K, Some(change.node));
        let nearer_than = |distance| {
            let others = others.iter().filter(|other| key.distance(other.id) < distance).count();
            others + usize::from(mine < distance)
        };
        match change.what {
            What::Came if nearer_than(changed) < K => self.tables.get(change.node).cloned(),
            What::Came => None,
            // Who has become the k-th, this node counted among them.
            What::Went => {
                let kth = match nearer_than(mine) {
                    before if before < K - 1 => others.get(K - 2)?,
                    before if before >= K => others.get(K - 1)?,
                    _ => return None,
                };
                (changed < key.distance(kth.id)).then(|| kth.clone())
            }
        }
    }

    /// A record has come to whom it was sent, or not: then its publisher will bring it.
    pub(super) fn on_replicated(&mut self, now: Now, result: &Result<response::Body, Fault>) {
        self.replication.running -= 1;
        if let Err(Fault { retry_after: Some(pause), .. }) = result
            && let Some(change) = self.replication.changes.front_mut()
        {
            change.due = change.due.max(now.after((*pause).min(MAX_RETRY_AFTER)));
        }
        self.replicate(now);
    }
}
