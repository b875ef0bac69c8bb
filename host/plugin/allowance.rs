//! what trying a plugin may cost in all. Limits belong to one item and a trial has thousands, so a plugin that keeps just below them could take
//! hours and fill the host's memory before anybody trusts it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::plugin::Fault;

/// Fuel of a trial: about a minute of one core.
const FUEL: u64 = 50_000_000_000;
/// More fuel for each record.
const FUEL_OF_RECORD: u64 = 10_000_000;
/// Bytes that the calls of a trial may return.
const BYTES: u64 = 256 << 20;
/// More bytes for each byte that is tried.
const BYTES_OF_BYTE: u64 = 16;

/// What is left of it, over all threads.
#[derive(Debug)]
pub(super) struct Allowance {
    fuel: AtomicU64,
    bytes: AtomicU64,
}

impl Allowance {
    /// Returns what a trial on so many records of so many bytes may cost.
    pub(super) fn of(records: usize, bytes: usize) -> Allowance {
        let allowance = Allowance { fuel: FUEL.into(), bytes: BYTES.into() };
        allowance.raise(records, bytes);
        allowance
    }

    /// Adds what so many more items of so many bytes may cost, unless it is used up.
    pub(super) fn raise(&self, items: usize, bytes: usize) {
        let (fuel, bytes) =
            ((items as u64).saturating_mul(FUEL_OF_RECORD), (bytes as u64).saturating_mul(BYTES_OF_BYTE));
        for (left, more) in [(&self.fuel, fuel), (&self.bytes, bytes)] {
            // What is used up stays used up: the closure returns nothing then.
            let _ = left.fetch_update(Relaxed, Relaxed, |left| (left > 0).then(|| left.saturating_add(more)));
        }
    }

    /// Fails if it is used up. That is no strike: it says nothing about the item that comes next.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let spent =
            |what: &str| Err(Fault::Host(format!("the plugin {what} than a trial may, so the rest was not tried")));
        match (self.fuel.load(Relaxed), self.bytes.load(Relaxed)) {
            (0, _) => spent("used more fuel"),
            (_, 0) => spent("returned more bytes"),
            _ => Ok(()),
        }
    }

    /// Takes what a call has cost.
    pub(super) fn spend(&self, fuel: u64, bytes: usize) {
        for (left, cost) in [(&self.fuel, fuel), (&self.bytes, bytes as u64)] {
            // The closure always returns a value.
            let _ = left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(cost)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_ends_once_its_fuel_or_its_bytes_are_used_up() {
        let bytes = usize::try_from(BYTES).expect("memory is addressed by more bits");
        let reason = |fuel, bytes| {
            let allowance = Allowance::of(1, 1);
            allowance.spend(fuel, bytes);
            allowance.check().err().map(Fault::text)
        };
        assert_eq!(reason(FUEL, bytes + 15), None);
        assert!(reason(FUEL + FUEL_OF_RECORD, 0).is_some_and(|reason| reason.contains("fuel")));
        assert!(reason(u64::MAX, 0).is_some_and(|reason| reason.contains("fuel")));
        assert!(reason(0, bytes + 16).is_some_and(|reason| reason.contains("bytes")));
    }
}
