//! The only file that may ask the time. No row depends on an answer; they serve intervals, `now` columns and asking partitions.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What [`uptime_us`] counts from.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since 1970 UTC by the machine's clock.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A point for measuring intervals.
pub fn instant() -> Instant {
    Instant::now()
}

/// The time since `instant`.
pub fn since(instant: Instant) -> Duration {
    instant.elapsed()
}

/// Microseconds since this was first asked: intervals that fit an atomic number.
pub fn uptime_us() -> u64 {
    u64::try_from(BEGAN.elapsed().as_micros()).unwrap_or(u64::MAX)
}
