//! The object store that `state.url` names, and the async runtime for its requests.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;

use super::bucket;
use crate::failure::{Exit, Failure};
use crate::paths::create_folder;

/// Opens the object store that `state.url` names. A folder is created, and survives a power cut (D32).
pub(crate) fn objects(url: &url::Url) -> Result<Arc<dyn ObjectStore>, Failure> {
    if url.scheme() != "file" {
        return bucket::open(url).map_err(|e| Failure::new(Exit::Config, format!("state.url: cannot open {url}: {e}")));
    }
    let folder = url.to_file_path().map_err(|()| {
        Failure::new(
            Exit::Config,
            format!("state.url: cannot open {url}: it is not a path on this host; use file:///path"),
        )
    })?;
    let refused = |e: &dyn std::fmt::Display| {
        Failure::new(Exit::Outside, format!("state.url: cannot use the folder {}: {e}", folder.display()))
    };
    create_folder(&folder).map_err(|e| refused(&e))?;
    let files = LocalFileSystem::new_with_prefix(&folder).map_err(|e| refused(&e))?;
    Ok(Arc::new(files.with_fsync(true)))
}

/// The presence of hosts on a folder of state: a lock on a file in it, which all hosts share, and which `keyfold reset` excludes.
#[derive(Debug)]
pub(crate) struct Presence(#[expect(dead_code, reason = "the lock ends with it")] File);

impl Presence {
    /// Announces a host. Waits while the state is being reset. None in a bucket, which has no locks.
    pub(crate) fn announce(url: &url::Url) -> Result<Option<Presence>, Failure> {
        let Some((file, path)) = Presence::file(url)? else { return Ok(None) };
        match file.lock_shared() {
            Err(e) if e.kind() != io::ErrorKind::Unsupported => Err(cannot_lock(&path, &e)),
            _ => Ok(Some(Presence(file))),
        }
    }

    /// Excludes hosts as long as the value lives. Refuses if there is one. None in a bucket.
    pub(crate) fn exclude(url: &url::Url) -> Result<Option<Presence>, Failure> {
        let Some((file, path)) = Presence::file(url)? else { return Ok(None) };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Failure::state(format!(
                "state.url: a host is running on {url}; stop it first, since it would write its checkpoints again"
            ))),
            Err(TryLockError::Error(e)) if e.kind() != io::ErrorKind::Unsupported => Err(cannot_lock(&path, &e)),
            _ => Ok(Some(Presence(file))),
        }
    }

    fn file(url: &url::Url) -> Result<Option<(File, PathBuf)>, Failure> {
        if url.scheme() != "file" {
            return Ok(None);
        }
        let Ok(folder) = url.to_file_path() else { return Ok(None) };
        let path = folder.join("hosts.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        Ok(Some((file.map_err(|e| cannot_lock(&path, &e))?, path)))
    }
}

fn cannot_lock(path: &Path, error: &io::Error) -> Failure {
    Failure::outside(format!("state.url: cannot lock {}: {error}; give this user write access", path.display()))
}

/// Lists all objects under a path.
pub(crate) async fn listed(
    objects: &dyn ObjectStore,
    path: &str,
) -> Result<Vec<object_store::path::Path>, object_store::Error> {
    let path = object_store::path::Path::from(path);
    objects.list(Some(&path)).map_ok(|object| object.location).boxed().try_collect().await
}

/// Deletes all objects under a path. Returns how many there were.
pub(crate) async fn delete_under(objects: &Arc<dyn ObjectStore>, path: &str) -> Result<usize, object_store::Error> {
    let found = listed(&**objects, path).await?;
    for location in &found {
        objects.delete(location).await?;
    }
    Ok(found.len())
}

/// Threads that wait for a disk, at most: a thousand lanes ask for their files at the same moment, and a disk does not get faster by it.
const AT_THE_DISK: usize = 12;

/// Starts the async runtime on which the clients of the object store and of CQL run.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let built = runtime.worker_threads(2).max_blocking_threads(AT_THE_DISK).enable_all().build();
    built.map_err(|e| Failure::new(Exit::Unexpected, format!("cannot start the runtime: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_share_a_folder_and_a_reset_is_refused_beside_them() {
        let dir = tempfile::tempdir().expect("there is a folder for temporary files");
        let url = url::Url::from_file_path(dir.path()).expect("it is absolute");
        let (first, second) = (Presence::announce(&url), Presence::announce(&url));
        assert!(matches!((&first, &second), (Ok(Some(_)), Ok(Some(_)))));
        let refused = Presence::exclude(&url).expect_err("there are two");
        assert_eq!(refused.exit, Exit::State);
        assert!(refused.message.contains("a host is running on file://"), "{refused}");
        drop((first, second));
        assert!(Presence::exclude(&url).expect("nobody is there").is_some());
        let bucket = url::Url::parse("s3://bucket/path").expect("it is one");
        assert!(Presence::announce(&bucket).expect("there is no lock").is_none());
    }
}
