//! State that a deployed plugin migrates: on first touch, by timers, in the pass over all other keys, after crashes; and what is refused.

use serde_json::json;

use crate::support::case::{Case, Way, check, written};
use crate::support::generate::{START_MS, TestRecord, generate_hostile, write_records};
use crate::support::host::{Pipeline, logged, number, plugin_file};
use crate::support::model::folds::{Hostile, Mode, SECOND_VERSION};
use crate::support::model::{self, Deployment, Lane, Time};
use crate::support::random::{Random, seed};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;

fn first() -> String {
    format!("component = \"{}\"\nconfig = {{ mode = \"state\" }}", plugin_file("hostile"))
}

fn model_of(log: &[TestRecord], t: i64) -> Lane<Hostile> {
    let deployments = [Deployment { t, mark: SECOND_VERSION, time: Time::default() }];
    model::run_deployed(Hostile::new(Mode::State), log, Time::default(), &deployments)
}

fn second_at(t: i64) -> Vec<String> {
    vec![plugin_file("hostile2"), "--at".to_owned(), t.to_string()]
}

#[test]
fn all_state_is_migrated_at_its_instant_however_the_log_is_cut() {
    let log = generate_hostile(5_000, 300, seed(20_261_123));
    let mut times: Vec<i64> = log.iter().map(|record| record.timestamp).collect();
    times.sort_unstable();
    let t = times[2_500];
    let lane = model_of(&log, t);
    let migrated = |row: &&serde_json::Value| row["items"].as_array().is_some_and(|items| items.len() > 1);
    assert!(
        lane.values().iter().filter(migrated).any(|row| row["items"][0].as_str().is_some_and(|i| i.ends_with('\'')))
    );
    let settings = Settings { source: written("migrated", &log), plugin: first(), ..Settings::default() };
    let (rows, counts) = (lane.values(), lane.counts);
    let case = Case { settings, records: log.len(), rows, counts, until_end: false, deploys: vec![second_at(t)] };
    let mut random = Random::new(seed(8));
    check(&case, Way { workers: 1, batch_records: 1, crashes: false, deletes: false }, &mut random);
    let mut cut = 0;
    for batch_records in [7, 1_000] {
        check(&case, Way { workers: 1, batch_records, crashes: false, deletes: true }, &mut random);
        cut += check(&case, Way { workers: 4, batch_records, crashes: true, deletes: true }, &mut random);
    }
    assert!(cut > 0, "no crash came between rows and their checkpoint");
}

/// The second run begins with all keys in the store, and stops to load them when a few thousand are in memory.
#[test]
fn state_that_is_not_in_memory_is_migrated_too() {
    const KEYS: i64 = 20_000;
    let log = wide_log(KEYS, 5_000);
    let t = START_MS + 5_000;
    let settings = Settings { plugin: first(), memory: Some("200KiB"), ..Settings::default() };
    let pipeline = Pipeline::new(&settings.bounded(2, 500).to_toml());
    let file = pipeline.path("log.ndjson");
    write_records(&file, &log[..20_000]);
    pipeline.run_to_end(&[]).expect_code(0);
    let order = second_at(t);
    pipeline.call("deployment create", &order.iter().map(String::as_str).collect::<Vec<_>>()).expect_code(0);
    write_records(&file, &log);
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0);
    assert_same("bounded", &from_ndjson(&pipeline.path("rows.ndjson")), &model_of(&log, t).values());
    let stopped = outcome.logged("lane-stopped");
    let read = number(&stopped, "keys_read");
    assert!(read > 5_000, "most keys were migrated from the store: {stopped}");
}

/// One event each of many keys, then some more of a few of them.
fn wide_log(keys: i64, more: i64) -> Vec<TestRecord> {
    let event = |i: i64, key: i64, time: i64, v: i64| TestRecord {
        partition: 0,
        offset: i.unsigned_abs(),
        timestamp: time,
        key: None,
        value: Some(json!({"key": format!("key-{key}"), "time": time, "v": v}).to_string().into_bytes()),
    };
    let first = (0..keys).map(|i| event(i, i, START_MS + i / 100, 1 + 5 * i));
    let then = (0..more).map(|i| event(keys + i, i * 7919 % keys, START_MS + 5_000 + i, 4 + 5 * i));
    let last = event(keys + more, 0, START_MS + 3_600_000, 1);
    first.chain(then).chain([last]).collect()
}

#[test]
fn a_hundred_thousand_keys_are_migrated_and_kills_in_the_middle_change_no_row() {
    const KEYS: i64 = 100_000;
    let log = wide_log(KEYS, 20_000);
    let t = START_MS + 5_000;
    let want = model_of(&log, t).values();
    let settings = Settings { source: written("wide", &log), plugin: first(), ..Settings::default() };
    let settings = Settings { checkpoint_interval: "100ms".to_owned(), ..settings.bounded(2, 500) };
    let pipeline = Pipeline::new(&settings.to_toml());
    let order = second_at(t);
    pipeline.call("deployment create", &order.iter().map(String::as_str).collect::<Vec<_>>()).expect_code(0);
    let mut middle = 0;
    for event in ["deployment-entered", "folding", "folding"] {
        let mut host = pipeline.spawn(&[]);
        host.wait_logged(event);
        let killed = host.kill();
        middle += u32::from(logged(&killed.stderr, "state-migrated").is_empty());
    }
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0);
    assert_same("killed", &from_ndjson(&pipeline.path("rows.ndjson")), &want);
    assert!(middle > 0, "no kill came in the middle of the pass");
    pipeline.delete_checkpoints();
    pipeline.set_aside("rows.ndjson");
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0);
    let migrated: u64 = logged(&outcome.stderr, "state-migrated").iter().map(|line| number(line, "keys")).sum();
    assert!(migrated > 70_000, "most keys are touched by no record before the last: {migrated}");
    assert_same("replay", &from_ndjson(&pipeline.path("rows.ndjson")), &want);
}

#[test]
fn a_migration_that_fails_on_live_state_is_refused_and_one_that_takes_it_is_not() {
    let log = wide_log(300, 30);
    let settings = Settings { source: written("sampled", &log[..300]), plugin: first(), ..Settings::default() };
    let pipeline = Pipeline::new(&settings.to_toml());
    pipeline.run_to_end(&[]).expect_code(0);
    let second = plugin_file("hostile2");
    let fails = r#"{"mode": "state", "unmigratable": 501}"#;
    let refused = pipeline.call("deployment create", &[&second, "--plugin-config", fails]);
    refused.expect_code(4).expect_said(&[
        "FAIL  state",
        "from version 1 to 2",
        "key-100",
        "a sum of 501 is not migrated",
    ]);
    let too_large = pipeline.call("deployment create", &[&second, "--set", "plugin.state_bytes=10B"]);
    too_large.expect_code(4).expect_said(&["FAIL  state", "key-", "bytes, but plugin.state_bytes is 10"]);
    assert_eq!(pipeline.call("deployment list", &[]).stdout.lines().count(), 1, "it was not ordered");
    // One that takes its time with each key is not tried on all of them.
    let slow = r#"{"mode": "burn", "at": "migrate", "units": 50000000}"#;
    let slow = pipeline.call("deployment create", &["--dry-run", &second, "--plugin-config", slow]);
    slow.expect_code(0).expect_said(&["warn  state", "not fully tried", "used more fuel than a trial may"]);
    let taken = pipeline.call("deployment create", &[&second]);
    taken.expect_code(0).expect_said(&["ok    state", "version 1 to 2", "takes the state of 300 keys"]);
    let back = pipeline.call("deployment create", &[&plugin_file("hostile")]);
    back.expect_code(4).expect_said(&["FAIL  state", "has version 1", "has version 2, which it cannot read"]);
}

#[test]
fn a_state_that_cannot_be_migrated_is_a_strike_and_its_key_begins_anew() {
    let log = wide_log(300, 300);
    let settings = Settings { source: written("struck", &log), plugin: first(), ..Settings::default() };
    let pipeline = Pipeline::new(&settings.bounded(2, 50).to_toml());
    let t = (START_MS + 5_000).to_string();
    // Before the first run there is no state on which it could be found out.
    let fails = r#"{"mode": "state", "unmigratable": 501}"#;
    pipeline
        .call("deployment create", &[&plugin_file("hostile2"), "--plugin-config", fails, "--at", &t])
        .expect_code(0);
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0);
    let strike = outcome.logged("strike");
    assert_eq!(strike["key"], "key-100", "{strike}");
    let letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(
        (&letters[0]["partition"], &letters[0]["offset"]),
        (&json!(null), &json!(null)),
        "it is lost at no record"
    );
    let text = letters[0].to_string();
    assert!(text.contains("migrate") && text.contains("a sum of 501 is not migrated"), "{text}");
    let rows = from_ndjson(&pipeline.path("rows.ndjson"));
    let of_key: Vec<_> = rows.iter().filter(|row| row["k"] == "key-100").collect();
    let want = log
        .iter()
        .filter(|r| r.offset >= 300 && r.value.as_deref().is_some_and(|v| v.starts_with(b"{\"key\":\"key-100\"")));
    let items: Vec<String> = want
        .map(|r| serde_json::from_slice::<serde_json::Value>(r.value.as_deref().unwrap_or_default()).expect("JSON"))
        .map(|v| format!("{}'", v["v"]))
        .collect();
    assert_eq!(of_key.last().map(|row| row["items"].clone()), Some(json!(items)), "only what came after: {of_key:?}");
    pipeline.delete_checkpoints();
    pipeline.set_aside("rows.ndjson");
    pipeline.set_aside("dead-letters.ndjson");
    let again = pipeline.run_to_end(&[]);
    again.expect_code(0);
    assert_eq!(from_ndjson(&pipeline.path("dead-letters.ndjson")), letters, "a replay names it alike");
    assert_same("replay", &from_ndjson(&pipeline.path("rows.ndjson")), &rows);
}
