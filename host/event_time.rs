//! Times: append times, event times, and the event time of a lane as a checkpoint stores it. How a lane's time moves is
//! [`crate::lane::time`]'s.

use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::NO_TIME;

/// A point in time in ms since 1970 UTC, stored so that its order is that of the number and an `Option` of it is as small as a column's
/// cell: there the least `i64` ([`NO_TIME`]) means none.
macro_rules! time {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// The time in a column's cell; none for [`NO_TIME`].
            pub fn from_cell(ms: i64) -> Option<$name> {
                NonZeroU64::new(ms.cast_unsigned() ^ (1 << 63)).map($name)
            }

            /// This many milliseconds since 1970.
            ///
            /// # Panics
            /// For the least `i64`, which is no time.
            pub fn at(ms: i64) -> $name {
                $name::from_cell(ms).expect("the least i64 is no time")
            }

            /// Milliseconds since 1970.
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
                $name::from_cell(ms).ok_or_else(|| serde::de::Error::custom("the least i64 is no time"))
            }
        }
    };
}

time! {
    /// When a record was appended: its timestamp made non-decreasing within its partition. Orders records, cuts deployments.
    AppendTime
}
time! {
    /// When an event happened, by its own word: what watermarks and timers count in.
    EventTime
}

/// What a column's cell of times holds.
pub(crate) trait Cell: Copy {
    /// The time in the cell, if there is one.
    fn from_cell(ms: i64) -> Option<Self>;
    /// The cell of this time.
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

/// The cell of a time that may be none.
pub(crate) fn cell<T: Cell>(time: Option<T>) -> i64 {
    time.map_or(NO_TIME, Cell::to_cell)
}

/// How stored JSON carries a time that may be none: as a column does.
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

/// A lane's event time: what a checkpoint keeps of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneTime {
    /// The watermark; none until the first event.
    #[serde(with = "no_time")]
    pub watermark: Option<EventTime>,
    /// Append time of the last record; none before the first.
    #[serde(with = "no_time")]
    pub last_append_time: Option<AppendTime>,
    /// The watermark just after that record: what an idle advance counts from.
    #[serde(with = "no_time")]
    pub base: Option<EventTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ordered_as_their_numbers_and_the_least_is_none() {
        let times = [i64::MIN + 1, -1, 0, 1, i64::MAX];
        assert!(times.map(EventTime::at).is_sorted());
        assert_eq!(times.map(|ms| AppendTime::at(ms).ms()), times);
        assert_eq!(EventTime::from_cell(NO_TIME), None);
        assert_eq!(size_of::<Option<EventTime>>(), 8);
        assert!(None < EventTime::from_cell(i64::MIN + 1), "none comes before every time");
    }
}
