//! Threads on which lanes are opened and folded.

use crate::failure::Failure;
use crate::machine::{self, Thread};

/// Starts a thread for lanes.
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<Thread<T>, Failure> {
    machine::spawn(name, body).map_err(|e| Failure::unexpected(format!("no thread for a lane: {e}")))
}

/// Waits for the end of such a thread. One that has panicked is a failure too.
pub(super) fn join<T>(thread: Thread<Result<T, Failure>>) -> Result<T, Failure> {
    let panicked =
        || Failure::unexpected("a lane ended by a panic: this is a bug; its state is as of the last checkpoint");
    thread.join().unwrap_or_else(|_| Err(panicked()))
}
