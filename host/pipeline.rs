//! A pipeline at work: from a checked configuration to lanes, and back on a signal.

mod descriptors;
mod open;
pub mod reset;
pub mod run;
mod share;
mod stop;
mod threads;
pub mod world;
