//! What a valid configuration says, as types.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How partitions form lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// All partitions merged into one lane by (append time, partition, offset).
    Topic,
    /// One lane per partition.
    Partition,
}

/// How many hosts fold a pipeline at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// One, which takes all lanes over when it starts.
    One,
    /// Any number. They share the lanes through the consumer group.
    Many,
}

/// What happens to late events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// Counted and dropped.
    Drop,
    /// Kept as dead letters.
    DeadLetter,
    /// Folded like any other event.
    Process,
}

/// What happens to records whose timestamps are missing or not in the years 1970 to 2099.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImplausibleTime {
    /// They become dead letters.
    DeadLetter,
    /// They are folded with the append time of the record before them in their partition.
    Inherit,
}

/// What a strike does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStrike {
    /// The record, event or firing becomes a dead letter; the lane continues.
    DeadLetter,
    /// The lane stops; exit code 4.
    Halt,
    /// A deployment on probation is withdrawn; otherwise the item becomes a dead letter.
    Withdraw,
}

/// What happens to rows that only a withdrawn deployment wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithdrawnRows {
    /// They are deleted.
    Delete,
    /// They stay and their primary keys are logged.
    List,
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pipeline's name, used in log fields and client ids.
    pub name: String,
    /// Where records come from.
    pub source: Source,
    /// `[time]`
    pub time: Time,
    /// `[plugin]`
    pub plugin: Plugin,
    /// `[state]`
    pub state: State,
    /// The sink.
    pub sink: Sink,
    /// Where dead letters go.
    pub dead_letters: DeadLetters,
    /// `[run]`
    pub run: Run,
    /// `[admin]`, if present.
    pub admin: Option<Admin>,
    /// `[telemetry]`, if it names a collector.
    pub telemetry: Option<Telemetry>,
}

impl Config {
    /// Returns the files that a host reads as a whole or appends to, by their keys.
    pub fn files(&self) -> Vec<(&'static str, &Path)> {
        let mut files = Vec::new();
        if let Source::File(source) = &self.source {
            files.push(("source.file.path", source.path.as_path()));
        }
        if let Component::File(path) = &self.plugin.component {
            files.push(("plugin.component", path));
        }
        match &self.sink {
            Sink::Sqlite(sink) => files.push(("sink.sqlite.path", &sink.path)),
            Sink::Ndjson(sink) => files.push(("sink.ndjson.path", &sink.path)),
            Sink::Cql(_) | Sink::Discard => {}
        }
        if let DeadLetters::File(path) = &self.dead_letters {
            files.push(("dead_letters.file", path));
        }
        let audit_log = self.admin.as_ref().and_then(|admin| admin.audit_log.as_deref());
        files.extend(audit_log.map(|path| ("admin.audit_log", path)));
        files.retain(|(_, path)| path.as_os_str() != "-");
        files
    }
}

/// `[telemetry]`
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// The collector's URL, without a trailing slash.
    pub otlp: String,
    /// One in this many batches is traced. Default 100.
    pub sample: u64,
}

/// `[admin]`
#[derive(Clone, Debug)]
pub struct Admin {
    /// The address it listens on.
    pub listen: Listen,
    /// Another address, which answers only probes and metrics, over plain HTTP.
    pub probes: Option<SocketAddr>,
    /// TLS, off by default.
    pub tls: Option<AdminTls>,
    /// The token that allows changes.
    pub token: Option<String>,
    /// The file that it was read from.
    pub token_file: Option<PathBuf>,
    /// The token that allows reading only.
    pub read_token: Option<String>,
    /// The file that it was read from.
    pub read_token_file: Option<PathBuf>,
    /// Where changes are noted.
    pub audit_log: Option<PathBuf>,
    /// Limit of a request, bytes.
    pub upload_bytes: usize,
    /// How long a lane may make no progress before `/livez` fails. Default 60 s.
    pub stuck_after: Duration,
}

/// Where the admin API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// What precedes the path of a Unix socket.
    pub const UNIX: &str = "unix:";

    /// Parses `address:port` or `unix:` with an absolute path.
    pub fn parse(text: &str) -> Option<Listen> {
        match text.strip_prefix(Listen::UNIX) {
            Some(path) => path.starts_with('/').then(|| Listen::Unix(path.into())),
            None => text.parse().ok().map(Listen::Tcp),
        }
    }

    /// Whether programs on other machines can connect.
    pub fn is_exposed(&self) -> bool {
        matches!(self, Listen::Tcp(address) if !address.ip().is_loopback())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "{}{}", Listen::UNIX, path.display()),
        }
    }
}

/// `[admin.tls]`
#[derive(Clone, Debug)]
pub struct AdminTls {
    /// PEM file of the host's certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of the authorities that sign clients' certificates; none are required by default.
    pub client_ca: Option<PathBuf>,
}

/// Where records come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// `[source.kafka]`
    Kafka(KafkaSource),
    /// `[source.file]`
    File(FileSource),
}

impl Source {
    /// Returns how partitions become lanes.
    pub fn ordering(&self) -> Ordering {
        match self {
            Source::Kafka(kafka) => kafka.ordering,
            Source::File(file) => file.ordering,
        }
    }
}

/// `[source.kafka]`
#[derive(Clone, Debug)]
pub struct KafkaSource {
    /// Bootstrap servers, separated by commas.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// Consumer group to which offsets are committed, for lag tools, and through which hosts share lanes. Default: the pipeline's name.
    pub group: String,
    /// How partitions become lanes. Default: topic.
    pub ordering: Ordering,
    /// How many hosts fold it. Default: one.
    pub hosts: Hosts,
    /// librdkafka properties, except those that the delivery guarantee depends on.
    pub properties: BTreeMap<String, String>,
    /// The files that secrets among them were read from, by property.
    pub secret_files: BTreeMap<String, PathBuf>,
}

/// `[source.file]`
#[derive(Clone, Debug)]
pub struct FileSource {
    /// The file; `-` is standard input.
    pub path: PathBuf,
    /// Its format.
    pub format: FileFormat,
    /// Timestamp of the first payload, ms; it rises by 1 ms per line.
    pub timestamp_start_ms: Option<i64>,
    /// How partitions become lanes. Default: topic.
    pub ordering: Ordering,
    /// Whether nobody writes to it any more, so that a last line without a line break counts. Not a key: the command says so.
    pub complete: bool,
}

impl FileSource {
    /// Returns whether it is standard input, which can be read only once.
    pub fn is_standard_input(&self) -> bool {
        self.path.as_os_str() == "-"
    }
}

/// Format of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// `{"value" | "value_base64", "partition", "offset", "timestamp", "key" | "key_base64", "headers"}` per line.
    Records,
    /// One payload per line.
    Payloads,
}

/// `[time]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// How far the watermark trails the greatest event time, ms. Default 10 s.
    pub out_of_orderness_ms: i64,
    /// What happens to late events. Default: drop.
    pub late: Late,
    /// Events further than this beyond their record's append time are rejected, ms. Default 1 h.
    pub future_limit_ms: i64,
    /// How long after a record's append time another broker may still assign an earlier one, ms. Default 200 ms.
    pub clock_skew_ms: i64,
    /// Idle time after which the watermark follows the clock, ms; off by default.
    pub idle_timeout_ms: Option<i64>,
    /// What happens to records with implausible timestamps. Default: dead letter.
    pub implausible: ImplausibleTime,
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
    /// What a strike does. Default: dead letter.
    pub on_strike: OnStrike,
    /// How long a deployment can be withdrawn, ms of append time; 0 is never.
    pub probation_ms: i64,
    /// What happens to rows that only a withdrawn deployment wrote. Default: deleted.
    pub withdrawn_rows: WithdrawnRows,
    /// One in this many batches is folded again record by record and compared; off by default.
    pub audit: Option<u64>,
    /// Tables that it may write; all that it declares by default.
    pub tables: Option<Vec<String>>,
    /// Log lines per second and lane, with bursts of ten times as many. Default 100.
    pub log_rate: u64,
    /// Where compiled plugins are kept; none if the user has no folder for that.
    pub cache: Option<PathBuf>,
    /// Limits of compiling and trying a plugin.
    pub compile: Compile,
}

/// Limits of compiling and trying a plugin, beside those of [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compile {
    /// CPU time. Default 2 min.
    pub time: Duration,
    /// Bytes of memory, beside the plugin's own. Default 2 GiB.
    pub memory_bytes: u64,
}

/// Where the component comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// A plugin in the binary, by name.
    Builtin(String),
    /// A file.
    File(PathBuf),
}

impl Config {
    /// The same, where a file source is read to its end for good: a last line without a line break counts.
    pub(crate) fn complete(mut self) -> Config {
        if let Source::File(file) = &mut self.source {
            file.complete = true;
        }
        self
    }
}

impl Component {
    /// Parses the name of a component; relative paths start at `base`.
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
    /// Units of wasmtime fuel, about one per instruction. Default 1,000,000,000.
    pub fuel: u64,
    /// Rows of output. Default 100,000.
    pub output_rows: u64,
    /// Bytes of output beside state. Default 64 MiB.
    pub output_bytes: u64,
    /// Bytes of a key's state after an event or firing. Default 128 MiB.
    pub state_bytes: u64,
    /// Bytes of a record that is given to the plugin. Default 16 MiB.
    pub record_bytes: u64,
}

/// `[state]`
#[derive(Clone, Debug)]
pub struct State {
    /// `file:///...`, `s3://`, `gs://`, `az://`
    pub url: url::Url,
    /// Time between checkpoints. Default 5 s.
    pub checkpoint_interval: Duration,
    /// How many bytes keys in memory may take, with what is kept of the files of state, in all lanes of a host. Default 512 MiB.
    pub memory_bytes: u64,
    /// How many bytes the state of a lane may have; none if as many as there is memory for. Default none.
    pub lane_bytes: Option<u64>,
}

/// Where rows go.
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
    /// Columns that the host fills with the time of the write.
    pub now: Vec<String>,
    /// User name, if the cluster requires one.
    pub user: Option<String>,
    /// Password (or `password_file`).
    pub password: Option<String>,
    /// The file that it was read from.
    pub password_file: Option<PathBuf>,
    /// TLS, off by default.
    pub tls: Option<Box<CqlTls>>,
    /// Consistency of writes. Default: LOCAL_QUORUM.
    pub consistency: String,
    /// Writes in flight. Default 256.
    pub in_flight: usize,
}

/// `[sink.cql.tls]`
#[derive(Clone, Debug)]
pub struct CqlTls {
    /// PEM file of trusted authorities; the system's by default.
    pub ca: Option<PathBuf>,
    /// PEM files of a client certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whether the node's certificate is checked. Default true.
    pub verify: bool,
    /// A name that a node's certificate may have instead of its address.
    pub server_name: Option<String>,
}

/// `[sink.sqlite]`
#[derive(Clone, Debug)]
pub struct SqliteSink {
    /// The database file.
    pub path: PathBuf,
    /// Columns that the host fills with the time of the write.
    pub now: Vec<String>,
}

/// `[sink.ndjson]`
#[derive(Clone, Debug)]
pub struct NdjsonSink {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Columns that the host fills with the time of the write.
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
        /// The files that secrets among them were read from, by property.
        secret_files: BTreeMap<String, PathBuf>,
    },
}

/// `[run]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Threads for map and fold. Default: the machine's, at most 4.
    pub workers: usize,
    /// Most records in a batch. Default 50,000.
    pub batch_records: usize,
    /// How long to wait for brokers and database at startup. Default 30 s.
    pub startup_timeout: Duration,
    /// Whether a changed configuration is deployed at startup. Default: it is refused.
    pub deploy_on_start: bool,
}

/// The default limits.
pub const DEFAULT_LIMITS: Limits = Limits {
    memory_bytes: 256 << 20,
    fuel: 1_000_000_000,
    output_rows: 100_000,
    output_bytes: 64 << 20,
    state_bytes: 128 << 20,
    record_bytes: 16 << 20,
};

/// The default limits of compiling and trying a plugin.
pub const DEFAULT_COMPILE: Compile = Compile { time: Duration::from_secs(120), memory_bytes: 2 << 30 };
