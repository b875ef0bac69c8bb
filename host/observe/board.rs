//! The boards on which a host publishes its state for probes, metrics and `keyfold status`: plain numbers in atomics, stored a few times per
//! batch and never per record. Locks are taken only when a lane starts or swaps its logic, not while it folds. Lanes never read a board, so
//! it changes no row.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use crate::backoff::Outage;
use crate::clock;
use crate::config::Late;
use crate::counts::Counts;
use crate::event_time::{AppendTime, EventTime, Implausible, LaneTime};
use crate::observe::ends::Ends;
use crate::observe::journal_meter::JournalMeter;
use crate::observe::losses::Losses;
use crate::observe::memory_meter::MemoryMeter;
use crate::observe::meter::Meter;
use crate::observe::number::{Histogram, Number};
use crate::observe::plugin_log::Log;
use crate::observe::telemetry::{Tracer, Traces};
use crate::record::NO_TIME;
use crate::strike::Stage;

/// A point in time, ms since 1970, or none.
#[derive(Debug)]
pub struct Time(AtomicI64);

impl Default for Time {
    fn default() -> Time {
        Time(AtomicI64::new(NO_TIME))
    }
}

impl Time {
    /// Sets it.
    pub fn set(&self, ms: Option<i64>) {
        self.0.store(ms.unwrap_or(NO_TIME), Relaxed);
    }

    /// Returns it.
    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|ms| *ms != NO_TIME)
    }
}

/// A number per stage of dead letters.
#[derive(Debug, Default)]
pub struct ByStage([Number; Stage::ALL.len()]);

impl ByStage {
    /// Adds to the number of a stage.
    pub fn add(&self, stage: Stage, more: u64) {
        self.0[stage as usize].add(more);
    }

    /// The number of a stage.
    pub fn get(&self, stage: Stage) -> u64 {
        self.0[stage as usize].get()
    }
}

/// What a lane is doing: the stages of a batch. Gathering and writing may wait for external systems; everything else must return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Not running: not yet, or not any more.
    Off,
    /// Gathering a batch: waiting for input.
    Gather,
    /// Mapping a batch.
    Map,
    /// Folding it, or migrating state.
    Fold,
    /// Reading keys, or writing the journal.
    Store,
    /// Handing over rows: waiting for the sink.
    Write,
    /// Writing a checkpoint.
    Checkpoint,
}

impl Activity {
    /// The activities of a running lane.
    pub const RUNNING: [Activity; 6] =
        [Activity::Gather, Activity::Map, Activity::Fold, Activity::Store, Activity::Write, Activity::Checkpoint];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Activity::Off => "off",
            Activity::Gather => "gather",
            Activity::Map => "map",
            Activity::Fold => "fold",
            Activity::Store => "store",
            Activity::Write => "write",
            Activity::Checkpoint => "checkpoint",
        }
    }

    /// Returns whether it may wait for external systems without limit.
    pub fn waits(self) -> bool {
        match self {
            Activity::Off | Activity::Gather | Activity::Write => true,
            Activity::Map | Activity::Fold | Activity::Store | Activity::Checkpoint => false,
        }
    }

    /// Returns whether it uses the state store, and may therefore last as long as an outage of it.
    pub fn needs_state(self) -> bool {
        matches!(self, Activity::Store | Activity::Checkpoint)
    }

    fn of(number: u64) -> Activity {
        Activity::RUNNING.into_iter().find(|activity| *activity as u64 == number).unwrap_or(Activity::Off)
    }
}

/// The deployment that a lane runs.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// The deployment's number.
    pub n: u64,
    /// The plugin's name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file, hex.
    pub digest: String,
}

/// A plugin that a lane has called.
#[derive(Clone, Debug)]
pub struct Called {
    /// Its name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// The cost of its calls.
    pub meter: Arc<Meter>,
    /// Its log lines.
    pub log: Arc<Log>,
}

/// What changes when a lane starts or swaps its logic.
#[derive(Debug, Default)]
struct Life {
    deployed: Option<Deployed>,
    called: Vec<Called>,
    ends: Option<Arc<Ends>>,
    /// Records folded before the last start of the lane.
    before: u64,
}

/// The board of a lane. Its counters continue when the lane rewinds and starts again in this process.
#[derive(Debug, Default)]
pub struct LaneBoard {
    /// The lane's name.
    pub name: String,
    /// The activity (lowest three bits) and its start by [`clock::uptime_us`] (the other bits).
    activity: AtomicU64,
    spent_us: [Number; Activity::RUNNING.len() + 1],
    life: Mutex<Life>,
    traces: Option<Traces>,
    state: Arc<Outage>,
    /// Records folded.
    pub records: Number,
    /// Events that `map` produced.
    pub events: Number,
    /// Rejected records, events and firings, including strikes, without late ones.
    pub rejected: ByStage,
    /// Late events: dropped ones, and those that became dead letters.
    pub late: [Number; 2],
    /// Rows.
    pub rows: Number,
    /// Firings of timers.
    pub firings: Number,
    /// Batches.
    pub batches: Number,
    /// New strikes.
    pub strikes: ByStage,
    /// Floors.
    pub floors: Number,
    /// Deployments that took effect.
    pub swaps: Number,
    /// The longest pause in folding caused by one.
    pub longest_gap_us: Number,
    /// Records with implausible timestamps, by [`Implausible::ALL`].
    pub implausible: [Number; Implausible::ALL.len()],
    /// Records whose timestamps are more than a day ahead of the host's clock.
    pub far_ahead: Number,
    /// Events far ahead of their append times that moved the watermark.
    pub jumps: Number,
    /// What was lost, by reason.
    pub losses: Losses,
    /// Batches audited.
    pub audits: Number,
    /// Append time of the last folded record.
    pub last_append: Time,
    /// The watermark.
    pub watermark: Time,
    /// Keys with state as of the last checkpoint.
    pub keys: Number,
    /// Bytes of keys, values and list items as of the last checkpoint.
    pub state_bytes: Number,
    /// Bytes of the largest key, value and list items of any checkpoint in this life.
    pub largest_key: Number,
    /// Its keys in memory.
    pub memory: MemoryMeter,
    /// Its journal.
    pub journal: Arc<JournalMeter>,
    /// Checkpoints written.
    pub checkpoints: Number,
    /// When a checkpoint last covered everything.
    pub covered: Time,
    /// Duration of the last checkpoint.
    pub checkpoint_us: Number,
    /// Size of the last checkpoint, bytes.
    pub checkpoint_bytes: Number,
    /// Rows acknowledged by the sink.
    pub sink_rows: Number,
    /// Durations of writing the rows of a batch.
    pub sink_writes: Histogram,
    /// Dead letters written.
    pub letters: ByStage,
}

impl LaneBoard {
    /// Records that the lane starts on a source with these ends, at this event time.
    pub fn start(&self, ends: Option<Arc<Ends>>, time: LaneTime) {
        let mut life = self.life();
        (life.ends, life.before) = (ends, self.records.get());
        self.covered.set(Some(clock::now_ms()));
        self.set_time(time);
    }

    /// Records that a deployment takes effect, and the plugin that the lane calls from now on.
    pub fn deploy(&self, deployed: Deployed, called: Called) {
        let mut life = self.life();
        life.deployed = Some(deployed);
        life.called.push(called);
    }

    /// Records that another activity starts.
    pub fn enter(&self, activity: Activity) {
        let now = clock::uptime_us();
        let former = self.activity.swap(now << 3 | activity as u64, Relaxed);
        let (was, since) = (Activity::of(former & 7), former >> 3);
        self.spent_us[was as usize].add(now.saturating_sub(since));
        if let Some(traces) = &self.traces {
            traces.span(was, since, now);
        }
    }

    /// Records that a batch and everything that followed from it is done.
    pub fn end_batch(&self, activity: Activity) {
        self.enter(activity);
        if let Some(traces) = &self.traces {
            traces.end(&self.name, self.records.get());
        }
    }

    /// Adds the counts of a batch and the stages of its dead letters.
    pub fn add_batch(&self, counts: &Counts, late: Late, letters: impl Iterator<Item = Stage>) {
        self.records.add(counts.records);
        self.events.add(counts.events);
        self.rows.add(counts.rows);
        self.firings.add(counts.firings);
        let mut rejected = [0_u64; Stage::ALL.len()];
        letters.for_each(|stage| rejected[stage as usize] += 1);
        match late {
            Late::Drop => self.late[0].add(counts.late),
            Late::DeadLetter => {
                self.late[1].add(counts.late);
                let of_time = &mut rejected[Stage::Time as usize];
                *of_time = of_time.saturating_sub(counts.late); // the dead letters of late events have this stage too
            }
            Late::Process => {}
        }
        Stage::ALL.iter().zip(rejected).for_each(|(stage, count)| self.rejected.add(*stage, count));
    }

    /// Sets the lane's event time.
    pub fn set_time(&self, time: LaneTime) {
        self.last_append.set(time.last_append_time.map(AppendTime::ms));
        self.watermark.set(time.watermark.map(EventTime::ms));
    }

    fn life(&self) -> std::sync::MutexGuard<'_, Life> {
        self.life.lock().expect("nobody panics while holding it")
    }

    /// Returns the activity and how long it has lasted, microseconds.
    pub fn activity(&self) -> (Activity, u64) {
        let packed = self.activity.load(Relaxed);
        (Activity::of(packed & 7), clock::uptime_us().saturating_sub(packed >> 3))
    }

    /// Returns how long the lane has made no progress, microseconds; 0 while it waits for an external system, including the state store during
    /// an outage. Each call of the plugin that returns is progress.
    pub fn without_progress_us(&self) -> u64 {
        let (activity, lasts) = self.activity();
        if activity.waits() {
            return 0;
        }
        if activity.needs_state() {
            return lasts.min(self.state.available_us());
        }
        let now = clock::uptime_us();
        let calls = self.life().called.iter().map(|called| now.saturating_sub(called.meter.returned_us())).min();
        lasts.min(calls.unwrap_or(u64::MAX))
    }

    /// Returns the time spent on an activity, microseconds, without the current one.
    pub fn spent_us(&self, activity: Activity) -> u64 {
        self.spent_us[activity as usize].get()
    }

    /// Returns the deployment in force; none before the lane has started.
    pub fn deployment(&self) -> Option<Deployed> {
        self.life().deployed.clone()
    }

    /// Returns the plugins that it has called, grouped by name and version.
    pub fn called(&self) -> Vec<Vec<Called>> {
        let mut found: Vec<Vec<Called>> = Vec::new();
        for called in &self.life().called {
            let same =
                |other: &&mut Vec<Called>| (&other[0].plugin, &other[0].version) == (&called.plugin, &called.version);
            match found.iter_mut().find(same) {
                Some(others) => others.push(called.clone()),
                None => found.push(vec![called.clone()]),
            }
        }
        found
    }

    /// Returns the ends of the source's partitions; none for a file.
    pub fn ends(&self) -> Option<Arc<Ends>> {
        self.life().ends.clone()
    }

    /// Returns the number of records that are not folded yet; none if the end of the log is unknown, as it is while its leaders do not answer.
    pub fn lag(&self) -> Option<u64> {
        let life = self.life();
        let ends = life.ends.as_ref().filter(|ends| ends.answered())?;
        let folded = self.records.get().saturating_sub(life.before);
        Some(ends.unread() + ends.read().saturating_sub(folded))
    }

    /// Returns the age of the last folded record while others wait, ms; 0 if none waits.
    pub fn lag_ms(&self, now_ms: i64) -> Option<i64> {
        match self.lag()? {
            0 => Some(0),
            _ => self.last_append.get().map(|last| now_ms.saturating_sub(last).max(0)),
        }
    }
}

/// The phase of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Starting, and doing this.
    Starting(&'static str),
    /// Lanes are running.
    Folding,
    /// Lanes rewind to an earlier point of the log.
    Rewinding,
}

/// The board of a host.
#[derive(Debug)]
pub struct Board {
    /// The pipeline's name.
    pub pipeline: String,
    /// When the host started, ms since 1970.
    pub started_ms: i64,
    phase: Mutex<Phase>,
    has_started: AtomicBool,
    /// Whether it shares the lanes with others.
    pub shares: AtomicBool,
    stop: Arc<AtomicBool>,
    lanes: Mutex<Vec<Arc<LaneBoard>>>,
    state: Arc<Outage>,
    outputs: Mutex<Outputs>,
    queued: AtomicI64,
    tracer: Option<Tracer>,
    /// The folder of the state; not set if it is in a bucket.
    pub state_folder: OnceLock<PathBuf>,
}

/// The availability of what a host writes to.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// The sink, once it is open.
    pub sink: Option<Arc<Outage>>,
    /// Where dead letters go, once that is open.
    pub letters: Option<Arc<Outage>>,
}

impl Board {
    /// Creates the board of a host that stops when `stop` is set.
    pub fn new(pipeline: &str, stop: &Arc<AtomicBool>) -> Board {
        Board {
            pipeline: pipeline.to_owned(),
            started_ms: clock::now_ms(),
            phase: Mutex::new(Phase::Starting("loading the plugin")),
            has_started: AtomicBool::new(false),
            shares: AtomicBool::new(false),
            stop: Arc::clone(stop),
            lanes: Mutex::default(),
            state: Arc::default(),
            outputs: Mutex::default(),
            queued: AtomicI64::default(),
            tracer: None,
            state_folder: OnceLock::new(),
        }
    }

    /// Traces the lanes of the host.
    pub fn traced(self, tracer: Option<Tracer>) -> Board {
        Board { tracer, ..self }
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        *self.phase.lock().expect("nobody panics while holding it") = phase;
        if phase == Phase::Folding {
            self.has_started.store(true, Relaxed);
        }
    }

    /// Returns the phase.
    pub fn phase(&self) -> Phase {
        *self.phase.lock().expect("nobody panics while holding it")
    }

    /// Returns whether startup is complete.
    pub fn has_started(&self) -> bool {
        self.has_started.load(Relaxed)
    }

    /// Returns the flag that stops the host.
    pub fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// Returns whether the host is stopping.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Returns the board of a lane; it is kept when the lane starts again.
    pub fn lane(&self, name: &str) -> Arc<LaneBoard> {
        let mut lanes = self.lanes.lock().expect("nobody panics while holding it");
        if let Some(lane) = lanes.iter().find(|lane| lane.name == name) {
            return Arc::clone(lane);
        }
        let traces = self.tracer.clone().map(Traces::new);
        let state = Arc::clone(&self.state);
        let lane = Arc::new(LaneBoard { name: name.to_owned(), traces, state, ..LaneBoard::default() });
        lanes.push(Arc::clone(&lane));
        lane
    }

    /// Forgets a lane of another host.
    pub fn forget(&self, name: &str) {
        self.lanes.lock().expect("nobody panics while holding it").retain(|lane| lane.name != name);
    }

    /// Returns the boards of all lanes.
    pub fn lanes(&self) -> Vec<Arc<LaneBoard>> {
        self.lanes.lock().expect("nobody panics while holding it").clone()
    }

    /// Sets the availability of sink and dead letters.
    pub fn writes_to(&self, sink: Arc<Outage>, letters: Arc<Outage>) {
        let outputs = Outputs { sink: Some(sink), letters: Some(letters) };
        *self.outputs.lock().expect("nobody panics while holding it") = outputs;
    }

    /// Returns the availability of the state store.
    pub fn state(&self) -> &Arc<Outage> {
        &self.state
    }

    /// Adds to the number of orders that wait for the writer.
    pub fn queue(&self, more: i64) {
        self.queued.fetch_add(more, Relaxed);
    }

    /// Returns the number of orders that wait for the writer.
    pub fn queued(&self) -> i64 {
        self.queued.load(Relaxed).max(0)
    }

    /// Returns the availability of sink and dead letters.
    pub fn outputs(&self) -> Outputs {
        self.outputs.lock().expect("nobody panics while holding it").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_dead_letters_do_not_count_as_rejected() {
        let lane = LaneBoard::default();
        let counts = Counts { records: 5, late: 2, rejected: 1, ..Counts::default() };
        lane.add_batch(&counts, Late::DeadLetter, [Stage::Time, Stage::Time, Stage::Time, Stage::Fold].into_iter());
        assert_eq!((lane.rejected.get(Stage::Time), lane.rejected.get(Stage::Fold)), (1, 1));
        assert_eq!((lane.late[0].get(), lane.late[1].get()), (0, 2));
        lane.add_batch(&counts, Late::Drop, std::iter::empty());
        assert_eq!((lane.late[0].get(), lane.records.get()), (2, 10));
    }

    #[test]
    fn time_is_counted_by_activity() {
        let lane = LaneBoard::default();
        assert_eq!((lane.activity().0, lane.without_progress_us()), (Activity::Off, 0));
        for activity in [Activity::Gather, Activity::Map, Activity::Write] {
            lane.enter(activity);
            assert_eq!(lane.activity().0, activity);
            crate::backoff::pause(std::time::Duration::from_millis(2));
            assert_eq!(lane.without_progress_us() > 0, activity == Activity::Map);
        }
        lane.enter(Activity::Off);
        assert!(
            [Activity::Gather, Activity::Map, Activity::Write].iter().all(|activity| lane.spent_us(*activity) >= 2_000)
        );
        assert_eq!(lane.spent_us(Activity::Fold), 0);
    }
}
