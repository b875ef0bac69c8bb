//! Records that could not be folded, and rows that could not be written: the original bytes with the reason. Keeps I3: dead letters are
//! acknowledged before a checkpoint that covers them is written.

mod bounded;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod header;
mod keeping;
mod read;
mod refusal;
mod topic;

use std::sync::Arc;
use std::time::Instant;

use crate::backoff::Outage;
use crate::config;
use crate::failure::{Check, Failure};
use crate::record::{HeaderColumns, RecordRef, Records};
use crate::source::kafka::secrets::{Secrets, fresh};
use crate::strike::Stage;

pub use read::{StoredLetter, read};

/// Where dead letters are stored. It retries outages itself, without end, with backoff and a warning; a failure that it returns halts the
/// lane.
pub trait DeadLetterWriter: Send {
    /// Waits until no other host writes the same file; refuses after `deadline`. Called once, when the host owns its lanes, before anything
    /// is written or truncated.
    fn claim(&mut self, _deadline: Instant) -> Result<(), Failure> {
        Ok(())
    }
    /// Accepts dead letters. They are stored once [`DeadLetterWriter::flush`] has returned.
    fn write(&mut self, letters: &[DeadLetter]) -> Result<(), Failure>;
    /// Returns once everything written is acknowledged: on disk, or by all in-sync replicas.
    fn flush(&mut self) -> Result<(), Failure>;
    /// Syncs a file to disk and returns its length in bytes. None for a writer that needs no truncation at recovery.
    fn length(&mut self) -> Result<Option<u64>, Failure>;
    /// Truncates a file to the length that the checkpoint covers. Called only before the first `write`.
    fn truncate(&mut self, length: u64) -> Result<(), Failure>;
    /// Ends a last line that was broken off, before the first `write`: what begins at `ours` or later is this pipeline's and may be cut.
    fn end_line(&mut self, _ours: Option<u64>) -> Result<(), Failure> {
        Ok(())
    }
    /// Returns what probes and metrics may read about its outages.
    fn outage(&self) -> Arc<Outage>;
}

/// Opens the file or topic that `config` names. Dead letters name `source_topic`, if there is one, as their origin. Retries an unavailable
/// broker until `deadline` (without one it tries once); a missing topic or folder is refused at once.
pub fn open(
    config: &config::DeadLetters,
    source_topic: Option<&str>,
    deadline: Option<Instant>,
) -> Result<Box<dyn DeadLetterWriter>, Failure> {
    Ok(match config {
        config::DeadLetters::File(path) => Box::new(file::DeadLetterFile::open(path, source_topic)?),
        config::DeadLetters::Topic { brokers, topic, properties, secret_files } => {
            let properties = &fresh(properties, secret_files);
            let secrets = Secrets::new("dead_letters.properties", properties, secret_files, true);
            Box::new(topic::DeadLetterTopic::open(brokers, topic, properties, secrets, source_topic, deadline)?)
        }
    })
}

/// Looks at everything that [`open`] needs and changes nothing. Tries an unavailable broker once.
pub fn check(config: &config::DeadLetters) -> Vec<Check> {
    match config {
        config::DeadLetters::File(path) => vec![file::check(path)],
        config::DeadLetters::Topic { brokers, topic, properties, .. } => topic::check(brokers, topic, properties),
    }
}

/// One dead letter. The stages `Map`, `Time` and `Fold` carry the original record; `Timer` and `Migrate` the key and its lost state as JSON;
/// `Sink` the row as JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The stage that failed.
    pub stage: Stage,
    /// Why it failed.
    pub reason: String,
    /// The SHA-256 of the plugin's file, in hexadecimal.
    pub plugin: String,
    /// The number of the deployment in force, which tells whether it was withdrawn since. The writer fills it in; earlier versions did not.
    pub deployment: Option<u64>,
    /// The index of the event in its record, if one event failed.
    pub event: Option<u32>,
    /// The record: exactly one, with partition, offset, append time, key, payload and headers. For `Timer` and `Sink` it has the coordinates of
    /// the record that caused it (the last one before an idle advance), for `Migrate` none; the key (`Timer`, `Migrate`), and JSON in place
    /// of the original payload.
    pub record: Records,
}

/// Prefix of the headers of a redriven record that say which record it repeats.
const REDRIVEN: &str = "keyfold.redriven.";

/// Returns the headers of the record that repeats a dead letter's: its own, and the coordinates of the original.
pub fn redriven_headers(stored: &StoredLetter) -> HeaderColumns {
    let record = stored.letter.record.get(0);
    let mut headers = HeaderColumns::default();
    if let Some((columns, i)) = record.headers {
        let own = columns.of(i).filter(|(name, _)| !name.starts_with(REDRIVEN.as_bytes()));
        own.for_each(|(name, value)| headers.push(name, value));
    }
    let mut put = |name: &str, value: &str| headers.push(format!("{REDRIVEN}{name}").as_bytes(), value.as_bytes());
    if let Some(topic) = &stored.source_topic {
        put("topic", topic);
    }
    put("partition", &record.partition.to_string());
    put("offset", &record.offset.to_string());
    put("timestamp", &record.append_time.to_string());
    headers.end_record();
    headers
}

/// Returns which record of its own log a dead letter's record repeats: partition and offset. That is what its headers say, which a producer
/// can write too.
pub fn repeats(stored: &StoredLetter) -> Option<(u32, u64)> {
    let record = stored.letter.record.get(0);
    let (columns, i) = record.headers?;
    let value = |name: &str| {
        let named = |header: &(&[u8], &[u8])| header.0.strip_prefix(REDRIVEN.as_bytes()) == Some(name.as_bytes());
        columns.of(i).find(named).and_then(|(_, value)| std::str::from_utf8(value).ok())
    };
    let is_of_this_log = value("topic") == stored.source_topic.as_deref();
    let place = (value("partition")?.parse().ok()?, value("offset")?.parse().ok()?);
    is_of_this_log.then_some(place)
}

/// Returns a record as a line for the file source, where it becomes the next one of its partition.
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
        DeadLetter { stage: Stage::Map, reason, plugin: "ab".repeat(32), deployment: Some(2), event: Some(0), record }
    }
}
