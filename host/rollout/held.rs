//! What whoever may deploy over the network may not bring, though they may deploy: limits beyond those of the configuration, and tables to which
//! the pipeline has never written. Both are the operator's, who writes the configuration or can reach the state.

use std::collections::HashSet;

use crate::config::Config;
use crate::deployment::{Deployment, PipelineLog, Settings};
use crate::failure::{Check, Exit, Failure};
use crate::plugin::Plugin;
use crate::plugin::sandbox::Sandbox;

/// Refuses limits beyond those of the configuration in the settings that a request brings: those that it sets, and those of the deployment or the
/// shadow that it names.
pub(super) fn within_ceilings(config: &Config, settings: &Settings) -> Result<(), Failure> {
    let (most, wanted) = (&config.plugin.limits, settings.limits());
    let pairs = [
        ("plugin.memory", most.memory_bytes, wanted.memory_bytes),
        ("plugin.fuel", most.fuel, wanted.fuel),
        ("plugin.output_rows", most.output_rows, wanted.output_rows),
        ("plugin.output_bytes", most.output_bytes, wanted.output_bytes),
        ("plugin.state_bytes", most.state_bytes, wanted.state_bytes),
        ("plugin.record_bytes", most.record_bytes, wanted.record_bytes),
    ];
    let Some((key, most, wanted)) = pairs.into_iter().find(|(_, most, wanted)| wanted > most) else { return Ok(()) };
    Err(Failure::new(
        Exit::Config,
        format!("{key}: {wanted} is more than the host's own configuration allows, {most}; raise it there first"),
    ))
}

/// Returns the refusal of a plugin with a table that is in no deployment so far, unless the configuration names the tables (D62). Every
/// deployment counts, the withdrawn too: each was accepted under the same rule.
pub(super) fn new_table(
    config: &Config,
    log: &PipelineLog,
    sandbox: &Sandbox,
    plugin: &Plugin,
) -> Result<Option<Check>, Failure> {
    if config.plugin.tables.is_some() {
        return Ok(None); // they were compared when the plugin was loaded
    }
    let mut new: Vec<&str> = plugin.description.tables.iter().map(|table| table.name.as_str()).collect();
    let mut seen = HashSet::new();
    for Deployment { settings, plugin: name, .. } in log.deployments()?.into_iter().rev().map(|entry| entry.deployment)
    {
        if settings.plugin == plugin.digest {
            return Ok(None);
        }
        if !seen.insert(settings.plugin.0.clone()) {
            continue;
        }
        // One that this version cannot load any more vouches for nothing.
        let bytes = log.plugin(&settings.plugin)?;
        let Ok(former) = sandbox.load_bytes(bytes, &name, &settings.config, settings.limits()) else { continue };
        new.retain(|name| !former.description.tables.iter().any(|table| table.name == *name));
        if new.is_empty() {
            return Ok(None);
        }
    }
    Ok(new.first().map(|table| {
        let message = format!(
            "it writes table {table}, which no deployment of this pipeline has written, and over the admin API none can be added: name its \
             tables in plugin.tables of the host's configuration and restart the host, or order it with `keyfold deployment create` where \
             state.url can be reached"
        );
        Check::refused("tables", Failure::new(Exit::Plugin, message))
    }))
}
