//! The lanes' databases: the host's own, in memory, with a connection that may fail. A simulated crash loses nothing that a write has
//! acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use keyfold::machine::Planted;
use keyfold::position::{Offset, Partition};
use keyfold::state::checkpoint::Checkpoint;
use keyfold::state::database::{Change, Database, Databases, Entries, Error, Visit};
use keyfold::state::journal::Journal;
use keyfold::state::layout;
use keyfold::state::memory::{MemoryDatabase, MemoryDisk};
use keyfold::strike::StrikeItem;

use crate::scheduler::{Process, ProcessId, locked};
use crate::table::Table;
use crate::world::{Fault, Letters};

/// What survives each crash, by path.
#[derive(Default)]
pub(crate) struct Disks {
    disks: Mutex<BTreeMap<String, MemoryDisk>>,
    violations: Mutex<Vec<String>>,
    /// Which process has opened what, in this order.
    openings: Mutex<Vec<(String, ProcessId)>>,
    /// What journals held before their last write, if they are to lose it.
    before: Mutex<BTreeMap<String, MemoryDisk>>,
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

    /// Keeps what a journal held before a write, if it is to lose that write.
    fn remember(&self, path: &str, process: &Process) {
        if process.is_planted(Planted::JournalLosesWrite) && path.starts_with("log/") {
            let before = self.at(path).contents();
            locked(&self.before).insert(path.to_owned(), before);
        }
    }

    /// Takes back the last write of each journal that is remembered.
    pub(crate) fn lose_last_writes(&self) {
        for (path, before) in std::mem::take(&mut *locked(&self.before)) {
            locked(&self.disks).insert(path, before);
        }
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

    /// How many databases were opened so far.
    pub(crate) fn openings(&self) -> usize {
        locked(&self.openings).len()
    }

    /// Notes that a process has opened a database.
    fn opened(&self, path: &str, process: &Process) {
        locked(&self.openings).push((path.to_owned(), process.id));
    }

    /// The path of the journal of a partition's lane.
    pub(crate) fn journal_of(&self, partition: Partition) -> String {
        let own = format!("log/lanes/{partition}");
        if locked(&self.disks).contains_key(&own) { own } else { "log/lanes/topic".to_owned() }
    }

    /// The path of the journal of the lane with this name, if it has been written there.
    pub(crate) fn journal_named(&self, name: &str) -> Option<String> {
        let held =
            |path: &String| self.at(path).open_reader("checker").get(&[b"tenure"]).ok().and_then(|mut v| v.pop()?);
        let is_named = |path: &String| held(path).is_some_and(|held| String::from_utf8_lossy(&held).contains(name));
        self.paths().into_iter().filter(|path| path.starts_with("log/")).find(is_named)
    }

    /// The number of the opening by which a process holds a journal.
    pub(crate) fn tenure(&self, path: &str, process: &Process) -> u64 {
        let openings = locked(&self.openings);
        let at = openings.iter().rposition(|(of, id)| of == path && *id == process.id);
        at.map_or(0, |at| at as u64 + 1)
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

    /// A strike is in the journal before its dead letter leaves.
    pub(crate) fn check_strike(&self, item: &StrikeItem) {
        let journals = self.paths().into_iter().filter(|path| path.starts_with("log/"));
        let known = journals.map(|path| Journal::over(Arc::new(self.at(&path).open_reader("checker"))));
        let mut strikes = known.flatten().flat_map(|(_, contents)| contents.strikes.into_values());
        if !strikes.any(|strikes| strikes.contains_key(item)) {
            self.violate(format!("I4: the dead letter of {item:?} has left, and no journal holds the strike"));
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
        self.disks.opened(path, &self.process);
        let database = self.disks.make(path).open(path);
        let (process, faults) = (Arc::clone(&self.process), self.faults);
        let outputs = (Arc::clone(&self.table), Arc::clone(&self.letters));
        let (disks, broken) = (Arc::clone(&self.disks), AtomicBool::new(false));
        Ok(Arc::new(SeenDisk { database, disks, outputs, process, faults, broken }))
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
    /// The changes without those that a planted fault writes elsewhere.
    fn misdirect(&self, changes: Vec<Change>) -> Vec<Change> {
        if !self.process.is_planted(Planted::FrontierOfWrongLane) || self.database.name() != "log/lanes/0" {
            return changes;
        }
        let (wrong, right): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(|(key, _)| key == b"frontier");
        self.disks.at("log/lanes/1").overwrite(wrong);
        right
    }

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
        let changes = self.misdirect(changes);
        let checkpoint =
            changes.iter().find(|(key, _)| key == layout::CHECKPOINT).and_then(|(_, value)| value.as_ref());
        if let Some(checkpoint) = checkpoint.and_then(|bytes| Checkpoint::decode(bytes).ok())
            && self.database.check_ownership().is_ok()
        {
            let (table, letters) = (&*self.outputs.0, &*self.outputs.1);
            self.disks.check_checkpoint(&self.process, &checkpoint.covered(), (table, letters));
        }
        self.disks.remember(self.database.name(), &self.process);
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
