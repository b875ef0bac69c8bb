//! `keyfold replay`: the rows of a run without its effects, and the difference of two plugins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::{Value, json};

use crate::support::generate::{TestRecord, generate, generate_hostile, write_records};
use crate::support::host::{Outcome, PATIENCE, Pipeline, logged, number, plugin_file};
use crate::support::rows::{assert_same, from_ndjson, sorted, upserted};
use crate::support::settings::Settings;

const START_MS: i64 = 1_727_870_400_000;
const EVENTS: usize = 3_000;
const FIFTY: &str = r#"{"session_timeout": "50s"}"#;
const TEN: &str = r#"{"session_timeout": "10s"}"#;

/// A pipeline over `log.ndjson` that holds these records.
fn pipeline(records: &[TestRecord], settings: &Settings) -> Pipeline {
    let pipeline = Pipeline::new(&settings.to_toml());
    write_records(&pipeline.path("log.ndjson"), records);
    pipeline
}

fn hostile(mode: &str) -> Settings {
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"{mode}\" }}", plugin_file("hostile"));
    Settings { plugin, ..Settings::default() }
}

/// What standard output says, a JSON document a line.
fn lines(outcome: &Outcome) -> Vec<Value> {
    outcome.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The rows that a replay shows.
#[track_caller]
fn rows(pipeline: &Pipeline, more: &[&str]) -> Vec<Value> {
    let outcome = pipeline.call("replay", more);
    lines(outcome.expect_code(0))
}

/// The last log line that is a summary.
#[track_caller]
fn summary(outcome: &Outcome) -> String {
    let texts = outcome.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found =
        texts.filter_map(|fields| Some(fields["message"].as_str()?.to_owned())).rfind(|m| m.starts_with("rows A"));
    found.unwrap_or_else(|| panic!("no summary in {}", outcome.stderr))
}

/// Names and contents of all files below a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.display().to_string(), std::fs::read(&path).expect("readable"));
        }
    }
    found
}

/// Names in a pipeline's folder, but for what the test keeps of a command's output.
fn names(pipeline: &Pipeline) -> BTreeSet<String> {
    let entries = std::fs::read_dir(pipeline.path("")).expect("the test's folder");
    let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.ends_with(".log")).collect()
}

#[test]
fn a_replay_shows_the_rows_of_a_run_in_their_order_and_form() {
    let pipeline = pipeline(&generate(EVENTS, 100, 7), &Settings::default());
    pipeline.run_to_end(&[]).expect_code(0);
    let written = std::fs::read_to_string(pipeline.path("rows.ndjson")).expect("the run wrote rows");
    assert!(written.lines().count() > 100, "the log makes rows");
    for run in ["workers = 2", "workers = 1\nbatch_records = 7", "workers = 4\nbatch_records = 1"] {
        pipeline.configure(&Settings { run: run.to_owned(), ..Settings::default() }.to_toml());
        let outcome = pipeline.call("replay", &[]);
        assert!(outcome.expect_code(0).stdout == written, "{run}");
        let replayed = outcome.logged("replay-finished");
        assert_eq!(number(&replayed, "records"), EVENTS as u64);
        assert_eq!(number(&replayed, "rows"), written.lines().count() as u64);
    }
}

#[test]
fn a_replay_of_partitions_by_themselves_shows_the_rows_of_their_lanes() {
    let base = Settings::default();
    let settings = Settings { source: format!("{}\nordering = \"partition\"", base.source), ..base };
    let pipeline = pipeline(&generate(EVENTS, 100, 7), &settings);
    pipeline.run_to_end(&[]).expect_code(0);
    let got = rows(&pipeline, &[]);
    assert_same("partitions", &sorted(got), &sorted(from_ndjson(&pipeline.path("rows.ndjson"))));
}

#[test]
fn a_replay_writes_nothing() {
    let pipeline = pipeline(&counted(), &hostile("reject"));
    let before = names(&pipeline);
    pipeline.call("replay", &[]).expect_code(0);
    pipeline.call("replay", &["--against-config", "{}"]).expect_code(1);
    assert_eq!(names(&pipeline), before, "no state, no rows, no dead letters");
    pipeline.run_to_end(&[]).expect_code(0);
    let (state, letters) = (files(&pipeline.path("state")), pipeline.path("dead-letters.ndjson"));
    let dead = std::fs::read(&letters).expect("the run wrote dead letters");
    pipeline.call("replay", &["--plugin", "builtin:visits", "--plugin-config", FIFTY]).expect_code(0);
    assert!(files(&pipeline.path("state")) == state, "the state is as it was");
    assert!(std::fs::read(&letters).expect("it exists") == dead, "so are the dead letters");
}

#[test]
fn a_plugin_does_not_differ_from_itself() {
    let pipeline = pipeline(&generate(EVENTS, 100, 7), &Settings::default());
    let tables = upserted(&rows(&pipeline, &[]), &["session_id", "user_id"]).len();
    let outcome = pipeline.call("replay", &["--against", "builtin:visits"]);
    assert_eq!(lines(outcome.expect_code(0)), Vec::<Value>::new());
    let want = format!("rows A {tables}, B {tables}; same {tables}, different 0, only A 0, only B 0");
    assert_eq!(summary(&outcome), want);
}

/// What a comparison must show of the rows of `a` and `b`, by primary key.
fn expected(a: &[Value], b: &[Value], key: &[&str]) -> (Vec<Value>, String) {
    let by_key = |rows: &[Value]| -> BTreeMap<String, (Value, Value)> {
        let row = |row: &Value| {
            let mut columns = row.clone();
            columns.as_object_mut().expect("rows are objects").shift_remove("table");
            let key: Value = key.iter().map(|name| ((*name).to_owned(), row[*name].clone())).collect();
            let head = json!({"table": row["table"], "key": key});
            (head.to_string(), (head, columns))
        };
        rows.iter().map(row).collect()
    };
    let (a, b) = (by_key(a), by_key(b));
    let (mut found, mut same, mut only) = (Vec::new(), 0, (0, 0));
    for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        let mut line = a.get(key).or(b.get(key)).expect("of one of them").0.clone();
        match (a.get(key), b.get(key)) {
            (Some(a), Some(b)) if a == b => {
                same += 1;
                continue;
            }
            (Some(a), Some(b)) => (line["a"], line["b"]) = (a.1.clone(), b.1.clone()),
            (Some(_), _) => (line["only"], only.0) = (json!("a"), only.0 + 1),
            _ => (line["only"], only.1) = (json!("b"), only.1 + 1),
        }
        found.push(line);
    }
    let different = found.len() - only.0 - only.1;
    let (only_a, only_b) = only;
    let summary = format!(
        "rows A {}, B {}; same {same}, different {different}, only A {only_a}, only B {only_b}",
        a.len(),
        b.len()
    );
    (found, summary)
}

#[test]
fn another_configuration_differs_in_exactly_the_rows_that_it_changes() {
    let pipeline = pipeline(&generate(EVENTS, 100, 7), &Settings::default());
    let (a, b) = (rows(&pipeline, &["--plugin-config", FIFTY]), rows(&pipeline, &["--plugin-config", TEN]));
    let (want, told) = expected(&a, &b, &["session_id", "user_id"]);
    let outcome = pipeline.call("replay", &["--plugin-config", FIFTY, "--against-config", TEN]);
    assert_same("difference", &sorted(lines(outcome.expect_code(1))), &sorted(want));
    assert_eq!(summary(&outcome), told);
    assert!(!told.contains("same 0,") && !told.contains("different 0,") && !told.contains("only B 0"), "{told}");
}

#[test]
fn the_last_row_of_a_primary_key_is_what_is_compared() {
    let pipeline = pipeline(&generate_hostile(EVENTS, 50, 5), &hostile("shared-key"));
    let (shared, reject) = (r#"{"mode": "shared-key"}"#, r#"{"mode": "shared-key", "n": 1}"#);
    pipeline.call("replay", &["--against-config", reject]).expect_code(0);
    let (a, b) = (rows(&pipeline, &[]), rows(&pipeline, &["--records", "1000"]));
    assert!(upserted(&a, &["k", "n"]).len() < a.len() / 10, "rows share primary keys");
    assert_ne!(upserted(&a, &["k", "n"]), upserted(&b, &["k", "n"]), "later rows replace earlier ones");
    let plain = rows(&pipeline, &["--plugin-config", r#"{"mode": "ok"}"#]);
    let (want, told) = expected(&a, &plain, &["k", "n"]);
    let outcome = pipeline.call("replay", &["--plugin-config", shared, "--against-config", r#"{"mode": "ok"}"#]);
    assert_same("difference", &sorted(lines(outcome.expect_code(1))), &sorted(want));
    assert_eq!(summary(&outcome), told);
}

#[test]
fn tables_of_different_plugins_have_no_row_in_common() {
    let pipeline = pipeline(&generate(EVENTS, 100, 7), &Settings::default());
    let against = plugin_file("hostile");
    let outcome = pipeline.call("replay", &["--against", &against, "--against-config", "{}"]);
    assert!(lines(outcome.expect_code(1)).iter().all(|line| line["only"] == "a" && line["table"] == "sessions"));
    let rejected = logged(&outcome.stderr, "item-rejected");
    assert!(rejected.iter().any(|fields| fields["side"] == "b"), "hostile takes no visits");
}

/// 60 records with one event each, of 10 keys, a second apart; v counts up.
fn counted() -> Vec<TestRecord> {
    let value = |i: i64| json!({"key": format!("k{}", i % 10), "time": START_MS + i * 1_000, "v": i});
    let record = |i: i64| TestRecord {
        partition: 0,
        offset: i.unsigned_abs(),
        timestamp: START_MS + i * 1_000,
        key: None,
        value: Some(value(i).to_string().into_bytes()),
    };
    (0..60).map(record).collect()
}

#[test]
fn what_is_struck_or_rejected_is_told_and_the_rest_is_folded() {
    let check = |mode: &str, told: &str, stage: &str, reason: &str| {
        let settings = hostile(mode);
        let settings = Settings { plugin: format!("{}\non_strike = \"halt\"", settings.plugin), ..settings };
        let pipeline = pipeline(&counted(), &settings);
        let outcome = pipeline.call("replay", &[]);
        assert_eq!(lines(outcome.expect_code(0)).len(), 59, "{mode}");
        let fields = outcome.logged(told);
        assert_eq!((&fields["stage"], &fields["partition"], &fields["offset"]), (&json!(stage), &json!(0), &json!(13)));
        assert!(fields["reason"].as_str().is_some_and(|text| text.contains(reason)), "{fields}");
        let replayed = outcome.logged("replay-finished");
        let counts = (number(&replayed, "struck"), number(&replayed, "rejected"));
        assert_eq!(counts, if told == "item-struck" { (1, 0) } else { (0, 1) });
    };
    check("trap", "item-struck", "fold", "struck by 13");
    check("reject", "item-rejected", "fold", "rejected 13");
    check("reject-map", "item-rejected", "map", "rejected 13");
}

#[test]
fn of_many_rejections_the_first_are_told_and_all_are_counted() {
    let mut log = counted();
    log.iter_mut().for_each(|record| record.value = Some(b"no JSON".to_vec()));
    let outcome = pipeline(&log, &Settings::default()).call("replay", &[]);
    let told = logged(&outcome.expect_code(0).stderr, "item-rejected");
    assert_eq!(told.iter().map(|fields| number(fields, "offset")).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert_eq!(number(&outcome.logged("replay-finished"), "rejected"), 60);
}

#[test]
fn a_replay_may_stop_after_so_many_records() {
    let pipeline = pipeline(&counted(), &hostile("ok"));
    let all = rows(&pipeline, &[]);
    for records in [0, 1, 7, 59, 60, 1_000] {
        let got = rows(&pipeline, &["--records", &records.to_string()]);
        assert_same(&format!("{records} records"), &got, &all[..records.min(60)]);
    }
}

#[test]
fn a_replay_reads_another_file_and_needs_no_sink() {
    let pipeline = Pipeline::new(&Settings { sink: String::new(), ..hostile("ok") }.to_toml());
    write_records(&pipeline.path("past.ndjson"), &counted());
    assert_eq!(rows(&pipeline, &["--from", "past.ndjson"]).len(), 60);
    pipeline.call("replay", &[]).expect_code(3).expect_said(&["log.ndjson"]);
    pipeline.call("replay", &["--from", "none"]).expect_code(2).expect_said(&["--from none is not a file"]);
    pipeline.run_to_end(&[]).expect_code(2).expect_said(&["sink"]);
}

#[test]
fn a_plugin_or_configuration_that_does_not_fit_is_refused() {
    let pipeline = pipeline(&counted(), &Settings::default());
    pipeline.call("replay", &["--plugin", "none.wasm"]).expect_code(2).expect_said(&["none.wasm"]);
    pipeline
        .call("replay", &["--against-config", r#"{"session_timeout": []}"#])
        .expect_code(4)
        .expect_said(&["plugin.config.session_timeout", "[]"]);
}

#[test]
fn a_replay_ends_quietly_when_its_reader_is_gone() {
    let pipeline = pipeline(&generate(EVENTS, 100, 7), &Settings::default());
    let mut command = pipeline.command("replay", &[]);
    let (reader, writer) = std::io::pipe().expect("a pipe can be had");
    drop(reader);
    let mut child = command.stdout(writer).stderr(std::process::Stdio::null()).spawn().expect("the program starts");
    assert_eq!(child.wait().expect("a child can be waited for").code(), Some(0));
}

#[test]
fn a_topic_is_read_up_to_its_ends_in_the_order_of_the_lane() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    cluster.create_topic("past", 3, 1).expect("a new topic");
    let brokers = cluster.bootstrap_servers();
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("a producer");
    let mut log = counted();
    for (i, record) in log.iter_mut().enumerate() {
        (record.partition, record.offset) = (u32::from(i % 3 == 0), 0);
    }
    for partition in [0, 1] {
        let records = log.iter_mut().filter(|record| record.partition == partition);
        (0..).zip(records).for_each(|(offset, record)| record.offset = offset);
    }
    for record in &log {
        let payload = record.value.as_deref().unwrap_or_default();
        let partition = i32::try_from(record.partition).expect("small");
        let to = BaseRecord::<'_, [u8], [u8]>::to("past").partition(partition);
        producer.send(to.payload(payload).timestamp(record.timestamp)).map_err(|(e, _)| e).expect("there is room");
    }
    producer.flush(PATIENCE).expect("the brokers take it");

    let want = rows(&pipeline(&log, &hostile("state")), &[]);
    let over_topic = Pipeline::new(&hostile("state").over_kafka(&brokers, "present").to_toml());
    assert_same("topic", &rows(&over_topic, &["--from", "past"]), &want);
    assert!(!over_topic.path("state").exists(), "nothing is kept");
}
