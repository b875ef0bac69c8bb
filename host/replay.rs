//! `keyfold replay`: folds past records in memory and shows their rows, or in what the rows of two plugins differ. Leaves everything as it
//! is: it knows no state, no journal, no sink and no dead letters, and commits no offsets.
//!
//! The order is that of a lane to which each partition's end is known, so nothing is asked and no release is a bet. What a journal holds
//! (floors, strikes) is not known here.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli;
use crate::clock;
use crate::config::{self, Component, Config, FileFormat, FileSource, KafkaSource, Time};
use crate::dead_letter::{DeadLetter, Stage};
use crate::failure::{Exit, Failure};
use crate::lane::batch::{Core, Counts, Strike, StrikeItem};
use crate::lane::{BATCH_BYTES, QUEUED_BATCHES};
use crate::plugin::{Description, Fault, Plugin};
use crate::record::{NO_TIME, Records};
use crate::row::Rows;
use crate::run::{LogSource, load_plugin_with};
use crate::sink::{bad_json, put_row};
use crate::source::merge::{Merge, Position, Resume};
use crate::source::{Arrival, Source, Start, file, kafka};
pub(crate) use difference::{Difference, Side};

pub use difference::Summary;

mod difference;

/// How many of the items that were not folded are told, for each plugin; all are counted.
const TOLD: usize = 20;
/// How long one wait for the source lasts; then comes the next.
const WAIT: Duration = Duration::from_secs(1);

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
        let mut config = config.clone();
        config.source = self.source(&config.source)?;
        config.plugin = with(config.plugin, self.plugin.as_ref(), self.plugin_config.as_ref());
        Ok(config)
    }

    /// The same with the second plugin, if there is one. `first` is what [`Options::over`] gave.
    fn against(&self, first: &Config) -> Option<Config> {
        if self.against.is_none() && self.against_config.is_none() {
            return None;
        }
        let plugin = with(first.plugin.clone(), self.against.as_ref(), self.against_config.as_ref());
        Some(Config { plugin, ..first.clone() })
    }

    fn source(&self, configured: &config::Source) -> Result<config::Source, Failure> {
        let Some(from) = &self.from else { return Ok(configured.clone()) };
        let path = Path::new(from);
        let is_file = from == "-" || path.is_file();
        Ok(match configured {
            config::Source::File(file) if is_file => {
                config::Source::File(FileSource { path: path.to_owned(), ..file.clone() })
            }
            config::Source::Kafka(kafka) if is_file => config::Source::File(FileSource {
                path: path.to_owned(),
                format: FileFormat::Records,
                timestamp_start_ms: None,
                ordering: kafka.ordering,
            }),
            config::Source::Kafka(kafka) => config::Source::Kafka(KafkaSource { topic: from.clone(), ..kafka.clone() }),
            config::Source::File(_) => {
                let message = format!(
                    "--from {from}: there is no such file, and it can be no topic, as the configured source has no brokers"
                );
                return Err(Failure::new(Exit::Config, message));
            }
        })
    }
}

fn with(plugin: config::Plugin, component: Option<&Component>, config: Option<&serde_json::Value>) -> config::Plugin {
    let component = component.cloned().unwrap_or(plugin.component);
    let config = config.cloned().unwrap_or(plugin.config);
    config::Plugin { component, config, ..plugin }
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

/// A source that reads these partitions from their beginnings to their ends as of now.
pub(crate) fn open(
    config: &Config,
    log: &LogSource,
    partitions: &[u32],
    deadline: Instant,
) -> Result<Box<dyn Source>, Failure> {
    let starts: Vec<Start> = partitions.iter().map(|&partition| Start { partition, ..Start::default() }).collect();
    open_at(config, log, &starts, deadline)
}

/// A source that reads from there to the ends as of now.
pub(crate) fn open_at(
    config: &Config,
    log: &LogSource,
    starts: &[Start],
    deadline: Instant,
) -> Result<Box<dyn Source>, Failure> {
    Ok(match &config.source {
        config::Source::Kafka(kafka) => Box::new(kafka::KafkaSource::open(kafka, starts, true, deadline)?),
        config::Source::File(file) => Box::new(file::FileSource::open(log.index(file)?, starts)?),
    })
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

/// A lane's records to the ends as of the start, in its order.
pub(crate) struct Past {
    source: Box<dyn Source>,
    merge: Merge,
    batch_records: usize,
    /// How many records may still come.
    left: u64,
    /// Whether it goes on from where a former one ended: what sorts before that is taken now, behind it.
    goes_on: bool,
}

impl Past {
    /// At most this many records, if there is a bound.
    pub(crate) fn new(source: Box<dyn Source>, config: &Config, records: Option<u64>) -> Past {
        let anew = |&partition: &u32| (partition, Resume { envelope: NO_TIME, last: None });
        let partitions: Vec<_> = source.partitions().iter().map(anew).collect();
        let merge = Merge::new(&partitions, config.time.clock_skew_ms, None, None, BTreeMap::new());
        let left = records.unwrap_or(u64::MAX);
        Past { source, merge, batch_records: config.run.batch_records, left, goes_on: false }
    }

    /// From where a lane had come.
    pub(crate) fn go_on(
        source: Box<dyn Source>,
        config: &Config,
        from: &[(u32, Resume)],
        last: Option<Position>,
    ) -> Past {
        let merge = Merge::new(from, config.time.clock_skew_ms, last, None, BTreeMap::new());
        Past { source, merge, batch_records: config.run.batch_records, left: u64::MAX, goes_on: true }
    }

    /// Where it has come.
    pub(crate) fn position(&self) -> (Vec<(u32, Resume)>, Option<Position>) {
        (self.merge.resume(), self.merge.last())
    }

    /// The next batch; false when there is none.
    pub(crate) fn next(&mut self, records: &mut Records) -> Result<bool, Failure> {
        records.clear();
        let most = self.batch_records.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        loop {
            self.merge.release(most, BATCH_BYTES, records);
            if records.len() >= most || records.bytes() >= BATCH_BYTES || self.merge.finished() {
                break;
            }
            let (queued, queued_bytes) = (self.batch_records * QUEUED_BATCHES, BATCH_BYTES * QUEUED_BATCHES);
            self.source.hold(&self.merge.overfull(queued, queued_bytes));
            match self.source.next(WAIT)? {
                Some(Arrival::Records { partition, records }) => {
                    let floors = self.merge.push(partition, records);
                    assert!(
                        self.goes_on || floors.is_empty(),
                        "nothing is released before all that sorts before it has come"
                    );
                }
                Some(Arrival::End { partition }) => self.merge.end(partition),
                // That a partition is empty for now decides nothing: its end is known.
                Some(Arrival::Empty { .. }) | None => {}
            }
        }
        self.left -= records.len() as u64;
        Ok(!records.is_empty())
    }
}

/// What becomes of rows.
enum Shown {
    /// They are written.
    Rows,
    /// They are compared.
    Difference(Difference),
}

/// The end of a replay or a shadow by its plugin.
pub(crate) fn halted(plugin: &Plugin, fault: Fault) -> Failure {
    let Description { name, version, .. } = &plugin.description;
    Failure::new(Exit::Plugin, format!("plugin {name} {version} halts: {}", fault.text()))
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
            let what = if is_struck(letter, &output.strikes) { "struck" } else { "rejected" };
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
                self.tell("rejected", Stage::Sink, at, None, &reason);
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
        let (partition, offset, event) = at;
        let plugin = &self.plugin.description.name;
        let stage = stage.name();
        tracing::warn!(side = self.name, plugin, stage, partition, offset, event, key, reason, "{what}");
    }

    fn finish(&self) {
        let Counts { records, events, rejected, late, rows, firings, .. } = self.counts;
        let description = &self.plugin.description;
        tracing::info!(
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
            "replayed"
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
