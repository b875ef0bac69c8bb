//! The modes do what they are for: the deterministic ones give the same rows in any batches, and the others are detected.

use hostile::modes::Hostile;
use keyfold_sdk::testing::{Log, Outcome};

fn log() -> Log {
    let payload = |i: i64| {
        let event =
            |i: i64| format!(r#"{{"key": "k{}", "time": {}, "v": {}}}"#, i * i % 7, i * 900 + i * 7919 % 5000, i % 16);
        match i % 10 {
            0 => format!(r#"{{"events": [{}, {}]}}"#, event(i), event(i)),
            1 => format!(r#"{{"events": [], "x": {i}}}"#),
            _ => event(i),
        }
    };
    let payloads: Vec<_> = (0..500).map(payload).collect();
    Log::new(3000, &payloads.iter().map(|payload| (0, payload.as_str())).collect::<Vec<_>>())
}

fn run(mode: &str) -> Outcome {
    log().fold_deterministically::<Hostile>(&format!(r#"{{"mode": "{mode}", "units": 10}}"#))
}

#[test]
fn deterministic_modes_emit_the_same_rows_in_any_batches() {
    for mode in [
        "ok",
        "multi",
        "log",
        "burn",
        "reject",
        "reject-map",
        "reject-timer",
        "shared-key",
        "state",
        "timers",
        "timer-now",
        "mark",
    ] {
        assert!(!run(mode).rows.is_empty(), "{mode}");
    }
    let without_a_strike = log().fold_deterministically::<Hostile>(r#"{"mode": "timer-zero", "n": -1}"#);
    assert!(!without_a_strike.rows.is_empty(), "timer-zero, without an event to fail on");
}

#[test]
fn rejections_name_the_function_that_rejected() {
    assert!(run("reject").rejections.iter().all(|line| line.starts_with("event") && line.ends_with("rejected 13")));
    assert!(
        run("reject-map").rejections.iter().all(|line| line.starts_with("record") && line.ends_with("rejected 13"))
    );
    assert!(run("quote").rejections.iter().all(|line| line.starts_with("event") && line.contains(": k")));
    let timers = run("reject-timer").rejections;
    assert!(
        timers.len() > 5 && timers.iter().all(|line| line.starts_with("timer of") && line.ends_with("rejected timer"))
    );
}

#[test]
#[should_panic(expected = "give other results than one record at a time")]
fn a_static_counter_is_detected() {
    run("static-counter");
}

#[test]
#[should_panic(expected = "give other results than one record at a time")]
fn the_order_of_a_std_hash_map_is_detected() {
    run("std-hashmap");
}

#[test]
#[should_panic(expected = "set a timer for")]
fn a_timer_that_is_not_later_than_the_last_is_detected() {
    run("past-timer");
}

#[test]
fn an_unknown_mode_or_key_is_refused() {
    for config in [r#"{"mode": "nice"}"#, r#"{"mood": "ok"}"#] {
        assert!(log().fold::<Hostile>(config, &[1]).is_err(), "{config}");
    }
}
