//! Bad input of every kind: a clear message, the right exit code, nothing lost.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::support::generate::{BAD_VALUES, TestRecord, record_line, write_records};
use crate::support::host::{Outcome, Pipeline, number, plugin_file};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;

const NOON_MS: i64 = 1_727_870_400_000;

/// Records of partition 0, one a second from noon.
fn log(values: &[Option<&[u8]>]) -> Vec<TestRecord> {
    let record = |(i, value): (i64, &Option<&[u8]>)| TestRecord {
        partition: 0,
        offset: i.unsigned_abs(),
        timestamp: NOON_MS + i * 1_000,
        key: None,
        value: value.map(<[u8]>::to_vec),
    };
    (0..).zip(values).map(record).collect()
}

fn visit(user: i64, page: &str, time: &str) -> Vec<u8> {
    json!({"user_id": user, "page": page, "event_time": time}).to_string().into_bytes()
}

/// A pipeline over `log.ndjson` that holds these records.
fn pipeline(records: &[TestRecord], settings: &Settings) -> Pipeline {
    let pipeline = Pipeline::new(&settings.to_toml());
    write_records(&pipeline.path("log.ndjson"), records);
    pipeline
}

/// A session that ends, for tests that are about something else.
fn good_log() -> Vec<TestRecord> {
    log(&[Some(&visit(1, "a", "2024-10-02T12:00:00")), Some(&visit(2, "b", "2024-10-02T12:05:00"))])
}

#[test]
fn every_bad_record_is_a_dead_letter_and_the_rest_is_folded() {
    let first = visit(1, "a", "2024-10-02T11:59:59");
    let last = visit(2, "b", "2024-10-02T12:20:00");
    let mut values = vec![Some(first.as_slice()), None];
    values.extend(BAD_VALUES.iter().map(|&value| Some(value)));
    values.push(Some(&last));
    let records = log(&values);
    let pipeline = pipeline(&records, &Settings::default());
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0);
    assert_eq!(number(&outcome.logged("lane-stopped"), "rejected"), values.len() as u64 - 2);

    let lane = model::run(Visits::new(SessionId::Record), &records, Time::default());
    assert_eq!(lane.rows.len(), 2, "the last visit ends both sessions, its own too");
    assert_same("rows", &from_ndjson(&pipeline.path("rows.ndjson")), &lane.values());

    let letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
    assert_eq!(letters.len(), values.len() - 2, "a dead letter for each");
    for (letter, record) in letters.iter().zip(&records[1..]) {
        assert_verbatim(letter, record);
    }
}

/// The letter carries the record as it was, and says why.
fn assert_verbatim(letter: &Value, record: &TestRecord) {
    let line = record_line(record);
    for field in ["value", "value_base64", "partition", "offset", "timestamp"] {
        assert_eq!(
            letter.get(field).unwrap_or(&Value::Null),
            line.get(field).unwrap_or(&Value::Null),
            "{field} of {letter}"
        );
    }
    for field in ["reason", "stage", "plugin"] {
        assert!(letter[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {letter}");
    }
}

#[test]
fn a_dead_letter_names_the_field() {
    let cases: [(&[u8], &str); 5] = [
        (br#"{"page": "x", "event_time": "2024-10-02T12:00:00"}"#, "user_id"),
        (br#"{"user_id": 9223372036854775808, "page": "x", "event_time": "2024-10-02T12:00:00"}"#, "user_id"),
        (br#"{"user_id": 1, "page": null, "event_time": "2024-10-02T12:00:00"}"#, "page"),
        (br#"{"user_id": 1, "page": "x", "event_time": "yesterday"}"#, "event_time"),
        (br#"{"user_id": 1, "page": "x"}"#, "event_time"),
    ];
    let pipeline = pipeline(&log(&cases.map(|(value, _)| Some(value))), &Settings::default());
    pipeline.run_to_end(&[]).expect_code(0);
    let letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
    assert_eq!(letters.len(), cases.len());
    for (letter, (_, field)) in letters.iter().zip(cases) {
        assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains(field)), "{field} in {letter}");
    }
}

#[test]
fn dead_letters_can_be_read_again() {
    let first = pipeline(&log(&[Some(b"not json"), None, Some(b"\xff")]), &Settings::default());
    first.run_to_end(&[]).expect_code(0);
    let second = Pipeline::new(&Settings::default().to_toml());
    std::fs::copy(first.path("dead-letters.ndjson"), second.path("log.ndjson"))
        .expect("the first run left dead letters");
    let outcome = second.run_to_end(&[]);
    assert_eq!(number(&outcome.expect_code(0).logged("lane-stopped"), "rejected"), 3);
    let letters = |pipeline: &Pipeline| {
        let mut letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
        // The source's name: it lies in another folder.
        letters.iter_mut().for_each(|letter| drop(letter.as_object_mut().and_then(|fields| fields.remove("topic"))));
        letters
    };
    assert_eq!(letters(&second), letters(&first));
}

#[test]
fn late_events_and_those_too_far_ahead_can_be_kept() {
    let events = [
        visit(1, "a", "2024-10-02T12:00:00"),
        visit(1, "late", "2024-10-02T11:59:50"),
        visit(1, "just in time", "2024-10-02T11:59:50.001"),
        visit(1, "at the limit", "2024-10-02T13:00:03"),
        visit(2, "beyond the limit", "2024-10-02T13:00:04.001"),
    ];
    let records = log(&events.each_ref().map(|event| Some(event.as_slice())));
    let pipeline = pipeline(&records, &Settings { time: "late = \"dead-letter\"".to_owned(), ..Settings::default() });
    let outcome = pipeline.run_to_end(&[]);
    let stopped = outcome.expect_code(0).logged("lane-stopped");
    assert_eq!((number(&stopped, "late"), number(&stopped, "rejected")), (1, 1));
    let letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
    assert_eq!(letters.len(), 2);
    assert_verbatim(&letters[0], &records[1]);
    assert_verbatim(&letters[1], &records[4]);
    let rows = from_ndjson(&pipeline.path("rows.ndjson"));
    assert_eq!(rows[0]["pages"], json!(["a", "just in time", "at the limit"]));
}

#[test]
fn a_payload_of_10_mb_is_folded() {
    let page = "x".repeat(10_000_000);
    let events = [visit(1, &page, "2024-10-02T12:00:00"), visit(2, "b", "2024-10-02T12:05:00")];
    let pipeline = pipeline(&log(&events.each_ref().map(|event| Some(event.as_slice()))), &Settings::default());
    pipeline.run_to_end(&[]).expect_code(0);
    let rows = from_ndjson(&pipeline.path("rows.ndjson"));
    // User 2's session counts from the watermark before its record, and so has ended by it too, and first.
    assert_eq!(rows.len(), 2);
    assert!(rows[1]["pages"][0] == page.as_str(), "the page came through whole");
}

#[test]
fn an_empty_log_gives_no_rows_and_no_error() {
    let pipeline = pipeline(&[], &Settings::default());
    pipeline.run_to_end(&[]).expect_code(0);
    assert_same("rows", &from_ndjson(&pipeline.path("rows.ndjson")), &[]);
}

#[test]
fn a_line_of_the_source_that_is_no_record_is_named() {
    for line in ["no json", "[]", "{\"value\": 7}", "{\"value\": \"x\", \"offset\": -1}"] {
        let pipeline = Pipeline::new(&Settings::default().to_toml());
        let good = record_line(&good_log()[0]);
        pipeline.write("log.ndjson", format!("{good}\n{line}\n").as_bytes());
        pipeline.run_to_end(&[]).expect_one_of(&[1, 2, 3]).expect_said(&["log.ndjson", "line 2"]);
    }
}

#[test]
fn offsets_that_do_not_ascend_are_refused() {
    let mut records = good_log();
    records[1].offset = records[0].offset;
    pipeline(&records, &Settings::default()).run_to_end(&[]).expect_one_of(&[1, 2, 3]).expect_said(&["offset"]);
}

/// Runs a configuration that is the default's text with `from` replaced, over a good log.
fn with(from: &str, to: &str) -> Outcome {
    let text = Settings::default().to_toml();
    assert!(text.contains(from), "the default configuration has {from:?}");
    let pipeline = Pipeline::new(&text.replace(from, to));
    write_records(&pipeline.path("log.ndjson"), &good_log());
    pipeline.run_to_end(&[])
}

#[test]
fn a_wrong_configuration_is_refused_by_the_keys_path_and_the_nearest_right_key() {
    let check = |from: &str, to: &str, words: &[&str]| {
        with(from, to).expect_code(2).expect_said(words);
    };
    check("[time]", "[time]\nout_of_order = \"10s\"", &["time.out_of_order", "out_of_orderness"]);
    check("[time]", "[tiem]", &["tiem", "time"]);
    check("[time]", "[time]\nlate = \"maybe\"", &["time.late", "maybe", "dead-letter"]);
    check("[time]", "[time]\nfuture_limit = \"soon\"", &["time.future_limit", "soon"]);
    check("workers = 2", "workers = \"two\"", &["run.workers"]);
    check("workers = 2", "batch_records = 0", &["run.batch_records"]);
    check("[run]", "[sink.discard]\n[run]", &["sink"]);
    check("[sink.ndjson]\npath = \"rows.ndjson\"", "", &["sink"]);
    check("name = ", "name ", &["keyfold.toml"]);
    check("\"builtin:visits\"", "\"builtin:visitors\"", &["builtin:visits"]);
}

#[test]
fn properties_on_which_the_guarantee_rests_are_refused_by_name() {
    for property in ["isolation.level", "enable.auto.commit", "auto.offset.reset"] {
        let mut settings = Settings::default().over_kafka("127.0.0.1:1", "visits");
        write!(settings.source, "\nproperties = {{ \"{property}\" = \"x\" }}").expect("a String takes text");
        Pipeline::new(&settings.to_toml()).run_to_end(&[]).expect_code(2).expect_said(&[property]);
    }
}

#[test]
fn unknown_variables_and_arguments_are_refused() {
    let pipeline = pipeline(&good_log(), &Settings::default());
    let mut command = pipeline.command("run", &[]);
    command.env("KEYFOLD_TIEM__LATE", "drop");
    pipeline.start(command).wait(crate::support::host::PATIENCE).expect_code(2).expect_said(&["KEYFOLD_TIEM__LATE"]);
    pipeline.call("run", &["--until-the-end"]).expect_code(2);
    pipeline.call("walk", &[]).expect_code(2);
    std::fs::remove_file(pipeline.path("keyfold.toml")).expect("it exists");
    pipeline.run_to_end(&[]).expect_code(2).expect_said(&["keyfold.toml"]);
}

#[test]
fn a_variable_overrides_the_file() {
    let pipeline = pipeline(&good_log(), &Settings::default());
    let mut command = pipeline.command("run", &[]);
    command.env("KEYFOLD_RUN__BATCH_RECORDS", "1");
    let outcome = pipeline.start(command).wait(crate::support::host::PATIENCE);
    assert_eq!(number(&outcome.expect_code(0).logged("lane-stopped"), "largest_batch"), 1);
}

#[test]
fn a_missing_source_file_is_named() {
    with("\"log.ndjson\"", "\"no-such.ndjson\"").expect_one_of(&[2, 3]).expect_said(&["no-such.ndjson"]);
}

#[test]
fn an_unreachable_broker_is_waited_for_and_then_named() {
    let settings = Settings { run: "startup_timeout = \"1s\"".to_owned(), ..Settings::default() };
    let pipeline = Pipeline::new(&settings.over_kafka("127.0.0.1:1", "visits").to_toml());
    pipeline.run_to_end(&[]).expect_code(3).expect_said(&["127.0.0.1:1"]);
}

#[test]
fn an_unreachable_database_is_waited_for_and_then_named() {
    let settings = Settings { run: "startup_timeout = \"1s\"".to_owned(), ..Settings::default() };
    pipeline(&good_log(), &settings.into_cql(1, "ndc_porto"))
        .run_to_end(&[])
        .expect_code(3)
        .expect_said(&["127.0.0.1:1"]);
}

#[test]
fn a_table_that_does_not_fit_is_refused_by_column_and_types() {
    let settings = Settings { sink: "[sink.sqlite]\npath = \"rows.db\"".to_owned(), ..Settings::default() };
    let check = |table: &str, words: &[&str]| {
        let pipeline = pipeline(&good_log(), &settings);
        let database = rusqlite::Connection::open(pipeline.path("rows.db")).expect("the test's folder is writable");
        database.execute_batch(table).expect("a valid statement");
        pipeline.run_to_end(&[]).expect_code(3).expect_said(words);
    };
    check(
        "CREATE TABLE sessions (session_id INTEGER, user_id TEXT, pages TEXT, PRIMARY KEY (session_id, user_id))",
        &["sessions", "user_id", "integer", "text"],
    );
    check(
        "CREATE TABLE sessions (session_id INTEGER, user_id INTEGER, PRIMARY KEY (session_id, user_id))",
        &["sessions", "pages"],
    );
    check(
        "CREATE TABLE sessions (session_id INTEGER PRIMARY KEY, user_id INTEGER, pages TEXT)",
        &["sessions", "primary key"],
    );
}

/// Runs with this file as the plugin.
fn with_plugin(bytes: &[u8]) -> Outcome {
    let settings = Settings { plugin: "component = \"plugin.wasm\"".to_owned(), ..Settings::default() };
    let pipeline = pipeline(&good_log(), &settings);
    pipeline.write("plugin.wasm", bytes);
    pipeline.run_to_end(&[])
}

/// A core module that imports `module` `name` as a function.
pub(crate) fn core_module_importing(module: &str, name: &str) -> Vec<u8> {
    let mut import = vec![1];
    import.extend(text(module));
    import.extend(text(name));
    import.extend([0, 0]);
    let types = section(1, &[1, 0x60, 0, 0]);
    [b"\0asm\x01\0\0\0".to_vec(), types, section(2, &import)].concat()
}

/// A component that imports an empty instance by this name, and exports nothing.
pub(crate) fn component_importing(name: &str) -> Vec<u8> {
    let mut import = vec![1, 0];
    import.extend(text(name));
    import.extend([5, 0]);
    [b"\0asm\x0d\0\x01\0".to_vec(), section(7, &[1, 0x42, 0]), section(10, &import)].concat()
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id, u8::try_from(content.len()).expect("short")], content].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat()
}

#[test]
fn i6_what_imports_or_is_no_plugin_is_refused_with_the_reason() {
    with_plugin(b"hello, I am text").expect_code(4).expect_said(&["plugin.wasm"]);
    with_plugin(b"").expect_code(4).expect_said(&["plugin.wasm"]);
    with_plugin(b"\0asm\x01\0\0\0").expect_code(4).expect_said(&["plugin.wasm", "component-type"]);
    with_plugin(&core_module_importing("wasi_snapshot_preview1", "fd_write"))
        .expect_code(4)
        .expect_said(&["plugin.wasm"]);
    with_plugin(b"\0asm\x0d\0\x01\0").expect_code(4).expect_said(&["plugin.wasm", "keyfold:mapper"]);
    with_plugin(&component_importing("wasi:cli/environment@0.2.0"))
        .expect_code(4)
        .expect_said(&["wasi:cli/environment"]);
}

#[test]
fn the_components_of_these_tests_are_what_they_are_said_to_be() {
    let valid =
        |bytes: &[u8]| wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all()).validate_all(bytes);
    valid(&core_module_importing("wasi_snapshot_preview1", "fd_write")).expect("a valid module");
    valid(&component_importing("wasi:cli/environment@0.2.0")).expect("a valid component");
}

#[test]
fn a_missing_plugin_file_is_named() {
    with("\"builtin:visits\"", "\"no-such.wasm\"").expect_one_of(&[2, 4]).expect_said(&["no-such.wasm"]);
}

#[test]
fn a_configuration_that_does_not_fit_the_plugins_schema_is_refused_by_path() {
    with("session_timeout = \"50s\"", "session_timeout = \"fifty\", x = 1").expect_code(4).expect_said(&[
        "builtin:visits",
        "plugin.config.session_timeout: expected text that matches",
        "fifty",
        "plugin.config.x is not a key",
    ]);
    with("session_timeout", "session_timout")
        .expect_code(4)
        .expect_said(&["plugin.config.session_timout", "did you mean session_timeout"]);
}

#[test]
fn a_configuration_that_the_plugin_refuses_is_told_in_its_words() {
    with("session_timeout = \"50s\"", "session_timeout = \"9000h\"").expect_code(4).expect_said(&[
        "refuses its configuration",
        "session_timeout",
        "9000h",
        "8760h",
    ]);
}

#[test]
fn a_plugin_file_can_be_checked_by_itself() {
    let pipeline = Pipeline::new("");
    pipeline.write("not.wasm", b"text");
    let check = |file: &str| {
        let mut command = std::process::Command::new(crate::support::host::KEYFOLD);
        command.args(["plugin", "check", file]).current_dir(pipeline.path(""));
        pipeline.start(command).wait(crate::support::host::PATIENCE)
    };
    check(&plugin_file("visits")).expect_code(0).expect_said(&["sessions", "session_id", "user_id", "pages"]);
    check("not.wasm").expect_code(4).expect_said(&["not.wasm"]);
}

#[test]
fn check_says_ok_or_what_is_wrong_of_everything_at_once() {
    let fine = pipeline(&good_log(), &Settings::default());
    fine.call("check", &[]).expect_code(0).expect_said(&["ok"]);
    assert!(!fine.path("rows.ndjson").exists(), "nothing was consumed");
    let settings = Settings {
        plugin: "component = \"no-such.wasm\"".to_owned(),
        run: "startup_timeout = \"1s\"".to_owned(),
        ..Settings::default()
    };
    let broken = Pipeline::new(&settings.over_kafka("127.0.0.1:1", "visits").to_toml());
    broken.call("check", &[]).expect_one_of(&[2, 3, 4]).expect_said(&["FAIL", "no-such.wasm", "127.0.0.1:1"]);
}

/// Runs to the end, changes the configuration, and runs again.
fn changed(from: &str, to: &str) -> Outcome {
    let text = Settings::default().to_toml();
    assert!(text.contains(from), "the default configuration has {from:?}");
    let pipeline = pipeline(&good_log(), &Settings::default());
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline.configure(&text.replace(from, to));
    pipeline.run_to_end(&[])
}

#[test]
fn settings_that_differ_from_those_in_force_are_refused() {
    for (from, to) in [
        ("[time]", "[time]\nout_of_orderness = \"11s\""),
        ("[time]", "[time]\nfuture_limit = \"2h\""),
        ("[time]", "[time]\nlate = \"process\""),
        ("session_timeout = \"50s\"", "session_timeout = \"51s\""),
        ("[plugin]", "[plugin]\nmemory = \"128MiB\""),
    ] {
        changed(from, to).expect_one_of(&[2, 5]).expect_said(&["keyfold deployment create"]);
    }
}

#[test]
fn settings_that_decide_no_row_may_change() {
    changed("workers = 2", "workers = 1\nbatch_records = 10").expect_code(0);
    changed("checkpoint_interval = \"5s\"", "checkpoint_interval = \"1s\"").expect_code(0);
    changed("[time]", "[time]\nout_of_orderness = \"10000ms\"").expect_code(0);
}

#[test]
fn another_ordering_or_another_log_is_another_source() {
    changed("format = \"records\"", "format = \"records\"\nordering = \"partition\"").expect_code(5);
    let pipeline = pipeline(&good_log(), &Settings::default());
    pipeline.run_to_end(&[]).expect_code(0);
    write_records(&pipeline.path("log.ndjson"), &log(&[Some(b"{}"), Some(b"{}"), Some(b"{}")]));
    pipeline.run_to_end(&[]).expect_code(5);
    write_records(&pipeline.path("log.ndjson"), &good_log()[..1]);
    pipeline.run_to_end(&[]).expect_code(5);
}
