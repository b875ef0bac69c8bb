//! Probation: what rows of a deployment that can still be withdrawn replace in the sink. The writer takes the notes (I10); this file knows
//! for which deployment, and whose notes can be deleted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::lane::core::Core;
use crate::row::Image;
use crate::sink::writer::SharedImages;
use crate::state::journal::Journal;

/// The notes of a lane.
pub(super) struct Probation {
    /// Notes from earlier lives of this lane, by deployment.
    noted: BTreeMap<u64, Vec<Image>>,
    /// Notes of the deployment in force, while it can be withdrawn.
    current: Option<(u64, SharedImages)>,
    /// Deployments whose notes can be deleted with the next checkpoint.
    stale: Vec<u64>,
}

impl Probation {
    /// Starts with the notes of earlier lives.
    pub(super) fn new(noted: BTreeMap<u64, Vec<Image>>) -> Probation {
        Probation { noted, current: None, stale: Vec::new() }
    }

    /// Takes notes for `deployment` from now on, and for no other; for none if nothing can be withdrawn.
    pub(super) fn begin(&mut self, deployment: Option<u64>, journal: &Journal, core: &Core) {
        self.end(core);
        self.current = deployment.map(|n| {
            let known = self.noted.remove(&n).unwrap_or_default();
            (n, Arc::new(Mutex::new(journal.images(n, &known))))
        });
    }

    /// Stops taking notes: the deployment stays, or another one is in force.
    pub(super) fn end(&mut self, core: &Core) {
        let Some((n, images)) = self.current.take() else { return };
        self.stale.push(n);
        core.drop_aside(images);
    }

    /// Where the writer takes notes, if it must.
    pub(super) fn images(&self) -> Option<&SharedImages> {
        self.current.as_ref().map(|(_, images)| images)
    }

    /// Returns the deployments whose notes can be deleted with the next checkpoint, once.
    pub(super) fn take_stale(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.stale)
    }
}
