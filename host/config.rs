//! The configuration: one TOML file, overridden by `KEYFOLD_*` variables. `config/keys.rs` holds every key with its default,
//! `config/read.rs` what was given, `config/value.rs` what fits; here is what it all makes. Every problem is told at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{Exit, Failure};

mod keys;
pub mod overrides;
mod read;
mod value;

#[cfg(test)]
mod tests;

pub use keys::reference;
use keys::{Absent, KEYS};
use read::{Given, Origin, Problem};
use value::Typed;

/// How partitions become lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// All partitions merged into one lane by (append time, partition, offset).
    Topic,
    /// One lane per partition.
    Partition,
}

/// What happens to late events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// Counted and dropped.
    Drop,
    /// Kept as dead letters.
    DeadLetter,
    /// Folded as any other event.
    Process,
}

/// What a strike does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStrike {
    /// The record, event or firing goes to the dead letters; the lane goes on.
    DeadLetter,
    /// The lane stops; exit code 4.
    Halt,
    /// A deployment that can be withdrawn is; in any other the item goes to the dead letters.
    Withdraw,
}

/// What becomes of rows that only a withdrawn deployment wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithdrawnRows {
    /// They are deleted.
    Delete,
    /// They stay, and their primary keys are logged.
    List,
}

/// A whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pipeline's name (log fields, client ids).
    pub name: String,
    /// Where records come from.
    pub source: Source,
    /// `[time]`
    pub time: Time,
    /// `[plugin]`
    pub plugin: Plugin,
    /// `[state]`
    pub state: State,
    /// Exactly one sink.
    pub sink: Sink,
    /// Where dead letters go.
    pub dead_letters: DeadLetters,
    /// `[run]`
    pub run: Run,
    /// `[admin]`, if it is there.
    pub admin: Option<Admin>,
    /// `[telemetry]`, if it names a collector.
    pub telemetry: Option<Telemetry>,
}

/// `[telemetry]`
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// The collector's URL, without a slash at its end.
    pub otlp: String,
    /// One of so many batches is traced. Default 100.
    pub sample: u64,
}

/// `[admin]`
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who has it may change things.
    pub token: Option<String>,
    /// Limit of a request, bytes.
    pub upload_bytes: usize,
    /// How long a lane may be without progress inside the host until `/livez` fails. Default 60 s.
    pub stuck_after: Duration,
}

/// Where records come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// `[source.kafka]`
    Kafka(KafkaSource),
    /// `[source.file]`
    File(FileSource),
}

/// `[source.kafka]`
#[derive(Clone, Debug)]
pub struct KafkaSource {
    /// Bootstrap servers, separated by commas.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// Consumer group: offsets are committed there for lag tools. Default: the pipeline's name.
    pub group: String,
    /// How partitions become lanes. Default: topic.
    pub ordering: Ordering,
    /// Any librdkafka property but those that the guarantee rests on.
    pub properties: BTreeMap<String, String>,
}

/// `[source.file]`
#[derive(Clone, Debug)]
pub struct FileSource {
    /// The file; `-` is standard input.
    pub path: PathBuf,
    /// One record object a line, or one payload a line.
    pub format: FileFormat,
    /// Timestamp of the first line of a file of payloads, ms; the following lines count up from it.
    pub timestamp_start_ms: Option<i64>,
    /// How partitions become lanes. Default: topic.
    pub ordering: Ordering,
}

/// Form of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// `{"value" | "value_base64", "partition", "offset", "timestamp", "key" | "key_base64", "headers"}` a line.
    Records,
    /// Each line is a payload.
    Payloads,
}

/// `[time]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// How far the watermark stays behind the greatest event time. Default 10 s.
    pub out_of_orderness_ms: i64,
    /// Late policy. Default: drop.
    pub late: Late,
    /// Events further past their record's append time are rejected. Default 1 h.
    pub future_limit_ms: i64,
    /// How long after a record's append time one may still be stamped earlier by another broker. Default 200 ms.
    pub clock_skew_ms: i64,
    /// Idle advance of the watermark; off by default.
    pub idle_timeout_ms: Option<i64>,
}

/// `[plugin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// A file, or `builtin:visits`.
    pub component: Component,
    /// JSON for the plugin's `configure`.
    pub config: serde_json::Value,
    /// Limits of one record, event or firing.
    pub limits: Limits,
    /// Strike policy. Default: dead letter.
    pub on_strike: OnStrike,
    /// How long a deployment can be withdrawn, ms of append time; 0 is not at all.
    pub probation_ms: i64,
    /// Rows that only a withdrawn deployment wrote. Default: deleted.
    pub withdrawn_rows: WithdrawnRows,
    /// One of so many batches is folded again record by record; off by default.
    pub audit: Option<u64>,
    /// Lines that it may log a second in a lane, and ten times as many at once. Default 100.
    pub log_rate: u64,
}

/// Where the component comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// Part of the binary, by name.
    Builtin(String),
    /// A file.
    File(PathBuf),
}

impl Component {
    /// What a text names; `base` is the folder that a relative path starts from.
    pub fn named(text: &str, base: &Path) -> Component {
        match text.strip_prefix("builtin:") {
            Some(name) => Component::Builtin(name.to_owned()),
            None => Component::File(base.join(text)),
        }
    }
}

/// Limits of one record, event or firing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory. Default 256 MiB.
    pub memory_bytes: u64,
    /// Units of wasmtime fuel, about one an instruction. Default 1,000,000,000.
    pub fuel: u64,
    /// Rows of output. Default 100,000.
    pub output_rows: u64,
    /// Bytes of output. Default 64 MiB.
    pub output_bytes: u64,
}

/// `[state]`
#[derive(Clone, Debug)]
pub struct State {
    /// `file:///...`, `s3://`, `gs://`, `az://`
    pub url: url::Url,
    /// Time between checkpoints. Default 5 s.
    pub checkpoint_interval: Duration,
}

/// The sink.
#[derive(Clone, Debug)]
pub enum Sink {
    /// `[sink.cql]`
    Cql(CqlSink),
    /// `[sink.sqlite]`
    Sqlite(SqliteSink),
    /// `[sink.ndjson]`
    Ndjson(NdjsonSink),
    /// `[sink.discard]`
    Discard,
}

/// `[sink.cql]`
#[derive(Clone, Debug)]
pub struct CqlSink {
    /// Contact points, `host:port`.
    pub nodes: Vec<String>,
    /// Keyspace of the tables.
    pub keyspace: String,
    /// Columns that the host fills with the time of writing.
    pub now: Vec<String>,
    /// User name, if the cluster asks for one.
    pub user: Option<String>,
    /// Password (or `password_file`).
    pub password: Option<String>,
    /// TLS, off by default.
    pub tls: Option<CqlTls>,
    /// Consistency of writes. Default: LOCAL_QUORUM.
    pub consistency: String,
    /// Writes in flight. Default 256.
    pub in_flight: usize,
}

/// `[sink.cql.tls]`
#[derive(Clone, Debug)]
pub struct CqlTls {
    /// PEM file of the authorities to trust; the system's by default.
    pub ca: Option<PathBuf>,
    /// PEM files of a client certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whether the node's certificate is checked. Default true.
    pub verify: bool,
}

/// `[sink.sqlite]`
#[derive(Clone, Debug)]
pub struct SqliteSink {
    /// The database file.
    pub path: PathBuf,
    /// Columns that the host fills with the time of writing.
    pub now: Vec<String>,
}

/// `[sink.ndjson]`
#[derive(Clone, Debug)]
pub struct NdjsonSink {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Columns that the host fills with the time of writing.
    pub now: Vec<String>,
}

/// `[dead_letters]`: a file by default (`dead-letters.ndjson`).
#[derive(Clone, Debug)]
pub enum DeadLetters {
    /// An NDJSON file that the file source can read again.
    File(PathBuf),
    /// A Kafka topic, on the source's brokers and with its properties unless said otherwise.
    Topic {
        /// Bootstrap servers.
        brokers: String,
        /// The topic.
        topic: String,
        /// librdkafka properties of the producer.
        properties: BTreeMap<String, String>,
    },
}

/// `[run]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Threads for map and fold. Default: the machine's, at most 4.
    pub workers: usize,
    /// Upper bound of a batch. Default 50,000.
    pub batch_records: usize,
    /// How long the outside is waited for at start. Default 30 s.
    pub startup_timeout: Duration,
    /// Whether a changed configuration is ordered as a deployment at the start. Default: it is refused.
    pub deploy_on_start: bool,
}

/// Reads the configuration at `path` with the variables over it; refused with [`Exit::Config`]. Relative paths in it are relative to its
/// folder.
pub fn load(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<Config, Failure> {
    load_for(Purpose::Run, path, environment)
}

/// As [`load`], for a command that writes no rows outside: without a sink the configuration has [`Sink::Discard`].
pub fn load_for_replay(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<Config, Failure> {
    load_for(Purpose::Replay, path, environment)
}

/// What a configuration is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Run,
    /// A sink may be left out.
    Replay,
}

fn load_for(
    purpose: Purpose,
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the configuration {}: {error}; name another with -c", path.display());
        Failure::new(Exit::Config, message)
    })?;
    let base = path.parent().unwrap_or(Path::new(""));
    whole(purpose, &text, base, environment).map_err(|problems| failure(&path.display().to_string(), problems))
}

/// The variables of this process. What is not UTF-8 gets replacement characters, which `load` refuses in a `KEYFOLD_*`.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// The variable that overrides a key.
pub fn variable(key: &str) -> String {
    format!("KEYFOLD_{}", key.to_uppercase().replace('.', "__"))
}

impl Config {
    /// Reads a configuration from its text; `base` is the folder that relative paths in it start from.
    pub fn from_toml(
        text: &str,
        base: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, Failure> {
        whole(Purpose::Run, text, base, environment).map_err(|problems| failure("the configuration", problems))
    }
}

fn failure(name: &str, problems: Vec<Problem>) -> Failure {
    let message = match &problems[..] {
        [problem] if matches!(problem.origin, Origin::Variable(_)) => problem.to_string(),
        [problem] => format!("{name}: {problem}"),
        problems => {
            let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
            format!("{name} has {} problems:{}", problems.len(), lines.concat())
        }
    };
    Failure::new(Exit::Config, message)
}

fn whole(
    purpose: Purpose,
    text: &str,
    base: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, Vec<Problem>> {
    let base = std::path::absolute(base.join(".")).unwrap_or_else(|_| base.to_owned());
    let mut given = Given::read(text, environment)?;
    let values = Values(value::all(&mut given, &base));
    sections(&mut given, purpose);
    missing(&mut given);
    contradictions(&mut given, &values);
    if given.problems.is_empty() {
        return Ok(values.config(&given).expect("every required key was seen to be there"));
    }
    given.problems.sort();
    given.problems.dedup();
    Err(given.problems)
}

/// Exactly one source, exactly one sink, which a replay does without.
fn sections(given: &mut Given, purpose: Purpose) {
    for of in ["source", "sink"] {
        let kinds = keys::children(of);
        let found: Vec<String> =
            kinds.into_iter().map(|kind| keys::join(of, &kind)).filter(|path| given.has(path)).collect();
        let listed: Vec<String> = found.iter().map(|path| format!("[{path}] ({})", given.origin(path))).collect();
        match found.len() {
            1 => {}
            0 if of == "sink" && purpose == Purpose::Replay => {}
            0 => {
                let all: Vec<String> = keys::children(of).iter().map(|kind| format!("[{of}.{kind}]")).collect();
                given.problem(Origin::Whole, format!("no {of} is given; give one of {}", all.join(", ")));
            }
            many => given.problem(Origin::Whole, format!("{many} {of}s are given, keep one: {}", listed.join(", "))),
        }
    }
}

/// Required keys, but those of sources and sinks that were not chosen.
fn missing(given: &mut Given) {
    for key in KEYS.iter().filter(|key| key.absent == Absent::Required) {
        let section = keys::sections(key.path).last().unwrap_or_default();
        let chosen = !(section.starts_with("source.") || section.starts_with("sink.")) || given.has(section);
        if chosen && !given.has(key.path) && !given.broken.contains(section) {
            given.problem(given.origin(section), format!("{} is missing: {}", key.path, key.meaning));
        }
    }
}

/// Keys that fit alone and not together.
fn contradictions(given: &mut Given, values: &Values) {
    source_file(given, values);
    cql_credentials(given);
    dead_letters(given);
    shared_files(given, values);
    admin(given, values);
    telemetry(given, values);
}

/// The collector stands near, and is spoken to without TLS.
fn telemetry(given: &mut Given, values: &Values) {
    let Some(text) = values.text("telemetry.otlp") else { return };
    if !text.starts_with("http://") {
        let message = format!("telemetry.otlp: expected a URL like \"http://collector:4318\", found {text:?}");
        given.problem(given.origin("telemetry.otlp"), message);
    }
}

/// The admin API is for this host alone, or for those who have a token.
fn admin(given: &mut Given, values: &Values) {
    if !given.has("admin") {
        return;
    }
    let token = given.has("admin.token") || given.has("admin.token_file");
    let text = values.text("admin.listen").unwrap_or_default();
    let message = match text.parse::<SocketAddr>() {
        Ok(listen) if listen.ip().is_loopback() || token => return,
        Ok(_) => format!("admin.listen = {text:?} is beyond loopback, which needs admin.token"),
        Err(_) => format!("admin.listen: expected an address like \"127.0.0.1:9640\", found {text:?}"),
    };
    given.problem(given.origin("admin.listen"), message);
}

fn source_file(given: &mut Given, values: &Values) {
    let payloads = values.text("source.file.format").as_deref() == Some("payloads");
    let start = given.has("source.file.timestamp_start");
    if given.has("source.file") && payloads && !start {
        let message =
            "source.file.timestamp_start is missing: format = \"payloads\" needs the first line's timestamp in ms";
        given.problem(given.origin("source.file"), message);
    }
    if start && values.text("source.file.format").as_deref() == Some("records") {
        let message =
            "source.file.timestamp_start goes with format = \"payloads\" only; records carry their own \"timestamp\"";
        given.problem(given.origin("source.file.timestamp_start"), message);
    }
}

fn cql_credentials(given: &mut Given) {
    let password = given.has("sink.cql.password") || given.has("sink.cql.password_file");
    let pairs = [
        ("sink.cql.user", given.has("sink.cql.user"), "sink.cql.password", password),
        (
            "sink.cql.tls.certificate",
            given.has("sink.cql.tls.certificate"),
            "sink.cql.tls.key",
            given.has("sink.cql.tls.key"),
        ),
    ];
    for (one, has_one, other, has_other) in pairs {
        if has_one != has_other {
            let (there, absent) = if has_one { (one, other) } else { (other, one) };
            given.problem(given.origin(there), format!("{there} needs {absent} beside it"));
        }
    }
}

fn dead_letters(given: &mut Given) {
    let topic = given.has("dead_letters.topic");
    if topic && given.has("dead_letters.file") {
        let message = "dead_letters.topic and dead_letters.file are both given; keep one";
        given.problem(given.origin("dead_letters.topic"), message);
    }
    for path in ["dead_letters.brokers", "dead_letters.properties"] {
        if given.has(path) && !topic {
            given.problem(given.origin(path), format!("{path} goes with dead_letters.topic only"));
        }
    }
    if topic && !given.has("source.kafka") && !given.has("dead_letters.brokers") {
        let message = "dead_letters.brokers is missing: the source has no brokers that the topic could be on";
        given.problem(given.origin("dead_letters.topic"), message);
    }
}

/// No file is read and written, or written by two.
fn shared_files(given: &mut Given, values: &Values) {
    let dead_letters = !given.has("dead_letters.topic");
    let active = |path: &&str| match *path {
        "dead_letters.file" => dead_letters,
        other => keys::sections(other).last().is_some_and(|section| given.has(section)),
    };
    let paths = ["source.file.path", "sink.sqlite.path", "sink.ndjson.path", "dead_letters.file"];
    let files: Vec<(&str, PathBuf)> = paths
        .into_iter()
        .filter(active)
        .filter_map(|path| Some((path, values.path(path)?)))
        .filter(|(_, file)| file != Path::new("-"))
        .collect();
    for (at, (path, file)) in files.iter().enumerate() {
        for (other, _) in files[..at].iter().filter(|(_, other)| other == file) {
            given.problem(given.origin(path), format!("{path} and {other} are the same file {}", file.display()));
        }
    }
}

/// The values of the keys that have one, each of its key's type.
struct Values(BTreeMap<&'static str, Typed>);

impl Values {
    fn config(&self, given: &Given) -> Option<Config> {
        let name = self.text("name")?;
        let source = self.source(given, &name)?;
        let dead_letters = self.dead_letters(&source)?;
        Some(Config {
            admin: if given.has("admin") { self.admin() } else { None },
            telemetry: self.telemetry(),
            time: self.time()?,
            plugin: self.plugin()?,
            state: State {
                url: self.url("state.url")?,
                checkpoint_interval: self.duration("state.checkpoint_interval")?,
            },
            sink: self.sink(given)?,
            run: self.run()?,
            name,
            source,
            dead_letters,
        })
    }

    fn source(&self, given: &Given, name: &str) -> Option<Source> {
        if given.has("source.file") {
            return Some(Source::File(FileSource {
                path: self.path("source.file.path")?,
                format: match self.text("source.file.format")?.as_str() {
                    "payloads" => FileFormat::Payloads,
                    _ => FileFormat::Records,
                },
                timestamp_start_ms: self.integer("source.file.timestamp_start"),
                ordering: self.ordering("source.file.ordering")?,
            }));
        }
        Some(Source::Kafka(KafkaSource {
            brokers: self.text("source.kafka.brokers")?,
            topic: self.text("source.kafka.topic")?,
            group: self.text("source.kafka.group").unwrap_or_else(|| name.to_owned()),
            ordering: self.ordering("source.kafka.ordering")?,
            properties: self.properties("source.kafka.properties")?,
        }))
    }

    fn ordering(&self, path: &str) -> Option<Ordering> {
        Some(match self.text(path)?.as_str() {
            "partition" => Ordering::Partition,
            _ => Ordering::Topic,
        })
    }

    fn time(&self) -> Option<Time> {
        Some(Time {
            out_of_orderness_ms: self.ms("time.out_of_orderness")?,
            late: match self.text("time.late")?.as_str() {
                "dead-letter" => Late::DeadLetter,
                "process" => Late::Process,
                _ => Late::Drop,
            },
            future_limit_ms: self.ms("time.future_limit")?,
            clock_skew_ms: self.ms("time.clock_skew")?,
            idle_timeout_ms: self.ms("time.idle_timeout"),
        })
    }

    fn plugin(&self) -> Option<Plugin> {
        Some(Plugin {
            component: match self.0.get("plugin.component")? {
                Typed::Component(component) => component.clone(),
                _ => return None,
            },
            config: match self.0.get("plugin.config")? {
                Typed::Json(config) => config.clone(),
                _ => return None,
            },
            limits: Limits {
                memory_bytes: self.size("plugin.memory")?,
                fuel: self.count("plugin.fuel")?,
                output_rows: self.count("plugin.output_rows")?,
                output_bytes: self.size("plugin.output_bytes")?,
            },
            on_strike: match self.text("plugin.on_strike")?.as_str() {
                "halt" => OnStrike::Halt,
                "withdraw" => OnStrike::Withdraw,
                _ => OnStrike::DeadLetter,
            },
            probation_ms: self.ms("plugin.probation")?,
            withdrawn_rows: match self.text("plugin.withdrawn_rows")?.as_str() {
                "list" => WithdrawnRows::List,
                _ => WithdrawnRows::Delete,
            },
            audit: self.count("plugin.audit"),
            log_rate: self.count("plugin.log_rate")?,
        })
    }

    fn sink(&self, given: &Given) -> Option<Sink> {
        if given.has("sink.cql") {
            return self.cql(given).map(Sink::Cql);
        }
        if given.has("sink.sqlite") {
            let sink = SqliteSink { path: self.path("sink.sqlite.path")?, now: self.texts("sink.sqlite.now")? };
            return Some(Sink::Sqlite(sink));
        }
        if given.has("sink.ndjson") {
            let sink = NdjsonSink { path: self.path("sink.ndjson.path")?, now: self.texts("sink.ndjson.now")? };
            return Some(Sink::Ndjson(sink));
        }
        Some(Sink::Discard)
    }

    fn cql(&self, given: &Given) -> Option<CqlSink> {
        let tls = CqlTls {
            ca: self.path("sink.cql.tls.ca"),
            certificate: self.path("sink.cql.tls.certificate").zip(self.path("sink.cql.tls.key")),
            verify: self.flag("sink.cql.tls.verify")?,
        };
        Some(CqlSink {
            nodes: self.texts("sink.cql.nodes")?,
            keyspace: self.text("sink.cql.keyspace")?,
            now: self.texts("sink.cql.now")?,
            user: self.text("sink.cql.user"),
            password: self.text("sink.cql.password"),
            tls: given.has("sink.cql.tls").then_some(tls),
            consistency: self.text("sink.cql.consistency")?,
            in_flight: usize::try_from(self.count("sink.cql.in_flight")?).ok()?,
        })
    }

    fn dead_letters(&self, source: &Source) -> Option<DeadLetters> {
        let Some(topic) = self.text("dead_letters.topic") else {
            return self.path("dead_letters.file").map(DeadLetters::File);
        };
        let kafka = match source {
            Source::Kafka(kafka) => Some(kafka),
            Source::File(_) => None,
        };
        let brokers = self.text("dead_letters.brokers").or_else(|| kafka.map(|kafka| kafka.brokers.clone()))?;
        let properties = self.properties("dead_letters.properties");
        let properties = properties.or_else(|| kafka.map(|kafka| kafka.properties.clone())).unwrap_or_default();
        Some(DeadLetters::Topic { brokers, topic, properties })
    }

    fn admin(&self) -> Option<Admin> {
        Some(Admin {
            listen: self.text("admin.listen")?.parse().ok()?,
            token: self.text("admin.token"),
            upload_bytes: usize::try_from(self.size("admin.upload_limit")?).ok()?,
            stuck_after: self.duration("admin.stuck_after")?,
        })
    }

    fn telemetry(&self) -> Option<Telemetry> {
        let otlp = self.text("telemetry.otlp")?.trim_end_matches('/').to_owned();
        Some(Telemetry { otlp, sample: self.count("telemetry.sample")? })
    }

    fn run(&self) -> Option<Run> {
        let workers = self.count("run.workers").and_then(|count| usize::try_from(count).ok());
        Some(Run {
            workers: workers.unwrap_or_else(default_workers),
            batch_records: usize::try_from(self.count("run.batch_records")?).ok()?,
            startup_timeout: self.duration("run.startup_timeout")?,
            deploy_on_start: self.flag("run.deploy_on_start")?,
        })
    }

    fn text(&self, path: &str) -> Option<String> {
        if let Some(Typed::Text(text)) = self.0.get(path) { Some(text.clone()) } else { None }
    }

    fn path(&self, path: &str) -> Option<PathBuf> {
        if let Some(Typed::Path(file)) = self.0.get(path) { Some(file.clone()) } else { None }
    }

    fn url(&self, path: &str) -> Option<url::Url> {
        if let Some(Typed::Url(url)) = self.0.get(path) { Some(url.clone()) } else { None }
    }

    fn integer(&self, path: &str) -> Option<i64> {
        if let Some(Typed::Integer(number)) = self.0.get(path) { Some(*number) } else { None }
    }

    fn count(&self, path: &str) -> Option<u64> {
        self.integer(path).and_then(|number| u64::try_from(number).ok())
    }

    fn flag(&self, path: &str) -> Option<bool> {
        if let Some(Typed::Flag(flag)) = self.0.get(path) { Some(*flag) } else { None }
    }

    fn size(&self, path: &str) -> Option<u64> {
        if let Some(Typed::Size(bytes)) = self.0.get(path) { Some(*bytes) } else { None }
    }

    fn duration(&self, path: &str) -> Option<Duration> {
        if let Some(Typed::Duration(duration)) = self.0.get(path) { Some(*duration) } else { None }
    }

    fn ms(&self, path: &str) -> Option<i64> {
        self.duration(path).and_then(|duration| i64::try_from(duration.as_millis()).ok())
    }

    fn texts(&self, path: &str) -> Option<Vec<String>> {
        if let Some(Typed::Texts(texts)) = self.0.get(path) { Some(texts.clone()) } else { None }
    }

    fn properties(&self, path: &str) -> Option<BTreeMap<String, String>> {
        if let Some(Typed::Properties(properties)) = self.0.get(path) { Some(properties.clone()) } else { None }
    }
}

/// The limits that a configuration has by default.
pub const DEFAULT_LIMITS: Limits =
    Limits { memory_bytes: 256 << 20, fuel: 1_000_000_000, output_rows: 100_000, output_bytes: 64 << 20 };

/// The machine's threads, at most a few.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(keys::MOST_DEFAULT_WORKERS)
}
