//! Waiting: pauses between retries during an outage, and the only place that sleeps. What counts as an outage is decided elsewhere.
//! Waiting blocks the thread: the sink and the dead letters have a thread of their own, and everything behind it has to wait.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::{clock, machine};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// At most one warning in this time: an outage is one event, not one per attempt.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(10);

/// Sleeps. Every other module waits through this function, so that the places that block can be found.
#[expect(clippy::disallowed_methods, reason = "the one door to sleeping")]
pub(crate) fn pause(time: Duration) {
    match machine::simulated() {
        Some(machine) => machine.pause(time),
        None => std::thread::sleep(time),
    }
}

/// The availability of an external system, for probes and metrics.
#[derive(Debug, Default)]
pub struct Outage {
    /// Start of the outage, ms since 1970; 0 while the system is available.
    since_ms: AtomicI64,
    retries: AtomicU64,
    /// End of the last outage, by [`clock::uptime_us`]; 0 if there was none.
    ended_us: AtomicU64,
}

impl Outage {
    /// Returns the start of the outage, ms since 1970; none while the system is available.
    pub fn since_ms(&self) -> Option<i64> {
        Some(self.since_ms.load(Relaxed)).filter(|since| *since != 0)
    }

    /// Returns for how long the system has been available, microseconds; 0 during an outage.
    pub fn available_us(&self) -> u64 {
        match self.since_ms() {
            Some(_) => 0,
            None => clock::uptime_us().saturating_sub(self.ended_us.load(Relaxed)),
        }
    }

    /// Returns the number of failed attempts that were retried.
    pub fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }
}

/// The retries against one external system.
#[derive(Debug)]
pub(crate) struct Backoff {
    what: String,
    next: Duration,
    since: Option<Instant>,
    warned: Option<Instant>,
    outage: Arc<Outage>,
}

impl Backoff {
    /// Creates the retries against `what`, as log lines name it.
    pub(crate) fn new(what: impl Into<String>) -> Backoff {
        Backoff::publishing(what, Arc::default())
    }

    /// Creates the retries against `what`, whose availability is published in `outage`.
    pub(crate) fn publishing(what: impl Into<String>, outage: Arc<Outage>) -> Backoff {
        Backoff { what: what.into(), next: FIRST, since: None, warned: None, outage }
    }

    /// Returns the availability of the system.
    pub(crate) fn outage(&self) -> Arc<Outage> {
        Arc::clone(&self.outage)
    }

    /// Waits before the next attempt after one failed with `error`; warns now and then.
    pub(crate) fn pause(&mut self, error: &dyn Display) {
        self.warn(error);
        let wait = self.step();
        pause(wait);
    }

    /// Does the same without waiting, for callers that wait themselves.
    pub(crate) fn warn(&mut self, error: &dyn Display) {
        let now = clock::instant();
        if self.since.is_none() {
            self.since = Some(now);
            self.outage.since_ms.store(clock::now_ms(), Relaxed);
        }
        self.outage.retries.fetch_add(1, Relaxed);
        if self.warned.is_none_or(|last| now.duration_since(last) >= BETWEEN_WARNINGS) {
            self.warned = Some(now);
            tracing::warn!(event = "unavailable", what = self.what, %error, "unavailable; retrying");
        }
    }

    /// Does the same, but returns false instead of waiting past `deadline`. Without a deadline there is only one attempt.
    pub(crate) fn pause_until(&mut self, deadline: Option<Instant>, error: &dyn Display) -> bool {
        let wait = self.step();
        if deadline.is_none_or(|deadline| clock::instant() + wait > deadline) {
            return false;
        }
        self.warn(error);
        pause(wait);
        true
    }

    /// Ends the outage after a successful attempt.
    pub(crate) fn over(&mut self) {
        if let Some(since) = self.since.take() {
            self.outage.ended_us.store(clock::uptime_us(), Relaxed);
            self.outage.since_ms.store(0, Relaxed);
            tracing::info!(
                event = "available-again",
                what = self.what,
                seconds = clock::since(since).as_secs(),
                "available again"
            );
        }
        self.next = FIRST;
        self.warned = None;
    }

    fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_100_ms_to_10_s_and_start_over_after_success() {
        let mut backoff = Backoff::new("test");
        let pauses: Vec<u128> = (0..9).map(|_| backoff.step().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.over();
        assert_eq!(backoff.step(), FIRST);
    }

    #[test]
    fn nothing_is_retried_without_a_deadline_or_past_it() {
        assert!(!Backoff::new("test").pause_until(None, &"away"));
        assert!(!Backoff::new("test").pause_until(Some(clock::instant()), &"away"));
    }

    #[test]
    fn an_outage_is_published_from_its_first_failure_to_its_end() {
        let began = clock::uptime_us();
        let mut backoff = Backoff::new("test");
        let outage = backoff.outage();
        assert_eq!((outage.since_ms(), outage.retries()), (None, 0));
        backoff.warn(&"away");
        backoff.warn(&"away");
        assert!(outage.since_ms().is_some());
        assert_eq!(outage.available_us(), 0);
        pause(Duration::from_millis(2));
        backoff.over();
        assert_eq!((outage.since_ms(), outage.retries()), (None, 2));
        assert!(outage.available_us() < clock::uptime_us() - began);
    }
}
