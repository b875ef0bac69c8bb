//! The path of an author, from an empty folder to rows, with nothing of this repository but the program; and what its golden tests find.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::support::host::{KEYFOLD, Outcome, PATIENCE, Pipeline, plugin_file};
use crate::support::rows::from_ndjson;

/// A folder that `keyfold plugin new counts` has made.
struct Author {
    parent: Pipeline,
}

impl Author {
    fn new() -> Author {
        let author = Author { parent: Pipeline::new("") };
        let made = author.call(".", &["plugin", "new", "counts"]);
        made.expect_code(0).expect_said(&["counts is there"]);
        author
    }

    fn path(&self, name: &str) -> PathBuf {
        self.parent.path("counts").join(name)
    }

    /// The program in a folder under the author's.
    fn call(&self, folder: &str, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(KEYFOLD);
        command.args(arguments).current_dir(self.parent.path(folder)).stdin(Stdio::null());
        // What the dependencies were built into before is used again.
        let built = PathBuf::from(plugin_file("x")).with_file_name("authors");
        command.env("CARGO_TARGET_DIR", built).env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTFLAGS");
        self.parent.start(command).wait(PATIENCE)
    }

    /// Its source with these parts replaced.
    fn change(&self, changes: &[(&str, &str)]) {
        let mut text = std::fs::read_to_string(self.path("src/lib.rs")).expect("it was made");
        for (before, after) in changes {
            assert!(text.contains(before), "{before:?} is in the source");
            text = text.replace(before, after);
        }
        std::fs::write(self.path("src/lib.rs"), text).expect("the folder is writable");
    }
}

/// The guide's ten minutes, word by word.
#[test]
fn from_an_empty_folder_to_rows() {
    let guide = include_str!("../../plugins/README.md");
    let section = guide.split("\n## ").find(|section| section.starts_with("Ten minutes")).expect("the guide has it");
    let commands: String = section.split("```sh\n").skip(1).filter_map(|part| part.split("```").next()).collect();
    assert_eq!(commands.lines().count(), 6, "{commands}");
    let folder = Pipeline::new("");
    let path = std::env::join_paths(
        Path::new(KEYFOLD)
            .parent()
            .into_iter()
            .map(Path::to_owned)
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let mut shell = Command::new("bash");
    shell.args(["-euxc", &commands]).current_dir(folder.path("")).stdin(Stdio::null());
    shell.env("PATH", path.expect("the folder has a plain name"));
    for name in ["CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
        shell.env_remove(name);
    }
    let done = folder.start(shell).wait(PATIENCE);
    done.expect_code(0).expect_said(&[
        "ok    first: 5 rows, 1 dead letters, 0 lines of its log; whole, cut by 1",
        "counts 0.1.0, state version 1",
        "imports nothing",
        "table counts: user text (primary key)",
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
        &["FAIL  first: the plugin breaks the law", "partition 0, offset 5", "nothing kept in the mapper"],
    ),
    (
        "a panic",
        &[("key.emit(", "assert!(key.name() != \"bob\", \"no bob\");\n        key.emit(")],
        &["FAIL  first: other rows than expected", "no bob (src/lib.rs:92)", "\"offset\":6"],
    ),
    (
        "a row of a table that is not described",
        &[(".rows::<Count<'_>>()", "")],
        &[
            "FAIL  first: other rows than expected",
            "a row for table counts",
            "the description has not",
            "src/lib.rs:92",
        ],
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
            "let all: std::collections::HashMap<i64, i64> = (0..64).map(|i| (i, i)).collect();\n        let first = *all.keys().next().unwrap_or(&0);\n        let actions = key.value().map(|value| value + 100 * first)",
        )],
        &["FAIL  first: the plugin breaks the law", "partition 0, offset 5", "no iteration over std's HashMap"],
    ),
];

#[test]
fn golden_tests_find_what_is_wrong() {
    let author = Author::new();
    let lawful = std::fs::read_to_string(author.path("src/lib.rs")).expect("it was made");
    for (what, changes, words) in DEFECTS {
        std::fs::write(author.path("src/lib.rs"), &lawful).expect("the folder is writable");
        author.change(changes);
        let tested = author.call("counts", &["plugin", "test"]);
        assert_eq!(tested.code, Some(1), "{what}: {tested:?}");
        tested.expect_said(words);
    }
}
