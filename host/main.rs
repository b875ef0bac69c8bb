//! The program: parses the command line, performs the command, returns its exit code.

use std::process::ExitCode;

use clap::Parser;
use keyfold::commands::{self, cli};
use keyfold::observe::log::Format;
use keyfold::report;

/// Buffers from this size on are given back to the system as soon as they are freed, bytes.
const LARGE: i32 = 4 << 20;

/// Fixes what the allocator counts as large, so that what a checkpoint or a merge takes for a moment is given back. Otherwise its limit rises with
/// each such buffer, and the next one lies among the keys, whose memory is never whole again (D72).
fn give_back_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

fn main() -> ExitCode {
    give_back_large_buffers();
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
