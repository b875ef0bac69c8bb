//! The audit: one of N batches is folded again, record by record in fresh instances, from the keyed state and event time before it, and
//! must give the same. Owns which batches, what is held against what, and the words for a difference. A plugin that differs breaks I1:
//! the lane halts before anything of the batch leaves. What is copied is the state of the batch's keys, and nothing when it is off.

use crate::event_time::LaneTime;
use crate::lane::batch::Prepared;
use crate::lane::core::{Core, Output};
use crate::lane::law::{Leaving, Violation, first_difference};
use crate::plugin::Fault;
use crate::record::Records;
use crate::state::{KeyState, SlotId, hash};

/// The cut of an audited batch.
const CUT: &str = "record by record";

/// Which batches of a lane are audited: the last of each `every`.
#[derive(Clone, Copy, Debug)]
pub struct Auditor {
    every: Option<u64>,
    batches: u64,
    audits: u64,
}

impl Auditor {
    /// One of `every` batches; none at all without a number.
    pub fn new(every: Option<u64>) -> Auditor {
        Auditor { every, batches: 0, audits: 0 }
    }

    /// Batches that were audited.
    pub fn audits(&self) -> u64 {
        self.audits
    }

    /// What a batch begins from, if it is to be audited. All state that it needs is in memory, and none of it changed yet.
    pub(super) fn begin<'a>(&mut self, core: &mut Core, prepared: &Prepared<'a>) -> Option<Audit<'a>> {
        let (every, records) = (self.every?, prepared.records());
        // A state that cannot be migrated is lost at whichever record touches it first, which is another one in another cut.
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

/// A batch that is about to be folded, and a core in which it will be folded again.
pub(super) struct Audit<'a> {
    records: &'a Records,
    again: Core,
    /// Shard and slot of each key that the batch may touch; its number is its slot in `again`.
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
        let mut again = core.beside(prepared.began);
        for &(shard, slot) in &touched {
            let slot = core.shards[shard].slot(slot);
            let copy = again.shards[0].slot_of(hash(&slot.key), &slot.key, true);
            let entry = again.shards[0].change(copy);
            (entry.state, entry.version) = (slot.state.clone(), slot.version);
            again.shards[0].schedule(copy);
        }
        Audit { records, again, touched }
    }

    /// Folds the batch again and holds what it gives against what `core` and `output` have become.
    pub(super) fn finish(mut self, core: &Core, output: &Output) -> Result<(), Fault> {
        let (mut whole, mut given) = (Leaving::default(), Leaving::default());
        // What the plugin logs was logged before.
        let met = tracing::dispatcher::with_default(&tracing::Dispatch::none(), || self.fold(&mut given))?;
        whole.add(output);
        let difference = first_difference(CUT, &whole.into_lines(), &given.into_lines())
            .or_else(|| self.state_that_differs(core, &met))
            .or_else(|| self.time_that_differs(core.time));
        let Some(violation) = difference else { return Ok(()) };
        Err(Fault::Plugin(format!("{violation}; found by plugin.audit, nothing of the batch has left")))
    }

    /// Folds record by record. Gives, of each key by its slot, the last record that it was met at.
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
            let whole = touched.map(|&(shard, slot)| &core.shards[shard].slot(slot).state);
            if whole == Some(&slot.state) {
                return None;
            }
            let at = self.place(record.unwrap_or(self.records.len() - 1));
            Some(Violation {
                cut: CUT.into(),
                what: format!("the state of key \"{}\" after {at}", slot.key.escape_ascii()),
                whole: whole.map_or_else(|| "that of a key without events".into(), KeyState::to_string),
                cut_gives: slot.state.to_string(),
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
