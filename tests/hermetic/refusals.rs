//! Plugins that must not get in, and plugins that misbehave once they are in: each refusal of `keyfold deployment create` before T leaves what runs and
//! the journal as they were; each kind of hostile behaviour after T costs the item that it is about, or halts its lane, as configured.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::input::{component_importing, core_module_importing};
use crate::support::generate::{START_MS, TestRecord, record_line, write_records};
use crate::support::host::{Outcome, Pipeline, logged, plugin_file};
use crate::support::model::folds::{Hostile, Mode};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson, from_sqlite, upserted};
use crate::support::settings::Settings;

const RECORDS: i64 = 200;
/// From here on the deployed logic folds.
const T: i64 = START_MS + 100_000;
/// The record after T that the hostile modes strike on; one before T has the same v.
const STRUCK: i64 = 150;

/// Records a second apart over ten keys; v = 13 comes once before T, and then at `STRUCK`.
fn log() -> Vec<TestRecord> {
    log_of(0, "k", Some(STRUCK))
}

/// The same of another partition and other keys, with nothing to strike on after T if so.
fn log_of(partition: u32, key: &str, struck: Option<i64>) -> Vec<TestRecord> {
    let record = |i: i64| {
        let v = if Some(i) == struck { 13 } else { i + 1_000 * i64::from(i != 13) };
        let value = json!({"key": format!("{key}{}", i % 10), "time": START_MS + i * 1000, "v": v});
        TestRecord {
            partition,
            offset: i.unsigned_abs(),
            timestamp: START_MS + i * 1000,
            key: None,
            value: Some(value.to_string().into_bytes()),
        }
    };
    (0..RECORDS).map(record).collect()
}

/// What the lawful plugin makes of it.
fn lawful_rows() -> Vec<Value> {
    model::run(Hostile::new(Mode::Ok), &log(), Time::default()).values()
}

fn settings(more: &str) -> Settings {
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"ok\" }}\n{more}", plugin_file("hostile"));
    Settings { plugin, ..Settings::default() }
}

/// A pipeline that has folded the log's first 60 records.
fn begun(settings: &Settings) -> Pipeline {
    let pipeline = Pipeline::new(&settings.to_toml());
    write_records(&pipeline.path("log.ndjson"), &log()[..60]);
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline
}

/// All files of the journal of deployments.
fn journal(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the journal is there") {
        let path = entry.expect("the journal can be read").path();
        // Each lane's own journal is compacted now and then.
        if path.is_dir() && !path.ends_with("lanes") {
            found.extend(journal(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Orders it in vain: a line says what is wrong, the exit code is of its kind, and the journal is as before.
fn refused(pipeline: &Pipeline, arguments: &[&str], code: i32, words: &[&str]) -> Outcome {
    let before = journal(&pipeline.path("state/log"));
    let outcome = pipeline.call("deployment create", arguments);
    outcome.expect_code(code).expect_said(words);
    assert!(!outcome.stdout.contains("holds from"), "{}", outcome.stdout);
    assert_eq!(journal(&pipeline.path("state/log")), before, "{arguments:?}");
    outcome
}

/// The rest of the log is appended; the former plugin folds it.
fn goes_on(pipeline: &Pipeline) {
    write_records(&pipeline.path("log.ndjson"), &log());
    pipeline.run_to_end(&[]).expect_code(0);
    let list = pipeline.call("deployment list", &[]);
    assert_eq!(list.expect_code(0).stdout.lines().count(), 1, "{}", list.stdout);
}

/// The hostile plugin built on another version of the contract.
fn of_version(version: &str) -> Vec<u8> {
    let mut bytes = std::fs::read(plugin_file("hostile")).expect("the build has left it there");
    let (from, to) = (b"keyfold:mapper/mapper@1.0.0", format!("keyfold:mapper/mapper@{version}"));
    let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "the exports carry the contract's version");
    for at in places {
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

#[test]
fn a_file_that_is_no_plugin_of_this_contract_is_refused_before_t() {
    let pipeline = begun(&settings(""));
    let refuse = |name: &str, bytes: &[u8], words: &[&str]| {
        pipeline.write(name, bytes);
        let path = pipeline.path(name).to_string_lossy().into_owned();
        refused(&pipeline, &[&path], 4, &[&["FAIL  plugin", name], words].concat());
    };
    let wasi = component_importing("wasi:cli/environment@0.2.0");
    refuse("wasi.wasm", &wasi, &["wasi:cli/environment@0.2.0", "must not import anything", "wasm32-unknown-unknown"]);
    let module = core_module_importing("wasi_snapshot_preview1", "fd_write");
    refuse("module.wasm", &module, &["wasi_snapshot_preview1.fd_write", "must not import anything"]);
    refuse("world.wasm", b"\0asm\x0d\0\x01\0", &["another world", "keyfold:mapper/mapper@1.0.0", "exports nothing"]);
    refuse("bare.wasm", b"\0asm\x01\0\0\0", &["component-type", "keyfold_sdk::plugin!"]);
    refuse("cut.wasm", &of_version("1.0.0")[..10_000], &["not valid WebAssembly"]);
    refuse("empty.wasm", b"", &["not WebAssembly"]);
    for version in ["2.0.0", "1.1.0"] {
        refuse(&format!("contract-{version}.wasm"), &of_version(version), &["FAIL  plugin"]);
    }
    goes_on(&pipeline);
    assert_same("the former plugin", &from_ndjson(&pipeline.path("rows.ndjson")), &lawful_rows());
}

#[test]
fn a_plugin_that_writes_another_table_than_the_operator_allows_is_refused_at_the_start_and_before_t() {
    let mine = settings("tables = [\"out\"]");
    let pipeline = begun(&mine);
    let visits = ["builtin:visits", "--plugin-config", r#"{"session_timeout": "50s", "session_id": "record"}"#];
    refused(&pipeline, &visits, 4, &["FAIL  plugin", "writes table sessions", "plugin.tables allows only out"]);
    goes_on(&pipeline);
    pipeline.configure(&settings("tables = []").to_toml());
    for command in ["run", "check"] {
        pipeline.call(command, &[]).expect_code(4).expect_said(&["writes table out", "plugin.tables allows only none"]);
    }
}

#[test]
fn what_does_not_fit_is_refused_before_t_by_its_path() {
    let pipeline = begun(&settings(""));
    let visits = |config: &str, words: &[&str]| {
        refused(&pipeline, &["builtin:visits", "--plugin-config", config], 4, words);
    };
    visits(
        r#"{"session_timeout": "fifty", "x": 1}"#,
        &["FAIL  plugin", "plugin.config.session_timeout", "fifty", "plugin.config.x is not a key"],
    );
    visits(
        r#"{"session_timeout": "9000h"}"#,
        &["FAIL  plugin", "refuses its configuration", "session_timeout", "9000h"],
    );
    refused(&pipeline, &["builtin:visitors"], 2, &["builtin:visits"]);
    refused(&pipeline, &["--plugin-config", "{"], 2, &["--plugin-config", "not valid JSON"]);
    refused(&pipeline, &["--set", "time.out_of_order=1s"], 2, &["time.out_of_order", "time.out_of_orderness"]);
    refused(&pipeline, &["--set", "time.out_of_orderness=soon"], 2, &["time.out_of_orderness", "soon"]);
    refused(&pipeline, &["--set", "plugin.fuel=0"], 2, &["plugin.fuel", "a whole number from 1"]);
    refused(&pipeline, &["--set", "plugin.fuel"], 2, &["KEY=VALUE"]);
    refused(&pipeline, &["--at", "tomorrow"], 2, &["--at", "RFC 3339"]);
    goes_on(&pipeline);
    assert_same("the former plugin", &from_ndjson(&pipeline.path("rows.ndjson")), &lawful_rows());
}

#[test]
fn an_instant_before_that_of_a_deployment_that_is_ordered_already_is_refused() {
    let pipeline = begun(&settings(""));
    let at = |t: i64| t.to_string();
    pipeline.call("deployment create", &["--plugin-config", r#"{"mode": "multi"}"#, "--at", &at(T)]).expect_code(0);
    refused(
        &pipeline,
        &["--plugin-config", r#"{"mode": "log"}"#, "--at", &at(T - 1)],
        2,
        &["--at", "the deployment before holds from", &at(T)],
    );
}

#[test]
fn columns_that_do_not_fit_the_table_are_refused_before_t_by_column_and_types() {
    let sink = "[sink.sqlite]\npath = \"rows.db\"".to_owned();
    let tables = [
        (
            "CREATE TABLE sessions (session_id INTEGER, user_id TEXT, pages TEXT, PRIMARY KEY (session_id, user_id))",
            ["user_id", "integer", "text"],
        ),
        (
            "CREATE TABLE sessions (session_id INTEGER, user_id INTEGER, PRIMARY KEY (session_id, user_id))",
            ["pages", "sessions", "column"],
        ),
        (
            "CREATE TABLE sessions (session_id INTEGER PRIMARY KEY, user_id INTEGER, pages TEXT)",
            ["primary key", "session_id", "user_id"],
        ),
    ];
    let pipeline = begun(&Settings { sink, ..settings("") });
    let config = r#"{"session_timeout": "50s", "session_id": "record"}"#;
    for (table, words) in tables {
        let database = rusqlite::Connection::open(pipeline.path("rows.db")).expect("the host has made it");
        database.execute_batch(&format!("DROP TABLE IF EXISTS sessions; {table}")).expect("a valid statement");
        drop(database);
        let outcome = refused(&pipeline, &["builtin:visits", "--plugin-config", config], 3, &words);
        outcome.expect_said(&["ok    plugin", "FAIL", "sessions"]);
    }
    goes_on(&pipeline);
    let got = from_sqlite(&pipeline.path("rows.db"), "out", &[]);
    assert_same("the former plugin", &got, &upserted(&lawful_rows(), &["k", "n"]));
}

#[test]
fn a_plugin_that_lets_its_batch_into_its_rows_or_state_is_refused_before_t() {
    let pipeline = begun(&settings(""));
    for mode in ["static-counter", "static-state", "std-hashmap"] {
        let config = json!({"mode": mode}).to_string();
        refused(&pipeline, &["--plugin-config", &config], 4, &["ok    plugin", "FAIL  law", "breaks the law", "by 1"]);
    }
    goes_on(&pipeline);
    assert_same("the former plugin", &from_ndjson(&pipeline.path("rows.ndjson")), &lawful_rows());
}

// ---- after T

/// A kind of hostile behaviour, and limits with which it is over soon.
struct Hostility {
    mode: &'static str,
    limits: &'static str,
    /// What the reason says.
    reason: &'static str,
    /// What trying it on recent records says.
    law: &'static str,
}

const TRIED: &str = "ok    law     200 records give the same rows";

const fn hostility(mode: &'static str, limits: &'static str, reason: &'static str) -> Hostility {
    Hostility { mode, limits, reason, law: TRIED }
}

/// A kind whose one item costs so much in each call that has it that a trial ends before all cuts are compared.
const fn costly(mode: &'static str, limits: &'static str, reason: &'static str) -> Hostility {
    Hostility {
        law: "warn  law     not fully tried: the plugin used more fuel than a trial may",
        ..hostility(mode, limits, reason)
    }
}

const HOSTILITIES: &[Hostility] = &[
    hostility("trap", "", "struck by 13"),
    hostility("loop", "fuel = 20000000", "plugin.fuel"),
    hostility("grow", "memory = \"16MiB\"", "plugin.memory"),
    hostility("malformed", "", "malformed result"),
    hostility("err", "", "erred on 13"),
    costly("rows", "fuel = 4000000000", "plugin.output_rows"),
    hostility("past-timer", "", "malformed result"),
    hostility("foreign-items", "", "malformed result"),
    hostility("stop-early", "", "malformed result"),
];

/// A pipeline that is to fold the log with the lawful mode up to T and with this one from T on. That some items of the recent records are
/// strikes is no reason to refuse it: they are the same strikes however the log is cut.
fn deployed(hostility: &Hostility, on_strike: &str) -> Pipeline {
    let Hostility { mode, limits, law, .. } = hostility;
    let pipeline = Pipeline::new(&settings(&format!("on_strike = \"{on_strike}\"\n{limits}")).to_toml());
    write_records(&pipeline.path("log.ndjson"), &log());
    let (config, at) = (json!({"mode": mode}).to_string(), T.to_string());
    let outcome = pipeline.call("deployment create", &["--plugin-config", &config, "--at", &at]);
    outcome.expect_code(0).expect_said(&[law, "deployment 1 holds from"]);
    pipeline
}

#[test]
fn after_t_each_hostile_behaviour_costs_its_own_item_alone() {
    for hostility in HOSTILITIES {
        let (mode, by_timer) = (hostility.mode, hostility.mode == "past-timer");
        let pipeline = deployed(hostility, "dead-letter");
        let mut want = lawful_rows();
        // What the firing is struck on emitted its row before.
        want.retain(|row| by_timer || row["n"] != json!(START_MS + STRUCK * 1000));
        let mut before = None;
        for _ in 0..2 {
            let outcome = pipeline.run_to_end(&[]);
            outcome.expect_code(0);
            assert_same(mode, &from_ndjson(&pipeline.path("rows.ndjson")), &want);
            let letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
            let [letter] = &letters[..] else { panic!("{mode}: one dead letter: {letters:?}") };
            if by_timer {
                assert_firing(letter)
            } else {
                assert_event(letter)
            }
            let digest = Sha256::digest(std::fs::read(plugin_file("hostile")).expect("the build has left it there"));
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(letter["plugin"], json!(digest), "{mode}");
            let reason = letter["reason"].as_str().unwrap_or_default();
            assert!(reason.contains(hostility.reason), "{mode}: {reason}");
            if before.is_none() {
                assert_warned(mode, &outcome, reason);
            } else {
                assert!(strikes(&outcome).is_empty(), "{mode}: the journal knows it");
            }
            assert_eq!(before.get_or_insert_with(|| letters.clone()), &letters, "{mode}: a replay gives the same");
            pipeline.delete_checkpoints();
            pipeline.set_aside("rows.ndjson");
            pipeline.set_aside("dead-letters.ndjson");
        }
    }
}

fn assert_event(letter: &Value) {
    let of = (&letter["stage"], &letter["partition"], &letter["offset"], &letter["event"]);
    assert_eq!(of, (&json!("fold"), &json!(0), &json!(STRUCK), &json!(0)), "{letter}");
    assert_eq!(letter["value"], record_line(&log()[150])["value"], "verbatim");
}

/// The firing of k0's timer, of ten seconds after the struck event, by the record that comes ten seconds after that.
fn assert_firing(letter: &Value) {
    let of = (&letter["stage"], &letter["partition"], &letter["offset"], &letter["key"]);
    assert_eq!(of, (&json!("timer"), &json!(0), &json!(STRUCK + 20), &json!("k0")), "{letter}");
    let state = letter["value"].as_str().unwrap_or_default();
    assert!(state.contains(&(START_MS + (STRUCK + 10) * 1000).to_string()), "{letter}");
}

fn strikes(outcome: &Outcome) -> Vec<Value> {
    logged(&outcome.stderr, "strike")
}

/// What is said to be struck, with the record at which it was.
fn struck_item(mode: &str) -> String {
    if mode == "past-timer" {
        let due = START_MS + (STRUCK + 10) * 1000;
        let at = jiff::Timestamp::from_millisecond(due).expect("a time of this century");
        format!("the timer for {at:.3} ({due}) of key \"k0\" at the record of partition 0, offset {}", STRUCK + 20)
    } else {
        format!("event 0 of key \"k0\" at the record of partition 0, offset {STRUCK}")
    }
}

fn assert_warned(mode: &str, outcome: &Outcome, reason: &str) {
    let warnings = strikes(outcome);
    let [warning] = &warnings[..] else { panic!("{mode}: one warning: {warnings:?}") };
    let of = (&warning["level"], &warning["plugin"], &warning["strikes"], &warning["key"], &warning["reason"]);
    assert_eq!(of, (&json!("WARN"), &json!("hostile"), &json!(1), &json!("k0"), &json!(reason)), "{mode}");
    let item = warning["item"].as_str().unwrap_or_default();
    assert_eq!(item, struck_item(mode), "{mode}");
}

#[test]
fn after_t_each_hostile_behaviour_halts_its_lane_where_strikes_are_to() {
    for hostility in HOSTILITIES {
        let pipeline = deployed(hostility, "halt");
        let item = struck_item(hostility.mode).replace('"', "\\\"");
        let words = [&format!("plugin hostile 0.1.0 struck on {item}: "), hostility.reason, "plugin.on_strike"];
        pipeline.run_to_end(&[]).expect_code(4).expect_said(&words);
        assert!(
            !pipeline.path("dead-letters.ndjson").exists()
                || from_ndjson(&pipeline.path("dead-letters.ndjson")).is_empty()
        );
        // As the message says.
        let Hostility { mode, limits, .. } = hostility;
        pipeline.configure(&settings(&format!("on_strike = \"dead-letter\"\n{limits}")).to_toml());
        pipeline.run_to_end(&[]).expect_code(0);
        let rows = from_ndjson(&pipeline.path("rows.ndjson")).len();
        assert_eq!(rows, lawful_rows().len() - usize::from(*mode != "past-timer"), "{mode}");
    }
}

/// Two lanes, one with the item that each kind of hostile behaviour strikes on.
#[test]
fn a_strike_is_no_matter_of_other_lanes() {
    let source = "[source.file]\npath = \"log.ndjson\"\nformat = \"records\"\nordering = \"partition\"".to_owned();
    let others = log_of(1, "j", None);
    for Hostility { mode, limits, reason, .. } in HOSTILITIES {
        let settings =
            Settings { source: source.clone(), ..settings(&format!("on_strike = \"dead-letter\"\n{limits}")) };
        let pipeline = Pipeline::new(&settings.to_toml());
        write_records(&pipeline.path("log.ndjson"), &[log(), others.clone()].concat());
        let (config, at) = (json!({"mode": mode}).to_string(), T.to_string());
        pipeline.call("deployment create", &["--plugin-config", &config, "--at", &at]).expect_code(0);
        let outcome = pipeline.run_to_end(&[]);
        outcome.expect_code(0).expect_said(&[reason]);
        assert_eq!(strikes(&outcome).len(), 1, "{mode}");
        let (rows, of_others): (Vec<Value>, Vec<Value>) = from_ndjson(&pipeline.path("rows.ndjson"))
            .into_iter()
            .partition(|row| row["k"].as_str().is_some_and(|key| key.starts_with('k')));
        assert_same(mode, &of_others, &model::run(Hostile::new(Mode::Ok), &others, Time::default()).values());
        assert_eq!(rows.len(), lawful_rows().len() - usize::from(*mode != "past-timer"), "{mode}");
    }
}
