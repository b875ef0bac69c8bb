//! Ordering a deployment: what is asked for, what is looked at before, and how it is told. Owns the refusals before T; the order itself is
//! [`PipelineLog::order`]'s, and each refusal leaves what runs untouched.

use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use tokio::runtime::{Handle, Runtime};

use crate::clock;
use crate::config::{Component, Config};
use crate::deployment::shadow::{Report, Shadow};
use crate::deployment::{
    Author, Deployment, Entry, Outcome, Permanent, PipelineLog, Settings, Standing, Verdict, unreadable, withdrawable,
};
use crate::failure::{Check, Exit, Failure, first_refused};
use crate::lane::{law, quota};
use crate::plugin::sandbox::{Sandbox, component};
use crate::plugin::{Digest, Fault, Plugin, call};
use crate::printable::one_line;
use crate::record::{ByteColumn, iso};
use crate::rollout::held;
use crate::sink;
use crate::source::recent::{TRIED, lowest, recent};
use crate::state::journal;
use crate::state::objects::{objects, runtime};
use crate::state::reader::{Reader, StoredKey};

/// Keys of each lane on whose state a `migrate` is tried.
const SAMPLED: usize = 10_000;

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
    "plugin.state_bytes",
    "plugin.record_bytes",
    "plugin.probation",
];

/// A plugin that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginFile {
    /// A file, or `builtin:visits`.
    Named(String),
    /// The file's bytes.
    Bytes(Vec<u8>),
}

/// What is asked for; what is not named stays as it is in force. If nothing is named, it is all that the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Another plugin.
    pub plugin: Option<PluginFile>,
    /// Another configuration of the plugin.
    pub config: Option<serde_json::Value>,
    /// Plugin, configuration and settings of this deployment, which what else is named changes.
    pub like: Option<u64>,
    /// Keys of the configuration whose values are to be taken from this one.
    pub set: Option<(Vec<String>, Config)>,
    /// T; none is as soon as can be.
    pub at: Option<i64>,
    /// From the beginning of the log, in a new history.
    pub reprocess: bool,
    /// Not in force: beside what is, to be compared.
    pub shadow: bool,
    /// What the shadow folds with, instead of what is in force.
    pub promote: bool,
    /// Look, and order nothing.
    pub dry_run: bool,
    /// Whether limits may not exceed those of the configuration, and tables must be known: whoever may deploy over the network may neither lift
    /// limits nor add tables.
    pub is_held: bool,
    /// Who, and why.
    pub author: Author,
}

/// What came of it.
#[derive(Debug)]
pub struct Ordered {
    /// A line for each thing that was looked at.
    pub checks: Vec<Check>,
    /// What was ordered, if it was.
    pub order: Option<Order>,
}

/// What was ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A deployment, from T on.
    From(u64, i64),
    /// A deployment, from the beginning of the log.
    Reprocess(u64),
    /// A shadow.
    Shadow(String),
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Order::From(n, t) => write!(f, "deployment {n} holds from {} ({t}) on", iso(*t)),
            Order::Reprocess(n) => write!(f, "deployment {n} holds from the beginning of the log"),
            Order::Shadow(id) => write!(f, "shadow {id} folds beside the live logic"),
        }
    }
}

/// Where a pipeline's state and journal lie.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// The store.
    pub objects: &'a Arc<dyn ObjectStore>,
    /// The journal in it.
    pub log: &'a PipelineLog,
    /// What reads them.
    pub runtime: &'a Handle,
}

/// Refuses a changed configuration file, unless it counts as an order.
pub fn allow(config: &Config, standing: &Standing) -> Result<(), Failure> {
    let Standing::Changed(differences) = standing else { return Ok(()) };
    if config.run.deploy_on_start {
        return Ok(());
    }
    let message = format!(
        "the settings that decide rows differ from those in force: {}; put the former values back, order the change with `keyfold deployment create` \
         (or run.deploy_on_start = true), or begin anew with another state.url",
        differences.join("; ")
    );
    Err(Failure::new(Exit::Config, message))
}

/// Orders what a changed configuration file says, at a start with `run.deploy_on_start`.
pub fn at_start(config: &Config, store: &Stored<'_>, plugin: &Arc<Plugin>) -> Result<(), Failure> {
    let log = store.log;
    let (_, in_force) = in_force(log)?;
    let settings = Settings::of(config, &plugin.digest);
    let mut checks = Vec::new();
    look((config, store), plugin, &settings, &in_force, &mut checks)?;
    if let Some((exit, check)) = first_refused(&checks) {
        return Err(Failure::new(exit, format!("{}: {}", check.subject, check.detail)));
    }
    log.keep_plugin(plugin)?;
    let author = Author { by: None, reason: Some("the configuration file was changed".into()) };
    let deployment = Deployment::of(settings, plugin, config.plugin.probation_ms, &author).from_file();
    let (n, t) = log.order(deployment, None)?;
    tracing::info!(event = "configuration-deployed", deployment = n, t, at = iso(t), "changed configuration deployed");
    Ok(())
}

/// `keyfold deployment create`: looks at everything that can be refused before T, then orders.
pub fn deploy(config: &Config, request: &Request) -> Result<Ordered, Failure> {
    let runtime = runtime()?;
    let objects = objects(&config.state.url)?;
    let log = PipelineLog::new(Arc::clone(&objects), runtime.handle().clone());
    let store = Stored { objects: &objects, log: &log, runtime: runtime.handle() };
    let sandbox = Sandbox::new(config)?;
    let (in_force, is_first) = foundation(config, request.dry_run, &log, &sandbox)?;
    let base = match request.like {
        _ if request.promote => shadowing(&log)?.candidate,
        Some(n) => numbered(&log, n)?.deployment,
        None => in_force.clone(),
    };
    if request.is_held {
        held::within_ceilings(config, &brought(config, request, &base))?;
    }
    let mut checks = Vec::new();
    let (plugin, settings) = match candidate(config, request, &log, &sandbox, (&base, is_first)) {
        Ok(candidate) => candidate,
        Err(failure) => {
            checks.push(Check::refused("plugin", failure));
            return Ok(Ordered { checks, order: None });
        }
    };
    let description = &plugin.description;
    let detail = format!("{} {}, SHA-256 {}", description.name, description.version, plugin.digest.0);
    checks.push(Check::fine("plugin", detail));
    // A shadow writes nothing; its promotion is judged.
    if request.is_held && !request.shadow {
        checks.extend(held::new_table(config, &log, &sandbox, &plugin)?);
    }
    if request.reprocess {
        checks.push(law_of(config, &plugin, &settings));
        checks.push(beginning(config, &store)?);
    } else if is_first {
        checks.push(Check::fine("state", "the pipeline has not run yet: there is no state to take over"));
        checks.push(law_of(config, &plugin, &settings));
    } else {
        look((config, &store), &plugin, &settings, &in_force, &mut checks)?;
    }
    checks.extend(sink::check(&config.sink, &description.tables, runtime.handle()));
    if request.dry_run || first_refused(&checks).is_some() {
        return Ok(Ordered { checks, order: None });
    }
    log.keep_plugin(&plugin)?;
    let with = request.set.as_ref().map_or(config, |(_, with)| with);
    let deployment = Deployment::of(settings, &plugin, with.plugin.probation_ms, &request.author);
    let order = if request.shadow {
        Order::Shadow(log.order_shadow(deployment)?.id)
    } else if request.reprocess {
        Order::Reprocess(log.order_anew(deployment)?)
    } else {
        let (n, t) = log.order(deployment, request.at)?;
        Order::From(n, t)
    };
    if request.promote {
        log.drop_shadow()?;
    }
    Ok(Ordered { checks, order: Some(order) })
}

/// What the deployment would follow, and whether nothing has run yet. Then it is what the configuration says, which holds from the beginning of
/// the log as if it had been started before; a dry run does not write that.
fn foundation(
    config: &Config,
    dry_run: bool,
    log: &PipelineLog,
    sandbox: &Sandbox,
) -> Result<(Deployment, bool), Failure> {
    if log.standing(config, &Digest(String::new()))? != Standing::First {
        return Ok((in_force(log)?.1, false));
    }
    let plugin = sandbox.load(config)?;
    if dry_run {
        let settings = Settings::of(config, &plugin.digest);
        let nobody = Author::default();
        return Ok((Deployment::of(settings, &plugin, config.plugin.probation_ms, &nobody), true));
    }
    log.begin(config, &plugin)?;
    log.remember(config, &plugin.digest)?;
    Ok((in_force(log)?.1, false))
}

/// `keyfold deployment withdraw`: makes a deployment, the last one if none is named, as if it had never been; its number.
pub fn withdraw(config: &Config, n: Option<u64>, author: &Author) -> Result<u64, Failure> {
    let (_runtime, log) = journal_of(config)?;
    let (last, _) = in_force(&log)?;
    let n = n.unwrap_or(last);
    let entry = numbered(&log, n)?;
    let refuse = |why: &str| {
        let message = format!(
            "deployment {n} {why}; to return to earlier logic, create a deployment of it with `keyfold deployment create --like N`"
        );
        Err(Failure::new(Exit::Config, message))
    };
    match withdrawable(&entry, last) {
        Ok(()) if entry.outcome == Outcome::Withdrawn => Ok(n),
        Ok(()) if log.withdraw(n, author)? => Ok(n),
        Ok(()) => refuse("is kept for good: its probation is over"),
        Err(Permanent::Voided) => refuse("never held"),
        Err(Permanent::Superseded) => refuse("was superseded by one that holds from the beginning of the log"),
        Err(Permanent::First) => refuse("holds from the beginning of the log, and there is nothing before it"),
        Err(Permanent::WithoutProbation) => refuse("was created with plugin.probation = \"0s\""),
        Err(Permanent::NotLast) => refuse("was kept for good when the next one was created"),
    }
}

fn shadowing(log: &PipelineLog) -> Result<Shadow, Failure> {
    let message = "there is no shadow; create one with `keyfold deployment create --shadow`";
    log.shadow()?.ok_or_else(|| Failure::new(Exit::Config, message))
}

/// `keyfold deployment shadow`: what the shadow has found.
pub fn shadow(config: &Config) -> Result<(Shadow, Report), Failure> {
    let (_runtime, log) = journal_of(config)?;
    let shadow = shadowing(&log)?;
    let report = log.shadow_report(&shadow.id)?;
    Ok((shadow, report))
}

/// `keyfold deployment drop`: ends the shadow.
pub fn drop_shadow(config: &Config) -> Result<Shadow, Failure> {
    let (_runtime, log) = journal_of(config)?;
    let shadow = shadowing(&log)?;
    log.drop_shadow()?;
    Ok(shadow)
}

/// The pipeline's journal, and what it is read on.
fn journal_of(config: &Config) -> Result<(Runtime, PipelineLog), Failure> {
    let runtime = runtime()?;
    let log = PipelineLog::new(objects(&config.state.url)?, runtime.handle().clone());
    Ok((runtime, log))
}

fn numbered(log: &PipelineLog, n: u64) -> Result<Entry, Failure> {
    let found = log.deployments()?.into_iter().find(|entry| entry.n == n);
    found
        .ok_or_else(|| Failure::new(Exit::Config, format!("there is no deployment {n}; see `keyfold deployment list`")))
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
    (base, is_first): (&Deployment, bool),
) -> Result<(Arc<Plugin>, Settings), Failure> {
    let named = request.plugin.is_some() || request.config.is_some() || request.set.is_some() || request.like.is_some();
    let whole = !named && !request.promote;
    let (bytes, name) = match &request.plugin {
        Some(PluginFile::Named(given)) => component(&Component::named(given, Path::new("")))?,
        Some(PluginFile::Bytes(bytes)) => (bytes.clone(), "sent".into()),
        // Before the first run, nothing is kept yet.
        None if whole || is_first => component(&config.plugin.component)?,
        None => (log.plugin(&base.settings.plugin)?, base.plugin.clone()),
    };
    let digest = Digest::of(&bytes);
    let mut settings = if whole { Settings::of(config, &digest) } else { base.settings.clone() };
    settings.plugin = digest;
    if let Some(given) = &request.config {
        settings.config = given.clone();
    }
    take_keys(&mut settings, request);
    let plugin = sandbox.load_bytes(bytes, &name, &settings.config, settings.limits())?;
    Ok((plugin, settings))
}

/// The settings that a request brings with it, and not those that stay in force.
fn brought(config: &Config, request: &Request, base: &Deployment) -> Settings {
    let mut settings = match request.like.is_some() || request.promote {
        true => base.settings.clone(),
        false => Settings::of(config, &base.settings.plugin),
    };
    take_keys(&mut settings, request);
    settings
}

/// The settings with the keys that the request sets.
fn take_keys(settings: &mut Settings, request: &Request) {
    if let Some((keys, from)) = &request.set {
        let from = Settings::of(from, &settings.plugin);
        keys.iter().for_each(|key| take_key(settings, key, &from));
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
        "plugin.state_bytes" => settings.state_bytes = from.state_bytes,
        "plugin.record_bytes" => settings.record_bytes = from.record_bytes,
        "plugin.probation" => {} // of the deployment, not of what it deploys
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
    (config, store): (&Config, &Stored<'_>),
    plugin: &Arc<Plugin>,
    settings: &Settings,
    in_force: &Deployment,
    checks: &mut Vec<Check>,
) -> Result<(), Failure> {
    checks.push(state_version(store, plugin, in_force)?);
    checks.push(law_of(config, plugin, settings));
    Ok(())
}

/// Whether the plugin takes over the state that is there: of its own version and encoding, or of a former version that its `migrate` takes.
fn state_version(store: &Stored<'_>, plugin: &Plugin, in_force: &Deployment) -> Result<Check, Failure> {
    const SUBJECT: &str = "state";
    let (was, will) = (in_force.state_version, plugin.description.state_version);
    let refuse = |why: String| Check::refused(SUBJECT, Failure::new(Exit::Plugin, why));
    if let Some(why) = unreadable(in_force, will, plugin.description.encodings.as_ref()) {
        return Ok(refuse(why));
    }
    if was == will && plugin.description.encodings.is_none() {
        return Ok(Check::fine(
            SUBJECT,
            format!("version {will}, as before; the plugin does not say how it is encoded"),
        ));
    }
    let tried = match try_state(store, plugin, was == will)? {
        Tried::Whole(tried) => tried,
        Tried::Part(tried, reason) => {
            return Ok(Check::warning(
                SUBJECT,
                format!("not fully tried: it takes the state of {tried} keys; {reason}"),
            ));
        }
        Tried::Refused(reason) => return Ok(refuse(reason)),
    };
    Ok(match tried {
        0 if was == will => Check::fine(SUBJECT, format!("version {will}, as before")),
        _ if was == will => {
            Check::fine(SUBJECT, format!("version {will}, as before: the plugin reads the state of {tried} keys"))
        }
        0 => Check::warning(
            SUBJECT,
            format!("version {was} to {will}: no checkpoint holds state to try its `migrate` on"),
        ),
        _ => Check::fine(SUBJECT, format!("version {was} to {will}: its `migrate` takes the state of {tried} keys")),
    })
}

/// What came of trying a plugin on state.
enum Tried {
    /// It takes the state of so many keys.
    Whole(usize),
    /// It takes the state of so many keys, and then the trial had cost too much.
    Part(usize, String),
    /// Why it does not take one.
    Refused(String),
}

/// Hands `migrate` the state of live keys, either of the plugin's own version, which it only reads then, or of former ones.
fn try_state(store: &Stored<'_>, plugin: &Plugin, own: bool) -> Result<Tried, Failure> {
    let Stored { objects, log, runtime } = *store;
    let trial = plugin.of_trial_on(0, 0);
    let (will, mut tried, mut instance) = (plugin.description.state_version, 0, None);
    for lane in log.lanes()? {
        let Some(reader) = Reader::open(objects, &format!("lanes/{lane}"), runtime)? else { continue };
        for StoredKey { key, state, version } in reader.keys(SAMPLED)? {
            let mut values = ByteColumn::default();
            state.value.iter().for_each(|value| values.push(value));
            if (version == will) != own || (values.is_empty() && state.list.is_empty()) {
                continue;
            }
            trial.try_on_more(1, values.data.len() + state.list.data.len());
            let migrated = call(&mut instance, &trial, |instance| {
                let (values, items) = instance.migrate(version, &values, &state.list, 1)?;
                let shape = (state.value.is_some(), state.list.len());
                quota::check_migrated(&plugin.limits, [shape].into_iter(), (&values, &items))
            });
            let reason = match migrated {
                Ok(()) => {
                    tried += 1;
                    continue;
                }
                Err(Fault::Host(reason)) => return Ok(Tried::Part(tried, reason)),
                Err(fault) => fault.text(),
            };
            let key = String::from_utf8_lossy(&key);
            return Ok(Tried::Refused(match own {
                true => format!("the plugin cannot read the state of key {key:?}: {reason}"),
                false => {
                    format!(
                        "its `migrate` from version {version} to {will} fails on the state of key {key:?}: {reason}"
                    )
                }
            }));
        }
    }
    Ok(Tried::Whole(tried))
}

/// Whether the log still holds the records with which the lanes began.
fn beginning(config: &Config, store: &Stored<'_>) -> Result<Check, Failure> {
    let Stored { objects, log, runtime } = *store;
    const SUBJECT: &str = "beginning of the log";
    let began = journal::beginnings(objects, &log.lanes()?, runtime)?;
    let lowest = lowest(&config.source, clock::instant() + config.run.startup_timeout)?;
    for (partition, first) in began {
        if let Some(&low) = lowest.get(&partition)
            && low > first
        {
            let message = format!(
                "partition {partition} begins with offset {low} now, this pipeline began with {first}: what was trimmed cannot be folded again"
            );
            return Ok(Check::refused(SUBJECT, Failure::new(Exit::State, message)));
        }
    }
    Ok(Check::fine(SUBJECT, "all that was folded is still there"))
}

fn law_of(config: &Config, plugin: &Arc<Plugin>, settings: &Settings) -> Check {
    const SUBJECT: &str = "law";
    let records = match recent(&config.source, TRIED, clock::instant() + config.run.startup_timeout) {
        Ok(records) => records,
        Err(error) => return Check::refused(SUBJECT, error),
    };
    if records.is_empty() {
        return Check::warning(SUBJECT, "the log is empty: there was nothing to try the plugin on");
    }
    let time = settings.time(config.time);
    let found = law::check(plugin, time, &records).and_then(|found| match found {
        None => law::check_long(plugin, time, &records),
        found => Ok((found, 0)),
    });
    match found {
        Ok((None, long)) => {
            let count = records.len();
            let long = if long > 0 { format!(", and repeated to {long} in one instance") } else { String::new() };
            Check::fine(SUBJECT, format!("{count} records give the same rows however they are cut{long}"))
        }
        Ok((Some(violation), _)) => Check::refused(SUBJECT, Failure::new(Exit::Plugin, violation.to_string())),
        // It is no proof against the plugin, and the records may be what makes it expensive.
        Err(Fault::Host(reason)) => Check::warning(SUBJECT, format!("not fully tried: {reason}")),
        Err(fault) => Check::refused(SUBJECT, Failure::new(Exit::Plugin, fault.text())),
    }
}

/// All deployments.
pub fn deployments(config: &Config) -> Result<Vec<Entry>, Failure> {
    let (_runtime, log) = journal_of(config)?;
    log.deployments()
}

/// `keyfold deployment list`: a line for each, the latest first.
pub fn lines(entries: &[Entry]) -> String {
    let mut lines = Vec::new();
    for Entry { n, deployment, outcome, verdict } in entries.iter().rev() {
        let from = deployment.t.map_or_else(|| "the beginning".to_owned(), iso);
        let outcome = format!("{outcome:?}").to_lowercase();
        let mut line =
            format!("{n}  {outcome:9}  from {from:24}  {}  {}", deployment.plugin, deployment.settings.plugin.0);
        let ordered = [("by", &deployment.by), ("because", &deployment.reason)];
        let withdrawn = match &verdict {
            Some(Verdict::Withdrawn(Author { by, reason })) => [("withdrawn by", by), ("because", reason)],
            _ => [("", &None), ("", &None)],
        };
        for (word, text) in ordered.into_iter().chain(withdrawn) {
            if let Some(text) = text {
                line.push_str(&format!("  {word} {}", one_line(text)));
            }
        }
        lines.push(line);
    }
    if lines.is_empty() { "nothing was deployed yet".into() } else { lines.join("\n") }
}
