//! What `keyfold doctor` finds on a real broker and a real database, each thing provoked and mended by what its advice says. One topic and one
//! keyspace serve for all of it.

use std::time::Duration;

use keyfold::symptom::Symptom;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use serde_json::{Value, json};

use crate::service::{Kind, join, start, start_ahead};
use crate::support::doctor::{call, doctor, findings, ids, objects};
use crate::support::generate::{START_MS, TestRecord};
use crate::support::host::{Pipeline, logged, plugin_file, wait_until};
use crate::support::mock::{visits, visits_from};
use crate::support::model::folds::{Hostile, Mode};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson, sorted};
use crate::support::settings::Settings;
use crate::tables::{SESSIONS, Tables};
use crate::topics::{add_partitions, create_topic, produce, read_back, trim};

/// These symptoms and no other, with this exit code.
#[track_caller]
fn expect(pipeline: &Pipeline, code: i32, symptoms: &[Symptom]) -> Vec<Value> {
    let findings = doctor(pipeline, code);
    let names: Vec<&str> = symptoms.iter().map(|symptom| symptom.name()).collect();
    assert_eq!(ids(&findings), names, "{findings:#?}");
    findings
}

fn found<'a>(findings: &'a [Value], subject: &str) -> &'a str {
    let line = findings.iter().find(|finding| finding["subject"].as_str().is_some_and(|s| s.starts_with(subject)));
    line.and_then(|line| line["found"].as_str()).unwrap_or_else(|| panic!("{subject} is in {findings:#?}"))
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a valid configuration")
}

/// Sets the topic's configuration to these entries and defaults.
pub(crate) fn alter(brokers: &str, topic: &str, entries: &[(&str, &str)]) {
    let alteration = AlterConfig::new(ResourceSpecifier::Topic(topic));
    let alteration = entries.iter().fold(alteration, |alteration, (name, value)| alteration.set(name, value));
    let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(60)));
    let altered = futures::executor::block_on(admin(brokers).alter_configs([&alteration], &options));
    altered.expect("the broker answers")[0].as_ref().expect("the broker alters it");
}

#[test]
fn what_is_wrong_with_a_log_is_told_and_mended() {
    let Some(brokers) = crate::kafka() else { return };
    let topic = "doctor-log";
    create_topic(&brokers, topic, 2, &[("retention.ms", "-1")]);
    produce(&brokers, topic, &visits(2, |i| i % 10));
    let settings = Settings::default().over_kafka(&brokers, topic);
    let pipeline = Pipeline::new(&settings.to_toml());
    pipeline.run_to_end(&["--until-end"]).expect_code(0);

    let findings = expect(&pipeline, 0, &[Symptom::ProducerClocks]);
    assert!(found(&findings, "brokers").contains("1 broker(s), Kafka 4."), "{}", found(&findings, "brokers"));
    let stamps = ("message.timestamp.type", "LogAppendTime");
    alter(&brokers, topic, &[stamps, ("retention.ms", "-1")]);
    expect(&pipeline, 0, &[]);
    alter(&brokers, topic, &[stamps, ("retention.ms", "-1"), ("cleanup.policy", "compact")]);
    expect(&pipeline, 0, &[Symptom::LogCompacted]);

    // The last record that was folded is of 2024: it has most of its time behind it, and the broker deletes nothing yet.
    let age = jiff::Timestamp::now().as_millisecond() - START_MS;
    alter(&brokers, topic, &[stamps, ("retention.ms", &(age / 10 * 11).to_string())]);
    expect(&pipeline, 0, &[]);
    produce(&brokers, topic, &visits_from(40, 2, |i| i % 10));
    expect(&pipeline, 0, &[Symptom::RetentionClose; 2]);
    alter(&brokers, topic, &[stamps, ("retention.ms", "-1")]);
    expect(&pipeline, 0, &[]);

    trim(&brokers, topic, 0, 10);
    let findings = expect(&pipeline, 0, &[Symptom::BeginningTrimmed]);
    assert!(found(&findings, "partition 0").contains("started at offset 0, but the log begins at 10"));
    let anew = |n: u32| pipeline.configure(&settings.to_toml().replace("{dir}/state", &format!("{{dir}}/state-{n}")));
    anew(0);
    expect(&pipeline, 0, &[]);
    pipeline.configure(&settings.to_toml());
    trim(&brokers, topic, 0, 21);
    let findings = expect(&pipeline, 5, &[Symptom::LogTrimmed]);
    assert!(found(&findings, "partition 0").contains("continues at offset 20, but the log begins at 21"));
    anew(1);
    expect(&pipeline, 0, &[]);

    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    add_partitions(&brokers, topic, 3);
    pipeline_sees(&pipeline, Symptom::PartitionsGrown);
    anew(2);
    expect(&pipeline, 0, &[]);

    // The topic of the same name on a state that was built from another one.
    let other = Settings::default().over_kafka(&brokers, "doctor-other");
    create_topic(&brokers, "doctor-other", 2, &[stamps]);
    produce(&brokers, "doctor-other", &visits(2, |i| i % 10));
    anew(3);
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    pipeline.configure(&other.to_toml().replace("{dir}/state", "{dir}/state-3"));
    assert!(ids(&doctor(&pipeline, 5)).contains(&Symptom::StateForeign.name().to_owned()));
    pipeline.configure(&other.to_toml().replace("{dir}/state", "{dir}/state-4"));
    expect(&pipeline, 0, &[]);
}

/// A topic's new partitions are known to a client some time after they are made.
#[track_caller]
fn pipeline_sees(pipeline: &Pipeline, symptom: Symptom) {
    wait_until("the doctor sees it", || {
        let outcome = pipeline.call("doctor", &["--output", "json"]);
        outcome.code == Some(5) && ids(&findings(&outcome)) == [symptom.name()]
    });
}

#[test]
fn a_broker_s_clock_is_told_by_records_of_a_topic_of_its_own() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "doctor-clock", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let pipeline = Pipeline::new(&Settings::default().over_kafka(&brokers, "doctor-clock").to_toml());
    let probe = |topic: &str| {
        let outcome = pipeline.call("doctor", &["--output", "json", "--probe-topic", topic]);
        findings(outcome.expect_code(0))
    };
    let told = probe("doctor-probe");
    assert!(ids(&told).is_empty(), "{told:#?}");
    let (least, most) = skew(&told);
    assert!(least <= most && least <= 1 && most >= -1, "one machine has one clock: {least} {most}");
    assert_eq!(read_back(&brokers, "doctor-probe").len(), 3);

    create_topic(&brokers, "doctor-producers", 1, &[("message.timestamp.type", "CreateTime")]);
    assert_eq!(ids(&probe("doctor-producers")), [Symptom::ProbeFailed.name()]);
    alter(&brokers, "doctor-producers", &[("message.timestamp.type", "LogAppendTime")]);
    assert!(ids(&probe("doctor-producers")).is_empty());
}

/// The bounds of the broker's clock against this host's, ms.
fn skew(findings: &[Value]) -> (i64, i64) {
    let said = found(findings, "clocks");
    let bounds: Vec<i64> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [least, most, ..] = bounds[..] else { panic!("two bounds: {said}") };
    (least, most)
}

#[test]
fn a_broker_whose_clock_is_ahead_is_told_and_mended_by_a_greater_allowance() {
    let Some(broker) = start_ahead("+5s") else { return };
    create_topic(&broker.address(), "ahead", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let settings = Settings::default().over_kafka(&broker.address(), "ahead");
    let pipeline = Pipeline::new(&settings.to_toml());
    let probe =
        || findings(pipeline.call("doctor", &["--output", "json", "--probe-topic", "ahead-probe"]).expect_code(0));
    let told = probe();
    assert_eq!(ids(&told), [Symptom::ClockSkew.name()]);
    let (least, most) = skew(&told);
    assert!(least <= 5_000 && 5_000 <= most + 1, "{least} {most}");
    pipeline.configure(&Settings { time: "clock_skew = \"30s\"".to_owned(), ..settings }.to_toml());
    assert!(ids(&probe()).is_empty());
}

#[test]
fn what_is_wrong_with_a_keyspace_is_told_and_mended() {
    let Some(port) = crate::cassandra() else { return };
    let tables = Tables::connect(port);
    let settings = Settings::default().into_cql(port, "doctor");
    let pipeline = Pipeline::new(&Settings::default().into_cql(1, "doctor").to_toml());
    pipeline.write("log.ndjson", b"");
    expect(&pipeline, 3, &[Symptom::CqlUnreachable]);
    pipeline.configure(&settings.to_toml());
    let findings = expect(&pipeline, 3, &[Symptom::KeyspaceMissing]);
    assert!(found(&findings, "keyspace").contains("CREATE TABLE doctor.sessions"));
    tables.create_keyspace("doctor");

    let findings = expect(&pipeline, 3, &[Symptom::TableMissing, Symptom::ReplicationOne]);
    let create = found(&findings, "table").split("create it: ").nth(1).expect("the statement is there").to_owned();
    tables.execute(&create);
    expect(&pipeline, 0, &[Symptom::ReplicationOne, Symptom::ListNotFrozen]);
    tables.execute("DROP TABLE doctor.sessions");
    tables.execute(&format!("CREATE TABLE doctor.{}", SESSIONS.replace("user_id bigint", "user_id text")));
    expect(&pipeline, 3, &[Symptom::TableMisfit, Symptom::ReplicationOne, Symptom::ListNotFrozen]);
    tables.execute("DROP TABLE doctor.sessions");
    tables.execute(&format!("CREATE TABLE doctor.{}", SESSIONS.replace("list<text>", "frozen<list<text>>")));
    expect(&pipeline, 0, &[Symptom::ReplicationOne]);

    let write = |id: u32, ahead_ms: i64| {
        let time = (keyfold::clock::now_ms() + ahead_ms) * 1_000;
        tables.execute(&format!(
            "INSERT INTO doctor.sessions (session_id, user_id, pages, ingestion_time) VALUES ({id}, 1, ['a'], 0) USING TIMESTAMP {time}"
        ));
    };
    write(1, 0);
    expect(&pipeline, 0, &[Symptom::ReplicationOne]);
    write(2, 24 * 3_600_000);
    let findings = expect(&pipeline, 0, &[Symptom::ReplicationOne, Symptom::RowsAhead]);
    assert!(found(&findings, "write times of doctor.sessions").starts_with("1 of 2 sampled rows were written"));
    // Whoever begins to use the table is told too.
    let said = "1 of 2 sampled rows were written with a time up to ";
    pipeline.call("check", &[]).expect_code(0).expect_said(&["warn  write times of doctor.sessions", said]);
    let told = pipeline.run_to_end(&[]).expect_code(0).logged("rows-ahead");
    assert_eq!((&told["level"], &told["what"]), (&"ERROR".into(), &"write times of doctor.sessions".into()));
    assert!(told["why"].as_str().is_some_and(|why| why.starts_with(said)), "{told}");
    tables.execute("TRUNCATE doctor.sessions");
    assert!(logged(&pipeline.run_to_end(&[]).expect_code(0).stderr, "rows-ahead").is_empty());
}

#[test]
fn rows_that_one_node_keeps_are_mended_by_more_replicas_and_a_quorum_of_them() {
    let Some(database) = start(Kind::Cassandra) else { return };
    let Some(second) = join(&database) else { return };
    let tables = Tables::connect(database.port());
    // A node answers before all others have heard of it, and they hear of it bit by bit.
    let told = ["rpc_address", "host_id", "data_center", "release_version", "tokens"];
    wait_until("the first node knows the second", || {
        tables.rows("system", "peers", &told).iter().any(|peer| told.iter().all(|what| !peer[what].is_null()))
    });
    tables.create("doctor", &SESSIONS.replace("list<text>", "frozen<list<text>>"));
    let settings = Settings::default().into_cql(database.port(), "doctor");
    let pipeline = Pipeline::new(&settings.to_toml());
    pipeline.write("log.ndjson", b"");
    expect(&pipeline, 0, &[Symptom::ReplicationOne]);
    tables.execute("ALTER KEYSPACE doctor WITH REPLICATION = {'class': 'SimpleStrategy', 'replication_factor': 3}");
    expect(&pipeline, 0, &[Symptom::ConsistencyWeak]);
    let asks = |consistency| pipeline.configure(&settings.to_toml().replace("\"ONE\"", &format!("\"{consistency}\"")));
    asks("LOCAL_QUORUM");
    expect(&pipeline, 0, &[]);
    asks("ALL");
    expect(&pipeline, 3, &[Symptom::ConsistencyUnsatisfiable]);
    asks("QUORUM");
    expect(&pipeline, 0, &[]);
    drop(second);
}

/// Twenty events in two partitions, of which `fold` rejects the one with v = 13.
fn events() -> Vec<TestRecord> {
    let now = jiff::Timestamp::now().as_millisecond() - 60_000;
    let record = |i: u64| {
        let time = now + i.cast_signed() * 250;
        let value = json!({"key": "k", "time": time, "v": i}).to_string();
        let key = Some(format!("k{i}").into_bytes());
        TestRecord {
            partition: u32::from(i % 2 == 1),
            offset: i / 2,
            timestamp: time,
            key,
            value: Some(value.into_bytes()),
        }
    };
    (0..20).map(record).collect()
}

#[test]
fn dead_letters_of_a_topic_are_listed_and_sent_again_once() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "redriven", 2, &[]);
    create_topic(&brokers, "redriven-letters", 1, &[]);
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"reject\" }}", plugin_file("hostile"));
    let settings = Settings { plugin, ..Settings::default() }.over_kafka(&brokers, "redriven");
    let letters = "topic = \"redriven-letters\"";
    let pipeline = Pipeline::new(&settings.to_toml().replace("file = \"dead-letters.ndjson\"", letters));
    let log = events();
    produce(&brokers, "redriven", &log);
    pipeline.run_to_end(&["--until-end"]).expect_code(0);

    let list = objects(call(&pipeline, ["dead-letters", "list"], &["--output", "json"]).expect_code(0));
    let [letter] = &list[..] else { panic!("one event was rejected: {list:?}") };
    let told = (&letter["stage"], &letter["partition"], &letter["offset"], &letter["topic"], &letter["place"]);
    assert_eq!(told, (&json!("fold"), &json!(1), &json!(6), &json!("redriven"), &json!("0/0")));
    let counts = call(&pipeline, ["dead-letters", "list"], &["--summary"]);
    counts.expect_code(0).expect_said(&["1  fold     rejected 13", "1 dead letter(s), 1 distinct reason(s)"]);

    pipeline.call("deployment create", &["--plugin-config", r#"{"mode": "ok"}"#]).expect_code(0);
    let ordered = jiff::Timestamp::now().as_millisecond();
    wait_until("the deployment's instant has come", || jiff::Timestamp::now().as_millisecond() > ordered + 1_000);
    let redrive = |more: &[&str]| call(&pipeline, ["dead-letters", "redrive"], more).expect_code(0).stdout.clone();
    assert_eq!(redrive(&["--dry-run"]).trim(), "would send to topic redriven: 1 record(s)");
    assert_eq!(redrive(&[]).trim(), "sent to topic redriven: 1 record(s)");
    assert!(redrive(&[]).starts_with("sent to topic redriven: 0 record(s)\nskipped 1: sent by an earlier redrive"));
    let in_log = read_back(&brokers, "redriven");
    assert_eq!(in_log.len(), 21);
    let again =
        in_log.iter().find(|record| record.partition == 1 && record.offset == 10).expect("in its own partition");
    assert_eq!((&again.key, &again.value), (&log[13].key, &log[13].value));

    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    let want = model::run(Hostile::new(Mode::Ok), &log, Time::default()).values();
    assert_same("rows", &sorted(from_ndjson(&pipeline.path("rows.ndjson"))), &sorted(want));
    call(&pipeline, ["dead-letters", "redrive"], &["--to", "nowhere", "--again"])
        .expect_code(3)
        .expect_said(&["nowhere"]);
    let into_itself = call(&pipeline, ["dead-letters", "redrive"], &["--to", "redriven-letters", "--again"]);
    into_itself.expect_code(2).expect_said(&["--to", "topic redriven-letters, where the dead letters are kept"]);
    create_topic(&brokers, "redriven-elsewhere", 1, &[]);
    assert_eq!(
        redrive(&["--to", "redriven-elsewhere", "--again"]).trim(),
        "sent to topic redriven-elsewhere: 1 record(s)"
    );
}
