//! A node's certificate as it is shipped, and what it says once it is believed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::SectionKind;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::bundle::{Bundle, RootId};
use crate::encoding::{pem_sections, to_pem};
use crate::grant::Grants;
use crate::id::NodeId;
use crate::profile;
use crate::subject::{Scope, Subject};
use crate::verify::{Refusal, verify};

/// The certificates that a node presents: exactly one leaf. The root that signed it is in
/// everybody's bundle, and nothing stands between them.
///
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Chain(Arc<CertificateDer<'static>>);

impl Chain {
    /// Takes the certificate without judging it; [`Chain::verify`] does that.
    #[must_use]
    pub fn from_der(leaf: CertificateDer<'static>) -> Self {
        Self(Arc::new(leaf))
    }

    /// Reads a text with exactly one `CERTIFICATE` section. Whether it is believed is for
    /// [`Chain::verify`] to say.
    ///
    /// # Errors
    /// [`Error`] if there is no such section, several, or one of another kind.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let mut sections = pem_sections(text).map_err(Error::Pem)?;
        match (sections.pop(), sections.is_empty()) {
            (Some((SectionKind::Certificate, der)), true) => {
                Ok(Self::from_der(CertificateDer::from(der)))
            }
            (Some((kind, _)), true) => Err(Error::Section(kind)),
            (Some(_), false) => Err(Error::Several(sections.len() + 1)),
            (None, _) => Err(Error::Missing),
        }
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        to_pem("CERTIFICATE", &self.0)
    }

    /// The certificate.
    #[must_use]
    pub fn leaf_der(&self) -> &CertificateDer<'static> {
        &self.0
    }

    /// Judges the certificate: [`verify`](fn@verify) of a chain of one.
    ///
    /// # Errors
    /// [`Refusal`], the first reason not to believe it.
    pub fn verify(
        &self,
        bundle: &Bundle,
        mesh: &Scope,
        now: UnixTime,
    ) -> Result<Identity, Refusal> {
        verify(&self.0, &[], bundle, mesh, now)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({} bytes)", self.0.len())
    }
}

/// What a certificate says of its node: read from a verified certificate and from nowhere else.
///
/// Only [`verify`](fn@verify) makes one of a stranger's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The node's place in the key space.
    pub id: NodeId,
    /// Role, realm and name, in which mesh.
    pub subject: Subject,
    /// What the node may do.
    pub grants: Grants,
    /// The first second of its validity, in seconds since 1970.
    pub not_before: u64,
    /// The end of its validity, in seconds since 1970. At this very second it has expired.
    pub not_after: u64,
    /// The Ed25519 key that the node proves to hold.
    pub public_key: [u8; 32],
    /// The root that signed, or [`RootId::UNVERIFIED`] where nobody looked.
    pub issuer: RootId,
}

impl Identity {
    /// Reads one's own certificate **without verifying it**: neither signature, nor dates, nor
    /// mesh. For a node that wants to know who it is before it has a bundle; never for another's.
    ///
    /// Its [`issuer`](Self::issuer) is [`RootId::UNVERIFIED`], which no bundle contains.
    ///
    /// # Errors
    /// [`Refusal`] if the certificate breaks the profile in a way that shows without its issuer.
    pub fn of_own(chain: &Chain) -> Result<Self, Refusal> {
        let x509 = profile::parse(chain.leaf_der())?;
        let public_key = profile::public_key(&x509)?;
        profile::check_shape(&x509)?;
        let (not_before, not_after) = profile::validity(&x509)?;
        profile::check_usages(&x509)?;
        let subject = profile::subject(&x509)?;
        let (id, grants) = profile::extension(&x509)?;
        let issuer = RootId::UNVERIFIED;
        Ok(Self { id, subject, grants, not_before, not_after, public_key, issuer })
    }

    /// How much of its validity is left; nothing once it has expired.
    #[must_use]
    pub fn remaining(&self, now: UnixTime) -> Duration {
        Duration::from_secs(self.not_after.saturating_sub(now.as_secs()))
    }

    /// When to renew, in seconds since 1970: at half of its life, so that a mesh outlives the loss
    /// of its authority by the other half.
    #[must_use]
    pub const fn renew_at(&self) -> u64 {
        self.not_before + self.not_after.saturating_sub(self.not_before) / 2
    }
}

/// Why a text is not a [`Chain`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The text is not PEM.
    #[error("the certificate is not PEM: {0}")]
    Pem(String),
    /// No section at all.
    #[error("there is no CERTIFICATE section")]
    Missing,
    /// A longer chain, or two certificates.
    #[error("exactly one certificate is expected, and there are {0} sections")]
    Several(usize),
    /// One section of another kind.
    #[error("a CERTIFICATE section is expected, not {0:?}")]
    Section(SectionKind),
}
