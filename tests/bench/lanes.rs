//! What a lane costs that has nothing to do: threads, open files, memory and CPU of a host with `ordering = "partition"`, and how long it takes
//! to start and to stop.
//!
//! ```text
//! cargo bench --bench lanes -- [--partitions 1,64] [--seconds 30] [--program PATH]
//! ```
//!
//! `--partitions 1,64,1000` takes some minutes more. Each partition holds a few visits whose sessions stay open, so each lane has something
//! to fold and to keep. Skipped, with a loud line, where no broker can be had.

#![expect(clippy::disallowed_methods, reason = "real processes are waited for by the machine's clock")]

#[path = "../support/mod.rs"]
#[allow(unused_imports, reason = "the tests use the rest")]
mod support;

#[path = "../services/service.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
mod service;
#[path = "../services/topics.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
mod topics;

#[allow(dead_code, reason = "the other benches use the rest")]
mod subject;
#[allow(dead_code, reason = "the other benches use the rest")]
mod vitals;
#[allow(dead_code, reason = "the other benches use the rest")]
mod sessions;

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;

use sessions::{OPEN, Visits};
use support::host::{Pipeline, Running};
use vitals::{Vitals, mib};

/// Visits in each partition.
const VISITS: u64 = 20;
/// How long lanes may take to start, and the process to end.
const PATIENCE: Duration = Duration::from_secs(600);
/// A host that uses less than this of a core more than in the second before has settled.
const SETTLED: Duration = Duration::from_millis(50);

/// What to measure.
#[derive(Clone, Debug, Parser)]
#[command(about = "What lanes cost that have nothing to do")]
struct Arguments {
    /// Partitions, each a lane; one row of the table for each number.
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    partitions: Vec<u32>,
    /// How long the host is watched at rest.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Another build of keyfold, measured instead of this one.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(brokers) = service::kafka() else { return };
    println!("\nlanes of a few visits each; at rest for {} s", arguments.seconds);
    println!(
        "\n| lanes | start | all lanes started after | CPU by then | threads at most | threads at rest | files at rest | RSS peak MiB | RSS at rest MiB | CPU of a core at rest | from SIGTERM to exit |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for &partitions in &arguments.partitions {
        let topic: &'static str = format!("lanes-{partitions}").leak();
        let mut visits = Visits::over(&brokers, topic, partitions);
        visits.append(1..=VISITS * u64::from(partitions));
        let partition = format!("topic = \"{topic}\"\nordering = \"partition\"");
        let settings = visits.settings(OPEN, "5s").replace(&format!("topic = \"{topic}\""), &partition);
        let pipeline = Pipeline::new(&settings);
        for start in ["new", "again"] {
            measure(&pipeline, start, partitions, &arguments);
        }
    }
}

fn measure(pipeline: &Pipeline, start: &str, lanes: u32, arguments: &Arguments) {
    let began = Instant::now();
    let mut host = subject::run(pipeline, arguments.program.as_deref());
    let vitals = Vitals::of(host.id());
    let mut most = 0;
    let started = wait_started(&mut host, lanes, &mut most, began);
    let start_cpu = vitals.cpu();
    wait_settled(vitals, &mut most);
    let (before, since) = (vitals.cpu(), Instant::now());
    while since.elapsed() < Duration::from_secs(arguments.seconds) {
        most = most.max(vitals.threads());
        sleep(Duration::from_millis(200));
    }
    let idle = (vitals.cpu() - before).as_secs_f64() / since.elapsed().as_secs_f64() * 100.0;
    let (threads, files) = (vitals.threads(), vitals.files());
    let (peak, resident) = (mib(vitals.peak()), mib(vitals.resident()));
    let stopping = Instant::now();
    host.terminate(PATIENCE).expect_code(0);
    let stop = stopping.elapsed().as_secs_f64();
    println!(
        "| {lanes} | {start} | {:.2} s | {:.2} s | {most} | {threads} | {files} | {peak} | {resident} | {idle:.2} % | {stop:.2} s |",
        started.as_secs_f64(),
        start_cpu.as_secs_f64(),
    );
}

/// Waits until so many lanes say that they have started; the time since the process began.
fn wait_started(host: &mut Running, lanes: u32, most: &mut u64, began: Instant) -> Duration {
    let vitals = Vitals::of(host.id());
    loop {
        *most = (*most).max(vitals.threads());
        // By the bare words: to read a growing log of a thousand lanes as JSON again and again would take from the host.
        let said = host.stderr().matches("\"lane-started\"").count();
        let at = began.elapsed();
        if said >= lanes as usize {
            return at;
        }
        assert!(host.is_running(), "the host ended; it said:\n{}", host.stderr());
        assert!(at < PATIENCE, "{said} of {lanes} lanes have started; the host said:\n{}", host.stderr());
        sleep(Duration::from_millis(20));
    }
}

/// Waits until two seconds in a row cost the same, when all is folded, and kept by a checkpoint.
fn wait_settled(vitals: Vitals, most: &mut u64) {
    let began = Instant::now();
    // A checkpoint comes every five seconds; the first ones hold what was folded.
    let mut former = Duration::MAX;
    loop {
        let (before, second) = (vitals.cpu(), Instant::now());
        while second.elapsed() < Duration::from_secs(1) {
            *most = (*most).max(vitals.threads());
            sleep(Duration::from_millis(20));
        }
        let now = vitals.cpu() - before;
        let calm = now.abs_diff(former) < SETTLED;
        if (calm && began.elapsed() > Duration::from_secs(12)) || began.elapsed() > Duration::from_secs(60) {
            return;
        }
        former = now;
    }
}
