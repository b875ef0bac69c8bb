//! The configuration with another source and another plugin, as `keyfold replay` and `keyfold plugin bench` ask for it.

use std::path::Path;

use super::{Component, Config, FileFormat, FileSource, KafkaSource, Plugin, Source};
use crate::failure::{Exit, Failure};

/// The configuration with another source (a file, which is read once and for all, or a topic of the configured brokers), plugin and plugin configuration, where given.
pub(crate) fn overridden(
    config: &Config,
    from: Option<&str>,
    component: Option<&Component>,
    plugin_config: Option<&serde_json::Value>,
) -> Result<Config, Failure> {
    let mut config = config.clone().complete();
    if let Some(from) = from {
        config.source = source_from(&config.source, from)?;
    }
    config.plugin = with_plugin(config.plugin, component, plugin_config);
    Ok(config)
}

/// The configured source with another file, or another topic of the configured brokers.
fn source_from(configured: &Source, from: &str) -> Result<Source, Failure> {
    let path = Path::new(from);
    let is_file = from == "-" || path.is_file();
    Ok(match configured {
        Source::File(file) if is_file => Source::File(FileSource { path: path.to_owned(), ..file.clone() }),
        Source::Kafka(kafka) if is_file => Source::File(FileSource {
            path: path.to_owned(),
            format: FileFormat::Records,
            timestamp_start_ms: None,
            ordering: kafka.ordering,
            complete: true,
        }),
        Source::Kafka(kafka) => Source::Kafka(KafkaSource { topic: from.to_owned(), ..kafka.clone() }),
        Source::File(_) => {
            let message = format!(
                "--from {from} is not a file, and cannot be a topic because the configured source has no brokers"
            );
            return Err(Failure::new(Exit::Config, message));
        }
    })
}

/// The plugin section with another component and configuration, where given.
pub(crate) fn with_plugin(plugin: Plugin, component: Option<&Component>, config: Option<&serde_json::Value>) -> Plugin {
    let component = component.cloned().unwrap_or(plugin.component);
    let config = config.cloned().unwrap_or(plugin.config);
    Plugin { component, config, ..plugin }
}
