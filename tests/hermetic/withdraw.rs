//! Deployments that are withdrawn: by hand, by a strike, with kills in between. Afterwards the rows are those that the former logic alone
//! would have given, in the file, in the database, and in every replay.

use serde_json::{Value, json};

use crate::support::case::written;
use crate::support::generate::{START_MS, TestRecord, generate_hostile};
use crate::support::host::{Outcome, Pipeline, logged, plugin_file};
use crate::support::model::folds::{Hostile, Mode};
use crate::support::model::{self, Deployment, Time};
use crate::support::random::seed;
use crate::support::rows::{assert_same, from_ndjson, from_sqlite, upserted};
use crate::support::settings::Settings;

const SQLITE: &str = "[sink.sqlite]\npath = \"rows.db\"";

fn marked(mark: &str) -> String {
    json!({"mode": "mark", "mark": mark}).to_string()
}

fn first(more: &str) -> String {
    format!(
        "component = \"{}\"\nconfig = {{ mode = \"mark\", mark = \"first\" }}\nprobation = \"1h\"\n{more}",
        plugin_file("hostile")
    )
}

fn model_rows(log: &[TestRecord], deployments: &[Deployment]) -> Vec<Value> {
    let mut fold = Hostile::new(Mode::Mark);
    model::Fold::configure(&mut fold, "first");
    model::run_deployed(fold, log, Time::default(), deployments).values()
}

/// A log in which one row is written once and never again, and an instant in its middle that many records share.
fn log() -> (Vec<TestRecord>, i64) {
    let log = generate_hostile(6_000, 200, seed(20_261_124));
    let mut times: Vec<i64> = log.iter().map(|record| record.timestamp).collect();
    times.sort_unstable();
    let t = times.windows(4).find(|w| w[0] == w[3] && w[0] > times[3_000]).expect("half of the records share one")[0];
    (log, t)
}

fn pipeline(name: &str, log: &[TestRecord], sink: Option<&str>, more: &str, batch_records: usize) -> Pipeline {
    let settings = Settings { source: written(name, log), plugin: first(more), ..Settings::default() };
    let settings = Settings { checkpoint_interval: "20ms".to_owned(), ..settings.bounded(2, batch_records) };
    let sink = sink.map_or(settings.sink.clone(), str::to_owned);
    Pipeline::new(&Settings { sink, ..settings }.to_toml())
}

fn rows(pipeline: &Pipeline) -> Vec<Value> {
    from_ndjson(&pipeline.path("rows.ndjson"))
}

fn expect_taken_back(outcome: &Outcome) {
    outcome.expect_code(0);
    let lines = logged(&outcome.stderr, "state-restored");
    assert_eq!(lines.len(), 1, "{}", outcome.stderr);
}

/// The `v` of a record with one event.
fn v_of(record: &TestRecord) -> Option<i64> {
    serde_json::from_slice::<Value>(record.value.as_deref()?).ok()?.get("v")?.as_i64()
}

/// The `v` that comes last in the log for the first time.
fn latest(log: &[TestRecord]) -> i64 {
    let mut in_time: Vec<&TestRecord> = log.iter().collect();
    in_time.sort_by_key(|record| record.timestamp);
    let mut first = std::collections::BTreeMap::new();
    for (at, record) in in_time.iter().enumerate() {
        if let Some(v) = v_of(record) {
            first.entry(v).or_insert(at);
        }
    }
    first.into_iter().max_by_key(|(_, at)| *at).expect("most records have one event").0
}

#[test]
fn a_deployment_that_is_withdrawn_by_hand_never_was() {
    let (log, t) = log();
    for batch_records in [7, 1_000] {
        let pipeline = pipeline("withdrawn", &log, None, "", batch_records);
        let at = t.to_string();
        pipeline.call("deployment create", &["--plugin-config", &marked("second"), "--at", &at]).expect_code(0);
        pipeline.run_to_end(&[]).expect_code(0);
        let deployed = [Deployment { t, mark: "second", time: Time::default() }];
        assert_same("deployed", &rows(&pipeline), &model_rows(&log, &deployed));
        let withdrawn = pipeline.call("deployment withdraw", &["--reason", "a test"]);
        withdrawn.expect_code(0).expect_said(&["deployment 1 is withdrawn"]);
        pipeline.call("deployment withdraw", &["1"]).expect_code(0); // said twice, done once
        expect_taken_back(&pipeline.run_to_end(&[]));
        assert_same("withdrawn", &rows(&pipeline), &model_rows(&log, &[]));
        pipeline.call("deployment list", &[]).expect_code(0).expect_said(&[
            "1  withdrawn",
            "because a test",
            "0  confirmed",
        ]);
        pipeline.delete_checkpoints();
        pipeline.set_aside("rows.ndjson");
        pipeline.run_to_end(&[]).expect_code(0);
        assert_same("replay", &rows(&pipeline), &model_rows(&log, &[]));
    }
}

#[test]
fn what_is_ordered_after_a_withdrawal_holds_and_keeps_what_was_before() {
    let (log, t) = log();
    let pipeline = pipeline("withdrawn-then", &log, None, "", 500);
    let order = |mark: &str, at: i64| {
        pipeline.call("deployment create", &["--plugin-config", &marked(mark), "--at", &at.to_string()])
    };
    order("second", t - 1).expect_code(0);
    order("third", t).expect_code(0);
    pipeline.call("deployment withdraw", &["1"]).expect_code(2).expect_said(&[
        "deployment 1",
        "kept for good",
        "--like",
    ]);
    pipeline.call("deployment withdraw", &["0"]).expect_code(2).expect_said(&["deployment 0", "beginning of the log"]);
    pipeline.call("deployment withdraw", &["7"]).expect_code(2).expect_said(&["no deployment 7"]);
    pipeline.call("deployment withdraw", &[]).expect_code(0).expect_said(&["deployment 2 is withdrawn"]);
    order("fourth", t + 1).expect_code(0);
    pipeline.run_to_end(&[]).expect_code(0);
    let time = Time::default();
    let want = [Deployment { t: t - 1, mark: "second", time }, Deployment { t: t + 1, mark: "fourth", time }];
    assert_same("rows", &rows(&pipeline), &model_rows(&log, &want));
}

#[test]
fn a_strike_in_the_middle_of_a_millisecond_withdraws_the_deployment() {
    let (log, t) = log();
    let same: Vec<&TestRecord> = log.iter().filter(|record| record.timestamp == t).collect();
    let struck = same[same.len() / 2..].iter().find_map(|record| v_of(record)).expect("most records have one event");
    for (mode, at) in [("trap", "fold"), ("loop", "fold"), ("grow", "fold"), ("trap", "map"), ("malformed", "fold")] {
        let pipeline = pipeline("struck-withdrawn", &log, None, "on_strike = \"withdraw\"\nfuel = 3000000", 300);
        let config = json!({"mode": mode, "n": struck, "at": at}).to_string();
        let ordered = pipeline.call("deployment create", &["--plugin-config", &config, "--at", &t.to_string()]);
        ordered.expect_code(0);
        let outcome = pipeline.run_to_end(&[]);
        outcome.expect_code(0);
        let withdrawn = outcome.logged("deployment-withdrawn");
        assert!(withdrawn["reason"].as_str().is_some_and(|reason| reason.contains("struck on")), "{mode}: {withdrawn}");
        assert_same(mode, &rows(&pipeline), &model_rows(&log, &[]));
        assert!(logged(&outcome.stderr, "strike").is_empty());
        pipeline.delete_checkpoints();
        pipeline.set_aside("rows.ndjson");
        let replayed = pipeline.run_to_end(&[]);
        replayed.expect_code(0);
        assert!(logged(&replayed.stderr, "deployment-entered").is_empty(), "no replay meets it");
        assert_same("replay", &rows(&pipeline), &model_rows(&log, &[]));
    }
}

#[test]
fn a_strike_after_the_probation_is_a_dead_letter() {
    let (log, t) = log();
    let v = latest(&log);
    let pipeline = pipeline("struck-kept", &log, None, "on_strike = \"withdraw\"", 300);
    let config = json!({"mode": "trap", "n": v}).to_string();
    let arguments = ["--plugin-config", &config, "--at", &t.to_string(), "--set", "plugin.probation=1s"];
    pipeline.call("deployment create", &arguments).expect_code(0);
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0);
    assert!(!logged(&outcome.stderr, "strike").is_empty());
    pipeline
        .call("deployment withdraw", &[])
        .expect_code(2)
        .expect_said(&["deployment 1 is kept for good: its probation is over"]);
}

#[test]
fn a_kill_in_the_middle_of_a_withdrawal_changes_nothing() {
    let (log, t) = log();
    for moment in ["deployment-withdrawn", "state-restored", "folding"] {
        let pipeline = pipeline("killed-withdrawn", &log, Some(SQLITE), "on_strike = \"withdraw\"", 100);
        let config = json!({"mode": "trap", "n": latest(&log)}).to_string();
        pipeline.call("deployment create", &["--plugin-config", &config, "--at", &t.to_string()]).expect_code(0);
        let mut host = pipeline.spawn(&[]);
        host.wait_logged_times(moment, if moment == "folding" { 2 } else { 1 });
        host.kill();
        pipeline.run_to_end(&[]).expect_code(0);
        let want = upserted(&model_rows(&log, &[]), &["k", "n"]);
        assert_same(moment, &from_sqlite(&pipeline.path("rows.db"), "out", &[]), &want);
    }
}

/// Rows that the withdrawn logic replaced are put back, those that only it wrote are deleted.
#[test]
fn the_database_holds_what_the_former_logic_alone_would_have_written() {
    let (mut log, t) = log();
    // A row that the former logic writes once, before T, and the other one again after it.
    log[0].value = Some(json!({"key": "all", "time": 3, "v": 4711}).to_string().into_bytes());
    for listed in [false, true] {
        let more = if listed { "withdrawn_rows = \"list\"" } else { "" };
        let pipeline = pipeline("withdrawn-sqlite", &log, Some(SQLITE), more, 400);
        let other = json!({"mode": "shared-key"}).to_string();
        pipeline.call("deployment create", &["--plugin-config", &other, "--at", &t.to_string()]).expect_code(0);
        pipeline.run_to_end(&[]).expect_code(0);
        let table = || from_sqlite(&pipeline.path("rows.db"), "out", &[]);
        let replaced = table().iter().any(|row| row["k"] == "all" && row["n"] == 3 && row["items"] == json!([]));
        assert!(replaced, "the other logic wrote over a row of the former one");
        pipeline.call("deployment withdraw", &[]).expect_code(0);
        let outcome = pipeline.run_to_end(&[]);
        expect_taken_back(&outcome);
        let want = upserted(&model_rows(&log, &[]), &["k", "n"]);
        let only_its = |row: &Value| row["k"] == "all" && row["n"] != 3 && row["n"].as_i64().is_some_and(|n| n < 7);
        let left = table().into_iter().filter(|row| listed && only_its(row)).count();
        let got: Vec<Value> = table().into_iter().filter(|row| !(listed && only_its(row))).collect();
        assert_same("table", &got, &want);
        let lines = logged(&outcome.stderr, "withdrawn-row-left");
        assert_eq!(lines.len(), left, "each row that is left is listed");
        assert_eq!(left > 0, listed);
    }
}

#[test]
fn a_new_history_holds_from_the_beginning_of_the_log() {
    let (log, t) = log();
    let pipeline = pipeline("reprocessed", &log, None, "", 500);
    pipeline.call("deployment create", &["--plugin-config", &marked("second"), "--at", &t.to_string()]).expect_code(0);
    pipeline.run_to_end(&[]).expect_code(0);
    let anew = pipeline.call("deployment create", &["--plugin-config", &marked("third"), "--reprocess"]);
    anew.expect_code(0).expect_said(&["deployment 2 holds from the beginning of the log"]);
    pipeline.call("deployment withdraw", &[]).expect_code(2).expect_said(&["beginning of the log"]);
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0);
    let mut fold = Hostile::new(Mode::Mark);
    model::Fold::configure(&mut fold, "third");
    let want = model::run(fold, &log, Time::default()).values();
    assert_same("anew", &rows(&pipeline), &want);
    pipeline.call("deployment list", &[]).expect_code(0).expect_said(&[
        "2  confirmed",
        "1  superseded",
        "0  superseded",
    ]);
    assert!(START_MS < t);
    pipeline.delete_checkpoints();
    pipeline.set_aside("rows.ndjson");
    pipeline.run_to_end(&[]).expect_code(0);
    assert_same("replay", &rows(&pipeline), &want);
}

#[test]
fn an_object_of_the_journal_that_is_missing_or_replaced_is_refused_by_name() {
    let (log, t) = log();
    let pipeline = pipeline("sealed", &log, None, "", 1_000);
    pipeline.call("deployment create", &["--plugin-config", &marked("second"), "--at", &t.to_string()]).expect_code(0);
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline.call("deployment withdraw", &["--reason", "a test"]).expect_code(0);
    pipeline.run_to_end(&[]).expect_code(0);
    let want = rows(&pipeline);
    let of = |name: &str| pipeline.path(&format!("state/log/deployments/{:020}{name}.json", 1));
    for (name, lost) in [("", "is missing"), (".outcome", "is"), (".verdict", "is missing")] {
        let (file, bytes) = (of(name), std::fs::read(of(name)).expect("the journal has it"));
        std::fs::remove_file(&file).expect("the test's folder is writable");
        let refused = pipeline.run_to_end(&[]);
        refused.expect_code(5).expect_said(&[&format!("{name}.json {lost}"), "other rows would follow", "lane topic"]);
        std::fs::write(&file, bytes).expect("the test's folder is writable");
    }
    pipeline.delete_checkpoints();
    pipeline.set_aside("rows.ndjson");
    pipeline.run_to_end(&[]).expect_code(0);
    assert_same("put back", &rows(&pipeline), &want);
    std::fs::remove_dir_all(pipeline.path("state/log/lanes")).expect("the journal of the lane");
    pipeline.run_to_end(&[]).expect_code(5).expect_said(&["the journal (log/lanes/topic) is missing"]);
    std::fs::remove_dir_all(pipeline.path("state/lanes/topic/manifests")).expect("the checkpoint has manifests");
    pipeline.run_to_end(&[]).expect_code(5).expect_said(&["lanes/topic/manifests is missing", "keyfold reset"]);
}
