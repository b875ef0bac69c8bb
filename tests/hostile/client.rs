//! A host that strangers can reach: what clients of the admin API do without a token neither keeps it from folding nor from answering.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::support::generate::write_records;
use crate::support::host::{KEYFOLD, Pipeline, Running};
use crate::support::mock::{produce, visits, visits_from};
use crate::support::rows::from_ndjson;
use crate::support::scrape::Host;
use crate::support::settings::{ADMIN, Settings};

/// Connections of the attack.
const HALF_OPEN: usize = 2_000;
/// File descriptors of the host, as a system allows a process by default: fewer than the attack has connections.
const DESCRIPTORS: u32 = 1_024;

/// Raises this process's own limit of file descriptors, so that it can hold the connections. Returns how many it can hold.
fn allow_descriptors(wanted: usize) -> usize {
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
fn limited(pipeline: &Pipeline) -> Running {
    let inner = pipeline.command("run", &[]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\""), KEYFOLD]).args(inner.get_args());
    command.current_dir(pipeline.path(".")).stdin(Stdio::null());
    pipeline.start(command)
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
    let address = host.url().trim_start_matches("http://").to_owned();
    let half_open: Vec<TcpStream> = (0..wanted)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).expect("the system accepts it for the host");
            let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: "); // may be closed already
            stream
        })
        .collect();
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
    drop(half_open);
    running.terminate(crate::support::host::PATIENCE).expect_code(0);
}

/// Files under a folder, and folders, with their modes.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let mut found = vec![(folder.to_owned(), mode(folder))];
    for entry in std::fs::read_dir(folder).expect("readable").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(modes(&path)),
            path => found.push((path.clone(), mode(&path))),
        }
    }
    found
}

#[test]
fn what_the_host_keeps_is_for_its_user_and_rows_are_for_readers() {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    let mut records = visits(1, |i| i % 10);
    records[0].value = Some(b"no visit".to_vec());
    write_records(&pipeline.path("log.ndjson"), &records);
    pipeline.run_to_end(&[]).expect_code(0);
    let mut kept = modes(&pipeline.path("state"));
    assert!(kept.len() > 5, "{kept:?}");
    let of = |name: &str| std::fs::metadata(pipeline.path(name)).expect("it is there").permissions().mode() & 0o777;
    assert!(!from_ndjson(&pipeline.path("dead-letters.ndjson")).is_empty());
    kept.push((pipeline.path("dead-letters.ndjson"), of("dead-letters.ndjson")));
    let readable: Vec<_> = kept.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(readable.is_empty(), "{readable:?}");
    assert_eq!(of("rows.ndjson"), of("log.ndjson"), "as this user's other programs make files");
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
