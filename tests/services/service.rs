//! Starts a real broker or database, or makes a container, for a test process and ends it with that process, however that ends: the script
//! `tied.sh` waits for the end of a pipe of which this process holds the other end.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::support::host::KEYFOLD;

/// What can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One Kafka broker.
    Kafka,
    /// One CQL node: Cassandra from Maven artefacts, ScyllaDB from Docker.
    Cassandra,
    /// The image of the program under test, and a volume: what `container.sh` needs to run it.
    Container,
    /// A bucket `keyfold` with the API of S3.
    #[cfg_attr(not(feature = "cloud"), expect(dead_code, reason = "only a host with clouds has state in a bucket"))]
    Bucket,
}

/// A service that runs as long as this process, or as long as the value if that is dropped before.
#[derive(Debug)]
pub(crate) struct Service {
    command: Vec<String>,
    environment: Vec<(&'static str, String)>,
    port: u16,
    tie: Child,
}

static KAFKA: OnceLock<Option<Service>> = OnceLock::new();
static CASSANDRA: OnceLock<Option<Service>> = OnceLock::new();

/// Bootstrap address of the broker that all tests of this process share. None: skip the test, the reason was printed.
pub(crate) fn kafka() -> Option<String> {
    KAFKA.get_or_init(|| start(Kind::Kafka)).as_ref().map(Service::address)
}

/// CQL port on 127.0.0.1 of the database that all tests of this process share. None: skip the test, the reason was printed.
pub(crate) fn cassandra() -> Option<u16> {
    CASSANDRA.get_or_init(|| start(Kind::Cassandra)).as_ref().map(|service| service.port)
}

/// A service of its own, for tests that stop it. None where it cannot be had; fails instead when `CI` is set.
pub(crate) fn start(kind: Kind) -> Option<Service> {
    start_in(kind, &[])
}

/// A second node of this database's cluster, at an address of its own.
pub(crate) fn join(first: &Service) -> Option<Service> {
    let storage = first.variable("CASSANDRA_STORAGE_PORT");
    let half_of_the_ring = i64::MAX / 2;
    start_in(
        Kind::Cassandra,
        &[
            ("CASSANDRA_ADDRESS", "127.0.0.2".to_owned()),
            ("CASSANDRA_SEED", format!("127.0.0.1:{storage}")),
            ("CASSANDRA_TOKEN", half_of_the_ring.to_string()),
        ],
    )
}

/// A broker whose clock is ahead by this.
pub(crate) fn start_ahead(shift: &str) -> Option<Service> {
    start_in(Kind::Kafka, &[("CLOCK_SHIFT", shift.to_owned())])
}

/// The same, told this beside.
pub(crate) fn start_in(kind: Kind, more: &[(&'static str, String)]) -> Option<Service> {
    let mut reasons = Vec::new();
    for command in ways(kind, &mut reasons) {
        match Service::start(kind, command, more) {
            Ok(service) => return Some(service),
            Err(reason) => reasons.push(reason),
        }
    }
    let reason = reasons.join("; ");
    assert!(!std::env::var("CI").is_ok_and(|ci| !ci.is_empty()), "{kind:?} cannot be started: {reason}");
    // Not eprintln!: the test harness would keep it to itself when the test passes.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: tests on real {kind:?}, it cannot be started: {reason}\n");
    None
}

/// The commands that may start it, in the order in which they are tried.
fn ways(kind: Kind, reasons: &mut Vec<String>) -> Vec<Vec<String>> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services");
    let script = |name: &str| scripts.join(name).to_string_lossy().into_owned();
    let name = match kind {
        Kind::Kafka => "kafka",
        Kind::Cassandra => "cassandra",
        Kind::Container => "container",
        Kind::Bucket => "bucket",
    };
    let mut ways = Vec::new();
    // What has one way, and the tools for that.
    let tools: &[&str] = match kind {
        Kind::Container => &["buildah", "podman", "runc"],
        Kind::Bucket => &["python3", "curl"],
        Kind::Kafka | Kind::Cassandra => &[],
    };
    if !tools.is_empty() {
        if tools.iter().all(|tool| works(tool, "--version")) {
            ways.push(vec!["bash".to_owned(), script(&format!("{name}.sh"))]);
        } else {
            reasons.push(format!("needs {}", tools.join(", ")));
        }
        return ways;
    }
    let cached = services_lib().join(name).join(".complete").exists();
    if works("java", "-version") && (cached || works("mvn", "-version")) {
        ways.push(vec!["bash".to_owned(), script(&format!("{name}.sh"))]);
    } else {
        reasons.push("from Maven artefacts: needs java and mvn".to_owned());
    }
    if works("docker", "info") {
        ways.push(vec!["bash".to_owned(), script("docker.sh"), name.to_owned()]);
    } else {
        reasons.push("from Docker: no daemon answers".to_owned());
    }
    ways
}

fn works(program: &str, argument: &str) -> bool {
    let status =
        Command::new(program).arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Where the jars are kept between runs.
fn services_lib() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/services-lib");
    std::env::var_os("SERVICES_LIB").map_or_else(default, PathBuf::from)
}

impl Service {
    fn start(kind: Kind, command: Vec<String>, more: &[(&'static str, String)]) -> Result<Service, String> {
        // tied.sh removes the folder, after this process is gone.
        let data =
            tempfile::Builder::new().prefix("keyfold-service-").tempdir().map_err(|error| error.to_string())?.keep();
        let [port, second] = free_ports();
        let mut environment = Vec::from(match kind {
            Kind::Kafka => [("KAFKA_PORT", port.to_string()), ("KAFKA_CONTROLLER_PORT", second.to_string())],
            Kind::Cassandra => [("CQL_PORT", port.to_string()), ("CASSANDRA_STORAGE_PORT", second.to_string())],
            Kind::Bucket => [("BUCKET_PORT", port.to_string()), ("PYTHONUNBUFFERED", "1".to_owned())],
            Kind::Container => [("KEYFOLD_ADMIN__LISTEN", format!("127.0.0.1:{port}")), ("BINARY", KEYFOLD.to_owned())],
        });
        environment.push(("DATA_DIR", data.to_string_lossy().into_owned()));
        environment.push(("SERVICES_LIB", services_lib().to_string_lossy().into_owned()));
        environment.extend_from_slice(more);
        let tie = tie(&command, &environment, &data)?;
        Ok(Service { command, environment, port, tie })
    }

    /// `127.0.0.1:port`
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port that clients connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What its script was told.
    pub(crate) fn variable(&self, name: &str) -> &str {
        &self.environment.iter().find(|(known, _)| *known == name).expect("set at start").1
    }

    /// An outage begins.
    pub(crate) fn stop(&self) {
        self.call("stop");
    }

    /// An outage ends; back when the service answers.
    pub(crate) fn start_again(&self) {
        self.call("start");
    }

    /// The service's script with another verb of its own.
    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).arg(verb).envs(self.environment.clone()).stdin(Stdio::null());
        command
    }

    /// The same, which must succeed. Every service's script can `stop` and `start` it; those of Kafka and Cassandra also `kill` it (-9), and
    /// `pause` and `resume` it.
    pub(crate) fn call(&self, verb: &str) {
        let output = self.command(verb).output().expect("bash is there");
        assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.tie.stdin.take());
        let _ = self.tie.wait();
    }
}

/// Runs `tied.sh` in a process group of its own, so that Ctrl-C leaves it to clean up, and waits until the service is ready.
fn tie(command: &[String], environment: &[(&'static str, String)], data: &Path) -> Result<Child, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/tied.sh");
    let complaints = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let stderr = complaints.reopen().map_err(|error| error.to_string())?;
    let mut tied = Command::new("bash");
    tied.arg(script).args(command).envs(environment.iter().cloned()).process_group(0);
    tied.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = tied.spawn().map_err(|error| format!("cannot run bash: {error}"))?;
    let said = BufReader::new(child.stdout.take().expect("piped above")).lines();
    if said.map_while(Result::ok).any(|line| line == "ready") {
        return Ok(child);
    }
    let _ = child.wait();
    let complaints = std::fs::read_to_string(complaints.path()).unwrap_or_default();
    let last: Vec<&str> = complaints.lines().rev().take(3).collect();
    Err(format!("{}: {}", command.join(" "), last.join(" | "))).inspect_err(|_| drop(std::fs::remove_dir_all(data)))
}

/// Two ports that are free now.
pub(crate) fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("the system has a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound listener has an address").port())
}
