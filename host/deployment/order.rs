//! Ordering a deployment: what is asked for, what is looked at before, and how it is told. Owns the refusals before T; the order itself is
//! [`PipelineLog::order`]'s, and each refusal leaves what runs untouched.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Author, Deployment, PipelineLog, Settings, Standing, iso};
use crate::clock;
use crate::config::{Component, Config};
use crate::failure::{Check, Exit, Failure, Finding};
use crate::plugin::{Digest, Plugin, law};
use crate::run::{self, Sandbox};
use crate::sink;
use crate::source::recent::recent;

/// Records of each partition on which the law is tried.
const TRIED: u64 = 500;

/// Settings that a deployment can change by themselves, beside the plugin and its configuration.
const KEYS: &[&str] = &[
    "time.out_of_orderness",
    "time.late",
    "time.future_limit",
    "time.idle_timeout",
    "plugin.memory",
    "plugin.fuel",
    "plugin.output_rows",
    "plugin.output_bytes",
];

/// What is asked for; what is not named stays as it is in force. If nothing is named, it is all that the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Another plugin: a file, or `builtin:visits`.
    pub plugin: Option<String>,
    /// Another configuration of the plugin.
    pub config: Option<serde_json::Value>,
    /// Keys of the configuration whose values are to be taken from this one.
    pub set: Option<(Vec<String>, Config)>,
    /// T; none is as soon as can be.
    pub at: Option<i64>,
    /// Look, and order nothing.
    pub dry_run: bool,
    /// Who, and why.
    pub author: Author,
}

/// What came of it.
#[derive(Debug)]
pub struct Ordered {
    /// A line for each thing that was looked at.
    pub checks: Vec<Check>,
    /// Number and T, if it was ordered.
    pub deployment: Option<(u64, i64)>,
}

/// Refuses a changed configuration file, unless it counts as an order.
pub fn allow(config: &Config, standing: &Standing) -> Result<(), Failure> {
    let Standing::Changed(differences) = standing else { return Ok(()) };
    if config.run.deploy_on_start {
        return Ok(());
    }
    let message = format!(
        "the settings that decide rows differ from those in force: {}; put the former values back, order the change with `keyfold deploy` \
         (or run.deploy_on_start = true), or begin anew with another state.url",
        differences.join("; ")
    );
    Err(Failure::new(Exit::Config, message))
}

/// Orders what a changed configuration file says, at a start with `run.deploy_on_start`.
pub fn at_start(
    config: &Config,
    log: &PipelineLog,
    plugin: &Arc<Plugin>,
    workers: &Arc<rayon::ThreadPool>,
) -> Result<(), Failure> {
    let (_, in_force) = in_force(log)?;
    let settings = Settings::of(config, &plugin.digest);
    let mut checks = Vec::new();
    look(config, workers, plugin, &settings, &in_force, &mut checks);
    first_refused(&checks)?;
    log.keep_plugin(plugin)?;
    let author = Author { by: None, reason: Some("the configuration file was changed".into()) };
    let (n, t) = log.order(Deployment::of(settings, plugin, &author), None)?;
    tracing::info!(deployment = n, t, at = iso(t), "the changed configuration is ordered");
    Ok(())
}

/// `keyfold deploy`: looks at everything that can be refused before T, then orders.
pub fn deploy(config: &Config, request: &Request) -> Result<Ordered, Failure> {
    let runtime = run::runtime()?;
    let log = PipelineLog::new(run::objects(&config.state.url)?, runtime.handle().clone());
    let sandbox = Sandbox::new(config)?;
    if log.standing(config, &Digest(String::new()))? == Standing::First && !request.dry_run {
        // What the configuration says holds from the beginning of the log, as if it had been started before.
        let plugin = sandbox.load(config)?;
        log.begin(config, &plugin)?;
        log.remember(config, &plugin.digest)?;
    }
    let (_, in_force) = in_force(&log)?;
    let mut checks = Vec::new();
    let (plugin, settings) = match candidate(config, request, &log, &sandbox, &in_force) {
        Ok(candidate) => candidate,
        Err(failure) => {
            checks.push(Check::refused("plugin", failure));
            return Ok(Ordered { checks, deployment: None });
        }
    };
    let description = &plugin.description;
    let detail = format!("{} {}, SHA-256 {}", description.name, description.version, plugin.digest.0);
    checks.push(Check::fine("plugin", detail));
    look(config, &sandbox.workers, &plugin, &settings, &in_force, &mut checks);
    checks.extend(sink::check(&config.sink, &description.tables, runtime.handle()));
    if request.dry_run || first_refused(&checks).is_err() {
        return Ok(Ordered { checks, deployment: None });
    }
    log.keep_plugin(&plugin)?;
    let ordered = log.order(Deployment::of(settings, &plugin, &request.author), request.at)?;
    Ok(Ordered { checks, deployment: Some(ordered) })
}

fn in_force(log: &PipelineLog) -> Result<(u64, Deployment), Failure> {
    log.in_force()?.ok_or_else(|| Failure::new(Exit::State, "state.url: the journal has no deployment"))
}

/// The plugin that was asked for, loaded, and the settings.
fn candidate(
    config: &Config,
    request: &Request,
    log: &PipelineLog,
    sandbox: &Sandbox,
    in_force: &Deployment,
) -> Result<(Arc<Plugin>, Settings), Failure> {
    let whole = request.plugin.is_none() && request.config.is_none() && request.set.is_none();
    let (bytes, name) = match &request.plugin {
        Some(given) => run::component(&component(given))?,
        None if whole => run::component(&config.plugin.component)?,
        None => (log.plugin(&in_force.settings.plugin)?, in_force.plugin.clone()),
    };
    let digest = Digest::of(&bytes);
    let mut settings = if whole { Settings::of(config, &digest) } else { in_force.settings.clone() };
    settings.plugin = digest;
    if let Some(given) = &request.config {
        settings.config = given.clone();
    }
    if let Some((keys, from)) = &request.set {
        let from = Settings::of(from, &settings.plugin);
        keys.iter().for_each(|key| take_key(&mut settings, key, &from));
    }
    let plugin = sandbox.load_bytes(bytes, &name, &settings.config, settings.limits())?;
    Ok((plugin, settings))
}

fn component(given: &str) -> Component {
    match given.strip_prefix("builtin:") {
        Some(name) => Component::Builtin(name.to_owned()),
        None => Component::File(PathBuf::from(given)),
    }
}

fn take_key(settings: &mut Settings, key: &str, from: &Settings) {
    match key {
        "time.out_of_orderness" => settings.out_of_orderness_ms = from.out_of_orderness_ms,
        "time.late" => settings.late.clone_from(&from.late),
        "time.future_limit" => settings.future_limit_ms = from.future_limit_ms,
        "time.idle_timeout" => settings.idle_timeout_ms = from.idle_timeout_ms,
        "plugin.memory" => settings.memory_bytes = from.memory_bytes,
        "plugin.fuel" => settings.fuel = from.fuel,
        "plugin.output_rows" => settings.output_rows = from.output_rows,
        "plugin.output_bytes" => settings.output_bytes = from.output_bytes,
        _ => unreachable!("keys are checked by `settable` first"),
    }
}

/// Refuses keys that a deployment does not change.
pub fn settable(keys: &[String]) -> Result<(), Failure> {
    let Some(key) = keys.iter().find(|key| !KEYS.contains(&key.as_str())) else { return Ok(()) };
    Err(Failure::new(Exit::Config, format!("--set {key}: a deployment changes {}", KEYS.join(", "))))
}

/// State version and law.
fn look(
    config: &Config,
    workers: &Arc<rayon::ThreadPool>,
    plugin: &Arc<Plugin>,
    settings: &Settings,
    in_force: &Deployment,
    checks: &mut Vec<Check>,
) {
    checks.push(state_version(plugin, in_force));
    checks.push(law_of(config, workers, plugin, settings));
}

fn state_version(plugin: &Plugin, in_force: &Deployment) -> Check {
    let (was, will) = (in_force.state_version, plugin.description.state_version);
    if was == will {
        return Check::fine("state version", format!("{will}, as before"));
    }
    let message = format!(
        "the plugin's state has version {will}, the state that is there has version {was}, which it cannot be given: state is not migrated yet"
    );
    Check::refused("state version", Failure::new(Exit::Plugin, message))
}

fn law_of(config: &Config, workers: &Arc<rayon::ThreadPool>, plugin: &Arc<Plugin>, settings: &Settings) -> Check {
    const SUBJECT: &str = "law";
    let records = match recent(&config.source, TRIED, clock::instant() + config.run.startup_timeout) {
        Ok(records) => records,
        Err(error) => return Check::refused(SUBJECT, error.into()),
    };
    if records.is_empty() {
        return Check::warning(SUBJECT, "the log is empty: there was nothing to try the plugin on");
    }
    match law::check(plugin, workers, settings.time(config.time), &records) {
        Ok(None) => Check::fine(SUBJECT, format!("{} records give the same rows however they are cut", records.len())),
        Ok(Some(violation)) => Check::refused(SUBJECT, Failure::new(Exit::Plugin, violation.to_string())),
        Err(fault) => Check::refused(SUBJECT, Failure::new(Exit::Plugin, fault.text())),
    }
}

fn first_refused(checks: &[Check]) -> Result<(), Failure> {
    let refused = checks.iter().find_map(|check| match check.finding {
        Finding::Refused(exit) => Some(Failure::new(exit, format!("{}: {}", check.subject, check.detail))),
        Finding::Fine | Finding::Warning => None,
    });
    refused.map_or(Ok(()), Err)
}

/// `keyfold deployments`: a line for each, the latest first.
pub fn list(config: &Config) -> Result<String, Failure> {
    let runtime = run::runtime()?;
    let log = PipelineLog::new(run::objects(&config.state.url)?, runtime.handle().clone());
    let mut lines = Vec::new();
    for (n, deployment, outcome) in log.deployments()?.into_iter().rev() {
        let from = deployment.t.map_or_else(|| "the beginning".to_owned(), iso);
        let outcome = format!("{outcome:?}").to_lowercase();
        let mut line =
            format!("{n}  {outcome:9}  from {from:24}  {}  {}", deployment.plugin, deployment.settings.plugin.0);
        for (word, text) in [("by", &deployment.by), ("because", &deployment.reason)] {
            if let Some(text) = text {
                line.push_str(&format!("  {word} {text}"));
            }
        }
        lines.push(line);
    }
    Ok(if lines.is_empty() { "nothing was deployed yet".into() } else { lines.join("\n") })
}
