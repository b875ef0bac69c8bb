//! Interrupts: why a lane stops before its source ends, and the signals by which host and lanes request it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::failure::Failure;

/// Why a lane stops in the middle of its work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// All lanes must resume at an earlier point of the log. What was folded since the last checkpoint may not hold any more.
    Rewind,
    /// A stop was requested, and the sink does not acknowledge; or the lane is another host's already. Nothing is lost: whoever opens the
    /// lane next resumes from the last checkpoint.
    Abandoned,
    /// The host must stop.
    Failed(Failure),
}

impl<E> From<E> for Interrupt
where
    Failure: From<E>,
{
    fn from(error: E) -> Interrupt {
        Interrupt::Failed(error.into())
    }
}

/// What a host requests of one lane, because the consumer group gives it to another host.
#[derive(Debug, Default)]
pub struct Notice(AtomicU8);

/// The lane is to drain and to write a checkpoint.
const RELEASE: u8 = 1;
/// The lane is to stop where it is: another host may have taken over.
const DROP: u8 = 2;

impl Notice {
    /// Requests that the lane drains, writes a checkpoint and ends.
    pub fn release(&self) {
        self.0.fetch_max(RELEASE, Ordering::Relaxed);
    }

    /// Requests that the lane ends where it is.
    pub fn abandon(&self) {
        self.0.fetch_max(DROP, Ordering::Relaxed);
    }

    /// Whether the lane is to end.
    pub fn is_given(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed) == DROP
    }
}

/// The requests that host and lanes make of lanes.
#[derive(Clone, Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    rewind: Arc<AtomicBool>,
    notice: Arc<Notice>,
}

impl Signals {
    /// Wraps the host's flags: `stop` is raised by a signal or a failed lane, `rewind` when all lanes must resume at an earlier point of
    /// the log.
    pub fn new(stop: &Arc<AtomicBool>, rewind: &Arc<AtomicBool>) -> Signals {
        Signals { stop: Arc::clone(stop), rewind: Arc::clone(rewind), notice: Arc::default() }
    }

    /// Adds what the host requests of this lane alone.
    pub fn with(self, notice: &Arc<Notice>) -> Signals {
        Signals { notice: Arc::clone(notice), ..self }
    }

    /// Whether the lane is to drain and to end.
    pub(super) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.notice.is_given()
    }

    /// Whether the lane is to end where it is.
    pub(super) fn is_lost(&self) -> bool {
        self.notice.is_lost()
    }

    /// Whether all lanes are to rewind.
    pub(super) fn rewind_requested(&self) -> bool {
        self.rewind.load(Ordering::Relaxed)
    }

    /// Interrupts the lane if any lane has requested a rewind, or if the lane is another host's.
    pub(super) fn check(&self) -> Result<(), Interrupt> {
        match (self.rewind_requested(), self.is_lost()) {
            (true, _) => Err(Interrupt::Rewind),
            (_, true) => Err(Interrupt::Abandoned),
            (false, false) => Ok(()),
        }
    }

    /// Requests that all lanes rewind; returns this lane's interrupt.
    pub(super) fn request_rewind(&self) -> Interrupt {
        self.rewind.store(true, Ordering::Relaxed);
        Interrupt::Rewind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_rewind_that_one_lane_requests_interrupts_every_lane() {
        let signals = Signals::new(&Arc::default(), &Arc::default());
        let other = signals.clone();
        assert_eq!(other.check(), Ok(()));
        assert_eq!(signals.request_rewind(), Interrupt::Rewind);
        assert_eq!(other.check(), Err(Interrupt::Rewind));
        assert!(!other.stop_requested());
    }

    #[test]
    fn a_notice_concerns_one_lane() {
        let (stop, rewind, notice) = (Arc::default(), Arc::default(), Arc::<Notice>::default());
        let (lane, other) = (Signals::new(&stop, &rewind).with(&notice), Signals::new(&stop, &rewind));
        notice.release();
        assert_eq!((lane.stop_requested(), lane.check()), (true, Ok(())), "it drains");
        notice.abandon();
        notice.release();
        assert_eq!((lane.stop_requested(), lane.check()), (true, Err(Interrupt::Abandoned)));
        assert_eq!((other.stop_requested(), other.check()), (false, Ok(())));
    }

    #[test]
    fn an_error_travels_as_a_failure() {
        let fails = || -> Result<(), Interrupt> { Err(Failure::new(Exit::State, "fenced"))? };
        assert_eq!(fails(), Err(Interrupt::Failed(Failure::new(Exit::State, "fenced"))));
    }
}
