//! Positions in a log: where a record stands, how far a lane has come, and what a partition brings from a checkpoint. Plain data that
//! checkpoints and journal store; knows no source.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event_time::{AppendTime, no_time};

/// The number of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub u32);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of a record in its partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset after this one.
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a record stands in the lane's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Append time.
    pub append_time: AppendTime,
    /// Partition.
    pub partition: Partition,
    /// Offset.
    pub offset: Offset,
}

/// How far a lane has released: the last record, and the next offset per partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontier {
    /// The last released record.
    pub last: Position,
    /// The next offset to release, per partition; a partition of which nothing was released is absent.
    pub next: BTreeMap<Partition, Offset>,
}

/// The least append time of a record that became visible behind the frontier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Partition.
    pub partition: Partition,
    /// Offset.
    pub offset: Offset,
    /// Its append time from now on, in every replay.
    pub append_time: AppendTime,
}

/// What a partition brings from a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Greatest append time so far; none before the first record.
    pub envelope: Option<AppendTime>,
    /// The last released record.
    pub last: Option<LastRecord>,
}

/// A record that the pipeline has folded, as the checkpoint remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its own timestamp, ms since 1970; none if it has none.
    #[serde(with = "no_time")]
    pub timestamp: Option<i64>,
    /// [`fingerprint`] of key and payload.
    pub fingerprint: u64,
}

/// First 8 bytes of the SHA-256 of (key length, key, payload): stable across versions, stored in checkpoints. An absent key or payload
/// counts as length u64::MAX.
pub fn fingerprint(key: Option<&[u8]>, payload: Option<&[u8]>) -> u64 {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in [key, payload] {
        hash.update(part.map_or(u64::MAX, |p| p.len() as u64).to_le_bytes());
        hash.update(part.unwrap_or_default());
    }
    let digest = hash.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes"))
}
