//! Passwords and certificates that are replaced while a host runs: it goes on with the new ones once its connections are cut, and its rows are
//! complete. And certificates that name hosts where the host connects to addresses.

use std::path::Path;

use crate::outages::minutes;
use crate::secured::{USER, secure_kafka};
use crate::service::{Kind, free_ports, start_in};
use crate::support::certificates::Authority;
use crate::support::generate::{START_MS, TestRecord};
use crate::support::host::{PATIENCE, Pipeline};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson, sorted};
use crate::support::settings::Settings;
use crate::tables::{SESSIONS, Tables};
use crate::topics::{create_topic, produce, read_back};

const FIRST: &str = "correct-horse-battery";
const SECOND: &str = "another-horse-battery";

/// Replaces a file as a whole.
fn replace(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join("next"), bytes).expect("a writable folder");
    std::fs::rename(folder.join("next"), folder.join(name)).expect("a writable folder");
}

/// Files for a server with this name or address, by a new authority.
fn serve_as(folder: &Path, name: &str) {
    let authority = Authority::new("authority");
    replace(folder, "server.pem", &authority.sign("server", Some(name), 30).both());
    replace(folder, "ca.pem", &authority.pem());
}

/// A record that becomes a dead letter.
fn no_visit(timestamp: i64) -> TestRecord {
    TestRecord { partition: 0, offset: 0, timestamp, key: None, value: Some(b"no visit".to_vec()) }
}

#[test]
fn a_password_of_kafka_that_changes_is_used_by_all_clients_from_their_next_connection_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    serve_as(folder.path(), "127.0.0.1");
    let ports = free_ports();
    let Some(broker) = secure_kafka(folder.path(), ports) else { return };
    let (plain, sasl) = (broker.address(), format!("127.0.0.1:{}", ports[0]));
    create_topic(&plain, "rotated", 1, &[]);
    create_topic(&plain, "rotated-letters", 1, &[]);
    let settings = Settings { checkpoint_interval: "200ms".to_owned(), ..Settings::default() };
    let settings = settings.over_kafka(&sasl, "rotated");
    let ca = folder.path().join("ca.pem");
    let source = format!(
        "{}\n[source.kafka.properties]\nsecurity.protocol = \"SASL_SSL\"\nssl.ca.location = \"{}\"\nsasl.mechanism = \"SCRAM-SHA-256\"\n\
         sasl.username = \"{USER}\"\nsasl.password_file = \"password\"",
        settings.source,
        ca.display()
    );
    let toml = Settings { source, ..settings }.to_toml();
    let pipeline = Pipeline::new(&toml.replace("file = \"dead-letters.ndjson\"", "topic = \"rotated-letters\""));
    pipeline.write("password", FIRST.as_bytes());
    let rows = || from_ndjson(&pipeline.path("rows.ndjson"));
    let letters = || read_back(&plain, "rotated-letters").len();
    let mut host = pipeline.spawn(&[]);
    produce(&plain, "rotated", &minutes(0, 10));
    produce(&plain, "rotated", &[no_visit(START_MS + 9 * 60_000)]);
    host.wait_until("the first sessions are written", || rows().len() >= 8);
    host.wait_until("the first letter is sent", || letters() == 1);

    let output = broker.command("user").args([USER, SECOND]).output().expect("bash is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    replace(&pipeline.path("."), "password", format!("{SECOND}\n").as_bytes());
    let same = std::fs::read(&ca).expect("just written");
    replace(folder.path(), "ca.pem", &same);
    host.wait_logged("password-read");
    let told = host.wait_logged("kafka-file-changed");
    assert!(told["message"].as_str().is_some_and(|text| text.starts_with("source.kafka.properties.ssl.ca.location: ")));
    broker.stop();
    broker.start_again();
    produce(&plain, "rotated", &minutes(10, 10));
    produce(&plain, "rotated", &[no_visit(START_MS + 19 * 60_000)]);
    let want = model::run(Visits::new(SessionId::Record), &read_back(&plain, "rotated"), Time::default()).values();
    host.wait_until("all sessions are written", || rows().len() >= want.len());
    host.wait_until("the second letter is sent", || letters() == 2);
    let outcome = host.terminate(PATIENCE);
    outcome.expect_code(0);
    assert!(!outcome.stderr.contains(FIRST) && !outcome.stderr.contains(SECOND));
    assert_same("rotated", &rows(), &want);
}

#[test]
fn a_password_and_an_authority_of_the_database_that_change_are_used_from_the_next_connection_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    serve_as(folder.path(), "127.0.0.1");
    let variables =
        [("CASSANDRA_AUTH", "1".to_owned()), ("CASSANDRA_SECURE", folder.path().to_string_lossy().into_owned())];
    let (Some(brokers), Some(database)) = (crate::kafka(), start_in(Kind::Cassandra, &variables)) else { return };
    create_topic(&brokers, "into-rotated", 1, &[]);
    let tables = Tables::connect_as(database.port(), "cassandra", "cassandra");
    tables.create("rotated", SESSIONS);
    tables.execute(&format!("CREATE ROLE {USER} WITH PASSWORD = '{FIRST}' AND LOGIN = true AND SUPERUSER = true"));
    drop(Tables::connect_as(database.port(), USER, FIRST)); // known from here on
    let settings = Settings::default().over_kafka(&brokers, "into-rotated").into_cql(database.port(), "rotated");
    let tls = format!("[sink.cql.tls]\nca = \"{}\"", folder.path().join("ca.pem").display());
    let sink = format!("{}\nuser = \"{USER}\"\npassword_file = \"password\"\n{tls}", settings.sink);
    let pipeline = Pipeline::new(&Settings { sink, ..settings }.to_toml());
    pipeline.write("password", FIRST.as_bytes());
    let mut host = pipeline.spawn(&[]);
    produce(&brokers, "into-rotated", &minutes(0, 10));
    host.wait_until("the first sessions are written", || tables.sessions("rotated").len() >= 8);

    tables.execute(&format!("ALTER ROLE {USER} WITH PASSWORD = '{SECOND}'"));
    drop(Tables::connect_as(database.port(), USER, SECOND));
    drop(tables);
    database.stop();
    serve_as(folder.path(), "127.0.0.1");
    replace(&pipeline.path("."), "password", SECOND.as_bytes());
    database.start_again();
    produce(&brokers, "into-rotated", &minutes(10, 10));
    let tables = Tables::connect_as(database.port(), "cassandra", "cassandra");
    let want = model::run(Visits::new(SessionId::Record), &read_back(&brokers, "into-rotated"), Time::default());
    let want = sorted(want.values());
    host.wait_until("all sessions are written", || tables.sessions("rotated").len() >= want.len());
    let outcome = host.terminate(PATIENCE);
    outcome.expect_code(0);
    outcome.logged("cql-certificate-read");
    assert!(!outcome.stderr.contains(FIRST) && !outcome.stderr.contains(SECOND));
    assert_same("rotated", &tables.sessions("rotated"), &want);
}

#[test]
fn a_node_s_certificate_for_a_host_name_is_accepted_by_that_name_and_no_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    serve_as(folder.path(), "localhost");
    let variables = [("CASSANDRA_SECURE", folder.path().to_string_lossy().into_owned())];
    let (Some(brokers), Some(database)) = (crate::kafka(), start_in(Kind::Cassandra, &variables)) else { return };
    create_topic(&brokers, "into-named", 1, &[]);
    produce(&brokers, "into-named", &minutes(0, 10));
    let tables = Tables::connect(database.port());
    tables.create("named", SESSIONS);
    let settings = Settings::default().over_kafka(&brokers, "into-named").into_cql(database.port(), "named");
    let with = |node: &str, name: &str| {
        let ca = folder.path().join("ca.pem");
        let sink = settings.sink.replace("127.0.0.1", node);
        let sink = format!("{sink}\n[sink.cql.tls]\nca = \"{}\"\n{name}", ca.display());
        Pipeline::new(&Settings { sink, ..settings.clone() }.to_toml())
    };
    let by_address = "the certificate is that of localhost, and not of the address that was connected to";
    for (node, name, said) in [
        ("127.0.0.1", "", by_address.to_owned()),
        ("127.0.0.1", "server_name = \"db.example\"", format!("{by_address}, nor of db.example")),
        ("localhost", "server_name = \"db.example\"", format!("{by_address}, nor of db.example")),
    ] {
        let pipeline = with(node, name);
        pipeline.call("check", &[]).expect_code(3).expect_said(&[&said, node]);
        pipeline.run_to_end(&["--until-end"]).expect_code(3).expect_said(&[&said, node]);
    }
    assert!(tables.sessions("named").is_empty());
    with("localhost", "").run_to_end(&["--until-end"]).expect_code(0);
    let rows = tables.sessions("named");
    assert!(rows.len() >= 8, "{} rows", rows.len());
    with("127.0.0.1", "server_name = \"localhost\"").run_to_end(&["--until-end"]).expect_code(0);
    assert_same("named", &tables.sessions("named"), &rows);
}
