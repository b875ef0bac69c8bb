//! All interleavings of two lanes and two deployers, stopped after every operation on the store, and checked for I9 and I10.
//!
//! The processes run the procedures of [`super`] on a model of the objects. An operation whose answer cannot change any more commutes with
//! every other one, so it shares a turn with the one before. Each state is visited once; schedules are counted over the graph of states.
//! For each planted fault the enumeration must find a schedule that breaks an invariant.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::model::{Answer, Fault, Holder, Model, Part, Stop, Store, Turn, hash};
use super::*;

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
    /// How much of the news it has used up.
    heard: usize,
    logic: u64,
    /// By which deployment the first records were folded.
    folds: Vec<u64>,
    /// How often its host may still crash.
    crashes: u8,
}

#[derive(Clone, Debug)]
struct World {
    store: Part<Store>,
    processes: [Part<Process>; 4],
}

impl World {
    fn hash(&self) -> u128 {
        let [a, b, c, d] = self.processes.each_ref().map(|process| process.hash);
        hash(&[self.store.hash, a, b, c, d])
    }

    fn are_deployers_done(&self) -> bool {
        self.processes[2..].iter().all(|deployer| deployer.phase == Phase::Done)
    }
}

/// What does not change from state to state.
struct Scenario {
    /// Append times of each lane's records, by batch.
    batches: [&'static [&'static [i64]]; 2],
    /// How far past a batch a lane reserves.
    ahead_ms: i64,
    /// Whether lanes may look for news before they fold, and not only after.
    news: bool,
    /// Whether lanes may open again, and holders of reservations so change.
    reopens: bool,
    fault: Fault,
    start: World,
}

/// By the clock of the deployers.
const NOW: i64 = 1;

impl Scenario {
    fn new(batches: [&'static [&'static [i64]]; 2], deployers: [Phase; 2]) -> Scenario {
        let deployment = Model { t: None, probation_ms: 0 };
        let process = |phase, lane: Lane| Process { phase, answers: Vec::new(), lane, deployment };
        let lane = |n| process(Phase::Open, Lane { holder: (n, 0), ..Lane::default() });
        let [one, other] = deployers.map(|phase| process(phase, Lane::default()));
        let processes = [lane(0), lane(1), one, other].map(Part::new);
        let verdicts = BTreeMap::from([(0, Verdict::Kept)]);
        let store = Store { deployments: vec![deployment], verdicts, ..Store::default() };
        Scenario {
            batches,
            ahead_ms: 5,
            news: false,
            reopens: false,
            fault: Fault::None,
            start: World { store: Part::new(store), processes },
        }
    }

    /// Puts a deployment that was confirmed before, with a probation.
    fn deployed(mut self, t: i64, probation_ms: i64) -> Scenario {
        let mut store = Store::clone(&self.start.store);
        store.outcomes.insert(store.deployments.len() as u64, Outcome::Confirmed);
        store.deployments.push(Model { t: Some(AppendTime::at(t)), probation_ms });
        self.start.store = Part::new(store);
        self.reopens = true;
        self
    }

    fn probation(mut self, ms: i64) -> Scenario {
        for part in &mut self.start.processes {
            let mut process = Process::clone(part);
            process.deployment.probation_ms = ms;
            *part = Part::new(process);
        }
        self
    }

    /// Lets the host of the first lane crash once, at any time.
    fn crash(mut self) -> Scenario {
        let mut process = Process::clone(&self.start.processes[0]);
        process.lane.crashes = 1;
        self.start.processes[0] = Part::new(process);
        self.reopens = true;
        self
    }

    /// Opens both lanes before anything else.
    fn opened(mut self) -> Scenario {
        for lane in 0..2 {
            while self.start.processes[lane].phase == Phase::Open {
                self.start = self.turn(self.start.clone(), lane, Choice::Go);
            }
        }
        self
    }

    /// Lets lanes look for news before they fold.
    fn news(mut self) -> Scenario {
        self.news = true;
        self
    }

    fn rewinds(mut self) -> Scenario {
        self.reopens = true;
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
            Phase::LastLook if !world.are_deployers_done() => {
                return Vec::new();
            }
            Phase::Look if !self.news => choices = vec![Choice::Skip],
            Phase::Look if process.answers.is_empty() => choices.push(Choice::Skip),
            _ => {}
        }
        if process.lane.crashes > 0 {
            choices.push(Choice::Crash);
        }
        choices.into_iter().map(|choice| self.turn(world.clone(), which, choice)).collect()
    }

    fn turn(&self, mut world: World, which: usize, mut choice: Choice) -> World {
        let are_deployers_done = world.are_deployers_done();
        let is_over = |lane: usize| matches!(world.processes[lane].phase, Phase::LastLook | Phase::Done);
        let have_reserved = [0, 1].map(|lane| !self.reopens && is_over(lane));
        let mut process = Process::clone(&world.processes[which]);
        if choice == Choice::Crash {
            process.lane.crashes -= 1;
            process.lane.holder.1 += 1;
            (process.phase, process.lane.view) = (Phase::Open, None);
            process.answers.clear();
            world.processes[which] = Part::new(process);
            return world;
        }
        let (store, performed) = (RefCell::new(Rc::clone(&world.store.value)), Cell::new(false));
        // Steps without an operation are part of the turn before, if they leave no choice.
        loop {
            let turn = Turn {
                fault: self.fault,
                holders_stay: !self.reopens,
                store: &store,
                answers: RefCell::new(std::mem::take(&mut process.answers)),
                replayed: Cell::new(0),
                performed: &performed,
                are_deployers_done,
                have_reserved,
            };
            let mut lane = process.lane.clone();
            match self.phase(&turn, &process, &mut lane, choice) {
                Ok(phase) => (process.phase, process.lane) = (phase, lane),
                Err(Stop) => {
                    process.answers = turn.answers.into_inner();
                    break;
                }
            }
            match process.phase {
                Phase::Done | Phase::LastLook => break,
                Phase::Look if self.news => break,
                Phase::Look => choice = Choice::Skip,
                _ => choice = Choice::Go,
            }
        }
        let store = store.into_inner();
        if !Rc::ptr_eq(&store, &world.store.value) {
            world.store = Part { hash: hash(&*store), value: store };
        }
        world.processes[which] = Part::new(process);
        world
    }

    /// Runs the phase; which one follows.
    fn phase(&self, turn: &Turn<'_>, process: &Process, lane: &mut Lane, choice: Choice) -> Result<Phase, Stop> {
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
                    let news = turn.news()?;
                    if news != lane.heard {
                        lane.heard = news;
                        view.learn(turn)?;
                        view.read_verdicts(turn)?;
                    }
                }
                if view.rewind().is_some() {
                    assert!(self.reopens, "lanes rewind in scenarios that say so");
                    lane.holder.1 += 1;
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
                match attempt(turn, &mut process.deployment.clone(), when, now)? {
                    Attempt::TooLate if left > 1 => Ok(Phase::Create(when.later(), left - 1)),
                    Attempt::TooLate | Attempt::Refused(_) | Attempt::Created(..) => Ok(Phase::Done),
                }
            }
            Phase::Reprocess => {
                let created = attempt_reprocess(turn, &mut process.deployment.clone())?;
                Ok(created.map_or(Phase::Reprocess, |_| Phase::Done))
            }
            Phase::Withdraw => {
                let all = all(turn)?;
                let last = in_force(&all).expect("deployment 0 holds");
                if withdrawable(last, last.n).is_ok() {
                    withdraw(turn, last.n, &Author::default())?;
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
        (lane.view, lane.heard) = (Some(View::open(turn, &lane.holder, lane.logic, BTreeSet::new())?.0), 0);
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

#[derive(Debug, Default)]
struct Visited {
    states: usize,
    ends: usize,
    schedules: f64,
    /// Ends by what became of the deployments: how many of them were confirmed, voided and withdrawn.
    outcomes: BTreeMap<[usize; 3], usize>,
}

struct Search<'a> {
    scenario: &'a Scenario,
    /// Schedules from a state on, by the state's hash.
    known: HashMap<u128, f64>,
    visited: Visited,
}

impl Search<'_> {
    fn schedules(&mut self, world: &World) -> Result<f64, String> {
        let hash = world.hash();
        if let Some(schedules) = self.known.get(&hash) {
            return Ok(*schedules);
        }
        if let Some(broken) = self.scenario.broken(world) {
            return Err(broken);
        }
        self.visited.states += 1;
        let mut schedules = 0.0;
        for which in 0..world.processes.len() {
            for next in self.scenario.turns(world, which) {
                schedules += self.schedules(&next)?;
            }
        }
        if schedules == 0.0 {
            self.end(world)?;
            schedules = 1.0;
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

/// Every state of the scenario; the first broken invariant, if there is one.
fn enumerate(scenario: &Scenario) -> Result<Visited, String> {
    let mut search = Search { scenario, known: HashMap::new(), visited: Visited::default() };
    let schedules = search.schedules(&scenario.start)?;
    let visited = Visited { schedules, ..search.visited };
    println!(
        "{} states, {} ends {:?}, about {:.1e} schedules",
        visited.states, visited.ends, visited.outcomes, visited.schedules
    );
    Ok(visited)
}

const SOON: When = When::AsSoonAsPossible { margin_ms: 2 };
/// Attempts to create a deployment this often.
const ONCE: Phase = Phase::Create(SOON, 1);
const TWICE: Phase = Phase::Create(SOON, 2);

/// Asserts that no schedule breaks an invariant, how many states there are, and which ends they come to: the ends, by how many deployments
/// were confirmed, voided and withdrawn.
fn check(scenario: Scenario, states: usize, ends: &[([usize; 3], usize)]) {
    let visited = enumerate(&scenario).unwrap_or_else(|broken| panic!("{broken}"));
    assert_eq!((visited.states, visited.ends), (states, ends.iter().map(|(_, ends)| ends).sum()));
    assert!(visited.schedules > 1e5, "{} schedules", visited.schedules);
    assert_eq!(visited.outcomes, ends.iter().copied().collect());
}

/// Asserts that a schedule breaks this invariant.
fn check_broken(scenario: Scenario, invariant: &str) {
    let broken = enumerate(&scenario).expect_err("the planted fault breaks an invariant");
    assert!(broken.starts_with(invariant), "{broken}");
}

fn two_lanes_and_two_deployers() -> Scenario {
    Scenario::new([&[&[5]], &[&[5]]], [ONCE, ONCE]).opened()
}

fn lane_taken_over() -> Scenario {
    Scenario::new([&[&[5]], &[]], [TWICE, Phase::Done]).crash().opened()
}

fn withdrawn_and_passed() -> Scenario {
    Scenario::new([&[&[5], &[9, 15]], &[&[15]]], [Phase::Withdraw, Phase::Withdraw]).deployed(8, 4).opened()
}

#[test]
fn i9_two_lanes_and_two_deployers_agree_in_every_interleaving() {
    let ends = [([0, 1, 0], 1), ([1, 0, 0], 2), ([1, 1, 0], 2), ([2, 0, 0], 3)];
    check(two_lanes_and_two_deployers(), 1_166_932, &ends);
}

#[test]
fn i9_a_deployer_that_comes_too_late_finds_a_later_t() {
    let ends = [([0, 2, 0], 1), ([1, 0, 0], 3), ([1, 1, 0], 3)];
    check(Scenario::new([&[&[5], &[15]], &[&[5]]], [TWICE, Phase::Done]).opened(), 43_945, &ends);
}

#[test]
fn i9_a_lane_that_is_taken_over_loses_no_reservation() {
    check(lane_taken_over(), 14_470, &[([1, 0, 0], 4), ([1, 1, 0], 2)]);
}

#[test]
fn i9_reprocessing_rewinds_every_lane() {
    check(
        Scenario::new([&[&[9]], &[]], [Phase::Reprocess, ONCE]).rewinds().opened(),
        16_432,
        &[([0, 0, 0], 1), ([0, 1, 0], 2), ([1, 0, 0], 4)],
    );
    check(
        Scenario::new([&[&[9]], &[&[9]]], [Phase::Reprocess, Phase::Done]).rewinds().opened(),
        379,
        &[([0, 0, 0], 1)],
    );
}

#[test]
fn i10_a_withdrawn_deployment_never_held_and_nobody_folds_past_a_probation_without_a_verdict() {
    check(withdrawn_and_passed(), 1_153, &[([1, 0, 0], 1), ([1, 0, 1], 1)]);
}

#[test]
fn i10_a_lane_that_hears_of_a_withdrawal_at_any_time_rewinds() {
    let batches: [&[&[i64]]; 2] = [&[&[9], &[10], &[15]], &[&[9], &[15]]];
    check(
        Scenario::new(batches, [Phase::Withdraw, Phase::Done]).deployed(8, 4).news().opened(),
        3_744,
        &[([1, 0, 0], 1), ([1, 0, 1], 1)],
    );
}

#[test]
fn i10_a_deployment_that_is_withdrawn_before_a_lane_reaches_it_folds_nothing() {
    let batches: [&[&[i64]]; 2] = [&[&[5], &[9]], &[&[7], &[9]]];
    check(
        Scenario::new(batches, [Phase::Withdraw, Phase::Done]).deployed(8, 4).news().opened(),
        1_324,
        &[([1, 0, 1], 4)],
    );
}

#[test]
fn i9_a_deployment_after_a_withdrawn_one_begins_at_its_own_t() {
    let batches: [&[&[i64]]; 2] = [&[&[5], &[9], &[30]], &[]];
    let start = Scenario::new(batches, [Phase::Withdraw, Phase::Create(When::At(AppendTime::at(8)), 1)]);
    let ends = [([1, 0, 0], 1), ([1, 0, 1], 2), ([1, 1, 1], 2), ([2, 0, 1], 1)];
    check(start.deployed(20, 4).news().opened(), 6_757, &ends);
}

#[test]
fn i10_a_deployment_that_is_withdrawn_while_a_lane_opens_is_taken_back() {
    let batches: [&[&[i64]]; 2] = [&[&[9], &[10]], &[&[9], &[11]]];
    check(
        Scenario::new(batches, [Phase::Withdraw, Phase::Done]).deployed(8, 4).crash().news().opened(),
        9_676,
        &[([1, 0, 1], 3)],
    );
}

#[test]
fn i10_of_a_withdrawal_and_the_next_deployment_one_comes_first() {
    let batches: [&[&[i64]]; 2] = [&[&[9, 15]], &[]];
    let ends = [([1, 0, 1], 1), ([1, 1, 0], 1), ([1, 1, 1], 1), ([2, 0, 0], 4), ([2, 0, 1], 8)];
    check(Scenario::new(batches, [Phase::Withdraw, ONCE]).deployed(8, 4).probation(4).opened(), 10_087, &ends);
}

#[test]
fn i9_reading_deployments_before_reserving_is_found() {
    check_broken(two_lanes_and_two_deployers().with(Fault::ReadsBeforeReserving), "I9");
}

#[test]
fn i9_judging_by_a_part_of_the_reservations_is_found() {
    check_broken(two_lanes_and_two_deployers().with(Fault::JudgesByOneReservation), "I9");
}

#[test]
fn i9_leaving_out_a_reservation_that_was_taken_over_meanwhile_is_found() {
    check_broken(lane_taken_over().with(Fault::ListsReservationsOnce), "I9");
}

#[test]
fn i10_folding_past_a_probation_without_a_verdict_is_found() {
    check_broken(withdrawn_and_passed().with(Fault::FoldsPastProbation), "I10");
}
