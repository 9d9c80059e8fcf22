//! Certificates, requests for them, and the messages of enrolment.

use macula_identity::enrolment::{Issued, Refused, Request};
use macula_identity::{Bundle, CertificateDer, Chain, Identity, NodeKey, Order, Place, verify};
use std::sync::OnceLock;

use super::cast::{MEMBER, everybody};
use super::input::Input;

/// What is altered is not believed, unless only its outermost framing was, which nobody signs; and of a
/// request nothing but its key is taken.
pub(super) fn certificates(bytes: &[u8]) {
    let world = everybody();
    let trust = world.cast.trust();
    let now = world.start.unix_time();
    let mut input = Input::new(bytes);
    let good = world.nodes[MEMBER].me.chain.leaf_der();
    let judge = |der: &[u8], along: &[CertificateDer<'_>]| {
        verify(&CertificateDer::from(der), along, &trust.bundle, &trust.mesh, now)
    };
    match input.byte() % 5 {
        0 => {
            let der = input.rest();
            assert!(judge(der, &[]).is_err(), "keys are new in each run");
            let leaf = CertificateDer::from(der);
            assert!(judge(good, &[leaf]).is_err(), "nothing is sent along");
            // One's own is read without being judged; that must not panic either.
            let _ = Identity::of_own(&Chain::from_der(CertificateDer::from(der.to_vec())));
        }
        1 => {
            let der = input.spoil(good);
            let _ = Identity::of_own(&Chain::from_der(CertificateDer::from(der.clone())));
            match judge(&der, &[]) {
                Ok(identity) => assert_eq!(identity, world.nodes[MEMBER].me.identity),
                Err(refusal) => assert!(refusal.to_string().len() < 1000, "{refusal}"),
            }
        }
        2 => {
            // Offered beside a leaf that another authority has signed.
            let der = input.spoil(good);
            let foreign = world.stranger.chain.leaf_der();
            assert!(judge(foreign, &[CertificateDer::from(der)]).is_err());
        }
        3 => {
            let der = input.spoil(request());
            issue(&der);
        }
        _ => {
            let Ok(text) = std::str::from_utf8(input.rest()) else { return };
            let _ = NodeKey::from_pem(text);
            if let Ok(bundle) = Bundle::from_pem(text) {
                assert!(bundle.roots().len() <= Bundle::MAX_ROOTS);
                assert_eq!(Bundle::from_pem(&bundle.to_pem()), Ok(bundle));
            }
            if let Ok(chain) = Chain::from_pem(text) {
                assert_eq!(Chain::from_pem(&chain.to_pem()), Ok(chain));
            }
        }
    }
}

/// A key that asks for a certificate.
fn key() -> &'static (NodeKey, Vec<u8>) {
    static KEY: OnceLock<(NodeKey, Vec<u8>)> = OnceLock::new();
    KEY.get_or_init(|| {
        let key = NodeKey::generate();
        let request = key.csr_der();
        (key, request)
    })
}

/// Its request.
fn request() -> &'static [u8] {
    &key().1
}

/// Has the authority judge a request. Whatever it says, the certificate is what was ordered.
fn issue(csr_der: &[u8]) {
    let world = everybody();
    let authority = world.cast.authority();
    let name = "somebody".parse().expect("a name");
    let subject = authority.scope().subject(Place::Gateway, name);
    let order = Order::new(subject.clone());
    let now = world.start.unix_time();
    let Ok(chain) = authority.issue(csr_der, &order, now) else { return };
    let (bundle, mesh) = (authority.bundle(), authority.scope());
    let identity = chain.verify(&bundle, mesh, now).expect("the authority's own is believed");
    assert_eq!((identity.subject, identity.id), (subject.clone(), authority.node_id(&subject)));
    if identity.public_key != key().0.public_key() {
        // Of another key, in an input that was kept from another run.
        assert_ne!(csr_der, request());
    }
}

/// What is read of the messages of enrolment is read again when it is written again.
pub(super) fn enrolment(bytes: &[u8]) {
    if let Ok(request) = Request::from_json(bytes) {
        let again = serde_json::to_vec(&request).expect("a request can be written");
        assert_eq!(Request::from_json(&again), Ok(request.clone()));
        if let Ok(place) = request.place() {
            assert_eq!(place.role(), request.role);
        }
        if let Ok(csr) = request.csr_der() {
            issue(&csr);
        }
    }
    if let Ok(issued) = serde_json::from_slice::<Issued>(bytes)
        && let Ok(chain) = issued.chain()
    {
        assert_eq!(Issued::new(&chain).chain(), Ok(chain));
    }
    if let Ok(refused) = serde_json::from_slice::<Refused>(bytes) {
        let again = serde_json::to_vec(&refused).expect("a refusal can be written");
        assert_eq!(serde_json::from_slice::<Refused>(&again).ok(), Some(refused));
    }
}
