//! `keyfold run --watch FILE`, for development: each time the file changes, the running host deploys it. A refused file is logged and
//! changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::backoff;
use crate::config::Config;
use crate::deployment::Author;
use crate::failure::{Exit, Failure};
use crate::report;
use crate::rollout::order::{self, PluginFile, Request};

/// How often the file is checked; a write is complete when two checks find the same version.
const LOOK: Duration = Duration::from_millis(50);

/// Distinguishes versions of a file: its modification time and its length.
type Version = Option<(SystemTime, u64)>;

/// Watches `file` on a separate thread until `stop` is set.
pub fn watch(config: &Config, file: &Path, stop: &Arc<AtomicBool>) -> Result<(), Failure> {
    let (config, path, stop) = (config.clone(), file.to_owned(), Arc::clone(stop));
    let ordered = version(file);
    let body = move || follow(&config, &path, ordered, &stop);
    let thread = std::thread::Builder::new().name("watch".into()).spawn(body);
    thread
        .map(drop)
        .map_err(|e| Failure::new(Exit::Unexpected, format!("cannot start a thread to watch {}: {e}", file.display())))
}

fn follow(config: &Config, file: &Path, mut ordered: Version, stop: &AtomicBool) {
    let mut before = ordered;
    while !stop.load(Ordering::Relaxed) {
        backoff::pause(LOOK);
        let now = version(file);
        if now.is_some() && now == before && now != ordered {
            ordered = now;
            order(config, file);
        }
        before = now;
    }
}

fn version(file: &Path) -> Version {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn order(config: &Config, file: &Path) {
    let author = Author { by: None, reason: Some("the watched file changed".into()) };
    let plugin = Some(PluginFile::Named(file.to_string_lossy().into_owned()));
    match order::deploy(config, &Request { plugin, author, ..Request::default() }) {
        Ok(ordered) => match ordered.order {
            Some(order) => tracing::info!(event = "watched-file-deployed", %order, "watched file deployed"),
            None => {
                let checks = report::check_lines(&ordered.checks);
                tracing::warn!(event = "watched-file-refused", checks, "watched file refused");
            }
        },
        Err(failure) => tracing::warn!(event = "watched-file-refused", %failure, "watched file refused"),
    }
}
