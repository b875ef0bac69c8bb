//! Native tests of the plugin, in batches of any size. The golden tests in `golden/` run it in the host.

use keyfold_sdk::testing::Log;

use crate::Dedup;

#[test]
fn an_id_is_kept_again_only_after_its_time_to_live() {
    let record = |second: i64, id: &str| (second * 1000, Some(format!(r#"{{"id": {id}}}"#).into_bytes()));
    let records = vec![record(0, "1"), record(1, "\"1\""), record(9, "1"), record(10, "1"), record(19, "1")];
    let log = Log { records, out_of_orderness_ms: 1 };
    let outcome = log.fold_deterministically::<Dedup>(r#"{"ttl": "10s"}"#);
    let row = |first: i64, offset: i64| {
        format!(r#"firsts(id="1", first_seen={first}, partition=0, offset={offset}, payload={{"id": 1}})"#)
    };
    assert_eq!(outcome.rows["1"], [row(0, 0), row(10_000, 3)]);
    assert_eq!(outcome.timers["1"], 20_000);
}
