//! How long an object that failed waits before it is tried again: twice as long each time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The first wait, and the longest: what fails for a moment is mended at once, what fails for a
/// day costs the API server twelve requests an hour.
pub const FIRST: Duration = Duration::from_secs(1);
/// See [`FIRST`].
pub const LONGEST: Duration = Duration::from_mins(5);

/// Counts the failures in a row of each object. Holds only those that are failing.
#[derive(Debug)]
pub struct Backoff<K> {
    failures: Mutex<HashMap<K, u32>>,
}

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self { failures: Mutex::default() }
    }
}

impl<K: Eq + Hash> Backoff<K> {
    /// One more failure of this object, and how long to wait now.
    pub fn failed(&self, key: K) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key).or_default();
        *count = count.saturating_add(1);
        delay(*count, rand::random())
    }

    /// The object is well, or gone.
    pub fn forget(&self, key: &K) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// The wait after so many failures in a row. The random part, from 0 to 1, takes up to half of it
/// away, so that those that failed together do not come back together.
#[must_use]
pub fn delay(failures: u32, random: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(30);
    let whole = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    whole.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
}

/// A period with up to a tenth more or less, so that what began together drifts apart.
#[must_use]
pub fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.9 + rand::random::<f64>() / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_wait_up_to_five_minutes() {
        let waits: Vec<_> = (1..=11).map(|failures| delay(failures, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(delay(u32::MAX, 0.0), LONGEST);
        assert_eq!(delay(0, 0.0), FIRST);
    }

    #[test]
    fn chance_shortens_a_wait_by_half_at_most() {
        assert_eq!(delay(3, 1.0), Duration::from_secs(2));
        assert_eq!(delay(3, 0.5), Duration::from_secs(3));
        assert_eq!(delay(3, 7.0), Duration::from_secs(2));
    }

    #[test]
    fn objects_fail_each_for_itself_and_success_starts_anew() {
        let backoff = Backoff::default();
        for _ in 0..20 {
            backoff.failed("a");
        }
        assert!(backoff.failed("a") >= LONGEST / 2);
        assert!(backoff.failed("b") <= FIRST);
        backoff.forget(&"a");
        assert!(backoff.failed("a") <= FIRST);
    }
}
