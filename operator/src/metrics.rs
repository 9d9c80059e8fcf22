//! What the operator counts: nothing by object, so that a large cluster costs no more than a small one.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A reconcile, by the kind of object and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reconcile {
    /// `mesh`, `realm` or `trust`.
    pub kind: &'static str,
    /// `ok`, `error` or `timeout`.
    pub result: &'static str,
}

/// What came of something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// A stable word: `ok`, or the code of the refusal.
    pub result: &'static str,
}

/// Which certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Certificate {
    /// `operator_ca` or `serving`.
    pub certificate: &'static str,
}

/// All of them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Reconciles, by kind and result.
    pub reconciles: Family<Reconcile, Counter>,
    /// How long they took.
    pub reconcile_seconds: Histogram,
    /// Enrolment requests, by result.
    pub enrolments: Family<Outcome, Counter>,
    /// Pods that the webhook was asked about, by result.
    pub injections: Family<Outcome, Counter>,
    /// How long the webhook took.
    pub injection_seconds: Histogram,
    /// Running pods that should carry a sidecar and do not.
    pub sidecars_missing: Gauge<u64, AtomicU64>,
    /// When certificates end, in seconds since 1970.
    pub certificate_expiry: Family<Certificate, Gauge<u64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("macula_operator");
        let latency = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let (reconciles, enrolments, injections, certificate_expiry) =
            (Family::default(), Family::default(), Family::default(), Family::default());
        let (reconcile_seconds, injection_seconds) = (latency(), latency());
        let sidecars_missing = Gauge::default();
        registry.register(
            "reconcile",
            "Reconciles, by kind and result",
            Family::clone(&reconciles),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "How long reconciles took",
            Unit::Seconds,
            Histogram::clone(&reconcile_seconds),
        );
        registry.register(
            "enrolments",
            "Enrolment requests, by result",
            Family::clone(&enrolments),
        );
        registry.register(
            "injections",
            "Pods that the webhook was asked about, by result",
            Family::clone(&injections),
        );
        registry.register_with_unit(
            "injection_duration",
            "How long the webhook took",
            Unit::Seconds,
            Histogram::clone(&injection_seconds),
        );
        registry.register(
            "sidecars_missing",
            "Running pods that should carry a sidecar and do not",
            Gauge::clone(&sidecars_missing),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When certificates of the operator end",
            Family::clone(&certificate_expiry),
        );
        Self {
            registry,
            reconciles,
            reconcile_seconds,
            enrolments,
            injections,
            injection_seconds,
            sidecars_missing,
            certificate_expiry,
        }
    }
}

impl Metrics {
    /// Counts a reconcile.
    pub fn on_reconcile(&self, kind: &'static str, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Reconcile { kind, result }).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// All of them as OpenMetrics text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("writing to a string does not fail");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.on_reconcile("mesh", "ok", Duration::from_millis(3));
        metrics.enrolments.get_or_create(&Outcome { result: "not_a_member" }).inc();
        let text = metrics.render();
        for line in [
            r#"macula_operator_reconcile_total{kind="mesh",result="ok"} 1"#,
            r#"macula_operator_enrolments_total{result="not_a_member"} 1"#,
            "macula_operator_reconcile_duration_seconds_count 1",
            "macula_operator_sidecars_missing 0",
        ] {
            assert!(text.lines().any(|have| have == line), "no {line:?} in\n{text}");
        }
    }
}
