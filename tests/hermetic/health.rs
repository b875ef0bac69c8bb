//! Probes, `keyfold health` and `keyfold status` of a host that is stuck in a plugin, and of one that is not stuck for long enough.

use serde_json::{Value, json};

use crate::support::generate::{START_MS, TestRecord, write_records};
use crate::support::host::{Pipeline, Running, plugin_file};
use crate::support::scrape::Host;
use crate::support::settings::Settings;

/// A plugin that does not come back from the event with v = 13, on a log that has it in its second batch of ten.
fn pipeline(stuck_after: &str) -> Pipeline {
    let plugin = format!(
        "component = \"{}\"\nconfig = {{ mode = \"loop\", n = 13 }}\nfuel = {}",
        plugin_file("hostile"),
        i64::MAX
    );
    let settings = Settings { plugin, checkpoint_interval: "1ms".to_owned(), ..Settings::default() }.bounded(1, 10);
    let admin = format!("[admin]\nlisten = \"127.0.0.1:0\"\nstuck_after = \"{stuck_after}\"\ntoken_file = \"token\"\n");
    let pipeline = Pipeline::new(&format!("{}\n{admin}", settings.to_toml()));
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
    write_records(&pipeline.path("log.ndjson"), &(0..40).map(record).collect::<Vec<_>>());
    pipeline
}

/// The host, stuck after its first batch.
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
    pipeline.call("health", &["--startup"]).expect_code(0).expect_said(&["the start is over"]);
    let said = pipeline.call("status", &[]);
    said.expect_code(0).expect_said(&["not alive, ready", "10 records, 10 rows", "0, hostile 0.1.0", "fold"]);
    running.kill();
    pipeline.call("health", &[]).expect_code(1);
    let said = pipeline.call("status", &[]);
    said.expect_code(0).expect_said(&["no host was heard", "0: 10", "0, hostile 0.1.0"]);
}

#[test]
fn a_lane_that_may_still_come_back_is_alive_and_tells_how_it_is_doing() {
    let pipeline = pipeline("1h");
    let (running, host) = stuck(&pipeline);
    assert!(host.says_yes("/livez") && host.says_yes("/readyz"));
    assert_eq!(host.get("/v1/status").0, 401, "what folds is told to who has the token");
    let asked = |more: &[&str]| pipeline.call("status", &[&["--admin", host.url(), "--json"], more].concat());
    asked(&[]).expect_code(2).expect_said(&["token"]);
    let said = asked(&["--token-file", "token"]);
    let status: Value = serde_json::from_str(&said.expect_code(0).stdout).expect("the answer is JSON");
    assert_eq!((&status["word"], &status["live"], &status["ready"]), (&json!("host"), &json!(true), &json!(true)));
    let lane = &status["lanes"][0];
    assert_eq!((&lane["records"], &lane["deployment"], &lane["doing"]), (&json!(10), &json!(0), &json!("fold")));
    assert_eq!(lane["watermark_ms"], START_MS - 1_000);
    running.kill();
    asked(&["--token-file", "token"]).expect_code(3).expect_said(&["--admin"]);
}

#[test]
fn health_without_an_admin_section_says_what_is_missing() {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    pipeline.call("health", &[]).expect_code(1).expect_said(&["no section [admin]"]);
    pipeline.call("status", &[]).expect_code(0).expect_said(&["no host was heard", "no lane"]);
}
