//! The metrics of keyed state, journal and checkpoints.

use crate::observe::metrics::{Kind, Metric, NONE, count, gauge, host, micros, seconds};
use crate::observe::process;

/// The metrics.
pub(super) const METRICS: &[Metric] = &[
    gauge("keyfold_open_keys", "keys with state as of the last checkpoint, in memory or not", |lane, _, out| {
        out.number(lane.keys.get())
    }),
    gauge("keyfold_state_bytes", "size of keys, values and list items as of the last checkpoint", |lane, _, out| {
        out.number(lane.state_bytes.get());
    }),
    gauge(
        "keyfold_largest_key_bytes",
        "size of the largest key with its value and list items in any checkpoint since the start; plugin.state_bytes limits it",
        |lane, _, out| out.number(lane.largest_key.get()),
    ),
    gauge(
        "keyfold_state_memory_bytes",
        "memory of keys and of what is kept of the files of state; `state.memory` bounds the sum over all lanes of a host",
        |lane, _, out| out.number(lane.memory.bytes.get()),
    ),
    gauge("keyfold_state_memory_keys", "keys in memory", |lane, _, out| out.number(lane.memory.keys.get())),
    count(
        "keyfold_state_keys_read_total",
        "keys read from the store because a record or timer met them and they were not in memory",
        |lane, _, out| out.number(lane.memory.read.get()),
    ),
    count("keyfold_state_keys_evicted_total", "keys evicted from memory because of `state.memory`", |lane, _, out| {
        out.number(lane.memory.evicted.get());
    }),
    count("keyfold_journal_writes_total", "journal writes", |lane, _, out| out.number(lane.journal.writes.get())),
    count("keyfold_journal_written_bytes_total", "size of all journal writes", |lane, _, out| {
        out.number(lane.journal.written_bytes.get());
    }),
    count("keyfold_journal_compactions_total", "journal writes of all that it holds", |lane, _, out| {
        out.number(lane.journal.compactions.get());
    }),
    gauge("keyfold_journal_bytes", "size of all journal entries", |lane, _, out| out.number(lane.journal.bytes.get())),
    count("keyfold_checkpoints_total", "checkpoints written", |lane, _, out| out.number(lane.checkpoints.get())),
    gauge(
        "keyfold_checkpoint_age_seconds",
        "time since a checkpoint last covered everything that the lane has done; small while the lane is idle",
        |lane, view, out| out.known(lane.covered.get().map(|at| seconds(view.now_ms.saturating_sub(at).max(0)))),
    ),
    gauge(
        "keyfold_checkpoint_duration_seconds",
        "time from the beginning of the last checkpoint until it was durable; the lane folds on meanwhile",
        |lane, _, out| out.value(&[], micros(lane.checkpoint_us.get())),
    ),
    gauge("keyfold_checkpoint_bytes", "size of what the last checkpoint has written of keys", |lane, _, out| {
        out.number(lane.checkpoint_bytes.get());
    }),
    host(
        "keyfold_state_disk_free_bytes",
        NONE,
        "what can still be written to the file system of the state; omitted for a bucket",
        |view, out| out.known(view.board.state_folder.get().and_then(|folder| process::free_bytes(folder))),
    ),
    host("keyfold_state_up", NONE, "0 during an outage of the state store (`state.url`), else 1", |view, out| {
        out.up(Some(view.board.state()));
    }),
    Metric {
        kind: Kind::Counter,
        ..host(
            "keyfold_state_retries_total",
            NONE,
            "failed requests to the state store that were retried",
            |view, out| {
                out.value(&[], view.board.state().retries() as f64);
            },
        )
    },
];
