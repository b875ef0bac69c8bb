//! Swaps on a live topic: how long a lane folds nothing because of one, and how long it takes from the order to its effect.
//!
//! ```text
//! cargo bench --bench swaps -- [--swaps 20] [--rate 50000]
//! ```
//!
//! The gap is the host's own figure: from the end of the last fold by the former logic to the start of the first by the new one, in one
//! batch, so without waiting for input or sink. Skipped, with a loud line, where no broker can be had.

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
#[path = "../services/load.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod load;

use clap::Parser;
use serde_json::json;

use load::{Load, now_ms};
use support::host::{PATIENCE, Pipeline, logged, number, plugin_file};
use support::settings::Settings;

/// What to measure.
#[derive(Clone, Debug, Parser)]
#[command(about = "Swaps on a live topic: gap, and order to effect")]
struct Arguments {
    /// Deployments, one after another.
    #[arg(long, default_value_t = 20)]
    swaps: usize,
    /// Events a second.
    #[arg(long, default_value_t = 50_000)]
    rate: u64,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(brokers) = service::kafka() else { return };
    let load = Load::start(&brokers, "swaps", arguments.rate);
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"mark\", mark = \"0\" }}", plugin_file("hostile"));
    let sink = "[sink.discard]".to_owned();
    let settings = Settings { plugin, sink, ..Settings::default() }.over_kafka(&brokers, "swaps");
    let pipeline = Pipeline::new(&settings.to_toml());
    let mut host = pipeline.spawn(&[]);
    host.wait_logged("lane-started");
    let (mut ordered, mut effective) = (Vec::new(), Vec::new());
    for i in 1..=arguments.swaps {
        let before = now_ms();
        let config = json!({"mode": "mark", "mark": i.to_string()}).to_string();
        let outcome = pipeline.call("deployment create", &["--plugin-config", &config]);
        outcome.expect_code(0);
        ordered.push(now_ms() - before);
        host.wait_logged_times("swap-finished", i);
        effective.push(now_ms() - before);
    }
    let events = load.finish();
    let outcome = host.terminate(PATIENCE);
    outcome.expect_code(0);
    let gaps: Vec<i64> =
        logged(&outcome.stderr, "swap-finished").iter().map(|line| number(line, "gap_us").cast_signed()).collect();
    println!("{events} events, {} swaps", gaps.len());
    let loads = logged(&outcome.stderr, "deployment-loaded");
    report("loading it beside the lane", "ms", loads.iter().map(|line| number(line, "millis").cast_signed()).collect());
    report("gap in which nothing is folded", "us", gaps);
    report("`keyfold deployment create` from start to end", "ms", ordered);
    report("from its start to the first fold by the new logic", "ms", effective);
}

fn report(what: &str, unit: &str, mut figures: Vec<i64>) {
    figures.sort_unstable();
    let at = |part: usize| figures[(figures.len() * part / 100).min(figures.len() - 1)];
    let (median, most, max) = (at(50), at(90), at(100));
    println!("{what}: median {median} {unit}, nine of ten {most} {unit}, maximum {max} {unit}");
}
