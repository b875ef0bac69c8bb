//! What one checkpoint holds beside keyed state, as versioned JSON. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event_time::LaneTime;
use crate::position::LastRecord;
use crate::position::Position;
use crate::position::Resume;
use crate::record::NO_TIME;

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;

/// All that a lane needs to go on, beside keyed state and timers, which lie in the same atomic write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// [`FORMAT`].
    pub format: u32,
    /// Per partition, where reading goes on.
    pub partitions: BTreeMap<u32, PartitionProgress>,
    /// The last released record.
    pub last: Option<Position>,
    /// Event time.
    pub time: LaneTime,
    /// The deployment whose logic folded up to here.
    pub deployment: u64,
    /// Length of the sink's file, if the sink is one.
    pub sink_length: Option<u64>,
    /// Length of the dead-letter file, if it is one.
    pub letters_length: Option<u64>,
}

/// How far a partition was folded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// Greatest append time so far, ms.
    pub envelope: i64,
    /// The last folded record; reading goes on behind it.
    pub last: LastRecord,
}

impl Checkpoint {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data becomes JSON")
    }

    /// Reads stored bytes; a newer format is refused by its number.
    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|e| format!("the checkpoint is not readable: {e}"))?;
        if head.format != FORMAT {
            return Err(format!(
                "the checkpoint has format {}, this keyfold reads {FORMAT}: run the newer keyfold",
                head.format
            ));
        }
        serde_json::from_slice(bytes).map_err(|e| format!("the checkpoint is not readable: {e}"))
    }
}

/// From where a partition is read on after this checkpoint.
pub(crate) fn resume_of(checkpoint: Option<&Checkpoint>, partition: u32) -> Resume {
    match checkpoint.and_then(|c| c.partitions.get(&partition)) {
        Some(progress) => Resume { envelope: progress.envelope, last: Some(progress.last.clone()) },
        None => Resume { envelope: NO_TIME, last: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of format 1 as they were first written: every later version reads them.
    const FORMAT_1: &str = r#"{"format":1,"partitions":{"0":{"envelope":5,"last":{"offset":3,"timestamp":4,"fingerprint":6}}},"last":{"append_time":5,"partition":0,"offset":3},"time":{"watermark":1,"last_append_time":5,"base":1},"deployment":2,"sink_length":7,"letters_length":null}"#;

    #[test]
    fn format_1_is_read_and_written_as_ever() {
        let checkpoint = Checkpoint::decode(FORMAT_1.as_bytes()).expect("a golden checkpoint");
        assert_eq!(checkpoint.partitions[&0].last.offset, 3);
        assert_eq!(String::from_utf8(checkpoint.encode()).expect("JSON"), FORMAT_1);
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let error = Checkpoint::decode(br#"{"format":2}"#).expect_err("newer");
        assert!(error.contains("format 2"), "{error}");
    }
}
