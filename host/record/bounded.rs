//! Records that are too large, cut to a size. A record may be a thousand times as large as it was in its topic, where it is compressed. What is
//! cut is told by its length and its SHA-256, so that it can be found again in the log.

use sha2::{Digest, Sha256};

use crate::record::{RecordRef, Records, hex, row_number};

/// Bytes of a record's payload, key or headers up to which a source hands them on whole: the greatest `plugin.record_bytes`. It is a constant,
/// since a source reads ahead of the deployments, and a later one may have another limit.
pub const MOST_BYTES: usize = 32 << 20;
/// What is kept of a payload that is cut.
const PAYLOAD_BYTES: usize = 64 << 10;
/// What is kept of a key that is cut.
const KEY_BYTES: usize = 4 << 10;
/// The headers of a dead letter of a record that is too large, in bytes; if there are more, all are left out.
const HEADER_BYTES: usize = 16 << 10;

/// Bytes that were cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digested {
    /// The length of the whole.
    pub bytes: u64,
    /// The SHA-256 of the whole, in hexadecimal.
    pub sha256: String,
}

impl Digested {
    /// Describes the whole.
    pub fn of(whole: &[u8]) -> Digested {
        Digested { bytes: whole.len() as u64, sha256: hex(&Sha256::digest(whole)) }
    }
}

/// What a record has lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Its payload, if that was cut.
    pub payload: Option<Digested>,
    /// Its key, if that was cut.
    pub key: Option<Digested>,
    /// How many headers were left out, if they were.
    pub headers: Option<u32>,
}

impl Cut {
    fn is_none(&self) -> bool {
        *self == Cut::default()
    }
}

/// A part of a record, and what was lost if it was cut.
fn part<'a>(whole: Option<&'a [u8]>, most: usize, kept: usize, lost: &mut Option<Digested>) -> Option<&'a [u8]> {
    let whole = whole?;
    if whole.len() <= most || lost.is_some() {
        return Some(whole);
    }
    *lost = Some(Digested::of(whole));
    Some(&whole[..kept])
}

/// Returns key and payload as a source hands them on: one of more than [`MOST_BYTES`] is cut.
pub fn handed_on<'a>(key: Option<&'a [u8]>, payload: Option<&'a [u8]>) -> (Option<&'a [u8]>, Option<&'a [u8]>, Cut) {
    let mut cut = Cut::default();
    let key = part(key, MOST_BYTES, KEY_BYTES, &mut cut.key);
    let payload = part(payload, MOST_BYTES, PAYLOAD_BYTES, &mut cut.payload);
    (key, payload, cut)
}

impl Records {
    /// Appends a copy of `record` as a source hands it on. `headers_left_out` counts headers that the source has not taken over.
    pub fn push_bounded(&mut self, record: RecordRef<'_>, headers_left_out: Option<u32>) {
        let (key, payload, mut cut) = handed_on(record.key, record.payload);
        cut.headers = headers_left_out;
        self.push_cut(RecordRef { key, payload, ..record }, cut);
    }

    fn push_cut(&mut self, record: RecordRef<'_>, cut: Cut) {
        if !cut.is_none() {
            self.cuts.push((row_number(self.len()), cut));
        }
        self.push(record);
    }

    /// Returns what record `i` has lost.
    pub fn cut(&self, i: usize) -> Option<&Cut> {
        let found = self.cuts.binary_search_by_key(&i, |(row, _)| *row as usize);
        found.ok().map(|at| &self.cuts[at].1)
    }

    /// Returns the bytes that a limit of records counts: key, payload, and names and values of headers.
    pub fn size(&self, i: usize) -> usize {
        let headers = self.headers.start(i)..self.headers.ends[i] as usize;
        let (names, values) = (&self.headers.names, &self.headers.values);
        let header_bytes = |column: &crate::record::ByteColumn| column.start(headers.end) - column.start(headers.start);
        self.keys.get(i).len() + self.payloads.get(i).len() + header_bytes(names) + header_bytes(values)
    }

    /// Returns record `i` alone, as its dead letter carries it: in less than 100 KiB.
    pub fn shortened(&self, i: usize) -> Records {
        let mut cut = self.cut(i).cloned().unwrap_or_default();
        let record = self.get(i);
        let key = part(record.key, KEY_BYTES, KEY_BYTES, &mut cut.key);
        let payload = part(record.payload, PAYLOAD_BYTES, PAYLOAD_BYTES, &mut cut.payload);
        let in_headers = self.size(i) - self.keys.get(i).len() - self.payloads.get(i).len();
        let count = self.headers.ends[i] - row_number(self.headers.start(i));
        let headers = record.headers.filter(|_| in_headers <= HEADER_BYTES);
        if headers.is_none() && count > 0 {
            cut.headers = Some(cut.headers.unwrap_or(0) + count);
        }
        let mut alone = Records::default();
        alone.push_cut(RecordRef { key, payload, headers, ..record }, cut);
        alone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::HeaderColumns;

    fn record(key: usize, payload: usize, header: usize) -> Records {
        let (key, payload) = (vec![b'k'; key], vec![b'p'; payload]);
        let mut headers = HeaderColumns::default();
        headers.push(b"name", &vec![b'h'; header]);
        headers.end_record();
        let mut records = Records::default();
        let record = RecordRef {
            partition: 1,
            offset: 2,
            append_time: 3,
            key: Some(&key),
            payload: Some(&payload),
            headers: Some((&headers, 0)),
        };
        records.push(RecordRef { offset: 1, payload: None, ..record });
        records.push_bounded(record, None);
        records
    }

    #[test]
    fn a_source_hands_on_what_a_limit_can_allow() {
        let whole = record(10, MOST_BYTES, 10);
        assert_eq!((whole.size(1), whole.cuts.len()), (10 + MOST_BYTES + 4 + 10, 0));
        let cut = record(10, MOST_BYTES + 1, 10);
        let lost = cut.cut(1).expect("it was cut");
        assert_eq!((cut.payloads.get(1).len(), cut.cut(0)), (PAYLOAD_BYTES, None));
        assert_eq!(lost.payload, Some(Digested::of(&vec![b'p'; MOST_BYTES + 1])));
        assert_eq!((&lost.key, lost.headers), (&None, None));
        let mut moved = Records::default();
        moved.append(&cut, 1..2);
        assert_eq!(moved.cut(0), Some(lost), "it goes where its record goes");
        moved.clear();
        assert_eq!(moved, Records::default());
    }

    #[test]
    fn a_dead_letter_of_a_large_record_is_short_and_tells_what_it_was() {
        for (key, payload, header) in [(10, MOST_BYTES + 1, 10), (MOST_BYTES + 1, 10, 10), (10, 1 << 20, 1 << 20)] {
            let large = record(key, payload, header);
            let short = large.shortened(1);
            assert!(short.size(0) < 100 << 10, "{}", short.size(0));
            let lost = short.cut(0).expect("it was cut");
            let whole = |byte: u8, length: usize, most| (length > most).then(|| Digested::of(&vec![byte; length]));
            assert_eq!(lost.payload, whole(b'p', payload, PAYLOAD_BYTES), "of the original, however often it was cut");
            assert_eq!(lost.key, whole(b'k', key, KEY_BYTES));
            assert_eq!(lost.headers, (header > HEADER_BYTES).then_some(1));
            assert_eq!((short.partitions[0], short.offsets[0], short.append_times[0]), (1, 2, 3));
        }
        let small = record(10, 10, 10);
        assert_eq!(small.shortened(1).cuts, []);
        assert_eq!(small.shortened(1).get(0).payload, small.get(1).payload);
    }
}
