//! Metrics against a workload of which everything is known: each number, to the last one. On the file source, in this process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use keyfold::config;
use keyfold::observe::board::Board;
use keyfold::observe::metrics;
use keyfold::pipeline::run::{Options, run_until};
use keyfold::record::iso;
use serde_json::{Value, json};

use crate::support::generate::{START_MS, TestRecord, write_records};
use crate::support::host::{Pipeline, logged, number, plugin_file};
use crate::support::rows::from_ndjson;
use crate::support::scrape::Metrics;
use crate::support::settings::Settings;

fn second(i: i64) -> i64 {
    START_MS + i * 1000
}

fn event(key: &str, at: i64, v: i64) -> Value {
    json!({"key": key, "time": second(at), "v": v})
}

/// A record that is appended in a second of the log.
fn record(offset: u64, at: i64, payload: &str) -> TestRecord {
    let value = Some(payload.as_bytes().to_vec());
    TestRecord { partition: 0, offset, timestamp: second(at), key: None, value }
}

/// Twenty records, folded by four deployments one after another.
fn log() -> Vec<TestRecord> {
    let mut payloads: Vec<(i64, String)> = Vec::new();
    let mut append = |at: i64, payload: Value| payloads.push((at, payload.to_string()));
    // The first panics on the event with v = 5, and gives a row for any other.
    append(0, event("k0", 0, 0));
    append(1, event("k1", 1, 1));
    append(2, json!("no event"));
    append(3, json!({"events": [event("k0", 3, 3), event("k1", 3, 30)]}));
    append(4, event("k1", 7_300, 4)); // more than an hour ahead
    append(5, event("k2", 5, 5)); // the struck one
    append(6, event("k0", -100, 6)); // late
    (7..10).for_each(|i| append(i, event("k1", i, i)));
    // The second gives a row for each event and a timer ten seconds after it, which gives another.
    (10..15).for_each(|i| append(i, event(&format!("m{i}"), i, i)));
    append(40, event("m9", 40, 9)); // fires five
    // The third panics on every firing: on m9's, and on x's.
    append(41, event("x", 41, 77));
    append(65, event("y", 65, 1));
    // The fourth logs a line for each event, and keeps late ones.
    append(66, event("z", 0, 0)); // late
    append(67, event("z", 67, 1));
    payloads.iter().zip(0..).map(|((at, payload), offset)| record(offset, *at, payload)).collect()
}

/// The host in this process, to its end; its metrics then.
fn run(pipeline: &Pipeline) -> Metrics {
    let config = config::load(&pipeline.path("keyfold.toml"), std::iter::empty()).expect("the configuration is right");
    let board = Arc::new(Board::new(&config.name, &Arc::default()));
    run_until(&config, &Options::default(), &board, false).expect("the run ends well");
    Metrics::read(&metrics::page(&board, Duration::from_secs(60)))
}

fn hostile(config: &str) -> String {
    format!("component = \"{}\"\nconfig = {config}", plugin_file("hostile"))
}

/// The folded log and its metrics.
fn folded(batch_records: usize) -> (Pipeline, Metrics) {
    let settings = Settings { plugin: hostile("{ mode = \"trap\", n = 5 }"), ..Settings::default() };
    let pipeline = Pipeline::new(&settings.bounded(2, batch_records).to_toml());
    write_records(&pipeline.path("log.ndjson"), &log());
    let deploy = |config: Value, at: i64, more: &[&str]| {
        let (config, at) = (config.to_string(), second(at).to_string());
        let arguments = [&["--plugin-config", &config, "--at", &at], more].concat();
        pipeline.call("deployment create", &arguments).expect_code(0);
    };
    deploy(json!({"mode": "mark", "mark": "second"}), 10, &[]);
    deploy(json!({"mode": "trap", "at": "timer", "n": 77}), 41, &[]);
    deploy(json!({"mode": "log"}), 66, &["--set", "time.late=dead-letter"]);
    let metrics = run(&pipeline);
    (pipeline, metrics)
}

fn check(metrics: &Metrics) {
    metrics.expect(&[
        ("keyfold_records_total{lane=\"topic\"}", 20.0),
        ("keyfold_events_total{lane=\"topic\"}", 20.0),
        ("keyfold_rows_total{lane=\"topic\"}", 21.0),
        ("keyfold_sink_rows_total{lane=\"topic\"}", 21.0),
        ("keyfold_firings_total{lane=\"topic\"}", 7.0),
        ("keyfold_rejected_total{lane=\"topic\",stage=\"map\"}", 1.0),
        ("keyfold_rejected_total{lane=\"topic\",stage=\"time\"}", 1.0),
        ("keyfold_rejected_total{lane=\"topic\",stage=\"fold\"}", 1.0),
        ("keyfold_rejected_total{lane=\"topic\",stage=\"timer\"}", 2.0),
        ("keyfold_rejected_total{lane=\"topic\",stage=\"migrate\"}", 0.0),
        ("keyfold_late_total{lane=\"topic\",policy=\"drop\"}", 1.0),
        ("keyfold_late_total{lane=\"topic\",policy=\"dead-letter\"}", 1.0),
        ("keyfold_strikes_total{lane=\"topic\",stage=\"map\"}", 0.0),
        ("keyfold_strikes_total{lane=\"topic\",stage=\"fold\"}", 1.0),
        ("keyfold_strikes_total{lane=\"topic\",stage=\"timer\"}", 2.0),
        ("keyfold_dead_letters_total{lane=\"topic\",stage=\"map\"}", 1.0),
        ("keyfold_dead_letters_total{lane=\"topic\",stage=\"time\"}", 2.0),
        ("keyfold_dead_letters_total{lane=\"topic\",stage=\"fold\"}", 1.0),
        ("keyfold_dead_letters_total{lane=\"topic\",stage=\"timer\"}", 2.0),
        ("keyfold_dead_letters_total{lane=\"topic\",stage=\"sink\"}", 0.0),
        ("keyfold_floors_total{lane=\"topic\"}", 0.0),
        ("keyfold_swaps_total{lane=\"topic\"}", 3.0),
        ("keyfold_last_append_time_seconds{lane=\"topic\"}", second(67) as f64 / 1e3),
        ("keyfold_watermark_seconds{lane=\"topic\"}", second(57) as f64 / 1e3),
        // m10 to m14: three bytes of key, sixteen of count and sum.
        ("keyfold_open_keys{lane=\"topic\"}", 5.0),
        ("keyfold_state_bytes{lane=\"topic\"}", 95.0),
        ("keyfold_largest_key_bytes{lane=\"topic\"}", 19.0),
        ("keyfold_journal_compactions_total{lane=\"topic\"}", 0.0),
        ("keyfold_sink_up", 1.0),
        ("keyfold_sink_retries_total", 0.0),
        ("keyfold_sink_queued_batches", 0.0),
        ("keyfold_dead_letters_up", 1.0),
        ("keyfold_plugin_log_lines_total{lane=\"topic\",plugin=\"hostile\",version=\"0.1.0\"}", 1.0),
        ("keyfold_plugin_log_lines_dropped_total{lane=\"topic\",plugin=\"hostile\",version=\"0.1.0\"}", 0.0),
        ("keyfold_stuck_seconds{lane=\"topic\"}", 0.0),
    ]);
    for some in [
        "keyfold_checkpoints_total{lane=\"topic\"}",
        "keyfold_checkpoint_bytes{lane=\"topic\"}",
        "keyfold_journal_writes_total{lane=\"topic\"}",
        "keyfold_journal_written_bytes_total{lane=\"topic\"}",
        "keyfold_journal_bytes{lane=\"topic\"}",
        "keyfold_checkpoint_duration_seconds{lane=\"topic\"}",
        "keyfold_swap_gap_seconds{lane=\"topic\"}",
        "keyfold_lane_seconds_total{lane=\"topic\",activity=\"map\"}",
        "keyfold_lane_seconds_total{lane=\"topic\",activity=\"fold\"}",
        "keyfold_lane_seconds_total{lane=\"topic\",activity=\"store\"}",
    ] {
        assert!(metrics.value(some) > 0.0, "{some}");
    }
    let of_calls = |what: &str, function: &str| {
        let labels = "lane=\"topic\",plugin=\"hostile\",version=\"0.1.0\"";
        metrics.value(&format!("keyfold_plugin_{what}_total{{{labels},function=\"{function}\"}}"))
    };
    for info in [
        format!("keyfold_build_info{{pipeline=\"under-test\",version=\"{}\"}}", env!("CARGO_PKG_VERSION")),
        format!(
            "keyfold_deployment_info{{lane=\"topic\",deployment=\"3\",plugin=\"hostile\",version=\"0.1.0\",digest=\"{}\"}}",
            digest(&std::fs::read(plugin_file("hostile")).expect("the build has left it there"))
        ),
    ] {
        metrics.expect(&[(&info, 1.0)]);
    }
    let age = jiff::Timestamp::now().as_millisecond() as f64 / 1e3 - metrics.value("keyfold_start_time_seconds");
    assert!((0.0..600.0).contains(&age), "it started {age} s ago");
    for function in ["configure", "map-records", "fold", "on-timer"] {
        assert!(of_calls("calls", function) > 0.0, "{function}");
        assert!(of_calls("seconds", function) > 0.0, "{function}");
        assert!(of_calls("fuel", function) > 0.0, "{function}");
        assert_eq!(of_calls("failed_calls", function) > 0.0, ["fold", "on-timer"].contains(&function), "{function}");
    }
    assert_eq!(of_calls("calls", "migrate"), 0.0);
    let memory = metrics.value("keyfold_plugin_memory_bytes{lane=\"topic\",plugin=\"hostile\",version=\"0.1.0\"}");
    assert!((65_536.0..1e8).contains(&memory), "{memory} bytes of memory");
}

#[test]
fn every_number_is_that_of_a_known_workload() {
    let (pipeline, metrics) = folded(1);
    check(&metrics);
    // Of batches of one record, what depends on how the log is cut is known too.
    metrics.expect(&[
        ("keyfold_batches_total{lane=\"topic\"}", 20.0),
        ("keyfold_sink_write_seconds_count{lane=\"topic\"}", 15.0),
        ("keyfold_sink_write_seconds_bucket{lane=\"topic\",le=\"+Inf\"}", 15.0),
        (
            "keyfold_plugin_calls_total{lane=\"topic\",plugin=\"hostile\",version=\"0.1.0\",function=\"map-records\"}",
            20.0,
        ),
    ]);
    assert_eq!(from_ndjson(&pipeline.path("rows.ndjson")).len(), 21);
    let letters = from_ndjson(&pipeline.path("dead-letters.ndjson"));
    let of_stage = |stage: &str| letters.iter().filter(|letter| letter["stage"] == stage).count();
    assert_eq!(["map", "time", "fold", "timer"].map(of_stage), [1, 2, 1, 2]);
    // What no host says any more, the last checkpoint does.
    let status: Value = serde_json::from_str(&pipeline.call("status", &["--output", "json"]).expect_code(0).stdout)
        .expect("the answer is JSON");
    assert_eq!(status["provenance"], "checkpoint");
    let lane = &status["lanes"][0];
    assert_eq!((&lane["lane"], &lane["deployment"], &lane["next"]), (&json!("topic"), &json!(3), &json!({"0": 20})));
    assert_eq!(lane["watermark_ms"], second(57));
    assert_eq!(lane["records"], Value::Null, "a checkpoint does not count");
    assert!(lane["checkpoint_age_ms"].as_i64().is_some_and(|age| age >= 0), "{lane}");
    let said = pipeline.call("status", &[]);
    said.expect_code(0).expect_said(&["no running host answered", "0: 20", &iso(second(57)), "3, hostile 0.1.0"]);
}

/// In hex, as `sha256sum` says it.
fn digest(bytes: &[u8]) -> String {
    keyfold::plugin::Digest::of(bytes).0
}

/// What a plugin does wrong in `map-records` and in `migrate`, and audits.
#[test]
fn strikes_are_counted_where_they_fall_and_audits_by_batches() {
    let plugin = hostile("{ mode = \"trap\", n = 5, at = \"map\" }\naudit = 1");
    let pipeline = Pipeline::new(&Settings { plugin, ..Settings::default() }.bounded(2, 1).to_toml());
    let payloads = [("a", 0, 0), ("a", 1, 5), ("b", 2, 1), ("c", 3, 11), ("b", 10, 2), ("c", 11, 3)];
    let log =
        payloads.iter().zip(0..).map(|((key, at, v), offset)| record(offset, *at, &event(key, *at, *v).to_string()));
    write_records(&pipeline.path("log.ndjson"), &log.collect::<Vec<_>>());
    let deploy = |plugin: &str, config: &str, at: i64| {
        let at = second(at).to_string();
        let said = pipeline.call("deployment create", &[&plugin_file(plugin), "--plugin-config", config, "--at", &at]);
        said.expect_code(0);
    };
    // Before the last record: the state of c, whose sum is 11, cannot be migrated. No batch is audited while state is.
    deploy("hostile", r#"{"mode": "state"}"#, 2);
    deploy("hostile2", r#"{"mode": "state", "unmigratable": 11}"#, 11);
    let metrics = run(&pipeline);
    metrics.expect(&[
        ("keyfold_records_total{lane=\"topic\"}", 6.0),
        ("keyfold_events_total{lane=\"topic\"}", 5.0),
        ("keyfold_strikes_total{lane=\"topic\",stage=\"map\"}", 1.0),
        ("keyfold_strikes_total{lane=\"topic\",stage=\"fold\"}", 0.0),
        ("keyfold_strikes_total{lane=\"topic\",stage=\"migrate\"}", 1.0),
        ("keyfold_rejected_total{lane=\"topic\",stage=\"map\"}", 1.0),
        ("keyfold_rejected_total{lane=\"topic\",stage=\"migrate\"}", 1.0),
        ("keyfold_dead_letters_total{lane=\"topic\",stage=\"map\"}", 1.0),
        ("keyfold_dead_letters_total{lane=\"topic\",stage=\"migrate\"}", 1.0),
        ("keyfold_audits_total{lane=\"topic\"}", 5.0),
        ("keyfold_swaps_total{lane=\"topic\"}", 2.0),
    ]);
}

#[test]
fn how_the_log_is_cut_changes_no_count() {
    for batch_records in [7, 1_000] {
        check(&folded(batch_records).1);
    }
}

#[test]
fn every_metric_has_a_sample_but_those_of_a_topic() {
    let (_, found) = folded(1_000);
    let of_topics = ["keyfold_lag_records", "keyfold_lag_seconds", "keyfold_log_margin_records", "keyfold_source_up"];
    for name in metrics::names().filter(|name| !of_topics.contains(name)) {
        let histogram = format!("{name}_sum");
        assert!(found.names().any(|found| found == name || found == histogram), "{name} has no sample");
    }
    assert!(of_topics.iter().all(|name| !found.names().any(|found| found == *name)), "a file has no lag");
}

#[test]
fn log_lines_of_a_plugin_beyond_its_rate_are_dropped_counted_and_reported() {
    let plugin = format!("{}\nlog_rate = 3", hostile("{ mode = \"log\" }"));
    let pipeline = Pipeline::new(&Settings { plugin, ..Settings::default() }.to_toml());
    let records: Vec<TestRecord> =
        (0..2_000_i64).map(|i| record(i.unsigned_abs(), i, &event("k", i, i).to_string())).collect();
    write_records(&pipeline.path("log.ndjson"), &records);
    let metrics = run(&pipeline);
    let of = |name: &str| metrics.value(&format!("{name}{{lane=\"topic\",plugin=\"hostile\",version=\"0.1.0\"}}"));
    let (written, dropped) = (of("keyfold_plugin_log_lines_total"), of("keyfold_plugin_log_lines_dropped_total"));
    assert_eq!(written + dropped, 2_000.0);
    assert!((30.0..1_000.0).contains(&written), "{written} lines at 3 a second");

    std::fs::remove_dir_all(pipeline.path("state")).expect("the run made it");
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0);
    let lines = outcome.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_plugin: Vec<Value> = lines.filter(|line| line["target"] == "keyfold::plugin_log").collect();
    assert!((30..1_000).contains(&of_plugin.len()), "{} lines", of_plugin.len());
    for line in &of_plugin {
        assert_eq!(
            (&line["plugin"], &line["version"], &line["lane"]),
            (&json!("hostile"), &json!("0.1.0"), &json!("topic"))
        );
    }
    let told = logged(&outcome.stderr, "plugin-log-limited");
    assert!(!told.is_empty() && number(&told[0], "dropped") == 1, "{told:?}");
}

/// A collector that takes one request after another, until nobody can send any.
fn collector() -> (String, std::thread::JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let take = move |stream: TcpStream| {
        let mut lines = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
        let (mut line, mut length) = (String::new(), 0);
        while lines.read_line(&mut line).is_ok_and(|read| read > 2) {
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            line.clear();
        }
        let mut body = vec![0; length];
        lines.read_exact(&mut body).expect("the whole request");
        let request: Value = serde_json::from_slice(&body).ok()?;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        (&stream).write_all(answer).expect("the host listens");
        Some(request)
    };
    let body = move || listener.incoming().flatten().map_while(take).collect();
    (url, std::thread::spawn(body))
}

#[test]
fn a_collector_gets_a_trace_of_each_sampled_batch() {
    let (url, requests) = collector();
    let settings = Settings { plugin: hostile("{ mode = \"ok\" }"), ..Settings::default() }.bounded(1, 10);
    let pipeline = Pipeline::new(&format!("{}\n[telemetry]\notlp = \"{url}\"\nsample = 2\n", settings.to_toml()));
    let records: Vec<TestRecord> =
        (0..40_i64).map(|i| record(i.unsigned_abs(), i, &event("k", i, i).to_string())).collect();
    write_records(&pipeline.path("log.ndjson"), &records);
    pipeline.run_to_end(&[]).expect_code(0);
    // What is no request ends the collector.
    TcpStream::connect(url.trim_start_matches("http://")).expect("it listens").write_all(b"\r\n").expect("it listens");
    let requests = requests.join().expect("the collector took everything");
    let mut spans = Vec::new();
    for request in &requests {
        let resource = &request["resourceSpans"][0];
        assert!(resource["resource"].to_string().contains("under-test"), "{resource}");
        spans.extend(resource["scopeSpans"][0]["spans"].as_array().expect("a list").clone());
    }
    let named = |name: &str| spans.iter().filter(|span| span["name"] == name).collect::<Vec<_>>();
    // Four batches, perhaps a last checkpoint on its own: the first of them and the third.
    let batches = named("batch");
    assert!((2..=3).contains(&batches.len()), "{batches:?}");
    for batch in batches.iter().take(2) {
        assert_eq!(batch["attributes"][1]["value"]["intValue"], "10");
        for name in ["gather", "map", "fold", "write"] {
            let of_batch =
                |span: &&Value| span["parentSpanId"] == batch["spanId"] && span["traceId"] == batch["traceId"];
            assert!(named(name).iter().any(of_batch), "{name} of {batch}");
        }
    }
}

#[test]
fn metrics_are_read_as_they_are_written() {
    let metrics = Metrics::read("# HELP a b\na{x=\"1 2\"} 3\nb 0.5\n");
    metrics.expect(&[("a{x=\"1 2\"}", 3.0), ("b", 0.5)]);
    assert!(!metrics.has("c"));
}
