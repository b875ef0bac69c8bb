//! The hosts of a storm: one that folds, now and then two, killed, paused, stopped and started again.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use crate::plan::{Blow, Moment, ROUND};
use crate::support::host::{Outcome, PATIENCE, Pipeline, Running, logged};
use crate::time::{StormTime, pause};

/// A host that does not fold by then meets its fate before it does.
const LONGEST_START: Duration = Duration::from_secs(20);

/// How often it happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blows {
    pub(crate) starts: u32,
    pub(crate) kills: u32,
    pub(crate) lost_checkpoints: u32,
    /// Hosts started beside one that worked.
    pub(crate) rivals: u32,
    /// Hosts that were paused while another one took over, and went on later.
    pub(crate) zombies: u32,
    pub(crate) stops: u32,
    /// Hosts that ended because another one had taken over.
    pub(crate) replaced: u32,
}

impl fmt::Display for Blows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Blows { starts, kills, lost_checkpoints, rivals, zombies, stops, replaced } = self;
        write!(
            f,
            "{starts} started, {kills} killed, {stops} stopped, {rivals} taken over from at work, {zombies} while they were paused, {replaced} ended \
             because they were replaced; checkpoints lost {lost_checkpoints} times"
        )
    }
}

/// The hosts, the latest last.
pub(crate) struct Hosts<'a> {
    pipeline: &'a Pipeline,
    time: &'a StormTime,
    alive: Vec<Host>,
    /// Before this time none is started if there is none.
    rests: Duration,
    blows: Blows,
}

struct Host {
    running: Running,
    /// Whether there was another one in its life, which may have taken over.
    has_rival: bool,
    /// It is paused until then.
    thaws: Option<Duration>,
    started: Duration,
    /// When it was seen to fold.
    folds: Option<Duration>,
}

impl<'a> Hosts<'a> {
    /// One host.
    pub(crate) fn start(pipeline: &'a Pipeline, time: &'a StormTime) -> Hosts<'a> {
        let mut hosts = Hosts { pipeline, time, alive: Vec::new(), rests: Duration::ZERO, blows: Blows::default() };
        hosts.another();
        hosts
    }

    /// Does what is planned within this length, and keeps a host running until the storm is over.
    pub(crate) fn suffer(&mut self, plan: &[(Moment, Blow)], length: Duration) {
        for (done, (moment, blow)) in plan.iter().enumerate() {
            while self.time.goes_on() && !self.is_due(*moment) {
                self.look_after();
                pause();
            }
            if !self.time.goes_on() || (self.time.elapsed() >= length && done >= ROUND) {
                break;
            }
            self.strike(*blow, self.time.elapsed() < length / 2);
        }
        self.time.strike_no_more();
        while self.time.goes_on() {
            self.look_after();
            pause();
        }
    }

    /// Whether the moment has come for the latest host, which goes on being one if another one is started.
    fn is_due(&mut self, moment: Moment) -> bool {
        let now = self.time.elapsed();
        let Some(host) = self.alive.last_mut() else { return false };
        // It may wait for a service that is away, or be paused.
        let is_late = now > host.started + LONGEST_START;
        match moment {
            Moment::Started(after) => now >= host.started + after,
            Moment::Folding(after) => {
                if host.folds.is_none() && !logged(&host.running.stderr(), "lane-started").is_empty() {
                    host.folds = Some(now);
                }
                is_late || host.folds.is_some_and(|folds| now >= folds + after)
            }
        }
    }

    /// Waits until one is left, which has taken over; it and what happened to the others.
    pub(crate) fn settle(mut self) -> (Running, Blows) {
        self.rests = Duration::ZERO;
        for host in &mut self.alive {
            host.thaws = host.thaws.map(|_| Duration::ZERO);
        }
        self.look_after();
        let until = self.time.elapsed() + PATIENCE;
        while self.alive.len() > 1 {
            assert!(self.time.elapsed() < until, "{} hosts go on beside each other", self.alive.len());
            self.look_after();
            pause();
        }
        (self.alive.remove(0).running, self.blows)
    }

    /// Sees who has ended, lets go on who was paused long enough, and starts one if there is none.
    fn look_after(&mut self) {
        let now = self.time.elapsed();
        for host in &mut self.alive {
            if host.thaws.take_if(|thaws| *thaws <= now).is_some() {
                host.running.signal("CONT");
            }
        }
        let mut i = 0;
        while i < self.alive.len() {
            if self.alive[i].running.is_running() {
                i += 1;
            } else {
                let host = self.alive.remove(i);
                self.note_end(host.has_rival, &host.running.wait(PATIENCE));
            }
        }
        if self.alive.is_empty() && self.rests <= now {
            self.another();
        }
    }

    /// A host ends by itself only if another one has taken over.
    fn note_end(&mut self, has_rival: bool, outcome: &Outcome) {
        outcome.expect_code(5).expect_said(&["another host has taken over"]);
        assert!(has_rival, "it was the only one");
        self.blows.replaced += 1;
    }

    fn another(&mut self) {
        self.blows.starts += 1;
        let has_rival = !self.alive.is_empty();
        self.alive.push(Host {
            running: self.pipeline.spawn(&[]),
            has_rival,
            thaws: None,
            started: self.time.elapsed(),
            folds: None,
        });
        if has_rival {
            self.alive.iter_mut().for_each(|host| host.has_rival = true);
        }
    }

    fn strike(&mut self, blow: Blow, is_first_half: bool) {
        match blow {
            Blow::LoseCheckpoints if !is_first_half => self.kill_latest(),
            Blow::Kill { pause } => {
                self.kill_latest();
                self.rests = self.time.elapsed() + pause;
            }
            Blow::LoseCheckpoints => {
                while !self.alive.is_empty() {
                    self.kill_latest();
                }
                match fs::remove_dir_all(self.pipeline.path("state/lanes")) {
                    Ok(()) => self.blows.lost_checkpoints += 1,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                }
            }
            Blow::Rival => {
                self.blows.rivals += u32::from(!self.alive.is_empty());
                self.another();
            }
            Blow::Freeze { thaws } => {
                if let Some(host) = self.alive.last_mut().filter(|host| host.thaws.is_none()) {
                    host.running.signal("STOP");
                    host.thaws = Some(self.time.elapsed() + thaws);
                    self.blows.zombies += 1;
                }
                self.another();
            }
            Blow::Stop => {
                let Some(host) = self.alive.pop() else { return };
                if host.thaws.is_some() {
                    host.running.signal("CONT");
                }
                let outcome = host.running.terminate(PATIENCE);
                match outcome.code {
                    Some(0) => self.blows.stops += 1,
                    _ => self.note_end(host.has_rival, &outcome),
                }
            }
        }
    }

    fn kill_latest(&mut self) {
        let Some(host) = self.alive.pop() else { return };
        let outcome = host.running.kill();
        match outcome.code {
            None => self.blows.kills += 1,
            Some(_) => self.note_end(host.has_rival, &outcome),
        }
    }
}
