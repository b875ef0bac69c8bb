//! Event time of a lane: watermark, lateness, limits, idle advance. Pure: append times and event times in, verdicts and watermarks out. It
//! reads no clock. Time passes record by record, so that the cut into batches changes nothing (I5).

use crate::config::{Late, Time};
use crate::event_time::{AppendTime, EventTime, LaneTime, cell};

/// 0001-01-01T00:00:00Z in ms.
pub(super) const YEAR_1: i64 = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z in ms.
pub(super) const YEAR_9999: i64 = 253_402_300_799_999;

/// The verdict on an event, before `fold` sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Folded.
    Accepted,
    /// Its time lies outside the years 1 to 9999.
    OutOfRange,
    /// Its time lies more than `future_limit` past its record's append time.
    Future,
    /// Its time is at or before the watermark: dropped or kept, as `late` says.
    Late,
}

/// How much further than `out_of_orderness` an event may lie ahead of its record's append time, and how far it may move the watermark,
/// before that is a jump, ms.
const JUMP_MS: i64 = 60_000;

/// An event far ahead of its record's append time that moved the watermark: others are late because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The record's number in the batch.
    pub record: usize,
    /// Its event time.
    pub event_time: i64,
    /// Its append time.
    pub append_time: i64,
}

/// The watermarks of a batch and the verdicts on its events.
#[derive(Debug, Default)]
pub struct Timeline {
    /// Two watermarks per record: `[2 * record]` just before it (idle advance included), `[2 * record + 1]` just after it. They never
    /// decrease.
    pub steps: Vec<i64>,
    /// One verdict per event.
    pub verdicts: Vec<Verdict>,
    /// Jumps of the watermark.
    pub jumps: u64,
    /// The first of them.
    pub jump: Option<Jump>,
}

impl Timeline {
    /// Returns the watermark before a record.
    pub fn before(&self, record: usize) -> i64 {
        self.steps[2 * record]
    }

    /// Returns the first step at or after `from` at which a timer set to `time` is due.
    pub fn due_step(&self, time: EventTime, from: usize) -> Option<usize> {
        let step = from + self.steps[from..].partition_point(|&w| w < time.ms());
        (step < self.steps.len()).then_some(step)
    }
}

impl LaneTime {
    /// Passes over a batch and fills `line`. `records` names the record of each event, ascending.
    pub fn pass(
        &mut self,
        settings: &Time,
        append_times: &[i64],
        records: &[u32],
        event_times: &[i64],
        line: &mut Timeline,
    ) {
        line.steps.clear();
        line.verdicts.clear();
        (line.jumps, line.jump) = (0, None);
        let mut event = 0;
        for (record, &append_time) in append_times.iter().enumerate() {
            let append_time = AppendTime::at(append_time);
            self.idle(settings, append_time);
            line.steps.push(cell(self.watermark));
            let mut greatest: Option<EventTime> = None;
            while records.get(event).is_some_and(|&r| r as usize == record) {
                let verdict = self.judge(settings, append_time, event_times[event]);
                if verdict == Verdict::Accepted {
                    greatest = greatest.max(EventTime::from_cell(event_times[event]));
                }
                line.verdicts.push(verdict);
                event += 1;
            }
            if let Some(greatest) = greatest {
                let reached = greatest.ms().saturating_sub(settings.out_of_orderness_ms);
                if jumps(settings, self.watermark, append_time, greatest) {
                    let (event_time, append_time) = (greatest.ms(), append_time.ms());
                    line.jump = line.jump.or(Some(Jump { record, event_time, append_time }));
                    line.jumps += 1;
                }
                self.watermark = self.watermark.max(EventTime::from_cell(reached));
            }
            line.steps.push(cell(self.watermark));
            self.last_append_time = Some(append_time);
            self.base = self.watermark;
        }
    }

    /// Advances the watermark as if the lane stayed idle until `instant`: exactly as a record appended then would advance it first.
    pub fn idle(&mut self, settings: &Time, instant: AppendTime) {
        let Some(timeout) = settings.idle_timeout_ms else { return };
        let (Some(base), Some(last)) = (self.base, self.last_append_time) else { return };
        let gap = instant.ms().saturating_sub(last.ms());
        if gap > timeout {
            let reached = base.ms().saturating_add(gap - timeout);
            self.watermark = self.watermark.max(EventTime::from_cell(reached));
        }
    }

    fn judge(&self, settings: &Time, append_time: AppendTime, time: i64) -> Verdict {
        if !(YEAR_1..=YEAR_9999).contains(&time) {
            Verdict::OutOfRange
        } else if time > append_time.ms().saturating_add(settings.future_limit_ms) {
            Verdict::Future
        } else if EventTime::from_cell(time) <= self.watermark && settings.late != Late::Process {
            Verdict::Late
        } else {
            Verdict::Accepted
        }
    }
}

fn jumps(settings: &Time, watermark: Option<EventTime>, append_time: AppendTime, greatest: EventTime) -> bool {
    let reached = greatest.ms().saturating_sub(settings.out_of_orderness_ms);
    reached.saturating_sub(append_time.ms()) > JUMP_MS
        && watermark.is_none_or(|watermark| reached.saturating_sub(watermark.ms()) > JUMP_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ImplausibleTime;
    use crate::record::NO_TIME;

    fn settings() -> Time {
        Time {
            out_of_orderness_ms: 10,
            late: Late::Drop,
            future_limit_ms: 100,
            clock_skew_ms: 0,
            idle_timeout_ms: None,
            implausible: ImplausibleTime::DeadLetter,
        }
    }

    fn pass(settings: &Time, appends: &[i64], events: &[(u32, i64)]) -> (Vec<i64>, Vec<Verdict>) {
        let (records, times): (Vec<u32>, Vec<i64>) = events.iter().copied().unzip();
        let mut line = Timeline::default();
        LaneTime::default().pass(settings, appends, &records, &times, &mut line);
        (line.steps, line.verdicts)
    }

    #[test]
    fn the_watermark_follows_the_greatest_accepted_event_after_its_record() {
        let (steps, verdicts) = pass(&settings(), &[50, 50], &[(0, 40), (0, 60), (1, 50), (1, 51)]);
        assert_eq!(steps, [NO_TIME, 50, 50, 50]);
        assert_eq!(verdicts, [Verdict::Accepted, Verdict::Accepted, Verdict::Late, Verdict::Accepted]);
    }

    #[test]
    fn an_event_past_the_future_limit_moves_nothing() {
        let (steps, verdicts) = pass(&settings(), &[50, 50], &[(0, 151), (1, 150)]);
        assert_eq!(verdicts, [Verdict::Future, Verdict::Accepted]);
        assert_eq!(steps, [NO_TIME, NO_TIME, NO_TIME, 140]);
    }

    #[test]
    fn an_event_far_ahead_that_moves_the_watermark_is_a_jump() {
        let settings = Time { future_limit_ms: 3_600_000, ..settings() };
        let jumps = |appends: &[i64], events: &[(u32, i64)]| {
            let (records, times): (Vec<u32>, Vec<i64>) = events.iter().copied().unzip();
            let mut line = Timeline::default();
            LaneTime::default().pass(&settings, appends, &records, &times, &mut line);
            (line.jumps, line.jump.map(|jump| jump.record))
        };
        let far = 1_000 + JUMP_MS + settings.out_of_orderness_ms;
        assert_eq!(jumps(&[1_000, 1_000], &[(0, 1_000), (1, far)]), (0, None), "at the bound");
        assert_eq!(jumps(&[1_000, 1_000], &[(0, 1_000), (1, far + 1)]), (1, Some(1)));
        assert_eq!(jumps(&[1_000, 1_000], &[(0, far + 1), (1, far + 2)]), (1, Some(0)), "the second moves it by 1 ms");
        assert_eq!(jumps(&[900_000], &[(0, 900_001)]), (0, None), "time passes");
    }

    #[test]
    fn years_outside_1_to_9999_are_out_of_range() {
        let line = pass(&settings(), &[i64::MAX], &[(0, YEAR_1 - 1), (0, YEAR_1), (0, YEAR_9999), (0, YEAR_9999 + 1)]);
        assert_eq!(line.1, [Verdict::OutOfRange, Verdict::Accepted, Verdict::Accepted, Verdict::OutOfRange]);
    }

    #[test]
    fn a_gap_advances_the_watermark_from_the_base_of_the_earlier_record_once() {
        let idle = Time { idle_timeout_ms: Some(30), ..settings() };
        let (steps, _) = pass(&idle, &[1000, 1065, 1070], &[(0, 110)]);
        // 100 after the first record; a gap of 65 exceeds the timeout by 35; then one of 5 does not.
        assert_eq!(steps, [NO_TIME, 100, 135, 135, 135, 135]);
    }

    #[test]
    fn a_live_advance_in_between_changes_nothing_at_the_next_record() {
        let idle = Time { idle_timeout_ms: Some(30), ..settings() };
        let mut line = Timeline::default();
        let mut time = LaneTime::default();
        time.pass(&idle, &[1000], &[0], &[110], &mut line);
        time.idle(&idle, AppendTime::at(1060));
        assert_eq!(time.watermark, Some(EventTime::at(130)));
        time.pass(&idle, &[1065], &[], &[], &mut line);
        assert_eq!(line.steps, [135, 135]);
    }
}
