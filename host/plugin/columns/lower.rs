//! The host's columns as parameters of the contract's calls. They borrow: nothing is copied but ends that must be counted from elsewhere.

use std::borrow::Cow;
use std::ops::Range;

use crate::plugin::bindings::exports::keyfold::mapper::mapper as wit;
use crate::plugin::columns::{FoldInput, TimerInput, start_of};
use crate::record::{ByteColumn, Records};

/// Rows `range` of a batch as parameters of `map-records`.
pub(in crate::plugin) struct MapInput<'a> {
    records: &'a Records,
    range: Range<usize>,
    key_ends: Cow<'a, [u32]>,
    payload_ends: Cow<'a, [u32]>,
    null_keys: Vec<u32>,
    null_payloads: Vec<u32>,
    headers: Option<Headers<'a>>,
}

struct Headers<'a> {
    ends: Cow<'a, [u32]>,
    range: Range<usize>,
    name_ends: Cow<'a, [u32]>,
    value_ends: Cow<'a, [u32]>,
}

impl<'a> MapInput<'a> {
    /// Prepares the ends that differ from those of the whole batch.
    pub(in crate::plugin) fn new(records: &'a Records, range: Range<usize>, with_headers: bool) -> MapInput<'a> {
        let headers = with_headers.then(|| {
            let ends = &records.headers.ends;
            let items = start_of(ends, range.start)..start_of(ends, range.end);
            Headers {
                ends: rebased(ends, range.clone()),
                name_ends: rebased(&records.headers.names.ends, items.clone()),
                value_ends: rebased(&records.headers.values.ends, items.clone()),
                range: items,
            }
        });
        MapInput {
            records,
            key_ends: rebased(&records.keys.ends, range.clone()),
            payload_ends: rebased(&records.payloads.ends, range.clone()),
            null_keys: nulls_in(&records.null_keys, &range),
            null_payloads: nulls_in(&records.null_payloads, &range),
            headers,
            range,
        }
    }

    /// Returns the parameters.
    pub(in crate::plugin) fn lower(&self) -> wit::RecordBatch<'_> {
        let (records, range) = (self.records, self.range.clone());
        wit::RecordBatch {
            partitions: &records.partitions[range.clone()],
            offsets: &records.offsets[range.clone()],
            append_times: &records.append_times[range.clone()],
            keys: column(&records.keys, &range, &self.key_ends),
            payloads: column(&records.payloads, &range, &self.payload_ends),
            null_keys: &self.null_keys,
            null_payloads: &self.null_payloads,
            headers: self.headers.as_ref().map(|h| wit::HeaderColumns {
                ends: &h.ends,
                names: text(column(&records.headers.names, &h.range, &h.name_ends)),
                values: column(&records.headers.values, &h.range, &h.value_ends),
            }),
        }
    }
}

/// Ends of the items in `range`, counted from the range's start. Borrowed if the range starts at the beginning.
fn rebased(ends: &[u32], range: Range<usize>) -> Cow<'_, [u32]> {
    match if range.start == 0 { 0 } else { ends[range.start - 1] } {
        0 => Cow::Borrowed(&ends[range]),
        base => Cow::Owned(ends[range].iter().map(|e| e - base).collect()),
    }
}

/// The nulls in `range`, counted from the range's start.
fn nulls_in(nulls: &[u32], range: &Range<usize>) -> Vec<u32> {
    let first = nulls.partition_point(|&n| (n as usize) < range.start);
    let last = nulls.partition_point(|&n| (n as usize) < range.end);
    let base = u32::try_from(range.start).expect("a batch has fewer than 2^32 records");
    nulls[first..last].iter().map(|n| n - base).collect()
}

fn column<'a>(column: &'a ByteColumn, range: &Range<usize>, ends: &'a [u32]) -> wit::ByteColumnParam<'a> {
    let data = &column.data[start_of(&column.ends, range.start)..start_of(&column.ends, range.end)];
    wit::ByteColumnParam { data, ends }
}

fn whole(column: &ByteColumn) -> wit::ByteColumnParam<'_> {
    wit::ByteColumnParam { data: &column.data, ends: &column.ends }
}

fn text(column: wit::ByteColumnParam<'_>) -> wit::TextColumnParam<'_> {
    wit::TextColumnParam { data: column.data, ends: column.ends }
}

/// Returns the parameters of `fold`.
pub(in crate::plugin) fn lower_fold(input: &FoldInput) -> wit::FoldBatch<'_> {
    wit::FoldBatch {
        keys: text(whole(&input.keys)),
        value_present: &input.value_present,
        values: whole(&input.values),
        timers: &input.timers,
        event_ends: &input.event_ends,
        event_values: whole(&input.event_values),
        event_times: &input.event_times,
        watermarks: &input.watermarks,
        append_times: &input.append_times,
        partitions: &input.partitions,
        offsets: &input.offsets,
        indexes: &input.indexes,
    }
}

/// Returns the parameters of `on-timer`.
pub(in crate::plugin) fn lower_timers(input: &TimerInput) -> wit::TimerBatch<'_> {
    wit::TimerBatch {
        keys: text(whole(&input.keys)),
        value_present: &input.value_present,
        values: whole(&input.values),
        list_ends: &input.list_ends,
        list_items: whole(&input.list_items),
        timers: &input.timers,
    }
}

/// Returns the parameters of `migrate`.
pub(in crate::plugin) fn lower_states<'a>(values: &'a ByteColumn, items: &'a ByteColumn) -> wit::StateBatchParam<'a> {
    wit::StateBatchParam { values: whole(values), list_items: whole(items) }
}
