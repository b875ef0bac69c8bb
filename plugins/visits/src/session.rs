//! The first record of an open session, and the session's id, which is derived from it.

use std::hash::Hasher;

use keyfold_sdk::{Event, Stored};
use siphasher::sip::SipHasher24;

use crate::Visits;
use crate::config::SessionId;

/// The first record of an open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// The record's append time; ms since 1970 UTC.
    pub append_time: i64,
    /// The record's partition.
    pub partition: u32,
    /// The record's offset.
    pub offset: u64,
    /// The index of the session's first event among the events of that record.
    pub index: u32,
}

impl First {
    /// Takes the record of this event.
    pub fn of(event: &Event<'_, Visits>) -> First {
        First { append_time: event.append_time, partition: event.partition, offset: event.offset, index: event.index }
    }

    /// Returns the session's id, for the user with this key.
    pub fn session_id(&self, form: SessionId, key: &str) -> i64 {
        let mut hash = SipHasher24::new_with_keys(0, 0);
        match form {
            SessionId::Record => {
                hash.write(key.as_bytes());
                hash.write(&[0]);
                hash.write(&self.encoded());
            }
            SessionId::AppendSecond => {
                let second = self.append_time.div_euclid(1000).saturating_mul(1000);
                hash.write(second.to_string().as_bytes());
            }
        }
        hash.finish().cast_signed()
    }

    /// Encodes append time (i64), partition (u32), offset (u64) and event index (u32), little-endian.
    fn encoded(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.append_time.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.partition.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.offset.to_le_bytes());
        bytes[20..].copy_from_slice(&self.index.to_le_bytes());
        bytes
    }
}

impl Stored for First {
    type Read<'a> = First;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.encoded());
    }

    fn read(bytes: &[u8]) -> Result<First, String> {
        let [a, b, c, d, e, f, g, h, p, q, r, s, offset @ .., i, j, k, l] = bytes else {
            return Err(format!("expected 24 bytes, found {}", bytes.len()));
        };
        Ok(First {
            append_time: i64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
            partition: u32::from_le_bytes([*p, *q, *r, *s]),
            offset: u64::read(offset)?,
            index: u32::from_le_bytes([*i, *j, *k, *l]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: First = First { append_time: 1_727_873_508_000, partition: 3, offset: 1 << 40, index: 2 };

    #[test]
    fn the_first_record_is_read_back_from_its_24_bytes() {
        let mut bytes = Vec::new();
        FIRST.write(&mut bytes);
        assert_eq!(bytes.len(), 24);
        assert_eq!(First::read(&bytes), Ok(FIRST));
        assert!(First::read(&bytes[..23]).is_err());
    }

    #[test]
    fn the_ids_of_the_published_table_are_derived_from_the_append_second() {
        for (append_time, id) in [
            (1_727_873_508_000, -1_700_334_822_881_806_003),
            (1_727_873_508_999, -1_700_334_822_881_806_003),
            (1_727_873_775_000, 9_081_782_675_340_903_552),
        ] {
            assert_eq!(First { append_time, ..FIRST }.session_id(SessionId::AppendSecond, "1"), id);
        }
    }

    #[test]
    fn an_id_changes_with_every_part_of_the_record() {
        let id = |first: First, key: &str| first.session_id(SessionId::Record, key);
        let mut ids = vec![
            id(FIRST, "1"),
            id(FIRST, "2"),
            id(First { append_time: FIRST.append_time + 1, ..FIRST }, "1"),
            id(First { partition: 4, ..FIRST }, "1"),
            id(First { offset: 7, ..FIRST }, "1"),
            id(First { index: 3, ..FIRST }, "1"),
        ];
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 6);
    }
}
