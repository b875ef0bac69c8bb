//! The seed's walkthrough on a real broker and a real database: its published table, before and after the checkpoint was lost.

use serde_json::{Value, json};

use crate::support::generate::TestRecord;
use crate::support::host::{PATIENCE, Pipeline};
use crate::support::settings::Settings;
use crate::tables::{SESSIONS, Tables};
use crate::topics::{create_topic, produce_in_turn};

pub(crate) fn visit(partition: u32, timestamp: i64, user: i64, page: &str, time: &str) -> TestRecord {
    let value = json!({"user_id": user, "page": page, "event_time": time}).to_string().into_bytes();
    TestRecord { partition, offset: 0, timestamp, key: None, value: Some(value) }
}

/// To be in the log before a host starts: these timestamps are long past, so a host that finds B's partition empty once, however early, folds C
/// without asking again.
pub(crate) fn a_and_b() -> [TestRecord; 2] {
    [
        visit(0, 1_727_873_508_000, 1, "A.html", "2023-02-20T03:03:20"),
        visit(1, 1_727_873_511_000, 1, "B.html", "2023-02-20T03:03:26"),
    ]
}

pub(crate) fn c() -> [TestRecord; 1] {
    [visit(0, 1_727_873_514_000, 1, "C.html", "2023-02-20T03:05:26")]
}

pub(crate) fn d() -> [TestRecord; 1] {
    [visit(1, 1_727_873_775_000, 2, "D.html", "2023-02-20T04:55:26")]
}

pub(crate) fn first_row() -> Value {
    json!({"table": "sessions", "session_id": -1_700_334_822_881_806_003_i64, "user_id": 1, "pages": ["A.html", "B.html", "C.html"]})
}

pub(crate) fn second_row() -> Value {
    json!({"table": "sessions", "session_id": 9_081_782_675_340_903_552_i64, "user_id": 2, "pages": ["D.html"]})
}

/// Time of writing of user 1's row, ms.
pub(crate) fn written_ms(tables: &Tables, keyspace: &str) -> i64 {
    let rows = tables.rows(keyspace, "sessions", &["user_id", "ingestion_time"]);
    let row = rows.iter().find(|row| row["user_id"] == 1).expect("user 1 has a row");
    row["ingestion_time"].as_i64().expect("the host fills the column")
}

#[test]
fn the_published_table_survives_a_kill_and_a_lost_checkpoint() {
    let (Some(brokers), Some(port)) = (crate::kafka(), crate::cassandra()) else { return };
    let tables = Tables::connect(port);
    tables.create("ndc_porto", SESSIONS);
    create_topic(&brokers, "visits", 2, &[]);
    let settings = Settings::default().seed_ids().over_kafka(&brokers, "visits").into_cql(port, "ndc_porto");
    let pipeline = Pipeline::new(&settings.to_toml());

    produce_in_turn(&brokers, "visits", &a_and_b());
    let mut host = pipeline.spawn(&[]);
    produce_in_turn(&brokers, "visits", &c());
    host.wait_until("user 1's session is written", || !tables.sessions("ndc_porto").is_empty());
    assert_eq!(tables.sessions("ndc_porto"), [first_row()]);
    let before = written_ms(&tables, "ndc_porto");
    host.kill();
    pipeline.delete_checkpoints();

    let mut host = pipeline.spawn(&[]);
    produce_in_turn(&brokers, "visits", &d());
    host.wait_until("user 2's session is written", || tables.sessions("ndc_porto").len() > 1);
    assert_eq!(tables.sessions("ndc_porto"), [first_row(), second_row()]);
    assert!(written_ms(&tables, "ndc_porto") > before, "the row of user 1 was written again");
    host.terminate(PATIENCE).expect_code(0);
}

#[test]
fn ids_by_the_brokers_clock_are_the_same_after_a_lost_checkpoint() {
    let (Some(brokers), Some(port)) = (crate::kafka(), crate::cassandra()) else { return };
    let tables = Tables::connect(port);
    tables.create("broker_clock", SESSIONS);
    create_topic(&brokers, "broker-clock", 2, &[("message.timestamp.type", "LogAppendTime")]);
    let settings = Settings::default().seed_ids().over_kafka(&brokers, "broker-clock").into_cql(port, "broker_clock");
    let pipeline = Pipeline::new(&settings.to_toml());

    let mut host = pipeline.spawn(&[]);
    produce_in_turn(&brokers, "broker-clock", &a_and_b());
    produce_in_turn(&brokers, "broker-clock", &c());
    host.wait_until("user 1's session is written", || !tables.sessions("broker_clock").is_empty());
    let before = tables.sessions("broker_clock");
    let written_before = written_ms(&tables, "broker_clock");
    host.kill();
    pipeline.delete_checkpoints();

    let mut host = pipeline.spawn(&[]);
    produce_in_turn(&brokers, "broker-clock", &d());
    host.wait_until("user 2's session is written", || tables.sessions("broker_clock").len() > 1);
    let after = tables.sessions("broker_clock");
    assert_eq!(after.len(), 2, "user 1's session was not written a second time under another id");
    assert!(after.contains(&before[0]), "{after:?} holds {before:?}");
    assert!(written_ms(&tables, "broker_clock") > written_before, "the row of user 1 was written again");
    host.terminate(PATIENCE).expect_code(0);
}
