//! Outages in mid-run are waited out, for ever: the host goes on by itself and nothing is lost or doubled.

use serde_json::json;

use crate::service::{Kind, start};
use crate::support::generate::{START_MS, TestRecord};
use crate::support::host::{PATIENCE, Pipeline};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson, sorted};
use crate::support::scrape::Host;
use crate::support::settings::{ADMIN, Settings};
use crate::tables::{SESSIONS, Tables};
use crate::topics::{create_topic, produce, read_back};

/// `count` records from number `first` on, a minute apart: each ends the session before it. In one partition: the live host reads while they
/// are produced, with times that are long past, and in two it would depend on the machine which becomes visible first (a floor, which this
/// model does not know).
pub(crate) fn minutes(first: i64, count: i64) -> Vec<TestRecord> {
    let record = |i: i64| {
        let ms = START_MS + i * 60_000;
        let time = chrono::DateTime::from_timestamp_millis(ms).expect("near the present").format("%Y-%m-%dT%H:%M:%S");
        let value = json!({"user_id": i % 3, "page": format!("p{i}"), "event_time": time.to_string()}).to_string();
        TestRecord { partition: 0, offset: 0, timestamp: ms, key: None, value: Some(value.into_bytes()) }
    };
    (first..first + count).map(record).collect()
}

/// A lane that does not come back is told soon.
const SOON: &str = "stuck_after = \"1s\"\n";

const SOURCE_UP: &str = "keyfold_source_up{lane=\"topic\"}";

#[test]
fn a_broker_that_goes_away_is_waited_for() {
    let Some(broker) = start(Kind::Kafka) else { return };
    let brokers = broker.address();
    create_topic(&brokers, "outage", 1, &[]);
    let pipeline =
        Pipeline::new(&format!("{}{ADMIN}{SOON}", Settings::default().over_kafka(&brokers, "outage").to_toml()));
    let rows = || from_ndjson(&pipeline.path("rows.ndjson"));
    let mut host = pipeline.spawn(&[]);
    let told = Host::of(&mut host);
    produce(&brokers, "outage", &minutes(0, 10));
    host.wait_until("the first sessions are written", || rows().len() >= 8);
    assert_eq!(told.metrics().value(SOURCE_UP), 1.0);
    broker.stop();
    told.wait_for(&mut host, SOURCE_UP, 0.0);
    assert!(told.says_yes("/livez"), "{}", told.get("/livez").1);
    broker.start_again();
    told.wait_for(&mut host, SOURCE_UP, 1.0);
    produce(&brokers, "outage", &minutes(10, 10));
    let want = model::run(Visits::new(SessionId::Record), &read_back(&brokers, "outage"), Time::default()).values();
    host.wait_until("all sessions are written", || rows().len() >= want.len());
    host.terminate(PATIENCE).expect_code(0);
    assert_same("outage", &rows(), &want);
}

#[test]
fn a_database_that_goes_away_is_waited_for() {
    let (Some(brokers), Some(database)) = (crate::kafka(), start(Kind::Cassandra)) else { return };
    create_topic(&brokers, "database-outage", 1, &[]);
    let tables = Tables::connect(database.port());
    tables.create("outage", SESSIONS);
    let settings = Settings::default().over_kafka(&brokers, "database-outage").into_cql(database.port(), "outage");
    let pipeline = Pipeline::new(&format!("{}{ADMIN}{SOON}", settings.to_toml()));
    let mut host = pipeline.spawn(&[]);
    let told = Host::of(&mut host);
    produce(&brokers, "database-outage", &minutes(0, 10));
    host.wait_until("the first sessions are written", || tables.sessions("outage").len() >= 8);
    assert!(told.says_yes("/readyz"));
    drop(tables);
    database.stop();
    produce(&brokers, "database-outage", &minutes(10, 10));
    // The host meets the outage before it ends: it says so, to whom it can.
    host.wait_until("the host warns", || host_warned(&pipeline));
    host.wait_until("it is not ready", || !told.says_yes("/readyz"));
    let (_, why) = told.get("/readyz");
    assert!(why.contains("FAIL  sink") && why.contains("ok    lane topic"), "{why}");
    let waited = told.wait_for(&mut host, "keyfold_sink_up", 0.0);
    assert!(waited.value("keyfold_sink_retries_total") > 0.0);
    // Waiting for the sink is no standstill, however long: a checkpoint is due by now.
    host.wait_until("a checkpoint is overdue", || {
        told.metrics().value("keyfold_checkpoint_age_seconds{lane=\"topic\"}") > 7.0
    });
    assert!(told.says_yes("/livez"), "{}", told.get("/livez").1);
    database.start_again();
    let tables = Tables::connect(database.port());
    let want =
        model::run(Visits::new(SessionId::Record), &read_back(&brokers, "database-outage"), Time::default()).values();
    host.wait_until("all sessions are written", || tables.sessions("outage").len() >= want.len());
    told.wait_for(&mut host, "keyfold_sink_up", 1.0);
    assert!(told.says_yes("/readyz") && told.says_yes("/livez"));
    // The host tells of the outage now and then, and not the driver of each of its attempts.
    assert!(!host.stderr().contains("\"target\":\"scylla"), "{}", host.stderr());
    host.terminate(PATIENCE).expect_code(0);
    assert_same("outage", &tables.sessions("outage"), &sorted(want));
}

#[test]
fn a_topic_of_dead_letters_that_goes_away_is_waited_for() {
    let (Some(brokers), Some(other)) = (crate::kafka(), start(Kind::Kafka)) else { return };
    create_topic(&brokers, "no-visits", 1, &[]);
    create_topic(&other.address(), "letters", 1, &[]);
    let letters = format!("topic = \"letters\"\nbrokers = \"{}\"", other.address());
    let settings = Settings { checkpoint_interval: "200ms".to_owned(), ..Settings::default() };
    let toml = settings.over_kafka(&brokers, "no-visits").to_toml().replace("file = \"dead-letters.ndjson\"", &letters);
    let pipeline = Pipeline::new(&format!("{toml}{ADMIN}{SOON}"));
    let mut host = pipeline.spawn(&[]);
    let told = Host::of(&mut host);
    let reject = |timestamp: i64| {
        let value = Some(b"no visit".to_vec());
        produce(&brokers, "no-visits", &[TestRecord { partition: 0, offset: 0, timestamp, key: None, value }]);
    };
    reject(START_MS);
    told.wait_for(&mut host, "keyfold_dead_letters_total{lane=\"topic\",stage=\"map\"}", 1.0);
    told.metrics().expect(&[("keyfold_dead_letters_up", 1.0), ("keyfold_dead_letters_retries_total", 0.0)]);
    other.stop();
    reject(START_MS + 1);
    let away = told.wait_for(&mut host, "keyfold_dead_letters_up", 0.0);
    assert_eq!(away.value("keyfold_sink_up"), 1.0);
    assert!(away.value("keyfold_dead_letters_retries_total") > 0.0);
    let (status, why) = told.get("/readyz");
    assert!(status == 503 && why.contains("FAIL  dead letters") && why.contains("ok    sink"), "{why}");
    assert!(told.says_yes("/livez"), "{}", told.get("/livez").1);
    other.start_again();
    told.wait_for(&mut host, "keyfold_dead_letters_up", 1.0);
    assert!(told.says_yes("/readyz"), "{}", told.get("/readyz").1);
    host.terminate(PATIENCE).expect_code(0);
    assert_eq!(read_back(&other.address(), "letters").len(), 2, "none is lost, and none was sent twice by one host");
}

/// Whether a log file of this pipeline holds a warning.
fn host_warned(pipeline: &Pipeline) -> bool {
    let entries = std::fs::read_dir(pipeline.path("")).expect("the test's folder is readable").flatten();
    let mut logs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("err-"));
    logs.any(|log| std::fs::read_to_string(log.path()).is_ok_and(|text| text.contains("\"WARN\"")))
}
