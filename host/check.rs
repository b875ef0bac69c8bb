//! `keyfold check`: looks at everything that a run needs, and changes nothing outside. Each line comes from the code that the start of
//! `run` refuses with.

use crate::clock;
use crate::config::Config;
use crate::deployment::{PipelineLog, Standing, order};
use crate::failure::{Check, Failure};
use crate::run::{LogSource, load_plugin, objects, runtime};
use crate::{dead_letter, sink};

/// A line for each thing that was looked at: plugin, source, state, sink, dead letters.
pub fn check(config: &Config) -> Vec<Check> {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(failure) => return vec![Check::refused("runtime", failure)],
    };
    let mut checks = Vec::new();
    let plugin = load_plugin(config);
    checks.push(match &plugin {
        Ok((plugin, _)) => {
            let description = &plugin.description;
            Check::fine("plugin", format!("{} {}, SHA-256 {}", description.name, description.version, plugin.digest.0))
        }
        Err(failure) => Check::refused("plugin", failure.clone()),
    });
    checks.push(source(config));
    let plugin = plugin.ok().map(|(plugin, _)| plugin);
    checks.push(match state(config, plugin.as_deref(), &runtime) {
        Ok(detail) => Check::fine("state", detail),
        Err(failure) => Check::refused("state", failure),
    });
    match &plugin {
        Some(plugin) => checks.extend(sink::check(&config.sink, &plugin.description.tables, runtime.handle())),
        None => checks.push(Check::warning("sink", "not looked at: its tables are the plugin's")),
    }
    checks.extend(dead_letter::check(&config.dead_letters));
    checks
}

fn source(config: &Config) -> Check {
    match LogSource::inspect(config, clock::instant() + TRY) {
        Ok(LogSource::Kafka(topic)) => {
            let records: u64 = topic.high.iter().zip(&topic.low).map(|(high, low)| high - low).sum();
            let stamps = topic.timestamps.map(|t| format!(", {t:?}")).unwrap_or_default();
            Check::fine(
                "source",
                format!("topic with {} partitions, about {records} records{stamps}", topic.partitions.len()),
            )
        }
        Ok(LogSource::File { partitions, .. }) => {
            Check::fine("source", format!("file with {} partitions", partitions.len()))
        }
        Err(failure) => Check::refused("source", failure),
    }
}

/// How long a check tries to reach a broker: one answer is enough, and a person waits.
const TRY: std::time::Duration = std::time::Duration::from_secs(5);

fn state(
    config: &Config,
    plugin: Option<&crate::plugin::Plugin>,
    runtime: &tokio::runtime::Runtime,
) -> Result<String, Failure> {
    let objects = objects(&config.state.url)?;
    let Some(plugin) = plugin else { return Ok(config.state.url.to_string()) };
    let standing = PipelineLog::new(objects, runtime.handle().clone()).standing(config, &plugin.digest)?;
    order::allow(config, &standing)?;
    Ok(match standing {
        Standing::First => format!("{}, new", config.state.url),
        Standing::Same(n) => format!("{}, deployment {n} in force", config.state.url),
        Standing::Superseded(n) => {
            format!("{}, deployment {n} in force, which is newer than the configuration file", config.state.url)
        }
        Standing::Changed(differences) => format!("{}, to be deployed: {}", config.state.url, differences.join("; ")),
    })
}
