//! The program: parses the command line, performs the command, returns its exit code.

use std::process::ExitCode;

use clap::Parser;
use keyfold::commands::{self, cli};
use keyfold::observe::log::Format;
use keyfold::report;

fn main() -> ExitCode {
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(said) => return report::print_usage(&said),
    };
    let format = match cli::start_logs(&arguments) {
        Ok(format) => format,
        Err(failure) => return report::print_failure(&failure, Format::Human),
    };
    match commands::perform(arguments.command, format) {
        Ok(code) => code,
        Err(failure) => report::print_failure(&failure, format),
    }
}
