//! `macula-node dev`: a whole mesh in one process, for a laptop. Authority, bootstrap, gateway and
//! two peers, each a node like any other, over real QUIC on loopback.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use macula_config::Seed;
use macula_proto::identity::authority::{Authority, DEFAULT_LIFETIME, Order};
use macula_proto::identity::{Grants, Place, RealmName, Scope};

use crate::clock;
use crate::discovery::{Resolver, Schedule};
use crate::identity::in_process;
use crate::join::JoinFile;
use crate::node::{Node, Parts};
use crate::peer::Peer;
use crate::supervise::Settings;

/// How long the mesh may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a development mesh is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The realm of both peers.
    pub realm: RealmName,
    /// Where the peers' APIs listen, on loopback; port 0 takes a free one.
    pub apis: [SocketAddr; 2],
    /// The command to run beside the first peer, with its arguments; none: until interrupted.
    pub command: Vec<OsString>,
    /// Whether readiness is printed for a program.
    pub json: bool,
    /// How long a certificate lives; each is renewed from half of that.
    pub lifetime: Duration,
    /// Where the join file is written; by default in the temporary folder, named by the process.
    pub join_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            realm: "dev.local".parse().expect("a realm name"),
            apis: [loopback(7780), loopback(7790)],
            lifetime: DEFAULT_LIFETIME,
            join_file: None,
            command: Vec::new(),
            json: false,
        }
    }
}

/// A mesh in this process.
#[derive(Debug)]
pub struct Mesh {
    authority: Arc<Authority>,
    infrastructure: [Node; 2],
    peers: [Node; 2],
    urls: [String; 2],
    seed: SocketAddr,
    join_file: PathBuf,
}

impl Mesh {
    /// Starts every node, and returns when both peers have joined.
    ///
    /// # Errors
    /// When a listener's port is taken, or the mesh does not come up.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let scope = Scope {
            trust_domain: "macula.local".parse().context("the trust domain")?,
            mesh: "dev.mesh".parse().context("the mesh name")?,
        };
        let authority = Arc::new(Authority::new(scope, clock::unix_time()));
        let mut listeners = Vec::new();
        for address in options.apis {
            let listener = TcpListener::bind(address).with_context(|| {
                format!("cannot listen on {address}; is another `macula-node dev` running?")
            })?;
            listeners.push(listener);
        }
        let [first, second] = <[TcpListener; 2]>::try_from(listeners).expect("two addresses");
        let urls = [url(&first)?, url(&second)?];
        let make = Maker { authority: authority.clone(), lifetime: options.lifetime };

        let bootstrap = make.node(Place::Bootstrap, "bootstrap", None, None)?;
        ready(&bootstrap).await?;
        let seed = bootstrap.peer().address().context("the bootstrap has no address")?;
        let gateway = make.node(Place::Gateway, "gateway", Some(seed), None)?;
        let realm = || Place::Realm(options.realm.clone());
        let peers = [
            make.node(realm(), "dev.one", Some(seed), Some(first))?,
            make.node(realm(), "dev.two", Some(seed), Some(second))?,
        ];
        for node in [&gateway, &peers[0], &peers[1]] {
            ready(node).await?;
        }
        let join_file = options.join_file.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("macula-dev-{}.json", std::process::id()))
        });
        write_join_file(&join_file, &authority, &options.realm, seed)?;
        let infrastructure = [bootstrap, gateway];
        Ok(Self { authority, infrastructure, peers, urls, seed, join_file })
    }

    /// Where the peers' APIs are.
    #[must_use]
    pub fn urls(&self) -> &[String; 2] {
        &self.urls
    }

    /// The bootstrap's UDP address.
    #[must_use]
    pub fn seed(&self) -> SocketAddr {
        self.seed
    }

    /// Where the join file is.
    #[must_use]
    pub fn join_file(&self) -> &Path {
        &self.join_file
    }

    /// The two peers.
    #[must_use]
    pub fn peers(&self) -> [&Peer; 2] {
        [self.peers[0].peer(), self.peers[1].peer()]
    }

    /// The authority that signs for this mesh.
    #[must_use]
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Waits until a node ends by itself.
    ///
    /// # Errors
    /// Why it did.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let [bootstrap, gateway] = &mut self.infrastructure;
        let [one, two] = &mut self.peers;
        let (name, outcome) = tokio::select! {
            outcome = bootstrap.ended() => ("the bootstrap", outcome),
            outcome = gateway.ended() => ("the gateway", outcome),
            outcome = one.ended() => ("the first peer", outcome),
            outcome = two.ended() => ("the second peer", outcome),
        };
        outcome.with_context(|| format!("{name} gave up"))
    }

    /// Stops every node, peers first, and removes the join file.
    pub async fn stop(self) {
        // A file that somebody has removed already is as good as removed.
        let _ = std::fs::remove_file(&self.join_file);
        for node in self.peers.into_iter().chain(self.infrastructure.into_iter().rev()) {
            if let Err(error) = node.stop().await {
                tracing::warn!(%error, "a node did not stop cleanly");
            }
        }
    }
}

struct Maker {
    authority: Arc<Authority>,
    lifetime: Duration,
}

impl Maker {
    fn node(
        &self,
        place: Place,
        name: &str,
        seed: Option<SocketAddr>,
        api: Option<TcpListener>,
    ) -> anyhow::Result<Node> {
        let name = name.parse().context("the node's name")?;
        let subject = self.authority.scope().subject(place, name);
        let order = Order { subject, grants: Grants::default(), lifetime: self.lifetime };
        let renewal = in_process::start(self.authority.clone(), order)?;
        let parts = Parts {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            source: renewal.source(),
            trouble: None,
            seeds: seed.map(Seed::from).into_iter().collect(),
            // Its seed is an address: no name is ever looked up.
            resolver: Resolver::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)))?,
            schedule: Schedule::default(),
            api,
            admin: None,
            counts: None,
            data_dir: None,
            metrics: Arc::default(),
            supervision: Settings::default(),
        };
        let node = Node::start(parts, |tree, runtime, metrics| {
            renewal.add_to(tree, runtime, metrics);
        })?;
        Ok(node)
    }
}

async fn ready(node: &Node) -> anyhow::Result<()> {
    tokio::time::timeout(PATIENCE, node.peer().ready())
        .await
        .context("the mesh did not come up within ten seconds")?
        .context("a node stopped while the mesh came up")
}

fn url(listener: &TcpListener) -> anyhow::Result<String> {
    Ok(format!("http://{}", listener.local_addr().context("a listener without an address")?))
}

fn write_join_file(
    path: &Path,
    authority: &Authority,
    realm: &RealmName,
    seed: SocketAddr,
) -> anyhow::Result<()> {
    let file = JoinFile {
        trust_domain: authority.scope().trust_domain.to_string(),
        mesh: authority.scope().mesh.to_string(),
        realm: realm.to_string(),
        seeds: vec![seed],
        authority_certificate: authority.ca_cert_pem(),
        authority_key: authority.ca_key_pem(),
        node_id_key: authority.node_id_key(),
    };
    let text = serde_json::to_string_pretty(&file).context("the join file")?;
    write_private(path, text.as_bytes())
        .with_context(|| format!("cannot write the join file {}", path.display()))
}

/// Writes a file that only its owner may read, from its first byte.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    // One of an earlier run may be there, with whatever rights.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)
}

/// Runs `macula-node dev`, until it is interrupted, a node gives up, or the command ends.
///
/// # Errors
/// When the mesh does not come up, or a node gives up.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let since = Instant::now();
    let (command, json) = (options.command.clone(), options.json);
    let mut mesh = Mesh::start(options).await?;
    let outcome = match &command[..] {
        [] => {
            print_welcome(&mesh, since.elapsed(), json);
            tokio::select! {
                ended = mesh.ended() => ended.map(|()| ExitCode::FAILURE),
                () = interrupted() => Ok(ExitCode::SUCCESS),
            }
        }
        [program, arguments @ ..] => run_beside(&mut mesh, program, arguments).await,
    };
    mesh.stop().await;
    outcome
}

fn print_welcome(mesh: &Mesh, took: Duration, json: bool) {
    let [one, two] = mesh.urls();
    let (seed, join) = (mesh.seed(), mesh.join_file().display());
    if json {
        let ready = serde_json::json!({
            "peers": [one, two],
            "bootstrap": seed,
            "joinFile": join.to_string(),
            "readyAfterMs": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        println!("{ready}");
        return;
    }
    println!(
        "\
A whole mesh in one process, for learning. Nothing is kept.

  peer       {one}
  peer       {two}
  bootstrap  {seed}/udp
  join file  {join}

ready in {:.2} s. In another terminal:

  macula-node sub 'sensor.**' --url {two}
  macula-node pub sensor.temp 21.5

no tool at hand?

  curl -N '{two}/v1/subscribe?topic=sensor.**'
  curl -d 21.5 {one}/v1/publish/sensor.temp

Ctrl-C ends it.",
        took.as_secs_f64(),
    );
}

/// Runs the command beside the first peer; gives its exit code.
async fn run_beside(
    mesh: &mut Mesh,
    program: &OsStr,
    arguments: &[OsString],
) -> anyhow::Result<ExitCode> {
    let [one, two] = mesh.urls().clone();
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("MACULA_URL", one)
        .env("MACULA_URL_2", two)
        .env("MACULA_JOIN", mesh.join_file())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program:?}"))?;
    let status = tokio::select! {
        status = child.wait() => status.context("cannot wait for the command")?,
        ended = mesh.ended() => {
            ended?;
            bail!("a node of the mesh stopped");
        }
        () = interrupted() => {
            // The terminal has interrupted the command as well: it may end in its own way.
            match tokio::time::timeout(Duration::from_secs(10), child.wait()).await {
                Ok(status) => status.context("cannot wait for the command")?,
                Err(_) => return Ok(ExitCode::FAILURE),
            }
        }
    };
    // A command that a signal ended has no code; shells say 128 and the signal's number.
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    let code = status.code().or(signal.map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Waits for Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("a signal handler can be installed");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
