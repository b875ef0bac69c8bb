//! What a host publishes about itself: the board that lanes write, and everything that is read from it. Lanes never read it.

pub mod board;
pub mod ends;
pub mod health;
pub mod journal_meter;
pub mod log;
pub mod losses;
pub mod memory_meter;
pub mod meter;
pub mod metrics;
pub mod number;
pub mod plugin_log;
pub mod process;
pub mod progress;
pub mod status;
pub mod telemetry;
