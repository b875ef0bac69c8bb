//! `keyfold schema`, `completions` and `man`: what other tools read about keyfold.

use std::path::Path;

use clap::CommandFactory;

use crate::commands::cli::Arguments;
use crate::config;
use crate::failure::{Exit, Failure};
use crate::report;

/// Returns the JSON Schema of keyfold.toml.
pub fn schema() -> String {
    serde_json::to_string_pretty(&config::schema()).expect("a schema is plain JSON")
}

/// Returns the completion script for a shell.
pub fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "keyfold", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Prints the manual page of `keyfold`, or writes a page per command into `folder`.
pub fn manual(folder: Option<&Path>) -> Result<(), Failure> {
    let command = Arguments::command();
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).expect("writing to memory cannot fail");
        report::print(&String::from_utf8_lossy(&page));
        return Ok(());
    };
    clap_mangen::generate_to(command, folder).map_err(|error| {
        let message = format!("cannot write manual pages to {}: {error}", folder.display());
        Failure::new(Exit::Outside, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_completes_the_commands() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let script = completions(shell);
            assert!(script.contains("dead-letters") && script.contains("withdraw"), "{shell}");
        }
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        manual(Some(folder.path())).expect("the folder is writable");
        for page in ["keyfold.1", "keyfold-run.1", "keyfold-deployment-create.1", "keyfold-dead-letters-redrive.1"] {
            let text = std::fs::read_to_string(folder.path().join(page)).expect("the page was written");
            assert!(text.contains("SYNOPSIS"), "{page}");
        }
    }
}
