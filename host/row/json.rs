//! Rows and their values as JSON: the form of the NDJSON sink, of dead letters for refused rows, and of what `keyfold replay` prints.
//!
//! Integers are numbers with all their 64 bits; a float that is not finite is null, because JSON cannot express it; timestamps are ISO 8601
//! text; blobs are base64; a JSON column is written inline, on one line.

use std::io::Write;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::record::iso;
use crate::row::{Cell, RowRef, Rows, TextColumn};

/// Writes a row as one object, `{"table": ..., <columns in declared order>}`, without a line break.
pub(crate) fn write_row(line: &mut Vec<u8>, rows: &Rows, row: RowRef) {
    begin_row(line, rows, row);
    line.push(b'}');
}

/// Writes what [`write_row`] writes, without the closing brace: the caller may add members.
pub(crate) fn begin_row(line: &mut Vec<u8>, rows: &Rows, row: RowRef) {
    let table = rows.table(row).1;
    line.extend_from_slice(b"{\"table\":");
    write_text(line, &table.name);
    for (column, cell) in table.columns.iter().zip(rows.cells(row)) {
        line.push(b',');
        write_text(line, &column.name);
        line.push(b':');
        write_cell(line, cell);
    }
}

/// Writes some columns of a row as one object; `columns` are indexes into the table's columns.
pub(crate) fn write_columns(line: &mut Vec<u8>, rows: &Rows, row: RowRef, columns: &[usize]) {
    let (table, part) = (rows.table(row).1, &rows.parts[row.part as usize]);
    line.push(b'{');
    for (i, &column) in columns.iter().enumerate() {
        if i > 0 {
            line.push(b',');
        }
        write_text(line, &table.columns[column].name);
        line.push(b':');
        write_cell(line, part.columns[column].cell(row.row as usize));
    }
    line.push(b'}');
}

/// Writes one value.
pub(crate) fn write_cell(line: &mut Vec<u8>, cell: Cell<'_>) {
    match cell {
        Cell::Null => line.extend_from_slice(b"null"),
        Cell::Boolean(value) => write(line, &value),
        Cell::Integer(value) => write(line, &value),
        Cell::Float(value) => write(line, &value),
        Cell::Timestamp(ms) => write_text(line, &iso(ms)),
        Cell::Text(text) => write_text(line, text),
        Cell::Blob(bytes) => {
            write!(line, "\"{}\"", Base64Display::new(bytes, &STANDARD)).expect("a Vec takes all");
        }
        Cell::TextList(list) => write_list(line, list.iter()),
        Cell::IntegerList(list) => write_list(line, list.iter()),
        Cell::Json(text) => write_json(line, text),
    }
}

/// Writes a list of scalars, such as `["a","b"]`.
pub(crate) fn write_list(line: &mut Vec<u8>, mut items: impl Iterator<Item = impl serde::Serialize>) {
    line.push(b'[');
    if let Some(first) = items.next() {
        write(line, &first);
    }
    for item in items {
        line.push(b',');
        write(line, &item);
    }
    line.push(b']');
}

/// Writes a JSON string.
pub(crate) fn write_text(line: &mut Vec<u8>, text: &str) {
    write(line, text);
}

/// Writes JSON inline on one line: a line break in valid JSON is white space between values. Invalid JSON, which only a refused row has,
/// is written as a string.
fn write_json(line: &mut Vec<u8>, text: &str) {
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return write_text(line, text);
    }
    line.extend(text.bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
}

fn write<T: serde::Serialize + ?Sized>(line: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(line, value).expect("a Vec takes all, and scalars have no keys to refuse");
}

/// Returns the first item of a column of JSON texts that is not valid JSON, with the reason. Nulls hold no text.
pub(crate) fn first_invalid(texts: &TextColumn, nulls: &[u32]) -> Option<(usize, String)> {
    let is_null = |i: usize| u32::try_from(i).is_ok_and(|i| nulls.binary_search(&i).is_ok());
    (0..texts.len()).filter(|&i| !is_null(i)).find_map(|i| {
        let error = serde_json::from_str::<&RawValue>(texts.get(i)).err()?;
        Some((i, error.to_string()))
    })
}

/// Returns why a row must be refused because of a JSON column that is not valid JSON. Plugins cannot emit one (D44); every sink refuses such a
/// row, so that the choice of sink does not change the rows.
pub(crate) fn invalid_json(rows: &Rows, row: RowRef) -> Option<String> {
    let columns = &rows.table(row).1.columns;
    rows.cells(row).zip(columns).find_map(|(cell, column)| match cell {
        Cell::Json(text) => {
            let error = serde_json::from_str::<&RawValue>(text).err()?;
            Some(format!("column {} is not valid JSON: {error}", column.name))
        }
        _ => None,
    })
}
