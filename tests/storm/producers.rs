//! The producers: some that send record by record, one of them with timestamps of the past, and some that use transactions, which they
//! commit, abort, or leave open. What they send may be lost while the broker is away; what counts is what is in the log.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};
use serde_json::{Value, json};

use crate::support::generate::TestRecord;
use crate::support::host::PATIENCE;
use crate::support::random::Random;
use crate::time::StormTime;
use crate::topics::{try_send, unready_producer};
use keyfold::clock::now_ms;

/// How long a call of a client may take before it is made again.
const CALL: Duration = Duration::from_secs(20);
/// Partitions of the topic.
pub(crate) const PARTITIONS: i32 = 4;
const KEYS: u64 = 60;

/// A topic that is written until the storm is over.
pub(crate) struct Producers<'a> {
    brokers: String,
    topic: &'a str,
    time: &'a StormTime,
    /// Whether a partition has keys of its own.
    by_partition: bool,
    events: AtomicU64,
}

/// What was done with transactions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transactions {
    pub(crate) committed: u32,
    pub(crate) aborted: u32,
    /// Left open for a while, until the next one of the same id took its place.
    pub(crate) left: u32,
    /// Ended by an error, since the broker was away.
    pub(crate) failed: u32,
}

impl fmt::Display for Transactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Transactions { committed, aborted, left, failed } = self;
        write!(f, "{committed} committed, {aborted} aborted, {left} left open, {failed} failed")
    }
}

impl Transactions {
    /// Those of several producers.
    pub(crate) fn sum(all: &[Transactions]) -> Transactions {
        let of = |count: fn(&Transactions) -> u32| all.iter().map(count).sum();
        Transactions {
            committed: of(|t| t.committed),
            aborted: of(|t| t.aborted),
            left: of(|t| t.left),
            failed: of(|t| t.failed),
        }
    }
}

impl<'a> Producers<'a> {
    pub(crate) fn new(brokers: String, topic: &'a str, by_partition: bool, time: &'a StormTime) -> Producers<'a> {
        Producers { brokers, topic, time, by_partition, events: AtomicU64::new(0) }
    }

    /// How many events were sent.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Sends `rate` records a second into these partitions, stamped this much in the past.
    pub(crate) fn send_plain(&self, random: &mut Random, partitions: &[u32], rate: u64, behind_ms: i64) {
        let mut producer = unready_producer(&self.brokers, None);
        let (began, mut sent) = (Instant::now(), 0);
        while self.time.goes_on() {
            if is_due(sent, rate, began) {
                let record = self.record(random, partitions, behind_ms);
                if try_send(&producer, self.topic, &record).is_err() {
                    producer = unready_producer(&self.brokers, None);
                }
                sent += 1;
            } else {
                producer.poll(Duration::ZERO);
                thread::sleep(Duration::from_millis(2));
            }
        }
        if self.time.is_calm() {
            producer.flush(PATIENCE).expect("the broker acknowledges once the storm is over");
        }
    }

    /// Sends `rate` records a second into these partitions, in transactions of this id. There is none now and then.
    pub(crate) fn send_in_transactions(
        &self,
        id: &str,
        random: &mut Random,
        partitions: &[u32],
        rate: u64,
    ) -> Transactions {
        let mut done = Transactions::default();
        while self.time.goes_on() {
            let producer = unready_producer(&self.brokers, Some(id));
            if producer.init_transactions(CALL).is_err() {
                continue;
            }
            while self.time.goes_on() {
                match self.transaction(&producer, random, (partitions, rate), &mut done) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => {
                        done.failed += 1;
                        break;
                    }
                }
            }
        }
        self.end_transactions(id);
        done
    }

    /// Whatever was left open ends.
    fn end_transactions(&self, id: &str) {
        let until = Instant::now() + PATIENCE;
        while self.time.is_calm() {
            let last = unready_producer(&self.brokers, Some(id));
            match last.init_transactions(CALL) {
                Ok(()) => return,
                Err(error) => {
                    crate::say(&format!("transactions of {id} cannot be ended yet: {error}"));
                    assert!(Instant::now() < until, "transactions of {id} cannot be ended, although the storm is over");
                }
            }
        }
    }

    /// One transaction; whether the producer is good for another one.
    fn transaction(
        &self,
        producer: &BaseProducer,
        random: &mut Random,
        (partitions, rate): (&[u32], u64),
        done: &mut Transactions,
    ) -> Result<bool, KafkaError> {
        let rest = Duration::from_millis(random.between(0, 6_000).unsigned_abs());
        self.time.reaches(self.time.elapsed() + rest);
        producer.begin_transaction()?;
        let length = Duration::from_millis(random.between(20, 1_500).unsigned_abs());
        let (began, mut sent) = (Instant::now(), 0);
        while began.elapsed() < length && self.time.goes_on() {
            if is_due(sent, rate, began) {
                let record = self.record(random, partitions, 0);
                try_send(producer, self.topic, &record)?;
                sent += 1;
            } else {
                producer.poll(Duration::from_millis(2));
            }
        }
        producer.flush(CALL)?;
        match random.below(10) {
            0..6 => {
                producer.commit_transaction(CALL)?;
                done.committed += 1;
            }
            6..8 => {
                producer.abort_transaction(CALL)?;
                done.aborted += 1;
            }
            _ => {
                let open = Duration::from_millis(random.between(200, 4_000).unsigned_abs());
                self.time.reaches(self.time.elapsed() + open);
                done.left += 1;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn record(&self, random: &mut Random, partitions: &[u32], behind_ms: i64) -> TestRecord {
        let now = now_ms();
        let partition = *random.pick(partitions);
        let value = match random.below(100) {
            0 => "not json".to_owned(),
            kind @ 1..8 => {
                let events = (1..kind).map(|_| self.event(random, partition, now));
                json!({"events": events.collect::<Vec<Value>>()}).to_string()
            }
            _ => self.event(random, partition, now).to_string(),
        };
        let timestamp = now - behind_ms - random.between(0, 20);
        TestRecord { partition, offset: 0, timestamp, key: None, value: Some(value.into_bytes()) }
    }

    fn event(&self, random: &mut Random, partition: u32, now: i64) -> Value {
        let time = match random.below(50) {
            0 => now - random.between(1_500, 20_000),
            1..6 => now - random.between(500, 3_000),
            _ => now - random.between(0, 400),
        };
        let whose = if self.by_partition { format!("p{partition}-") } else { String::new() };
        let v = self.events.fetch_add(1, Ordering::Relaxed);
        json!({"key": format!("{whose}k{}", random.below(KEYS)), "time": time, "v": v})
    }
}

/// Whether it is time for one more of so many a second.
fn is_due(sent: u64, rate: u64, began: Instant) -> bool {
    u128::from(sent) * 1_000_000 < began.elapsed().as_micros() * u128::from(rate)
}
