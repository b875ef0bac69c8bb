//! `keyfold demo`: a walkthrough that needs nothing else: librdkafka's mock cluster in this process, read by the same source as a real
//! one, and SQLite. Fails if a table differs from the published one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rusqlite::{Connection, OpenFlags};

use crate::backoff;
use crate::clock;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::lane::Summary;
use crate::observe::board::Board;
use crate::pipeline::run::{self, Options};

const TOPIC: &str = "visits";
/// How long a step may take; each takes well under a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// Append times of the published run, ms: the first session's first record, and the record after the restart.
const FIRST_APPEND_MS: i64 = 1_727_873_508_000;
const LAST_APPEND_MS: i64 = 1_727_873_775_000;

const A: &str = r#"{"user_id": 1, "page": "A.html", "event_time": "2023-02-20T03:03:20"}"#;
const B: &str = r#"{"user_id": 1, "page": "B.html", "event_time": "2023-02-20T03:03:26"}"#;
const C: &str = r#"{"user_id": 1, "page": "C.html", "event_time": "2023-02-20T03:05:26"}"#;
const D: &str = r#"{"user_id": 2, "page": "D.html", "event_time": "2023-02-20T04:55:26"}"#;

/// The published rows.
const USER_1: (i64, i64, &str) = (-1_700_334_822_881_806_003, 1, r#"["A.html","B.html","C.html"]"#);
const USER_2: (i64, i64, &str) = (9_081_782_675_340_903_552, 2, r#"["D.html"]"#);

/// A row of `sessions`: session id, user id, pages, ingestion time.
type Session = (i64, i64, String, String);

/// Runs the walkthrough; keeps its files in `keep`, if given.
pub fn demo(keep: Option<PathBuf>) -> Result<(), Failure> {
    play(keep).map_err(|e| match e.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(e) => Failure::new(Exit::Unexpected, format!("the demo failed: {e:#}")),
    })
}

fn play(keep: Option<PathBuf>) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir().context("cannot create a temporary folder")?;
    let folder = keep.unwrap_or_else(|| temporary.path().to_path_buf());
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    ensure!(!folder.join("sessions.db").exists(), "{} holds an earlier demo; choose an empty folder", folder.display());
    let kafka = MockCluster::new(1).context("cannot start librdkafka's mock cluster")?;
    kafka.create_topic(TOPIC, 2, 1).context("cannot create the topic in the mock cluster")?;
    let producer = producer(&kafka.bootstrap_servers())?;
    let config = configuration(&kafka.bootstrap_servers(), &folder)?;

    println!(
        "A Kafka in this process (librdkafka's mock cluster), topic {TOPIC}, two partitions, null keys; rows go to SQLite.\n"
    );
    // Their timestamps are long past, so a host that finds a partition empty once folds on without it: both partitions have a visit first.
    println!("1. The first two visits:");
    send(&producer, 0, FIRST_APPEND_MS, A)?;
    send(&producer, 1, FIRST_APPEND_MS + 6_000, B)?;
    println!("2. The host starts.");
    let host = Host::start(&config);
    println!("3. A visit two minutes later closes the session:");
    send(&producer, 0, FIRST_APPEND_MS + 7_000, C)?;
    let before = host.wait_for(&folder, |rows| !rows.is_empty())?;
    host.stop()?;
    show("4. The table:", &before);
    expect(&before, &[USER_1])?;

    println!("5. The host is stopped, its checkpoint deleted, and it starts again.");
    std::fs::remove_dir_all(folder.join("state/lanes")).context("cannot delete the checkpoint")?;
    let host = Host::start(&config);
    println!("6. A new visit moves the stream forward:");
    send(&producer, 1, LAST_APPEND_MS, D)?;
    let written = before[0].3.clone();
    let after = host.wait_for(&folder, |rows| rows.len() > 1 && rows.iter().all(|row| row.3 != written))?;
    host.stop()?;
    show("7. The table: user 1's session was written again, to the same row:", &after);
    expect(&after, &[USER_1, USER_2])?;
    ensure!(after.iter().all(|row| row.3 > written), "an ingestion time is not later than {written}");
    println!("Same id, same pages, newer ingestion time: the rows are a function of the log and the journal.");
    Ok(())
}

/// Returns the configuration of the walkthrough, as a user would write it.
fn configuration(brokers: &str, folder: &Path) -> Result<Config, Failure> {
    let text = format!(
        r#"
        name = "visits-sessions"
        [source.kafka]
        brokers = "{brokers}"
        topic = "{TOPIC}"
        [time]
        out_of_orderness = "10s"
        [plugin]
        component = "builtin:visits"
        config = {{ session_timeout = "50s", session_id = "append-second" }}
        [state]
        url = "state"
        [sink.sqlite]
        path = "sessions.db"
        now = ["ingestion_time"]
        "#
    );
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    Config::from_toml(&text, &absolute, std::iter::empty())
}

fn producer(brokers: &str) -> anyhow::Result<BaseProducer> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers);
    Ok(client.create()?)
}

fn send(
    producer: &BaseProducer<DefaultProducerContext>,
    partition: i32,
    append_ms: i64,
    visit: &str,
) -> anyhow::Result<()> {
    let record = BaseRecord::<(), str>::to(TOPIC).partition(partition).timestamp(append_ms).payload(visit);
    producer.send(record).map_err(|(e, _)| e)?;
    producer.flush(PATIENCE)?;
    println!("   partition {partition}, appended {append_ms} ms: {visit}");
    Ok(())
}

/// A host running in this process.
struct Host {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Summary>, Failure>>,
}

impl Host {
    fn start(config: &Config) -> Host {
        let stop = Arc::new(AtomicBool::new(false));
        let (config, board) = (config.clone(), Arc::new(Board::new(&config.name, &stop)));
        let thread = std::thread::spawn(move || run::run_until(&config, &Options::default(), &board, false));
        Host { stop, thread }
    }

    /// Waits until the table is as expected.
    fn wait_for(&self, folder: &Path, done: impl Fn(&[Session]) -> bool) -> anyhow::Result<Vec<Session>> {
        let until = clock::instant() + PATIENCE;
        while clock::instant() < until && !self.thread.is_finished() {
            let rows = sessions(folder).unwrap_or_default(); // the table may not be there yet
            if done(&rows) {
                return Ok(rows);
            }
            backoff::pause(Duration::from_millis(20));
        }
        bail!("the table did not reach the expected rows in time; it holds {:?}", sessions(folder))
    }

    fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(result) => Ok(result.map(drop)?),
            Err(_) => bail!("the host panicked"),
        }
    }
}

fn sessions(folder: &Path) -> anyhow::Result<Vec<Session>> {
    let database = Connection::open_with_flags(folder.join("sessions.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let query = "SELECT session_id, user_id, pages, ingestion_time FROM sessions ORDER BY user_id";
    let mut statement = database.prepare(query)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn show(title: &str, rows: &[Session]) {
    println!("{title}\n");
    println!("   {:>20} | {:>7} | {:<24} | pages", "session_id", "user_id", "ingestion_time");
    println!("   {:->20}-+-{:->7}-+-{:-<24}-+-{:-<30}", "", "", "", "");
    for (session, user, pages, written) in rows {
        let pages: Vec<String> = serde_json::from_str(pages).unwrap_or_default();
        let pages: Vec<String> = pages.iter().map(|page| format!("'{page}'")).collect();
        println!("   {session:>20} | {user:>7} | {written:<24} | [{}]", pages.join(", "));
    }
    println!("\n   ({} rows)\n", rows.len());
}

fn expect(rows: &[Session], published: &[(i64, i64, &str)]) -> anyhow::Result<()> {
    let found: Vec<(i64, i64, &str)> = rows.iter().map(|(id, user, pages, _)| (*id, *user, pages.as_str())).collect();
    ensure!(
        found == published,
        "the table differs from the published one:\n  found {found:?}\n  published {published:?}"
    );
    Ok(())
}
