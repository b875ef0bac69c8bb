//! What a sink holds under a primary key, and primary keys as text, which is how callers and sinks name rows that were written by whichever
//! plugin. Knows no database: in which words a row is kept is each sink's own matter.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::record::{ByteColumn, iso};
use crate::row::Image;
use crate::row::{Cell, Column, ColumnData, ColumnType, RowRef, Rows, TextColumn};
use crate::sink::ndjson::{put_cell, put_text};

/// A key of a few columns fits without growing.
const KEY_BYTES: usize = 96;
/// A float that JSON has no number for is text: this, and its 64 bits as hexadecimal digits.
const FLOAT_BITS: &str = "float 0x";

/// The table of a row and its primary key, as [`Image`] has them. Values look as in NDJSON, but for two that would not tell keys apart
/// there: floats that are not finite are text with their bits, JSON is a string.
pub fn key_of(rows: &Rows, row: RowRef) -> (&str, String) {
    let table = rows.table(row).1;
    let columns = &rows.parts[row.part as usize].columns;
    let mut key = Vec::with_capacity(KEY_BYTES);
    key.push(b'{');
    for (spec, column) in table.columns.iter().zip(columns).filter(|(spec, _)| spec.primary_key) {
        if key.len() > 1 {
            key.push(b',');
        }
        put_text(&mut key, &spec.name);
        key.push(b':');
        put_key_cell(&mut key, column.cell(row.row as usize));
    }
    key.push(b'}');
    (&table.name, String::from_utf8(key).expect("written from UTF-8 only"))
}

fn put_key_cell(key: &mut Vec<u8>, cell: Cell<'_>) {
    match cell {
        Cell::Float(value) if !value.is_finite() => {
            write!(key, "\"{FLOAT_BITS}{:016x}\"", value.to_bits()).expect("a Vec takes all");
        }
        Cell::Json(text) => put_text(key, text),
        other => put_cell(key, other),
    }
}

/// The primary keys of the rows at these places of the order, each once, as images of nothing. A key with a null in it is left out: every
/// sink refuses its rows.
pub(super) fn keys_at(rows: &Rows, at: &[usize]) -> Vec<Image> {
    let mut seen = HashSet::with_capacity(at.len());
    let mut keys = Vec::with_capacity(at.len());
    for row in at.iter().map(|&at| rows.order[at]).filter(|&row| !null_in_key(rows, row)) {
        let (table, key) = key_of(rows, row);
        if seen.insert((table, key.clone())) {
            keys.push(Image { table: table.to_owned(), key, row: None });
        }
    }
    keys
}

fn null_in_key(rows: &Rows, row: RowRef) -> bool {
    let columns = &rows.table(row).1.columns;
    columns.iter().zip(rows.cells(row)).any(|(spec, cell)| spec.primary_key && cell == Cell::Null)
}

/// The first image of each key: it is the oldest.
pub(super) fn first_of_each_key(images: &[Image]) -> Vec<&Image> {
    let mut seen = HashSet::with_capacity(images.len());
    images.iter().filter(|image| seen.insert((&image.table, &image.key))).collect()
}

/// The columns of a key, none if it is no key's text.
pub(super) fn key_columns(key: &str) -> Option<HashMap<String, &RawValue>> {
    serde_json::from_str(key).ok()
}

/// A value of a key as a column with one row, so that it is bound as a row's value is; none if it is none of this type.
pub(super) fn key_column(kind: ColumnType, value: &RawValue) -> Option<Column> {
    let data = match kind {
        ColumnType::Boolean => ColumnData::Booleans(vec![u8::from(read::<bool>(value)?)]),
        ColumnType::Integer => ColumnData::Integers(vec![read(value)?]),
        ColumnType::Float => ColumnData::Floats(vec![float(value)?]),
        ColumnType::Timestamp => ColumnData::Timestamps(vec![timestamp(&read::<String>(value)?)?]),
        ColumnType::Text => ColumnData::Texts(texts(&[read(value)?])?),
        ColumnType::Json => ColumnData::Json(texts(&[read(value)?])?),
        ColumnType::Blob => ColumnData::Blobs(bytes([STANDARD.decode(read::<String>(value)?).ok()?])),
        ColumnType::TextList => {
            let items: Vec<String> = read(value)?;
            ColumnData::TextLists { ends: vec![u32::try_from(items.len()).ok()?], items: texts(&items)? }
        }
        ColumnType::IntegerList => {
            let items: Vec<i64> = read(value)?;
            ColumnData::IntegerLists { ends: vec![u32::try_from(items.len()).ok()?], items }
        }
    };
    Some(Column { data, nulls: Vec::new() })
}

fn read<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

/// By the standard library: serde_json's own reading may be off by the last bit.
fn float(value: &RawValue) -> Option<f64> {
    let Some(text) = read::<String>(value) else { return value.get().parse().ok() };
    u64::from_str_radix(text.strip_prefix(FLOAT_BITS)?, 16).ok().map(f64::from_bits)
}

/// What [`iso`] wrote.
fn timestamp(text: &str) -> Option<i64> {
    let ms = text.parse().ok().or_else(|| Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()))?;
    (iso(ms) == text).then_some(ms)
}

fn texts(items: &[String]) -> Option<TextColumn> {
    TextColumn::new(bytes(items)).ok()
}

fn bytes(items: impl IntoIterator<Item = impl AsRef<[u8]>>) -> ByteColumn {
    let mut column = ByteColumn::default();
    items.into_iter().for_each(|item| column.push(item.as_ref()));
    column
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::samples;

    /// Rows whose columns are all in the key.
    fn all_in_the_key(mut rows: Rows) -> Rows {
        let mut tables = rows.tables.to_vec();
        tables[0].columns.iter_mut().for_each(|column| column.primary_key = true);
        rows.tables = tables.into();
        rows
    }

    fn with_floats(floats: &[f64]) -> Rows {
        let mut rows = samples::documents(&vec!["1"; floats.len()]);
        rows.parts[0].columns[0].data = ColumnData::Floats(floats.to_vec());
        rows
    }

    #[test]
    fn a_key_is_named_in_the_declared_order_and_nothing_else_of_the_row() {
        let rows = samples::sessions(&[(-7, i64::MAX, &["A"])]);
        let (table, key) = key_of(&rows, rows.order[0]);
        assert_eq!((table, key.as_str()), ("sessions", "{\"session_id\":-7,\"user_id\":9223372036854775807}"));
    }

    #[test]
    fn every_type_has_its_form_in_a_key() {
        let rows = all_in_the_key(samples::all_types());
        assert_eq!(
            key_of(&rows, rows.order[0]).1,
            "{\"id\":9223372036854775807,\"yes\":true,\"ratio\":0.1,\"at\":\"2024-10-02T12:55:19.148Z\",\
             \"name\":\"tab\\tand \\\"quote\\\"\",\"bytes\":\"AP8=\",\"pages\":[\"A.html\",\"\"],\"counts\":[-1,2],\
             \"doc\":\"{\\n\\\"a\\\":[1.50]}\"}"
        );
    }

    #[test]
    fn a_key_is_read_back_value_by_value() {
        let rows = all_in_the_key(samples::all_types());
        for &row in [&rows.order[0], &rows.order[2]] {
            let (_, key) = key_of(&rows, row);
            let values = key_columns(&key).expect("is a key");
            for (spec, cell) in rows.tables[0].columns.iter().zip(rows.cells(row)) {
                let column = key_column(spec.kind, values[&spec.name]).expect("is of this type");
                match (column.cell(0), cell) {
                    (Cell::Float(read), Cell::Float(written)) => assert_eq!(read.to_bits(), written.to_bits()),
                    (Cell::TextList(read), Cell::TextList(written)) => assert!(read.iter().eq(written.iter())),
                    (read, written) => assert_eq!(read, written, "{}", spec.name),
                }
            }
        }
    }

    #[test]
    fn floats_and_times_come_back_to_the_last_bit() {
        let odd = [0.0, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, 1e23, 0.1 + 0.2, 7.038_531e-26, f64::INFINITY];
        let odd = [&odd[..], &[f64::NEG_INFINITY, f64::NAN, f64::from_bits(0x7ff8_0000_0000_0001)]].concat();
        let rows = with_floats(&odd);
        let mut keys = HashSet::new();
        for (&value, &row) in odd.iter().zip(&rows.order) {
            let (_, key) = key_of(&rows, row);
            assert_eq!(float(key_columns(&key).expect("is a key")["id"]).map(f64::to_bits), Some(value.to_bits()));
            assert!(keys.insert(key.clone()), "{key} is no other's");
        }
        for ms in [0, -1, 1_727_873_719_148, -62_198_755_200_000, -377_705_023_201_000, i64::MIN, i64::MAX] {
            assert_eq!(timestamp(&iso(ms)), Some(ms));
        }
        assert_eq!(timestamp("yesterday"), None);
    }

    #[test]
    fn each_key_is_asked_for_once_and_none_with_a_null() {
        let rows = samples::sessions(&[(1, 1, &["A"]), (1, 2, &[]), (1, 1, &["B"]), (2, 1, &[])]);
        let mut rows = rows;
        rows.parts[0].columns[0].nulls = vec![3];
        let keys: Vec<String> = keys_at(&rows, &[0, 1, 2, 3]).into_iter().map(|image| image.key).collect();
        assert_eq!(keys, ["{\"session_id\":1,\"user_id\":1}", "{\"session_id\":1,\"user_id\":2}"]);
        assert_eq!(keys_at(&rows, &[1]).len(), 1);
    }

    #[test]
    fn the_first_image_of_a_key_counts() {
        let image = |key: &str, row: Option<&str>| Image {
            table: "sessions".to_owned(),
            key: key.to_owned(),
            row: row.map(str::to_owned),
        };
        let images = [image("1", None), image("2", Some("a")), image("1", Some("b"))];
        assert_eq!(first_of_each_key(&images), [&images[0], &images[1]]);
    }
}
