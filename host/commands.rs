//! The commands: a function for each, from arguments to an exit code. A command that does more than call another module has a file here.

use std::process::ExitCode;

use crate::failure::Failure;
use crate::observe::log::Format;
use crate::pipeline::{reset, run};
use crate::plugin::apart;
use crate::private;
use crate::report::{self, Output};

pub mod check;
pub mod cli;
pub mod client;
pub mod dead_letters;
pub mod demo;
pub mod deployment;
pub mod doctor;
pub mod health;
pub mod plugin;
pub mod reference;
pub mod replay;
pub mod state;
pub mod status;

use cli::Command;

/// Performs a command. `format` is the format of the logs.
pub fn perform(command: Command, format: Format) -> Result<ExitCode, Failure> {
    if writes_data(&command) {
        private::keep_private();
    }
    apart::enable();
    match command {
        Command::Run { config, until_end, watch, fresh } => {
            let (file, mut config) = (config.path(), config.load()?);
            if fresh {
                reset::forget(&config)?;
            }
            // The watched file may have changed while no host was running; that is an order too.
            config.run.deploy_on_start |= watch.is_some();
            run::run(&config, &run::Options { until_end, watch, file: Some(file) })?;
        }
        Command::Demo { keep } => demo::demo(keep)?,
        Command::Check { config, output } => return Ok(check::print(&config, output)),
        Command::Doctor { config, output, probe_topic } => return Ok(doctor::print(&config, output, probe_topic)),
        Command::Status { target, output } => {
            report::print(&output.render(&status::status(&target)?, ToString::to_string));
        }
        Command::Health { config, ready, startup, output } => {
            return Ok(health::health(&config, client::Probe::of(ready, startup), output));
        }
        Command::Deployment { command } => return deployment::perform(command),
        Command::State { command } => report::print(&state::perform(command)?),
        Command::DeadLetters { command } => report::print(&dead_letters::perform(command)?),
        Command::Reset { config, output } => report::print(&reset(reset::reset(&config.load()?)?, output)),
        Command::Replay { config, options, output } => return replay::perform(&config, &options, (output, format)),
        Command::Plugin { command } => return plugin::perform(command),
        Command::JudgePlugin => apart::judge()?,
        Command::Schema => report::print(&reference::schema()),
        Command::Completions { shell } => report::print(&reference::completions(shell)),
        Command::Man { folder } => reference::manual(folder.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a command writes what others should not read. What an author builds is for everybody.
fn writes_data(command: &Command) -> bool {
    !matches!(
        command,
        Command::Plugin { .. }
            | Command::Schema
            | Command::Completions { .. }
            | Command::Man { .. }
            | Command::JudgePlugin
    )
}

fn reset(deleted: usize, output: Output) -> String {
    output.render(&serde_json::json!({"deleted_objects": deleted}), |_| match deleted {
        0 => "there are no checkpoints to delete".to_owned(),
        n => format!("checkpoints deleted ({n} objects); the journal is kept, and the next run replays the log"),
    })
}
