//! the audit log: a line for each request that changes something, before it is performed and after, and for refused tokens. It is only appended
//! to; what it says is what the server knows, apart from the name that a client claims.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::clock;
use crate::failure::{Exit, Failure};
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
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
            file.map(Mutex::new).map_err(|error| {
                Failure::new(Exit::Config, format!("cannot append to admin.audit_log {}: {error}", path.display()))
            })
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
