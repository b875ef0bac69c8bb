//! Places: where each row and dead letter belongs in the lane's order. Pure. Keeps I5: the order follows from the log, not from the
//! shard or the call that produced a row.

use std::sync::Arc;

use crate::event_time::EventTime;
use crate::row::{Origin, Part, RowRef, Rows, Table};
use crate::state::{Shard, SlotId};

/// A place in the lane's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Three per record: timers of an idle advance before it, its events, timers after it.
    major: u64,
    /// For events: twice the index, plus one for the event's own output. For timers: the timer's time.
    minor: i64,
}

impl Place {
    /// The place of timers of this time that fire at a step of the timeline.
    pub(super) fn of_timer(step: usize, time: EventTime) -> Place {
        Place { major: step as u64 / 2 * 3 + if step.is_multiple_of(2) { 0 } else { 2 }, minor: time.ms() }
    }

    /// The place of what an event produces.
    pub(super) fn of_event(record: u32, event: u32) -> Place {
        Place { major: u64::from(record) * 3 + 1, minor: i64::from(event) * 2 + 1 }
    }

    /// The place of what concerns a whole record: before its events.
    pub(super) fn of_record(record: usize) -> Place {
        Place { major: record as u64 * 3 + 1, minor: -1 }
    }

    /// The place of states that are lost to a migration: ahead of the batch's first record.
    pub(super) fn of_migration() -> Place {
        Place { major: 0, minor: -1 }
    }

    /// The place just before what the event itself produces.
    pub(super) fn ahead(self) -> Place {
        Place { minor: self.minor - 1, ..self }
    }

    fn is_of_an_event(self) -> bool {
        self.major % 3 == 1
    }
}

/// A row of a shard with its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlacedRow {
    place: Place,
    /// The first bytes of the key, which order timers of equal time; 0 for rows of events.
    prefix: u64,
    /// The key's slot, for keys with the same first bytes.
    slot: SlotId,
    /// (call, part, row): the order of the rows of one event or firing.
    sequence: (u64, u32, u32),
    origin: Origin,
}

impl PlacedRow {
    /// Places row `at` (part, row) of a call. `key` is the slot and bytes of a firing's key, none for a row of an event.
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

/// Returns a key's first eight bytes as a number that sorts as the key does. A shorter key counts as padded with zeros.
fn prefix(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = key.len().min(8);
    bytes[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(bytes)
}

/// Merges the rows of all shards into the lane's order.
pub(super) fn in_order(tables: Arc<[Table]>, shards: &[Shard], outputs: Vec<(Vec<Part>, Vec<PlacedRow>)>) -> Rows {
    let mut rows = Rows::new(tables);
    let mut placed: Vec<(usize, u32, PlacedRow)> = Vec::with_capacity(outputs.iter().map(|(_, rows)| rows.len()).sum());
    for (shard, (parts, shard_rows)) in outputs.into_iter().enumerate() {
        let base = u32::try_from(rows.parts.len()).expect("a batch has fewer than 2^32 parts");
        placed.extend(shard_rows.into_iter().map(|row| (shard, base, row)));
        rows.parts.extend(parts);
    }
    let key = |shard: usize, row: &PlacedRow| -> &[u8] {
        if row.place.is_of_an_event() { &[] } else { shards[shard].slot(row.slot).key() }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Offset, Partition};
    use crate::state::hash;

    #[test]
    fn a_record_s_outputs_lie_between_the_timers_before_and_after_it() {
        let timer = |step, ms| Place::of_timer(step, EventTime::at(ms));
        let order = [
            Place::of_migration(),
            timer(0, 7),
            timer(0, 8),
            Place::of_record(0),
            Place::of_event(0, 0).ahead(),
            Place::of_event(0, 0),
            Place::of_event(0, 1).ahead(),
            Place::of_event(0, 1),
            timer(1, 3),
            timer(2, -5),
            Place::of_record(1),
        ];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    }

    #[test]
    fn a_prefix_sorts_as_its_key() {
        let keys: [&[u8]; 5] = [b"", b"a", b"a\x01", b"ab", b"abcdefghi"];
        assert!(keys.map(prefix).is_sorted());
        assert_eq!(prefix(b"abcdefgh"), prefix(b"abcdefghi"), "the slot's whole key decides between these");
    }

    #[test]
    fn i5_timers_of_equal_time_are_ordered_by_key_whatever_their_shards() {
        let origin = |offset| Origin { partition: Partition(0), offset: Offset(offset), event: None };
        let place = Place::of_timer(1, EventTime::at(5));
        let keys: [&[u8]; 3] = [b"a long key, first", b"a long key, second", b"b"];
        let order = |shard_of: [usize; 3]| {
            let mut shards = [Shard::default(), Shard::default()];
            let mut outputs: Vec<(Vec<Part>, Vec<PlacedRow>)> = vec![Default::default(), Default::default()];
            for (n, (key, shard)) in keys.iter().zip(shard_of).enumerate().rev() {
                let slot = shards[shard].slot_of(hash(key), key, true);
                outputs[shard].1.push(PlacedRow::new(place, Some((slot, key)), 1, (0, 0), origin(n as u64)));
            }
            let rows = in_order(Arc::new([]), &shards, outputs);
            rows.order.iter().map(|row| row.origin.offset.0).collect::<Vec<_>>()
        };
        assert_eq!(order([0, 1, 0]), [0, 1, 2]);
        assert_eq!(order([1, 0, 0]), [0, 1, 2]);
        assert_eq!(order([1, 1, 1]), [0, 1, 2]);
    }
}
