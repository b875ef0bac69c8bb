//! The object store that `state.url` names, and the async runtime for its requests.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;

use super::bucket;
use crate::failure::{Exit, Failure};

/// Opens the object store that `state.url` names. A folder is created.
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
    std::fs::create_dir_all(&folder).map_err(|e| refused(&e))?;
    Ok(Arc::new(LocalFileSystem::new_with_prefix(&folder).map_err(|e| refused(&e))?))
}

/// Deletes all objects under a path. Returns how many there were.
pub(crate) async fn delete_under(objects: &Arc<dyn ObjectStore>, path: &str) -> Result<usize, object_store::Error> {
    let path = object_store::path::Path::from(path);
    let found: Vec<_> = objects.list(Some(&path)).map_ok(|o| o.location).boxed().try_collect().await?;
    for location in &found {
        objects.delete(location).await?;
    }
    Ok(found.len())
}

/// Starts the async runtime on which the clients of the object store and of CQL run.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|e| Failure::new(Exit::Unexpected, format!("cannot start the runtime: {e}")))
}
