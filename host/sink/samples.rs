//! Rows for the tests of the sinks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::failure::Failure;
use crate::position::{Offset, Partition};
use crate::record::ByteColumn;
use crate::row::{Column, ColumnData, ColumnSpec, ColumnType, Origin, Part, RowRef, Rows, Table, TextColumn};
use crate::sink::Owner;

/// A host that owns a lane.
#[derive(Debug)]
pub(super) struct Host {
    /// The last timestamp; without one, it is a later owner than all before it.
    last: Option<AtomicI64>,
}

static LAST: AtomicI64 = AtomicI64::new(1_000_000);

/// The owner of the lane.
pub(super) static OWNER: Host = Host { last: None };

impl Host {
    /// A host whose timestamps follow this one.
    pub(super) fn after(last: i64) -> Host {
        Host { last: Some(AtomicI64::new(last)) }
    }
}

impl Owner for Host {
    fn lane(&self) -> &str {
        "topic"
    }

    fn timestamps(&self, after: i64, count: usize) -> Result<i64, Failure> {
        let last = self.last.as_ref().unwrap_or(&LAST);
        let first = last.load(Ordering::SeqCst).max(after) + 1;
        last.store(first + i64::try_from(count).expect("it is small") - 1, Ordering::SeqCst);
        Ok(first)
    }
}

fn spec(name: &str, kind: ColumnType, primary_key: bool) -> ColumnSpec {
    ColumnSpec { name: name.to_owned(), kind, primary_key }
}

fn bytes(items: &[&[u8]]) -> ByteColumn {
    let mut column = ByteColumn::default();
    items.iter().for_each(|item| column.push(item));
    column
}

fn texts(items: &[&str]) -> TextColumn {
    TextColumn::new(bytes(&items.iter().map(|i| i.as_bytes()).collect::<Vec<_>>())).expect("is UTF-8")
}

fn column(data: ColumnData, nulls: &[u32]) -> Column {
    Column { data, nulls: nulls.to_vec() }
}

fn rows(name: &str, specs: Vec<ColumnSpec>, columns: Vec<Column>, count: u32) -> Rows {
    let origin = Origin { partition: Partition(0), offset: Offset(0), event: None };
    Rows {
        tables: Arc::new([Table { name: name.to_owned(), columns: specs }]),
        parts: vec![Part { table: 0, columns }],
        order: (0..count).map(|row| RowRef { part: 0, row, origin }).collect(),
    }
}

/// The seed's table.
pub(super) fn sessions(sessions: &[(i64, i64, &[&str])]) -> Rows {
    let specs = vec![
        spec("session_id", ColumnType::Integer, true),
        spec("user_id", ColumnType::Integer, true),
        spec("pages", ColumnType::TextList, false),
    ];
    let pages: Vec<&str> = sessions.iter().flat_map(|s| s.2.iter().copied()).collect();
    let mut ends = Vec::new();
    for session in sessions {
        ends.push(ends.last().copied().unwrap_or(0) + u32::try_from(session.2.len()).expect("few"));
    }
    let columns = vec![
        column(ColumnData::Integers(sessions.iter().map(|s| s.0).collect()), &[]),
        column(ColumnData::Integers(sessions.iter().map(|s| s.1).collect()), &[]),
        column(ColumnData::TextLists { items: texts(&pages), ends }, &[]),
    ];
    rows("sessions", specs, columns, u32::try_from(sessions.len()).expect("few"))
}

/// Rows with an id, counting from 0, and JSON.
pub(super) fn documents(documents: &[&str]) -> Rows {
    let specs = vec![spec("id", ColumnType::Integer, true), spec("doc", ColumnType::Json, false)];
    let ids = (0..).take(documents.len()).collect();
    let columns = vec![column(ColumnData::Integers(ids), &[]), column(ColumnData::Json(texts(documents)), &[])];
    rows("documents", specs, columns, u32::try_from(documents.len()).expect("few"))
}

/// Three rows with a column of every type: values, nulls, and empty or odd values. Their order is not that of the part.
pub(super) fn all_types() -> Rows {
    use ColumnType::{Blob, Boolean, Float, Integer, IntegerList, Json, Text, TextList, Timestamp};
    let kinds = [Integer, Boolean, Float, Timestamp, Text, Blob, TextList, IntegerList, Json];
    let names = ["id", "yes", "ratio", "at", "name", "bytes", "pages", "counts", "doc"];
    let specs = names.iter().zip(kinds).map(|(name, kind)| spec(name, kind, *name == "id")).collect();
    let columns = vec![
        column(ColumnData::Integers(vec![-1, i64::MAX, 0]), &[]),
        column(ColumnData::Booleans(vec![1, 1, 0]), &[0]),
        column(ColumnData::Floats(vec![7.5, 0.1, f64::NAN]), &[0]),
        column(ColumnData::Timestamps(vec![9, 1_727_873_719_148, -62_198_755_200_000]), &[0]),
        column(ColumnData::Texts(texts(&["gone", "tab\tand \"quote\"", ""])), &[0]),
        column(ColumnData::Blobs(bytes(&[b"gone", b"\x00\xff", b""])), &[0]),
        column(ColumnData::TextLists { items: texts(&["gone", "A.html", ""]), ends: vec![1, 3, 3] }, &[0]),
        column(ColumnData::IntegerLists { items: vec![5, -1, 2], ends: vec![1, 3, 3] }, &[0]),
        column(ColumnData::Json(texts(&["gone", "{\n\"a\":[1.50]}", "null"])), &[0]),
    ];
    let mut rows = rows("every type", specs, columns, 3);
    rows.order.swap(0, 1);
    rows
}
