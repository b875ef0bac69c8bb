//! Whose turn it is: lanes whose queues have something, served by a few threads. Each lane is served by one thread at a time, and one that is
//! called while it is served is served again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::source::kafka::broker::locked;

/// Names a lane of a hub.
pub(super) type LaneId = u64;

/// Lanes that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Rota {
    state: Mutex<State>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<LaneId>,
    /// Of every lane that waits or is served.
    turns: HashMap<LaneId, Turn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Waiting,
    Served,
    /// Called while it is served.
    ServedAgain,
}

impl Rota {
    /// Calls a lane. Takes no other lock, and may be called with librdkafka's held.
    pub(super) fn call(&self, lane: LaneId) {
        let mut state = locked(&self.state);
        match state.turns.get_mut(&lane) {
            None => {
                state.turns.insert(lane, Turn::Waiting);
                state.waiting.push_back(lane);
                drop(state);
                self.called.notify_one();
            }
            Some(turn @ Turn::Served) => *turn = Turn::ServedAgain,
            Some(Turn::Waiting | Turn::ServedAgain) => {}
        }
    }

    /// Takes the next lane, which is served from now on; none after a time without a call.
    pub(super) fn next(&self, timeout: Duration) -> Option<LaneId> {
        let state = locked(&self.state);
        let nobody = |state: &mut State| state.waiting.is_empty();
        let (mut state, _) =
            self.called.wait_timeout_while(state, timeout, nobody).unwrap_or_else(PoisonError::into_inner);
        let lane = state.waiting.pop_front()?;
        state.turns.insert(lane, Turn::Served);
        Some(lane)
    }

    /// The lane was served. It waits for its next turn behind the others, if there is `more` or it was called meanwhile.
    pub(super) fn served(&self, lane: LaneId, more: bool) {
        let mut state = locked(&self.state);
        let turn = state.turns.remove(&lane);
        if more || turn == Some(Turn::ServedAgain) {
            state.turns.insert(lane, Turn::Waiting);
            state.waiting.push_back(lane);
            drop(state);
            self.called.notify_one();
        }
    }

    /// Ends the present waits.
    pub(super) fn wake(&self, lane: LaneId, threads: usize) {
        let mut state = locked(&self.state);
        (0..threads).for_each(|_| state.waiting.push_back(lane));
        drop(state);
        self.called.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(rota: &Rota) -> Option<LaneId> {
        rota.next(Duration::ZERO)
    }

    #[test]
    fn a_lane_is_served_by_one_thread_at_a_time_and_again_if_it_was_called_meanwhile() {
        let rota = Rota::default();
        rota.call(1);
        rota.call(1);
        assert_eq!(next(&rota), Some(1));
        rota.call(1);
        assert_eq!(next(&rota), None, "it is being served");
        rota.served(1, false);
        assert_eq!(next(&rota), Some(1), "it was called meanwhile");
        rota.served(1, false);
        assert_eq!(next(&rota), None);
    }

    #[test]
    fn a_lane_with_more_waits_behind_the_others() {
        let rota = Rota::default();
        [1, 2].into_iter().for_each(|lane| rota.call(lane));
        assert_eq!(next(&rota), Some(1));
        rota.served(1, true);
        assert_eq!((next(&rota), next(&rota), next(&rota)), (Some(2), Some(1), None));
    }
}
