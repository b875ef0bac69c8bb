//! Rows, written cell by cell into the columns that leave.
//!
//! Rows of one event must leave in the order in which they were emitted, whatever other events are in the call. A table's rows are
//! therefore spread over as many row-batches as it takes for each event's rows to stand in ascending row-batches; for almost all plugins
//! that is one a table.

use std::rc::Rc;

use crate::columns::{Column as _, bytes, count, texts};
use crate::raw::{
    ByteColumn, Column, ColumnData, ColumnType, IntegerListColumn, RowBatch, TableSpec, TextColumn, TextListColumn,
};

/// The rows of a call.
pub(crate) struct Rows {
    tables: Rc<[TableSpec]>,
    batches: Vec<RowBatch>,
    /// The event or key of the call that rows now come from.
    item: u32,
    /// The row-batch that took this item's last row.
    last: usize,
    /// Whether a row was begun and not ended.
    open: bool,
}

impl Rows {
    pub(crate) fn new(tables: Rc<[TableSpec]>) -> Rows {
        Rows { tables, batches: Vec::new(), item: 0, last: 0, open: false }
    }

    /// Rows come from this event or key of the call from now on.
    pub(crate) fn begin_item(&mut self, item: u32) {
        self.item = item;
        self.last = 0;
    }

    /// Refuses a row that was begun and not ended.
    pub(crate) fn end_item(&self) {
        assert!(!self.open, "a row was begun and not ended: finish it with `.end()`");
    }

    /// Takes back the rows of the present item.
    pub(crate) fn undo_item(&mut self) {
        self.open = false;
        for batch in &mut self.batches {
            let kept = batch.items.iter().rposition(|item| *item != self.item).map_or(0, |last| last + 1);
            batch.items.truncate(kept);
            for column in &mut batch.columns {
                truncate(column, kept);
            }
        }
    }

    /// The row-batches, without empty ones.
    pub(crate) fn into_batches(mut self) -> Vec<RowBatch> {
        self.batches.retain(|batch| !batch.items.is_empty());
        self.batches
    }

    /// Begins a row.
    pub(crate) fn begin(&mut self, table: usize) -> Row<'_> {
        self.end_item();
        let Some(spec) = self.tables.get(table) else {
            panic!("a row for table {table}, where the description has {}", self.tables.len());
        };
        let table = count(table);
        let rest = self.batches[self.last..].iter().position(|batch| batch.table == table);
        self.last = rest.map_or(self.batches.len(), |further| self.last + further);
        if rest.is_none() {
            self.batches.push(empty(table, spec));
        }
        let batch = &mut self.batches[self.last];
        batch.items.push(self.item);
        self.open = true;
        Row { spec, batch, column: 0, open: &mut self.open }
    }
}

/// A row in the making: one call per column, in the order of the description, then [`Row::end`]. A name or type that is not the
/// description's is a bug of the plugin, and a panic that names both.
#[must_use = "a row is finished by `.end()`"]
pub struct Row<'a> {
    spec: &'a TableSpec,
    batch: &'a mut RowBatch,
    column: usize,
    open: &'a mut bool,
}

macro_rules! plain_cell {
    ($(#[$doc:meta])* $name:ident, $value:ty, $case:ident, $kind:ident, |$column:ident, $cell:ident| $push:expr) => {
        $(#[$doc])*
        #[track_caller]
        pub fn $name(mut self, name: &str, $cell: $value) -> Self {
            match &mut self.next(name, ColumnType::$kind).data {
                ColumnData::$case($column) => $push,
                _ => unreachable!("columns are made by their types"),
            }
            self
        }
    };
}

impl Row<'_> {
    plain_cell!(
        /// true or false
        boolean, bool, Booleans, Boolean, |column, value| column.push(u8::from(value))
    );
    plain_cell!(
        /// A signed 64-bit integer.
        integer, i64, Integers, Integer, |column, value| column.push(value)
    );
    plain_cell!(
        /// A 64-bit float.
        float, f64, Floats, Float, |column, value| column.push(value)
    );
    plain_cell!(
        /// Milliseconds since 1970 UTC.
        timestamp, i64, Timestamps, Timestamp, |column, value| column.push(value)
    );
    plain_cell!(
        /// Text.
        text, &str, Texts, Text, |column, value| column.push(value.as_bytes())
    );
    plain_cell!(
        /// Bytes.
        blob, &[u8], Blobs, Blob, |column, value| column.push(value)
    );
    plain_cell!(
        /// JSON text, for a column that the sink converts by its type in the database.
        json, &str, Json, Json, |column, value| column.push(value.as_bytes())
    );

    /// A list of texts.
    #[track_caller]
    pub fn texts<T: AsRef<str>>(mut self, name: &str, items: impl IntoIterator<Item = T>) -> Self {
        match &mut self.next(name, ColumnType::TextList).data {
            ColumnData::TextLists(column) => {
                items.into_iter().for_each(|item| column.items.push(item.as_ref().as_bytes()));
                column.ends.push(count(column.items.ends.len()));
            }
            _ => unreachable!("columns are made by their types"),
        }
        self
    }

    /// A list of integers.
    #[track_caller]
    pub fn integers(mut self, name: &str, items: impl IntoIterator<Item = i64>) -> Self {
        match &mut self.next(name, ColumnType::IntegerList).data {
            ColumnData::IntegerLists(column) => {
                column.items.extend(items);
                column.ends.push(count(column.items.len()));
            }
            _ => unreachable!("columns are made by their types"),
        }
        self
    }

    /// No value, whatever the column's type; a column of the primary key has one always.
    #[track_caller]
    pub fn null(mut self, name: &str) -> Self {
        let Some(spec) = self.spec.columns.get(self.column) else { self.too_many(name) };
        assert!(!spec.primary_key, "table {}: {name} is null, and in the primary key", self.spec.name);
        let row = count(self.batch.items.len() - 1);
        let column = self.next(name, spec.kind);
        column.nulls.push(row);
        push_nothing(&mut column.data);
        self
    }

    /// Finishes the row.
    #[track_caller]
    pub fn end(self) {
        let missing = self.spec.columns.get(self.column);
        assert!(
            missing.is_none(),
            "table {}: the row ends before {}",
            self.spec.name,
            missing.map_or("", |column| column.name.as_str())
        );
        *self.open = false;
    }

    /// The column that is written next, if it is of this name and type.
    #[track_caller]
    fn next(&mut self, name: &str, kind: ColumnType) -> &mut Column {
        let Some(spec) = self.spec.columns.get(self.column) else { self.too_many(name) };
        if spec.name != name || spec.kind != kind {
            panic!(
                "table {}: column {} is {} ({:?}), the row gives {name} ({kind:?})",
                self.spec.name,
                self.column + 1,
                spec.name,
                spec.kind
            );
        }
        self.column += 1;
        &mut self.batch.columns[self.column - 1]
    }

    #[track_caller]
    fn too_many(&self, name: &str) -> ! {
        panic!("table {}: the row gives {name} after its last column", self.spec.name)
    }
}

fn empty(table: u32, spec: &TableSpec) -> RowBatch {
    let columns = spec.columns.iter().map(|column| Column { data: empty_data(column.kind), nulls: Vec::new() });
    RowBatch { table, items: Vec::new(), columns: columns.collect() }
}

fn empty_data(kind: ColumnType) -> ColumnData {
    match kind {
        ColumnType::Boolean => ColumnData::Booleans(Vec::new()),
        ColumnType::Integer => ColumnData::Integers(Vec::new()),
        ColumnType::Float => ColumnData::Floats(Vec::new()),
        ColumnType::Timestamp => ColumnData::Timestamps(Vec::new()),
        ColumnType::Text => ColumnData::Texts(texts(0, 0)),
        ColumnType::Blob => ColumnData::Blobs(bytes(0, 0)),
        ColumnType::TextList => ColumnData::TextLists(TextListColumn { items: texts(0, 0), ends: Vec::new() }),
        ColumnType::IntegerList => ColumnData::IntegerLists(IntegerListColumn { items: Vec::new(), ends: Vec::new() }),
        ColumnType::Json => ColumnData::Json(texts(0, 0)),
    }
}

/// The value that a null row has in its column.
fn push_nothing(data: &mut ColumnData) {
    match data {
        ColumnData::Booleans(values) => values.push(0),
        ColumnData::Integers(values) | ColumnData::Timestamps(values) => values.push(0),
        ColumnData::Floats(values) => values.push(0.0),
        ColumnData::Texts(TextColumn { data, ends })
        | ColumnData::Json(TextColumn { data, ends })
        | ColumnData::Blobs(ByteColumn { data, ends }) => ends.push(count(data.len())),
        ColumnData::TextLists(lists) => lists.ends.push(count(lists.items.ends.len())),
        ColumnData::IntegerLists(lists) => lists.ends.push(count(lists.items.len())),
    }
}

/// Keeps the first `rows` rows of a column, which may have one more than its neighbours.
fn truncate(column: &mut Column, rows: usize) {
    let nulls = column.nulls.partition_point(|null| (*null as usize) < rows);
    column.nulls.truncate(nulls);
    match &mut column.data {
        ColumnData::Booleans(values) => values.truncate(rows),
        ColumnData::Integers(values) | ColumnData::Timestamps(values) => values.truncate(rows),
        ColumnData::Floats(values) => values.truncate(rows),
        ColumnData::Texts(texts) | ColumnData::Json(texts) => texts.truncate(rows),
        ColumnData::Blobs(blobs) => blobs.truncate(rows),
        ColumnData::TextLists(lists) => {
            lists.ends.truncate(rows);
            lists.items.truncate(lists.ends.last().map_or(0, |end| *end as usize));
        }
        ColumnData::IntegerLists(lists) => {
            lists.ends.truncate(rows);
            lists.items.truncate(lists.ends.last().map_or(0, |end| *end as usize));
        }
    }
}
