//! A live topic: a producer that goes on until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::producer::Producer;
use serde_json::json;

use crate::support::generate::TestRecord;
use crate::support::host::PATIENCE;
use crate::topics::{create_topic, producer, send};

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_millis()).expect("the clock is before the year 292 million")
}

/// A topic whose times are the broker's, and a thread that fills it until told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: thread::JoinHandle<u64>,
}

impl Load {
    /// `rate` events a second in two partitions, or what the machine carries.
    pub(crate) fn start(brokers: &str, topic: &'static str, rate: u64) -> Load {
        Load::over(brokers, topic, rate, 2, |i| u32::from(i.is_multiple_of(3)))
    }

    /// The same, with event `i` in the partition that `partition_of` says.
    pub(crate) fn over(
        brokers: &str,
        topic: &'static str,
        rate: u64,
        partitions: i32,
        partition_of: fn(u64) -> u32,
    ) -> Load {
        create_topic(brokers, topic, partitions, &[("message.timestamp.type", "LogAppendTime")]);
        Load::onto(brokers, topic, rate, move |i| event(i, partition_of(i)))
    }

    /// `rate` records a second, made by `record`, in a topic that is there.
    pub(crate) fn onto(
        brokers: &str,
        topic: &'static str,
        rate: u64,
        mut record: impl FnMut(u64) -> TestRecord + Send + 'static,
    ) -> Load {
        let (brokers, stop) = (brokers.to_owned(), Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&stop);
        let total = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&total);
        let thread = thread::spawn(move || {
            let producer = producer(&brokers, None);
            let (began, mut sent) = (Instant::now(), 0_u64);
            while !told.load(Ordering::Relaxed) {
                if u128::from(sent) * 1_000_000 < began.elapsed().as_micros() * u128::from(rate) {
                    send(&producer, topic, &record(sent));
                    sent += 1;
                } else {
                    counted.store(sent, Ordering::Relaxed);
                    producer.poll(Duration::ZERO);
                    thread::sleep(Duration::from_millis(5));
                }
            }
            producer.flush(PATIENCE).expect("the broker acknowledges");
            sent
        });
        Load { stop, sent: total, thread }
    }

    /// How many events there are by now, about; their `v` counts up.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops it; how many events there were.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the producer ends")
    }
}

fn event(i: u64, partition: u32) -> TestRecord {
    let value = json!({"key": format!("k{}", i % 997), "time": now_ms(), "v": i}).to_string().into_bytes();
    TestRecord { partition, offset: 0, timestamp: now_ms(), key: None, value: Some(value) }
}
