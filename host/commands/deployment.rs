//! `keyfold deployment`: by the admin API of a host, or in the state store.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::admin::{Answer, Line, ShadowAnswer, Wanted, Withdrawal};
use crate::commands::cli::arguments::{ConfigFile, Target};
use crate::commands::cli::groups::{Create, DeploymentCommand};
use crate::commands::client::Client;
use crate::config::{self, Config};
use crate::deployment::{Author, Deployment};
use crate::failure::{Check, Failure};
use crate::report::{self, Output};
use crate::rollout::order::{self, PluginFile, Request};

/// Performs a subcommand.
pub fn perform(command: DeploymentCommand) -> Result<ExitCode, Failure> {
    match command {
        DeploymentCommand::List { target, output } => report::print(&list(&target, output)?),
        DeploymentCommand::Create(options) => return create(options),
        DeploymentCommand::Promote { target, at, author, output } => {
            let Author { by, reason } = author.into_author();
            return order(&target, Wanted { at, promote: true, by, reason, ..Wanted::default() }, None, output);
        }
        DeploymentCommand::Withdraw { target, n, author, output } => {
            let n = withdraw(&target, n, &author.into_author())?;
            report::print(&output.render(&json!({"withdrawn": n}), |_| {
                format!("deployment {n} is withdrawn, as if it had never happened")
            }));
        }
        DeploymentCommand::Shadow { target, output } => report::print(&shadow(&target, output)?),
        DeploymentCommand::Drop { target, output } => {
            let id = match target.remote()? {
                Some(host) => host.drop_shadow()?,
                None => order::drop_shadow(&target.config.load()?)?.id,
            };
            report::print(&output.render(&json!({"dropped": id}), |_| format!("shadow {id} is dropped")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(target: &Target, output: Output) -> Result<String, Failure> {
    let entries = match target.remote()? {
        Some(host) => host.deployments()?,
        None => order::deployments(&target.config.load()?)?,
    };
    Ok(output.render(&entries, |entries| order::lines(entries)))
}

fn create(options: Create) -> Result<ExitCode, Failure> {
    let Create { target, plugin, plugin_config, like, set, at, reprocess, shadow, dry_run, author, output } = options;
    let Author { by, reason } = author.into_author();
    let (config, set) = (plugin_config, set.into_iter().collect());
    let wanted = Wanted { config, like, set, at, reprocess, shadow, dry_run, by, reason, ..Wanted::default() };
    order(&target, wanted, plugin, output)
}

/// Orders a deployment and prints the checks with what was ordered.
fn order(target: &Target, mut wanted: Wanted, plugin: Option<String>, output: Output) -> Result<ExitCode, Failure> {
    let answer = if let Some(host) = target.remote()? {
        Client::attach(&mut wanted, plugin)?;
        host.deploy(&wanted)?
    } else {
        let request = request(&target.config, wanted, plugin)?;
        Answer::of(&order::deploy(&target.config.load()?, &request)?)
    };
    let checks: Vec<Check> = answer.checks.iter().map(Line::check).collect();
    let mut document = report::check_document(&checks);
    document["deployment"] = answer.deployment.into();
    document["from_ms"] = answer.from_ms.into();
    document["shadow"] = answer.shadow.into();
    report::print(&output.render(&document, |_| {
        let order = answer.order.map(|order| format!("\n{order}")).unwrap_or_default();
        report::check_lines(&checks) + &order
    }));
    Ok(report::check_code(&checks))
}

fn request(file: &ConfigFile, wanted: Wanted, plugin: Option<String>) -> Result<Request, Failure> {
    let keys: Vec<String> = wanted.set.keys().cloned().collect();
    order::settable(&keys)?;
    let set = if keys.is_empty() { None } else { Some((keys, load_with(&file.path(), wanted.set)?)) };
    Ok(Request {
        plugin: plugin.map(PluginFile::Named),
        config: wanted.config,
        like: wanted.like,
        set,
        at: wanted.at,
        reprocess: wanted.reprocess,
        shadow: wanted.shadow,
        promote: wanted.promote,
        dry_run: wanted.dry_run,
        is_held: false,
        author: Author { by: wanted.by, reason: wanted.reason },
    })
}

/// Loads the configuration with other values for some keys, as variables of the environment would give them.
fn load_with(file: &Path, set: impl IntoIterator<Item = (String, String)>) -> Result<Config, Failure> {
    let variables = set.into_iter().map(|(key, value)| (config::variable(&key), value));
    config::load(file, config::environment().chain(variables))
}

fn withdraw(target: &Target, n: Option<u64>, author: &Author) -> Result<u64, Failure> {
    match target.remote()? {
        Some(host) => host.withdraw(&Withdrawal { n, by: author.by.clone(), reason: author.reason.clone() }),
        None => order::withdraw(&target.config.load()?, n, author),
    }
}

fn shadow(target: &Target, output: Output) -> Result<String, Failure> {
    let answer = match target.remote()? {
        Some(host) => host.shadow()?,
        None => {
            let (shadow, report) = order::shadow(&target.config.load()?)?;
            ShadowAnswer { shadow, report }
        }
    };
    Ok(output.render(&answer, |ShadowAnswer { shadow, report }| {
        let Deployment { plugin, settings, .. } = &shadow.candidate;
        format!("shadow {}: {plugin}, SHA-256 {}\n{report}", shadow.id, settings.plugin.0)
    }))
}
