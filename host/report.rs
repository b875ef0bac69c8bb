//! How commands print: answers on standard output, failures on standard error, one line for each check.

use std::io::Write;
use std::process::ExitCode;

use crate::failure::{Check, Exit, Failure, Finding};
use crate::observe::log::Format;
use crate::observe::progress;

/// Tells a failure on standard error, and gives its exit code.
pub fn report(failure: &Failure, format: Format) -> ExitCode {
    match format {
        Format::Human => progress::beside(|| eprintln!("keyfold: {failure}")),
        Format::Json => tracing::error!(event = "failed", exit = failure.exit as u8, "{failure}"),
    }
    exit_code(failure.exit)
}

/// Writes a command's answer to standard output. A reader that has gone away is no failure.
pub fn answer(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
}

/// The exit code of `keyfold check`: that of the first refusal.
pub fn check_code(checks: &[Check]) -> ExitCode {
    first_refusal(checks).map_or(ExitCode::SUCCESS, exit_code)
}

fn first_refusal(checks: &[Check]) -> Option<Exit> {
    checks.iter().find_map(|check| match check.finding {
        Finding::Refused(exit) => Some(exit),
        Finding::Fine | Finding::Warning => None,
    })
}

fn exit_code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}

/// A line for each thing that was checked, in columns.
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
        assert_eq!(first_refusal(&checks), Some(Exit::Outside));
        assert_eq!(first_refusal(&checks[..2]), None);
    }
}
