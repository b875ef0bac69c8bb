//! `keyfold doctor`: looks at everything that a run needs and will need, and says of each thing that is wrong how it is mended. What a
//! start would refuse is looked at by the code of [`crate::commands::check`]; here is what goes wrong later: logs that are trimmed, keys that lie in
//! two partitions, clocks, rows that one node keeps. Writes one probe beside the state and deletes it, and records into a topic only where
//! it is told to.

use serde_json::json;

use crate::commands::check;
use crate::config::Config;
use crate::failure::{Check, Exit, Finding};
use crate::plugin::{INTERFACE, Plugin};
use crate::state::objects::runtime;
use crate::symptom::Symptom;
use crate::{dead_letter, sink};

mod memory;
mod source;
mod state;

/// What the doctor may do besides looking.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The topic into which records may be put to tell the broker's clock.
    pub probe_topic: Option<String>,
}

/// A line for each thing that was looked at; each that is not fine has a symptom.
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
    checks.push(memory::examine(config));
    let (state_lines, lanes) = state::examine(config, plugin.as_deref(), &runtime);
    checks.extend(source::examine(config, plugin.as_deref(), &lanes, options));
    checks.extend(state_lines);
    match &plugin {
        Some(plugin) => {
            let found = sink::examine(&config.sink, &plugin.description.tables, runtime.handle());
            checks.extend(found.into_iter().map(|check| named(check, Symptom::SinkUnusable)));
        }
        None => checks.push(check::sink_unknown()),
    }
    checks.extend(dead_letter::check(&config.dead_letters).into_iter().map(|c| named(c, Symptom::DeadLettersUnusable)));
    checks
}

/// The finding with this name, if it has none and is not of the configuration.
fn named(check: Check, symptom: Symptom) -> Check {
    match check.finding {
        Finding::Refused(Exit::Config) => check.of(Symptom::ConfigWrong),
        _ => check.of(symptom),
    }
}

/// What a plugin that loads is held to.
fn contract(config: &Config, plugin: &Plugin) -> Check {
    let limits = config.plugin.limits;
    let detail = format!(
        "{INTERFACE}, state version {}, imports nothing; an item may use {} MiB, {} units of fuel, {} rows and {} MiB of output",
        plugin.description.state_version,
        limits.memory_bytes >> 20,
        limits.fuel,
        limits.output_rows,
        limits.output_bytes >> 20
    );
    Check::fine("contract", detail)
}

/// The lines for people: what is wrong is followed by what mends it.
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

/// The whole as one line of JSON.
pub fn report(checks: &[Check]) -> String {
    let line = |check: &Check| {
        let (verdict, exit) = match check.finding {
            Finding::Fine => ("ok", None),
            Finding::Warning => ("warn", None),
            Finding::Refused(exit) => ("fail", Some(exit as u8)),
        };
        json!({
            "verdict": verdict,
            "id": check.symptom.map(Symptom::name),
            "subject": check.subject,
            "found": check.detail,
            "advice": check.symptom.map(Symptom::advice),
            "exit": exit,
        })
    };
    json!({"keyfold": env!("CARGO_PKG_VERSION"), "findings": checks.iter().map(line).collect::<Vec<_>>()}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn what_is_wrong_is_told_with_its_name_and_what_mends_it() {
        let missing = Check::refused("source", Failure::new(Exit::Outside, "no topic")).of(Symptom::TopicMissing);
        let checks = [Check::fine("plugin", "visits"), missing];
        let advised = with_advice(&checks);
        assert_eq!(advised[0], checks[0]);
        assert_eq!(advised[1].detail, format!("no topic\ntopic-missing: {}", Symptom::TopicMissing.advice()));
        let report: serde_json::Value = serde_json::from_str(&report(&checks)).expect("is JSON");
        assert_eq!(report["findings"][0]["id"], serde_json::Value::Null);
        let found = &report["findings"][1];
        assert_eq!(
            (&found["id"], &found["verdict"], &found["exit"]),
            (&json!("topic-missing"), &json!("fail"), &json!(3))
        );
    }
}
