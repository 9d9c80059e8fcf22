//! TLS of what the operator and its nodes say to each other beside the mesh: enrolment, counts, and
//! the API server's calls of the webhook.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};
use x509_parser::extensions::GeneralName;

use super::{Pair, spiffe_id};
use crate::bundle::Bundle;
use crate::name::TrustDomain;
use crate::subject::Scope;
use crate::tls::{Credentials, Error, Verdict, client_config};

/// What all of these speak.
const ALPN: &[u8] = b"http/1.1";

impl Pair {
    /// The listening side of webhook and enrolment: no client certificate is asked for.
    ///
    /// # Errors
    /// [`Error`] if the certificate and its key do not fit.
    pub fn server_config(&self) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(Error::Config)?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .map_err(Error::Credentials)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

/// A node's side of the counts: its own certificate, and one client only, the operator.
///
/// # Errors
/// [`Error`] if the credentials or the operator's CA cannot be used.
pub fn counts_server_config(
    credentials: &Credentials,
    operator_ca_pem: &str,
    trust_domain: &TrustDomain,
) -> Result<ServerConfig, Error> {
    let roots = Arc::new(roots(operator_ca_pem)?);
    let inner = WebPkiClientVerifier::builder_with_provider(roots, PROVIDER.clone())
        .build()
        .map_err(|error| Error::Config(rustls::Error::General(error.to_string())))?;
    let only = Arc::new(OperatorOnly { inner, id: spiffe_id(trust_domain) });
    let Credentials { chain, key } = credentials.clone();
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Config)?
        .with_client_cert_verifier(only)
        .with_single_cert(chain, key)
        .map_err(Error::Credentials)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would bring its certificate along without anybody looking at it again.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// The operator's side of the counts: the node is judged as nodes judge each other, and the verdict
/// says which one answered.
///
/// # Errors
/// [`Error`] if the operator's certificate and its key do not fit.
pub fn counts_client_config(
    pair: &Pair,
    bundle: Arc<Bundle>,
    mesh: Scope,
    verdict: Verdict,
) -> Result<ClientConfig, Error> {
    let Pair { certificate, key, .. } = pair.clone();
    client_config(&Credentials { chain: vec![certificate], key }, bundle, mesh, ALPN, verdict)
}

/// A node's side of enrolment: only the operator's CA is trusted, and for the URL's name.
///
/// # Errors
/// [`Error`] if the CA cannot be read.
pub fn enrolment_client_config(ca_pem: &str) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Config)?
        .with_root_certificates(roots(ca_pem)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate
            .map_err(|error| Error::Roots(format!("the CA file is not PEM: {error:?}")))?;
        roots.add(certificate).map_err(|error| Error::Roots(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(Error::Roots("the CA file holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// A chain to the operator's CA, and the operator's name.
struct OperatorOnly {
    inner: Arc<dyn ClientCertVerifier>,
    id: String,
}

impl ClientCertVerifier for OperatorOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let refused = |error| rustls::Error::InvalidCertificate(error);
        let (_, x509) = x509_parser::parse_x509_certificate(end_entity)
            .map_err(|_| refused(CertificateError::BadEncoding))?;
        let names = x509.subject_alternative_name().ok().flatten();
        let names = names.map_or(&[][..], |san| san.value.general_names.as_slice());
        match names {
            [GeneralName::URI(uri)] if *uri == self.id => Ok(verified),
            _ => Err(refused(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl fmt::Debug for OperatorOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorOnly({})", self.id)
    }
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
