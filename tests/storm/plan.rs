//! What a seed picks: what happens in a storm, and when.

use std::time::Duration;

use crate::support::random::Random;

/// Everything that happens, each with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) length: Duration,
    /// Whether each partition is a lane.
    pub(crate) by_partition: bool,
    /// One after the other, until the time is over; the first [`ROUND`] in any case.
    pub(crate) hosts: Vec<(Moment, Blow)>,
    /// Each so long after the service worked again: on a slow machine its start takes long, and hosts must have time to fold. The first
    /// [`TROUBLES`] in any case.
    pub(crate) kafka: Vec<(Duration, Trouble)>,
    pub(crate) cassandra: Vec<(Duration, Trouble)>,
    /// By the time in the storm.
    pub(crate) orders: Vec<(Duration, Order)>,
}

/// When something happens to the latest host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long after its process was started: it may still be opening its lanes.
    Started(Duration),
    /// So long after it began to fold, however long a slow machine takes for its start.
    Folding(Duration),
}

/// What happens to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// It is killed, and another one is started after this time.
    Kill { pause: Duration },
    /// It is killed, and the next one finds no checkpoint. In the second half of a storm it finds it: a replay writes all rows again, and so
    /// also those that were lost before, and nothing shall heal the last ones.
    LoseCheckpoints,
    /// Another one is started beside it.
    Rival,
    /// It is paused, another one is started, and it goes on after this time.
    Freeze { thaws: Duration },
    /// It is asked to stop, and another one is started.
    Stop,
}

/// What happens to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is paused for this time.
    Pause(Duration),
    /// It is killed, or asked to stop, and started again after this time.
    Down { killed: bool, pause: Duration },
}

/// A deployment that is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// Another mode of the plugin instead of another mark.
    pub(crate) mode: Option<&'static str>,
    /// It takes effect this long after it is ordered, or as soon as it can.
    pub(crate) ahead: Option<Duration>,
    /// It is withdrawn after this time.
    pub(crate) withdrawn: Option<Duration>,
}

fn ms(random: &mut Random, low: i64, high: i64) -> Duration {
    Duration::from_millis(random.between(low, high).unsigned_abs())
}

fn kill(random: &mut Random) -> Blow {
    Blow::Kill { pause: ms(random, 0, 1_500) }
}

fn trouble(random: &mut Random, killed: bool) -> Trouble {
    Trouble::Down { killed, pause: ms(random, 0, 3_000) }
}

fn order(random: &mut Random, is_ahead: bool, is_withdrawn: bool) -> Order {
    let mode = random.chance(30).then(|| *random.pick(&["state", "timers", "timer-now"]));
    let ahead = is_ahead.then(|| ms(random, 4_000, 9_000));
    Order { mode, ahead, withdrawn: is_withdrawn.then(|| ms(random, 0, 9_000)) }
}

/// What may happen next, once each in any order, then again.
type Deck<T> = [fn(&mut Random) -> T];

/// In so many blows is one of each kind.
pub(crate) const ROUND: usize = BLOWS.len();

const BLOWS: [fn(&mut Random) -> Blow; 9] = [
    kill,
    kill,
    kill,
    kill,
    kill,
    |_| Blow::LoseCheckpoints,
    |_| Blow::Rival,
    |random| Blow::Freeze { thaws: ms(random, 500, 8_000) },
    |_| Blow::Stop,
];

/// Among so many troubles of a service is one of each kind.
pub(crate) const TROUBLES: usize = KAFKA.len();

const KAFKA: [fn(&mut Random) -> Trouble; 4] = [
    |random| Trouble::Pause(ms(random, 500, 3_000)),
    |random| Trouble::Pause(ms(random, 2_000, 9_000)),
    |random| trouble(random, true),
    |random| trouble(random, false),
];

/// Its start takes a third of a minute, so it is seldom down.
const CASSANDRA: [fn(&mut Random) -> Trouble; 4] = [
    |random| Trouble::Pause(ms(random, 500, 3_000)),
    |random| Trouble::Pause(ms(random, 2_000, 9_000)),
    |random| Trouble::Pause(ms(random, 2_000, 14_000)),
    |random| trouble(random, true),
];

const ORDERS: [fn(&mut Random) -> Order; 5] = [
    |random| order(random, false, false),
    |random| order(random, false, true),
    |random| order(random, true, false),
    |random| order(random, true, true),
    |random| order(random, false, true),
];

impl Plan {
    /// The plan of a seed, for a storm of this length.
    pub(crate) fn of(seed: u64, length: Duration) -> Plan {
        let random = &mut Random::new(seed);
        let mut left = Vec::new();
        let blows = length.as_secs().max(2 * ROUND as u64);
        let mut hosts: Vec<(Moment, Blow)> = (0..blows)
            .map(|_| {
                let blow = draw(random, &mut left, &BLOWS);
                (moment(random), blow)
            })
            .collect();
        // Early, so that it comes in the first half.
        let lost = hosts.iter().position(|(_, blow)| *blow == Blow::LoseCheckpoints).expect("one in each round");
        hosts.swap(lost, 1);
        Plan {
            seed,
            length,
            by_partition: seed % 3 == 2,
            hosts,
            kafka: apart(dealt(random, length, (8_000, 16_000), &KAFKA)),
            cassandra: apart(dealt(random, length, (8_000, 16_000), &CASSANDRA)),
            orders: dealt(random, length, (5_000, 11_000), &ORDERS),
        }
    }
}

/// Cards of a deck at random times, so many milliseconds after the one before.
fn dealt<T>(random: &mut Random, length: Duration, (low, high): (i64, i64), deck: &Deck<T>) -> Vec<(Duration, T)> {
    let mut left: Vec<fn(&mut Random) -> T> = Vec::new();
    let (mut at, mut all) = (Duration::ZERO, Vec::new());
    loop {
        at += ms(random, low, high);
        if at >= length {
            return all;
        }
        all.push((at, draw(random, &mut left, deck)));
    }
}

/// The same, each with the time since the one before.
fn apart<T>(mut all: Vec<(Duration, T)>) -> Vec<(Duration, T)> {
    let mut before = Duration::ZERO;
    for (at, _) in &mut all {
        let gap = *at - before;
        before = std::mem::replace(at, gap);
    }
    all
}

/// The next card of a deck, of which these are left in this round.
fn draw<T>(random: &mut Random, left: &mut Vec<fn(&mut Random) -> T>, deck: &Deck<T>) -> T {
    if left.is_empty() {
        left.extend(deck);
    }
    let card = left.swap_remove(usize::try_from(random.below(left.len() as u64)).expect("an index"));
    card(random)
}

fn moment(random: &mut Random) -> Moment {
    if random.chance(25) { Moment::Started(ms(random, 0, 3_000)) } else { Moment::Folding(ms(random, 100, 6_000)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_plan_again_and_the_shortest_storm_has_everything_in_it() {
        for seed in 0..200 {
            let plan = Plan::of(seed, Duration::from_secs(crate::SHORTEST_S));
            assert_eq!(plan, Plan::of(seed, plan.length));
            let blow = |holds: fn(&Blow) -> bool| plan.hosts[..ROUND].iter().any(|(_, blow)| holds(blow));
            assert!(blow(|blow| matches!(blow, Blow::Kill { .. })), "seed {seed}");
            assert_eq!(plan.hosts[1].1, Blow::LoseCheckpoints, "seed {seed}");
            assert!(blow(|blow| *blow == Blow::Rival), "seed {seed}");
            assert!(blow(|blow| matches!(blow, Blow::Freeze { .. })), "seed {seed}");
            assert!(blow(|blow| *blow == Blow::Stop), "seed {seed}");
            for troubles in [&plan.kafka[..TROUBLES], &plan.cassandra[..TROUBLES]] {
                assert!(troubles.iter().any(|(_, trouble)| matches!(trouble, Trouble::Pause(_))), "seed {seed}");
                assert!(troubles.iter().any(|(_, trouble)| matches!(trouble, Trouble::Down { .. })), "seed {seed}");
            }
            assert!(plan.orders.iter().any(|(_, order)| order.withdrawn.is_none()), "seed {seed}");
            assert!(plan.orders.iter().any(|(_, order)| order.withdrawn.is_some()), "seed {seed}");
        }
        assert_ne!(Plan::of(1, Duration::from_secs(120)), Plan::of(2, Duration::from_secs(120)));
    }
}
