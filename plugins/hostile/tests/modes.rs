//! The modes do what they are there for: the lawful ones give the same rows in any batches, the others are found out.

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
    log().fold_lawfully::<Hostile>(&format!(r#"{{"mode": "{mode}", "units": 10}}"#))
}

#[test]
fn lawful_modes_emit_the_same_rows_in_any_batches() {
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
    let spared = log().fold_lawfully::<Hostile>(r#"{"mode": "timer-zero", "n": -1}"#);
    assert!(!spared.rows.is_empty(), "timer-zero, with nothing to strike on");
}

#[test]
fn rejections_are_told_apart() {
    assert!(run("reject").rejections.iter().all(|line| line.starts_with("event") && line.ends_with("rejected 13")));
    assert!(
        run("reject-map").rejections.iter().all(|line| line.starts_with("record") && line.ends_with("rejected 13"))
    );
    let timers = run("reject-timer").rejections;
    assert!(
        timers.len() > 5 && timers.iter().all(|line| line.starts_with("timer of") && line.ends_with("rejected timer"))
    );
}

#[test]
#[should_panic(expected = "differs from what is folded one by one")]
fn a_static_counter_is_found_out() {
    run("static-counter");
}

#[test]
#[should_panic(expected = "differs from what is folded one by one")]
fn the_order_of_a_std_hash_map_is_found_out() {
    run("std-hashmap");
}

#[test]
#[should_panic(expected = "set one for")]
fn a_timer_that_does_not_move_on_is_found_out() {
    run("past-timer");
}

#[test]
fn an_unknown_mode_or_key_is_refused() {
    for config in [r#"{"mode": "nice"}"#, r#"{"mood": "ok"}"#] {
        assert!(log().fold::<Hostile>(config, &[1]).is_err(), "{config}");
    }
}
