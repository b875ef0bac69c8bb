//! A copy of a pipeline's state and journal, taken while hosts run: of each lane the last checkpoint with its files, then its journal, and then
//! what the lanes share. In this order, whatever a part rests on is in the copy: a checkpoint on its journal, a journal on the deployments
//! that it knows. The pipeline's identity is copied last, and a start refuses state without it, so a copy that was not finished is not used.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt};

use crate::state::chain::Chain;
use crate::state::chained::Chained;
use crate::state::database::Error;
use crate::state::journal;
use crate::state::objects::listed;
use crate::state::store::{folder, last_manifest, manifests};

/// The last object of a copy.
const IDENTITY: &str = "log/pipeline.json";
/// Where the lanes' journals are.
const JOURNALS: &str = "log/lanes";
/// How often a lane is looked at again whose files were deleted by its host while they were copied.
const LOOKS: u32 = 16;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Lanes, with their journals.
    pub lanes: usize,
    /// Objects, besides those of the journals.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Copies the state and the journal of a pipeline with these lanes into a store that has none.
pub async fn copy(from: &Arc<dyn ObjectStore>, to: &Arc<dyn ObjectStore>, lanes: &[String]) -> Result<Copied, Error> {
    let mut copied = Copied { lanes: lanes.len(), ..Copied::default() };
    for lane in lanes {
        copy_state(from, to, &format!("lanes/{lane}"), &mut copied).await?;
    }
    for lane in lanes {
        Chained::copy(from, to, &journal::path(lane)).await?;
    }
    let shared: Vec<Path> = under(from, "log").await?;
    let is_shared = |path: &Path| !path.as_ref().starts_with(JOURNALS) && path.as_ref() != IDENTITY;
    for path in shared.into_iter().filter(is_shared) {
        // A reservation of a former host may be gone by now.
        copy_object(from, to, &path, &mut copied).await?;
    }
    if !copy_object(from, to, &Path::from(IDENTITY), &mut copied).await? {
        return Err(Error::Outside(format!("there is no pipeline to copy: {IDENTITY} is missing")));
    }
    Ok(copied)
}

/// Whether a store has anything of a pipeline.
pub async fn is_empty(objects: &Arc<dyn ObjectStore>) -> Result<bool, Error> {
    for path in ["log", "lanes"] {
        if !under(objects, path).await?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies a lane's last checkpoint, if it has one: its files, and then the manifest that names them.
async fn copy_state(
    from: &Arc<dyn ObjectStore>,
    to: &Arc<dyn ObjectStore>,
    path: &str,
    copied: &mut Copied,
) -> Result<(), Error> {
    for _ in 0..LOOKS {
        let links = Chain::read(from, &manifests(path)).await?;
        if links.is_empty() {
            return Ok(());
        }
        let manifest = last_manifest(path, &links)?;
        let mut is_whole = true;
        for file in manifest.files() {
            let at = Path::from(format!("{}/{}", folder(path), file.name));
            is_whole = copy_object(from, to, &at, copied).await?;
            if !is_whole {
                break; // merged into another one and deleted since
            }
        }
        if is_whole {
            return Chain::copy(to, &manifests(path), manifest.encode().into()).await;
        }
    }
    Err(Error::Outside(format!("{path}: its files were replaced faster than they could be copied; try again")))
}

/// Copies an object. Returns whether it was there.
async fn copy_object(
    from: &Arc<dyn ObjectStore>,
    to: &Arc<dyn ObjectStore>,
    path: &Path,
    copied: &mut Copied,
) -> Result<bool, Error> {
    let failed = |error: StoreError| Error::Outside(format!("cannot copy {path}: {error}"));
    let bytes = match from.get(path).await {
        Ok(found) => found.bytes().await.map_err(failed)?,
        Err(StoreError::NotFound { .. }) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    copied.objects += 1;
    copied.bytes += bytes.len() as u64;
    to.put(path, bytes.into()).await.map_err(failed)?;
    Ok(true)
}

async fn under(objects: &Arc<dyn ObjectStore>, path: &str) -> Result<Vec<Path>, Error> {
    listed(&**objects, path).await.map_err(|e| Error::Outside(format!("cannot list {path}: {e}")))
}
