//! The lanes' keyed state: the host's own databases, in memory, with a connection that may fail. A simulated crash loses nothing that a write has
//! acknowledged. Journals are in [`crate::journals`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use keyfold::machine::Planted;
use keyfold::position::{Offset, Partition};
use keyfold::state::checkpoint::Checkpoint;
use keyfold::state::database::{Change, Database, Databases, Entries, Error, Visit};
use keyfold::state::layout;
use keyfold::state::memory::{MemoryDatabase, MemoryDisk};

use crate::scheduler::{Process, locked};
use crate::table::Table;
use crate::world::{Fault, Letters};

/// What survives each crash, by path.
#[derive(Default)]
pub(crate) struct Disks {
    disks: Mutex<BTreeMap<String, MemoryDisk>>,
    violations: Mutex<Vec<String>>,
}

impl Disks {
    /// The disk at a path; an empty one of its own if there is none.
    pub(crate) fn at(&self, path: &str) -> MemoryDisk {
        locked(&self.disks).get(path).cloned().unwrap_or_default()
    }

    /// The disk at a path, which is made if there is none.
    fn make(&self, path: &str) -> MemoryDisk {
        locked(&self.disks).entry(path.to_owned()).or_default().clone()
    }

    /// The paths.
    pub(crate) fn paths(&self) -> Vec<String> {
        locked(&self.disks).keys().cloned().collect()
    }

    /// The lanes with checkpoints.
    pub(crate) fn lanes(&self) -> Vec<String> {
        self.paths().iter().filter_map(|path| path.strip_prefix("lanes/")).map(str::to_owned).collect()
    }

    /// Loses what is at a path.
    pub(crate) fn lose(&self, path: &str) {
        locked(&self.disks).remove(path);
    }

    /// What must never happen, and did.
    pub(crate) fn violations(&self) -> Vec<String> {
        locked(&self.violations).clone()
    }

    fn violate(&self, what: String) {
        locked(&self.violations).push(what);
    }

    /// The last checkpoint of a lane.
    pub(crate) fn checkpoint(&self, lane: &str) -> Option<Checkpoint> {
        let disk = self.at(&format!("lanes/{lane}"));
        let bytes = disk.open_reader("checker").get(&[layout::CHECKPOINT]).ok()?.pop().flatten()?;
        Checkpoint::decode(&bytes).ok()
    }

    /// What a checkpoint covers was acknowledged before.
    fn check_checkpoint(
        &self,
        process: &Process,
        covered: &BTreeMap<Partition, Offset>,
        (table, letters): (&Table, &Letters),
    ) {
        let is_covered =
            |(partition, offset): &&(Partition, Offset)| covered.get(partition).is_some_and(|next| offset < next);
        if let Some(at) = table.unacknowledged(process.id).iter().find(is_covered) {
            self.violate(format!("I2: a checkpoint covers {at:?}, whose rows are not acknowledged"));
        }
        if let Some(at) = letters.waiting(process.id).iter().find(is_covered) {
            self.violate(format!("I3: a checkpoint covers {at:?}, whose dead letters are not acknowledged"));
        }
    }

    /// Offsets may be committed only up to where a checkpoint covers them.
    pub(crate) fn check_commit(&self, process: &Process, next: &[(Partition, Offset)]) {
        process.note(&format!("commits {next:?}"));
        for &(partition, offset) in next {
            let lanes = ["topic".to_owned(), partition.to_string()];
            let covered =
                lanes.iter().filter_map(|lane| self.checkpoint(lane)?.covered().get(&partition).copied()).max();
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
    pub(crate) table: Arc<Table>,
    pub(crate) letters: Arc<Letters>,
    pub(crate) process: Arc<Process>,
    pub(crate) faults: u64,
}

impl Databases for SeenDisks {
    fn open(&self, path: &str) -> Result<Arc<dyn Database>, Error> {
        self.process.wait_a_moment();
        alive(&self.process, path)?;
        self.process.note(&format!("opens {path}"));
        let database = self.disks.make(path).open(path);
        let (process, faults) = (Arc::clone(&self.process), self.faults);
        let outputs = (Arc::clone(&self.table), Arc::clone(&self.letters));
        let (disks, broken) = (Arc::clone(&self.disks), AtomicBool::new(false));
        Ok(Arc::new(SeenDisk { database, disks, outputs, process, faults, broken }))
    }

    fn reader(&self, path: &str) -> Result<Option<Box<dyn Entries>>, Error> {
        self.process.wait_a_moment();
        alive(&self.process, path)?;
        let exists = self.disks.paths().iter().any(|known| known == path);
        Ok(exists.then(|| Box::new(self.disks.at(path).contents().open_reader(path)) as Box<dyn Entries>))
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
    disks: Arc<Disks>,
    outputs: (Arc<Table>, Arc<Letters>),
    process: Arc<Process>,
    faults: u64,
    broken: AtomicBool,
}

/// A step of a host; ends what a dead one does.
fn alive(process: &Process, path: &str) -> Result<(), Error> {
    process.step();
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
        let checkpoint =
            changes.iter().find(|(key, _)| key == layout::CHECKPOINT).and_then(|(_, value)| value.as_ref());
        if let Some(checkpoint) = checkpoint.and_then(|bytes| Checkpoint::decode(bytes).ok())
            && self.database.check_ownership().is_ok()
        {
            let (table, letters) = (&*self.outputs.0, &*self.outputs.1);
            self.disks.check_checkpoint(&self.process, &checkpoint.covered(), (table, letters));
        }
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
