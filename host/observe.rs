//! What a host shows of itself: the board that lanes write, and what is read from it. Nothing here is read back by a lane.

pub mod board;
pub mod ends;
pub mod health;
pub mod log;
pub mod meter;
pub mod metrics;
pub mod plugin_log;
pub mod progress;
pub mod status;
pub mod telemetry;
