#![doc = include_str!("ARCHITECTURE.md")]
// The order of the modules is the life of a record.
pub mod admin;
pub mod cli;
pub mod config;
pub mod log;
pub mod progress;
pub mod failure;
pub mod check;
pub mod run;
pub mod replay;
pub mod clock;
pub mod record;
pub mod source;
pub mod lane;
pub mod plugin;
pub mod state;
pub mod journal;
pub mod deployment;
pub mod row;
mod append_file;
mod backoff;
pub mod sink;
pub mod dead_letter;
pub mod demo;
pub mod author;
