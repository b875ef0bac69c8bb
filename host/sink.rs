//! Where rows go. A sink writes the rows of one batch in order, and returns once the database or the disk has acknowledged them. Sinks block
//! on their own thread ([`writer`]), so they can simply wait. Keeps I2: rows are acknowledged before a checkpoint that covers them is
//! written.

mod cql;
mod discard;
mod image;
mod ndjson;
#[cfg(test)]
mod samples;
mod sqlite;
pub mod writer;

use std::sync::Arc;
use std::time::Instant;

use crate::backoff::Outage;
use crate::config;
use crate::failure::{Check, Failure};
use crate::row::json::write_row;
use crate::row::{Image, RowRef, Rows, Table};

/// An open sink. It takes rows of any plugin's tables, and compares tables when it sees them for the first time. It retries outages itself,
/// without end, with backoff and a warning; a failure that it returns halts the lane.
pub trait Sink: Send {
    /// Waits until no other host writes what only one may write, such as a file of lines; refuses after `deadline`. Called once, when the
    /// host owns its lanes, before anything is written or truncated.
    fn claim(&mut self, _deadline: Instant) -> Result<(), Failure> {
        Ok(())
    }
    /// Writes the rows of a batch, and returns once all are acknowledged. If several rows have the same primary key, the last one wins.
    /// Returns the rows that the database refuses for good. Fails if a later owner of the lane has taken over (I8).
    fn write(&mut self, rows: &Rows, owner: &dyn Owner) -> Result<Vec<Refusal>, Failure>;
    /// Syncs a file to disk and returns its length in bytes. None for a sink that needs no truncation at recovery.
    fn length(&mut self) -> Result<Option<u64>, Failure>;
    /// Truncates a file to the length that the checkpoint covers. Called only before the first `write`.
    fn truncate(&mut self, length: u64) -> Result<(), Failure>;
    /// Ends a last line that was broken off, before the first `write`: what begins at `ours` or later is this pipeline's and may be cut.
    fn end_line(&mut self, _ours: Option<u64>) -> Result<(), Failure> {
        Ok(())
    }
    /// Reads what is stored under the primary keys of the rows at these positions of `rows.order`, each key once. A key that the sink can
    /// store no row under, such as one with a null in it, has no image. Empty for a sink whose file is truncated instead.
    fn images(&mut self, rows: &Rows, at: &[usize]) -> Result<Vec<Image>, Failure>;
    /// Puts images back: rows become what they were, including `now` columns and columns that the plugin does not declare; keys that had no
    /// row are deleted. If several images have the same key, the first one counts. Needs no `write` before it, and no tables that the sink
    /// has seen. Idempotent. A sink without images does nothing.
    fn restore(&mut self, images: &[Image], owner: &dyn Owner) -> Result<(), Failure>;
    /// Returns what probes and metrics may read about its outages.
    fn outage(&self) -> Arc<Outage>;
}

/// The host that owns a lane, as a sink knows it. It travels with the lane's rows.
pub trait Owner: Send + Sync {
    /// Returns the lane's name, which no other lane of any pipeline has.
    fn lane(&self) -> &str;
    /// Returns the first of `count` consecutive write timestamps, in microseconds since 1970 UTC, greater than `after`. All are greater than
    /// those of earlier owners of the lane, and less than those of later ones. Fails once the host can have none, because another one has
    /// taken over.
    fn timestamps(&self, after: i64, count: usize) -> Result<i64, Failure>;
}

/// A row that the database refuses for good: it becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The row.
    pub row: RowRef,
    /// The row as the NDJSON sink would write it.
    pub json: String,
    /// The database's reason.
    pub reason: String,
}

impl Refusal {
    /// Returns the refusal of this row. Its JSON is the same for every sink.
    fn of(rows: &Rows, row: RowRef, reason: String) -> Refusal {
        let mut json = Vec::new();
        write_row(&mut json, rows, row);
        Refusal { row, json: String::from_utf8(json).expect("written from UTF-8 only"), reason }
    }
}

/// Opens the sink that `config` names for rows of `tables`. Retries an unavailable database until `deadline` (without one it tries once);
/// what is missing or does not fit is refused at once.
pub fn open(
    config: &config::Sink,
    tables: &Arc<[Table]>,
    runtime: &tokio::runtime::Handle,
    deadline: Option<Instant>,
) -> Result<Box<dyn Sink>, Failure> {
    Ok(match config {
        config::Sink::Cql(config) => Box::new(cql::Cql::open(config, tables, runtime, deadline)?),
        config::Sink::Sqlite(config) => Box::new(sqlite::Sqlite::open(config, tables)?),
        config::Sink::Ndjson(config) => Box::new(ndjson::Ndjson::open(config, tables)?),
        config::Sink::Discard => Box::new(discard::Discard),
    })
}

/// Looks at everything that [`open`] needs and changes nothing; returns one check for each thing. Tries an unavailable database once.
pub fn check(config: &config::Sink, tables: &Arc<[Table]>, runtime: &tokio::runtime::Handle) -> Vec<Check> {
    match config {
        config::Sink::Cql(config) => cql::check(config, tables, runtime),
        config::Sink::Sqlite(config) => sqlite::check(config, tables),
        config::Sink::Ndjson(config) => ndjson::check(config, tables),
        config::Sink::Discard => vec![Check::fine("sink", "rows are discarded")],
    }
}

/// Does what [`check`] does, and looks for what may go wrong later.
pub fn examine(config: &config::Sink, tables: &Arc<[Table]>, runtime: &tokio::runtime::Handle) -> Vec<Check> {
    match config {
        config::Sink::Cql(config) => cql::examine(config, tables, runtime),
        config::Sink::Sqlite(_) | config::Sink::Ndjson(_) | config::Sink::Discard => check(config, tables, runtime),
    }
}

/// Returns the statements that create a table for these rows, by sink. In CQL the first key column becomes the partition key; the operator
/// may choose another one.
pub(crate) fn create_statements(table: &Table) -> [(&'static str, String); 2] {
    [("CQL", cql::schema::create_table("ks", table, &[])), ("SQLite", sqlite::schema::create_table(table, &[]))]
}

/// What a sink prepared for the tables of each plugin whose rows it saw: a deployment may change the plugin, and lanes change it at
/// different times.
#[derive(Debug)]
struct ByTables<T>(Vec<(Tables, Arc<[T]>)>);

/// The tables of one plugin.
type Tables = Arc<[Table]>;

impl<T> ByTables<T> {
    fn new(tables: &Arc<[Table]>, prepared: Vec<T>) -> ByTables<T> {
        ByTables(vec![(Arc::clone(tables), prepared.into())])
    }

    fn get(&self, tables: &Arc<[Table]>) -> Option<Arc<[T]>> {
        let found = self.0.iter().find(|(known, _)| Arc::ptr_eq(known, tables) || known == tables);
        found.map(|(_, prepared)| Arc::clone(prepared))
    }

    fn put(&mut self, tables: &Arc<[Table]>, prepared: Vec<T>) -> Arc<[T]> {
        let prepared: Arc<[T]> = prepared.into();
        self.0.retain(|(known, _)| known != tables);
        self.0.push((Arc::clone(tables), Arc::clone(&prepared)));
        prepared
    }
}

/// Refuses a column under `now` that the plugin declares itself: the host may not fill it.
fn refuse_declared_now_columns(section: &str, now: &[String], tables: &[Table]) -> Result<(), Failure> {
    for table in tables {
        if let Some(column) = table.columns.iter().find(|c| now.contains(&c.name)) {
            return Err(Failure::config(format!(
                "{section}.now: the host cannot fill column {} of table {}: the plugin declares it; remove it from `now`",
                column.name, table.name
            )));
        }
    }
    Ok(())
}

/// The failure of an image that cannot be put back.
fn cannot_restore(section: &str, image: &Image, reason: &dyn std::fmt::Display) -> Failure {
    let Image { table, key, .. } = image;
    Failure::outside(format!("{section}: cannot put back the row of table {table} with key {key}: {reason}"))
}
