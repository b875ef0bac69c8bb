//! What every part of a lane needs.

use std::sync::Arc;

use crate::clock::Clock;
use crate::lane::interrupt::Signals;
use crate::observe::board::LaneBoard;

/// What every part of a lane needs: its name, its clock, and whom it tells.
pub(super) struct Context {
    /// The lane's name in logs.
    pub(super) name: String,
    /// The only clock that the lane asks.
    pub(super) clock: Arc<dyn Clock>,
    /// What lanes tell each other.
    pub(super) signals: Signals,
    /// What observers may know of the lane.
    pub(super) board: Arc<LaneBoard>,
}
