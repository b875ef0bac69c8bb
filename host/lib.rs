//! keyfold
// The order of the modules is the life of a record.
pub mod config;
pub mod failure;
pub mod record;
pub mod row;
pub mod source;
pub mod sink;
pub mod dead_letter;
mod append_file;
mod backoff;
