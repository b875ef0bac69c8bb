//! Kafka as a source. A host has one [`Hub`] for a topic: one librdkafka consumer with explicit positions (no group membership, no stored offsets) and
//! a queue for each lane, read by batch on a few threads, and a second client, with a thread, that only asks (D73). A [`KafkaSource`] is the end of it
//! that one lane holds.
//!
//! Owns the translation of librdkafka's messages into columns, of its end-of-partition events into positions, and of its errors into
//! those of a source. It refuses to guess: silence is not emptiness, and a log that does not hold the next offset is an error.
//! Configuration and start-up questions are `broker.rs`'s, opening and closing of lanes `hub.rs`'s, emptiness `emptiness.rs`'s,
//! recreated topics `identity.rs`'s.
//!
//! Memory: about eight parcels of [`reader::CHUNK_RECORDS`] records or `CHUNK_BYTES` each wait in a lane's mailbox; behind it librdkafka holds, for each
//! lane, what `queued.max.messages.kbytes` allows (32 MiB for one lane, 128 MiB for all of them, but 2 MiB for each), and one answer more. A full mailbox
//! stops the reading of its lane, a full queue the fetching; no other lane's.

mod asker;
mod broker;
mod emptiness;
mod hub;
mod identity;
mod mailbox;
pub mod member;
mod native;
pub mod produce;
mod reader;
pub mod rights;
mod rota;
pub mod secrets;
pub mod survey;
#[cfg(test)]
mod tests;
mod voice;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::clock;
use crate::config;
use crate::failure::Failure;
use crate::observe::ends::Ends;
use crate::position::{Offset, Partition, TopicId};
use crate::source::kafka::hub::Lane;
use crate::source::kafka::mailbox::Trouble;
use crate::source::{Arrival, Source, Start};

pub use crate::source::kafka::broker::{DEFAULTS, RESERVED, Timestamps, Topic, check_files, check_properties, inspect};
pub use crate::source::kafka::hub::Hub;

/// Partitions of a topic that one lane reads.
pub struct KafkaSource {
    hub: Arc<Hub>,
    lane: Arc<Lane>,
    /// What is left of the parcel that came last.
    arrivals: VecDeque<Arrival>,
    /// The question for the topic's id that was asked last.
    question: Option<u64>,
}

impl KafkaSource {
    /// Starts reading the partitions of `starts` alone, up to the ends as of now if `until_end`. Brokers are waited for until
    /// `startup_deadline`; a log that does not fit the starts is refused.
    pub fn open(
        config: &config::KafkaSource,
        starts: &[Start],
        until_end: bool,
        startup_deadline: Instant,
    ) -> Result<KafkaSource, Failure> {
        let hub = Arc::new(Hub::begin(config, startup_deadline)?);
        let source = hub.open(starts, until_end, startup_deadline)?;
        let left = startup_deadline.saturating_duration_since(clock::instant());
        match source.lane.mailbox.wait_until_verified(left) {
            Ok(true) => Ok(source),
            Ok(false) => Err(Failure::outside(format!(
                "topic {}: the last records that were folded could not be had from {} in time; see that the brokers run",
                config.topic, config.brokers
            ))),
            Err(trouble) => Err(source.failure(trouble)),
        }
    }

    fn new(hub: Arc<Hub>, lane: Arc<Lane>) -> KafkaSource {
        KafkaSource { hub, lane, arrivals: VecDeque::new(), question: None }
    }

    /// The topic's id as reading started; none if the brokers have no ids.
    pub fn topic_id(&self) -> Option<TopicId> {
        self.hub.shared().topic_id()
    }

    /// The offset at which reading each partition started.
    pub fn first_offsets(&self) -> Vec<(Partition, Offset)> {
        self.lane.first_offsets.clone()
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        self.hub.shared().explain(trouble)
    }
}

impl Source for KafkaSource {
    fn partitions(&self) -> &[Partition] {
        &self.lane.partitions
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Arrival>, Failure> {
        if self.arrivals.is_empty() {
            let taken = self.lane.mailbox.take(timeout).map_err(|trouble| self.failure(trouble))?;
            if taken.has_made_room {
                self.hub.shared().call(&self.lane);
            }
            self.arrivals.extend(taken.arrivals);
        }
        Ok(self.arrivals.pop_front())
    }

    fn ask(&mut self, partitions: &[Partition], after_ms: i64) {
        self.hub.shared().ask(&self.lane, partitions, after_ms);
    }

    fn hold(&mut self, partitions: &[Partition]) {
        if self.lane.wanted.hold(partitions) {
            self.hub.shared().call(&self.lane);
        }
    }

    fn commit(&mut self, next: &[(Partition, Offset)]) {
        self.hub.shared().commit(next);
    }

    fn ends(&self) -> Option<Arc<Ends>> {
        Some(Arc::clone(&self.lane.ends))
    }

    fn ask_log_id(&mut self) {
        // Where none was told yet, the thread that asks looks on, in case it is told later.
        let shared = self.hub.shared();
        self.question = shared.topic_id().is_some().then(|| shared.desk.ask_id());
    }

    fn log_id(&mut self) -> Result<Poll<Option<TopicId>>, Failure> {
        let Some(question) = self.question else { return Ok(Poll::Ready(None)) };
        match self.hub.shared().desk.id(question) {
            Some(told) => told.map(Poll::Ready),
            None => self.hub.shared().failure().map_or(Ok(Poll::Pending), Err),
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.hub.shared().close(&self.lane);
    }
}
