//! The admin API of a host at work: what the commands do in the store, done by a host that is asked over HTTP.

use serde_json::json;

use crate::load::Load;
use crate::support::host::{PATIENCE, Pipeline, Running, plugin_file};
use crate::support::rows::from_ndjson;
use crate::support::settings::{ADMIN, Settings};

const TOKEN: &str = "a token for tests";

fn pipeline(brokers: &str, topic: &str, admin: &str) -> Pipeline {
    let plugin =
        format!("component = \"{}\"\nconfig = {{ mode = \"mark\", mark = \"first\" }}", plugin_file("hostile"));
    let settings = Settings { plugin, checkpoint_interval: "1s".to_owned(), ..Settings::default() };
    let toml = settings.over_kafka(brokers, topic).to_toml();
    let pipeline = Pipeline::new(&format!("{toml}{ADMIN}{admin}\n"));
    pipeline.write("token", TOKEN.as_bytes());
    pipeline.write("wrong", b"another one");
    pipeline
}

/// The host, folding, and the URL of its API.
fn start(pipeline: &Pipeline) -> (Running, String) {
    let mut host = pipeline.spawn(&[]);
    let address = host.wait_logged("admin-api-listening")["address"].as_str().expect("an address").to_owned();
    host.wait_until("rows are written", || !from_ndjson(&pipeline.path("rows.ndjson")).is_empty());
    (host, format!("http://{address}"))
}

#[test]
fn a_host_deploys_withdraws_and_shadows_for_who_has_the_token() {
    let Some(brokers) = crate::kafka() else { return };
    let load = Load::start(&brokers, "administered", 1_000);
    let pipeline = pipeline(&brokers, "administered", "token_file = \"token\"\nupload_limit = \"4MiB\"");
    let (mut host, url) = start(&pipeline);
    let asked = |command: &str, token: &str, more: &[&str]| {
        pipeline.call(command, &[&["--admin", &url, "--token-file", token], more].concat())
    };
    let second = json!({"mode": "mark", "mark": "second"}).to_string();
    asked("deployment list", "wrong", &[]).expect_code(2).expect_said(&["the bearer token is missing or wrong"]);
    pipeline.call("deployment list", &["--admin", &url]).expect_code(2).expect_said(&["token"]);
    asked("deployment create", "wrong", &["--plugin-config", &second]).expect_code(2).expect_said(&["token"]);

    let refused = asked("deployment create", "token", &["--plugin-config", r#"{"mode": "no-such"}"#]);
    refused.expect_code(4).expect_said(&["FAIL  plugin", "no-such"]);
    asked("deployment create", "token", &["--set", "state.url=x"]).expect_code(2).expect_said(&["--set state.url"]);
    let more = asked("deployment create", "token", &["--set", "plugin.memory=4GiB"]);
    more.expect_code(2).expect_said(&["plugin.memory: ", "more than the host's own configuration allows"]);
    pipeline.write("text.wasm", b"no component");
    let text = pipeline.path("text.wasm").to_string_lossy().into_owned();
    asked("deployment create", "token", &[&text]).expect_code(4).expect_said(&["FAIL  plugin"]);
    pipeline.write("large.wasm", &vec![0; 5 << 20]);
    let large = pipeline.path("large.wasm").to_string_lossy().into_owned();
    asked("deployment create", "token", &[&large]).expect_code(2).expect_said(&["admin.upload_limit"]);
    asked("deployment create", "token", &["--plugin-config", &second, "--dry-run"])
        .expect_code(0)
        .expect_said(&["ok    law"]);
    assert_eq!(asked("deployment list", "token", &[]).stdout.lines().count(), 1, "nothing was ordered");

    let file = plugin_file("hostile");
    let ordered = asked(
        "deployment create",
        "token",
        &[&file, "--plugin-config", &second, "--set", "time.out_of_orderness=3s", "--reason", "a test"],
    );
    ordered.expect_code(0).expect_said(&["holds from"]);
    let said = ordered.stdout.split_whitespace().skip_while(|word| *word != "deployment").nth(1);
    let n = said.expect("it says which");
    host.wait_logged("swap-finished");
    let list = asked("deployment list", "token", &[]);
    list.expect_code(0).expect_said(&[&format!("{n}  confirmed"), "because a test"]);
    assert_eq!(list.stdout, pipeline.call("deployment list", &[]).stdout, "the store says the same");
    let withdrawn = asked("deployment withdraw", "token", &["--reason", "a test too"]);
    withdrawn.expect_code(0).expect_said(&[&format!("deployment {n} is withdrawn")]);
    host.wait_logged("rewind-withdrawn");
    asked("deployment withdraw", "token", &["0"]).expect_code(2).expect_said(&["beginning of the log"]);

    asked("deployment shadow", "token", &[]).expect_code(2).expect_said(&["there is no shadow"]);
    asked("deployment create", "token", &["--shadow", "--plugin-config", &second]).expect_code(0);
    host.wait_until("the shadow folds", || asked("deployment shadow", "token", &[]).stdout.contains("\"second\""));
    asked("deployment drop", "token", &[]).expect_code(0).expect_said(&["is dropped"]);
    load.finish();
    host.terminate(PATIENCE).expect_code(0);
    asked("deployment list", "token", &[]).expect_code(3).expect_said(&["--admin"]);
}

#[test]
fn without_a_token_the_api_tells_and_changes_nothing() {
    let Some(brokers) = crate::kafka() else { return };
    let load = Load::start(&brokers, "told", 500);
    let pipeline = pipeline(&brokers, "told", "");
    let (host, url) = start(&pipeline);
    pipeline.call("deployment list", &["--admin", &url]).expect_code(0).expect_said(&["0  confirmed"]);
    let refused = pipeline.call("deployment withdraw", &["--admin", &url]);
    refused.expect_code(2).expect_said(&["admin.token is not configured"]);
    load.finish();
    host.terminate(PATIENCE).expect_code(0);
}
