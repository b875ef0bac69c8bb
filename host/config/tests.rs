//! Configurations, their values and their errors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::read::Given;
use super::*;

mod refusals;
mod variables;

const BASE: &str = "/etc/keyfold";

/// The smallest valid configuration: line 1 is the name, 2-4 the source, 5-6 the plugin, 7-8 the state, 9 the sink.
const SMALLEST: &str = r#"name = "visits"
[source.kafka]
brokers = "localhost:9094"
topic = "visits"
[plugin]
component = "builtin:visits"
[state]
url = "state"
[sink.discard]
"#;

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_toml(text, Path::new(BASE), environment).map_err(|failure| {
        assert_eq!(failure.exit, Exit::Config);
        failure.message
    })
}

fn good(text: &str, variables: &[(&str, &str)]) -> Config {
    read(text, variables).expect("the configuration is valid")
}

fn bad(text: &str, variables: &[(&str, &str)]) -> String {
    read(text, variables).expect_err("the configuration is invalid")
}

/// The smallest configuration, followed by these lines.
fn with(lines: &str) -> String {
    format!("{SMALLEST}{lines}")
}

/// The smallest configuration with another sink.
fn with_sink(lines: &str) -> String {
    SMALLEST.replace("[sink.discard]", lines)
}

/// The smallest configuration with another source.
fn with_source(lines: &str) -> String {
    SMALLEST.replace("[source.kafka]\nbrokers = \"localhost:9094\"\ntopic = \"visits\"", lines)
}

fn kafka(config: &Config) -> &KafkaSource {
    let Source::Kafka(kafka) = &config.source else { panic!("expected Kafka, found {:?}", config.source) };
    kafka
}

fn cql(config: &Config) -> &CqlSink {
    let Sink::Cql(cql) = &config.sink else { panic!("expected CQL, found {:?}", config.sink) };
    cql
}

/// Requires exactly this error.
#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(bad(text, &[]), format!("the configuration: {expected}"));
}

#[track_caller]
fn variable_refused(variable: (&str, &str), expected: &str) {
    assert_eq!(bad(SMALLEST, &[variable]), expected);
}

#[test]
fn the_smallest_configuration_has_all_defaults() {
    let config = good(SMALLEST, &[]);
    assert_eq!(config.name, "visits");
    assert_eq!(kafka(&config).group, "visits");
    assert_eq!(kafka(&config).ordering, Ordering::Topic);
    assert!(kafka(&config).properties.is_empty());
    let time = Time {
        out_of_orderness_ms: 10_000,
        late: Late::Drop,
        future_limit_ms: 3_600_000,
        clock_skew_ms: 200,
        implausible: ImplausibleTime::DeadLetter,
        idle_timeout_ms: None,
    };
    assert_eq!(config.time, time);
    let limits = Limits {
        memory_bytes: 256 << 20,
        fuel: 1_000_000_000,
        output_rows: 100_000,
        output_bytes: 64 << 20,
        state_bytes: 128 << 20,
        record_bytes: 16 << 20,
    };
    assert_eq!(config.plugin.limits, limits);
    assert_eq!(config.plugin.on_strike, OnStrike::DeadLetter);
    assert_eq!(config.plugin.config, serde_json::json!({}));
    assert_eq!(config.state.checkpoint_interval, Duration::from_secs(5));
    assert!(
        matches!(&config.dead_letters, DeadLetters::File(file) if file == Path::new("/etc/keyfold/dead-letters.ndjson"))
    );
    assert!((1..=4).contains(&config.run.workers));
    assert_eq!(config.run.batch_records, 50_000);
    assert_eq!(config.run.startup_timeout, Duration::from_secs(30));
}

#[test]
fn every_default_fits_its_key() {
    let mut given = Given::read("", std::iter::empty()).expect("nothing is TOML");
    let values = value::all(&mut given, Path::new(BASE));
    for key in KEYS {
        assert_eq!(values.contains_key(key.path), matches!(key.absent, Absent::Is(_)), "{}", key.path);
    }
}

#[test]
fn the_file_for_docker_is_right() {
    let text = include_str!("../../docker/keyfold.toml");
    let config = good(text, &[]);
    assert_eq!(kafka(&config).brokers, "kafka:9092");
    assert_eq!(cql(&config).nodes, ["scylla:9042"]);
    assert_eq!(cql(&config).keyspace, "ndc_porto");
    assert_eq!(cql(&config).now, ["ingestion_time"]);
    assert_eq!(config.plugin.component, Component::Builtin("visits".to_owned()));
    assert_eq!(config.plugin.config, serde_json::json!({"session_timeout": "50s", "session_id": "append-second"}));
    assert_eq!(config.state.url.as_str(), "file:///var/lib/keyfold");
}

#[test]
fn the_example_is_right_and_names_every_key() {
    let text = include_str!("../../keyfold.example.toml");
    good(text, &[]);
    let is_key = |line: &&str| line.contains('=') || line.starts_with('[');
    let bare = |line| if let Some(key) = str::strip_prefix(line, "# ").filter(is_key) { key } else { line };
    let all: Vec<&str> = text.lines().map(bare).collect();
    let given = Given::read(&all.join("\n"), std::iter::empty()).expect("the example is TOML with all its keys");
    assert_eq!(given.problems, []);
    for key in KEYS {
        assert!(given.has(key.path), "{} is not in the example", key.path);
    }
}

#[test]
fn a_collector_is_reached_over_http() {
    let telemetry = |more: &str| good(&with(&format!("[telemetry]\n{more}")), &[]).telemetry;
    assert!(telemetry("sample = 3").is_none(), "without a collector nothing is traced");
    let found = telemetry("otlp = \"http://collector:4318/\"").expect("a collector is named");
    assert_eq!((found.otlp.as_str(), found.sample), ("http://collector:4318", 100));
    refused(
        &with("[telemetry]\notlp = \"https://collector\""),
        "line 11: telemetry.otlp: expected a URL like \"http://collector:4318\", found \"https://collector\"",
    );
}

#[test]
fn the_example_gives_the_defaults_where_it_shows_them() {
    let shown = good(include_str!("../../keyfold.example.toml"), &[]);
    let least = good(SMALLEST, &[]);
    assert_eq!(shown.time, least.time);
    assert_eq!(shown.plugin.limits, least.plugin.limits);
    assert_eq!(shown.run.batch_records, least.run.batch_records);
    assert_eq!(shown.run.startup_timeout, least.run.startup_timeout);
    assert_eq!(shown.state.checkpoint_interval, least.state.checkpoint_interval);
    assert_eq!((cql(&shown).in_flight, cql(&shown).consistency.as_str()), (256, "LOCAL_QUORUM"));
}

#[test]
fn the_reference_has_a_line_for_every_key() {
    let reference = reference();
    assert_eq!(reference.lines().count(), KEYS.len() + 2);
    assert!(reference.contains(
        "| `time.out_of_orderness` | duration | `10s` | how far the watermark trails the greatest event time |"
    ));
    assert!(reference.contains("| `sink.cql.password` (or `password_file`) | text | none |"));
    assert!(reference.lines().all(|line| line.matches(" | ").count() == 3 || line.starts_with("|---")));
}

#[test]
fn every_value_can_be_set() {
    let config = good(
        r#"
name = "all"
[source.kafka]
brokers = "a:1,b:2"
topic = "t"
group = "g"
ordering = "partition"
properties = { "security.protocol" = "ssl", "fetch.wait.max.ms" = 5, "socket.keepalive.enable" = true }
[time]
out_of_orderness = "1m 30s"
late = "process"
future_limit = "2d"
clock_skew = "0s"
idle_timeout = "500ms"
implausible = "inherit"
[plugin]
component = "visits.wasm"
memory = "1GiB"
fuel = 7
output_rows = 8
output_bytes = "9KiB"
state_bytes = "11KiB"
record_bytes = "10KiB"
on_strike = "halt"
[state]
url = "file:///var/lib/keyfold"
checkpoint_interval = "250ms"
memory = "12MiB"
[sink.cql]
nodes = ["a", "b:1", "[::1]"]
keyspace = "k"
user = "u"
password = "p"
consistency = "one"
in_flight = 3
tls = { ca = "ca.pem", certificate = "c.pem", key = "/k.pem", verify = false, server_name = "db.example" }
[dead_letters]
topic = "dead"
[run]
workers = 256
batch_records = 1
startup_timeout = "0s"
"#,
        &[],
    );
    assert_eq!(kafka(&config).group, "g");
    assert_eq!(kafka(&config).ordering, Ordering::Partition);
    assert_eq!(kafka(&config).properties["security.protocol"], "ssl");
    assert_eq!(kafka(&config).properties["fetch.wait.max.ms"], "5");
    assert_eq!(kafka(&config).properties["socket.keepalive.enable"], "true");
    assert_eq!(config.time.out_of_orderness_ms, 90_000);
    assert_eq!((config.time.late, config.time.clock_skew_ms), (Late::Process, 0));
    assert_eq!((config.time.future_limit_ms, config.time.idle_timeout_ms), (172_800_000, Some(500)));
    assert_eq!(config.time.implausible, ImplausibleTime::Inherit);
    assert_eq!(config.plugin.component, Component::File(PathBuf::from("/etc/keyfold/visits.wasm")));
    let limits = Limits {
        memory_bytes: 1 << 30,
        fuel: 7,
        output_rows: 8,
        output_bytes: 9 << 10,
        state_bytes: 11 << 10,
        record_bytes: 10 << 10,
    };
    assert_eq!((config.plugin.limits, config.plugin.on_strike), (limits, OnStrike::Halt));
    assert_eq!((config.state.checkpoint_interval, config.state.memory_bytes), (Duration::from_millis(250), 12 << 20));
    assert_eq!(cql(&config).nodes, ["a:9042", "b:1", "[::1]:9042"]);
    assert_eq!((cql(&config).consistency.as_str(), cql(&config).in_flight), ("ONE", 3));
    assert_eq!((cql(&config).user.as_deref(), cql(&config).password.as_deref()), (Some("u"), Some("p")));
    let tls = cql(&config).tls.as_ref().expect("TLS is configured");
    assert_eq!(tls.ca.as_deref(), Some(Path::new("/etc/keyfold/ca.pem")));
    assert_eq!(tls.certificate, Some((PathBuf::from("/etc/keyfold/c.pem"), PathBuf::from("/k.pem"))));
    assert!(!tls.verify);
    assert_eq!(tls.server_name.as_deref(), Some("db.example"));
    assert_eq!((config.run.workers, config.run.batch_records, config.run.startup_timeout), (256, 1, Duration::ZERO));
    let DeadLetters::Topic { brokers, topic, properties, .. } = &config.dead_letters else {
        panic!("expected a topic")
    };
    assert_eq!((brokers.as_str(), topic.as_str()), ("a:1,b:2", "dead"));
    assert_eq!(properties, &kafka(&config).properties);
}

#[test]
fn an_empty_tls_table_turns_tls_on() {
    let config = good(&with_sink("[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\"\ntls = {}"), &[]);
    assert!(cql(&config).tls.as_ref().is_some_and(|tls| tls.verify && tls.ca.is_none() && tls.certificate.is_none()));
    let config = good(&with_sink("[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\""), &[]);
    assert!(cql(&config).tls.is_none());
}

#[test]
fn a_file_source_has_its_own_keys() {
    let config = good(&with_source("[source.file]\npath = \"-\"\nformat = \"payloads\"\ntimestamp_start = 5"), &[]);
    let Source::File(file) = &config.source else { panic!("expected a file") };
    assert_eq!((file.path.as_path(), file.format), (Path::new("-"), FileFormat::Payloads));
    assert_eq!((file.timestamp_start_ms, file.ordering), (Some(5), Ordering::Topic));
}

#[test]
fn ndjson_goes_to_standard_output_unless_a_file_is_named() {
    let config = good(&with_sink("[sink.ndjson]"), &[]);
    assert!(matches!(&config.sink, Sink::Ndjson(sink) if sink.path == Path::new("-")));
    let config = good(&with_sink("[sink.ndjson]\npath = \"rows.ndjson\"\nnow = [\"at\"]"), &[]);
    assert!(matches!(&config.sink, Sink::Ndjson(sink) if sink.path == Path::new("/etc/keyfold/rows.ndjson")));
}

#[test]
fn properties_may_be_written_with_dots_or_quoted() {
    let text = with("[source.kafka.properties]\nsasl.username = \"u\"\n\"sasl.mechanism\" = \"PLAIN\"\n");
    let config = good(&text, &[]);
    assert_eq!(kafka(&config).properties["sasl.username"], "u");
    assert_eq!(kafka(&config).properties["sasl.mechanism"], "PLAIN");
}

#[test]
fn state_urls_may_be_folders_relative_to_the_file() {
    let url = |text: &str| good(&SMALLEST.replace("\"state\"", &format!("{text:?}")), &[]).state.url.to_string();
    assert_eq!(url("state"), "file:///etc/keyfold/state");
    assert_eq!(url("./state"), "file:///etc/keyfold/state");
    assert_eq!(url("/var/state"), "file:///var/state");
    assert_eq!(url("file://./state"), "file:///etc/keyfold/state");
    assert_eq!(url("file://state"), "file:///etc/keyfold/state");
    assert_eq!(url("file:///var/state"), "file:///var/state");
    assert_eq!(url("file:/var/state"), "file:///var/state");
    assert_eq!(url("file://localhost/var/state"), "file:///var/state");
}

#[test]
fn object_stores_need_the_cloud_feature_and_a_bucket() {
    let result = read(&SMALLEST.replace("\"state\"", "\"s3://bucket/state\""), &[]);
    if cfg!(feature = "cloud") {
        assert_eq!(result.expect("the URL is right").state.url.as_str(), "s3://bucket/state");
        refused(
            &SMALLEST.replace("\"state\"", "\"s3:///state\""),
            "line 8: state.url: \"s3:///state\" has no bucket; write it as \"s3://bucket/folder\"",
        );
        refused(
            &SMALLEST.replace("\"state\"", "\"s3://bucket/state#1\""),
            "line 8: state.url: \"s3://bucket/state#1\" has a # or ?, which ends the path of a URL; write %23 or %3F",
        );
    } else {
        assert_eq!(
            result.expect_err("cloud storage is not built in"),
            "the configuration: line 8: state.url: \"s3://bucket/state\" needs a keyfold built with cloud storage; \
             build one with cargo build --release --features cloud"
        );
    }
}

#[test]
fn a_scheme_that_nothing_serves_is_refused() {
    refused(
        &SMALLEST.replace("\"state\"", "\"ftp://x/y\""),
        "line 8: state.url: expected a folder or a URL of file://, s3://, gs:// or az://, found ftp://",
    );
}
