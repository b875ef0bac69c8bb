//! Some records of a log, to try a plugin on: in lane order, from the ends of a topic's partitions or the beginning of a file.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config;
use crate::failure::Failure;
use crate::position::{Offset, Partition, Resume};
use crate::record::Records;
use crate::source::kafka::Topic;
use crate::source::log_source::LogSource;
use crate::source::merge::Merge;
use crate::source::{Arrival, Source, Start, file, kafka};

/// How long an arrival is waited for before the log is taken to hold no more.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes after which a partition's records are enough.
const BYTES: usize = 4 << 20;

/// Records of each partition on which a plugin is tried.
pub const TRIED: u64 = 500;

/// At most `count` records of each partition.
pub fn recent(config: &config::Source, count: u64, deadline: Instant) -> Result<Records, Failure> {
    match config {
        config::Source::Kafka(kafka) => of_topic(kafka, &kafka::inspect(kafka, deadline)?, count, deadline),
        config::Source::File(file) => of_file(file::contents(file)?, count),
    }
}

/// The same of a source that was just looked at; of a file, its index is taken.
pub(crate) fn recent_of(
    config: &config::Source,
    source: &LogSource,
    count: u64,
    deadline: Instant,
) -> Result<Records, Failure> {
    match (config, source) {
        (config::Source::Kafka(kafka), LogSource::Kafka(hub)) => of_topic(kafka, hub.topic(), count, deadline),
        (config::Source::File(file), LogSource::File { .. }) => of_file(source.contents(file)?, count),
        _ => recent(config, count, deadline),
    }
}

fn of_topic(config: &config::KafkaSource, topic: &Topic, count: u64, deadline: Instant) -> Result<Records, Failure> {
    let partitions = topic.partitions.iter().zip(&topic.low).zip(&topic.high);
    let start = |((&partition, &low), &high): ((&Partition, &Offset), &Offset)| Start {
        partition,
        next: Some(Offset(high.0.saturating_sub(count)).max(low)),
        last: None,
    };
    let starts: Vec<Start> = partitions.map(start).collect();
    take(&mut kafka::KafkaSource::open(config, &starts, true, deadline)?, count)
}

fn of_file(contents: file::Contents, count: u64) -> Result<Records, Failure> {
    let starts: Vec<Start> =
        contents.partitions().into_iter().map(|partition| Start { partition, next: None, last: None }).collect();
    take(&mut file::FileSource::open(contents, &starts)?, count)
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
