//! A shadow: a candidate that folds beside the live logic, on a clone of its state and the live log, and writes nothing. Its rows are held
//! against those of the live logic, by primary key. Owns the order to do so, its report, and the thread that does it.
//!
//! The shadow has its own consumer and folds with both logics, so that the lanes give it nothing and wait for nothing: what it takes of
//! them is its share of the processor. A candidate that fails ends its shadow, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::backoff;
use crate::clock;
use crate::config::{self, Config, Time};
use crate::deployment::PipelineLog;
use crate::deployment::follow::{Loader, Logic};
use crate::deployment::shadow::{Report, Shadow};
use crate::failure::{Exit, Failure};
use crate::lane::core::{Core, Output};
use crate::lane::residency::Residency;
use crate::machine;
use crate::plugin::sandbox::Sandbox;
use crate::plugin::{Plugin, halted};
use crate::position::{Partition, Position, Resume};
use crate::record::Records;
use crate::rollout::difference::{Difference, Side};
use crate::source::Start;
use crate::source::log_source::LogSource;
use crate::source::past::{Past, open_at};
use crate::state::checkpoint::resume_of;
use crate::state::reader::Reader;
use crate::state::store::Stores;

/// How long the shadow sleeps when it has come to the end of the log.
const PAUSE: Duration = Duration::from_millis(250);
/// Primary keys with different rows after which enough was seen.
const MOST_DIFFERENT: usize = 100_000;
/// Differences that a report shows.
const SAMPLES: usize = 20;

/// Looks at a pipeline's log.
pub type Look = dyn Fn(&Config, Instant) -> Result<LogSource, Failure> + Send;

/// Where a pipeline's lanes are found by a shadow.
pub struct Pipeline {
    /// Its configuration.
    pub config: Config,
    /// Its journal.
    pub log: PipelineLog,
    /// Looks at its log, and waits for unavailable brokers until a deadline.
    pub look: Box<Look>,
    /// The state of its lanes.
    pub stores: Stores,
}

/// Shadows whatever is ordered, on a thread of its own, until `stop` is raised.
pub fn follow(pipeline: Pipeline, stop: &Arc<AtomicBool>) -> Result<(), Failure> {
    let stop = Arc::clone(stop);
    let body = move || {
        while !stop.load(Ordering::Relaxed) {
            match pipeline.log.shadow() {
                Ok(Some(shadow)) => pipeline.shadow(&shadow, &stop),
                Ok(None) => {}
                Err(failure) => {
                    tracing::warn!(event = "shadow-order-unreadable", %failure, "cannot read the shadow order; retrying")
                }
            }
            backoff::pause(PAUSE);
        }
    };
    let thread = machine::spawn("shadow", body);
    thread.map(drop).map_err(|e| Failure::new(Exit::Unexpected, format!("no thread for shadows: {e}")))
}

impl Pipeline {
    /// Folds until the order is gone; what fails ends up in the report.
    fn shadow(&self, shadow: &Shadow, stop: &AtomicBool) {
        tracing::info!(
            event = "shadow-started",
            shadow = shadow.id,
            plugin = shadow.candidate.plugin,
            "shadow started"
        );
        let mut report = Report::default();
        if let Err(failure) = self.fold(shadow, &mut report, stop) {
            tracing::warn!(event = "shadow-failed", shadow = shadow.id, %failure, "shadow failed");
            report.paused_because = Some(failure.to_string());
            if let Err(failure) = self.log.put_shadow_report(&shadow.id, &report) {
                tracing::warn!(event = "shadow-report-failed", %failure, "cannot write the shadow report");
            }
            while self.is_ordered(shadow) && !stop.load(Ordering::Relaxed) {
                backoff::pause(PAUSE);
            }
        }
    }

    fn is_ordered(&self, shadow: &Shadow) -> bool {
        // A store that is away for a moment ends no shadow.
        self.log.shadow().map_or(true, |ordered| ordered.is_some_and(|ordered| ordered.id == shadow.id))
    }

    fn fold(&self, shadow: &Shadow, report: &mut Report, stop: &AtomicBool) -> Result<(), Failure> {
        let config = Config { run: config::Run { workers: 1, ..self.config.run }, ..self.config.clone() };
        let sandbox = Sandbox::new(&config)?;
        let loader = Loader::of(&sandbox, &config, self.log.clone());
        let refused = |failure: Failure| {
            Failure::new(failure.exit, format!("the shadow's plugin is refused: {}", failure.message))
        };
        let candidate = loader.load_settings(&shadow.candidate.settings, refused)?;
        while self.is_ordered(shadow) && !stop.load(Ordering::Relaxed) {
            let Some((n, _)) = self.log.in_force()? else { continue };
            let Logic { plugin, time, .. } = loader.load(n)?;
            let live = (plugin, time);
            *report = Report { beside: Some(n), ..Report::default() };
            let mut lanes = Vec::new();
            let log = (self.look)(&config, clock::instant() + config.run.startup_timeout)?;
            log.topic_id().map_or(Ok(()), |id| self.log.check_topic(id))?;
            for partitions in log.lanes(&config) {
                let name = log.lane_name(&config, &partitions);
                match self.clone_of((&name, &partitions), n, [&live, &candidate], &sandbox.workers)? {
                    Some(lane) => lanes.push(lane),
                    None => {
                        report.paused_because = Some(format!("lane {name} has no checkpoint of deployment {n} yet"))
                    }
                }
            }
            self.log.put_shadow_report(&shadow.id, report)?;
            if report.paused_because.is_some() {
                backoff::pause(PAUSE);
                continue;
            }
            let mut difference = Difference::new(&live.0.description.tables, &candidate.0.description.tables);
            while self.is_ordered(shadow) && self.log.in_force()?.is_some_and(|(now, _)| now == n) {
                for lane in &mut lanes {
                    lane.round((&config, &log), report, &mut difference, stop)?;
                }
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.tell(shadow, report, &mut difference)?;
                backoff::pause(PAUSE);
            }
        }
        Ok(())
    }

    /// A lane as its last checkpoint describes it, if deployment `n` made that.
    fn clone_of(
        &self,
        (name, partitions): (&str, &[Partition]),
        n: u64,
        logics: [&(Arc<Plugin>, Time); 2],
        workers: &Arc<rayon::ThreadPool>,
    ) -> Result<Option<Lane>, Failure> {
        let Stores { objects, runtime } = &self.stores;
        let Some(reader) = Reader::open(objects, &format!("lanes/{name}"), runtime)? else { return Ok(None) };
        let Some(checkpoint) = reader.checkpoint().cloned() else { return Ok(None) };
        if checkpoint.deployment != n {
            return Ok(None);
        }
        let keys = reader.keys(usize::MAX)?;
        let cores = logics.map(|(plugin, time)| {
            let plugin = plugin.of_lane(&format!("shadow of {name}"), self.config.plugin.log_rate);
            let mut core = Core::new(Arc::new(plugin), Arc::clone(workers), *time);
            core.restore(&checkpoint);
            core.residency = Residency::All; // all of it is here
            keys.iter().for_each(|key| core.take_over(&key.key, key.state.clone(), key.version));
            core
        });
        let from = partitions.iter().map(|&partition| (partition, resume_of(Some(&checkpoint), partition))).collect();
        Ok(Some(Lane { from, last: checkpoint.last, cores }))
    }

    fn tell(&self, shadow: &Shadow, report: &mut Report, difference: &mut Difference) -> Result<(), Failure> {
        let different = difference.settle();
        let summary = difference.summary();
        (report.same, report.different) = (summary.same, summary.different);
        (report.only_live, report.only_candidate) = (summary.only_a, summary.only_b);
        let sample = |line: Vec<u8>| serde_json::from_slice(&line).unwrap_or_default();
        report.samples = difference.lines().take(SAMPLES).map(sample).collect();
        self.log.put_shadow_report(&shadow.id, report)?;
        if different > MOST_DIFFERENT {
            let message = format!("more than {MOST_DIFFERENT} primary keys differ: enough was seen");
            return Err(Failure::new(Exit::Unexpected, message));
        }
        Ok(())
    }
}

/// A lane's clone: the live logic, and the candidate.
struct Lane {
    from: Vec<(Partition, Resume)>,
    last: Option<Position>,
    cores: [Core; 2],
}

impl Lane {
    /// Folds up to the ends that the partitions have now.
    fn round(
        &mut self,
        (config, log): (&Config, &LogSource),
        report: &mut Report,
        difference: &mut Difference,
        stop: &AtomicBool,
    ) -> Result<(), Failure> {
        migrate(&mut self.cores[1], report)?;
        let deadline = clock::instant() + config.run.startup_timeout;
        let start = |(partition, resume): &(Partition, Resume)| {
            let last = resume.last.clone();
            Start { partition: *partition, next: last.as_ref().map(|last| last.offset.next()), last }
        };
        let starts: Vec<Start> = self.from.iter().map(start).collect();
        let mut past = Past::go_on(open_at(config, log, &starts, deadline)?, config, &self.from, self.last);
        let mut records = Records::default();
        while !stop.load(Ordering::Relaxed) && past.next(&mut records)? {
            report.records += records.len() as u64;
            report.behind_ms = records.append_times.last().map(|time| clock::now_ms() - time);
            for (side, core) in [Side::A, Side::B].into_iter().zip(&mut self.cores) {
                let output = core.run(&records).map_err(|fault| halted(core.plugin(), fault))?;
                core.forget_changes();
                for &row in &output.rows.order {
                    difference.take(side, &output.rows, row);
                }
                count(report, side, &output);
            }
        }
        (self.from, self.last) = past.position();
        Ok(())
    }
}

/// Brings all state to the candidate's version, if it is not there yet.
fn migrate(core: &mut Core, report: &mut Report) -> Result<(), Failure> {
    while core.is_migrating() {
        let output = core.migrate(usize::MAX).map_err(|fault| halted(core.plugin(), fault))?;
        count(report, Side::B, &output);
    }
    Ok(())
}

/// Adds what a side left unfolded.
fn count(report: &mut Report, side: Side, output: &Output) {
    let letters = output.letters.len() as u64;
    match side {
        Side::A => report.live_letters += letters,
        Side::B => {
            report.candidate_letters += letters;
            report.candidate_strikes += output.strikes.len() as u64;
            if let Some(strike) = output.strikes.first().filter(|_| report.first_strike.is_none()) {
                report.first_strike = Some(format!("{strike}: {}", strike.reason));
            }
        }
    }
}
