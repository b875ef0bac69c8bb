//! The commands of two words: `deployment`, `state`, `dead-letters` and `plugin`.

#![allow(rustdoc::broken_intra_doc_links, reason = "clap shows these comments as help, where brackets are text")]

use std::path::PathBuf;

use clap::{Args, Subcommand};
use url::Url;

use super::arguments::{AuthorArguments, ConfigFile, Target, instant, json, pair, stage};
use crate::author::{Language, bench, golden};
use crate::report::Output;
use crate::strike::Stage;

/// The actions on deployments. The host need not be running.
#[derive(Debug, Subcommand)]
pub enum DeploymentCommand {
    /// List all deployments, latest first
    ///
    /// JSON: the array that the admin API returns for `GET /v1/deployments`, oldest first.
    List {
        /// The pipeline.
        #[command(flatten)]
        target: Target,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Change the logic of a pipeline from an exact instant of its log on
    ///
    /// Records appended before the instant are folded by the former logic and all later ones by the new logic, in every replay. Everything
    /// that can be checked is checked first, with a line `ok`, `warn` or `FAIL` for each check; a refusal leaves the running logic
    /// untouched. What is not named stays as deployed; if nothing is named, the configuration file is deployed.
    ///
    /// JSON: {"keyfold": VERSION, "findings": [as `check` prints], "deployment": N|null, "from_ms": MS|null, "shadow": ID|null}.
    Create(Create),
    /// Withdraw a deployment during its probation, as if it had never happened
    ///
    /// The lanes rewind to the state before its instant and fold again with the former logic. Rows that it replaced are restored; rows that
    /// only it wrote are deleted (or listed, see plugin.withdrawn_rows). The probation (plugin.probation) is counted in append time from the
    /// instant on and ends early when another deployment is created. If no host is running, the next start does the work.
    ///
    /// JSON: {"withdrawn": N}.
    Withdraw {
        /// The pipeline.
        #[command(flatten)]
        target: Target,
        /// Number of the deployment [default: the latest]
        n: Option<u64>,
        /// Author and reason.
        #[command(flatten)]
        author: AuthorArguments,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Show how the rows of the shadow differ from those of the live logic
    ///
    /// JSON: the document that the admin API returns for `GET /v1/shadow`.
    Shadow {
        /// The pipeline.
        #[command(flatten)]
        target: Target,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Deploy the candidate that the shadow folds with, and end the shadow
    ///
    /// JSON: as `deployment create` prints.
    Promote {
        /// The pipeline.
        #[command(flatten)]
        target: Target,
        /// The instant, an append time: RFC 3339 or milliseconds since 1970 [default: as soon as possible]
        #[arg(long, value_name = "TIME", value_parser = instant, allow_hyphen_values = true)]
        at: Option<i64>,
        /// Author and reason.
        #[command(flatten)]
        author: AuthorArguments,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// End the shadow
    ///
    /// JSON: {"dropped": ID}.
    Drop {
        /// The pipeline.
        #[command(flatten)]
        target: Target,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
}

/// The options of `deployment create`.
#[derive(Args, Debug)]
pub struct Create {
    /// The pipeline.
    #[command(flatten)]
    pub target: Target,
    /// Another plugin: a component, a core module, or builtin:visits.
    pub plugin: Option<String>,
    /// Another plugin configuration, as JSON.
    #[arg(long = "plugin-config", value_name = "JSON", value_parser = json)]
    pub plugin_config: Option<serde_json::Value>,
    /// Start from the settings of this former deployment instead of those in force.
    #[arg(long, value_name = "N")]
    pub like: Option<u64>,
    /// Another value for a configuration key, such as time.out_of_orderness=20s; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// The instant, an append time: RFC 3339 or milliseconds since 1970 [default: as soon as possible]
    #[arg(long, value_name = "TIME", value_parser = instant, allow_hyphen_values = true)]
    pub at: Option<i64>,
    /// Take effect from the beginning of the log: a new history without the former deployments.
    #[arg(long, conflicts_with = "at")]
    pub reprocess: bool,
    /// Change nothing: fold beside the live logic on a copy of its state and compare the rows; see `deployment shadow`.
    #[arg(long, conflicts_with_all = ["at", "reprocess"])]
    pub shadow: bool,
    /// Run all checks, then stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Author and reason.
    #[command(flatten)]
    pub author: AuthorArguments,
    /// Format of the answer.
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub output: Output,
}

/// The actions on keyed state. None of them takes over a lane.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// List keys, one per line
    ///
    /// JSON: one object per line: {"lane", "key", "key_base64", "value_base64", "list_base64": [], "timer_ms", "timer", "state_version"}.
    List {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Only keys with this prefix.
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
        /// At most this many keys.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Show everything stored for a key: value, list, timer
    ///
    /// JSON: one object per lane that has the key, as `state list` prints.
    Get {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// The key.
        key: String,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Copy checkpoints and journal to another folder or bucket, while hosts run
    ///
    /// A copy that was not finished cannot be used. JSON: {"lanes": N, "objects": N, "bytes": N}.
    Backup {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// The folder or bucket, which must not hold a pipeline.
        #[arg(value_name = "URL")]
        to: Url,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Copy a backup to state.url, which must not hold a pipeline
    ///
    /// JSON: as `state backup` prints.
    Restore {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// The backup.
        #[arg(value_name = "URL")]
        from: Url,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Write all keys to a file, one JSON object per line
    ///
    /// The file appears only when it is complete. JSON: {"keys": N, "file": PATH, "lanes": {LANE: PARTITION/OFFSET}}.
    Export {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// The file.
        #[arg(value_name = "FILE")]
        out: PathBuf,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
}

/// The actions on dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List dead letters, one per line, or count them by reason
    ///
    /// JSON: one object per line: the dead letter with its "place", or with --summary {"stage", "reason", "count"}.
    List {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Only this stage: map, time, fold, timer, migrate or sink.
        #[arg(long, value_name = "STAGE", value_parser = stage)]
        stage: Option<Stage>,
        /// At most this many lines.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Count them by stage and reason.
        #[arg(long)]
        summary: bool,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Send their records again, as new records of a log
    ///
    /// A redriven record gets a new offset and a new append time; its headers keyfold.redriven.* name the record that it repeats. Records
    /// sent by an earlier redrive are skipped. All events of a record are folded again, including those that did not fail. Dead letters
    /// without a record (timer, migrate, sink) are skipped, and those of a withdrawn deployment.
    ///
    /// JSON: {"target", "dry_run", "records": N, "skipped": {"sent_before", "unsure", "repeated", "without_record", "foreign", "cut",
    /// "withdrawn"}}.
    Redrive {
        /// The configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// Only this stage: map, time or fold.
        #[arg(long, value_name = "STAGE", value_parser = stage)]
        stage: Option<Stage>,
        /// topic:NAME or file:PATH; without a prefix, the same kind as the source [default: the source's topic]
        #[arg(long, value_name = "TOPIC|FILE")]
        to: Option<String>,
        /// Also send records that were sent before.
        #[arg(long)]
        again: bool,
        /// Count the records, send nothing.
        #[arg(long)]
        dry_run: bool,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
}

/// The actions on plugins, without a pipeline.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Create a folder with a small working plugin, a golden test and a pipeline
    ///
    /// JSON: {"folder": PATH, "source": PATH}.
    New {
        /// Name of the folder and the plugin.
        name: String,
        /// Language of the plugin.
        #[arg(long, value_enum, default_value_t)]
        lang: Language,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Build the plugin in a folder and describe the result
    ///
    /// JSON: {"file": PATH, "plugin": {as `plugin check` prints}}.
    Build {
        /// The folder.
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Check the plugin with `plugin.config` of this pipeline, or with this .json file [default: keyfold.toml in the folder]
        #[arg(short = 'c', long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Run a plugin's golden tests: records in, rows, dead letters and logs out, with the log cut in several ways
    ///
    /// JSON: one object per case and line: {"case", "passed": true|false, "detail", "rejected": N|null, "late": N|null,
    /// "open_timers": N|null}.
    Test {
        /// What to test.
        #[command(flatten)]
        options: golden::Options,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Measure what a plugin costs per event, by function, and what the same logic costs without the sandbox
    ///
    /// JSON: {"plugin", "version", "load_ms", "records", "events", "firings", "rows", "rejected", "strikes", "split": null|
    /// {"batch_records", "fits", "fuel_per_record"}, "parts": [{"part", "ns_per_event", "fuel_per_event", "calls", "native_ns_per_event"}]}.
    Bench {
        /// What to measure.
        #[command(flatten)]
        options: bench::Options,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
    /// Fold the records on standard input, print the rows; dead letters go to standard error
    Run {
        /// A component, a core module, or builtin:visits.
        file: PathBuf,
        /// The plugin's configuration, as JSON.
        #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json)]
        config: serde_json::Value,
        /// Treat each line as a payload instead of a record object; append times start at 2100-01-01 and rise by 1 ms.
        #[arg(long)]
        payloads: bool,
    },
    /// Check whether keyfold would run this plugin, and show what it declares
    ///
    /// JSON: {"name", "version", "state_version", "state_encodings", "interface", "bytes", "sha256", "tables": [{"name", "columns": [{"name", "type",
    /// "primary_key"}]}], "config_schema"}.
    Check {
        /// A component, a core module, or builtin:visits.
        file: PathBuf,
        /// The plugin's configuration, as JSON.
        #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json)]
        config: serde_json::Value,
        /// Format of the answer.
        #[arg(long, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
}
