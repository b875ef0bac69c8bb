//! Tests of the whole plugin, in batches of any size.

use keyfold_sdk::testing::Log;

use crate::Visits;

const OUT_OF_ORDERNESS_MS: i64 = 10_000;

fn payload(user: u32, page: &str, time: &str) -> String {
    format!(r#"{{"user_id": {user}, "page": "{page}", "event_time": "2024-10-02T{time}"}}"#)
}

fn log(records: &[(i64, String)]) -> Log {
    Log::new(OUT_OF_ORDERNESS_MS, &records.iter().map(|(time, payload)| (*time, payload.as_str())).collect::<Vec<_>>())
}

#[test]
fn the_walkthrough_gives_the_published_table() {
    let outcome = log(&[
        (1_727_873_508_000, payload(1, "A.html", "12:51:48")),
        (1_727_873_540_000, payload(1, "B.html", "12:52:20")),
        (1_727_873_555_000, payload(1, "C.html", "12:52:35")),
        (1_727_873_775_000, payload(2, "D.html", "12:56:15")),
    ])
    .fold_deterministically::<Visits>(r#"{"session_timeout": "50s", "session_id": "append-second"}"#);
    assert_eq!(
        outcome.rows["1"],
        [r#"sessions(session_id=-1700334822881806003, user_id=1, pages=["A.html", "B.html", "C.html"])"#]
    );
    assert_eq!(outcome.rows["2"], [r#"sessions(session_id=9081782675340903552, user_id=2, pages=["D.html"])"#]);
    // The timeout of D's session counts from the watermark before D, so the session ends as soon as D moves the watermark.
    assert_eq!((outcome.rows.len(), outcome.timers.len()), (2, 0));
}

#[test]
fn a_session_ends_at_the_watermark_of_its_last_visit_plus_the_timeout() {
    let times = ["12:00:00", "12:00:40", "12:01:20.001"];
    let records: Vec<_> = times.iter().map(|time| (0, payload(1, time, time))).collect();
    // The timeout counts from the first visit's own time, and then from the watermark before the second visit, 11:59:50.
    let outcome = log(&records).fold_deterministically::<Visits>("{}");
    let last = 1_727_870_400_000;
    assert_eq!(outcome.timers["1"], last + 30_000 + 50_000);
    assert!(outcome.rows.is_empty());
    let outcome = log(&records).fold_deterministically::<Visits>(r#"{"session_timeout": "30s"}"#);
    assert!(outcome.rows["1"][0].ends_with(r#"pages=["12:00:00", "12:00:40"])"#), "{outcome:?}");
}

#[test]
fn bad_records_are_rejected_and_change_nothing() {
    let mut log = log(&[(0, payload(1, "A", "12:00:00")), (0, "{}".into()), (0, String::new())]);
    log.records.push((0, None));
    let outcome = log.fold_deterministically::<Visits>("{}");
    assert_eq!(
        outcome.rejections,
        [
            "record 1: event_time is missing",
            "record 2: payload is empty",
            "record 3: payload is missing: the record is a tombstone",
        ]
    );
}

#[test]
fn sessions_are_the_same_in_any_batches() {
    let mut records = Vec::new();
    for i in 0..5000_i64 {
        let (user, second) = (i * i % 37, i / 3 + (i * 7919) % 25);
        let time = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
        let user = u32::try_from(user).expect("below 37");
        records.push((i, payload(user, &format!("p{i}"), &time)));
    }
    let outcome = log(&records).fold_deterministically::<Visits>(r#"{"session_timeout": 4000}"#);
    let sessions: usize = outcome.rows.values().map(Vec::len).sum();
    assert!(sessions > 500, "{sessions}");
}
