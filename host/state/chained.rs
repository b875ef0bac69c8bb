//! A database whose writes are links of a chain ([`super::chain`]) and whose entries are all in memory: for the journal of a lane, which is small.
//! A write is one object. Keeps I8: it fails if another host has opened the database. Owns what a link says, and when a link says all.
//!
//! Names and contents of links hold no time, so a clock that goes back does no harm.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use object_store::ObjectStore;
use tokio::runtime::Handle;

use crate::machine;
use crate::observe::journal_meter::JournalMeter;
use crate::state::chain::{Chain, Link, Needless, unreadable};
use crate::state::database::{Change, Database, Entries, Error, Visit};

/// The format of what a link says.
const FORMAT: u8 = 1;
/// Marks a key that is deleted.
const DELETED: u8 = 0;
/// Marks a key with its value.
const PUT: u8 = 1;
/// Bytes of an entry beside its key and its value.
const OVERHEAD: usize = 9;

const MIB: usize = 1 << 20;

/// A change whose value is a part of what was read or will be written.
type Said = (Vec<u8>, Option<Bytes>);

/// When a link says all that the database holds, so that a start reads no links before it.
#[derive(Clone, Copy, Debug)]
pub struct Compaction {
    /// After so many links of a database with at most [`Compaction::SMALL`] bytes. Of a larger one in proportion, so that all of it is not written
    /// for few changes, but not of more than [`Compaction::MOST`] times as many.
    pub links: usize,
}

impl Compaction {
    const SMALL: usize = 64 << 10;
    const MOST: usize = 64;

    /// Whether it is time after `links` with `bytes`, for a database of this size.
    fn is_due(self, (links, bytes): (usize, usize), size: usize) -> bool {
        links >= self.links * (size / Compaction::SMALL).clamp(1, Compaction::MOST) || bytes >= MIB.max(4 * size)
    }
}

impl Default for Compaction {
    fn default() -> Compaction {
        Compaction { links: 64 }
    }
}

/// What a database holds.
#[derive(Clone, Debug, Default)]
struct Contents {
    entries: BTreeMap<Vec<u8>, Bytes>,
    /// The bytes that they take in a link.
    size: usize,
}

impl Contents {
    /// What links say together.
    fn of(path: &str, links: &[Link]) -> Result<Contents, Error> {
        let mut contents = Contents::default();
        contents.read(path, links, &mut 0).map(|()| contents)
    }

    /// Takes in what links say that follow the one with the number `last`, which becomes that of the last of them.
    fn read(&mut self, path: &str, links: &[Link], last: &mut u64) -> Result<(), Error> {
        let before = *last;
        for link in links.iter().filter(|link| link.number > before) {
            if link.is_whole {
                *self = Contents::default();
            }
            let changes = decode(&link.body).map_err(|why| unreadable(path, link.number, &why))?;
            changes.into_iter().for_each(|(key, value)| self.apply(key, value));
            *last = link.number;
        }
        Ok(())
    }

    fn apply(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        let length = key.len();
        let former = match value {
            Some(value) => {
                self.size += length + value.len() + OVERHEAD;
                self.entries.insert(key, value)
            }
            None => self.entries.remove(&key),
        };
        self.size -= former.map_or(0, |former| length + former.len() + OVERHEAD);
    }

    fn get(&self, keys: &[&[u8]]) -> Vec<Option<Bytes>> {
        keys.iter().map(|&key| self.entries.get(key).cloned()).collect()
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) {
        let first = [prefix, from].concat();
        let range = self.entries.range::<[u8], _>((Bound::Included(first.as_slice()), Bound::Unbounded));
        for (key, value) in range.take_while(|(key, _)| key.starts_with(prefix)) {
            if visit(key, value).is_break() {
                break;
            }
        }
    }
}

/// A database that this host owns.
pub struct Chained {
    name: String,
    runtime: Handle,
    compaction: Compaction,
    contents: Mutex<Contents>,
    writer: Mutex<Writer>,
    /// Why it cannot be used any more, if it cannot.
    closed: OnceLock<String>,
    meter: OnceLock<Arc<JournalMeter>>,
}

struct Writer {
    chain: Chain,
    /// Links since the last one that says all, and their bytes.
    since: (usize, usize),
}

impl Chained {
    /// Opens the database at `path`, and creates it if it does not exist. Its former owner is fenced.
    pub fn open(objects: &Arc<dyn ObjectStore>, path: &str, runtime: &Handle) -> Result<Chained, Error> {
        Chained::open_with(objects, path, runtime, Compaction::default())
    }

    /// Opens it with another rule for when a link says all.
    pub fn open_with(
        objects: &Arc<dyn ObjectStore>,
        path: &str,
        runtime: &Handle,
        compaction: Compaction,
    ) -> Result<Chained, Error> {
        let (mut contents, mut last) = (Contents::default(), 0);
        // What cannot be read is refused before a claim follows it.
        let claim = |links: &[Link]| contents.read(path, links, &mut last).map(|()| None);
        let (mut chain, links) = runtime.block_on(Chain::claim(objects, path, claim))?;
        let partial = links.iter().filter(|link| !link.is_whole);
        let mut since = partial.fold((1, 0), |(links, bytes), link| (links + 1, bytes + link.body.len()));
        if compaction.is_due(since, contents.size) {
            runtime.block_on(chain.append(true, encode(puts(&contents))))?;
            since = (0, 0);
        }
        let needless = chain.needless();
        let database = Chained {
            name: path.to_owned(),
            runtime: runtime.clone(),
            compaction,
            contents: Mutex::new(contents),
            writer: Mutex::new(Writer { chain, since }),
            closed: OnceLock::new(),
            meter: OnceLock::new(),
        };
        database.prune(needless);
        Ok(database)
    }

    /// Reads the database at `path`, if it exists. Its owner is not fenced, and later writes are not seen.
    pub fn reader(objects: &Arc<dyn ObjectStore>, path: &str, runtime: &Handle) -> Result<Option<Snapshot>, Error> {
        let links = runtime.block_on(Chain::read(objects, path))?;
        if links.is_empty() {
            return Ok(None);
        }
        Ok(Some(Snapshot { name: path.to_owned(), contents: Contents::of(path, &links)? }))
    }

    /// Copies what the database at `path` holds into another store, where it must not exist yet, as one link. Its owner is not fenced.
    pub(super) async fn copy(from: &Arc<dyn ObjectStore>, to: &Arc<dyn ObjectStore>, path: &str) -> Result<(), Error> {
        let contents = Contents::of(path, &Chain::read(from, path).await?)?;
        Chain::copy(to, path, encode(puts(&contents))).await
    }

    /// Deletes links, while the caller goes on.
    fn prune(&self, needless: Needless) {
        if needless.count() == 0 {
            return;
        }
        let name = self.name.clone();
        let delete = async move {
            let count = needless.count();
            match needless.delete().await {
                Ok(()) => {
                    tracing::debug!(event = "journal-pruned", journal = name, count, "old files of the journal deleted")
                }
                Err(error) => tracing::warn!(
                    event = "journal-not-pruned",
                    journal = name,
                    %error,
                    "cannot delete old files of the journal; a later start tries again"
                ),
            }
        };
        // What is not deleted now, because no thread can be had, is needless to the next owner too.
        let _ = machine::background(&self.runtime, delete);
    }

    /// The contents, which nobody holds while they wait for something.
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<(), Error> {
        let unusable = |why| Error::Outside(format!("state.url: {} must be opened again: {why}", self.name));
        self.closed.get().map_or(Ok(()), |reason| Err(unusable(reason)))
    }
}

impl Entries for Chained {
    fn name(&self) -> &str {
        &self.name
    }

    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        self.check_open()?;
        Ok(self.contents().get(keys))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.check_open()?;
        self.contents().scan(prefix, from, visit);
        Ok(())
    }
}

impl Database for Chained {
    fn write(&self, changes: Vec<Change>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let changes: Vec<Said> = changes.into_iter().map(|(key, value)| (key, value.map(Bytes::from))).collect();
        let mut writer = machine::lock(&self.writer);
        self.check_open()?;
        let is_whole = self.compaction.is_due(writer.since, self.contents().size);
        let body = if is_whole {
            let mut all = self.contents().clone();
            changes.iter().cloned().for_each(|(key, value)| all.apply(key, value));
            encode(puts(&all))
        } else {
            encode(changes.iter().map(|(key, value)| (key.as_slice(), value.as_ref())))
        };
        let bytes = body.len();
        match self.runtime.block_on(writer.chain.append(is_whole, body)) {
            Ok(()) => {}
            Err(Error::Fenced(name)) => return Err(Error::Fenced(name)),
            Err(error) => {
                self.closed.get_or_init(|| format!("it is unknown what became of its last write ({error})"));
                return Err(error);
            }
        }
        let mut contents = self.contents();
        changes.into_iter().for_each(|(key, value)| contents.apply(key, value));
        if let Some(meter) = self.meter.get() {
            meter.writes.add(1);
            meter.written_bytes.add(bytes as u64);
            meter.compactions.add(u64::from(is_whole));
            meter.bytes.set(contents.size as u64);
        }
        drop(contents);
        if is_whole {
            writer.since = (0, 0);
            self.prune(writer.chain.needless());
        } else {
            writer.since = (writer.since.0 + 1, writer.since.1 + bytes);
        }
        Ok(())
    }

    /// Asks the object store, which knows.
    fn check_ownership(&self) -> Result<(), Error> {
        let writer = machine::lock(&self.writer);
        self.check_open()?;
        self.runtime.block_on(writer.chain.check_ownership())
    }

    fn count(&self, meter: &Arc<JournalMeter>) {
        meter.bytes.set(self.contents().size as u64);
        self.meter.get_or_init(|| Arc::clone(meter));
    }

    /// Everything is written, so nothing is asked of the object store.
    fn close(&self) -> Result<(), Error> {
        self.check_open()?;
        self.closed.get_or_init(|| "it was closed".to_owned());
        Ok(())
    }
}

/// What a database held when it was read.
pub struct Snapshot {
    name: String,
    contents: Contents,
}

impl Entries for Snapshot {
    fn name(&self) -> &str {
        &self.name
    }

    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        Ok(self.contents.get(keys))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.contents.scan(prefix, from, visit);
        Ok(())
    }
}

/// All entries.
fn puts(contents: &Contents) -> impl Iterator<Item = (&[u8], Option<&Bytes>)> {
    contents.entries.iter().map(|(key, value)| (key.as_slice(), Some(value)))
}

/// Changes as bytes: the format, then for each change whether the key is put or deleted, the key, and the value if there is one. Keys and values
/// follow their length, which is a `u32` with the least byte first.
fn encode<'a>(changes: impl Iterator<Item = (&'a [u8], Option<&'a Bytes>)>) -> Bytes {
    let mut bytes = vec![FORMAT];
    for (key, value) in changes {
        bytes.push(if value.is_some() { PUT } else { DELETED });
        for part in [Some(key), value.map(|value| &value[..])].into_iter().flatten() {
            let length = u32::try_from(part.len()).expect("a key or a value of a journal has less than 4 GiB");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
    bytes.into()
}

/// Reads changes. Claims say none.
fn decode(body: &Bytes) -> Result<Vec<Said>, String> {
    let mut left = body.clone();
    match left.first() {
        None => return Ok(Vec::new()),
        Some(&FORMAT) => drop(left.split_to(1)),
        Some(other) => {
            return Err(format!(
                "its entries have format {other}, and this version reads format {FORMAT}; run a newer keyfold"
            ));
        }
    }
    let mut changes = Vec::new();
    while !left.is_empty() {
        let kind = left.split_to(1)[0];
        let key = part(&mut left)?.to_vec();
        let value = match kind {
            DELETED => None,
            PUT => Some(part(&mut left)?),
            other => return Err(format!("its entries hold a change of kind {other}, which does not exist")),
        };
        changes.push((key, value));
    }
    Ok(changes)
}

/// Takes a length and as many bytes.
fn part(left: &mut Bytes) -> Result<Bytes, String> {
    let short = || "its entries end too early".to_owned();
    let length = u32::from_le_bytes(*left.first_chunk().ok_or_else(short)?);
    let length = usize::try_from(length).map_err(|_| short())?;
    if left.len() - 4 < length {
        return Err(short());
    }
    drop(left.split_to(4));
    Ok(left.split_to(length))
}

#[cfg(test)]
mod tests;
