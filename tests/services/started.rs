//! Services that the tests start.

use std::net::TcpListener;
use std::path::Path;

use crate::service::{Kind, start};
use crate::support::generate::generate;
use crate::support::host::wait_until;
use crate::tables::{SESSIONS, Tables};
use crate::topics::{create_topic, produce_in_transactions, read_back, trim};
use crate::{cassandra, kafka};

#[test]
fn a_topic_gives_back_what_was_committed_to_it() {
    let Some(brokers) = kafka() else { return };
    create_topic(&brokers, "committed", 2, &[]);
    let log = generate(3_000, 50, 1);
    produce_in_transactions(&brokers, "committed", &log, 1);
    let found = read_back(&brokers, "committed");
    for partition in [0, 1] {
        let content = |log: &[crate::support::generate::TestRecord]| {
            let own = log.iter().filter(|r| r.partition == partition);
            own.map(|r| (r.timestamp, r.key.clone(), r.value.clone())).collect::<Vec<_>>()
        };
        assert!(content(&found) == content(&log), "partition {partition} came back as it was sent");
    }
    trim(&brokers, "committed", 0, 5);
    assert!(read_back(&brokers, "committed").iter().filter(|r| r.partition == 0).all(|r| r.offset >= 5));
}

#[test]
fn a_table_gives_back_what_was_written_to_it() {
    let Some(port) = cassandra() else { return };
    let tables = Tables::connect(port);
    tables.create("given_back", SESSIONS);
    tables.execute("INSERT INTO given_back.sessions (session_id, user_id, pages) VALUES (-1, 2, ['a', 'b'])");
    let row = serde_json::json!({"table": "sessions", "session_id": -1, "user_id": 2, "pages": ["a", "b"]});
    assert_eq!(tables.sessions("given_back"), [row]);
}

#[test]
fn a_service_ends_with_its_owner_and_leaves_nothing() {
    let Some(service) = start(Kind::Kafka) else { return };
    let data = service.variable("DATA_DIR").to_owned();
    assert!(Path::new(&data).exists());
    service.stop();
    service.start_again();
    let port = service.port();
    drop(service);
    wait_until("the port is free", || TcpListener::bind(("127.0.0.1", port)).is_ok());
    assert!(!Path::new(&data).exists(), "{data} was removed");
}
