//! `keyfold state` beside a host at work: what it shows is what the log says, and the host goes on as if nobody had looked.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};

use crate::support::doctor::{call, objects};
use crate::support::generate::START_MS;
use crate::support::host::Pipeline;
use crate::support::mock::{produce, visits_from};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, from_ndjson, sorted};
use crate::support::settings::Settings;

/// Visit `i` is of this user: ten of them, of whom each comes every ten seconds, within the session timeout.
fn user(i: u64) -> u64 {
    10 + i % 10
}

fn text(base64: &Value) -> String {
    let bytes = STANDARD.decode(base64.as_str().expect("a text")).expect("base64");
    String::from_utf8(bytes).expect("pages are texts")
}

#[test]
fn the_state_of_a_host_at_work_is_read_and_the_host_goes_on() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    cluster.create_topic("inspected", 1, 1).expect("a new topic");
    let brokers = cluster.bootstrap_servers();
    let settings = Settings { checkpoint_interval: "200ms".into(), ..Settings::default() };
    let pipeline = Pipeline::new(&settings.over_kafka(&brokers, "inspected").to_toml());
    let early = call(&pipeline, ["state", "get"], &["10"]);
    early.expect_code(5).expect_said(&["no checkpoint in state.url"]);

    // One partition: of two, a host at work may find either one empty first, and the records' timestamps are long past.
    let log = visits_from(0, 1, user);
    produce(&brokers, "inspected", &log);
    let mut host = pipeline.spawn(&[]);
    let last = format!("{}.html", 39);
    host.wait_until("a checkpoint covers the last visit", || {
        let outcome = call(&pipeline, ["state", "get"], &["19"]);
        outcome.code == Some(0) && outcome.stdout.contains(&last)
    });

    let got = objects(call(&pipeline, ["state", "get"], &["13", "--output", "json"]).expect_code(0));
    let [key] = &got[..] else { panic!("one lane has it: {got:?}") };
    // Fifty seconds from the watermark before the visit at 33 s, which lay ten seconds behind the one at 32 s.
    let timer = START_MS + 22_000 + 50_000;
    assert_eq!((&key["lane"], &key["key"], &key["timer_ms"]), (&json!("topic"), &json!("13"), &json!(timer)));
    assert_eq!(key["state_version"], json!(1));
    let pages: Vec<String> = key["list_base64"].as_array().expect("a list").iter().map(text).collect();
    assert_eq!(pages, ["3.html", "13.html", "23.html", "33.html"]);
    let page = call(&pipeline, ["state", "get"], &["13"]);
    let at = format!("{:.3}", jiff::Timestamp::from_millisecond(timer).expect("a time of this century"));
    page.expect_said(&[
        "lane           topic",
        "list           4 item(s)",
        "  23.html",
        &format!("timer          {at}"),
    ]);
    call(&pipeline, ["state", "get"], &["99"]).expect_code(5).expect_said(&["key \"99\" not found"]);

    let list = call(&pipeline, ["state", "list"], &["--limit", "3"]);
    list.expect_code(0).expect_said(&["more than 3 keys: raise --limit"]);
    assert_eq!(list.stdout.lines().filter(|line| line.starts_with("topic  ")).count(), 3, "{}", list.stdout);
    let some = objects(call(&pipeline, ["state", "list"], &["--prefix", "14", "--output", "json"]).expect_code(0));
    assert_eq!(some.iter().map(|key| &key["key"]).collect::<Vec<_>>(), ["14"]);

    call(&pipeline, ["state", "export"], &["state.ndjson"]).expect_code(0).expect_said(&["10 key(s) in state.ndjson"]);
    let exported = from_ndjson(&pipeline.path("state.ndjson"));
    let keys: Vec<String> = exported.iter().map(|key| key["key"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(keys, (10..20).map(|user: u64| user.to_string()).collect::<Vec<_>>());
    assert_eq!(exported[3], got[0], "of one form");

    // The host goes on, its sessions close, and so does a host after it from its checkpoint.
    let more = visits_from(400, 1, user);
    let mut more_as_read = more.clone();
    (40..).zip(&mut more_as_read).for_each(|(offset, record)| record.offset = offset);
    produce(&brokers, "inspected", &more);
    host.wait_until("the sessions have closed", || from_ndjson(&pipeline.path("rows.ndjson")).len() == 10);
    host.terminate(Duration::from_secs(30)).expect_code(0);
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    let whole = [log, more_as_read].concat();
    let want = model::run(Visits::new(SessionId::Record), &whole, Time::default()).values();
    assert_same("rows", &sorted(from_ndjson(&pipeline.path("rows.ndjson"))), &sorted(want));
}
