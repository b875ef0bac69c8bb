//! `keyfold plugin bench`: what a plugin costs per event, by call, and what the same logic costs in native code. It folds the records of the
//! folder's pipeline repeatedly on one thread, and reports the fastest repetition.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::author::{Language, build, io_failure, plugin_folder};
use crate::clock;
use crate::config::overrides::overridden;
use crate::config::{self, Component, Config};
use crate::counts::Counts;
use crate::failure::Failure;
use crate::lane::core::Core;
use crate::observe::meter::{Call, Cost};
use crate::plugin::sandbox::Sandbox;
use crate::plugin::{Compiling, Plugin, halted};
use crate::record::Records;
use crate::source::log_source::LogSource;
use crate::source::past::{Past, open};

use recording::Recording;

mod recording;

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The plugin's folder; its keyfold.toml sets records, configuration and time
    #[arg(default_value = ".")]
    pub folder: PathBuf,
    /// Read records from this file or topic instead of those in keyfold.toml
    #[arg(long, value_name = "FILE|TOPIC")]
    pub from: Option<String>,
    /// Measure this file instead of building the folder; skips the comparison with native code
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// How often to fold the records
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
}

/// The calls that are measured. A fold that starts without state never calls `migrate`.
const CALLS: [Call; 4] = [Call::Configure, Call::MapRecords, Call::Fold, Call::OnTimer];
/// With fewer events, the calls themselves cost more than the events in them.
const FEW: u64 = 10_000;

/// Measures a plugin.
pub fn bench(options: &Options) -> Result<Measurement, Failure> {
    let (folder, language) = plugin_folder(&options.folder)?;
    let file = match &options.plugin {
        Some(file) => file.canonicalize().map_err(io_failure(file))?,
        None => build::build(&folder)?,
    };
    let mut config = config::load_for_replay(&folder.join("keyfold.toml"), config::environment())?;
    config.run.workers = 1;
    let config = overridden(&config, options.from.as_deref(), Some(&Component::File(file)), None)?;
    let lanes = read(&config)?;
    let began = clock::instant();
    let sandbox = Sandbox { compiling: Compiling::default(), ..Sandbox::new(&config)? };
    let plugin = Arc::into_inner(sandbox.load(&config)?).expect("nobody else has it yet");
    let loaded = clock::since(began);
    let asked = config.run.batch_records;
    let mut bench = Bench { lanes, workers: Arc::clone(&sandbox.workers), config };
    let Recorded { plugin, recording, counts, strikes, fuel_per_record } = bench.record_fitting(plugin)?;
    let fits = bench.config.run.batch_records;
    let split =
        (fits != asked).then_some(Split { asked, fits, fuel_per_record, fuel: bench.config.plugin.limits.fuel });
    let sandboxed = bench.measure(&plugin, options.repetitions)?;
    let native = if options.plugin.is_none() && language == Language::Rust && strikes == 0 {
        let recording = recording.lock().expect("no thread panicked with it");
        Some(native(&folder, &recording, options.repetitions, counts)?)
    } else {
        None
    };
    Ok(Measurement { plugin, loaded, counts, strikes, split, sandboxed, native })
}

/// Reads the records, by lane and batch.
fn read(config: &Config) -> Result<Vec<Vec<Records>>, Failure> {
    let deadline = clock::instant() + config.run.startup_timeout;
    let log = LogSource::inspect(config, deadline)?;
    let mut lanes = Vec::new();
    for partitions in log.lanes(config) {
        let mut past = Past::new(open(config, &log, &partitions, deadline)?, config, None);
        let mut batches = Vec::new();
        let mut records = Records::default();
        while past.next(&mut records)? {
            batches.push(std::mem::take(&mut records));
        }
        lanes.push(batches);
    }
    Ok(lanes)
}

/// What one fold has recorded.
struct Recorded {
    plugin: Arc<Plugin>,
    recording: Arc<Mutex<Recording>>,
    counts: Counts,
    /// Items that exceed a limit or fail alone, in batches of any size.
    strikes: usize,
    /// The fuel of the dearest call, by record.
    fuel_per_record: u64,
}

/// Batches of the asked size that the host had to split, and smaller ones that it had not.
struct Split {
    asked: usize,
    fits: usize,
    fuel_per_record: u64,
    fuel: u64,
}

struct Bench {
    lanes: Vec<Vec<Records>>,
    workers: Arc<rayon::ThreadPool>,
    config: Config,
}

/// The cost of folding all records once.
struct Measured {
    whole: Duration,
    calls: [Cost; CALLS.len()],
}

impl Bench {
    /// Folds all records once, starting without state.
    fn fold(&self, plugin: &Arc<Plugin>) -> Result<(Counts, usize), Failure> {
        let (mut counts, mut strikes) = (Counts::default(), 0);
        for batches in &self.lanes {
            let mut core = Core::new(Arc::clone(plugin), Arc::clone(&self.workers), self.config.time);
            for batch in batches {
                let output = core.run(batch).map_err(|fault| halted(plugin, fault))?;
                core.forget_changes();
                counts.add(&output.counts);
                strikes += output.strikes.len();
            }
        }
        Ok((counts, strikes))
    }

    /// Records with batches of the configured size or, if calls of that size exceed a limit, with the largest of a few smaller sizes that do
    /// not. A call that fails is repeated in halves, which costs several times as much and is no measure of the plugin.
    fn record_fitting(&mut self, mut plugin: Plugin) -> Result<Recorded, Failure> {
        loop {
            let recording = Arc::new(Mutex::new(Recording::new(&self.config.plugin.config.to_string())));
            let (recorded, counts, strikes) = self.record(plugin, &recording)?;
            let costs = CALLS.map(|call| recorded.meter.take(call));
            let dearest = costs[1..].iter().map(|cost| cost.fuel).max().unwrap_or_default();
            let failed: u64 = costs.iter().map(|cost| cost.failed).sum();
            let batch = self.config.run.batch_records;
            if failed == 0 || strikes > 0 || batch == 1 {
                let fuel_per_record = dearest / counts.records.max(1);
                return Ok(Recorded { plugin: Arc::new(recorded), recording, counts, strikes, fuel_per_record });
            }
            plugin = recorded;
            self.config.run.batch_records = (batch / 2).max(1);
            self.lanes = read(&self.config)?;
        }
    }

    /// Folds all records once, and records the input of each call.
    fn record(&self, plugin: Plugin, recording: &Arc<Mutex<Recording>>) -> Result<(Plugin, Counts, usize), Failure> {
        let (kept, headers) = (Arc::clone(recording), plugin.description.wants_headers);
        let listener = move |input: crate::plugin::Input<'_>| {
            kept.lock().expect("no thread panicked with it").add(&input, headers);
        };
        let plugin = Arc::new(plugin.with_listener(Some(Box::new(listener))));
        let (counts, strikes) = self.fold(&plugin)?;
        let plugin = Arc::into_inner(plugin).expect("the fold is over");
        Ok((plugin.with_listener(None), counts, strikes))
    }

    fn measure(&self, plugin: &Arc<Plugin>, repetitions: u32) -> Result<Measured, Failure> {
        let take = || CALLS.map(|call| plugin.meter.take(call));
        let mut least: Option<Measured> = None;
        take();
        for _ in 0..repetitions {
            let began = clock::instant();
            self.fold(plugin)?;
            let measured = Measured { whole: clock::since(began), calls: take() };
            if least.as_ref().is_none_or(|least| measured.whole < least.whole) {
                least = Some(measured);
            }
        }
        Ok(least.expect("at least one repetition"))
    }
}

/// The time of each function in native code, ns.
struct Native([u64; 3]);

/// Builds a native program from the plugin's crate, and runs the recorded calls in it.
fn native(folder: &Path, recording: &Recording, repetitions: u32, counts: Counts) -> Result<Native, Failure> {
    let place = folder.join("target/native-bench");
    let write = |name: &str, bytes: &[u8]| {
        let path = place.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&place))
            .and_then(|()| fs::write(&path, bytes))
            .map_err(io_failure(&path))
    };
    write("Cargo.toml", manifest(folder)?.as_bytes())?;
    write("src/main.rs", b"fn main() {\n    plugin::keyfold_bench();\n}\n")?;
    write("calls", recording.bytes())?;
    // So that native code uses the same versions as the plugin.
    let lock = folder.join("Cargo.lock");
    write("Cargo.lock", &fs::read(&lock).map_err(io_failure(&lock))?)?;
    let mut command = Command::new(build::cargo());
    command.args(["run", "--release", "--quiet", "--manifest-path"]).arg(place.join("Cargo.toml"));
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        command.arg("--target-dir").arg(folder.join("target"));
    }
    command.arg("--").arg(place.join("calls")).arg(repetitions.to_string()).stdout(Stdio::piped());
    let output = command.stderr(Stdio::inherit()).output().map_err(build::cargo_not_run)?;
    let said: Option<Value> = output.status.success().then(|| serde_json::from_slice(&output.stdout).ok()).flatten();
    let Some(said) = said else {
        let message = format!("{}: cannot run the plugin natively; see cargo's output above", place.display());
        return Err(Failure::plugin(message));
    };
    let number = |name: &str| said[name].as_u64().unwrap_or_default();
    let (found, expected) = ((number("events"), number("rows")), (counts.events, counts.rows));
    if found != expected {
        let message = format!(
            "the plugin is not a function of its input: natively it gives {} events and {} rows, but in the sandbox {} and {}",
            found.0, found.1, expected.0, expected.1
        );
        return Err(Failure::plugin(message));
    }
    Ok(Native(["map-records", "fold", "on-timer"].map(number)))
}

fn manifest(folder: &Path) -> Result<String, Failure> {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(io_failure(&path))?;
    let wrong = |what: &str| Failure::config(format!("{}: {what}", path.display()));
    let manifest: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(&error.to_string()))?;
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    let name = toml::Value::from(name.ok_or_else(|| wrong("[package] has no name"))?);
    let folder = toml::Value::from(folder.to_string_lossy().into_owned());
    Ok(format!(
        "[package]\nname = \"native-bench\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\nplugin = {{ package = {name}, path = \
         {folder} }}\n\n[profile.release]\nopt-level = 3\nlto = \"fat\"\ncodegen-units = 1\noverflow-checks = true\n\n[workspace]\n"
    ))
}

// ---- the report

/// The measured cost of a plugin.
pub struct Measurement {
    plugin: Arc<Plugin>,
    /// Time to compile the plugin and try it.
    loaded: Duration,
    counts: Counts,
    strikes: usize,
    split: Option<Split>,
    sandboxed: Measured,
    native: Option<Native>,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Split { asked, fits, fuel_per_record, fuel } = self;
        let needed = fuel_per_record.saturating_mul(*asked as u64).saturating_mul(2);
        // A used instance has half of the fuel.
        let cause = match needed > *fuel {
            true => format!("ran out of fuel: a record takes {fuel_per_record} units, and a call has {}", fuel / 2),
            false => "exceeded a limit (memory or output)".to_owned(),
        };
        write!(
            f,
            "measured with batches of {fits} records: with {asked} (run.batch_records), calls {cause}; the host splits such calls, which gives \
             the same rows at several times the cost; set run.batch_records = {fits}"
        )?;
        if needed > *fuel { write!(f, ", or plugin.fuel = {needed}") } else { Ok(()) }
    }
}

/// A line of the table; costs are per event.
struct Line {
    name: &'static str,
    ns: f64,
    fuel: Option<f64>,
    calls: Option<u64>,
    native_ns: Option<f64>,
}

impl Measurement {
    fn lines(&self) -> Vec<Line> {
        let events = self.counts.events.max(1);
        let each = |nanoseconds: u128| nanoseconds as f64 / events as f64;
        let of_call = |(call, cost): (Call, &Cost)| {
            let native = self.native.as_ref().zip((call as usize).checked_sub(1));
            Line {
                name: call.name(),
                ns: each(cost.time.as_nanos()),
                fuel: Some(each(u128::from(cost.fuel))),
                calls: Some(cost.calls),
                native_ns: native.map(|(native, i)| each(u128::from(native.0[i]))),
            }
        };
        let mut lines: Vec<Line> = CALLS.into_iter().zip(&self.sandboxed.calls).map(of_call).collect();
        let whole = each(self.sandboxed.whole.as_nanos());
        let host = (whole - lines.iter().map(|line| line.ns).sum::<f64>()).max(0.0);
        let natively = self.native.as_ref().map(|native| native.0.iter().map(|ns| each(u128::from(*ns))).sum::<f64>());
        let rest = |name, ns, native_ns| Line { name, ns, fuel: None, calls: None, native_ns };
        lines.push(rest("the host", host, natively.map(|_| host)));
        lines.push(rest("in all", whole, natively.map(|ns| ns + host)));
        lines
    }

    /// Returns the measurement as JSON.
    pub fn document(&self) -> Value {
        let Counts { records, events, firings, rows, rejected, .. } = self.counts;
        let line = |line: &Line| {
            json!({
                "part": line.name,
                "ns_per_event": line.ns,
                "fuel_per_event": line.fuel,
                "calls": line.calls,
                "native_ns_per_event": line.native_ns,
            })
        };
        json!({
            "plugin": self.plugin.description.name,
            "version": self.plugin.description.version,
            "load_ms": self.loaded.as_secs_f64() * 1000.0,
            "records": records,
            "events": events,
            "firings": firings,
            "rows": rows,
            "rejected": rejected,
            "strikes": self.strikes,
            "split": self.split.as_ref().map(|split| {
                json!({"batch_records": split.asked, "fits": split.fits, "fuel_per_record": split.fuel_per_record})
            }),
            "parts": self.lines().iter().map(line).collect::<Vec<_>>(),
        })
    }
}

impl std::fmt::Display for Measurement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { records, events, firings, rows, rejected, .. } = self.counts;
        let description = &self.plugin.description;
        writeln!(
            f,
            "{} {}: {records} records, {events} events, {firings} firings, {rows} rows, {rejected} rejected; one thread, the fastest \
             repetition",
            description.name, description.version
        )?;
        writeln!(f, "compiled and tried in {:.0} ms", self.loaded.as_secs_f64() * 1000.0)?;
        write!(f, "{:<12} {:>9} {:>11} {:>7} {:>9} {:>6}", "", "ns/event", "fuel/event", "calls", "natively", "ratio")?;
        for Line { name, ns, fuel, calls, native_ns } in self.lines() {
            let text = |value: Option<f64>| value.map(|value| format!("{value:.0}")).unwrap_or_default();
            let calls = calls.map(|calls| calls.to_string()).unwrap_or_default();
            let ratio = native_ns.filter(|native| *native > 0.0).map(|native| format!("{:.1}", ns / native));
            let (fuel, native, ratio) = (text(fuel), text(native_ns), ratio.unwrap_or_default());
            let line = format!("{name:<12} {ns:>9.0} {fuel:>11} {calls:>7} {native:>9} {ratio:>6}");
            write!(f, "\n{}", line.trim_end())?;
        }
        if let Some(split) = &self.split {
            write!(f, "\n{split}")?;
        }
        if self.strikes > 0 {
            write!(
                f,
                "\n{} items exceed a limit or fail alone, so calls were repeated in halves; without a comparison with native code, which has no \
                 limits",
                self.strikes
            )?;
        }
        if events < FEW {
            write!(
                f,
                "\nmeasured with few events: the cost of a call is spread over all its events; measure with at least {FEW} by --from FILE"
            )?;
        }
        Ok(())
    }
}
