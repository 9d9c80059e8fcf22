//! `macula-node run`: one node, as containers run it, from a file and flags.

use std::net::TcpListener;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use macula_config::Config;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Surface};
use crate::clock;
use crate::dev::interrupted;
use crate::discovery::{Resolver, Schedule};
use crate::enrolment::Enrolment;
use crate::identity::{Credentials, files};
use crate::metrics::Metrics;
use crate::node::{Node, Parts};
use crate::status::{self, Status};
use crate::supervise::{Settings, Tree};

/// Runs the node until SIGTERM or Ctrl-C, or until it cannot go on.
///
/// # Errors
/// When it cannot start, or when a task that it cannot be without kept dying.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    // Heard from the first instant to the last.
    let mut interrupted = pin!(interrupted());
    let mut node = tokio::select! {
        started = start(&config) => started?,
        () = &mut interrupted => {
            tracing::info!("asked to stop, and had not begun");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let outcome = tokio::select! {
        outcome = node.ended() => {
            outcome.context("the node gave up")?;
            return Ok(ExitCode::SUCCESS);
        }
        () = &mut interrupted => {
            tracing::info!("asked to stop");
            node.stop().await
        }
    };
    outcome.context("the node did not stop cleanly")?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the node of this configuration. Where it has to enrol, this takes until there is a
/// certificate; meanwhile its addresses answer, and say what it waits for. May be dropped half way.
///
/// # Errors
/// When a file, a listener or the certificate does not hold.
pub async fn start(config: &Config) -> anyhow::Result<Node> {
    let metrics = Arc::<Metrics>::default();
    let resolver = match config.discovery.server {
        Some(server) => Resolver::at(server),
        None => Resolver::from_system(),
    };
    let resolver = resolver.context("cannot set up the lookup of names")?;
    let doors = Doors::open(config)?;
    let schedule = Schedule { every: config.discovery.every, ..Schedule::default() };
    let parts = |source, trouble, doors: Doors, resolver| Parts {
        listen: config.listen,
        source,
        trouble,
        seeds: config.seeds.clone(),
        resolver,
        schedule,
        api: doors.api,
        admin: Some(doors.admin),
        counts: doors.counts.zip(config.counts.as_ref().map(|counts| counts.ca.clone())),
        data_dir: config.data_dir.clone(),
        metrics: metrics.clone(),
        supervision: Settings::default(),
    };
    if config.identity.enrolment.is_none() {
        let watch = files::start(config).map_err(|error| error.fault())?;
        let node =
            Node::start(parts(watch.source(), None, doors, resolver), |tree, runtime, metrics| {
                watch.add_to(tree, runtime, metrics);
            })?;
        return Ok(node);
    }
    let enrolment = Enrolment::new(config, resolver.clone(), metrics.clone())?;
    let first = match enrolment.kept() {
        Some(kept) => kept,
        None => wait(config, &enrolment, &doors, &metrics).await?,
    };
    let trouble = enrolment.trouble();
    let renewal = enrolment.renewal(first);
    let parts = parts(renewal.source(), Some(trouble), doors, resolver);
    let node = Node::start(parts, |tree, runtime, _| renewal.add_to(tree, runtime))?;
    Ok(node)
}

/// The TCP addresses, bound once: whoever connects while the node changes from one state to the next
/// waits in the kernel's queue.
struct Doors {
    api: Option<TcpListener>,
    admin: TcpListener,
    counts: Option<TcpListener>,
}

impl Doors {
    fn open(config: &Config) -> anyhow::Result<Self> {
        let listen = |what: &str, address| {
            let bound = TcpListener::bind(address);
            bound.with_context(|| format!("cannot listen on {address} for {what}"))
        };
        let counts = config.counts.as_ref().map(|counts| listen("the counts", counts.listen));
        Ok(Self {
            api: config.api.as_ref().map(|api| listen("the API", api.listen)).transpose()?,
            admin: listen("health and metrics", config.admin.listen)?,
            counts: counts.transpose()?,
        })
    }
}

/// Waits for the first certificate, and answers meanwhile.
async fn wait(
    config: &Config,
    enrolment: &Enrolment,
    doors: &Doors,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Credentials> {
    let (stop, here) = (CancellationToken::new(), Handle::current());
    let _stopped_when_dropped = stop.clone().drop_guard();
    let mut tree = Tree::new(Settings::default(), stop.clone());
    let room = api::Room {
        status: Arc::new(unknown(config)),
        trouble: enrolment.trouble(),
        metrics: metrics.clone(),
    };
    let doors = [(doors.api.as_ref(), Surface::Application), (Some(&doors.admin), Surface::Admin)];
    for (listener, surface) in doors {
        if let Some(listener) = listener {
            let listener = listener.try_clone().context("cannot share a listener")?;
            api::add_waiting(&mut tree, &here, listener, surface, room.clone())?;
        }
    }
    let mut serving = tokio::spawn(tree.run());
    let first = tokio::select! {
        first = enrolment.first() => first,
        ended = &mut serving => {
            ended.context("the supervisor panicked")?.context("while enrolling")?;
            bail!("the listeners ended while enrolling");
        }
    };
    stop.cancel();
    serving.await.context("the supervisor panicked")?.context("while enrolling")?;
    Ok(first)
}

/// What is known of a node without a certificate.
fn unknown(config: &Config) -> Status {
    let incarnation = u64::try_from(clock::now_since_epoch().as_millis()).unwrap_or(u64::MAX);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: status::Node {
            id: String::new(),
            name: config.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            role: config.role.to_string(),
            realm: config.realm.as_ref().map(ToString::to_string),
            mesh: config.mesh.to_string(),
            incarnation,
        },
        ready: false,
        waiting: Vec::new(),
        certificate: status::Certificate { subject: String::new(), not_after: 0, seconds_left: 0 },
        listen: config.listen.to_string(),
        seeds: Vec::new(),
        connections: Vec::new(),
        dht: status::Dht { infrastructure: 0, realm_servers: 0, records: 0 },
        subscriptions: Vec::new(),
        advertisements: Vec::new(),
    }
}
