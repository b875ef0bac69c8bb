//! Dead letters that a real broker refuses for what they are: each reaches its topic in another form, or the message names the setting of the topic
//! that is why, and the doctor knew before.

use keyfold::symptom::Symptom;
use serde_json::{Value, json};

use crate::doctor::alter;
use crate::support::doctor::{call, findings, ids, objects};
use crate::support::generate::{START_MS, TestRecord};
use crate::support::host::{Pipeline, logged};
use crate::support::settings::Settings;
use crate::topics::{create_topic, produce, read_back};

/// A record that is no visit.
fn wrong(offset: u64, key: Option<&str>, bytes: usize) -> TestRecord {
    let value = Some(format!("{offset}{}", "x".repeat(bytes)).into_bytes());
    let timestamp = START_MS + offset.cast_signed() * 1_000;
    TestRecord { partition: 0, offset, timestamp, key: key.map(|key| key.as_bytes().to_vec()), value }
}

/// A pipeline over a topic of this name that holds `log`; its dead letters go to another topic, which is made with these settings.
fn pipeline(brokers: &str, name: &str, log: &[TestRecord], settings: &[(&str, &str)], properties: &str) -> Pipeline {
    create_topic(brokers, name, 1, &[("max.message.bytes", "4000000")]);
    create_topic(brokers, &format!("{name}-letters"), 1, settings);
    produce(brokers, name, log);
    let toml = Settings::default().over_kafka(brokers, name).to_toml();
    let letters = format!("topic = \"{name}-letters\"\nbrokers = \"{brokers}\"\n{properties}");
    Pipeline::new(&toml.replace("file = \"dead-letters.ndjson\"", &letters))
}

/// Whether the doctor finds that some dead letters are at risk, and what it says of it.
fn risk(pipeline: &Pipeline) -> Option<String> {
    let findings = findings(&pipeline.call("doctor", &["--output", "json"]));
    let at = ids(&findings).iter().position(|id| *id == Symptom::DeadLettersAtRisk.name());
    let told =
        findings.iter().find(|finding| finding["subject"].as_str().is_some_and(|s| s.starts_with("settings of")));
    at.map(|_| told.and_then(|told| told["found"].as_str()).expect("it says what").to_owned())
}

#[test]
fn a_compacted_topic_gets_dead_letters_with_keys_of_their_own_and_they_are_read_back_without() {
    let Some(brokers) = crate::kafka() else { return };
    // Some have keys, and are refused with the others of their batch.
    let log: Vec<TestRecord> = (0..6).map(|i| wrong(i, (i % 3 == 1).then_some("ann"), 10)).collect();
    let pipeline = pipeline(&brokers, "unkeyed", &log, &[("cleanup.policy", "compact")], "");
    let outcome = pipeline.run_to_end(&["--until-end"]);
    outcome.expect_code(0);
    let keyed: Vec<Value> = logged(&outcome.stderr, "dead-letter-keyed").iter().map(|l| l["offset"].clone()).collect();
    assert_eq!(keyed, [json!(0), json!(2), json!(3), json!(5)]);
    let mut kept: Vec<Vec<u8>> = read_back(&brokers, "unkeyed-letters").into_iter().filter_map(|r| r.key).collect();
    kept.sort_unstable();
    assert_eq!(kept, ["0/0/map", "0/2/map", "0/3/map", "0/5/map", "ann", "ann"].map(|key| key.as_bytes().to_vec()));
    assert_eq!(objects(call(&pipeline, ["dead-letters", "list"], &["--output", "json"]).expect_code(0)).len(), 6);

    let sent = call(&pipeline, ["dead-letters", "redrive"], &[]);
    sent.expect_code(0).expect_said(&["sent to topic unkeyed: 6 record(s)"]);
    let mut again: Vec<_> = read_back(&brokers, "unkeyed").split_off(6).into_iter().map(|r| (r.value, r.key)).collect();
    again.sort_unstable();
    assert_eq!(again, log.into_iter().map(|record| (record.value, record.key)).collect::<Vec<_>>());

    assert!(risk(&pipeline).is_some_and(|risk| risk.starts_with("cleanup.policy=compact: ")));
    alter(&brokers, "unkeyed-letters", &[("cleanup.policy", "delete")]);
    assert_eq!(risk(&pipeline), None);
}

#[test]
fn a_dead_letter_that_is_larger_than_a_segment_is_cut() {
    let Some(brokers) = crate::kafka() else { return };
    let settings = [("segment.bytes", "1048576"), ("max.message.bytes", "4000000")];
    let log = [wrong(0, None, 1_500_000), wrong(1, None, 10)];
    let pipeline = pipeline(&brokers, "segments", &log, &settings, "");
    let outcome = pipeline.run_to_end(&["--until-end"]);
    assert_eq!(outcome.expect_code(0).logged("dead-letter-cut")["offset"], 0);
    let mut sizes: Vec<usize> =
        read_back(&brokers, "segments-letters").iter().map(|kept| kept.value.as_ref().map_or(0, Vec::len)).collect();
    sizes.sort_unstable();
    assert!(sizes[0] == 11 && (500_000..1_048_576).contains(&sizes[1]) && sizes.len() == 2, "{sizes:?}");
}

#[test]
fn a_topic_that_refuses_the_time_of_sending_is_named_with_its_setting() {
    let Some(brokers) = crate::kafka() else { return };
    let settings = [("message.timestamp.type", "CreateTime"), ("message.timestamp.before.max.ms", "0")];
    // Each letter waits to be sent for longer than the topic allows.
    let lingers = "properties = { \"linger.ms\" = 100 }";
    let pipeline = pipeline(&brokers, "untimely", &[wrong(0, None, 10)], &settings, lingers);
    assert!(risk(&pipeline).is_some_and(|risk| risk.starts_with("message.timestamp.before.max.ms=0: ")));
    for _ in 0..2 {
        pipeline.run_to_end(&["--until-end"]).expect_code(3).expect_said(&[
            "cannot write the dead letter of partition 0, offset 0 to topic untimely-letters",
            "message.timestamp.before.max.ms",
            "message.timestamp.type=LogAppendTime",
        ]);
    }
    alter(&brokers, "untimely-letters", &[("message.timestamp.type", "LogAppendTime")]);
    assert_eq!(risk(&pipeline), None);
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert_eq!(read_back(&brokers, "untimely-letters").len(), 1);
}
