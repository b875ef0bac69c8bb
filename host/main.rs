//! Arguments to one function each to an exit code.

use std::process::ExitCode;

use clap::Parser;
use keyfold::cli::{self, Arguments, Command, ConfigFile, PluginCommand};
use keyfold::config::{self, Config};
use keyfold::deployment::order::{self, Request};
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
        Command::Run { config, until_end, watch } => {
            let mut config = load(&config)?;
            // A file that changed while no host ran is one more change.
            config.run.deploy_on_start |= watch.is_some();
            run::run(&config, &run::Options { until_end, watch })?;
        }
        Command::Demo { keep } => demo::demo(keep)?,
        Command::Check { config } => return Ok(check_all(&config)),
        Command::Reset { config } => cli::answer(&run::reset(&load(&config)?)?),
        Command::Deploy { config, plugin, plugin_config, like, set, at, reprocess, shadow, dry_run, author } => {
            let keys: Vec<String> = set.iter().map(|(key, _)| key.clone()).collect();
            order::settable(&keys)?;
            let set = if keys.is_empty() { None } else { Some((keys, load_with(&config, set)?)) };
            let given = plugin_config;
            let config = load(&config)?;
            let author = author.named();
            let request =
                Request { plugin, config: given, like, set, at, reprocess, shadow, promote: false, dry_run, author };
            return deploy(&config, &request);
        }
        Command::Shadow { config } => {
            let (shadow, report) = order::shadow(&load(&config)?)?;
            cli::answer(&format!(
                "shadow {}: {}, SHA-256 {}\n{report}",
                shadow.id, shadow.candidate.plugin, shadow.candidate.settings.plugin.0
            ));
        }
        Command::Promote { config, at, author } => {
            return deploy(
                &load(&config)?,
                &Request { at, promote: true, author: author.named(), ..Request::default() },
            );
        }
        Command::Drop { config } => {
            let shadow = order::drop_shadow(&load(&config)?)?;
            cli::answer(&format!("shadow {} is dropped", shadow.id));
        }
        Command::Withdraw { config, n, author } => {
            let n = order::withdraw(&load(&config)?, n, &author.named())?;
            cli::answer(&format!("deployment {n} is withdrawn: it is as if it had never been"));
        }
        Command::Deployments { config } => cli::answer(&order::list(&load(&config)?)?),
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

/// The same with other values of some keys, as variables of the environment would give them.
fn load_with(file: &ConfigFile, set: Vec<(String, String)>) -> Result<Config, Failure> {
    let variable = |(key, value): (String, String)| (config::variable(&key), value);
    config::load(&file.path(), config::environment().chain(set.into_iter().map(variable)))
}

fn deploy(config: &Config, request: &Request) -> Result<ExitCode, Failure> {
    let ordered = order::deploy(config, request)?;
    cli::answer(&cli::check_lines(&ordered.checks));
    if let Some(order) = ordered.order {
        cli::answer(&order.to_string());
    }
    Ok(cli::check_code(&ordered.checks))
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
