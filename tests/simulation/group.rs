//! A simulated coordinator of the group of hosts: it moves partitions between members at any time, gives up members that it has not heard of or
//! that take too long to release what was revoked, and now and then one for no reason. Who was given up hears of it late, so that two hosts
//! may believe at the same time that a lane is theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfold::failure::Failure;
use keyfold::position::{Offset, Partition};
use keyfold::source::group::{Change, Commits, Group};

use crate::broker::{Committed, Topic};
use crate::scheduler::{Process, locked};
use crate::world::dead;

/// After this time without a sign of life a member is given up.
const SESSION: Duration = Duration::from_secs(2);
/// How long a member may take to release what was revoked.
const REBALANCE: Duration = Duration::from_secs(4);
/// The longest time after which a member hears that it was given up.
const LATEST_NEWS_MS: u64 = 3_000;

/// The group's coordinator.
#[derive(Debug, Default)]
pub(crate) struct Coordinator {
    group: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    members: BTreeMap<u64, Member>,
    owners: BTreeMap<Partition, u64>,
    joined: u64,
    /// Whether it moves nothing any more without a reason.
    is_calm: bool,
}

impl Coordinator {
    /// Moves nothing any more without a reason.
    pub(crate) fn calm(&self) {
        locked(&self.group).is_calm = true;
    }

    /// Whether it moves nothing any more without a reason.
    pub(crate) fn is_calm(&self) -> bool {
        locked(&self.group).is_calm
    }
}

/// A member, as the coordinator knows it.
#[derive(Debug)]
struct Member {
    heard_of: Duration,
    /// What it was told to release, and when.
    revoked: Option<(BTreeSet<Partition>, Duration)>,
}

impl Members {
    fn join(&mut self, now: Duration) -> u64 {
        self.joined += 1;
        self.members.insert(self.joined, Member { heard_of: now, revoked: None });
        self.joined
    }

    fn remove(&mut self, member: u64) {
        self.members.remove(&member);
        self.owners.retain(|_, owner| *owner != member);
    }

    /// Gives up those that are not heard of, and those that do not release what was revoked.
    fn expire(&mut self, now: Duration) {
        let is_late = |since: Duration, limit: Duration| now.saturating_sub(since) > limit;
        let expired = self.members.iter().filter(|(_, member)| {
            is_late(member.heard_of, SESSION)
                || member.revoked.as_ref().is_some_and(|(_, since)| is_late(*since, REBALANCE))
        });
        for member in expired.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove(member);
        }
    }

    fn of(&self, member: u64) -> BTreeSet<Partition> {
        self.owners.iter().filter(|(_, owner)| **owner == member).map(|(partition, _)| *partition).collect()
    }
}

/// A host's membership.
pub(crate) struct Membership {
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) topic: Arc<Topic>,
    pub(crate) process: Arc<Process>,
    pub(crate) committed: Arc<Committed>,
    /// Its number, once it has joined.
    member: Option<u64>,
    /// What it was told that it has.
    told: BTreeSet<Partition>,
    /// When it hears that it was given up.
    hears: Option<Duration>,
}

impl Membership {
    /// One that has not joined yet.
    pub(crate) fn new(
        coordinator: &Arc<Coordinator>,
        topic: &Arc<Topic>,
        process: &Arc<Process>,
        committed: Arc<Committed>,
    ) -> Membership {
        let (coordinator, topic, process) = (Arc::clone(coordinator), Arc::clone(topic), Arc::clone(process));
        Membership { coordinator, topic, process, committed, member: None, told: BTreeSet::new(), hears: None }
    }

    fn turn(&mut self) -> Option<Change> {
        let (now, coordinator) = (self.process.now(), Arc::clone(&self.coordinator));
        let mut group = locked(&coordinator.group);
        group.expire(now);
        let member = match self.member {
            Some(member) if group.members.contains_key(&member) => member,
            Some(_) => {
                let hears = *self.hears.get_or_insert_with(|| {
                    now + Duration::from_millis(self.process.below(2) * self.process.below(LATEST_NEWS_MS))
                });
                if now < hears {
                    return None; // it believes what it was told
                }
                (self.hears, self.member) = (None, None);
                let lost: Vec<Partition> = std::mem::take(&mut self.told).into_iter().collect();
                return Some(Change::Lost(lost));
            }
            None => *self.member.insert(group.join(now)),
        };
        group.members.get_mut(&member)?.heard_of = now;
        if group.members[&member].revoked.is_some() {
            return None;
        }
        if !group.is_calm && self.process.below(700) == 0 {
            group.remove(member);
            return None;
        }
        self.rebalance(&mut group, member, now)
    }

    /// Assigns partitions that nobody has, or revokes some that are too many, or for no reason.
    fn rebalance(&mut self, group: &mut Members, member: u64, now: Duration) -> Option<Change> {
        let (all, own) = (self.topic.own_partitions_at(now), group.of(member));
        let quota = all.len().div_ceil(group.members.len());
        let is_whim = !group.is_calm && !own.is_empty() && self.process.below(250) == 0;
        let many = if is_whim { own.len() } else { own.len().saturating_sub(quota) };
        if many > 0 {
            let revoked: BTreeSet<Partition> = own.into_iter().rev().take(many).collect();
            group.members.get_mut(&member)?.revoked = Some((revoked.clone(), now));
            self.told.retain(|partition| !revoked.contains(partition));
            return Some(Change::Revoked(revoked.into_iter().collect()));
        }
        let free = all.into_iter().filter(|partition| !group.owners.contains_key(partition));
        let assigned: Vec<Partition> = free.take(quota - own.len()).collect();
        if assigned.is_empty() || self.process.below(3) == 0 {
            return None; // another one may be faster
        }
        group.owners.extend(assigned.iter().map(|partition| (*partition, member)));
        self.told.extend(assigned.iter().copied());
        Some(Change::Assigned(assigned))
    }
}

impl Group for Membership {
    fn next(&mut self, timeout: Duration) -> Result<Option<Change>, Failure> {
        let most = u64::try_from(timeout.as_micros()).expect("short");
        self.process.wait(Duration::from_micros(500 + self.process.below(most)));
        dead(&self.process)?;
        let change = self.turn();
        if let Some(change) = &change {
            self.process.note(&format!("the group says {change:?}"));
        }
        Ok(change)
    }

    fn release(&mut self) -> Result<(), Failure> {
        dead(&self.process)?;
        self.process.note("releases what was revoked");
        let mut group = locked(&self.coordinator.group);
        let member = self.member.and_then(|member| group.members.get_mut(&member));
        if let Some((revoked, _)) = member.and_then(|member| member.revoked.take()) {
            group.owners.retain(|partition, _| !revoked.contains(partition));
        }
        Ok(())
    }

    fn commits(&self) -> Arc<dyn Commits> {
        Arc::new(Told { process: Arc::clone(&self.process), committed: Arc::clone(&self.committed) })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(member) = self.member.filter(|_| !self.process.is_dead()) {
            locked(&self.coordinator.group).remove(member);
        }
    }
}

struct Told {
    process: Arc<Process>,
    committed: Arc<Committed>,
}

impl Commits for Told {
    fn commit(&self, next: &[(Partition, Offset)]) {
        if !self.process.is_dead() {
            (self.committed)(next);
        }
    }
}
