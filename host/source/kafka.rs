//! Kafka as a source: one librdkafka consumer with explicit positions (no group membership, no stored offsets), read by batch on a
//! thread of its own, and a second client that only asks where partitions end.
//!
//! Owns the translation of librdkafka's messages into columns, of its end-of-partition events into positions, and of its errors into
//! those of a source. It refuses to guess: silence is not emptiness, and a log that does not hold the next offset is an error.
//! Configuration and start-up questions are `broker.rs`'s, emptiness `ask.rs`'s,
//! topics that are made anew `identity.rs`'s.
//!
//! Memory: at most [`ARRIVALS`] arrivals of [`CHUNK_RECORDS`] records or [`CHUNK_BYTES`] each wait in the channel; behind it librdkafka
//! holds what its `queued.max.messages.kbytes` (64 MiB) allows. A full channel stops the reading thread, a full queue the fetching.

mod broker;
mod emptiness;
mod identity;
pub mod produce;
pub mod survey;

use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::bindings as rdk;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaRespErr, RDKafkaType};
use rdkafka::{Offset, TopicPartitionList};

use crate::config;
use crate::observe::ends::Ends;
use crate::record::{NO_TIME, RecordRef, Records};
use crate::source::kafka::broker::{
    ANSWER_TIMEOUT, Voice, first_offsets, kafka_offset, kafka_partition, locked, look, reading_config,
    refused_configuration, trimmed, truncated, unauthorized, unexpected, verify_last,
};
use crate::source::kafka::emptiness::{Asker, Desk, Ledger};
use crate::source::kafka::identity::{Watch, identity};
use crate::source::{Arrival, Error, Source, Start};

pub use crate::source::kafka::broker::{DEFAULTS, RESERVED, Timestamps, Topic, check_properties, inspect};

/// Arrivals that wait for the lane.
const ARRIVALS: usize = 16;
/// Records in one arrival, at most.
const CHUNK_RECORDS: usize = 4096;
/// Bytes after which an arrival is full.
const CHUNK_BYTES: usize = 4 << 20;
/// How long the reading thread waits for a first message before it looks whether it should stop.
const IDLE_MS: c_int = 100;

/// A topic that is being read.
pub struct KafkaSource {
    topic: String,
    partitions: Vec<u32>,
    first_offsets: Vec<(u32, u64)>,
    arrivals: Option<Receiver<Result<Arrival, Error>>>,
    desk: Arc<Desk>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    connection: Arc<Connection>,
    wanted: Arc<Wanted>,
    ends: Arc<Ends>,
}

impl KafkaSource {
    /// Starts reading the partitions of `starts`, up to the ends as of now if `until_end`. Brokers are waited for until
    /// `startup_deadline`; a log that does not fit the starts is refused.
    pub fn open(
        config: &config::KafkaSource,
        starts: &[Start],
        until_end: bool,
        startup_deadline: Instant,
    ) -> Result<KafkaSource, Error> {
        let (asking, topic) = look(config, startup_deadline)?;
        let watch = Watch::new(&config.topic, identity(&asking, &config.topic, ANSWER_TIMEOUT));
        let offsets = first_offsets(config, starts, &topic)?;
        verify_last(config, starts, &topic, startup_deadline)?;
        let mut first_offsets: Vec<(u32, u64)> = starts.iter().map(|s| s.partition).zip(offsets).collect();
        first_offsets.sort_unstable();
        let end_of = |partition: &u32| topic.partitions.binary_search(partition).ok().map(|i| topic.high[i]);
        let tracks =
            first_offsets.iter().map(|(p, first)| Track::new(*p, *first, end_of(p).filter(|_| until_end))).collect();
        let ends = first_offsets.iter().map(|(p, first)| (end_of(p).unwrap_or(*first), *first));
        let ends = Arc::new(Ends::new(ends));
        let partitions: Vec<u32> = first_offsets.iter().map(|(p, _)| *p).collect();

        let connection = Arc::new(Connection::open(config, &first_offsets)?);
        let (out, arrivals) = sync_channel(ARRIVALS);
        let desk = Arc::new(Desk::new(Ledger::new(first_offsets.clone())));
        let stopped = Arc::new(AtomicBool::new(false));
        let asker = Asker {
            client: asking,
            topic: config.topic.clone(),
            watch,
            partitions: partitions.clone(),
            ends: Arc::clone(&ends),
            surveyed: Instant::now(),
            desk: Arc::clone(&desk),
            out: out.clone(),
            stopped: Arc::clone(&stopped),
        };
        let wanted = Arc::new(Wanted::default());
        let reader = Reader {
            batch: Batch::new(),
            topic: config.topic.clone(),
            slots: slots(&first_offsets),
            tracks,
            desk: Arc::clone(&desk),
            out,
            stopped: Arc::clone(&stopped),
            connection: Arc::clone(&connection),
            wanted: Arc::clone(&wanted),
            ends: Arc::clone(&ends),
        };
        let threads = vec![spawn("kafka-ask", move || asker.run())?, spawn("kafka-read", move || reader.run())?];
        let topic = config.topic.clone();
        Ok(KafkaSource {
            topic,
            partitions,
            first_offsets,
            arrivals: Some(arrivals),
            desk,
            stopped,
            threads,
            connection,
            wanted,
            ends,
        })
    }

    /// The offset at which reading each partition started.
    pub fn first_offsets(&self) -> Vec<(u32, u64)> {
        self.first_offsets.clone()
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|e| Error::Unexpected(format!("no thread for the source: {e}")))
}

/// Where in the tracks each partition is.
fn slots(first_offsets: &[(u32, u64)]) -> Vec<Option<usize>> {
    let size = first_offsets.last().map_or(0, |(p, _)| *p as usize + 1);
    let mut slots = vec![None; size];
    for (slot, (partition, _)) in first_offsets.iter().enumerate() {
        slots[*partition as usize] = Some(slot);
    }
    slots
}

impl Source for KafkaSource {
    fn partitions(&self) -> &[u32] {
        &self.partitions
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Arrival>, Error> {
        let arrivals = self.arrivals.as_ref().expect("the channel lives until the source is dropped");
        match arrivals.recv_timeout(timeout) {
            Ok(arrival) => arrival.map(Some),
            Err(RecvTimeoutError::Timeout) if !self.threads.iter().any(JoinHandle::is_finished) => Ok(None),
            // A thread that ended may have left its reason a moment ago.
            Err(_) => match arrivals.try_recv() {
                Ok(arrival) => arrival.map(Some),
                Err(_) => Err(Error::Unexpected(format!(
                    "reading topic {} has ended without a reason: this is a bug",
                    self.topic
                ))),
            },
        }
    }

    fn ask(&mut self, partitions: &[u32], after_ms: i64) {
        self.desk.wish(partitions, after_ms);
    }

    fn hold(&mut self, partitions: &[u32]) {
        if self.wanted.hold(partitions) {
            self.connection.wake();
        }
    }

    fn commit(&mut self, next: &[(u32, u64)]) {
        if let Err(error) = self.connection.commit(&self.topic, next) {
            tracing::debug!(event = "offsets-not-committed", topic = self.topic, %error, "cannot commit offsets for lag monitoring");
        }
    }

    fn ends(&self) -> Option<Arc<Ends>> {
        Some(Arc::clone(&self.ends))
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        self.arrivals = None;
        self.desk.wake();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::debug!(event = "source-thread-panicked", topic = self.topic, "source thread panicked");
            }
        }
    }
}

/// The partitions that the lane wants held back; the reading thread, which alone knows its positions, carries it out.
#[derive(Default)]
struct Wanted {
    held: Mutex<Vec<u32>>,
    changed: AtomicBool,
}

impl Wanted {
    /// Whether this is another wish than the last.
    fn hold(&self, partitions: &[u32]) -> bool {
        let mut held = locked(&self.held);
        let other = *held != partitions;
        if other {
            partitions.clone_into(&mut held);
            self.changed.store(true, Ordering::Release);
        }
        other
    }

    /// The wish, if it has changed since this was called last.
    fn changed(&self) -> Option<Vec<u32>> {
        self.changed.swap(false, Ordering::AcqRel).then(|| locked(&self.held).clone())
    }
}

/// The reading thread.
struct Reader {
    // Before the connection: librdkafka's messages go before their client.
    batch: Batch,
    topic: String,
    slots: Vec<Option<usize>>,
    tracks: Vec<Track>,
    desk: Arc<Desk>,
    out: SyncSender<Result<Arrival, Error>>,
    stopped: Arc<AtomicBool>,
    connection: Arc<Connection>,
    wanted: Arc<Wanted>,
    ends: Arc<Ends>,
}

/// One partition on its way.
struct Track {
    partition: u32,
    /// Everything visible before this offset has been taken.
    reached: u64,
    /// Whether `reached` moved since it was told.
    moved: bool,
    /// Where to stop, if there is an end.
    end: Option<u64>,
    ended: bool,
    held: bool,
    records: Records,
}

impl Track {
    fn new(partition: u32, first: u64, end: Option<u64>) -> Track {
        Track { partition, reached: first, moved: true, end, ended: false, held: false, records: Records::default() }
    }

    fn reach(&mut self, offset: u64) {
        if offset > self.reached {
            self.reached = offset;
            self.moved = true;
        }
    }
}

/// Why the reading thread stops.
enum Stop {
    /// The source was dropped.
    Dropped,
    /// Reading cannot go on.
    Failed(Error),
}

impl Reader {
    fn run(mut self) {
        if let Err(Stop::Failed(error)) = self.read() {
            // Nobody listens any more once the source is dropped.
            drop(self.out.send(Err(error)));
        }
    }

    fn read(&mut self) -> Result<(), Stop> {
        self.flush_all()?;
        while !self.stopped.load(Ordering::Acquire) {
            if let Some(held) = self.wanted.changed() {
                self.hold(&held);
            }
            // A wait for many would last its whole time: wait for one, then take what came with it.
            if self.drain(1, IDLE_MS)? > 0 {
                self.drain(CHUNK_RECORDS - 1, 0)?;
                self.flush_all()?;
            }
        }
        Ok(())
    }

    /// Holds back these partitions and no others.
    ///
    /// A released partition is read on from the position that was *taken*: librdkafka would go on behind the last message or event that
    /// it handed over, and for an end-of-partition event that is one too far (<https://github.com/confluentinc/librdkafka/issues/4844>).
    fn hold(&mut self, partitions: &[u32]) {
        for track in self.tracks.iter_mut().filter(|track| !track.ended) {
            let hold = partitions.contains(&track.partition);
            if hold == track.held {
                continue;
            }
            let outcome = if hold {
                self.connection.pause(&self.topic, track.partition)
            } else {
                self.connection.resume_at(&self.topic, track.partition, track.reached)
            };
            match outcome {
                Ok(()) => track.held = hold,
                Err(error) => {
                    tracing::warn!(event = "partition-pause-failed", topic = self.topic, track.partition, hold, %error, "cannot pause or resume a partition");
                }
            }
        }
    }

    /// Takes what there is; how much it was.
    fn drain(&mut self, at_most: usize, timeout_ms: c_int) -> Result<usize, Stop> {
        let filled = self.batch.fill(&self.connection, at_most, timeout_ms);
        while let Some(message) = self.batch.next() {
            self.take(&message)?;
        }
        Ok(filled)
    }

    fn take(&mut self, message: &Message) -> Result<(), Stop> {
        let partition = message.partition();
        let slot = usize::try_from(partition).ok().and_then(|p| self.slots.get(p).copied().flatten());
        match (message.code(), slot) {
            (RDKafkaErrorCode::NoError, Some(slot)) => self.take_record(message, slot),
            (RDKafkaErrorCode::PartitionEOF, Some(slot)) => {
                self.tracks[slot].reach(message.offset());
                Ok(())
            }
            (code, _) => self.take_error(message, code),
        }
    }

    fn take_record(&mut self, message: &Message, slot: usize) -> Result<(), Stop> {
        let track = &mut self.tracks[slot];
        let offset = message.offset();
        if track.ended || offset < track.reached {
            return Ok(());
        }
        if let Some(end) = track.end.filter(|end| offset >= *end) {
            track.reach(end);
            return Ok(());
        }
        message.append_headers(&mut track.records);
        track.records.push(RecordRef {
            partition: track.partition,
            offset,
            append_time: message.timestamp(),
            key: message.key(),
            payload: message.payload(),
            headers: None,
        });
        track.reach(offset + 1);
        if track.records.len() >= CHUNK_RECORDS || track.records.bytes() >= CHUNK_BYTES {
            self.flush(slot)?;
        }
        Ok(())
    }

    fn flush_all(&mut self) -> Result<(), Stop> {
        (0..self.tracks.len()).try_for_each(|slot| self.flush(slot))
    }

    /// Sends what was taken of a partition, then what follows from the position that this reaches.
    fn flush(&mut self, slot: usize) -> Result<(), Stop> {
        let track = &mut self.tracks[slot];
        if !track.moved {
            return Ok(());
        }
        track.moved = false;
        let (partition, reached) = (track.partition, track.reached);
        self.ends.reach(slot, reached, track.records.len());
        if !track.records.is_empty() {
            let next = with_room_of(&track.records);
            let records = std::mem::replace(&mut track.records, next);
            self.send(Arrival::Records { partition, records })?;
        }
        if let Some(empty) = self.desk.deliver(partition, reached) {
            self.send(empty)?;
        }
        let track = &mut self.tracks[slot];
        if !track.ended && track.end.is_some_and(|end| reached >= end) {
            track.ended = true;
            self.connection.pause(&self.topic, partition).map_err(|e| Stop::Failed(unexpected(e)))?;
            self.send(Arrival::End { partition })?;
        }
        Ok(())
    }

    fn send(&self, arrival: Arrival) -> Result<(), Stop> {
        self.out.send(Ok(arrival)).map_err(|_| Stop::Dropped)
    }

    /// What librdkafka retries by itself is said now and then; what it would skip or jump over ends the source.
    fn take_error(&self, message: &Message, code: RDKafkaErrorCode) -> Result<(), Stop> {
        let (topic, partition, text) = (&self.topic, message.partition(), message.error_text());
        let error = match code {
            RDKafkaErrorCode::AutoOffsetReset => self.out_of_range(partition, &text),
            RDKafkaErrorCode::TopicAuthorizationFailed => Error::Outside(unauthorized(topic)),
            RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::NotImplemented
            | RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::Fatal => {
                Error::Unexpected(format!("topic {topic}, partition {partition}, offset {}: {text}", message.offset()))
            }
            _ => {
                self.connection.client.context().complain(&text);
                return Ok(());
            }
        };
        Err(Stop::Failed(error))
    }

    /// The log no longer holds the position, in mid-run.
    fn out_of_range(&self, partition: c_int, text: &str) -> Error {
        let slot = usize::try_from(partition).ok().and_then(|p| self.slots.get(p).copied().flatten());
        let Some(track) = slot.map(|slot| &self.tracks[slot]) else {
            return Error::State(format!("topic {}: {text}", self.topic));
        };
        let watermarks = self.connection.client.fetch_watermarks(&self.topic, partition, Duration::from_secs(2));
        match watermarks.map(|(low, high)| (u64::try_from(low), u64::try_from(high))) {
            Ok((Ok(low), _)) if track.reached < low => {
                Error::State(trimmed(&self.topic, track.partition, track.reached, low))
            }
            Ok((_, Ok(high))) if track.reached > high => {
                Error::State(truncated(&self.topic, track.partition, track.reached, high))
            }
            _ => Error::State(format!(
                "topic {}, partition {partition}: the log does not hold offset {}, the next to read: {text}",
                self.topic, track.reached
            )),
        }
    }
}

/// Empty columns with the room that the last chunk needed.
fn with_room_of(last: &Records) -> Records {
    let mut next = Records::default();
    next.partitions.reserve(last.len());
    next.offsets.reserve(last.len());
    next.append_times.reserve(last.len());
    next.keys.ends.reserve(last.len());
    next.keys.data.reserve(last.keys.data.len());
    next.null_keys.reserve(last.null_keys.len());
    next.payloads.ends.reserve(last.len());
    next.payloads.data.reserve(last.payloads.data.len());
    next.headers.ends.reserve(last.len());
    next
}

/// The reading client and the queue of its messages and events.
struct Connection {
    queue: NonNull<rdk::rd_kafka_queue_t>,
    client: Client<Voice>,
}

// SAFETY: librdkafka's handles and queues may be used from any thread.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// A consumer that reads these partitions from these offsets.
    fn open(config: &config::KafkaSource, first_offsets: &[(u32, u64)]) -> Result<Connection, Error> {
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
        let queue = queue.ok_or_else(|| Error::Unexpected("librdkafka: a consumer without a queue".into()))?;
        let connection = Connection { queue, client };
        connection.assign(&config.topic, first_offsets).map_err(unexpected)?;
        Ok(connection)
    }

    fn assign(&self, topic: &str, first_offsets: &[(u32, u64)]) -> Result<(), KafkaError> {
        let list = offset_list(topic, first_offsets)?;
        // SAFETY: client and list are alive; the list is copied.
        outcome(unsafe { rdk::rd_kafka_assign(self.client.native_ptr(), list.ptr()) })
    }

    fn pause(&self, topic: &str, partition: u32) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, kafka_partition(partition));
        // SAFETY: client and list are alive; the list is copied.
        outcome(unsafe { rdk::rd_kafka_pause_partitions(self.client.native_ptr(), list.ptr()) })
    }

    /// Reads a paused partition on from `offset`.
    fn resume_at(&self, topic: &str, partition: u32, offset: u64) -> Result<(), KafkaError> {
        let list = offset_list(topic, &[(partition, offset)])?;
        // SAFETY: client and list are alive; without a time to wait nothing is returned that would have to be freed; the list is copied.
        // Both go through the partition's own queue, in this order.
        outcome(unsafe {
            rdk::rd_kafka_seek_partitions(self.client.native_ptr(), list.ptr(), 0);
            rdk::rd_kafka_resume_partitions(self.client.native_ptr(), list.ptr())
        })
    }

    /// Ends the reading thread's present wait.
    fn wake(&self) {
        // SAFETY: the queue is alive.
        unsafe { rdk::rd_kafka_queue_yield(self.queue.as_ptr()) }
    }

    /// Sends the offsets on their way; the reading thread hears what became of them.
    fn commit(&self, topic: &str, next: &[(u32, u64)]) -> Result<(), KafkaError> {
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

fn offset_list(topic: &str, offsets: &[(u32, u64)]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, kafka_partition(*partition), Offset::Offset(kafka_offset(*offset)))?;
    }
    Ok(list)
}

fn outcome(code: RDKafkaRespErr) -> Result<(), KafkaError> {
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(KafkaError::Global(code)),
    }
}

/// The client's voice, given to librdkafka as its opaque pointer by `Client::new`.
///
/// # Safety
/// `opaque` is that pointer, and its client is alive.
unsafe fn voice<'a>(opaque: *const c_void) -> Option<&'a Voice> {
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
unsafe fn text<'a>(text: *const c_char) -> Cow<'a, str> {
    if text.is_null() {
        return Cow::Borrowed("");
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { CStr::from_ptr(text) }.to_string_lossy()
}

/// Messages and events that librdkafka handed over.
struct Batch {
    messages: Vec<*mut rdk::rd_kafka_message_t>,
    next: usize,
    filled: usize,
}

// SAFETY: messages may be used and destroyed on any thread.
unsafe impl Send for Batch {}

impl Batch {
    fn new() -> Batch {
        Batch { messages: vec![ptr::null_mut(); CHUNK_RECORDS], next: 0, filled: 0 }
    }

    /// Waits until `at_most` messages are there or the time is over; how many came.
    fn fill(&mut self, connection: &Connection, at_most: usize, timeout_ms: c_int) -> usize {
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

    fn next(&mut self) -> Option<Message> {
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
struct Message(NonNull<rdk::rd_kafka_message_t>);

impl Message {
    fn get(&self) -> &rdk::rd_kafka_message_t {
        // SAFETY: librdkafka gave it away, and only `drop` destroys it.
        unsafe { self.0.as_ref() }
    }

    fn code(&self) -> RDKafkaErrorCode {
        self.get().err.into()
    }

    fn partition(&self) -> c_int {
        self.get().partition
    }

    /// The offset; 0 for an event that has none.
    fn offset(&self) -> u64 {
        u64::try_from(self.get().offset).unwrap_or(0)
    }

    fn key(&self) -> Option<&[u8]> {
        // SAFETY: librdkafka keeps pointer and length together, for the message's life.
        unsafe { bytes(self.get().key, self.get().key_len) }
    }

    fn payload(&self) -> Option<&[u8]> {
        // SAFETY: as for the key.
        unsafe { bytes(self.get().payload, self.get().len) }
    }

    fn timestamp(&self) -> i64 {
        let mut kind = rdk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, `kind` is written to.
        let timestamp = unsafe { rdk::rd_kafka_message_timestamp(self.0.as_ptr(), &mut kind) };
        match kind {
            rdk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => NO_TIME,
            _ => timestamp,
        }
    }

    /// Appends the headers of the record that is about to be pushed.
    fn append_headers(&self, records: &mut Records) {
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
            records.headers.push(name, value.unwrap_or_default());
        }
    }

    fn error_text(&self) -> String {
        // SAFETY: the message is alive, and its text with it.
        unsafe { text(rdk::rd_kafka_message_errstr(self.0.as_ptr())) }.into_owned()
    }
}

/// The bytes behind a pointer; none behind null, which is how librdkafka tells an absent key or payload from an empty one.
///
/// # Safety
/// `data` is null or points to `size` bytes that live while the borrow does.
unsafe fn bytes<'a>(data: *const c_void, size: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller promises it.
    (!data.is_null()).then(|| unsafe { slice::from_raw_parts(data.cast(), size) })
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: ours, and destroyed once.
        unsafe { rdk::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{LastRecord, fingerprint};
    use rdkafka::ClientConfig;
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
    use std::collections::BTreeMap;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// librdkafka's in-process brokers with one topic.
    struct Brokers {
        cluster: MockCluster<'static, DefaultProducerContext>,
        producer: BaseProducer,
    }

    impl Brokers {
        fn with(partitions: i32) -> Brokers {
            let cluster = MockCluster::new(1).expect("a mock cluster needs nothing");
            cluster.create_topic("visits", partitions, 1).expect("a new topic");
            let producer = ClientConfig::new()
                .set("bootstrap.servers", cluster.bootstrap_servers())
                .set("message.max.bytes", "20000000")
                .create()
                .expect("a producer");
            Brokers { cluster, producer }
        }

        fn config(&self) -> config::KafkaSource {
            config::KafkaSource {
                brokers: self.cluster.bootstrap_servers(),
                topic: "visits".into(),
                group: "test".into(),
                ordering: config::Ordering::Topic,
                properties: BTreeMap::new(),
            }
        }

        fn produce(&self, record: BaseRecord<'_, [u8], [u8]>) {
            self.producer.send(record).map_err(|(e, _)| e).expect("the producer's queue has room");
            self.producer.flush(PATIENCE).expect("the brokers take it");
        }

        /// Payloads "0", "1", ... with timestamps 1000, 1001, ...
        fn produce_many(&self, partition: i32, count: i64) {
            for i in 0..count {
                let payload = i.to_string();
                let record: BaseRecord<'_, [u8], [u8]> =
                    BaseRecord::to("visits").partition(partition).payload(payload.as_bytes()).timestamp(1000 + i);
                self.producer.send(record).map_err(|(e, _)| e).expect("the producer's queue has room");
            }
            self.producer.flush(PATIENCE).expect("the brokers take it");
        }

        fn open(&self, starts: &[Start], until_end: bool) -> Result<KafkaSource, Error> {
            KafkaSource::open(&self.config(), starts, until_end, Instant::now() + PATIENCE)
        }
    }

    fn start(partition: u32) -> Start {
        Start { partition, ..Start::default() }
    }

    fn next(source: &mut KafkaSource) -> Arrival {
        source.next(PATIENCE).expect("the source is well").expect("something arrives")
    }

    /// All records until every partition has ended.
    fn until_ends(source: &mut KafkaSource) -> BTreeMap<u32, Records> {
        let mut records: BTreeMap<u32, Records> = BTreeMap::new();
        let mut open = source.partitions().len();
        while open > 0 {
            match next(source) {
                Arrival::End { .. } => open -= 1,
                Arrival::Empty { .. } => panic!("nobody asked"),
                Arrival::Records { partition, records: some } => {
                    let all = records.entry(partition).or_default();
                    (0..some.len()).for_each(|row| all.push(some.get(row)));
                }
            }
        }
        records
    }

    #[test]
    fn records_keep_order_timestamps_keys_payloads_and_headers() {
        let brokers = Brokers::with(1);
        let to = || BaseRecord::<'_, [u8], [u8]>::to("visits").partition(0);
        let headers = OwnedHeaders::new()
            .insert(Header { key: "a", value: Some("1") })
            .insert(Header { key: "a", value: Some("2") })
            .insert(Header { key: "b", value: None::<&str> });
        brokers.produce(to().payload(b"x").key(b"k").timestamp(1_727_873_508_000).headers(headers));
        brokers.produce(to().payload(b"").key(b"").timestamp(7));
        brokers.produce(to().timestamp(6));
        let records = &until_ends(&mut brokers.open(&[start(0)], true).expect("it opens"))[&0];
        assert_eq!(records.offsets, [0, 1, 2]);
        assert_eq!(records.append_times, [1_727_873_508_000, 7, 6]);
        assert_eq!((records.get(0).key, records.get(0).payload), (Some(&b"k"[..]), Some(&b"x"[..])));
        assert_eq!((records.get(1).key, records.get(1).payload), (Some(&b""[..]), Some(&b""[..])));
        assert_eq!((records.get(2).key, records.get(2).payload), (None, None));
        let headers: Vec<_> = records.headers.of(0).collect();
        assert_eq!(headers, [(&b"a"[..], &b"1"[..]), (b"a", b"2"), (b"b", b"")]);
        assert_eq!(records.headers.of(1).count(), 0);
    }

    #[test]
    fn reading_ends_where_the_partitions_ended_at_the_start() {
        let brokers = Brokers::with(3);
        brokers.produce_many(0, 10_000);
        brokers.produce_many(1, 10);
        let mut source = brokers.open(&[start(0), start(1), start(2)], true).expect("it opens");
        brokers.produce_many(1, 10);
        brokers.produce_many(2, 10);
        let records = until_ends(&mut source);
        assert_eq!(records[&0].offsets, (0..10_000).collect::<Vec<u64>>());
        assert_eq!(records[&1].len(), 10);
        assert!(!records.contains_key(&2));
        assert_eq!(source.first_offsets(), [(0, 0), (1, 0), (2, 0)]);
    }

    #[test]
    fn a_partition_is_empty_only_when_asked_and_all_before_was_delivered() {
        let brokers = Brokers::with(2);
        brokers.produce_many(0, 5);
        let mut source = brokers.open(&[start(0), start(1)], false).expect("it opens");
        let before_ms = rdkafka::util::current_time_millis();
        source.ask(&[0, 1], before_ms);
        let (mut delivered, mut empty) = (0, Vec::new());
        while empty.len() < 2 {
            match next(&mut source) {
                Arrival::Records { records, .. } => delivered += records.len(),
                Arrival::Empty { partition, asked_ms } => {
                    assert!(asked_ms > before_ms);
                    assert!(partition == 1 || delivered == 5, "an answer overtook a record");
                    empty.push(partition);
                }
                Arrival::End { .. } => panic!("there is no end"),
            }
        }
        assert_eq!(
            source.next(Duration::from_millis(100)).expect("the source is well").map(drop),
            None,
            "a question is answered once"
        );
        source.ask(&[], 0);
        source.commit(&[(0, 5)]);
    }

    /// Records until the offset `last` came.
    fn up_to(source: &mut KafkaSource, last: u64) -> Vec<u64> {
        let mut offsets = Vec::new();
        while offsets.last() != Some(&last) {
            if let Arrival::Records { records, .. } = next(source) {
                offsets.extend(records.offsets);
            }
        }
        offsets
    }

    #[test]
    fn a_partition_held_at_its_end_goes_on_with_the_very_next_record() {
        let brokers = Brokers::with(2);
        brokers.produce_many(0, 3);
        let mut source = brokers.open(&[start(0), start(1)], false).expect("it opens");
        assert_eq!(up_to(&mut source, 2), [0, 1, 2]);
        for round in 1..4 {
            source.ask(&[0], rdkafka::util::current_time_millis());
            assert!(matches!(next(&mut source), Arrival::Empty { partition: 0, .. }));
            thread::sleep(Duration::from_millis(50)); // the event of the partition's end is taken too
            source.hold(&[0]);
            thread::sleep(Duration::from_millis(50));
            brokers.produce_many(0, 3);
            source.hold(&[]);
            let first = round * 3;
            assert_eq!(up_to(&mut source, first + 2), [first, first + 1, first + 2]);
        }
    }

    #[test]
    fn reading_goes_on_after_the_last_folded_record() {
        let brokers = Brokers::with(1);
        brokers.produce_many(0, 10);
        let last = LastRecord { offset: 4, timestamp: 1004, fingerprint: fingerprint(None, Some(b"4")) };
        let start = Start { partition: 0, next: Some(5), last: Some(last) };
        let records = &until_ends(&mut brokers.open(&[start], true).expect("it is the same log"))[&0];
        assert_eq!(records.offsets, [5, 6, 7, 8, 9]);
    }

    #[test]
    fn another_log_is_refused() {
        let brokers = Brokers::with(1);
        brokers.produce_many(0, 10);
        let last = LastRecord { offset: 4, timestamp: 1004, fingerprint: fingerprint(None, Some(b"4")) };
        for (start, words) in [
            (
                Start { partition: 0, next: Some(5), last: Some(LastRecord { fingerprint: 1, ..last.clone() }) },
                "offset 4",
            ),
            (
                Start { partition: 0, next: Some(5), last: Some(LastRecord { timestamp: 1, ..last.clone() }) },
                "offset 4",
            ),
            (Start { partition: 0, next: Some(11), last: None }, "ends at 10"),
            (Start { partition: 1, next: Some(1), last: None }, "no partition 1"),
        ] {
            match brokers.open(&[start], false).map(drop) {
                Err(Error::State(message)) => {
                    assert!(message.contains(words) && message.contains("state.url"), "{message}")
                }
                other => panic!("{words}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_payload_of_ten_megabytes_passes() {
        let brokers = Brokers::with(1);
        let payload = vec![b'x'; 10 << 20];
        brokers.produce(BaseRecord::to("visits").partition(0).payload(&payload[..]));
        let records = &until_ends(&mut brokers.open(&[start(0)], true).expect("it opens"))[&0];
        assert_eq!(records.payloads.get(0), payload);
    }

    #[test]
    fn a_topic_is_found_with_its_partitions_and_a_missing_one_is_named() {
        let brokers = Brokers::with(2);
        brokers.produce_many(1, 3);
        let deadline = Instant::now() + PATIENCE;
        let topic = inspect(&brokers.config(), deadline).expect("it is there");
        assert_eq!((topic.partitions, topic.low, topic.high), (vec![0, 1], vec![0, 0], vec![0, 3]));
    }

    #[test]
    fn unreachable_brokers_are_named_after_the_deadline() {
        let brokers = Brokers::with(1);
        let config = config::KafkaSource { brokers: "127.0.0.1:1".into(), ..brokers.config() };
        match inspect(&config, Instant::now() + Duration::from_millis(300)) {
            Err(Error::Outside(message)) => {
                assert!(message.contains("127.0.0.1:1") && message.contains("visits"), "{message}")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_outage_of_the_brokers_passes() {
        let brokers = Brokers::with(1);
        brokers.produce_many(0, 3);
        let mut source = brokers.open(&[start(0)], false).expect("it opens");
        assert!(matches!(next(&mut source), Arrival::Records { .. }));
        brokers.cluster.broker_down(1).expect("the broker goes");
        source.ask(&[0], 0);
        while let Some(arrival) = source.next(Duration::from_millis(1_500)).expect("an outage is no failure") {
            assert!(!matches!(arrival, Arrival::Empty { .. }), "silence is not emptiness");
        }
        brokers.cluster.broker_up(1).expect("the broker comes");
        brokers.produce_many(0, 1);
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match next(&mut source) {
                Arrival::Records { records, .. } => seen.extend(records.offsets),
                Arrival::Empty { .. } => seen.push(u64::MAX),
                Arrival::End { .. } => panic!("there is no end"),
            }
        }
        assert!(seen.contains(&3) && seen.contains(&u64::MAX), "{seen:?}");
    }

    #[test]
    fn properties_that_the_guarantee_rests_on_are_refused_by_name() {
        let refused = |key: &str, value: &str| {
            let properties = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            match check_properties(&properties) {
                Err(Error::Config(message)) => {
                    assert!(message.contains(&format!("source.kafka.properties.{key}")), "{message}")
                }
                other => panic!("{key}: {other:?}"),
            }
        };
        for (key, _) in RESERVED {
            refused(key, "x");
        }
        refused("enable.auto.commit", "true");
        refused("enable.auto.offset.store", "true");
        refused("no.such.property", "1");
        refused("fetch.wait.max.ms", "soon");
        let good =
            [("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-512"), ("fetch.wait.max.ms", "10")];
        check_properties(&good.map(|(k, v)| (k.to_owned(), v.to_owned())).into()).expect("these are the operator's");
    }

    #[test]
    fn dropping_a_source_that_nobody_reads_takes_less_than_a_second() {
        let brokers = Brokers::with(1);
        brokers.produce_many(0, 100_000);
        let mut source = brokers.open(&[start(0)], false).expect("it opens");
        next(&mut source);
        let before = Instant::now();
        drop(source);
        assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    }
}
