//! Tests that need nothing but this repository.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod author;
mod contract;
mod deploy;
mod docs;
mod health;
mod input;
mod javascript;
mod metrics;
mod migration;
mod plugins;
mod refusals;
mod replay;
mod replay_command;
mod tidy;
mod withdraw;
