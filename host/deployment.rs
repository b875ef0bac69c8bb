//! Deployments: what decides rows beside the log, and from which append time on. Owns the pipeline's part of the journal: identity, the
//! plugins' bytes by digest, numbered deployments with their outcomes, and how far each lane may have folded. What is read and written in
//! which order is decided in `deployment/protocol.rs`.
//!
//! | object | what it is |
//! |---|---|
//! | `log/pipeline.json` | the pipeline's identity, put once |
//! | `log/topic.json` | the id of the topic from which the state was built, put once, when it is first known |
//! | `log/plugins/<digest>.wasm` | a plugin's file, put once |
//! | `log/deployments/<n>.json` | deployment n, put once; 0 is in force from the beginning of the log |
//! | `log/deployments/<n>.outcome.json` | whether n was confirmed or voided, put once |
//! | `log/deployments/<n>.verdict.json` | whether n was kept after its probation or withdrawn within it, put once |
//! | `log/reservations/<lane>/<host>.json` | the append time up to which that host may have folded that lane; only ever raised |
//! | `log/configured.json` | what the configuration file said at the last start |
//!
//! # T without a common clock
//! A lane folds a record only if its append time is at or below what the lane has *reserved*. It raises its reservation, then reads the
//! deployments, then folds. A deployer puts deployment n with its T, then reads all reservations: if one is at or past T, n is voided and a
//! later T is tried; otherwise n is confirmed. The outcome is put once, by whoever comes first, so everybody sees the same one. A lane that
//! folded at or past T had reserved before n was put, so n is voided; a lane that reserves later sees n (I9).
//!
//! A host that takes a lane over writes its reservation before it deletes the former one. Reservations are therefore listed again after they
//! were read, until two listings agree: otherwise a listing from before the takeover, read after it, would show neither.
//!
//! # Withdrawal
//! Until a lane has folded past T and the probation, n can be withdrawn. It then never held: each lane rewinds to the checkpoint before T and
//! folds again with the former logic. Whether n stays is its verdict, put once by whoever comes first: a withdrawal, the first lane that
//! folds past the probation, or the next deployment. No lane folds past a probation without the verdict `kept` (I10).
//!
//! # Histories
//! A deployment without a T holds from the beginning of the log. It starts a new history and supersedes all deployments before it.

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::event_time::AppendTime;
use crate::failure::Failure;
use crate::plugin::{Encodings, Plugin};

pub mod follow;
mod log;
pub mod owner;
mod protocol;
pub mod redriven;
mod seals;
mod settings;
pub mod shadow;

pub use log::PipelineLog;
pub(crate) use log::same_topic;
pub use protocol::Rewind;
pub(crate) use protocol::{Permanent, withdrawable};
pub(crate) use seals::check_seals;
pub use settings::Settings;

/// A deployment: these settings hold from an append time on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// T, an append time in ms; none is the beginning of the log.
    pub t: Option<i64>,
    /// How long it can be withdrawn, ms of append time from T on; 0 is not at all.
    pub probation_ms: i64,
    /// The settings.
    pub settings: Settings,
    /// The plugin's own name and version, for people.
    pub plugin: String,
    /// Version of the encoding in which its state lies.
    pub state_version: u32,
    /// That encoding, if the plugin says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encodings: Option<Encodings>,
    /// Who ordered it.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When, ms by the clock of whoever did.
    pub ordered_ms: i64,
    /// Whether a start ordered it, because the configuration file says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_file: bool,
}

/// What became of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds from T on.
    Confirmed,
    /// It never holds: a lane had reserved T when it was put.
    Voided,
    /// It was confirmed and then withdrawn: it never held.
    Withdrawn,
    /// It was confirmed, in a history that is no longer told: a later deployment holds from the beginning of the log.
    Superseded,
}

/// Whether a confirmed deployment stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It stays.
    Kept,
    /// It never was: who withdrew it, and why.
    Withdrawn(Author),
}

/// A deployment of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry<D = Deployment> {
    /// Its number.
    pub n: u64,
    /// What was ordered.
    pub deployment: D,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether it stays, if that is decided.
    pub verdict: Option<Verdict>,
}

/// Who orders or withdraws a deployment, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Author {
    /// Who.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// How the configuration stands to the deployment in force.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Nothing is in force yet.
    First,
    /// They say the same: the number of what is in force.
    Same(u64),
    /// Another one was deployed since the last start, and the file is as it was then: what was deployed holds.
    Superseded(u64),
    /// The file was changed: it asks for something else than what is in force, in these respects.
    Changed(Vec<String>),
}

impl Deployment {
    /// Makes a deployment of a plugin with these settings, without a T.
    pub fn of(settings: Settings, plugin: &Plugin, probation_ms: i64, author: &Author) -> Deployment {
        let description = &plugin.description;
        Deployment {
            t: None,
            probation_ms,
            settings,
            plugin: format!("{} {}", description.name, description.version),
            state_version: description.state_version,
            encodings: description.encodings.clone(),
            by: author.by.clone(),
            reason: author.reason.clone(),
            ordered_ms: clock::now_ms(),
            from_file: false,
        }
    }

    /// The same, ordered by a start, because the configuration file says so.
    #[must_use]
    pub fn from_file(self) -> Deployment {
        Deployment { from_file: true, ..self }
    }
}

/// Why a plugin that keeps its state in this version and encoding cannot read the state that `former` leaves, by what both say of it.
pub(crate) fn unreadable(former: &Deployment, state_version: u32, encodings: Option<&Encodings>) -> Option<String> {
    let (was, will) = (former.state_version, state_version);
    if will < was {
        return Some(format!(
            "the plugin's state has version {will}, the state that is there has version {was}, which it cannot read"
        ));
    }
    let difference = encodings.zip(former.encodings.as_ref()).and_then(|(now, before)| now.difference(before));
    difference.filter(|_| was == will).map(|difference| {
        format!(
            "{difference}, and the state has version {will} as before: raise the state version, and let `migrate` read the former encoding"
        )
    })
}

impl protocol::Terms for Deployment {
    fn t(&self) -> Option<AppendTime> {
        self.t.and_then(AppendTime::from_cell)
    }

    fn set_t(&mut self, t: Option<AppendTime>) {
        self.t = t.map(AppendTime::ms);
    }

    fn probation_ms(&self) -> i64 {
        self.probation_ms
    }

    fn unreadable(&self, former: &Deployment) -> Option<String> {
        unreadable(former, self.state_version, self.encodings.as_ref())
    }
}

/// The failure of a start whose checkpoints have no journal.
pub(crate) fn journal_missing(what: &str) -> Failure {
    Failure::state(format!(
        "state.url: the journal ({what}) is missing, but there are checkpoints (lanes/) that rest on it: floors, strikes and deployments are lost, \
         so rows could differ; restore log/ from a backup, or delete lanes/ too and fold the log anew"
    ))
}
