//! Interrupts: why a lane stops before its source ends, and the signals by which host and lanes request it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

/// Why a lane stops in the middle of its work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// All lanes must resume at an earlier point of the log. What was folded since the last checkpoint may not hold any more.
    Rewind,
    /// A stop was requested, and the sink does not acknowledge. Nothing is lost: the next start resumes from the last checkpoint.
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

/// The requests that host and lanes make of all lanes.
#[derive(Clone, Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    rewind: Arc<AtomicBool>,
}

impl Signals {
    /// Wraps the host's flags: `stop` is raised by a signal or a failed lane, `rewind` when all lanes must resume at an earlier point of
    /// the log.
    pub fn new(stop: &Arc<AtomicBool>, rewind: &Arc<AtomicBool>) -> Signals {
        Signals { stop: Arc::clone(stop), rewind: Arc::clone(rewind) }
    }

    /// Whether the host is to stop.
    pub(super) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether all lanes are to rewind.
    pub(super) fn rewind_requested(&self) -> bool {
        self.rewind.load(Ordering::Relaxed)
    }

    /// Interrupts the lane if any lane has requested a rewind.
    pub(super) fn check_rewind(&self) -> Result<(), Interrupt> {
        if self.rewind_requested() { Err(Interrupt::Rewind) } else { Ok(()) }
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
        assert_eq!(other.check_rewind(), Ok(()));
        assert_eq!(signals.request_rewind(), Interrupt::Rewind);
        assert_eq!(other.check_rewind(), Err(Interrupt::Rewind));
        assert!(!other.stop_requested());
    }

    #[test]
    fn an_error_travels_as_a_failure() {
        let fails = || -> Result<(), Interrupt> { Err(Failure::new(Exit::State, "fenced"))? };
        assert_eq!(fails(), Err(Interrupt::Failed(Failure::new(Exit::State, "fenced"))));
    }
}
