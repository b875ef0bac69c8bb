//! The layout of keyed state in the store, as versioned bytes. Pure.
//!
//! | key | value |
//! |---|---|
//! | `m` | the checkpoint ([`super::checkpoint`]) |
//! | `k` key | the key's record: version, flags, state version (u32) unless it is 1, timer, runs, items in runs, value, inline list |
//! | `l` length of key (u32), key, run (u32) | a run of list items |
//! | `t` timer (u64, ordered), key | nothing |
//! | `u` any of the keys above | an undo entry, the value before the T of a deployment on probation: 0 for none, or 1 and the value |
//! | `v` | the number (u64) of that deployment |
//!
//! A short list is kept inline. A long one is kept in runs, one more per checkpoint, so that a checkpoint costs what was added since the last.

use crate::event_time::{EventTime, cell};
use crate::record::ByteColumn;
use crate::state::{KeyState, Slot, Stored, ValueBytes};

/// The entry of the checkpoint.
pub const CHECKPOINT: &[u8] = b"m";

const VERSION: u8 = 1;
const HAS_VALUE: u8 = 1;
/// The state version follows. Without this flag it is 1.
const HAS_STATE_VERSION: u8 = 2;
/// The greatest size of an inline list, bytes.
const INLINE_BYTES: usize = 1024;
/// The number of runs of one list after which they are rewritten as one.
const MAX_RUNS: u32 = 64;

/// Returns the entry of a key's record.
pub fn record_key(key: &[u8]) -> Vec<u8> {
    [b"k", key].concat()
}

/// Returns the key of a record's entry.
pub fn key_of_record(stored: &[u8]) -> &[u8] {
    &stored[1..]
}

/// The entry of the number of the deployment that can be undone.
pub const UNDO_OF: &[u8] = b"v";
/// The prefix of undo entries.
pub const UNDO: &[u8] = b"u";

/// Returns the undo entry of an entry.
pub fn undo_key(key: &[u8]) -> Vec<u8> {
    [UNDO, key].concat()
}

/// Encodes the value of an undo entry; `None` if there was no value.
pub fn encode_undo(before: Option<&[u8]>) -> Vec<u8> {
    before.map_or_else(|| vec![0], |value| [&[1], value].concat())
}

/// Decodes the value of an undo entry.
pub fn decode_undo(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split_first().filter(|(tag, _)| **tag == 1).map(|(_, value)| value)
}

/// The prefix of all records of keys.
pub const RECORDS: &[u8] = b"k";
/// The prefix of the timer index.
pub const TIMERS: &[u8] = b"t";

/// Returns the entry of a run of list items.
pub fn run_key(key: &[u8], run: u32) -> Vec<u8> {
    let length = u32::try_from(key.len()).expect("a key is part of a batch below 4 GiB");
    [b"l", &length.to_be_bytes()[..], key, &run.to_be_bytes()[..]].concat()
}

/// Returns the entry of a timer. Entries are ordered by (time, key).
pub fn timer_key(time: EventTime, key: &[u8]) -> Vec<u8> {
    [b"t", &ordered(time.ms()).to_be_bytes()[..], key].concat()
}

/// Returns the time and the key of a timer's entry.
pub fn timer_of(stored: &[u8]) -> Option<(EventTime, &[u8])> {
    let time = u64::from_be_bytes(stored.get(1..9)?.try_into().ok()?);
    Some((EventTime::from_cell((time ^ (1 << 63)).cast_signed())?, &stored[9..]))
}

fn ordered(time: i64) -> u64 {
    time.cast_unsigned() ^ (1 << 63)
}

/// Calls `change` with each entry that a slot changes: the new value, or `None` to delete the entry. Updates the slot's `stored`.
pub fn changes(slot: &mut Slot, mut change: impl FnMut(Vec<u8>, Option<Vec<u8>>)) {
    let before = slot.stored.take();
    let (old_runs, old_timer) = before.as_ref().map_or((0, None), |s| (s.runs, s.timer));
    let key = &slot.key;
    if slot.state.is_empty() {
        if before.is_some() {
            change(record_key(key), None);
        }
        (0..old_runs).for_each(|run| change(run_key(key, run), None));
        if let Some(timer) = old_timer {
            change(timer_key(timer, key), None);
        }
        return;
    }
    let kept = before.filter(|s| !slot.list_replaced && s.runs < MAX_RUNS);
    let (mut runs, mut items) = kept.map_or((0, 0), |s| (s.runs, s.items));
    (runs..old_runs).for_each(|run| change(run_key(key, run), None));
    let list = &slot.state.list;
    let inline = runs == 0 && list.data.len() + 4 * list.len() <= INLINE_BYTES;
    if !inline && items < list.len() {
        let mut run = Vec::new();
        encode_items(list, items, &mut run);
        change(run_key(key, runs), Some(run));
        (runs, items) = (runs + 1, list.len());
    }
    if slot.state.timer != old_timer {
        if let Some(timer) = old_timer {
            change(timer_key(timer, key), None);
        }
        if let Some(timer) = slot.state.timer {
            change(timer_key(timer, key), Some(Vec::new()));
        }
    }
    let stored = Stored { timer: slot.state.timer, runs, items, version: slot.version };
    change(record_key(key), Some(encode(&slot.state, &stored)));
    slot.stored = Some(stored);
}

fn encode(state: &KeyState, stored: &Stored) -> Vec<u8> {
    let value = state.value.as_deref().unwrap_or_default();
    let mut bytes = Vec::with_capacity(32 + value.len() + state.list.data.len());
    bytes.push(VERSION);
    let other_version = if stored.version == 1 { 0 } else { HAS_STATE_VERSION };
    bytes.push(other_version | if state.value.is_some() { HAS_VALUE } else { 0 });
    if other_version != 0 {
        bytes.extend_from_slice(&stored.version.to_le_bytes());
    }
    bytes.extend_from_slice(&cell(state.timer).to_le_bytes());
    bytes.extend_from_slice(&stored.runs.to_le_bytes());
    bytes.extend_from_slice(&narrow(stored.items).to_le_bytes());
    bytes.extend_from_slice(&narrow(value.len()).to_le_bytes());
    bytes.extend_from_slice(value);
    if stored.runs == 0 {
        encode_items(&state.list, 0, &mut bytes);
    }
    bytes
}

/// Decodes a key's record. A list in runs is left empty: [`decode_items`] appends each run.
pub fn decode(bytes: &[u8]) -> Result<(KeyState, Stored), Corrupt> {
    let mut rest = bytes;
    let [version, flags] = *take::<2>(&mut rest)?;
    if version != VERSION {
        return Err(Corrupt::Version(version));
    }
    let state_version = if flags & HAS_STATE_VERSION == 0 { 1 } else { u32::from_le_bytes(*take(&mut rest)?) };
    let timer = EventTime::from_cell(i64::from_le_bytes(*take(&mut rest)?));
    let runs = u32::from_le_bytes(*take(&mut rest)?);
    let items = u32::from_le_bytes(*take(&mut rest)?) as usize;
    let length = u32::from_le_bytes(*take(&mut rest)?) as usize;
    let value = rest.split_off(..length).ok_or(Corrupt::Short)?;
    let mut state = KeyState {
        value: (flags & HAS_VALUE != 0).then(|| ValueBytes::from_slice(value)),
        list: ByteColumn::default(),
        timer,
    };
    if runs == 0 {
        decode_items(rest, &mut state.list)?;
    }
    Ok((state, Stored { timer, runs, items, version: state_version }))
}

fn encode_items(list: &ByteColumn, first: usize, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&narrow(list.len() - first).to_le_bytes());
    for item in first..list.len() {
        bytes.extend_from_slice(&narrow(list.get(item).len()).to_le_bytes());
    }
    bytes.extend_from_slice(&list.data[list.start(first)..]);
}

/// Appends the items of a run to a list.
pub fn decode_items(bytes: &[u8], list: &mut ByteColumn) -> Result<(), Corrupt> {
    let mut rest = bytes;
    let count = u32::from_le_bytes(*take(&mut rest)?) as usize;
    let lengths = rest.split_off(..count * 4).ok_or(Corrupt::Short)?;
    for length in lengths.chunks_exact(4) {
        let length = u32::from_le_bytes(length.try_into().expect("chunks of four")) as usize;
        list.push(rest.split_off(..length).ok_or(Corrupt::Short)?);
    }
    Ok(())
}

/// Why stored bytes cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// They were written by a newer version of keyfold.
    #[error("it has format {0}, and this version reads format {VERSION}; run a newer keyfold")]
    Version(u8),
    /// They end too early.
    #[error("it is incomplete; run `keyfold reset` to rebuild it from the log")]
    Short,
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], Corrupt> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(Corrupt::Short)?;
    *rest = tail;
    Ok(head)
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("a key's state stays below 4 GiB")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::{Shard, hash};

    /// Applies what changed in `shard` to a store in memory.
    fn write(shard: &mut Shard, store: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        shard.take_dirty(|slot| {
            changes(slot, |key, value| match value {
                Some(value) => drop(store.insert(key, value)),
                None => drop(store.remove(&key)),
            });
        });
    }

    fn read(store: &BTreeMap<Vec<u8>, Vec<u8>>, key: &[u8]) -> Option<KeyState> {
        let (mut state, stored) = decode(store.get(&record_key(key))?).expect("just written");
        for run in 0..stored.runs {
            decode_items(&store[&run_key(key, run)], &mut state.list).expect("just written");
        }
        Some(state)
    }

    #[test]
    fn a_long_list_is_kept_in_runs_and_reads_back_in_order() {
        let (mut shard, mut store) = (Shard::default(), BTreeMap::new());
        let slot = shard.slot_of(hash(b"k"), b"k", true);
        for round in 0..200u32 {
            let state = &mut shard.change(slot).state;
            state.value = Some(ValueBytes::from_slice(&round.to_le_bytes()));
            state.timer = Some(EventTime::at(i64::from(round) - 100));
            (0..20u32).for_each(|i| state.list.push(format!("page {round}/{i}").as_bytes()));
            write(&mut shard, &mut store);
            assert_eq!(read(&store, b"k").as_ref(), Some(&shard.slot(slot).state));
            assert_eq!(store.keys().filter(|k| k[0] == b't').count(), 1);
        }
        assert!(store.len() <= 2 + 64, "runs are rewritten as one from time to time");
    }

    #[test]
    fn a_key_without_state_leaves_nothing_behind() {
        let (mut shard, mut store) = (Shard::default(), BTreeMap::new());
        let slot = shard.slot_of(hash(b"k"), b"k", true);
        let state = &mut shard.change(slot).state;
        state.timer = Some(EventTime::at(7));
        (0..2000u32).for_each(|i| state.list.push(&i.to_le_bytes()));
        write(&mut shard, &mut store);
        assert!(!store.is_empty());
        let slot = shard.change(slot);
        slot.state = KeyState::default();
        slot.list_replaced = true;
        write(&mut shard, &mut store);
        assert!(store.is_empty());
        assert_eq!(shard.keys(), 0);
    }

    #[test]
    fn a_replaced_list_is_not_appended_to_the_stored_one() {
        let (mut shard, mut store) = (Shard::default(), BTreeMap::new());
        let slot = shard.slot_of(hash(b"k"), b"k", true);
        (0..2000u32).for_each(|i| shard.change(slot).state.list.push(&i.to_le_bytes()));
        write(&mut shard, &mut store);
        let entry = shard.change(slot);
        entry.state.list.clear();
        entry.state.list.push(b"new");
        entry.list_replaced = true;
        write(&mut shard, &mut store);
        assert_eq!(read(&store, b"k").expect("still there").list.iter().collect::<Vec<_>>(), [b"new"]);
    }

    #[test]
    fn timers_are_ordered_by_time_then_key() {
        let keys = [
            timer_key(EventTime::at(i64::MIN + 1), b"z"),
            timer_key(EventTime::at(-1), b"a"),
            timer_key(EventTime::at(0), b"a"),
            timer_key(EventTime::at(0), b"b"),
            timer_key(EventTime::at(5), b""),
        ];
        assert!(keys.is_sorted());
        assert_eq!(timer_of(&keys[1]), Some((EventTime::at(-1), &b"a"[..])));
    }
}
