//! The operator's own authority: what signs its serving certificates, and the certificate by which
//! nodes know it when it asks for their counts. Kept apart from every mesh's authority, and neither
//! is trusted for the other's job. ECDSA P-256, which API servers and their clients all take.

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::pem::SectionKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use crate::authority::{BACKDATE, ROOT_LIFETIME, serial_number, set_validity};
use crate::encoding::pem_sections;
use crate::name::TrustDomain;

mod tls;

pub use tls::{counts_client_config, counts_server_config, enrolment_client_config};

/// The SPIFFE ID of the operator in a trust domain.
#[must_use]
pub fn spiffe_id(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}/operator")
}

/// The operator's authority. `Debug` shows no secret.
pub struct OperatorAuthority {
    certificate_pem: String,
    not_after: u64,
    key: KeyPair,
}

/// A certificate of the operator's authority with its key.
#[derive(Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The first second of its validity, in seconds since 1970.
    pub not_before: u64,
    /// The end of its validity, in seconds since 1970.
    pub not_after: u64,
}

impl Clone for Pair {
    fn clone(&self) -> Self {
        let Self { certificate, key, not_before, not_after } = self;
        Self {
            certificate: certificate.clone(),
            key: key.clone_key(),
            not_before: *not_before,
            not_after: *not_after,
        }
    }
}

impl OperatorAuthority {
    /// A new authority, for ten years.
    #[must_use]
    pub fn new(now: UnixTime) -> Self {
        let key = new_key();
        let not_after = now.as_secs().saturating_add(ROOT_LIFETIME.as_secs());
        let mut draft = CertificateParams::default();
        set_validity(&mut draft, now.as_secs().saturating_sub(BACKDATE.as_secs()), not_after);
        draft.serial_number = Some(serial_number());
        draft.distinguished_name = DistinguishedName::new();
        draft.distinguished_name.push(DnType::CommonName, "Macula operator");
        draft.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        draft.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = draft.self_signed(&key).expect("P-256 signs any draft");
        Self { certificate_pem: certificate.pem(), not_after, key }
    }

    /// The authority whose parts were kept.
    ///
    /// # Errors
    /// [`Error`] if a part cannot be read, or the key is not the certificate's.
    pub fn from_parts(ca_cert_pem: &str, ca_key_pem: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(ca_key_pem).map_err(|error| Error::Key(error.to_string()))?;
        let sections = pem_sections(ca_cert_pem).map_err(Error::Certificate)?;
        let [(SectionKind::Certificate, der)] = sections.as_slice() else {
            return Err(Error::Certificate("exactly one CERTIFICATE section is expected".into()));
        };
        let (_, x509) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| Error::Certificate(error.to_string()))?;
        if !x509.is_ca() {
            return Err(Error::Certificate("it is not a CA".into()));
        }
        if x509.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(Error::OtherKey);
        }
        let not_after = u64::try_from(x509.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self { certificate_pem: ca_cert_pem.to_owned(), not_after, key })
    }

    /// The root certificate in PEM.
    #[must_use]
    pub fn ca_cert_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The root's key in PEM. This is a secret.
    #[must_use]
    pub fn ca_key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The end of the root's validity, in seconds since 1970.
    #[must_use]
    pub const fn not_after(&self) -> u64 {
        self.not_after
    }

    /// A certificate for a server of these DNS names.
    ///
    /// # Errors
    /// [`Error`] if a name is not one, or the root has expired.
    pub fn serving(
        &self,
        dns_names: &[String],
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Pair, Error> {
        let name = |name: &String| Ok(SanType::DnsName(name.as_str().try_into()?));
        let names = dns_names.iter().map(name).collect::<Result<_, rcgen::Error>>();
        let names = names.map_err(|error| Error::Name(error.to_string()))?;
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth, lifetime, now)
    }

    /// The certificate by which the nodes of a trust domain know the operator.
    ///
    /// # Errors
    /// [`Error`] if the root has expired.
    pub fn client(
        &self,
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Pair, Error> {
        let id = spiffe_id(trust_domain).try_into().expect("a SPIFFE ID of ours is ASCII");
        self.sign(vec![SanType::URI(id)], ExtendedKeyUsagePurpose::ClientAuth, lifetime, now)
    }

    fn sign(
        &self,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Pair, Error> {
        if self.not_after <= now.as_secs() {
            return Err(Error::Expired);
        }
        let not_before = now.as_secs().saturating_sub(BACKDATE.as_secs());
        let not_after = now.as_secs().saturating_add(lifetime.as_secs()).min(self.not_after);
        let mut draft = CertificateParams::default();
        set_validity(&mut draft, not_before, not_after);
        draft.serial_number = Some(serial_number());
        draft.distinguished_name = DistinguishedName::new();
        draft.subject_alt_names = names;
        draft.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        draft.extended_key_usages = vec![usage];
        draft.use_authority_key_identifier_extension = true;
        let key = new_key();
        let issuer = Issuer::from_ca_cert_pem(&self.certificate_pem, &self.key)
            .map_err(|error| Error::Certificate(error.to_string()))?;
        let certificate = draft.signed_by(&key, &issuer).expect("P-256 signs any draft");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Pair { certificate: certificate.into(), key, not_before, not_after })
    }
}

impl fmt::Debug for OperatorAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorAuthority(until {})", self.not_after)
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the operating system gives randomness")
}

/// Why the operator's authority cannot be read, or does not sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The certificate is not a root.
    #[error("the operator's CA certificate cannot be used: {0}")]
    Certificate(String),
    /// The key cannot be read.
    #[error("the operator's CA key cannot be read: {0}")]
    Key(String),
    /// The key is another's.
    #[error("the operator's CA key is not the key of its certificate")]
    OtherKey,
    /// A name that a certificate cannot have.
    #[error("a certificate cannot have this name: {0}")]
    Name(String),
    /// The root has expired.
    #[error("the operator's CA has expired")]
    Expired,
}
