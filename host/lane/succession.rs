//! Succession: the logic that folds a lane, the strikes that the journal knows of it, and what takes over next. Owns the moment of a swap: the
//! plugin is attributed to the lane, and the gap between the last fold of one logic and the first of the next is measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Time;
use crate::deployment::Rewind;
use crate::deployment::follow::{Follower, Logic};
use crate::failure::Failure;
use crate::lane::context::Context;
use crate::lane::core::Core;
use crate::plugin::Plugin;
use crate::position::TopicId;
use crate::state::journal::Seals;
use crate::strike::StrikeItem;

/// The logic in force, and what follows it.
pub(super) struct Succession {
    logic: Logic,
    /// Strikes that the journal knows, of deployments that the lane has not reached.
    strikes: BTreeMap<u64, BTreeMap<StrikeItem, String>>,
    follower: Follower,
    /// `plugin.log_rate`
    log_rate: u64,
    reserved: Reserved,
    /// When the previous logic had folded its last record, until the new one folds its first.
    swapped_at: Option<Duration>,
    swaps: u64,
    longest_gap_us: u64,
}

impl Succession {
    /// Starts with this logic.
    pub(super) fn new(
        logic: Logic,
        strikes: BTreeMap<u64, BTreeMap<StrikeItem, String>>,
        follower: Follower,
        log_rate: u64,
    ) -> Succession {
        Succession {
            logic,
            strikes,
            follower,
            log_rate,
            reserved: Reserved::default(),
            swapped_at: None,
            swaps: 0,
            longest_gap_us: 0,
        }
    }

    /// The number of the deployment in force.
    pub(super) fn n(&self) -> u64 {
        self.logic.n
    }

    /// Its time settings.
    pub(super) fn time(&self) -> &Time {
        &self.logic.time
    }

    /// Its plugin.
    pub(super) fn plugin(&self) -> &Arc<Plugin> {
        &self.logic.plugin
    }

    /// Calls the plugin, and lets it log, under the name of this lane from now on.
    pub(super) fn attribute_plugin(&mut self, context: &Context, core: &mut Core) {
        let logic = &mut self.logic;
        logic.plugin = Arc::new(logic.plugin.of_lane(&context.name, self.log_rate));
        context.board.deploy(logic.plugin.deployed(logic.n), logic.plugin.called());
        core.switch(Arc::clone(&logic.plugin), logic.time);
    }

    // ---- what the lane may fold

    /// Reserves up to an append time, and learns what was deployed (I9).
    pub(super) fn reserve(&mut self, append_time: i64) -> Result<(), Failure> {
        self.follower.reserve(append_time)?;
        self.reserved.raise(append_time);
        Ok(())
    }

    /// Checks that the lane has reserved up to an append time that it is about to fold (I9).
    ///
    /// # Panics
    /// If it has not.
    pub(super) fn assert_reserved(&self, append_time: i64) {
        self.reserved.assert_covers(append_time);
    }

    /// T of the next deployment, if it is at or before an append time.
    pub(super) fn due(&self, append_time: i64) -> Option<i64> {
        self.follower.due(append_time)
    }

    /// Returns why the lane must rewind instead of folding up to an append time, if it must.
    pub(super) fn may_fold(&mut self, append_time: i64) -> Result<Option<Rewind>, Failure> {
        self.follower.may_fold(append_time)
    }

    /// Returns why an idle lane must rewind, if it must.
    pub(super) fn look(&mut self) -> Result<Option<Rewind>, Failure> {
        self.follower.look()
    }

    /// The deployment in force, if it can still be withdrawn.
    pub(super) fn on_probation(&self) -> Option<u64> {
        self.follower.on_probation()
    }

    /// Withdraws the deployment in force; false if it cannot be withdrawn.
    pub(super) fn withdraw(&mut self, reason: &str) -> Result<bool, Failure> {
        self.follower.withdraw(reason)
    }

    /// Refuses another topic than the one from which the state was built.
    pub(super) fn hold_topic(&mut self, id: TopicId) -> Result<(), Failure> {
        self.follower.hold_topic(id)
    }

    // ---- a swap

    /// Loads the next deployment, whose T was reached.
    pub(super) fn next(&mut self) -> Result<Logic, Failure> {
        self.follower.enter()
    }

    /// What the journal is to keep of the deployments, if there is news of them.
    pub(super) fn seals(&mut self) -> Result<Option<Seals>, Failure> {
        self.follower.seals()
    }

    /// Folds with `logic` from now on; the previous logic folded its last record at `ended`.
    pub(super) fn enter(&mut self, logic: Logic, t: i64, ended: Duration, context: &Context, core: &mut Core) {
        self.logic = logic;
        self.attribute_plugin(context, core);
        core.strikes = self.strikes.remove(&self.logic.n).unwrap_or_default();
        self.swaps += 1;
        context.board.swaps.add(1);
        self.swapped_at.get_or_insert(ended);
        let Logic { n, plugin, .. } = &self.logic;
        let description = &plugin.description;
        tracing::info!(
            event = "deployment-entered",
            lane = context.name,
            deployment = n,
            plugin = description.name,
            version = description.version,
            digest = plugin.digest.0,
            t,
            "deployment in force"
        );
    }

    /// Ends the gap of a swap: the new logic is about to fold its first record.
    pub(super) fn end_gap(&mut self, context: &Context) {
        let Some(ended) = self.swapped_at.take() else { return };
        let gap = context.clock.monotonic().saturating_sub(ended);
        let gap_us = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
        self.longest_gap_us = self.longest_gap_us.max(gap_us);
        context.board.longest_gap_us.set(self.longest_gap_us);
        tracing::info!(
            event = "swap-finished",
            lane = context.name,
            deployment = self.logic.n,
            gap_us,
            "swap finished"
        );
    }

    /// Swaps so far, and the longest gap in microseconds.
    pub(super) fn swaps(&self) -> (u64, u64) {
        (self.swaps, self.longest_gap_us)
    }
}

/// The greatest append time that the lane has reserved since its start.
#[derive(Clone, Copy, Debug, Default)]
struct Reserved(Option<i64>);

impl Reserved {
    fn raise(&mut self, append_time: i64) {
        self.0 = self.0.max(Some(append_time));
    }

    fn assert_covers(self, append_time: i64) {
        assert!(
            Some(append_time) <= self.0,
            "the lane would fold up to {append_time} and has reserved up to {:?}",
            self.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_a_lane_may_fold_up_to_its_reservation_which_never_shrinks() {
        let mut reserved = Reserved::default();
        reserved.raise(7);
        reserved.raise(5);
        reserved.assert_covers(7);
    }

    #[test]
    #[should_panic = "the lane would fold up to 8 and has reserved up to Some(7)"]
    fn i9_nothing_is_folded_past_the_reservation() {
        Reserved(Some(7)).assert_covers(8);
    }

    #[test]
    #[should_panic = "has reserved up to None"]
    fn i9_nothing_is_folded_before_the_first_reservation() {
        Reserved::default().assert_covers(i64::MIN);
    }
}
