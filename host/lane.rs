//! A lane: one thread that gathers records, folds them and makes the results durable. This file owns the order of effects, and nothing else:
//!
//! 1. floors, before the record that they move is folded (I4),
//! 2. reservations, before a record is folded (I9),
//! 3. strikes, then the frontier, before the rows and dead letters that rest on them (I4),
//! 4. rows and dead letters acknowledged, before the checkpoint that covers them (I2, I3),
//! 5. the checkpoint, before the offsets that tell others of it.
//!
//! What happens between these effects is decided elsewhere: [`gather`] fills batches, [`core`] maps and folds them, [`residency`] knows which
//! keys are in memory, [`memory`] how many may be, [`succession`] which logic folds, [`probation`] what its rows replace, and [`checkpoint`] when one is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use self::audit::Auditor;
use self::batch::Prepared;
use self::checkpoint::{Checkpoints, Patience};
use self::context::Context;
use self::core::{Core, Output};
use self::gather::Gather;
use self::interrupt::{Interrupt, Signals};
use self::losses::Losses;
use self::memory::{MIGRATE_KEYS, Memory, Search, Share};
use self::probation::Probation;
use self::residency::Loading;
use self::succession::Succession;
use crate::clock::Clock;
use crate::config::OnStrike;
use crate::counts::Counts;
use crate::deployment::Rewind;
use crate::deployment::follow::{Follower, Logic};
use crate::event_time::AppendTime;
use crate::failure::{Exit, Failure};
use crate::machine::{Planted, plants};
use crate::observe::board::{Activity, LaneBoard};
use crate::plugin::Fault;
use crate::position::Position;
use crate::record::Records;
use crate::row::Image;
use crate::sink::writer::LaneWriter;
use crate::source::Source;
use crate::source::merge::Merge;
use crate::state::journal::Journal;
use crate::state::store::Store;
use crate::strike::{Strike, StrikeItem};

pub mod audit;
mod batch;
mod checkpoint;
mod context;
pub mod core;
mod gather;
mod idle;
pub mod interrupt;
pub mod law;
mod letters;
mod losses;
mod map;
pub mod memory;
mod migration;
mod place;
mod probation;
pub(crate) mod quota;
pub mod residency;
mod shard;
mod succession;
pub mod time;
mod timestamps;
pub mod trial;

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
    /// The logic in force.
    pub logic: Logic,
    /// Strikes that the journal knows, of deployments that the lane has not reached.
    pub strikes: BTreeMap<u64, BTreeMap<StrikeItem, String>>,
    /// Where it learns which logic comes next.
    pub deployments: Follower,
    /// Its keyed state.
    pub store: Store,
    /// Its journal.
    pub journal: Journal,
    /// Sink and dead letters.
    pub writer: LaneWriter,
    /// Images noted in earlier lives of this lane, of rows that deployments on probation replaced.
    pub noted: BTreeMap<u64, Vec<Image>>,
    /// `plugin.on_strike`
    pub on_strike: OnStrike,
    /// `plugin.audit`
    pub audit: Auditor,
    /// `run.batch_records`
    pub batch_records: usize,
    /// `state.checkpoint_interval`
    pub checkpoint_interval: Duration,
    /// `state.lane_bytes`
    pub lane_bytes: Option<u64>,
    /// `state.memory`, with the other lanes of the host.
    pub memory: Arc<Memory>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// What lanes and host tell each other.
    pub signals: Signals,
    /// What observers may know of it.
    pub board: Arc<LaneBoard>,
    /// `plugin.log_rate`
    pub log_rate: u64,
    /// Records in the log at the start that were not folded yet, roughly; none if unknown (a file: until its end).
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
    /// The longest time in which nothing was folded because of a swap, microseconds.
    pub longest_gap_us: u64,
}

/// A lane at work.
struct Running {
    context: Context,
    gather: Gather,
    core: Core,
    succession: Succession,
    probation: Probation,
    checkpoints: Checkpoints,
    audit: Auditor,
    on_strike: OnStrike,
    store: Store,
    /// Until all keys are in memory, or no more than there may be.
    loading: Option<Loading>,
    /// For state of an earlier version, in the store.
    search: Option<Search>,
    share: Share,
    journal: Journal,
    writer: LaneWriter,
    /// The last record of the last batch, to name when the lane halts.
    last_record: Option<Position>,
    counts: Counts,
    losses: Losses,
    batches: u64,
    largest_batch: u64,
}

impl Lane {
    /// Runs until the source ends, a stop is requested or the lanes rewind.
    pub fn run(self) -> Result<Summary, Failure> {
        let mut running = Running::new(self);
        match running.work() {
            Ok(()) | Err(Interrupt::Rewind) => {} // after a rewind, what was folded since the checkpoint may never have been
            Err(Interrupt::Abandoned) => {
                running.writer.abandon();
                tracing::warn!(
                    event = "lane-abandoned",
                    lane = running.context.name,
                    "stopped before the sink acknowledged everything; the next start resumes from the last checkpoint"
                );
            }
            Err(Interrupt::Failed(failure)) => return Err(failure),
        }
        running.close()
    }
}

impl Running {
    fn new(lane: Lane) -> Running {
        let Lane { name, clock, signals, board, core, journal, mut store, .. } = lane;
        let context = Context { name, clock, signals, board };
        journal.count(&context.board.journal);
        let mut running = Running {
            gather: Gather::new(lane.source, lane.merge, lane.batch_records, lane.backlog, &context),
            last_record: core.last(),
            succession: Succession::new(lane.logic, lane.strikes, lane.deployments, lane.log_rate),
            probation: Probation::new(lane.noted),
            checkpoints: Checkpoints::new(lane.checkpoint_interval, lane.lane_bytes, &context),
            audit: lane.audit,
            on_strike: lane.on_strike,
            loading: Loading::begin(&core, &mut store),
            search: None,
            share: Share::of(lane.memory),
            store,
            journal,
            writer: lane.writer,
            counts: Counts::default(),
            losses: Losses::default(),
            batches: 0,
            largest_batch: 0,
            core,
            context,
        };
        running.succession.attribute_plugin(&running.context, &mut running.core);
        running.probation.begin(running.succession.on_probation(), &running.journal, &running.core);
        running
    }

    /// Works until the source has ended or a stop is requested, and then writes a last checkpoint.
    fn work(&mut self) -> Result<(), Interrupt> {
        loop {
            self.context.signals.check()?;
            if self.context.signals.stop_requested() {
                return self.last_checkpoint();
            }
            if !self.step()? {
                self.keep_frontier()?; // what was released last relied on nothing more being there
                return self.last_checkpoint();
            }
        }
    }

    /// Gathers and folds a batch, or waits for one; false when the source has ended.
    fn step(&mut self) -> Result<bool, Interrupt> {
        let (journal, due_at) = (&self.journal, self.due_at());
        let most = if self.loading.is_some() { residency::BATCH_RECORDS } else { usize::MAX };
        self.gather.fill(&self.context, (due_at, most), |floors| Ok(journal.write_floors(floors)?))?; // I4
        self.context.board.enter(Activity::Store);
        let records = self.gather.take();
        // Before the fold, so that partitions are asked meanwhile: what they say is there when the batch has left.
        self.gather.ask_partitions(&self.context, self.succession.time(), records.is_empty());
        if records.is_empty() {
            self.gather.give_back(records);
            let back = self.succession.look()?;
            self.rewind_for(back)?;
            if self.gather.finished() {
                return Ok(false);
            }
            self.advance_idle()?;
        } else {
            self.fold(records)?;
        }
        self.context.signals.check()?;
        self.load_more_keys(false)?;
        self.migrate_more_keys(MIGRATE_KEYS, false)?;
        self.keep_within_memory();
        self.losses.tell(&self.context);
        self.attend_checkpoints()?;
        Ok(true)
    }

    /// When there is something to do besides records, on the clock's monotonic time.
    fn due_at(&self) -> Duration {
        match self.loading {
            Some(_) => self.context.clock.monotonic(),
            None => self.checkpoints.due_at(&self.context),
        }
    }

    // ---- fold

    /// Folds a batch, cut where deployments take effect.
    fn fold(&mut self, mut records: Records) -> Result<(), Interrupt> {
        let last = *records.append_times.last().expect("a batch has records");
        self.batches += 1;
        self.context.board.batches.add(1);
        self.largest_batch = self.largest_batch.max(records.len() as u64);
        self.succession.reserve(last)?; // I9
        while let Some(t) = self.succession.due(last) {
            let split = records.append_times.partition_point(|&time| time < t);
            let (mut before, mut rest) = (Records::default(), Records::default());
            rest.append(&records, split..records.len());
            before.append(&records, 0..split);
            self.fold_records(&before)?;
            self.context.signals.check()?;
            self.swap(t)?;
            records = rest;
        }
        let back = self.succession.may_fold(last)?;
        self.rewind_for(back)?;
        self.fold_records(&records)?;
        self.gather.report_progress(&self.context);
        self.gather.give_back(records);
        Ok(())
    }

    /// Folds records of one logic.
    fn fold_records(&mut self, records: &Records) -> Result<(), Interrupt> {
        let Some(last) = records.len().checked_sub(1) else { return Ok(()) };
        self.succession.assert_reserved(records.append_times[last]); // I9
        self.succession.end_gap(&self.context);
        self.context.board.enter(Activity::Map);
        self.last_record = Some(Position::of(records, last));
        let prepared = match self.core.prepare(records) {
            Ok(prepared) => prepared,
            Err(fault) => return Err(self.failed(fault)),
        };
        self.complete_fold(prepared)
    }

    fn complete_fold(&mut self, prepared: Prepared<'_>) -> Result<(), Interrupt> {
        let board = Arc::clone(&self.context.board);
        board.enter(Activity::Store);
        residency::load_missing(&mut self.core, &prepared, &self.store, &board)?;
        board.enter(Activity::Fold);
        let audit = self.audit.begin(&mut self.core, &prepared);
        board.audits.add(u64::from(audit.is_some()));
        let output = match self.core.fold(prepared) {
            Ok(output) => output,
            Err(fault) => return Err(self.failed(fault)),
        };
        if let Some(audit) = audit
            && let Err(fault) = audit.finish(&self.core, &output)
        {
            return Err(self.failed(fault));
        }
        self.release(output)
    }

    /// Makes durable what an output rests on, and hands it to the writer.
    fn release(&mut self, output: Output) -> Result<(), Interrupt> {
        self.checkpoints.touch();
        self.context.board.enter(Activity::Store);
        self.journal_strikes(&output.strikes)?;
        self.context.signals.check()?;
        self.send(output)
    }

    fn send(&mut self, output: Output) -> Result<(), Interrupt> {
        self.counts.add(&output.counts);
        self.losses.take(&self.context, &output, self.succession.time().late);
        let (board, stages) = (&self.context.board, output.letters.iter().map(|letter| letter.stage));
        board.add_batch(&output.counts, self.succession.time().late, stages);
        board.jumps.add(output.jumps);
        board.set_time(self.core.time);
        if output.rows.is_empty() && output.letters.is_empty() {
            return Ok(());
        }
        self.keep_frontier()?;
        self.prove_ownership()?;
        self.context.board.enter(Activity::Write);
        let patience = Patience::new(&self.context);
        let leaving = (output.rows, output.letters);
        let by = (&*self.succession.plugin().digest.0, self.succession.n());
        if !self.writer.write(leaving, by, self.probation.images(), || patience.lasts())? {
            return Err(patience.ended());
        }
        self.context.board.enter(Activity::Store);
        Ok(())
    }

    /// Makes the frontier durable, if something rests on an asked partition's word (I4).
    fn keep_frontier(&mut self) -> Result<(), Interrupt> {
        if plants(Planted::FrontierNotKept) {
            return Ok(());
        }
        let journal = &self.journal;
        Ok(self.gather.keep_frontier(|frontier| journal.write_frontier(frontier))?)
    }

    /// Proves that no other host had taken over when the last record was gathered: it could have decided another order since, in which some of
    /// these rows do not exist (I8).
    fn prove_ownership(&mut self) -> Result<(), Interrupt> {
        if plants(Planted::RowsLeaveUnproved) {
            return Ok(());
        }
        let (journal, time) = (&self.journal, self.succession.time());
        Ok(self.gather.prove_ownership(time, || journal.confirm())?)
    }

    /// Makes new strikes durable, unless they stop the lane or withdraw the deployment.
    fn journal_strikes(&mut self, strikes: &[Strike]) -> Result<(), Interrupt> {
        let Some(first) = strikes.first() else { return Ok(()) };
        strikes.iter().for_each(|strike| self.context.board.strikes.add(strike.item.stage(), 1));
        let plugin = Arc::clone(self.succession.plugin());
        let (name, version) = (&plugin.description.name, &plugin.description.version);
        if self.on_strike == OnStrike::Halt {
            let message = format!(
                "plugin {name} {version} struck on {first}: {}; it was not folded. Fix the plugin, or set plugin.on_strike = \
                 \"dead-letter\"",
                first.reason
            );
            return Err(Interrupt::Failed(Failure::new(Exit::Plugin, message)));
        }
        if self.on_strike == OnStrike::Withdraw {
            self.withdraw(&format!("it struck on {first}: {}", first.reason))?;
        }
        if !plants(Planted::StrikeNotJournalled) {
            self.journal.write_strikes(strikes, self.succession.n())?;
        }
        tracing::warn!(
            event = "strike",
            lane = self.context.name,
            plugin = name,
            version,
            strikes = strikes.len(),
            item = %first,
            key = first.key,
            reason = first.reason,
            "plugin failed on a single item in a fresh instance; dead-lettering it"
        );
        self.core.strikes.extend(strikes.iter().map(|strike| (strike.item.clone(), strike.reason.clone())));
        Ok(())
    }

    /// Returns how the lane stops on a fault that no strike can isolate: it halts, unless the deployment can be withdrawn.
    fn failed(&mut self, fault: Fault) -> Interrupt {
        let reason = fault.text();
        if self.on_strike == OnStrike::Withdraw
            && let Err(interrupt) = self.withdraw(&reason)
        {
            return interrupt;
        }
        let plugin = &self.succession.plugin().description;
        let lane = &self.context.name;
        let end =
            |Position { partition, offset, .. }| format!("; its batch ends at partition {partition}, offset {offset}");
        let end = self.last_record.map_or_else(String::new, end);
        let message = format!("lane {lane} halts on plugin {} {}: {reason}{end}", plugin.name, plugin.version);
        Interrupt::Failed(Failure::new(Exit::Plugin, message))
    }

    // ---- rewind

    /// Withdraws the deployment in force, if it can be withdrawn, and then rewinds.
    fn withdraw(&mut self, reason: &str) -> Result<(), Interrupt> {
        if !self.succession.withdraw(reason)? {
            return Ok(());
        }
        let deployment = self.succession.n();
        tracing::warn!(
            event = "deployment-withdrawn",
            lane = self.context.name,
            deployment,
            reason,
            "deployment withdrawn"
        );
        self.rewind_for(Some(Rewind::Withdrawn(deployment)))
    }

    /// Rewinds all lanes, if there is a reason to.
    fn rewind_for(&self, reason: Option<Rewind>) -> Result<(), Interrupt> {
        let lane = &self.context.name;
        match reason {
            Some(Rewind::Withdrawn(deployment)) => tracing::warn!(
                event = "rewind-withdrawn",
                lane,
                deployment,
                "deployment was withdrawn; rewinding to the checkpoint before it"
            ),
            Some(Rewind::Reprocess(deployment)) => tracing::warn!(
                event = "rewind-reprocess",
                lane,
                deployment,
                "reprocessing ordered; rewinding to the beginning of the log"
            ),
            None => return Ok(()),
        }
        Err(self.context.signals.request_rewind())
    }

    // ---- swap

    /// Enters the deployment that holds from `t` on: everything before it was folded. An idle lane's time first advances to `t` under the
    /// previous logic, wherever the lane looked at its clock in between, so that every replay fires the same timers with the same logic.
    fn swap(&mut self, t: i64) -> Result<(), Interrupt> {
        let ended = self.context.clock.monotonic();
        self.advance_to(t)?;
        self.context.signals.check()?;
        let logic = self.succession.next()?;
        self.seal()?; // before it folds anything
        let version = self.succession.plugin().description.state_version;
        if logic.plugin.description.state_version != version {
            self.migrate_all_keys()?;
        }
        self.succession.enter(logic, t, ended, &self.context, &mut self.core);
        self.probation.begin(self.succession.on_probation(), &self.journal, &self.core);
        self.checkpoints.touch();
        Ok(())
    }

    /// Makes durable what this lane was told of the deployments, if there is news.
    fn seal(&mut self) -> Result<(), Interrupt> {
        match self.succession.seals()? {
            Some(seals) => Ok(self.journal.write_seals(seals)?),
            None => Ok(()),
        }
    }

    /// Advances an idle lane's time to what the clock says, once every partition was found empty.
    fn advance_idle(&mut self) -> Result<(), Interrupt> {
        let Some(instant) = self.gather.advance_idle(self.succession.time(), self.core.time) else { return Ok(()) };
        self.keep_frontier()?;
        self.succession.reserve(instant)?; // I9
        while let Some(t) = self.succession.due(instant) {
            self.swap(t)?;
        }
        let back = self.succession.may_fold(instant)?;
        self.rewind_for(back)?;
        self.advance_to(instant)
    }

    /// Advances the lane's time as a record appended at `instant` would advance it first.
    fn advance_to(&mut self, instant: i64) -> Result<(), Interrupt> {
        if self.succession.time().idle_timeout_ms.is_none() {
            return Ok(());
        }
        self.succession.assert_reserved(instant); // I9
        let none = Records::default();
        let prepared = self.core.prepare_idle(AppendTime::at(instant), &none);
        self.complete_fold(prepared)
    }

    // ---- end

    /// Closes journal and state, and reports what the lane did.
    fn close(mut self) -> Result<Summary, Failure> {
        self.context.board.end_batch(Activity::Off);
        self.gather.finish_progress();
        self.losses.finish(&self.context);
        let (swaps, longest_gap_us) = self.succession.swaps();
        let summary = Summary {
            counts: self.counts,
            batches: self.batches,
            largest_batch: self.largest_batch,
            checkpoints: self.checkpoints.written(),
            floors: self.gather.floors(),
            swaps,
            longest_gap_us,
        };
        let audits = self.audit.audits();
        let (keys_read, keys_evicted) = (self.context.board.memory.read.get(), self.context.board.memory.evicted.get());
        self.journal.close()?;
        let Counts { records, events, rejected, late, rows, firings, calls } = summary.counts;
        let Summary { batches, largest_batch, checkpoints, floors, .. } = summary;
        tracing::info!(
            event = "lane-stopped",
            lane = self.context.name,
            records,
            events,
            rejected,
            late,
            rows,
            firings,
            calls,
            batches,
            largest_batch,
            checkpoints,
            floors,
            swaps,
            longest_gap_us,
            audits,
            keys_read,
            keys_evicted,
            "lane stopped"
        );
        Ok(summary)
    }
}
