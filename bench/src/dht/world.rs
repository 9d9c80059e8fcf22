//! Nodes with real certificates, none of which runs. To make them is not measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use macula_identity::{Authority, NodeKey, Order, Place, Scope};
use macula_proto::dht::{Config, Dht, Me, Trust};
use macula_proto::name::RealmName;
use macula_proto::record::{self, Record};
use macula_proto::time::Now;
use macula_proto::wire::message::{SignedRecord, Store, request};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A mesh's authority, and one instant at which everything happens.
pub(super) struct World {
    authority: Authority,
    pub(super) realm: RealmName,
    pub(super) now: Now,
}

impl World {
    pub(super) fn new() -> anyhow::Result<Self> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let now = Now { instant: Instant::now(), unix_ms: u64::try_from(since.as_millis())? };
        let scope = Scope { trust_domain: "bench.local".parse()?, mesh: "bench.dht".parse()? };
        let authority = Authority::new(scope, now.unix_time());
        Ok(Self { authority, realm: "bench.realm".parse()?, now })
    }

    pub(super) fn trust(&self) -> Trust {
        Trust { bundle: Arc::new(self.authority.bundle()), mesh: self.authority.scope().clone() }
    }

    /// A gateway's DHT, which knows nobody.
    pub(super) fn dht(&self, me: &Arc<Me>) -> Dht {
        Dht::new(Config::default(), me.clone(), self.trust(), StdRng::seed_from_u64(7))
    }

    pub(super) fn gateway(&self, name: &str) -> anyhow::Result<Arc<Me>> {
        self.node(Place::Gateway, name).map(Arc::new)
    }

    /// So many gateways.
    pub(super) fn servers(&self, count: usize) -> anyhow::Result<Vec<Me>> {
        self.nodes(count, &Place::Gateway)
    }

    /// So many peers of the realm, which serve nobody.
    pub(super) fn peers(&self, count: usize) -> anyhow::Result<Vec<Me>> {
        self.nodes(count, &Place::Realm(self.realm.clone()))
    }

    fn nodes(&self, count: usize, place: &Place) -> anyhow::Result<Vec<Me>> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let numbers: Vec<_> = (0..count).collect();
        std::thread::scope(|scope| {
            let shares = numbers.chunks(count.div_ceil(cores));
            let threads: Vec<_> = shares
                .map(|share| {
                    scope.spawn(move || {
                        let names = share.iter().map(|number| format!("n{number}"));
                        let nodes = names.map(|name| self.node(place.clone(), &name));
                        nodes.collect::<anyhow::Result<Vec<_>>>()
                    })
                })
                .collect();
            let made = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
            let made = made.collect::<anyhow::Result<Vec<_>>>()?;
            Ok(made.into_iter().flatten().collect())
        })
    }

    fn node(&self, place: Place, name: &str) -> anyhow::Result<Me> {
        let order = Order::new(self.authority.scope().subject(place, name.parse()?));
        let (key, now) = (NodeKey::generate(), self.now.unix_time());
        let chain = self.authority.issue(&key.csr_der(), &order, now)?;
        let Trust { bundle, mesh } = self.trust();
        let identity = chain.verify(&bundle, &mesh, now)?;
        Ok(Me { identity, key: Arc::new(key), chain, incarnation: self.now.unix_ms })
    }

    /// What a peer says of one procedure, signed.
    pub(super) fn provider(
        &self,
        me: &Me,
        procedure: &str,
        sequence: u64,
    ) -> anyhow::Result<SignedRecord> {
        let record = Record {
            realm: self.realm.clone(),
            kind: record::Kind::Provider,
            name: procedure.to_owned(),
            incarnation: me.incarnation,
            sequence,
            expiry_ms: self.now.unix_ms + 600_000,
            withdrawn: false,
        };
        Ok(record::sign(&record, &me.key, &me.chain)?)
    }
}

/// Where the node of this number is met.
pub(super) fn address(number: usize) -> SocketAddr {
    let [.., a, b, c] = number.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, a, b, c), 9443))
}

/// The request that brings a record.
pub(super) fn store(record: &SignedRecord) -> request::Body {
    request::Body::Store(Store { record: Some(record.clone()), addresses: Vec::new() })
}

/// Forgets what a node wants done, such as to look around after it has met somebody.
pub(super) fn drain(dht: &mut Dht) {
    while dht.poll_output().is_some() {}
}
