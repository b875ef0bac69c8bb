//! keyfold
// The order of the modules is the life of a record.
pub mod cli;
pub mod config;
pub mod log;
pub mod failure;
pub mod record;
pub mod row;
pub mod source;
pub mod sink;
pub mod dead_letter;
pub mod progress;
