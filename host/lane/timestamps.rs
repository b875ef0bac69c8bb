//! Timestamps that cannot be right: those that order nothing, and those far ahead of the clock. They are counted and warned of; what becomes of
//! their records is decided elsewhere, from the log alone.

use std::time::Duration;

use crate::event_time::{FAR_AHEAD_MS, Implausible, plausible};
use crate::lane::context::Context;
use crate::position::Partition;
use crate::record::Records;
use crate::source::merge::Blocked;

/// The shortest time between two warnings of a kind.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What was warned of.
#[derive(Debug, Default)]
pub(super) struct Timestamps {
    /// When a record with an implausible timestamp was last warned of.
    implausible: Option<Duration>,
    /// When one far ahead of the clock was.
    far_ahead: Option<Duration>,
    /// The head of which it was logged that it waits for the clock.
    head: Option<i64>,
}

impl Timestamps {
    /// Counts records whose timestamps cannot be right, and warns of them now and then.
    pub(super) fn watch(&mut self, partition: Partition, records: &Records, context: &Context) {
        self.watch_implausible(partition, records, context);
        self.watch_far_ahead(partition, records, context);
    }

    fn watch_implausible(&mut self, partition: Partition, records: &Records, context: &Context) {
        let wrong = |time: i64| {
            let why = plausible(time).err()?;
            context.board.implausible[why as usize].add(1);
            Some(why)
        };
        let Some((timestamp, offset, why)) = first(records, wrong, &mut self.implausible, context) else { return };
        tracing::warn!(
            event = "implausible-timestamp",
            lane = context.name,
            partition = partition.0,
            offset,
            timestamp = Some(timestamp).filter(|_| why != Implausible::Missing),
            reason = why.name(),
            "record timestamp is missing or not in the years 1970 to 2099; it orders nothing (time.implausible)"
        );
    }

    fn watch_far_ahead(&mut self, partition: Partition, records: &Records, context: &Context) {
        let far = context.clock.now_ms().saturating_add(FAR_AHEAD_MS);
        let wrong = |time: i64| {
            let is_far = time > far && plausible(time).is_ok();
            is_far.then(|| context.board.far_ahead.add(1))
        };
        let Some((timestamp, offset, ())) = first(records, wrong, &mut self.far_ahead, context) else { return };
        tracing::warn!(
            event = "timestamp-far-ahead",
            lane = context.name,
            partition = partition.0,
            offset,
            timestamp,
            "record timestamp is more than a day ahead of this host's clock; it orders the record and all that follow it, so event times are \
             judged by it and deployments take effect after it: correct the producer's clock, or set message.timestamp.type=LogAppendTime"
        );
    }

    /// Logs once of each head that it is ahead of the clock by more than `clock_skew_ms`, so that its lane waits.
    pub(super) fn tell_waiting(&mut self, blocked: &Blocked, clock_skew_ms: i64, context: &Context) {
        let ahead_ms = blocked.after_ms.saturating_sub(clock_skew_ms).saturating_sub(context.clock.now_ms());
        if ahead_ms <= clock_skew_ms || self.head == Some(blocked.after_ms) {
            return;
        }
        self.head = Some(blocked.after_ms);
        tracing::warn!(
            event = "record-ahead-of-clock",
            lane = context.name,
            ahead_ms,
            "record timestamp is ahead of this host's clock; waiting until the clock passes it: check the clocks of producer and broker"
        );
    }
}

/// Gives every timestamp to `wrong`, which counts. Returns the first one that is wrong, with its offset, unless one was warned of lately.
fn first<T>(
    records: &Records,
    wrong: impl Fn(i64) -> Option<T>,
    warned: &mut Option<Duration>,
    context: &Context,
) -> Option<(i64, u64, T)> {
    let times = records.append_times.iter().zip(&records.offsets);
    let found = times.filter_map(|(&time, &offset)| Some((time, offset, wrong(time)?))).reduce(|first, _| first)?;
    context.may_log(warned, WARN_EVERY).then_some(found)
}
