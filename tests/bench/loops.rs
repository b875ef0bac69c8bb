//! Loops over the topic without keyfold: by message or by batch, with nothing, or with a parser and [`Fold`].

use std::borrow::Cow;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::bindings as rdk;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::fold::Fold;
use crate::variant::{TOPIC, Variant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Messages of a batch at most.
const BATCH: usize = 4096;

/// Runs a loop over `events` records; how many rows it made.
pub(crate) fn run(variant: Variant, brokers: &str, events: u64) -> u64 {
    let consumer = consumer(brokers);
    let mut fold = Fold::new();
    let mut bytes = 0;
    match variant {
        Variant::Raw => by_message(&consumer, events, |_, payload| bytes += payload.len()),
        Variant::RawBatch => by_batch(&consumer, events, |_, payload| bytes += payload.len()),
        Variant::Plain => by_message(&consumer, events, |append_ms, payload| serde(&mut fold, append_ms, payload)),
        Variant::PlainBatch => by_batch(&consumer, events, |append_ms, payload| plugin(&mut fold, append_ms, payload)),
        other => panic!("{} is no loop", other.name()),
    }
    std::hint::black_box(bytes);
    fold.rows
}

/// What one would write by hand.
#[derive(serde::Deserialize)]
struct Visit<'a> {
    user_id: i64,
    #[serde(borrow)]
    page: Cow<'a, str>,
    #[serde(borrow)]
    event_time: Cow<'a, str>,
}

fn serde(fold: &mut Fold, append_ms: i64, payload: &[u8]) {
    let visit: Visit<'_> = serde_json::from_slice(payload).expect("the log is sound");
    let event_time: jiff::Timestamp = visit.event_time.parse().expect("the log is sound");
    fold.visit(append_ms, visit.user_id, &visit.page, event_time.as_millisecond());
}

fn plugin(fold: &mut Fold, append_ms: i64, payload: &[u8]) {
    let visit = visits::parse::visit(payload).expect("the log is sound");
    fold.visit(append_ms, visit.user_id, &visit.page, visit.event_time);
}

/// With the settings of keyfold's own consumer that cost or save time.
fn consumer(brokers: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "loops").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("enable.auto.offset.store", "false");
    config.set("fetch.queue.backoff.ms", "5").set("fetch.wait.max.ms", "50");
    let consumer: BaseConsumer = config.create().expect("a valid configuration");
    let mut list = TopicPartitionList::new();
    for partition in [0, 1] {
        list.add_partition_offset(TOPIC, partition, Offset::Beginning).expect("a valid offset");
    }
    consumer.assign(&list).expect("a valid assignment");
    consumer
}

fn by_message(consumer: &BaseConsumer, events: u64, mut each: impl FnMut(i64, &[u8])) {
    for _ in 0..events {
        let message = consumer.poll(PATIENCE).expect("the log is as long as it was made").expect("the broker answers");
        each(message.timestamp().to_millis().unwrap_or(0), message.payload().unwrap_or_default());
    }
}

fn by_batch(consumer: &BaseConsumer, events: u64, mut each: impl FnMut(i64, &[u8])) {
    // SAFETY: the client is alive; the reference is given back below.
    let queue = NonNull::new(unsafe { rdk::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) });
    let queue = queue.expect("a consumer has a queue");
    let mut messages = vec![ptr::null_mut(); BATCH];
    let mut left = events;
    while left > 0 {
        // SAFETY: the queue is alive, and there is room for as many pointers as are asked for.
        let filled = unsafe { rdk::rd_kafka_consume_batch_queue(queue.as_ptr(), 100, messages.as_mut_ptr(), BATCH) };
        let filled = usize::try_from(filled).expect("the broker answers");
        for &message in &messages[..filled] {
            // SAFETY: librdkafka gave the message away; it is destroyed once, after its last use.
            unsafe {
                let (timestamp, payload) = content(&*message);
                each(timestamp, payload);
                rdk::rd_kafka_message_destroy(message);
            }
            left -= 1;
        }
    }
    // SAFETY: taken above, given back once.
    unsafe { rdk::rd_kafka_queue_destroy(queue.as_ptr()) };
}

/// Timestamp and payload.
///
/// # Safety
/// The message is one of librdkafka's that was not destroyed.
unsafe fn content(message: &rdk::rd_kafka_message_t) -> (i64, &[u8]) {
    assert!(message.err as i32 == 0 && !message.payload.is_null(), "the log is sound");
    let mut kind = rdk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: the message is alive, and its payload is as long as it says.
    unsafe {
        let timestamp = rdk::rd_kafka_message_timestamp(message, &raw mut kind);
        (timestamp, std::slice::from_raw_parts(message.payload.cast(), message.len))
    }
}
