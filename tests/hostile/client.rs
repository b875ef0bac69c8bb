//! A client of the admin API: what it does without the token neither keeps the host from folding nor from answering, and what it does with the
//! token stays within the host's own configuration.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};

use super::forge::{DESCRIBED, Described, described};
use super::{hostile, peak_now};
use crate::support::generate::base64_of;
use crate::support::host::{KEYFOLD, PATIENCE, Pipeline, Running, logged};
use crate::support::mock::{produce, visits_from};
use crate::support::rows::from_ndjson;
use crate::support::scrape::Host;
use crate::support::settings::{ADMIN, Settings};

/// Connections of the attack.
pub(super) const HALF_OPEN: usize = 2_000;
/// File descriptors of the host, as a system allows a process by default: fewer than the attack has connections.
const DESCRIPTORS: u32 = 1_024;

/// Raises this process's own limit of file descriptors, so that it can hold the connections. Returns how many it can hold.
pub(super) fn allow_descriptors(wanted: usize) -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write one `rlimit`, which lives as long as they take.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0, "every process has this limit");
        limit.rlim_cur = limit.rlim_max.min(limit.rlim_cur.max(wanted as u64 + 512));
        assert_eq!(
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit),
            0,
            "a limit may be raised up to the hard one"
        );
    }
    usize::try_from(limit.rlim_cur).map_or(wanted, |most| wanted.min(most.saturating_sub(512)))
}

/// The host, with few file descriptors.
pub(super) fn limited(pipeline: &Pipeline) -> Running {
    let inner = pipeline.command("run", &[]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\""), KEYFOLD]).args(inner.get_args());
    command.current_dir(pipeline.path(".")).stdin(Stdio::null());
    pipeline.start(command)
}

/// So many connections whose request never ends.
pub(super) fn open_halfway(host: &Host, count: usize) -> Vec<TcpStream> {
    let address = host.url().trim_start_matches("http://");
    let open = |_| {
        let mut stream = TcpStream::connect(address).expect("the system accepts it for the host");
        let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: "); // may be closed already
        stream
    };
    (0..count).map(open).collect()
}

#[test]
fn connections_that_never_finish_their_request_stop_neither_folding_nor_probes() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("exposed", 1, 1).expect("a new topic");
    let settings = Settings { checkpoint_interval: "200ms".to_owned(), ..Settings::default() };
    let pipeline = Pipeline::new(&format!("{}{ADMIN}", settings.over_kafka(&brokers, "exposed").to_toml()));
    let mut running = limited(&pipeline);
    let host = Host::of(&mut running);
    let wanted = allow_descriptors(HALF_OPEN);
    let half_open = open_halfway(&host, wanted);
    produce(&brokers, "exposed", &visits_from(0, 1, |i| i));
    host.wait_for(&mut running, "keyfold_records_total{lane=\"topic\"}", 40.0);
    assert!(host.says_yes("/livez") && host.says_yes("/readyz"));
    let before = host.metrics().value("keyfold_checkpoints_total{lane=\"topic\"}");
    produce(&brokers, "exposed", &visits_from(1_000, 1, |i| i));
    running
        .wait_until("rows of the first visits are written", || from_ndjson(&pipeline.path("rows.ndjson")).len() >= 40);
    running.wait_until("a checkpoint is written", || {
        host.metrics().value("keyfold_checkpoints_total{lane=\"topic\"}") > before
    });
    assert_eq!(half_open.len(), wanted);
    let peak = peak_now(&running).unwrap_or(0);
    println!("{wanted} half-open connections: {peak} MiB");
    assert!(peak < 600, "{peak} MiB");
    drop(half_open);
    running.terminate(crate::support::host::PATIENCE).expect_code(0);
}

#[test]
fn a_token_for_reading_changes_nothing_and_the_audit_log_names_each_change() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("audited", 1, 1).expect("a new topic");
    let admin = "token_file = \"token\"\nread_token_file = \"reader\"\naudit_log = \"audit.ndjson\"\n";
    let settings = Settings::default().over_kafka(&brokers, "audited");
    let pipeline = Pipeline::new(&format!("{}{ADMIN}{admin}", settings.to_toml()));
    pipeline.write("token", b"for who may deploy");
    pipeline.write("reader", b"for who may look");
    produce(&brokers, "audited", &visits_from(0, 1, |i| i));
    let mut running = pipeline.spawn(&[]);
    let host = Host::of(&mut running);
    host.wait_for(&mut running, "keyfold_records_total{lane=\"topic\"}", 40.0);
    let asked = |command: &str, token: &str, more: &[&str]| {
        pipeline.call(command, &[&["--admin", host.url(), "--token-file", token], more].concat())
    };
    asked("deployment list", "reader", &[]).expect_code(0);
    let refused = asked("deployment create", "reader", &["--set", "time.out_of_orderness=3s"]);
    refused.expect_code(2).expect_said(&["this token is admin.read_token, which may only read"]);
    let more = ["--set", "time.out_of_orderness=3s", "--by", "ann", "--reason", "a test"];
    asked("deployment create", "token", &more).expect_code(0);
    asked("deployment list", "reader", &[]).expect_code(0).expect_said(&["by ann (admin.token)", "because a test"]);
    let log = from_ndjson(&pipeline.path("audit.ndjson"));
    let events: Vec<_> = log.iter().map(|line| line["event"].as_str().unwrap_or_default()).collect();
    assert_eq!(events, ["refused", "asked", "answered"], "{log:?}");
    assert_eq!(
        (&log[0]["status"], &log[2]["status"], &log[2]["by"]),
        (&403.into(), &200.into(), &"ann (admin.token)".into())
    );
    running.kill();
}

/// A page in somebody's browser can send requests to a loopback address, but not without saying where the page came from.
#[test]
fn a_host_on_loopback_answers_only_requests_for_this_machine() {
    let pipeline = Pipeline::new(&format!("{}{ADMIN}", Settings::default().over_kafka("127.0.0.1:1", "t").to_toml()));
    let mut running = pipeline.spawn(&[]);
    let host = Host::of(&mut running);
    let address = host.url().trim_start_matches("http://");
    let asked = |name: &str| {
        let mut stream = TcpStream::connect(address).expect("the host listens");
        let request = format!("GET /v1/status HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the host reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the host answers");
        answer
    };
    assert!(asked("example.org").starts_with("HTTP/1.1 403"), "{}", asked("example.org"));
    assert!(asked("example.org").contains("names another machine"));
    assert!(asked("localhost:80").starts_with("HTTP/1.1 200"), "{}", asked("localhost:80"));
    running.kill();
}

pub(super) const TOKEN: &str = "a token that may deploy";

/// A host with a token that has folded forty visits of a topic.
fn host_with_token(brokers: &str, topic: &str) -> (Pipeline, Running, Host) {
    let more = "token_file = \"token\"\naudit_log = \"audit.ndjson\"\n";
    let pipeline = Pipeline::new(&format!("{}{ADMIN}{more}", Settings::default().over_kafka(brokers, topic).to_toml()));
    pipeline.write("token", TOKEN.as_bytes());
    produce(brokers, topic, &visits_from(0, 1, |i| i));
    let mut running = pipeline.spawn(&[]);
    let host = Host::of(&mut running);
    host.wait_for(&mut running, "keyfold_records_total{lane=\"topic\"}", 40.0);
    (pipeline, running, host)
}

/// All that the host answers to these bytes, until it closes the connection.
fn answered(host: &Host, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(host.url().trim_start_matches("http://")).expect("the host listens");
    let _ = stream.write_all(bytes); // it may have closed the connection already
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer); // the same
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status and document of a request with a body.
pub(super) fn posted(host: &Host, path: &str, token: &str, body: &Value) -> (u16, String) {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = answered(host, head.as_bytes());
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {answer}")), answer)
}

#[test]
fn no_request_is_hidden_in_another() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("smuggled", 1, 1).expect("a new topic");
    let (pipeline, running, host) = host_with_token(&brokers, "smuggled");
    let hidden = format!(
        "POST /v1/withdraw HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    let chunked = format!("0\r\n\r\n{hidden}");
    let in_chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    for path in ["/livez", "/v1/status", "/v1/deployments"] {
        for (name, headers, body) in [
            ("both lengths", format!("Content-Length: {}\r\nTransfer-Encoding: chunked", chunked.len()), &chunked),
            (
                "both lengths, turned round",
                format!("Transfer-Encoding: chunked\r\nContent-Length: {}", chunked.len()),
                &chunked,
            ),
            ("both lengths, in a chunk", "Content-Length: 5\r\nTransfer-Encoding: chunked".to_owned(), &in_chunk),
            ("two lengths", format!("Content-Length: 0\r\nContent-Length: {}", hidden.len()), &hidden),
            ("a list of lengths", format!("Content-Length: 0, {}", hidden.len()), &hidden),
            ("a signed length", "Content-Length: +0".to_owned(), &hidden),
            ("no chunks", "Transfer-Encoding: xchunked\r\nContent-Length: 0".to_owned(), &hidden),
            ("two encodings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".to_owned(), &chunked),
            ("a space before the colon", "Content-Length : 0\r\nTransfer-Encoding : chunked".to_owned(), &hidden),
        ] {
            let answer = answered(
                &host,
                format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n{body}").as_bytes(),
            );
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{path}, {name}: {answer}");
        }
    }
    let audit = std::fs::read_to_string(pipeline.path("audit.ndjson")).unwrap_or_default();
    assert!(!audit.contains("asked"), "{audit}");
    running.kill();
}

#[test]
fn names_lead_out_of_no_folder() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("traversed", 1, 1).expect("a new topic");
    let (pipeline, running, host) = host_with_token(&brokers, "traversed");
    let token = format!("Authorization: Bearer {TOKEN}");
    for path in [
        "/../keyfold.toml",
        "/v1/../../keyfold.toml",
        "/v1/deployments/../../token",
        "/v1/%2e%2e/%2e%2e/token",
        "/v1/..%2f..%2ftoken",
        "//token",
        "/v1/deployments/0",
        "/v1\\..\\token",
    ] {
        let answer = answered(
            &host,
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
        assert!(!answer.contains(TOKEN) && !answer.contains("[plugin]"), "{path}: {answer}");
    }
    for wanted in [
        json!({"plugin": "../token"}),
        json!({"plugin": pipeline.path("token").to_string_lossy()}),
        json!({"plugin": "file:///etc/hostname"}),
        json!({"plugin": "builtin:../../token"}),
        json!({"plugin": "builtin:visits", "plugin_base64": ""}),
        json!({"plugin_base64": "../token"}),
        json!({"set": {"plugin.component": "../token"}}),
        json!({"set": {"sink.ndjson.path": "../rows"}}),
        json!({"set": {"plugin.cache": "/tmp"}}),
        json!({"set": {"plugin.tables": "[]"}}),
        json!({"set": {"admin.token_file": "audit.ndjson"}}),
        json!({"set": {"time.late\u{0}": "drop"}}),
        json!({"like": u64::MAX}),
        json!({"at": i64::MIN}),
        json!({"file": "../token"}),
    ] {
        let (status, answer) = posted(&host, "/v1/deployments", TOKEN, &wanted);
        assert!((400..500).contains(&status), "{wanted}: {answer}");
    }
    let (status, list) = host_get(&host, "/v1/deployments");
    assert_eq!((status, list.matches("\"n\":").count()), (200, 1), "{list}");
    let end = running.kill();
    assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
}

pub(super) fn host_get(host: &Host, path: &str) -> (u16, String) {
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n");
    let answer = answered(host, head.as_bytes());
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {answer}")), answer)
}

#[test]
fn who_may_deploy_lifts_no_limit_and_who_tries_tokens_fills_no_log() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("lifted", 1, 1).expect("a new topic");
    let (pipeline, running, host) = host_with_token(&brokers, "lifted");
    for (key, value) in [
        ("plugin.memory", "4GiB"),
        ("plugin.fuel", "9223372036854775807"),
        ("plugin.output_rows", "100001"),
        ("plugin.output_bytes", "1GiB"),
        ("plugin.record_bytes", "32MiB"),
    ] {
        let (status, answer) = posted(&host, "/v1/deployments", TOKEN, &json!({"set": {key: value}}));
        assert!(status == 400 && answer.contains("more than the host's own configuration allows"), "{key}: {answer}");
    }
    for key in ["plugin.compile_memory", "plugin.compile_time", "plugin.on_strike", "admin.upload_limit"] {
        let (status, answer) = posted(&host, "/v1/deployments", TOKEN, &json!({"set": {key: "1"}}));
        assert!(status == 400 && answer.contains(key), "{key}: {answer}");
    }
    for i in 0..1_000 {
        let (status, _) = posted(&host, "/v1/withdraw", &format!("{TOKEN}{i}\u{9b}31m"), &json!({}));
        assert!(status == 401 || status == 429 && i >= 10, "{i}: {status}");
    }
    assert_eq!(logged(&running.stderr(), "admin-token-refused").len(), 10, "the 1st, 2nd, 4th to 512th");
    assert_eq!(
        from_ndjson(&pipeline.path("audit.ndjson")).iter().filter(|line| line["event"] == "refused").count(),
        10
    );
    let end = running.kill();
    assert!(!end.stderr.contains(TOKEN), "{}", end.stderr);
}

/// All that the host answers to these bytes, sent from another address of this machine.
#[cfg(target_os = "linux")]
fn answered_elsewhere(host: &Host, bytes: &[u8]) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let connect = async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 2], 0).into())?;
        let address = host.url().trim_start_matches("http://").parse().expect("an address");
        socket.connect(address).await?.into_std()
    };
    let mut stream = runtime.block_on(connect).expect("the host listens");
    stream.set_nonblocking(false).expect("a socket");
    let mut answer = String::new();
    stream.write_all(bytes).and_then(|()| stream.read_to_string(&mut answer)).expect("it answers");
    answer
}

#[test]
fn whoever_tries_tokens_is_soon_refused_and_others_are_not() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("guessed", 1, 1).expect("a new topic");
    let (_pipeline, running, host) = host_with_token(&brokers, "guessed");
    let wrong = |i: usize| posted(&host, "/v1/withdraw", &format!("{TOKEN}{i}"), &json!({}));
    for i in 0..10 {
        assert_eq!(wrong(i).0, 401, "{i}");
    }
    let refused = (10..1_000).map(wrong).find(|(status, _)| *status != 401);
    let (status, answer) = refused.expect("a thousand tokens are not tried at once");
    assert_eq!(status, 429);
    assert!(answer.contains("retry-after: ") && answer.contains("too many wrong tokens"), "{answer}");

    // Who brings no token tries none, and learns nothing.
    let get = |token: &str| format!("GET /v1/status HTTP/1.1\r\nHost: localhost\r\n{token}Connection: close\r\n\r\n");
    assert!(answered(&host, get("").as_bytes()).starts_with("HTTP/1.1 401 "));
    assert!(host.says_yes("/livez") && host.says_yes("/readyz"));
    #[cfg(target_os = "linux")]
    {
        let answer = answered_elsewhere(&host, get(&format!("Authorization: Bearer {TOKEN}\r\n")).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let mut running = running;
    assert!(running.is_running());
    running.wait_logged("admin-token-refused");
}

/// The operator lowered a limit. An earlier deployment and a shadow still have the former one.
#[test]
fn a_limit_that_the_operator_lowered_does_not_come_back_with_an_earlier_deployment() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("lowered", 1, 1).expect("a new topic");
    let limited = |memory: &str| {
        let defaults = Settings::default().over_kafka(&brokers, "lowered");
        let plugin = format!("{}\nmemory = \"{memory}\"", defaults.plugin);
        let run = format!("{}\ndeploy_on_start = true", defaults.run);
        format!("{}{ADMIN}token_file = \"token\"\n", Settings { plugin, run, ..defaults }.to_toml())
    };
    let pipeline = Pipeline::new(&limited("256MiB"));
    pipeline.write("token", TOKEN.as_bytes());
    produce(&brokers, "lowered", &visits_from(0, 1, |i| i));
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    pipeline.configure(&limited("64MiB"));
    let mut running = pipeline.spawn(&[]);
    let host = Host::of(&mut running);
    running.wait_until("it has started", || host.says_yes("/startupz"));
    // Whoever may change the state may do this.
    pipeline.call("deployment create", &["--like", "0", "--shadow"]).expect_code(0);
    for wanted in [
        json!({"like": 0}),
        json!({"like": 0, "dry_run": true}),
        json!({"like": 0, "reprocess": true}),
        json!({"like": 0, "shadow": true}),
        json!({"like": 0, "set": {"time.out_of_orderness": "3s"}}),
        json!({"like": 1, "set": {"plugin.memory": "65MiB"}}),
        json!({"promote": true}),
    ] {
        let (status, answer) = posted(&host, "/v1/deployments", TOKEN, &wanted);
        let said = "plugin.memory: ";
        assert!(status == 400 && answer.contains(said), "{wanted}: {answer}");
        assert!(answer.contains("more than the host's own configuration allows, 67108864"), "{wanted}: {answer}");
    }
    let memory = |host: &Host| {
        let answer = answered(host, format!("GET /v1/deployments HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n").as_bytes());
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let entries: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let last = entries.as_array().and_then(|entries| entries.last()).cloned().expect("there are deployments");
        assert!(last.to_string().contains("\"memory_bytes\":"), "{last}");
        last.to_string().contains("\"memory_bytes\":67108864")
    };
    assert!(memory(&host), "nothing was ordered");
    for wanted in [
        json!({"like": 1}),
        json!({"like": 0, "set": {"plugin.memory": "64MiB"}}),
        json!({"set": {"time.out_of_orderness": "3s"}}),
    ] {
        let (status, answer) = posted(&host, "/v1/deployments", TOKEN, &wanted);
        assert_eq!(status, 200, "{wanted}: {answer}");
        assert!(memory(&host), "{wanted}");
    }
    running.kill();
}

/// Tables are written with the operator's credentials, and some of them may be somebody else's.
#[test]
fn who_may_deploy_adds_no_table_that_the_operator_has_not_named() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("added", 1, 1).expect("a new topic");
    produce(&brokers, "added", &super::events(["a", "b"]));
    let of = |name: &str, table: &str| described(&Described { name, table: (table, DESCRIBED.table.1), ..DESCRIBED });
    let started = |tables: &str| {
        let plugin = format!("component = \"plain.wasm\"\n{tables}");
        let settings = Settings { plugin, ..Settings::default() }.over_kafka(&brokers, "added");
        let pipeline = Pipeline::new(&format!("{}{ADMIN}token_file = \"token\"\n", settings.to_toml()));
        pipeline.write("token", TOKEN.as_bytes());
        pipeline.write("plain.wasm", &described(&DESCRIBED));
        pipeline.write("other.wasm", &of("other", "other"));
        let mut running = pipeline.spawn(&[]);
        let host = Host::of(&mut running);
        host.wait_for(&mut running, "keyfold_records_total{lane=\"topic\"}", 2.0);
        (pipeline, running, host)
    };
    let sent = |name: &str, table: &str, more: Value| {
        let mut wanted = json!({"plugin_base64": base64_of(&of(name, table))});
        wanted.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        wanted
    };
    let (pipeline, running, host) = started("");
    let refused = |wanted: &Value| {
        let (status, answer) = posted(&host, "/v1/deployments", TOKEN, wanted);
        assert_eq!(status, 409, "{answer}");
        assert!(answer.contains("it writes table other, which no deployment of this pipeline has written"), "{answer}");
        assert!(answer.contains("plugin.tables of the host's configuration"), "{answer}");
    };
    let accepted = |host: &Host, wanted: &Value| {
        let (status, answer) = posted(host, "/v1/deployments", TOKEN, wanted);
        assert_eq!(status, 200, "{answer}");
    };
    refused(&sent("other", "other", json!({"dry_run": true})));
    refused(&sent("other", "other", json!({})));
    accepted(&host, &sent("renamed", "out", json!({})));
    // A shadow writes nothing, until it is promoted.
    accepted(&host, &sent("other", "other", json!({"shadow": true})));
    refused(&json!({"promote": true}));
    // Whoever can write the state is the operator, and what they have added stays known.
    pipeline.call("deployment create", &["other.wasm"]).expect_code(0);
    accepted(&host, &sent("once more", "other", json!({})));
    running.kill();

    let (_pipeline, running, host) = started("tables = [\"out\", \"other\"]");
    accepted(&host, &sent("other", "other", json!({})));
    running.kill();
}

#[test]
fn twenty_five_deployments_at_once_are_twenty_five_numbers() {
    const AT_ONCE: u64 = 25;
    let pipeline = super::pipeline(&hostile(&json!({"mode": "mark", "mark": "first"})), &super::events(["a", "b"]));
    pipeline.run_to_end(&[]).expect_code(0);
    let ordered = |i: u64| {
        let config = json!({"mode": "mark", "mark": format!("m{i}")}).to_string();
        let arguments = ["--plugin-config", &config, "--output", "json", "--reason", &format!("number {i}")];
        pipeline.start(pipeline.command("deployment create", &arguments))
    };
    let mut waiting: Vec<(u64, Running)> = (0..AT_ONCE).map(|i| (i, ordered(i))).collect();
    let mut numbers = Vec::new();
    while let Some((i, running)) = waiting.pop() {
        let outcome = running.wait(PATIENCE);
        if outcome.code == Some(5) {
            // The others were faster each time that it tried. It has changed nothing, and is told to try again.
            outcome.expect_said(&["try again"]);
            waiting.push((i, ordered(i)));
            continue;
        }
        let answer: Value = serde_json::from_str(&outcome.expect_code(0).stdout).expect("a document");
        numbers.push(answer["deployment"].as_u64().expect("it has a number"));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=AT_ONCE).collect::<Vec<_>>());
    let list = pipeline.call("deployment list", &[]);
    list.expect_code(0);
    for i in 0..AT_ONCE {
        assert!(list.stdout.contains(&format!("because number {i}\n")), "{i}: {}", list.stdout);
    }
}
