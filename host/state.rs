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
use crate::state::checkpoint::Held;
use crate::state::slots::Slots;

pub use crate::state::slot::Slot;

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
pub mod slot;
mod slots;
pub mod store;
pub mod tenure;
#[cfg(test)]
mod tests;
mod version;
mod writing;

/// A value's bytes. Short ones need no allocation.
pub type ValueBytes = SmallVec<[u8; 31]>;

/// The state of a key, as it is read from files. In memory it lies in a [`Slot`].
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

/// A key's place in the index, with a part of its hash: so that the index grows without a look at the keys.
#[derive(Clone, Copy, Debug)]
struct Indexed {
    hash: u32,
    slot: SlotId,
}

/// One shard of a lane's keys.
#[derive(Debug)]
pub struct Shard {
    index: HashTable<Indexed>,
    slots: Slots,
    timers: BinaryHeap<Reverse<(EventTime, SlotId)>>,
    /// The slots that were touched since the last capture began. Some were read, evicted or freed since, and are not listed any more.
    dirty: Vec<SlotId>,
    /// The number of the current round: one more than there were captures.
    round: u32,
    /// The last round whose capture is durable.
    durable: u32,
    /// The slots that the capture at work has still to look at.
    capturing: Vec<SlotId>,
    /// What it has taken, and nobody has fetched yet.
    captured: Chunk,
    /// The slots that it found without state. They are freed once its checkpoint is durable: until then the store would be asked for them.
    emptied: Vec<SlotId>,
    batch: u32,
    /// Keys in memory that had state when they were captured or read last, and its bytes.
    held: Held,
    /// Keys that were read from the store, and those that were evicted, since the shard was made.
    read: Held,
    evicted: Held,
    /// What the bytes of all slots take.
    charged: u64,
    /// The slot at which the search for cold keys goes on.
    hand: u32,
    largest: u32,
}

/// What a slot takes beside its bytes: itself, its places in the index and in the timer queue, and what the allocator adds.
const SLOT_BYTES: u64 = size_of::<Slot>() as u64 + 16 + 16 + 16;

/// Keys that were evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Their number.
    pub keys: u64,
    /// The memory that they took, bytes.
    pub bytes: u64,
    /// The first of their timers.
    pub timer: Option<EventTime>,
    /// How many slots were looked at.
    pub looked_at: u64,
}

impl Evicted {
    /// Adds those of another shard.
    pub fn add(&mut self, more: Evicted) {
        self.keys += more.keys;
        self.bytes += more.bytes;
        self.timer = [self.timer, more.timer].into_iter().flatten().min();
        self.looked_at += more.looked_at;
    }
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
            slots: Slots::default(),
            timers: BinaryHeap::new(),
            dirty: Vec::new(),
            round: 1,
            durable: 0,
            capturing: Vec::new(),
            captured: Chunk::default(),
            emptied: Vec::new(),
            batch: 0,
            held: Held::default(),
            read: Held::default(),
            evicted: Held::default(),
            charged: 0,
            hand: 0,
            largest: 0,
        }
    }
}

impl Indexed {
    fn of(hash: u64, slot: SlotId) -> Indexed {
        Indexed { hash: (hash & 0xffff_ffff) as u32, slot }
    }

    /// The hash by which the index places it: of its part of the key's hash, with all bits mixed.
    fn place(self) -> u64 {
        u64::from(self.hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Shard {
    /// Starts a batch, in which no slot has a group yet.
    pub fn begin_batch(&mut self) {
        self.batch = self.batch.checked_add(1).unwrap_or_else(|| {
            self.slots.iter_mut().for_each(|slot| slot.batch = 0);
            1
        });
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<SlotId> {
        let wanted = Indexed::of(hash, SlotId(0));
        let is_it = |found: &Indexed| found.hash == wanted.hash && self.slots[found.slot].key() == key;
        self.index.find(wanted.place(), is_it).map(|found| found.slot)
    }

    /// Returns the slot of a key, and creates it if it does not exist. `complete` says that all keys of the store are in memory, so that a new
    /// slot is known to have no state.
    pub fn slot_of(&mut self, hash: u64, key: &[u8], complete: bool) -> SlotId {
        if let Some(slot) = self.find(hash, key) {
            self.slots[slot].touched = true;
            return slot;
        }
        let mut new = Slot::new(key, complete);
        (new.listed, new.round) = (true, self.round);
        let slot = self.slots.add(new);
        self.settle(slot);
        self.dirty.push(slot); // so that a slot that never gets state is freed
        let place = Indexed::of(hash, slot);
        self.index.insert_unique(place.place(), place, |place| place.place());
        slot
    }

    /// Returns whether the key is in memory.
    pub fn contains(&self, hash: u64, key: &[u8]) -> bool {
        self.find(hash, key).is_some()
    }

    /// Returns the slot's group in this batch. A slot without one gets the group `next`.
    pub fn group_of(&mut self, slot: SlotId, next: u32) -> u32 {
        let slot = &mut self.slots[slot];
        if slot.batch != self.batch {
            (slot.batch, slot.group) = (self.batch, next);
        }
        slot.group
    }

    /// Returns the number of slots, including free ones.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Sets the state version of a slot that has neither value nor list.
    pub fn set_version(&mut self, slot: SlotId, version: u32) {
        self.slots[slot].version = version;
    }

    /// Returns a slot.
    pub fn slot(&self, slot: SlotId) -> &Slot {
        &self.slots[slot]
    }

    /// Returns a slot to be changed, which the next checkpoint will write. If the capture at work has still to take it, it is taken first.
    pub fn change(&mut self, slot: SlotId) -> &mut Slot {
        let entry = &self.slots[slot];
        if !entry.listed || entry.round != self.round {
            if entry.listed {
                self.take(slot);
            }
            let entry = &mut self.slots[slot];
            (entry.listed, entry.round) = (true, self.round);
            self.dirty.push(slot);
        }
        let entry = &mut self.slots[slot];
        entry.changed = true;
        entry
    }

    /// Sets the state of a slot, with its state version, to what the store holds, and queues its timer.
    pub fn fill(&mut self, slot: SlotId, found: Option<(KeyState, u32)>) {
        let entry = &mut self.slots[slot];
        entry.loaded = true;
        if let Some((state, version)) = found {
            entry.set_state(&state);
            entry.note_stored();
            entry.version = version;
            (entry.listed, entry.round) = (false, 0); // nothing is to be captured of it
            self.count(slot);
            self.read.add(u64::from(self.slots[slot].counted));
            self.settle(slot);
            self.schedule(slot);
        }
    }

    /// Queues the slot's timer, unless the slot is queued for that time or an earlier one.
    pub fn schedule(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        if let Some(time) = entry.timer()
            && entry.queued_for.is_none_or(|queued| time < queued)
        {
            entry.queued_for = Some(time);
            self.timers.push(Reverse((time, slot)));
            if self.timers.len() > 2 * self.slots.used() + 1024 {
                self.queue_anew(); // slots that were evicted or freed have left their places
            }
        }
    }

    fn queue_anew(&mut self) {
        let queued = (0..).map(SlotId).zip(self.slots.iter_mut());
        let queued = queued.filter_map(|(number, slot)| Some(Reverse((slot.queued_for?, number))));
        self.timers = queued.collect();
    }

    /// Takes a slot whose timer is due at `watermark` from the queue. The caller fires the timer and schedules the slot again.
    pub fn pop_due(&mut self, watermark: Option<EventTime>) -> Option<SlotId> {
        while let Some(&Reverse((time, slot))) = self.timers.peek() {
            if Some(time) > watermark {
                return None;
            }
            self.timers.pop();
            let entry = &mut self.slots[slot];
            if entry.queued_for != Some(time) {
                continue; // the slot was queued again, for another time
            }
            entry.queued_for = None;
            if entry.timer().is_some_and(|timer| Some(timer) <= watermark) {
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
            if self.slots[slot].listed && self.slots[slot].round != self.round {
                self.take(slot); // it was not changed since
                self.slots[slot].listed = false;
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
        let entry = &mut self.slots[slot];
        if std::mem::take(&mut entry.changed) {
            if !entry.is_empty() {
                self.captured.put(entry);
                entry.note_stored();
            } else if entry.is_stored {
                self.captured.delete(entry.key());
                entry.is_stored = false;
            }
        }
        entry.shrink();
        if entry.is_empty() && !std::mem::replace(&mut entry.emptied, true) {
            self.emptied.push(slot);
        }
        self.count(slot);
        self.settle(slot);
    }

    /// Notes that what the last capture took is durable.
    pub fn end_capture(&mut self) {
        self.durable = self.round - 1;
    }

    /// Frees the slots without state that captures have found: their checkpoints are durable, and so is that these keys have no state.
    pub fn free_emptied(&mut self) {
        for slot in std::mem::take(&mut self.emptied) {
            let entry = &mut self.slots[slot];
            entry.emptied = false;
            if entry.is_empty() && !entry.listed {
                self.free(slot);
            }
        }
    }

    fn free(&mut self, slot: SlotId) {
        let entry = &self.slots[slot];
        self.charged -= u64::from(entry.charged);
        let place = Indexed::of(self::hash(entry.key()), slot);
        if let Ok(found) = self.index.find_entry(place.place(), |found| found.slot == slot) {
            found.remove();
        }
        self.slots.remove(slot);
    }

    /// Calls `each` with the slots that changed since the last call, for state that is stored nowhere. Then frees slots without state.
    pub fn take_dirty(&mut self, mut each: impl FnMut(&Slot)) {
        for slot in std::mem::take(&mut self.dirty) {
            let entry = &mut self.slots[slot];
            if !std::mem::take(&mut entry.listed) {
                continue;
            }
            if std::mem::take(&mut entry.changed) {
                each(entry);
            }
            self.count(slot);
            self.settle(slot);
            if self.slots[slot].is_empty() {
                self.free(slot);
            }
        }
    }

    /// Updates a slot's part of what is held.
    fn count(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        let bytes = entry.key().len() + entry.state_bytes();
        let bytes = if entry.is_empty() { 0 } else { u32::try_from(bytes).unwrap_or(u32::MAX) };
        if entry.held {
            self.held.remove(u64::from(entry.counted));
        }
        (entry.counted, entry.held) = (bytes, !entry.is_empty());
        if entry.held {
            self.held.add(u64::from(bytes));
        }
        self.largest = self.largest.max(bytes);
    }

    /// Returns the keys in memory that had state when they were captured or read last, and its bytes.
    pub fn held(&self) -> Held {
        self.held
    }

    /// Returns the bytes of the largest key, value and list items that was ever captured.
    pub fn largest(&self) -> u64 {
        u64::from(self.largest)
    }

    // ---- memory

    /// Updates what a slot counts for in [`Shard::memory`], after it was changed.
    pub fn settle(&mut self, slot: SlotId) {
        let entry = &mut self.slots[slot];
        let bytes = u32::try_from(entry.capacity()).unwrap_or(u32::MAX);
        self.charged = self.charged + u64::from(bytes) - u64::from(entry.charged);
        entry.charged = bytes;
    }

    /// Returns the memory that its keys take, bytes, about.
    pub fn memory(&self) -> u64 {
        self.slots.used() as u64 * SLOT_BYTES + self.charged
    }

    /// Returns how many keys are in memory, with those that have lost their state.
    pub fn in_memory(&self) -> usize {
        self.slots.used()
    }

    /// Returns how many keys changed since they were captured last, about.
    pub fn changed(&self) -> usize {
        (self.dirty.len() + self.capturing.len()).min(self.in_memory())
    }

    /// Returns the keys that were read from the store since the shard was made, and those that were evicted.
    pub fn moved(&self) -> (Held, Held) {
        (self.read, self.evicted)
    }

    /// Looks at up to `most` slots for keys that no batch has met since the last look at them, and evicts those of which a durable checkpoint has
    /// everything, until they took `bytes`. Keys with a timer up to `soon` stay. No batch may be at work.
    pub fn evict(&mut self, bytes: u64, most: usize, soon: Option<EventTime>) -> Evicted {
        let mut evicted = Evicted::default();
        for _ in 0..most.min(self.slots.len()) {
            if evicted.bytes >= bytes {
                break;
            }
            evicted.looked_at += 1;
            let slot = SlotId(if (self.hand as usize) < self.slots.len() { self.hand } else { 0 });
            self.hand = slot.0 + 1;
            let entry = &mut self.slots[slot];
            let is_covered = entry.is_stored && !entry.listed && !entry.emptied && entry.round <= self.durable;
            let timer = entry.timer();
            if !is_covered || std::mem::take(&mut entry.touched) || timer.is_some_and(|timer| Some(timer) <= soon) {
                continue;
            }
            let counted = u64::from(entry.counted);
            let bytes = SLOT_BYTES + u64::from(entry.charged);
            evicted.add(Evicted { keys: 1, bytes, timer, looked_at: 0 });
            self.held.remove(counted);
            self.evicted.add(counted);
            self.free(slot);
        }
        evicted
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
