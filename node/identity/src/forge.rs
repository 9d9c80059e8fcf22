//! Certificates with exactly one flaw, for the tests of whoever must refuse them.
//!
//! Behind the feature `forge`, which only `[dev-dependencies]` turn on.

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use crate::authority::{Authority, BACKDATE, DEFAULT_LIFETIME, Order};
use crate::bundle::RootId;
use crate::certificate::Identity;
use crate::grant::Grants;
use crate::id::NodeId;
use crate::key::NodeKey;
use crate::name::MeshName;
use crate::subject::Subject;
use crate::tls::Credentials;

/// What is wrong with a forged certificate. Everything else about it is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Signed by another authority, whose root has the same name.
    OtherCa,
    /// Signed by this authority for another mesh.
    OtherMesh,
    /// Expired a minute ago.
    Expired,
    /// Valid in an hour.
    NotYetValid,
    /// No subject alternative name.
    NoSan,
    /// Two URIs, of which the first is right.
    TwoSans,
    /// Good for the server's side only.
    MissingEku,
    /// One bit of the node id was changed after it was signed.
    AlteredExtension,
    /// No private extension.
    MissingExtension,
    /// Signed by another node, whose good certificate is sent along.
    SignedByLeaf,
    /// A key of P-256.
    UnknownKeyType,
}

impl Flaw {
    /// Every flaw.
    pub const ALL: &[Self] = &[
        Self::OtherCa,
        Self::OtherMesh,
        Self::Expired,
        Self::NotYetValid,
        Self::NoSan,
        Self::TwoSans,
        Self::MissingEku,
        Self::AlteredExtension,
        Self::MissingExtension,
        Self::SignedByLeaf,
        Self::UnknownKeyType,
    ];

    /// The code with which it must be refused.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::OtherCa => "untrusted_certificate",
            Self::OtherMesh => "mesh_mismatch",
            Self::Expired => "certificate_expired",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::NoSan => "no_san",
            Self::TwoSans => "several_sans",
            Self::MissingEku => "missing_eku",
            Self::AlteredExtension => "bad_certificate",
            Self::MissingExtension => "bad_extension",
            Self::SignedByLeaf => "signed_by_leaf",
            Self::UnknownKeyType => "unknown_key_type",
        }
    }
}

/// Credentials of the subject with a new key and no flaw.
#[must_use]
pub fn honest(authority: &Authority, subject: &Subject, now: UnixTime) -> Credentials {
    let key = NodeKey::generate();
    let order = Order::new(subject.clone());
    let chain = authority.issue(&key.csr_der(), &order, now).expect("an honest order is signed");
    Credentials::new(&chain, &key)
}

/// Credentials of the subject with a new key and this flaw.
#[must_use]
pub fn forge(authority: &Authority, subject: &Subject, flaw: Flaw, now: UnixTime) -> Credentials {
    let seconds = now.as_secs();
    let begin = seconds.saturating_sub(BACKDATE.as_secs());
    let end = seconds + DEFAULT_LIFETIME.as_secs();
    let draft_of =
        |subject: &Subject, begin, end| authority.draft(subject, Grants::default(), begin, end);
    let mut draft = draft_of(subject, begin, end);
    let key = NodeKey::generate();
    let chain = match flaw {
        Flaw::OtherCa => {
            return honest(&Authority::new(authority.scope().clone(), now), subject, now);
        }
        Flaw::OtherMesh => {
            let mesh: MeshName = "elsewhere.other".parse().expect("a mesh name");
            let elsewhere = Subject { mesh, ..subject.clone() };
            vec![authority.sign(&draft_of(&elsewhere, begin, end), &key)]
        }
        Flaw::Expired => {
            let draft = draft_of(subject, begin.saturating_sub(3600), seconds - 60);
            vec![authority.sign(&draft, &key)]
        }
        Flaw::NotYetValid => vec![authority.sign(&draft_of(subject, seconds + 3600, end), &key)],
        Flaw::NoSan => {
            draft.subject_alt_names.clear();
            vec![authority.sign(&draft, &key)]
        }
        Flaw::TwoSans => {
            let second = format!("{}-2", subject).try_into().expect("ASCII");
            draft.subject_alt_names.push(SanType::URI(second));
            vec![authority.sign(&draft, &key)]
        }
        Flaw::MissingEku => {
            draft.extended_key_usages.truncate(1);
            vec![authority.sign(&draft, &key)]
        }
        Flaw::AlteredExtension => {
            vec![with_another_id(&authority.sign(&draft, &key), &authority.node_id(subject))]
        }
        Flaw::MissingExtension => {
            draft.custom_extensions.clear();
            vec![authority.sign(&draft, &key)]
        }
        Flaw::SignedByLeaf => {
            let signer = NodeKey::generate();
            let between = authority.sign(&draft_of(subject, begin, end), &signer);
            let issuer = Issuer::from_ca_cert_der(&between, &signer).expect("signed just now");
            let leaf = draft.signed_by(&key, &issuer).expect("Ed25519 signs any draft");
            vec![leaf.into(), between]
        }
        Flaw::UnknownKeyType => {
            let key =
                KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("ring makes P-256 keys");
            let chain = vec![authority.sign(&draft, &key)];
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            return Credentials { chain, key: PrivateKeyDer::Pkcs8(key) };
        }
    };
    Credentials { chain, key: key.private_key_der() }
}

/// An identity that nobody verified, for tests that need no certificate.
#[must_use]
pub fn identity(subject: Subject, id: NodeId, grants: Grants) -> Identity {
    Identity {
        id,
        subject,
        grants,
        not_before: 0,
        not_after: u64::MAX,
        public_key: [0; 32],
        issuer: RootId::UNVERIFIED,
    }
}

fn with_another_id(certificate: &CertificateDer<'_>, id: &NodeId) -> CertificateDer<'static> {
    let mut der = certificate.to_vec();
    let found = der.windows(NodeId::LENGTH).position(|bytes| bytes == id.as_bytes());
    der[found.expect("the id is in the certificate")] ^= 1;
    CertificateDer::from(der)
}
