//! Arguments to one function each to an exit code.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use keyfold::admin::{Line, Shadowing, Wanted, Withdrawal};
use keyfold::author::{self, bench, build, golden, scaffold, trial};
use keyfold::commands::cli::{
    self, Arguments, Command, ConfigFile, DeadLettersCommand, PluginCommand, StateCommand, Target,
};
use keyfold::commands::client::{Client, Probe};
use keyfold::commands::status;
use keyfold::commands::{check, dead_letters, demo, doctor, replay, state};
use keyfold::config::{self, Config};
use keyfold::deployment::{Author, Deployment};
use keyfold::failure::{Check, Exit, Failure};
use keyfold::observe::log::Format;
use keyfold::observe::status::Status;
use keyfold::pipeline::run;
use keyfold::report;
use keyfold::rollout::order::{self, PluginFile, Request};
use keyfold::symptom::Symptom;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let format = match cli::start_logs(&arguments) {
        Ok(format) => format,
        Err(failure) => return report::report(&failure, Format::Human),
    };
    match perform(arguments.command, format) {
        Ok(code) => code,
        Err(failure) => report::report(&failure, format),
    }
}

fn perform(command: Command, format: Format) -> Result<ExitCode, Failure> {
    match command {
        Command::Run { config, until_end, watch } => {
            let (file, mut config) = (config.path(), load(&config)?);
            // A file that changed while no host ran is one more change.
            config.run.deploy_on_start |= watch.is_some();
            run::run(&config, &run::Options { until_end, watch, file: Some(file) })?;
        }
        Command::Demo { keep } => demo::demo(keep)?,
        Command::Check { config } => return Ok(check_all(&config)),
        Command::Doctor { config, json, probe_topic } => return Ok(doctor_all(&config, json, probe_topic)),
        Command::State { command } => report::answer(&of_state(command)?),
        Command::DeadLetters { command } => report::answer(&of_dead_letters(command)?),
        Command::Reset { config } => report::answer(&run::reset(&load(&config)?)?),
        Command::Deploy { target, plugin, plugin_config, like, set, at, reprocess, shadow, dry_run, author } => {
            let Author { by, reason } = author.named();
            let set = set.into_iter().collect();
            let config = plugin_config;
            let wanted = Wanted { config, like, set, at, reprocess, shadow, dry_run, by, reason, ..Wanted::default() };
            return deploy(&target, wanted, plugin);
        }
        Command::Promote { target, at, author } => {
            let Author { by, reason } = author.named();
            return deploy(&target, Wanted { at, promote: true, by, reason, ..Wanted::default() }, None);
        }
        Command::Withdraw { target, n, author } => {
            let author = author.named();
            let n = match target.remote()? {
                Some(host) => host.withdraw(&Withdrawal { n, by: author.by, reason: author.reason })?,
                None => order::withdraw(&load(&target.config)?, n, &author)?,
            };
            report::answer(&format!("deployment {n} is withdrawn: it is as if it had never been"));
        }
        Command::Shadow { target } => {
            let Shadowing { shadow, report } = match target.remote()? {
                Some(host) => host.shadow()?,
                None => {
                    let (shadow, report) = order::shadow(&load(&target.config)?)?;
                    Shadowing { shadow, report }
                }
            };
            let Deployment { plugin, settings, .. } = &shadow.candidate;
            report::answer(&format!("shadow {}: {plugin}, SHA-256 {}\n{report}", shadow.id, settings.plugin.0));
        }
        Command::Drop { target } => {
            let id = match target.remote()? {
                Some(host) => host.drop_shadow()?,
                None => order::drop_shadow(&load(&target.config)?)?.id,
            };
            report::answer(&format!("shadow {id} is dropped"));
        }
        Command::Deployments { target } => {
            let entries = match target.remote()? {
                Some(host) => host.deployments()?,
                None => order::deployments(&load(&target.config)?)?,
            };
            report::answer(&order::lines(&entries));
        }
        Command::Status { target, json: true } => report::answer(&status(&target)?.json()),
        Command::Status { target, json: false } => report::answer(&status(&target)?.to_string()),
        Command::Health { config, ready: true, .. } => return Ok(health(&config, Probe::Ready)),
        Command::Health { config, startup: true, .. } => return Ok(health(&config, Probe::Startup)),
        Command::Health { config, .. } => return Ok(health(&config, Probe::Live)),
        Command::Replay { config, options } => {
            let config = config::load_for_replay(&config.path(), config::environment())?;
            let summary = replay::replay(&config, &options, &mut std::io::stdout().lock())?;
            return Ok(cli::replay_code(summary, format));
        }
        Command::Plugin { command } => return for_authors(command),
    }
    Ok(ExitCode::SUCCESS)
}

fn of_state(command: StateCommand) -> Result<String, Failure> {
    match command {
        StateCommand::List { config, prefix, limit, json } => state::list(&load(&config)?, &prefix, limit, json),
        StateCommand::Get { config, key, json } => state::get(&load(&config)?, &key, json),
        StateCommand::Export { config, out } => state::export(&load(&config)?, &out),
    }
}

fn of_dead_letters(command: DeadLettersCommand) -> Result<String, Failure> {
    match command {
        DeadLettersCommand::List { config, stage, limit, summary: true, json } => {
            dead_letters::summary(&load(&config)?, stage, limit, json)
        }
        DeadLettersCommand::List { config, stage, limit, summary: false, json } => {
            dead_letters::list(&load(&config)?, stage, limit, json)
        }
        DeadLettersCommand::Redrive { config, stage, to, again, dry_run } => {
            dead_letters::redrive(&load(&config)?, &dead_letters::Redriving { stage, to, again, dry_run })
        }
    }
}

fn for_authors(command: PluginCommand) -> Result<ExitCode, Failure> {
    match command {
        PluginCommand::New { name, lang } => {
            let folder = scaffold::create(Path::new("."), &name, lang)?;
            let next = "next: `keyfold plugin test`, then `keyfold plugin build` and `keyfold run`";
            let source = lang.source();
            report::answer(&format!(
                "{} is there; its README is in {source}; {next}, all in that folder",
                folder.display()
            ));
        }
        PluginCommand::Build { folder } => {
            let file = build::build(&folder)?;
            report::answer(&format!("{}\n{}", file.display(), author::check::check(&file, &serde_json::json!({}))?));
        }
        PluginCommand::Test(options) => {
            let all = golden::test(&options, report::answer)?;
            return Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        PluginCommand::Bench(options) => report::answer(&bench::bench(&options)?),
        PluginCommand::Run { file, config, payloads } => {
            let letters = trial::run(&file, &config, payloads)?;
            letters.lines().for_each(|letter| eprintln!("dead letter: {letter}"));
        }
        PluginCommand::Check { file, config } => report::answer(&author::check::check(&file, &config)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn load(file: &ConfigFile) -> Result<Config, Failure> {
    config::load(&file.path(), config::environment())
}

/// What the host says, or else the last checkpoints.
fn status(target: &Target) -> Result<Status, Failure> {
    if let Some(host) = target.remote()? {
        return host.status();
    }
    let config = load(&target.config)?;
    match config.admin.as_ref().map(|admin| Client::here(admin).status()) {
        Some(Err(failure)) if failure.exit != Exit::Outside => Err(failure),
        Some(Ok(status)) => Ok(status),
        Some(Err(_)) | None => status::of_checkpoints(&config),
    }
}

/// 0 if the host says yes, 1 in any other case: containers know no other codes.
fn health(file: &ConfigFile, probe: Probe) -> ExitCode {
    let asked = load(file).and_then(|config| match &config.admin {
        Some(admin) => Client::here(admin).probe(probe),
        None => Err(Failure::new(Exit::Config, "the configuration has no section [admin], so no host can be asked")),
    });
    let (is_well, lines) = asked.unwrap_or_else(|failure| (false, failure.message));
    report::answer(&lines);
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The same with other values of some keys, as variables of the environment would give them.
fn load_with(file: &ConfigFile, set: BTreeMap<String, String>) -> Result<Config, Failure> {
    let variable = |(key, value): (String, String)| (config::variable(&key), value);
    config::load(&file.path(), config::environment().chain(set.into_iter().map(variable)))
}

/// Orders through the admin API, or in the store.
fn deploy(target: &Target, mut wanted: Wanted, plugin: Option<String>) -> Result<ExitCode, Failure> {
    let (checks, order) = if let Some(host) = target.remote()? {
        Client::attach(&mut wanted, plugin)?;
        let answer = host.deploy(&wanted)?;
        (answer.checks.iter().map(Line::check).collect(), answer.order)
    } else {
        let keys: Vec<String> = wanted.set.keys().cloned().collect();
        order::settable(&keys)?;
        let set = if keys.is_empty() { None } else { Some((keys, load_with(&target.config, wanted.set)?)) };
        let request = Request {
            plugin: plugin.map(PluginFile::Named),
            config: wanted.config,
            like: wanted.like,
            set,
            at: wanted.at,
            reprocess: wanted.reprocess,
            shadow: wanted.shadow,
            promote: wanted.promote,
            dry_run: wanted.dry_run,
            author: Author { by: wanted.by, reason: wanted.reason },
        };
        let ordered = order::deploy(&load(&target.config)?, &request)?;
        (ordered.checks, ordered.order.map(|order| order.to_string()))
    };
    report::answer(&report::check_lines(&checks));
    order.iter().for_each(|order| report::answer(order));
    Ok(report::check_code(&checks))
}

/// The configuration's line, and if it is right those of all else.
fn check_all(file: &ConfigFile) -> ExitCode {
    let checks = looked_at(file, check::check);
    report::answer(&report::check_lines(&checks));
    report::check_code(&checks)
}

/// The same by the doctor, with advice.
fn doctor_all(file: &ConfigFile, json: bool, probe_topic: Option<String>) -> ExitCode {
    let checks = looked_at(file, |config| doctor::examine(config, &doctor::Options { probe_topic }));
    let text = if json { doctor::report(&checks) } else { report::check_lines(&doctor::with_advice(&checks)) };
    report::answer(&text);
    report::check_code(&checks)
}

fn looked_at(file: &ConfigFile, look: impl FnOnce(&Config) -> Vec<Check>) -> Vec<Check> {
    match load(file) {
        Ok(config) => {
            let own = Check::fine("config", file.path().display().to_string());
            std::iter::once(own).chain(look(&config)).collect()
        }
        Err(failure) => vec![Check::refused("config", failure).of(Symptom::ConfigWrong)],
    }
}
