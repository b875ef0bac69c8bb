//! Where rows go. A sink writes the rows of one batch in order and returns when the outside has acknowledged them; it is called from one
//! thread of its own. Keeps I2: rows are acknowledged before a checkpoint that covers them is written.

mod cql;
mod discard;
mod image;
mod ndjson;
#[cfg(test)]
mod samples;
mod sqlite;
pub mod writer;

pub use image::key_of;
pub(crate) use ndjson::{bad_json, put_columns, put_row};

use std::sync::Arc;
use std::time::Instant;

use crate::backoff::Outage;
use crate::config;
use crate::failure::{Check, Exit, Failure, first_refused};
use crate::row::Image;
use crate::row::{RowRef, Rows, Table};

/// A row that the database refuses for good: it goes to the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The row.
    pub row: RowRef,
    /// The row as NDJSON would carry it.
    pub json: String,
    /// The database's reason.
    pub reason: String,
}

/// An open sink. It takes the rows of whatever tables a batch declares, and looks at those that are new to it. Outages are retried inside for ever, with backoff and a warning; what comes back as an error halts the lane.
pub trait Sink: Send {
    /// Writes the rows of a batch; back when all are acknowledged. Of several rows of one primary key the last must win.
    fn write(&mut self, rows: &Rows) -> Result<Vec<Refusal>, Error>;
    /// For a file: its length, all of it on disk. None for what needs no cutting at recovery.
    fn length(&mut self) -> Result<Option<u64>, Error>;
    /// For a file: cuts it back to what the checkpoint covers. Called before the first `write` only.
    fn truncate(&mut self, length: u64) -> Result<(), Error>;
    /// What is there now under the primary keys of the rows at these places of `rows.order`; each key once. A key that the sink can hold no
    /// row under, as one with a null in it, gives none. Empty for a sink whose file is cut back instead.
    fn images(&mut self, rows: &Rows, at: &[usize]) -> Result<Vec<Image>, Error>;
    /// Puts it back: rows as they were, host-filled `now` columns and columns the plugin does not know included; keys under which nothing
    /// was are deleted. Of several images of one key the first counts. Needs no `write` before, nor tables that the sink knows. Idempotent;
    /// a sink that gives no images leaves all as it is.
    fn restore(&mut self, images: &[Image]) -> Result<(), Error>;
    /// What is known of its outages, for those who watch.
    fn outage(&self) -> Arc<Outage>;
}

/// What a sink prepared for the tables of each plugin whose rows came: a deployment may change the plugin, and lanes change at times of
/// their own.
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

/// Opens the sink that `config` names for rows of `tables`. The outside is waited for until `deadline` (without one it is tried once); what
/// is missing or does not fit is refused at once.
pub fn open(
    config: &config::Sink,
    tables: &Arc<[Table]>,
    runtime: &tokio::runtime::Handle,
    deadline: Option<Instant>,
) -> Result<Box<dyn Sink>, Error> {
    Ok(match config {
        config::Sink::Cql(config) => Box::new(cql::Scylla::open(config, tables, runtime, deadline)?),
        config::Sink::Sqlite(config) => Box::new(sqlite::Sqlite::open(config, tables)?),
        config::Sink::Ndjson(config) => Box::new(ndjson::Ndjson::open(config, tables)?),
        config::Sink::Discard => Box::new(discard::Discard),
    })
}

/// What [`open`] would find, a line for each thing looked at, nothing changed. The outside is tried once.
pub fn check(config: &config::Sink, tables: &Arc<[Table]>, runtime: &tokio::runtime::Handle) -> Vec<Check> {
    match config {
        config::Sink::Cql(config) => cql::check(config, tables, runtime),
        config::Sink::Sqlite(config) => sqlite::check(config, tables),
        config::Sink::Ndjson(config) => ndjson::check(config, tables),
        config::Sink::Discard => vec![Check::fine("sink", "rows are discarded")],
    }
}

/// As [`check`], and what may go wrong later.
pub fn examine(config: &config::Sink, tables: &Arc<[Table]>, runtime: &tokio::runtime::Handle) -> Vec<Check> {
    match config {
        config::Sink::Cql(config) => cql::examine(config, tables, runtime),
        config::Sink::Sqlite(_) | config::Sink::Ndjson(_) | config::Sink::Discard => check(config, tables, runtime),
    }
}

/// What makes a table for these rows, by sink. Which column of the primary key is to be CQL's partition key is the operator's to judge.
pub(crate) fn statements(table: &Table) -> [(&'static str, String); 2] {
    [("CQL", cql::schema::create_table("ks", table, &[])), ("SQLite", sqlite::create_table(table, &[]))]
}

/// The first refused line, as the error with which [`open`] fails.
fn refuse(checks: &[Check]) -> Result<(), Error> {
    let Some((exit, check)) = first_refused(checks) else { return Ok(()) };
    let detail = check.detail.clone();
    Err(match exit {
        Exit::Config => Error::Config(detail),
        Exit::Outside => Error::Outside(detail),
        Exit::Unexpected | Exit::Plugin | Exit::State => Error::Unexpected(detail),
    })
}

/// Columns under `now` that the plugin declares itself: the host may not fill those.
fn now_is_free(section: &str, now: &[String], tables: &[Table]) -> Result<(), Error> {
    for table in tables {
        if let Some(column) = table.columns.iter().find(|c| now.contains(&c.name)) {
            return Err(Error::Config(format!(
                "{section}.now: column {} of table {} is one of the plugin's own, the host cannot fill it; take it out of `now`",
                column.name, table.name
            )));
        }
    }
    Ok(())
}

/// An image that cannot be put back, and why.
fn cannot_restore(section: &str, image: &Image, reason: &dyn std::fmt::Display) -> Error {
    let Image { table, key, .. } = image;
    Error::Outside(format!("{section}: the row of table {table} under {key} cannot be put back: {reason}"))
}

/// Why a sink cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration asks for what cannot be.
    #[error("{0}")]
    Config(String),
    /// Database, credentials, keyspace, table or column missing, refusing or not fitting.
    #[error("{0}")]
    Outside(String),
    /// Anything else.
    #[error("{0}")]
    Unexpected(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match &error {
            Error::Config(_) => Exit::Config,
            Error::Outside(_) => Exit::Outside,
            Error::Unexpected(_) => Exit::Unexpected,
        };
        Failure::new(exit, error.to_string())
    }
}
