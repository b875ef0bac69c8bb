//! All interleavings of two lanes and two deployers, each stopped after every operation on the store, checked for I9 and I10.
//!
//! The processes run the procedures of [`super`] on a model of the objects. A turn replays the answers that its procedure has had so far,
//! and then performs one operation more. States are met once, by their hash; schedules are counted over the graph of states.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;

// ---- the store

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Model {
    t: Option<AppendTime>,
    probation_ms: i64,
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
}

/// A lane, and the host that folds it.
type Holder = (u8, u8);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Store {
    deployments: Vec<Model>,
    outcomes: BTreeMap<u64, Outcome>,
    verdicts: BTreeMap<u64, Verdict>,
    reservations: BTreeMap<Holder, Option<AppendTime>>,
}

impl Store {
    fn deployment(&self, n: u64) -> Option<Model> {
        self.deployments.get(usize::try_from(n).unwrap()).copied()
    }

    fn is_withdrawn(&self, n: u64) -> bool {
        matches!(self.verdicts.get(&n), Some(Verdict::Withdrawn(_)))
    }

    /// Whether deployment `n` holds: confirmed and not withdrawn.
    fn holds(&self, n: u64) -> bool {
        let is_first = self.deployment(n).is_some_and(|deployment| deployment.t.is_none());
        (is_first || self.outcomes.get(&n) == Some(&Outcome::Confirmed)) && !self.is_withdrawn(n)
    }

    /// The deployment by which a record is to be folded in the end.
    fn truth(&self, record: AppendTime) -> u64 {
        let numbers = 0..self.deployments.len() as u64;
        let holds = |n: &u64| self.holds(*n) && self.deployment(*n).unwrap().t <= Some(record);
        numbers.rev().find(holds).expect("deployment 0 holds")
    }
}

// ---- turns

/// The operation that a procedure asks for next was not performed yet.
#[derive(Debug)]
struct Stop;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Deployment(Option<Model>),
    Put(bool),
    Outcome(Option<Outcome>),
    Verdict(Option<Verdict>),
    Holders(Vec<Holder>),
    Reservation(Option<Option<AppendTime>>),
    Done,
}

/// What is done wrongly, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A lane reads the deployments before it reserves.
    ReadsBeforeReserving,
    /// A deployment is confirmed by the first lane's reservation alone.
    JudgesByOneReservation,
    /// Reservations are listed once, and one that was released meanwhile is left out.
    ListsReservationsOnce,
    /// A lane folds past a probation without a verdict.
    FoldsPastProbation,
    /// A deployer leaves the former deployment's probation open.
    LeavesProbationOpen,
}

struct Turn<'a> {
    store: RefCell<&'a mut Store>,
    answers: RefCell<Vec<Answer>>,
    replayed: Cell<usize>,
    performed: Cell<bool>,
    fault: Fault,
}

impl Turn<'_> {
    fn ask(&self, perform: impl FnOnce(&mut Store) -> Answer) -> Result<Answer, Stop> {
        let mut answers = self.answers.borrow_mut();
        if let Some(answer) = answers.get(self.replayed.get()) {
            self.replayed.set(self.replayed.get() + 1);
            return Ok(answer.clone());
        }
        if self.performed.replace(true) {
            return Err(Stop);
        }
        let answer = perform(&mut self.store.borrow_mut());
        answers.push(answer.clone());
        self.replayed.set(answers.len());
        Ok(answer)
    }
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

impl Objects for Turn<'_> {
    type Error = Stop;
    type Deployment = Model;

    fn deployment(&self, n: u64) -> Result<Option<Model>, Stop> {
        answer!(self.ask(|store| Answer::Deployment(store.deployment(n))), Deployment)
    }

    fn put_deployment(&self, n: u64, deployment: &Model) -> Result<bool, Stop> {
        let put = |store: &mut Store| {
            let is_new = store.deployments.len() as u64 == n;
            store.deployments.extend(is_new.then_some(*deployment));
            Answer::Put(is_new)
        };
        answer!(self.ask(put), Put)
    }

    fn outcome(&self, n: u64) -> Result<Option<Outcome>, Stop> {
        answer!(self.ask(|store| Answer::Outcome(store.outcomes.get(&n).copied())), Outcome)
    }

    fn decide_outcome(&self, n: u64, outcome: Outcome) -> Result<Outcome, Stop> {
        let decide = |store: &mut Store| Answer::Outcome(Some(*store.outcomes.entry(n).or_insert(outcome)));
        answer!(self.ask(decide), Outcome).map(|outcome| outcome.unwrap())
    }

    fn verdict(&self, n: u64) -> Result<Option<Verdict>, Stop> {
        answer!(self.ask(|store| Answer::Verdict(store.verdicts.get(&n).cloned())), Verdict)
    }

    fn decide_verdict(&self, n: u64, verdict: Verdict) -> Result<Verdict, Stop> {
        if self.fault == Fault::LeavesProbationOpen && verdict == Verdict::Kept {
            return Ok(Verdict::Kept);
        }
        let decide = |store: &mut Store| Answer::Verdict(Some(store.verdicts.entry(n).or_insert(verdict).clone()));
        answer!(self.ask(decide), Verdict).map(|verdict| verdict.unwrap())
    }
}

impl Reservations for Turn<'_> {
    type Holder = Holder;

    fn holders(&self, like: Option<&Holder>) -> Result<Vec<Holder>, Stop> {
        let list = |store: &mut Store| {
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
        let mut holders: Vec<Holder> = answer!(self.ask(list), Holders)?;
        if like.is_none() && self.fault == Fault::JudgesByOneReservation {
            holders.truncate(1);
        }
        Ok(holders)
    }

    fn reservation(&self, holder: &Holder) -> Result<Option<Option<AppendTime>>, Stop> {
        answer!(self.ask(|store| Answer::Reservation(store.reservations.get(holder).copied())), Reservation)
    }

    fn reserve(&self, holder: &Holder, until: Option<AppendTime>) -> Result<(), Stop> {
        let reserve = |store: &mut Store| {
            store.reservations.insert(*holder, until);
            Answer::Done
        };
        self.ask(reserve).map(drop)
    }

    fn release(&self, holder: &Holder) -> Result<(), Stop> {
        let release = |store: &mut Store| {
            store.reservations.remove(holder);
            Answer::Done
        };
        self.ask(release).map(drop)
    }
}

// ---- processes

/// What a process does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// A lane opens: it learns what holds, and takes its reservation over.
    Open,
    /// It reserves up to its next batch's end.
    Reserve,
    /// It ends a probation that the batch passes.
    Probation,
    /// It looks for news, or not.
    Look,
    /// It has folded all, and looks for news once more when no deployer is left.
    LastLook,
    /// A deployer attempts to create a deployment.
    Create(When, u8),
    /// It attempts to create one that holds from the beginning of the log.
    Reprocess,
    /// It withdraws the last deployment.
    Withdraw,
    /// Nothing any more.
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    phase: Phase,
    /// What the store has answered in this phase.
    answers: Vec<Answer>,
    lane: Lane,
    deployment: Model,
}

/// A lane's memory and checkpoint: it checkpoints after each batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Lane {
    holder: Holder,
    view: Option<View>,
    logic: u64,
    /// By which deployment the first records were folded.
    folds: Vec<u64>,
    /// How often its host may still crash.
    crashes: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    store: Store,
    processes: Vec<Process>,
}

/// What does not change from state to state.
struct Scenario {
    /// Append times of each lane's records, by batch.
    batches: [&'static [&'static [i64]]; 2],
    /// How far past a batch a lane reserves.
    ahead_ms: i64,
    fault: Fault,
    start: World,
}

/// By the clock of the deployers.
const NOW: i64 = 1;
/// Attempts of a deployer.
const ATTEMPTS: u8 = 2;

impl Scenario {
    fn new(batches: [&'static [&'static [i64]]; 2], deployers: [Phase; 2]) -> Scenario {
        let deployment = Model { t: None, probation_ms: 0 };
        let process = |phase, lane: Lane| Process { phase, answers: Vec::new(), lane, deployment };
        let mut processes: Vec<Process> =
            (0..2).map(|lane| process(Phase::Open, Lane { holder: (lane, 0), ..Lane::default() })).collect();
        processes.extend(deployers.map(|phase| process(phase, Lane::default())));
        let store = Store { deployments: vec![deployment], ..Store::default() };
        Scenario { batches, ahead_ms: 5, fault: Fault::None, start: World { store, processes } }
    }

    /// Puts a deployment that was confirmed before, with a probation.
    fn deployed(mut self, t: i64, probation_ms: i64) -> Scenario {
        let n = self.start.store.deployments.len() as u64;
        self.start.store.deployments.push(Model { t: Some(AppendTime::at(t)), probation_ms });
        self.start.store.outcomes.insert(n, Outcome::Confirmed);
        self
    }

    fn probation(mut self, ms: i64) -> Scenario {
        self.start.processes.iter_mut().for_each(|process| process.deployment.probation_ms = ms);
        self
    }

    /// Lets the host of the first lane crash once, at any time.
    fn crash(mut self) -> Scenario {
        self.start.processes[0].lane.crashes = 1;
        self
    }

    fn with(mut self, fault: Fault) -> Scenario {
        self.fault = fault;
        self
    }

    fn records(&self, lane: &Lane) -> impl Iterator<Item = AppendTime> {
        self.batches[usize::from(lane.holder.0)].iter().flat_map(|batch| batch.iter()).copied().map(AppendTime::at)
    }

    /// The lane's next batch.
    fn batch(&self, lane: &Lane) -> Option<Vec<AppendTime>> {
        let mut before = 0;
        for batch in self.batches[usize::from(lane.holder.0)] {
            if before + batch.len() > lane.folds.len() {
                return Some(batch[lane.folds.len() - before..].iter().copied().map(AppendTime::at).collect());
            }
            before += batch.len();
        }
        None
    }
}

// ---- what a process does in its phase

/// Ways in which a turn may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Go,
    /// Does not look for news.
    Skip,
    /// The lane's host crashes, and another one takes over.
    Crash,
}

impl Scenario {
    /// The states to which a process can bring the world by one turn.
    fn turns(&self, world: &World, which: usize) -> Vec<World> {
        let process = &world.processes[which];
        let mut choices = vec![Choice::Go];
        match process.phase {
            Phase::Done => return Vec::new(),
            Phase::LastLook if world.processes[2..].iter().any(|deployer| deployer.phase != Phase::Done) => {
                return Vec::new();
            }
            Phase::Look if process.answers.is_empty() => choices.push(Choice::Skip),
            _ => {}
        }
        if process.lane.crashes > 0 {
            choices.push(Choice::Crash);
        }
        choices.into_iter().map(|choice| self.turn(world.clone(), which, choice)).collect()
    }

    fn turn(&self, mut world: World, which: usize, choice: Choice) -> World {
        let process = &mut world.processes[which];
        if choice == Choice::Crash {
            process.lane.crashes -= 1;
            process.lane.holder.1 += 1;
            (process.phase, process.lane.view) = (Phase::Open, None);
            process.answers.clear();
            return world;
        }
        let turn = Turn {
            store: RefCell::new(&mut world.store),
            answers: RefCell::new(std::mem::take(&mut process.answers)),
            replayed: Cell::new(0),
            performed: Cell::new(choice == Choice::Skip),
            fault: self.fault,
        };
        let mut after = process.clone();
        match self.phase(&turn, &mut after, choice) {
            Ok(phase) => *process = Process { phase, ..after },
            Err(Stop) => process.answers = turn.answers.into_inner(),
        }
        world
    }

    /// Runs the phase; which one follows.
    fn phase(&self, turn: &Turn<'_>, process: &mut Process, choice: Choice) -> Result<Phase, Stop> {
        let lane = &mut process.lane;
        match process.phase {
            Phase::Open => self.open(turn, lane),
            Phase::Reserve => self.reserve(turn, lane),
            Phase::Probation => {
                let last = *self.batch(lane).unwrap().last().unwrap();
                if self.fault != Fault::FoldsPastProbation {
                    lane.view.as_mut().unwrap().end_probation(turn, last)?;
                }
                Ok(Phase::Look)
            }
            Phase::Look | Phase::LastLook => {
                let view = lane.view.as_mut().unwrap();
                if choice != Choice::Skip {
                    view.learn(turn)?;
                    view.read_verdict(turn)?;
                }
                if view.rewind().is_some() {
                    return Ok(Phase::Open);
                }
                if process.phase == Phase::LastLook {
                    return Ok(Phase::Done);
                }
                let batch = self.batch(lane).unwrap();
                lane.folds.extend(batch.iter().map(|_| lane.logic));
                Ok(if self.batch(lane).is_some() { Phase::Reserve } else { Phase::LastLook })
            }
            Phase::Create(when, left) => {
                let now = AppendTime::at(NOW);
                match attempt(turn, &mut process.deployment, when, now)? {
                    Attempt::TooLate if left > 1 => Ok(Phase::Create(when.later(), left - 1)),
                    Attempt::TooLate | Attempt::Refused(_) | Attempt::Created(..) => Ok(Phase::Done),
                }
            }
            Phase::Reprocess => {
                let created = attempt_reprocess(turn, &mut process.deployment)?;
                Ok(created.map_or(Phase::Reprocess, |_| Phase::Done))
            }
            Phase::Withdraw => {
                let all = all(turn)?;
                let last = in_force(&all).expect("deployment 0 holds");
                if withdrawable(last, last.n).is_ok() {
                    withdraw(turn, last.n, &Attribution::default())?;
                }
                Ok(Phase::Done)
            }
            Phase::Done => unreachable!("has no turn"),
        }
    }

    fn open(&self, turn: &Turn<'_>, lane: &mut Lane) -> Result<Phase, Stop> {
        let all = all(turn)?;
        let first = first(&all).expect("deployment 0 holds").n;
        let gone = |n: u64| n < first || all[usize::try_from(n).unwrap()].outcome == Outcome::Withdrawn;
        let kept = lane.folds.iter().position(|&n| gone(n)).unwrap_or(lane.folds.len());
        lane.folds.truncate(kept);
        lane.logic = lane.folds.last().copied().unwrap_or(first);
        lane.view = Some(View::open(turn, &lane.holder, lane.logic)?.0);
        Ok(if self.batch(lane).is_some() { Phase::Reserve } else { Phase::LastLook })
    }

    /// Reserves, folds what lies before each T that is due, and enters the deployment there.
    fn reserve(&self, turn: &Turn<'_>, lane: &mut Lane) -> Result<Phase, Stop> {
        let mut batch = self.batch(lane).unwrap();
        let last = *batch.last().unwrap();
        let view = lane.view.as_mut().unwrap();
        if Some(last) > view.reserved() {
            let until = after(last, self.ahead_ms);
            if self.fault == Fault::ReadsBeforeReserving {
                view.learn(turn)?;
                turn.reserve(&lane.holder, Some(until))?;
                view.reserved = Some(until);
            } else {
                view.reserve(turn, &lane.holder, until)?;
            }
        }
        while let Some(t) = view.due(last) {
            let split = batch.partition_point(|&record| record < t);
            lane.folds.extend(batch.drain(..split).map(|_| lane.logic));
            lane.logic = view.enter();
        }
        Ok(Phase::Probation)
    }

    // ---- what must hold

    /// Which invariant is broken in this state, if one is.
    fn broken(&self, world: &World) -> Option<String> {
        let store = &world.store;
        for lane in world.processes[..2].iter().map(|process| &process.lane) {
            for (record, &n) in self.records(lane).zip(&lane.folds) {
                let later = n + 1..store.deployments.len() as u64;
                let mut later = later.map(|m| (m, store.deployment(m).unwrap().t));
                let is_former_history = later.clone().any(|(_, t)| t.is_none());
                let missed = later.find(|&(m, t)| store.holds(m) && t.is_some_and(|t| t <= record));
                if let Some((m, _)) = missed.filter(|_| !is_former_history) {
                    return Some(format!("I9: deployment {n} folded {record:?}, which is deployment {m}'s"));
                }
                let Model { t, probation_ms } = store.deployment(n).unwrap();
                if t.is_some() && store.outcomes.get(&n) != Some(&Outcome::Confirmed) {
                    return Some(format!("I9: deployment {n} folded {record:?} and is not confirmed"));
                }
                let is_past = t.is_some_and(|t| probation_ms > 0 && after(t, probation_ms) <= record);
                if is_past && store.verdicts.get(&n) != Some(&Verdict::Kept) {
                    return Some(format!("I10: deployment {n} folded {record:?}, past its probation, and is not kept"));
                }
            }
        }
        None
    }

    /// The same when no process has a turn left.
    fn broken_end(&self, world: &World) -> Option<String> {
        for process in &world.processes {
            assert_eq!(process.phase, Phase::Done, "every process comes to its end");
        }
        for lane in world.processes[..2].iter().map(|process| &process.lane) {
            let truth: Vec<u64> = self.records(lane).map(|record| world.store.truth(record)).collect();
            if lane.folds != truth {
                return Some(format!("end: lane {} folded by {:?}, not by {truth:?}", lane.holder.0, lane.folds));
            }
        }
        None
    }
}

// ---- the enumeration

#[derive(Debug, Default, PartialEq, Eq)]
struct Visited {
    states: usize,
    ends: usize,
    schedules: u128,
    /// Ends by what became of the deployments: how many of them were confirmed, voided and withdrawn.
    outcomes: BTreeMap<[usize; 3], usize>,
}

struct Search<'a> {
    scenario: &'a Scenario,
    /// Schedules from a state on, by the state's hash.
    known: HashMap<u128, u128>,
    visited: Visited,
}

impl Search<'_> {
    fn schedules(&mut self, world: &World) -> Result<u128, String> {
        let hash = hash(world);
        if let Some(schedules) = self.known.get(&hash) {
            return Ok(*schedules);
        }
        if let Some(broken) = self.scenario.broken(world) {
            return Err(broken);
        }
        self.visited.states += 1;
        let mut schedules = 0;
        for which in 0..world.processes.len() {
            for next in self.scenario.turns(world, which) {
                schedules += self.schedules(&next)?;
            }
        }
        if schedules == 0 {
            self.end(world)?;
            schedules = 1;
        }
        self.known.insert(hash, schedules);
        Ok(schedules)
    }

    fn end(&mut self, world: &World) -> Result<(), String> {
        let store = &world.store;
        if let Some(broken) = self.scenario.broken_end(world) {
            return Err(broken);
        }
        self.visited.ends += 1;
        let is = |wanted: Outcome| store.outcomes.values().filter(|outcome| **outcome == wanted).count();
        let withdrawn = (0..store.deployments.len() as u64).filter(|&n| store.is_withdrawn(n)).count();
        let outcomes = [is(Outcome::Confirmed), is(Outcome::Voided), withdrawn];
        *self.visited.outcomes.entry(outcomes).or_default() += 1;
        Ok(())
    }
}

fn hash(world: &World) -> u128 {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        (seed, world).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// Every state of the scenario; the first broken invariant, if there is one.
fn enumerate(scenario: &Scenario) -> Result<Visited, String> {
    let mut search = Search { scenario, known: HashMap::new(), visited: Visited::default() };
    let schedules = search.schedules(&scenario.start)?;
    let visited = Visited { schedules, ..search.visited };
    println!("{visited:?}");
    Ok(visited)
}

const SOON: When = When::AsSoonAsPossible { margin_ms: 2 };

#[test]
fn i9_try() {
    for s in [
        Scenario::new([&[&[5], &[15]], &[&[5], &[15]]], [Phase::Create(SOON, ATTEMPTS), Phase::Create(SOON, ATTEMPTS)]),
    ] {
        let began = std::time::Instant::now();
        let v = enumerate(&s);
        println!("{v:?} {:?}", began.elapsed());
    }
}
