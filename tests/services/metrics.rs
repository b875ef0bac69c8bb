//! Lag and watermark of a host on a topic of which everything is known.

use serde_json::json;

use crate::support::generate::{START_MS, TestRecord, generate};
use crate::support::host::{PATIENCE, Pipeline, plugin_file};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::scrape::Host;
use crate::support::settings::{ADMIN, Settings};
use crate::topics::{create_topic, produce, produce_in_transactions, read_back};

/// Numbered events a second apart, in turn in two partitions.
fn numbered(from: i64, to: i64) -> Vec<TestRecord> {
    let record = |i: i64| TestRecord {
        partition: u32::from(i % 2 == 1),
        offset: 0,
        timestamp: START_MS + i * 1000,
        key: None,
        value: Some(json!({"key": "k", "time": START_MS + i * 1000, "v": i}).to_string().into_bytes()),
    };
    (from..to).map(record).collect()
}

#[test]
fn a_host_that_is_stuck_lags_by_all_that_it_has_not_folded() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "lagging", 2, &[]);
    produce(&brokers, "lagging", &numbered(0, 40));
    let plugin = format!(
        "component = \"{}\"\nconfig = {{ mode = \"loop\", n = 13 }}\nfuel = {}",
        plugin_file("hostile"),
        i64::MAX
    );
    let settings = Settings { plugin, ..Settings::default() }.over_kafka(&brokers, "lagging").bounded(1, 10);
    let pipeline = Pipeline::new(&format!("{}{ADMIN}", settings.to_toml()));
    let mut running = pipeline.spawn(&[]);
    let host = Host::of(&mut running);
    // Where batches are cut is a matter of time; the one with number 13 never ends.
    running.wait_until("it is stuck", || {
        let metrics = host.metrics();
        metrics.has("keyfold_lag_records{lane=\"topic\"}")
            && metrics.value("keyfold_stuck_seconds{lane=\"topic\"}") > 2.0
            && metrics.value("keyfold_batches_total{lane=\"topic\"}") > 0.0
    });
    let metrics = host.metrics();
    let folded = metrics.value("keyfold_records_total{lane=\"topic\"}");
    assert!((0.0..=13.0).contains(&folded), "{folded} records folded");
    metrics.expect(&[
        ("keyfold_lag_records{lane=\"topic\"}", 40.0 - folded),
        ("keyfold_source_up{lane=\"topic\"}", 1.0),
        ("keyfold_rows_total{lane=\"topic\"}", folded),
    ]);
    if folded > 0.0 {
        let last = START_MS as f64 / 1e3 + folded - 1.0;
        metrics.expect(&[
            ("keyfold_last_append_time_seconds{lane=\"topic\"}", last),
            ("keyfold_watermark_seconds{lane=\"topic\"}", last - 10.0),
        ]);
        assert!(metrics.value("keyfold_lag_seconds{lane=\"topic\"}") > 1e6, "the log is of another year");
    }
    produce(&brokers, "lagging", &numbered(40, 45));
    host.wait_for(&mut running, "keyfold_lag_records{lane=\"topic\"}", 45.0 - folded);
    running.kill();
}

#[test]
fn a_host_that_has_folded_all_does_not_lag_whatever_marks_the_log_ends_with() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "measured", 2, &[]);
    produce_in_transactions(&brokers, "measured", &generate(3_000, 50, 9), 9);
    let log = read_back(&brokers, "measured");
    let model = model::run(Visits::new(SessionId::Record), &log, Time::default());
    let pipeline = Pipeline::new(&format!("{}{ADMIN}", Settings::default().over_kafka(&brokers, "measured").to_toml()));
    let mut running = pipeline.spawn(&[]);
    let host = Host::of(&mut running);
    host.wait_for(&mut running, "keyfold_records_total{lane=\"topic\"}", log.len() as f64);
    let metrics = host.wait_for(&mut running, "keyfold_lag_records{lane=\"topic\"}", 0.0);
    let watermark = model.watermark.expect("the log has events") as f64 / 1e3;
    metrics.expect(&[
        ("keyfold_lag_seconds{lane=\"topic\"}", 0.0),
        ("keyfold_watermark_seconds{lane=\"topic\"}", watermark),
        ("keyfold_rows_total{lane=\"topic\"}", model.rows.len() as f64),
        ("keyfold_late_total{lane=\"topic\",policy=\"drop\"}", model.counts.late as f64),
        ("keyfold_ready", 1.0),
        ("keyfold_live", 1.0),
    ]);
    let rejected = |stage: &str| metrics.value(&format!("keyfold_rejected_total{{lane=\"topic\",stage=\"{stage}\"}}"));
    assert_eq!(rejected("map") + rejected("time"), model.counts.rejected as f64);
    assert!(rejected("time") >= model.counts.future as f64);
    assert!(metrics.value("keyfold_watermark_lag_seconds{lane=\"topic\"}") > 1e6, "the log is of another year");
    running.terminate(PATIENCE).expect_code(0);
}

#[test]
fn each_lane_has_numbers_of_its_own() {
    let Some(brokers) = crate::kafka() else { return };
    create_topic(&brokers, "measured-by-lane", 2, &[]);
    let records = numbered(0, 31);
    produce(&brokers, "measured-by-lane", &records);
    let plugin = format!("component = \"{}\"\nconfig = {{ mode = \"ok\" }}", plugin_file("hostile"));
    let mut settings = Settings { plugin, ..Settings::default() }.over_kafka(&brokers, "measured-by-lane");
    settings.source.push_str("\nordering = \"partition\"");
    let pipeline = Pipeline::new(&format!("{}{ADMIN}", settings.to_toml()));
    let mut running = pipeline.spawn(&[]);
    let host = Host::of(&mut running);
    host.wait_for(&mut running, "keyfold_records_total{lane=\"0\"}", 16.0);
    host.wait_for(&mut running, "keyfold_records_total{lane=\"1\"}", 15.0);
    let metrics = host.metrics();
    metrics.expect(&[
        ("keyfold_lag_records{lane=\"0\"}", 0.0),
        ("keyfold_lag_records{lane=\"1\"}", 0.0),
        ("keyfold_rows_total{lane=\"0\"}", 16.0),
        ("keyfold_rows_total{lane=\"1\"}", 15.0),
        ("keyfold_watermark_seconds{lane=\"0\"}", START_MS as f64 / 1e3 + 20.0),
        ("keyfold_watermark_seconds{lane=\"1\"}", START_MS as f64 / 1e3 + 19.0),
    ]);
    running.terminate(PATIENCE).expect_code(0);
}
