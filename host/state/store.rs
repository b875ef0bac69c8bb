//! The lane's store: one SlateDB database, one writer, fenced. Owns reading and the atomic write of a checkpoint; knows the layout, not its
//! meaning. Keeps I8: a host that lost its lane to another cannot checkpoint.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::config::{CompactorOptions, GarbageCollectorOptions, Settings};
use slatedb::{CloseReason, Db, ErrorKind, WriteBatch};
use tokio::runtime::Handle;

use crate::failure::{Exit, Failure};
use crate::state::checkpoint::Checkpoint;
use crate::state::layout;
use crate::state::reader::read_record;
use crate::state::{KeyState, Shard, Stored, hash, shard_of};

/// Reads of missing keys under way at once.
const CONCURRENT_READS: usize = 64;

/// An open database of a lane: its state, or its journal.
pub struct Store {
    db: Db,
    runtime: Handle,
    name: String,
    /// What takes the state back to before a deployment, while that can be withdrawn.
    undo: Option<Undo>,
}

/// For each entry that was written since a deployment's T there is another one (`u` and its key) with what stood there before.
struct Undo {
    deployment: u64,
    /// The keys of the entries that were written.
    written: HashSet<Vec<u8>>,
}

/// Writes small entries into a lane's journal from another thread than the lane's.
#[derive(Clone)]
pub struct Notes {
    db: Db,
    runtime: Handle,
    name: String,
}

/// A stored key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another host has opened the same lane.
    #[error("{0}: another host has taken over this state; only one may run a lane at a time")]
    Fenced(String),
    /// Written by a newer version, or damaged.
    #[error("{0}")]
    Unreadable(String),
    /// The object store refuses or fails.
    #[error("{0}")]
    Outside(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match error {
            Error::Fenced(_) | Error::Unreadable(_) => Exit::State,
            Error::Outside(_) => Exit::Outside,
        };
        Failure::new(exit, error.to_string())
    }
}

impl Store {
    /// Opens the database at `path`, made if it is not there; whoever had it open before is fenced.
    pub fn open(objects: Arc<dyn ObjectStore>, path: &str, runtime: Handle) -> Result<Store, Error> {
        let settings = Settings {
            // Every write is flushed by its writer, which waits for it: no timer needs to.
            flush_interval: Some(std::time::Duration::from_secs(1)),
            compactor_options: Some(CompactorOptions::default()),
            garbage_collector_options: Some(GarbageCollectorOptions::default()),
            ..Settings::default()
        };
        let builder = Db::builder(Path::from(path), objects).with_settings(settings);
        let db = runtime.block_on(builder.build()).map_err(|e| error_of(path, &e))?;
        let mut store = Store { db, runtime, name: path.to_string(), undo: None };
        if let Some(deployment) = store.get(layout::UNDO_OF)? {
            let number = deployment.try_into().map(u64::from_be_bytes);
            let deployment = number.map_err(|_| Error::Unreadable(format!("{path}: undo of no deployment")))?;
            let written = store.entries(layout::UNDO)?.into_iter().map(|(key, _)| key).collect();
            store.undo = Some(Undo { deployment, written });
        }
        Ok(store)
    }

    /// The deployment before which the state can be taken back.
    pub fn undo_of(&self) -> Option<u64> {
        self.undo.as_ref().map(|undo| undo.deployment)
    }

    /// Takes the state back to the last checkpoint before the deployment's T.
    pub fn take_back(&mut self) -> Result<(), Error> {
        let mut batch = WriteBatch::new();
        for (key, before) in self.entries(layout::UNDO)? {
            batch.delete(layout::undo_key(&key));
            match layout::decode_undo(&before) {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        batch.delete(layout::UNDO_OF);
        self.undo = None;
        self.write(batch)
    }

    /// The last checkpoint, if there is one.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, Error> {
        match self.get(layout::CHECKPOINT)? {
            Some(bytes) => {
                Checkpoint::decode(&bytes).map(Some).map_err(|e| Error::Unreadable(format!("{}: {e}", self.name)))
            }
            None => Ok(None),
        }
    }

    /// Writes a checkpoint with all that changed in `shards` since the last one; back when it is durable, with how many bytes it was. While a deployment can be
    /// withdrawn (`probation`), what stood there before its T is kept.
    pub fn write_checkpoint(
        &mut self,
        checkpoint: &Checkpoint,
        shards: &mut [Shard],
        probation: Option<u64>,
    ) -> Result<u64, Error> {
        let mut changes = vec![(layout::CHECKPOINT.to_vec(), Some(checkpoint.encode()))];
        for shard in shards {
            shard.take_dirty(|slot| layout::changes(slot, |key, value| changes.push((key, value))));
        }
        let mut batch = WriteBatch::new();
        self.keep_before(&changes, probation, &mut batch)?;
        let mut bytes = 0;
        for (key, value) in changes {
            bytes += (key.len() + value.as_ref().map_or(0, Vec::len)) as u64;
            match value {
                Some(value) => batch.put_bytes(key.into(), value.into()),
                None => batch.delete(key),
            }
        }
        self.write(batch)?;
        Ok(bytes)
    }

    /// Adds to `batch` what takes `changes` back, and forgets what took back a deployment that now stays.
    fn keep_before(
        &mut self,
        changes: &[(Vec<u8>, Option<Vec<u8>>)],
        probation: Option<u64>,
        batch: &mut WriteBatch,
    ) -> Result<(), Error> {
        if self.undo_of() != probation {
            for key in self.undo.take().iter().flat_map(|undo| &undo.written) {
                batch.delete(layout::undo_key(key));
            }
            batch.delete(layout::UNDO_OF);
        }
        let Some(deployment) = probation else { return Ok(()) };
        batch.put(layout::UNDO_OF, deployment.to_be_bytes());
        let mut undo = self.undo.take().unwrap_or_else(|| Undo { deployment, written: HashSet::new() });
        let first: Vec<&Vec<u8>> =
            changes.iter().map(|(key, _)| key).filter(|key| undo.written.insert((*key).clone())).collect();
        for part in first.chunks(CONCURRENT_READS) {
            let reads = futures::future::join_all(part.iter().map(|key| self.db.get(key.as_slice())));
            for (key, before) in part.iter().zip(self.runtime.block_on(reads)) {
                let before = before.map_err(|e| error_of(&self.name, &e))?;
                batch.put(layout::undo_key(key), layout::encode_undo(before.as_deref()));
            }
        }
        self.undo = Some(undo);
        Ok(())
    }

    /// A handle for writing entries from another thread.
    pub fn notes(&self) -> Notes {
        Notes { db: self.db.clone(), runtime: self.runtime.clone(), name: self.name.clone() }
    }

    /// Deletes entries; back when that is durable.
    pub fn delete(&self, keys: impl IntoIterator<Item = Vec<u8>>) -> Result<(), Error> {
        let mut batch = WriteBatch::new();
        keys.into_iter().for_each(|key| batch.delete(key));
        self.write(batch)
    }

    /// Writes small entries; back when they are durable.
    pub fn put(&self, entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<(), Error> {
        self.notes().put(entries)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        self.notes().write(batch)
    }

    /// One value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let value = self.runtime.block_on(self.db.get(key)).map_err(|e| error_of(&self.name, &e))?;
        Ok(value.map(Vec::from))
    }

    /// All entries whose key begins with `prefix`, in key order, the key without it.
    pub fn entries(&self, prefix: &[u8]) -> Result<Vec<Entry>, Error> {
        let scan = async {
            let mut entries = Vec::new();
            let mut found = self.db.scan_prefix(prefix, ..).await?;
            while let Some(entry) = found.next().await? {
                entries.push((entry.key[prefix.len()..].to_vec(), entry.value.to_vec()));
            }
            Ok::<_, slatedb::Error>(entries)
        };
        self.runtime.block_on(scan).map_err(|e| error_of(&self.name, &e))
    }

    /// Fills slots from the store; those it does not know have no state.
    pub fn fill(&self, shard: &mut Shard, slots: &[u32]) -> Result<(), Error> {
        for part in slots.chunks(CONCURRENT_READS) {
            let reads = part.iter().map(|&slot| self.read(shard.slot(slot).key.to_vec()));
            let found = self.runtime.block_on(futures::future::join_all(reads));
            for (&slot, state) in part.iter().zip(found) {
                shard.fill(slot, state?);
            }
        }
        Ok(())
    }

    async fn read(&self, key: Vec<u8>) -> Result<Option<(KeyState, Stored)>, Error> {
        let outside = |e: slatedb::Error| error_of(&self.name, &e);
        let Some(record) = self.db.get(layout::record_key(&key)).await.map_err(outside)? else { return Ok(None) };
        read_record(&self.db, &self.name, &key, record).await.map(Some)
    }

    /// Brings the keys of the next stored timers into memory: all up to `until`, at most about `most` more. Gives the time up to which all
    /// timers are now in memory; `i64::MAX` when there is none left.
    pub fn load_timers(&self, shards: &mut [Shard], from: i64, until: i64) -> Result<i64, Error> {
        let mut due = Vec::new();
        let scan = async {
            let first = layout::timer_key(from, &[])[layout::TIMERS.len()..].to_vec();
            let mut found = self.db.scan_prefix(layout::TIMERS, first..).await?;
            while let Some(entry) = found.next().await? {
                match layout::timer_of(&entry.key) {
                    Some((time, _)) if time > until => return Ok(time),
                    Some((_, key)) => due.push(key.to_vec()),
                    None => {}
                }
            }
            Ok::<_, slatedb::Error>(i64::MAX)
        };
        let next = self.runtime.block_on(scan).map_err(|e| error_of(&self.name, &e))?;
        self.load(shards, &due)?;
        Ok(next)
    }

    /// Brings the next keys after `after` into memory, `count` at most; gives the last of them, or none when all are there.
    pub fn load_keys(&self, shards: &mut [Shard], after: &[u8], count: usize) -> Result<Option<Vec<u8>>, Error> {
        let mut keys = Vec::new();
        let scan = async {
            let mut found = self.db.scan_prefix(layout::RECORDS, after.to_vec()..).await?;
            while keys.len() < count {
                let Some(entry) = found.next().await? else { break };
                keys.push(layout::key_of_record(&entry.key).to_vec());
            }
            Ok::<_, slatedb::Error>(())
        };
        self.runtime.block_on(scan).map_err(|e| error_of(&self.name, &e))?;
        self.load(shards, &keys)?;
        Ok(if keys.len() < count { None } else { keys.pop() })
    }

    fn load(&self, shards: &mut [Shard], keys: &[Vec<u8>]) -> Result<(), Error> {
        let mut missing: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for key in keys {
            let hash = hash(key);
            let shard = shard_of(hash, shards.len());
            if !shards[shard].contains(hash, key) {
                missing.entry(shard).or_default().push(shards[shard].slot_of(hash, key, false));
            }
        }
        missing.into_iter().try_for_each(|(shard, slots)| self.fill(&mut shards[shard], &slots))
    }

    /// Whether another host has taken over.
    pub fn check_ownership(&self) -> Result<(), Error> {
        match self.db.status().close_reason {
            None => Ok(()),
            Some(CloseReason::Fenced) => Err(Error::Fenced(self.name.clone())),
            Some(reason) => Err(Error::Outside(format!("{}: the store closed: {reason:?}", self.name))),
        }
    }

    /// Closes the database.
    pub fn close(self) -> Result<(), Error> {
        self.runtime.block_on(self.db.close()).map_err(|e| error_of(&self.name, &e))
    }
}

impl Notes {
    /// Writes entries; back when they are durable.
    pub fn put(&self, entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<(), Error> {
        let mut batch = WriteBatch::new();
        entries.into_iter().for_each(|(key, value)| batch.put_bytes(key.into(), value.into()));
        self.write(batch)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let write = async {
            let handle = self.db.write(batch).await?;
            self.db.flush().await?;
            handle.await_durable().await
        };
        self.runtime.block_on(write).map_err(|e| error_of(&self.name, &e))
    }
}

pub(super) fn error_of(name: &str, error: &slatedb::Error) -> Error {
    match error.kind() {
        ErrorKind::Closed(CloseReason::Fenced) => Error::Fenced(name.to_string()),
        ErrorKind::Data => Error::Unreadable(format!("{name}: {error}")),
        _ => Error::Outside(format!("{name}: {error}")),
    }
}
