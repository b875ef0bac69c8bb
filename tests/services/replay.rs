//! The replay tests of the file source, on a real topic: gaps in the offsets come from transactions, and the model folds what the broker
//! holds.

use std::sync::OnceLock;

use crate::support::case::{Case, Way, check};
use crate::support::generate::generate;
use crate::support::host::Pipeline;
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::random::{Random, seed};
use crate::support::rows::{assert_same, upserted};
use crate::support::settings::Settings;
use crate::tables::{SESSIONS, Tables};
use crate::topics::{create_topic, produce_in_transactions, read_back};

/// 200,000 records in a topic, and what the model makes of them.
fn large() -> Option<&'static Case> {
    static CASE: OnceLock<Option<Case>> = OnceLock::new();
    CASE.get_or_init(|| crate::kafka().map(|brokers| produced(&brokers, "replay", 200_000, 5_000))).as_ref()
}

fn produced(brokers: &str, topic: &str, events: usize, users: u64) -> Case {
    let seed = seed(20_241_003);
    create_topic(brokers, topic, 2, &[]);
    produce_in_transactions(brokers, topic, &generate(events, users, seed), seed);
    let log = read_back(brokers, topic);
    assert_eq!(log.len(), events, "what was committed, and nothing that was aborted");
    let lane = model::run(Visits::new(SessionId::Record), &log, Time::default());
    let settings = Settings::default().over_kafka(brokers, topic);
    Case {
        settings,
        records: log.len(),
        rows: lane.values(),
        counts: lane.counts,
        until_end: true,
        deploys: Vec::new(),
    }
}

fn vary(way: Way) -> u64 {
    large().map_or(u64::MAX, |case| check(case, way, &mut Random::new(seed(17))))
}

#[test]
fn a_topic_gives_the_rows_of_the_model() {
    vary(Way::PLAIN);
}

#[test]
fn a_topic_gives_the_same_rows_cut_by_1000_on_one_thread() {
    vary(Way { workers: 1, batch_records: 1_000, ..Way::PLAIN });
}

#[test]
fn a_topic_gives_the_same_rows_cut_by_7_on_four_threads() {
    vary(Way { workers: 4, batch_records: 7, ..Way::PLAIN });
}

#[test]
fn a_topic_gives_the_same_rows_after_its_checkpoint_was_deleted() {
    vary(Way { deletes: true, ..Way::PLAIN });
}

#[test]
fn a_topic_gives_the_same_rows_through_crashes() {
    let crashes = Way { batch_records: 1_000, crashes: true, ..Way::PLAIN };
    assert!((0..5).any(|_| vary(crashes) > 0), "no crash came after rows were written and before their checkpoint");
}

#[test]
fn no_page_is_doubled_or_lost_in_a_table_with_a_list() {
    let (Some(brokers), Some(port)) = (crate::kafka(), crate::cassandra()) else { return };
    let case = produced(&brokers, "replay-into-table", 20_000, 500);
    let tables = Tables::connect(port);
    tables.create("replayed", SESSIONS);
    let settings = case.settings.clone().into_cql(port, "replayed").bounded(2, 500);
    let pipeline = Pipeline::new(&Settings { checkpoint_interval: "50ms".to_owned(), ..settings }.to_toml());
    let want = upserted(&case.rows, &["session_id", "user_id"]);
    let mut random = Random::new(seed(19));
    for _ in 0..2 {
        for kill in 1..4 {
            let target = want.len() * kill / 5 + usize::try_from(random.below(200)).expect("small");
            let mut host = pipeline.spawn(&["--until-end"]);
            // The second time around the table is full already, and the kill comes at once.
            host.wait_until_or_end(|| tables.sessions("replayed").len() >= target);
            host.kill();
        }
        pipeline.run_to_end(&["--until-end"]).expect_code(0);
        assert_same("table", &tables.sessions("replayed"), &want);
        pipeline.delete_checkpoints();
    }
}
