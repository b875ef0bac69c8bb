//! A simulated database of rows. Writes take effect later, in another order, twice, or never; of two writes of one row the one with the greater
//! timestamp holds, as in CQL.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use keyfold::backoff::Outage;
use keyfold::failure::Failure;
use keyfold::machine::Planted;
use keyfold::position::{Offset, Partition};
use keyfold::row::{Cell, Image, RowRef, Rows};
use keyfold::sink::{Owner, Refusal, Sink};
use serde_json::{Map, Value, json};

use crate::journals::Journals;
use crate::scheduler::{Moment, Process, ProcessId, locked};
use crate::world::{Fault, Outside, dead, step};

/// What is stored under a primary key.
#[derive(Clone, Debug)]
struct Stored {
    timestamp: i64,
    row: Option<Value>,
    /// How many hosts had opened the lane before the one that writes, and that one.
    tenure: u64,
}

/// A write on its way.
#[derive(Clone, Debug)]
struct UnderWay {
    arrives: Duration,
    key: String,
    stored: Stored,
}

/// The database.
#[derive(Debug, Default)]
pub(crate) struct Table {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<String, Stored>,
    under_way: Vec<UnderWay>,
    /// What must never happen, and did.
    violations: Vec<String>,
    writes: u64,
    /// Every row that a host ever sent.
    sent: BTreeSet<(String, String)>,
    /// The records of which rows are not acknowledged, by process.
    unacknowledged: BTreeMap<ProcessId, Vec<(Partition, Offset)>>,
}

impl Table {
    fn state(&self, now: Duration) -> MutexGuard<'_, State> {
        let mut state = locked(&self.state);
        state.arrive(now);
        state
    }

    /// The rows, once everything that is under way has arrived.
    pub(crate) fn rows(&self) -> BTreeMap<String, Value> {
        let state = self.state(Duration::MAX);
        state.rows.iter().filter_map(|(key, stored)| Some((key.clone(), stored.row.clone()?))).collect()
    }

    /// What must never happen, and did.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state(Duration::ZERO).violations.clone()
    }

    /// Every row that a host ever sent, by its key.
    pub(crate) fn sent(&self) -> BTreeSet<(String, String)> {
        self.state(Duration::ZERO).sent.clone()
    }

    /// The records of which a process has sent rows that are not acknowledged.
    pub(crate) fn unacknowledged(&self, process: ProcessId) -> Vec<(Partition, Offset)> {
        self.state(Duration::ZERO).unacknowledged.get(&process).cloned().unwrap_or_default()
    }

    /// How many writes have arrived.
    pub(crate) fn writes(&self) -> u64 {
        self.state(Duration::ZERO).writes
    }
}

impl State {
    fn arrive(&mut self, now: Duration) {
        self.under_way.sort_by_key(|write| write.arrives);
        while self.under_way.first().is_some_and(|write| write.arrives <= now) {
            let UnderWay { key, stored, .. } = self.under_way.remove(0);
            self.writes += 1;
            let held = self.rows.get(&key);
            if held.is_some_and(|held| held.timestamp == stored.timestamp) {
                // A list that is not frozen would have its elements twice.
                self.violations.push(format!("D13: two writes of {key} have the timestamp {}", stored.timestamp));
            }
            if held.is_some_and(|held| held.tenure > stored.tenure && held.timestamp <= stored.timestamp) {
                self.violations
                    .push(format!("I8: a host that lost its lane replaces {key}, which its successor wrote"));
            }
            if held.is_none_or(|held| held.timestamp <= stored.timestamp) {
                self.rows.insert(key, stored);
            }
        }
    }
}

/// A host's connection to the database.
pub(crate) struct Connection {
    pub(crate) table: Arc<Table>,
    pub(crate) process: Arc<Process>,
    pub(crate) faults: u64,
    journals: Arc<Journals>,
    refuses: bool,
    last: i64,
}

impl Connection {
    /// Connects.
    pub(crate) fn new(outside: &Outside, process: &Arc<Process>, faults: u64) -> Connection {
        let (table, journals, process) =
            (Arc::clone(&outside.table), Arc::clone(&outside.journals), Arc::clone(process));
        Connection { table, process, faults, journals, refuses: outside.refuses, last: 0 }
    }

    /// Writes, until it is acknowledged. Each attempt asks for ownership and has timestamps of its own.
    fn put(
        &mut self,
        rows: &[(String, Option<Value>)],
        owner: &dyn Owner,
        journal: Option<String>,
    ) -> Result<(), Failure> {
        let mut first = None;
        loop {
            dead(&self.process)?;
            self.process.reach(Moment::Write);
            let reuses = first.filter(|_| self.process.is_planted(Planted::RetryReusesTimestamp));
            let timestamp = match reuses {
                Some(timestamp) => timestamp,
                None if self.process.is_planted(Planted::WriteAsksNobody) => {
                    self.last.max(keyfold::machine::Machine::now_ms(&*self.process) * 1000) + 1
                }
                None => owner.timestamps(self.last, rows.len())?,
            };
            first = Some(timestamp);
            step(&self.process)?;
            self.last = timestamp + i64::try_from(rows.len()).expect("few") - 1;
            // Images do not say of which lane they are; its name is there by now.
            let path = journal.clone().or_else(|| self.journals.journal_named(owner.lane()));
            let tenure = path.map_or(0, |path| self.journals.tenure(&path, &self.process));
            if self.attempt(rows, timestamp, tenure)? {
                return Ok(());
            }
        }
    }

    fn attempt(&self, rows: &[(String, Option<Value>)], timestamp: i64, tenure: u64) -> Result<bool, Failure> {
        let fault = Fault::pick(&self.process, self.faults);
        let now = self.process.now();
        let mut last = now;
        for ((key, row), timestamp) in rows.iter().zip(timestamp..) {
            // An attempt that fails may have had an effect in part, and much later.
            let delay = match fault {
                Fault::None => self.process.below(20),
                Fault::Lost => continue,
                Fault::AnswerLost if self.process.below(4) == 0 => continue,
                Fault::AnswerLost => self.process.below(if self.process.below(8) == 0 { 8_000 } else { 40 }),
            };
            let arrives = now + Duration::from_millis(delay);
            last = last.max(arrives);
            let stored = Stored { timestamp, row: row.clone(), tenure };
            self.table.state(now).under_way.push(UnderWay { arrives, key: key.clone(), stored });
        }
        let keys: Vec<&str> = rows.iter().map(|(key, _)| key.as_str()).collect();
        self.process.note(&format!(
            "puts {} rows from timestamp {timestamp}: {fault:?} {}",
            rows.len(),
            keys.join(" ")
        ));
        match fault {
            Fault::None => self.process.wait(last.saturating_sub(now) + Duration::from_millis(1)),
            Fault::Lost | Fault::AnswerLost => self.process.wait(Duration::from_millis(50 + self.process.below(400))),
        }
        step(&self.process)?;
        Ok(matches!(fault, Fault::None))
    }
}

/// Whether the database refuses a row, if it refuses some. None of those of the log's last records, whose timers may fire after its end.
pub(crate) fn is_refused(row: &Value) -> bool {
    let is_last = row["k"].as_str().is_some_and(|key| key.starts_with("last"));
    !is_last && row["v"].as_i64().is_some_and(|v| v.rem_euclid(6) == 5)
}

/// A row as JSON, and its primary key.
fn row_of(rows: &Rows, row: RowRef) -> (String, Value) {
    let (_, table) = rows.table(row);
    let (mut values, mut key) = (Map::new(), Map::new());
    values.insert("table".into(), table.name.clone().into());
    for (column, cell) in table.columns.iter().zip(rows.cells(row)) {
        let value = match cell {
            Cell::Null => Value::Null,
            Cell::Boolean(value) => value.into(),
            Cell::Integer(value) | Cell::Timestamp(value) => value.into(),
            Cell::Float(value) => value.into(),
            Cell::Text(value) | Cell::Json(value) => value.into(),
            Cell::Blob(value) => json!(value),
            Cell::TextList(items) => items.iter().collect::<Vec<_>>().into(),
            Cell::IntegerList(items) => json!(items),
        };
        if column.primary_key {
            key.insert(column.name.clone(), value.clone());
        }
        values.insert(column.name.clone(), value);
    }
    (Value::Object(key).to_string(), Value::Object(values))
}

/// The key of a row of the model.
pub(crate) fn key_of(row: &Value) -> String {
    json!({"k": row["k"], "n": row["n"]}).to_string()
}

impl Sink for Connection {
    fn write(&mut self, rows: &Rows, owner: &dyn Owner) -> Result<Vec<Refusal>, Failure> {
        let all = rows.order.iter().map(|&row| (row, row_of(rows, row)));
        let (refused, taken): (Vec<_>, Vec<_>) = all.partition(|(_, (_, row))| self.refuses && is_refused(row));
        {
            let mut state = self.table.state(Duration::ZERO);
            let of = rows.order.iter().map(|row| (row.origin.partition, row.origin.offset)).collect();
            state.unacknowledged.insert(self.process.id, of);
            state.sent.extend(taken.iter().map(|(_, (key, row))| (key.clone(), row.to_string())));
        }
        let taken: Vec<_> = taken.into_iter().map(|(_, (key, row))| (key, Some(row))).collect();
        if !taken.is_empty() {
            let journal = rows.order.first().map(|row| self.journals.journal_of(row.origin.partition));
            let written = self.put(&taken, owner, journal);
            if written.as_ref().is_err_and(|failure| failure.is_fenced) {
                // Its successor writes them, and this host goes on with other lanes.
                self.table.state(Duration::ZERO).unacknowledged.remove(&self.process.id);
            }
            written?;
        }
        self.table.state(Duration::ZERO).unacknowledged.remove(&self.process.id);
        let reason = || "it is one of those that are refused".to_owned();
        let refusal =
            |(row, (_, values)): (RowRef, (String, Value))| Refusal { row, json: values.to_string(), reason: reason() };
        Ok(refused.into_iter().map(refusal).collect())
    }

    fn length(&mut self) -> Result<Option<u64>, Failure> {
        dead(&self.process).map(|()| None)
    }

    fn truncate(&mut self, _: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn images(&mut self, rows: &Rows, at: &[usize]) -> Result<Vec<Image>, Failure> {
        self.process.wait_a_moment();
        dead(&self.process)?;
        let state = self.table.state(self.process.now());
        let image = |&at: &usize| {
            let (key, _) = row_of(rows, rows.order[at]);
            let row = state.rows.get(&key).and_then(|stored| stored.row.as_ref()).map(Value::to_string);
            Image { table: rows.table(rows.order[at]).1.name.clone(), key, row }
        };
        Ok(at.iter().map(image).collect())
    }

    fn restore(&mut self, images: &[Image], owner: &dyn Owner) -> Result<(), Failure> {
        let mut of_key: BTreeMap<String, Option<Value>> = BTreeMap::new();
        for image in images {
            let row = image.row.as_ref().map(|row| serde_json::from_str(row).expect("it was written here"));
            of_key.entry(image.key.clone()).or_insert(row); // the first one counts
        }
        self.process.note(&format!("restores {} rows", of_key.len()));
        if of_key.is_empty() {
            return Ok(());
        }
        let journal = self.journals.journal_named(owner.lane());
        self.put(&of_key.into_iter().collect::<Vec<_>>(), owner, journal)
    }

    fn outage(&self) -> Arc<Outage> {
        Arc::default()
    }
}
