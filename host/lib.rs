#![doc = include_str!("ARCHITECTURE.md")]
// The order of the modules is that of the layers: each uses only those above it.
pub mod record;
pub mod event_time;
pub mod position;
pub mod strike;
pub mod row;
pub mod counts;
pub mod symptom;
pub mod failure;
pub mod printable;
pub mod machine;
pub mod clock;
pub mod backoff;
mod paths;
mod append_file;
mod private;
mod watched;
mod tls;
pub mod config;
pub mod observe;
pub mod report;
pub mod source;
pub mod plugin;
pub mod state;
pub mod dead_letter;
pub mod sink;
pub mod deployment;
pub mod lane;
pub mod rollout;
pub mod admin;
pub mod pipeline;
pub mod author;
pub mod commands;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
