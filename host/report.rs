//! How commands print: answers on standard output, failures on standard error, one line per check.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::{Check, Exit, Failure, Finding, first_refused};
use crate::observe::log::Format;
use crate::observe::progress;
use crate::printable::{one_entry, printable};
use crate::symptom::Symptom;

/// Format of a command's answer on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Text for people; it may change between versions.
    #[default]
    Text,
    /// JSON, one document per line; stable.
    Json,
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Output::Text => "text",
            Output::Json => "json",
        })
    }
}

impl Output {
    /// Returns the answer as text, or as a line of JSON.
    pub fn render<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> String {
        match self {
            Output::Text => text(value),
            Output::Json => line_of(value),
        }
    }
}

/// Returns a value as one line of JSON.
pub fn line_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data becomes JSON")
}

/// Prints a failure on standard error and returns its exit code.
pub fn print_failure(failure: &Failure, format: Format) -> ExitCode {
    match format {
        Format::Human => progress::beside(|| eprintln!("keyfold: {}", one_entry(&failure.message))),
        Format::Json => tracing::error!(event = "failed", exit = failure.exit as u8, "{failure}"),
    }
    failure.exit.into()
}

/// Prints a command's answer on standard output: text of plugins, records and configurations may be part of it. A reader that has closed the pipe is not a failure.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", printable(text.trim_end())).and_then(|()| out.flush());
}

/// Prints what is said instead of performing a command: help, the version, or what is wrong with the command line, whose words may be others'.
pub fn print_usage(said: &clap::Error) -> ExitCode {
    if said.use_stderr() {
        eprint!("{}", printable(&said.render().to_string()));
    } else {
        let _ = said.print();
    }
    ExitCode::from(u8::try_from(said.exit_code()).unwrap_or(Exit::Config as u8))
}

/// Returns the exit code of `keyfold check`: that of the first refused check.
pub fn check_code(checks: &[Check]) -> ExitCode {
    first_refused(checks).map_or(ExitCode::SUCCESS, |(exit, _)| exit.into())
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Returns one line per check, in columns.
pub fn check_lines(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.subject.chars().count()).max().unwrap_or(0);
    let lines: Vec<String> = checks.iter().map(|check| check_line(check, width)).collect();
    lines.join("\n")
}

fn check_line(check: &Check, width: usize) -> String {
    let verdict = match check.finding {
        Finding::Fine => "ok",
        Finding::Warning => "warn",
        Finding::Refused(_) => "FAIL",
    };
    let indent = format!("\n{:1$}", "", "FAIL  ".len() + width + 2);
    let detail = check.detail.replace('\n', &indent);
    format!("{verdict:4}  {:width$}  {detail}", check.subject).trim_end().to_owned()
}

/// Returns the checks as the JSON document of `keyfold check`, `doctor` and `deployment create`.
pub fn check_document(checks: &[Check]) -> Value {
    let finding = |check: &Check| {
        let (verdict, exit) = match check.finding {
            Finding::Fine => ("ok", None),
            Finding::Warning => ("warn", None),
            Finding::Refused(exit) => ("fail", Some(exit as u8)),
        };
        json!({
            "verdict": verdict,
            "id": check.symptom.map(Symptom::name),
            "subject": check.subject,
            "found": check.detail,
            "advice": check.symptom.map(Symptom::advice),
            "exit": exit,
            "figures": check.figures,
        })
    };
    json!({"keyfold": env!("CARGO_PKG_VERSION"), "findings": checks.iter().map(finding).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_lines_in_columns() {
        let checks = [
            Check::fine("config", "keyfold.toml"),
            Check::warning("topic visits", "one partition"),
            Check::refused("table a.b", Failure::new(Exit::Outside, "missing\n  create it")),
            Check::refused("state", Failure::new(Exit::State, "newer format")),
        ];
        let expected = "\
ok    config        keyfold.toml
warn  topic visits  one partition
FAIL  table a.b     missing
                      create it
FAIL  state         newer format";
        assert_eq!(check_lines(&checks), expected);
    }

    #[test]
    fn the_document_names_each_problem_with_its_advice() {
        let missing = Check::refused("source", Failure::new(Exit::Outside, "no topic")).of(Symptom::TopicMissing);
        let document = check_document(&[Check::fine("plugin", "visits"), missing]);
        assert_eq!(document["findings"][0]["id"], Value::Null);
        let found = &document["findings"][1];
        assert_eq!(
            (&found["id"], &found["verdict"], &found["exit"], &found["advice"]),
            (&json!("topic-missing"), &json!("fail"), &json!(3), &json!(Symptom::TopicMissing.advice()))
        );
    }
}
