//! What the log cannot tell, durable before it has an effect: per lane the frontier, floors, strikes, where the log began; for the pipeline
//! its identity and the deployment in force. Small; never deleted with a checkpoint.
//!
//! `log/lanes/<lane>` is a database with one fenced writer; `log/pipeline.json`, `log/deployments/<n>.json` and `log/plugins/<digest>.wasm`
//! are objects that are put once.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::config::{Config, Late, Ordering, Source};
use crate::failure::{Exit, Failure};
use crate::lane::batch::{Strike, StrikeItem};
use crate::plugin::{Digest, Plugin};
use crate::source::merge::{Floor, Frontier};
use crate::state::store::{Error, Store};

const FRONTIER: &[u8] = b"frontier";
const FLOOR: &[u8] = b"floor/";
const STRIKE: &[u8] = b"strike/";
const BEGINNING: &[u8] = b"beginning";

/// Where a lane's life began: what a replay from nothing needs to find again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// The first offset read of each partition.
    pub offsets: BTreeMap<u32, u64>,
    /// Length that the sink's file had already.
    pub sink_length: Option<u64>,
    /// Length that the dead-letter file had already.
    pub letters_length: Option<u64>,
}

/// What a lane's journal holds at its start.
#[derive(Debug, Default)]
pub struct Contents {
    /// The last durable frontier.
    pub frontier: Option<Frontier>,
    /// Floors by (partition, offset).
    pub floors: BTreeMap<(u32, u64), i64>,
    /// Strikes with their reasons.
    pub strikes: BTreeMap<StrikeItem, String>,
    /// None if this lane never lived before.
    pub beginning: Option<Beginning>,
}

/// The journal of a lane.
pub struct Journal {
    store: Store,
    strikes: u64,
}

impl Journal {
    /// Opens it and reads all of it.
    pub fn open(objects: Arc<dyn ObjectStore>, lane: &str, runtime: Handle) -> Result<(Journal, Contents), Error> {
        let store = Store::open(objects, &format!("log/lanes/{lane}"), runtime)?;
        let mut contents =
            Contents { frontier: read(&store, FRONTIER)?, beginning: read(&store, BEGINNING)?, ..Contents::default() };
        for (_, value) in store.entries(FLOOR)? {
            let ((partition, offset), time): ((u32, u64), i64) = parse(&value)?;
            contents.floors.insert((partition, offset), time);
        }
        for (_, value) in store.entries(STRIKE)? {
            let (item, reason) = parse(&value)?;
            contents.strikes.insert(item, reason);
        }
        let strikes = contents.strikes.len() as u64;
        Ok((Journal { store, strikes }, contents))
    }

    /// Makes the lane's beginning durable.
    pub fn write_beginning(&self, beginning: &Beginning) -> Result<(), Error> {
        self.store.put([(BEGINNING.to_vec(), json(beginning))])
    }

    /// Makes the frontier durable: before anything leaves that depends on a release on an asked partition's word.
    pub fn write_frontier(&self, frontier: &Frontier) -> Result<(), Error> {
        self.store.put([(FRONTIER.to_vec(), json(frontier))])
    }

    /// Makes floors durable: before their records are folded.
    pub fn write_floors(&self, floors: &[Floor]) -> Result<(), Error> {
        self.store.put(floors.iter().map(|f| {
            let key = [FLOOR, &f.partition.to_be_bytes()[..], &f.offset.to_be_bytes()[..]].concat();
            (key, json(&((f.partition, f.offset), f.append_time)))
        }))
    }

    /// Makes strikes durable: before their effect.
    pub fn write_strikes(&mut self, strikes: &[Strike]) -> Result<(), Error> {
        let first = self.strikes;
        self.strikes += strikes.len() as u64;
        self.store.put(strikes.iter().zip(first..).map(|(strike, n)| {
            let key = [STRIKE, &n.to_be_bytes()[..]].concat();
            (key, json(&(&strike.item, &strike.reason)))
        }))
    }

    /// Whether another host has taken over.
    pub fn check_ownership(&self) -> Result<(), Error> {
        self.store.check_ownership()
    }

    /// Closes it.
    pub fn close(self) -> Result<(), Error> {
        self.store.close()
    }
}

fn read<T: for<'de> Deserialize<'de>>(store: &Store, key: &[u8]) -> Result<Option<T>, Error> {
    store.get(key)?.map(|value| parse(&value)).transpose()
}

fn parse<T: for<'de> Deserialize<'de>>(value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value)
        .map_err(|e| Error::Unreadable(format!("the journal holds what this keyfold cannot read: {e}")))
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data becomes JSON")
}

// ---- the pipeline

/// The format of `log/`.
const FORMAT: u32 = 1;

/// What a pipeline is for good: another source needs another state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    format: u32,
    source: String,
    topic: Option<String>,
    ordering: String,
}

/// What decides rows, beside the log: the logic in force from append time `t` on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Append time, ms; none is the beginning of the log.
    pub t: Option<i64>,
    /// The plugin's file.
    pub plugin: Digest,
    /// Its configuration.
    pub config: serde_json::Value,
    /// `time.out_of_orderness`, ms.
    pub out_of_orderness_ms: i64,
    /// `time.late`.
    pub late: String,
    /// `time.future_limit`, ms.
    pub future_limit_ms: i64,
    /// `time.idle_timeout`, ms.
    pub idle_timeout_ms: Option<i64>,
    /// `plugin.memory`, bytes.
    pub memory_bytes: u64,
    /// `plugin.fuel`.
    pub fuel: u64,
    /// `plugin.output_rows`.
    pub output_rows: u64,
    /// `plugin.output_bytes`.
    pub output_bytes: u64,
}

impl Deployment {
    /// What the configuration asks for.
    pub fn of(config: &Config, plugin: &Plugin) -> Deployment {
        let (time, limits) = (config.time, config.plugin.limits);
        Deployment {
            t: None,
            plugin: plugin.digest.clone(),
            config: config.plugin.config.clone(),
            out_of_orderness_ms: time.out_of_orderness_ms,
            late: late_name(time.late).into(),
            future_limit_ms: time.future_limit_ms,
            idle_timeout_ms: time.idle_timeout_ms,
            memory_bytes: limits.memory_bytes,
            fuel: limits.fuel,
            output_rows: limits.output_rows,
            output_bytes: limits.output_bytes,
        }
    }

    /// What differs, as `key: value in force -> value configured`.
    fn differences(&self, configured: &Deployment) -> Vec<String> {
        let (own, other) = (serde_json::to_value(self), serde_json::to_value(configured));
        let (own, other) = (own.expect("plain data"), other.expect("plain data"));
        let fields = own.as_object().expect("a struct").iter();
        let differs = fields.filter(|(key, value)| other.get(key.as_str()) != Some(value));
        differs
            .map(|(key, value)| format!("{}: {value} in force, {} configured", config_key(key), other[key.as_str()]))
            .collect()
    }
}

fn config_key(field: &str) -> &str {
    match field {
        "plugin" => "plugin.component (SHA-256)",
        "config" => "plugin.config",
        "out_of_orderness_ms" => "time.out_of_orderness (ms)",
        "late" => "time.late",
        "future_limit_ms" => "time.future_limit (ms)",
        "idle_timeout_ms" => "time.idle_timeout (ms)",
        "memory_bytes" => "plugin.memory (bytes)",
        "fuel" => "plugin.fuel",
        "output_rows" => "plugin.output_rows",
        "output_bytes" => "plugin.output_bytes",
        other => other,
    }
}

fn late_name(late: Late) -> &'static str {
    match late {
        Late::Drop => "drop",
        Late::DeadLetter => "dead-letter",
        Late::Process => "process",
    }
}

/// The pipeline's part of the journal.
pub struct PipelineLog {
    objects: Arc<dyn ObjectStore>,
    runtime: Handle,
}

impl PipelineLog {
    /// The log under this store.
    pub fn new(objects: Arc<dyn ObjectStore>, runtime: Handle) -> PipelineLog {
        PipelineLog { objects, runtime }
    }

    /// Compares the pipeline's identity and the deployment in force with what is configured. Changes nothing.
    pub fn check(&self, config: &Config, plugin: &Plugin) -> Result<(), Failure> {
        let identity = identity(config);
        if let Some(bytes) = self.get("log/pipeline.json")? {
            let known: Identity = parse(&bytes)?;
            if known.format != FORMAT {
                let message = format!(
                    "state.url: the journal has format {}, this keyfold reads {FORMAT}: run the newer keyfold",
                    known.format
                );
                return Err(Failure::new(Exit::State, message));
            }
            if known != identity {
                return Err(Failure::new(Exit::State, other_source(&known, &identity)));
            }
        }
        let Some(bytes) = self.get(&deployment_path(0))? else { return Ok(()) };
        let in_force: Deployment = parse(&bytes)?;
        let differences = in_force.differences(&Deployment::of(config, plugin));
        if differences.is_empty() {
            return Ok(());
        }
        let message = format!(
            "the settings that decide rows differ from those in force: {}; put the former values back, order the change with `keyfold \
             deploy`, or begin anew with another state.url",
            differences.join("; ")
        );
        Err(Failure::new(Exit::Config, message))
    }

    /// Writes identity, plugin and first deployment, if this is the pipeline's first start.
    pub fn begin(&self, config: &Config, plugin: &Plugin) -> Result<(), Failure> {
        self.put_once("log/pipeline.json", json(&identity(config)))?;
        self.put_once(&format!("log/plugins/{}.wasm", plugin.digest.0), plugin.bytes.clone())?;
        self.put_once(&deployment_path(0), json(&Deployment::of(config, plugin)))
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let read = async { self.objects.get(&Path::from(path)).await?.bytes().await };
        match self.runtime.block_on(read) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(Failure::new(Exit::Outside, format!("state.url: {path} cannot be read: {e}"))),
        }
    }

    fn put_once(&self, path: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        let location = Path::from(path);
        let put = self.objects.put_opts(&location, bytes.into(), PutMode::Create.into());
        match self.runtime.block_on(put) {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(e) => Err(Failure::new(Exit::Outside, format!("state.url: {path} cannot be written: {e}"))),
        }
    }
}

fn deployment_path(n: u64) -> String {
    format!("log/deployments/{n:020}.json")
}

fn identity(config: &Config) -> Identity {
    let (source, topic, ordering) = match &config.source {
        Source::Kafka(kafka) => ("kafka", Some(kafka.topic.clone()), kafka.ordering),
        Source::File(file) => ("file", None, file.ordering),
    };
    let ordering = match ordering {
        Ordering::Topic => "topic",
        Ordering::Partition => "partition",
    };
    Identity { format: FORMAT, source: source.into(), topic, ordering: ordering.into() }
}

fn other_source(known: &Identity, configured: &Identity) -> String {
    let describe = |i: &Identity| match &i.topic {
        Some(topic) => format!("{} topic {topic}, ordering {}", i.source, i.ordering),
        None => format!("{}, ordering {}", i.source, i.ordering),
    };
    format!(
        "state.url holds the state of another source ({}), configured is {}: topic and ordering do not change within a pipeline, give this \
         one another state.url",
        describe(known),
        describe(configured)
    )
}
