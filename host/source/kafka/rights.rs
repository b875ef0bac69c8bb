//! What the brokers allow this user to do with a topic or a group. Brokers tell it to whoever may see the topic or the group; only those with
//! a controller are asked, as for the topic's id.

use std::ffi::{CString, c_char, c_int};
use std::ptr;
use std::slice;
use std::time::Duration;

use rdkafka::bindings as rdk;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaAdminOp;

use crate::source::kafka::identity::{Owned, has_controller};

/// A right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To read records, or to commit offsets.
    Read,
    /// To write records.
    Write,
}

/// What is known of this user's rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// The user may not even see it.
    Denied,
    /// The operations that are allowed, by Kafka's numbers.
    Told(Vec<c_int>),
    /// The brokers did not say.
    Untold,
}

impl Rights {
    /// Returns whether the brokers say that the user lacks this right.
    pub fn lack(&self, right: Right) -> bool {
        let operation = match right {
            Right::Read => rdk::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ,
            Right::Write => rdk::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE,
        };
        match self {
            Rights::Denied => true,
            Rights::Told(operations) => !operations.contains(&(operation as c_int)),
            Rights::Untold => false,
        }
    }

    fn of(code: RDKafkaErrorCode, operations: Vec<c_int>) -> Rights {
        match code {
            RDKafkaErrorCode::NoError if operations.is_empty() => Rights::Untold, // whoever may see it may at least see it
            RDKafkaErrorCode::NoError => Rights::Told(operations),
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed => Rights::Denied,
            _ => Rights::Untold,
        }
    }
}

/// The operations behind a pointer of librdkafka's. They are read as numbers: a later one may be unknown here.
///
/// # Safety
/// `operations` is null or points to `count` operations that live through the call.
unsafe fn numbers(operations: *const rdk::rd_kafka_AclOperation_t, count: usize) -> Vec<c_int> {
    if operations.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller promises it, and C's enumerations are integers.
    unsafe { slice::from_raw_parts(operations.cast::<c_int>(), count) }.to_vec()
}

/// Asks for this user's rights on a topic, which is not created by that.
pub fn on_topic<C: ClientContext>(client: &Client<C>, topic: &str, timeout: Duration) -> Rights {
    ask(client, topic, RDKafkaAdminOp::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout, &|client, name, options, queue| {
        // SAFETY: all of them are alive through the call; what is made here is given back by its guard; the description belongs to the event.
        unsafe {
            let topics = rdk::rd_kafka_TopicCollection_of_topic_names(name, 1);
            let topics = Owned::new(topics, rdk::rd_kafka_TopicCollection_destroy)?;
            rdk::rd_kafka_DescribeTopics(client, topics.thing, options, queue.thing);
            let event = queue.next(timeout)?;
            let result = rdk::rd_kafka_event_DescribeTopics_result(event.thing);
            let mut count = 0;
            let found = (!result.is_null()).then(|| rdk::rd_kafka_DescribeTopics_result_topics(result, &mut count))?;
            let found = (count == 1).then(|| *found)?;
            let code = rdk::rd_kafka_error_code(rdk::rd_kafka_TopicDescription_error(found));
            let operations = rdk::rd_kafka_TopicDescription_authorized_operations(found, &mut count);
            Some(Rights::of(code.into(), numbers(operations, count)))
        }
    })
    .unwrap_or(Rights::Untold)
}

/// Asks for this user's rights on a consumer group, which need not exist.
pub fn on_group<C: ClientContext>(client: &Client<C>, group: &str, timeout: Duration) -> Rights {
    let kind = RDKafkaAdminOp::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
    ask(client, group, kind, timeout, &|client, name, options, queue| {
        // SAFETY: as for a topic.
        unsafe {
            rdk::rd_kafka_DescribeConsumerGroups(client, name, 1, options, queue.thing);
            let event = queue.next(timeout)?;
            let result = rdk::rd_kafka_event_DescribeConsumerGroups_result(event.thing);
            let mut count = 0;
            let groups = |count| rdk::rd_kafka_DescribeConsumerGroups_result_groups(result, count);
            let found = (!result.is_null()).then(|| groups(&mut count))?;
            let found = (count == 1).then(|| *found)?;
            let code = rdk::rd_kafka_error_code(rdk::rd_kafka_ConsumerGroupDescription_error(found));
            let operations = rdk::rd_kafka_ConsumerGroupDescription_authorized_operations(found, &mut count);
            Some(Rights::of(code.into(), numbers(operations, count)))
        }
    })
    .unwrap_or(Rights::Untold)
}

impl Owned<rdk::rd_kafka_queue_t> {
    fn next(&self, timeout: Duration) -> Option<Owned<rdk::rd_kafka_event_t>> {
        let timeout_ms = c_int::try_from(timeout.as_millis()).ok()?;
        // SAFETY: the queue is alive, and its event is ours.
        unsafe { Owned::new(rdk::rd_kafka_queue_poll(self.thing, timeout_ms), rdk::rd_kafka_event_destroy) }
    }
}

/// A question about one name: the client, the name, the options and the queue of the answer.
type Question<'a> = &'a dyn Fn(
    *mut rdk::rd_kafka_t,
    *mut *const c_char,
    *const rdk::rd_kafka_AdminOptions_t,
    &Owned<rdk::rd_kafka_queue_t>,
) -> Option<Rights>;

fn ask<C: ClientContext>(
    client: &Client<C>,
    name: &str,
    kind: RDKafkaAdminOp,
    timeout: Duration,
    question: Question<'_>,
) -> Option<Rights> {
    if !has_controller(client, &client.fetch_metadata(None, timeout).ok()?) {
        return None;
    }
    let native = client.native_ptr();
    let timeout_ms = c_int::try_from(timeout.as_millis()).ok()?;
    let name = CString::new(name).ok()?;
    let mut names = [name.as_ptr()];
    // SAFETY: the client is alive; what is made here is given back by its guard, in reverse order.
    unsafe {
        let options = Owned::new(rdk::rd_kafka_AdminOptions_new(native, kind), rdk::rd_kafka_AdminOptions_destroy)?;
        rdk::rd_kafka_AdminOptions_set_request_timeout(options.thing, timeout_ms, ptr::null_mut(), 0);
        let refused = rdk::rd_kafka_AdminOptions_set_include_authorized_operations(options.thing, 1);
        if Owned::new(refused, rdk::rd_kafka_error_destroy).is_some() {
            return None;
        }
        let queue = Owned::new(rdk::rd_kafka_queue_new(native), rdk::rd_kafka_queue_destroy)?;
        question(native, names.as_mut_ptr(), options.thing, &queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_is_lacking_only_if_the_brokers_say_so() {
        let read = rdk::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ as c_int;
        let told = Rights::of(RDKafkaErrorCode::NoError, vec![read, 99]);
        assert_eq!((told.lack(Right::Read), told.lack(Right::Write)), (false, true));
        assert!(Rights::of(RDKafkaErrorCode::TopicAuthorizationFailed, Vec::new()).lack(Right::Read));
        for untold in [RDKafkaErrorCode::NoError, RDKafkaErrorCode::RequestTimedOut, RDKafkaErrorCode::UnknownTopic] {
            assert!(!Rights::of(untold, Vec::new()).lack(Right::Read));
        }
    }
}
