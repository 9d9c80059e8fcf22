//! The file's keys, their defaults, and which of them fit together.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use macula_identity::{MeshName, NodeName, Place, RealmName, Role, Scope, Subject, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Invalid};
use crate::seed::Seed;
use crate::{period, text, yaml};

/// The UDP port of a node when none is given. Ours, from no registry: the seed project's.
pub const DEFAULT_PORT: u16 = 9443;

/// Everything that `macula-node run` needs to know.
///
/// What a node *is* — role, realm, name, grants — it proves with its certificate. The same words
/// here say what the author of the file expects, so that a wrong mount is refused at the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The SPIFFE trust domain.
    #[serde(with = "text")]
    pub trust_domain: TrustDomain,
    /// The mesh, `<namespace>.<name>`.
    #[serde(with = "text")]
    pub mesh: MeshName,
    /// What the node does for the mesh.
    #[serde(with = "text")]
    pub role: Role,
    /// The tenant: a peer has one, infrastructure has none.
    #[serde(default, with = "text::option", skip_serializing_if = "Option::is_none")]
    pub realm: Option<RealmName>,
    /// The node's name within its role.
    #[serde(with = "text")]
    pub name: NodeName,
    /// The files that prove who the node is.
    pub identity: Files,
    /// The UDP address for QUIC, to listen and to dial.
    #[serde(default = "default_listen", with = "text::address")]
    pub listen: SocketAddr,
    /// Where bootstraps may be found. Only a bootstrap may have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<Seed>,
    /// How the seeds' names are looked up.
    #[serde(default)]
    pub discovery: Discovery,
    /// The HTTP API: always there on a peer that was read from a file, never elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// Health and metrics.
    #[serde(default)]
    pub admin: Admin,
    /// Which events are logged, as a filter of `tracing-subscriber`; `info` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// The files that prove who the node is, all PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Files {
    /// The private key, PKCS #8.
    pub key: PathBuf,
    /// The certificate chain, the leaf first.
    pub certificate: PathBuf,
    /// The roots that are trusted: several during a rotation.
    pub bundle: PathBuf,
}

/// How the seeds' names are looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Discovery {
    /// How often they are looked up again.
    #[serde(with = "period")]
    pub every: Duration,
    /// The DNS server to ask instead of those of `/etc/resolv.conf`.
    #[serde(with = "text::optional_address", skip_serializing_if = "Option::is_none")]
    pub server: Option<SocketAddr>,
}

/// The HTTP API of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Api {
    /// Its TCP address, on loopback.
    #[serde(with = "text::address")]
    pub listen: SocketAddr,
}

/// Health and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Admin {
    /// Its TCP address: in a pod one that the kubelet reaches.
    #[serde(with = "text::address")]
    pub listen: SocketAddr,
}

impl Config {
    /// Reads and judges a file's text; `source_name` is what errors call it.
    ///
    /// # Errors
    /// For text that is not YAML, an unknown, missing or wrong key, and for what
    /// [`validate`](Self::validate) refuses; each with its place in the file.
    pub fn from_yaml(text: &str, source_name: &str) -> Result<Self, Error> {
        let mut config: Self = yaml::read(text, source_name)?;
        if config.role == Role::Peer {
            config.api.get_or_insert_default();
        }
        config.validate().map_err(|invalid| Error {
            source_name: source_name.to_owned(),
            location: yaml::locate(text, invalid.key),
            why: invalid.to_string(),
        })?;
        Ok(config)
    }

    /// The text of a file that [`from_yaml`](Self::from_yaml) reads as this.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        yaml::write(self)
    }

    /// Reads every relative path as one from this folder: the file's own.
    #[must_use]
    pub fn relative_to(mut self, folder: &Path) -> Self {
        let Files { key, certificate, bundle } = &mut self.identity;
        for path in [key, certificate, bundle] {
            *path = folder.join(&*path); // an absolute path stays as it is
        }
        self
    }

    /// Whom the node's certificate must be about.
    ///
    /// # Errors
    /// When role and realm do not fit each other.
    pub fn subject(&self) -> Result<Subject, Invalid> {
        Ok(self.scope().subject(self.place()?, self.name.clone()))
    }

    /// The mesh that every certificate must be of.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope { trust_domain: self.trust_domain.clone(), mesh: self.mesh.clone() }
    }

    fn place(&self) -> Result<Place, Invalid> {
        match (self.role, &self.realm) {
            (Role::Peer, Some(realm)) => Ok(Place::Realm(realm.clone())),
            (Role::Bootstrap, None) => Ok(Place::Bootstrap),
            (Role::Gateway, None) => Ok(Place::Gateway),
            (Role::Peer, None) => {
                Err(Invalid::new("realm", "it is missing, and a peer belongs to one"))
            }
            (role @ (Role::Bootstrap | Role::Gateway), Some(_)) => {
                let why = format!("a {role} serves every realm and belongs to none; leave it out");
                Err(Invalid::new("realm", why))
            }
        }
    }

    /// Judges what the keys' own types cannot: those that need, exclude or clash with another.
    ///
    /// # Errors
    /// The first key, in the file's usual order, that is wrong.
    pub fn validate(&self) -> Result<(), Invalid> {
        let Self {
            trust_domain: _,
            mesh: _,
            role,
            realm: _,
            name: _,
            identity: Files { key, certificate, bundle },
            listen: _,
            seeds,
            discovery: Discovery { every, server },
            api,
            admin,
            log,
        } = self;
        self.place()?;
        for (name, path) in [
            ("identity.key", key),
            ("identity.certificate", certificate),
            ("identity.bundle", bundle),
        ] {
            if path.as_os_str().is_empty() {
                return Err(Invalid::new(name, "the path is empty"));
            }
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = seeds.iter().find(|seed| !seen.insert(*seed)) {
            return Err(Invalid::new("seeds", format!("{twice} is there twice")));
        }
        if seeds.is_empty() && *role != Role::Bootstrap {
            let why = format!("a {role} needs at least one seed to find the mesh");
            return Err(Invalid::new("seeds", why));
        }
        if !REFRESH.contains(every) {
            let why = format!("{} is not between 1s and 1h", period::format(*every));
            return Err(Invalid::new("discovery.every", why));
        }
        if server.is_some_and(|server| server.port() == 0) {
            return Err(Invalid::new("discovery.server", "port 0 cannot be asked"));
        }
        if let Some(Api { listen }) = api {
            if *role != Role::Peer {
                let why = format!("only a peer has the HTTP API, and this is a {role}");
                return Err(Invalid::new("api", why));
            }
            if !listen.ip().is_loopback() {
                let why = format!(
                    "{listen} is not loopback, and whoever reaches the API may publish as this \
                     node; use 127.0.0.1 or [::1]"
                );
                return Err(Invalid::new("api.listen", why));
            }
            if *listen == admin.listen && listen.port() != 0 {
                return Err(Invalid::new("admin.listen", format!("{listen} is the API's already")));
            }
        }
        if log.as_ref().is_some_and(|filter| filter.trim().is_empty()) {
            return Err(Invalid::new("log", "the filter is empty; leave it out for info"));
        }
        Ok(())
    }
}

/// Below a second a fleet of sidecars becomes the DNS server's trouble; above an hour, stale.
const REFRESH: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);

impl Default for Discovery {
    fn default() -> Self {
        Self { every: Duration::from_secs(30), server: None }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 7780).into() }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 7781).into() }
    }
}

fn default_listen() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into()
}

#[cfg(test)]
mod tests;
