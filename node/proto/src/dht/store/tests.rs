//! What is kept, what is refused, and who makes room.

use std::sync::Arc;

use super::*;
use crate::dht::Me;
use crate::record::tests::{NOON_MS, World, provider, realm};
use crate::record::{Record, Verifier, sign};

const LIMITS: Limits = Limits { bytes: 1 << 20, publishers_per_key: 4, keys_per_publisher: 8 };

struct Shelf {
    world: World,
    verifier: Verifier,
    store: Store,
    now: Now,
}

impl Shelf {
    fn new(limits: Limits) -> Self {
        let world = World::new();
        let now = world.now;
        Self { verifier: Verifier::new(world.trust()), world, store: Store::new(limits), now }
    }

    fn peer(&self, name: &str) -> Arc<Me> {
        self.world.peer("r", name)
    }

    fn put(&mut self, me: &Me, record: &Record) -> Result<(), Fault> {
        let signed = sign(record, &me.key, &me.chain).unwrap();
        let verified = self.verifier.verify(self.now, &signed)?;
        self.store.insert(self.now, &verified, Some("10.0.0.1:9443".parse().unwrap())).map(drop)
    }

    fn put_code(&mut self, me: &Me, record: &Record) -> Result<(), Code> {
        self.put(me, record).map_err(|fault| fault.code)
    }

    fn shown(&self, name: &str) -> Vec<NodeId> {
        let key = provider("r", name).key();
        let start = NodeId::from_bytes([0x80; 20]);
        let realm = realm("r");
        let found = self.store.find(self.now, key, &realm, start);
        found.filter(|(_, entry)| !entry.withdrawn).map(|(publisher, _)| publisher).collect()
    }

    /// All that is counted twice agrees.
    fn check(&self) {
        let Store { records, shares, by_size, expiries, bytes, len, .. } = &self.store;
        let entries: Vec<_> = records.values().flat_map(BTreeMap::values).collect();
        assert_eq!(entries.len(), *len);
        assert_eq!(expiries.len(), *len);
        assert_eq!(entries.iter().map(|entry| entry.bytes()).sum::<usize>(), *bytes);
        assert_eq!(shares.values().map(|share| share.bytes).sum::<usize>(), *bytes);
        assert_eq!(shares.values().map(|share| share.by_age.len()).sum::<usize>(), *len);
        let sizes: BTreeSet<_> = shares.iter().map(|(id, share)| (share.bytes, *id)).collect();
        assert_eq!(&sizes, by_size);
    }
}

fn at(incarnation: u64, sequence: u64) -> Record {
    Record { incarnation, sequence, ..provider("r", "a") }
}

#[test]
fn the_later_record_stands_and_the_earlier_is_refused_with_the_later_named() {
    let mut shelf = Shelf::new(LIMITS);
    let peer = shelf.peer("p");
    assert_eq!(shelf.put_code(&peer, &at(7, 5)), Ok(()));
    assert_eq!(shelf.put_code(&peer, &at(7, 5)), Ok(()), "the same again refreshes");
    assert_eq!(shelf.put_code(&peer, &at(7, 4)), Err(Code::StaleSequence));
    let stale = shelf.put(&peer, &at(6, 9)).unwrap_err();
    assert_eq!(stale.code, Code::StaleIncarnation);
    assert!(stale.because.contains("incarnation 7"), "{}", stale.because);
    assert_eq!(shelf.put_code(&peer, &at(8, 0)), Ok(()));
    let other = Record { expiry_ms: NOON_MS + 1000, ..at(8, 0) };
    assert_eq!(shelf.put_code(&peer, &other), Err(Code::StaleSequence), "one number, two records");
    assert_eq!(shelf.store.len(), 1);
    shelf.check();
}

#[test]
fn a_withdrawn_record_is_not_shown_and_cannot_be_brought_back() {
    let mut shelf = Shelf::new(LIMITS);
    let peer = shelf.peer("p");
    shelf.put(&peer, &at(7, 1)).unwrap();
    assert_eq!(shelf.shown("a"), [peer.identity.id]);
    // It names an earlier end than what it withdraws, and stands as long all the same.
    let withdrawn = Record { withdrawn: true, expiry_ms: NOON_MS + 1000, ..at(7, 2) };
    shelf.put(&peer, &withdrawn).unwrap();
    assert_eq!(shelf.shown("a"), []);
    assert_eq!(shelf.put_code(&peer, &at(7, 1)), Err(Code::StaleSequence));
    shelf.now = shelf.now + Duration::from_secs(59);
    assert_eq!(shelf.put_code(&peer, &at(7, 1)), Err(Code::StaleSequence));
    assert_eq!(shelf.put_code(&peer, &at(7, 3)), Ok(()), "a later one stands again");
    assert_eq!(shelf.shown("a"), [peer.identity.id]);
    shelf.check();
}

#[test]
fn a_record_is_shown_until_it_expires_and_not_after() {
    let mut shelf = Shelf::new(LIMITS);
    let peer = shelf.peer("p");
    shelf.put(&peer, &at(7, 1)).unwrap();
    let expires = shelf.now.instant + Duration::from_secs(60);
    assert_eq!(shelf.store.poll_timeout(), Some(Deadline::new(expires, "record expiry")));
    shelf.now = shelf.now + Duration::from_millis(59_999);
    shelf.store.expire(shelf.now);
    assert_eq!(shelf.shown("a").len(), 1);
    shelf.now = shelf.now + Duration::from_millis(1);
    assert_eq!(shelf.shown("a"), []);
    shelf.store.expire(shelf.now);
    assert_eq!((shelf.store.len(), shelf.store.bytes()), (0, 0));
    assert_eq!(shelf.store.poll_timeout(), None);
    shelf.check();
}

#[test]
fn the_greatest_numbers_do_no_harm_now_nor_later() {
    let mut shelf = Shelf::new(LIMITS);
    let peer = shelf.peer("p");
    let expiry_ms = peer.identity.not_after * 1000;
    let record = Record { expiry_ms, ..at(NOON_MS, u64::MAX) };
    assert_eq!(shelf.put_code(&peer, &record), Ok(()));
    let unbounded = Record { expiry_ms: u64::MAX, ..record.clone() };
    assert_eq!(shelf.put_code(&peer, &unbounded), Err(Code::InvalidRecord));
    let unborn = Record { incarnation: u64::MAX, ..record };
    assert_eq!(shelf.put_code(&peer, &unborn), Err(Code::InvalidRecord));
    // A day was asked for; MAX_TTL is what it gets.
    shelf.now = shelf.now + (MAX_TTL - Duration::from_millis(1));
    shelf.store.expire(shelf.now);
    assert_eq!(shelf.store.len(), 1);
    shelf.now = shelf.now + Duration::from_millis(1);
    shelf.store.expire(shelf.now);
    assert_eq!(shelf.store.len(), 0);
    shelf.check();
}

#[test]
fn records_of_one_realm_are_not_found_through_another() {
    let mut shelf = Shelf::new(LIMITS);
    let peer = shelf.peer("p");
    shelf.put(&peer, &at(7, 1)).unwrap();
    let found = |name| {
        let start = NodeId::from_bytes([0; 20]);
        shelf.store.find(shelf.now, at(7, 1).key(), &realm(name), start).count()
    };
    assert_eq!((found("r"), found("s")), (1, 0));
}

#[test]
fn a_publisher_has_a_bounded_number_of_keys() {
    let mut shelf = Shelf::new(LIMITS);
    let peer = shelf.peer("p");
    for n in 0..8 {
        assert_eq!(shelf.put_code(&peer, &provider("r", &format!("n{n}"))), Ok(()));
    }
    assert_eq!(shelf.put_code(&peer, &provider("r", "n8")), Err(Code::QuotaExceeded));
    assert_eq!(shelf.put_code(&peer, &provider("r", "n0")), Ok(()), "what is there is refreshed");
    assert_eq!(shelf.put_code(&shelf.peer("q"), &provider("r", "n8")), Ok(()));
    shelf.check();
}

#[test]
fn one_who_floods_a_store_evicts_itself() {
    let limits = Limits { bytes: 16 << 10, keys_per_publisher: 1000, ..LIMITS };
    let mut shelf = Shelf::new(limits);
    let (honest, flood) = (shelf.peer("honest"), shelf.peer("flood"));
    shelf.put(&honest, &provider("r", "mine")).unwrap();
    for n in 0..200 {
        assert_eq!(shelf.put_code(&flood, &provider("r", &format!("n{n}"))), Ok(()));
        assert!(shelf.store.bytes() <= limits.bytes);
    }
    assert_eq!(shelf.shown("mine"), [honest.identity.id]);
    assert_eq!(shelf.shown("n199"), [flood.identity.id], "its newest stays");
    assert_eq!(shelf.shown("n0"), []);
    assert!(shelf.store.evicted() > 100);
    shelf.check();
}

#[test]
fn a_full_key_is_not_first_come_first_served() {
    let mut shelf = Shelf::new(LIMITS);
    let hogs: Vec<_> = (0..4).map(|n| shelf.peer(&format!("hog{n}"))).collect();
    for hog in &hogs {
        for n in 0..3 {
            shelf.put(hog, &provider("r", &format!("n{n}"))).unwrap();
        }
        shelf.put(hog, &provider("r", "popular")).unwrap();
    }
    let honest = shelf.peer("honest");
    assert_eq!(shelf.put_code(&honest, &provider("r", "popular")), Ok(()));
    let shown = shelf.shown("popular");
    assert_eq!(shown.len(), 4);
    assert!(shown.contains(&honest.identity.id));
    // Whoever holds more than all who are there is refused.
    let late = hogs.iter().find(|hog| !shown.contains(&hog.identity.id)).unwrap();
    for n in 3..6 {
        shelf.put(late, &provider("r", &format!("n{n}"))).unwrap();
    }
    assert_eq!(shelf.put_code(late, &provider("r", "popular")), Err(Code::QuotaExceeded));
    shelf.check();
}
