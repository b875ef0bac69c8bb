//! Positions in a log: where a record stands, how far a lane has come, and what a partition brings from a checkpoint. Plain data that
//! checkpoints and journal store; knows no source.

use std::collections::BTreeMap;

/// Where a record stands in the lane's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Append time, ms.
    pub append_time: i64,
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
}

/// How far a lane has released: the last record, and the next offset per partition.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Frontier {
    /// The last released record.
    pub last: Position,
    /// The next offset to release, per partition; a partition of which nothing was released is absent.
    pub next: BTreeMap<u32, u64>,
}

/// The least append time of a record that became visible behind the frontier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
    /// Its append time from now on, in every replay.
    pub append_time: i64,
}

/// What a partition brings from a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Greatest append time so far, or [`NO_TIME`].
    pub envelope: i64,
    /// The last released record.
    pub last: Option<LastRecord>,
}

/// A record that the pipeline has folded, as the checkpoint remembers it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LastRecord {
    /// Its offset.
    pub offset: u64,
    /// Its own timestamp, ms.
    pub timestamp: i64,
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
