//! Shadows, as the journal stores them: what is to be compared with the live logic, and what was found. The folding is
//! [`crate::rollout::shadow`]'s.
//!
//! | object | what it is |
//! |---|---|
//! | `log/shadow/order.json` | the candidate, if there is one |
//! | `log/shadow/<id>.json` | what was found so far |

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::log::json;
use super::{Deployment, PipelineLog};
use crate::clock;
use crate::failure::Failure;
use crate::printable::one_line;

/// The order to shadow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// Tells it from those before.
    pub id: String,
    /// The candidate.
    pub candidate: Deployment,
}

/// What a shadow has found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The deployment beside which it folds.
    pub beside: Option<u64>,
    /// Why it is not folding, if it is not: it waits for a checkpoint, or has ended.
    #[serde(alias = "stands")]
    pub paused_because: Option<String>,
    /// Records folded.
    pub records: u64,
    /// How far the last of them lay behind the clock, ms.
    pub behind_ms: Option<i64>,
    /// Rows on which both agree.
    pub same: u64,
    /// Primary keys with another row.
    pub different: u64,
    /// Primary keys that only the live logic writes.
    pub only_live: u64,
    /// Primary keys that only the candidate writes.
    pub only_candidate: u64,
    /// What the live logic rejected or failed on.
    pub live_letters: u64,
    /// What the candidate rejected or failed on.
    pub candidate_letters: u64,
    /// Strikes of the candidate.
    pub candidate_strikes: u64,
    /// The first strike's reason.
    pub first_strike: Option<String>,
    /// Some differences: `a` is the live logic, `b` the candidate.
    pub samples: Vec<Value>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.paused_because, self.beside) {
            (Some(why), _) => writeln!(f, "paused: {}", one_line(why))?,
            (None, Some(n)) => writeln!(f, "folds beside deployment {n}")?,
            (None, None) => writeln!(f, "not begun")?,
        }
        let behind = self.behind_ms.map(|ms| format!(", {ms} ms behind")).unwrap_or_default();
        writeln!(f, "{} records{behind}", self.records)?;
        let Report { same, different, only_live, only_candidate, .. } = self;
        writeln!(
            f,
            "rows: same {same}, different {different}, only live {only_live}, only candidate {only_candidate}"
        )?;
        write!(f, "dead letters: live {}, candidate {}", self.live_letters, self.candidate_letters)?;
        write!(f, "; strikes of the candidate: {}", self.candidate_strikes)?;
        if let Some(reason) = &self.first_strike {
            write!(f, "\nfirst strike: {}", one_line(reason))?;
        }
        self.samples.iter().try_for_each(|sample| write!(f, "\n{sample}"))
    }
}

const ORDER: &str = "log/shadow/order.json";

impl PipelineLog {
    /// The shadow that is ordered, if there is one.
    pub fn shadow(&self) -> Result<Option<Shadow>, Failure> {
        Ok(self.read::<Option<Shadow>>(ORDER)?.flatten())
    }

    /// Orders a shadow, in place of any other.
    pub fn order_shadow(&self, candidate: Deployment) -> Result<Shadow, Failure> {
        let shadow = Shadow { id: format!("{:020}", clock::now_ms()), candidate };
        self.put(ORDER, json(&Some(&shadow)))?;
        Ok(shadow)
    }

    /// Ends the shadow.
    pub fn drop_shadow(&self) -> Result<(), Failure> {
        self.put(ORDER, json(&None::<Shadow>))
    }

    /// What a shadow has found.
    pub fn shadow_report(&self, id: &str) -> Result<Report, Failure> {
        Ok(self.read(&report_path(id))?.unwrap_or_default())
    }

    /// Replaces the report of a shadow.
    pub fn put_shadow_report(&self, id: &str, report: &Report) -> Result<(), Failure> {
        self.put(&report_path(id), json(report))
    }
}

fn report_path(id: &str) -> String {
    format!("log/shadow/{id}.json")
}
