//! Where the node's own certificate comes from, and how it stays fresh.
//!
//! A [`Source`] always holds credentials that were good when they came; whoever uses them watches
//! it. [`files`] reloads what somebody else renews; [`in_process`] asks an authority that lives in
//! the same process (`dev`). Judging certificates is macula-identity's; here are files and clocks.

pub mod files;
pub mod in_process;
mod nearness;

use std::sync::Arc;
use std::time::Duration;

use macula_identity::{Bundle, Chain, Identity, NodeKey, Refusal, Scope};
use macula_proto::Fault;
use rustls::pki_types::UnixTime;
use tokio::sync::watch;

pub use self::nearness::Nearness;

/// Who the node is, with what proves it, and whom it trusts.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// What the certificate says.
    pub identity: Identity,
    /// The certificate's key.
    pub key: Arc<NodeKey>,
    /// The certificate.
    pub chain: Chain,
    /// The roots that others are judged by.
    pub bundle: Arc<Bundle>,
    /// The mesh that others must be of.
    pub mesh: Scope,
}

/// The credentials of now, and every change of them. A change may be the bundle alone: connections
/// whose issuer is no longer in it have to be closed.
pub type Source = watch::Receiver<Arc<Credentials>>;

/// What keeps the node from its next certificate now, if something does, and every change of it.
pub type Trouble = watch::Receiver<Option<Fault>>;

/// Why key, certificate and bundle do not make credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The certificate is not believed.
    #[error("the certificate is refused ({code}): {0}", code = .0.code())]
    Refused(#[from] Refusal),
    /// The certificate is for another key.
    #[error("the key is not the certificate's")]
    OtherKey,
}

impl Credentials {
    /// Judges the certificate as every other node will: against the bundle, for this mesh, now.
    ///
    /// # Errors
    /// When others would not believe it, or its key is another one.
    pub fn new(
        key: Arc<NodeKey>,
        chain: Chain,
        bundle: Arc<Bundle>,
        mesh: Scope,
        now: UnixTime,
    ) -> Result<Self, Unfit> {
        let identity = chain.verify(&bundle, &mesh, now)?;
        if identity.public_key != key.public_key() {
            return Err(Unfit::OtherKey);
        }
        Ok(Self { identity, key, chain, bundle, mesh })
    }

    /// How long the certificate is still good.
    #[must_use]
    pub fn remaining(&self, now: UnixTime) -> Duration {
        self.identity.remaining(now)
    }

    /// How near its end is.
    #[must_use]
    pub fn nearness(&self, now: UnixTime) -> Nearness {
        Nearness::of(&self.identity, now)
    }
}
