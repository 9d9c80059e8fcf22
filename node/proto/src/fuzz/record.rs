//! Records: what a stranger may send, what somebody altered, and what a member really signs.

use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message;

use super::cast::{BLUE, Everybody, MEMBER, NOON_MS, RED, everybody};
use super::input::Input;
use crate::dht::Me;
use crate::record::{self, Kind, MAX_PATTERNS, MAX_RECORD, Record, Verifier};
use crate::wire::message;

/// Names of records, patterns and topics, good and bad.
pub(super) const NAMES: &[&str] =
    &["a", "b", "a.b", "cart.add", "*", "**", "a.*", "a.**", "*.b", "", "a..b", "A b"];

/// Nothing that was altered is believed, and what is believed is what was signed, by a member of the
/// realm, for no longer than its certificate.
pub(super) fn records(bytes: &[u8]) {
    let world = everybody();
    let mut input = Input::new(bytes);
    let mut verifier = Verifier::new(world.cast.trust());
    match input.byte() % 4 {
        0 => read_back(input.rest()),
        1 => {
            if let Ok(signed) = message::SignedRecord::decode(input.rest()) {
                // Keys are new in each run: nobody can have signed it.
                assert!(verifier.verify(world.start, &signed).is_err());
            }
        }
        2 => {
            let good = input.pick(samples());
            let part = input.byte() % 3;
            let mut signed = good.clone();
            match part {
                0 => signed.body = input.spoil(&good.body).into(),
                1 => signed.signature = input.spoil(&good.signature).into(),
                _ => signed.certificate = input.spoil(&good.certificate).into(),
            }
            let Ok(believed) = verifier.verify(world.start, &signed) else { return };
            assert_eq!((&signed.body, &signed.signature), (&good.body, &good.signature));
            // The outermost framing of a certificate is not signed, and read leniently.
            let who = &verifier.verify(world.start, &good).expect("it is good").publisher;
            assert_eq!(*believed.publisher, **who);
        }
        _ => {
            let message = message(&mut input, NOON_MS);
            let member = &world.nodes[MEMBER].me;
            let signed = sign(member, &message);
            let Ok(believed) = verifier.verify(world.start, &signed) else { return };
            check(world, &believed.record);
            assert!(record::size(&signed) <= MAX_RECORD);
            assert_eq!(believed.publisher.id, member.identity.id);
        }
    }
}

fn check(world: &Everybody, record: &Record) {
    let member = &world.nodes[MEMBER].me.identity;
    assert_eq!(Some(&record.realm), member.subject.realm());
    assert!(record.expiry_ms > NOON_MS && record.expiry_ms <= member.not_after * 1000);
    match &record.kind {
        Kind::Provider => assert!(record.name.parse::<crate::name::ProcedureName>().is_ok()),
        Kind::Subscriber { patterns } => {
            assert!(patterns.len() <= MAX_PATTERNS && (record.withdrawn || !patterns.is_empty()));
            assert!(patterns.iter().all(|pattern| pattern.rendezvous() == record.name));
        }
    }
}

/// A record that is read is read again when it is signed again.
fn read_back(body: &[u8]) {
    let Ok(record) = Record::decode(body) else { return };
    let Me { key, chain, .. } = &*everybody().nodes[MEMBER].me;
    match record::sign(&record, key, chain) {
        Ok(signed) => assert_eq!(Record::decode(&signed.body), Ok(record)),
        // It may be too long with a certificate and a signature.
        Err(fault) => assert_eq!(fault.code, crate::Code::TooLarge),
    }
}

fn samples() -> &'static [message::SignedRecord] {
    static SAMPLES: OnceLock<Vec<message::SignedRecord>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let sample = |choices: &[u8]| {
            let message = message(&mut Input::new(choices), NOON_MS);
            sign(&everybody().nodes[MEMBER].me, &message)
        };
        // A provider, a withdrawal of it, and a subscriber of two patterns: see `message`.
        vec![
            sample(&[0, 2, 3, 0, 1, 1, 2, 0]),
            sample(&[0, 2, 3, 0, 1, 1, 2, 1]),
            sample(&[0, 1, 0, 2, 2, 6, 1, 1, 2, 0]),
        ]
    })
}

/// Any record that a member may make up.
pub(super) fn message(input: &mut Input<'_>, now_ms: u64) -> message::Record {
    let realm = input.pick(&[RED, RED, RED, RED, RED, BLUE, "", "Red"]).to_owned();
    let kind = i32::from(input.byte() % 4);
    let name = input.pick(NAMES).to_owned();
    let count = match input.byte() {
        few @ 0..=250 => usize::from(few % 5),
        many => 60 + usize::from(many - 250),
    };
    let patterns = (0..count).map(|_| input.pick(NAMES).to_owned()).collect();
    let incarnation = input.pick(&[0, NOON_MS, NOON_MS + 1, u64::MAX]);
    let sequence = match input.byte() {
        255 => u64::MAX,
        low => u64::from(low),
    };
    let ends = everybody().nodes[MEMBER].me.identity.not_after * 1000;
    let expiry_ms = input.pick(&[
        now_ms,
        now_ms.saturating_add(1),
        now_ms.saturating_add(60_000),
        now_ms.saturating_add(600_000),
        ends,
        ends + 1,
        u64::MAX,
        0,
    ]);
    let withdrawn = input.flag();
    message::Record { realm, kind, name, patterns, incarnation, sequence, expiry_ms, withdrawn }
}

/// Signs whatever the message says.
pub(super) fn sign(me: &Me, message: &message::Record) -> message::SignedRecord {
    let body = Bytes::from(message.encode_to_vec());
    let signature = Bytes::copy_from_slice(&me.key.sign(&record::signed_bytes(&body)));
    let certificate = Bytes::copy_from_slice(&me.chain.leaf_der()[..]);
    message::SignedRecord { body, certificate, signature }
}
