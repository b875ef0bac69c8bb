//! Mapping a batch: chunks of records on several workers, each in an instance of its own. A call that fails is repeated with half as many
//! records, down to the single record in a fresh instance, whose failure is a strike.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::lane::batch::LeftOut;
use crate::plugin::{Events, Fault, Instance, Plugin, call};
use crate::position::{Offset, Partition};
use crate::record::{ByteColumn, Records};
use crate::state::hash;
use crate::strike::StrikeItem;

/// The smallest chunk worth a worker of its own, in records. The lane's thread handles smaller batches itself.
pub(super) const LEAST_CHUNK: usize = 512;

/// What a worker's calls of `map` made of its chunk of the batch.
pub(super) struct MappedChunk {
    pub(super) events: Events,
    /// The hash of each event's key.
    pub(super) hashes: Vec<u64>,
    /// Record, reason, and whether it is a new strike.
    pub(super) rejected: Vec<(usize, String, bool)>,
}

/// What is not mapped: the journal's strikes with their reasons, and records that the lane leaves out.
type Known<'a> = (&'a BTreeMap<StrikeItem, String>, &'a [(u32, LeftOut)]);

/// Maps all records but those that are left out.
pub(super) fn map(
    workers: &ThreadPool,
    plugin: &Plugin,
    records: &Records,
    known: Known<'_>,
) -> Result<Vec<MappedChunk>, Fault> {
    let n = records.len();
    let size = n.div_ceil(workers.current_num_threads()).max(LEAST_CHUNK);
    let chunks: Vec<Range<usize>> = (0..n).step_by(size).map(|first| first..n.min(first + size)).collect();
    let map = |chunk: Range<usize>| MapRun::new(plugin, records, known).run(chunk);
    match chunks.len() {
        1 => Ok(vec![map(0..n)?]),
        _ => workers.install(|| chunks.into_par_iter().map(map).collect()),
    }
}

/// One worker's run over a chunk.
struct MapRun<'a> {
    plugin: &'a Plugin,
    records: &'a Records,
    known: Known<'a>,
    instance: Option<Instance<'a>>,
    events: Events,
    rejected: Vec<(usize, String, bool)>,
}

impl<'a> MapRun<'a> {
    fn new(plugin: &'a Plugin, records: &'a Records, known: Known<'a>) -> MapRun<'a> {
        let events = Events {
            records: Vec::new(),
            keys: ByteColumn::default(),
            event_times: Vec::new(),
            values: ByteColumn::default(),
            rejections: Vec::new(),
        };
        MapRun { plugin, records, known, instance: None, events, rejected: Vec::new() }
    }

    fn run(mut self, chunk: Range<usize>) -> Result<MappedChunk, Fault> {
        let mut first = chunk.start;
        let (known, left_out) = self.known;
        if !known.is_empty() || !left_out.is_empty() {
            for record in chunk.clone() {
                let is_left_out = left_out.binary_search_by_key(&record, |(row, _)| *row as usize).is_ok();
                let struck = known.get(&record_item(self.records, record)).filter(|_| !is_left_out);
                if is_left_out || struck.is_some() {
                    self.map(first..record)?;
                    self.rejected.extend(struck.map(|reason| (record, reason.clone(), false)));
                    first = record + 1;
                }
            }
        }
        self.map(first..chunk.end)?;
        let hashes = self.events.keys.iter().map(hash).collect();
        Ok(MappedChunk { events: self.events, hashes, rejected: self.rejected })
    }

    fn map(&mut self, range: Range<usize>) -> Result<(), Fault> {
        if range.is_empty() {
            return Ok(());
        }
        match call(&mut self.instance, self.plugin, |instance| instance.map(self.records, range.clone())) {
            Ok(events) => self.keep(range.start, events),
            Err(Fault::Plugin(reason)) => {
                if range.len() == 1 {
                    self.rejected.push((range.start, reason, true));
                    return Ok(());
                }
                let middle = range.start + range.len() / 2;
                self.map(range.start..middle)?;
                self.map(middle..range.end)?;
            }
            Err(halt) => return Err(halt),
        }
        Ok(())
    }

    fn keep(&mut self, first: usize, mut events: Events) {
        let base = u32::try_from(first).expect("a batch has fewer than 2^32 records");
        self.rejected.extend(events.rejections.drain(..).map(|r| (first + r.item as usize, r.reason, false)));
        events.records.iter_mut().for_each(|r| *r += base);
        if self.events.records.is_empty() {
            self.events = events;
            return;
        }
        self.events.records.extend_from_slice(&events.records);
        self.events.event_times.extend_from_slice(&events.event_times);
        self.events.keys.append(&events.keys, 0..events.keys.len());
        self.events.values.append(&events.values, 0..events.values.len());
    }
}

fn record_item(records: &Records, record: usize) -> StrikeItem {
    StrikeItem::Record { partition: Partition(records.partitions[record]), offset: Offset(records.offsets[record]) }
}
