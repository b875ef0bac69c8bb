//! The cost of a plugin's calls: totals per function of the contract, over all instances and threads of one lane. No row depends on it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock;

/// The functions of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Creating and configuring an instance.
    Configure,
    /// `map-records`.
    MapRecords,
    /// `fold`.
    Fold,
    /// `on-timer`.
    OnTimer,
    /// `migrate`.
    Migrate,
}

impl Call {
    /// All functions, in the order in which a batch calls them.
    pub const ALL: [Call; 5] = [Call::Configure, Call::MapRecords, Call::Fold, Call::OnTimer, Call::Migrate];

    /// Returns its name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Call::Configure => "configure",
            Call::MapRecords => "map-records",
            Call::Fold => "fold",
            Call::OnTimer => "on-timer",
            Call::Migrate => "migrate",
        }
    }
}

/// The cost of the calls of one function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Number of calls.
    pub calls: u64,
    /// Total time, including the transfer of columns.
    pub time: Duration,
    /// Total fuel, about one unit per instruction.
    pub fuel: u64,
    /// Calls that trapped, returned an error, exceeded a limit or violated the contract.
    pub failed: u64,
}

/// The totals.
#[derive(Debug, Default)]
pub struct Meter {
    sums: [Sums; 5],
    memory: AtomicU64,
    /// Time of the last return from a call, by [`clock::uptime_us`].
    returned_us: AtomicU64,
}

#[derive(Debug, Default)]
struct Sums {
    calls: AtomicU64,
    failed: AtomicU64,
    nanoseconds: AtomicU64,
    fuel: AtomicU64,
}

impl Meter {
    /// Runs a call, which returns its result and its fuel, and adds its cost.
    pub(crate) fn measure<T, E>(&self, call: Call, make: impl FnOnce() -> (Result<T, E>, u64)) -> Result<T, E> {
        let began = clock::instant();
        let (given, fuel) = make();
        self.add(call, clock::since(began), fuel, given.is_err());
        self.returned_us.store(clock::uptime_us(), Relaxed);
        given
    }

    fn add(&self, call: Call, time: Duration, fuel: u64, failed: bool) {
        let sums = &self.sums[call as usize];
        sums.calls.fetch_add(1, Relaxed);
        sums.failed.fetch_add(u64::from(failed), Relaxed);
        sums.nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        sums.fuel.fetch_add(fuel, Relaxed);
    }

    /// Records the memory of an instance.
    pub(crate) fn memory(&self, bytes: u64) {
        self.memory.fetch_max(bytes, Relaxed);
    }

    /// Returns the most memory that an instance has used, bytes.
    pub fn most_memory(&self) -> u64 {
        self.memory.load(Relaxed)
    }

    /// Returns when a call last returned, by [`clock::uptime_us`]; 0 if none has.
    pub fn returned_us(&self) -> u64 {
        self.returned_us.load(Relaxed)
    }

    /// Returns the cost of the calls of a function.
    pub fn cost(&self, call: Call) -> Cost {
        self.read(call, |sum| sum.load(Relaxed))
    }

    /// Returns and resets the cost of the calls of a function.
    pub fn take(&self, call: Call) -> Cost {
        self.read(call, |sum| sum.swap(0, Relaxed))
    }

    fn read(&self, call: Call, read: impl Fn(&AtomicU64) -> u64) -> Cost {
        let sums = &self.sums[call as usize];
        Cost {
            calls: read(&sums.calls),
            time: Duration::from_nanos(read(&sums.nanoseconds)),
            fuel: read(&sums.fuel),
            failed: read(&sums.failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_add_up_by_function_until_they_are_taken() {
        let meter = Meter::default();
        meter.add(Call::Fold, Duration::from_nanos(3), 10, false);
        meter.add(Call::Fold, Duration::from_nanos(4), 5, true);
        meter.add(Call::OnTimer, Duration::from_nanos(1), 1, false);
        let both = Cost { calls: 2, time: Duration::from_nanos(7), fuel: 15, failed: 1 };
        assert_eq!((meter.cost(Call::Fold), meter.take(Call::Fold)), (both, both));
        assert_eq!(meter.take(Call::Fold), Cost::default());
        assert_eq!(meter.take(Call::OnTimer).calls, 1);
        assert_eq!(meter.take(Call::MapRecords), Cost::default());
    }
}
