//! The live edge: what becomes visible late. An open transaction holds the merge; a record that comes in behind the frontier is floored,
//! and a replay without the checkpoint gives the same rows.

use rdkafka::producer::Producer;
use serde_json::{Value, json};

use crate::load::{Load, now_ms};
use crate::support::generate::TestRecord;
use crate::support::host::{PATIENCE, Pipeline, logged, plugin_file};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::scrape::Host;
use crate::support::settings::{ADMIN, Settings};
use crate::topics::{create_topic, produce, producer, send};

fn visit(partition: u32, timestamp: i64, user: i64, page: &str, event_ms: i64) -> TestRecord {
    let time = chrono::DateTime::from_timestamp_millis(event_ms).expect("near now").format("%Y-%m-%dT%H:%M:%S%.3fZ");
    let value = json!({"user_id": user, "page": page, "event_time": time.to_string()}).to_string().into_bytes();
    TestRecord { partition, offset: 0, timestamp, key: None, value: Some(value) }
}

fn rows(pipeline: &Pipeline) -> Vec<Value> {
    from_ndjson(&pipeline.path("rows.ndjson"))
}

fn pages_of(rows: &[Value], user: i64) -> Vec<Value> {
    rows.iter().filter(|row| row["user_id"] == user).map(|row| row["pages"].clone()).collect()
}

/// Replays from the topic alone (and the journal), and compares with what the live run wrote.
fn assert_replays(pipeline: &Pipeline) {
    let live = rows(pipeline);
    pipeline.delete_checkpoints();
    pipeline.set_aside("rows.ndjson");
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert_same("replay", &rows(pipeline), &live);
}

#[test]
fn a_record_behind_the_frontier_is_floored_and_the_replay_gives_the_same_rows() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "behind", 2, &[]);
    let toml = Settings::default().over_kafka(&brokers, "behind").to_toml();
    let pipeline = Pipeline::new(&format!("{toml}{ADMIN}"));
    let mut host = pipeline.spawn(&[]);
    let told = Host::of(&mut host);
    let start = now_ms();
    let slow = producer(&brokers, Some("behind-slow"));
    slow.begin_transaction().expect("no transaction is open");

    // The later record, and one whose event ends user 1's session: its row shows that both were released.
    let later = [
        visit(0, start, 7, "later", start),
        visit(0, start, 1, "x", start),
        visit(0, start + 1, 2, "y", start + 90_000),
    ];
    produce(&brokers, "behind", &later);
    host.wait_until("the later records are folded", || !rows(&pipeline).is_empty());

    // The older one becomes visible now. Its event time is its own business: not late, though its append time is.
    send(&slow, "behind", &visit(1, start - 1_000, 7, "older", start + 91_000));
    slow.commit_transaction(PATIENCE).expect("the broker commits");
    host.wait_logged("floor-recorded");
    produce(&brokers, "behind", &[visit(0, start + 3, 3, "z", start + 300_000)]);
    host.wait_until("all sessions are written", || pages_of(&rows(&pipeline), 7).len() == 2);
    told.metrics().expect(&[("keyfold_floors_total{lane=\"topic\"}", 1.0)]);
    let outcome = host.terminate(PATIENCE);
    outcome.expect_code(0);
    assert_eq!(pages_of(&rows(&pipeline), 7), [json!(["later"]), json!(["older"])]);
    assert_replays(&pipeline);
}

/// No checkpoint comes to help: two of three partitions are quiet, and the third one never is.
#[test]
fn quiet_partitions_hold_no_row_back_while_another_one_is_busy() {
    let Some(brokers) = crate::kafka() else { return };
    let load = Load::over(&brokers, "one-busy", 500, 3, |_| 1);
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"ok\" }}", plugin_file("hostile"));
    let settings = Settings { plugin, checkpoint_interval: "1h".to_owned(), ..Settings::default() };
    let pipeline = Pipeline::new(&settings.over_kafka(&brokers, "one-busy").to_toml());
    let mut host = pipeline.spawn(&[]);
    for _ in 0..3 {
        let (sent, written) = (load.sent(), rows(&pipeline).len());
        host.wait_until("more events were sent", || load.sent() > sent + 200);
        host.wait_until("rows of new events are written", || rows(&pipeline).len() > written + 100);
    }
    load.finish();
    host.terminate(PATIENCE).expect_code(0);
}

/// Records of partition 0 that leave user 7's session open and end two others, whose rows show that all were released.
fn later(start: i64) -> [TestRecord; 4] {
    [
        visit(0, start, 4, "first", start),
        visit(0, start, 5, "second", start + 20_000),
        visit(0, start, 7, "later", start + 20_000),
        visit(0, start + 1, 6, "fourth", start + 62_000),
    ]
}

#[test]
fn an_order_that_only_the_journal_knows_is_kept_through_a_kill() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "behind-killed", 2, &[]);
    let settings = Settings::default().over_kafka(&brokers, "behind-killed");
    let pipeline = Pipeline::new(&Settings { checkpoint_interval: "1h".to_owned(), ..settings }.to_toml());
    let mut host = pipeline.spawn(&[]);
    let start = now_ms();
    produce(&brokers, "behind-killed", &later(start));
    host.wait_until("two sessions are written", || rows(&pipeline).len() == 2);
    produce(&brokers, "behind-killed", &[visit(1, start - 1_000, 7, "older", start + 55_000)]);
    host.wait_logged("floor-recorded");
    host.kill();

    let mut host = pipeline.spawn(&[]);
    produce(&brokers, "behind-killed", &[visit(1, start + 5, 2, "last", start + 300_000)]);
    host.wait_until("user 7's session is written", || !pages_of(&rows(&pipeline), 7).is_empty());
    host.terminate(PATIENCE).expect_code(0);
    assert_eq!(pages_of(&rows(&pipeline), 7), [json!(["later", "older"])]);
    assert_replays(&pipeline);
}

#[test]
fn an_open_transaction_holds_what_would_come_after_it() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "held", 2, &[]);
    let pipeline = Pipeline::new(&Settings::default().over_kafka(&brokers, "held").to_toml());
    let start = now_ms();
    let slow = producer(&brokers, Some("held-slow"));
    slow.begin_transaction().expect("no transaction is open");
    send(&slow, "held", &visit(1, start - 1_000, 7, "older", start + 20_000));
    slow.flush(PATIENCE).expect("the broker acknowledges");
    produce(
        &brokers,
        "held",
        &[visit(0, start, 7, "later", start + 20_001), visit(0, start + 1, 2, "last", start + 300_000)],
    );

    let mut host = pipeline.spawn(&[]);
    // The clock passes what a wrong release would wait for, several times over.
    let long_after = now_ms() + 2_000;
    host.wait_until("a wrong release would have come", || now_ms() > long_after);
    assert_same("held", &rows(&pipeline), &[]);
    slow.commit_transaction(PATIENCE).expect("the broker commits");
    host.wait_until("user 7's session is written", || !rows(&pipeline).is_empty());
    let outcome = host.terminate(PATIENCE);
    outcome.expect_code(0);
    assert_eq!(pages_of(&rows(&pipeline), 7), [json!(["older", "later"])]);
    assert!(logged(&outcome.stderr, "floor-recorded").is_empty(), "nothing came in behind the frontier");
    assert_replays(&pipeline);
}
