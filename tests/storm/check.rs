//! Whether the rows of a table are those of the model, which is told the log as any consumer reads it, and what the journal decided.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use keyfold::event_time::AppendTime;
use keyfold::position::{Offset, Partition};
use keyfold::state::chained::{Chained, Snapshot};
use keyfold::state::database::{Change, Database, Entries, Error, Visit};
use keyfold::state::journal::Journal;
use keyfold::state::reader::Reader;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::orders::Orders;
use crate::support::generate::TestRecord;
use crate::support::host::Pipeline;
use crate::support::model::folds::{Hostile, Mode};
use crate::support::model::{self, Deployment, Fold, Time};

/// What must be in the table.
pub(crate) struct Truth {
    /// Rows of the model, as they are written one after the other.
    pub(crate) rows: Vec<Value>,
    /// Records that became visible behind the frontier.
    pub(crate) floors: usize,
    /// Deployments that hold.
    pub(crate) deployments: usize,
    /// Events that were accepted.
    pub(crate) events: u64,
    /// Events that were late.
    pub(crate) late: u64,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Truth { rows, floors, deployments, events, late } = self;
        let written = rows.len();
        write!(f, "{events} events, {late} late, {written} rows, {floors} floors, {deployments} deployments in force")
    }
}

/// What a pipeline's state says, read beside its host.
pub(crate) struct StoredState<'a> {
    pipeline: &'a Pipeline,
    by_partition: bool,
    runtime: Runtime,
    objects: Arc<dyn ObjectStore>,
}

impl<'a> StoredState<'a> {
    pub(crate) fn of(pipeline: &'a Pipeline, by_partition: bool) -> StoredState<'a> {
        let files = LocalFileSystem::new_with_prefix(pipeline.path("state")).expect("a host has made the folder");
        let runtime = Runtime::new().expect("threads can be started");
        StoredState { pipeline, by_partition, runtime, objects: Arc::new(files) }
    }

    /// The lanes, each with its part of the log.
    fn lanes(&self, log: &[TestRecord]) -> Vec<(String, Vec<TestRecord>)> {
        if !self.by_partition {
            return vec![("topic".to_owned(), log.to_vec())];
        }
        let partitions: BTreeSet<u32> = log.iter().map(|record| record.partition).collect();
        let own = |p: u32| log.iter().filter(|record| record.partition == p).cloned().collect();
        partitions.into_iter().map(|p| (p.to_string(), own(p))).collect()
    }

    /// Whether checkpoints cover all of these records.
    pub(crate) fn covers(&self, log: &[TestRecord]) -> bool {
        self.lanes(log).iter().all(|(lane, records)| {
            // While the host writes its first one, there may be half of a database.
            let reader = Reader::open(&self.objects, &format!("lanes/{lane}"), self.runtime.handle());
            let checkpoint = reader.ok().flatten().and_then(|reader| reader.checkpoint().cloned());
            let covered = checkpoint.map(|checkpoint| checkpoint.covered()).unwrap_or_default();
            records.iter().all(|r| covered.get(&Partition(r.partition)).is_some_and(|next| next.0 > r.offset))
        })
    }

    /// Asks the model about this log.
    pub(crate) fn truth(&self, log: &[TestRecord], time: Time, orders: &Orders) -> Truth {
        let deployments = self.deployments(time, orders);
        let mut truth = Truth { rows: Vec::new(), floors: 0, deployments: deployments.len(), events: 0, late: 0 };
        for (lane, records) in self.lanes(log) {
            let floors = self.floors(&lane);
            let mut fold = Hostile::new(Mode::Mark);
            fold.configure(crate::FIRST_MARK);
            let folded = model::run_journalled(fold, &records, time, &floors, &deployments);
            truth.rows.extend(folded.values());
            truth.floors += floors.len();
            truth.events += folded.counts.accepted;
            truth.late += folded.counts.late;
        }
        truth
    }

    /// Fails unless the dead letters are of the records that the plugin refuses: each once or more often, and of no others.
    pub(crate) fn assert_letters(&self, log: &[TestRecord]) {
        let listed = self.pipeline.call("dead-letters list", &["--limit", "1000000000", "--output", "json"]);
        let listed = listed.expect_code(0).stdout.lines().map(|line| {
            let letter: Value = serde_json::from_str(line).expect("the answer is JSON");
            (letter["partition"].as_u64().expect("a partition"), letter["offset"].as_u64().expect("an offset"))
        });
        let refused = log.iter().filter(|record| Hostile::new(Mode::Mark).map(record).is_err());
        let refused: BTreeSet<(u64, u64)> = refused.map(|record| (record.partition.into(), record.offset)).collect();
        assert_eq!(listed.collect::<BTreeSet<_>>(), refused, "dead letters, by partition and offset");
    }

    fn floors(&self, lane: &str) -> BTreeMap<(u32, u64), i64> {
        let journal = Chained::reader(&self.objects, &format!("log/lanes/{lane}"), self.runtime.handle());
        let journal = journal.expect("the journal can be read").expect("there is a journal");
        let (_, contents) = Journal::over(Arc::new(ReadOnly(journal))).expect("the journal can be read");
        assert!(contents.strikes.is_empty(), "{:?}", contents.strikes);
        let floor = |((p, o), time): ((Partition, Offset), AppendTime)| ((p.0, o.0), time.ms());
        contents.floors.into_iter().map(floor).collect()
    }

    /// Those that hold, which must be those that were ordered.
    fn deployments(&self, time: Time, orders: &Orders) -> Vec<Deployment> {
        let listed = self.pipeline.call("deployment list", &["--output", "json"]);
        let listed: Vec<Value> = serde_json::from_str(&listed.expect_code(0).stdout).expect("the answer is JSON");
        for ordered in &orders.answered {
            let outcome = if ordered.is_withdrawn { "withdrawn" } else { "confirmed" };
            let found = listed.iter().find(|entry| entry["n"] == ordered.n).expect("what was answered is listed");
            assert_eq!((&found["outcome"], &found["deployment"]["t"]), (&outcome.into(), &ordered.t.into()), "{found}");
        }
        let confirmed = listed.iter().filter(|entry| entry["outcome"] == "confirmed");
        confirmed
            .filter_map(|entry| {
                let t = entry["deployment"]["t"].as_i64()?;
                let config = &entry["deployment"]["settings"]["config"];
                let mark = match config["mark"].as_str() {
                    Some(mark) => mark.to_owned(),
                    None => format!("mode={}", config["mode"].as_str().expect("a mode was ordered")),
                };
                Some(Deployment { t, mark: mark.leak(), time })
            })
            .collect()
    }
}

/// A journal that is read beside its owner.
struct ReadOnly(Snapshot);

impl Entries for ReadOnly {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn get(&self, keys: &[&[u8]]) -> Result<Vec<Option<bytes::Bytes>>, Error> {
        self.0.get(keys)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.0.scan(prefix, from, visit)
    }
}

impl Database for ReadOnly {
    fn write(&self, _: Vec<Change>) -> Result<(), Error> {
        unreachable!("it is only read")
    }

    fn check_ownership(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// How a table differs from what must be in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    /// Rows that are missing.
    pub(crate) lost: usize,
    /// Rows that no log gives, and rows with a list whose elements are there more than once.
    pub(crate) doubled: usize,
    /// Other rows than those that must be there.
    pub(crate) wrong: usize,
    /// The first few.
    examples: Vec<String>,
}

/// Compares the rows of a table with those that were to be written to it, one after the other.
pub(crate) fn compare(table: &[Value], written: &[Value]) -> Differences {
    let by_key = |rows: &[Value]| -> BTreeMap<(String, i64), Value> {
        let key = |row: &Value| (row["k"].as_str().expect("k").to_owned(), row["n"].as_i64().expect("n"));
        rows.iter().map(|row| (key(row), row.clone())).collect()
    };
    let (found, expected) = (by_key(table), by_key(written));
    assert_eq!(found.len(), table.len(), "a table has one row for each primary key");
    let mut differences = Differences::default();
    for key in expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key))) {
        let (found, expected) = (found.get(key), expected.get(key));
        let count = match (found, expected) {
            (Some(found), Some(expected)) if found == expected => continue,
            (None, _) => &mut differences.lost,
            (_, None) => &mut differences.doubled,
            (Some(found), Some(expected)) if has_doubled(&found["items"], &expected["items"]) => {
                &mut differences.doubled
            }
            _ => &mut differences.wrong,
        };
        *count += 1;
        if differences.examples.len() < 10 {
            differences.examples.push(format!("{key:?}: expected {expected:?}, found {found:?}"));
        }
    }
    differences
}

/// Whether a list holds what it should more than once.
fn has_doubled(found: &Value, expected: &Value) -> bool {
    let (Some(found), Some(expected)) = (found.as_array(), expected.as_array()) else { return false };
    !expected.is_empty() && found.len() > expected.len() && expected.iter().all(|item| found.contains(item))
}

impl Differences {
    pub(crate) fn is_none(&self) -> bool {
        self.lost + self.doubled + self.wrong == 0
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lost, {} doubled, {} wrong", self.lost, self.doubled, self.wrong)?;
        self.examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(k: &str, n: i64, v: i64, items: &[&str]) -> Value {
        json!({"table": "out", "k": k, "n": n, "v": v, "items": items})
    }

    fn check(table: &[Value], counts: (usize, usize, usize)) {
        let written = [row("a", 1, 0, &["m0"]), row("a", 2, 2, &["m0"]), row("b", 1, 3, &[]), row("a", 1, 1, &["m1"])];
        let found = compare(table, &written);
        assert_eq!((found.lost, found.doubled, found.wrong), counts, "{found}");
        assert_eq!(found.is_none(), counts == (0, 0, 0));
    }

    #[test]
    fn the_comparison_notices_a_lost_a_doubled_and_a_wrong_row() {
        let [a1, a2, b1] = [row("a", 1, 1, &["m1"]), row("a", 2, 2, &["m0"]), row("b", 1, 3, &[])];
        check(&[b1.clone(), a2.clone(), a1.clone()], (0, 0, 0));
        check(&[a1.clone(), b1.clone()], (1, 0, 0));
        check(&[a1.clone(), a2.clone(), b1.clone(), row("c", 1, 3, &[])], (0, 1, 0));
        check(&[a1.clone(), row("a", 2, 2, &["m0", "m0"]), b1.clone()], (0, 1, 0));
        check(&[row("a", 1, 0, &["m0"]), a2.clone(), b1.clone()], (0, 0, 1));
        check(&[a1, row("a", 2, 7, &["m0"]), row("c", 1, 3, &[])], (1, 1, 1));
        check(&[row("a", 1, 1, &["m1"]), a2, row("b", 1, 3, &["m1"])], (0, 0, 1));
    }
}
