//! Kafka as a source: one librdkafka consumer with explicit positions (no group membership, no stored offsets), read by batch on a
//! thread of its own, and a second client that only asks where partitions end.
//!
//! Owns the translation of librdkafka's messages into columns, of its end-of-partition events into positions, and of its errors into
//! those of a source. It refuses to guess: silence is not emptiness, and a log that does not hold the next offset is an error.
//! Configuration and start-up questions are `broker.rs`'s, emptiness is `emptiness.rs`'s,
//! recreated topics are `identity.rs`'s.
//!
//! Memory: at most [`PARCELS`] parcels of [`reader::CHUNK_RECORDS`] records or `CHUNK_BYTES` each wait in the channel; behind it librdkafka
//! holds what its `queued.max.messages.kbytes` (32 MiB) allows, and one answer more. A full channel stops the reading thread, a full queue the fetching.

mod broker;
mod emptiness;
mod identity;
pub mod member;
mod native;
pub mod produce;
mod reader;
pub mod rights;
pub mod secrets;
pub mod survey;
mod voice;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;

use crate::backoff::Backoff;
use crate::clock;
use crate::config;
use crate::failure::Failure;
use crate::observe::ends::Ends;
use crate::position::{Offset, Partition, TopicId};
use crate::source::kafka::broker::{ANSWER_TIMEOUT, Voice, first_offsets, locked, look, verify_last};
use crate::source::kafka::emptiness::{Asker, Desk, Ledger};
use crate::source::kafka::identity::{Identity, Watch, identity};
use crate::source::kafka::native::{Batch, Connection};
use crate::source::kafka::reader::{Reader, Track, Wanted};
use crate::source::kafka::secrets::Secrets;
use crate::source::{Arrival, Source, Start};

pub use crate::source::kafka::broker::{DEFAULTS, RESERVED, Timestamps, Topic, check_files, check_properties, inspect};

/// Parcels of arrivals that wait for the lane.
const PARCELS: usize = 8;

/// A topic that is being read.
pub struct KafkaSource {
    topic: String,
    asking: Arc<BaseConsumer<Voice>>,
    watch: Arc<Mutex<Watch>>,
    partitions: Vec<Partition>,
    first_offsets: Vec<(Partition, Offset)>,
    parcels: Option<Receiver<Result<Vec<Arrival>, Failure>>>,
    /// What is left of the parcel that came last.
    arrivals: VecDeque<Arrival>,
    desk: Arc<Desk>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    connection: Arc<Connection>,
    wanted: Arc<Wanted>,
    ends: Arc<Ends>,
}

impl KafkaSource {
    /// Starts reading the partitions of `starts`, up to the ends as of now if `until_end`. Brokers are waited for until
    /// `startup_deadline`; a log that does not fit the starts is refused.
    pub fn open(
        config: &config::KafkaSource,
        starts: &[Start],
        until_end: bool,
        startup_deadline: Instant,
    ) -> Result<KafkaSource, Failure> {
        let (asking, topic) = look(config, startup_deadline)?;
        let watch = Arc::new(Mutex::new(Watch::new(config, &topic.partitions, topic.id.clone())));
        let asking = Arc::new(asking);
        let offsets = first_offsets(config, starts, &topic)?;
        verify_last(config, starts, &topic, startup_deadline)?;
        let mut first_offsets: Vec<(Partition, Offset)> = starts.iter().map(|s| s.partition).zip(offsets).collect();
        first_offsets.sort_unstable();
        let end_of = |partition: &Partition| topic.partitions.binary_search(partition).ok().map(|i| topic.high[i]);
        let tracks =
            first_offsets.iter().map(|(p, first)| Track::new(*p, *first, end_of(p).filter(|_| until_end))).collect();
        let ends = first_offsets.iter().map(|(p, first)| (end_of(p).unwrap_or(*first), *first));
        let ends = Arc::new(Ends::new(ends));
        let partitions: Vec<Partition> = first_offsets.iter().map(|(p, _)| *p).collect();

        let connection = Arc::new(Connection::open(config, &first_offsets)?);
        let (out, parcels) = sync_channel(PARCELS);
        let desk = Arc::new(Desk::new(Ledger::new(first_offsets.clone())));
        let stopped = Arc::new(AtomicBool::new(false));
        let properties = secrets::fresh(&config.properties, &config.secret_files);
        let secrets = |telling| Secrets::new("source.kafka.properties", &properties, &config.secret_files, telling);
        let asker = Asker {
            client: Arc::clone(&asking),
            secrets: secrets(false),
            topic: config.topic.clone(),
            watch: Arc::clone(&watch),
            partitions: partitions.clone(),
            ends: Arc::clone(&ends),
            surveyed: clock::instant(),
            missed: false,
            is_one_away: false,
            outage: Backoff::publishing(format!("topic {}", config.topic), Arc::clone(ends.outage())),
            desk: Arc::clone(&desk),
            out: out.clone(),
            stopped: Arc::clone(&stopped),
        };
        let wanted = Arc::new(Wanted::default());
        let reader = Reader {
            batch: Batch::new(),
            topic: config.topic.clone(),
            slots: slots(&first_offsets),
            tracks,
            desk: Arc::clone(&desk),
            out,
            stopped: Arc::clone(&stopped),
            connection: Arc::clone(&connection),
            wanted: Arc::clone(&wanted),
            ends: Arc::clone(&ends),
            secrets: secrets(true),
        };
        let threads = vec![spawn("kafka-ask", move || asker.run())?, spawn("kafka-read", move || reader.run())?];
        let topic = config.topic.clone();
        Ok(KafkaSource {
            topic,
            asking,
            watch,
            partitions,
            first_offsets,
            parcels: Some(parcels),
            arrivals: VecDeque::new(),
            desk,
            stopped,
            threads,
            connection,
            wanted,
            ends,
        })
    }

    /// The topic's id as reading started; none if the brokers have no ids.
    pub fn topic_id(&self) -> Option<TopicId> {
        locked(&self.watch).id().cloned()
    }

    /// The offset at which reading each partition started.
    pub fn first_offsets(&self) -> Vec<(Partition, Offset)> {
        self.first_offsets.clone()
    }

    /// The next arrivals; none after `timeout`.
    fn next_parcel(&self, timeout: Duration) -> Result<Vec<Arrival>, Failure> {
        let parcels = self.parcels.as_ref().expect("the channel lives until the source is dropped");
        match parcels.recv_timeout(timeout) {
            Ok(parcel) => parcel,
            Err(RecvTimeoutError::Timeout) if !self.threads.iter().any(JoinHandle::is_finished) => Ok(Vec::new()),
            // A thread that ended may have left its reason a moment ago.
            Err(_) => parcels.try_recv().unwrap_or_else(|_| {
                Err(Failure::unexpected(format!(
                    "reading topic {} has ended without a reason: this is a bug",
                    self.topic
                )))
            }),
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|e| Failure::unexpected(format!("no thread for the source: {e}")))
}

/// Where in the tracks each partition is.
fn slots(first_offsets: &[(Partition, Offset)]) -> Vec<Option<usize>> {
    let size = first_offsets.last().map_or(0, |(p, _)| p.0 as usize + 1);
    let mut slots = vec![None; size];
    for (slot, (partition, _)) in first_offsets.iter().enumerate() {
        slots[partition.0 as usize] = Some(slot);
    }
    slots
}

impl Source for KafkaSource {
    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Arrival>, Failure> {
        if self.arrivals.is_empty() {
            self.arrivals.extend(self.next_parcel(timeout)?);
        }
        Ok(self.arrivals.pop_front())
    }

    fn ask(&mut self, partitions: &[Partition], after_ms: i64) {
        self.desk.wish(partitions, after_ms);
    }

    fn hold(&mut self, partitions: &[Partition]) {
        if self.wanted.hold(partitions) {
            self.connection.wake();
        }
    }

    fn commit(&mut self, next: &[(Partition, Offset)]) {
        if let Err(error) = self.connection.commit(&self.topic, next) {
            tracing::debug!(event = "offsets-not-committed", topic = self.topic, %error, "cannot commit offsets for lag monitoring");
        }
    }

    fn ends(&self) -> Option<Arc<Ends>> {
        Some(Arc::clone(&self.ends))
    }

    fn log_id(&mut self) -> Result<Option<TopicId>, Failure> {
        if locked(&self.watch).id().is_none() {
            return Ok(None); // the thread that asks looks on, in case it is told later
        }
        match identity(&self.asking, &self.topic, ANSWER_TIMEOUT) {
            Identity::Known(id) => {
                locked(&self.watch).compare(&Identity::Known(id.clone()))?;
                Ok(Some(id))
            }
            Identity::Missing | Identity::Without | Identity::Unsaid => Ok(None),
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        self.parcels = None;
        self.desk.wake();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::debug!(event = "source-thread-panicked", topic = self.topic, "source thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
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

    /// Records until the offset `last` came.
    fn up_to(source: &mut KafkaSource, last: u64) -> Vec<u64> {
        let mut offsets = Vec::new();
        while offsets.last() != Some(&last) {
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
            assert!(
                matches!(next(&mut source), Arrival::Empty { partitions, .. } if partitions.contains(&Partition(0)))
            );
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
        let good =
            [("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-512"), ("fetch.wait.max.ms", "10")];
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
}
