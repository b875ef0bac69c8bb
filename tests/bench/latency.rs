//! From a record's append time to the moment at which its row is in the sink, at the live edge.
//!
//! ```text
//! cargo bench --bench latency -- [--seconds 20] [--warm-up 5] [--only one,eight,many] [--rate N] [--clock-skew 200ms] [--program PATH]
//! ```
//!
//! The append time is the broker's (`LogAppendTime`), read back from the topic afterwards. The moment is that at which this program sees
//! the row in the file of the NDJSON sink, which it reads while it is written. Both are of this machine's clock, in whole milliseconds. Each
//! event gives one row, and keys have state and timers, so checkpoints have something to write. A row that has not come two minutes after the last
//! record counts as infinitely late. Skipped, with a loud line, where no broker can be had.

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

#[allow(dead_code, reason = "the other benches use the rest")]
mod subject;
#[allow(dead_code, reason = "the other benches use the rest")]
mod vitals;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use load::{Load, now_ms};
use subject::Subject;
use support::generate::TestRecord;
use support::host::{Pipeline, plugin_file};
use support::settings::{ADMIN, Settings};
use topics::{create_topic, read_back};

/// Keys that take turns.
const KEYS: u64 = 2_000;
/// How far event times begin behind the clock, ms: they advance by one for each event, so that an event is known by its time.
const BEHIND: i64 = 3_000_000;
/// How long rows that are missing are waited for.
const DRAIN: Duration = Duration::from_secs(120);

/// What to measure.
#[derive(Clone, Debug, Parser)]
#[command(about = "From append time to the row in the sink")]
struct Arguments {
    /// How long records count.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How long they do not count before that.
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Topics, separated by commas; all if none is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Records a second, instead of each topic's own rate.
    #[arg(long)]
    rate: Option<u64>,
    /// `time.clock_skew`: a merged record waits at least so long for a partition that is empty.
    #[arg(long, default_value = "200ms")]
    clock_skew: String,
    /// Another build of keyfold, measured instead of this one.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A topic, all of whose partitions are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// One partition, 10,000 records a second.
    One,
    /// Eight partitions, 5,000 records a second.
    Eight,
    /// 256 partitions, 5,000 records a second.
    Many,
}

impl Kind {
    fn topic(self) -> (&'static str, i32, u64, fn(u64) -> u32) {
        match self {
            Kind::One => ("latency-1", 1, 10_000, |_| 0),
            Kind::Eight => ("latency-8", 8, 5_000, |i| scattered(i) % 8),
            // A producer of records without keys stays with a partition for a while, or each record would be a request of its own.
            Kind::Many => ("latency-256", 256, 5_000, |i| scattered(i / 16) % 256),
        }
    }
}

/// Records do not take their partitions in turn.
fn scattered(i: u64) -> u32 {
    u32::try_from(i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40).expect("24 bits")
}

fn main() {
    let arguments = Arguments::parse();
    let Some(brokers) = service::kafka() else { return };
    println!("\n{} s after {} s of warm-up; clock_skew {}", arguments.seconds, arguments.warm_up, arguments.clock_skew);
    println!(
        "\n| partitions | appended/s | records | p50 ms | p99 ms | p999 ms | max ms | CPU of a core | not folded at the end | drained after |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for kind in Kind::value_variants().iter().filter(|k| arguments.only.is_empty() || arguments.only.contains(k)) {
        measure(*kind, &brokers, &arguments);
    }
}

/// An event that is known by its time.
fn record(i: u64, first_ms: i64, partition: u32) -> TestRecord {
    let value = json!({"key": format!("k{}", i % KEYS), "time": first_ms + i.cast_signed(), "v": 1});
    TestRecord { partition, offset: 0, timestamp: now_ms(), key: None, value: Some(value.to_string().into_bytes()) }
}

fn measure(kind: Kind, brokers: &str, arguments: &Arguments) {
    let (topic, partitions, rate, partition_of) = kind.topic();
    let rate = arguments.rate.unwrap_or(rate);
    create_topic(brokers, topic, partitions, &[("message.timestamp.type", "LogAppendTime")]);
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"mark\", mark = \"\" }}", plugin_file("hostile"));
    // Late events have their rows too: a producer whose partitions get ahead of each other would make many.
    let time = format!("clock_skew = \"{}\"\nlate = \"process\"", arguments.clock_skew);
    let settings = Settings { plugin, time, ..Settings::default() }.over_kafka(brokers, topic);
    let pipeline = Pipeline::new(&format!("{}{ADMIN}", settings.to_toml()));
    let subject = Subject::start(&pipeline, arguments.program.as_deref());
    while !subject.is_ready() {
        sleep(Duration::from_millis(20));
    }

    let first_ms = now_ms() - BEHIND;
    let watch = Watch::start(&pipeline.path("rows.ndjson"), first_ms);
    let load = Load::onto(brokers, topic, rate, move |i| record(i, first_ms, partition_of(i)));
    sleep(Duration::from_secs(arguments.warm_up));
    let (from_ms, from, before) = (now_ms(), Instant::now(), subject.vitals().cpu());
    sleep(Duration::from_secs(arguments.seconds));
    let (until_ms, time) = (now_ms(), from.elapsed().as_secs_f64());
    let cpu = (subject.vitals().cpu() - before).as_secs_f64() / time * 100.0;
    let all = usize::try_from(load.finish()).expect("few");
    let (ended, missing) = (Instant::now(), all - watch.rows().min(all));
    while watch.rows() < all && ended.elapsed() < DRAIN {
        sleep(Duration::from_millis(5));
    }
    let drained =
        if watch.rows() < all { "never".to_owned() } else { format!("{:.1} s", ended.elapsed().as_secs_f64()) };
    let seen = watch.finish();
    subject.stop();

    let latencies = latencies(brokers, topic, first_ms, from_ms..until_ms, &seen);
    let at = |per_mille: usize| quantile(&latencies, per_mille);
    let rate = latencies.len() as f64 / time;
    println!(
        "| {partitions} | {rate:.0} | {} | {} | {} | {} | {} | {cpu:.1} % | {missing} | {drained} |",
        latencies.len(),
        at(500),
        at(990),
        at(999),
        at(1000)
    );
}

/// Latencies of the records that were appended within a span, ascending; of those without a row, the greatest number there is.
fn latencies(brokers: &str, topic: &str, first_ms: i64, span: std::ops::Range<i64>, seen: &[Option<i64>]) -> Vec<i64> {
    let records = read_back(brokers, topic);
    let mut latencies: Vec<i64> = records
        .iter()
        .filter(|record| span.contains(&record.timestamp))
        .map(|record| {
            let value = record.value.as_deref().expect("each record has a value");
            let event: Value = serde_json::from_slice(value).expect("it is JSON");
            let i = index(event["time"].as_i64(), first_ms).expect("each event has a time");
            seen.get(i).copied().flatten().map_or(i64::MAX, |at| at - record.timestamp)
        })
        .collect();
    latencies.sort_unstable();
    latencies
}

fn index(time: Option<i64>, first_ms: i64) -> Option<usize> {
    usize::try_from(time? - first_ms).ok()
}

fn quantile(sorted: &[i64], per_mille: usize) -> String {
    let last = sorted.len().saturating_sub(1);
    match sorted.get(last * per_mille / 1000) {
        None => "-".to_owned(),
        Some(&i64::MAX) => "never".to_owned(),
        Some(latency) => latency.to_string(),
    }
}

/// A thread that reads the sink's file while it is written.
struct Watch {
    stop: Arc<AtomicBool>,
    rows: Arc<AtomicUsize>,
    thread: thread::JoinHandle<Vec<Option<i64>>>,
}

impl Watch {
    /// Of a file that is there or will be, with rows of events whose times count from `first_ms`.
    fn start(path: &Path, first_ms: i64) -> Watch {
        let (stop, rows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (told, counted, path) = (Arc::clone(&stop), Arc::clone(&rows), path.to_path_buf());
        let thread = thread::spawn(move || {
            let mut file = loop {
                match File::open(&path) {
                    Ok(file) => break file,
                    Err(_) if told.load(Ordering::Relaxed) => return Vec::new(),
                    Err(_) => sleep(Duration::from_millis(1)),
                }
            };
            let (mut seen, mut text) = (Vec::new(), Vec::new());
            while !told.load(Ordering::Relaxed) {
                if file.read_to_end(&mut text).expect("the file can be read") == 0 {
                    sleep(Duration::from_millis(1));
                    continue;
                }
                let now = now_ms();
                let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else { continue };
                counted.fetch_add(note(&text[..end], now, first_ms, &mut seen), Ordering::Relaxed);
                text.drain(..=end);
            }
            seen
        });
        Watch { stop, rows, thread }
    }

    /// Rows of events so far.
    fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// When each event's row was seen first.
    fn finish(self) -> Vec<Option<i64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the reader ends")
    }
}

/// Notes the rows of these lines, except those of timers; how many events have their first row now.
fn note(lines: &[u8], now: i64, first_ms: i64, seen: &mut Vec<Option<i64>>) -> usize {
    let mut new = 0;
    for line in lines.split(|byte| *byte == b'\n') {
        let row: Value = serde_json::from_slice(line).expect("a row is JSON");
        if row["v"].as_i64().is_none_or(|count| count < 0) {
            continue;
        }
        let i = index(row["n"].as_i64(), first_ms).expect("a row has its event's time");
        if seen.len() <= i {
            seen.resize(i + 1, None);
        }
        if seen[i].is_none() {
            seen[i] = Some(now);
            new += 1;
        }
    }
    new
}
