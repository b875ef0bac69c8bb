//! The truth: what the naive model makes of the log and of what the journal decided.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use keyfold::deployment::{Entry, Outcome, PipelineLog};
use keyfold::position::{Offset, Partition};
use keyfold::state::journal::Contents;
use keyfold::strike::StrikeItem;
use serde_json::Value;

use crate::broker::Topic;
use crate::journals::Journals;
use crate::plan::{CONTENDER, MARKS, MORE_MARKS, Plan};
use crate::support::generate::TestRecord;
use crate::support::model::folds::{Hostile, SECOND_VERSION};
use crate::support::model::{self, Deployment, Fold};
use crate::table::{is_refused, key_of};
use crate::world::Named;

/// What must be there.
#[derive(Default)]
pub(crate) struct Truth {
    /// The rows, by primary key.
    pub(crate) rows: BTreeMap<String, Value>,
    /// Every row that is right at some time, by primary key.
    pub(crate) ever: BTreeSet<(String, String)>,
    /// The dead letters, each with the deployments that wrote it: timers of one record can fire before and after one begins to hold.
    pub(crate) letters: BTreeMap<Unsigned, BTreeSet<u64>>,
    /// The events on which the plugin fails.
    pub(crate) struck: BTreeSet<StrikeItem>,
    /// Floors in the journals.
    pub(crate) floors: u64,
}

/// A dead letter without the deployment that wrote it: stage, partition, offset, event.
pub(crate) type Unsigned = (String, u32, u64, Option<u32>);

/// The lanes of a plan, and the records of each.
pub(crate) fn lanes(plan: &Plan, topic: &Topic) -> Vec<(String, Vec<TestRecord>)> {
    let all = topic.visible();
    if !plan.by_partition {
        return vec![("topic".to_owned(), all)];
    }
    let own = |p: u32| all.iter().filter(|r| r.partition == p).cloned().collect();
    topic.partitions.iter().map(|p| (p.to_string(), own(p.0))).collect()
}

/// Folds records of a lane with the model, by what the journal holds now.
pub(crate) fn fold(
    plan: &Plan,
    log: &PipelineLog,
    contents: &Contents,
    records: &[TestRecord],
    deployments: &[(Deployment, u64)],
) -> model::Lane<Hostile> {
    let floors = contents.floors.iter().map(|((p, offset), time)| ((p.0, offset.0), time.ms())).collect();
    let mut fold = Hostile::new(plan.mode);
    if has_contender(log) {
        fold.configure(CONTENDER);
    }
    if let Some(first) = reprocessed(log) {
        marks_of(&first.deployment, 1).for_each(|mark| fold.configure(mark));
    }
    let deployments: Vec<Deployment> = deployments.iter().map(|(deployment, _)| *deployment).collect();
    model::run_journalled(fold, records, plan.time, &floors, &deployments)
}

impl Truth {
    /// Asks the model.
    pub(crate) fn of(plan: &Plan, topic: &Topic, log: &PipelineLog, journals: &Journals) -> Truth {
        let deployments = deployments(plan, log);
        let first = log.first().expect("the objects are readable");
        let number = |held: usize| held.checked_sub(1).map_or(first, |last| deployments[last].1);
        let mut truth = Truth::default();
        for (lane, records) in lanes(plan, topic) {
            let contents = journals.of(&lane);
            truth.floors += contents.floors.len() as u64;
            let folded = fold(plan, log, &contents, &records, &deployments);
            for letter in &folded.letters {
                let (partition, offset, event) = letter.origin;
                if letter.stage == "fold" {
                    let (partition, offset) = (Partition(partition), Offset(offset));
                    let event = event.expect("an event is folded");
                    truth.struck.insert(StrikeItem::Event { partition, offset, event });
                }
                let stage = match letter.stage {
                    "late" => "time",
                    "rejected" => "fold",
                    stage => stage,
                };
                if letter.stage != "late" || plan.keeps_late {
                    let named = (stage.to_owned(), partition, offset, event);
                    truth.letters.entry(named).or_default().insert(number(letter.deployments));
                }
            }
            for row in folded.rows {
                if plan.refuses && is_refused(&row.values) {
                    let (partition, offset, event) = row.origin;
                    let named = ("sink".to_owned(), partition, offset, event);
                    truth.letters.entry(named).or_default().insert(number(row.deployments));
                    continue;
                }
                truth.ever.insert((key_of(&row.values), row.values.to_string()));
                truth.rows.insert(key_of(&row.values), row.values);
            }
        }
        truth.rows = without_the_last(truth.rows);
        truth
    }
}

/// The rows without those of the log's last records, whose timers fire as soon as a lane is idle after them.
pub(crate) fn without_the_last(rows: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    rows.into_iter().filter(|(_, row)| !row["k"].as_str().unwrap_or_default().starts_with("last")).collect()
}

/// The deployments that hold from a T on, each with its number. The first one with the second version of the plugin stands twice: it migrates,
/// and then folds.
pub(crate) fn deployments(plan: &Plan, log: &PipelineLog) -> Vec<(Deployment, u64)> {
    let all = log.deployments().expect("the objects are readable");
    let mut deployments = Vec::new();
    let mut version = 1;
    for entry in all.into_iter().filter(|entry| entry.outcome == Outcome::Confirmed) {
        if let Some(t) = entry.deployment.t {
            let of = |mark| (Deployment { t, mark, time: plan.time }, entry.n);
            deployments.extend(marks_of(&entry.deployment, version).map(of));
        }
        version = entry.deployment.state_version;
    }
    deployments
}

/// The deployment that holds from the beginning of the log since it was created, if there is one.
pub(crate) fn reprocessed(log: &PipelineLog) -> Option<Entry> {
    let all = log.deployments().expect("the objects are readable");
    let is_such = |entry: &Entry| entry.n > 0 && entry.deployment.t.is_none() && entry.outcome == Outcome::Confirmed;
    all.into_iter().find(is_such)
}

/// What the model is configured with, after a deployment with this state version.
fn marks_of(deployment: &keyfold::deployment::Deployment, version: u32) -> impl Iterator<Item = &'static str> {
    let of = |name: &str| deployment.settings.config[name].as_str().unwrap_or_default().to_owned();
    let migrates = deployment.state_version > version;
    migrates.then_some(SECOND_VERSION).into_iter().chain([mark_of(&of("mark"), &of("mode"))])
}

/// Whether the pipeline was begun by the host with the other configuration.
pub(crate) fn has_contender(log: &PipelineLog) -> bool {
    log.deployment(0).ok().flatten().is_some_and(|first| first.settings.config["mark"] == CONTENDER)
}

/// What was deployed, from the plugin's configuration.
fn mark_of(mark: &str, mode: &str) -> &'static str {
    let is = |known: &str| if mark.is_empty() { known.strip_prefix("mode=") == Some(mode) } else { known == mark };
    MARKS.into_iter().chain(MORE_MARKS).chain([CONTENDER]).find(|known| is(known)).expect("one of these was deployed")
}

/// The numbers of the deployments that hold.
pub(crate) fn holding(log: &PipelineLog) -> BTreeSet<u64> {
    let all = log.deployments().expect("the objects are readable");
    all.iter().filter(|entry| entry.outcome == Outcome::Confirmed).map(|entry| entry.n).collect()
}

/// The dead letters of deployments that hold.
pub(crate) fn standing(
    letters: &BTreeMap<Named, BTreeSet<String>>,
    log: &PipelineLog,
) -> BTreeMap<Named, BTreeSet<String>> {
    let hold = holding(log);
    let stands = |named: &&Named| named.4.is_none_or(|n| hold.contains(&n));
    letters.keys().filter(stands).map(|named| (named.clone(), letters[named].clone())).collect()
}

/// The first few differences between what is expected and what there is.
pub(crate) fn differences<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> Option<String> {
    let keys: BTreeSet<&K> = expected.keys().chain(found.keys()).collect();
    let mut lines: Vec<String> = Vec::new();
    let mut count = 0;
    for key in keys {
        let pair = (expected.get(key), found.get(key));
        if pair.0 != pair.1 {
            count += 1;
            if lines.len() < 4 {
                lines.push(format!("    {key:?}: expected {:?}, found {:?}", pair.0, pair.1));
            }
        }
    }
    (count > 0).then(|| format!("{what}: {count} of {}\n{}", expected.len().max(found.len()), lines.join("\n")))
}
