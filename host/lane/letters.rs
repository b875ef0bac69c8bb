//! Dead letters of a batch, each with its place in the lane's order. Pure.

use crate::dead_letter::DeadLetter;
use crate::event_time::{EventTime, cell};
use crate::lane::batch::Batch;
use crate::lane::migration::Lost;
use crate::lane::place::Place;
use crate::plugin::Plugin;
use crate::position::Position;
use crate::record::{NO_TIME, RecordRef, Records};
use crate::state::Slot;
use crate::strike::Stage;

/// A dead letter with its place.
#[derive(Debug)]
pub(super) struct Letter {
    place: Place,
    key: Box<[u8]>,
    letter: DeadLetter,
}

/// Puts dead letters into the lane's order: by place, then by key.
pub(super) fn in_order(mut letters: Vec<Letter>) -> Vec<DeadLetter> {
    letters.sort_by(|a, b| (a.place, &a.key).cmp(&(b.place, &b.key)));
    letters.into_iter().map(|letter| letter.letter).collect()
}

impl Batch<'_> {
    /// The dead letter of an event carries its record.
    pub(super) fn event_letter(&self, event: u32, stage: Stage, reason: String) -> Letter {
        let record = self.events.records[event as usize] as usize;
        let index = self.events.indexes[event as usize];
        self.record_letter(record, self.event_place(event), stage, Some(index), reason)
    }

    /// The dead letter of a record, or of one of its events.
    pub(super) fn record_letter(
        &self,
        record: usize,
        place: Place,
        stage: Stage,
        event: Option<u32>,
        reason: String,
    ) -> Letter {
        let is_large = self.records.size(record) as u64 > self.plugin.limits.record_bytes;
        let copy = if is_large || self.records.cut(record).is_some() {
            self.records.shortened(record)
        } else {
            let mut copy = Records::default();
            copy.append(self.records, record..record + 1);
            copy
        };
        let letter =
            DeadLetter { stage, reason, plugin: self.plugin.digest.0.clone(), deployment: None, event, record: copy };
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
        let at = self.step_record(step);
        let letter = state_letter(Stage::Timer, at, slot.key(), lost_state(Some(time), slot), reason, &self.plugin);
        Letter { place, key: slot.key().into(), letter }
    }

    /// The dead letter of a state that could not be migrated, in this batch's order.
    pub(super) fn lost_letter(&self, lost: Lost) -> Letter {
        Letter { place: Place::of_migration(), key: lost.key[..].into(), letter: migration_letter(lost, &self.plugin) }
    }
}

/// Returns the dead letter of a state that could not be migrated. It names no record: when a state is migrated depends on the run (D17, D40).
pub(super) fn migration_letter(lost: Lost, plugin: &Plugin) -> DeadLetter {
    state_letter(Stage::Migrate, None, &lost.key, lost.state, lost.reason, plugin)
}

/// Returns the dead letter of a key's state, lost at a record.
fn state_letter(
    stage: Stage,
    at: Option<Position>,
    key: &[u8],
    state: serde_json::Value,
    reason: String,
    plugin: &Plugin,
) -> DeadLetter {
    let mut record = Records::default();
    record.push(RecordRef {
        partition: at.map_or(0, |at| at.partition.0),
        offset: at.map_or(0, |at| at.offset.0),
        append_time: at.map_or(NO_TIME, |at| at.append_time.ms()),
        key: Some(key),
        payload: Some(state.to_string().as_bytes()),
        headers: None,
    });
    DeadLetter { stage, reason, plugin: plugin.digest.0.clone(), deployment: None, event: None, record }
}

/// Returns what a key loses, as its dead letter carries it: timer, value and list.
pub(super) fn lost_state(time: Option<EventTime>, slot: &Slot) -> serde_json::Value {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let items: Vec<_> = slot.list().map(|item| BASE64_STANDARD.encode(item)).collect();
    serde_json::json!({
        "timer": cell(time),
        "value_base64": slot.value().map(|v| BASE64_STANDARD.encode(v)),
        "list_base64": items,
    })
}
