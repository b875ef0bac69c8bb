//! Many partitions into one order: (append time, partition, offset). Pure: it is told what arrived and what was found empty, and says
//! what may be released, what it waits for and which floors must be durable first. It reads no clock and does no I/O.
//!
//! Keeps I4: a record that would sort before what was released gets a floor, so that every replay sorts it where it was folded.

use std::collections::{BTreeMap, VecDeque};

use super::LastRecord;
use crate::record::{NO_TIME, Records};

/// Where a record stands in the lane's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Append time, ms.
    pub append_time: i64,
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
}

/// How far a lane has released: the last record, and the next offset per partition.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Frontier {
    /// The last released record.
    pub last: Position,
    /// The next offset to release, per partition; a partition of which nothing was released is absent.
    pub next: BTreeMap<u32, u64>,
}

/// The least append time of a record that became visible behind the frontier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
    /// Its append time from now on, in every replay.
    pub append_time: i64,
}

/// What a partition brings from a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Greatest append time so far, or [`NO_TIME`].
    pub envelope: i64,
    /// The last released record.
    pub last: Option<LastRecord>,
}

/// What a call of [`Merge::release`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Records moved.
    pub records: usize,
    /// Whether any of them was released on the word of a partition that it is empty, which is a bet: the frontier must be durable before
    /// anything leaves that depends on it.
    pub asked: bool,
}

/// What holds the merge: heads are there, but these partitions must be found empty at an instant past `after_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The partitions to ask.
    pub partitions: Vec<u32>,
    /// Append time of the waiting head plus the clock skew, ms.
    pub after_ms: i64,
}

/// The merge of a lane's partitions. Of one partition it is a queue.
#[derive(Debug)]
pub struct Merge {
    queues: Vec<Queue>,
    clock_skew_ms: i64,
    last: Option<Position>,
    journalled: Option<Frontier>,
    floors: BTreeMap<(u32, u64), i64>,
}

#[derive(Debug)]
struct Queue {
    partition: u32,
    chunks: VecDeque<Chunk>,
    queued: usize,
    queued_bytes: usize,
    /// Greatest append time pushed; what is queued and lost in a crash gets its append time again from `released`.
    envelope: i64,
    /// Append time of the last released record.
    released: i64,
    empty_at_ms: i64,
    ended: bool,
    last: Option<LastRecord>,
}

#[derive(Debug)]
struct Chunk {
    /// With append times in place of timestamps.
    records: Records,
    timestamps: Vec<i64>,
    row: usize,
}

impl Merge {
    /// A merge of these partitions, from where a checkpoint left them. `last` is the checkpoint's last released record, `journalled` and
    /// `floors` the journal's.
    pub fn new(
        partitions: &[(u32, Resume)],
        clock_skew_ms: i64,
        last: Option<Position>,
        journalled: Option<Frontier>,
        floors: BTreeMap<(u32, u64), i64>,
    ) -> Merge {
        let queue = |(partition, resume): &(u32, Resume)| Queue {
            partition: *partition,
            chunks: VecDeque::new(),
            queued: 0,
            queued_bytes: 0,
            envelope: resume.envelope,
            released: resume.envelope,
            empty_at_ms: NO_TIME,
            ended: false,
            last: resume.last.clone(),
        };
        Merge { queues: partitions.iter().map(queue).collect(), clock_skew_ms, last, journalled, floors }
    }

    /// Takes records of one partition; gives the floors that must be durable before the next [`Merge::release`].
    pub fn push(&mut self, partition: u32, mut records: Records) -> Vec<Floor> {
        let i = self.index(partition);
        let mut new_floors = Vec::new();
        let timestamps = records.append_times.clone();
        for (time, &offset) in records.append_times.iter_mut().zip(&records.offsets) {
            let queue = &mut self.queues[i];
            let known = if self.floors.is_empty() { None } else { self.floors.get(&(partition, offset)) };
            let stamp = if *time == NO_TIME && queue.envelope == NO_TIME { 0 } else { *time };
            let mut append_time = stamp.max(queue.envelope).max(known.copied().unwrap_or(NO_TIME));
            let here = Position { append_time, partition, offset };
            if let Some(bound) = bound(self.last, self.journalled.as_ref(), partition, offset).filter(|b| here <= *b) {
                append_time = least_after(bound, partition, offset);
                new_floors.push(Floor { partition, offset, append_time });
            }
            queue.envelope = append_time;
            *time = append_time;
        }
        if !records.is_empty() {
            let queue = &mut self.queues[i];
            queue.empty_at_ms = NO_TIME;
            queue.queued += records.len();
            queue.queued_bytes += records.bytes();
            queue.chunks.push_back(Chunk { records, timestamps, row: 0 });
        }
        for floor in &new_floors {
            self.floors.insert((floor.partition, floor.offset), floor.append_time);
        }
        new_floors
    }

    /// The partition was found empty when it was asked at `asked_ms`, all that was visible then having been pushed.
    pub fn empty(&mut self, partition: u32, asked_ms: i64) {
        let i = self.index(partition);
        if self.queues[i].chunks.is_empty() {
            self.queues[i].empty_at_ms = self.queues[i].empty_at_ms.max(asked_ms);
        }
    }

    /// The partition's last record has been pushed.
    pub fn end(&mut self, partition: u32) {
        let i = self.index(partition);
        self.queues[i].ended = true;
    }

    /// Moves what may be released into `out`, up to `max_records` and about `max_bytes` there.
    pub fn release(&mut self, max_records: usize, max_bytes: usize, out: &mut Records) -> Released {
        let mut released = Released::default();
        let mut touched = Vec::new();
        while out.len() < max_records && (out.is_empty() || out.bytes() < max_bytes) {
            let Some(run) = self.next_run() else { break };
            let queue = &mut self.queues[run.queue];
            let before = out.len();
            queue.take(run.before, run.below_ms, max_records - before, max_bytes, out);
            released.records += out.len() - before;
            released.asked |= run.asked;
            self.last = Some(position_of(out, out.len() - 1));
            if !touched.contains(&run.queue) {
                touched.push(run.queue);
            }
        }
        for i in touched {
            self.queues[i].remember(out);
        }
        released
    }

    /// What holds the merge, if heads wait for partitions that have none.
    pub fn blocked(&self) -> Option<Blocked> {
        let head = self.queues.iter().filter_map(Queue::head).min()?;
        let after_ms = head.append_time.saturating_add(self.clock_skew_ms);
        let waits = |q: &&Queue| q.chunks.is_empty() && !q.ended && q.empty_at_ms <= after_ms;
        let partitions: Vec<_> = self.queues.iter().filter(waits).map(|q| q.partition).collect();
        (!partitions.is_empty()).then_some(Blocked { partitions, after_ms })
    }

    /// Records that wait to be released.
    pub fn queued(&self) -> usize {
        self.queues.iter().map(|q| q.queued).sum()
    }

    /// The partitions of which more than this waits: to be held back while others are waited for.
    pub fn overfull(&self, records: usize, bytes: usize) -> Vec<u32> {
        self.queues.iter().filter(|q| q.queued > records || q.queued_bytes > bytes).map(|q| q.partition).collect()
    }

    /// Whether every partition has ended and all its records were released.
    pub fn finished(&self) -> bool {
        self.queues.iter().all(|q| q.ended && q.chunks.is_empty())
    }

    /// Whether nothing waits to be released.
    pub fn drained(&self) -> bool {
        self.queues.iter().all(|q| q.chunks.is_empty())
    }

    /// The instant at which every partition was last found empty, if all are empty: up to there no record is missing.
    pub fn all_empty_at_ms(&self) -> Option<i64> {
        let least = self.queues.iter().map(|q| if q.chunks.is_empty() { q.empty_at_ms } else { NO_TIME }).min()?;
        (least != NO_TIME).then_some(least)
    }

    /// From now on nothing may sort before `instant_ms`: the lane's clock was advanced to there.
    pub fn raise(&mut self, instant_ms: i64) {
        let position = Position { append_time: instant_ms - 1, partition: u32::MAX, offset: u64::MAX };
        self.last = self.last.max(Some(position));
    }

    /// How far the lane has come: the frontier to journal, and per partition what a checkpoint keeps.
    pub fn frontier(&self) -> Option<Frontier> {
        let next = self.queues.iter().filter_map(|q| Some((q.partition, q.last.as_ref()?.offset + 1))).collect();
        Some(Frontier { last: self.last?, next })
    }

    /// Per partition: the append time of the last *released* record, and that record.
    pub fn resume(&self) -> Vec<(u32, Resume)> {
        let of = |q: &Queue| (q.partition, Resume { envelope: q.released, last: q.last.clone() });
        self.queues.iter().map(of).collect()
    }

    fn index(&self, partition: u32) -> usize {
        self.queues.binary_search_by_key(&partition, |q| q.partition).expect("a source delivers the partitions that it named")
    }

    /// The next records that may go: those of one queue up to the next head of another, and below the instant at which an empty
    /// partition was asked.
    fn next_run(&self) -> Option<Run> {
        let (mut least, mut second, mut below_ms, mut asked) = (None::<(Position, usize)>, None::<Position>, i64::MAX, false);
        for (i, queue) in self.queues.iter().enumerate() {
            match queue.head() {
                Some(head) if least.is_none_or(|(l, _)| head < l) => {
                    second = least.map(|(l, _)| l);
                    least = Some((head, i));
                }
                Some(head) => second = Some(second.map_or(head, |s| s.min(head))),
                None => {
                    asked = true;
                    if !queue.ended {
                        below_ms = below_ms.min(queue.empty_at_ms.saturating_sub(self.clock_skew_ms));
                    }
                }
            }
        }
        let (head, queue) = least?;
        (head.append_time < below_ms).then_some(Run { queue, before: second, below_ms, asked })
    }
}

struct Run {
    queue: usize,
    before: Option<Position>,
    below_ms: i64,
    asked: bool,
}

impl Queue {
    fn head(&self) -> Option<Position> {
        self.chunks.front().map(|chunk| position_of(&chunk.records, chunk.row))
    }

    /// Moves records of the first chunk, while they sort before `before` and lie below `below_ms`; at least one.
    fn take(&mut self, before: Option<Position>, below_ms: i64, max_records: usize, max_bytes: usize, out: &mut Records) {
        let chunk = self.chunks.front_mut().expect("a run begins at a head");
        let first = chunk.row;
        let last = chunk.records.len().min(first + max_records);
        let mut bytes = out.bytes();
        let mut end = first;
        while end < last {
            let here = position_of(&chunk.records, end);
            let goes = here.append_time < below_ms && before.is_none_or(|b| here < b);
            if !goes || (end > first && bytes >= max_bytes) {
                break;
            }
            bytes += chunk.records.payloads.get(end).len() + chunk.records.keys.get(end).len();
            end += 1;
        }
        out.append(&chunk.records, first..end);
        chunk.row = end;
        self.released = chunk.records.append_times[end - 1];
        self.last = Some(LastRecord { offset: chunk.records.offsets[end - 1], timestamp: chunk.timestamps[end - 1], fingerprint: 0 });
        self.queued -= end - first;
        if end == chunk.records.len() {
            self.queued_bytes -= chunk.records.bytes();
            self.chunks.pop_front();
        }
    }

    /// Completes `last` by the fingerprint of the record, which is the last of its partition in `out`.
    fn remember(&mut self, out: &Records) {
        let row = out.partitions.iter().rposition(|&p| p == self.partition).expect("a record of this queue was just released");
        let record = out.get(row);
        let last = self.last.as_mut().expect("set when the record was released");
        last.fingerprint = super::fingerprint(record.key, record.payload);
    }

}

fn position_of(records: &Records, row: usize) -> Position {
    Position { append_time: records.append_times[row], partition: records.partitions[row], offset: records.offsets[row] }
}

/// What a record at `offset` must not sort before: the last released record, and, if it was not released before the journalled frontier,
/// that.
fn bound(last: Option<Position>, journalled: Option<&Frontier>, partition: u32, offset: u64) -> Option<Position> {
    let behind = journalled.filter(|f| f.next.get(&partition).is_none_or(|&next| offset >= next)).map(|f| f.last);
    last.max(behind)
}

/// The least append time with which (partition, offset) sorts after `bound`.
fn least_after(bound: Position, partition: u32, offset: u64) -> i64 {
    if (partition, offset) > (bound.partition, bound.offset) { bound.append_time } else { bound.append_time.saturating_add(1) }
}
