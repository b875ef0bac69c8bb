//! The simulation as a test.

use super::*;

/// Seeds of the ordinary tests.
const SEEDS: u64 = 300;

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..10 {
        let (first, second) = (simulate(seed, None, true), simulate(seed, None, true));
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}

#[test]
fn no_seed_finds_rows_that_are_not_a_function_of_the_log_and_the_journal() {
    let arguments = Arguments { seed: None, seeds: SEEDS, from: 0, threads: 2, plant: None };
    assert_eq!(many(&arguments, None), ExitCode::SUCCESS);
}

#[test]
fn each_planted_fault_is_found() {
    let arguments = Arguments { seed: None, seeds: 200, from: 0, threads: 1, plant: None };
    for fault in Planted::ALL {
        assert!(finds(&arguments, fault), "{fault:?}");
    }
}
