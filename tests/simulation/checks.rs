//! The invariants of the architecture, I1 to I10, each as a check that names it.
//!
//! | invariant | check | when |
//! |---|---|---|
//! | I1 | one worker and batches of one record give the same rows and dead letters | at the end, [`Replay::OneByOne`] |
//! | I2 | rows are acknowledged before a checkpoint covers them; offsets are committed only below checkpoints | at each checkpoint and commit, `states.rs` |
//! | I3 | dead letters are acknowledged before a checkpoint covers them | at each checkpoint, `states.rs` |
//! | I4 | a strike is in the journal before its dead letter leaves; a replay of log and journal gives the same | at each dead letter, `journals.rs`; at the end |
//! | I5 | each row that a host ever sent is right at some time; many workers and large batches give the same | at the end, [`Replay::Cut`] |
//! | I6 | a host whose clock is a day ahead gives the same | at the end, [`Replay::DayAhead`] |
//! | I7 | exactly those events are struck on which the plugin fails alone | at the end |
//! | I8 | no row of a former owner of a lane replaces one of its successor | at each write of a row, `table.rs` |
//! | I9 | each dead letter, and each row that carries a mark, is of the deployment that held at its record; so is the state under each checkpoint | at the end; at each checkpoint |
//! | I10 | no lane goes on with a deployment that was withdrawn; no row is left that only a withdrawn deployment gives | at each checkpoint; at the end |
//!
//! Besides: rows, dead letters, state and timers are those of the model; everything is folded within a bound once nothing fails any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keyfold::deployment::Outcome;
use keyfold::position::{Offset, Partition};
use keyfold::state::reader::{Reader, StoredKey};
use keyfold::strike::StrikeItem;
use object_store::ObjectStore;
use serde_json::Value;

use crate::hosts::Start;
use crate::run::Simulation;
use crate::scheduler::locked;
use crate::settings::{MOST_WORKERS, shared};
use crate::support::model::Lane;
use crate::support::model::folds::Hostile;
use crate::table::Table;
use crate::truth::{self, Truth, Unsigned, differences};
use crate::world::{Letters, Outside};

/// How the log is replayed at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replay {
    /// By one worker, each record a batch.
    OneByOne,
    /// By all workers, in large batches.
    Cut,
    /// On a clock that is a day ahead.
    DayAhead,
}

impl Replay {
    fn start(self) -> Start {
        match self {
            Replay::OneByOne => Start { cut: Some((1, 1)), ..Start::default() },
            Replay::Cut => Start { cut: Some((MOST_WORKERS, 5_000)), ..Start::default() },
            Replay::DayAhead => Start { ahead_ms: 86_400_000, ..Start::default() },
        }
    }

    fn invariant(self) -> &'static str {
        match self {
            Replay::OneByOne => "I1",
            Replay::Cut => "I5",
            Replay::DayAhead => "I6",
        }
    }
}

/// The state of a key: count and sum if it has a value, its items, and its timer.
type State = (Option<(i64, i64)>, Vec<String>, Option<i64>);

impl Simulation {
    /// Without further faults everything is folded to the end, as the model folds it, and a replay from nothing but log and journal gives the
    /// same.
    pub(crate) fn settle(&mut self) {
        if !self.finish(Start::default()) {
            return;
        }
        let rows = truth::without_the_last(self.outside.table.rows());
        let truth = Truth::of(&self.plan, &self.outside.topic, &self.log(), &self.outside.journals);
        self.figures.floors = truth.floors;
        self.figures.records = self.outside.topic.visible().len() as u64;
        self.figures.rows = rows.len() as u64;
        // What only a history gave that is no longer told stays.
        let rows = match truth::reprocessed(&self.log()) {
            Some(_) => rows.into_iter().filter(|(key, _)| truth.rows.contains_key(key)).collect(),
            None => rows,
        };
        self.violations.extend(differences("the rows differ from the model's", &truth.rows, &rows));
        self.violations.extend(self.left_of_withdrawn(&rows));
        self.violations.extend(self.ever_wrong(&truth));
        self.check_shadows();
        self.violations.extend(self.letters(&truth));
        self.violations.extend(self.strikes(&truth));
        self.check_state();
        let before = Arc::clone(&self.outside);
        let replay = *self.random.pick(&[Replay::OneByOne, Replay::Cut, Replay::DayAhead]);
        self.replay(replay, &rows);
        self.violations.extend(before.table.violations());
        self.violations.extend(before.states.violations());
        self.violations.extend(before.journals.violations());
        self.violations.extend(before.topic.violations());
        self.figures.writes = before.table.writes();
    }

    /// Folds log and journal again, into another table.
    fn replay(&mut self, replay: Replay, rows: &BTreeMap<String, Value>) {
        self.lose_checkpoints();
        let (table, letters) = (Arc::new(Table::default()), Arc::new(Letters::default()));
        let before = Arc::clone(&self.outside);
        self.outside =
            Arc::new(Outside { table: Arc::clone(&table), letters: Arc::clone(&letters), ..(*before).clone() });
        if !self.finish(replay.start()) {
            return;
        }
        let (by, again) = (replay.invariant(), truth::without_the_last(table.rows()));
        self.violations.extend(differences(&format!("{by}, I4: a replay gives other rows"), rows, &again));
        let lived = truth::standing(&before.letters.all(), &self.log());
        let again = truth::standing(&letters.all(), &self.log());
        self.violations.extend(differences(&format!("{by}, I4: a replay gives other dead letters"), &lived, &again));
    }

    /// I10: no lane goes on with a deployment that was withdrawn, once it had the time to hear of it and to go back.
    pub(crate) fn check_withdrawn(&mut self) {
        if self.figures.withdrawn == 0 {
            return;
        }
        let now = self.scheduler.now();
        for entry in self.log().deployments().expect("the objects are readable") {
            if entry.outcome == Outcome::Withdrawn {
                self.withdrawn.entry(entry.n).or_insert(now);
            }
        }
        let calm = self.plan.trouble.slow == 0 && self.plan.trouble.faults < 50;
        let bound = Duration::from_secs(if calm { 3 } else { 15 });
        for lane in self.outside.states.lanes() {
            let Some(checkpoint) = self.outside.states.checkpoint(&lane) else { continue };
            let n = checkpoint.deployment;
            let since = self.withdrawn.get(&n).map_or(Duration::ZERO, |withdrawn| now.saturating_sub(*withdrawn));
            let is_new = self.seen.get(&lane) != Some(&checkpoint);
            if is_new && since > bound {
                self.violations.push(format!("I10: lane {lane} folds by deployment {n}, withdrawn {since:?} ago"));
            }
            self.seen.insert(lane, checkpoint);
        }
    }

    /// A shadow of the logic in force gives the same rows.
    fn check_shadows(&mut self) {
        for (is_the_same, report) in std::mem::take(&mut *locked(&self.reports)) {
            self.figures.shadows += 1;
            self.figures.shadowed += report.records;
            let differs = report.different + report.only_live + report.only_candidate > 0;
            if is_the_same && differs {
                self.violations.push(format!("a shadow of the logic in force differs from it: {report:?}"));
            }
        }
    }

    /// I10: rows with marks that only withdrawn deployments have.
    fn left_of_withdrawn(&self, rows: &BTreeMap<String, Value>) -> Option<String> {
        let all = self.log().deployments().expect("the objects are readable");
        let marks = |outcome: Outcome| -> BTreeSet<String> {
            let of = all.iter().filter(|entry| entry.outcome == outcome);
            of.filter_map(|entry| entry.deployment.settings.config["mark"].as_str().map(str::to_owned)).collect()
        };
        let gone: BTreeSet<String> = marks(Outcome::Withdrawn)
            .difference(&marks(Outcome::Confirmed))
            .filter(|mark| !mark.is_empty())
            .cloned()
            .collect();
        let is_gone = |row: &&Value| {
            row["items"]
                .as_array()
                .is_some_and(|items| items.iter().filter_map(Value::as_str).any(|mark| gone.contains(mark)))
        };
        let left = rows.values().find(is_gone)?;
        Some(format!("I10: row {left} is left, and only a withdrawn deployment gives it"))
    }

    /// Whether all deployments so far hold: what others give is not known to the model.
    fn all_hold(&self) -> bool {
        let all = self.log().deployments().expect("the objects are readable");
        all.iter().all(|entry| matches!(entry.outcome, Outcome::Confirmed | Outcome::Voided))
    }

    /// I5: a row that was sent, and is at no time right.
    fn ever_wrong(&self, truth: &Truth) -> Option<String> {
        if !self.all_hold() {
            return None;
        }
        let sent = self.outside.table.sent().into_iter().filter(|(key, _)| !key.contains("last"));
        let (key, row) = sent.into_iter().find(|sent| !truth.ever.contains(sent))?;
        Some(format!("I5: row {row} of {key} was sent, and is at no time right"))
    }

    /// The dead letters, and I9: each names the deployment that held.
    fn letters(&self, truth: &Truth) -> Option<String> {
        let standing = truth::standing(&self.outside.letters.all(), &self.log());
        let mut letters: BTreeMap<Unsigned, BTreeSet<u64>> = BTreeMap::new();
        for (stage, partition, offset, event, deployment) in standing.into_keys() {
            let deployment = deployment.expect("each letter names one");
            letters.entry((stage, partition, offset, event)).or_default().insert(deployment);
        }
        differences("I9: the dead letters differ from the model's", &truth.letters, &letters)
    }

    /// I7: which events the journals say were struck by deployments that hold.
    fn strikes(&self, truth: &Truth) -> Option<String> {
        let hold = truth::holding(&self.log());
        let lanes = truth::lanes(&self.plan, &self.outside.topic);
        let strikes = lanes.iter().flat_map(|(lane, _)| self.outside.journals.of(lane).strikes);
        let of_those = strikes.filter(|(n, _)| hold.contains(n)).flat_map(|(_, strikes)| strikes.into_keys());
        let struck: BTreeSet<_> = of_those.filter(|item| matches!(item, StrikeItem::Event { .. })).collect();
        (struck != truth.struck).then(|| {
            let odd = struck.symmetric_difference(&truth.struck).next();
            format!("I7: {} were struck, {} fail alone; one of the others is {odd:?}", struck.len(), truth.struck.len())
        })
    }

    /// Compares the state under the last checkpoint of each lane with the model's, if there is a new one.
    pub(crate) fn check_state(&mut self) {
        // A live idle advance fires timers before the model hears of the next record.
        if self.plan.time.idle_timeout_ms.is_some() {
            return;
        }
        for (lane, records) in truth::lanes(&self.plan, &self.outside.topic) {
            let Some(checkpoint) = self.outside.states.checkpoint(&lane) else { continue };
            if self.compared.get(&lane) == Some(&checkpoint) || !self.all_hold() {
                continue;
            }
            let found = self.state_of(&lane, &records, &checkpoint.covered());
            self.compared.insert(lane.clone(), checkpoint);
            self.figures.checkpoints += 1;
            let what = format!("I9: the state of lane {lane} differs from the model's");
            self.violations.extend(differences(&what, &found.0, &found.1));
        }
    }

    /// The state that is right after these offsets, and that which is there.
    fn state_of(
        &self,
        lane: &str,
        records: &[crate::support::generate::TestRecord],
        covered: &BTreeMap<Partition, Offset>,
    ) -> (BTreeMap<String, State>, BTreeMap<String, State>) {
        let is_covered =
            |partition: u32, offset: u64| covered.get(&Partition(partition)).is_some_and(|next| offset < next.0);
        let records: Vec<_> = records.iter().filter(|r| is_covered(r.partition, r.offset)).cloned().collect();
        let log = self.log();
        let deployments = truth::deployments(&self.plan, &log);
        let folded = truth::fold(&self.plan, &log, &self.outside.journals.of(lane), &records, &deployments);
        let objects: Arc<dyn ObjectStore> = Arc::clone(&self.outside.objects) as _;
        let reader =
            Reader::open(&objects, &format!("lanes/{lane}"), shared().reading.handle()).expect("the state is readable");
        let keys = reader.expect("it exists").keys(usize::MAX).expect("the state is readable");
        let is_second = folded.fold.is_second();
        let found = keys.iter().map(|key| (name(&key.key), state(key, is_second))).collect();
        (states(&folded), found)
    }
}

fn name(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// The state of each key of the model.
fn states(folded: &Lane<Hostile>) -> BTreeMap<String, State> {
    let mut states: BTreeMap<String, State> = BTreeMap::new();
    for (key, value, items) in folded.fold.states() {
        states.insert(name(key), (value, items.to_vec(), None));
    }
    for (key, timer) in folded.timers() {
        states.entry(name(key)).or_default().2 = Some(*timer);
    }
    states
}

/// The state of a stored key, in the plugin's second version if that is in force: keys are migrated one after the other.
fn state(key: &StoredKey, is_second: bool) -> State {
    let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("the plugin stores eight bytes"));
    let migrates = is_second && key.version == 1;
    let value = key.state.value.as_deref().map(|value| {
        let value = value.strip_prefix(b"second:").unwrap_or(value);
        let more = if migrates { 1000 } else { 0 };
        (number(&value[..8]) + more, number(&value[8..]))
    });
    let item = |item: &[u8]| format!("{}{}", String::from_utf8_lossy(item), if migrates { "'" } else { "" });
    (value, key.state.list.iter().map(item).collect(), key.state.timer.map(|timer| timer.ms()))
}
