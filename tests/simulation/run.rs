//! One simulation: hosts in a world, and what happens to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfold::deployment::PipelineLog;
use keyfold::deployment::shadow::Report;
use keyfold::machine::Planted;
use keyfold::plugin::Plugin;
use keyfold::position::Partition;
use keyfold::state::checkpoint::Checkpoint;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::broker::{Appended, Topic};
use crate::case::{Case, Figures, Outcome};
use crate::clients::Ordered;
use crate::hosts::{Start, Started};
use crate::journals::Journals;
use crate::plan::{CONTENDER, Foreign, Happening, Plan, Then, describe};
use crate::scheduler::{BEGAN_MS, ProcessId, Scheduler};
use crate::settings::{Logic, Version, shared};
use crate::states::States;
use crate::support::generate::TestRecord;
use crate::support::random::Random;
use crate::truth;
use crate::world::Outside;

/// A simulation: its director, who lets things happen.
pub(crate) struct Simulation {
    pub(crate) plan: Plan,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) random: Random,
    pub(crate) outside: Arc<Outside>,
    plugins: BTreeMap<(Logic, usize), Arc<Plugin>>,
    pub(crate) planted: Option<Planted>,
    pub(crate) next_process: ProcessId,
    pub(crate) hosts: Vec<Started>,
    /// What the clocks of new hosts are ahead of the time, ms.
    pub(crate) ahead_ms: i64,
    /// Processes of clients.
    pub(crate) clients: Vec<ProcessId>,
    /// Deployments that are being created.
    pub(crate) ordered: Vec<Ordered>,
    /// The newest version of the plugin that was deployed.
    pub(crate) newest: Version,
    /// The number of the last deployment that was created on probation.
    pub(crate) last_on_probation: Option<u64>,
    /// When what is decided on which deployment.
    pub(crate) later: Vec<(Duration, u64, Then)>,
    /// When which process goes on that stands still.
    pub(crate) thaws: Vec<(Duration, ProcessId)>,
    /// The last checkpoint of each lane that was compared with the model.
    pub(crate) compared: BTreeMap<String, Checkpoint>,
    /// The last checkpoint of each lane that was looked at.
    pub(crate) seen: BTreeMap<String, Checkpoint>,
    /// When which deployment was first seen withdrawn.
    pub(crate) withdrawn: BTreeMap<u64, Duration>,
    /// What shadows reported, and whether they folded by the logic in force.
    pub(crate) reports: Arc<Mutex<Vec<(bool, Report)>>>,
    pub(crate) violations: Vec<String>,
    pub(crate) figures: Figures,
}

/// Simulates a case.
pub(crate) fn simulate(case: &Case, traces: bool) -> Outcome {
    shared();
    let Case { seed, planted, .. } = *case;
    let scheduler = Scheduler::new(seed, traces);
    let mut plan = case.plan();
    close(&mut plan);
    scheduler.note(0, &describe(&plan));
    let topic = std::mem::replace(&mut plan.topic, Topic::new(Vec::new(), Vec::new(), None));
    let objects = Arc::new(InMemory::new());
    let outside = Arc::new(Outside {
        topic: Arc::new(topic),
        coordinator: Arc::default(),
        table: Arc::default(),
        letters: Arc::default(),
        journals: Arc::new(Journals::new(Arc::clone(&objects))),
        states: Arc::new(States::new(Arc::clone(&objects) as _)),
        objects,
        reserving: Arc::default(),
        refuses: plan.refuses,
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
        newest: Version::First,
        last_on_probation: None,
        later: Vec::new(),
        thaws: Vec::new(),
        compared: BTreeMap::new(),
        seen: BTreeMap::new(),
        withdrawn: BTreeMap::new(),
        reports: Arc::default(),
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
        self.start();
        if self.plan.contested {
            self.start_with(Logic::marked(CONTENDER), Start::default());
        }
        let happenings = std::mem::take(&mut self.plan.happenings);
        let mut happenings = happenings.into_iter().peekable();
        let end = self.plan.length + Duration::from_secs(15);
        while self.scheduler.now() < end {
            let next = [
                happenings.peek().map(|h| h.0),
                self.later.iter().map(|l| l.0).min(),
                self.thaws.iter().map(|t| t.0).min(),
            ];
            let next = next.into_iter().flatten().min().unwrap_or(end).min(end);
            // Hosts that end by themselves are looked at now and then; those that stand still are to be replaced at once.
            let now = self.scheduler.now();
            let armed = self.hosts.iter().any(|host| host.process.will_freeze());
            let pause = next.saturating_sub(now).min(Duration::from_millis(if armed { 20 } else { 300 }));
            self.scheduler.pause(pause);
            self.look();
            self.look_at_deployments();
            self.check_state();
            self.check_withdrawn();
            let now = self.scheduler.now();
            if let Some((_, happening)) = happenings.next_if(|h| h.0 <= now) {
                self.happen(happening);
            }
            if let Some(at) = self.later.iter().position(|l| l.0 <= now) {
                let (_, n, then) = self.later.remove(at);
                self.decide(n, then);
            }
            if let Some(at) = self.thaws.iter().position(|t| t.0 <= now) {
                self.scheduler.freeze(self.thaws.remove(at).1, false);
            }
            if !self.violations.is_empty() {
                return self.end();
            }
        }
        for (_, process) in std::mem::take(&mut self.thaws) {
            self.scheduler.freeze(process, false);
        }
        if self.plan.shared {
            self.await_coverage();
        }
        self.end();
        if self.violations.is_empty() {
            self.settle();
        }
    }

    /// Waits until checkpoints of the hosts that share the lanes cover the log: no lane may stay without a host.
    fn await_coverage(&mut self) {
        self.outside.coordinator.calm();
        let limit = self.scheduler.now() + Duration::from_secs(300 + 60 * self.plan.trouble.slow);
        let mut left = truth::lanes(&self.plan, &self.outside.topic);
        loop {
            let outside = Arc::clone(&self.outside);
            left.retain(|(lane, records)| {
                let Some(last) = records.last() else { return false };
                let covered = outside.states.checkpoint(lane).map(|checkpoint| checkpoint.covered());
                let next = covered.and_then(|covered| covered.get(&Partition(last.partition)).copied());
                next.is_none_or(|next| next.0 <= last.offset)
            });
            if left.is_empty() || !self.violations.is_empty() {
                return;
            }
            if self.scheduler.now() > limit {
                let lanes: Vec<_> = left.iter().map(|(lane, _)| lane).collect();
                self.violations.push(format!("hosts share the lanes, and nobody folds {lanes:?}"));
                return;
            }
            self.scheduler.pause(Duration::from_millis(300));
            self.look();
        }
    }

    /// The director reaches the world too.
    pub(crate) fn log(&self) -> PipelineLog {
        let objects: Arc<dyn ObjectStore> = Arc::clone(&self.outside.objects) as _;
        PipelineLog::new(objects, shared().runtime.handle().clone())
    }

    /// The plugin with this logic, for a host with so many workers.
    pub(crate) fn plugin(&mut self, logic: Logic, workers: usize) -> Arc<Plugin> {
        let plan = &self.plan;
        Arc::clone(self.plugins.entry((logic, workers)).or_insert_with(|| logic.load(plan, workers)))
    }

    fn happen(&mut self, happening: Happening) {
        self.scheduler.note(0, &format!("{happening:?}"));
        let now = self.scheduler.now();
        match happening {
            Happening::Kill { pause, loses_checkpoints } => {
                self.kill_all();
                self.restart(pause, loses_checkpoints);
            }
            Happening::Crash { steps, pause, loses_checkpoints } => {
                if let Some(host) = self.hosts.last_mut() {
                    host.process.crash_after(steps);
                    host.crash = (pause, loses_checkpoints);
                }
            }
            Happening::Reset => self.reset(),
            Happening::Foreign { how, lasts } => self.replace_topic(how, lasts),
            Happening::Stop => {
                self.stop_all();
                self.start();
                self.decide_soon();
            }
            Happening::Freeze { thaws: after } => {
                if let Some(host) = self.hosts.last() {
                    let id = host.process.id;
                    self.scheduler.freeze(id, true);
                    self.thaws.push((now + after, id));
                    self.start();
                }
            }
            Happening::FreezeAt { moment, after, thaws } => {
                if let Some(host) = self.hosts.last_mut() {
                    host.process.freeze_after(moment, after);
                    host.thaws = thaws;
                }
            }
            Happening::Rival | Happening::Join => self.start(),
            Happening::Leave => self.leave(),
            Happening::SlowRival { freezes, thaws: after } => {
                let opened = self.outside.journals.openings();
                self.start();
                let id = self.hosts.last().map(|host| host.process.id).expect("it was started");
                match self.random.below(4) {
                    0 => self.scheduler.pause(freezes),
                    more => self.await_openings(opened + usize::try_from(more).expect("few")),
                }
                self.scheduler.freeze(id, true);
                self.thaws.push((now + freezes + after, id));
                self.start();
            }
            Happening::Clock(by_ms) => {
                self.ahead_ms += by_ms;
                self.hosts.iter().for_each(|host| host.process.move_clock(by_ms));
            }
            Happening::Deploy(deploy) => self.deploy(deploy),
            Happening::Reprocess(logic) => self.reprocess(logic),
            Happening::Shadow { logic, lasts, promoted } => self.shadow(logic, lasts, promoted),
        }
    }

    /// Lets the topic be another one for a time. A pipeline that has not begun would begin with that one.
    fn replace_topic(&mut self, how: Foreign, lasts: Duration) {
        let lanes = truth::lanes(&self.plan, &self.outside.topic);
        let has_begun = |lane: &str| self.outside.journals.of(lane).beginning.is_some();
        let all_begun = lanes.iter().all(|(lane, _)| has_begun(lane));
        let is_known = self.log().topic_id().is_ok_and(|id| id.is_some());
        // With a lane for each partition, a new one gets a lane of its own.
        if all_begun && is_known && !(how == Foreign::Grown && self.plan.by_partition) {
            self.figures.foreign += 1;
            self.outside.topic.be(how, self.scheduler.now() + lasts);
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

    /// Deletes the checkpoints of all lanes while no host runs.
    pub(crate) fn lose_checkpoints(&self) {
        self.outside.states.lanes().iter().for_each(|lane| self.outside.states.lose(lane));
    }

    fn outcome(self) -> Outcome {
        let (lines, digest, trace) = self.scheduler.trace();
        let figures = Figures { turns: self.scheduler.taken(), ..self.figures };
        Outcome { violations: self.violations, lines, digest, trace, simulated: self.scheduler.now(), figures }
    }
}
