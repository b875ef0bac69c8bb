//! The files of one checkpoint, as they are read: looking up keys, timers, and which runs are to be merged. Owns no names and writes nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures::future::try_join_all;
use object_store::ObjectStore;

use crate::event_time::EventTime;
use crate::state::database::Error;
use crate::state::file::{File, FileInfo, filter_hash, sizes};
use crate::state::layout;
use crate::state::manifest::Contents;
use crate::state::merge::Files;

/// How many runs there may be before the oldest are merged, whatever their sizes.
const MOST_RUNS: usize = 24;

/// Files whose keys do not overlap, which were written together.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// A number that no other run of this process has.
    pub(super) id: u64,
    pub(super) files: Files,
}

/// Some runs, the newest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Version {
    pub(super) runs: Vec<Run>,
}

impl Run {
    /// The run with this number, of the files that a manifest describes.
    pub(super) fn of(infos: &[FileInfo], folder: &str, id: u64) -> Run {
        Run { id, files: infos.iter().map(|info| File::new(folder, info.clone())).collect() }
    }

    /// Its size, bytes.
    fn size(&self) -> u64 {
        self.files.iter().map(|file| file.info.size).sum()
    }

    /// The file that may have a key.
    fn file_of(&self, key: &[u8]) -> Option<(usize, &Arc<File>)> {
        let at = self.files.partition_point(|file| file.last_key() < key);
        self.files.get(at).filter(|file| file.spans(key)).map(|file| (at, file))
    }
}

impl Version {
    /// What a manifest says of the runs.
    pub(super) fn runs_as_stored(&self) -> Vec<Vec<FileInfo>> {
        self.runs.iter().map(|run| run.files.iter().map(|file| file.info.clone()).collect()).collect()
    }

    /// The runs of a manifest, numbered from `first_id` on.
    pub(super) fn of(contents: &Contents, folder: &str, first_id: u64) -> Version {
        let runs = contents.runs.iter().zip(first_id..).map(|(infos, id)| Run::of(infos, folder, id));
        Version { runs: runs.collect() }
    }

    /// What is kept in memory of the files, bytes, about.
    pub(super) fn cached_bytes(&self) -> u64 {
        self.runs.iter().flat_map(|run| &run.files).map(|file| file.cached_bytes()).sum()
    }

    /// Reads the records of keys, in that order; `None` for a key without a record.
    pub(super) async fn get(&self, objects: &dyn ObjectStore, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut found: Vec<Option<Vec<u8>>> = vec![None; keys.len()];
        let mut open: Vec<usize> = (0..keys.len()).collect();
        let hashes: Vec<u64> = keys.iter().map(|key| filter_hash(key)).collect();
        for run in &self.runs {
            let mut wanted: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
            for &i in &open {
                if let Some((at, file)) = run.file_of(keys[i])
                    && let Some(block) = file.block_of(objects, keys[i], hashes[i]).await?
                {
                    wanted.entry(at).or_default().entry(block).or_default().push(i);
                }
            }
            let reads = wanted.into_iter().map(|(at, blocks)| async move {
                let numbers: Vec<usize> = blocks.keys().copied().collect();
                let read = run.files[at].blocks(objects, &numbers).await?;
                Ok::<_, Error>((at, blocks.into_values().zip(read).collect::<Vec<_>>()))
            });
            for (at, blocks) in try_join_all(reads).await? {
                for (asked, block) in blocks {
                    for i in asked {
                        let damaged = |e| run.files[at].damaged(&e);
                        let Some(record) = block.record(keys[i]).map_err(damaged)? else { continue };
                        found[i] = Some(match &found[i] {
                            Some(newer) => layout::combine(newer, &record).map_err(damaged)?,
                            None => record.to_vec(),
                        });
                    }
                }
            }
            open.retain(|&i| {
                found[i].as_deref().is_none_or(|record| layout::decode(record).is_ok_and(|r| r.appends()))
            });
            if open.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// Reads the keys whose timers were, as some file has it, from `from` (`None`: the first) up to and including `until`, and the time of the
    /// first timer after those. A key's newest record may have another timer.
    pub(super) async fn timers(
        &self,
        objects: &dyn ObjectStore,
        from: Option<EventTime>,
        until: EventTime,
    ) -> Result<(Vec<Vec<u8>>, Option<EventTime>), Error> {
        let files = self.runs.iter().flat_map(|run| &run.files).map(|file| file.timers(objects, from, until));
        let (mut keys, mut next) = (Vec::new(), None);
        for (due, then) in try_join_all(files).await? {
            keys.extend(due);
            next = [next, then].into_iter().flatten().min();
        }
        keys.sort_unstable();
        keys.dedup();
        Ok((keys, next))
    }

    /// The runs to be merged next, if there are some: runs that follow each other, of which no older one is more than twice as large as those
    /// before it together, once they are enough; or the oldest of too many. So a record is written again a number of times that grows with the
    /// logarithm of the state.
    pub(super) fn to_merge(&self) -> Option<Range<usize>> {
        let (least, sizes) = (sizes().merged_runs, self.runs.iter().map(Run::size).collect::<Vec<_>>());
        for start in 0..sizes.len() {
            let (mut sum, mut end) = (sizes[start], start + 1);
            while end < sizes.len() && sizes[end] <= 2 * sum {
                sum += sizes[end];
                end += 1;
            }
            if end - start >= least {
                return Some(start..end);
            }
        }
        (sizes.len() > MOST_RUNS).then(|| sizes.len() - least..sizes.len())
    }
}
