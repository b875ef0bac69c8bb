//! A client at the probes' own address, or at the admin API beside it: neither can use up what the other answers with.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::client::{HALF_OPEN, allow_descriptors, limited, open_halfway};
use super::peak_now;
use crate::support::host::{PATIENCE, Pipeline, Running};
use crate::support::mock::{produce, visits_from};
use crate::support::scrape::Host;
use crate::support::settings::{ADMIN, Settings};

const PROBES: &str = "probes = \"127.0.0.1:0\"\n";
const FOLDED: &str = "keyfold_records_total{lane=\"topic\"}";

/// A host with few file descriptors that folds a topic; its admin API, and its probes.
fn start(brokers: &str, topic: &str) -> (Pipeline, Running, Host, Host) {
    let settings = Settings { checkpoint_interval: "200ms".to_owned(), ..Settings::default() };
    let pipeline = Pipeline::new(&format!("{}{ADMIN}{PROBES}", settings.over_kafka(brokers, topic).to_toml()));
    let mut running = limited(&pipeline);
    let (admin, probes) = (Host::of(&mut running), Host::probes_of(&mut running));
    (pipeline, running, admin, probes)
}

#[test]
fn a_flood_of_the_admin_api_leaves_the_probes_own_address_alone_and_the_other_way_round() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("flooded", 1, 1).expect("a new topic");
    let (_pipeline, mut running, admin, probes) = start(&brokers, "flooded");
    let wanted = allow_descriptors(HALF_OPEN);
    let mut folded = 0.0;
    for (flooded, asked, second) in [(&admin, &probes, 0), (&probes, &admin, 1_000)] {
        let half_open = open_halfway(flooded, wanted);
        produce(&brokers, "flooded", &visits_from(second, 1, |i| i));
        folded += 40.0;
        asked.wait_for(&mut running, FOLDED, folded);
        for probe in ["/livez", "/readyz", "/startupz"] {
            assert!(asked.says_yes(probe), "{probe}");
        }
        assert!(flooded.says_yes("/livez"));
        assert_eq!(half_open.len(), wanted);
    }
    let peak = peak_now(&running).unwrap_or(0);
    println!("twice {wanted} half-open connections: {peak} MiB");
    assert!(peak < 600, "{peak} MiB");
    running.terminate(PATIENCE).expect_code(0);
}

#[test]
fn the_probes_own_address_answers_probes_and_metrics_and_nothing_else() {
    let settings = Settings { run: "startup_timeout = \"1h\"".to_owned(), ..Settings::default() };
    let pipeline = Pipeline::new(&format!("{}{ADMIN}{PROBES}", settings.over_kafka("127.0.0.1:1", "t").to_toml()));
    let mut running = pipeline.spawn(&[]);
    let probes = Host::probes_of(&mut running);
    assert!(probes.says_yes("/livez"));
    assert!(!probes.says_yes("/readyz") && !probes.says_yes("/startupz"), "the host is starting");
    assert!(probes.metrics().has("keyfold_live"));
    for path in ["/", "/v1/status", "/v1/deployments", "/v1/withdraw", "/v1/shadow", "/livez/../v1/status", "/healthz"]
    {
        assert_eq!(probes.get(path).0, 404, "{path}");
    }
    let url = probes.url().to_owned();
    pipeline.call("deployment list", &["--admin", &url]).expect_said(&["404"]);
    running.kill();
}
