//! The same work, done by libp2p-kad: its behaviour and its store alone, then 50 swarms over QUIC.
//!
//! Its defaults are ours: k = 20, α = 3.

mod swarms;

use std::hint::black_box;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::noop_waker_ref;
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig, RecordStore};
use libp2p::kad::{Behaviour, KBucketKey, Record, RecordKey};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{Multiaddr, PeerId};
use macula_proto::wire::message::SignedRecord;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::SERVERS;
use super::records::{Store, size};
use super::table::{TARGETS, Table};
use super::world::address;
use crate::{clock, heap, report};

pub(super) use swarms::lookups;

fn id() -> PeerId {
    Keypair::generate_ed25519().public().to_peer_id()
}

fn multiaddr(number: usize) -> Multiaddr {
    let address = address(number);
    let ip = match address.ip() {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => Protocol::Ip6(ip),
    };
    Multiaddr::empty().with(ip).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

fn behaviour(me: PeerId) -> Behaviour<MemoryStore> {
    Behaviour::new(me, MemoryStore::new(me))
}

/// Forgets what it wants done. In favour of the rival that is not timed.
fn drain(behaviour: &mut Behaviour<MemoryStore>) {
    let mut context = Context::from_waker(noop_waker_ref());
    while let Poll::Ready(_) = behaviour.poll(&mut context) {}
}

fn meet(behaviour: &mut Behaviour<MemoryStore>, servers: &[PeerId]) {
    for (number, server) in servers.iter().enumerate() {
        black_box(behaviour.add_address(server, multiaddr(number)));
    }
}

pub(super) fn table() -> Option<Table> {
    let me = id();
    let servers: Vec<_> = (0..SERVERS).map(|_| id()).collect();
    let inserts = clock::median(|| {
        let mut behaviour = behaviour(me);
        clock::time(|| meet(&mut behaviour, &servers)).1
    });
    let (mut behaviour, empty) = heap::grown(|| behaviour(me));
    let ((), bytes) = heap::grown(|| {
        meet(&mut behaviour, &servers);
        drain(&mut behaviour);
    });
    let stay: usize = behaviour.kbuckets().map(|bucket| bucket.num_entries()).sum();
    let mut rng = StdRng::seed_from_u64(1);
    // Its key space is a hash of what is looked for, which is made beforehand as ours is.
    let targets: Vec<_> =
        (0..TARGETS).map(|_| KBucketKey::new(rng.random::<[u8; 20]>().to_vec())).collect();
    let nobody = id();
    let closest = clock::median(|| {
        let look = || {
            for target in &targets {
                let closest: Vec<_> = behaviour.find_closest_local_peers(target, &nobody).collect();
                assert_eq!(black_box(closest).len(), 20);
            }
        };
        clock::time(look).1
    });
    Some(Table {
        inserts: report::rate(servers.len(), inserts),
        closest: report::rate(TARGETS, closest),
        stay: stay as f64,
        bytes: bytes as f64 / stay as f64,
        empty: empty as f64,
    })
}

pub(super) fn store(signed: &[SignedRecord]) -> Option<Store> {
    let me = id();
    let config = MemoryStoreConfig { max_records: usize::MAX, ..MemoryStoreConfig::default() };
    let expires = Instant::now() + Duration::from_secs(600);
    let mut rng = StdRng::seed_from_u64(1);
    let publishers: Vec<_> = signed.iter().map(|_| id()).collect();
    // Each under a key of its own, as ours are.
    let keys: Vec<[u8; 20]> = signed.iter().map(|_| rng.random()).collect();
    let records = || -> Vec<Record> {
        let each = signed.iter().zip(&keys).zip(&publishers);
        each.map(|((signed, key), publisher)| {
            let mut value = Vec::with_capacity(size(signed));
            value.extend_from_slice(&signed.body);
            value.extend_from_slice(&signed.certificate);
            value.extend_from_slice(&signed.signature);
            let (publisher, expires) = (Some(*publisher), Some(expires));
            Record { key: RecordKey::new(key), value, publisher, expires }
        })
        .collect()
    };
    let put = |store: &mut MemoryStore, records: Vec<Record>| {
        for record in records {
            store.put(record).expect("it has room");
        }
    };
    let puts = clock::median(|| {
        let (mut store, records) = (MemoryStore::with_config(me, config.clone()), records());
        clock::time(|| put(&mut store, records)).1
    });
    let mut store = MemoryStore::with_config(me, config.clone());
    let ((), bytes) = heap::grown(|| {
        let records = records();
        put(&mut store, records);
    });
    Some(Store {
        puts: report::rate(signed.len(), puts),
        bytes: bytes as f64 / signed.len() as f64,
    })
}
