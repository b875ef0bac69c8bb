//! A host's tenure of a lane: the write timestamps that it may use. They are reserved in the lane's journal, which only the lane's owner can
//! write. So every timestamp of a later owner is greater than all that an earlier one can still use, however late its writes arrive (I8).

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::machine;
use crate::state::database::{Database, Error, value};

const TENURE: &[u8] = b"tenure";

/// How many timestamps are reserved at once, in microseconds: a host that writes all the time writes the journal once in this time.
const RESERVED_US: i64 = 10_000_000;

/// What the journal holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reserved {
    /// A random name of the lane that no other lane of any pipeline has.
    name: String,
    /// The last timestamp that an owner may have used, in microseconds since 1970 UTC.
    until: i64,
}

/// The tenure of the host that opened the journal.
pub struct Tenure {
    database: Arc<dyn Database>,
    clock: Arc<dyn Clock>,
    name: String,
    timestamps: Mutex<Timestamps>,
}

struct Timestamps {
    /// The last one that was used, by this host or one before it.
    last: i64,
    /// The last one that is reserved for this host; none is if it is not greater than `last`.
    until: i64,
}

impl Tenure {
    /// Begins the tenure of the host that has opened this journal.
    pub(super) fn begin(database: Arc<dyn Database>, clock: Arc<dyn Clock>) -> Result<Tenure, Error> {
        let held = value(&*database, TENURE)?.map(|held| {
            serde_json::from_slice::<Reserved>(&held).map_err(|e| {
                let name = database.name();
                Error::Unreadable(format!(
                    "state.url: cannot read {name}: {e}; run the keyfold version that wrote it, or a newer one"
                ))
            })
        });
        let Reserved { name, until } = held.transpose()?.unwrap_or_else(|| Reserved { name: random(), until: 0 });
        Ok(Tenure { database, clock, name, timestamps: Mutex::new(Timestamps { last: until, until }) })
    }

    /// Returns the lane's random name. It stays with the journal.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the first of `count` consecutive write timestamps, in microseconds since 1970 UTC. They are greater than `after`, than all
    /// that were returned before, and than all of earlier owners. Fails with [`Error::Fenced`] once another host owns the lane and the
    /// timestamps that are reserved for this one are used up.
    pub fn timestamps(&self, after: i64, count: usize) -> Result<i64, Error> {
        let mut timestamps = machine::lock(&self.timestamps);
        let now = self.clock.now_ms().saturating_mul(1_000);
        let first = now.max(timestamps.last + 1).max(after + 1);
        let last = first + i64::try_from(count).unwrap_or(i64::MAX).max(1) - 1;
        if last > timestamps.until {
            let reserved = Reserved { name: self.name.clone(), until: last + RESERVED_US };
            let entry = serde_json::to_vec(&reserved).expect("plain data becomes JSON");
            self.database.write(vec![(TENURE.to_vec(), Some(entry))])?;
            timestamps.until = reserved.until;
        }
        timestamps.last = last;
        Ok(first)
    }
}

/// Returns a random name.
fn random() -> String {
    format!("{:016x}{:016x}", machine::random(), machine::random())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::state::memory::MemoryDisk;

    const NOW_MS: i64 = 1_800_000_000_000;
    const NOW: i64 = NOW_MS * 1_000;

    fn clock(now_ms: i64) -> Arc<ManualClock> {
        Arc::new(ManualClock::new(now_ms))
    }

    fn begin(disk: &MemoryDisk, clock: &Arc<ManualClock>) -> Tenure {
        Tenure::begin(Arc::new(disk.open("log/lanes/0")), Arc::clone(clock) as _).expect("it is readable")
    }

    #[test]
    fn timestamps_follow_the_clock_rise_strictly_and_are_reserved_ten_seconds_at_a_time() {
        let (disk, clock) = (MemoryDisk::default(), clock(NOW_MS));
        let tenure = begin(&disk, &clock);
        assert_eq!(tenure.timestamps(0, 3).expect("it owns the lane"), NOW);
        assert_eq!(tenure.timestamps(0, 1).expect("it owns the lane"), NOW + 3);
        let calls = disk.calls();
        clock.set(NOW_MS + 9_000);
        assert_eq!(tenure.timestamps(0, 1).expect("it owns the lane"), NOW + 9_000_000);
        clock.set(NOW_MS - 3_600_000);
        assert_eq!(tenure.timestamps(0, 1).expect("it owns the lane"), NOW + 9_000_001);
        assert_eq!(disk.calls(), calls, "they were reserved");
        assert_eq!(tenure.timestamps(NOW + 9_500_000, 1).expect("it owns the lane"), NOW + 9_500_001);
        clock.set(NOW_MS + 10_001);
        assert_eq!(tenure.timestamps(0, 1).expect("it owns the lane"), NOW + 10_001_000);
        assert_eq!(disk.calls(), calls + 1);
    }

    #[test]
    fn i8_each_timestamp_of_a_later_owner_is_greater_than_all_that_an_earlier_one_can_use() {
        let disk = MemoryDisk::default();
        // The second host's clock is an hour behind.
        let (early, late) = (clock(NOW_MS), clock(NOW_MS - 3_600_000));
        let first = begin(&disk, &early);
        let mut used = vec![first.timestamps(0, 1).expect("it owns the lane")];
        let second = begin(&disk, &late);
        assert_eq!(first.name(), second.name());
        // What is reserved may still be used: it ranks below.
        early.set(NOW_MS + 9_999);
        used.push(first.timestamps(0, 1).expect("it was reserved"));
        let taken = second.timestamps(0, 1).expect("it owns the lane");
        assert!(used.iter().all(|&used| used < taken), "{used:?} {taken}");
        // More is not.
        early.set(NOW_MS + 10_001);
        for _ in 0..2 {
            let refused = first.timestamps(0, 1).expect_err("it lost the lane");
            assert!(matches!(refused, Error::Fenced(_)), "{refused}");
        }
        let third = begin(&disk, &late);
        assert!(third.timestamps(0, 1).expect("it owns the lane") > taken);
    }

    #[test]
    fn a_stored_tenure_is_what_it_always_was() {
        let disk = MemoryDisk::default();
        let database = disk.open("log/lanes/0");
        let stored = br#"{"name":"0123","until":2000000000000000000}"#;
        database.write(vec![(b"tenure".to_vec(), Some(stored.to_vec()))]).expect("it is written");
        let tenure = begin(&disk, &clock(NOW_MS));
        assert_eq!(
            (tenure.name(), tenure.timestamps(0, 1).expect("it owns the lane")),
            ("0123", 2_000_000_000_000_000_001)
        );
        let next = value(&disk.open_reader("log/lanes/0"), TENURE).expect("it is readable").expect("it is there");
        assert_eq!(next, br#"{"name":"0123","until":2000000000010000001}"#);
        database.write(vec![(TENURE.to_vec(), Some(b"[]".to_vec()))]).expect_err("it lost the lane");
        disk.open("log/lanes/0").write(vec![(TENURE.to_vec(), Some(b"[]".to_vec()))]).expect("it is written");
        let database = Arc::new(disk.open("log/lanes/0"));
        let refused = Tenure::begin(database, clock(NOW_MS)).err().expect("it is of another version");
        assert!(refused.to_string().contains("run the keyfold version that wrote it"), "{refused}");
    }

    #[test]
    fn a_host_that_used_no_timestamp_reserves_none() {
        let (disk, clock) = (MemoryDisk::default(), clock(NOW_MS));
        let name = begin(&disk, &clock).name().to_owned();
        assert_eq!(name.len(), 32);
        assert_eq!(value(&disk.open_reader("log/lanes/0"), TENURE).expect("it is readable"), None);
    }
}
