//! The answers to the probes, from the board: whether a host is alive, ready, started. Pure except for the clock.
//!
//! A host is alive while its lanes make progress. Waiting for input, the sink or the state store counts as progress, because a restart would
//! not help; a lane that has been computing or inside a plugin call for too long is stuck. A host is ready while its lanes run and can write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::backoff::Outage;
use crate::clock;
use crate::failure::{Check, Exit, Failure, first_refused};
use crate::observe::board::{Activity, Board, LaneBoard, Phase};

/// Returns whether no check is refused.
pub fn is_well(checks: &[Check]) -> bool {
    first_refused(checks).is_none()
}

/// Answers `/livez`: a check per lane. A lane without progress for `stuck_after` is stuck.
pub fn live(board: &Board, stuck_after: Duration) -> Vec<Check> {
    let mut checks = vec![Check::fine("host", phase(board))];
    let most_us = u64::try_from(stuck_after.as_micros()).unwrap_or(u64::MAX);
    for lane in board.lanes() {
        let (subject, (activity, _), stuck_us) =
            (format!("lane {}", lane.name), lane.activity(), lane.without_progress_us());
        checks.push(if stuck_us > most_us {
            let what = format!("no progress in {} for {} s", activity.name(), stuck_us / 1_000_000);
            Check::refused(subject, Failure::new(Exit::Unexpected, what))
        } else {
            let is_unavailable = board.state().since_ms().is_some() && activity.needs_state();
            Check::fine(subject, if is_unavailable { "waiting for the state store" } else { words(activity) })
        });
    }
    checks
}

/// Answers `/readyz`: checks of the host, each lane, the source, the state store, the sink and the dead letters.
pub fn ready(board: &Board) -> Vec<Check> {
    let not_yet = |subject: &str, what: &str| Check::refused(subject, Failure::new(Exit::Outside, what));
    let is_folding = board.phase() == Phase::Folding && !board.is_stopping();
    let mut checks = vec![if is_folding { Check::fine("host", phase(board)) } else { not_yet("host", &phase(board)) }];
    let lanes = board.lanes();
    if lanes.is_empty() {
        let what = "no lane is assigned to this host";
        checks.push(if board.shares.load(Ordering::Relaxed) {
            Check::fine("lanes", what)
        } else {
            not_yet("lanes", what)
        });
    }
    for lane in lanes {
        let subject = format!("lane {}", lane.name);
        checks.push(match (lane.deployment(), lane.activity().0) {
            (None, _) => not_yet(&subject, "state not restored yet"),
            (Some(_), Activity::Off) => not_yet(&subject, "not running"),
            (Some(deployed), _) => Check::fine(
                subject,
                format!("running {} {}, deployment {}", deployed.plugin, deployed.version, deployed.n),
            ),
        });
    }
    checks.extend(source(&board.lanes()));
    let outputs = board.outputs();
    checks.push(reachable("state", Some(board.state())));
    checks.push(reachable("sink", outputs.sink.as_deref()));
    checks.push(reachable("dead letters", outputs.letters.as_deref()));
    checks
}

/// Answers `/startupz`: whether the lanes have started once.
pub fn startup(board: &Board) -> Vec<Check> {
    vec![if board.has_started() {
        Check::fine("host", "startup complete")
    } else {
        Check::refused("host", Failure::new(Exit::Outside, phase(board)))
    }]
}

fn phase(board: &Board) -> String {
    match board.phase() {
        _ if board.is_stopping() => "stopping: draining, then writing a final checkpoint".to_owned(),
        Phase::Starting(what) => format!("starting: {what}"),
        Phase::Folding => "lanes are running".to_owned(),
        Phase::Rewinding => "rewinding to an earlier point of the log".to_owned(),
    }
}

fn words(activity: Activity) -> &'static str {
    match activity {
        Activity::Off => "not running",
        Activity::Gather => "waiting for input",
        Activity::Map => "mapping",
        Activity::Fold => "folding",
        Activity::Store => "reading keys or writing the journal",
        Activity::Checkpoint => "writing a checkpoint",
        Activity::Write => "waiting for the sink",
    }
}

/// The check of the source, unless it is a file: unavailable if it is to any lane.
fn source(lanes: &[Arc<LaneBoard>]) -> Option<Check> {
    let ends: Vec<_> = lanes.iter().filter_map(|lane| lane.ends()).collect();
    let away = ends.iter().filter(|ends| ends.outage().since_ms().is_some());
    let first = away.min_by_key(|ends| ends.outage().since_ms()).or(ends.first())?;
    Some(reachable("source", Some(first.outage())))
}

fn reachable(subject: &str, outage: Option<&Outage>) -> Check {
    let unavailable = |what: String| Check::refused(subject, Failure::new(Exit::Outside, what));
    match outage.map(Outage::since_ms) {
        None => unavailable("not open yet".to_owned()),
        Some(None) => Check::fine(subject, "no outage"),
        Some(Some(since)) => {
            unavailable(format!("unavailable for {} s", clock::now_ms().saturating_sub(since).max(0) / 1000))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::backoff::{self, Backoff};
    use crate::event_time::LaneTime;
    use crate::failure::Finding;
    use crate::observe::ends::Ends;
    use crate::position::Offset;

    const MOMENT: Duration = Duration::from_millis(1);

    fn refused(checks: &[Check]) -> Vec<&str> {
        let against = checks.iter().filter(|check| matches!(check.finding, Finding::Refused(_)));
        against.map(|check| check.subject.as_str()).collect()
    }

    #[test]
    fn a_lane_that_waits_is_alive_and_one_that_does_not_return_is_stuck() {
        let board = Board::new("test", &Arc::default());
        let lane = board.lane("topic");
        for (activity, is_alive) in [
            (Activity::Gather, true),
            (Activity::Map, false),
            (Activity::Fold, false),
            (Activity::Store, false),
            (Activity::Checkpoint, false),
            (Activity::Write, true),
        ] {
            lane.enter(activity);
            backoff::pause(MOMENT * 2);
            assert_eq!(is_well(&live(&board, MOMENT)), is_alive, "{activity:?}");
            let mut state = Backoff::publishing("state.url", Arc::clone(board.state()));
            state.warn(&"away");
            let waits = matches!(activity, Activity::Store | Activity::Checkpoint);
            assert_eq!(is_well(&live(&board, MOMENT)), is_alive || waits, "{activity:?} in an outage");
            assert!(refused(&ready(&board)).contains(&"state"));
            state.over();
            assert!(is_well(&live(&board, Duration::from_secs(3600))), "{activity:?}");
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
        assert!(is_well(&live(&board, MOMENT)), "an outage does not make a host unhealthy");
        sink.over();
        let ends = Arc::new(Ends::new(std::iter::once((Offset(9), Offset(4))), Arc::default()));
        let mut leaders = Backoff::publishing("topic", Arc::clone(ends.outage()));
        board.lane("topic").start(Some(Arc::clone(&ends)), LaneTime::default());
        assert_eq!(board.lane("topic").lag(), Some(5));
        ends.survey(None);
        leaders.warn(&"away");
        assert_eq!(refused(&ready(&board)), ["lane topic", "source"]);
        assert_eq!(board.lane("topic").lag(), None, "nobody knows");
        leaders.over();
        board.enter(Phase::Rewinding);
        assert_eq!(refused(&ready(&board)), ["host", "lane topic"]);
        assert!(is_well(&startup(&board)), "the start stays over");
        board.enter(Phase::Folding);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(refused(&ready(&board)), ["host", "lane topic"]);
    }
}
