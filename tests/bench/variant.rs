//! What is compared, and how each is run.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::Arguments;
use crate::measure::{self, Used};
use crate::support::host::{KEYFOLD, Pipeline, logged, logged_by, number};
use crate::support::settings::Settings;

/// The topic with the log.
pub(crate) const TOPIC: &str = "visits";
/// A topic without a record.
pub(crate) const EMPTY: &str = "nothing";
/// Where the CQL sink writes.
pub(crate) const KEYSPACE: &str = "bench";

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Variant {
    /// Consumption message by message, nothing else.
    Raw,
    /// Consumption by batch, nothing else.
    RawBatch,
    /// The loop that one would write by hand: message by message, serde_json, a HashMap; no durability.
    Plain,
    /// The same by batch, with the plugin's own parser.
    PlainBatch,
    /// keyfold on an empty topic: what start and stop cost.
    KeyfoldNothing,
    /// keyfold without a sink.
    KeyfoldDiscard,
    /// keyfold into SQLite.
    KeyfoldSqlite,
    /// keyfold into a CQL database.
    KeyfoldCql,
}

impl Variant {
    /// In the order of the table.
    pub(crate) const ALL: [Variant; 8] = [
        Variant::Raw,
        Variant::RawBatch,
        Variant::Plain,
        Variant::PlainBatch,
        Variant::KeyfoldNothing,
        Variant::KeyfoldDiscard,
        Variant::KeyfoldSqlite,
        Variant::KeyfoldCql,
    ];

    /// As it is given on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().expect("no variant is skipped").get_name().to_owned()
    }

    fn is_keyfold(self) -> bool {
        !matches!(self, Variant::Raw | Variant::RawBatch | Variant::Plain | Variant::PlainBatch)
    }
}

/// Where the services are.
#[derive(Debug)]
pub(crate) struct Place {
    /// Bootstrap address.
    pub(crate) brokers: String,
    /// Port of the database, if it is needed.
    pub(crate) cql_port: Option<u16>,
}

/// A variant, run by one program, and its runs.
#[derive(Debug)]
pub(crate) struct Column {
    /// The variant.
    pub(crate) variant: Variant,
    /// The build of keyfold, if it is not this one.
    beside: Option<PathBuf>,
    /// In the order of time.
    pub(crate) runs: Vec<Used>,
}

/// The columns to run; of keyfold's variants two each, if there is another build beside this one.
pub(crate) fn columns(variants: &[Variant], arguments: &Arguments) -> Vec<Column> {
    let mut columns = Vec::new();
    for &variant in variants {
        columns.push(Column { variant, beside: None, runs: Vec::new() });
        if let Some(beside) = arguments.beside.clone().filter(|_| variant.is_keyfold()) {
            columns.push(Column { variant, beside: Some(beside), runs: Vec::new() });
        }
    }
    columns
}

impl Column {
    /// The variant's name, with the other build marked.
    pub(crate) fn name(&self) -> String {
        format!("{}{}", self.variant.name(), if self.is_beside() { " (beside)" } else { "" })
    }

    /// Whether another build of keyfold ran this.
    pub(crate) fn is_beside(&self) -> bool {
        self.beside.is_some()
    }

    /// Runs it once.
    pub(crate) fn run(&self, place: &Place, arguments: &Arguments) -> Used {
        if self.variant.is_keyfold() {
            let program = self.beside.as_deref().unwrap_or(Path::new(KEYFOLD));
            return run_keyfold(self.variant, program, place, arguments);
        }
        let mut used = measure::this_program(arguments, &["loop", &self.variant.name(), &place.brokers]).run();
        used.rows = used.stdout.trim().parse().expect("a loop prints how many rows it made");
        used
    }
}

fn run_keyfold(variant: Variant, program: &Path, place: &Place, arguments: &Arguments) -> Used {
    let (topic, records) = if variant == Variant::KeyfoldNothing { (EMPTY, 0) } else { (TOPIC, arguments.events) };
    let settings = Settings {
        checkpoint_interval: arguments.checkpoint_interval.clone(),
        run: "workers = 2".to_owned(),
        ..Settings::default()
    }
    .over_kafka(&place.brokers, topic);
    let settings = match variant {
        Variant::KeyfoldSqlite => {
            Settings { sink: "[sink.sqlite]\npath = \"rows.db\"\nnow = [\"ingestion_time\"]".to_owned(), ..settings }
        }
        Variant::KeyfoldCql => settings.into_cql(place.cql_port.expect("the variant is left out without it"), KEYSPACE),
        _ => Settings { sink: "[sink.discard]".to_owned(), ..settings },
    };
    let pipeline = Pipeline::new(&settings.to_toml());
    let mut used = measure::command(program, pipeline.command("run", &["--until-end"])).run();
    // A build from before there were event ids, measured beside this one, says it by its message.
    let former = || logged_by(&used.stderr, "message", "lane stopped").pop();
    let stopped = logged(&used.stderr, "lane-stopped").pop().or_else(former);
    let stopped = stopped.unwrap_or_else(|| panic!("it said:\n{}", used.stderr));
    assert_eq!(number(&stopped, "records"), records, "every record was folded");
    (used.rows, used.checkpoints) = (number(&stopped, "rows"), number(&stopped, "checkpoints"));
    used
}
