//! `keyfold plugin`: the commands for plugin authors. What they do is [`crate::author`]'s.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::author::{Language, bench, build, check, golden, scaffold, trial};
use crate::commands::cli::groups::PluginCommand;
use crate::failure::Failure;
use crate::printable::printable;
use crate::report::{self, Output};

/// Performs a subcommand.
pub fn perform(command: PluginCommand) -> Result<ExitCode, Failure> {
    match command {
        PluginCommand::New { name, lang, output } => report::print(&new(&name, lang, output)?),
        PluginCommand::Build { folder, config, output } => {
            let config = build::configuration(&folder, config.as_deref())?;
            let file = build::build(&folder)?;
            let checked = check::check(&file, &config)?;
            let document = json!({"file": file, "plugin": checked.document()});
            report::print(&output.render(&document, |_| format!("{}\n{checked}", file.display())));
        }
        PluginCommand::Test { options, output } => {
            let all = golden::test(&options, |case| report::print(&output.render(case, ToString::to_string)))?;
            return Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        PluginCommand::Bench { options, output } => {
            let measured = bench::bench(&options)?;
            report::print(&output.render(&measured.document(), |_| measured.to_string()));
        }
        PluginCommand::Run { file, config, payloads } => {
            let letters = trial::run(&file, &config, payloads)?;
            letters.lines().for_each(|letter| eprintln!("dead letter: {}", printable(letter)));
        }
        PluginCommand::Check { file, config, output } => {
            let checked = check::check(&file, &config)?;
            report::print(&output.render(&checked.document(), |_| checked.to_string()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn new(name: &str, language: Language, output: Output) -> Result<String, Failure> {
    let folder = scaffold::create(Path::new("."), name, language)?;
    let source = language.source();
    Ok(output.render(&json!({"folder": folder, "source": source}), |_| {
        format!(
            "{} created; start with {source}\nnext, in that folder: `keyfold plugin test`, then `keyfold plugin build` and `keyfold run`",
            folder.display()
        )
    }))
}
