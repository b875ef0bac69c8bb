//! The keys of the configuration: path, type, default and meaning of each, once. Unknown keys, defaults, the reference table and the
//! check of values all walk this table. Knows no file and no variable.

use std::fmt::Write as _;

/// A key that a configuration may hold.
pub(super) struct Key {
    /// Dotted path, `source.kafka.brokers`.
    pub(super) path: &'static str,
    /// What its value must be.
    pub(super) kind: Kind,
    /// What holds when it is absent.
    pub(super) absent: Absent,
    /// What it decides, for people.
    pub(super) meaning: &'static str,
    /// May be given as `<path>_file`, and never shows in a message.
    pub(super) secret: bool,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// Any text but the empty one.
    Text,
    /// Letters, digits, `.`, `_` and `-`, at most this many.
    Name(usize),
    /// A file, relative to the configuration's folder.
    Path,
    /// A file, or `-` for a standard stream.
    Stream,
    /// A plugin's file, or `builtin:<name>`.
    Component,
    /// A folder or a URL of an object store.
    Url,
    /// A whole number from the first to the second.
    Integer(i64, i64),
    /// `true` or `false`.
    Flag,
    /// A time with a unit, from the first to the second, in ms.
    Duration(u64, u64),
    /// Bytes with a unit, from the first to the second.
    Size(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of text.
    Texts,
    /// A list of `host:port`, not empty.
    Nodes,
    /// A table of librdkafka properties.
    Properties,
    /// Any value that JSON has.
    Json,
    /// A section without keys.
    Empty,
}

/// What holds when a key is absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Absent {
    /// It must be there if its section is.
    Required,
    /// Nothing.
    Off,
    /// This value, as TOML writes it.
    Is(&'static str),
    /// What these words say; `Config` works it out.
    Computed(&'static str),
}

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const YEAR: u64 = 366 * 24 * HOUR;
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
/// The last millisecond of the year 9999: append times end where event times do.
const LAST_MS: i64 = 253_402_300_799_999;

const ORDERING: Kind = Kind::Choice(&["topic", "partition"]);
const CONSISTENCY: Kind =
    Kind::Choice(&["ANY", "ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM", "EACH_QUORUM", "LOCAL_ONE"]);
const NOW: &str = "columns that the host fills with the time of writing";

/// Every key, with every default.
pub(super) const KEYS: &[Key] = &[
    key("name", Kind::Name(100), Absent::Required, "the pipeline's name: in logs, client ids, the default group"),
    key("source.kafka.brokers", Kind::Text, Absent::Required, "bootstrap servers, `host:port` separated by commas"),
    key("source.kafka.topic", Kind::Name(249), Absent::Required, "the topic"),
    key(
        "source.kafka.group",
        Kind::Text,
        Absent::Computed("`name`"),
        "consumer group under which offsets are committed, for lag tools",
    ),
    key(
        "source.kafka.ordering",
        ORDERING,
        Absent::Is(r#""topic""#),
        "one lane from all partitions merged, or one lane per partition",
    ),
    key(
        "source.kafka.properties",
        Kind::Properties,
        Absent::Is("{}"),
        "librdkafka properties, but those that the guarantee rests on; `sasl.password_file` and the like read secrets from files",
    ),
    key("source.file.path", Kind::Stream, Absent::Required, "NDJSON file instead of Kafka; `-` is standard input"),
    key(
        "source.file.format",
        Kind::Choice(&["records", "payloads"]),
        Absent::Is(r#""records""#),
        "one record object a line, or one payload a line",
    ),
    key(
        "source.file.timestamp_start",
        Kind::Integer(0, LAST_MS),
        Absent::Off,
        "timestamp of the first payload in ms since 1970, the following count up from it; required for `payloads`",
    ),
    key(
        "source.file.ordering",
        ORDERING,
        Absent::Is(r#""topic""#),
        "one lane from all partitions merged, or one lane per partition",
    ),
    key(
        "time.out_of_orderness",
        Kind::Duration(0, YEAR),
        Absent::Is(r#""10s""#),
        "how far the watermark stays behind the greatest event time",
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
        "events further past their record's append time are rejected",
    ),
    key(
        "time.clock_skew",
        Kind::Duration(0, HOUR),
        Absent::Is(r#""200ms""#),
        "how far the brokers' clocks may differ before order is guessed wrongly",
    ),
    key(
        "time.idle_timeout",
        Kind::Duration(1, YEAR),
        Absent::Off,
        "after so long without records the watermark goes on with the clock",
    ),
    key("plugin.component", Kind::Component, Absent::Required, "the plugin's file, or `builtin:visits`"),
    key("plugin.config", Kind::Json, Absent::Is("{}"), "configuration of the plugin, handed to it as JSON"),
    key(
        "plugin.memory",
        Kind::Size(64 * KIB, 4 * GIB),
        Absent::Is(r#""256MiB""#),
        "limit of memory for one record, event or firing",
    ),
    key(
        "plugin.fuel",
        Kind::Integer(1, i64::MAX),
        Absent::Is("1_000_000_000"),
        "limit of work for one record, event or firing, about one unit an instruction",
    ),
    key(
        "plugin.output_rows",
        Kind::Integer(1, 100_000_000),
        Absent::Is("100_000"),
        "limit of rows from one record, event or firing",
    ),
    key(
        "plugin.output_bytes",
        Kind::Size(1, GIB),
        Absent::Is(r#""64MiB""#),
        "limit of output from one record, event or firing",
    ),
    key(
        "plugin.on_strike",
        Kind::Choice(&["dead-letter", "halt", "withdraw"]),
        Absent::Is(r#""dead-letter""#),
        "what happens when one record, event or firing traps or breaks a limit; `withdraw` withdraws a deployment within its probation, and is `dead-letter` otherwise",
    ),
    key(
        "plugin.probation",
        Kind::Duration(0, YEAR),
        Absent::Is(r#""10m""#),
        "how long a deployment can be withdrawn, in append time from its instant on; meanwhile what it overwrites is kept; `0s` is not at all",
    ),
    key(
        "plugin.withdrawn_rows",
        Kind::Choice(&["delete", "list"]),
        Absent::Is(r#""delete""#),
        "what becomes of rows that only a withdrawn deployment wrote: deleted, or left and listed in the log",
    ),
    key(
        "plugin.audit",
        Kind::Integer(1, i64::MAX),
        Absent::Off,
        "one of so many batches is folded again record by record, and a difference halts the lane; changes no row",
    ),
    key(
        "plugin.log_rate",
        Kind::Integer(1, i64::MAX),
        Absent::Is("100"),
        "lines a second that the plugin may log in a lane, and ten times as many at once; more are left out, counted and told",
    ),
    key(
        "state.url",
        Kind::Url,
        Absent::Required,
        "folder or URL of checkpoints and journal: `file://`, and in builds with the feature `cloud` `s3://`, `gs://`, `az://`",
    ),
    key("state.checkpoint_interval", Kind::Duration(1, HOUR), Absent::Is(r#""5s""#), "time between checkpoints"),
    key("sink.cql.nodes", Kind::Nodes, Absent::Required, "contact points of ScyllaDB or Cassandra, `host:port`"),
    key("sink.cql.keyspace", Kind::Text, Absent::Required, "keyspace of the tables"),
    key("sink.cql.now", Kind::Texts, Absent::Is("[]"), NOW),
    key("sink.cql.user", Kind::Text, Absent::Off, "user name, together with `password`"),
    secret("sink.cql.password", "password of `user`"),
    key(
        "sink.cql.tls.ca",
        Kind::Path,
        Absent::Computed("the system's"),
        "PEM file of the authorities to trust; `tls = {}` alone turns TLS on",
    ),
    key(
        "sink.cql.tls.certificate",
        Kind::Path,
        Absent::Off,
        "PEM file of the client's certificate, together with `key`",
    ),
    key("sink.cql.tls.key", Kind::Path, Absent::Off, "PEM file of the client's key"),
    key("sink.cql.tls.verify", Kind::Flag, Absent::Is("true"), "whether the node's certificate is checked"),
    key("sink.cql.consistency", CONSISTENCY, Absent::Is(r#""LOCAL_QUORUM""#), "consistency of writes"),
    key("sink.cql.in_flight", Kind::Integer(1, 65_536), Absent::Is("256"), "writes in flight"),
    key("sink.sqlite.path", Kind::Path, Absent::Required, "the database file; its tables are created"),
    key("sink.sqlite.now", Kind::Texts, Absent::Is("[]"), NOW),
    key(
        "sink.ndjson.path",
        Kind::Stream,
        Absent::Is(r#""-""#),
        "file of one row object a line; `-` is standard output",
    ),
    key("sink.ndjson.now", Kind::Texts, Absent::Is("[]"), NOW),
    key("sink.discard", Kind::Empty, Absent::Off, "`[sink.discard]` writes rows nowhere, for measurements"),
    key(
        "dead_letters.file",
        Kind::Path,
        Absent::Is(r#""dead-letters.ndjson""#),
        "NDJSON file of what could not be folded, which the file source can read again",
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
        "address of the admin API, which there is if the configuration has a section `[admin]`; beyond loopback only with `token`",
    ),
    secret("admin.token", "bearer token of the admin API; without one it tells, and changes nothing"),
    key("admin.upload_limit", Kind::Size(1024, GIB), Absent::Is(r#""32MiB""#), "limit of a request to the admin API"),
    key(
        "admin.stuck_after",
        Kind::Duration(1, 24 * HOUR),
        Absent::Is(r#""60s""#),
        "how long a lane may make no progress inside the host or a plugin's call until `/livez` fails; waiting for input, the sink or where state lies does not count",
    ),
    key(
        "telemetry.otlp",
        Kind::Text,
        Absent::Off,
        "URL of an OpenTelemetry collector, `http://host:4318`, which gets traces of batches by OTLP over HTTP",
    ),
    key("telemetry.sample", Kind::Integer(1, i64::MAX), Absent::Is("100"), "one of so many batches is traced"),
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
        "upper bound of a batch; changes no row",
    ),
    key(
        "run.startup_timeout",
        Kind::Duration(0, 24 * HOUR),
        Absent::Is(r#""30s""#),
        "how long brokers and database are waited for at start",
    ),
    key(
        "run.deploy_on_start",
        Kind::Flag,
        Absent::Is("false"),
        "whether a changed configuration file is ordered as a deployment at the start, instead of being refused",
    ),
];

/// `run.workers` when nothing is said: more threads than this seldom help one lane.
pub(super) const MOST_DEFAULT_WORKERS: usize = 4;
/// The port of a CQL node when it names none.
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

/// What a path names.
pub(super) enum Place {
    /// A key.
    Key(&'static Key),
    /// The file of a secret.
    SecretFile(&'static Key),
    /// A part of a key that is a free table: the key and the rest of the path.
    Inside(&'static Key, String),
    /// A section: the beginning of some keys' paths.
    Section,
    /// Nothing.
    Unknown,
}

/// What `path` names.
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

/// The rest of `path` when it lies below `section`.
fn below<'a>(path: &'a str, section: &str) -> Option<&'a str> {
    path.strip_prefix(section)?.strip_prefix('.')
}

/// The sections that `path` lies in, outermost first.
pub(super) fn sections(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('.').map(|(at, _)| &path[..at])
}

/// The right path that `path` is most like: a neighbour of a like name, else a key of the same name elsewhere, else any like it.
pub(super) fn nearest(path: &str) -> Option<String> {
    let (section, last) = path.rsplit_once('.').unwrap_or(("", path));
    let neighbour =
        most_like(last, 0.6, children(section).into_iter().map(|name| (name.clone(), join(section, &name))));
    let namesake = || most_like(path, 0.0, everywhere().filter(|(path, _)| path.rsplit('.').next() == Some(last)));
    let alike = || most_like(path, 0.6, everywhere());
    neighbour.or_else(namesake).or_else(alike)
}

/// The names directly in a section; the empty section is the top.
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

/// Of (text to compare, answer) the answer whose text is most like `wanted`, if it is at least `least` like it.
fn most_like(wanted: &str, least: f64, among: impl Iterator<Item = (String, String)>) -> Option<String> {
    let scored = among.map(|(text, answer)| (strsim::normalized_damerau_levenshtein(wanted, &text), answer));
    let best = scored.filter(|(score, _)| *score >= least).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, answer)| answer)
}

/// `name` below `section`.
pub(super) fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// The variable that overrides `path`.
pub(super) fn variable(path: &str) -> String {
    format!("KEYFOLD_{}", path.to_uppercase().replace('.', "__"))
}

/// The reference of all keys as a Markdown table: key, type, default, meaning.
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
    /// The type's name in the reference.
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

    /// What a refusal says was expected.
    pub(super) fn expected(self) -> String {
        match self {
            Kind::Text => "text that is not empty".to_owned(),
            Kind::Name(most) => format!("a name of letters, digits, '.', '_' and '-', at most {most} long"),
            Kind::Path => "the path of a file".to_owned(),
            Kind::Stream => "the path of a file, or \"-\"".to_owned(),
            Kind::Component => "the path of a file, or \"builtin:visits\"".to_owned(),
            Kind::Url => "a folder or a URL like \"file:///var/lib/keyfold\"".to_owned(),
            Kind::Integer(least, most) if most == i64::MAX => format!("a whole number from {least}"),
            Kind::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Kind::Flag => "true or false".to_owned(),
            Kind::Duration(..) => "a duration with its unit like \"10s\", \"200ms\" or \"1h\"".to_owned(),
            Kind::Size(..) => "a size with its unit like \"256MiB\"".to_owned(),
            Kind::Choice(words) => any_of(words),
            Kind::Texts => "a list of text like [\"a\", \"b\"]".to_owned(),
            Kind::Nodes => "a list like [\"localhost:9042\"], with one node at least".to_owned(),
            Kind::Properties => "a table of librdkafka properties like { \"security.protocol\" = \"ssl\" }".to_owned(),
            Kind::Json => "a value that JSON has".to_owned(),
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
