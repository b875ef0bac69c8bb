//! The model against small cases from the text of the semantics, worked out by hand.

use serde_json::{Value, json};

use super::folds::{SessionId, Visits, event_time, session_id};
use super::*;

/// A fold that says what it was told. A payload is events separated by `;`, each `key time [timer]`.
#[derive(Debug, Default)]
struct Echo;

impl Fold for Echo {
    fn map(&self, record: &TestRecord) -> Result<Vec<Event>, String> {
        let text = std::str::from_utf8(record.value.as_deref().ok_or("tombstone")?).map_err(|e| e.to_string())?;
        if text == "bad" {
            return Err("bad".to_owned());
        }
        let event = |text: &str| {
            let mut words = text.split_whitespace();
            let key = words.next().expect("a key").as_bytes().to_vec();
            let time = words.next().expect("a time").parse().expect("a number");
            Event { key, time, value: words.next().unwrap_or_default().to_owned() }
        };
        Ok(text.split(';').map(event).collect())
    }

    fn on_event(&mut self, event: &Event, _: Place, watermark: Option<i64>, effects: &mut Effects) {
        effects.rows.push(json!(format!(
            "event {} {} wm {watermark:?}",
            String::from_utf8_lossy(&event.key),
            event.time
        )));
        if let Ok(timer) = event.value.parse() {
            effects.timer = Some(timer);
        }
    }

    fn on_timer(&mut self, key: &[u8], time: i64, effects: &mut Effects) {
        effects.rows.push(json!(format!("timer {} {time}", String::from_utf8_lossy(key))));
        if key == b"again" && time < 300 {
            effects.timer = Some(time + 100);
        }
    }
}

fn record(partition: u32, offset: u64, timestamp: i64, value: &str) -> TestRecord {
    TestRecord { partition, offset, timestamp, key: None, value: Some(value.as_bytes().to_vec()) }
}

/// Folds lines, all appended at 0, with an out-of-orderness of 10 ms.
fn check(lines: &[&str], expect: &[&str]) -> Lane<Echo> {
    let records: Vec<TestRecord> = (0..).zip(lines).map(|(offset, line)| record(0, offset, 0, line)).collect();
    check_records(&records, Time { out_of_orderness_ms: 10, ..Time::default() }, expect)
}

fn check_records(records: &[TestRecord], time: Time, expect: &[&str]) -> Lane<Echo> {
    let lane = run(Echo, records, time);
    assert_eq!(lane.values(), expect.iter().map(|line| json!(line)).collect::<Vec<Value>>());
    lane
}

#[test]
fn an_event_is_told_the_watermark_before_its_record() {
    let lane = check(&["a 100;b 200", "a 150"], &["event a 100 wm None", "event b 200 wm None"]);
    assert_eq!((lane.watermark, lane.counts.late), (Some(190), 1));
    check(&["a 100;b 200", "a 191"], &["event a 100 wm None", "event b 200 wm None", "event a 191 wm Some(190)"]);
}

#[test]
fn an_event_at_the_watermark_is_late_and_one_past_it_is_not() {
    let lane = check(&["a 100", "a 90", "a 91"], &["event a 100 wm None", "event a 91 wm Some(90)"]);
    assert_eq!(lane.counts, Counts { late: 1, accepted: 2, ..Counts::default() });
}

#[test]
fn a_late_event_may_be_processed_and_moves_no_watermark() {
    let time = Time { out_of_orderness_ms: 10, late: Late::Process, ..Time::default() };
    let records = [record(0, 0, 0, "a 100"), record(0, 1, 0, "a 90")];
    let lane = check_records(&records, time, &["event a 100 wm None", "event a 90 wm Some(90)"]);
    assert_eq!(lane.watermark, Some(90));
}

#[test]
fn due_timers_fire_by_time_and_key_bytes_after_the_record() {
    check(
        &["b 100 150;a 100 150;10 100 140;9 100 140", "c 160"],
        &[
            "event b 100 wm None",
            "event a 100 wm None",
            "event 10 100 wm None",
            "event 9 100 wm None",
            "event c 160 wm Some(90)",
            "timer 10 140",
            "timer 9 140",
            "timer a 150",
            "timer b 150",
        ],
    );
}

#[test]
fn a_timer_that_is_due_before_an_event_of_its_key_fires_first() {
    check(
        &["a 200", "a 210 190;b 211;a 212"],
        &[
            "event a 200 wm None",
            "event a 210 wm Some(190)",
            "event b 211 wm Some(190)",
            "timer a 190",
            "event a 212 wm Some(190)",
        ],
    );
}

#[test]
fn a_timer_set_by_a_timer_fires_in_its_turn_if_it_is_due_as_well() {
    check(
        &["again 50 100;z 60 150", "c 320"],
        &[
            "event again 50 wm None",
            "event z 60 wm None",
            "event c 320 wm Some(50)",
            "timer again 100",
            "timer z 150",
            "timer again 200",
            "timer again 300",
        ],
    );
}

#[test]
fn an_event_more_than_the_future_limit_ahead_moves_nothing() {
    let limit = Time::default().future_limit_ms;
    let records =
        [record(0, 0, 1_000, &format!("a {}", 1_001 + limit)), record(0, 1, 1_000, &format!("a {}", 1_000 + limit))];
    let lane = check_records(&records, Time::default(), &[&format!("event a {} wm None", 1_000 + limit)]);
    assert_eq!(lane.counts, Counts { rejected: 1, future: 1, accepted: 1, ..Counts::default() });
}

#[test]
fn event_times_end_with_the_years_1_and_9999() {
    let time = Time { future_limit_ms: i64::MAX, ..Time::default() };
    let records = [
        record(0, 0, 0, &format!("a {}", FIRST_MS - 1)),
        record(0, 1, 0, &format!("a {FIRST_MS}")),
        record(0, 2, 0, &format!("a {}", LAST_MS + 1)),
    ];
    let lane = check_records(&records, time, &[&format!("event a {FIRST_MS} wm None")]);
    assert_eq!(lane.counts.rejected, 2);
    assert_eq!(event_time("0001-01-01T00:00:00"), Some(FIRST_MS));
    assert_eq!(event_time("9999-12-31T23:59:59.999999999Z"), Some(LAST_MS));
}

#[test]
fn records_are_folded_by_append_time_then_partition_then_offset() {
    let records = [
        record(1, 0, 5, "d 100"),
        record(0, 0, 5, "a 100"),
        record(0, 1, 3, "b 100"),
        record(0, 2, 5, "c 100"),
        record(1, 1, 4, "e 100"),
        record(1, 2, 6, "g 100"),
        record(0, 3, 6, "f 100"),
    ];
    let expect = ["a", "b", "c", "d", "e", "f", "g"];
    let lane = run(Echo, &records, Time::default());
    let keys: Vec<String> = lane.values().iter().map(|row| row.as_str().expect("text")[6..7].to_owned()).collect();
    assert_eq!(keys, expect);
    let floors = BTreeMap::from([((0, 0), 7)]);
    let lane = run_with_floors(Echo, &records, Time::default(), &floors);
    let keys: Vec<String> = lane.values().iter().map(|row| row.as_str().expect("text")[6..7].to_owned()).collect();
    assert_eq!(keys, ["d", "e", "g", "a", "b", "c", "f"]);
}

#[test]
fn a_gap_advances_the_watermark_from_where_the_earlier_record_left_it() {
    let time = Time { out_of_orderness_ms: 0, idle_timeout_ms: Some(30), ..Time::default() };
    let records = [
        record(0, 0, 1_000, "a 100 130"),
        record(0, 1, 1_065, "b 136"),
        record(0, 2, 1_095, "bad"),
        record(0, 3, 1_126, "b 137"),
    ];
    let expect = ["event a 100 wm None", "timer a 130", "event b 136 wm Some(135)"];
    let lane = check_records(&records, time, &expect);
    assert_eq!((lane.watermark, lane.counts.late, lane.counts.rejected), (Some(137), 1, 1));
}

#[test]
fn the_seed_walkthrough_gives_the_published_table() {
    let visit =
        |user: i64, page: &str, time: &str| json!({"user_id": user, "page": page, "event_time": time}).to_string();
    let records = [
        record(0, 0, 1_727_873_508_000, &visit(1, "A.html", "2023-02-20T03:03:20")),
        record(1, 0, 1_727_873_510_000, &visit(1, "B.html", "2023-02-20T03:03:26")),
        record(0, 1, 1_727_873_512_000, &visit(1, "C.html", "2023-02-20T03:05:26")),
        record(1, 1, 1_727_873_775_000, &visit(2, "D.html", "2023-02-20T04:55:26")),
    ];
    let lane = run(Visits::new(SessionId::AppendSecond), &records, Time::default());
    let expect = [
        json!({"table": "sessions", "session_id": -1_700_334_822_881_806_003_i64, "user_id": 1, "pages": ["A.html", "B.html", "C.html"]}),
        json!({"table": "sessions", "session_id": 9_081_782_675_340_903_552_i64, "user_id": 2, "pages": ["D.html"]}),
    ];
    assert_eq!(lane.values(), expect);
    assert_eq!(lane.rows[0].origin, (0, 1, None));
}

#[test]
fn ids_by_record_differ_where_ids_by_second_collide() {
    let place = |offset| Place { append_time: 1_727_873_508_123, partition: 1, offset, index: 0 };
    let both = |form| (session_id(form, b"1", place(4)), session_id(form, b"1", place(5)));
    let (first, second) = both(SessionId::AppendSecond);
    assert_eq!((first, second), (-1_700_334_822_881_806_003, -1_700_334_822_881_806_003));
    let (first, second) = both(SessionId::Record);
    assert_ne!(first, second);
}

#[test]
fn event_times_are_read_strictly_and_floored() {
    let check = |text: &str, expect: Option<i64>| assert_eq!(event_time(text), expect, "{text}");
    check("1970-01-01T00:00:01", Some(1_000));
    check("1970-01-01T00:00:01.9999", Some(1_999));
    check("1969-12-31T23:59:59.9999", Some(-1));
    check("1970-01-01T01:00:00+01:00", Some(0));
    check("1969-12-31T19:00:00.5-05:00", Some(500));
    check("1970-01-01 00:00:01z", Some(1_000));
    check("1970-01-01t00:00:01.0000000000", Some(1_000));
    check("1970-01-01T01:00:01+0100", Some(1_000));
    check("1970-01-01 00:00:01+00", Some(1_000));
    check("1970-01-01T23:59:60Z", Some(86_400_000));
    for bad in [
        "",
        "1970-01-01",
        "1970-01-01  00:00:00",
        "1970-01-01T00:00:00.",
        "1970-01-01T00:00:00+010",
        "1970-01-01T00:00:60",
        "1970-01-01T00:60:60",
        "1970-02-30T00:00:00",
        "1970-01-01T00:00:00Zz",
    ] {
        check(bad, None);
    }
}
