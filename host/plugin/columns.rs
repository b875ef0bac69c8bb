//! The columns of the contract's calls, as the host holds them. [`lower`] passes them into the sandbox without copying; [`lift`] verifies what
//! comes out. A result that does not fit the contract is the plugin's fault ([`Fault::malformed`](crate::plugin::Fault)); code behind these
//! files can trust every column.

pub(super) mod lift;
pub(super) mod lower;

use crate::record::ByteColumn;
use crate::row::Part;

/// An item of a call that the plugin rejects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Index of the record (`map-records`), event (`fold`) or key (`on-timer`).
    pub item: u32,
    /// The plugin's reason.
    pub reason: String,
}

/// What `map-records` returned, verified.
#[derive(Debug)]
pub struct Events {
    /// The record of the call that each event comes from, ascending.
    pub records: Vec<u32>,
    /// UTF-8 keys.
    pub keys: ByteColumn,
    /// Event times, ms.
    pub event_times: Vec<i64>,
    /// Values, opaque to the host.
    pub values: ByteColumn,
    /// Rejected records, ascending.
    pub rejections: Vec<Rejection>,
}

/// What is counted for each item of a list, null or log line besides its bytes, where a limit counts them: however small it is, it occupies the
/// host.
pub const END_BYTES: usize = 4;

/// What an item takes beside its bytes, about.
const ITEM: usize = 16;

impl Events {
    /// Returns about how many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        self.records.len() * ITEM + self.keys.data.len() + self.values.data.len() + rejected(&self.rejections)
    }
}

fn rejected(rejections: &[Rejection]) -> usize {
    rejections.iter().map(|rejection| ITEM + rejection.reason.len()).sum()
}

/// What `fold` takes: keys, each with its events.
#[derive(Debug, Default)]
pub struct FoldInput {
    /// Keys.
    pub keys: ByteColumn,
    /// 1 where the key has a value state, else 0.
    pub value_present: Vec<u8>,
    /// Value states.
    pub values: ByteColumn,
    /// Timers, ms; [`NO_TIME`](crate::record::NO_TIME) where there is none.
    pub timers: Vec<i64>,
    /// Where each key's events end.
    pub event_ends: Vec<u32>,
    /// Values of the events.
    pub event_values: ByteColumn,
    /// Times of the events, ms.
    pub event_times: Vec<i64>,
    /// The watermark before each event's record, ms.
    pub watermarks: Vec<i64>,
    /// Append time of each event's record, ms.
    pub append_times: Vec<i64>,
    /// Partition of each event's record.
    pub partitions: Vec<u32>,
    /// Offset of each event's record.
    pub offsets: Vec<u64>,
    /// Index of each event in its record.
    pub indexes: Vec<u32>,
    /// The size of the largest state of a key with several events here, bytes; none if no key has several. The plugin is not given it.
    pub most_state: Option<usize>,
}

impl FoldInput {
    /// Removes everything, but keeps the buffers.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.value_present.clear();
        self.values.clear();
        self.timers.clear();
        self.event_ends.clear();
        self.event_values.clear();
        self.event_times.clear();
        self.watermarks.clear();
        self.append_times.clear();
        self.partitions.clear();
        self.offsets.clear();
        self.indexes.clear();
        self.most_state = None;
    }
}

/// What `on-timer` takes: keys whose timer is due.
#[derive(Debug, Default)]
pub struct TimerInput {
    /// Keys.
    pub keys: ByteColumn,
    /// 1 where the key has a value state, else 0.
    pub value_present: Vec<u8>,
    /// Value states.
    pub values: ByteColumn,
    /// Where each key's list items end.
    pub list_ends: Vec<u32>,
    /// List items.
    pub list_items: ByteColumn,
    /// The times that fire, ms.
    pub timers: Vec<i64>,
}

impl TimerInput {
    /// Removes everything, but keeps the buffers.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.value_present.clear();
        self.values.clear();
        self.list_ends.clear();
        self.list_items.clear();
        self.timers.clear();
    }
}

/// Change codes of the contract.
pub mod change {
    /// Keep the value, or the list, as it is.
    pub const KEEP: u8 = 0;
    /// Replace the value, or append the items.
    pub const PUT: u8 = 1;
    /// Remove the value, or all items.
    pub const CLEAR: u8 = 2;
    /// Remove all items, then append.
    pub const REPLACE: u8 = 3;
}

/// What `fold` or `on-timer` returned, verified; one entry per key of the call.
#[derive(Debug)]
pub struct Changes {
    /// How many of the key's events were folded.
    pub consumed: Vec<u32>,
    /// A [`change`] code.
    pub value_changes: Vec<u8>,
    /// New value states.
    pub values: ByteColumn,
    /// A [`change`] code.
    pub list_changes: Vec<u8>,
    /// Where each key's appended items end.
    pub list_ends: Vec<u32>,
    /// Appended items.
    pub list_items: ByteColumn,
    /// Timers, ms; [`NO_TIME`](crate::record::NO_TIME) where there is none.
    pub timers: Vec<i64>,
    /// Rows with the event (`fold`) or key (`on-timer`) that each comes from.
    pub rows: Vec<(Part, Vec<u32>)>,
    /// Rejected events or keys, ascending.
    pub rejections: Vec<Rejection>,
}

impl Changes {
    /// Returns about how many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        let rows: usize = self.rows.iter().map(|(part, items)| lift::part_bytes(part) + items.len() * ITEM).sum();
        let lists = self.list_items.ends.len() * ITEM + self.list_items.data.len();
        rows + self.values.data.len() + lists + rejected(&self.rejections)
    }

    /// Which of the appended items are those of key `i`.
    pub fn items_of(&self, i: usize) -> std::ops::Range<usize> {
        start_of(&self.list_ends, i)..self.list_ends[i] as usize
    }

    /// Whether key `i`, whose timer was `timer`, is not as it was.
    fn changes_key(&self, i: usize, timer: i64) -> bool {
        self.timers[i] != timer || self.value_changes[i] != change::KEEP || self.list_changes[i] != change::KEEP
    }
}

/// Where item `i` starts, given where items end.
fn start_of(ends: &[u32], i: usize) -> usize {
    if i == 0 { 0 } else { ends[i - 1] as usize }
}
