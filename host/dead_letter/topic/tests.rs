//! Dead letters in the topic of a mock cluster.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::config::DeadLetters;
use crate::dead_letter::{check, open, samples};
use crate::failure::Exit;

fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).expect("starts");
    cluster.create_topic("letters", 1, 1).expect("makes a topic");
    cluster
}

fn config(brokers: &str, topic: &str, properties: &[(&str, &str)]) -> DeadLetters {
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    DeadLetters::Topic {
        brokers: brokers.to_owned(),
        topic: topic.to_owned(),
        properties,
        secret_files: BTreeMap::new(),
    }
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
        let headers = headers.map(|h| format!("{}={}", h.key, String::from_utf8_lossy(h.value.unwrap_or_default())));
        Kept { key: m.key().map(<[u8]>::to_vec), payload: m.payload().map(<[u8]>::to_vec), headers: headers.collect() }
    });
    read.collect()
}

#[test]
fn a_dead_letter_keeps_its_bytes_and_says_what_happened_in_headers() {
    let cluster = cluster();
    let brokers = cluster.bootstrap_servers();
    let mut writer = open(&config(&brokers, "letters", &[]), Some("visits"), None).expect("opens");
    writer
        .write(&[samples::letter(Some(b"\xfe"), Some(b"\xff"), &[(b"trace", b"x")]), samples::letter(None, None, &[])])
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
        "keyfold.deployment=2",
        "keyfold.event=0",
        "keyfold.timestamp=1727873508000",
    ];
    assert_eq!(read[0].headers, expect);
    assert_eq!(read[1].headers, expect[1..]);
}

#[test]
fn a_missing_topic_is_refused_and_not_created() {
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
fn an_unavailable_broker_is_waited_for() {
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
fn a_dead_letter_that_was_too_large_with_others_is_sent_again_alone_and_whole() {
    let cluster = cluster();
    let brokers = cluster.bootstrap_servers();
    let mut writer = open(&config(&brokers, "letters", &[]), None, None).expect("opens");
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    writer.write(&[samples::letter(None, Some(b"large"), &[(b"own", b"x")])]).expect("is queued");
    writer.flush().expect("it is sent again");
    let kept = &read(&brokers, 1)[0];
    assert_eq!(kept.payload.as_deref(), Some(&b"large"[..]));
    assert_eq!((kept.headers.len(), kept.headers[0].as_str()), (9, "own=x"));
}

#[test]
fn a_dead_letter_too_large_for_its_topic_is_cut_to_half_until_it_fits() {
    let cluster = cluster();
    let brokers = cluster.bootstrap_servers();
    let mut writer = open(&config(&brokers, "letters", &[]), None, None).expect("opens");
    // Refused as it is, refused alone, refused at half its size.
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 3]);
    writer.write(&[samples::letter(Some(b"k"), Some(&[b'p'; 100_000]), &[])]).expect("is queued");
    writer.flush().expect("it is cut");
    let kept = &read(&brokers, 1)[0];
    let payload = kept.payload.as_ref().expect("there is a part of it");
    assert!((20_000..25_200).contains(&payload.len()), "{}", payload.len());
    assert_eq!(kept.key.as_deref(), Some(&b"k"[..]));
    let cut = "keyfold.cut.payload.bytes=100000";
    assert!(kept.headers.iter().any(|header| header == cut), "{:?}", kept.headers);
}

#[test]
fn a_dead_letter_too_large_for_the_producer_is_cut_too() {
    let cluster = cluster();
    let brokers = cluster.bootstrap_servers();
    let properties = [("message.max.bytes", "10000")];
    let mut writer = open(&config(&brokers, "letters", &properties), None, None).expect("opens");
    writer
        .write(&[samples::letter(None, Some(&[b'p'; 30_000]), &[]), samples::letter(None, Some(b"small"), &[])])
        .expect("is cut");
    writer.flush().expect("is acknowledged");
    let payloads: Vec<usize> = read(&brokers, 2).iter().map(|kept| kept.payload.as_ref().map_or(0, Vec::len)).collect();
    assert!((5_000..10_000).contains(&payloads[0]) && payloads[1] == 5, "{payloads:?}");
}

#[test]
fn a_dead_letter_that_no_size_fits_halts_and_is_not_dropped() {
    let cluster = cluster();
    let mut writer = open(&config(&cluster.bootstrap_servers(), "letters", &[]), None, None).expect("opens");
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 20]);
    writer.write(&[samples::letter(None, Some(b"large"), &[])]).expect("is queued");
    let failure = writer.flush().expect_err("is refused");
    assert_eq!(failure.exit, Exit::Outside);
    assert!(
        failure.message.starts_with("cannot write the dead letter of partition 3, offset 42 to topic letters: "),
        "{failure}"
    );
    assert!(failure.message.contains("raise max.message.bytes of the topic and restart"), "{failure}");
}

#[test]
fn a_dead_letter_without_a_key_gets_one_where_the_topic_takes_none_without() {
    let cluster = cluster();
    let brokers = cluster.bootstrap_servers();
    let mut writer = open(&config(&brokers, "letters", &[]), None, None).expect("opens");
    // Refused as it is, refused alone.
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD; 2]);
    writer.write(&[samples::letter(None, Some(b"keyless"), &[(b"own", b"x")])]).expect("is queued");
    writer.flush().expect("it is sent with a key");
    let kept = &read(&brokers, 1)[0];
    assert_eq!((kept.key.as_deref(), kept.payload.as_deref()), (Some(&b"3/42/map/0"[..]), Some(&b"keyless"[..])));
    assert!(kept.headers.iter().any(|header| header == "keyfold.key.none=true"), "{:?}", kept.headers);
}

#[test]
fn a_refusal_that_no_other_form_mends_names_the_settings_of_the_topic() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_INVALID_RECORD as INVALID_RECORD, RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP as INVALID_TIMESTAMP,
    };
    for (error, key, words) in [
        (INVALID_TIMESTAMP, None, "message.timestamp.type=LogAppendTime"),
        (INVALID_RECORD, None, "cleanup.policy=delete"),
        (INVALID_RECORD, Some(&b"k"[..]), "cleanup.policy=delete"),
    ] {
        let cluster = cluster();
        let mut writer = open(&config(&cluster.bootstrap_servers(), "letters", &[]), None, None).expect("opens");
        cluster.request_errors(RDKafkaApiKey::Produce, &[error; 5]);
        writer.write(&[samples::letter(key, Some(b"refused"), &[])]).expect("is queued");
        let failure = writer.flush().expect_err("is refused");
        assert!(failure.message.contains(words) && failure.message.contains("partition 3, offset 42"), "{failure}");
    }
}

#[test]
fn an_unreachable_broker_is_named() {
    let failure = open(&config("127.0.0.1:1", "letters", &[]), None, None).err().expect("is refused");
    assert_eq!(failure.exit, Exit::Outside);
    assert!(failure.message.starts_with("dead_letters: cannot reach any of 127.0.0.1:1: "), "{failure}");
}

#[test]
fn properties_that_could_lose_dead_letters_are_refused_by_name() {
    for name in ["acks", "delivery.timeout.ms"] {
        let failure = open(&config("127.0.0.1:1", "letters", &[(name, "1")]), None, None).err().expect("is refused");
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.message.starts_with(&format!("dead_letters.properties: {name} decides")), "{failure}");
    }
}
