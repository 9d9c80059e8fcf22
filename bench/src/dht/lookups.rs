//! Lookups among 50 nodes of this process, each with its own thread and socket, over QUIC on loopback.
//!
//! A bootstrap, 48 gateways, and a peer that calls procedures which nobody offers: each call is one
//! lookup of the twenty nearest nodes, and ends with `no_provider`. Such a name is followed from
//! then on, so five of the twenty are asked for a lease as well, and renew it: the requests counted
//! and the processor time include that.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use macula_identity::{Authority, Order, Place, Scope, UnixTime};
use macula_node::discovery::{Resolver, Schedule};
use macula_node::identity::in_process;
use macula_node::node::{Node, Parts};
use macula_node::supervise::Settings;
use macula_node::{Code, Payload, Peer};

use super::{NODES, rival};
use crate::{clock, report};

/// Lookups under way at a time.
pub(super) const IN_FLIGHT: usize = 16;
/// How long they are measured.
pub(super) const LASTS: Duration = Duration::from_secs(6);
/// And how many there are at most: a node follows 4096 names, and to forget one is not measured.
pub(super) const MOST: usize = 3500;
/// Lookups before it is measured, so that every connection stands.
pub(super) const WARM_UP: usize = 200;
/// How long a lookup may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was measured of lookups.
pub(super) struct Lookups {
    pub(super) per_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    /// Requests for each lookup.
    pub(super) requests: f64,
    /// Processor time of all nodes for each lookup.
    pub(super) cpu: Duration,
}

pub(super) async fn run() -> anyhow::Result<()> {
    let ours = ours().await?;
    let theirs = rival::lookups().await?;
    let theirs = |part: fn(&Lookups) -> f64| theirs.as_ref().map(part);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    report::head(&format!("lookups among {NODES} nodes, {IN_FLIGHT} in flight"));
    let all = "ours is watched from then on, theirs is get_providers";
    report::row("lookups per second", ours.per_second, theirs(|l| l.per_second), all);
    report::row("ms, p50", ms(ours.p50), theirs(|l| l.p50.as_secs_f64() * 1e3), "");
    report::row("ms, p99", ms(ours.p99), theirs(|l| l.p99.as_secs_f64() * 1e3), "");
    let leases = "ours with those for leases";
    report::row("requests for each", ours.requests, theirs(|l| l.requests), leases);
    let cpu = theirs(|l| l.cpu.as_secs_f64() * 1e3);
    report::row("ms of processor time for each, all nodes", ms(ours.cpu), cpu, "");
    let per_request = |l: &Lookups| l.per_second * l.requests;
    report::row("requests per second", per_request(&ours), theirs(per_request), "");
    Ok(())
}

/// Times this many in flight, until the time or the count is up.
pub(super) async fn drive<F>(
    count: usize,
    lasts: Duration,
    lookup: impl Fn(usize) -> F + Clone + Send + 'static,
) -> anyhow::Result<(Vec<Duration>, Duration)>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (since, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (lookup, next) = (lookup.clone(), next.clone());
        workers.spawn(async move {
            let mut took = Vec::new();
            while since.elapsed() < lasts {
                let number = next.fetch_add(1, Relaxed);
                if number >= count {
                    break;
                }
                let began = Instant::now();
                lookup(number).await?;
                took.push(began.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(worker) = workers.join_next().await {
        took.extend(worker??);
    }
    let lasted = since.elapsed();
    took.sort_unstable();
    anyhow::ensure!(!took.is_empty(), "no lookup ended");
    Ok((took, lasted))
}

async fn ours() -> anyhow::Result<Lookups> {
    let mesh = Mesh::start().await?;
    let (peer, metrics) = (mesh.peer.peer().clone(), mesh.peer.peer().metrics());
    let call = |prefix: &'static str| {
        let peer = peer.clone();
        move |number: usize| call_nobody(peer.clone(), format!("{prefix}.n{number}"))
    };
    drive(WARM_UP, PATIENCE, call("warm")).await?;
    settle().await;
    let counters = || (metrics.lookups_completed.get(), metrics.lookup_requests.get());
    let (before, cpu) = (counters(), clock::process());
    let (took, lasted) = drive(MOST, LASTS, call("cold")).await?;
    let cpu = clock::process().saturating_sub(cpu);
    // The counters are shown four times a second.
    settle().await;
    let after = counters();
    let (looked, requests) = (after.0 - before.0, after.1 - before.1);
    anyhow::ensure!(
        looked >= took.len() as u64,
        "{} calls came back, and {looked} lookups have ended",
        took.len()
    );
    mesh.stop().await;
    let count = u32::try_from(took.len())?;
    Ok(Lookups {
        per_second: report::rate(took.len(), lasted),
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
        requests: requests as f64 / looked as f64,
        cpu: cpu / count,
    })
}

/// What is shown from time to time is shown.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}

async fn call_nobody(peer: Peer, procedure: String) -> anyhow::Result<()> {
    let called = peer.call(procedure.parse()?, Payload::bytes(""), PATIENCE).await;
    match called {
        Err(fault) if fault.code == Code::NoProvider => Ok(()),
        Err(fault) => Err(anyhow::anyhow!("a lookup failed: {fault}")),
        Ok(_) => Err(anyhow::anyhow!("somebody answers what nobody offers")),
    }
}

struct Mesh {
    infrastructure: Vec<Node>,
    peer: Node,
}

impl Mesh {
    async fn start() -> anyhow::Result<Self> {
        let scope = Scope { trust_domain: "bench.local".parse()?, mesh: "bench.many".parse()? };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let authority = Arc::new(Authority::new(scope, UnixTime::since_unix_epoch(since)));
        let bootstrap = node(&authority, Place::Bootstrap, "bootstrap", None)?;
        ready(&bootstrap).await?;
        let seed = bootstrap.peer().address();
        let mut infrastructure = vec![bootstrap];
        for number in 2..NODES {
            let name = format!("gateway-{number}");
            infrastructure.push(node(&authority, Place::Gateway, &name, seed)?);
        }
        for node in &infrastructure {
            ready(node).await?;
        }
        let peer = node(&authority, Place::Realm("bench.realm".parse()?), "peer", seed)?;
        ready(&peer).await?;
        let mesh = Self { infrastructure, peer };
        mesh.quiet().await?;
        Ok(mesh)
    }

    /// Waits until the nodes have met and looked around: the second look is five seconds after the
    /// first.
    async fn quiet(&self) -> anyhow::Result<()> {
        let done = || {
            let all = self.infrastructure.iter().map(|node| node.peer().metrics());
            all.map(|metrics| metrics.dht_contacts.get() + metrics.lookups_completed.get()).sum()
        };
        let (mut last, mut since): (u64, _) = (done(), Instant::now());
        let end = Instant::now() + Duration::from_secs(90);
        while since.elapsed() < Duration::from_secs(6) {
            anyhow::ensure!(Instant::now() < end, "the nodes do not come to rest");
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = done();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    async fn stop(self) {
        let mut stopping = tokio::task::JoinSet::new();
        for node in std::iter::once(self.peer).chain(self.infrastructure) {
            stopping.spawn(node.stop());
        }
        // How they stop is not what is measured.
        stopping.join_all().await;
    }
}

fn node(
    authority: &Arc<Authority>,
    place: Place,
    name: &str,
    seed: Option<SocketAddr>,
) -> anyhow::Result<Node> {
    let subject = authority.scope().subject(place, name.parse()?);
    let renewal = in_process::start(authority.clone(), Order::new(subject))?;
    let parts = Parts {
        data_dir: None,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        source: renewal.source(),
        trouble: None,
        seeds: seed.map(Into::into).into_iter().collect(),
        // Its seed is an address: no name is ever looked up.
        resolver: Resolver::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)))?,
        schedule: Schedule::default(),
        api: None,
        admin: None,
        counts: None,
        metrics: Arc::default(),
        supervision: Settings::default(),
    };
    Ok(Node::start(parts, |tree, runtime, metrics| renewal.add_to(tree, runtime, metrics))?)
}

async fn ready(node: &Node) -> anyhow::Result<()> {
    let ready = tokio::time::timeout(Duration::from_secs(60), node.peer().ready());
    ready.await.context("a node did not join within a minute")?.context("a node has stopped")
}
