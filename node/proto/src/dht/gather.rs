//! What a lookup for records has found: of each publisher the latest, verified by this node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use macula_identity::{NodeId, RealmName};
use ring::digest;

use super::dialable;
use super::lookup::{MAX_PLACES, MAX_TOLD};
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
    /// Where its storers met the publisher, first where most of them did; empty when nobody knows.
    pub addresses: Vec<SocketAddr>,
}

/// The records found so far.
#[derive(Debug)]
pub(super) struct Gathered {
    realm: RealmName,
    key: Key,
    latest: BTreeMap<NodeId, Latest>,
    /// Those of whom there is something that [`Gathered::take_fresh`] has not shown.
    fresh: BTreeSet<NodeId>,
    /// SHA-256 of each record that was verified, since k storers show the same ones.
    seen: BTreeMap<[u8; 32], NodeId>,
    refused: BTreeSet<[u8; 32]>,
    is_truncated: bool,
    /// What each storer's answer was, as a version: what was not truncated.
    versions: BTreeMap<NodeId, message::Version>,
}

/// A publisher's latest word.
#[derive(Debug)]
struct Latest {
    record: VerifiedRecord,
    /// Where it was met, and how many storers say so.
    places: Vec<(SocketAddr, usize)>,
}

impl Latest {
    fn found(&self) -> FoundRecord {
        let mut places = self.places.clone();
        places.sort_by_key(|(_, storers)| Reverse(*storers));
        let addresses = places.into_iter().map(|(address, _)| address).take(MAX_ADDRESSES);
        FoundRecord { record: self.record.clone(), addresses: addresses.collect() }
    }
}

/// Records that stand, and the marks of those that were withdrawn.
pub(super) type Words = (Vec<FoundRecord>, Vec<VerifiedRecord>);

impl Gathered {
    pub(super) const fn new(realm: RealmName, key: Key) -> Self {
        Self {
            realm,
            key,
            latest: BTreeMap::new(),
            fresh: BTreeSet::new(),
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
                self.fresh.insert(publisher);
            }
        } else if self.latest.len() < MAX_PUBLISHERS {
            self.latest.insert(publisher, Latest { record: verified, places: Vec::new() });
            self.fresh.insert(publisher);
        } else {
            self.is_truncated = true;
        }
    }

    /// One storer says that the publisher is met there: a few places of each, so that a liar's are not all.
    fn add_addresses(&mut self, publisher: NodeId, addresses: &[SocketAddr]) {
        let Some(known) = self.latest.get_mut(&publisher) else { return };
        let told = &addresses[..addresses.len().min(MAX_TOLD)];
        for (at, address) in told.iter().enumerate() {
            if told[..at].contains(address) {
                continue;
            }
            if let Some((_, storers)) = known.places.iter_mut().find(|(place, _)| place == address)
            {
                *storers += 1;
            } else if known.places.len() < MAX_PLACES {
                known.places.push((*address, 1));
                self.fresh.insert(publisher);
            }
        }
    }

    /// What has come since it was taken last, of those publishers that two storers have met at the same place:
    /// whoever goes where one liar says waits in vain.
    pub(super) fn take_fresh(&mut self) -> Words {
        let latest = &self.latest;
        let is_agreed =
            |publisher: &NodeId| latest[publisher].places.iter().any(|(_, storers)| *storers > 1);
        words(self.fresh.extract_if(.., is_agreed).map(|publisher| latest[&publisher].found()))
    }

    /// A storer has more than it showed.
    pub(super) const fn note_truncated(&mut self, is_truncated: bool) {
        self.is_truncated |= is_truncated;
    }

    /// All that has come, and whether there may be more.
    pub(super) fn finish(self) -> (Words, bool) {
        (words(self.latest.values().map(Latest::found)), self.is_truncated)
    }
}

fn words(all: impl Iterator<Item = FoundRecord>) -> Words {
    let (withdrawn, standing): (Vec<_>, _) = all.partition(|found| found.record.record.withdrawn);
    (standing, withdrawn.into_iter().map(|found| found.record).collect())
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
            let places = found.places.into_iter().map(|(place, _)| place);
            (publisher, found.record.record.order(), places.collect())
        });
        latest.collect()
    }

    #[test]
    fn where_a_publisher_is_most_storers_say_and_one_alone_is_not_taken_at_its_word() {
        let (world, words) = words();
        let realm = realm("r");
        let key = Key::of(&realm, Kind::Provider, NAME);
        let (mut gathered, mut verifier) =
            (Gathered::new(realm, key), Verifier::new(world.trust()));
        let mut shown = |place: &str| {
            let addresses = vec![place.parse::<SocketAddr>().unwrap().into()];
            let records = vec![message::StoredRecord { addresses, ..words[0].clone() }];
            let storer = NodeId::from_bytes([9; 20]);
            gathered.add_all(world.now, &mut verifier, records, (storer, None));
            let (fresh, _) = gathered.take_fresh();
            fresh.into_iter().flat_map(|it| it.addresses).map(|it| it.to_string()).collect()
        };
        let nobody: [String; 0] = [];
        let mut told: Vec<String> = shown("10.9.9.9:1");
        assert_eq!(told, nobody);
        told = shown("10.0.0.1:1");
        assert_eq!(told, nobody);
        told = shown("10.0.0.1:1");
        assert_eq!(told, ["10.0.0.1:1", "10.9.9.9:1"]);
        told = shown("10.0.0.1:1");
        assert_eq!(told, nobody, "nothing that was not said");
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
