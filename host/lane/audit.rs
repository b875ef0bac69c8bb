//! The audit: folds one of N batches again, record by record in fresh instances, from the keyed state and event time before it, and
//! compares the results. Owns which batches are audited, what is compared, and how a difference is described. A plugin whose results
//! differ breaks I1, and the lane halts before anything of the batch leaves. An audit copies the state of the batch's keys; without
//! audits nothing is copied.

use crate::event_time::LaneTime;
use crate::lane::batch::Prepared;
use crate::lane::core::{Core, Output};
use crate::lane::law::{Leaving, Violation, first_difference};
use crate::plugin::Fault;
use crate::record::Records;
use crate::state::{SlotId, hash};

/// How the second fold cuts an audited batch.
const CUT: &str = "record by record";

/// Decides which batches of a lane are audited: the last of each `every`.
#[derive(Clone, Copy, Debug)]
pub struct Auditor {
    every: Option<u64>,
    batches: u64,
    audits: u64,
}

impl Auditor {
    /// Creates an auditor of one in `every` batches; of no batch without a number.
    pub fn new(every: Option<u64>) -> Auditor {
        Auditor { every, batches: 0, audits: 0 }
    }

    /// The number of batches audited so far.
    pub fn audits(&self) -> u64 {
        self.audits
    }

    /// Copies what a batch starts from, if it is to be audited. All state that the batch needs must be in memory and still unchanged.
    pub(super) fn begin<'a>(&mut self, core: &mut Core, prepared: &Prepared<'a>) -> Option<Audit<'a>> {
        let (every, records) = (self.every?, prepared.records());
        // A state that cannot be migrated is lost at the record that touches it first, and another cut may touch it at another record.
        if records.is_empty() || core.is_migrating() {
            return None;
        }
        self.batches += 1;
        if !self.batches.is_multiple_of(every) {
            return None;
        }
        self.audits += 1;
        Some(Audit::new(core, records, prepared))
    }
}

/// A batch about to be folded, with a second core to fold it again.
pub(super) struct Audit<'a> {
    records: &'a Records,
    again: Core,
    /// Shard and slot of each key that the batch may touch; the index here is the key's slot in `again`.
    touched: Vec<(usize, SlotId)>,
}

impl<'a> Audit<'a> {
    fn new(core: &mut Core, records: &'a Records, prepared: &Prepared<'_>) -> Audit<'a> {
        let mut touched: Vec<(usize, SlotId)> = core.touched().collect();
        for (number, shard) in core.shards.iter_mut().enumerate() {
            touched.extend(shard.due(prepared.watermark).into_iter().map(|slot| (number, slot)));
        }
        touched.sort_unstable();
        touched.dedup();
        let mut again = core.beside(prepared);
        for &(shard, slot) in &touched {
            let slot = core.shards[shard].slot(slot);
            let copy = again.shards[0].slot_of(hash(slot.key()), slot.key(), true);
            again.shards[0].change(copy).copy_state(slot);
            again.shards[0].schedule(copy);
        }
        Audit { records, again, touched }
    }

    /// Folds the batch again and compares the results with `output` and with the state and time of `core`.
    pub(super) fn finish(mut self, core: &Core, output: &Output) -> Result<(), Fault> {
        let (mut whole, mut given) = (Leaving::default(), Leaving::default());
        // The plugin has already logged these lines in the first fold.
        let met = tracing::dispatcher::with_default(&tracing::Dispatch::none(), || self.fold(&mut given))?;
        whole.add(output);
        let difference = first_difference(CUT, &whole.into_lines(), &given.into_lines())
            .or_else(|| self.state_that_differs(core, &met))
            .or_else(|| self.time_that_differs(core.time));
        let Some(violation) = difference else { return Ok(()) };
        Err(Fault::Plugin(format!("{violation}; found by plugin.audit before anything of the batch left the lane")))
    }

    /// Folds record by record. Returns, by slot, the last record that touched each key.
    fn fold(&mut self, given: &mut Leaving) -> Result<Vec<Option<usize>>, Fault> {
        let mut met = vec![None; self.touched.len()];
        for i in 0..self.records.len() {
            let mut record = Records::default();
            record.append(self.records, i..i + 1);
            given.add(&self.again.run(&record)?);
            for (_, slot) in self.again.touched() {
                let slot = slot.index();
                met.resize(met.len().max(slot + 1), None);
                met[slot] = Some(i);
            }
        }
        Ok(met)
    }

    fn state_that_differs(&self, core: &Core, met: &[Option<usize>]) -> Option<Violation> {
        (0..).map(SlotId).zip(met).find_map(|(i, &record)| {
            let slot = self.again.shards[0].slot(i);
            let touched = self.touched.get(i.index());
            let whole = touched.map(|&(shard, slot)| core.shards[shard].slot(slot).state());
            if whole.as_ref().is_some_and(|whole| slot.has_state(whole)) {
                return None;
            }
            let at = self.place(record.unwrap_or(self.records.len() - 1));
            Some(Violation {
                cut: CUT.into(),
                what: format!("the state of key \"{}\" after {at}", slot.key().escape_ascii()),
                whole: whole.map_or_else(|| "the state of a key without events".into(), |state| state.to_string()),
                cut_gives: slot.state().to_string(),
            })
        })
    }

    fn time_that_differs(&self, whole: LaneTime) -> Option<Violation> {
        (self.again.time != whole).then(|| Violation {
            cut: CUT.into(),
            what: format!("event time after {}", self.place(self.records.len() - 1)),
            whole: format!("{whole:?}"),
            cut_gives: format!("{:?}", self.again.time),
        })
    }

    fn place(&self, record: usize) -> String {
        format!("partition {}, offset {}", self.records.partitions[record], self.records.offsets[record])
    }
}
