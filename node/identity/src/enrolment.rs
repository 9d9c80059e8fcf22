//! Enrolment's messages: what a node sends to be given a certificate, and what it gets.
//!
//! `POST {url}/v1/enrol` with `Authorization: Bearer <token>` and a [`Request`] as JSON. The answer
//! is [`Issued`], or [`Refused`] as a problem document (RFC 9457) whose code is in the error table.
//! The request names no identity: who asks is what the token proves, and the authority decides what
//! goes into the certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::certificate::{self, Chain};
use crate::name::{MeshName, RealmName};
use crate::subject::{Place, Role, Scope};

/// The path below the server's URL.
pub const PATH: &str = "/v1/enrol";

/// The server's TCP port when an URL names none.
pub const PORT: u16 = 7783;

/// The longest request that is read, in bytes. An honest one has less than 1 KiB.
pub const MAX_REQUEST: usize = 32 * 1024;

/// The longest answer that is read, in bytes. An honest one has less than 4 KiB.
pub const MAX_ANSWER: usize = 32 * 1024;

/// The audience that a token must be made for, so that it is good for this mesh alone.
#[must_use]
pub fn audience(scope: &Scope) -> String {
    scope.to_string()
}

/// What a node asks for: a certificate for its key, at a place in a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// The mesh.
    pub mesh: MeshName,
    /// What the node is for.
    pub role: Role,
    /// A peer's tenant; infrastructure has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<RealmName>,
    /// The certificate request (PKCS#10, DER) in base64: its key, and the proof of possession.
    pub csr: String,
}

impl Request {
    /// The request for a node of this place.
    #[must_use]
    pub fn new(mesh: MeshName, place: &Place, csr_der: &[u8]) -> Self {
        let realm = match place {
            Place::Realm(realm) => Some(realm.clone()),
            Place::Bootstrap | Place::Gateway => None,
        };
        Self { mesh, role: place.role(), realm, csr: STANDARD.encode(csr_der) }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn from_json(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|error| error.to_string())
    }

    /// Where the node wants to stand.
    ///
    /// # Errors
    /// When role and realm do not fit each other.
    pub fn place(&self) -> Result<Place, &'static str> {
        match (self.role, &self.realm) {
            (Role::Peer, Some(realm)) => Ok(Place::Realm(realm.clone())),
            (Role::Peer, None) => Err("a peer names its realm"),
            (Role::Bootstrap, None) => Ok(Place::Bootstrap),
            (Role::Gateway, None) => Ok(Place::Gateway),
            (Role::Bootstrap | Role::Gateway, Some(_)) => Err("infrastructure belongs to no realm"),
        }
    }

    /// The certificate request.
    ///
    /// # Errors
    /// When it is not base64.
    pub fn csr_der(&self) -> Result<Vec<u8>, String> {
        STANDARD.decode(&self.csr).map_err(|error| format!("`csr` is not base64: {error}"))
    }
}

/// The certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Issued {
    /// One certificate, PEM.
    pub certificate: String,
}

impl Issued {
    /// What was issued.
    #[must_use]
    pub fn new(chain: &Chain) -> Self {
        Self { certificate: chain.to_pem() }
    }

    /// The certificate, not judged yet.
    ///
    /// # Errors
    /// When it is not exactly one in PEM.
    pub fn chain(&self) -> Result<Chain, certificate::Error> {
        Chain::from_pem(&self.certificate)
    }
}

/// Why there is none: a problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The stable name, as in the error table.
    pub code: String,
    /// What happened, in general.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Why it happened this time.
    #[serde(default)]
    pub detail: String,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::NodeKey;

    #[test]
    fn a_request_is_read_back_and_says_where_the_node_wants_to_stand() {
        let csr = NodeKey::generate().csr_der();
        for place in [Place::Bootstrap, Place::Realm("com.example".parse().unwrap())] {
            let request = Request::new("ns.main".parse().unwrap(), &place, &csr);
            let read = Request::from_json(&serde_json::to_vec(&request).unwrap()).unwrap();
            assert_eq!((read.place(), read.csr_der()), (Ok(place), Ok(csr.clone())));
        }
    }

    #[test]
    fn a_request_that_is_not_one_is_refused_with_the_reason() {
        for (body, reason) in [
            ("{", "EOF"),
            (r#"{"mesh":"main","role":"peer","csr":""}"#, "<namespace>.<name>"),
            (r#"{"mesh":"ns.main","role":"king","csr":""}"#, "unknown variant"),
            (r#"{"mesh":"ns.main","role":"peer","csr":"","name":"x"}"#, "unknown field `name`"),
        ] {
            let error = Request::from_json(body.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{body}: {error}");
        }
        let peer = Request::from_json(br#"{"mesh":"a.b","role":"peer","csr":"*"}"#).unwrap();
        assert!(peer.place().is_err() && peer.csr_der().is_err());
        let gateway = br#"{"mesh":"a.b","role":"gateway","realm":"r","csr":""}"#;
        assert!(Request::from_json(gateway).unwrap().place().is_err());
    }
}
