//! `keyfold status` where no host answers: what the last checkpoint of each lane says.

use futures::TryStreamExt;
use object_store::path::Path;

use crate::clock;
use crate::config::Config;
use crate::deployment::PipelineLog;
use crate::failure::{Exit, Failure};
use crate::observe::status::{LaneStatus, Status, Word};
use crate::record::NO_TIME;
use crate::state::checkpoint::Checkpoint;
use crate::state::objects::{objects, runtime};
use crate::state::reader::Reader;

/// What the last checkpoints say. Reads beside a host that may run, and disturbs none.
pub fn of_checkpoints(config: &Config) -> Result<Status, Failure> {
    let runtime = runtime()?;
    let objects = objects(&config.state.url)?;
    let outside = |e: object_store::Error| Failure::new(Exit::Outside, format!("state.url: it cannot be listed: {e}"));
    let log = PipelineLog::new(objects.clone(), runtime.handle().clone());
    let mut lanes = Vec::new();
    for name in log.lanes()? {
        let path = format!("lanes/{name}");
        let Some(reader) = Reader::open(&objects, &path, runtime.handle())? else { continue };
        let Some(checkpoint) = reader.checkpoint()? else { continue };
        // Its write is the last of this log.
        let writes = objects.list(Some(&Path::from(path).join("wal"))).map_ok(|object| object.last_modified);
        let written: Vec<_> = runtime.block_on(writes.try_collect()).map_err(outside)?;
        let written_ms = written.into_iter().max().map(|at| at.timestamp_millis());
        lanes.push(of_checkpoint(name, &checkpoint, written_ms, &log)?);
    }
    Ok(Status {
        pipeline: config.name.clone(),
        word: Word::Checkpoint,
        version: None,
        up_ms: None,
        live: None,
        ready: None,
        against: Vec::new(),
        lanes,
    })
}

fn of_checkpoint(
    lane: String,
    checkpoint: &Checkpoint,
    written_ms: Option<i64>,
    log: &PipelineLog,
) -> Result<LaneStatus, Failure> {
    let known = |ms: i64| Some(ms).filter(|ms| *ms != NO_TIME);
    let deployment = log.deployment(checkpoint.deployment)?;
    Ok(LaneStatus {
        lane,
        deployment: Some(checkpoint.deployment),
        plugin: deployment.as_ref().map(|deployment| deployment.plugin.clone()),
        digest: deployment.map(|deployment| deployment.settings.plugin.0),
        watermark_ms: known(checkpoint.time.watermark),
        last_append_time_ms: known(checkpoint.time.last_append_time),
        checkpoint_age_ms: written_ms.map(|written| clock::now_ms().saturating_sub(written).max(0)),
        next: Some(checkpoint.partitions.iter().map(|(partition, at)| (*partition, at.last.offset + 1)).collect()),
        ..LaneStatus::default()
    })
}
