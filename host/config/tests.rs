//! What configurations give, and what refusals say.

use super::*;

const BASE: &str = "/etc/keyfold";

/// The least that is a configuration: line 1 is the name, 2-4 the source, 5-6 the plugin, 7-8 the state, 9 the sink.
const LEAST: &str = r#"name = "visits"
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
    read(text, variables).expect("the configuration is right")
}

fn bad(text: &str, variables: &[(&str, &str)]) -> String {
    read(text, variables).expect_err("the configuration is wrong")
}

/// The least configuration with lines at its end, in a section of their own.
fn with(lines: &str) -> String {
    format!("{LEAST}{lines}")
}

/// The least configuration with another sink.
fn with_sink(lines: &str) -> String {
    LEAST.replace("[sink.discard]", lines)
}

/// The least configuration with another source.
fn with_source(lines: &str) -> String {
    LEAST.replace("[source.kafka]\nbrokers = \"localhost:9094\"\ntopic = \"visits\"", lines)
}

fn kafka(config: &Config) -> &KafkaSource {
    let Source::Kafka(kafka) = &config.source else { panic!("expected Kafka, found {:?}", config.source) };
    kafka
}

fn cql(config: &Config) -> &CqlSink {
    let Sink::Cql(cql) = &config.sink else { panic!("expected CQL, found {:?}", config.sink) };
    cql
}

/// Each configuration's one refusal, whole.
#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(bad(text, &[]), format!("the configuration: {expected}"));
}

#[track_caller]
fn variable_refused(variable: (&str, &str), expected: &str) {
    assert_eq!(bad(LEAST, &[variable]), expected);
}

#[test]
fn the_least_configuration_has_all_defaults() {
    let config = good(LEAST, &[]);
    assert_eq!(config.name, "visits");
    assert_eq!(kafka(&config).group, "visits");
    assert_eq!(kafka(&config).ordering, Ordering::Topic);
    assert!(kafka(&config).properties.is_empty());
    let time = Time {
        out_of_orderness_ms: 10_000,
        late: Late::Drop,
        future_limit_ms: 3_600_000,
        clock_skew_ms: 200,
        idle_timeout_ms: None,
    };
    assert_eq!(config.time, time);
    let limits = Limits { memory_bytes: 256 << 20, fuel: 1_000_000_000, output_rows: 100_000, output_bytes: 64 << 20 };
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
    let least = good(LEAST, &[]);
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
        "| `time.out_of_orderness` | duration | `10s` | how far the watermark stays behind the greatest event time |"
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
[plugin]
component = "visits.wasm"
memory = "1GiB"
fuel = 7
output_rows = 8
output_bytes = "9KiB"
on_strike = "halt"
[state]
url = "file:///var/lib/keyfold"
checkpoint_interval = "250ms"
[sink.cql]
nodes = ["a", "b:1", "[::1]"]
keyspace = "k"
user = "u"
password = "p"
consistency = "one"
in_flight = 3
tls = { ca = "ca.pem", certificate = "c.pem", key = "/k.pem", verify = false }
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
    assert_eq!(config.plugin.component, Component::File(PathBuf::from("/etc/keyfold/visits.wasm")));
    let limits = Limits { memory_bytes: 1 << 30, fuel: 7, output_rows: 8, output_bytes: 9 << 10 };
    assert_eq!((config.plugin.limits, config.plugin.on_strike), (limits, OnStrike::Halt));
    assert_eq!(config.state.checkpoint_interval, Duration::from_millis(250));
    assert_eq!(cql(&config).nodes, ["a:9042", "b:1", "[::1]:9042"]);
    assert_eq!((cql(&config).consistency.as_str(), cql(&config).in_flight), ("ONE", 3));
    assert_eq!((cql(&config).user.as_deref(), cql(&config).password.as_deref()), (Some("u"), Some("p")));
    let tls = cql(&config).tls.as_ref().expect("TLS is configured");
    assert_eq!(tls.ca.as_deref(), Some(Path::new("/etc/keyfold/ca.pem")));
    assert_eq!(tls.certificate, Some((PathBuf::from("/etc/keyfold/c.pem"), PathBuf::from("/k.pem"))));
    assert!(!tls.verify);
    assert_eq!((config.run.workers, config.run.batch_records), (256, 1));
    assert_eq!(config.run.startup_timeout, Duration::ZERO);
    let DeadLetters::Topic { brokers, topic, properties } = &config.dead_letters else { panic!("expected a topic") };
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
    let url = |text: &str| good(&LEAST.replace("\"state\"", &format!("{text:?}")), &[]).state.url.to_string();
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
    let result = read(&LEAST.replace("\"state\"", "\"s3://bucket/state\""), &[]);
    if cfg!(feature = "cloud") {
        assert_eq!(result.expect("the URL is right").state.url.as_str(), "s3://bucket/state");
        refused(
            &LEAST.replace("\"state\"", "\"s3:///state\""),
            "line 8: state.url: \"s3:///state\" names no bucket; write it like \"s3://bucket/folder\"",
        );
    } else {
        assert_eq!(
            result.expect_err("cloud storage is not built in"),
            "the configuration: line 8: state.url: \"s3://bucket/state\" needs a keyfold with cloud storage, and this one has none; \
             build it with cargo build --release --features cloud"
        );
    }
}

#[test]
fn a_scheme_that_nothing_serves_is_refused() {
    refused(
        &LEAST.replace("\"state\"", "\"ftp://x/y\""),
        "line 8: state.url: expected a folder or a URL of file://, s3://, gs:// or az://, found ftp://",
    );
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest() {
    let brokers = LEAST.replace("brokers", "broker");
    assert_eq!(
        bad(&brokers, &[]),
        "the configuration has 2 problems:\n  line 2: source.kafka.brokers is missing: bootstrap servers, `host:port` separated by commas\n  \
         line 3: source.kafka.broker is not a key; the nearest is source.kafka.brokers"
    );
    refused(&with("[run]\nworker = 2"), "line 11: run.worker is not a key; the nearest is run.workers");
    refused(&with("[tiem]\nlate = \"drop\""), "line 10: tiem is not a key; the nearest is time");
    refused(&with("[run]\nfuel = 2"), "line 11: run.fuel is not a key; the nearest is plugin.fuel");
    refused(
        &with("[run]\nzzzzzzzz = 2"),
        "line 11: run.zzzzzzzz is not a key; [run] has workers, batch_records, startup_timeout, deploy_on_start",
    );
    refused(
        &with("[zzzzzzzz]\n"),
        "line 10: zzzzzzzz is not a key; at the top there are name, source, time, plugin, state, sink, dead_letters, admin, telemetry, run",
    );
    refused(&with("[sink.discard.rows]\n"), "line 9: sink.discard: expected a section without keys, found rows");
}

#[test]
fn a_quoted_path_is_not_a_path() {
    refused(
        &LEAST.replace("name =", "\"run.workers\" = 2\nname ="),
        "line 1: \"run.workers\" is not a key; the nearest is run.workers",
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused() {
    refused(
        &with("[run]\nworkers = \"many\""),
        "line 11: run.workers: expected a whole number from 1 to 256, found the text \"many\"",
    );
    refused(
        &with("[run]\nworkers = 2.5"),
        "line 11: run.workers: expected a whole number from 1 to 256, found the number 2.5",
    );
    refused(
        &with("[time]\nlate = true"),
        "line 11: time.late: expected \"drop\", \"dead-letter\" or \"process\", found true",
    );
    refused(
        &with("[plugin.memory]"),
        "line 10: plugin.memory: expected a size with its unit like \"256MiB\", found a table",
    );
    refused(&with("[plugin.fuel]\nx = 1"), "line 10: plugin.fuel: expected a whole number from 1, found a table");
    refused(
        &LEAST.replace("\"localhost:9094\"", "[\"localhost:9094\"]"),
        "line 3: source.kafka.brokers: expected text that is not empty, found a list",
    );
    refused(
        &LEAST.replace("[state]\nurl = \"state\"", "").replace("name", "state = \"here\"\nname"),
        "line 1: state: expected a section like [state], found the text \"here\"",
    );
}

#[test]
fn a_number_beyond_its_bounds_is_refused() {
    refused(
        &with("[run]\nworkers = 0"),
        "line 11: run.workers: expected a whole number from 1 to 256, found the number 0",
    );
    refused(
        &with("[run]\nworkers = 257"),
        "line 11: run.workers: expected a whole number from 1 to 256, found the number 257",
    );
    refused(
        &with("[run]\nbatch_records = 1_000_001"),
        "line 11: run.batch_records: expected a whole number from 1 to 1000000, found the number 1000001",
    );
    refused(
        &with("[run]\nworkers = 99999999999999999999"),
        "line 11: run.workers: 99999999999999999999 is beyond 64 bits",
    );
}

#[test]
fn a_duration_needs_a_unit_and_a_sign_is_refused() {
    let expected = "expected a duration with its unit like \"10s\", \"200ms\" or \"1h\"";
    refused(
        &with("[time]\nclock_skew = 200"),
        &format!("line 11: time.clock_skew: {expected}, found the number 200; write \"200s\" or \"200ms\""),
    );
    refused(
        &with("[time]\nclock_skew = \"200\""),
        &format!("line 11: time.clock_skew: {expected}, found \"200\" without a unit; write \"200s\" or \"200ms\""),
    );
    refused(
        &with("[time]\nclock_skew = \"soon\""),
        &format!("line 11: time.clock_skew: {expected}, found the text \"soon\""),
    );
    refused(&with("[time]\nclock_skew = \"\""), &format!("line 11: time.clock_skew: {expected}, found the text \"\""));
    refused(
        &with("[time]\nclock_skew = \"-1s\""),
        "line 11: time.clock_skew: a duration cannot be negative, found \"-1s\"",
    );
    refused(
        &with("[time]\nclock_skew = \"1500us\""),
        "line 11: time.clock_skew: expected whole milliseconds, found \"1500us\"",
    );
    refused(
        &with("[time]\nclock_skew = \"2h\""),
        "line 11: time.clock_skew: expected a duration from 0ms to 1h, found \"2h\"",
    );
    refused(
        &with("[time]\nout_of_orderness = \"1mo\""),
        &format!("line 11: time.out_of_orderness: {expected}, found the text \"1mo\""),
    );
}

#[test]
fn a_size_needs_a_unit() {
    let expected = "expected a size with its unit like \"256MiB\"";
    let memory = |value: &str| LEAST.replace("[state]", &format!("memory = {value}\n[state]"));
    refused(
        &memory("268435456"),
        &format!("line 7: plugin.memory: {expected}, found the number 268435456; write \"268435456B\" for bytes"),
    );
    refused(
        &memory("\"256\""),
        &format!("line 7: plugin.memory: {expected}, found \"256\" without a unit; write \"256B\" for bytes"),
    );
    refused(&memory("\"lots\""), &format!("line 7: plugin.memory: {expected}, found the text \"lots\""));
    refused(&memory("\"5GiB\""), "line 7: plugin.memory: expected a size from 64.0 KiB to 4.0 GiB, found \"5GiB\"");
}

#[test]
fn a_topic_and_a_name_have_letters_digits_and_three_signs() {
    refused(
        &LEAST.replace("topic = \"visits\"", "topic = \"my visits\""),
        "line 4: source.kafka.topic: expected a name of letters, digits, '.', '_' and '-', at most 249 long, found the text \"my visits\"",
    );
    refused(
        &LEAST.replace("name = \"visits\"", "name = \"\""),
        "line 1: name: expected a name of letters, digits, '.', '_' and '-', at most 100 long, found the text \"\"",
    );
}

#[test]
fn exactly_one_source_and_one_sink_are_wanted() {
    refused(
        &with("[sink.sqlite]\npath = \"x.db\""),
        "2 sinks are given, keep one: [sink.sqlite] (line 10), [sink.discard] (line 9)",
    );
    refused(
        &with("[source.file]\npath = \"x\""),
        "2 sources are given, keep one: [source.kafka] (line 2), [source.file] (line 10)",
    );
    refused(&with_sink(""), "no sink is given; give one of [sink.cql], [sink.sqlite], [sink.ndjson], [sink.discard]");
    refused(&with_source(""), "no source is given; give one of [source.kafka], [source.file]");
}

#[test]
fn missing_keys_are_told_with_their_meaning() {
    refused(
        &LEAST.replace("component = \"builtin:visits\"\n", ""),
        "line 5: plugin.component is missing: the plugin's file, or `builtin:visits`",
    );
    refused(
        &LEAST.replace("name = \"visits\"\n", ""),
        "name is missing: the pipeline's name: in logs, client ids, the default group",
    );
    refused(
        &with_sink("[sink.sqlite]"),
        "line 9: sink.sqlite.path is missing: the database file; its tables are created",
    );
}

#[test]
fn an_empty_file_is_told_all_that_it_needs() {
    let message = bad("", &[]);
    for part in ["name is missing", "no source", "no sink", "plugin.component is missing", "state.url is missing"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(message.starts_with("the configuration has 5 problems:\n  "), "{message}");
}

#[test]
fn text_that_is_not_toml_is_refused_by_line() {
    let message = bad("name = \"x\"\ntopic visits\n", &[]);
    assert!(message.starts_with("the configuration: line 2: not TOML: "), "{message}");
    let message = bad("name = \"x\"\nname = \"y\"\n", &[]);
    assert!(message.starts_with("the configuration: line 2: not TOML: duplicate key"), "{message}");
}

#[test]
fn payloads_need_a_first_timestamp_and_records_refuse_it() {
    refused(
        &with_source("[source.file]\npath = \"x\"\nformat = \"payloads\""),
        "line 2: source.file.timestamp_start is missing: format = \"payloads\" needs the first line's timestamp in ms",
    );
    refused(
        &with_source("[source.file]\npath = \"x\"\ntimestamp_start = 5"),
        "line 4: source.file.timestamp_start goes with format = \"payloads\" only; records carry their own \"timestamp\"",
    );
    refused(
        &with_source("[source.file]\npath = \"x\"\nformat = \"payloads\"\ntimestamp_start = \"2024-10-02\""),
        "line 5: source.file.timestamp_start: expected a whole number from 0 to 253402300799999, found the text \"2024-10-02\"",
    );
}

#[test]
fn dead_letters_are_a_file_or_a_topic() {
    refused(
        &with("[dead_letters]\nfile = \"d\"\ntopic = \"d\""),
        "line 12: dead_letters.topic and dead_letters.file are both given; keep one",
    );
    refused(
        &with("[dead_letters]\nbrokers = \"b:1\""),
        "line 11: dead_letters.brokers goes with dead_letters.topic only",
    );
    let file = with_source("[source.file]\npath = \"x\"");
    refused(
        &format!("{file}[dead_letters]\ntopic = \"d\""),
        "line 10: dead_letters.brokers is missing: the source has no brokers that the topic could be on",
    );
    let config = good(
        &format!("{file}[dead_letters]\ntopic = \"d\"\nbrokers = \"b:1\"\nproperties = {{ acks = \"all\" }}"),
        &[],
    );
    assert!(
        matches!(&config.dead_letters, DeadLetters::Topic { brokers, properties, .. } if brokers == "b:1" && properties["acks"] == "all")
    );
    refused(
        &with("[dead_letters]\nfile = \"-\""),
        "line 11: dead_letters.file: expected the path of a file, found the text \"-\"",
    );
}

#[test]
fn one_file_cannot_be_two_things() {
    refused(
        &with_sink("[sink.ndjson]\npath = \"./dead-letters.ndjson\""),
        "dead_letters.file and sink.ndjson.path are the same file /etc/keyfold/dead-letters.ndjson",
    );
    let same = with_source("[source.file]\npath = \"x\"").replace("[sink.discard]", "[sink.ndjson]\npath = \"x\"");
    refused(&same, "line 9: sink.ndjson.path and source.file.path are the same file /etc/keyfold/x");
}

#[test]
fn credentials_and_certificates_come_in_pairs() {
    let sink = |lines: &str| with_sink(&format!("[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\"\n{lines}"));
    refused(&sink("user = \"u\""), "line 12: sink.cql.user needs sink.cql.password beside it");
    refused(&sink("password = \"p\""), "line 12: sink.cql.password needs sink.cql.user beside it");
    refused(&sink("tls = { key = \"k.pem\" }"), "line 12: sink.cql.tls.key needs sink.cql.tls.certificate beside it");
    refused(&sink("tls = true"), "line 12: sink.cql.tls: expected a section like [sink.cql.tls], found true");
    refused(
        &sink("consistency = \"MOST\""),
        "line 12: sink.cql.consistency: expected \"ANY\", \"ONE\", \"TWO\", \"THREE\", \"QUORUM\", \"ALL\", \"LOCAL_QUORUM\", \"EACH_QUORUM\" or \"LOCAL_ONE\", found \"MOST\"",
    );
}

#[test]
fn nodes_are_host_and_port() {
    let nodes = |nodes: &str| with_sink(&format!("[sink.cql]\nnodes = {nodes}\nkeyspace = \"k\""));
    refused(
        &nodes("[\"n:port\"]"),
        "line 10: sink.cql.nodes: expected nodes like \"localhost:9042\", found \"n:port\"",
    );
    let expected = "expected a list like [\"localhost:9042\"], with one node at least";
    refused(&nodes("[]"), &format!("line 10: sink.cql.nodes: {expected}, found a list"));
    refused(&nodes("\"n\""), &format!("line 10: sink.cql.nodes: {expected}, found the text \"n\""));
}

#[test]
fn the_plugins_configuration_becomes_json_and_dates_are_refused() {
    let config = good(&with("[plugin.config]\na = 1\nb = [1.5, true]\n[plugin.config.c]\nd = \"x\""), &[]);
    assert_eq!(config.plugin.config, serde_json::json!({"a": 1, "b": [1.5, true], "c": {"d": "x"}}));
    refused(
        &with("[plugin.config.c]\nd = 2024-10-02"),
        "line 11: plugin.config.c.d: JSON has no dates; write it as text, \"2024-10-02\"",
    );
    refused(&with("[plugin.config]\nd = nan"), "line 11: plugin.config.d: JSON has no NaN");
}

#[test]
fn properties_are_text_numbers_or_flags() {
    refused(
        &with("[source.kafka.properties]\na.b = [1]"),
        "line 11: source.kafka.properties.a.b: expected text, a number, true or false, found a list",
    );
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let message =
        bad(&with("[run]\nworkers = 0\nbatch = 1\n[time]\nlate = \"never\""), &[("KEYFOLD_RUN__BATCH_RECORDS", "x")]);
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines[0], "the configuration has 4 problems:");
    assert!(lines[1].starts_with("  line 11: run.workers: "), "{message}");
    assert!(lines[2].starts_with("  line 12: run.batch is not a key"), "{message}");
    assert!(lines[3].starts_with("  line 14: time.late: "), "{message}");
    assert!(lines[4].starts_with("  KEYFOLD_RUN__BATCH_RECORDS: run.batch_records: expected"), "{message}");
}

#[test]
fn variables_override_the_file() {
    let config = good(
        LEAST,
        &[
            ("KEYFOLD_SOURCE__KAFKA__BROKERS", "kafka:9092"),
            ("KEYFOLD_Run__Workers", "3"),
            ("KEYFOLD_TIME__OUT_OF_ORDERNESS", "1s"),
            ("KEYFOLD_PLUGIN__CONFIG__SESSION_TIMEOUT", "50s"),
            ("KEYFOLD_PLUGIN__CONFIG__LIMIT__DEPTH", "7"),
            ("KEYFOLD_SOURCE__KAFKA__PROPERTIES__SECURITY__PROTOCOL", "ssl"),
            ("HOME", "/"),
        ],
    );
    assert_eq!(kafka(&config).brokers, "kafka:9092");
    assert_eq!(kafka(&config).properties["security.protocol"], "ssl");
    assert_eq!(config.run.workers, 3);
    assert_eq!(config.time.out_of_orderness_ms, 1_000);
    assert_eq!(config.plugin.config, serde_json::json!({"session_timeout": "50s", "limit": {"depth": 7}}));
}

#[test]
fn variables_keep_what_else_the_file_says_of_a_table() {
    let config = good(&with("[plugin.config]\na = 1\nb = 2"), &[("KEYFOLD_PLUGIN__CONFIG__B", "3")]);
    assert_eq!(config.plugin.config, serde_json::json!({"a": 1, "b": 3}));
    let config = good(&with("[plugin.config]\na = 1"), &[("KEYFOLD_PLUGIN__CONFIG", "{ b = 2 }")]);
    assert_eq!(config.plugin.config, serde_json::json!({"b": 2}));
    let config = good(LEAST, &[("KEYFOLD_PLUGIN__CONFIG", "{\"b\": 2}"), ("KEYFOLD_PLUGIN__CONFIG__C", "x")]);
    assert_eq!(config.plugin.config, serde_json::json!({"b": 2, "c": "x"}));
}

#[test]
fn lists_in_variables_are_toml_or_separated_by_commas() {
    let sink = with_sink("[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\"");
    for text in ["a:1, b:2", "[\"a:1\", \"b:2\"]"] {
        assert_eq!(cql(&good(&sink, &[("KEYFOLD_SINK__CQL__NODES", text)])).nodes, ["a:1", "b:2"]);
    }
    assert!(
        cql(&good(&sink, &[("KEYFOLD_SINK__CQL__TLS__VERIFY", "false")])).tls.as_ref().is_some_and(|tls| !tls.verify)
    );
    assert!(cql(&good(&sink, &[("KEYFOLD_SINK__CQL__TLS", "{}")])).tls.is_some());
    assert!(cql(&good(&sink, &[("KEYFOLD_SINK__CQL__NOW", "")])).now.is_empty());
}

#[test]
fn a_whole_configuration_may_come_from_variables() {
    let config = good(
        "",
        &[
            ("KEYFOLD_NAME", "visits"),
            ("KEYFOLD_SOURCE__KAFKA__BROKERS", "b:1"),
            ("KEYFOLD_SOURCE__KAFKA__TOPIC", "123"),
            ("KEYFOLD_PLUGIN__COMPONENT", "builtin:visits"),
            ("KEYFOLD_STATE__URL", "state"),
            ("KEYFOLD_SINK__DISCARD", "{}"),
        ],
    );
    assert_eq!(kafka(&config).topic, "123");
    assert!(matches!(config.sink, Sink::Discard));
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest() {
    variable_refused(
        ("KEYFOLD_SOURCE__KAFKA__BROKER", "x"),
        "KEYFOLD_SOURCE__KAFKA__BROKER: no key has this variable; the nearest is KEYFOLD_SOURCE__KAFKA__BROKERS",
    );
    variable_refused(
        ("KEYFOLD_SOURCE_KAFKA_BROKERS", "x"),
        "KEYFOLD_SOURCE_KAFKA_BROKERS: no key has this variable; the nearest is KEYFOLD_SOURCE__KAFKA__BROKERS",
    );
    variable_refused(("KEYFOLD_LOGS", "x"), "KEYFOLD_LOGS: no key has this variable; the nearest is KEYFOLD_LOG");
    variable_refused(
        ("KEYFOLD_SERVICE_HOST", "10.0.0.1"),
        "KEYFOLD_SERVICE_HOST: no key has this variable; if Kubernetes set it for a service, set enableServiceLinks: false",
    );
    variable_refused(
        ("KEYFOLD_RUN", "fast"),
        "KEYFOLD_RUN: run is a section; set a key of it, KEYFOLD_RUN__WORKERS for one",
    );
}

#[test]
fn a_wrong_value_names_its_variable() {
    variable_refused(
        ("KEYFOLD_RUN__WORKERS", "many"),
        "KEYFOLD_RUN__WORKERS: run.workers: expected a whole number from 1 to 256, found the text \"many\"",
    );
    variable_refused(("KEYFOLD_NAME", "\u{FFFD}"), "KEYFOLD_NAME: its value is not UTF-8");
}

#[test]
fn variables_of_logs_and_tests_are_no_keys() {
    let others =
        [("KEYFOLD_LOG", "debug"), ("KEYFOLD_LOG_FORMAT", "json"), ("KEYFOLD_CONFIG", "x"), ("KEYFOLD_TEST_SEED", "7")];
    good(LEAST, &others);
}

#[test]
fn secrets_come_from_files_without_their_line_end() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::write(folder.path().join("cql"), "s3cret \r\n").expect("the file can be written");
    std::fs::write(folder.path().join("sasl"), "p\n").expect("the file can be written");
    std::fs::write(folder.path().join("empty"), "\n").expect("the file can be written");
    let text = with_sink(
        "[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\"\nuser = \"u\"\npassword_file = \"cql\"\n[source.kafka.properties]\nsasl.password_file = \"sasl\"",
    );
    let path = folder.path().join("keyfold.toml");
    std::fs::write(&path, &text).expect("the file can be written");
    let config = load(&path, std::iter::empty()).expect("the configuration is right");
    assert_eq!(cql(&config).password.as_deref(), Some("s3cret "));
    assert_eq!(kafka(&config).properties["sasl.password"], "p");
    assert_eq!(kafka(&config).properties.len(), 1);

    std::fs::write(&path, text.replace("\"cql\"", "\"empty\"").replace("\"sasl\"", "\"none\""))
        .expect("the file can be written");
    let message = load(&path, std::iter::empty()).expect_err("a secret is empty, another is missing").message;
    let start = format!("{} has 2 problems:\n  line 13: sink.cql.password_file: ", path.display());
    assert!(message.starts_with(&start) && message.contains("empty is empty"), "{message}");
    assert!(message.contains("line 15: source.kafka.properties.sasl.password_file: cannot read "), "{message}");
}

#[test]
fn a_secret_is_given_once() {
    let sink = "[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\"\nuser = \"u\"\npassword = \"p\"\npassword_file = \"f\"";
    refused(&with_sink(sink), "line 14: sink.cql.password_file: sink.cql.password is given too, at line 13; keep one");
    refused(
        &with("[source.kafka.properties]\nsasl.password = \"p\"\nsasl.password_file = \"f\""),
        "line 12: source.kafka.properties.sasl.password_file: sasl.password is given too; keep one",
    );
    let sink = "[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\"\nuser = \"u\"\npassword = \"p\"";
    let message = bad(&with_sink(sink), &[("KEYFOLD_SINK__CQL__PASSWORD_FILE", "f")]);
    assert_eq!(
        message,
        "KEYFOLD_SINK__CQL__PASSWORD_FILE: sink.cql.password_file: sink.cql.password is given too, at line 13; keep one"
    );
}

#[test]
fn a_secret_is_never_shown() {
    let sink = "[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\"\nuser = \"u\"\npassword = 12345";
    refused(&with_sink(sink), "line 13: sink.cql.password: expected text that is not empty");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let failure = load(Path::new("/nowhere/keyfold.toml"), std::iter::empty()).expect_err("there is no such file");
    assert_eq!(failure.exit, Exit::Config);
    assert!(failure.message.starts_with("cannot read the configuration /nowhere/keyfold.toml: "), "{failure}");
}
