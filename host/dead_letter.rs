//! What could not be folded, kept: original bytes verbatim, with the reason. Keeps I3: dead letters are acknowledged before a checkpoint
//! that covers them is written.

use crate::record::Records;

/// Where in the pipeline it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The plugin's `map-records` rejected the record, or struck on it.
    Map,
    /// The event's time: out of range, too far in the future, or late under `late = "dead-letter"`.
    Time,
    /// The plugin's `fold` rejected the event, or struck on it.
    Fold,
    /// The plugin's `on-timer` rejected the key, or struck on it.
    Timer,
    /// The database refused a row.
    Sink,
}

/// One dead letter. `Map`, `Time` and `Fold` carry the original record; `Timer` carries the key and its lost state as JSON; `Sink` the row.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Where it happened.
    pub stage: Stage,
    /// Why, in words.
    pub reason: String,
    /// SHA-256 of the plugin's file, hex.
    pub plugin: String,
    /// The record's event, where it is about one event.
    pub event: Option<u32>,
    /// The record (exactly one row; partition, offset, append time, key, payload, headers). For `Timer` and `Sink`: coordinates of the
    /// record that made it happen, with the key (`Timer`) and a JSON payload in place of the original bytes.
    pub record: Records,
}
