//! What every part of a lane needs.

use std::sync::Arc;

use crate::clock::Clock;
use crate::lane::interrupt::Signals;
use crate::observe::board::LaneBoard;

/// What every part of a lane needs: its name, its clock, the signals and its board.
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
