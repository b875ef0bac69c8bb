//! Which dead letters were sent into a log again, so that a second redrive leaves them out. A redrive is noted before its first record is
//! sent and once more when all are acknowledged: one that was broken off may have sent any part of what it names.
//!
//! | object | what it is |
//! |---|---|
//! | `log/redriven/<n>.json` | redrive n, counted from 0; put if there is none, so that of two which plan at once one is refused |

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::log::json;
use crate::deployment::PipelineLog;
use crate::failure::Failure;

/// One `keyfold dead-letters redrive`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redrive {
    /// When it began, ms since 1970.
    pub at_ms: i64,
    /// Where the records went.
    pub to: String,
    /// Partition and offset of each record as it was read first.
    pub records: Vec<(u32, u64)>,
    /// Whether all of them were acknowledged.
    pub is_done: bool,
}

impl PipelineLog {
    /// All redrives of this pipeline, the first one first.
    pub fn redrives(&self) -> Result<Vec<Redrive>, Failure> {
        let mut paths = self.paths(&Path::from("log/redriven"))?;
        paths.sort();
        let mut found = Vec::new();
        for path in paths {
            found.extend(self.read(path.as_ref())?);
        }
        Ok(found)
    }

    /// Notes that redrive `n` begins; false if another one has that number.
    pub fn begin_redrive(&self, n: usize, redrive: &Redrive) -> Result<bool, Failure> {
        self.put_once(&path(n), json(redrive))
    }

    /// Notes that redrive `n` is done.
    pub fn end_redrive(&self, n: usize, redrive: &Redrive) -> Result<(), Failure> {
        self.put(&path(n), json(redrive))
    }
}

fn path(n: usize) -> String {
    format!("log/redriven/{n:020}.json")
}
