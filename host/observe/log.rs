//! Logs on standard error: text by default, JSON on request. They make way for a progress bar. Nothing logs per record.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use crate::failure::{Exit, Failure};
use crate::observe::progress;
use crate::printable::{Printed, printable};

/// Format of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The filter if `KEYFOLD_LOG` is not set. In an outage the driver of CQL databases warns of each attempt at each connection; the host says once
/// that the database is unavailable, and why.
pub const DEFAULT_FILTER: &str = "warn,keyfold=info,scylla=off";

impl Format {
    /// Parses the value of `KEYFOLD_LOG_FORMAT`.
    pub fn from_variable(text: &str) -> Result<Format, Failure> {
        match text {
            "human" => Ok(Format::Human),
            "json" => Ok(Format::Json),
            other => {
                let message = format!("KEYFOLD_LOG_FORMAT: expected \"human\" or \"json\", found {other:?}");
                Err(Failure::new(Exit::Config, message))
            }
        }
    }
}

/// Starts logging in this process. `filter` has the syntax of `tracing_subscriber::EnvFilter`.
pub fn start(format: Format, filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        let message =
            format!("KEYFOLD_LOG: {filter:?} is not a valid filter such as \"info\" or \"{DEFAULT_FILTER}\": {error}");
        Failure::new(Exit::Config, message)
    })?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter);
    let started = match format {
        Format::Human => {
            let colors =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            logs.with_writer(move || Lines { colors }).with_ansi(colors).with_target(false).try_init()
        }
        Format::Json => {
            progress::hide();
            logs.with_writer(|| Printed(Beside)).json().flatten_event(true).try_init()
        }
    };
    started.map_err(|error| Failure::new(Exit::Unexpected, format!("cannot start the logs: {error}")))
}

/// Lines of text: each write is one event. What others wrote into a message is part of it, and must not look like another line or speak to the
/// terminal.
struct Lines {
    colors: bool,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Beside.write_all(line(&String::from_utf8_lossy(bytes), self.colors).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Beside.flush()
    }
}

/// An event as it is written: lines after its first are indented, and of all escape sequences only the colors are left that the formatter uses.
fn line(event: &str, colors: bool) -> String {
    let (text, end) = event.strip_suffix('\n').map_or((event, ""), |text| (text, "\n"));
    let text = text.replace('\n', "\n    ");
    if !colors {
        return format!("{}{end}", printable(&text));
    }
    let mut safe = String::with_capacity(text.len());
    let mut parts = text.split("\u{1b}[");
    safe.push_str(&printable(parts.next().unwrap_or_default()));
    for part in parts {
        let code = part.find(|c: char| c != ';' && !c.is_ascii_digit()).filter(|&end| part[end..].starts_with('m'));
        safe.push_str(if code.is_some() { "\u{1b}[" } else { "\\u001b[" });
        safe.push_str(&printable(part));
    }
    safe + end
}

/// Standard error, without tearing a progress bar.
struct Beside;

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        progress::beside(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_valid() {
        EnvFilter::try_new(DEFAULT_FILTER).expect("the default is a filter");
    }

    #[test]
    fn an_event_looks_like_no_other_and_does_not_speak_to_the_terminal() {
        let event = "INFO plugin: a\n2026-01-01 INFO forged\r\u{1b}]0;title\u{7}\n";
        assert_eq!(line(event, false), "INFO plugin: a\n    2026-01-01 INFO forged\\u000d\\u001b]0;title\\u0007\n");
        let colored = "\u{1b}[32m INFO\u{1b}[0m a \u{1b}[2J b\n";
        assert_eq!(line(colored, true), "\u{1b}[32m INFO\u{1b}[0m a \\u001b[2J b\n");
        assert!(!line(colored, false).contains('\u{1b}'));
    }

    #[test]
    fn an_invalid_filter_is_refused() {
        let failure = start(Format::Human, "keyfold=loud").expect_err("there is no such level");
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.message.starts_with("KEYFOLD_LOG: \"keyfold=loud\" is not a valid filter"), "{failure}");
    }

    #[test]
    fn an_unknown_format_is_refused() {
        assert_eq!(Format::from_variable("json"), Ok(Format::Json));
        assert_eq!(Format::from_variable("human"), Ok(Format::Human));
        let failure = Format::from_variable("xml").expect_err("there is no such format");
        assert_eq!(failure.message, "KEYFOLD_LOG_FORMAT: expected \"human\" or \"json\", found \"xml\"");
    }
}
