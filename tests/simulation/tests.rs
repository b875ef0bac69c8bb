//! The simulation as a test.

use super::*;

/// Seeds of the ordinary tests.
const SEEDS: u64 = 300;
/// Seeds within which a planted fault is found.
const ENOUGH: u64 = 200;

fn seeds(seeds: u64) -> Arguments {
    Arguments { seed: None, seeds, from: 0, threads: 2, without: Vec::new(), calm: false, plant: None, count: false }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..10 {
        let case = Case { seed, ..Case::default() };
        let (first, second) = (simulate(&case, true), simulate(&case, true));
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}

#[test]
fn no_seed_finds_rows_that_are_not_a_function_of_the_log_and_the_journal() {
    assert_eq!(many(&seeds(SEEDS), None), ExitCode::SUCCESS);
}

#[test]
fn each_planted_fault_is_found() {
    for fault in Planted::ALL {
        assert!(finds(&seeds(ENOUGH), fault), "{fault:?}");
    }
}

#[test]
fn a_seed_that_fails_is_shrunk_to_what_matters() {
    let planted = Some(Planted::TimerAfterEvent);
    let fails = |case: &Case| !simulate(case, false).violations.is_empty();
    let found = (0..ENOUGH).map(|seed| Case { seed, planted, ..Case::default() });
    let case = found.into_iter().find(|case| case.happenings() > 3 && fails(case)).expect("many do");
    let least = case.clone().shrunk();
    assert!(fails(&least), "{least:?}");
    assert!(least.happenings() < case.happenings(), "no host has to end for this one");
    assert!(repeat(&least).contains(&format!("--seed {} --plant TimerAfterEvent", case.seed)));
}
