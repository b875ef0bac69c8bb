//! Records, and the columns in which they travel. Plain data; knows no clock, no plugin, no I/O.
//!
//! From the source to the plugin a batch is a struct of columns ([`Records`]): the sandbox takes columns, and a column can be refilled
//! without an allocation per record.

pub mod bounded;
pub(crate) mod form;

use crate::record::bounded::Cut;

/// No time, in a column of times: the least `s64`, as in the contract.
pub const NO_TIME: i64 = i64::MIN;

/// Formats milliseconds since 1970 as ISO 8601, or as the number if it is outside the calendar.
pub fn iso(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| format!("{time:.3}"))
}

/// Returns bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A column of byte strings: item `i` is `data[ends[i-1]..ends[i]]`, with `ends[-1]` = 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByteColumn {
    /// All items, concatenated.
    pub data: Vec<u8>,
    /// The end of each item in `data`, ascending.
    pub ends: Vec<u32>,
}

impl ByteColumn {
    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns item `i`.
    ///
    /// # Panics
    /// If there is no item `i`.
    pub fn get(&self, i: usize) -> &[u8] {
        &self.data[self.start(i)..self.ends[i] as usize]
    }

    /// Appends an item.
    ///
    /// # Panics
    /// If the column would exceed 4 GiB. Batches are cut long before that.
    pub fn push(&mut self, item: &[u8]) {
        self.data.extend_from_slice(item);
        self.end_item();
    }

    /// Ends an item whose bytes were appended to `data` directly.
    pub fn end_item(&mut self) {
        self.ends.push(u32::try_from(self.data.len()).expect("batches are cut by bytes below 4 GiB"));
    }

    /// Removes all items and keeps the buffers.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
    }

    /// Returns the items in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Appends copies of the items `rows` of `other`.
    pub fn append(&mut self, other: &ByteColumn, rows: std::ops::Range<usize>) {
        let (from, base) = (other.start(rows.start), self.data.len());
        self.data.extend_from_slice(&other.data[from..other.start(rows.end)]);
        self.ends.extend(other.ends[rows].iter().map(|&end| row_number(end as usize - from + base)));
    }

    /// Returns where item `i` starts in `data`.
    pub fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] as usize }
    }
}

/// The headers of a batch of records: record `i` has the names and values `ends[i-1]..ends[i]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderColumns {
    /// The end of each record's headers.
    pub ends: Vec<u32>,
    /// Header names (UTF-8 in Kafka).
    pub names: ByteColumn,
    /// Header values. A null value is an empty one.
    pub values: ByteColumn,
}

impl HeaderColumns {
    /// Returns the headers of record `i` in their order.
    pub fn of(&self, i: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        (self.start(i)..self.ends[i] as usize).map(|h| (self.names.get(h), self.values.get(h)))
    }

    /// Returns where the headers of record `i` start.
    pub fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] as usize }
    }

    /// Appends a header to the record that [`HeaderColumns::end_record`] ends.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.names.push(name);
        self.values.push(value);
    }

    /// Ends a record, whose headers are those pushed since the last call.
    pub fn end_record(&mut self) {
        self.ends.push(u32::try_from(self.names.len()).expect("a batch has fewer than 2^32 headers"));
    }

    /// Removes all headers and keeps the buffers.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.names.clear();
        self.values.clear();
    }
}

/// A batch of records as columns, in the order in which they are folded. From a source they are of one partition, in offset order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Partition of each record.
    pub partitions: Vec<u32>,
    /// Offset of each record in its partition.
    pub offsets: Vec<u64>,
    /// Milliseconds since 1970. From a source they are the records' own timestamps ([`NO_TIME`] if a record has none); after the merge they are
    /// append times, which never decrease within a partition.
    pub append_times: Vec<i64>,
    /// Record keys. An absent key is an empty item whose row is in `null_keys`.
    pub keys: ByteColumn,
    /// Rows without a key, ascending.
    pub null_keys: Vec<u32>,
    /// Payloads. The payload of a tombstone is an empty item whose row is in `null_payloads`.
    pub payloads: ByteColumn,
    /// Rows without a payload, ascending.
    pub null_payloads: Vec<u32>,
    /// The headers of each record.
    pub headers: HeaderColumns,
    /// After the merge: rows whose own timestamps order nothing, ascending, with those timestamps.
    pub implausible: Vec<(u32, i64)>,
    /// Rows of which a part is missing because it was too large, ascending, with what is missing.
    pub cuts: Vec<(u32, Cut)>,
    /// From a file, up to the merge: the digest of the partition up to each record. Otherwise empty.
    pub digests: Vec<u64>,
}

/// One record of a batch.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Partition.
    pub partition: u32,
    /// Offset in the partition.
    pub offset: u64,
    /// See [`Records::append_times`].
    pub append_time: i64,
    /// Key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Payload; `None` for a tombstone.
    pub payload: Option<&'a [u8]>,
    /// The headers of the batch, and the row of this record in them.
    pub headers: Option<(&'a HeaderColumns, usize)>,
}

impl Records {
    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Returns whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Returns the bytes of keys, payloads and header values, by which batches are cut besides their count.
    pub fn bytes(&self) -> usize {
        self.keys.data.len() + self.payloads.data.len() + self.headers.values.data.len()
    }

    /// Appends a copy of `record`.
    pub fn push(&mut self, record: RecordRef<'_>) {
        let row = row_number(self.len());
        self.partitions.push(record.partition);
        self.offsets.push(record.offset);
        self.append_times.push(record.append_time);
        if record.key.is_none() {
            self.null_keys.push(row);
        }
        self.keys.push(record.key.unwrap_or_default());
        if record.payload.is_none() {
            self.null_payloads.push(row);
        }
        self.payloads.push(record.payload.unwrap_or_default());
        if let Some((headers, i)) = record.headers {
            for (name, value) in headers.of(i) {
                self.headers.push(name, value);
            }
        }
        self.headers.end_record();
    }

    /// Appends copies of the records `rows` of `other`.
    pub fn append(&mut self, other: &Records, rows: std::ops::Range<usize>) {
        append_nulls(&mut self.null_keys, self.offsets.len(), &other.null_keys, other.len(), &rows);
        append_nulls(&mut self.null_payloads, self.offsets.len(), &other.null_payloads, other.len(), &rows);
        let base = self.offsets.len();
        let first = other.implausible.partition_point(|(row, _)| (*row as usize) < rows.start);
        let in_range = other.implausible[first..].iter().take_while(|(row, _)| (*row as usize) < rows.end);
        self.implausible.extend(in_range.map(|&(row, time)| (row_number(row as usize - rows.start + base), time)));
        let first = other.cuts.partition_point(|(row, _)| (*row as usize) < rows.start);
        let in_range = other.cuts[first..].iter().take_while(|(row, _)| (*row as usize) < rows.end);
        self.cuts.extend(in_range.map(|(row, cut)| (row_number(*row as usize - rows.start + base), cut.clone())));
        self.partitions.extend_from_slice(&other.partitions[rows.clone()]);
        self.offsets.extend_from_slice(&other.offsets[rows.clone()]);
        self.digests.extend_from_slice(other.digests.get(rows.clone()).unwrap_or_default());
        self.append_times.extend_from_slice(&other.append_times[rows.clone()]);
        self.keys.append(&other.keys, rows.clone());
        self.payloads.append(&other.payloads, rows.clone());
        let headers = other.headers.start(rows.start)..other.headers.start(rows.end);
        let base = self.headers.names.len();
        let ends = &other.headers.ends[rows];
        self.headers.ends.extend(ends.iter().map(|&e| row_number(e as usize - headers.start + base)));
        if !headers.is_empty() {
            self.headers.names.append(&other.headers.names, headers.clone());
            self.headers.values.append(&other.headers.values, headers);
        }
    }

    /// Returns record `i`.
    pub fn get(&self, i: usize) -> RecordRef<'_> {
        let row = row_number(i);
        RecordRef {
            partition: self.partitions[i],
            offset: self.offsets[i],
            append_time: self.append_times[i],
            key: self.null_keys.binary_search(&row).is_err().then(|| self.keys.get(i)),
            payload: self.null_payloads.binary_search(&row).is_err().then(|| self.payloads.get(i)),
            headers: Some((&self.headers, i)),
        }
    }

    /// Removes all records and keeps the buffers.
    pub fn clear(&mut self) {
        self.partitions.clear();
        self.offsets.clear();
        self.append_times.clear();
        self.keys.clear();
        self.null_keys.clear();
        self.payloads.clear();
        self.null_payloads.clear();
        self.headers.clear();
        self.implausible.clear();
        self.cuts.clear();
        self.digests.clear();
    }
}

/// Appends those rows of `from`, of a batch of `len` records, that are in `rows`, renumbered from `base` on.
fn append_nulls(nulls: &mut Vec<u32>, base: usize, from: &[u32], len: usize, rows: &std::ops::Range<usize>) {
    // A merge appends record by record. If all are null, as the keys of an unkeyed topic are, no search is needed.
    let first = if from.len() == len { rows.start } else { from.partition_point(|&n| (n as usize) < rows.start) };
    let in_range = from[first..].iter().take_while(|&&n| (n as usize) < rows.end);
    nulls.extend(in_range.map(|&n| row_number(n as usize - rows.start + base)));
}

/// Converts a number within a batch to the contract's type.
fn row_number(n: usize) -> u32 {
    u32::try_from(n).expect("a batch is cut long before 2^32 records or bytes")
}
