//! Values in CQL's binary form: rows as the values of their upserts, and primary keys as bytes.

use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::{CellOverflowError, CellWriter, RowWriter};

use crate::clock;
use crate::row::{Cell, RowRef, Rows};

/// One row as the values of its upsert. The types were compared when the sink was opened.
pub(super) struct RowValues<'a> {
    pub(super) rows: &'a Rows,
    pub(super) row: RowRef,
    /// How many columns take the time of writing.
    pub(super) now: usize,
}

impl SerializeRow for RowValues<'_> {
    fn serialize(&self, _: &RowSerializationContext<'_>, writer: &mut RowWriter<'_>) -> Result<(), SerializationError> {
        let now = std::iter::repeat_with(|| Cell::Timestamp(clock::now_ms())).take(self.now);
        for cell in self.rows.cells(self.row).chain(now) {
            write_cell(cell, writer.make_cell_writer()).map_err(SerializationError::new)?;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// Returns table and primary key of a row as bytes that are equal only for equal keys.
pub(super) fn key_bytes(rows: &Rows, row: RowRef) -> Vec<u8> {
    let (index, table) = rows.table(row);
    let mut key = index.to_be_bytes().to_vec();
    for (column, cell) in table.columns.iter().zip(rows.cells(row)) {
        if column.primary_key {
            write_cell(cell, CellWriter::new(&mut key)).expect("a batch is cut below 2 GiB");
        }
    }
    key
}

/// Writes one value.
pub(super) fn write_cell(cell: Cell<'_>, writer: CellWriter<'_>) -> Result<(), CellOverflowError> {
    let written = match cell {
        Cell::Null => Ok(writer.set_null()),
        Cell::Boolean(value) => writer.set_value(&[u8::from(value)]),
        Cell::Integer(value) | Cell::Timestamp(value) => writer.set_value(&value.to_be_bytes()),
        Cell::Float(value) => writer.set_value(&value.to_be_bytes()),
        Cell::Text(value) | Cell::Json(value) => writer.set_value(value.as_bytes()),
        Cell::Blob(value) => writer.set_value(value),
        Cell::TextList(list) => return write_list(list.iter(), str::as_bytes, writer),
        Cell::IntegerList(list) => return write_list(list.iter(), |i: &i64| i.to_be_bytes(), writer),
    };
    written.map(drop)
}

fn write_list<'a, T: ?Sized + 'a, B: AsRef<[u8]>>(
    items: impl ExactSizeIterator<Item = &'a T>,
    bytes: impl Fn(&'a T) -> B,
    writer: CellWriter<'_>,
) -> Result<(), CellOverflowError> {
    let mut list = writer.into_value_builder();
    let count = i32::try_from(items.len()).map_err(|_| CellOverflowError)?;
    list.append_bytes(&count.to_be_bytes());
    for item in items {
        list.make_sub_writer().set_value(bytes(item).as_ref())?;
    }
    list.finish().map(drop)
}
