//! Records, as `map` sees them, and the events that it creates.

use std::borrow::Cow;
use std::io::Write;
use std::marker::PhantomData;

use crate::columns::{Column, count, item, start};
use crate::raw::{EventBatch, HeaderColumns, LogLine, RecordBatch};
use crate::{Mapper, Stored};

/// One record of the log.
///
/// ```
/// use keyfold_sdk::Record;
///
/// /// The first step of a `map`.
/// fn payload<'a>(record: &Record<'a>) -> Result<&'a [u8], String> {
///     if record.headers().any(|(name, value)| name == "kind" && value == b"test") {
///         return Err("the record is a test".into());
///     }
///     record.payload.ok_or_else(|| format!("the record is a tombstone of key {:?}", record.key))
/// }
///
/// let record = Record::new(0, 7, 1_727_873_508_000, Some(b"hello"));
/// assert_eq!(payload(&record), Ok(&b"hello"[..]));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The record's partition.
    pub partition: u32,
    /// The record's offset in the partition.
    pub offset: u64,
    /// The record's timestamp in the log or, if that is lower, the append time of the record before it in the partition; ms since 1970 UTC.
    pub append_time: i64,
    /// The record's key, if it has one.
    pub key: Option<&'a [u8]>,
    /// The record's payload; `None` for a tombstone.
    pub payload: Option<&'a [u8]>,
    headers: Option<(&'a HeaderColumns, usize)>,
}

impl<'a> Record<'a> {
    /// Creates a record without key and headers, for tests.
    pub fn new(partition: u32, offset: u64, append_time: i64, payload: Option<&'a [u8]>) -> Record<'a> {
        Record { partition, offset, append_time, key: None, payload, headers: None }
    }

    /// Returns the headers in their order. There are none unless the description requests them
    /// ([`Description::with_headers`](crate::Description::with_headers)).
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let (columns, range) = match self.headers {
            Some((columns, i)) => (Some(columns), start(&columns.ends, i)..columns.ends[i] as usize),
            None => (None, 0..0),
        };
        range.zip(std::iter::repeat(columns)).filter_map(|(i, columns)| {
            let columns = columns?;
            let name = item(&columns.names.data, &columns.names.ends, i);
            Some((
                std::str::from_utf8(name).expect("the host passes names in UTF-8"),
                item(&columns.values.data, &columns.values.ends, i),
            ))
        })
    }
}

/// An iterator over the records of a batch.
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

/// The level of a log line. For an example, see [`Events`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// An operator must act.
    Error,
    /// An operator should look.
    Warn,
    /// Worth knowing in normal operation.
    Info,
    /// Useful to the plugin's author only.
    Debug,
}

impl Level {
    /// Creates a line for the host's log.
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

/// A type that can be an event's key: a string, an integer (written in decimal), or `format_args!(..)` for a key of several parts.
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
    note = "a key is a string, an integer, or `format_args!(..)` of several parts; for other types, try `&key` or `&*key`, which often give a \
            string"
)]
pub trait KeyText {
    /// Appends the key's UTF-8 bytes.
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
        out.write_fmt(*self).expect("writing to a Vec cannot fail");
    }
}

impl<T: KeyText + ?Sized> KeyText for &T {
    fn write_key(&self, out: &mut Vec<u8>) {
        (**self).write_key(out);
    }
}

/// Collects the events of a record in [`Mapper::map`].
///
/// ```
/// # use keyfold_sdk::{Description, Event, Events, Firing, Key, Level, Mapper, Record};
/// # struct Plugin;
/// # impl Mapper for Plugin {
/// #     type Event = str;
/// #     type Value = ();
/// #     type Item = ();
/// #     fn describe() -> Description { Description::new("plugin", "1.0.0") }
/// #     fn configure(_: &str) -> Result<Plugin, String> { Ok(Plugin) }
/// fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
///     let text = std::str::from_utf8(record.payload.unwrap_or_default()).map_err(|error| error.to_string())?;
///     for (place, word) in text.split(' ').enumerate() {
///         out.push(format_args!("{word}/{place}"), record.append_time, word);
///     }
///     if text.is_empty() {
///         out.log(Level::Warn, "a record without words"); // or keyfold_sdk::log!(out, Warn, "..")
///     }
///     Ok(())
/// }
/// #     fn on_event(&self, key: &mut Key<'_, Self>, _: &Event<'_, Self>) -> Result<(), String> {
/// #         key.set_timer(100);
/// #         Ok(())
/// #     }
/// #     fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> { Ok(()) }
/// # }
/// # let outcome = keyfold_sdk::testing::Log::new(0, &[(7, "to be"), (8, "")]).fold_deterministically::<Plugin>("{}");
/// # assert_eq!(outcome.timers.keys().collect::<Vec<_>>(), ["/0", "be/1", "to/0"]);
/// ```
pub struct Events<'a, M: Mapper> {
    out: &'a mut EventBatch,
    record: u32,
    mapper: PhantomData<fn(&M)>,
}

impl<'a, M: Mapper> Events<'a, M> {
    pub(crate) fn of(record: u32, out: &'a mut EventBatch) -> Events<'a, M> {
        Events { out, record, mapper: PhantomData }
    }

    /// Adds an event, which is folded under `key`. `time` is when it happened (ms since 1970 UTC, in the years 1 to 9999).
    pub fn push(&mut self, key: impl KeyText, time: i64, value: &M::Event) {
        self.out.records.push(self.record);
        self.out.keys.write(|bytes| key.write_key(bytes));
        self.out.event_times.push(time);
        self.out.values.write(|bytes| value.write(bytes));
    }

    /// Writes a line to the host's log, even if the record is rejected later.
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
