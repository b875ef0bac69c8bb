//! Gathering: fills a batch from the source through the merge, and asks the partitions for which heads wait. Where a batch is cut decides
//! no row. Keeps I4: floors are durable before the next release, and the frontier is known to be a bet until it is durable.

use std::time::Duration;

use crate::config::Time;
use crate::event_time::{AppendTime, LaneTime};
use crate::failure::Failure;
use crate::lane::context::Context;
use crate::observe::board::Activity;
use crate::observe::progress::Progress;
use crate::position::{Floor, Frontier, Offset, Partition};
use crate::record::Records;
use crate::source::merge::Merge;
use crate::source::{Arrival, BATCH_BYTES, QUEUED_BATCHES, Source};

/// How long a batch that is not full waits for more.
const FILL_WAIT: Duration = Duration::from_millis(2);
/// The same while the log is known to hold more.
const BACKLOG_WAIT: Duration = Duration::from_millis(200);
/// The same for a file, which holds more until it ends.
const FILE_WAIT: Duration = Duration::from_secs(5);
/// The longest that an idle lane waits before it looks at its clock again.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// The shortest time between two live idle advances: each is an entry in the journal.
const IDLE_ADVANCE_EVERY_MS: i64 = 1000;

/// Fills batches.
pub(super) struct Gather {
    source: Box<dyn Source>,
    merge: Merge,
    /// The batch that is being filled; its memory is reused.
    batch: Records,
    /// Records of a full batch.
    most: usize,
    /// Records gathered since the start, those in `batch` included.
    gathered: u64,
    /// Whether a release since the last durable frontier relied on an asked partition's word. After a restart that is unknown, so yes.
    frontier_is_bet: bool,
    /// Floors that were recorded.
    floors: u64,
    idle_advanced_ms: i64,
    /// The head of which it was logged that it is ahead of the clock.
    reported_ahead: Option<i64>,
    catching_up: CatchingUp,
}

/// How far the lane has come through what was in the log at the start.
struct CatchingUp {
    /// Records in the log at the start, roughly; none if unknown, as for a file until its end.
    backlog: Option<u64>,
    started: Duration,
    progress: Progress,
}

impl Gather {
    /// Begins to gather batches of up to `most` records. `backlog` is roughly how many records are in the log now, if that is known.
    pub(super) fn new(
        source: Box<dyn Source>,
        merge: Merge,
        most: usize,
        backlog: Option<u64>,
        context: &Context,
    ) -> Gather {
        let progress = Progress::new(backlog.unwrap_or(0));
        let catching_up = CatchingUp { backlog, started: context.clock.monotonic(), progress };
        Gather {
            source,
            merge,
            batch: Records::default(),
            most,
            gathered: 0,
            frontier_is_bet: true,
            floors: 0,
            idle_advanced_ms: 0,
            reported_ahead: None,
            catching_up,
        }
    }

    // ---- a batch

    /// Fills a batch with what may be released, until it is full or nothing arrives for a moment. `keep` makes floors durable.
    pub(super) fn fill(
        &mut self,
        context: &Context,
        checkpoint_at: Duration,
        mut keep: impl FnMut(&[Floor]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        context.board.end_batch(Activity::Gather);
        self.source.hold(&self.merge.overfull(self.most * QUEUED_BATCHES, BATCH_BYTES * QUEUED_BATCHES));
        self.batch.clear();
        loop {
            let released = self.merge.release(self.most, BATCH_BYTES, &mut self.batch);
            self.gathered += released.records as u64;
            self.frontier_is_bet |= released.asked;
            let full = self.batch.len() >= self.most || self.batch.bytes() >= BATCH_BYTES;
            let signals = &context.signals;
            if full || self.merge.finished() || signals.stop_requested() || signals.rewind_requested() {
                return Ok(());
            }
            let patience = self.patience(context, checkpoint_at);
            let Some(arrival) = self.source.next(patience)? else { return Ok(()) };
            let answered = matches!(arrival, Arrival::Empty { .. });
            self.arrive(arrival, context, &mut keep)?;
            if answered && (self.merge.drained() || self.merge.blocked().is_some()) {
                return Ok(());
            }
        }
    }

    /// Takes the batch out; [`Gather::give_back`] returns its memory.
    pub(super) fn take(&mut self) -> Records {
        std::mem::take(&mut self.batch)
    }

    /// Takes the memory of a folded batch back.
    pub(super) fn give_back(&mut self, records: Records) {
        self.batch = records;
    }

    /// How long to wait for the next arrival.
    fn patience(&self, context: &Context, checkpoint_at: Duration) -> Duration {
        if self.batch.is_empty() {
            return idle_patience(checkpoint_at.saturating_sub(context.clock.monotonic()));
        }
        batch_patience(self.catching_up.backlog, self.gathered)
    }

    fn arrive(
        &mut self,
        arrival: Arrival,
        context: &Context,
        keep: &mut impl FnMut(&[Floor]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match arrival {
            Arrival::Empty { partition, asked_ms } => self.merge.empty(partition, asked_ms),
            Arrival::End { partition } => self.merge.end(partition),
            Arrival::Records { partition, records } => {
                let floors = self.merge.push(partition, records);
                if let Some(first) = floors.first() {
                    context.board.enter(Activity::Store);
                    keep(&floors)?; // I4
                    context.board.enter(Activity::Gather);
                    context.board.floors.add(floors.len() as u64);
                    self.floors += floors.len() as u64;
                    warn_of_floors(context, first, floors.len());
                }
            }
        }
        Ok(())
    }

    // ---- waiting

    /// Asks the partitions for which heads wait.
    pub(super) fn ask_partitions(&mut self, context: &Context, time: &Time) {
        let Some(blocked) = self.merge.blocked() else {
            if time.idle_timeout_ms.is_some() {
                let all = self.source.partitions().to_vec();
                self.source.ask(&all, context.clock.now_ms());
            }
            return;
        };
        self.source.ask(&blocked.partitions, blocked.after_ms);
        let ahead_ms = blocked.after_ms - time.clock_skew_ms - context.clock.now_ms();
        if ahead_ms > time.clock_skew_ms && self.reported_ahead != Some(blocked.after_ms) {
            self.reported_ahead = Some(blocked.after_ms);
            tracing::warn!(
                event = "record-ahead-of-clock",
                lane = context.name,
                ahead_ms,
                "record timestamp is ahead of this host's clock; waiting until the clock passes it: check the clocks of producer and broker"
            );
        }
    }

    /// The instant to which an idle lane's time may follow the clock: nothing waits, and every partition was found empty. From then on
    /// nothing is released before that instant, and the frontier is a bet on it.
    pub(super) fn advance_idle(&mut self, settings: &Time, time: LaneTime) -> Option<i64> {
        if settings.idle_timeout_ms.is_none() || !self.merge.drained() {
            return None;
        }
        let instant = self.merge.all_empty_at_ms()? - settings.clock_skew_ms;
        let mut then = time;
        then.idle(settings, AppendTime::at(instant));
        if then.watermark <= time.watermark || instant < self.idle_advanced_ms + IDLE_ADVANCE_EVERY_MS {
            return None;
        }
        self.idle_advanced_ms = instant;
        self.merge.raise(AppendTime::at(instant));
        self.frontier_is_bet = true;
        Some(instant)
    }

    // ---- how far it has come

    /// Makes the frontier durable with `keep`, if something was released on an asked partition's word since the last one.
    pub(super) fn keep_frontier<E>(&mut self, keep: impl FnOnce(&Frontier) -> Result<(), E>) -> Result<(), E> {
        if let Some(frontier) = self.merge.frontier().filter(|_| self.frontier_is_bet) {
            keep(&frontier)?;
            self.frontier_is_bet = false;
        }
        Ok(())
    }

    /// Whether the source has ended and all its records were gathered.
    pub(super) fn finished(&self) -> bool {
        self.merge.finished()
    }

    /// The merge, which knows what a checkpoint covers.
    pub(super) fn merge(&self) -> &Merge {
        &self.merge
    }

    /// Commits to the source how far checkpoints have come: (partition, next offset).
    pub(super) fn commit(&mut self, next: &[(Partition, Offset)]) {
        self.source.commit(next);
    }

    /// Floors that were recorded.
    pub(super) fn floors(&self) -> u64 {
        self.floors
    }

    /// Reports that all that was gathered is folded.
    pub(super) fn report_progress(&mut self, context: &Context) {
        let CatchingUp { backlog, started, progress } = &mut self.catching_up;
        let elapsed = context.clock.monotonic().saturating_sub(*started);
        if let Some(backlog) = backlog {
            let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            progress.update(self.gathered, backlog.saturating_sub(self.gathered), elapsed_ms);
        }
    }

    /// Ends the report.
    pub(super) fn finish_progress(&mut self) {
        self.catching_up.progress.finish();
    }
}

/// With nothing in hand: until the next checkpoint or thereabouts.
fn idle_patience(until_checkpoint: Duration) -> Duration {
    IDLE_WAIT.min(until_checkpoint.max(FILL_WAIT))
}

/// For a batch that is not full: a moment, or longer while the log is known to hold more.
fn batch_patience(backlog: Option<u64>, gathered: u64) -> Duration {
    match backlog {
        None => FILE_WAIT,
        Some(backlog) if gathered < backlog => BACKLOG_WAIT,
        Some(_) => FILL_WAIT,
    }
}

fn warn_of_floors(context: &Context, first: &Floor, records: usize) {
    tracing::warn!(
        event = "floor-recorded",
        lane = context.name,
        partition = first.partition.0,
        offset = first.offset.0,
        append_time = first.append_time.ms(),
        records,
        why = "they became visible after later ones were folded; now and in every replay they are sorted behind those",
        "records became visible behind the frontier; floor recorded"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_idle_lane_waits_for_its_checkpoint_and_a_batch_for_what_the_log_holds() {
        assert_eq!(idle_patience(ms(1000)), IDLE_WAIT);
        assert_eq!(idle_patience(ms(20)), ms(20));
        assert_eq!(idle_patience(ms(0)), FILL_WAIT, "an overdue checkpoint does not make it spin");
        assert_eq!(batch_patience(None, 5), FILE_WAIT);
        assert_eq!(batch_patience(Some(6), 5), BACKLOG_WAIT);
        assert_eq!(batch_patience(Some(5), 5), FILL_WAIT);
    }
}
