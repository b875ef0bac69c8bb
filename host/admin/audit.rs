//! the audit log: a line for each request that changes something, before it is performed and after, and for refused tokens. It is only appended
//! to; what it says is what the server knows, apart from the name that a client claims.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::append_file::ends_with_line_break;
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::paths::{refuse_pipe_or_device, sync_name};
use crate::printable::printable;
use crate::record::iso;

/// The log, if one is kept.
pub(super) struct Audit {
    file: Option<Mutex<File>>,
    requests: AtomicU64,
}

/// What a request wanted, as its handler knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// Who asks: how they were authenticated, and the name that they claim.
    pub(super) by: Option<String>,
    /// Why.
    pub(super) reason: Option<String>,
}

impl Audit {
    /// Opens the log at this path, or none.
    pub(super) fn open(path: Option<&Path>) -> Result<Audit, Failure> {
        path.map_or(Ok(()), check)?;
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(path);
            let ready = file.and_then(|file| sync_name(path).and_then(|()| end_line(file)));
            ready.map(Mutex::new).map_err(|error| cannot_append(path, &error))
        };
        Ok(Audit { file: path.map(open).transpose()?, requests: AtomicU64::new(0) })
    }

    /// Notes a request before it is performed; returns its number. If that fails, the request must not be performed.
    pub(super) fn asked(&self, method: &str, path: &str, token: Option<&str>) -> Result<u64, std::io::Error> {
        let n = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        self.write(&json!({"event": "asked", "request": n, "method": method, "path": path, "token": token}))?;
        Ok(n)
    }

    /// Notes what came of it.
    pub(super) fn answered(&self, n: u64, status: u16, asked: &Asked) {
        let Asked { by, reason } = asked;
        tracing::info!(event = "admin-change", request = n, status, by, reason, "admin request answered");
        self.must(&json!({"event": "answered", "request": n, "status": status, "by": by, "reason": reason}));
    }

    /// Notes a refused request, the `n`th one so far.
    pub(super) fn refused(&self, method: &str, path: &str, status: u16, n: u64) {
        self.must(&json!({"event": "refused", "refused": n, "method": method, "path": path, "status": status}));
    }

    fn must(&self, line: &Value) {
        if let Err(error) = self.write(line) {
            tracing::error!(event = "audit-failed", %error, "cannot append to admin.audit_log");
        }
    }

    fn write(&self, line: &Value) -> std::io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut whole = json!({"at": iso(clock::now_ms()), "process": std::process::id()});
        if let (Value::Object(whole), Value::Object(line)) = (&mut whole, line) {
            whole.extend(line.clone());
        }
        let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // One write a line: the file is opened to append, and another host may write it too.
        file.write_all(format!("{}\n", printable(&whole.to_string())).as_bytes())?;
        file.sync_data()
    }
}

/// Looks whether the log can be opened, and creates nothing.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    refuse_pipe_or_device(path, "each line is synced")
        .map_err(|why| Failure::new(Exit::Config, format!("admin.audit_log: {why}")))?;
    match OpenOptions::new().append(true).read(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => Ok(()),
        opened => opened.map(drop).map_err(|error| cannot_append(path, &error)),
    }
}

fn cannot_append(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Config, format!("cannot append to admin.audit_log {}: {error}", path.display()))
}

/// A line that was broken off gets a line break, so that the next one stands on a line of its own.
fn end_line(mut file: File) -> std::io::Result<File> {
    if !ends_with_line_break(&file, file.metadata()?.len())? {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_broken_off_takes_no_other_with_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("audit.ndjson");
        assert_eq!(check(&path), Ok(()));
        for n in 1..=2 {
            let audit = Audit::open(Some(&path)).expect("opens");
            audit.asked("POST", "/v1/withdraw", None).expect("writes");
            let text = std::fs::read_to_string(&path).expect("it is there");
            let whole = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
            assert_eq!((whole, text.lines().count()), (n, 2 * n - 1), "{text}");
            std::fs::write(&path, format!("{text}{{\"at\":")).expect("writable");
        }
        let absent = check(&folder.path().join("absent/audit.ndjson")).expect_err("has no folder");
        assert!(absent.message.starts_with("cannot append to admin.audit_log "), "{absent}");
    }
}
