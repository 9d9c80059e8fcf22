//! A mesh, its authority and an instant, for the tests of this crate.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::time::Duration;

use macula_identity::{
    Authority, Chain, Identity, NodeKey, Order, Place, Refusal, Scope, Subject, verify,
};
use rustls::pki_types::{CertificateDer, UnixTime};

/// 2026-01-01T00:00:00Z: the instant at which everything here happens unless a test says otherwise.
pub(crate) const NOW: u64 = 1_767_225_600;

pub(crate) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub(crate) fn now() -> UnixTime {
    at(NOW)
}

pub(crate) fn scope() -> Scope {
    scope_of("macula-system.main")
}

pub(crate) fn scope_of(mesh: &str) -> Scope {
    Scope { trust_domain: "cluster.local".parse().unwrap(), mesh: mesh.parse().unwrap() }
}

pub(crate) fn peer() -> Subject {
    let realm = Place::Realm("com.example.shop".parse().unwrap());
    scope().subject(realm, "shop.cart-0".parse().unwrap())
}

pub(crate) fn bootstrap() -> Subject {
    scope().subject(Place::Bootstrap, "bootstrap-0".parse().unwrap())
}

pub(crate) fn authority() -> Authority {
    Authority::new(scope(), now())
}

pub(crate) fn issue(authority: &Authority, subject: Subject) -> Chain {
    let key = NodeKey::generate();
    authority.issue(&key.csr_der(), &Order::new(subject), now()).unwrap()
}

/// Judges a chain as it would arrive in a handshake, against the authority's own bundle.
pub(crate) fn judge(
    authority: &Authority,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<Identity, Refusal> {
    verify(&chain[0], &chain[1..], &authority.bundle(), authority.scope(), now)
}
