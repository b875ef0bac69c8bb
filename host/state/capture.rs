//! What a checkpoint takes of a shard, key by key, while the lane goes on. Owns the records that wait to be written, and nothing of when.

use crate::state::layout;
use crate::state::slot::Slot;

/// Records of some keys, each key once, in no order.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// Where a key and its record are in the bytes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: usize,
    key: usize,
    record: usize,
}

impl Chunk {
    /// Adds the record of a key with state.
    pub(super) fn put(&mut self, slot: &Slot) {
        self.push(slot.key(), |out| layout::encode(slot, out));
    }

    /// Adds the record of a key that has no state any more.
    pub(super) fn delete(&mut self, key: &[u8]) {
        self.push(key, layout::encode_deleted);
    }

    fn push(&mut self, key: &[u8], encode: impl FnOnce(&mut Vec<u8>)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        encode(&mut self.bytes);
        self.entries.push(Entry { at, key: key.len(), record: self.bytes.len() - at - key.len() });
    }

    /// Its size, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds the records of another one, with other keys.
    pub fn append(&mut self, other: &Chunk) {
        let base = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.entries.extend(other.entries.iter().map(|entry| Entry { at: base + entry.at, ..*entry }));
    }

    /// Puts the records into key order.
    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        self.entries.sort_unstable_by(|a, b| bytes[a.at..a.at + a.key].cmp(&bytes[b.at..b.at + b.key]));
    }

    /// The keys with their records.
    pub(super) fn records(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|&Entry { at, key, record }| self.bytes[at..at + key + record].split_at(key))
    }
}
