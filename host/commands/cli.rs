//! The command line: commands, options and help. Performs nothing.

#![allow(rustdoc::broken_intra_doc_links, reason = "clap shows these comments as help, where brackets are text")]

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::replay;
use crate::failure::Failure;
use crate::observe::log::{self, Format};
use crate::report::Output;

pub mod arguments;
pub mod groups;

#[cfg(test)]
mod tests;

use arguments::{ConfigFile, Target};
use groups::{DeadLettersCommand, DeploymentCommand, PluginCommand, StateCommand};

const ABOUT: &str = "Runs keyed folds, written as WebAssembly components, over Kafka topics and writes idempotent rows";

const LONG_ABOUT: &str = "\
Runs keyed folds, written as WebAssembly components, over Kafka topics and writes idempotent rows.

A plugin maps records to keyed events, folds the events of each key with state and timers, and emits rows. keyfold owns order, \
time, state and delivery. The rows are a function of the log and the journal: a crash, a different batch size or a deleted checkpoint \
changes none of them.";

const AFTER_HELP: &str = "\
Examples:
  keyfold demo                                        a complete run with nothing else installed
  keyfold check -c keyfold.toml                       check plugin, topic, tables and state
  keyfold doctor -c keyfold.toml                      check more, with advice for each problem
  keyfold run -c keyfold.toml                         run until SIGTERM or SIGINT
  keyfold run -c keyfold.toml --until-end             run to the current end of the topic
  keyfold deployment create -c keyfold.toml new.wasm  switch to another plugin
  keyfold deployment withdraw -c keyfold.toml         undo that, as if it had never happened
  keyfold status -c keyfold.toml                      show progress, lag and health
  keyfold reset -c keyfold.toml                       delete the checkpoints; the next run replays
  keyfold replay --against new.wasm                   show which rows another plugin would change

Exit codes:
  0  success
  1  internal error: a bug in keyfold, please report it
  2  the command line or the configuration is invalid
  3  an external system is unavailable or refused: broker, topic, credentials, keyspace, table
  4  the plugin was rejected, hit a limit with on_strike = \"halt\", or failed its audit
  5  the stored state rules it out: fenced, log trimmed, different source, newer format

  `replay --against`, `plugin test` and `health` exit with 1 when the answer is no.

Environment:
  KEYFOLD_CONFIG       the configuration file, unless -c names one
  KEYFOLD_LOG          log filter, such as \"debug\" or \"warn,keyfold=info,scylla=off\" (the default)
  KEYFOLD_LOG_FORMAT   \"human\" or \"json\", unless --log-format is given
  KEYFOLD_...          any configuration key, with each dot as a double underscore:
                       KEYFOLD_SOURCE__KAFKA__BROKERS sets source.kafka.brokers";

/// A parsed command line.
#[derive(Debug, Parser)]
#[command(name = "keyfold", version, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Format of the logs on standard error.
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<Format>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fold records into rows until stopped
    ///
    /// Resumes at the last checkpoint, or starts at the beginning of the log. SIGTERM, SIGINT and SIGHUP stop it within 10 s: what was read
    /// is folded, written and covered by a checkpoint, and the exit code is 0. A file source ends at the end of the file; a topic never ends.
    Run {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Stop at the offsets that are the ends of the topic's partitions at startup.
        #[arg(long)]
        until_end: bool,
        /// For development: deploy this plugin each time its file changes.
        #[arg(long, value_name = "FILE")]
        watch: Option<PathBuf>,
        /// For development: delete state and journal first, so that a changed plugin or configuration folds the file from its beginning.
        ///
        /// Refused unless `state.url` is a folder, the source is a file and the sink is no CQL database. No other host may run the pipeline.
        /// Rows, dead letters and files that are there stay: a row with the same primary key is replaced in SQLite, and files grow.
        #[arg(long)]
        fresh: bool,
    },
    /// Show a complete run with a crash and a replay; needs nothing else
    ///
    /// Starts a Kafka broker in this process and a SQLite file, folds visits into sessions, deletes the checkpoint, folds them again, and
    /// shows that each session exists exactly once. Exits with 1 if anything differs.
    Demo {
        /// Keep configuration, state and database in this folder.
        #[arg(long, value_name = "DIR")]
        keep: Option<PathBuf>,
    },
    /// Check everything that a run needs; consumes nothing
    ///
    /// Prints a line `ok`, `warn` or `FAIL` for configuration, plugin, topic, tables and state. Tries the plugin on some records, and warns if most
    /// would be rejected or late. Exits with the code of the first FAIL.
    ///
    /// JSON: {"keyfold": VERSION, "findings": [{"verdict": "ok"|"warn"|"fail", "id": SYMPTOM|null, "subject", "found", "advice": TEXT|null,
    /// "exit": CODE|null, "figures": NUMBERS|null}]}.
    Check {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Check everything that a run needs now and later, with advice
    ///
    /// Does what `check` does, and also looks at retention against the checkpoint, clocks, keys, replication and the owner of each lane.
    /// Each problem has a stable name; host/docs/operations.md has a section for each. Exits with the code of the first FAIL.
    ///
    /// JSON: as `check` prints.
    Doctor {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
        /// Write three records to this topic to measure the broker's clock; the topic is created if it does not exist.
        #[arg(long, value_name = "NAME")]
        probe_topic: Option<String>,
    },
    /// Show how a pipeline is doing: lanes, lag, watermark, deployment, state, dead letters
    ///
    /// Asks the host at the configuration's `admin.listen`, or the one at --admin. If no host answers, or the configuration has no [admin]
    /// section, shows the last checkpoints and says so.
    ///
    /// JSON: the document that the admin API returns for `GET /v1/status`.
    Status {
        /// The pipeline.
        #[command(flatten)]
        target: Target,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Ask the local host whether it is alive; exits with 0 if so, with 1 if not
    ///
    /// For containers and scripts. A host is alive while its lanes make progress, wait for input, or wait for the sink. Needs the [admin]
    /// section.
    ///
    /// JSON: {"healthy": true|false, "lines": [TEXT]}.
    Health {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Ask whether it is ready: lanes running, state restored, sink and dead letters available.
        #[arg(long, conflicts_with = "startup")]
        ready: bool,
        /// Ask whether startup is complete.
        #[arg(long)]
        startup: bool,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// List, create and withdraw deployments; manage the shadow
    Deployment {
        /// The action.
        #[command(subcommand)]
        command: DeploymentCommand,
    },
    /// Show the state of keys as of the last checkpoint, while the host keeps running
    State {
        /// The action.
        #[command(subcommand)]
        command: StateCommand,
    },
    /// List dead letters, or send their records again
    DeadLetters {
        /// The action.
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
    /// Delete the checkpoints, so that the next run replays the log from its beginning
    ///
    /// The journal is kept, and with it the next run produces the same rows. Stop the host first: a running host fails at its next
    /// checkpoint.
    ///
    /// JSON: {"deleted_objects": N}.
    Reset {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Fold past records and print their rows, or compare two plugins; changes nothing
    ///
    /// Reads the log from its beginning to its current end and prints the rows as NDJSON. State is kept in memory; the journal, the sink, the
    /// dead letters and the consumer group are not touched. Only [source], [plugin], [time] and [run] of the configuration are used. What a
    /// plugin rejects or fails on is counted, and the first cases are logged.
    ///
    /// With --against or --against-config, two plugins (A, the first, and B) fold the same records. Their rows are compared as they would
    /// stand in their tables, where the last row of a primary key counts. Prints one NDJSON line per primary key that differs, with the rows
    /// of both plugins or of the only one that has a row, and a summary on standard error. Exits with 0 if the tables are equal, with 1 if
    /// not.
    ///
    /// JSON: the summary on standard error is {"same": N, "different": N, "only_a": N, "only_b": N}.
    Replay {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// What to replay.
        #[command(flatten)]
        options: replay::Options,
        /// Format of the summary.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Create, build, test and measure plugins
    Plugin {
        /// The action.
        #[command(subcommand)]
        command: PluginCommand,
    },
    /// Compile and try a plugin within limits, for a host that does not trust it yet
    #[command(hide = true)]
    JudgePlugin,
    /// Print a JSON Schema of keyfold.toml, for editors and CI
    Schema,
    /// Print a completion script for a shell
    ///
    /// For bash: `keyfold completions bash > ~/.local/share/bash-completion/completions/keyfold`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page per command into a folder
    Man {
        /// The folder; it must exist.
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

/// Starts logging as arguments and environment ask; returns the format.
pub fn start_logs(arguments: &Arguments) -> Result<Format, Failure> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let format = match (arguments.log_format, variable("KEYFOLD_LOG_FORMAT")) {
        (Some(format), _) => format,
        (None, Some(text)) => Format::from_variable(&text)?,
        (None, None) => Format::Human,
    };
    let default = match arguments.command {
        // The demo tells its own story; the host's logs would interrupt it.
        Command::Demo { .. } => "error",
        // An author looks for the plugin's own log lines.
        Command::Plugin { .. } => "warn,keyfold::plugin_log=info",
        _ => log::DEFAULT_FILTER,
    };
    log::start(format, variable("KEYFOLD_LOG").as_deref().unwrap_or(default))?;
    Ok(format)
}
