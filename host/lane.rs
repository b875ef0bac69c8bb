//! lane
pub mod batch;
mod shard;
pub mod time;
