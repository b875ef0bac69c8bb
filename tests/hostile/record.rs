//! The producer of a record: records that are far larger than they were in their topic, where they are compressed; keys that were prepared; text
//! that speaks to a terminal; and what a plugin can be brought to say of a few records.

use std::hash::BuildHasher;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use serde_json::{Value, json};

use super::{assert_calm, events, hostile, measured, pipeline};
use crate::support::generate::{generate, write_records};
use crate::support::host::{KEYFOLD, Outcome, PATIENCE, Pipeline};
use crate::support::mock::{produce, visits, visits_from};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;

const MIB: usize = 1 << 20;

/// Produces records of one repeated byte, compressed.
fn produce_large(brokers: &str, topic: &str, sizes: &[usize], timestamp: i64) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("message.max.bytes", "100000000")
        .set("compression.codec", "gzip")
        .create()
        .expect("a producer");
    for size in sizes {
        let payload = vec![b'x'; *size];
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(0).payload(&payload).timestamp(timestamp);
        producer.send(record).map_err(|(e, _)| e).expect("the producer's queue has room");
        producer.flush(PATIENCE).expect("the brokers take it");
    }
}

fn letters(pipeline: &Pipeline) -> Vec<Value> {
    from_ndjson(&pipeline.path("dead-letters.ndjson"))
}

#[test]
fn a_record_that_grows_beyond_the_limit_is_a_short_dead_letter_in_every_replay() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("large", 1, 1).expect("a new topic");
    let mut records = visits(1, |i| i / 4);
    records.extend(visits_from(400, 1, |i| i / 4));
    produce(&brokers, "large", &records);
    let last = records.last().expect("there are visits").timestamp;
    // The second has more than any limit, the third is within it, and no visit. The last record is one that a start compares.
    produce_large(&brokers, "large", &[17 * MIB, 40 * MIB, MIB / 2, 40 * MIB], last);
    let pipeline = Pipeline::new(&Settings::default().over_kafka(&brokers, "large").to_toml());
    let (outcome, peak) = measured("three records of 97 MB in 94 KB", pipeline.spawn(&["--until-end"]));
    outcome.expect_code(0);
    assert!(peak < 1_000, "{peak} MiB");
    let (rows, first) = (from_ndjson(&pipeline.path("rows.ndjson")), letters(&pipeline));
    assert!(!rows.is_empty());
    let sizes: Vec<u64> = first.iter().map(|letter| letter["cut"]["payload_bytes"].as_u64().unwrap_or(0)).collect();
    assert_eq!(sizes, [17 * MIB as u64, 40 * MIB as u64, 0, 40 * MIB as u64]);
    let kept = |letter: &Value| letter["value"].as_str().map_or(0, str::len);
    assert_eq!(first.iter().map(kept).collect::<Vec<_>>(), [64 << 10, 64 << 10, MIB / 2, 64 << 10]);
    assert_eq!(first[1]["reason"], json!("the record has 41943040 bytes, but plugin.record_bytes is 16777216"));
    assert_eq!(first[0]["cut"]["payload_sha256"].as_str().map(str::len), Some(64));

    // A start that compares the last record goes on; a replay gives the same.
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert_same("dead letters", &letters(&pipeline), &first);
    pipeline.delete_checkpoints();
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert_same("dead letters", &letters(&pipeline), &first);
    assert_same("rows", &from_ndjson(&pipeline.path("rows.ndjson")), &rows);

    // What is cut is sent into no log again.
    let redriven = pipeline.call("dead-letters redrive", &["--to", "file:again.ndjson", "--stage", "map"]);
    redriven.expect_code(0).expect_said(&["1 record(s)", "skipped 3"]);
}

#[test]
fn the_limit_is_a_setting_of_the_deployment_and_holds_for_files() {
    let settings = |bytes: &str| Settings {
        plugin: format!("component = \"builtin:visits\"\nrecord_bytes = \"{bytes}\""),
        ..Settings::default()
    };
    let pipeline = Pipeline::new(&settings("1KiB").to_toml());
    let mut records = visits(1, |i| i / 4);
    records[3].value = Some(vec![b'x'; 1_025]);
    records[4].value = Some(vec![b'x'; 1_024]);
    write_records(&pipeline.path("log.ndjson"), &records);
    pipeline.run_to_end(&[]).expect_code(0);
    let reasons: Vec<Value> = letters(&pipeline).iter().map(|letter| letter["reason"].clone()).collect();
    assert_eq!(reasons[0], json!("the record has 1025 bytes, but plugin.record_bytes is 1024"));
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    pipeline.configure(&settings("2KiB").to_toml());
    pipeline.run_to_end(&[]).expect_code(2).expect_said(&["plugin.record_bytes"]);
}

#[test]
fn a_line_longer_than_any_record_is_refused_by_its_number() {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    let mut bytes = b"\n\n{\"value\":\"".to_vec();
    bytes.resize(140 * MIB, b'x');
    bytes.extend_from_slice(b"\"}\n");
    pipeline.write("log.ndjson", &bytes);
    let (outcome, peak) = measured("a line of 140 MiB", pipeline.spawn(&[]));
    outcome.expect_code(2).expect_said(&["log.ndjson, line 3: ", "plugin.record_bytes"]);
    assert!(peak < 600, "{peak} MiB");
}

#[test]
fn keys_without_end_stop_the_host_at_the_limit_of_a_lane_and_cost_no_row() {
    let settings = |limit: &str| {
        Settings { checkpoint_interval: format!("5s\"\n{limit}#\""), ..Settings::default() }.bounded(2, 1_000).to_toml()
    };
    let (free, bounded) = (Pipeline::new(&settings("")), Pipeline::new(&settings("lane_bytes = \"64KiB\"")));
    let records = generate(20_000, 10_000, 3);
    [&free, &bounded].iter().for_each(|pipeline| write_records(&pipeline.path("log.ndjson"), &records));
    free.run_to_end(&[]).expect_code(0);
    let words = ["the lane's state has", "state.lane_bytes is 65536", "raise the limit"];
    bounded.run_to_end(&[]).expect_code(5).expect_said(&words);
    bounded.configure(&settings("lane_bytes = \"64MiB\""));
    bounded.run_to_end(&[]).expect_code(0);
    let rows = |pipeline: &Pipeline| from_ndjson(&pipeline.path("rows.ndjson"));
    assert_same("rows", &rows(&bounded), &rows(&free));
    assert!(!rows(&free).is_empty());
}

/// Twenty records through the hostile plugin in this mode, with these limits besides the defaults; bytes of its dead letters, and what it said.
fn twenty(mode: &str, units: u64, limits: &str) -> (Pipeline, u64, Outcome) {
    let keys: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
    let mut settings = hostile(&json!({"mode": mode, "units": units}));
    settings.plugin = format!("{}\n{limits}", settings.plugin);
    let pipeline = pipeline(&settings, &events(keys.iter().map(String::as_str)));
    let (outcome, peak) = measured(mode, pipeline.spawn(&[]));
    assert_calm(&outcome);
    outcome.expect_code(0);
    assert!(peak < 1_500, "{mode}: {peak} MiB");
    let bytes = std::fs::metadata(pipeline.path("dead-letters.ndjson")).map_or(0, |file| file.len());
    (pipeline, bytes, outcome)
}

#[test]
fn two_hundred_megabytes_of_reasons_are_a_few_kilobytes_of_dead_letters() {
    let (pipeline, bytes, outcome) = twenty("reasons", 10 << 10, "");
    assert_eq!(letters(&pipeline).len(), 20);
    assert!(bytes < 200 << 10, "{bytes} bytes of dead letters");
    assert!(outcome.stderr.len() < 256 << 10, "{} bytes of logs", outcome.stderr.len());
}

#[test]
fn empty_list_items_count_as_state() {
    let (pipeline, bytes, _) = twenty("empty-items", 2_000, "state_bytes = \"4MiB\"");
    let letters = letters(&pipeline);
    assert_eq!(letters.len(), 20);
    assert!(
        letters
            .iter()
            .all(|letter| letter["reason"].as_str().is_some_and(|why| why.contains("plugin.state_bytes is 4194304")))
    );
    assert!(bytes < 200 << 10, "{bytes} bytes of dead letters");
    assert!(from_ndjson(&pipeline.path("rows.ndjson")).is_empty());
}

#[test]
fn lines_that_a_plugin_logs_are_cut() {
    let (pipeline, _, outcome) = twenty("chatter", 1 << 10, "");
    assert_eq!(from_ndjson(&pipeline.path("rows.ndjson")).len(), 20);
    assert!(outcome.stderr.len() < 512 << 10, "{} bytes of logs", outcome.stderr.len());
}

/// Keys that fall into few places of a table that hashes with the seed of earlier versions.
#[test]
fn eighty_thousand_prepared_keys_are_folded_as_any_others() {
    const KEYS: usize = 80_000;
    let former = foldhash::fast::FixedState::with_seed(0x6b65_7966_6f6c_6421);
    let of_one_place = |key: &String| former.hash_one(key.as_bytes()) & 0xff == 0x13;
    let keys: Vec<String> = (0..).map(|i: u64| format!("k{i}")).filter(of_one_place).take(KEYS).collect();
    let records = super::events_every(10, keys.iter().map(String::as_str));
    let pipeline = pipeline(&hostile(&json!({"mode": "ok"})), &records);
    let (outcome, peak) = measured("80,000 prepared keys", pipeline.spawn(&[]));
    outcome.expect_code(0);
    let lost = letters(&pipeline).len();
    assert_eq!((from_ndjson(&pipeline.path("rows.ndjson")).len(), lost), (KEYS, 0));
    assert!(peak < 1_000, "{peak} MiB");
}

/// Whether text has something that a terminal obeys, besides the ends of its lines.
pub(super) fn obeyed(text: &str) -> bool {
    let bidi =
        |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().any(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || bidi(c))
}

#[test]
fn text_of_records_and_people_never_speaks_to_the_terminal() {
    const EVIL: &str = "k\u{1b}]0;owned\u{7}\u{1b}[2J\r2026-01-01 INFO forged\u{202e}\u{9b}31m";
    let settings = hostile(&json!({"mode": "log"}));
    let mut records = events([EVIL, "plain"]);
    records[1].value = Some(EVIL.as_bytes().to_vec());
    records[1].key = Some(EVIL.as_bytes().to_vec());
    let pipeline = pipeline(&settings, &records);
    let people = |command: &str, more: &[&str]| {
        let mut process = std::process::Command::new(KEYFOLD);
        process.args(command.split(' ')).arg("-c").arg(pipeline.path("keyfold.toml")).args(more);
        process.current_dir(pipeline.path(".")).stdin(std::process::Stdio::null());
        let outcome = pipeline.start(process).wait(PATIENCE);
        assert_calm(&outcome);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!obeyed(&said), "{command}: {said:?}");
        assert!(!said.lines().any(|line| line.starts_with("2026-01-01 INFO forged")), "{command}: {said:?}");
        said
    };
    assert!(people("run", &[]).contains("owned"), "the plugin logs the key");
    let ordered = ["--plugin-config", r#"{"mode": "ok"}"#, "--reason", EVIL, "--by", EVIL];
    people("deployment create", &ordered);
    assert!(people("deployment list", &[]).contains("owned"));
    assert!(people("dead-letters list", &[]).contains("owned"));
    for command in ["dead-letters list --summary", "status", "check", "doctor", "state list"] {
        people(command, &[]);
    }
    people("deployment create", &["--plugin-config", &json!({"mode": EVIL}).to_string()]);
    people("deployment create", &["--set", &format!("time.late={EVIL}")]);
    people("state get", &[EVIL]);
}
