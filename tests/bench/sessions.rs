//! A topic of visits for the built-in plugin, of users whose sessions stay open, in order of time.

use std::time::Duration;

use rdkafka::producer::Producer;

use crate::support::generate::TestRecord;
use crate::support::settings::{ADMIN, Settings};
use crate::topics::{create_topic, producer, send};

/// 2024-10-02T12:51:48Z in ms.
const BEGINNING: i64 = 1_727_873_508_000;
/// Visits in a millisecond of event time.
const VISITS_PER_MS: u64 = 10;
/// A timeout that no log of this bench is long enough for.
pub(crate) const OPEN: &str = "8760h";
/// Users take turns by this step, a prime, so that neighbours in time are no neighbours in the store.
const STEP: u64 = 7_368_787;

/// The topic, and how many visits it has.
#[derive(Clone, Debug)]
pub(crate) struct Visits {
    brokers: String,
    topic: &'static str,
    partitions: u32,
    sent: u64,
}

impl Visits {
    /// A new topic of one partition.
    pub(crate) fn new(brokers: &str, topic: &'static str) -> Visits {
        Visits::over(brokers, topic, 1)
    }

    /// A new topic of so many partitions, which take turns.
    pub(crate) fn over(brokers: &str, topic: &'static str, partitions: u32) -> Visits {
        create_topic(brokers, topic, i32::try_from(partitions).expect("few partitions"), &[]);
        Visits { brokers: brokers.to_owned(), topic, partitions, sent: 0 }
    }

    /// The configuration that folds it and drops all rows, with this much memory for keys, or the default.
    pub(crate) fn settings_within(
        &self,
        session_timeout: &str,
        checkpoint_interval: &str,
        memory: Option<&'static str>,
    ) -> String {
        let plugin = format!("component = \"builtin:visits\"\nconfig = {{ session_timeout = \"{session_timeout}\" }}");
        let (sink, checkpoint_interval) = ("[sink.discard]".to_owned(), checkpoint_interval.to_owned());
        let settings = Settings { plugin, sink, checkpoint_interval, memory, ..Settings::default() };
        format!("{}{ADMIN}", settings.over_kafka(&self.brokers, self.topic).to_toml())
    }

    /// The same with the default.
    pub(crate) fn settings(&self, session_timeout: &str, checkpoint_interval: &str) -> String {
        self.settings_within(session_timeout, checkpoint_interval, None)
    }

    /// Adds a visit of each of these users; back when all are acknowledged.
    pub(crate) fn append(&mut self, users: impl Iterator<Item = u64>) {
        let producer = producer(&self.brokers, None);
        for user in users {
            send(&producer, self.topic, &self.next(user));
        }
        producer.flush(Duration::from_secs(60)).expect("the broker acknowledges");
    }

    /// The next visit, of this user.
    pub(crate) fn next(&mut self, user: u64) -> TestRecord {
        let timestamp = BEGINNING + i64::try_from(self.sent / VISITS_PER_MS).expect("the log is short");
        let time = jiff::Timestamp::from_millisecond(timestamp).expect("a time of our days");
        let page = self.sent % 500;
        let partition = u32::try_from(self.sent % u64::from(self.partitions)).expect("below their number");
        self.sent += 1;
        let value = format!(r#"{{"user_id": {user}, "page": "page-{page}.html", "event_time": "{time:.3}"}}"#);
        TestRecord { partition, offset: 0, timestamp, key: None, value: Some(value.into_bytes()) }
    }

    /// Its broker and name.
    pub(crate) fn place(&self) -> (&str, &'static str) {
        (&self.brokers, self.topic)
    }
}

/// So many users of `1..=keys`, far from each other; all of them come once before one comes twice.
pub(crate) fn in_turn(visits: u64, keys: u64) -> impl Iterator<Item = u64> {
    let step = if keys.is_multiple_of(STEP) { 1 } else { STEP };
    (0..visits).map(move |i| i * step % keys + 1)
}
