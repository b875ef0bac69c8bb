//! Which form a lane's databases have on an object store: a journal is a chain of objects, keyed state is SlateDB's.

use std::sync::Arc;

use object_store::ObjectStore;
use tokio::runtime::Handle;

use crate::state::chained::Chained;
use crate::state::database::{Database, Databases, Entries, Error};
use crate::state::objects::delete_under;
use crate::state::slate::Slate;

/// The databases on an object store.
pub struct ObjectDatabases {
    objects: Arc<dyn ObjectStore>,
    runtime: Handle,
}

impl ObjectDatabases {
    /// The databases on `objects`, whose requests run on `runtime`.
    pub fn new(objects: Arc<dyn ObjectStore>, runtime: Handle) -> ObjectDatabases {
        ObjectDatabases { objects, runtime }
    }
}

/// Whether the database at a path is a journal.
fn is_journal(path: &str) -> bool {
    path.starts_with("log/")
}

impl Databases for ObjectDatabases {
    fn open(&self, path: &str) -> Result<Arc<dyn Database>, Error> {
        if is_journal(path) {
            return Ok(Arc::new(Chained::open(&self.objects, path, &self.runtime)?));
        }
        Ok(Arc::new(Slate::open(Arc::clone(&self.objects), path, self.runtime.clone())?))
    }

    fn reader(&self, path: &str) -> Result<Option<Box<dyn Entries>>, Error> {
        if is_journal(path) {
            let found = Chained::reader(&self.objects, path, &self.runtime)?;
            return Ok(found.map(|found| Box::new(found) as Box<dyn Entries>));
        }
        let found = Slate::open_reader(&self.objects, path, &self.runtime)?;
        Ok(found.map(|found| Box::new(found) as Box<dyn Entries>))
    }

    fn delete(&self, path: &str) -> Result<(), Error> {
        let deleted = self.runtime.block_on(delete_under(&self.objects, path));
        deleted.map(drop).map_err(|e| Error::Outside(format!("state.url: {path} cannot be deleted: {e}")))
    }
}
