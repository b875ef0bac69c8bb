//! Checks state and journal: whether they are writable, which host owns each lane, and how far it has come. Takes over no lane.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;

use crate::commands::check;
use crate::config::{Config, DeadLetters};
use crate::deployment::PipelineLog;
use crate::failure::{Check, Exit, Failure};
use crate::plugin::Plugin;
use crate::position::{Offset, Partition, TopicId};
use crate::private::readable_by_others;
use crate::record::iso;
use crate::state::checkpoint::Checkpoint;
use crate::state::journal;
use crate::state::objects::objects;
use crate::state::reader::Reader;
use crate::symptom::Symptom;

/// How far a lane has come.
#[derive(Clone, Debug, Default)]
pub(super) struct LaneState {
    /// Its last checkpoint, if there is one.
    pub(super) checkpoint: Option<Checkpoint>,
    /// First offset of each of its partitions.
    pub(super) began: BTreeMap<Partition, Offset>,
    /// The id of the topic from which the pipeline's state was built, if it is known.
    pub(super) topic: Option<TopicId>,
}

/// Checks state and lanes; returns how far the lanes have come.
pub(super) fn examine(config: &Config, plugin: Option<&Plugin>, runtime: &Runtime) -> (Vec<Check>, Vec<LaneState>) {
    let mut checks = vec![check::state(config, plugin, runtime)];
    if checks[0].symptom == Some(Symptom::StateUnusable) {
        return (checks, Vec::new());
    }
    let store = match objects(&config.state.url).and_then(|objects| probe(config, &objects, runtime)) {
        Ok(objects) => {
            Store { log: PipelineLog::new(Arc::clone(&objects), runtime.handle().clone()), objects, runtime }
        }
        Err(failure) => {
            checks.push(Check::refused("state", failure).of(Symptom::StateUnusable));
            return (checks, Vec::new());
        }
    };
    checks.extend(readable(config));
    let lanes = store.log.lanes().unwrap_or_else(|failure| {
        checks.push(Check::refused("lanes", failure).of(Symptom::StateUnusable));
        Vec::new()
    });
    let mut states = Vec::new();
    for lane in lanes {
        let subject = format!("lane {lane}");
        match store.lane(&lane) {
            Ok((state, detail)) => {
                states.push(state);
                checks.push(Check::fine(subject, detail));
            }
            Err(failure) => {
                let symptom =
                    if failure.exit == Exit::Outside { Symptom::StateUnusable } else { Symptom::StateForeign };
                checks.push(Check::refused(subject, failure).of(symptom));
            }
        }
    }
    (checks, states)
}

/// Returns which folders of the state and dead letters others can read, as earlier builds and other programs make them.
fn readable(config: &Config) -> Option<Check> {
    let folder = config.state.url.to_file_path().ok().filter(|_| config.state.url.scheme() == "file");
    let below = folder.filter(|folder| readable_by_others(folder).is_some());
    let state = below.into_iter().flat_map(|folder| ["log", "lanes"].map(|name| folder.join(name)));
    let letters = match &config.dead_letters {
        DeadLetters::File(path) => Some(path.clone()),
        DeadLetters::Topic { .. } => None,
    };
    let shown = |path: std::path::PathBuf| Some(format!("{} (mode {:o})", path.display(), readable_by_others(&path)?));
    let found: Vec<String> = state.chain(letters).filter_map(shown).collect();
    let detail = format!("other users can read {}", found.join(", "));
    (!found.is_empty()).then(|| Check::warning("files", detail).of(Symptom::ReadableByOthers))
}

/// Writes an object beside the state and deletes it.
fn probe(config: &Config, objects: &Arc<dyn ObjectStore>, runtime: &Runtime) -> Result<Arc<dyn ObjectStore>, Failure> {
    let path = Path::from(format!("doctor-{}", std::process::id()));
    let written = runtime.block_on(async {
        objects.put(&path, b"written by `keyfold doctor`, which deletes it".to_vec().into()).await?;
        objects.delete(&path).await
    });
    let refused = |e| Failure::new(Exit::Outside, format!("cannot write to state.url {}: {e}", config.state.url));
    written.map(|()| Arc::clone(objects)).map_err(refused)
}

/// An open store, for reading.
struct Store<'a> {
    log: PipelineLog,
    objects: Arc<dyn ObjectStore>,
    runtime: &'a Runtime,
}

impl Store<'_> {
    fn lane(&self, lane: &str) -> Result<(LaneState, String), Failure> {
        let handle = self.runtime.handle();
        let path = format!("lanes/{lane}");
        let checkpoint = Reader::open(&self.objects, &path, handle)?.and_then(|reader| reader.checkpoint().cloned());
        let began = journal::beginnings(&self.objects, &[lane.to_owned()], handle)?;
        let state = LaneState { checkpoint, began, topic: self.log.topic_id()? };
        let owner = self.log.owner(lane)?;
        let mut detail = owner.map_or_else(|| "no owner recorded".to_owned(), |owner| owner.to_string());
        if state.checkpoint.is_none() {
            detail.push_str("; no checkpoint");
        }
        if let Some(ms) = self.last_written(&path)? {
            detail.push_str(&format!("; state last written {}", iso(ms)));
        }
        Ok((state, detail))
    }

    /// Returns when anything under `path` was last written, ms since 1970.
    fn last_written(&self, path: &str) -> Result<Option<i64>, Failure> {
        let path = Path::from(path);
        let times = self.objects.list(Some(&path)).map_ok(|object| object.last_modified.timestamp_millis());
        let times: Vec<i64> = self
            .runtime
            .block_on(times.try_collect())
            .map_err(|e| Failure::new(Exit::Outside, format!("cannot list {path} in state.url: {e}")))?;
        Ok(times.into_iter().max())
    }
}
