//! The configuration: one TOML file, overridden by `KEYFOLD_*` variables. All problems are reported at once.
//!
//! `keys` holds every key with its default and meaning, `read` what was given and where, `value` the types, `contradictions` what depends on
//! several keys, `values` the way to [`Config`], `schema` the JSON Schema.

use std::path::Path;

use crate::failure::{Exit, Failure};

mod contradictions;
mod keys;
mod model;
pub mod overrides;
mod read;
mod schema;
mod value;
mod values;

#[cfg(test)]
mod tests;

pub use keys::{most_like, reference};
pub use model::{
    Admin, AdminTls, Compile, Component, Config, CqlSink, CqlTls, DEFAULT_COMPILE, DEFAULT_LIMITS, DeadLetters,
    FileFormat, FileSource, Hosts, ImplausibleTime, KafkaSource, Late, Limits, Listen, NdjsonSink, OnStrike, Ordering,
    Plugin, Run, Sink, Source, SqliteSink, State, Telemetry, Time, WithdrawnRows,
};
pub use schema::schema;

pub(crate) use contradictions::LEAST_TOKEN;

use keys::{Absent, KEYS};
use read::{Given, Origin, Problem};
use values::Values;

/// Loads the configuration at `path`, overridden by the variables. Fails with [`Exit::Config`]. Relative paths in it start at its folder.
pub fn load(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<Config, Failure> {
    load_for(Purpose::Run, path, environment)
}

/// Loads a configuration for a command that writes no rows: the sink may be missing and is then [`Sink::Discard`].
pub fn load_for_replay(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<Config, Failure> {
    load_for(Purpose::Replay, path, environment)
}

/// What a configuration is loaded for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Run,
    /// The sink is optional.
    Replay,
}

fn load_for(
    purpose: Purpose,
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the configuration {}: {error}; name the file with -c", path.display());
        Failure::new(Exit::Config, message)
    })?;
    let base = path.parent().unwrap_or(Path::new(""));
    whole(purpose, &text, base, environment).map_err(|problems| failure(&path.display().to_string(), problems))
}

/// Returns the environment of this process. Bytes that are not UTF-8 become replacement characters, which `load` refuses in `KEYFOLD_*`.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// Returns the variable that overrides a key.
pub fn variable(key: &str) -> String {
    keys::variable(key)
}

impl Config {
    /// Parses a configuration; relative paths in it start at `base`.
    pub fn from_toml(
        text: &str,
        base: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, Failure> {
        whole(Purpose::Run, text, base, environment).map_err(|problems| failure("the configuration", problems))
    }
}

fn failure(name: &str, problems: Vec<Problem>) -> Failure {
    let message = match &problems[..] {
        [problem] if matches!(problem.origin, Origin::Variable(_)) => problem.to_string(),
        [problem] => format!("{name}: {problem}"),
        problems => {
            let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
            format!("{name} has {} problems:{}", problems.len(), lines.concat())
        }
    };
    Failure::new(Exit::Config, message)
}

fn whole(
    purpose: Purpose,
    text: &str,
    base: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, Vec<Problem>> {
    let base = std::path::absolute(base.join(".")).unwrap_or_else(|_| base.to_owned());
    let mut given = Given::read(text, environment)?;
    if let Some(first) = given.of_services.first() {
        tracing::warn!(
            event = "service-variables-ignored",
            first,
            variables = given.of_services.len(),
            "ignoring variables that Kubernetes makes of Services; set enableServiceLinks: false in the pod to be rid of them"
        );
    }
    let values = Values(value::all(&mut given, &base));
    sections(&mut given, purpose);
    missing(&mut given);
    contradictions::find(&mut given, &values);
    if given.problems.is_empty() {
        return Ok(values.config(&given).expect("every required key was seen to be there"));
    }
    given.problems.sort();
    given.problems.dedup();
    Err(given.problems)
}

/// Requires exactly one source and exactly one sink; a replay needs no sink.
fn sections(given: &mut Given, purpose: Purpose) {
    for of in ["source", "sink"] {
        let kinds = keys::children(of);
        let found: Vec<String> =
            kinds.into_iter().map(|kind| keys::join(of, &kind)).filter(|path| given.has(path)).collect();
        let listed: Vec<String> = found.iter().map(|path| format!("[{path}] ({})", given.origin(path))).collect();
        match found.len() {
            1 => {}
            0 if of == "sink" && purpose == Purpose::Replay => {}
            0 => {
                let all: Vec<String> = keys::children(of).iter().map(|kind| format!("[{of}.{kind}]")).collect();
                given.problem(Origin::Whole, format!("no {of} is configured; add one of {}", all.join(", ")));
            }
            many => {
                given.problem(Origin::Whole, format!("{many} {of}s are configured; keep one: {}", listed.join(", ")))
            }
        }
    }
}

/// Reports missing required keys, except those of sources and sinks that were not chosen.
fn missing(given: &mut Given) {
    for key in KEYS.iter().filter(|key| key.absent == Absent::Required) {
        let section = keys::sections(key.path).last().unwrap_or_default();
        let chosen = !(section.starts_with("source.") || section.starts_with("sink.")) || given.has(section);
        if chosen && !given.has(key.path) && !given.broken.contains(section) {
            given.problem(given.origin(section), format!("{} is missing: {}", key.path, key.meaning));
        }
    }
}
