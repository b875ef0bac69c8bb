//! What could not be folded, kept: original bytes verbatim, with the reason. Keeps I3: dead letters are acknowledged before a checkpoint
//! that covers them is written.

mod file;
mod read;
mod topic;

use std::sync::Arc;
use std::time::Instant;

use crate::backoff::Outage;
use crate::config;
use crate::failure::{Check, Failure};
use crate::record::{HeaderColumns, RecordRef, Records};
use crate::strike::Stage;

pub use read::{Kept, read};

/// Where dead letters are kept. Outages are retried inside for ever, with backoff and a warning; what comes back as a failure halts the lane.
pub trait DeadLetterWriter: Send {
    /// Takes dead letters; [`DeadLetterWriter::flush`] says when they are kept.
    fn write(&mut self, letters: &[DeadLetter]) -> Result<(), Failure>;
    /// Back when all that was written is acknowledged: on disk, or by all in-sync replicas.
    fn flush(&mut self) -> Result<(), Failure>;
    /// For a file: its length, all of it on disk. None for what needs no cutting at recovery.
    fn length(&mut self) -> Result<Option<u64>, Failure>;
    /// For a file: cuts it back to what the checkpoint covers. Called before the first `write` only.
    fn truncate(&mut self, length: u64) -> Result<(), Failure>;
    /// What is known of its outages, for those who watch.
    fn outage(&self) -> Arc<Outage>;
}

/// Opens where `config` wants dead letters kept. They name `source_topic` as where they come from, if there is one. A broker is waited for
/// until `deadline` (without one it is tried once); a missing topic or folder is refused at once.
pub fn open(
    config: &config::DeadLetters,
    source_topic: Option<&str>,
    deadline: Option<Instant>,
) -> Result<Box<dyn DeadLetterWriter>, Failure> {
    Ok(match config {
        config::DeadLetters::File(path) => Box::new(file::DeadLetterFile::open(path, source_topic)?),
        config::DeadLetters::Topic { brokers, topic, properties } => {
            Box::new(topic::DeadLetterTopic::open(brokers, topic, properties, source_topic, deadline)?)
        }
    })
}

/// What [`open`] would find, a line for each thing looked at, nothing changed. The outside is tried once.
pub fn check(config: &config::DeadLetters) -> Vec<Check> {
    vec![match config {
        config::DeadLetters::File(path) => file::check(path),
        config::DeadLetters::Topic { brokers, topic, properties } => topic::check(brokers, topic, properties),
    }]
}

/// One dead letter. `Map`, `Time` and `Fold` carry the original record; `Timer` and `Migrate` carry the key and its lost state as JSON; `Sink` the row.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Where it happened.
    pub stage: Stage,
    /// Why, in words.
    pub reason: String,
    /// SHA-256 of the plugin's file, hex.
    pub plugin: String,
    /// The record's event, where it is about one event.
    pub event: Option<u32>,
    /// The record (exactly one row; partition, offset, append time, key, payload, headers). For `Timer`, `Migrate` and `Sink`: coordinates of the
    /// record that made it happen, with the key (`Timer`, `Migrate`) and a JSON payload in place of the original bytes.
    pub record: Records,
}

/// Names of the headers of a redriven record: where the record is that it repeats.
const REDRIVEN: &str = "keyfold.redriven.";

/// The headers of a record that repeats the one of this dead letter: its own, and where it was.
pub fn redriven_headers(kept: &Kept) -> HeaderColumns {
    let record = kept.letter.record.get(0);
    let mut headers = HeaderColumns::default();
    if let Some((columns, i)) = record.headers {
        let own = columns.of(i).filter(|(name, _)| !name.starts_with(REDRIVEN.as_bytes()));
        own.for_each(|(name, value)| headers.push(name, value));
    }
    let mut put = |name: &str, value: &str| headers.push(format!("{REDRIVEN}{name}").as_bytes(), value.as_bytes());
    if let Some(topic) = &kept.source_topic {
        put("topic", topic);
    }
    put("partition", &record.partition.to_string());
    put("offset", &record.offset.to_string());
    put("timestamp", &record.append_time.to_string());
    headers.end_record();
    headers
}

/// A record as a line for the file source: the next one of its partition.
pub fn redriven_line(record: RecordRef<'_>) -> Vec<u8> {
    let mut line = serde_json::to_vec(&file::record_object(record, false)).expect("plain data becomes JSON");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod samples {
    use super::{DeadLetter, Stage};
    use crate::record::{HeaderColumns, RecordRef, Records};

    /// A dead letter of the first event of record 3/42.
    pub(super) fn letter(key: Option<&[u8]>, payload: Option<&[u8]>, headers: &[(&[u8], &[u8])]) -> DeadLetter {
        let mut columns = HeaderColumns::default();
        headers.iter().for_each(|(name, value)| columns.push(name, value));
        columns.end_record();
        let mut record = Records::default();
        record.push(RecordRef {
            partition: 3,
            offset: 42,
            append_time: 1_727_873_508_000,
            key,
            payload,
            headers: Some((&columns, 0)),
        });
        let reason = "user_id is missing".to_owned();
        DeadLetter { stage: Stage::Map, reason, plugin: "ab".repeat(32), event: Some(0), record }
    }
}
