//! What a lookup for records has found: of each publisher the latest, verified by this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use macula_identity::{NodeId, RealmName};
use ring::digest;

use super::dialable;
use crate::key::Key;
use crate::record::{VerifiedRecord, Verifier};
use crate::time::Now;
use crate::wire::{Contact, MAX_ADDRESSES, message};

/// The most publishers of one lookup: what one storer may show.
const MAX_PUBLISHERS: usize = 512;

/// What a lookup found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Of each publisher the latest record, ordered by publisher. None of those withdrawn.
    pub records: Vec<FoundRecord>,
    /// The marks of those whose latest word is that they withdraw what they said.
    pub withdrawn: Vec<VerifiedRecord>,
    /// The k nearest servers that answered, nearest first.
    pub closest: Vec<Contact>,
    /// How many servers were asked.
    pub asked: usize,
    /// How many of them answered.
    pub answered: usize,
    /// How many rounds it took: the most answers in a row that led to one who answered.
    pub rounds: usize,
    /// Whether all of the nearest servers that are alive have answered, with all that they have,
    /// so that what is not here is nowhere. Without it there may be more.
    pub complete: bool,
}

/// A record, and where to dial its publisher.
#[derive(Clone, Debug)]
pub struct FoundRecord {
    /// What was found, verified by this node.
    pub record: VerifiedRecord,
    /// Where its storers met the publisher; empty when nobody knows.
    pub addresses: Vec<SocketAddr>,
}

/// The records found so far.
#[derive(Debug)]
pub(super) struct Gathered {
    realm: RealmName,
    key: Key,
    latest: BTreeMap<NodeId, FoundRecord>,
    /// SHA-256 of each record that was verified, since k storers show the same ones.
    seen: BTreeMap<[u8; 32], NodeId>,
    refused: BTreeSet<[u8; 32]>,
    is_truncated: bool,
    /// What each storer's answer was, as a version: what was not truncated.
    versions: BTreeMap<NodeId, message::Version>,
}

impl Gathered {
    pub(super) const fn new(realm: RealmName, key: Key) -> Self {
        Self {
            realm,
            key,
            latest: BTreeMap::new(),
            seen: BTreeMap::new(),
            refused: BTreeSet::new(),
            is_truncated: false,
            versions: BTreeMap::new(),
        }
    }

    /// A storer has shown all that it has, which is of this version.
    pub(super) fn note_version(&mut self, storer: NodeId, version: message::Version) {
        self.versions.insert(storer, version);
    }

    /// What each storer has shown.
    pub(super) fn take_versions(&mut self) -> BTreeMap<NodeId, message::Version> {
        std::mem::take(&mut self.versions)
    }

    /// What one storer shows. `from` is that storer, and where it is met: the address of its own
    /// record. Gives how many records were refused.
    pub(super) fn add_all(
        &mut self,
        now: Now,
        verifier: &mut Verifier,
        records: Vec<message::StoredRecord>,
        from: (NodeId, Option<&[SocketAddr]>),
    ) -> u64 {
        let mut refused = 0;
        for message::StoredRecord { record, addresses } in records.into_iter().take(MAX_PUBLISHERS)
        {
            let addresses = addresses.into_iter().filter_map(|address| address.try_into().ok());
            let addresses = dialable(addresses);
            let publisher = record.and_then(|signed| self.add(now, verifier, &signed, addresses));
            refused += u64::from(publisher.is_none());
            if let (Some(publisher), (storer, Some(here))) = (publisher, from)
                && publisher == storer
            {
                self.add_addresses(publisher, here);
            }
        }
        refused
    }

    /// One record. Gives its publisher unless it is refused.
    pub(super) fn add(
        &mut self,
        now: Now,
        verifier: &mut Verifier,
        signed: &message::SignedRecord,
        addresses: Vec<SocketAddr>,
    ) -> Option<NodeId> {
        let digest = digest_of(signed);
        let publisher = match self.seen.get(&digest) {
            Some(publisher) => *publisher,
            None if self.refused.contains(&digest) => return None,
            None => {
                let verified = verifier.verify(now, signed).ok();
                let Some(verified) = verified.filter(|verified| self.is_wanted(verified)) else {
                    self.refused.insert(digest);
                    return None;
                };
                let publisher = verified.publisher.id;
                self.seen.insert(digest, publisher);
                self.merge(publisher, verified);
                publisher
            }
        };
        self.add_addresses(publisher, &addresses);
        Some(publisher)
    }

    /// Whether the record was asked for: a storer may show anything.
    fn is_wanted(&self, verified: &VerifiedRecord) -> bool {
        verified.record.realm == self.realm && verified.record.key() == self.key
    }

    fn merge(&mut self, publisher: NodeId, verified: VerifiedRecord) {
        if let Some(known) = self.latest.get_mut(&publisher) {
            if known.record.record.order() < verified.record.order() {
                known.record = verified;
            }
        } else if self.latest.len() < MAX_PUBLISHERS {
            self.latest.insert(publisher, FoundRecord { record: verified, addresses: Vec::new() });
        } else {
            self.is_truncated = true;
        }
    }

    fn add_addresses(&mut self, publisher: NodeId, addresses: &[SocketAddr]) {
        let Some(found) = self.latest.get_mut(&publisher) else { return };
        for address in addresses {
            if found.addresses.len() < MAX_ADDRESSES && !found.addresses.contains(address) {
                found.addresses.push(*address);
            }
        }
    }

    /// A storer has more than it showed.
    pub(super) const fn note_truncated(&mut self, is_truncated: bool) {
        self.is_truncated |= is_truncated;
    }

    /// What stands, what was withdrawn, and whether there may be more.
    pub(super) fn finish(self) -> (Vec<FoundRecord>, Vec<VerifiedRecord>, bool) {
        let latest = self.latest.into_values();
        let (withdrawn, standing): (Vec<_>, _) =
            latest.partition(|found| found.record.record.withdrawn);
        let withdrawn = withdrawn.into_iter().map(|found| found.record);
        (standing, withdrawn.collect(), self.is_truncated)
    }
}

fn digest_of(signed: &message::SignedRecord) -> [u8; 32] {
    let message::SignedRecord { body, certificate, signature } = signed;
    let mut hash = digest::Context::new(&digest::SHA256);
    // Each with its length, so that no byte can move from one to the next.
    for part in [body, certificate, signature] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}
