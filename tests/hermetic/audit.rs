//! `plugin.audit`: lawful plugins give the rows that they give without it, however the log is cut and however often the host dies; a plugin
//! that breaks the law halts its lane, which says where.

use serde_json::{Value, json};

use crate::support::case::{Case, Way, check, written};
use crate::support::generate::{START_MS, TestRecord, generate, generate_hostile, write_records};
use crate::support::host::{Outcome, Pipeline, number, plugin_file};
use crate::support::model::Counts;
use crate::support::random::{Random, seed};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;

const EVENTS: usize = 4_000;

fn hostile(config: &Value) -> String {
    let config = config.to_string().replace("\":", "\" = ");
    format!("component = \"{}\"\nconfig = {config}", plugin_file("hostile"))
}

fn audited(settings: &Settings, every: u64) -> Settings {
    Settings { plugin: format!("{}\naudit = {every}", settings.plugin), ..settings.clone() }
}

/// What a host makes of this log without an audit; then with each of its batches audited, cut finely and coarsely, on one thread and on
/// four, through crashes and after its checkpoints were deleted.
fn check_audited(name: &str, log: &[TestRecord], plugin: Option<&Value>, deploys: Vec<Vec<String>>) {
    let plain = Settings { source: written(&format!("audited-{name}"), log), ..Settings::default() };
    let plain = plugin.map_or(plain.clone(), |config| Settings { plugin: hostile(config), ..plain });
    let pipeline = Pipeline::new(&plain.to_toml());
    for arguments in &deploys {
        pipeline.call("deployment create", &arguments.iter().map(String::as_str).collect::<Vec<_>>()).expect_code(0);
    }
    let outcome = pipeline.run_to_end(&[]);
    let stopped = outcome.expect_code(0).logged("lane-stopped");
    assert_eq!(number(&stopped, "audits"), 0, "off by default");
    let rows = from_ndjson(&pipeline.path("rows.ndjson"));
    assert!(rows.len() > 500, "{name}: the log makes rows");
    let counts = Counts { rejected: number(&stopped, "rejected"), late: number(&stopped, "late"), ..Counts::default() };
    let case = Case { settings: audited(&plain, 1), records: log.len(), rows, counts, until_end: false, deploys };
    let mut random = Random::new(seed(31));
    for (workers, batch_records, crashes) in [(1, 7, true), (4, 1_000, true), (4, 50_000, false)] {
        check(&case, Way { workers, batch_records, crashes, deletes: crashes }, &mut random);
    }
}

fn check_hostile(config: &Value) {
    let log = generate_hostile(EVENTS, 300, seed(20_261_201));
    check_audited(&config["mode"].to_string().replace('"', ""), &log, Some(config), Vec::new());
}

#[test]
fn audited_sessions_are_the_same() {
    check_audited("visits", &generate(EVENTS, 300, seed(20_261_202)), None, Vec::new());
}

#[test]
fn audited_value_and_list_state_gives_the_same_rows() {
    check_hostile(&json!({"mode": "state"}));
}

#[test]
fn audited_timers_that_set_timers_give_the_same_rows() {
    check_hostile(&json!({"mode": "timers"}));
}

#[test]
fn audited_timers_that_are_due_at_once_give_the_same_rows_and_strikes() {
    check_hostile(&json!({"mode": "timer-zero", "at": "timer"}));
}

#[test]
fn audited_strikes_are_found_again_and_known_ones_stay_known() {
    check_hostile(&json!({"mode": "trap"}));
}

#[test]
fn audited_batches_are_cut_where_a_deployment_holds_from() {
    let log = generate_hostile(EVENTS, 300, seed(20_261_203));
    let mut times: Vec<i64> = log.iter().map(|record| record.timestamp).collect();
    times.sort_unstable();
    let second = json!({"mode": "mark", "mark": "second"}).to_string();
    let deploy = vec!["--plugin-config".into(), second, "--at".into(), times[EVENTS / 2].to_string()];
    check_audited("mark", &log, Some(&json!({"mode": "mark", "mark": "first"})), vec![deploy]);
}

/// 1000 records of one event each, a second apart, over 10 keys.
fn plain_log() -> Vec<TestRecord> {
    let record = |i: i64| TestRecord {
        partition: 0,
        offset: i.unsigned_abs(),
        timestamp: START_MS + i * 1000,
        key: None,
        value: Some(
            json!({"key": format!("k{}", i % 10), "time": START_MS + i * 1000, "v": i}).to_string().into_bytes(),
        ),
    };
    (0..1000).map(record).collect()
}

fn run(mode: &str, every: u64, batch_records: usize) -> (Pipeline, Outcome) {
    let settings = Settings { plugin: hostile(&json!({"mode": mode})), ..Settings::default() };
    let pipeline = Pipeline::new(&audited(&settings, every).bounded(2, batch_records).to_toml());
    write_records(&pipeline.path("log.ndjson"), &plain_log());
    let outcome = pipeline.run_to_end(&[]);
    (pipeline, outcome)
}

#[test]
fn i1_a_plugin_whose_rows_depend_on_its_batch_halts_the_lane_at_the_first_that_differs() {
    for mode in ["static-counter", "std-hashmap"] {
        for batch_records in [100, 50_000] {
            let (pipeline, outcome) = run(mode, 1, batch_records);
            outcome.expect_code(4).expect_said(&[
                "lane topic halts on plugin hostile 0.1.0",
                "breaks the law",
                "cut record by record, output ",
                "is row (Text(\\\"k",
                "partition 0, offset ",
                "in one batch it is",
                "plugin.audit",
            ]);
            assert_same(mode, &from_ndjson(&pipeline.path("rows.ndjson")), &[]);
            pipeline.run_to_end(&[]).expect_code(4);
        }
    }
}

#[test]
fn a_plugin_whose_state_alone_depends_on_its_batch_halts_the_lane_by_key_and_record() {
    let (pipeline, outcome) = run("static-state", 1, 50_000);
    outcome.expect_code(4).expect_said(&[
        "hostile 0.1.0",
        "breaks the law",
        "the state of key \\\"k",
        "partition 0, offset 99",
    ]);
    assert_same("rows", &from_ndjson(&pipeline.path("rows.ndjson")), &[]);
}

#[test]
fn one_of_so_many_batches_is_audited() {
    for (every, audits) in [(1, 10), (3, 3), (11, 0)] {
        let (pipeline, outcome) = run("state", every, 100);
        let stopped = outcome.expect_code(0).logged("lane-stopped");
        assert_eq!((number(&stopped, "batches"), number(&stopped, "audits")), (10, audits), "one of {every}");
        drop(pipeline);
    }
    run("static-counter", 11, 100).1.expect_code(0);
    run("static-counter", 3, 100).1.expect_code(4);
}

#[test]
fn an_audit_of_no_batch_is_refused_by_name() {
    run("state", 0, 100).1.expect_code(2).expect_said(&["plugin.audit", "a whole number from 1"]);
}
