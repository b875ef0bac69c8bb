//! Lines of a file as records: the formats `records` and `payloads`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::config::{self, FileFormat};
use crate::event_time::plausible;
use crate::failure::Failure;
use crate::position::{Partition, digest};
use crate::record::{HeaderColumns, NO_TIME, RecordRef, Records, form};

/// How far a partition has been read: what a line that does not say takes over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub(super) next_offset: u64,
    pub(super) timestamp: i64,
    /// Of its records so far (D36).
    pub(super) digest: u64,
}

pub(super) const BEGINNING: Cursor = Cursor { next_offset: 0, timestamp: NO_TIME, digest: 0 };

/// How a line becomes a record.
#[derive(Debug)]
pub(super) struct Lines {
    /// The file, as messages name it.
    pub(super) name: String,
    pub(super) format: FileFormat,
    pub(super) timestamp_start: i64,
}

impl Lines {
    pub(super) fn new(config: &config::FileSource) -> Result<Lines, Failure> {
        let name = if config.is_standard_input() { "standard input".into() } else { config.path.display().to_string() };
        let timestamp_start = match (config.format, config.timestamp_start_ms) {
            (FileFormat::Payloads, None) => {
                return Err(Failure::config(
                    "source.file.timestamp_start is missing: a file of payloads has no timestamps of its own",
                ));
            }
            (_, start) => start.unwrap_or(NO_TIME),
        };
        Ok(Lines { name, format: config.format, timestamp_start })
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> Failure {
        Failure::outside(format!("{}: {error}; see source.file.path", self.name))
    }

    /// The refusal of line `number`, from 1.
    pub(super) fn too_long(&self, number: u64) -> Failure {
        Failure::config(format!(
            "{}, line {number}: the line is longer than any record that keyfold can fold (see plugin.record_bytes); split the line or remove it",
            self.name
        ))
    }

    /// Refuses a file that begins like something other than lines of the format.
    pub(super) fn check_beginning(&self, bytes: &[u8]) -> Result<(), Failure> {
        let is_array = match self.format {
            FileFormat::Records => unmarked(bytes).trim_ascii_start().starts_with(b"["),
            FileFormat::Payloads => form::is_array_of_lines(bytes),
        };
        let (what, program) = match form::of(bytes) {
            Some(found) => found,
            None if is_array => ("one JSON array", "jq -c '.[]'"),
            None => return Ok(()),
        };
        let name = &self.name;
        Err(Failure::config(format!(
            "source.file.path: {name} is {what}, but keyfold reads lines of UTF-8, one record each: convert it ({program} FILE > LINES) and name \
             the result, or pipe it in with source.file.path = \"-\""
        )))
    }

    /// Gives each record of a block to `take`, with the cursor of its partition before it, and the digest of the partition up to it.
    pub(super) fn parse(
        &self,
        bytes: &[u8],
        first_line: u64,
        cursors: &mut BTreeMap<Partition, Cursor>,
        mut take: impl FnMut(&RecordRef<'_>, Cursor, u64),
    ) -> Result<(), Failure> {
        // A byte order mark says only that the file is UTF-8.
        let mut rest = if first_line == 0 { unmarked(bytes) } else { bytes };
        let mut number = first_line;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let (line, tail) = rest.split_at(end);
            match self.format {
                FileFormat::Payloads => {
                    let (record, cursor) =
                        (self.payload(line, number), cursors.entry(Partition(0)).or_insert(BEGINNING));
                    let digest = digest(cursor.digest, &record);
                    take(&record, *cursor, digest);
                    cursor.digest = digest;
                }
                FileFormat::Records if line.trim_ascii().is_empty() => {}
                FileFormat::Records => record(line, cursors, &mut take)
                    .map_err(|reason| Failure::config(format!("{}, line {}: {reason}", self.name, number + 1)))?,
            }
            rest = tail;
            number += 1;
        }
        Ok(())
    }

    pub(super) fn payload<'a>(&self, line: &'a [u8], number: u64) -> RecordRef<'a> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let append_time = self.timestamp_start.saturating_add_unsigned(number);
        RecordRef { partition: 0, offset: number, append_time, key: None, payload: Some(line), headers: None }
    }
}

/// The bytes without a byte order mark.
fn unmarked(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(form::BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// One line of `records`, its fields not looked into yet, so that a refusal can name the field.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow, default)]
    pub(super) partition: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) offset: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key_base64: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "null_is_present")]
    pub(super) value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "null_is_present")]
    value_base64: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) headers: Option<&'a RawValue>,
}

/// A value of null is a tombstone, an absent one a mistake.
pub(super) fn null_is_present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A JSON text, copied only if it has escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

pub(super) fn record(
    line: &[u8],
    cursors: &mut BTreeMap<Partition, Cursor>,
    take: &mut impl FnMut(&RecordRef<'_>, Cursor, u64),
) -> Result<(), String> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("not a JSON object of a record".into()); // a list would be taken by the order of the fields
    }
    let line: Line<'_> =
        serde_json::from_slice(line).map_err(|e| format!("not a JSON object of a record: {}", plain(&e)))?;
    let partition = Partition(number(line.partition, "partition")?.unwrap_or(0));
    let before = cursors.get(&partition).copied().unwrap_or(BEGINNING);
    let offset: u64 = number(line.offset, "offset")?.unwrap_or(before.next_offset);
    if offset < before.next_offset {
        return Err(format!(
            "field `offset`: {offset} does not ascend, the one before it in partition {partition} is {}",
            before.next_offset - 1
        ));
    }
    let next_offset = offset.checked_add(1).ok_or("field `offset`: too great")?;
    let timestamp = number(line.timestamp, "timestamp")?.unwrap_or(before.timestamp);
    let key = bytes_of(line.key, line.key_base64, "key")?;
    let payload = match (line.value, line.value_base64) {
        (None, None) => return Err("neither field `value` nor `value_base64` is there (null is a tombstone)".into()),
        (text, base64) => bytes_of(text, base64, "value")?,
    };
    let headers = line.headers.map(headers_of).transpose()?;
    let headers = headers.as_ref().map(|headers| (headers, 0));
    let record = RecordRef {
        partition: partition.0,
        offset,
        append_time: timestamp,
        key: key.as_deref(),
        payload: payload.as_deref(),
        headers,
    };
    let digest = digest(before.digest, &record);
    take(&record, before, digest);
    // A line without a timestamp takes over the last one that means something.
    let timestamp = if plausible(timestamp).is_ok() { timestamp } else { before.timestamp };
    cursors.insert(partition, Cursor { next_offset, timestamp, digest });
    Ok(())
}

/// The record of one line of the format `records`, by itself.
pub(crate) fn record_of(line: &[u8]) -> Result<Records, String> {
    let mut records = Records::default();
    record(line, &mut BTreeMap::new(), &mut |record, _, _| records.push(*record))?;
    Ok(records)
}

/// The parser's words without its own line, which is always 1.
pub(super) fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    format!("{reason} (column {})", error.column())
}

pub(super) fn number<'a, T: Deserialize<'a>>(field: Option<&'a RawValue>, name: &str) -> Result<Option<T>, String> {
    field.map(|raw| serde_json::from_str(raw.get()).map_err(|e| format!("field `{name}`: {}", plain(&e)))).transpose()
}

/// A text or its base64 twin; none if it is null.
pub(super) fn bytes_of<'a>(
    text: Option<&'a RawValue>,
    base64: Option<&'a RawValue>,
    name: &str,
) -> Result<Option<Cow<'a, [u8]>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("fields `{name}` and `{name}_base64` exclude each other")),
        (None, None) => Ok(None),
        (Some(raw), None) => Ok(text_of(raw, name)?.map(|text| match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })),
        (None, Some(raw)) => {
            let name = format!("{name}_base64");
            let decode =
                |text: Cow<'_, str>| STANDARD.decode(text.as_bytes()).map_err(|e| format!("field `{name}`: {e}"));
            Ok(text_of(raw, &name)?.map(decode).transpose()?.map(Cow::Owned))
        }
    }
}

pub(super) fn text_of<'a>(raw: &'a RawValue, name: &str) -> Result<Option<Cow<'a, str>>, String> {
    let text: Option<Text<'a>> =
        serde_json::from_str(raw.get()).map_err(|e| format!("field `{name}`: {}", plain(&e)))?;
    Ok(text.map(|text| text.0))
}

/// The headers of one record.
pub(super) fn headers_of(raw: &RawValue) -> Result<HeaderColumns, String> {
    const SHAPE: &str =
        "field `headers`: not an object or a list of pairs of a name and a text, null or {\"base64\": ...}";
    let mut headers = HeaderColumns::default();
    let value: Value = serde_json::from_str(raw.get()).map_err(|e| format!("field `headers`: {}", plain(&e)))?;
    match value {
        Value::Object(fields) => {
            for (name, value) in &fields {
                headers.push(name.as_bytes(), &header_value(value).ok_or(SHAPE)?);
            }
        }
        Value::Array(pairs) => {
            for pair in &pairs {
                let pair = pair.as_array().filter(|pair| pair.len() == 2).ok_or(SHAPE)?;
                let name = pair[0].as_str().ok_or(SHAPE)?;
                headers.push(name.as_bytes(), &header_value(&pair[1]).ok_or(SHAPE)?);
            }
        }
        _ => return Err(SHAPE.into()),
    }
    headers.end_record();
    Ok(headers)
}

pub(super) fn header_value(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(fields) if fields.len() == 1 => STANDARD.decode(fields.get("base64")?.as_str()?).ok(),
        _ => None,
    }
}
