//! The lanes' journals: the host's own chains on the simulated store of objects, which fails as the seed decides, and what is known of them
//! beside the hosts. The lanes' keyed state is in [`crate::states`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::TryStreamExt;
use keyfold::machine::Planted;
use keyfold::position::Partition;
use keyfold::state::chained::{Chained, Compaction};
use keyfold::state::database::{Change, Database, Databases, Entries, Error, Visit};
use keyfold::state::journal::{Contents, Journal};
use keyfold::state::memory::MemoryDisk;
use keyfold::strike::StrikeItem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::scheduler::{Process, ProcessId, locked};
use crate::settings::shared;

/// Where journals are.
const JOURNALS: &str = "log/lanes";
/// So that links are compacted every few seconds of a life.
const COMPACTION: Compaction = Compaction { links: 12 };

/// The journals, beside the hosts.
pub(crate) struct Journals {
    objects: Arc<InMemory>,
    /// How many databases were opened, with an answer.
    opened: AtomicUsize,
    /// Which process has claimed which journal, in this order.
    claims: Mutex<Vec<(String, ProcessId)>>,
    /// The last link of each journal before its last write, if it is to lose that write.
    before: Mutex<BTreeMap<String, Path>>,
    /// What a planted fault writes into the journal of another lane.
    misdirected: Mutex<Vec<Change>>,
    violations: Mutex<Vec<String>>,
}

impl Journals {
    /// Those on a store of objects.
    pub(crate) fn new(objects: Arc<InMemory>) -> Journals {
        Journals {
            objects,
            opened: AtomicUsize::new(0),
            claims: Mutex::default(),
            before: Mutex::default(),
            misdirected: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    /// What the journal at a path holds; nothing if there is none.
    fn at(&self, path: &str) -> MemoryDisk {
        let (disk, objects) = (MemoryDisk::default(), Arc::clone(&self.objects) as Arc<dyn ObjectStore>);
        let found = Chained::reader(&objects, path, shared().runtime.handle());
        let found = found.unwrap_or_else(|error| {
            self.violate(error.to_string());
            None
        });
        let mut held = Vec::new();
        if let Some(found) = found {
            let visit = &mut |key: &[u8], value: &[u8]| {
                held.push((key.to_vec(), Some(value.to_vec())));
                std::ops::ControlFlow::Continue(())
            };
            found.scan(b"", b"", visit).expect("it is in memory");
        }
        disk.overwrite(held);
        disk
    }

    /// What the journal of a lane holds.
    pub(crate) fn of(&self, lane: &str) -> Contents {
        self.contents(&format!("{JOURNALS}/{lane}"))
    }

    fn contents(&self, path: &str) -> Contents {
        let database = self.at(path).open_reader("checker");
        let read = Journal::over(Arc::new(database)).map(|(_, contents)| contents);
        read.unwrap_or_else(|error| {
            self.violate(error.to_string());
            Contents::default()
        })
    }

    /// The links under a path.
    fn links(&self, path: &str) -> BTreeSet<Path> {
        let listed = self.objects.list(Some(&Path::from(path))).map_ok(|object| object.location);
        shared().runtime.block_on(listed.try_collect()).expect("it is in memory")
    }

    /// The paths of the journals.
    fn paths(&self) -> BTreeSet<String> {
        let journal = |link: Path| {
            let parts: Vec<_> = link.parts().map(|part| part.as_ref().to_owned()).collect();
            parts[..parts.len() - 1].join("/")
        };
        self.links(JOURNALS).into_iter().map(journal).collect()
    }

    /// The path of the journal of a partition's lane.
    pub(crate) fn journal_of(&self, partition: Partition) -> String {
        let own = format!("{JOURNALS}/{partition}");
        if self.links(&own).is_empty() { format!("{JOURNALS}/topic") } else { own }
    }

    /// The path of the journal of the lane with this name, if it has been written there.
    pub(crate) fn journal_named(&self, name: &str) -> Option<String> {
        let held =
            |path: &String| self.at(path).open_reader("checker").get(&[b"tenure"]).ok().and_then(|mut v| v.pop()?);
        let is_named = |path: &String| held(path).is_some_and(|held| String::from_utf8_lossy(&held).contains(name));
        self.paths().into_iter().find(is_named)
    }

    /// What must never happen, and did.
    pub(crate) fn violations(&self) -> Vec<String> {
        locked(&self.violations).clone()
    }

    /// A strike is in the journal before its dead letter leaves.
    pub(crate) fn check_strike(&self, item: &StrikeItem) {
        let mut strikes = self.paths().into_iter().flat_map(|path| self.contents(&path).strikes.into_values());
        if !strikes.any(|strikes| strikes.contains_key(item)) {
            self.violate(format!("I4: the dead letter of {item:?} has left, and no journal holds the strike"));
        }
    }

    fn violate(&self, what: String) {
        locked(&self.violations).push(what);
    }

    /// Notes that a lane's journal or its state was opened.
    pub(crate) fn note_opening(&self) {
        self.opened.fetch_add(1, Ordering::SeqCst);
    }

    /// How many databases were opened so far.
    pub(crate) fn openings(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// Notes what a process has put into the store of objects, if it is a claim.
    pub(crate) fn put(&self, location: &Path, bytes: &[u8], process: &Process) {
        let Some((path, _)) = location.as_ref().rsplit_once('/') else { return };
        let header = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let is_claim = |header: serde_json::Value| header["claim"] == true;
        if path.starts_with(JOURNALS) && serde_json::from_slice(header).is_ok_and(is_claim) {
            locked(&self.claims).push((path.to_owned(), process.id));
        }
    }

    /// The number of the claim by which a process holds a journal.
    pub(crate) fn tenure(&self, path: &str, process: &Process) -> u64 {
        let claims = locked(&self.claims);
        let at = claims.iter().rposition(|(of, id)| of == path && *id == process.id);
        at.map_or(0, |at| at as u64 + 1)
    }

    /// Remembers where a journal ends before a write, if it is to lose that write.
    fn remember(&self, path: &str, process: &Process) {
        if process.is_planted(Planted::JournalLosesWrite)
            && let Some(last) = self.links(path).pop_last()
        {
            locked(&self.before).insert(path.to_owned(), last);
        }
    }

    /// Takes back the last write of each journal that is remembered.
    pub(crate) fn lose_last_writes(&self) {
        for (path, last) in std::mem::take(&mut *locked(&self.before)) {
            for link in self.links(&path).into_iter().filter(|link| *link > last) {
                shared().runtime.block_on(self.objects.delete(&link)).expect("it is in memory");
            }
        }
    }

    /// The changes without those that a planted fault writes elsewhere, and with those that it has written here.
    fn misdirect(&self, path: &str, mut changes: Vec<Change>) -> Vec<Change> {
        match path {
            "log/lanes/0" => {
                let (wrong, right) = changes.into_iter().partition(|(key, _)| key == b"frontier");
                locked(&self.misdirected).extend::<Vec<Change>>(wrong);
                right
            }
            "log/lanes/1" => {
                changes.extend(std::mem::take(&mut *locked(&self.misdirected)));
                changes
            }
            _ => changes,
        }
    }
}

/// The databases as one host sees them.
pub(crate) struct SeenDatabases {
    pub(crate) journals: Arc<Journals>,
    /// The store of objects as this host sees it.
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) process: Arc<Process>,
}

impl Databases for SeenDatabases {
    fn open(&self, path: &str) -> Result<Arc<dyn Database>, Error> {
        self.process.note(&format!("opens {path}"));
        let chained = Chained::open_with(&self.objects, path, shared().runtime.handle(), COMPACTION)?;
        let (journals, process) = (Arc::clone(&self.journals), Arc::clone(&self.process));
        self.journals.note_opening();
        Ok(Arc::new(SeenJournal { chained, journals, process }))
    }
}

/// A journal that a host has opened, with the faults that are planted in it.
struct SeenJournal {
    chained: Chained,
    journals: Arc<Journals>,
    process: Arc<Process>,
}

impl SeenJournal {
    /// What comes of a request, to a host that may not notice that it lost its lane.
    fn fenced<T: Default>(&self, result: Result<T, Error>) -> Result<T, Error> {
        match result {
            // Two hosts that both believe.
            Err(Error::Fenced(_)) if self.process.is_planted(Planted::NoFencing) => Ok(T::default()),
            result => result,
        }
    }
}

impl Entries for SeenJournal {
    fn name(&self) -> &str {
        self.chained.name()
    }

    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        self.chained.get(keys)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.chained.scan(prefix, from, visit)
    }
}

impl Database for SeenJournal {
    fn write(&self, changes: Vec<Change>) -> Result<(), Error> {
        self.process.note(&format!("writes {} entries to {}", changes.len(), self.name()));
        self.journals.remember(self.name(), &self.process);
        let changes = match self.process.is_planted(Planted::FrontierOfWrongLane) {
            true => self.journals.misdirect(self.name(), changes),
            false => changes,
        };
        self.fenced(self.chained.write(changes))
    }

    fn check_ownership(&self) -> Result<(), Error> {
        self.fenced(self.chained.check_ownership())
    }

    fn close(&self) -> Result<(), Error> {
        self.fenced(self.chained.close())
    }
}
