//! `KEYFOLD_*` variables, and secrets in files.

use super::*;

#[test]
fn variables_override_the_file() {
    let config = good(
        SMALLEST,
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
    let config = good(SMALLEST, &[("KEYFOLD_PLUGIN__CONFIG", "{\"b\": 2}"), ("KEYFOLD_PLUGIN__CONFIG__C", "x")]);
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
        "KEYFOLD_SOURCE__KAFKA__BROKER: this variable matches no key; did you mean KEYFOLD_SOURCE__KAFKA__BROKERS?",
    );
    variable_refused(
        ("KEYFOLD_SOURCE_KAFKA_BROKERS", "x"),
        "KEYFOLD_SOURCE_KAFKA_BROKERS: this variable matches no key; did you mean KEYFOLD_SOURCE__KAFKA__BROKERS?",
    );
    variable_refused(("KEYFOLD_LOGS", "x"), "KEYFOLD_LOGS: this variable matches no key; did you mean KEYFOLD_LOG?");
    variable_refused(
        ("KEYFOLD_RUN", "fast"),
        "KEYFOLD_RUN: run is a section; set one of its keys, such as KEYFOLD_RUN__WORKERS",
    );
}

#[test]
fn variables_of_kubernetes_services_are_ignored() {
    let of_services = [
        ("KEYFOLD_PORT", "tcp://10.0.0.1:9640"),
        ("KEYFOLD_SERVICE_HOST", "10.0.0.1"),
        ("KEYFOLD_SERVICE_PORT", "9640"),
        ("KEYFOLD_SERVICE_PORT_ADMIN", "9640"),
        ("KEYFOLD_PORT_9640_TCP", "tcp://10.0.0.1:9640"),
        ("KEYFOLD_PORT_9640_TCP_PROTO", "tcp"),
        ("KEYFOLD_PORT_9640_TCP_PORT", "9640"),
        ("KEYFOLD_PORT_9640_TCP_ADDR", "10.0.0.1"),
        ("KEYFOLD_ADMIN_SERVICE_HOST", "fd00::1"),
        ("KEYFOLD_ADMIN_PORT", "udp://[fd00::1]:53"),
        ("KEYFOLD_ADMIN_PORT_53_UDP_ADDR", "fd00::1"),
    ];
    good(SMALLEST, &of_services);
    // Their form with another value is a mistake.
    for variable in [("KEYFOLD_PORT", "9640"), ("KEYFOLD_SERVICE_PORT", "http"), ("KEYFOLD_ADMIN_PORT", "9640")] {
        let message = bad(SMALLEST, &[variable]);
        assert!(message.starts_with(&format!("{}: this variable matches no key", variable.0)), "{message}");
    }
    let config = good(SMALLEST, &[("KEYFOLD_PLUGIN__CONFIG__SERVICE_HOST", "a")]);
    assert_eq!(config.plugin.config, serde_json::json!({"service_host": "a"}), "what is inside a key is the plugin's");
}

#[test]
fn properties_that_run_native_code_are_refused_in_variables_too() {
    variable_refused(
        ("KEYFOLD_SOURCE__KAFKA__PROPERTIES__PLUGIN__LIBRARY__PATHS", "/tmp/x.so"),
        "KEYFOLD_SOURCE__KAFKA__PROPERTIES__PLUGIN__LIBRARY__PATHS: source.kafka.properties.plugin.library.paths is refused: it makes \
         librdkafka load native code into this process; remove it",
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
    good(SMALLEST, &others);
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
    let config = load(&path, std::iter::empty()).expect("the configuration is valid");
    assert_eq!(cql(&config).password.as_deref(), Some("s3cret "));
    assert_eq!(kafka(&config).properties["sasl.password"], "p");
    assert_eq!(kafka(&config).properties.len(), 1);
    // A host reads them again while it runs, for its dead letters too.
    let sasl = [("sasl.password".to_owned(), folder.path().join("sasl"))].into();
    assert_eq!(cql(&config).password_file, Some(folder.path().join("cql")));
    assert_eq!(kafka(&config).secret_files, sasl);
    let topic = format!("{text}\n[dead_letters]\ntopic = \"t\"");
    std::fs::write(&path, topic).expect("the file can be written");
    let config = load(&path, std::iter::empty()).expect("the configuration is valid");
    assert!(matches!(config.dead_letters, DeadLetters::Topic { secret_files, .. } if secret_files == sasl));

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
    refused(&with_sink(sink), "line 14: sink.cql.password_file: sink.cql.password is also set, at line 13; keep one");
    refused(
        &with("[source.kafka.properties]\nsasl.password = \"p\"\nsasl.password_file = \"f\""),
        "line 12: source.kafka.properties.sasl.password_file: sasl.password is also set; keep one",
    );
    let sink = "[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\"\nuser = \"u\"\npassword = \"p\"";
    let message = bad(&with_sink(sink), &[("KEYFOLD_SINK__CQL__PASSWORD_FILE", "f")]);
    assert_eq!(
        message,
        "KEYFOLD_SINK__CQL__PASSWORD_FILE: sink.cql.password_file: sink.cql.password is also set, at line 13; keep one"
    );
}

#[test]
fn a_secret_is_never_shown() {
    let sink = "[sink.cql]\nnodes = [\"n\"]\nkeyspace = \"k\"\nuser = \"u\"\npassword = 12345";
    refused(&with_sink(sink), "line 13: sink.cql.password: expected non-empty text");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let failure = load(Path::new("/nowhere/keyfold.toml"), std::iter::empty()).expect_err("there is no such file");
    assert_eq!(failure.exit, Exit::Config);
    assert!(failure.message.starts_with("cannot read the configuration /nowhere/keyfold.toml: "), "{failure}");
}
