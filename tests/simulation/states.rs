//! The lanes' keyed state, beside the hosts: it lies in the simulated store of objects, where the host itself reads and writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use futures::executor::block_on;
use keyfold::position::{Offset, Partition};
use keyfold::state::chain::Chain;
use keyfold::state::checkpoint::Checkpoint;
use keyfold::state::manifest::Manifest;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::scheduler::{Process, ProcessId, locked};
use crate::table::Table;
use crate::world::Letters;

/// The states of all lanes.
pub(crate) struct States {
    objects: Arc<dyn ObjectStore>,
    /// How far each host's checkpoints ever covered a partition. Some may be gone by the time that the host hears of what it wrote.
    covered: Mutex<BTreeMap<(ProcessId, Partition), Offset>>,
    violations: Mutex<Vec<String>>,
}

impl States {
    /// Those on a store of objects.
    pub(crate) fn new(objects: Arc<dyn ObjectStore>) -> States {
        States { objects, covered: Mutex::default(), violations: Mutex::default() }
    }

    /// The lanes with checkpoints.
    pub(crate) fn lanes(&self) -> Vec<String> {
        let lane = |path: Path| path.parts().nth(1).map(|lane| lane.as_ref().to_owned());
        self.under("lanes").into_iter().filter_map(lane).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Loses the state of a lane.
    pub(crate) fn lose(&self, lane: &str) {
        for path in self.under(&format!("lanes/{lane}")) {
            block_on(self.objects.delete(&path)).expect("it is in memory");
        }
    }

    /// The objects under a path.
    fn under(&self, path: &str) -> Vec<Path> {
        let found = self.objects.list(Some(&Path::from(path))).map_ok(|object| object.location);
        block_on(found.try_collect()).expect("it is in memory")
    }

    /// What must never happen, and did.
    pub(crate) fn violations(&self) -> Vec<String> {
        locked(&self.violations).clone()
    }

    fn violate(&self, what: String) {
        locked(&self.violations).push(what);
    }

    /// The last checkpoint of a lane.
    pub(crate) fn checkpoint(&self, lane: &str) -> Option<Checkpoint> {
        let links = block_on(Chain::read(&self.objects, &format!("lanes/{lane}/manifests"))).ok()?;
        Manifest::decode(&links.last()?.body).ok()?.contents.checkpoint
    }

    /// Looks at a manifest that a host has just written. Returns whether it is a claim, which says nothing new.
    pub(crate) fn check_manifest(&self, process: &Process, link: &[u8], outputs: (&Table, &Letters)) -> bool {
        let end = link.iter().position(|byte| *byte == b'\n').expect("a link has a first line");
        if String::from_utf8_lossy(&link[..end]).contains("\"claim\":true") {
            return true;
        }
        let manifest = Manifest::decode(&link[end + 1..]).expect("a manifest is readable");
        if let Some(checkpoint) = manifest.contents.checkpoint {
            let covered = checkpoint.covered().into_iter().map(|(partition, next)| ((process.id, partition), next));
            locked(&self.covered).extend(covered);
            self.check_checkpoint(process, &checkpoint, outputs);
        }
        false
    }

    /// What a checkpoint covers was acknowledged before.
    fn check_checkpoint(&self, process: &Process, checkpoint: &Checkpoint, (table, letters): (&Table, &Letters)) {
        let last = checkpoint.last_record().map(|last| (last.partition, last.offset));
        let covered = checkpoint.covered();
        // What fires while the lane is idle after it has begun the checkpoint names the last record too.
        let is_covered =
            |at: &&(Partition, Offset)| covered.get(&at.0).is_some_and(|next| at.1 < *next) && Some(**at) != last;
        if let Some(at) = table.unacknowledged(process.id).iter().find(is_covered) {
            self.violate(format!("I2: a checkpoint covers {at:?}, whose rows are not acknowledged"));
        }
        if let Some(at) = letters.waiting(process.id).iter().find(is_covered) {
            self.violate(format!("I3: a checkpoint covers {at:?}, whose dead letters are not acknowledged"));
        }
    }

    /// Offsets may be committed only up to where a checkpoint covers them.
    pub(crate) fn check_commit(&self, process: &Process, next: &[(Partition, Offset)]) {
        process.note(&format!("commits {next:?}"));
        for &(partition, offset) in next {
            let covered = locked(&self.covered).get(&(process.id, partition)).copied();
            if covered < Some(offset) {
                self.violate(format!(
                    "I2: offset {offset} of partition {partition} is committed, and checkpoints cover {covered:?}"
                ));
            }
        }
    }
}
