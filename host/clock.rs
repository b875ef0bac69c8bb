//! The only file that may ask the time. No row depends on an answer; they serve intervals, `now` columns and asking partitions.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 UTC by the machine's clock.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A point for measuring intervals.
pub fn instant() -> Instant {
    Instant::now()
}
