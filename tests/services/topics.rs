//! Topics of the test's broker: made, filled and read back, independently of the host's source.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::support::generate::TestRecord;
use crate::support::random::Random;

const PATIENCE: Duration = Duration::from_secs(60);

/// Creates a topic, and waits until the broker leads all its partitions.
pub(crate) fn create_topic(brokers: &str, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    topic.config.extend_from_slice(configs);
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let created =
        futures::executor::block_on(admin(brokers).create_topics([&topic], &options)).expect("the broker answers");
    created[0].as_ref().expect("the topic can be made");
    let consumer = consumer(brokers);
    crate::support::host::wait_until("the topic has leaders", || {
        let metadata = consumer.fetch_metadata(Some(name), PATIENCE).expect("the broker answers");
        let partitions_now = metadata.topics()[0].partitions();
        partitions_now.len() == usize::try_from(partitions).expect("small")
            && partitions_now.iter().all(|p| p.leader() >= 0)
    });
}

/// Lets a topic have this many partitions.
pub(crate) fn add_partitions(brokers: &str, topic: &str, partitions: usize) {
    let grown = NewPartitions::new(topic, partitions);
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let done =
        futures::executor::block_on(admin(brokers).create_partitions([&grown], &options)).expect("the broker answers");
    done[0].as_ref().expect("the topic can grow");
}

/// Deletes the records of a partition before `offset`.
pub(crate) fn trim(brokers: &str, topic: &str, partition: i32, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("a valid offset");
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    futures::executor::block_on(admin(brokers).delete_records(&list, &options)).expect("the broker deletes records");
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a valid configuration")
}

/// A producer; with an id, one that is ready for transactions.
pub(crate) fn producer(brokers: &str, transactional_id: Option<&str>) -> BaseProducer {
    let producer = unready_producer(brokers, transactional_id);
    if transactional_id.is_some() {
        producer.init_transactions(PATIENCE).expect("the broker answers");
    }
    producer
}

/// The same; transactions still have to be initialised.
pub(crate) fn unready_producer(brokers: &str, transactional_id: Option<&str>) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("enable.idempotence", "true").set("message.max.bytes", "12000000");
    config.set("queue.buffering.max.messages", "1000000").set("linger.ms", "5").set("partitioner", "consistent");
    if let Some(id) = transactional_id {
        config.set("transactional.id", id).set("transaction.timeout.ms", "600000");
    }
    config.create().expect("a valid configuration")
}

/// Hands one record over; its offset is the broker's to give.
pub(crate) fn send(producer: &BaseProducer, topic: &str, record: &TestRecord) {
    try_send(producer, topic, record).expect("the producer takes records");
}

/// The same; the error is one after which this producer is of no more use, or its transaction.
pub(crate) fn try_send(producer: &BaseProducer, topic: &str, record: &TestRecord) -> Result<(), KafkaError> {
    let partition = i32::try_from(record.partition).expect("few partitions");
    let mut message = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).timestamp(record.timestamp);
    message.key = record.key.as_deref();
    message.payload = record.value.as_deref();
    loop {
        match producer.send(message) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => message = again,
            Err((error, _)) => return Err(error),
        }
        producer.poll(Duration::from_millis(10));
    }
}

/// Produces records with their partitions, keys and timestamps; back when all are acknowledged.
pub(crate) fn produce(brokers: &str, topic: &str, records: &[TestRecord]) {
    let producer = producer(brokers, None);
    for record in records {
        send(&producer, topic, record);
    }
    producer.flush(PATIENCE).expect("the broker acknowledges");
}

/// The same one by one, each acknowledged before the next, as a person at a console does: without it a record of another partition may become
/// visible before one that is stamped earlier, and is rightly folded before it.
pub(crate) fn produce_in_turn(brokers: &str, topic: &str, records: &[TestRecord]) {
    let producer = producer(brokers, None);
    for record in records {
        send(&producer, topic, record);
        producer.flush(PATIENCE).expect("the broker acknowledges");
    }
}

/// All at once, in transactions, some of which are aborted after records of their own: the log gets gaps in its offsets.
pub(crate) fn produce_in_transactions(brokers: &str, topic: &str, records: &[TestRecord], seed: u64) {
    let producer = producer(brokers, Some(&format!("{topic}-{seed}")));
    let mut random = Random::new(seed);
    let mut rest = records;
    while !rest.is_empty() {
        let most = usize::try_from(random.between(1, 12_000)).expect("positive");
        let (now, later) = rest.split_at(most.min(rest.len()));
        if random.chance(20) {
            transaction(&producer, topic, &now[..now.len().min(30)]);
            producer.abort_transaction(PATIENCE).expect("the broker aborts");
        }
        transaction(&producer, topic, now);
        producer.commit_transaction(PATIENCE).expect("the broker commits");
        rest = later;
    }
}

fn transaction(producer: &BaseProducer, topic: &str, records: &[TestRecord]) {
    producer.begin_transaction().expect("no transaction is open");
    for record in records {
        send(producer, topic, record);
    }
    producer.flush(PATIENCE).expect("the broker acknowledges");
}

fn consumer(brokers: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "reads-back").set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true").set("isolation.level", "read_committed");
    config.set("fetch.queue.backoff.ms", "5").set("fetch.message.max.bytes", "12000000");
    config.create().expect("a valid configuration")
}

/// Everything that is committed in a topic, by partition and offset.
pub(crate) fn read_back(brokers: &str, topic: &str) -> Vec<TestRecord> {
    let consumer = consumer(brokers);
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("the broker answers");
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("a valid offset");
    }
    consumer.assign(&list).expect("a valid assignment");
    let mut records = Vec::new();
    let mut unfinished = list.count();
    while unfinished > 0 {
        match consumer.poll(PATIENCE).expect("records or the end within the time") {
            Ok(message) => records.push(TestRecord {
                partition: message.partition().unsigned_abs(),
                offset: message.offset().unsigned_abs(),
                timestamp: message.timestamp().to_millis().expect("records of this broker have timestamps"),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
            }),
            Err(KafkaError::PartitionEOF(_)) => unfinished -= 1,
            Err(error) => panic!("cannot read back: {error}"),
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}
