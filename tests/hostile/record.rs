//! Records that are far larger than they were in their topic, where they are compressed: dead letters that are cut, the same in every replay.

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use serde_json::{Value, json};

use crate::support::generate::write_records;
use crate::support::host::{PATIENCE, Pipeline};
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
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
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
    pipeline.run_to_end(&[]).expect_code(2).expect_said(&["log.ndjson, line 3: ", "plugin.record_bytes"]);
}
