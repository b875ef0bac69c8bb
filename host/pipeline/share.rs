//! A host's share of the lanes, where several hosts fold a pipeline: lanes are opened as the group assigns their partitions, and drain, write a
//! checkpoint and end as it revokes them. A lane that the group has given to another host already is dropped where it is.
//!
//! The group's word is not what keeps two hosts from writing for one lane, since a host may hear it late. That is the journal's (I8): whoever
//! opens a lane fences its former owner. So a lane that was fenced although the group still assigns it is opened again, a little later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::backoff;
use crate::clock;
use crate::config;
use crate::failure::Failure;
use crate::lane::Summary;
use crate::lane::interrupt::Notice;
use crate::machine::{Planted, Thread, plants};
use crate::observe::board::Phase;
use crate::pipeline::open::{OPENED_AT_ONCE, Opening};
use crate::pipeline::threads;
use crate::position::Partition;
use crate::sink::writer::Writer;
use crate::source::group::{Change, Commits, Group};

/// How long the group is waited for at once: while something is under way, and otherwise.
const TURN: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(100)];
/// How long lanes may take to release their partitions. Then others get them, and fence these.
const RELEASE: Duration = Duration::from_secs(30);
/// How soon a lane is opened again that another host has taken over, although the group assigns it to this one; at first and at last.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// A lane that was taken over no sooner than this after it was opened again is not contested any more.
const CONTEST: Duration = Duration::from_secs(60);

/// A host's share of the lanes.
pub(super) struct Share {
    group: Box<dyn Group>,
    assigned: BTreeSet<Partition>,
    /// Until when the lanes may take to release what was revoked.
    releasing: Option<Instant>,
    /// Lanes that another host took over although they are this one's: when to open them again, and how long that was waited for.
    fenced: BTreeMap<String, (Instant, Duration)>,
}

/// A lane that is being opened, or at work.
struct Folding {
    notice: Arc<Notice>,
    is_open: Arc<AtomicBool>,
    thread: Thread<Result<Summary, Failure>>,
}

/// What a share does until the host stops or its lanes rewind.
struct Session<'a> {
    share: &'a mut Share,
    opening: &'a Arc<Opening>,
    writer: Writer,
    /// The lanes of what is assigned.
    wanted: BTreeMap<String, Vec<Partition>>,
    lanes: BTreeMap<String, Folding>,
    summaries: Vec<Summary>,
    failure: Option<Failure>,
}

impl Share {
    /// Begins without lanes.
    pub(super) fn new(group: Box<dyn Group>) -> Share {
        Share { group, assigned: BTreeSet::new(), releasing: None, fenced: BTreeMap::new() }
    }

    /// By whom lanes tell the group how far they have come.
    pub(super) fn commits(&self) -> Arc<dyn Commits> {
        self.group.commits()
    }

    /// Folds what is assigned until the host stops or its lanes rewind. A failure of a lane stops all.
    pub(super) fn fold(&mut self, opening: &Arc<Opening>, writer: Writer) -> Result<Vec<Summary>, Failure> {
        tracing::info!(
            event = "sharing",
            pipeline = opening.config.name,
            "member of a group of hosts that share the lanes"
        );
        opening.board.shares.store(true, Ordering::Relaxed);
        opening.board.enter(Phase::Folding);
        let wanted = lanes_of(opening, &self.assigned);
        let (lanes, summaries) = (BTreeMap::new(), Vec::new());
        Session { share: self, opening, writer, wanted, lanes, summaries, failure: None }.run()
    }
}

impl Session<'_> {
    fn run(mut self) -> Result<Vec<Summary>, Failure> {
        loop {
            if let Err(failure) = self.turn() {
                self.fail(failure);
                backoff::pause(TURN[0]); // the group cannot be asked, and lanes drain
            }
            self.close();
            self.collect();
            if self.is_over() && self.lanes.is_empty() {
                return self.failure.map_or(Ok(self.summaries), Err);
            }
        }
    }

    /// Opens what is missing, releases what was revoked, and hears what changes.
    fn turn(&mut self) -> Result<(), Failure> {
        if !self.is_over() {
            self.open()?;
        }
        self.release()?;
        let is_busy = self.share.releasing.is_some() || self.is_over() || self.opening_now() > 0;
        if let Some(change) = self.share.group.next(TURN[usize::from(!is_busy)])? {
            self.take(change);
        }
        Ok(())
    }

    /// Ends all lanes; the first failure is the host's.
    fn fail(&mut self, failure: Failure) {
        self.opening.stop.store(true, Ordering::Relaxed);
        self.failure.get_or_insert(failure);
    }

    /// Whether all lanes are to end.
    fn is_over(&self) -> bool {
        self.opening.stop.load(Ordering::Relaxed) || self.opening.back.load(Ordering::Relaxed)
    }

    /// How many lanes are being opened.
    fn opening_now(&self) -> usize {
        self.lanes.values().filter(|lane| !lane.is_open.load(Ordering::Relaxed)).count()
    }

    fn take(&mut self, change: Change) {
        let is_lost = matches!(change, Change::Lost(_));
        let assigned = &mut self.share.assigned;
        match change {
            Change::Assigned(partitions) => {
                tracing::info!(event = "partitions-assigned", ?partitions, "partitions assigned");
                assigned.extend(partitions);
            }
            Change::Revoked(partitions) => {
                tracing::info!(event = "partitions-revoked", ?partitions, "partitions revoked: draining their lanes");
                assigned.retain(|partition| !partitions.contains(partition));
                self.share.releasing = Some(clock::instant() + RELEASE);
            }
            Change::Lost(partitions) => {
                tracing::warn!(
                    event = "partitions-lost",
                    ?partitions,
                    "partitions lost: the group has not heard of this host for too long, and others may have their lanes"
                );
                assigned.retain(|partition| !partitions.contains(partition));
                self.share.releasing = None;
            }
        }
        self.wanted = lanes_of(self.opening, &self.share.assigned);
        if is_lost {
            self.unwanted().for_each(|lane| lane.notice.abandon());
        }
    }

    /// The lanes that are not this host's any more.
    fn unwanted(&self) -> impl Iterator<Item = &Folding> {
        self.lanes.iter().filter(|(name, _)| !self.wanted.contains_key(*name)).map(|(_, lane)| lane)
    }

    /// Opens lanes that are wanted and not there, some at a time.
    fn open(&mut self) -> Result<(), Failure> {
        let now = clock::instant();
        let waits = |name: &String| self.share.fenced.get(name).is_some_and(|(until, _)| now < *until);
        let missing = self.wanted.iter().filter(|(name, _)| !self.lanes.contains_key(*name) && !waits(name));
        let room = OPENED_AT_ONCE.saturating_sub(self.opening_now());
        let missing: Vec<_> = missing.take(room).map(|(name, partitions)| (name.clone(), partitions.clone())).collect();
        for (name, partitions) in missing {
            let lane = self.spawn(partitions)?;
            self.lanes.insert(name, lane);
        }
        Ok(())
    }

    fn spawn(&self, partitions: Vec<Partition>) -> Result<Folding, Failure> {
        let (notice, is_open) = (Arc::<Notice>::default(), Arc::<AtomicBool>::default());
        let (opening, writer) = (Arc::clone(self.opening), self.writer.clone());
        let (given, opened) = (Arc::clone(&notice), Arc::clone(&is_open));
        let body = move || {
            let lane = opening.one(partitions, &writer, &given);
            drop(writer); // the thread that writes ends with its last handle
            opened.store(true, Ordering::Relaxed);
            lane?.run()
        };
        Ok(Folding { notice, is_open, thread: threads::spawn("lane", body)? })
    }

    /// Asks lanes to end that are not this host's any more.
    fn close(&self) {
        let is_late = self.share.releasing.is_some_and(|until| clock::instant() >= until);
        for lane in self.unwanted() {
            if is_late { lane.notice.abandon() } else { lane.notice.release() }
        }
    }

    /// Takes the results of lanes that have ended.
    fn collect(&mut self) {
        let ended: Vec<String> =
            self.lanes.iter().filter(|(_, lane)| lane.thread.is_finished()).map(|(name, _)| name.clone()).collect();
        for name in ended {
            let Some(Folding { thread, .. }) = self.lanes.remove(&name) else { continue };
            let is_wanted = self.wanted.contains_key(&name);
            if !is_wanted {
                self.opening.board.forget(&name);
            }
            match threads::join(thread) {
                Ok(summary) => {
                    self.summaries.push(summary);
                    self.share.fenced.remove(&name);
                }
                Err(failure) if failure.is_fenced => self.note_fenced(name, is_wanted, &failure),
                Err(failure) => self.fail(failure),
            }
        }
    }

    fn note_fenced(&mut self, lane: String, is_wanted: bool, failure: &Failure) {
        let fenced = &mut self.share.fenced;
        if !is_wanted {
            fenced.remove(&lane);
            tracing::info!(event = "lane-taken-over", lane, %failure, "lane taken over by another host");
            return;
        }
        if plants(Planted::LaneNotOpenedAgain) {
            fenced.insert(lane, (clock::instant() + Duration::from_secs(86_400), AGAIN[1]));
            return;
        }
        let now = clock::instant();
        let recent = fenced.get(&lane).filter(|(until, _)| now < *until + CONTEST);
        let wait = recent.map_or(AGAIN[0], |(_, waited)| (*waited * 2).min(AGAIN[1]));
        tracing::warn!(
            event = "lane-contested",
            lane,
            %failure,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "lane taken over by another host, although the group assigns it to this one; opening it again"
        );
        fenced.insert(lane, (now + wait, wait));
    }

    /// Releases what was revoked once no lane folds it, or once the lanes have taken too long.
    fn release(&mut self) -> Result<(), Failure> {
        let Some(until) = self.share.releasing else { return Ok(()) };
        if self.unwanted().next().is_some() && clock::instant() < until {
            return Ok(());
        }
        self.share.releasing = None;
        self.share.group.release()?;
        tracing::info!(event = "partitions-released", "partitions released");
        Ok(())
    }
}

/// The lanes of assigned partitions. One lane of all partitions is whose the last partition is: exactly one member has that, and keeps it when
/// another one joins, since `cooperative-sticky` takes the first ones from it.
fn lanes_of(opening: &Opening, assigned: &BTreeSet<Partition>) -> BTreeMap<String, Vec<Partition>> {
    let Opening { config, source, .. } = opening;
    let lanes: Vec<Vec<Partition>> = match config.source.ordering() {
        config::Ordering::Topic => {
            let all = source.partitions();
            all.last().filter(|last| assigned.contains(last)).map(|_| all.to_vec()).into_iter().collect()
        }
        config::Ordering::Partition => assigned.iter().map(|&partition| vec![partition]).collect(),
    };
    lanes.into_iter().map(|partitions| (source.lane_name(config, &partitions), partitions)).collect()
}
