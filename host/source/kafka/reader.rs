//! Reading a lane's partitions: takes messages and events from the lane's queue by batch, keeps each partition's position, and puts arrivals into
//! the lane's mailbox. A few threads read for all lanes of a host; none of them waits for a lane.
//! It refuses to guess: silence is not emptiness, and a log that does not hold the next offset is an error.

use std::ffi::c_int;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::error::RDKafkaErrorCode;

use crate::failure::Failure;
use crate::observe::ends::Ends;
use crate::position::{LastRecord, Offset, Partition};
use crate::record::{NO_TIME, RecordRef, Records};
use crate::source::Arrival;
use crate::source::kafka::broker::{Found, compare, locked, unauthorized, unexpected};
use crate::source::kafka::emptiness::{Ledger, empty};
use crate::source::kafka::hub::Lane;
use crate::source::kafka::mailbox::{Mailbox, Trouble};
use crate::source::kafka::native::{Batch, LaneQueue, Message};

/// Records in one parcel, at most.
pub(super) const CHUNK_RECORDS: usize = 4096;
/// Bytes after which a parcel is full.
const CHUNK_BYTES: usize = 4 << 20;

/// The partitions that the lane wants held back; who reads, and alone knows the positions, carries it out.
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

/// Reads one lane's partitions.
pub(super) struct Reader {
    queue: LaneQueue,
    topic: String,
    slots: Vec<Option<usize>>,
    tracks: Vec<Track>,
    ledger: Arc<Mutex<Ledger>>,
    mailbox: Arc<Mailbox>,
    wanted: Arc<Wanted>,
    ends: Arc<Ends>,
    /// Partitions whose last record was not seen again yet.
    unverified: usize,
    /// Whether it has told the lane of trouble.
    has_failed: bool,
}

/// One partition on its way.
pub(super) struct Track {
    partition: Partition,
    /// The first offset to deliver.
    first: Offset,
    /// Everything visible before this offset has been taken.
    reached: Offset,
    /// Whether `reached` moved since it was told.
    moved: bool,
    /// The last record that was folded, to be seen again before anything is delivered.
    last: Option<LastRecord>,
    /// Where to stop, if there is an end.
    end: Option<Offset>,
    ended: bool,
    held: bool,
    records: Records,
}

impl Track {
    /// A partition that is delivered from `first` on. If there is a `last` record to see again, it is read from there.
    pub(super) fn new(partition: Partition, first: Offset, last: Option<LastRecord>, end: Option<Offset>) -> Track {
        let reached = last.as_ref().map_or(first, |last| last.offset);
        Track {
            partition,
            first,
            reached,
            moved: true,
            last,
            end,
            ended: false,
            held: false,
            records: Records::default(),
        }
    }

    /// The partition and the next offset to read.
    pub(super) fn position(&self) -> (Partition, Offset) {
        (self.partition, self.reached)
    }

    fn reach(&mut self, offset: Offset) {
        if offset > self.reached {
            self.reached = offset;
            self.moved = true;
        }
    }
}

impl Reader {
    /// Reads these partitions from a queue, for a lane.
    pub(super) fn new(queue: LaneQueue, topic: String, tracks: Vec<Track>, lane: &Lane) -> Reader {
        let unverified = tracks.iter().filter(|track| track.last.is_some()).count();
        if unverified == 0 {
            lane.mailbox.verified();
        }
        Reader {
            queue,
            topic,
            slots: slots(&tracks),
            tracks,
            ledger: Arc::clone(&lane.ledger),
            mailbox: Arc::clone(&lane.mailbox),
            wanted: Arc::clone(&lane.wanted),
            ends: Arc::clone(&lane.ends),
            unverified,
            has_failed: false,
        }
    }

    /// Takes what is there, once. Whether there may be more that the lane has room for.
    pub(super) fn serve(&mut self, batch: &mut Batch) -> bool {
        if self.has_failed {
            return false;
        }
        let served = self.read(batch);
        served.unwrap_or_else(|trouble| {
            while batch.next().is_some() {}
            self.has_failed = true;
            self.mailbox.fail(trouble);
            false
        })
    }

    fn read(&mut self, batch: &mut Batch) -> Result<bool, Trouble> {
        if let Some(held) = self.wanted.changed() {
            self.hold(&held);
        }
        if !self.mailbox.has_room() {
            return Ok(false);
        }
        let filled = self.queue.fill(batch, CHUNK_RECORDS);
        while let Some(message) = batch.next() {
            self.take(&message)?;
        }
        self.flush(0..self.tracks.len())?;
        Ok(filled == CHUNK_RECORDS)
    }

    /// Holds back these partitions and no others.
    ///
    /// A released partition is read on from the position that was *taken*: librdkafka would go on behind the last message or event that
    /// it handed over, and for an end-of-partition event that is one too far (<https://github.com/confluentinc/librdkafka/issues/4844>).
    fn hold(&mut self, partitions: &[Partition]) {
        let connection = &self.queue.connection;
        for track in self.tracks.iter_mut().filter(|track| !track.ended) {
            let hold = partitions.contains(&track.partition);
            if hold == track.held {
                continue;
            }
            let outcome = if hold {
                connection.pause(track.partition)
            } else {
                connection.resume_at(track.partition, track.reached)
            };
            match outcome {
                Ok(()) => track.held = hold,
                Err(error) => {
                    tracing::warn!(event = "partition-pause-failed", topic = self.topic, partition = %track.partition, hold, %error, "cannot pause or resume a partition");
                }
            }
        }
    }

    fn take(&mut self, message: &Message) -> Result<(), Trouble> {
        let partition = message.partition();
        let slot = usize::try_from(partition).ok().and_then(|p| self.slots.get(p).copied().flatten());
        match (message.code(), slot) {
            (RDKafkaErrorCode::NoError, Some(slot)) => self.take_record(message, slot),
            (RDKafkaErrorCode::PartitionEOF, Some(slot)) => {
                // Nothing is visible at the last record or after it: it was compacted away.
                self.verified(slot);
                self.tracks[slot].reach(message.offset());
                Ok(())
            }
            (code, _) => self.take_error(message, code),
        }
    }

    fn take_record(&mut self, message: &Message, slot: usize) -> Result<(), Trouble> {
        self.verify(message, slot)?;
        let track = &mut self.tracks[slot];
        let offset = message.offset();
        if track.ended || offset < track.reached {
            return Ok(());
        }
        if let Some(end) = track.end.filter(|end| offset >= *end) {
            track.reach(end);
            return Ok(());
        }
        if offset < track.first {
            track.reach(offset.next());
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

    /// Compares the first record of a partition with the last one that was folded.
    fn verify(&mut self, message: &Message, slot: usize) -> Result<(), Trouble> {
        let Some(last) = self.tracks[slot].last.as_ref().filter(|_| message.offset() >= self.tracks[slot].reached)
        else {
            return Ok(());
        };
        let found = Found {
            offset: message.offset(),
            timestamp: Some(message.timestamp()).filter(|time| *time != NO_TIME),
            key: message.key(),
            payload: message.payload(),
        };
        compare(&self.topic, self.tracks[slot].partition, last, &found).map_err(Trouble::Known)?;
        self.verified(slot);
        Ok(())
    }

    fn verified(&mut self, slot: usize) {
        if self.tracks[slot].last.take().is_some() {
            self.unverified -= 1;
            if self.unverified == 0 {
                self.mailbox.verified();
            }
        }
    }

    /// Sends what was taken of these partitions, then what follows from the positions that this reaches. In as few parcels as their
    /// bounds allow: at the head of many partitions each has a record or two, and the mailbox counts parcels.
    fn flush(&mut self, slots: Range<usize>) -> Result<(), Trouble> {
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
                self.mailbox.put(std::mem::take(&mut parcel));
            }
            bytes += track.records.bytes();
            let next = with_room_of(&track.records);
            let records = std::mem::replace(&mut track.records, next);
            parcel.push(Arrival::Records { partition: track.partition, records });
        }
        self.mailbox.put(parcel);
        // After the records: nobody may hear before them that they were all.
        if !reached.is_empty() {
            let mut ledger = locked(&self.ledger);
            self.mailbox.put(empty(ledger.deliver(&reached)));
        }
        self.end(slots)
    }

    /// Ends those of these partitions that have come to their end.
    fn end(&mut self, slots: Range<usize>) -> Result<(), Trouble> {
        for track in &mut self.tracks[slots] {
            if !track.ended && track.end.is_some_and(|end| track.reached >= end) {
                track.ended = true;
                let partition = track.partition;
                self.queue.connection.pause(partition).map_err(|e| Trouble::Known(unexpected(e)))?;
                self.mailbox.put(vec![Arrival::End { partition }]);
            }
        }
        Ok(())
    }

    /// What librdkafka retries by itself is said now and then; what it would skip or jump over ends the source.
    fn take_error(&self, message: &Message, code: RDKafkaErrorCode) -> Result<(), Trouble> {
        let (topic, partition, text) = (&self.topic, message.partition(), message.error_text());
        let failure = match code {
            RDKafkaErrorCode::AutoOffsetReset => return Err(self.out_of_range(partition, text)),
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
                self.queue.connection.client.context().complain(&text);
                return Ok(());
            }
        };
        Err(Trouble::Known(failure))
    }

    /// The log no longer holds the position.
    fn out_of_range(&self, partition: c_int, text: String) -> Trouble {
        let slot = usize::try_from(partition).ok().and_then(|p| self.slots.get(p).copied().flatten());
        match slot.map(|slot| &self.tracks[slot]) {
            None => Trouble::Known(Failure::state(format!("topic {}: {text}", self.topic))),
            Some(track) if track.last.is_some() => Trouble::Known(Failure::state(format!(
                "topic {}: the log was trimmed while this pipeline started: start again",
                self.topic
            ))),
            Some(track) => Trouble::OutOfRange { partition: track.partition, next: track.reached, text },
        }
    }
}

/// Where in the tracks, which are ascending, each partition is.
fn slots(tracks: &[Track]) -> Vec<Option<usize>> {
    let size = tracks.last().map_or(0, |track| track.partition.0 as usize + 1);
    let mut slots = vec![None; size];
    for (slot, track) in tracks.iter().enumerate() {
        slots[track.partition.0 as usize] = Some(slot);
    }
    slots
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
