//! Rows: what a plugin emits and a sink writes. Owns the typed columns and the order of a batch's rows; knows no database.
//!
//! Rows stay in the columns that the sandbox returned; the host adds only their order ([`Rows::order`]).

pub(crate) mod json;

use std::sync::Arc;

use crate::position::{Offset, Partition};
use crate::record::ByteColumn;
use serde::{Deserialize, Serialize};

/// The type of an output column, as a plugin declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// true or false
    Boolean,
    /// signed 64 bits
    Integer,
    /// IEEE 754, 64 bits
    Float,
    /// milliseconds since 1970 UTC
    Timestamp,
    /// UTF-8
    Text,
    /// bytes
    Blob,
    /// list of UTF-8 strings
    TextList,
    /// list of signed 64-bit integers
    IntegerList,
    /// JSON text, converted by the column's type in the database
    Json,
}

impl ColumnType {
    /// Returns the contract's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            ColumnType::Boolean => "boolean",
            ColumnType::Integer => "integer",
            ColumnType::Float => "float",
            ColumnType::Timestamp => "timestamp",
            ColumnType::Text => "text",
            ColumnType::Blob => "blob",
            ColumnType::TextList => "text-list",
            ColumnType::IntegerList => "integer-list",
            ColumnType::Json => "json",
        }
    }
}

/// A declared output column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    /// Column name, as in the table.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
    /// Whether it belongs to the primary key.
    pub primary_key: bool,
}

/// A declared output table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Table name.
    pub name: String,
    /// Its columns, in the order of a row's values.
    pub columns: Vec<ColumnSpec>,
}

/// Text items. They were checked to be UTF-8 when the column left the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextColumn(ByteColumn);

impl TextColumn {
    /// Takes a column whose items must be UTF-8. The error is the index of the first item that is not.
    pub fn new(column: ByteColumn) -> Result<TextColumn, usize> {
        if std::str::from_utf8(&column.data).is_ok()
            && column.ends.iter().all(|&e| is_boundary(&column.data, e as usize))
        {
            return Ok(TextColumn(column));
        }
        match (0..column.len()).find(|&i| std::str::from_utf8(column.get(i)).is_err()) {
            Some(bad) => Err(bad),
            None => Ok(TextColumn(column)),
        }
    }

    /// Returns item `i`.
    pub fn get(&self, i: usize) -> &str {
        std::str::from_utf8(self.0.get(i)).expect("checked by TextColumn::new")
    }

    /// Returns how many items there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes and ends.
    pub fn bytes(&self) -> &ByteColumn {
        &self.0
    }

    /// Unwraps the bytes and ends.
    pub fn into_bytes(self) -> ByteColumn {
        self.0
    }
}

fn is_boundary(data: &[u8], at: usize) -> bool {
    data.get(at).is_none_or(|b| (*b as i8) >= -0x40)
}

/// The values of one output column.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnData {
    /// 0 or 1 each
    Booleans(Vec<u8>),
    /// signed 64 bits
    Integers(Vec<i64>),
    /// IEEE 754
    Floats(Vec<f64>),
    /// milliseconds since 1970 UTC
    Timestamps(Vec<i64>),
    /// UTF-8
    Texts(TextColumn),
    /// bytes
    Blobs(ByteColumn),
    /// lists of text: row `i` has the items `ends[i-1]..ends[i]`
    TextLists {
        /// all rows' items
        items: TextColumn,
        /// where each row's items end
        ends: Vec<u32>,
    },
    /// lists of integers: row `i` has the items `ends[i-1]..ends[i]`
    IntegerLists {
        /// all rows' items
        items: Vec<i64>,
        /// where each row's items end
        ends: Vec<u32>,
    },
    /// JSON texts
    Json(TextColumn),
}

/// One output column of a [`Part`].
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// One value per row; the value of a null row is not read.
    pub data: ColumnData,
    /// Rows that are null, ascending.
    pub nulls: Vec<u32>,
}

/// Rows of one table as the sandbox returned them: all of the table's columns, of equal length.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Index into [`Rows::tables`].
    pub table: u32,
    /// The table's columns in their declared order.
    pub columns: Vec<Column>,
}

/// What caused a row: its identity beside the primary key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Partition of the record that caused the row.
    pub partition: Partition,
    /// Offset of that record.
    pub offset: Offset,
    /// The index of the event in that record; none if a timer caused the row, which the record's watermark made due.
    pub event: Option<u32>,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Origin { partition, offset, event } = self;
        write!(f, "partition {partition}, offset {offset}")?;
        event.map_or(Ok(()), |event| write!(f, ", event {event}"))
    }
}

/// One row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRef {
    /// Index into [`Rows::parts`].
    pub part: u32,
    /// Row in that part.
    pub row: u32,
    /// What caused it.
    pub origin: Origin,
}

/// All rows of a batch in the lane's order.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The plugin's tables.
    pub tables: Arc<[Table]>,
    /// Columns, in no particular order.
    pub parts: Vec<Part>,
    /// The rows in the lane's order.
    pub order: Vec<RowRef>,
}

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// no value
    Null,
    /// true or false
    Boolean(bool),
    /// signed 64 bits
    Integer(i64),
    /// IEEE 754
    Float(f64),
    /// milliseconds since 1970 UTC
    Timestamp(i64),
    /// UTF-8
    Text(&'a str),
    /// bytes
    Blob(&'a [u8]),
    /// items `first..end` of a column of texts
    TextList(TextListRef<'a>),
    /// integers
    IntegerList(&'a [i64]),
    /// JSON text
    Json(&'a str),
}

/// A list of texts, borrowed from its column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextListRef<'a> {
    items: &'a TextColumn,
    first: usize,
    end: usize,
}

impl<'a> TextListRef<'a> {
    /// Returns the items in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a str> {
        (self.first..self.end).map(move |i| self.items.get(i))
    }
}

impl Column {
    /// Returns the value of row `row`.
    pub fn cell(&self, row: usize) -> Cell<'_> {
        if u32::try_from(row).is_ok_and(|row| self.nulls.binary_search(&row).is_ok()) {
            return Cell::Null;
        }
        let span = |ends: &[u32]| (if row == 0 { 0 } else { ends[row - 1] as usize }, ends[row] as usize);
        match &self.data {
            ColumnData::Booleans(v) => Cell::Boolean(v[row] != 0),
            ColumnData::Integers(v) => Cell::Integer(v[row]),
            ColumnData::Floats(v) => Cell::Float(v[row]),
            ColumnData::Timestamps(v) => Cell::Timestamp(v[row]),
            ColumnData::Texts(v) => Cell::Text(v.get(row)),
            ColumnData::Blobs(v) => Cell::Blob(v.get(row)),
            ColumnData::TextLists { items, ends } => {
                let (first, end) = span(ends);
                Cell::TextList(TextListRef { items, first, end })
            }
            ColumnData::IntegerLists { items, ends } => {
                let (first, end) = span(ends);
                Cell::IntegerList(&items[first..end])
            }
            ColumnData::Json(v) => Cell::Json(v.get(row)),
        }
    }
}

impl Rows {
    /// Returns a batch without rows.
    pub fn new(tables: Arc<[Table]>) -> Rows {
        Rows { tables, parts: Vec::new(), order: Vec::new() }
    }

    /// Returns how many rows there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Returns the table of row `row`, and its index.
    pub fn table(&self, row: RowRef) -> (usize, &Table) {
        let table = self.parts[row.part as usize].table as usize;
        (table, &self.tables[table])
    }

    /// Returns the values of row `row`, in the order of its table's columns.
    pub fn cells(&self, row: RowRef) -> impl ExactSizeIterator<Item = Cell<'_>> {
        self.parts[row.part as usize].columns.iter().map(move |c| c.cell(row.row as usize))
    }
}

/// What a sink stores under one primary key, encoded so that only the same kind of sink reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The table's name.
    pub table: String,
    /// The primary key as a JSON object, its columns in declared order. Within a table, keys are equal if and only if their texts are.
    pub key: String,
    /// All columns of the row, including those that no plugin declares; none if there is no such row.
    pub row: Option<String>,
}
