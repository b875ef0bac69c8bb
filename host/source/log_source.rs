//! What is known of a source before it is read: its partitions, their ends, and the lanes they make.

use std::sync::Mutex;
use std::time::Instant;

use super::{file, kafka};
use crate::config::{self, Config};
use crate::failure::{Exit, Failure};
use crate::position::{Offset, Partition, TopicId};

/// What is known of the source before it is read.
pub(crate) enum LogSource {
    /// A topic.
    Kafka(kafka::Topic),
    /// A file: its partitions, and its index until a lane takes it.
    File { partitions: Vec<Partition>, index: Mutex<Option<file::Index>> },
}

impl LogSource {
    /// Looks at the source.
    pub(crate) fn inspect(config: &Config, deadline: Instant) -> Result<LogSource, Failure> {
        Ok(match &config.source {
            config::Source::Kafka(kafka) => LogSource::Kafka(kafka::inspect(kafka, deadline)?),
            config::Source::File(file) => {
                let index = file::inspect(file)?;
                LogSource::File { partitions: index.partitions(), index: Mutex::new(Some(index)) }
            }
        })
    }

    pub(crate) fn partitions(&self) -> &[Partition] {
        match self {
            LogSource::Kafka(topic) => &topic.partitions,
            LogSource::File { partitions, .. } => partitions,
        }
    }

    /// The partitions of each lane.
    pub(crate) fn lanes(&self, config: &Config) -> Vec<Vec<Partition>> {
        match config.source.ordering() {
            config::Ordering::Topic => vec![self.partitions().to_vec()],
            config::Ordering::Partition => self.partitions().iter().map(|&p| vec![p]).collect(),
        }
    }

    /// The name of the lane of these partitions.
    pub(crate) fn lane_name(&self, config: &Config, partitions: &[Partition]) -> String {
        match config.source.ordering() {
            config::Ordering::Topic => "topic".to_owned(),
            config::Ordering::Partition => partitions[0].to_string(),
        }
    }

    /// The file's index: the one made by [`LogSource::inspect`] for the first lane, made again for the others.
    pub(crate) fn index(&self, file: &config::FileSource) -> Result<file::Index, Failure> {
        let LogSource::File { index, .. } = self else { unreachable!("asked of a file source only") };
        let first = index.lock().expect("nobody panics while holding it").take();
        match first {
            Some(index) => Ok(index),
            None if file.is_standard_input() => {
                let message = "source.file.ordering = \"partition\" reads a file once per partition, which standard input cannot be: \
                               name a file, or use ordering = \"topic\"";
                Err(Failure::new(Exit::Config, message))
            }
            None => Ok(file::inspect(file)?),
        }
    }

    /// The id of the log, where it has one.
    pub(crate) fn topic_id(&self) -> Option<&TopicId> {
        match self {
            LogSource::Kafka(topic) => topic.id.as_ref(),
            LogSource::File { .. } => None,
        }
    }

    /// The offset after the last, where that is known.
    pub(crate) fn high(&self, partition: Partition) -> Option<Offset> {
        match self {
            LogSource::Kafka(topic) => topic.partitions.binary_search(&partition).ok().map(|i| topic.high[i]),
            LogSource::File { .. } => None,
        }
    }
}
