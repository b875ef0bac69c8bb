//! The pure part of a lane: it maps a batch, passes time over its events, folds them by key shards and puts the rows into one order. It
//! does no I/O but calls of the plugin. What must be read from the store or written anywhere is in its results. Keeps I1 and I5: neither
//! the rows nor their order depend on how batches are cut, on the workers or on the shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::config::{ImplausibleTime, Late, Time};
use crate::counts::Counts;
use crate::dead_letter::DeadLetter;
use crate::event_time::{AppendTime, EventTime, LaneTime, cell};
use crate::lane::batch::{Batch, LeftOut, Prepared};
use crate::lane::letters::{self, migration_letter};
use crate::lane::map::{LEAST_CHUNK, map};
use crate::lane::migration::bring_up;
use crate::lane::place;
use crate::lane::residency::Residency;
use crate::lane::shard::{Groups, Run, ShardOutput};
use crate::lane::time::{Jump, Timeline, Verdict};
use crate::observe::board::LaneBoard;
use crate::plugin::{Fault, Plugin};
use crate::position::Position;
use crate::record::Records;
use crate::row::{Origin, Rows};
use crate::state::capture::Chunk;
use crate::state::checkpoint::{Checkpoint, Held};
use crate::state::{Evicted, KeyState, Shard, SlotId, hash, shard_of};
use crate::strike::{Stage, Strike, StrikeItem};

/// What leaves the lane because of a batch.
#[derive(Debug)]
pub struct Output {
    /// Rows, in the lane's order.
    pub rows: Rows,
    /// Dead letters, in the lane's order.
    pub letters: Vec<DeadLetter>,
    /// New strikes. They must be journalled before anything else leaves.
    pub strikes: Vec<Strike>,
    /// Counters.
    pub counts: Counts,
    /// How often an event far ahead moved the watermark.
    pub jumps: u64,
    /// The first time, with its record.
    pub jump: Option<(Origin, Jump)>,
}

/// Where the search for states of an earlier version goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// At a slot of a shard. Keys that are evicted before they are reached are in the store by then.
    Memory { shard: usize, slot: usize },
    /// In the store, for keys that are not in memory.
    Store,
}

impl Search {
    const BEGINNING: Search = Search::Memory { shard: 0, slot: 0 };
}

/// The pure part of a lane: its plugin, time and keyed state.
pub struct Core {
    plugin: Arc<Plugin>,
    workers: Arc<rayon::ThreadPool>,
    settings: Time,
    /// Event time after the last batch.
    pub time: LaneTime,
    /// The last record of the last batch that had any.
    last: Option<Position>,
    /// Keyed state.
    pub shards: Vec<Shard>,
    /// Which stored keys and timers are in memory.
    pub residency: Residency,
    /// The journal's strikes of the plugin, with their reasons.
    pub strikes: BTreeMap<StrikeItem, String>,
    groups: Vec<Groups>,
    /// What the store holds of keys that are not in memory, less what was evicted, and with what was read since; none if unknown.
    beside: Option<Held>,
    /// Where the search for states of an earlier version goes on; none when there are none.
    search: Option<Search>,
    /// Keys that this search has migrated.
    migrated: u64,
}

impl Core {
    /// Creates a core without any state.
    pub fn new(plugin: Arc<Plugin>, workers: Arc<rayon::ThreadPool>, settings: Time) -> Core {
        let shards = workers.current_num_threads();
        Core {
            plugin,
            workers,
            settings,
            time: LaneTime::default(),
            last: None,
            shards: (0..shards).map(|_| Shard::default()).collect(),
            residency: Residency::All,
            strikes: BTreeMap::new(),
            groups: (0..shards).map(|_| Groups::default()).collect(),
            beside: Some(Held::default()),
            search: None,
            migrated: 0,
        }
    }

    /// Resumes at a checkpoint. The state lies in a store and may be of earlier versions.
    pub fn restore(&mut self, checkpoint: &Checkpoint) {
        (self.time, self.last) = (checkpoint.time, checkpoint.last_record());
        (self.residency, self.beside) = (Residency::none(), checkpoint.held);
        let is_of_one = checkpoint.state_version == Some(self.plugin.description.state_version);
        self.search = (!is_of_one).then_some(Search::BEGINNING);
    }

    /// Notes that all keys of the store are in memory, and so are all timers.
    pub(super) fn note_complete(&mut self) {
        let (read, evicted) = self.moved();
        assert_eq!(evicted.keys, 0, "keys are evicted only once no others are taken over");
        debug_assert!(self.beside.is_none_or(|beside| beside == read), "what is held is counted");
        (self.residency, self.beside) = (Residency::All, Some(read));
    }

    /// Takes over a key's state as a store holds it, unless the key is in memory already.
    pub fn take_over(&mut self, key: &[u8], state: KeyState, version: u32) {
        let hash = hash(key);
        let shard = shard_of(hash, self.shards.len());
        let shard = &mut self.shards[shard];
        if !shard.contains(hash, key) {
            let slot = shard.slot_of(hash, key, true);
            shard.fill(slot, Some((state, version)));
        }
    }

    // ---- checkpoints

    /// Begins to capture what changed since the last capture, which is over.
    pub(super) fn begin_capture(&mut self) {
        self.shards.iter_mut().for_each(Shard::begin_capture);
    }

    /// Captures about `most` more keys. Returns whether that were all.
    pub(super) fn capture(&mut self, most: usize) -> bool {
        let part = most.div_ceil(self.shards.len());
        self.shards.iter_mut().map(|shard| shard.capture(part)).sum::<usize>() == 0
    }

    /// Returns what was captured: a part of about `bytes`, or with `all` whatever there is; none if there is less.
    pub(super) fn captured(&mut self, bytes: usize, all: bool) -> Option<Chunk> {
        if !all {
            return self.shards.iter_mut().find_map(|shard| shard.captured(bytes));
        }
        let mut whole: Option<Chunk> = None;
        while whole.as_ref().is_none_or(|whole| whole.bytes() < bytes)
            && let Some(chunk) = self.shards.iter_mut().find_map(|shard| shard.captured(0))
        {
            match &mut whole {
                Some(whole) => whole.append(&chunk),
                None => whole = Some(chunk),
            }
        }
        whole
    }

    /// Notes that what the last capture took is durable, and frees the slots that it found without state: but not while all keys are `loading`, as
    /// the state that a key had before must not come back.
    pub(super) fn end_capture(&mut self, loading: bool) {
        self.shards.iter_mut().for_each(Shard::end_capture);
        if !loading {
            self.shards.iter_mut().for_each(Shard::free_emptied);
        }
    }

    /// Forgets which keys changed, for state that is stored nowhere. Frees slots that no longer hold any.
    pub fn forget_changes(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.take_dirty(|_| ()));
    }

    /// The state that there was when keys were captured last, wherever it is; none if that is unknown.
    pub(super) fn held(&self) -> Option<Held> {
        let (beside, (read, evicted)) = (self.beside?, self.moved());
        let in_memory = self.held_in_memory();
        Some(Held {
            keys: beside.keys + evicted.keys + in_memory.keys - read.keys,
            bytes: beside.bytes + evicted.bytes + in_memory.bytes - read.bytes,
        })
    }

    fn held_in_memory(&self) -> Held {
        Held::sum(self.shards.iter().map(Shard::held))
    }

    /// What was read from the store, and what was evicted.
    fn moved(&self) -> (Held, Held) {
        let moved = || self.shards.iter().map(Shard::moved);
        (Held::sum(moved().map(|(read, _)| read)), Held::sum(moved().map(|(_, evicted)| evicted)))
    }

    /// Publishes how much state there is, and returns its bytes; if that is unknown, what of it is in memory.
    pub(super) fn count_state(&self, board: &LaneBoard) -> u64 {
        let held = self.held().unwrap_or_else(|| self.held_in_memory());
        board.keys.set(held.keys);
        board.largest_key.set(self.shards.iter().map(Shard::largest).max().unwrap_or(0));
        board.state_bytes.set(held.bytes);
        held.bytes
    }

    // ---- memory

    /// The memory that keys take, bytes, about.
    pub(super) fn memory(&self) -> u64 {
        self.shards.iter().map(Shard::memory).sum()
    }

    /// What of it keys take that changed since they were captured last, about.
    pub(super) fn changed_memory(&self) -> u64 {
        let of = |shard: &Shard| shard.memory() / (shard.in_memory() as u64).max(1) * shard.changed() as u64;
        self.shards.iter().map(of).sum()
    }

    /// How many keys are in memory.
    pub(super) fn in_memory(&self) -> usize {
        self.shards.iter().map(Shard::in_memory).sum()
    }

    /// How many slots there are, with those that are free.
    pub(super) fn slots(&self) -> u64 {
        self.shards.iter().map(|shard| shard.slots() as u64).sum()
    }

    /// Looks at about `most` slots for cold keys, and evicts those that take `bytes`, and whose timers are later than `soon`. No batch may be at work,
    /// and keys may not be taken over.
    pub(super) fn evict(&mut self, bytes: u64, most: usize, soon: Option<EventTime>) -> Evicted {
        let (mut evicted, count) = (Evicted::default(), self.shards.len());
        for shard in &mut self.shards {
            evicted.add(shard.evict(bytes.div_ceil(count as u64), most.div_ceil(count), soon));
        }
        self.residency.evicted(&evicted);
        evicted
    }

    // ---- migration

    /// Whether keys may have state of an earlier version.
    pub fn is_migrating(&self) -> bool {
        self.search.is_some()
    }

    /// Whether those that still may are in the store only.
    pub(super) fn has_searched_memory(&self) -> bool {
        self.search == Some(Search::Store)
    }

    /// Looks at about `count` more keys in memory and migrates their state to the plugin's version.
    pub fn migrate(&mut self, count: usize) -> Result<Output, Fault> {
        let Some(Search::Memory { shard, slot: first }) = self.search else { return self.migrate_slots(Vec::new()) };
        let slots = self.shards[shard].slots();
        let end = slots.min(first.saturating_add(count));
        let mut looked_at = vec![Vec::new(); self.shards.len()];
        looked_at[shard] = (first..end).filter_map(|slot| u32::try_from(slot).ok().map(SlotId)).collect();
        let output = self.migrate_slots(looked_at)?;
        let next = if end < slots { (shard, end) } else { (shard + 1, 0) };
        self.search = Some(Search::Memory { shard: next.0, slot: next.1 });
        if next.0 == self.shards.len() {
            match self.residency.is_complete() {
                true => self.end_search(),
                false => self.search = Some(Search::Store),
            }
        }
        Ok(output)
    }

    /// Migrates the state in these slots, by shard, to the plugin's version.
    pub(super) fn migrate_slots(&mut self, slots: Vec<Vec<SlotId>>) -> Result<Output, Fault> {
        let mut output = Output {
            rows: Rows::new(self.plugin.description.tables.clone()),
            letters: Vec::new(),
            strikes: Vec::new(),
            counts: Counts::default(),
            jumps: 0,
            jump: None,
        };
        for (shard, slots) in self.shards.iter_mut().zip(slots) {
            let (migrated, lost) = bring_up((&self.plugin, &self.strikes), shard, slots, &mut None)?;
            self.migrated += migrated;
            for lost in lost {
                output.strikes.extend(lost.strike());
                output.letters.push(migration_letter(lost, &self.plugin));
            }
        }
        Ok(output)
    }

    /// Notes that all state has the plugin's version.
    pub(super) fn end_search(&mut self) {
        self.search = None;
        match std::mem::take(&mut self.migrated) {
            0 => {}
            keys => tracing::info!(event = "state-migrated", keys, "state migrated"),
        }
    }

    /// Folds with this plugin and these settings from the next batch on.
    pub fn switch(&mut self, plugin: Arc<Plugin>, settings: Time) {
        if plugin.description.state_version != self.plugin.description.state_version {
            self.search = Some(Search::BEGINNING);
        }
        (self.plugin, self.settings) = (plugin, settings);
    }

    /// Creates an empty core of one shard with the same logic, to fold a batch again from before it.
    pub(super) fn beside(&self, prepared: &Prepared<'_>) -> Core {
        Core {
            plugin: Arc::clone(&self.plugin),
            workers: Arc::clone(&self.workers),
            settings: self.settings,
            time: prepared.began,
            last: prepared.batch.before,
            shards: vec![Shard::default()],
            residency: Residency::All,
            strikes: self.strikes.clone(),
            groups: vec![Groups::default()],
            beside: Some(Held::default()),
            search: None,
            migrated: 0,
        }
    }

    /// Frees something large on a worker: freeing the keys of a million rows takes longer than folding a thousand records.
    pub(super) fn drop_aside(&self, large: impl Send + 'static) {
        self.workers.spawn(move || drop(large));
    }

    /// The last record that was folded.
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// The plugin that folds.
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// The keys of the last batch, by shard and slot: those with events and, after the fold, those whose timers fired.
    pub(super) fn touched(&self) -> impl Iterator<Item = (usize, SlotId)> {
        self.groups.iter().enumerate().flat_map(|(shard, groups)| groups.slots().map(move |slot| (shard, slot)))
    }

    /// Maps a batch, judges its events and groups them by key.
    pub fn prepare<'a>(&mut self, records: &'a Records) -> Result<Prepared<'a>, Fault> {
        let left_out = left_out(records, self.settings.implausible, self.plugin.limits.record_bytes);
        let chunks = map(&self.workers, &self.plugin, records, (&self.strikes, &left_out))?;
        let mut prepared = Prepared::new(Batch::new(records, Arc::clone(&self.plugin), self.last), self.time);
        self.last = records.len().checked_sub(1).map(|last| Position::of(records, last)).or(self.last);
        chunks.into_iter().for_each(|chunk| prepared.take(chunk));
        prepared.leave_out(&left_out);
        let Batch { events, line, .. } = &mut prepared.batch;
        events.number();
        self.time.pass(&self.settings, &records.append_times, &events.records, &events.times, line);
        prepared.counts.records = records.len() as u64;
        prepared.counts.events = events.records.len() as u64;
        prepared.watermark = self.time.watermark;
        let accepted = self.judge(&mut prepared);
        self.group(&mut prepared, &accepted);
        Ok(prepared)
    }

    /// Prepares a batch without records: the lane's time advances to `instant` while it is idle. `none` has no records.
    pub fn prepare_idle<'a>(&mut self, instant: AppendTime, none: &'a Records) -> Prepared<'a> {
        let mut prepared = Prepared::new(Batch::new(none, Arc::clone(&self.plugin), self.last), self.time);
        self.time.idle(&self.settings, instant);
        prepared.batch.line = Timeline { steps: vec![cell(self.time.watermark)], ..Timeline::default() };
        prepared.watermark = self.time.watermark;
        let accepted = vec![Vec::new(); self.shards.len()];
        self.group(&mut prepared, &accepted);
        prepared
    }

    /// Prepares and folds records whose keys are all in memory.
    pub fn run(&mut self, records: &Records) -> Result<Output, Fault> {
        let prepared = self.prepare(records)?;
        self.fold(prepared)
    }

    /// Folds a prepared batch.
    pub fn fold(&mut self, prepared: Prepared<'_>) -> Result<Output, Fault> {
        let Prepared { batch, mut letters, mut strikes, mut counts, .. } = prepared;
        let outputs = self.fold_shards(&batch)?;
        let mut parts = Vec::with_capacity(outputs.len());
        for output in outputs {
            counts.firings += output.firings;
            counts.calls += output.calls;
            strikes.extend(output.strikes);
            letters.extend(output.letters);
            parts.push((output.parts, output.rows));
        }
        let rows = place::in_order(self.plugin.description.tables.clone(), &self.shards, parts);
        counts.rows = rows.len() as u64;
        counts.rejected = letters.len() as u64 - if self.settings.late == Late::DeadLetter { counts.late } else { 0 };
        let jump = batch.line.jump.map(|jump| (batch.step_origin(2 * jump.record + 1), jump));
        Ok(Output { rows, letters: letters::in_order(letters), strikes, counts, jumps: batch.line.jumps, jump })
    }

    /// Folds each shard: a small batch on the lane's thread with one instance for all, a large one on the workers.
    fn fold_shards(&mut self, batch: &Batch<'_>) -> Result<Vec<ShardOutput>, Fault> {
        let (plugin, known) = (&*self.plugin, &self.strikes);
        if batch.records.len() < LEAST_CHUNK {
            let mut instance = None;
            let mut outputs = Vec::with_capacity(self.shards.len());
            for shard in self.shards.iter_mut().zip(&mut self.groups) {
                let (output, kept) = Run::new(batch, plugin, known, shard, instance).run()?;
                outputs.push(output);
                instance = kept;
            }
            return Ok(outputs);
        }
        let run = |shard| Run::new(batch, plugin, known, shard, None).run().map(|(output, _)| output);
        let shards = self.shards.par_iter_mut().zip(self.groups.par_iter_mut());
        self.workers.install(|| shards.map(run).collect())
    }

    /// Sorts the events by their verdicts; returns, per shard, the events that it folds.
    fn judge(&self, prepared: &mut Prepared<'_>) -> Vec<Vec<u32>> {
        let mut accepted = vec![Vec::new(); self.shards.len()];
        let batch = &prepared.batch;
        for (event, &verdict) in batch.line.verdicts.iter().enumerate() {
            let event = u32::try_from(event).expect("a batch has fewer than 2^32 events");
            let reason = match verdict {
                Verdict::Accepted => {
                    accepted[shard_of(batch.hashes[event as usize], self.shards.len())].push(event);
                    continue;
                }
                Verdict::Late => {
                    prepared.counts.late += 1;
                    if self.settings.late != Late::DeadLetter {
                        continue;
                    }
                    late_reason(batch, event)
                }
                Verdict::OutOfRange => "the event time lies outside the years 1 to 9999".into(),
                Verdict::Future => future_reason(batch, event, &self.settings),
            };
            prepared.letters.push(batch.event_letter(event, Stage::Time, reason));
        }
        accepted
    }

    /// Groups each shard's events by key, and notes which keys must be read from the store.
    fn group(&mut self, prepared: &mut Prepared<'_>, accepted: &[Vec<u32>]) {
        let (batch, complete) = (&prepared.batch, self.residency.is_complete());
        if batch.records.len() < LEAST_CHUNK {
            let shards = self.shards.iter_mut().zip(&mut self.groups).zip(accepted);
            prepared.missing =
                shards.map(|((shard, groups), events)| groups.group(batch, events, shard, complete)).collect();
            return;
        }
        let shards = self.shards.par_iter_mut().zip(self.groups.par_iter_mut()).zip(accepted);
        let group = |((shard, groups), events): ((&mut Shard, &mut Groups), &Vec<u32>)| {
            groups.group(batch, events, shard, complete)
        };
        prepared.missing = self.workers.install(|| shards.map(group).collect());
    }
}

/// The records that are not mapped: those that are too large, and those with implausible timestamps. One that has no append time to inherit is
/// never mapped: the events of a record that was appended in 1970 would all lie in the future.
fn left_out(records: &Records, policy: ImplausibleTime, most_bytes: u64) -> Vec<(u32, LeftOut)> {
    let is_orphan = |row: u32| records.append_times[row as usize] == 0;
    let untimely =
        records.implausible.iter().filter(|(row, _)| policy == ImplausibleTime::DeadLetter || is_orphan(*row));
    let mut left_out: Vec<_> = untimely.map(|&(row, timestamp)| (row, LeftOut::Timestamp(timestamp))).collect();
    // A batch that is within the limit as a whole is the rule.
    if (records.bytes() + records.headers.names.data.len()) as u64 > most_bytes || !records.cuts.is_empty() {
        let rows = 0..u32::try_from(records.len()).expect("a batch has fewer than 2^32 records");
        let is_large =
            |row: &u32| records.cut(*row as usize).is_some() || records.size(*row as usize) as u64 > most_bytes;
        left_out.extend(rows.filter(is_large).map(|row| (row, LeftOut::TooLarge)));
        left_out.sort_by_key(|(row, why)| (*row, *why != LeftOut::TooLarge));
        left_out.dedup_by_key(|(row, _)| *row);
    }
    left_out
}

fn late_reason(batch: &Batch<'_>, event: u32) -> String {
    let time = batch.events.times[event as usize];
    format!("late: the event time {time} is not after the watermark {}", batch.watermark_of(event))
}

fn future_reason(batch: &Batch<'_>, event: u32, settings: &Time) -> String {
    let time = batch.events.times[event as usize];
    let append_time = batch.records.append_times[batch.events.records[event as usize] as usize];
    let limit = settings.future_limit_ms;
    format!(
        "the event time {time} lies more than time.future_limit ({limit} ms) past the record's append time {append_time}"
    )
}
