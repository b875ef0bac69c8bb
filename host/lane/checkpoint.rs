//! Checkpoints of a lane: when one is due, what it describes, and how long the sink is waited for. The order of its effects is `lane.rs`'s.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::event_time::LaneTime;
use crate::failure::Failure;
use crate::lane::context::Context;
use crate::lane::interrupt::Interrupt;
use crate::sink::writer::Lengths;
use crate::source::merge::Merge;
use crate::state::checkpoint::{Checkpoint, FORMAT, Head, PartitionProgress};

/// How long a stopping lane waits for the sink to acknowledge.
const DRAIN: Duration = Duration::from_secs(8);

/// When the next checkpoint is due, and whether there is anything to write.
pub(super) struct Checkpoints {
    interval: Duration,
    /// `state.lane_bytes`
    most_bytes: Option<u64>,
    due_at: Duration,
    dirty: bool,
    written: u64,
}

impl Checkpoints {
    /// Creates a schedule of one checkpoint per `interval` from now on.
    pub(super) fn new(interval: Duration, most_bytes: Option<u64>, context: &Context) -> Checkpoints {
        Checkpoints { interval, most_bytes, due_at: context.clock.monotonic() + interval, dirty: false, written: 0 }
    }

    /// When the next one is due, on the clock's monotonic time.
    pub(super) fn due_at(&self) -> Duration {
        self.due_at
    }

    /// Whether one is due.
    pub(super) fn is_due(&self, context: &Context) -> bool {
        context.clock.monotonic() >= self.due_at
    }

    /// Notes that something happened that the last checkpoint does not cover.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    /// Sets when the next one is due. Returns whether there is anything to write now.
    pub(super) fn begin(&mut self, context: &Context) -> bool {
        self.due_at = context.clock.monotonic() + self.interval;
        self.dirty
    }

    /// Notes that one was written.
    pub(super) fn end(&mut self) {
        self.dirty = false;
        self.written += 1;
    }

    /// Fails if the lane's state, as a checkpoint has kept it, is larger than it may be. That is a limit of the host, and decides no row.
    pub(super) fn check_state(&self, bytes: u64) -> Result<(), Failure> {
        match self.most_bytes {
            Some(most) if bytes > most => Err(Failure::state(format!(
                "the lane's state has {bytes} bytes, but state.lane_bytes is {most}: its last checkpoint has kept it, and no row is wrong; raise \
                 the limit to go on, or deploy a plugin that keeps less"
            ))),
            _ => Ok(()),
        }
    }

    /// How many were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }
}

/// Describes how far the lane has come.
pub(super) fn describe(
    merge: &Merge,
    time: LaneTime,
    (deployment, journal): (u64, Head),
    lengths: Lengths,
) -> Checkpoint {
    let progress = merge.resume().into_iter().filter_map(|(partition, resume)| {
        Some((partition, PartitionProgress { envelope: resume.envelope?, last: resume.last? }))
    });
    Checkpoint {
        format: FORMAT,
        partitions: progress.collect::<BTreeMap<_, _>>(),
        last: merge.last(),
        time,
        deployment,
        sink_length: lengths.sink,
        letters_length: lengths.letters,
        journal: Some(journal),
    }
}

/// How long to wait for the sink: without a limit, or for [`DRAIN`] after a stop, or not at all if the lane rewinds.
pub(super) struct Patience<'a> {
    context: &'a Context,
    stopped_at: Cell<Option<Duration>>,
}

impl Patience<'_> {
    /// Starts waiting.
    pub(super) fn new(context: &Context) -> Patience<'_> {
        Patience { context, stopped_at: Cell::new(None) }
    }

    /// Whether to keep waiting.
    pub(super) fn lasts(&self) -> bool {
        let Context { clock, signals, .. } = self.context;
        if signals.rewind_requested() {
            return false;
        }
        if !signals.stop_requested() {
            return true;
        }
        let now = clock.monotonic();
        let stopped_at = self.stopped_at.get().unwrap_or(now);
        self.stopped_at.set(Some(stopped_at));
        now.saturating_sub(stopped_at) < DRAIN
    }

    /// Why it ended.
    pub(super) fn ended(&self) -> Interrupt {
        if self.context.signals.rewind_requested() { Interrupt::Rewind } else { Interrupt::Abandoned }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::clock::ManualClock;
    use crate::lane::interrupt::Signals;

    #[test]
    fn the_sink_is_waited_for_until_a_stop_and_then_for_a_bounded_time() {
        let (stop, rewind) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let clock = Arc::new(ManualClock::default());
        let signals = Signals::new(&stop, &rewind);
        let context = Context { name: "test".into(), clock: Arc::clone(&clock) as _, signals, board: Arc::default() };
        let patience = Patience::new(&context);
        clock.advance(Duration::from_secs(3600));
        assert!(patience.lasts(), "an outage is waited for without a bound");
        stop.store(true, Ordering::Relaxed);
        assert!(patience.lasts());
        clock.advance(DRAIN);
        assert!(!patience.lasts());
        assert_eq!(patience.ended(), Interrupt::Abandoned);
        rewind.store(true, Ordering::Relaxed);
        assert!(!Patience::new(&context).lasts());
        assert_eq!(patience.ended(), Interrupt::Rewind);
    }
}
