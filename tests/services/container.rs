//! The host in a container: the image of `docker/Dockerfile`, made of this build's program, with a root file system that is read-only, a user
//! who is not root, and one volume.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::seed;
use crate::service::{self, Kind, Service};
use crate::support::host::{Outcome, PATIENCE, Pipeline, Running, instant_in};
use crate::tables::{SESSIONS, Tables};
use crate::topics::{create_topic, produce_in_turn};

/// What `container.sh` makes, which knows the name.
const IMAGE: &str = "localhost/keyfold:@";

/// Image and volume, and what a host needs to know of the services.
struct Container {
    service: Service,
    environment: Vec<(&'static str, String)>,
    logs: Pipeline,
}

impl Container {
    /// None where there are no tools to make one: the reason was printed.
    fn new(environment: Vec<(&'static str, String)>) -> Option<Container> {
        let service = service::start(Kind::Container)?;
        Some(Container { service, environment, logs: Pipeline::new("") })
    }

    /// A verb of `container.sh`.
    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = self.service.command(verb);
        command.args(arguments).envs(self.environment.iter().cloned()).env("KEYFOLD_LOG_FORMAT", "json");
        command
    }

    /// `keyfold ...` in a container, watched by the test.
    fn run(&self, arguments: &[&str]) -> Running {
        self.logs.start(self.command("run", arguments))
    }

    /// `keyfold ...` in the container that runs.
    fn exec(&self, arguments: &[&str]) -> Outcome {
        self.logs.start(self.command("exec", arguments)).wait(PATIENCE)
    }

    /// What podman answers.
    #[track_caller]
    fn podman(&self, arguments: &[&str]) -> String {
        let outcome = self.logs.start(self.command("podman", arguments)).wait(PATIENCE);
        outcome.expect_code(0).stdout.trim().to_owned()
    }

    /// A field of the container that runs.
    fn inspect(&self, field: &str) -> String {
        self.podman(&["container", "inspect", "-f", &format!("{{{{{field}}}}}"), "@"])
    }

    /// When the process in it began, ms since 1970.
    fn started_ms(&self) -> i64 {
        self.inspect(".State.StartedAt.UnixMilli").parse().expect("a number")
    }
}

/// The image says how it is run, and the program itself says whether it is well; its size, MB.
fn assert_image(container: &Container) -> f64 {
    let image = container.podman(&["image", "inspect", IMAGE]);
    let image: Value = serde_json::from_str(&image).expect("podman writes JSON");
    let (image, config) = (&image[0], &image[0]["Config"]);
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/usr/local/bin/keyfold"]));
    assert_eq!(config["Cmd"], json!(["run"]));
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Volumes"], json!({"/var/lib/keyfold": {}}));
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(config["Labels"]["org.opencontainers.image.licenses"], env!("CARGO_PKG_LICENSE"));
    assert_eq!(image["Healthcheck"]["Test"], json!(["CMD", "/usr/local/bin/keyfold", "health"]));
    image["Size"].as_f64().expect("bytes") / 1e6
}

/// Past the harness, which keeps what a test that passes says to itself.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "\n{text}\n");
}

fn environment(brokers: &str, port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("KEYFOLD_SOURCE__KAFKA__BROKERS", brokers.to_owned()),
        ("KEYFOLD_SOURCE__KAFKA__TOPIC", "in-container".to_owned()),
        ("KEYFOLD_SINK__CQL__NODES", format!("127.0.0.1:{port}")),
        ("KEYFOLD_SINK__CQL__KEYSPACE", "in_container".to_owned()),
    ]
}

/// Users and pages without the ids, which are those of the day.
fn pages(tables: &Tables, user: i64) -> Vec<Value> {
    let rows = tables.sessions("in_container");
    rows.iter().filter(|row| row["user_id"] == user).map(|row| row["pages"].clone()).collect()
}

/// Visits three minutes apart, appended from `t` on: two sessions by the first configuration, one by the second.
fn after(t: i64) -> Vec<crate::support::generate::TestRecord> {
    let visits = [(3, "E.html", "05:00:00"), (3, "F.html", "05:03:00"), (4, "G.html", "06:00:00")];
    let visits = visits.into_iter().zip(t..);
    visits.map(|((user, page, time), t)| seed::visit(0, t, user, page, &format!("2023-02-20T{time}"))).collect()
}

/// Another timeout, in force from the instant that is given back.
fn swap(container: &Container) -> i64 {
    let config = json!({"session_timeout": "10m", "session_id": "append-second"}).to_string();
    let ordered = container.exec(&["deployment", "create", "--plugin-config", &config, "--reason", "longer sessions"]);
    ordered.expect_code(0).expect_said(&["holds from"]);
    instant_in(&ordered.stdout)
}

#[test]
fn the_walkthrough_holds_with_the_host_in_a_container_killed_and_swapped() {
    let (Some(brokers), Some(port)) = (crate::kafka(), crate::cassandra()) else { return };
    let Some(container) = Container::new(environment(&brokers, port)) else { return };
    let tables = Tables::connect(port);
    tables.create("in_container", SESSIONS);
    create_topic(&brokers, "in-container", 2, &[]);
    create_topic(&brokers, "visits.dead-letters", 1, &[]);
    let megabytes = assert_image(&container);

    produce_in_turn(&brokers, "in-container", &seed::a_and_b());
    let mut host = container.run(&["run"]);
    produce_in_turn(&brokers, "in-container", &seed::c());
    host.wait_until("user 1's session is written", || !tables.sessions("in_container").is_empty());
    assert_eq!(tables.sessions("in_container"), [seed::first_row()]);
    let written = seed::written_ms(&tables, "in_container");
    let first_ms = written - container.started_ms();
    assert_eq!(container.inspect(".HostConfig.ReadonlyRootfs"), "true");
    assert_eq!(container.inspect("len .Mounts"), "1");
    container.podman(&["healthcheck", "run", "@"]);
    let t = swap(&container);
    container.podman(&["kill", "@"]);
    host.wait(PATIENCE).expect_code(137);

    container.run(&["reset"]).wait(PATIENCE).expect_code(0);
    let mut host = container.run(&["run"]);
    host.wait_until("user 1's session is written again", || seed::written_ms(&tables, "in_container") > written);
    let again_ms = seed::written_ms(&tables, "in_container") - container.started_ms();
    produce_in_turn(&brokers, "in-container", &seed::d());
    host.wait_until("user 2's session is written", || tables.sessions("in_container").len() > 1);
    assert_eq!(tables.sessions("in_container"), [seed::first_row(), seed::second_row()]);
    produce_in_turn(&brokers, "in-container", &after(t));
    host.wait_until("the sessions after the swap are written", || !pages(&tables, 4).is_empty());
    assert_eq!(pages(&tables, 3), [json!(["E.html", "F.html"])], "one session, by the swapped configuration");

    let told = Instant::now();
    container.podman(&["stop", "-t", "30", "@"]);
    host.wait(PATIENCE).expect_code(0).logged("lane-stopped");
    assert!(told.elapsed() < Duration::from_secs(10), "it took {:?} to stop", told.elapsed());
    tell(&format!(
        "image: {megabytes:.1} MB; from the start of the process to the first row: {first_ms} ms, after reset and a new start {again_ms} ms"
    ));
}
