//! What a lane does that has nothing to fold: how long it waits before it looks at its clock again, and when it asks its partitions next, so that its
//! time can follow the clock. A host may have a thousand such lanes, so each of them wakes seldom, and all ask at the same moments.

use std::time::Duration;

/// The shortest wait for something that is due.
const SHORTEST_WAIT: Duration = Duration::from_millis(2);
/// The longest that a lane waits before it looks at its clock again; the second, once it has been idle for long.
pub(super) const WAIT: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// The shortest time between two live idle advances: each is an entry in the journal.
const ADVANCE_EVERY_MS: i64 = 1000;

/// How long a lane has been idle, and how far its time has followed the clock.
#[derive(Debug)]
pub(super) struct Idle {
    /// When a record arrived last, on the clock's monotonic time.
    since: Duration,
    /// The instant past which the partitions were asked last; ms since 1970.
    asked_ms: Option<i64>,
    /// The instant to which the lane's time advanced last; ms since 1970.
    advanced_ms: i64,
}

impl Idle {
    /// Begins, at a monotonic time.
    pub(super) fn new(now: Duration) -> Idle {
        Idle { since: now, asked_ms: None, advanced_ms: 0 }
    }

    /// Records arrived.
    pub(super) fn end(&mut self, now: Duration) {
        self.since = now;
    }

    /// How long to wait with nothing in hand: until something else is due, or thereabouts. The longer it has been so, the longer.
    pub(super) fn patience(&self, now: Duration, until_due: Duration) -> Duration {
        let wait = (now.saturating_sub(self.since) / 16).clamp(WAIT[0], WAIT[1]);
        wait.min(until_due.max(SHORTEST_WAIT))
    }

    /// The instant past which to ask, once all were found empty at `empty_at_ms`: the same as before until that was past it, and then the next
    /// whole second, at which other lanes ask too.
    pub(super) fn ask_after(&mut self, now_ms: i64, empty_at_ms: Option<i64>) -> i64 {
        let next = match self.asked_ms {
            None => now_ms,
            Some(asked) if empty_at_ms.is_some_and(|at| at > asked) => {
                now_ms.max((asked.div_euclid(ADVANCE_EVERY_MS) + 1) * ADVANCE_EVERY_MS)
            }
            Some(asked) => asked,
        };
        let next = next.min(now_ms + ADVANCE_EVERY_MS); // a clock may have gone back
        self.asked_ms = Some(next);
        next
    }

    /// Whether the lane's time may advance to this instant so soon. If so, it does.
    pub(super) fn advance(&mut self, instant: i64) -> bool {
        let may = instant >= self.advanced_ms + ADVANCE_EVERY_MS;
        if may {
            self.advanced_ms = instant;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_idle_lane_waits_for_its_checkpoint_and_longer_the_longer_it_is_idle() {
        let mut idle = Idle::new(ms(0));
        idle.end(ms(1_000));
        assert_eq!(idle.patience(ms(1_000), ms(10_000)), WAIT[0]);
        assert_eq!(idle.patience(ms(1_000 + 16 * 200), ms(10_000)), ms(200));
        assert_eq!(idle.patience(ms(100_000), ms(10_000)), WAIT[1]);
        assert_eq!(idle.patience(ms(100_000), ms(20)), ms(20));
        assert_eq!(idle.patience(ms(100_000), ms(0)), SHORTEST_WAIT, "an overdue checkpoint does not make it spin");
    }

    #[test]
    fn idle_lanes_ask_at_the_same_moments() {
        let mut idle = Idle::new(ms(0));
        assert_eq!(idle.ask_after(10_300, None), 10_300, "at once");
        assert_eq!(idle.ask_after(10_350, None), 10_300, "it is not answered yet");
        assert_eq!(idle.ask_after(10_360, Some(10_310)), 11_000);
        assert_eq!(idle.ask_after(10_900, Some(10_310)), 11_000);
        assert_eq!(idle.ask_after(11_010, Some(11_005)), 12_000);
        assert_eq!(idle.ask_after(60_400, Some(12_005)), 60_400, "after records the lane asks at once");
        assert_eq!(idle.ask_after(5_000, Some(60_000)), 6_000, "the clock went back");
    }
}
