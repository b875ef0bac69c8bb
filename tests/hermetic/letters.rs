//! `keyfold dead-letters` on files: what is listed and counted, and records that are sent again once what kept them from being folded was
//! mended.

use serde_json::{Value, json};

use crate::support::case::written;
use crate::support::doctor::{call, objects};
use crate::support::generate::{START_MS, TestRecord, write_records};
use crate::support::host::{Pipeline, plugin_file};
use crate::support::model::folds::{Hostile, Mode};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson, sorted};
use crate::support::settings::Settings;

/// Twenty events a quarter of a second apart, of which `fold` rejects the one with v = 13, and a payload that is none.
fn log() -> Vec<TestRecord> {
    let record = |i: u64| {
        let time = START_MS + i.cast_signed() * 250;
        let value = json!({"key": "k", "time": time, "v": i}).to_string();
        let value = if i == 20 { b"no JSON".to_vec() } else { value.into_bytes() };
        TestRecord { partition: 0, offset: i, timestamp: time, key: Some(b"k".to_vec()), value: Some(value) }
    };
    (0..=20).map(record).collect()
}

fn settings() -> Settings {
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"reject\" }}", plugin_file("hostile"));
    Settings { plugin, ..Settings::default() }
}

#[test]
fn a_redriven_record_is_folded_once_and_sent_once() {
    let pipeline = Pipeline::new(&settings().to_toml());
    write_records(&pipeline.path("log.ndjson"), &log());
    call(&pipeline, ["dead-letters", "list"], &[]).expect_code(0).expect_said(&["no dead letters"]);
    pipeline.run_to_end(&[]).expect_code(0);

    let list = call(&pipeline, ["dead-letters", "list"], &["--output", "json"]);
    let letters = objects(list.expect_code(0));
    let stages: Vec<(&Value, &Value)> = letters.iter().map(|letter| (&letter["stage"], &letter["offset"])).collect();
    assert_eq!(stages, [(&json!("fold"), &json!(13)), (&json!("map"), &json!(20))]);
    let one = call(&pipeline, ["dead-letters", "list"], &["--limit", "1"]);
    one.expect_code(0).expect_said(&["line 1: fold of record 0/13", "rejected 13", "1 more: raise --limit"]);
    let counts = call(&pipeline, ["dead-letters", "list"], &["--summary", "--stage", "fold", "--output", "json"]);
    assert_eq!(objects(counts.expect_code(0)), [json!({"stage": "fold", "reason": "rejected 13", "count": 1})]);
    call(&pipeline, ["dead-letters", "list"], &["--stage", "folded"]).expect_code(2).expect_said(&["map, time, fold"]);

    // What kept it from being folded is mended, and the record comes again.
    let t = (START_MS + 36_000_000).to_string();
    pipeline.call("deployment create", &["--plugin-config", r#"{"mode": "ok"}"#, "--at", &t]).expect_code(0);
    let redrive = |more: &[&str]| {
        let outcome = call(&pipeline, ["dead-letters", "redrive"], &[&["--stage", "fold"], more].concat());
        outcome.expect_code(0).stdout.clone()
    };
    call(&pipeline, ["dead-letters", "redrive"], &[]).expect_code(2).expect_said(&["--to is missing"]);
    let before = std::fs::read(pipeline.path("log.ndjson")).expect("the log is there");
    assert_eq!(redrive(&["--to", "log.ndjson", "--dry-run"]).trim(), "would send to file log.ndjson: 1 record(s)");
    assert_eq!(std::fs::read(pipeline.path("log.ndjson")).expect("the log is there"), before, "nothing was sent");
    assert_eq!(redrive(&["--to", "log.ndjson"]).trim(), "sent to file log.ndjson: 1 record(s)");
    let sent = redrive(&["--to", "log.ndjson"]);
    assert!(sent.starts_with("sent to file log.ndjson: 0 record(s)\nskipped 1: sent by an earlier redrive"), "{sent}");

    let line = from_ndjson(&pipeline.path("log.ndjson")).pop().expect("there are lines");
    let headers = json!([
        ["keyfold.redriven.partition", "0"],
        ["keyfold.redriven.offset", "13"],
        ["keyfold.redriven.timestamp", log()[13].timestamp.to_string()]
    ]);
    assert_eq!((&line["headers"], &line["key"], &line["partition"]), (&headers, &json!("k"), &json!(0)));
    pipeline.run_to_end(&[]).expect_code(0);
    let want = model::run(Hostile::new(Mode::Ok), &log()[..20], Time::default()).values();
    assert_same("rows", &sorted(from_ndjson(&pipeline.path("rows.ndjson"))), &sorted(want));

    let again = redrive(&["--to", "file:again.ndjson", "--again"]);
    assert_eq!(again.trim(), "sent to file again.ndjson: 1 record(s)");
    assert_eq!(from_ndjson(&pipeline.path("again.ndjson")).len(), 1);
}

#[test]
fn what_a_withdrawn_deployment_rejected_is_not_sent_again() {
    let mut log = log();
    // A second lane: files of several lanes are not cut back to what the state covers.
    log.push(TestRecord { partition: 1, offset: 0, ..log[0].clone() });
    let source = format!("{}\nordering = \"partition\"", written("letters-withdrawn", &log));
    let plugin =
        format!("component = \"{}\"\nconfig = {{ mode = \"ok\" }}\nprobation = \"1h\"", plugin_file("hostile"));
    let sink = "[sink.sqlite]\npath = \"rows.db\"".to_owned();
    let pipeline = Pipeline::new(&Settings { source, plugin, sink, ..Settings::default() }.to_toml());
    let t = (START_MS + 2_000).to_string();
    pipeline.call("deployment create", &["--plugin-config", r#"{"mode": "reject"}"#, "--at", &t]).expect_code(0);
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline.call("deployment withdraw", &["--reason", "a test"]).expect_code(0);
    pipeline.run_to_end(&[]).expect_code(0);
    let letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
    let by: Vec<(&Value, &Value)> = letters.iter().map(|letter| (&letter["deployment"], &letter["offset"])).collect();
    assert_eq!(by, [(&json!(1), &json!(13)), (&json!(1), &json!(20)), (&json!(0), &json!(20))]);
    let plan = call(&pipeline, ["dead-letters", "redrive"], &["--to", "file:again.ndjson", "--dry-run"]);
    let said = ["would send to file again.ndjson: 1 record(s)", "skipped 2: their deployment was withdrawn"];
    plan.expect_code(0).expect_said(&said);
}
