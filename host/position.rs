//! Positions in a log: of a record, of a lane's frontier, and where a partition resumes. Plain data that checkpoints and journals store; knows
//! no source.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash3_64;

use crate::event_time::{AppendTime, no_time};
use crate::record::{RecordRef, Records};

/// The number of a partition. It prints as that number, in lists too.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub u32);

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The offset of a record in its partition. It prints as a number, in lists too.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    /// Returns the offset after this one.
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id that Kafka gives a topic when it is created, as Kafka's tools print it. A topic that is deleted and created again has another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(String);

impl TopicId {
    /// Returns the id with this more and this less significant half.
    pub fn of(more_significant: i64, less_significant: i64) -> TopicId {
        use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
        let halves = [more_significant.to_be_bytes(), less_significant.to_be_bytes()].concat();
        TopicId(BASE64_URL_SAFE_NO_PAD.encode(halves))
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of a record in a lane's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Append time.
    pub append_time: AppendTime,
    /// Partition.
    pub partition: Partition,
    /// Offset.
    pub offset: Offset,
}

impl Position {
    /// Returns the position of record `i` of these.
    pub fn of(records: &Records, i: usize) -> Position {
        Position {
            append_time: AppendTime::at(records.append_times[i]),
            partition: Partition(records.partitions[i]),
            offset: Offset(records.offsets[i]),
        }
    }
}

/// How far a lane has released records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontier {
    /// The last released record.
    pub last: Position,
    /// The next offset to release, per partition. A partition from which nothing was released is absent.
    pub next: BTreeMap<Partition, Offset>,
}

/// The least append time of a record that became visible behind the frontier: the record is sorted as if it had been appended then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Partition.
    pub partition: Partition,
    /// Offset.
    pub offset: Offset,
    /// Its append time from now on, including in every replay.
    pub append_time: AppendTime,
}

/// Where a partition resumes after a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The greatest append time so far; `None` before the first record.
    pub envelope: Option<AppendTime>,
    /// The last released record.
    pub last: Option<LastRecord>,
}

/// The last record that was folded of a partition. A restart compares it with the record at that offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its own timestamp, ms since 1970; `None` if it has none.
    #[serde(with = "no_time")]
    pub timestamp: Option<i64>,
    /// The [`fingerprint`] of its key and payload.
    pub fingerprint: u64,
    /// The [`digest`] of its partition up to and with it, of a file (D36); `None` of a topic, and in what earlier versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<u64>,
}

/// Returns the first 8 bytes of the SHA-256 of key length, key, payload length and payload. An absent key or payload has the length
/// `u64::MAX`. Checkpoints store it, so it is the same in all versions.
pub fn fingerprint(key: Option<&[u8]>, payload: Option<&[u8]>) -> u64 {
    let mut hash = Sha256::new();
    for part in [key, payload] {
        hash.update(part.map_or(u64::MAX, |p| p.len() as u64).to_le_bytes());
        hash.update(part.unwrap_or_default());
    }
    let digest = hash.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes"))
}

/// Returns the digest of a partition up to and with a record, from the one before it (0 before the first): XXH3 of each part of the record, seeded
/// with the digest so far. The parts are offset and timestamp, key, payload, and names and values of the headers; the seed of an absent part is
/// inverted. Checkpoints store it, so it is the same in all versions. It finds edits, not attacks.
pub fn digest(before: u64, record: &RecordRef<'_>) -> u64 {
    let add = |digest: u64, part: Option<&[u8]>| match part {
        Some(bytes) => XxHash3_64::oneshot_with_seed(digest, bytes),
        None => XxHash3_64::oneshot_with_seed(!digest, &[]),
    };
    let mut place = [0; 16];
    place[..8].copy_from_slice(&record.offset.to_le_bytes());
    place[8..].copy_from_slice(&record.append_time.to_le_bytes());
    let digest = [Some(&place[..]), record.key, record.payload].into_iter().fold(before, add);
    let headers = record.headers.iter().flat_map(|(columns, i)| columns.of(*i));
    headers.fold(digest, |digest, (name, value)| add(add(digest, Some(name)), Some(value)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::record::HeaderColumns;

    #[test]
    fn lists_of_partitions_and_offsets_print_as_numbers() {
        assert_eq!(format!("{:?}", [Partition(0), Partition(12)]), "[0, 12]");
        assert_eq!(format!("{:?}", BTreeMap::from([(Partition(1), Offset(7))])), "{1: 7}");
    }

    #[test]
    fn a_digest_is_of_all_that_a_record_has_and_of_those_before_it() {
        let headers = |name: &str| {
            let mut headers = HeaderColumns::default();
            headers.push(name.as_bytes(), b"v");
            headers.end_record();
            headers
        };
        let (h, i) = (headers("h"), headers("i"));
        let record = RecordRef {
            partition: 3,
            offset: 7,
            append_time: 1000,
            key: Some(b"k"),
            payload: Some(b"p"),
            headers: Some((&h, 0)),
        };
        let others = [
            (1, record),
            (0, RecordRef { offset: 8, ..record }),
            (0, RecordRef { append_time: 1001, ..record }),
            (0, RecordRef { key: None, ..record }),
            (0, RecordRef { key: Some(b""), ..record }),
            (0, RecordRef { key: Some(b"kp"), payload: Some(b""), ..record }),
            (0, RecordRef { payload: None, ..record }),
            (0, RecordRef { headers: None, ..record }),
            (0, RecordRef { headers: Some((&i, 0)), ..record }),
        ];
        let all: BTreeSet<u64> =
            others.iter().chain([&(0, record)]).map(|(before, record)| digest(*before, record)).collect();
        assert_eq!(all.len(), others.len() + 1);
        assert_eq!(digest(0, &record), 0xe824_1c68_a538_01c4, "checkpoints store it: it is the same in all versions");
    }
}
