//! A simulated broker with one topic: partitions with gaps, transactions that are open for a while and then committed or aborted, timestamps
//! that producers set by clocks of their own, and a source that reads it as a `read_committed` consumer with an asking client does.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use keyfold::failure::Failure;
use keyfold::observe::ends::Ends;
use keyfold::position::{Offset, Partition, TopicId};
use keyfold::record::{RecordRef, Records};
use keyfold::source::log_source::{Log, Started};
use keyfold::source::{Arrival, Source, Start};

use crate::plan::Foreign;
use crate::scheduler::{Moment, Process, locked};
use crate::support::generate::TestRecord;
use crate::world::{dead, step};

/// A record of the simulated log.
#[derive(Clone, Debug)]
pub(crate) struct Appended {
    /// The record.
    pub(crate) record: TestRecord,
    /// When it is written: an asking client sees it from then on.
    pub(crate) written: Duration,
    /// When its transaction ends. Without one, that is when it is written.
    pub(crate) ends: Duration,
    /// Whether its transaction is committed.
    pub(crate) committed: bool,
}

/// A topic as it will be: every record with the time from which it is there.
#[derive(Debug)]
pub(crate) struct Topic {
    /// Its partitions, ascending.
    pub(crate) partitions: Vec<Partition>,
    /// The records of each partition, in the order of their offsets, which is that in which they are written.
    pub(crate) records: Vec<Vec<Appended>>,
    /// Its id.
    pub(crate) id: TopicId,
    /// When its last partition is added, if the topic grows.
    pub(crate) grows: Option<Duration>,
    /// Whether a group gives a partition that is added to one of its members.
    pub(crate) is_shared: bool,
    /// How it was another one, and until when.
    foreign: Mutex<Vec<(Foreign, Duration)>>,
    /// What must never happen, and did.
    violations: Mutex<Vec<String>>,
}

impl Topic {
    /// A topic.
    pub(crate) fn new(partitions: Vec<Partition>, records: Vec<Vec<Appended>>, grows: Option<Duration>) -> Topic {
        let (foreign, violations) = (Mutex::default(), Mutex::default());
        Topic { partitions, records, id: TopicId::of(1, 2), grows, is_shared: false, foreign, violations }
    }

    /// Lets it be another one until then.
    pub(crate) fn be(&self, how: Foreign, until: Duration) {
        locked(&self.foreign).push((how, until));
    }

    /// Whether it was ever another one.
    pub(crate) fn was_foreign(&self) -> bool {
        !locked(&self.foreign).is_empty()
    }

    /// How it is another one at a time, if it is.
    fn foreign(&self, now: Duration) -> Option<Foreign> {
        locked(&self.foreign).last().filter(|(_, until)| now < *until).map(|(how, _)| *how)
    }

    /// What must never happen, and did.
    pub(crate) fn violations(&self) -> Vec<String> {
        locked(&self.violations).clone()
    }

    /// Its partitions at a time.
    fn partitions_at(&self, now: Duration) -> Vec<Partition> {
        let mut partitions = self.own_partitions_at(now);
        if self.foreign(now) == Some(Foreign::Grown) {
            partitions.push(Partition(u32::try_from(partitions.len()).expect("few")));
        }
        partitions
    }

    /// The same, also while it is another one.
    pub(crate) fn own_partitions_at(&self, now: Duration) -> Vec<Partition> {
        let count = self.partitions.len() - usize::from(self.grows.is_some_and(|grows| now < grows));
        self.partitions[..count].to_vec()
    }

    /// Its id at a time.
    fn id_at(&self, now: Duration) -> TopicId {
        if self.foreign(now) == Some(Foreign::MadeAnew) { TopicId::of(3, 4) } else { self.id.clone() }
    }

    /// The records that a consumer ever sees.
    pub(crate) fn visible(&self) -> Vec<TestRecord> {
        self.records.iter().flatten().filter(|r| r.committed).map(|r| r.record.clone()).collect()
    }

    /// How many records of a partition a `read_committed` consumer may pass at a time.
    fn stable(&self, partition: usize, now: Duration) -> usize {
        let records = &self.records[partition];
        records.iter().position(|r| r.written > now || r.ends > now).unwrap_or(records.len())
    }

    /// How many records of a partition are written at a time.
    fn written(&self, partition: usize, now: Duration) -> usize {
        self.records[partition].partition_point(|r| r.written <= now)
    }
}

/// Hears of offsets that a host commits.
pub(crate) type Committed = dyn Fn(&[(Partition, Offset)]) + Send + Sync;

/// The topic as a host sees it, when it looks at it.
pub(crate) struct SeenTopic {
    topic: Arc<Topic>,
    process: Arc<Process>,
    committed: Arc<Committed>,
    /// Its partitions and its id.
    partitions: Vec<Partition>,
    id: TopicId,
    foreign: Option<Foreign>,
}

impl SeenTopic {
    /// Looks at a topic.
    pub(crate) fn new(topic: &Arc<Topic>, process: Arc<Process>, committed: Arc<Committed>) -> SeenTopic {
        let (topic, now) = (Arc::clone(topic), process.now());
        let (partitions, id, foreign) = (topic.partitions_at(now), topic.id_at(now), topic.foreign(now));
        SeenTopic { topic, process, committed, partitions, id, foreign }
    }
}

impl Log for SeenTopic {
    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn high(&self, partition: Partition) -> Option<Offset> {
        let at = self.topic.partitions.binary_search(&partition).ok()?;
        let count = self.topic.stable(at, self.process.now());
        let count = if self.foreign == Some(Foreign::Truncated) { count / 2 } else { count };
        let last = self.topic.records[at][..count].last();
        Some(Offset(last.map_or(0, |r| r.record.offset + 1)))
    }

    fn topic_id(&self) -> Option<&TopicId> {
        Some(&self.id)
    }

    fn open(&self, starts: &[Start], until_end: bool) -> Result<Started, Failure> {
        step(&self.process)?;
        let now = self.process.now();
        let mut parts = Vec::new();
        for start in starts {
            let at = self.topic.partitions.binary_search(&start.partition).expect("the host knows the partitions");
            let next =
                start.next.map_or(0, |offset| self.topic.records[at].partition_point(|r| r.record.offset < offset.0));
            let end = until_end.then(|| self.topic.stable(at, now));
            parts.push(Reading { partition: start.partition, at, next, end, ended: false, ask: None, held: false });
        }
        let first_offsets = starts.iter().map(|s| (s.partition, s.next.unwrap_or_default())).collect();
        let partitions = starts.iter().map(|s| s.partition).collect();
        let source = Reader {
            partitions,
            partitions_when_opened: self.partitions.len(),
            foreign: self.foreign.filter(|how| *how != Foreign::Truncated && self.topic.foreign(now) == Some(*how)),
            parts,
            topic: Arc::clone(&self.topic),
            process: Arc::clone(&self.process),
            committed: Arc::clone(&self.committed),
        };
        Ok(Started { source: Box::new(source), first_offsets, topic_id: Some(self.topic.id_at(now)) })
    }
}

struct Reading {
    partition: Partition,
    /// Its place among the topic's partitions.
    at: usize,
    /// The place of the next record.
    next: usize,
    /// Where to end.
    end: Option<usize>,
    ended: bool,
    /// The instant past which it is to be found empty, ms.
    ask: Option<i64>,
    held: bool,
}

struct Reader {
    partitions: Vec<Partition>,
    /// How many partitions the topic had when the host looked at it.
    partitions_when_opened: usize,
    /// How the topic was another one when the host looked at it and opened it, so that it must not read.
    foreign: Option<Foreign>,
    parts: Vec<Reading>,
    topic: Arc<Topic>,
    process: Arc<Process>,
    committed: Arc<Committed>,
}

impl Reader {
    /// What there is to say now.
    fn arrival(&mut self) -> Option<Arrival> {
        let now = self.process.now();
        if matches!(self.topic.foreign(now), Some(Foreign::MadeAnew | Foreign::Truncated)) {
            return None; // whoever reads by the former id, or past the end, gets nothing
        }
        let first = usize::try_from(self.process.below(self.parts.len() as u64)).expect("an index");
        for i in 0..self.parts.len() {
            let at = (first + i) % self.parts.len();
            let most = usize::try_from(1 + self.process.below(20)).expect("a few");
            let part = &mut self.parts[at];
            let stable = self.topic.stable(part.at, now).min(part.end.unwrap_or(usize::MAX));
            if part.held || part.ended {
                continue;
            }
            if part.next < stable {
                let end = stable.min(part.next + most);
                let records = records_of(part.partition, &self.topic.records[part.at][part.next..end]);
                part.next = end;
                if !records.is_empty() {
                    return Some(Arrival::Records { partition: part.partition, records });
                }
            }
            if part.end == Some(part.next) {
                part.ended = true;
                return Some(Arrival::End { partition: part.partition });
            }
        }
        None
    }

    /// A partition that was asked and is empty, and now and then what others say that were asked with it.
    fn empty(&mut self) -> Option<Arrival> {
        let (now, now_ms) = (self.process.now(), keyfold::machine::Machine::now_ms(&*self.process));
        if self.topic.foreign(now).is_some() {
            return None;
        }
        let all = |part: &Reading| !part.ended && part.next == self.topic.written(part.at, now);
        let wished = |part: &Reading| all(part) && part.ask.is_some_and(|after| now_ms > after);
        let first = self.parts.iter().position(wished)?;
        let with_others = self.process.below(2) == 0;
        let mut partitions = Vec::new();
        for (i, part) in self.parts.iter_mut().enumerate().filter(|(i, part)| *i == first || with_others && all(part)) {
            part.ask = part.ask.filter(|after| i != first && now_ms <= *after);
            partitions.push(part.partition);
        }
        Some(Arrival::Empty { partitions, asked_ms: now_ms })
    }
}

fn records_of(partition: Partition, appended: &[Appended]) -> Records {
    let mut records = Records::default();
    for Appended { record, .. } in appended.iter().filter(|r| r.committed) {
        records.push(RecordRef {
            partition: partition.0,
            offset: record.offset,
            append_time: record.timestamp,
            key: record.key.as_deref(),
            payload: record.value.as_deref(),
            headers: None,
        });
    }
    records
}

impl Source for Reader {
    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Arrival>, Failure> {
        if let Some(how) = self.foreign {
            locked(&self.topic.violations).push(format!("a host goes on with a topic that is another one: {how:?}"));
        }
        let until = self.process.now() + timeout;
        loop {
            dead(&self.process)?;
            if let Some(arrival) = self.arrival().or_else(|| self.empty()) {
                self.process.note(&describe(&arrival));
                if matches!(arrival, Arrival::Records { .. }) {
                    self.process.reach(Moment::Arrival);
                }
                self.process.wait_a_moment(); // it takes a while to arrive
                dead(&self.process)?;
                return Ok(Some(arrival));
            }
            let left = until.saturating_sub(self.process.now());
            if left.is_zero() {
                self.process.wait_a_moment();
                return dead(&self.process).map(|()| None);
            }
            self.process.wait(left.min(Duration::from_millis(10)));
        }
    }

    fn ask(&mut self, partitions: &[Partition], after_ms: i64) {
        if !partitions.is_empty() && partitions.len() < self.parts.len() {
            self.process.reach(Moment::Ask);
        }
        for part in &mut self.parts {
            part.ask = partitions.contains(&part.partition).then_some(after_ms);
        }
    }

    fn hold(&mut self, partitions: &[Partition]) {
        for part in &mut self.parts {
            part.held = partitions.contains(&part.partition);
        }
    }

    fn commit(&mut self, next: &[(Partition, Offset)]) {
        if !self.process.is_dead() {
            (self.committed)(next);
        }
    }

    fn ends(&self) -> Option<Arc<Ends>> {
        None
    }

    fn ask_log_id(&mut self) {}

    fn log_id(&mut self) -> Result<Poll<Option<TopicId>>, Failure> {
        step(&self.process)?;
        if self.process.below(4) == 0 {
            return Ok(Poll::Pending);
        }
        let now = self.process.now();
        // As the source for brokers compares them.
        if !self.topic.is_shared
            && self.topic.grows.is_some_and(|grows| now >= grows)
            && self.partitions_when_opened < self.topic.partitions.len()
        {
            return Err(Failure::outside("topic t has gained partitions, which no lane reads yet: start again"));
        }
        if self.topic.foreign(now) == Some(Foreign::Grown) {
            return Err(Failure::state("the source has another partition: a grown topic needs a pipeline of its own"));
        }
        Ok(Poll::Ready(Some(self.topic.id_at(now))))
    }
}

fn describe(arrival: &Arrival) -> String {
    match arrival {
        Arrival::Records { partition, records } => {
            let mut offsets = records.offsets.iter();
            let (first, last) = (offsets.next().copied().unwrap_or_default(), records.offsets.last().copied());
            format!("reads {partition}/{first} to {}", last.unwrap_or(first))
        }
        Arrival::Empty { partitions, asked_ms } => format!("finds {partitions:?} empty at {asked_ms}"),
        Arrival::End { partition } => format!("has read {partition} to its end"),
    }
}
