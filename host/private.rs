//! who may read what the host writes: state, journal, dead letters and caches hold other people's data, so they are for its user alone; rows are
//! for readers, with the permissions that the user's umask gives.

#![allow(clippy::useless_conversion, reason = "the type of modes is narrower than 32 bits on some systems")]

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

/// Nobody but the owner.
const OWNER_ONLY: libc::mode_t = 0o077;

/// The umask with which the program was started.
static UMASK: OnceLock<libc::mode_t> = OnceLock::new();

/// From now on, what this process creates is for its user alone. Called by the program, before it has other threads.
pub(crate) fn keep_private() {
    // SAFETY: it takes a number, and cannot fail.
    let former = unsafe { libc::umask(OWNER_ONLY) };
    // It may be set already, to what the user wanted.
    let _ = UMASK.set(former);
}

/// Creates a file for others to read, as far as the user's umask allows, unless it exists. Does nothing in a process that keeps nothing
/// private. Whoever opens the file next finds out if it cannot be created.
pub(crate) fn create_readable(path: &Path) {
    let Some(umask) = UMASK.get() else { return };
    if OpenOptions::new().write(true).create_new(true).open(path).is_ok() {
        // A file that stays private can be read by its user at least.
        let _ = std::fs::set_permissions(path, Permissions::from_mode(u32::from(0o666 & !umask)));
    }
}

/// Returns the mode of a file or folder that others than its user can read; none if it is not there.
pub(crate) fn readable_by_others(path: &Path) -> Option<u32> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & u32::from(OWNER_ONLY) != 0).then_some(mode)
}
