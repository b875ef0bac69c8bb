//! Topics that are not what they were: deleted and created again under their name, or grown. The host must not go on with another log, and
//! must not leave a partition unread.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use crate::support::generate::{START_MS, TestRecord};
use crate::support::host::{PATIENCE, Pipeline, wait_until};
use crate::support::rows::from_ndjson;
use crate::topics::{add_partitions, create_topic, produce, trim};

/// A new topic of one partition with two records, and a pipeline that reads it.
fn pipeline(brokers: &str, topic: &str, ordering: &str) -> Pipeline {
    create_topic(brokers, topic, 1, &[]);
    produce(brokers, topic, &records(2));
    Pipeline::new(&config(brokers, topic, ordering, "state"))
}

fn config(brokers: &str, topic: &str, ordering: &str, state: &str) -> String {
    format!(
        "name = \"{topic}\"\n\
         [source.kafka]\nbrokers = \"{brokers}\"\ntopic = \"{topic}\"\nordering = \"{ordering}\"\n\
         [plugin]\ncomponent = \"builtin:visits\"\n\
         [state]\nurl = \"file://{{dir}}/{state}\"\ncheckpoint_interval = \"100ms\"\n\
         [sink.ndjson]\npath = \"{{dir}}/rows.ndjson\"\n\
         [dead_letters]\nfile = \"{{dir}}/letters.ndjson\"\n"
    )
}

/// Records that the plugin rejects, so that each becomes a dead letter: the same bytes at the same times whenever they are made.
fn records(count: u32) -> Vec<TestRecord> {
    let record = |i: u32| TestRecord {
        partition: 0,
        offset: u64::from(i),
        timestamp: START_MS + i64::from(i),
        key: None,
        value: Some(format!("record {i}").into_bytes()),
    };
    (0..count).map(record).collect()
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a valid configuration")
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

/// Deletes a topic and creates it again. Its name is taken until the broker has forgotten the former one.
fn recreate(brokers: &str, topic: &str) {
    let admin = admin(brokers);
    let deleted = futures::executor::block_on(admin.delete_topics(&[topic], &options())).expect("the broker answers");
    deleted[0].as_ref().expect("the broker deletes it");
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    wait_until("the name is free again", || {
        let created = futures::executor::block_on(admin.create_topics([&new], &options()));
        created.expect("the broker answers")[0].is_ok()
    });
}

fn letters(pipeline: &Pipeline) -> usize {
    from_ndjson(&pipeline.path("letters.ndjson")).len()
}

/// The id that the journal holds.
fn journalled(pipeline: &Pipeline) -> Option<String> {
    let text = std::fs::read_to_string(pipeline.path("state/log/topic.json")).ok()?;
    let known: serde_json::Value = serde_json::from_str(&text).expect("the journal is JSON");
    Some(known["id"].as_str().expect("an id is text").to_owned())
}

#[test]
fn a_start_on_a_topic_made_anew_is_refused_even_if_its_records_are_the_same() {
    let Some(brokers) = crate::kafka() else { return };
    let topic = "recreated-same";
    let pipeline = pipeline(&brokers, topic, "topic");
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    let former = journalled(&pipeline).expect("the first start writes the id");

    recreate(&brokers, topic);
    produce(&brokers, topic, &records(3));
    let refused = pipeline.run_to_end(&["--until-end"]);
    refused.expect_code(5).expect_said(&[&former, "deleted and created again", "state.url", "keyfold reset"]);
    assert_eq!(journalled(&pipeline), Some(former.clone()));
    pipeline.call("check", &[]).expect_code(5).expect_said(&[&former]);
    pipeline.call("doctor", &[]).expect_code(5).expect_said(&["log-replaced"]);
    assert_eq!(letters(&pipeline), 2, "nothing of the new topic was folded");

    // The way out that the message names.
    pipeline.configure(&config(&brokers, topic, "topic", "state-of-the-new-topic"));
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert_eq!(letters(&pipeline), 5);
}

#[test]
fn a_start_on_a_topic_made_anew_is_refused_though_its_last_record_was_trimmed() {
    let Some(brokers) = crate::kafka() else { return };
    let topic = "recreated-trimmed";
    let pipeline = pipeline(&brokers, topic, "topic");
    pipeline.run_to_end(&["--until-end"]).expect_code(0);

    recreate(&brokers, topic);
    produce(&brokers, topic, &records(5));
    trim(&brokers, topic, 0, 2); // the last folded offset is 1, so there is nothing to compare
    pipeline.run_to_end(&["--until-end"]).expect_code(5).expect_said(&["deleted and created again"]);
}

#[test]
fn a_journal_without_an_id_adopts_the_topic_s_at_its_next_start() {
    let Some(brokers) = crate::kafka() else { return };
    let topic = "recreated-adopted";
    let pipeline = pipeline(&brokers, topic, "topic");
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    // As an earlier keyfold left it.
    std::fs::remove_file(pipeline.path("state/log/topic.json")).expect("the first start wrote the id");
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert!(journalled(&pipeline).is_some());
    recreate(&brokers, topic);
    produce(&brokers, topic, &records(2));
    pipeline.run_to_end(&["--until-end"]).expect_code(5);
}

#[test]
fn a_topic_made_anew_while_it_is_read_stops_the_host_and_every_start_after_it() {
    let Some(brokers) = crate::kafka() else { return };
    let topic = "recreated-live";
    let pipeline = pipeline(&brokers, topic, "topic");
    let mut running = pipeline.spawn(&[]);
    running.wait_until("the records are folded", || letters(&pipeline) == 2);
    recreate(&brokers, topic);
    produce(&brokers, topic, &records(3));
    running.wait(PATIENCE).expect_one_of(&[3, 5]); // 3 if it looked while there was no topic
    pipeline.run_to_end(&["--until-end"]).expect_code(5).expect_said(&["deleted and created again"]);
}

#[test]
fn a_topic_that_grows_while_it_is_read_stops_the_host() {
    let Some(brokers) = crate::kafka() else { return };
    for (topic, ordering, code, words) in [
        ("grown-merged", "topic", 5, "[0, 1], this pipeline began with [0]"),
        ("grown-apart", "partition", 3, "gained partitions [1]"),
    ] {
        let pipeline = pipeline(&brokers, topic, ordering);
        let mut running = pipeline.spawn(&[]);
        running.wait_until("the records are folded", || letters(&pipeline) == 2);
        add_partitions(&brokers, topic, 2);
        running.wait(PATIENCE).expect_code(code).expect_said(&[words]);
        // A start gives the same, or reads the new partition.
        pipeline.run_to_end(&["--until-end"]).expect_code(if ordering == "topic" { 5 } else { 0 });
    }
}
