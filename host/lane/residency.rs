//! Residency: which of a lane's stored keys and timers are in memory. After a restart none is. Keys are read when a batch touches them,
//! timers up to a batch's watermark and somewhat beyond. Between batches all other keys follow, page by page, until no new key costs a look into
//! the store, or until the memory for keys is full ([`memory`](super::memory)). Whoever evicts keys says so here.

use std::collections::VecDeque;

use crate::event_time::EventTime;
use crate::lane::batch::Prepared;
use crate::lane::core::Core;
use crate::observe::board::{Activity, LaneBoard};
use crate::state::database::Error;
use crate::state::pages::{Page, Pages};
use crate::state::store::Store;
use crate::state::{Evicted, KeyState, SlotId, hash, shard_of};

/// Keys taken over between two batches until all are in memory: some milliseconds.
const LOAD_KEYS: usize = 8_192;
/// Keys read from the store between two signs of life on the board.
const READ_KEYS: usize = 4_096;
/// Timers that are not in memory are read as far ahead as this many batches like the present one would advance the watermark, and within these
/// bounds, ms: so that files are not asked anew for each batch.
const BATCHES_AHEAD: i64 = 8;
const LEAST_AHEAD_MS: i64 = 1_000;
pub(super) const MOST_AHEAD_MS: i64 = 30_000;
/// The most records of a batch while keys may have to be read for it.
pub(super) const BATCH_RECORDS: usize = 1_024;

/// Which of a lane's stored keys and timers are in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Residency {
    /// All of them: a key that is not in memory has no state.
    All,
    /// Some of them.
    Partial(Loaded),
}

/// How far the store has been loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    timers: Timers,
}

/// Which stored timers are in memory, with their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timers {
    /// Those before this one; with none, not even the first.
    Before(Option<EventTime>),
    All,
}

impl Residency {
    /// Nothing is in memory, as after a restart.
    pub(super) fn none() -> Residency {
        Residency::Partial(Loaded { timers: Timers::Before(None) })
    }

    /// Whether a key that is not in memory has no state.
    pub fn is_complete(&self) -> bool {
        matches!(self, Residency::All)
    }

    /// The range of timers to be read for a batch that moves the watermark from `before` to `watermark`, because some that it needs are not in
    /// memory: from (none: the first) and up to.
    fn missing_timers(
        &self,
        before: Option<EventTime>,
        watermark: Option<EventTime>,
    ) -> Option<(Option<EventTime>, EventTime)> {
        match self {
            Residency::Partial(Loaded { timers: Timers::Before(next) }) if watermark >= *next => {
                let watermark = watermark?.ms();
                let advance = before.map_or(0, |before| watermark.saturating_sub(before.ms()));
                let ahead = advance.saturating_mul(BATCHES_AHEAD).clamp(LEAST_AHEAD_MS, MOST_AHEAD_MS);
                Some((*next, EventTime::at(watermark.saturating_add(ahead))))
            }
            Residency::Partial(_) | Residency::All => None,
        }
    }

    /// Keys have left memory.
    pub(super) fn evicted(&mut self, evicted: &Evicted) {
        if evicted.keys == 0 {
            return;
        }
        if self.is_complete() {
            *self = Residency::Partial(Loaded { timers: Timers::All });
        }
        let Residency::Partial(loaded) = self else { return };
        if let Some(first) = evicted.timer {
            loaded.timers = match loaded.timers {
                Timers::All => Timers::Before(Some(first)),
                Timers::Before(next) => Timers::Before(next.map(|next| next.min(first))),
            };
        }
    }

    /// Timers before `next` are in memory now; with none, all are.
    fn timers_loaded(&mut self, next: Option<EventTime>) {
        if let Residency::Partial(loaded) = self {
            loaded.timers = next.map_or(Timers::All, |next| Timers::Before(Some(next)));
        }
    }
}

/// Reads from the store what a batch needs and what is not in memory.
pub(super) fn load_missing(
    core: &mut Core,
    prepared: &Prepared<'_>,
    store: &Store,
    board: &LaneBoard,
) -> Result<(), Error> {
    if core.residency.is_complete() {
        return Ok(());
    }
    let slots =
        |(shard, slots): (usize, &Vec<SlotId>)| slots.iter().map(move |&slot| (shard, slot)).collect::<Vec<_>>();
    let missing: Vec<(usize, SlotId)> = prepared.missing.iter().enumerate().flat_map(slots).collect();
    fill(core, &missing, store, board)?;
    if let Some((from, until)) = core.residency.missing_timers(prepared.began.watermark, prepared.watermark) {
        let (keys, next) = store.timers(from, until)?;
        load_keys(core, &keys, store, board)?;
        core.residency.timers_loaded(next);
    }
    Ok(())
}

/// Reads those of these keys from the store that are not in memory. Returns the slots of all of them, by shard.
pub(super) fn load_keys(
    core: &mut Core,
    keys: &[Vec<u8>],
    store: &Store,
    board: &LaneBoard,
) -> Result<Vec<Vec<SlotId>>, Error> {
    let (mut slots, mut missing) = (vec![Vec::new(); core.shards.len()], Vec::new());
    for key in keys {
        let hash = hash(key);
        let at = shard_of(hash, core.shards.len());
        let is_missing = !core.shards[at].contains(hash, key);
        let slot = core.shards[at].slot_of(hash, key, false);
        slots[at].push(slot);
        if is_missing {
            missing.push((at, slot));
        }
    }
    fill(core, &missing, store, board)?;
    Ok(slots)
}

/// Fills slots from the store. A key that the store does not hold has no state.
fn fill(core: &mut Core, slots: &[(usize, SlotId)], store: &Store, board: &LaneBoard) -> Result<(), Error> {
    for slots in slots.chunks(READ_KEYS) {
        board.enter(Activity::Store);
        let keys: Vec<&[u8]> = slots.iter().map(|&(shard, slot)| core.shards[shard].slot(slot).key()).collect();
        let found = store.read(&keys)?;
        board.memory.read.add(found.iter().flatten().count() as u64);
        slots.iter().zip(found).for_each(|(&(shard, slot), found)| core.shards[shard].fill(slot, found));
    }
    Ok(())
}

/// Loads all keys of a lane's last checkpoint, some between each two batches.
pub(super) struct Loading {
    pages: Pages,
    /// What is left of the last page.
    page: VecDeque<(Vec<u8>, KeyState, u32)>,
}

impl Loading {
    /// Begins to load, if not all keys are in memory.
    pub(super) fn begin(core: &Core, store: &mut Store) -> Option<Loading> {
        (!core.residency.is_complete()).then(|| Loading { pages: store.pages(), page: VecDeque::new() })
    }

    /// Takes over the next keys, if they were read by now; with `wait`, waits for them. Returns whether all are in memory.
    pub(super) fn step(&mut self, core: &mut Core, wait: bool) -> Result<bool, Error> {
        if self.page.is_empty() {
            match self.pages.next(wait)? {
                None => return Ok(false),
                Some(page) if page.is_empty() => {
                    core.note_complete();
                    return Ok(true);
                }
                Some(page) => self.page = Page::into(page),
            }
        }
        for (key, state, version) in self.page.drain(..self.page.len().min(LOAD_KEYS)) {
            core.take_over(&key, state, version);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> EventTime {
        EventTime::at(ms)
    }

    #[test]
    fn timers_are_read_past_the_watermark_and_each_once() {
        let mut residency = Residency::none();
        let missing = |residency: &Residency, watermark| residency.missing_timers(Some(at(0)), watermark);
        assert_eq!(missing(&residency, None), None, "without a watermark no timer is due");
        assert_eq!(residency.missing_timers(None, Some(at(5))), Some((None, at(1_005))));
        assert_eq!(missing(&residency, Some(at(200))), Some((None, at(1_800))), "eight batches ahead");
        assert_eq!(missing(&residency, Some(at(1 << 40))), Some((None, at((1 << 40) + MOST_AHEAD_MS))));
        residency.timers_loaded(Some(at(9)));
        assert_eq!(missing(&residency, Some(at(8))), None);
        assert_eq!(missing(&residency, Some(at(9))), Some((Some(at(9)), at(1_009))));
        residency.timers_loaded(None);
        assert_eq!(missing(&residency, Some(at(i64::MAX))), None);
        assert!(!residency.is_complete(), "keys without a timer may be missing");
    }

    #[test]
    fn timers_of_evicted_keys_are_read_again() {
        let evicted = |timer: Option<i64>| Evicted { keys: 1, timer: timer.map(at), ..Evicted::default() };
        let mut residency = Residency::All;
        residency.evicted(&Evicted::default());
        assert!(residency.is_complete(), "none has left");
        residency.evicted(&evicted(None));
        assert_eq!((residency.is_complete(), residency.missing_timers(None, Some(at(99)))), (false, None));
        [70, 50, 60].into_iter().for_each(|ms| residency.evicted(&evicted(Some(ms))));
        assert_eq!(residency.missing_timers(None, Some(at(49))), None);
        assert_eq!(residency.missing_timers(None, Some(at(50))), Some((Some(at(50)), at(1_050))));
        let mut unread = Residency::none();
        unread.evicted(&evicted(Some(50)));
        assert_eq!(unread, Residency::none(), "not even the first timer was read");
    }
}
