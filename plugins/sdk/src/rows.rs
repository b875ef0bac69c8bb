//! The rows of a call, as columns.
//!
//! Rows of one event must be written in the order in which they were emitted, whatever other events are in the call. The contract orders
//! them by row-batch first. A row therefore goes into a row-batch of its table at or after the row-batch of the event's previous row; if there
//! is none, a new one is added. For almost all plugins, that gives one row-batch per table.

use std::rc::Rc;

use crate::columns::{Column as _, bytes, count, texts};
use crate::raw::{Column, ColumnData, ColumnType, IntegerListColumn, RowBatch, TableSpec, TextListColumn};
use crate::row::{Cells, Row, RowBuilder, Shape};

/// The rows of a call.
pub(crate) struct Rows {
    tables: Rc<[TableSpec]>,
    batches: Vec<RowBatch>,
    /// The event or key of the call that is being processed.
    item: u32,
    /// Index of the row-batch with this item's last row.
    last: usize,
    /// Whether a row was begun and not ended.
    open: bool,
    /// Row types that match their tables, with the tables' indexes.
    known: Vec<(&'static Shape, usize)>,
}

impl Rows {
    pub(crate) fn new(tables: Rc<[TableSpec]>) -> Rows {
        Rows { tables, batches: Vec::new(), item: 0, last: 0, open: false, known: Vec::new() }
    }

    /// Begins the rows of this event or key of the call.
    pub(crate) fn begin_item(&mut self, item: u32) {
        self.item = item;
        self.last = 0;
    }

    /// Panics if a row was begun and not ended.
    #[track_caller]
    pub(crate) fn end_item(&self) {
        assert!(!self.open, "a row was not finished: call `.end()` after its last column");
    }

    /// Removes the rows of the current item.
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

    /// Returns the row-batches that are not empty.
    pub(crate) fn into_batches(mut self) -> Vec<RowBatch> {
        self.batches.retain(|batch| !batch.items.is_empty());
        self.batches
    }

    /// Begins a row.
    #[track_caller]
    pub(crate) fn begin(&mut self, table: usize) -> RowBuilder<'_> {
        self.end_item();
        let tables = self.tables.len();
        assert!(table < tables, "there is no table {table}: the description has {tables} tables, counted from 0");
        self.push(table);
        RowBuilder::of(&self.tables[table], &mut self.batches[self.last], &mut self.open)
    }

    /// Writes a row.
    #[track_caller]
    pub(crate) fn emit<R: Row>(&mut self, row: &R) {
        self.end_item();
        let known = self.known.iter().find(|(shape, _)| std::ptr::eq(*shape, R::SHAPE)).map(|(_, table)| *table);
        let table = if let Some(table) = known { table } else { self.find(R::SHAPE) };
        row.write_row(&mut Cells::of(self.push(table)));
    }

    /// Returns the index of a row type's table. Panics if there is none, or if its columns differ.
    #[track_caller]
    fn find(&mut self, shape: &'static Shape) -> usize {
        let Some(table) = self.tables.iter().position(|spec| spec.name == shape.table) else {
            let tables = self.tables.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
            panic!(
                "table {} is not in the description, which has [{tables}]: add it with `.rows::<..>()`",
                shape.table
            );
        };
        if let Some(difference) = shape.differs(&self.tables[table]) {
            panic!("{difference}");
        }
        self.known.push((shape, table));
        table
    }

    /// Adds a row without cells to a table. Returns its row-batch.
    #[inline]
    fn push(&mut self, table: usize) -> &mut RowBatch {
        let number = count(table);
        let rest = self.batches[self.last..].iter().position(|batch| batch.table == number);
        self.last = rest.map_or(self.batches.len(), |further| self.last + further);
        if rest.is_none() {
            self.batches.push(empty(number, &self.tables[table]));
        }
        let batch = &mut self.batches[self.last];
        batch.items.push(self.item);
        batch
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

/// Keeps the first `rows` rows of a column. If a row was left unfinished, some columns have one row more than the others.
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
