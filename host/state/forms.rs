//! The lanes' journals on an object store.

use std::sync::Arc;

use object_store::ObjectStore;
use tokio::runtime::Handle;

use crate::state::chained::Chained;
use crate::state::database::{Database, Databases, Error};

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

impl Databases for ObjectDatabases {
    fn open(&self, path: &str) -> Result<Arc<dyn Database>, Error> {
        Ok(Arc::new(Chained::open(&self.objects, path, &self.runtime)?))
    }
}
