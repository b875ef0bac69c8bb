//! Deployments on a live topic: swaps under load, and a host that is killed around T. Every row carries the mark of the configuration that
//! made it, and the naive model, told the deployments' instants, says which it must be.

use serde_json::json;

use crate::load::{Load, now_ms};
use crate::support::host::{Outcome, PATIENCE, Pipeline, Running, instant_in, number, plugin_file};
use crate::support::model::folds::{Hostile, Mode};
use crate::support::model::{self, Deployment, Time};
use crate::support::rows::{assert_same, from_ndjson, sorted, upserted};
use crate::support::settings::Settings;
use crate::tables::Tables;
use crate::topics::read_back;

const MARKS: [&str; 21] = [
    "m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11", "m12", "m13", "m14", "m15", "m16", "m17",
    "m18", "m19", "m20",
];

fn pipeline(brokers: &str, topic: &str, checkpoint_interval: &str) -> Pipeline {
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"mark\", mark = \"m0\" }}", plugin_file("hostile"));
    let settings = Settings { plugin, checkpoint_interval: checkpoint_interval.to_owned(), ..Settings::default() };
    Pipeline::new(&settings.over_kafka(brokers, topic).to_toml())
}

/// Orders the next mark as soon as can be.
fn deploy(pipeline: &Pipeline, i: usize) -> Deployment {
    let outcome = order(pipeline, i, &[]);
    outcome.expect_code(0);
    deployment(&outcome, i)
}

/// Orders the next mark for an instant that lies ahead when the order is given.
fn deploy_ahead(pipeline: &Pipeline, i: usize) -> Deployment {
    let mut ahead_ms = 4_000;
    loop {
        let outcome = order(pipeline, i, &["--at", &(now_ms() + ahead_ms).to_string()]);
        if outcome.code == Some(0) {
            return deployment(&outcome, i);
        }
        // A slow machine needs longer for what is looked at before, and may have put the deployment before this one further off.
        outcome.expect_code(2).expect_said(&["--at: "]);
        ahead_ms *= 2;
        assert!(ahead_ms < 300_000, "no instant lies far enough ahead");
    }
}

fn order(pipeline: &Pipeline, i: usize, more: &[&str]) -> Outcome {
    let config = json!({"mode": "mark", "mark": MARKS[i]}).to_string();
    pipeline.call("deployment create", &[&["--plugin-config", &config], more].concat())
}

fn deployment(outcome: &Outcome, i: usize) -> Deployment {
    Deployment { t: instant_in(&outcome.stdout), mark: MARKS[i], time: Time::default() }
}

/// The live rows are the model's, and so are those of a replay without the checkpoint.
fn assert_rows(pipeline: &Pipeline, brokers: &str, topic: &str, deployments: &[Deployment]) {
    let log = read_back(brokers, topic);
    let mut fold = Hostile::new(Mode::Mark);
    model::Fold::configure(&mut fold, MARKS[0]);
    let want = model::run_deployed(fold, &log, Time::default(), deployments).values();
    for mark in &MARKS[..=deployments.len()] {
        assert!(want.iter().any(|row| row["items"] == json!([mark])), "rows of {mark}");
    }
    assert_same("live", &from_ndjson(&pipeline.path("rows.ndjson")), &want);
    pipeline.delete_checkpoints();
    pipeline.set_aside("rows.ndjson");
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert_same("replay", &from_ndjson(&pipeline.path("rows.ndjson")), &want);
}

fn written(pipeline: &Pipeline) -> u64 {
    std::fs::metadata(pipeline.path("rows.ndjson")).map_or(0, |file| file.len())
}

/// Events a second; 10,000 unless the environment says more, which takes a machine with memory for the naive model's rows.
fn rate() -> u64 {
    std::env::var("KEYFOLD_TEST_RATE").map_or(10_000, |rate| rate.parse().expect("KEYFOLD_TEST_RATE is a number"))
}

#[test]
fn twenty_swaps_under_load_give_each_row_to_the_version_of_its_instant() {
    let Some(brokers) = crate::kafka() else { return };
    let load = Load::start(&brokers, "swapped", rate());
    let pipeline = pipeline(&brokers, "swapped", "5s");
    let mut host = pipeline.spawn(&[]);
    host.wait_until("rows are written", || written(&pipeline) > 0);
    let mut deployments = Vec::new();
    for i in 1..MARKS.len() {
        deployments.push(deploy(&pipeline, i));
    }
    host.wait_logged_times("swap-finished", 20);
    let sent = load.finish();
    let outcome = host.terminate(PATIENCE);
    let stopped = outcome.expect_code(0).logged("lane-stopped");
    assert_eq!(number(&stopped, "swaps"), 20, "{sent} events: {stopped}");
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert_rows(&pipeline, &brokers, "swapped", &deployments);
}

/// The plugin's file with a section that nobody reads: another digest, the same logic.
fn rebuilt(bytes: &[u8], note: &str) -> Vec<u8> {
    let name = u8::try_from(note.len()).expect("short");
    [bytes, &[0, name + 1, name], note.as_bytes()].concat()
}

#[test]
fn a_watched_file_is_folded_with_as_soon_as_it_is_built_and_a_broken_one_changes_nothing() {
    let Some(brokers) = crate::kafka() else { return };
    let load = Load::start(&brokers, "watched", 500);
    let pipeline = pipeline(&brokers, "watched", "5s");
    let plugin = std::fs::read(plugin_file("hostile")).expect("the build has left it there");
    pipeline.write("plugin.wasm", &plugin);
    let file = pipeline.path("plugin.wasm").to_string_lossy().into_owned();
    let mut host = pipeline.spawn(&["--watch", &file]);
    host.wait_until("rows are written", || written(&pipeline) > 0);
    pipeline.write("plugin.wasm", b"half a build");
    host.wait_logged("watched-file-refused");
    pipeline.write("plugin.wasm", &rebuilt(&plugin, "again"));
    host.wait_logged("deployment-entered");
    let said = pipeline.call("deployment list", &[]).stdout;
    // An order that found its T reserved is voided, and given again.
    assert_eq!(said.matches("confirmed").count(), 2, "the first, and the one of the file that was not broken: {said}");
    load.finish();
    let outcome = host.terminate(PATIENCE);
    outcome.expect_code(0).expect_said(&["watched-file-refused", "FAIL  plugin"]);
}

/// Killed right after the order, at T, and as soon as the new logic holds; then ordered while the host is down after a crash that no
/// checkpoint covers.
#[test]
fn a_host_that_is_killed_around_the_instant_of_a_deployment_swaps_at_it_all_the_same() {
    let Some(brokers) = crate::kafka() else { return };
    let load = Load::start(&brokers, "swapped-killed", 2_000);
    let pipeline = pipeline(&brokers, "swapped-killed", "1h");
    let mut deployments = Vec::new();
    for (i, moment) in ["ordered", "at T", "after T", "down"].into_iter().enumerate() {
        let mut host = pipeline.spawn(&[]);
        let before = written(&pipeline);
        host.wait_until("rows are written", || written(&pipeline) > before + 1_000);
        match moment {
            "down" => {
                host.kill();
                deployments.push(deploy(&pipeline, i + 1));
            }
            _ => {
                let deployment = deploy_ahead(&pipeline, i + 1);
                match moment {
                    "at T" => host.wait_until("T", || now_ms() >= deployment.t),
                    "after T" => drop(host.wait_logged("deployment-entered")),
                    _ => {}
                }
                host.kill();
                deployments.push(deployment);
            }
        }
    }
    // The last T is past when the load ends.
    let mut host = pipeline.spawn(&[]);
    host.wait_until("the last deployment holds", || now_ms() > deployments[3].t + 1_000);
    host.kill();
    load.finish();
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert_rows(&pipeline, &brokers, "swapped-killed", &deployments);
}

/// Waits until the shadow's report satisfies `holds`; what it said.
fn shadow_says(pipeline: &Pipeline, host: &mut Running, what: &str, holds: impl Fn(&str) -> bool) -> String {
    let mut said = String::new();
    host.wait_until(what, || {
        said = pipeline.call("deployment shadow", &[]).expect_code(0).stdout.clone();
        holds(&said)
    });
    said
}

/// The number before this word in a report.
fn count(said: &str, word: &str) -> u64 {
    let mut words = said.split([' ', ',', '\n', ':']).filter(|part| !part.is_empty());
    words.find(|part| *part == word).and_then(|_| words.next()).and_then(|part| part.parse().ok()).unwrap_or(0)
}

#[test]
fn a_shadow_is_compared_and_harms_nothing_and_a_promoted_one_holds_from_its_instant() {
    let Some(brokers) = crate::kafka() else { return };
    let load = Load::start(&brokers, "shadowed", 2_000);
    let pipeline = pipeline(&brokers, "shadowed", "1s");
    let mut host = pipeline.spawn(&[]);
    host.wait_until("rows are written", || written(&pipeline) > 0);
    let order = |config: serde_json::Value| {
        let ordered = pipeline.call("deployment create", &["--shadow", "--plugin-config", &config.to_string()]);
        ordered.expect_code(0).expect_said(&["folds beside the live logic"]);
    };
    // The same logic: nothing differs.
    order(json!({"mode": "mark", "mark": MARKS[0]}));
    let said = shadow_says(&pipeline, &mut host, "rows agree", |said| count(said, "same") > 3_000);
    assert_eq!((count(&said, "different"), said.contains("folds beside deployment 0")), (0, true), "{said}");
    // One that fails: it is told, and nobody else is harmed.
    pipeline.call("deployment drop", &[]).expect_code(0);
    pipeline.call("deployment shadow", &[]).expect_code(2).expect_said(&["there is no shadow"]);
    let soon = load.sent() + 60_000;
    order(json!({"mode": "trap", "n": soon}));
    let said = shadow_says(&pipeline, &mut host, "a strike", |said| said.contains("first strike"));
    assert!(said.contains(&format!("struck by {soon}")), "{said}");
    // Another logic: each row differs.
    pipeline.call("deployment drop", &[]).expect_code(0);
    order(json!({"mode": "mark", "mark": MARKS[1]}));
    let said = shadow_says(&pipeline, &mut host, "rows differ", |said| count(said, "different") > 3_000);
    assert!(said.contains("\"m0\"") && said.contains("\"m1\""), "samples of both: {said}");
    assert_eq!(pipeline.call("deployment list", &[]).stdout.lines().count(), 1, "a shadow is no deployment");
    let promoted = pipeline.call("deployment promote", &["--reason", "it was looked at"]);
    // Its number is not always 1: an order is tried again when a lane was past its T before it was confirmed.
    promoted.expect_code(0).expect_said(&["holds from"]);
    host.wait_logged("swap-finished");
    load.finish();
    host.terminate(PATIENCE).expect_code(0);
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert_rows(&pipeline, &brokers, "shadowed", &[deployment(&promoted, 1)]);
}

/// Withdrawn while the host runs, and killed while it goes back; ordered again, withdrawn while it is down.
#[test]
fn a_deployment_that_is_withdrawn_from_a_live_topic_never_was() {
    let Some(brokers) = crate::kafka() else { return };
    let load = Load::start(&brokers, "withdrawn", 2_000);
    let pipeline = pipeline(&brokers, "withdrawn", "200ms");
    let mut host = pipeline.spawn(&[]);
    host.wait_until("rows are written", || written(&pipeline) > 0);
    let first = deploy(&pipeline, 1);
    host.wait_logged("swap-finished");
    pipeline.call("deployment withdraw", &["--reason", "a test"]).expect_code(0);
    // Whether a checkpoint of the withdrawn logic has to be taken back for that, or none was written yet, is a matter of moments.
    host.wait_logged("rewind-withdrawn");
    host.wait_logged_times("folding", 2);
    let before = written(&pipeline);
    host.wait_until("rows are written again", || written(&pipeline) > before + 10_000);
    let second = deploy(&pipeline, 2);
    host.wait_logged_times("swap-finished", 2);
    pipeline.call("deployment withdraw", &[]).expect_code(0);
    host.wait_logged_times("rewind-withdrawn", 2);
    host.kill();
    let kept = deploy(&pipeline, 3);
    let mut host = pipeline.spawn(&[]);
    host.wait_logged("swap-finished");
    load.finish();
    host.terminate(PATIENCE).expect_code(0);
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert!(first.t < second.t && second.t < kept.t);
    let log = read_back(&brokers, "withdrawn");
    let mut fold = Hostile::new(Mode::Mark);
    model::Fold::configure(&mut fold, MARKS[0]);
    let want = model::run_deployed(fold, &log, Time::default(), &[kept]).values();
    assert_same("live", &from_ndjson(&pipeline.path("rows.ndjson")), &want);
    pipeline.delete_checkpoints();
    pipeline.set_aside("rows.ndjson");
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert_same("replay", &from_ndjson(&pipeline.path("rows.ndjson")), &want);
}

/// The table holds what the former logic alone would have written: rows that were overwritten are back, rows that only the withdrawn logic
/// wrote are gone. The host is killed while it goes back.
#[test]
fn a_withdrawn_deployment_leaves_no_trace_in_the_database() {
    let (Some(brokers), Some(port)) = (crate::kafka(), crate::cassandra()) else { return };
    let tables = Tables::connect(port);
    // Frozen: each write of another list leaves a tombstone, and a database refuses to read past too many of them.
    let columns = "k text, n bigint, v bigint, items frozen<list<text>>, ingestion_time timestamp, PRIMARY KEY (k, n)";
    tables.create("withdrawn", &format!("out ({columns})"));
    let load = Load::start(&brokers, "withdrawn-rows", 500);
    let plugin = format!(
        "component = \"{}\"\nconfig = {{ mode = \"mark\", mark = \"m0\" }}\non_strike = \"withdraw\"",
        plugin_file("hostile")
    );
    let settings = Settings { plugin, checkpoint_interval: "300ms".to_owned(), ..Settings::default() };
    let pipeline =
        Pipeline::new(&settings.over_kafka(&brokers, "withdrawn-rows").into_cql(port, "withdrawn").to_toml());
    let mut host = pipeline.spawn(&[]);
    let marked = |mark: &str| {
        let rows = tables.rows("withdrawn", "out", &["k", "n", "v", "items"]);
        rows.iter().filter(|row| row["items"] == json!([mark])).count()
    };
    host.wait_until("rows are written", || marked("m0") > 500);
    deploy(&pipeline, 1);
    host.wait_until("rows of the other logic are written", || marked("m1") > 500);
    pipeline.call("deployment withdraw", &[]).expect_code(0);
    host.wait_logged("rewind-withdrawn");
    host.kill();
    let mut host = pipeline.spawn(&[]);
    host.wait_logged("rows-restored");
    // One that only writes rows under a key of its own, and then strikes.
    let other = json!({"mode": "trap", "n": load.sent() + 15_000}).to_string();
    pipeline.call("deployment create", &["--plugin-config", &other]).expect_code(0);
    host.wait_logged("deployment-withdrawn");
    host.wait_logged_times("rows-restored", 2);
    load.finish();
    host.terminate(PATIENCE).expect_code(0);
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    let log = read_back(&brokers, "withdrawn-rows");
    let mut fold = Hostile::new(Mode::Mark);
    model::Fold::configure(&mut fold, MARKS[0]);
    let want: Vec<serde_json::Value> = model::run_deployed(fold, &log, Time::default(), &[]).values();
    let want = upserted(&want, &["k", "n"]);
    let got = sorted(tables.rows("withdrawn", "out", &["k", "n", "v", "items"]));
    assert_same("table", &got, &want);
}
