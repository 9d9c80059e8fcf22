//! The leases that others have left with this node: who is told of a key's changes, and until when
//! (docs/PROTOCOL.md §5.5).
//!
//! A lease remembers what its holder has noted, and not what it must be told: that is read from the
//! store when a push is made. So a holder that is slow costs one push under way and no queue, many
//! changes become one push, and nothing is left out.

#[cfg(feature = "fuzz")]
mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use macula_identity::{Identity, NodeId, RealmName};

use super::ask::Purpose;
use super::{Dht, RequestId, dialable};
use crate::error::{Code, Fault};
use crate::key::Key;
use crate::time::{Deadline, Now};
use crate::wire::limits::MAX_LOST;
use crate::wire::{Contact, message};
use message::{request, response};

/// The longest lease. It is renewed from half of it on, which keeps the connection in use.
pub(crate) const LEASE: Duration = Duration::from_secs(90);
/// The most leases of one node: as many keys as it may publish under.
pub(super) const MAX_OF_NODE: usize = 1024;
/// The most leases on one key.
pub(super) const MAX_OF_KEY: usize = 16 * 1024;
/// The most leases in all; at some 300 bytes each, 20 MB.
pub(super) const MAX_ALL: usize = 64 * 1024;
/// A push that fails is tried again after this, then after twice as long.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// And at the latest after this.
const RETRY_WITHIN: Duration = Duration::from_secs(10);

/// All leases that this node has given.
#[derive(Debug)]
pub(super) struct Leases {
    /// Which of this node's lives its counts belong to.
    epoch: u64,
    all: BTreeMap<(Key, NodeId), Lease>,
    by_node: BTreeMap<NodeId, BTreeSet<Key>>,
    of_key: BTreeMap<Key, usize>,
    /// When each ends, or its push is tried again.
    due: BTreeSet<(Instant, Key, NodeId)>,
}

#[derive(Debug)]
struct Lease {
    realm: RealmName,
    to: Contact,
    ends: Instant,
    /// Its holder has every change before this count.
    noted: u64,
    /// Publishers that are to be named as lost.
    lost: BTreeSet<NodeId>,
    push: Push,
    /// Pushes in a row that failed.
    failures: u32,
}

#[derive(Debug)]
enum Push {
    Idle,
    UnderWay {
        id: RequestId,
        count: u64,
        lost: BTreeSet<NodeId>,
    },
    /// The last one failed.
    Waiting {
        until: Instant,
    },
}

impl Lease {
    fn due(&self) -> Instant {
        match self.push {
            Push::Idle | Push::UnderWay { .. } => self.ends,
            Push::Waiting { until } => until.min(self.ends),
        }
    }

    /// What the push under way would have told of is told by the next one.
    fn recall(&mut self) {
        if let Push::UnderWay { lost, .. } = std::mem::replace(&mut self.push, Push::Idle) {
            self.lost.extend(lost);
        }
    }
}

impl Leases {
    pub(super) const fn new(epoch: u64) -> Self {
        Self {
            epoch,
            all: BTreeMap::new(),
            by_node: BTreeMap::new(),
            of_key: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// When to call [`Dht::push_due`].
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        self.due.first().map(|(at, ..)| Deadline::new(*at, "lease"))
    }

    /// Those of this realm who hold a lease on the key. A key can be guessed: whoever of another realm
    /// watches it is told of nothing.
    fn holders(&self, key: Key, realm: &RealmName) -> Vec<NodeId> {
        let first = (key, NodeId::from_bytes([0; 20]));
        let of_key = self.all.range(first..).take_while(|((of, _), _)| *of == key);
        let fellows = of_key.filter(|(_, lease)| lease.realm == *realm);
        fellows.map(|((_, holder), _)| *holder).collect()
    }

    /// Changes a lease, and keeps the order of deadlines.
    fn change(&mut self, key: Key, holder: NodeId, change: impl FnOnce(&mut Lease)) {
        let Some(lease) = self.all.get_mut(&(key, holder)) else { return };
        let before = lease.due();
        change(lease);
        let after = lease.due();
        if before != after {
            self.due.remove(&(before, key, holder));
            self.due.insert((after, key, holder));
        }
    }

    fn insert(&mut self, key: Key, lease: Lease) -> Result<(), Fault> {
        let holder = lease.to.id;
        let of_node = self.by_node.get(&holder).map_or(0, BTreeSet::len);
        let of_key = self.of_key.get(&key).copied().unwrap_or_default();
        let full = [(of_node, MAX_OF_NODE), (of_key, MAX_OF_KEY), (self.all.len(), MAX_ALL)];
        if let Some((have, _)) = full.into_iter().find(|(have, most)| have >= most) {
            let because = format!("{have} leases are given, and that is the most");
            return Err(Fault::new(Code::TooManyWatches, because));
        }
        self.due.insert((lease.due(), key, holder));
        self.by_node.entry(holder).or_default().insert(key);
        *self.of_key.entry(key).or_default() += 1;
        self.all.insert((key, holder), lease);
        Ok(())
    }

    fn remove(&mut self, key: Key, holder: NodeId) {
        let Some(lease) = self.all.remove(&(key, holder)) else { return };
        self.due.remove(&(lease.due(), key, holder));
        if let Some(keys) = self.by_node.get_mut(&holder) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_node.remove(&holder);
            }
        }
        if let Some(count) = self.of_key.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.of_key.remove(&key);
            }
        }
    }
}

impl Dht {
    /// What this node has under any key, as a version.
    pub(super) fn version(&self) -> message::Version {
        message::Version { epoch: self.leases.epoch, count: self.store.count() }
    }

    /// From which count on somebody with this version lacks something: all, when it is of another
    /// life of this node, or of none.
    pub(super) fn lacks_from(&self, has: Option<message::Version>) -> u64 {
        has.filter(|has| has.epoch == self.leases.epoch && has.count <= self.store.count())
            .map_or(0, |has| has.count)
    }

    /// Gives a lease, or renews it; its holder is being told all that there is. Gives its length in
    /// milliseconds.
    pub(super) fn lease(
        &mut self,
        now: Now,
        from: &Identity,
        observed: SocketAddr,
        (key, realm): (Key, &RealmName),
        wanted_ms: u32,
    ) -> Result<u32, Fault> {
        let length = Duration::from_millis(wanted_ms.into()).min(LEASE);
        let (ends, noted) = (now.after(length), self.store.count());
        let to = Contact { id: from.id, addresses: dialable([observed]) };
        if self.leases.all.contains_key(&(key, from.id)) {
            self.leases.change(key, from.id, |lease| {
                lease.recall();
                (lease.to, lease.ends, lease.noted) = (to, ends, noted);
                (lease.push, lease.failures) = (Push::Idle, 0);
            });
            self.push(now, key, from.id, None);
        } else {
            let lost = BTreeSet::new();
            let (realm, push) = (realm.clone(), Push::Idle);
            let lease = Lease { realm, to, ends, noted, lost, push, failures: 0 };
            self.leases.insert(key, lease)?;
        }
        Ok(u32::try_from(length.as_millis()).expect("a lease is a minute and a half at most"))
    }

    /// Something of this realm under the key has changed: its own who hold a lease on it are told.
    pub(super) fn push_changes(&mut self, now: Now, key: Key, realm: &RealmName) {
        let mut made = None;
        for holder in self.leases.holders(key, realm) {
            made = self.push(now, key, holder, made);
        }
    }

    /// The connection to this publisher has failed: whoever watches a key of its is told, and may
    /// see for itself.
    pub(super) fn push_lost(&mut self, now: Now, publisher: NodeId) {
        for key in self.store.keys_of(publisher) {
            let Some(realm) = self.store.realm_of(key, publisher).cloned() else { continue };
            for holder in self.leases.holders(key, &realm) {
                if holder != publisher {
                    self.leases.change(key, holder, |lease| {
                        // One more than a push may name: it then says that there is more.
                        if lease.lost.len() <= MAX_LOST {
                            lease.lost.insert(publisher);
                        }
                    });
                    self.push(now, key, holder, None);
                }
            }
        }
    }

    /// Forgets the leases of a node that is gone: when it comes back it asks again.
    pub(super) fn drop_leases(&mut self, holder: NodeId) {
        for key in self.leases.by_node.get(&holder).cloned().unwrap_or_default() {
            self.leases.remove(key, holder);
        }
    }

    /// Ends the leases that are over, and tries again what failed.
    pub(super) fn push_due(&mut self, now: Now) {
        while let Some(&(at, key, holder)) = self.leases.due.first()
            && at <= now.instant
        {
            let lease = &self.leases.all[&(key, holder)];
            if lease.ends <= now.instant {
                self.leases.remove(key, holder);
            } else {
                self.leases.change(key, holder, |lease| lease.push = Push::Idle);
                self.push(now, key, holder, None);
            }
        }
    }

    /// Tells a holder what it has not noted, unless it is being told or there is nothing. `made` is what
    /// another holder of the same realm was told, and is used again where it fits; gives what is good for the next.
    fn push(
        &mut self,
        now: Now,
        key: Key,
        holder: NodeId,
        made: Option<message::Changed>,
    ) -> Option<message::Changed> {
        let Some(lease) = self.leases.all.get_mut(&(key, holder)) else { return made };
        match lease.push {
            Push::Idle => {}
            Push::UnderWay { .. } | Push::Waiting { .. } => return made,
        }
        let lost = std::mem::take(&mut lease.lost);
        let since = message::Version { epoch: self.leases.epoch, count: lease.noted };
        let (to, realm) = (lease.to.clone(), lease.realm.clone());
        let fits = made.as_ref().is_some_and(|made| made.since == Some(since));
        let changed = match made {
            Some(made) if fits && lost.is_empty() => made,
            _ => {
                let (records, truncated) = self.records_since(now, key, &realm, since.count);
                let named = lost.iter().take(MAX_LOST);
                message::Changed {
                    key: Bytes::copy_from_slice(key.as_bytes()),
                    since: Some(since),
                    count: self.store.count(),
                    records,
                    lost: named.map(|node| Bytes::copy_from_slice(node.as_bytes())).collect(),
                    truncated: truncated || lost.len() > MAX_LOST,
                }
            }
        };
        if changed.records.is_empty() && changed.lost.is_empty() && !changed.truncated {
            return Some(changed);
        }
        let count = changed.count;
        let body = request::Body::Changed(changed.clone());
        let id = self.send(now, to, body, Purpose::Push(key));
        let push = Push::UnderWay { id, count, lost };
        self.leases.change(key, holder, |lease| lease.push = push);
        Some(changed).filter(|changed| changed.lost.is_empty())
    }

    /// What a push came to.
    pub(super) fn on_push_response(
        &mut self,
        now: Now,
        (key, holder): (Key, NodeId),
        id: RequestId,
        result: Result<response::Body, Fault>,
    ) {
        let Some(lease) = self.leases.all.get(&(key, holder)) else { return };
        let Push::UnderWay { id: current, count, .. } = lease.push else { return };
        if current != id {
            return;
        }
        match result {
            Ok(_) => {
                self.leases.change(key, holder, |lease| {
                    (lease.noted, lease.push, lease.failures) = (count, Push::Idle, 0);
                });
                self.push(now, key, holder, None);
            }
            Err(fault) if fault.code == Code::NotWatching => self.leases.remove(key, holder),
            Err(_) => self.leases.change(key, holder, |lease| {
                lease.recall();
                let pause = RETRY_AFTER * (1 << lease.failures.min(4));
                lease.failures += 1;
                lease.push = Push::Waiting { until: now.after(pause.min(RETRY_WITHIN)) };
            }),
        }
    }
}
