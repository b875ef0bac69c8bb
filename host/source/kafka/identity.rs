//! Whether a topic is still the one that reading began with. librdkafka reads on at the same offset in a topic that was deleted and
//! made anew under its name, so its id is watched, and so is that it gains no partitions, which nobody would read. Brokers before 2.8 have
//! no ids; for them only the last records are compared at the start.

use std::ffi::CString;
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::bindings as rdk;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaAdminOp;

use crate::clock;
use crate::config::{self, Hosts, Ordering};
use crate::failure::Failure;
use crate::position::{Partition, TopicId};
use crate::source::grown;
use crate::source::kafka::broker::{MADE_ANEW, Voice, ascending};

/// How often the topic is looked at, and so how long records of another one may go unnoticed.
const INTERVAL: Duration = Duration::from_secs(2);

/// What the brokers say of the topic's id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Identity {
    /// Its id.
    Known(TopicId),
    /// There is no such topic.
    Missing,
    /// The brokers have no ids, or there is no controller to ask.
    Without,
    /// Nobody answers.
    #[default]
    Unsaid,
}

/// What a look at the topic gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Its identity.
    pub(super) identity: Identity,
    /// Its partitions, ascending; none if nobody answers.
    pub(super) partitions: Vec<Partition>,
    /// Whether questions to the controller have somebody to go to: librdkafka's mock brokers have none, and would be waited for.
    pub(super) has_controller: bool,
}

/// The topic as reading began, and what was seen since.
pub(super) struct Watch {
    topic: String,
    ordering: Ordering,
    hosts: Hosts,
    id: Option<TopicId>,
    partitions: Vec<Partition>,
    missing: bool,
    next_look: Instant,
}

impl Watch {
    /// Begins with what is seen now.
    pub(super) fn new(config: &config::KafkaSource, partitions: &[Partition], id: Option<TopicId>) -> Watch {
        Watch {
            topic: config.topic.clone(),
            ordering: config.ordering,
            hosts: config.hosts,
            id,
            partitions: partitions.to_vec(),
            missing: false,
            next_look: clock::instant() + INTERVAL,
        }
    }

    /// Whether it is time to look again.
    pub(super) fn is_due(&self) -> bool {
        clock::instant() >= self.next_look
    }

    /// The id, if the brokers have said it.
    pub(super) fn id(&self) -> Option<&TopicId> {
        self.id.as_ref()
    }

    /// Compares; a topic is gone only when it was missing twice, since a broker that has just started may not know it yet.
    pub(super) fn check(&mut self, seen: &Look) -> Result<(), Failure> {
        self.next_look = clock::instant() + INTERVAL;
        let is_missing = seen.identity == Identity::Missing;
        if is_missing && self.missing {
            let message = format!("topic {} was deleted while it was read; start again once it is there", self.topic);
            return Err(Failure::outside(message));
        }
        self.missing = is_missing;
        self.compare(&seen.identity)?;
        self.compare_partitions(&seen.partitions)
    }

    /// Compares the id, and takes the first one that is told.
    pub(super) fn compare(&mut self, seen: &Identity) -> Result<(), Failure> {
        let Identity::Known(id) = seen else { return Ok(()) };
        match &self.id {
            Some(first) if first != id => Err(Failure::state(format!(
                "topic {} was deleted and made anew while it was read (its id was {first}, now it is {id}): {MADE_ANEW}",
                self.topic
            ))),
            Some(_) => Ok(()),
            None => {
                self.id = Some(id.clone());
                Ok(())
            }
        }
    }

    /// A partition that nobody reads must not go unnoticed.
    fn compare_partitions(&self, seen: &[Partition]) -> Result<(), Failure> {
        let new: Vec<Partition> = seen.iter().copied().filter(|p| !self.partitions.contains(p)).collect();
        if new.is_empty() || (self.ordering == Ordering::Partition && self.hosts == Hosts::Many) {
            return Ok(()); // the group assigns what is new to one of its members
        }
        Err(match self.ordering {
            Ordering::Topic => Failure::state(grown(seen, &self.partitions)),
            Ordering::Partition => Failure::outside(format!(
                "topic {} has gained partitions {new:?}, which no lane reads yet: start again, and each gets a lane of its own",
                self.topic
            )),
        })
    }
}

/// A thing of librdkafka's that is ours to destroy.
pub(super) struct Owned<T> {
    pub(super) thing: *mut T,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// None for a null pointer.
    ///
    /// # Safety
    /// `thing` is null or ours, and `destroy` is how it is given back.
    pub(super) unsafe fn new(thing: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Owned<T>> {
        (!thing.is_null()).then_some(Owned { thing, destroy })
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `new` was promised that this is right, and it happens once.
        unsafe { (self.destroy)(self.thing) }
    }
}

/// Whether questions to the controller have somebody to go to. The metadata was had by this client just now.
pub(super) fn has_controller<C: ClientContext>(client: &Client<C>, metadata: &Metadata) -> bool {
    // SAFETY: the client is alive.
    let controller = unsafe { rdk::rd_kafka_controllerid(client.native_ptr(), 0) };
    metadata.brokers().iter().any(|broker| broker.id() == controller)
}

/// Looks at the topic.
pub(super) fn look(client: &BaseConsumer<Voice>, topic: &str, timeout: Duration) -> Look {
    let Ok(metadata) = client.fetch_metadata(Some(topic), timeout) else { return Look::default() };
    let found = metadata.topics().first().filter(|topic| topic.error().is_none());
    let partitions = found.map_or_else(Vec::new, |topic| ascending(topic.partitions().iter().map(|p| p.id())));
    let has_controller = has_controller(client.client(), &metadata);
    let identity = if has_controller { identity(client, topic, timeout) } else { Identity::Without };
    Look { identity, partitions, has_controller }
}

/// Asks for the topic's id alone.
pub(super) fn identity(client: &BaseConsumer<Voice>, topic: &str, timeout: Duration) -> Identity {
    describe(client.client().native_ptr(), topic, timeout).unwrap_or(Identity::Unsaid)
}

/// The client has to outlive the call.
fn describe(client: *mut rdk::rd_kafka_t, topic: &str, timeout: Duration) -> Option<Identity> {
    let timeout_ms = i32::try_from(timeout.as_millis()).ok()?;
    let name = CString::new(topic).ok()?;
    let mut names = [name.as_ptr()];
    // SAFETY: the client is alive; everything that is made here is given back by its guard, in reverse order; result and description
    // belong to the event, which lives until the end.
    unsafe {
        let topics = rdk::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let topics = Owned::new(topics, rdk::rd_kafka_TopicCollection_destroy)?;
        let options = rdk::rd_kafka_AdminOptions_new(client, RDKafkaAdminOp::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let options = Owned::new(options, rdk::rd_kafka_AdminOptions_destroy)?;
        rdk::rd_kafka_AdminOptions_set_request_timeout(options.thing, timeout_ms, ptr::null_mut(), 0);
        let queue = Owned::new(rdk::rd_kafka_queue_new(client), rdk::rd_kafka_queue_destroy)?;
        rdk::rd_kafka_DescribeTopics(client, topics.thing, options.thing, queue.thing);
        let event = Owned::new(rdk::rd_kafka_queue_poll(queue.thing, timeout_ms), rdk::rd_kafka_event_destroy)?;
        let result = rdk::rd_kafka_event_DescribeTopics_result(event.thing);
        match RDKafkaErrorCode::from(rdk::rd_kafka_event_error(event.thing)) {
            RDKafkaErrorCode::NoError if !result.is_null() => {}
            RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion => {
                return Some(Identity::Without);
            }
            _ => return None,
        }
        let mut count = 0;
        let descriptions = rdk::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        (count == 1).then(|| described(*descriptions))
    }
}

/// # Safety
/// `description` belongs to an event that lives through the call.
unsafe fn described(description: *const rdk::rd_kafka_TopicDescription_t) -> Identity {
    // SAFETY: as above; the id belongs to the description.
    let (code, id) = unsafe {
        let code = rdk::rd_kafka_error_code(rdk::rd_kafka_TopicDescription_error(description));
        let id = rdk::rd_kafka_TopicDescription_topic_id(description);
        let halves = |id| (rdk::rd_kafka_Uuid_most_significant_bits(id), rdk::rd_kafka_Uuid_least_significant_bits(id));
        (RDKafkaErrorCode::from(code), if id.is_null() { (0, 0) } else { halves(id) })
    };
    match code {
        RDKafkaErrorCode::NoError if id == (0, 0) => Identity::Without,
        RDKafkaErrorCode::NoError => Identity::Known(TopicId::of(id.0, id.1)),
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Identity::Missing,
        _ => Identity::Unsaid,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::failure::Exit;

    fn watch(ordering: Ordering, id: Option<TopicId>) -> Watch {
        let (brokers, topic, group) = ("127.0.0.1:1".into(), "visits".into(), "test".into());
        let config = config::KafkaSource {
            brokers,
            topic,
            group,
            ordering,
            hosts: config::Hosts::One,
            properties: BTreeMap::new(),
            secret_files: BTreeMap::new(),
        };
        Watch::new(&config, &[Partition(0), Partition(1)], id)
    }

    fn seen(identity: Identity) -> Look {
        Look { identity, ..Look::default() }
    }

    fn known(least: i64) -> Identity {
        Identity::Known(TopicId::of(1, least))
    }

    #[test]
    fn a_topic_is_gone_when_it_is_missing_twice_in_a_row() {
        let mut watch = watch(Ordering::Topic, Some(TopicId::of(1, 1)));
        for identity in [Identity::Missing, Identity::Unsaid, Identity::Missing, known(1), Identity::Missing] {
            watch.check(&seen(identity)).expect("an outage is no failure");
        }
        assert!(matches!(watch.check(&seen(Identity::Missing)), Err(Failure { exit: Exit::Outside, .. })));
    }

    #[test]
    fn a_topic_with_another_id_is_another_log() {
        let mut watch = watch(Ordering::Topic, None);
        watch.check(&seen(known(1))).expect("the first id that is told counts");
        assert_eq!(watch.id(), Some(&TopicId::of(1, 1)));
        let error = watch.check(&seen(known(2))).expect_err("another topic");
        let ids = [TopicId::of(1, 1), TopicId::of(1, 2)].map(|id| id.to_string());
        assert!(
            matches!(&error, Failure { exit: Exit::State, message: text, .. } if ids.iter().all(|id| text.contains(id))),
            "{error}"
        );
    }

    #[test]
    fn a_partition_that_nobody_reads_ends_the_source() {
        let two = Look { partitions: vec![Partition(0), Partition(1)], ..Look::default() };
        let three = Look { partitions: vec![Partition(0), Partition(1), Partition(2)], ..Look::default() };
        for ordering in [Ordering::Topic, Ordering::Partition] {
            let mut watch = watch(ordering, None);
            watch.check(&two).expect("nothing has changed");
            watch.check(&Look::default()).expect("an outage is no failure");
            match (watch.check(&three), ordering) {
                (Err(Failure { exit: Exit::State, message: text, .. }), Ordering::Topic) => {
                    assert!(text.contains("[0, 1, 2]"), "{text}")
                }
                (Err(Failure { exit: Exit::Outside, message: text, .. }), Ordering::Partition) => {
                    assert!(text.contains("[2]"), "{text}")
                }
                (other, _) => panic!("{other:?}"),
            }
        }
    }
}
