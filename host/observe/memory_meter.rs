//! The keys of a lane that are in memory, in numbers, for metrics.

use crate::observe::number::Number;

/// What keyed state takes in memory, and how keys come and go.
#[derive(Debug, Default)]
pub struct MemoryMeter {
    /// Bytes of keys in memory, and of what is kept of the files of state, about.
    pub bytes: Number,
    /// Keys in memory.
    pub keys: Number,
    /// Keys that were read from the store because they were needed.
    pub read: Number,
    /// Keys that were evicted.
    pub evicted: Number,
}
