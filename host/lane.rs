//! One lane: a thread that takes arrivals, performs what the pure parts decide ([`merge`](crate::source::merge), [`time`], [`batch`]) and
//! checkpoints. Owns the order of effects: floors before the fold, strikes and frontier before rows, rows before the checkpoint, the
//! checkpoint before Kafka's offsets.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use self::audit::Auditor;
use self::core::{Core, Output, Prepared};
use crate::clock;
use crate::config::OnStrike;
use crate::counts::Counts;
use crate::deployment::follow::{Back, Follower, Logic};
use crate::event_time::{AppendTime, EventTime};
use crate::failure::{Exit, Failure};
use crate::observe::board::{Activity, LaneBoard};
use crate::observe::progress::Progress;
use crate::plugin::Fault;
use crate::position::{Offset, Partition};
use crate::record::Records;
use crate::row::Image;
use crate::row::Origin;
use crate::sink::writer::{Lengths, SharedImages, Writer};
use crate::source::merge::{Merge, Released};
use crate::source::{Arrival, Source};
use crate::source::{BATCH_BYTES, QUEUED_BATCHES};
use crate::state::Shard;
use crate::state::checkpoint::{Checkpoint, FORMAT, PartitionProgress};
use crate::state::journal::Journal;
use crate::state::store::Store;
use crate::strike::{Strike, StrikeItem};

pub mod audit;
pub mod core;
pub mod law;
mod migration;
mod shard;
pub mod time;

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
/// Keys looked at between two batches for state of a former version, until all have the plugin's.
const MIGRATE_KEYS: usize = 5_000;
/// Keys read from the store between two signs of life.
const READ_KEYS: usize = 4_096;

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
    /// Strikes that the journal knows of deployments which the lane has not reached.
    pub strikes: BTreeMap<u64, BTreeMap<StrikeItem, String>>,
    /// Where it learns what folds it next.
    pub deployments: Follower,
    /// Its keyed state.
    pub store: Store,
    /// Its journal.
    pub journal: Journal,
    /// Sink and dead letters.
    pub writer: Writer,
    /// What was noted, in former lives of this lane, of rows that deployments on probation replaced.
    pub noted: BTreeMap<u64, Vec<Image>>,
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
    /// Raised when all lanes must begin again at an earlier point of the log.
    pub back: Arc<AtomicBool>,
    /// What those who watch may know of it.
    pub board: Arc<LaneBoard>,
    /// `plugin.log_rate`
    pub log_rate: u64,
    /// Records that were in the log at the start and not yet folded, about; none where nobody knows (a file: until its end).
    pub backlog: Option<u64>,
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
    /// Which stored timers are in memory.
    timers: Timers,
    /// Where bringing keys into memory goes on.
    keys_loaded: Vec<u8>,
    idle_advanced_ms: i64,
    reported_ahead: Option<i64>,
    last_record: Origin,
    /// What rows of the deployment in force replace, while it can be withdrawn.
    images: Option<(u64, SharedImages)>,
    /// Deployments of which that need not be known any more.
    stale_images: Vec<u64>,
    /// When the former logic had folded its last record, until the new one folds its first.
    swapped: Option<Instant>,
    /// Whether the stop came before the sink acknowledged.
    abandoned: bool,
}

/// Which stored timers are in memory, with their keys.
#[derive(Clone, Copy)]
enum Timers {
    /// Those before this one; none: not even the first.
    Before(Option<EventTime>),
    All,
}

enum Step {
    GoOn,
    Finished,
}

impl Lane {
    /// From now on the plugin is called, and logs, in the name of this lane.
    fn call_in_its_name(&mut self) {
        let Lane { logic, board, .. } = self;
        logic.plugin = Arc::new(logic.plugin.of_lane(&self.name, self.log_rate));
        board.deploy(logic.plugin.deployed(logic.n), logic.plugin.called());
        self.core.switch(Arc::clone(&logic.plugin), logic.time);
    }

    fn is_called_off(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.back.load(Ordering::Relaxed)
    }

    /// Runs until the source ends or `stop` is raised; then a final checkpoint.
    pub fn run(self) -> Result<Summary, Failure> {
        let (name, board) = (self.name.clone(), Arc::clone(&self.board));
        let mut running = Running::new(self);
        running.lane.call_in_its_name();
        running.note_images();
        running.work()?;
        board.end_batch(Activity::Off);
        let Running { lane, summary, mut progress, .. } = running;
        progress.finish();
        let audits = lane.audit.audits();
        lane.journal.close()?;
        lane.store.close()?;
        let Summary { counts, batches, largest_batch, checkpoints, floors, swaps, longest_gap_us } = summary;
        tracing::info!(
            event = "lane-stopped",
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
            progress: Progress::new(lane.backlog.unwrap_or(0)),
            timers: if lane.core.complete { Timers::All } else { Timers::Before(None) },
            keys_loaded: Vec::new(),
            records: Records::default(),
            summary: Summary::default(),
            asked: true,
            dirty: false,
            idle_advanced_ms: 0,
            reported_ahead: None,
            last_record: lane.merge.last().map_or(
                Origin { partition: Partition(0), offset: Offset(0), event: None },
                |last| Origin { partition: last.partition, offset: last.offset, event: None },
            ),
            images: None,
            stale_images: Vec::new(),
            swapped: None,
            abandoned: false,
            lane,
        }
    }

    fn work(&mut self) -> Result<(), Failure> {
        loop {
            if self.abandoned {
                tracing::warn!(
                    event = "lane-abandoned",
                    lane = self.lane.name,
                    "stopped before the sink acknowledged everything; the next start resumes from the last checkpoint"
                );
                return Ok(());
            }
            if self.is_called_back() {
                return Ok(()); // what it folded since the checkpoint may never have been
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
        self.lane.board.enter(Activity::Store);
        if self.records.is_empty() {
            let back = self.lane.deployments.look()?;
            if self.goes_back(back) {
                return Ok(Step::GoOn);
            }
            if self.lane.merge.finished() {
                return Ok(Step::Finished);
            }
            self.wait_for_partitions();
            self.advance_idle()?;
        } else {
            self.fold(released)?;
        }
        if self.is_called_back() {
            return Ok(Step::GoOn);
        }
        self.load_more_keys()?;
        self.migrate_more_keys(MIGRATE_KEYS)?;
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
        self.lane.board.end_batch(Activity::Gather);
        let (most, most_bytes) = (self.lane.batch_records, BATCH_BYTES);
        self.lane.source.hold(&self.lane.merge.overfull(most * QUEUED_BATCHES, most_bytes * QUEUED_BATCHES));
        self.records.clear();
        let mut all = Released::default();
        loop {
            let released = self.lane.merge.release(most, most_bytes, &mut self.records);
            all.records += released.records;
            all.asked |= released.asked;
            let full = self.records.len() >= most || self.records.bytes() >= most_bytes;
            if full || self.lane.merge.finished() || self.lane.is_called_off() {
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
        let Some(backlog) = self.lane.backlog else { return FILE_WAIT };
        let known = self.summary.counts.records + gathered;
        if known < backlog { BACKLOG_WAIT } else { FILL_WAIT }
    }

    fn arrive(&mut self, arrival: Arrival) -> Result<(), Failure> {
        match arrival {
            Arrival::Empty { partition, asked_ms } => self.lane.merge.empty(partition, asked_ms),
            Arrival::End { partition } => self.lane.merge.end(partition),
            Arrival::Records { partition, records } => {
                let floors = self.lane.merge.push(partition, records);
                if let Some(first) = floors.first() {
                    self.lane.board.enter(Activity::Store);
                    self.lane.journal.write_floors(&floors)?; // I4
                    self.lane.board.enter(Activity::Gather);
                    self.lane.board.floors.add(floors.len() as u64);
                    self.summary.floors += floors.len() as u64;
                    tracing::warn!(
                        event = "floor-recorded",
                        lane = self.lane.name,
                        partition = partition.0,
                        offset = first.offset.0,
                        append_time = first.append_time.ms(),
                        records = floors.len(),
                        why = "they became visible after later ones were folded; they are sorted behind those, now and in every replay",
                        "records became visible behind the frontier; floor recorded"
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
                event = "record-ahead-of-clock",
                lane = self.lane.name,
                ahead_ms,
                "record timestamp is ahead of this host's clock; the lane waits until the clock passes it: check the clocks of producer and broker"
            );
        }
    }

    // ---- fold

    fn fold(&mut self, released: Released) -> Result<(), Failure> {
        self.asked |= released.asked;
        let mut records = std::mem::take(&mut self.records);
        let last = *records.append_times.last().expect("a batch has records");
        self.summary.batches += 1;
        self.lane.board.batches.add(1);
        self.summary.largest_batch = self.summary.largest_batch.max(records.len() as u64);
        self.lane.deployments.reserve(last)?; // I9
        while let Some(t) = self.lane.deployments.due(last) {
            let split = records.append_times.partition_point(|&time| time < t);
            let mut rest = Records::default();
            rest.append(&records, split..records.len());
            let mut before = Records::default();
            before.append(&records, 0..split);
            self.fold_records(&before)?;
            if self.is_called_back() || !self.swap(t)? {
                return Ok(());
            }
            records = rest;
        }
        let back = self.lane.deployments.may_fold(last)?;
        if self.goes_back(back) {
            return Ok(());
        }
        self.fold_records(&records)?;
        let done = self.summary.counts.records;
        let elapsed = u64::try_from(clock::since(self.started).as_millis()).unwrap_or(u64::MAX);
        if let Some(backlog) = self.lane.backlog {
            self.progress.update(done, backlog.saturating_sub(done), elapsed);
        }
        self.records = records;
        Ok(())
    }

    /// Folds records that one logic folds.
    fn fold_records(&mut self, records: &Records) -> Result<(), Failure> {
        let Some(last) = records.len().checked_sub(1) else { return Ok(()) };
        self.end_gap();
        self.lane.board.enter(Activity::Map);
        let plugin = Arc::clone(&self.lane.logic.plugin);
        let prepared = match self.lane.core.prepare(records, &plugin) {
            Ok(prepared) => prepared,
            Err(fault) => return self.failed(fault),
        };
        self.last_record = Origin {
            partition: Partition(records.partitions[last]),
            offset: Offset(records.offsets[last]),
            event: None,
        };
        self.complete_fold(prepared)
    }

    /// Enters the deployment that holds from `t` on: all before it was folded. What an idle lane's time reaches up to `t` is the former
    /// logic's, wherever the lane looked at its clock in between, so that every replay fires the same timers with the same logic. False if the
    /// lane was called back meanwhile, and did not enter it.
    fn swap(&mut self, t: i64) -> Result<bool, Failure> {
        let ended = clock::instant();
        self.advance_to(t)?;
        if self.is_called_back() {
            return Ok(false);
        }
        let logic = self.lane.deployments.enter()?;
        if logic.plugin.description.state_version != self.lane.logic.plugin.description.state_version {
            self.migrate_all_keys()?;
            if self.is_called_back() {
                return Ok(false);
            }
        }
        self.lane.logic = logic;
        self.lane.call_in_its_name();
        self.lane.core.strikes = self.lane.strikes.remove(&self.lane.logic.n).unwrap_or_default();
        self.note_images();
        self.dirty = true;
        self.summary.swaps += 1;
        self.lane.board.swaps.add(1);
        self.swapped.get_or_insert(ended);
        let Logic { n, plugin, .. } = &self.lane.logic;
        let description = &plugin.description;
        tracing::info!(
            event = "deployment-entered",
            lane = self.lane.name,
            deployment = n,
            plugin = description.name,
            version = description.version,
            digest = plugin.digest.0,
            t,
            "deployment in force"
        );
        Ok(true)
    }

    /// Has it noted what rows of the deployment in force replace, if it can be withdrawn.
    fn note_images(&mut self) {
        self.forget_images();
        self.images = self.lane.deployments.on_probation().map(|n| {
            let known = self.lane.noted.remove(&n).unwrap_or_default();
            (n, Arc::new(Mutex::new(self.lane.journal.images(n, &known))))
        });
    }

    fn forget_images(&mut self) {
        let Some((n, images)) = self.images.take() else { return };
        self.stale_images.push(n);
        self.lane.core.drop_aside(images);
    }

    /// The new logic is about to fold its first record.
    fn end_gap(&mut self) {
        let Some(ended) = self.swapped.take() else { return };
        let gap_us = u64::try_from(clock::since(ended).as_micros()).unwrap_or(u64::MAX);
        self.summary.longest_gap_us = self.summary.longest_gap_us.max(gap_us);
        self.lane.board.longest_gap_us.set(self.summary.longest_gap_us);
        tracing::info!(
            event = "swap-finished",
            lane = self.lane.name,
            deployment = self.lane.logic.n,
            gap_us,
            "swap finished"
        );
    }

    fn complete_fold(&mut self, prepared: Prepared<'_>) -> Result<(), Failure> {
        self.lane.board.enter(Activity::Store);
        self.load_missing(&prepared)?;
        self.lane.board.enter(Activity::Fold);
        let audit = self.lane.audit.begin(&mut self.lane.core, &prepared);
        self.lane.board.audits.add(u64::from(audit.is_some()));
        let output = match self.lane.core.fold(prepared) {
            Ok(output) => output,
            Err(fault) => return self.failed(fault),
        };
        if let Some(audit) = audit
            && let Err(fault) = audit.finish(&self.lane.core, &output)
        {
            return self.failed(fault);
        }
        self.dirty = true;
        self.lane.board.enter(Activity::Store);
        self.judge_strikes(&output.strikes)?;
        if self.is_called_back() {
            return Ok(());
        }
        self.send(output)
    }

    /// What leaves: the frontier is durable first, if the order was a bet.
    fn send(&mut self, output: Output) -> Result<(), Failure> {
        self.summary.counts.add(&output.counts);
        let (board, stages) = (&self.lane.board, output.letters.iter().map(|letter| letter.stage));
        board.add_batch(&output.counts, self.lane.logic.time.late, stages);
        board.set_time(self.lane.core.time);
        if output.rows.is_empty() && output.letters.is_empty() {
            return Ok(());
        }
        self.keep_frontier()?;
        self.lane.board.enter(Activity::Write);
        let patience = Patience::new(&self.lane);
        let images = self.images.as_ref().map(|(_, images)| images);
        let leaving = (output.rows, output.letters);
        let digest = &self.lane.logic.plugin.digest.0;
        self.abandoned |= !self.lane.writer.write(leaving, digest, images, || patience.lasts())?;
        self.lane.board.enter(Activity::Store);
        Ok(())
    }

    fn keep_frontier(&mut self) -> Result<(), Failure> {
        if let Some(frontier) = self.lane.merge.frontier().filter(|_| self.asked) {
            self.lane.journal.write_frontier(&frontier)?; // I4
            self.asked = false;
        }
        Ok(())
    }

    fn judge_strikes(&mut self, strikes: &[Strike]) -> Result<(), Failure> {
        let Some(first) = strikes.first() else { return Ok(()) };
        strikes.iter().for_each(|strike| self.lane.board.strikes.add(strike.item.stage(), 1));
        let logic = self.lane.logic.clone();
        let plugin = &logic.plugin.description;
        if self.lane.on_strike == OnStrike::Halt {
            let message = format!(
                "plugin {} {} struck on {first}: {}; it was not folded. Mend the plugin, or set plugin.on_strike = \"dead-letter\"",
                plugin.name, plugin.version, first.reason
            );
            return Err(Failure::new(Exit::Plugin, message));
        }
        let withdraws = self.lane.on_strike == OnStrike::Withdraw;
        if withdraws && self.withdraw(&format!("it struck on {first}: {}", first.reason))? {
            return Ok(());
        }
        self.lane.journal.write_strikes(strikes, logic.n)?;
        tracing::warn!(
            event = "strike", lane = self.lane.name,
            plugin = plugin.name,
            version = plugin.version,
            strikes = strikes.len(),
            item = %first,
            key = first.key,
            reason = first.reason,
            "plugin failed on a single item in a fresh instance; dead-lettering it"
        );
        let known = strikes.iter().map(|strike| (strike.item.clone(), strike.reason.clone()));
        self.lane.core.strikes.extend(known);
        Ok(())
    }

    /// What no strike can tell apart halts the lane, unless the deployment can be withdrawn.
    fn failed(&mut self, fault: Fault) -> Result<(), Failure> {
        let reason = fault.text();
        if self.lane.on_strike == OnStrike::Withdraw && self.withdraw(&reason)? {
            return Ok(());
        }
        let plugin = &self.lane.logic.plugin.description;
        let message = format!("lane {} halts on plugin {} {}: {reason}", self.lane.name, plugin.name, plugin.version);
        Err(Failure::new(Exit::Plugin, message))
    }

    // ---- going back

    fn is_called_back(&self) -> bool {
        self.lane.back.load(Ordering::Relaxed)
    }

    /// Withdraws the deployment in force, if that can be.
    fn withdraw(&mut self, reason: &str) -> Result<bool, Failure> {
        if !self.lane.deployments.withdraw(reason)? {
            return Ok(false);
        }
        tracing::warn!(
            event = "deployment-withdrawn",
            lane = self.lane.name,
            deployment = self.lane.logic.n,
            reason,
            "deployment withdrawn"
        );
        let back = Some(Back::Withdrawn(self.lane.logic.n));
        Ok(self.goes_back(back))
    }

    /// Whether the lane must go back: then all lanes do.
    fn goes_back(&self, back: Option<Back>) -> bool {
        match back {
            Some(Back::Withdrawn(deployment)) => {
                tracing::warn!(
                    event = "rewind-withdrawn",
                    lane = self.lane.name,
                    deployment,
                    "deployment was withdrawn; rewinding to the checkpoint before it"
                );
            }
            Some(Back::Anew(deployment)) => {
                tracing::warn!(
                    event = "rewind-reprocess",
                    lane = self.lane.name,
                    deployment,
                    "reprocessing ordered; rewinding to the beginning of the log"
                );
            }
            None => return false,
        }
        self.lane.back.store(true, Ordering::Relaxed);
        true
    }

    // ---- state that is not in memory

    fn load_missing(&mut self, prepared: &Prepared<'_>) -> Result<(), Failure> {
        if self.lane.core.complete {
            return Ok(());
        }
        for (shard, slots) in self.lane.core.shards.iter_mut().zip(&prepared.missing) {
            for slots in slots.chunks(READ_KEYS) {
                self.lane.board.enter(Activity::Store);
                self.lane.store.fill(shard, slots)?;
            }
        }
        if let (Some(watermark), Timers::Before(next)) = (prepared.watermark, self.timers)
            && Some(watermark) >= next
        {
            let next = self.lane.store.load_timers(&mut self.lane.core.shards, next, watermark)?;
            self.timers = next.map_or(Timers::All, |next| Timers::Before(Some(next)));
        }
        Ok(())
    }

    /// After a restart keys are read when they are met; between batches the others follow, until all are in memory and no new key costs a
    /// look into the store.
    fn load_more_keys(&mut self) -> Result<(), Failure> {
        if self.lane.core.complete {
            return Ok(());
        }
        self.lane.board.enter(Activity::Store);
        match self.lane.store.load_keys(&mut self.lane.core.shards, &self.keys_loaded, LOAD_KEYS)? {
            Some(last) => self.keys_loaded = last,
            None => {
                self.lane.core.complete = true;
                self.timers = Timers::All;
            }
        }
        self.count_state();
        Ok(())
    }

    /// After a deployment of a plugin with another state version: the keys that no record and no timer touches.
    fn migrate_more_keys(&mut self, count: usize) -> Result<(), Failure> {
        if !self.lane.core.complete || !self.lane.core.is_migrating() {
            return Ok(());
        }
        self.lane.board.enter(Activity::Fold);
        let output = match self.lane.core.migrate(count, self.last_record) {
            Ok(output) => output,
            Err(fault) => return self.failed(fault),
        };
        self.dirty = true;
        self.lane.board.enter(Activity::Store);
        self.judge_strikes(&output.strikes)?;
        if self.is_called_back() {
            return Ok(());
        }
        self.send(output)
    }

    /// No state of a version before the present one is left: each deployment's plugin migrates all state that it finds, so that no row
    /// depends on which keys were touched between two deployments.
    fn migrate_all_keys(&mut self) -> Result<(), Failure> {
        while self.lane.core.is_migrating() && !self.is_called_back() {
            self.load_more_keys()?;
            self.migrate_more_keys(usize::MAX)?;
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
        then.idle(&self.lane.logic.time, AppendTime::at(instant));
        if then.watermark <= self.lane.core.time.watermark || instant < self.idle_advanced_ms + IDLE_ADVANCE_EVERY_MS {
            return Ok(());
        }
        self.idle_advanced_ms = instant;
        self.lane.merge.raise(AppendTime::at(instant));
        self.asked = true;
        self.keep_frontier()?;
        self.lane.deployments.reserve(instant)?; // I9
        while let Some(t) = self.lane.deployments.due(instant) {
            if !self.swap(t)? {
                return Ok(());
            }
        }
        let back = self.lane.deployments.may_fold(instant)?;
        if self.goes_back(back) {
            return Ok(());
        }
        self.advance_to(instant)
    }

    /// The lane's time becomes what a record appended at `instant` would make of it first.
    fn advance_to(&mut self, instant: i64) -> Result<(), Failure> {
        if self.lane.logic.time.idle_timeout_ms.is_none() {
            return Ok(());
        }
        let (none, plugin) = (Records::default(), Arc::clone(&self.lane.logic.plugin));
        let prepared = self.lane.core.prepare_idle(AppendTime::at(instant), &none, &plugin, self.last_record);
        self.complete_fold(prepared)
    }

    // ---- checkpoint and end

    /// All rows and dead letters acknowledged, then state, then offsets. A sink that does not acknowledge is waited for until a stop and
    /// [`DRAIN`] more; then the lane is abandoned: nothing is lost, the next start goes on from the checkpoint before.
    fn checkpoint(&mut self) -> Result<(), Failure> {
        self.next_checkpoint = clock::instant() + self.lane.checkpoint_interval;
        let board = Arc::clone(&self.lane.board);
        if !self.dirty || self.abandoned {
            if !self.abandoned {
                board.covered.set(Some(clock::now_ms()));
            }
            return Ok(());
        }
        let (began, covered_ms) = (clock::uptime_us(), clock::now_ms());
        board.enter(Activity::Write);
        let patience = Patience::new(&self.lane);
        let Some(lengths) = self.lane.writer.sync(|| patience.lasts())? else {
            self.abandoned = true;
            return Ok(());
        };
        board.enter(Activity::Checkpoint);
        let checkpoint = self.describe(lengths);
        let probation = self.lane.deployments.on_probation();
        let bytes = self.lane.store.write_checkpoint(&checkpoint, &mut self.lane.core.shards, probation)?; // I2, I3, I10
        if probation.is_none() {
            self.forget_images();
        }
        self.stale_images.drain(..).try_for_each(|n| self.lane.journal.forget_images(n))?;
        self.lane
            .source
            .commit(&checkpoint.partitions.iter().map(|(p, at)| (*p, at.last.offset.next())).collect::<Vec<_>>());
        self.dirty = false;
        self.summary.checkpoints += 1;
        board.checkpoints.add(1);
        board.checkpoint_us.set(clock::uptime_us().saturating_sub(began));
        board.checkpoint_bytes.set(bytes);
        board.covered.set(Some(covered_ms));
        self.count_state();
        Ok(())
    }

    /// Puts up how much state there is in memory.
    fn count_state(&self) {
        let shards = &self.lane.core.shards;
        self.lane.board.keys.set(shards.iter().map(|shard| shard.keys() as u64).sum());
        self.lane.board.state_bytes.set(shards.iter().map(Shard::bytes).sum());
    }

    fn describe(&self, lengths: Lengths) -> Checkpoint {
        let progress = self.lane.merge.resume().into_iter().filter_map(|(partition, resume)| {
            Some((partition, PartitionProgress { envelope: resume.envelope?, last: resume.last? }))
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

/// Patience without end until a stop, and then for [`DRAIN`]; none when the lane goes back.
struct Patience<'a> {
    stop: &'a AtomicBool,
    back: &'a AtomicBool,
    stopped: Cell<Option<Instant>>,
}

impl Patience<'_> {
    fn new(lane: &Lane) -> Patience<'_> {
        Patience { stop: &lane.stop, back: &lane.back, stopped: Cell::new(None) }
    }

    fn lasts(&self) -> bool {
        if self.back.load(Ordering::Relaxed) {
            return false;
        }
        if !self.stop.load(Ordering::Relaxed) {
            return true;
        }
        let stopped = self.stopped.get().unwrap_or_else(clock::instant);
        self.stopped.set(Some(stopped));
        clock::since(stopped) < DRAIN
    }
}
