//! Reading a lane's databases beside the host that has them open: nothing is written, nobody is fenced. What is seen is as of the last
//! checkpoint.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::bytes::Bytes;
use slatedb::{DbReadOps, DbReader, DbReaderMode};
use tokio::runtime::Handle;

use super::store::{Error, error_of};
use super::{KeyState, Stored, layout};

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
        let builder = DbReader::builder(location, Arc::clone(objects)).with_reader_mode(DbReaderMode::FollowLatest);
        let db = runtime.block_on(builder.build()).map_err(|e| error_of(path, &e))?;
        Ok(Some(Reader { db, runtime: runtime.clone(), name: path.to_owned() }))
    }

    /// One value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let value = self.runtime.block_on(self.db.get(key)).map_err(|e| error_of(&self.name, &e))?;
        Ok(value.map(Vec::from))
    }

    /// The first `count` keys with what they have.
    pub fn keys(&self, count: usize) -> Result<Vec<StoredKey>, Error> {
        let scan = async {
            let mut records = Vec::new();
            let mut found = self.db.scan_prefix(layout::RECORDS, ..).await?;
            while records.len() < count {
                let Some(entry) = found.next().await? else { break };
                records.push((layout::key_of_record(&entry.key).to_vec(), entry.value));
            }
            Ok::<_, slatedb::Error>(records)
        };
        let records = self.runtime.block_on(scan).map_err(|e| error_of(&self.name, &e))?;
        let whole = async |(key, record): (Vec<u8>, _)| {
            let (state, stored) = read_record(&self.db, &self.name, &key, record).await?;
            Ok(StoredKey { key, state, stored })
        };
        self.runtime.block_on(futures::stream::iter(records).then(whole).try_collect())
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
