//! Native tests of the plugin, in batches of any size. The golden tests in `golden/` run it in the host.

use keyfold_sdk::testing::Log;

use crate::RateAlert;

const LIMIT: usize = 5;
const WINDOW_MS: i64 = 20_000;
const QUIET_MS: i64 = 30_000;

fn folded(times: impl Iterator<Item = (i64, i64)>) -> Vec<String> {
    let record = |(key, time): (i64, i64)| (time, Some(format!(r#"{{"key": "{key}", "time": {time}}}"#).into_bytes()));
    let log = Log { records: times.map(record).collect(), out_of_orderness_ms: 25_000 };
    let outcome = log.fold_deterministically::<RateAlert>(r#"{"limit": 5, "window": "20s", "quiet": "30s"}"#);
    assert!(outcome.rejections.is_empty(), "{:?}", outcome.rejections);
    outcome.rows.into_values().flatten().collect()
}

/// Event times of key 1, in bursts.
fn times() -> Vec<i64> {
    (0..2000_i64).filter(|i| i * i % 97 < 20 + i / 25 % 20).map(|i| i * 2_000).collect()
}

#[test]
fn in_order_alerts_match_the_definition() {
    let times = times();
    let (mut over, mut expect) = (i64::MIN / 2, Vec::new());
    for (i, time) in times.iter().enumerate() {
        let within: Vec<&i64> = times[..=i].iter().filter(|other| time - *other < WINDOW_MS).collect();
        if within.len() > LIMIT {
            if *time > over + QUIET_MS {
                let (events, since) = (within.len(), within[0]);
                expect.push(format!(r#"rate_alerts(key="1", time={time}, events={events}, since={since})"#));
            }
            over = *time;
        }
    }
    assert!(expect.len() > 5, "{expect:?}");
    assert_eq!(folded(times.iter().map(|time| (1, *time))), expect);
}

#[test]
fn out_of_order_alerts_are_the_same_in_any_batches() {
    let times = (0..5000_i64).map(|i| (i * i % 37, (i / 3 + (i * 7919) % 25) * 1000));
    assert!(folded(times).len() > 20);
}
