//! The law of the contract, tested: the same records cut by 1, by 7, at random and whole, in fresh instances, must give the same rows and
//! dead letters.

use std::sync::Arc;

use super::{Fault, Plugin};
use crate::config::Time;
use crate::lane::batch::{Core, Output};
use crate::record::Records;
use crate::row::Cell;

/// A cut of a log into batches under which the plugin gave something else than for the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The cut: `by 1`, `by 7`, `at random`.
    pub cut: String,
    /// Which row or dead letter differs first, counted from 0.
    pub at: usize,
    /// What the whole log in one batch gives there.
    pub whole: String,
    /// What the cut log gives there.
    pub cut_gives: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Violation { cut, at, whole, cut_gives } = self;
        write!(
            f,
            "the plugin breaks the law of the contract: cut {cut}, output {at} is {cut_gives}, in one batch it is {whole}; its results may \
             depend on nothing but the event and the key's state (no statics, no iteration over std's HashMap)"
        )
    }
}

/// Folds `records` (in lane order) under several cuts; gives the first difference.
pub fn check(
    plugin: &Arc<Plugin>,
    workers: &Arc<rayon::ThreadPool>,
    time: Time,
    records: &Records,
) -> Result<Option<Violation>, Fault> {
    let whole = fold(plugin, workers, time, records, |_| usize::MAX)?;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut at_random = move |_| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % 64).unwrap_or(0) + 1
    };
    let cuts: [(&str, &mut dyn FnMut(usize) -> usize); 3] =
        [("by 1", &mut |_| 1), ("by 7", &mut |_| 7), ("at random", &mut at_random)];
    for (cut, size) in cuts {
        let given = fold(plugin, workers, time, records, size)?;
        if let Some(at) = (0..whole.len().max(given.len())).find(|&i| whole.get(i) != given.get(i)) {
            let of = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "nothing".into());
            return Ok(Some(Violation { cut: cut.into(), at, whole: of(&whole), cut_gives: of(&given) }));
        }
    }
    Ok(None)
}

/// All that leaves the lane, a line each.
fn fold(
    plugin: &Arc<Plugin>,
    workers: &Arc<rayon::ThreadPool>,
    time: Time,
    records: &Records,
    mut size: impl FnMut(usize) -> usize,
) -> Result<Vec<String>, Fault> {
    let mut core = Core::new(Arc::clone(plugin), Arc::clone(workers), time);
    let (mut rows, mut letters) = (Vec::new(), Vec::new());
    let mut first = 0;
    while first < records.len() {
        let end = records.len().min(first.saturating_add(size(first)));
        let mut batch = Records::default();
        batch.append(records, first..end);
        let prepared = core.prepare(&batch, plugin)?;
        describe(&core.fold(prepared)?, &mut rows, &mut letters);
        first = end;
    }
    // Rows and dead letters have no order among each other.
    rows.append(&mut letters);
    Ok(rows)
}

fn describe(output: &Output, rows: &mut Vec<String>, letters: &mut Vec<String>) {
    for &row in &output.rows.order {
        let cells: Vec<_> = output.rows.cells(row).map(shown).collect();
        rows.push(format!("row ({}) of {} by {:?}", cells.join(", "), output.rows.table(row).1.name, row.origin));
    }
    for letter in &output.letters {
        let record = letter.record.get(0);
        let event = letter.event.map(|event| format!(", event {event}")).unwrap_or_default();
        let (stage, reason) = (letter.stage, &letter.reason);
        letters.push(format!("dead letter {stage:?} at ({}, {}){event}: {reason}", record.partition, record.offset));
    }
}

/// The value alone: a list's `Debug` shows the column that it lies in.
fn shown(cell: Cell<'_>) -> String {
    match cell {
        Cell::TextList(list) => format!("{:?}", list.iter().collect::<Vec<_>>()),
        other => format!("{other:?}"),
    }
}
