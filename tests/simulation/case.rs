//! A case: a seed, less what has proved not to matter, and what came of it.

use std::collections::BTreeSet;
use std::time::Duration;

use keyfold::machine::Planted;

use crate::plan::{Plan, plan};
use crate::run::simulate;
use crate::world::Trouble;

/// What came of a simulation.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What must never happen, and did.
    pub(crate) violations: Vec<String>,
    /// The lines of the trace, and their digest.
    pub(crate) lines: u64,
    pub(crate) digest: u64,
    pub(crate) trace: Vec<String>,
    /// The simulated time.
    pub(crate) simulated: Duration,
    /// What it had in it.
    pub(crate) figures: Figures,
}

/// What simulations had in them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) hosts: u64,
    pub(crate) kills: u64,
    pub(crate) rows: u64,
    pub(crate) writes: u64,
    pub(crate) records: u64,
    pub(crate) floors: u64,
    pub(crate) deployments: u64,
    pub(crate) withdrawn: u64,
    /// Deployments from the beginning of the log.
    pub(crate) reprocessed: u64,
    /// Hosts whose checkpoints were deleted beside them.
    pub(crate) resets: u64,
    /// Times for which the topic was another one.
    pub(crate) foreign: u64,
    /// Checkpoints whose state was compared with the model's.
    pub(crate) checkpoints: u64,
    pub(crate) turns: u64,
}

impl Figures {
    /// Adds those of another simulation.
    pub(crate) fn add(&mut self, other: &Figures) {
        self.hosts += other.hosts;
        self.kills += other.kills;
        self.rows += other.rows;
        self.writes += other.writes;
        self.records += other.records;
        self.floors += other.floors;
        self.deployments += other.deployments;
        self.withdrawn += other.withdrawn;
        self.reprocessed += other.reprocessed;
        self.resets += other.resets;
        self.foreign += other.foreign;
        self.checkpoints += other.checkpoints;
        self.turns += other.turns;
    }
}

/// What is simulated: a seed, less what has proved not to matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) planted: Option<Planted>,
    /// Of what happens, by its place in the plan, what is left out.
    pub(crate) without: BTreeSet<usize>,
    /// Whether all requests arrive at once, and are answered.
    pub(crate) calm: bool,
}

impl Case {
    /// What the seed's plan is.
    pub(crate) fn plan(&self) -> Plan {
        let mut plan = plan(self.seed);
        let all = std::mem::take(&mut plan.happenings).into_iter().enumerate();
        plan.happenings = all.filter(|(at, _)| !self.without.contains(at)).map(|(_, happening)| happening).collect();
        if self.calm {
            plan.trouble = Trouble::default();
        }
        plan
    }

    /// How many things happen.
    pub(crate) fn happenings(&self) -> usize {
        self.plan().happenings.len()
    }

    /// The least of it that still fails: what is left out makes no difference.
    pub(crate) fn shrunk(self) -> Case {
        let fails = |case: &Case| !simulate(case, false).violations.is_empty();
        let mut least = self;
        let calm = Case { calm: true, ..least.clone() };
        if fails(&calm) {
            least = calm;
        }
        // What one left out may make another one superfluous, so all are tried again until none is.
        loop {
            let before = least.without.len();
            for at in 0..plan(least.seed).happenings.len() {
                let mut case = least.clone();
                if case.without.insert(at) && fails(&case) {
                    least = case;
                }
            }
            if least.without.len() == before {
                return least;
            }
        }
    }
}
