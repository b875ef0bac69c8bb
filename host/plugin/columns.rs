//! Between the host's columns and the contract's: lowers what goes into the sandbox without copying it, and verifies what comes out. What
//! does not fit the contract is the plugin's fault ([`Fault::malformed`]); nothing behind this file needs to doubt a column.

use std::borrow::Cow;
use std::ops::Range;

use crate::plugin::bindings::exports::keyfold::mapper::mapper as wit;
use crate::plugin::{Fault, Limits};
use crate::record::{ByteColumn, NO_TIME, Records};
use crate::row::{Column, ColumnData, ColumnType, Part, Table, TextColumn};

/// A plugin's word on one item of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Record of `map`, event of `fold`, key of `on_timer`.
    pub item: u32,
    /// Why.
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

/// What `fold` takes: keys, each with its events.
#[derive(Debug, Default)]
pub struct FoldInput {
    /// Keys.
    pub keys: ByteColumn,
    /// 1 where the key has a value state.
    pub value_present: Vec<u8>,
    /// Value states.
    pub values: ByteColumn,
    /// Timers, or [`NO_TIME`].
    pub timers: Vec<i64>,
    /// Where each key's events end.
    pub event_ends: Vec<u32>,
    /// Values of the events.
    pub event_values: ByteColumn,
    /// Times of the events.
    pub event_times: Vec<i64>,
    /// The watermark before each event's record.
    pub watermarks: Vec<i64>,
    /// Append time of each event's record.
    pub append_times: Vec<i64>,
    /// Partition of each event's record.
    pub partitions: Vec<u32>,
    /// Offset of each event's record.
    pub offsets: Vec<u64>,
    /// Index of each event in its record.
    pub indexes: Vec<u32>,
}

impl FoldInput {
    /// Removes all, keeps the buffers.
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
    }
}

/// What `on-timer` takes: keys whose timer is due.
#[derive(Debug, Default)]
pub struct TimerInput {
    /// Keys.
    pub keys: ByteColumn,
    /// 1 where the key has a value state.
    pub value_present: Vec<u8>,
    /// Value states.
    pub values: ByteColumn,
    /// Where each key's list items end.
    pub list_ends: Vec<u32>,
    /// List items.
    pub list_items: ByteColumn,
    /// The times that fire.
    pub timers: Vec<i64>,
}

impl TimerInput {
    /// Removes all, keeps the buffers.
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
    /// Leave it.
    pub const KEEP: u8 = 0;
    /// Put the value; append the items.
    pub const PUT: u8 = 1;
    /// Clear it.
    pub const CLEAR: u8 = 2;
    /// Clear the list, then append.
    pub const REPLACE: u8 = 3;
}

/// What `fold` or `on-timer` returned, verified; one entry per key of the call.
#[derive(Debug)]
pub struct Changes {
    /// Events folded.
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
    /// Timers, or [`NO_TIME`].
    pub timers: Vec<i64>,
    /// Rows with the event (`fold`) or key (`on-timer`) that each comes from.
    pub rows: Vec<(Part, Vec<u32>)>,
    /// Rejected events or keys, ascending.
    pub rejections: Vec<Rejection>,
}

impl Changes {
    fn changes_key(&self, i: usize, timer: i64) -> bool {
        self.timers[i] != timer || self.value_changes[i] != change::KEEP || self.list_changes[i] != change::KEEP
    }
}

/// Rows `range` of a batch as parameters of a call.
pub(super) struct MapInput<'a> {
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
    pub(super) fn new(records: &'a Records, range: Range<usize>, with_headers: bool) -> MapInput<'a> {
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

    pub(super) fn lower(&self) -> wit::RecordBatch<'_> {
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

fn start_of(ends: &[u32], i: usize) -> usize {
    if i == 0 { 0 } else { ends[i - 1] as usize }
}

fn rebased(ends: &[u32], range: Range<usize>) -> Cow<'_, [u32]> {
    match if range.start == 0 { 0 } else { ends[range.start - 1] } {
        0 => Cow::Borrowed(&ends[range]),
        base => Cow::Owned(ends[range].iter().map(|e| e - base).collect()),
    }
}

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

pub(super) fn lower_fold(input: &FoldInput) -> wit::FoldBatch<'_> {
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

pub(super) fn lower_timers(input: &TimerInput) -> wit::TimerBatch<'_> {
    wit::TimerBatch {
        keys: text(whole(&input.keys)),
        value_present: &input.value_present,
        values: whole(&input.values),
        list_ends: &input.list_ends,
        list_items: whole(&input.list_items),
        timers: &input.timers,
    }
}

/// Verifies what `map-records` returned for `n` records.
pub(super) fn lower_states<'a>(values: &'a ByteColumn, items: &'a ByteColumn) -> wit::StateBatchParam<'a> {
    wit::StateBatchParam { values: whole(values), list_items: whole(items) }
}

/// Values and list items, as many as were given.
pub(super) fn lift_states(
    batch: wit::StateBatchResult,
    values: usize,
    items: usize,
) -> Result<(ByteColumn, ByteColumn), Fault> {
    let wit::StateBatchResult { values: v, list_items: l } = batch;
    Ok((byte_column("values", v.data, v.ends, values)?, byte_column("list-items", l.data, l.ends, items)?))
}

pub(super) fn lift_events(batch: wit::EventBatch, n: usize, limits: &Limits) -> Result<Events, Fault> {
    let count = batch.records.len();
    length("event-batch.event-times", batch.event_times.len(), count)?;
    let keys = byte_column("event-batch.keys", batch.keys.data, batch.keys.ends, count)?;
    let keys =
        TextColumn::new(keys).map_err(|i| Fault::malformed(format!("event-batch.keys: item {i} is not UTF-8")))?;
    let values = byte_column("event-batch.values", batch.values.data, batch.values.ends, count)?;
    if !batch.records.is_sorted() || batch.records.last().is_some_and(|&r| r as usize >= n) {
        return Err(Fault::malformed("event-batch.records: not ascending, or past the records of the call"));
    }
    let rejections = lift_rejections(batch.rejections, n)?;
    if let Some(r) = rejections.iter().find(|r| batch.records.binary_search(&r.item).is_ok()) {
        return Err(Fault::malformed(format!("event-batch: record {} is rejected and has events", r.item)));
    }
    limits.check_output(count, keys.bytes().data.len() + values.data.len())?;
    Ok(Events { records: batch.records, keys: keys.into_bytes(), event_times: batch.event_times, values, rejections })
}

/// Verifies what `fold` returned.
pub(super) fn lift_fold(
    batch: wit::ChangeBatch,
    input: &FoldInput,
    tables: &[Table],
    limits: &Limits,
) -> Result<Changes, Fault> {
    length("change-batch.consumed", batch.consumed.len(), input.keys.len())?;
    let changes = lift_changes(batch, input.keys.len(), input.event_times.len(), tables, limits)?;
    for i in 0..input.keys.len() {
        let first = start_of(&input.event_ends, i);
        let next = first + changes.consumed[i] as usize;
        let end = input.event_ends[i] as usize;
        if next > end {
            return Err(Fault::malformed(format!("change-batch.consumed: key {i} has {} events", end - first)));
        }
        if next < end && (changes.timers[i] == NO_TIME || changes.timers[i] > input.watermarks[next]) {
            return Err(Fault::malformed(format!(
                "change-batch.consumed: key {i} stopped before an event while no timer was due"
            )));
        }
        if next == first && changes.changes_key(i, input.timers[i]) {
            return Err(Fault::malformed(format!(
                "change-batch.consumed: key {i} was changed though none of its events was folded"
            )));
        }
    }
    Ok(changes)
}

/// Verifies what `on-timer` returned.
pub(super) fn lift_timers(
    batch: wit::ChangeBatch,
    input: &TimerInput,
    tables: &[Table],
    limits: &Limits,
) -> Result<Changes, Fault> {
    let changes = lift_changes(batch, input.keys.len(), input.keys.len(), tables, limits)?;
    if let Some(i) =
        (0..input.keys.len()).find(|&i| changes.timers[i] != NO_TIME && changes.timers[i] <= input.timers[i])
    {
        return Err(Fault::malformed(format!(
            "change-batch.timers: key {i} set a timer that is not later than the one that fired"
        )));
    }
    Ok(changes)
}

fn lift_changes(
    batch: wit::ChangeBatch,
    keys: usize,
    items: usize,
    tables: &[Table],
    limits: &Limits,
) -> Result<Changes, Fault> {
    length("change-batch.value-changes", batch.value_changes.len(), keys)?;
    length("change-batch.list-changes", batch.list_changes.len(), keys)?;
    length("change-batch.timers", batch.timers.len(), keys)?;
    codes("change-batch.value-changes", &batch.value_changes, change::CLEAR)?;
    codes("change-batch.list-changes", &batch.list_changes, change::REPLACE)?;
    let values = byte_column("change-batch.values", batch.values.data, batch.values.ends, keys)?;
    let item_count = batch.list_items.ends.len();
    let list_items = byte_column("change-batch.list-items", batch.list_items.data, batch.list_items.ends, item_count)?;
    ends("change-batch.list-ends", &batch.list_ends, keys, item_count)?;
    let mut rows = Vec::with_capacity(batch.rows.len());
    for part in batch.rows {
        rows.push(lift_part(part, items, tables)?);
    }
    let row_count = rows.iter().map(|(_, items)| items.len()).sum();
    let row_bytes: usize = rows.iter().map(|(part, _)| part_bytes(part)).sum();
    limits.check_output(row_count, row_bytes + values.data.len() + list_items.data.len())?;
    Ok(Changes {
        consumed: batch.consumed,
        value_changes: batch.value_changes,
        values,
        list_changes: batch.list_changes,
        list_ends: batch.list_ends,
        list_items,
        timers: batch.timers,
        rows,
        rejections: lift_rejections(batch.rejections, items)?,
    })
}

fn lift_rejections(rejections: Vec<wit::Rejection>, items: usize) -> Result<Vec<Rejection>, Fault> {
    let mut lifted: Vec<_> = rejections.into_iter().map(|r| Rejection { item: r.item, reason: r.reason }).collect();
    lifted.sort_by_key(|r| r.item);
    match lifted.last() {
        Some(last) if last.item as usize >= items => {
            Err(Fault::malformed(format!("rejections: item {} was not in the call", last.item)))
        }
        _ if lifted.windows(2).any(|w| w[0].item == w[1].item) => {
            Err(Fault::malformed("rejections: an item is named twice"))
        }
        _ => Ok(lifted),
    }
}

fn lift_part(batch: wit::RowBatch, items: usize, tables: &[Table]) -> Result<(Part, Vec<u32>), Fault> {
    let Some(table) = tables.get(batch.table as usize) else {
        return Err(Fault::malformed(format!("row-batch.table: the description has no table {}", batch.table)));
    };
    if let Some(&bad) = batch.items.iter().find(|&&i| i as usize >= items) {
        return Err(Fault::malformed(format!(
            "row-batch.items: rows of table {} for item {bad}, which was not in the call",
            table.name
        )));
    }
    length("row-batch.columns", batch.columns.len(), table.columns.len())?;
    let mut columns = Vec::with_capacity(batch.columns.len());
    for (column, spec) in batch.columns.into_iter().zip(&table.columns) {
        let name = format!("{}.{}", table.name, spec.name);
        let data = lift_data(&name, column.data, batch.items.len())?;
        if kind(&data) != spec.kind {
            return Err(Fault::malformed(format!(
                "column {name}: is {}, was declared {}",
                kind(&data).name(),
                spec.kind.name()
            )));
        }
        if !column.nulls.is_sorted() || column.nulls.last().is_some_and(|&n| n as usize >= batch.items.len()) {
            return Err(Fault::malformed(format!("column {name}: nulls not ascending, or past the rows")));
        }
        if spec.primary_key && !column.nulls.is_empty() {
            return Err(Fault::malformed(format!("column {name}: null in the primary key")));
        }
        columns.push(Column { data, nulls: column.nulls });
    }
    Ok((Part { table: batch.table, columns }, batch.items))
}

fn lift_data(name: &str, data: wit::ColumnData, rows: usize) -> Result<ColumnData, Fault> {
    let text = |c: wit::TextColumnResult, n: Option<usize>| {
        let n = n.unwrap_or(c.ends.len());
        TextColumn::new(byte_column(name, c.data, c.ends, n)?)
            .map_err(|i| Fault::malformed(format!("column {name}: item {i} is not UTF-8")))
    };
    let sized = |n: usize| length(name, n, rows);
    Ok(match data {
        wit::ColumnData::Booleans(v) => {
            sized(v.len())?;
            ColumnData::Booleans(v)
        }
        wit::ColumnData::Integers(v) => {
            sized(v.len())?;
            ColumnData::Integers(v)
        }
        wit::ColumnData::Floats(v) => {
            sized(v.len())?;
            ColumnData::Floats(v)
        }
        wit::ColumnData::Timestamps(v) => {
            sized(v.len())?;
            ColumnData::Timestamps(v)
        }
        wit::ColumnData::Texts(c) => ColumnData::Texts(text(c, Some(rows))?),
        wit::ColumnData::Json(c) => ColumnData::Json(text(c, Some(rows))?),
        wit::ColumnData::Blobs(c) => ColumnData::Blobs(byte_column(name, c.data, c.ends, rows)?),
        wit::ColumnData::TextLists(c) => {
            let items = text(c.items, None)?;
            ends(name, &c.ends, rows, items.len())?;
            ColumnData::TextLists { items, ends: c.ends }
        }
        wit::ColumnData::IntegerLists(c) => {
            ends(name, &c.ends, rows, c.items.len())?;
            ColumnData::IntegerLists { items: c.items, ends: c.ends }
        }
    })
}

fn kind(data: &ColumnData) -> ColumnType {
    match data {
        ColumnData::Booleans(_) => ColumnType::Boolean,
        ColumnData::Integers(_) => ColumnType::Integer,
        ColumnData::Floats(_) => ColumnType::Float,
        ColumnData::Timestamps(_) => ColumnType::Timestamp,
        ColumnData::Texts(_) => ColumnType::Text,
        ColumnData::Blobs(_) => ColumnType::Blob,
        ColumnData::TextLists { .. } => ColumnType::TextList,
        ColumnData::IntegerLists { .. } => ColumnType::IntegerList,
        ColumnData::Json(_) => ColumnType::Json,
    }
}

fn part_bytes(part: &Part) -> usize {
    let column = |c: &Column| match &c.data {
        ColumnData::Booleans(v) => v.len(),
        ColumnData::Integers(v) | ColumnData::Timestamps(v) => v.len() * 8,
        ColumnData::Floats(v) => v.len() * 8,
        ColumnData::Texts(v) | ColumnData::Json(v) => v.bytes().data.len(),
        ColumnData::Blobs(v) => v.data.len(),
        ColumnData::TextLists { items, .. } => items.bytes().data.len(),
        ColumnData::IntegerLists { items, .. } => items.len() * 8,
    };
    part.columns.iter().map(column).sum()
}

fn length(what: &str, found: usize, wanted: usize) -> Result<(), Fault> {
    if found == wanted { Ok(()) } else { Err(Fault::malformed(format!("{what}: {found} items where {wanted} belong"))) }
}

fn codes(what: &str, codes: &[u8], greatest: u8) -> Result<(), Fault> {
    match codes.iter().find(|&&c| c > greatest) {
        Some(code) => Err(Fault::malformed(format!("{what}: unknown code {code}"))),
        None => Ok(()),
    }
}

fn ends(what: &str, ends: &[u32], items: usize, total: usize) -> Result<(), Fault> {
    length(what, ends.len(), items)?;
    if !ends.is_sorted() || ends.last().map_or(0, |&e| e as usize) != total {
        return Err(Fault::malformed(format!("{what}: ends do not ascend to {total}")));
    }
    Ok(())
}

fn byte_column(what: &str, data: Vec<u8>, column_ends: Vec<u32>, items: usize) -> Result<ByteColumn, Fault> {
    ends(what, &column_ends, items, data.len())?;
    Ok(ByteColumn { data, ends: column_ends })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = crate::config::DEFAULT_LIMITS;

    /// One key with a value, a timer at `timer`, and two events whose watermark is 100.
    fn input(timer: i64) -> FoldInput {
        let mut input = FoldInput::default();
        input.keys.push(b"key");
        input.value_present.push(1);
        input.values.push(b"value");
        input.timers.push(timer);
        input.event_ends.push(2);
        for index in 0..2 {
            input.event_values.push(b"event");
            input.event_times.push(200);
            input.watermarks.push(100);
            input.append_times.push(200);
            input.partitions.push(0);
            input.offsets.push(7);
            input.indexes.push(index);
        }
        input
    }

    /// An answer that keeps the key as it is.
    fn answer(consumed: u32, timer: i64) -> wit::ChangeBatch {
        let none = || wit::ByteColumnResult { data: Vec::new(), ends: Vec::new() };
        wit::ChangeBatch {
            consumed: vec![consumed],
            value_changes: vec![change::KEEP],
            values: wit::ByteColumnResult { data: Vec::new(), ends: vec![0] },
            list_changes: vec![change::KEEP],
            list_ends: vec![0],
            list_items: none(),
            timers: vec![timer],
            rows: Vec::new(),
            rejections: Vec::new(),
            logs: Vec::new(),
        }
    }

    fn refused(answer: wit::ChangeBatch, timer: i64) -> String {
        match lift_fold(answer, &input(timer), &[], &LIMITS) {
            Err(fault) => fault.text(),
            Ok(changes) => panic!("taken: {changes:?}"),
        }
    }

    #[test]
    fn a_key_may_stop_before_an_event_for_a_timer_that_is_due() {
        for (consumed, before, after) in [(2, NO_TIME, NO_TIME), (2, NO_TIME, 100), (0, 100, 100), (1, NO_TIME, 99)] {
            let changes = lift_fold(answer(consumed, after), &input(before), &[], &LIMITS).expect("it fits");
            assert_eq!(changes.consumed, [consumed]);
        }
        assert!(refused(answer(1, 101), NO_TIME).contains("no timer was due"));
        assert!(refused(answer(0, NO_TIME), NO_TIME).contains("no timer was due"));
        assert!(refused(answer(3, NO_TIME), NO_TIME).contains("has 2 events"));
    }

    #[test]
    fn a_key_of_which_nothing_was_folded_stays_as_it_is() {
        // Else a fold that sets a due timer and folds nothing is called without end.
        assert!(refused(answer(0, 100), NO_TIME).contains("was changed"));
        assert!(refused(answer(0, 99), 100).contains("was changed"));
        let cleared = wit::ChangeBatch { value_changes: vec![change::CLEAR], ..answer(0, 100) };
        assert!(refused(cleared, 100).contains("was changed"));
        let cleared = wit::ChangeBatch { list_changes: vec![change::CLEAR], ..answer(0, 100) };
        assert!(refused(cleared, 100).contains("was changed"));
    }

    #[test]
    fn columns_of_wrong_lengths_codes_and_ends_are_refused_by_name() {
        let wrong = |name: &str, answer: wit::ChangeBatch| {
            let reason = refused(answer, NO_TIME);
            assert!(reason.starts_with("malformed result: ") && reason.contains(name), "{name} in {reason:?}");
        };
        let right = || answer(2, NO_TIME);
        wrong("consumed", wit::ChangeBatch { consumed: vec![], ..right() });
        wrong("timers", wit::ChangeBatch { timers: vec![1, 2], ..right() });
        wrong("value-changes", wit::ChangeBatch { value_changes: vec![3], ..right() });
        wrong("list-changes", wit::ChangeBatch { list_changes: vec![4], ..right() });
        wrong("list-ends", wit::ChangeBatch { list_ends: vec![1], ..right() });
        let values = wit::ByteColumnResult { data: b"abc".to_vec(), ends: vec![2] };
        wrong("values", wit::ChangeBatch { values, ..right() });
        let rejection = |item| wit::Rejection { item, reason: "so".into() };
        wrong("item 2", wit::ChangeBatch { rejections: vec![rejection(2)], ..right() });
        wrong("named twice", wit::ChangeBatch { rejections: vec![rejection(1), rejection(1)], ..right() });
        let rows = vec![wit::RowBatch { table: 0, items: Vec::new(), columns: Vec::new() }];
        wrong("no table 0", wit::ChangeBatch { rows, ..right() });
    }
}
