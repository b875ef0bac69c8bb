//! Whether a partition of a lane is empty: what is wanted, what leaders said, how far the reader has delivered. A leader's word counts once
//! everything below the end that it named is delivered.
//!
//! The [`Ledger`] is pure. The asking thread (`asker.rs`) fills in answers, the reading threads positions; whoever completes a question puts its
//! [`Arrival::Empty`] into the lane's mailbox. It knows no order between partitions and never takes silence for emptiness.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::clock;
use crate::position::{Offset, Partition};
use crate::source::Arrival;

/// How old a leader's answer gets before it is asked again: only a log that lost its tail ever needs it.
const ANSWER_LIFE: Duration = Duration::from_secs(1);

/// What is wanted, answered and delivered.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Ascending by partition.
    tracks: Vec<Track>,
    /// Partitions, ascending, and the instant past which they are to be asked.
    wish: (Vec<Partition>, i64),
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
pub(super) struct Answer {
    /// The offset after the partition's last record.
    pub(super) high: Offset,
    /// The clock just before it was asked; ms since 1970.
    pub(super) asked_ms: i64,
    /// When it answered.
    pub(super) at: Instant,
}

/// Questions with their answers, all delivered, by the clock just before they were asked.
pub(super) type Settled = BTreeMap<i64, Vec<Partition>>;

impl Ledger {
    /// A ledger of a reader that starts at these positions.
    pub(super) fn new(mut delivered: Vec<(Partition, Offset)>) -> Ledger {
        delivered.sort_unstable();
        let track = |(partition, delivered)| Track { partition, delivered, answer: None, settled_ms: None };
        Ledger { tracks: delivered.into_iter().map(track).collect(), ..Ledger::default() }
    }

    /// Replaces the wish (see [`crate::source::Source::ask`]); answers that serve the new one are kept.
    pub(super) fn wish(&mut self, partitions: &[Partition], after_ms: i64) {
        self.wish = (partitions.to_vec(), after_ms);
        self.wish.0.sort_unstable();
    }

    /// The partitions whose leaders are to be asked, and the instant past which, ms since 1970; none if there is nothing to ask.
    pub(super) fn want(&self) -> Option<(Vec<Partition>, i64)> {
        Some((self.unasked(), self.wish.1)).filter(|(partitions, _)| !partitions.is_empty())
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
    pub(super) fn answer(&mut self, answers: impl IntoIterator<Item = (Partition, Answer)>) -> Settled {
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
    pub(super) fn deliver(&mut self, reached: &[(Partition, Offset)]) -> Settled {
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

/// The arrivals of what was settled.
pub(super) fn empty(settled: Settled) -> Vec<Arrival> {
    settled.into_iter().map(|(asked_ms, partitions)| Arrival::Empty { partitions, asked_ms }).collect()
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
}
