//! A lane's keyed state, timers and checkpoint: files of sorted records, and a chain of manifests that name them. Owns how they are read and
//! written, which files are needed, and the way back to before a deployment that may still be withdrawn. Knows the layout of records, not what
//! they mean to a plugin.
//!
//! A checkpoint is taken in steps, while the lane goes on: [`Store::begin`] with what it describes, [`Store::add`] with what changed, as it is
//! captured, and [`Store::commit`], which writes the manifest that makes it valid. Requests are made beside the lane.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;

use crate::backoff;
use crate::clock;
use crate::event_time::EventTime;
use crate::machine::{self, Planted, Task, plants};
use crate::position::{Offset, Partition};
use crate::state::capture::Chunk;
use crate::state::chain::{Chain, Link};
use crate::state::checkpoint::{Checkpoint, Held};
use crate::state::database::Error;
use crate::state::file::FileInfo;
use crate::state::manifest::{Contents, Manifest};
use crate::state::pages::Pages;
use crate::state::version::{Run, Version};
use crate::state::writing::{Names, Writing, merged};
use crate::state::{KeyState, Shard, layout};

/// How long a file stays that no manifest needs: somebody may read it by an earlier one.
const GRACE: Duration = Duration::from_secs(60);
/// How often a caller that waits looks whether it is over.
const POLL: Duration = Duration::from_millis(1);

/// Where lanes keep their state.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The object store.
    pub objects: Arc<dyn ObjectStore>,
    /// What its requests run on.
    pub runtime: Handle,
}

/// The files that are being written for a checkpoint.
struct Pending {
    checkpoint: Checkpoint,
    probation: Option<u64>,
    uploads: Vec<Task<Result<Vec<FileInfo>, Error>>>,
    runs: Vec<Vec<FileInfo>>,
    bytes: u64,
}

/// A manifest that is being written.
struct Committing {
    manifest: Manifest,
    bytes: u64,
    task: Task<(Chain, Result<(), Error>)>,
}

/// Runs that are being merged into one.
struct Merging {
    ids: Vec<u64>,
    task: Task<Result<Vec<FileInfo>, Error>>,
}

/// The state of a lane. After an error it must be opened again: what it still knows in memory may be ahead of what is stored.
pub struct Store {
    stores: Stores,
    path: String,
    /// Away while a manifest is being written.
    chain: Option<Chain>,
    /// The last one that is durable.
    manifest: Manifest,
    version: Arc<Version>,
    pending: Option<Pending>,
    committing: Option<Committing>,
    merging: Option<Merging>,
    /// Whether another host has taken over.
    asked: Option<Task<Result<(), Error>>>,
    names: Arc<Names>,
    runs: u64,
    /// Files that no manifest needs since some time.
    needless: Vec<(Duration, String)>,
    /// What [`Pages`] read.
    reading: Weak<Version>,
}

impl Stores {
    /// Opens a lane's state, and creates it if it does not exist. Its former owner is fenced.
    pub fn open(&self, path: &str) -> Result<Store, Error> {
        Store::open(self.clone(), path)
    }
}

/// Where the manifests of a lane's state are.
pub(super) fn manifests(path: &str) -> String {
    format!("{path}/manifests")
}

/// Where its files are.
pub(super) fn folder(path: &str) -> String {
    format!("{path}/files")
}

/// The manifest that the last link of a chain holds.
pub(super) fn last_manifest(path: &str, links: &[Link]) -> Result<Manifest, Error> {
    let unreadable =
        |number: u64, e| Error::Unreadable(format!("state.url: cannot read manifest {number} of {path}: {e}"));
    let last = links.last().map(|link| Manifest::decode(&link.body).map_err(|e| unreadable(link.number, e)));
    Ok(last.transpose()?.unwrap_or_default())
}

/// Why files without a manifest are refused: a manifest is written before the first of them.
fn without_manifests(path: &str) -> Error {
    Error::Unreadable(format!(
        "state.url: {path}/manifests is missing or empty, and other files of the checkpoint are there: put it back from a copy, or delete all of \
         it with `keyfold reset`"
    ))
}

impl Store {
    fn open(stores: Stores, path: &str) -> Result<Store, Error> {
        let open = async {
            let mut there = sizes_of(&*stores.objects, path).await?;
            let mut manifest = Manifest::default();
            let claim = |links: &[Link]| {
                if links.is_empty() && !there.is_empty() {
                    return Err(without_manifests(path));
                }
                manifest = last_manifest(path, links)?;
                Ok(Some(Bytes::from(manifest.encode())))
            };
            let (chain, _) = Chain::claim(&stores.objects, &manifests(path), claim).await?;
            if check_files(path, &manifest, &there).is_err() {
                there = sizes_of(&*stores.objects, path).await?; // the former owner may have written until the claim
                check_files(path, &manifest, &there)?;
            }
            let needed: BTreeSet<&str> = manifest.files().map(|file| file.name.as_str()).collect();
            let needless = there.into_keys().filter(|name| !needed.contains(name.as_str())).collect::<Vec<String>>();
            Ok((chain, manifest, needless))
        };
        let (chain, manifest, needless) = stores.runtime.block_on(open)?;
        let version = Arc::new(Version::of(&manifest.contents, &folder(path), 0));
        let now = Duration::from_micros(clock::uptime_us());
        Ok(Store {
            runs: version.runs.len() as u64,
            names: Arc::new(Names::of(chain.last())),
            needless: needless.into_iter().map(|name| (now, name)).collect(),
            stores,
            path: path.to_owned(),
            chain: Some(chain),
            manifest,
            version,
            pending: None,
            committing: None,
            merging: None,
            asked: None,
            reading: Weak::new(),
        })
    }

    /// Returns the deployment that [`Store::take_back`] undoes, if there is one.
    pub fn undo_of(&self) -> Option<u64> {
        self.manifest.undo.as_ref().map(|(deployment, _)| *deployment)
    }

    /// Returns to the last checkpoint before the deployment that can be undone.
    pub fn take_back(&mut self) -> Result<(), Error> {
        let contents = self.manifest.undo.take().map(|(_, contents)| contents);
        self.become_now(Manifest { contents: contents.unwrap_or_default(), undo: None })
    }

    /// Forgets all state. Returns how many files there were.
    pub fn clear(&mut self) -> Result<usize, Error> {
        self.become_now(Manifest::default())?;
        let deleted = async {
            let there: Vec<String> = sizes_of(&*self.stores.objects, &self.path).await?.into_keys().collect();
            delete(&*self.stores.objects, &self.path, &there).await?;
            Ok(there.len())
        };
        self.needless.clear();
        self.stores.runtime.block_on(deleted)
    }

    /// Writes a manifest at once.
    fn become_now(&mut self, manifest: Manifest) -> Result<(), Error> {
        let chain = self.chain.as_mut().expect("no checkpoint is being written");
        self.asked = None; // who asks now could find this manifest
        self.stores.runtime.block_on(chain.append(true, manifest.encode().into()))?;
        self.delete_needless_links()?;
        self.version = Arc::new(Version::of(&manifest.contents, &folder(&self.path), self.runs));
        self.runs += self.version.runs.len() as u64;
        self.replace_manifest(manifest);
        Ok(())
    }

    /// Returns the last checkpoint, if there is one.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.manifest.contents.checkpoint.as_ref()
    }

    // ---- reading

    /// Reads the state of keys with its state version, in that order; `None` for a key without state.
    pub fn read(&self, keys: &[&[u8]]) -> Result<Vec<Option<(KeyState, u32)>>, Error> {
        if self.version.runs.is_empty() {
            return Ok(vec![None; keys.len()]);
        }
        let found = self.stores.runtime.block_on(self.version.get(&*self.stores.objects, keys));
        let found = found.map_err(|e| self.explain(e))?;
        keys.iter().zip(found).map(|(key, record)| state_of(&self.path, key, record.as_deref())).collect()
    }

    /// Reads the keys that may have a timer from `from` (`None`: the first) up to and including `until`, and the time of the first timer after
    /// those, if there is one.
    pub fn timers(
        &self,
        from: Option<EventTime>,
        until: EventTime,
    ) -> Result<(Vec<Vec<u8>>, Option<EventTime>), Error> {
        let found = self.stores.runtime.block_on(self.version.timers(&*self.stores.objects, from, until));
        found.map_err(|e| self.explain(e))
    }

    /// Returns why something cannot be read: what is missing may have been deleted by another host, or by a reset, which takes the lane over first.
    pub fn explain(&self, error: Error) -> Error {
        let Some(chain) = self.chain.as_ref().filter(|_| matches!(error, Error::Unreadable(_))) else { return error };
        match self.stores.runtime.block_on(chain.check_ownership()) {
            Err(fenced @ Error::Fenced(_)) => fenced,
            _ => error,
        }
    }

    /// What it keeps in memory of its files: indexes and filters, bytes, about.
    pub fn cached_bytes(&self) -> u64 {
        self.version.cached_bytes()
    }

    /// Begins to read all keys, in key order, as of the last checkpoint.
    pub fn pages(&mut self) -> Pages {
        self.reading = Arc::downgrade(&self.version);
        Pages::new(self.stores.clone(), &self.path, &self.version, &[])
    }

    // ---- a checkpoint

    /// Whether one is being taken.
    fn is_busy(&self) -> bool {
        self.pending.is_some() || self.committing.is_some()
    }

    /// Begins one. While a deployment can be withdrawn (`probation`), the last checkpoint before its T is kept.
    ///
    /// # Panics
    /// If one is being taken, or if this one covers less of a partition than the last.
    pub fn begin(&mut self, checkpoint: Checkpoint, probation: Option<u64>) {
        assert!(!self.is_busy(), "one checkpoint is taken at a time");
        let covered = checkpoint.covered();
        for (partition, before) in self.covered() {
            let now = covered.get(&partition);
            assert!(
                now >= Some(&before),
                "a checkpoint goes back from offset {before} to {now:?} in partition {partition}"
            );
        }
        self.pending = Some(Pending { checkpoint, probation, uploads: Vec::new(), runs: Vec::new(), bytes: 0 });
    }

    fn covered(&self) -> BTreeMap<Partition, Offset> {
        self.checkpoint().map(Checkpoint::covered).unwrap_or_default()
    }

    /// Adds what changed in some keys, and begins to write it.
    pub fn add(&mut self, mut chunk: Chunk) -> Result<(), Error> {
        let (objects, path, names) = (Arc::clone(&self.stores.objects), self.path.clone(), Arc::clone(&self.names));
        let bytes = chunk.bytes() as u64;
        let write = async move {
            chunk.sort();
            let mut files = Writing::new(&*objects, &path, &names);
            for (key, record) in chunk.records() {
                files.push(key, record).await?;
            }
            files.finish().await
        };
        let task = self.begin_task(write)?;
        let pending = self.pending.as_mut().expect("a checkpoint was begun");
        pending.uploads.push(task);
        pending.bytes += bytes;
        Ok(())
    }

    /// Returns how many parts of the checkpoint are still being written.
    pub fn uploads(&mut self) -> Result<usize, Error> {
        let Some(pending) = &mut self.pending else { return Ok(0) };
        let mut waiting = Vec::new();
        for upload in std::mem::take(&mut pending.uploads) {
            match taken(&upload, &self.path)? {
                Some(run) => pending.runs.push(run?),
                None => waiting.push(upload),
            }
        }
        pending.uploads = waiting;
        Ok(pending.uploads.len())
    }

    /// Begins to write the manifest of the checkpoint, all of which is there now. `lengths` are those of the files of sink and dead letters, and `held`
    /// is what state there is, if that is known.
    pub fn commit(&mut self, lengths: (Option<u64>, Option<u64>), held: Option<Held>) -> Result<(), Error> {
        let Pending { mut checkpoint, probation, uploads, runs, bytes } =
            self.pending.take().expect("a checkpoint was begun");
        assert!(uploads.is_empty(), "all of it is written");
        (checkpoint.sink_length, checkpoint.letters_length, checkpoint.held) = (lengths.0, lengths.1, held);
        self.take_merged()?;
        let new = runs.into_iter().filter(|run| !run.is_empty());
        let new: Vec<Run> = new.zip(self.runs..).map(|(infos, id)| self.run(&infos, id)).collect();
        self.runs += new.len() as u64;
        let runs = new.into_iter().chain(self.version.runs.iter().cloned()).collect();
        self.version = Arc::new(Version { runs });
        let contents = Contents { checkpoint: Some(checkpoint), runs: self.version.runs_as_stored() };
        let manifest = Manifest { contents, undo: self.undo_for(probation) };
        let mut chain = self.chain.take().expect("one manifest is written at a time");
        self.asked = None; // who asks now could find this manifest
        let body = Bytes::from(manifest.encode());
        let write = async move {
            let written = chain.append(true, body).await;
            (chain, written)
        };
        let task = self.begin_task(write)?;
        self.committing = Some(Committing { manifest, bytes, task });
        Ok(())
    }

    /// What a withdrawal returns to.
    fn undo_for(&self, probation: Option<u64>) -> Option<(u64, Contents)> {
        let deployment = probation?;
        if let Some(undo) = self.manifest.undo.as_ref().filter(|(of, _)| *of == deployment) {
            return Some(undo.clone());
        }
        let mut before = self.manifest.contents.clone();
        if plants(Planted::UndoForgetsFile) {
            before.runs.pop();
        }
        Some((deployment, before))
    }

    /// Returns the number of bytes of the checkpoint once it is durable; none while it is not.
    pub fn committed(&mut self) -> Result<Option<u64>, Error> {
        let Some(committing) = &self.committing else { return Ok(None) };
        let Some((chain, written)) = taken(&committing.task, &self.path)? else { return Ok(None) };
        let Committing { manifest, bytes, .. } = self.committing.take().expect("it is there");
        self.chain = Some(chain);
        written?;
        self.replace_manifest(manifest);
        self.delete_needless_links()?;
        self.delete_needless()?;
        self.merge()?;
        Ok(Some(bytes))
    }

    /// Takes a checkpoint of these shards at once, and waits until it is durable.
    pub fn write(
        &mut self,
        checkpoint: Checkpoint,
        shards: &mut [Shard],
        probation: Option<u64>,
    ) -> Result<u64, Error> {
        let (lengths, held) = ((checkpoint.sink_length, checkpoint.letters_length), checkpoint.held);
        self.begin(checkpoint, probation);
        for shard in &mut *shards {
            shard.begin_capture();
            shard.capture(usize::MAX);
            shard.captured(0).map_or(Ok(()), |part| self.add(part))?;
        }
        while self.uploads()? > 0 {
            backoff::pause(POLL);
        }
        self.commit(lengths, held)?;
        loop {
            if let Some(bytes) = self.committed()? {
                shards.iter_mut().for_each(Shard::end_capture);
                shards.iter_mut().for_each(Shard::free_emptied);
                return Ok(bytes);
            }
            backoff::pause(POLL);
        }
    }

    // ---- files

    fn begin_task<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<Task<T>, Error> {
        let begun = machine::background(&self.stores.runtime, work);
        begun.map_err(|e| Error::Outside(format!("cannot write {}: no thread: {e}", self.path)))
    }

    fn run(&self, infos: &[FileInfo], id: u64) -> Run {
        Run::of(infos, &folder(&self.path), id)
    }

    /// Notes which files are needless now that this manifest is durable.
    fn replace_manifest(&mut self, manifest: Manifest) {
        let before = std::mem::replace(&mut self.manifest, manifest);
        let needed: BTreeSet<&str> = self.manifest.files().map(|file| file.name.as_str()).collect();
        let now = Duration::from_micros(clock::uptime_us());
        let gone = before.files().filter(|file| !needed.contains(file.name.as_str()));
        let gone: BTreeSet<String> = gone.map(|file| file.name.clone()).collect();
        self.needless.extend(gone.into_iter().map(|name| (now, name)));
    }

    /// Deletes the manifests that nobody needs any more, beside the lane.
    fn delete_needless_links(&mut self) -> Result<(), Error> {
        let Some(needless) = self.chain.as_mut().map(Chain::needless).filter(|needless| needless.count() > 0) else {
            return Ok(());
        };
        let path = self.path.clone();
        let work = async move {
            if let Err(error) = needless.delete().await {
                tracing::debug!(event = "manifests-left", path, %error, "cannot delete manifests that are not needed any more");
            }
        };
        self.begin_task(work).map(drop)
    }

    /// Deletes the files that nobody needs any more.
    fn delete_needless(&mut self) -> Result<(), Error> {
        let now = Duration::from_micros(clock::uptime_us());
        let is_old = |(since, _): &(Duration, String)| now.saturating_sub(*since) >= GRACE;
        let (old, young): (Vec<_>, Vec<_>) = std::mem::take(&mut self.needless).into_iter().partition(is_old);
        if old.is_empty() || self.reading.upgrade().is_some() {
            self.needless = old.into_iter().chain(young).collect();
            return Ok(());
        }
        self.needless = young;
        let (objects, path) = (Arc::clone(&self.stores.objects), self.path.clone());
        let names: Vec<String> = old.into_iter().map(|(_, name)| name).collect();
        let work = async move {
            if let Err(error) = delete(&*objects, &path, &names).await {
                tracing::debug!(event = "state-files-left", path, %error, "cannot delete files that are not needed any more");
            }
        };
        self.begin_task(work).map(drop)
    }

    /// Begins to merge runs, if there are enough to be merged and none are being merged.
    fn merge(&mut self) -> Result<(), Error> {
        self.take_merged()?;
        let Some(range) = self.version.to_merge().filter(|_| self.merging.is_none()) else { return Ok(()) };
        let runs: Vec<Run> = self.version.runs[range.clone()].to_vec();
        let is_oldest = range.end == self.version.runs.len();
        let (stores, path, names) = (self.stores.clone(), self.path.clone(), Arc::clone(&self.names));
        let ids = runs.iter().map(|run| run.id).collect();
        let work = async move {
            merged(&stores.objects, (&path, &names), runs.into_iter().map(|run| run.files), is_oldest).await
        };
        self.merging = Some(Merging { ids, task: self.begin_task(work)? });
        Ok(())
    }

    /// Puts a merged run in the place of those that it was made of. The next manifest names it.
    fn take_merged(&mut self) -> Result<(), Error> {
        let Some(merging) = &self.merging else { return Ok(()) };
        let Some(files) = taken(&merging.task, &self.path)? else { return Ok(()) };
        let Merging { ids, .. } = self.merging.take().expect("it is there");
        let files = match files {
            Err(Error::Outside(error)) => {
                tracing::debug!(
                    event = "state-not-merged",
                    path = self.path,
                    error,
                    "cannot merge files of state; trying again later"
                );
                return Ok(());
            }
            files => files.map_err(|e| self.explain(e))?,
        };
        let merged = self.run(&files, self.runs);
        self.runs += 1;
        let mut runs = self.version.runs.clone();
        let at = runs.iter().position(|run| run.id == ids[0]).expect("only a merge takes runs away");
        runs.splice(at..at + ids.len(), Some(merged).filter(|run| !run.files.is_empty()));
        self.version = Arc::new(Version { runs });
        Ok(())
    }

    /// Asks whether another host has taken over, and does not wait for the answer. Fails if one had, when this was asked before.
    pub fn ask_ownership(&mut self) -> Result<(), Error> {
        if let Some(asked) = &self.asked {
            match taken(asked, &self.path)? {
                None => return Ok(()),
                Some(Err(fenced @ Error::Fenced(_))) => return Err(fenced),
                Some(_) => {} // a store that does not answer is told of elsewhere
            }
        }
        // While a manifest is being written, that finds out.
        self.asked = self.chain.as_ref().map(|chain| self.begin_task(chain.ownership())).transpose()?;
        Ok(())
    }
}

/// Returns the result of a task, if it is there.
fn taken<T>(task: &Task<T>, path: &str) -> Result<Option<T>, Error> {
    task.take()
        .map_err(|_| Error::Outside(format!("the task that writes {path} has ended without a result: this is a bug")))
}

/// The files under a path, with their sizes.
async fn sizes_of(objects: &dyn ObjectStore, path: &str) -> Result<BTreeMap<String, u64>, Error> {
    let folder = Path::from(folder(path));
    let found: Result<Vec<_>, _> = objects.list(Some(&folder)).try_collect().await;
    let found = found.map_err(|e| Error::Outside(format!("state.url: cannot list {folder}: {e}")))?;
    Ok(found.iter().filter_map(|object| Some((object.location.filename()?.to_owned(), object.size))).collect())
}

/// Refuses files that are missing, or that have another size than was written.
fn check_files(path: &str, manifest: &Manifest, there: &BTreeMap<String, u64>) -> Result<(), Error> {
    let folder = folder(path);
    manifest.files().try_for_each(|file| match there.get(&file.name) {
        Some(size) if *size == file.size => Ok(()),
        size => Err(unfit(&format!("{folder}/{}", file.name), size.copied(), file.size)),
    })
}

/// Why a file is refused that has another size than was written, or is missing.
fn unfit(file: &str, size: Option<u64>, written: u64) -> Error {
    let what = size.map_or("is missing".to_owned(), |size| format!("has {size} bytes, and {written} were written"));
    Error::Unreadable(format!(
        "state.url: {file} {what}: put it back from a copy, or run `keyfold reset` to rebuild the state from the log"
    ))
}

async fn delete(objects: &dyn ObjectStore, path: &str, names: &[String]) -> Result<(), Error> {
    for name in names {
        let location = Path::from(format!("{}/{name}", folder(path)));
        match objects.delete(&location).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(Error::Outside(format!("state.url: cannot delete {location}: {error}"))),
        }
    }
    Ok(())
}

pub(super) fn unreadable(path: &str, key: &[u8], why: layout::Corrupt) -> Error {
    Error::Unreadable(format!("state.url: cannot read key \"{}\" of {path}: {why}", key.escape_ascii()))
}

/// The state that a record gives, with its version.
pub(super) fn state_of(path: &str, key: &[u8], record: Option<&[u8]>) -> Result<Option<(KeyState, u32)>, Error> {
    let Some(record) = record else { return Ok(None) };
    let read = layout::decode(record).and_then(|record| Ok(record.state()?.map(|state| (state, record.version))));
    read.map_err(|e| unreadable(path, key, e))
}
