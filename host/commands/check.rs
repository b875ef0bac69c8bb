//! `keyfold check`: checks everything that a run needs, and changes nothing. Each line comes from the code that `run` starts with, so a
//! FAIL here is what a run would fail with. Beside that, it warns of what a run would do without a failure: reject most of the records.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;

use crate::clock;
use crate::commands::cli::arguments::ConfigFile;
use crate::config::Config;
use crate::deployment::{PipelineLog, Standing};
use crate::failure::{Check, Failure};
use crate::plugin::Plugin;
use crate::plugin::sandbox::load_plugin;
use crate::report::{self, Output};
use crate::rollout::order;
use crate::source::log_source::LogSource;
use crate::state::objects::{objects, runtime};
use crate::symptom::Symptom;
use crate::{admin, dead_letter, sink};

pub(crate) mod sample;

/// Prints the checks of a configuration and of everything that it names; returns the exit code.
pub fn print(file: &ConfigFile, output: Output) -> ExitCode {
    let checks = with_config(file, check);
    report::print(&output.render(&report::check_document(&checks), |_| report::check_lines(&checks)));
    report::check_code(&checks)
}

/// Returns the check of the configuration, followed by `more` if it is valid.
pub(crate) fn with_config(file: &ConfigFile, more: impl FnOnce(&Config) -> Vec<Check>) -> Vec<Check> {
    match file.load() {
        Ok(config) => {
            let own = Check::fine("config", file.path().display().to_string());
            std::iter::once(own).chain(more(&config)).collect()
        }
        Err(failure) => vec![Check::refused("config", failure).of(Symptom::ConfigWrong)],
    }
}

/// Checks plugin, source, state, sink and dead letters.
pub fn check(config: &Config) -> Vec<Check> {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(failure) => return vec![Check::refused("runtime", failure)],
    };
    let (plugin_line, plugin) = plugin(config);
    let (source_line, source) = source(config);
    let mut checks = vec![plugin_line];
    checks.extend(secrets(config));
    checks.extend([source_line, state(config, plugin.as_deref(), &runtime)]);
    checks.extend(source.as_ref().and_then(|source| topic(config, source, &runtime)));
    if let Some((plugin, source)) = plugin.as_ref().zip(source.as_ref()) {
        checks.extend(sampled(config, plugin, source));
    }
    match &plugin {
        Some(plugin) => checks.extend(sink::check(&config.sink, &plugin.description.tables, runtime.handle())),
        None => checks.push(sink_unknown()),
    }
    checks.extend(dead_letter::check(&config.dead_letters));
    checks.extend(config.admin.as_ref().and_then(admin::check));
    checks
}

/// Checks the plugin; returns it if it would run.
pub(crate) fn plugin(config: &Config) -> (Check, Option<Arc<Plugin>>) {
    match load_plugin(config) {
        Ok((plugin, _)) => {
            let description = &plugin.description;
            let detail = format!("{} {}, SHA-256 {}", description.name, description.version, plugin.digest.0);
            (Check::fine("plugin", detail), Some(plugin))
        }
        Err(failure) => (Check::refused("plugin", failure), None),
    }
}

/// Parts of the names of keys that hold secrets.
const SECRETS: [&str; 9] =
    ["password", "passphrase", "passwd", "token", "secret", "api_key", "private_key", "pepper", "salt"];

/// Checks whether the plugin's configuration, which the journal and the admin API show, seems to have secrets; names their keys.
pub(crate) fn secrets(config: &Config) -> Option<Check> {
    let mut found = Vec::new();
    secret_keys("plugin.config", &config.plugin.config, &mut found);
    let detail = || {
        format!(
            "{} may hold a secret, but plugin.config stands in clear in the journal and in answers of the admin API",
            found.join(", ")
        )
    };
    (!found.is_empty()).then(|| Check::warning("secrets", detail()).of(Symptom::SecretInConfig))
}

fn secret_keys(path: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let (path, name) = (format!("{path}.{key}"), key.to_lowercase().replace('-', "_"));
                if value.is_string() && SECRETS.iter().any(|part| name.contains(part)) {
                    found.push(path);
                } else {
                    secret_keys(&path, value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| secret_keys(path, item, found)),
        _ => {}
    }
}

/// Returns the sink's check if the plugin is refused.
pub(crate) fn sink_unknown() -> Check {
    Check::warning("sink", "not checked: the plugin that declares its tables was refused").of(Symptom::PluginRefused)
}

/// Checks the source; returns it if it can be read.
pub(crate) fn source(config: &Config) -> (Check, Option<LogSource>) {
    match LogSource::inspect(config, clock::instant() + TRY) {
        Ok(found) => (Check::fine("source", source_detail(&found)), Some(found)),
        Err(failure) => (Check::refused("source", failure), None),
    }
}

/// Checks whether the topic is the one from which the state was built; returns what is wrong.
fn topic(config: &Config, source: &LogSource, runtime: &Runtime) -> Option<Check> {
    let log = PipelineLog::new(objects(&config.state.url).ok()?, runtime.handle().clone());
    let same = log.check_topic(source.topic_id()?);
    same.err().map(|failure| Check::refused("topic", failure).of(Symptom::LogReplaced))
}

/// Tries the plugin on some records. A source that cannot be read any more is no failure: it could be a moment ago.
fn sampled(config: &Config, plugin: &Arc<Plugin>, source: &LogSource) -> Vec<Check> {
    match sample::records(config, source, clock::instant() + TRY) {
        Ok(records) => sample::examine(config, plugin, &records),
        Err(failure) => vec![Check::warning("records", format!("not tried: {failure}"))],
    }
}

fn source_detail(source: &LogSource) -> String {
    match source {
        LogSource::Kafka(hub) => {
            let topic = hub.topic();
            let records: u64 = topic.high.iter().zip(&topic.low).map(|(high, low)| high.0 - low.0).sum();
            let stamps = topic.timestamps.map(|t| format!(", {t:?}")).unwrap_or_default();
            format!("topic with {} partitions, about {records} records{stamps}", topic.partitions.len())
        }
        LogSource::File { partitions, .. } => format!("file with {} partitions", partitions.len()),
        LogSource::Other(log) => format!("log with {} partitions", log.partitions().len()),
    }
}

/// How long a check waits for a broker: one answer is enough, and a person is waiting.
pub(crate) const TRY: Duration = Duration::from_secs(5);

/// Checks the state.
pub(crate) fn state(config: &Config, plugin: Option<&Plugin>, runtime: &Runtime) -> Check {
    match standing(config, plugin, runtime) {
        Ok(check) => check,
        Err(refused) => refused,
    }
}

fn standing(config: &Config, plugin: Option<&Plugin>, runtime: &Runtime) -> Result<Check, Check> {
    let refused = |symptom: Symptom| move |failure: Failure| Check::refused("state", failure).of(symptom);
    let url = &config.state.url;
    let objects = objects(url).map_err(refused(Symptom::StateUnusable))?;
    let Some(plugin) = plugin else { return Ok(Check::fine("state", url.to_string())) };
    let log = PipelineLog::new(objects, runtime.handle().clone());
    log.check_journal().map_err(refused(Symptom::JournalMissing))?;
    let standing = log.standing(config, &plugin.digest).map_err(refused(Symptom::StateForeign))?;
    order::allow(config, &standing).map_err(refused(Symptom::SettingsDiffer))?;
    Ok(match standing {
        Standing::First => Check::fine("state", format!("{url}, new")),
        Standing::Same(n) => Check::fine("state", format!("{url}, deployment {n} in force")),
        Standing::Superseded(n) => {
            Check::warning("state", format!("{url}, deployment {n} in force; it is newer than the configuration file"))
                .of(Symptom::SettingsSuperseded)
        }
        Standing::Changed(differences) => {
            Check::fine("state", format!("{url}, will be deployed at start: {}", differences.join("; ")))
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_whose_names_say_secret_are_found_at_any_depth_and_their_values_are_not_shown() {
        let config = json!({
            "session_timeout": "50s", "Pepper": "abc", "hashing": [{"user-salt": "abc", "rounds": 3}],
            "api-key": "abc", "tokens": {"per_second": 7}, "token_limit": 9
        });
        let mut found = Vec::new();
        secret_keys("plugin.config", &config, &mut found);
        assert_eq!(found, ["plugin.config.Pepper", "plugin.config.hashing.user-salt", "plugin.config.api-key"]);
    }
}
