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
use crate::state::capture::Chunk;

pub mod backup;
pub mod bucket;
pub mod capture;
pub mod chain;
pub mod chained;
pub mod checkpoint;
pub mod database;
mod file;
pub mod forms;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
pub mod journal;
pub mod layout;
pub mod manifest;
pub mod memory;
mod merge;
pub mod objects;
pub mod pages;
pub mod patient;
pub mod reader;
#[cfg(test)]
mod scripted;
pub mod store;
pub mod tenure;
mod version;
mod writing;

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
    /// The state version of the plugin that wrote value and list; 0 while there is neither.
    pub version: u32,
    /// Whether `state` is loaded. Until then it must be read from the store.
    pub loaded: bool,
    /// How many of the list's first items the store has; `None` if it does not have the key. What a checkpoint has captured counts.
    stored: Option<u32>,
    /// The round in whose dirty list the slot is; 0 if it is in none.
    listed_in: u32,
    /// Whether it changed since it was captured last.
    changed: bool,
    /// Whether it is in the shard's list of emptied slots.
    emptied: bool,
    /// The time under which the timer queue has it, if it does.
    queued_for: Option<EventTime>,
    /// A batch, and the slot's group in it.
    group: (u64, u32),
    /// Its part of the shard's bytes.
    bytes: u32,
}

/// One shard of a lane's keys.
#[derive(Debug)]
pub struct Shard {
    index: HashTable<SlotId>,
    slots: Vec<Slot>,
    free: Vec<SlotId>,
    timers: BinaryHeap<Reverse<(EventTime, SlotId)>>,
    /// The slots that were touched since the last capture began.
    dirty: Vec<SlotId>,
    /// The number of the current round: one more than there were captures.
    round: u32,
    /// The slots that the capture at work has still to look at.
    capturing: Vec<SlotId>,
    /// What it has taken, and nobody has fetched yet.
    captured: Chunk,
    /// The slots that it found without state. They are freed once its checkpoint is durable: until then the store would be asked for them.
    emptied: Vec<SlotId>,
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

impl Default for Shard {
    fn default() -> Shard {
        Shard {
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            timers: BinaryHeap::new(),
            dirty: Vec::new(),
            round: 1,
            capturing: Vec::new(),
            captured: Chunk::default(),
            emptied: Vec::new(),
            batch: 0,
            bytes: 0,
            largest: 0,
        }
    }
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
            version: 0,
            loaded: complete,
            stored: None,
            listed_in: self.round,
            changed: false,
            emptied: false,
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

    /// Returns a slot to be changed, which the next checkpoint will write. If the capture at work has still to take it, it is taken first.
    pub fn change(&mut self, slot: SlotId) -> &mut Slot {
        let listed_in = self.slots[slot.index()].listed_in;
        if listed_in != self.round {
            if listed_in != 0 {
                self.take(slot);
            }
            self.slots[slot.index()].listed_in = self.round;
            self.dirty.push(slot);
        }
        let entry = &mut self.slots[slot.index()];
        entry.changed = true;
        entry
    }

    /// Sets the state of a slot, with its state version, to what the store holds, and queues its timer.
    pub fn fill(&mut self, slot: SlotId, found: Option<(KeyState, u32)>) {
        let entry = &mut self.slots[slot.index()];
        entry.loaded = true;
        if let Some((state, version)) = found {
            entry.stored = Some(count(state.list.len()));
            (entry.state, entry.version) = (state, version);
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

    // ---- checkpoints

    /// Begins a capture of what changed since the last one, which must be over. From now on the state counts as it is now.
    pub fn begin_capture(&mut self) {
        assert!(self.capturing.is_empty() && self.captured.is_empty(), "the last capture is over");
        self.capturing = std::mem::take(&mut self.dirty);
        self.round += 1;
    }

    /// Looks at up to `most` more slots of the capture. Returns how many are left.
    pub fn capture(&mut self, most: usize) -> usize {
        for _ in 0..most {
            let Some(slot) = self.capturing.pop() else { break };
            if ![0, self.round].contains(&self.slots[slot.index()].listed_in) {
                self.take(slot); // it was not changed since
                self.slots[slot.index()].listed_in = 0;
            }
        }
        self.capturing.len()
    }

    /// Returns what was captured so far, if that is at least `least` bytes.
    pub fn captured(&mut self, least: usize) -> Option<Chunk> {
        (self.captured.bytes() >= least && !self.captured.is_empty()).then(|| std::mem::take(&mut self.captured))
    }

    /// Takes a slot as it is.
    fn take(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot.index()];
        if std::mem::take(&mut entry.changed) {
            let is_stored = entry.stored.is_some();
            if !entry.state.is_empty() {
                self.captured.put(&entry.key, &entry.state, entry.version, entry.stored);
                entry.stored = Some(count(entry.state.list.len()));
            } else if is_stored {
                self.captured.delete(&entry.key);
                entry.stored = None;
            }
        }
        entry.count_bytes(&mut self.bytes);
        self.largest = self.largest.max(entry.bytes);
        if entry.state.is_empty() && !std::mem::replace(&mut entry.emptied, true) {
            self.emptied.push(slot);
        }
    }

    /// Frees the slots without state that captures have found: their checkpoints are durable, and so is that these keys have no state.
    pub fn free_emptied(&mut self) {
        for slot in std::mem::take(&mut self.emptied) {
            let entry = &mut self.slots[slot.index()];
            entry.emptied = false;
            if entry.state.is_empty() && entry.listed_in == 0 {
                self.free(slot);
            }
        }
    }

    fn free(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot.index()];
        entry.queued_for = None;
        let hash = self::hash(&entry.key);
        if let Ok(found) = self.index.find_entry(hash, |&s| s == slot) {
            found.remove();
        }
        self.free.push(slot);
    }

    /// Calls `each` with the slots that changed since the last call, for state that is stored nowhere. Then frees slots without state.
    pub fn take_dirty(&mut self, mut each: impl FnMut(&Slot)) {
        for slot in std::mem::take(&mut self.dirty) {
            let entry = &mut self.slots[slot.index()];
            entry.listed_in = 0;
            if std::mem::take(&mut entry.changed) {
                each(entry);
            }
            entry.count_bytes(&mut self.bytes);
            if entry.state.is_empty() {
                self.free(slot);
            }
        }
    }

    /// Returns the number of keys in memory. Just after a capture each of them has state.
    pub fn keys(&self) -> usize {
        self.index.len() - self.emptied.len()
    }

    /// Returns the bytes of keys, values and list items as they were captured or read last.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the bytes of the largest key, value and list items that was ever captured.
    pub fn largest(&self) -> u64 {
        u64::from(self.largest)
    }
}

impl Slot {
    /// Says that the list's items are not those that the store has, nor begin with them.
    pub fn replace_list(&mut self) {
        self.stored = self.stored.map(|_| 0);
    }

    /// Updates the slot's part of a sum of bytes.
    fn count_bytes(&mut self, sum: &mut u64) {
        let KeyState { value, list, .. } = &self.state;
        let bytes = self.key.len() + value.as_ref().map_or(0, |value| value.len()) + list.data.len();
        let bytes = if self.state.is_empty() { 0 } else { u32::try_from(bytes).unwrap_or(u32::MAX) };
        *sum = *sum + u64::from(bytes) - u64::from(self.bytes);
        self.bytes = bytes;
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).expect("a key's state stays below 4 GiB")
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
