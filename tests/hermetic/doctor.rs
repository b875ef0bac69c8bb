//! What `keyfold doctor` finds: each thing is provoked, told under its name, and mended by what its advice says. What needs a real broker or
//! database is in tests/services/doctor.rs; what needs more than one machine is judged from data in the host's own tests.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use keyfold::symptom::Symptom;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::{Value, json};

use crate::support::certificates::Authority;
use crate::support::doctor::{call, doctor, findings, ids};
use crate::support::generate::{TestRecord, write_records};
use crate::support::guide::read;
use crate::support::host::{Pipeline, plugin_file};
use crate::support::mock::{produce, visits, visits_from};
use crate::support::settings::Settings;

/// A pipeline over a file of visits.
fn pipeline(settings: &Settings) -> Pipeline {
    let pipeline = Pipeline::new(&settings.to_toml());
    write_records(&pipeline.path("log.ndjson"), &visits(1, |i| i % 10));
    pipeline
}

/// The doctor finds this and nothing else, with this exit code; after it was mended nothing.
#[track_caller]
fn check(pipeline: &Pipeline, symptom: Symptom, code: i32, mend: impl FnOnce(&Pipeline)) {
    let findings = doctor(pipeline, code);
    assert_eq!(ids(&findings), [symptom.name()], "{findings:#?}");
    let found = findings.iter().find(|finding| finding["id"] == symptom.name()).expect("just seen");
    assert_eq!(found["advice"], symptom.advice());
    mend(pipeline);
    let findings = doctor(pipeline, 0);
    assert!(ids(&findings).is_empty(), "{}: after it was mended: {findings:#?}", symptom.name());
}

fn with(settings: &Settings, from: &str, to: &str) -> String {
    let toml = settings.to_toml();
    assert!(toml.contains(from), "{from} is in:\n{toml}");
    toml.replace(from, to)
}

#[test]
fn every_symptom_has_its_section_and_every_section_its_symptom() {
    let page = read("host/docs/operations.md");
    let (_, rest) = page.split_once("\n## Doctor findings\n").expect("host/docs/operations.md has that section");
    let section = rest.split("\n## ").next().expect("a split has a first part");
    let sections: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let once: BTreeSet<&str> = sections.iter().copied().collect();
    assert_eq!(sections.len(), once.len(), "no section stands twice");
    let names: BTreeSet<&str> = Symptom::ALL.iter().map(|symptom| symptom.name()).collect();
    assert_eq!(once, names, "left: host/docs/operations.md, right: host/symptom.rs");
}

#[test]
fn state_that_other_users_can_read_is_named() {
    let pipeline = pipeline(&Settings::default());
    pipeline.run_to_end(&[]).expect_code(0);
    let set = |pipeline: &Pipeline, mode: u32| {
        for folder in ["state", "state/log"] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(pipeline.path(folder), permissions).expect("it is the test's own");
        }
    };
    set(&pipeline, 0o755);
    check(&pipeline, Symptom::ReadableByOthers, 0, |pipeline| set(pipeline, 0o700));
}

#[test]
fn a_secret_in_the_plugin_s_configuration_is_named_and_not_shown() {
    let settings = Settings::default();
    let plugin = settings.plugin.replace("config = {", "config = { pepper = \"correct-horse\",");
    let pipeline = pipeline(&Settings { plugin, ..settings });
    // The plugin refuses the key, too.
    let findings = doctor(&pipeline, 4);
    let found = findings.iter().find(|finding| finding["id"] == Symptom::SecretInConfig.name()).expect("it is found");
    let said = found["found"].as_str().unwrap_or_default();
    assert!(said.contains("plugin.config.pepper") && !said.contains("correct-horse"), "{said}");
    pipeline.call("check", &[]).expect_said(&["plugin.config.pepper may hold a secret"]);
}

#[test]
fn tokens_in_clear_are_named_until_there_is_tls() {
    let pipeline = pipeline(&Settings::default());
    let with = |tls: &str| {
        let admin = "[admin]\nlisten = \"0.0.0.0:0\"\ntoken = \"0123456789012345678901234\"\n";
        format!("{}\n{admin}{tls}", Settings::default().to_toml())
    };
    let signed = Authority::new("own").sign("server", Some("127.0.0.1"), 30);
    pipeline.write("server.pem", &signed.both());
    pipeline.configure(&with(""));
    check(&pipeline, Symptom::AdminInClear, 0, |pipeline| {
        pipeline.configure(&with("tls = { certificate = \"server.pem\", key = \"server.pem\" }\n"));
    });
}

#[test]
fn every_symptom_is_provoked_by_a_test() {
    let files =
        ["hermetic/doctor.rs", "hermetic/unfit.rs", "services/doctor.rs", "services/letters.rs", "services/rights.rs"];
    let tests: String = files.iter().map(|file| read(&format!("tests/{file}"))).collect();
    for symptom in Symptom::ALL {
        assert!(tests.contains(&format!("Symptom::{symptom:?}")), "no test provokes {}", symptom.name());
    }
}

#[test]
fn timestamps_that_cannot_be_true_are_mended_by_the_producer() {
    let pipeline = pipeline(&Settings::default());
    let mut records = visits(1, |i| i % 10);
    records[7].timestamp *= 1_000;
    write_records(&pipeline.path("log.ndjson"), &records);
    let found = doctor(&pipeline, 0);
    let said =
        found.iter().find(|finding| finding["id"] == Symptom::TimestampsImplausible.name()).expect("it is found");
    let said = said["found"].as_str().unwrap_or_default();
    assert!(said.contains("1 of 40") && said.contains("offset 7") && said.contains("microseconds"), "{said}");
    let mend = |pipeline: &Pipeline| write_records(&pipeline.path("log.ndjson"), &visits(1, |i| i % 10));
    check(&pipeline, Symptom::TimestampsImplausible, 0, mend);
}

#[test]
fn a_timestamp_far_ahead_of_the_clock_is_mended_by_the_producer() {
    let pipeline = pipeline(&Settings::default());
    let mut records = visits(1, |i| i % 10);
    records[39].timestamp = 3_000_000_000_000;
    write_records(&pipeline.path("log.ndjson"), &records);
    let found = doctor(&pipeline, 0);
    let said = found.iter().find(|finding| finding["id"] == Symptom::TimestampsFarAhead.name()).expect("it is found");
    let said = said["found"].as_str().unwrap_or_default();
    assert!(said.contains("1 of 40") && said.contains("offset 39") && said.contains("2065"), "{said}");
    let mend = |pipeline: &Pipeline| write_records(&pipeline.path("log.ndjson"), &visits(1, |i| i % 10));
    check(&pipeline, Symptom::TimestampsFarAhead, 0, mend);
}

#[test]
fn records_that_would_be_lost_are_told_of_before_they_are_folded() {
    let pipeline = pipeline(&Settings::default());
    let good = visits(1, |i| i % 10);
    let mut records = good.clone();
    records.iter_mut().step_by(3).for_each(|record| record.value = Some(b"no visit".to_vec()));
    write_records(&pipeline.path("log.ndjson"), &records);
    let found = doctor(&pipeline, 0);
    assert!(ids(&found).is_empty(), "14 of 40 are not most: {found:#?}");
    let figures = |found: &[Value]| {
        let line = found.iter().find(|finding| finding["subject"] == "records").expect("records were tried");
        (line["figures"].clone(), line["found"].as_str().unwrap_or_default().to_owned())
    };
    let (counted, said) = figures(&found);
    assert_eq!((&counted["records"], &counted["events"], &counted["rejected"]), (&json!(40), &json!(26), &json!(14)));
    assert!(said.contains("14 would be rejected") && said.contains("(14)"), "{said}");

    records.iter_mut().for_each(|record| record.value = Some(b"no visit".to_vec()));
    write_records(&pipeline.path("log.ndjson"), &records);
    let checked = pipeline.call("check", &[]);
    checked.expect_code(0).expect_said(&[
        "warn  records",
        "MOST RECORDS WOULD BE REJECTED OR LATE",
        "40 would be rejected",
    ]);
    assert!(!pipeline.path("rows.ndjson").exists(), "nothing was consumed");
    let mend = |pipeline: &Pipeline| write_records(&pipeline.path("log.ndjson"), &good);
    check(&pipeline, Symptom::MostRecordsLost, 0, mend);
    // The first event makes all others late.
    let mut ahead = good.clone();
    ahead[0] = TestRecord { value: visits_from(3_000, 1, |i| i % 10)[0].value.clone(), ..ahead[0].clone() };
    write_records(&pipeline.path("log.ndjson"), &ahead);
    let found = findings(pipeline.call("check", &["--output", "json"]).expect_code(0));
    let (counted, said) = figures(&found);
    assert_eq!((&counted["late"], &counted["rejected"]), (&json!(39), &json!(0)), "{said}");
    assert!(said.contains("an event far ahead"), "{said}");
    // There is nothing to say of nothing.
    write_records(&pipeline.path("log.ndjson"), &[]);
    pipeline.call("check", &[]).expect_code(0);
}

#[test]
fn seconds_that_are_read_as_milliseconds_are_told_as_what_they_are() {
    let pipeline = pipeline(&Settings::default());
    let good = visits(1, |i| i % 10);
    let mut records = good.clone();
    for record in &mut records {
        let seconds = jiff::Timestamp::from_millisecond(record.timestamp / 1_000).expect("a time of 1970");
        let visit =
            json!({"user_id": 1, "page": "a", "event_time": seconds.strftime("%Y-%m-%dT%H:%M:%S%.3f").to_string()});
        record.value = Some(visit.to_string().into_bytes());
    }
    write_records(&pipeline.path("log.ndjson"), &records);
    let said = ["of 40 events", "the plugin reads seconds as milliseconds?"];
    pipeline.call("check", &[]).expect_code(0).expect_said(&said);
    pipeline.call("doctor", &[]).expect_code(0).expect_said(&said);
    let mend = |pipeline: &Pipeline| write_records(&pipeline.path("log.ndjson"), &good);
    check(&pipeline, Symptom::EventTimesImplausible, 0, mend);
}

#[test]
fn a_healthy_pipeline_has_nothing_wrong_and_an_owner_for_each_lane() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    cluster.create_topic("healthy", 2, 1).expect("a new topic");
    let settings = Settings { checkpoint_interval: "200ms".into(), ..Settings::default() };
    let pipeline = Pipeline::new(&settings.over_kafka(&cluster.bootstrap_servers(), "healthy").to_toml());
    assert!(ids(&doctor(&pipeline, 0)).is_empty(), "before the first run");
    produce(&cluster.bootstrap_servers(), "healthy", &visits(2, |i| i % 10));
    let mut host = pipeline.spawn(&[]);
    host.wait_until("a checkpoint is written", || call(&pipeline, ["state", "list"], &[]).code == Some(0));
    let findings = doctor(&pipeline, 0);
    assert!(ids(&findings).is_empty(), "{findings:#?}");
    let lane = findings.iter().find(|finding| finding["subject"] == "lane topic").expect("there is one lane");
    let said = lane["found"].as_str().unwrap_or_default();
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a machine has a name");
    let (name, version) = (format!("host {}", name.trim()), format!("keyfold {}", env!("CARGO_PKG_VERSION")));
    for word in [name, version, format!("process {}", host.id())] {
        assert!(said.contains(&word), "{said} names {word}");
    }
    let place = findings.iter().find(|finding| finding["subject"] == "place in the log").expect("the lane has folded");
    assert_eq!(place["verdict"], "ok");
    let left = std::fs::read_dir(pipeline.path("state")).expect("there is state").filter_map(Result::ok);
    assert!(left.map(|entry| entry.file_name()).all(|name| !name.to_string_lossy().starts_with("doctor")));
    host.terminate(Duration::from_secs(30)).expect_code(0);
}

#[test]
fn people_read_lines_with_the_name_and_what_mends_it() {
    let pipeline =
        pipeline(&Settings { sink: "[sink.ndjson]\npath = \"no/rows.ndjson\"".into(), ..Settings::default() });
    let outcome = pipeline.call("doctor", &[]);
    outcome.expect_code(3).expect_said(&["FAIL  sink", "no does not exist", "sink-unusable: create its folder"]);
    let ok = outcome.stdout.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(ok >= 5, "{}", outcome.stdout);
}

#[test]
fn a_wrong_configuration_is_mended_by_its_key() {
    let settings = Settings::default();
    let pipeline = pipeline(&settings);
    pipeline.configure(&with(&settings, "checkpoint_interval = \"5s\"", "checkpoint_intervall = \"5s\""));
    check(&pipeline, Symptom::ConfigWrong, 2, |pipeline| pipeline.configure(&settings.to_toml()));
}

#[test]
fn a_plugin_that_is_missing_or_none_is_mended_by_its_file() {
    let plugin = "component = \"plugin.wasm\"\nconfig = { mode = \"ok\" }".to_owned();
    let pipeline = pipeline(&Settings { plugin, ..Settings::default() });
    let build = |pipeline: &Pipeline| {
        std::fs::copy(plugin_file("hostile"), pipeline.path("plugin.wasm")).expect("the build has left it there");
    };
    let found = |code| ids(&doctor(&pipeline, code));
    assert_eq!(
        found(2),
        [Symptom::PluginMissing.name(), Symptom::PluginRefused.name()],
        "and its tables are not known"
    );
    build(&pipeline);
    assert_eq!(found(0), [Symptom::MostRecordsLost.name()], "visits are none of its records");
    pipeline.write("plugin.wasm", b"\0asm\x01\0\0\0");
    assert_eq!(found(4), [Symptom::PluginRefused.name(); 2]);
    build(&pipeline);
    assert_eq!(found(0), [Symptom::MostRecordsLost.name()]);
}

#[test]
fn too_much_memory_for_this_machine_is_mended_by_less_of_it() {
    let settings = Settings::default();
    let plugin = format!("{}\nmemory = \"1GiB\"", settings.plugin);
    let pipeline = pipeline(&Settings { plugin, run: "workers = 256".into(), ..settings.clone() });
    check(&pipeline, Symptom::MemoryShort, 0, |pipeline| pipeline.configure(&settings.to_toml()));
}

#[test]
fn a_file_that_is_missing_or_another_one_is_mended_by_the_right_one() {
    let settings = Settings::default();
    let pipeline = pipeline(&settings);
    std::fs::remove_file(pipeline.path("log.ndjson")).expect("just written");
    let put_back = |pipeline: &Pipeline| write_records(&pipeline.path("log.ndjson"), &visits(1, |i| i % 10));
    check(&pipeline, Symptom::FileUnusable, 3, put_back);
    pipeline.run_to_end(&[]).expect_code(0);
    write_records(&pipeline.path("log.ndjson"), &visits(1, |i| i % 7));
    check(&pipeline, Symptom::LogReplaced, 5, put_back);
    write_records(&pipeline.path("log.ndjson"), &visits(1, |i| i % 10)[..20]);
    check(&pipeline, Symptom::LogReplaced, 5, put_back);
}

#[test]
fn state_that_cannot_be_used_is_mended_by_a_place_of_its_own() {
    let settings = Settings::default();
    let pipeline = Pipeline::new(&settings.to_toml());
    write_records(&pipeline.path("log.ndjson"), &keyed(visits(1, |i| i % 10)));
    pipeline.write("state", b"a file where a folder should be");
    check(&pipeline, Symptom::StateUnusable, 3, |pipeline| {
        std::fs::remove_file(pipeline.path("state")).expect("just written");
    });
    pipeline.run_to_end(&[]).expect_code(0);
    let by_partition = with(&settings, "format = \"records\"", "format = \"records\"\nordering = \"partition\"");
    pipeline.configure(&by_partition);
    check(&pipeline, Symptom::StateForeign, 5, |pipeline| {
        pipeline.configure(&by_partition.replace("{dir}/state", "{dir}/state-of-partitions"));
    });
}

/// The same with the user as the record's key.
fn keyed(mut log: Vec<TestRecord>) -> Vec<TestRecord> {
    for record in &mut log {
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default()).expect("is JSON");
        record.key = Some(value["user_id"].to_string().into_bytes());
    }
    log
}

#[test]
fn settings_that_differ_from_those_in_force_are_mended_by_an_order_or_by_the_file() {
    let settings = Settings::default();
    let pipeline = pipeline(&settings);
    pipeline.run_to_end(&[]).expect_code(0);
    let shorter = with(&settings, "session_timeout = \"50s\"", "session_timeout = \"20s\"");
    pipeline.configure(&shorter);
    check(&pipeline, Symptom::SettingsDiffer, 2, |pipeline| {
        pipeline.call("deployment create", &[]).expect_code(0);
    });
    pipeline.configure(&settings.to_toml());
    check(&pipeline, Symptom::SettingsSuperseded, 0, |pipeline| pipeline.configure(&shorter));
}

#[test]
fn keys_that_lie_in_two_partitions_are_mended_by_one_order_for_all() {
    let by_partition =
        "[source.file]\npath = \"log.ndjson\"\nformat = \"records\"\nordering = \"partition\"".to_owned();
    let settings = Settings { source: by_partition, ..Settings::default() };
    let merged =
        |pipeline: &Pipeline| pipeline.configure(&with(&settings, "ordering = \"partition\"", "ordering = \"topic\""));
    let pipeline = Pipeline::new(&settings.to_toml());
    write_records(&pipeline.path("log.ndjson"), &visits(2, |i| i / 2));
    check(&pipeline, Symptom::KeyInTwoPartitions, 0, merged);
    // The users of each partition are its own, but nothing keeps a producer to that.
    pipeline.configure(&settings.to_toml());
    write_records(&pipeline.path("log.ndjson"), &visits(2, |i| i % 2));
    check(&pipeline, Symptom::RecordsWithoutKey, 0, |pipeline| {
        write_records(&pipeline.path("log.ndjson"), &keyed(visits(2, |i| i % 2)));
    });
}

#[test]
fn sinks_and_dead_letters_that_cannot_be_kept_are_mended_by_their_folder_or_table() {
    let sqlite = Settings { sink: "[sink.sqlite]\npath = \"rows.db\"".into(), ..Settings::default() };
    let pipeline = pipeline(&sqlite);
    let database = |statement: &str| {
        let connection = rusqlite::Connection::open(pipeline.path("rows.db")).expect("the folder is writable");
        connection.execute_batch(statement).expect("a valid statement");
    };
    database("CREATE TABLE sessions (session_id INTEGER PRIMARY KEY, user_id INTEGER, pages TEXT)");
    check(&pipeline, Symptom::TableMisfit, 3, |_| database("DROP TABLE sessions"));
    let folder = |name: &'static str| move |p: &Pipeline| std::fs::create_dir(p.path(name)).expect("it is not there");
    pipeline.configure(&with(&sqlite, "rows.db", "no/rows.db"));
    check(&pipeline, Symptom::SinkUnusable, 3, folder("no"));
    pipeline.configure(&with(&sqlite, "dead-letters.ndjson", "lost/dead-letters.ndjson"));
    check(&pipeline, Symptom::DeadLettersUnusable, 3, folder("lost"));
}

#[test]
fn brokers_that_are_away_or_old_and_a_missing_topic_are_told_apart() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    let settings = Settings::default().over_kafka(&brokers, "doctor");
    let pipeline = pipeline(&settings);
    check_from(&pipeline, &with(&settings, &brokers, "127.0.0.1:1"), Symptom::BrokerUnreachable, || {
        pipeline.configure(&settings.to_toml());
        cluster.create_topic("doctor", 2, 1).expect("a new topic");
    });
    let misspelt = with(&settings, "topic = \"doctor\"", "topic = \"doktor\"");
    check_from(&pipeline, &misspelt, Symptom::TopicMissing, || pipeline.configure(&settings.to_toml()));
    let speak = |fetch, metadata| {
        for (api, newest) in [(RDKafkaApiKey::Fetch, fetch), (RDKafkaApiKey::Metadata, metadata)] {
            cluster.apiversion(api, Some(0), Some(newest)).expect("the mock implements more");
        }
    };
    speak(11, 9);
    let findings = doctor(&pipeline, 0);
    assert_eq!(ids(&findings), [Symptom::BrokerOld.name()], "{findings:#?}");
    speak(11, 10);
    assert!(ids(&doctor(&pipeline, 0)).is_empty());

    cluster
        .topic_error("doctor", RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
        .expect("the topic is there");
    check(&pipeline, Symptom::TopicRefused, 3, |_| {
        cluster.topic_error("doctor", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).expect("the topic is there");
    });

    let letters = format!("topic = \"letters\"\nbrokers = \"{brokers}\"");
    pipeline.configure(&with(&settings, "file = \"dead-letters.ndjson\"", &letters));
    check(&pipeline, Symptom::DeadLettersUnusable, 3, |_| {
        cluster.create_topic("letters", 1, 1).expect("a new topic");
    });
}

/// As [`check`], with another configuration that refuses, and the mending as advised.
#[track_caller]
fn check_from(pipeline: &Pipeline, config: &str, symptom: Symptom, mend: impl FnOnce()) {
    pipeline.configure(config);
    check(pipeline, symptom, 3, |_| mend());
}
