//! Takes the key out of a certificate request, and nothing else.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::Error;
use crate::encoding::excerpt;
use crate::key::verify_signature;
use crate::profile;

/// The longest request that is read, in bytes. An honest one has about 150.
pub const MAX_LENGTH: usize = 8 * 1024;

/// The key of a request (PKCS#10, RFC 2986) that is signed with it and asks for nothing.
pub(super) fn verified_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, Error> {
    if der.len() > MAX_LENGTH {
        return Err(Error::CsrTooLong(der.len()));
    }
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|error| Error::CsrMalformed(excerpt(&error.to_string())))?;
    if !rest.is_empty() {
        return Err(Error::CsrMalformed(format!("{} bytes follow its end", rest.len())));
    }
    let info = &request.certification_request_info;
    let key = profile::ed25519_key(&info.subject_pki).map_err(Error::CsrKeyType)?;
    if info.subject.iter().next().is_some() {
        return Err(Error::CsrNamesSubject(profile::name(&info.subject)));
    }
    if !info.attributes().is_empty() {
        return Err(Error::CsrHasAttributes(info.attributes().len()));
    }
    let signature = &request.signature_value;
    let proven = profile::is_ed25519(&request.signature_algorithm)
        && signature.unused_bits == 0
        && verify_signature(&key, info.raw, &signature.data);
    if !proven {
        return Err(Error::CsrSignature);
    }
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|error| Error::CsrMalformed(excerpt(&error.to_string())))
}
