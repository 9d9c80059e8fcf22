//! The roots that a node believes: several while they are rotated.

use std::fmt;

use ring::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::SectionKind;

use crate::certificate::Identity;
use crate::encoding::{Hex, pem_sections, to_pem};
use crate::profile;
use crate::verify::Refusal;

/// The name of a root: SHA-256 of its certificate. `Display` gives the first eight digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId([u8; 32]);

impl RootId {
    /// The issuer of an identity whose issuer nobody looked for; no bundle contains it.
    pub const UNVERIFIED: Self = Self([0; 32]);

    /// The bytes of the digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn of(der: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, der);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0[..4]).fmt(f)
    }
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootId({})", Hex(&self.0))
    }
}

/// One certificate that signs others.
///
/// Its own dates are not judged (RFC 5280 §6.1.1 (d): a trust anchor is a name and a key): trust in
/// a root is the bundle's to give and to take. The authority signs nothing that outlives its root.
#[derive(Clone, PartialEq, Eq)]
pub struct Root {
    id: RootId,
    der: CertificateDer<'static>,
    name: String,
    not_after: u64,
    /// The subject as it is encoded, to be compared with a leaf's issuer byte by byte.
    pub(crate) subject: Vec<u8>,
    pub(crate) key_id: Option<Vec<u8>>,
    pub(crate) public_key: [u8; 32],
}

impl Root {
    /// SHA-256 of the certificate.
    #[must_use]
    pub const fn id(&self) -> &RootId {
        &self.id
    }

    /// The certificate.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its subject, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The end of its validity, in seconds since 1970; for people and alarms.
    #[must_use]
    pub const fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Reads a root, or says why the certificate is none.
    pub(crate) fn read(der: &[u8]) -> Result<Self, String> {
        let x509 = profile::parse(der).map_err(|refusal| refusal.to_string())?;
        let public_key = profile::public_key(&x509).map_err(|refusal| refusal.to_string())?;
        if !profile::may_sign(&x509) {
            return Err("it is not a CA that may sign certificates".to_owned());
        }
        let (_, not_after) = profile::validity(&x509).map_err(|refusal| refusal.to_string())?;
        Ok(Self {
            id: RootId::of(der),
            der: CertificateDer::from(der.to_vec()),
            name: profile::name(x509.subject()),
            not_after,
            subject: x509.subject().as_raw().to_vec(),
            key_id: profile::subject_key_id(&x509).map(<[u8]>::to_vec),
            public_key,
        })
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({}, {:?})", self.id, self.name)
    }
}

/// One to [`Bundle::MAX_ROOTS`] roots, each once, in the order in which they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    roots: Vec<Root>,
}

impl Bundle {
    /// The most roots that a bundle holds: a rotation needs two.
    pub const MAX_ROOTS: usize = 16;

    /// Reads a text of `CERTIFICATE` sections. The same root twice is the same as once.
    ///
    /// # Errors
    /// [`Error`] if there is no root, too many, or anything that is not a root: a bundle is believed
    /// as a whole or not at all.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_PEM_LENGTH {
            return Err(Error::TooLong(text.len()));
        }
        let sections = pem_sections(text).map_err(Error::Pem)?;
        let mut roots = Vec::new();
        for (position, (kind, der)) in (1..).zip(sections) {
            if kind != SectionKind::Certificate {
                return Err(Error::Section { position, kind });
            }
            roots.push(Root::read(&der).map_err(|why| Error::NotARoot { position, why })?);
        }
        Self::of(roots)
    }

    /// The bundle of these roots.
    pub(crate) fn of(given: Vec<Root>) -> Result<Self, Error> {
        let mut roots: Vec<Root> = Vec::with_capacity(given.len().min(Self::MAX_ROOTS));
        for root in given {
            if !roots.iter().any(|known| known.id == root.id) {
                roots.push(root);
            }
        }
        match roots.len() {
            0 => Err(Error::Empty),
            1..=Self::MAX_ROOTS => Ok(Self { roots }),
            many => Err(Error::TooMany(many)),
        }
    }

    /// The roots in PEM, in their order.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(|root| to_pem("CERTIFICATE", &root.der)).collect()
    }

    /// The roots, in their order.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whether this root is among them.
    #[must_use]
    pub fn contains(&self, id: &RootId) -> bool {
        self.roots.iter().any(|root| root.id == *id)
    }

    /// Whether the root that signed a verified identity is still among them: what a connection is
    /// asked when the bundle has changed.
    ///
    /// # Errors
    /// [`Refusal::TrustWithdrawn`] if it is not.
    pub fn still_trusts(&self, identity: &Identity) -> Result<(), Refusal> {
        if self.contains(&identity.issuer) {
            Ok(())
        } else {
            Err(Refusal::TrustWithdrawn { issuer: identity.issuer })
        }
    }

    /// These roots and then those of the other bundle: the first step of a rotation.
    ///
    /// # Errors
    /// [`Error::TooMany`] if they are more than a bundle holds.
    pub fn merged(&self, other: &Self) -> Result<Self, Error> {
        Self::of([&self.roots[..], &other.roots].concat())
    }

    /// These roots without one of them: the last step of a rotation.
    ///
    /// # Errors
    /// [`Error::Empty`] if none would be left.
    pub fn without(&self, id: &RootId) -> Result<Self, Error> {
        Self::of(self.roots.iter().filter(|root| root.id != *id).cloned().collect())
    }
}

/// Room for [`Bundle::MAX_ROOTS`] certificates of the longest kind, with comments.
const MAX_PEM_LENGTH: usize = 256 * 1024;

/// Why a text is not a [`Bundle`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The text is not PEM.
    #[error("the bundle is not PEM: {0}")]
    Pem(String),
    /// The text is longer than any bundle, in bytes.
    #[error("the bundle has {0} bytes, and {MAX_PEM_LENGTH} are the most")]
    TooLong(usize),
    /// A section that does not belong there; a private key, for example.
    #[error("section {position} of the bundle is a {kind:?}, not a certificate")]
    Section {
        /// Counted from one.
        position: usize,
        /// What it is.
        kind: SectionKind,
    },
    /// A certificate that is not a root.
    #[error("certificate {position} of the bundle is not a root: {why}")]
    NotARoot {
        /// Counted from one.
        position: usize,
        /// What is wrong with it.
        why: String,
    },
    /// No certificate.
    #[error("the bundle has no certificate")]
    Empty,
    /// More roots than a bundle holds.
    #[error("the bundle has {0} roots, and {max} are the most", max = Bundle::MAX_ROOTS)]
    TooMany(usize),
}
