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
pub(super) const MAX_PUBLISHERS: usize = 512;

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

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use macula_identity::Place;
    use proptest::prelude::*;

    use super::*;
    use crate::key::Kind;
    use crate::record::Record;
    use crate::record::tests::{World, provider, realm};

    const NAME: &str = "cart.add";

    /// Three publishers' words in their order, some of them withdrawals, each shown with an address.
    fn words() -> &'static (World, Vec<message::StoredRecord>) {
        static WORDS: OnceLock<(World, Vec<message::StoredRecord>)> = OnceLock::new();
        WORDS.get_or_init(|| {
            let world = World::new();
            let place = Place::Realm(realm("r"));
            let mut words = Vec::new();
            for name in ["a", "b", "c"] {
                let me = world.node(place.clone(), name, false);
                for sequence in 0..4 {
                    let withdrawn = sequence % 2 == 1;
                    let incarnation = 1_781_000_000_000 + sequence / 2;
                    let record = Record { incarnation, sequence, withdrawn, ..provider("r", NAME) };
                    let signed = crate::record::sign(&record, &me.key, &me.chain).unwrap();
                    let address: SocketAddr = format!("10.0.0.{}:1", 1 + sequence).parse().unwrap();
                    let (record, addresses) = (Some(signed), vec![address.into()]);
                    words.push(message::StoredRecord { record, addresses });
                }
            }
            (world, words)
        })
    }

    /// What is known once these were shown, by storers of which each shows some at a time.
    fn known(shown: &[usize], at_a_time: usize) -> Vec<(NodeId, (u64, u64), BTreeSet<SocketAddr>)> {
        let (world, words) = words();
        let realm = realm("r");
        let key = Key::of(&realm, Kind::Provider, NAME);
        let (mut gathered, mut verifier) =
            (Gathered::new(realm, key), Verifier::new(world.trust()));
        for some in shown.chunks(at_a_time) {
            let records = some.iter().map(|at| words[*at].clone()).collect();
            let storer = NodeId::from_bytes([9; 20]);
            assert_eq!(gathered.add_all(world.now, &mut verifier, records, (storer, None)), 0);
        }
        let latest = gathered.latest.into_iter().map(|(publisher, found)| {
            (publisher, found.record.record.order(), found.addresses.into_iter().collect())
        });
        latest.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Merging is commutative, associative and idempotent: however many storers show whatever
        /// part of it in whatever order, and again, what is known in the end is the same.
        #[test]
        fn what_is_known_does_not_depend_on_who_shows_it_when(
            order in Just((0_usize..12).collect::<Vec<_>>()).prop_shuffle(),
            again in prop::collection::vec(0_usize..12, 0..12),
            at_a_time in 1_usize..13,
        ) {
            let in_order: Vec<_> = (0..12).collect();
            let shown = [order, again].concat();
            prop_assert_eq!(known(&shown, at_a_time), known(&in_order, 1));
        }
    }
}
