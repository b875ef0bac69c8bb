//! Reading a lane's databases beside the host that has them open: nothing is written, nobody is fenced. What is seen is as of the last
//! checkpoint.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::bytes::Bytes;
use slatedb::config::DbReaderOptions;
use slatedb::{DbReadOps, DbReader, DbReaderMode};
use tokio::runtime::Handle;

use crate::state::checkpoint::Checkpoint;
use crate::state::store::{Error, error_of};
use crate::state::{KeyState, Stored, layout};

/// Longer than anything that is read.
const PINNED: Duration = Duration::from_secs(24 * 3600);

/// A database that is only read.
pub struct Reader {
    db: DbReader,
    runtime: Handle,
    name: String,
}

/// A key and what it has.
pub struct StoredKey {
    /// The key.
    pub key: Vec<u8>,
    /// What it has.
    pub state: KeyState,
    /// How the store holds it.
    pub stored: Stored,
}

impl Reader {
    /// Opens the database at `path`, if there is one.
    pub fn open(objects: &Arc<dyn ObjectStore>, path: &str, runtime: &Handle) -> Result<Option<Reader>, Error> {
        let location = Path::from(path);
        if runtime.block_on(objects.list(Some(&location)).next()).is_none() {
            return Ok(None);
        }
        // It stays with what it finds first, so that all that is read of it is of one checkpoint.
        let options = DbReaderOptions {
            manifest_poll_interval: PINNED,
            checkpoint_lifetime: PINNED * 2,
            ..DbReaderOptions::default()
        };
        let builder = DbReader::builder(location, Arc::clone(objects));
        let builder = builder.with_reader_mode(DbReaderMode::FollowLatest).with_options(options);
        let db = runtime.block_on(builder.build()).map_err(|e| error_of(path, &e))?;
        Ok(Some(Reader { db, runtime: runtime.clone(), name: path.to_owned() }))
    }

    /// One value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let value = self.runtime.block_on(self.db.get(key)).map_err(|e| error_of(&self.name, &e))?;
        Ok(value.map(Vec::from))
    }

    /// The last checkpoint, if there is one.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, Error> {
        let Some(bytes) = self.get(layout::CHECKPOINT)? else { return Ok(None) };
        Checkpoint::decode(&bytes).map(Some).map_err(|e| Error::Unreadable(format!("{}: {e}", self.name)))
    }

    /// What a key has, if it has anything.
    pub fn key(&self, key: &[u8]) -> Result<Option<StoredKey>, Error> {
        let mut found = None;
        self.each(key, |stored| {
            found = (stored.key == key).then_some(stored);
            false // the key itself comes first of those that begin with it
        })?;
        Ok(found)
    }

    /// The first `count` keys with what they have.
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

    /// Gives the keys that begin with `prefix`, in their order, until `take` wants no more.
    pub fn each(&self, prefix: &[u8], mut take: impl FnMut(StoredKey) -> bool) -> Result<(), Error> {
        let outside = |e: slatedb::Error| error_of(&self.name, &e);
        let scan = async {
            let mut found = self.db.scan_prefix([layout::RECORDS, prefix].concat(), ..).await.map_err(outside)?;
            while let Some(entry) = found.next().await.map_err(outside)? {
                let key = layout::key_of_record(&entry.key).to_vec();
                let (state, stored) = read_record(&self.db, &self.name, &key, entry.value).await?;
                if !take(StoredKey { key, state, stored }) {
                    break;
                }
            }
            Ok(())
        };
        self.runtime.block_on(scan)
    }
}

/// What a record holds, with the list's items that lie beside it.
pub(super) async fn read_record(
    db: &(impl DbReadOps + Sync),
    name: &str,
    key: &[u8],
    record: Bytes,
) -> Result<(KeyState, Stored), Error> {
    let unreadable = |e: layout::Corrupt| Error::Unreadable(format!("{name}: {e}"));
    let (mut state, stored) = layout::decode(&record).map_err(unreadable)?;
    for run in 0..stored.runs {
        let items = db.get(layout::run_key(key, run)).await.map_err(|e| error_of(name, &e))?;
        let items = items.ok_or_else(|| Error::Unreadable(format!("{name}: run {run} of a list is missing")))?;
        layout::decode_items(&items, &mut state.list).map_err(unreadable)?;
    }
    Ok((state, stored))
}
