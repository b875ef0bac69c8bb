//! A neighbour of the state store: files that it writes, damages or reads.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};

use super::{assert_calm, events, hostile, pipeline};
use crate::support::doctor::call;
use crate::support::generate::{TestRecord, generate, write_records};
use crate::support::host::{Pipeline, logged};
use crate::support::mock::{produce, visits};
use crate::support::model::folds::{SessionId, Visits};
use crate::support::model::{self, Time};
use crate::support::random::{Random, seed};
use crate::support::rows::{assert_same, from_ndjson};
use crate::support::settings::Settings;

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn compiled_plugins_are_kept_in_a_folder_of_the_user_alone_or_nowhere() {
    let settings = hostile(&json!({"mode": "ok"}));
    let plugin = format!("{}\ncache = \"cache\"", settings.plugin);
    let pipeline = pipeline(&Settings { plugin, ..settings }, &[]);
    pipeline.run_to_end(&[]).expect_code(0);
    let folder = pipeline.path("cache");
    assert_eq!(names(&folder).len(), 1, "{:?}", names(&folder));
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert!(names(&folder).iter().all(|name| mode(&folder.join(name)) == 0o600));
    assert!(!pipeline.path("state/cache").exists());

    std::fs::remove_dir_all(&folder).expect("the test's folder is writable");
    std::fs::create_dir(&folder).expect("the test's folder is writable");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("it is the test's own");
    write_records(&pipeline.path("log.ndjson"), &[]);
    pipeline.run_to_end(&[]).expect_code(0).logged("plugin-cache-refused");
    assert!(names(&folder).is_empty(), "{:?}", names(&folder));
}

/// Files under a folder, and folders, with their modes.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let mut found = vec![(folder.to_owned(), mode(folder))];
    for entry in std::fs::read_dir(folder).expect("readable").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(modes(&path)),
            path => found.push((path.clone(), mode(&path))),
        }
    }
    found
}

#[test]
fn what_the_host_keeps_is_for_its_user_and_rows_are_for_readers() {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    let mut records = visits(1, |i| i % 10);
    records[0].value = Some(b"no visit".to_vec());
    write_records(&pipeline.path("log.ndjson"), &records);
    pipeline.run_to_end(&[]).expect_code(0);
    let mut kept = modes(&pipeline.path("state"));
    assert!(kept.len() > 5, "{kept:?}");
    let of = |name: &str| std::fs::metadata(pipeline.path(name)).expect("it is there").permissions().mode() & 0o777;
    assert!(!from_ndjson(&pipeline.path("dead-letters.ndjson")).is_empty());
    kept.push((pipeline.path("dead-letters.ndjson"), of("dead-letters.ndjson")));
    let readable: Vec<_> = kept.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(readable.is_empty(), "{readable:?}");
    assert_eq!(of("rows.ndjson"), of("log.ndjson"), "as this user's other programs make files");
}

/// Files under a folder, in an order that does not depend on the system.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        modes(folder).into_iter().map(|(path, _)| path).filter(|path| path.is_file()).collect();
    found.sort();
    found
}

#[test]
fn native_code_of_others_is_not_run_wherever_it_lies() {
    let settings =
        Settings { plugin: format!("{}\ncache = \"cache\"", Settings::default().plugin), ..Settings::default() };
    let log = generate(500, 20, 5);
    let pipeline = pipeline(&settings, &log);
    pipeline.run_to_end(&[]).expect_code(0);
    let rows = from_ndjson(&pipeline.path("rows.ndjson"));
    let compiled = files(&pipeline.path("cache")).pop().expect("it is kept");
    let other = hostile(&json!({"mode": "ok"}));
    let plugin = format!("{}\ncache = \"cache\"", other.plugin);
    let others = super::pipeline(&Settings { plugin, ..other }, &[]);
    others.run_to_end(&[]).expect_code(0);
    let foreign = files(&others.path("cache")).pop().expect("it is kept");
    // Where earlier versions kept it, and in its place.
    std::fs::create_dir_all(pipeline.path("state/cache")).expect("the test's folder is writable");
    let former = pipeline.path("state/cache").join(compiled.file_name().expect("it has a name"));
    std::fs::copy(&foreign, former).expect("the test's folder is writable");
    std::fs::copy(&foreign, &compiled).expect("the test's folder is writable");
    for _ in 0..2 {
        pipeline.delete_checkpoints();
        pipeline.set_aside("rows.ndjson");
        pipeline.run_to_end(&[]).expect_code(0);
        assert_same("rows", &from_ndjson(&pipeline.path("rows.ndjson")), &rows);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the test's folder is writable");
    for entry in std::fs::read_dir(from).expect("readable").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("the test's folder is writable");
        }
    }
}

/// What happens to one file; in words.
fn damage(random: &mut Random, folder: &Path) -> (PathBuf, &'static str) {
    let all = files(folder);
    let path = random.pick(&all).clone();
    let bytes = std::fs::read(&path).expect("readable");
    let at = |random: &mut Random| usize::try_from(random.below(bytes.len().max(1) as u64)).expect("an index");
    let mut flipped = bytes.clone();
    let (how, new): (&str, Vec<u8>) = match random.below(7) {
        0 => {
            std::fs::remove_file(&path).expect("the test's folder is writable");
            return (path, "deleted");
        }
        1 => ("emptied", Vec::new()),
        2 => ("cut", bytes[..at(random)].to_vec()),
        3 => ("longer", [&bytes[..], b"\0more\xff"].concat()),
        4 => ("another's", std::fs::read(random.pick(&all)).expect("readable")),
        5 => ("garbage", (0..bytes.len()).map(|_| random.next().to_le_bytes()[0]).collect()),
        _ => {
            let at = at(random);
            flipped.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << random.below(8));
            ("flipped", flipped)
        }
    };
    std::fs::write(&path, new).expect("the test's folder is writable");
    (path, how)
}

/// One damaged copy: the host goes on with the right rows, or refuses with a code of its own and names what is wrong.
fn after_damage(seed: u64, begun: &Pipeline, log: &[TestRecord], want: &[Value]) -> (String, Option<i32>) {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    for file in ["rows.ndjson", "dead-letters.ndjson"] {
        let _ = std::fs::copy(begun.path(file), pipeline.path(file)); // there may be no dead letters
    }
    copy(&begun.path("state"), &pipeline.path("state"));
    write_records(&pipeline.path("log.ndjson"), log);
    let mut random = Random::new(seed);
    let (path, how) = damage(&mut random, &pipeline.path("state"));
    let path = path.strip_prefix(pipeline.path("state")).expect("it is below").to_string_lossy().into_owned();
    let outcome = pipeline.run_to_end(&[]);
    let what = format!("seed {seed}: {path} {how}: {:?}", outcome.code);
    let why = outcome.stderr.lines().next_back().filter(|_| outcome.code != Some(0)).unwrap_or_default();
    println!("{what} {why}");
    assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
    outcome.expect_one_of(&[0, 2, 3, 4, 5]);
    let rows = from_ndjson(&pipeline.path("rows.ndjson"));
    if outcome.code == Some(0) {
        assert_same(&what, &rows, want);
    } else {
        // The file, or the database of which it is a part.
        let names_it = ["log/", "lanes/topic"].iter().any(|place| why.contains(place));
        assert!(why.contains("state.url: ") && names_it, "{what}: {}", outcome.stderr);
        assert_same(&what, &rows, &want[..rows.len().min(want.len())]);
    }
    (format!("{path} {how}"), outcome.code)
}

#[test]
fn a_hundred_and_twenty_random_corruptions_of_state_make_neither_a_panic_nor_a_wrong_row() {
    const CORRUPTIONS: u64 = 120;
    const THREADS: u64 = 3;
    let log = generate(1_200, 20, 9);
    let want = model::run(Visits::new(SessionId::Record), &log, Time::default()).values();
    let begun = pipeline(&Settings::default(), &log[..600]);
    begun.run_to_end(&[]).expect_code(0);
    let first = seed(20_261_129);
    let outcomes: Vec<(String, Option<i32>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (begun, log, want) = (&begun, &log, &want);
                scope.spawn(move || {
                    let of = (0..CORRUPTIONS).filter(|i| i % THREADS == thread);
                    of.map(|i| after_damage(first + i, begun, log, want)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("its corruptions are survived")).collect()
    });
    assert_eq!(outcomes.len() as u64, CORRUPTIONS);
    let survived = outcomes.iter().filter(|(_, code)| *code == Some(0)).count();
    println!("{CORRUPTIONS} corruptions: {survived} survived, the others refused");
}

#[test]
fn forged_dead_letters_are_refused_by_their_line() {
    let pipeline = pipeline(&Settings::default(), &events(["a"]));
    pipeline.run_to_end(&[]).expect_code(0);
    let letter = std::fs::read_to_string(pipeline.path("dead-letters.ndjson")).expect("an event is no visit");
    assert!(letter.contains("\"partition\":0"), "{letter}");
    for (from, to) in [
        ("\"partition\":0", "\"partition\":4294967295"),
        ("\"partition\":0", "\"partition\":-1"),
        ("\"offset\":0", "\"offset\":18446744073709551615"),
        ("\"value\":", "\"value_base64\":"),
    ] {
        pipeline.write("dead-letters.ndjson", letter.replace(from, to).as_bytes());
        let outcome = call(&pipeline, ["dead-letters", "redrive"], &["--to", "file:again.ndjson"]);
        assert_calm(&outcome);
        assert_ne!(outcome.code, Some(0), "{to}: {}", outcome.stdout);
        outcome.expect_said(&["dead-letters.ndjson", "line 1"]);
        assert!(from_ndjson(&pipeline.path("again.ndjson")).is_empty());
    }
}

/// Well-formed, so nothing but its partition tells that keyfold has not written it.
#[test]
fn a_dead_letter_of_a_partition_that_is_not_there_is_skipped_and_the_others_are_sent() {
    let forged = |pipeline: &Pipeline| {
        let letters = std::fs::read_to_string(pipeline.path("dead-letters.ndjson")).expect("two events are no visits");
        let forgery = letters.lines().next().expect("there are two").replace("\"partition\":0", "\"partition\":7");
        pipeline.write("dead-letters.ndjson", format!("{forgery}\n{letters}").as_bytes());
    };
    let said = "skipped 1: their record names a partition that the source does not have";
    let of_file = pipeline(&Settings::default(), &events(["a", "b"]));
    of_file.run_to_end(&[]).expect_code(0);
    forged(&of_file);
    for to in ["file:again.ndjson", "log.ndjson"] {
        let outcome = call(&of_file, ["dead-letters", "redrive"], &["--to", to, "--again"]);
        outcome.expect_code(0).expect_said(&[": 2 record(s)", said]);
    }
    let partitions = |name: &str| from_ndjson(&of_file.path(name)).into_iter().map(|line| line["partition"].clone());
    assert!(partitions("log.ndjson").chain(partitions("again.ndjson")).all(|partition| partition == 0));
    of_file.run_to_end(&[]).expect_code(0);

    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    cluster.create_topic("forged", 1, 1).expect("a new topic");
    let brokers = cluster.bootstrap_servers();
    produce(&brokers, "forged", &events(["a", "b"]));
    let of_topic = Pipeline::new(&Settings::default().over_kafka(&brokers, "forged").to_toml());
    of_topic.run_to_end(&["--until-end"]).expect_code(0);
    forged(&of_topic);
    for more in [&["--dry-run"][..], &[]] {
        let outcome = call(&of_topic, ["dead-letters", "redrive"], more);
        outcome.expect_code(0).expect_said(&[" to topic forged: 2 record(s)", said]);
    }
    let outcome = call(&of_topic, ["dead-letters", "redrive"], &["--output", "json"]);
    let answer: Value = serde_json::from_str(&outcome.expect_code(0).stdout).expect("a document");
    assert_eq!(answer["skipped"]["sent_before"], 2, "{answer}");
    assert_eq!((&answer["skipped"]["without_partition"], &answer["skipped"]["unsure"]), (&json!(1), &json!(0)));
}

#[test]
fn a_start_tells_of_a_poisoned_folder_of_compiled_plugins() {
    // Not a folder at all, and a folder that leads elsewhere.
    let settings =
        Settings { plugin: format!("{}\ncache = \"cache\"", Settings::default().plugin), ..Settings::default() };
    let pipeline = pipeline(&settings, &visits(1, |i| i));
    std::fs::create_dir(pipeline.path("elsewhere")).expect("the test's folder is writable");
    std::fs::set_permissions(pipeline.path("elsewhere"), std::fs::Permissions::from_mode(0o777)).expect("its own");
    std::os::unix::fs::symlink(pipeline.path("elsewhere"), pipeline.path("cache")).expect("the folder is writable");
    let outcome = pipeline.run_to_end(&[]);
    outcome.expect_code(0);
    assert_eq!(logged(&outcome.stderr, "plugin-cache-refused").len(), 1, "{}", outcome.stderr);
    assert!(names(&pipeline.path("elsewhere")).is_empty());
}
