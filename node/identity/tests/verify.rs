//! Which certificates are believed, and with which word the others are refused.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::*;
use macula_identity::authority::BACKDATE;
use macula_identity::forge::{Flaw, forge, honest};
use macula_identity::verify::SKEW;
use macula_identity::{
    Authority, Bundle, Chain, Grants, Identity, NodeKey, Order, Refusal, Role, verify,
};
use proptest::prelude::*;
use rustls::pki_types::CertificateDer;

#[test]
fn every_flaw_is_refused_by_its_name_and_its_neighbour_without_it_is_accepted() {
    let authority = authority();
    for subject in [peer(), bootstrap()] {
        for &flaw in Flaw::ALL {
            let forged = forge(&authority, &subject, flaw, now());
            let refusal = judge(&authority, &forged.chain, now()).unwrap_err();
            assert_eq!(refusal.code(), flaw.code(), "{flaw:?}: {refusal}");

            let good = honest(&authority, &subject, now());
            let identity = judge(&authority, &good.chain, now()).unwrap();
            assert_eq!(identity.subject, subject);
        }
    }
}

#[test]
fn a_refusal_states_the_facts() {
    let authority = authority();
    let said = |flaw| {
        let forged = forge(&authority, &peer(), flaw, now());
        judge(&authority, &forged.chain, now()).unwrap_err().to_string()
    };
    assert_eq!(
        said(Flaw::OtherCa),
        "the certificate is signed by \"CN=Macula mesh macula-system.main\", which is none of the 1 \
         root(s) of the bundle: one has the same name and another key"
    );
    assert_eq!(
        said(Flaw::OtherMesh),
        "the certificate is for spiffe://cluster.local/mesh/elsewhere.other, and this is \
         spiffe://cluster.local/mesh/macula-system.main"
    );
    assert_eq!(
        said(Flaw::Expired),
        format!("the certificate expired 60 s ago, at {} s since 1970", NOW - 60)
    );
    assert_eq!(
        said(Flaw::NotYetValid),
        format!("the certificate is valid in 3600 s, from {} s since 1970", NOW + 3600)
    );
    assert_eq!(said(Flaw::MissingEku), "the certificate lacks the extended key usage clientAuth");
    assert_eq!(
        said(Flaw::TwoSans),
        "the certificate has 2 subject alternative names, and one is the most"
    );
    assert_eq!(
        said(Flaw::NoSan),
        "the certificate names no node: it has no subject alternative name"
    );
    assert_eq!(
        said(Flaw::MissingExtension),
        "the certificate's extension with node id and grants cannot be read: it is not there"
    );
    assert_eq!(
        said(Flaw::AlteredExtension),
        format!(
            "the certificate breaks the profile: it names root {}, whose signature it does not bear",
            authority.root().id()
        )
    );
    assert_eq!(
        said(Flaw::SignedByLeaf),
        format!("the certificate is signed by the node \"{}\", and only a root may sign", peer())
    );
    assert_eq!(
        said(Flaw::UnknownKeyType),
        "the certificate's key is an elliptic curve key (ECDSA), and only Ed25519 is accepted"
    );
}

#[test]
fn the_codes_are_those_of_the_error_table() {
    assert_eq!(
        Refusal::ALL_CODES,
        [
            "untrusted_certificate",
            "certificate_expired",
            "certificate_not_yet_valid",
            "bad_certificate",
            "no_san",
            "several_sans",
            "missing_eku",
            "bad_extension",
            "signed_by_leaf",
            "unknown_key_type",
            "mesh_mismatch",
            "session_resumed",
            "trust_withdrawn",
        ]
    );
}

#[test]
fn what_is_believed_is_what_was_ordered() {
    let authority = authority();
    let key = NodeKey::generate();
    for (subject, asked, granted) in
        [(peer(), false, false), (peer(), true, true), (bootstrap(), false, true)]
    {
        let order = Order { grants: Grants { server: asked }, ..Order::new(subject.clone()) };
        let chain = authority.issue(&key.csr_der(), &order, now()).unwrap();
        let identity = chain.verify(&authority.bundle(), &scope(), now()).unwrap();
        assert_eq!(identity.id, authority.node_id(&subject));
        assert_eq!(identity.subject, subject);
        assert_eq!(identity.grants, Grants { server: granted });
        assert_eq!(identity.not_before, NOW - BACKDATE.as_secs());
        assert_eq!(identity.not_after, NOW + 24 * 3600);
        assert_eq!(identity.public_key, key.public_key());
        assert_eq!(identity.issuer, *authority.root().id());
    }
    assert_eq!(peer().role(), Role::Peer);
}

#[test]
fn is_valid_until_the_last_second_and_not_one_longer() {
    let authority = authority();
    let chain = issue(&authority, peer());
    let judge = |seconds| chain.verify(&authority.bundle(), &scope(), at(seconds));
    let end = NOW + 24 * 3600;
    assert!(judge(end - 1).is_ok());
    assert_eq!(judge(end), Err(Refusal::CertificateExpired { not_after: end, past: 0 }));
    assert_eq!(judge(end + 1), Err(Refusal::CertificateExpired { not_after: end, past: 1 }));
    assert_eq!(judge(u64::MAX).unwrap_err().code(), "certificate_expired");
}

#[test]
fn is_valid_a_minute_before_its_first_second_and_not_one_longer() {
    let authority = authority();
    let chain = issue(&authority, peer());
    let judge = |seconds| chain.verify(&authority.bundle(), &scope(), at(seconds));
    let begin = NOW - BACKDATE.as_secs();
    assert!(judge(begin).is_ok());
    assert!(judge(begin - SKEW.as_secs()).is_ok());
    assert_eq!(
        judge(begin - SKEW.as_secs() - 1),
        Err(Refusal::CertificateNotYetValid { not_before: begin, ahead: 61 })
    );
    assert_eq!(judge(0).unwrap_err().code(), "certificate_not_yet_valid");
}

#[test]
fn certificates_that_are_sent_along_help_nobody() {
    let (ours, other) = (authority(), Authority::new(scope_of("else.where"), now()));
    let leaf = issue(&ours, peer()).leaf_der().clone();
    assert!(judge(&ours, std::slice::from_ref(&leaf), now()).is_ok());
    // The root itself, as many servers send it along.
    let with_root = [leaf.clone(), ours.root().der().clone()];
    assert_eq!(judge(&ours, &with_root, now()).unwrap_err().code(), "bad_certificate");
    // A CA that did sign the leaf and is not in the bundle.
    let foreign = honest(&other, &other.scope().subject(peer().place, peer().name), now());
    let chain = [foreign.chain[0].clone(), other.root().der().clone()];
    assert_eq!(judge(&ours, &chain, now()).unwrap_err().code(), "untrusted_certificate");
    // Another node that did not sign the leaf; garbage; more than anybody sends.
    for beside in [leaf, CertificateDer::from(vec![0x30; 5]), CertificateDer::from(Vec::new())] {
        let chain = [&foreign.chain[..], &vec![beside; 100]].concat();
        assert_eq!(judge(&ours, &chain, now()).unwrap_err().code(), "untrusted_certificate");
    }
    // A leaf that another leaf signed, without that one, is signed by nobody we know.
    let orphan = forge(&ours, &peer(), Flaw::SignedByLeaf, now()).chain.remove(0);
    assert_eq!(judge(&ours, &[orphan], now()).unwrap_err().code(), "untrusted_certificate");
}

#[test]
fn a_root_is_not_a_node() {
    let authority = authority();
    let refusal = judge(&authority, &[authority.root().der().clone()], now()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the certificate breaks the profile: it is a CA, and a node is none"
    );
}

#[test]
fn refuses_what_is_too_long_or_has_something_behind_it() {
    let authority = authority();
    let good = issue(&authority, peer()).leaf_der().to_vec();
    let judge = |der: Vec<u8>| judge(&authority, &[CertificateDer::from(der)], now());
    assert!(judge(good.clone()).is_ok());
    for der in [
        Vec::new(),
        b"garbage".to_vec(),
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        vec![0x30; 1 << 20],
    ] {
        assert_eq!(judge(der).unwrap_err().code(), "bad_certificate");
    }
}

/// A good certificate and how to judge what became of it.
struct Victim {
    der: Vec<u8>,
    identity: Identity,
    bundle: Bundle,
}

impl Victim {
    fn new() -> Self {
        let authority = authority();
        let chain = issue(&authority, peer());
        let bundle = authority.bundle();
        let identity = chain.verify(&bundle, &scope(), now()).unwrap();
        Self { der: chain.leaf_der().to_vec(), identity, bundle }
    }

    fn judge(&self, der: &[u8]) -> Result<Identity, Refusal> {
        let leaf = CertificateDer::from(der);
        // As an offered signer too: that path must not panic either.
        let _ = verify(&leaf, std::slice::from_ref(&leaf), &self.bundle, &scope(), now());
        verify(&leaf, &[], &self.bundle, &scope(), now())
    }
}

#[test]
fn no_single_changed_bit_makes_another_identity() {
    let victim = Victim::new();
    for position in 0..victim.der.len() * 8 {
        let mut der = victim.der.clone();
        der[position / 8] ^= 1 << (position % 8);
        match victim.judge(&der) {
            Ok(identity) => assert_eq!(identity, victim.identity, "bit {position}"),
            Err(refusal) => assert!(refusal.to_string().len() < 600, "bit {position}: {refusal}"),
        }
    }
}

proptest! {
    #[test]
    fn no_mutation_makes_another_identity(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
        doubled in prop::option::of(any::<prop::sample::Index>()),
    ) {
        thread_local!(static VICTIM: Victim = Victim::new());
        VICTIM.with(|victim| {
            let mut der = victim.der.clone();
            for (index, byte) in edits {
                let index = index.index(der.len());
                der[index] = byte;
            }
            if let Some(index) = doubled {
                let index = index.index(der.len());
                der.insert(index, der[index]);
            }
            if let Some(index) = cut {
                der.truncate(index.index(der.len()));
            }
            if let Ok(identity) = victim.judge(&der) {
                prop_assert_eq!(&identity, &victim.identity);
            }
            Ok(())
        })?;
    }

    #[test]
    fn garbage_never_panics(der in prop::collection::vec(any::<u8>(), 0..600), text: String) {
        let authority = authority();
        prop_assert!(judge(&authority, &[CertificateDer::from(der)], now()).is_err());
        prop_assert!(Bundle::from_pem(&text).is_err());
        prop_assert!(Chain::from_pem(&text).is_err());
    }
}
