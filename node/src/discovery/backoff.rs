//! How long to wait after the n-th failure in a row.

use std::time::Duration;

use rand::Rng;

/// Doubles with every failure, up to a longest, and spreads: between half of that and all of it,
/// so that nodes that failed together do not return together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The most after the first failure.
    pub first: Duration,
    /// The most after any.
    pub longest: Duration,
}

impl Backoff {
    /// The wait after this many failures in a row, counted from one.
    #[must_use]
    pub fn after(&self, failures: u32) -> Duration {
        let Self { first, longest } = *self;
        let doublings = failures.saturating_sub(1).min(31);
        let most = first.saturating_mul(1 << doublings).min(longest);
        most.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_longest_and_never_falls_below_half() {
        let backoff =
            Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };
        for (failures, most) in
            [(0, 500), (1, 500), (2, 1_000), (3, 2_000), (7, 30_000), (u32::MAX, 30_000)]
        {
            let most = Duration::from_millis(most);
            for _ in 0..100 {
                let wait = backoff.after(failures);
                assert!(most / 2 <= wait && wait <= most, "{wait:?} after {failures}");
            }
        }
    }
}
