//! What a person does meanwhile: orders deployments and withdraws them, with the commands of the program.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::plan::Order;
use crate::support::host::{Outcome, PATIENCE, Pipeline};
use crate::time::StormTime;
use keyfold::clock::now_ms;

/// A deployment that was answered with success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ordered {
    pub(crate) n: u64,
    pub(crate) t: i64,
    pub(crate) is_withdrawn: bool,
}

/// What was ordered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orders {
    pub(crate) answered: Vec<Ordered>,
    /// Orders that were refused: for an instant that was past by then, or because a service did not answer.
    pub(crate) refused: u32,
}

impl Orders {
    /// How many of them were withdrawn.
    pub(crate) fn withdrawn(&self) -> usize {
        self.answered.iter().filter(|ordered| ordered.is_withdrawn).count()
    }
}

impl fmt::Display for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ordered, withdrawn, refused) = (self.answered.len(), self.withdrawn(), self.refused);
        write!(f, "{ordered} ordered, {withdrawn} of them withdrawn, {refused} more refused")
    }
}

/// Orders what is planned, one after the other.
pub(crate) fn order(pipeline: &Pipeline, plan: &[(Duration, Order)], time: &StormTime) -> Orders {
    let mut orders = Orders::default();
    for (i, (at, order)) in plan.iter().enumerate() {
        if !time.reaches(*at) {
            break;
        }
        let created = create(pipeline, i + 1, order);
        match (created.code, order.ahead) {
            (Some(0), _) => {}
            // A slow machine needs longer for the trial than the order was ahead.
            (Some(2), Some(_)) => {
                created.expect_said(&["--at: "]);
                orders.refused += 1;
                continue;
            }
            _ => {
                created.expect_code(3);
                orders.refused += 1;
                continue;
            }
        }
        let mut ordered = answer(&created);
        if let Some(after) = order.withdrawn {
            time.reaches(time.elapsed() + after);
            let withdrawn = call(pipeline, "deployment withdraw", &[&ordered.n.to_string()]);
            withdrawn.expect_code(0);
            ordered.is_withdrawn = true;
        }
        orders.answered.push(ordered);
    }
    orders
}

fn create(pipeline: &Pipeline, i: usize, order: &Order) -> Outcome {
    let config = match order.mode {
        Some(mode) => json!({"mode": mode}),
        None => json!({"mode": "mark", "mark": format!("m{i}")}),
    };
    let config = config.to_string();
    let at = order.ahead.map(|ahead| (now_ms() + i64::try_from(ahead.as_millis()).expect("short")).to_string());
    let at = at.as_deref().map_or(vec![], |at| vec!["--at", at]);
    call(pipeline, "deployment create", &[&["--plugin-config", &config, "--output", "json"], &at[..]].concat())
}

/// A command that does not wait for services as long as a host does.
fn call(pipeline: &Pipeline, command: &str, more: &[&str]) -> Outcome {
    let mut command = pipeline.command(command, more);
    command.env("KEYFOLD_RUN__STARTUP_TIMEOUT", "10s");
    pipeline.start(command).wait(PATIENCE)
}

fn answer(created: &Outcome) -> Ordered {
    let document: Value = serde_json::from_str(&created.stdout).expect("the answer is JSON");
    let number = |name: &str| document[name].as_i64().unwrap_or_else(|| panic!("{name} in {document}"));
    Ordered { n: number("deployment").unsigned_abs(), t: number("from_ms"), is_withdrawn: false }
}
