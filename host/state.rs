//! Keyed state and timers of a lane in memory, in shards so that workers need no locks. Owns slots, the timer queue and the dirty set;
//! knows no plugin and no store. How many shards there are changes no row.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::event_time::EventTime;
use crate::record::ByteColumn;

pub mod bucket;
pub mod checkpoint;
pub mod database;
pub mod journal;
pub mod layout;
pub mod memory;
pub mod objects;
pub mod patient;
pub mod reader;
pub mod slate;
pub mod store;

/// A key's bytes; few, as most keys have, lie in the slot itself.
pub type KeyBytes = SmallVec<[u8; 23]>;
/// A value's bytes; few lie in the slot itself.
pub type ValueBytes = SmallVec<[u8; 31]>;

/// What a key has, apart from where it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyState {
    /// Value state.
    pub value: Option<ValueBytes>,
    /// List state.
    pub list: ByteColumn,
    /// Timer, if one is set.
    pub timer: Option<EventTime>,
}

/// What the store holds of a key as of the last checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The timer under which the store's timer index lists it, if it does.
    pub timer: Option<EventTime>,
    /// Runs of list items in the store; 0 while the list is kept inline.
    pub runs: u32,
    /// List items in those runs (or inline).
    pub items: usize,
    /// State version of value and list.
    pub version: u32,
}

/// The number of a key's slot in its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

impl SlotId {
    /// Its place in the shard's slots.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A key of a lane.
#[derive(Debug)]
pub struct Slot {
    /// The key.
    pub key: KeyBytes,
    /// Its state.
    pub state: KeyState,
    /// What the store holds of it; none if nothing.
    pub stored: Option<Stored>,
    /// The state version of the plugin that wrote value and list; 0 while there is nothing.
    pub version: u32,
    /// Whether the list was cleared since the last checkpoint, so that stored items are void.
    pub list_replaced: bool,
    /// Whether `state` is known. Until then the store must be asked.
    pub loaded: bool,
    /// Whether the slot is in the shard's list of slots to look at, and whether it must be written.
    listed: bool,
    changed: bool,
    queued_for: Option<EventTime>,
    group: (u64, u32),
    /// What it counts for in the shard's bytes.
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
}

/// The hash by which keys are found and spread over shards; seeded with a constant, though no row depends on it.
pub fn hash(key: &[u8]) -> u64 {
    foldhash::fast::FixedState::with_seed(0x6b65_7966_6f6c_6421).hash_one(key)
}

/// The shard of a key with this hash. The upper half: the table uses the lower bits.
pub fn shard_of(hash: u64, shards: usize) -> usize {
    usize::try_from((u128::from(hash) * shards as u128) >> 64).expect("below the number of shards")
}

impl Shard {
    /// Starts a batch: groups handed out before are forgotten.
    pub fn begin_batch(&mut self) {
        self.batch += 1;
    }

    /// The slot of a key, made if there is none. `complete`: what is not in memory is not in the store either.
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
        self.dirty.push(slot); // so that a slot that never gets any state is freed
        let slots = &self.slots;
        self.index.insert_unique(hash, slot, |&s| self::hash(&slots[s.index()].key));
        slot
    }

    /// Whether the key is in memory.
    pub fn contains(&self, hash: u64, key: &[u8]) -> bool {
        self.index.find(hash, |&s| *self.slots[s.index()].key == *key).is_some()
    }

    /// The group that a slot has in this batch; `next` if it had none yet, which it then gets.
    pub fn group_of(&mut self, slot: SlotId, next: u32) -> u32 {
        let group = &mut self.slots[slot.index()].group;
        if group.0 != self.batch {
            *group = (self.batch, next);
        }
        group.1
    }

    /// How many slots there are, free ones included.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Value and list of a slot are of this version from now on, as there are none.
    pub fn set_version(&mut self, slot: SlotId, version: u32) {
        self.slots[slot.index()].version = version;
    }

    /// A slot.
    pub fn slot(&self, slot: SlotId) -> &Slot {
        &self.slots[slot.index()]
    }

    /// A slot, to be changed: it will be part of the next checkpoint.
    pub fn change(&mut self, slot: SlotId) -> &mut Slot {
        let entry = &mut self.slots[slot.index()];
        entry.changed = true;
        if !entry.listed {
            entry.listed = true;
            self.dirty.push(slot);
        }
        entry
    }

    /// Gives a slot what the store has of it, and queues its timer.
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

    /// Puts the slot's timer into the queue, if it is not there at that time or earlier.
    pub fn schedule(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot.index()];
        if let Some(time) = entry.state.timer
            && entry.queued_for.is_none_or(|queued| time < queued)
        {
            entry.queued_for = Some(time);
            self.timers.push(Reverse((time, slot)));
        }
    }

    /// A slot whose timer is due at `watermark`, taken out of the queue. The caller fires it and schedules it again.
    pub fn pop_due(&mut self, watermark: Option<EventTime>) -> Option<SlotId> {
        while let Some(&Reverse((time, slot))) = self.timers.peek() {
            if Some(time) > watermark {
                return None;
            }
            self.timers.pop();
            let entry = &mut self.slots[slot.index()];
            if entry.queued_for != Some(time) {
                continue; // an earlier entry of the same slot stood before this one
            }
            entry.queued_for = None;
            if entry.state.timer.is_some_and(|timer| Some(timer) <= watermark) {
                return Some(slot);
            }
            self.schedule(slot);
        }
        None
    }

    /// The slots whose timers are due at `watermark`; they stay in the queue.
    pub fn due(&mut self, watermark: Option<EventTime>) -> Vec<SlotId> {
        let due: Vec<SlotId> = std::iter::from_fn(|| self.pop_due(watermark)).collect();
        due.iter().for_each(|&slot| self.schedule(slot));
        due
    }

    /// The slots changed since the last call, for a checkpoint; slots left without any state are then freed.
    pub fn take_dirty(&mut self, mut each: impl FnMut(&mut Slot)) {
        for slot in std::mem::take(&mut self.dirty) {
            let entry = &mut self.slots[slot.index()];
            entry.listed = false;
            if entry.changed {
                each(entry);
            }
            (entry.changed, entry.list_replaced) = (false, false);
            entry.count_bytes(&mut self.bytes);
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

    /// How many keys have state in memory, just after [`Shard::take_dirty`]; before it, those that may have.
    pub fn keys(&self) -> usize {
        self.index.len()
    }

    /// Bytes of their keys, values and list items, as of then.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Slot {
    /// Has it count, in a sum over slots, for what it is now.
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
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.value.is_none() && self.list.is_empty() && self.timer.is_none()
    }
}
