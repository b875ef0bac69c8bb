//! The law of the contract, tested: the same records must give the same rows, dead letters and keyed state, whether they are folded in
//! one batch, in batches of 1, of 7, or of random size, in fresh instances. Before a deployment, the records are also repeated, so that one
//! instance meets some 20,000 of them, which must give what batches of 500 give.

use std::sync::Arc;

use crate::config::{Late, Time};
use crate::dead_letter::DeadLetter;
use crate::lane::core::{Core, Output};
use crate::plugin::{Fault, Plugin};
use crate::record::Records;
use crate::row::Cell;
use crate::strike::Stage;

/// A cut of a log into batches that changed the plugin's results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The cut: `by 1`, `by 7`, `at random`, `record by record`.
    pub cut: String,
    /// What differs: an output, counted from 0, or a key's state.
    pub what: String,
    /// Its value if the log is one batch.
    pub whole: String,
    /// Its value if the log is cut.
    pub cut_gives: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Violation { cut, what, whole, cut_gives } = self;
        let (whole, cut_gives) = (excerpt(whole, cut_gives), excerpt(cut_gives, whole));
        write!(
            f,
            "the plugin breaks the law of the contract: cut {cut}, {what} is {cut_gives}, in one batch it is {whole}; make its results depend \
             only on the event and the key's state (no statics, no module-level variables, no fields of the mapper that change, no iteration over \
             std's HashMap)"
        )
    }
}

/// Returns the part of a long text around its first difference from another.
fn excerpt(text: &str, other: &str) -> String {
    const AROUND: usize = 300;
    let same = text.char_indices().zip(other.chars()).find(|((_, a), b)| a != b).map_or(text.len(), |((at, _), _)| at);
    let first = if text.len() <= 2 * AROUND { 0 } else { text.floor_char_boundary(same.saturating_sub(AROUND)) };
    let end = text.floor_char_boundary(first.saturating_add(2 * AROUND));
    let dots = |cut: bool| if cut { "…" } else { "" };
    format!("{}{}{}", dots(first > 0), &text[first..end], dots(end < text.len()))
}

/// Records that one instance meets in the long run, roughly.
const LONG: usize = 20_000;
/// Batches of the other fold of the long run: they start 80 instances of each kind.
const SHORT: usize = 500;
/// Outputs of the long run, at most: it must not take the host's memory.
const MOST_OUTPUTS: usize = 400_000;
/// Bytes of these outputs as text, at most.
const MOST_BYTES: usize = 64 << 20;

/// Folds `records` (in lane order) under several cuts; returns the first difference. Fails with [`Fault::Host`] if that costs more than a
/// trial may. All is folded by one thread: which keys share an instance differs between processes (D43), and what is said of a plugin must not.
pub fn check(plugin: &Arc<Plugin>, time: Time, records: &Records) -> Result<Option<Violation>, Fault> {
    // Its log lines are of no lane: the operator has not asked for these records to be folded.
    let plugin = &Arc::new(plugin.of_trial(records));
    let workers = &one_thread()?;
    let whole = fold(plugin, workers, time, records, |_| usize::MAX)?;
    let mut chance = Chance::new();
    let mut at_random = move |_| chance.below(64) + 1;
    let cuts: [(&str, &mut dyn FnMut(usize) -> usize); 3] =
        [("by 1", &mut |_| 1), ("by 7", &mut |_| 7), ("at random", &mut at_random)];
    for (cut, size) in cuts {
        let given = fold(plugin, workers, time, records, size)?;
        let violation = first_difference(cut, &whole, &given);
        if violation.is_some() {
            return Ok(violation);
        }
    }
    Ok(None)
}

/// Folds the records again and again in one instance of each kind, and in short batches. What a plugin keeps between calls may take thousands of
/// items to show: a cache that is full, a counter that wraps. Returns the first difference, and how many records the instance met: none if an
/// item is struck, which can cost seconds each time.
/// Fails as [`check`] does.
pub fn check_long(plugin: &Arc<Plugin>, time: Time, records: &Records) -> Result<(Option<Violation>, usize), Fault> {
    let trial = &Arc::new(plugin.of_trial(records));
    let one = one_thread()?;
    // All events after the first round are late.
    let time = Time { late: Late::Process, ..time };
    let in_short_batches = |trial: &Arc<Plugin>, log: &Records| fold_unstruck(trial, &one, time, log);
    let Some(once) = in_short_batches(trial, records)? else { return Ok((None, 0)) };
    let bytes: usize = once.iter().map(String::len).sum();
    let most = [(MOST_OUTPUTS, once.len()), (MOST_BYTES, bytes), (MOST_BYTES, records.bytes())];
    let times = LONG.div_ceil(records.len().max(1));
    let times = most.into_iter().fold(times, |times, (most, once)| times.min(most / once.max(1)));
    let log = repeated(records, times.max(1));
    let plugin = &Arc::new(plugin.of_trial(&log));
    let Some(given) = in_short_batches(plugin, &log)? else { return Ok((None, 0)) };
    let whole = fold(plugin, &one, time, &log, |_| usize::MAX)?;
    Ok((first_difference("by 500 of many records", &whole, &given), log.len()))
}

/// Returns workers that are one thread.
pub(super) fn one_thread() -> Result<Arc<rayon::ThreadPool>, Fault> {
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    Ok(Arc::new(one.map_err(|e| Fault::Host(format!("cannot start a thread: {e}")))?))
}

/// Returns a log of the same records many times, each with an offset and an append time of its own.
fn repeated(records: &Records, times: usize) -> Records {
    let mut log = Records::default();
    let ends = records.append_times.last().zip(records.append_times.first());
    let span = ends.map_or(0, |(last, first)| last.saturating_sub(*first).saturating_add(1));
    let offsets = records.offsets.iter().max().map_or(0, |last| last.wrapping_add(1));
    for round in 0..times as i64 {
        let first = log.len();
        log.append(records, 0..records.len());
        log.append_times[first..].iter_mut().for_each(|time| *time = time.saturating_add(round.saturating_mul(span)));
        let later = round.unsigned_abs().wrapping_mul(offsets);
        log.offsets[first..].iter_mut().for_each(|offset| *offset = offset.wrapping_add(later));
    }
    log
}

/// Pseudo-random numbers, the same in each run, so that a failure repeats.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new() -> Chance {
        Chance(0x9e37_79b9_7f4a_7c15)
    }

    /// Returns the next number below `end`, or 0 if `end` is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (end.max(1) as u64)).unwrap_or(0)
    }
}

/// Folds the records in batches of `size`. Returns a line for each thing that leaves the lane, then one for the state of each key.
fn fold(
    plugin: &Arc<Plugin>,
    workers: &Arc<rayon::ThreadPool>,
    time: Time,
    records: &Records,
    mut size: impl FnMut(usize) -> usize,
) -> Result<Vec<String>, Fault> {
    let core = Core::new(Arc::clone(plugin), Arc::clone(workers), time);
    Ok(fold_while(core, records, &mut size, |_| true)?.unwrap_or_default())
}

/// Folds the records in batches of [`SHORT`]; none as soon as an item is struck.
fn fold_unstruck(
    plugin: &Arc<Plugin>,
    workers: &Arc<rayon::ThreadPool>,
    time: Time,
    records: &Records,
) -> Result<Option<Vec<String>>, Fault> {
    let core = Core::new(Arc::clone(plugin), Arc::clone(workers), time);
    fold_while(core, records, &mut |_| SHORT, |output| output.strikes.is_empty())
}

fn fold_while(
    mut core: Core,
    records: &Records,
    size: &mut dyn FnMut(usize) -> usize,
    goes_on: impl Fn(&Output) -> bool,
) -> Result<Option<Vec<String>>, Fault> {
    let mut leaving = Leaving::default();
    let mut first = 0;
    while first < records.len() {
        let end = records.len().min(first.saturating_add(size(first)));
        let mut batch = Records::default();
        batch.append(records, first..end);
        let output = core.run(&batch)?;
        if !goes_on(&output) {
            return Ok(None);
        }
        leaving.add(&output);
        first = end;
    }
    let mut lines = leaving.into_lines();
    let outputs = lines.len();
    for shard in &mut core.shards {
        shard.take_dirty(|slot| {
            if !slot.is_empty() {
                lines.push(format!("the key {:?} left with {}", String::from_utf8_lossy(slot.key()), slot.state()));
            }
        });
    }
    lines[outputs..].sort_unstable();
    Ok(Some(lines))
}

/// Returns the first line that differs.
pub(crate) fn first_difference(cut: &str, whole: &[String], given: &[String]) -> Option<Violation> {
    let at = (0..whole.len().max(given.len())).find(|&i| whole.get(i) != given.get(i))?;
    let of = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "nothing".into());
    Some(Violation { cut: cut.into(), what: format!("output {at}"), whole: of(whole), cut_gives: of(given) })
}

/// A line for each thing that leaves a lane, with the record that caused it.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    rows: Vec<String>,
    letters: Vec<String>,
    strikes: Vec<String>,
}

impl Leaving {
    /// Adds the output of a batch.
    pub(crate) fn add(&mut self, output: &Output) {
        for &row in &output.rows.order {
            let cells: Vec<_> = output.rows.cells(row).map(shown).collect();
            self.rows.push(format!(
                "row ({}) of {} by {}",
                cells.join(", "),
                output.rows.table(row).1.name,
                row.origin
            ));
        }
        self.letters.extend(output.letters.iter().map(letter));
        self.strikes.extend(output.strikes.iter().map(|strike| format!("{strike:?}")));
    }

    /// Returns rows and dead letters in their order, then the strikes sorted: strikes have no order, nor have the three kinds among each other.
    pub(crate) fn into_lines(self) -> Vec<String> {
        let Leaving { rows: mut lines, mut letters, mut strikes } = self;
        strikes.sort_unstable();
        lines.append(&mut letters);
        lines.append(&mut strikes);
        lines
    }
}

fn letter(letter: &DeadLetter) -> String {
    let record = letter.record.get(0);
    let event = letter.event.map(|event| format!(", event {event}")).unwrap_or_default();
    let (stage, reason) = (letter.stage, &letter.reason);
    let mut line = format!("dead letter {stage:?} at ({}, {}){event}: {reason}", record.partition, record.offset);
    if stage == Stage::Timer {
        // The record is not one of the log: it carries the key and the state that was lost.
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        line.push_str(&format!(" of {:?} with {}", text(record.key), text(record.payload)));
    }
    line
}

/// Formats a cell's value. A list's `Debug` would show the whole column.
fn shown(cell: Cell<'_>) -> String {
    match cell {
        Cell::TextList(list) => format!("{:?}", list.iter().collect::<Vec<_>>()),
        other => format!("{other:?}"),
    }
}
