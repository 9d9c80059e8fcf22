//! What the authority signs, what it refuses to sign, and what stays the same when it is rotated.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::time::Duration;

use common::*;
use macula_identity::authority::{Error, MAX_CSR_LENGTH, ROOT_LIFETIME};
use macula_identity::{Authority, NodeKey, Order, Place};
use proptest::prelude::*;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType,
};

#[test]
fn a_node_keeps_its_id_over_renewal_and_rotation() {
    let old = authority();
    let new = old.rotated(now());
    assert_ne!(old.root().id(), new.root().id());
    let id = |authority: &Authority| {
        let chain = issue(authority, peer());
        chain.verify(&authority.bundle(), &scope(), now()).unwrap().id
    };
    assert_eq!(id(&old), id(&old));
    assert_eq!(id(&old), id(&new));
}

#[test]
fn ids_differ_by_subject_and_by_id_key() {
    let authority = authority();
    let realm = |realm: &str| Place::Realm(realm.parse().unwrap());
    let subjects = [
        peer(),
        bootstrap(),
        scope().subject(Place::Gateway, bootstrap().name),
        scope().subject(realm("com.example.shop"), "shop.cart-1".parse().unwrap()),
        scope().subject(realm("com.example.bank"), "shop.cart-0".parse().unwrap()),
    ];
    let ids: std::collections::BTreeSet<_> =
        subjects.iter().map(|subject| authority.node_id(subject)).collect();
    assert_eq!(ids.len(), subjects.len());
    let other = Authority::new(scope(), now());
    assert_ne!(authority.node_id(&peer()), other.node_id(&peer()));
}

#[test]
fn the_id_of_a_subject_is_pinned() {
    let (root, zeros) = (authority(), "00".repeat(32));
    let authority =
        Authority::from_parts(scope(), &root.ca_cert_pem(), &root.ca_key_pem(), &zeros).unwrap();
    let text =
        "spiffe://cluster.local/mesh/macula-system.main/realm/com.example.shop/peer/shop.cart-0";
    assert_eq!(peer().to_string(), text);
    // printf %s "$text" | openssl dgst -sha256 -mac HMAC -macopt hexkey:00…00, cut to 40 digits.
    assert_eq!(authority.node_id(&peer()).to_string(), "30765814221611f2b039877740b71c4d14b38ab6");
}

#[test]
fn is_the_same_authority_when_read_back() {
    let one = authority();
    let parts = (one.ca_cert_pem(), one.ca_key_pem(), one.node_id_key() + "\n");
    let two = Authority::from_parts(scope(), &parts.0, &parts.1, &parts.2).unwrap();
    assert_eq!(two.bundle(), one.bundle());
    assert_eq!(two.node_id(&peer()), one.node_id(&peer()));
    assert!(issue(&two, peer()).verify(&one.bundle(), &scope(), now()).is_ok());

    let refused = |cert: &str, key: &str, id: &str| {
        Authority::from_parts(scope(), cert, key, id).unwrap_err()
    };
    let leaf = issue(&one, peer()).to_pem();
    assert!(matches!(refused(&leaf, &parts.1, &parts.2), Error::Root(_)));
    assert!(matches!(refused("", &parts.1, &parts.2), Error::Root(_)));
    assert!(matches!(refused(&parts.0, "", &parts.2), Error::Key(_)));
    assert_eq!(refused(&parts.0, &NodeKey::generate().to_pem(), &parts.2), Error::OtherKey);
    assert_eq!(refused(&parts.0, &parts.1, "abc"), Error::IdKey);
}

#[test]
fn debug_shows_no_secret() {
    let authority = authority();
    let shown = format!("{authority:?}");
    assert!(shown.contains("macula-system.main"));
    assert!(!shown.contains(&authority.node_id_key()));
    assert!(shown.len() < 300, "{shown}");
}

#[test]
fn signs_for_its_own_mesh_for_a_while_and_not_beyond_its_root() {
    let authority = authority();
    let csr = NodeKey::generate().csr_der();
    let elsewhere = scope_of("else.where").subject(peer().place, peer().name);
    let refused = |order: &Order, now| authority.issue(&csr, order, now).unwrap_err();
    assert!(matches!(refused(&Order::new(elsewhere), now()), Error::OtherMesh { .. }));
    let none = Order { lifetime: Duration::from_millis(999), ..Order::new(peer()) };
    assert_eq!(refused(&none, now()), Error::NoLifetime);

    let end = NOW + ROOT_LIFETIME.as_secs();
    let forever = Order { lifetime: Duration::MAX, ..Order::new(peer()) };
    let chain = authority.issue(&csr, &forever, now()).unwrap();
    assert_eq!(chain.verify(&authority.bundle(), &scope(), now()).unwrap().not_after, end);
    assert!(authority.issue(&csr, &Order::new(peer()), at(end - 1)).is_ok());
    assert_eq!(refused(&Order::new(peer()), at(end)), Error::RootExpired { past: 0 });
}

/// A request with this in it, signed with an honest key.
fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(&NodeKey::generate()).unwrap().der().to_vec()
}

#[test]
fn takes_the_key_of_a_request_and_nothing_else() {
    let authority = authority();
    let answer = |csr: &[u8]| authority.issue(csr, &Order::new(peer()), now());
    assert!(answer(&request(|_| ())).is_ok());

    let named = request(|csr| csr.distinguished_name.push(DnType::CommonName, "root"));
    assert_eq!(answer(&named), Err(Error::CsrNamesSubject("CN=root".to_owned())));
    let san = SanType::URI(peer().to_string().try_into().unwrap());
    let with_san = request(|csr| csr.subject_alt_names.push(san));
    assert_eq!(answer(&with_san), Err(Error::CsrHasAttributes(1)));
    let with_usage = request(|csr| csr.key_usages.push(KeyUsagePurpose::KeyCertSign));
    assert_eq!(answer(&with_usage), Err(Error::CsrHasAttributes(1)));
}

#[test]
fn refuses_a_request_that_does_not_prove_possession_of_an_ed25519_key() {
    let authority = authority();
    let refused = |csr: &[u8]| authority.issue(csr, &Order::new(peer()), now()).unwrap_err();
    let good = NodeKey::generate().csr_der();
    assert!(authority.issue(&good, &Order::new(peer()), now()).is_ok());

    let mut altered = good.clone();
    *altered.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&altered), Error::CsrSignature);

    // Another's key under our signature.
    let (key, other) = (NodeKey::generate(), NodeKey::generate());
    let mut stolen = key.csr_der();
    let position = stolen.windows(32).position(|bytes| bytes == key.public_key()).unwrap();
    stolen[position..position + 32].copy_from_slice(&other.public_key());
    assert_eq!(refused(&stolen), Error::CsrSignature);

    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&p256).unwrap();
    assert_eq!(refused(csr.der()), Error::CsrKeyType("an elliptic curve key (ECDSA)".to_owned()));

    assert!(matches!(refused(&[]), Error::CsrMalformed(_)));
    assert!(matches!(refused(&good[1..]), Error::CsrMalformed(_)));
    assert!(matches!(refused(&[&good[..], &[0]].concat()), Error::CsrMalformed(_)));
    assert_eq!(refused(&vec![0x30; MAX_CSR_LENGTH + 1]), Error::CsrTooLong(MAX_CSR_LENGTH + 1));
}

#[test]
fn refuses_the_rsa_request_of_openssl() {
    let refused = authority().issue(&rsa_request(), &Order::new(peer()), now()).unwrap_err();
    assert_eq!(refused, Error::CsrKeyType("RSA".to_owned()));
}

proptest! {
    #[test]
    fn a_changed_request_gets_a_certificate_for_its_own_key_or_none(
        index: prop::sample::Index,
        byte: u8,
    ) {
        thread_local!(static ROOM: (Authority, NodeKey) = (authority(), NodeKey::generate()));
        ROOM.with(|(authority, key)| {
            let mut csr = key.csr_der();
            let index = index.index(csr.len());
            csr[index] = byte;
            if let Ok(chain) = authority.issue(&csr, &Order::new(peer()), now()) {
                let identity = chain.verify(&authority.bundle(), &scope(), now()).unwrap();
                prop_assert_eq!(identity.public_key, key.public_key());
            }
            Ok(())
        })?;
    }
}

/// `openssl req -new -newkey rsa:1024 -nodes -subj / -outform DER`
fn rsa_request() -> Vec<u8> {
    let digits = "\
        3082013f3081a9020100300030819f300d06092a864886f70d010101050003818d00308189028181\
        00acb734792bce835ccd5b6101dab60aa4b46ea466e1e77cf49ac18977d6a438e7220757322c4013\
        f144b9b58e2af8e61b687524beea545b3b587a760db66045dc55b21a9a3dba5c90a8ea02e5557e21\
        ec4cf03065bed80fa9be6aa03744ec6eb8efb1e956730b846bb5f71f32118f1ea721643d823197c0\
        db304b6c0779f98f850203010001a000300d06092a864886f70d01010b0500038181005155efb1bf\
        858cf0a66f3192b0b960e3b99c8149a678020667c4a9fe2c1a8202d7ce7526925f2d585541f77342\
        339bb0cf2d532da63d78cf1f021ffe8ad330f6e81412634ef35b0e3b075bbef957dea5198a6e4d00\
        c4a091d34cd8d0226b4a7cb031979284277ebf235fb92c82586517ab12f1ef183dbcc93742be7ba2\
        93660f\
    ";
    let pair = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(pair).collect()
}
