//! What keyed state costs: a restart with many open keys, memory for each of them, checkpoints, a long list, and keys that come back late.
//!
//! ```text
//! cargo bench --bench state -- [--keys 1000000] [--events 500000] [--rate 20000] [--seconds 30] [--memory 512MiB] \
//!     [--only restart,memory,checkpoints,lists,cold] [--program PATH]
//! ```
//!
//! Users of the built-in plugin whose sessions stay open are the keys, in a topic of one partition; rows are dropped. CPU is user and system
//! time of the host's process, which depends less on what else the machine does than times do. How far a host has come is read from its
//! metrics every 20 ms, which costs it some 1 % of a core. What is folded at once was appended while the process was held still by a
//! signal, so that producing it takes nothing from the host. Skipped, with a loud line, where no broker can be had.

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
mod sessions;

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use load::Load;
use sessions::{OPEN, Visits, in_turn};
use subject::{Progress, Subject};
use support::host::Pipeline;
use support::random::Random;
use vitals::{Vitals, mib};

/// What to measure.
#[derive(Clone, Debug, Parser)]
#[command(about = "What keyed state costs: restart, memory, checkpoints, a long list, keys that come back late")]
struct Arguments {
    /// Open keys.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Records folded after a restart, and beside keys that come back late.
    #[arg(long, default_value_t = 500_000)]
    events: u64,
    /// Events a second while checkpoints are written.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// How long checkpoints and a long list are watched.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// What to measure, separated by commas; all if nothing is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// `state.memory`, where keys come back late; the default if it is not given.
    #[arg(long)]
    memory: Option<String>,
    /// Another build of keyfold, measured instead of this one.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Folding after a restart, beside folding the same without one.
    Restart,
    /// Bytes for each open key.
    Memory,
    /// CPU of checkpoints, and how long one keeps the lane from folding.
    Checkpoints,
    /// An event of a key with a long list.
    Lists,
    /// Events of which one in a hundred meets a key that was not seen for long.
    Cold,
}

fn main() {
    let arguments = Arguments::parse();
    let Some(brokers) = service::kafka() else { return };
    let Arguments { keys, events, rate, seconds, .. } = arguments;
    println!("\n{keys} keys, {events} events, {rate} events/s, {seconds} s; one partition, rows dropped");
    println!("\n| part | what | figure |");
    println!("|---|---|---|");
    for part in Part::value_variants().iter().filter(|p| arguments.only.is_empty() || arguments.only.contains(p)) {
        match part {
            Part::Restart => restart(&brokers, &arguments),
            Part::Memory => memory(&brokers, &arguments),
            Part::Checkpoints => checkpoints(&brokers, &arguments),
            Part::Lists => lists(&brokers, &arguments),
            Part::Cold => cold(&brokers, &arguments),
        }
    }
}

fn row(part: Part, what: &str, figure: impl std::fmt::Display) {
    let name = part.to_possible_value().expect("no part is skipped");
    println!("| {} | {what} | {figure} |", name.get_name());
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

/// CPU seconds for a million records.
fn per_million(cpu: Duration, records: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / records as f64
}

/// A host that has folded a visit of each of `keys` users, whose sessions are open.
fn filled(
    brokers: &str,
    topic: &'static str,
    interval: &str,
    keys: u64,
    arguments: &Arguments,
) -> (Visits, Pipeline, Subject) {
    let mut visits = Visits::new(brokers, topic);
    visits.append(1..=keys);
    let memory = arguments.memory.as_ref().map(|size| &*size.clone().leak());
    let pipeline = Pipeline::new(&visits.settings_within(OPEN, interval, memory));
    let mut subject = Subject::start(&pipeline, arguments.program.as_deref());
    subject.watch_until(keys, subject.started());
    (visits, pipeline, subject)
}

// ---- restart

fn restart(brokers: &str, arguments: &Arguments) {
    let Arguments { keys, events, .. } = *arguments;
    let report = |what: &str, figure: &str| row(Part::Restart, what, figure);
    let (mut visits, pipeline, mut subject) = filled(brokers, "restart", "5s", keys, arguments);
    subject.wait_covered();
    subject.wait_at_rest();
    let (warm, warm_cpu) = subject.fold_at_once(events, || visits.append(in_turn(events, keys)));
    let warm_peak = subject.vitals().peak();
    subject.wait_covered();
    let (stop, _) = subject.stop();
    visits.append(in_turn(events, keys));

    let mut subject = Subject::start(&pipeline, arguments.program.as_deref());
    let since = subject.started();
    let cold = subject.watch_until(events, since);
    let cold_cpu = subject.vitals().cpu();
    subject.wait_covered();
    subject.wait_at_rest();
    let rest_cpu = subject.vitals().cpu();
    let rate = warm.rate();
    let reached = cold.reached(0.8 * rate).map_or("never".to_owned(), seconds);
    report("without restart: records/s", &format!("{rate:.0}"));
    report("without restart: all folded after", &seconds(warm.last()));
    report("without restart: CPU", &seconds(warm_cpu));
    report("without restart: longest stretch without a fold", &millis(warm.longest_stretch()));
    report("without restart: peak RSS", &format!("{} MiB", mib(warm_peak)));
    report("stop, from signal to exit", &seconds(stop));
    report("after restart: first record folded after", &seconds(cold.first()));
    report("after restart: 80 % of that rate from", &reached);
    report("after restart: all folded after", &seconds(cold.last()));
    report("after restart: longest stretch without a fold", &millis(cold.longest_stretch()));
    report("after restart: CPU until all are folded", &seconds(cold_cpu));
    report("after restart: CPU until at rest", &seconds(rest_cpu));
    report("after restart: CPU in excess, all folded", &format!("{:.2} s", difference(cold_cpu, warm_cpu)));
    report("after restart: peak RSS", &format!("{} MiB", mib(subject.vitals().peak())));
    report("after restart: RSS at rest", &format!("{} MiB", mib(subject.vitals().resident())));
    subject.stop();
}

fn difference(more: Duration, less: Duration) -> f64 {
    more.as_secs_f64() - less.as_secs_f64()
}

// ---- memory

/// Greatest resident size, and that at rest.
fn sizes(subject: &mut Subject) -> (u64, u64) {
    subject.wait_covered();
    subject.wait_at_rest();
    (subject.vitals().peak(), subject.vitals().resident())
}

fn memory(brokers: &str, arguments: &Arguments) {
    const FEW: u64 = 1_000;
    let keys = arguments.keys;
    // As many visits, so that buffers are as large; sessions end, so that no list grows.
    let mut visits = Visits::new(brokers, "memory-few");
    visits.append((0..keys).map(|i| i % FEW + 1));
    let pipeline = Pipeline::new(&visits.settings("50ms", "5s"));
    let mut subject = Subject::start(&pipeline, arguments.program.as_deref());
    subject.watch_until(keys, subject.started());
    let few = sizes(&mut subject);
    subject.stop();
    let (_, pipeline, mut subject) = filled(brokers, "memory", "5s", keys, arguments);
    let many = sizes(&mut subject);
    subject.stop();
    let mut subject = Subject::start(&pipeline, arguments.program.as_deref());
    let all_loaded = Instant::now();
    while subject.lane("keyfold_state_memory_keys") < keys as f64 && all_loaded.elapsed() < Duration::from_secs(120) {
        sleep(Duration::from_millis(100));
    }
    let loaded = sizes(&mut subject);
    let rest = subject.lane("keyfold_state_memory_keys");
    subject.stop();
    let of_a_key = |more: u64, less: u64| format!("{:.0} bytes", (more as f64 - less as f64) / keys as f64);
    let report = |what: &str, (peak, settled): (u64, u64)| {
        row(Part::Memory, what, format!("{} MiB peak, {} MiB at rest", mib(peak), mib(settled)));
    };
    report(&format!("{FEW} keys"), few);
    report(&format!("{keys} keys"), many);
    report(&format!("{keys} keys, started again, idle ({rest:.0} in memory)"), loaded);
    row(Part::Memory, "for each key, peak", of_a_key(many.0, few.0));
    row(Part::Memory, "for each key, at rest", of_a_key(many.1, few.1));
    row(Part::Memory, "for each key, started again, at rest", of_a_key(loaded.1, few.1));
}

// ---- checkpoints

/// A steady load as it was folded.
struct Steady {
    progress: Progress,
    cpu: Duration,
    checkpoints: f64,
    in_checkpoints: f64,
    last_us: f64,
    bytes: f64,
}

fn checkpoints(brokers: &str, arguments: &Arguments) {
    let [with, without] = [("checkpoints", "5s"), ("no-checkpoints", "1h")]
        .map(|(topic, interval)| steady(brokers, topic, interval, arguments));
    let share = |steady: &Steady| {
        let (first, last) = (steady.progress.begin(), steady.progress.end());
        steady.cpu.as_secs_f64() / (last - first).as_secs_f64() * 100.0
    };
    for (name, steady) in [("every 5 s", &with), ("every hour", &without)] {
        let report = |what: &str, figure: &str| row(Part::Checkpoints, &format!("{name}: {what}"), figure);
        report("events folded", &steady.progress.records().to_string());
        report("CPU of a core", &format!("{:.1} %", share(steady)));
        report("CPU s/1M events", &format!("{:.2}", per_million(steady.cpu, steady.progress.records())));
        report("longest stretch without a fold", &millis(steady.progress.longest_stretch()));
        report("checkpoints", &format!("{:.0}", steady.checkpoints));
    }
    let report = |what: &str, figure: String| row(Part::Checkpoints, what, figure);
    report("CPU of checkpoints, of a core", format!("{:.1} %", share(&with) - share(&without)));
    report(
        "the lane's own time in a checkpoint",
        format!("{:.0} ms", with.in_checkpoints * 1e3 / with.checkpoints.max(1.0)),
    );
    report("the last one, with the wait for the sink", format!("{:.0} ms", with.last_us * 1e3));
    report("the last one, before compression", format!("{:.1} MiB", with.bytes / 1_048_576.0));
}

fn steady(brokers: &str, topic: &'static str, interval: &str, arguments: &Arguments) -> Steady {
    let Arguments { keys, rate, seconds, .. } = *arguments;
    let (mut visits, pipeline, mut subject) = filled(brokers, topic, interval, keys, arguments);
    subject.wait_at_rest();
    let (brokers, topic) = visits.place();
    let (brokers, mut random) = (brokers.to_owned(), Random::new(7));
    let load = Load::onto(&brokers, topic, rate, move |_| visits.next(random.below(keys) + 1));
    sleep(Duration::from_secs(5));
    let before = (subject.lane("keyfold_checkpoints_total"), subject.checkpoint_seconds(), subject.vitals().cpu());
    let progress = subject.watch_for(Duration::from_secs(seconds));
    let cpu = subject.vitals().cpu() - before.2;
    let steady = Steady {
        progress,
        cpu,
        checkpoints: subject.lane("keyfold_checkpoints_total") - before.0,
        in_checkpoints: subject.checkpoint_seconds() - before.1,
        last_us: subject.lane("keyfold_checkpoint_duration_seconds"),
        bytes: subject.lane("keyfold_checkpoint_bytes"),
    };
    load.finish();
    subject.stop();
    drop(pipeline);
    steady
}

// ---- lists

fn lists(brokers: &str, arguments: &Arguments) {
    /// Events a second: few enough that each is a batch of its own.
    const RATE: u64 = 100;
    let keys = arguments.keys;
    let (mut visits, pipeline, mut subject) = filled(brokers, "lists", "5s", keys, arguments);
    let mut cost = |name: &str, list: u64, user: u64, visits: &mut Visits| {
        if list > 0 {
            let folded = subject.folded();
            visits.append((0..list).map(|_| user));
            subject.watch_until(folded + list, Instant::now());
        }
        subject.wait_covered();
        subject.wait_at_rest();
        let time = Duration::from_secs(arguments.seconds / 2);
        let idle = spent(subject.vitals(), time);
        let mut random = Random::new(9);
        let mut more = visits.clone();
        let (brokers, topic) = visits.place();
        let any = move |_| more.next(if user == 0 { random.below(keys) + 1 } else { user });
        let load = Load::onto(brokers, topic, RATE, any);
        let (folded, busy) = (subject.folded(), spent(subject.vitals(), time));
        let events = subject.folded() - folded;
        load.finish();
        let each = difference(busy, idle) * 1e3 / events as f64;
        let resident = mib(subject.vitals().resident());
        row(Part::Lists, name, format!("{each:.3} ms CPU an event ({events} events; {resident} MiB)"));
    };
    cost("any of the keys, a list of 1", 0, 0, &mut visits);
    for (list, user) in [(1_000, keys + 1), (10_000, keys + 2), (100_000, keys + 3)] {
        cost(&format!("a key with a list of {list}"), list, user, &mut visits);
    }
    subject.stop();
    drop(pipeline);
}

/// CPU time that a process uses in so long from now.
fn spent(vitals: Vitals, time: Duration) -> Duration {
    let before = vitals.cpu();
    sleep(time);
    vitals.cpu() - before
}

// ---- cold keys

fn cold(brokers: &str, arguments: &Arguments) {
    let Arguments { keys, events, .. } = *arguments;
    let hot = (keys / 100).max(1);
    let (mut visits, pipeline, mut subject) = filled(brokers, "cold", "5s", keys, arguments);
    for (name, late) in
        [("only keys seen all the time (the first time)", false), ("the same", false), ("1 % of other keys", true)]
    {
        subject.wait_covered();
        subject.wait_at_rest();
        let mut random = Random::new(11);
        let users = (0..events).map(|i| {
            let among = if late && i % 100 == 0 { keys } else { hot };
            random.below(among) + 1
        });
        let read = subject.lane("keyfold_state_keys_read_total");
        let (progress, cpu) = subject.fold_at_once(events, || visits.append(users));
        let read = subject.lane("keyfold_state_keys_read_total") - read;
        let cost = per_million(cpu, events);
        let peak = mib(subject.vitals().peak());
        let (rate, longest) = (progress.rate(), millis(progress.longest_stretch()));
        let figure = format!(
            "{rate:.0} events/s, {cost:.2} CPU s/1M, {read:.0} keys read, longest stretch without a fold {longest}, peak RSS {peak} MiB"
        );
        row(Part::Cold, name, figure);
    }
    subject.stop();
    drop(pipeline);
}
