//! Some records of a log, to try a plugin on: in lane order, from the ends of a topic's partitions or the beginning of a file.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config;
use crate::failure::Failure;
use crate::position::{Offset, Partition, Resume};
use crate::record::Records;
use crate::source::merge::Merge;
use crate::source::{Arrival, Source, Start, file, kafka};

/// How long an arrival is waited for before the log is taken to hold no more.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes after which a partition's records are enough.
const BYTES: usize = 4 << 20;

/// At most `count` records of each partition.
pub fn recent(config: &config::Source, count: u64, deadline: Instant) -> Result<Records, Failure> {
    match config {
        config::Source::Kafka(kafka) => {
            let topic = kafka::inspect(kafka, deadline)?;
            let partitions = topic.partitions.iter().zip(&topic.low).zip(&topic.high);
            let starts: Vec<Start> = partitions
                .map(|((&partition, &low), &high)| Start {
                    partition,
                    next: Some(Offset(high.0.saturating_sub(count)).max(low)),
                    last: None,
                })
                .collect();
            take(&mut kafka::KafkaSource::open(kafka, &starts, true, deadline)?, count)
        }
        config::Source::File(file) => {
            let index = file::inspect(file)?;
            let starts: Vec<Start> =
                index.partitions().into_iter().map(|partition| Start { partition, next: None, last: None }).collect();
            take(&mut file::FileSource::open(index, &starts)?, count)
        }
    }
}

/// The lowest offset that a topic still has of each partition; nothing of a file, which is never trimmed.
pub fn lowest(config: &config::Source, deadline: Instant) -> Result<BTreeMap<Partition, Offset>, Failure> {
    match config {
        config::Source::Kafka(kafka) => {
            let topic = kafka::inspect(kafka, deadline)?;
            Ok(topic.partitions.iter().copied().zip(topic.low).collect())
        }
        config::Source::File(_) => Ok(BTreeMap::new()),
    }
}

fn take(source: &mut dyn Source, count: u64) -> Result<Records, Failure> {
    let partitions = source.partitions().to_vec();
    let fresh = Resume { envelope: None, last: None };
    let resumes: Vec<_> = partitions.iter().map(|&partition| (partition, fresh.clone())).collect();
    let mut merge = Merge::new(&resumes, 0, None, None, BTreeMap::new());
    let mut taken: BTreeMap<Partition, (u64, usize)> =
        partitions.iter().map(|&partition| (partition, (0, 0))).collect();
    while !taken.is_empty() {
        match source.next(PATIENCE)? {
            None => break,
            Some(Arrival::Empty { .. }) => {}
            Some(Arrival::End { partition }) => drop(taken.remove(&partition)),
            Some(Arrival::Records { partition, records }) => {
                let Some((seen, bytes)) = taken.get_mut(&partition) else { continue };
                // A batch may hold many more than are wanted.
                let wanted = usize::try_from(count - *seen).unwrap_or(usize::MAX);
                let records = if records.len() > wanted { first(&records, wanted) } else { records };
                *seen += records.len() as u64;
                *bytes += records.bytes();
                let enough = *seen >= count || *bytes >= BYTES;
                merge.push(partition, records);
                if enough {
                    taken.remove(&partition);
                }
            }
        }
    }
    for partition in partitions {
        merge.end(partition);
    }
    let mut records = Records::default();
    merge.release(usize::MAX, usize::MAX, &mut records);
    Ok(records)
}

fn first(records: &Records, count: usize) -> Records {
    let mut first = Records::default();
    first.append(records, 0..count);
    first
}
