//! Checkpoints of a lane: when one is due, and how it is taken while the lane goes on. At one moment, a checkpoint begins: the lane notes where it
//! is, puts a barrier behind the rows that it has handed over, and begins a capture of what changed in its keys. Then, between batches, what is
//! captured is written beside the lane, until all of it is there and the sink has acknowledged all that lies before the barrier. Only then does
//! the manifest follow that makes it valid (I2, I3), and after it the offsets.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::backoff;
use crate::event_time::LaneTime;
use crate::failure::Failure;
use crate::lane::Running;
use crate::lane::context::Context;
use crate::lane::interrupt::Interrupt;
use crate::machine::{Planted, plants};
use crate::observe::board::Activity;
use crate::position::{Offset, Partition};
use crate::sink::writer::{Barrier, Lengths};
use crate::source::merge::Merge;
use crate::state::checkpoint::{Checkpoint, FORMAT, Head, PartitionProgress};

/// Keys that are captured between two batches: about a millisecond; more if they take more memory than they may.
const CAPTURE_KEYS: [usize; 2] = [4_096, 32_768];
/// What is captured is written in parts of about this size, bytes.
const PART_BYTES: usize = 8 << 20;
/// The most parts that are written at the same time. While they are, nothing more is captured but what the lane changes.
const MOST_PARTS: usize = 3;
/// How often a lane that waits for a checkpoint looks at it.
const POLL: Duration = Duration::from_millis(1);
/// The part of the interval after which a checkpoint may be taken that is wanted early.
const EARLY: u32 = 8;
/// The shortest and the longest time after which a lane that waits for records looks at a checkpoint that is being written.
const LOOK: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// How long a stopping lane waits for the sink to acknowledge.
const DRAIN: Duration = Duration::from_secs(8);

/// When the next checkpoint is due, and whether there is anything to write.
pub(super) struct Checkpoints {
    interval: Duration,
    /// `state.lane_bytes`
    most_bytes: Option<u64>,
    due_at: Duration,
    /// When the next one may be taken at the earliest, if it is wanted before it is due.
    earliest: Duration,
    dirty: bool,
    written: u64,
    taking: Option<Taking>,
}

/// A checkpoint that is being taken.
struct Taking {
    began: Duration,
    covered_ms: i64,
    /// The next offsets, which it covers.
    next: Vec<(Partition, Offset)>,
    /// Behind the rows that it covers.
    barrier: Barrier,
    lengths: Option<Lengths>,
    is_captured: bool,
    is_committing: bool,
    /// Deployments whose notes of replaced rows are not needed any more once it is durable.
    stale: Vec<u64>,
}

impl Checkpoints {
    /// Creates a schedule of one checkpoint per `interval` from now on.
    pub(super) fn new(interval: Duration, most_bytes: Option<u64>, context: &Context) -> Checkpoints {
        Checkpoints {
            interval,
            most_bytes,
            due_at: context.clock.monotonic() + interval,
            earliest: context.clock.monotonic() + interval / EARLY,
            dirty: false,
            written: 0,
            taking: None,
        }
    }

    /// When the lane has to look at its checkpoints next, on the clock's monotonic time.
    pub(super) fn due_at(&self, context: &Context) -> Duration {
        let now = context.clock.monotonic();
        match &self.taking {
            None => self.due_at,
            Some(taking) if !taking.is_captured => now,
            // The longer it takes, the more seldom: during an outage nothing comes of looking.
            Some(taking) => now + (now.saturating_sub(taking.began) / 8).clamp(LOOK[0], LOOK[1]),
        }
    }

    /// Whether one is due, and none is being taken.
    fn is_due(&self, context: &Context) -> bool {
        self.taking.is_none() && context.clock.monotonic() >= self.due_at
    }

    /// Takes the next one early: what changed since the last one takes too much memory.
    pub(super) fn hasten(&mut self) {
        if self.dirty {
            self.due_at = self.due_at.min(self.earliest);
        }
    }

    /// Notes that something happened that the last checkpoint does not cover.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    /// Sets when the next one is due. Returns whether there is anything to write now.
    fn begin(&mut self, context: &Context) -> bool {
        let now = context.clock.monotonic();
        (self.due_at, self.earliest) = (now + self.interval, now + self.interval / EARLY);
        std::mem::take(&mut self.dirty)
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
fn describe(merge: &Merge, time: LaneTime, (deployment, journal): (u64, Head)) -> Checkpoint {
    let progress = merge.resume().into_iter().filter_map(|(partition, resume)| {
        Some((partition, PartitionProgress { envelope: resume.envelope?, last: resume.last? }))
    });
    Checkpoint {
        format: FORMAT,
        partitions: progress.collect::<BTreeMap<_, _>>(),
        last: merge.last(),
        time,
        deployment,
        sink_length: None,
        letters_length: None,
        journal: Some(journal),
        held: None,
        state_version: None,
    }
}

impl Running {
    /// Goes on with the checkpoint that is being taken, or begins one if it is due.
    pub(super) fn attend_checkpoints(&mut self) -> Result<(), Interrupt> {
        self.go_on_with_checkpoint()?;
        if !self.checkpoints.is_due(&self.context) {
            return Ok(());
        }
        self.begin_checkpoint()?;
        if self.checkpoints.taking.is_none() {
            self.store.ask_ownership()?;
        }
        Ok(())
    }

    /// Takes a checkpoint, and waits until it is durable.
    pub(super) fn last_checkpoint(&mut self) -> Result<(), Interrupt> {
        self.finish_checkpoint()?;
        self.begin_checkpoint()?;
        self.finish_checkpoint()
    }

    /// Waits until the checkpoint that is being taken is durable.
    fn finish_checkpoint(&mut self) -> Result<(), Interrupt> {
        let context = self.context.clone();
        let patience = Patience::new(&context);
        while self.checkpoints.taking.is_some() {
            self.go_on_with_checkpoint()?;
            if self.checkpoints.taking.is_some() {
                if !patience.lasts() {
                    return Err(patience.ended());
                }
                backoff::pause(POLL);
            }
        }
        Ok(())
    }

    /// Begins a checkpoint of all that was folded so far, if there is anything new.
    fn begin_checkpoint(&mut self) -> Result<(), Interrupt> {
        let (clock, board) = (Arc::clone(&self.context.clock), Arc::clone(&self.context.board));
        if !self.checkpoints.begin(&self.context) {
            board.covered.set(Some(clock.now_ms()));
            return Ok(());
        }
        let (began, covered_ms) = (clock.monotonic(), clock.now_ms());
        board.enter(Activity::Write);
        let patience = Patience::new(&self.context);
        let Some(barrier) = self.writer.barrier(|| patience.lasts())? else { return Err(patience.ended()) };
        board.enter(Activity::Checkpoint);
        self.seal()?;
        let on_probation = self.succession.on_probation();
        if on_probation.is_none() {
            self.probation.end(&self.core);
        }
        let logic = (self.succession.n(), self.journal.head());
        let mut checkpoint = describe(self.gather.merge(), self.core.time, logic);
        checkpoint.state_version = (!self.core.is_migrating()).then(|| self.core.plugin().description.state_version);
        let next: Vec<_> = checkpoint.partitions.iter().map(|(p, at)| (*p, at.last.offset.next())).collect();
        if plants(Planted::OffsetsBeforeState) {
            self.gather.commit(&next);
        }
        self.gather.ask_log_id(); // after the records were read
        self.store.begin(checkpoint, on_probation);
        self.core.begin_capture();
        self.checkpoints.taking = Some(Taking {
            began,
            covered_ms,
            next,
            barrier,
            lengths: plants(Planted::CheckpointBeforeAcknowledgement).then(Lengths::default),
            is_captured: false,
            is_committing: false,
            stale: self.probation.take_stale(),
        });
        Ok(())
    }

    fn go_on_with_checkpoint(&mut self) -> Result<(), Interrupt> {
        let Some(taking) = &mut self.checkpoints.taking else { return Ok(()) };
        self.context.board.enter(Activity::Checkpoint);
        let waiting = self.store.uploads()?;
        if !taking.is_captured && waiting < MOST_PARTS {
            taking.is_captured = self.core.capture(CAPTURE_KEYS[usize::from(self.share.is_beyond())]);
            while let Some(part) = self.core.captured(PART_BYTES, taking.is_captured) {
                self.store.add(part)?;
            }
        }
        if taking.lengths.is_none() {
            taking.lengths = self.writer.passed(&taking.barrier)?; // I2, I3
        }
        let is_written = taking.is_captured && self.store.uploads()? == 0;
        if let Some(lengths) = taking.lengths.filter(|_| is_written && !taking.is_committing) {
            match self.gather.log_id()? {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => {}
                Poll::Ready(Some(id)) => self.succession.hold_topic(id)?, // records of another log must not be covered
            }
            taking.is_committing = true;
            self.store.commit((lengths.sink, lengths.letters), self.core.held())?; // I2, I3, I10
        }
        match self.store.committed()? {
            Some(bytes) => self.end_checkpoint(bytes),
            None => Ok(()),
        }
    }

    /// Tells of a checkpoint that is durable.
    fn end_checkpoint(&mut self, bytes: u64) -> Result<(), Interrupt> {
        let Some(taking) = self.checkpoints.taking.take() else { return Ok(()) };
        let (clock, board) = (&self.context.clock, &self.context.board);
        self.core.end_capture(self.loading.is_some());
        taking.stale.iter().try_for_each(|&n| self.journal.forget_images(n))?;
        self.gather.commit(&taking.next);
        self.checkpoints.written += 1;
        board.checkpoints.add(1);
        let took = clock.monotonic().saturating_sub(taking.began);
        board.checkpoint_us.set(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        board.checkpoint_bytes.set(bytes);
        board.covered.set(Some(taking.covered_ms));
        Ok(self.checkpoints.check_state(self.core.count_state(board))?)
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
        if signals.rewind_requested() || signals.is_lost() {
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
