//! Images of a CQL sink: single rows, read by primary key and put back.
//!
//! An image keeps each column's bytes as the database sent them, and binds them unchanged. So every type comes back exactly, including types
//! that no plugin can declare. (The JSON that Cassandra makes of a row turns floats that are not finite into null, and times before the year
//! 1 into later ones.)
//!
//! Static columns belong to the partition and are left alone. Write times and times to live are not kept: a restored row counts as newly
//! written, so it wins over everything written before, and lives as long as the table's default says. Outages, refusals and write
//! timestamps are handled as for rows ([`Cql::deliver`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use scylla::client::session::Session;
use scylla::deserialize::row::ColumnIterator;
use scylla::response::query_result::QueryResult;
use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;
use scylla::statement::prepared::PreparedStatement;
use serde::{Deserialize, Serialize};

use crate::config::CqlSink;
use crate::failure::Failure;
use crate::row::{Column, ColumnType, Image, Rows};
use crate::sink::cql::Cql;
use crate::sink::cql::schema::{RealColumn, declared_in_key, delete_row, insert_row, select_row};
use crate::sink::cql::session::read_consistency;
use crate::sink::cql::tables::{cannot_prepare, real_columns};
use crate::sink::cql::values::write_cell;
use crate::sink::cql::write::{is_refusal, stamped};
use crate::sink::image::{first_of_each_key, key_column, key_columns, keys_at};
use crate::sink::{Owner, cannot_restore};

/// Statements on single rows of a table, whichever plugin declared it.
#[derive(Clone, Debug)]
pub(crate) struct RowStatements {
    select: PreparedStatement,
    insert: PreparedStatement,
    delete: PreparedStatement,
    /// The primary key, in the order in which it is bound.
    key: Vec<(String, ColumnType)>,
    /// All columns but the static ones, in the order in which they are bound.
    columns: Vec<String>,
}

/// The text of [`Image::row`].
#[derive(Serialize, Deserialize)]
struct RowImage {
    /// Bytes in base64 by column; none for null. The name keeps it apart from other sinks' images.
    cql: BTreeMap<String, Option<String>>,
}

/// A statement with its values.
struct Bound {
    statement: PreparedStatement,
    values: Vec<Bind>,
}

enum Bind {
    /// A value of the primary key, as a column of one row.
    Key(Column),
    /// The database's own bytes; none for null.
    Raw(Option<Vec<u8>>),
    /// The column did not exist when the image was read: it stays as it is.
    Unset,
}

impl Cql {
    /// Reads images; see [`crate::sink::Sink::images`].
    pub(super) fn read_images(&mut self, rows: &Rows, at: &[usize]) -> Result<Vec<Image>, Failure> {
        self.upserts(&rows.tables)?;
        let mut images = keys_at(rows, at);
        let keys: Vec<&Image> = images.iter().collect();
        self.prepare_single_rows(&keys)?;
        let selects = self.selects(&keys)?;
        let prepare = |sink: &mut Cql| {
            sink.prepare_upserts(&rows.tables)?;
            sink.prepare_single_rows_again(&keys)?;
            sink.selects(&keys)
        };
        let select = async |session: &Session, selects: &Vec<Bound>, (at, _): (usize, i64)| {
            Ok(row_image(session.execute_unpaged(&selects[at].statement, &selects[at]).await?))
        };
        let mut found = self.deliver(None, (0..keys.len()).collect(), selects, prepare, select)?;
        let mut all = Vec::with_capacity(images.len());
        for (at, image) in images.drain(..).enumerate() {
            // The database refuses a key that it cannot hold, such as one that is empty or too long.
            if let Some(row) = found.answers.remove(&at) {
                all.push(Image { row: row?, ..image });
            }
        }
        Ok(all)
    }

    /// Puts images back; see [`crate::sink::Sink::restore`].
    pub(super) fn put_back(&mut self, images: &[Image], owner: &dyn Owner) -> Result<(), Failure> {
        let images = first_of_each_key(images);
        self.prepare_single_rows_again(&images)?;
        let writes = self.restores(&images)?;
        let prepare = |sink: &mut Cql| {
            sink.prepare_single_rows_again(&images)?;
            sink.restores(&images)
        };
        let write = async |session: &Session, writes: &Vec<Bound>, (at, timestamp): (usize, i64)| {
            session.execute_unpaged(&stamped(&writes[at].statement, timestamp), &writes[at]).await.map(drop)
        };
        let done = self.deliver(Some(owner), (0..images.len()).collect(), writes, prepare, write)?;
        match done.refused.into_iter().next() {
            Some((at, reason)) => Err(cannot_restore("sink.cql", images[at], &reason)),
            None => Ok(()),
        }
    }

    /// Prepares the statements for the tables of these images, unless they are prepared already.
    fn prepare_single_rows(&mut self, images: &[&Image]) -> Result<(), Failure> {
        let known = images.iter().all(|image| self.single_rows.contains_key(&image.table));
        if known { Ok(()) } else { self.prepare_single_rows_again(images) }
    }

    fn prepare_single_rows_again(&mut self, images: &[&Image]) -> Result<(), Failure> {
        let tables: BTreeSet<&String> = images.iter().map(|image| &image.table).collect();
        for table in tables {
            let statements =
                self.ask_schema(async |session, config| prepare_statements(session, config, table).await)?;
            self.single_rows.insert(table.clone(), statements);
        }
        Ok(())
    }

    fn selects(&self, images: &[&Image]) -> Result<Vec<Bound>, Failure> {
        let select = |&image: &&Image| {
            let statements = &self.single_rows[&image.table];
            Ok(Bound { statement: statements.select.clone(), values: statements.key(image)? })
        };
        images.iter().map(select).collect()
    }

    fn restores(&self, images: &[&Image]) -> Result<Vec<Bound>, Failure> {
        let restore = |&image: &&Image| {
            let statements = &self.single_rows[&image.table];
            Ok(match &image.row {
                Some(row) => Bound { statement: statements.insert.clone(), values: statements.row(image, row)? },
                None => Bound { statement: statements.delete.clone(), values: statements.key(image)? },
            })
        };
        images.iter().map(restore).collect()
    }
}

impl RowStatements {
    fn key(&self, image: &Image) -> Result<Vec<Bind>, Failure> {
        let columns: HashMap<_, _> = key_columns(&image.key).unwrap_or_default();
        let bind = |(name, kind): &(String, ColumnType)| columns.get(name).and_then(|value| key_column(*kind, value));
        let values: Option<Vec<Column>> = self.key.iter().map(bind).collect();
        match values {
            Some(values) if values.len() == columns.len() => Ok(values.into_iter().map(Bind::Key).collect()),
            _ => Err(cannot_restore("sink.cql", image, &"the table has a different primary key")),
        }
    }

    fn row(&self, image: &Image, row: &str) -> Result<Vec<Bind>, Failure> {
        let broken = |reason: &dyn Display| cannot_restore("sink.cql", image, reason);
        let mut row: RowImage =
            serde_json::from_str(row).map_err(|e| broken(&format!("the image is not from this kind of sink: {e}")))?;
        let bind = |name: &String| match row.cql.remove(name) {
            Some(Some(bytes)) => STANDARD.decode(bytes).map(|bytes| Bind::Raw(Some(bytes))),
            Some(None) => Ok(Bind::Raw(None)),
            None => Ok(Bind::Unset),
        };
        let values = self.columns.iter().map(bind).collect::<Result<_, _>>().map_err(|e| broken(&e))?;
        match row.cql.keys().next() {
            Some(gone) => Err(broken(&format!("the table no longer has column {gone}"))),
            None => Ok(values),
        }
    }
}

impl SerializeRow for Bound {
    fn serialize(&self, _: &RowSerializationContext<'_>, writer: &mut RowWriter<'_>) -> Result<(), SerializationError> {
        for value in &self.values {
            let cell = writer.make_cell_writer();
            let written = match value {
                Bind::Key(column) => {
                    write_cell(column.cell(0), cell).map_err(SerializationError::new)?;
                    continue;
                }
                Bind::Raw(Some(bytes)) => cell.set_value(bytes),
                Bind::Raw(None) => Ok(cell.set_null()),
                Bind::Unset => Ok(cell.set_unset()),
            };
            written.map_err(SerializationError::new)?;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// Returns the row of an answer, if there is one.
fn row_image(answer: QueryResult) -> Result<Option<String>, Failure> {
    let rows = answer.into_rows_result().map_err(unreadable)?;
    let Some(columns) = rows.maybe_first_row::<ColumnIterator<'_, '_>>().map_err(unreadable)? else { return Ok(None) };
    let mut cql = BTreeMap::new();
    for column in columns {
        let column = column.map_err(unreadable)?;
        cql.insert(column.spec.name().to_owned(), column.slice.map(|bytes| STANDARD.encode(bytes.as_slice())));
    }
    serde_json::to_string(&RowImage { cql }).map(Some).map_err(unreadable)
}

fn unreadable(error: impl Display) -> Failure {
    Failure::unexpected(format!("sink.cql: cannot read the database's answer: {error}"))
}

/// Prepares the statements on single rows of a table. The outer error is an outage.
async fn prepare_statements(
    session: &Session,
    config: &CqlSink,
    table: &String,
) -> Result<Result<RowStatements, Failure>, String> {
    let keyspace = &config.keyspace;
    let Some(real) = real_columns(session, keyspace, table).await? else {
        return Ok(Err(Failure::outside(format!(
            "sink.cql: table {keyspace}.{table} no longer exists; create it again"
        ))));
    };
    let declared = |column: &RealColumn| Some((column.name.clone(), declared_in_key(column)?));
    let Some(key) = real.iter().filter(|column| column.in_primary_key()).map(declared).collect() else {
        return Ok(Err(Failure::outside(format!(
            "sink.cql: table {keyspace}.{table} has a primary key that no plugin can declare"
        ))));
    };
    let mut prepared = Vec::new();
    for statement in [select_row, insert_row, delete_row].map(|text| text(keyspace, table, &real)) {
        match session.prepare(statement).await {
            Ok(statement) => prepared.push(statement),
            Err(e) if is_refusal(&e) => return Ok(Err(cannot_prepare(keyspace, table, &e))),
            Err(e) => return Err(e.to_string()),
        }
    }
    let [mut select, mut insert, mut delete]: [_; 3] = prepared.try_into().expect("three statements were prepared");
    [&mut select, &mut insert, &mut delete].into_iter().for_each(|statement| statement.set_is_idempotent(true));
    match read_consistency(&config.consistency) {
        Ok(consistency) => select.set_consistency(consistency),
        Err(refusal) => return Ok(Err(refusal)),
    }
    let columns = real.into_iter().filter(|column| column.kind != "static").map(|column| column.name).collect();
    Ok(Ok(RowStatements { select, insert, delete, key, columns }))
}
