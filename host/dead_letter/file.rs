//! Dead letters as lines of JSON in a file, which the file source can read: its "records" format (`value` or `value_base64`, `partition`,
//! `offset`, `timestamp`, `key` or `key_base64`, `headers`), plus `reason`, `stage`, `plugin`, `deployment`, `event`, `topic`, and `cut` if
//! the record was too large: lengths and digests of what was cut.
//!
//! UTF-8 is written as text, other bytes as base64. A tombstone's `value` is null; a record without a key has no `key`. Headers are a list of
//! `[name, value]`, where a part that is not UTF-8 is `{"base64": "..."}`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::append_file::AppendFile;
use crate::backoff::Outage;
use crate::dead_letter::{DeadLetter, DeadLetterWriter};
use crate::failure::{Check, Failure};
use crate::record::bounded::Cut;
use crate::record::{NO_TIME, RecordRef};

/// Appends dead letters to a file.
#[derive(Debug)]
pub(super) struct DeadLetterFile {
    file: AppendFile,
    source_topic: Option<String>,
}

impl DeadLetterFile {
    /// Opens the file, creating it if necessary; its folder must exist.
    pub(super) fn open(path: &Path, source_topic: Option<&str>) -> Result<DeadLetterFile, Failure> {
        let file = AppendFile::open(path).map_err(outside)?;
        Ok(DeadLetterFile { file, source_topic: source_topic.map(str::to_owned) })
    }
}

/// Returns the line of `keyfold check`.
pub(super) fn check(path: &Path) -> Check {
    match AppendFile::check(path) {
        Ok(detail) => Check::fine("dead letters", detail),
        Err(message) => Check::refused("dead letters", outside(message)),
    }
}

impl DeadLetterWriter for DeadLetterFile {
    fn claim(&mut self, deadline: Instant) -> Result<(), Failure> {
        self.file.claim(deadline).map_err(outside)
    }

    fn write(&mut self, letters: &[DeadLetter]) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for letter in letters {
            let object = object(letter, self.source_topic.as_deref());
            serde_json::to_writer(&mut lines, &object).expect("a Vec takes all, and the keys are text");
            lines.push(b'\n');
        }
        self.file.append(&lines).map_err(outside)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.file.sync().map(drop).map_err(outside)
    }

    fn length(&mut self) -> Result<Option<u64>, Failure> {
        self.file.sync().map(Some).map_err(outside)
    }

    fn truncate(&mut self, length: u64) -> Result<(), Failure> {
        self.file.truncate(length).map_err(outside)
    }

    fn end_line(&mut self, ours: Option<u64>) -> Result<(), Failure> {
        self.file.end_line(ours).map_err(outside)
    }

    fn outage(&self) -> Arc<Outage> {
        self.file.outage()
    }
}

/// Returns a dead letter as the object of its line.
pub(super) fn object(letter: &DeadLetter, source_topic: Option<&str>) -> Map<String, Value> {
    let mut object = record_object(letter.record.get(0), true);
    if !letter.stage.names_a_record() {
        object.retain(|name, _| name != "partition" && name != "offset");
    }
    object.insert("reason".to_owned(), letter.reason.as_str().into());
    object.insert("stage".to_owned(), letter.stage.name().into());
    object.insert("plugin".to_owned(), letter.plugin.as_str().into());
    if let Some(deployment) = letter.deployment {
        object.insert("deployment".to_owned(), deployment.into());
    }
    if let Some(event) = letter.event {
        object.insert("event".to_owned(), event.into());
    }
    if let Some(cut) = letter.record.cut(0) {
        object.insert("cut".to_owned(), cut_object(cut).into());
    }
    if let Some(topic) = source_topic {
        object.insert("topic".to_owned(), topic.into());
    }
    object
}

/// Returns what is missing of a record.
fn cut_object(cut: &Cut) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, part) in [("payload", &cut.payload), ("key", &cut.key)] {
        if let Some(whole) = part {
            object.insert(format!("{name}_bytes"), whole.bytes.into());
            object.insert(format!("{name}_sha256"), whole.sha256.as_str().into());
        }
    }
    if let Some(headers) = cut.headers {
        object.insert("headers".to_owned(), headers.into());
    }
    object
}

/// Returns a record in the format of the file source. Without its offset it becomes the next one of its partition.
pub(super) fn record_object(record: RecordRef<'_>, has_offset: bool) -> Map<String, Value> {
    let mut object = Map::new();
    match record.payload {
        Some(payload) => put_bytes(&mut object, "value", payload),
        None => drop(object.insert("value".to_owned(), Value::Null)),
    }
    object.insert("partition".to_owned(), record.partition.into());
    if has_offset {
        object.insert("offset".to_owned(), record.offset.into());
    }
    if record.append_time != NO_TIME {
        object.insert("timestamp".to_owned(), record.append_time.into());
    }
    if let Some(key) = record.key {
        put_bytes(&mut object, "key", key);
    }
    let headers: Vec<Value> = record.headers.map_or_else(Vec::new, |(headers, i)| {
        headers.of(i).map(|(name, value)| json!([text_or_base64(name), text_or_base64(value)])).collect()
    });
    if !headers.is_empty() {
        object.insert("headers".to_owned(), headers.into());
    }
    object
}

fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

fn text_or_base64(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

fn outside(message: String) -> Failure {
    Failure::outside(format!("dead_letters.file: {message}"))
}

#[cfg(test)]
mod tests {
    use crate::config::DeadLetters;
    use crate::dead_letter::{open, samples};

    fn written(letters: &[super::DeadLetter]) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("dead-letters.ndjson");
        let mut writer = open(&DeadLetters::File(path.clone()), Some("visits"), None).expect("opens");
        writer.write(letters).expect("writes");
        writer.flush().expect("flushes");
        let text = std::fs::read_to_string(path).expect("reads");
        assert_eq!(writer.length(), Ok(Some(text.len() as u64)));
        text
    }

    #[test]
    fn a_dead_letter_is_a_record_of_the_file_source_with_a_reason() {
        let text =
            written(&[samples::letter(Some(b"7"), Some(b"{\"page\":\"A\"}"), &[(b"trace", b"x"), (b"raw", b"\xff")])]);
        let plugin = "ab".repeat(32);
        assert_eq!(
            text,
            format!(
                "{{\"value\":\"{{\\\"page\\\":\\\"A\\\"}}\",\"partition\":3,\"offset\":42,\"timestamp\":1727873508000,\"key\":\"7\",\
                 \"headers\":[[\"trace\",\"x\"],[\"raw\",{{\"base64\":\"/w==\"}}]],\"reason\":\"user_id is missing\",\"stage\":\"map\",\
                 \"plugin\":\"{plugin}\",\"deployment\":2,\"event\":0,\"topic\":\"visits\"}}\n"
            )
        );
    }

    #[test]
    fn bytes_that_are_not_text_are_written_as_base64() {
        let text = written(&[samples::letter(Some(b"\xfe"), Some(b"\xff\x00"), &[])]);
        assert!(text.starts_with("{\"value_base64\":\"/wA=\",\"partition\":3,"), "{text}");
        assert!(text.contains("\"key_base64\":\"/g==\",\"reason\""), "{text}");
    }

    #[test]
    fn a_tombstone_has_a_null_value_and_an_empty_payload_an_empty_one() {
        let text = written(&[samples::letter(None, None, &[]), samples::letter(None, Some(b""), &[])]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("{\"value\":null,\"partition\":3,"), "{}", lines[0]);
        assert!(lines[1].starts_with("{\"value\":\"\",\"partition\":3,"), "{}", lines[1]);
        assert!(!text.contains("\"key"), "{text}");
    }

    #[test]
    fn a_file_without_a_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = DeadLetters::File(folder.path().join("no/letters"));
        let failure = open(&config, None, None).err().expect("is refused");
        assert!(failure.message.starts_with("dead_letters.file: "), "{failure}");
        assert!(failure.message.ends_with("/no does not exist; create it"), "{failure}");
        assert_eq!(super::super::check(&config)[0].detail, failure.message);
    }
}
