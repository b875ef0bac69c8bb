//! What is on its way from the hub's threads to a lane. Nobody waits to put something in: a full mailbox tells the reader to leave the lane alone
//! until it has taken something out, so that a lane that does not read stops no other one.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::failure::Failure;
use crate::position::{Offset, Partition};
use crate::source::Arrival;
use crate::source::kafka::broker::locked;

/// Parcels of arrivals with which a mailbox is full. What is read before that is looked at comes on top.
const PARCELS: usize = 8;

/// Why a lane's reading ends.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// What can be told as it is.
    Known(Failure),
    /// The log does not hold the next offset of a partition. The lane asks where it begins and ends, since whoever reads must not wait.
    OutOfRange {
        /// Partition.
        partition: Partition,
        /// The next offset to read.
        next: Offset,
        /// Librdkafka's words.
        text: String,
    },
}

/// A lane's mailbox.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    post: Mutex<Post>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Post {
    parcels: VecDeque<Vec<Arrival>>,
    /// Told once the parcels before it are taken, and for ever.
    trouble: Option<Trouble>,
    /// Whether the reader left the lane alone because this was full.
    is_awaited: bool,
    /// Whether the log was found to be the one that reading goes on with.
    is_verified: bool,
}

/// What a lane takes out.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Arrivals; none if none came in time.
    pub(super) arrivals: Vec<Arrival>,
    /// Whether the reader is to be told that there is room again.
    pub(super) has_made_room: bool,
}

impl Mailbox {
    /// Puts a parcel in, however full it is.
    pub(super) fn put(&self, parcel: Vec<Arrival>) {
        if parcel.is_empty() {
            return;
        }
        locked(&self.post).parcels.push_back(parcel);
        self.came.notify_all();
    }

    /// Ends the lane's reading, behind what was put in before. The first trouble stays.
    pub(super) fn fail(&self, trouble: Trouble) {
        locked(&self.post).trouble.get_or_insert(trouble);
        self.came.notify_all();
    }

    /// Tells that the log is the one that reading goes on with.
    pub(super) fn verified(&self) {
        locked(&self.post).is_verified = true;
        self.came.notify_all();
    }

    /// Whether the reader may go on; if not, it is told once there is room.
    pub(super) fn has_room(&self) -> bool {
        let mut post = locked(&self.post);
        post.is_awaited = post.parcels.len() >= PARCELS;
        !post.is_awaited
    }

    /// Takes the next parcel, waiting at most `timeout`.
    pub(super) fn take(&self, timeout: Duration) -> Result<Taken, Trouble> {
        let post = locked(&self.post);
        let nothing = |post: &mut Post| post.parcels.is_empty() && post.trouble.is_none();
        let (mut post, _) =
            self.came.wait_timeout_while(post, timeout, nothing).unwrap_or_else(PoisonError::into_inner);
        match (post.parcels.pop_front(), &post.trouble) {
            (Some(arrivals), _) => Ok(Taken { arrivals, has_made_room: std::mem::take(&mut post.is_awaited) }),
            (None, Some(trouble)) => Err(trouble.clone()),
            (None, None) => Ok(Taken::default()),
        }
    }

    /// Waits until the log is verified; false if it is not within `timeout`.
    pub(super) fn wait_until_verified(&self, timeout: Duration) -> Result<bool, Trouble> {
        let post = locked(&self.post);
        let unknown = |post: &mut Post| !post.is_verified && post.trouble.is_none();
        let (post, _) = self.came.wait_timeout_while(post, timeout, unknown).unwrap_or_else(PoisonError::into_inner);
        match &post.trouble {
            Some(trouble) if !post.is_verified => Err(trouble.clone()),
            _ => Ok(post.is_verified),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(partition: u32) -> Vec<Arrival> {
        vec![Arrival::End { partition: Partition(partition) }]
    }

    #[test]
    fn a_reader_that_found_it_full_is_told_of_room_once() {
        let mailbox = Mailbox::default();
        (0..PARCELS).for_each(|_| mailbox.put(parcel(0)));
        assert!(!mailbox.has_room());
        let take = || mailbox.take(Duration::ZERO).expect("no trouble").has_made_room;
        assert_eq!((take(), take()), (true, false));
        assert!(mailbox.has_room());
    }

    #[test]
    fn trouble_comes_after_what_was_read_before_it_and_stays() {
        let mailbox = Mailbox::default();
        mailbox.put(parcel(0));
        mailbox.fail(Trouble::Known(Failure::outside("first")));
        mailbox.fail(Trouble::Known(Failure::outside("second")));
        assert_eq!(mailbox.take(Duration::ZERO).expect("the parcel first").arrivals.len(), 1);
        for _ in 0..2 {
            assert!(matches!(mailbox.take(Duration::ZERO), Err(Trouble::Known(failure)) if failure.message == "first"));
        }
    }
}
