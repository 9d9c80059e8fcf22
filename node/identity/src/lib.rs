//! Who a node is, and how it proves it (docs/ARCHITECTURE.md, "Identity").
//!
//! Pure: no files, no sockets, no clock. Whoever calls says what time it is, and hands over bytes.
//! (Inside a handshake rustls says what time it is.)
//!
//! | module | holds |
//! | --- | --- |
//! | [`name`], [`subject`], [`id`], [`grant`] | what a certificate says |
//! | [`key`], [`certificate`], [`bundle`] | what a node keeps on its disk |
//! | [`mod@verify`] | the one place where a certificate is believed or refused |
//! | [`tls`] | that judgement on both sides of a QUIC handshake |
//! | [`authority`] | who signs |
//! | `forge` | flawed certificates, for tests (feature `forge`) |

pub mod authority;
pub mod bundle;
pub mod certificate;
pub mod enrolment;
#[cfg(any(test, feature = "forge"))]
pub mod forge;
pub mod grant;
pub mod id;
pub mod key;
pub mod name;
pub mod operator;
pub mod subject;
pub mod tls;
pub mod verify;

mod encoding;
mod profile;

pub use authority::{Authority, Order};
pub use bundle::{Bundle, RootId};
pub use certificate::{Chain, Identity};
pub use grant::Grants;
pub use id::NodeId;
pub use key::{NodeKey, verify_signature};
pub use name::{MeshName, NodeName, RealmName, TrustDomain};
pub use operator::{OperatorAuthority, Pair};
pub use rustls::pki_types::{CertificateDer, UnixTime};
pub use subject::{Place, Role, Scope, Subject};
pub use tls::{Credentials, Verdict};
pub use verify::{Refusal, verify};
