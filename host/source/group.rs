//! Sharing the partitions of a log among hosts: what a group tells a member, and what a member owes the group. Which host folds a partition is
//! the group's word; that no other one writes for it is the journal's (I8), whatever the group believes.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::failure::Failure;
use crate::observe::ends::Ends;
use crate::position::{Offset, Partition, TopicId};
use crate::source::{Arrival, Source};

/// What changes in a member's share of the partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These are the member's from now on.
    Assigned(Vec<Partition>),
    /// These are another one's as soon as the member releases them.
    Revoked(Vec<Partition>),
    /// These are another one's already: the group has given the member up.
    Lost(Vec<Partition>),
}

/// A membership of a group, which ends with the value and with what [`Group::commits`] gave.
pub trait Group: Send {
    /// Returns the next change, after at most `timeout`. Must be called again and again, or the group gives the member up. Until what was
    /// revoked is released, nothing else is revoked or assigned.
    fn next(&mut self, timeout: Duration) -> Result<Option<Change>, Failure>;
    /// Releases what was revoked last: nothing of this host folds it any more.
    fn release(&mut self) -> Result<(), Failure>;
    /// Returns by whom a member tells the group how far it has come.
    fn commits(&self) -> Arc<dyn Commits>;
}

/// Tells a group how far its member has come.
pub trait Commits: Send + Sync {
    /// Sends (partition, next offset) on their way. For lag tools only; failures are logged.
    fn commit(&self, next: &[(Partition, Offset)]);
}

/// The source of a lane whose host is a member of a group.
pub struct Grouped {
    source: Box<dyn Source>,
    commits: Arc<dyn Commits>,
}

impl Grouped {
    /// Lets the lane tell the group how far it has come.
    pub fn new(source: Box<dyn Source>, commits: Arc<dyn Commits>) -> Grouped {
        Grouped { source, commits }
    }
}

impl Source for Grouped {
    fn partitions(&self) -> &[Partition] {
        self.source.partitions()
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Arrival>, Failure> {
        self.source.next(timeout)
    }

    fn ask(&mut self, partitions: &[Partition], after_ms: i64) {
        self.source.ask(partitions, after_ms);
    }

    fn hold(&mut self, partitions: &[Partition]) {
        self.source.hold(partitions);
    }

    fn commit(&mut self, next: &[(Partition, Offset)]) {
        self.commits.commit(next);
    }

    fn ends(&self) -> Option<Arc<Ends>> {
        self.source.ends()
    }

    fn ask_log_id(&mut self) {
        self.source.ask_log_id();
    }

    fn log_id(&mut self) -> Result<Poll<Option<TopicId>>, Failure> {
        self.source.log_id()
    }
}
