//! Stopping: what a signal asks of a host, and the limit within which the process ends whatever its threads are doing. Owns the thread that
//! hears signals; knows nothing of lanes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::backoff;
use crate::failure::{Exit, Failure};
use crate::observe::board::{Board, Phase};

/// How long lanes may take to drain and to write a checkpoint; then the process ends as if it had been killed, which changes no row.
const LIMIT: Duration = Duration::from_millis(9_500);
/// How long the process waits for its last log line: whoever reads standard error may have stopped reading.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Hears SIGTERM, SIGINT and SIGHUP from now on, on a thread of its own: the host's other threads may be busy or stuck.
pub(super) fn on_signals(board: &Arc<Board>) -> Result<(), Failure> {
    let refused = |e: std::io::Error| Failure::new(Exit::Unexpected, format!("cannot listen for signals: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(refused)?;
    let signals = {
        let _inside = runtime.enter();
        kinds().into_iter().map(signal).collect::<Result<Vec<Signal>, _>>().map_err(refused)?
    };
    let board = Arc::downgrade(board);
    let body = move || {
        runtime.block_on(any(signals));
        if let Some(board) = board.upgrade() {
            stop(board.phase(), board.stop());
        }
        runtime.block_on(std::future::pending::<()>()); // more signals change nothing
    };
    thread::Builder::new().name("signals".into()).spawn(body).map(drop).map_err(refused)
}

/// A hang-up is left out for a process that was started to ignore it, as `nohup` does.
fn kinds() -> Vec<SignalKind> {
    let mut kinds = vec![SignalKind::terminate(), SignalKind::interrupt()];
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !ignores_hang_up(&status) {
        kinds.push(SignalKind::hangup());
    }
    kinds
}

/// Whether SIGHUP, signal 1, is among those that `/proc/self/status` lists as ignored.
fn ignores_hang_up(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Waits for any of these.
async fn any(mut signals: Vec<Signal>) {
    std::future::poll_fn(|context| {
        let received = signals.iter_mut().any(|signal| signal.poll_recv(context) == Poll::Ready(Some(())));
        if received { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Asks the lanes to stop, and sees to it that the process ends. A host that is still starting has nothing to drain, so it ends at once.
fn stop(phase: Phase, stop: &AtomicBool) {
    if let Phase::Starting(what) = phase {
        say(move || tracing::info!(event = "stopped-while-starting", what, "stopped before anything was folded"));
        exit();
    }
    stop.store(true, Ordering::Relaxed);
    thread::spawn(|| tracing::info!(event = "stopping", "stopping: draining, then writing a final checkpoint"));
    backoff::pause(LIMIT);
    say(|| {
        tracing::warn!(
            event = "stop-forced",
            "stopped without a final checkpoint, since the lanes did not end in time; the next start resumes from the last checkpoint"
        )
    });
    exit();
}

/// Logs from a thread of its own, and does not wait long for it.
fn say(line: impl FnOnce() + Send + 'static) {
    let said = thread::spawn(line);
    let mut waited = Duration::ZERO;
    while !said.is_finished() && waited < LAST_WORDS {
        backoff::pause(Duration::from_millis(5));
        waited += Duration::from_millis(5);
    }
}

/// Ends the process without running anything on the way out: a library's own farewell may wait for a thread that is stuck.
fn exit() -> ! {
    // SAFETY: `_exit` takes any number, touches no memory of this process and does not return.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hang_up_is_heeded_unless_the_process_was_started_to_ignore_it() {
        assert!(!ignores_hang_up("Name:\tkeyfold\nSigIgn:\t0000000000001000\n"));
        assert!(ignores_hang_up("Name:\tkeyfold\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hang_up(""), "systems without /proc");
    }
}
