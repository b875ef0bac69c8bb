//! The machine below a host: its clocks, its threads, and waiting. A simulation replaces it for the threads that it starts, so that a host, with all
//! its threads, runs on simulated time and in an order that a seed decides. Without a simulation each function is the system's own.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a simulated thread looks for a message, at first; and at last, after it has waited for a while.
const POLL: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(64)];

/// A simulated machine. Its threads take turns: one runs until it waits.
pub trait Machine: Send + Sync {
    /// Returns the wall-clock time, milliseconds since 1970 UTC. It may jump in both directions.
    fn now_ms(&self) -> i64;
    /// Returns the time since a fixed origin. It never decreases.
    fn monotonic(&self) -> Duration;
    /// Lets the other threads run until this time has passed.
    fn pause(&self, time: Duration);
    /// Starts a thread on this machine.
    fn spawn(self: Arc<Self>, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()>;
    /// Returns a number that differs between calls.
    fn random(&self) -> u64;
    /// Whether this fault is planted in the host, for the simulation to find.
    fn plants(&self, fault: Planted) -> bool;
}

/// A fault that a simulation plants in a host, to show that it would find it. Only programs that are built with debug assertions have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// A checkpoint is written before the sink has acknowledged what it covers.
    CheckpointBeforeAcknowledgement,
    /// Offsets are committed before the state is written.
    OffsetsBeforeState,
    /// A checkpoint forgets a file that a withdrawal would need.
    UndoForgetsFile,
    /// Floors are not made durable.
    FloorNotKept,
    /// A lane reads the deployments before it reserves.
    ReservationAfterRead,
    /// What a row replaces is noted after the row was written.
    ImageAfterRow,
    /// Strikes are not journalled.
    StrikeNotJournalled,
    /// The frontier is not made durable before rows that rest on a bet leave.
    FrontierNotKept,
    /// The merge releases records although a partition is silent.
    MergeReleasedEarly,
    /// A key's timer fires after the event that should have found it fired.
    TimerAfterEvent,
    /// A withdrawn deployment stays among those that are to come.
    WithdrawnStaysAhead,
    /// A start looks at the verdict on a deployment a second time, after it has decided by it.
    VerdictReadTwice,
    /// A write of a host that lost its lane is accepted.
    NoFencing,
    /// A retried write has the timestamp of the first attempt.
    RetryReusesTimestamp,
    /// A write has a timestamp of the host's clock, and nobody is asked who owns the lane.
    WriteAsksNobody,
    /// The frontier of a lane is written into the journal of another one.
    FrontierOfWrongLane,
    /// Rows of a deployment stay in the sink that was withdrawn before a lane, started again, reached it a second time.
    RowsOutliveWithdrawal,
    /// Rows leave although another host may have taken over before their records were read, and decided another order.
    RowsLeaveUnproved,
    /// A journal loses its last write in a crash.
    JournalLosesWrite,
    /// A host that claims a journal does not look whether its claim lies at the end.
    ClaimUnchecked,
    /// A start does not look whether it still owns the journal once it owns the state.
    JournalNotConfirmed,
    /// A start folds by its own configuration, although another host has begun the pipeline with another one.
    BeginsAsItsOwn,
    /// A lane that another host took over is not opened again, although the group assigns it to this one.
    LaneNotOpenedAgain,
    /// A deployment follows one whose state it cannot read, because that one was created after the check.
    StateUnchecked,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 24] = [
        Planted::CheckpointBeforeAcknowledgement,
        Planted::OffsetsBeforeState,
        Planted::UndoForgetsFile,
        Planted::FloorNotKept,
        Planted::ReservationAfterRead,
        Planted::ImageAfterRow,
        Planted::StrikeNotJournalled,
        Planted::FrontierNotKept,
        Planted::MergeReleasedEarly,
        Planted::TimerAfterEvent,
        Planted::WithdrawnStaysAhead,
        Planted::VerdictReadTwice,
        Planted::NoFencing,
        Planted::RetryReusesTimestamp,
        Planted::WriteAsksNobody,
        Planted::FrontierOfWrongLane,
        Planted::RowsOutliveWithdrawal,
        Planted::RowsLeaveUnproved,
        Planted::JournalLosesWrite,
        Planted::ClaimUnchecked,
        Planted::JournalNotConfirmed,
        Planted::BeginsAsItsOwn,
        Planted::LaneNotOpenedAgain,
        Planted::StateUnchecked,
    ];
}

thread_local! {
    static MACHINE: RefCell<Option<Arc<dyn Machine>>> = const { RefCell::new(None) };
}

/// Runs this thread on a simulated machine from now on.
pub fn enter(machine: Arc<dyn Machine>) {
    MACHINE.set(Some(machine));
}

/// Returns the simulated machine that this thread runs on.
pub(crate) fn simulated() -> Option<Arc<dyn Machine>> {
    MACHINE.with_borrow(Clone::clone)
}

/// Whether a fault is planted. Never in a release.
pub(crate) fn plants(fault: Planted) -> bool {
    cfg!(debug_assertions) && simulated().is_some_and(|machine| machine.plants(fault))
}

/// Returns a number that no other call returns, in this process or another one.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    simulated().map_or_else(|| RandomState::new().hash_one(0u8), |machine| machine.random())
}

/// Returns the seeds of this process's hash tables: random ones, but those of a simulation are the same in each process, so that it can be repeated.
pub(crate) fn seeds() -> (u64, u64) {
    if simulated().is_some() { (0x6b65_7966_6f6c_6421, 1) } else { (random(), random()) }
}

/// A thread of a host.
#[derive(Debug)]
pub struct Thread<T> {
    handle: Handle<T>,
}

#[derive(Debug)]
enum Handle<T> {
    Real(JoinHandle<T>),
    Simulated { result: Receiver<std::thread::Result<T>>, over: Arc<AtomicBool> },
}

/// Starts a thread, on the machine of the thread that calls.
pub(crate) fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    let name = name.into();
    let Some(machine) = simulated() else {
        let handle = Handle::Real(std::thread::Builder::new().name(name).spawn(body)?);
        return Ok(Thread { handle });
    };
    let (tell, result) = std::sync::mpsc::channel();
    let over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&over);
    let body = move || {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        let _ = tell.send(ended); // nobody may be left to join
        ends.store(true, Ordering::SeqCst);
    };
    machine.spawn(&name, Box::new(body))?;
    Ok(Thread { handle: Handle::Simulated { result, over } })
}

impl<T> Thread<T> {
    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        match &self.handle {
            Handle::Real(handle) => handle.is_finished(),
            Handle::Simulated { over, .. } => over.load(Ordering::SeqCst),
        }
    }

    /// Waits for its end. Fails with what it panicked with.
    pub fn join(self) -> std::thread::Result<T> {
        match self.handle {
            Handle::Real(handle) => handle.join(),
            Handle::Simulated { result, .. } => {
                receive(&result).unwrap_or_else(|| Err(Box::new("the thread never ran")))
            }
        }
    }

    /// Ends its pause in [`park`].
    pub fn unpark(&self) {
        if let Handle::Real(handle) = &self.handle {
            handle.thread().unpark();
        }
    }
}

/// Work that is done beside the thread that began it.
#[derive(Debug)]
pub struct Task<T>(Receiver<T>);

/// Begins work that waits for nothing but requests to an object store: on the runtime, or on a thread of the simulated machine.
pub(crate) fn background<T: Send + 'static>(
    runtime: &tokio::runtime::Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> io::Result<Task<T>> {
    let (tell, result) = std::sync::mpsc::channel();
    let work = async move {
        let _ = tell.send(work.await); // nobody may be left who waits
    };
    if simulated().is_none() {
        drop(runtime.spawn(work));
    } else {
        let runtime = runtime.clone();
        spawn("state", move || runtime.block_on(work))?;
    }
    Ok(Task(result))
}

impl<T> Task<T> {
    /// Returns the result if it is there, once. Fails if the work panicked or was given up.
    pub fn take(&self) -> Result<Option<T>, GivenUp> {
        match self.0.try_recv() {
            Ok(result) => Ok(Some(result)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(GivenUp),
        }
    }

    /// Waits for the result; none if the work panicked or was given up.
    pub fn wait(&self) -> Option<T> {
        receive(&self.0)
    }
}

/// Work that ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp;

/// Pauses until this time has passed or the thread is unparked.
pub(crate) fn park(time: Duration) {
    match simulated() {
        Some(machine) => machine.pause(time),
        None => std::thread::park_timeout(time),
    }
}

/// Waits for a message; none once no sender is left.
pub(crate) fn receive<T>(inbox: &Receiver<T>) -> Option<T> {
    let Some(machine) = simulated() else { return inbox.recv().ok() };
    let mut pause = POLL[0];
    loop {
        match inbox.try_recv() {
            Ok(message) => return Some(message),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => machine.pause(pause),
        }
        pause = (pause * 2).min(POLL[1]);
    }
}

/// Locks a mutex whose holder may wait for something outside meanwhile.
///
/// # Panics
/// If a thread panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    if let Some(machine) = simulated() {
        loop {
            match mutex.try_lock() {
                Err(TryLockError::WouldBlock) => machine.pause(POLL[0]),
                guard => return guard.expect("nobody panics while holding it"),
            }
        }
    }
    mutex.lock().expect("nobody panics while holding it")
}
