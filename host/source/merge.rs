//! Many partitions into one order: (append time, partition, offset). Pure: it is told what arrived and what was found empty, and says
//! what may be released, what it waits for and which floors must be durable first. It reads no clock and does no I/O.
//!
//! Keeps I4: a record that would sort before what was released gets a floor, so that every replay sorts it where it was folded.

use std::collections::{BTreeMap, VecDeque};

use crate::event_time::{AppendTime, Cell, plausible};
use crate::position::{Floor, Frontier, LastRecord, Offset, Partition, Position, Resume, fingerprint};
use crate::record::Records;

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
    pub partitions: Vec<Partition>,
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
    floors: BTreeMap<(Partition, Offset), AppendTime>,
}

#[derive(Debug)]
struct Queue {
    partition: Partition,
    chunks: VecDeque<Chunk>,
    queued: usize,
    queued_bytes: usize,
    /// Greatest append time pushed; what is queued and lost in a crash gets its append time again from `released`.
    envelope: Option<AppendTime>,
    /// Append time of the last released record.
    released: Option<AppendTime>,
    /// The host's clock, ms since 1970, just before the partition was asked last; all that it held then has been pushed. None if it was never
    /// asked. Records that came since were not visible then, so they leave this as it is.
    empty_at_ms: Option<i64>,
    ended: bool,
    last: Option<LastRecord>,
}

#[derive(Debug)]
struct Chunk {
    /// With append times in place of timestamps.
    records: Records,
    timestamps: Vec<i64>,
    /// Taken out of the records: of a lane's they would be of several partitions.
    digests: Vec<u64>,
    row: usize,
}

impl Merge {
    /// A merge of these partitions, from where a checkpoint left them. `last` is the checkpoint's last released record, `journalled` and
    /// `floors` the journal's.
    pub fn new(
        partitions: &[(Partition, Resume)],
        clock_skew_ms: i64,
        last: Option<Position>,
        journalled: Option<Frontier>,
        floors: BTreeMap<(Partition, Offset), AppendTime>,
    ) -> Merge {
        let queue = |(partition, resume): &(Partition, Resume)| Queue {
            partition: *partition,
            chunks: VecDeque::new(),
            queued: 0,
            queued_bytes: 0,
            envelope: resume.envelope,
            released: resume.envelope,
            empty_at_ms: None,
            ended: false,
            last: resume.last.clone(),
        };
        Merge { queues: partitions.iter().map(queue).collect(), clock_skew_ms, last, journalled, floors }
    }

    /// Takes records of one partition; gives the floors that must be durable before the next [`Merge::release`].
    pub fn push(&mut self, partition: Partition, mut records: Records) -> Vec<Floor> {
        let i = self.index(partition);
        let mut new_floors = Vec::new();
        let timestamps = records.append_times.clone();
        for (row, (time, &offset)) in (0..).zip(records.append_times.iter_mut().zip(&records.offsets)) {
            let queue = &mut self.queues[i];
            let offset = Offset(offset);
            let known = if self.floors.is_empty() { None } else { self.floors.get(&(partition, offset)).copied() };
            let stamp = plausible(*time);
            records.implausible.extend(stamp.err().map(|_| (row, *time)));
            // What orders nothing takes its place from the record before it.
            let own = stamp.ok().max(queue.envelope).unwrap_or(AppendTime::at(0));
            let mut append_time = known.map_or(own, |floor| own.max(floor));
            let here = Position { append_time, partition, offset };
            if let Some(bound) = bound(self.last, self.journalled.as_ref(), partition, offset).filter(|b| here <= *b) {
                append_time = least_after(bound, partition, offset);
                new_floors.push(Floor { partition, offset, append_time });
            }
            queue.envelope = Some(append_time);
            *time = append_time.ms();
        }
        if !records.is_empty() {
            let queue = &mut self.queues[i];
            queue.queued += records.len();
            queue.queued_bytes += records.bytes();
            let digests = std::mem::take(&mut records.digests);
            queue.chunks.push_back(Chunk { records, timestamps, digests, row: 0 });
        }
        for floor in &new_floors {
            self.floors.insert((floor.partition, floor.offset), floor.append_time);
        }
        new_floors
    }

    /// The partition was asked at `asked_ms`, and all that was visible then has been pushed: at that instant it was empty beyond that.
    pub fn empty(&mut self, partition: Partition, asked_ms: i64) {
        let i = self.index(partition);
        self.queues[i].empty_at_ms = self.queues[i].empty_at_ms.max(Some(asked_ms));
    }

    /// The partition's last record has been pushed.
    pub fn end(&mut self, partition: Partition) {
        let i = self.index(partition);
        self.queues[i].ended = true;
    }

    /// Moves what may be released into `out`, up to `max_records` and about `max_bytes` there.
    ///
    /// # Panics
    /// If a record would be released before an earlier release: its floor was lost (I4).
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
            let (first, last) = (Position::of(out, before), Position::of(out, out.len() - 1));
            assert!(self.last <= Some(first) && first <= last, "{first:?} to {last:?} released after {:?}", self.last);
            self.last = Some(last);
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
        let after_ms = head.append_time.ms().saturating_add(self.clock_skew_ms);
        let waits = |q: &&Queue| q.chunks.is_empty() && !q.ended && q.empty_at_ms <= Some(after_ms);
        let partitions: Vec<_> = self.queues.iter().filter(waits).map(|q| q.partition).collect();
        (!partitions.is_empty()).then_some(Blocked { partitions, after_ms })
    }

    /// Records that wait to be released.
    pub fn queued(&self) -> usize {
        self.queues.iter().map(|q| q.queued).sum()
    }

    /// The partitions of which more than this waits: to be held back while others are waited for.
    pub fn overfull(&self, records: usize, bytes: usize) -> Vec<Partition> {
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

    /// The instant at which every partition was asked, if nothing waits: up to there no record is missing.
    pub fn all_empty_at_ms(&self) -> Option<i64> {
        self.queues.iter().map(|q| if q.chunks.is_empty() { q.empty_at_ms } else { None }).min()?
    }

    /// From now on nothing may sort before `instant`: the lane's clock was advanced to there.
    pub fn raise(&mut self, instant: AppendTime) {
        let position = Position {
            append_time: AppendTime::at(instant.ms() - 1),
            partition: Partition(u32::MAX),
            offset: Offset(u64::MAX),
        };
        self.last = self.last.max(Some(position));
    }

    /// The last released record, for a checkpoint.
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// The frontier to journal: how far the lane has come in this life or, while it folds the same again, in an earlier one. What left
    /// then must stay behind it, however early this life ends.
    pub fn frontier(&self) -> Option<Frontier> {
        let mut next: BTreeMap<Partition, Offset> =
            self.queues.iter().filter_map(|q| Some((q.partition, q.last.as_ref()?.offset.next()))).collect();
        let mut last = self.last?;
        if let Some(journalled) = &self.journalled {
            last = last.max(journalled.last);
            for (&partition, &offset) in &journalled.next {
                let next = next.entry(partition).or_insert(offset);
                *next = offset.max(*next);
            }
        }
        Some(Frontier { last, next })
    }

    /// Per partition: the append time of the last *released* record, and that record.
    pub fn resume(&self) -> Vec<(Partition, Resume)> {
        let of = |q: &Queue| (q.partition, Resume { envelope: q.released, last: q.last.clone() });
        self.queues.iter().map(of).collect()
    }

    fn index(&self, partition: Partition) -> usize {
        self.queues
            .binary_search_by_key(&partition, |q| q.partition)
            .expect("a source delivers the partitions that it named")
    }

    /// The next records that may go: those of one queue up to the next head of another, and below the instant at which an empty
    /// partition was asked.
    fn next_run(&self) -> Option<Run> {
        let (mut least, mut second, mut below_ms, mut asked) =
            (None::<(Position, usize)>, None::<Position>, i64::MAX, false);
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
                        let empty_below_ms =
                            queue.empty_at_ms.map_or(i64::MIN, |at| at.saturating_sub(self.clock_skew_ms));
                        below_ms = below_ms.min(empty_below_ms);
                    }
                }
            }
        }
        let (head, queue) = least?;
        (head.append_time.ms() < below_ms).then_some(Run { queue, before: second, below_ms, asked })
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
        self.chunks.front().map(|chunk| Position::of(&chunk.records, chunk.row))
    }

    /// Moves records of the first chunk, while they sort before `before` and lie below `below_ms`; at least one.
    fn take(
        &mut self,
        before: Option<Position>,
        below_ms: i64,
        max_records: usize,
        max_bytes: usize,
        out: &mut Records,
    ) {
        let chunk = self.chunks.front_mut().expect("a run begins at a head");
        let first = chunk.row;
        let last = chunk.records.len().min(first.saturating_add(max_records));
        let mut bytes = out.bytes();
        let mut end = first;
        while end < last {
            let here = Position::of(&chunk.records, end);
            let goes = here.append_time.ms() < below_ms && before.is_none_or(|b| here < b);
            if !goes || (end > first && bytes >= max_bytes) {
                break;
            }
            bytes += chunk.records.payloads.get(end).len() + chunk.records.keys.get(end).len();
            end += 1;
        }
        out.append(&chunk.records, first..end);
        chunk.row = end;
        self.released = AppendTime::from_cell(chunk.records.append_times[end - 1]);
        self.last = Some(LastRecord {
            offset: Offset(chunk.records.offsets[end - 1]),
            timestamp: Cell::from_cell(chunk.timestamps[end - 1]),
            fingerprint: 0,
            digest: chunk.digests.get(end - 1).copied(),
        });
        self.queued -= end - first;
        if end == chunk.records.len() {
            self.queued_bytes -= chunk.records.bytes();
            self.chunks.pop_front();
        }
    }

    /// Completes `last` by the fingerprint of the record, which is the last of its partition in `out`.
    fn remember(&mut self, out: &Records) {
        let row = out
            .partitions
            .iter()
            .rposition(|&p| p == self.partition.0)
            .expect("a record of this queue was just released");
        let record = out.get(row);
        let last = self.last.as_mut().expect("set when the record was released");
        last.fingerprint = fingerprint(record.key, record.payload);
    }
}

/// What a record at `offset` must not sort before: the last released record, and, if it was not released before the journalled frontier,
/// that.
fn bound(
    last: Option<Position>,
    journalled: Option<&Frontier>,
    partition: Partition,
    offset: Offset,
) -> Option<Position> {
    let behind = journalled.filter(|f| f.next.get(&partition).is_none_or(|&next| offset >= next)).map(|f| f.last);
    last.max(behind)
}

/// The least append time with which (partition, offset) sorts after `bound`.
fn least_after(bound: Position, partition: Partition, offset: Offset) -> AppendTime {
    if (partition, offset) > (bound.partition, bound.offset) {
        bound.append_time
    } else {
        AppendTime::at(bound.append_time.ms().saturating_add(1))
    }
}

#[cfg(test)]
mod lives;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{NO_TIME, RecordRef};

    /// Records (offset, timestamp) of a partition.
    pub(super) fn records(partition: u32, items: &[(u64, i64)]) -> Records {
        let mut records = Records::default();
        for &(offset, append_time) in items {
            let payload = Some(b"payload".as_slice());
            records.push(RecordRef { partition, offset, append_time, key: None, payload, headers: None });
        }
        records
    }

    fn merge_of(partitions: u32, skew: i64) -> Merge {
        let partitions: Vec<_> =
            (0..partitions).map(|p| (Partition(p), Resume { envelope: None, last: None })).collect();
        Merge::new(&partitions, skew, None, None, BTreeMap::new())
    }

    /// All that may be released: (append time, partition, offset) each, and whether any of it was a bet.
    fn release(merge: &mut Merge) -> (Vec<(i64, u32, u64)>, bool) {
        let mut out = Records::default();
        let released = merge.release(usize::MAX, usize::MAX, &mut out);
        assert_eq!(released.records, out.len());
        (positions(&out), released.asked)
    }

    fn positions(out: &Records) -> Vec<(i64, u32, u64)> {
        (0..out.len()).map(|i| (out.append_times[i], out.partitions[i], out.offsets[i])).collect()
    }

    fn position(append_time: i64, partition: u32, offset: u64) -> Position {
        Position { append_time: AppendTime::at(append_time), partition: Partition(partition), offset: Offset(offset) }
    }

    fn floor(partition: u32, offset: u64, append_time: i64) -> Floor {
        let Position { append_time, partition, offset } = position(append_time, partition, offset);
        Floor { partition, offset, append_time }
    }

    fn next(offsets: &[(u32, u64)]) -> BTreeMap<Partition, Offset> {
        offsets.iter().map(|&(partition, offset)| (Partition(partition), Offset(offset))).collect()
    }

    pub(super) fn numbers(partitions: &[Partition]) -> Vec<u32> {
        partitions.iter().map(|partition| partition.0).collect()
    }

    #[test]
    fn a_timestamp_that_cannot_be_true_orders_nothing() {
        let mut merge = merge_of(2, 0);
        merge.push(Partition(0), records(0, &[(0, NO_TIME), (1, 7), (2, i64::MAX), (3, -1)]));
        merge.push(Partition(1), records(1, &[(0, 6), (1, 8)]));
        let mut out = Records::default();
        merge.release(5, usize::MAX, &mut out);
        assert_eq!(positions(&out), [(0, 0, 0), (6, 1, 0), (7, 0, 1), (7, 0, 2), (7, 0, 3)]);
        assert_eq!(out.implausible, [(0, NO_TIME), (3, i64::MAX), (4, -1)]);
    }

    #[test]
    fn records_leave_by_append_time_then_partition_then_offset() {
        let mut merge = merge_of(2, 0);
        assert!(merge.push(Partition(1), records(1, &[(0, 5), (1, 7), (2, 7)])).is_empty());
        assert!(merge.push(Partition(0), records(0, &[(10, 5), (11, 5), (14, 7), (15, 9)])).is_empty());
        let (released, asked) = release(&mut merge);
        assert_eq!(released, [(5, 0, 10), (5, 0, 11), (5, 1, 0), (7, 0, 14), (7, 1, 1), (7, 1, 2)]);
        assert!(!asked, "every partition had a later head");
        assert_eq!((merge.queued(), merge.drained(), merge.finished()), (1, false, false));
    }

    #[test]
    fn one_partition_is_a_queue() {
        let mut merge = merge_of(1, 200);
        merge.push(Partition(0), records(0, &[(3, 9), (4, 2)]));
        assert_eq!(merge.blocked(), None);
        assert_eq!(release(&mut merge), (vec![(9, 0, 3), (9, 0, 4)], false));
        assert!(merge.drained() && !merge.finished());
        merge.end(Partition(0));
        assert!(merge.finished());
    }

    #[test]
    fn append_times_never_go_back_and_a_record_without_a_time_has_its_forerunners() {
        let mut merge = merge_of(1, 0);
        merge.push(Partition(0), records(0, &[(0, NO_TIME), (1, -3), (2, 8)]));
        merge.push(Partition(0), records(0, &[(3, NO_TIME), (4, 6), (5, 9)]));
        let (released, _) = release(&mut merge);
        assert_eq!(released.iter().map(|r| r.0).collect::<Vec<_>>(), [0, 0, 8, 8, 8, 9]);
        let resume = &merge.resume()[0].1;
        assert_eq!(resume.envelope, Some(AppendTime::at(9)));
        assert_eq!(
            resume.last.as_ref().map(|l| (l.offset, l.timestamp)),
            Some((Offset(5), Some(9))),
            "the record's own timestamp"
        );
    }

    #[test]
    fn a_head_waits_until_the_others_are_found_empty_past_its_time_and_the_skew() {
        let mut merge = merge_of(3, 100);
        merge.push(Partition(0), records(0, &[(0, 1000), (1, 1001)]));
        merge.push(Partition(2), records(2, &[(0, 3000)]));
        let wants = |merge: &Merge| merge.blocked().map(|b| (numbers(&b.partitions), b.after_ms));
        assert_eq!(wants(&merge), Some((vec![1], 1100)));
        assert_eq!(release(&mut merge), (vec![], false));
        merge.empty(Partition(1), 1100);
        assert_eq!(wants(&merge), Some((vec![1], 1100)), "asked at that very instant is not past it");
        assert_eq!(release(&mut merge), (vec![], false));
        merge.empty(Partition(1), 1101);
        assert_eq!(wants(&merge), None);
        assert_eq!(release(&mut merge), (vec![(1000, 0, 0)], true));
        assert_eq!(wants(&merge), Some((vec![1], 1101)));
        merge.empty(Partition(1), 5000);
        assert_eq!(release(&mut merge), (vec![(1001, 0, 1)], true));
        assert_eq!(wants(&merge), Some((vec![0], 3100)), "what was asked of partition 1 still holds");
    }

    #[test]
    fn what_a_partition_said_of_an_instant_holds_whatever_came_since() {
        let mut merge = merge_of(2, 0);
        merge.push(Partition(0), records(0, &[(0, 10), (1, 30), (2, 55), (3, 65)]));
        merge.empty(Partition(1), 50);
        merge.push(Partition(1), records(1, &[(0, 20)]));
        assert_eq!(release(&mut merge), (vec![(10, 0, 0), (20, 1, 0), (30, 0, 1)], true), "30 on the word of 50");
        assert_eq!(merge.blocked(), Some(Blocked { partitions: vec![Partition(1)], after_ms: 55 }));
        merge.push(Partition(1), records(1, &[(1, 57)]));
        merge.empty(Partition(1), 60); // its record waits, and nothing beyond that
        assert_eq!(release(&mut merge).0, [(55, 0, 2), (57, 1, 1)]);
        assert_eq!(merge.blocked(), Some(Blocked { partitions: vec![Partition(1)], after_ms: 65 }));
        merge.empty(Partition(1), 70);
        assert_eq!(release(&mut merge).0, [(65, 0, 3)]);
        assert_eq!(merge.all_empty_at_ms(), None, "partition 0 was never asked");
        merge.empty(Partition(0), 80);
        assert_eq!(merge.all_empty_at_ms(), Some(70));
    }

    #[test]
    fn an_ended_partition_is_not_waited_for() {
        let mut merge = merge_of(2, 100);
        merge.push(Partition(0), records(0, &[(0, 10), (1, 30)]));
        merge.push(Partition(1), records(1, &[(0, 20)]));
        merge.end(Partition(1));
        let (released, asked) = release(&mut merge);
        assert_eq!(released, [(10, 0, 0), (20, 1, 0), (30, 0, 1)]);
        assert!(asked, "more may follow what was the end");
        assert!(!merge.finished());
        merge.end(Partition(0));
        assert!(merge.finished());
    }

    #[test]
    fn a_record_behind_what_was_released_gets_the_least_time_that_sorts_after_it() {
        let mut merge = merge_of(3, 0);
        merge.push(Partition(1), records(1, &[(5, 100)]));
        merge.empty(Partition(0), 1000);
        merge.empty(Partition(2), 1000);
        assert_eq!(release(&mut merge), (vec![(100, 1, 5)], true));
        assert_eq!(
            merge.push(Partition(0), records(0, &[(7, 90), (8, 95), (9, 200)])),
            [floor(0, 7, 101)],
            "0 sorts before 1 at 100"
        );
        assert_eq!(
            merge.push(Partition(2), records(2, &[(3, 90), (4, 90)])),
            [floor(2, 3, 100)],
            "2 sorts after 1 at 100"
        );
        merge.empty(Partition(1), 1000);
        assert_eq!(release(&mut merge).0, [(100, 2, 3), (100, 2, 4), (101, 0, 7), (101, 0, 8), (200, 0, 9)]);
    }

    #[test]
    fn floors_and_frontier_of_the_journal_are_obeyed() {
        let frontier = Frontier { last: position(100, 1, 5), next: next(&[(0, 7), (1, 6)]) };
        let partitions = [0, 1, 2].map(|p| (Partition(p), Resume { envelope: None, last: None }));
        let mut merge =
            Merge::new(&partitions, 0, None, Some(frontier), [((Partition(0), Offset(4)), AppendTime::at(60))].into());
        assert!(
            merge.push(Partition(0), records(0, &[(3, 10), (4, 20), (6, 30)])).is_empty(),
            "released before the frontier"
        );
        let new = merge.push(Partition(0), records(0, &[(7, 40)]));
        assert_eq!(new, [floor(0, 7, 101)]);
        assert!(merge.push(Partition(1), records(1, &[(5, 100)])).is_empty());
        let new = merge.push(Partition(2), records(2, &[(0, 50)]));
        assert_eq!(new, [floor(2, 0, 100)], "nothing of it was released before");
        (0..3).for_each(|p| merge.end(Partition(p)));
        let order = [(10, 0, 3), (60, 0, 4), (60, 0, 6), (100, 1, 5), (100, 2, 0), (101, 0, 7)];
        assert_eq!(release(&mut merge).0, order[..]);
    }

    #[test]
    fn the_frontier_to_journal_does_not_fall_behind_the_one_that_is_there() {
        let former = Frontier { last: position(100, 1, 5), next: next(&[(0, 7), (1, 6)]) };
        let partitions = [0, 1].map(|p| (Partition(p), Resume { envelope: None, last: None }));
        let mut merge = Merge::new(&partitions, 0, None, Some(former.clone()), BTreeMap::new());
        merge.push(Partition(0), records(0, &[(3, 10)]));
        merge.empty(Partition(1), 1000);
        assert_eq!(release(&mut merge), (vec![(10, 0, 3)], true));
        assert_eq!(merge.frontier(), Some(former));
        assert_eq!(merge.last(), Some(position(10, 0, 3)), "a checkpoint says how far this life is");
        merge.push(Partition(0), records(0, &[(9, 300)]));
        merge.empty(Partition(1), 1000);
        release(&mut merge);
        let further = Frontier { last: position(300, 0, 9), next: next(&[(0, 10), (1, 6)]) };
        assert_eq!(merge.frontier(), Some(further));
    }

    #[test]
    fn what_comes_after_the_clock_was_advanced_sorts_after_that() {
        let mut merge = merge_of(1, 0);
        assert_eq!(merge.frontier(), None);
        merge.raise(AppendTime::at(500));
        assert_eq!(merge.push(Partition(0), records(0, &[(0, 499)])), [floor(0, 0, 500)]);
        assert!(merge.push(Partition(0), records(0, &[(1, 500)])).is_empty());
        merge.raise(AppendTime::at(400));
        assert_eq!(release(&mut merge).0, [(500, 0, 0), (500, 0, 1)]);
    }

    #[test]
    fn a_release_stops_at_its_bounds_and_what_waits_too_much_is_named() {
        let mut merge = merge_of(2, 0);
        merge.push(Partition(0), records(0, &[(0, 1), (1, 3), (2, 5)]));
        merge.push(Partition(1), records(1, &[(0, 2), (1, 4), (2, 6)]));
        assert_eq!(numbers(&merge.overfull(2, usize::MAX)), [0, 1]);
        assert_eq!(numbers(&merge.overfull(3, usize::MAX)), [0; 0]);
        assert_eq!(numbers(&merge.overfull(usize::MAX, 20)), [0, 1]);
        let mut out = Records::default();
        assert_eq!(merge.release(2, usize::MAX, &mut out).records, 2);
        assert_eq!(merge.release(2, usize::MAX, &mut out).records, 0, "it is full");
        out.clear();
        assert_eq!(merge.release(usize::MAX, 8, &mut out).records, 2, "7 bytes each, about 8 wanted");
        assert_eq!(positions(&out), [(3, 0, 1), (4, 1, 1)]);
        assert_eq!(numbers(&merge.overfull(0, usize::MAX)), [0, 1]);
    }
}
