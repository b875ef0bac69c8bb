//! The time that SlateDB is given: it never goes back. SlateDB stores times with what it writes, and refuses to write with an earlier one
//! (`InvalidClockTick`). So a database begins with the greatest of the machine's time and the times that it holds, and goes on from there.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::admin::Admin;
use slatedb::{Error, WalReader};
use slatedb_common::clock::{SystemClock, SystemClockTicker};

use crate::clock;

/// A clock that began at some time and advances with the machine's monotonic time.
#[derive(Debug)]
pub(super) struct RisingClock {
    began: DateTime<Utc>,
    at: Instant,
}

impl RisingClock {
    /// Creates a clock that shows the time `ms` now, in milliseconds since 1970 UTC.
    pub(super) fn from(ms: i64) -> RisingClock {
        RisingClock { began: DateTime::from_timestamp_millis(ms).unwrap_or_default(), at: clock::instant() }
    }
}

impl SystemClock for RisingClock {
    fn now(&self) -> DateTime<Utc> {
        self.began + clock::since(self.at)
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}

/// Returns the greatest time that the database at `path` holds, in milliseconds since 1970 UTC; none if it holds none. Its files' names
/// carry times too, and so do those of its compactions.
pub(super) async fn last_tick(path: &str, objects: &Arc<dyn ObjectStore>) -> Result<Option<i64>, Error> {
    let admin = Admin::builder(path, Arc::clone(objects)).build();
    let Some(manifest) = admin.read_manifest(None).await? else { return Ok(None) };
    let files = manifest.all_sst_views().map(|view| view.sst.id.value().timestamp_ms().max(view.id.timestamp_ms()));
    let mut named = files.max();
    for compaction in admin.read_compactions(None).await?.iter().flat_map(|found| found.recent_compactions()) {
        named = named.max(Some(compaction.id().timestamp_ms()));
        named = named.max(compaction.output_ssts().iter().map(|sst| sst.id.value().timestamp_ms()).max());
    }
    let named = named.and_then(|ms| i64::try_from(ms).ok());
    let written = last_written(path, objects, manifest.replay_after_wal_id()).await?;
    // A new database has the least number for "none".
    let stored = Some(manifest.last_l0_clock_tick()).filter(|tick| *tick > i64::MIN);
    Ok(named.max(written).max(stored))
}

/// Returns the time of the last write that is in no file of the tree yet.
async fn last_written(path: &str, objects: &Arc<dyn ObjectStore>, after: u64) -> Result<Option<i64>, Error> {
    let log = WalReader::new(Path::from(path), Arc::clone(objects));
    // Times rise, so the last file with an entry has the greatest. Files that fence an earlier owner are empty.
    for file in log.list(after + 1..).await?.iter().rev() {
        let (mut entries, mut last) = (file.iterator().await?, None);
        while let Some(entry) = entries.next().await? {
            last = last.max(entry.create_ts);
        }
        if last.is_some() {
            return Ok(last);
        }
    }
    Ok(None)
}
