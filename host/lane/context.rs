//! What every part of a lane needs.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::lane::interrupt::Signals;
use crate::observe::board::LaneBoard;

/// What every part of a lane needs: its name, its clock, the signals and its board.
#[derive(Clone)]
pub(super) struct Context {
    /// The lane's name in logs.
    pub(super) name: String,
    /// The only clock that the lane asks.
    pub(super) clock: Arc<dyn Clock>,
    /// Requests to stop or to rewind.
    pub(super) signals: Signals,
    /// The lane's figures, for observers.
    pub(super) board: Arc<LaneBoard>,
}

impl Context {
    /// Whether a line that was last logged at `last` may be logged again, which it may once in `every`; notes that it is.
    pub(super) fn may_log(&self, last: &mut Option<Duration>, every: Duration) -> bool {
        let now = self.clock.monotonic();
        let may = last.is_none_or(|at| now.saturating_sub(at) >= every);
        if may {
            *last = Some(now);
        }
        may
    }
}
