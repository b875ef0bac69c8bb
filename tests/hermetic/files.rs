//! Files that are not what their paths seem: two names of one file, pipes and devices, and lines that were broken off.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::doctor::call;
use crate::support::generate::{TestRecord, generate, write_records};
use crate::support::host::{KEYFOLD, PATIENCE, Pipeline, logged, number};
use crate::support::mock::visits;
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson, sorted};
use crate::support::settings::{ADMIN, Settings};

/// A pipeline with this sink, and this more, over forty visits and a record that is none.
fn pipeline(sink: &str, more: &str) -> Pipeline {
    let settings = Settings { sink: sink.to_owned(), ..Settings::default() };
    let pipeline = Pipeline::new(&format!("{}{more}", settings.to_toml()));
    write_records(&pipeline.path("log.ndjson"), &log());
    pipeline
}

/// Forty visits, and a record that is none.
fn log() -> Vec<TestRecord> {
    let mut log = visits(1, |i| i);
    let last = log[log.len() - 1].clone();
    log.push(TestRecord { offset: last.offset + 1, value: Some(b"no visit".to_vec()), ..last });
    log
}

fn rows(log: &[TestRecord]) -> Vec<Value> {
    let lanes = model::run_by_partition(|| Visits::new(SessionId::Record), log, Time::default());
    sorted(lanes.values().flat_map(model::Lane::values).collect())
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(path).expect("it is there");
    file.write_all(bytes).expect("the test's folder is writable");
}

/// Makes a pipe that nobody writes or reads.
fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().expect("mkfifo is there");
    assert!(made.success());
}

fn is_pipe(path: &Path) -> bool {
    path.symlink_metadata().expect("it is there").file_type().is_fifo()
}

const ROWS: &str = "[sink.ndjson]\npath = \"rows.ndjson\"";

#[test]
fn a_pipe_or_a_device_is_refused_by_its_key_before_it_is_opened() {
    let plugin = Settings { plugin: "component = \"pipe\"".to_owned(), ..Settings::default() };
    let audited = format!("{ADMIN}token_file = \"token\"\naudit_log = ");
    for (toml, key, code) in [
        (Settings { sink: "[sink.sqlite]\npath = \"pipe\"".to_owned(), ..Settings::default() }.to_toml(), "sqlite", 3),
        (
            Settings { sink: "[sink.sqlite]\npath = \"/dev/null\"".to_owned(), ..Settings::default() }.to_toml(),
            "sqlite",
            3,
        ),
        (plugin.to_toml(), "plugin.component", 2),
        (format!("{}{audited}\"pipe\"\n", Settings::default().to_toml()), "admin.audit_log", 2),
        (format!("{}{audited}\"/dev/null\"\n", Settings::default().to_toml()), "admin.audit_log", 2),
        (Settings::default().to_toml().replace("\"dead-letters.ndjson\"", "\"pipe\""), "dead_letters.file", 3),
    ] {
        let pipeline = Pipeline::new(&toml);
        write_records(&pipeline.path("log.ndjson"), &log());
        pipeline.write("token", b"a token that nobody guesses");
        make_pipe(&pipeline.path("pipe"));
        for command in ["check", "run"] {
            pipeline.call(command, &[]).expect_code(code).expect_said(&[key, "a pipe or a device", "name a file"]);
        }
        assert!(is_pipe(&pipeline.path("pipe")));
    }
    assert!(!Path::new("/dev/null-journal").exists());
}

#[test]
fn commands_open_no_pipe_and_replace_none() {
    let toml = Settings::default().to_toml();
    let pipeline = pipeline(ROWS, "");
    pipeline.run_to_end(&[]).expect_code(0);
    make_pipe(&pipeline.path("pipe"));
    let said = ["a pipe or a device", "name a file"];
    call(&pipeline, ["state", "export"], &["pipe"]).expect_code(2).expect_said(&said);
    call(&pipeline, ["dead-letters", "redrive"], &["--to", "file:pipe"]).expect_code(3).expect_said(&said);
    call(&pipeline, ["deployment", "create"], &["pipe"]).expect_code(2).expect_said(&said);
    let mut command = Command::new(KEYFOLD);
    command.args(["plugin", "check", "pipe"]).current_dir(pipeline.path("")).stdin(Stdio::null());
    pipeline.start(command).wait(PATIENCE).expect_code(2).expect_said(&said);
    pipeline.configure(&toml.replace("\"dead-letters.ndjson\"", "\"pipe\""));
    let said = ["dead_letters.file", "a pipe or a device"];
    call(&pipeline, ["dead-letters", "list"], &[]).expect_code(3).expect_said(&said);
    call(&pipeline, ["dead-letters", "redrive"], &["--to", "file:again"]).expect_code(3).expect_said(&said);
    assert!(is_pipe(&pipeline.path("pipe")));
}

#[test]
fn a_file_has_one_use_by_whatever_name() {
    for (sink, more, said) in [
        ("[sink.ndjson]\npath = \"inner/../log.ndjson\"", "", "sink.ndjson.path and source.file.path"),
        ("[sink.ndjson]\npath = \"soft\"", "", "sink.ndjson.path and source.file.path"),
        ("[sink.ndjson]\npath = \"hard\"", "", "sink.ndjson.path and source.file.path"),
        ("[sink.ndjson]\npath = \"dangling\"", "", "dead_letters.file and sink.ndjson.path"),
        ("[sink.sqlite]\npath = \"inner/../dead-letters.ndjson\"", "", "dead_letters.file and sink.sqlite.path"),
        (ROWS, "audit_log = \"inner/../rows.ndjson\"", "admin.audit_log and sink.ndjson.path"),
        (ROWS, "audit_log = \"token\"", "admin.audit_log and admin.token_file"),
    ] {
        let admin = format!("{ADMIN}token_file = \"token\"\n{more}\n");
        let pipeline = pipeline(sink, &admin);
        pipeline.write("token", b"a token that nobody guesses");
        std::fs::create_dir(pipeline.path("inner")).expect("the test's folder is writable");
        symlink("inner/../log.ndjson", pipeline.path("soft")).expect("the test's folder is writable");
        symlink("dead-letters.ndjson", pipeline.path("dangling")).expect("the test's folder is writable");
        std::fs::hard_link(pipeline.path("log.ndjson"), pipeline.path("hard")).expect("the same file system");
        for command in ["check", "run"] {
            pipeline.call(command, &[]).expect_code(2).expect_said(&[said, "are the same file"]);
        }
    }
}

#[test]
fn nothing_is_sent_or_exported_into_another_file_of_the_pipeline() {
    let pipeline = pipeline(ROWS, "");
    pipeline.run_to_end(&[]).expect_code(0);
    std::fs::create_dir(pipeline.path("inner")).expect("the test's folder is writable");
    symlink("dead-letters.ndjson", pipeline.path("soft")).expect("the test's folder is writable");
    let read = |name: &str| std::fs::read(pipeline.path(name)).expect("it is there");
    let before = ["dead-letters.ndjson", "rows.ndjson", "log.ndjson"].map(read);
    for to in ["dead-letters.ndjson", "./dead-letters.ndjson", "inner/../dead-letters.ndjson", "soft"] {
        let outcome = call(&pipeline, ["dead-letters", "redrive"], &["--to", to]);
        outcome.expect_code(2).expect_said(&["where the dead letters are kept; name another target"]);
        let whole = format!("file:{}", pipeline.path(to).display());
        call(&pipeline, ["dead-letters", "redrive"], &["--to", &whole, "--dry-run"]).expect_code(2);
    }
    let outcome = call(&pipeline, ["dead-letters", "redrive"], &["--to", "inner/../rows.ndjson"]);
    outcome.expect_code(2).expect_said(&["sink.ndjson.path; name another target"]);
    for (out, key) in [
        ("soft", "dead_letters.file"),
        ("inner/../rows.ndjson", "sink.ndjson.path"),
        ("./log.ndjson", "source.file.path"),
    ] {
        let outcome = call(&pipeline, ["state", "export"], &[out]);
        outcome.expect_code(2).expect_said(&[key, "would be replaced; name another file"]);
    }
    assert_eq!(["dead-letters.ndjson", "rows.ndjson", "log.ndjson"].map(read), before);
    call(&pipeline, ["state", "export"], &["keys.ndjson"]).expect_code(0);
    call(&pipeline, ["dead-letters", "redrive"], &["--to", "log.ndjson"]).expect_code(0);
}

/// A host of several lanes cuts no file back to a checkpoint, and was killed while it wrote.
#[test]
fn rows_and_dead_letters_of_several_lanes_stand_on_lines_of_their_own_after_a_crash() {
    let source = format!("{}\nordering = \"partition\"", Settings::default().source);
    let pipeline = Pipeline::new(&Settings { source, ..Settings::default() }.to_toml());
    let log = generate(3_000, 100, 20_261_129);
    // A file that the first start found like that: it is not keyfold's to cut.
    pipeline.write("rows.ndjson", b"a note of somebody");
    write_records(&pipeline.path("log.ndjson"), &log[..log.len() / 2]);
    pipeline.run_to_end(&[]).expect_code(0);
    let first = std::fs::read(pipeline.path("rows.ndjson")).expect("it is there");
    assert!(first.starts_with(b"a note of somebody\n{\"table\":"), "{}", String::from_utf8_lossy(&first));

    append(&pipeline.path("rows.ndjson"), b"{\"table\":\"sess");
    append(&pipeline.path("dead-letters.ndjson"), b"{\"value\":");
    write_records(&pipeline.path("log.ndjson"), &log);
    let second = pipeline.run_to_end(&[]);
    second.expect_code(0);
    let cut = logged(&second.stderr, "line-broken-off");
    assert_eq!(cut.iter().map(|line| number(line, "cut")).collect::<Vec<_>>(), [14, 9]);
    let all = std::fs::read_to_string(pipeline.path("rows.ndjson")).expect("it is there");
    pipeline.write("rows-alone.ndjson", all.split_once('\n').expect("there are lines").1.as_bytes());
    assert_same("rows", &sorted(from_ndjson(&pipeline.path("rows-alone.ndjson"))), &rows(&log));
    let list = call(&pipeline, ["dead-letters", "list"], &["--limit", "100000"]);
    let letters = from_ndjson(&pipeline.path("dead-letters.ndjson")).len();
    assert!(letters > 0);
    assert_eq!(list.expect_code(0).stdout.lines().count(), letters);
}

#[test]
fn a_redrive_appends_to_no_half_line_and_to_no_file_that_a_host_writes() {
    let pipeline = pipeline(ROWS, "");
    pipeline.run_to_end(&[]).expect_code(0);
    let redrive = || call(&pipeline, ["dead-letters", "redrive"], &["--to", "file:again.ndjson"]);
    pipeline.write("again.ndjson", b"{\"value\":\"x\"}");
    redrive().expect_code(3).expect_said(&["the last line of again.ndjson has no line break"]);
    assert_eq!(std::fs::read(pipeline.path("again.ndjson")).expect("it is there"), b"{\"value\":\"x\"}");

    append(&pipeline.path("again.ndjson"), b"\n");
    let host = File::open(pipeline.path("again.ndjson")).expect("it is there");
    host.lock().expect("nobody else has it");
    redrive().expect_code(3).expect_said(&["again.ndjson: another host is writing it"]);
    drop(host);
    assert_eq!(redrive().expect_code(0).stdout.trim(), "sent to file again.ndjson: 1 record(s)");
    assert_eq!(from_ndjson(&pipeline.path("again.ndjson")).len(), 2);
}

#[test]
fn secrets_and_certificates_are_read_from_no_pipe_and_no_device() {
    let admin = |more: &str| format!("{}{ADMIN}{more}\n", Settings::default().to_toml());
    let kafka = |more: &str| {
        let kafka = Settings::default().over_kafka("127.0.0.1:1", "visits");
        Settings { source: format!("{}\n{more}", kafka.source), ..kafka }.to_toml()
    };
    let cql = |more: &str| {
        let cql = Settings::default().into_cql(1, "nowhere");
        Settings { sink: format!("{}\n{more}", cql.sink), ..cql }.to_toml()
    };
    for path in ["pipe", "/dev/zero"] {
        for (toml, key) in [
            (admin(&format!("token_file = \"{path}\"")), "admin.token_file"),
            (admin(&format!("read_token_file = \"{path}\"")), "admin.read_token_file"),
            (admin(&format!("[admin.tls]\ncertificate = \"{path}\"\nkey = \"{path}\"")), "admin.tls.certificate"),
            (kafka(&format!("[source.kafka.properties]\n\"ssl.ca.location\" = \"{path}\"")), "ssl.ca.location"),
            (cql(&format!("user = \"fold\"\npassword_file = \"{path}\"")), "sink.cql.password_file"),
            (cql(&format!("[sink.cql.tls]\nca = \"{path}\"")), "sink.cql.tls.ca"),
        ] {
            let pipeline = Pipeline::new(&toml);
            write_records(&pipeline.path("log.ndjson"), &log());
            make_pipe(&pipeline.path("pipe"));
            pipeline.call("run", &[]).expect_code(2).expect_said(&[key, "a pipe or a device; name a file"]);
        }
    }
}

#[test]
fn nothing_is_written_to_a_file_that_is_named_like_standard_output() {
    let pipeline = pipeline(ROWS, "");
    pipeline.run_to_end(&[]).expect_code(0);
    for to in ["-", "file:-"] {
        let outcome = call(&pipeline, ["dead-letters", "redrive"], &["--to", to]);
        outcome.expect_code(2).expect_said(&["--to", "standard output", "name a file"]);
    }
    call(&pipeline, ["state", "export"], &["-"]).expect_code(2).expect_said(&["standard output", "name a file"]);
    assert!(!pipeline.path("-").exists());
}
