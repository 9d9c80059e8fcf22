//! Signs the certificates of one mesh, and chooses the node ids.

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
    date_time_ymd,
};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::SectionKind;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::bundle::{Bundle, Root};
use crate::certificate::Chain;
use crate::encoding::{Hex, from_hex, pem_sections, to_pem};
use crate::grant::{self, Grants};
use crate::id::NodeId;
use crate::key::{self, NodeKey};
use crate::subject::{Scope, Subject};
use crate::verify::Refusal;

mod csr;

pub use csr::MAX_LENGTH as MAX_CSR_LENGTH;

/// How long a certificate lives unless the order says otherwise.
pub const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);

/// How far a certificate is dated back, for those whose clocks are behind.
pub const BACKDATE: Duration = Duration::from_mins(5);

/// How long a root lives: ten years of 365 days.
pub const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

/// What signs for a mesh: a root certificate, its key, and the key from which node ids come.
///
/// The id key lies beside the root's and is not rotated with it: a node keeps its id for as long as
/// it keeps its name. `Debug` shows no secret.
pub struct Authority {
    scope: Scope,
    root: Root,
    key: NodeKey,
    id_key: [u8; 32],
}

/// What to put into a certificate. Nothing of it comes from the node that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Whom the certificate is about.
    pub subject: Subject,
    /// What it allows. Infrastructure is always granted `server`.
    pub grants: Grants,
    /// For how long from now. It never outlives the root.
    pub lifetime: Duration,
}

impl Order {
    /// An order of [`DEFAULT_LIFETIME`] with no grants but those that the role brings.
    #[must_use]
    pub fn new(subject: Subject) -> Self {
        Self { subject, grants: Grants::default(), lifetime: DEFAULT_LIFETIME }
    }
}

impl Authority {
    /// A new authority with a new root and a new id key.
    #[must_use]
    pub fn new(scope: Scope, now: UnixTime) -> Self {
        Self::with_new_root(scope, random(), now)
    }

    /// The authority whose parts were kept: root certificate and key in PEM, the id key as 64
    /// hexadecimal digits (blanks around them are ignored).
    ///
    /// # Errors
    /// [`Error`] if a part cannot be read, or the key is not the certificate's.
    pub fn from_parts(
        scope: Scope,
        ca_cert_pem: &str,
        ca_key_pem: &str,
        id_key_hex: &str,
    ) -> Result<Self, Error> {
        let sections = pem_sections(ca_cert_pem).map_err(Error::Root)?;
        let [(SectionKind::Certificate, der)] = sections.as_slice() else {
            return Err(Error::Root("exactly one CERTIFICATE section is expected".to_owned()));
        };
        let root = Root::read(der).map_err(Error::Root)?;
        let key = NodeKey::from_pem(ca_key_pem)?;
        if key.public_key() != root.public_key {
            return Err(Error::OtherKey);
        }
        let id_key = from_hex(id_key_hex.trim()).ok_or(Error::IdKey)?;
        Ok(Self { scope, root, key, id_key })
    }

    /// The mesh that it signs for.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The root that it signs with.
    #[must_use]
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// The root certificate in PEM.
    #[must_use]
    pub fn ca_cert_pem(&self) -> String {
        to_pem("CERTIFICATE", self.root.der())
    }

    /// The root's key in PEM. This is a secret.
    #[must_use]
    pub fn ca_key_pem(&self) -> String {
        self.key.to_pem()
    }

    /// The id key as 64 hexadecimal digits. This is a secret: who has it can look for names whose
    /// ids lie where they like.
    #[must_use]
    pub fn node_id_key(&self) -> String {
        Hex(&self.id_key).to_string()
    }

    /// The bundle of its one root.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        Bundle::of(vec![self.root.clone()]).expect("one root is a bundle")
    }

    /// The id of a subject: HMAC-SHA-256 of its SPIFFE ID, truncated to 160 bits. A subject keeps it
    /// over every renewal and rotation, and nobody can choose it without the id key.
    #[must_use]
    pub fn node_id(&self, subject: &Subject) -> NodeId {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.id_key);
        let tag = hmac::sign(&key, subject.to_string().as_bytes());
        NodeId::try_from(&tag.as_ref()[..NodeId::LENGTH]).expect("cut to the length of an id")
    }

    /// The same authority with a new root. Publish both roots before it signs, and drop the old one
    /// when nothing that it signed is valid any more.
    #[must_use]
    pub fn rotated(&self, now: UnixTime) -> Self {
        Self::with_new_root(self.scope.clone(), self.id_key, now)
    }

    /// Signs a certificate for the key of the request (PKCS#10). From the request it takes the key
    /// and the proof of possession, nothing else.
    ///
    /// # Errors
    /// [`Error`] if the request is malformed, asks for anything, or does not prove possession of an
    /// Ed25519 key, or if the order is not for this mesh or not for any time.
    pub fn issue(&self, csr_der: &[u8], order: &Order, now: UnixTime) -> Result<Chain, Error> {
        let key = csr::verified_key(csr_der)?;
        let Order { subject, grants, lifetime } = order;
        if !subject.is_in(&self.scope) {
            let (asked, ours) = (Box::new(subject.scope()), Box::new(self.scope.clone()));
            return Err(Error::OtherMesh { asked, ours });
        }
        if lifetime.as_secs() == 0 {
            return Err(Error::NoLifetime);
        }
        let end = self.root.not_after();
        if end <= now.as_secs() {
            return Err(Error::RootExpired { past: now.as_secs() - end });
        }
        let not_before = now.as_secs().saturating_sub(BACKDATE.as_secs());
        let not_after = now.as_secs().saturating_add(lifetime.as_secs()).min(end);
        let draft = self.draft(subject, *grants, not_before, not_after);
        let chain = Chain::from_der(self.sign(&draft, &key));
        // What a node would refuse never leaves.
        chain.verify(&self.bundle(), &self.scope, now)?;
        Ok(chain)
    }

    /// A certificate of the profile, before it is signed. The forge spoils these.
    pub(crate) fn draft(
        &self,
        subject: &Subject,
        grants: Grants,
        not_before: u64,
        not_after: u64,
    ) -> CertificateParams {
        let grants = Grants { server: grants.server || subject.role().is_infrastructure() };
        let extension = grant::encode(&self.node_id(subject), grants);
        let name = subject.to_string().try_into().expect("a SPIFFE ID of ours is ASCII");
        let mut draft = CertificateParams::default();
        set_validity(&mut draft, not_before, not_after);
        draft.serial_number = Some(serial_number());
        // The SAN says all. With no name here, it is critical (RFC 5280 §4.1.2.6).
        draft.distinguished_name = DistinguishedName::new();
        draft.subject_alt_names = vec![SanType::URI(name)];
        draft.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        draft.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        draft.use_authority_key_identifier_extension = true;
        draft.custom_extensions =
            vec![CustomExtension::from_oid_content(grant::EXTENSION_OID, extension)];
        draft
    }

    /// Signs a draft as it is.
    pub(crate) fn sign(
        &self,
        draft: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> CertificateDer<'static> {
        let issuer =
            Issuer::from_ca_cert_der(self.root.der(), &self.key).expect("the root was read before");
        draft.signed_by(key, &issuer).expect("Ed25519 signs any draft").into()
    }

    fn with_new_root(scope: Scope, id_key: [u8; 32], now: UnixTime) -> Self {
        let key = NodeKey::generate();
        let begin = now.as_secs().saturating_sub(BACKDATE.as_secs());
        let mut draft = CertificateParams::default();
        set_validity(&mut draft, begin, now.as_secs().saturating_add(ROOT_LIFETIME.as_secs()));
        draft.serial_number = Some(serial_number());
        draft.distinguished_name = DistinguishedName::new();
        draft.distinguished_name.push(DnType::CommonName, format!("Macula mesh {}", scope.mesh));
        draft.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        draft.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = draft.self_signed(&key).expect("Ed25519 signs any draft");
        let root = Root::read(certificate.der()).expect("a root of the profile");
        Self { scope, root, key, id_key }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, root, key: _, id_key: _ } = self;
        write!(f, "Authority({scope}, {root:?})")
    }
}

/// Seconds since 1970 as dates of X.509, which end with the year 9999.
pub(crate) fn set_validity(draft: &mut CertificateParams, not_before: u64, not_after: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    draft.not_before = epoch + Duration::from_secs(not_before.min(LAST_SECOND));
    draft.not_after = epoch + Duration::from_secs(not_after.min(LAST_SECOND));
}

/// 9999-12-31T23:59:59Z, the last date that a certificate can have (RFC 5280 §4.1.2.5).
const LAST_SECOND: u64 = 253_402_300_799;

/// Sixteen random bytes, of which the first bit is zero and the second is one: positive, and of one
/// length (RFC 5280 §4.1.2.2).
pub(crate) fn serial_number() -> SerialNumber {
    let mut bytes: [u8; 16] = random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Why an authority cannot be read, or does not sign.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The certificate is not a root.
    #[error("the authority's certificate is not a root: {0}")]
    Root(String),
    /// The root's key cannot be read.
    #[error("the authority's key cannot be read")]
    Key(#[from] key::Error),
    /// The key is another's.
    #[error("the authority's key is not the key of its certificate")]
    OtherKey,
    /// The id key cannot be read.
    #[error("the key of the node ids is written as 64 hexadecimal digits")]
    IdKey,
    /// The order is for another mesh.
    #[error("the order is for {asked}, and this authority signs for {ours}")]
    OtherMesh {
        /// The mesh of the order.
        asked: Box<Scope>,
        /// The mesh of the authority.
        ours: Box<Scope>,
    },
    /// The order is for less than a second.
    #[error("the order is for a lifetime of less than a second")]
    NoLifetime,
    /// The root has expired, so that nothing that it signs would be believed for long.
    #[error("the authority's root expired {past} s ago")]
    RootExpired {
        /// How many seconds ago.
        past: u64,
    },
    /// The request has more bytes than are read.
    #[error("the request has {0} bytes, and {MAX_CSR_LENGTH} are the most")]
    CsrTooLong(usize),
    /// The request is not PKCS#10.
    #[error("the request is not PKCS#10: {0}")]
    CsrMalformed(String),
    /// The request names a subject.
    #[error("the request asks for the name {0:?}, and the authority gives the names")]
    CsrNamesSubject(String),
    /// The request has attributes: SANs, extensions, a challenge password.
    #[error("the request has {0} attribute(s), and nothing can be asked for")]
    CsrHasAttributes(usize),
    /// The request is for another kind of key.
    #[error("the request is for a key that is {0}, and only Ed25519 is accepted")]
    CsrKeyType(String),
    /// The request is not signed with the key that it is for.
    #[error("the request's signature does not prove possession of its key")]
    CsrSignature,
    /// The certificate that was made would be refused; a fault of ours or of the root.
    #[error("the certificate made for the order would be refused")]
    Unusable(#[from] Refusal),
}
