//! Payloads that come from standard input are folded as they come (D59).

use std::io::{PipeWriter, Write};
use std::process::Stdio;

use serde_json::json;

use crate::support::generate::START_MS;
use crate::support::host::{Outcome, PATIENCE, Pipeline, Running};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;

/// The payload of line `i`; every third one begins a session.
fn payload(i: u64) -> String {
    let at = jiff::Timestamp::from_millisecond(START_MS + i64::try_from(i).expect("few") * 30_000).expect("near now");
    json!({"user_id": i % 7, "page": format!("{i}.html"), "event_time": at.to_string()}).to_string()
}

fn text(lines: std::ops::Range<u64>) -> String {
    lines.map(|i| payload(i) + "\n").collect()
}

/// A pipeline that reads payloads from there.
fn pipeline(path: &str) -> Pipeline {
    let source = format!(
        "[source.file]\npath = \"{path}\"\nformat = \"payloads\"\ntimestamp_start = {START_MS}\nordering = \"topic\""
    );
    Pipeline::new(&Settings { source, checkpoint_interval: "50ms".to_owned(), ..Settings::default() }.to_toml())
}

/// A host that reads what the test writes.
fn piped(pipeline: &Pipeline, more: &[&str]) -> (Running, PipeWriter) {
    let mut command = pipeline.command("run", more);
    let (read, write) = std::io::pipe().expect("the system has pipes");
    command.stdin(Stdio::from(read));
    (pipeline.start(command), write)
}

/// What a host makes of a text that has an end.
fn given(pipeline: &Pipeline, text: &str) -> Outcome {
    let (host, mut write) = piped(pipeline, &["--until-end"]);
    // A host that refuses it may have ended.
    let _ = write.write_all(text.as_bytes());
    drop(write);
    host.wait(PATIENCE)
}

#[test]
fn payloads_are_folded_while_more_may_come_and_the_rows_are_those_of_a_file() {
    let of_file = pipeline("log.ndjson");
    of_file.write("log.ndjson", text(0..40).as_bytes());
    of_file.run_to_end(&[]).expect_code(0);
    let want = from_ndjson(&of_file.path("rows.ndjson"));

    let live = pipeline("-");
    let rows = live.path("rows.ndjson");
    let (mut host, mut write) = piped(&live, &[]);
    write.write_all(text(0..20).as_bytes()).expect("the host reads");
    host.wait_until("rows are written though the input is open", || !from_ndjson(&rows).is_empty());
    // A line may come in pieces.
    let rest = text(20..40);
    let (begin, end) = rest.split_at(rest.len() / 2 + 3);
    write.write_all(begin.as_bytes()).expect("the host reads");
    let before = from_ndjson(&rows).len();
    host.wait_until("more rows are written", || from_ndjson(&rows).len() > before.max(20));
    write.write_all(end.trim_end().as_bytes()).expect("the host reads");
    drop(write);
    host.wait(PATIENCE).expect_code(0);
    assert_same("rows of a stream", &from_ndjson(&rows), &want);
}

#[test]
fn a_stream_goes_on_after_a_stop_if_it_begins_with_what_was_folded() {
    let pipeline = pipeline("-");
    let rows = pipeline.path("rows.ndjson");
    let (mut host, mut write) = piped(&pipeline, &[]);
    write.write_all(text(0..30).as_bytes()).expect("the host reads");
    host.wait_until("it writes rows", || !from_ndjson(&rows).is_empty());
    host.signal("TERM");
    host.wait(PATIENCE).expect_code(0);
    drop(write);
    let folded = from_ndjson(&rows);

    // One record of those that were folded is another one; or not all of them come.
    let changed = format!("{}\n{}", payload(99), text(1..60));
    let refused = given(&pipeline, &changed);
    refused.expect_code(5).expect_said(&["standard input, partition 0", "those that the state was built from"]);
    let refused = given(&pipeline, &text(0..3));
    refused.expect_code(5).expect_said(&["standard input, partition 0: the state goes on at offset"]);
    assert_same("rows after refusals", &from_ndjson(&rows), &folded);

    given(&pipeline, &text(0..60)).expect_code(0);
    let of_file = self::pipeline("log.ndjson");
    of_file.write("log.ndjson", text(0..60).as_bytes());
    of_file.run_to_end(&[]).expect_code(0);
    assert_same("rows of both lives", &from_ndjson(&rows), &from_ndjson(&of_file.path("rows.ndjson")));
}

#[test]
fn a_stream_that_is_no_lines_is_refused_by_what_it_is() {
    let pipeline = pipeline("-");
    given(&pipeline, "[\n1,\n2]\n").expect_code(2).expect_said(&["standard input is one JSON array"]);
}
