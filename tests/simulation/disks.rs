//! The lanes' databases: the host's own, in memory, with a connection that may fail. A simulated crash loses nothing that a write has
//! acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use keyfold::machine::Planted;
use keyfold::position::{Offset, Partition};
use keyfold::state::checkpoint::Checkpoint;
use keyfold::state::database::{Change, Database, Databases, Entries, Error, Visit};
use keyfold::state::layout;
use keyfold::state::memory::{MemoryDatabase, MemoryDisk};

use crate::scheduler::Process;
use crate::world::Fault;

/// What survives each crash, by path.
#[derive(Default)]
pub(crate) struct Disks {
    disks: Mutex<BTreeMap<String, MemoryDisk>>,
    violations: Mutex<Vec<String>>,
}

impl Disks {
    /// The disk at a path.
    pub(crate) fn at(&self, path: &str) -> MemoryDisk {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).entry(path.to_owned()).or_default().clone()
    }

    /// The paths.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Loses what is at a path.
    pub(crate) fn lose(&self, path: &str) {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }

    /// What must never happen, and did.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn violate(&self, what: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// The last checkpoint of a lane.
    pub(crate) fn checkpoint(&self, lane: &str) -> Option<Checkpoint> {
        let disk = self.at(&format!("lanes/{lane}"));
        let bytes = disk.open_reader("checker").get(&[layout::CHECKPOINT]).ok()?.pop().flatten()?;
        Checkpoint::decode(&bytes).ok()
    }

    /// Offsets may be committed only up to where a checkpoint covers them.
    pub(crate) fn check_commit(&self, process: &Process, next: &[(Partition, Offset)]) {
        process.note(&format!("commits {next:?}"));
        for &(partition, offset) in next {
            let lanes = ["topic".to_owned(), partition.to_string()];
            let covered = lanes.iter().filter_map(|lane| self.checkpoint(lane)?.covered().get(&partition).copied()).max();
            if covered < Some(offset) {
                self.violate(format!(
                    "I2: offset {offset} of partition {partition} is committed, and checkpoints cover {covered:?}"
                ));
            }
        }
    }
}

/// The disks as one host sees them.
pub(crate) struct SeenDisks {
    pub(crate) disks: Arc<Disks>,
    pub(crate) process: Arc<Process>,
    pub(crate) faults: u64,
}

impl Databases for SeenDisks {
    fn open(&self, path: &str) -> Result<Arc<dyn Database>, Error> {
        self.process.wait_a_moment();
        alive(&self.process, path)?;
        self.process.note(&format!("opens {path}"));
        let database = self.disks.at(path).open(path);
        let (process, faults) = (Arc::clone(&self.process), self.faults);
        Ok(Arc::new(SeenDisk { database, process, faults, broken: AtomicBool::new(false) }))
    }

    fn delete(&self, path: &str) -> Result<(), Error> {
        self.process.wait_a_moment();
        alive(&self.process, path)?;
        self.process.note(&format!("deletes {path}"));
        self.disks.lose(path);
        Ok(())
    }
}

struct SeenDisk {
    database: MemoryDatabase,
    process: Arc<Process>,
    faults: u64,
    broken: AtomicBool,
}

fn alive(process: &Process, path: &str) -> Result<(), Error> {
    if process.is_dead() { Err(Error::Outside(format!("the host of {path} was killed"))) } else { Ok(()) }
}

impl SeenDisk {
    fn check(&self) -> Result<(), Error> {
        alive(&self.process, self.database.name())?;
        if self.broken.load(Ordering::SeqCst) {
            return Err(Error::Outside(format!("{} does not answer", self.database.name())));
        }
        Ok(())
    }
}

impl Entries for SeenDisk {
    fn name(&self) -> &str {
        self.database.name()
    }

    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        self.process.wait_a_moment();
        self.check()?;
        self.database.get(keys)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.process.wait_a_moment();
        self.check()?;
        self.database.scan(prefix, from, visit)
    }
}

impl Database for SeenDisk {
    fn write(&self, changes: Vec<Change>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        self.process.wait_a_moment();
        self.check()?;
        let fault = Fault::pick(&self.process, self.faults);
        self.process.note(&format!("writes {} entries to {}: {fault:?}", changes.len(), self.name()));
        let written = if fault == Fault::Lost { Ok(()) } else { self.database.write(changes) };
        self.process.wait_a_moment();
        alive(&self.process, self.name())?;
        if fault != Fault::None {
            self.broken.store(true, Ordering::SeqCst);
            return self.check();
        }
        match written {
            // Two hosts that both believe.
            Err(Error::Fenced(_)) if self.process.is_planted(Planted::NoFencing) => Ok(()),
            written => written,
        }
    }

    fn check_ownership(&self) -> Result<(), Error> {
        self.check()?;
        self.database.check_ownership()
    }

    fn close(&self) -> Result<(), Error> {
        self.check()?;
        self.database.close()
    }
}
