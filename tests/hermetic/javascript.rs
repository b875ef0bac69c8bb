//! Plugins in JavaScript and TypeScript: the path of their authors, what they get wrong, and the seed's `visits` beside the built-in one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::author::{BUILD_PATIENCE, has_node, shell};
use crate::support::generate::{TestRecord, generate, write_records};
use crate::support::guide::{commands, root, section};
use crate::support::host::{KEYFOLD, Outcome, PATIENCE, Pipeline};
use crate::support::rows::{assert_same, from_ndjson, sorted};
use crate::support::settings::Settings;

/// The program in a folder.
fn keyfold(pipeline: &Pipeline, folder: &str, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(KEYFOLD);
    command.args(arguments).current_dir(pipeline.path(folder)).stdin(Stdio::null());
    pipeline.start(command).wait(BUILD_PATIENCE)
}

/// Copies a folder, but for what npm and the build have put into it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the test's folder is writable");
    for entry in std::fs::read_dir(from).expect("a folder of this repository") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("readable");
        if path.is_file() {
            std::fs::copy(&path, to.join(name)).expect("the test's folder is writable");
        } else if name != "node_modules" && name != "build" {
            copy(&path, &to.join(name));
        }
    }
}

#[test]
fn the_sdk_keeps_the_rules_of_the_contract() {
    if !has_node() {
        return;
    }
    let folder = Pipeline::new("");
    let mut node = Command::new("node");
    node.arg("--test").arg(root().join("plugins/javascript/tests/sdk.test.mjs")).stdin(Stdio::null());
    folder.start(node).wait(PATIENCE).expect_code(0);
}

/// The guide's section, word by word.
#[test]
fn from_an_empty_folder_to_rows_in_javascript() {
    if !has_node() {
        return;
    }
    let commands = commands(&section("In JavaScript or TypeScript"));
    assert_eq!(commands.lines().count(), 5, "{commands}");
    let folder = Pipeline::new("");
    let done = shell(&folder, ".", &commands);
    done.expect_code(0).expect_said(&[
        "start with src/plugin.js",
        "ok    first: 7 rows, 1 dead letters, 0 log lines; the same when folded whole, in batches of 1",
        "build/counts.wasm",
        "counts 0.1.0, state version 1",
        "imports nothing",
        "table counts: user text (primary key)",
    ]);
    let rows = Connection::open(folder.path("counts/rows.db")).expect("a database");
    let sum = rows.query_row("SELECT count(*), sum(actions) FROM counts", [], |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(sum.expect("the table is there"), (7, 9));
    assert_eq!(from_ndjson(&folder.path("counts/dead-letters.ndjson")).len(), 1);
}

/// A plugin in TypeScript that gets something wrong for each of its users.
const WRONG: &str = r#"
import { json, plugin } from 'keyfold-sdk';

type Kept = { actions: number };

const wrong: Record<string, (row: (actions: any) => void) => void> = {
  ann: () => {
    throw new Error('no ann');
  },
  bob: (row) => row('many'),
  cat: (row) => row(Date.now()),
  dan: (row) => row(2 ** 53),
};

export const mapper = plugin({
  describe: { tables: { counts: { key: { user: 'text', until: 'timestamp' }, columns: { actions: 'integer' } } } },
  value: json<Kept>(),
  map(record, out) {
    const { user, time } = record.json() as { user: string; time: number };
    console.log('mapped', user, Math.max(time, 0) > 0);
    out.push(user, time);
  },
  onEvent(key, event) {
    wrong[key.name]?.((actions) => key.row('counts', { user: key.name, until: event.time, actions }));
    key.put({ actions: (key.value()?.actions ?? 0) + 1 });
  },
  onTimer() {},
});
"#;

/// What it must say of each: the record, and words of the reason.
const SAID: &[(u64, &[&str])] = &[
    (0, &["no ann"]),
    (1, &["table counts: actions is a string, not an integer (src/plugin.ts:"]),
    (6, &["Date.now() cannot be used: a plugin has no clock"]),
    (7, &["payload is not JSON"]),
    (10, &["table counts: actions is 9007199254740992", "use a BigInt", "(src/plugin.ts:"]),
];

#[test]
fn what_authors_get_wrong_is_told_and_typescript_builds() {
    if !has_node() {
        return;
    }
    let parent = Pipeline::new("");
    keyfold(&parent, ".", &["plugin", "new", "counts", "--lang", "javascript"]).expect_code(0);
    let file = |name: &str| parent.path("counts").join(name);
    let write = |name: &str, text: &str| std::fs::write(file(name), text).expect("the folder is writable");

    // State in a variable of the module.
    let lawful = std::fs::read_to_string(file("src/plugin.js")).expect("it was made");
    let kept = lawful.replace("key.put((key.value() ?? 0) + 1)", "key.put((key.value() ?? 0) + ++seen)");
    assert_ne!(kept, lawful, "the source has it");
    write("src/plugin.js", &format!("{kept}\nlet seen = 0;\n"));
    let tested = keyfold(&parent, "counts", &["plugin", "test"]);
    tested.expect_code(1).expect_said(&["FAIL  first: the plugin breaks the law", "no statics"]);

    // A mistake in the source, by its place.
    let begins = "export const mapper = plugin({";
    let line = lawful.lines().position(|line| line == begins).expect("the source has it") + 1;
    let at = format!("src/plugin.js:{line}");
    write("src/plugin.js", &lawful.replace(begins, "export const mapper = plugin({ ;"));
    keyfold(&parent, "counts", &["plugin", "build"]).expect_code(4).expect_said(&[at.as_str(), "does not build"]);
    write("src/plugin.js", &lawful.replace("until: 'timestamp'", "until: 'time'"));
    let built = keyfold(&parent, "counts", &["plugin", "build"]);
    built.expect_code(4).expect_said(&["the type of until is \"time\", not one of boolean, ", at.as_str()]);

    write("src/plugin.ts", WRONG);
    keyfold(&parent, "counts", &["plugin", "test", "--update"]).expect_code(0).expect_said(&["ok    first"]);
    let letters = from_ndjson(&file("golden/first/dead-letters.ndjson"));
    for (offset, words) in SAID {
        let letter = letters.iter().find(|letter| letter["offset"] == json!(offset));
        let reason = letter.and_then(|letter| letter["reason"].as_str()).unwrap_or_default();
        assert!(words.iter().all(|words| reason.contains(words)), "record {offset}: {words:?} in {reason:?}");
    }
    let logs = std::fs::read_to_string(file("golden/first/logs.ndjson")).expect("the console is the host's log");
    assert!(logs.contains("mapped ann true"), "{logs}");
}

/// `plugins/javascript/visits`, built; by its own script, since the host need not look at it here.
fn visits(place: &Pipeline) -> PathBuf {
    for folder in ["sdk", "visits"] {
        copy(&root().join("plugins/javascript").join(folder), &place.path(folder));
    }
    copy(&root().join("wit"), &place.path("sdk/wit"));
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(place.path("visits"));
    place.start(npm).wait(BUILD_PATIENCE).expect_code(0);
    build(place);
    place.path("visits/build/visits.wasm")
}

fn build(place: &Pipeline) {
    let mut node = Command::new("node");
    node.arg("node_modules/keyfold-sdk/build.mjs").current_dir(place.path("visits")).stdin(Stdio::null());
    place.start(node).wait(BUILD_PATIENCE).expect_code(0).expect_said(&["build/visits.wasm"]);
}

/// Where a dead letter comes from.
fn place(letter: &Value) -> Value {
    json!([letter["partition"], letter["offset"], letter["stage"], letter["event"]])
}

/// The seed's walkthrough: append time, user, page, event time.
const WALKTHROUGH: [(i64, &str, &str, &str); 4] = [
    (1_727_873_508_000, "1", "A.html", "12:51:48"),
    (1_727_873_540_000, "1", "B.html", "12:52:20"),
    (1_727_873_555_000, "1", "C.html", "12:52:35"),
    (1_727_873_775_000, "2", "D.html", "12:56:15"),
];

fn walkthrough() -> Vec<TestRecord> {
    let record = |(offset, (timestamp, user, page, time)): (u64, (i64, &str, &str, &str))| TestRecord {
        partition: 0,
        offset,
        timestamp,
        key: None,
        value: Some(format!(r#"{{"user_id": {user}, "page": "{page}", "event_time": "2024-10-02T{time}"}}"#).into()),
    };
    (0..).zip(WALKTHROUGH).map(record).collect()
}

/// Forgets what ran before, but for the plugin that the host compiled.
fn begin_anew(pipeline: &Pipeline) {
    for name in ["rows.ndjson", "dead-letters.ndjson"] {
        if pipeline.path(name).exists() {
            std::fs::remove_file(pipeline.path(name)).expect("the test's folder is writable");
        }
    }
    for entry in std::fs::read_dir(pipeline.path("state")).into_iter().flatten() {
        let path = entry.expect("readable").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "cache") {
            std::fs::remove_dir_all(&path).expect("the test's folder is writable");
        }
    }
}

#[test]
fn visits_in_javascript_gives_the_rows_of_the_built_in_one() {
    if !has_node() {
        return;
    }
    let built = Pipeline::new("");
    let component = visits(&built);
    let written = || component.metadata().and_then(|file| file.modified()).expect("a file");
    let first = written();
    build(&built);
    assert_eq!(written(), first, "a component of the same sources is not built again");
    let component = component.to_string_lossy().into_owned();
    let pipeline = Pipeline::new("");
    let run = |settings: &Settings, records: &[TestRecord]| {
        begin_anew(&pipeline);
        write_records(&pipeline.path("log.ndjson"), records);
        pipeline.configure(&settings.to_toml());
        pipeline.run_to_end(&[]).expect_code(0);
        ["rows.ndjson", "dead-letters.ndjson"].map(|name| from_ndjson(&pipeline.path(name)))
    };
    let log = generate(20_000, 500, 11);
    for builtin in [Settings::default(), Settings::default().seed_ids()] {
        let ours = Settings { plugin: builtin.plugin.replace("builtin:visits", &component), ..builtin.clone() };
        let ([rows, letters], [our_rows, our_letters]) = (run(&builtin, &log), run(&ours, &log));
        assert!(rows.len() > 1_000 && letters.len() > 300, "{} rows, {} dead letters", rows.len(), letters.len());
        assert_same("rows", &our_rows, &rows);
        let places = |letters: &[Value]| sorted(letters.iter().map(place).collect());
        assert_same("dead letters", &places(&our_letters), &places(&letters));
    }
    let seed = Settings::default().seed_ids();
    let [table, _] =
        run(&Settings { plugin: seed.plugin.replace("builtin:visits", &component), ..seed }, &walkthrough());
    let row = |id: i64, user: i64, pages: &[&str]| json!({"table": "sessions", "session_id": id, "user_id": user, "pages": pages});
    let published = [
        row(-1_700_334_822_881_806_003, 1, &["A.html", "B.html", "C.html"]),
        row(9_081_782_675_340_903_552, 2, &["D.html"]),
    ];
    assert_same("the published table", &table, &published);
}
