//! Threads that take turns. Each thread of a simulated host is one of the system's, but only one runs at a time, until it waits; then the seed
//! decides which one goes on. Time passes only when every thread waits.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyfold::machine::{self, Machine, Planted};

use crate::support::random::Random;

/// A host's process. Number 0 is the director, which lets things happen.
pub(crate) type ProcessId = u32;

/// The wall clock at the beginning of each simulation, ms since 1970.
pub(crate) const BEGAN_MS: i64 = 1_727_870_000_000;

/// Turns after which a simulation is thought to hang.
const MOST_TURNS: u64 = 1_000_000;

thread_local! {
    static TASK: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Locks a mutex, also one under which a thread of a simulated host panicked: the panic is a finding of its own.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Decides which thread runs.
pub(crate) struct Scheduler {
    turns: Mutex<Turns>,
}

struct Turns {
    random: Random,
    now: Duration,
    tasks: BTreeMap<u64, Task>,
    next_task: u64,
    running: u64,
    taken: u64,
    /// Processes whose threads get no turn.
    frozen: Vec<ProcessId>,
    trace: Option<Vec<String>>,
    digest: u64,
    lines: u64,
}

struct Task {
    process: ProcessId,
    name: String,
    wakes: Duration,
    turn: Arc<Condvar>,
}

impl Scheduler {
    /// Makes the calling thread the only one, the director.
    pub(crate) fn new(seed: u64, traces: bool) -> Arc<Scheduler> {
        TASK.set(0);
        let director = Task { process: 0, name: "director".into(), wakes: Duration::ZERO, turn: Arc::default() };
        let turns = Turns {
            random: Random::new(seed ^ 0x5EED_0F7A_5C4E_D01E),
            now: Duration::ZERO,
            tasks: BTreeMap::from([(0, director)]),
            next_task: 1,
            running: 0,
            taken: 0,
            frozen: Vec::new(),
            trace: traces.then(Vec::new),
            digest: 0,
            lines: 0,
        };
        Arc::new(Scheduler { turns: Mutex::new(turns) })
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        locked(&self.turns)
    }

    /// The time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.turns().now
    }

    /// Turns taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.turns().taken
    }

    /// Notes a line of the trace.
    pub(crate) fn note(&self, process: ProcessId, line: &str) {
        let mut turns = self.turns();
        let task = turns.tasks.get(&turns.running).map(|task| task.name.clone()).unwrap_or_default();
        let line = format!("{:>11.6} {process} {task}: {line}", turns.now.as_secs_f64());
        turns.lines += 1;
        for byte in line.bytes() {
            turns.digest = (turns.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(5);
        }
        if let Some(trace) = &mut turns.trace {
            trace.push(line);
        }
    }

    /// The trace so far: how many lines, their digest, and the lines if they are kept.
    pub(crate) fn trace(&self) -> (u64, u64, Vec<String>) {
        let turns = self.turns();
        (turns.lines, turns.digest, turns.trace.clone().unwrap_or_default())
    }

    /// Lets the other threads run until this time has passed.
    pub(crate) fn pause(&self, time: Duration) {
        let me = TASK.get();
        let mut turns = self.turns();
        let wakes = turns.now + time;
        turns.tasks.get_mut(&me).expect("a thread that pauses is one of these").wakes = wakes;
        let next = turns.choose();
        if next == me {
            return;
        }
        turns.hand_to(next);
        let turn = Arc::clone(&turns.tasks[&me].turn);
        while turns.running != me {
            turns = turn.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts a thread of a process.
    fn spawn(
        self: &Arc<Scheduler>,
        process: &Arc<Process>,
        name: &str,
        body: Box<dyn FnOnce() + Send>,
    ) -> io::Result<()> {
        let turn: Arc<Condvar> = Arc::default();
        let id = {
            let mut turns = self.turns();
            let (id, wakes) = (turns.next_task, turns.now);
            turns.next_task += 1;
            let task = Task { process: process.id, name: name.to_owned(), wakes, turn: Arc::clone(&turn) };
            turns.tasks.insert(id, task);
            id
        };
        let (scheduler, process) = (Arc::clone(self), Arc::clone(process));
        let begin = move || {
            TASK.set(id);
            machine::enter(process);
            {
                let mut turns = scheduler.turns();
                while turns.running != id {
                    turns = turn.wait(turns).unwrap_or_else(PoisonError::into_inner);
                }
            }
            body();
            let mut turns = scheduler.turns();
            turns.tasks.remove(&id);
            let next = turns.choose();
            turns.hand_to(next);
        };
        std::thread::Builder::new().name(name.to_owned()).stack_size(1 << 20).spawn(begin).map(drop)
    }

    /// How many threads a process has.
    pub(crate) fn threads_of(&self, process: ProcessId) -> usize {
        self.turns().tasks.values().filter(|task| task.process == process).count()
    }

    /// Ends the pauses of a process's threads.
    fn wake(&self, process: ProcessId) {
        let mut turns = self.turns();
        let now = turns.now;
        turns.tasks.values_mut().filter(|task| task.process == process).for_each(|task| task.wakes = now);
    }

    /// Gives the threads of a process no more turns, or turns again.
    pub(crate) fn freeze(&self, process: ProcessId, frozen: bool) {
        let mut turns = self.turns();
        turns.frozen.retain(|other| *other != process);
        if frozen {
            turns.frozen.push(process);
        }
    }
}

impl Turns {
    /// Chooses who runs next; lets time pass if everybody waits.
    fn choose(&mut self) -> u64 {
        self.taken += 1;
        if self.taken > MOST_TURNS {
            let tasks: Vec<_> = self.tasks.values().map(|t| (&t.name, t.process, t.wakes)).collect();
            let lines = self.trace.as_deref().unwrap_or_default();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("{last}\na simulation hangs at {:?}: {tasks:?}", self.now);
            std::process::abort();
        }
        let frozen = &self.frozen;
        let awake = |task: &Task| !frozen.contains(&task.process);
        let first = self.tasks.values().filter(|task| awake(task)).map(|task| task.wakes).min();
        self.now = self.now.max(first.expect("the director is never frozen"));
        let now = self.now;
        let ready: Vec<u64> =
            self.tasks.iter().filter(|(_, task)| awake(task) && task.wakes <= now).map(|(id, _)| *id).collect();
        let at = usize::try_from(self.random.below(ready.len() as u64)).expect("below a usize");
        ready[at]
    }

    fn hand_to(&mut self, next: u64) {
        self.running = next;
        self.tasks[&next].turn.notify_one();
    }
}

/// A moment at which a host may stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Records have arrived, and nothing was done about them.
    Arrival,
    /// Other partitions are about to be asked whether they are empty, and some records wait for that.
    Ask,
    /// Rows are about to be written, and no timestamp was chosen for them.
    Write,
}

/// A host's process: its clock, and whether it lives.
pub(crate) struct Process {
    /// Its number.
    pub(crate) id: ProcessId,
    scheduler: Arc<Scheduler>,
    state: Mutex<State>,
    planted: Option<Planted>,
}

struct State {
    dead: bool,
    /// The steps after which it crashes, if it does.
    crashes_after: Option<u64>,
    /// The moments of this kind after which it stands still, if it does; and whether it has come to that.
    freezes_after: Option<(Moment, u64)>,
    has_frozen: bool,
    /// What its wall clock is ahead of the time, ms.
    ahead_ms: i64,
    random: Random,
}

impl Process {
    /// Creates a process that has no threads yet.
    pub(crate) fn new(
        scheduler: &Arc<Scheduler>,
        id: ProcessId,
        (ahead_ms, random): (i64, u64),
        planted: Option<Planted>,
    ) -> Arc<Process> {
        let state = State {
            dead: false,
            crashes_after: None,
            freezes_after: None,
            has_frozen: false,
            ahead_ms,
            random: Random::new(random),
        };
        Arc::new(Process { id, scheduler: Arc::clone(scheduler), state: Mutex::new(state), planted })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Starts its main thread.
    pub(crate) fn start(self: &Arc<Process>, body: impl FnOnce() + Send + 'static) {
        self.scheduler.spawn(self, "main", Box::new(body)).expect("the system has a thread");
    }

    /// Kills it: from now on none of its effects reaches the world.
    pub(crate) fn kill(&self) {
        self.state().dead = true;
        self.scheduler.freeze(self.id, false);
        self.scheduler.wake(self.id);
    }

    /// Lets it crash after so many more steps.
    pub(crate) fn crash_after(&self, steps: u64) {
        self.state().crashes_after = Some(steps);
    }

    /// A step, which lies just before or just after an effect on the world: it may be the last one.
    pub(crate) fn step(&self) {
        let mut state = self.state();
        match state.crashes_after {
            Some(0) => {
                (state.dead, state.crashes_after) = (true, None);
                drop(state);
                self.note("crashes");
                self.kill();
            }
            Some(left) => state.crashes_after = Some(left - 1),
            None => {}
        }
    }

    /// Lets it stand still at such a moment, after so many more of them.
    pub(crate) fn freeze_after(&self, moment: Moment, count: u64) {
        self.state().freezes_after = Some((moment, count));
    }

    /// Lets it go on, and never stand still.
    pub(crate) fn go_on(&self) {
        self.state().freezes_after = None;
        self.scheduler.freeze(self.id, false);
    }

    /// Whether it is to stand still.
    pub(crate) fn will_freeze(&self) -> bool {
        let state = self.state();
        state.freezes_after.is_some() || state.has_frozen
    }

    /// Such a moment has come.
    pub(crate) fn reach(&self, moment: Moment) {
        let mut state = self.state();
        match &mut state.freezes_after {
            Some((of, 0)) if *of == moment => {
                (state.has_frozen, state.freezes_after) = (true, None);
                drop(state);
                self.note("stands still");
                self.scheduler.freeze(self.id, true);
                self.scheduler.pause(Duration::ZERO);
            }
            Some((of, left)) if *of == moment => *left -= 1,
            _ => {}
        }
    }

    /// Whether it stands still by itself since the last call.
    pub(crate) fn has_frozen(&self) -> bool {
        std::mem::take(&mut self.state().has_frozen)
    }

    /// Whether it was killed, or has crashed.
    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Moves its wall clock.
    pub(crate) fn move_clock(&self, by_ms: i64) {
        self.state().ahead_ms += by_ms;
    }

    /// A number below a bound, of the process's own.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.state().random.below(bound)
    }

    /// Whether a fault is planted.
    pub(crate) fn is_planted(&self, fault: Planted) -> bool {
        self.planted == Some(fault)
    }

    /// Notes a line of the trace.
    pub(crate) fn note(&self, line: &str) {
        self.scheduler.note(self.id, line);
    }

    /// The simulation's time.
    pub(crate) fn now(&self) -> Duration {
        self.scheduler.now()
    }
}

impl Machine for Process {
    fn now_ms(&self) -> i64 {
        let since = i64::try_from(self.scheduler.now().as_millis()).unwrap_or(i64::MAX);
        BEGAN_MS + since + self.state().ahead_ms
    }

    fn monotonic(&self) -> Duration {
        self.scheduler.now()
    }

    fn pause(&self, time: Duration) {
        // Until the director has seen that it is dead, its threads do not know that they are to end.
        self.scheduler.pause(if self.is_dead() { time.min(Duration::from_millis(5)) } else { time });
    }

    fn spawn(self: Arc<Self>, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.scheduler.spawn(&self, name, body)
    }

    fn random(&self) -> u64 {
        self.below(u64::MAX)
    }

    fn plants(&self, fault: Planted) -> bool {
        self.is_planted(fault)
    }
}
