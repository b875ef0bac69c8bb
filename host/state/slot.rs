//! A slot: a key of a lane with its state, packed. All bytes of a key lie in one allocation, so that an open key costs little and is found at one
//! place. Owns that form, and knows nothing of when a slot is written or read.
//!
//! ```text
//! bytes   key item* value
//! item    length bytes, as in a record of `super::layout`
//! ```
//!
//! The value is last, so appending an item moves the value and not the list: each call of a plugin is given the value anyway, and the list is not.

use crate::event_time::EventTime;
use crate::record::ByteColumn;
use crate::state::layout::{length_of, put_bytes, take_item};
use crate::state::{KeyState, ValueBytes};

/// A value's length where there is none.
const NONE: u32 = u32::MAX;
/// Up to this size the bytes take what they need; beyond, they grow by a quarter, so that each byte of a long list is moved a few times at most.
const EXACT_BYTES: usize = 1024;

/// A key of a lane, with its state.
#[derive(Debug)]
pub struct Slot {
    bytes: Vec<u8>,
    key_bytes: u32,
    value_bytes: u32,
    items: u32,
    /// Bytes of the items without their lengths.
    item_bytes: u32,
    timer: Option<EventTime>,
    /// The time under which the timer queue has it, if it does.
    pub(super) queued_for: Option<EventTime>,
    /// The state version of the plugin that wrote value and list; 0 while there is neither.
    pub version: u32,
    /// How many of the list's first items the store has, and their bytes. Without them `is_stored` alone says that it has the key.
    stored: Stored,
    /// The round in whose dirty list the slot is, or else that of the capture that took it last; 0 if none did.
    pub(super) round: u32,
    /// A batch, and the slot's group in it.
    pub(super) batch: u32,
    pub(super) group: u32,
    /// Its part of the shard's bytes of state.
    pub(super) counted: u32,
    /// Its part of the shard's bytes of memory.
    pub(super) charged: u32,
    /// Whether the state is loaded. Until then it must be read from the store.
    pub loaded: bool,
    /// Whether the store has the key. What a checkpoint has captured counts.
    pub(super) is_stored: bool,
    /// Whether it is in a dirty list.
    pub(super) listed: bool,
    /// Whether it changed since it was captured last.
    pub(super) changed: bool,
    /// Whether it is in the shard's list of emptied slots.
    pub(super) emptied: bool,
    /// Whether it had state when it was captured or read last.
    pub(super) held: bool,
    /// Whether a batch met it since the last look for cold keys.
    pub(super) touched: bool,
}

/// The first items of a list that the store has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) items: u32,
    /// Their bytes, with their lengths.
    pub(super) bytes: u32,
}

/// The items of a list.
#[derive(Clone, Copy, Debug)]
pub struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        take_item(&mut self.0)
    }
}

impl Slot {
    /// A slot of a key without state.
    pub fn new(key: &[u8], loaded: bool) -> Slot {
        Slot {
            bytes: key.to_vec(),
            key_bytes: length(key.len()),
            value_bytes: NONE,
            items: 0,
            item_bytes: 0,
            timer: None,
            queued_for: None,
            version: 0,
            stored: Stored::default(),
            round: 0,
            batch: 0,
            group: 0,
            counted: 0,
            charged: 0,
            loaded,
            is_stored: false,
            listed: false,
            changed: false,
            emptied: false,
            held: false,
            touched: true,
        }
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.bytes[..self.key_bytes as usize]
    }

    /// Value state.
    pub fn value(&self) -> Option<&[u8]> {
        (self.value_bytes != NONE).then(|| &self.bytes[self.items_end()..])
    }

    /// The items of list state, in their order.
    pub fn list(&self) -> Items<'_> {
        Items(self.packed_items(0))
    }

    /// The number of items.
    pub fn items(&self) -> u32 {
        self.items
    }

    /// The bytes of all items.
    pub fn item_bytes(&self) -> usize {
        self.item_bytes as usize
    }

    /// The bytes of value and list items.
    pub fn state_bytes(&self) -> usize {
        self.value_length() + self.item_bytes as usize
    }

    /// The timer, if one is set.
    pub fn timer(&self) -> Option<EventTime> {
        self.timer
    }

    /// Whether there is neither value nor list.
    pub fn is_bare(&self) -> bool {
        self.value_bytes == NONE && self.items == 0
    }

    /// Whether there is neither value nor list nor timer.
    pub fn is_empty(&self) -> bool {
        self.is_bare() && self.timer.is_none()
    }

    /// Returns a copy of the state.
    pub fn state(&self) -> KeyState {
        let mut list = ByteColumn::default();
        self.list().for_each(|item| list.push(item));
        KeyState { value: self.value().map(ValueBytes::from_slice), list, timer: self.timer }
    }

    /// Whether the state is this one.
    pub fn has_state(&self, state: &KeyState) -> bool {
        self.value() == state.value.as_deref() && self.timer == state.timer && self.list().eq(state.list.iter())
    }

    /// The items from byte `from` on, with their lengths.
    pub(super) fn packed_items(&self, from: u32) -> &[u8] {
        &self.bytes[self.key_bytes as usize + from as usize..self.items_end()]
    }

    /// The items that the store has, if it has the key.
    pub(super) fn stored(&self) -> Option<Stored> {
        self.is_stored.then_some(self.stored)
    }

    /// Notes that the store has all of the state.
    pub(super) fn note_stored(&mut self) {
        let bytes = length(self.items_end() - self.key_bytes as usize);
        (self.is_stored, self.stored) = (true, Stored { items: self.items, bytes });
    }

    /// What its bytes take.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives back what its bytes take and do not need.
    pub(super) fn shrink(&mut self) {
        if self.bytes.capacity() - self.bytes.len() > self.bytes.len() / 2 + 64 {
            self.bytes.shrink_to_fit();
        }
    }

    // ---- changes

    /// Sets or clears the timer.
    pub fn set_timer(&mut self, timer: Option<EventTime>) {
        self.timer = timer;
    }

    /// Sets or clears the value.
    pub fn set_value(&mut self, value: Option<&[u8]>) {
        self.bytes.truncate(self.items_end());
        self.value_bytes = value.map_or(NONE, |value| length(value.len()));
        if let Some(value) = value {
            self.reserve(value.len());
            self.bytes.extend_from_slice(value);
        }
    }

    /// Removes all items.
    pub fn clear_list(&mut self) {
        self.bytes.drain(self.key_bytes as usize..self.items_end());
        (self.items, self.item_bytes, self.stored) = (0, 0, Stored::default());
    }

    /// Appends items.
    pub fn append<'i>(&mut self, items: impl Iterator<Item = &'i [u8]> + Clone) {
        let (end, value) = (self.items_end(), self.value_length());
        self.reserve(items.clone().map(|item| length_of(item.len()) + item.len()).sum());
        for item in items {
            self.items += 1;
            self.item_bytes += length(item.len());
            put_bytes(&mut self.bytes, item);
        }
        self.bytes[end..].rotate_left(value); // behind the items again
        length(self.bytes.len());
    }

    /// Sets the state.
    pub fn set_state(&mut self, state: &KeyState) {
        self.clear();
        self.set_timer(state.timer);
        self.append(state.list.iter());
        self.set_value(state.value.as_deref());
        self.shrink();
    }

    /// Sets the state to that of another slot.
    pub fn copy_state(&mut self, other: &Slot) {
        self.clear();
        self.set_timer(other.timer);
        self.append(other.list());
        self.set_value(other.value());
        self.version = other.version;
    }

    /// Removes the state.
    pub fn clear(&mut self) {
        self.set_value(None);
        self.clear_list();
        self.set_timer(None);
    }

    fn value_length(&self) -> usize {
        if self.value_bytes == NONE { 0 } else { self.value_bytes as usize }
    }

    fn items_end(&self) -> usize {
        self.bytes.len() - self.value_length()
    }

    fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() < more {
            let ahead = if self.bytes.len() < EXACT_BYTES { 0 } else { self.bytes.len() / 4 };
            self.bytes.reserve_exact(more.max(ahead));
        }
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).ok().filter(|&bytes| bytes != NONE).expect("a key's state stays below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_takes_few_bytes_beside_those_of_key_and_state() {
        assert!(size_of::<Slot>() <= 96, "{} bytes", size_of::<Slot>());
    }

    #[test]
    fn value_list_and_timer_change_independently() {
        let mut slot = Slot::new(b"key", true);
        let mut state = KeyState::default();
        let same = |slot: &Slot, state: &KeyState| {
            assert_eq!((slot.key(), slot.state()), (&b"key"[..], state.clone()));
            assert!(slot.has_state(state));
            let bytes = state.list.data.len();
            assert_eq!((slot.item_bytes(), slot.items() as usize), (bytes, state.list.len()));
            assert_eq!(slot.state_bytes(), bytes + state.value.as_ref().map_or(0, |value| value.len()));
            assert_eq!(slot.is_empty(), state.is_empty());
        };
        same(&slot, &state);
        for step in 0..400_u64 {
            let item = vec![b'i'; usize::try_from(step * 7 % 200).expect("small")];
            match step % 5 {
                0 | 3 => {
                    slot.append([&item[..], b""].into_iter());
                    [&item[..], b""].iter().for_each(|item| state.list.push(item));
                }
                1 => {
                    slot.set_value(Some(&item));
                    state.value = Some(ValueBytes::from_slice(&item));
                }
                2 if step % 3 == 0 => {
                    slot.set_value(None);
                    state.value = None;
                }
                4 if step % 50 == 49 => {
                    slot.clear_list();
                    state.list.clear();
                }
                _ => {
                    state.timer = Some(EventTime::at(step.cast_signed()));
                    slot.set_timer(state.timer);
                }
            }
            same(&slot, &state);
        }
        let mut copy = Slot::new(b"key", true);
        copy.copy_state(&slot);
        same(&copy, &state);
        copy.set_state(&state);
        same(&copy, &state);
        copy.clear();
        same(&copy, &KeyState::default());
    }

    #[test]
    fn a_long_list_is_not_moved_for_each_item() {
        let mut slot = Slot::new(b"key", true);
        slot.set_value(Some(b"value"));
        let (mut moves, mut capacity) = (0, slot.capacity());
        for _ in 0..100_000 {
            slot.append(std::iter::once(&[b'i'; 20][..]));
            moves += u32::from(std::mem::replace(&mut capacity, slot.capacity()) != slot.capacity());
        }
        assert!(moves < 100, "{moves} times");
        assert_eq!((slot.items(), slot.value()), (100_000, Some(&b"value"[..])));
        assert!(slot.capacity() < slot.bytes.len() * 13 / 10, "{} bytes for {}", slot.capacity(), slot.bytes.len());
    }
}
