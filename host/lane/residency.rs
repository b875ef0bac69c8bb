//! Residency: which of a lane's stored keys and timers are in memory. After a restart none is. Keys are read when a batch touches them,
//! timers up to a batch's watermark. Between batches all other keys follow, until no new key costs a look into the store.

use crate::event_time::EventTime;
use crate::lane::batch::Prepared;
use crate::lane::core::Core;
use crate::observe::board::{Activity, LaneBoard};
use crate::state::database::Error;
use crate::state::store::Store;

/// Keys loaded between two batches until all are in memory.
const LOAD_KEYS: usize = 20_000;
/// Keys read from the store between two signs of life on the board.
const READ_KEYS: usize = 4_096;

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
    /// The last key that was loaded in key order; empty before the first.
    keys_up_to: Vec<u8>,
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
        Residency::Partial(Loaded { keys_up_to: Vec::new(), timers: Timers::Before(None) })
    }

    /// Whether a key that is not in memory has no state.
    pub fn is_complete(&self) -> bool {
        matches!(self, Residency::All)
    }

    /// The range of timers that a batch with this watermark needs and that is not in memory: from (none: the first) and up to.
    fn missing_timers(&self, watermark: Option<EventTime>) -> Option<(Option<EventTime>, EventTime)> {
        match self {
            Residency::Partial(Loaded { timers: Timers::Before(next), .. }) if watermark >= *next => {
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

    /// Keys up to `last` are in memory now; with none, all are, and so are the timers.
    fn keys_loaded(&mut self, last: Option<Vec<u8>>) {
        match (&mut *self, last) {
            (Residency::Partial(loaded), Some(last)) => loaded.keys_up_to = last,
            (_, None) => *self = Residency::All,
            (Residency::All, Some(_)) => {}
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
            store.fill(shard, slots)?;
        }
    }
    if let Some((from, until)) = core.residency.missing_timers(prepared.watermark) {
        let next = store.load_timers(&mut core.shards, from, until)?;
        core.residency.timers_loaded(next);
    }
    Ok(())
}

/// Loads the next keys in key order, if not all are in memory.
pub(super) fn load_more_keys(core: &mut Core, store: &Store) -> Result<(), Error> {
    if let Residency::Partial(loaded) = &core.residency {
        let last = store.load_keys(&mut core.shards, &loaded.keys_up_to, LOAD_KEYS)?;
        core.residency.keys_loaded(last);
    }
    Ok(())
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

    #[test]
    fn with_the_last_key_everything_is_in_memory() {
        let mut residency = Residency::none();
        residency.keys_loaded(Some(b"k".to_vec()));
        assert!(!residency.is_complete());
        assert_eq!(residency.missing_timers(Some(at(1))), Some((None, at(1))), "keys tell nothing of timers");
        residency.keys_loaded(None);
        assert_eq!(residency, Residency::All);
        assert_eq!(residency.missing_timers(Some(at(1))), None);
    }
}
