//! Stages at which an item can fail, and strikes: what the journal stores of an item that failed alone. Plain data.

use std::fmt;

use crate::record::iso;

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
    /// The plugin's `migrate` struck on the key's state.
    Migrate,
    /// The database refused a row.
    Sink,
}

impl Stage {
    /// All of them, in the order of a record's life.
    pub const ALL: [Stage; 6] = [Stage::Map, Stage::Time, Stage::Fold, Stage::Timer, Stage::Migrate, Stage::Sink];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// Whether its dead letters carry the record as it was in the log.
    pub fn keeps_the_record(self) -> bool {
        matches!(self, Stage::Map | Stage::Time | Stage::Fold)
    }

    /// As dead letters name it.
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

/// What was struck, as the journal names it: a replay leaves out exactly this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum StrikeItem {
    /// A record, by `map-records`.
    Record {
        /// Partition.
        partition: u32,
        /// Offset.
        offset: u64,
    },
    /// An event, by `fold`.
    Event {
        /// Partition of its record.
        partition: u32,
        /// Offset of its record.
        offset: u64,
        /// Its index in the record.
        event: u32,
    },
    /// A firing, by `on-timer`.
    Timer {
        /// The key.
        key: String,
        /// The timer's time.
        time: i64,
        /// Which one, of a timer that was due already when it was set; none of any other, whose time is its key's alone.
        overdue: Option<Overdue>,
    },
    /// A key's state, by `migrate`.
    State {
        /// The key.
        key: String,
        /// The state version that it has.
        version: u32,
    },
}

impl StrikeItem {
    /// Where in the pipeline it was struck.
    pub(crate) fn stage(&self) -> Stage {
        match self {
            StrikeItem::Record { .. } => Stage::Map,
            StrikeItem::Event { .. } => Stage::Fold,
            StrikeItem::Timer { .. } => Stage::Timer,
            StrikeItem::State { .. } => Stage::Migrate,
        }
    }
}

/// One of the firings, at one record, of a key whose events set timers that are due already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Overdue {
    /// Partition of the record.
    pub partition: u32,
    /// Offset of the record.
    pub offset: u64,
    /// How many of them came before.
    pub firing: u32,
}

/// A strike that the journal does not know yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// What was struck.
    pub item: StrikeItem,
    /// The key, if it was not a record.
    pub key: Option<String>,
    /// Partition and offset of the record at which it was, if it was at one.
    pub record: Option<(u32, u64)>,
    /// Why.
    pub reason: String,
}

/// What was struck, and where: the reason is not said.
impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.item {
            StrikeItem::Record { .. } => write!(f, "mapping")?,
            StrikeItem::Event { event, .. } => write!(f, "event {event}")?,
            StrikeItem::Timer { time, .. } => write!(f, "the timer for {} ({time})", iso(*time))?,
            StrikeItem::State { version, .. } => write!(f, "the state of version {version}")?,
        }
        if let Some(key) = &self.key {
            write!(f, " of key {key:?}")?;
        }
        let Some((partition, offset)) = self.record else { return Ok(()) };
        write!(f, " at the record of partition {partition}, offset {offset}")
    }
}
