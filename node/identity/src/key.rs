//! A node's own key: made by the node, never leaving it.

use std::fmt;

use rcgen::{
    CertificateParams, DistinguishedName, PKCS_ED25519, PublicKeyData, SignatureAlgorithm,
};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::pem::SectionKind;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::encoding::{Hex, pem_sections, to_pem};

/// An Ed25519 key pair (RFC 8032): the one kind of key in a mesh.
///
/// Kept as PKCS#8 (RFC 8410), PEM on disk. `Debug` shows the public half only.
pub struct NodeKey {
    pair: Ed25519KeyPair,
    pkcs8: PrivatePkcs8KeyDer<'static>,
}

impl NodeKey {
    /// A new key from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .expect("the operating system gives random bytes");
        Self::from_pkcs8(pkcs8.as_ref().to_vec()).expect("made just now")
    }

    /// Reads a text with exactly one `PRIVATE KEY` section: PKCS#8 of either version, so that the
    /// keys of `openssl genpkey -algorithm ed25519` are read too.
    ///
    /// # Errors
    /// [`Error`] if there is no such section, several, another kind of key, or a damaged one.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let mut sections = pem_sections(text).map_err(Error::Pem)?;
        match (sections.pop(), sections.is_empty()) {
            (Some((SectionKind::PrivateKey, der)), true) => Self::from_pkcs8(der),
            (Some((kind, _)), true) => Err(Error::Section(kind)),
            (Some(_), false) => Err(Error::Several(sections.len() + 1)),
            (None, _) => Err(Error::Missing),
        }
    }

    /// The key as PKCS#8 in PEM. This is the secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        to_pem("PRIVATE KEY", self.pkcs8.secret_pkcs8_der())
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    /// Signs; [`verify_signature`] is the other side.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    /// A request for a certificate (PKCS#10, RFC 2986) that proves possession of the key and asks
    /// for nothing: its subject is empty and it has no attributes.
    #[must_use]
    pub fn csr_der(&self) -> Vec<u8> {
        let mut nothing = CertificateParams::default();
        nothing.distinguished_name = DistinguishedName::new();
        let request = nothing.serialize_request(self).expect("an empty request can be written");
        request.der().to_vec()
    }

    /// The key in the form that rustls takes.
    #[must_use]
    pub fn private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.pkcs8.clone_key())
    }

    fn from_pkcs8(der: Vec<u8>) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
            .map_err(|error| Error::Key(error.to_string()))?;
        Ok(Self { pair, pkcs8: PrivatePkcs8KeyDer::from(der) })
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(public {})", Hex(&self.public_key()))
    }
}

impl PublicKeyData for NodeKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl rcgen::SigningKey for NodeKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Self::sign(self, message).to_vec())
    }
}

/// Whether the holder of this public key signed the message. Never panics; a wrong length of the
/// signature is a wrong signature.
#[must_use]
pub fn verify_signature(public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
}

/// Why a text is not a [`NodeKey`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The text is not PEM.
    #[error("the key is not PEM: {0}")]
    Pem(String),
    /// No section at all.
    #[error("there is no PRIVATE KEY section")]
    Missing,
    /// More than one section.
    #[error("one PRIVATE KEY section is expected, and there are {0} sections")]
    Several(usize),
    /// One section of another kind.
    #[error("a PRIVATE KEY section (PKCS#8) is expected, not {0:?}")]
    Section(SectionKind),
    /// Not Ed25519, or damaged.
    #[error("the key is not an Ed25519 key: {0}")]
    Key(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_from_its_pem() {
        let key = NodeKey::generate();
        let again = NodeKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(again.sign(b"m"), key.sign(b"m"));
        assert!(key.to_pem().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    }

    #[test]
    fn reads_the_key_of_openssl() {
        // RFC 8410 §10.3, the example without the public half.
        let pem = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
        let key = NodeKey::from_pem(pem).unwrap();
        // RFC 8410 §10.1: the public key of the same example.
        let public = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
        assert_eq!(Hex(&key.public_key()).to_string(), public);
    }

    #[test]
    fn a_signature_holds_for_its_key_and_message_alone() {
        let (key, other) = (NodeKey::generate(), NodeKey::generate());
        let signature = key.sign(b"message");
        assert!(verify_signature(&key.public_key(), b"message", &signature));
        assert!(!verify_signature(&key.public_key(), b"messagE", &signature));
        assert!(!verify_signature(&other.public_key(), b"message", &signature));
        assert!(!verify_signature(&key.public_key(), b"message", &signature[..63]));
        assert!(!verify_signature(&key.public_key(), b"message", &[]));
        assert!(!verify_signature(&[0xff; 32], b"message", &signature));
    }

    #[test]
    fn refuses_what_is_not_one_ed25519_key() {
        let refused = |text: &str| NodeKey::from_pem(text).unwrap_err();
        let pem = NodeKey::generate().to_pem();
        assert_eq!(refused(""), Error::Missing);
        assert_eq!(refused("garbage"), Error::Missing);
        assert_eq!(refused(&pem.repeat(2)), Error::Several(2));
        assert!(matches!(refused(&pem[..60]), Error::Pem(_)));
        assert!(matches!(refused(&pem.replace("PRIVATE", "EC PRIVATE")), Error::Section(_)));
        let p256 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        assert!(matches!(refused(&p256.serialize_pem()), Error::Key(_)));
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = NodeKey::generate();
        let shown = format!("{key:?} {:?}", key.private_key_der());
        assert!(shown.contains(&Hex(&key.public_key()).to_string()));
        // PKCS#8 holds the 32 bytes of the seed at offset 16 (RFC 8410 §7).
        let seed = &key.pkcs8.secret_pkcs8_der()[16..48];
        assert!(!shown.contains(&Hex(seed).to_string()), "{shown}");
        assert!(!shown.contains(&format!("{:?}", &seed[..4])[1..10]), "{shown}");
    }
}
