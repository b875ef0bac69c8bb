//! Counts of a batch: plain numbers, added up over batches.

/// The counts of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records.
    pub records: u64,
    /// Events that `map` made.
    pub events: u64,
    /// Rejected records and events, including strikes.
    pub rejected: u64,
    /// Late events.
    pub late: u64,
    /// Rows.
    pub rows: u64,
    /// Timer firings.
    pub firings: u64,
    /// Calls of `fold` and `on-timer`.
    pub calls: u64,
}

impl Counts {
    /// Adds the counts of another batch.
    pub(crate) fn add(&mut self, other: &Counts) {
        self.records += other.records;
        self.events += other.events;
        self.rejected += other.rejected;
        self.late += other.late;
        self.rows += other.rows;
        self.firings += other.firings;
        self.calls += other.calls;
    }
}
