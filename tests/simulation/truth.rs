//! The truth: what the naive model makes of the log and of what the journal decided.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use keyfold::deployment::{Outcome, PipelineLog};
use keyfold::state::journal::{Contents, Journal};
use serde_json::Value;

use crate::broker::Topic;
use crate::disks::Disks;
use crate::plan::{CONTENDER, MARKS, Plan};
use crate::support::generate::TestRecord;
use crate::support::model::folds::Hostile;
use crate::support::model::{self, Deployment, Fold};
use crate::table::key_of;
use crate::world::Named;

/// The rows that must be there.
pub(crate) struct Truth {
    /// By primary key.
    pub(crate) rows: BTreeMap<String, Value>,
    /// Every row that is right at some time, by primary key.
    pub(crate) ever: BTreeSet<(String, String)>,
    /// Floors in the journals.
    pub(crate) floors: u64,
}

impl Truth {
    /// Asks the model.
    pub(crate) fn of(plan: &Plan, topic: &Topic, log: &PipelineLog, disks: &Disks) -> Truth {
        let deployments = deployments(plan, log);
        let mut truth = Truth { rows: BTreeMap::new(), ever: BTreeSet::new(), floors: 0 };
        let all = topic.visible();
        let lanes: Vec<(String, Vec<TestRecord>)> = if plan.by_partition {
            let own = |p: u32| all.iter().filter(|r| r.partition == p).cloned().collect();
            topic.partitions.iter().map(|p| (p.to_string(), own(p.0))).collect()
        } else {
            vec![("topic".to_owned(), all)]
        };
        for (lane, records) in lanes {
            let floors = journal(disks, &lane).floors;
            truth.floors += floors.len() as u64;
            let floors = floors.into_iter().map(|((p, offset), time)| ((p.0, offset.0), time.ms())).collect();
            let mut fold = Hostile::new(plan.mode);
            if has_contender(log) {
                fold.configure(CONTENDER);
            }
            let folded = model::run_journalled(fold, &records, plan.time, &floors, &deployments);
            truth.ever.extend(folded.rows.iter().map(|row| (key_of(&row.values), row.values.to_string())));
            truth.rows.extend(folded.rows.into_iter().map(|row| (key_of(&row.values), row.values)));
        }
        truth.rows = without_the_last(truth.rows);
        truth
    }
}

/// The rows without those of the log's last records, whose timers fire as soon as a lane is idle after them.
pub(crate) fn without_the_last(rows: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    rows.into_iter().filter(|(_, row)| !row["k"].as_str().unwrap_or_default().starts_with("last")).collect()
}

/// What the journal of a lane holds.
pub(crate) fn journal(disks: &Disks, lane: &str) -> Contents {
    let database = disks.at(&format!("log/lanes/{lane}")).open_reader("checker");
    Journal::over(Arc::new(database)).map(|(_, contents)| contents).expect("a journal is readable")
}

fn deployments(plan: &Plan, log: &PipelineLog) -> Vec<Deployment> {
    let all = log.deployments().expect("the objects are readable");
    let confirmed = all.into_iter().filter(|entry| entry.outcome == Outcome::Confirmed);
    confirmed
        .filter_map(|entry| {
            let of = |name: &str| entry.deployment.settings.config[name].as_str().unwrap_or_default().to_owned();
            Some(Deployment { t: entry.deployment.t?, mark: mark_of(&of("mark"), &of("mode")), time: plan.time })
        })
        .collect()
}

/// Whether the pipeline was begun by the host with the other configuration.
pub(crate) fn has_contender(log: &PipelineLog) -> bool {
    log.deployment(0).ok().flatten().is_some_and(|first| first.settings.config["mark"] == CONTENDER)
}

/// What was deployed, from the plugin's configuration.
fn mark_of(mark: &str, mode: &str) -> &'static str {
    let is = |known: &str| if mark.is_empty() { known.strip_prefix("mode=") == Some(mode) } else { known == mark };
    MARKS.into_iter().find(|known| is(known)).expect("one of these was deployed")
}

/// The dead letters of deployments that were not withdrawn.
pub(crate) fn standing(
    letters: &BTreeMap<Named, BTreeSet<String>>,
    log: &PipelineLog,
) -> BTreeMap<Named, BTreeSet<String>> {
    let all = log.deployments().expect("the objects are readable");
    let withdrawn = |n: u64| all.iter().any(|entry| entry.n == n && entry.outcome == Outcome::Withdrawn);
    let stands = |named: &&Named| named.4.is_none_or(|n| !withdrawn(n));
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
