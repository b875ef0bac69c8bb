//! The configuration: one TOML file, overridden by `KEYFOLD_*` variables. Every default stands here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

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
}

/// Where the component comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// Part of the binary, by name.
    Builtin(String),
    /// A file.
    File(PathBuf),
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
}
