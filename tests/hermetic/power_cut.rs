//! Power cuts: whatever a host had not synced is gone, and the next start goes on from what is left. The rows are those of the naive model, and
//! what a host said is done is done. `power_cut.c` is the disk: it keeps what was synced, and kills the host at one of its syncs.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::generate::{TestRecord, generate, write_records};
use crate::support::host::{Outcome, PATIENCE, Pipeline, logged, number};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Deployment, Time};
use crate::support::random::{Random, seed};
use crate::support::rows::{assert_same, from_ndjson, from_sqlite, sorted};
use crate::support::settings::Settings;

/// Power cuts before a host may come to its end.
const CUTS: usize = 12;
/// About as many syncs as there are in a run that nothing disturbs. A third of them are before it folds.
const SYNCS: u64 = 160;

/// What a cut takes.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Bytes and names that were not synced.
    All,
    /// Bytes that were not synced; names have reached the disk by themselves, so a new file may be there and empty.
    Bytes,
}

/// A disk, which lies in a folder of its own.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// A disk that holds what is in `root`.
    fn with(root: &Path) -> Disk {
        let disk = Disk { folder: tempfile::tempdir().expect("a temporary folder") };
        disk.take(root);
        disk
    }

    fn path(&self, kind: char, inode: u64) -> PathBuf {
        self.folder.path().join(format!("{kind}{inode}"))
    }

    /// Takes a folder as if all of it had been synced.
    fn take(&self, folder: &Path) {
        let mut names = String::new();
        for (name, path) in entries(folder) {
            let inode = inode(&path);
            let kind = if path.is_dir() { 'd' } else { 'f' };
            names.push_str(&format!("{kind} {inode} {name}\n"));
            if path.is_dir() {
                self.take(&path);
            } else {
                std::fs::copy(&path, self.path('f', inode)).expect("the test's folder is writable");
                std::fs::hard_link(&path, self.path('i', inode)).expect("both folders are temporary ones");
            }
        }
        std::fs::write(self.path('d', inode(folder)), names).expect("the test's folder is writable");
    }

    /// The files that are left of a folder, by their paths.
    fn left(&self, folder: &Path, cut: Cut) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut left = BTreeMap::new();
        match cut {
            Cut::All => self.named(inode(folder), folder, &mut left),
            Cut::Bytes => self.present(folder, &mut left),
        }
        left
    }

    fn bytes(&self, inode: u64) -> Vec<u8> {
        std::fs::read(self.path('f', inode)).unwrap_or_default()
    }

    /// What is on the disk under the synced names of a folder.
    fn named(&self, folder: u64, path: &Path, left: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for line in std::fs::read_to_string(self.path('d', folder)).unwrap_or_default().lines() {
            let mut parts = line.splitn(3, ' ');
            let (kind, inode, name) = (parts.next(), parts.next(), parts.next().expect("a line has three parts"));
            let inode = inode.and_then(|inode| inode.parse().ok()).expect("a number");
            match kind {
                Some("d") => self.named(inode, &path.join(name), left),
                _ => _ = left.insert(path.join(name), self.bytes(inode)),
            }
        }
    }

    /// What is on the disk under the names that are in a folder.
    fn present(&self, folder: &Path, left: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for (_, path) in entries(folder) {
            match path.is_dir() {
                true => self.present(&path, left),
                false => _ = left.insert(path.clone(), self.bytes(inode(&path))),
            }
        }
    }
}

fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).expect("it is a folder").map(|entry| entry.expect("it can be read"));
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

fn inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).expect("it is there").ino()
}

/// The library that keeps what is synced, compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hermetic/power_cut.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("power_cut.{}.so", std::process::id()));
        let compiled = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(compiled.expect("cc is there: the host is built with it").success());
        library
    })
}

/// Runs a command on a disk, which is cut off at the `n`th sync, or at the end of the command. What was not synced is gone then.
fn cut_off(pipeline: &Pipeline, mut command: Command, n: Option<u64>, cut: Cut) -> Outcome {
    let root = pipeline.path("");
    let disk = Disk::with(&root);
    command.env("LD_PRELOAD", library()).env("DISK", disk.folder.path());
    if let Some(n) = n {
        command.env("CUT_AT", n.to_string());
    }
    let outcome = pipeline.start(command).wait(PATIENCE);
    let left = disk.left(&root, cut);
    for (_, path) in entries(&root) {
        if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }
            .expect("the test's folder is writable");
    }
    for (path, bytes) in left {
        std::fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("the test's folder is writable");
        std::fs::write(path, bytes).expect("the test's folder is writable");
    }
    outcome
}

/// A log, and an instant in the middle of it at which other settings take over.
fn log() -> (Vec<TestRecord>, i64) {
    let log = generate(2_000, 40, seed(20_261_129));
    let middle = log[log.len() / 2].timestamp;
    (log, middle)
}

/// Whatever is cut off and whenever: a deployment that was accepted is in force, rows and dead letters are those of a run that nothing
/// disturbed, and a host that has ended has nothing left to do.
fn check(sink: &str, cut: Cut, rows: impl Fn(&Path) -> Vec<Value>) {
    let (log, middle) = log();
    let sink = format!("[sink.{sink}]\npath = \"rows\"");
    let settings = Settings { sink, checkpoint_interval: "1ms".to_owned(), ..Settings::default() }.bounded(1, 100);
    let pipeline = || {
        let pipeline = Pipeline::new(&settings.to_toml());
        write_records(&pipeline.path("log.ndjson"), &log);
        pipeline
    };
    let at = middle.to_string();
    let order = ["--set", "time.out_of_orderness=1s", "--at", &at];
    let plain = pipeline();
    plain.call("deployment create", &order).expect_code(0);
    plain.run_to_end(&[]).expect_code(0);
    let letters = from_ndjson(&plain.path("dead-letters.ndjson"));
    assert!(!letters.is_empty());

    let pipeline = pipeline();
    cut_off(&pipeline, pipeline.command("deployment create", &order), None, cut).expect_code(0);
    let mut random = Random::new(seed(20_261_129));
    let mut resumed = 0;
    for _ in 0..CUTS {
        let n = random.below(SYNCS) + 1;
        let outcome = cut_off(&pipeline, pipeline.command("run", &[]), Some(n), cut);
        assert!(matches!(outcome.code, None | Some(0)), "cut off at sync {n}: {}", outcome.stderr);
        resumed += logged(&outcome.stderr, "lane-started").iter().filter(|l| l["from_checkpoint"] == true).count();
    }
    assert!(resumed > 0, "no host went on from a checkpoint that a cut had left");
    let run = || cut_off(&pipeline, pipeline.command("run", &[]), None, cut);
    run().expect_code(0);
    assert_eq!(number(&run().expect_code(0).logged("lane-stopped"), "records"), 0, "a stopped host was done");

    let deployment = Deployment { t: middle, mark: "", time: Time { out_of_orderness_ms: 1_000, ..Time::default() } };
    let want = model::run_deployed(Visits::new(SessionId::Record), &log, Time::default(), &[deployment]);
    assert_same("rows", &rows(&pipeline.path("rows")), &sorted(want.values()));
    assert_same("letters", &from_ndjson(&pipeline.path("dead-letters.ndjson")), &letters);
}

fn lines(path: &Path) -> Vec<Value> {
    sorted(from_ndjson(path))
}

fn table(path: &Path) -> Vec<Value> {
    from_sqlite(path, "sessions", &[])
}

#[test]
fn rows_in_a_file_are_the_same_after_power_cuts() {
    check("ndjson", Cut::All, lines);
}

#[test]
fn rows_in_a_file_are_the_same_after_power_cuts_that_leave_empty_files() {
    check("ndjson", Cut::Bytes, lines);
}

#[test]
fn rows_in_sqlite_are_the_same_after_power_cuts() {
    check("sqlite", Cut::All, table);
}

#[test]
fn rows_in_sqlite_are_the_same_after_power_cuts_that_leave_empty_files() {
    check("sqlite", Cut::Bytes, table);
}
