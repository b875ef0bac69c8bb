//! Dead letters as records of a Kafka topic: key, payload and headers unchanged, plus headers that say what happened, with Kafka Connect's
//! names where one fits. At least once. Their timestamp is the time of writing, because the topic's retention counts from it; the original
//! timestamp is a header.
//!
//! librdkafka retries without end (`message.timeout.ms` = 0), so a delivery that fails has failed for good. One that the brokers refuse for what it
//! is is sent again alone, and then in another form: cut to half its size until it fits, or with a key (D23). Any other failure halts the lane,
//! and no dead letter is dropped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::backoff::{Backoff, Outage};
use crate::dead_letter::bounded::Letter;
use crate::dead_letter::header;
use crate::dead_letter::keeping;
use crate::dead_letter::refusal::{Refusal, remedy};
use crate::dead_letter::{DeadLetter, DeadLetterWriter};
use crate::failure::{Check, Failure, Finding};
use crate::record::{NO_TIME, RecordRef};
use crate::source::kafka::check_files;
use crate::source::kafka::rights::{self, Right};
use crate::source::kafka::secrets::Secrets;

/// How long the brokers may take to answer one request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one wait for acknowledgements, or for room in the queue, lasts before errors are checked.
const POLL: Duration = Duration::from_millis(100);

/// Properties that keyfold sets itself, because they decide whether dead letters can be lost.
const OWN: [(&str, &str); 3] = [("acks", "all"), ("enable.idempotence", "true"), ("message.timeout.ms", "0")];
/// Other names of the same properties.
const OWN_ALIASES: [&str; 2] = ["request.required.acks", "delivery.timeout.ms"];

/// Produces dead letters to a topic.
pub(super) struct DeadLetterTopic {
    producer: BaseProducer<Deliveries>,
    topic: String,
    source_topic: Option<String>,
    backoff: Backoff,
    secrets: Secrets,
}

impl DeadLetterTopic {
    /// Connects; the topic must exist.
    pub(super) fn open(
        brokers: &str,
        topic: &str,
        properties: &BTreeMap<String, String>,
        secrets: Secrets,
        source_topic: Option<&str>,
        deadline: Option<Instant>,
    ) -> Result<DeadLetterTopic, Failure> {
        let producer = producer(brokers, properties)?;
        let mut backoff = Backoff::new(format!("topic {topic}"));
        loop {
            match partitions(&producer, topic) {
                Ok(Some(_)) if may_write(&producer, topic) => break,
                Ok(Some(_)) => return Err(denied(topic)),
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
        Ok(DeadLetterTopic { producer, topic: topic.to_owned(), source_topic, backoff, secrets })
    }

    fn produce(&mut self, letter: &DeadLetter) -> Result<(), Failure> {
        let record = letter.record.get(0);
        let ours = our_headers(letter, self.source_topic.as_deref());
        let origin = Origin { partition: record.partition, offset: record.offset, our_headers: ours.len() };
        let headers = headers(record, &ours);
        if !self.send(origin, record.key, record.payload, headers)? {
            // The producer itself refuses it.
            let bytes = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
            let own = record.headers.map_or_else(Vec::new, |(columns, i)| {
                let own = columns.of(i);
                own.map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), Some(value.to_vec()))).collect()
            });
            let ours = ours.into_iter().map(|(name, value)| (name.to_owned(), Some(value.into_bytes()))).collect();
            self.send_cut(origin, Letter { key: bytes(record.key), payload: bytes(record.payload), own, ours })?;
        }
        Ok(())
    }

    /// Queues a record; false if it is too large for the producer.
    fn send(
        &mut self,
        origin: Origin,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> Result<bool, Failure> {
        let topic = self.topic.clone();
        let mut message = BaseRecord::with_opaque_to(&topic, Box::new(origin)).headers(headers);
        message.key = key;
        message.payload = payload;
        while let Err((error, unsent)) = self.producer.send(message) {
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => self.wait(POLL)?,
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => return Ok(false),
                _ => return Err(undelivered(&topic, origin, &error)),
            }
            message = unsent;
        }
        Ok(true)
    }

    /// Sends records again that the brokers refused. Each is sent alone, since what was refused may have been what it was sent with.
    fn send_refused(&mut self) -> Result<(), Failure> {
        for (origin, message, _) in self.take_refused() {
            let letter = Letter::of(&message, origin.our_headers);
            if let Some(code) = self.send_alone(origin, &letter)? {
                self.send_otherwise(origin, letter, code)?;
            }
        }
        Ok(())
    }

    /// Sends a letter that was refused alone in another form.
    fn send_otherwise(&mut self, origin: Origin, letter: Letter, code: RDKafkaErrorCode) -> Result<(), Failure> {
        let refused = |topic: &str| undelivered(topic, origin, &KafkaError::MessageProduction(code));
        match Refusal::of(code) {
            Some(Refusal::TooLarge) => self.send_cut(origin, letter),
            Some(Refusal::Unfit) => {
                let Some(keyed) = letter.keyed() else { return Err(refused(&self.topic)) };
                match self.send_alone(origin, &keyed)? {
                    Some(code) => self.send_otherwise(origin, keyed, code),
                    None => {
                        let (Origin { partition, offset, .. }, topic) = (origin, &self.topic);
                        tracing::warn!(
                            event = "dead-letter-keyed",
                            topic,
                            partition,
                            offset,
                            "topic takes no dead letter without a key; given one (set cleanup.policy=delete on the topic)"
                        );
                        Ok(())
                    }
                }
            }
            Some(Refusal::Untimely | Refusal::Company) | None => Err(refused(&self.topic)),
        }
    }

    /// Cuts a letter to half its size until it fits.
    fn send_cut(&mut self, origin: Origin, letter: Letter) -> Result<(), Failure> {
        self.drain()?;
        let others = self.take_refused();
        let whole = letter.size();
        let mut size = whole / 2;
        while let Some(cut) = letter.cut_to(size) {
            let refused = self.send_alone(origin, &cut)?;
            if let Some(code) = refused.filter(|code| Refusal::of(*code) != Some(Refusal::TooLarge)) {
                self.send_otherwise(origin, cut, code)?;
                self.put_back(others);
                return Ok(());
            }
            if refused.is_none() {
                let (Origin { partition, offset, .. }, topic) = (origin, &self.topic);
                tracing::warn!(
                    event = "dead-letter-cut",
                    topic,
                    partition,
                    offset,
                    bytes = whole,
                    kept = cut.size(),
                    "dead letter is too large for its topic; cut"
                );
                self.put_back(others);
                return Ok(());
            }
            size /= 2;
        }
        Err(undelivered(&self.topic, origin, &KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)))
    }

    /// Sends a letter and waits for its acknowledgement; the error if it is refused. Nothing else is in flight.
    fn send_alone(&mut self, origin: Origin, letter: &Letter) -> Result<Option<RDKafkaErrorCode>, Failure> {
        if !self.send(origin, letter.key.as_deref(), letter.payload.as_deref(), letter.headers())? {
            return Ok(Some(RDKafkaErrorCode::MessageSizeTooLarge));
        }
        self.drain()?;
        Ok(self.take_refused().pop().map(|(_, _, code)| code))
    }

    fn take_refused(&self) -> Vec<Refused> {
        std::mem::take(&mut *self.producer.context().refused_letters.lock().expect("nothing panics under it"))
    }

    /// Keeps refused letters for later.
    fn put_back(&self, refused: Vec<Refused>) {
        self.producer.context().refused_letters.lock().expect("nothing panics under it").extend(refused);
    }

    /// Waits until everything is acknowledged or refused.
    fn drain(&mut self) -> Result<(), Failure> {
        while self.producer.in_flight_count() > 0 {
            self.wait(POLL)?;
        }
        // A failure may have come with the last acknowledgement.
        self.wait(Duration::ZERO)
    }

    /// Serves acknowledgements, waiting at most `timeout` for one.
    fn wait(&mut self, timeout: Duration) -> Result<(), Failure> {
        self.secrets.look(self.producer.client());
        self.producer.poll(timeout);
        let context = self.producer.context();
        if let Some((origin, error)) = context.failed.lock().expect("nothing panics under it").take() {
            return Err(undelivered(&self.topic, origin, &error));
        }
        if let Some(problem) = context.problem.lock().expect("nothing panics under it").take() {
            self.backoff.warn(&problem);
        }
        Ok(())
    }
}

/// Returns the lines of `keyfold check`.
pub(super) fn check(brokers: &str, topic: &str, properties: &BTreeMap<String, String>) -> Vec<Check> {
    let there = check_topic(brokers, topic, properties);
    let settings = client_config(brokers, properties).ok().filter(|_| there.finding == Finding::Fine);
    let settings = settings.and_then(|client| keeping::examine(&client, topic));
    std::iter::once(there).chain(settings).collect()
}

fn check_topic(brokers: &str, topic: &str, properties: &BTreeMap<String, String>) -> Check {
    let subject = format!("topic {topic}");
    let mut may_write = true;
    let found = producer(brokers, properties).and_then(|producer| {
        let found = partitions(&producer, topic).map_err(|outage| unreachable(brokers, &outage))?;
        may_write = found.is_none() || self::may_write(&producer, topic);
        Ok(found)
    });
    match found {
        Ok(Some(_)) if !may_write => Check::refused(subject, denied(topic)),
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
        self.drain()?;
        self.send_refused()?;
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

/// The record that a dead letter carries.
#[derive(Clone, Copy, Debug)]
struct Origin {
    /// Its partition in the source.
    partition: u32,
    /// Its offset there.
    offset: u64,
    /// How many headers follow its own.
    our_headers: usize,
}

/// A letter that the brokers refused for what it is, or because of what it was sent with.
type Refused = (Origin, OwnedMessage, RDKafkaErrorCode);

/// What librdkafka has reported about the producer.
#[derive(Debug, Default)]
struct Deliveries {
    /// The first record that could not be delivered, and why.
    failed: Mutex<Option<(Origin, KafkaError)>>,
    /// Letters that were refused.
    refused_letters: Mutex<Vec<Refused>>,
    /// The latest problem with the brokers.
    problem: Mutex<Option<String>>,
    /// Whether a broker refused the credentials.
    refused: AtomicBool,
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Authentication) {
            self.refused.store(true, Ordering::Relaxed);
        }
        *self.problem.lock().expect("nothing panics under it") = Some(format!("{error}: {reason}"));
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Origin>;

    fn delivery(&self, result: &DeliveryResult<'_>, origin: Box<Origin>) {
        let Err((error, message)) = result else { return };
        match error.rdkafka_error_code().filter(|code| Refusal::of(*code).is_some()) {
            Some(code) => {
                self.refused_letters.lock().expect("nothing panics under it").push((*origin, message.detach(), code));
            }
            None => {
                let mut failed = self.failed.lock().expect("nothing panics under it");
                failed.get_or_insert((*origin, error.clone()));
            }
        }
    }
}

fn producer(brokers: &str, properties: &BTreeMap<String, String>) -> Result<BaseProducer<Deliveries>, Failure> {
    client_config(brokers, properties)?
        .create_with_context(Deliveries::default())
        .map_err(|e| Failure::config(format!("dead_letters.properties: {e}")))
}

fn client_config(brokers: &str, properties: &BTreeMap<String, String>) -> Result<ClientConfig, Failure> {
    let own = |name: &String| OWN.iter().any(|(own, _)| own == name) || OWN_ALIASES.contains(&name.as_str());
    if let Some(name) = properties.keys().find(|name| own(name)) {
        let message = format!(
            "dead_letters.properties: {name} decides whether dead letters can be lost, so keyfold sets it; remove it"
        );
        return Err(Failure::config(message));
    }
    check_files("dead_letters.properties", properties)?;
    let mut config = ClientConfig::new();
    // The topic decides what is too large, not the producer.
    config.set("message.max.bytes", "1000000000");
    for (name, value) in properties {
        config.set(name, value);
    }
    for (name, value) in OWN {
        config.set(name, value);
    }
    config.set("bootstrap.servers", brokers);
    Ok(config)
}

/// Returns how many partitions the topic has; none if there is no such topic. Asks for all topics, because asking for one by name may make
/// the broker create it.
fn partitions(producer: &BaseProducer<Deliveries>, topic: &str) -> Result<Option<usize>, String> {
    let answer = producer.client().fetch_metadata(None, ANSWER_TIMEOUT);
    producer.poll(Duration::ZERO);
    let metadata = answer.map_err(|e| {
        let problem = producer.context().problem.lock().expect("nothing panics under it").take();
        problem.unwrap_or_else(|| e.to_string())
    })?;
    let found = metadata.topics().iter().find(|t| t.name() == topic && !t.partitions().is_empty());
    Ok(found.map(|t| t.partitions().len()))
}

/// Returns whether this user may write to the topic, as far as the brokers say.
fn may_write(producer: &BaseProducer<Deliveries>, topic: &str) -> bool {
    !rights::on_topic(producer.client(), topic, ANSWER_TIMEOUT).lack(Right::Write)
}

fn denied(topic: &str) -> Failure {
    Failure::outside(format!(
        "dead_letters.topic: the brokers refuse to let this user write to topic {topic}: grant it WRITE and DESCRIBE, or use another user"
    ))
}

/// Returns the record's own headers, followed by those that say what happened.
fn headers(record: RecordRef<'_>, ours: &[(&str, String)]) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    if let Some((columns, i)) = record.headers {
        for (name, value) in columns.of(i) {
            headers = headers.insert(Header { key: &String::from_utf8_lossy(name), value: Some(value) });
        }
    }
    ours.iter().fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
}

fn our_headers(letter: &DeadLetter, source_topic: Option<&str>) -> Vec<(&'static str, String)> {
    let record = letter.record.get(0);
    let mut headers = Vec::new();
    let mut put = |key: &'static str, value: &str| headers.push((key, value.to_owned()));
    if let Some(topic) = source_topic {
        put(header::TOPIC, topic);
    }
    if letter.stage.names_a_record() {
        put(header::PARTITION, &record.partition.to_string());
        put(header::OFFSET, &record.offset.to_string());
    }
    put(header::STAGE, letter.stage.name());
    put(header::REASON, &letter.reason);
    put(header::PLUGIN, &letter.plugin);
    if let Some(deployment) = letter.deployment {
        put(header::DEPLOYMENT, &deployment.to_string());
    }
    if let Some(event) = letter.event {
        put(header::EVENT, &event.to_string());
    }
    if record.append_time != NO_TIME {
        put(header::TIMESTAMP, &record.append_time.to_string());
    }
    let Some(cut) = letter.record.cut(0) else { return headers };
    if let Some(payload) = &cut.payload {
        put(header::PAYLOAD_BYTES, &payload.bytes.to_string());
        put(header::PAYLOAD_SHA256, &payload.sha256);
    }
    if let Some(key) = &cut.key {
        put(header::KEY_BYTES, &key.bytes.to_string());
        put(header::KEY_SHA256, &key.sha256);
    }
    if let Some(headers) = cut.headers {
        put(header::CUT_HEADERS, &headers.to_string());
    }
    headers
}

fn undelivered(topic: &str, Origin { partition, offset, .. }: Origin, error: &KafkaError) -> Failure {
    let what_to_do = remedy(error.rdkafka_error_code());
    let message = format!(
        "cannot write the dead letter of partition {partition}, offset {offset} to topic {topic}: {error}; {what_to_do}; nothing is \
         lost, because the record is read again"
    );
    Failure::outside(message)
}

pub(super) fn missing(brokers: &str, topic: &str) -> Failure {
    let message = format!(
        "dead_letters.topic: topic {topic} does not exist on {brokers}, or this user may not see it; create it, or use dead_letters.file"
    );
    Failure::outside(message)
}

fn refused(brokers: &str, outage: &str) -> Failure {
    Failure::outside(format!(
        "dead_letters: {brokers} refused the credentials: {outage}; set them in dead_letters.properties"
    ))
}

pub(super) fn unreachable(brokers: &str, outage: &str) -> Failure {
    let message =
        format!("dead_letters: cannot reach any of {brokers}: {outage}; start the broker, or correct the addresses");
    Failure::outside(message)
}

#[cfg(test)]
mod tests;
