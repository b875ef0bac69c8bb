//! `keyfold doctor`: checks what a run needs now and later, and gives advice for each problem. What a start would fail with is checked by
//! [`crate::commands::check`]; here is what fails later: trimmed logs, keys in two partitions, clocks, rows on a single node. Writes one
//! object beside the state and deletes it; writes records only to the topic named by `--probe-topic`.

use std::process::ExitCode;

use crate::commands::check;
use crate::commands::cli::arguments::ConfigFile;
use crate::config::Config;
use crate::failure::{Check, Exit, Finding};
use crate::plugin::{INTERFACE, Plugin};
use crate::report::{self, Output};
use crate::state::objects::runtime;
use crate::symptom::Symptom;
use crate::{admin, dead_letter, sink};

mod memory;
mod source;
mod state;

/// What the doctor may do beyond reading.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Topic that records may be written to, to measure the broker's clock.
    pub probe_topic: Option<String>,
}

/// Prints the checks with advice; returns the exit code.
pub fn print(file: &ConfigFile, output: Output, probe_topic: Option<String>) -> ExitCode {
    let checks = check::with_config(file, |config| examine(config, &Options { probe_topic }));
    let text = |checks: &[Check]| report::check_lines(&with_advice(checks));
    report::print(&output.render(&report::check_document(&checks), |_| text(&checks)));
    report::check_code(&checks)
}

/// Runs all checks; each one that finds a problem names its symptom.
pub fn examine(config: &Config, options: &Options) -> Vec<Check> {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(failure) => return vec![Check::refused("runtime", failure).of(Symptom::ConfigWrong)],
    };
    let (plugin_line, plugin) = check::plugin(config);
    let mut checks = vec![match plugin_line.finding {
        Finding::Refused(Exit::Config) => plugin_line.of(Symptom::PluginMissing),
        _ => plugin_line.of(Symptom::PluginRefused),
    }];
    checks.extend(plugin.as_deref().map(|plugin| contract(config, plugin)));
    checks.extend(check::secrets(config));
    checks.push(memory::examine(config));
    let (state_lines, lanes) = state::examine(config, plugin.as_deref(), &runtime);
    checks.extend(source::examine(config, plugin.as_ref(), &lanes, options));
    checks.extend(state_lines);
    match &plugin {
        Some(plugin) => {
            let found = sink::examine(&config.sink, &plugin.description.tables, runtime.handle());
            checks.extend(found.into_iter().map(|check| named(check, Symptom::SinkUnusable)));
        }
        None => checks.push(check::sink_unknown()),
    }
    checks.extend(dead_letter::check(&config.dead_letters).into_iter().map(|c| named(c, Symptom::DeadLettersUnusable)));
    checks.extend(config.admin.as_ref().and_then(admin::check));
    checks
}

/// Names the problem, unless it has a name or is one of the configuration.
fn named(check: Check, symptom: Symptom) -> Check {
    match check.finding {
        Finding::Refused(Exit::Config) => check.of(Symptom::ConfigWrong),
        _ => check.of(symptom),
    }
}

/// Returns the contract and the limits of a plugin that loads.
fn contract(config: &Config, plugin: &Plugin) -> Check {
    let limits = config.plugin.limits;
    let detail = format!(
        "{INTERFACE}, state version {}, imports nothing; limits per record, event or firing: {} MiB of memory, {} units of fuel, {} rows, {} MiB of output",
        plugin.description.state_version,
        limits.memory_bytes >> 20,
        limits.fuel,
        limits.output_rows,
        limits.output_bytes >> 20
    );
    Check::fine("contract", detail)
}

/// Appends the advice to each problem, for people.
pub fn with_advice(checks: &[Check]) -> Vec<Check> {
    let advised = |check: &Check| match check.symptom {
        Some(symptom) => {
            let detail = format!("{}\n{}: {}", check.detail, symptom.name(), symptom.advice());
            Check { detail, ..check.clone() }
        }
        None => check.clone(),
    };
    checks.iter().map(advised).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn a_problem_is_followed_by_its_name_and_advice() {
        let missing = Check::refused("source", Failure::new(Exit::Outside, "no topic")).of(Symptom::TopicMissing);
        let checks = [Check::fine("plugin", "visits"), missing];
        let advised = with_advice(&checks);
        assert_eq!(advised[0], checks[0]);
        assert_eq!(advised[1].detail, format!("no topic\ntopic-missing: {}", Symptom::TopicMissing.advice()));
    }
}
