//! A plugin's file, and what its calls return, as targets of fuzzing.

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::config::DEFAULT_LIMITS;
use crate::plugin::bindings::exports::keyfold::mapper::mapper as wit;
use crate::plugin::columns::lift::{lift_events, lift_fold, lift_states, lift_timers};
use crate::plugin::columns::{Changes, FoldInput, TimerInput};
use crate::plugin::component::wrap;
use crate::record::ByteColumn;
use crate::row::{ColumnSpec, ColumnType, Table};

/// The bytes of a plugin's file.
pub(crate) fn component(bytes: &[u8]) {
    let wrapped = wrap(bytes);
    assert_eq!(wrapped.is_ok(), wrap(bytes).is_ok(), "the same file, the same answer");
    if let Ok(component) = wrapped {
        assert_eq!(wrap(&component).ok().as_ref(), Some(&component), "what is wrapped is a component");
    }
}

/// What a call returned.
pub(crate) fn results(bytes: &[u8]) {
    let mut source = Unstructured::new(bytes);
    // A source that is used up gives zeros, so there is always a result.
    let _ = any_call(&mut source);
}

fn any_call(source: &mut Unstructured<'_>) -> Result<()> {
    match source.int_in_range(0..=3)? {
        0 => {
            let (batch, records) = (events(source)?, usize::from(u8::arbitrary(source)?));
            if let Ok(events) = lift_events(batch, records, 0, &DEFAULT_LIMITS) {
                assert_eq!(events.keys.len(), events.records.len());
                assert!(events.records.iter().all(|&record| (record as usize) < records));
                read_all(&events.keys);
                read_all(&events.values);
            }
        }
        1 => {
            let (input, tables, batch) = (fold_input(source)?, tables(), changes(source)?);
            if let Ok(changes) = lift_fold(batch, &input, 0, &tables, &DEFAULT_LIMITS) {
                read_changes(&changes, input.keys.len());
            }
        }
        2 => {
            let (input, tables, batch) = (timer_input(source)?, tables(), changes(source)?);
            if let Ok(changes) = lift_timers(batch, &input, 0, &tables, &DEFAULT_LIMITS) {
                read_changes(&changes, input.keys.len());
            }
        }
        _ => {
            let batch = wit::StateBatchResult { values: column(source)?, list_items: column(source)? };
            let (values, items) = (u8::arbitrary(source)?, u8::arbitrary(source)?);
            if let Ok((values, items)) = lift_states(batch, values.into(), items.into()) {
                read_all(&values);
                read_all(&items);
            }
        }
    }
    Ok(())
}

/// Reads all that the host reads of changes, by the indexes that it uses.
fn read_changes(changes: &Changes, keys: usize) {
    read_all(&changes.values);
    for key in 0..keys {
        let first = if key == 0 { 0 } else { changes.list_ends[key - 1] };
        let items = (first..changes.list_ends[key]).map(|item| changes.list_items.get(item as usize).len());
        assert!(items.sum::<usize>() <= changes.list_items.data.len());
        let _ = (changes.value_changes[key], changes.list_changes[key], changes.timers[key]);
    }
    for (part, items) in &changes.rows {
        for column in &part.columns {
            (0..items.len()).for_each(|row| drop(format!("{:?}", column.cell(row))));
        }
    }
}

/// Reads every item of a column: they are all of its bytes.
pub(crate) fn read_all(column: &ByteColumn) {
    assert_eq!((0..column.len()).map(|item| column.get(item).len()).sum::<usize>(), column.data.len());
}

fn column(source: &mut Unstructured<'_>) -> Result<wit::ByteColumnResult> {
    // Mostly items that fit, so that what lies behind the first check is reached.
    if source.ratio(1, 8)? {
        return Ok(wit::ByteColumnResult { data: Vec::arbitrary(source)?, ends: Vec::arbitrary(source)? });
    }
    let mut column = ByteColumn::default();
    for item in Vec::<Vec<u8>>::arbitrary(source)? {
        column.push(&item);
    }
    Ok(wit::ByteColumnResult { data: column.data, ends: column.ends })
}

fn texts(source: &mut Unstructured<'_>) -> Result<wit::TextColumnResult> {
    let wit::ByteColumnResult { data, ends } = column(source)?;
    Ok(wit::TextColumnResult { data, ends })
}

fn rejections(source: &mut Unstructured<'_>) -> Result<Vec<wit::Rejection>> {
    let items = Vec::<(u32, String)>::arbitrary(source)?;
    Ok(items.into_iter().map(|(item, reason)| wit::Rejection { item, reason }).collect())
}

fn events(source: &mut Unstructured<'_>) -> Result<wit::EventBatch> {
    Ok(wit::EventBatch {
        records: Vec::<u8>::arbitrary(source)?.into_iter().map(u32::from).collect(),
        keys: texts(source)?,
        event_times: Vec::arbitrary(source)?,
        values: column(source)?,
        rejections: rejections(source)?,
        logs: Vec::new(),
    })
}

fn changes(source: &mut Unstructured<'_>) -> Result<wit::ChangeBatch> {
    Ok(wit::ChangeBatch {
        consumed: Vec::<u8>::arbitrary(source)?.into_iter().map(u32::from).collect(),
        value_changes: Vec::arbitrary(source)?,
        values: column(source)?,
        list_changes: Vec::arbitrary(source)?,
        list_ends: Vec::<u8>::arbitrary(source)?.into_iter().map(u32::from).collect(),
        list_items: column(source)?,
        timers: Vec::arbitrary(source)?,
        rows: (0..source.int_in_range(0..=2)?).map(|_| rows(source)).collect::<Result<_>>()?,
        rejections: rejections(source)?,
        logs: Vec::new(),
    })
}

fn rows(source: &mut Unstructured<'_>) -> Result<wit::RowBatch> {
    let columns = KINDS.iter().map(|&kind| {
        // Mostly of the declared kind.
        let kind = if source.ratio(1, 8)? { *source.choose(&KINDS)? } else { kind };
        Ok(wit::Column { data: data(source, kind)?, nulls: Vec::arbitrary(source)? })
    });
    let columns = columns.collect::<Result<_>>()?;
    let items = Vec::<u8>::arbitrary(source)?.into_iter().map(u32::from).collect();
    Ok(wit::RowBatch { table: source.int_in_range(0..=1)?, items, columns })
}

fn data(source: &mut Unstructured<'_>, kind: ColumnType) -> Result<wit::ColumnData> {
    let ends = |source: &mut Unstructured<'_>| -> Result<Vec<u32>> {
        Ok(Vec::<u8>::arbitrary(source)?.into_iter().map(u32::from).collect())
    };
    Ok(match kind {
        ColumnType::Boolean => wit::ColumnData::Booleans(Vec::arbitrary(source)?),
        ColumnType::Integer => wit::ColumnData::Integers(Vec::arbitrary(source)?),
        ColumnType::Float => wit::ColumnData::Floats(Vec::arbitrary(source)?),
        ColumnType::Timestamp => wit::ColumnData::Timestamps(Vec::arbitrary(source)?),
        ColumnType::Text => wit::ColumnData::Texts(texts(source)?),
        ColumnType::Json => wit::ColumnData::Json(texts(source)?),
        ColumnType::Blob => wit::ColumnData::Blobs(column(source)?),
        ColumnType::TextList => {
            wit::ColumnData::TextLists(wit::TextListColumn { items: texts(source)?, ends: ends(source)? })
        }
        ColumnType::IntegerList => wit::ColumnData::IntegerLists(wit::IntegerListColumn {
            items: Vec::arbitrary(source)?,
            ends: ends(source)?,
        }),
    })
}

const KINDS: [ColumnType; 9] = [
    ColumnType::Text,
    ColumnType::Boolean,
    ColumnType::Integer,
    ColumnType::Float,
    ColumnType::Timestamp,
    ColumnType::Json,
    ColumnType::Blob,
    ColumnType::TextList,
    ColumnType::IntegerList,
];

/// A table with a column of each kind.
fn tables() -> Vec<Table> {
    let column =
        |(i, kind): (usize, &ColumnType)| ColumnSpec { name: format!("c{i}"), kind: *kind, primary_key: i == 0 };
    vec![Table { name: "t".into(), columns: KINDS.iter().enumerate().map(column).collect() }]
}

fn fold_input(source: &mut Unstructured<'_>) -> Result<FoldInput> {
    let mut input = FoldInput::default();
    for _ in 0..source.int_in_range(1..=3)? {
        input.keys.push(&[source.arbitrary()?]);
        input.value_present.push(source.int_in_range(0..=1)?);
        input.values.push(b"value");
        input.timers.push(source.arbitrary()?);
        for _ in 0..source.int_in_range(1..=3)? {
            input.event_values.push(b"event");
            input.event_times.push(source.arbitrary()?);
            input.watermarks.push(source.arbitrary()?);
        }
        input.event_ends.push(u32::try_from(input.event_times.len()).expect("few"));
    }
    Ok(input)
}

fn timer_input(source: &mut Unstructured<'_>) -> Result<TimerInput> {
    let mut input = TimerInput::default();
    for _ in 0..source.int_in_range(1..=3)? {
        input.keys.push(&[source.arbitrary()?]);
        input.value_present.push(source.int_in_range(0..=1)?);
        input.values.push(b"value");
        input.timers.push(source.arbitrary()?);
        input.list_ends.push(0);
    }
    Ok(input)
}
