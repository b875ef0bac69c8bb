//! The commands: what may be asked for on the command line, and a module for each command that does more than call another part.

pub mod check;
pub mod cli;
pub mod client;
pub mod dead_letters;
pub mod demo;
pub mod doctor;
pub mod replay;
pub mod state;
pub mod status;
