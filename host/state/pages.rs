//! All keys of a checkpoint, page by page, read beside whoever takes them over.

use std::sync::Arc;

use crate::machine::{self, Task};
use crate::state::KeyState;
use crate::state::database::Error;
use crate::state::merge::Merge;
use crate::state::store::{Stores, state_of};
use crate::state::version::Version;

/// Keys of a page.
const PAGE: usize = 16_384;

/// A page of keys with their state and its version.
pub type Page = Vec<(Vec<u8>, KeyState, u32)>;

/// All keys of a checkpoint, page by page, in key order. The next page is read beside the caller.
pub struct Pages {
    stores: Stores,
    path: String,
    task: Option<Task<Result<(Merge, Page), Error>>>,
    merge: Option<Merge>,
    /// Its files are not deleted while they are read.
    _version: Arc<Version>,
}

impl Pages {
    pub(super) fn new(stores: Stores, path: &str, version: &Arc<Version>, from: &[u8]) -> Pages {
        let merge = Merge::new(&stores.objects, version.runs.iter().map(|run| run.files.clone()), from);
        Pages { stores, path: path.to_owned(), task: None, merge: Some(merge), _version: Arc::clone(version) }
    }

    /// Returns the next page, if it is there: empty at the end. With `wait`, waits until it is there.
    pub fn next(&mut self, wait: bool) -> Result<Option<Page>, Error> {
        self.read_ahead()?;
        let Some(task) = self.task.take() else { return Ok(Some(Page::new())) };
        let lost =
            || Error::Outside(format!("the task that reads {} has ended without a result: this is a bug", self.path));
        let read = match wait {
            true => Some(task.wait().ok_or_else(lost)?),
            false => task.take().map_err(|_| lost())?,
        };
        let Some(read) = read else {
            self.task = Some(task);
            return Ok(None);
        };
        let (merge, page) = read?;
        if !page.is_empty() {
            self.merge = Some(merge);
            self.read_ahead()?;
        }
        Ok(Some(page))
    }

    fn read_ahead(&mut self) -> Result<(), Error> {
        let Some(mut merge) = self.merge.take() else { return Ok(()) };
        let path = self.path.clone();
        let work = async move {
            let mut page = Page::new();
            while page.len() < PAGE {
                let Some((key, record)) = merge.next().await? else { break };
                if let Some((state, version)) = state_of(&path, &key, Some(&record))? {
                    page.push((key, state, version));
                }
            }
            Ok((merge, page))
        };
        let begun = machine::background(&self.stores.runtime, work);
        self.task = Some(begun.map_err(|e| Error::Outside(format!("cannot read {}: no thread: {e}", self.path)))?);
        Ok(())
    }
}
