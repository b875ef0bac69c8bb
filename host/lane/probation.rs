//! Probation: what rows of a deployment that can still be withdrawn replace in the sink. The writer notes it (I10); here it is known which
//! deployment's notes are being taken, and which need not be kept any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::lane::core::Core;
use crate::row::Image;
use crate::sink::writer::SharedImages;
use crate::state::database::Error;
use crate::state::journal::Journal;

/// The notes of a lane.
pub(super) struct Probation {
    /// Noted in former lives of this lane, by deployment.
    noted: BTreeMap<u64, Vec<Image>>,
    /// Notes of the deployment in force, while it can be withdrawn.
    current: Option<(u64, SharedImages)>,
    /// Deployments whose notes can be deleted with the next checkpoint.
    stale: Vec<u64>,
}

impl Probation {
    /// Starts with what was noted before.
    pub(super) fn new(noted: BTreeMap<u64, Vec<Image>>) -> Probation {
        Probation { noted, current: None, stale: Vec::new() }
    }

    /// Notes what rows of `deployment` replace from now on, and of none other; none: nothing can be withdrawn.
    pub(super) fn begin(&mut self, deployment: Option<u64>, journal: &Journal, core: &Core) {
        self.end(core);
        self.current = deployment.map(|n| {
            let known = self.noted.remove(&n).unwrap_or_default();
            (n, Arc::new(Mutex::new(journal.images(n, &known))))
        });
    }

    /// Notes nothing any more: the deployment stays.
    pub(super) fn end(&mut self, core: &Core) {
        let Some((n, images)) = self.current.take() else { return };
        self.stale.push(n);
        core.drop_aside(images);
    }

    /// Where the writer notes, if it must.
    pub(super) fn images(&self) -> Option<&SharedImages> {
        self.current.as_ref().map(|(_, images)| images)
    }

    /// Deletes notes that are not needed any more.
    pub(super) fn forget_stale(&mut self, journal: &Journal) -> Result<(), Error> {
        self.stale.drain(..).try_for_each(|n| journal.forget_images(n))
    }
}
