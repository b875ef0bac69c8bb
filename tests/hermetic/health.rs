//! Probes, `keyfold health` and `keyfold status` of a host that is stuck in a plugin, of one that is not stuck for long enough, and of one
//! whose state is away.

use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};

use crate::support::generate::{START_MS, TestRecord, write_records};
use crate::support::host::{PATIENCE, Pipeline, Running, plugin_file};
use crate::support::mock::{produce, visits_from};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::scrape::Host;
use crate::support::settings::{ADMIN, Settings};

/// A plugin that does not return from the event with v = 23, on a log that has it in its third batch of ten. The first batch is folded and
/// covered by a checkpoint; no other checkpoint is due before the end of the test.
fn pipeline(stuck_after: &str) -> Pipeline {
    let plugin = format!(
        "component = \"{}\"\nconfig = {{ mode = \"loop\", n = 23 }}\nfuel = {}",
        plugin_file("hostile"),
        i64::MAX
    );
    let settings = Settings { plugin, checkpoint_interval: "1h".to_owned(), ..Settings::default() }.bounded(1, 10);
    let more = format!("stuck_after = \"{stuck_after}\"\ntoken_file = \"token\"\n");
    let pipeline = Pipeline::new(&format!("{}{ADMIN}{more}", settings.to_toml()));
    pipeline.write("token", b"a token for tests");
    let record = |i: i64| {
        let payload = json!({"key": "k", "time": START_MS + i * 1000, "v": i}).to_string().into_bytes();
        TestRecord {
            partition: 0,
            offset: i.unsigned_abs(),
            timestamp: START_MS + i * 1000,
            key: None,
            value: Some(payload),
        }
    };
    let log: Vec<TestRecord> = (0..40).map(record).collect();
    write_records(&pipeline.path("log.ndjson"), &log[..10]);
    pipeline.run_to_end(&[]).expect_code(0);
    write_records(&pipeline.path("log.ndjson"), &log);
    pipeline
}

/// The host, stuck after its first batch, which is the second of the log.
fn stuck(pipeline: &Pipeline) -> (Running, Host) {
    let mut running = pipeline.spawn(&[]);
    let host = Host::of(&mut running);
    host.wait_for(&mut running, "keyfold_batches_total{lane=\"topic\"}", 2.0);
    (running, host)
}

/// From now on commands know the port that the system chose.
fn tell_port(pipeline: &Pipeline, host: &Host) {
    let toml = std::fs::read_to_string(pipeline.path("keyfold.toml")).expect("it was written");
    pipeline.configure(&toml.replace("127.0.0.1:0", host.url().trim_start_matches("http://")));
}

#[test]
fn a_lane_stuck_in_a_plugin_is_not_alive() {
    let pipeline = pipeline("1s");
    let (mut running, host) = stuck(&pipeline);
    running.wait_until("it is found dead", || !host.says_yes("/livez"));
    let (_, why) = host.get("/livez");
    assert!(why.contains("FAIL  lane topic") && why.contains("no progress in fold"), "{why}");
    let metrics = host.metrics();
    metrics.expect(&[
        ("keyfold_live", 0.0),
        ("keyfold_ready", 1.0),
        ("keyfold_records_total{lane=\"topic\"}", 10.0),
        ("keyfold_rows_total{lane=\"topic\"}", 10.0),
    ]);
    assert!(metrics.value("keyfold_stuck_seconds{lane=\"topic\"}") >= 1.0);
    assert!(host.says_yes("/readyz") && host.says_yes("/startupz"));

    tell_port(&pipeline, &host);
    pipeline.call("health", &[]).expect_code(1).expect_said(&["FAIL  lane topic", "no progress in fold"]);
    pipeline.call("health", &["--ready"]).expect_code(0).expect_said(&["ok    sink", "deployment 0"]);
    pipeline.call("health", &["--startup"]).expect_code(0).expect_said(&["startup complete"]);
    let said = pipeline.call("status", &[]);
    said.expect_code(0).expect_said(&["not alive, ready", "10 records, 10 rows", "0, hostile 0.1.0", "fold"]);
    running.kill();
    pipeline.call("health", &[]).expect_code(1);
    let said = pipeline.call("status", &[]);
    said.expect_code(0).expect_said(&["no running host answered", "0: 10", "0, hostile 0.1.0"]);
}

#[test]
fn a_lane_that_may_still_come_back_is_alive_and_tells_how_it_is_doing() {
    let pipeline = pipeline("1h");
    let (running, host) = stuck(&pipeline);
    assert!(host.says_yes("/livez") && host.says_yes("/readyz"));
    assert_eq!(host.get("/v1/status").0, 401, "what folds is told to who has the token");
    let asked = |more: &[&str]| pipeline.call("status", &[&["--admin", host.url(), "--output", "json"], more].concat());
    asked(&[]).expect_code(2).expect_said(&["token"]);
    let said = asked(&["--token-file", "token"]);
    let status: Value = serde_json::from_str(&said.expect_code(0).stdout).expect("the answer is JSON");
    assert_eq!(
        (&status["provenance"], &status["live"], &status["ready"]),
        (&json!("host"), &json!(true), &json!(true))
    );
    let lane = &status["lanes"][0];
    assert_eq!((&lane["records"], &lane["deployment"], &lane["activity"]), (&json!(10), &json!(0), &json!("fold")));
    assert_eq!(lane["watermark_ms"], START_MS + 9_000);
    running.kill();
    asked(&["--token-file", "token"]).expect_code(3).expect_said(&["--admin"]);
}

/// A file stands where the state's folder stood, so that each access fails as on a disk that is gone.
fn take_away(pipeline: &Pipeline) {
    std::fs::rename(pipeline.path("state"), pipeline.path("away")).expect("it is there");
    pipeline.write("state", b"");
}

fn give_back(pipeline: &Pipeline) {
    std::fs::remove_file(pipeline.path("state")).expect("it is there");
    std::fs::rename(pipeline.path("away"), pipeline.path("state")).expect("it is there");
}

#[test]
fn state_that_goes_away_is_waited_for_and_changes_no_row() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("stateless", 1, 1).expect("a new topic");
    let settings = Settings { checkpoint_interval: "200ms".to_owned(), ..Settings::default() };
    let toml = settings.over_kafka(&brokers, "stateless").to_toml();
    let pipeline = Pipeline::new(&format!("{toml}{ADMIN}stuck_after = \"1s\"\n"));
    let mut running = pipeline.spawn(&[]);
    let host = Host::of(&mut running);
    let fold = |first: u64| produce(&brokers, "stateless", &visits_from(first, 1, |i| i));
    fold(0);
    host.wait_for(&mut running, "keyfold_records_total{lane=\"topic\"}", 40.0);
    host.wait_for(&mut running, "keyfold_state_up", 1.0);

    take_away(&pipeline);
    fold(40);
    let away = host.wait_for(&mut running, "keyfold_state_up", 0.0);
    assert!(away.value("keyfold_state_retries_total") > 0.0);
    let (status, why) = host.get("/readyz");
    assert!(status == 503 && why.contains("FAIL  state") && why.contains("ok    sink"), "{why}");
    std::thread::sleep(Duration::from_millis(1_500)); // longer than a step may take
    assert!(host.says_yes("/livez"), "{}", host.get("/livez").1);
    give_back(&pipeline);
    host.wait_for(&mut running, "keyfold_state_up", 1.0);
    host.wait_for(&mut running, "keyfold_records_total{lane=\"topic\"}", 80.0);
    assert!(host.says_yes("/readyz") && host.says_yes("/livez"));

    // A host that is told to stop meanwhile ends in its time, without its last checkpoint.
    take_away(&pipeline);
    fold(80);
    host.wait_for(&mut running, "keyfold_state_up", 0.0);
    running.terminate(Duration::from_secs(10)).expect_code(3).expect_said(&["state"]);
    give_back(&pipeline);
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    let log: Vec<TestRecord> = [0, 40, 80].into_iter().flat_map(|first| visits_from(first, 1, |i| i)).collect();
    let want = model::run(Visits::new(SessionId::Record), &log, Time::default()).values();
    assert_same("outages of the state", &from_ndjson(&pipeline.path("rows.ndjson")), &want);
    assert!(!want.is_empty());

    // At the start it is waited for as long as brokers are.
    take_away(&pipeline);
    std::fs::remove_file(pipeline.path("state")).expect("it is there");
    std::fs::create_dir(pipeline.path("state")).expect("it is not there");
    pipeline.write("state/log", b"a file where a folder should be");
    pipeline.configure(&format!("{toml}startup_timeout = \"1s\"\n"));
    pipeline.run_to_end(&["--until-end"]).expect_code(3).expect_said(&["state.url"]);
}

#[test]
fn brokers_that_go_away_are_told_and_so_is_that_they_are_back() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    cluster.create_topic("away", 1, 1).expect("a new topic");
    let toml = Settings::default().over_kafka(&cluster.bootstrap_servers(), "away").to_toml();
    let pipeline = Pipeline::new(&format!("{toml}{ADMIN}"));
    let mut running = pipeline.spawn(&[]);
    let host = Host::of(&mut running);
    running.wait_until("it is ready", || host.says_yes("/readyz"));
    assert_eq!(host.metrics().value("keyfold_lag_records{lane=\"topic\"}"), 0.0);
    cluster.broker_down(1).expect("there is one");
    running.wait_until("it is not ready", || !host.says_yes("/readyz"));
    let (_, why) = host.get("/readyz");
    assert!(why.contains("FAIL  source") && why.contains("ok    lane topic"), "{why}");
    assert!(host.says_yes("/livez"), "a restart would not help");
    assert!(!host.metrics().has("keyfold_lag_records{lane=\"topic\"}"), "nobody knows how many wait");
    cluster.broker_up(1).expect("comes back");
    running.wait_until("it is ready again", || host.says_yes("/readyz"));
    assert_eq!(running.wait_logged("available-again")["what"], "topic away");
    running.terminate(PATIENCE).expect_code(0);
}

#[test]
fn health_without_an_admin_section_says_what_is_missing() {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    pipeline.call("health", &[]).expect_code(1).expect_said(&["no section [admin]"]);
    pipeline.call("status", &[]).expect_code(0).expect_said(&["no running host answered", "no lanes"]);
}
