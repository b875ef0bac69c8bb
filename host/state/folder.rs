//! State in a folder: the file system as an object store, with the conditional writes that SlateDB asks for and the file system does not have. A lock
//! on a file makes look and write one step, for all processes that use the folder through this store.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::{Path as Folder, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UpdateVersion,
};
use tokio::sync::Mutex;

/// The file whose lock an update holds.
const LOCK: &str = "updates.lock";

/// A folder as an object store. What it says is written, and the folder that names it, are synced to disk, as D32 demands: what is durable must
/// survive a power cut.
#[derive(Debug)]
pub(super) struct FolderStore {
    files: LocalFileSystem,
    lock: PathBuf,
    /// One update at a time in this process: waiting for the file's lock blocks a thread.
    updating: Mutex<()>,
}

impl FolderStore {
    /// Opens a folder that exists.
    pub(super) fn open(folder: &Folder) -> Result<FolderStore> {
        let files = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        Ok(FolderStore { files, lock: folder.join(LOCK), updating: Mutex::default() })
    }

    /// Replaces an object if it still has this version.
    async fn update(
        &self,
        location: &Path,
        payload: PutPayload,
        (version, mut opts): (UpdateVersion, PutOptions),
    ) -> Result<PutResult> {
        let _alone = self.updating.lock().await;
        let path = self.lock.clone();
        let locked = tokio::task::spawn_blocking(move || lock(path)).await;
        let _lock = locked.map_err(std::io::Error::other).flatten().map_err(|e| generic(e.into()))?;
        let found = self.files.head(location).await?;
        if found.e_tag != version.e_tag {
            let source = "the object was changed since it was read".into();
            return Err(Error::Precondition { path: location.to_string(), source });
        }
        opts.mode = PutMode::Overwrite;
        self.files.put_opts(location, payload, opts).await
    }
}

/// Waits for the lock, which ends with the file. A file system without locks has one host (it is the operator's to see to that), so none is needed.
fn lock(path: PathBuf) -> std::io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match file.lock() {
        Err(e) if e.kind() != std::io::ErrorKind::Unsupported => Err(e),
        _ => Ok(file),
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic { store: "folder", source }
}

impl fmt::Display for FolderStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FolderStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match &opts.mode {
            PutMode::Update(version) => self.update(location, payload, (version.clone(), opts)).await,
            PutMode::Create | PutMode::Overwrite => self.files.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(&self, to: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.files.put_multipart_opts(to, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.files.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_replaced_only_if_it_is_still_the_one_that_was_read() {
        let dir = tempfile::tempdir().expect("there is a folder for temporary files");
        let (store, other) =
            (FolderStore::open(dir.path()).expect("opens"), FolderStore::open(dir.path()).expect("opens"));
        let runtime = crate::state::objects::runtime().expect("threads can be had");
        let at = Path::from("gc/manifest.boundary");
        let update = |store: &FolderStore, tag: &PutResult, bytes: &'static str| {
            let version = UpdateVersion { e_tag: tag.e_tag.clone(), version: tag.version.clone() };
            runtime.block_on(store.put_opts(&at, bytes.into(), PutMode::Update(version).into()))
        };
        let first = runtime.block_on(store.put(&at, "1".into())).expect("is written");
        let second = update(&store, &first, "two").expect("nobody changed it");
        assert!(matches!(update(&other, &first, "zwei"), Err(Error::Precondition { .. })));
        update(&other, &second, "three").expect("nobody changed it");
        let read = runtime.block_on(async { store.get(&at).await?.bytes().await });
        assert_eq!(read.expect("is there"), "three");
        let version = UpdateVersion { e_tag: first.e_tag, version: None };
        let none = Path::from("none");
        let missing = store.put_opts(&none, "1".into(), PutMode::Update(version).into());
        assert!(matches!(runtime.block_on(missing), Err(Error::NotFound { .. })));
        assert!(format!("{store:?}").contains("fsync: true"), "it is synced");
    }
}
