//! `keyfold plugin run`: runs a plugin on the records of standard input and prints its rows to standard output. Keeps nothing.

use std::fs;
use std::path::Path;

use crate::author::io_failure;
use crate::config;
use crate::failure::Failure;
use crate::pipeline::run::{self, Options};

/// The append time of the first payload, 2099-01-01; later ones count up. No event lies ahead of it, so the rows are the same on every run.
const PAYLOADS_FROM: i64 = 4_070_908_800_000;

/// Runs `plugin` with this configuration, and returns the dead letters, one line each.
pub fn run(plugin: &Path, settings: &serde_json::Value, payloads: bool) -> Result<String, Failure> {
    let place = tempfile::tempdir().map_err(io_failure(Path::new("a temporary folder")))?;
    let component = match plugin.to_str().filter(|name| name.starts_with("builtin:")) {
        Some(name) => name.to_owned(),
        None => plugin.canonicalize().map_err(io_failure(plugin))?.to_string_lossy().into_owned(),
    };
    let format = if payloads {
        format!("format = \"payloads\"\ntimestamp_start = {PAYLOADS_FROM}")
    } else {
        "format = \"records\"".to_owned()
    };
    let file = place.path().join("keyfold.toml");
    let text = format!(
        "name = \"trial\"\n[source.file]\npath = \"-\"\n{format}\n[plugin]\ncomponent = {}\n[state]\nurl = \"state\"\n\
         [sink.ndjson]\npath = \"-\"\n[dead_letters]\nfile = \"dead-letters.ndjson\"\n",
        toml::Value::String(component)
    );
    fs::write(&file, text).map_err(io_failure(&file))?;
    let mut config = config::load(&file, std::iter::empty())?;
    config.plugin.config = settings.clone();
    run::run(&config, &Options::default())?;
    let letters = place.path().join("dead-letters.ndjson");
    fs::read_to_string(&letters).map_err(io_failure(&letters))
}
