//! The path of an author, from an empty folder to rows, with nothing of this repository but the program; and what its golden tests find.

use rusqlite::Connection;
use serde_json::json;

use crate::support::author::{Author, shell};
use crate::support::guide::{blocks, commands, section};
use crate::support::host::Pipeline;
use crate::support::rows::from_ndjson;

/// The guide's ten minutes, and the sections that go on in the same folder, word by word.
#[test]
fn from_an_empty_folder_to_rows() {
    let folder = Pipeline::new("");
    let done = shell(&folder, ".", &commands(&section("Ten minutes")));
    done.expect_code(0).expect_said(&[
        "ok    first: 7 rows, 1 dead letters, 0 log lines; the same when folded whole, in batches of 1",
        "counts 0.1.0, state version 1",
        "imports nothing",
        "table counts: user text (primary key)",
        "CQL     CREATE TABLE ks.counts (user text, until timestamp, actions bigint, PRIMARY KEY (user, until));",
        "SQLite  CREATE TABLE IF NOT EXISTS \"counts\"",
        "configuration: {",
    ]);
    assert_eq!(
        done.stdout.lines().filter(|line| line.starts_with("{\"table\":\"counts\"")).count(),
        7,
        "{}",
        done.stdout
    );
    assert_eq!(done.stderr.lines().filter(|line| line.starts_with("dead letter: ")).count(), 1, "{}", done.stderr);
    let rows = Connection::open(folder.path("counts/rows.db")).expect("a database");
    let sum = rows.query_row("SELECT count(*), sum(actions) FROM counts", [], |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(sum.expect("the table is there"), (7, 9));
    assert_eq!(from_ndjson(&folder.path("counts/dead-letters.ndjson")).len(), 1);
    let tested = shell(&folder, "counts", &commands(&section("Testing")));
    tested.expect_code(0).expect_said(&["ok    first: 7 rows", "\"user\":\"ann\""]);
    let measured = shell(&folder, "counts", &commands(&section("What it costs")));
    measured.expect_code(0).expect_said(&["200000 records, 200000 events", "natively", "map-records", "in all"]);
    let line = measured.stdout.lines().find(|line| line.starts_with("map-records")).expect("just seen");
    assert_eq!(line.split_whitespace().count(), 6, "ns, fuel, calls, natively, ratio: {line}");
}

/// The guide's change of the state, and its deployment: windows that were open go on with the number that they had.
#[test]
fn a_state_is_migrated_as_the_guide_says() {
    let author = Author::new(&[]);
    let guide = section("Versions and migration");
    let build = || {
        let built = author.call("counts", &["plugin", "build"]);
        built.expect_code(0).stdout.lines().next().expect("it names the file").to_owned()
    };
    let first = author.path("first.wasm");
    std::fs::copy(build(), &first).expect("the folder is writable");
    let component = first.to_string_lossy().into_owned();
    author.change("keyfold.toml", &[("target/wasm32-unknown-unknown/release/counts.wasm", &component)]);
    author.call("counts", &["run"]).expect_code(0);

    let change = blocks(&guide).into_iter().find(|block| block.language == "diff").expect("the guide shows the change");
    std::fs::write(author.path("change.diff"), change.text).expect("the folder is writable");
    let applied =
        std::process::Command::new("git").args(["apply", "change.diff"]).current_dir(author.path(".")).status();
    assert!(applied.expect("git is there").success(), "the guide's change fits the plugin");
    let last_ms = 1_767_226_000_500_i64;
    let at = (last_ms + 3_600_000).to_string();

    // The same change without a new state version, known by the encoding; then without the encoding, by the state itself.
    let order = |words: &[&str]| {
        let refused = author.call("counts", &["deployment", "create", &build(), "--dry-run"]);
        refused.expect_code(4).expect_said(words);
    };
    let migrating = std::fs::read_to_string(author.path("src/lib.rs")).expect("it is there");
    author.change("src/lib.rs", &[(".state_version(2)", "")]);
    order(&[
        "FAIL  state",
        "a value is encoded as `serde {count: i64, last: i64}`, but was as `i64`",
        "raise the state version",
    ]);
    author.change(
        "src/lib.rs",
        &[(", Stored)]", ")]"), ("/// The plugin. It must", &format!("{BY_HAND}\n/// The plugin. It must"))],
    );
    order(&["FAIL  state", "the plugin cannot read the state of key \"1767226020000 dan\"", "fewer than 16 bytes"]);
    std::fs::write(author.path("src/lib.rs"), migrating).expect("the folder is writable");

    let ordered = author.call("counts", &["deployment", "create", &build(), "--at", &at]);
    ordered.expect_code(0).expect_said(&["holds from"]);

    let records = author.path("golden/first/records.ndjson");
    let mut text = std::fs::read_to_string(&records).expect("it was made");
    // The window of dan, whose first action was the last record's, is open.
    for (i, (user, time)) in [("dan", last_ms - 400), ("eve", last_ms + 3_650_000)].into_iter().enumerate() {
        let value = json!({"user": user, "time": time}).to_string();
        let (offset, timestamp) = (11 + i, last_ms + 3_600_000 + 10_000 * i64::try_from(i).expect("small"));
        let record = json!({"partition": 0, "offset": offset, "timestamp": timestamp, "value": value});
        text.push_str(&format!("{record}\n"));
    }
    std::fs::write(records, text).expect("the folder is writable");
    author.call("counts", &["run"]).expect_code(0).expect_said(&["dan was last seen"]);
    let rows = Connection::open(author.path("rows.db")).expect("a database");
    let dan = rows.query_row("SELECT actions FROM counts WHERE user = 'dan'", [], |row| row.get::<_, i64>(0));
    assert_eq!(dan.expect("dan's window ended"), 2);

    author.change("src/lib.rs", &[("    count: i64,\n    last: i64,", "    last: i64,\n    count: i64,")]);
    order(&["encoded as `serde {last: i64, count: i64}`, but was as `serde {count: i64, last: i64}`"]);
}

/// An encoding that the SDK knows nothing of.
const BY_HAND: &str = "
impl Stored for Actions {
    type Read<'a> = Actions;
    fn write(&self, out: &mut Vec<u8>) {
        self.count.write(out);
        self.last.write(out);
    }
    fn read(bytes: &[u8]) -> Result<Actions, String> {
        let (count, last) = bytes.split_at_checked(8).filter(|_| bytes.len() == 16).ok_or(\"fewer than 16 bytes\")?;
        Ok(Actions { count: i64::read(count)?, last: i64::read(last)? })
    }
}";

/// What an author does all day: a configuration with a required key, an edit and another run, a plugin that is dear.
#[test]
fn the_tools_follow_an_author_through_changes() {
    let author = Author::new(&[]);
    let required = [
        ("#[serde(default = \"minute\")]", ""),
        ("fn minute() -> i64 {\n    60\n}\n", ""),
        ("\"additionalProperties\": false", "\"required\": [\"window\"], \"additionalProperties\": false"),
    ];
    author.change("src/lib.rs", &required);
    std::fs::write(author.path("other.toml"), "[plugin]\nconfig = {}\n").expect("the folder is writable");
    let refused = author.call("counts", &["plugin", "build", "--config", "other.toml"]);
    refused.expect_code(4).expect_said(&["plugin.config.window is missing"]);
    let component = author.call("counts", &["plugin", "build"]).expect_code(0).stdout.clone();
    let component = component.lines().next().expect("it names the file").to_owned();
    author.change("keyfold.toml", &[("target/wasm32-unknown-unknown/release/counts.wasm", &component)]);
    author.call("counts", &["run"]).expect_code(0);

    let source = std::fs::read_to_string(author.path("src/lib.rs")).expect("it is there");
    author.change("src/lib.rs", &[("+ 1)", "+ 10)")]);
    author.call("counts", &["plugin", "build"]).expect_code(0);
    author.call("counts", &["run"]).expect_code(2).expect_said(&["differ from those in force"]);
    author.call("counts", &["run", "--fresh"]).expect_code(0).expect_said(&["the pipeline starts over"]);
    let rows = Connection::open(author.path("rows.db")).expect("a database");
    let sum = rows.query_row("SELECT count(*), sum(actions) FROM counts", [], |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(sum.expect("the table is there"), (7, 90));

    std::fs::write(author.path("src/lib.rs"), source).expect("the folder is writable");
    let dear = "for i in 0..40_000_000 { std::hint::black_box(i); }\n        out.push(";
    author.change("src/lib.rs", &[("out.push(", dear)]);
    let measured = author.call("counts", &["plugin", "bench", "--repetitions", "1"]);
    measured.expect_code(0).expect_said(&[
        "measured with batches of",
        "ran out of fuel",
        "set run.batch_records = ",
        "natively",
    ]);

    std::fs::write(author.path("golden/first/case.toml"), "[plugin]\nfule = 3\n").expect("the folder is writable");
    let tested = author.call("counts", &["plugin", "test"]);
    assert_ne!(tested.code, Some(0));
    tested.expect_said(&["counts/golden/first/case.toml: ", "plugin.fule"]);
}

/// A defect: what it is, the parts of the source that it replaces, and what the golden tests must say of it.
type Defect = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

const DEFECTS: &[Defect] = &[
    (
        "another result",
        &[("unwrap_or(0) + 1", "unwrap_or(0) + 2")],
        &["FAIL  first: rows differ: expected (-), given (+)", "\"actions\":3}", "\"actions\":6}"],
    ),
    (
        "a static counter",
        &[
            (
                "/// The plugin.",
                "static SEEN: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);\n/// The plugin.",
            ),
            ("unwrap_or(0) + 1", "unwrap_or(0) + 1 + SEEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed)"),
        ],
        &["FAIL  first: the plugin breaks the law", "partition 0, offset 5", "no statics"],
    ),
    (
        "state kept between calls",
        &[
            ("    config: Config,\n}", "    config: Config,\n    seen: std::cell::Cell<i64>,\n}"),
            (
                "config: keyfold_sdk::config(config)? }",
                "config: keyfold_sdk::config(config)?, seen: Default::default() }",
            ),
            ("unwrap_or(0) + 1", "unwrap_or(0) + 1 + self.seen.replace(1)"),
        ],
        &["FAIL  first: the plugin breaks the law", "partition 0, offset 5", "no fields of the mapper that change"],
    ),
    (
        "a panic",
        &[("key.emit(", "assert!(user != \"bob\", \"no bob\");\n        key.emit(")],
        &["FAIL  first: rows differ: expected (-)", "no bob (src/lib.rs:103)", "\"offset\":5"],
    ),
    (
        "a row of a table that is not described",
        &[(".rows::<Count<'_>>()", "")],
        &[
            "FAIL  first: rows differ: expected (-)",
            "table counts is not in the description",
            "add it with `.rows::<..>()`",
            "src/lib.rs:103",
        ],
    ),
    (
        "a wrong type in a row",
        &[(
            "key.emit(&Count { user, until: Timestamp(time), actions });",
            "key.row(0).text(\"user\", user).timestamp(\"until\", time).text(\"actions\", \"many\").end();",
        )],
        &["FAIL  first: rows differ: expected (-)", "column 3 is actions", "the row writes actions", "src/lib.rs:103"],
    ),
    (
        "an event that costs too much",
        &[("key.put(&(", "while key.name().ends_with(\"cat\") { std::hint::black_box(0); }\n        key.put(&(")],
        &["FAIL  first", "plugin.fuel", "\"offset\":6"],
    ),
    (
        "an order that differs from map to map",
        &[(
            "let actions = key.value()",
            "let all: std::collections::HashMap<i64, i64> = (0..64).map(|i| (i, i)).collect();\n        let first = *all.keys().next().unwrap_or(&0);\n        let actions = key.value().map(|value| value + 100 * first)",
        )],
        &["FAIL  first: the plugin breaks the law", "partition 0, offset 5", "no iteration over std's HashMap"],
    ),
];

#[test]
fn golden_tests_find_what_is_wrong() {
    let author = Author::new(&[]);
    let lawful = std::fs::read_to_string(author.path("src/lib.rs")).expect("it was made");
    for (what, changes, words) in DEFECTS {
        std::fs::write(author.path("src/lib.rs"), &lawful).expect("the folder is writable");
        author.change("src/lib.rs", changes);
        let tested = author.call("counts", &["plugin", "test"]);
        assert_eq!(tested.code, Some(1), "{what}: {tested:?}");
        tested.expect_said(words);
    }
}
