//! Seals: what a lane was told of the deployments, so that an object that is missing or was replaced since is refused by its name. A lane's
//! journal keeps them ([`crate::state::journal`]), because deployers, who write the objects, own no lane.

use sha2::{Digest as _, Sha256};

use super::log::{deployment_path, outcome_path, verdict_path};
use crate::deployment::PipelineLog;
use crate::failure::{Exit, Failure};
use crate::record::hex;
use crate::state::journal::{Seal, Seals};

impl PipelineLog {
    /// The seals of all deployments that there are.
    pub fn seals(&self) -> Result<Seals, Failure> {
        let mut seals = Seals::new();
        for n in 0.. {
            let Some(order) = self.seal(&deployment_path(n))? else { break };
            let (outcome, verdict) = (self.seal(&outcome_path(n))?, self.seal(&verdict_path(n))?);
            seals.insert(n, Seal { order, outcome, verdict });
        }
        Ok(seals)
    }

    fn seal(&self, path: &str) -> Result<Option<String>, Failure> {
        Ok(self.get(path)?.map(|bytes| hex(&Sha256::digest(bytes))))
    }
}

/// Refuses to fold with other deployments than those that lane `lane` was told of. Ones that were added since are no others.
pub(crate) fn check_seals(lane: &str, told: &Seals, now: &Seals) -> Result<(), Failure> {
    for (&n, seal) in told {
        let is = now.get(&n);
        let objects = [
            (deployment_path(n), Some(&seal.order), is.map(|is| &is.order)),
            (outcome_path(n), seal.outcome.as_ref(), is.and_then(|is| is.outcome.as_ref())),
            (verdict_path(n), seal.verdict.as_ref(), is.and_then(|is| is.verdict.as_ref())),
        ];
        for (path, told, is) in objects {
            let Some(told) = told.filter(|told| is != Some(told)) else { continue };
            let what = if is.is_none() { "is missing" } else { "is not the one that was there" };
            return Err(Failure::new(
                Exit::State,
                format!(
                    "state.url: {path} {what} when lane {lane} folded with deployment {n}: without it, other rows would follow. Put the \
                     file back from a copy of log/ (its SHA-256 is {told}), or begin anew with another state.url"
                ),
            ));
        }
    }
    Ok(())
}
