//! What a plugin is to a lane: a pure function over columns, limited and verified. Owns loading, refusal, calls and their limits; knows no
//! state, no time, no order. Keeps I6: a plugin imports nothing; and I7: each call gets the budget of one record, event or firing.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use crate::failure::Failure;
use crate::observe::board::{Called, Deployed};
use crate::observe::meter::Meter;
use crate::observe::plugin_log::Log;
use crate::record::{Records, hex};

use allowance::Allowance;

pub use crate::config::{Compile, Limits};
pub use columns::{Changes, END_BYTES, Events, FoldInput, Rejection, TimerInput, change};
pub use description::{Description, Encodings};
pub use engine::engine;
pub use instance::{Instance, call};

mod allowance;
pub mod apart;
mod bindings;
mod cache;
mod caps;
mod columns;
mod component;
mod description;
mod engine;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod instance;
pub mod sandbox;
mod schema;

/// The SHA-256 of a plugin's file as given, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Digest(pub String);

impl Digest {
    /// Returns the digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(hex(&Sha256::digest(bytes)))
    }
}

/// Why a call gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The plugin's fault: the call is repeated with half of its items; a single item in a fresh instance is a strike.
    Plugin(String),
    /// The host's fault, on which no row may depend: a stack overflow, a failed allocation. Halts the lane.
    Host(String),
}

impl Fault {
    /// Returns the reason.
    pub fn text(self) -> String {
        match self {
            Fault::Plugin(reason) | Fault::Host(reason) => reason,
        }
    }

    /// The fault of a result that does not fit the contract.
    pub(crate) fn malformed(what: impl std::fmt::Display) -> Fault {
        Fault::Plugin(format!("malformed result: {what}"))
    }
}

impl Limits {
    /// Checks what one call returned: rows, and bytes of rows and states.
    pub(crate) fn check_output(&self, rows: usize, bytes: usize) -> Result<(), Fault> {
        if rows as u64 > self.output_rows {
            return Err(Fault::Plugin(format!(
                "the output has {rows} rows, but plugin.output_rows is {}",
                self.output_rows
            )));
        }
        if bytes as u64 > self.output_bytes {
            return Err(Fault::Plugin(format!(
                "the output has {bytes} bytes, but plugin.output_bytes is {}",
                self.output_bytes
            )));
        }
        Ok(())
    }
}

/// The input of a call.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// These rows of a batch.
    MapRecords(&'a Records, Range<usize>),
    /// Keys with their events.
    Fold(&'a FoldInput),
    /// Keys whose timers fire.
    OnTimer(&'a TimerInput),
}

/// Hears of each call, on the thread that makes it.
pub type Listener = dyn Fn(Input<'_>) + Send + Sync;

/// How components are compiled, and where they are kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compiling {
    /// Where they are kept.
    pub(crate) cache: Option<PathBuf>,
    /// The limits of a process of their own; none compiles them in this one.
    pub(crate) apart: Option<Compile>,
}

impl Compiling {
    /// Compiles a plugin's file, or takes it from the cache if an equal engine compiled it before.
    fn component(
        &self,
        engine: &Engine,
        (digest, bytes): (&Digest, &[u8]),
        config: &serde_json::Value,
        limits: Limits,
    ) -> Result<Component, Failure> {
        let compile = || match self.apart.zip(apart::program()) {
            Some((compile, program)) => {
                engine::take_over(engine, &apart::compile(program, compile, bytes, config, limits)?)
            }
            None => engine::compile(engine, bytes),
        };
        let Some(folder) = &self.cache else { return compile() };
        let entry = match cache::Entry::of(engine, digest, folder) {
            Ok(entry) => entry,
            Err(reason) => {
                let folder = folder.display();
                tracing::warn!(event = "plugin-cache-refused", %folder, reason, "compiled plugins are not cached (plugin.cache)");
                return compile();
            }
        };
        if let Some(component) = entry.load(engine) {
            return Ok(component);
        }
        let compiled = compile()?;
        let kept = compiled.serialize().map_err(|e| format!("{e:#}"));
        if let Err(error) = kept.and_then(|bytes| entry.store(&bytes).map_err(|e| e.to_string())) {
            let folder = folder.display();
            tracing::warn!(event = "plugin-cache-failed", %folder, error, "cannot cache the compiled plugin (plugin.cache)");
        }
        Ok(compiled)
    }
}

/// A loaded plugin with its configuration and limits, from which instances are made.
pub struct Plugin {
    /// The SHA-256 of the file as given.
    pub digest: Digest,
    /// The file as given.
    pub bytes: Arc<[u8]>,
    /// What it declares about itself.
    pub description: Description,
    /// What its calls cost.
    pub meter: Arc<Meter>,
    /// What it logs.
    pub log: Arc<Log>,
    /// Hears what each call is given.
    listener: Option<Box<Listener>>,
    /// What its calls may cost in all, if it is only tried.
    allowance: Option<Allowance>,
    config: String,
    pub(crate) limits: Limits,
    engine: Engine,
    pre: bindings::PluginPre<instance::Guest>,
}

impl Plugin {
    /// Refuses the plugin if it declares a table that is not among `allowed`; none allows all.
    pub(crate) fn writing_only(self, allowed: Option<&[String]>) -> Result<Plugin, Failure> {
        let Some(allowed) = allowed else { return Ok(self) };
        match self.description.tables.iter().find(|table| !allowed.contains(&table.name)) {
            None => Ok(self),
            Some(table) => Err(Failure::plugin(format!(
                "it writes table {}, and plugin.tables allows only {}; add the table there if it may",
                table.name,
                if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") }
            ))),
        }
    }

    /// Loads a plugin file: wraps a core module, refuses what does not fit the contract, compiles it (or takes it from `cache`), asks for
    /// its description, and tries the configuration, first against its schema, then with the plugin.
    pub fn load(
        engine: &Engine,
        bytes: Vec<u8>,
        config: &serde_json::Value,
        limits: Limits,
        cache: Option<&Path>,
    ) -> Result<Plugin, Failure> {
        let compiling = Compiling { cache: cache.map(Path::to_owned), apart: None };
        Plugin::load_with(engine, bytes, config, limits, &compiling)
    }

    /// Does the same. What is not cached is compiled and tried in a process of its own first, if that is wanted.
    pub(crate) fn load_with(
        engine: &Engine,
        bytes: Vec<u8>,
        config: &serde_json::Value,
        limits: Limits,
        compiling: &Compiling,
    ) -> Result<Plugin, Failure> {
        let digest = Digest::of(&bytes);
        let compiled = compiling.component(engine, (&digest, &bytes), config, limits)?;
        Plugin::of_component(engine, &compiled, (digest, bytes), config, limits)
    }

    fn of_component(
        engine: &Engine,
        compiled: &Component,
        (digest, bytes): (Digest, Vec<u8>),
        config: &serde_json::Value,
        limits: Limits,
    ) -> Result<Plugin, Failure> {
        check_world(engine, compiled)?;
        let pre = Linker::new(engine).instantiate_pre(compiled).and_then(bindings::PluginPre::new).map_err(|e| {
            Failure::plugin(format!("it is not a component of the world keyfold:mapper/plugin@1.0.0: {e:#}"))
        })?;
        let (description, schema) = description::describe(engine, &pre, limits)?;
        description::check_config(&schema, config)?;
        let plugin = Plugin {
            digest,
            bytes: bytes.into(),
            description,
            meter: Arc::default(),
            log: Arc::default(),
            listener: None,
            allowance: None,
            config: config.to_string(),
            limits,
            engine: engine.clone(),
            pre,
        };
        Instance::new(&plugin).map_err(|fault| match fault {
            Fault::Plugin(reason) => Failure::plugin(reason),
            Fault::Host(reason) => Failure::unexpected(reason),
        })?;
        Ok(plugin)
    }
}

impl Plugin {
    /// Returns the same plugin for a lane, with a meter and a log of its own. The log passes this many lines a second.
    pub fn of_lane(&self, lane: &str, lines_per_second: u64) -> Plugin {
        Plugin {
            digest: self.digest.clone(),
            bytes: Arc::clone(&self.bytes),
            description: self.description.clone(),
            meter: Arc::default(),
            log: Arc::new(Log::of_lane(lane, lines_per_second)),
            listener: None,
            allowance: None,
            config: self.config.clone(),
            limits: self.limits,
            engine: self.engine.clone(),
            pre: self.pre.clone(),
        }
    }

    /// Returns the same plugin to be tried on these records: with a meter of its own, its log lines go nowhere, and once its calls have cost
    /// more than a trial may, each fails with [`Fault::Host`].
    pub fn of_trial(&self, records: &Records) -> Plugin {
        self.of_trial_on(records.len(), records.bytes())
    }

    /// Returns the same plugin to be tried on so many items of so many bytes.
    pub fn of_trial_on(&self, items: usize, bytes: usize) -> Plugin {
        let allowance = Some(Allowance::of(items, bytes));
        Plugin { log: Arc::new(Log::silent()), allowance, ..self.of_lane("trial", 0) }
    }

    /// Lets a trial cost more, since there is more to try.
    pub fn try_on_more(&self, items: usize, bytes: usize) {
        self.allowance.iter().for_each(|allowance| allowance.raise(items, bytes));
    }

    /// Returns what the board shows of a lane that this plugin folds as deployment `n`.
    pub fn deployed(&self, n: u64) -> Deployed {
        let Description { name, version, .. } = &self.description;
        Deployed { n, plugin: name.clone(), version: version.clone(), digest: self.digest.0.clone() }
    }

    /// Returns what the board shows of a lane's calls of this plugin.
    pub fn called(&self) -> Called {
        let Description { name, version, .. } = &self.description;
        let (meter, log) = (Arc::clone(&self.meter), Arc::clone(&self.log));
        Called { plugin: name.clone(), version: version.clone(), meter, log }
    }

    /// Returns the same plugin with this listener, or with none.
    pub fn with_listener(self, listener: Option<Box<Listener>>) -> Plugin {
        Plugin { listener, ..self }
    }

    fn notify<'a>(&self, input: impl FnOnce() -> Input<'a>) {
        if let Some(listener) = &self.listener {
            listener(input());
        }
    }
}

/// The interface that a plugin exports.
pub(crate) const INTERFACE: &str = "keyfold:mapper/mapper@1.0.0";

fn check_world(engine: &Engine, component: &Component) -> Result<(), Failure> {
    let world = component.component_type();
    let imports: Vec<_> = world.imports(engine).map(|(name, _)| name.to_string()).collect();
    if !imports.is_empty() {
        return Err(Failure::plugin(component::foreign_imports(&imports)));
    }
    let exports: Vec<_> = world.exports(engine).map(|(name, _)| name.to_string()).collect();
    if exports.iter().any(|e| e == INTERFACE) {
        return Ok(());
    }
    let found = if exports.is_empty() { "nothing".to_string() } else { exports.join(", ") };
    Err(Failure::plugin(format!(
        "it is a component of another world: a plugin exports {INTERFACE}, but this one exports {found}"
    )))
}

/// The failure of a replay or a shadow that its plugin ends.
pub(crate) fn halted(plugin: &Plugin, fault: Fault) -> Failure {
    let Description { name, version, .. } = &plugin.description;
    Failure::plugin(format!("plugin {name} {version} failed: {}", fault.text()))
}
