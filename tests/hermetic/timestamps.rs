//! Timestamps that cannot be true: missing, in microseconds, before 1970. They order nothing, and what becomes of their records is a setting.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::json;

use crate::support::generate::{TestRecord, write_records};
use crate::support::host::{PATIENCE, Pipeline};
use crate::support::mock::produce;
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;

const NOON_MS: i64 = 1_727_870_400_000;
/// Kafka's word for none, and others that cannot be true, each with a word of its dead letter's reason.
const IMPLAUSIBLE: [(i64, &str); 5] = [
    (NOON_MS * 1_000, "microseconds"),
    (i64::MAX, "9223372036854775807"),
    (-1, "no timestamp"),
    (-2, "-2"),
    (NOON_MS * 1_000_000, "nanoseconds"),
];

/// Visits a second apart on two partitions, four of each user. Every ninth record has a timestamp that cannot be true, on both partitions, the first
/// of all too; one has the timestamp 0, which is early but a time.
fn log() -> Vec<TestRecord> {
    let record = |i: i64| {
        let time = NOON_MS + i * 1_000;
        let at = jiff::Timestamp::from_millisecond(time).expect("a time of this century");
        let at = at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let value = serde_json::json!({"user_id": i / 4, "page": format!("{i}.html"), "event_time": at});
        let timestamp = match i {
            _ if i % 9 == 0 => IMPLAUSIBLE[usize::try_from(i / 9).expect("positive") % IMPLAUSIBLE.len()].0,
            100 => 0,
            _ => time,
        };
        let partition = u32::from(i % 2 == 1);
        TestRecord {
            partition,
            offset: i.unsigned_abs() / 2,
            timestamp,
            key: None,
            value: Some(value.to_string().into()),
        }
    };
    (0..200).map(record).collect()
}

fn pipeline(policy: &str, batch_records: usize) -> Pipeline {
    let time = format!("implausible = \"{policy}\"");
    let pipeline = Pipeline::new(&Settings { time, ..Settings::default() }.bounded(2, batch_records).to_toml());
    write_records(&pipeline.path("log.ndjson"), &log());
    pipeline
}

#[test]
fn timestamps_that_cannot_be_true_order_nothing() {
    let records = log();
    let wrong: Vec<&TestRecord> =
        records.iter().filter(|record| IMPLAUSIBLE.iter().any(|(time, _)| *time == record.timestamp)).collect();
    for (policy, inherit) in [("dead-letter", false), ("inherit", true)] {
        let lane = model::run(Visits::new(SessionId::Record), &records, Time { inherit, ..Time::default() });
        assert!(lane.rows.len() > 5, "sessions end all along the log");
        for batch_records in [50_000, 7] {
            let pipeline = pipeline(policy, batch_records);
            let outcome = pipeline.run_to_end(&[]);
            outcome.expect_code(0);
            assert_same(policy, &from_ndjson(&pipeline.path("rows.ndjson")), &lane.values());
            let warned = outcome.logged("implausible-timestamp");
            assert!(["missing", "after-2099"].iter().any(|reason| warned["reason"] == *reason), "{warned}");

            let letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
            let of_time = letters.iter().filter(|letter| letter["reason"].to_string().contains("time.implausible"));
            // The first record of all has nothing to inherit.
            assert_eq!(of_time.count(), if inherit { 1 } else { wrong.len() }, "{policy}");
        }
    }
}

#[test]
fn a_plausible_timestamp_that_is_far_ahead_is_warned_of_and_orders_its_record() {
    let mut records = log();
    let last = records.last_mut().expect("there are some");
    last.timestamp = 3_000_000_000_000;
    let (partition, offset) = (last.partition, last.offset);
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    write_records(&pipeline.path("log.ndjson"), &records);
    let outcome = pipeline.run_to_end(&[]);
    let warned = outcome.expect_code(0).logged("timestamp-far-ahead");
    assert_eq!((&warned["partition"], &warned["offset"]), (&json!(partition), &json!(offset)));
    assert_eq!(warned["timestamp"], json!(3_000_000_000_000_i64));
    let lane = model::run(Visits::new(SessionId::Record), &records, Time::default());
    assert_same("rows", &from_ndjson(&pipeline.path("rows.ndjson")), &lane.values());
}

#[test]
fn the_dead_letter_says_what_the_timestamp_was() {
    let pipeline = pipeline("dead-letter", 50_000);
    pipeline.run_to_end(&[]).expect_code(0);
    let letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
    for (time, word) in IMPLAUSIBLE {
        let found = letters.iter().find(|letter| {
            let reason = letter["reason"].as_str().expect("a reason is text");
            reason.contains(word) && (time == -1 || reason.contains(&time.to_string()))
        });
        let letter = found.unwrap_or_else(|| panic!("no dead letter says {word:?}"));
        assert_eq!(letter["stage"], "time");
    }
}

#[test]
fn a_replay_of_implausible_timestamps_gives_the_same() {
    let pipeline = pipeline("dead-letter", 7);
    pipeline.run_to_end(&[]).expect_code(0);
    let (rows, letters) =
        (from_ndjson(&pipeline.path("rows.ndjson")), from_ndjson(&pipeline.path("dead-letters.ndjson")));
    pipeline.delete_checkpoints();
    pipeline.run_to_end(&[]).expect_code(0);
    assert_same("rows", &from_ndjson(&pipeline.path("rows.ndjson")), &rows);
    assert_same("dead letters", &from_ndjson(&pipeline.path("dead-letters.ndjson")), &letters);
}

#[test]
fn a_live_host_folds_on_behind_them() {
    let mut records = log();
    // To the producer's library 0 is the time of sending.
    records.iter_mut().filter(|record| record.timestamp == 0).for_each(|record| record.timestamp = 1);
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    cluster.create_topic("untimely", 2, 1).expect("a new topic");
    produce(&cluster.bootstrap_servers(), "untimely", &records);
    let pipeline = Pipeline::new(&Settings::default().over_kafka(&cluster.bootstrap_servers(), "untimely").to_toml());
    let lane = model::run(Visits::new(SessionId::Record), &records, Time::default());
    let mut host = pipeline.spawn(&[]);
    let rows = || from_ndjson(&pipeline.path("rows.ndjson"));
    host.wait_until("all sessions that end are written", || rows().len() >= lane.rows.len());
    host.wait_logged("implausible-timestamp");
    host.terminate(PATIENCE).expect_code(0);
    assert_same("rows", &rows(), &lane.values());
}

#[test]
fn the_policy_is_a_setting_of_the_deployment() {
    let first = pipeline("dead-letter", 50_000);
    first.run_to_end(&[]).expect_code(0);
    first.configure(&Settings { time: "implausible = \"inherit\"".to_owned(), ..Settings::default() }.to_toml());
    first.run_to_end(&[]).expect_code(2).expect_said(&["time.implausible"]);
}
