//! Tests that need nothing but this repository.

#![expect(clippy::disallowed_methods, reason = "real processes are waited for by the machine's clock")]

#[path = "../hostile/mod.rs"]
mod hostile;
#[path = "../support/mod.rs"]
mod support;

mod admin_tls;
mod audit;
mod author;
mod contract;
mod deploy;
mod docs;
mod doctor;
mod files;
mod health;
mod input;
mod inspect;
mod javascript;
mod letters;
mod losses;
mod metrics;
mod migration;
mod output;
mod ownership;
mod plugins;
mod power_cut;
mod refusals;
mod replay;
mod replay_command;
mod standard_input;
mod state;
mod stopping;
mod tidy;
mod timestamps;
mod unfit;
mod withdraw;
