//! The keys of the configuration: path, type, default and meaning of each. Defaults, the checks of names and values, the reference and the
//! JSON Schema are all derived from this table.

use std::fmt::Write as _;

/// A configuration key.
pub(super) struct Key {
    /// Dotted path, such as `source.kafka.brokers`.
    pub(super) path: &'static str,
    /// Its type.
    pub(super) kind: Kind,
    /// What applies if it is absent.
    pub(super) absent: Absent,
    /// Its meaning, for the reference.
    pub(super) meaning: &'static str,
    /// Whether it may be given as `<path>_file` and is never shown in a message.
    pub(super) secret: bool,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// Non-empty text.
    Text,
    /// Letters, digits, `.`, `_` and `-`, up to this length.
    Name(usize),
    /// A file, relative to the configuration's folder.
    Path,
    /// A file, or `-` for a standard stream.
    Stream,
    /// A plugin's file, or `builtin:<name>`.
    Component,
    /// A folder or a URL of an object store.
    Url,
    /// An integer in this range.
    Integer(i64, i64),
    /// `true` or `false`.
    Flag,
    /// A duration with a unit, in this range, ms.
    Duration(u64, u64),
    /// A size with a unit, in this range, bytes.
    Size(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of non-empty text.
    Texts,
    /// A non-empty list of `host:port`.
    Nodes,
    /// A table of librdkafka properties.
    Properties,
    /// Any JSON value.
    Json,
    /// A section without keys.
    Empty,
}

/// What applies if a key is absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Absent {
    /// It is required if its section is present.
    Required,
    /// Nothing.
    Off,
    /// This value, in TOML.
    Is(&'static str),
    /// A value that is computed; described in words.
    Computed(&'static str),
}

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const YEAR: u64 = 366 * 24 * HOUR;
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
/// The last timestamp that orders records: the end of the year 2099.
const LAST_MS: i64 = crate::event_time::LAST_PLAUSIBLE_MS;

const ORDERING: Kind = Kind::Choice(&["topic", "partition"]);
const HOSTS: Kind = Kind::Choice(&["one", "many"]);
const CONSISTENCY: Kind =
    Kind::Choice(&["ANY", "ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM", "EACH_QUORUM", "LOCAL_ONE"]);
const NOW: &str = "columns that the host fills with the time of the write";

/// Every key, with every default.
pub(super) const KEYS: &[Key] = &[
    key(
        "name",
        Kind::Name(100),
        Absent::Required,
        "the pipeline's name, used in logs, client ids and as the default group",
    ),
    key("source.kafka.brokers", Kind::Text, Absent::Required, "bootstrap servers, `host:port` separated by commas"),
    key("source.kafka.topic", Kind::Name(249), Absent::Required, "the topic"),
    key(
        "source.kafka.group",
        Kind::Text,
        Absent::Computed("`name`"),
        "consumer group to which offsets are committed, for lag tools, and through which hosts share lanes",
    ),
    key(
        "source.kafka.ordering",
        ORDERING,
        Absent::Is(r#""topic""#),
        "`topic`: all partitions are merged into one lane; `partition`: one lane per partition",
    ),
    key(
        "source.kafka.hosts",
        HOSTS,
        Absent::Is(r#""one""#),
        "`one`: a host takes all lanes over when it starts; `many`: hosts with the same configuration share the lanes through the consumer group",
    ),
    key(
        "source.kafka.properties",
        Kind::Properties,
        Absent::Is("{}"),
        "librdkafka properties, except those that the delivery guarantee depends on; `sasl.password_file` and similar read secrets from files",
    ),
    key(
        "source.file.path",
        Kind::Stream,
        Absent::Required,
        "an NDJSON file instead of Kafka; `-` is standard input, whose payloads are folded as they come",
    ),
    key(
        "source.file.format",
        Kind::Choice(&["records", "payloads"]),
        Absent::Is(r#""records""#),
        "one record object or one payload per line",
    ),
    key(
        "source.file.timestamp_start",
        Kind::Integer(0, LAST_MS),
        Absent::Off,
        "timestamp of the first payload, ms since 1970; it rises by 1 ms per line; required for `payloads`",
    ),
    key(
        "source.file.ordering",
        ORDERING,
        Absent::Is(r#""topic""#),
        "`topic`: all partitions are merged into one lane; `partition`: one lane per partition",
    ),
    key(
        "time.out_of_orderness",
        Kind::Duration(0, YEAR),
        Absent::Is(r#""10s""#),
        "how far the watermark trails the greatest event time",
    ),
    key(
        "time.late",
        Kind::Choice(&["drop", "dead-letter", "process"]),
        Absent::Is(r#""drop""#),
        "what happens to events behind the watermark",
    ),
    key(
        "time.future_limit",
        Kind::Duration(0, 10_000 * YEAR),
        Absent::Is(r#""1h""#),
        "events further than this beyond their record's append time are rejected",
    ),
    key(
        "time.clock_skew",
        Kind::Duration(0, HOUR),
        Absent::Is(r#""200ms""#),
        "how far the brokers' clocks may differ before records are merged in the wrong order",
    ),
    key(
        "time.idle_timeout",
        Kind::Duration(1, YEAR),
        Absent::Off,
        "after this time without records the watermark follows the clock",
    ),
    key(
        "time.implausible",
        Kind::Choice(&["dead-letter", "inherit"]),
        Absent::Is(r#""dead-letter""#),
        "what happens to records whose timestamp is missing or not in the years 1970 to 2099: they become dead letters, or take over the append time of the record before them; such a timestamp never orders anything",
    ),
    key("plugin.component", Kind::Component, Absent::Required, "the plugin's file, or `builtin:visits`"),
    key("plugin.config", Kind::Json, Absent::Is("{}"), "the plugin's configuration, passed to it as JSON"),
    key(
        "plugin.memory",
        Kind::Size(64 * KIB, 4 * GIB),
        Absent::Is(r#""256MiB""#),
        "memory limit for one record, event or firing",
    ),
    key(
        "plugin.fuel",
        Kind::Integer(1, i64::MAX),
        Absent::Is("1_000_000_000"),
        "work limit for one record, event or firing, about one unit per instruction",
    ),
    key(
        "plugin.output_rows",
        Kind::Integer(1, 100_000_000),
        Absent::Is("100_000"),
        "row limit for one record, event or firing",
    ),
    key(
        "plugin.output_bytes",
        Kind::Size(1, GIB),
        Absent::Is(r#""64MiB""#),
        "output limit for one record, event or firing: events, rows, reasons and log lines",
    ),
    key(
        "plugin.state_bytes",
        Kind::Size(1, GIB),
        Absent::Is(r#""128MiB""#),
        "size limit for the state of one key; an event or firing after which a key has more is a strike. Calls that fold several events of a key may use this much memory",
    ),
    key(
        "plugin.record_bytes",
        Kind::Size(KIB, crate::record::bounded::MOST_BYTES as u64),
        Absent::Is(r#""16MiB""#),
        "size limit for one record: key, payload and headers, decompressed; a larger one is a dead letter that is cut, with its length and digest",
    ),
    key(
        "plugin.on_strike",
        Kind::Choice(&["dead-letter", "halt", "withdraw"]),
        Absent::Is(r#""dead-letter""#),
        "what happens when one record, event or firing traps or exceeds a limit; `withdraw` withdraws a deployment that is on probation, and otherwise acts like `dead-letter`",
    ),
    key(
        "plugin.probation",
        Kind::Duration(0, YEAR),
        Absent::Is(r#""10m""#),
        "how long a deployment can be withdrawn, in append time from its instant on; until then, what it overwrites is kept; `0s` turns withdrawal off",
    ),
    key(
        "plugin.withdrawn_rows",
        Kind::Choice(&["delete", "list"]),
        Absent::Is(r#""delete""#),
        "what happens to rows that only a withdrawn deployment wrote: they are deleted, or kept and listed in the log",
    ),
    key(
        "plugin.audit",
        Kind::Integer(1, i64::MAX),
        Absent::Off,
        "one in this many batches is folded again record by record, and a difference halts the lane; changes no row",
    ),
    key(
        "plugin.tables",
        Kind::Texts,
        Absent::Computed("all that it declares"),
        "tables that a plugin may write; a plugin that declares another one is refused, also when it is deployed. Without it, the admin API adds no \
         table that no deployment has written",
    ),
    key(
        "plugin.log_rate",
        Kind::Integer(1, i64::MAX),
        Absent::Is("100"),
        "log lines per second that the plugin may write in a lane, with bursts of ten times as many; further lines are dropped and counted",
    ),
    key(
        "plugin.cache",
        Kind::Path,
        Absent::Computed("`$XDG_CACHE_HOME/keyfold/plugins`, or that of `~/.cache`"),
        "folder for compiled plugins, which are native code: only keyfold's user may own and write it, or it is not used",
    ),
    key(
        "plugin.compile_time",
        Kind::Duration(SECOND, HOUR),
        Absent::Is(r#""2m""#),
        "CPU time for compiling a plugin and trying its configuration, in a process of its own",
    ),
    key(
        "plugin.compile_memory",
        Kind::Size(64 * KIB * KIB, 1024 * GIB),
        Absent::Is(r#""2GiB""#),
        "memory for that, beside `plugin.memory`",
    ),
    key(
        "state.url",
        Kind::Url,
        Absent::Required,
        "folder or URL for checkpoints and journal: `file://`; `s3://`, `gs://` and `az://` in builds with the feature `cloud`",
    ),
    key("state.checkpoint_interval", Kind::Duration(1, HOUR), Absent::Is(r#""5s""#), "time between checkpoints"),
    key(
        "state.memory",
        Kind::Size(1, 1 << 50),
        Absent::Is(r#""512MiB""#),
        "memory for keyed state of all lanes of a host; beyond it, keys that no record has met for a while are left to the store and read again \
         when they are met",
    ),
    key(
        "state.lane_bytes",
        Kind::Size(1, 1 << 50),
        Absent::Off,
        "size limit for the state of a lane; a checkpoint that finds more stops the host, which goes on under a higher limit",
    ),
    key("sink.cql.nodes", Kind::Nodes, Absent::Required, "contact points of ScyllaDB or Cassandra, `host:port`"),
    key("sink.cql.keyspace", Kind::Text, Absent::Required, "keyspace of the tables"),
    key("sink.cql.now", Kind::Texts, Absent::Is("[]"), NOW),
    key("sink.cql.user", Kind::Text, Absent::Off, "user name; requires `password`"),
    secret("sink.cql.password", "the user's password"),
    key(
        "sink.cql.tls.ca",
        Kind::Path,
        Absent::Computed("the system's"),
        "PEM file of trusted authorities; `tls = {}` alone turns TLS on",
    ),
    key("sink.cql.tls.certificate", Kind::Path, Absent::Off, "PEM file of the client's certificate; requires `key`"),
    key("sink.cql.tls.key", Kind::Path, Absent::Off, "PEM file of the client's key"),
    key("sink.cql.tls.verify", Kind::Flag, Absent::Is("true"), "whether to verify the node's certificate"),
    key(
        "sink.cql.tls.server_name",
        Kind::Text,
        Absent::Computed("the names in `nodes`"),
        "name that a node's certificate may have instead of the address of the node",
    ),
    key("sink.cql.consistency", CONSISTENCY, Absent::Is(r#""LOCAL_QUORUM""#), "consistency of writes"),
    key("sink.cql.in_flight", Kind::Integer(1, 65_536), Absent::Is("256"), "most writes in flight"),
    key("sink.sqlite.path", Kind::Path, Absent::Required, "the database file; its tables are created"),
    key("sink.sqlite.now", Kind::Texts, Absent::Is("[]"), NOW),
    key(
        "sink.ndjson.path",
        Kind::Stream,
        Absent::Is(r#""-""#),
        "file with one row object per line; `-` is standard output",
    ),
    key("sink.ndjson.now", Kind::Texts, Absent::Is("[]"), NOW),
    key("sink.discard", Kind::Empty, Absent::Off, "`[sink.discard]` drops all rows, for measurements"),
    key(
        "dead_letters.file",
        Kind::Path,
        Absent::Is(r#""dead-letters.ndjson""#),
        "NDJSON file for records that could not be folded; the file source can read it",
    ),
    key("dead_letters.topic", Kind::Name(249), Absent::Off, "a Kafka topic instead of the file"),
    key("dead_letters.brokers", Kind::Text, Absent::Computed("the source's"), "bootstrap servers of that topic"),
    key(
        "dead_letters.properties",
        Kind::Properties,
        Absent::Computed("the source's"),
        "librdkafka properties of its producer",
    ),
    key(
        "admin.listen",
        Kind::Text,
        Absent::Is(r#""127.0.0.1:9640""#),
        "address of the admin API, which is enabled by an `[admin]` section; addresses other than loopback require `token`; or `unix:` and the absolute path of a socket for the host's own user",
    ),
    key(
        "admin.probes",
        Kind::Text,
        Absent::Off,
        "address such as `0.0.0.0:8081` that answers the probes and `/metrics` over plain HTTP, and nothing else; `admin.listen` answers them too",
    ),
    secret("admin.token", "bearer token of the admin API; without a token the API is read-only"),
    secret(
        "admin.read_token",
        "another token, with which the API is read-only: for dashboards and people who only look",
    ),
    key(
        "admin.tls.certificate",
        Kind::Path,
        Absent::Off,
        "PEM file of the host's certificate and its chain, which turns TLS on; requires `key`; a changed file is read again",
    ),
    key("admin.tls.key", Kind::Path, Absent::Off, "PEM file of the certificate's key"),
    key(
        "admin.tls.client_ca",
        Kind::Path,
        Absent::Off,
        "PEM file of authorities: every client needs a certificate that one of them has signed",
    ),
    key(
        "admin.audit_log",
        Kind::Path,
        Absent::Off,
        "file to which a line of JSON is appended before and after each request that changes something, and for refused tokens",
    ),
    key(
        "admin.upload_limit",
        Kind::Size(1024, GIB),
        Absent::Is(r#""32MiB""#),
        "size limit for a request to the admin API",
    ),
    key(
        "admin.stuck_after",
        Kind::Duration(1, 24 * HOUR),
        Absent::Is(r#""60s""#),
        "how long a lane may make no progress before `/livez` fails; waiting for input, the sink or the state store does not count",
    ),
    key(
        "telemetry.otlp",
        Kind::Text,
        Absent::Off,
        "URL of an OpenTelemetry collector, such as `http://host:4318`, for traces of batches by OTLP over HTTP",
    ),
    key("telemetry.sample", Kind::Integer(1, i64::MAX), Absent::Is("100"), "one in this many batches is traced"),
    key(
        "run.workers",
        Kind::Integer(1, 256),
        Absent::Computed("the machine's threads, at most 4"),
        "threads for map and fold; changes no row",
    ),
    key(
        "run.batch_records",
        Kind::Integer(1, 1_000_000),
        Absent::Is("50_000"),
        "most records in a batch; changes no row",
    ),
    key(
        "run.startup_timeout",
        Kind::Duration(0, 24 * HOUR),
        Absent::Is(r#""30s""#),
        "how long to wait for brokers and database at startup",
    ),
    key(
        "run.deploy_on_start",
        Kind::Flag,
        Absent::Is("false"),
        "whether a changed configuration file is deployed at startup instead of refused",
    ),
];

/// Upper limit for the default of `run.workers`: more threads seldom help one lane.
pub(super) const MOST_DEFAULT_WORKERS: usize = 4;
/// The default port of a CQL node.
pub(super) const CQL_PORT: u16 = 9042;
/// Properties that may be given as `<property>_file`.
pub(super) const SECRET_PROPERTIES: &[&str] =
    &["sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password", "sasl.oauthbearer.client.secret"];

const fn key(path: &'static str, kind: Kind, absent: Absent, meaning: &'static str) -> Key {
    Key { path, kind, absent, meaning, secret: false }
}

const fn secret(path: &'static str, meaning: &'static str) -> Key {
    Key { path, kind: Kind::Text, absent: Absent::Off, meaning, secret: true }
}

/// The meaning of a path.
pub(super) enum Place {
    /// A key.
    Key(&'static Key),
    /// The file that holds a secret.
    SecretFile(&'static Key),
    /// A part of a key whose value is a table: the key and the rest of the path.
    Inside(&'static Key, String),
    /// A section: a prefix of some keys' paths.
    Section,
    /// Nothing.
    Unknown,
}

/// Returns the meaning of `path`.
pub(super) fn place(path: &str) -> Place {
    for key in KEYS {
        if key.path == path {
            return Place::Key(key);
        }
        if key.secret && path.strip_suffix("_file") == Some(key.path) {
            return Place::SecretFile(key);
        }
        let free = matches!(key.kind, Kind::Properties | Kind::Json);
        if let Some(rest) = below(path, key.path).filter(|_| free) {
            return Place::Inside(key, rest.to_owned());
        }
    }
    if KEYS.iter().any(|key| below(key.path, path).is_some()) { Place::Section } else { Place::Unknown }
}

/// Returns the rest of `path` if it lies below `section`.
fn below<'a>(path: &'a str, section: &str) -> Option<&'a str> {
    path.strip_prefix(section)?.strip_prefix('.')
}

/// Returns the sections that contain `path`, outermost first.
pub(super) fn sections(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('.').map(|(at, _)| &path[..at])
}

/// Returns the path that was probably meant: a similar name in the same section, the same name elsewhere, or any similar path.
pub(super) fn nearest(path: &str) -> Option<String> {
    let (section, last) = path.rsplit_once('.').unwrap_or(("", path));
    let neighbour =
        most_like(last, 0.6, children(section).into_iter().map(|name| (name.clone(), join(section, &name))));
    let namesake = || most_like(path, 0.0, everywhere().filter(|(path, _)| path.rsplit('.').next() == Some(last)));
    let alike = || most_like(path, 0.6, everywhere());
    neighbour.or_else(namesake).or_else(alike)
}

/// Returns the names directly in a section; the empty path is the whole file.
pub(super) fn children(section: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for key in KEYS {
        let rest = if section.is_empty() { Some(key.path) } else { below(key.path, section) };
        let Some(name) = rest.and_then(|rest| rest.split('.').next()) else { continue };
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn everywhere() -> impl Iterator<Item = (String, String)> {
    KEYS.iter().map(|key| (key.path.to_owned(), key.path.to_owned()))
}

/// Given pairs of (text, answer), returns the answer whose text is most similar to `wanted`, if the similarity is at least `least`.
pub fn most_like(wanted: &str, least: f64, among: impl Iterator<Item = (String, String)>) -> Option<String> {
    let scored = among.map(|(text, answer)| (strsim::normalized_damerau_levenshtein(wanted, &text), answer));
    let best = scored.filter(|(score, _)| *score >= least).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, answer)| answer)
}

/// Joins a section and a name.
pub(super) fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// Returns the variable that overrides `path`.
pub(super) fn variable(path: &str) -> String {
    format!("KEYFOLD_{}", path.to_uppercase().replace('.', "__"))
}

/// Returns the reference of all keys as a Markdown table: key, type, default, meaning.
pub fn reference() -> String {
    let mut table = String::from("| key | type | default | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let name = key.path.rsplit('.').next().unwrap_or(key.path);
        let file = if key.secret { format!(" (or `{name}_file`)") } else { String::new() };
        writeln!(table, "| `{}`{file} | {} | {} | {} |", key.path, key.kind.short(), key.absent.short(), key.meaning)
            .expect("writing to a string cannot fail");
    }
    table
}

impl Absent {
    fn short(self) -> String {
        match self {
            Absent::Required => "required".to_owned(),
            Absent::Off => "none".to_owned(),
            Absent::Is(value) => format!("`{}`", value.trim_matches('"')),
            Absent::Computed(words) => words.to_owned(),
        }
    }
}

impl Kind {
    /// Returns the type's name in the reference.
    fn short(self) -> String {
        match self {
            Kind::Text => "text".to_owned(),
            Kind::Name(_) => "name".to_owned(),
            Kind::Path => "path".to_owned(),
            Kind::Stream => "path or `-`".to_owned(),
            Kind::Component => "path or `builtin:…`".to_owned(),
            Kind::Url => "path or URL".to_owned(),
            Kind::Integer(least, most) if most == i64::MAX => format!("number from {least}"),
            Kind::Integer(least, most) => format!("number, {least} to {most}"),
            Kind::Flag => "`true` or `false`".to_owned(),
            Kind::Duration(..) => "duration".to_owned(),
            Kind::Size(..) => "size".to_owned(),
            Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Kind::Texts => "list of text".to_owned(),
            Kind::Nodes => "list of `host:port`".to_owned(),
            Kind::Properties | Kind::Json => "table".to_owned(),
            Kind::Empty => "section".to_owned(),
        }
    }

    /// Returns what an error says was expected.
    pub(super) fn expected(self) -> String {
        match self {
            Kind::Text => "non-empty text".to_owned(),
            Kind::Name(most) => format!("a name of letters, digits, '.', '_' and '-', at most {most} long"),
            Kind::Path => "the path of a file".to_owned(),
            Kind::Stream => "the path of a file, or \"-\"".to_owned(),
            Kind::Component => "the path of a file, or \"builtin:visits\"".to_owned(),
            Kind::Url => "a folder or a URL like \"file:///var/lib/keyfold\"".to_owned(),
            Kind::Integer(least, most) if most == i64::MAX => format!("a whole number from {least}"),
            Kind::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Kind::Flag => "true or false".to_owned(),
            Kind::Duration(..) => "a duration with a unit, such as \"10s\", \"200ms\" or \"1h\"".to_owned(),
            Kind::Size(..) => "a size with a unit, such as \"256MiB\"".to_owned(),
            Kind::Choice(words) => any_of(words),
            Kind::Texts => "a list of text like [\"a\", \"b\"]".to_owned(),
            Kind::Nodes => "a list of at least one node, such as [\"localhost:9042\"]".to_owned(),
            Kind::Properties => "a table of librdkafka properties like { \"security.protocol\" = \"ssl\" }".to_owned(),
            Kind::Json => "a JSON value".to_owned(),
            Kind::Empty => "a section without keys".to_owned(),
        }
    }
}

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`.
fn any_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
