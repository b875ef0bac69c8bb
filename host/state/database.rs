//! The seam between a lane's storage and the database below it: [`Database`], a sorted map of bytes with one writer.
//!
//! The seam is here, and not at the lane's store and its journal, because those two are what a simulation must exercise: layouts, undo
//! entries, images and floors are the same code on both forms of a database. The forms are [`super::chained`] (a chain of objects)
//! and [`super::memory`]; one conformance suite (`tests/hermetic/state.rs`) runs on both.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::failure::{Failure, TAKEN_OVER};
use crate::observe::journal_meter::JournalMeter;

/// A stored key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A change of one key: its new value, or `None` to delete it.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// What a scan calls with each key and its value until it returns [`ControlFlow::Break`]. It must not call the database.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A sorted map of bytes that can be read. All calls block.
pub trait Entries: Send + Sync {
    /// Returns the name of the database, as errors give it.
    fn name(&self) -> &str;

    /// Reads the values of `keys`, in that order; `None` for a key that does not exist.
    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error>;

    /// Visits, in key order, the entries whose key begins with `prefix` and is not less than `prefix` followed by `from`.
    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error>;
}

/// A database that its one owner also writes: whoever opened it last. All calls block. After any error but [`Error::Fenced`] it is unknown
/// whether the last write took effect, and the database must be opened again before it is used.
pub trait Database: Entries {
    /// Applies `changes` in order, all or none of them; returns once they are durable. Without changes nothing is done. Fails with [`Error::Fenced`], and changes nothing, if
    /// the database was opened again elsewhere.
    fn write(&self, changes: Vec<Change>) -> Result<(), Error>;

    /// Fails with [`Error::Fenced`] if the database was opened elsewhere before the call. It writes nothing.
    fn check_ownership(&self) -> Result<(), Error>;

    /// Counts writes there from now on, if it is a journal's database.
    fn count(&self, _: &Arc<JournalMeter>) {}

    /// Closes the database. What was written stays even if it is never closed.
    fn close(&self) -> Result<(), Error>;
}

/// Where databases are, by their paths. All calls block.
pub trait Databases: Send + Sync {
    /// Opens a database, and creates it if it does not exist. Its former owner is fenced.
    fn open(&self, path: &str) -> Result<Arc<dyn Database>, Error>;
}

/// Why a lane's state or journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another host has opened the same database, which has this name.
    #[error("cannot use {0}: {taken_over}", taken_over = TAKEN_OVER)]
    Fenced(String),
    /// The data was written by a newer version, or is damaged.
    #[error("{0}")]
    Unreadable(String),
    /// The object store fails or refuses.
    #[error("{0}")]
    Outside(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let message = error.to_string();
        match error {
            Error::Fenced(_) => Failure::fenced(message),
            Error::Unreadable(_) => Failure::state(message),
            Error::Outside(_) => Failure::outside(message),
        }
    }
}

/// Reads one value.
pub(super) fn value(database: &(impl Entries + ?Sized), key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    Ok(database.get(&[key])?.pop().flatten().map(Vec::from))
}

/// Reads all entries whose key begins with `prefix`, in key order, each key without the prefix.
pub(super) fn entries(database: &(impl Entries + ?Sized), prefix: &[u8]) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    database.scan(prefix, &[], &mut |key, value| {
        entries.push((key[prefix.len()..].to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(entries)
}
