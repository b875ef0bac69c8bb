//! What is refused, and what the errors say.

use super::*;

#[test]
fn an_unknown_key_is_refused_with_the_nearest() {
    let brokers = SMALLEST.replace("brokers", "broker");
    assert_eq!(
        bad(&brokers, &[]),
        "the configuration has 2 problems:\n  line 2: source.kafka.brokers is missing: bootstrap servers, `host:port` separated by commas\n  \
         line 3: source.kafka.broker is not a key; did you mean source.kafka.brokers?"
    );
    refused(&with("[run]\nworker = 2"), "line 11: run.worker is not a key; did you mean run.workers?");
    refused(&with("[tiem]\nlate = \"drop\""), "line 10: tiem is not a key; did you mean time?");
    refused(&with("[run]\nfuel = 2"), "line 11: run.fuel is not a key; did you mean plugin.fuel?");
    refused(
        &with("[run]\nzzzzzzzz = 2"),
        "line 11: run.zzzzzzzz is not a key; [run] has workers, batch_records, startup_timeout, deploy_on_start",
    );
    refused(
        &with("[zzzzzzzz]\n"),
        "line 10: zzzzzzzz is not a key; the top-level keys are name, source, time, plugin, state, sink, dead_letters, admin, telemetry, run",
    );
    refused(&with("[sink.discard.rows]\n"), "line 9: sink.discard: expected a section without keys, found rows");
}

#[test]
fn a_token_for_reading_must_be_another_one_and_hard_to_guess_as_well() {
    refused(
        &with("[admin]\ntoken = \"t\"\nread_token = \"t\""),
        "line 12: admin.read_token is the same as admin.token, so whoever may read could change; take another one",
    );
    refused(
        &with("[admin]\nlisten = \"0.0.0.0:9640\"\nread_token = \"t\""),
        "line 12: admin.read_token has fewer than 22 characters, and admin.listen = \"0.0.0.0:9640\" is not a loopback address; take a longer \
         one, such as the output of `openssl rand -base64 32`",
    );
}

#[test]
fn tls_of_the_admin_api_needs_a_certificate_with_its_key_and_an_address() {
    let missing = "line 11: admin.tls.key is missing: TLS needs a certificate and its key";
    refused(&with("[admin]\ntls = { certificate = \"c.pem\" }"), missing);
    refused(
        &with("[admin]\nlisten = \"unix:/run/s\"\ntls = { certificate = \"c.pem\", key = \"k.pem\" }"),
        "line 11: admin.tls is of no use on a Unix socket, which permissions of files protect; remove it",
    );
    refused(
        &with("[admin]\nlisten = \"unix:s\""),
        "line 11: admin.listen: expected an address like \"127.0.0.1:9640\" or a socket like \"unix:/run/keyfold/admin.sock\", found \
         \"unix:s\"",
    );
}

#[test]
fn probes_need_an_address_of_their_own() {
    refused(
        &with("[admin]\nprobes = \"unix:/run/s\""),
        "line 11: admin.probes: expected an address like \"0.0.0.0:8081\", found \"unix:/run/s\"",
    );
    refused(
        &with("[admin]\nprobes = \"127.0.0.1:9640\""),
        "line 11: admin.probes and admin.listen are the same address \"127.0.0.1:9640\"; give the probes a port of their own",
    );
}

#[test]
fn a_quoted_path_is_not_a_path() {
    refused(
        &SMALLEST.replace("name =", "\"run.workers\" = 2\nname ="),
        "line 1: \"run.workers\" is not a key; did you mean run.workers?",
    );
}

#[test]
fn a_path_that_would_be_another_one_is_refused() {
    refused(
        &SMALLEST.replace("url = \"state\"", "url = \"~/state\""),
        "line 8: state.url: \"~/state\" would be a folder named ~, since only shells know ~; write the whole path",
    );
    for (path, home) in [("file://~/state", "~"), ("file:~/state", "~"), ("~root/state", "~root"), ("~", "~")] {
        refused(
            &SMALLEST.replace("url = \"state\"", &format!("url = {path:?}")),
            &format!(
                "line 8: state.url: {path:?} would be a folder named {home}, since only shells know ~; write the whole path"
            ),
        );
    }
    refused(
        &SMALLEST.replace("url = \"state\"", "url = \"file:///x/s#1\""),
        "line 8: state.url: \"file:///x/s#1\" has a # or ?, which ends the path of a URL; write %23 or %3F, or the path without file://",
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
        "line 10: plugin.memory: expected a size with a unit, such as \"256MiB\", found a table",
    );
    refused(&with("[plugin.fuel]\nx = 1"), "line 10: plugin.fuel: expected a whole number from 1, found a table");
    refused(
        &SMALLEST.replace("\"localhost:9094\"", "[\"localhost:9094\"]"),
        "line 3: source.kafka.brokers: expected non-empty text, found a list",
    );
    refused(
        &SMALLEST.replace("[state]\nurl = \"state\"", "").replace("name", "state = \"here\"\nname"),
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
        "line 11: run.workers: 99999999999999999999 does not fit in 64 bits",
    );
}

#[test]
fn a_duration_needs_a_unit_and_a_sign_is_refused() {
    let expected = "expected a duration with a unit, such as \"10s\", \"200ms\" or \"1h\"";
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
    let expected = "expected a size with a unit, such as \"256MiB\"";
    let memory = |value: &str| SMALLEST.replace("[state]", &format!("memory = {value}\n[state]"));
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
        &SMALLEST.replace("topic = \"visits\"", "topic = \"my visits\""),
        "line 4: source.kafka.topic: expected a name of letters, digits, '.', '_' and '-', at most 249 long, found the text \"my visits\"",
    );
    refused(
        &SMALLEST.replace("name = \"visits\"", "name = \"\""),
        "line 1: name: expected a name of letters, digits, '.', '_' and '-', at most 100 long, found the text \"\"",
    );
}

#[test]
fn exactly_one_source_and_one_sink_are_wanted() {
    refused(
        &with("[sink.sqlite]\npath = \"x.db\""),
        "2 sinks are configured; keep one: [sink.sqlite] (line 10), [sink.discard] (line 9)",
    );
    refused(
        &with("[source.file]\npath = \"x\""),
        "2 sources are configured; keep one: [source.kafka] (line 2), [source.file] (line 10)",
    );
    refused(
        &with_sink(""),
        "no sink is configured; add one of [sink.cql], [sink.sqlite], [sink.ndjson], [sink.discard]",
    );
    refused(&with_source(""), "no source is configured; add one of [source.kafka], [source.file]");
}

#[test]
fn missing_keys_are_told_with_their_meaning() {
    refused(
        &SMALLEST.replace("component = \"builtin:visits\"\n", ""),
        "line 5: plugin.component is missing: the plugin's file, or `builtin:visits`",
    );
    refused(
        &SMALLEST.replace("name = \"visits\"\n", ""),
        "name is missing: the pipeline's name, used in logs, client ids and as the default group",
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
        "line 4: source.file.timestamp_start requires format = \"payloads\"; records carry their own \"timestamp\"",
    );
    refused(
        &with_source("[source.file]\npath = \"x\"\nformat = \"payloads\"\ntimestamp_start = \"2024-10-02\""),
        "line 5: source.file.timestamp_start: expected a whole number from 0 to 4102444799999, found the text \"2024-10-02\"",
    );
}

#[test]
fn dead_letters_are_a_file_or_a_topic() {
    refused(
        &with("[dead_letters]\nfile = \"d\"\ntopic = \"d\""),
        "line 12: dead_letters.topic and dead_letters.file are both set; keep one",
    );
    refused(&with("[dead_letters]\nbrokers = \"b:1\""), "line 11: dead_letters.brokers requires dead_letters.topic");
    let file = with_source("[source.file]\npath = \"x\"");
    refused(
        &format!("{file}[dead_letters]\ntopic = \"d\""),
        "line 10: dead_letters.brokers is missing: the source has no brokers for the topic",
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
    refused(
        &with_sink("[sink.ndjson]\npath = \"inner/../dead-letters.ndjson\""),
        "dead_letters.file and sink.ndjson.path are the same file /etc/keyfold/dead-letters.ndjson, also called \
         /etc/keyfold/inner/../dead-letters.ndjson",
    );
    refused(
        &with("[admin]\naudit_log = \"./dead-letters.ndjson\""),
        "line 11: admin.audit_log and dead_letters.file are the same file /etc/keyfold/./dead-letters.ndjson",
    );
    refused(
        &with("[admin]\naudit_log = \"plugin.wasm\"").replace("builtin:visits", "plugin.wasm"),
        "line 11: admin.audit_log and plugin.component are the same file /etc/keyfold/plugin.wasm",
    );
}

#[test]
fn credentials_and_certificates_come_in_pairs() {
    let sink = |lines: &str| with_sink(&format!("[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\"\n{lines}"));
    refused(&sink("user = \"u\""), "line 12: sink.cql.user requires sink.cql.password");
    refused(&sink("password = \"p\""), "line 12: sink.cql.password requires sink.cql.user");
    refused(&sink("tls = { key = \"k.pem\" }"), "line 12: sink.cql.tls.key requires sink.cql.tls.certificate");
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
        "line 10: sink.cql.nodes: expected nodes such as \"localhost:9042\", found \"n:port\"",
    );
    let expected = "expected a list of at least one node, such as [\"localhost:9042\"]";
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
    refused(&with("[plugin.config]\nd = nan"), "line 11: plugin.config.d: JSON cannot represent NaN");
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
fn properties_that_run_native_code_are_refused_by_name() {
    for (name, what) in [
        ("plugin.library.paths", "load native code into this process"),
        ("ssl.engine.location", "load native code into this process"),
        ("ssl.engine.id", "load native code into this process"),
        ("ssl.providers", "load native code into this process"),
        ("sasl.kerberos.kinit.cmd", "run a shell command"),
    ] {
        refused(
            &with(&format!("[source.kafka.properties]\n\"{name}\" = \"x\"")),
            &format!("line 11: source.kafka.properties.{name} is refused: it makes librdkafka {what}; remove it"),
        );
        let message =
            bad(&with(&format!("[dead_letters]\ntopic = \"letters\"\nproperties = {{ {name} = \"x\" }}")), &[]);
        assert!(message.contains(&format!("dead_letters.properties.{name} is refused")), "{message}");
    }
    refused(
        &with("[source.kafka.properties]\n\"sasl.kerberos.principal\" = \"a; touch /tmp/x\""),
        "line 11: source.kafka.properties.sasl.kerberos.principal is refused: librdkafka puts it into a shell command, so it may hold only \
         letters, digits and @/._-:",
    );
    good(&with("[source.kafka.properties]\n\"sasl.kerberos.principal\" = \"keyfold/host.example@EXAMPLE.ORG\""), &[]);
}
