//! The rows are a function of the log and the journal, not of how records were cut into batches, on how many threads they were folded,
//! how often the host died, or whether its checkpoint was deleted. Held against the naive model, rows in order.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use crate::support::case::{Case, Way, check, written};
use crate::support::generate::{generate, generate_hostile};
use crate::support::host::{Pipeline, number, plugin_file};
use crate::support::model::folds::{Hostile, Mode, SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::random::{Random, seed};
use crate::support::rows::{assert_same, from_ndjson, from_sqlite, pages, sorted, upserted};
use crate::support::settings::Settings;

const SMALL: usize = 20_000;
const LARGE: usize = 200_000;

fn sessions(events: usize, users: u64) -> Case {
    let log = generate(events, users, seed(20_241_002));
    let lane = model::run(Visits::new(SessionId::Record), &log, Time::default());
    assert!(lane.counts.late > 0 && lane.counts.future > 0 && lane.counts.rejected > 0, "{:?}", lane.counts);
    assert!(lane.rows.len() > events / 10 && !lane.fold.open.is_empty(), "sessions end, and some stay open");
    assert_pages_once(&lane);
    let settings = Settings { source: written(&format!("visits-{events}"), &log), ..Settings::default() };
    Case {
        settings,
        records: log.len(),
        rows: lane.values(),
        counts: lane.counts,
        until_end: false,
        deploys: Vec::new(),
    }
}

/// Each accepted event's page is in exactly one session, ended or open, exactly once. The pages of a generated log are all different.
fn assert_pages_once(lane: &model::Lane<Visits>) {
    let mut found = pages(&lane.values());
    found.extend(lane.fold.open.values().flat_map(|(_, pages)| pages.clone()));
    found.sort();
    let mut accepted: Vec<String> = lane.accepted.iter().filter(|page| page.starts_with('p')).cloned().collect();
    accepted.sort();
    found.retain(|page| page.starts_with('p'));
    assert_eq!(found, accepted);
    let different: BTreeSet<&String> = accepted.iter().collect();
    assert_eq!(different.len(), accepted.len(), "the generator repeats no page");
}

fn small() -> &'static Case {
    static CASE: OnceLock<Case> = OnceLock::new();
    CASE.get_or_init(|| sessions(SMALL, 500))
}

fn large() -> &'static Case {
    static CASE: OnceLock<Case> = OnceLock::new();
    CASE.get_or_init(|| sessions(LARGE, 5_000))
}

/// Workers by crashes, each with its checkpoint deleted afterwards; at least one crash came between rows and their checkpoint.
fn cross(case: &Case, batch_records: usize, whole_log_at_once: bool) {
    let mut random = Random::new(seed(u64::try_from(batch_records).expect("small")));
    let mut cut = 0;
    for workers in [1, 4] {
        for crashes in [false, true] {
            cut += check(case, Way { workers, batch_records, crashes, deletes: true }, &mut random);
        }
    }
    assert!(cut > 0 || whole_log_at_once, "no crash came after rows were written and before their checkpoint");
}

#[test]
fn rows_are_the_same_record_by_record() {
    cross(small(), 1, false);
}

#[test]
fn rows_are_the_same_cut_by_7() {
    cross(small(), 7, false);
}

#[test]
fn rows_are_the_same_cut_by_1000() {
    cross(small(), 1_000, false);
}

#[test]
fn rows_are_the_same_in_one_batch() {
    cross(small(), 50_000, true);
}

/// One variation on the large log.
fn vary(way: Way) {
    check(large(), way, &mut Random::new(seed(7)));
}

#[test]
fn a_large_log_gives_the_rows_of_the_model() {
    vary(Way::PLAIN);
}

#[test]
fn a_large_log_gives_the_same_rows_record_by_record() {
    vary(Way { batch_records: 1, ..Way::PLAIN });
}

#[test]
fn i5_a_large_log_gives_the_same_rows_cut_by_7() {
    vary(Way { batch_records: 7, ..Way::PLAIN });
}

#[test]
fn a_large_log_gives_the_same_rows_cut_by_1000() {
    vary(Way { batch_records: 1_000, ..Way::PLAIN });
}

#[test]
fn a_large_log_gives_the_same_rows_on_one_thread() {
    vary(Way { workers: 1, ..Way::PLAIN });
}

#[test]
fn a_large_log_gives_the_same_rows_on_four_threads() {
    vary(Way { workers: 4, ..Way::PLAIN });
}

#[test]
fn a_large_log_gives_the_same_rows_after_its_checkpoint_was_deleted() {
    vary(Way { deletes: true, ..Way::PLAIN });
}

#[test]
fn a_large_log_gives_the_same_rows_through_crashes() {
    let mut random = Random::new(seed(11));
    let attempts =
        (0..5).map(|_| check(large(), Way { batch_records: 1_000, crashes: true, ..Way::PLAIN }, &mut random));
    assert!(
        attempts.into_iter().any(|cut| cut > 0),
        "no crash came after rows were written and before their checkpoint"
    );
}

/// A case on the small log with other time settings.
fn small_with(time: Time, toml: &str) -> Case {
    let log = generate(SMALL, 500, 20_241_002);
    let lane = model::run(Visits::new(SessionId::Record), &log, time);
    let settings = Settings { time: toml.to_owned(), ..small().settings.clone() };
    Case {
        settings,
        records: log.len(),
        rows: lane.values(),
        counts: lane.counts,
        until_end: false,
        deploys: Vec::new(),
    }
}

/// Cut finely and coarsely, with crashes and without.
fn check_cuts(case: &Case) {
    let mut random = Random::new(seed(13));
    check(case, Way::PLAIN, &mut random);
    check(case, Way { batch_records: 7, workers: 4, deletes: true, ..Way::PLAIN }, &mut random);
    check(case, Way { batch_records: 100, crashes: true, ..Way::PLAIN }, &mut random);
}

#[test]
fn idle_gaps_advance_the_watermark_by_append_times_alone() {
    let case = small_with(Time { idle_timeout_ms: Some(100), ..Time::default() }, "idle_timeout = \"100ms\"");
    assert_ne!(case.rows, small().rows, "the log has gaps that count");
    check_cuts(&case);
}

#[test]
fn late_events_can_be_folded_and_give_the_same_rows_in_any_cut() {
    let case = small_with(Time { late: model::Late::Process, ..Time::default() }, "late = \"process\"");
    assert_ne!(case.rows, small().rows, "the log has late events that count");
    check_cuts(&case);
}

#[test]
fn other_time_settings_give_the_rows_of_the_model() {
    let time = Time { out_of_orderness_ms: 1_500, future_limit_ms: 500, ..Time::default() };
    check_cuts(&small_with(time, "out_of_orderness = \"1500ms\"\nfuture_limit = \"500ms\""));
}

#[test]
fn each_partition_can_be_a_lane_of_its_own() {
    let log = generate(SMALL, 500, 20_241_002);
    let lanes = model::run_by_partition(|| Visits::new(SessionId::Record), &log, Time::default());
    let want = sorted(lanes.values().flat_map(model::Lane::values).collect());
    for (workers, batch_records) in [(1, 50_000), (4, 7)] {
        let base = small().settings.clone().bounded(workers, batch_records);
        let pipeline =
            Pipeline::new(&Settings { source: format!("{}\nordering = \"partition\"", base.source), ..base }.to_toml());
        pipeline.run_to_end(&[]).expect_code(0);
        assert_same("partitions", &sorted(from_ndjson(&pipeline.path("rows.ndjson"))), &want);
    }
}

#[test]
fn there_may_be_more_lanes_than_instances() {
    let mut log = generate(SMALL, 500, 20_241_002);
    (0..).zip(&mut log).for_each(|(i, record)| (record.partition, record.offset) = (i % 100, u64::from(i / 100)));
    let lanes = model::run_by_partition(|| Visits::new(SessionId::Record), &log, Time::default());
    let want = sorted(lanes.values().flat_map(model::Lane::values).collect());
    let source = format!("{}\nordering = \"partition\"", written("visits-of-100-partitions", &log));
    let pipeline = Pipeline::new(&Settings { source, ..small().settings.clone() }.bounded(1, 20).to_toml());
    pipeline.run_to_end(&[]).expect_code(0);
    assert_same("partitions", &sorted(from_ndjson(&pipeline.path("rows.ndjson"))), &want);
}

/// With hardly any memory each key is evicted as soon as a checkpoint has it, and read again: also those whose timers come due.
#[test]
fn rows_and_state_are_the_same_with_hardly_any_memory() {
    let mut random = Random::new(seed(17));
    for (case, batch_records) in [(small(), 7), (small(), 40), (&hostile(Mode::State), 20)] {
        let bounded = |memory: &'static str| Settings {
            memory: Some(memory),
            checkpoint_interval: "5ms".to_owned(),
            ..case.settings.clone().bounded(3, batch_records)
        };
        let state = |memory: &'static str| {
            let pipeline = Pipeline::new(&bounded(memory).to_toml());
            let outcome = pipeline.run_to_end(&[]);
            outcome.expect_code(0);
            assert_same(memory, &from_ndjson(&pipeline.path("rows.ndjson")), &case.rows);
            let stopped = outcome.logged("lane-stopped");
            pipeline.call("state export", &["state.ndjson"]).expect_code(0);
            let exported = std::fs::read_to_string(pipeline.path("state.ndjson")).expect("it was written");
            (number(&stopped, "keys_read"), number(&stopped, "keys_evicted"), exported)
        };
        let (read, evicted, with_little) = state("1KiB");
        assert!(read > 0 && evicted > 0, "{read} keys were read, and {evicted} were evicted");
        let (read, evicted, with_enough) = state("512MiB");
        assert_eq!((read, evicted), (0, 0));
        assert_eq!(with_little, with_enough);
        let (rows, deploys) = (case.rows.clone(), Vec::new());
        let case = Case { settings: bounded("1KiB"), rows, deploys, ..*case };
        check(&case, Way { workers: 2, batch_records, crashes: true, deletes: false }, &mut random);
    }
}

#[test]
fn a_second_run_into_the_same_table_changes_no_row() {
    let sink = "[sink.sqlite]\npath = \"rows.db\"\nnow = [\"ingestion_time\"]".to_owned();
    let pipeline = Pipeline::new(&Settings { sink, ..small().settings.clone() }.to_toml());
    let want = upserted(&small().rows, &["session_id", "user_id"]);
    for _ in 0..2 {
        pipeline.run_to_end(&[]).expect_code(0);
        let got = from_sqlite(&pipeline.path("rows.db"), "sessions", &["ingestion_time"]);
        assert_same("sqlite", &got, &want);
        pipeline.call("reset", &[]).expect_code(0);
    }
}

#[test]
fn a_finished_run_that_is_started_again_adds_nothing() {
    let pipeline = Pipeline::new(&small().settings.to_toml());
    for _ in 0..2 {
        pipeline.run_to_end(&[]).expect_code(0);
        assert_same("again", &from_ndjson(&pipeline.path("rows.ndjson")), &small().rows);
    }
}

/// Late events go on as any others: they alone set timers that are due before the next event of their record.
fn hostile(mode: Mode) -> Case {
    let log = generate_hostile(SMALL, 300, seed(5));
    let lane = model::run(Hostile::new(mode), &log, Time { late: model::Late::Process, ..Time::default() });
    assert!(lane.rows.len() > 1_000, "the log makes rows");
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"{}\" }}", plugin_file("hostile"), mode.name());
    let source = written(&format!("hostile-{}", mode.name()), &log);
    Case {
        settings: Settings { source, plugin, time: "late = \"process\"".to_owned(), ..Settings::default() },
        records: log.len(),
        rows: lane.values(),
        counts: lane.counts,
        until_end: false,
        deploys: Vec::new(),
    }
}

fn cross_hostile(mode: Mode) {
    let case = hostile(mode);
    for batch_records in [1, 7, 1_000, 50_000] {
        cross(&case, batch_records, batch_records == 50_000);
    }
}

#[test]
fn rows_of_one_primary_key_from_several_keys_keep_their_order() {
    cross_hostile(Mode::SharedKey);
}

#[test]
fn value_and_list_state_that_is_reset_gives_the_same_rows_in_any_cut() {
    cross_hostile(Mode::State);
}

#[test]
fn timers_that_set_timers_give_the_same_rows_in_any_cut() {
    cross_hostile(Mode::Timers);
}

#[test]
fn timers_that_are_due_at_once_fire_before_the_next_event_of_their_key() {
    cross_hostile(Mode::TimerNow);
}

#[test]
fn the_last_row_of_a_primary_key_wins_in_a_table() {
    let case = hostile(Mode::SharedKey);
    let sink = "[sink.sqlite]\npath = \"rows.db\"".to_owned();
    let pipeline = Pipeline::new(&Settings { sink, ..case.settings.clone() }.to_toml());
    pipeline.run_to_end(&[]).expect_code(0);
    let got = from_sqlite(&pipeline.path("rows.db"), "out", &[]);
    assert_same("sqlite", &got, &upserted(&case.rows, &["k", "n"]));
}
