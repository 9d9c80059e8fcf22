//! The kinds of metric: counters, gauges, and counters by a label from a fixed set.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Shows what was counted elsewhere.
    pub fn set_to(&self, count: u64) {
        self.0.store(count, Relaxed);
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn family(&self, name: &'static str, help: &'static str) -> Family {
        let samples = vec![(Vec::new(), self.get())];
        Family { name, help, kind: Kind::Counter, samples }
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// It is this now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// One less, but never less than none.
    pub fn dec(&self) {
        // The error is a gauge at zero, which stays there.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |value| value.checked_sub(1));
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn family(&self, name: &'static str, help: &'static str) -> Family {
        let samples = vec![(Vec::new(), self.get())];
        Family { name, help, kind: Kind::Gauge, samples }
    }
}

/// One label, or several, whose values are known when the program is written.
pub trait Label: Copy {
    /// Whether a value that was never counted is shown as zero. Not for large tables.
    const SHOW_ZERO: bool;
    /// How many values there are.
    fn count() -> usize;
    /// The place of this value among them.
    fn index(self) -> usize;
    /// Keys and values of the labels at a place.
    fn labels(index: usize) -> Vec<(&'static str, &'static str)>;
}

impl<A: Label, B: Label> Label for (A, B) {
    const SHOW_ZERO: bool = false;

    fn count() -> usize {
        A::count() * B::count()
    }

    fn index(self) -> usize {
        self.0.index() * B::count() + self.1.index()
    }

    fn labels(index: usize) -> Vec<(&'static str, &'static str)> {
        let (a, b) = (index / B::count(), index % B::count());
        [A::labels(a), B::labels(b)].concat()
    }
}

/// A counter for each value of a label.
pub struct By<L> {
    counters: Box<[Counter]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label> By<L> {
    /// One more of this.
    pub fn inc(&self, label: L) {
        self.add(label, 1);
    }

    /// So many more of this.
    pub fn add(&self, label: L, more: u64) {
        self.counters[label.index()].add(more);
    }

    /// How many of this so far.
    #[must_use]
    pub fn get(&self, label: L) -> u64 {
        self.counters[label.index()].get()
    }

    /// How many of any so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counters.iter().map(Counter::get).sum()
    }

    pub(super) fn family(&self, name: &'static str, help: &'static str) -> Family {
        let samples = self.counters.iter().map(Counter::get).enumerate();
        let samples = samples
            .filter(|(_, value)| L::SHOW_ZERO || *value > 0)
            .map(|(index, value)| (L::labels(index), value))
            .collect();
        Family { name, help, kind: Kind::Counter, samples }
    }
}

impl<L: Label> Default for By<L> {
    fn default() -> Self {
        let counters = (0..L::count()).map(|_| Counter::default()).collect();
        Self { counters, label: PhantomData }
    }
}

impl<L: Label> fmt::Debug for By<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("By").field("total", &self.total()).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
}

/// What one metric is at one moment.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<Sample>,
}

/// Labels and a value.
type Sample = (Vec<(&'static str, &'static str)>, u64);

impl Family {
    pub(super) fn counter(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Self {
        Self { name, help, kind: Kind::Counter, samples }
    }
}

/// What all metrics are at one moment, for the encoder.
#[derive(Debug)]
pub(super) struct Snapshot(pub(super) Vec<Family>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, kind, samples } in &self.0 {
            // The text encoder of the registry ends a help line with a dot; a collector's does not.
            let help = format!("{help}.");
            let kind_of_metric = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(name, &help, None, kind_of_metric)?;
            for (labels, value) in samples {
                let value: Box<dyn EncodeMetric> = match kind {
                    Kind::Counter => Box::new(ConstCounter::new(*value)),
                    Kind::Gauge => Box::new(ConstGauge::new(*value)),
                };
                // An empty set of labels would be written as `{}`.
                if labels.is_empty() {
                    value.encode(family)?;
                    break;
                }
                value.encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}
