//! A lane's keyed state, read beside the host that owns it: nothing is written, nobody is fenced. What is seen is the last checkpoint.

use std::sync::Arc;

use object_store::ObjectStore;
use tokio::runtime::Handle;

use crate::state::KeyState;
use crate::state::chain::Chain;
use crate::state::checkpoint::Checkpoint;
use crate::state::database::Error;
use crate::state::manifest::Manifest;
use crate::state::pages::Pages;
use crate::state::store::{Stores, folder, last_manifest, manifests, state_of};
use crate::state::version::Version;

/// State that is only read: all of it belongs to one checkpoint.
pub struct Reader {
    stores: Stores,
    path: String,
    manifest: Manifest,
    version: Arc<Version>,
}

/// A key and its state.
pub struct StoredKey {
    /// The key.
    pub key: Vec<u8>,
    /// Its state.
    pub state: KeyState,
    /// The state version of value and list.
    pub version: u32,
}

impl Reader {
    /// Opens the state at `path`, if it exists.
    pub fn open(objects: &Arc<dyn ObjectStore>, path: &str, runtime: &Handle) -> Result<Option<Reader>, Error> {
        let links = runtime.block_on(Chain::read(objects, &manifests(path)))?;
        if links.is_empty() {
            return Ok(None);
        }
        let manifest = last_manifest(path, &links)?;
        let version = Arc::new(Version::of(&manifest.contents, &folder(path), 0));
        let stores = Stores { objects: Arc::clone(objects), runtime: runtime.clone() };
        Ok(Some(Reader { stores, path: path.to_owned(), manifest, version }))
    }

    /// Returns the last checkpoint, if there is one.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.manifest.contents.checkpoint.as_ref()
    }

    /// Reads a key, if it has state.
    pub fn key(&self, key: &[u8]) -> Result<Option<StoredKey>, Error> {
        let record = self.stores.runtime.block_on(self.version.get(&*self.stores.objects, &[key]))?.remove(0);
        let found = state_of(&self.path, key, record.as_deref())?;
        Ok(found.map(|(state, version)| StoredKey { key: key.to_vec(), state, version }))
    }

    /// Reads the first `count` keys.
    pub fn keys(&self, count: usize) -> Result<Vec<StoredKey>, Error> {
        let mut keys = Vec::new();
        self.each(&[], |key| {
            if keys.len() < count {
                keys.push(key);
            }
            keys.len() < count
        })?;
        Ok(keys)
    }

    /// Calls `take` with each key that begins with `prefix`, in key order, until it returns false.
    pub fn each(&self, prefix: &[u8], mut take: impl FnMut(StoredKey) -> bool) -> Result<(), Error> {
        let mut pages = Pages::new(self.stores.clone(), &self.path, &self.version, prefix);
        loop {
            let page = pages.next(true)?.unwrap_or_default();
            if page.is_empty() {
                return Ok(());
            }
            for (key, state, version) in page {
                if !key.starts_with(prefix) || !take(StoredKey { key, state, version }) {
                    return Ok(());
                }
            }
        }
    }
}
