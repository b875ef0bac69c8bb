//! Keyed state and timers of a lane in memory, in shards so that workers need no locks. Owns slots, the timer queue and the dirty set; knows
//! neither plugins nor the store. The number of shards changes no row.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::event_time::EventTime;
use crate::machine;
use crate::record::ByteColumn;

pub mod bucket;
pub mod chain;
pub mod chained;
pub mod checkpoint;
pub mod database;
mod folder;
pub mod forms;
pub mod journal;
pub mod layout;
pub mod memory;
pub mod objects;
pub mod patient;
pub mod reader;
#[cfg(test)]
mod scripted;
pub mod slate;
pub mod store;
pub mod tenure;

/// A key's bytes. Short ones, as most are, are kept in the slot itself.
pub type KeyBytes = SmallVec<[u8; 23]>;
/// A value's bytes. Short ones are kept in the slot itself.
pub type ValueBytes = SmallVec<[u8; 31]>;

/// The state of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyState {
    /// Value state.
    pub value: Option<ValueBytes>,
    /// List state.
    pub list: ByteColumn,
    /// The timer, if one is set.
    pub timer: Option<EventTime>,
}

/// How the store holds a key as of the last checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The timer under which the store's index lists the key, if it does.
    pub timer: Option<EventTime>,
    /// The number of runs of list items; 0 while the list is kept inline.
    pub runs: u32,
    /// The number of list items in those runs.
    pub items: usize,
    /// The state version of value and list.
    pub version: u32,
}

/// The index of a key's slot in its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

impl SlotId {
    /// Returns the index as a `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A key of a lane, with its state.
#[derive(Debug)]
pub struct Slot {
    /// The key.
    pub key: KeyBytes,
    /// Its state.
    pub state: KeyState,
    /// How the store holds it; `None` if it does not.
    pub stored: Option<Stored>,
    /// The state version of the plugin that wrote value and list; 0 while there is neither.
    pub version: u32,
    /// Whether the list was cleared since the last checkpoint, so that the stored items are obsolete.
    pub list_replaced: bool,
    /// Whether `state` is loaded. Until then it must be read from the store.
    pub loaded: bool,
    /// Whether the slot is in the shard's dirty list.
    listed: bool,
    /// Whether the next checkpoint must write it.
    changed: bool,
    /// The time under which the timer queue has it, if it does.
    queued_for: Option<EventTime>,
    /// A batch, and the slot's group in it.
    group: (u64, u32),
    /// Its part of the shard's bytes.
    bytes: u32,
}

/// One shard of a lane's keys.
#[derive(Debug, Default)]
pub struct Shard {
    index: HashTable<SlotId>,
    slots: Vec<Slot>,
    free: Vec<SlotId>,
    timers: BinaryHeap<Reverse<(EventTime, SlotId)>>,
    dirty: Vec<SlotId>,
    batch: u64,
    bytes: u64,
    largest: u32,
}

/// The seeds of [`hash`] in this process.
static SEEDS: LazyLock<(u64, SharedSeed)> = LazyLock::new(|| {
    let (seed, shared) = machine::seeds();
    (seed, SharedSeed::from_u64(shared))
});

/// Returns the hash by which keys are found and distributed over shards. Each process has seeds of its own, so that nobody can prepare keys
/// that collide. No row depends on it (D43).
pub fn hash(key: &[u8]) -> u64 {
    let (seed, shared) = &*SEEDS;
    let mut hasher = FoldHasher::with_seed(*seed, shared);
    key.hash(&mut hasher);
    hasher.finish()
}

/// Returns the shard of a key with this hash, by its upper bits: the shard's table uses the lower ones.
pub fn shard_of(hash: u64, shards: usize) -> usize {
    usize::try_from((u128::from(hash) * shards as u128) >> 64).expect("below the number of shards")
}

impl Shard {
    /// Starts a batch, in which no slot has a group yet.
    pub fn begin_batch(&mut self) {
        self.batch += 1;
    }

    /// Returns the slot of a key, and creates it if it does not exist. `complete` says that all keys of the store are in memory, so that a new
    /// slot is known to have no state.
    pub fn slot_of(&mut self, hash: u64, key: &[u8], complete: bool) -> SlotId {
        if let Some(&slot) = self.index.find(hash, |&s| *self.slots[s.index()].key == *key) {
            return slot;
        }
        let new = Slot {
            key: KeyBytes::from_slice(key),
            state: KeyState::default(),
            stored: None,
            version: 0,
            list_replaced: false,
            loaded: complete,
            listed: true,
            changed: false,
            queued_for: None,
            group: (0, 0),
            bytes: 0,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot.index()] = new;
                slot
            }
            None => {
                self.slots.push(new);
                SlotId(u32::try_from(self.slots.len() - 1).expect("a shard has fewer than 2^32 keys"))
            }
        };
        self.dirty.push(slot); // so that a slot that never gets state is freed
        let slots = &self.slots;
        self.index.insert_unique(hash, slot, |&s| self::hash(&slots[s.index()].key));
        slot
    }

    /// Returns whether the key is in memory.
    pub fn contains(&self, hash: u64, key: &[u8]) -> bool {
        self.index.find(hash, |&s| *self.slots[s.index()].key == *key).is_some()
    }

    /// Returns the slot's group in this batch. A slot without one gets the group `next`.
    pub fn group_of(&mut self, slot: SlotId, next: u32) -> u32 {
        let group = &mut self.slots[slot.index()].group;
        if group.0 != self.batch {
            *group = (self.batch, next);
        }
        group.1
    }

    /// Returns the number of slots, including free ones.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Sets the state version of a slot that has neither value nor list.
    pub fn set_version(&mut self, slot: SlotId, version: u32) {
        self.slots[slot.index()].version = version;
    }

    /// Returns a slot.
    pub fn slot(&self, slot: SlotId) -> &Slot {
        &self.slots[slot.index()]
    }

    /// Returns a slot to be changed, which the next checkpoint will write.
    pub fn change(&mut self, slot: SlotId) -> &mut Slot {
        let entry = &mut self.slots[slot.index()];
        entry.changed = true;
        if !entry.listed {
            entry.listed = true;
            self.dirty.push(slot);
        }
        entry
    }

    /// Sets the state of a slot to what the store holds, and queues its timer.
    pub fn fill(&mut self, slot: SlotId, loaded: Option<(KeyState, Stored)>) {
        let entry = &mut self.slots[slot.index()];
        entry.loaded = true;
        if let Some((state, stored)) = loaded {
            entry.state = state;
            entry.version = stored.version;
            entry.stored = Some(stored);
            entry.count_bytes(&mut self.bytes);
            self.schedule(slot);
        }
    }

    /// Queues the slot's timer, unless the slot is queued for that time or an earlier one.
    pub fn schedule(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot.index()];
        if let Some(time) = entry.state.timer
            && entry.queued_for.is_none_or(|queued| time < queued)
        {
            entry.queued_for = Some(time);
            self.timers.push(Reverse((time, slot)));
        }
    }

    /// Takes a slot whose timer is due at `watermark` from the queue. The caller fires the timer and schedules the slot again.
    pub fn pop_due(&mut self, watermark: Option<EventTime>) -> Option<SlotId> {
        while let Some(&Reverse((time, slot))) = self.timers.peek() {
            if Some(time) > watermark {
                return None;
            }
            self.timers.pop();
            let entry = &mut self.slots[slot.index()];
            if entry.queued_for != Some(time) {
                continue; // the slot was queued again, for another time
            }
            entry.queued_for = None;
            if entry.state.timer.is_some_and(|timer| Some(timer) <= watermark) {
                return Some(slot);
            }
            self.schedule(slot);
        }
        None
    }

    /// Returns the slots whose timers are due at `watermark`, and leaves them in the queue.
    pub fn due(&mut self, watermark: Option<EventTime>) -> Vec<SlotId> {
        let due: Vec<SlotId> = std::iter::from_fn(|| self.pop_due(watermark)).collect();
        due.iter().for_each(|&slot| self.schedule(slot));
        due
    }

    /// Calls `each` with the slots that changed since the last call, for a checkpoint. Then frees slots without state.
    pub fn take_dirty(&mut self, mut each: impl FnMut(&mut Slot)) {
        for slot in std::mem::take(&mut self.dirty) {
            let entry = &mut self.slots[slot.index()];
            entry.listed = false;
            if entry.changed {
                each(entry);
            }
            (entry.changed, entry.list_replaced) = (false, false);
            entry.count_bytes(&mut self.bytes);
            self.largest = self.largest.max(entry.bytes);
            if entry.state.is_empty() {
                let hash = self::hash(&entry.key);
                entry.queued_for = None;
                if let Ok(found) = self.index.find_entry(hash, |&s| s == slot) {
                    found.remove();
                }
                self.free.push(slot);
            }
        }
    }

    /// Returns the number of keys in memory. Just after [`Shard::take_dirty`] each of them has state.
    pub fn keys(&self) -> usize {
        self.index.len()
    }

    /// Returns the bytes of keys, values and list items as of the last [`Shard::take_dirty`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the bytes of the largest key, value and list items that any [`Shard::take_dirty`] has found.
    pub fn largest(&self) -> u64 {
        u64::from(self.largest)
    }
}

impl Slot {
    /// Updates the slot's part of a sum of bytes.
    fn count_bytes(&mut self, sum: &mut u64) {
        let KeyState { value, list, .. } = &self.state;
        let bytes = self.key.len() + value.as_ref().map_or(0, |value| value.len()) + list.data.len();
        let bytes = if self.state.is_empty() { 0 } else { u32::try_from(bytes).unwrap_or(u32::MAX) };
        *sum = *sum + u64::from(bytes) - u64::from(self.bytes);
        self.bytes = bytes;
    }
}

impl std::fmt::Display for KeyState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| format!("\"{}\"", bytes.escape_ascii());
        let value = self.value.as_deref().map_or_else(|| "none".into(), text);
        let items: Vec<String> = self.list.iter().map(text).collect();
        let timer = self.timer.map_or_else(|| "none".into(), |timer| timer.to_string());
        write!(f, "value {value}, list [{}], timer {timer}", items.join(", "))
    }
}

impl KeyState {
    /// Returns whether there is neither value nor list nor timer.
    pub fn is_empty(&self) -> bool {
        self.value.is_none() && self.list.is_empty() && self.timer.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn keys_that_collide_cannot_be_prepared() {
        let of_a_known_seed = foldhash::fast::FixedState::with_seed(0x6b65_7966_6f6c_6421);
        let keys: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
        assert!(keys.iter().any(|key| hash(key) != of_a_known_seed.hash_one(key)), "the seed is in the source");
        let (seed, shared) = &*SEEDS;
        let (other, other_shared) = (RandomState::new().hash_one(1), SharedSeed::from_u64(1));
        let with = |seed: u64, shared: &SharedSeed| {
            let mut hasher = FoldHasher::with_seed(seed, shared);
            b"key"[..].hash(&mut hasher);
            hasher.finish()
        };
        assert_eq!(hash(b"key"), with(*seed, shared), "it is the same throughout a process");
        assert_ne!(with(*seed, shared), with(other, &other_shared));
    }
}
