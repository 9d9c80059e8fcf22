//! Everything that a node counts, in one table, and how it is shown to Prometheus.
//!
//! The names and labels are a contract (docs/API.md lists the endpoint): they name no realm, no
//! topic and no procedure, because whoever may read metrics need not be of the realm.

mod value;

use macula_proto::Code;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use value::{Family, Snapshot};

pub use value::{By, Counter, Gauge, Label};

use crate::supervise::{Count, Counters, Kind};

/// Counters of one label, a failure's code.
pub type ByCode = By<Code>;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

macro_rules! metrics {
    ($($name:ident: $kind:ident $(<$label:ty>)? = $help:literal;)*) => {
        /// The counters and gauges of one node. Shared by all of its tasks.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $name: $kind $(<$label>)?,)*
        }

        impl Metrics {
            fn families(&self) -> Vec<Family> {
                vec![$(self.$name.family(stringify!($name), $help),)*]
            }
        }
    };
}

metrics! {
    // The DHT.
    lookups_started: Counter = "Iterative DHT lookups begun";
    lookups_completed: Counter = "Iterative DHT lookups that ended, whatever they found";
    lookup_requests: Counter = "Requests sent by DHT lookups";
    requests_over_budget: Counter = "Requests of other nodes refused because one asked too often";
    records_refused: Counter = "DHT records refused, as a storer or as a reader";
    records_evicted: Counter = "DHT records that made room for others";
    records_replicated: Counter = "DHT records of others sent to where they belong";
    dht_contacts: Gauge = "Nodes in the DHT's routing tables";
    dht_records: Gauge = "DHT records stored for other nodes";
    dht_leases: Gauge = "Leases given to nodes that follow a key";
    dht_followed: Gauge = "Names that this node follows in the DHT";

    // What is kept on disk.
    disk_writes: Counter = "Transactions written to the file of DHT records and contacts";
    disk_failures: Counter = "Attempts to open, read or write that file that failed";
    disk_files_set_aside: Counter = "Files of DHT records and contacts that were damaged or of another node";
    disk_records_restored: Counter = "DHT records that stand again since they were on disk";
    disk_records_dropped: By<Code> = "DHT records on disk that did not stand again, by code";
    disk_bytes: Gauge = "Size of the file of DHT records and contacts";

    // Connections between nodes.
    connections: Gauge = "Open QUIC connections to other nodes";
    connections_dialled: Counter = "QUIC connections made to another node";
    connections_accepted: Counter = "QUIC connections made by another node";
    connections_closed: By<Code> = "QUIC connections that ended, by close code";
    handshakes_refused: By<Code> = "Handshakes that either side refused, by close code";
    handshakes_under_way: Gauge = "Handshakes begun by other nodes and not complete yet";
    datagrams_dropped: By<DatagramDrop> = "UDP datagrams dropped on arrival";

    // Publish and subscribe.
    messages_published: Counter = "Messages published by this node's application";
    messages_sent: Counter = "Copies of messages handed to the flows to other nodes";
    messages_received: Counter = "Messages that arrived from other nodes";
    messages_delivered: Counter = "Messages handed to a subscription's queue";
    messages_duplicate: Counter = "Messages that arrived a second time";
    messages_unmatched: Counter = "Messages that arrived and that no subscription matched";
    messages_dropped: By<MessageDrop> = "Messages lost at a bounded queue or an unreachable node";
    gaps: Counter = "Gap notices given to subscriptions";
    subscriptions: Gauge = "Open subscriptions";

    // Calls.
    calls_started: Counter = "Calls begun by this node's application";
    calls_failed: By<Code> = "Calls of this node's application that failed, by code";
    calls_served: Counter = "Calls answered by this node's handlers";

    // The local HTTP API.
    http_requests: By<(Endpoint, Class)> = "HTTP requests answered, by endpoint and class of status";
    http_refused: By<Code> = "HTTP requests answered with a problem document, by code";
    http_connections: Gauge = "Open HTTP connections";

    // The node itself.
    certificate_seconds_left: Gauge = "Seconds until the node's certificate expires";
    identity_reload_failures: Counter = "Attempts to load or renew the identity that failed";
    enrolments: Counter = "Certificates that enrolment brought";
    enrolment_failures: By<Code> = "Enrolment requests that brought none, by code";
    counts_refused: Counter = "Connections for the counts that did not prove to be the operator's";
    seeds_resolved: Gauge = "Addresses that the seeds' names resolve to now";
}

impl Metrics {
    /// All of them and the supervisor's as OpenMetrics text, each with its help.
    #[must_use]
    pub fn render(&self, tasks: &Counters) -> String {
        let mut families = self.families();
        families.extend(tasks_families(tasks));
        let mut registry = Registry::with_prefix("macula");
        registry.register_collector(Box::new(Snapshot(families)));
        let mut out = String::new();
        text::encode(&mut out, &registry).expect("writing to a string does not fail");
        out
    }
}

/// What the supervisor counts, for each kind of task.
fn tasks_families(tasks: &Counters) -> [Family; 3] {
    let by_kind = |name, help, value: fn(Count) -> u64| {
        let sample = |(kind, count): (Kind, Count)| (vec![("kind", kind.name())], value(count));
        Family::counter(name, help, tasks.all().map(sample).collect())
    };
    [
        by_kind("tasks_panicked", "Tasks that panicked, by kind", |count| count.panics),
        by_kind("tasks_failed", "Tasks that ended with an error, by kind", |count| count.errors),
        by_kind("tasks_restarted", "Tasks that were started again, by kind", |count| {
            count.restarts
        }),
    ]
}

macro_rules! labels {
    ($(#[$doc:meta])* $Name:ident, $key:literal: $($Variant:ident = $value:literal, $why:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Name {
            $(#[doc = $why] $Variant,)*
        }

        impl $Name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$Variant,)*];
        }

        impl Label for $Name {
            const SHOW_ZERO: bool = true;

            fn count() -> usize {
                Self::ALL.len()
            }

            fn index(self) -> usize {
                self as usize
            }

            fn labels(index: usize) -> Vec<(&'static str, &'static str)> {
                let value = match Self::ALL[index] { $(Self::$Variant => $value,)* };
                vec![($key, value)]
            }
        }
    };
}

labels! {
    /// Why a UDP datagram was dropped on arrival.
    DatagramDrop, "reason":
    NotQuic = "not_quic", "It is not a QUIC packet.";
    UnknownVersion = "unknown_version", "It asks for a QUIC version that is not spoken here.";
    UnknownConnection = "unknown_connection", "It is of no connection that exists.";
}

labels! {
    /// Where a message was lost.
    MessageDrop, "where":
    Flow = "flow", "The queue to another node was full.";
    Subscription = "subscription", "The queue of a subscription was full.";
    Unreachable = "unreachable", "A subscriber's node could not be reached.";
}

labels! {
    /// An endpoint of the HTTP API.
    Endpoint, "endpoint":
    Publish = "publish", "`POST /v1/publish/{topic}`";
    Subscribe = "subscribe", "`GET /v1/subscribe`";
    Call = "call", "`POST /v1/call/{procedure}`";
    Advertise = "advertise", "`PUT` and `DELETE /v1/advertise/{procedure}`";
    Status = "status", "`GET /v1/status`";
    Ping = "ping", "`POST /v1/ping/{target}`";
    Health = "health", "`GET /healthz/…`";
    Metrics = "metrics", "`GET /metrics`";
    Other = "other", "Whatever is none of these, or could not be read.";
}

labels! {
    /// The class of an HTTP status (RFC 9110 §15).
    Class, "status":
    Success = "2xx", "The request was done.";
    Redirect = "3xx", "Look elsewhere; the API never says so.";
    Client = "4xx", "The request was refused.";
    Server = "5xx", "The node, or a node behind it, could not do it.";
}

impl Class {
    /// The class of this status.
    #[must_use]
    pub fn of(status: u16) -> Self {
        match status {
            ..300 => Self::Success,
            300..400 => Self::Redirect,
            400..500 => Self::Client,
            500.. => Self::Server,
        }
    }
}

impl Label for Code {
    const SHOW_ZERO: bool = false;

    fn count() -> usize {
        Self::ALL.len()
    }

    fn index(self) -> usize {
        self as usize
    }

    fn labels(index: usize) -> Vec<(&'static str, &'static str)> {
        vec![("code", Self::ALL[index].name())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_counted_under_its_own_name() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(code.index(), index, "{code}");
        }
    }

    #[test]
    fn shows_counters_gauges_and_labels_with_their_help() {
        let metrics = Metrics::default();
        metrics.lookups_started.inc();
        metrics.lookups_started.add(2);
        metrics.connections.set(4);
        metrics.connections_closed.inc(Code::RealmMismatch);
        metrics.http_requests.inc((Endpoint::Publish, Class::of(202)));
        let text = metrics.render(&Counters::default());
        for line in [
            "# HELP macula_lookups_started Iterative DHT lookups begun.",
            "# TYPE macula_lookups_started counter",
            "macula_lookups_started_total 3",
            "# TYPE macula_connections gauge",
            "macula_connections 4",
            r#"macula_connections_closed_total{code="realm_mismatch"} 1"#,
            r#"macula_datagrams_dropped_total{reason="not_quic"} 0"#,
            r#"macula_http_requests_total{endpoint="publish",status="2xx"} 1"#,
            r#"macula_tasks_panicked_total{kind="mesh"} 0"#,
        ] {
            assert!(text.lines().any(|have| have == line), "no line {line:?} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_code_that_never_happened_takes_no_line() {
        assert!(!Metrics::default().render(&Counters::default()).contains("code="));
    }

    #[test]
    fn a_gauge_never_goes_below_zero() {
        let gauge = Gauge::default();
        gauge.dec();
        assert_eq!(gauge.get(), 0);
    }
}
