//! The records that this node keeps for others: a set of publishers for each key.
//!
//! What anybody can make it remember is bounded, and a bound is never first come, first served,
//! which would be a censorship tool: when there is no room, whoever holds the most makes it. So one
//! publisher that floods evicts itself, and an honest one stays.

#[cfg(feature = "fuzz")]
mod check;
mod keep;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;
use macula_identity::{NodeId, RealmName};

use crate::error::{Code, Fault};
use crate::key::Key;
use crate::record::{self, MAX_TTL, VerifiedRecord};
use crate::time::{Deadline, Now};
use crate::wire::{MAX_ADDRESSES, message};

/// What a store keeps at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all.
    pub bytes: usize,
    /// Publishers under one key.
    pub publishers_per_key: usize,
    /// Keys of one publisher.
    pub keys_per_publisher: usize,
}

impl Default for Limits {
    /// 64 MiB, 512 publishers a key (as many as one answer may hold), and 1024 keys a publisher.
    fn default() -> Self {
        Self { bytes: 64 << 20, publishers_per_key: 512, keys_per_publisher: 1024 }
    }
}

/// What an entry costs beside its record: the maps' nodes, measured (`make bench`: 564) and rounded up.
const OVERHEAD: usize = 640;

/// Records by key and publisher.
#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    records: BTreeMap<Key, BTreeMap<NodeId, Box<Entry>>>,
    shares: BTreeMap<NodeId, Share>,
    /// The same shares, by size.
    by_size: BTreeSet<(usize, NodeId)>,
    expiries: BTreeSet<(Instant, Key, NodeId)>,
    /// Rises with each record stored.
    age: u64,
    bytes: usize,
    len: usize,
    /// Records that made room for others.
    evicted: u64,
    /// What is not on disk yet, where that is asked for.
    changes: Option<keep::Changes>,
}

/// The one record of a publisher under a key.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) signed: message::SignedRecord,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) withdrawn: bool,
    pub(crate) realm: RealmName,
    /// Incarnation and sequence.
    order: (u64, u64),
    pub(crate) expires_at: Instant,
    /// The count at which it came: [`Store::count`].
    pub(crate) age: u64,
}

impl Entry {
    fn bytes(&self) -> usize {
        record::size(&self.signed) + OVERHEAD
    }
}

/// What one publisher holds.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    by_age: BTreeMap<u64, Key>,
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            records: BTreeMap::new(),
            shares: BTreeMap::new(),
            by_size: BTreeSet::new(),
            expiries: BTreeSet::new(),
            age: 0,
            bytes: 0,
            len: 0,
            evicted: 0,
            changes: None,
        }
    }

    /// Keeps a record, or the mark of its withdrawal, until it expires. `observed` is where its
    /// publisher was met, if it was the publisher who brought it.
    ///
    /// # Errors
    /// `stale_incarnation` or `stale_sequence` when a later one is known, `quota_exceeded` when the
    /// publisher's share is used up.
    ///
    /// Gives whether anything has changed.
    pub(crate) fn insert(
        &mut self,
        now: Now,
        verified: &VerifiedRecord,
        observed: Option<SocketAddr>,
    ) -> Result<bool, Fault> {
        self.insert_for(now, verified, observed, MAX_TTL)
    }

    /// As [`Store::insert`], for so long at most.
    fn insert_for(
        &mut self,
        now: Now,
        verified: &VerifiedRecord,
        observed: Option<SocketAddr>,
        most: Duration,
    ) -> Result<bool, Fault> {
        self.expire(now);
        let VerifiedRecord { record, publisher, signed } = verified;
        let (key, publisher) = (record.key(), publisher.id);
        let left = Duration::from_millis(record.expiry_ms.saturating_sub(now.unix_ms));
        let mut entry = Entry {
            // Copied, since what arrived is a slice of a whole frame, which it would keep alive.
            signed: copy(signed),
            addresses: observed.into_iter().collect(),
            withdrawn: record.withdrawn,
            realm: record.realm.clone(),
            order: record.order(),
            expires_at: now.after(left.min(most)),
            age: self.age,
        };
        let known = self.records.get(&key).and_then(|set| set.get(&publisher));
        if let Some(known) = known {
            later_or_same(known, &entry)?;
            // Of another start its publisher may be elsewhere.
            if observed.is_none() && known.order.0 == entry.order.0 {
                entry.addresses.clone_from(&known.addresses);
            }
            let is_news = entry.order != known.order || entry.addresses != known.addresses;
            if !is_news && entry.expires_at <= known.expires_at {
                return Ok(false);
            }
            // A withdrawal outlives whatever it withdraws, so that nobody can bring that back.
            if entry.withdrawn {
                entry.expires_at = entry.expires_at.max(known.expires_at);
            }
            self.remove(key, publisher);
        } else {
            self.check_share(key, publisher)?;
        }
        self.age += 1;
        self.put(key, publisher, entry);
        self.make_room(publisher).map(|()| true)
    }

    /// Notes where others have met the publisher of a record that is kept. They are tried last when it was
    /// met here.
    pub(crate) fn note_addresses(
        &mut self,
        key: Key,
        publisher: NodeId,
        addresses: Vec<SocketAddr>,
    ) {
        let set = self.records.get_mut(&key);
        let Some(entry) = set.and_then(|set| set.get_mut(&publisher)) else { return };
        for address in addresses {
            if entry.addresses.len() < MAX_ADDRESSES && !entry.addresses.contains(&address) {
                entry.addresses.push(address);
            }
        }
    }

    fn check_share(&mut self, key: Key, publisher: NodeId) -> Result<(), Fault> {
        let keys = self.shares.get(&publisher).map_or(0, |share| share.by_age.len());
        if keys >= self.limits.keys_per_publisher {
            let because = format!("it holds {keys} records here, and that is the most");
            return Err(Fault::new(Code::QuotaExceeded, because));
        }
        // A full key loses the record of its largest publisher, of several the oldest.
        let set = self.records.get(&key);
        if let Some(set) = set.filter(|set| set.len() >= self.limits.publishers_per_key) {
            let share = |id| self.shares.get(id).map_or(0, |share| share.bytes);
            let largest = set.iter().max_by_key(|(id, e)| (share(id), std::cmp::Reverse(e.age)));
            let largest = *largest.expect("a full set is not empty").0;
            if share(&publisher) > share(&largest) {
                let because = "the key is full, and nobody under it holds more than its publisher";
                return Err(Fault::new(Code::QuotaExceeded, because));
            }
            self.evicted += 1;
            self.remove(key, largest);
        }
        Ok(())
    }

    /// The largest publisher loses its oldest records until all fit. The newest stays when
    /// anything else can go.
    fn make_room(&mut self, newest: NodeId) -> Result<(), Fault> {
        while self.bytes > self.limits.bytes {
            let (_, largest) = *self.by_size.last().expect("bytes are held by somebody");
            let oldest = self.shares[&largest].by_age.first_key_value();
            let (_, &key) = oldest.expect("a share without records is removed");
            let is_all = self.shares[&largest].by_age.len() == 1;
            self.evicted += 1;
            self.remove(key, largest);
            if largest == newest && is_all {
                let because = "the store is full, and nobody holds more than its publisher";
                return Err(Fault::new(Code::QuotaExceeded, because));
            }
        }
        Ok(())
    }

    fn put(&mut self, key: Key, publisher: NodeId, entry: Entry) {
        let bytes = entry.bytes();
        self.bytes += bytes;
        self.len += 1;
        let share = self.shares.entry(publisher).or_default();
        self.by_size.remove(&(share.bytes, publisher));
        share.bytes += bytes;
        self.by_size.insert((share.bytes, publisher));
        share.by_age.insert(entry.age, key);
        self.expiries.insert((entry.expires_at, key, publisher));
        self.records.entry(key).or_default().insert(publisher, Box::new(entry));
        self.changed(key, publisher);
    }

    fn remove(&mut self, key: Key, publisher: NodeId) {
        let Some(set) = self.records.get_mut(&key) else { return };
        let Some(entry) = set.remove(&publisher) else { return };
        if set.is_empty() {
            self.records.remove(&key);
        }
        let bytes = entry.bytes();
        self.bytes -= bytes;
        self.len -= 1;
        self.expiries.remove(&(entry.expires_at, key, publisher));
        let share = self.shares.get_mut(&publisher).expect("each record counts in a share");
        self.by_size.remove(&(share.bytes, publisher));
        share.bytes -= bytes;
        share.by_age.remove(&entry.age);
        if share.by_age.is_empty() {
            self.shares.remove(&publisher);
        } else {
            self.by_size.insert((share.bytes, publisher));
        }
        self.changed(key, publisher);
    }

    /// Forgets what has expired.
    pub(crate) fn expire(&mut self, now: Now) {
        while let Some(&(at, key, publisher)) = self.expiries.first()
            && at <= now.instant
        {
            self.remove(key, publisher);
        }
    }

    /// When to call [`Store::expire`].
    pub(crate) fn poll_timeout(&self) -> Option<Deadline> {
        self.expiries.first().map(|(at, ..)| Deadline::new(*at, "record expiry"))
    }

    /// The realm's records under a key, from the publisher `start` on and then round: when not all
    /// fit into an answer, each answer starts elsewhere, and nobody is always left out.
    pub(crate) fn find(
        &self,
        now: Now,
        key: Key,
        realm: &RealmName,
        start: NodeId,
    ) -> impl Iterator<Item = (NodeId, &Entry)> {
        let set = self.records.get(&key);
        let from = set.into_iter().flat_map(move |set| set.range(start..));
        let rest = set.into_iter().flat_map(move |set| set.range(..start));
        from.chain(rest)
            .filter(move |(_, entry)| entry.realm == *realm && entry.expires_at > now.instant)
            .map(|(publisher, entry)| (*publisher, &**entry))
    }

    /// Rises with each change of any record.
    pub(crate) const fn count(&self) -> u64 {
        self.age
    }

    /// The keys of this publisher's records.
    pub(crate) fn keys_of(&self, publisher: NodeId) -> Vec<Key> {
        let share = self.shares.get(&publisher).into_iter();
        share.flat_map(|share| share.by_age.values().copied()).collect()
    }

    /// Of which realm the record of this publisher under this key is.
    pub(crate) fn realm_of(&self, key: Key, publisher: NodeId) -> Option<&RealmName> {
        Some(&self.records.get(&key)?.get(&publisher)?.realm)
    }

    /// This publisher is taken for gone: what it said ends at this instant, unless it says it again.
    pub(crate) fn doubt(&mut self, publisher: NodeId, until: Instant) {
        for key in self.keys_of(publisher) {
            let set = self.records.get_mut(&key).expect("a share names what is there");
            let entry = set.get_mut(&publisher).expect("a share names what is there");
            if until < entry.expires_at && !entry.withdrawn {
                self.expiries.remove(&(entry.expires_at, key, publisher));
                entry.expires_at = until;
                self.expiries.insert((until, key, publisher));
            }
        }
    }

    /// The record after this one, by key and then by publisher; first of all the first.
    pub(crate) fn next(&self, after: Option<(Key, NodeId)>) -> Option<(Key, NodeId, &Entry)> {
        let (rest, keys) = match after {
            None => (None, (Bound::Unbounded, Bound::Unbounded)),
            Some((key, publisher)) => {
                let rest = (Bound::Excluded(publisher), Bound::Unbounded);
                let rest = self.records.get(&key).and_then(|set| set.range(rest).next());
                (rest.map(|found| (key, found)), (Bound::Excluded(key), Bound::Unbounded))
            }
        };
        let next = || {
            let (key, set) = self.records.range(keys).next()?;
            Some((*key, set.first_key_value().expect("an empty set is removed")))
        };
        let (key, (publisher, entry)) = rest.or_else(next)?;
        Some((key, *publisher, entry))
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }
}

fn later_or_same(known: &Entry, entry: &Entry) -> Result<(), Fault> {
    let ((known_incarnation, known_sequence), (incarnation, sequence)) = (known.order, entry.order);
    if incarnation < known_incarnation {
        let because = format!("incarnation {known_incarnation} of the publisher is known");
        return Err(Fault::new(Code::StaleIncarnation, because));
    }
    if entry.order < known.order {
        let because = format!("sequence {known_sequence} is known, and {sequence} came");
        return Err(Fault::new(Code::StaleSequence, because));
    }
    if entry.order == known.order && entry.signed.body != known.signed.body {
        let because = format!("another record has the sequence {sequence}");
        return Err(Fault::new(Code::StaleSequence, because));
    }
    Ok(())
}

fn copy(signed: &message::SignedRecord) -> message::SignedRecord {
    let message::SignedRecord { body, certificate, signature } = signed;
    message::SignedRecord {
        body: Bytes::copy_from_slice(body),
        certificate: Bytes::copy_from_slice(certificate),
        signature: Bytes::copy_from_slice(signature),
    }
}

#[cfg(test)]
mod tests;
