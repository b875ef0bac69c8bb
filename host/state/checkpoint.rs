//! What a checkpoint holds besides keyed state, as versioned JSON. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event_time::{AppendTime, LaneTime};
use crate::position::{LastRecord, Offset, Partition, Position, Resume};

/// The format that this version of keyfold writes and reads.
pub const FORMAT: u32 = 1;

/// What a lane needs to resume, besides keyed state and timers, which are part of the same atomic write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// [`FORMAT`].
    pub format: u32,
    /// How far each partition was folded.
    pub partitions: BTreeMap<Partition, PartitionProgress>,
    /// The last released record.
    pub last: Option<Position>,
    /// The lane's event time.
    pub time: LaneTime,
    /// The deployment whose logic folded up to here.
    pub deployment: u64,
    /// Length of the sink's file, bytes; `None` if the sink is no file.
    pub sink_length: Option<u64>,
    /// Length of the dead-letter file, bytes; `None` if there is none.
    pub letters_length: Option<u64>,
    /// How far the journal was on which it rests; `None` in one of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Head>,
    /// What state it holds; `None` in one of an earlier version, until all keys were in memory once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// The state version of all values and lists in it; `None` if there may be several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_version: Option<u32>,
}

/// Keys with state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Their number.
    pub keys: u64,
    /// Bytes of keys, values and list items.
    pub bytes: u64,
}

impl Held {
    /// All of these.
    pub fn sum(held: impl Iterator<Item = Held>) -> Held {
        held.fold(Held::default(), |a, b| Held { keys: a.keys + b.keys, bytes: a.bytes + b.bytes })
    }

    /// Adds a key with so many bytes.
    pub fn add(&mut self, bytes: u64) {
        *self = Held { keys: self.keys + 1, bytes: self.bytes + bytes };
    }

    /// Removes one.
    pub fn remove(&mut self, bytes: u64) {
        *self = Held { keys: self.keys - 1, bytes: self.bytes - bytes };
    }
}

/// How much was written into a lane's journal, so that what is missing from it is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Writes.
    pub writes: u64,
    /// The last write of a frontier.
    pub frontier: u64,
    /// Records with a floor.
    pub floors: u64,
    /// Strikes.
    pub strikes: u64,
    /// Whether it says where the lane began.
    pub began: bool,
}

/// How far a partition was folded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// Greatest append time so far.
    pub envelope: AppendTime,
    /// The last folded record; reading resumes after it.
    pub last: LastRecord,
}

impl Checkpoint {
    /// Encodes the checkpoint as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data becomes JSON")
    }

    /// Returns the next offset to fold, per partition.
    pub fn covered(&self) -> BTreeMap<Partition, Offset> {
        self.partitions.iter().map(|(&partition, progress)| (partition, progress.last.offset.next())).collect()
    }

    /// Returns the last record that was folded. [`Checkpoint::last`] may lie behind it, where an idle lane's time stands.
    pub fn last_record(&self) -> Option<Position> {
        let last = |(&partition, progress): (&Partition, &PartitionProgress)| Position {
            append_time: progress.envelope,
            partition,
            offset: progress.last.offset,
        };
        self.partitions.iter().map(last).max()
    }

    /// Decodes a stored checkpoint. The error of another format names its number.
    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let damaged = |e| format!("it is damaged: {e}; run `keyfold reset` to rebuild it from the log");
        let head: Head = serde_json::from_slice(bytes).map_err(damaged)?;
        if head.format != FORMAT {
            let format = head.format;
            return Err(format!("it has format {format}, and this version reads format {FORMAT}; run a newer keyfold"));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

/// Returns where a partition resumes after a checkpoint.
pub(crate) fn resume_of(checkpoint: Option<&Checkpoint>, partition: Partition) -> Resume {
    match checkpoint.and_then(|c| c.partitions.get(&partition)) {
        Some(progress) => Resume { envelope: Some(progress.envelope), last: Some(progress.last.clone()) },
        None => Resume { envelope: None, last: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of format 1 as they were first written; every later version reads them.
    const FORMAT_1: &str = r#"{"format":1,"partitions":{"0":{"envelope":5,"last":{"offset":3,"timestamp":4,"fingerprint":6}}},"last":{"append_time":5,"partition":0,"offset":3},"time":{"watermark":1,"last_append_time":5,"base":1},"deployment":2,"sink_length":7,"letters_length":null}"#;

    #[test]
    fn format_1_is_read_and_written_unchanged() {
        let checkpoint = Checkpoint::decode(FORMAT_1.as_bytes()).expect("a golden checkpoint");
        assert_eq!(checkpoint.partitions[&Partition(0)].last.offset, Offset(3));
        assert_eq!(String::from_utf8(checkpoint.encode()).expect("JSON"), FORMAT_1);
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let error = Checkpoint::decode(br#"{"format":2}"#).expect_err("newer");
        assert!(error.contains("format 2"), "{error}");
    }
}
