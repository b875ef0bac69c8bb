//! What a plugin's calls cost: added up for each function of the contract, over all instances and threads. No row depends on it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock;

/// What an instance is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Making and configuring it.
    Configure,
    /// `map-records`.
    MapRecords,
    /// `fold`.
    Fold,
    /// `on-timer`.
    OnTimer,
}

impl Call {
    /// All of them, in the order in which a batch meets them.
    pub const ALL: [Call; 4] = [Call::Configure, Call::MapRecords, Call::Fold, Call::OnTimer];

    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Call::Configure => "configure",
            Call::MapRecords => "map-records",
            Call::Fold => "fold",
            Call::OnTimer => "on-timer",
        }
    }
}

/// What calls of one kind have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How many there were.
    pub calls: u64,
    /// Their time, columns in and out included.
    pub time: Duration,
    /// Their instructions, about.
    pub fuel: u64,
}

/// The sums.
#[derive(Debug, Default)]
pub struct Meter([Sums; 4]);

#[derive(Debug, Default)]
struct Sums {
    calls: AtomicU64,
    nanoseconds: AtomicU64,
    fuel: AtomicU64,
}

impl Meter {
    /// Makes a call, which says what it gives and how much fuel it took, and adds what it cost.
    pub(super) fn measure<T>(&self, call: Call, make: impl FnOnce() -> (T, u64)) -> T {
        let began = clock::instant();
        let (given, fuel) = make();
        self.add(call, began.elapsed(), fuel);
        given
    }

    fn add(&self, call: Call, time: Duration, fuel: u64) {
        let sums = &self.0[call as usize];
        sums.calls.fetch_add(1, Relaxed);
        sums.nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        sums.fuel.fetch_add(fuel, Relaxed);
    }

    /// What calls of this kind have cost since it was last asked.
    pub fn take(&self, call: Call) -> Cost {
        let sums = &self.0[call as usize];
        Cost {
            calls: sums.calls.swap(0, Relaxed),
            time: Duration::from_nanos(sums.nanoseconds.swap(0, Relaxed)),
            fuel: sums.fuel.swap(0, Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_add_up_by_function_until_they_are_taken() {
        let meter = Meter::default();
        meter.add(Call::Fold, Duration::from_nanos(3), 10);
        meter.add(Call::Fold, Duration::from_nanos(4), 5);
        meter.add(Call::OnTimer, Duration::from_nanos(1), 1);
        assert_eq!(meter.take(Call::Fold), Cost { calls: 2, time: Duration::from_nanos(7), fuel: 15 });
        assert_eq!(meter.take(Call::Fold), Cost::default());
        assert_eq!(meter.take(Call::OnTimer).calls, 1);
        assert_eq!(meter.take(Call::MapRecords), Cost::default());
    }
}
