//! The semantics of a lane, record by record, written down a second time and as plainly as possible. Shares no code with the host or the
//! plugins: its own order, its own reading of JSON and times, its own ids. Slow where slow is clearer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::support::generate::TestRecord;

pub(crate) mod folds;
pub(crate) mod gaps;
#[cfg(test)]
mod tests;

/// 0001-01-01T00:00:00.000Z
const FIRST_MS: i64 = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z
const LAST_MS: i64 = 253_402_300_799_999;

/// What happens to late events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// They go nowhere (or to the dead letters): for the rows it is the same.
    Drop,
    /// They are folded like any other.
    Process,
}

/// `[time]`, with the defaults of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    /// How far the watermark stays behind.
    pub(crate) out_of_orderness_ms: i64,
    /// Late policy.
    pub(crate) late: Late,
    /// How far an event may lie ahead of its record's append time.
    pub(crate) future_limit_ms: i64,
    /// Idle advance, off by default.
    pub(crate) idle_timeout_ms: Option<i64>,
    /// Whether records with implausible timestamps are folded.
    pub(crate) inherit: bool,
}

impl Default for Time {
    fn default() -> Time {
        Time {
            out_of_orderness_ms: 10_000,
            late: Late::Drop,
            future_limit_ms: 3_600_000,
            idle_timeout_ms: None,
            inherit: false,
        }
    }
}

/// What `map` makes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Key bytes.
    pub(crate) key: Vec<u8>,
    /// Event time, ms.
    pub(crate) time: i64,
    /// What the fold wants to know besides.
    pub(crate) value: String,
}

/// Where an event stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The record's append time, after the envelope.
    pub(crate) append_time: i64,
    /// Partition.
    pub(crate) partition: u32,
    /// Offset.
    pub(crate) offset: u64,
    /// Which event of the record.
    pub(crate) index: u32,
}

/// What a fold may do besides changing its state.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// The key's timer: as it is, and as it shall be.
    pub(crate) timer: Option<i64>,
    /// Rows emitted, in order.
    pub(crate) rows: Vec<serde_json::Value>,
    /// Whether the plugin failed on it.
    pub(crate) struck: bool,
    /// Whether the plugin rejected it.
    pub(crate) rejected: bool,
}

/// The logic of a plugin, in its plainest form. Keeps the state of all keys itself.
pub(crate) trait Fold {
    /// The record's events, or why it has none.
    fn map(&self, record: &TestRecord) -> Result<Vec<Event>, String>;
    /// One event, told the watermark as it was before the record.
    fn on_event(&mut self, event: &Event, place: Place, watermark: Option<i64>, effects: &mut Effects);
    /// The key's timer fired; `effects.timer` is none when this begins.
    fn on_timer(&mut self, key: &[u8], time: i64, effects: &mut Effects);
    /// From now on this mark is configured, for a fold that knows what that is.
    fn configure(&mut self, _mark: &str) {}
}

/// What became of the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Records that the plugin refused, and events out of range or too far ahead.
    pub(crate) rejected: u64,
    /// Of these, events too far ahead of their record.
    pub(crate) future: u64,
    /// Late events.
    pub(crate) late: u64,
    /// Events that were folded.
    pub(crate) accepted: u64,
}

/// One row and what caused it: partition, offset, and the event unless a timer of the record's watermark did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// The row in the form of the NDJSON sink.
    pub(crate) values: serde_json::Value,
    /// Partition, offset, event.
    pub(crate) origin: (u32, u64, Option<u32>),
    /// How many deployments held before.
    pub(crate) deployments: usize,
}

/// What was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Letter {
    /// The stage at which; `late` if the event is only that, `rejected` if the plugin did not fail on it.
    pub(crate) stage: &'static str,
    /// Partition, offset, and the event unless it is the record.
    pub(crate) origin: (u32, u64, Option<u32>),
    /// How many deployments held before.
    pub(crate) deployments: usize,
}

/// Another configuration from an append time on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deployment {
    /// The first append time at which it holds.
    pub(crate) t: i64,
    /// What the fold is configured with.
    pub(crate) mark: &'static str,
    /// `[time]`
    pub(crate) time: Time,
}

/// A folded lane.
#[derive(Debug)]
pub(crate) struct Lane<F> {
    /// The fold with its state: open sessions and the like.
    pub(crate) fold: F,
    /// Rows in the lane's order.
    pub(crate) rows: Vec<Row>,
    /// What became of the events.
    pub(crate) counts: Counts,
    /// The records and events that were left out; late ones too, whatever the policy.
    pub(crate) letters: Vec<Letter>,
    /// The watermark after the last record.
    pub(crate) watermark: Option<i64>,
    /// Pages, or whatever the events carried, of the accepted events in lane order.
    pub(crate) accepted: Vec<String>,
    /// How many deployments hold so far.
    deployments: usize,
    time: Time,
    /// The watermark after the last record, and its append time.
    base: Option<(i64, i64)>,
    /// The last record.
    last: Option<(u32, u64, Option<u32>)>,
    timers: BTreeSet<(i64, Vec<u8>)>,
    timer_of: HashMap<Vec<u8>, i64>,
}

/// `ordering = "topic"`: all partitions in one lane.
pub(crate) fn run<F: Fold>(fold: F, records: &[TestRecord], time: Time) -> Lane<F> {
    run_journalled(fold, records, time, &BTreeMap::new(), &[])
}

/// The same, where the journal holds floors: (partition, offset) -> least append time.
pub(crate) fn run_with_floors<F: Fold>(
    fold: F,
    records: &[TestRecord],
    time: Time,
    floors: &BTreeMap<(u32, u64), i64>,
) -> Lane<F> {
    run_journalled(fold, records, time, floors, &[])
}

/// The same, where the journal holds deployments, by T.
pub(crate) fn run_deployed<F: Fold>(
    fold: F,
    records: &[TestRecord],
    time: Time,
    deployments: &[Deployment],
) -> Lane<F> {
    run_journalled(fold, records, time, &BTreeMap::new(), deployments)
}

/// The same, where the journal holds floors and deployments.
pub(crate) fn run_journalled<F: Fold>(
    fold: F,
    records: &[TestRecord],
    time: Time,
    floors: &BTreeMap<(u32, u64), i64>,
    deployments: &[Deployment],
) -> Lane<F> {
    let mut lane = Lane {
        fold,
        rows: Vec::new(),
        counts: Counts::default(),
        letters: Vec::new(),
        watermark: None,
        accepted: Vec::new(),
        deployments: 0,
        time,
        base: None,
        last: None,
        timers: BTreeSet::new(),
        timer_of: HashMap::new(),
    };
    let mut ahead = deployments.iter().peekable();
    for (append_time, record) in in_lane_order(records, floors) {
        let origin = (record.partition, record.offset, None);
        // A lane that is idle knows no later record.
        let last = lane.last.replace(origin).unwrap_or(origin);
        while let Some(deployment) = ahead.next_if(|d| d.t <= append_time) {
            lane.idle(deployment.t, last);
            lane.time = deployment.time;
            lane.deployments += 1;
            lane.fold.configure(deployment.mark);
        }
        lane.idle(append_time, last);
        if has_plausible_time(record) || (time.inherit && append_time > 0) {
            lane.record(append_time, record);
        } else {
            lane.reject("time", origin);
        }
        lane.base = lane.watermark.map(|watermark| (watermark, append_time));
    }
    lane
}

/// `ordering = "partition"`: a lane of its own for each.
pub(crate) fn run_by_partition<F: Fold>(
    fold: impl Fn() -> F,
    records: &[TestRecord],
    time: Time,
) -> BTreeMap<u32, Lane<F>> {
    let partitions: BTreeSet<u32> = records.iter().map(|r| r.partition).collect();
    let lane = |partition: u32| {
        let own: Vec<TestRecord> = records.iter().filter(|r| r.partition == partition).cloned().collect();
        (partition, run(fold(), &own, time))
    };
    partitions.into_iter().map(lane).collect()
}

/// Whether a record's own timestamp is in the years 1970 to 2099.
fn has_plausible_time(record: &TestRecord) -> bool {
    (0..4_102_444_800_000).contains(&record.timestamp)
}

/// The records with their append times, in the order (append time, partition, offset).
fn in_lane_order<'a>(records: &'a [TestRecord], floors: &BTreeMap<(u32, u64), i64>) -> Vec<(i64, &'a TestRecord)> {
    let mut by_offset: Vec<&TestRecord> = records.iter().collect();
    by_offset.sort_by_key(|r| (r.partition, r.offset));
    let mut envelope: HashMap<u32, i64> = HashMap::new();
    let mut ordered = Vec::new();
    for record in by_offset {
        let append_time = envelope.entry(record.partition).or_insert(i64::MIN);
        let floor = floors.get(&(record.partition, record.offset)).copied().unwrap_or(i64::MIN);
        let own = if has_plausible_time(record) { record.timestamp } else { i64::MIN };
        *append_time = (*append_time).max(own).max(floor);
        // Before the first timestamp that means something.
        ordered.push(((*append_time).max(0), record));
    }
    ordered.sort_by_key(|(append_time, r)| (*append_time, r.partition, r.offset));
    ordered
}

impl<F: Fold> Lane<F> {
    /// The rows without their origins.
    pub(crate) fn values(&self) -> Vec<serde_json::Value> {
        self.rows.iter().map(|row| row.values.clone()).collect()
    }

    /// Step 1 to 3 of the semantics.
    fn record(&mut self, append_time: i64, record: &TestRecord) {
        let Ok(events) = self.fold.map(record) else {
            return self.reject("map", (record.partition, record.offset, None));
        };
        let watermark_before = self.watermark;
        let mut greatest = None;
        for (index, event) in (0..).zip(&events) {
            let place = Place { append_time, partition: record.partition, offset: record.offset, index };
            if self.event(event, place, watermark_before) {
                greatest = greatest.max(Some(event.time));
            }
        }
        if let Some(greatest) = greatest {
            let reached = greatest.saturating_sub(self.time.out_of_orderness_ms);
            self.watermark = Some(watermark_before.map_or(reached, |w| w.max(reached)));
        }
        self.fire_due((record.partition, record.offset, None));
    }

    /// Step 2 for one event; whether it was accepted.
    fn event(&mut self, event: &Event, place: Place, watermark: Option<i64>) -> bool {
        let origin = (place.partition, place.offset, Some(place.index));
        if !(FIRST_MS..=LAST_MS).contains(&event.time) {
            self.reject("time", origin);
            return false;
        }
        if event.time > place.append_time.saturating_add(self.time.future_limit_ms) {
            self.reject("time", origin);
            self.counts.future += 1;
            return false;
        }
        if watermark.is_some_and(|w| event.time <= w) {
            self.counts.late += 1;
            if self.time.late == Late::Drop {
                self.leave_out("late", origin);
                return false;
            }
        }
        while let Some(due) = self.timer_of.get(&event.key).copied().filter(|t| watermark.is_some_and(|w| *t <= w)) {
            self.fire(due, &event.key, (place.partition, place.offset, None));
        }
        let mut effects = Effects { timer: self.timer_of.get(&event.key).copied(), ..Effects::default() };
        self.fold.on_event(event, place, watermark, &mut effects);
        if effects.struck {
            self.leave_out("fold", origin);
        } else if effects.rejected {
            self.leave_out("rejected", origin);
        }
        self.apply(&event.key, effects, origin);
        self.counts.accepted += 1;
        self.accepted.push(event.value.clone());
        true
    }

    fn reject(&mut self, stage: &'static str, origin: (u32, u64, Option<u32>)) {
        self.counts.rejected += 1;
        self.leave_out(stage, origin);
    }

    fn leave_out(&mut self, stage: &'static str, origin: (u32, u64, Option<u32>)) {
        self.letters.push(Letter { stage, origin, deployments: self.deployments });
    }

    /// Timers that are set, by key.
    pub(crate) fn timers(&self) -> &HashMap<Vec<u8>, i64> {
        &self.timer_of
    }

    /// Nothing was appended since the last record, up to `instant`.
    fn idle(&mut self, instant: i64, origin: (u32, u64, Option<u32>)) {
        let (Some(idle_timeout), Some((base, last))) = (self.time.idle_timeout_ms, self.base) else { return };
        let reached = base.saturating_add(instant - last).saturating_sub(idle_timeout);
        self.watermark = self.watermark.max(Some(reached));
        self.fire_due(origin);
    }

    /// All due timers, by (time, key).
    fn fire_due(&mut self, origin: (u32, u64, Option<u32>)) {
        let Some(watermark) = self.watermark else { return };
        while let Some((time, key)) = self.timers.first().cloned().filter(|(time, _)| *time <= watermark) {
            self.fire(time, &key, origin);
        }
    }

    fn fire(&mut self, time: i64, key: &[u8], origin: (u32, u64, Option<u32>)) {
        self.set_timer(key, None);
        let mut effects = Effects::default();
        self.fold.on_timer(key, time, &mut effects);
        if effects.struck {
            self.leave_out("timer", origin);
        }
        assert!(
            effects.timer.is_none_or(|next| next > time),
            "a timer set by on-timer is later than the one that fired"
        );
        self.apply(key, effects, origin);
    }

    fn apply(&mut self, key: &[u8], effects: Effects, origin: (u32, u64, Option<u32>)) {
        self.set_timer(key, effects.timer);
        let deployments = self.deployments;
        self.rows.extend(effects.rows.into_iter().map(|values| Row { values, origin, deployments }));
    }

    fn set_timer(&mut self, key: &[u8], timer: Option<i64>) {
        if let Some(former) = self.timer_of.remove(key) {
            self.timers.remove(&(former, key.to_vec()));
        }
        if let Some(time) = timer {
            self.timer_of.insert(key.to_vec(), time);
            self.timers.insert((time, key.to_vec()));
        }
    }
}
