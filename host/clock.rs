//! The clock: the only file that may ask for the time. No row depends on it; it serves intervals, `now` columns, and questions to
//! partitions.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The origin of [`uptime_us`].
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Returns the machine's time, milliseconds since 1970 UTC.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Returns a point for measuring intervals.
pub fn instant() -> Instant {
    Instant::now()
}

/// Returns the time that has passed since a point.
pub fn since(point: Instant) -> Duration {
    instant().saturating_duration_since(point)
}

/// Returns the microseconds since the first call, for intervals that fit in an atomic number.
pub fn uptime_us() -> u64 {
    u64::try_from(BEGAN.elapsed().as_micros()).unwrap_or(u64::MAX)
}
