//! Rights that a run, a deployment or a withdrawal needs: those that are missing are refused by name before anything is folded.

use keyfold::symptom::Symptom;

use crate::service::{Kind, Service, start, start_in};
use crate::support::doctor::{doctor, ids};
use crate::support::host::{Pipeline, wait_until};
use crate::support::settings::Settings;
use crate::tables::{SESSIONS, Tables};
use crate::topics::create_topic;

/// Changes what users may do; everybody may do everything with what nobody has a right to.
fn acl(broker: &Service, arguments: &[&str]) {
    let output = broker.command("acl").args(arguments).output().expect("bash is there");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_right_that_is_missing_on_a_topic_is_refused_by_name() {
    let Some(broker) = start(Kind::Kafka) else { return };
    let brokers = broker.address();
    ["read", "hidden", "open", "letters"].iter().for_each(|topic| create_topic(&brokers, topic, 1, &[]));
    let pipeline = |topic: &str, letters: &str| {
        let toml = Settings::default().over_kafka(&brokers, topic).to_toml();
        Pipeline::new(&toml.replace("file = \"dead-letters.ndjson\"", letters))
    };
    let grant = |topic: &str, who: &str, operation: &str| {
        acl(&broker, &["--add", "--allow-principal", who, "--operation", operation, "--topic", topic]);
    };
    grant("read", "User:other", "Read");
    grant("read", "User:*", "Describe");
    grant("hidden", "User:other", "Read");
    grant("letters", "User:other", "Write");
    grant("letters", "User:*", "Describe");
    acl(&broker, &["--add", "--allow-principal", "User:other", "--operation", "Read", "--group", "under-test"]);

    for topic in ["read", "hidden"] {
        let denied = pipeline(topic, "file = \"dead-letters.ndjson\"");
        let said = format!("refuse to let this user read topic {topic}: grant it READ");
        denied.call("check", &[]).expect_code(3).expect_said(&[&said]);
        denied.run_to_end(&["--until-end"]).expect_code(3).expect_said(&[&said]);
        let found = ids(&doctor(&denied, 3));
        assert!(found.iter().any(|id| id == "topic-refused"), "{topic}: {found:?}");
    }

    let mute = pipeline("open", "topic = \"letters\"");
    let said = "refuse to let this user write to topic letters: grant it WRITE";
    mute.call("check", &[]).expect_code(3).expect_said(&[said]);
    mute.run_to_end(&["--until-end"]).expect_code(3).expect_said(&[said]);

    // Without a right on the group only lag tools lack something.
    let open = pipeline("open", "file = \"dead-letters.ndjson\"");
    open.run_to_end(&["--until-end"]).expect_code(0);
    let found = doctor(&open, 0);
    assert!(ids(&found).iter().any(|id| id == Symptom::RightMissing.name()), "{found:?}");
}

#[test]
fn a_right_that_is_missing_on_a_table_is_refused_by_name() {
    let (Some(brokers), Some(database)) =
        (crate::kafka(), start_in(Kind::Cassandra, &[("CASSANDRA_AUTH", "1".to_owned())]))
    else {
        return;
    };
    create_topic(&brokers, "rights", 1, &[]);
    let tables = Tables::connect_as(database.port(), "cassandra", "cassandra");
    tables.create("rights", SESSIONS);
    tables.execute("CREATE ROLE fold WITH PASSWORD = 'a password' AND LOGIN = true");
    let settings = Settings::default().over_kafka(&brokers, "rights").into_cql(database.port(), "rights");
    let sink = format!("{}\nuser = \"fold\"\npassword = \"a password\"", settings.sink);
    let pipeline = Pipeline::new(&Settings { sink, ..settings }.to_toml());
    // What a user may do is known to the database after a while.
    let says = |words: &str| {
        let mut last = String::new();
        wait_until(&format!("the check says {words:?}"), || {
            let outcome = pipeline.call("check", &[]);
            last = format!("{}{}", outcome.stdout, outcome.stderr);
            last.contains(words)
        });
    };
    says("lacks the right MODIFY on table rights.sessions");
    pipeline.run_to_end(&["--until-end"]).expect_code(3).expect_said(&["GRANT MODIFY ON rights.sessions TO fold"]);
    tables.execute("GRANT MODIFY ON rights.sessions TO fold");
    says("lacks the right SELECT on table rights.sessions");
    tables.execute("GRANT SELECT ON rights.sessions TO fold");
    says("ok    table rights.sessions");
    pipeline.run_to_end(&["--until-end"]).expect_code(0);
    assert!(tables.sessions("rights").is_empty(), "the check has written nothing");
}
