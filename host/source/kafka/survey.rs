//! What the doctor asks of the brokers beside what a start asks: how old they are, how the topic is kept, whether the state's place in the
//! log still stands, and what their clock says.
//!
//! No answer of Kafka's names a version. What a broker speaks does: librdkafka tells it to whoever listens to its debugging lines.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::clock;
use crate::config;
use crate::failure::Failure;
use crate::position::Partition;
use crate::source::Start;
use crate::source::kafka::KafkaSource;
use crate::source::kafka::broker::{self, Voice, client_config, locked, refused_configuration};
use crate::source::kafka::produce::{Outgoing, Sender};
use crate::source::kafka::rights::{self, Right};

/// How long what a broker speaks may take to be told, once it has answered.
const LISTENING: Duration = Duration::from_secs(2);
/// How long the brokers may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Releases of Kafka by what they were the first to speak, the newest first.
const RELEASES: [(&str, &str, i16); 8] = [
    ("4.1", "Fetch", 18),
    ("4.0", "Produce", 12),
    ("3.9", "Fetch", 17),
    ("3.8", "Produce", 11),
    ("3.7", "Fetch", 16),
    ("3.5", "Fetch", 15),
    ("3.1", "Fetch", 13),
    ("2.8", "Metadata", 10),
];

/// The brokers, as they are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brokers {
    /// How many there are.
    pub count: usize,
    /// How old they are by what they speak.
    pub age: Age,
    /// Whether the topic is there, though this user may not be allowed to read it.
    pub has_topic: bool,
    /// Whether this user may commit offsets of the group, as far as they say.
    pub may_commit: bool,
}

/// How old brokers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Of this release, or a later one.
    AtLeast(&'static str),
    /// Before all that are known here.
    Older,
    /// They did not say.
    Untold,
}

/// Looks at the brokers; an error says why none answers.
pub fn brokers(config: &config::KafkaSource) -> Result<Brokers, Failure> {
    broker::check_properties(&config.properties)?;
    let mut client = client_config(config);
    let debug = config.properties.get("debug").map_or("feature".to_owned(), |debug| format!("{debug},feature"));
    client.set("debug", debug).set_log_level(RDKafkaLogLevel::Debug);
    let client: BaseConsumer<Listener> =
        client.create_with_context(Listener::default()).map_err(refused_configuration)?;
    let answer = client.fetch_metadata(None, PATIENCE);
    let until = clock::instant() + LISTENING;
    while clock::instant() < until && !locked(&client.context().spoken).contains_key("Metadata") {
        client.poll(Duration::from_millis(20)); // serves the lines that came meanwhile
    }
    let metadata = answer.map_err(|e| Failure::outside(e.to_string()))?;
    // The list of all topics leaves out those that this user may not see.
    let topic = client.fetch_metadata(Some(&config.topic), PATIENCE).map_err(|e| Failure::outside(e.to_string()))?;
    let error = topic.topics().first().and_then(|topic| topic.error()).map(RDKafkaErrorCode::from);
    let is_missing = matches!(error, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic));
    let may_commit = !rights::on_group(client.client(), &config.group, PATIENCE).lack(Right::Read);
    let spoken = locked(&client.context().spoken);
    Ok(Brokers { count: metadata.brokers().len(), age: age(&spoken), has_topic: !is_missing, may_commit })
}

fn age(spoken: &BTreeMap<String, i16>) -> Age {
    let speaks = |api: &str, version: i16| spoken.get(api).is_some_and(|newest| *newest >= version);
    match RELEASES.iter().find(|(_, api, version)| speaks(api, *version)) {
        Some((release, _, _)) => Age::AtLeast(release),
        None if spoken.contains_key("Metadata") => Age::Older,
        None => Age::Untold,
    }
}

/// Listens for what brokers speak: the newest version of each kind of request.
#[derive(Default)]
struct Listener {
    voice: Voice,
    spoken: Mutex<BTreeMap<String, i16>>,
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match spoken(message) {
            Some((api, newest)) => drop(locked(&self.spoken).insert(api.to_owned(), newest)),
            None => self.voice.line(level as i32, facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.trouble(error.rdkafka_error_code().map_or(0, |code| code as i32), reason);
    }
}

impl ConsumerContext for Listener {}

/// `...: ApiKey Fetch (1) Versions 4..17`
fn spoken(message: &str) -> Option<(&str, i16)> {
    let (_, said) = message.split_once("ApiKey ")?;
    let (api, rest) = said.split_once(" (")?;
    let (_, versions) = rest.split_once(" Versions ")?;
    let (_, newest) = versions.split_once("..")?;
    Some((api, newest.trim().parse().ok()?))
}

/// How a topic is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Records older than this may be deleted, ms; none if they are kept for ever.
    pub retention_ms: Option<i64>,
    /// Records beyond so many bytes of a partition may be deleted; none if they are kept.
    pub retention_bytes: Option<i64>,
    /// Whether records that another of their key follows are deleted.
    pub is_compacted: bool,
}

/// How the topic is kept, if the brokers tell this user.
pub fn keeping(config: &config::KafkaSource) -> Option<Keeping> {
    let admin = admin(config).ok()?;
    let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(2)));
    let topic = ResourceSpecifier::Topic(&config.topic);
    let described = futures::executor::block_on(admin.describe_configs([&topic], &options)).ok()?;
    let entries = described.into_iter().next()?.ok()?;
    let value = |name: &str| entries.get(name)?.value.as_deref();
    let limit = |name: &str| value(name)?.parse().ok().filter(|limit: &i64| *limit >= 0);
    Some(Keeping {
        retention_ms: limit("retention.ms"),
        retention_bytes: limit("retention.bytes"),
        is_compacted: value("cleanup.policy").is_some_and(|policy| policy.contains("compact")),
    })
}

/// Whether the last record that was folded of each partition still is what it was, where it is in the log.
pub fn verify(config: &config::KafkaSource, starts: &[Start], deadline: Instant) -> Result<(), Failure> {
    let starts: Vec<Start> = starts.iter().filter(|start| start.last.is_some()).cloned().collect();
    if starts.is_empty() { Ok(()) } else { KafkaSource::open(config, &starts, false, deadline).map(drop) }
}

/// What a broker's clock shows minus what this host's shows at the same instant, ms: between these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// At least.
    pub least_ms: i64,
    /// At most.
    pub most_ms: i64,
}

/// Tells the clock of the brokers by records that are put into `topic`, which is made if it is not there.
pub fn skew(config: &config::KafkaSource, topic: &str) -> Result<Skew, Failure> {
    make(config, topic)?;
    let sender = Sender::open(config)?;
    let mut skew = None;
    // The first record waits for connections; of three the narrowest bounds count.
    for _ in 0..3 {
        let before = clock::now_ms();
        sender.send(
            topic,
            Outgoing { partition: Some(Partition(0)), payload: Some(b"keyfold doctor"), ..Outgoing::default() },
        )?;
        let stamp = sender.finish(topic)?;
        let after = clock::now_ms();
        let Some(stamp) = stamp else {
            let message = format!("topic {topic} keeps its producers' timestamps instead of the broker's");
            return Err(Failure::outside(message));
        };
        let seen = Skew { least_ms: stamp - after, most_ms: stamp - before };
        skew = Some(skew.map_or(seen, |skew: Skew| Skew {
            least_ms: skew.least_ms.max(seen.least_ms),
            most_ms: skew.most_ms.min(seen.most_ms),
        }));
    }
    Ok(skew.expect("three records were sent"))
}

fn admin(config: &config::KafkaSource) -> Result<AdminClient<Voice>, Failure> {
    AdminClient::from_config_and_context(&client_config(config), Voice::default()).map_err(refused_configuration)
}

fn make(config: &config::KafkaSource, topic: &str) -> Result<(), Failure> {
    let admin = admin(config)?;
    let configs = NewTopic::new(topic, 1, TopicReplication::Fixed(-1));
    let new = configs.set("message.timestamp.type", "LogAppendTime").set("retention.ms", "3600000");
    let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
    let made = futures::executor::block_on(admin.create_topics([&new], &options));
    match made.map_err(|e| Failure::outside(format!("topic {topic} cannot be made: {e}")))?.pop() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) | None => Ok(()),
        Some(Err((_, code))) => Err(Failure::outside(format!("topic {topic} cannot be made: {code}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_told_by_what_it_speaks() {
        let line = "[thrd:127.0.0.1:9092/1]: 127.0.0.1:9092/1:   ApiKey Fetch (1) Versions 4..17";
        assert_eq!(spoken(line), Some(("Fetch", 17)));
        assert_eq!(spoken("Broker API support:"), None);
        let speaks = |apis: &[(&str, i16)]| age(&apis.iter().map(|(api, n)| ((*api).to_owned(), *n)).collect());
        assert_eq!(speaks(&[("Fetch", 17), ("Produce", 12), ("Metadata", 13)]), Age::AtLeast("4.0"));
        assert_eq!(speaks(&[("Fetch", 11), ("Produce", 8), ("Metadata", 11)]), Age::AtLeast("2.8"));
        assert_eq!(speaks(&[("Fetch", 11), ("Produce", 8), ("Metadata", 9)]), Age::Older);
        assert_eq!(speaks(&[]), Age::Untold);
    }
}
