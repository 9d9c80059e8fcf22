//! What a node keeps on its disk: its certificate and the bundle of roots.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::*;
use macula_identity::forge::{self, Flaw, forge};
use macula_identity::{Bundle, Chain, Grants, Identity, Refusal, RootId, bundle, certificate};

#[test]
fn a_bundle_of_two_roots_believes_both_until_one_is_dropped() {
    let old = authority();
    let new = old.rotated(now());
    let both = old.bundle().merged(&new.bundle()).unwrap();
    let (by_old, by_new) = (issue(&old, peer()), issue(&new, peer()));
    let identity = by_old.verify(&both, &scope(), now()).unwrap();
    assert_eq!(identity.issuer, *old.root().id());
    assert_eq!(by_new.verify(&both, &scope(), now()).unwrap().issuer, *new.root().id());
    assert_eq!(both.still_trusts(&identity), Ok(()));

    let only_new = both.without(old.root().id()).unwrap();
    assert!(by_new.verify(&only_new, &scope(), now()).is_ok());
    let refusal = by_old.verify(&only_new, &scope(), now()).unwrap_err();
    assert_eq!(refusal.code(), "untrusted_certificate");
    let refusal = only_new.still_trusts(&identity).unwrap_err();
    assert_eq!(refusal, Refusal::TrustWithdrawn { issuer: *old.root().id() });
    assert_eq!(refusal.code(), "trust_withdrawn");
}

#[test]
fn reads_its_own_certificate_without_a_bundle() {
    let authority = authority();
    let chain = issue(&authority, peer());
    let own = Identity::of_own(&chain).unwrap();
    let mut verified = chain.verify(&authority.bundle(), &scope(), now()).unwrap();
    assert!(!authority.bundle().contains(&own.issuer));
    verified.issuer = RootId::UNVERIFIED;
    assert_eq!(own, verified);
    assert_eq!(own.remaining(at(own.not_after - 1)).as_secs(), 1);
    assert_eq!(own.remaining(at(own.not_after + 1)).as_secs(), 0);
    assert_eq!(own.renew_at(), NOW - 300 + (24 * 3600 + 300) / 2);

    let of = |flaw| {
        let leaf = forge(&authority, &peer(), flaw, now()).chain.remove(0);
        Identity::of_own(&Chain::from_der(leaf)).map_err(|refusal| refusal.code())
    };
    assert_eq!(of(Flaw::TwoSans), Err("several_sans"));
    assert_eq!(of(Flaw::UnknownKeyType), Err("unknown_key_type"));
    assert!(of(Flaw::Expired).is_ok());
}

#[test]
fn a_chain_is_one_certificate() {
    let authority = authority();
    let chain = issue(&authority, peer());
    let pem = chain.to_pem();
    assert_eq!(Chain::from_pem(&pem), Ok(chain));
    let refused = |text: &str| Chain::from_pem(text).unwrap_err();
    assert_eq!(refused(""), certificate::Error::Missing);
    assert_eq!(refused(&(pem + &authority.ca_cert_pem())), certificate::Error::Several(2));
    assert!(matches!(refused(&authority.ca_key_pem()), certificate::Error::Section(_)));
}

#[test]
fn a_bundle_is_roots_and_nothing_else() {
    let authority = authority();
    let pem = authority.ca_cert_pem();
    let bundle = Bundle::from_pem(&format!("# this mesh\n{pem}\n{pem}")).unwrap();
    assert_eq!(bundle, authority.bundle());
    assert_eq!(bundle.to_pem(), pem);
    assert_eq!(bundle.roots()[0].name(), "CN=Macula mesh macula-system.main");

    let refused = |text: &str| Bundle::from_pem(text).unwrap_err();
    assert_eq!(refused(""), bundle::Error::Empty);
    assert_eq!(refused("garbage"), bundle::Error::Empty);
    assert!(matches!(refused(&pem[..100]), bundle::Error::Pem(_)));
    assert!(matches!(refused(&"x".repeat(1 << 20)), bundle::Error::TooLong(_)));
    let leaf = pem.clone() + &issue(&authority, peer()).to_pem();
    assert_eq!(
        refused(&leaf).to_string(),
        "certificate 2 of the bundle is not a root: it is not a CA that may sign certificates"
    );
    let key = pem.clone() + &authority.ca_key_pem();
    assert!(matches!(refused(&key), bundle::Error::Section { position: 2, .. }));
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(refused(&(pem + junk)), bundle::Error::NotARoot { position: 2, .. }));
}

#[test]
fn a_bundle_holds_sixteen_roots_and_at_least_one() {
    let roots = |n| {
        let first = authority();
        let all = (1..n).map(|_| first.rotated(now()).ca_cert_pem());
        first.ca_cert_pem() + &all.collect::<String>()
    };
    assert_eq!(Bundle::from_pem(&roots(16)).unwrap().roots().len(), 16);
    assert_eq!(Bundle::from_pem(&roots(17)), Err(bundle::Error::TooMany(17)));
    let one = authority().bundle();
    assert_eq!(one.without(one.roots()[0].id()), Err(bundle::Error::Empty));
}

#[test]
fn a_forged_identity_is_trusted_by_no_bundle() {
    let authority = authority();
    let made_up = forge::identity(peer(), authority.node_id(&peer()), Grants::default());
    assert!(authority.bundle().still_trusts(&made_up).is_err());
}
