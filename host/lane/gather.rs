//! Gathering: fills a batch from the source through the merge, and asks the partitions for which heads wait. Where a batch is cut decides
//! no row. Keeps I4: floors are durable before the next release, and the frontier is known to be a bet until it is durable.

use std::task::Poll;
use std::time::Duration;

use crate::config::Time;
use crate::event_time::{AppendTime, LaneTime};
use crate::failure::Failure;
use crate::lane::context::Context;
use crate::lane::idle::{self, Idle};
use crate::lane::timestamps::Timestamps;
use crate::machine::{Planted, plants};
use crate::observe::board::Activity;
use crate::observe::progress::Progress;
use crate::position::{Floor, Frontier, Offset, Partition, TopicId};
use crate::record::Records;
use crate::source::merge::Merge;
use crate::source::{Arrival, BATCH_BYTES, QUEUED_BATCHES, Source};

/// How long a batch that is not full waits for more, from its first record on.
const FILL_WAIT: Duration = Duration::from_millis(2);
/// The same while the log is known to hold more.
const BACKLOG_WAIT: Duration = Duration::from_millis(200);
/// The same for a file, which holds more until it ends.
const FILE_WAIT: Duration = Duration::from_secs(5);

/// Fills batches.
pub(super) struct Gather {
    source: Box<dyn Source>,
    merge: Merge,
    /// The batch that is being filled; its memory is reused.
    batch: Records,
    /// Records of a full batch.
    most: usize,
    /// Records gathered since the start, those in `batch` included.
    gathered: u64,
    /// Of these, how many were gathered before the journal was last written, so that no other host had taken over by then.
    proved: u64,
    /// Whether a release since the last durable frontier relied on an asked partition's word. After a restart that is unknown, so yes.
    frontier_is_bet: bool,
    /// Floors that were recorded.
    floors: u64,
    idle: Idle,
    timestamps: Timestamps,
    catching_up: CatchingUp,
}

/// How far the lane has come through what was in the log at the start.
struct CatchingUp {
    /// Records in the log at the start, roughly; none if unknown, as for a file until its end.
    backlog: Option<u64>,
    started: Duration,
    progress: Progress,
}

impl Gather {
    /// Begins to gather batches of up to `most` records. `backlog` is roughly how many records are in the log now, if that is known.
    pub(super) fn new(
        source: Box<dyn Source>,
        merge: Merge,
        most: usize,
        backlog: Option<u64>,
        context: &Context,
    ) -> Gather {
        let progress = Progress::new(backlog.unwrap_or(0));
        let catching_up = CatchingUp { backlog, started: context.clock.monotonic(), progress };
        Gather {
            source,
            merge,
            batch: Records::default(),
            most,
            gathered: 0,
            proved: 0,
            frontier_is_bet: true,
            floors: 0,
            idle: Idle::new(context.clock.monotonic()),
            timestamps: Timestamps::default(),
            catching_up,
        }
    }

    // ---- a batch

    /// Fills a batch with what may be released, until it has `most` records, is full or was waited for a moment; with nothing in hand it ends at
    /// `due_at` at the latest, or thereabouts. `keep` makes floors durable. A head that waits for
    /// partitions which must be asked ends it too: what arrives from other partitions meanwhile must not put that off.
    pub(super) fn fill(
        &mut self,
        context: &Context,
        (due_at, most): (Duration, usize),
        mut keep: impl FnMut(&[Floor]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        context.board.end_batch(Activity::Gather);
        self.source.hold(&self.merge.overfull(self.most * QUEUED_BATCHES, BATCH_BYTES * QUEUED_BATCHES));
        let most = most.min(self.most);
        self.batch.clear();
        let mut waiting_since = None;
        loop {
            if plants(Planted::MergeReleasedEarly) {
                self.merge.blocked().iter().flat_map(|b| &b.partitions).for_each(|p| self.merge.empty(*p, i64::MAX));
            }
            let released = self.merge.release(most, BATCH_BYTES, &mut self.batch);
            self.gathered += released.records as u64;
            self.frontier_is_bet |= released.asked;
            let full = self.batch.len() >= most || self.batch.bytes() >= BATCH_BYTES;
            let signals = &context.signals;
            if full || self.merge.finished() || signals.stop_requested() || signals.rewind_requested() {
                return Ok(());
            }
            let (patience, now) = (self.patience(context, due_at), context.clock.monotonic());
            let waits = !self.batch.is_empty() || self.merge.blocked().is_some();
            waiting_since = if waits { waiting_since.or(Some(now)) } else { None };
            let waited = waiting_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            if waits && waited >= patience {
                return Ok(());
            }
            let Some(arrival) = self.source.next(patience.saturating_sub(waited))? else { return Ok(()) };
            let answered = matches!(arrival, Arrival::Empty { .. });
            self.arrive(arrival, context, &mut keep)?;
            if answered && (self.merge.drained() || self.merge.blocked().is_some()) {
                return Ok(());
            }
        }
    }

    /// Takes the batch out; [`Gather::give_back`] returns its memory.
    pub(super) fn take(&mut self) -> Records {
        std::mem::take(&mut self.batch)
    }

    /// Takes the memory of a folded batch back.
    pub(super) fn give_back(&mut self, records: Records) {
        self.batch = records;
    }

    /// How long to wait for the next arrival.
    fn patience(&self, context: &Context, due_at: Duration) -> Duration {
        if self.batch.is_empty() {
            let now = context.clock.monotonic();
            let (until_due, blocked) = (due_at.saturating_sub(now), self.merge.blocked().is_some());
            return if blocked {
                until_due.clamp(FILL_WAIT, idle::WAIT[0])
            } else {
                self.idle.patience(now, until_due)
            };
        }
        batch_patience(self.catching_up.backlog, self.gathered)
    }

    fn arrive(
        &mut self,
        arrival: Arrival,
        context: &Context,
        keep: &mut impl FnMut(&[Floor]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match arrival {
            Arrival::Empty { partitions, asked_ms } => {
                partitions.iter().for_each(|partition| self.merge.empty(*partition, asked_ms));
            }
            Arrival::End { partition } => self.merge.end(partition),
            Arrival::Records { partition, records } => {
                self.idle.end(context.clock.monotonic());
                self.timestamps.watch(partition, &records, context);
                let floors = self.merge.push(partition, records);
                if let Some(first) = floors.first() {
                    context.board.enter(Activity::Store);
                    if !plants(Planted::FloorNotKept) {
                        keep(&floors)?; // I4
                    }
                    context.board.enter(Activity::Gather);
                    context.board.floors.add(floors.len() as u64);
                    self.floors += floors.len() as u64;
                    warn_of_floors(context, first, floors.len());
                }
            }
        }
        Ok(())
    }

    // ---- waiting

    /// Asks the partitions for which heads wait. If none does and nothing was released (`idle`), all are asked, so that the lane's time can
    /// follow the clock.
    pub(super) fn ask_partitions(&mut self, context: &Context, time: &Time, idle: bool) {
        let Some(blocked) = self.merge.blocked() else {
            if idle && time.idle_timeout_ms.is_some() {
                let all = self.source.partitions().to_vec();
                self.source.ask(&all, self.idle.ask_after(context.clock.now_ms(), self.merge.all_empty_at_ms()));
            }
            return;
        };
        self.source.ask(&blocked.partitions, blocked.after_ms);
        self.timestamps.tell_waiting(&blocked, time.clock_skew_ms, context);
    }

    /// The instant to which an idle lane's time may follow the clock: nothing waits, and every partition was found empty. From then on
    /// nothing is released before that instant, and the frontier is a bet on it.
    pub(super) fn advance_idle(&mut self, settings: &Time, time: LaneTime) -> Option<i64> {
        if settings.idle_timeout_ms.is_none() || !self.merge.drained() {
            return None;
        }
        let instant = self.merge.all_empty_at_ms()? - settings.clock_skew_ms;
        let mut then = time;
        then.idle(settings, AppendTime::at(instant));
        if then.watermark <= time.watermark || !self.idle.advance(instant) {
            return None;
        }
        self.merge.raise(AppendTime::at(instant));
        self.frontier_is_bet = true;
        Some(instant)
    }

    // ---- how far it has come

    /// Makes the frontier durable with `keep`, if something was released on an asked partition's word since the last one.
    pub(super) fn keep_frontier<E>(&mut self, keep: impl FnOnce(&Frontier) -> Result<(), E>) -> Result<(), E> {
        if let Some(frontier) = self.merge.frontier().filter(|_| self.frontier_is_bet) {
            keep(&frontier)?;
            self.frontier_is_bet = false;
            self.proved = self.gathered;
        }
        Ok(())
    }

    /// Calls `prove`, which fails if another host has taken over, unless it was proved that none had since the last record was gathered. Not for
    /// a log in whose order no host decides anything: a file, or a single partition without idle advances.
    pub(super) fn prove_ownership<E>(&mut self, time: &Time, prove: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let is_file = self.catching_up.backlog.is_none();
        let is_given = self.source.partitions().len() == 1 && time.idle_timeout_ms.is_none();
        if self.proved < self.gathered && !is_file && !is_given {
            prove()?;
            self.proved = self.gathered;
        }
        Ok(())
    }

    /// Whether the source has ended and all its records were gathered.
    pub(super) fn finished(&self) -> bool {
        self.merge.finished()
    }

    /// The merge, which knows what a checkpoint covers.
    pub(super) fn merge(&self) -> &Merge {
        &self.merge
    }

    /// Asks for the id of the log, now that what was gathered is to be kept.
    pub(super) fn ask_log_id(&mut self) {
        self.source.ask_log_id();
    }

    /// The id of the log, once it is there. Fails if it is another log than before.
    pub(super) fn log_id(&mut self) -> Result<Poll<Option<TopicId>>, Failure> {
        self.source.log_id()
    }

    /// Commits to the source how far checkpoints have come: (partition, next offset).
    pub(super) fn commit(&mut self, next: &[(Partition, Offset)]) {
        self.source.commit(next);
    }

    /// Floors that were recorded.
    pub(super) fn floors(&self) -> u64 {
        self.floors
    }

    /// Reports that all that was gathered is folded.
    pub(super) fn report_progress(&mut self, context: &Context) {
        let CatchingUp { backlog, started, progress } = &mut self.catching_up;
        let elapsed = context.clock.monotonic().saturating_sub(*started);
        if let Some(backlog) = backlog {
            let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            progress.update(self.gathered, backlog.saturating_sub(self.gathered), elapsed_ms);
        }
    }

    /// Ends the report.
    pub(super) fn finish_progress(&mut self) {
        let CatchingUp { backlog, progress, .. } = &mut self.catching_up;
        progress.finish(self.merge.finished() || backlog.is_none_or(|backlog| self.gathered >= backlog));
    }
}

/// For a batch that is not full: a moment, or longer while the log is known to hold more.
fn batch_patience(backlog: Option<u64>, gathered: u64) -> Duration {
    match backlog {
        None => FILE_WAIT,
        Some(backlog) if gathered < backlog => BACKLOG_WAIT,
        Some(_) => FILL_WAIT,
    }
}

fn warn_of_floors(context: &Context, first: &Floor, records: usize) {
    tracing::warn!(
        event = "floor-recorded",
        lane = context.name,
        partition = first.partition.0,
        offset = first.offset.0,
        append_time = first.append_time.ms(),
        records,
        why = "they became visible after later ones were folded; now and in every replay they are sorted behind those",
        "records became visible behind the frontier; floor recorded"
    );
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::config::{ImplausibleTime, Late};
    use crate::event_time::EventTime;
    use crate::failure::Exit;
    use crate::lane::interrupt::Signals;
    use crate::observe::ends::Ends;
    use crate::position::Resume;
    use crate::record::RecordRef;

    const SKEW_MS: i64 = 200;

    /// What a source was asked: how long to wait, and for which partitions to look.
    #[derive(Default)]
    struct Heard {
        waits: Vec<Duration>,
        asked: Vec<(Vec<Partition>, i64)>,
    }

    /// A source of prepared arrivals.
    struct Script {
        partitions: Vec<Partition>,
        clock: Arc<ManualClock>,
        /// How long each arrival takes.
        pace: Arc<Mutex<Duration>>,
        arrivals: Arc<Mutex<VecDeque<Arrival>>>,
        heard: Arc<Mutex<Heard>>,
    }

    impl Source for Script {
        fn partitions(&self) -> &[Partition] {
            &self.partitions
        }

        fn next(&mut self, timeout: Duration) -> Result<Option<Arrival>, Failure> {
            self.heard.lock().unwrap().waits.push(timeout);
            self.clock.advance(*self.pace.lock().unwrap());
            Ok(self.arrivals.lock().unwrap().pop_front())
        }

        fn ask(&mut self, partitions: &[Partition], after_ms: i64) {
            self.heard.lock().unwrap().asked.push((partitions.to_vec(), after_ms));
        }

        fn hold(&mut self, _: &[Partition]) {}

        fn commit(&mut self, _: &[(Partition, Offset)]) {}

        fn ends(&self) -> Option<Arc<Ends>> {
            None
        }

        fn ask_log_id(&mut self) {}

        fn log_id(&mut self) -> Result<Poll<Option<TopicId>>, Failure> {
            Ok(Poll::Ready(None))
        }
    }

    /// A lane's gathering with its source in hand.
    struct Bench {
        gather: Gather,
        context: Context,
        clock: Arc<ManualClock>,
        stop: Arc<AtomicBool>,
        pace: Arc<Mutex<Duration>>,
        arrivals: Arc<Mutex<VecDeque<Arrival>>>,
        heard: Arc<Mutex<Heard>>,
    }

    impl Bench {
        /// Of this many partitions, in batches of up to `most` records.
        fn new(partitions: u32, most: usize) -> Bench {
            let (clock, stop) = (Arc::new(ManualClock::new(10_000)), Arc::new(AtomicBool::new(false)));
            let signals = Signals::new(&stop, &Arc::default());
            let context =
                Context { name: "test".into(), clock: Arc::clone(&clock) as _, signals, board: Arc::default() };
            let (arrivals, heard, pace) = (Arc::default(), Arc::default(), Arc::<Mutex<Duration>>::default());
            let partitions: Vec<Partition> = (0..partitions).map(Partition).collect();
            let resumes: Vec<_> = partitions.iter().map(|&partition| (partition, Resume::default())).collect();
            let merge = Merge::new(&resumes, SKEW_MS, None, None, BTreeMap::new());
            let source = Script {
                partitions,
                clock: Arc::clone(&clock),
                pace: Arc::clone(&pace),
                arrivals: Arc::clone(&arrivals),
                heard: Arc::clone(&heard),
            };
            let gather = Gather::new(Box::new(source), merge, most, None, &context);
            Bench { gather, context, clock, stop, pace, arrivals, heard }
        }

        fn arrive(&self, arrival: Arrival) {
            self.arrivals.lock().unwrap().push_back(arrival);
        }

        /// Fills a batch; returns its records as (append time, partition, offset). `keep` stands for the journal.
        fn fill(&mut self, keep: impl FnMut(&[Floor]) -> Result<(), Failure>) -> Result<Vec<(i64, u32, u64)>, Failure> {
            let filled = self.gather.fill(&self.context, (Duration::from_secs(60), usize::MAX), keep);
            let batch = &self.gather.batch;
            let positions = (0..batch.len()).map(|i| (batch.append_times[i], batch.partitions[i], batch.offsets[i]));
            filled.map(|()| positions.collect())
        }
    }

    fn records(partition: u32, items: &[(u64, i64)]) -> Arrival {
        let mut records = Records::default();
        for &(offset, append_time) in items {
            let payload = Some(b"payload".as_slice());
            records.push(RecordRef { partition, offset, append_time, key: None, payload, headers: None });
        }
        Arrival::Records { partition: Partition(partition), records }
    }

    fn empty(partition: u32, asked_ms: i64) -> Arrival {
        Arrival::Empty { partitions: vec![Partition(partition)], asked_ms }
    }

    fn no_floors(floors: &[Floor]) -> Result<(), Failure> {
        panic!("unexpected floors: {floors:?}")
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_batch_waits_for_what_the_log_holds() {
        assert_eq!(batch_patience(None, 5), FILE_WAIT);
        assert_eq!(batch_patience(Some(6), 5), BACKLOG_WAIT);
        assert_eq!(batch_patience(Some(5), 5), FILL_WAIT);
    }

    #[test]
    fn a_batch_ends_when_it_is_full_or_nothing_arrives() {
        let mut bench = Bench::new(1, 2);
        bench.arrive(records(0, &[(0, 5), (1, 6), (2, 7)]));
        assert_eq!(bench.fill(no_floors), Ok(vec![(5, 0, 0), (6, 0, 1)]));
        assert_eq!(bench.fill(no_floors), Ok(vec![(7, 0, 2)]));
        assert_eq!(bench.heard.lock().unwrap().waits, [idle::WAIT[0], FILE_WAIT], "a full batch waits for nothing");
        bench.arrive(Arrival::End { partition: Partition(0) });
        assert_eq!(bench.fill(no_floors), Ok(vec![]));
        assert!(bench.gather.finished());
    }

    #[test]
    fn a_partition_that_is_never_silent_puts_off_neither_its_batch_nor_an_answer() {
        let mut bench = Bench::new(2, 1_000);
        *bench.pace.lock().unwrap() = ms(1);
        let arrivals = |bench: &Bench| (0..100).for_each(|i| bench.arrive(records(1, &[(i, 1_000 + i.cast_signed())])));
        arrivals(&bench);
        assert_eq!(bench.fill(no_floors), Ok(vec![]), "partition 0 was never asked");
        assert_eq!(bench.arrivals.lock().unwrap().len(), 49, "after 50 ms from the first one on it can be asked");
        bench.arrivals.lock().unwrap().clear();
        bench.arrive(empty(0, 9_000));
        bench.fill(no_floors).expect("nothing fails");
        bench.gather.catching_up.backlog = Some(0);
        arrivals(&bench);
        assert!(!bench.fill(|_| Ok(())).expect("nothing fails").is_empty());
        assert!(bench.arrivals.lock().unwrap().len() > 90, "a batch waits for 2 ms");
    }

    #[test]
    fn a_stop_ends_a_batch_without_waiting_for_more() {
        let mut bench = Bench::new(1, 10);
        bench.stop.store(true, Ordering::Relaxed);
        bench.arrive(records(0, &[(0, 5)]));
        assert_eq!(bench.fill(no_floors), Ok(vec![]));
        assert!(bench.heard.lock().unwrap().waits.is_empty());
    }

    #[test]
    fn i4_a_floor_is_durable_before_its_record_is_released() {
        for durable in [true, false] {
            let mut bench = Bench::new(2, 10);
            bench.arrive(records(1, &[(5, 1000)]));
            bench.arrive(empty(0, 9000));
            assert_eq!(bench.fill(no_floors), Ok(vec![(1000, 1, 5)]));
            bench.arrive(records(0, &[(7, 900)]));
            bench.arrive(empty(1, 9000));
            let mut kept = Vec::new();
            let filled = bench.fill(|floors| {
                kept.extend_from_slice(floors);
                if durable { Ok(()) } else { Err(Failure::new(Exit::Outside, "unavailable")) }
            });
            let floor = Floor { partition: Partition(0), offset: Offset(7), append_time: AppendTime::at(1001) };
            assert_eq!(kept, [floor]);
            if durable {
                assert_eq!(filled, Ok(vec![(1001, 0, 7)]));
                assert_eq!(bench.gather.floors(), 1);
            } else {
                assert!(filled.is_err());
                assert!(bench.gather.batch.is_empty(), "nothing is folded without its floor");
            }
        }
    }

    #[test]
    fn i4_the_frontier_is_written_while_it_is_a_bet_and_until_that_succeeds() {
        let mut bench = Bench::new(2, 10);
        let kept = |gather: &mut Gather| {
            let mut kept = None;
            let keep = |frontier: &Frontier| {
                kept = Some(frontier.last);
                Ok::<_, ()>(())
            };
            gather.keep_frontier(keep).unwrap();
            kept.map(|last| last.append_time.ms())
        };
        assert_eq!(kept(&mut bench.gather), None, "nothing was released");
        bench.arrive(records(0, &[(0, 1000), (1, 1100)]));
        bench.arrive(records(1, &[(0, 1050)]));
        assert_eq!(bench.fill(no_floors), Ok(vec![(1000, 0, 0), (1050, 1, 0)]));
        assert_eq!(kept(&mut bench.gather), Some(1050), "after a start it is unknown what an earlier life bet on");
        assert_eq!(kept(&mut bench.gather), None);
        bench.arrive(empty(1, 9000));
        assert_eq!(bench.fill(no_floors), Ok(vec![(1100, 0, 1)]));
        assert_eq!(bench.gather.keep_frontier(|_| Err(())), Err(()));
        assert_eq!(kept(&mut bench.gather), Some(1100));
        assert_eq!(kept(&mut bench.gather), None);
    }

    #[test]
    fn partitions_are_asked_for_which_a_head_waits() {
        let mut bench = Bench::new(2, 10);
        let settings = settings(None);
        bench.gather.ask_partitions(&bench.context, &settings, true);
        assert!(bench.heard.lock().unwrap().asked.is_empty(), "nothing waits, and time does not follow the clock");
        bench.gather.ask_partitions(&bench.context, &self::settings(Some(30)), false);
        assert!(bench.heard.lock().unwrap().asked.is_empty(), "it does so only while nothing is released");
        bench.arrive(records(0, &[(0, 1000)]));
        assert_eq!(bench.fill(no_floors), Ok(vec![]));
        bench.gather.ask_partitions(&bench.context, &settings, true);
        assert_eq!(bench.heard.lock().unwrap().asked, [(vec![Partition(1)], 1000 + SKEW_MS)]);
    }

    fn settings(idle_timeout_ms: Option<i64>) -> Time {
        let (out_of_orderness_ms, future_limit_ms) = (0, 1_000_000);
        let implausible = ImplausibleTime::DeadLetter;
        Time {
            out_of_orderness_ms,
            late: Late::Drop,
            future_limit_ms,
            clock_skew_ms: SKEW_MS,
            idle_timeout_ms,
            implausible,
        }
    }

    #[test]
    fn an_idle_lane_follows_the_clock_at_most_once_a_second() {
        let mut bench = Bench::new(1, 10);
        let settings = settings(Some(30));
        let watermark = Some(EventTime::at(100));
        let mut time = LaneTime { watermark, last_append_time: Some(AppendTime::at(1000)), base: watermark };
        assert_eq!(bench.gather.advance_idle(&settings, time), None, "the partition was never asked");
        bench.gather.ask_partitions(&bench.context, &settings, true);
        assert_eq!(bench.heard.lock().unwrap().asked, [(vec![Partition(0)], bench.clock.now_ms())]);
        let mut advance = |asked_ms| {
            bench.arrive(empty(0, asked_ms));
            assert_eq!(bench.fill(no_floors), Ok(vec![]));
            let instant = bench.gather.advance_idle(&settings, time);
            instant.into_iter().for_each(|instant| time.idle(&settings, AppendTime::at(instant)));
            instant
        };
        assert_eq!(advance(5000), Some(4800));
        assert_eq!(advance(5000), None, "the watermark is there already");
        assert_eq!(advance(5999), None, "less than a second later");
        assert_eq!(advance(6000), Some(5800));
        bench.arrive(records(0, &[(0, 5000)]));
        let mut floors = Vec::new();
        let filled = bench.fill(|new| {
            floors.extend_from_slice(new);
            Ok(())
        });
        assert_eq!(filled, Ok(vec![(5800, 0, 0)]), "what arrives behind the advance is sorted after it");
        assert_eq!(floors.len(), 1);
    }
}
