//! What a host says about records that it does not fold: it is told, by reason, and loudly if it is most of them. And files that are not what
//! a file source reads.

use serde_json::json;

use crate::support::generate::{TestRecord, record_line, write_records};
use crate::support::host::{Pipeline, logged, number};
use crate::support::rows::from_ndjson;
use crate::support::settings::Settings;

const NOON_MS: i64 = 1_727_870_400_000;

/// A visit of this record, at this second from noon.
fn visit(i: i64, second: i64) -> TestRecord {
    let at = jiff::Timestamp::from_millisecond(NOON_MS + second * 1_000).expect("a time of this century");
    let at = at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let value = json!({"user_id": i, "page": "a", "event_time": at}).to_string();
    record(i, value)
}

fn record(i: i64, value: String) -> TestRecord {
    TestRecord {
        partition: 0,
        offset: i.unsigned_abs(),
        timestamp: NOON_MS + i * 10,
        key: None,
        value: Some(value.into_bytes()),
    }
}

fn pipeline(records: &[TestRecord]) -> Pipeline {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    write_records(&pipeline.path("log.ndjson"), records);
    pipeline
}

#[test]
fn a_log_that_is_rejected_is_told_of_loudly() {
    let records: Vec<TestRecord> = (0..1_200).map(|i| record(i, format!("line {i} of a text"))).collect();
    let outcome = pipeline(&records).run_to_end(&[]);
    outcome.expect_code(0);
    let most = outcome.logged("most-records-lost");
    assert_eq!(most["level"], "WARN");
    assert!(number(&most, "lost") >= 1_000);
    let lost = outcome.logged("records-lost");
    assert_eq!((number(&lost, "lost"), number(&lost, "more")), (1_200, 1_200));
    assert!(lost["reasons"].as_str().is_some_and(|reasons| reasons.starts_with("map: ")), "{lost}");
}

#[test]
fn a_short_log_of_late_events_is_told_of_too() {
    // The first event closes the time of all that follow.
    let records: Vec<TestRecord> = (0..50).map(|i| visit(i, if i == 0 { 3_000 } else { 0 })).collect();
    let outcome = pipeline(&records).run_to_end(&[]);
    outcome.expect_code(0);
    assert_eq!(number(&outcome.logged("most-records-lost"), "lost"), 49);
    assert!(outcome.logged("records-lost")["reasons"].as_str().is_some_and(|reasons| reasons.contains("late: ")));
    let jump = outcome.logged("watermark-jump");
    assert_eq!((number(&jump, "offset"), number(&jump, "ahead_ms")), (0, 3_000_000));
}

#[test]
fn a_log_that_is_folded_is_not_complained_about() {
    let records: Vec<TestRecord> = (0..1_200).map(|i| visit(i, i / 100)).collect();
    let outcome = pipeline(&records).run_to_end(&[]);
    outcome.expect_code(0);
    for event in ["most-records-lost", "records-lost", "watermark-jump", "implausible-timestamp"] {
        assert!(logged(&outcome.stderr, event).is_empty(), "{event}");
    }
}

#[test]
fn what_is_lost_at_the_side_is_summed_up() {
    let wrong = |i: i64| record(i, "no visit".to_owned());
    let records: Vec<TestRecord> = (0..100).map(|i| if i % 10 == 3 { wrong(i) } else { visit(i, 1) }).collect();
    let outcome = pipeline(&records).run_to_end(&[]);
    outcome.expect_code(0);
    assert_eq!(number(&outcome.logged("records-lost"), "lost"), 10);
    assert!(logged(&outcome.stderr, "most-records-lost").is_empty());
}

#[test]
fn a_half_written_line_waits_for_its_end() {
    let lines: Vec<String> = (0..3).map(|i| record_line(&visit(i, i)).to_string()).collect();
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    let (half, rest) = lines[1].split_at(20);
    pipeline.write("log.ndjson", format!("{}\n{half}", lines[0]).as_bytes());
    let first = pipeline.run_to_end(&[]);
    first.expect_code(0);
    assert_eq!(number(&first.logged("lane-stopped"), "records"), 1);
    assert_eq!(number(&first.logged("line-unfinished"), "bytes"), 20);
    pipeline.call("check", &[]).expect_code(0);

    // Whole, but its line break is still to come.
    pipeline.write("log.ndjson", format!("{}\n{half}{rest}", lines[0]).as_bytes());
    assert_eq!(number(&pipeline.run_to_end(&[]).expect_code(0).logged("lane-stopped"), "records"), 0);
    pipeline.write("log.ndjson", format!("{}\n{half}{rest}\n{}", lines[0], lines[2]).as_bytes());
    assert_eq!(number(&pipeline.run_to_end(&[]).expect_code(0).logged("lane-stopped"), "records"), 1);
    // Nobody writes any more.
    assert_eq!(number(&pipeline.run_to_end(&["--until-end"]).expect_code(0).logged("lane-stopped"), "records"), 1);
    assert!(from_ndjson(&pipeline.path("dead-letters.ndjson")).is_empty());
}

#[test]
fn a_compressed_file_is_refused_by_name_with_the_remedy() {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    pipeline.write("log.ndjson", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56\x2a");
    for command in ["run", "check"] {
        pipeline.call(command, &[]).expect_code(2).expect_said(&["source.file.path", "gzip", "gunzip -c"]);
    }
    pipeline.write("log.ndjson", b"[\n  {\"value\": \"a\"}\n]\n");
    pipeline.run_to_end(&[]).expect_code(2).expect_said(&["one JSON array", "jq -c"]);
}

/// Producers that compress their payloads, or put many records into one.
#[test]
fn payloads_that_are_no_text_are_named_where_most_are_lost() {
    let packed = |payload: &'static [u8]| move |i: i64| TestRecord { value: Some(payload.to_vec()), ..visit(i, 0) };
    for (payload, name) in [
        (&b"\x1f\x8b\x08\0\0\0\0\0\0\x03"[..], "compressed by gzip"),
        (b"\xff\x06\0\0sNaPpY\x01", "compressed by snappy"),
        (b"PK\x03\x04\x14\0", "a zip archive"),
        (b"\0\0\0\0\x2a\x02\x06ann", "framed for a schema registry"),
        (b"[{\"user_id\": 1}, {\"user_id\": 2}]", "a JSON array"),
    ] {
        let pipeline = pipeline(&(0..20).map(packed(payload)).collect::<Vec<_>>());
        let said = format!("most payloads are {name}");
        pipeline.call("check", &[]).expect_code(0).expect_said(&[&said]);
        let most = pipeline.run_to_end(&[]).expect_code(0).logged("most-records-lost");
        assert!(most["payloads"].as_str().is_some_and(|form| form.starts_with(name)), "{most}");
    }
}
