//! CPU seconds per million events: keyfold end to end beside the loops that one would write by hand, on one topic of a real broker.
//!
//! ```text
//! cargo bench --bench throughput -- [--events 1000000] [--users 50000] [--repetitions 5] \
//!     [--only keyfold-discard,plain] [--checkpoint-interval 5s] [--beside PATH]
//! ```
//!
//! Every variant runs as a process of its own, so that its user and system time are all there is to count; the broker's and the
//! database's are not. Variants take turns within a repetition, so that a machine that gets slower does so for all. Numbers of one
//! machine say little: the ratios to `plain` are what can be compared. Skipped, with a loud line, where no broker can be had.

#![expect(clippy::disallowed_methods, reason = "real processes are waited for by the machine's clock")]

#[path = "../support/mod.rs"]
#[allow(unused_imports, reason = "the tests use the rest")]
mod support;

#[path = "../services/service.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
mod service;
#[path = "../services/tables.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
mod tables;
#[path = "../services/topics.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
mod topics;

mod fold;
mod loops;
mod measure;
mod produce;
mod report;
mod variant;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use variant::{Place, Variant};

/// What to measure.
#[derive(Clone, Debug, Parser)]
#[command(about = "CPU seconds per million events: keyfold beside the loops that one would write by hand")]
struct Arguments {
    /// Events in the log.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Users that they are of.
    #[arg(long, default_value_t = 50_000)]
    users: u64,
    /// Runs of each variant.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Variants, separated by commas; all if none is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Variant>,
    /// keyfold's `state.checkpoint_interval`. On a busy machine a run takes longer and so writes more checkpoints: `60s` leaves the last.
    #[arg(long, default_value = "5s")]
    checkpoint_interval: String,
    /// Another build of keyfold, measured beside this one in the variants of keyfold.
    #[arg(long)]
    beside: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    child: Option<Child>,
}

/// What this program does as its own child.
#[derive(Clone, Debug, Subcommand)]
#[command(hide = true)]
enum Child {
    /// Makes and fills the topics.
    Produce { brokers: String },
    /// Makes the table.
    Table { port: u16 },
    /// Runs a loop.
    Loop { variant: Variant, brokers: String },
}

fn main() {
    let arguments = Arguments::parse();
    match &arguments.child {
        Some(Child::Produce { brokers }) => produce::fill(brokers, arguments.events, arguments.users),
        Some(Child::Table { port }) => tables::Tables::connect(*port).create(variant::KEYSPACE, tables::SESSIONS),
        Some(Child::Loop { variant, brokers }) => println!("{}", loops::run(*variant, brokers, arguments.events)),
        None => compare(&arguments),
    }
}

fn compare(arguments: &Arguments) {
    let wanted = |variant: &Variant| arguments.only.is_empty() || arguments.only.contains(variant);
    let mut variants: Vec<Variant> = Variant::ALL.into_iter().filter(wanted).collect();
    let Some(brokers) = service::kafka() else { return };
    measure::this_program(arguments, &["produce", &brokers]).run();
    let mut place = Place { brokers, cql_port: None };
    if variants.contains(&Variant::KeyfoldCql) {
        place.cql_port = service::cassandra();
        match place.cql_port {
            Some(port) => drop(measure::this_program(arguments, &["table", &port.to_string()]).run()),
            None => variants.retain(|variant| *variant != Variant::KeyfoldCql),
        }
    }
    let mut columns = variant::columns(&variants, arguments);
    for repetition in 1..=arguments.repetitions {
        for column in &mut columns {
            let run = column.run(&place, arguments);
            println!("{repetition}/{}  {:32} {run}", arguments.repetitions, column.name());
            column.runs.push(run);
        }
    }
    report::print(&columns, arguments);
}
