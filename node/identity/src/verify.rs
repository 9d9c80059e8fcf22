//! Decides whether a certificate is believed, and says why not.
//!
//! The profile of a leaf, and the refusal of what breaks it:
//!
//! | must be | else |
//! | --- | --- |
//! | at most 4 KiB of X.509v3, nothing behind it | `bad_certificate` |
//! | an Ed25519 key | `unknown_key_type` |
//! | not a CA; no critical extension that is unknown; none twice | `bad_certificate` |
//! | signed by a root of the bundle | `untrusted_certificate` |
//! | … whose signature fits, if name and key id say that this root signed | `bad_certificate` |
//! | … directly, by no certificate that was sent along | `signed_by_leaf`, `untrusted_certificate` |
//! | begun, with [`SKEW`] of tolerance | `certificate_not_yet_valid` |
//! | not ended, with no tolerance | `certificate_expired` |
//! | good for serverAuth and clientAuth | `missing_eku` |
//! | one URI SAN that is a [`Subject`] | `no_san`, `several_sans` |
//! | of this mesh | `mesh_mismatch` |
//! | one private extension with node id and grants ([`crate::grant`]) | `bad_extension` |
//!
//! Nothing is computed for a stranger before its key is of the right kind and its issuer has the
//! name of one of our roots. Nothing but the signer is believed before the signature is.
//!
//! There is no path to build: one root, one leaf, one algorithm. So the signature is checked right
//! here, over the bytes that arrived, where a general path builder (webpki) would have to be kept
//! from accepting more than this, and refuses URI names besides.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;

use crate::bundle::{Bundle, Root};
use crate::certificate::Identity;
use crate::profile;
use crate::subject::Scope;
#[cfg(doc)]
use crate::subject::Subject;

mod refusal;

pub use refusal::Refusal;

/// How much earlier than its first second a certificate is accepted, because clocks differ. The
/// authority dates its certificates back by five minutes besides.
pub const SKEW: Duration = Duration::from_secs(60);

/// Judges a leaf against the roots of the bundle and the mesh that it must be of. What was sent
/// along, `intermediates`, can only make it worse.
///
/// # Errors
/// [`Refusal`], the first reason not to believe it.
pub fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    mesh: &Scope,
    now: UnixTime,
) -> Result<Identity, Refusal> {
    let x509 = profile::parse(leaf)?;
    let public_key = profile::public_key(&x509)?;
    profile::check_shape(&x509)?;
    let issuer = *find_signer(&x509, intermediates, bundle)?.id();
    let (not_before, not_after) = check_validity(&x509, now)?;
    profile::check_usages(&x509)?;
    let subject = profile::subject(&x509)?;
    if !subject.is_in(mesh) {
        let (found, expected) = (subject.scope(), mesh.clone());
        return Err(Refusal::MeshMismatch { found, expected });
    }
    let (id, grants) = profile::extension(&x509)?;
    Ok(Identity { id, subject, grants, not_before, not_after, public_key, issuer })
}

fn find_signer<'a>(
    x509: &X509Certificate<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &'a Bundle,
) -> Result<&'a Root, Refusal> {
    let issuer = x509.issuer().as_raw();
    let key_id = profile::authority_key_id(x509);
    let mut named = None;
    for root in bundle.roots().iter().filter(|root| root.subject == issuer) {
        let same_key_id = match (key_id, &root.key_id) {
            (Some(said), Some(known)) if said != known => continue,
            (Some(_), Some(_)) => true,
            (None, _) | (_, None) => false,
        };
        if profile::is_signed_by(x509, &root.public_key) {
            if !intermediates.is_empty() {
                let why = "certificates beside the leaf were sent along";
                return Err(Refusal::bad_certificate(why));
            }
            return Ok(root);
        }
        named = named.or_else(|| same_key_id.then_some(root));
    }
    if let Some(root) = named {
        let why = format!("it names root {}, whose signature it does not bear", root.id());
        return Err(Refusal::bad_certificate(why));
    }
    // TLS 1.3 asks for the signer to come right behind the leaf (RFC 8446 §4.4.2).
    let signer = intermediates.first().and_then(|offered| profile::signer(offered, x509));
    if let Some(signer) = signer.filter(|signer| !profile::is_ca(signer)) {
        let signer = match profile::subject(&signer) {
            Ok(subject) => subject.to_string(),
            Err(_) => profile::name(signer.subject()),
        };
        return Err(Refusal::SignedByLeaf { signer });
    }
    Err(Refusal::UntrustedCertificate {
        issuer: profile::name(x509.issuer()),
        same_name: bundle.roots().iter().any(|root| root.subject == issuer),
        roots: bundle.roots().len(),
    })
}

fn check_validity(x509: &X509Certificate<'_>, now: UnixTime) -> Result<(u64, u64), Refusal> {
    let (not_before, not_after) = profile::validity(x509)?;
    let now = now.as_secs();
    if let Some(past) = now.checked_sub(not_after) {
        return Err(Refusal::CertificateExpired { not_after, past });
    }
    let ahead = not_before.saturating_sub(now);
    if ahead > SKEW.as_secs() {
        return Err(Refusal::CertificateNotYetValid { not_before, ahead });
    }
    Ok((not_before, not_after))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, IsCa, KeyUsagePurpose, SanType};

    use super::*;
    use crate::authority::Authority;
    use crate::grant::{EXTENSION_OID, Grants};
    use crate::key::NodeKey;
    use crate::subject::Place;

    /// What becomes of a certificate that the authority itself signed, spoilt like this.
    fn signed_with(spoil: impl FnOnce(&mut CertificateParams)) -> Result<Identity, Refusal> {
        const NOW: u64 = 1_000_000_000;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let scope = Scope {
            trust_domain: "cluster.local".parse().unwrap(),
            mesh: "macula-system.main".parse().unwrap(),
        };
        let authority = Authority::new(scope.clone(), now);
        let subject = scope.subject(Place::Gateway, "gateway-0".parse().unwrap());
        let mut draft = authority.draft(&subject, Grants::default(), NOW, NOW + 1);
        spoil(&mut draft);
        let leaf = authority.sign(&draft, &NodeKey::generate());
        verify(&leaf, &[], &authority.bundle(), &scope, now)
    }

    fn refusal_with(spoil: impl FnOnce(&mut CertificateParams)) -> (&'static str, String) {
        let refusal = signed_with(spoil).unwrap_err();
        (refusal.code(), refusal.to_string())
    }

    #[test]
    fn the_san_is_one_uri_of_ours() {
        assert!(signed_with(|_| ()).is_ok());
        let named = |san: SanType| refusal_with(|draft| draft.subject_alt_names = vec![san]);
        let uri = |text: &str| named(SanType::URI(text.try_into().unwrap()));

        assert_eq!(named(SanType::DnsName("a.b".try_into().unwrap())).0, "no_san");
        assert_eq!(named(SanType::IpAddress([127, 0, 0, 1].into())).0, "no_san");
        assert_eq!(uri("https://example.com/").0, "no_san");
        let slash = "spiffe://cluster.local/mesh/macula-system.main/gateway/gateway-0/";
        assert_eq!(uri(slash).0, "no_san");
        let good = slash.trim_end_matches('/');
        assert_eq!(uri(&good.replace(".main", ".other")).0, "mesh_mismatch");
        assert_eq!(uri(&good.replace("local", "other")).0, "mesh_mismatch");
        let (code, said) = uri(&"x".repeat(2500));
        assert_eq!(code, "no_san");
        assert!(said.len() < 200, "{said}");

        let dns = SanType::DnsName("a.b".try_into().unwrap());
        assert_eq!(refusal_with(|draft| draft.subject_alt_names.push(dns)).0, "several_sans");
    }

    #[test]
    fn the_private_extension_is_there_once_and_well_formed() {
        let (code, _) = refusal_with(|draft| {
            draft.custom_extensions =
                vec![CustomExtension::from_oid_content(EXTENSION_OID, vec![0x30, 0])];
        });
        assert_eq!(code, "bad_extension");
        let (code, said) = refusal_with(|draft| {
            draft.custom_extensions.push(draft.custom_extensions[0].clone());
        });
        assert_eq!(code, "bad_extension");
        assert!(said.ends_with("it is there twice"));
    }

    #[test]
    fn a_foreign_extension_is_tolerated_unless_it_is_critical() {
        let foreign = |critical| {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(critical);
            move |draft: &mut CertificateParams| draft.custom_extensions.push(extension)
        };
        assert!(signed_with(foreign(false)).is_ok());
        let (code, said) = refusal_with(foreign(true));
        assert_eq!(code, "bad_certificate");
        assert!(said.ends_with("its critical extension 1.2.3.4 is unknown"));
    }

    #[test]
    fn a_node_may_sign_handshakes_and_no_certificates() {
        assert!(signed_with(|draft| draft.key_usages.clear()).is_ok());
        assert!(signed_with(|draft| draft.is_ca = IsCa::ExplicitNoCa).is_ok());
        let bad = |spoil: fn(&mut CertificateParams)| refusal_with(spoil).0 == "bad_certificate";
        assert!(bad(|draft| draft.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)));
        assert!(bad(|draft| draft.key_usages.push(KeyUsagePurpose::KeyCertSign)));
        assert!(bad(|draft| draft.key_usages = vec![KeyUsagePurpose::KeyAgreement]));
    }

    #[test]
    fn both_usages_are_needed_and_any_is_not_both() {
        use rcgen::ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
        let missing = |usages: Vec<_>| match signed_with(|draft| draft.extended_key_usages = usages)
        {
            Err(Refusal::MissingEku { missing }) => missing,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(vec![ServerAuth]), "clientAuth");
        assert_eq!(missing(vec![ClientAuth]), "serverAuth");
        assert_eq!(missing(vec![Any]), "serverAuth and clientAuth");
        assert_eq!(missing(vec![]), "serverAuth and clientAuth");
    }

    #[test]
    fn a_certificate_that_names_no_key_of_its_issuer_is_tried_with_all_of_that_name() {
        let without_id = |draft: &mut CertificateParams| {
            draft.use_authority_key_identifier_extension = false;
        };
        assert!(signed_with(without_id).is_ok());
    }
}
