//! `keyfold plugin run`: a plugin on the records of standard input, its rows on standard output; nothing stays.

use std::fs;
use std::path::Path;

use crate::author::about;
use crate::config;
use crate::failure::Failure;
use crate::pipeline::run::{self, Options};

/// Append time of the first payload, the others count up: 2100-01-01. So no event is ahead of it, and the rows are the same each time.
const PAYLOADS_FROM: i64 = 4_102_444_800_000;

/// Runs `plugin` with this configuration; the dead letters, a line each, at the end.
pub fn run(plugin: &Path, settings: &serde_json::Value, payloads: bool) -> Result<String, Failure> {
    let place = tempfile::tempdir().map_err(about(Path::new("a temporary folder")))?;
    let component = match plugin.to_str().filter(|name| name.starts_with("builtin:")) {
        Some(name) => name.to_owned(),
        None => plugin.canonicalize().map_err(about(plugin))?.to_string_lossy().into_owned(),
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
    fs::write(&file, text).map_err(about(&file))?;
    let mut config = config::load(&file, std::iter::empty())?;
    config.plugin.config = settings.clone();
    run::run(&config, &Options::default())?;
    let letters = place.path().join("dead-letters.ndjson");
    fs::read_to_string(&letters).map_err(about(&letters))
}
