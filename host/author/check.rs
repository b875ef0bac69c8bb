//! `keyfold plugin check`: whether a file is a plugin that would run, and what it declares, with the tables that its rows need.

use std::path::Path;

use crate::author::about;
use crate::clock;
use crate::config::{Component, DEFAULT_LIMITS};
use crate::failure::Failure;
use crate::plugin::sandbox;
use crate::plugin::{Description, INTERFACE, Plugin, engine};
use crate::row::{ColumnSpec, Table};
use crate::sink;

/// Loads the plugin with this configuration and says what it is, in lines.
pub fn check(file: &Path, config: &serde_json::Value) -> Result<String, Failure> {
    let component = Component::named(&file.to_string_lossy(), Path::new(""));
    let bytes = match &component {
        Component::Builtin(_) => sandbox::component(&component)?.0,
        Component::File(file) => std::fs::read(file).map_err(about(file))?,
    };
    let (size, began) = (bytes.len(), clock::instant());
    let loaded = Plugin::load(&engine(2, DEFAULT_LIMITS.memory_bytes)?, bytes, config, DEFAULT_LIMITS, None);
    let plugin = loaded.map_err(|error| {
        let Failure { exit, message } = Failure::from(error);
        Failure::new(exit, format!("{}: {message}", file.display()))
    })?;
    let Description { name, version, state_version, tables, config_schema, .. } = &plugin.description;
    let mut lines = vec![
        format!("{name} {version}, state version {state_version}, {size} bytes, imports nothing"),
        format!("exports {INTERFACE}, compiled and tried in {:.0} ms", began.elapsed().as_secs_f64() * 1000.0),
        format!("SHA-256 {}", plugin.digest.0),
    ];
    for table in tables.iter() {
        lines.push(declared(table));
        lines.extend(sink::statements(table).map(|(sink, statement)| format!("  {sink:<7} {statement};")));
    }
    lines.push(format!("configuration: {}", readable(config_schema)));
    Ok(lines.join("\n"))
}

fn declared(table: &Table) -> String {
    let column = |c: &ColumnSpec| {
        let key = if c.primary_key { " (primary key)" } else { "" };
        format!("{} {}{key}", c.name, c.kind.name())
    };
    let columns: Vec<_> = table.columns.iter().map(column).collect();
    format!("table {}: {}", table.name, columns.join(", "))
}

/// A JSON Schema by lines. It was read before.
fn readable(schema: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(schema);
    value.and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_else(|_| schema.to_owned())
}
