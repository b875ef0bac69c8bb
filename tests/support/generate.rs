//! Logs to fold: seeded, with everything in them that a real log has and a naive reader trips over. Writes them as NDJSON for the file
//! source; the services tests produce the same records to Kafka.

use std::io::Write;
use std::path::Path;

use base64::Engine;
use serde_json::{Value, json};

use crate::support::random::Random;

/// One record, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestRecord {
    /// Partition.
    pub(crate) partition: u32,
    /// Offset: ascending in its partition, with gaps.
    pub(crate) offset: u64,
    /// The record's own timestamp, ms; goes back now and then.
    pub(crate) timestamp: i64,
    /// Key, mostly none: the seed's topic has null keys.
    pub(crate) key: Option<Vec<u8>>,
    /// Payload; none is a tombstone.
    pub(crate) value: Option<Vec<u8>>,
}

/// Where generated logs begin in time, ms since 1970.
pub(crate) const START_MS: i64 = 1_727_870_000_000;
/// Mean time between two records of one user, ms: near the session timeout, so that sessions of all lengths arise.
const USER_GAP_MS: i64 = 40_000;

/// What a generated log is made of: the time line and the partitions' offsets, common to all kinds of payload.
struct Line {
    random: Random,
    now: i64,
    step_ms: i64,
    next_offset: [u64; 2],
}

impl Line {
    fn new(users: u64, seed: u64) -> Line {
        let step_ms = (USER_GAP_MS / users.cast_signed()).max(1);
        Line { random: Random::new(seed), now: START_MS, step_ms, next_offset: [0, 7] }
    }

    /// Moves the clock: half of the records share their millisecond with the one before, in this partition or the other.
    fn advance(&mut self) {
        if self.random.chance(50) {
            self.now += self.random.between(1, 4 * self.step_ms);
        }
    }

    /// A record at the present instant.
    fn record(&mut self, value: Option<Vec<u8>>) -> TestRecord {
        let partition = usize::from(self.random.chance(45));
        if self.random.chance(2) {
            self.next_offset[partition] += self.random.below(5);
        }
        let offset = self.next_offset[partition];
        self.next_offset[partition] += 1;
        let timestamp = if self.random.chance(4) { self.now - self.random.between(1, 3_000) } else { self.now };
        let key = self.random.chance(10).then(|| format!("k{}", self.random.below(9)).into_bytes());
        TestRecord { partition: u32::from(partition == 1), offset, timestamp, key, value }
    }

    /// An event time: mostly a little behind the clock, now and then behind the watermark, seldom far ahead.
    fn event_time(&mut self) -> i64 {
        match self.random.below(1000) {
            0..2 => self.now + 3_600_000 + self.random.between(3_001, 900_000_000),
            2..4 => self.now + self.random.between(1, 900),
            4..20 => self.now - self.random.between(10_000, 90_000),
            20..60 => self.now - self.random.between(5_000, 15_000),
            _ => self.now - self.random.between(0, 3_000),
        }
    }

    /// One of the users; low numbers come more often, and some ids are negative or of other lengths, since keys sort as bytes.
    fn user(&mut self, users: u64) -> i64 {
        let user = self.random.below(users).min(self.random.below(users)).cast_signed();
        match user % 50 {
            7 => -user,
            9 => user + 9_000_000_000,
            _ => user,
        }
    }
}

/// A log of visits: `events` records of `users` users over two partitions, about 2 % of them bad.
pub(crate) fn generate(events: usize, users: u64, seed: u64) -> Vec<TestRecord> {
    let mut line = Line::new(users, seed);
    (0..events)
        .map(|i| {
            line.advance();
            let value =
                if line.random.chance(2) { bad_value(&mut line.random) } else { Some(visit(&mut line, users, i)) };
            line.record(value)
        })
        .collect()
}

/// A log for the hostile plugin, otherwise like [`generate`]: records of one event `{"key", "time", "v"}`, or of `{"events": [..]}`, which
/// often share a key.
pub(crate) fn generate_hostile(events: usize, keys: u64, seed: u64) -> Vec<TestRecord> {
    let mut line = Line::new(keys, seed);
    (0..events)
        .map(|_| {
            line.advance();
            let value = match line.random.below(100) {
                0 => json!([]),
                1..15 => hostile_events(&mut line, keys),
                _ => {
                    let key = line.user(keys);
                    hostile_event(&mut line, key)
                }
            };
            line.record(Some(value.to_string().into_bytes()))
        })
        .collect()
}

/// A log for `gap-sessions`, otherwise like [`generate`]: `{"user", "page", "time"}`, of users who are always there, one who is hot for a
/// minute and then away for six, and users who come once. A quarter of the events come later than the others, so that many come between
/// two that were there; half of the times are whole seconds, so that many differ by whole seconds.
pub(crate) fn generate_pages(events: usize, users: u64, seed: u64) -> Vec<TestRecord> {
    let mut line = Line::new(users, seed);
    (0..events)
        .map(|i| {
            line.advance();
            let user = match line.random.below(100) {
                0 => format!("once {i}"),
                1..16 => format!("hot {}", line.now / 60_000 % 7),
                _ => line.user(users / 3).to_string(),
            };
            let behind = if line.random.chance(25) { line.random.between(0, 7_000) } else { 0 };
            let time = line.event_time() - behind;
            let time = if line.random.chance(50) { time / 1_000 * 1_000 } else { time };
            let value = match line.random.below(100) {
                0 => bad_value(&mut line.random),
                _ => Some(json!({"user": user, "page": format!("p{i}"), "time": time}).to_string().into_bytes()),
            };
            line.record(value)
        })
        .collect()
}

fn hostile_event(line: &mut Line, key: i64) -> Value {
    json!({"key": key.to_string(), "time": line.event_time(), "v": line.random.below(1_000)})
}

fn hostile_events(line: &mut Line, keys: u64) -> Value {
    let first = line.user(keys);
    let count = line.random.below(5);
    let events = (0..count).map(|_| {
        let key = if line.random.chance(60) { first } else { line.user(keys) };
        hostile_event(line, key)
    });
    json!({"events": events.collect::<Vec<Value>>()})
}

/// A visit whose page occurs once in the log: `p<i>` and what a page may look like besides.
fn visit(line: &mut Line, users: u64, i: usize) -> Vec<u8> {
    let time = {
        let ms = line.event_time();
        event_time_text(&mut line.random, ms)
    };
    let user = line.user(users);
    let page = format!("p{i}{}", line.random.pick(&["", ".html", "/ä", "\\u00e9", "\\n", "\\\"q\\\"", "/日本", " "]));
    match line.random.below(20) {
        0 => format!(
            r#"{{"event_time": "{time}", "page": "{page}", "user_id": {user}, "more": {{"a": [1, "]}}", null]}}}}"#
        ),
        1 => format!(r#"  {{"user_id":{user},"page":"{page}","event_time":"{time}"}}  "#),
        2 => format!(
            r#"{{"user_id": 1, "page": "former", "user_id": {user}, "page": "{page}", "event_time": "{time}"}}"#
        ),
        3 => format!(r#"{{"user_id": {user}.0, "page": "{page}", "event_time": "{time}"}}"#),
        _ => format!(r#"{{"user_id": {user}, "page": "{page}", "event_time": "{time}"}}"#),
    }
    .into_bytes()
}

/// An instant in one of the forms that `event_time` may have; what a form cannot carry is floored away by it.
fn event_time_text(random: &mut Random, ms: i64) -> String {
    let utc = chrono::DateTime::from_timestamp_millis(ms).expect("generated times are near the present");
    let offset =
        |minutes: i32| utc.with_timezone(&chrono::FixedOffset::east_opt(minutes * 60).expect("less than a day"));
    match random.below(8) {
        0 => utc.format("%Y-%m-%dT%H:%M:%S").to_string(),
        1 => utc.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        2 => format!("{}+02:00", offset(120).format("%Y-%m-%dT%H:%M:%S%.3f")),
        3 => format!("{}-09:30", offset(-570).format("%Y-%m-%dT%H:%M:%S%.3f")),
        4 => utc.format("%Y-%m-%dT%H:%M:%S%.6f").to_string(),
        5 => format!("{}{}Z", utc.format("%Y-%m-%dT%H:%M:%S%.3f"), random.below(900_000) + 100_000),
        6 => match ms % 4 {
            0 => utc.format("%Y-%m-%d %H:%M:%S%.3f+0000").to_string(),
            1 => utc.format("%Y-%m-%dt%H:%M:%S%.3fz").to_string(),
            2 => format!("{}-0930", offset(-570).format("%Y-%m-%d %H:%M:%S%.3f")),
            _ => format!("{}+02", offset(120).format("%Y-%m-%dT%H:%M:%S%.9f000")),
        },
        _ => utc.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
    }
}

/// Payloads that `visits` rejects, each for a reason of its own.
pub(crate) const BAD_VALUES: &[&[u8]] = &[
    b"",
    b"not json",
    b"{",
    b"{}",
    b"null",
    b"[]",
    b"\"text\"",
    b"42",
    br#"[{"user_id": 1, "page": "x", "event_time": "2024-10-02T12:00:00"}]"#,
    br#"{"page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 1, "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 1, "page": "x"}"#,
    br#"{"user_id": null, "page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 1, "page": null, "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": null}"#,
    br#"{"user_id": "1", "page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 1.5, "page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 1.05, "page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 1e3, "page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": true, "page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 9223372036854775808, "page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": -9223372036854775809, "page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 123456789012345678901234567890, "page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 01, "page": "x", "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 1, "page": 7, "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 1, "page": ["x"], "event_time": "2024-10-02T12:00:00"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": 1727870400}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "yesterday"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": ""}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02  12:00:00"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-02-30T12:00:00"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-13-01T12:00:00"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02T25:00:00"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02T12:60:00"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02T12:00:00."}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02T12:00:00,5"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02T12:00:00+020"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02T12:00:00 UTC"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "+12024-10-02T12:00:00"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "0000-12-31T23:59:59.999Z"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "0001-01-01T00:00:00+00:01"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "9999-12-31T23:59:59-00:01"}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02T12:00:00"} trailing"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02T12:00:00"}{}"#,
    br#"{"user_id": 1, "page": "x", "event_time": "2024-10-02T12:00:00",}"#,
    b"{\"user_id\": 1, \"page\": \"\xff\xfe\", \"event_time\": \"2024-10-02T12:00:00\"}",
    b"\xff\xfe\x00",
    b"{\"user_id\": 1, \"page\": \"a\nb\", \"event_time\": \"2024-10-02T12:00:00\"}",
];

/// A payload that is rejected, or that is fine and worth nothing: years 1 and 9999 are late, or too far ahead.
fn bad_value(random: &mut Random) -> Option<Vec<u8>> {
    match random.below(12) {
        0 => None,
        1 => Some(br#"{"user_id": 1, "page": "first year", "event_time": "0001-01-01T00:00:00Z"}"#.to_vec()),
        2 => Some(br#"{"user_id": 1, "page": "last year", "event_time": "9999-12-31T23:59:59.999999999Z"}"#.to_vec()),
        _ => Some(random.pick(BAD_VALUES).to_vec()),
    }
}

/// Writes records in the file source's "records" form, in the order given.
pub(crate) fn write_records(path: &Path, records: &[TestRecord]) {
    let file = std::fs::File::create(path).expect("the test's folder is writable");
    let mut out = std::io::BufWriter::new(file);
    for record in records {
        writeln!(out, "{}", record_line(record)).expect("the test's folder is writable");
    }
    out.flush().expect("the test's folder is writable");
}

/// One line of the "records" form.
pub(crate) fn record_line(record: &TestRecord) -> Value {
    let mut line = json!({"partition": record.partition, "offset": record.offset, "timestamp": record.timestamp});
    match record.value.as_deref().map(std::str::from_utf8) {
        None => line["value"] = Value::Null,
        Some(Ok(text)) => line["value"] = json!(text),
        Some(Err(_)) => line["value_base64"] = json!(base64_of(record.value.as_deref().unwrap_or_default())),
    }
    match record.key.as_deref().map(std::str::from_utf8) {
        None => {}
        Some(Ok(text)) => line["key"] = json!(text),
        Some(Err(_)) => line["key_base64"] = json!(base64_of(record.key.as_deref().unwrap_or_default())),
    }
    line
}

/// Base64 with padding, the form of `value_base64`.
pub(crate) fn base64_of(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_log_again() {
        assert_eq!(generate(500, 40, 3), generate(500, 40, 3));
        assert_ne!(generate(500, 40, 3), generate(500, 40, 4));
    }

    #[test]
    fn a_generated_log_holds_what_it_promises() {
        let log = generate(20_000, 500, 1);
        let backwards = |p: u32| {
            let times: Vec<i64> = log.iter().filter(|r| r.partition == p).map(|r| r.timestamp).collect();
            times.windows(2).filter(|w| w[1] < w[0]).count()
        };
        assert!(backwards(0) > 100 && backwards(1) > 100, "timestamps go back within a partition");
        let ties = log.windows(2).filter(|w| w[0].timestamp == w[1].timestamp && w[0].partition != w[1].partition);
        assert!(ties.count() > 1000, "partitions share timestamps");
        let gaps = |p: u32| {
            let offsets: Vec<u64> = log.iter().filter(|r| r.partition == p).map(|r| r.offset).collect();
            assert!(offsets.windows(2).all(|w| w[1] > w[0]), "offsets ascend");
            offsets.windows(2).filter(|w| w[1] > w[0] + 1).count()
        };
        assert!(gaps(0) > 20 && gaps(1) > 20, "offsets have gaps");
        assert!(log.iter().any(|r| r.value.is_none()), "there are tombstones");
    }
}
