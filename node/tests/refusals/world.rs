//! A mesh of two realms, and its honest nodes: the endpoint and the node as they are shipped.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use macula_identity::{Authority, Bundle, NodeKey, Order, Place, Scope, Subject};
use macula_node::Fault;
use macula_node::clock::unix_time;
use macula_node::discovery::{Resolver, Schedule};
use macula_node::identity::Credentials;
use macula_node::metrics::Metrics;
use macula_node::node::{Node, Parts};
use macula_node::supervise::Settings;
use macula_node::transport::{Endpoint, Link};
use macula_proto::realm::Expected;
use tokio::sync::watch;

pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const INCARNATION: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) fn scope() -> Scope {
    Scope {
        trust_domain: "cluster.local".parse().unwrap(),
        mesh: "macula-system.main".parse().unwrap(),
    }
}

pub(crate) fn authority() -> Authority {
    Authority::new(scope(), unix_time())
}

pub(crate) fn bootstrap() -> Subject {
    scope().subject(Place::Bootstrap, "bootstrap-0".parse().unwrap())
}

/// A peer of the realm that most tests are about.
pub(crate) fn peer() -> Subject {
    peer_of("com.example.shop", "shop.cart-0")
}

pub(crate) fn peer_of(realm: &str, name: &str) -> Subject {
    scope().subject(Place::Realm(realm.parse().unwrap()), name.parse().unwrap())
}

/// Credentials with a new key, for this long from now.
pub(crate) fn credentials(
    authority: &Authority,
    subject: Subject,
    lifetime: Duration,
    bundle: &Bundle,
) -> Arc<Credentials> {
    let (key, now) = (Arc::new(NodeKey::generate()), unix_time());
    let order = Order { lifetime, ..Order::new(subject) };
    let chain = authority.issue(&key.csr_der(), &order, now).unwrap();
    Arc::new(Credentials::new(key, chain, Arc::new(bundle.clone()), scope(), now).unwrap())
}

/// A shipping endpoint with good credentials.
pub(crate) struct Honest {
    pub(crate) endpoint: Endpoint,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) id: macula_identity::NodeId,
    _source: watch::Sender<Arc<Credentials>>,
}

impl Honest {
    pub(crate) fn new(authority: &Authority, subject: Subject) -> Self {
        let day = Duration::from_hours(24);
        let credentials = credentials(authority, subject, day, &authority.bundle());
        let id = credentials.identity.id;
        let (sender, source) = watch::channel(credentials);
        let metrics = Arc::new(Metrics::default());
        let endpoint = Endpoint::bind(LOOPBACK, source, INCARNATION, metrics.clone()).unwrap();
        Self { endpoint, metrics, id, _source: sender }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.local_address()
    }

    /// Greets the next that dials.
    pub(crate) async fn listen(&self) -> Result<Link, Fault> {
        let incoming = self.endpoint.accept().await.unwrap();
        self.endpoint.greet(incoming).await
    }

    pub(crate) async fn dial(
        &self,
        address: SocketAddr,
        expected: Expected,
    ) -> Result<Link, Fault> {
        self.endpoint.dial(address, expected).await
    }
}

/// A whole node, whose credentials the test changes.
pub(crate) struct TestNode {
    pub(crate) node: Node,
    pub(crate) credentials: watch::Sender<Arc<Credentials>>,
}

impl TestNode {
    pub(crate) fn start(credentials: Arc<Credentials>, seed: Option<SocketAddr>) -> Self {
        let (credentials, source) = watch::channel(credentials);
        let parts = Parts {
            listen: LOOPBACK,
            source,
            trouble: None,
            seeds: seed.map(Into::into).into_iter().collect(),
            resolver: Resolver::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 53))).unwrap(),
            schedule: Schedule::default(),
            api: None,
            admin: None,
            counts: None,
            data_dir: None,
            metrics: Arc::default(),
            supervision: Settings::default(),
        };
        let node = Node::start(parts, |_, _, _| ()).unwrap();
        Self { node, credentials }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        self.node.peer().metrics()
    }

    pub(crate) async fn address(&self) -> SocketAddr {
        self.node.peer().ready().await.unwrap();
        self.node.peer().address().unwrap()
    }

    /// The names of the nodes that it is connected to.
    pub(crate) async fn connected_to(&self) -> Vec<String> {
        let status = self.node.peer().status().await.unwrap();
        let mut names: Vec<_> = status
            .connections
            .iter()
            .map(|it| it.subject.rsplit('/').next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }
}

/// Waits until it holds; the one place where these tests let time pass.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never happened: {what}");
}
