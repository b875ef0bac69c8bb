//! Records as `map` sees them, and the events that it makes.

use std::borrow::Cow;
use std::io::Write;
use std::marker::PhantomData;

use crate::columns::{Column, count, item, start};
use crate::raw::{EventBatch, HeaderColumns, LogLine, RecordBatch};
use crate::{Mapper, Stored};

/// One record of the log.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: u32,
    /// Its offset in the partition.
    pub offset: u64,
    /// Its timestamp in the log, made non-decreasing per partition; ms since 1970.
    pub append_time: i64,
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its payload; none is a tombstone.
    pub payload: Option<&'a [u8]>,
    headers: Option<(&'a HeaderColumns, usize)>,
}

impl<'a> Record<'a> {
    /// A record without headers, for tests.
    pub fn new(partition: u32, offset: u64, append_time: i64, payload: Option<&'a [u8]>) -> Record<'a> {
        Record { partition, offset, append_time, key: None, payload, headers: None }
    }

    /// The headers in their order; none unless the description asks for them.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let (columns, range) = match self.headers {
            Some((columns, i)) => (Some(columns), start(&columns.ends, i)..columns.ends[i] as usize),
            None => (None, 0..0),
        };
        range.zip(std::iter::repeat(columns)).filter_map(|(i, columns)| {
            let columns = columns?;
            let name = item(&columns.names.data, &columns.names.ends, i);
            Some((
                std::str::from_utf8(name).expect("the host gives names in UTF-8"),
                item(&columns.values.data, &columns.values.ends, i),
            ))
        })
    }
}

/// The records of a batch, one after another.
pub(crate) struct Records<'a> {
    batch: &'a RecordBatch,
    next: usize,
    null_keys: std::iter::Peekable<std::slice::Iter<'a, u32>>,
    null_payloads: std::iter::Peekable<std::slice::Iter<'a, u32>>,
}

impl<'a> Records<'a> {
    pub(crate) fn of(batch: &'a RecordBatch) -> Records<'a> {
        let (null_keys, null_payloads) = (batch.null_keys.iter().peekable(), batch.null_payloads.iter().peekable());
        Records { batch, next: 0, null_keys, null_payloads }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (batch, i) = (self.batch, self.next);
        let offset = *batch.offsets.get(i)?;
        self.next += 1;
        let row = count(i);
        let no_key = self.null_keys.next_if(|null| **null == row).is_some();
        let no_payload = self.null_payloads.next_if(|null| **null == row).is_some();
        Some(Record {
            partition: batch.partitions[i],
            offset,
            append_time: batch.append_times[i],
            key: (!no_key).then(|| item(&batch.keys.data, &batch.keys.ends, i)),
            payload: (!no_payload).then(|| item(&batch.payloads.data, &batch.payloads.ends, i)),
            headers: batch.headers.as_ref().map(|columns| (columns, i)),
        })
    }
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Somebody must act.
    Error,
    /// Somebody should know.
    Warn,
    /// Worth knowing.
    Info,
    /// For the plugin's author.
    Debug,
}

impl Level {
    /// A line for the host's log.
    pub(crate) fn line(self, message: impl Into<String>) -> LogLine {
        let level = match self {
            Level::Error => 0,
            Level::Warn => 1,
            Level::Info => 2,
            Level::Debug => 3,
        };
        LogLine { level, message: message.into() }
    }
}

/// What can be an event's key: text, a whole number in decimal, or `format_args!(..)` for a key of several parts.
///
/// ```
/// use keyfold_sdk::KeyText;
///
/// let text = |key: &dyn KeyText| {
///     let mut bytes = Vec::new();
///     key.write_key(&mut bytes);
///     String::from_utf8(bytes).unwrap()
/// };
/// assert_eq!(text(&"ann"), "ann");
/// assert_eq!(text(&-7), "-7");
/// assert_eq!(text(&format_args!("{}/{}", "shop", 12)), "shop/12");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an event's key",
    label = "not a key",
    note = "a key is a text, an integer, or `format_args!(..)` of several parts; `&key` or `&*key` often makes a text of it"
)]
pub trait KeyText {
    /// Appends the key's UTF-8.
    fn write_key(&self, out: &mut Vec<u8>);
}

impl KeyText for str {
    fn write_key(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl KeyText for String {
    fn write_key(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl KeyText for u64 {
    fn write_key(&self, out: &mut Vec<u8>) {
        let (mut digits, mut first, mut rest) = ([0; 20], 20, *self);
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return out.extend_from_slice(&digits[first..]);
            }
        }
    }
}

impl KeyText for i64 {
    fn write_key(&self, out: &mut Vec<u8>) {
        if *self < 0 {
            out.push(b'-');
        }
        self.unsigned_abs().write_key(out);
    }
}

macro_rules! key_of_less {
    ($($less:ty),* => $more:ty) => {$(
        impl KeyText for $less {
            fn write_key(&self, out: &mut Vec<u8>) {
                <$more>::from(*self).write_key(out);
            }
        }
    )*};
}

key_of_less!(u8, u16, u32 => u64);
key_of_less!(i8, i16, i32 => i64);

impl<T: ToOwned + KeyText + ?Sized> KeyText for Cow<'_, T> {
    fn write_key(&self, out: &mut Vec<u8>) {
        (**self).write_key(out);
    }
}

impl KeyText for std::fmt::Arguments<'_> {
    fn write_key(&self, out: &mut Vec<u8>) {
        out.write_fmt(*self).expect("a Vec takes all that is written");
    }
}

impl<T: KeyText + ?Sized> KeyText for &T {
    fn write_key(&self, out: &mut Vec<u8>) {
        (**self).write_key(out);
    }
}

/// Where [`Mapper::map`] puts the events of a record.
pub struct Events<'a, M: Mapper> {
    out: &'a mut EventBatch,
    record: u32,
    mapper: PhantomData<fn(&M)>,
}

impl<'a, M: Mapper> Events<'a, M> {
    pub(crate) fn of(record: u32, out: &'a mut EventBatch) -> Events<'a, M> {
        Events { out, record, mapper: PhantomData }
    }

    /// One more event of the record: what happened at `time` (ms since 1970 UTC, in the years 1 to 9999) is folded under `key`.
    pub fn push(&mut self, key: impl KeyText, time: i64, value: &M::Event) {
        self.out.records.push(self.record);
        self.out.keys.write(|bytes| key.write_key(bytes));
        self.out.event_times.push(time);
        self.out.values.write(|bytes| value.write(bytes));
    }

    /// Says something in the host's log.
    pub fn log(&mut self, level: Level, message: impl Into<String>) {
        self.out.logs.push(level.line(message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_written_in_decimal() {
        for number in [0, 7, -7, 10, 1_234_567_890, i64::MAX, i64::MIN] {
            let mut text = Vec::new();
            number.write_key(&mut text);
            assert_eq!(text, number.to_string().into_bytes());
        }
    }
}
