//! `keyfold replay`: folds past records in memory and prints their rows, or how the rows of two plugins differ. Changes nothing: it opens
//! no state, no journal, no sink and no dead letters, and commits no offsets.
//!
//! Records are merged as in a lane that knows the end of each partition, so no partition is asked whether it is empty. Floors and strikes
//! of a journal are not known here.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::clock;
use crate::commands::cli::arguments::{self, ConfigFile};
use crate::config;
use crate::config::overrides::{overridden, with_plugin};
use crate::config::{Component, Config, Time};
use crate::counts::Counts;
use crate::dead_letter::DeadLetter;
use crate::failure::{Exit, Failure};
use crate::lane::core::Core;
use crate::observe::log::Format;
use crate::observe::progress;
use crate::plugin::sandbox::load_plugin;
use crate::plugin::{Plugin, halted};
use crate::position::{Offset, Partition};
use crate::printable::Printed;
use crate::record::Records;
use crate::report::{self, Output};
use crate::rollout::difference::{Difference, Side, Summary};
use crate::row::Rows;
use crate::row::json::{invalid_json, write_row};
use crate::source::log_source::LogSource;
use crate::source::past::{Past, open};
use crate::strike::{Stage, Strike, StrikeItem};

/// How many items that were not folded are logged per plugin; all of them are counted.
const TOLD: usize = 20;

/// Replays, and prints a summary on standard error if two plugins were compared. Returns 1 if their rows differ.
pub fn perform(file: &ConfigFile, options: &Options, (output, logs): (Output, Format)) -> Result<ExitCode, Failure> {
    let config = config::load_for_replay(&file.path(), config::environment())?;
    let Some(summary) = replay(&config, options, &mut Printed(std::io::stdout().lock()))? else {
        return Ok(ExitCode::SUCCESS);
    };
    let Summary { same, different, only_a, only_b } = summary;
    match (output, logs) {
        (Output::Json, _) => {
            let document =
                serde_json::json!({"same": same, "different": different, "only_a": only_a, "only_b": only_b});
            progress::beside(|| eprintln!("{}", report::line_of(&document)));
        }
        (Output::Text, Format::Human) => progress::beside(|| eprintln!("{summary}")),
        (Output::Text, Format::Json) => {
            tracing::info!(event = "replay-compared", same, different, only_a, only_b, "{summary}");
        }
    }
    Ok(ExitCode::from(u8::from(summary.differs())))
}

/// What to replay, with which plugins.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// Read this file or, if there is no such file, this topic of the configured brokers [default: the configured source]
    ///
    /// A file is read in the configured format of the file source, or as records if the source is a topic. `-` is standard input.
    #[arg(long, value_name = "FILE|TOPIC")]
    pub from: Option<String>,
    /// Fold with this plugin: a file or builtin:visits [default: the configured one]
    #[arg(long, value_name = "PLUGIN", value_parser = component)]
    pub plugin: Option<Component>,
    /// Configuration of the plugin [default: the configured one]
    #[arg(long, value_name = "JSON", value_parser = arguments::json)]
    pub plugin_config: Option<serde_json::Value>,
    /// Compare with the rows of this plugin [default with --against-config: the same plugin]
    #[arg(long, value_name = "PLUGIN", value_parser = component)]
    pub against: Option<Component>,
    /// Configuration of the plugin to compare with [default with --against: the same configuration]
    #[arg(long, value_name = "JSON", value_parser = arguments::json)]
    pub against_config: Option<serde_json::Value>,
    /// Fold only this many records from the beginning; per partition with ordering = "partition" [default: all]
    #[arg(long, value_name = "N")]
    pub records: Option<u64>,
}

fn component(text: &str) -> Result<Component, std::convert::Infallible> {
    Ok(Component::named(text, Path::new("")))
}

impl Options {
    /// Returns the configuration with the source and plugin that were asked for.
    pub(crate) fn over(&self, config: &Config) -> Result<Config, Failure> {
        overridden(config, self.from.as_deref(), self.plugin.as_ref(), self.plugin_config.as_ref())
    }

    /// Returns the configuration of the second plugin, if there is one. `first` is what [`Options::over`] returned.
    fn against(&self, first: &Config) -> Option<Config> {
        if self.against.is_none() && self.against_config.is_none() {
            return None;
        }
        let plugin = with_plugin(first.plugin.clone(), self.against.as_ref(), self.against_config.as_ref());
        Some(Config { plugin, ..first.clone() })
    }
}

/// Folds the records that the log holds now. Writes to `out` the rows as NDJSON or, against a second plugin, one line per primary key whose
/// rows differ; returns the summary of the comparison. Stops without a failure when the reader of `out` has closed the pipe.
pub fn replay(config: &Config, options: &Options, out: &mut dyn Write) -> Result<Option<Summary>, Failure> {
    let deadline = clock::instant() + config.run.startup_timeout;
    let config = options.over(config)?;
    let (a, workers) = load_plugin(&config)?;
    let b = options.against(&config).map(|other| load_plugin(&other)).transpose()?.map(|(plugin, _)| plugin);
    let mut replay = Replay { folds: Vec::new(), shown: Shown::Rows, workers, time: config.time, out };
    if let Some(b) = &b {
        replay.shown = Shown::Difference(Difference::new(&a.description.tables, &b.description.tables));
    }
    let sides = [(Side::A, Some(a)), (Side::B, b.clone())];
    replay.folds = sides.into_iter().filter_map(|(side, plugin)| Some(Fold::new(side, b.is_some(), plugin?))).collect();
    let log = LogSource::inspect(&config, deadline)?;
    for partitions in log.lanes(&config) {
        let source = open(&config, &log, &partitions, deadline)?;
        if let Written::Closed = replay.lane(Past::new(source, &config, options.records))? {
            return Ok(None);
        }
    }
    replay.finish()
}

/// A replay of one plugin, or of two on the same records.
struct Replay<'a> {
    folds: Vec<Fold>,
    shown: Shown,
    workers: Arc<rayon::ThreadPool>,
    time: Time,
    out: &'a mut dyn Write,
}

impl Replay<'_> {
    /// Folds a lane, starting without state.
    fn lane(&mut self, mut past: Past) -> Result<Written, Failure> {
        let core = |fold: &Fold| Core::new(Arc::clone(&fold.plugin), Arc::clone(&self.workers), self.time);
        let mut cores: Vec<Core> = self.folds.iter().map(core).collect();
        let mut records = Records::default();
        while past.next(&mut records)? {
            for (fold, core) in self.folds.iter_mut().zip(&mut cores) {
                let rows = fold.batch(core, &records)?;
                if let Written::Closed = fold.show(&rows, &mut self.shown, self.out)? {
                    return Ok(Written::Closed);
                }
            }
        }
        Ok(Written::All)
    }

    fn finish(self) -> Result<Option<Summary>, Failure> {
        self.folds.iter().for_each(Fold::finish);
        let Shown::Difference(difference) = self.shown else { return Ok(None) };
        for line in difference.lines() {
            if let Written::Closed = write(self.out, &line)? {
                break;
            }
        }
        Ok(Some(difference.summary()))
    }
}

/// What happens to rows.
enum Shown {
    /// They are printed.
    Rows,
    /// They are compared.
    Difference(Difference),
}

/// Whether the reader of standard output still reads.
enum Written {
    All,
    Closed,
}

/// The counts of one plugin.
struct Fold {
    side: Side,
    /// The side's name in logs, if there are two.
    name: Option<&'static str>,
    plugin: Arc<Plugin>,
    counts: Counts,
    struck: u64,
    told: usize,
}

impl Fold {
    fn new(side: Side, against: bool, plugin: Arc<Plugin>) -> Fold {
        Fold { side, name: against.then(|| side.name()), plugin, counts: Counts::default(), struck: 0, told: 0 }
    }

    /// Folds a batch, logs what could not be folded, and returns the rows.
    fn batch(&mut self, core: &mut Core, records: &Records) -> Result<Rows, Failure> {
        let output = core.run(records).map_err(|fault| halted(&self.plugin, fault))?;
        self.counts.add(&output.counts);
        self.struck += output.strikes.len() as u64;
        for letter in output.letters.iter().take(TOLD - self.told) {
            let record = letter.record.get(0);
            let key = record.key.filter(|_| letter.stage == Stage::Timer).map(String::from_utf8_lossy);
            let what = if is_struck(letter, &output.strikes) { "item-struck" } else { "item-rejected" };
            let at = (record.partition, record.offset, letter.event);
            self.tell(what, letter.stage, at, key.as_deref(), &letter.reason);
        }
        Ok(output.rows)
    }

    /// Prints or compares rows, except those that every sink would refuse.
    fn show(&mut self, rows: &Rows, shown: &mut Shown, out: &mut dyn Write) -> Result<Written, Failure> {
        let mut lines = Vec::new();
        for &row in &rows.order {
            if let Some(reason) = invalid_json(rows, row) {
                self.counts.rejected += 1;
                let at = (row.origin.partition.0, row.origin.offset.0, row.origin.event);
                self.tell("item-rejected", Stage::Sink, at, None, &reason);
                continue;
            }
            match shown {
                Shown::Rows => {
                    write_row(&mut lines, rows, row);
                    lines.push(b'\n');
                }
                Shown::Difference(difference) => difference.take(self.side, rows, row),
            }
        }
        write(out, &lines)
    }

    /// Logs an item that was not folded, unless enough were logged.
    fn tell(&mut self, what: &str, stage: Stage, at: (u32, u64, Option<u32>), key: Option<&str>, reason: &str) {
        if self.told == TOLD {
            return;
        }
        self.told += 1;
        let (partition, offset, event_index) = at;
        let plugin = &self.plugin.description.name;
        let stage = stage.name();
        tracing::warn!(
            event = what,
            side = self.name,
            plugin,
            stage,
            partition,
            offset,
            event_index,
            key,
            reason,
            "item not folded"
        );
    }

    fn finish(&self) {
        let Counts { records, events, rejected, late, rows, firings, .. } = self.counts;
        let description = &self.plugin.description;
        tracing::info!(
            event = "replay-finished",
            side = self.name,
            plugin = description.name,
            version = description.version,
            digest = self.plugin.digest.0,
            records,
            events,
            late,
            rejected = rejected.saturating_sub(self.struck),
            struck = self.struck,
            rows,
            firings,
            "replay finished"
        );
    }
}

/// Returns whether a dead letter belongs to one of these strikes.
fn is_struck(letter: &DeadLetter, strikes: &[Strike]) -> bool {
    let record = letter.record.get(0);
    strikes.iter().any(|strike| match &strike.item {
        StrikeItem::Record { partition, offset } => {
            letter.stage == Stage::Map && (*partition, *offset) == (Partition(record.partition), Offset(record.offset))
        }
        StrikeItem::Event { partition, offset, event } => {
            letter.stage == Stage::Fold
                && (*partition, *offset, Some(*event))
                    == (Partition(record.partition), Offset(record.offset), letter.event)
        }
        StrikeItem::Timer { key, .. } => {
            letter.stage == Stage::Timer && record.key == Some(key.as_bytes()) && letter.reason == strike.reason
        }
        StrikeItem::State { key, .. } => letter.stage == Stage::Migrate && record.key == Some(key.as_bytes()),
    })
}

fn write(out: &mut dyn Write, lines: &[u8]) -> Result<Written, Failure> {
    match out.write_all(lines).and_then(|()| out.flush()) {
        Ok(()) => Ok(Written::All),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Written::Closed),
        Err(e) => Err(Failure::new(Exit::Outside, format!("cannot write to standard output: {e}"))),
    }
}
