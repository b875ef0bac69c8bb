//! A generated log with what the model makes of it, and the check that a host does the same however it is run.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::generate::{TestRecord, write_records};
use crate::support::host::{Outcome, PATIENCE, Pipeline, logged, number};
use crate::support::model::Counts;
use crate::support::random::Random;
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;

/// A log and its rows.
#[derive(Debug)]
pub(crate) struct Case {
    /// What the settings of a run are made from: source, plugin and time belong to the case.
    pub(crate) settings: Settings,
    /// How many records the log has.
    pub(crate) records: usize,
    /// The rows in the lane's order.
    pub(crate) rows: Vec<Value>,
    /// What became of the events.
    pub(crate) counts: Counts,
    /// Whether the source is a topic, which ends only when it is told to.
    pub(crate) until_end: bool,
    /// Arguments of `keyfold deployment create`, one after another before the first run.
    pub(crate) deploys: Vec<Vec<String>>,
}

impl Case {
    fn arguments(&self) -> &'static [&'static str] {
        if self.until_end { &["--until-end"] } else { &[] }
    }
}

/// One way to run a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// `run.workers`
    pub(crate) workers: usize,
    /// `run.batch_records`
    pub(crate) batch_records: usize,
    /// Killed with -9 at random points and started again.
    pub(crate) crashes: bool,
    /// Afterwards the checkpoints are deleted and the host is run again.
    pub(crate) deletes: bool,
}

impl Way {
    /// Straight through, two workers, by the default size of batches.
    pub(crate) const PLAIN: Way = Way { workers: 2, batch_records: 50_000, crashes: false, deletes: false };
}

/// Writes the log where it survives the test that wrote it, for all that read it; a former one of the same name goes away as a whole.
pub(crate) fn written(name: &str, records: &[TestRecord]) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.ndjson"));
    let part = path.with_extension(format!("{}.part", std::process::id()));
    write_records(&part, records);
    std::fs::rename(&part, &path).expect("the target folder is writable");
    format!("[source.file]\npath = \"{}\"\nformat = \"records\"", path.display())
}

/// Runs the case in this way, compares rows and counts with the model's. Gives back how many bytes were cut back at recoveries.
pub(crate) fn check(case: &Case, way: Way, random: &mut Random) -> u64 {
    let mut settings = case.settings.clone().bounded(way.workers, way.batch_records);
    if way.crashes {
        settings.checkpoint_interval = "50ms".to_owned();
    }
    let pipeline = Pipeline::new(&settings.to_toml());
    for arguments in &case.deploys {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        pipeline.call("deployment create", &arguments).expect_code(0);
    }
    let mut cut = run_once(case, way, &pipeline, random);
    if way.deletes {
        pipeline.delete_checkpoints();
        pipeline.set_aside("rows.ndjson");
        cut += run_once(case, way, &pipeline, random);
    }
    cut
}

fn run_once(case: &Case, way: Way, pipeline: &Pipeline, random: &mut Random) -> u64 {
    let cut = if way.crashes {
        crash_until_done(case, pipeline, random)
    } else {
        let outcome = pipeline.run_to_end(case.arguments());
        outcome.expect_code(0);
        assert_figures(case, way, &outcome);
        0
    };
    assert_same(&format!("{way:?}"), &from_ndjson(&pipeline.path("rows.ndjson")), &case.rows);
    cut
}

/// What an undisturbed run says of itself: the sizes that really occurred, and where every record went.
fn assert_figures(case: &Case, way: Way, outcome: &Outcome) {
    let stopped = outcome.logged("lane-stopped");
    assert_eq!(number(&stopped, "records"), case.records as u64, "records of {stopped}");
    let (largest, most) = (number(&stopped, "largest_batch"), way.batch_records.min(case.records) as u64);
    // A topic is not waited for without end: on a slow machine the whole of it may come in parts.
    let whole_topic = case.until_end && way.batch_records > case.records / 2;
    assert!(largest == most || whole_topic && largest < most, "largest batch, of at most {most}: {stopped}");
    assert_eq!(number(&stopped, "rows"), case.rows.len() as u64, "rows of {stopped}");
    assert_eq!(number(&stopped, "rejected"), case.counts.rejected, "rejected of {stopped}");
    if !case.settings.time.contains("process") {
        assert_eq!(number(&stopped, "late"), case.counts.late, "late of {stopped}");
    }
}

/// Kills the host whenever its output has grown to a random size, until it ends by itself.
fn crash_until_done(case: &Case, pipeline: &Pipeline, random: &mut Random) -> u64 {
    const KILLS: u64 = 4;
    let rows = pipeline.path("rows.ndjson");
    let size = || std::fs::metadata(&rows).map_or(0, |file| file.len());
    let whole: u64 = case.rows.iter().map(|row| row.to_string().len() as u64).sum();
    let mut cut = 0;
    for kill in 0..KILLS {
        let target = whole * kill / KILLS + random.below(whole / KILLS + 1) + 1;
        let mut running = pipeline.spawn(case.arguments());
        let outcome = match running.wait_until_or_end(|| size() >= target) {
            true => running.kill(),
            false => running.wait(PATIENCE),
        };
        cut += cut_back(&outcome);
        if outcome.code.is_some() {
            outcome.expect_code(0);
        }
    }
    let outcome = pipeline.run_to_end(case.arguments());
    outcome.expect_code(0);
    cut + cut_back(&outcome)
}

/// Bytes of rows beyond the checkpoint that a recovery found and cut.
fn cut_back(outcome: &Outcome) -> u64 {
    logged(&outcome.stderr, "file-truncated").iter().map(|fields| number(fields, "bytes")).sum()
}
