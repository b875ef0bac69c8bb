//! Writing a batch of rows in one transaction, and values as SQLite stores them.

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ErrorCode, Transaction};

use crate::clock;
use crate::record::iso;
use crate::row::json::{invalid_json, write_list};
use crate::row::{Cell, RowRef, Rows};
use crate::sink::Refusal;

/// Writes all rows within a transaction, in order, so that the last of several rows with the same primary key wins. `upserts` has one
/// statement per table; `now` is the number of columns that take the time of writing.
pub(super) fn write_batch(
    transaction: &Transaction<'_>,
    upserts: &[String],
    now: usize,
    rows: &Rows,
) -> rusqlite::Result<Vec<Refusal>> {
    let now_text = iso(clock::now_ms());
    let mut refusals = Vec::new();
    for &row in &rows.order {
        let reason = match invalid_json(rows, row).or_else(|| null_in_key(rows, row)) {
            Some(reason) => Some(reason),
            None => {
                let times = std::iter::repeat_n(now_text.as_str(), now);
                write_row(transaction, &upserts[rows.table(row).0], times, rows, row)?
            }
        };
        refusals.extend(reason.map(|reason| Refusal::of(rows, row, reason)));
    }
    Ok(refusals)
}

/// Returns the database's reason if it refuses the row. A refused statement leaves the rest of the transaction unchanged.
fn write_row<'a>(
    connection: &Connection,
    upsert: &str,
    times: impl Iterator<Item = &'a str>,
    rows: &Rows,
    row: RowRef,
) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached(upsert)?;
    let cells = rows.cells(row).map(to_sql);
    let times = times.map(|time| ToSqlOutput::Borrowed(ValueRef::Text(time.as_bytes())));
    match statement.execute(rusqlite::params_from_iter(cells.chain(times))) {
        Ok(_) => Ok(None),
        Err(e) if is_refusal(&e) => Ok(Some(e.to_string())),
        Err(e) => Err(e),
    }
}

/// SQLite would generate an integer key in place of a null, so the host refuses the row, as every other database does.
fn null_in_key(rows: &Rows, row: RowRef) -> Option<String> {
    let columns = &rows.table(row).1.columns;
    let column =
        columns.iter().zip(rows.cells(row)).find(|(column, cell)| column.primary_key && *cell == Cell::Null)?.0;
    Some(format!("column {} of the primary key is null", column.name))
}

fn is_refusal(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
}

/// Returns a value as it is bound: timestamps and lists become text.
pub(super) fn to_sql(cell: Cell<'_>) -> ToSqlOutput<'_> {
    match cell {
        Cell::Null => ToSqlOutput::Borrowed(ValueRef::Null),
        Cell::Boolean(value) => ToSqlOutput::Borrowed(ValueRef::Integer(i64::from(value))),
        Cell::Integer(value) => ToSqlOutput::Borrowed(ValueRef::Integer(value)),
        Cell::Float(value) => ToSqlOutput::Borrowed(ValueRef::Real(value)),
        Cell::Timestamp(ms) => ToSqlOutput::Owned(Value::Text(iso(ms))),
        Cell::Text(value) | Cell::Json(value) => ToSqlOutput::Borrowed(ValueRef::Text(value.as_bytes())),
        Cell::Blob(value) => ToSqlOutput::Borrowed(ValueRef::Blob(value)),
        Cell::TextList(list) => list_text(list.iter()),
        Cell::IntegerList(list) => list_text(list.iter()),
    }
}

fn list_text<'a>(items: impl Iterator<Item = impl serde::Serialize>) -> ToSqlOutput<'a> {
    let mut json = Vec::new();
    write_list(&mut json, items);
    ToSqlOutput::Owned(Value::Text(String::from_utf8(json).expect("JSON is UTF-8")))
}
