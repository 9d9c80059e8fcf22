//! Joins a mesh that `macula-node dev` runs, by the file that it writes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::Fault;
use macula_proto::identity::authority::{Authority, Order};
use macula_proto::identity::{Place, Scope};
use serde::{Deserialize, Serialize};

use crate::discovery::{Resolver, Schedule};
use crate::identity::in_process;
use crate::node::{Node, Parts, StartError};
use crate::peer::Peer;
use crate::supervise::Settings;

/// How long joining may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a program needs to join a development mesh. It holds the mesh's authority, so that whoever
/// may read it may join as anybody: it is written for its owner's eyes only, and only by `dev`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JoinFile {
    /// The SPIFFE trust domain.
    pub trust_domain: String,
    /// The mesh, `<namespace>.<name>`.
    pub mesh: String,
    /// The realm to join.
    pub realm: String,
    /// UDP addresses of bootstraps.
    pub seeds: Vec<SocketAddr>,
    /// The authority's certificate, PEM.
    pub authority_certificate: String,
    /// The authority's key, PEM.
    pub authority_key: String,
    /// The key from which node ids are made, hexadecimal.
    pub node_id_key: String,
}

impl std::fmt::Debug for JoinFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinFile").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

/// Why a program could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The file cannot be read.
    #[error("cannot read the join file {path}; `macula-node dev` writes it and prints where")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a join file.
    #[error("{path} is not a join file")]
    Parse {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A name, certificate or key in the file does not hold.
    #[error("the join file holds something that is not valid: {0}")]
    Invalid(String),
    /// The node could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Nobody of the mesh answered.
    #[error("no seed of the mesh answered within ten seconds; is `macula-node dev` still running?")]
    NoAnswer(#[source] Fault),
}

impl JoinFile {
    /// Reads a join file.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, JoinError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| JoinError::Read { path: path.to_owned(), source })?;
        serde_json::from_str(&text)
            .map_err(|source| JoinError::Parse { path: path.to_owned(), source })
    }

    /// The authority in the file.
    pub(crate) fn authority(&self) -> Result<Authority, JoinError> {
        let invalid = |error: &dyn std::fmt::Display| JoinError::Invalid(error.to_string());
        let scope = Scope {
            trust_domain: self.trust_domain.parse().map_err(|error| invalid(&error))?,
            mesh: self.mesh.parse().map_err(|error| invalid(&error))?,
        };
        let (certificate, key) = (&self.authority_certificate, &self.authority_key);
        Authority::from_parts(scope, certificate, key, &self.node_id_key)
            .map_err(|error| invalid(&error))
    }
}

impl Peer {
    /// Joins the mesh of this join file, under a name of its own, and waits until it has.
    ///
    /// # Errors
    /// [`JoinError`] says what is missing.
    pub async fn join(path: &Path) -> Result<Self, JoinError> {
        let file = JoinFile::read(path)?;
        let name = format!("join-{:08x}", rand::random::<u32>());
        let peer = file.start(&name)?;
        match tokio::time::timeout(PATIENCE, peer.ready()).await {
            Ok(Ok(())) => Ok(peer),
            Ok(Err(fault)) => Err(JoinError::NoAnswer(fault)),
            Err(_) => {
                let fault = Fault::of(macula_proto::Code::Unreachable);
                peer.leave().await;
                Err(JoinError::NoAnswer(fault))
            }
        }
    }
}

impl JoinFile {
    /// An identity of this name in the file's realm, renewed while its task runs.
    pub(crate) fn enrol(&self, name: &str) -> Result<Arc<in_process::Renewal>, JoinError> {
        let invalid =
            |error: macula_proto::identity::name::Error| JoinError::Invalid(error.to_string());
        let authority = Arc::new(self.authority()?);
        let realm = self.realm.parse().map_err(invalid)?;
        let name = name.parse().map_err(invalid)?;
        let order = Order::new(authority.scope().subject(Place::Realm(realm), name));
        in_process::start(authority, order).map_err(|error| JoinError::Invalid(error.to_string()))
    }

    fn start(&self, name: &str) -> Result<Peer, JoinError> {
        let renewal = self.enrol(name)?;
        // One family is enough: whichever the seeds have.
        let v6 = self.seeds.iter().any(SocketAddr::is_ipv6);
        let any = if v6 { "[::]:0" } else { "0.0.0.0:0" };
        let parts = Parts {
            listen: any.parse().expect("an unspecified address"),
            source: renewal.source(),
            trouble: None,
            seeds: self.seeds.iter().map(|address| (*address).into()).collect(),
            // Its seeds are addresses: no name is ever looked up.
            resolver: Resolver::at(SocketAddr::from(([127, 0, 0, 1], 53)))
                .map_err(|error| JoinError::Invalid(error.to_string()))?,
            schedule: Schedule::default(),
            api: None,
            admin: None,
            counts: None,
            data_dir: None,
            metrics: Arc::default(),
            supervision: Settings::default(),
        };
        let node = Node::start(parts, |tree, runtime, metrics| {
            renewal.add_to(tree, runtime, metrics);
        })?;
        Ok(node.into_peer())
    }
}
