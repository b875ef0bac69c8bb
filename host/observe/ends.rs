//! The ends of a topic's partitions and how far they were read, for lag. No order and no row depends on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::backoff::Outage;
use crate::position::Offset;

/// No offset.
const UNTOLD: u64 = u64::MAX;

/// The ends and the positions of the partitions that a source reads.
#[derive(Debug)]
pub struct Ends {
    partitions: Vec<End>,
    read: AtomicU64,
    answered: AtomicBool,
    outage: Arc<Outage>,
}

#[derive(Debug)]
struct End {
    /// Offset after the last record, according to the leader.
    high: AtomicU64,
    /// First offset that is still in the log, according to the leader; none before it was told.
    low: AtomicU64,
    /// Next offset to read.
    reached: AtomicU64,
}

impl Ends {
    /// Creates the partitions from their ends and first offsets. `outage` is the availability of their leaders.
    pub fn new(partitions: impl Iterator<Item = (Offset, Offset)>, outage: Arc<Outage>) -> Ends {
        let end = |(high, first): (Offset, Offset)| End {
            high: AtomicU64::new(high.0),
            low: AtomicU64::new(UNTOLD),
            reached: AtomicU64::new(first.0),
        };
        Ends {
            partitions: partitions.map(end).collect(),
            read: AtomicU64::new(0),
            answered: AtomicBool::new(true),
            outage,
        }
    }

    /// Returns the number of unread offsets. Open transactions and transaction markers count.
    pub fn unread(&self) -> u64 {
        let left = |end: &End| end.high.load(Relaxed).saturating_sub(end.reached.load(Relaxed));
        self.partitions.iter().map(left).sum()
    }

    /// Returns how far the next offset to read is from the first one still in the log, of the partition where that is least; none while unknown.
    pub fn margin(&self) -> Option<u64> {
        let told = self.partitions.iter().filter(|end| end.low.load(Relaxed) != UNTOLD);
        told.map(|end| end.reached.load(Relaxed).saturating_sub(end.low.load(Relaxed))).min()
    }

    /// Records where the partitions begin, in their order.
    pub(crate) fn begin_at(&self, lows: &[Option<Offset>]) {
        for (end, low) in self.partitions.iter().zip(lows) {
            if let Some(low) = low {
                end.low.store(low.0, Relaxed);
            }
        }
    }

    /// Returns the number of records read since the source started.
    pub fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Returns whether the leaders answered the last question.
    pub fn answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// Returns the availability of the partitions' leaders: an outage begins when they have not answered twice.
    pub fn outage(&self) -> &Arc<Outage> {
        &self.outage
    }

    /// Records that partition number `i` was read up to an offset, with this many more records.
    pub(crate) fn reach(&self, i: usize, offset: Offset, records: usize) {
        self.read.fetch_add(records as u64, Relaxed);
        self.partitions[i].reached.store(offset.0, Relaxed);
    }

    /// Records the ends that the leaders returned, in the order of the partitions; none if they did not answer.
    pub(crate) fn survey(&self, highs: Option<&[Option<Offset>]>) {
        for (end, high) in self.partitions.iter().zip(highs.unwrap_or_default()) {
            if let Some(high) = high {
                end.high.store(high.0, Relaxed);
            }
        }
        self.answered.store(highs.is_some_and(|highs| highs.iter().all(Option::is_some)), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unread_is_counted_over_all_partitions() {
        let ends = Ends::new([(Offset(10), Offset(4)), (Offset(5), Offset(5))].into_iter(), Arc::default());
        assert_eq!((ends.unread(), ends.read()), (6, 0));
        ends.reach(0, Offset(9), 3);
        assert_eq!((ends.unread(), ends.read()), (1, 3), "what is no record counts until it is passed");
        ends.survey(Some(&[Some(Offset(12)), None]));
        assert_eq!((ends.unread(), ends.answered()), (3, false));
        ends.survey(Some(&[Some(Offset(8)), Some(Offset(6))]));
        assert_eq!((ends.unread(), ends.answered()), (1, true), "a log that lost its tail is not behind");
        ends.survey(None);
        assert_eq!((ends.unread(), ends.answered()), (1, false));
        assert_eq!(ends.margin(), None);
        ends.begin_at(&[Some(Offset(3)), None]);
        assert_eq!(ends.margin(), Some(6));
        ends.begin_at(&[Some(Offset(11)), Some(Offset(5))]);
        assert_eq!(ends.margin(), Some(0), "what was not read is gone");
    }
}
