//! Writing files of keyed state: those of a checkpoint, and those that come of merging others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::state::database::Error;
use crate::state::file::{Builder, FileInfo, sizes};
use crate::state::layout;
use crate::state::merge::{Files, Merge};
use crate::state::store::{folder, unreadable};

/// Names of files: no other opening of the store uses them.
pub(super) struct Names {
    opening: u64,
    next: AtomicU64,
}

impl Names {
    /// Those of the opening with this number.
    pub(super) fn of(opening: u64) -> Names {
        Names { opening, next: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        format!("{:010}-{:010}", self.opening, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Merges runs into one. If they are the oldest, nothing is kept of keys without state.
pub(super) async fn merged(
    objects: &Arc<dyn ObjectStore>,
    (path, names): (&str, &Names),
    runs: impl Iterator<Item = Files>,
    are_oldest: bool,
) -> Result<Vec<FileInfo>, Error> {
    let mut merge = Merge::new(objects, runs, &[]);
    let mut files = Writing::new(&**objects, path, names);
    while let Some((key, record)) = merge.next().await? {
        let is_deleted = layout::decode(&record).map_err(|e| unreadable(path, &key, e))?.is_deleted();
        if !(are_oldest && is_deleted) {
            files.push(&key, &record).await?;
        }
    }
    files.finish().await
}

/// Files of one run that are being written, each of about [`Sizes::file`](super::file::Sizes).
pub(super) struct Writing<'a> {
    objects: &'a dyn ObjectStore,
    path: &'a str,
    names: &'a Names,
    builder: Builder,
    files: Vec<FileInfo>,
}

impl<'a> Writing<'a> {
    pub(super) fn new(objects: &'a dyn ObjectStore, path: &'a str, names: &'a Names) -> Writing<'a> {
        Writing { objects, path, names, builder: Builder::new(), files: Vec::new() }
    }

    pub(super) async fn push(&mut self, key: &[u8], record: &[u8]) -> Result<(), Error> {
        self.builder.push(key, record).map_err(|e| unreadable(self.path, key, e))?;
        if self.builder.size() >= sizes().file {
            self.end_file().await?;
        }
        Ok(())
    }

    async fn end_file(&mut self) -> Result<(), Error> {
        let (info, bytes) = std::mem::replace(&mut self.builder, Builder::new()).finish(self.names.next());
        let location = Path::from(format!("{}/{}", folder(self.path), info.name));
        let put = self.objects.put(&location, bytes.into()).await;
        put.map_err(|e| Error::Outside(format!("state.url: cannot write {location}: {e}")))?;
        self.files.push(info);
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<Vec<FileInfo>, Error> {
        if !self.builder.is_empty() {
            self.end_file().await?;
        }
        Ok(self.files)
    }
}
