//! Where rows go. A sink writes the rows of one batch in order and returns when the outside has acknowledged them; it is called from one
//! thread of its own. Keeps I2: rows are acknowledged before a checkpoint that covers them is written.

use crate::failure::{Exit, Failure};
use crate::row::{RowRef, Rows};

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

/// An open sink. Outages are retried inside for ever, with backoff and a warning; what comes back as an error halts the lane.
pub trait Sink: Send {
    /// Writes the rows of a batch; back when all are acknowledged. Of several rows of one primary key the last must win.
    fn write(&mut self, rows: &Rows) -> Result<Vec<Refusal>, Error>;
    /// For a file: its length, all of it on disk. None for what needs no cutting at recovery.
    fn length(&mut self) -> Result<Option<u64>, Error>;
    /// For a file: cuts it back to what the checkpoint covers. Called before the first `write` only.
    fn truncate(&mut self, length: u64) -> Result<(), Error>;
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
