//! Deployments: what decides rows beside the log, and from which append time on. Owns the pipeline's part of the journal: identity, the
//! plugins' bytes by digest, numbered deployments with their outcomes, and how far each lane may have folded.
//!
//! | object | what it is |
//! |---|---|
//! | `log/pipeline.json` | the pipeline's identity, put once |
//! | `log/plugins/<digest>.wasm` | a plugin's file, put once |
//! | `log/deployments/<n>.json` | deployment n, put once; 0 is in force from the beginning of the log |
//! | `log/deployments/<n>.outcome.json` | whether n was confirmed or voided, put once |
//! | `log/deployments/<n>.verdict.json` | whether n was kept after its probation or withdrawn within it, put once |
//! | `log/reservations/<lane>/<host>.json` | the append time up to which that host may have folded that lane; only ever raised |
//! | `log/configured.json` | what the configuration file said at the last start |
//!
//! # An instant without clocks
//! A lane folds a record only if its append time is at or below what the lane has *reserved*; it raises its reservation, then reads the
//! deployments, then folds. A deployer puts deployment n with its T, then reads all reservations: if one is at or past T, n is voided and
//! a later T tried; else it is confirmed. Both outcomes are put once, by whoever comes first, so that all see the same. So whoever folded
//! at or past T had reserved before n was there, and n is void; and whoever reserves later sees n (I9).
//!
//! # Going back
//! Until a lane has folded past T and the probation, n can be withdrawn, and is then as if it had never been: each lane goes back to the
//! checkpoint before T and folds again with the former logic. Whether n stays is its verdict, put once by whoever comes first: a
//! withdrawer, the first lane that folds past the probation, or who orders the next deployment. Nobody folds past a probation without the
//! verdict `kept`.
//!
//! # Histories
//! A deployment without a T holds from the beginning of the log: it starts a new history, in which none before it ever was.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::clock;
use crate::config::{Config, Ordering, Source};
use crate::failure::{Exit, Failure};
use crate::plugin::{Digest, Plugin};
use crate::record::iso;

pub mod follow;
pub mod owner;
pub mod redriven;
mod settings;
pub mod shadow;

pub use settings::Settings;

/// The format of `log/`.
const FORMAT: u32 = 1;
/// How far T lies past everything that is reserved, at first; twice as far at each attempt that came too late. Lanes load the plugin
/// meanwhile.
const MARGIN_MS: i64 = 250;
/// Attempts to find a T that no lane has reserved.
const ATTEMPTS: u32 = 12;

/// What a pipeline is for good: another source needs another state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    format: u32,
    source: String,
    topic: Option<String>,
    ordering: String,
}

/// A deployment: these settings hold from an append time on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// T, an append time in ms; none is the beginning of the log.
    pub t: Option<i64>,
    /// How long it can be withdrawn, ms of append time from T on; 0 is not at all.
    pub probation_ms: i64,
    /// The settings.
    pub settings: Settings,
    /// The plugin's own name and version, for people.
    pub plugin: String,
    /// Version of the encoding in which its state lies.
    pub state_version: u32,
    /// Who ordered it.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When, ms by the clock of whoever did.
    pub ordered_ms: i64,
}

/// What became of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds from T on.
    Confirmed,
    /// It never holds: a lane had reserved T when it was put.
    Voided,
    /// It was confirmed and then withdrawn: it never held.
    Withdrawn,
    /// It was confirmed, in a history that is no longer told: a later deployment holds from the beginning of the log.
    Superseded,
}

/// Whether a confirmed deployment stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It stays.
    Kept,
    /// It never was: who withdrew it, and why.
    Withdrawn(Author),
}

/// A deployment of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its number.
    pub n: u64,
    /// What was ordered.
    pub deployment: Deployment,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether it stays, if that is decided.
    pub verdict: Option<Verdict>,
}

impl Entry {
    /// The append time with which its probation is over; none if it cannot be withdrawn, or not any more.
    fn probation_until(&self) -> Option<i64> {
        let Deployment { t, probation_ms, .. } = self.deployment;
        t.filter(|_| probation_ms > 0 && self.verdict.is_none()).map(|t| t.saturating_add(probation_ms))
    }
}

/// Who orders or withdraws a deployment, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Who.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// How the configuration stands to the deployment in force.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Nothing is in force yet.
    First,
    /// They say the same: the number of what is in force.
    Same(u64),
    /// Another one was deployed since the last start, and the file is as it was then: what was deployed holds.
    Superseded(u64),
    /// The file was changed: it asks for something else than what is in force, in these respects.
    Changed(Vec<String>),
}

/// How far a host may have folded a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reservation {
    until: i64,
}

impl Deployment {
    pub(crate) fn of(settings: Settings, plugin: &Plugin, probation_ms: i64, author: &Author) -> Deployment {
        let description = &plugin.description;
        Deployment {
            t: None,
            probation_ms,
            settings,
            plugin: format!("{} {}", description.name, description.version),
            state_version: description.state_version,
            by: author.by.clone(),
            reason: author.reason.clone(),
            ordered_ms: clock::now_ms(),
        }
    }
}

/// The pipeline's part of the journal.
#[derive(Clone)]
pub struct PipelineLog {
    objects: Arc<dyn ObjectStore>,
    runtime: Handle,
}

impl PipelineLog {
    /// The log under this store.
    pub fn new(objects: Arc<dyn ObjectStore>, runtime: Handle) -> PipelineLog {
        PipelineLog { objects, runtime }
    }

    // ---- the configuration

    /// Compares the pipeline's identity and the deployment in force with what is configured. Changes nothing.
    pub fn standing(&self, config: &Config, plugin: &Digest) -> Result<Standing, Failure> {
        self.check_identity(config)?;
        let Some((n, in_force)) = self.in_force()? else { return Ok(Standing::First) };
        let configured = Settings::of(config, plugin);
        let differences = in_force.settings.differences(&configured);
        if differences.is_empty() {
            return Ok(Standing::Same(n));
        }
        let last: Option<Settings> = self.read("log/configured.json")?;
        Ok(if last.as_ref() == Some(&configured) { Standing::Superseded(n) } else { Standing::Changed(differences) })
    }

    fn check_identity(&self, config: &Config) -> Result<(), Failure> {
        let Some(known) = self.read::<Identity>("log/pipeline.json")? else { return Ok(()) };
        let configured = identity(config);
        if known.format != FORMAT {
            let message = format!(
                "state.url: the journal has format {}, this keyfold reads {FORMAT}: run the newer keyfold",
                known.format
            );
            return Err(Failure::new(Exit::State, message));
        }
        if known == configured { Ok(()) } else { Err(Failure::new(Exit::State, other_source(&known, &configured))) }
    }

    /// Writes identity, plugin and first deployment, if this is the pipeline's first start.
    pub fn begin(&self, config: &Config, plugin: &Plugin) -> Result<(), Failure> {
        self.put_once("log/pipeline.json", json(&identity(config)))?;
        self.keep_plugin(plugin)?;
        let settings = Settings::of(config, &plugin.digest);
        self.put_once(&deployment_path(0), json(&Deployment::of(settings, plugin, 0, &Author::default())))?;
        Ok(())
    }

    /// Remembers what the configuration file says, so that a later start can tell a changed file from an older one.
    pub fn remember(&self, config: &Config, plugin: &Digest) -> Result<(), Failure> {
        self.put("log/configured.json", json(&Settings::of(config, plugin)))
    }

    // ---- deployments

    /// The plugin's bytes, by their digest.
    pub fn plugin(&self, digest: &Digest) -> Result<Vec<u8>, Failure> {
        let path = plugin_path(digest);
        let bytes = self.get(&path)?.ok_or_else(|| {
            Failure::new(Exit::State, format!("state.url: {path} is missing: the journal's files are part of the log"))
        })?;
        if Digest::of(&bytes) != *digest {
            return Err(Failure::new(Exit::State, format!("state.url: {path} does not have the digest that names it")));
        }
        Ok(bytes)
    }

    /// Keeps a plugin's bytes.
    pub fn keep_plugin(&self, plugin: &Plugin) -> Result<(), Failure> {
        self.put_once(&plugin_path(&plugin.digest), plugin.bytes.to_vec()).map(drop)
    }

    /// Deployment `n`, if there is one.
    pub fn deployment(&self, n: u64) -> Result<Option<Deployment>, Failure> {
        self.read(&deployment_path(n))
    }

    /// Deployment `n` with what became of it, decided now if nobody did before.
    pub fn entry(&self, n: u64) -> Result<Option<Entry>, Failure> {
        let Some(deployment) = self.deployment(n)? else { return Ok(None) };
        let verdict = self.verdict(n)?;
        let outcome = match self.confirmation(n, &deployment)? {
            Outcome::Confirmed if matches!(verdict, Some(Verdict::Withdrawn(_))) => Outcome::Withdrawn,
            outcome => outcome,
        };
        Ok(Some(Entry { n, deployment, outcome, verdict }))
    }

    fn confirmation(&self, n: u64, deployment: &Deployment) -> Result<Outcome, Failure> {
        // One without a T holds whatever the lanes have folded: they begin again.
        let (Some(t), path) = (deployment.t, outcome_path(n)) else { return Ok(Outcome::Confirmed) };
        if let Some(outcome) = self.read(&path)? {
            return Ok(outcome);
        }
        let reserved = self.reserved()?.is_some_and(|(until, _)| until >= t);
        self.decide(&path, if reserved { Outcome::Voided } else { Outcome::Confirmed })
    }

    /// Puts what was decided, unless somebody decided before; what was decided first.
    fn decide<T: Serialize + DeserializeOwned>(&self, path: &str, decision: T) -> Result<T, Failure> {
        if self.put_once(path, json(&decision))? {
            return Ok(decision);
        }
        let decided = self.read(path)?;
        decided.ok_or_else(|| Failure::new(Exit::Outside, format!("state.url: {path} is there and cannot be read")))
    }

    /// All deployments, in the order of their numbers.
    pub fn deployments(&self) -> Result<Vec<Entry>, Failure> {
        let mut all: Vec<Entry> = Vec::new();
        while let Some(entry) = self.entry(all.len() as u64)? {
            if entry.deployment.t.is_none() && entry.outcome == Outcome::Confirmed {
                let before = all.iter_mut().filter(|entry| entry.outcome == Outcome::Confirmed);
                before.for_each(|entry| entry.outcome = Outcome::Superseded);
            }
            all.push(entry);
        }
        Ok(all)
    }

    /// The last confirmed deployment: what holds from its T on, whether lanes have reached it or not.
    pub fn in_force(&self) -> Result<Option<(u64, Deployment)>, Failure> {
        let confirmed = self.deployments()?.into_iter().rev().find(|entry| entry.outcome == Outcome::Confirmed);
        Ok(confirmed.map(|entry| (entry.n, entry.deployment)))
    }

    /// The deployment that holds from the beginning of the log.
    pub fn first(&self) -> Result<u64, Failure> {
        let first = self.deployments()?.into_iter().find(|entry| entry.outcome == Outcome::Confirmed);
        first.map(|entry| entry.n).ok_or_else(|| Failure::new(Exit::State, "state.url: the journal has no deployment"))
    }

    /// Puts a deployment at `at`, or as soon as it can be; its number and T. The one before it is kept for good.
    pub fn order(&self, mut deployment: Deployment, at: Option<i64>) -> Result<(u64, i64), Failure> {
        let mut margin = MARGIN_MS;
        for _ in 0..ATTEMPTS {
            let all = self.deployments()?;
            let before = all.iter().rev().find(|entry| entry.outcome == Outcome::Confirmed);
            let former_t = before.and_then(|entry| entry.deployment.t);
            let reserved = self.reserved()?;
            let least = [former_t, reserved.as_ref().map(|r| r.0)].into_iter().flatten().max();
            let t = match at {
                Some(at) => {
                    refuse_past(at, former_t, reserved.as_ref())?;
                    at
                }
                None => least.unwrap_or(i64::MIN).max(clock::now_ms()).saturating_add(margin),
            };
            if let Some(before) = before
                && !self.keep(before.n)?
            {
                continue; // withdrawn just now
            }
            deployment.t = Some(t);
            let n = all.len() as u64;
            if self.put_once(&deployment_path(n), json(&deployment))?
                && self.confirmation(n, &deployment)? == Outcome::Confirmed
            {
                return Ok((n, t));
            }
            margin *= 2;
        }
        let message = "no instant was found that no lane had reserved yet; try again, or name a later one with --at";
        Err(Failure::new(Exit::State, message))
    }

    /// Puts a deployment that holds from the beginning of the log; its number.
    pub fn order_anew(&self, mut deployment: Deployment) -> Result<u64, Failure> {
        deployment.t = None;
        for _ in 0..ATTEMPTS {
            let all = self.deployments()?;
            if let Some(before) = all.iter().rev().find(|entry| entry.outcome == Outcome::Confirmed) {
                self.keep(before.n)?;
            }
            let n = all.len() as u64;
            if self.put_once(&deployment_path(n), json(&deployment))? {
                return Ok(n);
            }
        }
        Err(Failure::new(Exit::State, "other deployments are being ordered all the time; try again"))
    }

    // ---- verdicts

    /// Whether deployment `n` stays, if that is decided.
    pub fn verdict(&self, n: u64) -> Result<Option<Verdict>, Failure> {
        self.read(&verdict_path(n))
    }

    /// Whether deployment `n` was withdrawn.
    pub fn is_withdrawn(&self, n: u64) -> Result<bool, Failure> {
        Ok(matches!(self.verdict(n)?, Some(Verdict::Withdrawn(_))))
    }

    /// Keeps deployment `n` for good; false if it was withdrawn before.
    pub fn keep(&self, n: u64) -> Result<bool, Failure> {
        Ok(self.decide(&verdict_path(n), Verdict::Kept)? == Verdict::Kept)
    }

    /// Withdraws deployment `n`; false if it was kept before.
    pub fn withdraw(&self, n: u64, author: &Author) -> Result<bool, Failure> {
        Ok(self.decide(&verdict_path(n), Verdict::Withdrawn(author.clone()))? != Verdict::Kept)
    }

    // ---- lanes

    /// The lanes that have ever reserved anything.
    pub fn lanes(&self) -> Result<Vec<String>, Failure> {
        let paths = self.reservations(&Path::from("log/reservations"))?;
        let mut lanes: Vec<String> =
            paths.keys().filter_map(|path| path.parts().nth(2).map(|part| part.as_ref().to_owned())).collect();
        lanes.dedup();
        Ok(lanes)
    }

    // ---- reservations

    /// The greatest reservation, with its lane.
    fn reserved(&self) -> Result<Option<(i64, String)>, Failure> {
        let mut greatest = None;
        for (path, reservation) in self.reservations(&Path::from("log/reservations"))? {
            let lane = path.parts().nth(2).map(|part| part.as_ref().to_owned()).unwrap_or_default();
            greatest = greatest.max(Some((reservation.until, lane)));
        }
        Ok(greatest)
    }

    /// Makes a lane's reservation this host's: as far as any host reserved before.
    fn take_over(&self, lane: &str, host: &str) -> Result<i64, Failure> {
        let before = self.reservations(&Path::from(format!("log/reservations/{lane}")))?;
        let until = before.values().map(|r| r.until).max().unwrap_or(i64::MIN);
        self.reserve(lane, host, until)?;
        for path in before.keys() {
            let deleted = self.runtime.block_on(self.objects.delete(path));
            deleted.map_err(|e| Failure::new(Exit::Outside, format!("state.url: {path} cannot be deleted: {e}")))?;
        }
        Ok(until)
    }

    /// Makes a raised reservation durable.
    fn reserve(&self, lane: &str, host: &str, until: i64) -> Result<(), Failure> {
        self.put(&format!("log/reservations/{lane}/{host}.json"), json(&Reservation { until }))
    }

    fn reservations(&self, under: &Path) -> Result<BTreeMap<Path, Reservation>, Failure> {
        let mut found = BTreeMap::new();
        for path in self.paths(under)? {
            // One that is gone was taken over by a newer one, which was there before.
            if let Some(reservation) = self.read(path.as_ref())? {
                found.insert(path, reservation);
            }
        }
        Ok(found)
    }

    // ---- objects

    fn paths(&self, under: &Path) -> Result<Vec<Path>, Failure> {
        let listing = self.objects.list(Some(under)).map_ok(|object| object.location).try_collect();
        let refused = |e| Failure::new(Exit::Outside, format!("state.url: {under} cannot be listed: {e}"));
        self.runtime.block_on(listing).map_err(refused)
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        let Some(bytes) = self.get(path)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|e| {
            Failure::new(Exit::State, format!("state.url: {path} holds what this keyfold cannot read: {e}"))
        })
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let read = async { self.objects.get(&Path::from(path)).await?.bytes().await };
        match self.runtime.block_on(read) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(Failure::new(Exit::Outside, format!("state.url: {path} cannot be read: {e}"))),
        }
    }

    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        let location = Path::from(path);
        let put = self.runtime.block_on(self.objects.put(&location, bytes.into()));
        put.map(drop).map_err(|e| Failure::new(Exit::Outside, format!("state.url: {path} cannot be written: {e}")))
    }

    /// Whether it was not there before.
    fn put_once(&self, path: &str, bytes: Vec<u8>) -> Result<bool, Failure> {
        let location = Path::from(path);
        let put = self.objects.put_opts(&location, bytes.into(), PutMode::Create.into());
        match self.runtime.block_on(put) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(e) => Err(Failure::new(Exit::Outside, format!("state.url: {path} cannot be written: {e}"))),
        }
    }
}

fn refuse_past(at: i64, former_t: Option<i64>, reserved: Option<&(i64, String)>) -> Result<(), Failure> {
    if let Some((until, lane)) = reserved.filter(|r| r.0 >= at) {
        let message = format!(
            "--at: lane {lane} may have folded records up to {} ({until}) already, {} ({at}) lies before; leave --at out for the earliest \
             instant that can be",
            iso(*until),
            iso(at)
        );
        return Err(Failure::new(Exit::Config, message));
    }
    match former_t.filter(|t| *t > at) {
        Some(t) => {
            let message =
                format!("--at: the last deployment holds from {} ({t}) on, {} ({at}) lies before", iso(t), iso(at));
            Err(Failure::new(Exit::Config, message))
        }
        None => Ok(()),
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data becomes JSON")
}

fn deployment_path(n: u64) -> String {
    format!("log/deployments/{n:020}.json")
}

fn outcome_path(n: u64) -> String {
    format!("log/deployments/{n:020}.outcome.json")
}

fn verdict_path(n: u64) -> String {
    format!("log/deployments/{n:020}.verdict.json")
}

fn plugin_path(digest: &Digest) -> String {
    format!("log/plugins/{}.wasm", digest.0)
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
