//! What hosts keep: the lanes' journals, which are the host's own database in memory with a connection that may fail, and their state, which lies
//! in the simulated store of objects. A simulated crash loses nothing that a write has acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::TryStreamExt;
use futures::executor::block_on;
use keyfold::machine::Planted;
use keyfold::position::{Offset, Partition};
use keyfold::state::chain::Chain;
use keyfold::state::checkpoint::Checkpoint;
use keyfold::state::database::{Change, Database, Databases, Entries, Error, Visit};
use keyfold::state::journal::Journal;
use keyfold::state::manifest::Manifest;
use keyfold::state::memory::{MemoryDatabase, MemoryDisk};
use keyfold::strike::StrikeItem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::scheduler::{Process, ProcessId, locked};
use crate::table::Table;
use crate::world::{Fault, Letters};

/// What survives each crash, by path.
pub(crate) struct Disks {
    /// The store of objects.
    objects: Arc<dyn ObjectStore>,
    disks: Mutex<BTreeMap<String, MemoryDisk>>,
    violations: Mutex<Vec<String>>,
    /// Which process has opened what, in this order.
    openings: Mutex<Vec<(String, ProcessId)>>,
    /// What journals held before their last write, if they are to lose it.
    before: Mutex<BTreeMap<String, MemoryDisk>>,
}

impl Disks {
    /// Nothing is kept yet, but what lies in this store.
    pub(crate) fn new(objects: Arc<dyn ObjectStore>) -> Disks {
        Disks {
            objects,
            disks: Mutex::default(),
            violations: Mutex::default(),
            openings: Mutex::default(),
            before: Mutex::default(),
        }
    }

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
        let lane = |path: Path| path.parts().nth(1).map(|lane| lane.as_ref().to_owned());
        self.under("lanes").into_iter().filter_map(lane).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Loses the state of a lane.
    pub(crate) fn lose(&self, lane: &str) {
        for path in self.under(&format!("lanes/{lane}")) {
            block_on(self.objects.delete(&path)).expect("it is in memory");
        }
    }

    /// The objects under a path.
    fn under(&self, path: &str) -> Vec<Path> {
        let found: Vec<_> =
            block_on(self.objects.list(Some(&Path::from(path))).try_collect()).expect("it is in memory");
        found.into_iter().map(|object: object_store::ObjectMeta| object.location).collect()
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
        let links = block_on(Chain::read(&self.objects, &format!("lanes/{lane}/manifests"))).ok()?;
        Manifest::decode(&links.last()?.body).ok()?.contents.checkpoint
    }

    /// Looks at a link of a lane's manifests that was just written.
    pub(crate) fn check_manifest(&self, process: &Process, link: &[u8], outputs: (&Table, &Letters)) {
        let (path, end) = ("lanes", link.iter().position(|byte| *byte == b'\n').expect("a link has a first line"));
        if String::from_utf8_lossy(&link[..end]).contains("\"claim\":true") {
            return self.opened(path, process);
        }
        let manifest = Manifest::decode(&link[end + 1..]).expect("a manifest is readable");
        if let Some(checkpoint) = manifest.contents.checkpoint {
            self.check_checkpoint(process, &checkpoint, outputs);
        }
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
    fn check_checkpoint(&self, process: &Process, checkpoint: &Checkpoint, (table, letters): (&Table, &Letters)) {
        let (covered, last) =
            (checkpoint.covered(), checkpoint.last_record().map(|last| (last.partition, last.offset)));
        // What fires while the lane is idle after it has begun the checkpoint names the last record too.
        let is_covered =
            |at: &&(Partition, Offset)| covered.get(&at.0).is_some_and(|next| at.1 < *next) && Some(**at) != last;
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
        let (disks, broken) = (Arc::clone(&self.disks), AtomicBool::new(false));
        Ok(Arc::new(SeenDisk { database, disks, process, faults, broken }))
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
        locked(&self.disks.disks).remove(path);
        Ok(())
    }
}

struct SeenDisk {
    database: MemoryDatabase,
    disks: Arc<Disks>,
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
