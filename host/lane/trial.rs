//! A trial: what a plugin makes of some records of a log, counted, before they are folded for good. Nothing is written, and event times that the
//! plugin cannot mean are told apart.

use std::sync::Arc;

use serde::Serialize;

use crate::config::{Late, Time};
use crate::dead_letter::DeadLetter;
use crate::lane::batch::Batch;
use crate::lane::core::{Core, Output};
use crate::lane::law::one_thread;
use crate::lane::losses::tally;
use crate::lane::time::{YEAR_1, YEAR_9999};
use crate::observe::losses::Losses;
use crate::plugin::{Fault, Plugin};
use crate::record::Records;
use crate::strike::Stage;

/// Records of a batch.
const BATCH: usize = 500;
/// The first millisecond of 1971. A time in seconds of this century, taken for milliseconds, lies before it.
const YEAR_1971: i64 = 31_536_000_000;
/// The first seconds of the years 2000 and 2100.
const CENTURY: std::ops::Range<i64> = 946_684_800..4_102_444_800;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Records that were tried.
    pub records: u64,
    /// Events that they gave.
    pub events: u64,
    /// Records, events and firings that would be rejected.
    pub rejected: u64,
    /// Events that would be late.
    pub late: u64,
    /// Events whose time is the beginning of 1970: the plugin gives none.
    pub times_empty: u64,
    /// Other events of 1970 in later records, and events outside the years 1 to 9999.
    pub times_implausible: u64,
    /// Timers that are open after the last record.
    pub open_timers: u64,
    /// The commonest reasons.
    pub reasons: String,
    /// Records that give no event, because they are rejected.
    #[serde(skip)]
    pub unmapped: u64,
    /// Event times that are of this century in another unit: seconds, microseconds, nanoseconds.
    #[serde(skip)]
    pub units: [u64; 3],
    /// Events far ahead that moved the watermark.
    #[serde(skip)]
    pub jumps: u64,
}

/// Folds the records (in lane order) in one lane or, if they are folded `apart`, in one for each partition. Fails with [`Fault::Host`] if that
/// costs more than a trial may.
pub fn fold(plugin: &Arc<Plugin>, time: Time, records: &Records, apart: bool) -> Result<Found, Fault> {
    let plugin = &Arc::new(plugin.of_trial(records));
    let (one, losses, mut found) = (one_thread()?, Losses::default(), Found::default());
    for partition in partitions(records, apart) {
        let mut core = Core::new(Arc::clone(plugin), Arc::clone(&one), time);
        let rows = (0..records.len()).filter(|&row| partition.is_none_or(|p| records.partitions[row] == p));
        let mut batch = Records::default();
        for row in rows {
            batch.append(records, row..row + 1);
            if batch.len() == BATCH {
                found.take(&mut core, &batch, (&losses, time.late))?;
                batch = Records::default();
            }
        }
        found.take(&mut core, &batch, (&losses, time.late))?;
        for shard in &mut core.shards {
            shard.take_dirty(|slot| found.open_timers += u64::from(slot.timer().is_some()));
        }
    }
    found.reasons = losses.news().map(|news| news.reasons).unwrap_or_default();
    Ok(found)
}

/// The partitions that are folded by themselves; none is all of them.
fn partitions(records: &Records, apart: bool) -> Vec<Option<u32>> {
    if !apart {
        return vec![None];
    }
    let mut partitions = records.partitions.clone();
    partitions.sort_unstable();
    partitions.dedup();
    partitions.into_iter().map(Some).collect()
}

impl Found {
    /// Returns whether most would be rejected or late.
    pub fn loses_most(&self) -> bool {
        (self.rejected + self.late) * 2 > self.events + self.unmapped
    }

    /// Returns whether most event times cannot be meant.
    pub fn is_untimely(&self) -> bool {
        (self.times_empty + self.times_implausible) * 2 > self.events
    }

    /// Returns the unit that most event times seem to have, if that is not the millisecond.
    pub fn unit(&self) -> Option<&'static str> {
        let units = ["seconds", "microseconds", "nanoseconds"];
        self.units.iter().zip(units).find(|(count, _)| **count * 2 > self.events).map(|(_, unit)| unit)
    }

    fn take(&mut self, core: &mut Core, batch: &Records, (losses, late): (&Losses, Late)) -> Result<(), Fault> {
        if batch.is_empty() {
            return Ok(());
        }
        let prepared = core.prepare(batch)?;
        self.take_times(&prepared.batch);
        let output = core.fold(prepared)?;
        tally(losses, &output, late);
        self.take_losses(&output);
        Ok(())
    }

    fn take_times(&mut self, batch: &Batch<'_>) {
        let append_times = batch.events.records.iter().map(|&record| batch.records.append_times[record as usize]);
        for (&time, append_time) in batch.events.times.iter().zip(append_times) {
            match time {
                // A log may really be of 1970.
                _ if append_time < YEAR_1971 => {}
                0 => self.times_empty += 1,
                _ if is_plausible(time) => {}
                _ => {
                    self.times_implausible += 1;
                    let seconds = [time, time / 1_000_000, time / 1_000_000_000];
                    let fits = |(count, seconds): (&mut u64, i64)| *count += u64::from(CENTURY.contains(&seconds));
                    self.units.iter_mut().zip(seconds).for_each(fits);
                }
            }
        }
    }

    fn take_losses(&mut self, output: &Output) {
        let counts = &output.counts;
        self.records += counts.records;
        self.events += counts.events;
        self.rejected += counts.rejected;
        self.late += counts.late;
        self.jumps += output.jumps;
        let is_unmapped =
            |letter: &&DeadLetter| letter.event.is_none() && matches!(letter.stage, Stage::Map | Stage::Time);
        self.unmapped += output.letters.iter().filter(is_unmapped).count() as u64;
    }
}

/// Whether an event of a record of this age can be meant to have happened then.
fn is_plausible(time: i64) -> bool {
    (YEAR_1..=YEAR_9999).contains(&time) && !(0..YEAR_1971).contains(&time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_event_times_is_told_where_it_can_be() {
        let of = |time: i64| {
            let units =
                [time, time / 1_000_000, time / 1_000_000_000].map(|seconds| u64::from(CENTURY.contains(&seconds)));
            (is_plausible(time), Found { events: 1, units, ..Found::default() }.unit())
        };
        assert_eq!(of(1_727_870_400), (false, Some("seconds")));
        assert!(of(1_727_870_400_000).0);
        assert_eq!(of(1_727_870_400_000_000), (false, Some("microseconds")));
        assert_eq!(of(1_727_870_400_000_000_000), (false, Some("nanoseconds")));
        assert_eq!(of(12), (false, None));
        assert!(of(-86_400_000).0, "there were events before 1970");
    }
}
