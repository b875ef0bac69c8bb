//! The slots of a shard, in chunks, so that growing neither copies them nor needs their memory twice. A slot that is given back is used again.

use std::ops::{Index, IndexMut};

use crate::state::SlotId;
use crate::state::slot::Slot;

/// Slots of a chunk: a power of two.
const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 12;

/// Slots, by their number.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// All are full but the last one. The first one grows, so that few keys take little; each other one has its size from the start.
    chunks: Vec<Vec<Slot>>,
    free: Vec<SlotId>,
}

impl Slots {
    /// Their number, with those that are free.
    pub(super) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// The number of slots in use.
    pub(super) fn used(&self) -> usize {
        self.len() - self.free.len()
    }

    /// Takes a slot into use.
    pub(super) fn add(&mut self, slot: Slot) -> SlotId {
        if let Some(free) = self.free.pop() {
            self[free] = slot;
            return free;
        }
        let number = SlotId(u32::try_from(self.len()).expect("a shard has fewer than 2^32 keys"));
        match self.chunks.last_mut().filter(|last| last.len() < CHUNK) {
            Some(last) => last.push(slot),
            None => {
                let size = if self.chunks.is_empty() { 1 } else { CHUNK };
                let mut chunk = Vec::with_capacity(size);
                chunk.push(slot);
                self.chunks.push(chunk);
            }
        }
        number
    }

    /// Gives a slot back. Its bytes are freed.
    pub(super) fn remove(&mut self, slot: SlotId) {
        self[slot] = Slot::new(b"", false);
        self.free.push(slot);
    }

    /// All slots, with those that are free.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.chunks.iter_mut().flatten()
    }
}

impl Index<SlotId> for Slots {
    type Output = Slot;

    fn index(&self, slot: SlotId) -> &Slot {
        &self.chunks[slot.index() >> CHUNK_BITS][slot.index() & (CHUNK - 1)]
    }
}

impl IndexMut<SlotId> for Slots {
    fn index_mut(&mut self, slot: SlotId) -> &mut Slot {
        &mut self.chunks[slot.index() >> CHUNK_BITS][slot.index() & (CHUNK - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_keep_their_numbers_and_free_ones_are_used_again() {
        let (mut slots, key) = (Slots::default(), |i: usize| i.to_string().into_bytes());
        let count = 2 * CHUNK + 5;
        let ids: Vec<SlotId> = (0..count).map(|i| slots.add(Slot::new(&key(i), true))).collect();
        assert!(ids.iter().enumerate().all(|(i, &id)| slots[id].key() == key(i)));
        assert_eq!((slots.len(), slots.used()), (count, count));
        slots.remove(ids[CHUNK]);
        assert_eq!((slots.len(), slots.used()), (count, count - 1));
        assert_eq!(slots.add(Slot::new(b"new", true)), ids[CHUNK]);
        assert_eq!(slots[ids[CHUNK]].key(), b"new");
        assert_eq!(slots.iter_mut().count(), count);
    }
}
