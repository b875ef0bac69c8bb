//! Dead letters read back from their file or topic. Writes nothing, and commits no offset.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config;
use crate::dead_letter::header;
use crate::dead_letter::topic::{missing, unreachable};
use crate::dead_letter::{DeadLetter, file};
use crate::failure::Failure;
use crate::paths::refuse_pipe_or_device;
use crate::record::{HeaderColumns, NO_TIME, RecordRef, Records};
use crate::source::file::record_of;
use crate::strike::Stage;

/// How long a broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A dead letter, and where it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredLetter {
    /// The dead letter.
    pub letter: DeadLetter,
    /// The topic that its record came from; none for a file.
    pub source_topic: Option<String>,
    /// Its line in the file (`line 7`), or its partition and offset in the topic (`0/6`).
    pub place: String,
    /// Whether its record was too large for the topic, so that a part of it is missing.
    pub is_cut: bool,
}

impl StoredLetter {
    /// Returns the dead letter as the object of a line in a dead-letter file.
    pub fn object(&self) -> Map<String, Value> {
        file::object(&self.letter, self.source_topic.as_deref())
    }
}

/// Passes the dead letters stored so far to `take`, in the order of the file or of each of the topic's partitions, until it returns false.
pub fn read(
    config: &config::DeadLetters,
    take: &mut dyn FnMut(StoredLetter) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    match config {
        config::DeadLetters::File(path) => read_file(path, take),
        config::DeadLetters::Topic { brokers, topic, properties, .. } => read_topic(brokers, topic, properties, take),
    }
}

/// The fields of a line that are not its record.
#[derive(Deserialize)]
struct Fields {
    reason: String,
    stage: String,
    plugin: String,
    deployment: Option<u64>,
    event: Option<u32>,
    topic: Option<String>,
    cut: Option<Map<String, Value>>,
}

/// Reads a file. Skips a last line without a line break: it is being written.
fn read_file(path: &Path, take: &mut dyn FnMut(StoredLetter) -> Result<bool, Failure>) -> Result<(), Failure> {
    let refused =
        |e: &dyn std::fmt::Display| Failure::outside(format!("dead_letters.file: cannot read {}: {e}", path.display()));
    refuse_pipe_or_device(path, "dead letters are appended to it and read again")
        .map_err(|why| Failure::outside(format!("dead_letters.file: {why}")))?;
    let mut lines = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()), // no dead letter was ever written
        Err(e) => return Err(refused(&e)),
    };
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        lines.read_until(b'\n', &mut line).map_err(|e| refused(&e))?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let letter = parse_line(&line, number);
        if !take(letter.map_err(|why| refused(&format!("line {number} is not a dead letter: {why}")))?)? {
            break;
        }
    }
    Ok(())
}

pub(super) fn parse_line(line: &[u8], number: u64) -> Result<StoredLetter, String> {
    let Fields { reason, stage, plugin, deployment, event, topic, cut } =
        serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let stage = Stage::named(&stage).ok_or_else(|| format!("unknown stage {stage}"))?;
    check_digest(&plugin)?;
    let record = record_of(line)?;
    check_place(u64::from(record.partitions[0]), record.offsets[0])?;
    let letter = DeadLetter { stage, reason, plugin, deployment, event, record };
    Ok(StoredLetter { letter, source_topic: topic, place: format!("line {number}"), is_cut: cut.is_some() })
}

/// What keyfold writes names its plugin by the SHA-256 of the file.
fn check_digest(plugin: &str) -> Result<(), String> {
    let is_one = plugin.len() == 64 && plugin.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_one { Ok(()) } else { Err(format!("{plugin:?} is not the SHA-256 of a plugin")) }
}

/// Kafka numbers partitions and offsets by numbers with a sign.
fn check_place(partition: u64, offset: u64) -> Result<(), String> {
    if i32::try_from(partition).is_err() {
        return Err(format!("{partition} is not the number of a partition"));
    }
    if i64::try_from(offset).is_err() {
        return Err(format!("{offset} is not an offset"));
    }
    Ok(())
}

fn read_topic(
    brokers: &str,
    topic: &str,
    properties: &BTreeMap<String, String>,
    take: &mut dyn FnMut(StoredLetter) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let client = client(brokers, properties)?;
    let outage = |e: KafkaError| unreachable(brokers, &e.to_string());
    let metadata = client.fetch_metadata(Some(topic), ANSWER_TIMEOUT).map_err(outage)?;
    let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
    if partitions.is_empty() {
        return Err(missing(brokers, topic));
    }
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).map_err(outage)?;
    }
    client.assign(&list).map_err(outage)?;
    let mut unread = list.count();
    while unread > 0 {
        match client.poll(ANSWER_TIMEOUT) {
            Some(Ok(message)) => {
                if !take(parse_message(&message)?)? {
                    break;
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
            Some(Err(e)) => return Err(outage(e)),
            None => return Err(unreachable(brokers, "timed out")),
        }
    }
    Ok(())
}

/// Logs librdkafka's messages at debug level only: what matters is returned by the call that failed.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, _: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{reason}");
    }
}

impl ConsumerContext for Quiet {}

fn client(brokers: &str, properties: &BTreeMap<String, String>) -> Result<BaseConsumer<Quiet>, Failure> {
    let mut config = ClientConfig::new();
    for (name, value) in properties {
        config.set(name, value);
    }
    // librdkafka requires a group name; nothing joins the group.
    config.set("bootstrap.servers", brokers).set("group.id", "keyfold-dead-letters").set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true").set("isolation.level", "read_committed");
    config.set("allow.auto.create.topics", "false");
    config.create_with_context(Quiet).map_err(|e| Failure::config(format!("dead_letters.properties: {e}")))
}

pub(super) fn parse_message(message: &impl Message) -> Result<StoredLetter, Failure> {
    let place = format!("{}/{}", message.partition(), message.offset());
    let (mut own, mut ours) = (HeaderColumns::default(), BTreeMap::new());
    let headers: Vec<_> = message.headers().map_or_else(Vec::new, |headers| headers.iter().collect());
    // Ours follow the record's own headers. Those may have the same names, if the record was a dead letter that was read as a record.
    let mut is_first = |name, value| match ours.entry(name) {
        Entry::Vacant(entry) => {
            entry.insert(value);
            true
        }
        Entry::Occupied(_) => false,
    };
    let our_count =
        headers.iter().rev().take_while(|h| header::ALL.contains(&h.key) && is_first(h.key, h.value)).count();
    for header in &headers[..headers.len() - our_count] {
        own.push(header.key.as_bytes(), header.value.unwrap_or_default());
    }
    own.end_record();
    let text = |name: &str| ours.get(name).copied().flatten().map(|v| String::from_utf8_lossy(v).into_owned());
    let source_topic = text(header::TOPIC);
    let is_cut = header::CUTS.iter().any(|name| ours.contains_key(name));
    let letter = letter_of(message, &own, &text).map_err(|why| {
        Failure::outside(format!("{}, {place}: the record is not a dead letter of keyfold: {why}", message.topic()))
    })?;
    Ok(StoredLetter { letter, source_topic, place, is_cut })
}

/// Returns the dead letter that a record holds, by its own headers and the text of ours; or why it holds none.
fn letter_of(
    message: &impl Message,
    own: &HeaderColumns,
    text: &dyn Fn(&str) -> Option<String>,
) -> Result<DeadLetter, String> {
    let needed = |name: &str| text(name).ok_or_else(|| format!("header {name} is missing"));
    let wrong = |name: &str, value: &str| format!("header {name} has the value {value:?}, which keyfold never writes");
    let number = |name: &str| {
        let value = needed(name)?;
        value.parse::<u64>().map_err(|_| wrong(name, &value))
    };
    let stage = needed(header::STAGE)?;
    let stage = Stage::named(&stage).ok_or_else(|| wrong(header::STAGE, &stage))?;
    // Earlier versions named a record here too.
    let is_placed = stage.names_a_record() || text(header::OFFSET).is_some();
    let place = |name| if is_placed { number(name) } else { Ok(0) };
    let (partition, offset) = (place(header::PARTITION)?, place(header::OFFSET)?);
    check_place(partition, offset)?;
    let time = text(header::TIMESTAMP);
    let append_time = time.map(|time| time.parse().map_err(|_| wrong(header::TIMESTAMP, &time))).transpose()?;
    let mut record = Records::default();
    record.push(RecordRef {
        partition: u32::try_from(partition).map_err(|_| wrong(header::PARTITION, &partition.to_string()))?,
        offset,
        append_time: append_time.unwrap_or(NO_TIME),
        key: message.key().filter(|_| text(header::NO_KEY).is_none()),
        payload: message.payload(),
        headers: Some((own, 0)),
    });
    let plugin = needed(header::PLUGIN)?;
    check_digest(&plugin)?;
    let event = text(header::EVENT);
    let deployment = text(header::DEPLOYMENT).map(|_| number(header::DEPLOYMENT)).transpose()?;
    Ok(DeadLetter {
        stage,
        reason: needed(header::REASON)?,
        plugin,
        deployment,
        event: event.map(|event| event.parse().map_err(|_| wrong(header::EVENT, &event))).transpose()?,
        record,
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

    use super::*;
    use crate::dead_letter::{open, redriven_headers, redriven_line, samples};

    fn letters() -> Vec<DeadLetter> {
        vec![
            samples::letter(Some(b"\xfe"), Some(b"\xff\x00"), &[(b"trace", b"x"), (b"keyfold.event", b"own")]),
            samples::letter(None, None, &[]),
            DeadLetter { event: None, stage: Stage::Fold, ..samples::letter(Some(b"k"), Some(b"{}"), &[]) },
        ]
    }

    fn all(config: &config::DeadLetters) -> Vec<StoredLetter> {
        let mut all = Vec::new();
        let mut take = |kept| {
            all.push(kept);
            Ok(true)
        };
        read(config, &mut take).expect("can be read");
        all
    }

    fn write(config: &config::DeadLetters) {
        let mut writer = open(config, Some("visits"), None).expect("opens");
        writer.write(&letters()).expect("writes");
        writer.flush().expect("is kept");
    }

    fn given_back(config: &config::DeadLetters, places: [&str; 3]) {
        write(config);
        let kept = all(config);
        assert_eq!(kept.iter().map(|kept| &kept.letter).collect::<Vec<_>>(), letters().iter().collect::<Vec<_>>());
        assert!(kept.iter().all(|kept| kept.source_topic.as_deref() == Some("visits")), "{kept:?}");
        assert_eq!(kept.iter().map(|kept| kept.place.as_str()).collect::<Vec<_>>(), places);
    }

    #[test]
    fn a_file_and_a_topic_return_what_was_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("letters.ndjson");
        assert!(all(&config::DeadLetters::File(path.clone())).is_empty(), "no dead letter was ever written");
        given_back(&config::DeadLetters::File(path), ["line 1", "line 2", "line 3"]);

        let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("needs nothing");
        cluster.create_topic("letters", 1, 1).expect("makes a topic");
        let (brokers, topic) = (cluster.bootstrap_servers(), "letters".to_owned());
        let config =
            config::DeadLetters::Topic { brokers, topic, properties: BTreeMap::new(), secret_files: BTreeMap::new() };
        given_back(&config, ["0/0", "0/1", "0/2"]);
    }

    #[test]
    fn a_line_that_is_being_written_is_skipped_and_another_file_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("letters.ndjson");
        let config = config::DeadLetters::File(path.clone());
        write(&config);
        let whole = std::fs::read(&path).expect("is there");
        std::fs::write(&path, &whole[..whole.len() - 1]).expect("is writable");
        assert_eq!(all(&config).len(), 2);
        std::fs::write(&path, b"{\"value\":\"x\"}\n").expect("is writable");
        let failure = read(&config, &mut |_| Ok(true)).expect_err("that is a log");
        assert!(failure.message.contains("line 1 is not a dead letter: missing field `reason`"), "{failure}");
    }

    #[test]
    fn a_forged_line_is_refused_by_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("letters.ndjson");
        let config = config::DeadLetters::File(path.clone());
        write(&config);
        let whole = std::fs::read_to_string(&path).expect("is there");
        for (from, to, words) in [
            ("\"partition\":3", "\"partition\":4294967295", "4294967295 is not the number of a partition"),
            ("\"offset\":42", "\"offset\":18446744073709551614", "is not an offset"),
            ("\"stage\":\"map\"", "\"stage\":\"mop\"", "unknown stage mop"),
            ("\"plugin\":\"ab", "\"plugin\":\"AB", "is not the SHA-256 of a plugin"),
        ] {
            std::fs::write(&path, whole.replacen(from, to, 1)).expect("is writable");
            let failure = read(&config, &mut |_| Ok(true)).expect_err("is forged");
            assert!(failure.message.contains("line 1 is not a dead letter: "), "{failure}");
            assert!(failure.message.contains(words), "{failure}");
        }
    }

    #[test]
    fn a_forged_record_is_refused_by_its_header() {
        let good = [
            (header::TOPIC, "visits"),
            (header::PARTITION, "3"),
            (header::OFFSET, "42"),
            (header::STAGE, "map"),
            (header::REASON, "wrong"),
            (header::PLUGIN, "abababababababababababababababababababababababababababababababab"),
        ];
        let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("needs nothing");
        let brokers = cluster.bootstrap_servers();
        for (i, (name, value)) in [
            (header::PARTITION, "4294967295"),
            (header::PARTITION, "-1"),
            (header::PARTITION, "x"),
            (header::OFFSET, "18446744073709551615"),
            (header::STAGE, "mop"),
            (header::PLUGIN, "none"),
            (header::EVENT, "-2"),
            (header::TIMESTAMP, "noon"),
        ]
        .into_iter()
        .enumerate()
        {
            let topic = format!("letters-{i}");
            cluster.create_topic(&topic, 1, 1).expect("makes a topic");
            let others = good.iter().copied().filter(|(other, _)| *other != name).chain([(name, value)]);
            let headers = others
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
            let producer: BaseProducer =
                ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("a producer");
            producer.send(BaseRecord::<(), str>::to(&topic).payload("x").headers(headers)).expect("there is room");
            producer.flush(Duration::from_secs(60)).expect("the brokers take it");
            let config = config::DeadLetters::Topic {
                brokers: brokers.clone(),
                topic,
                properties: BTreeMap::new(),
                secret_files: BTreeMap::new(),
            };
            let failure = read(&config, &mut |_| Ok(true)).expect_err("is forged");
            assert!(
                failure.message.contains("the record is not a dead letter of keyfold: "),
                "{name} {value}: {failure}"
            );
            assert!(failure.message.contains(value) || failure.message.contains(name), "{name} {value}: {failure}");
        }
    }

    #[test]
    fn a_redriven_record_names_the_one_that_it_repeats() {
        let kept = StoredLetter {
            letter: letters().remove(0),
            source_topic: Some("visits".into()),
            place: "line 1".into(),
            is_cut: false,
        };
        let headers = redriven_headers(&kept);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let named: Vec<String> = headers.of(0).map(|(name, value)| format!("{}={}", text(name), text(value))).collect();
        let expect = [
            "trace=x",
            "keyfold.event=own",
            "keyfold.redriven.topic=visits",
            "keyfold.redriven.partition=3",
            "keyfold.redriven.offset=42",
            "keyfold.redriven.timestamp=1727873508000",
        ];
        assert_eq!(named, expect);

        // A redriven record that became a dead letter again names the redriven one, not the first.
        let record = RecordRef { headers: Some((&headers, 0)), offset: 50, ..kept.letter.record.get(0) };
        let mut records = Records::default();
        records.push(record);
        let again = StoredLetter { letter: DeadLetter { record: records, ..kept.letter.clone() }, ..kept.clone() };
        assert_eq!(redriven_headers(&again).of(0).count(), expect.len());

        let line = String::from_utf8(redriven_line(record)).expect("JSON is text");
        assert!(
            line.starts_with(
                r#"{"value_base64":"/wA=","partition":3,"timestamp":1727873508000,"key_base64":"/g==","headers":"#
            ),
            "{line}"
        );
        assert!(record_of(line.as_bytes()).is_ok(), "{line}");
    }
}
