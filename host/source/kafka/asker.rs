//! The thread that asks for all lanes of a host: where partitions end, for those that want to know whether they are empty; how far they reach, for
//! those who watch; and whether the topic is still the one that it was (`identity.rs`). It has a client of its own, which reads nothing and sees
//! open transactions.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::Offset as KafkaOffset;
use rdkafka::consumer::Consumer;

use crate::backoff::Backoff;
use crate::clock;
use crate::clock::now_ms;
use crate::failure::Failure;
use crate::position::{Offset, Partition, TopicId};
use crate::source::kafka::broker::{ANSWER_TIMEOUT, ascending, locked, offsets};
use crate::source::kafka::emptiness::{Answer, empty};
use crate::source::kafka::hub::{Lane, Shared};
use crate::source::kafka::identity::{self, Identity};
use crate::source::kafka::secrets::Secrets;

/// How soon after a round the leaders are asked again.
const ROUND_INTERVAL: Duration = Duration::from_millis(10);
/// How often the leaders are asked where the partitions end, for those who watch.
const SURVEY_INTERVAL: Duration = Duration::from_secs(2);
/// How often the asking thread looks up when nobody wants anything.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);

/// Where lanes call the asking thread.
#[derive(Debug, Default)]
pub(super) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// When the asking thread looks up by itself, ms since 1970; past it no lane has to call. While it looks, that is never.
    looks_up_ms: i64,
    /// Whether it is called before.
    is_called: bool,
    /// How often the topic's id was asked for.
    questions: u64,
    /// How many of these questions are answered, by what was told last.
    answered: u64,
    id: Option<Result<Option<TopicId>, Failure>>,
}

impl Desk {
    /// Calls the asking thread, unless it looks up by itself before this instant; ms since 1970.
    pub(super) fn call(&self, due_ms: i64) {
        let mut state = locked(&self.state);
        if due_ms < state.looks_up_ms {
            state.is_called = true;
            self.changed.notify_one();
        }
    }

    /// Asks for the topic's id. Returns the number of the question.
    pub(super) fn ask_id(&self) -> u64 {
        let mut state = locked(&self.state);
        state.questions += 1;
        state.is_called = true;
        self.changed.notify_one();
        state.questions
    }

    /// The topic's id, asked after the question of this number was; none while it is not answered.
    pub(super) fn id(&self, question: u64) -> Option<Result<Option<TopicId>, Failure>> {
        let state = locked(&self.state);
        state.id.clone().filter(|_| state.answered >= question)
    }

    /// How many questions there are for the topic's id, if some are open.
    fn open_questions(&self) -> Option<u64> {
        let state = locked(&self.state);
        Some(state.questions).filter(|questions| *questions > state.answered)
    }

    fn answer(&self, questions: u64, id: Result<Option<TopicId>, Failure>) {
        let mut state = locked(&self.state);
        state.answered = questions;
        state.id = Some(id);
    }

    /// From now on every call ends the next [`Desk::wait`].
    fn look(&self) {
        let mut state = locked(&self.state);
        state.looks_up_ms = i64::MAX;
        state.is_called = false;
    }

    /// Ends the present wait, or the next one.
    pub(super) fn wake(&self) {
        locked(&self.state).is_called = true;
        self.changed.notify_one();
    }

    /// Waits, but not for ever; whether for calls of lanes too.
    fn wait(&self, pause: Duration, for_calls: bool) {
        let mut state = locked(&self.state);
        let until_ms = now_ms().saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
        state.looks_up_ms = if for_calls { until_ms } else { i64::MIN };
        state.is_called &= for_calls || state.questions > state.answered;
        let uncalled = |state: &mut State| !state.is_called;
        drop(self.changed.wait_timeout_while(state, pause, uncalled).unwrap_or_else(PoisonError::into_inner));
    }
}

/// The asking thread.
pub(super) struct Asker {
    /// What it shares with the lanes and the readers.
    pub(super) shared: Arc<Shared>,
    /// The password that its client authenticates with.
    pub(super) secrets: Secrets,
    /// When the ends were surveyed.
    pub(super) surveyed: Instant,
    /// Whether that was not answered.
    pub(super) missed: bool,
    /// Whether a leader did not answer a round. Then only those are asked that are wished for, until a survey is answered by all.
    pub(super) is_one_away: bool,
    /// Publishes that there are no answers.
    pub(super) outage: Backoff,
}

/// A lane, and its partitions that are to be asked.
type Wish = (Arc<Lane>, Vec<Partition>);

/// What the asking thread does next.
enum Next {
    /// Asks.
    Round(Vec<Wish>),
    /// Waits, but looks up when a lane calls.
    Pause(Duration),
    /// Waits, whatever lanes wish for meanwhile: it asks after that anyway.
    TooEarly(Duration),
}

impl Asker {
    /// Asks until the hub is gone, or until the topic turns out to be another one.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut earliest = clock::instant();
        loop {
            // Before anything that lanes call for is looked at.
            shared.desk.look();
            if shared.stopped.load(Ordering::Acquire) {
                return;
            }
            shared.asking.poll(Duration::ZERO);
            self.secrets.look(shared.asking.client());
            if let Err(failure) = self.look() {
                return shared.fail(failure);
            }
            self.survey();
            if let Some(questions) = shared.desk.open_questions() {
                shared.desk.answer(questions, self.id());
            }
            match self.next_round(earliest) {
                Next::Round(wishes) => {
                    earliest = clock::instant() + ROUND_INTERVAL;
                    self.round(&wishes);
                }
                Next::Pause(pause) => shared.desk.wait(pause, true),
                Next::TooEarly(pause) => shared.desk.wait(pause, false),
            }
        }
    }

    fn look(&self) -> Result<(), Failure> {
        let Shared { watch, asking, config, .. } = &*self.shared;
        if !locked(watch).is_due() {
            return Ok(());
        }
        let seen = identity::look(asking, &config.topic, ANSWER_TIMEOUT);
        locked(watch).check(&seen)
    }

    /// The topic's id as of now; none if nobody says. Fails if it is another one than before.
    fn id(&self) -> Result<Option<TopicId>, Failure> {
        let Shared { watch, asking, config, .. } = &*self.shared;
        match identity::identity(asking, &config.topic, ANSWER_TIMEOUT) {
            Identity::Known(id) => {
                locked(watch).compare(&Identity::Known(id.clone()))?;
                Ok(Some(id))
            }
            Identity::Missing | Identity::Without | Identity::Unsaid => Ok(None),
        }
    }

    /// Asks where all partitions end, if it is time to. Nothing waits for the answer, and that there is none is told by who reads.
    fn survey(&mut self) {
        if clock::since(self.surveyed) < SURVEY_INTERVAL {
            return;
        }
        self.surveyed = clock::instant();
        let lanes = self.shared.lanes();
        let partitions: Vec<Partition> = lanes.iter().flat_map(|lane| lane.partitions.iter().copied()).collect();
        if partitions.is_empty() {
            return;
        }
        let highs = self.offsets(&partitions, KafkaOffset::End);
        each(&lanes, highs.as_deref().ok(), |lane, highs| lane.ends.survey(highs));
        if let Ok(lows) = self.offsets(&partitions, KafkaOffset::Beginning) {
            each(&lanes, Some(&lows), |lane, lows| lane.ends.begin_at(lows.unwrap_or_default()));
        }
        match highs {
            Ok(highs) if highs.iter().all(Option::is_some) => {
                (self.missed, self.is_one_away) = (false, false);
                self.outage.over();
            }
            answer => {
                // One answer may be late without anything being wrong.
                if std::mem::replace(&mut self.missed, true) {
                    let why = answer.err().unwrap_or_else(|| "a partition has no leader".to_owned());
                    self.outage.warn(&why);
                }
            }
        }
    }

    fn offsets(&self, partitions: &[Partition], at: KafkaOffset) -> Result<Vec<Option<Offset>>, String> {
        let Shared { asking, config, .. } = &*self.shared;
        offsets(asking, &config.topic, partitions, at, ANSWER_TIMEOUT).map_err(|e| e.to_string())
    }

    /// What lanes want to have asked now; not before `earliest`.
    fn next_round(&self, earliest: Instant) -> Next {
        let now_ms = now_ms();
        let (mut due, mut pause) = (Vec::new(), IDLE_INTERVAL);
        for lane in self.shared.lanes() {
            let want = locked(&lane.ledger).want();
            match want {
                None => {}
                Some((partitions, after_ms)) if after_ms < now_ms => due.push((lane, partitions)),
                Some((_, after_ms)) => {
                    let left_ms = u64::try_from(after_ms.saturating_sub(now_ms).saturating_add(1)).unwrap_or(0);
                    pause = pause.min(Duration::from_millis(left_ms));
                }
            }
        }
        let early = earliest.saturating_duration_since(clock::instant());
        match (due.is_empty(), early.is_zero()) {
            (true, _) => Next::Pause(pause),
            (false, true) => Next::Round(due),
            (false, false) => Next::TooEarly(early),
        }
    }

    /// Asks for all these lanes at once, since a request to a broker is for all its partitions; and for all partitions of each.
    fn round(&mut self, wishes: &[Wish]) {
        let wished = || wishes.iter().flat_map(|(_, partitions)| partitions.iter().copied());
        let of_lanes = || wishes.iter().flat_map(|(lane, _)| lane.partitions.iter().copied());
        let asked: Vec<Partition> = if self.is_one_away { wished().collect() } else { of_lanes().collect() };
        let answers = self.ask(&asked, ANSWER_TIMEOUT).unwrap_or_else(|| {
            self.is_one_away = true;
            self.ask_each_leader(wished().collect())
        });
        for (lane, _) in wishes {
            let of_lane = lane.partitions.iter().filter_map(|p| Some((*p, *answers.get(p)?)));
            let settled = locked(&lane.ledger).answer(of_lane);
            lane.mailbox.put(empty(settled));
        }
    }

    /// One leader that is away fails a round for all: asks each for itself.
    fn ask_each_leader(&self, mut wished: Vec<Partition>) -> BTreeMap<Partition, Answer> {
        let Shared { asking, config, .. } = &*self.shared;
        let Ok(metadata) = asking.fetch_metadata(Some(&config.topic), ANSWER_TIMEOUT / 4) else {
            return BTreeMap::new();
        };
        wished.sort_unstable();
        let mut led: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            led.entry(partition.leader()).or_default().push(partition.id());
        }
        led.remove(&-1);
        let mut answers = BTreeMap::new();
        for partitions in led.into_values().map(|partitions| ascending(partitions.into_iter())) {
            let asked: Vec<Partition> = partitions.into_iter().filter(|p| wished.binary_search(p).is_ok()).collect();
            if !asked.is_empty() {
                answers.extend(self.ask(&asked, ANSWER_TIMEOUT / 4).unwrap_or_default());
            }
        }
        answers
    }

    fn ask(&self, partitions: &[Partition], timeout: Duration) -> Option<BTreeMap<Partition, Answer>> {
        let Shared { asking, config, .. } = &*self.shared;
        let asked_ms = now_ms();
        match offsets(asking, &config.topic, partitions, KafkaOffset::End, timeout) {
            Ok(highs) => {
                let at = clock::instant();
                let answers = partitions.iter().zip(highs);
                Some(answers.filter_map(|(p, high)| high.map(|high| (*p, Answer { high, asked_ms, at }))).collect())
            }
            Err(error) => {
                asking.context().complain(&format!(
                    "no leader of topic {} says where partitions {partitions:?} end: {error}",
                    config.topic
                ));
                None
            }
        }
    }
}

/// Gives each lane its part of what was told of all their partitions, in their order; nothing if nothing was told.
fn each(
    lanes: &[Arc<Lane>],
    mut told: Option<&[Option<Offset>]>,
    mut give: impl FnMut(&Lane, Option<&[Option<Offset>]>),
) {
    for lane in lanes {
        let parts = told.map(|told| told.split_at(lane.partitions.len()));
        told = parts.map(|(_, rest)| rest);
        give(lane, parts.map(|(part, _)| part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_due_before_the_asking_thread_looks_up_calls_it() {
        let desk = Desk::default();
        let is_called = |due_ms| {
            desk.call(due_ms);
            std::mem::take(&mut locked(&desk.state).is_called)
        };
        locked(&desk.state).looks_up_ms = 500;
        assert!(is_called(400));
        assert!(!is_called(600));
        desk.look();
        assert!(is_called(600), "it may have looked at this wish already");
    }

    #[test]
    fn an_id_that_was_asked_for_before_answers_no_later_question() {
        let desk = Desk::default();
        let (first, open) = (desk.ask_id(), desk.open_questions());
        let second = desk.ask_id();
        assert_eq!(desk.id(first), None);
        desk.answer(open.expect("one is open"), Ok(None));
        assert_eq!((desk.id(first), desk.id(second)), (Some(Ok(None)), None));
        assert_eq!(desk.open_questions(), Some(2));
    }
}
