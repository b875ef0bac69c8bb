//! A host that is measured while it runs: started, watched by its metrics and by the system, held still while its topic is filled.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::host::{Outcome, Pipeline, Running};
use crate::support::scrape::Host;
use crate::vitals::Vitals;

/// Between two looks at how far a host has come.
const LOOK: Duration = Duration::from_millis(20);
/// How long a host may fold nothing before the bench fails.
const STANDSTILL: Duration = Duration::from_secs(300);
/// A host that uses less than this of a core is at rest.
const AT_REST: f64 = 0.03;
/// How long a host may take to come to rest.
const UNREST: Duration = Duration::from_secs(120);

/// The lane of a topic that is folded as one.
const LANE: &str = "{lane=\"topic\"}";

/// A running host.
#[derive(Debug)]
pub(crate) struct Subject {
    host: Running,
    told: Host,
    started: Instant,
}

/// How far a host had come when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Since the beginning: (time, records folded by then); one for each look.
    looks: Vec<(Duration, u64)>,
}

/// `keyfold run` in a pipeline's folder, by another build if one is given.
pub(crate) fn run(pipeline: &Pipeline, program: Option<&Path>) -> Running {
    let like = pipeline.command("run", &[]);
    let mut command = Command::new(program.map_or_else(|| PathBuf::from(like.get_program()), Path::to_path_buf));
    command.args(like.get_args()).stdin(std::process::Stdio::null());
    if let Some(folder) = like.get_current_dir() {
        command.current_dir(folder);
    }
    pipeline.start(command)
}

impl Subject {
    /// Starts a host whose configuration has an `[admin]`; back once that answers.
    pub(crate) fn start(pipeline: &Pipeline, program: Option<&Path>) -> Subject {
        let started = Instant::now();
        let mut host = run(pipeline, program);
        let told = Host::of(&mut host);
        Subject { host, told, started }
    }

    /// The process.
    pub(crate) fn vitals(&self) -> Vitals {
        Vitals::of(self.host.id())
    }

    /// When it was started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Whether it says that it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.told.says_yes("/readyz")
    }

    /// A metric of its only lane; 0 until there is one.
    pub(crate) fn lane(&self, name: &str) -> f64 {
        let metrics = self.told.metrics();
        let sample = format!("{name}{LANE}");
        if metrics.has(&sample) { metrics.value(&sample) } else { 0.0 }
    }

    /// Seconds that its only lane has spent on checkpoints.
    pub(crate) fn checkpoint_seconds(&self) -> f64 {
        self.told.metrics().value("keyfold_lane_seconds_total{lane=\"topic\",activity=\"checkpoint\"}")
    }

    /// Records that this process has folded.
    #[expect(clippy::cast_possible_truncation, reason = "a metric that counts is a whole number")]
    pub(crate) fn folded(&self) -> u64 {
        self.lane("keyfold_records_total") as u64
    }

    /// Watches until it has folded so many records since its start; times count from `since`.
    pub(crate) fn watch_until(&mut self, records: u64, since: Instant) -> Progress {
        self.watch(since, |_, folded| folded >= records)
    }

    /// Watches for so long from now on.
    pub(crate) fn watch_for(&mut self, time: Duration) -> Progress {
        let since = Instant::now();
        self.watch(since, |at, _| at >= time)
    }

    fn watch(&mut self, since: Instant, ends: impl Fn(Duration, u64) -> bool) -> Progress {
        let mut progress = Progress::default();
        let mut moved = Instant::now();
        loop {
            let folded = self.folded();
            let at = since.elapsed();
            if progress.looks.last().is_some_and(|last| last.1 < folded) {
                moved = Instant::now();
            }
            progress.looks.push((at, folded));
            if ends(at, folded) {
                return progress;
            }
            assert!(self.host.is_running(), "the host ended; it said:\n{}", self.host.stderr());
            assert!(moved.elapsed() < STANDSTILL, "nothing is folded any more; it said:\n{}", self.host.stderr());
            sleep(LOOK);
        }
    }

    /// Waits until a checkpoint covers all that was folded so far.
    pub(crate) fn wait_covered(&mut self) {
        let began = Instant::now();
        let name = format!("keyfold_checkpoint_age_seconds{LANE}");
        let Subject { host, told, .. } = self;
        host.wait_until("a checkpoint covers all that was folded", || {
            sleep(LOOK);
            let metrics = told.metrics();
            metrics.has(&name) && metrics.value(&name) < began.elapsed().as_secs_f64()
        });
    }

    /// Waits until the process does hardly anything any more, as after what follows a checkpoint.
    pub(crate) fn wait_at_rest(&self) {
        let began = Instant::now();
        loop {
            let before = self.vitals().cpu();
            sleep(Duration::from_secs(1));
            if (self.vitals().cpu() - before).as_secs_f64() < AT_REST {
                return;
            }
            if began.elapsed() > UNREST {
                return println!("(not at rest after {} s; measured all the same)", UNREST.as_secs());
            }
        }
    }

    /// Fills its topic by `fill` while the process is held still, lets it go on, and watches it fold all of that.
    pub(crate) fn fold_at_once(&mut self, records: u64, fill: impl FnOnce()) -> (Progress, Duration) {
        let (folded, cpu) = (self.folded(), self.vitals().cpu());
        self.host.signal("STOP");
        fill();
        let since = Instant::now();
        self.host.signal("CONT");
        let progress = self.watch_until(folded + records, since);
        (progress, self.vitals().cpu() - cpu)
    }

    /// Stops it with a signal; the time that this takes.
    pub(crate) fn stop(self) -> (Duration, Outcome) {
        let began = Instant::now();
        let outcome = self.host.terminate(STANDSTILL);
        outcome.expect_code(0);
        (began.elapsed(), outcome)
    }
}

impl Progress {
    /// When the first record was folded.
    pub(crate) fn first(&self) -> Duration {
        let (_, before) = self.looks[0];
        self.looks.iter().find(|look| look.1 > before).map_or(Duration::MAX, |look| look.0)
    }

    /// When the last one was.
    pub(crate) fn last(&self) -> Duration {
        let (_, all) = self.looks[self.looks.len() - 1];
        self.looks.iter().find(|look| look.1 == all).map_or(Duration::MAX, |look| look.0)
    }

    /// When the first look was.
    pub(crate) fn begin(&self) -> Duration {
        self.looks[0].0
    }

    /// When the last look was.
    pub(crate) fn end(&self) -> Duration {
        self.looks[self.looks.len() - 1].0
    }

    /// Records folded between the first look and the last one.
    pub(crate) fn records(&self) -> u64 {
        self.looks[self.looks.len() - 1].1 - self.looks[0].1
    }

    /// Records a second between the first batch and the last one, neither counted for its own time.
    pub(crate) fn rate(&self) -> f64 {
        let first = self.looks.iter().find(|look| look.1 > self.looks[0].1).map_or(0, |look| look.1);
        let rest = self.looks[self.looks.len() - 1].1 - first;
        let time = self.last().saturating_sub(self.first()).as_secs_f64();
        if rest == 0 { self.records() as f64 / self.last().as_secs_f64() } else { rest as f64 / time }
    }

    /// From when on records were folded at this rate or faster, up to the last one; none if that was only so for the last tenth of them.
    pub(crate) fn reached(&self, rate: f64) -> Option<Duration> {
        let (all, last) = (self.looks[self.looks.len() - 1].1, self.last());
        let rest = self.looks.iter().filter(|look| (all - look.1) * 10 >= self.records());
        let fast = |look: &&(Duration, u64)| (all - look.1) as f64 >= rate * last.saturating_sub(look.0).as_secs_f64();
        rest.into_iter().find(fast).map(|look| look.0)
    }

    /// The longest time between two looks that saw records being folded, from the first to the last of them.
    pub(crate) fn longest_stretch(&self) -> Duration {
        let moves = self.looks.windows(2).filter(|pair| pair[1].1 > pair[0].1).map(|pair| pair[1].0);
        let moves: Vec<Duration> = moves.collect();
        moves.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::ZERO)
    }
}
