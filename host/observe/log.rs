//! Logs on standard error: text by default, JSON on request. They make way for a progress bar. Nothing logs per record.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use crate::failure::{Exit, Failure};
use crate::observe::progress;

/// Format of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The filter if `KEYFOLD_LOG` is not set.
pub const DEFAULT_FILTER: &str = "warn,keyfold=info";

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
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Beside);
    let started = match format {
        Format::Human => logs.with_ansi(io::stderr().is_terminal()).with_target(false).try_init(),
        Format::Json => {
            progress::hide();
            logs.json().flatten_event(true).try_init()
        }
    };
    started.map_err(|error| Failure::new(Exit::Unexpected, format!("cannot start the logs: {error}")))
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
