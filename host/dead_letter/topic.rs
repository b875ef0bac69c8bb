//! Dead letters as records of a Kafka topic: key, payload and headers as they were, and headers that say what happened, under the names
//! that Kafka Connect uses where one fits. At least once. Their timestamp is the time of writing, because a topic's retention counts from
//! it; the original one is a header.
//!
//! librdkafka retries for ever (`message.timeout.ms` = 0), so a failed delivery is one for good: it halts the lane, nothing is swallowed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::backoff::Backoff;
use crate::backoff::Outage;
use crate::dead_letter::{DeadLetter, DeadLetterWriter};
use crate::failure::{Check, Exit, Failure};
use crate::record::NO_TIME;

/// One question to the brokers.
const ASK: Duration = Duration::from_secs(5);
/// How long a wait for acknowledgements or for room in the queue goes on before it looks around.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// What no `properties` may set: what "acknowledged" and "not lost" rest on.
const OWN: [(&str, &str); 3] = [("acks", "all"), ("enable.idempotence", "true"), ("message.timeout.ms", "0")];
/// Other names of the same.
const OWN_ALIASES: [&str; 2] = ["request.required.acks", "delivery.timeout.ms"];

/// Names of the headers that say what happened; they follow the record's own.
pub(super) mod header {
    pub(crate) const TOPIC: &str = "__connect.errors.topic";
    pub(crate) const PARTITION: &str = "__connect.errors.partition";
    pub(crate) const OFFSET: &str = "__connect.errors.offset";
    pub(crate) const STAGE: &str = "__connect.errors.stage";
    pub(crate) const REASON: &str = "__connect.errors.exception.message";
    pub(crate) const PLUGIN: &str = "keyfold.plugin.digest";
    pub(crate) const EVENT: &str = "keyfold.event";
    pub(crate) const TIMESTAMP: &str = "keyfold.timestamp";
}

/// Produces dead letters to a topic.
pub(super) struct DeadLetterTopic {
    producer: BaseProducer<Deliveries>,
    topic: String,
    source_topic: Option<String>,
    backoff: Backoff,
}

impl DeadLetterTopic {
    /// Connects; the topic must be there.
    pub(super) fn open(
        brokers: &str,
        topic: &str,
        properties: &BTreeMap<String, String>,
        source_topic: Option<&str>,
        deadline: Option<Instant>,
    ) -> Result<DeadLetterTopic, Failure> {
        let producer = producer(brokers, properties)?;
        let mut backoff = Backoff::new(format!("topic {topic}"));
        loop {
            match partitions(&producer, topic) {
                Ok(Some(_)) => break,
                Ok(None) => return Err(missing(brokers, topic)),
                Err(outage) if producer.context().refused.load(Ordering::Relaxed) => {
                    return Err(refused(brokers, &outage));
                }
                Err(outage) if backoff.pause_until(deadline, &outage) => {}
                Err(outage) => return Err(unreachable(brokers, &outage)),
            }
        }
        backoff.over();
        let source_topic = source_topic.map(str::to_owned);
        Ok(DeadLetterTopic { producer, topic: topic.to_owned(), source_topic, backoff })
    }

    fn produce(&mut self, letter: &DeadLetter) -> Result<(), Failure> {
        let record = letter.record.get(0);
        let topic = self.topic.clone();
        let mut message = BaseRecord::with_opaque_to(&topic, Box::new((record.partition, record.offset)))
            .headers(headers(letter, self.source_topic.as_deref()));
        message.key = record.key;
        message.payload = record.payload;
        while let Err((error, unsent)) = self.producer.send(message) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(undelivered(&topic, record.partition, record.offset, &error));
            }
            self.wait(LOOK_AROUND)?;
            message = unsent;
        }
        Ok(())
    }

    /// Serves acknowledgements, waiting at most `timeout` for one.
    fn wait(&mut self, timeout: Duration) -> Result<(), Failure> {
        self.producer.poll(timeout);
        let context = self.producer.context();
        if let Some((partition, offset, error)) = context.failed.lock().expect("nothing panics under it").take() {
            return Err(undelivered(&self.topic, partition, offset, &error));
        }
        if let Some(trouble) = context.trouble.lock().expect("nothing panics under it").take() {
            self.backoff.warn(&trouble);
        }
        Ok(())
    }
}

/// The line of `keyfold check`.
pub(super) fn check(brokers: &str, topic: &str, properties: &BTreeMap<String, String>) -> Check {
    let subject = format!("topic {topic}");
    let found = producer(brokers, properties)
        .and_then(|producer| partitions(&producer, topic).map_err(|outage| unreachable(brokers, &outage)));
    match found {
        Ok(Some(partitions)) => Check::fine(subject, format!("dead letters go there, {partitions} partition(s)")),
        Ok(None) => Check::refused(subject, missing(brokers, topic)),
        Err(failure) => Check::refused(subject, failure),
    }
}

impl DeadLetterWriter for DeadLetterTopic {
    fn write(&mut self, letters: &[DeadLetter]) -> Result<(), Failure> {
        letters.iter().try_for_each(|letter| self.produce(letter))
    }

    fn flush(&mut self) -> Result<(), Failure> {
        while self.producer.in_flight_count() > 0 {
            self.wait(LOOK_AROUND)?;
        }
        // A failure may have come with the last acknowledgement.
        self.wait(Duration::ZERO)?;
        self.backoff.over();
        Ok(())
    }

    fn length(&mut self) -> Result<Option<u64>, Failure> {
        Ok(None)
    }

    fn truncate(&mut self, _length: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn outage(&self) -> Arc<Outage> {
        self.backoff.outage()
    }
}

/// What the producer reports.
#[derive(Debug, Default)]
struct Deliveries {
    /// The first record that could not be delivered: partition and offset in the source, and why.
    failed: Mutex<Option<(u32, u64, KafkaError)>>,
    /// What is wrong with the brokers, last.
    trouble: Mutex<Option<String>>,
    /// A broker refused the credentials.
    refused: AtomicBool,
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Authentication) {
            self.refused.store(true, Ordering::Relaxed);
        }
        *self.trouble.lock().expect("nothing panics under it") = Some(format!("{error}: {reason}"));
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<(u32, u64)>;

    fn delivery(&self, result: &DeliveryResult<'_>, origin: Box<(u32, u64)>) {
        if let Err((error, _)) = result {
            let mut failed = self.failed.lock().expect("nothing panics under it");
            failed.get_or_insert((origin.0, origin.1, error.clone()));
        }
    }
}

fn producer(brokers: &str, properties: &BTreeMap<String, String>) -> Result<BaseProducer<Deliveries>, Failure> {
    let own = |name: &String| OWN.iter().any(|(own, _)| own == name) || OWN_ALIASES.contains(&name.as_str());
    if let Some(name) = properties.keys().find(|name| own(name)) {
        let message = format!(
            "dead_letters.properties: {name} decides whether dead letters are lost, so keyfold sets it; take it out"
        );
        return Err(Failure::new(Exit::Config, message));
    }
    let mut config = ClientConfig::new();
    // Not the producer but the topic is to say what is too large.
    config.set("message.max.bytes", "1000000000");
    for (name, value) in properties {
        config.set(name, value);
    }
    for (name, value) in OWN {
        config.set(name, value);
    }
    config.set("bootstrap.servers", brokers);
    config
        .create_with_context(Deliveries::default())
        .map_err(|e| Failure::new(Exit::Config, format!("dead_letters.properties: {e}")))
}

/// How many partitions the topic has; none if there is no such topic. It asks for all topics, because a producer that asks for one by name
/// makes the broker create it.
fn partitions(producer: &BaseProducer<Deliveries>, topic: &str) -> Result<Option<usize>, String> {
    let answer = producer.client().fetch_metadata(None, ASK);
    producer.poll(Duration::ZERO);
    let metadata = answer.map_err(|e| {
        let trouble = producer.context().trouble.lock().expect("nothing panics under it").take();
        trouble.unwrap_or_else(|| e.to_string())
    })?;
    let found = metadata.topics().iter().find(|t| t.name() == topic && !t.partitions().is_empty());
    Ok(found.map(|t| t.partitions().len()))
}

fn headers(letter: &DeadLetter, source_topic: Option<&str>) -> OwnedHeaders {
    let record = letter.record.get(0);
    let mut headers = OwnedHeaders::new();
    if let Some((columns, i)) = record.headers {
        for (name, value) in columns.of(i) {
            headers = headers.insert(Header { key: &String::from_utf8_lossy(name), value: Some(value) });
        }
    }
    let mut put = |key: &str, value: &str| {
        let so_far = std::mem::replace(&mut headers, OwnedHeaders::new_with_capacity(0));
        headers = so_far.insert(Header { key, value: Some(value) });
    };
    if let Some(topic) = source_topic {
        put(header::TOPIC, topic);
    }
    put(header::PARTITION, &record.partition.to_string());
    put(header::OFFSET, &record.offset.to_string());
    put(header::STAGE, letter.stage.name());
    put(header::REASON, &letter.reason);
    put(header::PLUGIN, &letter.plugin);
    if let Some(event) = letter.event {
        put(header::EVENT, &event.to_string());
    }
    if record.append_time != NO_TIME {
        put(header::TIMESTAMP, &record.append_time.to_string());
    }
    headers
}

fn undelivered(topic: &str, partition: u32, offset: u64, error: &KafkaError) -> Failure {
    let what_to_do = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => "raise max.message.bytes of the topic and start again",
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => "allow this user to write to the topic and start again",
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            "make the topic and start again"
        }
        _ => "mend it and start again",
    };
    let message = format!(
        "dead letter of partition {partition}, offset {offset} cannot be kept in topic {topic}: {error}; {what_to_do}: nothing is lost, \
         the record is read again"
    );
    Failure::new(Exit::Outside, message)
}

pub(super) fn missing(brokers: &str, topic: &str) -> Failure {
    let message = format!(
        "dead_letters.topic: topic {topic} does not exist on {brokers}, or this user may not see it; make it, or set dead_letters.file instead"
    );
    Failure::new(Exit::Outside, message)
}

fn refused(brokers: &str, outage: &str) -> Failure {
    Failure::new(
        Exit::Outside,
        format!("dead_letters: {brokers} refuse the credentials: {outage}; set them in dead_letters.properties"),
    )
}

pub(super) fn unreachable(brokers: &str, outage: &str) -> Failure {
    let message =
        format!("dead_letters: none of {brokers} can be reached: {outage}; start the broker or correct the addresses");
    Failure::new(Exit::Outside, message)
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::{Headers, Message};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::config::DeadLetters;
    use crate::dead_letter::{check, open, samples};

    fn cluster() -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(1).expect("starts");
        cluster.create_topic("letters", 1, 1).expect("makes a topic");
        cluster
    }

    fn config(brokers: &str, topic: &str, properties: &[(&str, &str)]) -> DeadLetters {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        DeadLetters::Topic { brokers: brokers.to_owned(), topic: topic.to_owned(), properties }
    }

    /// A record of the topic, its headers as `name=value`.
    struct Kept {
        key: Option<Vec<u8>>,
        payload: Option<Vec<u8>>,
        headers: Vec<String>,
    }

    /// The topic's first `count` records.
    fn read(brokers: &str, count: usize) -> Vec<Kept> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", brokers).set("group.id", "test").set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = client.create().expect("a consumer");
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset("letters", 0, rdkafka::Offset::Beginning).expect("an offset");
        consumer.assign(&list).expect("assigns");
        let message = || consumer.poll(Duration::from_secs(30)).expect("comes in time").expect("is one").detach();
        let read = (0..count).map(|_| message()).map(|m| {
            let headers = m.headers().expect("has headers").iter();
            let headers =
                headers.map(|h| format!("{}={}", h.key, String::from_utf8_lossy(h.value.unwrap_or_default())));
            Kept {
                key: m.key().map(<[u8]>::to_vec),
                payload: m.payload().map(<[u8]>::to_vec),
                headers: headers.collect(),
            }
        });
        read.collect()
    }

    #[test]
    fn a_dead_letter_keeps_its_bytes_and_says_what_happened_in_headers() {
        let cluster = cluster();
        let brokers = cluster.bootstrap_servers();
        let mut writer = open(&config(&brokers, "letters", &[]), Some("visits"), None).expect("opens");
        writer
            .write(&[
                samples::letter(Some(b"\xfe"), Some(b"\xff"), &[(b"trace", b"x")]),
                samples::letter(None, None, &[]),
            ])
            .expect("writes");
        writer.flush().expect("is acknowledged");
        let read = read(&brokers, 2);
        assert_eq!((read[0].key.as_deref(), read[0].payload.as_deref()), (Some(&b"\xfe"[..]), Some(&b"\xff"[..])));
        assert_eq!((&read[1].key, &read[1].payload), (&None, &None));
        let plugin = format!("keyfold.plugin.digest={}", "ab".repeat(32));
        let expect = [
            "trace=x",
            "__connect.errors.topic=visits",
            "__connect.errors.partition=3",
            "__connect.errors.offset=42",
            "__connect.errors.stage=map",
            "__connect.errors.exception.message=user_id is missing",
            &plugin,
            "keyfold.event=0",
            "keyfold.timestamp=1727873508000",
        ];
        assert_eq!(read[0].headers, expect);
        assert_eq!(read[1].headers, expect[1..]);
    }

    #[test]
    fn a_missing_topic_is_refused_and_not_made() {
        let cluster = cluster();
        let config = config(&cluster.bootstrap_servers(), "other", &[]);
        for _ in 0..2 {
            let failure = open(&config, None, None).err().expect("is refused");
            assert_eq!(failure.exit, Exit::Outside);
            assert!(failure.message.starts_with("dead_letters.topic: topic other does not exist on "), "{failure}");
            assert_eq!(check(&config)[0].detail, failure.message);
        }
    }

    #[test]
    fn a_broker_that_is_away_for_a_while_is_waited_for() {
        let cluster = cluster();
        let brokers = cluster.bootstrap_servers();
        let properties = [("reconnect.backoff.max.ms", "100")];
        let mut writer = open(&config(&brokers, "letters", &properties), None, None).expect("opens");
        cluster.broker_down(1).expect("goes");
        writer.write(&[samples::letter(None, Some(b"kept"), &[])]).expect("is queued");
        let (told, tells) = std::sync::mpsc::channel();
        std::thread::scope(|threads| {
            threads.spawn(|| told.send(writer.flush()));
            assert!(tells.recv_timeout(Duration::from_millis(500)).is_err(), "it waits");
            cluster.broker_up(1).expect("comes back");
            assert_eq!(tells.recv_timeout(Duration::from_secs(60)), Ok(Ok(())));
        });
        assert_eq!(read(&brokers, 1)[0].payload.as_deref(), Some(&b"kept"[..]));
    }

    #[test]
    fn a_dead_letter_too_large_for_its_topic_halts_and_is_not_swallowed() {
        let cluster = cluster();
        let mut writer = open(&config(&cluster.bootstrap_servers(), "letters", &[]), None, None).expect("opens");
        cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
        writer.write(&[samples::letter(None, Some(b"large"), &[])]).expect("is queued");
        let failure = writer.flush().expect_err("is refused");
        assert_eq!(failure.exit, Exit::Outside);
        assert!(
            failure.message.starts_with("dead letter of partition 3, offset 42 cannot be kept in topic letters: "),
            "{failure}"
        );
        assert!(failure.message.contains("raise max.message.bytes of the topic and start again"), "{failure}");
    }

    #[test]
    fn an_unreachable_broker_is_named() {
        let failure = open(&config("127.0.0.1:1", "letters", &[]), None, None).err().expect("is refused");
        assert_eq!(failure.exit, Exit::Outside);
        assert!(failure.message.starts_with("dead_letters: none of 127.0.0.1:1 can be reached: "), "{failure}");
    }

    #[test]
    fn properties_that_could_lose_dead_letters_are_refused_by_name() {
        for name in ["acks", "delivery.timeout.ms"] {
            let failure =
                open(&config("127.0.0.1:1", "letters", &[(name, "1")]), None, None).err().expect("is refused");
            assert_eq!(failure.exit, Exit::Config);
            assert!(failure.message.starts_with(&format!("dead_letters.properties: {name} decides")), "{failure}");
        }
    }
}
