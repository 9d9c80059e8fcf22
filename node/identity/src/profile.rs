//! The parts of an X.509 certificate (RFC 5280) that our profile uses. What they must say is
//! written at the top of `verify`.

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::oid::Oid;
use x509_parser::extensions::{GeneralName, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Name, X509Version};

use crate::encoding::excerpt;
use crate::grant::{self, Grants};
use crate::id::NodeId;
use crate::key::verify_signature;
use crate::subject::Subject;
use crate::verify::Refusal;

/// The longest certificate that is looked at, in bytes. Ours have about 500, and with names of the
/// greatest length less than 1,500.
pub(crate) const MAX_LENGTH: usize = 4096;

/// Reads the certificate's structure: X.509v3, nothing behind it.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Refusal> {
    if der.len() > MAX_LENGTH {
        let why = format!("it has {} bytes, and {MAX_LENGTH} are the most", der.len());
        return Err(Refusal::bad_certificate(why));
    }
    let (rest, x509) = X509Certificate::from_der(der)
        .map_err(|error| Refusal::bad_certificate(excerpt(&error.to_string())))?;
    if !rest.is_empty() {
        return Err(Refusal::bad_certificate(format!("{} bytes follow its end", rest.len())));
    }
    if x509.version() != X509Version::V3 {
        return Err(Refusal::bad_certificate("it is not X.509 version 3"));
    }
    Ok(x509)
}

/// The Ed25519 key of the certificate.
pub(crate) fn public_key(x509: &X509Certificate<'_>) -> Result<[u8; 32], Refusal> {
    ed25519_key(x509.public_key()).map_err(|found| Refusal::UnknownKeyType { found })
}

/// The key, or the name of what it is instead.
pub(crate) fn ed25519_key(info: &SubjectPublicKeyInfo<'_>) -> Result<[u8; 32], String> {
    if !is_ed25519(&info.algorithm) {
        return Err(algorithm_name(&info.algorithm.algorithm));
    }
    let key = &info.subject_public_key;
    match key.data.as_ref().try_into() {
        Ok(bytes) if key.unused_bits == 0 => Ok(bytes),
        _ => Err(format!("Ed25519 of {} bytes", key.data.len())),
    }
}

/// Ed25519 and no parameters (RFC 8410 §3).
pub(crate) fn is_ed25519(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    algorithm.algorithm == oid::OID_SIG_ED25519 && algorithm.parameters.is_none()
}

fn algorithm_name(algorithm: &Oid<'_>) -> String {
    if *algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
        "an elliptic curve key (ECDSA)".to_owned()
    } else if *algorithm == oid::OID_PKCS1_RSAENCRYPTION {
        "RSA".to_owned()
    } else {
        excerpt(&algorithm.to_id_string())
    }
}

/// What every leaf of ours is, whoever signed it: not a CA, a key that signs, no extension twice
/// and none that is critical and unknown to us.
pub(crate) fn check_shape(x509: &X509Certificate<'_>) -> Result<(), Refusal> {
    if is_ca(x509) {
        return Err(Refusal::bad_certificate("it is a CA, and a node is none"));
    }
    let usage = key_usage(x509);
    if usage.is_some_and(KeyUsage::key_cert_sign) {
        return Err(Refusal::bad_certificate("its key may sign certificates"));
    }
    if usage.is_some_and(|usage| !usage.digital_signature()) {
        return Err(Refusal::bad_certificate("its key may not sign handshakes"));
    }
    let extensions = x509.extensions();
    for (index, extension) in extensions.iter().enumerate() {
        let known = KNOWN.contains(&extension.oid);
        let name = || excerpt(&extension.oid.to_id_string());
        if extension.critical && !known {
            let why = format!("its critical extension {} is unknown", name());
            return Err(Refusal::bad_certificate(why));
        }
        let private = is_ours(extension);
        if !private && extensions[..index].iter().any(|earlier| earlier.oid == extension.oid) {
            return Err(Refusal::bad_certificate(format!(
                "its extension {} is there twice",
                name()
            )));
        }
        // Those with a refusal of their own say more where they are read.
        let reported = private || NAMED.contains(&extension.oid);
        if known && !reported && extension.parsed_extension().error().is_some() {
            return Err(Refusal::bad_certificate(format!("its extension {} is malformed", name())));
        }
    }
    Ok(())
}

/// The extensions of the profile; another one must not be critical.
const KNOWN: [Oid<'static>; 6] = [
    oid::OID_X509_EXT_BASIC_CONSTRAINTS,
    oid::OID_X509_EXT_KEY_USAGE,
    oid::OID_X509_EXT_EXTENDED_KEY_USAGE,
    oid::OID_X509_EXT_SUBJECT_ALT_NAME,
    oid::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    oid::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
];

/// Those that are missed by name, and so are not called malformed.
const NAMED: [Oid<'static>; 2] =
    [oid::OID_X509_EXT_EXTENDED_KEY_USAGE, oid::OID_X509_EXT_SUBJECT_ALT_NAME];

pub(crate) fn is_ca(x509: &X509Certificate<'_>) -> bool {
    find(x509, |extension| match extension {
        ParsedExtension::BasicConstraints(constraints) => Some(constraints.ca),
        _ => None,
    })
    .unwrap_or(false)
}

/// Whether this is a CA whose key may sign certificates (RFC 5280 §4.2.1.3 and §4.2.1.9).
pub(crate) fn may_sign(x509: &X509Certificate<'_>) -> bool {
    is_ca(x509) && key_usage(x509).is_none_or(KeyUsage::key_cert_sign)
}

fn key_usage<'a>(x509: &'a X509Certificate<'_>) -> Option<&'a KeyUsage> {
    find(x509, |extension| match extension {
        ParsedExtension::KeyUsage(usage) => Some(usage),
        _ => None,
    })
}

/// Which key the certificate says signed it.
pub(crate) fn authority_key_id<'a>(x509: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    find(x509, |extension| match extension {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

/// The name that a root gives its key.
pub(crate) fn subject_key_id<'a>(x509: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    find(x509, |extension| match extension {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

/// Whether the holder of this Ed25519 key signed the certificate. The signature is over the bytes
/// that arrived, not over what was understood of them.
pub(crate) fn is_signed_by(x509: &X509Certificate<'_>, public_key: &[u8; 32]) -> bool {
    let tbs = &x509.tbs_certificate;
    is_ed25519(&tbs.signature)
        && is_ed25519(&x509.signature_algorithm)
        && x509.signature_value.unused_bits == 0
        && verify_signature(public_key, tbs.as_ref(), &x509.signature_value.data)
}

/// First second and end, since 1970.
pub(crate) fn validity(x509: &X509Certificate<'_>) -> Result<(u64, u64), Refusal> {
    let seconds = |time: x509_parser::time::ASN1Time| {
        u64::try_from(time.timestamp())
            .map_err(|_| Refusal::bad_certificate("it has a date before 1970"))
    };
    Ok((seconds(x509.validity().not_before)?, seconds(x509.validity().not_after)?))
}

/// A node both listens and dials.
pub(crate) fn check_usages(x509: &X509Certificate<'_>) -> Result<(), Refusal> {
    let usages = find(x509, |extension| match extension {
        ParsedExtension::ExtendedKeyUsage(usages) => Some(usages),
        _ => None,
    });
    match usages.map_or((false, false), |usages| (usages.server_auth, usages.client_auth)) {
        (true, true) => Ok(()),
        (true, false) => Err(Refusal::MissingEku { missing: "clientAuth" }),
        (false, true) => Err(Refusal::MissingEku { missing: "serverAuth" }),
        (false, false) => Err(Refusal::MissingEku { missing: "serverAuth and clientAuth" }),
    }
}

/// The only SAN, which is a URI and names a subject of ours.
pub(crate) fn subject(x509: &X509Certificate<'_>) -> Result<Subject, Refusal> {
    let no_san = |why: String| Err(Refusal::NoSan { why });
    let Some(san) = x509.extensions().iter().find(|e| e.oid == oid::OID_X509_EXT_SUBJECT_ALT_NAME)
    else {
        return no_san("it has no subject alternative name".to_owned());
    };
    let ParsedExtension::SubjectAlternativeName(san) = san.parsed_extension() else {
        return no_san("its subject alternative name is malformed".to_owned());
    };
    match san.general_names.as_slice() {
        [] => no_san("its subject alternative name is empty".to_owned()),
        [GeneralName::URI(uri)] => {
            uri.parse().or_else(|error: crate::subject::Error| no_san(error.to_string()))
        }
        [_] => no_san("its subject alternative name is not a URI".to_owned()),
        several => Err(Refusal::SeveralSans { count: several.len() }),
    }
}

/// Node id and grants from the private extension.
pub(crate) fn extension(x509: &X509Certificate<'_>) -> Result<(NodeId, Grants), Refusal> {
    let mut ours = x509.extensions().iter().filter(|extension| is_ours(extension));
    match (ours.next(), ours.next()) {
        (None, _) => Err("it is not there"),
        (Some(_), Some(_)) => Err("it is there twice"),
        (Some(extension), None) => grant::decode(extension.value),
    }
    .map_err(|why| Refusal::BadExtension { why })
}

fn is_ours(extension: &X509Extension<'_>) -> bool {
    extension.oid.iter().is_some_and(|parts| parts.eq(grant::EXTENSION_OID.iter().copied()))
}

/// A distinguished name for people.
pub(crate) fn name(name: &X509Name<'_>) -> String {
    excerpt(&name.to_string())
}

/// Reads what somebody offered as the signer of a leaf, if it is one that could be ours.
pub(crate) fn signer<'a>(
    offered: &'a CertificateDer<'_>,
    of: &X509Certificate<'_>,
) -> Option<X509Certificate<'a>> {
    let signer = parse(offered).ok()?;
    let key = public_key(&signer).ok()?;
    (signer.subject().as_raw() == of.issuer().as_raw() && is_signed_by(of, &key)).then_some(signer)
}

fn find<'a, T>(
    x509: &'a X509Certificate<'_>,
    pick: impl Fn(&'a ParsedExtension<'_>) -> Option<T>,
) -> Option<T> {
    x509.extensions().iter().find_map(|extension| pick(extension.parsed_extension()))
}
