//! The time of a storm, which all who take part share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// When the storm began, and whether it goes on.
#[derive(Debug)]
pub(crate) struct StormTime {
    began: Instant,
    has_struck: AtomicBool,
    over: AtomicBool,
    broken: AtomicBool,
}

impl StormTime {
    /// A storm that begins now.
    pub(crate) fn begin() -> StormTime {
        let no = || AtomicBool::new(false);
        StormTime { began: Instant::now(), has_struck: no(), over: no(), broken: no() }
    }

    /// How long it has been going on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// All that was planned has happened to the hosts.
    pub(crate) fn strike_no_more(&self) {
        self.has_struck.store(true, Ordering::Relaxed);
    }

    /// Waits for that.
    pub(crate) fn wait_for_strikes(&self) {
        while !self.has_struck.load(Ordering::Relaxed) && self.goes_on() {
            pause();
        }
    }

    /// There is nothing left to come.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether it goes on: it ends at once when somebody fails.
    pub(crate) fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed) && !self.broken.load(Ordering::Relaxed)
    }

    /// Whether it is over, and nobody failed: all services work.
    pub(crate) fn is_calm(&self) -> bool {
        self.over.load(Ordering::Relaxed) && !self.broken.load(Ordering::Relaxed)
    }

    /// Waits until the storm has been going on for this time; whether it still does.
    pub(crate) fn reaches(&self, at: Duration) -> bool {
        while self.elapsed() < at && self.goes_on() {
            pause();
        }
        self.goes_on()
    }

    /// The part that somebody takes in it; if that fails, so does the storm.
    pub(crate) fn with<T>(&self, part: impl FnOnce() -> T) -> T {
        struct Alarm<'a>(&'a AtomicBool);
        impl Drop for Alarm<'_> {
            fn drop(&mut self) {
                self.0.fetch_or(thread::panicking(), Ordering::Relaxed);
            }
        }
        let _alarm = Alarm(&self.broken);
        part()
    }
}

/// Between two looks at the time.
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(10));
}
