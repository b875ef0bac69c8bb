//! The thread that reads a topic: takes messages and events from librdkafka by batch, keeps each partition's position, and sends arrivals.
//! It refuses to guess: silence is not emptiness, and a log that does not hold the next offset is an error.

use std::ffi::c_int;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use crate::failure::Failure;
use crate::observe::ends::Ends;
use crate::position::{Offset, Partition};
use crate::record::{RecordRef, Records};
use crate::source::Arrival;
use crate::source::kafka::broker::{locked, trimmed, truncated, unauthorized, unexpected};
use crate::source::kafka::emptiness::Desk;

use crate::source::kafka::native::{Batch, Connection, Message};
use crate::source::kafka::secrets::Secrets;

/// Records in one parcel, at most.
pub(super) const CHUNK_RECORDS: usize = 4096;
/// Bytes after which a parcel is full.
const CHUNK_BYTES: usize = 4 << 20;
/// How long the reading thread waits for a first message before it looks whether it should stop.
const IDLE_MS: c_int = 100;

/// The partitions that the lane wants held back; the reading thread, which alone knows its positions, carries it out.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) held: Mutex<Vec<Partition>>,
    pub(super) changed: AtomicBool,
}

impl Wanted {
    /// Whether this is another wish than the last.
    pub(super) fn hold(&self, partitions: &[Partition]) -> bool {
        let mut held = locked(&self.held);
        let other = *held != partitions;
        if other {
            partitions.clone_into(&mut held);
            self.changed.store(true, Ordering::Release);
        }
        other
    }

    /// The wish, if it has changed since this was called last.
    pub(super) fn changed(&self) -> Option<Vec<Partition>> {
        self.changed.swap(false, Ordering::AcqRel).then(|| locked(&self.held).clone())
    }
}

/// The reading thread.
pub(super) struct Reader {
    // Before the connection: librdkafka's messages go before their client.
    pub(super) batch: Batch,
    pub(super) topic: String,
    pub(super) slots: Vec<Option<usize>>,
    pub(super) tracks: Vec<Track>,
    pub(super) desk: Arc<Desk>,
    pub(super) out: SyncSender<Result<Vec<Arrival>, Failure>>,
    pub(super) stopped: Arc<AtomicBool>,
    pub(super) connection: Arc<Connection>,
    pub(super) wanted: Arc<Wanted>,
    pub(super) ends: Arc<Ends>,
    pub(super) secrets: Secrets,
}

/// One partition on its way.
pub(super) struct Track {
    pub(super) partition: Partition,
    /// Everything visible before this offset has been taken.
    pub(super) reached: Offset,
    /// Whether `reached` moved since it was told.
    pub(super) moved: bool,
    /// Where to stop, if there is an end.
    pub(super) end: Option<Offset>,
    pub(super) ended: bool,
    pub(super) held: bool,
    pub(super) records: Records,
}

impl Track {
    pub(super) fn new(partition: Partition, first: Offset, end: Option<Offset>) -> Track {
        Track { partition, reached: first, moved: true, end, ended: false, held: false, records: Records::default() }
    }

    pub(super) fn reach(&mut self, offset: Offset) {
        if offset > self.reached {
            self.reached = offset;
            self.moved = true;
        }
    }
}

/// Why the reading thread stops.
pub(super) enum Stop {
    /// The source was dropped.
    Dropped,
    /// Reading cannot go on.
    Failed(Failure),
}

impl Reader {
    pub(super) fn run(mut self) {
        if let Err(Stop::Failed(error)) = self.read() {
            // Nobody listens any more once the source is dropped.
            drop(self.out.send(Err(error)));
        }
    }

    pub(super) fn read(&mut self) -> Result<(), Stop> {
        self.flush_all()?;
        while !self.stopped.load(Ordering::Acquire) {
            if let Some(held) = self.wanted.changed() {
                self.hold(&held);
            }
            self.secrets.look(&self.connection.client);
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
    pub(super) fn hold(&mut self, partitions: &[Partition]) {
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
                    tracing::warn!(event = "partition-pause-failed", topic = self.topic, partition = %track.partition, hold, %error, "cannot pause or resume a partition");
                }
            }
        }
    }

    /// Takes what there is; how much it was.
    pub(super) fn drain(&mut self, at_most: usize, timeout_ms: c_int) -> Result<usize, Stop> {
        let filled = self.batch.fill(&self.connection, at_most, timeout_ms);
        while let Some(message) = self.batch.next() {
            self.take(&message)?;
        }
        Ok(filled)
    }

    pub(super) fn take(&mut self, message: &Message) -> Result<(), Stop> {
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

    pub(super) fn take_record(&mut self, message: &Message, slot: usize) -> Result<(), Stop> {
        let track = &mut self.tracks[slot];
        let offset = message.offset();
        if track.ended || offset < track.reached {
            return Ok(());
        }
        if let Some(end) = track.end.filter(|end| offset >= *end) {
            track.reach(end);
            return Ok(());
        }
        let headers_left_out = message.append_headers(&mut track.records);
        let record = RecordRef {
            partition: track.partition.0,
            offset: offset.0,
            append_time: message.timestamp(),
            key: message.key(),
            payload: message.payload(),
            headers: None,
        };
        track.records.push_bounded(record, headers_left_out);
        track.reach(offset.next());
        if track.records.len() >= CHUNK_RECORDS || track.records.bytes() >= CHUNK_BYTES {
            self.flush(slot..slot + 1)?;
        }
        Ok(())
    }

    pub(super) fn flush_all(&mut self) -> Result<(), Stop> {
        self.flush(0..self.tracks.len())
    }

    /// Sends what was taken of these partitions, then what follows from the positions that this reaches. In as few parcels as their
    /// bounds allow: at the head of many partitions each has a record or two, and the channel counts parcels.
    pub(super) fn flush(&mut self, slots: Range<usize>) -> Result<(), Stop> {
        let (mut parcel, mut bytes, mut reached) = (Vec::new(), 0, Vec::new());
        for slot in slots.clone() {
            let track = &mut self.tracks[slot];
            if !std::mem::take(&mut track.moved) {
                continue;
            }
            reached.push((track.partition, track.reached));
            self.ends.reach(slot, track.reached, track.records.len());
            if track.records.is_empty() {
                continue;
            }
            if bytes + track.records.bytes() > CHUNK_BYTES {
                bytes = 0;
                let full = std::mem::take(&mut parcel);
                self.send(full)?;
            }
            let track = &mut self.tracks[slot];
            bytes += track.records.bytes();
            let next = with_room_of(&track.records);
            let records = std::mem::replace(&mut track.records, next);
            parcel.push(Arrival::Records { partition: track.partition, records });
        }
        self.send(parcel)?;
        // After the records: nobody may hear before them that they were all.
        self.send(self.desk.deliver(&reached))?;
        self.end(slots)
    }

    /// Ends those of these partitions that have come to their end.
    fn end(&mut self, slots: Range<usize>) -> Result<(), Stop> {
        for track in &mut self.tracks[slots] {
            if !track.ended && track.end.is_some_and(|end| track.reached >= end) {
                track.ended = true;
                let partition = track.partition;
                self.connection.pause(&self.topic, partition).map_err(|e| Stop::Failed(unexpected(e)))?;
                self.out.send(Ok(vec![Arrival::End { partition }])).map_err(|_| Stop::Dropped)?;
            }
        }
        Ok(())
    }

    pub(super) fn send(&self, parcel: Vec<Arrival>) -> Result<(), Stop> {
        if parcel.is_empty() { Ok(()) } else { self.out.send(Ok(parcel)).map_err(|_| Stop::Dropped) }
    }

    /// What librdkafka retries by itself is said now and then; what it would skip or jump over ends the source.
    pub(super) fn take_error(&self, message: &Message, code: RDKafkaErrorCode) -> Result<(), Stop> {
        let (topic, partition, text) = (&self.topic, message.partition(), message.error_text());
        let error = match code {
            RDKafkaErrorCode::AutoOffsetReset => self.out_of_range(partition, &text),
            RDKafkaErrorCode::TopicAuthorizationFailed => Failure::outside(unauthorized(topic)),
            RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::NotImplemented
            | RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::Fatal => Failure::unexpected(format!(
                "topic {topic}, partition {partition}, offset {}: {text}",
                message.offset()
            )),
            _ => {
                self.connection.client.context().complain(&text);
                return Ok(());
            }
        };
        Err(Stop::Failed(error))
    }

    /// The log no longer holds the position, in mid-run.
    pub(super) fn out_of_range(&self, partition: c_int, text: &str) -> Failure {
        let slot = usize::try_from(partition).ok().and_then(|p| self.slots.get(p).copied().flatten());
        let Some(track) = slot.map(|slot| &self.tracks[slot]) else {
            return Failure::state(format!("topic {}: {text}", self.topic));
        };
        let watermarks = self.connection.client.fetch_watermarks(&self.topic, partition, Duration::from_secs(2));
        match watermarks.map(|(low, high)| (u64::try_from(low).map(Offset), u64::try_from(high).map(Offset))) {
            Ok((Ok(low), _)) if track.reached < low => {
                Failure::state(trimmed(&self.topic, track.partition, track.reached, low))
            }
            Ok((_, Ok(high))) if track.reached > high => {
                Failure::state(truncated(&self.topic, track.partition, track.reached, high))
            }
            _ => Failure::state(format!(
                "topic {}, partition {partition}: the log does not hold offset {}, the next to read: {text}",
                self.topic, track.reached
            )),
        }
    }
}

/// Empty columns with the room that the last chunk needed.
pub(super) fn with_room_of(last: &Records) -> Records {
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
