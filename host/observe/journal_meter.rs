//! The journal of a lane in numbers, for metrics.

use crate::observe::number::Number;

/// What was written to a lane's journal since the host started, and what it holds.
#[derive(Debug, Default)]
pub struct JournalMeter {
    /// Writes, each of one object.
    pub writes: Number,
    /// Bytes of what they said.
    pub written_bytes: Number,
    /// Writes that said all that the journal holds.
    pub compactions: Number,
    /// Bytes of what it holds.
    pub bytes: Number,
}
