//! How often each kind of task died and was started again, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Kind;

/// Counts since the process started. Shared by a tree, its spawners and the metrics.
#[derive(Debug, Default)]
pub struct Counters {
    kinds: [Atomics; Kind::ALL.len()],
}

#[derive(Debug, Default)]
struct Atomics {
    panics: AtomicU64,
    errors: AtomicU64,
    restarts: AtomicU64,
}

/// One kind's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Deaths by panic.
    pub panics: u64,
    /// Deaths by error.
    pub errors: u64,
    /// Restarts, also those for the sake of another's death.
    pub restarts: u64,
}

impl Counters {
    /// One kind's counts.
    #[must_use]
    pub fn get(&self, kind: Kind) -> Count {
        let Atomics { panics, errors, restarts } = self.of(kind);
        Count {
            panics: panics.load(Ordering::Relaxed),
            errors: errors.load(Ordering::Relaxed),
            restarts: restarts.load(Ordering::Relaxed),
        }
    }

    /// Every kind's counts, in the table's order.
    pub fn all(&self) -> impl Iterator<Item = (Kind, Count)> + '_ {
        Kind::ALL.iter().map(|&kind| (kind, self.get(kind)))
    }

    /// Counts a panic of a task that is watched elsewhere than in a tree or a spawner.
    pub(crate) fn panicked(&self, kind: Kind) {
        self.of(kind).panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, kind: Kind) {
        self.of(kind).errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn restarted(&self, kind: Kind) {
        self.of(kind).restarts.fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, kind: Kind) -> &Atomics {
        &self.kinds[kind as usize]
    }
}
