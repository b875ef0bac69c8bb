//! A batch between `map` and `fold`: its records, the events that `map` made of them, and its timeline. Pure data with the questions
//! that a shard asks about an event.

use std::sync::Arc;

use crate::counts::Counts;
use crate::event_time::{EventTime, LaneTime, plausible};
use crate::lane::letters::Letter;
use crate::lane::map::MappedChunk;
use crate::lane::place::Place;
use crate::lane::time::Timeline;
use crate::machine::{Planted, plants};
use crate::plugin::{Events, FoldInput, Plugin};
use crate::position::{Offset, Partition, Position};
use crate::record::bounded::Digested;
use crate::record::{ByteColumn, Records};
use crate::row::Origin;
use crate::state::SlotId;
use crate::strike::{Stage, Strike, StrikeItem};

/// The events of a batch, concatenated from the calls of `map`.
#[derive(Debug, Default)]
pub(super) struct EventColumns {
    /// The record of each event, ascending.
    pub(super) records: Vec<u32>,
    /// Its index in that record.
    pub(super) indexes: Vec<u32>,
    pub(super) keys: ByteColumn,
    pub(super) times: Vec<i64>,
    pub(super) values: ByteColumn,
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
    pub(super) fn number(&mut self) {
        self.indexes.clear();
        let (mut record, mut index) = (u32::MAX, 0);
        for &r in &self.records {
            index = if r == record { index + 1 } else { 0 };
            record = r;
            self.indexes.push(index);
        }
    }
}

/// Why a record is not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// Its timestamp orders nothing.
    Timestamp(i64),
    /// It has more bytes than `plugin.record_bytes`.
    TooLarge,
}

/// A batch between `map` and `fold`.
pub(super) struct Batch<'a> {
    pub(super) records: &'a Records,
    pub(super) plugin: Arc<Plugin>,
    pub(super) events: EventColumns,
    pub(super) hashes: Vec<u64>,
    pub(super) line: Timeline,
    /// The record that the lane folded last before the batch.
    pub(super) before: Option<Position>,
}

impl<'a> Batch<'a> {
    /// Creates a batch of `records` without events.
    pub(super) fn new(records: &'a Records, plugin: Arc<Plugin>, before: Option<Position>) -> Batch<'a> {
        Batch {
            records,
            plugin,
            events: EventColumns::default(),
            hashes: Vec::new(),
            line: Timeline::default(),
            before,
        }
    }

    /// The watermark before the record of an event.
    pub(super) fn watermark_of(&self, event: u32) -> i64 {
        self.line.before(self.record_for_watermark(self.events.records[event as usize] as usize))
    }

    /// The record whose watermark an event is told.
    fn record_for_watermark(&self, record: usize) -> usize {
        if plants(Planted::TimerAfterEvent) { 0 } else { record }
    }

    /// Appends an event to the input of `fold`.
    pub(super) fn lower_event(&self, event: usize, input: &mut FoldInput) {
        let record = self.events.records[event] as usize;
        input.event_values.push(self.events.values.get(event));
        input.event_times.push(self.events.times[event]);
        input.watermarks.push(self.line.before(self.record_for_watermark(record)));
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

    /// The record at which a step belongs: its own if its events made the watermark, and the one before if an idle advance did. A live lane
    /// that is idle knows no later one, and a replay must name the same (D40).
    pub(super) fn step_record(&self, step: usize) -> Option<Position> {
        let Some(record) = step.div_ceil(2).checked_sub(1) else { return self.before };
        Some(Position::of(self.records, record))
    }

    /// The same as an origin.
    pub(super) fn step_origin(&self, step: usize) -> Origin {
        let (partition, offset) = self.step_record(step).map_or_else(Default::default, |at| (at.partition, at.offset));
        Origin { partition, offset, event: None }
    }
}

/// A batch that was mapped, timed and grouped. Once its missing state is in memory, it is ready for
/// [`Core::fold`](crate::lane::core::Core::fold).
pub struct Prepared<'a> {
    pub(super) batch: Batch<'a>,
    pub(super) letters: Vec<Letter>,
    pub(super) strikes: Vec<Strike>,
    pub(super) counts: Counts,
    /// Per shard, the slots whose state must be read from the store before the fold.
    pub missing: Vec<Vec<SlotId>>,
    /// The watermark after the batch: stored timers up to it must be in memory.
    pub watermark: Option<EventTime>,
    /// Event time before the batch.
    pub began: LaneTime,
}

impl<'a> Prepared<'a> {
    /// Creates a batch that has nothing but its records.
    pub(super) fn new(batch: Batch<'a>, began: LaneTime) -> Prepared<'a> {
        Prepared {
            batch,
            letters: Vec::new(),
            strikes: Vec::new(),
            counts: Counts::default(),
            missing: Vec::new(),
            watermark: began.watermark,
            began,
        }
    }

    /// The batch's records; empty for an idle advance.
    pub(super) fn records(&self) -> &'a Records {
        self.batch.records
    }

    /// Makes dead letters of records that are not mapped.
    pub(super) fn leave_out(&mut self, records: &[(u32, LeftOut)]) {
        for &(record, why) in records {
            let record = record as usize;
            let (stage, reason) = match why {
                LeftOut::Timestamp(timestamp) => match plausible(timestamp) {
                    Err(why) => (Stage::Time, why.reason(timestamp)),
                    Ok(_) => continue,
                },
                LeftOut::TooLarge => {
                    (Stage::Map, too_large(self.batch.records, record, self.batch.plugin.limits.record_bytes))
                }
            };
            self.letters.push(self.batch.record_letter(record, Place::of_record(record), stage, None, reason));
        }
    }

    /// Takes over what a worker mapped. Chunks come in the order of their records.
    pub(super) fn take(&mut self, chunk: MappedChunk) {
        let records = self.batch.records;
        for (record, reason, struck) in chunk.rejected {
            if struck {
                let (partition, offset) = (Partition(records.partitions[record]), Offset(records.offsets[record]));
                let item = StrikeItem::Record { partition, offset };
                let strike = Strike { item, key: None, record: Some((partition, offset)), reason: reason.clone() };
                self.strikes.push(strike);
            }
            let place = Place::of_record(record);
            self.letters.push(self.batch.record_letter(record, place, Stage::Map, None, reason));
        }
        self.batch.hashes.extend_from_slice(&chunk.hashes);
        self.batch.events.append(chunk.events);
    }
}

fn too_large(records: &Records, record: usize, limit: u64) -> String {
    let cut = records.cut(record);
    let beyond = |part: Option<&Digested>, kept: usize| part.map_or(0, |whole| whole.bytes - kept as u64);
    let payload = beyond(cut.and_then(|cut| cut.payload.as_ref()), records.payloads.get(record).len());
    let key = beyond(cut.and_then(|cut| cut.key.as_ref()), records.keys.get(record).len());
    let bytes = records.size(record) as u64 + payload + key;
    let more = if cut.is_some_and(|cut| cut.headers.is_some()) { " without its headers" } else { "" };
    format!("the record has {bytes} bytes{more}, but plugin.record_bytes is {limit}")
}
