//! The path of an author, from an empty folder to rows, with nothing of this repository but the program; and what its golden tests find.

use rusqlite::Connection;

use crate::support::author::{Author, shell};
use crate::support::guide::{commands, section};
use crate::support::host::Pipeline;
use crate::support::rows::from_ndjson;

/// The guide's ten minutes, and the sections that go on in the same folder, word by word.
#[test]
fn from_an_empty_folder_to_rows() {
    let folder = Pipeline::new("");
    let done = shell(&folder, ".", &commands(&section("Ten minutes")));
    done.expect_code(0).expect_said(&[
        "ok    first: 5 rows, 1 dead letters, 0 lines of its log; whole, cut by 1",
        "counts 0.1.0, state version 1",
        "imports nothing",
        "table counts: user text (primary key)",
        "CQL     CREATE TABLE ks.counts (user text, until timestamp, actions bigint, PRIMARY KEY (user, until));",
        "SQLite  CREATE TABLE IF NOT EXISTS \"counts\"",
        "configuration: {",
    ]);
    assert_eq!(
        done.stdout.lines().filter(|line| line.starts_with("{\"table\":\"counts\"")).count(),
        5,
        "{}",
        done.stdout
    );
    assert_eq!(done.stderr.lines().filter(|line| line.starts_with("dead letter: ")).count(), 1, "{}", done.stderr);
    let rows = Connection::open(folder.path("counts/rows.db")).expect("a database");
    let sum = rows.query_row("SELECT count(*), sum(actions) FROM counts", [], |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(sum.expect("the table is there"), (5, 9));
    assert_eq!(from_ndjson(&folder.path("counts/dead-letters.ndjson")).len(), 1);
    let tested = shell(&folder, "counts", &commands(&section("Testing")));
    tested.expect_code(0).expect_said(&["ok    first: 5 rows", "\"user\":\"ann\""]);
    let measured = shell(&folder, "counts", &commands(&section("What it costs")));
    measured.expect_code(0).expect_said(&["200000 records, 200000 events", "natively", "map-records", "in all"]);
    let line = measured.stdout.lines().find(|line| line.starts_with("map-records")).expect("just seen");
    assert_eq!(line.split_whitespace().count(), 6, "ns, fuel, calls, natively, ratio: {line}");
}

/// A defect: what it is, the parts of the source that it replaces, and what the golden tests must say of it.
type Defect = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

const DEFECTS: &[Defect] = &[
    (
        "another result",
        &[("unwrap_or(0) + 1", "unwrap_or(0) + 2")],
        &["FAIL  first: other rows than expected (-)", "\"actions\":4}", "\"actions\":8}"],
    ),
    (
        "a static counter",
        &[
            (
                "/// The first table",
                "static SEEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);\n/// The first table",
            ),
            ("unwrap_or(0) + 1", "unwrap_or(0) + 1 + SEEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed)"),
        ],
        &["FAIL  first: the plugin breaks the law", "partition 0, offset 5", "no statics"],
    ),
    (
        "state kept between calls",
        &[
            ("    window_ms: i64,\n}", "    window_ms: i64,\n    seen: std::cell::Cell<u64>,\n}"),
            ("window_ms: config.window * 1000 }", "window_ms: config.window * 1000, seen: Default::default() }"),
            ("unwrap_or(0) + 1", "unwrap_or(0) + 1 + self.seen.replace(1)"),
        ],
        &["FAIL  first: the plugin breaks the law", "partition 0, offset 5", "nothing kept in the mapper"],
    ),
    (
        "a panic",
        &[("let user = key.name();", "let user = key.name();\n        assert!(user != \"bob\", \"no bob\");")],
        &["FAIL  first: other rows than expected", "no bob (src/lib.rs:89)", "\"offset\":6"],
    ),
    (
        "a wrong type in a row",
        &[(".integer(\"actions\", actions.cast_signed())", ".text(\"actions\", \"many\")")],
        &["FAIL  first: other rows than expected", "column 3 is actions", "the row gives actions", "src/lib.rs:89"],
    ),
    (
        "an event that costs too much",
        &[("key.put(&(", "while key.name() == \"cat\" { std::hint::black_box(0); }\n        key.put(&(")],
        &["FAIL  first", "plugin.fuel", "\"offset\":6"],
    ),
    (
        "an order that differs from map to map",
        &[(
            "let actions = key.value()",
            "let all: std::collections::HashMap<u64, u64> = (0..64).map(|i| (i, i)).collect();\n        let first = *all.keys().next().unwrap_or(&0);\n        let actions = key.value().map(|value| value + 100 * first)",
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
