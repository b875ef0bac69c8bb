//! `--output json` of the commands, and the commands that other tools read: each answer is the document that its help describes.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::doctor::findings;
use crate::support::host::{KEYFOLD, Outcome, Pipeline};
use crate::support::settings::Settings;

fn visit(offset: u64) -> String {
    let value = json!({"user_id": 1, "page": "A.html", "event_time": "2023-02-20T03:03:20"}).to_string();
    json!({"partition": 0, "offset": offset, "timestamp": 1_727_873_508_000_u64 + offset, "value": value}).to_string()
}

/// A pipeline over three visits, folded.
fn folded() -> Pipeline {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    let log: Vec<String> = (0..3).map(visit).collect();
    pipeline.write("log.ndjson", (log.join("\n") + "\n").as_bytes());
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline
}

#[track_caller]
fn document(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.lines().count(), 1, "one line: {}", outcome.stdout);
    serde_json::from_str(&outcome.stdout).expect("the answer is JSON")
}

#[test]
fn checks_are_findings() {
    let pipeline = folded();
    let checked = pipeline.call("check", &["--output", "json"]);
    let subjects: Vec<Value> = findings(checked.expect_code(0)).iter().map(|found| found["subject"].clone()).collect();
    assert_eq!(subjects[..4], ["config", "plugin", "source", "state"]);
    pipeline.configure("name = 1");
    let refused = findings(pipeline.call("check", &["--output", "json"]).expect_code(2));
    assert_eq!((&refused[0]["id"], &refused[0]["exit"]), (&json!("config-wrong"), &json!(2)));
}

#[test]
fn deployments_are_numbered_documents() {
    let pipeline = folded();
    let json = ["--output", "json"];
    let create = |more: &[&str]| pipeline.call("deployment create", &[&json[..], more].concat());
    let dry = create(&["--set", "time.late=process", "--dry-run"]);
    assert_eq!(document(dry.expect_code(0))["deployment"], Value::Null);
    let ordered = create(&["--set", "time.late=process", "--reason", "a test"]);
    let answer = document(ordered.expect_code(0));
    assert_eq!((&answer["deployment"], &answer["shadow"]), (&json!(1), &Value::Null));
    let from = answer["from_ms"].as_i64().expect("an instant");
    assert!(answer["findings"].as_array().is_some_and(|all| all.iter().all(|found| found["verdict"] != "fail")));
    let list = document(pipeline.call("deployment list", &json).expect_code(0));
    assert_eq!((&list[0]["n"], &list[1]["n"], list.as_array().map(Vec::len)), (&json!(0), &json!(1), Some(2)));
    assert_eq!((&list[1]["outcome"], &list[1]["deployment"]["t"]), (&json!("confirmed"), &json!(from)));
    assert_eq!(list[1]["deployment"]["reason"], "a test");
    let refused = create(&["missing.wasm"]);
    let answer = document(refused.expect_code(2));
    assert_eq!((&answer["findings"][0]["exit"], &answer["deployment"]), (&json!(2), &Value::Null));
    let withdrawn = pipeline.call("deployment withdraw", &json);
    assert_eq!(document(withdrawn.expect_code(0)), json!({"withdrawn": 1}));
}

#[test]
fn status_health_and_reset_are_documents() {
    let pipeline = folded();
    let status = document(pipeline.call("status", &["--output", "json"]).expect_code(0));
    assert_eq!((&status["provenance"], &status["lanes"][0]["next"]), (&json!("checkpoint"), &json!({"0": 3})));
    let health = document(pipeline.call("health", &["--output", "json"]).expect_code(1));
    assert_eq!((&health["healthy"], health["lines"].as_array().map(Vec::len)), (&json!(false), Some(1)));
    let exported = document(pipeline.call("state export", &["keys.ndjson", "--output", "json"]).expect_code(0));
    assert_eq!((&exported["keys"], &exported["lanes"]), (&json!(1), &json!({"topic": "0/2"})));
    let reset = |outcome: &Outcome| document(outcome.expect_code(0))["deleted_objects"].as_u64();
    assert!(reset(&pipeline.call("reset", &["--output", "json"])) > Some(0));
    assert_eq!(reset(&pipeline.call("reset", &["--output", "json"])), Some(0));
}

#[test]
fn a_comparison_is_a_document_on_standard_error() {
    let other = json!({"session_timeout": "50s", "session_id": "append-second"}).to_string();
    let compared = folded().call("replay", &["--against-config", &other, "--output", "json"]);
    compared.expect_one_of(&[0, 1]);
    let line = compared.stderr.lines().find(|line| line.starts_with("{\"same\"")).expect("a summary");
    let summary: Value = serde_json::from_str(line).expect("the summary is JSON");
    let differs = ["different", "only_a", "only_b"].iter().any(|name| summary[name] != 0);
    assert_eq!(compared.code, Some(i32::from(differs)));
}

#[test]
fn schema_scripts_and_pages_are_printed() {
    let print = |arguments: &[&str]| {
        let output = Command::new(KEYFOLD).args(arguments).stdin(Stdio::null()).output().expect("the program starts");
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).expect("the answer is text")
    };
    let schema: Value = serde_json::from_str(&print(&["schema"])).expect("the schema is JSON");
    assert!(schema["properties"]["time"]["properties"]["late"]["enum"].is_array());
    assert!(print(&["completions", "bash"]).contains("complete -F _keyfold"));
    assert!(print(&["man"]).contains(".TH keyfold 1"));
}
