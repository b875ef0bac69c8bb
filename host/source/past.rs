//! The records of a log up to its ends as of now, in a lane's order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::log_source::LogSource;
use super::merge::Merge;
use super::{Arrival, BATCH_BYTES, QUEUED_BATCHES, Source, Start};
use crate::config::Config;
use crate::failure::Failure;
use crate::position::{Partition, Position, Resume};
use crate::record::Records;

/// How long one wait for the source lasts; then comes the next.
const WAIT: Duration = Duration::from_secs(1);

/// A source that reads these partitions from their beginnings to their ends as of now.
pub(crate) fn open(
    config: &Config,
    log: &LogSource,
    partitions: &[Partition],
    deadline: Instant,
) -> Result<Box<dyn Source>, Failure> {
    let starts: Vec<Start> = partitions.iter().map(|&partition| Start { partition, ..Start::default() }).collect();
    open_at(config, log, &starts, deadline)
}

/// A source that reads from there to the ends as of now.
pub(crate) fn open_at(
    config: &Config,
    log: &LogSource,
    starts: &[Start],
    deadline: Instant,
) -> Result<Box<dyn Source>, Failure> {
    Ok(log.open(config, starts, true, deadline)?.source)
}

/// A lane's records to the ends as of the start, in its order.
pub(crate) struct Past {
    source: Box<dyn Source>,
    merge: Merge,
    batch_records: usize,
    /// How many records may still come.
    left: u64,
    /// Whether it goes on from where a former one ended: what sorts before that is taken now, behind it.
    goes_on: bool,
}

impl Past {
    /// At most this many records, if there is a bound.
    pub(crate) fn new(source: Box<dyn Source>, config: &Config, records: Option<u64>) -> Past {
        let anew = |&partition: &Partition| (partition, Resume { envelope: None, last: None });
        let partitions: Vec<_> = source.partitions().iter().map(anew).collect();
        let merge = Merge::new(&partitions, config.time.clock_skew_ms, None, None, BTreeMap::new());
        let left = records.unwrap_or(u64::MAX);
        Past { source, merge, batch_records: config.run.batch_records, left, goes_on: false }
    }

    /// From where a lane had come.
    pub(crate) fn go_on(
        source: Box<dyn Source>,
        config: &Config,
        from: &[(Partition, Resume)],
        last: Option<Position>,
    ) -> Past {
        let merge = Merge::new(from, config.time.clock_skew_ms, last, None, BTreeMap::new());
        Past { source, merge, batch_records: config.run.batch_records, left: u64::MAX, goes_on: true }
    }

    /// Where it has come.
    pub(crate) fn position(&self) -> (Vec<(Partition, Resume)>, Option<Position>) {
        (self.merge.resume(), self.merge.last())
    }

    /// The next batch; false when there is none.
    pub(crate) fn next(&mut self, records: &mut Records) -> Result<bool, Failure> {
        records.clear();
        let most = self.batch_records.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        loop {
            self.merge.release(most, BATCH_BYTES, records);
            if records.len() >= most || records.bytes() >= BATCH_BYTES || self.merge.finished() {
                break;
            }
            let (queued, queued_bytes) = (self.batch_records * QUEUED_BATCHES, BATCH_BYTES * QUEUED_BATCHES);
            self.source.hold(&self.merge.overfull(queued, queued_bytes));
            match self.source.next(WAIT)? {
                Some(Arrival::Records { partition, records }) => {
                    let floors = self.merge.push(partition, records);
                    assert!(
                        self.goes_on || floors.is_empty(),
                        "nothing is released before all that sorts before it has come"
                    );
                }
                Some(Arrival::End { partition }) => self.merge.end(partition),
                // That a partition is empty for now decides nothing: its end is known.
                Some(Arrival::Empty { .. }) | None => {}
            }
        }
        self.left -= records.len() as u64;
        Ok(!records.is_empty())
    }
}
