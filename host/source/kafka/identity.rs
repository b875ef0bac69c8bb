//! Whether a topic is still the one that reading began with. librdkafka reads on at the same offset in a topic that was deleted and
//! made anew under its name, so its id is watched. Brokers before 2.8 have no ids; for them only the checks at the start remain.

use std::ffi::CString;
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::bindings as rdk;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaAdminOp;

use crate::clock;
use crate::source::Error;
use crate::source::kafka::broker::{MADE_ANEW, Voice};

/// How often the topic is looked at, and so how long records of another one may go unnoticed.
const INTERVAL: Duration = Duration::from_secs(2);

/// A topic's id: its more and its less significant half.
type Id = (i64, i64);

/// What a look at the topic gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Its id.
    Known(Id),
    /// There is no such topic.
    Missing,
    /// Nobody says: an outage, or a broker without ids.
    Unsaid,
}

/// The topic's id as reading began, and what was seen since.
pub(super) struct Watch {
    topic: String,
    id: Option<Id>,
    missing: bool,
    next_look: Instant,
}

impl Watch {
    /// Begins with what is seen now.
    pub(super) fn new(topic: &str, now: Identity) -> Watch {
        let mut watch =
            Watch { topic: topic.to_owned(), id: None, missing: false, next_look: clock::instant() + INTERVAL };
        watch.note(now);
        watch
    }

    /// Whether it is time to look again.
    pub(super) fn is_due(&self) -> bool {
        clock::instant() >= self.next_look
    }

    /// Compares; a topic is gone only when it was missing twice, since a broker that has just started may not know it yet.
    pub(super) fn check(&mut self, seen: Identity) -> Result<(), Error> {
        self.next_look = clock::instant() + INTERVAL;
        match (seen, self.id) {
            (Identity::Missing, _) if self.missing => Err(Error::Outside(format!(
                "topic {} was deleted while it was read; start again once it is there",
                self.topic
            ))),
            (Identity::Known(id), Some(first)) if id != first => Err(Error::State(format!(
                "topic {} was deleted and made anew while it was read: {MADE_ANEW}",
                self.topic
            ))),
            _ => {
                self.note(seen);
                Ok(())
            }
        }
    }

    fn note(&mut self, seen: Identity) {
        self.missing = seen == Identity::Missing;
        if let Identity::Known(id) = seen {
            self.id = Some(id);
        }
    }
}

/// A thing of librdkafka's that is ours to destroy.
struct Owned<T> {
    thing: *mut T,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// None for a null pointer.
    ///
    /// # Safety
    /// `thing` is null or ours, and `destroy` is how it is given back.
    unsafe fn new(thing: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Owned<T>> {
        (!thing.is_null()).then_some(Owned { thing, destroy })
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `new` was promised that this is right, and it happens once.
        unsafe { (self.destroy)(self.thing) }
    }
}

/// Looks at the topic.
pub(super) fn identity(client: &BaseConsumer<Voice>, topic: &str, timeout: Duration) -> Identity {
    if !has_controller(client, topic, timeout) {
        return Identity::Unsaid;
    }
    describe(client.client().native_ptr(), topic, timeout).unwrap_or(Identity::Unsaid)
}

/// Whether questions to the controller have somebody to go to: librdkafka's mock brokers have none, and would be waited for.
pub(super) fn has_controller(client: &BaseConsumer<Voice>, topic: &str, timeout: Duration) -> bool {
    let Ok(metadata) = client.fetch_metadata(Some(topic), timeout) else { return false };
    // SAFETY: the client is alive.
    let controller = unsafe { rdk::rd_kafka_controllerid(client.client().native_ptr(), 0) };
    metadata.brokers().iter().any(|broker| broker.id() == controller)
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
        if result.is_null()
            || RDKafkaErrorCode::from(rdk::rd_kafka_event_error(event.thing)) != RDKafkaErrorCode::NoError
        {
            return None;
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
        RDKafkaErrorCode::NoError if id != (0, 0) => Identity::Known(id),
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Identity::Missing,
        _ => Identity::Unsaid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_gone_when_it_is_missing_twice_in_a_row() {
        let mut watch = Watch::new("visits", Identity::Known((1, 1)));
        for seen in [Identity::Missing, Identity::Unsaid, Identity::Missing, Identity::Known((1, 1)), Identity::Missing]
        {
            watch.check(seen).expect("an outage is no failure");
        }
        assert!(matches!(watch.check(Identity::Missing), Err(Error::Outside(_))));
    }

    #[test]
    fn a_topic_with_another_id_is_another_log() {
        let mut watch = Watch::new("visits", Identity::Unsaid);
        watch.check(Identity::Known((1, 1))).expect("the first id that is told counts");
        assert!(matches!(watch.check(Identity::Known((1, 2))), Err(Error::State(_))));
    }
}
