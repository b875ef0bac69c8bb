//! A pipeline at work: from a checked configuration to lanes, and back on a signal.

mod open;
pub mod reset;
pub mod run;
mod stop;
