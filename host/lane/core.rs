//! One batch through a lane's pure part: map by chunks, one pass of time, fold by key shards, rows into one order. No I/O but the calls of
//! the plugin; what must be read from the store or written anywhere is said in the result. Keeps I1 and I5: the rows and their order do
//! not depend on the cut, the workers or the shards.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::config::{Late, Time};
use crate::counts::Counts;
use crate::dead_letter::DeadLetter;
use crate::event_time::LaneTime;
use crate::event_time::{AppendTime, EventTime, cell};
use crate::lane::migration::{Lost, bring_up};
use crate::lane::shard::{Groups, Run, ShardOutput};
use crate::lane::time::{Timeline, Verdict};
use crate::plugin::{Events, Fault, FoldInput, Instance, Plugin, call};
use crate::position::{Offset, Partition};
use crate::record::{ByteColumn, NO_TIME, RecordRef, Records};
use crate::row::{Origin, RowRef, Rows};
use crate::state::SlotId;
use crate::state::{KeyState, Shard, Slot, Stored, hash, shard_of};
use crate::strike::{Stage, Strike, StrikeItem};

/// Records below which a chunk is not worth a worker of its own: the lane's thread does it.
const LEAST_CHUNK: usize = 512;

/// What leaves the lane because of a batch.
#[derive(Debug)]
pub struct Output {
    /// Rows, in the lane's order.
    pub rows: Rows,
    /// Dead letters, in the lane's order.
    pub letters: Vec<DeadLetter>,
    /// New strikes; to be journalled before anything else leaves.
    pub strikes: Vec<Strike>,
    /// Counters.
    pub counts: Counts,
}

/// Where a row or dead letter belongs in the lane's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Three per record: timers of an idle advance before it, its events, timers after it.
    major: u64,
    /// Of events: twice the index, one more for what the event itself gives. Of timers: the time.
    minor: i64,
}

impl Place {
    /// Among the timers that fire at a step of the timeline.
    pub(super) fn of_timer(step: usize, time: EventTime) -> Place {
        Place { major: step as u64 / 2 * 3 + if step.is_multiple_of(2) { 0 } else { 2 }, minor: time.ms() }
    }

    fn of_event(record: u32, event: u32) -> Place {
        Place { major: u64::from(record) * 3 + 1, minor: i64::from(event) * 2 + 1 }
    }

    /// Just before what the event itself gives.
    pub(super) fn ahead(self) -> Place {
        Place { minor: self.minor - 1, ..self }
    }
}

/// A row of a shard with its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlacedRow {
    place: Place,
    /// The first bytes of the key, by which timers of equal time are ordered; 0 for rows of events.
    prefix: u64,
    /// Slot of the key, for keys that begin alike.
    slot: SlotId,
    /// (call, part, row): the order of the rows of one event or firing.
    sequence: (u64, u32, u32),
    origin: Origin,
}

impl PlacedRow {
    /// `key`: slot and bytes, of a firing; none for a row of an event.
    pub(super) fn new(
        place: Place,
        key: Option<(SlotId, &[u8])>,
        call: u64,
        at: (usize, usize),
        origin: Origin,
    ) -> PlacedRow {
        let narrow = |n: usize| u32::try_from(n).expect("a batch has fewer than 2^32 rows");
        let (slot, key) = key.unwrap_or_default();
        PlacedRow { place, prefix: prefix(key), slot, sequence: (call, narrow(at.0), narrow(at.1)), origin }
    }
}

/// The first eight bytes of a key, in its order; equal for a shorter key and one that goes on with zeros.
fn prefix(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = key.len().min(8);
    bytes[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(bytes)
}

/// A dead letter with its place.
#[derive(Debug)]
pub(super) struct Letter {
    place: Place,
    key: Box<[u8]>,
    letter: DeadLetter,
}

/// The events of a batch, concatenated from the calls of `map`.
#[derive(Debug, Default)]
pub(super) struct EventColumns {
    /// The record of each event, ascending.
    pub(super) records: Vec<u32>,
    /// Its index in that record.
    indexes: Vec<u32>,
    pub(super) keys: ByteColumn,
    times: Vec<i64>,
    values: ByteColumn,
}

/// A batch between `map` and `fold`.
pub(super) struct Batch<'a> {
    records: &'a Records,
    plugin: &'a Plugin,
    pub(super) events: EventColumns,
    pub(super) hashes: Vec<u64>,
    pub(super) line: Timeline,
    /// What caused rows of a batch without records (a live idle advance).
    idle_origin: Origin,
}

impl Batch<'_> {
    /// The watermark before the record of an event.
    pub(super) fn watermark_of(&self, event: u32) -> i64 {
        self.line.before(self.events.records[event as usize] as usize)
    }

    pub(super) fn lower_event(&self, event: usize, input: &mut FoldInput) {
        let record = self.events.records[event] as usize;
        input.event_values.push(self.events.values.get(event));
        input.event_times.push(self.events.times[event]);
        input.watermarks.push(self.line.before(record));
        input.append_times.push(self.records.append_times[record]);
        input.partitions.push(self.records.partitions[record]);
        input.offsets.push(self.records.offsets[record]);
        input.indexes.push(self.events.indexes[event]);
    }

    pub(super) fn event_place(&self, event: u32) -> Place {
        Place::of_event(self.events.records[event as usize], self.events.indexes[event as usize])
    }

    pub(super) fn event_origin(&self, event: u32) -> Origin {
        let record = self.events.records[event as usize] as usize;
        let (partition, offset) = (self.records.partitions[record], self.records.offsets[record]);
        Origin {
            partition: Partition(partition),
            offset: Offset(offset),
            event: Some(self.events.indexes[event as usize]),
        }
    }

    pub(super) fn event_strike(&self, event: u32) -> StrikeItem {
        let Origin { partition, offset, event } = self.event_origin(event);
        StrikeItem::Event { partition, offset, event: event.expect("an event's origin names it") }
    }

    /// The record whose watermark made a step.
    pub(super) fn step_origin(&self, step: usize) -> Origin {
        match self.records.offsets.get(step / 2) {
            Some(&offset) => {
                let partition = Partition(self.records.partitions[step / 2]);
                Origin { partition, offset: Offset(offset), event: None }
            }
            None => self.idle_origin,
        }
    }

    pub(super) fn event_letter(&self, event: u32, stage: Stage, reason: String) -> Letter {
        let record = self.events.records[event as usize] as usize;
        let index = self.events.indexes[event as usize];
        self.record_letter(record, self.event_place(event), stage, Some(index), reason)
    }

    fn record_letter(&self, record: usize, place: Place, stage: Stage, event: Option<u32>, reason: String) -> Letter {
        let mut copy = Records::default();
        copy.append(self.records, record..record + 1);
        let letter = DeadLetter { stage, reason, plugin: self.plugin.digest.0.clone(), event, record: copy };
        Letter { place, key: Box::default(), letter }
    }

    /// The dead letter of a firing carries the key and its state.
    pub(super) fn timer_letter(
        &self,
        step: usize,
        time: EventTime,
        place: Place,
        slot: &Slot,
        reason: String,
    ) -> Letter {
        let append_time = self.records.append_times.get(step / 2).copied().unwrap_or(NO_TIME);
        let at = (self.step_origin(step), append_time);
        let letter = state_letter(Stage::Timer, at, &slot.key, lost_state(Some(time), slot), reason, self.plugin);
        Letter { place, key: slot.key[..].into(), letter }
    }

    /// The dead letter of a state that was not migrated.
    pub(super) fn lost_letter(&self, lost: Lost) -> Letter {
        let place = Place { major: 0, minor: -1 };
        let at = (self.step_origin(0), self.records.append_times.first().copied().unwrap_or(NO_TIME));
        let letter = state_letter(Stage::Migrate, at, &lost.key, lost.state, lost.reason, self.plugin);
        Letter { place, key: lost.key[..].into(), letter }
    }
}

/// The dead letter of a key's state, lost at a record with this append time.
pub(super) fn state_letter(
    stage: Stage,
    (origin, append_time): (Origin, i64),
    key: &[u8],
    state: serde_json::Value,
    reason: String,
    plugin: &Plugin,
) -> DeadLetter {
    let mut record = Records::default();
    record.push(RecordRef {
        partition: origin.partition.0,
        offset: origin.offset.0,
        append_time,
        key: Some(key),
        payload: Some(state.to_string().as_bytes()),
        headers: None,
    });
    DeadLetter { stage, reason, plugin: plugin.digest.0.clone(), event: None, record }
}

/// What a key loses: its timer, value and list.
pub(super) fn lost_state(time: Option<EventTime>, slot: &Slot) -> serde_json::Value {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let items: Vec<_> = slot.state.list.iter().map(|item| BASE64_STANDARD.encode(item)).collect();
    serde_json::json!({
        "timer": cell(time),
        "value_base64": slot.state.value.as_ref().map(|v| BASE64_STANDARD.encode(v)),
        "list_base64": items,
    })
}

/// The pure part of a lane: its plugin, time and keyed state.
pub struct Core {
    plugin: Arc<Plugin>,
    workers: Arc<rayon::ThreadPool>,
    settings: Time,
    /// Event time as of the last batch.
    pub time: LaneTime,
    /// Keyed state.
    pub shards: Vec<Shard>,
    /// Whether all state is in memory, so that a key not found there has none.
    pub complete: bool,
    /// Strikes that the journal knows, with their reasons.
    pub strikes: BTreeMap<StrikeItem, String>,
    groups: Vec<Groups>,
    /// Where the search for states of a former version goes on; none when there are none.
    searched: Option<(usize, usize)>,
    /// Keys that this search has migrated.
    migrated: u64,
}

/// A batch that was mapped, timed and grouped: what it still needs, and then [`Core::fold`].
pub struct Prepared<'a> {
    batch: Batch<'a>,
    letters: Vec<Letter>,
    strikes: Vec<Strike>,
    counts: Counts,
    /// Per shard, the slots whose state must be read from the store and filled in before the fold.
    pub missing: Vec<Vec<SlotId>>,
    /// The watermark after the batch: stored timers up to it must be in memory.
    pub watermark: Option<EventTime>,
    /// Event time before the batch.
    pub began: LaneTime,
}

impl<'a> Prepared<'a> {
    /// The batch's records; none of an idle advance.
    pub(super) fn records(&self) -> &'a Records {
        self.batch.records
    }
}

impl Core {
    /// A core without any state.
    pub fn new(plugin: Arc<Plugin>, workers: Arc<rayon::ThreadPool>, settings: Time) -> Core {
        let shards = workers.current_num_threads();
        Core {
            plugin,
            workers,
            settings,
            time: LaneTime::default(),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            complete: true,
            strikes: BTreeMap::new(),
            groups: (0..shards).map(|_| Groups::default()).collect(),
            searched: None,
            migrated: 0,
        }
    }

    /// A core whose state, as of this event time, lies in a store, and may be of former versions.
    pub fn restore(&mut self, time: LaneTime) {
        (self.time, self.complete, self.searched) = (time, false, Some((0, 0)));
    }

    /// Takes over a key's state as a store holds it.
    pub fn take_over(&mut self, key: &[u8], state: KeyState, stored: Stored) {
        let hash = hash(key);
        let shard = shard_of(hash, self.shards.len());
        let slot = self.shards[shard].slot_of(hash, key, true);
        self.shards[shard].fill(slot, Some((state, stored)));
    }

    /// Forgets what changed since it was last asked, for state that is written nowhere; frees what holds none any more.
    pub fn forget_changes(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.take_dirty(|_| ()));
    }

    /// Whether keys may have state of a former version.
    pub fn is_migrating(&self) -> bool {
        self.searched.is_some()
    }

    /// Brings the state of some more keys, of about `count` that are looked at, to the plugin's version. All state must be in memory.
    pub fn migrate(&mut self, count: usize, at: Origin) -> Result<Output, Fault> {
        let mut output = Output {
            rows: Rows::new(self.plugin.description.tables.clone()),
            letters: Vec::new(),
            strikes: Vec::new(),
            counts: Counts::default(),
        };
        let Some((shard, first)) = self.searched.filter(|(shard, _)| *shard < self.shards.len()) else {
            self.searched = None;
            match std::mem::take(&mut self.migrated) {
                0 => {}
                keys => tracing::info!(event = "state-migrated", keys, "state migrated"),
            }
            return Ok(output);
        };
        let slots = self.shards[shard].slots();
        let end = slots.min(first.saturating_add(count));
        let looked_at = (first..end).filter_map(|slot| u32::try_from(slot).ok().map(SlotId));
        let (migrated, lost) = bring_up((&self.plugin, &self.strikes), &mut self.shards[shard], looked_at, &mut None)?;
        self.migrated += migrated;
        self.searched = Some(if end < slots { (shard, end) } else { (shard + 1, 0) });
        for lost in lost {
            output.strikes.extend(lost.strike());
            let (key, state, reason) = (lost.key, lost.state, lost.reason);
            output.letters.push(state_letter(Stage::Migrate, (at, NO_TIME), &key, state, reason, &self.plugin));
        }
        Ok(output)
    }

    /// From the next batch on this plugin and these settings fold.
    pub fn switch(&mut self, plugin: Arc<Plugin>, settings: Time) {
        if plugin.description.state_version != self.plugin.description.state_version {
            self.searched = Some((0, 0));
        }
        (self.plugin, self.settings) = (plugin, settings);
    }

    /// A core of the same logic with one shard, in which nothing is yet and beside which nothing is: to fold something again from `time` on.
    pub(super) fn beside(&self, time: LaneTime) -> Core {
        Core {
            plugin: Arc::clone(&self.plugin),
            workers: Arc::clone(&self.workers),
            settings: self.settings,
            time,
            shards: vec![Shard::default()],
            complete: true,
            strikes: self.strikes.clone(),
            groups: vec![Groups::default()],
            searched: None,
            migrated: 0,
        }
    }

    /// Frees what is large on a worker: the keys of a million rows take longer than a lane has for a thousand records.
    pub(super) fn drop_aside(&self, large: impl Send + 'static) {
        self.workers.spawn(move || drop(large));
    }

    /// What folds.
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// The keys of the last batch, by shard and slot: those with events and, once it is folded, those whose timers fired.
    pub(super) fn touched(&self) -> impl Iterator<Item = (usize, SlotId)> {
        self.groups.iter().enumerate().flat_map(|(shard, groups)| groups.slots().map(move |slot| (shard, slot)))
    }

    /// Maps a batch, judges its events and groups them by key.
    pub fn prepare<'a>(&mut self, records: &'a Records, plugin: &'a Plugin) -> Result<Prepared<'a>, Fault> {
        let (began, mapped) = (self.time, self.map(records)?);
        let mut batch = Batch {
            records,
            plugin,
            events: EventColumns::default(),
            hashes: Vec::new(),
            line: Timeline::default(),
            idle_origin: Origin { partition: Partition(0), offset: Offset(0), event: None },
        };
        let mut prepared_letters = Vec::new();
        let mut strikes = Vec::new();
        for chunk in mapped {
            for (record, reason, struck) in chunk.rejected {
                let place = Place { major: record as u64 * 3 + 1, minor: -1 };
                if struck {
                    let (item, at) = (
                        record_item(records, record),
                        (Partition(records.partitions[record]), Offset(records.offsets[record])),
                    );
                    strikes.push(Strike { item, key: None, record: Some(at), reason: reason.clone() });
                }
                prepared_letters.push(batch.record_letter(record, place, Stage::Map, None, reason));
            }
            batch.hashes.extend_from_slice(&chunk.hashes);
            batch.events.append(chunk.events);
        }
        batch.events.number();
        let events = &batch.events;
        self.time.pass(&self.settings, &records.append_times, &events.records, &events.times, &mut batch.line);
        let mut prepared = Prepared {
            counts: Counts {
                records: records.len() as u64,
                events: batch.events.records.len() as u64,
                ..Counts::default()
            },
            batch,
            letters: prepared_letters,
            strikes,
            missing: Vec::new(),
            watermark: self.time.watermark,
            began,
        };
        let accepted = self.judge(&mut prepared);
        self.group(&mut prepared, &accepted);
        Ok(prepared)
    }

    /// A batch without records: the lane's time advanced while idle.
    pub fn prepare_idle<'a>(
        &mut self,
        instant: AppendTime,
        none: &'a Records,
        plugin: &'a Plugin,
        last: Origin,
    ) -> Prepared<'a> {
        let began = self.time;
        self.time.idle(&self.settings, instant);
        let line = Timeline { steps: vec![cell(self.time.watermark)], verdicts: Vec::new() };
        let batch = Batch {
            records: none,
            plugin,
            events: EventColumns::default(),
            hashes: Vec::new(),
            line,
            idle_origin: last,
        };
        let mut prepared = Prepared {
            batch,
            letters: Vec::new(),
            strikes: Vec::new(),
            counts: Counts::default(),
            missing: Vec::new(),
            watermark: self.time.watermark,
            began,
        };
        let none = vec![Vec::new(); self.shards.len()];
        self.group(&mut prepared, &none);
        prepared
    }

    /// Prepares and folds records whose keys are all in memory.
    pub fn run(&mut self, records: &Records) -> Result<Output, Fault> {
        let plugin = Arc::clone(&self.plugin);
        let prepared = self.prepare(records, &plugin)?;
        self.fold(prepared)
    }

    /// Folds a prepared batch.
    pub fn fold(&mut self, prepared: Prepared<'_>) -> Result<Output, Fault> {
        let Prepared { batch, mut letters, mut strikes, mut counts, .. } = prepared;
        let (plugin, known) = (&*self.plugin, &self.strikes);
        let outputs: Vec<ShardOutput> = if batch.records.len() < LEAST_CHUNK {
            let mut instance = None;
            let mut outputs = Vec::with_capacity(self.shards.len());
            for shard in self.shards.iter_mut().zip(&mut self.groups) {
                let (output, kept) = Run::new(&batch, plugin, known, shard, instance).run()?;
                outputs.push(output);
                instance = kept;
            }
            outputs
        } else {
            let run = |shard| Run::new(&batch, plugin, known, shard, None).run().map(|(output, _)| output);
            let shards = self.shards.par_iter_mut().zip(self.groups.par_iter_mut());
            self.workers.install(|| shards.map(run).collect::<Result<_, _>>())?
        };
        let mut parts = Vec::with_capacity(outputs.len());
        for output in outputs {
            counts.firings += output.firings;
            counts.calls += output.calls;
            strikes.extend(output.strikes);
            letters.extend(output.letters);
            parts.push((output.parts, output.rows));
        }
        letters.sort_by(|a, b| (a.place, &a.key).cmp(&(b.place, &b.key)));
        let rows = in_order(&self.plugin, &self.shards, parts);
        counts.rows = rows.len() as u64;
        counts.rejected = letters.len() as u64 - if self.settings.late == Late::DeadLetter { counts.late } else { 0 };
        Ok(Output { rows, letters: letters.into_iter().map(|l| l.letter).collect(), strikes, counts })
    }

    fn map(&self, records: &Records) -> Result<Vec<MappedChunk>, Fault> {
        let n = records.len();
        let size = n.div_ceil(self.workers.current_num_threads()).max(LEAST_CHUNK);
        let chunks: Vec<Range<usize>> = (0..n).step_by(size).map(|first| first..n.min(first + size)).collect();
        let map = |chunk: Range<usize>| MapRun::new(&self.plugin, records, &self.strikes).run(chunk);
        match chunks.len() {
            1 => Ok(vec![map(0..n)?]),
            _ => self.workers.install(|| chunks.into_par_iter().map(map).collect()),
        }
    }

    /// Sorts the events out by their verdicts; gives each shard the events that it folds.
    fn judge(&self, prepared: &mut Prepared<'_>) -> Vec<Vec<u32>> {
        let mut accepted = vec![Vec::new(); self.shards.len()];
        let batch = &prepared.batch;
        for (event, &verdict) in batch.line.verdicts.iter().enumerate() {
            let event = u32::try_from(event).expect("a batch has fewer than 2^32 events");
            let letter = match verdict {
                Verdict::Accepted => {
                    accepted[shard_of(batch.hashes[event as usize], self.shards.len())].push(event);
                    None
                }
                Verdict::Late => {
                    prepared.counts.late += 1;
                    let keep = self.settings.late == Late::DeadLetter;
                    keep.then(|| batch.event_letter(event, Stage::Time, late_reason(batch, event)))
                }
                Verdict::OutOfRange => Some(batch.event_letter(
                    event,
                    Stage::Time,
                    "the event time lies outside the years 1 to 9999".into(),
                )),
                Verdict::Future => {
                    Some(batch.event_letter(event, Stage::Time, future_reason(batch, event, &self.settings)))
                }
            };
            prepared.letters.extend(letter);
        }
        accepted
    }

    fn group(&mut self, prepared: &mut Prepared<'_>, accepted: &[Vec<u32>]) {
        let (batch, complete) = (&prepared.batch, self.complete);
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

fn record_item(records: &Records, record: usize) -> StrikeItem {
    StrikeItem::Record { partition: Partition(records.partitions[record]), offset: Offset(records.offsets[record]) }
}

/// Puts the rows of all shards into the lane's order.
fn in_order(plugin: &Plugin, shards: &[Shard], outputs: Vec<(Vec<crate::row::Part>, Vec<PlacedRow>)>) -> Rows {
    let mut rows = Rows::new(plugin.description.tables.clone());
    let mut placed: Vec<(usize, u32, PlacedRow)> = Vec::with_capacity(outputs.iter().map(|(_, rows)| rows.len()).sum());
    for (shard, (parts, shard_rows)) in outputs.into_iter().enumerate() {
        let base = u32::try_from(rows.parts.len()).expect("a batch has fewer than 2^32 parts");
        placed.extend(shard_rows.into_iter().map(|row| (shard, base, row)));
        rows.parts.extend(parts);
    }
    let key = |shard: usize, row: &PlacedRow| -> &[u8] {
        if row.place.major % 3 == 1 { &[] } else { &shards[shard].slot(row.slot).key }
    };
    placed.sort_unstable_by(|(s, _, a), (t, _, b)| {
        let keys = || key(*s, a).cmp(key(*t, b));
        (a.place, a.prefix).cmp(&(b.place, b.prefix)).then_with(keys).then_with(|| a.sequence.cmp(&b.sequence))
    });
    rows.order = placed
        .into_iter()
        .map(|(_, base, row)| RowRef { part: base + row.sequence.1, row: row.sequence.2, origin: row.origin })
        .collect();
    rows
}

impl EventColumns {
    fn append(&mut self, events: Events) {
        if self.records.is_empty() {
            (self.records, self.keys, self.times, self.values) =
                (events.records, events.keys, events.event_times, events.values);
            return;
        }
        self.records.extend_from_slice(&events.records);
        self.times.extend_from_slice(&events.event_times);
        self.keys.append(&events.keys, 0..events.keys.len());
        self.values.append(&events.values, 0..events.values.len());
    }

    /// Numbers the events within their records.
    fn number(&mut self) {
        self.indexes.clear();
        let (mut record, mut index) = (u32::MAX, 0);
        for &r in &self.records {
            index = if r == record { index + 1 } else { 0 };
            record = r;
            self.indexes.push(index);
        }
    }
}

/// What a worker's calls of `map` gave for its chunk of the batch.
struct MappedChunk {
    events: Events,
    hashes: Vec<u64>,
    /// Record, reason, and whether it is a strike.
    rejected: Vec<(usize, String, bool)>,
}

/// Maps a chunk, halving what fails.
struct MapRun<'a> {
    plugin: &'a Plugin,
    records: &'a Records,
    known: &'a BTreeMap<StrikeItem, String>,
    instance: Option<Instance<'a>>,
    events: Events,
    rejected: Vec<(usize, String, bool)>,
}

impl<'a> MapRun<'a> {
    fn new(plugin: &'a Plugin, records: &'a Records, known: &'a BTreeMap<StrikeItem, String>) -> MapRun<'a> {
        let events = Events {
            records: Vec::new(),
            keys: ByteColumn::default(),
            event_times: Vec::new(),
            values: ByteColumn::default(),
            rejections: Vec::new(),
        };
        MapRun { plugin, records, known, instance: None, events, rejected: Vec::new() }
    }

    fn run(mut self, chunk: Range<usize>) -> Result<MappedChunk, Fault> {
        let mut first = chunk.start;
        if !self.known.is_empty() {
            for record in chunk.clone() {
                if let Some(reason) = self.known.get(&record_item(self.records, record)).cloned() {
                    self.map(first..record)?;
                    self.rejected.push((record, reason, false));
                    first = record + 1;
                }
            }
        }
        self.map(first..chunk.end)?;
        let hashes = self.events.keys.iter().map(hash).collect();
        Ok(MappedChunk { events: self.events, hashes, rejected: self.rejected })
    }

    fn map(&mut self, range: Range<usize>) -> Result<(), Fault> {
        if range.is_empty() {
            return Ok(());
        }
        match call(&mut self.instance, self.plugin, |instance| instance.map(self.records, range.clone())) {
            Ok(events) => self.keep(range.start, events),
            Err(Fault::Plugin(reason)) => {
                if range.len() == 1 {
                    self.rejected.push((range.start, reason, true));
                    return Ok(());
                }
                let middle = range.start + range.len() / 2;
                self.map(range.start..middle)?;
                self.map(middle..range.end)?;
            }
            Err(halt) => return Err(halt),
        }
        Ok(())
    }

    fn keep(&mut self, first: usize, mut events: Events) {
        let base = u32::try_from(first).expect("a batch has fewer than 2^32 records");
        self.rejected.extend(events.rejections.drain(..).map(|r| (first + r.item as usize, r.reason, false)));
        events.records.iter_mut().for_each(|r| *r += base);
        if self.events.records.is_empty() {
            self.events = events;
            return;
        }
        self.events.records.extend_from_slice(&events.records);
        self.events.event_times.extend_from_slice(&events.event_times);
        self.events.keys.append(&events.keys, 0..events.keys.len());
        self.events.values.append(&events.values, 0..events.values.len());
    }
}
