//! Asking whether a partition is empty: of its leader, by a client of its own that sees open transactions, and answered only once the
//! reader has delivered everything below the end that the leader named.
//!
//! The thread that asks also watches that the topic stays the one that it was (`identity.rs`).
//!
//! The [`Ledger`] is pure: what is wanted, what leaders said, how far the reader has delivered. The asking thread fills in answers, the
//! reading thread positions; whoever completes a question sends its [`Arrival::Empty`]. It knows no order between partitions and never
//! takes silence for emptiness.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::clock;
use crate::clock::now_ms;
use crate::failure::Failure;

use rdkafka::Offset as KafkaOffset;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::observe::ends::Ends;
use crate::position::{Offset, Partition};
use crate::source::Arrival;
use crate::source::kafka::broker::{ANSWER_TIMEOUT, Voice, locked, offsets};
use crate::source::kafka::identity::{self, Watch};
use crate::source::kafka::secrets::Secrets;

/// How soon after a round the leaders are asked again.
const ROUND_INTERVAL: Duration = Duration::from_millis(10);

/// How old a leader's answer gets before it is asked again: only a log that lost its tail ever needs it.
const ANSWER_LIFE: Duration = Duration::from_secs(1);

/// How often the leaders are asked where the partitions end, for those who watch.
const SURVEY_INTERVAL: Duration = Duration::from_secs(2);

/// How often the asking thread looks up when nobody wants anything.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);

/// What is wanted, answered and delivered.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Ascending by partition.
    tracks: Vec<Track>,
    /// Partitions, ascending, and the instant past which they are to be asked.
    wish: (Vec<Partition>, i64),
    /// When the asking thread looks up by itself, if it waits; ms since 1970.
    looks_up_ms: i64,
}

/// A partition.
#[derive(Debug)]
struct Track {
    partition: Partition,
    /// Everything before this offset has been delivered.
    delivered: Offset,
    /// What its leader said, until everything before that is delivered.
    answer: Option<Answer>,
    /// When its leader was asked whose answer was settled last; ms since 1970.
    settled_ms: Option<i64>,
}

/// What a leader said.
#[derive(Clone, Copy, Debug)]
struct Answer {
    high: Offset,
    asked_ms: i64,
    at: Instant,
}

/// Questions with their answers, all delivered, by the clock just before they were asked.
type Settled = BTreeMap<i64, Vec<Partition>>;

impl Ledger {
    /// A ledger of a reader that starts at these positions.
    pub(super) fn new(mut delivered: Vec<(Partition, Offset)>) -> Ledger {
        delivered.sort_unstable();
        let track = |(partition, delivered)| Track { partition, delivered, answer: None, settled_ms: None };
        Ledger { tracks: delivered.into_iter().map(track).collect(), ..Ledger::default() }
    }

    /// Replaces the wish; answers that serve the new one are kept. Whether the asking thread must look up for it.
    fn wish(&mut self, partitions: &[Partition], after_ms: i64) -> bool {
        self.wish = (partitions.to_vec(), after_ms);
        self.wish.0.sort_unstable();
        !partitions.is_empty() && after_ms < self.looks_up_ms
    }

    /// The partitions that are wished for and were not answered yet.
    fn open(&self) -> impl Iterator<Item = &Track> {
        let wished = self.wish.0.iter().filter_map(|p| self.index(*p)).map(|i| &self.tracks[i]);
        wished.filter(|track| track.settled_ms <= Some(self.wish.1))
    }

    /// The partitions whose leaders are to be asked now.
    fn unasked(&self) -> Vec<Partition> {
        let serves = |answer: Answer| answer.asked_ms > self.wish.1 && clock::since(answer.at) < ANSWER_LIFE;
        self.open().filter(|track| !track.answer.is_some_and(serves)).map(|track| track.partition).collect()
    }

    /// What leaders answered in a round. Those of partitions that nobody wished for count too: it may spare a round.
    fn answer(&mut self, answers: impl IntoIterator<Item = (Partition, Answer)>) -> Settled {
        let mut settled = Settled::new();
        for (partition, answer) in answers {
            let Some(i) = self.index(partition) else { continue };
            let wanted = self.wish.0.binary_search(&partition).is_ok();
            let track = &mut self.tracks[i];
            // A former answer is the nearer goal, unless it serves no more or the log has lost its tail since.
            track.answer = Some(match track.answer {
                Some(former) if former.high <= answer.high && (!wanted || former.asked_ms > self.wish.1) => {
                    Answer { at: answer.at, ..former }
                }
                _ => answer,
            });
            track.settle(&mut settled);
        }
        settled
    }

    /// The reader has delivered everything of each partition before the offset beside it.
    fn deliver(&mut self, reached: &[(Partition, Offset)]) -> Settled {
        let mut settled = Settled::new();
        for &(partition, offset) in reached {
            if let Some(i) = self.index(partition) {
                self.tracks[i].delivered = offset;
                self.tracks[i].settle(&mut settled);
            }
        }
        settled
    }

    fn index(&self, partition: Partition) -> Option<usize> {
        self.tracks.binary_search_by_key(&partition, |track| track.partition).ok()
    }
}

impl Track {
    fn settle(&mut self, settled: &mut Settled) {
        if let Some(answer) = self.answer.filter(|answer| self.delivered >= answer.high) {
            self.answer = None;
            self.settled_ms = self.settled_ms.max(Some(answer.asked_ms));
            settled.entry(answer.asked_ms).or_default().push(self.partition);
        }
    }
}

/// A ledger shared by the source, its reader and its asking thread.
#[derive(Debug, Default)]
pub(super) struct Desk {
    ledger: Mutex<Ledger>,
    changed: Condvar,
}

impl Desk {
    /// A desk with this ledger.
    pub(super) fn new(ledger: Ledger) -> Desk {
        Desk { ledger: Mutex::new(ledger), changed: Condvar::new() }
    }

    /// See [`super::Source::ask`].
    pub(super) fn wish(&self, partitions: &[Partition], after_ms: i64) {
        if locked(&self.ledger).wish(partitions, after_ms) {
            self.changed.notify_one();
        }
    }

    /// Notes how far the reader has delivered partitions; gives the arrivals that this completes.
    pub(super) fn deliver(&self, reached: &[(Partition, Offset)]) -> Vec<Arrival> {
        empty(locked(&self.ledger).deliver(reached))
    }

    /// Wakes the asking thread, so that it sees that it should stop.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits for what is to be asked now: not before `earliest`, and not for ever.
    fn next_round(&self, earliest: Instant) -> Vec<Partition> {
        let mut ledger = locked(&self.ledger);
        let (unasked, now_ms) = (ledger.unasked(), now_ms());
        let until =
            Duration::from_millis(u64::try_from(ledger.wish.1.saturating_sub(now_ms).saturating_add(1)).unwrap_or(0));
        let until = until.max(earliest.saturating_duration_since(clock::instant()));
        let pause = match unasked.is_empty() {
            true if ledger.open().next().is_some() => ROUND_INTERVAL,
            true => IDLE_INTERVAL,
            false if until.is_zero() => return unasked,
            false => until.min(IDLE_INTERVAL),
        };
        ledger.looks_up_ms = now_ms.saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
        drop(self.changed.wait_timeout(ledger, pause).unwrap_or_else(PoisonError::into_inner));
        Vec::new()
    }

    fn answer(&self, answers: Vec<(Partition, Answer)>) -> Vec<Arrival> {
        empty(locked(&self.ledger).answer(answers))
    }
}

fn empty(settled: Settled) -> Vec<Arrival> {
    settled.into_iter().map(|(asked_ms, partitions)| Arrival::Empty { partitions, asked_ms }).collect()
}

/// The asking thread.
pub(super) struct Asker {
    /// A client that reads nothing.
    pub(super) client: Arc<BaseConsumer<Voice>>,
    /// The password that it authenticates with.
    pub(super) secrets: Secrets,
    /// The topic.
    pub(super) topic: String,
    /// What the topic was when reading began.
    pub(super) watch: Arc<Mutex<Watch>>,
    /// The partitions that are read, ascending.
    pub(super) partitions: Vec<Partition>,
    /// Where they end, by the latest survey.
    pub(super) ends: Arc<Ends>,
    /// When that was.
    pub(super) surveyed: Instant,
    /// Whether it was not answered.
    pub(super) missed: bool,
    /// Whether a leader did not answer a round. Then only those are asked that are wished for, until a survey is answered by all.
    pub(super) is_one_away: bool,
    /// Publishes that there are no answers.
    pub(super) outage: Backoff,
    /// Where wishes come from and answers go.
    pub(super) desk: Arc<Desk>,
    /// Where arrivals go.
    pub(super) out: SyncSender<Result<Vec<Arrival>, Failure>>,
    /// Whether the source is gone.
    pub(super) stopped: Arc<std::sync::atomic::AtomicBool>,
}

impl Asker {
    /// Asks until the source is gone.
    pub(super) fn run(mut self) {
        let mut earliest = clock::instant();
        while !self.stopped.load(std::sync::atomic::Ordering::Acquire) {
            self.client.poll(Duration::ZERO);
            self.secrets.look(self.client.client());
            if let Err(error) = self.look() {
                // Nobody listens any more once the source is dropped.
                return drop(self.out.send(Err(error)));
            }
            self.survey();
            let wished = self.desk.next_round(earliest);
            if !wished.is_empty() {
                earliest = clock::instant() + ROUND_INTERVAL;
                if !self.round(&wished) {
                    return;
                }
            }
        }
    }

    fn look(&self) -> Result<(), Failure> {
        if !locked(&self.watch).is_due() {
            return Ok(());
        }
        let seen = identity::look(&self.client, &self.topic, ANSWER_TIMEOUT);
        locked(&self.watch).check(&seen)
    }

    /// Asks where all partitions end, if it is time to. Nothing waits for the answer, and that there is none is told by who reads.
    fn survey(&mut self) {
        if clock::since(self.surveyed) < SURVEY_INTERVAL {
            return;
        }
        self.surveyed = clock::instant();
        let highs = offsets(&self.client, &self.topic, &self.partitions, KafkaOffset::End, ANSWER_TIMEOUT);
        self.ends.survey(highs.as_deref().ok());
        if let Ok(lows) = offsets(&self.client, &self.topic, &self.partitions, KafkaOffset::Beginning, ANSWER_TIMEOUT) {
            self.ends.begin_at(&lows);
        }
        match highs {
            Ok(highs) if highs.iter().all(Option::is_some) => {
                (self.missed, self.is_one_away) = (false, false);
                self.outage.over();
            }
            answer => {
                // One answer may be late without anything being wrong.
                if std::mem::replace(&mut self.missed, true) {
                    let why = answer.err().map_or_else(|| "a partition has no leader".to_owned(), |e| e.to_string());
                    self.outage.warn(&why);
                }
            }
        }
    }

    /// Asks all leaders, since a request to a broker is for all its partitions; false once the source is gone.
    fn round(&mut self, wished: &[Partition]) -> bool {
        let answers = self.ask(if self.is_one_away { wished } else { &self.partitions }, ANSWER_TIMEOUT);
        self.is_one_away |= answers.is_none();
        // One leader that is away fails the round for all: ask those that are wished for each for themselves.
        let alone = wished.iter().filter(|_| self.partitions.len() > 1);
        let alone = alone.filter_map(|p| self.ask(&[*p], ANSWER_TIMEOUT / 4)).flatten();
        let answers = answers.unwrap_or_else(|| alone.collect());
        let arrivals = self.desk.answer(answers);
        arrivals.is_empty() || self.out.send(Ok(arrivals)).is_ok()
    }

    fn ask(&self, partitions: &[Partition], timeout: Duration) -> Option<Vec<(Partition, Answer)>> {
        let asked_ms = now_ms();
        match offsets(&self.client, &self.topic, partitions, KafkaOffset::End, timeout) {
            Ok(highs) => {
                let at = clock::instant();
                let answers = partitions.iter().zip(highs);
                Some(answers.filter_map(|(p, high)| high.map(|high| (*p, Answer { high, asked_ms, at }))).collect())
            }
            Err(error) => {
                let voice = self.client.context();
                voice.complain(&format!(
                    "no leader of topic {} says where partitions {partitions:?} end: {error}",
                    self.topic
                ));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(high: u64, asked_ms: i64) -> Answer {
        Answer { high: Offset(high), asked_ms, at: clock::instant() }
    }

    fn ledger(partitions: &[(u32, u64)]) -> Ledger {
        Ledger::new(partitions.iter().map(|(partition, offset)| (Partition(*partition), Offset(*offset))).collect())
    }

    /// What is settled by this, as (partition, when it was asked).
    fn told(settled: Settled) -> Vec<(u32, i64)> {
        settled.into_iter().flat_map(|(asked_ms, all)| all.into_iter().map(move |p| (p.0, asked_ms))).collect()
    }

    impl Ledger {
        fn answers(&mut self, partition: u32, high: u64, asked_ms: i64) -> Vec<(u32, i64)> {
            told(self.answer([(Partition(partition), answer(high, asked_ms))]))
        }

        fn delivers(&mut self, partition: u32, offset: u64) -> Vec<(u32, i64)> {
            told(self.deliver(&[(Partition(partition), Offset(offset))]))
        }
    }

    #[test]
    fn an_answer_waits_for_the_reader() {
        let mut ledger = ledger(&[(0, 5), (1, 0)]);
        ledger.wish(&[Partition(0), Partition(1)], 100);
        assert_eq!(ledger.answers(0, 7, 101), []);
        assert_eq!(ledger.delivers(0, 6), []);
        assert_eq!(ledger.delivers(0, 7), [(0, 101)]);
        assert_eq!(ledger.delivers(0, 8), [], "a question is answered once");
        assert_eq!(ledger.answers(1, 0, 102), [(1, 102)]);
        assert_eq!(ledger.unasked(), []);
    }

    #[test]
    fn an_answer_asked_too_early_leaves_the_question_open() {
        let mut ledger = ledger(&[(0, 5)]);
        ledger.wish(&[Partition(0)], 100);
        assert_eq!(ledger.answers(0, 5, 100), [(0, 100)]);
        assert_eq!(ledger.unasked(), [Partition(0)]);
        assert_eq!(ledger.answers(0, 5, 101), [(0, 101)]);
        assert_eq!(ledger.unasked(), []);
    }

    #[test]
    fn a_new_wish_keeps_the_answers_that_serve_it() {
        let mut ledger = ledger(&[(0, 0), (1, 0)]);
        ledger.wish(&[Partition(0), Partition(1)], 100);
        assert_eq!(ledger.answers(0, 3, 150), []);
        ledger.wish(&[Partition(0)], 140);
        assert_eq!(ledger.unasked(), []);
        ledger.wish(&[Partition(0)], 150);
        assert_eq!(ledger.unasked(), [Partition(0)]);
        assert_eq!(ledger.answers(0, 4, 151), []);
        assert_eq!(ledger.delivers(0, 3), [], "what was asked at 150 serves no more");
        assert_eq!(ledger.delivers(0, 4), [(0, 151)]);
        ledger.wish(&[Partition(0)], 150);
        assert_eq!(ledger.unasked(), [], "what was settled is not asked again for the same instant");
    }

    #[test]
    fn partitions_that_nobody_wished_for_are_answered_too() {
        let mut ledger = ledger(&[(0, 0), (1, 5), (2, 0)]);
        ledger.wish(&[Partition(0)], 100);
        let answers = [(Partition(0), answer(0, 101)), (Partition(1), answer(5, 101)), (Partition(2), answer(9, 101))];
        assert_eq!(told(ledger.answer(answers)), [(0, 101), (1, 101)]);
        ledger.wish(&[Partition(0)], 200);
        assert_eq!(ledger.answers(2, 20, 201), []);
        assert_eq!(ledger.delivers(2, 9), [(2, 101)], "the nearer goal, since nobody waits for the other");
    }

    #[test]
    fn a_log_that_lost_its_tail_moves_the_goal_down_and_new_records_do_not_move_it_up() {
        let mut ledger = ledger(&[(0, 0)]);
        ledger.wish(&[Partition(0)], 0);
        assert_eq!(ledger.answers(0, 9, 1), []);
        assert_eq!(ledger.answers(0, 20, 2), []);
        assert_eq!(ledger.answers(0, 4, 3), []);
        assert_eq!(ledger.delivers(0, 4), [(0, 3)]);
    }

    #[test]
    fn only_a_wish_that_is_due_before_the_asking_thread_looks_up_wakes_it() {
        let mut ledger = ledger(&[(0, 0)]);
        ledger.looks_up_ms = 500;
        assert!(ledger.wish(&[Partition(0)], 400));
        assert!(!ledger.wish(&[Partition(0)], 600));
        assert!(!ledger.wish(&[], 0));
    }
}
