//! Stopping from states in which nothing answers: a signal ends the process with exit code 0, whatever it is waiting for or busy with.
//!
//! A host that ignored the signal would run until the test's patience ends, or end with another code when its start times out.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::generate::{START_MS, TestRecord, write_records};
use crate::support::host::{KEYFOLD, Outcome, Pipeline, Running, plugin_file};
use crate::support::settings::{ADMIN, Settings};

/// Far beyond the limit of a stop, and far below what is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
const NOBODY: &str = "127.0.0.1:1";

/// A host that waits for half an hour for what it needs.
fn waiting(settings: Settings) -> Pipeline {
    let run = format!("{}\nstartup_timeout = \"30m\"", settings.run);
    Pipeline::new(&format!("{}{ADMIN}", Settings { run, ..settings }.to_toml()))
}

/// Signals once the host listens for signals, which it does before its admin API.
fn stopped(mut host: Running, signals: &[&str]) -> Outcome {
    host.wait_logged("admin-api-listening");
    signals.iter().for_each(|signal| host.signal(signal));
    host.wait(PATIENCE)
}

#[test]
fn a_host_stops_while_brokers_do_not_answer() {
    let pipeline = waiting(Settings::default().over_kafka(NOBODY, "visits"));
    stopped(pipeline.spawn(&[]), &["TERM"]).expect_code(0).logged("stopped-while-starting");
    stopped(pipeline.spawn(&[]), &["INT"]).expect_code(0).logged("stopped-while-starting");
}

#[test]
fn a_host_stops_while_a_database_does_not_answer() {
    let sink = format!("[sink.cql]\nnodes = [\"{NOBODY}\"]\nkeyspace = \"nowhere\"\nnow = [\"ingestion_time\"]");
    let pipeline = waiting(Settings { sink, ..Settings::default() });
    write_records(&pipeline.path("log.ndjson"), &[]);
    stopped(pipeline.spawn(&[]), &["TERM"]).expect_code(0).logged("stopped-while-starting");
}

#[test]
fn a_fifo_is_refused_before_it_is_opened() {
    let pipeline = waiting(Settings::default());
    let made = Command::new("mkfifo").arg(pipeline.path("log.ndjson")).status().expect("mkfifo is there");
    assert!(made.success());
    for command in ["check", "run"] {
        pipeline.call(command, &[]).expect_code(3).expect_said(&["it is a pipe or a device", "see source.file.path"]);
    }
}

#[test]
fn a_host_stops_while_its_standard_input_is_open() {
    let source = "[source.file]\npath = \"-\"\nformat = \"records\"".to_owned();
    let pipeline = waiting(Settings { source, ..Settings::default() });
    let mut command = pipeline.command("run", &[]);
    let (read, mut write) = std::io::pipe().expect("the system has pipes");
    command.stdin(Stdio::from(read));
    write.write_all(b"{\"partition\":0,").expect("a pipe takes a few bytes");
    stopped(pipeline.start(command), &["TERM"]).expect_code(0).logged("stopped-while-starting");
    drop(write);
}

/// A hang-up counts too. A test may itself run where it is ignored, so the program is started with the system's default.
#[test]
fn a_host_stops_when_its_terminal_hangs_up() {
    let pipeline = waiting(Settings::default().over_kafka(NOBODY, "visits"));
    let inner = pipeline.command("run", &[]);
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP").arg(KEYFOLD).args(inner.get_args()).stdin(Stdio::null());
    command.current_dir(pipeline.path("."));
    stopped(pipeline.start(command), &["HUP"]).expect_code(0).logged("stopped-while-starting");
}

/// The plugin never comes back from its call, and has fuel for years.
#[test]
fn a_host_stops_while_its_plugin_burns_fuel() {
    let config = "{ mode = \"loop\", n = 1 }";
    let plugin =
        format!("component = \"{}\"\nfuel = 1_000_000_000_000_000_000\nconfig = {config}", plugin_file("hostile"));
    let settings = Settings { plugin, ..Settings::default() };
    let pipeline = waiting(settings);
    let event = json!({"key": "a", "time": START_MS, "v": 1}).to_string().into_bytes();
    let record = TestRecord { partition: 0, offset: 0, timestamp: START_MS, key: None, value: Some(event) };
    write_records(&pipeline.path("log.ndjson"), &[record]);
    let mut host = pipeline.spawn(&[]);
    host.wait_logged("folding");
    let ended = stopped(host, &["TERM", "TERM", "INT"]);
    ended.expect_code(0).logged("stop-forced");
    assert!(!pipeline.path("rows.ndjson").metadata().is_ok_and(|file| file.len() > 0), "nothing was folded");
}
