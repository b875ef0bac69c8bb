//! Hosts: how they are started, killed and stopped, and how they may end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfold::failure::{Exit, Failure};
use keyfold::observe::board::Board;
use keyfold::pipeline::run::{Host, Options};
use keyfold::pipeline::world::World;

use crate::plan::CONTENDER;
use crate::run::Simulation;
use crate::scheduler::{Process, locked};
use crate::settings::{Logic, MOST_WORKERS, config, shared};
use crate::truth;
use crate::world::{SeenWorld, Trouble};

/// A host that was started.
pub(crate) struct Started {
    /// Its process.
    pub(crate) process: Arc<Process>,
    board: Arc<Board>,
    ended: Arc<Mutex<Option<Result<(), Failure>>>>,
    /// Whether it may end by itself, since another host takes over.
    replaced: bool,
    /// If it crashes: the time until another one is started, and whether the checkpoints are lost then.
    pub(crate) crash: (Duration, bool),
    /// If it stands still by itself: for how long.
    pub(crate) thaws: Duration,
}

/// How a host is started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// Whether it ends at the end of the log, and nothing fails.
    pub(crate) until_end: bool,
    /// How many workers it has, and how many records a batch at most; picked if it is not said.
    pub(crate) cut: Option<(usize, usize)>,
    /// What its clock is ahead of those of others, ms.
    pub(crate) ahead_ms: i64,
}

impl Simulation {
    /// Starts a host with the configuration with which the pipeline was begun.
    pub(crate) fn start(&mut self) {
        self.start_as(Start::default());
    }

    /// Starts a host with the configuration with which the pipeline was begun, in this way.
    pub(crate) fn start_as(&mut self, start: Start) {
        let mark = if truth::has_contender(&self.log()) { CONTENDER } else { "" };
        self.start_with(Logic::marked(mark), start);
    }

    /// Starts a host with this logic in its configuration.
    pub(crate) fn start_with(&mut self, logic: Logic, start: Start) {
        let workers = 1 + usize::try_from(self.random.below(MOST_WORKERS as u64)).expect("few");
        let workers = start.cut.map_or(workers, |(workers, _)| workers);
        let mut config = config(&self.plan, logic, workers, &mut self.random);
        if let Some((_, records)) = start.cut {
            config.run.batch_records = records;
        }
        let plugin = self.plugin(logic, workers);
        let clock = (self.ahead_ms + start.ahead_ms, self.random.next());
        let process = Process::new(&self.scheduler, self.next_process, clock, self.planted);
        self.next_process += 1;
        self.figures.hosts += 1;
        let is_spared = start.until_end || self.outside.coordinator.is_calm();
        let trouble = if is_spared { Trouble::default() } else { self.plan.trouble };
        let (outside, of_world) = (Arc::clone(&self.outside), Arc::clone(&process));
        let world: Arc<dyn World> = Arc::new(SeenWorld { outside, process: of_world, trouble });
        let board = Arc::new(Board::new("simulated", &Arc::default()));
        let ended: Arc<Mutex<Option<Result<(), Failure>>>> = Arc::default();
        let (tell, of_host) = (Arc::clone(&ended), Arc::clone(&board));
        process.start(move || {
            let options = Options { until_end: start.until_end, ..Options::default() };
            let host = Host {
                config: &config,
                options: &options,
                board: &of_host,
                sandbox: shared().sandbox(workers),
                plugin: &plugin,
                runtime: shared().runtime.handle(),
            };
            let run = std::panic::AssertUnwindSafe(|| host.run(&world).map(drop));
            let outcome = std::panic::catch_unwind(run);
            let outcome = outcome.unwrap_or_else(|_| Err(Failure::unexpected("the host panicked")));
            *locked(&tell) = Some(outcome);
        });
        self.scheduler.note(0, &format!("starts host {} with {workers} workers", process.id));
        let crash = (Duration::ZERO, false);
        self.hosts.push(Started { process, board, ended, replaced: false, crash, thaws: Duration::ZERO });
        if self.hosts.len() > 1 && !self.plan.shared {
            // Whoever opens the lanes last has them.
            self.hosts.iter_mut().for_each(|host| host.replaced = true);
        }
    }

    /// Looks at hosts that have crashed or ended by themselves, and sees to it that there is one.
    pub(crate) fn look(&mut self) {
        for at in (0..self.hosts.len()).rev() {
            if self.hosts[at].process.is_dead() {
                let host = self.hosts.remove(at);
                self.scheduler.note(0, &format!("host {} has crashed", host.process.id));
                let (pause, loses_checkpoints) = host.crash;
                self.bury(&host);
                if self.hosts.is_empty() {
                    self.restart(pause, loses_checkpoints);
                }
                continue;
            }
            let outcome = locked(&self.hosts[at].ended).take();
            let Some(outcome) = outcome else { continue };
            let host = self.hosts.remove(at);
            self.scheduler.note(0, &format!("host {} has ended: {outcome:?}", host.process.id));
            if let Err(failure) = outcome {
                self.judge(&failure, host.replaced);
            }
        }
        let frozen: Vec<_> = self.hosts.iter().filter(|host| host.process.has_frozen()).collect();
        let thaws: Vec<_> = frozen.iter().map(|host| (self.scheduler.now() + host.thaws, host.process.id)).collect();
        let stand_still = !thaws.is_empty();
        self.thaws.extend(thaws);
        if (self.hosts.is_empty() || stand_still) && self.violations.is_empty() {
            self.start();
        }
    }

    /// Starts another host after all have died, and lets some decisions fall meanwhile.
    pub(crate) fn restart(&mut self, pause: Duration, loses_checkpoints: bool) {
        self.outside.journals.lose_last_writes();
        if loses_checkpoints {
            self.lose_checkpoints();
        }
        self.scheduler.pause(pause);
        self.start();
        self.decide_soon();
    }

    /// Whether a host may end with this.
    fn judge(&mut self, failure: &Failure, replaced: bool) {
        let says = |what: &str| failure.message.contains(what);
        let fenced = failure.exit == Exit::State && says("another host has taken over");
        let store = failure.exit == Exit::Outside && (says("does not answer") || says("simulated error"));
        let gone = says("the host was killed") || says("was killed");
        let refused = failure.exit == Exit::Config && says("differ from those in force");
        let topic = &self.outside.topic;
        let foreign =
            failure.exit == Exit::State && (says("created again") || says("made anew") || says("a grown topic needs"));
        let grown = failure.exit == Exit::Outside && says("has gained partitions");
        let may = store
            || gone
            || (fenced && (replaced || self.figures.resets > 0))
            || (refused && self.plan.contested)
            || (foreign && topic.was_foreign())
            || (grown && topic.grows.is_some());
        if !may {
            self.violations.push(format!("a host ended with {:?}: {}", failure.exit, failure.message));
        }
    }

    /// Kills all hosts, and waits until their threads are gone.
    pub(crate) fn kill_all(&mut self) {
        for host in std::mem::take(&mut self.hosts) {
            host.process.kill();
            self.bury(&host);
        }
    }

    /// Waits until the threads of a dead host are gone.
    fn bury(&mut self, host: &Started) {
        self.figures.kills += 1;
        host.board.stop().store(true, Ordering::Relaxed); // its threads only have to end
        host.process.kill();
        while self.scheduler.threads_of(host.process.id) > 0 {
            self.scheduler.pause(Duration::from_millis(5));
        }
        let panicked = locked(&host.ended).take();
        if let Some(Err(failure)) = panicked {
            self.judge(&failure, true);
        }
    }

    /// Asks all hosts to stop, and waits until they have.
    pub(crate) fn stop_all(&mut self) {
        let all = std::mem::take(&mut self.hosts);
        self.stop(all);
    }

    /// Asks the first of several hosts to stop, and waits until it has.
    pub(crate) fn leave(&mut self) {
        if self.hosts.len() > 1 {
            let first = self.hosts.remove(0);
            self.stop(vec![first]);
        }
    }

    fn stop(&mut self, hosts: Vec<Started>) {
        hosts.iter().for_each(|host| host.process.go_on());
        for host in hosts {
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

    /// Runs a host to the end of the log; whether it got there.
    pub(crate) fn finish(&mut self, start: Start) -> bool {
        self.start_as(Start { until_end: true, ..start });
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
}
