//! Sources on librdkafka's in-process brokers.

use super::*;
use crate::backoff;
use crate::failure::Exit;
use crate::position::{LastRecord, fingerprint};
use crate::record::Records;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use std::collections::BTreeMap;

const PATIENCE: Duration = Duration::from_secs(20);

/// librdkafka's in-process brokers with one topic.
struct Brokers {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Brokers {
    fn with(partitions: i32) -> Brokers {
        let cluster = MockCluster::new(1).expect("a mock cluster needs nothing");
        cluster.create_topic("visits", partitions, 1).expect("a new topic");
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("message.max.bytes", "20000000")
            .create()
            .expect("a producer");
        Brokers { cluster, producer }
    }

    fn config(&self) -> config::KafkaSource {
        config::KafkaSource {
            brokers: self.cluster.bootstrap_servers(),
            topic: "visits".into(),
            group: "test".into(),
            ordering: config::Ordering::Topic,
            hosts: config::Hosts::One,
            properties: BTreeMap::new(),
            secret_files: BTreeMap::new(),
        }
    }

    fn produce(&self, record: BaseRecord<'_, [u8], [u8]>) {
        self.producer.send(record).map_err(|(e, _)| e).expect("the producer's queue has room");
        self.producer.flush(PATIENCE).expect("the brokers take it");
    }

    /// Payloads "0", "1", ... with timestamps 1000, 1001, ...
    fn produce_many(&self, partition: i32, count: i64) {
        for i in 0..count {
            let payload = i.to_string();
            let record: BaseRecord<'_, [u8], [u8]> =
                BaseRecord::to("visits").partition(partition).payload(payload.as_bytes()).timestamp(1000 + i);
            self.producer.send(record).map_err(|(e, _)| e).expect("the producer's queue has room");
        }
        self.producer.flush(PATIENCE).expect("the brokers take it");
    }

    /// A hub of several lanes.
    fn hub(&self) -> Arc<Hub> {
        let config = config::KafkaSource { ordering: config::Ordering::Partition, ..self.config() };
        Arc::new(Hub::inspect(&config, clock::instant() + PATIENCE).expect("the topic is there"))
    }

    fn open(&self, starts: &[Start], until_end: bool) -> Result<KafkaSource, Failure> {
        KafkaSource::open(&self.config(), starts, until_end, clock::instant() + PATIENCE)
    }
}

fn start(partition: u32) -> Start {
    Start { partition: Partition(partition), ..Start::default() }
}

fn next(source: &mut KafkaSource) -> Arrival {
    source.next(PATIENCE).expect("the source is well").expect("something arrives")
}

/// All records until every partition has ended.
fn until_ends(source: &mut KafkaSource) -> BTreeMap<u32, Records> {
    let mut records: BTreeMap<u32, Records> = BTreeMap::new();
    let mut open = source.partitions().len();
    while open > 0 {
        match next(source) {
            Arrival::End { .. } => open -= 1,
            Arrival::Empty { .. } => panic!("nobody asked"),
            Arrival::Records { partition, records: some } => {
                let all = records.entry(partition.0).or_default();
                (0..some.len()).for_each(|row| all.push(some.get(row)));
            }
        }
    }
    records
}

#[test]
fn records_keep_order_timestamps_keys_payloads_and_headers() {
    let brokers = Brokers::with(1);
    let to = || BaseRecord::<'_, [u8], [u8]>::to("visits").partition(0);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "a", value: Some("1") })
        .insert(Header { key: "a", value: Some("2") })
        .insert(Header { key: "b", value: None::<&str> });
    brokers.produce(to().payload(b"x").key(b"k").timestamp(1_727_873_508_000).headers(headers));
    brokers.produce(to().payload(b"").key(b"").timestamp(7));
    brokers.produce(to().timestamp(6));
    let records = &until_ends(&mut brokers.open(&[start(0)], true).expect("it opens"))[&0];
    assert_eq!(records.offsets, [0, 1, 2]);
    assert_eq!(records.append_times, [1_727_873_508_000, 7, 6]);
    assert_eq!((records.get(0).key, records.get(0).payload), (Some(&b"k"[..]), Some(&b"x"[..])));
    assert_eq!((records.get(1).key, records.get(1).payload), (Some(&b""[..]), Some(&b""[..])));
    assert_eq!((records.get(2).key, records.get(2).payload), (None, None));
    let headers: Vec<_> = records.headers.of(0).collect();
    assert_eq!(headers, [(&b"a"[..], &b"1"[..]), (b"a", b"2"), (b"b", b"")]);
    assert_eq!(records.headers.of(1).count(), 0);
}

#[test]
fn a_record_without_a_timestamp_is_recognised_at_the_next_start() {
    let brokers = Brokers::with(1);
    brokers.produce(BaseRecord::to("visits").partition(0).payload(&b"x"[..]).timestamp(-1));
    brokers.produce(BaseRecord::to("visits").partition(0).payload(&b"y"[..]).timestamp(i64::MAX));
    let records = &until_ends(&mut brokers.open(&[start(0)], true).expect("it opens"))[&0];
    assert_eq!(records.append_times, [crate::record::NO_TIME, i64::MAX]);
    for (offset, timestamp, payload) in [(0, None, b"x"), (1, Some(i64::MAX), b"y")] {
        let last = LastRecord {
            offset: Offset(offset),
            timestamp,
            fingerprint: fingerprint(None, Some(payload)),
            digest: None,
        };
        let start = Start { next: Some(Offset(offset + 1)), last: Some(last), ..start(0) };
        brokers.open(&[start], false).expect("it is the record that was folded");
    }
}

#[test]
fn reading_ends_where_the_partitions_ended_at_the_start() {
    let brokers = Brokers::with(3);
    brokers.produce_many(0, 10_000);
    brokers.produce_many(1, 10);
    let mut source = brokers.open(&[start(0), start(1), start(2)], true).expect("it opens");
    brokers.produce_many(1, 10);
    brokers.produce_many(2, 10);
    let records = until_ends(&mut source);
    assert_eq!(records[&0].offsets, (0..10_000).collect::<Vec<u64>>());
    assert_eq!(records[&1].len(), 10);
    assert!(!records.contains_key(&2));
    assert_eq!(source.first_offsets(), [0, 1, 2].map(|p| (Partition(p), Offset(0))));
}

#[test]
fn a_partition_is_empty_only_when_asked_and_all_before_was_delivered() {
    let brokers = Brokers::with(2);
    brokers.produce_many(0, 5);
    let mut source = brokers.open(&[start(0), start(1)], false).expect("it opens");
    let before_ms = rdkafka::util::current_time_millis();
    source.ask(&[Partition(0), Partition(1)], before_ms);
    let (mut delivered, mut empty) = (0, Vec::new());
    while empty.len() < 2 {
        match next(&mut source) {
            Arrival::Records { records, .. } => delivered += records.len(),
            Arrival::Empty { partitions, asked_ms } => {
                assert!(asked_ms > before_ms);
                assert!(partitions == [Partition(1)] || delivered == 5, "an answer overtook a record");
                empty.extend(partitions);
            }
            Arrival::End { .. } => panic!("there is no end"),
        }
    }
    assert_eq!(
        source.next(Duration::from_millis(100)).expect("the source is well").map(drop),
        None,
        "a question is answered once"
    );
    source.ask(&[], 0);
    source.commit(&[(Partition(0), Offset(5))]);
}

/// Records until one at this offset or after it came.
fn up_to(source: &mut KafkaSource, least: u64) -> Vec<u64> {
    let mut offsets: Vec<u64> = Vec::new();
    while offsets.last().is_none_or(|last| *last < least) {
        if let Arrival::Records { records, .. } = next(source) {
            offsets.extend(records.offsets);
        }
    }
    offsets
}

#[test]
fn a_partition_held_at_its_end_goes_on_with_the_very_next_record() {
    let brokers = Brokers::with(2);
    brokers.produce_many(0, 3);
    let mut source = brokers.open(&[start(0), start(1)], false).expect("it opens");
    assert_eq!(up_to(&mut source, 2), [0, 1, 2]);
    for round in 1..4 {
        source.ask(&[Partition(0)], rdkafka::util::current_time_millis());
        assert!(matches!(next(&mut source), Arrival::Empty { partitions, .. } if partitions.contains(&Partition(0))));
        backoff::pause(Duration::from_millis(50)); // the event of the partition's end is taken too
        source.hold(&[Partition(0)]);
        backoff::pause(Duration::from_millis(50));
        brokers.produce_many(0, 3);
        source.hold(&[]);
        let first = round * 3;
        assert_eq!(up_to(&mut source, first + 2), [first, first + 1, first + 2]);
    }
}

#[test]
fn reading_goes_on_after_the_last_folded_record() {
    let brokers = Brokers::with(1);
    brokers.produce_many(0, 10);
    let last = LastRecord {
        offset: Offset(4),
        timestamp: Some(1004),
        fingerprint: fingerprint(None, Some(b"4")),
        digest: None,
    };
    let start = Start { partition: Partition(0), next: Some(Offset(5)), last: Some(last) };
    let records = &until_ends(&mut brokers.open(&[start], true).expect("it is the same log"))[&0];
    assert_eq!(records.offsets, [5, 6, 7, 8, 9]);
}

#[test]
fn another_log_is_refused() {
    let brokers = Brokers::with(1);
    brokers.produce_many(0, 10);
    let last = LastRecord {
        offset: Offset(4),
        timestamp: Some(1004),
        fingerprint: fingerprint(None, Some(b"4")),
        digest: None,
    };
    for (start, words) in [
        (
            Start {
                partition: Partition(0),
                next: Some(Offset(5)),
                last: Some(LastRecord { fingerprint: 1, ..last.clone() }),
            },
            "offset 4",
        ),
        (
            Start {
                partition: Partition(0),
                next: Some(Offset(5)),
                last: Some(LastRecord { timestamp: Some(1), ..last.clone() }),
            },
            "offset 4",
        ),
        (Start { partition: Partition(0), next: Some(Offset(11)), last: None }, "ends at 10"),
        (Start { partition: Partition(1), next: Some(Offset(1)), last: None }, "no partition 1"),
    ] {
        match brokers.open(&[start], false).map(drop) {
            Err(Failure { exit: Exit::State, message, .. }) => {
                assert!(message.contains(words) && message.contains("state.url"), "{message}")
            }
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[test]
fn a_payload_of_ten_megabytes_passes() {
    let brokers = Brokers::with(1);
    let payload = vec![b'x'; 10 << 20];
    brokers.produce(BaseRecord::to("visits").partition(0).payload(&payload[..]));
    let records = &until_ends(&mut brokers.open(&[start(0)], true).expect("it opens"))[&0];
    assert_eq!(records.payloads.get(0), payload);
}

#[test]
fn a_topic_is_found_with_its_partitions_and_a_missing_one_is_named() {
    let brokers = Brokers::with(2);
    brokers.produce_many(1, 3);
    let deadline = clock::instant() + PATIENCE;
    let topic = inspect(&brokers.config(), deadline).expect("it is there");
    assert_eq!(
        (topic.partitions, topic.low, topic.high),
        (vec![Partition(0), Partition(1)], vec![Offset(0), Offset(0)], vec![Offset(0), Offset(3)])
    );
}

#[test]
fn unreachable_brokers_are_named_after_the_deadline() {
    let brokers = Brokers::with(1);
    let config = config::KafkaSource { brokers: "127.0.0.1:1".into(), ..brokers.config() };
    match inspect(&config, clock::instant() + Duration::from_millis(300)) {
        Err(Failure { exit: Exit::Outside, message, .. }) => {
            assert!(message.contains("127.0.0.1:1") && message.contains("visits"), "{message}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_outage_of_the_brokers_passes() {
    let brokers = Brokers::with(1);
    brokers.produce_many(0, 3);
    let mut source = brokers.open(&[start(0)], false).expect("it opens");
    assert!(matches!(next(&mut source), Arrival::Records { .. }));
    brokers.cluster.broker_down(1).expect("the broker goes");
    source.ask(&[Partition(0)], 0);
    while let Some(arrival) = source.next(Duration::from_millis(1_500)).expect("an outage is no failure") {
        assert!(!matches!(arrival, Arrival::Empty { .. }), "silence is not emptiness");
    }
    brokers.cluster.broker_up(1).expect("the broker comes");
    brokers.produce_many(0, 1);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match next(&mut source) {
            Arrival::Records { records, .. } => seen.extend(records.offsets),
            Arrival::Empty { .. } => seen.push(u64::MAX),
            Arrival::End { .. } => panic!("there is no end"),
        }
    }
    assert!(seen.contains(&3) && seen.contains(&u64::MAX), "{seen:?}");
}

#[test]
fn properties_that_the_guarantee_rests_on_are_refused_by_name() {
    let refused = |key: &str, value: &str| {
        let properties = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        match check_properties(&properties) {
            Err(Failure { exit: Exit::Config, message, .. }) => {
                assert!(message.contains(&format!("source.kafka.properties.{key}")), "{message}")
            }
            other => panic!("{key}: {other:?}"),
        }
    };
    for (key, _) in RESERVED {
        refused(key, "x");
    }
    refused("enable.auto.commit", "true");
    refused("enable.auto.offset.store", "true");
    refused("no.such.property", "1");
    refused("fetch.wait.max.ms", "soon");
    let good = [("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-512"), ("fetch.wait.max.ms", "10")];
    check_properties(&good.map(|(k, v)| (k.to_owned(), v.to_owned())).into()).expect("these are the operator's");
}

#[test]
fn dropping_a_source_that_nobody_reads_takes_less_than_a_second() {
    let brokers = Brokers::with(1);
    brokers.produce_many(0, 100_000);
    let mut source = brokers.open(&[start(0)], false).expect("it opens");
    next(&mut source);
    let before = clock::instant();
    drop(source);
    assert!(clock::since(before) < Duration::from_secs(1), "{:?}", clock::since(before));
}

fn lane(hub: &Arc<Hub>, partition: u32, next: u64) -> KafkaSource {
    let start = Start { next: Some(Offset(next)), ..start(partition) };
    hub.open(&[start], false, clock::instant() + PATIENCE).expect("the lane opens")
}

#[test]
fn a_lane_that_does_not_read_stops_no_other() {
    let brokers = Brokers::with(2);
    (0..2).for_each(|_| brokers.produce_many(0, 75_000)); // more than its mailbox and its queue hold
    brokers.produce_many(1, 10_000);
    let hub = brokers.hub();
    let (mut slow, mut other) = (lane(&hub, 0, 0), lane(&hub, 1, 0));
    assert!(up_to(&mut other, 9_999).into_iter().eq(0..10_000));
    brokers.produce_many(1, 1_000);
    assert!(up_to(&mut other, 10_999).into_iter().eq(10_000..11_000));
    other.ask(&[Partition(1)], 0);
    assert!(matches!(next(&mut other), Arrival::Empty { partitions, .. } if partitions == [Partition(1)]));
    assert!(up_to(&mut slow, 149_999).into_iter().eq(0..150_000), "it goes on where it was");
}

#[test]
fn a_lane_that_opens_again_gets_nothing_of_its_former_life_and_disturbs_no_other() {
    let brokers = Brokers::with(2);
    brokers.produce_many(0, 20_000);
    let hub = brokers.hub();
    let mut other = lane(&hub, 1, 0);
    for (round, next) in [(0, 0), (1, 15_000), (2, 3), (3, 19_998), (4, 7_000)] {
        let mut again = lane(&hub, 0, next);
        let first = up_to(&mut again, next);
        assert!(first.iter().copied().eq(next..next + first.len() as u64), "from {next}: {:?}", first.first());
        again.hold(&[Partition(0)]); // a pause does not outlive the lane
        drop(again);
        brokers.produce_many(1, 1_000);
        assert!(up_to(&mut other, round * 1_000 + 999).into_iter().eq(round * 1_000..(round + 1) * 1_000));
    }
    drop((other, hub));
}

#[test]
fn another_log_fails_its_lane_before_it_delivers_anything_and_no_other() {
    let brokers = Brokers::with(2);
    brokers.produce_many(0, 10);
    brokers.produce_many(1, 10);
    let hub = brokers.hub();
    let mut other = lane(&hub, 1, 0);
    let last = LastRecord { offset: Offset(4), timestamp: Some(1004), fingerprint: 1, digest: None };
    let start = Start { partition: Partition(0), next: Some(Offset(5)), last: Some(last) };
    let mut wrong = hub.open(&[start], false, clock::instant() + PATIENCE).expect("it is read first");
    wrong.ask(&[Partition(0)], 0);
    for _ in 0..2 {
        match wrong.next(PATIENCE) {
            Err(Failure { exit: Exit::State, message, .. }) => assert!(message.contains("offset 4"), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(up_to(&mut other, 9), (0..10).collect::<Vec<u64>>());
}

#[test]
fn a_partition_is_read_by_one_lane_at_a_time() {
    let brokers = Brokers::with(1);
    brokers.produce_many(0, 10);
    let hub = brokers.hub();
    let mut first = lane(&hub, 0, 0);
    let second = hub.open(&[start(0)], false, clock::instant() + PATIENCE);
    assert!(matches!(second.map(drop), Err(Failure { exit: Exit::Unexpected, .. })));
    assert_eq!(up_to(&mut first, 9).len(), 10, "the first one reads on");
}

#[test]
fn lanes_open_where_the_log_has_grown_since_it_was_looked_at() {
    let brokers = Brokers::with(1);
    let hub = brokers.hub();
    brokers.produce_many(0, 10);
    let mut late = lane(&hub, 0, 9);
    assert_eq!(up_to(&mut late, 9), [9]);
}
