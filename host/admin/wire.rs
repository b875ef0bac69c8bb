//! The documents of the admin API, as the server and the client exchange them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::deployment::shadow;
use crate::failure::{Check, Exit, Finding};
use crate::rollout::order::{Order, Ordered};

/// Path of the host's status.
pub(crate) const STATUS: &str = "/v1/status";

/// A deployment to order. What is not named stays as deployed, as with `keyfold deployment create`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// The plugin's file.
    pub plugin_base64: Option<String>,
    /// A plugin that is part of the host: `builtin:visits`.
    pub plugin: Option<String>,
    /// Configuration of the plugin.
    pub config: Option<Value>,
    /// A former deployment to start from.
    pub like: Option<u64>,
    /// Configuration keys with their values.
    pub set: BTreeMap<String, String>,
    /// The instant T, ms since 1970.
    pub at: Option<i64>,
    /// Take effect from the beginning of the log.
    pub reprocess: bool,
    /// Fold beside the live logic, as a shadow.
    pub shadow: bool,
    /// Deploy the candidate of the shadow.
    pub promote: bool,
    /// Run the checks, order nothing.
    pub dry_run: bool,
    /// The author.
    pub by: Option<String>,
    /// The reason.
    pub reason: Option<String>,
}

/// A deployment to withdraw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Withdrawal {
    /// Its number; by default the latest.
    pub n: Option<u64>,
    /// The author.
    pub by: Option<String>,
    /// The reason.
    pub reason: Option<String>,
}

/// The checks of a deployment, and what was ordered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The checks.
    pub checks: Vec<Line>,
    /// What was ordered, in words; none if it was refused or only checked.
    pub order: Option<String>,
    /// Number of the new deployment.
    #[serde(default)]
    pub deployment: Option<u64>,
    /// The instant from which it holds, ms since 1970; none if that is the beginning of the log.
    #[serde(default)]
    pub from_ms: Option<i64>,
    /// Id of the new shadow.
    #[serde(default)]
    pub shadow: Option<String>,
}

impl Answer {
    /// Returns the answer to an order.
    pub fn of(ordered: &Ordered) -> Answer {
        let answer = Answer {
            checks: ordered.checks.iter().map(Line::of).collect(),
            order: ordered.order.as_ref().map(ToString::to_string),
            ..Answer::default()
        };
        match &ordered.order {
            None => answer,
            Some(Order::From(n, t)) => Answer { deployment: Some(*n), from_ms: Some(*t), ..answer },
            Some(Order::Reprocess(n)) => Answer { deployment: Some(*n), ..answer },
            Some(Order::Shadow(id)) => Answer { shadow: Some(id.clone()), ..answer },
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// `ok`, `warn` or `FAIL`.
    pub verdict: String,
    /// Exit code that the command returns for a FAIL.
    pub exit: Option<u8>,
    /// What was checked.
    pub subject: String,
    /// What was found.
    pub detail: String,
}

impl Line {
    fn of(check: &Check) -> Line {
        let (verdict, exit) = match check.finding {
            Finding::Fine => ("ok", None),
            Finding::Warning => ("warn", None),
            Finding::Refused(exit) => ("FAIL", Some(exit as u8)),
        };
        Line { verdict: verdict.into(), exit, subject: check.subject.clone(), detail: check.detail.clone() }
    }

    /// Returns the check, as the command prints it.
    pub fn check(&self) -> Check {
        let finding = match (self.verdict.as_str(), self.exit) {
            ("ok", _) => Finding::Fine,
            ("warn", _) => Finding::Warning,
            (_, exit) => Finding::Refused(Exit::of_code(exit.unwrap_or(1))),
        };
        Check { subject: self.subject.clone(), detail: self.detail.clone(), finding, symptom: None, figures: None }
    }
}

/// A shadow and its report.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShadowAnswer {
    /// The shadow.
    pub shadow: shadow::Shadow,
    /// What it has found.
    pub report: shadow::Report,
}
