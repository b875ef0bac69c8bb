//! What is asked of Kafka besides records: whether the configuration is one, which partitions the topic has, where they begin and end,
//! and whether a record is still the one that was folded. Owns the librdkafka properties of every client of the source.
//!
//! Defaults that `source.kafka.properties` may override: [`DEFAULTS`]. Properties that the guarantee rests on are refused there by
//! name: [`RESERVED`], and whatever begins with `enable.auto.`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use crate::backoff;
use crate::clock;
use crate::config;
use crate::failure::Failure;
use crate::paths;
use crate::position::{LastRecord, Offset, Partition, TopicId, fingerprint};
use crate::record::bounded::handed_on;

use crate::source::Start;
use crate::source::kafka::identity::{self, Identity};
use crate::source::kafka::native::offset_list;
use crate::source::kafka::rights::{self, Right};
use crate::source::kafka::secrets;

pub(super) use crate::source::kafka::voice::Voice;

/// What keyfold sets unless `source.kafka.properties` says otherwise.
pub const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "keyfold"),
    ("socket.keepalive.enable", "true"),
    ("reconnect.backoff.max.ms", "2000"),
    // How soon a reader whose queue was full fetches again: the 1000 of librdkafka cost a fast reader seconds.
    ("fetch.queue.backoff.ms", "5"),
    // An end that is not a record (a commit marker) is learnt from the fetch after it, which waits this long.
    ("fetch.wait.max.ms", "50"),
    // What is compressed can grow a thousandfold, and librdkafka decompresses a whole answer at once: an answer has few batches. A batch
    // alone may have any size.
    ("fetch.message.max.bytes", "524288"),
    ("fetch.max.bytes", "1048576"),
    ("queued.max.messages.kbytes", "32768"),
    // Kafka sends a first batch of any size whatever the fetch sizes are; this is what the client is ready to take.
    ("receive.message.max.bytes", "2147483647"),
];

/// What keyfold sets for the member of a consumer group, where hosts share lanes, unless `source.kafka.properties` says otherwise.
pub(super) const MEMBER_DEFAULTS: &[(&str, &str)] = &[
    ("partition.assignment.strategy", "cooperative-sticky"),
    // After this time without a sign of life, a host's lanes go to others.
    ("session.timeout.ms", "10000"),
    // A member learns with its next heartbeat that lanes move, and until all have learnt it a moving lane is nobody's.
    ("heartbeat.interval.ms", "500"),
    // How soon partitions that are added to the topic are noticed.
    ("topic.metadata.refresh.interval.ms", "10000"),
];

/// Properties that only the member of a consumer group has a use for.
const MEMBERS_ONLY: &[&str] = &[
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "partition.assignment.strategy",
    "session.timeout.ms",
];

/// Properties that are not the operator's to set, each with the reason.
pub const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "it is source.kafka.brokers"),
    ("metadata.broker.list", "it is source.kafka.brokers"),
    ("group.id", "it is source.kafka.group"),
    ("isolation.level", "only committed records are folded"),
    ("auto.offset.reset", "a trimmed log has to be an error, not a jump"),
    ("enable.partition.eof", "the order of partitions rests on knowing their ends"),
    ("auto.commit.enable", "the position is the checkpoint's"),
    ("offset.store.method", "the position is the checkpoint's"),
    ("offset.store.path", "the position is the checkpoint's"),
    ("allow.auto.create.topics", "a missing topic has to be an error"),
    ("test.mock.num.brokers", "each client would have brokers of its own"),
];

/// The longest single wait for a broker's answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_millis(900);

/// A topic as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its partitions, ascending.
    pub partitions: Vec<Partition>,
    /// The first offset still in the log, for each of `partitions`.
    pub low: Vec<Offset>,
    /// The offset after the last, for each of `partitions`, open transactions included.
    pub high: Vec<Offset>,
    /// `message.timestamp.type`, where the broker tells.
    pub timestamps: Option<Timestamps>,
    /// Its id, where the brokers have ids.
    pub id: Option<TopicId>,
}

/// `message.timestamp.type` of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timestamps {
    /// The producer's clock.
    CreateTime,
    /// The broker's clock.
    LogAppendTime,
}

/// Refuses properties that the guarantee rests on, and those that librdkafka does not know or whose value it does not take.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Result<(), Failure> {
    for key in properties.keys() {
        if let Some(reason) = reserved(key) {
            return Err(Failure::config(format!("source.kafka.properties.{key} is not yours to set: {reason}")));
        }
    }
    check_files("source.kafka.properties", properties)?;
    let mut client = ClientConfig::new();
    for (key, value) in properties {
        client.set(key, value);
    }
    client.create_native_config().map(drop).map_err(refused_configuration)
}

/// Refuses properties that name a file which cannot be read, or a pipe or a device: librdkafka would say so without its path, or wait for ever.
pub fn check_files(section: &str, properties: &BTreeMap<String, String>) -> Result<(), Failure> {
    let is_file = |(key, value): &(&String, &String)| {
        key.starts_with("ssl.") && key.ends_with(".location") && *value != "probe" // librdkafka's word for the system's
    };
    for (key, path) in properties.iter().filter(is_file) {
        let readable = std::fs::metadata(path)
            .and_then(|found| if found.is_dir() { Ok(()) } else { paths::read(Path::new(path)).map(drop) });
        readable.map_err(|e| Failure::config(format!("{section}.{key}: cannot read {path}: {e}")))?;
    }
    Ok(())
}

fn reserved(key: &str) -> Option<&'static str> {
    if key.starts_with("enable.auto.") {
        return Some("the position is the checkpoint's");
    }
    RESERVED.iter().find(|(name, _)| *name == key).map(|(_, reason)| *reason)
}

/// Looks at the topic. Brokers are waited for until `deadline`; a missing topic and refused credentials are refused at once.
pub fn inspect(config: &config::KafkaSource, deadline: Instant) -> Result<Topic, Failure> {
    let (client, topic) = look(config, deadline)?;
    examine(config, &client, topic)
}

/// What is asked beside the partitions of a topic that was looked at: whether this user may read it, and how its records are stamped.
pub(super) fn examine(
    config: &config::KafkaSource,
    client: &BaseConsumer<Voice>,
    topic: Topic,
) -> Result<Topic, Failure> {
    // Only a controller can be asked, and brokers that give ids have one.
    let asks = topic.id.is_some() || identity::look(client, &config.topic, ANSWER_TIMEOUT).has_controller;
    if asks && rights::on_topic(client.client(), &config.topic, ANSWER_TIMEOUT).lack(Right::Read) {
        return Err(Failure::outside(unauthorized(&config.topic)));
    }
    let timestamps = asks.then(|| timestamps(config)).flatten();
    Ok(Topic { timestamps, ..topic })
}

/// As [`inspect`], but for the timestamps; the client that asked can ask on.
pub(super) fn look(config: &config::KafkaSource, deadline: Instant) -> Result<(BaseConsumer<Voice>, Topic), Failure> {
    check_properties(&config.properties)?;
    let client = asking_client(config)?;
    let partitions = partitions(&client, config, deadline)?;
    let low = offsets_by(&client, config, &partitions, KafkaOffset::Beginning, deadline)?;
    let high = offsets_by(&client, config, &partitions, KafkaOffset::End, deadline)?;
    let id = topic_id(&client, config, deadline)?;
    Ok((client, Topic { partitions, low, high, timestamps: None, id }))
}

/// A client without group and assignment, so that no long-polling fetch is on its connections. It sees open transactions.
fn asking_client(config: &config::KafkaSource) -> Result<BaseConsumer<Voice>, Failure> {
    let mut client = client_config(config);
    // The group is that of the offsets which are committed for lag tools: while a commit waits for its coordinator, a client assigns nothing.
    client.set("group.id", &config.group).set("enable.auto.commit", "false").set("isolation.level", "read_uncommitted");
    BaseConsumer::from_config_and_context(&client, Voice::default()).map_err(refused_configuration)
}

/// What all queues of a reading client may hold together unless `queued.max.messages.kbytes` says how much each may; KiB.
const QUEUED_KIB: usize = 131_072;
/// What one queue of a reading client holds at least and at most, unless told otherwise; KiB.
const QUEUE_KIB: [usize; 2] = [2_048, 32_768];

/// The properties of a client that reads committed records of explicitly given offsets, of so many lanes.
pub(super) fn reading_config(config: &config::KafkaSource, lanes: usize) -> ClientConfig {
    let mut client = client_config(config);
    const LIMIT: &str = "queued.max.messages.kbytes";
    if !config.properties.contains_key(LIMIT) {
        client.set(LIMIT, (QUEUED_KIB / lanes.max(1)).clamp(QUEUE_KIB[0], QUEUE_KIB[1]).to_string());
    }
    client
        .set("group.id", &config.group)
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true");
    client
}

/// The properties of a client that is a member of the group and reads nothing.
pub(super) fn member_config(config: &config::KafkaSource) -> ClientConfig {
    // Under the protocol of KIP-848 the broker decides some, and librdkafka refuses to be told.
    let is_next = config.properties.get("group.protocol").is_some_and(|protocol| protocol == "consumer");
    let own = MEMBER_DEFAULTS.iter().filter(|(key, _)| !(is_next && MEMBERS_ONLY.contains(key)));
    let mut client = configured(config, DEFAULTS.iter().chain(own), |_| true);
    client.set("group.id", &config.group).set("enable.auto.commit", "false").set("auto.offset.reset", "latest");
    client
}

/// The properties of a client that is no member of the group.
pub(super) fn client_config(config: &config::KafkaSource) -> ClientConfig {
    configured(config, DEFAULTS.iter(), |key| !MEMBERS_ONLY.contains(&key))
}

/// These defaults, and over them those of the given properties that the client has a use for.
fn configured<'a>(
    config: &config::KafkaSource,
    defaults: impl Iterator<Item = &'a (&'a str, &'a str)>,
    is_of_use: impl Fn(&str) -> bool,
) -> ClientConfig {
    let mut client = ClientConfig::new();
    for (key, value) in defaults {
        client.set(*key, *value);
    }
    for (key, value) in secrets::fresh(&config.properties, &config.secret_files) {
        if is_of_use(&key) {
            client.set(key, value);
        }
    }
    let level = if config.properties.contains_key("debug") { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info };
    client.set("bootstrap.servers", &config.brokers).set("allow.auto.create.topics", "false").set_log_level(level);
    client
}

/// A configuration that librdkafka does not take.
pub(super) fn refused_configuration(error: KafkaError) -> Failure {
    match error {
        KafkaError::ClientConfig(_, description, key, _) => {
            Failure::config(format!("source.kafka.properties.{key}: {}", lower_first(&description)))
        }
        KafkaError::ClientCreation(text) => Failure::config(format!("source.kafka.properties: {}", lower_first(&text))),
        other => Failure::config(format!("source.kafka.properties: {other}")),
    }
}

fn lower_first(text: &str) -> String {
    let mut characters = text.trim().trim_end_matches('.').chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

/// The topic's partitions, ascending.
pub(super) fn partitions(
    client: &BaseConsumer<Voice>,
    config: &config::KafkaSource,
    deadline: Instant,
) -> Result<Vec<Partition>, Failure> {
    let mut unknown = 0;
    retried(client, config, "its metadata", deadline, |timeout| {
        let metadata =
            client.fetch_metadata(Some(&config.topic), timeout).map_err(|e| Attempt::Later(e.to_string()))?;
        let topic = metadata.topics().first().ok_or_else(|| Attempt::Later("no metadata of the topic yet".into()))?;
        match topic.error().map(RDKafkaErrorCode::from) {
            None if topic.partitions().is_empty() => Err(Attempt::Later("no partitions yet".into())),
            None => Ok(ascending(topic.partitions().iter().map(|p| p.id()))),
            // A topic that was made a moment ago is unknown to some brokers for a moment: ask twice.
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) if unknown == 0 => {
                unknown += 1;
                Err(Attempt::Later("unknown topic".into()))
            }
            Some(code) => Err(refused_topic(config, code)),
        }
    })
}

/// The topic's id, by the deadline; none if the brokers have no ids.
fn topic_id(
    client: &BaseConsumer<Voice>,
    config: &config::KafkaSource,
    deadline: Instant,
) -> Result<Option<TopicId>, Failure> {
    retried(client, config, "its id", deadline, |timeout| {
        match identity::look(client, &config.topic, timeout).identity {
            Identity::Known(id) => Ok(Some(id)),
            Identity::Without => Ok(None),
            Identity::Missing | Identity::Unsaid => Err(Attempt::Later("no answer".into())),
        }
    })
}

pub(super) fn ascending(partitions: impl Iterator<Item = i32>) -> Vec<Partition> {
    let mut partitions: Vec<Partition> = partitions.filter_map(|p| u32::try_from(p).ok().map(Partition)).collect();
    partitions.sort_unstable();
    partitions
}

fn refused_topic(config: &config::KafkaSource, code: RDKafkaErrorCode) -> Attempt {
    let (topic, brokers) = (&config.topic, &config.brokers);
    match code {
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            Attempt::Refused(Failure::outside(format!(
                "topic {topic} does not exist on {brokers}: create it, or correct source.kafka.topic"
            )))
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => Attempt::Refused(Failure::outside(unauthorized(topic))),
        RDKafkaErrorCode::InvalidTopic => {
            Attempt::Refused(Failure::config(format!("source.kafka.topic: `{topic}` is not a topic's name")))
        }
        other => Attempt::Later(other.to_string()),
    }
}

/// The brokers know who asks and refuse.
pub(super) fn unauthorized(topic: &str) -> String {
    format!("the brokers refuse to let this user read topic {topic}: grant it READ and DESCRIBE, or use another user")
}

/// One of a partition's offsets, for each of `partitions`, by the deadline.
pub(super) fn offsets_by(
    client: &BaseConsumer<Voice>,
    config: &config::KafkaSource,
    partitions: &[Partition],
    at: KafkaOffset,
    deadline: Instant,
) -> Result<Vec<Offset>, Failure> {
    retried(client, config, "where its partitions begin and end", deadline, |timeout| {
        let answers =
            offsets(client, &config.topic, partitions, at, timeout).map_err(|e| Attempt::Later(e.to_string()))?;
        answers
            .into_iter()
            .collect::<Option<Vec<Offset>>>()
            .ok_or_else(|| Attempt::Later("a partition without a leader".into()))
    })
}

/// The first or the last offset of each of `partitions`, from their leaders in one round; none where a leader does not say.
pub(super) fn offsets(
    client: &BaseConsumer<Voice>,
    topic: &str,
    partitions: &[Partition],
    at: KafkaOffset,
    timeout: Duration,
) -> KafkaResult<Vec<Option<Offset>>> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        // To ListOffsets the beginning and the end are the timestamps -2 and -1, which is how librdkafka numbers these two offsets.
        list.add_partition_offset(topic, kafka_partition(*partition), at)?;
    }
    let answers = client.offsets_for_times(list, timeout)?;
    let mut told = BTreeMap::new();
    for answer in answers.elements() {
        if let (Ok(()), KafkaOffset::Offset(offset)) = (answer.error(), answer.offset()) {
            told.insert(answer.partition(), u64::try_from(offset).ok().map(Offset));
        }
    }
    Ok(partitions.iter().map(|p| told.get(&kafka_partition(*p)).copied().flatten()).collect())
}

/// Sends offsets on their way, for lag tools.
pub(super) fn commit<C: ConsumerContext>(client: &BaseConsumer<C>, topic: &str, next: &[(Partition, Offset)]) {
    if next.is_empty() {
        return;
    }
    let sent = offset_list(topic, next).and_then(|list| client.commit(&list, CommitMode::Async));
    if let Err(error) = sent {
        tracing::debug!(event = "offsets-not-committed", topic, %error, "cannot commit offsets for lag monitoring");
    }
}

/// A partition as Kafka numbers it.
pub(super) fn kafka_partition(partition: Partition) -> i32 {
    i32::try_from(partition.0).expect("partitions come from Kafka, which numbers them by i32")
}

/// An offset as Kafka numbers it.
pub(super) fn kafka_offset(offset: Offset) -> i64 {
    i64::try_from(offset.0).expect("offsets come from Kafka, which numbers them by i64")
}

/// `message.timestamp.type`, if the broker tells this user.
fn timestamps(config: &config::KafkaSource) -> Option<Timestamps> {
    let admin = AdminClient::from_config_and_context(&client_config(config), Voice::default()).ok()?;
    let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(2)));
    let topic = ResourceSpecifier::Topic(&config.topic);
    let described = futures::executor::block_on(admin.describe_configs([&topic], &options)).ok()?;
    let entry = described.into_iter().next()?.ok()?;
    match entry.get("message.timestamp.type")?.value.as_deref()? {
        "CreateTime" => Some(Timestamps::CreateTime),
        "LogAppendTime" => Some(Timestamps::LogAppendTime),
        _ => None,
    }
}

/// Where each partition is read from: `next`, or its beginning. Refuses a log that no longer holds `next` or ends before it.
pub(super) fn first_offsets(
    config: &config::KafkaSource,
    starts: &[Start],
    topic: &Topic,
) -> Result<Vec<Offset>, Failure> {
    starts.iter().map(|start| first_offset(config, start, topic)).collect()
}

fn first_offset(config: &config::KafkaSource, start: &Start, topic: &Topic) -> Result<Offset, Failure> {
    let (name, partition) = (&config.topic, start.partition);
    let Ok(i) = topic.partitions.binary_search(&partition) else {
        return Err(Failure::state(format!(
            "topic {name} has no partition {partition}, which the state has read: {MADE_ANEW}"
        )));
    };
    let (low, high) = (topic.low[i], topic.high[i]);
    match start.next {
        None => Ok(low),
        Some(next) if next < low => Err(Failure::state(trimmed(name, partition, next, low))),
        Some(next) if next > high => Err(Failure::state(truncated(name, partition, next, high))),
        Some(next) => Ok(next),
    }
}

/// What has happened to the topic, and the ways out.
pub(super) const MADE_ANEW: &str = "the topic was truncated or made anew; ways out: point source.kafka at the log that the state was built from, or \
                         give this topic a state of its own (another state.url), which folds it from its beginning (`keyfold reset` keeps \
                         the journal of the former log)";

/// The log begins after what is needed.
pub(super) fn trimmed(topic: &str, partition: Partition, next: Offset, low: Offset) -> String {
    format!(
        "topic {topic}, partition {partition}: the state goes on at offset {next}, but the log was trimmed and begins at {low}: records are \
         lost to this pipeline; ways out: restore the log, or begin anew from what is left with a state of its own (another state.url; \
         `keyfold reset` alone keeps the journal, which remembers the former beginning)"
    )
}

/// The log ends before what was read.
pub(super) fn truncated(topic: &str, partition: Partition, next: Offset, high: Offset) -> String {
    format!(
        "topic {topic}, partition {partition}: the state goes on at offset {next}, but the log ends at {high}: {MADE_ANEW}"
    )
}

/// A failure of librdkafka that has no other meaning.
pub(super) fn unexpected(error: KafkaError) -> Failure {
    Failure::unexpected(format!("librdkafka: {error}"))
}

/// A record that stands where the last one that was folded is expected.
pub(super) struct Found<'a> {
    /// Its offset, at or after that of the other.
    pub(super) offset: Offset,
    /// Its timestamp; ms since 1970.
    pub(super) timestamp: Option<i64>,
    /// Its key.
    pub(super) key: Option<&'a [u8]>,
    /// Its payload.
    pub(super) payload: Option<&'a [u8]>,
}

/// Refuses another record in the place of the last one that was folded.
pub(super) fn compare(topic: &str, partition: Partition, last: &LastRecord, found: &Found<'_>) -> Result<(), Failure> {
    let Found { offset, timestamp, .. } = *found;
    if offset != last.offset {
        return Ok(()); // compacted away: nothing to compare with
    }
    let (key, payload, _) = handed_on(found.key, found.payload);
    if timestamp == last.timestamp && fingerprint(key, payload) == last.fingerprint {
        return Ok(());
    }
    Err(Failure::state(format!(
        "topic {topic}, partition {partition}: the record at offset {offset} is not the one that the state was built from (its timestamp is {}, \
         that of the folded one was {}; the state goes on after offset {}): {MADE_ANEW}",
        shown(timestamp),
        shown(last.timestamp),
        last.offset
    )))
}

fn shown(timestamp: Option<i64>) -> String {
    timestamp.map_or_else(|| "none".to_owned(), |ms| ms.to_string())
}

const CHECK_BROKERS: &str = "see that the brokers run and that source.kafka.brokers names them";
const CHECK_TLS: &str = "the brokers answer, but TLS fails: check ssl.ca.location, the dates of the certificates, and that they name the hosts of \
                         source.kafka.brokers";

/// How one attempt failed.
enum Attempt {
    /// It may succeed later.
    Later(String),
    /// It will not.
    Refused(Failure),
}

/// Tries until the deadline, at least once; gives up at once when the brokers refuse the credentials.
fn retried<T>(
    client: &BaseConsumer<Voice>,
    config: &config::KafkaSource,
    what: &str,
    deadline: Instant,
    mut attempt: impl FnMut(Duration) -> Result<T, Attempt>,
) -> Result<T, Failure> {
    let mut waited = Duration::from_millis(20);
    loop {
        let left = deadline.saturating_duration_since(clock::instant());
        let reason = match attempt(left.clamp(Duration::from_millis(100), ANSWER_TIMEOUT)) {
            Ok(value) => return Ok(value),
            Err(Attempt::Refused(error)) => return Err(error),
            Err(Attempt::Later(reason)) => reason,
        };
        client.poll(Duration::ZERO);
        let voice = client.context();
        if let Some(refusal) = voice.refusal() {
            return Err(Failure::outside(format!(
                "the brokers {} refuse these credentials: {refusal}",
                config.brokers
            )));
        }
        if clock::instant() >= deadline {
            let trouble = voice.last_trouble().map(|trouble| format!(" ({trouble})")).unwrap_or_default();
            let advice = if voice.has_failed_by_tls() { CHECK_TLS } else { CHECK_BROKERS };
            return Err(Failure::outside(format!(
                "topic {}: {what} could not be had from {} in time: {}{trouble}; {advice}",
                config.topic,
                config.brokers,
                lower_first(&reason)
            )));
        }
        tracing::debug!(event = "waiting-for-brokers", topic = config.topic, what, reason, "waiting for brokers");
        backoff::pause(waited);
        waited = (waited * 2).min(Duration::from_millis(500));
    }
}

/// The data behind a lock; what a panicking thread left is plain data too.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
