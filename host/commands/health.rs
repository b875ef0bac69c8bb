//! `keyfold health`: the probes of the local host, for containers and scripts.

use std::process::ExitCode;

use serde_json::json;

use crate::commands::cli::arguments::ConfigFile;
use crate::commands::client::{Client, Probe};
use crate::failure::{Exit, Failure};
use crate::report::{self, Output};

/// Asks the local host and prints its answer. Returns 0 for yes and 1 in every other case: containers know no other codes.
pub fn health(file: &ConfigFile, probe: Probe, output: Output) -> ExitCode {
    let asked = file.load().and_then(|config| match &config.admin {
        Some(admin) => Client::here(admin).and_then(|host| host.probe(probe)),
        None => {
            let message = "no host can be asked: the configuration has no section [admin]; add one";
            Err(Failure::new(Exit::Config, message))
        }
    });
    let (is_well, lines) = asked.unwrap_or_else(|failure| (false, failure.message));
    let document = json!({"healthy": is_well, "lines": lines.lines().collect::<Vec<_>>()});
    report::print(&output.render(&document, |_| lines.clone()));
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
