//! The only place of the shell that reads the clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use macula_proto::identity::UnixTime;
use macula_proto::time::Now;

/// Both clocks. The monotonic one is tokio's, so that a test that pauses it pauses the node.
#[must_use]
pub fn now() -> Now {
    let unix_ms = u64::try_from(now_since_epoch().as_millis()).unwrap_or(u64::MAX);
    Now { instant: tokio::time::Instant::now().into_std(), unix_ms }
}

/// The wall clock since 1970; zero when it is set before that.
#[must_use]
pub fn now_since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The wall clock, as certificates count.
#[must_use]
pub fn unix_time() -> UnixTime {
    UnixTime::since_unix_epoch(now_since_epoch())
}
