//! The bytes that docs/PROTOCOL.md shows are those that travel.
//!
//! A block of the page that begins with "```bytes NAME" holds hexadecimal runs, one a line, each with what
//! it is behind two spaces or more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use std::collections::BTreeMap;

use bytes::Bytes;
use macula_proto::identity::NodeId;
use macula_proto::key::{Key, Kind};
use macula_proto::wire::message::{self, request, response};
use macula_proto::wire::{Frame, FrameDecoder};
use prost::Message;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/PROTOCOL.md");

fn request(body: request::Body) -> Frame {
    Frame::Request(message::Request { body: Some(body) })
}

fn response(body: response::Body) -> Frame {
    Frame::Response(message::Response { body: Some(body) })
}

/// Every frame that the page shows.
fn frames() -> BTreeMap<&'static str, Frame> {
    let incarnation = 1_781_000_000_000;
    let address = message::Address { ip: Bytes::from_static(&[10, 1, 2, 3]), port: 9443 };
    let id = Bytes::copy_from_slice(NodeId::from_bytes([0xab; 20]).as_bytes());
    let contact = message::Contact { id: id.clone(), addresses: vec![address.clone()] };
    let key = Key::of(&"com.example.shop".parse().unwrap(), Kind::Provider, "cart.add");
    let key = Bytes::copy_from_slice(key.as_bytes());
    let version = message::Version { epoch: 7, count: 300 };
    let headers = Vec::new();
    BTreeMap::from([
        ("hello", Frame::Hello(message::Hello { version: 1, incarnation })),
        (
            "hello-ack",
            Frame::HelloAck(message::HelloAck { version: 1, incarnation, observed: Some(address) }),
        ),
        (
            "find-value",
            request(request::Body::FindValue(message::FindValue {
                key: key.clone(),
                realm: String::new(),
                lease_ms: 90_000,
                has: Some(version),
            })),
        ),
        (
            "values",
            response(response::Body::Values(message::Values {
                records: Vec::new(),
                closest: vec![contact],
                truncated: false,
                version: Some(version),
                lease_ms: 90_000,
                refused: None,
            })),
        ),
        (
            "changed",
            request(request::Body::Changed(message::Changed {
                key,
                since: Some(version),
                count: 301,
                lost: vec![id],
                ..Default::default()
            })),
        ),
        (
            "failure",
            response(response::Body::Failure(message::Failure {
                code: 0x40,
                because: "no".to_owned(),
                retry_after_ms: 0,
            })),
        ),
        ("flow-open", Frame::FlowOpen(message::FlowOpen { incarnation })),
        (
            "publish",
            Frame::Publish(message::Publish {
                sequence: 5,
                alias: 1,
                topic: "a.b".to_owned(),
                payload: Bytes::from_static(b"hi"),
                content_type: "text/plain".to_owned(),
                headers,
                dropped: 0,
            }),
        ),
    ])
}

/// What the page shows that is no frame.
fn others() -> BTreeMap<&'static str, Vec<u8>> {
    let key = Key::of(&"com.example.shop".parse().unwrap(), Kind::Provider, "cart.add");
    let record = message::Record {
        realm: "com.example.shop".to_owned(),
        kind: message::record::Kind::Provider.into(),
        name: "cart.add".to_owned(),
        patterns: Vec::new(),
        incarnation: 1_781_000_000_000,
        sequence: 1,
        expiry_ms: 1_781_000_600_000,
        withdrawn: false,
    };
    BTreeMap::from([("key", key.as_bytes().to_vec()), ("record", record.encode_to_vec())])
}

/// The blocks of the page.
fn shown() -> BTreeMap<String, Vec<u8>> {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let mut blocks = BTreeMap::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```bytes ") else { continue };
        let runs = lines.by_ref().take_while(|line| *line != "```");
        let bytes = runs.flat_map(|run| {
            let hex = run.split("  ").next().unwrap();
            let bytes = hex.split_whitespace();
            bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect::<Vec<_>>()
        });
        blocks.insert(name.to_owned(), bytes.collect());
    }
    blocks
}

fn spaced(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
}

#[test]
fn the_bytes_of_the_page_are_those_that_travel_and_mean_what_it_says() {
    let mut shown = shown();
    for (name, frame) in frames() {
        let bytes = frame.to_bytes().unwrap();
        let on_page = shown.remove(name).unwrap_or_default();
        assert_eq!(spaced(&on_page), spaced(&bytes), "{name}");
        let mut decoded = Vec::new();
        FrameDecoder::default().feed(on_page.into(), &mut decoded).unwrap();
        assert_eq!(decoded, [frame], "{name}");
    }
    for (name, bytes) in others() {
        assert_eq!(spaced(&shown.remove(name).unwrap_or_default()), spaced(&bytes), "{name}");
    }
    assert!(shown.is_empty(), "nobody checks these: {:?}", shown.keys());
}
