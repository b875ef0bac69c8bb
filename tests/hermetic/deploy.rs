//! Deployments at an exact instant of the log, on the file source: the rows of the naive model, however the log is cut and however often
//! the host dies; and what is refused before.

use serde_json::json;

use crate::support::case::{Case, Way, check, written};
use crate::support::generate::{START_MS, TestRecord, generate_hostile};
use crate::support::host::{Pipeline, logged, plugin_file};
use crate::support::model::folds::{Hostile, Mode};
use crate::support::model::{self, Deployment, Time};
use crate::support::random::{Random, seed};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;

fn marked(mark: &str) -> String {
    json!({"mode": "mark", "mark": mark}).to_string()
}

fn first() -> String {
    format!("component = \"{}\"\nconfig = {{ mode = \"mark\", mark = \"first\" }}", plugin_file("hostile"))
}

/// The append times of the log's records, in lane order, without those that go back.
fn instants(log: &[TestRecord]) -> Vec<i64> {
    let mut times: Vec<i64> = log.iter().map(|record| record.timestamp).collect();
    times.sort_unstable();
    times
}

/// Three deployments: at an instant that many records share, at one between two records, and two of one T, of which the second changes the
/// time settings; after the last record a fourth, which nobody meets.
fn case(idle_timeout_ms: Option<i64>) -> Case {
    let log = generate_hostile(8_000, 300, seed(20_261_122));
    let times = instants(&log);
    let shared =
        times.windows(4).find(|w| w[0] == w[3] && w[0] > times[2_000]).expect("half of the records share one")[0];
    let between = times.windows(2).find(|w| w[1] > w[0] + 2 && w[0] > times[4_000]).expect("there are gaps")[0] + 1;
    let late = times[6_000];
    let time = Time { idle_timeout_ms, ..Time::default() };
    let other = Time { out_of_orderness_ms: 3_000, idle_timeout_ms: Some(5_000), ..time };
    let deployments = [
        Deployment { t: shared, mark: "second", time },
        Deployment { t: between, mark: "third", time },
        Deployment { t: late, mark: "fourth", time },
        Deployment { t: late, mark: "fourth", time: other },
    ];
    let mut fold = Hostile::new(Mode::Mark);
    model::Fold::configure(&mut fold, "first");
    let lane = model::run_deployed(fold, &log, time, &deployments);
    for mark in ["first", "second", "third", "fourth"] {
        assert!(lane.values().iter().any(|row| row["items"] == json!([mark])), "{mark}");
    }
    let plain = |mark: &str, t: i64| vec!["--plugin-config".into(), marked(mark), "--at".into(), t.to_string()];
    let set = |key: &str| ["--set".to_owned(), key.to_owned()];
    let mut last = vec!["--at".to_owned(), late.to_string()];
    last.extend(set("time.out_of_orderness=3s"));
    last.extend(set("time.idle_timeout=5s"));
    let never = plain("never", times[times.len() - 1] + 1);
    let idle = idle_timeout_ms.map(|ms| format!("idle_timeout = \"{ms}ms\"")).unwrap_or_default();
    let name = format!("deployed-{}", idle_timeout_ms.unwrap_or(0));
    Case {
        settings: Settings { source: written(&name, &log), plugin: first(), time: idle, ..Settings::default() },
        records: log.len(),
        rows: lane.values(),
        counts: lane.counts,
        until_end: false,
        deploys: vec![plain("second", shared), plain("third", between), plain("fourth", late), last, never],
    }
}

fn check_all(case: &Case) {
    let mut random = Random::new(seed(7));
    let mut cut = 0;
    check(case, Way { workers: 1, batch_records: 1, crashes: false, deletes: false }, &mut random);
    for batch_records in [7, 1_000, 50_000] {
        check(case, Way { workers: 1, batch_records, crashes: false, deletes: false }, &mut random);
        cut += check(case, Way { workers: 4, batch_records, crashes: true, deletes: true }, &mut random);
    }
    assert!(cut > 0, "no crash came between rows and their checkpoint");
}

#[test]
fn i9_each_row_is_made_by_the_logic_that_holds_at_its_instant() {
    check_all(&case(None));
}

#[test]
fn timers_of_an_idle_gap_across_a_deployment_are_fired_by_the_same_logic_in_every_replay() {
    check_all(&case(Some(2_000)));
}

fn small_log() -> Vec<TestRecord> {
    let record = |i: i64| TestRecord {
        partition: 0,
        offset: i.unsigned_abs(),
        timestamp: START_MS + i * 1000,
        key: None,
        value: Some(
            json!({"key": format!("k{}", i % 3), "time": START_MS + i * 1000, "v": i}).to_string().into_bytes(),
        ),
    };
    (0..100).map(record).collect()
}

/// A pipeline over 100 records a second apart, with what is appended to its log later.
fn small(name: &str) -> Pipeline {
    Pipeline::new(&Settings { source: written(name, &small_log()), plugin: first(), ..Settings::default() }.to_toml())
}

#[test]
fn an_instant_that_a_lane_has_folded_is_refused_by_its_name() {
    let pipeline = small("deploy-past");
    pipeline.run_to_end(&[]).expect_code(0);
    let at = (START_MS + 50_000).to_string();
    let refused = pipeline.call("deployment create", &["--plugin-config", &marked("second"), "--at", &at]);
    refused.expect_code(2).expect_said(&["--at", "lane topic", &at]);
    let soon = pipeline.call("deployment create", &["--plugin-config", &marked("second"), "--reason", "a test"]);
    soon.expect_code(0).expect_said(&["deployment 1 holds from"]);
    let list = pipeline.call("deployment list", &[]);
    list.expect_code(0).expect_said(&["1  confirmed", "0  confirmed", "the beginning", "because a test", "hostile"]);
}

#[test]
fn a_dry_run_looks_and_orders_nothing() {
    let pipeline = small("deploy-dry");
    pipeline.run_to_end(&[]).expect_code(0);
    let dry = pipeline.call("deployment create", &["--plugin-config", &marked("second"), "--dry-run"]);
    dry.expect_code(0).expect_said(&["ok    plugin", "ok    law", "ok    state", "version 1, as before"]);
    assert!(!dry.stdout.contains("holds from"), "{}", dry.stdout);
    let list = pipeline.call("deployment list", &[]);
    assert_eq!(list.stdout.lines().count(), 1, "{}", list.stdout);
}

#[test]
fn a_dry_run_before_the_first_run_judges_the_plugin_and_writes_nothing() {
    let pipeline = small("deploy-dry-first");
    let fine = pipeline.call("deployment create", &["--plugin-config", &marked("second"), "--dry-run"]);
    fine.expect_code(0).expect_said(&["ok    plugin", "ok    law", "ok    state", "has not run yet"]);
    let unlawful = pipeline.call("deployment create", &["--plugin-config", r#"{"mode": "std-hashmap"}"#, "--dry-run"]);
    unlawful.expect_code(4).expect_said(&["FAIL  law"]);
    assert_eq!(pipeline.call("deployment list", &[]).stdout.trim(), "nothing was deployed yet");
}

#[test]
fn what_cannot_fold_is_refused_and_changes_nothing() {
    let pipeline = small("deploy-refused");
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline.write("text.wasm", b"no component");
    let text = pipeline.path("text.wasm").to_string_lossy().into_owned();
    let cases: [(&[&str], i32, &[&str]); 6] = [
        (&[&text], 4, &["FAIL  plugin"]),
        (&["missing.wasm"], 2, &["FAIL  plugin", "missing.wasm"]),
        (&["--plugin-config", r#"{"mode": "no-such"}"#], 4, &["FAIL  plugin", "no-such"]),
        (&["--plugin-config", r#"{"mode": "static-counter"}"#], 4, &["FAIL  law", "by 1"]),
        (&["--plugin-config", r#"{"mode": "std-hashmap"}"#], 4, &["FAIL  law"]),
        (&["--set", "state.url=file:///x"], 2, &["--set state.url", "time.out_of_orderness"]),
    ];
    for (arguments, code, words) in cases {
        pipeline.call("deployment create", arguments).expect_code(code).expect_said(words);
    }
    assert_eq!(pipeline.call("deployment list", &[]).stdout.lines().count(), 1, "only the first is there");
}

#[test]
fn a_file_that_is_older_than_what_was_deployed_is_no_change_and_a_changed_one_is() {
    let pipeline = small("deploy-restart");
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline.call("deployment create", &["--plugin-config", &marked("second")]).expect_code(0);
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0).logged("configuration-superseded");

    let third = first().replace("first", "third");
    let settings = |run: &str| Settings {
        source: written("deploy-restart", &small_log()),
        plugin: third.clone(),
        run: run.to_owned(),
        ..Settings::default()
    };
    pipeline.configure(&settings("workers = 2").to_toml());
    pipeline.run_to_end(&[]).expect_code(2).expect_said(&[
        "plugin.config",
        "keyfold deployment create",
        "deploy_on_start",
    ]);
    pipeline.configure(&settings("workers = 2\ndeploy_on_start = true").to_toml());
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0);
    assert_eq!(logged(&outcome.stderr, "configuration-deployed").len(), 1);
    assert_eq!(pipeline.call("deployment list", &[]).stdout.lines().count(), 3);
    let outcome = pipeline.run_to_end(&[]);
    assert!(logged(&outcome.stderr, "configuration-deployed").is_empty(), "it is in force now");
}

#[test]
fn settings_alone_can_be_deployed_and_the_plugin_stays() {
    let log = small_log();
    let pipeline = small("deploy-settings");
    let at = START_MS + 30_000;
    let arguments = ["--set", "time.out_of_orderness=1s", "--at", &at.to_string()];
    pipeline.call("deployment create", &arguments).expect_code(0);
    pipeline.run_to_end(&[]).expect_code(0);
    let time = Time { out_of_orderness_ms: 1_000, ..Time::default() };
    let mut fold = Hostile::new(Mode::Mark);
    model::Fold::configure(&mut fold, "first");
    let deployments = [Deployment { t: at, mark: "first", time }];
    let want = model::run_deployed(fold, &log, Time::default(), &deployments).values();
    assert_same("settings", &from_ndjson(&pipeline.path("rows.ndjson")), &want);
}
