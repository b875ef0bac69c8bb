//! Delivers the partitions of a file that was read once, block by block, in the order in which a merge runs out of them.

use std::collections::BTreeMap;

use super::Arrivals;
use super::index::Index;
use crate::event_time::plausible;
use crate::failure::Failure;
use crate::position::{Offset, Partition};
use crate::record::{NO_TIME, Records};
use crate::source::Arrival;

/// Blocks of which some partitions are still to be delivered, at most; others are read again.
pub(super) const CACHED: usize = 8;

/// The reading thread.
pub(super) struct Reader {
    index: Index,
    tracks: Vec<Track>,
    /// Blocks in the order in which they were read, less what was delivered of them.
    cache: Vec<(usize, BTreeMap<Partition, Records>)>,
    out: Arrivals,
}

/// One partition on its way.
struct Track {
    partition: Partition,
    /// Records before this offset are not wanted.
    from: Offset,
    /// Blocks still to deliver, last first.
    blocks: Vec<usize>,
    /// The append time up to which records were delivered; none before the first.
    delivered: Option<i64>,
    ended: bool,
}

impl Track {
    fn needs(&self, number: usize) -> bool {
        self.blocks.binary_search_by(|block| number.cmp(block)).is_ok()
    }
}

impl Reader {
    pub(super) fn new(index: Index, first_offsets: &[(Partition, Offset)], out: Arrivals) -> Reader {
        let track = |&(partition, from): &(Partition, Offset)| {
            let wanted = |number: &usize| index.part(*number, partition).is_some_and(|part| part.last >= from);
            let blocks = index.extents.get(&partition).map_or(&[][..], |extent| &extent.blocks);
            Track {
                partition,
                from,
                blocks: blocks.iter().copied().filter(wanted).rev().collect(),
                delivered: None,
                ended: false,
            }
        };
        let tracks = first_offsets.iter().map(track).collect();
        Reader { index, tracks, cache: Vec::new(), out }
    }

    pub(super) fn run(mut self) {
        while let Some(slot) = self.next_track() {
            let arrival = self.step(slot);
            let failed = arrival.is_err();
            if self.out.send(arrival).is_err() || failed {
                return;
            }
        }
    }

    /// The partition that a merge by (append time, partition) runs out of first.
    fn next_track(&self) -> Option<usize> {
        let running = self.tracks.iter().enumerate().filter(|(_, track)| !track.ended);
        running.min_by_key(|(_, track)| (track.delivered, track.partition)).map(|(slot, _)| slot)
    }

    fn step(&mut self, slot: usize) -> Result<Arrival, Failure> {
        let (partition, from) = (self.tracks[slot].partition, self.tracks[slot].from);
        let Some(number) = self.tracks[slot].blocks.pop() else {
            self.tracks[slot].ended = true;
            return Ok(Arrival::End { partition });
        };
        let records = since(from, self.fetch(number, partition)?);
        // Those that order nothing must not hold the others back.
        let ordering = records.append_times.iter().copied().filter(|&time| plausible(time).is_ok());
        let greatest = ordering.max().unwrap_or(NO_TIME);
        let track = &mut self.tracks[slot];
        track.delivered = Some(track.delivered.map_or(greatest, |before| before.max(greatest)));
        Ok(Arrival::Records { partition, records })
    }

    /// One partition's records of a block; the others' stay in the cache.
    fn fetch(&mut self, number: usize, partition: Partition) -> Result<Records, Failure> {
        let cached = self.cache.iter().position(|(n, records)| *n == number && records.contains_key(&partition));
        let at = match cached {
            Some(at) => at,
            None => {
                let mut records = self.index.read(number)?;
                records.retain(|p, _| {
                    *p == partition || self.tracks.iter().any(|track| track.partition == *p && track.needs(number))
                });
                self.cache.retain(|(n, _)| *n != number);
                if self.cache.len() == CACHED {
                    self.cache.remove(0);
                }
                self.cache.push((number, records));
                self.cache.len() - 1
            }
        };
        let records = self.cache[at].1.remove(&partition).unwrap_or_default();
        if self.cache[at].1.is_empty() {
            self.cache.remove(at);
        }
        Ok(records)
    }
}

/// The records from an offset on.
pub(super) fn since(from: Offset, records: Records) -> Records {
    let first = records.offsets.partition_point(|offset| *offset < from.0);
    if first == 0 {
        return records;
    }
    let mut rest = Records::default();
    rest.append(&records, first..records.len());
    rest
}
