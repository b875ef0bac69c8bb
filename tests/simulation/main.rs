//! Hosts in a simulated world, by seed. `cargo run -p simulation -- --seeds 10000` runs many seeds; `--seed N` runs one and prints its trace. A
//! seed that fails is tried again with less and less of what happens in it; what is left is a command that prints it.

mod broker;
mod case;
mod checks;
mod clients;
mod group;
mod hosts;
mod journals;
mod objects;
mod plan;
mod run;
mod scheduler;
mod settings;
mod states;
#[path = "../support/simulated.rs"]
mod support;
mod table;
#[cfg(test)]
mod tests;
mod truth;
mod world;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use keyfold::clock;
use keyfold::machine::Planted;

use crate::case::{Case, Figures};
use crate::run::simulate;

/// Runs hosts in a simulated world.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run one seed and print its trace
    #[arg(long)]
    seed: Option<u64>,
    /// Run this many seeds
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// Begin with this seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads, each with seeds of its own
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// With --seed: leave out what happens at these places of its plan
    #[arg(long, value_delimiter = ',', requires = "seed")]
    without: Vec<usize>,
    /// With --seed: let all requests arrive at once, and be answered
    #[arg(long, requires = "seed")]
    calm: bool,
    /// Plant a fault, by its name, or `all` of them one after the other
    #[arg(long, value_parser = planted)]
    plant: Option<Faults>,
    /// With --plant: run all seeds, and count those that find the fault
    #[arg(long, requires = "plant")]
    count: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let faults = arguments.plant.as_ref().map(|Faults(faults)| faults);
    if let Some(seed) = arguments.seed {
        let planted = faults.and_then(|faults| faults.first()).copied();
        return one(&Case { seed, planted, without: arguments.without.into_iter().collect(), calm: arguments.calm });
    }
    let Some(faults) = faults else { return many(&arguments, None) };
    let missed = faults.iter().filter(|fault| !finds(&arguments, **fault)).count();
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Faults to plant, one after the other.
#[derive(Clone, Debug)]
struct Faults(Vec<Planted>);

/// The faults of this name.
fn planted(name: &str) -> Result<Faults, String> {
    let named = |fault: &Planted| name == "all" || format!("{fault:?}") == name;
    let faults: Vec<Planted> = Planted::ALL.into_iter().filter(named).collect();
    if faults.is_empty() { Err(format!("it is none of {:?}", Planted::ALL)) } else { Ok(Faults(faults)) }
}

/// Runs one case and prints its trace.
fn one(case: &Case) -> ExitCode {
    let outcome = simulate(case, true);
    outcome.trace.iter().for_each(|line| println!("{line}"));
    println!("seed {}: {:?}, {} lines, digest {:016x}", case.seed, outcome.figures, outcome.lines, outcome.digest);
    outcome.violations.iter().for_each(|violation| println!("{violation}"));
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs many seeds; prints those that fail.
fn many(arguments: &Arguments, planted: Option<Planted>) -> ExitCode {
    let (next, failed) = (AtomicU64::new(arguments.from), AtomicU64::new(0));
    let total = Mutex::new((Figures::default(), Duration::ZERO));
    let began = clock::instant();
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.from + arguments.seeds {
                        return;
                    }
                    let case = Case { seed, planted, ..Case::default() };
                    let outcome = simulate(&case, false);
                    if let Some(first) = outcome.violations.first() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        let least = case.clone().shrunk();
                        println!("seed {seed} fails: {first}\n  {}", repeat(&least));
                    }
                    let mut total = total.lock().expect("nobody panics while holding it");
                    total.0.add(&outcome.figures);
                    total.1 += outcome.simulated;
                }
            });
        }
    });
    let (figures, simulated) = *total.lock().expect("nobody panics while holding it");
    let (took, failed) = (clock::since(began).as_secs_f64(), failed.into_inner());
    let hours = simulated.as_secs_f64() / 3600.0;
    println!(
        "{} seeds, {failed} failed, {took:.1} s, {hours:.1} simulated hours ({:.0} times as fast): {figures:?}",
        arguments.seeds,
        simulated.as_secs_f64() / took
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The command that repeats a case.
fn repeat(case: &Case) -> String {
    let planted = case.planted.map_or(String::new(), |fault| format!(" --plant {fault:?}"));
    let without: Vec<String> = case.without.iter().map(usize::to_string).collect();
    let without = if without.is_empty() { String::new() } else { format!(" --without {}", without.join(",")) };
    let calm = if case.calm { " --calm" } else { "" };
    format!(
        "{} things happen in it: cargo run -p simulation -- --seed {}{planted}{without}{calm}",
        case.happenings(),
        case.seed
    )
}

/// Whether a planted fault is found. Stops at the first seed that finds it, unless all are to be counted.
fn finds(arguments: &Arguments, fault: Planted) -> bool {
    let mut found = 0;
    let mut first = None;
    for seed in arguments.from..arguments.from + arguments.seeds {
        let outcome = simulate(&Case { seed, planted: Some(fault), ..Case::default() }, false);
        let Some(violation) = outcome.violations.first() else { continue };
        found += 1;
        first.get_or_insert_with(|| (seed, violation.lines().next().unwrap_or_default().to_owned()));
        if !arguments.count {
            break;
        }
    }
    match first {
        Some((seed, violation)) => println!(
            "{fault:?}: found by seed {seed}, the {}th, {found} in all: {violation}",
            seed - arguments.from + 1
        ),
        None => println!("{fault:?}: not found by {} seeds", arguments.seeds),
    }
    found > 0
}
