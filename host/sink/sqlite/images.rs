//! Images of an SQLite sink: single rows, read by primary key and put back. A value keeps its storage class, whatever the column declares,
//! and every bit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, ToSql, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::row::{ColumnType, Image, Rows};
use crate::sink::image::{first_of_each_key, key_column, key_columns, keys_at};
use crate::sink::sqlite::Sqlite;
use crate::sink::sqlite::schema::{RealColumn, affinity, quoted, real_columns, upsert_of};
use crate::sink::sqlite::write::to_sql;
use crate::sink::{Owner, cannot_restore};

/// The text of [`Image::row`].
#[derive(Serialize, Deserialize)]
struct RowImage<'a> {
    /// Columns with their values. The name keeps it apart from other sinks' images.
    #[serde(borrow)]
    sqlite: Vec<(Cow<'a, str>, Stored<'a>)>,
}

/// A value by its storage class.
#[derive(Serialize, Deserialize)]
enum Stored<'a> {
    Null,
    Integer(i64),
    /// The bits: JSON has no infinity.
    Real(u64),
    #[serde(borrow)]
    Text(Cow<'a, str>),
    /// Text that another program wrote and that is not UTF-8, in base64.
    TextBytes(String),
    /// In base64.
    Blob(String),
}

/// A table's real columns, with the statements on single rows.
struct SingleRows {
    columns: Vec<RealColumn>,
    select: String,
    delete: String,
}

/// A statement with its values.
struct Bound {
    statement: String,
    values: Vec<SqlValue>,
}

enum SqlValue {
    Value(Value),
    /// Text that may not be UTF-8.
    Text(Vec<u8>),
}

impl Sqlite {
    pub(super) fn read_images(&mut self, rows: &Rows, at: &[usize]) -> Result<Vec<Image>, Failure> {
        self.upserts(&rows.tables)?;
        let mut images = keys_at(rows, at);
        let keys: Vec<&Image> = images.iter().collect();
        let tables = self.single_rows(&keys)?;
        let selects: Vec<Bound> =
            keys.iter().map(|image| tables[&image.table].select(image)).collect::<Result<_, _>>()?;
        let found = self.retry(|connection| read(connection, &selects))?;
        for (image, row) in images.iter_mut().zip(found) {
            image.row = row;
        }
        Ok(images)
    }

    /// Puts images back in one transaction. Deletes first, so that no new row conflicts with a restored one.
    pub(super) fn put_back(&mut self, images: &[Image], owner: &dyn Owner) -> Result<(), Failure> {
        let mut images = first_of_each_key(images);
        images.sort_by_key(|image| image.row.is_some());
        let tables = self.single_rows(&images)?;
        let writes: Vec<Bound> =
            images.iter().map(|image| tables[&image.table].restore(image)).collect::<Result<_, _>>()?;
        self.transact(owner, |transaction| write(transaction, &writes))
    }

    fn single_rows(&mut self, images: &[&Image]) -> Result<HashMap<String, SingleRows>, Failure> {
        let mut tables = HashMap::new();
        for image in images {
            if !tables.contains_key(&image.table) {
                let columns = self.retry(|connection| real_columns(connection, &image.table))?;
                if columns.is_empty() {
                    let (table, path) = (&image.table, &self.path);
                    return Err(Failure::outside(format!(
                        "sink.sqlite: table {table} no longer exists in {path}; create it again"
                    )));
                }
                tables.insert(image.table.clone(), SingleRows::of(&image.table, columns));
            }
        }
        Ok(tables)
    }
}

fn read(connection: &Connection, selects: &[Bound]) -> rusqlite::Result<Vec<Option<String>>> {
    let row = |select: &Bound| {
        let mut statement = connection.prepare_cached(&select.statement)?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let row = |row: &rusqlite::Row<'_>| {
            let value = |(i, name)| Ok((Cow::Borrowed(name), Stored::of(row.get_ref(i)?)));
            let sqlite = names.iter().map(String::as_str).enumerate().map(value).collect::<rusqlite::Result<_>>()?;
            Ok(serde_json::to_string(&RowImage { sqlite }).expect("scalars have no keys to refuse"))
        };
        statement.query_row(rusqlite::params_from_iter(&select.values), row).optional()
    };
    selects.iter().map(row).collect()
}

fn write(transaction: &Transaction<'_>, writes: &[Bound]) -> rusqlite::Result<()> {
    for write in writes {
        transaction.prepare_cached(&write.statement)?.execute(rusqlite::params_from_iter(&write.values))?;
    }
    Ok(())
}

impl SingleRows {
    fn of(table: &str, columns: Vec<RealColumn>) -> SingleRows {
        let (names, table) = (columns.iter().map(|c| quoted(&c.name)), quoted(table));
        let key = columns.iter().filter(|c| c.primary_key).map(|c| format!("{} = ?", quoted(&c.name)));
        let key = key.collect::<Vec<_>>().join(" AND ");
        SingleRows {
            select: format!("SELECT {} FROM {table} WHERE {key}", names.collect::<Vec<_>>().join(", ")),
            delete: format!("DELETE FROM {table} WHERE {key}"),
            columns,
        }
    }

    fn select(&self, image: &Image) -> Result<Bound, Failure> {
        Ok(Bound { statement: self.select.clone(), values: self.key(image)? })
    }

    fn restore(&self, image: &Image) -> Result<Bound, Failure> {
        match &image.row {
            Some(row) => self.upsert(image, row),
            None => Ok(Bound { statement: self.delete.clone(), values: self.key(image)? }),
        }
    }

    /// Returns the primary key in the table's order, as the upserts bind it.
    fn key(&self, image: &Image) -> Result<Vec<SqlValue>, Failure> {
        let columns: HashMap<String, &RawValue> = key_columns(&image.key).unwrap_or_default();
        let given = |real: &RealColumn| {
            let value = columns.iter().find(|(name, _)| name.eq_ignore_ascii_case(&real.name))?.1;
            key_value(affinity(&real.declared), value)
        };
        let values: Option<Vec<SqlValue>> = self.columns.iter().filter(|c| c.primary_key).map(given).collect();
        values
            .filter(|values| values.len() == columns.len())
            .ok_or_else(|| cannot_restore("sink.sqlite", image, &"the table has a different primary key"))
    }

    /// An upsert, not a replacement: the rowid and foreign keys that refer to the row stay valid.
    fn upsert(&self, image: &Image, row: &str) -> Result<Bound, Failure> {
        let broken = |reason: &dyn Display| cannot_restore("sink.sqlite", image, reason);
        let row: RowImage<'_> =
            serde_json::from_str(row).map_err(|e| broken(&format!("the image is not from this kind of sink: {e}")))?;
        let names: Vec<&str> = row.sqlite.iter().map(|(name, _)| name.as_ref()).collect();
        let key: Vec<&str> = self.columns.iter().filter(|c| c.primary_key).map(|c| c.name.as_str()).collect();
        if let Some(gone) = names.iter().find(|name| !self.columns.iter().any(|c| c.name == **name)) {
            return Err(broken(&format!("the table no longer has column {gone}")));
        }
        if let Some(new) = key.iter().find(|name| !names.contains(name)) {
            return Err(broken(&format!("column {new} is now part of the table's primary key")));
        }
        let statement = upsert_of(&image.table, &names, &key);
        let values = row.sqlite.into_iter().map(|(_, value)| value.into_sql()).collect::<Result<_, _>>();
        Ok(Bound { statement, values: values.map_err(|e| broken(&e))? })
    }
}

/// Returns a value of a key as [`to_sql`] binds it in an upsert. Lists are JSON in both.
fn key_value(affinity: &str, value: &RawValue) -> Option<SqlValue> {
    let kind = match (affinity, value.get().as_bytes().first()?) {
        ("INTEGER", b't' | b'f') => ColumnType::Boolean,
        ("INTEGER", _) => ColumnType::Integer,
        ("REAL", _) => ColumnType::Float,
        ("BLOB", _) => ColumnType::Blob,
        ("TEXT", b'[') => return Some(SqlValue::Text(value.get().as_bytes().to_vec())),
        _ => ColumnType::Text,
    };
    let column = key_column(kind, value)?;
    Some(SqlValue::Value(match to_sql(column.cell(0)) {
        rusqlite::types::ToSqlOutput::Owned(value) => value,
        rusqlite::types::ToSqlOutput::Borrowed(value) => value.try_into().ok()?,
        _ => return None,
    }))
}

impl Stored<'_> {
    fn of(value: ValueRef<'_>) -> Stored<'_> {
        match value {
            ValueRef::Null => Stored::Null,
            ValueRef::Integer(value) => Stored::Integer(value),
            ValueRef::Real(value) => Stored::Real(value.to_bits()),
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Stored::Text(Cow::Borrowed(text)),
                Err(_) => Stored::TextBytes(STANDARD.encode(bytes)),
            },
            ValueRef::Blob(bytes) => Stored::Blob(STANDARD.encode(bytes)),
        }
    }

    fn into_sql(self) -> Result<SqlValue, base64::DecodeError> {
        Ok(match self {
            Stored::Null => SqlValue::Value(Value::Null),
            Stored::Integer(value) => SqlValue::Value(Value::Integer(value)),
            Stored::Real(bits) => SqlValue::Value(Value::Real(f64::from_bits(bits))),
            Stored::Text(text) => SqlValue::Text(text.into_owned().into_bytes()),
            Stored::TextBytes(bytes) => SqlValue::Text(STANDARD.decode(bytes)?),
            Stored::Blob(bytes) => SqlValue::Value(Value::Blob(STANDARD.decode(bytes)?)),
        })
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(match self {
            SqlValue::Value(value) => value.into(),
            SqlValue::Text(bytes) => rusqlite::types::ToSqlOutput::Borrowed(ValueRef::Text(bytes)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::SqliteSink;
    use crate::sink::samples::OWNER;
    use crate::sink::{Sink, samples};

    struct Place {
        _folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Place {
        fn new() -> Place {
            let folder = tempfile::tempdir().expect("a temporary folder");
            Place { path: folder.path().join("rows.db"), _folder: folder }
        }

        fn open(&self, rows: &Rows, now: &[&str]) -> Sqlite {
            let now = now.iter().map(|n| (*n).to_owned()).collect();
            Sqlite::open(&SqliteSink { path: self.path.clone(), now }, &rows.tables).expect("opens")
        }

        fn sql(&self, sql: &str) {
            Connection::open(&self.path).and_then(|c| c.execute_batch(sql)).expect("runs");
        }

        /// Every row with its rowid, each value with its storage class and bytes.
        fn dump(&self, table: &str) -> Vec<String> {
            let connection = Connection::open(&self.path).expect("opens");
            let mut statement =
                connection.prepare(&format!("SELECT rowid, * FROM \"{table}\" ORDER BY rowid")).expect("prepares");
            let width = statement.column_count();
            let row = |row: &rusqlite::Row<'_>| {
                let cell = |i| row.get_ref(i).map(|value| format!("{value:?}"));
                Ok((0..width).map(cell).collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
            };
            let rows = statement.query_map([], row).expect("selects");
            rows.collect::<rusqlite::Result<_>>().expect("reads")
        }
    }

    fn all(rows: &Rows) -> Vec<usize> {
        (0..rows.len()).collect()
    }

    #[test]
    fn overwritten_rows_are_restored_and_new_ones_deleted() {
        let place = Place::new();
        let before = samples::sessions(&[(1, 1, &["A", "A"]), (2, 1, &["B"]), (3, 1, &[])]);
        let mut sink = place.open(&before, &["ingestion_time"]);
        sink.write(&before, &OWNER).expect("writes");
        place.sql("UPDATE sessions SET ingestion_time = '1999' WHERE session_id = 2");
        let found = place.dump("sessions");

        let after = samples::sessions(&[(4, 1, &["D"]), (2, 1, &["C"]), (1, 1, &[]), (4, 1, &["E"])]);
        let images = sink.images(&after, &all(&after)).expect("reads");
        assert_eq!(images.iter().map(|i| i.row.is_some()).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(images[0].key, "{\"session_id\":4,\"user_id\":1}");
        sink.write(&after, &OWNER).expect("writes");
        assert_eq!(place.dump("sessions").len(), 4);
        for _ in 0..2 {
            sink.restore(&images, &OWNER).expect("restores");
            assert_eq!(place.dump("sessions"), found);
            assert_eq!(sink.images(&after, &all(&after)).expect("reads"), images);
        }
        assert_eq!(sink.images(&after, &[1]).expect("reads").len(), 1, "only what is asked for");
    }

    #[test]
    fn every_value_keeps_its_storage_class_and_its_bits_and_other_columns_come_back_too() {
        let place = Place::new();
        let rows = samples::all_types();
        place.open(&rows, &[]);
        let odd = "ALTER TABLE \"every type\" ADD COLUMN note; ALTER TABLE \"every type\" ADD COLUMN \"a \"\"b\" NUMERIC; \
                   ALTER TABLE \"every type\" ADD COLUMN twice AS (id + id) VIRTUAL;";
        place.sql(odd);
        let mut sink = place.open(&rows, &[]);
        sink.write(&rows, &OWNER).expect("writes");
        place.sql(
            "UPDATE \"every type\" SET note = 9e999, \"a \"\"b\" = 0.1, ratio = -9e999 WHERE id = 0; \
             UPDATE \"every type\" SET note = CAST(x'ff00' AS TEXT), \"a \"\"b\" = x'', name = x'00ff', yes = 'ja' WHERE id = -1; \
             UPDATE \"every type\" SET note = '7', \"a \"\"b\" = 9223372036854775807, ratio = 4.9e-324, at = 'a' || char(0) || 'b' \
             WHERE id = 9223372036854775807",
        );
        let found = place.dump("every type");
        let images = sink.images(&rows, &all(&rows)).expect("reads");
        place.sql(
            "UPDATE \"every type\" SET note = 1, \"a \"\"b\" = NULL, yes = 5, ratio = 1, at = 'x', name = 'y', bytes = x'01', pages = '', \
             counts = '', doc = ''",
        );
        sink.restore(&images, &OWNER).expect("restores");
        assert_eq!(place.dump("every type"), found);
        place.sql("DELETE FROM \"every type\" WHERE id = 0");
        sink.restore(&images, &OWNER).expect("restores");
        assert_eq!(sink.images(&rows, &all(&rows)).expect("reads"), images, "a row that is gone is there again");
    }

    #[test]
    fn keys_of_every_type_find_their_rows() {
        let place = Place::new();
        let mut rows = samples::all_types();
        let mut tables = rows.tables.to_vec();
        tables[0].columns.iter_mut().for_each(|column| column.primary_key = column.name != "id");
        rows.tables = tables.into();
        rows.order.truncate(1);
        let mut sink = place.open(&rows, &[]);
        let nothing = sink.images(&rows, &[0]).expect("reads");
        sink.write(&rows, &OWNER).expect("writes");
        let (found, images) = (place.dump("every type"), sink.images(&rows, &[0]).expect("reads"));
        assert!(images[0].row.as_ref().is_some_and(|row| row.contains("9223372036854775807")), "{images:?}");
        place.sql("UPDATE \"every type\" SET id = 5");
        sink.restore(&images, &OWNER).expect("restores");
        assert_eq!(place.dump("every type"), found);
        sink.restore(&nothing, &OWNER).expect("restores");
        assert_eq!(place.dump("every type"), [""; 0]);
    }

    #[test]
    fn a_sink_restores_tables_that_it_was_not_opened_for() {
        let place = Place::new();
        let rows = samples::documents(&["{}", "null"]);
        let mut first = place.open(&rows, &[]);
        first.write(&rows, &OWNER).expect("writes");
        let mut images = first.images(&rows, &[0, 1]).expect("reads");
        let found = place.dump("documents");
        place.sql("UPDATE documents SET doc = NULL; ALTER TABLE documents ADD COLUMN since");
        images.push(Image { row: None, ..images[0].clone() });
        let mut second = place.open(&samples::sessions(&[]), &[]);
        second.restore(&images, &OWNER).expect("restores");
        let same: Vec<String> = found.iter().map(|row| format!("{row}|Null")).collect();
        assert_eq!(place.dump("documents"), same, "the first image of a key counts");
    }

    #[test]
    fn a_failed_restore_names_the_row_and_changes_nothing() {
        let place = Place::new();
        let rows = samples::documents(&["{}", "null"]);
        let mut sink = place.open(&rows, &[]);
        sink.write(&rows, &OWNER).expect("writes");
        let images = sink.images(&rows, &[0, 1]).expect("reads");
        let mut check = |images: &[Image], expect: &str| {
            let error = sink.restore(images, &OWNER).expect_err("is refused").to_string();
            assert!(error.contains(expect), "{error}");
        };
        let of_another = Image { row: Some("{\"cql\":{}}".to_owned()), ..images[1].clone() };
        check(
            &[images[0].clone(), of_another],
            "cannot put back the row of table documents with key {\"id\":1}: the image is not from this kind of sink",
        );
        let other_key = Image { key: "{\"name\":1}".to_owned(), row: None, ..images[1].clone() };
        check(&[other_key], "with key {\"name\":1}: the table has a different primary key");
        place.sql(
            "UPDATE documents SET doc = 'new'; CREATE TRIGGER no BEFORE UPDATE ON documents WHEN OLD.id = 1 \
             BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        );
        let changed = place.dump("documents");
        check(&images, "not this one");
        assert_eq!(place.dump("documents"), changed, "the first row was put back with the second or not at all");
        place.sql("DROP TRIGGER no; ALTER TABLE documents RENAME COLUMN doc TO text");
        check(&images, "the table no longer has column doc");
        place.sql("DROP TABLE documents");
        check(&images, "table documents no longer exists in ");
    }

    #[test]
    fn a_key_with_a_null_has_no_image_and_a_table_of_keys_alone_is_restored() {
        let place = Place::new();
        let mut rows = samples::sessions(&[(1, 1, &[]), (2, 2, &[])]);
        let mut tables = rows.tables.to_vec();
        tables[0].columns.truncate(2);
        rows.tables = tables.into();
        rows.parts[0].columns.truncate(2);
        let mut sink = place.open(&rows, &[]);
        let nothing = sink.images(&rows, &[0, 1]).expect("reads");
        sink.write(&rows, &OWNER).expect("writes");
        let (found, images) = (place.dump("sessions"), sink.images(&rows, &[0, 1]).expect("reads"));
        sink.restore(&images, &OWNER).expect("restores");
        assert_eq!(place.dump("sessions"), found);
        sink.restore(&nothing, &OWNER).expect("restores");
        assert_eq!(place.dump("sessions"), [""; 0]);
        rows.parts[0].columns[1].nulls = vec![1];
        assert_eq!(sink.images(&rows, &[0, 1]).expect("reads"), nothing[..1]);
    }
}
