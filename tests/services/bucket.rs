//! State in a bucket: nothing of a host lies on its machine, an outage of the bucket changes no row, and rights that are missing are refused at
//! start. Needs the feature `cloud`.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::service::{Kind, start};
use crate::support::generate::{TestRecord, generate};
use crate::support::host::{PATIENCE, Pipeline, Running};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::rows::{assert_same, sorted};
use crate::support::scrape::Host;
use crate::support::settings::{ADMIN, Settings};
use crate::tables::{SESSIONS, Tables};
use crate::topics::{create_topic, produce, read_back};

/// A way to the bucket that can be cut.
struct Line {
    port: u16,
    is_cut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Line {
    fn to(port: u16) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let own = listener.local_addr().expect("it is bound").port();
        let (is_cut, streams) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let line = Line { port: own, is_cut: Arc::clone(&is_cut), streams: Arc::clone(&streams) };
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Some(far) =
                    TcpStream::connect(("127.0.0.1", port)).ok().filter(|_| !is_cut.load(Ordering::Relaxed))
                else {
                    continue;
                };
                let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
                streams.lock().expect("nobody panics while holding it").extend([clone(&near), clone(&far)]);
                for (mut from, mut to) in [(clone(&near), clone(&far)), (far, near)] {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        line
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        for stream in self.streams.lock().expect("nobody panics while holding it").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}

/// A host with the bucket's credentials in a new folder: a machine of which nothing is known.
fn host(settings: &Settings, line: &Line, more: &str) -> (Pipeline, Running) {
    let toml = settings.to_toml().replace("file://{dir}/state", "s3://keyfold/pipelines/one");
    let toml = toml.replace("file = \"dead-letters.ndjson\"", "topic = \"in-a-bucket-letters\"");
    let pipeline = Pipeline::new(&format!("{toml}{more}{ADMIN}stuck_after = \"1s\"\n"));
    let mut command = pipeline.command("run", &[]);
    let endpoint = format!("http://127.0.0.1:{}", line.port);
    command.env("AWS_ENDPOINT", endpoint).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "eu-west-1");
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    let running = pipeline.start(command);
    (pipeline, running)
}

#[test]
fn a_host_without_a_disk_goes_on_where_another_was_killed_and_waits_for_its_bucket() {
    let (Some(brokers), Some(port)) = (crate::kafka(), crate::cassandra()) else { return };
    let Some(bucket) = start(Kind::Bucket) else { return };
    let line = Line::to(bucket.port());
    create_topic(&brokers, "in-a-bucket", 1, &[]);
    create_topic(&brokers, "in-a-bucket-letters", 1, &[]);
    let tables = Tables::connect(port);
    tables.create("in_a_bucket", SESSIONS);
    let settings = Settings { checkpoint_interval: "200ms".to_owned(), ..Settings::default() };
    let settings = settings.over_kafka(&brokers, "in-a-bucket").into_cql(port, "in_a_bucket");
    // In one partition: the order in which two become visible would be the journal's to know, and not the model's.
    let log: Vec<TestRecord> =
        generate(6_000, 100, 7).into_iter().map(|record| TestRecord { partition: 0, ..record }).collect();
    let parts: Vec<&[TestRecord]> = log.chunks(2_000).collect();

    produce(&brokers, "in-a-bucket", parts[0]);
    let (_first, mut running) = host(&settings, &line, "");
    let told = Host::of(&mut running);
    told.wait_for(&mut running, "keyfold_records_total{lane=\"topic\"}", 2_000.0);
    running.wait_until("a checkpoint lies in the bucket", || {
        told.metrics().value("keyfold_checkpoints_total{lane=\"topic\"}") > 0.0
    });
    running.kill();

    produce(&brokers, "in-a-bucket", parts[1]);
    let (second, mut running) = host(&settings, &line, "");
    let told = Host::of(&mut running);
    let starts = running.wait_logged("lane-started");
    assert_eq!(starts["from_checkpoint"], true, "{starts}");
    assert!(!second.path("state").exists(), "nothing lies on the machine");
    told.wait_for(&mut running, "keyfold_lag_records{lane=\"topic\"}", 0.0);

    line.cut();
    produce(&brokers, "in-a-bucket", parts[2]);
    told.wait_for(&mut running, "keyfold_state_up", 0.0);
    thread::sleep(Duration::from_millis(1_500)); // longer than a step may take
    assert!(told.says_yes("/livez"), "{}", told.get("/livez").1);
    assert!(!told.says_yes("/readyz"));
    line.mend();
    told.wait_for(&mut running, "keyfold_state_up", 1.0);
    told.wait_for(&mut running, "keyfold_lag_records{lane=\"topic\"}", 0.0);
    running.terminate(PATIENCE).expect_code(0);
    let want =
        model::run(Visits::new(SessionId::Record), &read_back(&brokers, "in-a-bucket"), Time::default()).values();
    assert_same("in a bucket", &tables.sessions("in_a_bucket"), &sorted(want));

    // A place that does not answer is refused when the start has waited long enough.
    line.cut();
    let (_third, running) = host(&settings, &line, "startup_timeout = \"1s\"\n");
    running.wait(PATIENCE).expect_code(3).expect_said(&["state.url", "log/pipeline.json cannot be read"]);
}
