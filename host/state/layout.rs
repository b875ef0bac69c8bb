//! The layout of a key's record in the files of keyed state, as versioned bytes. Pure.
//!
//! ```text
//! record  flags (u8) version [timer (i64)] [length value] [covered] count item*
//! item    length bytes
//! ```
//!
//! Numbers are variable-length (LEB128) but for the timer, which is little-endian. A record says all of a key's state, or that it has none, or
//! what was appended to its list since an older record: so a long list costs a checkpoint only what is new. The format is that of the file
//! ([`super::file`]).

use crate::event_time::EventTime;
use crate::record::ByteColumn;
use crate::state::slot::{Slot, Stored};
use crate::state::{KeyState, ValueBytes};

const HAS_VALUE: u8 = 1;
const HAS_TIMER: u8 = 2;
/// The items follow those of an older record, whose other parts are obsolete.
const APPENDS: u8 = 4;
/// The key has no state.
const DELETED: u8 = 8;
/// A list of which the store has fewer bytes than this is written as a whole.
const APPEND_FROM_BYTES: usize = 1024;

/// A record, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    flags: u8,
    /// The state version of value and list.
    pub version: u32,
    /// The timer, if one is set.
    pub timer: Option<EventTime>,
    value: &'a [u8],
    /// How many items the older records hold.
    covered: u64,
    count: u64,
    items: &'a [u8],
}

/// Appends the record of a slot's key. Of its list, only what the store does not have is written, if that is worth it.
pub(super) fn encode(slot: &Slot, out: &mut Vec<u8>) {
    let stored = slot.stored().unwrap_or_default();
    let appends = stored.bytes as usize >= APPEND_FROM_BYTES;
    let stored = if appends { stored } else { Stored::default() };
    let flags = if slot.value().is_some() { HAS_VALUE } else { 0 }
        | if slot.timer().is_some() { HAS_TIMER } else { 0 }
        | if appends { APPENDS } else { 0 };
    out.push(flags);
    put(out, u64::from(slot.version));
    out.extend(slot.timer().iter().flat_map(|timer| timer.ms().to_le_bytes()));
    if let Some(value) = slot.value() {
        put_bytes(out, value);
    }
    if appends {
        put(out, u64::from(stored.items));
    }
    put(out, u64::from(slot.items() - stored.items));
    out.extend_from_slice(slot.packed_items(stored.bytes));
}

/// Appends the record of a key without state.
pub fn encode_deleted(out: &mut Vec<u8>) {
    out.push(DELETED);
}

/// Decodes a record.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, Corrupt> {
    let mut rest = bytes;
    let [flags] = *take::<1>(&mut rest)?;
    if flags == DELETED && rest.is_empty() {
        return Ok(Record { flags, version: 0, timer: None, value: &[], covered: 0, count: 0, items: &[] });
    }
    if flags & !(HAS_VALUE | HAS_TIMER | APPENDS) != 0 {
        return Err(Corrupt);
    }
    let version = u32::try_from(number(&mut rest)?).map_err(|_| Corrupt)?;
    let timer = match flags & HAS_TIMER {
        0 => None,
        _ => Some(EventTime::from_cell(i64::from_le_bytes(*take(&mut rest)?)).ok_or(Corrupt)?),
    };
    let value = if flags & HAS_VALUE == 0 { &[][..] } else { bytes_of(&mut rest)? };
    let covered = if flags & APPENDS == 0 { 0 } else { number(&mut rest)? };
    let count = number(&mut rest)?;
    Ok(Record { flags, version, timer, value, covered, count, items: rest })
}

impl Record<'_> {
    /// Whether it needs an older record.
    pub fn appends(&self) -> bool {
        self.flags & APPENDS != 0
    }

    /// Whether it says that the key has no state.
    pub fn is_deleted(&self) -> bool {
        self.flags & DELETED != 0
    }

    /// Returns the state; `None` if the key has none.
    pub fn state(&self) -> Result<Option<KeyState>, Corrupt> {
        if self.is_deleted() {
            return Ok(None);
        }
        let mut list = ByteColumn::default();
        let mut rest = self.items;
        for _ in 0..self.count {
            list.push(bytes_of(&mut rest)?);
        }
        if !rest.is_empty() || self.appends() {
            return Err(Corrupt);
        }
        let value = (self.flags & HAS_VALUE != 0).then(|| ValueBytes::from_slice(self.value));
        Ok(Some(KeyState { value, list, timer: self.timer }))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.flags);
        put(out, u64::from(self.version));
        out.extend(self.timer.iter().flat_map(|timer| timer.ms().to_le_bytes()));
        if self.flags & HAS_VALUE != 0 {
            put_bytes(out, self.value);
        }
        if self.appends() {
            put(out, self.covered);
        }
        put(out, self.count);
        out.extend_from_slice(self.items);
    }
}

/// Puts two records of a key together: what the key has after both.
pub fn combine(newer: &[u8], older: &[u8]) -> Result<Vec<u8>, Corrupt> {
    let (new, old) = (decode(newer)?, decode(older)?);
    if !new.appends() {
        return Ok(newer.to_vec());
    }
    if old.is_deleted() || old.covered + old.count != new.covered {
        return Err(Corrupt);
    }
    let items = [old.items, new.items].concat();
    let flags = if old.appends() { new.flags } else { new.flags & !APPENDS };
    let both = Record { flags, covered: old.covered, count: old.count + new.count, items: &items, ..new };
    let mut out = Vec::with_capacity(items.len() + 64);
    both.encode(&mut out);
    Ok(out)
}

/// Why stored bytes cannot be decoded: they are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is damaged; run `keyfold reset` to rebuild it from the log")]
pub struct Corrupt;

/// Appends a number of variable length.
pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Appends bytes behind their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes a number of variable length.
pub(super) fn number(rest: &mut &[u8]) -> Result<u64, Corrupt> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = *take::<1>(rest)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Corrupt)
}

/// Takes bytes behind their length.
pub(super) fn bytes_of<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Corrupt> {
    let length = usize::try_from(number(rest)?).map_err(|_| Corrupt)?;
    rest.split_off(..length).ok_or(Corrupt)
}

/// Takes an item of a list; none at its end.
pub(super) fn take_item<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    bytes_of(rest).ok()
}

/// How many bytes the length of so many bytes takes.
pub(super) fn length_of(bytes: usize) -> usize {
    ((bytes | 1).ilog2() as usize) / 7 + 1
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], Corrupt> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(Corrupt)?;
    *rest = tail;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(value: Option<&[u8]>, items: usize, timer: Option<i64>) -> KeyState {
        let mut list = ByteColumn::default();
        (0..items).for_each(|i| list.push(format!("item {i}").as_bytes()));
        KeyState { value: value.map(ValueBytes::from_slice), list, timer: timer.map(EventTime::at) }
    }

    /// The record of a state of whose list the store has the first items.
    fn record(state: &KeyState, stored: Option<usize>) -> Vec<u8> {
        let mut slot = Slot::new(b"key", true);
        slot.version = 3;
        if let Some(stored) = stored {
            slot.append(state.list.iter().take(stored));
            slot.note_stored();
        }
        slot.append(state.list.iter().skip(stored.unwrap_or(0)));
        slot.set_value(state.value.as_deref());
        slot.set_timer(state.timer);
        let mut out = Vec::new();
        encode(&slot, &mut out);
        out
    }

    #[test]
    fn a_state_reads_back_as_it_was() {
        for state in [
            state(Some(b"value"), 0, None),
            state(Some(b""), 3, Some(-1)),
            state(None, 500, Some(i64::MAX)),
            state(None, 0, Some(i64::MIN + 1)),
        ] {
            let bytes = record(&state, None);
            let read = decode(&bytes).expect("just written");
            assert_eq!((read.version, read.timer), (3, state.timer));
            assert_eq!(read.state(), Ok(Some(state)));
        }
        let mut deleted = Vec::new();
        encode_deleted(&mut deleted);
        assert_eq!(decode(&deleted).expect("just written").state(), Ok(None));
    }

    #[test]
    fn a_long_list_is_appended_to_and_a_short_one_is_written_again() {
        let short = record(&state(None, 10, None), Some(9));
        assert!(!decode(&short).expect("just written").appends());
        let (first, then, last) =
            (state(Some(b"a"), 500, Some(1)), state(None, 501, None), state(Some(b"c"), 900, None));
        let (full, middle, newest) = (record(&first, Some(3)), record(&then, Some(500)), record(&last, Some(501)));
        assert!(middle.len() < 32, "it holds one item");
        let from_old = combine(&newest, &combine(&middle, &full).expect("they follow")).expect("they follow");
        let from_new = combine(&combine(&newest, &middle).expect("they follow"), &full).expect("they follow");
        assert_eq!(decode(&from_old).expect("it is whole").state(), Ok(Some(last)));
        assert_eq!(from_old, from_new, "the order of merging does not matter");
        assert_eq!(combine(&newest, &full), Err(Corrupt), "one is missing between them");
        let mut deleted = Vec::new();
        encode_deleted(&mut deleted);
        assert_eq!(combine(&middle, &deleted), Err(Corrupt));
        assert_eq!(combine(&deleted, &full), Ok(deleted.clone()));
        assert_eq!(combine(&full, &deleted), Ok(full));
    }

    #[test]
    fn the_bytes_of_a_length_are_known() {
        for bytes in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 1 << 31] {
            let mut out = Vec::new();
            put(&mut out, bytes as u64);
            assert_eq!(length_of(bytes), out.len(), "{bytes}");
        }
    }

    #[test]
    fn no_bytes_are_read_beyond_their_end() {
        let whole = record(&state(Some(b"value"), 3, Some(5)), None);
        for end in 0..whole.len() {
            assert!(decode(&whole[..end]).and_then(|record| record.state()).is_err(), "{end}");
        }
        assert!(decode(&[16, 0, 0]).is_err(), "a flag that nobody sets");
        assert!(decode(&[0xff; 12]).is_err());
    }

    /// Bytes as they were first written; every later version reads them.
    #[test]
    fn records_of_the_first_format_are_read_and_written_unchanged() {
        let bytes = record(&state(Some(b"v"), 2, Some(258)), None);
        let golden = [
            3, 3, 2, 1, 0, 0, 0, 0, 0, 0, 1, b'v', 2, 6, b'i', b't', b'e', b'm', b' ', b'0', 6, b'i', b't', b'e', b'm',
            b' ', b'1',
        ];
        assert_eq!(bytes, golden);
    }
}
