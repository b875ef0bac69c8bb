//! Keyed state as a SlateDB database on an object store. Keeps I8: a host that lost its lane to another can write nothing.

mod cache;
mod ticks;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::future::join_all;
use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::config::{CompactorOptions, DbReaderOptions, GarbageCollectorOptions, Settings};
use slatedb::{CloseReason, Db, DbReadOps, DbReader, DbReaderMode, ErrorKind, WriteBatch};
use slatedb_common::clock::{SystemClock, SystemClockTicker};
use tokio::runtime::Handle;

use crate::clock;
use crate::state::database::{CONCURRENT_READS, Change, Database, Entries, Error, Visit};
use crate::state::slate::ticks::RisingClock;

/// How long a reader stays with what it found first: longer than anything that is read.
const PINNED: Duration = Duration::from_secs(24 * 3600);

/// A clock that stands still. SlateDB's reader looks for newer state at once when it is opened and then every interval, so by the machine's
/// clock the first reads could belong to two checkpoints; by this one the first interval never ends before [`PINNED`].
#[derive(Debug)]
struct StandingClock;

impl SystemClock for StandingClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::<Utc>::MIN_UTC
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}

/// An open SlateDB database: `Db` to read and write it, `DbReader` to read it beside its owner.
pub struct Slate<D> {
    db: D,
    runtime: Handle,
    name: String,
    /// Whether a write was refused because another owner opened the database. SlateDB's own status says so a moment later.
    fenced: AtomicBool,
}

impl Slate<Db> {
    /// Opens the database at `path`, and creates it if it does not exist. Its former owner is fenced.
    pub fn open(objects: Arc<dyn ObjectStore>, path: &str, runtime: Handle) -> Result<Slate<Db>, Error> {
        Slate::open_at(clock::now_ms(), objects, path, runtime)
    }

    /// Opens it at a time, in milliseconds since 1970 UTC. If the database holds a later one, that is the time for it (D24).
    fn open_at(now_ms: i64, objects: Arc<dyn ObjectStore>, path: &str, runtime: Handle) -> Result<Slate<Db>, Error> {
        let settings = Settings {
            // Each write is flushed by its writer, which waits for it. No timer has to flush.
            flush_interval: Some(Duration::from_secs(1)),
            compactor_options: Some(CompactorOptions::default()),
            garbage_collector_options: Some(GarbageCollectorOptions::default()),
            ..Settings::default()
        };
        runtime.block_on(refuse_without_manifest(path, &objects))?;
        let (cache, scope) = cache::scope();
        let open = async {
            let last = ticks::last_tick(path, &objects).await?;
            let clock = RisingClock::from(last.map_or(now_ms, |last| last.max(now_ms)));
            let builder = Db::builder(Path::from(path), objects).with_settings(settings).with_db_cache(cache, scope);
            builder.with_system_clock(Arc::new(clock)).build().await
        };
        let db = runtime.block_on(open).map_err(|e| error_of(path, &e))?;
        Ok(Slate { db, runtime, name: path.to_owned(), fenced: AtomicBool::new(false) })
    }
}

impl Slate<DbReader> {
    /// Opens the database at `path` for reading, if it exists. Its owner is not fenced, and later writes are not seen: everything that is
    /// read belongs to one checkpoint.
    pub fn open_reader(
        objects: &Arc<dyn ObjectStore>,
        path: &str,
        runtime: &Handle,
    ) -> Result<Option<Slate<DbReader>>, Error> {
        let location = Path::from(path);
        if runtime.block_on(objects.list(Some(&location)).next()).is_none() {
            return Ok(None);
        }
        let options = DbReaderOptions {
            manifest_poll_interval: PINNED,
            checkpoint_lifetime: PINNED * 2,
            ..DbReaderOptions::default()
        };
        let (cache, scope) = cache::scope();
        let builder = DbReader::builder(location, Arc::clone(objects)).with_db_cache(cache, scope);
        let builder = builder.with_reader_mode(DbReaderMode::FollowLatest).with_options(options);
        let builder = builder.with_system_clock(Arc::new(StandingClock));
        let db = runtime.block_on(builder.build()).map_err(|e| error_of(path, &e))?;
        let fenced = AtomicBool::new(false);
        Ok(Some(Slate { db, runtime: runtime.clone(), name: path.to_owned(), fenced }))
    }
}

impl<D: DbReadOps + Send + Sync> Entries for Slate<D> {
    fn name(&self) -> &str {
        &self.name
    }

    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        for part in keys.chunks(CONCURRENT_READS) {
            let reads = join_all(part.iter().map(|key| self.db.get(key)));
            for value in self.runtime.block_on(reads) {
                values.push(value.map_err(|e| error_of(&self.name, &e))?);
            }
        }
        Ok(values)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let scan = async {
            let mut found = self.db.scan_prefix(prefix, from.to_vec()..).await?;
            while let Some(entry) = found.next().await? {
                if visit(&entry.key, &entry.value).is_break() {
                    break;
                }
            }
            Ok(())
        };
        self.runtime.block_on(scan).map_err(|e| error_of(&self.name, &e))
    }
}

impl Database for Slate<Db> {
    fn write(&self, changes: Vec<Change>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put_bytes(key.into(), value.into()),
                None => batch.delete(key),
            }
        }
        let write = async {
            let handle = self.db.write(batch).await?;
            self.db.flush().await?;
            handle.await_durable().await
        };
        let written = self.runtime.block_on(write).map_err(|e| error_of(&self.name, &e));
        if let Err(Error::Fenced(_)) = written {
            self.fenced.store(true, Ordering::Relaxed);
        }
        written
    }

    fn check_ownership(&self) -> Result<(), Error> {
        match self.db.status().close_reason {
            _ if self.fenced.load(Ordering::Relaxed) => Err(Error::Fenced(self.name.clone())),
            None => Ok(()),
            Some(CloseReason::Fenced) => Err(Error::Fenced(self.name.clone())),
            Some(reason) => {
                let name = &self.name;
                Err(Error::Outside(format!("state.url: the database {name} was closed: {reason:?}; restart the host")))
            }
        }
    }

    fn close(&self) -> Result<(), Error> {
        self.runtime.block_on(self.db.close()).map_err(|e| error_of(&self.name, &e))
    }
}

/// Refuses what is left of a database whose manifests are missing. SlateDB would make a new one, meet the writes of the former, and take them
/// for those of another host.
async fn refuse_without_manifest(path: &str, objects: &Arc<dyn ObjectStore>) -> Result<(), Error> {
    let (location, manifests) = (Path::from(path), Path::from(format!("{path}/manifest")));
    if objects.list(Some(&manifests)).next().await.is_some() || objects.list(Some(&location)).next().await.is_none() {
        return Ok(());
    }
    Err(Error::Unreadable(format!(
        "state.url: {path}/manifest is missing or empty, and other files of this database are there: put it back from a copy. Of a database \
         under lanes/, which holds checkpoints, you can also delete all with `keyfold reset`"
    )))
}

fn error_of(name: &str, error: &slatedb::Error) -> Error {
    match error.kind() {
        ErrorKind::Closed(CloseReason::Fenced) => Error::Fenced(name.to_owned()),
        ErrorKind::Data => Error::Unreadable(format!("state.url: cannot read {name}: {error}")),
        _ => Error::Outside(format!("state.url: cannot read or write {name}: {error}")),
    }
}

#[cfg(test)]
mod tests;
