//! The handshake of both sides: TLS 1.3 with both certificates, judged by [`verify`](fn@verify).
//!
//! One configuration is built for each connection, because the [`Verdict`] in it is that
//! connection's: rustls and quinn keep only a text of why a handshake failed.
//!
//! What is left out is left out on purpose: no session tickets, no resumption and no early data
//! (rustls takes the client's chain from a resumed session without verifying it again), no other
//! version of TLS, no other signature than Ed25519, no server names (a dial pins the node id that
//! it expects, after the handshake).

use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerIncompatible, ServerConfig, SignatureAlgorithm, SignatureScheme,
};

use crate::bundle::Bundle;
use crate::certificate::{Chain, Identity};
use crate::key::NodeKey;
use crate::subject::Scope;
use crate::verify::{Refusal, verify};

/// What a node presents, and the key that proves it.
#[derive(Debug)]
pub struct Credentials {
    /// The leaf; an honest node presents nothing else.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// A node's own.
    #[must_use]
    pub fn new(chain: &Chain, key: &NodeKey) -> Self {
        Self { chain: vec![chain.leaf_der().clone()], key: key.private_key_der() }
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// What this side found about the other in one handshake. Clones share it; give each connection
/// one of its own.
///
/// It is an [`Identity`] only once the other side has proven that it holds the certificate's key.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<OnceLock<Result<Identity, Refusal>>>);

impl Verdict {
    /// Nothing found yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was found so far: nothing if the handshake has not come to it, or failed before.
    #[must_use]
    pub fn get(&self) -> Option<Result<Identity, Refusal>> {
        self.0.get().cloned()
    }

    /// What was found, after a handshake **that has succeeded**.
    ///
    /// # Errors
    /// The refusal; and [`Refusal::SessionResumed`] if nobody was judged at all. Our own
    /// configurations resume nothing, but rustls would take the chain of a resumed session without
    /// asking the verifier, so this is asked as well.
    pub fn outcome(&self) -> Result<Identity, Refusal> {
        self.get().unwrap_or(Err(Refusal::SessionResumed))
    }

    /// The first word counts.
    fn set(&self, outcome: Result<Identity, Refusal>) {
        let _already_judged = self.0.set(outcome);
    }
}

/// The configuration of the listening side, for one connection.
///
/// # Errors
/// [`Error`] if the credentials cannot be used.
pub fn server_config(
    credentials: &Credentials,
    bundle: Arc<Bundle>,
    mesh: Scope,
    alpn: &[u8],
    verdict: Verdict,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Config)?
        .with_client_cert_verifier(Arc::new(Judge::new(bundle, mesh, verdict)))
        .with_cert_resolver(Arc::new(presented(credentials)?));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// The configuration of the dialling side, for one connection. Which server name is dialled does
/// not matter, and it is not sent.
///
/// # Errors
/// [`Error`] if the credentials cannot be used.
pub fn client_config(
    credentials: &Credentials,
    bundle: Arc<Bundle>,
    mesh: Scope,
    alpn: &[u8],
    verdict: Verdict,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Judge::new(bundle, mesh, verdict)))
        .with_client_cert_resolver(Arc::new(presented(credentials)?));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

/// The code for a TLS alert with which the other side ended the handshake: all that it can say
/// about our certificate at that point (RFC 8446 §6.2). `certificate_expired` stands for a
/// certificate of the future too: TLS has one alert for both.
#[must_use]
pub const fn code_of_alert(alert: u8) -> &'static str {
    match alert {
        45 => "certificate_expired",
        48 => "untrusted_certificate",
        _ => "bad_certificate",
    }
}

/// Why a configuration cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The chain is empty or unreadable, or the key is not the certificate's.
    #[error("the credentials cannot be presented")]
    Credentials(#[source] rustls::Error),
    /// The CA that is to be trusted cannot be.
    #[error("the CA cannot be used: {0}")]
    Roots(String),
    /// rustls refuses the configuration; a fault of ours.
    #[error("the TLS configuration is refused")]
    Config(#[source] rustls::Error),
}

/// Both verifiers in one.
#[derive(Debug)]
struct Judge {
    bundle: Arc<Bundle>,
    mesh: Scope,
    verdict: Verdict,
    /// Believed, but not yet proven to hold the key.
    claimed: OnceLock<Identity>,
}

impl Judge {
    const fn new(bundle: Arc<Bundle>, mesh: Scope, verdict: Verdict) -> Self {
        Self { bundle, mesh, verdict, claimed: OnceLock::new() }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let identity = verify(leaf, intermediates, &self.bundle, &self.mesh, now)
            .map_err(|refusal| self.refuse(refusal))?;
        self.claimed
            .set(identity)
            .map_err(|_| self.refuse(Refusal::bad_certificate("a second one was presented")))
    }

    fn prove(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid =
            verify_tls13_signature(message, leaf, signed, &ED25519_ONLY).inspect_err(|_| {
                let why = "the other side does not hold its key";
                self.verdict.set(Err(Refusal::bad_certificate(why)));
            })?;
        let identity = self.claimed.get().cloned();
        self.verdict.set(identity.ok_or(Refusal::SessionResumed));
        Ok(valid)
    }

    fn refuse(&self, refusal: Refusal) -> rustls::Error {
        let error = certificate_error(&refusal);
        self.verdict.set(Err(refusal));
        rustls::Error::InvalidCertificate(error)
    }
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Whoever dials knows which mesh it means.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.prove(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ED25519_ONLY.supported_schemes()
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.prove(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ED25519_ONLY.supported_schemes()
    }
}

/// The error from which rustls chooses the alert that the other side gets to see.
fn certificate_error(refusal: &Refusal) -> CertificateError {
    match refusal {
        Refusal::UntrustedCertificate { .. } => CertificateError::UnknownIssuer,
        Refusal::CertificateExpired { .. } => CertificateError::Expired,
        Refusal::CertificateNotYetValid { .. } => CertificateError::NotValidYet,
        Refusal::BadCertificate { .. } => CertificateError::BadEncoding,
        Refusal::NoSan { .. }
        | Refusal::SeveralSans { .. }
        | Refusal::MissingEku { .. }
        | Refusal::BadExtension { .. }
        | Refusal::SignedByLeaf { .. }
        | Refusal::UnknownKeyType { .. }
        | Refusal::MeshMismatch { .. }
        | Refusal::SessionResumed
        | Refusal::TrustWithdrawn { .. } => {
            CertificateError::Other(OtherError(Arc::new(refusal.clone())))
        }
    }
}

fn presented(credentials: &Credentials) -> Result<SingleCertAndKey, Error> {
    let Credentials { chain, key } = credentials.clone();
    let mut certified =
        CertifiedKey::from_der(chain, key, &PROVIDER).map_err(Error::Credentials)?;
    certified.key = Arc::new(Insistent(certified.key));
    Ok(certified.into())
}

/// A key that is presented whatever the other side says it can verify. With a key of the wrong kind
/// the other side then refuses the certificate by name, where rustls would end the handshake on this
/// side with a word about signature schemes.
struct Insistent(Arc<dyn SigningKey>);

impl SigningKey for Insistent {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        const SCHEMES: [SignatureScheme; 4] = [
            SignatureScheme::ED25519,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
        ];
        self.0.choose_scheme(&SCHEMES)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl fmt::Debug for Insistent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Insistent({:?})", self.0.algorithm())
    }
}

/// ring, explicitly: what another part of the process chose as its default does not matter here.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        signature_verification_algorithms: ED25519_ONLY,
        ..rustls::crypto::ring::default_provider()
    })
});

const ED25519_ONLY: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ED25519],
    mapping: &[(SignatureScheme::ED25519, &[webpki::ring::ED25519])],
};
