//! Images of a CQL sink: what single rows are, read by primary key and put back.
//!
//! An image keeps each column's bytes as the database sent them, and they are bound as they are. So every type comes back exactly, those
//! included that no plugin can declare; the JSON that Cassandra itself makes of a row turns floats that are not finite into null, and times
//! before the year 1 into later ones.
//!
//! Static columns are the partition's and are left alone. Write times and times to live are not kept: what is put back is as new, which is
//! why it wins over all that was written before, and lives as long as the table's default says. Outages, refusals and write timestamps are
//! as for rows ([`Scylla::deliver`]).

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
use crate::row::Image;
use crate::row::{Column, ColumnType, Rows};
use crate::sink::cql::schema::{RealColumn, declared_in_key, delete_row, insert_row, select_row};
use crate::sink::cql::{Scylla, is_refusal, put_cell, read_consistency, real_columns};
use crate::sink::image::{first_of_each_key, key_column, key_columns, keys_at};
use crate::sink::{Error, cannot_restore};

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

/// [`Image::row`].
#[derive(Serialize, Deserialize)]
struct RowImage {
    /// Bytes in base64 by column, none for null. The name keeps it apart from other sinks' images.
    cql: BTreeMap<String, Option<String>>,
}

/// A statement with its values.
struct Bound {
    statement: PreparedStatement,
    values: Vec<Bind>,
}

enum Bind {
    /// The one value of a column of the key.
    Key(Column),
    /// The database's own bytes.
    Raw(Option<Vec<u8>>),
    /// The column did not exist: it is left as it is.
    Unset,
}

impl Scylla {
    pub(super) fn read_images(&mut self, rows: &Rows, at: &[usize]) -> Result<Vec<Image>, Error> {
        self.upserts(&rows.tables)?;
        let mut images = keys_at(rows, at);
        let keys: Vec<&Image> = images.iter().collect();
        self.know(&keys)?;
        let selects = self.selects(&keys)?;
        let look_again = |sink: &mut Scylla| {
            sink.inspect_again(&rows.tables)?;
            sink.know_again(&keys)?;
            sink.selects(&keys)
        };
        let select = async |session: &Session, selects: &Vec<Bound>, at: usize| {
            Ok(row_image(session.execute_unpaged(&selects[at].statement, &selects[at]).await?))
        };
        let mut found = self.deliver((0..keys.len()).collect(), selects, look_again, select)?;
        let mut all = Vec::with_capacity(images.len());
        for (at, image) in images.drain(..).enumerate() {
            // What is refused is a key that the database cannot hold, as an empty one or one that is too long.
            if let Some(row) = found.answers.remove(&at) {
                all.push(Image { row: row?, ..image });
            }
        }
        Ok(all)
    }

    pub(super) fn put_back(&mut self, images: &[Image]) -> Result<(), Error> {
        let images = first_of_each_key(images);
        self.know_again(&images)?;
        let writes = self.restores(&images)?;
        let look_again = |sink: &mut Scylla| {
            sink.know_again(&images)?;
            sink.restores(&images)
        };
        let write = async |session: &Session, writes: &Vec<Bound>, at: usize| {
            session.execute_unpaged(&writes[at].statement, &writes[at]).await.map(drop)
        };
        let done = self.deliver((0..images.len()).collect(), writes, look_again, write)?;
        match done.refused.into_iter().next() {
            Some((at, reason)) => Err(cannot_restore("sink.cql", images[at], &reason)),
            None => Ok(()),
        }
    }

    /// Prepares the statements for the tables of these images, where that was not done before.
    fn know(&mut self, images: &[&Image]) -> Result<(), Error> {
        let known = images.iter().all(|image| self.single_rows.contains_key(&image.table));
        if known { Ok(()) } else { self.know_again(images) }
    }

    fn know_again(&mut self, images: &[&Image]) -> Result<(), Error> {
        let tables: BTreeSet<&String> = images.iter().map(|image| &image.table).collect();
        for table in tables {
            let statements = self.look(async |session, config| prepare(session, config, table).await)?;
            self.single_rows.insert(table.clone(), statements);
        }
        Ok(())
    }

    fn selects(&self, images: &[&Image]) -> Result<Vec<Bound>, Error> {
        let select = |&image: &&Image| {
            let statements = &self.single_rows[&image.table];
            Ok(Bound { statement: statements.select.clone(), values: statements.key(image)? })
        };
        images.iter().map(select).collect()
    }

    fn restores(&self, images: &[&Image]) -> Result<Vec<Bound>, Error> {
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
    fn key(&self, image: &Image) -> Result<Vec<Bind>, Error> {
        let columns: HashMap<_, _> = key_columns(&image.key).unwrap_or_default();
        let bind = |(name, kind): &(String, ColumnType)| columns.get(name).and_then(|value| key_column(*kind, value));
        let values: Option<Vec<Column>> = self.key.iter().map(bind).collect();
        match values {
            Some(values) if values.len() == columns.len() => Ok(values.into_iter().map(Bind::Key).collect()),
            _ => Err(cannot_restore("sink.cql", image, &"the table has another primary key")),
        }
    }

    fn row(&self, image: &Image, row: &str) -> Result<Vec<Bind>, Error> {
        let broken = |reason: &dyn Display| cannot_restore("sink.cql", image, reason);
        let mut row: RowImage = serde_json::from_str(row).map_err(|e| broken(&format!("no row of this sink: {e}")))?;
        let bind = |name: &String| match row.cql.remove(name) {
            Some(Some(bytes)) => STANDARD.decode(bytes).map(|bytes| Bind::Raw(Some(bytes))),
            Some(None) => Ok(Bind::Raw(None)),
            None => Ok(Bind::Unset),
        };
        let values = self.columns.iter().map(bind).collect::<Result<_, _>>().map_err(|e| broken(&e))?;
        match row.cql.keys().next() {
            Some(gone) => Err(broken(&format!("the table has no column {gone} any more"))),
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
                    put_cell(column.cell(0), cell).map_err(SerializationError::new)?;
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

/// The row of an answer, if there is one.
fn row_image(answer: QueryResult) -> Result<Option<String>, Error> {
    let rows = answer.into_rows_result().map_err(unreadable)?;
    let Some(columns) = rows.maybe_first_row::<ColumnIterator<'_, '_>>().map_err(unreadable)? else { return Ok(None) };
    let mut cql = BTreeMap::new();
    for column in columns {
        let column = column.map_err(unreadable)?;
        cql.insert(column.spec.name().to_owned(), column.slice.map(|bytes| STANDARD.encode(bytes.as_slice())));
    }
    serde_json::to_string(&RowImage { cql }).map(Some).map_err(unreadable)
}

fn unreadable(error: impl Display) -> Error {
    Error::Unexpected(format!("sink.cql: the database's answer cannot be read: {error}"))
}

/// The statements for rows of a table. The outer error is an outage.
async fn prepare(session: &Session, config: &CqlSink, table: &String) -> Result<Result<RowStatements, Error>, String> {
    let keyspace = &config.keyspace;
    let Some(real) = real_columns(session, keyspace, table).await? else {
        return Ok(Err(Error::Outside(format!("sink.cql: table {keyspace}.{table} does not exist any more"))));
    };
    let declared = |column: &RealColumn| Some((column.name.clone(), declared_in_key(column)?));
    let Some(key) = real.iter().filter(|column| column.in_primary_key()).map(declared).collect() else {
        return Ok(Err(Error::Outside(format!("sink.cql: table {keyspace}.{table} has another primary key"))));
    };
    let mut prepared = Vec::new();
    for statement in [select_row, insert_row, delete_row].map(|text| text(keyspace, table, &real)) {
        match session.prepare(statement).await {
            Ok(statement) => prepared.push(statement),
            Err(e) if is_refusal(&e) => return Ok(Err(Error::Outside(format!("table {keyspace}.{table}: {e}")))),
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
