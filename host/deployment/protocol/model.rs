//! The journal's objects in memory, and turns at them: a turn performs one operation of a procedure, and replays those before it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Model {
    pub(super) t: Option<AppendTime>,
    pub(super) probation_ms: i64,
}

impl Terms for Model {
    fn t(&self) -> Option<AppendTime> {
        self.t
    }

    fn set_t(&mut self, t: Option<AppendTime>) {
        self.t = t;
    }

    fn probation_ms(&self) -> i64 {
        self.probation_ms
    }

    fn unreadable(&self, _: &Model) -> Option<String> {
        None
    }
}

/// A lane, and the host that folds it.
pub(super) type Holder = (u8, u8);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Store {
    pub(super) deployments: Vec<Model>,
    pub(super) outcomes: BTreeMap<u64, Outcome>,
    pub(super) verdicts: BTreeMap<u64, Verdict>,
    pub(super) reservations: BTreeMap<Holder, Option<AppendTime>>,
}

impl Store {
    pub(super) fn deployment(&self, n: u64) -> Option<Model> {
        self.deployments.get(usize::try_from(n).unwrap()).copied()
    }

    pub(super) fn is_withdrawn(&self, n: u64) -> bool {
        matches!(self.verdicts.get(&n), Some(Verdict::Withdrawn(_)))
    }

    /// Whether deployment `n` holds: confirmed and not withdrawn.
    pub(super) fn holds(&self, n: u64) -> bool {
        let is_first = self.deployment(n).is_some_and(|deployment| deployment.t.is_none());
        (is_first || self.outcomes.get(&n) == Some(&Outcome::Confirmed)) && !self.is_withdrawn(n)
    }

    /// The deployment by which a record is to be folded in the end.
    pub(super) fn truth(&self, record: AppendTime) -> u64 {
        let numbers = 0..self.deployments.len() as u64;
        let holds = |n: &u64| self.holds(*n) && self.deployment(*n).unwrap().t <= Some(record);
        numbers.rev().find(holds).expect("deployment 0 holds")
    }
}

/// The operation that a procedure asks for next was not performed yet.
#[derive(Debug)]
pub(super) struct Stop;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Deployment(Option<Model>),
    Put(bool),
    Outcome(Option<Outcome>),
    Verdict(Option<Verdict>),
    Holders(Vec<Holder>),
    Reservation(Option<Option<AppendTime>>),
    News(usize),
    Done,
}

/// What is done wrongly, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// A lane reads the deployments before it reserves.
    ReadsBeforeReserving,
    /// A deployment is confirmed by the first lane's reservation alone.
    JudgesByOneReservation,
    /// Reservations are listed once, and one that was released meanwhile is left out.
    ListsReservationsOnce,
    /// A lane folds past a probation without a verdict.
    FoldsPastProbation,
}

pub(super) struct Turn<'a> {
    pub(super) store: &'a RefCell<Rc<Store>>,
    pub(super) answers: RefCell<Vec<Answer>>,
    pub(super) replayed: Cell<usize>,
    pub(super) performed: &'a Cell<bool>,
    /// No deployment will be put any more.
    pub(super) are_deployers_done: bool,
    /// The lanes whose reservations will not change any more.
    pub(super) have_reserved: [bool; 2],
    pub(super) fault: Fault,
    /// Whether no lane opens again, so that the holders of reservations stay the same.
    pub(super) holders_stay: bool,
}

/// Takes the answer apart that an operation must have had.
macro_rules! answer {
    ($asked:expr, $kind:ident) => {
        match $asked? {
            Answer::$kind(answer) => Ok(answer),
            other => unreachable!("procedures are deterministic, replayed {other:?}"),
        }
    };
}

impl Turn<'_> {
    /// How many deployments and verdicts a listener has heard of.
    pub(super) fn news(&self) -> Result<usize, Stop> {
        let read = |store: &Store| Answer::News(store.deployments.len() + store.verdicts.len());
        answer!(self.read(|_| false, read), News)
    }

    /// Asks for an operation that changes the store.
    fn write(
        &self,
        is_final: impl FnOnce(&Store) -> bool,
        write: impl FnOnce(&mut Store) -> Answer,
    ) -> Result<Answer, Stop> {
        self.ask(is_final, |store| write(Rc::make_mut(store)))
    }

    /// Asks for an operation that reads the store.
    fn read(&self, is_final: impl FnOnce(&Store) -> bool, read: impl FnOnce(&Store) -> Answer) -> Result<Answer, Stop> {
        self.ask(is_final, |store| read(store))
    }

    /// Answers from what was replayed, or performs one operation more. One whose answer is final already commutes with all others, so it is
    /// no turn of its own: a schedule that delays it has the same answers.
    fn ask(
        &self,
        is_final: impl FnOnce(&Store) -> bool,
        perform: impl FnOnce(&mut Rc<Store>) -> Answer,
    ) -> Result<Answer, Stop> {
        let mut answers = self.answers.borrow_mut();
        if let Some(answer) = answers.get(self.replayed.get()) {
            self.replayed.set(self.replayed.get() + 1);
            return Ok(answer.clone());
        }
        if !is_final(&self.store.borrow()) && self.performed.replace(true) {
            return Err(Stop);
        }
        let answer = perform(&mut self.store.borrow_mut());
        answers.push(answer.clone());
        self.replayed.set(answers.len());
        Ok(answer)
    }
}

impl Objects for Turn<'_> {
    type Error = Stop;
    type Deployment = Model;

    fn deployment(&self, n: u64) -> Result<Option<Model>, Stop> {
        let read = |store: &Store| Answer::Deployment(store.deployment(n));
        answer!(self.read(|store| self.are_deployers_done || store.deployment(n).is_some(), read), Deployment)
    }

    fn put_deployment(&self, n: u64, deployment: &Model) -> Result<bool, Stop> {
        let put = |store: &mut Store| {
            let is_new = store.deployments.len() as u64 == n;
            store.deployments.extend(is_new.then_some(*deployment));
            Answer::Put(is_new)
        };
        answer!(self.write(|_| false, put), Put)
    }

    fn outcome(&self, n: u64) -> Result<Option<Outcome>, Stop> {
        let read = |store: &Store| Answer::Outcome(store.outcomes.get(&n).copied());
        answer!(self.read(|store| store.outcomes.contains_key(&n), read), Outcome)
    }

    fn decide_outcome(&self, n: u64, outcome: Outcome) -> Result<Outcome, Stop> {
        let decide = |store: &mut Store| Answer::Outcome(Some(*store.outcomes.entry(n).or_insert(outcome)));
        answer!(self.write(|store| store.outcomes.contains_key(&n), decide), Outcome).map(|outcome| outcome.unwrap())
    }

    fn verdict(&self, n: u64) -> Result<Option<Verdict>, Stop> {
        let read = |store: &Store| Answer::Verdict(store.verdicts.get(&n).cloned());
        answer!(self.read(|store| store.verdicts.contains_key(&n), read), Verdict)
    }

    fn decide_verdict(&self, n: u64, verdict: Verdict) -> Result<Verdict, Stop> {
        let decide = |store: &mut Store| Answer::Verdict(Some(store.verdicts.entry(n).or_insert(verdict).clone()));
        answer!(self.write(|store| store.verdicts.contains_key(&n), decide), Verdict).map(|verdict| verdict.unwrap())
    }
}

impl Reservations for Turn<'_> {
    type Holder = Holder;

    fn holders(&self, like: Option<&Holder>) -> Result<Vec<Holder>, Stop> {
        let list = |store: &Store| {
            let holders = store.reservations.keys().copied();
            Answer::Holders(holders.filter(|holder| like.is_none_or(|like| like.0 == holder.0)).collect())
        };
        if like.is_none() && self.fault == Fault::ListsReservationsOnce {
            let listed = |answer: &Answer| match answer {
                Answer::Holders(holders) => Some(holders.clone()),
                _ => None,
            };
            let answers = &self.answers.borrow()[..self.replayed.get()];
            if let Some(holders) = answers.iter().rev().find_map(listed) {
                return Ok(holders);
            }
        }
        let mut holders: Vec<Holder> = answer!(self.read(|_| self.holders_stay, list), Holders)?;
        if like.is_none() && self.fault == Fault::JudgesByOneReservation {
            holders.truncate(1);
        }
        Ok(holders)
    }

    fn reservation(&self, holder: &Holder) -> Result<Option<Option<AppendTime>>, Stop> {
        answer!(
            self.read(
                |_| self.have_reserved[usize::from(holder.0)],
                |store| Answer::Reservation(store.reservations.get(holder).copied())
            ),
            Reservation
        )
    }

    fn reserve(&self, holder: &Holder, until: Option<AppendTime>) -> Result<(), Stop> {
        let reserve = |store: &mut Store| {
            store.reservations.insert(*holder, until);
            Answer::Done
        };
        self.write(|_| false, reserve).map(drop)
    }

    fn release(&self, holder: &Holder) -> Result<(), Stop> {
        let release = |store: &mut Store| {
            store.reservations.remove(holder);
            Answer::Done
        };
        self.write(|_| false, release).map(drop)
    }
}

/// A part of a state, shared by the states in which it is the same, with its hash.
#[derive(Clone, Debug)]
pub(super) struct Part<T> {
    pub(super) value: Rc<T>,
    pub(super) hash: u128,
}

impl<T: Hash> Part<T> {
    pub(super) fn new(value: T) -> Part<T> {
        let hash = hash(&value);
        Part { value: Rc::new(value), hash }
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Hashes to 128 bits, so that of a few million states no two are taken for one.
#[derive(Default)]
struct Wide(u64, u64);

impl Hasher for Wide {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_u64(&mut self, word: u64) {
        let fold = |state: u64, word: u64, by: u64| {
            let product = (state ^ word).wrapping_mul(by);
            (product ^ product >> 32).rotate_left(23).wrapping_mul(by).wrapping_add(word)
        };
        self.0 = fold(self.0, word, 0x9e37_79b9_7f4a_7c15);
        self.1 = fold(self.1, word, 0xd6e8_feb8_6659_fd93);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

pub(super) fn hash(value: &impl Hash) -> u128 {
    let mut hasher = Wide::default();
    value.hash(&mut hasher);
    u128::from(hasher.0) << 64 | u128::from(hasher.1)
}
