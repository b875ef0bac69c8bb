//! The log: visits of random users in order of append time, spread over two partitions at random, each up to 3 s old when it is appended.

use crate::support::generate::TestRecord;
use crate::support::random::Random;
use crate::topics::{create_topic, producer, send};
use crate::variant::{EMPTY, TOPIC};

/// 2024-10-02T12:51:48Z in ms.
const BEGINNING: i64 = 1_727_873_508_000;
/// From the first record's append time to the last one's, ms.
const SPAN_MS: u64 = 1_125_000;

/// Makes both topics and fills one.
pub(crate) fn fill(brokers: &str, events: u64, users: u64) {
    create_topic(brokers, TOPIC, 2, &[]);
    create_topic(brokers, EMPTY, 2, &[]);
    let producer = producer(brokers, None);
    let mut random = Random::new(20_241_002);
    for i in 0..events {
        send(&producer, TOPIC, &visit(i, events, users, &mut random));
    }
    rdkafka::producer::Producer::flush(&producer, std::time::Duration::from_secs(60)).expect("the broker acknowledges");
}

fn visit(i: u64, events: u64, users: u64, random: &mut Random) -> TestRecord {
    let timestamp = BEGINNING + i64::try_from(i * SPAN_MS / events).expect("the span is short");
    let event_time =
        jiff::Timestamp::from_millisecond(timestamp - random.between(0, 3000)).expect("a time of our days");
    let (user, page) = (random.below(users) + 1, random.below(500));
    let value = format!(r#"{{"user_id": {user}, "page": "page-{page}.html", "event_time": "{event_time:.3}"}}"#);
    let partition = u32::try_from(random.below(2)).expect("0 or 1");
    TestRecord { partition, offset: 0, timestamp, key: None, value: Some(value.into_bytes()) }
}
