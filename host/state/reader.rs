//! A lane's state and journal, read beside the host that owns them: nothing is written, nobody is fenced. What is seen is the last checkpoint.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use tokio::runtime::Handle;

use crate::state::checkpoint::Checkpoint;
use crate::state::database::{Databases, Entries, Error, value};
use crate::state::forms::ObjectDatabases;
use crate::state::store::{read_checkpoint, read_keys, read_records};
use crate::state::{KeyState, Stored, layout};

/// Keys that are read in one go.
const PAGE: usize = 256;

/// A database that is only read.
pub struct Reader {
    entries: Box<dyn Entries>,
}

/// A key and its state.
pub struct StoredKey {
    /// The key.
    pub key: Vec<u8>,
    /// Its state.
    pub state: KeyState,
    /// How the store holds it.
    pub stored: Stored,
}

impl Reader {
    /// Opens the database at `path`, if it exists.
    pub fn open(objects: &Arc<dyn ObjectStore>, path: &str, runtime: &Handle) -> Result<Option<Reader>, Error> {
        let databases = ObjectDatabases::new(Arc::clone(objects), runtime.clone());
        Ok(databases.reader(path)?.map(Reader::over))
    }

    /// Reads from `entries`.
    pub fn over(entries: Box<dyn Entries>) -> Reader {
        Reader { entries }
    }

    /// Reads one value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        value(&*self.entries, key)
    }

    /// Reads the last checkpoint, if there is one.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, Error> {
        read_checkpoint(&*self.entries)
    }

    /// Reads a key, if it has state.
    pub fn key(&self, key: &[u8]) -> Result<Option<StoredKey>, Error> {
        let found = read_keys(&*self.entries, &[key.to_vec()])?.pop().flatten();
        Ok(found.map(|(state, stored)| StoredKey { key: key.to_vec(), state, stored }))
    }

    /// Reads the first `count` keys.
    pub fn keys(&self, count: usize) -> Result<Vec<StoredKey>, Error> {
        let mut keys = Vec::new();
        self.each(&[], |key| {
            if keys.len() < count {
                keys.push(key);
            }
            keys.len() < count
        })?;
        Ok(keys)
    }

    /// Calls `take` with each key that begins with `prefix`, in key order, until it returns false.
    pub fn each(&self, prefix: &[u8], mut take: impl FnMut(StoredKey) -> bool) -> Result<(), Error> {
        let under = layout::record_key(prefix);
        let mut from = Vec::new();
        loop {
            let mut page: Vec<(Vec<u8>, Bytes)> = Vec::new();
            self.entries.scan(&under, &from, &mut |entry, record| {
                page.push((layout::key_of_record(entry).to_vec(), Bytes::copy_from_slice(record)));
                if page.len() < PAGE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = [&last[prefix.len()..], &[0]].concat(); // the least key after the last one
            let is_last = page.len() < PAGE;
            let records = page.iter().map(|(key, record)| (key.as_slice(), Some(record.clone())));
            let states = read_records(&*self.entries, records)?;
            for ((key, _), found) in page.into_iter().zip(states) {
                let (state, stored) = found.expect("each record was found by the scan");
                if !take(StoredKey { key, state, stored }) {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }
}
