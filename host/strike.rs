//! Strikes, and the stages of a record's life at which they happen. A strike is an item that failed alone, as the journal stores it. Plain
//! data.

use std::fmt;

use crate::event_time::EventTime;
use crate::position::{Offset, Partition};
use crate::record::iso;

/// A stage of the pipeline at which an item can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The plugin's `map-records` rejected the record, or failed on it.
    Map,
    /// The event's time is out of range, too far in the future, or late under `late = "dead-letter"`.
    Time,
    /// The plugin's `fold` rejected the event, or failed on it.
    Fold,
    /// The plugin's `on-timer` rejected the key, or failed on it.
    Timer,
    /// The plugin's `migrate` failed on the key's state.
    Migrate,
    /// The sink's database refused a row.
    Sink,
}

impl Stage {
    /// All stages, in the order of a record's life.
    pub const ALL: [Stage; 6] = [Stage::Map, Stage::Time, Stage::Fold, Stage::Timer, Stage::Migrate, Stage::Sink];

    /// Returns the stage of this name.
    pub fn named(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// Returns whether a dead letter of this stage carries the record as it was in the log.
    pub fn keeps_the_record(self) -> bool {
        matches!(self, Stage::Map | Stage::Time | Stage::Fold)
    }

    /// Returns whether a dead letter of this stage names the record at which it happened.
    pub fn names_a_record(self) -> bool {
        self != Stage::Migrate
    }

    /// Returns the name, as dead letters carry it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Map => "map",
            Stage::Time => "time",
            Stage::Fold => "fold",
            Stage::Timer => "timer",
            Stage::Migrate => "migrate",
            Stage::Sink => "sink",
        }
    }
}

/// What failed. Every replay leaves out exactly this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum StrikeItem {
    /// A record, in `map-records`.
    Record {
        /// Partition.
        partition: Partition,
        /// Offset.
        offset: Offset,
    },
    /// An event, in `fold`.
    Event {
        /// Partition of its record.
        partition: Partition,
        /// Offset of its record.
        offset: Offset,
        /// Its index in the record.
        event: u32,
    },
    /// A firing, in `on-timer`.
    Timer {
        /// The key.
        key: String,
        /// The timer's time.
        time: EventTime,
        /// Which firing, if the timer was already due when it was set; `None` for any other, which the key and the time identify.
        overdue: Option<Overdue>,
    },
    /// A key's state, in `migrate`.
    State {
        /// The key.
        key: String,
        /// Its state version.
        version: u32,
    },
}

impl StrikeItem {
    /// Returns the stage at which it failed.
    pub(crate) fn stage(&self) -> Stage {
        match self {
            StrikeItem::Record { .. } => Stage::Map,
            StrikeItem::Event { .. } => Stage::Fold,
            StrikeItem::Timer { .. } => Stage::Timer,
            StrikeItem::State { .. } => Stage::Migrate,
        }
    }
}

/// One of the firings of a key at one record whose events set timers that are already due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Overdue {
    /// Partition of the record.
    pub partition: Partition,
    /// Offset of the record.
    pub offset: Offset,
    /// The number of firings before this one.
    pub firing: u32,
}

/// A strike that is not in the journal yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// What failed.
    pub item: StrikeItem,
    /// The key, unless a record failed.
    pub key: Option<String>,
    /// Partition and offset of the record at which it happened, if it happened at one.
    pub record: Option<(Partition, Offset)>,
    /// Why it failed.
    pub reason: String,
}

/// What failed and where, without the reason.
impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.item {
            StrikeItem::Record { .. } => write!(f, "mapping")?,
            StrikeItem::Event { event, .. } => write!(f, "event {event}")?,
            StrikeItem::Timer { time, .. } => write!(f, "the timer for {} ({time})", iso(time.ms()))?,
            StrikeItem::State { version, .. } => write!(f, "the state of version {version}")?,
        }
        if let Some(key) = &self.key {
            write!(f, " of key {key:?}")?;
        }
        let Some((partition, offset)) = self.record else { return Ok(()) };
        write!(f, " at the record of partition {partition}, offset {offset}")
    }
}
