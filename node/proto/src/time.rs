//! The time, as the core is told it. The core never reads a clock.

use std::ops::Add;
use std::time::{Duration, Instant};

use macula_identity::UnixTime;

/// One reading of both clocks: deadlines count by `instant`, certificates and records by `unix_ms`.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock. Never earlier than in the call before.
    pub instant: Instant,
    /// The wall clock, in milliseconds since 1970. It may jump.
    pub unix_ms: u64,
}

impl Now {
    /// The wall clock in seconds, as certificates count.
    #[must_use]
    pub const fn unix_s(self) -> u64 {
        self.unix_ms / 1000
    }

    /// The wall clock, as the certificate verifier takes it.
    #[must_use]
    pub fn unix_time(self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_millis(self.unix_ms))
    }

    /// The instant this much later; at the end of time, now.
    #[must_use]
    pub fn after(self, later: Duration) -> Instant {
        self.instant.checked_add(later).unwrap_or(self.instant)
    }
}

impl Add<Duration> for Now {
    type Output = Self;

    /// Both clocks, this much later. Never overflows.
    fn add(self, later: Duration) -> Self {
        let milliseconds = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
        Self { instant: self.after(later), unix_ms: self.unix_ms.saturating_add(milliseconds) }
    }
}

/// When something wants to be called again, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// Not before this.
    pub at: Instant,
    /// What is due then, such as `"bucket refresh"`.
    pub reason: &'static str,
}

impl Deadline {
    /// A deadline, because of this.
    #[must_use]
    pub const fn new(at: Instant, reason: &'static str) -> Self {
        Self { at, reason }
    }

    /// The one that comes first.
    pub fn earliest(deadlines: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        deadlines.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_never_overflows() {
        let now = Now { instant: Instant::now(), unix_ms: u64::MAX - 1 };
        assert_eq!((now + Duration::MAX).unix_ms, u64::MAX);
        assert_eq!((now + Duration::from_millis(1)).unix_ms, u64::MAX);
        assert_eq!(now.after(Duration::from_secs(1)), now.instant + Duration::from_secs(1));
    }

    #[test]
    fn the_earliest_deadline_is_chosen_with_its_reason() {
        let at = Instant::now();
        let (soon, late) =
            (Deadline::new(at, "soon"), Deadline::new(at + Duration::from_secs(1), "late"));
        assert_eq!(Deadline::earliest([Some(late), None, Some(soon)]), Some(soon));
        assert_eq!(Deadline::earliest([None]), None);
    }
}
