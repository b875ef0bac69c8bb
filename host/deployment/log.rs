//! The journal's shared objects in the object store: the pipeline's identity, plugins, deployments, reservations. Performs what
//! [`super::protocol`] decides; the objects are listed in [`super`].

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::protocol::{self, Attempt, Objects, Refusal, Reservations, When};
use super::{Author, Deployment, Entry, Outcome, Settings, Standing, Verdict};
use crate::clock;
use crate::config::{Config, Ordering, Source};
use crate::event_time::{AppendTime, no_time, plausible};
use crate::failure::{Exit, Failure};
use crate::plugin::{Digest, Plugin};
use crate::position::{Partition, TopicId};
use crate::record::iso;
use crate::state::journal;

/// The format of `log/`.
const FORMAT: u32 = 1;
/// Where the topic's id is.
const TOPIC: &str = "log/topic.json";
/// What the configuration file of the last start said.
const CONFIGURED: &str = "log/configured.json";
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

/// The topic from which the pipeline's state was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownTopic {
    id: TopicId,
}

/// What the configuration file of a start said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Configured {
    #[serde(flatten)]
    settings: Settings,
    /// How many deployments there were then; in files from before it was kept, more than there are.
    #[serde(default = "all")]
    deployments: u64,
}

fn all() -> u64 {
    u64::MAX
}

/// How far a host may have folded a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reservation {
    #[serde(with = "no_time")]
    until: Option<AppendTime>,
}

/// A host that folds, or folded, a lane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) lane: String,
    pub(crate) host: String,
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
        self.check_journal()?;
        let all = self.deployments()?;
        let Some(in_force) = protocol::in_force(&all) else { return Ok(Standing::First) };
        let configured = Settings::of(config, plugin);
        let differences = in_force.deployment.settings.differences(&configured);
        if differences.is_empty() {
            return Ok(Standing::Same(in_force.n));
        }
        let is_older = self.last_file(&all)?.as_ref() == Some(&configured);
        Ok(if is_older { Standing::Superseded(in_force.n) } else { Standing::Changed(differences) })
    }

    /// What the configuration file of the last start said. A start that deployed it may have been killed before it could remember that.
    fn last_file(&self, all: &[Entry]) -> Result<Option<Settings>, Failure> {
        let remembered: Option<Configured> = self.read(CONFIGURED)?;
        let known = remembered.as_ref().map_or(0, |configured| configured.deployments);
        let is_newer =
            |entry: &&Entry| entry.n >= known && entry.deployment.from_file && entry.outcome != Outcome::Voided;
        let deployed = all.iter().rev().find(is_newer).map(|entry| entry.deployment.settings.clone());
        Ok(deployed.or(remembered.map(|configured| configured.settings)))
    }

    /// Refuses checkpoints that have no journal. Changes nothing.
    pub fn check_journal(&self) -> Result<(), Failure> {
        // In this order: another host may begin the pipeline at this moment, and then its journal is there before its lanes are.
        if self.paths(&Path::from("lanes"))?.is_empty() || self.get("log/pipeline.json")?.is_some() {
            return Ok(());
        }
        Err(super::journal_missing("log/"))
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

    /// Returns the id of the topic from which the state was built, if it is known.
    pub fn topic_id(&self) -> Result<Option<TopicId>, Failure> {
        Ok(self.read::<KnownTopic>(TOPIC)?.map(|known| known.id))
    }

    /// Refuses a topic with another id than the one from which the state was built. Changes nothing.
    pub fn check_topic(&self, id: &TopicId) -> Result<(), Failure> {
        self.topic_id()?.map_or(Ok(()), |known| same_topic(&known, id))
    }

    /// Does the same, and remembers the id if none is known yet.
    pub fn hold_topic(&self, id: &TopicId) -> Result<(), Failure> {
        let known = match self.read(TOPIC)? {
            Some(known) => known,
            None => self.decide(TOPIC, KnownTopic { id: id.clone() })?,
        };
        same_topic(&known.id, id)
    }

    /// Writes identity, plugin and first deployment, if this is the pipeline's first start.
    pub fn begin(&self, config: &Config, plugin: &Plugin) -> Result<(), Failure> {
        self.put_once("log/pipeline.json", json(&identity(config)))?;
        self.keep_plugin(plugin)?;
        let settings = Settings::of(config, &plugin.digest);
        let first = Deployment::of(settings, plugin, 0, &Author::default()).from_file();
        self.put_once(&deployment_path(0), json(&first))?;
        Ok(())
    }

    /// Remembers what the configuration file says, so that a later start can tell a changed file from an older one.
    pub fn remember(&self, config: &Config, plugin: &Digest) -> Result<(), Failure> {
        let deployments = self.deployments()?.last().map_or(0, |last| last.n + 1);
        self.put(CONFIGURED, json(&Configured { settings: Settings::of(config, plugin), deployments }))
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

    /// Deployment `n` with its outcome, which is decided now if nobody has yet.
    pub fn entry(&self, n: u64) -> Result<Option<Entry>, Failure> {
        protocol::entry(self, n)
    }

    /// Puts what was decided, unless there is a decision already; the stored one.
    fn decide<T: Serialize + DeserializeOwned>(&self, path: &str, decision: T) -> Result<T, Failure> {
        if self.put_once(path, json(&decision))? {
            return Ok(decision);
        }
        let decided = self.read(path)?;
        decided.ok_or_else(|| Failure::new(Exit::Outside, format!("state.url: {path} exists but cannot be read")))
    }

    /// All deployments, in the order of their numbers.
    pub fn deployments(&self) -> Result<Vec<Entry>, Failure> {
        protocol::all(self)
    }

    /// The last confirmed deployment: it holds from its T on, whether lanes have reached T or not.
    pub fn in_force(&self) -> Result<Option<(u64, Deployment)>, Failure> {
        let all = self.deployments()?;
        Ok(protocol::in_force(&all).map(|entry| (entry.n, entry.deployment.clone())))
    }

    /// The deployment that holds from the beginning of the log.
    pub fn first(&self) -> Result<u64, Failure> {
        let all = self.deployments()?;
        let first = protocol::first(&all).map(|entry| entry.n);
        first.ok_or_else(|| Failure::new(Exit::State, "state.url: the journal has no deployment"))
    }

    /// Creates a deployment at `at`, or as soon as possible; its number and T. The one before it is kept for good.
    pub fn order(&self, mut deployment: Deployment, at: Option<i64>) -> Result<(u64, i64), Failure> {
        let mut when = When::new(at.map(append_time).transpose()?);
        for _ in 0..ATTEMPTS {
            match protocol::attempt(self, &mut deployment, when, AppendTime::at(clock::now_ms()))? {
                Attempt::Created(n, t) => return Ok((n, t.ms())),
                Attempt::Refused(refusal) => return Err(refused(refusal, at.unwrap_or_default())),
                Attempt::TooLate => when = when.later(),
            }
        }
        let message = "cannot create the deployment: lanes reserved every T that was tried; try again, or name a later one with --at";
        Err(Failure::new(Exit::State, message))
    }

    /// Creates a deployment that holds from the beginning of the log; its number.
    pub fn order_anew(&self, mut deployment: Deployment) -> Result<u64, Failure> {
        for _ in 0..ATTEMPTS {
            if let Some(n) = protocol::attempt_reprocess(self, &mut deployment)? {
                return Ok(n);
            }
        }
        let message = "cannot create the deployment: others are being created at the same time; try again";
        Err(Failure::new(Exit::State, message))
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
        protocol::keep(self, n)
    }

    /// Withdraws deployment `n`; false if it was kept before.
    pub fn withdraw(&self, n: u64, author: &Author) -> Result<bool, Failure> {
        protocol::withdraw(self, n, author)
    }

    // ---- lanes

    /// The lanes that have ever reserved anything.
    pub fn lanes(&self) -> Result<Vec<String>, Failure> {
        let mut lanes: Vec<String> = self.holders(None)?.into_iter().map(|holder| holder.lane).collect();
        lanes.dedup();
        Ok(lanes)
    }

    /// Returns the partitions that the lanes have begun with; none if the pipeline has not run yet.
    pub fn partitions(&self) -> Result<BTreeSet<Partition>, Failure> {
        let beginnings = journal::beginnings(&self.objects, &self.lanes()?, &self.runtime)?;
        Ok(beginnings.into_keys().collect())
    }

    // ---- objects

    pub(super) fn paths(&self, under: &Path) -> Result<Vec<Path>, Failure> {
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

    pub(super) fn get(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
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
    pub(super) fn put_once(&self, path: &str, bytes: Vec<u8>) -> Result<bool, Failure> {
        let location = Path::from(path);
        let put = self.objects.put_opts(&location, bytes.into(), PutMode::Create.into());
        match self.runtime.block_on(put) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(e) => Err(Failure::new(Exit::Outside, format!("state.url: {path} cannot be written: {e}"))),
        }
    }
}

/// One operation of the protocol each.
impl Objects for PipelineLog {
    type Error = Failure;
    type Deployment = Deployment;

    fn deployment(&self, n: u64) -> Result<Option<Deployment>, Failure> {
        PipelineLog::deployment(self, n)
    }

    fn put_deployment(&self, n: u64, deployment: &Deployment) -> Result<bool, Failure> {
        self.put_once(&deployment_path(n), json(deployment))
    }

    fn outcome(&self, n: u64) -> Result<Option<Outcome>, Failure> {
        self.read(&outcome_path(n))
    }

    fn decide_outcome(&self, n: u64, outcome: Outcome) -> Result<Outcome, Failure> {
        self.decide(&outcome_path(n), outcome)
    }

    fn verdict(&self, n: u64) -> Result<Option<Verdict>, Failure> {
        PipelineLog::verdict(self, n)
    }

    fn decide_verdict(&self, n: u64, verdict: Verdict) -> Result<Verdict, Failure> {
        self.decide(&verdict_path(n), verdict)
    }
}

impl Reservations for PipelineLog {
    type Holder = Holder;

    fn holders(&self, like: Option<&Holder>) -> Result<Vec<Holder>, Failure> {
        let under = match like {
            Some(holder) => format!("log/reservations/{}", holder.lane),
            None => "log/reservations".to_owned(),
        };
        let paths = self.paths(&Path::from(under))?;
        let mut holders: Vec<Holder> = paths.iter().filter_map(holder).collect();
        holders.sort();
        Ok(holders)
    }

    fn reservation(&self, holder: &Holder) -> Result<Option<Option<AppendTime>>, Failure> {
        Ok(self.read::<Reservation>(&reservation_path(holder))?.map(|reservation| reservation.until))
    }

    fn reserve(&self, holder: &Holder, until: Option<AppendTime>) -> Result<(), Failure> {
        self.put(&reservation_path(holder), json(&Reservation { until }))
    }

    fn release(&self, holder: &Holder) -> Result<(), Failure> {
        let path = Path::from(reservation_path(holder));
        let deleted = self.runtime.block_on(self.objects.delete(&path));
        deleted.map_err(|e| Failure::new(Exit::Outside, format!("state.url: {path} cannot be deleted: {e}")))
    }
}

fn holder(path: &Path) -> Option<Holder> {
    let mut parts = path.parts().skip(2);
    let (lane, file) = (parts.next()?, parts.next()?);
    let host = file.as_ref().strip_suffix(".json")?.to_owned();
    Some(Holder { lane: lane.as_ref().to_owned(), host })
}

fn append_time(ms: i64) -> Result<AppendTime, Failure> {
    plausible(ms).map_err(|_| {
        let message = format!("--at: {ms} is not in the years 1970 to 2099, so no record has this append time; give milliseconds since 1970");
        Failure::new(Exit::Config, message)
    })
}

/// Why a deployment cannot hold from `at` on.
fn refused(refusal: Refusal<Holder>, at: i64) -> Failure {
    let message = match refusal {
        Refusal::Reserved(until, Holder { lane, .. }) => format!(
            "--at: {} ({at}) is too early: lane {lane} may have folded records up to {} ({until}) already; leave --at out for the earliest \
             T that is possible",
            iso(at),
            iso(until.ms())
        ),
        Refusal::BeforeFormer(t) => format!(
            "--at: {} ({at}) is too early: the deployment before holds from {} ({t}) on; leave --at out for the earliest T that is \
             possible",
            iso(at),
            iso(t.ms())
        ),
        Refusal::Unreadable(n, why) => {
            return Failure::new(Exit::Plugin, format!("it would follow deployment {n}: {why}"));
        }
    };
    Failure::new(Exit::Config, message)
}

pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data becomes JSON")
}

pub(super) fn deployment_path(n: u64) -> String {
    format!("log/deployments/{n:020}.json")
}

pub(super) fn outcome_path(n: u64) -> String {
    format!("log/deployments/{n:020}.outcome.json")
}

pub(super) fn verdict_path(n: u64) -> String {
    format!("log/deployments/{n:020}.verdict.json")
}

fn reservation_path(holder: &Holder) -> String {
    format!("log/reservations/{}/{}.json", holder.lane, holder.host)
}

fn plugin_path(digest: &Digest) -> String {
    format!("log/plugins/{}.wasm", digest.0)
}

fn identity(config: &Config) -> Identity {
    let (source, topic) = match &config.source {
        Source::Kafka(kafka) => ("kafka", Some(kafka.topic.clone())),
        Source::File(_) => ("file", None),
    };
    let ordering = match config.source.ordering() {
        Ordering::Topic => "topic",
        Ordering::Partition => "partition",
    };
    Identity { format: FORMAT, source: source.into(), topic, ordering: ordering.into() }
}

/// Refuses another topic than the known one.
pub(crate) fn same_topic(known: &TopicId, id: &TopicId) -> Result<(), Failure> {
    if known == id {
        return Ok(());
    }
    let message = format!(
        "source.kafka.topic: the topic has the id {id}, but the state was built from a topic of this name with the id {known}: it was deleted \
         and created again; give the new topic a state of its own (another state.url), which folds it from its beginning (`keyfold reset` \
         keeps the journal of the former topic)"
    );
    Err(Failure::new(Exit::State, message))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_that_no_record_can_have_is_refused() {
        assert_eq!(append_time(1_727_870_400_000), Ok(AppendTime::at(1_727_870_400_000)));
        for ms in [-1, 1_727_870_400_000_000, i64::MAX, i64::MIN] {
            let failure = append_time(ms).expect_err("no record has it");
            assert!(failure.exit == Exit::Config && failure.message.contains(&ms.to_string()), "{failure}");
        }
    }

    /// The settings of a file with this configuration of its plugin.
    fn file(mark: &str) -> Config {
        let text = format!(
            "name = \"p\"\n[source.file]\npath = \"l\"\n[plugin]\ncomponent = \"p.wasm\"\nconfig = {{ mark = {mark:?} }}\n[state]\nurl = \"s\"\n\
             [sink.discard]\n"
        );
        Config::from_toml(&text, "/".as_ref(), std::iter::empty()).expect("it is valid")
    }

    fn deployment(mark: &str, state_version: u32) -> Deployment {
        let (settings, plugin) = (Settings::of(&file(mark), &Digest("d".into())), "p 1".to_owned());
        let (t, probation_ms, encodings, by, reason, ordered_ms, from_file) = (None, 0, None, None, None, 0, false);
        Deployment { t, probation_ms, settings, plugin, state_version, encodings, by, reason, ordered_ms, from_file }
    }

    #[test]
    fn a_deployment_that_was_checked_before_another_one_raised_the_state_version_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it starts");
        let log = PipelineLog::new(Arc::new(object_store::memory::InMemory::new()), runtime.handle().clone());
        log.put(&deployment_path(0), json(&deployment("a", 1))).expect("memory takes it");
        // Two clients have checked theirs against deployment 0.
        let (raises, keeps) = (deployment("b", 2), deployment("c", 1));
        assert_eq!(log.order(raises, None).expect("it takes the state of version 1").0, 1);
        let failure = log.order(keeps, None).expect_err("it cannot read state of version 2");
        assert_eq!(failure.exit, Exit::Plugin);
        for word in ["deployment 1", "version 1", "version 2"] {
            assert!(failure.message.contains(word), "{failure}");
        }
        assert_eq!(log.order(deployment("d", 2), None).expect("it reads version 2").0, 2);
    }

    #[test]
    fn a_file_that_a_killed_start_deployed_is_no_changed_file_later() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it starts");
        let objects = Arc::new(object_store::memory::InMemory::new());
        let log = PipelineLog::new(objects, runtime.handle().clone());
        let digest = Digest("d".into());
        let put = |n: u64, mark: &str, from_file: bool| {
            let t = (n > 0).then(|| i64::try_from(n).expect("few"));
            let deployment = Deployment { t, from_file, ..deployment(mark, 1) };
            log.put(&deployment_path(n), json(&deployment)).expect("memory takes it");
        };
        let standing = |mark: &str| log.standing(&file(mark), &digest).expect("it can be read");
        let is_changed = |mark: &str| matches!(standing(mark), Standing::Changed(_));
        // The first start is killed before it remembers its file, and a client deploys something else.
        put(0, "a", true);
        put(1, "b", false);
        assert_eq!(standing("a"), Standing::Superseded(1));
        assert!(is_changed("c"));
        // A start with a changed file is killed after it has deployed it, and again a client deploys something else.
        log.remember(&file("a"), &digest).expect("memory takes it");
        put(2, "c", true);
        put(3, "b", false);
        assert_eq!(standing("c"), Standing::Superseded(3));
        assert!(is_changed("a"), "the file is changed back");
        // What a client deploys first and the file says later is no start's.
        log.remember(&file("b"), &digest).expect("memory takes it");
        put(4, "d", false);
        assert_eq!(standing("b"), Standing::Superseded(4));
        assert!(is_changed("a") && is_changed("c"));
        // A file that an earlier version remembered is believed.
        log.put(CONFIGURED, json(&Settings::of(&file("a"), &digest))).expect("memory takes it");
        assert_eq!(standing("a"), Standing::Superseded(4));
        assert!(is_changed("c"));
    }

    #[test]
    fn another_topic_is_refused_with_both_ids_and_the_ways_out() {
        let (one, other) = (TopicId::of(1, 2), TopicId::of(1, 3));
        assert_eq!(same_topic(&one, &one), Ok(()));
        let failure = same_topic(&one, &other).expect_err("another one");
        assert_eq!(failure.exit, Exit::State);
        for word in [one.to_string(), other.to_string(), "state.url".into(), "keyfold reset".into()] {
            assert!(failure.message.contains(&word), "{failure}");
        }
    }
}
