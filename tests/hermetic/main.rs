//! Tests that need nothing but this repository.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod author;
mod contract;
mod deploy;
mod docs;
mod doctor;
mod input;
mod inspect;
mod letters;
mod migration;
mod refusals;
mod replay;
mod replay_command;
mod tidy;
mod withdraw;
