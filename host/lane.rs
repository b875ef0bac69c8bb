//! One lane: a thread that takes arrivals, performs what the pure parts decide ([`merge`](crate::source::merge), [`time`], [`batch`]) and
//! checkpoints. Owns the order of effects: floors before the fold, strikes and frontier before rows, rows before the checkpoint, the
//! checkpoint before Kafka's offsets.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock;
use crate::config::OnStrike;
use crate::deployment::follow::{Follower, Logic};
use crate::failure::{Exit, Failure};
use crate::journal::Journal;
use crate::plugin::Fault;
use crate::progress::Progress;
use crate::record::{NO_TIME, Records};
use crate::row::Origin;
use crate::sink::writer::{Lengths, Writer};
use crate::source::merge::{Merge, Released};
use crate::source::{Arrival, Source};
use crate::state::checkpoint::{Checkpoint, FORMAT, PartitionProgress};
use crate::state::store::Store;
use audit::Auditor;
use batch::{Core, Counts, Output, Prepared, Strike};

pub mod audit;
pub mod batch;
mod shard;
pub mod time;

/// Bytes of keys and payloads in a batch, about: what goes into the sandbox at once must leave it room.
pub(crate) const BATCH_BYTES: usize = 8 << 20;
/// How long a batch that is not full waits for more.
const FILL_WAIT: Duration = Duration::from_millis(2);
/// The same while the log is known to hold more.
const BACKLOG_WAIT: Duration = Duration::from_millis(200);
/// The same of a file, which holds more until it ends.
const FILE_WAIT: Duration = Duration::from_secs(5);
/// How long an idle lane sleeps at most before it looks at its clock again.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// Least time between two live idle advances: each is an entry in the journal.
const IDLE_ADVANCE_EVERY_MS: i64 = 1000;
/// How long a stopping lane waits for the sink to acknowledge.
const DRAIN: Duration = Duration::from_secs(8);
/// Keys brought into memory after a restart between two batches, until all are there.
const LOAD_KEYS: usize = 20_000;
/// Batches that may wait per partition before it is held back.
pub(crate) const QUEUED_BATCHES: usize = 2;

/// What a lane is made of.
pub struct Lane {
    /// Its name in logs: `topic`, or the partition.
    pub name: String,
    /// Its source.
    pub source: Box<dyn Source>,
    /// Its order.
    pub merge: Merge,
    /// Its pure part.
    pub core: Core,
    /// What folds it.
    pub logic: Logic,
    /// Where it learns what folds it next.
    pub deployments: Follower,
    /// Its keyed state.
    pub store: Store,
    /// Its journal.
    pub journal: Journal,
    /// Sink and dead letters.
    pub writer: Writer,
    /// `plugin.on_strike`
    pub on_strike: OnStrike,
    /// `plugin.audit`
    pub audit: Auditor,
    /// `run.batch_records`
    pub batch_records: usize,
    /// `state.checkpoint_interval`
    pub checkpoint_interval: Duration,
    /// Raised by a signal, or when another lane failed.
    pub stop: Arc<AtomicBool>,
    /// Records that were in the log at the start and not yet folded, about; `u64::MAX` where nobody knows (a file: until its end).
    pub backlog: u64,
}

/// What a lane did in its life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Counters over all batches.
    pub counts: Counts,
    /// Batches.
    pub batches: u64,
    /// Records of the largest.
    pub largest_batch: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Floors journalled.
    pub floors: u64,
    /// Deployments entered.
    pub swaps: u64,
    /// The longest time in which nothing was folded because of one, microseconds.
    pub longest_gap_us: u64,
}

/// A lane at work.
pub struct Running {
    lane: Lane,
    records: Records,
    summary: Summary,
    /// Whether a release since the last durable frontier was a bet. After a restart: unknown, so yes.
    asked: bool,
    /// Whether anything happened since the last checkpoint.
    dirty: bool,
    next_checkpoint: Instant,
    started: Instant,
    progress: Progress,
    /// All stored timers before this one are in memory.
    timers_loaded: i64,
    /// Where bringing keys into memory goes on.
    keys_loaded: Vec<u8>,
    idle_advanced_ms: i64,
    reported_ahead: Option<i64>,
    last_record: Origin,
    /// When the former logic had folded its last record, until the new one folds its first.
    swapped: Option<Instant>,
    /// Whether the stop came before the sink acknowledged.
    abandoned: bool,
}

enum Step {
    GoOn,
    Finished,
}

impl Lane {
    /// Runs until the source ends or `stop` is raised; then a final checkpoint.
    pub fn run(self) -> Result<Summary, Failure> {
        let name = self.name.clone();
        let mut running = Running::new(self);
        running.work()?;
        let Running { lane, summary, mut progress, .. } = running;
        progress.finish();
        let audits = lane.audit.audits();
        lane.journal.close()?;
        lane.store.close()?;
        let Summary { counts, batches, largest_batch, checkpoints, floors, swaps, longest_gap_us } = summary;
        tracing::info!(
            lane = name,
            records = counts.records,
            events = counts.events,
            rejected = counts.rejected,
            late = counts.late,
            rows = counts.rows,
            firings = counts.firings,
            calls = counts.calls,
            batches,
            largest_batch,
            checkpoints,
            floors,
            swaps,
            longest_gap_us,
            audits,
            "lane stopped"
        );
        Ok(summary)
    }
}

impl Running {
    fn new(lane: Lane) -> Running {
        let now = clock::instant();
        Running {
            next_checkpoint: now + lane.checkpoint_interval,
            started: now,
            progress: Progress::new(if lane.backlog == u64::MAX { 0 } else { lane.backlog }),
            timers_loaded: if lane.core.complete { i64::MAX } else { NO_TIME },
            keys_loaded: Vec::new(),
            records: Records::default(),
            summary: Summary::default(),
            asked: true,
            dirty: false,
            idle_advanced_ms: 0,
            reported_ahead: None,
            last_record: lane.merge.last().map_or(Origin { partition: 0, offset: 0, event: None }, |last| Origin {
                partition: last.partition,
                offset: last.offset,
                event: None,
            }),
            swapped: None,
            abandoned: false,
            lane,
        }
    }

    fn work(&mut self) -> Result<(), Failure> {
        loop {
            if self.abandoned {
                tracing::warn!(
                    lane = self.lane.name,
                    "stopped before the sink acknowledged everything; the next start goes on from the last checkpoint"
                );
                return Ok(());
            }
            if self.lane.stop.load(Ordering::Relaxed) {
                self.checkpoint()?;
                if !self.abandoned {
                    return Ok(());
                }
                continue;
            }
            if let Step::Finished = self.step()? {
                return self.finish();
            }
        }
    }

    fn step(&mut self) -> Result<Step, Failure> {
        let released = self.gather()?;
        if self.records.is_empty() {
            if self.lane.merge.finished() {
                return Ok(Step::Finished);
            }
            self.wait_for_partitions();
            self.advance_idle()?;
        } else {
            self.fold(released)?;
        }
        self.load_more_keys()?;
        if clock::instant() >= self.next_checkpoint {
            self.checkpoint()?;
            self.lane.journal.check_ownership()?;
            self.lane.store.check_ownership()?;
        }
        Ok(Step::GoOn)
    }

    // ---- in

    /// Fills a batch with what may be released, until it is full or nothing comes for a moment. Where it is cut decides no row.
    fn gather(&mut self) -> Result<Released, Failure> {
        let (most, most_bytes) = (self.lane.batch_records, BATCH_BYTES);
        self.lane.source.hold(&self.lane.merge.overfull(most * QUEUED_BATCHES, most_bytes * QUEUED_BATCHES));
        self.records.clear();
        let mut all = Released::default();
        loop {
            let released = self.lane.merge.release(most, most_bytes, &mut self.records);
            all.records += released.records;
            all.asked |= released.asked;
            let full = self.records.len() >= most || self.records.bytes() >= most_bytes;
            if full || self.lane.merge.finished() || self.lane.stop.load(Ordering::Relaxed) {
                return Ok(all);
            }
            let Some(arrival) = self.lane.source.next(self.patience())? else { return Ok(all) };
            let answered = matches!(arrival, Arrival::Empty { .. });
            self.arrive(arrival)?;
            if answered && (self.lane.merge.drained() || self.lane.merge.blocked().is_some()) {
                return Ok(all);
            }
        }
    }

    /// How long the next arrival is waited for: until the next checkpoint or thereabouts with nothing in hand; for a batch that is not full
    /// a moment, or more while the log is known to hold more.
    fn patience(&self) -> Duration {
        let gathered = self.records.len() as u64;
        if gathered == 0 {
            let until_checkpoint = self.next_checkpoint.saturating_duration_since(clock::instant());
            return IDLE_WAIT.min(until_checkpoint.max(FILL_WAIT));
        }
        if self.lane.backlog == u64::MAX {
            return FILE_WAIT;
        }
        let known = self.summary.counts.records + gathered;
        if known < self.lane.backlog { BACKLOG_WAIT } else { FILL_WAIT }
    }

    fn arrive(&mut self, arrival: Arrival) -> Result<(), Failure> {
        match arrival {
            Arrival::Empty { partition, asked_ms } => self.lane.merge.empty(partition, asked_ms),
            Arrival::End { partition } => self.lane.merge.end(partition),
            Arrival::Records { partition, records } => {
                let floors = self.lane.merge.push(partition, records);
                if let Some(first) = floors.first() {
                    self.lane.journal.write_floors(&floors)?; // I4
                    self.summary.floors += floors.len() as u64;
                    tracing::warn!(
                        lane = self.lane.name,
                        partition,
                        offset = first.offset,
                        append_time = first.append_time,
                        records = floors.len(),
                        why = "they became visible after later ones were folded; they are sorted behind those, now and in every replay",
                        "floor"
                    );
                }
            }
        }
        Ok(())
    }

    /// Asks the partitions for which heads wait.
    fn wait_for_partitions(&mut self) {
        let Some(blocked) = self.lane.merge.blocked() else {
            if self.lane.logic.time.idle_timeout_ms.is_some() {
                let all = self.lane.source.partitions().to_vec();
                self.lane.source.ask(&all, clock::now_ms());
            }
            return;
        };
        self.lane.source.ask(&blocked.partitions, blocked.after_ms);
        let ahead_ms = blocked.after_ms - self.lane.logic.time.clock_skew_ms - clock::now_ms();
        if ahead_ms > self.lane.logic.time.clock_skew_ms && self.reported_ahead != Some(blocked.after_ms) {
            self.reported_ahead = Some(blocked.after_ms);
            tracing::warn!(
                lane = self.lane.name,
                ahead_ms,
                "a record stamped ahead of this host's clock holds its lane until the clock is past it: check the producer's or broker's clock"
            );
        }
    }

    // ---- fold

    fn fold(&mut self, released: Released) -> Result<(), Failure> {
        self.asked |= released.asked;
        let mut records = std::mem::take(&mut self.records);
        let last = *records.append_times.last().expect("a batch has records");
        self.summary.batches += 1;
        self.summary.largest_batch = self.summary.largest_batch.max(records.len() as u64);
        self.lane.deployments.reserve(last)?; // I9
        while let Some(t) = self.lane.deployments.due(last) {
            let split = records.append_times.partition_point(|&time| time < t);
            let mut rest = Records::default();
            rest.append(&records, split..records.len());
            let mut before = Records::default();
            before.append(&records, 0..split);
            self.fold_records(&before)?;
            self.swap(t)?;
            records = rest;
        }
        self.fold_records(&records)?;
        let done = self.summary.counts.records;
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.lane.backlog != u64::MAX {
            self.progress.update(done, self.lane.backlog.saturating_sub(done), elapsed);
        }
        self.records = records;
        Ok(())
    }

    /// Folds records that one logic folds.
    fn fold_records(&mut self, records: &Records) -> Result<(), Failure> {
        let Some(last) = records.len().checked_sub(1) else { return Ok(()) };
        self.end_gap();
        let plugin = Arc::clone(&self.lane.logic.plugin);
        let prepared = self.lane.core.prepare(records, &plugin).map_err(|fault| self.halt(fault))?;
        self.last_record = Origin { partition: records.partitions[last], offset: records.offsets[last], event: None };
        self.complete_fold(prepared)
    }

    /// Enters the deployment that holds from `t` on: all before it was folded. What an idle lane's time reaches up to `t` is the former
    /// logic's, wherever the lane looked at its clock in between, so that every replay fires the same timers with the same logic.
    fn swap(&mut self, t: i64) -> Result<(), Failure> {
        let ended = clock::instant();
        self.advance_to(t)?;
        let logic = self.lane.deployments.enter()?;
        self.lane.core.switch(Arc::clone(&logic.plugin), logic.time);
        self.dirty = true;
        self.summary.swaps += 1;
        self.swapped.get_or_insert(ended);
        let description = &logic.plugin.description;
        tracing::info!(
            lane = self.lane.name,
            deployment = logic.n,
            plugin = description.name,
            version = description.version,
            digest = logic.plugin.digest.0,
            t,
            "deployment in force"
        );
        self.lane.logic = logic;
        Ok(())
    }

    /// The new logic is about to fold its first record.
    fn end_gap(&mut self) {
        let Some(ended) = self.swapped.take() else { return };
        let gap_us = u64::try_from(ended.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.summary.longest_gap_us = self.summary.longest_gap_us.max(gap_us);
        tracing::info!(lane = self.lane.name, deployment = self.lane.logic.n, gap_us, "swapped");
    }

    fn complete_fold(&mut self, prepared: Prepared<'_>) -> Result<(), Failure> {
        self.load_missing(&prepared)?;
        let audit = self.lane.audit.begin(&mut self.lane.core, &prepared);
        let output = self.lane.core.fold(prepared).map_err(|fault| self.halt(fault))?;
        if let Some(audit) = audit {
            audit.finish(&self.lane.core, &output).map_err(|fault| self.halt(fault))?;
        }
        self.dirty = true;
        self.journal_strikes(&output.strikes)?;
        self.send(output)
    }

    /// What leaves: the frontier is durable first, if the order was a bet.
    fn send(&mut self, output: Output) -> Result<(), Failure> {
        self.summary.counts.add(&output.counts);
        if output.rows.is_empty() && output.letters.is_empty() {
            return Ok(());
        }
        self.keep_frontier()?;
        let stop = &self.lane.stop;
        let until_stop = DrainAfter::new(stop);
        self.abandoned |=
            !self
                .lane
                .writer
                .write(output.rows, output.letters, &self.lane.logic.plugin.digest.0, || until_stop.patient())?;
        Ok(())
    }

    fn keep_frontier(&mut self) -> Result<(), Failure> {
        if let Some(frontier) = self.lane.merge.frontier().filter(|_| self.asked) {
            self.lane.journal.write_frontier(&frontier)?; // I4
            self.asked = false;
        }
        Ok(())
    }

    fn journal_strikes(&mut self, strikes: &[Strike]) -> Result<(), Failure> {
        let Some(first) = strikes.first() else { return Ok(()) };
        let plugin = &self.lane.logic.plugin.description;
        let what = format!("{:?}", first.item);
        if self.lane.on_strike == OnStrike::Halt {
            let key = first.key.as_ref().map(|key| format!(", key {key:?}")).unwrap_or_default();
            let message = format!(
                "plugin {} {} struck on {what}{key}: {}; it was not folded. Mend the plugin, or set plugin.on_strike = \"dead-letter\"",
                plugin.name, plugin.version, first.reason
            );
            return Err(Failure::new(Exit::Plugin, message));
        }
        self.lane.journal.write_strikes(strikes)?;
        tracing::warn!(
            lane = self.lane.name,
            plugin = plugin.name,
            version = plugin.version,
            strikes = strikes.len(),
            item = what,
            key = first.key,
            reason = first.reason,
            "strike: the plugin failed on an item alone in a fresh instance; it goes to the dead letters"
        );
        let known = strikes.iter().map(|strike| (strike.item.clone(), strike.reason.clone()));
        self.lane.core.strikes.extend(known);
        Ok(())
    }

    fn halt(&self, fault: Fault) -> Failure {
        let plugin = &self.lane.logic.plugin.description;
        Failure::new(
            Exit::Plugin,
            format!("lane {} halts on plugin {} {}: {}", self.lane.name, plugin.name, plugin.version, fault.text()),
        )
    }

    // ---- state that is not in memory

    fn load_missing(&mut self, prepared: &Prepared<'_>) -> Result<(), Failure> {
        if self.lane.core.complete {
            return Ok(());
        }
        for (shard, slots) in self.lane.core.shards.iter_mut().zip(&prepared.missing) {
            self.lane.store.fill(shard, slots)?;
        }
        let watermark = prepared.watermark;
        if watermark != NO_TIME && watermark >= self.timers_loaded {
            self.timers_loaded =
                self.lane.store.load_timers(&mut self.lane.core.shards, self.timers_loaded, watermark)?;
        }
        Ok(())
    }

    /// After a restart keys are read when they are met; between batches the others follow, until all are in memory and no new key costs a
    /// look into the store.
    fn load_more_keys(&mut self) -> Result<(), Failure> {
        if self.lane.core.complete {
            return Ok(());
        }
        match self.lane.store.load_keys(&mut self.lane.core.shards, &self.keys_loaded, LOAD_KEYS)? {
            Some(last) => self.keys_loaded = last,
            None => {
                self.lane.core.complete = true;
                self.timers_loaded = i64::MAX;
            }
        }
        Ok(())
    }

    // ---- idle advance

    /// With nothing to fold and every partition found empty, the lane's time may follow the clock, which the journal then knows.
    fn advance_idle(&mut self) -> Result<(), Failure> {
        if self.lane.logic.time.idle_timeout_ms.is_none() || !self.lane.merge.drained() {
            return Ok(());
        }
        let Some(empty_at) = self.lane.merge.all_empty_at_ms() else { return Ok(()) };
        let instant = empty_at - self.lane.logic.time.clock_skew_ms;
        let mut then = self.lane.core.time;
        then.idle(&self.lane.logic.time, instant);
        if then.watermark <= self.lane.core.time.watermark || instant < self.idle_advanced_ms + IDLE_ADVANCE_EVERY_MS {
            return Ok(());
        }
        self.idle_advanced_ms = instant;
        self.lane.merge.raise(instant);
        self.asked = true;
        self.keep_frontier()?;
        self.lane.deployments.reserve(instant)?; // I9
        while let Some(t) = self.lane.deployments.due(instant) {
            self.swap(t)?;
        }
        self.advance_to(instant)
    }

    /// The lane's time becomes what a record appended at `instant` would make of it first.
    fn advance_to(&mut self, instant: i64) -> Result<(), Failure> {
        if self.lane.logic.time.idle_timeout_ms.is_none() {
            return Ok(());
        }
        let (none, plugin) = (Records::default(), Arc::clone(&self.lane.logic.plugin));
        let prepared = self.lane.core.prepare_idle(instant, &none, &plugin, self.last_record);
        self.complete_fold(prepared)
    }

    // ---- checkpoint and end

    /// All rows and dead letters acknowledged, then state, then offsets. A sink that does not acknowledge is waited for until a stop and
    /// [`DRAIN`] more; then the lane is abandoned: nothing is lost, the next start goes on from the checkpoint before.
    fn checkpoint(&mut self) -> Result<(), Failure> {
        self.next_checkpoint = clock::instant() + self.lane.checkpoint_interval;
        if !self.dirty || self.abandoned {
            return Ok(());
        }
        let until_stop = DrainAfter::new(&self.lane.stop);
        let Some(lengths) = self.lane.writer.sync(|| until_stop.patient())? else {
            self.abandoned = true;
            return Ok(());
        };
        let checkpoint = self.describe(lengths);
        self.lane.store.write_checkpoint(&checkpoint, &mut self.lane.core.shards)?; // I2, I3
        self.lane
            .source
            .commit(&checkpoint.partitions.iter().map(|(p, at)| (*p, at.last.offset + 1)).collect::<Vec<_>>());
        self.dirty = false;
        self.summary.checkpoints += 1;
        Ok(())
    }

    fn describe(&self, lengths: Lengths) -> Checkpoint {
        let progress = self.lane.merge.resume().into_iter().filter_map(|(partition, resume)| {
            Some((partition, PartitionProgress { envelope: resume.envelope, last: resume.last? }))
        });
        Checkpoint {
            format: FORMAT,
            partitions: progress.collect::<BTreeMap<_, _>>(),
            last: self.lane.merge.last(),
            time: self.lane.core.time,
            deployment: self.lane.logic.n,
            sink_length: lengths.sink,
            letters_length: lengths.letters,
        }
    }

    /// The source has ended: what was released last was on the word that nothing more is there.
    fn finish(&mut self) -> Result<(), Failure> {
        self.keep_frontier()?;
        self.checkpoint()
    }
}

/// Patience without end until a stop, and then for [`DRAIN`].
struct DrainAfter<'a> {
    stop: &'a AtomicBool,
    stopped: Cell<Option<Instant>>,
}

impl DrainAfter<'_> {
    fn new(stop: &AtomicBool) -> DrainAfter<'_> {
        DrainAfter { stop, stopped: Cell::new(None) }
    }

    fn patient(&self) -> bool {
        if !self.stop.load(Ordering::Relaxed) {
            return true;
        }
        let stopped = self.stopped.get().unwrap_or_else(clock::instant);
        self.stopped.set(Some(stopped));
        stopped.elapsed() < DRAIN
    }
}

impl Counts {
    /// Adds what another batch counted.
    pub(crate) fn add(&mut self, other: &Counts) {
        self.records += other.records;
        self.events += other.events;
        self.rejected += other.rejected;
        self.late += other.late;
        self.rows += other.rows;
        self.firings += other.firings;
        self.calls += other.calls;
    }
}
