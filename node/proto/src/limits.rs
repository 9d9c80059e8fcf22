//! What others can make a node remember or compute, as one table: docs/LIMITS.md is printed from it (a
//! test when stale), and a test finds the constant that is in no row.

use std::fmt;
use std::time::Duration;

use macula_identity::{Bundle, Subject, authority, enrolment};

use crate::wire::{self, FrameType, frame};
use crate::{dht, directory, name, payload, pubsub, record, rpc};

/// One bound.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The file below `src` whose constant it is; `identity` when it is that crate's.
    pub file: &'static str,
    /// The constant.
    pub name: &'static str,
    /// What it says.
    pub value: Value,
    /// Of what, and what happens past it.
    pub sentence: &'static str,
}

/// How much, and of what.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// So many.
    Count(usize),
    /// So many bytes.
    Bytes(usize),
    /// So long.
    Time(Duration),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Bytes(bytes) if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => {
                write!(f, "{} MiB", bytes >> 20)
            }
            Self::Bytes(bytes) if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => {
                write!(f, "{} KiB", bytes >> 10)
            }
            Self::Bytes(bytes) => write!(f, "{bytes} B"),
            Self::Time(time) => write!(f, "{} s", time.as_secs()),
        }
    }
}

/// A bound of this many.
pub(crate) const fn count(
    file: &'static str,
    name: &'static str,
    most: usize,
    sentence: &'static str,
) -> Limit {
    Limit { file, name, value: Value::Count(most), sentence }
}

/// A bound of this many bytes.
pub(crate) const fn bytes(
    file: &'static str,
    name: &'static str,
    most: usize,
    sentence: &'static str,
) -> Limit {
    Limit { file, name, value: Value::Bytes(most), sentence }
}

/// A bound of this much time.
pub(crate) const fn time(
    file: &'static str,
    name: &'static str,
    most: Duration,
    sentence: &'static str,
) -> Limit {
    Limit { file, name, value: Value::Time(most), sentence }
}

/// Every bound, by what it is about.
#[must_use]
pub fn all() -> Vec<(&'static str, Vec<Limit>)> {
    vec![
        ("Certificates and enrolment", identity()),
        ("What arrives on a stream", wire()),
        ("Names and records", records()),
        ("The distributed hash table", dht::limits::all()),
        ("Names in use", names_in_use()),
        ("Publish and subscribe", publish()),
        ("Calls", calls()),
    ]
}

fn identity() -> Vec<Limit> {
    let file = "identity";
    vec![
        bytes(
            file,
            "Subject::MAX_LENGTH",
            Subject::MAX_LENGTH,
            "A SPIFFE ID; a longer one is `no_san`.",
        ),
        count(
            file,
            "Bundle::MAX_ROOTS",
            Bundle::MAX_ROOTS,
            "Roots of a bundle, each of which a stranger's certificate may be held against.",
        ),
        bytes(
            file,
            "MAX_CSR_LENGTH",
            authority::MAX_CSR_LENGTH,
            "A request for a certificate; a longer one is not read.",
        ),
        bytes(
            file,
            "enrolment::MAX_REQUEST",
            enrolment::MAX_REQUEST,
            "An enrolment's request; a longer one is not read.",
        ),
        bytes(
            file,
            "enrolment::MAX_ANSWER",
            enrolment::MAX_ANSWER,
            "Its answer; a longer one is not read.",
        ),
    ]
}

fn wire() -> Vec<Limit> {
    vec![
        bytes(
            "wire/frame.rs",
            "FrameType::Hello.max_length()",
            FrameType::Hello.max_length(),
            "A frame of the control stream and the first of a flow; a longer one is `too_large` by its header.",
        ),
        bytes(
            "wire/frame.rs",
            "FrameType::Request.max_length()",
            FrameType::Request.max_length(),
            "A request, a response or a publish; a longer one is `too_large` by its header. A stream holds at most one that has not ended.",
        ),
        bytes(
            "wire/frame.rs",
            "MAX_UNKNOWN",
            frame::MAX_UNKNOWN,
            "A frame of an unknown type, which is skipped and not kept.",
        ),
        bytes(
            "wire.rs",
            "MAX_PAYLOAD",
            wire::MAX_PAYLOAD,
            "A payload; a longer one is `too_large`.",
        ),
        bytes(
            "payload.rs",
            "MAX_TEXT",
            payload::MAX_TEXT,
            "A content type, and the name or value of a header.",
        ),
        count("wire.rs", "MAX_HEADERS", wire::MAX_HEADERS, "Headers of a publish or a call."),
        count("wire.rs", "MAX_ADDRESSES", wire::MAX_ADDRESSES, "Addresses of one node."),
        time(
            "wire.rs",
            "MAX_RETRY_AFTER",
            wire::MAX_RETRY_AFTER,
            "How long a node leaves another alone because that one said so.",
        ),
        count(
            "wire.rs",
            "MAX_BECAUSE",
            wire::MAX_BECAUSE,
            "Characters of another node's reason for a refusal; the rest is cut.",
        ),
        count(
            "wire/limits.rs",
            "MAX_CONTACTS",
            wire::limits::MAX_CONTACTS,
            "Nodes in an answer, counted before it is decoded.",
        ),
        count(
            "wire/limits.rs",
            "MAX_RECORDS",
            wire::limits::MAX_RECORDS,
            "Records in an answer or a push, counted before it is decoded; each is one signature to verify.",
        ),
        count(
            "wire/limits.rs",
            "MAX_LOST",
            wire::limits::MAX_LOST,
            "Publishers that a push names as lost, each of which is pinged if it is shown.",
        ),
    ]
}

fn records() -> Vec<Limit> {
    vec![
        bytes(
            "name.rs",
            "LONGEST",
            name::LONGEST,
            "A topic, a pattern or a procedure; a longer one is `invalid_name`.",
        ),
        count(
            "name.rs",
            "MOST_SEGMENTS",
            name::MOST_SEGMENTS,
            "Its segments, which bound the work of matching it.",
        ),
        bytes(
            "record.rs",
            "MAX_RECORD",
            record::MAX_RECORD,
            "A signed record with its certificate; a longer one is `too_large`.",
        ),
        count(
            "wire/limits.rs",
            "MAX_PATTERNS",
            wire::limits::MAX_PATTERNS,
            "Patterns of one subscriber under one rendezvous; one who has more announces a pattern that covers them.",
        ),
        time(
            "record.rs",
            "MAX_TTL",
            record::MAX_TTL,
            "How long a record is kept, whatever it says itself.",
        ),
        count(
            "record/verifier.rs",
            "CACHE",
            record::verifier::CACHE,
            "Certificates of publishers that are remembered as verified; past it the longest unused is forgotten.",
        ),
    ]
}

fn names_in_use() -> Vec<Limit> {
    vec![
        count(
            "directory.rs",
            "CAPACITY",
            directory::CAPACITY,
            "Rendezvous, and procedures, that a node follows because its application uses them; past it the longest unused makes room.",
        ),
        time(
            "directory.rs",
            "IDLE",
            directory::IDLE,
            "How long a name is followed that nobody uses any more.",
        ),
    ]
}

fn publish() -> Vec<Limit> {
    vec![
        count(
            "pubsub.rs",
            "MAX_SUBSCRIPTIONS",
            pubsub::MAX_SUBSCRIPTIONS,
            "Subscriptions of a node; one more is `too_many`.",
        ),
        count(
            "pubsub.rs",
            "MAX_WAITING",
            pubsub::MAX_WAITING,
            "Publishes that wait for their subscribers to be found; one more is `overloaded`.",
        ),
        bytes("pubsub.rs", "MAX_WAITING_BYTES", pubsub::MAX_WAITING_BYTES, "What those may hold."),
        count(
            "pubsub.rs",
            "MAX_ROUTES",
            pubsub::MAX_ROUTES,
            "Topics whose subscribers are remembered; then all are matched again.",
        ),
        count(
            "pubsub/flow.rs",
            "MAX_ALIASES",
            pubsub::flow::MAX_ALIASES as usize,
            "Topics that a flow gives a number to; one more is `protocol`.",
        ),
        count(
            "pubsub/seen.rs",
            "MAX_PUBLISHERS",
            pubsub::seen::MAX_PUBLISHERS,
            "Publishers of whom is remembered what has arrived; past it the longest silent is forgotten.",
        ),
        count(
            "pubsub/seen.rs",
            "WINDOW",
            pubsub::seen::WINDOW as usize,
            "Messages of a publisher by which one may be late and still be told from a duplicate.",
        ),
    ]
}

fn calls() -> Vec<Limit> {
    vec![
        count(
            "rpc.rs",
            "MAX_ADVERTISED",
            rpc::MAX_ADVERTISED,
            "Procedures of a node; one more is `too_many`.",
        ),
        count(
            "rpc.rs",
            "MAX_CALLS",
            rpc::MAX_CALLS,
            "Calls of a node under way; one more is `overloaded`.",
        ),
        time(
            "rpc.rs",
            "MAX_TIMEOUT",
            rpc::MAX_TIMEOUT,
            "The longest deadline, whatever the caller asks for.",
        ),
        count(
            "rpc.rs",
            "MAX_LATENCIES",
            rpc::MAX_LATENCIES,
            "Providers whose latency is remembered; then all are measured again.",
        ),
    ]
}
