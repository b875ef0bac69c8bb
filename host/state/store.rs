//! A lane's keyed state, timers and checkpoint in a [`Database`]. Owns how they are read, the atomic write of a checkpoint, and the undo of a
//! deployment that may still be withdrawn. Knows the layout of the entries, not what they mean to a plugin.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::event_time::EventTime;
use crate::machine::{Planted, plants};
use crate::position::{Offset, Partition};
use crate::state::checkpoint::Checkpoint;
use crate::state::database::{CONCURRENT_READS, Change, Database, Entries, Error, entries, value};
use crate::state::{KeyState, Shard, SlotId, Stored, hash, layout, shard_of};

/// The store of a lane. After an error it must be opened again: what it still knows in memory may be ahead of the database.
pub struct Store {
    database: Arc<dyn Database>,
    /// What restores the state to before a deployment, while that can be withdrawn.
    undo: Option<Undo>,
    /// The next offset per partition as of the last checkpoint.
    covered: BTreeMap<Partition, Offset>,
}

/// The undo entries in the store: one for each entry that was written since the deployment's T, under `u` and its key, with the value from
/// before.
struct Undo {
    deployment: u64,
    /// The keys of the entries that were written.
    written: HashSet<Vec<u8>>,
}

impl Store {
    /// Opens the store in a database.
    pub fn over(database: Arc<dyn Database>) -> Result<Store, Error> {
        let undo = match value(&*database, layout::UNDO_OF)? {
            Some(number) => {
                let number = number.try_into().map(u64::from_be_bytes);
                let deployment = number.map_err(|_| {
                    let name = database.name();
                    Error::Unreadable(format!(
                        "cannot read {name}: its undo entries name no deployment; run `keyfold reset`"
                    ))
                })?;
                let written = entries(&*database, layout::UNDO)?.into_iter().map(|(key, _)| key).collect();
                Some(Undo { deployment, written })
            }
            None => None,
        };
        Ok(Store { database, undo, covered: BTreeMap::new() })
    }

    /// Returns the deployment that [`Store::take_back`] undoes, if there is one.
    pub fn undo_of(&self) -> Option<u64> {
        self.undo.as_ref().map(|undo| undo.deployment)
    }

    /// Restores the state to the last checkpoint before the deployment's T.
    pub fn take_back(&mut self) -> Result<(), Error> {
        let mut changes = Vec::new();
        for (key, before) in entries(&*self.database, layout::UNDO)? {
            changes.push((layout::undo_key(&key), None));
            changes.push((key, layout::decode_undo(&before).map(<[u8]>::to_vec)));
        }
        changes.push((layout::UNDO_OF.to_vec(), None));
        self.undo = None;
        self.covered.clear();
        self.database.write(changes)
    }

    /// Reads the last checkpoint, if there is one.
    pub fn checkpoint(&mut self) -> Result<Option<Checkpoint>, Error> {
        let checkpoint = read_checkpoint(&*self.database)?;
        self.covered = checkpoint.as_ref().map(Checkpoint::covered).unwrap_or_default();
        Ok(checkpoint)
    }

    /// Writes a checkpoint together with everything that changed in `shards` since the last one, atomically. Returns the number of bytes once
    /// they are durable. While a deployment can be withdrawn (`probation`), the values from before its T are kept.
    ///
    /// # Panics
    /// If the checkpoint covers less of a partition than the one before.
    pub fn write_checkpoint(
        &mut self,
        checkpoint: &Checkpoint,
        shards: &mut [Shard],
        probation: Option<u64>,
    ) -> Result<u64, Error> {
        let covered = checkpoint.covered();
        for (partition, before) in &self.covered {
            let now = covered.get(partition);
            assert!(
                now >= Some(before),
                "a checkpoint goes back from offset {before} to {now:?} in partition {partition}"
            );
        }
        let mut changes = vec![(layout::CHECKPOINT.to_vec(), Some(checkpoint.encode()))];
        for shard in shards {
            shard.take_dirty(|slot| layout::changes(slot, |key, value| changes.push((key, value))));
        }
        let bytes = changes.iter().map(|(key, value)| (key.len() + value.as_ref().map_or(0, Vec::len)) as u64).sum();
        let mut all = self.keep_before(&changes, probation)?;
        all.append(&mut changes);
        self.database.write(all)?;
        self.covered = covered;
        Ok(bytes)
    }

    /// Returns the entries that undo `changes`. Deletes those of a deployment that can no longer be withdrawn.
    fn keep_before(&mut self, changes: &[Change], probation: Option<u64>) -> Result<Vec<Change>, Error> {
        let mut kept = Vec::new();
        if self.undo_of() != probation {
            let written = self.undo.take().into_iter().flat_map(|undo| undo.written);
            kept.extend(written.map(|key| (layout::undo_key(&key), None)));
            kept.push((layout::UNDO_OF.to_vec(), None));
        }
        let Some(deployment) = probation else { return Ok(kept) };
        kept.push((layout::UNDO_OF.to_vec(), Some(deployment.to_be_bytes().to_vec())));
        let mut undo = self.undo.take().unwrap_or_else(|| Undo { deployment, written: HashSet::new() });
        let forgotten = |key: &[u8]| plants(Planted::UndoForgetsShard) && key.last().is_some_and(|last| last % 2 == 0);
        let keys = changes.iter().map(|(key, _)| key.as_slice()).filter(|key| !forgotten(key));
        let first: Vec<&[u8]> = keys.filter(|key| undo.written.insert(key.to_vec())).collect();
        for (key, before) in first.iter().zip(self.database.get(&first)?) {
            kept.push((layout::undo_key(key), Some(layout::encode_undo(before.as_deref()))));
        }
        self.undo = Some(undo);
        Ok(kept)
    }

    /// Fills slots from the store. A key that the store does not hold has no state.
    pub fn fill(&self, shard: &mut Shard, slots: &[SlotId]) -> Result<(), Error> {
        for part in slots.chunks(CONCURRENT_READS) {
            let keys: Vec<Vec<u8>> = part.iter().map(|&slot| shard.slot(slot).key.to_vec()).collect();
            for (&slot, state) in part.iter().zip(read_keys(&*self.database, &keys)?) {
                shard.fill(slot, state);
            }
        }
        Ok(())
    }

    /// Brings the keys of stored timers from `from` (`None`: the first) up to and including `until` into memory. Returns the time of the first
    /// timer after those, if there is one.
    pub fn load_timers(
        &self,
        shards: &mut [Shard],
        from: Option<EventTime>,
        until: EventTime,
    ) -> Result<Option<EventTime>, Error> {
        let (mut due, mut next) = (Vec::new(), None);
        let first = from.map_or_else(Vec::new, |from| layout::timer_key(from, &[])[layout::TIMERS.len()..].to_vec());
        self.database.scan(layout::TIMERS, &first, &mut |entry, _| match layout::timer_of(entry) {
            Some((time, _)) if time > until => {
                next = Some(time);
                ControlFlow::Break(())
            }
            Some((_, key)) => {
                due.push(key.to_vec());
                ControlFlow::Continue(())
            }
            None => ControlFlow::Continue(()),
        })?;
        self.load(shards, &due)?;
        Ok(next)
    }

    /// Brings a page of at most `count` keys, at least 2, into memory: those from `after` on, which is the last key of the page before. Returns
    /// the last key of this page, or `None` once there are no more.
    pub fn load_keys(&self, shards: &mut [Shard], after: &[u8], count: usize) -> Result<Option<Vec<u8>>, Error> {
        let mut keys = Vec::new();
        self.database.scan(layout::RECORDS, after, &mut |entry, _| {
            keys.push(layout::key_of_record(entry).to_vec());
            if keys.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        self.load(shards, &keys)?;
        Ok(if keys.len() < count { None } else { keys.pop() })
    }

    fn load(&self, shards: &mut [Shard], keys: &[Vec<u8>]) -> Result<(), Error> {
        let mut missing: BTreeMap<usize, Vec<SlotId>> = BTreeMap::new();
        for key in keys {
            let hash = hash(key);
            let shard = shard_of(hash, shards.len());
            if !shards[shard].contains(hash, key) {
                missing.entry(shard).or_default().push(shards[shard].slot_of(hash, key, false));
            }
        }
        missing.into_iter().try_for_each(|(shard, slots)| self.fill(&mut shards[shard], &slots))
    }

    /// Fails if another host is known to have taken over.
    pub fn check_ownership(&self) -> Result<(), Error> {
        self.database.check_ownership()
    }

    /// Closes the store.
    pub fn close(self) -> Result<(), Error> {
        self.database.close()
    }
}

/// Reads the last checkpoint of a lane, if there is one.
pub(super) fn read_checkpoint(database: &(impl Entries + ?Sized)) -> Result<Option<Checkpoint>, Error> {
    let unreadable = |e| Error::Unreadable(format!("cannot read the checkpoint of {}: {e}", database.name()));
    value(database, layout::CHECKPOINT)?.map(|bytes| Checkpoint::decode(&bytes).map_err(unreadable)).transpose()
}

/// Reads what `keys` have, in that order; `None` for a key without state.
pub(super) fn read_keys(
    database: &(impl Entries + ?Sized),
    keys: &[Vec<u8>],
) -> Result<Vec<Option<(KeyState, Stored)>>, Error> {
    let records: Vec<Vec<u8>> = keys.iter().map(|key| layout::record_key(key)).collect();
    let records = database.get(&slices(&records))?;
    read_records(database, keys.iter().map(Vec::as_slice).zip(records))
}

/// Decodes records of keys, and reads the runs of their lists.
pub(super) fn read_records<'a>(
    database: &(impl Entries + ?Sized),
    records: impl Iterator<Item = (&'a [u8], Option<Bytes>)>,
) -> Result<Vec<Option<(KeyState, Stored)>>, Error> {
    let unreadable = |key: &[u8], e: &dyn std::fmt::Display| {
        Error::Unreadable(format!("cannot read key \"{}\" of {}: {e}", key.escape_ascii(), database.name()))
    };
    let (mut found, mut runs, mut of) = (Vec::new(), Vec::new(), Vec::new());
    for (key, record) in records {
        let state = record.map(|record| layout::decode(&record)).transpose().map_err(|e| unreadable(key, &e))?;
        for run in 0..state.as_ref().map_or(0, |(_, stored)| stored.runs) {
            runs.push(layout::run_key(key, run));
            of.push((found.len(), key));
        }
        found.push(state);
    }
    for ((index, key), items) in of.into_iter().zip(database.get(&slices(&runs))?) {
        let items = items.ok_or_else(|| unreadable(key, &"a part of its list is missing; run `keyfold reset`"))?;
        let (state, _) = found[index].as_mut().expect("a key with runs has a record");
        layout::decode_items(&items, &mut state.list).map_err(|e| unreadable(key, &e))?;
    }
    Ok(found)
}

fn slices(keys: &[Vec<u8>]) -> Vec<&[u8]> {
    keys.iter().map(Vec::as_slice).collect()
}
