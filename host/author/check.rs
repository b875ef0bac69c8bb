//! `keyfold plugin check`: loads a plugin as a host would, and prints what it declares and the tables that its rows need.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::author::io_failure;
use crate::clock;
use crate::config::{Component, DEFAULT_COMPILE, DEFAULT_LIMITS};
use crate::failure::Failure;
use crate::paths;
use crate::plugin::{Compiling, Description, Encodings, INTERFACE, Plugin, engine, sandbox};
use crate::row::{ColumnSpec, Table};
use crate::sink;

/// A plugin that a host accepts.
pub struct Checked {
    plugin: Plugin,
    bytes: usize,
    took: Duration,
}

/// Loads the plugin with this configuration.
pub fn check(file: &Path, config: &Value) -> Result<Checked, Failure> {
    let component = Component::named(&file.to_string_lossy(), Path::new(""));
    let bytes = match &component {
        Component::Builtin(_) => sandbox::component(&component)?.0,
        Component::File(file) => paths::read(file).map_err(io_failure(file))?,
    };
    let (size, began) = (bytes.len(), clock::instant());
    // The file may be somebody else's, to be looked at before it is trusted.
    let compiling = Compiling { cache: None, apart: Some(DEFAULT_COMPILE) };
    let engine = engine(2, DEFAULT_LIMITS.memory_bytes)?;
    let loaded = Plugin::load_with(&engine, bytes, config, DEFAULT_LIMITS, &compiling);
    let plugin = loaded.map_err(|error| {
        let Failure { exit, message, .. } = error;
        Failure::new(exit, format!("{}: {message}", file.display()))
    })?;
    Ok(Checked { plugin, bytes: size, took: clock::since(began) })
}

impl Checked {
    /// Returns what the plugin declares as JSON.
    pub fn document(&self) -> Value {
        let Description { name, version, state_version, tables, encodings, config_schema, .. } =
            &self.plugin.description;
        let column = |c: &ColumnSpec| json!({"name": c.name, "type": c.kind.name(), "primary_key": c.primary_key});
        let table = |t: &Table| json!({"name": t.name, "columns": t.columns.iter().map(column).collect::<Vec<_>>()});
        json!({
            "name": name,
            "version": version,
            "state_version": state_version,
            "state_encodings": encodings,
            "interface": INTERFACE,
            "bytes": self.bytes,
            "sha256": self.plugin.digest.0,
            "tables": tables.iter().map(table).collect::<Vec<_>>(),
            "config_schema": serde_json::from_str::<Value>(config_schema).unwrap_or_default(),
        })
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { name, version, state_version, tables, encodings, config_schema, .. } =
            &self.plugin.description;
        writeln!(f, "{name} {version}, state version {state_version}, {} bytes, imports nothing", self.bytes)?;
        writeln!(f, "exports {INTERFACE}, compiled and tried in {:.0} ms", self.took.as_secs_f64() * 1000.0)?;
        writeln!(f, "SHA-256 {}", self.plugin.digest.0)?;
        if let Some(Encodings { value, item }) = encodings {
            let known = |encoding: &Option<String>| encoding.clone().unwrap_or_else(|| "of its own".to_owned());
            writeln!(f, "state: values {}, list items {}", known(value), known(item))?;
        }
        for table in tables.iter() {
            writeln!(f, "{}", declared(table))?;
            for (sink, statement) in sink::create_statements(table) {
                writeln!(f, "  {sink:<7} {statement};")?;
            }
        }
        write!(f, "configuration: {}", readable(config_schema))
    }
}

fn declared(table: &Table) -> String {
    let column = |c: &ColumnSpec| {
        let key = if c.primary_key { " (primary key)" } else { "" };
        format!("{} {}{key}", c.name, c.kind.name())
    };
    let columns: Vec<_> = table.columns.iter().map(column).collect();
    format!("table {}: {}", table.name, columns.join(", "))
}

/// Returns a JSON Schema with line breaks and indentation.
fn readable(schema: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(schema);
    value.and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_else(|_| schema.to_owned())
}
