//! What a plugin is to a lane: a pure function over columns, limited and verified. Owns loading, refusal, calls and their limits; knows no
//! state, no time, no order. Keeps I6: a plugin imports nothing; I7: each call gets the budget of one record, event or firing.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use crate::failure::{Exit, Failure};
use crate::observe::board::{Called, Deployed};
use crate::observe::meter::Meter;
use crate::observe::plugin_log::Log;
use crate::record::Records;
use crate::row::{ColumnSpec, ColumnType, Table};
use schema::Schema;

pub use crate::config::Limits;
pub use columns::{Changes, Events, FoldInput, Rejection, TimerInput, change};
pub use engine::engine;
pub use instance::{Instance, call};

mod bindings;
mod columns;
mod component;
mod engine;
mod instance;
pub mod sandbox;
mod schema;

/// SHA-256 of a plugin's file as given, hex.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Digest(pub String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(hex(&Sha256::digest(bytes)))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Why a plugin cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not fit the contract, or refuses its configuration.
    #[error("{0}")]
    Refused(String),
    /// The host's side of the sandbox failed.
    #[error("{0}")]
    Host(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Refused(message) => Failure::new(Exit::Plugin, message),
            Error::Host(message) => Failure::new(Exit::Unexpected, message),
        }
    }
}

/// Why a call gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The plugin's doing: the call is halved; alone in a fresh instance it is a strike.
    Plugin(String),
    /// Not to be decided by rows: stack overflow, failed allocation of the host. Halts the lane.
    Host(String),
}

impl Fault {
    /// The reason in words.
    pub fn text(self) -> String {
        match self {
            Fault::Plugin(reason) | Fault::Host(reason) => reason,
        }
    }

    pub(crate) fn malformed(what: impl std::fmt::Display) -> Fault {
        Fault::Plugin(format!("malformed result: {what}"))
    }
}

impl Limits {
    pub(crate) fn check_output(&self, rows: usize, bytes: usize) -> Result<(), Fault> {
        if rows as u64 > self.output_rows {
            return Err(Fault::Plugin(format!(
                "output of {rows} rows exceeds plugin.output_rows = {}",
                self.output_rows
            )));
        }
        if bytes as u64 > self.output_bytes {
            return Err(Fault::Plugin(format!(
                "output of {bytes} bytes exceeds plugin.output_bytes = {}",
                self.output_bytes
            )));
        }
        Ok(())
    }
}

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Version of its state's encoding, from 1 up.
    pub state_version: u32,
    /// The tables whose rows it emits.
    pub tables: Arc<[Table]>,
    /// JSON Schema of its configuration.
    pub config_schema: String,
    /// Whether `map-records` wants the records' headers.
    pub wants_headers: bool,
}

/// What a call is given.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// These rows of a batch.
    MapRecords(&'a Records, Range<usize>),
    /// Keys with their events.
    Fold(&'a FoldInput),
    /// Keys whose timer fires.
    OnTimer(&'a TimerInput),
}

/// Who is told of each call, on the thread that makes it.
pub type Listener = dyn Fn(Input<'_>) + Send + Sync;

/// A loaded plugin with its configuration and limits; instances are made of it.
pub struct Plugin {
    /// SHA-256 of the file as given.
    pub digest: Digest,
    /// The file as given.
    pub bytes: Arc<[u8]>,
    /// What it says of itself.
    pub description: Description,
    /// What its calls have cost.
    pub meter: Arc<Meter>,
    /// What it logs.
    pub log: Arc<Log>,
    /// Told what each call is given.
    listener: Option<Box<Listener>>,
    config: String,
    limits: Limits,
    engine: Engine,
    pre: bindings::PluginPre<instance::Guest>,
}

impl Plugin {
    /// Loads a plugin file: wraps a core module, refuses what is not of the contract, compiles it (or takes it from `cache`), asks for
    /// its description, and tries its configuration: against its schema first, then with the plugin.
    pub fn load(
        engine: &Engine,
        bytes: Vec<u8>,
        config: &serde_json::Value,
        limits: Limits,
        cache: Option<&Path>,
    ) -> Result<Plugin, Error> {
        let digest = Digest::of(&bytes);
        let compiled = engine::compile(engine, &digest, || component::wrap(&bytes), cache)?;
        check_world(engine, &compiled)?;
        let pre = Linker::new(engine).instantiate_pre(&compiled).and_then(bindings::PluginPre::new).map_err(|e| {
            Error::Refused(format!("it is not a component of the world keyfold:mapper/plugin@1.0.0: {e:#}"))
        })?;
        let (description, schema) = describe(engine, &pre, limits)?;
        check_config(&schema, config)?;
        let plugin = Plugin {
            digest,
            bytes: bytes.into(),
            description,
            meter: Arc::default(),
            log: Arc::default(),
            listener: None,
            config: config.to_string(),
            limits,
            engine: engine.clone(),
            pre,
        };
        Instance::new(&plugin).map_err(|fault| match fault {
            Fault::Plugin(reason) => Error::Refused(reason),
            Fault::Host(reason) => Error::Host(reason),
        })?;
        Ok(plugin)
    }
}

impl Plugin {
    /// The same plugin as this lane calls it, which may log so many lines a second: what the calls cost and what it logs is the lane's.
    pub fn of_lane(&self, lane: &str, lines_per_second: u64) -> Plugin {
        Plugin {
            digest: self.digest.clone(),
            bytes: Arc::clone(&self.bytes),
            description: self.description.clone(),
            meter: Arc::default(),
            log: Arc::new(Log::of_lane(lane, lines_per_second)),
            listener: None,
            config: self.config.clone(),
            limits: self.limits,
            engine: self.engine.clone(),
            pre: self.pre.clone(),
        }
    }

    /// What a board says of a lane that this plugin folds, as deployment `n`.
    pub fn deployed(&self, n: u64) -> Deployed {
        let Description { name, version, .. } = &self.description;
        Deployed { n, plugin: name.clone(), version: version.clone(), digest: self.digest.0.clone() }
    }

    /// What a board keeps of the calls that a lane makes to this plugin.
    pub fn called(&self) -> Called {
        let Description { name, version, .. } = &self.description;
        let (meter, log) = (Arc::clone(&self.meter), Arc::clone(&self.log));
        Called { plugin: name.clone(), version: version.clone(), meter, log }
    }

    /// The same plugin, which tells `listener`, if there is one, what each call is given.
    pub fn heard_by(self, listener: Option<Box<Listener>>) -> Plugin {
        Plugin { listener, ..self }
    }

    fn tell<'a>(&self, input: impl FnOnce() -> Input<'a>) {
        if let Some(listener) = &self.listener {
            listener(input());
        }
    }
}

/// The interface that a plugin must export.
pub(crate) const INTERFACE: &str = "keyfold:mapper/mapper@1.0.0";

fn check_world(engine: &Engine, component: &Component) -> Result<(), Error> {
    let world = component.component_type();
    let imports: Vec<_> = world.imports(engine).map(|(name, _)| name.to_string()).collect();
    if !imports.is_empty() {
        return Err(Error::Refused(component::foreign_imports(&imports)));
    }
    let exports: Vec<_> = world.exports(engine).map(|(name, _)| name.to_string()).collect();
    if exports.iter().any(|e| e == INTERFACE) {
        return Ok(());
    }
    let found = if exports.is_empty() { "nothing".to_string() } else { exports.join(", ") };
    Err(Error::Refused(format!(
        "it is a component of another world: a plugin exports {INTERFACE}, this one exports {found}"
    )))
}

/// What a plugin says of itself, and the schema of its configuration.
fn describe(
    engine: &Engine,
    pre: &bindings::PluginPre<instance::Guest>,
    limits: Limits,
) -> Result<(Description, Schema), Error> {
    let raw = instance::describe(engine, pre, limits).map_err(|fault| match fault {
        Fault::Plugin(reason) => Error::Refused(format!("its `describe` failed: {reason}")),
        Fault::Host(reason) => Error::Host(reason),
    })?;
    let tables: Arc<[Table]> = raw.tables.into_iter().map(table).collect();
    let description = Description {
        name: raw.name,
        version: raw.version,
        state_version: raw.state_version,
        tables,
        config_schema: raw.config_schema,
        wants_headers: raw.wants_headers,
    };
    let schema = check_description(&description)?;
    Ok((description, schema))
}

fn check_config(schema: &Schema, config: &serde_json::Value) -> Result<(), Error> {
    match &schema.findings(config)[..] {
        [] => Ok(()),
        [finding] => Err(Error::Refused(format!("its configuration does not fit its schema: {finding}"))),
        findings => {
            let lines: Vec<String> = findings.iter().map(|finding| format!("\n  {finding}")).collect();
            Err(Error::Refused(format!("its configuration does not fit its schema:{}", lines.concat())))
        }
    }
}

fn check_description(description: &Description) -> Result<Schema, Error> {
    let refuse = |what: String| Err(Error::Refused(format!("its description is wrong: {what}")));
    if description.state_version == 0 {
        return refuse("state-version is 0, it counts from 1".into());
    }
    for (i, table) in description.tables.iter().enumerate() {
        if description.tables[..i].iter().any(|t| t.name == table.name) {
            return refuse(format!("table {} is declared twice", table.name));
        }
        if !table.columns.iter().any(|c| c.primary_key) {
            return refuse(format!("table {} has no primary key, without which rows cannot be idempotent", table.name));
        }
        for (j, column) in table.columns.iter().enumerate() {
            if table.columns[..j].iter().any(|c| c.name == column.name) {
                return refuse(format!("column {}.{} is declared twice", table.name, column.name));
            }
        }
    }
    Schema::read(&description.config_schema).or_else(refuse)
}

fn table(spec: bindings::exports::keyfold::mapper::mapper::TableSpec) -> Table {
    use bindings::exports::keyfold::mapper::mapper::ColumnType as Wit;
    let kind = |kind| match kind {
        Wit::Boolean => ColumnType::Boolean,
        Wit::Integer => ColumnType::Integer,
        Wit::Float => ColumnType::Float,
        Wit::Timestamp => ColumnType::Timestamp,
        Wit::Text => ColumnType::Text,
        Wit::Blob => ColumnType::Blob,
        Wit::TextList => ColumnType::TextList,
        Wit::IntegerList => ColumnType::IntegerList,
        Wit::Json => ColumnType::Json,
    };
    let column = |c: bindings::exports::keyfold::mapper::mapper::ColumnSpec| ColumnSpec {
        name: c.name,
        kind: kind(c.kind),
        primary_key: c.primary_key,
    };
    Table { name: spec.name, columns: spec.columns.into_iter().map(column).collect() }
}

/// The end of a replay or a shadow by its plugin.
pub(crate) fn halted(plugin: &Plugin, fault: Fault) -> Failure {
    let Description { name, version, .. } = &plugin.description;
    Failure::new(Exit::Plugin, format!("plugin {name} {version} halts: {}", fault.text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, primary_key: bool) -> ColumnSpec {
        ColumnSpec { name: name.into(), kind: ColumnType::Integer, primary_key }
    }

    fn described(change: impl FnOnce(&mut Description, &mut Vec<Table>)) -> Result<(), String> {
        let table = |name: &str| Table { name: name.into(), columns: vec![column("id", true), column("v", false)] };
        let mut tables = vec![table("a"), table("b")];
        let mut description = Description {
            name: "sample".into(),
            version: "1".into(),
            state_version: 1,
            tables: Arc::new([]),
            config_schema: "{}".into(),
            wants_headers: false,
        };
        change(&mut description, &mut tables);
        description.tables = tables.into();
        check_description(&description).map(drop).map_err(|e| e.to_string())
    }

    #[test]
    fn a_wrong_description_is_refused_by_what_is_wrong() {
        let check = |words: &str, change: &dyn Fn(&mut Description, &mut Vec<Table>)| {
            let reason = described(change).expect_err("it is wrong");
            assert!(
                reason.starts_with("its description is wrong: ") && reason.contains(words),
                "{words:?} in {reason:?}"
            );
        };
        assert_eq!(described(|_, _| ()), Ok(()));
        assert_eq!(described(|_, tables| tables.clear()), Ok(()), "a plugin may emit no rows at all");
        check("state-version", &|description, _| description.state_version = 0);
        check("config-schema", &|description, _| description.config_schema = "{".into());
        check("config-schema", &|description, _| description.config_schema = r#"{"type": "objekt"}"#.into());
        check("table a is declared twice", &|_, tables| tables[1].name = "a".into());
        check("table b has no primary key", &|_, tables| tables[1].columns[0].primary_key = false);
        check("column b.id is declared twice", &|_, tables| tables[1].columns[1].name = "id".into());
    }
}
