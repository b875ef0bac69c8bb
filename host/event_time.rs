//! Times: append times, event times, and the event time of a lane as a checkpoint stores it. [`crate::lane::time`] decides how it moves.

use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::NO_TIME;

/// Defines a time in ms since 1970 UTC. It is ordered by that number, and an `Option` of it has the size of a column's cell, in which the
/// least `i64` ([`NO_TIME`]) stands for `None`.
macro_rules! time {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// Returns the time in a column's cell; `None` for [`NO_TIME`].
            pub fn from_cell(ms: i64) -> Option<$name> {
                NonZeroU64::new(ms.cast_unsigned() ^ (1 << 63)).map($name)
            }

            /// Returns the time this many milliseconds after 1970.
            ///
            /// # Panics
            /// If `ms` is the least `i64`.
            pub fn at(ms: i64) -> $name {
                $name::from_cell(ms).expect("only the least i64 is not a time")
            }

            /// Returns the milliseconds since 1970.
            pub fn ms(self) -> i64 {
                (self.0.get() ^ (1 << 63)).cast_signed()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.ms().fmt(f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.ms().fmt(f)
            }
        }

        impl Cell for $name {
            fn from_cell(ms: i64) -> Option<$name> {
                $name::from_cell(ms)
            }

            fn to_cell(self) -> i64 {
                self.ms()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_i64(self.ms())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let ms = i64::deserialize(deserializer)?;
                $name::from_cell(ms).ok_or_else(|| serde::de::Error::custom(format_args!("{ms} is not a time")))
            }
        }
    };
}

time! {
    /// When a record was appended: its timestamp, made non-decreasing within its partition. It orders records and separates deployments.
    AppendTime
}
time! {
    /// When an event happened, according to the event. Watermarks and timers are event times.
    EventTime
}

/// The last millisecond of the year 2099. A timestamp of this century in microseconds lies far behind it.
pub const LAST_PLAUSIBLE_MS: i64 = 4_102_444_799_999;

/// Why a record's timestamp orders nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implausible {
    /// It has none.
    Missing,
    /// It lies before 1970.
    Early,
    /// It lies after 2099.
    Far,
}

impl Implausible {
    /// All of them.
    pub const ALL: [Implausible; 3] = [Implausible::Missing, Implausible::Early, Implausible::Far];

    /// Returns its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Implausible::Missing => "missing",
            Implausible::Early => "before-1970",
            Implausible::Far => "after-2099",
        }
    }

    /// Returns the reason of the dead letter of a record with this timestamp.
    pub fn reason(self, timestamp: i64) -> String {
        let unit = match (self, timestamp) {
            (Implausible::Missing, _) => return "the record has no timestamp (see time.implausible)".to_owned(),
            (Implausible::Far, ..=4_102_444_799_999_999) => "; it is probably in microseconds",
            (Implausible::Far, ..=4_102_444_799_999_999_999) => "; it is probably in nanoseconds",
            (Implausible::Early | Implausible::Far, _) => "",
        };
        format!("the record's timestamp {timestamp} is not in the years 1970 to 2099{unit} (see time.implausible)")
    }
}

/// How far ahead of a clock a timestamp is far ahead, ms: no two clocks that anybody looks after differ by a day.
pub(crate) const FAR_AHEAD_MS: i64 = 86_400_000;

/// Judges a record's timestamp in ms, as sources give it ([`NO_TIME`] for none; Kafka itself says -1).
pub fn plausible(timestamp: i64) -> Result<AppendTime, Implausible> {
    match timestamp {
        NO_TIME | -1 => Err(Implausible::Missing),
        ..0 => Err(Implausible::Early),
        0..=LAST_PLAUSIBLE_MS => Ok(AppendTime::at(timestamp)),
        _ => Err(Implausible::Far),
    }
}

/// A time that fits in a column's cell.
pub(crate) trait Cell: Copy {
    /// Returns the time in a cell, if there is one.
    fn from_cell(ms: i64) -> Option<Self>;
    /// Returns the cell of this time.
    fn to_cell(self) -> i64;
}

impl Cell for i64 {
    fn from_cell(ms: i64) -> Option<i64> {
        Some(ms).filter(|ms| *ms != NO_TIME)
    }

    fn to_cell(self) -> i64 {
        self
    }
}

/// Returns the cell of an optional time.
pub(crate) fn cell<T: Cell>(time: Option<T>) -> i64 {
    time.map_or(NO_TIME, Cell::to_cell)
}

/// An optional time in stored JSON, encoded as in a column's cell.
pub(crate) mod no_time {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Cell, cell};

    pub(crate) fn serialize<T: Cell, S: Serializer>(time: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(cell(*time))
    }

    pub(crate) fn deserialize<'de, T: Cell, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        i64::deserialize(deserializer).map(T::from_cell)
    }
}

/// A lane's event time, as a checkpoint stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneTime {
    /// The watermark; `None` before the first event.
    #[serde(with = "no_time")]
    pub watermark: Option<EventTime>,
    /// The append time of the last record; `None` before the first.
    #[serde(with = "no_time")]
    pub last_append_time: Option<AppendTime>,
    /// The watermark just after that record, from which an idle advance counts.
    #[serde(with = "no_time")]
    pub base: Option<EventTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_outside_1970_to_2099_is_not_plausible() {
        let judged = |ms| plausible(ms).map(AppendTime::ms);
        assert_eq!([0, 1, LAST_PLAUSIBLE_MS].map(judged), [Ok(0), Ok(1), Ok(LAST_PLAUSIBLE_MS)]);
        assert_eq!([NO_TIME, -1].map(judged), [Err(Implausible::Missing); 2]);
        assert_eq!([NO_TIME + 1, -2].map(judged), [Err(Implausible::Early); 2]);
        assert_eq!([LAST_PLAUSIBLE_MS + 1, i64::MAX].map(judged), [Err(Implausible::Far); 2]);
        assert!(Implausible::Far.reason(1_795_570_132_700_500).contains("microseconds"));
        assert!(Implausible::Far.reason(1_795_570_132_700_500_000).contains("nanoseconds"));
        assert!(!Implausible::Far.reason(i64::MAX).contains("seconds"));
    }

    #[test]
    fn times_are_ordered_by_their_numbers_and_the_least_number_is_none() {
        let times = [i64::MIN + 1, -1, 0, 1, i64::MAX];
        assert!(times.map(EventTime::at).is_sorted());
        assert_eq!(times.map(|ms| AppendTime::at(ms).ms()), times);
        assert_eq!(EventTime::from_cell(NO_TIME), None);
        assert_eq!(size_of::<Option<EventTime>>(), 8);
        assert!(None < EventTime::from_cell(i64::MIN + 1), "none comes before every time");
    }
}
