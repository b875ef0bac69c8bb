//! The guide's path of an author on a real topic and a real database: the table that the check asks for, rows, and a change of the plugin
//! swapped into the running host.

use serde_json::{Value, json};

use crate::load::now_ms;
use crate::support::author::{Author, has_node};
use crate::support::generate::TestRecord;
use crate::support::guide::{blocks, commands, file_block, section};
use crate::support::host::{PATIENCE, instant_in};
use crate::support::rows::sorted;
use crate::tables::Tables;
use crate::topics::{create_topic, produce};

/// A language: what `plugin new` is told, and the source.
struct Language {
    arguments: &'static [&'static str],
    source: &'static str,
}

/// The built file, as the guide's pipeline names it.
const COMPONENT: &str = "target/wasm32-unknown-unknown/release/counts.wasm";

const RUST: Language = Language { arguments: &[], source: "src/lib.rs" };
const JAVASCRIPT: Language = Language { arguments: &["--lang", "javascript"], source: "src/plugin.js" };

/// What a user did at an event time; appended now.
fn action(user: &str, time: i64) -> TestRecord {
    let value = json!({"user": user, "time": time}).to_string().into_bytes();
    TestRecord { partition: 0, offset: 0, timestamp: now_ms(), key: None, value: Some(value) }
}

/// The path, with a topic and a keyspace of this name.
fn follow_the_guide(language: &Language, name: &str, brokers: &str, port: u16) {
    let guide = section("On a topic, into a database");
    assert_eq!(commands(&guide).lines().count(), 4, "the test does what the guide says");
    assert!(guide.contains("change `+ 1` to `+ 10`"), "the guide's change is the test's");
    let mut author = Author::new(language.arguments);
    let built = author.call("counts", &["plugin", "build"]);
    let component = built.expect_code(0).stdout.lines().next().expect("it names the file").to_owned();
    let pipeline = file_block(&blocks(&guide), "live.toml").replace("\"actions\"", &format!("\"{name}\""));
    let pipeline =
        pipeline.replace(COMPONENT, &component).replace("keyspace = \"counts\"", &format!("keyspace = \"{name}\""));
    std::fs::write(author.path("live.toml"), pipeline).expect("the folder is writable");
    author.set("KEYFOLD_SOURCE__KAFKA__BROKERS", brokers);
    author.set("KEYFOLD_SINK__CQL__NODES", &format!("127.0.0.1:{port}"));
    create_topic(brokers, name, 2, &[]);
    let tables = Tables::connect(port);
    tables.create_keyspace(name);

    let refused = author.call("counts", &["check", "-c", "live.toml"]);
    refused.expect_code(3).expect_said(&["CREATE TABLE"]);
    let (_, statement) = refused.stdout.split_once("CREATE TABLE").expect("just seen");
    tables.execute(&format!("CREATE TABLE{}", statement.lines().next().unwrap_or_default()));
    author.call("counts", &["check", "-c", "live.toml"]).expect_code(0);

    let mut host = author.spawn("counts", &["run", "-c", "live.toml", "--watch", &component, "--log-format", "json"]);
    let counts = || tables.rows(name, "counts", &["user", "until", "actions"]);
    let row = |user: &str, until: i64, actions: i64| -> Value {
        json!({"table": "counts", "user": user, "until": until, "actions": actions})
    };
    let window = 60_000;
    let began = now_ms() / window * window;
    produce(brokers, name, &[action("ann", began), action("ann", began + 1_000), action("bob", began + 2 * window)]);
    host.wait_until("the first window is written", || !counts().is_empty());
    assert_eq!(counts(), [row("ann", began + window, 2)]);

    author.change(language.source, &[("+ 1", "+ 10")]);
    author.call("counts", &["plugin", "build"]).expect_code(0);
    let ordered = host.wait_logged("watched-file-deployed");
    let t = instant_in(ordered["order"].as_str().expect("it says what was ordered"));
    host.wait_until("T", || now_ms() > t);
    let later = began + 10 * window;
    produce(brokers, name, &[action("cat", later), action("cat", later + 1_000), action("dan", later + 2 * window)]);
    let third = row("cat", later + window, 20);
    host.wait_until("a window of the new logic is written", || counts().contains(&third));
    host.wait_logged("swap-finished");
    let all = vec![row("ann", began + window, 2), row("bob", began + 3 * window, 1), third];
    assert_eq!(counts(), sorted(all));
    host.terminate(PATIENCE).expect_code(0);
}

#[test]
fn a_plugin_in_rust_comes_from_an_empty_folder_to_rows_in_the_database() {
    let (Some(brokers), Some(port)) = (crate::kafka(), crate::cassandra()) else { return };
    follow_the_guide(&RUST, "authored", &brokers, port);
}

#[test]
fn a_plugin_in_javascript_does_the_same() {
    let (Some(brokers), Some(port)) = (crate::kafka(), crate::cassandra()) else { return };
    if has_node() {
        follow_the_guide(&JAVASCRIPT, "authored_too", &brokers, port);
    }
}
