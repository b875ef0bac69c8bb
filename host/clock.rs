//! The clock: the only file that may ask for the time. No row depends on it; it serves intervals, `now` columns, and questions to
//! partitions. What a simulation must control takes a [`Clock`]; the rest calls the functions.

#![expect(clippy::disallowed_methods, reason = "the one door to the machine's clock")]

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::machine;

/// The origin of [`uptime_us`] and of [`SystemClock`].
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Returns the machine's time, milliseconds since 1970 UTC.
pub fn now_ms() -> i64 {
    if let Some(machine) = machine::simulated() {
        return machine.now_ms();
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Returns a point for measuring intervals.
pub fn instant() -> Instant {
    match machine::simulated() {
        Some(machine) => *BEGAN + machine.monotonic(),
        None => Instant::now(),
    }
}

/// Returns the time that has passed since a point.
pub fn since(point: Instant) -> Duration {
    instant().saturating_duration_since(point)
}

/// Returns the microseconds since the first call, for intervals that fit in an atomic number.
pub fn uptime_us() -> u64 {
    u64::try_from(since(*BEGAN).as_micros()).unwrap_or(u64::MAX)
}

/// A source of time that can be replaced in a simulation.
pub trait Clock: Send + Sync {
    /// Returns the wall-clock time, milliseconds since 1970 UTC. It may jump in both directions.
    fn now_ms(&self) -> i64;

    /// Returns the time since a fixed origin. It never decreases.
    fn monotonic(&self) -> Duration;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        now_ms()
    }

    fn monotonic(&self) -> Duration {
        since(*BEGAN)
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    /// Wall-clock time in ms since 1970, and the time since the clock was made.
    times: Mutex<(i64, Duration)>,
}

impl ManualClock {
    /// Creates a clock whose wall-clock time is `now_ms`.
    pub fn new(now_ms: i64) -> ManualClock {
        ManualClock { times: Mutex::new((now_ms, Duration::ZERO)) }
    }

    /// Moves both times forward. The wall clock moves by whole milliseconds of the monotonic time.
    pub fn advance(&self, by: Duration) {
        let mut times = self.lock();
        let before = times.1.as_millis();
        times.1 = times.1.saturating_add(by);
        let moved = i64::try_from(times.1.as_millis() - before).unwrap_or(i64::MAX);
        times.0 = times.0.saturating_add(moved);
    }

    /// Sets the wall clock, forward or back, as an operator or NTP does. The monotonic time stays.
    pub fn set(&self, now_ms: i64) {
        self.lock().0 = now_ms;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (i64, Duration)> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.lock().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told_and_its_monotonic_time_never_back() {
        let clock = ManualClock::new(1_000);
        assert_eq!((clock.now_ms(), clock.monotonic()), (1_000, Duration::ZERO));
        clock.advance(Duration::from_micros(1_600));
        clock.advance(Duration::from_micros(400));
        assert_eq!((clock.now_ms(), clock.monotonic()), (1_002, Duration::from_millis(2)));
        clock.set(-5);
        assert_eq!((clock.now_ms(), clock.monotonic()), (-5, Duration::from_millis(2)));
    }

    #[test]
    fn the_system_clock_never_runs_backwards() {
        let before = SystemClock.monotonic();
        assert!(SystemClock.monotonic() >= before);
        assert!(SystemClock.now_ms() > 1_700_000_000_000, "it counts from 1970 in milliseconds");
    }
}
