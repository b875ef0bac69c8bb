//! The host in a process of its own, for golden tests: it is the real program, and can be killed.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::backoff;
use crate::failure::Failure;

/// The output of a host that has ended.
pub(super) struct Ended {
    /// Its error message, if it failed.
    pub(super) failure: Option<String>,
    /// Its log lines.
    pub(super) logs: Vec<Value>,
}

/// Runs `keyfold run -c config` until it ends, or kills it after a while.
pub(super) fn run(config: &Path, kill_after: Option<Duration>) -> Result<Ended, Failure> {
    let outside = |error: std::io::Error| Failure::unexpected(format!("cannot run the host: {error}"));
    let mut said = tempfile::tempfile().map_err(outside)?;
    let mut command = Command::new(std::env::current_exe().map_err(outside)?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KEYFOLD_") {
            command.env_remove(name);
        }
    }
    command.arg("run").arg("-c").arg(config).args(["--log-format", "json"]);
    command.env("KEYFOLD_LOG", "warn,keyfold=info,scylla=off,keyfold::plugin_log=debug");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::try_clone(&said).map_err(outside)?);
    let mut host = command.spawn().map_err(outside)?;
    if let Some(moment) = kill_after {
        backoff::pause(moment);
        // The host may have ended already.
        let _ = host.kill();
    }
    let status = host.wait().map_err(outside)?;
    let mut text = String::new();
    said.rewind().and_then(|()| said.read_to_string(&mut text)).map_err(outside)?;
    let logs: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let failure = (kill_after.is_none() && !status.success()).then(|| {
        let last = logs.iter().rev().find(|line| line["level"] == "ERROR").and_then(|line| line["message"].as_str());
        last.map_or_else(|| text.trim().to_owned(), str::to_owned)
    });
    Ok(Ended { failure, logs })
}
