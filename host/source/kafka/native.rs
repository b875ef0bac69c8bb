//! librdkafka's consumer by its C interface: the queue read by batch, messages and events, pause and resume, the callbacks. All `unsafe`
//! code of the host's Kafka client is here.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::slice;

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

/// The reading client and the queue of its messages and events.
pub(super) struct Connection {
    pub(super) queue: NonNull<rdk::rd_kafka_queue_t>,
    pub(super) client: Client<Voice>,
}

// SAFETY: librdkafka's handles and queues may be used from any thread.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// A consumer that reads these partitions from these offsets.
    pub(super) fn open(
        config: &config::KafkaSource,
        first_offsets: &[(Partition, Offset)],
    ) -> Result<Connection, Failure> {
        let settings = reading_config(config);
        let native = settings.create_native_config().map_err(refused_configuration)?;
        // Batch consumption serves events by callbacks; without these two librdkafka would print on standard error.
        // SAFETY: the configuration is alive, and the callbacks have the types that the bindings ask for.
        unsafe {
            rdk::rd_kafka_conf_set_error_cb(native.ptr(), Some(on_error));
            rdk::rd_kafka_conf_set_log_cb(native.ptr(), Some(on_log));
        }
        let client = Client::new(&settings, native, RDKafkaType::RD_KAFKA_CONSUMER, Voice::default())
            .map_err(refused_configuration)?;
        // SAFETY: the client is alive; the queue that is taken is given back in `drop`, before the client goes.
        let queue = unsafe {
            rdk::rd_kafka_poll_set_consumer(client.native_ptr());
            NonNull::new(rdk::rd_kafka_queue_get_consumer(client.native_ptr()))
        };
        let queue = queue.ok_or_else(|| Failure::unexpected("librdkafka: a consumer without a queue"))?;
        let connection = Connection { queue, client };
        connection.assign(&config.topic, first_offsets).map_err(unexpected)?;
        Ok(connection)
    }

    pub(super) fn assign(&self, topic: &str, first_offsets: &[(Partition, Offset)]) -> Result<(), KafkaError> {
        let list = offset_list(topic, first_offsets)?;
        // SAFETY: client and list are alive; the list is copied.
        outcome(unsafe { rdk::rd_kafka_assign(self.client.native_ptr(), list.ptr()) })
    }

    pub(super) fn pause(&self, topic: &str, partition: Partition) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, kafka_partition(partition));
        // SAFETY: client and list are alive; the list is copied.
        outcome(unsafe { rdk::rd_kafka_pause_partitions(self.client.native_ptr(), list.ptr()) })
    }

    /// Reads a paused partition on from `offset`.
    pub(super) fn resume_at(&self, topic: &str, partition: Partition, offset: Offset) -> Result<(), KafkaError> {
        let list = offset_list(topic, &[(partition, offset)])?;
        // SAFETY: client and list are alive; without a time to wait nothing is returned that would have to be freed; the list is copied.
        // Both go through the partition's own queue, in this order.
        outcome(unsafe {
            rdk::rd_kafka_seek_partitions(self.client.native_ptr(), list.ptr(), 0);
            rdk::rd_kafka_resume_partitions(self.client.native_ptr(), list.ptr())
        })
    }

    /// Ends the reading thread's present wait.
    pub(super) fn wake(&self) {
        // SAFETY: the queue is alive.
        unsafe { rdk::rd_kafka_queue_yield(self.queue.as_ptr()) }
    }

    /// Sends the offsets on their way; the reading thread hears what became of them.
    pub(super) fn commit(&self, topic: &str, next: &[(Partition, Offset)]) -> Result<(), KafkaError> {
        if next.is_empty() {
            return Ok(());
        }
        let list = offset_list(topic, next)?;
        // SAFETY: client, list and queue are alive; the list is copied; the callback runs on whoever serves the queue, and librdkafka
        // drops it with the queue.
        outcome(unsafe {
            rdk::rd_kafka_commit_queue(
                self.client.native_ptr(),
                list.ptr(),
                self.queue.as_ptr(),
                Some(on_commit),
                ptr::null_mut(),
            )
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: taken in `open`, given back once, while the client is alive.
        unsafe { rdk::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
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

unsafe extern "C" fn on_commit(
    client: *mut rdk::rd_kafka_t,
    code: RDKafkaRespErr,
    _: *mut rdk::rd_kafka_topic_partition_list_t,
    _: *mut c_void,
) {
    if let Err(error) = outcome(code) {
        // SAFETY: as for `on_log`.
        if let Some(voice) = unsafe { voice(rdk::rd_kafka_opaque(client)) } {
            voice.complain(&format!("offsets for lag tools were not committed: {error}"));
        }
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

    /// Waits until `at_most` messages are there or the time is over; how many came.
    pub(super) fn fill(&mut self, connection: &Connection, at_most: usize, timeout_ms: c_int) -> usize {
        assert!(self.next == self.filled, "a batch is read to its end before the next");
        let room = &mut self.messages[..at_most];
        // SAFETY: the queue is alive, and `room` has place for as many pointers as are asked for.
        let filled = unsafe {
            rdk::rd_kafka_consume_batch_queue(connection.queue.as_ptr(), timeout_ms, room.as_mut_ptr(), room.len())
        };
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
