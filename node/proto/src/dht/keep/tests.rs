//! A node that starts again on what it kept, and what it does not believe of that.

use std::collections::BTreeMap;
use std::sync::Arc;

use macula_identity::Place;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::dht::{Config, Me, store};
use crate::record::sign;
use crate::record::tests::{NOON_MS, World, provider, realm};
use crate::wire::message::request;

/// A bootstrap with a disk, which is a map.
struct Keeper {
    world: World,
    me: Arc<Me>,
    dht: Dht,
    now: Now,
    disk: BTreeMap<Slot, Vec<u8>>,
    limits: store::Limits,
}

impl Keeper {
    fn new() -> Self {
        Self::with(store::Limits::default())
    }

    fn with(limits: store::Limits) -> Self {
        let world = World::new();
        let me = world.node(Place::Bootstrap, "boot", true);
        let (dht, now) = (Self::dht(&world, &me, limits), world.now);
        Self { world, me, dht, now, disk: BTreeMap::new(), limits }
    }

    fn dht(world: &World, me: &Arc<Me>, store: store::Limits) -> Dht {
        let config = Config { keep: true, store, ..Config::default() };
        Dht::new(config, me.clone(), world.trust(), StdRng::seed_from_u64(1))
    }

    fn store(&mut self, peer: &Me, record: &crate::record::Record) {
        let record = Some(sign(record, &peer.key, &peer.chain).unwrap());
        let body = request::Body::Store(message::Store { record, addresses: Vec::new() });
        let observed = "10.0.0.1:9443".parse().unwrap();
        self.dht.handle_request(self.now, &peer.identity, observed, body).unwrap();
    }

    /// Writes what has changed. Gives how much that was.
    fn write(&mut self) -> usize {
        let mut written = 0;
        while let Some(Batch { afresh, changes }) = self.dht.poll_kept(self.now, 7) {
            assert!(changes.len() <= 7);
            if afresh {
                self.disk.clear();
            }
            written += changes.len();
            for (slot, record) in changes {
                match record {
                    Some(record) => drop(self.disk.insert(slot, record.encode())),
                    None => drop(self.disk.remove(&slot)),
                }
            }
        }
        written
    }

    /// Ends, and comes back so much later with nothing but its disk. Gives what is not restored.
    fn restart(&mut self, later: Duration) -> Vec<Code> {
        self.now = self.now + later;
        self.dht = Self::dht(&self.world, &self.me, self.limits);
        self.restore()
    }

    fn restore(&mut self) -> Vec<Code> {
        let found = self.disk.iter();
        let restored = found.map(|(slot, bytes)| self.dht.restore(self.now, slot, bytes));
        restored.filter_map(|restored| restored.err().map(|fault| fault.code)).collect()
    }

    /// How many addresses has each of those who are shown under a name of realm `r`.
    fn shown(&self, name: &str) -> Vec<usize> {
        let (key, realm) = (provider("r", name).key(), realm("r"));
        let found = self.dht.store.find(self.now, key, &realm, NodeId::from_bytes([0; 20]));
        found.map(|(_, entry)| entry.addresses.len()).collect()
    }
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn what_was_kept_is_served_after_a_restart_for_the_rest_of_its_time() {
    let mut keeper = Keeper::new();
    let peer = keeper.world.peer("r", "a");
    keeper.store(&peer, &provider("r", "cart.add"));
    assert_eq!(keeper.write(), 1);
    assert_eq!(keeper.write(), 0, "nothing has changed");
    assert_eq!(keeper.restart(SOON), []);
    assert_eq!(keeper.shown("cart.add"), [1], "with the address where it was met");
    assert_eq!(keeper.write(), 0, "it stands on disk as it stands here");
    // It stands for a minute from noon, whenever it was restored.
    let left = keeper.dht.store.poll_timeout().unwrap().at - keeper.now.instant;
    assert_eq!(left, Duration::from_secs(50));
    keeper.now = keeper.now + left;
    assert_eq!(keeper.write(), 1);
    assert_eq!((keeper.shown("cart.add").len(), keeper.disk.len()), (0, 0));
}

#[test]
fn a_withdrawal_is_kept_too() {
    let mut keeper = Keeper::new();
    let peer = keeper.world.peer("r", "a");
    keeper.store(&peer, &provider("r", "x"));
    keeper.write();
    let withdrawn = crate::record::Record { sequence: 2, withdrawn: true, ..provider("r", "x") };
    let record = Some(sign(&withdrawn, &peer.key, &peer.chain).unwrap());
    let body = request::Body::Delete(message::Delete { record });
    let observed = "10.0.0.1:9443".parse().unwrap();
    keeper.dht.handle_request(keeper.now, &peer.identity, observed, body).unwrap();
    keeper.write();
    assert_eq!(keeper.restart(SOON), []);
    assert_eq!(keeper.dht.records(), 1);
    let stale = sign(&provider("r", "x"), &peer.key, &peer.chain).unwrap();
    assert_eq!(keeper.dht.keep_own(keeper.now, &stale).unwrap_err().code, Code::StaleSequence);
}

#[test]
fn nothing_on_a_disk_is_believed_and_its_neighbour_stays() {
    let mut keeper = Keeper::new();
    let foreign = World::of_mesh("macula-system.other");
    let (good, peer) = (keeper.world.peer("r", "good"), keeper.world.peer("r", "a"));
    keeper.store(&good, &provider("r", "good"));
    for name in ["bits", "cut", "moved", "ends"] {
        keeper.store(&peer, &provider("r", name));
    }
    keeper.write();
    let slot = |name: &str| slot(provider("r", name).key(), peer.identity.id);
    // One bit of the signature's last byte, before the address.
    let flipped = keeper.disk.get_mut(&slot("bits")).unwrap();
    let signature = sign(&provider("r", "bits"), &peer.key, &peer.chain).unwrap().signature;
    let at = flipped.windows(signature.len()).position(|window| *window == signature[..]).unwrap();
    flipped[at + signature.len() - 1] ^= 1;
    keeper.disk.get_mut(&slot("cut")).unwrap().truncate(200);
    let moved = keeper.disk.remove(&slot("moved")).unwrap();
    keeper.disk.insert(slot("elsewhere"), moved);
    // One that claims to stand for ever still ends with what was signed.
    let ends = keeper.disk.get_mut(&slot("ends")).unwrap();
    ends[..8].copy_from_slice(&u64::MAX.to_be_bytes());
    let stranger = foreign.peer("r", "s");
    let signed = sign(&provider("r", "s"), &stranger.key, &stranger.chain).unwrap();
    let record = Record { until_ms: NOON_MS + 60_000, signed, addresses: Vec::new() };
    keeper.disk.insert(slot("foreign"), record.encode());

    let mut refused = keeper.restart(SOON);
    refused.sort();
    let mut expected =
        [Code::InvalidRecord, Code::Protocol, Code::InvalidRecord, Code::UntrustedCertificate];
    expected.sort();
    assert_eq!(refused, expected);
    assert_eq!((keeper.shown("good"), keeper.shown("ends")), (vec![1], vec![1]));
    assert_eq!(keeper.dht.records(), 2);
    keeper.write();
    assert_eq!(keeper.disk.len(), 2, "what is not believed is removed");
    keeper.now = keeper.now + Duration::from_secs(50);
    assert_eq!(keeper.shown("ends").len(), 0);
}

#[test]
fn what_expired_while_the_node_was_away_is_gone() {
    let mut keeper = Keeper::new();
    let peer = keeper.world.peer("r", "a");
    keeper.store(&peer, &provider("r", "x"));
    let long = crate::record::Record { expiry_ms: NOON_MS + 3_600_000, ..provider("r", "long") };
    keeper.store(&peer, &long);
    keeper.write();
    assert_eq!(keeper.restart(Duration::from_secs(60)), [Code::RecordExpired]);
    assert_eq!(keeper.dht.records(), 1);
    // No storer keeps a record longer than MAX_TTL, a restart does not give it more.
    assert_eq!(keeper.restart(MAX_TTL).len(), 2);
    assert_eq!(keeper.dht.records(), 0);
}

#[test]
fn what_came_meanwhile_is_fresher_than_the_disk() {
    let mut keeper = Keeper::new();
    let peer = keeper.world.peer("r", "a");
    keeper.store(&peer, &provider("r", "x"));
    keeper.write();
    keeper.restart(SOON);
    keeper.dht = Keeper::dht(&keeper.world, &keeper.me, keeper.limits);
    let later = crate::record::Record { sequence: 2, ..provider("r", "x") };
    keeper.store(&peer, &later);
    assert_eq!(keeper.restore(), [Code::StaleSequence]);
    assert_eq!(keeper.write(), 1);
    assert_eq!(keeper.restart(SOON), []);
    let stale = sign(&provider("r", "x"), &peer.key, &peer.chain).unwrap();
    assert_eq!(keeper.dht.keep_own(keeper.now, &stale).unwrap_err().code, Code::StaleSequence);
}

#[test]
fn what_is_noted_is_bounded_however_slow_the_disk_is() {
    // Nobody has room: each record evicts another, so that places change without end.
    let limits = store::Limits { keys_per_publisher: 1 << 20, bytes: 20_000, ..Default::default() };
    let mut keeper = Keeper::with(limits);
    let peer = keeper.world.peer("r", "a");
    for n in 0..5000 {
        // No faster than one node's budget.
        keeper.now = keeper.now + Duration::from_millis(1);
        keeper.store(&peer, &provider("r", &format!("p{n}")));
        if n == 100 {
            keeper.write();
        }
    }
    assert!(keeper.dht.records() < 50, "{}", keeper.dht.records());
    // Removals were too many to name them: all that was on disk is gone, and what stands is there.
    let written = keeper.write();
    assert!(written < 1500, "{written}");
    assert_eq!(keeper.disk.len(), keeper.dht.records());
    let before = keeper.dht.records();
    assert_eq!(keeper.restart(SOON), []);
    assert_eq!(keeper.dht.records(), before);
    keeper.dht.keep_everything();
    keeper.disk.clear();
    assert_eq!((keeper.write(), keeper.disk.len()), (before, before));
}

#[test]
fn a_record_that_is_restored_while_all_is_to_be_written_is_written() {
    let mut keeper = Keeper::new();
    let peer = keeper.world.peer("r", "a");
    keeper.store(&peer, &provider("r", "x"));
    keeper.write();
    keeper.dht = Keeper::dht(&keeper.world, &keeper.me, keeper.limits);
    keeper.dht.keep_everything();
    assert_eq!(keeper.restore(), []);
    assert_eq!((keeper.write(), keeper.disk.len()), (1, 1));
}

#[test]
fn without_a_disk_nothing_is_noted() {
    let world = World::new();
    let me = world.node(Place::Bootstrap, "boot", true);
    let config = Config::default();
    let mut dht = Dht::new(config, me, world.trust(), StdRng::seed_from_u64(1));
    let peer = world.peer("r", "a");
    let signed = sign(&provider("r", "x"), &peer.key, &peer.chain).unwrap();
    dht.keep_own(world.now, &signed).unwrap();
    dht.keep_everything();
    assert_eq!(dht.poll_kept(world.now, 100), None);
}

#[test]
fn contacts_come_back_as_somebody_to_dial_and_enter_no_table() {
    let mut keeper = Keeper::new();
    let gate = keeper.world.node(Place::Gateway, "gate", true);
    let address: SocketAddr = "10.0.0.9:9443".parse().unwrap();
    keeper.dht.handle_connected(keeper.now, &gate.identity, vec![address]);
    let kept: Vec<_> = keeper.dht.kept_contacts().iter().map(encode_contact).collect();
    keeper.restart(SOON);
    let contact = Contact { id: gate.identity.id, addresses: vec![address] };
    assert_eq!(keeper.dht.restore_contact(&kept[0]), Some(contact.clone()));
    assert_eq!(keeper.dht.kept_contacts(), []);

    let at =
        |address: &str| Contact { addresses: vec![address.parse().unwrap()], ..contact.clone() };
    let me = Contact { id: keeper.me.identity.id, ..contact.clone() };
    for nobody in [me, at("10.0.0.9:0"), at("0.0.0.0:1"), at("224.0.0.1:1")] {
        assert_eq!(keeper.dht.restore_contact(&encode_contact(&nobody)), None);
    }
    assert_eq!(keeper.dht.restore_contact(&kept[0][1..]), None);
    assert_eq!(keeper.dht.restore_contact(&[0x12, 0x00].repeat(9)), None, "nine addresses");
}
