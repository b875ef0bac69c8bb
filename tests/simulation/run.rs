//! One simulation: hosts in a world, what happens to them, and the comparison with the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use keyfold::config::Config;
use keyfold::deployment::{Author, Deployment, PipelineLog, Settings};
use keyfold::failure::{Exit, Failure};
use keyfold::machine::Planted;
use keyfold::observe::board::Board;
use keyfold::pipeline::run::{Host, Options};
use keyfold::plugin::Plugin;
use keyfold::plugin::sandbox::Sandbox;
use keyfold::position::TopicId;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::runtime::Runtime;

use crate::broker::{Appended, Topic};
use crate::objects::SeenObjects;
use crate::plan::{CONTENDER, Happening, Plan, Then, describe, plan};
use crate::scheduler::{BEGAN_MS, Process, ProcessId, Scheduler, locked};
use crate::support::generate::TestRecord;
use crate::support::model::Late;
use crate::support::random::Random;
use crate::table::Table;
use crate::truth::{self, Truth};
use crate::world::{Letters, Outside, SeenWorld, Trouble};

/// What came of a simulation.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What must never happen, and did.
    pub(crate) violations: Vec<String>,
    /// The lines of the trace, and their digest.
    pub(crate) lines: u64,
    pub(crate) digest: u64,
    pub(crate) trace: Vec<String>,
    /// The simulated time.
    pub(crate) simulated: Duration,
    /// What it had in it.
    pub(crate) figures: Figures,
}

/// The pause between two looks at whether a host opens its lanes, and how many there are.
const LOOK: Duration = Duration::from_millis(1);
const MOST_LOOKS: u32 = 3_000;

/// What simulations had in them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) hosts: u64,
    pub(crate) kills: u64,
    pub(crate) rows: u64,
    pub(crate) writes: u64,
    pub(crate) records: u64,
    pub(crate) floors: u64,
    pub(crate) deployments: u64,
    pub(crate) withdrawn: u64,
    pub(crate) turns: u64,
}

impl Figures {
    /// Adds those of another simulation.
    pub(crate) fn add(&mut self, other: &Figures) {
        self.hosts += other.hosts;
        self.kills += other.kills;
        self.rows += other.rows;
        self.writes += other.writes;
        self.records += other.records;
        self.floors += other.floors;
        self.deployments += other.deployments;
        self.withdrawn += other.withdrawn;
        self.turns += other.turns;
    }
}

/// What all simulations of this process share, since it costs time and decides nothing.
struct Shared {
    runtime: Runtime,
    sandbox: Sandbox,
    hostile: PathBuf,
    cache: PathBuf,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let built = |folder: &std::path::Path| folder.join("plugins/wasm32-unknown-unknown/plugin/hostile.wasm");
        let program = std::env::current_exe().expect("a program has a path");
        let target = program.ancestors().find(|folder| built(folder).exists()).expect("the build has made the plugins");
        let cache = target.join("simulation-cache");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it starts");
        let hostile = built(target);
        let config = Config::from_toml(&first_config(&hostile, &cache), target, std::iter::empty());
        let sandbox = Sandbox::new(&config.expect("it is valid")).expect("there is memory for it");
        Shared { runtime, sandbox, hostile, cache }
    })
}

fn first_config(hostile: &std::path::Path, cache: &std::path::Path) -> String {
    toml(hostile, cache, "[state]\nurl = \"file:///simulated\"\n[run]\nworkers = 2", "ok", "")
}

fn toml(hostile: &std::path::Path, cache: &std::path::Path, settings: &str, mode: &str, mark: &str) -> String {
    format!(
        "name = \"simulated\"\n[source.kafka]\nbrokers = \"simulated:1\"\ntopic = \"t\"\n{settings}\n[plugin]\ncomponent = {hostile:?}\n\
         config = {{ mode = {mode:?}, mark = {mark:?} }}\ncache = {cache:?}\n[sink.discard]\n[dead_letters]\ntopic = \"letters\"\n"
    )
}

/// The settings of a host, as its configuration file says them. What decides no row differs between hosts.
fn config(plan: &Plan, mark: &str, random: &mut Random) -> Config {
    let shared = shared();
    let time = &plan.time;
    let idle = time.idle_timeout_ms.map_or(String::new(), |ms| format!("idle_timeout = \"{ms}ms\"\n"));
    let settings = format!(
        "ordering = {:?}\n[time]\nout_of_orderness = \"{}ms\"\nlate = {:?}\nclock_skew = \"{}ms\"\n{idle}[state]\nurl = \"file:///simulated\"\n\
         checkpoint_interval = \"{}ms\"\n[run]\nworkers = 2\nbatch_records = {}",
        if plan.by_partition { "partition" } else { "topic" },
        time.out_of_orderness_ms,
        if time.late == Late::Drop { "drop" } else { "process" },
        plan.clock_skew_ms,
        100 + random.below(3_000),
        1 + random.below(60)
    );
    let (mode, mark) = match mark.strip_prefix("mode=") {
        Some(mode) => (mode, ""),
        None => (plan.mode.name(), mark),
    };
    let text = toml(&shared.hostile, &shared.cache, &settings, mode, mark);
    Config::from_toml(&text, "".as_ref(), std::iter::empty()).expect("it is valid")
}

/// A host that was started.
struct Started {
    process: Arc<Process>,
    board: Arc<Board>,
    ended: Arc<Mutex<Option<Result<(), Failure>>>>,
    /// Whether it may end by itself, since another host takes over.
    replaced: bool,
}

struct Simulation {
    plan: Plan,
    scheduler: Arc<Scheduler>,
    random: Random,
    outside: Arc<Outside>,
    plugins: BTreeMap<&'static str, Arc<Plugin>>,
    planted: Option<Planted>,
    next_process: ProcessId,
    hosts: Vec<Started>,
    ahead_ms: i64,
    /// Processes of clients.
    clients: Vec<ProcessId>,
    /// Deployments that are being created.
    ordered: Vec<Ordered>,
    /// The number of the last deployment that was created on probation.
    last_on_probation: Option<u64>,
    /// When what is decided on which deployment.
    later: Vec<(Duration, u64, Then)>,
    violations: Vec<String>,
    figures: Figures,
}

/// A deployment that is being created.
struct Ordered {
    /// Its number, once it is known, unless it was refused.
    n: Arc<Mutex<Option<Option<u64>>>>,
    /// What is decided on it, and when.
    then: Option<(Duration, Then)>,
    /// Whether it can be withdrawn.
    on_probation: bool,
}

/// What is simulated: a seed, less what has proved not to matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) planted: Option<Planted>,
    /// Of what happens, by its place in the plan, what is left out.
    pub(crate) without: BTreeSet<usize>,
    /// Whether all requests arrive at once, and are answered.
    pub(crate) calm: bool,
}

impl Case {
    /// What the seed's plan is.
    fn plan(&self) -> Plan {
        let mut plan = plan(self.seed);
        let all = std::mem::take(&mut plan.happenings).into_iter().enumerate();
        plan.happenings = all.filter(|(at, _)| !self.without.contains(at)).map(|(_, happening)| happening).collect();
        if self.calm {
            plan.trouble = Trouble::default();
        }
        plan
    }

    /// How many things happen.
    pub(crate) fn happenings(&self) -> usize {
        self.plan().happenings.len()
    }

    /// The least of it that still fails: what is left out makes no difference.
    pub(crate) fn shrunk(self) -> Case {
        let fails = |case: &Case| !simulate(case, false).violations.is_empty();
        let mut least = self;
        let calm = Case { calm: true, ..least.clone() };
        if fails(&calm) {
            least = calm;
        }
        // What one left out may make another one superfluous, so all are tried again until none is.
        loop {
            let before = least.without.len();
            for at in 0..plan(least.seed).happenings.len() {
                let mut case = least.clone();
                if case.without.insert(at) && fails(&case) {
                    least = case;
                }
            }
            if least.without.len() == before {
                return least;
            }
        }
    }
}

/// Simulates a case.
pub(crate) fn simulate(case: &Case, traces: bool) -> Outcome {
    shared();
    let Case { seed, planted, .. } = *case;
    let scheduler = Scheduler::new(seed, traces);
    let mut plan = case.plan();
    close(&mut plan);
    scheduler.note(0, &describe(&plan));
    let topic = std::mem::replace(
        &mut plan.topic,
        Topic { partitions: Vec::new(), records: Vec::new(), id: TopicId::of(1, 2) },
    );
    let outside = Arc::new(Outside {
        topic: Arc::new(topic),
        table: Arc::default(),
        letters: Arc::default(),
        objects: Arc::new(InMemory::new()),
        disks: Arc::default(),
    });
    let mut simulation = Simulation {
        plan,
        scheduler,
        random: Random::new(seed ^ 0x0D15_EA5E),
        outside,
        plugins: BTreeMap::new(),
        planted,
        next_process: 1,
        hosts: Vec::new(),
        ahead_ms: 0,
        clients: Vec::new(),
        ordered: Vec::new(),
        last_on_probation: None,
        later: Vec::new(),
        violations: Vec::new(),
        figures: Figures::default(),
    };
    simulation.run();
    simulation.outcome()
}

/// Ends the log: a last record in each partition, after everything else, at which all timers are due.
fn close(plan: &mut Plan) {
    let written = plan.length + Duration::from_secs(12);
    let now_ms = BEGAN_MS + i64::try_from(written.as_millis()).expect("short");
    for (partition, records) in plan.topic.partitions.iter().zip(&mut plan.topic.records) {
        let offset = records.last().map_or(0, |r| r.record.offset + 1);
        let key = format!("last{partition}");
        let value = serde_json::json!({"key": key, "time": now_ms + 3_000_000, "v": 1}).to_string().into_bytes();
        let record = TestRecord { partition: partition.0, offset, timestamp: now_ms, key: None, value: Some(value) };
        records.push(Appended { record, written, ends: written, committed: true });
    }
}

impl Simulation {
    fn run(&mut self) {
        self.start(false);
        if self.plan.contested {
            self.start_with(CONTENDER, false);
        }
        let happenings = std::mem::take(&mut self.plan.happenings);
        let mut thaws: Vec<(Duration, ProcessId)> = Vec::new();
        let mut happenings = happenings.into_iter().peekable();
        let end = self.plan.length + Duration::from_secs(15);
        while self.scheduler.now() < end {
            let next =
                [happenings.peek().map(|h| h.0), self.later.iter().map(|l| l.0).min(), thaws.iter().map(|t| t.0).min()];
            let next = next.into_iter().flatten().min().unwrap_or(end).min(end);
            // Hosts that end by themselves are looked at now and then.
            let now = self.scheduler.now();
            let pause = next.saturating_sub(now).min(Duration::from_millis(300));
            self.scheduler.pause(pause);
            self.look();
            self.look_at_deployments();
            let now = self.scheduler.now();
            if let Some((_, happening)) = happenings.next_if(|h| h.0 <= now) {
                self.happen(happening, &mut thaws);
            }
            if let Some(at) = self.later.iter().position(|l| l.0 <= now) {
                let (_, n, then) = self.later.remove(at);
                self.decide(n, then);
            }
            if let Some(at) = thaws.iter().position(|t| t.0 <= now) {
                self.scheduler.freeze(thaws.remove(at).1, false);
            }
            if !self.violations.is_empty() {
                return self.end();
            }
        }
        for (_, process) in thaws {
            self.scheduler.freeze(process, false);
        }
        self.end();
        if self.violations.is_empty() {
            self.settle();
        }
    }

    /// The director reaches the world too: deployments are created and withdrawn by it.
    fn log(&self) -> PipelineLog {
        let objects: Arc<dyn ObjectStore> = Arc::clone(&self.outside.objects) as _;
        PipelineLog::new(objects, shared().runtime.handle().clone())
    }

    fn plugin(&mut self, mark: &'static str) -> Arc<Plugin> {
        let (plan, random) = (&self.plan, &mut self.random);
        Arc::clone(self.plugins.entry(mark).or_insert_with(|| {
            shared().sandbox.load(&config(plan, mark, random)).expect("the plugin takes this configuration")
        }))
    }

    /// Starts a host with the configuration with which the pipeline was begun.
    fn start(&mut self, until_end: bool) {
        let mark = if truth::has_contender(&self.log()) { CONTENDER } else { "" };
        self.start_with(mark, until_end);
    }

    fn start_with(&mut self, mark: &'static str, until_end: bool) {
        let config = config(&self.plan, mark, &mut self.random);
        let plugin = self.plugin(mark);
        let clock = (self.ahead_ms, self.random.next());
        let process = Process::new(&self.scheduler, self.next_process, clock, self.planted);
        self.next_process += 1;
        self.figures.hosts += 1;
        let trouble = if until_end { Trouble::default() } else { self.plan.trouble };
        let world = SeenWorld { outside: Arc::clone(&self.outside), process: Arc::clone(&process), trouble };
        let board = Arc::new(Board::new("simulated", &Arc::default()));
        let ended: Arc<Mutex<Option<Result<(), Failure>>>> = Arc::default();
        let (tell, of_host) = (Arc::clone(&ended), Arc::clone(&board));
        process.start(move || {
            let shared = shared();
            let options = Options { until_end, ..Options::default() };
            let host = Host {
                config: &config,
                options: &options,
                board: &of_host,
                sandbox: &shared.sandbox,
                plugin: &plugin,
                runtime: shared.runtime.handle(),
            };
            let run = std::panic::AssertUnwindSafe(|| host.run(&world).map(drop));
            let outcome = std::panic::catch_unwind(run);
            let outcome = outcome.unwrap_or_else(|_| Err(Failure::unexpected("the host panicked")));
            *locked(&tell) = Some(outcome);
        });
        self.scheduler.note(0, &format!("starts host {}", process.id));
        self.hosts.push(Started { process, board, ended, replaced: false });
        if self.hosts.len() > 1 {
            // Whoever opens the lanes last has them.
            self.hosts.iter_mut().for_each(|host| host.replaced = true);
        }
    }

    /// Looks at hosts that have ended by themselves, and sees to it that there is one.
    fn look(&mut self) {
        for at in (0..self.hosts.len()).rev() {
            let outcome = locked(&self.hosts[at].ended).take();
            let Some(outcome) = outcome else { continue };
            let host = self.hosts.remove(at);
            self.scheduler.note(0, &format!("host {} has ended: {outcome:?}", host.process.id));
            if let Err(failure) = outcome {
                self.judge(&failure, host.replaced);
            }
        }
        if self.hosts.is_empty() && self.violations.is_empty() {
            self.start(false);
        }
    }

    /// Whether a host may end with this.
    fn judge(&mut self, failure: &Failure, replaced: bool) {
        let fenced = failure.exit == Exit::State && failure.message.contains("another host has taken over");
        let store = failure.exit == Exit::Outside
            && (failure.message.contains("does not answer") || failure.message.contains("simulated error"));
        let gone = failure.message.contains("the host was killed") || failure.message.contains("was killed");
        let refused = failure.exit == Exit::Config && failure.message.contains("differ from those in force");
        let may = store || gone || (fenced && replaced) || (refused && self.plan.contested);
        if !may {
            self.violations.push(format!("a host ended with {:?}: {}", failure.exit, failure.message));
        }
    }

    fn happen(&mut self, happening: Happening, thaws: &mut Vec<(Duration, ProcessId)>) {
        self.scheduler.note(0, &format!("{happening:?}"));
        let now = self.scheduler.now();
        match happening {
            Happening::Kill { pause, loses_checkpoints } => {
                self.kill_all();
                self.outside.disks.lose_last_writes();
                if loses_checkpoints {
                    self.lose_checkpoints();
                }
                self.scheduler.pause(pause);
                self.start(false);
                self.decide_soon();
            }
            Happening::Stop => {
                self.stop_all();
                self.start(false);
                self.decide_soon();
            }
            Happening::Freeze { thaws: after } => {
                if let Some(host) = self.hosts.last() {
                    let id = host.process.id;
                    self.scheduler.freeze(id, true);
                    thaws.push((now + after, id));
                    self.start(false);
                }
            }
            Happening::Rival => self.start(false),
            Happening::SlowRival { freezes, thaws: after } => {
                let opened = self.outside.disks.openings();
                self.start(false);
                let id = self.hosts.last().map(|host| host.process.id).expect("it was started");
                match self.random.below(4) {
                    0 => self.scheduler.pause(freezes),
                    more => self.await_openings(opened + usize::try_from(more).expect("few")),
                }
                self.scheduler.freeze(id, true);
                thaws.push((now + freezes + after, id));
                self.start(false);
            }
            Happening::Clock(by_ms) => {
                self.ahead_ms += by_ms;
                self.hosts.iter().for_each(|host| host.process.move_clock(by_ms));
            }
            Happening::Deploy { mark, after_ms, probation_ms, then } => self.deploy(mark, after_ms, probation_ms, then),
        }
    }

    /// Lets some decisions fall while a host starts, which takes some tens of milliseconds, or seconds if requests are slow.
    fn decide_soon(&mut self) {
        let now = self.scheduler.now();
        if self.random.chance(40) {
            return;
        }
        let most = *self.random.pick(&[150, 900, 5_000]);
        let at = now + Duration::from_millis(self.random.below(most));
        self.later.iter_mut().for_each(|later| later.0 = later.0.min(at));
        if let Some(n) = self.last_on_probation.filter(|_| self.random.chance(70)) {
            self.withdraw_while_lanes_open(n);
        }
    }

    /// Withdraws a deployment while a host opens its lanes.
    fn withdraw_while_lanes_open(&mut self, n: u64) {
        self.figures.withdrawn += 1;
        let disks = Arc::clone(&self.outside.disks);
        let from = disks.openings() + 1 + usize::try_from(self.random.below(3)).expect("few");
        let after = Duration::from_millis(self.random.below(60));
        self.client(move |log, process| {
            (0..MOST_LOOKS).take_while(|_| disks.openings() < from).for_each(|_| process.wait(LOOK));
            process.wait(after);
            let withdrawn = log.withdraw(n, &Author::default());
            process.note(&format!("withdraws {n}: {withdrawn:?}"));
        });
    }

    /// Waits until so many more databases were opened.
    fn await_openings(&self, from: usize) {
        (0..MOST_LOOKS).take_while(|_| self.outside.disks.openings() < from).for_each(|_| self.scheduler.pause(LOOK));
    }

    /// Lets a client do something with the deployments, as a process of its own.
    fn client<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&PipelineLog, &Process) -> T + Send + 'static,
    ) -> Arc<Mutex<Option<T>>> {
        let process =
            Process::new(&self.scheduler, self.next_process, (self.ahead_ms, self.random.next()), self.planted);
        self.next_process += 1;
        let (inner, of_client) = (Arc::clone(&self.outside.objects), Arc::clone(&process));
        // A client that is faster than a host does much between two requests of the host.
        let slow = if self.random.chance(90) { 0 } else { self.plan.trouble.slow };
        let trouble = Trouble { faults: self.plan.trouble.faults / 4, slow };
        let objects: Arc<dyn ObjectStore> = Arc::new(SeenObjects { inner, process: Arc::clone(&process), trouble });
        let done: Arc<Mutex<Option<T>>> = Arc::default();
        let tell = Arc::clone(&done);
        self.clients.push(process.id);
        process.start(move || {
            let log = PipelineLog::new(objects, shared().runtime.handle().clone());
            let result = act(&log, &of_client);
            *locked(&tell) = Some(result);
        });
        done
    }

    fn deploy(&mut self, mark: &'static str, after_ms: Option<i64>, probation_ms: i64, then: Option<(Duration, Then)>) {
        let plugin = self.plugin(mark);
        let settings = Settings::of(&config(&self.plan, mark, &mut self.random.clone()), &plugin.digest);
        let deployment = Deployment::of(settings, &plugin, probation_ms, &Author::default());
        let now_ms = BEGAN_MS + i64::try_from(self.scheduler.now().as_millis()).expect("short");
        let done = self.client(move |log, process| {
            if !log.in_force().is_ok_and(|in_force| in_force.is_some()) {
                return None; // no host has begun yet
            }
            let ordered = log.order(deployment, after_ms.map(|after| now_ms + after));
            process.note(&format!("deploys {mark}: {ordered:?}"));
            ordered.ok().map(|(n, _)| n)
        });
        self.ordered.push(Ordered { n: done, then, on_probation: probation_ms > 0 });
    }

    /// Notes which deployments are there, and when they are decided on.
    fn look_at_deployments(&mut self) {
        let now = self.scheduler.now();
        for at in (0..self.ordered.len()).rev() {
            let done = locked(&self.ordered[at].n).take();
            let Some(n) = done else { continue };
            let Ordered { then, on_probation, .. } = self.ordered.remove(at);
            self.figures.deployments += u64::from(n.is_some());
            self.last_on_probation = if on_probation { self.last_on_probation.max(n) } else { self.last_on_probation };
            if let Some((n, (after, then))) = n.zip(then) {
                self.later.push((now + after, n, then));
            }
        }
    }

    fn decide(&mut self, n: u64, then: Then) {
        if then == Then::WithdrawAtRestart {
            self.kill_all();
            self.outside.disks.lose_last_writes();
            self.start(false);
            return self.withdraw_while_lanes_open(n);
        }
        self.figures.withdrawn += u64::from(then == Then::Withdraw);
        self.client(move |log, process| {
            let decided = match then {
                Then::Keep => log.keep(n),
                _ => log.withdraw(n, &Author::default()),
            };
            process.note(&format!("{then:?} {n}: {decided:?}"));
        });
    }

    /// Kills all hosts, and waits until their threads are gone.
    fn kill_all(&mut self) {
        for host in std::mem::take(&mut self.hosts) {
            self.figures.kills += 1;
            host.process.kill();
            host.board.stop().store(true, Ordering::Relaxed); // its threads only have to end
            while self.scheduler.threads_of(host.process.id) > 0 {
                self.scheduler.pause(Duration::from_millis(5));
            }
            let panicked = locked(&host.ended).take();
            if let Some(Err(failure)) = panicked {
                self.judge(&failure, true);
            }
        }
    }

    /// Asks all hosts to stop, and waits until they have.
    fn stop_all(&mut self) {
        self.hosts.iter().for_each(|host| self.scheduler.freeze(host.process.id, false));
        for host in std::mem::take(&mut self.hosts) {
            host.board.stop().store(true, Ordering::Relaxed);
            // A host that is starting stops between two requests here; the program exits.
            let limit = self.scheduler.now() + Duration::from_secs(60 + 10 * self.plan.trouble.slow);
            while self.scheduler.threads_of(host.process.id) > 0 {
                self.scheduler.pause(Duration::from_millis(20));
                if self.scheduler.now() > limit {
                    self.violations.push("a host that was asked to stop did not".into());
                    host.process.kill();
                    host.board.stop().store(true, Ordering::Relaxed);
                }
            }
            let ended = locked(&host.ended).take();
            if let Some(Err(failure)) = ended {
                self.judge(&failure, host.replaced);
            }
        }
    }

    fn end(&mut self) {
        for client in std::mem::take(&mut self.clients) {
            while self.scheduler.threads_of(client) > 0 {
                self.scheduler.pause(Duration::from_millis(20));
            }
        }
        if self.random.chance(50) && self.violations.is_empty() {
            self.stop_all();
        }
        self.kill_all();
    }

    fn lose_checkpoints(&self) {
        let paths = self.outside.disks.paths();
        paths.iter().filter(|path| path.starts_with("lanes/")).for_each(|path| self.outside.disks.lose(path));
    }

    /// Without further faults everything is folded to the end, and a replay from nothing but log and journal gives the same.
    fn settle(&mut self) {
        if !self.finish() {
            return;
        }
        let rows = truth::without_the_last(self.outside.table.rows());
        let truth = Truth::of(&self.plan, &self.outside.topic, &self.log(), &self.outside.disks);
        self.figures.floors = truth.floors;
        self.figures.records = self.outside.topic.visible().len() as u64;
        self.figures.rows = rows.len() as u64;
        self.violations.extend(truth::differences("the rows differ from the model's", &truth.rows, &rows));
        if self.figures.withdrawn == 0 {
            let sent = self.outside.table.sent().into_iter();
            let wrong = sent.filter(|(key, _)| !key.contains("last")).find(|sent| !truth.ever.contains(sent));
            self.violations
                .extend(wrong.map(|(key, row)| format!("I5: row {row} of {key} was sent, and is at no time right")));
        }
        self.lose_checkpoints();
        let (table, letters) = (Arc::new(Table::default()), Arc::new(Letters::default()));
        let before = Arc::clone(&self.outside);
        self.outside = Arc::new(Outside {
            topic: Arc::clone(&before.topic),
            table: Arc::clone(&table),
            letters: Arc::clone(&letters),
            objects: Arc::clone(&before.objects),
            disks: Arc::clone(&before.disks),
        });
        if self.finish() {
            self.violations.extend(truth::differences(
                "a replay gives other rows",
                &rows,
                &truth::without_the_last(table.rows()),
            ));
            let lived = truth::standing(&before.letters.all(), &self.log());
            let replayed = truth::standing(&letters.all(), &self.log());
            self.violations.extend(truth::differences("a replay gives other dead letters", &lived, &replayed));
        }
        self.violations.extend(before.table.violations());
        self.violations.extend(before.disks.violations());
        self.figures.writes = before.table.writes();
    }

    /// Runs a host to the end of the log; whether it got there.
    fn finish(&mut self) -> bool {
        self.start(true);
        let limit = self.scheduler.now() + Duration::from_secs(600);
        loop {
            self.scheduler.pause(Duration::from_millis(100));
            let host = self.hosts.last().expect("it was started");
            let ended = locked(&host.ended).take();
            if let Some(outcome) = ended {
                let host = self.hosts.pop().expect("it was started");
                while self.scheduler.threads_of(host.process.id) > 0 {
                    self.scheduler.pause(Duration::from_millis(10));
                }
                if let Err(failure) = &outcome {
                    self.violations.push(format!("the last host ended with {:?}: {}", failure.exit, failure.message));
                }
                return outcome.is_ok();
            }
            if self.scheduler.now() > limit {
                self.violations
                    .push("everything is there and nothing fails, and it is not folded after ten minutes".into());
                self.kill_all();
                return false;
            }
        }
    }

    fn outcome(self) -> Outcome {
        let (lines, digest, trace) = self.scheduler.trace();
        let figures = Figures { turns: self.scheduler.taken(), ..self.figures };
        Outcome { violations: self.violations, lines, digest, trace, simulated: self.scheduler.now(), figures }
    }
}
