//! Asking whether a partition is empty: of its leader, by a client of its own that sees open transactions, and answered only once the
//! reader has delivered everything below the end that the leader named.
//!
//! The thread that asks also watches that the topic stays the one that it was (`identity.rs`).
//!
//! The [`Ledger`] is pure: what is wanted, what leaders said, how far the reader has delivered. The asking thread fills in answers, the
//! reading thread positions; whoever completes a question sends its [`Arrival::Empty`]. It knows no order between partitions and never
//! takes silence for emptiness.

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

/// How soon after an unsuccessful round the leaders are asked again.
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
    /// Per partition, ascending: everything before this offset has been delivered.
    delivered: Vec<(Partition, Offset)>,
    wish: (Vec<Partition>, i64),
    questions: Vec<Question>,
}

#[derive(Debug)]
struct Question {
    partition: Partition,
    answer: Option<Answer>,
}

/// What a leader said.
#[derive(Clone, Copy, Debug)]
struct Answer {
    high: Offset,
    asked_ms: i64,
    at: Instant,
}

/// A question with its answer, all delivered: (partition, clock just before it was asked).
type Settled = (Partition, i64);

impl Ledger {
    /// A ledger of a reader that starts at these positions.
    pub(super) fn new(mut delivered: Vec<(Partition, Offset)>) -> Ledger {
        delivered.sort_unstable();
        Ledger { delivered, ..Ledger::default() }
    }

    /// Replaces the wish; answers that serve the new one are kept.
    fn wish(&mut self, partitions: &[Partition], after_ms: i64) {
        if self.wish.1 == after_ms && self.wish.0 == partitions {
            // What was answered and is wished for again has had records since: it is asked again.
            let answered: Vec<Partition> =
                partitions.iter().copied().filter(|p| !self.questions.iter().any(|q| q.partition == *p)).collect();
            self.questions.extend(answered.into_iter().map(|partition| Question { partition, answer: None }));
            return;
        }
        let former = std::mem::take(&mut self.questions);
        let answer_of = |partition: Partition| former.iter().find(|q| q.partition == partition).and_then(|q| q.answer);
        self.questions = partitions
            .iter()
            .map(|p| Question { partition: *p, answer: answer_of(*p).filter(|a| a.asked_ms > after_ms) })
            .collect();
        self.wish = (partitions.to_vec(), after_ms);
    }

    /// The partitions whose leaders are to be asked now.
    fn unasked(&self) -> Vec<Partition> {
        let fresh = |question: &Question| question.answer.is_some_and(|answer| clock::since(answer.at) < ANSWER_LIFE);
        self.questions.iter().filter(|q| !fresh(q)).map(|q| q.partition).collect()
    }

    /// A leader's answer.
    fn answer(&mut self, partition: Partition, answer: Answer) -> Option<Settled> {
        let after_ms = self.wish.1;
        let question = self.questions.iter_mut().find(|q| q.partition == partition)?;
        if answer.asked_ms <= after_ms {
            return None;
        }
        // A former answer is the nearer goal, unless the log has lost its tail since.
        question.answer = Some(match question.answer {
            Some(former) if former.high <= answer.high => Answer { at: answer.at, ..former },
            _ => answer,
        });
        self.settle(partition)
    }

    /// The reader has delivered everything of `partition` before `offset`.
    pub(super) fn deliver(&mut self, partition: Partition, offset: Offset) -> Option<Settled> {
        let i = self.delivered.binary_search_by_key(&partition, |d| d.0).ok()?;
        self.delivered[i].1 = offset;
        self.settle(partition)
    }

    fn settle(&mut self, partition: Partition) -> Option<Settled> {
        let i = self.questions.iter().position(|q| q.partition == partition)?;
        let answer = self.questions[i].answer?;
        let delivered = self.delivered.binary_search_by_key(&partition, |d| d.0).ok()?;
        if self.delivered[delivered].1 < answer.high {
            return None;
        }
        self.questions.swap_remove(i);
        Some((partition, answer.asked_ms))
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
        locked(&self.ledger).wish(partitions, after_ms);
        self.changed.notify_one();
    }

    /// Notes what the reader has delivered; gives the arrival that it completes.
    pub(super) fn deliver(&self, partition: Partition, offset: Offset) -> Option<Arrival> {
        locked(&self.ledger).deliver(partition, offset).map(empty)
    }

    /// Wakes the asking thread, so that it sees that it should stop.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    fn wait(&self, at_most: Duration) {
        let ledger = locked(&self.ledger);
        drop(self.changed.wait_timeout(ledger, at_most).unwrap_or_else(PoisonError::into_inner));
    }

    /// What is to be asked now, or how long there is nothing to ask.
    fn next_round(&self) -> Result<Vec<Partition>, Duration> {
        let ledger = locked(&self.ledger);
        let unasked = ledger.unasked();
        if unasked.is_empty() {
            return Err(if ledger.questions.is_empty() { IDLE_INTERVAL } else { ROUND_INTERVAL });
        }
        let until = ledger.wish.1.saturating_sub(now_ms()).saturating_add(1);
        match u64::try_from(until) {
            Ok(until @ 1..) => Err(Duration::from_millis(until).min(IDLE_INTERVAL)),
            _ => Ok(unasked),
        }
    }

    fn answer(&self, partition: Partition, answer: Answer) -> Option<Arrival> {
        locked(&self.ledger).answer(partition, answer).map(empty)
    }
}

fn empty((partition, asked_ms): Settled) -> Arrival {
    Arrival::Empty { partition, asked_ms }
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
    /// Publishes that there are no answers.
    pub(super) outage: Backoff,
    /// Where wishes come from and answers go.
    pub(super) desk: Arc<Desk>,
    /// Where arrivals go.
    pub(super) out: SyncSender<Result<Arrival, Failure>>,
    /// Whether the source is gone.
    pub(super) stopped: Arc<std::sync::atomic::AtomicBool>,
}

impl Asker {
    /// Asks until the source is gone.
    pub(super) fn run(mut self) {
        while !self.stopped.load(std::sync::atomic::Ordering::Acquire) {
            self.client.poll(Duration::ZERO);
            self.secrets.look(self.client.client());
            if let Err(error) = self.look() {
                // Nobody listens any more once the source is dropped.
                return drop(self.out.send(Err(error)));
            }
            self.survey();
            let sent = match self.desk.next_round() {
                Err(pause) => {
                    self.desk.wait(pause);
                    true
                }
                Ok(partitions) => self.round(&partitions),
            };
            if !sent {
                return;
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
                self.missed = false;
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

    /// Asks these partitions' leaders; false once the source is gone.
    fn round(&self, partitions: &[Partition]) -> bool {
        let answered = self.ask(partitions, ANSWER_TIMEOUT);
        // One leader that is away fails the round for all: ask the others each for themselves.
        let answered = match answered {
            None if partitions.len() > 1 => {
                partitions.iter().filter_map(|p| self.ask(&[*p], ANSWER_TIMEOUT / 4)).flatten().collect()
            }
            answered => answered.unwrap_or_default(),
        };
        let complete = answered.len() == partitions.len();
        for (partition, answer) in answered {
            if let Some(arrival) = self.desk.answer(partition, answer)
                && self.out.send(Ok(arrival)).is_err()
            {
                return false;
            }
        }
        if !complete {
            self.desk.wait(ROUND_INTERVAL);
        }
        true
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

    #[test]
    fn an_answer_waits_for_the_reader() {
        let mut ledger = Ledger::new(vec![(Partition(0), Offset(5)), (Partition(1), Offset(0))]);
        ledger.wish(&[Partition(0), Partition(1)], 100);
        assert_eq!(ledger.answer(Partition(0), answer(7, 101)), None);
        assert_eq!(ledger.deliver(Partition(0), Offset(6)), None);
        assert_eq!(ledger.deliver(Partition(0), Offset(7)), Some((Partition(0), 101)));
        assert_eq!(ledger.deliver(Partition(0), Offset(8)), None, "a question is answered once");
        assert_eq!(ledger.answer(Partition(1), answer(0, 102)), Some((Partition(1), 102)));
    }

    #[test]
    fn an_answer_asked_too_early_does_not_count() {
        let mut ledger = Ledger::new(vec![(Partition(0), Offset(5))]);
        ledger.wish(&[Partition(0)], 100);
        assert_eq!(ledger.answer(Partition(0), answer(5, 100)), None);
        assert_eq!(ledger.unasked(), [Partition(0)]);
        assert_eq!(ledger.answer(Partition(0), answer(5, 101)), Some((Partition(0), 101)));
    }

    #[test]
    fn a_new_wish_keeps_the_answers_that_serve_it() {
        let mut ledger = Ledger::new(vec![(Partition(0), Offset(0)), (Partition(1), Offset(0))]);
        ledger.wish(&[Partition(0), Partition(1)], 100);
        assert_eq!(ledger.answer(Partition(0), answer(3, 150)), None);
        ledger.wish(&[Partition(0)], 140);
        assert_eq!(ledger.unasked(), [] as [Partition; 0]);
        ledger.wish(&[Partition(0)], 150);
        assert_eq!(ledger.unasked(), [Partition(0)]);
        ledger.wish(&[], 0);
        assert_eq!(ledger.deliver(Partition(0), Offset(9)), None);
    }

    #[test]
    fn a_log_that_lost_its_tail_moves_the_goal_down_and_new_records_do_not_move_it_up() {
        let mut ledger = Ledger::new(vec![(Partition(0), Offset(0))]);
        ledger.wish(&[Partition(0)], 0);
        assert_eq!(ledger.answer(Partition(0), answer(9, 1)), None);
        assert_eq!(ledger.answer(Partition(0), answer(20, 2)), None);
        assert_eq!(ledger.answer(Partition(0), answer(4, 3)), None);
        assert_eq!(ledger.deliver(Partition(0), Offset(4)), Some((Partition(0), 3)));
    }
}
