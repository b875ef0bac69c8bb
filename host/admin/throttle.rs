//! Throttling of wrong tokens: a peer may be wrong a few times, and then once in a while. What is kept is small, however many peers there are. A
//! throttled peer is refused before its token is compared, so that it learns nothing by going on; others are not kept waiting by it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong tokens of one peer at once, and the time that gives it one more.
const OF_ONE: Limit = Limit { burst: 10, every: Duration::from_secs(6) };
/// The same for all peers together. It holds for those that were wrong lately, and not for one that has not been.
const OF_ALL: Limit = Limit { burst: 100, every: Duration::from_millis(600) };
/// Peers that are remembered.
const MOST_PEERS: usize = 1_024;

struct Limit {
    burst: u32,
    every: Duration,
}

/// When all failures so far are forgiven, which says how many there still are.
type Forgiven = Instant;

impl Limit {
    /// How long until one more failure is allowed; none if it is now.
    fn wait(&self, forgiven: Forgiven, now: Instant) -> Option<Duration> {
        let most = self.every * (self.burst - 1);
        Some(forgiven.saturating_duration_since(now).saturating_sub(most)).filter(|wait| !wait.is_zero())
    }

    /// One more failure; those beyond the burst keep nobody waiting longer.
    fn failed(&self, forgiven: Forgiven, now: Instant) -> Forgiven {
        (forgiven.max(now) + self.every).min(now + self.every * self.burst)
    }
}

/// Who was wrong, and how often lately.
pub(super) struct Throttle {
    failures: Mutex<Failures>,
}

struct Failures {
    of_all: Forgiven,
    of_one: HashMap<Option<IpAddr>, Forgiven>,
}

impl Throttle {
    pub(super) fn new(now: Instant) -> Throttle {
        Throttle { failures: Mutex::new(Failures { of_all: now, of_one: HashMap::new() }) }
    }

    /// How long this peer must wait before its next token is compared; none if it need not. A Unix socket has one peer, its user.
    pub(super) fn wait(&self, peer: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let forgiven = *failures.of_one.get(&network(peer))?;
        OF_ONE.wait(forgiven, now).or_else(|| OF_ALL.wait(failures.of_all, now).filter(|_| forgiven > now))
    }

    /// A token of this peer was wrong.
    pub(super) fn failed(&self, peer: Option<IpAddr>, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Failures { of_all, of_one } = &mut *failures;
        *of_all = OF_ALL.failed(*of_all, now);
        let peer = network(peer);
        if of_one.len() >= MOST_PEERS && !of_one.contains_key(&peer) {
            of_one.retain(|_, forgiven| *forgiven > now);
        }
        if of_one.len() >= MOST_PEERS && !of_one.contains_key(&peer) {
            let least = of_one.iter().min_by_key(|(_, forgiven)| **forgiven).map(|(peer, _)| *peer);
            least.map(|least| of_one.remove(&least));
        }
        let forgiven = of_one.entry(peer).or_insert(now);
        *forgiven = OF_ONE.failed(*forgiven, now);
    }
}

/// Who counts as one peer: an address, or the 64 bits by which IPv6 gives a network to one subscriber.
fn network(peer: Option<IpAddr>) -> Option<IpAddr> {
    Some(match peer?.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an instant to count from")]
mod tests {
    use super::*;

    fn peer(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn a_peer_is_wrong_ten_times_and_then_once_in_six_seconds() {
        let now = Instant::now();
        let (throttle, one, other) = (Throttle::new(now), peer("192.0.2.1"), peer("192.0.2.2"));
        for _ in 0..10 {
            assert_eq!(throttle.wait(one, now), None);
            throttle.failed(one, now);
        }
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(throttle.wait(one, now), Some(Duration::from_secs(6)));
        assert_eq!(throttle.wait(one, after(5)), Some(Duration::from_secs(1)));
        assert_eq!((throttle.wait(other, now), throttle.wait(None, now)), (None, None));
        assert_eq!(throttle.wait(one, after(6)), None);
        throttle.failed(one, after(6));
        assert_eq!(throttle.wait(one, after(6)), Some(Duration::from_secs(6)));
        assert_eq!(throttle.wait(one, after(3_600)), None, "an hour later all is forgiven");
    }

    #[test]
    fn an_address_by_another_name_is_the_same_peer() {
        let now = Instant::now();
        for (one, other) in [("192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8::1", "2001:db8::ffff:2")] {
            let throttle = Throttle::new(now);
            (0..10).for_each(|_| throttle.failed(peer(one), now));
            assert!(throttle.wait(peer(other), now).is_some(), "{one} {other}");
            assert_eq!(throttle.wait(peer("2001:db8:0:1::1"), now), None);
        }
    }

    #[test]
    fn many_peers_share_a_limit_that_leaves_others_alone() {
        let now = Instant::now();
        let (throttle, other) = (Throttle::new(now), peer("198.51.100.1"));
        let many: Vec<_> = (0..100).map(|i| peer(&format!("192.0.2.{i}"))).collect();
        many.iter().for_each(|peer| throttle.failed(*peer, now));
        assert_eq!(throttle.wait(many[7], now), Some(Duration::from_millis(600)));
        assert_eq!(throttle.wait(other, now), None);
    }

    #[test]
    fn no_more_peers_are_remembered_than_a_few() {
        let now = Instant::now();
        let (throttle, worst) = (Throttle::new(now), peer("198.51.100.1"));
        (0..20).for_each(|_| throttle.failed(worst, now));
        (0..5_000_u128).for_each(|i| throttle.failed(Some(Ipv6Addr::from_bits(i << 64).into()), now));
        assert!(throttle.failures.lock().expect("nothing panics under it").of_one.len() <= MOST_PEERS);
        assert_eq!(throttle.wait(worst, now), Some(Duration::from_secs(6)), "those that were wrong most are kept");
    }
}
