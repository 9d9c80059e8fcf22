//! The file's keys, their defaults, and which of them fit together.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use macula_identity::{MeshName, NodeName, Place, RealmName, Role, Scope, Subject, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Invalid};
use crate::seed::Seed;
use crate::url::EnrolmentUrl;
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
    /// The node's name within its role. It may be left out with enrolment: then the certificate
    /// says it.
    #[serde(default, with = "text::option", skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    /// What proves who the node is.
    pub identity: Identity,
    /// The folder for what lasts over a restart: key and certificate of a node that enrols, records
    /// and contacts of infrastructure. Without one they live in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// The UDP address for QUIC, to listen and to dial.
    #[serde(default = "default_listen", with = "text::address")]
    pub listen: SocketAddr,
    /// Where bootstraps may be found. Only a bootstrap may have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<Seed>,
    /// How the seeds' names are looked up.
    #[serde(default)]
    pub discovery: Discovery,
    /// The HTTP API: always there on a peer that was read from a file. On infrastructure, where it is
    /// named, it answers what `macula-node status` and `ping` ask, and has no topics or procedures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// Health and metrics.
    #[serde(default)]
    pub admin: Admin,
    /// What infrastructure tells the operator; never on a peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Which events are logged, as a filter of `tracing-subscriber`; `info` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// What proves who the node is: a key and a certificate in files that somebody else renews, or the
/// enrolment by which the node gets and renews its own. Files are PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// The private key, PKCS #8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The certificate chain, the leaf first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The roots that are trusted: several during a rotation.
    pub bundle: PathBuf,
    /// Instead of key and certificate: where the node is given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<Enrolment>,
}

/// The three files of a node whose certificate somebody else renews, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The private key, PKCS #8.
    pub key: PathBuf,
    /// The certificate chain, the leaf first.
    pub certificate: PathBuf,
    /// The roots that are trusted: several during a rotation.
    pub bundle: PathBuf,
}

/// Where the node is given its certificate, and by what it proves who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Enrolment {
    /// The server, `https://HOST[:PORT]`.
    #[serde(with = "text")]
    pub url: EnrolmentUrl,
    /// The CA that the server's certificate must be of, PEM.
    pub ca: PathBuf,
    /// The token that proves who the node is. Read again for each request, because it is rotated.
    pub token: PathBuf,
}

/// What infrastructure tells the operator: which nodes it is connected to. HTTPS, for the operator's
/// certificate alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counts {
    /// Its TCP address.
    #[serde(with = "text::address")]
    pub listen: SocketAddr,
    /// The CA that the operator's certificate must be of, PEM.
    pub ca: PathBuf,
}

impl Identity {
    /// The files of a node whose certificate somebody else renews.
    ///
    /// # Errors
    /// When the node is to enrol, or one of them is not named.
    pub fn files(&self) -> Result<Files, Invalid> {
        self.validate()?;
        match self.clone() {
            Self { key: Some(key), certificate: Some(certificate), bundle, enrolment: _ } => {
                Ok(Files { key, certificate, bundle })
            }
            _ => Err(Invalid::new("identity.enrolment", "this node has no files of its own")),
        }
    }
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

/// The HTTP API.
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
        let Identity { key, certificate, bundle, enrolment } = &mut self.identity;
        let mut paths = vec![bundle];
        paths.extend([key, certificate].into_iter().flatten());
        if let Some(Enrolment { url: _, ca, token }) = enrolment {
            paths.extend([ca, token]);
        }
        paths.extend(self.data_dir.as_mut());
        paths.extend(self.counts.as_mut().map(|counts| &mut counts.ca));
        for path in paths {
            *path = folder.join(&*path); // an absolute path stays as it is
        }
        self
    }

    /// Whom the node's certificate must be about.
    ///
    /// # Errors
    /// When role and realm do not fit each other, or there is no name.
    pub fn subject(&self) -> Result<Subject, Invalid> {
        let name = self.name.clone();
        let name = name.ok_or_else(|| Invalid::new("name", "it is missing"))?;
        Ok(self.scope().subject(self.place()?, name))
    }

    /// The mesh that every certificate must be of.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope { trust_domain: self.trust_domain.clone(), mesh: self.mesh.clone() }
    }

    /// Role and realm in one.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub fn place(&self) -> Result<Place, Invalid> {
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
            name,
            identity,
            data_dir,
            listen: _,
            seeds,
            discovery: Discovery { every, server },
            api,
            admin,
            counts,
            log,
        } = self;
        self.place()?;
        identity.validate()?;
        if name.is_none() && identity.enrolment.is_none() {
            return Err(Invalid::new("name", "it is missing; only with enrolment it may be"));
        }
        if let Some(folder) = data_dir {
            if folder.as_os_str().is_empty() {
                return Err(Invalid::new("dataDir", "the path is empty"));
            }
            if *role == Role::Peer && identity.enrolment.is_none() {
                let why = "a peer keeps only what identity.enrolment gave it; leave it out";
                return Err(Invalid::new("dataDir", why));
            }
        }
        if counts.is_some() && *role == Role::Peer {
            let why = "a peer tells the operator nothing; only infrastructure has this";
            return Err(Invalid::new("counts", why));
        }
        if let Some(Counts { listen, ca }) = counts {
            if ca.as_os_str().is_empty() {
                return Err(Invalid::new("counts.ca", "the path is empty"));
            }
            if *listen == admin.listen && listen.port() != 0 {
                let why = format!("{listen} is the address of health and metrics already");
                return Err(Invalid::new("counts.listen", why));
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

impl Identity {
    fn validate(&self) -> Result<(), Invalid> {
        let Self { key, certificate, bundle, enrolment } = self;
        let (ca, token) = match enrolment {
            Some(Enrolment { url: _, ca, token }) => (Some(ca), Some(token)),
            None => (None, None),
        };
        for (name, path) in [
            ("identity.key", key.as_ref()),
            ("identity.certificate", certificate.as_ref()),
            ("identity.bundle", Some(bundle)),
            ("identity.enrolment.ca", ca),
            ("identity.enrolment.token", token),
        ] {
            if path.is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(Invalid::new(name, "the path is empty"));
            }
        }
        let missing = "it is missing; or give identity.enrolment";
        let twice = "with identity.enrolment the node makes its own; leave it out";
        match (enrolment, key, certificate) {
            (Some(_), Some(_), _) => Err(Invalid::new("identity.key", twice)),
            (Some(_), None, Some(_)) => Err(Invalid::new("identity.certificate", twice)),
            (None, None, _) => Err(Invalid::new("identity.key", missing)),
            (None, Some(_), None) => Err(Invalid::new("identity.certificate", missing)),
            (Some(_), None, None) | (None, Some(_), Some(_)) => Ok(()),
        }
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
