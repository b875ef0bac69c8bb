//! The contract from the host's side, on the built hostile plugin: the law, strikes and their causes, rejections, limits of one item, and
//! what a plugin is refused for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use keyfold::config::{DEFAULT_LIMITS, ImplausibleTime, Late, Limits, Time};
use keyfold::event_time::{AppendTime, EventTime};
use keyfold::failure::{Exit, Failure};
use keyfold::lane::core::Core;
use keyfold::lane::law;
use keyfold::plugin::{FoldInput, Instance, Plugin, engine};
use keyfold::position::{Offset, Partition, Resume};
use keyfold::record::{NO_TIME, RecordRef, Records};
use keyfold::row::{Cell, ColumnData, Part};
use keyfold::source::merge::Merge;
use keyfold::strike::{Stage, StrikeItem};
use serde_json::{Value, json};

use crate::support::generate::{TestRecord, generate, generate_hostile, write_records};
use crate::support::host::{Pipeline, plugin_file};
use crate::support::rows::from_ndjson;
use crate::support::settings::Settings;

const START_MS: i64 = 1_727_870_000_000;
/// Enough for every innocent item here, and soon burnt.
const LIMITS: Limits = Limits { fuel: 100_000_000, memory_bytes: 64 << 20, ..DEFAULT_LIMITS };
const CUTS: [usize; 3] = [1, 7, usize::MAX];
const WORKERS: [usize; 2] = [1, 4];

// ---- plugins

fn shared_engine() -> &'static wasmtime::Engine {
    static ENGINE: OnceLock<wasmtime::Engine> = OnceLock::new();
    ENGINE.get_or_init(|| engine(200, 256 << 20).expect("the machine has the address space"))
}

fn load(file: &str, config: &Value, limits: Limits) -> Result<Arc<Plugin>, Failure> {
    let bytes = std::fs::read(file).expect("the build has left it there");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    Plugin::load(shared_engine(), bytes, config, limits, Some(&cache)).map(Arc::new)
}

fn hostile(config: &Value, limits: Limits) -> Arc<Plugin> {
    load(env!("HOSTILE_WASM"), config, limits).expect("the plugin takes this configuration")
}

fn pool(workers: usize) -> Arc<rayon::ThreadPool> {
    Arc::new(rayon::ThreadPoolBuilder::new().num_threads(workers).build().expect("threads can be had"))
}

fn time() -> Time {
    Time {
        out_of_orderness_ms: 10_000,
        late: Late::Drop,
        future_limit_ms: 3_600_000,
        clock_skew_ms: 200,
        idle_timeout_ms: None,
        implausible: ImplausibleTime::DeadLetter,
    }
}

// ---- logs

fn event(key: &str, i: i64, v: i64) -> Value {
    json!({"key": key, "time": START_MS + i * 1000, "v": v})
}

/// A record, one second after the one before.
fn record(i: i64, payload: &Value) -> TestRecord {
    TestRecord {
        partition: u32::from(i % 2 == 1),
        offset: i.unsigned_abs(),
        timestamp: START_MS + i * 1000,
        key: None,
        value: Some(payload.to_string().into_bytes()),
    }
}

/// 60 records over 10 keys, a second apart, v counting up. The record of offset 13 has three events: of k3 with v = 130, of k3 with
/// v = 13, which is the struck one, and of k4 with v = 131.
fn small_log() -> Vec<TestRecord> {
    let payload = |i: i64| match i {
        13 => json!({"events": [event("k3", i, 130), event("k3", i, 13), event("k4", i, 131)]}),
        _ => event(&format!("k{}", i % 10), i, i),
    };
    (0..60).map(|i| record(i, &payload(i))).collect()
}

/// In lane order, with append times.
fn in_order(log: &[TestRecord]) -> Records {
    let partitions = [0, 1].map(|p| (Partition(p), Resume { envelope: None, last: None }));
    let mut merge = Merge::new(&partitions, 0, None, None, BTreeMap::new());
    for (partition, _) in partitions {
        let mut records = Records::default();
        for record in log.iter().filter(|r| r.partition == partition.0) {
            records.push(RecordRef {
                partition: partition.0,
                offset: record.offset,
                append_time: record.timestamp,
                key: record.key.as_deref(),
                payload: record.value.as_deref(),
                headers: None,
            });
        }
        merge.push(partition, records);
        merge.end(partition);
    }
    let mut out = Records::default();
    merge.release(usize::MAX, usize::MAX, &mut out);
    out
}

// ---- folding

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    cells: Vec<String>,
    from: (u32, u64, Option<u32>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Letter {
    stage: Stage,
    at: (u32, u64, Option<u32>),
    reason: String,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Folded {
    rows: Vec<Row>,
    letters: Vec<Letter>,
    /// What was struck, with the key and the reason.
    strikes: BTreeMap<StrikeItem, (Option<String>, String)>,
    /// Keys that have state at the end.
    keys: u64,
}

struct Way<'a> {
    workers: usize,
    cut: usize,
    time: Time,
    known: &'a BTreeMap<StrikeItem, String>,
}

fn fold(plugin: &Arc<Plugin>, records: &Records, way: &Way<'_>) -> Folded {
    let mut core = Core::new(Arc::clone(plugin), pool(way.workers), way.time);
    core.strikes.clone_from(way.known);
    let mut folded = Folded::default();
    let mut first = 0;
    while first < records.len() {
        let end = records.len().min(first.saturating_add(way.cut));
        let mut batch = Records::default();
        batch.append(records, first..end);
        let prepared = core.prepare(&batch).expect("no fault of the host");
        let output = core.fold(prepared).expect("no fault of the host");
        for &row in &output.rows.order {
            let cells = output.rows.cells(row).map(|cell| match cell {
                Cell::TextList(list) => format!("{:?}", list.iter().collect::<Vec<_>>()),
                other => format!("{other:?}"),
            });
            let from = (row.origin.partition.0, row.origin.offset.0, row.origin.event);
            folded.rows.push(Row { cells: cells.collect(), from });
        }
        for letter in output.letters {
            let record = letter.record.get(0);
            folded.letters.push(Letter {
                stage: letter.stage,
                at: (record.partition, record.offset, letter.event),
                reason: letter.reason,
                key: record.key.map(<[u8]>::to_vec),
                payload: record.payload.map(<[u8]>::to_vec),
            });
        }
        for strike in output.strikes {
            core.strikes.insert(strike.item.clone(), strike.reason.clone());
            let twice = folded.strikes.insert(strike.item, (strike.key, strike.reason));
            assert_eq!(twice, None, "an item is struck once");
        }
        first = end;
    }
    folded.keys = core
        .shards
        .iter_mut()
        .map(|shard| {
            shard.take_dirty(|_| ());
            shard.held().keys
        })
        .sum();
    folded
}

/// Folds by every cut and number of workers, which must make no difference.
#[track_caller]
fn fold_every_way(plugin: &Arc<Plugin>, records: &Records) -> Folded {
    let known = BTreeMap::new();
    let mut folded = None;
    for workers in WORKERS {
        for cut in CUTS {
            let other = fold(plugin, records, &Way { workers, cut, time: time(), known: &known });
            let first = folded.get_or_insert_with(|| other.clone());
            assert_eq!(&other, first, "{workers} workers, cut by {cut}");
        }
    }
    folded.expect("there are ways")
}

/// What the well-behaved plugin gives for these records.
fn innocent(records: &Records) -> Folded {
    fold(
        &hostile(&json!({}), LIMITS),
        records,
        &Way { workers: 1, cut: usize::MAX, time: time(), known: &BTreeMap::new() },
    )
}

const STRUCK: (u32, u64, Option<u32>) = (1, 13, Some(1));

/// The struck event of the small log, and nothing else, is a dead letter of `fold` for this reason.
#[track_caller]
fn assert_event_struck(config: &Value, limits: Limits, reason: &[&str]) {
    let records = in_order(&small_log());
    let folded = fold_every_way(&hostile(config, limits), &records);
    let mut want = innocent(&records).rows;
    want.retain(|row| row.from != STRUCK);
    assert_eq!(folded.rows, want, "all other rows as if it had not been there");
    let [letter] = &folded.letters[..] else { panic!("one dead letter: {:?}", folded.letters) };
    assert_eq!((letter.stage, letter.at), (Stage::Fold, STRUCK));
    assert_eq!(letter.payload, small_log()[13].value, "verbatim");
    assert_reason(&letter.reason, reason);
    let item = StrikeItem::Event { partition: Partition(1), offset: Offset(13), event: 1 };
    assert_eq!(folded.strikes, [(item, (Some("k3".to_owned()), letter.reason.clone()))].into());
    assert_eq!(folded.keys, 0, "the key's state is as before");
}

#[track_caller]
fn assert_reason(reason: &str, words: &[&str]) {
    for word in words {
        assert!(reason.contains(word), "{word:?} in {reason:?}");
    }
}

/// The record of the struck event, and nothing else, is a dead letter of `map` for this reason.
#[track_caller]
fn assert_record_struck(config: &Value, reason: &[&str]) {
    let log = small_log();
    let folded = fold_every_way(&hostile(config, LIMITS), &in_order(&log));
    let others: Vec<TestRecord> = log.iter().filter(|r| r.offset != 13).cloned().collect();
    assert_eq!(folded.rows, innocent(&in_order(&others)).rows, "as if it had not been there");
    let [letter] = &folded.letters[..] else { panic!("one dead letter: {:?}", folded.letters) };
    assert_eq!((letter.stage, letter.at), (Stage::Map, (1, 13, None)));
    assert_eq!(letter.payload, log[13].value, "verbatim");
    assert_reason(&letter.reason, reason);
    let item = StrikeItem::Record { partition: Partition(1), offset: Offset(13) };
    assert_eq!(folded.strikes, [(item, (None, letter.reason.clone()))].into());
}

/// The firing that the struck event asked for, and nothing else, is a dead letter for this reason, with the key's state. It is due at the
/// record of offset 33, whose watermark is the first to reach 13 s + 10 s.
#[track_caller]
fn assert_firing_lost(config: &Value, reason: &[&str]) -> Folded {
    let log = small_log();
    let plugin = hostile(config, LIMITS);
    let folded = fold_every_way(&plugin, &in_order(&log));
    assert_eq!(folded.rows, innocent(&in_order(&log)).rows, "all events gave their rows, the firing none");
    let [letter] = &folded.letters[..] else { panic!("one dead letter: {:?}", folded.letters) };
    assert_eq!((letter.stage, letter.at), (Stage::Timer, (1, 33, None)));
    assert_eq!(letter.key.as_deref(), Some(b"k3".as_slice()));
    let state: Value = serde_json::from_slice(letter.payload.as_deref().unwrap_or_default()).expect("JSON");
    let value = "AQAAAAAAAAANAAAAAAAAAA=="; // count 1, sum 13
    let want = json!({"timer": START_MS + 23_000, "value_base64": value, "list_base64": ["MTM="]});
    assert_eq!(state, want, "the state that was lost");
    assert_reason(&letter.reason, reason);
    assert_eq!(folded.keys, 0, "the key's state is gone with its timer");
    let before = fold_every_way(&plugin, &in_order(&log[..33]));
    assert_eq!((before.keys, before.letters.len()), (1, 0), "until then it was there");
    folded
}

#[track_caller]
fn assert_firing_struck(config: &Value, reason: &[&str]) {
    let folded = assert_firing_lost(config, reason);
    let item = StrikeItem::Timer { key: "k3".to_owned(), time: EventTime::at(START_MS + 23_000), overdue: None };
    assert_eq!(folded.strikes.keys().collect::<Vec<_>>(), [&item]);
}

// ---- strikes

#[test]
fn a_panic_strikes_its_item_alone_and_its_text_says_where() {
    let words = ["the plugin panicked", "struck by 13", "modes.rs:"];
    assert_event_struck(&json!({"mode": "trap"}), LIMITS, &words);
    assert_record_struck(&json!({"mode": "trap", "at": "map"}), &words);
    assert_firing_struck(&json!({"mode": "trap", "at": "timer"}), &words);
}

#[test]
fn a_loop_strikes_by_the_budget_of_instructions() {
    assert_event_struck(&json!({"mode": "loop"}), LIMITS, &["plugin.fuel"]);
    assert_record_struck(&json!({"mode": "loop", "at": "map"}), &["plugin.fuel"]);
    assert_firing_struck(&json!({"mode": "loop", "at": "timer"}), &["plugin.fuel"]);
}

#[test]
fn recursion_without_end_strikes_by_the_stack() {
    assert_event_struck(&json!({"mode": "recurse"}), LIMITS, &["overflowed its stack"]);
    assert_record_struck(&json!({"mode": "recurse", "at": "map"}), &["overflowed its stack"]);
    assert_firing_struck(&json!({"mode": "recurse", "at": "timer"}), &["overflowed its stack"]);
}

#[test]
fn growth_without_end_strikes_by_the_limit_of_memory() {
    assert_event_struck(&json!({"mode": "grow"}), LIMITS, &["plugin.memory"]);
    assert_record_struck(&json!({"mode": "grow", "at": "map"}), &["plugin.memory"]);
    assert_firing_struck(&json!({"mode": "grow", "at": "timer"}), &["plugin.memory"]);
}

#[test]
fn a_million_rows_strike_by_the_limit_of_rows() {
    assert_event_struck(&json!({"mode": "rows"}), DEFAULT_LIMITS, &["plugin.output_rows", "1000000"]);
}

#[test]
fn an_error_of_the_call_strikes_the_event_that_makes_it() {
    assert_event_struck(&json!({"mode": "err"}), LIMITS, &["erred on 13"]);
}

#[test]
fn results_that_do_not_fit_the_call_strike_the_event_that_makes_them() {
    assert_event_struck(&json!({"mode": "malformed"}), LIMITS, &["malformed result", "change-batch.timers"]);
    assert_event_struck(&json!({"mode": "foreign-items"}), LIMITS, &["malformed result", "row-batch.items", "out"]);
    assert_event_struck(&json!({"mode": "stop-early"}), LIMITS, &["malformed result", "no timer was due"]);
}

#[test]
fn a_timer_that_sets_itself_again_strikes_its_firing() {
    assert_firing_struck(&json!({"mode": "past-timer"}), &["not later than the one that fired"]);
}

#[test]
fn every_event_of_a_batch_can_be_struck() {
    let events: Vec<Value> = (0..100).map(|i| event(&format!("k{}", i % 3), i, 13)).collect();
    let log: Vec<TestRecord> = (0..).zip(&events).map(|(i, event)| record(i, event)).collect();
    let folded = fold_every_way(&hostile(&json!({"mode": "trap"}), LIMITS), &in_order(&log));
    assert_eq!((folded.rows.len(), folded.letters.len(), folded.strikes.len()), (0, 100, 100));
    let order: Vec<u64> = folded.letters.iter().map(|l| l.at.1).collect();
    assert!(order.is_sorted(), "dead letters in the lane's order: {order:?}");
}

#[test]
fn a_replay_leaves_out_what_was_struck_whatever_the_plugin_now_can() {
    let records = in_order(&small_log());
    for at in ["map", "fold", "timer"] {
        let config = json!({"mode": "burn", "at": at, "units": 1_000_000});
        let before = fold_every_way(&hostile(&config, Limits { fuel: 2_000_000, ..LIMITS }), &records);
        assert_eq!(before.strikes.len(), 1, "{at}");
        let able = hostile(&config, DEFAULT_LIMITS);
        assert_eq!(fold_every_way(&able, &records).letters, [], "{at}: with this budget nothing is struck");
        let known = before.strikes.iter().map(|(item, (_, reason))| (item.clone(), reason.clone())).collect();
        for (workers, cut) in [(1, usize::MAX), (4, 7), (1, 1)] {
            let again = fold(&able, &records, &Way { workers, cut, time: time(), known: &known });
            assert_eq!(again, Folded { strikes: BTreeMap::new(), ..before.clone() }, "{at}, cut by {cut}");
        }
    }
}

/// Firings of one key and time, of which one is struck, and an event that is struck between two firings: a replay leaves out these alone.
#[test]
fn a_replay_tells_firings_of_one_key_and_time_apart() {
    let records = in_order(&small_log());
    for (at, stage, place) in [("timer", Stage::Timer, (1, 13, None)), ("fold", Stage::Fold, STRUCK)] {
        let config = |n: i64| json!({"mode": "timer-zero", "at": at, "n": n});
        let before = fold_every_way(&hostile(&config(13), LIMITS), &records);
        let [letter] = &before.letters[..] else { panic!("one dead letter: {:?}", before.letters) };
        assert_eq!((letter.stage, letter.at, before.strikes.len(), before.rows.len()), (stage, place, 1, 61), "{at}");
        let able = hostile(&config(-1), LIMITS);
        assert_eq!(fold_every_way(&able, &records).rows.len(), 62, "{at}: without a strike");
        let known = before.strikes.iter().map(|(item, (_, reason))| (item.clone(), reason.clone())).collect();
        for (workers, cut) in [(1, usize::MAX), (4, 7), (1, 1)] {
            let again = fold(&able, &records, &Way { workers, cut, time: time(), known: &known });
            assert_eq!(again, Folded { strikes: BTreeMap::new(), ..before.clone() }, "{at}, cut by {cut}");
        }
    }
}

// ---- rejections

#[test]
fn a_rejected_event_is_a_dead_letter_and_leaves_no_trace() {
    let records = in_order(&small_log());
    let folded = fold_every_way(&hostile(&json!({"mode": "reject"}), LIMITS), &records);
    let mut want = innocent(&records).rows;
    want.retain(|row| row.from != STRUCK);
    assert_eq!(folded.rows, want);
    let [letter] = &folded.letters[..] else { panic!("one dead letter: {:?}", folded.letters) };
    assert_eq!((letter.stage, letter.at, &*letter.reason), (Stage::Fold, STRUCK, "rejected 13"));
    assert_eq!(letter.payload, small_log()[13].value);
    assert_eq!((folded.strikes.len(), folded.keys), (0, 0), "no strike, no state, no timer");
}

#[test]
fn a_rejected_record_is_a_dead_letter_as_a_whole() {
    let log = small_log();
    let folded = fold_every_way(&hostile(&json!({"mode": "reject-map"}), LIMITS), &in_order(&log));
    let others: Vec<TestRecord> = log.iter().filter(|r| r.offset != 13).cloned().collect();
    assert_eq!(folded.rows, innocent(&in_order(&others)).rows);
    let [letter] = &folded.letters[..] else { panic!("one dead letter: {:?}", folded.letters) };
    assert_eq!((letter.stage, letter.at, &*letter.reason), (Stage::Map, (1, 13, None), "rejected 13"));
    assert_eq!(folded.strikes.len(), 0);
}

#[test]
fn a_rejected_firing_is_a_dead_letter_with_the_state_that_goes_with_it() {
    let folded = assert_firing_lost(&json!({"mode": "reject-timer"}), &["rejected timer"]);
    assert_eq!(folded.strikes.len(), 0);
}

// ---- the law

/// Whether the event that burns is folded, being the only one of its batch, after an ordinary one.
fn burns_alone(fuel: u64) -> bool {
    let log = [record(0, &event("a", 0, 1)), record(1, &event("k3", 1, 13))];
    let plugin = hostile(&json!({"mode": "burn", "units": 300_000}), Limits { fuel, ..LIMITS });
    let known = BTreeMap::new();
    let folded = fold(&plugin, &in_order(&log), &Way { workers: 1, cut: 1, time: time(), known: &known });
    assert_eq!(folded.rows.len() + folded.strikes.len(), 2);
    folded.strikes.is_empty()
}

/// The least budget with which it is.
fn least_fuel() -> u64 {
    let (mut short, mut enough) = (500_000, 100_000_000);
    assert!(!burns_alone(short) && burns_alone(enough));
    while enough - short > 1 {
        let middle = short.midpoint(enough);
        if burns_alone(middle) { enough = middle } else { short = middle }
    }
    enough
}

#[test]
fn an_event_that_needs_its_whole_budget_passes_among_10_000_and_with_one_instruction_less_is_struck_alone() {
    let log: Vec<TestRecord> = (0..10_000)
        .map(|i| match i {
            6_789 => record(i, &event("k3", i, 13)),
            _ => record(i, &event(&format!("k{}", i % 10), i, 1000 + i)),
        })
        .collect();
    let (records, known, fuel) = (in_order(&log), BTreeMap::new(), least_fuel());
    let want = innocent(&records).rows;
    assert_eq!(want.len(), 10_000);
    let plugin = |fuel| hostile(&json!({"mode": "burn", "units": 300_000}), Limits { fuel, ..LIMITS });
    for (workers, cut) in [(1, usize::MAX), (4, usize::MAX), (4, 700)] {
        let way = Way { workers, cut, time: time(), known: &known };
        let enough = fold(&plugin(fuel), &records, &way);
        assert_eq!(enough.strikes, BTreeMap::new(), "a budget of {fuel}, {workers} workers, cut by {cut}");
        assert!(enough.rows == want, "all rows");
        let short = fold(&plugin(fuel - 1), &records, &way);
        let item = StrikeItem::Event { partition: Partition(1), offset: Offset(6_789), event: 0 };
        assert_eq!(short.strikes.keys().collect::<Vec<_>>(), [&item]);
        assert_eq!(short.letters.len(), 1);
        assert!(short.rows.iter().eq(want.iter().filter(|row| row.from.1 != 6_789)), "all other rows");
    }
}

/// Folds these events of one key under each of these limits: which of them are struck may not depend on the cut. Returns how many are.
fn struck_however_cut(config: &Value, values: &[i64], limits: impl Iterator<Item = Limits>) -> Vec<usize> {
    let log: Vec<TestRecord> = (0..).zip(values).map(|(i, &v)| record(i, &event("k", i, v))).collect();
    let (records, known) = (in_order(&log), BTreeMap::new());
    limits
        .map(|limits| {
            let plugin = hostile(config, limits);
            let of_cut = |cut| fold(&plugin, &records, &Way { workers: 1, cut, time: time(), known: &known });
            let alone = of_cut(1);
            for cut in [2, 3, usize::MAX] {
                assert_eq!(of_cut(cut), alone, "cut by {cut}, {limits:?}");
            }
            alone.strikes.len()
        })
        .collect()
}

/// What an event puts and the next one of its key clears is in no result of a call that has both.
#[test]
fn i7_whether_an_event_exceeds_the_limits_of_output_and_state_does_not_depend_on_its_batch() {
    let (config, values) = (json!({"mode": "state"}), [1_000_000_000_000_001, 5, 2, 1_000_000_003, 10]);
    let by_output = (8..80).map(|output_bytes| Limits { output_bytes, ..LIMITS });
    let struck = struck_however_cut(&config, &values, by_output);
    assert_eq!((struck.first(), struck.last()), (Some(&5), Some(&0)), "{struck:?}");
    let by_state = (8..80).map(|state_bytes| Limits { state_bytes, ..LIMITS });
    let struck = struck_however_cut(&config, &values, by_state);
    assert_eq!((struck.first(), struck.last()), (Some(&3), Some(&0)), "{struck:?}");
}

/// The same with states of the size of a plugin's memory, so that some calls are shared and some are not.
#[test]
fn i7_whether_a_state_is_too_large_does_not_depend_on_its_batch() {
    let by_state = (1_000 << 10..12_000 << 10).step_by(500 << 10).map(|state_bytes| Limits { state_bytes, ..LIMITS });
    let values = [1, 2, 13, 3, 4, 5, 13, 6, 7, 8, 9, 13, 10];
    let struck = struck_however_cut(&json!({"mode": "swell", "units": 1_000}), &values, by_state);
    assert_eq!((struck.first(), struck.last()), (Some(&10), Some(&0)), "{struck:?}");
    assert!(struck.is_sorted_by(|more, less| more >= less), "{struck:?}");
}

#[test]
fn i7_whether_an_item_exceeds_the_memory_does_not_depend_on_its_batch() {
    let log: Vec<TestRecord> = (0..8).map(|i| record(i, &event(&format!("k{i}"), i, i))).collect();
    let (records, known) = (in_order(&log), BTreeMap::new());
    let mut struck = Vec::new();
    for memory_bytes in (1_280 << 10..8_192 << 10).step_by(256 << 10) {
        // Memory decides, not fuel.
        let limits = Limits { memory_bytes, fuel: 10_000_000_000, ..LIMITS };
        let plugin = hostile(&json!({"mode": "hold", "units": 1_000}), limits);
        let of_cut = |cut| fold(&plugin, &records, &Way { workers: 1, cut, time: time(), known: &known });
        let alone = of_cut(1);
        for cut in [3, usize::MAX] {
            assert_eq!(of_cut(cut), alone, "cut by {cut}, limit of {memory_bytes} bytes");
        }
        struck.push(alone.strikes.len());
    }
    assert_eq!((struck.first(), struck.last()), (Some(&8), Some(&0)), "{struck:?}");
}

#[test]
fn a_plugin_whose_rows_depend_on_the_cut_is_found() {
    let records = in_order(&generate_hostile(300, 10, 1));
    for mode in ["std-hashmap", "static-counter", "static-state"] {
        let plugin = hostile(&json!({"mode": mode}), LIMITS);
        let found = law::check(&plugin, time(), &records).expect("no fault of the host");
        let violation = found.unwrap_or_else(|| panic!("{mode} breaks the law"));
        assert_eq!(violation.cut, "by 1");
        assert_reason(&violation.to_string(), &["breaks the law", "by 1", "HashMap"]);
    }
}

#[test]
fn a_plugin_that_breaks_the_law_after_thousands_of_items_is_found() {
    let records = in_order(&generate_hostile(300, 10, 1));
    let tired = hostile(&json!({"mode": "tire", "units": 12_000}), LIMITS);
    assert_eq!(law::check(&tired, time(), &records).expect("no fault of the host"), None);
    let (found, met) = law::check_long(&tired, time(), &records).expect("no fault of the host");
    assert!(found.is_some_and(|violation| violation.whole.contains("-1")), "{met} records");
    for mode in ["state", "timers"] {
        let (found, met) =
            law::check_long(&hostile(&json!({"mode": mode}), LIMITS), time(), &records).expect("no fault");
        assert_eq!(found, None, "{mode}, {met} records");
    }
}

#[test]
fn no_fault_is_found_with_a_plugin_that_keeps_the_law() {
    let records = in_order(&generate_hostile(1500, 20, 2));
    for late in [Late::Process, Late::DeadLetter] {
        for mode in ["ok", "multi", "state", "timers", "shared-key", "timer-now", "reject", "reject-timer", "trap"] {
            let plugin = hostile(&json!({"mode": mode}), LIMITS);
            let found = law::check(&plugin, Time { late, ..time() }, &records);
            assert_eq!(found.expect("no fault of the host"), None, "{mode}");
        }
    }
    let config = json!({"session_timeout": "50s", "session_id": "record"});
    let visits = load(env!("VISITS_WASM"), &config, LIMITS).expect("the plugin takes this configuration");
    let records = in_order(&generate(1500, 20, 3));
    assert_eq!(law::check(&visits, time(), &records).expect("no fault of the host"), None);
}

/// Each of its items is lawful by itself.
#[test]
fn a_trial_ends_before_its_outputs_fill_the_memory_of_the_host() {
    let limits = Limits { output_rows: 10_000_000, output_bytes: 1 << 30, memory_bytes: 256 << 20, ..DEFAULT_LIMITS };
    let plugin = hostile(&json!({"mode": "rows"}), limits);
    let log: Vec<TestRecord> = (0..12).map(|i| record(i, &event(&format!("k{i}"), i, 13))).collect();
    let fault = law::check(&plugin, time(), &in_order(&log)).expect_err("it is ended");
    assert_reason(&fault.text(), &["returned more bytes than a trial may"]);
}

#[test]
fn a_file_that_would_cost_the_compiler_too_much_is_not_compiled() {
    let refused = Plugin::load(shared_engine(), vec![0; (64 << 20) + 1], &json!({}), LIMITS, None).map(drop);
    let failure = refused.expect_err("it is refused");
    assert_reason(&failure.message, &["67108865 bytes", "at most 67108864"]);
}

// ---- limits belong to one item

#[test]
fn i7_limits_are_of_one_item_and_not_of_a_call() {
    let records = in_order(&small_log());
    let want = innocent(&records);
    for limits in [Limits { output_rows: 3, ..LIMITS }, Limits { output_bytes: 64, ..LIMITS }] {
        assert_eq!(fold_every_way(&hostile(&json!({}), limits), &records), want, "{limits:?}");
    }
    let one_less = Limits { output_rows: 2, ..LIMITS };
    assert_record_struck_by(&hostile(&json!({}), one_less), "plugin.output_rows");
    let fewer = Limits { output_bytes: 29, ..LIMITS };
    assert_record_struck_by(&hostile(&json!({}), fewer), "plugin.output_bytes");
}

/// The three events of the record of offset 13 (10 bytes of key and value each) are too much for one record.
#[track_caller]
fn assert_record_struck_by(plugin: &Arc<Plugin>, limit: &str) {
    let folded = fold_every_way(plugin, &in_order(&small_log()));
    let [letter] = &folded.letters[..] else { panic!("one dead letter: {:?}", folded.letters) };
    assert_eq!((letter.stage, letter.at), (Stage::Map, (1, 13, None)));
    assert_reason(&letter.reason, &[limit]);
}

#[test]
fn a_batch_may_be_larger_than_the_memory_of_a_plugin() {
    let padding = "x".repeat(200_000);
    let padded = |i: i64| {
        let mut payload = event(&format!("k{}", i % 10), i, i);
        payload["padding"] = json!(padding);
        record(i, &payload)
    };
    let records = in_order(&(0..100).map(padded).collect::<Vec<_>>());
    let folded = fold_every_way(&hostile(&json!({}), Limits { memory_bytes: 6 << 20, ..LIMITS }), &records);
    assert_eq!((folded.rows.len(), folded.letters.len()), (100, 0));
}

// ---- loading

fn one_event(v: i64) -> FoldInput {
    let mut input = FoldInput::default();
    input.keys.push(b"k");
    input.value_present.push(0);
    input.values.push(b"");
    input.timers.push(NO_TIME);
    input.event_ends.push(1);
    input.event_values.push(&v.to_le_bytes());
    input.event_times.push(START_MS);
    input.watermarks.push(NO_TIME);
    input.append_times.push(START_MS);
    input.partitions.push(0);
    input.offsets.push(0);
    input.indexes.push(0);
    input
}

#[test]
fn i1_instances_share_nothing() {
    let plugin = hostile(&json!({"mode": "static-counter"}), LIMITS);
    let mut first = Instance::new(&plugin).expect("a place in the pool");
    let mut second = Instance::new(&plugin).expect("a place in the pool");
    let counted = |instance: &mut Instance<'_>| {
        let changes = instance.fold(&one_event(7)).expect("the plugin folds it");
        let [(Part { columns, .. }, items)] = &changes.rows[..] else { panic!("rows of one table") };
        assert_eq!(items, &[0]);
        let ColumnData::Integers(v) = &columns[2].data else { panic!("v is an integer") };
        v[0]
    };
    let seen =
        [counted(&mut first), counted(&mut first), counted(&mut second), counted(&mut first), counted(&mut second)];
    assert_eq!(seen, [1, 2, 1, 3, 2]);
}

#[test]
fn a_configuration_is_refused_by_its_schema_or_else_in_the_plugins_words() {
    let refused = |config: Value| match load(env!("HOSTILE_WASM"), &config, LIMITS) {
        Err(Failure { exit: Exit::Plugin, message, .. }) => message,
        Err(other) => panic!("not the plugin's fault: {other:?}"),
        Ok(_) => panic!("{config} was taken"),
    };
    assert_reason(
        &refused(json!({"mode": "kind"})),
        &["refuses its configuration", "configuration of hostile", "kind"],
    );
    assert_reason(&refused(json!({"mood": "ok"})), &["mood", "mode"]);
    assert_reason(&refused(json!("ok")), &["does not fit its schema", "plugin.config: expected an object", "\"ok\""]);
}

#[test]
fn a_budget_that_does_not_last_to_configure_is_a_refusal() {
    let refused = load(env!("HOSTILE_WASM"), &json!({}), Limits { fuel: 100, ..LIMITS });
    let failure = refused.err().expect("a budget of 100 instructions is too small");
    assert_eq!(failure.exit, Exit::Plugin);
    assert_reason(&failure.message, &["plugin.fuel"]);
}

#[test]
fn a_description_says_what_the_plugin_is() {
    let plugin = hostile(&json!({}), LIMITS);
    let description = &plugin.description;
    assert_eq!((&*description.name, description.state_version), ("hostile", 1));
    let columns: Vec<_> =
        description.tables[0].columns.iter().map(|c| (&*c.name, c.kind.name(), c.primary_key)).collect();
    let want = [("k", "text", true), ("n", "integer", true), ("v", "integer", false), ("items", "text-list", false)];
    assert_eq!(columns, want);
}

#[test]
fn a_compiled_plugin_is_kept_and_made_anew_when_its_file_is_damaged() {
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    let load = || {
        let bytes = std::fs::read(env!("HOSTILE_WASM")).expect("the build has left it there");
        let plugin = Plugin::load(shared_engine(), bytes, &json!({}), LIMITS, Some(folder.path())).map(Arc::new);
        let folded = innocent_with(&plugin.expect("the plugin loads"));
        assert_eq!(folded.rows.len(), 62);
    };
    load();
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).expect("readable").map(|f| f.expect("readable").path()).collect();
    let [file] = &files[..] else { panic!("one file: {files:?}") };
    let (good, modified) =
        (std::fs::read(file).expect("readable"), std::fs::metadata(file).and_then(|m| m.modified()).ok());
    load();
    assert_eq!(std::fs::metadata(file).and_then(|m| m.modified()).ok(), modified, "it was not written again");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 0xff;
    for damaged in [&flipped[..], &good[..good.len() / 2], &good[..10], b"", b"garbage".as_slice()] {
        std::fs::write(file, damaged).expect("writable");
        load();
        let now = std::fs::read(file).expect("readable");
        assert!(now != damaged && now.len() == good.len(), "it was made anew");
    }
}

/// A file that lies under the name of another plugin, as somebody may have put it there.
#[test]
fn a_compiled_plugin_is_taken_only_under_its_own_name() {
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    let load = |file: &str| {
        let bytes = std::fs::read(file).expect("the build has left it there");
        Plugin::load(shared_engine(), bytes, &json!({}), LIMITS, Some(folder.path())).expect("the plugin loads")
    };
    let (hostile, visits) = (load(env!("HOSTILE_WASM")), load(env!("VISITS_WASM")));
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).expect("readable").map(|f| f.expect("readable").path()).collect();
    let of = |plugin: &Plugin| {
        let found = files.iter().find(|file| file.to_string_lossy().contains(&plugin.digest.0));
        found.expect("it is cached")
    };
    std::fs::copy(of(&hostile), of(&visits)).expect("writable");
    assert_eq!(load(env!("VISITS_WASM")).description.name, visits.description.name);
}

fn innocent_with(plugin: &Arc<Plugin>) -> Folded {
    let known = BTreeMap::new();
    fold(plugin, &in_order(&small_log()), &Way { workers: 1, cut: usize::MAX, time: time(), known: &known })
}

// ---- names of dead letters

/// Folds records `0..cuts[0]`, then as many as the next cut says, and so on. Where `idle` names an append time, the lane's time advances to it
/// before that batch, as a live lane's does when its partitions are found empty.
fn letters_of(
    plugin: &Arc<Plugin>,
    time: Time,
    records: &Records,
    cuts: &[(usize, Option<i64>)],
) -> Vec<(Stage, u32, u64, i64)> {
    let mut core = Core::new(Arc::clone(plugin), pool(1), time);
    let (mut letters, mut first) = (Vec::new(), 0);
    let mut keep = |output: keyfold::lane::core::Output| {
        letters.extend(output.letters.iter().map(|letter| {
            let record = letter.record.get(0);
            (letter.stage, record.partition, record.offset, record.append_time)
        }));
    };
    for &(count, idle) in cuts {
        if let Some(instant) = idle {
            let none = Records::default();
            let prepared = core.prepare_idle(AppendTime::at(instant), &none);
            keep(core.fold(prepared).expect("no fault of the host"));
        }
        let mut batch = Records::default();
        batch.append(records, first..first + count);
        keep(core.run(&batch).expect("no fault of the host"));
        first += count;
    }
    letters
}

#[test]
fn a_firing_of_an_idle_lane_is_named_alike_live_and_in_a_replay() {
    let plugin = hostile(&json!({"mode": "trap", "at": "timer"}), LIMITS);
    let time = Time { idle_timeout_ms: Some(1_000), ..time() };
    // The timer of the target is due 10 s after it; the lane then is idle for 100 s.
    let log = [record(11, &event("k", 11, 1)), record(12, &event("k", 12, 13)), record(112, &event("k", 112, 2))];
    let records = in_order(&log);
    let want = [(Stage::Timer, 0, 12, START_MS + 12_000)];
    let live = START_MS + 80_000;
    for cuts in [&[(3, None)][..], &[(2, None), (1, None)], &[(1, None), (1, None), (1, Some(live))]] {
        assert_eq!(letters_of(&plugin, time, &records, cuts), want, "{cuts:?}");
    }
}

// ---- through the program

fn pipeline(plugin: &str) -> Pipeline {
    let plugin = format!("component = \"{}\"\n{plugin}", plugin_file("hostile"));
    let pipeline = Pipeline::new(&Settings { plugin, ..Settings::default() }.to_toml());
    write_records(&pipeline.path("log.ndjson"), &small_log());
    pipeline
}

#[test]
fn a_strike_can_halt_the_host_which_names_plugin_key_and_record() {
    let pipeline = pipeline("config = { mode = \"trap\" }\non_strike = \"halt\"");
    for _ in 0..2 {
        let said = [
            "hostile",
            "k3",
            "event 1 of key",
            "partition 1, offset 13",
            "struck by 13",
            "modes.rs:",
            "plugin.on_strike",
        ];
        pipeline.run_to_end(&[]).expect_code(4).expect_said(&said);
    }
}

#[test]
fn a_strike_goes_to_the_dead_letters_and_the_rest_is_folded() {
    let pipeline = pipeline("config = { mode = \"loop\" }\nfuel = 100000000");
    let mut before = None;
    for _ in 0..2 {
        let outcome = pipeline.run_to_end(&[]);
        outcome.expect_code(0);
        let rows = from_ndjson(&pipeline.path("rows.ndjson"));
        assert_eq!(rows.len(), 61);
        assert!(rows.iter().all(|row| row["v"] != 13));
        let letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
        let [letter] = &letters[..] else { panic!("one dead letter: {letters:?}") };
        assert_eq!((&letter["partition"], &letter["offset"], &letter["event"]), (&json!(1), &json!(13), &json!(1)));
        assert!(letter["reason"].as_str().is_some_and(|r| r.contains("plugin.fuel")), "{letter}");
        let text = String::from_utf8(small_log()[13].value.clone().unwrap_or_default()).expect("JSON is UTF-8");
        assert_eq!(letter["value"], json!(text), "verbatim");
        let now = (rows, letters);
        assert_eq!(before.get_or_insert_with(|| now.clone()), &now, "a replay gives the same");
        pipeline.delete_checkpoints();
        pipeline.set_aside("rows.ndjson");
        pipeline.set_aside("dead-letters.ndjson");
    }
}
