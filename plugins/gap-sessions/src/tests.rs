//! Native tests of the plugin, in batches of any size. The golden tests in `golden/` run it in the host.

use keyfold_sdk::testing::Log;

use crate::GapSessions;

#[test]
fn sessions_are_the_same_in_any_batches() {
    let record = |i: i64| {
        let (user, second) = (i * i % 37, i / 3 + (i * 7919) % 25);
        (i, Some(format!(r#"{{"user": "{user}", "page": "p{i}", "time": {}}}"#, second * 1000).into_bytes()))
    };
    let log = Log { records: (0..5000).map(record).collect(), out_of_orderness_ms: 25_000 };
    let outcome = log.fold_deterministically::<GapSessions>(r#"{"gap": "4s"}"#);
    let sessions: usize = outcome.rows.values().map(Vec::len).sum();
    assert!(sessions > 500 && outcome.rejections.is_empty(), "{sessions} {:?}", outcome.rejections);
}
