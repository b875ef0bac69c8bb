//! Two hosts on one state: one that was stopped, and its successor.

use std::path::Path;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::generate::{generate, write_records};
use crate::support::host::{PATIENCE, Pipeline, Running, wait_until};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson, from_sqlite, sorted};
use crate::support::settings::Settings;

/// A log that takes a host a while, and its rows.
fn log(pipeline: &Pipeline) -> Vec<Value> {
    let log = generate(20_000, 500, 7);
    write_records(&pipeline.path("log.ndjson"), &log);
    sorted(model::run(Visits::new(SessionId::Record), &log, Time::default()).values())
}

/// Small batches, so that a host is stopped long before the end of the log.
fn settings(sink: &str, batch_records: usize) -> Settings {
    let sink = format!("[sink.{sink}]\npath = \"rows.{sink}\"");
    Settings { sink, checkpoint_interval: "50ms".to_owned(), ..Settings::default() }.bounded(1, batch_records)
}

fn count(path: &Path) -> i64 {
    let count = |database: Connection| database.query_row("SELECT count(*) FROM sessions", [], |row| row.get(0));
    Connection::open(path).and_then(count).unwrap_or_default()
}

/// Stops the host outside a transaction, which would hold SQLite's lock.
fn stop(host: &mut Running, path: &Path) {
    let mut is_free = || {
        host.signal("STOP");
        let locked = Connection::open(path).and_then(|database| database.execute_batch("BEGIN IMMEDIATE; ROLLBACK"));
        if locked.is_err() {
            host.signal("CONT");
        }
        locked.is_ok()
    };
    wait_until("the host is stopped outside a transaction", &mut is_free);
    assert!(host.is_running(), "it has not come to the end of the log");
}

#[test]
fn i8_a_host_that_was_stopped_and_replaced_writes_no_row_when_it_goes_on() {
    let toml = settings("sqlite", 25).to_toml();
    let pipeline = Pipeline::new(&toml);
    let (rows, path) = (log(&pipeline), pipeline.path("rows.sqlite"));
    let mut first = pipeline.spawn(&[]);
    first.wait_until("it writes rows", || count(&path) > 0);
    stop(&mut first, &path);
    // The stopped host has its file of dead letters open. The successor goes on with a copy.
    std::fs::copy(pipeline.path("dead-letters.ndjson"), pipeline.path("second.ndjson")).expect("it is there");
    pipeline.configure(&toml.replace("dead-letters.ndjson", "second.ndjson"));
    pipeline.run_to_end(&[]).expect_code(0);
    assert_same("rows", &from_sqlite(&path, "sessions", &[]), &rows);
    first.signal("CONT");
    first.wait(PATIENCE).expect_code(5).expect_said(&["another host has taken over this lane"]);
    assert_same("rows", &from_sqlite(&path, "sessions", &[]), &rows);
}

#[test]
fn i8_a_file_of_rows_has_one_host_at_a_time_and_the_next_one_goes_on() {
    let toml = settings("ndjson", 10).to_toml();
    let pipeline = Pipeline::new(&toml);
    let (rows, path) = (log(&pipeline), pipeline.path("rows.ndjson"));
    let mut first = pipeline.spawn(&[]);
    first.wait_until("it writes rows", || !from_ndjson(&path).is_empty());
    first.signal("STOP");
    assert!(first.is_running(), "it has not come to the end of the log");
    pipeline.configure(&toml.replace("[run]", "[run]\nstartup_timeout = \"1s\""));
    let second = pipeline.run_to_end(&[]);
    second.expect_code(3).expect_said(&["rows.ndjson: another host is writing it; stop that host"]);
    first.signal("CONT");
    first.wait(PATIENCE).expect_code(5);
    pipeline.run_to_end(&[]).expect_code(0);
    assert_same("rows", &sorted(from_ndjson(&path)), &rows);
}

#[test]
fn a_reset_beside_a_running_host_is_refused() {
    let pipeline = Pipeline::new(&settings("ndjson", 10).to_toml());
    let rows = log(&pipeline);
    let path = pipeline.path("rows.ndjson");
    let mut host = pipeline.spawn(&[]);
    host.wait_until("it writes rows", || !from_ndjson(&path).is_empty());
    host.signal("STOP");
    assert!(host.is_running(), "it has not come to the end of the log");
    pipeline.call("reset", &[]).expect_code(5).expect_said(&["a host is running on file://"]);
    host.signal("CONT");
    host.kill();
    pipeline.call("reset", &[]).expect_code(0);
    pipeline.run_to_end(&[]).expect_code(0);
    assert_same("rows", &sorted(from_ndjson(&path)), &rows);
}
