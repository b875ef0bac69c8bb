//! The memory of keyed state: what all lanes of a host may take together (`state.memory`), and what a lane does about it between two batches.
//! After a restart it takes over its keys until the bound is reached; beyond it, cold keys are evicted, and read again when they are met
//! ([`super::residency`]). Migration reaches every key, wherever it is. Owns what is done when, and nothing of how.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::event_time::EventTime;
use crate::lane::Running;
use crate::lane::interrupt::Interrupt;
use crate::lane::residency;
use crate::observe::board::Activity;
use crate::state::database::Error;
use crate::state::pages::Pages;
use crate::state::store::Store;

/// Keys looked at between two batches for state of an earlier version, until all have the plugin's.
pub(super) const MIGRATE_KEYS: usize = 5_000;
/// Slots looked at between two batches for keys to evict: a fraction of a millisecond, or some if much is to be given up.
const LOOK_AT: [usize; 2] = [16_384, 65_536];
/// What evicting a key gives up at least, bytes.
const LEAST_BYTES: u64 = 128;
/// Keys with a timer within so much event time are evicted last: they would soon be read again, ms.
const SOON_MS: i64 = 2 * residency::MOST_AHEAD_MS;

/// What all lanes of a host may take for keyed state, and what they take.
#[derive(Debug)]
pub struct Memory {
    bound: u64,
    taken: AtomicU64,
    lanes: AtomicU64,
}

impl Memory {
    /// Nothing is taken yet of so many bytes.
    pub fn new(bound: u64) -> Arc<Memory> {
        Arc::new(Memory { bound, taken: AtomicU64::new(0), lanes: AtomicU64::new(0) })
    }
}

/// A lane's part of a host's [`Memory`]. No row depends on it.
#[derive(Debug)]
pub(super) struct Share {
    memory: Arc<Memory>,
    taken: u64,
    /// Slots that were looked at for cold keys since the bound was passed.
    looked_at: u64,
    /// Whether the lane has more than it should, and could not give it up.
    is_beyond: bool,
}

impl Share {
    pub(super) fn of(memory: Arc<Memory>) -> Share {
        memory.lanes.fetch_add(1, Ordering::Relaxed);
        Share { memory, taken: 0, looked_at: 0, is_beyond: false }
    }

    /// Whether what changed is to be captured as fast as possible, so that it can be evicted.
    pub(super) fn is_beyond(&self) -> bool {
        self.is_beyond
    }

    /// Notes what the lane takes now. Returns how much of it the lane is to give up, bytes: what is beyond the bound, but not if the others are to
    /// blame for that, whose parts are larger.
    fn take(&mut self, bytes: u64) -> u64 {
        let Memory { bound, taken, lanes } = &*self.memory;
        let before = std::mem::replace(&mut self.taken, bytes);
        // Added first, so that the sum never falls below nothing.
        let all = taken.fetch_add(bytes, Ordering::Relaxed) + bytes - before;
        taken.fetch_sub(before, Ordering::Relaxed);
        let fair = bound / lanes.load(Ordering::Relaxed).max(1);
        all.saturating_sub(*bound).min(bytes.saturating_sub(fair))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.taken.fetch_sub(self.taken, Ordering::Relaxed);
        self.memory.lanes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The keys of the store whose state may be of an earlier version, as they are looked for.
pub(super) struct Search {
    pages: Pages,
    keys: VecDeque<Vec<u8>>,
}

impl Search {
    fn begin(store: &mut Store) -> Search {
        Search { pages: store.pages(), keys: VecDeque::new() }
    }

    /// Returns up to `most` of the next keys whose state is not of `version`; none if they were not read by now, which does not happen with
    /// `wait`; empty at the end. The state itself is not taken from here: it may have changed since, and the key evicted again.
    fn next(&mut self, version: u32, most: usize, wait: bool) -> Result<Option<Vec<Vec<u8>>>, Error> {
        while self.keys.is_empty() {
            let Some(page) = self.pages.next(wait)? else { return Ok(None) };
            if page.is_empty() {
                break;
            }
            let former = page
                .into_iter()
                .filter(|(_, state, of)| *of != version && (state.value.is_some() || !state.list.is_empty()));
            self.keys.extend(former.map(|(key, _, _)| key));
        }
        Ok(Some(self.keys.drain(..self.keys.len().min(most)).collect()))
    }
}

impl Running {
    /// Takes over the next keys of the last checkpoint, if they were read by now; with `wait`, waits for them.
    pub(super) fn load_more_keys(&mut self, wait: bool) -> Result<(), Interrupt> {
        let Some(loading) = &mut self.loading else { return Ok(()) };
        self.context.board.enter(Activity::Store);
        if loading.step(&mut self.core, wait).map_err(|e| self.store.explain(e))? {
            self.loading = None;
        }
        Ok(self.checkpoints.check_state(self.core.count_state(&self.context.board))?)
    }

    /// Keeps what the lane takes within its part of the host's memory, as far as that is possible: what changed since the last checkpoint stays.
    pub(super) fn keep_within_memory(&mut self) {
        let taken = self.core.memory() + self.store.cached_bytes();
        let mut beyond = self.share.take(taken);
        if beyond > 0 && self.loading.take().is_some() {
            let (lane, keys) = (&self.context.name, self.core.in_memory());
            tracing::info!(
                event = "state-partly-loaded",
                lane,
                keys,
                "keys in memory reach state.memory; the others are read when they are met"
            );
        }
        if beyond == 0 {
            self.share.looked_at = 0;
        } else {
            let keys = usize::try_from(beyond / LEAST_BYTES).unwrap_or(usize::MAX);
            let evicted = self.core.evict(beyond, keys.saturating_mul(2).clamp(LOOK_AT[0], LOOK_AT[1]), self.soon());
            beyond -= beyond.min(evicted.bytes);
            self.share.looked_at = if beyond == 0 { 0 } else { self.share.looked_at + evicted.looked_at };
            self.context.board.memory.evicted.add(evicted.keys);
            let is_in_vain = self.share.looked_at >= 4 * self.core.slots();
            if is_in_vain || beyond > self.core.memory().saturating_sub(self.core.changed_memory()) {
                self.checkpoints.hasten(); // then what changed can be evicted
            }
            if is_in_vain {
                self.share.looked_at = 0;
            }
        }
        self.share.is_beyond = beyond > 0;
        let (taken, keys) = (self.core.memory() + self.store.cached_bytes(), self.core.in_memory());
        self.share.take(taken);
        self.context.board.memory.bytes.set(taken);
        self.context.board.memory.keys.set(keys as u64);
    }

    /// Keys with a timer up to this time stay, until all slots were looked at three times.
    fn soon(&self) -> Option<EventTime> {
        let watermark = self.core.time.watermark?;
        (self.share.looked_at < 3 * self.core.slots()).then(|| EventTime::at(watermark.ms().saturating_add(SOON_MS)))
    }

    /// Migrates keys that no record and no timer touches, after a deployment whose plugin has another state version: first those in memory, then
    /// those that are in the store only.
    pub(super) fn migrate_more_keys(&mut self, count: usize, wait: bool) -> Result<(), Interrupt> {
        if self.loading.is_some() || !self.core.is_migrating() {
            return Ok(());
        }
        self.context.board.enter(Activity::Fold);
        let migrated = if self.core.has_searched_memory() {
            let version = self.core.plugin().description.state_version;
            let search = self.search.get_or_insert_with(|| Search::begin(&mut self.store));
            let Some(keys) = search.next(version, count, wait).map_err(|e| self.store.explain(e))? else {
                return Ok(());
            };
            if keys.is_empty() {
                self.search = None;
                self.core.end_search();
                return Ok(());
            }
            let slots = residency::load_keys(&mut self.core, &keys, &self.store, &self.context.board)?;
            self.core.migrate_slots(slots)
        } else {
            self.search = None; // of a migration before this one
            self.core.migrate(count)
        };
        match migrated {
            Ok(output) => self.release(output),
            Err(fault) => Err(self.failed(fault)),
        }
    }

    /// Migrates every key: each deployment's plugin migrates all state that it finds, so that no row depends on which keys were touched
    /// between two deployments.
    pub(super) fn migrate_all_keys(&mut self) -> Result<(), Interrupt> {
        while self.core.is_migrating() {
            self.context.signals.check()?;
            self.load_more_keys(true)?;
            self.migrate_more_keys(usize::MAX, true)?;
        }
        self.context.signals.check()
    }
}
