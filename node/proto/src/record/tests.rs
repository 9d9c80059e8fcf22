//! What is believed, and beside it what is not.

use std::sync::Arc;
use std::time::Instant;

use macula_identity::{Authority, Grants, NodeName, Order, Place, Scope};

use super::*;
use crate::dht::Me;
use crate::time::Now;

/// Noon of a day in 2026.
pub(crate) const NOON_MS: u64 = 1_781_000_000_000;

/// A mesh's authority at noon.
pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) now: Now,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of_mesh("macula-system.main")
    }

    pub(crate) fn of_mesh(mesh: &str) -> Self {
        let now = Now { instant: Instant::now(), unix_ms: NOON_MS };
        let scope =
            Scope { trust_domain: "cluster.local".parse().unwrap(), mesh: mesh.parse().unwrap() };
        Self { authority: Authority::new(scope, now.unix_time()), now }
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust { bundle: Arc::new(self.authority.bundle()), mesh: self.authority.scope().clone() }
    }

    pub(crate) fn node(&self, place: Place, name: &str, server: bool) -> Arc<Me> {
        let name: NodeName = name.parse().unwrap();
        let subject = self.authority.scope().subject(place, name);
        let order = Order { grants: Grants { server }, ..Order::new(subject) };
        let key = NodeKey::generate();
        let now = self.now.unix_time();
        let chain = self.authority.issue(&key.csr_der(), &order, now).unwrap();
        let Trust { bundle, mesh } = self.trust();
        let identity = chain.verify(&bundle, &mesh, now).unwrap();
        Arc::new(Me { identity, key: Arc::new(key), chain, incarnation: NOON_MS })
    }

    pub(crate) fn peer(&self, realm_name: &str, name: &str) -> Arc<Me> {
        self.node(Place::Realm(realm(realm_name)), name, false)
    }

    /// Has a fresh verifier judge what `me` signs.
    fn judge(&self, me: &Me, record: &Record) -> Result<VerifiedRecord, Code> {
        self.judge_signed(&sign(record, &me.key, &me.chain).unwrap())
    }

    fn judge_signed(&self, signed: &message::SignedRecord) -> Result<VerifiedRecord, Code> {
        Verifier::new(self.trust()).verify(self.now, signed).map_err(|fault| fault.code)
    }
}

pub(crate) fn realm(name: &str) -> RealmName {
    name.parse().unwrap()
}

pub(crate) fn subscriber(realm_name: &str, name: &str, patterns: &[&str]) -> Record {
    Record {
        kind: Kind::Subscriber { patterns: patterns.iter().map(|p| p.parse().unwrap()).collect() },
        ..provider(realm_name, name)
    }
}

/// One that stands for a minute.
pub(crate) fn provider(realm_name: &str, name: &str) -> Record {
    Record {
        realm: realm(realm_name),
        kind: Kind::Provider,
        name: name.to_owned(),
        incarnation: NOON_MS,
        sequence: 1,
        expiry_ms: NOON_MS + 60_000,
        withdrawn: false,
    }
}

/// Signs whatever the message says, as an altered node would.
fn sign_message(me: &Me, record: &message::Record) -> message::SignedRecord {
    let body = Bytes::from(record.encode_to_vec());
    let signature = Bytes::copy_from_slice(&me.key.sign(&signed_bytes(&body)));
    let certificate = Bytes::copy_from_slice(&me.chain.leaf_der()[..]);
    message::SignedRecord { body, certificate, signature }
}

fn message_of(record: &Record) -> message::Record {
    message::Record::decode(record.encode()).unwrap()
}

#[test]
fn a_peers_own_record_is_believed_and_says_what_was_signed() {
    let world = World::new();
    let peer = world.peer("r", "a");
    for record in [provider("r", "cart.add"), subscriber("r", "cart", &["cart.*", "cart.**"])] {
        let verified = world.judge(&peer, &record).unwrap();
        assert_eq!(verified.record, record);
        assert_eq!(verified.publisher.id, peer.identity.id);
    }
}

#[test]
fn a_record_of_a_realm_is_refused_from_another_and_from_infrastructure() {
    let world = World::new();
    let record = provider("r", "cart.add");
    assert!(world.judge(&world.peer("r", "a"), &record).is_ok());
    assert_eq!(world.judge(&world.peer("s", "a"), &record).unwrap_err(), Code::RealmMismatch);
    let gateway = world.node(Place::Gateway, "a", true);
    assert_eq!(world.judge(&gateway, &record).unwrap_err(), Code::InvalidRecord);
}

#[test]
fn a_record_of_another_mesh_is_refused() {
    let (world, other) = (World::new(), World::of_mesh("macula-system.other"));
    let record = provider("r", "cart.add");
    let refused = world.judge(&other.peer("r", "a"), &record).unwrap_err();
    assert_eq!(refused, Code::UntrustedCertificate);
    // One authority, and another mesh expected.
    let trust = Trust { mesh: other.trust().mesh, ..world.trust() };
    let peer = world.peer("r", "a");
    let signed = sign(&record, &peer.key, &peer.chain).unwrap();
    let refused = Verifier::new(trust).verify(world.now, &signed).unwrap_err();
    assert_eq!(refused.code, Code::MeshMismatch);
}

#[test]
fn any_altered_bit_is_refused() {
    let world = World::new();
    let peer = world.peer("r", "a");
    let signed = sign(&provider("r", "cart.add"), &peer.key, &peer.chain).unwrap();
    assert!(world.judge_signed(&signed).is_ok());
    let altered = |part: &Bytes, bit: usize| {
        let mut bytes = part.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        Bytes::from(bytes)
    };
    for bit in 0..8 * signed.body.len() {
        let body = altered(&signed.body, bit);
        assert!(world.judge_signed(&message::SignedRecord { body, ..signed.clone() }).is_err());
    }
    for bit in (0..8 * signed.signature.len()).step_by(7) {
        let signature = altered(&signed.signature, bit);
        let signed = message::SignedRecord { signature, ..signed.clone() };
        assert_eq!(world.judge_signed(&signed).unwrap_err(), Code::InvalidRecord);
    }
    for bit in 0..8 * signed.certificate.len() {
        let certificate = altered(&signed.certificate, bit);
        let signed = message::SignedRecord { certificate, ..signed.clone() };
        // The outermost framing of a certificate is not signed, and read leniently: what passes must
        // say the very same.
        if let Ok(verified) = world.judge_signed(&signed) {
            assert_eq!(*verified.publisher, peer.identity, "bit {bit} of the certificate");
        }
    }
}

#[test]
fn a_record_signed_by_one_with_the_certificate_of_another_is_refused() {
    let world = World::new();
    let (a, b) = (world.peer("r", "a"), world.peer("r", "b"));
    let signed = sign(&provider("r", "cart.add"), &a.key, &b.chain).unwrap();
    assert_eq!(world.judge_signed(&signed).unwrap_err(), Code::InvalidRecord);
}

#[test]
fn a_record_ends_at_its_expiry_and_with_its_certificate() {
    let world = World::new();
    let peer = world.peer("r", "a");
    let until = |expiry_ms| Record { expiry_ms, ..provider("r", "cart.add") };
    assert!(world.judge(&peer, &until(NOON_MS + 1)).is_ok());
    assert_eq!(world.judge(&peer, &until(NOON_MS)).unwrap_err(), Code::RecordExpired);
    let end = peer.identity.not_after * 1000;
    assert!(world.judge(&peer, &until(end)).is_ok());
    assert_eq!(world.judge(&peer, &until(end + 1)).unwrap_err(), Code::InvalidRecord);
    assert_eq!(world.judge(&peer, &until(u64::MAX)).unwrap_err(), Code::InvalidRecord);
    assert_eq!(world.judge(&peer, &until(0)).unwrap_err(), Code::RecordExpired);
}

#[test]
fn a_publisher_has_started_by_now_or_its_clock_is_a_little_ahead() {
    let world = World::new();
    let peer = world.peer("r", "a");
    let skew = u64::try_from(macula_identity::verify::SKEW.as_millis()).unwrap();
    let since = |incarnation| {
        let record = Record { incarnation, ..provider("r", "cart.add") };
        world.judge(&peer, &record).map(|_| ())
    };
    assert_eq!(since(0), Ok(()));
    assert_eq!(since(NOON_MS), Ok(()));
    assert_eq!(since(NOON_MS + skew), Ok(()));
    assert_eq!(since(NOON_MS + skew + 1), Err(Code::InvalidRecord));
    assert_eq!(since(u64::MAX), Err(Code::InvalidRecord));
}

#[test]
fn a_certificate_that_was_believed_once_still_expires() {
    let world = World::new();
    let peer = world.peer("r", "a");
    let end_ms = peer.identity.not_after * 1000;
    let record = Record { incarnation: 0, expiry_ms: end_ms, ..provider("r", "cart.add") };
    let signed = sign(&record, &peer.key, &peer.chain).unwrap();
    let mut verifier = Verifier::new(world.trust());
    assert!(verifier.verify(world.now, &signed).is_ok());
    let last = Now { unix_ms: end_ms - 1, ..world.now };
    assert!(verifier.verify(last, &signed).is_ok());
    let early = Now { unix_ms: peer.identity.not_before * 1000 - 61_000, ..world.now };
    let refused = verifier.verify(early, &signed).unwrap_err();
    assert_eq!(refused.code, Code::CertificateNotYetValid);
}

#[test]
fn a_certificate_that_was_believed_once_is_judged_again_when_the_trust_changes() {
    let world = World::new();
    let peer = world.peer("r", "a");
    let signed = sign(&provider("r", "a"), &peer.key, &peer.chain).unwrap();
    let mut verifier = Verifier::new(world.trust());
    assert!(verifier.verify(world.now, &signed).is_ok());
    verifier.set_trust(World::new().trust());
    let refused = verifier.verify(world.now, &signed).unwrap_err();
    assert_eq!(refused.code, Code::UntrustedCertificate);
}

#[test]
fn a_subscriber_lives_under_the_rendezvous_of_all_its_patterns() {
    let world = World::new();
    let peer = world.peer("r", "a");
    let judge = |name: &str, patterns: &[&str]| {
        let record = subscriber("r", name, patterns);
        let signed = sign_message(&peer, &message_of(&record));
        world.judge_signed(&signed).map(|_| ())
    };
    assert_eq!(judge("a", &["a.b", "a.**"]), Ok(()));
    assert_eq!(judge("a", &["a.b", "b.a"]), Err(Code::InvalidRecord));
    assert_eq!(judge("*", &["*.b", "**"]), Ok(()));
    assert_eq!(judge("**", &["**"]), Err(Code::InvalidRecord));
    assert_eq!(judge("a.b", &["a.b"]), Err(Code::InvalidRecord));
    assert_eq!(judge("a", &[]), Err(Code::InvalidRecord));
    assert_eq!(judge("", &[]), Err(Code::InvalidRecord));
}

#[test]
fn a_provider_has_a_procedures_name_and_no_patterns() {
    let world = World::new();
    let peer = world.peer("r", "a");
    let good = message_of(&provider("r", "cart.add"));
    let judge = |message| world.judge_signed(&sign_message(&peer, &message)).map(|_| ());
    assert_eq!(judge(good.clone()), Ok(()));
    for bad in [
        message::Record { name: "cart.*".into(), ..good.clone() },
        message::Record { name: "cart..add".into(), ..good.clone() },
        message::Record { patterns: vec!["a".into()], ..good.clone() },
        message::Record { kind: 0, ..good.clone() },
        message::Record { kind: 77, ..good.clone() },
        message::Record { realm: "R".into(), ..good.clone() },
        message::Record { realm: String::new(), ..good },
    ] {
        assert_eq!(judge(bad.clone()), Err(Code::InvalidRecord), "{bad:?}");
    }
}

#[test]
fn sixty_four_patterns_pass_and_sixty_five_do_not() {
    let world = World::new();
    let peer = world.peer("r", "a");
    let patterns = |count| vec!["a.b"; count];
    assert!(world.judge(&peer, &subscriber("r", "a", &patterns(64))).is_ok());
    let more = subscriber("r", "a", &patterns(65));
    assert_eq!(sign(&more, &peer.key, &peer.chain).unwrap_err().code, Code::TooLarge);
    let signed = sign_message(&peer, &message_of(&more));
    assert_eq!(world.judge_signed(&signed).unwrap_err(), Code::TooLarge);
}

#[test]
fn four_kibibytes_pass_and_one_byte_more_does_not() {
    let world = World::new();
    let peer = world.peer("r", "a");
    let long = |last: usize| {
        let pattern = |length: usize| format!("a.{}", "b".repeat(length));
        let patterns: Vec<String> =
            (0..20).map(|i| pattern(if i == 0 { last } else { 140 })).collect();
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        sign_message(&peer, &message_of(&subscriber("r", "a", &patterns)))
    };
    // The shortest has a length of one byte, as the exact one must.
    let room = (MAX_RECORD - size(&long(1))).min(100);
    let full = {
        let mut signed = long(room);
        // Padding of an unknown field, which is ignored, brings it to the byte.
        let missing = MAX_RECORD - size(&signed);
        let mut body = signed.body.to_vec();
        body.extend([0xfa, 0x01]);
        prost::encoding::encode_varint((missing - 4) as u64, &mut body);
        body.extend(vec![0; missing - 4]);
        signed.body = body.into();
        let signature = peer.key.sign(&signed_bytes(&signed.body));
        message::SignedRecord { signature: Bytes::copy_from_slice(&signature), ..signed }
    };
    assert_eq!(size(&full), MAX_RECORD);
    assert!(world.judge_signed(&full).is_ok());
    let mut body = full.body.to_vec();
    body.extend([0xf8, 0x02, 0x00]);
    let more = message::SignedRecord { body: body.into(), ..full };
    assert_eq!(world.judge_signed(&more).unwrap_err(), Code::TooLarge);
}
