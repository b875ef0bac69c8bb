//! `keyfold run --watch FILE`, for development: each time the file changes it is ordered as the pipeline's plugin, within the running host.
//! A file that is refused is told and changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::deployment::Author;
use crate::failure::{Exit, Failure};
use crate::report;
use crate::rollout::order::{self, PluginFile, Request};

/// How often the file is looked at; it counts as written when two looks find the same.
const LOOK: Duration = Duration::from_millis(50);

/// What tells one version of a file from another.
type Version = Option<(SystemTime, u64)>;

/// Watches `file` on a thread of its own, until `stop` is raised.
pub fn watch(config: &Config, file: &Path, stop: &Arc<AtomicBool>) -> Result<(), Failure> {
    let (config, file, stop) = (config.clone(), file.to_owned(), Arc::clone(stop));
    let ordered = version(&file);
    let body = move || follow(&config, &file, ordered, &stop);
    let thread = std::thread::Builder::new().name("watch".into()).spawn(body);
    thread.map(drop).map_err(|e| Failure::new(Exit::Unexpected, format!("no thread to watch a file: {e}")))
}

fn follow(config: &Config, file: &Path, mut ordered: Version, stop: &AtomicBool) {
    let mut before = ordered;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
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
    let author = Author { by: None, reason: Some("the watched file was changed".into()) };
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
