//! The plugins beside `visits`: their golden tests, gap sessions held against their definition, and what deduplication means in a replay.

use std::collections::{HashMap, HashSet};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::case::{Case, Way, check, written};
use crate::support::generate::{START_MS, TestRecord, generate_pages};
use crate::support::host::{KEYFOLD, PATIENCE, Pipeline, plugin_file};
use crate::support::model::gaps::{Accepted, instant};
use crate::support::model::{self, Time};
use crate::support::random::{Random, seed};
use crate::support::rows::{assert_same, from_sqlite, sorted};
use crate::support::settings::Settings;

/// Runs the golden tests of a plugin through the real command; each of its cases is as expected.
fn golden(plugin: &str, cases: &[&str]) -> String {
    let folder = format!("{}/plugins/{plugin}", env!("CARGO_MANIFEST_DIR"));
    let file = plugin_file(&plugin.replace('-', "_"));
    let mut command = Command::new(KEYFOLD);
    command.args(["plugin", "test", "--folder", &folder, "--plugin", &file]);
    let outcome = Pipeline::new("").start(command).wait(PATIENCE);
    outcome.expect_code(0);
    let passed: Vec<&str> =
        outcome.stdout.lines().filter_map(|line| line.strip_prefix("ok    ")?.split(':').next()).collect();
    assert_eq!(passed, cases, "{outcome:?}");
    outcome.stdout.clone()
}

#[test]
fn gap_sessions_are_as_their_golden_tests_say() {
    let told = golden("gap-sessions", &["bad-input", "in-order", "late", "late-processed", "out-of-order"]);
    let late = told.lines().find(|line| line.contains("  late: ")).expect("just seen");
    // What the rows do not show: bob's session is not over.
    assert!(late.ends_with("killed; 2 late, 1 timers open at the end"), "{late}");
}

#[test]
fn rate_alerts_are_as_their_golden_tests_say() {
    let cases = ["bad-input", "clears-and-begins-again", "in-order", "late", "one-for-each-excess", "out-of-order"];
    let _ = golden("rate-alert", &cases);
}

#[test]
fn firsts_are_as_their_golden_tests_say() {
    let _ = golden("dedup", &["bad-input", "comes-again", "first-in-the-log", "redelivered"]);
}

// ---- gap sessions against their definition

const EVENTS: usize = 200_000;
const GAP_MS: i64 = 10_000;

/// 200,000 events with the rows that the definition gives, and the proof that the log has in it what could go wrong.
fn sessions() -> &'static Case {
    static CASE: OnceLock<Case> = OnceLock::new();
    CASE.get_or_init(|| {
        let log = generate_pages(EVENTS, 5_000, seed(20_260_101));
        let lane = model::run(Accepted::default(), &log, Time::default());
        let rows = lane.fold.rows(GAP_MS, lane.watermark.expect("events were accepted"));
        let (joining, at_the_gap) = (lane.fold.joining(GAP_MS), lane.fold.at_the_gap(GAP_MS));
        let longest = rows.iter().filter_map(|row| row["events"].as_u64()).max();
        println!(
            "{} sessions, the longest {longest:?}, {joining} joins, {at_the_gap} at the gap, {:?}",
            rows.len(),
            lane.counts
        );
        assert!(rows.len() > EVENTS / 4 && longest > Some(500), "sessions are many, and some are long");
        assert!(joining > 500 && at_the_gap > 500, "sessions are joined, and events lie exactly a gap apart");
        assert!(lane.counts.late > 1_000 && lane.counts.rejected > 1_000, "events are late, and records are bad");
        let settings = Settings {
            source: written("gap-sessions", &log),
            time: "late = \"drop\"".to_owned(),
            plugin: format!("component = \"{}\"\nconfig = {{ gap = {GAP_MS} }}", plugin_file("gap_sessions")),
            ..Settings::default()
        };
        Case { settings, records: log.len(), rows, counts: lane.counts, until_end: false, deploys: Vec::new() }
    })
}

#[test]
fn gap_sessions_are_those_of_the_definition() {
    for (workers, batch_records) in [(2, 50_000), (1, 1_000), (4, 64)] {
        check(sessions(), Way { workers, batch_records, ..Way::PLAIN }, &mut Random::new(seed(1)));
    }
}

#[test]
fn gap_sessions_are_those_of_the_definition_after_crashes_and_without_checkpoints() {
    let way = Way { workers: 2, batch_records: 1_000, crashes: true, deletes: true };
    check(sessions(), way, &mut Random::new(seed(2)));
}

// ---- deduplication

const TTL_MS: i64 = 60_000;

/// A record's id is its own number, or that of one of the 1,000 before it: ids come again, soon and late, in either partition.
fn sent_again(records: usize) -> Vec<TestRecord> {
    let mut random = Random::new(seed(3));
    let (mut timestamp, mut next_offset) = (START_MS, [0, 0]);
    let record = |i: u64| {
        timestamp += random.between(0, 200);
        let partition = u32::from(random.chance(50));
        let next = &mut next_offset[usize::from(partition == 1)];
        *next += 1;
        let id = if random.chance(50) { i } else { i.saturating_sub(random.below(1_000)) };
        let value = Some(json!({"id": id}).to_string().into_bytes());
        TestRecord { partition, offset: *next - 1, timestamp, key: None, value }
    };
    (0..records as u64).map(record).collect()
}

/// The rows of the first records by the definition, as SQLite holds them.
fn firsts(log: &[TestRecord]) -> Vec<Value> {
    let mut in_order: Vec<&TestRecord> = log.iter().collect();
    in_order.sort_by_key(|record| (record.timestamp, record.partition, record.offset));
    let mut seen: HashMap<String, i64> = HashMap::new();
    let mut rows = Vec::new();
    for TestRecord { partition, offset, timestamp, value, .. } in in_order {
        let payload = String::from_utf8_lossy(value.as_deref().expect("each has one"));
        let id = payload.trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
        if seen.get(&id).is_none_or(|first| timestamp - first >= TTL_MS) {
            seen.insert(id.clone(), *timestamp);
            rows.push(json!({
                "table": "firsts", "id": id, "first_seen": instant(*timestamp), "partition": partition, "offset": offset,
                "payload": payload,
            }));
        }
    }
    sorted(rows)
}

/// The table has a row for each id and time to live, whatever was folded again into it.
#[test]
fn a_log_that_is_folded_again_adds_no_first_record() {
    let log = sent_again(20_000);
    let want = firsts(&log);
    assert!(want.len() < log.len() * 9 / 10, "records were sent again");
    let ids: HashSet<&str> = want.iter().filter_map(|row| row["id"].as_str()).collect();
    assert!(ids.len() + 100 < want.len(), "some of them after their time to live");
    let settings = Settings {
        source: written("dedup", &log),
        plugin: format!("component = \"{}\"\nconfig = {{ ttl = {TTL_MS} }}", plugin_file("dedup")),
        sink: "[sink.sqlite]\npath = \"rows.db\"".to_owned(),
        ..Settings::default()
    };
    let pipeline = Pipeline::new(&settings.clone().bounded(2, 1_000).to_toml());
    pipeline.run_to_end(&[]).expect_code(0);
    assert_same("once", &from_sqlite(&pipeline.path("rows.db"), "firsts", &[]), &want);
    pipeline.delete_checkpoints();
    pipeline.configure(&settings.bounded(4, 77).to_toml());
    pipeline.run_to_end(&[]).expect_code(0);
    assert_same("again", &from_sqlite(&pipeline.path("rows.db"), "firsts", &[]), &want);
}
