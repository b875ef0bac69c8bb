//! Whether a host is alive, ready, started: what the probes answer, read off its board. Pure but for the clock.
//!
//! Alive is who makes progress: a lane that has been inside the host or a plugin's call for too long is not, one that waits for input, for
//! the sink or for the store of its state is. Nothing outside makes a host dead, for a restart would mend nothing. Ready is a host whose
//! lanes are at work and can write.

use std::time::Duration;

use crate::backoff::Outage;
use crate::clock;
use crate::failure::{Check, Exit, Failure, Finding};
use crate::observe::board::{Board, Doing, Phase};

/// Whether nothing stands against it.
pub fn is_well(checks: &[Check]) -> bool {
    checks.iter().all(|check| !matches!(check.finding, Finding::Refused(_)))
}

/// `/livez`: a line for each lane. One that has made no progress for `stuck_after` is stuck.
pub fn live(board: &Board, stuck_after: Duration) -> Vec<Check> {
    let mut checks = vec![Check::fine("host", phase(board))];
    let most_us = u64::try_from(stuck_after.as_micros()).unwrap_or(u64::MAX);
    for lane in board.lanes() {
        let (subject, (doing, _), stuck_us) = (format!("lane {}", lane.name), lane.doing(), lane.without_progress_us());
        checks.push(if stuck_us > most_us {
            let what = format!("no progress in {} for {} s", doing.name(), stuck_us / 1_000_000);
            Check::refused(subject, Failure::new(Exit::Unexpected, what))
        } else {
            let is_away = board.state().since_ms().is_some() && doing.needs_state();
            Check::fine(subject, if is_away { "waits for the store of its state" } else { words(doing) })
        });
    }
    checks
}

/// `/readyz`: a line for the host, each lane, where state lies, the sink and the dead letters.
pub fn ready(board: &Board) -> Vec<Check> {
    let not_yet = |subject: &str, what: &str| Check::refused(subject, Failure::new(Exit::Outside, what));
    let is_folding = board.phase() == Phase::Folding && !board.is_stopping();
    let mut checks = vec![if is_folding { Check::fine("host", phase(board)) } else { not_yet("host", &phase(board)) }];
    let lanes = board.lanes();
    if lanes.is_empty() {
        checks.push(not_yet("lanes", "none is assigned yet"));
    }
    for lane in lanes {
        let subject = format!("lane {}", lane.name);
        checks.push(match (lane.deployment(), lane.doing().0) {
            (None, _) => not_yet(&subject, "its state is not restored yet"),
            (Some(_), Doing::Off) => not_yet(&subject, "it is not at work"),
            (Some(deployed), _) => Check::fine(
                subject,
                format!("folded by {} {}, deployment {}", deployed.plugin, deployed.version, deployed.n),
            ),
        });
    }
    let outside = board.outside();
    checks.push(reachable("state", Some(board.state())));
    checks.push(reachable("sink", outside.sink.as_deref()));
    checks.push(reachable("dead letters", outside.letters.as_deref()));
    checks
}

/// `/startupz`: whether the lanes have come to work once.
pub fn startup(board: &Board) -> Vec<Check> {
    vec![if board.has_started() {
        Check::fine("host", "the start is over")
    } else {
        Check::refused("host", Failure::new(Exit::Outside, phase(board)))
    }]
}

fn phase(board: &Board) -> String {
    match board.phase() {
        _ if board.is_stopping() => "stops: drains, then a last checkpoint".to_owned(),
        Phase::Starting(what) => format!("starts: {what}"),
        Phase::Folding => "its lanes are at work".to_owned(),
        Phase::GoingBack => "goes back to an earlier point of the log".to_owned(),
    }
}

fn words(doing: Doing) -> &'static str {
    match doing {
        Doing::Off => "not at work",
        Doing::Gather => "waits for input",
        Doing::Map => "maps",
        Doing::Fold => "folds",
        Doing::Store => "reads keys or writes the journal",
        Doing::Checkpoint => "writes a checkpoint",
        Doing::Write => "waits for the sink",
    }
}

fn reachable(subject: &str, outage: Option<&Outage>) -> Check {
    let away = |what: String| Check::refused(subject, Failure::new(Exit::Outside, what));
    match outage.map(Outage::since_ms) {
        None => away("not open yet".to_owned()),
        Some(None) => Check::fine(subject, "no outage"),
        Some(Some(since)) => {
            away(format!("does not answer, for {} s", clock::now_ms().saturating_sub(since).max(0) / 1000))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::backoff::Backoff;

    const MOMENT: Duration = Duration::from_millis(1);

    fn refused(checks: &[Check]) -> Vec<&str> {
        let against = checks.iter().filter(|check| matches!(check.finding, Finding::Refused(_)));
        against.map(|check| check.subject.as_str()).collect()
    }

    #[test]
    fn a_lane_is_alive_that_waits_for_the_outside_and_dead_that_does_not_come_back() {
        let board = Board::new("test", &Arc::default());
        let lane = board.lane("topic");
        for (doing, is_alive) in [
            (Doing::Gather, true),
            (Doing::Map, false),
            (Doing::Fold, false),
            (Doing::Store, false),
            (Doing::Checkpoint, false),
            (Doing::Write, true),
        ] {
            lane.enter(doing);
            std::thread::sleep(MOMENT * 2);
            assert_eq!(is_well(&live(&board, MOMENT)), is_alive, "{doing:?}");
            let mut state = Backoff::known_by("state.url", Arc::clone(board.state()));
            state.warn(&"away");
            let waits = matches!(doing, Doing::Store | Doing::Checkpoint);
            assert_eq!(is_well(&live(&board, MOMENT)), is_alive || waits, "{doing:?} in an outage");
            assert!(refused(&ready(&board)).contains(&"state"));
            state.over();
            assert!(is_well(&live(&board, Duration::from_secs(3600))), "{doing:?}");
        }
    }

    #[test]
    fn what_is_not_ready_is_named() {
        let stop = Arc::new(AtomicBool::new(false));
        let board = Board::new("test", &stop);
        assert_eq!(refused(&ready(&board)), ["host", "lanes", "sink", "dead letters"]);
        assert_eq!(refused(&startup(&board)), ["host"]);
        let (mut sink, letters) = (Backoff::new("sink"), Backoff::new("letters"));
        board.writes_to(sink.outage(), letters.outage());
        board.lane("topic");
        board.enter(Phase::Folding);
        assert_eq!(refused(&ready(&board)), ["lane topic"]);
        assert!(is_well(&startup(&board)));
        sink.warn(&"away");
        assert_eq!(refused(&ready(&board)), ["lane topic", "sink"]);
        assert!(is_well(&live(&board, MOMENT)), "an outage kills nobody");
        sink.over();
        board.enter(Phase::GoingBack);
        assert_eq!(refused(&ready(&board)), ["host", "lane topic"]);
        assert!(is_well(&startup(&board)), "the start stays over");
        board.enter(Phase::Folding);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(refused(&ready(&board)), ["host", "lane topic"]);
    }
}
