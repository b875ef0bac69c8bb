//! `keyfold doctor`, `state` and `dead-letters` as a person calls them.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::host::{KEYFOLD, Outcome, PATIENCE, Pipeline};

/// What the doctor finds, with this exit code.
#[track_caller]
pub(crate) fn doctor(pipeline: &Pipeline, code: i32) -> Vec<Value> {
    findings(pipeline.call("doctor", &["--output", "json"]).expect_code(code))
}

/// The findings of a report.
#[track_caller]
pub(crate) fn findings(outcome: &Outcome) -> Vec<Value> {
    let report: Value = serde_json::from_str(&outcome.stdout).expect("the report is JSON");
    report["findings"].as_array().expect("it has a list").clone()
}

/// The names of what is wrong, in their order.
pub(crate) fn ids(findings: &[Value]) -> Vec<String> {
    findings.iter().filter_map(|finding| finding["id"].as_str()).map(str::to_owned).collect()
}

/// A command of two words, like `state get`, with its lines of standard output.
#[track_caller]
pub(crate) fn call(pipeline: &Pipeline, words: [&str; 2], more: &[&str]) -> Outcome {
    let mut command = Command::new(KEYFOLD);
    command.args(words).arg("-c").arg(pipeline.path("keyfold.toml")).args(more);
    command.current_dir(pipeline.path("")).stdin(Stdio::null());
    pipeline.start(command).wait(PATIENCE)
}

/// The objects of a command that gives JSON by lines.
#[track_caller]
pub(crate) fn objects(outcome: &Outcome) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    outcome.stdout.lines().map(parse).collect()
}
