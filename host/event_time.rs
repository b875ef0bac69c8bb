//! Event time of a lane, as a checkpoint stores it. How it moves is [`crate::lane::time`]'s.

use crate::record::NO_TIME;

/// A lane's event time: what a checkpoint keeps of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LaneTime {
    /// The watermark, or [`NO_TIME`] until the first event.
    pub watermark: i64,
    /// Append time of the last record, or [`NO_TIME`].
    pub last_append_time: i64,
    /// The watermark just after that record: what an idle advance counts from.
    pub base: i64,
}

impl Default for LaneTime {
    fn default() -> LaneTime {
        LaneTime { watermark: NO_TIME, last_append_time: NO_TIME, base: NO_TIME }
    }
}
