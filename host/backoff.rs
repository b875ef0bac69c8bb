//! How an outage is waited for: in growing pauses, with a warning now and then. Owns the pauses, not the decision what is an outage. It
//! blocks, because the sink and the dead letters have a thread of their own, and everything behind it is to wait.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::clock;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// At most one warning in this time: an outage is one event, not one per attempt.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(10);

/// What others may know of a thing that may be away.
#[derive(Debug, Default)]
pub struct Outage {
    /// Since when it is away, ms since 1970; 0 while it answers.
    since_ms: AtomicI64,
    retries: AtomicU64,
    /// When it answered again, by [`clock::uptime_us`]; 0 if it was never away.
    back_us: AtomicU64,
}

impl Outage {
    /// Since when it is away, ms since 1970; none while it answers.
    pub fn since_ms(&self) -> Option<i64> {
        Some(self.since_ms.load(Relaxed)).filter(|since| *since != 0)
    }

    /// For how long it has answered, microseconds; 0 while it is away.
    pub fn answers_us(&self) -> u64 {
        match self.since_ms() {
            Some(_) => 0,
            None => clock::uptime_us().saturating_sub(self.back_us.load(Relaxed)),
        }
    }

    /// Attempts that failed and were repeated.
    pub fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }
}

/// The pauses of one thing that may be away.
#[derive(Debug)]
pub(crate) struct Backoff {
    what: String,
    next: Duration,
    since: Option<Instant>,
    warned: Option<Instant>,
    outage: Arc<Outage>,
}

impl Backoff {
    /// For `what`, as the warnings name it.
    pub(crate) fn new(what: impl Into<String>) -> Backoff {
        Backoff::known_by(what, Arc::default())
    }

    /// For `what`, of which others know by `outage`.
    pub(crate) fn known_by(what: impl Into<String>, outage: Arc<Outage>) -> Backoff {
        Backoff { what: what.into(), next: FIRST, since: None, warned: None, outage }
    }

    /// What others may know of it.
    pub(crate) fn outage(&self) -> Arc<Outage> {
        Arc::clone(&self.outage)
    }

    /// An attempt failed with `error`: warns if it is time to, and waits.
    pub(crate) fn pause(&mut self, error: &dyn Display) {
        self.warn(error);
        std::thread::sleep(self.step());
    }

    /// As [`Backoff::pause`], but without waiting: for what does its own.
    pub(crate) fn warn(&mut self, error: &dyn Display) {
        let now = Instant::now();
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

    /// As [`Backoff::pause`], but false instead of a wait past `deadline`; without a deadline there is one attempt only.
    pub(crate) fn pause_until(&mut self, deadline: Option<Instant>, error: &dyn Display) -> bool {
        let wait = self.step();
        if deadline.is_none_or(|deadline| Instant::now() + wait > deadline) {
            return false;
        }
        self.warn(error);
        std::thread::sleep(wait);
        true
    }

    /// An attempt succeeded.
    pub(crate) fn over(&mut self) {
        if let Some(since) = self.since.take() {
            self.outage.back_us.store(clock::uptime_us(), Relaxed);
            self.outage.since_ms.store(0, Relaxed);
            tracing::info!(
                event = "available-again",
                what = self.what,
                seconds = since.elapsed().as_secs(),
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
    fn pauses_double_from_100_ms_to_10_s_and_begin_anew_after_success() {
        let mut backoff = Backoff::new("test");
        let pauses: Vec<u128> = (0..9).map(|_| backoff.step().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.over();
        assert_eq!(backoff.step(), FIRST);
    }

    #[test]
    fn nothing_is_tried_again_without_a_deadline_or_past_it() {
        assert!(!Backoff::new("test").pause_until(None, &"away"));
        assert!(!Backoff::new("test").pause_until(Some(Instant::now()), &"away"));
    }

    #[test]
    fn others_know_of_an_outage_from_its_first_failure_to_its_end() {
        let began = clock::uptime_us();
        let mut backoff = Backoff::new("test");
        let outage = backoff.outage();
        assert_eq!((outage.since_ms(), outage.retries()), (None, 0));
        backoff.warn(&"away");
        backoff.warn(&"away");
        assert!(outage.since_ms().is_some());
        assert_eq!(outage.answers_us(), 0);
        std::thread::sleep(Duration::from_millis(2));
        backoff.over();
        assert_eq!((outage.since_ms(), outage.retries()), (None, 2));
        assert!(outage.answers_us() < clock::uptime_us() - began);
    }
}
