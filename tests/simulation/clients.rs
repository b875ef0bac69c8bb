//! Clients: processes that create deployments, decide on them, or delete checkpoints, beside the hosts and at any time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfold::deployment::{Author, Deployment, PipelineLog, Settings};
use keyfold::pipeline::reset;
use keyfold::plugin::Plugin;
use keyfold::state::database::Databases;
use keyfold::state::store::Stores;
use object_store::ObjectStore;

use crate::objects::reserved_ms;
use crate::plan::{Deploy, Then};
use crate::run::Simulation;
use crate::scheduler::{BEGAN_MS, Process, locked};
use crate::settings::{Logic, config, shared};
use crate::world::Trouble;

/// The pause between two looks at whether a host opens its lanes, and how many there are.
const LOOK: Duration = Duration::from_millis(1);
const MOST_LOOKS: u32 = 3_000;

/// A deployment that is being created.
pub(crate) struct Ordered {
    /// Its number, once it is known, unless it was refused.
    n: Arc<Mutex<Option<Option<u64>>>>,
    /// What is decided on it, and when.
    then: Option<(Duration, Then)>,
    /// Whether it can be withdrawn.
    on_probation: bool,
}

impl Simulation {
    /// Lets some decisions fall while a host starts, which takes some tens of milliseconds, or seconds if requests are slow.
    pub(crate) fn decide_soon(&mut self) {
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
        let journals = Arc::clone(&self.outside.journals);
        let from = journals.openings() + 1 + usize::try_from(self.random.below(3)).expect("few");
        let after = Duration::from_millis(self.random.below(60));
        self.client(move |log, process| {
            (0..MOST_LOOKS).take_while(|_| journals.openings() < from).for_each(|_| process.wait(LOOK));
            process.wait(after);
            let withdrawn = log.withdraw(n, &Author::default());
            process.note(&format!("withdraws {n}: {withdrawn:?}"));
        });
    }

    /// Waits until so many more databases were opened.
    pub(crate) fn await_openings(&self, from: usize) {
        (0..MOST_LOOKS)
            .take_while(|_| self.outside.journals.openings() < from)
            .for_each(|_| self.scheduler.pause(LOOK));
    }

    /// Lets a client do something with the deployments, as a process of its own.
    fn client<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&PipelineLog, &Arc<Process>) -> T + Send + 'static,
    ) -> Arc<Mutex<Option<T>>> {
        let process =
            Process::new(&self.scheduler, self.next_process, (self.ahead_ms, self.random.next()), self.planted);
        self.next_process += 1;
        // A client that is faster than a host does much between two requests of the host.
        let slow = if self.random.chance(90) { 0 } else { self.plan.trouble.slow };
        let trouble = Trouble { faults: self.plan.trouble.faults / 4, slow, slow_reservations: 0 };
        let of_client = Arc::clone(&process);
        let objects: Arc<dyn ObjectStore> = Arc::new(self.outside.seen_objects(&process, trouble));
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

    /// A deployment of a logic, and its plugin.
    fn deployment(&mut self, logic: Logic, probation_ms: i64) -> (Deployment, Arc<Plugin>) {
        let plugin = self.plugin(logic, 1);
        let settings = Settings::of(&config(&self.plan, logic, 1, &mut self.random.clone()), &plugin.digest);
        (Deployment::of(settings, &plugin, probation_ms, &Author::default()), plugin)
    }

    /// Deploys a logic. Once a deployment has the second version of the plugin, all later ones have it too: there is no way back to the
    /// first version of the state but a withdrawal.
    pub(crate) fn deploy(&mut self, deploy: Deploy) {
        let Deploy { mut logic, after_ms, while_reserving, probation_ms, then } = deploy;
        self.newest = self.newest.max(logic.version);
        logic.version = self.newest;
        let (deployment, plugin) = self.deployment(logic, probation_ms);
        let (reserving, objects) = (Arc::clone(&self.outside.reserving), Arc::clone(&self.outside.objects));
        let done = self.client(move |log, process| {
            if !log.in_force().is_ok_and(|in_force| in_force.is_some()) {
                return None; // no host has begun yet
            }
            if let Err(failure) = log.keep_plugin(&plugin) {
                process.note(&format!("cannot deploy {logic:?}: {failure}"));
                return None;
            }
            let before = reserving.load(Ordering::SeqCst);
            let is_awaited = |_: &u32| while_reserving && reserving.load(Ordering::SeqCst) == before;
            (0..MOST_LOOKS).take_while(is_awaited).for_each(|_| process.wait(LOOK));
            let reserved_ms = || shared().runtime.handle().block_on(reserved_ms(&objects));
            let now_ms = BEGAN_MS + i64::try_from(process.now().as_millis()).expect("short");
            let from = if while_reserving { reserved_ms().unwrap_or(now_ms) } else { now_ms };
            let ordered = log.order(deployment, after_ms.map(|after| from + after));
            process.note(&format!("deploys {logic:?}: {ordered:?}"));
            ordered.ok().map(|(n, _)| n)
        });
        self.ordered.push(Ordered { n: done, then, on_probation: probation_ms > 0 });
    }

    /// Deploys a logic that holds from the beginning of the log.
    pub(crate) fn reprocess(&mut self, mut logic: Logic) {
        logic.version = self.newest;
        self.figures.reprocessed += 1;
        let (deployment, plugin) = self.deployment(logic, 0);
        self.client(move |log, process| {
            if log.in_force().is_ok_and(|in_force| in_force.is_some()) && log.keep_plugin(&plugin).is_ok() {
                let ordered = log.order_anew(deployment);
                process.note(&format!("reprocesses with {logic:?}: {ordered:?}"));
            }
        });
    }

    /// Lets a logic, or that in force, fold in the shadow. Beside itself, a logic gives no other rows.
    pub(crate) fn shadow(&mut self, logic: Option<Logic>, lasts: Duration, promoted: bool) {
        let version = self.newest;
        let candidate = logic.map(|logic| self.deployment(Logic { version, ..logic }, 2_000));
        let reports = Arc::clone(&self.reports);
        self.client(move |log, process| {
            let Some((n, in_force)) = log.in_force().ok().flatten() else { return };
            let candidate = match candidate {
                Some((deployment, plugin)) => log.keep_plugin(&plugin).is_ok().then_some(deployment),
                None => Some(in_force),
            };
            let Some(shadow) = candidate.and_then(|candidate| log.order_shadow(candidate).ok()) else { return };
            process.note(&format!("orders a shadow of {n}"));
            process.wait(lasts);
            let report = log.shadow_report(&shadow.id);
            process.note(&format!("the shadow reports {report:?}"));
            if let Ok(report) = report {
                // What is in force may change after it was looked at.
                locked(&reports).push((logic.is_none() && report.beside == Some(n), report));
            }
            if promoted {
                let ordered = log.order(Deployment { probation_ms: 0, ..shadow.candidate }, None);
                process.note(&format!("promotes the shadow: {ordered:?}"));
            }
            let dropped = log.drop_shadow();
            process.note(&format!("drops the shadow: {dropped:?}"));
        });
    }

    /// Notes which deployments are there, and when they are decided on.
    pub(crate) fn look_at_deployments(&mut self) {
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

    /// Decides on a deployment.
    pub(crate) fn decide(&mut self, n: u64, then: Then) {
        if then == Then::WithdrawAtRestart {
            self.kill_all();
            self.outside.journals.lose_last_writes();
            // Then the lane is before T once more, and an earlier life has written rows from there on.
            if self.random.chance(40) {
                self.lose_checkpoints();
            }
            self.start();
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

    /// Deletes the checkpoints beside the hosts at work, which are fenced first.
    pub(crate) fn reset(&mut self) {
        self.figures.resets += 1;
        let outside = Arc::clone(&self.outside);
        self.client(move |_, process| {
            let objects: Arc<dyn ObjectStore> = Arc::new(outside.seen_objects(process, Trouble::default()));
            let databases = outside.seen_databases(process, Arc::clone(&objects));
            let stores = Stores { objects, runtime: shared().runtime.handle().clone() };
            let lanes = outside.states.lanes();
            let cleared = reset::clear(&databases as &dyn Databases, &stores, &lanes);
            process.note(&format!("resets {lanes:?}: {cleared:?}"));
        });
    }
}
