//! Bad input that only real services can give: large payloads, trimmed logs, missing topics, keyspaces, tables and columns.

use serde_json::json;

use crate::support::generate::{START_MS, TestRecord, generate};
use crate::support::host::{Outcome, Pipeline};
use crate::support::rows::from_ndjson;
use crate::support::settings::Settings;
use crate::tables::{SESSIONS, Tables};
use crate::topics::{create_topic, produce, read_back, trim};

fn visit(partition: u32, minute: i64, user: i64, page: &str) -> TestRecord {
    let ms = START_MS + minute * 60_000;
    let time = chrono::DateTime::from_timestamp_millis(ms).expect("near the present").format("%Y-%m-%dT%H:%M:%S");
    let value = json!({"user_id": user, "page": page, "event_time": time.to_string()}).to_string().into_bytes();
    TestRecord { partition, offset: 0, timestamp: ms, key: None, value: Some(value) }
}

#[test]
fn a_payload_of_10_mb_is_folded_where_kafka_carries_it() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "large-payload", 1, &[("max.message.bytes", "12000000")]);
    let page = "x".repeat(10_000_000);
    produce(&brokers, "large-payload", &[visit(0, 0, 1, &page), visit(0, 5, 2, "b")]);
    let pipeline = Pipeline::new(&Settings::default().over_kafka(&brokers, "large-payload").to_toml());
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    let rows = from_ndjson(&pipeline.path("rows.ndjson"));
    // User 2's session counts from the watermark before its record, and so has ended by it too, and first.
    assert_eq!(rows.len(), 2);
    assert!(rows[1]["pages"][0] == page.as_str(), "the page came through whole");
}

#[test]
fn a_dead_letter_that_its_topic_does_not_carry_is_cut_and_the_pipeline_goes_on() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "nearly-too-large", 1, &[]);
    create_topic(&brokers, "nearly-too-large-letters", 1, &[("max.message.bytes", "1048588")]);
    // Kafka carries it, but not with the headers of a dead letter.
    let large = TestRecord { value: Some(vec![b'x'; 1_048_400]), ..visit(0, 1, 1, "a") };
    produce(&brokers, "nearly-too-large", &[visit(0, 0, 1, "a"), large, visit(0, 5, 2, "b")]);
    let toml = Settings::default().over_kafka(&brokers, "nearly-too-large").to_toml();
    let letters = format!("topic = \"nearly-too-large-letters\"\nbrokers = \"{brokers}\"");
    let pipeline = Pipeline::new(&toml.replace("file = \"dead-letters.ndjson\"", &letters));
    let outcome = pipeline.run_to_end(&["--until-end"]);
    outcome.expect_code(0);
    let kept = read_back(&brokers, "nearly-too-large-letters").remove(0);
    assert!(kept.value.as_ref().is_some_and(|value| value.len() < 1_048_400), "{:?}", kept.value.map(|v| v.len()));
    assert_eq!(outcome.logged("dead-letter-cut")["offset"], 1);
    assert!(kept.value.is_some_and(|value| value.len() > 400_000 && value.iter().all(|&byte| byte == b'x')));
    let redriven = pipeline.call("dead-letters redrive", &["--dry-run"]);
    redriven
        .expect_code(0)
        .expect_said(&["would send to topic nearly-too-large: 0 record(s)", "skipped 1: their record was too large"]);
}

#[test]
fn a_log_that_was_trimmed_is_an_error_that_names_both_offsets() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "trimmed", 1, &[]);
    let log: Vec<TestRecord> = (0..10).map(|i| visit(0, i, i, "p")).collect();
    produce(&brokers, "trimmed", &log);
    let pipeline = Pipeline::new(&Settings::default().over_kafka(&brokers, "trimmed").to_toml());
    pipeline.run_to_end(&["--until-end"]).expect_code(0);

    // What the checkpoint covers may go.
    trim(&brokers, "trimmed", 0, 4);
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    // A replay needs it, and this pipeline has lived before.
    pipeline.delete_checkpoints();
    pipeline.run_to_end(&["--until-end"]).expect_code(5).expect_said(&["trimmed", "0", "4"]);
}

#[test]
fn a_log_that_was_trimmed_beyond_the_checkpoint_is_an_error() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "trimmed-beyond", 1, &[]);
    produce(&brokers, "trimmed-beyond", &(0..10).map(|i| visit(0, i, i, "p")).collect::<Vec<_>>());
    let pipeline = Pipeline::new(&Settings::default().over_kafka(&brokers, "trimmed-beyond").to_toml());
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    produce(&brokers, "trimmed-beyond", &(10..20).map(|i| visit(0, i, i, "p")).collect::<Vec<_>>());
    trim(&brokers, "trimmed-beyond", 0, 15);
    pipeline.run_to_end(&["--until-end"]).expect_code(5).expect_said(&["10", "15"]);
}

#[test]
fn a_log_that_was_trimmed_before_the_first_start_is_folded_from_where_it_begins() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "trimmed-before", 1, &[]);
    produce(&brokers, "trimmed-before", &(0..10).map(|i| visit(0, i, i, "p")).collect::<Vec<_>>());
    trim(&brokers, "trimmed-before", 0, 4);
    let pipeline = Pipeline::new(&Settings::default().over_kafka(&brokers, "trimmed-before").to_toml());
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    let rows = from_ndjson(&pipeline.path("rows.ndjson"));
    assert_eq!(rows.iter().filter_map(|row| row["user_id"].as_i64()).min(), Some(4));
}

#[test]
fn a_missing_topic_is_named_at_once() {
    let Some(brokers) = crate::kafka() else { return };
    let pipeline = Pipeline::new(&Settings::default().over_kafka(&brokers, "no-such-topic").to_toml());
    pipeline.run_to_end(&[]).expect_code(3).expect_said(&["no-such-topic"]);
    pipeline.call("check", &[]).expect_code(3).expect_said(&["FAIL", "no-such-topic"]);
}

/// A run into a table that was made by `prepare`.
fn into_table(port: u16, keyspace: &str, prepare: impl Fn(&Tables)) -> Outcome {
    prepare(&Tables::connect(port));
    let pipeline = Pipeline::new(&Settings::default().into_cql(port, keyspace).to_toml());
    crate::support::generate::write_records(&pipeline.path("log.ndjson"), &generate(10, 2, 1));
    pipeline.run_to_end(&[])
}

#[test]
fn a_keyspace_table_or_column_that_is_missing_or_of_another_type_is_named() {
    let Some(port) = crate::cassandra() else { return };
    into_table(port, "no_such_keyspace", |_| {}).expect_code(3).expect_said(&["no_such_keyspace"]);
    into_table(port, "without_table", |tables| tables.create_keyspace("without_table"))
        .expect_code(3)
        .expect_said(&["without_table.sessions", "CREATE TABLE"]);
    let check = |keyspace: &str, table: &str, words: &[&str]| {
        into_table(port, keyspace, |tables| tables.create(keyspace, table)).expect_code(3).expect_said(words);
    };
    into_table(port, "Without_Table", |_| {})
        .expect_code(3)
        .expect_said(&["Without_Table", "did you mean without_table?"]);
    check("without_column", &SESSIONS.replace("pages list<text>, ", ""), &["sessions", "pages"]);
    check(
        "other_type",
        &SESSIONS.replace("list<text>", "list<int>"),
        &["sessions", "pages", "list<int>", "list<text>"],
    );
    check("without_now", &SESSIONS.replace("ingestion_time timestamp, ", ""), &["sessions", "ingestion_time"]);
    check(
        "other_key",
        &SESSIONS.replace("(session_id, user_id)", "(session_id)"),
        &["sessions", "user_id", "primary key"],
    );
    into_table(port, "fits", |tables| tables.create("fits", SESSIONS)).expect_code(0);
}
