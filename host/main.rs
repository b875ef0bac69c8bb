//! Arguments to one function each to an exit code.

use std::process::ExitCode;

use clap::Parser;
use keyfold::cli::{self, Arguments, Command, ConfigFile, PluginCommand};
use keyfold::config::{self, Config};
use keyfold::failure::{Check, Failure};
use keyfold::log::Format;
use keyfold::{check, demo, plugin, replay, run};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let format = match cli::start_logs(&arguments) {
        Ok(format) => format,
        Err(failure) => return cli::report(&failure, Format::Human),
    };
    match perform(arguments.command, format) {
        Ok(code) => code,
        Err(failure) => cli::report(&failure, format),
    }
}

fn perform(command: Command, format: Format) -> Result<ExitCode, Failure> {
    match command {
        Command::Run { config, until_end } => run::run(&load(&config)?, run::Options { until_end })?,
        Command::Demo { keep } => demo::demo(keep)?,
        Command::Check { config } => return Ok(check_all(&config)),
        Command::Reset { config } => cli::answer(&run::reset(&load(&config)?)?),
        Command::Replay { config, options } => {
            let config = config::load_for_replay(&config.path(), config::environment())?;
            let summary = replay::replay(&config, &options, &mut std::io::stdout().lock())?;
            return Ok(cli::replay_code(summary, format));
        }
        Command::Plugin { command: PluginCommand::Check { file, config } } => {
            cli::answer(&plugin::check_file(&file, &config)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn load(file: &ConfigFile) -> Result<Config, Failure> {
    config::load(&file.path(), config::environment())
}

/// The configuration's line, and if it is right those of all else.
fn check_all(file: &ConfigFile) -> ExitCode {
    let checks = match load(file) {
        Ok(config) => {
            let own = Check::fine("config", file.path().display().to_string());
            std::iter::once(own).chain(check::check(&config)).collect()
        }
        Err(failure) => vec![Check::refused("config", failure)],
    };
    cli::answer(&cli::check_lines(&checks));
    cli::check_code(&checks)
}
