//! What is known of a source before it is read: its partitions, their ends, and the lanes they make.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Source, Start, file, kafka};
use crate::config::{self, Config};
use crate::failure::{Exit, Failure};
use crate::position::{Offset, Partition, TopicId};

/// A log that is neither a topic of a broker nor a file: a simulated one.
pub trait Log: Send + Sync {
    /// Returns its partitions, ascending.
    fn partitions(&self) -> &[Partition];
    /// Returns the offset after the last record of a partition, as of when it was looked at.
    fn high(&self, partition: Partition) -> Option<Offset>;
    /// Returns its id.
    fn topic_id(&self) -> Option<&TopicId>;
    /// Begins to read.
    fn open(&self, starts: &[Start], until_end: bool) -> Result<Started, Failure>;
}

/// A source that has begun to read.
pub struct Started {
    /// The source.
    pub source: Box<dyn Source>,
    /// The offset at which reading each partition started.
    pub first_offsets: Vec<(Partition, Offset)>,
    /// The id of the log, where it has one.
    pub topic_id: Option<TopicId>,
}

/// What is known of the source before it is read.
pub enum LogSource {
    /// A topic, which is read for all lanes in one place.
    Kafka(Arc<kafka::Hub>),
    /// A file: its partitions, and its contents until a lane takes them.
    File {
        /// Its partitions.
        partitions: Vec<Partition>,
        /// What was found when it was looked at.
        contents: Mutex<Option<file::Contents>>,
    },
    /// Another log.
    Other(Arc<dyn Log>),
}

impl LogSource {
    /// Looks at the source.
    pub(crate) fn inspect(config: &Config, deadline: Instant) -> Result<LogSource, Failure> {
        Ok(match &config.source {
            config::Source::Kafka(kafka) => LogSource::Kafka(Arc::new(kafka::Hub::inspect(kafka, deadline)?)),
            config::Source::File(file) => {
                let contents = file::contents(file)?;
                LogSource::File { partitions: contents.partitions(), contents: Mutex::new(Some(contents)) }
            }
        })
    }

    pub(crate) fn partitions(&self) -> &[Partition] {
        match self {
            LogSource::Kafka(hub) => &hub.topic().partitions,
            LogSource::File { partitions, .. } => partitions,
            LogSource::Other(log) => log.partitions(),
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

    /// The file's contents: what [`LogSource::inspect`] found for the first lane, found again for the others.
    pub(crate) fn contents(&self, file: &config::FileSource) -> Result<file::Contents, Failure> {
        let LogSource::File { contents, .. } = self else { unreachable!("asked of a file source only") };
        let first = contents.lock().expect("nobody panics while holding it").take();
        match first {
            Some(contents) => Ok(contents),
            None if file.is_standard_input() => {
                let message = "source.file.ordering = \"partition\" reads a file once per partition, which standard input cannot be: \
                               name a file, or use ordering = \"topic\"";
                Err(Failure::new(Exit::Config, message))
            }
            None => file::contents(file),
        }
    }

    /// Begins to read, until the ends as of now or for ever. Waits for unavailable brokers until `deadline`.
    pub(crate) fn open(
        &self,
        config: &Config,
        starts: &[Start],
        until_end: bool,
        deadline: Instant,
    ) -> Result<Started, Failure> {
        match (self, &config.source) {
            (LogSource::Other(log), _) => log.open(starts, until_end),
            (LogSource::Kafka(hub), _) => {
                let source = hub.open(starts, until_end, deadline)?;
                let (first_offsets, topic_id) = (source.first_offsets(), source.topic_id());
                Ok(Started { source: Box::new(source), first_offsets, topic_id })
            }
            (LogSource::File { .. }, config::Source::File(file)) => {
                let source = file::FileSource::open(self.contents(file)?, starts)?;
                let first_offsets = source.first_offsets();
                Ok(Started { source: Box::new(source), first_offsets, topic_id: None })
            }
            (LogSource::File { .. }, config::Source::Kafka(_)) => {
                unreachable!("it was looked at by this configuration")
            }
        }
    }

    /// The id of the log, where it has one.
    pub(crate) fn topic_id(&self) -> Option<&TopicId> {
        match self {
            LogSource::Kafka(hub) => hub.topic().id.as_ref(),
            LogSource::File { .. } => None,
            LogSource::Other(log) => log.topic_id(),
        }
    }

    /// The offset after the last, where that is known.
    pub(crate) fn high(&self, partition: Partition) -> Option<Offset> {
        match self {
            LogSource::Kafka(hub) => {
                let topic = hub.topic();
                topic.partitions.binary_search(&partition).ok().map(|i| topic.high[i])
            }
            LogSource::File { .. } => None,
            LogSource::Other(log) => log.high(partition),
        }
    }
}
