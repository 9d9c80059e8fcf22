//! Inputs to begin with: one of each kind, which a fuzzer then takes apart.

use bytes::Bytes;
use macula_identity::enrolment::Request;
use macula_identity::{NodeKey, Place};

use super::cast::{MEMBER, NOON_MS, everybody};
use super::input::Input;
use super::record::{message as record_message, sign};
use crate::wire::{Contact, Frame, message};
use message::{request, response};

/// Of this target, each with a name.
#[must_use]
pub fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    let named = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    match target {
        "frames" => {
            let all: Vec<u8> = frames().iter().flat_map(|(_, frame)| wire(frame)).collect();
            let cut = |cuts: &[u8]| {
                let count = u8::try_from(cuts.len() - 1).expect("a few cuts");
                [&[count], cuts, &all].concat()
            };
            vec![named("byte-by-byte", cut(&[0])), named("odd", cut(&[2, 6, 40]))]
        }
        "messages" => frames()
            .into_iter()
            .map(|(name, frame)| {
                let bytes = wire(&frame);
                let kind = bytes[0] - 1;
                let header = 1 + (1 << (bytes[1] >> 6));
                named(name, [&[kind], &bytes[header..]].concat())
            })
            .collect(),
        "records" => {
            let body = sign(&everybody().nodes[MEMBER].me, &subscriber()).body;
            vec![
                named("body", [&[0], &body[..]].concat()),
                named("spoilt-body", vec![2, 2, 0, 1, 3, 0, 1]),
                named("spoilt-signature", vec![2, 0, 1, 1, 9, 0, 7]),
                named("spoilt-certificate", vec![2, 1, 2, 0, 1, 0, 0x84]),
                named("member", vec![3, 0, 1, 0, 2, 2, 6, 1, 1, 2, 0]),
            ]
        }
        "names" => [
            ("names", "sensor.temp\nsensor.*\nsensor.**\n**\n*.temp\na..b\ncom.example.red"),
            ("subject", "spiffe://cluster.local/mesh/a.b/realm/com.example/peer/x"),
            ("id", "00112233445566778899aabbccddeeff00112233\nbootstrap\nns.main"),
        ]
        .map(|(name, text)| named(name, text.as_bytes().to_vec()))
        .into(),
        "flows" => {
            let open = Frame::FlowOpen(message::FlowOpen { incarnation: 7 });
            let publish = |alias, topic: &str| {
                let topic = topic.to_owned();
                Frame::Publish(message::Publish { alias, topic, ..message::Publish::default() })
            };
            let flow = [open, publish(1, "a.b"), publish(1, ""), publish(0, "c")];
            let flow: Vec<u8> = flow.iter().flat_map(wire).collect();
            let made = [&[0_u8], &[1; 8][..], &[1, 2, 0, 0, 0, 0, 0], &[2; 8], &[1, 0], &[0; 5]];
            vec![named("frames", [&[1], &flow[..]].concat()), named("choices", made.concat())]
        }
        "certificates" => {
            let leaf = everybody().nodes[MEMBER].me.chain.clone();
            let pem = [leaf.to_pem(), everybody().cast.trust().bundle.to_pem()].concat();
            vec![
                named("der", [&[0], &leaf.leaf_der()[..]].concat()),
                named("spoilt", vec![1, 0, 40, 0, 1]),
                named("along", vec![2]),
                named("request", vec![3]),
                named("spoilt-request", vec![3, 0, 20, 0, 9]),
                named("pem", [&[4], pem.as_bytes()].concat()),
            ]
        }
        "enrolment" => {
            let csr = NodeKey::generate().csr_der();
            let realm = Place::Realm("com.example".parse().expect("a realm"));
            let request = Request::new("ns.main".parse().expect("a mesh"), &realm, &csr);
            let request = serde_json::to_vec(&request).expect("a request can be written");
            let refused = br#"{"code":"unauthorized","title":"","status":403,"retryable":false}"#;
            let issued = br#"{"certificate":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"}"#;
            vec![
                named("request", request),
                named("refused", refused.to_vec()),
                named("issued", issued.to_vec()),
            ]
        }
        "core" => programs(),
        _ => Vec::new(),
    }
}

fn wire(frame: &Frame) -> Bytes {
    frame.to_bytes().expect("it is short")
}

fn subscriber() -> message::Record {
    record_message(&mut Input::new(&[0, 1, 0, 2, 2, 6, 1, 1, 2, 0]), NOON_MS)
}

/// One of each type, and of each request and response.
fn frames() -> Vec<(&'static str, Frame)> {
    let node = &everybody().nodes[MEMBER];
    let contact = message::Contact::from(&Contact { id: node.id(), addresses: vec![node.address] });
    let id = contact.id.clone();
    let record = Some(sign(&node.me, &subscriber()));
    let observed = Some(node.address.into());
    let version = Some(message::Version { epoch: 1, count: 2 });
    let headers = vec![message::Header { name: "a".into(), value: "b".into() }];
    let stored =
        message::StoredRecord { record: record.clone(), addresses: vec![node.address.into()] };
    let ask = |body| Frame::Request(message::Request { body: Some(body) });
    let say = |body| Frame::Response(message::Response { body: Some(body) });
    let payload = Bytes::from_static(b"payload");
    let realm = || "com.example.red".to_owned();
    vec![
        ("hello", Frame::Hello(message::Hello { version: 1, incarnation: 300 })),
        ("hello-ack", Frame::HelloAck(message::HelloAck { version: 1, incarnation: 3, observed })),
        ("goodbye", Frame::Goodbye(message::Goodbye { code: 7, because: "why".into() })),
        ("flow-open", Frame::FlowOpen(message::FlowOpen { incarnation: 300 })),
        (
            "publish",
            Frame::Publish(message::Publish {
                sequence: 7,
                alias: 1,
                topic: "a.b".into(),
                payload: payload.clone(),
                content_type: "text/plain".into(),
                headers: headers.clone(),
                dropped: 1,
            }),
        ),
        ("ping", ask(request::Body::Ping(message::Ping {}))),
        (
            "find-node",
            ask(request::Body::FindNode(message::FindNode { target: id.clone(), realm: realm() })),
        ),
        (
            "find-value",
            ask(request::Body::FindValue(message::FindValue {
                key: id.clone(),
                realm: realm(),
                lease_ms: 90_000,
                has: version,
            })),
        ),
        (
            "store",
            ask(request::Body::Store(message::Store {
                record: record.clone(),
                addresses: Vec::new(),
            })),
        ),
        ("delete", ask(request::Body::Delete(message::Delete { record }))),
        (
            "call",
            ask(request::Body::Call(message::Call {
                procedure: "cart.add".into(),
                payload: payload.clone(),
                content_type: "text/plain".into(),
                timeout_ms: 1000,
                id: Bytes::from_static(&[1; 16]),
                headers,
            })),
        ),
        (
            "changed",
            ask(request::Body::Changed(message::Changed {
                key: id.clone(),
                since: version,
                count: 3,
                records: vec![stored.clone()],
                lost: vec![id],
                truncated: false,
            })),
        ),
        (
            "failure",
            say(response::Body::Failure(message::Failure {
                code: 3,
                because: "no".into(),
                retry_after_ms: 250,
            })),
        ),
        ("pong", say(response::Body::Pong(message::Pong {}))),
        ("nodes", say(response::Body::Nodes(message::Nodes { closest: vec![contact.clone(); 2] }))),
        (
            "values",
            say(response::Body::Values(message::Values {
                records: vec![stored],
                closest: vec![contact],
                truncated: true,
                version,
                lease_ms: 90_000,
                refused: Some(message::Failure {
                    code: 3,
                    because: "no".into(),
                    retry_after_ms: 250,
                }),
            })),
        ),
        ("stored", say(response::Body::Stored(message::Stored {}))),
        ("deleted", say(response::Body::Deleted(message::Deleted {}))),
        (
            "answer",
            say(response::Body::Answer(message::Answer {
                payload,
                content_type: "text/plain".into(),
            })),
        ),
        ("noted", say(response::Body::Noted(message::Noted {}))),
    ]
}

/// For each kind of node: all connect, names are used, all answer, records come and go, time passes.
fn programs() -> Vec<(String, Vec<u8>)> {
    const CONNECT_ALL: &[u8] =
        &[0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 9, 0, 0, 0, 10, 0, 0];
    // Its rest is a record of `record::message`.
    const ANSWER_ALL: &[u8] = &[13, 0, 1, 1, 0, 2, 3, 0, 1, 1, 3, 0, 0];
    const STORE: &[u8] = &[4, 9, 7, 1, 0, 2, 3, 0, 1, 1, 3, 0, 0];
    const WATCH: &[u8] = &[4, 5, 3, 0, 0, 0, 3, 0, 4, 0];
    const CALL: &[u8] = &[16, 3, 6, 3, 0, 0, 0];
    const SUBSCRIBE: &[u8] = &[16, 2, 2, 0];
    const ADVERTISE: &[u8] = &[16, 3, 4, 0];
    const PUBLISH: &[u8] = &[16, 2, 0, 0, 0];
    const RUN: &[u8] = &[20, 31];
    const HOURS: &[u8] = &[21, 5];
    const FAIL: &[u8] = &[2, 1, 1];
    let mut programs = Vec::new();
    for (kind, name) in [(0, "bootstrap"), (1, "serving"), (2, "asking")] {
        for (limits, sort) in [(0, ""), (1, "-small")] {
            let head: &[u8] = &[kind, limits, 7];
            let parts = [
                head,
                CONNECT_ALL,
                ANSWER_ALL,
                ANSWER_ALL,
                SUBSCRIBE,
                ADVERTISE,
                CALL,
                PUBLISH,
                ANSWER_ALL,
                ANSWER_ALL,
                WATCH,
                STORE,
                STORE,
                ANSWER_ALL,
                ANSWER_ALL,
                RUN,
                ANSWER_ALL,
                FAIL,
                RUN,
                ANSWER_ALL,
                HOURS,
                ANSWER_ALL,
            ];
            programs.push((format!("{name}{sort}"), parts.concat()));
        }
    }
    programs
}
