//! The table.

use std::time::Duration;

use crate::Arguments;
use crate::measure::Used;
use crate::variant::{Column, Variant};

/// Prints minimum and median of every column, then the ratios that do not depend on the machine.
pub(crate) fn print(columns: &[Column], arguments: &Arguments) {
    let Arguments { events, users, repetitions, .. } = arguments;
    println!(
        "\n{events} events, {users} users, {repetitions} repetitions; CPU is user + system time of the process, start and stop included"
    );
    println!("| variant | CPU s/1M min | median | wall s median | peak MiB | ratio to plain | rows |");
    println!("|---|---|---|---|---|---|---|");
    let plain = columns.iter().find(|column| column.variant == Variant::Plain).map(|column| median(column, cpu));
    for column in columns {
        let per_million = |seconds: f64| seconds * 1e6 / *events as f64;
        let least = column.runs.iter().map(cpu).fold(f64::INFINITY, f64::min);
        let median_cpu = median(column, cpu);
        let wall = median(column, |used| used.wall.as_secs_f64());
        let peak = column.runs.iter().map(|used| used.peak_mib).max().unwrap_or(0);
        let ratio = plain.map_or("-".to_owned(), |plain| format!("{:.2}", median_cpu / plain));
        let rows = column.runs.last().map_or(0, |used| used.rows);
        let (least, median_cpu) = (per_million(least), per_million(median_cpu));
        println!("| {} | {least:.3} | {median_cpu:.3} | {wall:.2} | {peak} | {ratio} | {rows} |", column.name());
    }
    print_without_start(columns, plain);
}

/// What is left of keyfold's ratio when start and stop, which a long run pays once, are taken off.
fn print_without_start(columns: &[Column], plain: Option<f64>) {
    for nothing in columns.iter().filter(|column| column.variant == Variant::KeyfoldNothing) {
        let same = |c: &&Column| {
            let variants = [Variant::KeyfoldDiscard, Variant::KeyfoldSqlite, Variant::KeyfoldCql];
            variants.contains(&c.variant) && c.is_beside() == nothing.is_beside()
        };
        for column in columns.iter().filter(same) {
            let rest = median(column, cpu) - median(nothing, cpu);
            if let Some(plain) = plain {
                println!("{} / plain, without start and stop: {:.2}", column.name(), rest / plain);
            }
        }
    }
}

fn cpu(used: &Used) -> f64 {
    Duration::as_secs_f64(&used.cpu)
}

fn median(column: &Column, of: impl Fn(&Used) -> f64) -> f64 {
    let mut values: Vec<f64> = column.runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}
