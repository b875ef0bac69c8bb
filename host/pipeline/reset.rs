//! `keyfold reset`: deletes the checkpoints, not the journal; and `keyfold run --fresh`, which deletes both. A running host must not write them again from its memory: in a folder it is
//! found by its lock; in a bucket it is fenced first, and what fences it stays.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Handle;

use crate::config::{Config, Sink, Source};
use crate::failure::Failure;
use crate::state::database::{Databases, Error};
use crate::state::forms::ObjectDatabases;
use crate::state::journal::{self, Journal};
use crate::state::objects::{Presence, delete_under, objects, runtime};
use crate::state::store::Stores;

/// Deletes the checkpoints of all lanes; returns how many objects or entries there were.
pub fn reset(config: &Config) -> Result<usize, Failure> {
    let (runtime, objects) = (runtime()?, objects(&config.state.url)?);
    let failed = |e| Failure::outside(format!("cannot delete the checkpoints in state.url: {e}"));
    match Presence::exclude(&config.state.url)? {
        Some(_alone) => runtime.block_on(delete_under(&objects, "lanes")).map_err(failed),
        None => {
            let lanes = lanes(&objects, runtime.handle())?;
            let stores = Stores { objects: Arc::clone(&objects), runtime: runtime.handle().clone() };
            clear(&ObjectDatabases::new(objects, runtime.handle().clone()), &stores, &lanes)
        }
    }
}

/// `keyfold run --fresh`: forgets all that a pipeline has done, journal included (D28). Only for a pipeline of development: its state lies in a
/// folder, and it reads a file and writes no database server.
pub fn forget(config: &Config) -> Result<(), Failure> {
    let refuse = |why: &str| {
        Err(Failure::config(format!(
            "--fresh deletes the journal, so it is for development only, but {why}; to fold the log again, use `keyfold reset`, or \
             `keyfold deployment create --reprocess`"
        )))
    };
    match (config.state.url.scheme(), &config.source, &config.sink) {
        ("file", Source::File(_), Sink::Cql(_)) => return refuse("the sink is a CQL database"),
        ("file", Source::File(_), _) => {}
        ("file", ..) => return refuse("the source is a topic"),
        _ => return refuse("state.url is not a folder"),
    }
    let (runtime, objects) = (runtime()?, objects(&config.state.url)?);
    let _alone = Presence::exclude(&config.state.url)?;
    for prefix in ["lanes", "log"] {
        let deleted = runtime.block_on(delete_under(&objects, prefix));
        deleted.map_err(|e| Failure::outside(format!("cannot delete the state in state.url: {e}")))?;
    }
    tracing::warn!(event = "state-forgotten", url = %config.state.url, "state and journal deleted: the pipeline starts over");
    Ok(())
}

/// Deletes what these lanes hold, after fencing their hosts; returns how many files there were.
pub fn clear(databases: &dyn Databases, stores: &Stores, lanes: &[String]) -> Result<usize, Failure> {
    let mut deleted = 0;
    for lane in lanes {
        drop(Journal::over(databases.open(&journal::path(lane))?)?);
        let path = format!("lanes/{lane}");
        deleted += match stores.open(&path) {
            Ok(mut store) => store.clear()?,
            // It is damaged, so nobody can write it either.
            Err(Error::Unreadable(_)) => {
                let deleted = stores.runtime.block_on(delete_under(&stores.objects, &path));
                deleted.map_err(|e| Failure::outside(format!("cannot delete {path} in state.url: {e}")))?
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(deleted)
}

fn lanes(objects: &Arc<dyn ObjectStore>, runtime: &Handle) -> Result<Vec<String>, Failure> {
    let under = Path::from("lanes");
    let found = objects.list(Some(&under)).try_filter_map(|object| {
        let lane = object.location.prefix_match(&under).and_then(|mut parts| parts.next());
        let lane = lane.map(|lane| lane.as_ref().to_owned());
        async move { Ok(lane) }
    });
    let found: BTreeSet<String> = runtime
        .block_on(found.try_collect())
        .map_err(|e| Failure::outside(format!("cannot list the checkpoints in state.url: {e}")))?;
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use object_store::memory::InMemory;

    use super::*;
    use crate::event_time::{AppendTime, LaneTime};
    use crate::position::{Floor, Offset, Partition};
    use crate::state::checkpoint::{Checkpoint, FORMAT};
    use crate::state::store::Store;
    use crate::state::{Shard, hash};

    #[test]
    fn a_host_on_a_bucket_is_fenced_before_its_checkpoints_are_deleted() {
        let runtime = runtime().expect("it starts");
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let databases = ObjectDatabases::new(Arc::clone(&objects), runtime.handle().clone());
        let stores = Stores { objects: Arc::clone(&objects), runtime: runtime.handle().clone() };
        let journal = databases.open(&journal::path("topic")).and_then(Journal::over);
        let (journal, _) = journal.expect("it opens");
        let mut host = stores.open("lanes/topic").expect("it opens");
        let mut shards = [Shard::default()];
        let slot = shards[0].slot_of(hash(b"key"), b"key", true);
        shards[0].change(slot).set_value(Some(b"value"));
        write_checkpoint(&mut host, &mut shards).expect("it is the owner");
        assert_eq!(lanes(&objects, runtime.handle()).expect("they are listed"), ["topic"]);
        assert_eq!(clear(&databases, &stores, &["topic".into()]).expect("it deletes"), 1);
        assert!(matches!(write_checkpoint(&mut host, &mut shards), Err(Error::Fenced(_))));
        let floor = Floor { partition: Partition(0), offset: Offset(0), append_time: AppendTime::at(0) };
        assert!(matches!(journal.write_floors(&[floor]), Err(Error::Fenced(_))));
        let open = stores.open("lanes/topic").expect("it opens");
        assert_eq!((open.checkpoint(), open.read(&[b"key"]).expect("it is readable")), (None, vec![None]));
        assert_eq!(clear(&databases, &stores, &["topic".into()]).expect("it deletes"), 0);
    }

    fn write_checkpoint(store: &mut Store, shards: &mut [Shard]) -> Result<u64, Error> {
        let (last, time) = (None, LaneTime::default());
        let checkpoint = Checkpoint {
            format: FORMAT,
            partitions: BTreeMap::new(),
            last,
            time,
            deployment: 0,
            sink_length: None,
            letters_length: None,
            journal: None,
            held: None,
            state_version: None,
        };
        store.write(checkpoint, shards, None)
    }
}
