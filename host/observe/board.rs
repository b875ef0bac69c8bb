//! What the threads of a host put up for those who watch it: probes, metrics, `keyfold status`. Plain numbers in atomics, stored a few times
//! per batch and never per record, read whenever somebody asks. Locks are taken when a lane starts or swaps its logic, not while it folds.
//! No lane reads what stands here: a board changes no row.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::backoff::Outage;
use crate::clock;
use crate::config::Late;
use crate::counts::Counts;
use crate::event_time::LaneTime;
use crate::observe::ends::Ends;
use crate::observe::meter::Meter;
use crate::observe::plugin_log::Log;
use crate::observe::telemetry::{Tracer, Traces};
use crate::record::NO_TIME;
use crate::strike::Stage;

/// A number that is added to, or set.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        if more > 0 {
            self.0.fetch_add(more, Relaxed);
        }
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A point in time, ms since 1970, or none.
#[derive(Debug)]
pub struct Time(AtomicI64);

impl Default for Time {
    fn default() -> Time {
        Time(AtomicI64::new(NO_TIME))
    }
}

impl Time {
    /// Sets it; [`NO_TIME`] is none.
    pub fn set(&self, ms: i64) {
        self.0.store(ms, Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|ms| *ms != NO_TIME)
    }
}

/// A number for each stage at which a dead letter can come to be.
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

/// How long something took, counted by upper bounds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Number; BOUNDS_US.len()],
    count: Number,
    sum_us: Number,
}

/// The upper bounds of the buckets: from a file's write to an outage.
pub const BOUNDS_US: [u64; 14] = [
    100, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 15_000_000,
    60_000_000,
];

impl Histogram {
    /// Adds a duration.
    pub fn add(&self, us: u64) {
        if let Some(bucket) = BOUNDS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].add(1);
        }
        self.sum_us.add(us);
        self.count.add(1);
    }

    /// Each bound with how many durations were at most so long.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut so_far = 0;
        BOUNDS_US.into_iter().zip(&self.buckets).map(move |(bound, bucket)| {
            so_far += bucket.get();
            (bound, so_far)
        })
    }

    /// How many there were, and their sum.
    pub fn count_and_sum_us(&self) -> (u64, u64) {
        (self.count.get(), self.sum_us.get())
    }
}

/// What a lane is doing: the stages of a batch. While it gathers or writes it waits for the outside; all else must come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It is not at work: not yet, or not any more.
    Off,
    /// Gathers a batch: waits for input.
    Gather,
    /// Maps a batch.
    Map,
    /// Folds it; migrates state.
    Fold,
    /// Reads keys, writes the journal.
    Store,
    /// Hands rows over: waits for the sink.
    Write,
    /// Writes a checkpoint.
    Checkpoint,
}

impl Doing {
    /// Those of a lane at work.
    pub const AT_WORK: [Doing; 6] =
        [Doing::Gather, Doing::Map, Doing::Fold, Doing::Store, Doing::Write, Doing::Checkpoint];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Doing::Off => "off",
            Doing::Gather => "gather",
            Doing::Map => "map",
            Doing::Fold => "fold",
            Doing::Store => "store",
            Doing::Write => "write",
            Doing::Checkpoint => "checkpoint",
        }
    }

    /// Whether it may last as long as the outside likes.
    pub fn waits(self) -> bool {
        match self {
            Doing::Off | Doing::Gather | Doing::Write => true,
            Doing::Map | Doing::Fold | Doing::Store | Doing::Checkpoint => false,
        }
    }

    /// Whether it reads or writes the state, and so may last as long as an outage of the store does.
    pub fn needs_state(self) -> bool {
        matches!(self, Doing::Store | Doing::Checkpoint)
    }

    fn of(number: u64) -> Doing {
        Doing::AT_WORK.into_iter().find(|doing| *doing as u64 == number).unwrap_or(Doing::Off)
    }
}

/// What folds a lane.
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

/// A plugin that a lane has called: its name and version, what its calls cost, what it logged.
#[derive(Clone, Debug)]
pub struct Called {
    /// Its name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// What its calls cost.
    pub meter: Arc<Meter>,
    /// What it logged.
    pub log: Arc<Log>,
}

/// What changes when a lane begins or swaps its logic.
#[derive(Debug, Default)]
struct Life {
    deployed: Option<Deployed>,
    called: Vec<Called>,
    ends: Option<Arc<Ends>>,
    /// Records folded in former lives.
    before: u64,
}

/// The board of a lane. It outlives the lane's lives in this process: counters go on when the lane goes back and begins again.
#[derive(Debug, Default)]
pub struct LaneBoard {
    /// The lane's name.
    pub name: String,
    /// What it is doing, and since when, by [`clock::uptime_us`]: the lowest three bits and the others.
    doing: AtomicU64,
    spent_us: [Number; Doing::AT_WORK.len() + 1],
    life: Mutex<Life>,
    traces: Option<Traces>,
    state: Arc<Outage>,
    /// Records folded.
    pub records: Number,
    /// Events that `map` made.
    pub events: Number,
    /// Rejected records, events and firings, struck ones included, late ones not.
    pub rejected: ByStage,
    /// Late events that were dropped, and that were kept as dead letters.
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
    /// Deployments entered.
    pub swaps: Number,
    /// The longest time in which nothing was folded because of one.
    pub longest_gap_us: Number,
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
    /// Checkpoints written.
    pub checkpoints: Number,
    /// When all that the lane did was last covered by a checkpoint.
    pub covered: Time,
    /// How long the last checkpoint took.
    pub checkpoint_us: Number,
    /// Bytes that it wrote.
    pub checkpoint_bytes: Number,
    /// Rows that the sink has acknowledged.
    pub sink_rows: Number,
    /// How long the sink took for the rows of a batch.
    pub sink_writes: Histogram,
    /// Dead letters handed to where they are kept.
    pub letters: ByStage,
}

impl LaneBoard {
    // ---- put up

    /// The lane begins with what this source delivers.
    pub fn begins(&self, ends: Option<Arc<Ends>>, time: LaneTime) {
        let mut life = self.life();
        (life.ends, life.before) = (ends, self.records.get());
        self.covered.set(clock::now_ms());
        self.at(time);
    }

    /// The lane is folded by this deployment from now on, and calls this plugin.
    pub fn deployed(&self, deployed: Deployed, called: Called) {
        let mut life = self.life();
        life.deployed = Some(deployed);
        life.called.push(called);
    }

    /// The lane begins to do something else.
    pub fn enter(&self, doing: Doing) {
        let now = clock::uptime_us();
        let former = self.doing.swap(now << 3 | doing as u64, Relaxed);
        let (was, since) = (Doing::of(former & 7), former >> 3);
        self.spent_us[was as usize].add(now.saturating_sub(since));
        if let Some(traces) = &self.traces {
            traces.span(was, since, now);
        }
    }

    /// The lane is done with a batch, and with all that followed from it; it gathers the next, or ends.
    pub fn enter_next(&self, doing: Doing) {
        self.enter(doing);
        if let Some(traces) = &self.traces {
            traces.end(&self.name, self.records.get());
        }
    }

    /// What a batch counted, and the stages of its dead letters.
    pub fn folded(&self, counts: &Counts, late: Late, letters: impl Iterator<Item = Stage>) {
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
                *of_time = of_time.saturating_sub(counts.late); // a late event's letter is one of this stage too
            }
            Late::Process => {}
        }
        Stage::ALL.iter().zip(rejected).for_each(|(stage, count)| self.rejected.add(*stage, count));
    }

    /// The lane's event time is this.
    pub fn at(&self, time: LaneTime) {
        self.last_append.set(time.last_append_time);
        self.watermark.set(time.watermark);
    }

    fn life(&self) -> std::sync::MutexGuard<'_, Life> {
        self.life.lock().expect("nobody panics while holding it")
    }

    // ---- read

    /// What the lane is doing, and for how long, microseconds.
    pub fn doing(&self) -> (Doing, u64) {
        let packed = self.doing.load(Relaxed);
        (Doing::of(packed & 7), clock::uptime_us().saturating_sub(packed >> 3))
    }

    /// For how long the lane has made no progress in something that must come back, microseconds; 0 while it waits for the outside, which the
    /// store of the state is during an outage. A call of the plugin that came back is progress.
    pub fn without_progress_us(&self) -> u64 {
        let (doing, lasts) = self.doing();
        if doing.waits() {
            return 0;
        }
        if doing.needs_state() {
            return lasts.min(self.state.answers_us());
        }
        let now = clock::uptime_us();
        let calls = self.life().called.iter().map(|called| now.saturating_sub(called.meter.returned_us())).min();
        lasts.min(calls.unwrap_or(u64::MAX))
    }

    /// Time spent with it, microseconds, up to when the lane began what it is doing now.
    pub fn spent_us(&self, doing: Doing) -> u64 {
        self.spent_us[doing as usize].get()
    }

    /// What folds the lane; none before it began.
    pub fn deployment(&self) -> Option<Deployed> {
        self.life().deployed.clone()
    }

    /// The plugins that it has called, those of one name and version together.
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

    /// How far the source's partitions reach; none of a file.
    pub fn ends(&self) -> Option<Arc<Ends>> {
        self.life().ends.clone()
    }

    /// Records of the log that are not folded yet; none where nobody knows the log's end.
    pub fn lag(&self) -> Option<u64> {
        let life = self.life();
        let ends = life.ends.as_ref()?;
        let folded = self.records.get().saturating_sub(life.before);
        Some(ends.unread() + ends.read().saturating_sub(folded))
    }

    /// How far the last folded record lies behind the clock while others wait, ms; 0 when none waits.
    pub fn lag_ms(&self, now_ms: i64) -> Option<i64> {
        match self.lag()? {
            0 => Some(0),
            _ => self.last_append.get().map(|last| now_ms.saturating_sub(last).max(0)),
        }
    }
}

/// What a host is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It starts, and does this.
    Starting(&'static str),
    /// Its lanes are at work.
    Folding,
    /// Its lanes go back to an earlier point of the log.
    GoingBack,
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
    stop: Arc<AtomicBool>,
    lanes: Mutex<Vec<Arc<LaneBoard>>>,
    state: Arc<Outage>,
    outside: Mutex<Outside>,
    queued: AtomicI64,
    tracer: Option<Tracer>,
}

/// What is known of the outages of what a host writes to.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// The sink, once it is open.
    pub sink: Option<Arc<Outage>>,
    /// Where dead letters go, once that is open.
    pub letters: Option<Arc<Outage>>,
}

impl Board {
    /// The board of a host that starts, and ends when `stop` is raised.
    pub fn new(pipeline: &str, stop: &Arc<AtomicBool>) -> Board {
        Board {
            pipeline: pipeline.to_owned(),
            started_ms: clock::now_ms(),
            phase: Mutex::new(Phase::Starting("loads the plugin")),
            has_started: AtomicBool::new(false),
            stop: Arc::clone(stop),
            lanes: Mutex::default(),
            state: Arc::default(),
            outside: Mutex::default(),
            queued: AtomicI64::new(0),
            tracer: None,
        }
    }

    /// The same, whose lanes are traced.
    pub fn traced(self, tracer: Option<Tracer>) -> Board {
        Board { tracer, ..self }
    }

    /// The host goes over to this.
    pub fn enter(&self, phase: Phase) {
        *self.phase.lock().expect("nobody panics while holding it") = phase;
        if phase == Phase::Folding {
            self.has_started.store(true, Relaxed);
        }
    }

    /// What it is about.
    pub fn phase(&self) -> Phase {
        *self.phase.lock().expect("nobody panics while holding it")
    }

    /// Whether the start is over.
    pub fn has_started(&self) -> bool {
        self.has_started.load(Relaxed)
    }

    /// Raised when it is to stop.
    pub fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// Whether it was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// The board of a lane: that of its former life in this process, if it had one.
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

    /// The boards of all lanes.
    pub fn lanes(&self) -> Vec<Arc<LaneBoard>> {
        self.lanes.lock().expect("nobody panics while holding it").clone()
    }

    /// Rows and dead letters go there from now on.
    pub fn writes_to(&self, sink: Arc<Outage>, letters: Arc<Outage>) {
        let outside = Outside { sink: Some(sink), letters: Some(letters) };
        *self.outside.lock().expect("nobody panics while holding it") = outside;
    }

    /// What is known of where state lies.
    pub fn state(&self) -> &Arc<Outage> {
        &self.state
    }

    /// So many orders more wait for the writing thread.
    pub fn queue(&self, more: i64) {
        self.queued.fetch_add(more, Relaxed);
    }

    /// How many wait.
    pub fn queued(&self) -> i64 {
        self.queued.load(Relaxed).max(0)
    }

    /// What is known of where they go.
    pub fn outside(&self) -> Outside {
        self.outside.lock().expect("nobody panics while holding it").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_at_most_so_long() {
        let histogram = Histogram::default();
        [50, 100, 900, 70_000_000].iter().for_each(|us| histogram.add(*us));
        let buckets: Vec<(u64, u64)> = histogram.buckets().collect();
        assert_eq!(buckets[..3], [(100, 2), (1_000, 3), (2_500, 3)]);
        assert_eq!(buckets[13], (60_000_000, 3));
        assert_eq!(histogram.count_and_sum_us(), (4, 70_001_050));
    }

    #[test]
    fn late_letters_are_late_and_not_rejected() {
        let lane = LaneBoard::default();
        let counts = Counts { records: 5, late: 2, rejected: 1, ..Counts::default() };
        lane.folded(&counts, Late::DeadLetter, [Stage::Time, Stage::Time, Stage::Time, Stage::Fold].into_iter());
        assert_eq!((lane.rejected.get(Stage::Time), lane.rejected.get(Stage::Fold)), (1, 1));
        assert_eq!((lane.late[0].get(), lane.late[1].get()), (0, 2));
        lane.folded(&counts, Late::Drop, std::iter::empty());
        assert_eq!((lane.late[0].get(), lane.records.get()), (2, 10));
    }

    #[test]
    fn a_lane_s_time_is_that_of_what_it_does() {
        let lane = LaneBoard::default();
        assert_eq!((lane.doing().0, lane.without_progress_us()), (Doing::Off, 0));
        for doing in [Doing::Gather, Doing::Map, Doing::Write] {
            lane.enter(doing);
            assert_eq!(lane.doing().0, doing);
            std::thread::sleep(std::time::Duration::from_millis(2));
            assert_eq!(lane.without_progress_us() > 0, doing == Doing::Map);
        }
        lane.enter(Doing::Off);
        assert!([Doing::Gather, Doing::Map, Doing::Write].iter().all(|doing| lane.spent_us(*doing) >= 2_000));
        assert_eq!(lane.spent_us(Doing::Fold), 0);
    }
}
