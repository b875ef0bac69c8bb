//! Where records come from. A source delivers each partition's records in offset order and says when it found a partition empty; it
//! knows no order between partitions, no time, no state.

pub mod merge;
pub mod file;
pub mod group;
pub mod kafka;
pub mod log_source;
pub mod past;
pub mod recent;

use std::sync::Arc;
use std::task::Poll;

use crate::failure::Failure;
use crate::observe::ends::Ends;
use crate::position::{LastRecord, Offset, Partition, TopicId};
use crate::record::Records;

/// Bytes of keys and payloads in a batch, about: what goes into the sandbox at once must leave it room.
pub(crate) const BATCH_BYTES: usize = 8 << 20;
/// Batches that may wait per partition before it is held back.
pub(crate) const QUEUED_BATCHES: usize = 2;

/// Where reading a partition starts, and what must stand there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Partition.
    pub partition: Partition,
    /// The next offset to deliver; none is the partition's beginning.
    pub next: Option<Offset>,
    /// The last record before `next` that this pipeline folded. It is read again and compared, if it is still in the log: another
    /// record there means that the topic was truncated or made anew.
    pub last: Option<LastRecord>,
}

/// What a source says.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one carries thousands of records, a box for each would save nothing"
)]
pub enum Arrival {
    /// Records of one partition, in offset order, following what was delivered before. `append_times` are the records' own timestamps.
    Records {
        /// Partition.
        partition: Partition,
        /// Its next records.
        records: Records,
    },
    /// All that was visible in these partitions' leaders, to a `read_uncommitted` client, when they were asked at `asked_ms` has been
    /// delivered before this.
    Empty {
        /// Those that were wished for, and whatever others were asked with them.
        partitions: Vec<Partition>,
        /// The host's clock just before they were asked, ms since 1970.
        asked_ms: i64,
    },
    /// The partition's last record has been delivered: end of a file, or the end as of the start under `--until-end`.
    End {
        /// Partition.
        partition: Partition,
    },
}

/// A started source: it reads on threads of its own, and no further ahead than so much, so that a slow consumer pauses it.
pub trait Source: Send {
    /// The partitions that this source delivers, ascending.
    fn partitions(&self) -> &[Partition];
    /// The next arrival, waiting at most `timeout`; none after that.
    fn next(&mut self, timeout: std::time::Duration) -> Result<Option<Arrival>, Failure>;
    /// Wants an [`Arrival::Empty`] for these partitions, asked after `after_ms`. Replaces the former wish. A source that cannot be asked
    /// (a file) ignores it.
    fn ask(&mut self, partitions: &[Partition], after_ms: i64);
    /// Holds these partitions back: none of their records is fetched until a call leaves them out. What is under way still arrives.
    fn hold(&mut self, partitions: &[Partition]);
    /// Tells the outside how far the pipeline has come: (partition, next offset). For lag tools only; failures are logged.
    fn commit(&mut self, next: &[(Partition, Offset)]);
    /// How far its partitions reach, for those who watch; none where nobody knows before the end.
    fn ends(&self) -> Option<Arc<Ends>>;
    /// Asks for the id of the log, as of now or later: for those who are about to keep what was made of its records. Replaces the former question.
    fn ask_log_id(&mut self);
    /// The answer, once it is there: the id, or none where the log has none or nobody says. Fails if it is another one than before.
    fn log_id(&mut self) -> Result<Poll<Option<TopicId>>, Failure>;
}

/// The message for a topic that has gained partitions.
pub(crate) fn grown(now: &[Partition], began: &[Partition]) -> String {
    format!(
        "the source has partitions {now:?}, this pipeline began with {began:?}: a grown topic needs a pipeline (state.url) of its own"
    )
}
