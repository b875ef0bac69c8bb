//! Residency: which of a lane's stored keys and timers are in memory. After a restart none is. Keys are read when a batch touches them,
//! timers up to a batch's watermark. Between batches all other keys follow, page by page, until no new key costs a look into the store.

use std::collections::{BTreeMap, VecDeque};

use crate::event_time::EventTime;
use crate::lane::batch::Prepared;
use crate::lane::core::Core;
use crate::observe::board::{Activity, LaneBoard};
use crate::state::database::Error;
use crate::state::pages::{Page, Pages};
use crate::state::store::Store;
use crate::state::{KeyState, Shard, SlotId, hash, shard_of};

/// Keys taken over between two batches until all are in memory: some milliseconds.
const LOAD_KEYS: usize = 8_192;
/// Keys read from the store between two signs of life on the board.
const READ_KEYS: usize = 4_096;
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

    /// The range of timers that a batch with this watermark needs and that is not in memory: from (none: the first) and up to.
    fn missing_timers(&self, watermark: Option<EventTime>) -> Option<(Option<EventTime>, EventTime)> {
        match self {
            Residency::Partial(Loaded { timers: Timers::Before(next) }) if watermark >= *next => {
                Some((*next, watermark?))
            }
            Residency::Partial(_) | Residency::All => None,
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
    for (shard, slots) in core.shards.iter_mut().zip(&prepared.missing) {
        for slots in slots.chunks(READ_KEYS) {
            board.enter(Activity::Store);
            fill(shard, slots, store)?;
        }
    }
    if let Some((from, until)) = core.residency.missing_timers(prepared.watermark) {
        let (keys, next) = store.timers(from, until)?;
        let mut missing: BTreeMap<usize, Vec<SlotId>> = BTreeMap::new();
        for key in keys {
            let hash = hash(&key);
            let at = shard_of(hash, core.shards.len());
            let shard = &mut core.shards[at];
            if !shard.contains(hash, &key) {
                missing.entry(at).or_default().push(shard.slot_of(hash, &key, false));
            }
        }
        for (at, slots) in missing {
            for slots in slots.chunks(READ_KEYS) {
                board.enter(Activity::Store);
                fill(&mut core.shards[at], slots, store)?;
            }
        }
        core.residency.timers_loaded(next);
    }
    Ok(())
}

/// Fills slots from the store. A key that the store does not hold has no state.
fn fill(shard: &mut Shard, slots: &[SlotId], store: &Store) -> Result<(), Error> {
    let keys: Vec<&[u8]> = slots.iter().map(|&slot| shard.slot(slot).key()).collect();
    let found = store.read(&keys)?;
    slots.iter().zip(found).for_each(|(&slot, found)| shard.fill(slot, found));
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
                    core.residency = Residency::All; // and so are the timers
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
    fn timers_are_read_up_to_the_watermark_and_each_once() {
        let mut residency = Residency::none();
        assert_eq!(residency.missing_timers(None), None, "without a watermark no timer is due");
        assert_eq!(residency.missing_timers(Some(at(5))), Some((None, at(5))));
        residency.timers_loaded(Some(at(9)));
        assert_eq!(residency.missing_timers(Some(at(8))), None);
        assert_eq!(residency.missing_timers(Some(at(9))), Some((Some(at(9)), at(9))));
        residency.timers_loaded(None);
        assert_eq!(residency.missing_timers(Some(at(i64::MAX))), None);
        assert!(!residency.is_complete(), "keys without a timer may be missing");
    }
}
