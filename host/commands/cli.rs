//! The command line: what may be asked for, and how answers look. Performs nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::author::{Language, bench, golden};
use crate::commands::client::Client;
use crate::commands::replay;
use crate::deployment::Author;
use crate::failure::Failure;
use crate::observe::log::{self, Format};
use crate::observe::progress;
use crate::strike::Stage;

const ABOUT: &str = "Runs keyed folds, written as WebAssembly components, over Kafka topics into idempotent rows";

const LONG_ABOUT: &str = "\
Runs keyed folds, written as WebAssembly components, over Kafka topics into idempotent rows.

A plugin maps records to keyed events, folds the events of each key with state and timers, and emits rows. keyfold owns order, \
time, state and delivery. The rows are a function of the log: a crash, another batch size or a deleted checkpoint changes none.";

const AFTER_HELP: &str = "\
Examples:
  keyfold demo                              see it work, with nothing else running
  keyfold check -c keyfold.toml             look at plugin, topic, table, state; read nothing
  keyfold doctor -c keyfold.toml            look deeper, and say how what is wrong is mended
  keyfold run -c keyfold.toml               run until SIGTERM or SIGINT, which write a checkpoint
  keyfold run -c keyfold.toml --until-end   run up to the ends that the topic has now
  keyfold deploy -c keyfold.toml new.wasm   fold with another plugin from now on
  keyfold withdraw -c keyfold.toml          take that back, as if it had never been
  keyfold status -c keyfold.toml            how it is doing
  keyfold reset -c keyfold.toml             forget the checkpoints; the next run reads it all
  keyfold replay --against new.wasm         show which rows another plugin would give

Exit codes:
  0  done
  1  unexpected: a bug, or a failure that nobody foresaw
  2  the command line or the configuration is wrong
  3  something outside is missing or refuses: broker, topic, credentials, keyspace, table
  4  the plugin is refused, struck under on_strike = \"halt\", or was found by its audit to break the law
  5  the state does not allow it: fenced, trimmed log, other source, newer format

Environment:
  KEYFOLD_CONFIG       the configuration file, where -c does not name one
  KEYFOLD_LOG          what is logged, like \"debug\" or \"warn,keyfold=info\" (the default)
  KEYFOLD_LOG_FORMAT   \"human\" or \"json\", where --log-format does not say it
  KEYFOLD_...          any key of the configuration, its dots as double underscores:
                       KEYFOLD_SOURCE__KAFKA__BROKERS is source.kafka.brokers";

/// What was asked for.
#[derive(Debug, Parser)]
#[command(name = "keyfold", version, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Form of the logs on standard error.
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<Format>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Folds records into rows until told to stop
    ///
    /// Begins where the checkpoint ends, or at the beginning of the log. SIGTERM and SIGINT stop it: what was read is folded, written and
    /// covered by a checkpoint, and the exit code is 0. The source decides the end otherwise: a file ends, a topic does not.
    Run {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Stop at the ends that the topic's partitions have at the start.
        #[arg(long)]
        until_end: bool,
        /// For development: fold with this plugin each time its file changes, from that instant of the log on.
        #[arg(long, value_name = "FILE")]
        watch: Option<PathBuf>,
    },
    /// Plays a whole run with crash and replay, with nothing else running
    ///
    /// Starts a Kafka in this process and a database file, folds visits into sessions, deletes the checkpoint, folds them again, and shows
    /// that each session is there once. Exits with 1 if anything differs.
    Demo {
        /// Keep configuration, state and database in this folder.
        #[arg(long, value_name = "DIR")]
        keep: Option<PathBuf>,
    },
    /// Looks at all that a run needs, and consumes nothing
    ///
    /// A line `ok`, `warn` or `FAIL` for the configuration, plugin, topic, tables and state; the exit code is that of the first FAIL.
    Check {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Looks at all that a run needs and will need, and says how what is wrong is mended
    ///
    /// A line for each thing, as `check` has it, and more: retention against the checkpoint, clocks, keys, replication, who owns each lane.
    /// What is wrong has a name, under which docker/README.md tells more. The exit code is that of the first FAIL.
    Doctor {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// One JSON document instead of lines.
        #[arg(long)]
        json: bool,
        /// Put three records into this topic, which is made if it is not there, to tell the broker's clock.
        #[arg(long, value_name = "NAME")]
        probe_topic: Option<String>,
    },
    /// Shows what keys have as of the last checkpoint, beside the host that folds them
    State {
        /// What about it.
        #[command(subcommand)]
        command: StateCommand,
    },
    /// Shows what could not be folded, and sends it again
    DeadLetters {
        /// What about them.
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
    /// Forgets the checkpoints, so that the next run reads the log from its beginning
    ///
    /// The journal stays: with it the next run gives the same rows. Stop the host first: one that runs on fails at its next checkpoint.
    Reset {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Changes the logic of a running pipeline, from an exact instant of its log on
    ///
    /// Records appended before the instant are folded by the former logic, all others by the new one, in every replay. What can be refused
    /// is refused before, and leaves the running logic untouched: a line `ok`, `warn` or `FAIL` for each thing looked at. The host need not
    /// run. What is not named stays as it is in force; if nothing is named, it is all that the configuration file says.
    Deploy {
        /// Which pipeline.
        #[command(flatten)]
        target: Target,
        /// Another plugin: a component or core module, or builtin:visits.
        plugin: Option<String>,
        /// Another configuration of the plugin, as JSON.
        #[arg(long = "plugin-config", value_name = "JSON", value_parser = json)]
        plugin_config: Option<serde_json::Value>,
        /// Begin with what this former deployment said instead of what is in force.
        #[arg(long, value_name = "N")]
        like: Option<u64>,
        /// Another value of a key of the configuration, like time.out_of_orderness=20s; may be repeated.
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        set: Vec<(String, String)>,
        /// The instant, an append time: RFC 3339 or milliseconds since 1970 [default: as soon as can be]
        #[arg(long, value_name = "TIME", value_parser = instant, allow_hyphen_values = true)]
        at: Option<i64>,
        /// From the beginning of the log: a new history, in which no former deployment ever was.
        #[arg(long, conflicts_with = "at")]
        reprocess: bool,
        /// Put nothing in force: fold beside the live logic, on a clone of its state, and compare the rows; see `keyfold shadow`.
        #[arg(long, conflicts_with_all = ["at", "reprocess"])]
        shadow: bool,
        /// Look at everything, order nothing.
        #[arg(long)]
        dry_run: bool,
        /// Who, and why.
        #[command(flatten)]
        author: AuthorArguments,
    },
    /// Takes a deployment back within its probation, as if it had never been
    ///
    /// The lanes go back to the state before its instant and fold again with the former logic; rows that it replaced are put back, rows that
    /// only it wrote are deleted (or listed, plugin.withdrawn_rows). The probation (plugin.probation) counts in append time from the instant on and
    /// ends when another deployment is ordered. The host need not run: then the next start does it.
    Withdraw {
        /// Which pipeline.
        #[command(flatten)]
        target: Target,
        /// Which deployment [default: the last]
        n: Option<u64>,
        /// Who, and why.
        #[command(flatten)]
        author: AuthorArguments,
    },
    /// Shows in what the rows of the shadow differ from those of the live logic
    Shadow {
        /// Which pipeline.
        #[command(flatten)]
        target: Target,
    },
    /// Deploys what the shadow folds with, from an instant of its own, and ends the shadow
    Promote {
        /// Which pipeline.
        #[command(flatten)]
        target: Target,
        /// The instant, an append time: RFC 3339 or milliseconds since 1970 [default: as soon as can be]
        #[arg(long, value_name = "TIME", value_parser = instant, allow_hyphen_values = true)]
        at: Option<i64>,
        /// Who, and why.
        #[command(flatten)]
        author: AuthorArguments,
    },
    /// Ends the shadow
    Drop {
        /// Which pipeline.
        #[command(flatten)]
        target: Target,
    },
    /// Lists what was deployed, the latest first
    Deployments {
        /// Which pipeline.
        #[command(flatten)]
        target: Target,
    },
    /// Tells how a pipeline is doing: lanes, lag, watermark, what folds them, state, dead letters
    ///
    /// Asks the host that runs here with this configuration, at its `admin.listen`, or the one at --admin. Where none answers, or the
    /// configuration has no [admin], it tells what the last checkpoints say, and says so.
    Status {
        /// Which pipeline.
        #[command(flatten)]
        target: Target,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Asks the host that runs here whether it is alive; exit code 0 if it is, 1 else
    ///
    /// For containers and scripts. Alive is a host whose lanes make progress, wait for input, or wait for the sink. The configuration needs
    /// its section [admin].
    Health {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Whether it is ready: lanes at work, state restored, no outage of sink or dead letters.
        #[arg(long, conflicts_with = "startup")]
        ready: bool,
        /// Whether its start is over.
        #[arg(long)]
        startup: bool,
    },
    /// Folds past records and shows their rows, or in what those of another plugin differ; changes nothing
    ///
    /// Reads from the beginning of the log to its end as of now and writes the rows as NDJSON to standard output. State is in memory; no
    /// journal, sink, dead letter or group offset is touched, and of the configuration only [source], [plugin], [time] and [run] matter. What
    /// a plugin rejects or is struck on is counted and the first of it told on standard error.
    ///
    /// With --against or --against-config two plugins (A, the first, and B) fold the same records, and their rows are compared as in the
    /// tables that they would make, where the last row of a primary key counts. Standard output has a line for each primary key that differs,
    /// with both rows or with the only plugin that has one; standard error a summary at the end. Exit code 0: nothing differs; 1: rows differ.
    Replay {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// What to replay.
        #[command(flatten)]
        options: replay::Options,
    },
    /// For authors of plugins
    Plugin {
        /// What about plugins.
        #[command(subcommand)]
        command: PluginCommand,
    },
}

/// What can be done with keyed state. No lane is taken over.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Lists keys: a line each
    List {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Only keys that begin with this.
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
        /// So many keys at most.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// A JSON object a line; values are base64.
        #[arg(long)]
        json: bool,
    },
    /// Shows all that a key has: value, list, timer
    Get {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// The key.
        key: String,
        /// A JSON object a line; values are base64.
        #[arg(long)]
        json: bool,
    },
    /// Writes all keys into a file, a JSON object a line
    Export {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// The file; it is there when it is whole.
        #[arg(value_name = "FILE")]
        out: PathBuf,
    },
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// Lists them: a line each, or with --summary how many there are of each reason
    List {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Those of one stage: map, time, fold, timer, migrate or sink.
        #[arg(long, value_name = "STAGE", value_parser = stage)]
        stage: Option<Stage>,
        /// So many lines at most.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Count them by stage and reason.
        #[arg(long)]
        summary: bool,
        /// A JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Sends their records again, as new records of a log
    ///
    /// A record that is sent again has a new offset and a new append time; headers named keyfold.redriven.* say where the one is that it
    /// repeats. What was sent by a redrive before is left out. All events of the record are folded again, also those that were none of the
    /// dead letters. What carries no record (timer, migrate, sink) stays.
    Redrive {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Those of one stage: map, time or fold.
        #[arg(long, value_name = "STAGE", value_parser = stage)]
        stage: Option<Stage>,
        /// topic:NAME or file:PATH; without a prefix what the source is [default: the source's topic]
        #[arg(long, value_name = "TOPIC|FILE")]
        to: Option<String>,
        /// Those too that were sent before.
        #[arg(long)]
        again: bool,
        /// Count, and send nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// What can be done with plugins alone.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Makes a folder with a small working plugin, a golden test and a pipeline
    New {
        /// Name of the folder and the plugin.
        name: String,
        /// What it is written in.
        #[arg(long, value_enum, default_value_t)]
        lang: Language,
    },
    /// Builds the plugin of a folder, and says what the file is
    Build {
        /// The folder.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Runs the golden tests of a folder: records in, rows, dead letters and logs out, however the log is cut
    Test(golden::Options),
    /// Measures what a plugin costs per event, where it goes, and what the same logic costs without the sandbox
    Bench(bench::Options),
    /// Folds the records of standard input, and writes the rows to standard output; dead letters go to standard error
    Run {
        /// A component or core module, or builtin:visits.
        file: PathBuf,
        /// Configuration to hand to it, as JSON.
        #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json)]
        config: serde_json::Value,
        /// The lines are payloads, not records with fields: appended from 2100-01-01 on, a millisecond each.
        #[arg(long)]
        payloads: bool,
    },
    /// Looks whether a file is a plugin that keyfold would run, and what it declares
    Check {
        /// A component or core module, or builtin:visits.
        file: PathBuf,
        /// Configuration to hand to it, as JSON.
        #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json)]
        config: serde_json::Value,
    },
}

/// The pipeline that a command is about: by its configuration, or by a host's admin API.
#[derive(Args, Debug)]
pub struct Target {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Ask the host with this admin API, like http://127.0.0.1:9640, instead of its store.
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// The file that holds the admin API's token.
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub token_file: Option<PathBuf>,
}

impl Target {
    /// The admin API, if it is to be asked.
    pub fn remote(&self) -> Result<Option<Client>, Failure> {
        self.admin.as_ref().map(|url| Client::new(url, self.token_file.as_ref())).transpose()
    }
}

/// Who orders something, and why.
#[derive(Args, Debug)]
pub struct AuthorArguments {
    /// Why, for those who look later.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Who orders it [default: the user]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
}

impl AuthorArguments {
    /// Whom the journal names.
    pub fn named(self) -> Author {
        Author { by: self.by.or_else(|| std::env::var("USER").ok()), reason: self.reason }
    }
}

/// Which configuration a command works with.
#[derive(Args, Debug)]
pub struct ConfigFile {
    /// The configuration file [default: KEYFOLD_CONFIG, or keyfold.toml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

impl ConfigFile {
    /// The file that was named here, or by `KEYFOLD_CONFIG`, or the usual one.
    pub fn path(&self) -> PathBuf {
        let variable = || std::env::var_os("KEYFOLD_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        self.file.clone().or_else(variable).unwrap_or_else(|| PathBuf::from("keyfold.toml"))
    }
}

fn stage(text: &str) -> Result<Stage, String> {
    let known = || Stage::ALL.map(Stage::name).join(", ");
    Stage::named(text).ok_or_else(|| format!("there is no such stage; there are {}", known()))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is expected")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn instant(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let time: jiff::Timestamp =
        text.parse().map_err(|e| format!("neither milliseconds since 1970 nor a time of RFC 3339: {e}"))?;
    Ok(time.as_millisecond())
}

/// A value given as JSON.
pub(crate) fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

/// Starts the logs as arguments and environment ask; the form that they have.
pub fn start_logs(arguments: &Arguments) -> Result<Format, Failure> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let format = match (arguments.log_format, variable("KEYFOLD_LOG_FORMAT")) {
        (Some(format), _) => format,
        (None, Some(text)) => Format::from_variable(&text)?,
        (None, None) => Format::Human,
    };
    let default = match arguments.command {
        // The demo tells its own story; the host's would interrupt it.
        Command::Demo { .. } => "error",
        // An author looks for what the plugin says, not the host.
        Command::Plugin { .. } => "warn,keyfold::plugin_log=info",
        _ => log::DEFAULT_FILTER,
    };
    log::start(format, variable("KEYFOLD_LOG").as_deref().unwrap_or(default))?;
    Ok(format)
}

/// Tells on standard error what a replay compared, if it did; the exit code says whether anything differs.
pub fn replay_code(summary: Option<crate::rollout::difference::Summary>, format: Format) -> ExitCode {
    let Some(summary) = summary else { return ExitCode::SUCCESS };
    match format {
        Format::Human => progress::beside(|| eprintln!("{summary}")),
        Format::Json => tracing::info!(event = "replay-compared", "{summary}"),
    }
    ExitCode::from(u8::from(summary.differs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    use std::path::Path;

    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use crate::config::Component;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_arguments_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn run_takes_a_file_and_an_end() {
        let arguments = parse("keyfold run -c a.toml --until-end --log-format json").expect("the line is right");
        assert_eq!(arguments.log_format, Some(Format::Json));
        let Command::Run { config, until_end, .. } = arguments.command else { panic!("expected run") };
        assert!(until_end);
        assert_eq!(config.path(), Path::new("a.toml"));
    }

    #[test]
    fn the_log_format_may_stand_before_the_command() {
        let arguments = parse("keyfold --log-format human demo --keep here").expect("the line is right");
        assert_eq!(arguments.log_format, Some(Format::Human));
        assert!(matches!(arguments.command, Command::Demo { keep: Some(keep) } if keep == Path::new("here")));
    }

    #[test]
    fn health_is_asked_of_one_thing() {
        let command = parse("keyfold health --ready -c a.toml").expect("the line is right").command;
        assert!(matches!(command, Command::Health { ready: true, startup: false, .. }));
        assert_eq!(parse("keyfold health --ready --startup").expect_err("the line is wrong").exit_code(), 2);
        let command = parse("keyfold status --admin http://127.0.0.1:1 --json").expect("the line is right").command;
        assert!(matches!(command, Command::Status { json: true, .. }));
    }

    #[test]
    fn a_plugin_is_checked_with_json() {
        let arguments = parse("keyfold plugin check a.wasm --config {\"a\":1}").expect("the line is right");
        let Command::Plugin { command: PluginCommand::Check { file, config } } = arguments.command else {
            panic!("expected plugin check")
        };
        assert_eq!((file.as_path(), config), (Path::new("a.wasm"), serde_json::json!({"a": 1})));
        let error = parse("keyfold plugin check a.wasm --config {a").expect_err("that is not JSON");
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ValueValidation, 2));
    }

    #[test]
    fn a_replay_takes_plugins_as_files_or_by_name() {
        let line = "keyfold replay -c a.toml --from old --plugin builtin:visits --against b.wasm --against-config {} --records 7";
        let Command::Replay { config, options } = parse(line).expect("the line is right").command else {
            panic!("expected replay")
        };
        assert_eq!(config.path(), Path::new("a.toml"));
        assert_eq!(options.from.as_deref(), Some("old"));
        assert_eq!(options.plugin, Some(Component::Builtin("visits".to_owned())));
        assert_eq!(options.plugin_config, None);
        assert_eq!(options.against, Some(Component::File("b.wasm".into())));
        assert_eq!(options.against_config, Some(serde_json::json!({})));
        assert_eq!(options.records, Some(7));
        for wrong in ["keyfold replay --plugin-config {a", "keyfold replay --records -1"] {
            assert_eq!(parse(wrong).expect_err("the line is wrong").exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn wrong_lines_exit_with_2_and_help_with_0() {
        for line in [
            "keyfold",
            "keyfold rnu",
            "keyfold run --until-ends",
            "keyfold plugin check",
            "keyfold run --log-format xml",
        ] {
            assert_eq!(parse(line).expect_err("the line is wrong").exit_code(), 2, "{line}");
        }
        for line in ["keyfold --help", "keyfold run --help", "keyfold --version"] {
            assert_eq!(parse(line).expect_err("help is no command").exit_code(), 0, "{line}");
        }
    }

    #[test]
    fn help_tells_examples_exit_codes_and_environment() {
        let help = Arguments::command().render_long_help().to_string();
        for part in [
            "Examples:",
            "Exit codes:",
            "Environment:",
            "KEYFOLD_SOURCE__KAFKA__BROKERS",
            "The rows are a function of the log",
        ] {
            assert!(help.contains(part), "{part} is not in:\n{help}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 100), "a line is too wide:\n{help}");
        for exit in [Exit::Unexpected, Exit::Config, Exit::Outside, Exit::Plugin, Exit::State] {
            assert!(help.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }
}
