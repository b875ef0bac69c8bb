//! Brokers and databases behind TLS and passwords: what is right works, what is wrong is named, and no secret is shown.

use std::path::Path;

use crate::service::{Kind, Service, free_ports, start_in};
use crate::support::certificates::Authority;
use crate::support::generate::{TestRecord, generate};
use crate::support::host::{Outcome, Pipeline};
use crate::support::rows::from_ndjson;
use crate::support::settings::Settings;
use crate::tables::{SESSIONS, Tables};
use crate::topics::{create_topic, produce};

pub(crate) const USER: &str = "fold";
const PASSWORD: &str = "correct-horse-battery";
const WRONG: &str = "incorrect-horse-battery";
const KEY_PASSWORD: &str = "staple-of-the-key";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(180);

/// Files of certificates: `server.pem` and `ca.pem` for the server, the rest for clients.
fn certificates(folder: &Path) {
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.join(name), bytes).expect("a writable folder");
    write("server.pem", right.sign("server", Some("127.0.0.1"), 30).both());
    write("ca.pem", right.pem());
    write("wrong-ca.pem", wrong.pem());
    let client = right.sign("client", None, 30);
    write("client.pem", client.pem());
    write("client.key", client.key(None));
    write("client-encrypted.key", client.key(Some(KEY_PASSWORD)));
    let stranger = wrong.sign("stranger", None, 30);
    write("stranger.pem", stranger.pem());
    write("stranger.key", stranger.key(None));
}

/// Runs to the end with everything logged, and looks for secrets in what was said.
fn run(pipeline: &Pipeline) -> Outcome {
    let mut command = pipeline.command("run", &["--until-end"]);
    // The compiler of plugins has much to say, but knows no secret.
    command.env("KEYFOLD_LOG", "debug,cranelift_codegen=info,wasmtime_internal_cranelift=info");
    let outcome = pipeline.start(command).wait(PATIENCE);
    for secret in [PASSWORD, WRONG, KEY_PASSWORD] {
        assert!(!outcome.stderr.contains(secret) && !outcome.stdout.contains(secret), "it shows {secret}");
    }
    outcome
}

pub(crate) fn secure_kafka(folder: &Path, ports: [u16; 2]) -> Option<Service> {
    let [sasl, mtls] = ports;
    let variables = [
        ("KAFKA_SECURE", folder.to_string_lossy().into_owned()),
        ("KAFKA_SASL_PORT", sasl.to_string()),
        ("KAFKA_MTLS_PORT", mtls.to_string()),
        ("KAFKA_USER", USER.to_owned()),
        ("KAFKA_PASSWORD", PASSWORD.to_owned()),
    ];
    let broker = start_in(Kind::Kafka, &variables)?;
    let output = broker.command("user").args([USER, PASSWORD]).output().expect("bash is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(broker)
}

fn log() -> Vec<TestRecord> {
    generate(300, 10, 3)
}

#[test]
fn a_topic_behind_tls_and_passwords_is_read_and_what_is_wrong_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    certificates(folder.path());
    let ports = free_ports();
    let Some(broker) = secure_kafka(folder.path(), ports) else { return };
    create_topic(&broker.address(), "secured", 1, &[]);
    produce(&broker.address(), "secured", &log());
    let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let rows = |address: &str, properties: &[(&str, &str)], expected: Result<(), &[&str]>| {
        let settings = Settings::default().over_kafka(address, "secured");
        let properties: String = properties.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"\n")).collect();
        let source = format!("{}\n[source.kafka.properties]\n{properties}", settings.source);
        let pipeline = Pipeline::new(&Settings { source, ..settings }.to_toml());
        let outcome = run(&pipeline);
        match expected {
            Ok(()) => {
                outcome.expect_code(0);
                from_ndjson(&pipeline.path("rows.ndjson"))
            }
            Err(said) => {
                outcome.expect_code(3).expect_said(said);
                pipeline.call("check", &[]).expect_code(3).expect_said(said);
                Vec::new()
            }
        }
    };
    let plain = rows(&broker.address(), &[], Ok(()));
    assert!(plain.len() > 50, "{} rows", plain.len());
    let [sasl, mtls] = ports.map(|port| format!("127.0.0.1:{port}"));
    let (ca, wrong_ca) = (file("ca.pem"), file("wrong-ca.pem"));
    let with_password = |mechanism, password, ca| {
        [
            ("security.protocol", "SASL_SSL"),
            ("ssl.ca.location", ca),
            ("sasl.mechanism", mechanism),
            ("sasl.username", USER),
            ("sasl.password", password),
        ]
    };
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        assert_eq!(rows(&sasl, &with_password(mechanism, PASSWORD, &ca), Ok(())), plain, "{mechanism}");
        rows(&sasl, &with_password(mechanism, WRONG, &ca), Err(&["uthentication failed"]));
    }
    rows(&sasl, &with_password("PLAIN", PASSWORD, &wrong_ca), Err(&["certificate verify failed"]));

    let (certificate, key, encrypted) = (file("client.pem"), file("client.key"), file("client-encrypted.key"));
    let both = |certificate, key| {
        [
            ("security.protocol", "SSL"),
            ("ssl.ca.location", ca.as_str()),
            ("ssl.certificate.location", certificate),
            ("ssl.key.location", key),
        ]
    };
    assert_eq!(rows(&mtls, &both(&certificate, &key), Ok(())), plain);
    let with_key_password = [&both(&certificate, &encrypted)[..], &[("ssl.key.password", KEY_PASSWORD)]].concat();
    assert_eq!(rows(&mtls, &with_key_password, Ok(())), plain);
    let (stranger, its_key) = (file("stranger.pem"), file("stranger.key"));
    rows(&mtls, &both(&stranger, &its_key), Err(&["127.0.0.1"]));
    rows(&mtls, &both(&certificate, &key)[..2], Err(&["127.0.0.1"]));
}

#[test]
fn a_keyspace_behind_tls_and_a_password_is_written_and_what_is_wrong_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    certificates(folder.path());
    let variables =
        [("CASSANDRA_AUTH", "1".to_owned()), ("CASSANDRA_SECURE", folder.path().to_string_lossy().into_owned())];
    let (Some(brokers), Some(database)) = (crate::kafka(), start_in(Kind::Cassandra, &variables)) else { return };
    create_topic(&brokers, "into_secured", 1, &[]);
    produce(&brokers, "into_secured", &log());
    let tables = Tables::connect_as(database.port(), "cassandra", "cassandra");
    tables.create("secured", SESSIONS);
    tables.execute(&format!("CREATE ROLE {USER} WITH PASSWORD = '{PASSWORD}' AND LOGIN = true AND SUPERUSER = true"));
    drop(Tables::connect_as(database.port(), USER, PASSWORD)); // known from here on
    let settings = Settings::default().over_kafka(&brokers, "into_secured").into_cql(database.port(), "secured");
    let with = |password: &str, ca: &str| {
        let ca = folder.path().join(ca);
        let tls = format!("[sink.cql.tls]\nca = \"{}\"", ca.display());
        let sink = format!("{}\nuser = \"{USER}\"\npassword = \"{password}\"\n{tls}", settings.sink);
        Pipeline::new(&Settings { sink, ..settings.clone() }.to_toml())
    };
    for (password, ca, said) in [
        (WRONG, "ca.pem", "refused the credentials"),
        (PASSWORD, "wrong-ca.pem", "certificate verify failed"),
        (PASSWORD, "missing.pem", "missing.pem"),
    ] {
        let pipeline = with(password, ca);
        run(&pipeline).expect_one_of(&[2, 3]).expect_said(&[said]);
        pipeline.call("check", &[]).expect_one_of(&[2, 3]).expect_said(&[said]);
        assert!(tables.sessions("secured").is_empty());
    }
    run(&with(PASSWORD, "ca.pem")).expect_code(0);
    assert!(tables.sessions("secured").len() > 50);
}
