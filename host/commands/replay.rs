//! `keyfold replay`: folds past records in memory and shows their rows, or in what the rows of two plugins differ. Leaves everything as it
//! is: it knows no state, no journal, no sink and no dead letters, and commits no offsets.
//!
//! The order is that of a lane to which each partition's end is known, so nothing is asked and no release is a bet. What a journal holds
//! (floors, strikes) is not known here.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::clock;
use crate::commands::cli;
use crate::config::overrides::{overridden, with_plugin};
use crate::config::{Component, Config, Time};
use crate::counts::Counts;
use crate::dead_letter::DeadLetter;
use crate::failure::{Exit, Failure};
use crate::lane::core::Core;
use crate::plugin::Plugin;
use crate::plugin::halted;
use crate::plugin::sandbox::load_plugin_with;
use crate::record::Records;
use crate::rollout::difference::{Difference, Side, Summary};
use crate::row::Rows;
use crate::sink::{bad_json, put_row};
use crate::source::log_source::LogSource;
use crate::source::past::{Past, open};
use crate::strike::Stage;
use crate::strike::{Strike, StrikeItem};

/// How many of the items that were not folded are told, for each plugin; all are counted.
const TOLD: usize = 20;

/// What to replay, with which plugins.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// Read this file, or else this topic of the configured brokers [default: the configured source]
    ///
    /// A file is read in the form that the configuration gives for its own file, else as records. `-` is standard input.
    #[arg(long, value_name = "FILE|TOPIC")]
    pub from: Option<String>,
    /// Fold with this plugin, a file or builtin:visits [default: the configured one]
    #[arg(long, value_name = "PLUGIN", value_parser = component)]
    pub plugin: Option<Component>,
    /// Configuration of the plugin [default: the configured one]
    #[arg(long, value_name = "JSON", value_parser = cli::json)]
    pub plugin_config: Option<serde_json::Value>,
    /// Show in what the rows of this plugin differ [default with --against-config: the same plugin]
    #[arg(long, value_name = "PLUGIN", value_parser = component)]
    pub against: Option<Component>,
    /// Configuration of that plugin [default with --against: the same configuration]
    #[arg(long, value_name = "JSON", value_parser = cli::json)]
    pub against_config: Option<serde_json::Value>,
    /// Fold so many records from the beginning, with ordering = "partition" of each partition [default: all]
    #[arg(long, value_name = "N")]
    pub records: Option<u64>,
}

fn component(text: &str) -> Result<Component, std::convert::Infallible> {
    Ok(Component::named(text, Path::new("")))
}

impl Options {
    /// The configuration with another source and plugin, where they are asked for.
    pub(crate) fn over(&self, config: &Config) -> Result<Config, Failure> {
        overridden(config, self.from.as_deref(), self.plugin.as_ref(), self.plugin_config.as_ref())
    }

    /// The same with the second plugin, if there is one. `first` is what [`Options::over`] gave.
    fn against(&self, first: &Config) -> Option<Config> {
        if self.against.is_none() && self.against_config.is_none() {
            return None;
        }
        let plugin = with_plugin(first.plugin.clone(), self.against.as_ref(), self.against_config.as_ref());
        Some(Config { plugin, ..first.clone() })
    }
}

/// Folds the records that are there now, and writes to `out` the rows as NDJSON or, against a second plugin, a line for each primary key
/// whose rows differ; then the summary comes back. A reader of `out` that has gone away ends it and is no failure.
pub fn replay(config: &Config, options: &Options, out: &mut dyn Write) -> Result<Option<Summary>, Failure> {
    let deadline = clock::instant() + config.run.startup_timeout;
    let config = options.over(config)?;
    let (a, workers) = load_plugin_with(&config, None)?;
    let b = options.against(&config).map(|other| load_plugin_with(&other, None)).transpose()?.map(|(plugin, _)| plugin);
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

/// One plugin's way through the log, or that of two beside each other.
struct Replay<'a> {
    folds: Vec<Fold>,
    shown: Shown,
    workers: Arc<rayon::ThreadPool>,
    time: Time,
    out: &'a mut dyn Write,
}

impl Replay<'_> {
    /// Folds a lane, from no state at all.
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

/// What becomes of rows.
enum Shown {
    /// They are written.
    Rows,
    /// They are compared.
    Difference(Difference),
}

/// Whether the reader is still there.
enum Written {
    All,
    Closed,
}

/// What one plugin did so far.
struct Fold {
    side: Side,
    /// The side's name in logs, where there are two.
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

    /// Folds a batch, tells what could not be folded, and gives the rows.
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

    /// Shows rows, but for those that every sink would refuse.
    fn show(&mut self, rows: &Rows, shown: &mut Shown, out: &mut dyn Write) -> Result<Written, Failure> {
        let mut lines = Vec::new();
        for &row in &rows.order {
            if let Some(reason) = bad_json(rows, row) {
                self.counts.rejected += 1;
                let at = (row.origin.partition, row.origin.offset, row.origin.event);
                self.tell("item-rejected", Stage::Sink, at, None, &reason);
                continue;
            }
            match shown {
                Shown::Rows => {
                    put_row(&mut lines, rows, row);
                    lines.push(b'\n');
                }
                Shown::Difference(difference) => difference.take(self.side, rows, row),
            }
        }
        write(out, &lines)
    }

    /// Tells of an item that was not folded, unless enough were told.
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

/// Whether a dead letter is about one of these strikes.
fn is_struck(letter: &DeadLetter, strikes: &[Strike]) -> bool {
    let record = letter.record.get(0);
    strikes.iter().any(|strike| match &strike.item {
        StrikeItem::Record { partition, offset } => {
            letter.stage == Stage::Map && (*partition, *offset) == (record.partition, record.offset)
        }
        StrikeItem::Event { partition, offset, event } => {
            letter.stage == Stage::Fold
                && (*partition, *offset, Some(*event)) == (record.partition, record.offset, letter.event)
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
        Err(e) => Err(Failure::new(Exit::Outside, format!("standard output: {e}"))),
    }
}
