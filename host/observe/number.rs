//! Numbers and histograms in atomics, which one thread writes and others read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        if more > 0 {
            self.0.fetch_add(more, Relaxed);
        }
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Returns it.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Number; BOUNDS_US.len()],
    count: Number,
    sum_us: Number,
}

/// Upper bounds of the buckets: from a write to a file up to an outage, microseconds.
pub const BOUNDS_US: [u64; 14] = [
    100, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 15_000_000,
    60_000_000,
];

impl Histogram {
    /// Adds a duration.
    pub fn add(&self, us: u64) {
        if let Some(bucket) = BOUNDS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].add(1);
        }
        self.sum_us.add(us);
        self.count.add(1);
    }

    /// Returns each bound with the number of durations up to it.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut so_far = 0;
        BOUNDS_US.into_iter().zip(&self.buckets).map(move |(bound, bucket)| {
            so_far += bucket.get();
            (bound, so_far)
        })
    }

    /// Returns the number of durations and their sum, microseconds.
    pub fn count_and_sum_us(&self) -> (u64, u64) {
        (self.count.get(), self.sum_us.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_durations_up_to_each_bound() {
        let histogram = Histogram::default();
        [50, 100, 900, 70_000_000].iter().for_each(|us| histogram.add(*us));
        let buckets: Vec<(u64, u64)> = histogram.buckets().collect();
        assert_eq!(buckets[..3], [(100, 2), (1_000, 3), (2_500, 3)]);
        assert_eq!(buckets[13], (60_000_000, 3));
        assert_eq!(histogram.count_and_sum_us(), (4, 70_001_050));
    }
}
