//! Who folds a lane, as the lane's own host wrote at its start: for people. What decides is the fence around the lane's databases.
//!
//! | object | what it is |
//! |---|---|
//! | `log/owners/<lane>.json` | the last host that opened the lane |

use serde::{Deserialize, Serialize};

use super::log::json;
use crate::clock;
use crate::deployment::PipelineLog;
use crate::failure::Failure;
use crate::record::iso;

/// A host that opened a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The machine's name; in a container, the container's.
    pub host: String,
    /// The process there.
    pub process: u32,
    /// When it opened the lane, ms since 1970 by its clock.
    pub since_ms: i64,
    /// Its version of keyfold.
    pub version: String,
}

impl Owner {
    /// This process, from now on.
    fn this() -> Owner {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
        let host = if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Owner { host, process: std::process::id(), since_ms: clock::now_ms(), version }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Owner { host, process, since_ms, version } = self;
        write!(f, "host {host}, process {process}, keyfold {version}, since {}", iso(*since_ms))
    }
}

impl PipelineLog {
    /// This process has opened the lane.
    pub fn own(&self, lane: &str) -> Result<(), Failure> {
        self.put(&path(lane), json(&Owner::this()))
    }

    /// The last host that opened the lane.
    pub fn owner(&self, lane: &str) -> Result<Option<Owner>, Failure> {
        self.read(&path(lane))
    }
}

fn path(lane: &str) -> String {
    format!("log/owners/{lane}.json")
}
