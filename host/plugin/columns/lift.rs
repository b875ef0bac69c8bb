//! What the contract's calls returned, verified and taken over as the host's columns.

use crate::plugin::bindings::exports::keyfold::mapper::mapper as wit;
use crate::plugin::columns::{Changes, END_BYTES, Events, FoldInput, Rejection, TimerInput, change, start_of};
use crate::plugin::{Fault, Limits};
use crate::record::{ByteColumn, NO_TIME};
use crate::row::json::first_invalid;
use crate::row::{Column, ColumnData, ColumnType, Part, Table, TextColumn};

/// What is kept of a reason that a plugin gives, in bytes: it goes into logs, dead letters or the journal.
const MOST_REASON: usize = 4 << 10;

/// Returns what is kept of a reason.
pub(in crate::plugin) fn kept(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MOST_REASON)]
}

/// Verifies what `migrate` returned: as many values and list items as it was given.
pub(in crate::plugin) fn lift_states(
    batch: wit::StateBatchResult,
    values: usize,
    items: usize,
) -> Result<(ByteColumn, ByteColumn), Fault> {
    let wit::StateBatchResult { values: v, list_items: l } = batch;
    Ok((byte_column("values", v.data, v.ends, values)?, byte_column("list-items", l.data, l.ends, items)?))
}

/// The bytes of log lines. An empty one takes room too.
pub(in crate::plugin) fn log_bytes(lines: &[wit::LogLine]) -> usize {
    lines.iter().map(|line| line.message.len() + END_BYTES).sum()
}

/// Verifies what `map-records` returned for `n` records.
pub(in crate::plugin) fn lift_events(
    batch: wit::EventBatch,
    n: usize,
    logged: usize,
    limits: &Limits,
) -> Result<Events, Fault> {
    let count = batch.records.len();
    length("event-batch.event-times", batch.event_times.len(), count)?;
    let keys = byte_column("event-batch.keys", batch.keys.data, batch.keys.ends, count)?;
    let keys =
        TextColumn::new(keys).map_err(|i| Fault::malformed(format!("event-batch.keys: item {i} is not UTF-8")))?;
    let values = byte_column("event-batch.values", batch.values.data, batch.values.ends, count)?;
    if !batch.records.is_sorted() || batch.records.last().is_some_and(|&r| r as usize >= n) {
        return Err(Fault::malformed("event-batch.records: the indexes do not ascend, or are not records of the call"));
    }
    let rejections = lift_rejections(batch.rejections, n)?;
    if let Some(r) = rejections.iter().find(|r| batch.records.binary_search(&r.item).is_ok()) {
        return Err(Fault::malformed(format!("event-batch: record {} is rejected but has events", r.item)));
    }
    let bytes = keys.bytes().data.len() + values.data.len() + reason_bytes(&rejections) + logged;
    limits.check_output(count, bytes)?;
    let rejections = shortened(rejections);
    Ok(Events { records: batch.records, keys: keys.into_bytes(), event_times: batch.event_times, values, rejections })
}

/// Verifies what `fold` returned.
pub(in crate::plugin) fn lift_fold(
    batch: wit::ChangeBatch,
    input: &FoldInput,
    logged: usize,
    tables: &[Table],
    limits: &Limits,
) -> Result<Changes, Fault> {
    length("change-batch.consumed", batch.consumed.len(), input.keys.len())?;
    let changes = lift_changes(batch, (input.keys.len(), input.event_times.len()), logged, tables, limits)?;
    for i in 0..input.keys.len() {
        let first = start_of(&input.event_ends, i);
        let next = first + changes.consumed[i] as usize;
        let end = input.event_ends[i] as usize;
        if next > end {
            return Err(Fault::malformed(format!("change-batch.consumed: key {i} has only {} events", end - first)));
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
pub(in crate::plugin) fn lift_timers(
    batch: wit::ChangeBatch,
    input: &TimerInput,
    logged: usize,
    tables: &[Table],
    limits: &Limits,
) -> Result<Changes, Fault> {
    let changes = lift_changes(batch, (input.keys.len(), input.keys.len()), logged, tables, limits)?;
    if let Some(i) =
        (0..input.keys.len()).find(|&i| changes.timers[i] != NO_TIME && changes.timers[i] <= input.timers[i])
    {
        return Err(Fault::malformed(format!(
            "change-batch.timers: key {i} sets a timer that is not later than the one that fired"
        )));
    }
    Ok(changes)
}

fn lift_changes(
    batch: wit::ChangeBatch,
    (keys, items): (usize, usize),
    logged: usize,
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
    let rejections = lift_rejections(batch.rejections, items)?;
    // State is limited by itself: what one event puts and the next one clears is not here (D35).
    limits.check_output(row_count, row_bytes + reason_bytes(&rejections) + logged)?;
    Ok(Changes {
        consumed: batch.consumed,
        value_changes: batch.value_changes,
        values,
        list_changes: batch.list_changes,
        list_ends: batch.list_ends,
        list_items,
        timers: batch.timers,
        rows,
        rejections: shortened(rejections),
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
            "row-batch.items: table {} has a row for item {bad}, which was not in the call",
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
                "column {name}: is {}, but was declared {}",
                kind(&data).name(),
                spec.kind.name()
            )));
        }
        if !column.nulls.is_sorted() || column.nulls.last().is_some_and(|&n| n as usize >= batch.items.len()) {
            return Err(Fault::malformed(format!(
                "column {name}: the nulls do not ascend, or are not rows of the batch"
            )));
        }
        if let ColumnData::Json(texts) = &data
            && let Some((i, reason)) = first_invalid(texts, &column.nulls)
        {
            let item = batch.items[i];
            return Err(Fault::malformed(format!("column {name}: a row of item {item} is not valid JSON: {reason}")));
        }
        if spec.primary_key && !column.nulls.is_empty() {
            return Err(Fault::malformed(format!("column {name}: belongs to the primary key, but has nulls")));
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

pub(super) fn part_bytes(part: &Part) -> usize {
    let column = |c: &Column| match &c.data {
        ColumnData::Booleans(v) => v.len(),
        ColumnData::Integers(v) | ColumnData::Timestamps(v) => v.len() * 8,
        ColumnData::Floats(v) => v.len() * 8,
        ColumnData::Texts(v) | ColumnData::Json(v) => v.bytes().data.len(),
        ColumnData::Blobs(v) => v.data.len(),
        ColumnData::TextLists { items, .. } => items.bytes().data.len() + END_BYTES * items.len(),
        ColumnData::IntegerLists { items, .. } => items.len() * 8,
    };
    // Nulls may be named more than once.
    part.columns.iter().map(|c| column(c) + END_BYTES * c.nulls.len()).sum()
}

/// Cuts the reasons, after they were counted in full: each goes into a dead letter (D46).
fn shortened(mut rejections: Vec<Rejection>) -> Vec<Rejection> {
    for Rejection { reason, .. } in &mut rejections {
        if kept(reason).len() < reason.len() {
            *reason = kept(reason).to_owned();
        }
    }
    rejections
}

fn reason_bytes(rejections: &[Rejection]) -> usize {
    rejections.iter().map(|rejection| rejection.reason.len()).sum()
}

fn length(what: &str, found: usize, wanted: usize) -> Result<(), Fault> {
    if found == wanted {
        Ok(())
    } else {
        Err(Fault::malformed(format!("{what}: has {found} items instead of {wanted}")))
    }
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
        return Err(Fault::malformed(format!("{what}: the ends do not ascend to {total}")));
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
    use crate::row::ColumnSpec;

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

    #[test]
    fn everything_that_a_call_returns_is_counted_once() {
        let limits = Limits { output_bytes: 100, ..LIMITS };
        let verdict =
            |answer: wit::ChangeBatch, logged| lift_fold(answer, &input(NO_TIME), logged, &[], &limits).map(drop);
        let with_reason = |bytes: usize| {
            let rejections = vec![wit::Rejection { item: 0, reason: "r".repeat(bytes) }];
            wit::ChangeBatch { rejections, ..answer(2, NO_TIME) }
        };
        let lines = |bytes: usize| log_bytes(&[wit::LogLine { level: 0, message: "l".repeat(bytes) }]);
        assert_eq!(verdict(with_reason(100), 0), Ok(()));
        assert_eq!(verdict(with_reason(50), lines(46)), Ok(()));
        for refused in [verdict(with_reason(101), 0), verdict(with_reason(50), lines(47))] {
            assert!(
                matches!(&refused, Err(Fault::Plugin(why)) if why.contains("plugin.output_bytes is 100")),
                "{refused:?}"
            );
        }
    }

    /// A result that keeps the key as it is.
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
        match lift_fold(answer, &input(timer), 0, &[], &LIMITS) {
            Err(fault) => fault.text(),
            Ok(changes) => panic!("taken: {changes:?}"),
        }
    }

    #[test]
    fn a_key_may_stop_before_an_event_for_a_timer_that_is_due() {
        for (consumed, before, after) in [(2, NO_TIME, NO_TIME), (2, NO_TIME, 100), (0, 100, 100), (1, NO_TIME, 99)] {
            let changes = lift_fold(answer(consumed, after), &input(before), 0, &[], &LIMITS).expect("it fits");
            assert_eq!(changes.consumed, [consumed]);
        }
        assert!(refused(answer(1, 101), NO_TIME).contains("no timer was due"));
        assert!(refused(answer(0, NO_TIME), NO_TIME).contains("no timer was due"));
        assert!(refused(answer(3, NO_TIME), NO_TIME).contains("has only 2 events"));
    }

    #[test]
    fn a_key_without_a_folded_event_stays_as_it_is() {
        // Otherwise a fold that sets a due timer and folds nothing would be called without end.
        assert!(refused(answer(0, 100), NO_TIME).contains("was changed"));
        assert!(refused(answer(0, 99), 100).contains("was changed"));
        let cleared = wit::ChangeBatch { value_changes: vec![change::CLEAR], ..answer(0, 100) };
        assert!(refused(cleared, 100).contains("was changed"));
        let cleared = wit::ChangeBatch { list_changes: vec![change::CLEAR], ..answer(0, 100) };
        assert!(refused(cleared, 100).contains("was changed"));
    }

    #[test]
    fn a_json_column_holds_json() {
        let spec = ColumnSpec { name: "doc".into(), kind: ColumnType::Json, primary_key: false };
        let tables = [Table { name: "t".into(), columns: vec![spec] }];
        let lifted = |texts: &[&str], nulls: &[u32]| {
            let ends = texts.iter().scan(0, |end, text| {
                *end += u32::try_from(text.len()).expect("short");
                Some(*end)
            });
            let texts = wit::TextColumnResult { data: texts.concat().into_bytes(), ends: ends.collect() };
            let column = wit::Column { data: wit::ColumnData::Json(texts), nulls: nulls.to_vec() };
            let rows = vec![wit::RowBatch { table: 0, items: vec![0, 1], columns: vec![column] }];
            let changes = wit::ChangeBatch { rows, ..answer(2, NO_TIME) };
            lift_fold(changes, &input(NO_TIME), 0, &tables, &LIMITS).map_err(|fault| fault.text())
        };
        lifted(&["{\"a\":[1.50]}", "null"], &[]).expect("these are JSON");
        lifted(&["{}", ""], &[1]).expect("a null has no text");
        let reason = lifted(&["{}", "{'a': 1}"], &[]).expect_err("it is Python's");
        assert!(reason.contains("column t.doc: a row of item 1 is not valid JSON: "), "{reason}");
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
