//! The Kafka source on a real broker: what librdkafka's mock brokers cannot show (transactions, trimmed logs, the broker's timestamps,
//! compression).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use keyfold::config;
use keyfold::failure::{Exit, Failure};
use keyfold::position::{LastRecord, Offset, Partition, fingerprint};
use keyfold::record::Records;
use keyfold::source::kafka::{Hub, KafkaSource, Timestamps, inspect};
use keyfold::source::{Arrival, Source, Start};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::topics::{create_topic, producer, trim};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(brokers: &str, topic: &str) -> config::KafkaSource {
    config::KafkaSource {
        brokers: brokers.into(),
        topic: topic.into(),
        group: format!("{topic}-group"),
        ordering: config::Ordering::Topic,
        hosts: config::Hosts::One,
        properties: BTreeMap::new(),
        secret_files: BTreeMap::new(),
    }
}

fn start(partition: u32) -> Start {
    Start { partition: Partition(partition), ..Start::default() }
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, payloads: &[&str]) {
    for payload in payloads {
        let record =
            BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(payload.as_bytes()).timestamp(1_000);
        producer.send(record).map_err(|(error, _)| error).expect("the producer's queue has room");
    }
    producer.flush(PATIENCE).expect("the broker acknowledges");
}

fn next(source: &mut KafkaSource) -> Arrival {
    source.next(PATIENCE).expect("the source is well").expect("something arrives")
}

/// All records of all partitions until they end.
fn until_ends(config: &config::KafkaSource, starts: &[Start]) -> Records {
    let mut source = KafkaSource::open(config, starts, true, deadline()).expect("it opens");
    let (mut all, mut open) = (Records::default(), starts.len());
    while open > 0 {
        match next(&mut source) {
            Arrival::End { .. } => open -= 1,
            Arrival::Empty { .. } => panic!("nobody asked"),
            Arrival::Records { records, .. } => (0..records.len()).for_each(|row| all.push(records.get(row))),
        }
    }
    all
}

fn state_error(result: Result<KafkaSource, Failure>) -> String {
    match result.map(drop) {
        Err(Failure { exit: Exit::State, message, .. }) => message,
        other => panic!("{other:?} is no error of the state"),
    }
}

#[test]
fn an_open_transaction_is_not_empty_and_a_commit_marker_is() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "sources-open", 2, &[]);
    let open = producer(&brokers, Some("sources-open"));
    open.begin_transaction().expect("none is open");
    send(&open, "sources-open", 0, &["a", "b"]);
    let mut source = KafkaSource::open(&config(&brokers, "sources-open"), &[start(0), start(1)], false, deadline())
        .expect("it opens");
    source.ask(&[Partition(0), Partition(1)], 0);
    assert!(matches!(next(&mut source), Arrival::Empty { partitions, .. } if partitions == [Partition(1)]));
    // Partition 1 may be asked again with partition 0.
    match source.next(Duration::from_secs(1)).expect("the source is well") {
        None => {}
        Some(Arrival::Empty { partitions, .. }) if partitions == [Partition(1)] => {}
        heard => panic!("partition 0 has an open transaction, but: {heard:?}"),
    }

    open.commit_transaction(PATIENCE).expect("the broker commits");
    let mut offsets = Vec::new();
    loop {
        match next(&mut source) {
            Arrival::Records { records, .. } => offsets.extend(records.offsets),
            // The marker at the end is no record.
            Arrival::Empty { partitions, .. } if partitions.contains(&Partition(0)) => break,
            Arrival::Empty { .. } => {}
            Arrival::End { .. } => panic!("there is no end"),
        }
    }
    assert_eq!(offsets, [0, 1]);
}

#[test]
fn aborted_records_never_arrive_and_do_not_hold_the_end() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "sources-aborted", 1, &[]);
    let log = producer(&brokers, Some("sources-aborted"));
    for (payload, kept) in [("a", true), ("b", false), ("c", true), ("d", false)] {
        log.begin_transaction().expect("none is open");
        send(&log, "sources-aborted", 0, &[payload]);
        match kept {
            true => log.commit_transaction(PATIENCE).expect("the broker commits"),
            false => log.abort_transaction(PATIENCE).expect("the broker aborts"),
        }
    }
    let config = config(&brokers, "sources-aborted");
    let records = until_ends(&config, &[start(0)]);
    assert_eq!(records.payloads.iter().collect::<Vec<_>>(), [b"a", b"c"]);
    assert_eq!(records.offsets, [0, 4]);
    let mut source = KafkaSource::open(&config, &[Start { next: Some(Offset(5)), ..start(0) }], false, deadline())
        .expect("it opens");
    source.ask(&[Partition(0)], 0);
    assert!(
        matches!(next(&mut source), Arrival::Empty { partitions, .. } if partitions == [Partition(0)]),
        "markers and aborted records are not waited for"
    );
}

#[test]
fn the_broker_s_timestamps_are_told_and_kept() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "sources-append", 1, &[("message.timestamp.type", "LogAppendTime")]);
    send(&producer(&brokers, None), "sources-append", 0, &["a"]);
    let config = config(&brokers, "sources-append");
    let topic = inspect(&config, deadline()).expect("it is there");
    assert_eq!(topic.timestamps, Some(Timestamps::LogAppendTime));
    assert_eq!((topic.low, topic.high), (vec![Offset(0)], vec![Offset(1)]));
    assert!(until_ends(&config, &[start(0)]).append_times[0] > 1_700_000_000_000, "the producer's timestamp is 1000");
}

#[test]
fn a_trimmed_log_is_refused_with_both_offsets() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "sources-trimmed", 1, &[]);
    send(&producer(&brokers, None), "sources-trimmed", 0, &["0", "1", "2", "3", "4", "5"]);
    trim(&brokers, "sources-trimmed", 0, 4);
    let config = config(&brokers, "sources-trimmed");
    let open = |next, last| {
        KafkaSource::open(&config, &[Start { partition: Partition(0), next: Some(next), last }], false, deadline())
    };
    let message = state_error(open(Offset(3), None));
    assert!(message.contains("offset 3") && message.contains("begins at 4"), "{message}");
    assert_eq!(open(Offset(4), None).expect("4 is still there").first_offsets(), [(Partition(0), Offset(4))]);
    let last = LastRecord { offset: Offset(3), timestamp: Some(1), fingerprint: 1, digest: None };
    open(Offset(4), Some(last)).expect("the last record is gone, the next is there");
    assert_eq!(until_ends(&config, &[start(0)]).offsets, [4, 5]);
}

#[test]
fn a_log_that_is_trimmed_past_a_slow_reader_ends_the_source() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "sources-outrun", 1, &[]);
    let single: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("batch.num.messages", "1")
        .create()
        .expect("a valid configuration");
    let payload = "x".repeat(10_000);
    send(&single, "sources-outrun", 0, &vec![&payload[..]; 2_000]);
    let mut config = config(&brokers, "sources-outrun");
    for (key, value) in
        [("queued.min.messages", "1"), ("queued.max.messages.kbytes", "1"), ("fetch.message.max.bytes", "1000")]
    {
        config.properties.insert(key.into(), value.into());
    }
    let mut source = KafkaSource::open(&config, &[start(0)], false, deadline()).expect("it opens");
    assert!(matches!(next(&mut source), Arrival::Records { .. }));
    trim(&brokers, "sources-outrun", 0, 2_000);
    let error = loop {
        match source.next(PATIENCE) {
            Ok(arrival) => assert!(arrival.is_some(), "neither a record nor an error"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, Failure { exit: Exit::State, message: text, .. } if text.contains("begins at 2000")),
        "{error}"
    );
}

#[test]
fn a_topic_made_anew_is_refused() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "sources-anew", 1, &[]);
    send(&producer(&brokers, None), "sources-anew", 0, &["another", "log"]);
    let last = LastRecord {
        offset: Offset(0),
        timestamp: Some(1_000),
        fingerprint: fingerprint(None, Some(b"the former log")),
        digest: None,
    };
    let start = Start { partition: Partition(0), next: Some(Offset(1)), last: Some(last) };
    let message = state_error(KafkaSource::open(&config(&brokers, "sources-anew"), &[start], false, deadline()));
    assert!(message.contains("offset 0") && message.contains("made anew"), "{message}");
}

#[test]
fn a_topic_deleted_or_made_anew_while_it_is_read_ends_the_source() {
    let Some(brokers) = crate::kafka() else { return };
    for (topic, anew) in [("sources-deleted", false), ("sources-replaced", true)] {
        create_topic(&brokers, topic, 2, &[]);
        let mut source =
            KafkaSource::open(&config(&brokers, topic), &[start(0), start(1)], false, deadline()).expect("it opens");
        delete_topic(&brokers, topic);
        if anew {
            create_again(&brokers, topic);
        }
        let error = loop {
            match source.next(PATIENCE) {
                Ok(arrival) => assert!(arrival.is_some(), "neither an arrival nor an error"),
                Err(error) => break error,
            }
        };
        match (&error, anew) {
            (Failure { exit: Exit::Outside, message: text, .. }, false) => {
                assert!(text.contains("was deleted"), "{text}")
            }
            (Failure { exit: Exit::State, message: text, .. }, true) => assert!(text.contains("made anew"), "{text}"),
            _ => panic!("{topic}: {error:?}"),
        }
    }
}

fn delete_topic(brokers: &str, topic: &str) {
    let admin: AdminClient<_> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a valid configuration");
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let deleted = futures::executor::block_on(admin.delete_topics(&[topic], &options)).expect("the broker answers");
    deleted[0].as_ref().expect("the broker deletes it");
}

/// Its name is taken until the broker has forgotten the former one.
fn create_again(brokers: &str, topic: &str) {
    let admin: AdminClient<_> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a valid configuration");
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let new = NewTopic::new(topic, 2, TopicReplication::Fixed(1));
    let begun = Instant::now();
    while futures::executor::block_on(admin.create_topics([&new], &options)).expect("the broker answers")[0].is_err() {
        assert!(begun.elapsed() < PATIENCE, "the name stays taken");
    }
}

#[test]
fn a_missing_topic_is_refused_at_once() {
    let Some(brokers) = crate::kafka() else { return };
    let begun = Instant::now();
    match inspect(&config(&brokers, "sources-missing"), deadline()) {
        Err(Failure { exit: Exit::Outside, message, .. }) => {
            assert!(message.contains("topic sources-missing does not exist"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
}

#[test]
fn every_compression_is_read() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "sources-compressed", 1, &[]);
    let payload = "page ".repeat(1_000);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &brokers).set("compression.type", codec);
        send(&client.create().expect("a valid configuration"), "sources-compressed", 0, &[&payload, &payload]);
    }
    let records = until_ends(&config(&brokers, "sources-compressed"), &[start(0)]);
    assert_eq!(records.len(), 10);
    assert!(records.payloads.iter().all(|p| p == payload.as_bytes()));
}

#[test]
fn the_position_is_committed_for_lag_tools() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "sources-commit", 1, &[]);
    send(&producer(&brokers, None), "sources-commit", 0, &["a", "b"]);
    let config = config(&brokers, "sources-commit");
    let mut source = KafkaSource::open(&config, &[start(0)], false, deadline()).expect("it opens");
    assert!(matches!(next(&mut source), Arrival::Records { .. }));
    source.commit(&[(Partition(0), Offset(2))]);
    drop(source);
    let group: rdkafka::consumer::BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("group.id", &config.group)
        .create()
        .expect("a valid configuration");
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition("sources-commit", 0);
    let found = rdkafka::consumer::Consumer::committed_offsets(&group, list, PATIENCE).expect("the broker answers");
    assert_eq!(found.elements()[0].offset(), rdkafka::Offset::Offset(2));
}

#[test]
fn what_happens_to_a_partition_is_told_to_its_lane_and_what_happens_to_the_topic_to_all() {
    let Some(brokers) = crate::kafka() else { return };
    let topic = "sources-lanes";
    create_topic(&brokers, topic, 2, &[]);
    let producer = producer(&brokers, None);
    send(&producer, topic, 0, &["0", "1", "2", "3"]);
    let config = config::KafkaSource { ordering: config::Ordering::Partition, ..config(&brokers, topic) };
    let hub = Arc::new(Hub::inspect(&config, deadline()).expect("it is there"));
    let lane = |partition, next| {
        let start = Start { next: Some(Offset(next)), ..start(partition) };
        hub.open(&[start], false, deadline()).expect("it opens")
    };
    let mut other = lane(1, 0);
    let mut trimmed = lane(0, 0);
    trimmed.hold(&[Partition(0)]);
    while trimmed.next(Duration::from_millis(500)).expect("the source is well").is_some() {} // what was under way
    send(&producer, topic, 0, &["4", "5", "6", "7"]);
    trim(&brokers, topic, 0, 8);
    trimmed.hold(&[]);
    let error = error_of(&mut trimmed);
    assert!(
        matches!(&error, Failure { exit: Exit::State, message: text, .. } if text.contains("begins at 8")),
        "{error}"
    );
    drop(trimmed);
    send(&producer, topic, 1, &["a"]);
    assert!(matches!(next(&mut other), Arrival::Records { .. }), "the other lane reads on");
    let mut again = lane(0, 8);
    send(&producer, topic, 0, &["8"]);
    assert!(matches!(next(&mut again), Arrival::Records { records, .. } if records.offsets == [8]));
    again.ask_log_id();
    let id = loop {
        match again.log_id().expect("it is the same topic") {
            Poll::Ready(id) => break id,
            Poll::Pending => drop(again.next(Duration::from_millis(10))),
        }
    };
    assert!(id.is_some() && id == again.topic_id(), "{id:?}");

    delete_topic(&brokers, topic);
    create_again(&brokers, topic);
    for lane in [&mut other, &mut again] {
        let error = error_of(lane);
        assert!(
            matches!(&error, Failure { exit: Exit::State, message, .. } if message.contains("made anew")),
            "{error}"
        );
    }
    assert!(hub.open(&[start(0)], false, deadline()).is_err(), "no lane opens any more");
}

fn error_of(source: &mut KafkaSource) -> Failure {
    loop {
        match source.next(PATIENCE) {
            Ok(arrival) => assert!(arrival.is_some(), "neither an arrival nor an error"),
            Err(error) => return error,
        }
    }
}
