//! What a plugin's calls cost: added up for each function of the contract, over all instances and threads that call it for one lane. No
//! row depends on it.

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
    /// `migrate`.
    Migrate,
}

impl Call {
    /// All of them, in the order in which a batch meets them.
    pub const ALL: [Call; 5] = [Call::Configure, Call::MapRecords, Call::Fold, Call::OnTimer, Call::Migrate];

    /// The contract's name.
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

/// What calls of one kind have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How many there were.
    pub calls: u64,
    /// Their time, columns in and out included.
    pub time: Duration,
    /// Their instructions, about.
    pub fuel: u64,
    /// Those that trapped, erred, broke a limit or answered what does not fit the contract.
    pub failed: u64,
}

/// The sums.
#[derive(Debug, Default)]
pub struct Meter {
    sums: [Sums; 5],
    memory: AtomicU64,
    /// When a call came back last, by [`clock::uptime_us`].
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
    /// Makes a call, which says what it gives and how much fuel it took, and adds what it cost.
    pub(crate) fn measure<T, E>(&self, call: Call, make: impl FnOnce() -> (Result<T, E>, u64)) -> Result<T, E> {
        let began = clock::instant();
        let (given, fuel) = make();
        self.add(call, began.elapsed(), fuel, given.is_err());
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

    /// An instance has this much memory.
    pub(crate) fn memory(&self, bytes: u64) {
        self.memory.fetch_max(bytes, Relaxed);
    }

    /// The greatest memory that an instance had, bytes.
    pub fn most_memory(&self) -> u64 {
        self.memory.load(Relaxed)
    }

    /// When a call came back last, by [`clock::uptime_us`]; 0 if none did.
    pub fn returned_us(&self) -> u64 {
        self.returned_us.load(Relaxed)
    }

    /// What calls of this kind have cost.
    pub fn cost(&self, call: Call) -> Cost {
        self.read(call, |sum| sum.load(Relaxed))
    }

    /// What calls of this kind have cost since it was last asked.
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
