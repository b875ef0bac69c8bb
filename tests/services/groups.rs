//! Several hosts that share the lanes of one pipeline through a consumer group: they come and go, are killed, paused and replaced, and the rows
//! stay those of the naive model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::load::{Load, now_ms};
use crate::support::generate::TestRecord;
use crate::support::host::{Outcome, PATIENCE, Pipeline, Running, instant_in, logged, plugin_file, wait_until};
use crate::support::model::folds::{Hostile, Mode};
use crate::support::model::{self, Deployment, Time};
use crate::support::rows::{assert_same, sorted, upserted};
use crate::support::settings::Settings;
use crate::tables::Tables;
use crate::topics::{add_partitions, create_topic, read_back};

const TABLE: &str = "out (k text, n bigint, v bigint, items list<text>, ingestion_time timestamp, PRIMARY KEY (k, n))";
const PARTITIONS: u32 = 12;
/// How many records are sent a second.
const RATE: u64 = 1_000;

/// A host that says nothing for so long has lost its lanes; the least that a broker allows.
const SESSION: &str = "properties = { \"session.timeout.ms\" = \"6000\" }";

/// A pipeline that hosts share, on a broker and a keyspace of its own.
struct Shared {
    brokers: String,
    topic: &'static str,
    tables: Tables,
    pipeline: Pipeline,
    /// What hosts and commands find in their environment.
    environment: Vec<(&'static str, String)>,
}

impl Shared {
    /// None where the services cannot be had. `more` stands under `[source.kafka]`.
    fn prepare(topic: &'static str, ordering: &str, partitions: u32, more: &str) -> Option<Shared> {
        let (brokers, port) = (crate::kafka()?, crate::cassandra()?);
        let count = i32::try_from(partitions).expect("small");
        create_topic(&brokers, topic, count, &[("message.timestamp.type", "LogAppendTime")]);
        create_topic(&brokers, &format!("{topic}-letters"), 1, &[]);
        let keyspace = topic.replace('-', "_");
        let tables = Tables::connect(port);
        tables.create(&keyspace, TABLE);
        let plugin =
            format!("component = \"{}\"\nconfig = {{ mode = \"mark\", mark = \"m0\" }}", plugin_file("hostile"));
        let settings = Settings { plugin, checkpoint_interval: "1s".to_owned(), ..Settings::default() };
        let mut settings = settings.over_kafka(&brokers, topic).into_cql(port, &keyspace);
        settings
            .source
            .push_str(&format!("\ngroup = \"{topic}\"\nordering = \"{ordering}\"\nhosts = \"many\"\n{more}"));
        let toml =
            settings.to_toml().replace("file = \"dead-letters.ndjson\"", &format!("topic = \"{topic}-letters\""));
        Some(Shared { brokers, topic, tables, pipeline: Pipeline::new(&toml), environment: Vec::new() })
    }

    /// The same, with its state in a bucket.
    #[cfg(feature = "cloud")]
    fn in_a_bucket(self, bucket: &crate::service::Service) -> Shared {
        let toml = std::fs::read_to_string(self.pipeline.path("keyfold.toml")).expect("it was written");
        let folder = format!("file://{}/state", self.pipeline.path("").display()).replace("//state", "/state");
        let toml = toml.replace(&folder, &format!("s3://keyfold/{}", self.topic));
        assert!(toml.contains("s3://"), "{folder} stands in {toml}");
        self.pipeline.configure(&toml);
        let environment = vec![
            ("AWS_ENDPOINT", format!("http://127.0.0.1:{}", bucket.port())),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "eu-west-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ];
        Shared { environment, ..self }
    }

    /// Sends records to all partitions until told to stop. Each key is of one partition.
    fn load(&self, partitions: u32) -> Load {
        Load::onto(&self.brokers, self.topic, RATE, move |i| {
            let partition = u32::try_from(i % u64::from(partitions)).expect("small");
            let value = json!({"key": format!("p{partition}-{}", i / 12 % 97), "time": now_ms(), "v": i}).to_string();
            TestRecord { partition, offset: 0, timestamp: now_ms(), key: None, value: Some(value.into_bytes()) }
        })
    }

    fn host(&self) -> Running {
        self.start("run", &[])
    }

    fn start(&self, command: &str, more: &[&str]) -> Running {
        let mut command = self.pipeline.command(command, more);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.pipeline.start(command)
    }

    fn call(&self, command: &str, more: &[&str]) -> Outcome {
        let outcome = self.start(command, more).wait(PATIENCE);
        outcome.expect_code(0);
        outcome
    }

    fn order(&self, mark: &'static str) -> Deployment {
        let config = json!({"mode": "mark", "mark": mark}).to_string();
        let outcome = self.call("deployment create", &["--plugin-config", &config]);
        Deployment { t: instant_in(&outcome.stdout), mark, time: Time::default() }
    }

    /// Ends the load, lets the hosts fold all of it, and stops them.
    fn finish(&self, load: Load, mut hosts: Vec<Running>) {
        load.finish();
        self.settle(&mut hosts);
        hosts.into_iter().for_each(|host| drop(stop(host)));
    }

    /// Waits until checkpoints cover all that is in the log, as the hosts tell the group.
    fn settle(&self, hosts: &mut [Running]) {
        let log = read_back(&self.brokers, self.topic);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("group.id", self.topic);
        let consumer: BaseConsumer = config.create().expect("a valid configuration");
        let mut list = TopicPartitionList::new();
        for partition in log.iter().map(|record| record.partition).collect::<BTreeSet<_>>() {
            list.add_partition(self.topic, i32::try_from(partition).expect("small"));
        }
        wait_until("all is covered", || {
            assert!(hosts.iter_mut().all(Running::is_running), "a host ended: {}", hosts[0].stderr());
            let committed = consumer.committed_offsets(list.clone(), PATIENCE).expect("the broker answers");
            std::thread::sleep(Duration::from_millis(100));
            committed.elements().iter().all(|at| {
                let own = log.iter().filter(|r| i32::try_from(r.partition) == Ok(at.partition()));
                let last = own.map(|r| r.offset).max().expect("each has records");
                matches!(at.offset(), Offset::Offset(next) if next.unsigned_abs() > last)
            })
        });
    }

    /// Says how long lanes were nobody's: between the end on one host and the start on the next, and after a kill at `killed`, ms since 1970.
    fn report_pauses(&self, killed: i64) {
        let mut events: Vec<(i64, String, bool)> = Vec::new();
        for file in std::fs::read_dir(self.pipeline.path("")).expect("the pipeline's folder").flatten() {
            let said = std::fs::read_to_string(file.path()).unwrap_or_default();
            for starts in [true, false] {
                let event = if starts { "lane-started" } else { "lane-stopped" };
                events.extend(logged(&said, event).iter().map(|line| {
                    let lane = line["lane"].as_str().expect("a lane").to_owned();
                    (logged_ms(line), lane, starts)
                }));
            }
        }
        events.sort();
        let (mut planned, mut after_kill, mut stopped) = (0, 0, BTreeMap::new());
        let mut open_at_kill: BTreeSet<String> = BTreeSet::new();
        for (at, lane, starts) in events {
            match starts {
                false => {
                    open_at_kill.remove(&lane);
                    stopped.insert(lane, at);
                }
                true => {
                    if let Some(since) = stopped.remove(&lane) {
                        planned = planned.max(at - since);
                    } else if at > killed && open_at_kill.remove(&lane) {
                        after_kill = after_kill.max(at - killed);
                    }
                    open_at_kill.insert(lane);
                }
            }
        }
        eprintln!(
            "longest time in which a lane was nobody's: {planned} ms at a planned move, {after_kill} ms after a kill"
        );
    }

    /// The rows must be those of the model, and so must be those of one host without checkpoints.
    fn assert_rows(&self, deployments: &[Deployment], by_partition: bool) {
        let log = read_back(&self.brokers, self.topic);
        let lanes: Vec<Vec<TestRecord>> = if by_partition {
            (0..=log.iter().map(|r| r.partition).max().expect("records"))
                .map(|p| log.iter().filter(|r| r.partition == p).cloned().collect())
                .collect()
        } else {
            vec![log]
        };
        let mut want = Vec::new();
        for lane in lanes {
            let mut fold = Hostile::new(Mode::Mark);
            model::Fold::configure(&mut fold, "m0");
            want.extend(model::run_deployed(fold, &lane, Time::default(), deployments).values());
        }
        let want = sorted(upserted(&want, &["k", "n"]));
        let keyspace = self.topic.replace('-', "_");
        let rows = || -> Vec<Value> { self.tables.rows(&keyspace, "out", &["k", "n", "v", "items"]) };
        assert_same("live", &rows(), &want);
        self.call("reset", &[]);
        self.tables.execute(&format!("TRUNCATE {keyspace}.out"));
        self.call("run", &["--until-end"]);
        assert_same("replay", &rows(), &want);
    }
}

/// When a log line was written, ms since 1970.
fn logged_ms(line: &Value) -> i64 {
    let text = line["timestamp"].as_str().expect("lines have times");
    chrono::DateTime::parse_from_rfc3339(text).expect("a time").timestamp_millis()
}

/// How many lanes a host has open, as its log says.
fn lanes(host: &Running) -> usize {
    let said = host.stderr();
    let mut open = BTreeSet::new();
    for line in said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let lane = line["lane"].as_str().unwrap_or_default().to_owned();
        match line["event"].as_str() {
            Some("lane-started") => drop(open.insert(lane)),
            Some("lane-stopped" | "lane-taken-over" | "lane-contested") => drop(open.remove(&lane)),
            _ => {}
        }
    }
    open.len()
}

/// Waits until the hosts have all lanes, and each of them its part.
fn share_out(hosts: &mut [Running], all: usize) {
    wait_until("the lanes are shared out", || {
        for host in &mut *hosts {
            assert!(host.is_running(), "a host ended; it said:\n{}", host.stderr());
        }
        let shares: Vec<usize> = hosts.iter().map(lanes).collect();
        shares.iter().sum::<usize>() == all && shares.iter().all(|share| *share >= all / hosts.len())
    });
}

fn stop(host: Running) -> Outcome {
    let outcome = host.terminate(PATIENCE);
    outcome.expect_code(0);
    outcome
}

#[test]
fn hosts_share_the_lanes_and_the_rows_are_the_models_whoever_comes_and_goes() {
    let Some(shared) = Shared::prepare("shared-lanes", "partition", PARTITIONS, SESSION) else { return };
    come_and_go(&shared);
}

#[cfg(feature = "cloud")]
#[test]
fn hosts_whose_state_is_in_a_bucket_share_the_lanes() {
    let Some(bucket) = crate::service::start(crate::service::Kind::Bucket) else { return };
    let Some(shared) = Shared::prepare("shared-bucket", "partition", PARTITIONS, SESSION) else { return };
    come_and_go(&shared.in_a_bucket(&bucket));
}

/// Hosts at a steady load: one, three, two and three again, with a crash, a rolling restart, a swap and a withdrawal.
fn come_and_go(shared: &Shared) {
    let all = usize::try_from(PARTITIONS).expect("small");
    let load = shared.load(PARTITIONS);
    let mut hosts = vec![shared.host()];
    share_out(&mut hosts, all);
    hosts.extend([shared.host(), shared.host()]);
    share_out(&mut hosts, all);
    let first = shared.order("m1");
    wait_until("all lanes have entered it", || {
        let entered = |host: &Running| logged(&host.stderr(), "deployment-entered").len();
        hosts.iter().map(entered).sum::<usize>() >= all
    });
    // A crash, while a deployment is withdrawn.
    shared.order("m2");
    hosts.remove(1).kill();
    let killed = now_ms();
    shared.call("deployment withdraw", &["--reason", "a test"]);
    share_out(&mut hosts, all);
    hosts.push(shared.host());
    share_out(&mut hosts, all);
    // A rolling restart.
    for _ in 0..3 {
        stop(hosts.remove(0));
        hosts.push(shared.host());
        share_out(&mut hosts, all);
    }
    let last = shared.order("m3");
    // One fewer, by plan.
    stop(hosts.remove(0));
    share_out(&mut hosts, all);
    shared.finish(load, hosts);
    shared.report_pauses(killed);
    shared.assert_rows(&[first, last], true);
}

/// A host is paused for longer than the group waits for it, at several moments of its life, and goes on while others fold its lanes.
#[test]
fn a_host_that_slept_through_a_rebalance_leaves_no_row_that_is_not_the_models() {
    let Some(shared) = Shared::prepare("shared-asleep", "partition", 4, SESSION) else { return };
    let load = shared.load(4);
    let mut hosts = vec![shared.host()];
    share_out(&mut hosts, 4);
    for moment in ["sharing", "partitions-assigned", "lane-started", "partitions-revoked"] {
        let mut sleeper = shared.host();
        match moment {
            // A third host makes the group take some of the sleeper's lanes.
            "partitions-revoked" => {
                hosts.push(sleeper);
                share_out(&mut hosts, 4);
                let third = shared.host();
                sleeper = hosts.pop().expect("just put there");
                sleeper.wait_until("something is revoked", || {
                    let all = hosts.iter().map(Running::stderr).any(|said| !logged(&said, moment).is_empty());
                    all || !logged(&third.stderr(), "lane-started").is_empty()
                });
                hosts.push(third);
            }
            moment => drop(sleeper.wait_logged(moment)),
        }
        sleeper.signal("STOP");
        share_out(&mut hosts, 4);
        std::thread::sleep(Duration::from_millis(500)); // they fold on
        sleeper.signal("CONT");
        hosts.push(sleeper);
        share_out(&mut hosts, 4);
        while hosts.len() > 1 {
            stop(hosts.pop().expect("more than one"));
        }
        share_out(&mut hosts, 4);
    }
    shared.finish(load, hosts);
    shared.assert_rows(&[], true);
}

/// `ordering = "topic"` has one lane: one host folds it, and another one stands by.
#[test]
fn one_host_folds_a_merged_topic_and_the_next_one_takes_over() {
    let Some(shared) = Shared::prepare("shared-topic", "topic", 3, SESSION) else { return };
    let load = shared.load(3);
    let mut hosts = vec![shared.host()];
    share_out(&mut hosts, 1);
    hosts.push(shared.host());
    hosts[1].wait_logged("sharing");
    let deployment = shared.order("m1");
    hosts[0].wait_logged("swap-finished");
    assert_eq!(lanes(&hosts[1]), 0, "it stands by");
    hosts.remove(0).kill();
    share_out(&mut hosts, 1);
    hosts.push(shared.host());
    stop(hosts.remove(0));
    share_out(&mut hosts, 1);
    shared.finish(load, hosts);
    shared.assert_rows(&[deployment], false);
}

/// The consumer protocol of KIP-848, and partitions that are added while hosts run.
#[test]
fn partitions_that_are_added_join_by_either_protocol_of_the_group() {
    for (topic, properties) in [
        ("shared-grown", "properties = { \"topic.metadata.refresh.interval.ms\" = \"1000\" }"),
        (
            "shared-next",
            "properties = { \"group.protocol\" = \"consumer\", \"topic.metadata.refresh.interval.ms\" = \"1000\" }",
        ),
    ] {
        let Some(shared) = Shared::prepare(topic, "partition", 4, properties) else { return };
        let load = shared.load(4);
        let mut hosts = vec![shared.host(), shared.host()];
        share_out(&mut hosts, 4);
        load.finish();
        add_partitions(&shared.brokers, topic, 6);
        let load = shared.load(6);
        share_out(&mut hosts, 6);
        stop(hosts.remove(0));
        share_out(&mut hosts, 6);
        shared.finish(load, hosts);
        shared.assert_rows(&[], true);
    }
}
