//! The admin API over TLS and at a Unix socket: who is trusted on either side, what is refused, and certificates that change while the host runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::support::certificates::Authority;
use crate::support::host::{Outcome, PATIENCE, Pipeline, Running};
use crate::support::mock::{produce, visits};
use crate::support::scrape::Host;
use crate::support::settings::{ADMIN, Settings};

const TLS: &str = "tls = { certificate = \"server.pem\", key = \"server.key\" }\n";
const MUTUAL: &str = "tls = { certificate = \"server.pem\", key = \"server.key\", client_ca = \"clients.pem\" }\n";

/// A host that waits for its brokers; its status and its probes can be asked meanwhile.
fn pipeline(tls: &str) -> Pipeline {
    let settings = Settings { run: "startup_timeout = \"1h\"".to_owned(), ..Settings::default() };
    Pipeline::new(&format!("{}{ADMIN}{tls}", settings.over_kafka("127.0.0.1:1", "t").to_toml()))
}

/// Writes a certificate and its key.
fn write(pipeline: &Pipeline, name: &str, authority: &Authority, address: Option<&str>) {
    let signed = authority.sign(name, address, 30);
    pipeline.write(&format!("{name}.pem"), &signed.pem());
    pipeline.write(&format!("{name}.key"), &signed.key(None));
}

fn authority(pipeline: &Pipeline, name: &str) -> Authority {
    let authority = Authority::new(name);
    pipeline.write(&format!("{name}.pem"), &authority.pem());
    authority
}

fn address(host: &mut Running) -> String {
    host.wait_logged("admin-api-listening")["address"].as_str().expect("an address").to_owned()
}

fn status(pipeline: &Pipeline, address: &str, more: &[&str]) -> Outcome {
    pipeline.call("status", &[&["--admin", &format!("https://{address}")], more].concat())
}

/// The probe of a person on the host's machine, with its configuration; the port is the one that the system chose.
fn health(pipeline: &Pipeline, address: &str) -> Outcome {
    let mut command = pipeline.command("health", &[]);
    command.env("KEYFOLD_ADMIN__LISTEN", address);
    pipeline.start(command).wait(PATIENCE)
}

#[test]
fn a_client_that_trusts_the_authority_is_answered_and_others_are_told_why_not() {
    let pipeline = pipeline(TLS);
    let right = authority(&pipeline, "right");
    authority(&pipeline, "wrong");
    write(&pipeline, "server", &right, Some("127.0.0.1"));
    let mut host = pipeline.spawn(&[]);
    let address = address(&mut host);
    status(&pipeline, &address, &["--admin-ca", "right.pem"]).expect_code(0);
    let refused = &["the host's certificate is refused", "--admin-ca"];
    status(&pipeline, &address, &["--admin-ca", "wrong.pem"]).expect_code(3).expect_said(refused);
    status(&pipeline, &address, &[]).expect_code(3).expect_said(refused);
    // The certificate names an address, and no name.
    let named = address.replace("127.0.0.1", "localhost");
    status(&pipeline, &named, &["--admin-ca", "right.pem"]).expect_code(3);
    // A command with the host's own configuration knows the host by its certificate.
    health(&pipeline, &address).expect_code(0);
    let plain = format!("http://{address}");
    pipeline.call("status", &["--admin", &plain]).expect_code(3);
    pipeline.call("status", &["--admin", &plain, "--admin-ca", "right.pem"]).expect_code(2);
    host.kill();
}

#[test]
fn plain_http_gets_a_closed_connection_and_the_next_client_its_answer() {
    let pipeline = pipeline(TLS);
    let right = authority(&pipeline, "right");
    write(&pipeline, "server", &right, Some("127.0.0.1"));
    let mut host = pipeline.spawn(&[]);
    let address = address(&mut host);
    let silent = TcpStream::connect(&address).expect("the host listens");
    for request in [&b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &[0; 600]] {
        let mut stream = TcpStream::connect(&address).expect("the host listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit that is not zero");
        stream.write_all(request).expect("the host reads");
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).map_err(|error| error.kind());
        assert!(matches!(ended, Ok(_) | Err(std::io::ErrorKind::ConnectionReset)), "{ended:?}");
        assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    }
    status(&pipeline, &address, &["--admin-ca", "right.pem"]).expect_code(0);
    drop(silent);
    host.kill();
}

#[test]
fn with_an_authority_of_clients_only_its_clients_and_this_host_s_own_commands_are_answered() {
    let pipeline = pipeline(MUTUAL);
    let (servers, clients, strangers) = ("right", "clients", "strangers");
    let right = authority(&pipeline, servers);
    write(&pipeline, "server", &right, Some("127.0.0.1"));
    write(&pipeline, "ann", &authority(&pipeline, clients), None);
    write(&pipeline, "eve", &authority(&pipeline, strangers), None);
    let mut host = pipeline.spawn(&[]);
    let address = address(&mut host);
    let with = |name: &str| {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let files = ["--admin-ca", "right.pem", "--admin-certificate", &certificate, "--admin-key", &key];
        status(&pipeline, &address, &files)
    };
    with("ann").expect_code(0);
    with("eve").expect_code(3);
    status(&pipeline, &address, &["--admin-ca", "right.pem"]).expect_code(3);
    health(&pipeline, &address).expect_code(0);
    host.kill();
}

#[test]
fn with_an_authority_of_clients_the_probes_own_address_answers_whoever_asks() {
    let pipeline = pipeline(&format!("{MUTUAL}probes = \"127.0.0.1:0\"\n"));
    let right = authority(&pipeline, "right");
    authority(&pipeline, "clients");
    write(&pipeline, "server", &right, Some("127.0.0.1"));
    let mut host = pipeline.spawn(&[]);
    let address = address(&mut host);
    let probes = Host::probes_of(&mut host);
    assert!(probes.says_yes("/livez") && !probes.says_yes("/startupz"));
    assert_eq!(probes.get("/v1/status").0, 404);
    status(&pipeline, &address, &["--admin-ca", "right.pem"]).expect_code(3);
    host.kill();
}

#[test]
fn a_certificate_that_changes_is_taken_once_it_is_whole() {
    let pipeline = pipeline(TLS);
    let (old, new) = (authority(&pipeline, "old"), authority(&pipeline, "new"));
    write(&pipeline, "server", &old, Some("127.0.0.1"));
    let mut host = pipeline.spawn(&[]);
    let address = address(&mut host);
    let ask = |ca: &str| status(&pipeline, &address, &["--admin-ca", ca]);
    ask("old.pem").expect_code(0);
    let next = new.sign("server", Some("127.0.0.1"), 30);
    let replace = |name: &str, bytes: &[u8]| {
        pipeline.write("next", bytes);
        std::fs::rename(pipeline.path("next"), pipeline.path(name)).expect("the test's folder is writable");
    };
    replace("server.pem", &next.pem());
    ask("old.pem").expect_code(0);
    replace("server.key", &next.key(None));
    ask("new.pem").expect_code(0);
    ask("old.pem").expect_code(3);
    host.kill();
}

#[test]
fn a_token_that_changes_counts_from_the_next_request_on_and_one_that_is_empty_or_shared_does_not() {
    let pipeline = pipeline("token_file = \"token\"\nread_token_file = \"reader\"\n");
    for (file, token) in [("token", "first"), ("reader", "reader"), ("old", "first"), ("new", "second")] {
        pipeline.write(file, token.as_bytes());
    }
    let mut host = pipeline.spawn(&[]);
    let url = format!("http://{}", address(&mut host));
    let ask = |token: &str| pipeline.call("status", &["--admin", &url, "--token-file", token]);
    ask("old").expect_code(0);
    pipeline.write("token", b"second\n");
    ask("new").expect_code(0);
    ask("old").expect_code(2);
    pipeline.write("reader", b"second\n");
    ask("new").expect_code(0);
    host.wait_logged("admin-token-kept");
    pipeline.write("reader", b"");
    ask("new").expect_code(0);
    let outcome = host.kill();
    assert!(!outcome.stderr.contains("second"), "{}", outcome.stderr);
}

#[test]
fn files_that_cannot_serve_are_refused_by_key_and_path_at_the_start_and_by_check() {
    let pipeline = pipeline(TLS);
    let right = authority(&pipeline, "right");
    write(&pipeline, "server", &right, Some("127.0.0.1"));
    let refused = |said: &[&str]| {
        pipeline.run_to_end(&[]).expect_code(2).expect_said(said);
        assert!(pipeline.call("check", &[]).expect_said(said).code != Some(0));
    };
    pipeline.write("server.key", &right.sign("other", None, 30).key(None));
    refused(&["admin.tls.key: ", "server.key", "does not belong to the certificate in"]);
    std::fs::remove_file(pipeline.path("server.key")).expect("it is there");
    refused(&["admin.tls.key: ", "server.key", "No such file"]);
    pipeline.write("server.pem", b"nothing");
    refused(&["admin.tls.certificate: ", "server.pem", "no certificate in PEM form"]);
}

/// A proxy that is meant for other machines would be asked for a host on this one, and would get its token.
#[test]
fn no_proxy_stands_between_a_client_and_its_own_machine() {
    let pipeline = pipeline("");
    let mut host = pipeline.spawn(&[]);
    let url = format!("http://{}", address(&mut host));
    let mut command = pipeline.command("status", &["--admin", &url]);
    for name in ["ALL_PROXY", "HTTP_PROXY", "http_proxy"] {
        command.env(name, "http://127.0.0.1:1");
    }
    command.env_remove("NO_PROXY").env_remove("no_proxy");
    pipeline.start(command).wait(PATIENCE).expect_code(0);
    host.kill();
}

#[test]
fn a_unix_socket_is_for_the_host_s_own_user_and_goes_with_the_host() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("socket", 1, 1).expect("a new topic");
    let config = Settings::default().over_kafka(&brokers, "socket").to_toml();
    let pipeline = Pipeline::new(&format!("{config}\n[admin]\nlisten = \"unix:{{dir}}/s\"\n"));
    let path = pipeline.path("s");
    let name = format!("unix:{}", path.display());
    let admin = |command: &str, more: &[&str]| pipeline.call(command, &[&["--admin", &name], more].concat());
    pipeline.write("s", b"somebody's file");
    pipeline.run_to_end(&[]).expect_code(3).expect_said(&["admin.listen unix:", "is no socket"]);
    std::fs::remove_file(&path).expect("it is the test's own");
    let mut killed = pipeline.spawn(&[]);
    killed.wait_logged("admin-api-listening");
    killed.kill();
    assert!(path.exists(), "a host that is killed leaves its socket");
    produce(&brokers, "socket", &visits(1, |i| i % 10));
    let mut host = pipeline.spawn(&[]);
    host.wait_until("the host has started", || admin("deployment list", &[]).code == Some(0));
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    pipeline.run_to_end(&[]).expect_code(3).expect_said(&["another host listens there"]);
    pipeline.call("health", &[]).expect_code(0);
    let change = ["--set", "time.out_of_orderness=3s", "--by", "ann"];
    host.wait_until("a deployment is created", || admin("deployment create", &change).code == Some(0));
    // SAFETY: it takes nothing, and cannot fail.
    let user = format!("by ann (uid {})", unsafe { libc::getuid() });
    admin("deployment list", &[]).expect_code(0).expect_said(&[&user]);
    host.terminate(PATIENCE).expect_code(0);
    assert!(!path.exists(), "a host that stops takes its socket along");
    admin("status", &[]).expect_code(3).expect_said(&["--admin unix:"]);
}

#[test]
fn a_token_also_holds_at_a_unix_socket() {
    let config = Settings::default().over_kafka("127.0.0.1:1", "t").to_toml();
    let admin = "[admin]\nlisten = \"unix:{dir}/s\"\ntoken_file = \"token\"\n";
    let pipeline = Pipeline::new(&format!("{config}\n{admin}"));
    pipeline.write("token", b"for who may deploy");
    let mut host = pipeline.spawn(&[]);
    host.wait_logged("admin-api-listening");
    let name = format!("unix:{}", pipeline.path("s").display());
    pipeline.call("status", &["--admin", &name]).expect_code(2).expect_said(&["token is missing or wrong"]);
    pipeline.call("status", &["--admin", &name, "--token-file", "token"]).expect_code(0);
    host.kill();
}
