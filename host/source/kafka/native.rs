//! librdkafka's consumer by its C interface: a queue for each lane, read by batch, messages and events, pause and resume, the callbacks. All
//! `unsafe` code of the reading client is here.
//!
//! A lane's partitions are assigned and unassigned one lane at a time (`rd_kafka_incremental_assign`), without a group. librdkafka forwards a
//! partition's own queue to that of the consumer when it starts to fetch, unless the application has forwarded it before, and forwards it
//! nowhere when it has stopped. So a partition is forwarded to nowhere before it is assigned, and to the lane's queue only after it: by then the
//! stop of a former assignment, which waits in the same line, has been served. What a former assignment left is older than the barrier
//! that the new one puts into the queue, and librdkafka drops it.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use rdkafka::bindings as rdk;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaRespErr, RDKafkaType};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use crate::config;
use crate::failure::Failure;
use crate::position::{Offset, Partition};
use crate::record::bounded::MOST_BYTES;
use crate::record::{NO_TIME, Records};
use crate::source::kafka::broker::{
    Voice, kafka_offset, kafka_partition, reading_config, refused_configuration, unexpected,
};
use crate::source::kafka::reader::CHUNK_RECORDS;
use crate::source::kafka::rota::{LaneId, Rota};

/// The reading client, and the queue of the events that are of no partition.
pub(super) struct Connection {
    queue: Queue,
    pub(super) client: Client<Voice>,
    topic: String,
}

// SAFETY: librdkafka's handles and queues may be used from any thread.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// A consumer that reads nothing yet; `bell` is for the events that are of no partition. It will read at most this many partitions.
    pub(super) fn open(config: &config::KafkaSource, partitions: usize, bell: Bell) -> Result<Connection, Failure> {
        let settings = reading_config(config, partitions);
        let native = settings.create_native_config().map_err(refused_configuration)?;
        // Batch consumption serves events by callbacks; without these two librdkafka would print on standard error.
        // SAFETY: the configuration is alive, and the callbacks have the types that the bindings ask for.
        unsafe {
            rdk::rd_kafka_conf_set_error_cb(native.ptr(), Some(on_error));
            rdk::rd_kafka_conf_set_log_cb(native.ptr(), Some(on_log));
        }
        let client = Client::new(&settings, native, RDKafkaType::RD_KAFKA_CONSUMER, Voice::default())
            .map_err(refused_configuration)?;
        // SAFETY: the client is alive, and its queue is ours to give back. `Connection` drops it before the client.
        let queue = unsafe {
            rdk::rd_kafka_poll_set_consumer(client.native_ptr());
            Queue::new(rdk::rd_kafka_queue_get_consumer(client.native_ptr()), Some(bell))?
        };
        Ok(Connection { queue, client, topic: config.topic.clone() })
    }

    pub(super) fn pause(&self, partition: Partition) -> Result<(), KafkaError> {
        let list = partition_list(&self.topic, &[partition]);
        // SAFETY: client and list are alive; the list is copied.
        outcome(unsafe { rdk::rd_kafka_pause_partitions(self.client.native_ptr(), list.ptr()) })
    }

    /// Reads a paused partition on from `offset`.
    pub(super) fn resume_at(&self, partition: Partition, offset: Offset) -> Result<(), KafkaError> {
        let list = offset_list(&self.topic, &[(partition, offset)])?;
        // SAFETY: client and list are alive; without a time to wait nothing is returned that would have to be freed; the list is copied.
        // Both go through the partition's own queue, in this order.
        outcome(unsafe {
            rdk::rd_kafka_seek_partitions(self.client.native_ptr(), list.ptr(), 0);
            rdk::rd_kafka_resume_partitions(self.client.native_ptr(), list.ptr())
        })
    }

    /// Takes the events that are of no partition; how many came.
    pub(super) fn events(&self, batch: &mut Batch) -> usize {
        batch.fill(&self.queue, CHUNK_RECORDS)
    }

    /// A partition's own queue. It exists whether or not it is read.
    fn queue_of(&self, partition: Partition) -> Result<Queue, Failure> {
        let topic =
            CString::new(self.topic.as_str()).map_err(|_| Failure::config("a topic's name has no zero byte"))?;
        // SAFETY: the client is alive, and the name is copied; the queue is ours to give back.
        unsafe {
            let native = self.client.native_ptr();
            Queue::new(rdk::rd_kafka_queue_get_partition(native, topic.as_ptr(), kafka_partition(partition)), None)
        }
    }

    fn resume(&self, partitions: &[Partition]) {
        let list = partition_list(&self.topic, partitions);
        // SAFETY: client and list are alive; the list is copied.
        unsafe { rdk::rd_kafka_resume_partitions(self.client.native_ptr(), list.ptr()) };
    }

    fn assign(&self, first_offsets: &[(Partition, Offset)]) -> Result<(), Failure> {
        let list = offset_list(&self.topic, first_offsets).map_err(unexpected)?;
        // SAFETY: client and list are alive; the list is copied; the error is ours.
        unsafe { refusal(rdk::rd_kafka_incremental_assign(self.client.native_ptr(), list.ptr())) }
    }

    fn unassign(&self, partitions: &[Partition]) -> Result<(), Failure> {
        let list = partition_list(&self.topic, partitions);
        // SAFETY: as for `assign`.
        unsafe { refusal(rdk::rd_kafka_incremental_unassign(self.client.native_ptr(), list.ptr())) }
    }
}

/// Partitions that are read into a queue of their own, until this is dropped.
pub(super) struct LaneQueue {
    partitions: Vec<(Partition, Queue)>,
    is_assigned: bool,
    queue: Queue,
    // After the queues: they go before their client.
    pub(super) connection: Arc<Connection>,
}

impl LaneQueue {
    /// Begins to read these partitions, which nobody reads, from these offsets.
    pub(super) fn open(
        connection: &Arc<Connection>,
        first_offsets: &[(Partition, Offset)],
        bell: Bell,
    ) -> Result<LaneQueue, Failure> {
        // SAFETY: the client is alive, and the queue is ours to give back.
        let queue = unsafe { Queue::new(rdk::rd_kafka_queue_new(connection.client.native_ptr()), Some(bell))? };
        let own = |&(partition, _): &(Partition, Offset)| Ok((partition, connection.queue_of(partition)?));
        let partitions = first_offsets.iter().map(own).collect::<Result<Vec<_>, Failure>>()?;
        let mut lane = LaneQueue { partitions, is_assigned: false, queue, connection: Arc::clone(connection) };
        lane.forward(false);
        connection.assign(first_offsets)?;
        lane.is_assigned = true;
        lane.forward(true);
        Ok(lane)
    }

    /// Takes what is there, `at_most` so much; how much it was.
    pub(super) fn fill(&self, batch: &mut Batch, at_most: usize) -> usize {
        batch.fill(&self.queue, at_most)
    }

    /// Forwards the partitions to the lane's queue, or nowhere.
    fn forward(&self, to_lane: bool) {
        let target = if to_lane { self.queue.pointer.as_ptr() } else { ptr::null_mut() };
        for (_, own) in &self.partitions {
            // SAFETY: both queues are alive; a null pointer is the word for nowhere.
            unsafe { rdk::rd_kafka_queue_forward(own.pointer.as_ptr(), target) }
        }
    }
}

impl Drop for LaneQueue {
    fn drop(&mut self) {
        self.forward(false);
        let partitions: Vec<Partition> = self.partitions.iter().map(|(partition, _)| *partition).collect();
        if self.is_assigned
            && let Err(error) = self.connection.unassign(&partitions)
        {
            tracing::warn!(event = "partitions-not-given-up", ?partitions, %error, "cannot stop reading partitions");
        }
        // That a partition is paused outlives its assignment.
        self.connection.resume(&partitions);
    }
}

/// A queue of librdkafka's, given back when it is dropped. Its client lives longer.
struct Queue {
    pointer: NonNull<rdk::rd_kafka_queue_t>,
    /// At an address of its own, which librdkafka knows.
    bell: Option<Box<Bell>>,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Fails for a null pointer.
    ///
    /// # Safety
    /// `queue` is null or ours to give back, and its client lives longer than this.
    unsafe fn new(queue: *mut rdk::rd_kafka_queue_t, bell: Option<Bell>) -> Result<Queue, Failure> {
        let pointer = NonNull::new(queue).ok_or_else(|| Failure::unexpected("librdkafka gives no queue"))?;
        let bell = bell.map(Box::new);
        if let Some(bell) = &bell {
            let opaque = ptr::from_ref::<Bell>(bell).cast_mut().cast();
            // SAFETY: the queue is alive, and `drop` takes the bell away before it goes.
            unsafe { rdk::rd_kafka_queue_cb_event_enable(queue, Some(on_arrival), opaque) }
        }
        Ok(Queue { pointer, bell })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, and given back once. librdkafka calls back with the queue locked, so it does not after the first call.
        unsafe {
            if self.bell.is_some() {
                rdk::rd_kafka_queue_cb_event_enable(self.pointer.as_ptr(), None, ptr::null_mut());
            }
            rdk::rd_kafka_queue_destroy(self.pointer.as_ptr());
        }
    }
}

/// Calls a lane when its queue, which was empty, is empty no more.
pub(super) struct Bell {
    pub(super) rota: Arc<Rota>,
    pub(super) lane: LaneId,
}

unsafe extern "C" fn on_arrival(_: *mut rdk::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: the opaque pointer is the bell of a queue, which is alive as long as the queue calls back. This runs with the queue locked and
    // calls nothing of librdkafka's.
    if let Some(bell) = unsafe { opaque.cast::<Bell>().as_ref() } {
        bell.rota.call(bell.lane);
    }
}

/// # Safety
/// `error` is null or ours to destroy.
unsafe fn refusal(error: *mut rdk::rd_kafka_error_t) -> Result<(), Failure> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the caller promises it; the text is copied before.
    unsafe {
        let why = text(rdk::rd_kafka_error_string(error)).into_owned();
        rdk::rd_kafka_error_destroy(error);
        Err(Failure::unexpected(format!("librdkafka: {why}")))
    }
}

fn partition_list(topic: &str, partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, kafka_partition(*partition));
    }
    list
}

pub(super) fn offset_list(topic: &str, offsets: &[(Partition, Offset)]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, kafka_partition(*partition), KafkaOffset::Offset(kafka_offset(*offset)))?;
    }
    Ok(list)
}

/// Gives a client other credentials, for the next time that it authenticates to a broker.
pub(super) fn set_credentials(client: &Client<impl ClientContext>, user: &str, password: &str) -> Result<(), String> {
    let text = |text: &str| CString::new(text).map_err(|_| "it contains a zero byte".to_owned());
    let (user, password) = (text(user)?, text(password)?);
    // SAFETY: the client is alive, and both texts are copied. The error is ours, and is destroyed once, after its text was copied.
    unsafe {
        let error = rdk::rd_kafka_sasl_set_credentials(client.native_ptr(), user.as_ptr(), password.as_ptr());
        if error.is_null() {
            return Ok(());
        }
        let why = self::text(rdk::rd_kafka_error_string(error)).into_owned();
        rdk::rd_kafka_error_destroy(error);
        Err(why)
    }
}

pub(super) fn outcome(code: RDKafkaRespErr) -> Result<(), KafkaError> {
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(KafkaError::Global(code)),
    }
}

/// The client's voice, given to librdkafka as its opaque pointer by `Client::new`.
///
/// # Safety
/// `opaque` is that pointer, and its client is alive.
pub(super) unsafe fn voice<'a>(opaque: *const c_void) -> Option<&'a Voice> {
    // SAFETY: `Client` keeps its context until librdkafka's handle is destroyed, and calls back on no later occasion.
    unsafe { opaque.cast::<Voice>().as_ref() }
}

unsafe extern "C" fn on_error(_: *mut rdk::rd_kafka_t, code: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: librdkafka passes its opaque pointer and a string that lives through the call.
    if let (Some(voice), reason) = unsafe { (voice(opaque), text(reason)) } {
        voice.trouble(code, &reason);
    }
}

unsafe extern "C" fn on_log(
    client: *const rdk::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    line: *const c_char,
) {
    if client.is_null() {
        return;
    }
    // SAFETY: as for `on_error`; the handle is alive while it logs.
    let (voice, facility, line) = unsafe { (voice(rdk::rd_kafka_opaque(client)), text(facility), text(line)) };
    if let Some(voice) = voice {
        voice.line(level, &facility, &line);
    }
}

/// The text of a C string of librdkafka's; empty for a null pointer.
///
/// # Safety
/// `text` is null or points to a string that lives while the borrow does.
pub(super) unsafe fn text<'a>(text: *const c_char) -> Cow<'a, str> {
    if text.is_null() {
        return Cow::Borrowed("");
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { CStr::from_ptr(text) }.to_string_lossy()
}

/// Messages and events that librdkafka handed over.
pub(super) struct Batch {
    pub(super) messages: Vec<*mut rdk::rd_kafka_message_t>,
    pub(super) next: usize,
    pub(super) filled: usize,
}

// SAFETY: messages may be used and destroyed on any thread.
unsafe impl Send for Batch {}

impl Batch {
    pub(super) fn new() -> Batch {
        Batch { messages: vec![ptr::null_mut(); CHUNK_RECORDS], next: 0, filled: 0 }
    }

    /// Takes what is there, `at_most` so much; how much came. What a batch that was not read to its end still held is lost.
    fn fill(&mut self, queue: &Queue, at_most: usize) -> usize {
        while self.next().is_some() {}
        let room = &mut self.messages[..at_most];
        // SAFETY: the queue is alive, and `room` has place for as many pointers as are asked for.
        let filled =
            unsafe { rdk::rd_kafka_consume_batch_queue(queue.pointer.as_ptr(), 0, room.as_mut_ptr(), room.len()) };
        self.next = 0;
        self.filled = usize::try_from(filled).unwrap_or(0);
        self.filled
    }

    pub(super) fn next(&mut self) -> Option<Message> {
        let message = *self.messages[..self.filled].get(self.next)?;
        self.next += 1;
        NonNull::new(message).map(Message)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}

/// One message or event, ours until it is dropped.
pub(super) struct Message(NonNull<rdk::rd_kafka_message_t>);

impl Message {
    pub(super) fn get(&self) -> &rdk::rd_kafka_message_t {
        // SAFETY: librdkafka gave it away, and only `drop` destroys it.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn code(&self) -> RDKafkaErrorCode {
        self.get().err.into()
    }

    pub(super) fn partition(&self) -> c_int {
        self.get().partition
    }

    /// The offset; 0 for an event that has none.
    pub(super) fn offset(&self) -> Offset {
        Offset(u64::try_from(self.get().offset).unwrap_or(0))
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        // SAFETY: librdkafka keeps pointer and length together, for the message's life.
        unsafe { bytes(self.get().key, self.get().key_len) }
    }

    pub(super) fn payload(&self) -> Option<&[u8]> {
        // SAFETY: as for the key.
        unsafe { bytes(self.get().payload, self.get().len) }
    }

    pub(super) fn timestamp(&self) -> i64 {
        let mut kind = rdk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, `kind` is written to.
        let timestamp = unsafe { rdk::rd_kafka_message_timestamp(self.0.as_ptr(), &mut kind) };
        match kind {
            rdk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => NO_TIME,
            _ if timestamp == -1 => NO_TIME, // Kafka's word for none, which the checks at a start read as none too
            _ => timestamp,
        }
    }

    /// Appends the headers of the record that is about to be pushed, unless there are too many: then it returns their number.
    pub(super) fn append_headers(&self, records: &mut Records) -> Option<u32> {
        let (mut count, mut bytes) = (0, 0);
        self.each_header(|name, value| {
            count += 1;
            bytes += name.len() + value.len();
        });
        if bytes > MOST_BYTES {
            return Some(count);
        }
        self.each_header(|name, value| records.headers.push(name, value));
        None
    }

    fn each_header(&self, mut take: impl FnMut(&[u8], &[u8])) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive and owns the headers that are pointed to.
        let code = unsafe { rdk::rd_kafka_message_headers(self.0.as_ptr(), &mut headers) };
        if outcome(code).is_err() {
            return; // there are none
        }
        for i in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: as above; past the last header it says so and writes nothing.
            let code = unsafe { rdk::rd_kafka_header_get_all(headers, i, &mut name, &mut value, &mut size) };
            if outcome(code).is_err() {
                return;
            }
            // SAFETY: name and value live as long as the message.
            let (name, value) = unsafe { (CStr::from_ptr(name).to_bytes(), bytes(value, size)) };
            take(name, value.unwrap_or_default());
        }
    }

    pub(super) fn error_text(&self) -> String {
        // SAFETY: the message is alive, and its text with it.
        unsafe { text(rdk::rd_kafka_message_errstr(self.0.as_ptr())) }.into_owned()
    }
}

/// The bytes behind a pointer; none behind null, which is how librdkafka tells an absent key or payload from an empty one.
///
/// # Safety
/// `data` is null or points to `size` bytes that live while the borrow does.
pub(super) unsafe fn bytes<'a>(data: *const c_void, size: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller promises it.
    (!data.is_null()).then(|| unsafe { slice::from_raw_parts(data.cast(), size) })
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: ours, and destroyed once.
        unsafe { rdk::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}
