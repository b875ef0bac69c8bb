//! `keyfold status`: from a running host, or from the last checkpoint of each lane.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use object_store::path::Path;

use crate::clock;
use crate::commands::cli::arguments::Target;
use crate::commands::client::Client;
use crate::config::{Config, Hosts, Source};
use crate::deployment::PipelineLog;
use crate::event_time::{AppendTime, EventTime};
use crate::failure::{Exit, Failure};
use crate::observe::status::{LaneStatus, Provenance, Status};
use crate::state::checkpoint::Checkpoint;
use crate::state::objects::{objects, runtime};
use crate::state::reader::Reader;

/// Returns what the host says or, if none answers, what the last checkpoints say.
pub fn status(target: &Target) -> Result<Status, Failure> {
    if let Some(host) = target.remote()? {
        return host.status();
    }
    let config = target.config.load()?;
    match config.admin.as_ref().map(|admin| Client::here(admin).and_then(|host| host.status())) {
        Some(Err(failure)) if failure.exit != Exit::Outside => Err(failure),
        Some(Ok(status)) => with_other_hosts(status, &config),
        Some(Err(_)) | None => of_checkpoints(&config),
    }
}

/// Adds the lanes that other hosts fold, as of their last checkpoints, where hosts share lanes.
fn with_other_hosts(mut status: Status, config: &Config) -> Result<Status, Failure> {
    let shares = matches!(&config.source, Source::Kafka(kafka) if kafka.hosts == Hosts::Many);
    if shares {
        let own: BTreeSet<String> = status.lanes.iter().map(|lane| lane.lane.clone()).collect();
        let all = of_checkpoints(config)?.lanes;
        status.lanes.extend(all.into_iter().filter(|lane| !own.contains(&lane.lane)));
    }
    Ok(status)
}

/// Returns what the last checkpoints say. Does not disturb a running host.
pub fn of_checkpoints(config: &Config) -> Result<Status, Failure> {
    let runtime = runtime()?;
    let objects = objects(&config.state.url)?;
    let outside = |e: object_store::Error| Failure::new(Exit::Outside, format!("cannot list state.url: {e}"));
    let log = PipelineLog::new(objects.clone(), runtime.handle().clone());
    let mut lanes = Vec::new();
    for name in log.lanes()? {
        let path = format!("lanes/{name}");
        let Some(reader) = Reader::open(&objects, &path, runtime.handle())? else { continue };
        let Some(checkpoint) = reader.checkpoint() else { continue };
        // The checkpoint is the last write in this folder.
        let writes = objects.list(Some(&Path::from(path).join("manifests"))).map_ok(|object| object.last_modified);
        let written: Vec<_> = runtime.block_on(writes.try_collect()).map_err(outside)?;
        let written_ms = written.into_iter().max().map(|at| at.timestamp_millis());
        lanes.push(of_checkpoint(name, checkpoint, written_ms, &log)?);
    }
    Ok(Status {
        pipeline: config.name.clone(),
        provenance: Provenance::Checkpoint,
        version: None,
        up_ms: None,
        live: None,
        ready: None,
        problems: Vec::new(),
        lanes,
    })
}

fn of_checkpoint(
    lane: String,
    checkpoint: &Checkpoint,
    written_ms: Option<i64>,
    log: &PipelineLog,
) -> Result<LaneStatus, Failure> {
    let deployment = log.deployment(checkpoint.deployment)?;
    Ok(LaneStatus {
        owner: log.owner(&lane)?.map(|owner| owner.to_string()),
        lane,
        deployment: Some(checkpoint.deployment),
        plugin: deployment.as_ref().map(|deployment| deployment.plugin.clone()),
        digest: deployment.map(|deployment| deployment.settings.plugin.0),
        watermark_ms: checkpoint.time.watermark.map(EventTime::ms),
        last_append_time_ms: checkpoint.time.last_append_time.map(AppendTime::ms),
        checkpoint_age_ms: written_ms.map(|written| clock::now_ms().saturating_sub(written).max(0)),
        next: Some(checkpoint.partitions.iter().map(|(partition, at)| (partition.0, at.last.offset.0 + 1)).collect()),
        ..LaneStatus::default()
    })
}
