//! What a start refuses before it folds: a journal that is gone, a machine that allows too few open files.

use std::process::{Command, Stdio};

use keyfold::symptom::Symptom;

use crate::support::doctor::{doctor, ids};
use crate::support::generate::{generate, write_records};
use crate::support::host::{PATIENCE, Pipeline};
use crate::support::mock::visits;
use crate::support::settings::Settings;

#[test]
fn a_journal_that_was_deleted_beside_its_checkpoints_is_refused_by_name() {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    write_records(&pipeline.path("log.ndjson"), &generate(2_000, 20, 7));
    pipeline.run_to_end(&[]).expect_code(0);
    // Checkpoints may be deleted; that is told as what it is.
    let lanes = pipeline.path("lanes-aside");
    std::fs::rename(pipeline.path("state/lanes"), &lanes).expect("they are there");
    let found = ids(&doctor(&pipeline, 0));
    assert!(
        !found.iter().any(|id| *id == Symptom::StateForeign.name() || *id == Symptom::JournalMissing.name()),
        "{found:?}"
    );
    std::fs::rename(&lanes, pipeline.path("state/lanes")).expect("they are aside");

    let log = pipeline.path("log-aside");
    std::fs::rename(pipeline.path("state/log"), &log).expect("it is there");
    let found = ids(&doctor(&pipeline, 5));
    assert!(found.iter().any(|id| *id == Symptom::JournalMissing.name()), "{found:?}");
    let said = ["the journal (log/) is missing", "restore log/ from a backup"];
    pipeline.call("check", &[]).expect_code(5).expect_said(&said);
    pipeline.run_to_end(&[]).expect_code(5).expect_said(&said);
    assert!(!pipeline.path("state/log/pipeline.json").exists(), "a refused start writes no journal");
    // A part of it is missed too.
    let _ = std::fs::remove_dir_all(pipeline.path("state/log"));
    std::fs::rename(&log, pipeline.path("state/log")).expect("it is aside");
    std::fs::remove_dir_all(pipeline.path("state/log/lanes")).expect("it is there");
    pipeline.run_to_end(&[]).expect_code(5).expect_said(&["the journal (log/lanes/topic) is missing"]);
}

#[test]
fn a_journal_with_a_file_that_is_missing_cut_short_or_of_an_earlier_build_is_refused_by_its_name() {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    write_records(&pipeline.path("log.ndjson"), &generate(2_000, 20, 7));
    pipeline.run_to_end(&[]).expect_code(0);
    let folder = pipeline.path("state/log/lanes/topic");
    let named = std::fs::read_dir(&folder).expect("it is there").map(|file| file.expect("it is readable").file_name());
    let mut names: Vec<String> = named.map(|name| name.into_string().expect("a number")).collect();
    names.sort();
    let [.., former, last] = &names[..] else { panic!("a claim and some entries, but there are {names:?}") };

    let aside = pipeline.path("aside");
    std::fs::rename(folder.join(former), &aside).expect("it is there");
    let missing = format!("log/lanes/topic/{former} is missing");
    pipeline.run_to_end(&[]).expect_code(5).expect_said(&[&missing, "put it back from a copy"]);
    let found = ids(&doctor(&pipeline, 5));
    assert!(found.iter().any(|id| *id == Symptom::StateForeign.name()), "{found:?}");
    std::fs::rename(&aside, folder.join(former)).expect("it is aside");

    let whole = std::fs::read(folder.join(last)).expect("it is there");
    for length in [0, whole.len() / 2, whole.len() - 1] {
        std::fs::write(folder.join(last), &whole[..length]).expect("it is writable");
        let damaged = format!("cannot read log/lanes/topic/{last}");
        pipeline.run_to_end(&[]).expect_code(5).expect_said(&[&damaged]);
    }
    std::fs::write(folder.join(last), &whole).expect("it is writable");

    std::fs::create_dir(folder.join("wal")).expect("it is writable");
    std::fs::write(folder.join("wal/00000000000000000001.sst"), b"").expect("it is writable");
    let said = ["log/lanes/topic/wal is of an earlier form", "begin anew with another state.url"];
    pipeline.run_to_end(&[]).expect_code(5).expect_said(&said);
    std::fs::remove_dir_all(folder.join("wal")).expect("it is there");
    pipeline.run_to_end(&[]).expect_code(0);
}

#[test]
fn a_limit_of_open_files_that_is_too_low_for_the_lanes_is_refused_with_the_number() {
    let source = "[source.file]\npath = \"log.ndjson\"\nformat = \"records\"\nordering = \"partition\"".to_owned();
    let pipeline = Pipeline::new(&Settings { source, ..Settings::default() }.to_toml());
    write_records(&pipeline.path("log.ndjson"), &visits(20, |i| i));
    let run = pipeline.command("run", &[]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 128 && exec \"$0\" \"$@\""]).arg(run.get_program()).args(run.get_args());
    run.get_envs().for_each(|(name, value)| {
        value.map(|value| limited.env(name, value));
    });
    limited.current_dir(pipeline.path("")).stdin(Stdio::null());
    let outcome = pipeline.start(limited).wait(PATIENCE);
    outcome.expect_code(3).expect_said(&["20 lane(s) need about 384 open files", "only 128"]);
    pipeline.run_to_end(&[]).expect_code(0);
}

#[test]
fn a_file_that_was_changed_before_its_new_records_is_refused_until_it_is_put_back() {
    let pipeline = Pipeline::new(&Settings::default().to_toml());
    let log = pipeline.path("log.ndjson");
    let records = generate(2_000, 20, 7);
    write_records(&log, &records[..1_500]);
    pipeline.run_to_end(&[]).expect_code(0);

    let changed = |row: usize| {
        let mut records = records.clone();
        records[row].value = Some(b"{}".to_vec());
        records
    };
    let said = ["log.ndjson, partition ", "are not those that the state was built from", "put the file back as it was"];
    for records in [changed(700), [&records[..700], &records[701..]].concat()] {
        write_records(&log, &records);
        pipeline.run_to_end(&[]).expect_code(5).expect_said(&said);
        assert!(ids(&doctor(&pipeline, 5)).contains(&Symptom::LogReplaced.name().to_owned()));
    }
    // What is new may be anything, and the same records may be written in another way.
    write_records(&log, &changed(1_600));
    let text = std::fs::read_to_string(&log).expect("just written");
    let spaced: String = text.lines().map(|line| line.replacen('{', "{ ", 1) + "\n").collect();
    std::fs::write(&log, spaced).expect("it is the test's own");
    pipeline.run_to_end(&[]).expect_code(0);
}
