//! A storm on real services: producers send at a steady rate, hosts are killed, paused and replaced, Kafka and Cassandra are paused and killed,
//! deployments come and go. When it is over, the table must hold the rows of the naive model, and so must a replay without the checkpoint.
//!
//! `./x storm SECONDS [SEED]`, or `STORM_SECONDS` and `KEYFOLD_SEED` in the environment. The seed picks what happens and when; what
//! comes of it depends on the machine, so a storm is repeated in kind only.

#![expect(clippy::disallowed_methods, reason = "a storm takes place in the machine's time")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../services/service.rs"]
#[expect(dead_code, reason = "the tests on services use the rest")]
mod service;
#[path = "../services/tables.rs"]
#[expect(dead_code, reason = "the tests on services use the rest")]
mod tables;
#[path = "../services/topics.rs"]
#[expect(dead_code, reason = "the tests on services use the rest")]
mod topics;

mod time;
mod plan;
mod producers;
mod outages;
mod hosts;
mod orders;
mod check;

use std::io::Write;
use std::ops::Deref;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use serde_json::{Value, json};

use crate::check::{StoredState, Truth, compare};
use crate::hosts::{Blows, Hosts};
use crate::orders::Orders;
use crate::outages::Outages;
use crate::plan::Plan;
use crate::producers::{PARTITIONS, Producers, Transactions};
use crate::service::{Kind, Service, start_in};
use crate::support::generate::{TestRecord, record_line};
use crate::support::host::{PATIENCE, Pipeline, Running, logged, plugin_file};
use crate::support::model::Time;
use crate::support::random::{Random, seed};
use crate::support::settings::Settings;
use crate::tables::Tables;
use crate::time::StormTime;
use crate::topics::{create_topic, read_back};

/// A shorter storm has not everything in it.
const SHORTEST_S: u64 = 90;
const DEFAULT_S: u64 = 120;
const TOPIC: &str = "storm";
/// The mark of the rows before the first deployment.
const FIRST_MARK: &str = "m0";
/// Its list is not frozen: one that is written twice with equal timestamps has its elements twice.
const TABLE: &str = "out (k text, n bigint, v bigint, items list<text>, ingestion_time timestamp, PRIMARY KEY (k, n))";
/// Where the replay writes.
const REPLAY: &str = "replay";

/// What was done, and what came of it.
struct Figures {
    sent: u64,
    transactions: Transactions,
    blows: Blows,
    kafka: Outages,
    cassandra: Outages,
    orders: Orders,
    /// When there was nothing left to come.
    ended: Instant,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} events were sent; transactions: {}", self.sent, self.transactions)?;
        writeln!(f, "  hosts: {}", self.blows)?;
        writeln!(f, "  Kafka: {}", self.kafka)?;
        writeln!(f, "  Cassandra: {}", self.cassandra)?;
        write!(f, "  deployments: {}", self.orders)
    }
}

/// A pipeline with the services that it needs.
struct Storm {
    kafka: Service,
    cassandra: Service,
    by_partition: bool,
    pipeline: Kept,
}

/// A pipeline whose folder stays if the test fails.
struct Kept(Option<Pipeline>);

impl Deref for Kept {
    type Target = Pipeline;

    fn deref(&self) -> &Pipeline {
        self.0.as_ref().expect("it is taken when it is dropped")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if thread::panicking() {
            say(&format!("what the storm left lies in {}", self.path("").display()));
            std::mem::forget(self.0.take());
        }
    }
}

impl Storm {
    /// None where the services cannot be had.
    fn prepare(by_partition: bool) -> Option<Storm> {
        // The host relies on what was acknowledged.
        let sync = [("CASSANDRA_SYNC", "batch".to_owned())];
        let soon = [("KAFKA_SESSION_MS", "2000".to_owned())];
        let (kafka, cassandra) = (start_in(Kind::Kafka, &soon)?, start_in(Kind::Cassandra, &sync)?);
        create_topic(&kafka.address(), TOPIC, PARTITIONS, &[]);
        create_topic(&kafka.address(), "storm-letters", 1, &[]);
        let tables = Tables::connect(cassandra.port());
        tables.create(TOPIC, TABLE);
        tables.create(REPLAY, TABLE);
        let pipeline = Kept(Some(Pipeline::new("")));
        let storm = Storm { kafka, cassandra, by_partition, pipeline };
        storm.write_into(TOPIC);
        Some(storm)
    }

    /// Configures the pipeline to write to this keyspace.
    fn write_into(&self, keyspace: &str) {
        let hostile = plugin_file("hostile");
        let plugin = format!("component = \"{hostile}\"\nconfig = {{ mode = \"mark\", mark = \"{FIRST_MARK}\" }}");
        let settings = Settings {
            time: format!("out_of_orderness = \"{}ms\"", time().out_of_orderness_ms),
            plugin,
            // Services may be away for longer than a host waits for them by default.
            run: "workers = 2\nstartup_timeout = \"5m\"".to_owned(),
            checkpoint_interval: "300ms".to_owned(),
            ..Settings::default()
        };
        let mut settings = settings.over_kafka(&self.kafka.address(), TOPIC).into_cql(self.cassandra.port(), keyspace);
        settings.source.push_str(if self.by_partition { "\nordering = \"partition\"" } else { "" });
        // A file would be locked by the host that is to be replaced.
        let toml = settings.to_toml().replace("file = \"dead-letters.ndjson\"", "topic = \"storm-letters\"");
        self.pipeline.configure(&toml);
    }

    /// Everything at once, for as long as is planned, and what is left to be done.
    fn rage(&self, plan: &Plan) -> (Figures, Running) {
        let time = &StormTime::begin();
        let producers = &Producers::new(self.kafka.address(), TOPIC, self.by_partition, time);
        let pipeline: &Pipeline = &self.pipeline;
        let random = |number: u64| Random::new(plan.seed ^ number);
        thread::scope(|scope| {
            let hosts = scope.spawn(|| {
                time.with(|| {
                    let mut hosts = Hosts::start(pipeline, time);
                    hosts.suffer(&plan.hosts, plan.length);
                    hosts.settle()
                })
            });
            // Partition 2 is empty now and then, and what comes into it then is stamped before what was folded meanwhile.
            let plain: [(u64, &[u32], u64, i64); 2] = [(1, &[0, 1], 200, 0), (2, &[2], 6, 700)];
            let plain = plain.map(|(number, to, rate, behind_ms)| {
                scope.spawn(move || time.with(|| producers.send_plain(&mut random(number), to, rate, behind_ms)))
            });
            let in_transactions: [(u64, &[u32]); 2] = [(3, &[0, 3]), (4, &[1, 3])];
            let in_transactions = in_transactions.map(|(number, to)| {
                let id = format!("storm-{number}");
                scope.spawn(move || time.with(|| producers.send_in_transactions(&id, &mut random(number), to, 80)))
            });
            let kafka = scope.spawn(|| time.with(|| outages::suffer(&self.kafka, &plan.kafka, plan.length, time)));
            let cassandra =
                scope.spawn(|| time.with(|| outages::suffer(&self.cassandra, &plan.cassandra, plan.length, time)));
            let orders = scope.spawn(|| time.with(|| orders::order(pipeline, &plan.orders, time)));
            time.reaches(plan.length);
            let done = (joined(kafka), joined(cassandra), joined(orders));
            time.wait_for_strikes();
            time.end();
            let ended = Instant::now();
            say("all that was planned has happened");
            plain.into_iter().for_each(joined);
            let transactions = in_transactions.map(joined);
            say("all producers are done");
            let (host, blows) = joined(hosts);
            let (kafka, cassandra, orders) = done;
            let transactions = Transactions::sum(&transactions);
            (Figures { sent: producers.events(), transactions, blows, kafka, cassandra, orders, ended }, host)
        })
    }

    fn log(&self) -> Vec<TestRecord> {
        read_back(&self.kafka.address(), TOPIC)
    }

    /// The log lines of all hosts with this event.
    fn logged(&self, event: &str) -> Vec<Value> {
        let entries = fs::read_dir(self.pipeline.path("")).expect("the test's folder is readable").flatten();
        let logs = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log"));
        let said = logs.map(|path| fs::read(path).expect("the test's folder is readable"));
        said.flat_map(|said| logged(&String::from_utf8_lossy(&said), event)).collect()
    }

    /// What the hosts had to do, by their logs: it depends on the machine how much of it.
    fn say_what_was_logged(&self) {
        let starts = self.logged("lane-started");
        let resumed = starts.iter().filter(|line| line["from_checkpoint"] == true).count();
        let events = ["floor-recorded", "swap-finished", "rewind-withdrawn", "state-restored", "rows-restored"];
        let events = events.map(|event| format!("{event} {}", self.logged(event).len())).join(", ");
        say(&format!("lanes started {} times, {resumed} of them from a checkpoint; {events}", starts.len()));
    }

    /// Fails unless the keyspace's table holds what the model says.
    fn assert_rows(&self, keyspace: &str, log: &[TestRecord], truth: &Truth) {
        let mut table = Tables::connect(self.cassandra.port()).rows(keyspace, "out", &["k", "n", "v", "items"]);
        // The database has no empty list but a frozen one.
        table.iter_mut().filter(|row| row["items"].is_null()).for_each(|row| row["items"] = json!([]));
        let differences = compare(&table, &truth.rows);
        if !differences.is_none() {
            let log: Vec<Value> = log.iter().map(record_line).collect();
            for (name, rows) in [("log.ndjson", &log), ("table.ndjson", &table), ("model.ndjson", &truth.rows)] {
                let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
                self.pipeline.write(name, lines.join("\n").as_bytes());
            }
            panic!("{keyspace}: {differences}");
        }
    }
}

fn time() -> Time {
    Time { out_of_orderness_ms: 5_000, ..Time::default() }
}

/// What somebody did; fails as they failed.
fn joined<T>(part: ScopedJoinHandle<'_, T>) -> T {
    part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Not println!: the test harness would keep it to itself when the test passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "storm: {line}");
}

/// A storm in which something never happened proves nothing of it.
fn assert_eventful(figures: &Figures) {
    let Figures { transactions, blows, kafka, cassandra, orders, .. } = figures;
    let happened = [
        ("a host was killed", blows.kills > 0),
        ("checkpoints were lost", blows.lost_checkpoints > 0),
        ("a host took over from one that worked", blows.rivals > 0),
        ("a host took over from one that was paused", blows.zombies > 0),
        ("a host found that it was replaced", blows.replaced > 0),
        ("a host was stopped", blows.stops > 0),
        ("Kafka was paused", kafka.pauses > 0),
        ("Kafka was down", kafka.kills + kafka.stops > 0),
        ("Cassandra was paused", cassandra.pauses > 0),
        ("Cassandra was down", cassandra.kills + cassandra.stops > 0),
        ("a deployment took effect", orders.answered.len() > orders.withdrawn()),
        ("a deployment was withdrawn", orders.withdrawn() > 0),
        ("transactions were committed", transactions.committed > 0),
        ("transactions were aborted", transactions.aborted > 0),
        ("transactions were left open", transactions.left > 0),
    ];
    let never: Vec<&str> = happened.iter().filter(|(_, has)| !has).map(|(what, _)| *what).collect();
    assert!(never.is_empty(), "it never happened that {}", never.join(", that "));
}

#[test]
fn after_a_storm_the_table_and_a_replay_hold_the_rows_of_the_model() {
    let seconds = std::env::var("STORM_SECONDS").map_or(DEFAULT_S, |s| s.parse().expect("a number of seconds"));
    assert!(seconds >= SHORTEST_S, "STORM_SECONDS={seconds}: a storm takes {SHORTEST_S} s or more");
    let plan = Plan::of(seed(1), Duration::from_secs(seconds));
    let Some(storm) = Storm::prepare(plan.by_partition) else { return };
    let (seed, lanes) = (plan.seed, if plan.by_partition { "a lane for each partition" } else { "one lane" });
    say(&format!("{lanes}; KEYFOLD_SEED={seed} STORM_SECONDS={seconds} repeats it in kind"));

    let (figures, mut host) = storm.rage(&plan);
    say(&format!("{figures}"));
    let log = storm.log();
    let stored = StoredState::of(&storm.pipeline, plan.by_partition);
    host.wait_until("a checkpoint covers the log", || {
        thread::sleep(Duration::from_millis(200));
        stored.covers(&log)
    });
    let settled = figures.ended.elapsed().as_secs_f64();
    host.terminate(PATIENCE).expect_code(0);
    storm.say_what_was_logged();

    let truth = stored.truth(&log, time(), &figures.orders);
    storm.assert_rows(TOPIC, &log, &truth);
    stored.assert_letters(&log);
    say(&format!("everything was folded {settled:.1} s after it ended: {} records, {truth}", log.len()));

    storm.write_into(REPLAY);
    storm.pipeline.delete_checkpoints();
    let began = Instant::now();
    storm.pipeline.run_to_end(&["--until-end"]).expect_code(0);
    let took = began.elapsed().as_secs_f64();
    storm.assert_rows(REPLAY, &log, &truth);
    say(&format!("a replay took {took:.1} s and gave the same rows"));
    assert_eventful(&figures);
}
