//! A database in memory, for tests. [`MemoryDisk`] is what survives a crash; to crash is to drop the [`MemoryDatabase`] that
//! was opened on it. Faults are injected by the number of a call, so that a test can fail at every step. Keeps I8 as the real form does.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use crate::state::database::{Change, Database, Entries, Error, Visit};

type Map = BTreeMap<Vec<u8>, Bytes>;

/// What a database stores. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    entries: Map,
    /// The number of the last opening.
    openings: u64,
    /// The opening that may write, while it is in use.
    owner: Option<u64>,
    /// What each other opening that is in use still sees.
    fenced: BTreeMap<u64, Map>,
    /// The number of calls so far, of all openings.
    calls: u64,
    fault: Option<(u64, Fault)>,
}

impl Disk {
    fn apply(&mut self, changes: Vec<Change>) {
        for (key, value) in changes {
            match value {
                Some(value) => self.entries.insert(key, value.into()),
                None => self.entries.remove(&key),
            };
        }
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has no effect: the request never arrived, or the write was lost before it was flushed.
    Lost,
    /// It takes effect, but its answer is lost.
    AnswerLost,
}

/// An open database in memory.
#[derive(Debug)]
pub struct MemoryDatabase {
    name: String,
    disk: MemoryDisk,
    opening: u64,
    /// Why it cannot be used any more, if it cannot.
    closed: OnceLock<&'static str>,
}

impl MemoryDisk {
    /// Opens the database. The former owner is fenced: it still reads what there is now, and can write nothing.
    pub fn open(&self, name: &str) -> MemoryDatabase {
        let mut disk = self.lock();
        if let Some(former) = disk.owner {
            let seen = disk.entries.clone();
            disk.fenced.insert(former, seen);
        }
        disk.openings += 1;
        disk.owner = Some(disk.openings);
        self.opened(name, disk.openings)
    }

    /// Opens the database for reading, beside its owner. Later writes are not seen.
    pub fn open_reader(&self, name: &str) -> MemoryDatabase {
        let mut disk = self.lock();
        disk.openings += 1;
        let (opening, seen) = (disk.openings, disk.entries.clone());
        disk.fenced.insert(opening, seen);
        self.opened(name, opening)
    }

    /// Returns the number of reads, scans and writes so far.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Lets `calls` more reads, scans and writes succeed and fails the one after them, once. Its opening cannot be used any more.
    pub fn fail_after(&self, calls: u64, fault: Fault) {
        let mut disk = self.lock();
        disk.fault = Some((disk.calls + calls, fault));
    }

    /// Returns a disk that holds the same, and shares nothing with this one.
    pub fn contents(&self) -> MemoryDisk {
        let entries = self.lock().entries.clone();
        MemoryDisk(Arc::new(Mutex::new(Disk { entries, ..Disk::default() })))
    }

    /// Applies changes past the owner, as nothing but a fault does.
    pub fn overwrite(&self, changes: Vec<Change>) {
        self.lock().apply(changes);
    }

    fn opened(&self, name: &str, opening: u64) -> MemoryDatabase {
        MemoryDatabase { name: name.to_owned(), disk: self.clone(), opening, closed: OnceLock::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryDatabase {
    /// Makes a call, unless it is to fail.
    fn call<T>(&self, act: impl FnOnce(&mut Disk) -> Result<T, Error>) -> Result<T, Error> {
        let mut disk = self.disk.lock();
        self.check_open()?;
        let call = disk.calls;
        disk.calls += 1;
        match disk.fault.take_if(|(at, _)| *at == call) {
            None => return act(&mut disk),
            Some((_, Fault::Lost)) => {}
            Some((_, Fault::AnswerLost)) => drop(act(&mut disk)?),
        }
        Err(self.unusable(self.closed.get_or_init(|| "the store did not answer")))
    }

    fn check_open(&self) -> Result<(), Error> {
        self.closed.get().map_or(Ok(()), |reason| Err(self.unusable(reason)))
    }

    fn unusable(&self, reason: &str) -> Error {
        Error::Outside(format!("state.url: cannot read or write {}: {reason}; open it again", self.name))
    }

    /// What this opening sees.
    fn seen<'a>(&self, disk: &'a Disk) -> &'a Map {
        disk.fenced.get(&self.opening).unwrap_or(&disk.entries)
    }

    fn check_owner(&self, disk: &Disk) -> Result<(), Error> {
        if disk.owner == Some(self.opening) { Ok(()) } else { Err(Error::Fenced(self.name.clone())) }
    }
}

impl Entries for MemoryDatabase {
    fn name(&self) -> &str {
        &self.name
    }

    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        self.call(|disk| Ok(keys.iter().map(|&key| self.seen(disk).get(key).cloned()).collect()))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.call(|disk| {
            let first = [prefix, from].concat();
            let range = self.seen(disk).range::<[u8], _>((Bound::Included(first.as_slice()), Bound::Unbounded));
            for (key, value) in range.take_while(|(key, _)| key.starts_with(prefix)) {
                if visit(key, value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }
}

impl Database for MemoryDatabase {
    fn write(&self, changes: Vec<Change>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        self.call(|disk| {
            self.check_owner(disk)?;
            disk.apply(changes);
            Ok(())
        })
    }

    fn check_ownership(&self) -> Result<(), Error> {
        self.check_open()?;
        self.check_owner(&self.disk.lock())
    }

    fn close(&self) -> Result<(), Error> {
        self.check_ownership()?;
        self.closed.get_or_init(|| "it was closed");
        Ok(())
    }
}

impl Drop for MemoryDatabase {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        disk.fenced.remove(&self.opening);
        disk.owner.take_if(|owner| *owner == self.opening);
    }
}
