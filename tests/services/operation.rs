//! Operation: a second host on the same state, the order to stop, and lag for tools that watch.

use std::time::Duration;

use crate::support::generate::generate;
use crate::support::host::{PATIENCE, Pipeline};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;
use crate::topics::{create_topic, produce, read_back};

#[test]
fn a_second_host_on_the_same_state_fences_the_first() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "fenced", 2, &[]);
    let settings = Settings { checkpoint_interval: "50ms".to_owned(), ..Settings::default() };
    let pipeline = Pipeline::new(&settings.over_kafka(&brokers, "fenced").to_toml());
    let rows = || from_ndjson(&pipeline.path("rows.ndjson")).len();
    let mut first = pipeline.spawn(&[]);
    produce(&brokers, "fenced", &generate(2_000, 20, 1));
    first.wait_until("the first host writes rows", || rows() > 0);
    let second = pipeline.spawn(&[]);
    // Something to checkpoint, for both.
    produce(&brokers, "fenced", &generate(2_000, 20, 2));
    first.wait(PATIENCE).expect_code(5).expect_said(&["another host has taken over this lane"]);
    second.terminate(PATIENCE).expect_code(0);
}

#[test]
fn the_order_to_stop_is_obeyed_within_10_s_and_loses_nothing() {
    let Some(brokers) = crate::kafka() else { return };
    for signal in ["TERM", "INT"] {
        let topic = format!("stopped-{}", signal.to_lowercase());
        create_topic(&brokers, &topic, 2, &[]);
        let pipeline = Pipeline::new(&Settings::default().over_kafka(&brokers, &topic).bounded(2, 500).to_toml());
        let rows = || from_ndjson(&pipeline.path("rows.ndjson"));
        produce(&brokers, &topic, &generate(50_000, 1_000, 3));
        let mut host = pipeline.spawn(&[]);
        host.wait_until("rows are written", || !rows().is_empty());
        host.signal(signal);
        let outcome = host.wait(Duration::from_secs(10));
        outcome.expect_code(0).logged("lane-stopped");
        pipeline.run_to_end(&["--until-end"]).expect_code(0);
        let want = model::run(Visits::new(SessionId::Record), &read_back(&brokers, &topic), Time::default()).values();
        assert_same(signal, &rows(), &want);
    }
}

#[test]
fn a_host_that_waits_for_records_stops_when_told() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "waiting", 2, &[]);
    let pipeline = Pipeline::new(&Settings::default().over_kafka(&brokers, "waiting").to_toml());
    let host = pipeline.spawn(&[]);
    let state = pipeline.path("state/log");
    crate::support::host::wait_until("the host has begun its journal", || state.exists());
    host.signal("TERM");
    host.wait(Duration::from_secs(10)).expect_code(0);
}
