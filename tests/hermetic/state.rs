//! What a lane keeps. One suite runs on each form of a journal's database: on chains, in a folder and on objects in memory, and on the database
//! in memory that some tests use.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use keyfold::failure::{Exit, Failure};
use keyfold::state::chained::{Chained, Compaction};
use keyfold::state::database::{Database, Entries, Error};
use keyfold::state::journal::{Contents, Journal};
use keyfold::state::memory::{Fault, MemoryDisk};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use tokio::runtime::{Handle, Runtime};

mod journal;
mod store;

const PATH: &str = "lanes/0";

/// A place for one database. It survives whoever has it open.
enum Form {
    Memory(MemoryDisk),
    Chained { objects: Arc<dyn ObjectStore>, runtime: Handle, compaction: Compaction },
}

impl Form {
    /// Opens the database; whoever had it open before is fenced.
    fn open(&self) -> Arc<dyn Database> {
        match self {
            Form::Memory(disk) => Arc::new(disk.open(PATH)),
            Form::Chained { objects, runtime, compaction } => {
                Arc::new(Chained::open_with(objects, PATH, runtime, *compaction).expect("it can be opened"))
            }
        }
    }

    fn journal(&self) -> (Journal, Contents) {
        Journal::over(self.open()).expect("the journal is readable")
    }

    /// Opens the database for reading. Nobody is fenced.
    fn entries(&self) -> Box<dyn Entries> {
        match self {
            Form::Memory(disk) => Box::new(disk.open_reader(PATH)),
            Form::Chained { objects, runtime, .. } => {
                let found = Chained::reader(objects, PATH, runtime).expect("it can be opened");
                Box::new(found.expect("it exists"))
            }
        }
    }

    /// All that is stored.
    fn dump(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        scan(&*self.entries(), b"", b"").into_iter().collect()
    }

    /// All that is stored, as text.
    fn text(&self) -> Vec<String> {
        let line = |(key, value): (Vec<u8>, Vec<u8>)| format!("{} = {}", key.escape_ascii(), value.escape_ascii());
        self.dump().into_iter().map(|entry| line(entry).replace("\\\"", "\"")).collect()
    }
}

/// Runs a check on each form, each time on an empty database.
fn on_each_form(check: impl Fn(&Form)) {
    let runtime = Runtime::new().expect("threads can be started");
    let chains = tempfile::tempdir().expect("there is a folder for temporary files");
    let local_chains = LocalFileSystem::new_with_prefix(chains.path()).expect("the folder exists");
    let chained = |objects: Arc<dyn ObjectStore>, compaction| -> Form {
        Form::Chained { objects, runtime: runtime.handle().clone(), compaction }
    };
    println!("on the database in memory:");
    check(&Form::Memory(MemoryDisk::default()));
    println!("on a chain in memory:");
    check(&chained(Arc::new(InMemory::new()), Compaction::default()));
    println!("on a chain in memory in which every third link says all:");
    check(&chained(Arc::new(InMemory::new()), Compaction { links: 2 }));
    println!("on a chain in a folder:");
    check(&chained(Arc::new(local_chains), Compaction::default()));
}

fn scan(database: &(impl Entries + ?Sized), prefix: &[u8], from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    let all = database.scan(prefix, from, &mut |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    });
    all.expect("it is readable");
    entries
}

fn put(key: &[u8], value: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    (key.to_vec(), Some(value.to_vec()))
}

/// The exit code of an error, and its message.
fn said(error: Error) -> (Exit, String) {
    let failure = Failure::from(error);
    (failure.exit, failure.message)
}

#[test]
fn what_was_written_is_read_in_key_order() {
    on_each_form(|form| {
        let database = form.open();
        let key = |i: u32| format!("k/{i:03}").into_bytes();
        database.write((0..200).map(|i| put(&key(i), &i.to_be_bytes())).collect()).expect("it is writable");
        database.write(vec![put(b"j", b"before"), put(b"l", b"after"), (key(7), None), (key(999), None)]).unwrap();
        database.write(vec![put(&key(9), b"x"), (key(9), None), (key(11), None), put(&key(11), b"y")]).unwrap();
        database.write(Vec::new()).expect("nothing to write is no error");

        let keys: Vec<Vec<u8>> = (0..201).rev().map(key).collect();
        let slices: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let expected = (0..201).rev().map(|i: u32| match i {
            7 | 9 | 200 => None,
            11 => Some(b"y".to_vec()),
            i => Some(i.to_be_bytes().to_vec()),
        });
        let read = database.get(&slices).expect("it is readable");
        assert!(read.iter().map(|v| v.as_ref().map(|v| v.to_vec())).eq(expected), "{read:?}");
        assert!(database.get(&[]).expect("nothing to read is no error").is_empty());

        let all = scan(&*database, b"k/", b"");
        assert!(all.iter().map(|(key, _)| key.clone()).eq((0..200).filter(|i| *i != 7 && *i != 9).map(key)));
        assert_eq!(scan(&*database, b"k/", b"198"), all[196..], "the start is part of a scan");
        assert_eq!(scan(&*database, b"k/", b"1979"), all[196..], "a scan may start between keys");
        assert!(scan(&*database, b"k/", b"2").is_empty() && scan(&*database, b"x", b"").is_empty());
        let mut visited = 0;
        let stop = &mut |_: &[u8], _: &[u8]| {
            visited += 1;
            if visited < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        database.scan(b"k/", b"", stop).expect("it is readable");
        assert_eq!(visited, 3);
    });
}

#[test]
fn a_fenced_owner_of_the_memory_form_reads_what_it_saw_last() {
    let disk = MemoryDisk::default();
    let old = disk.open(PATH);
    old.write(vec![put(b"k", b"old")]).unwrap();
    let new = disk.open(PATH);
    new.write(vec![put(b"k", b"new")]).unwrap();
    assert_eq!(scan(&old, b"", b""), [(b"k".to_vec(), b"old".to_vec())]);
    assert!(matches!(old.write(vec![put(b"k", b"older")]), Err(Error::Fenced(_))));
    assert_eq!(scan(&new, b"", b""), [(b"k".to_vec(), b"new".to_vec())]);
    drop(new);
    assert!(matches!(old.write(vec![put(b"k", b"older")]), Err(Error::Fenced(_))), "it does not own it again");
}

#[test]
fn each_call_of_the_memory_form_can_be_made_to_fail() {
    for (fault, expected) in [(Fault::Lost, None), (Fault::AnswerLost, Some(b"v".to_vec()))] {
        let disk = MemoryDisk::default();
        let database = disk.open(PATH);
        database.get(&[b"k"]).unwrap();
        assert_eq!(disk.calls(), 1);
        disk.fail_after(1, fault);
        database.get(&[b"k"]).unwrap();
        let error = database.write(vec![put(b"k", b"v")]).expect_err("it was made to fail");
        assert_eq!(said(error).0, Exit::Outside);
        database.get(&[b"k"]).expect_err("it must be opened again");
        let found = disk.open(PATH).get(&[b"k"]).unwrap().pop().flatten();
        assert_eq!(found.map(|v| v.to_vec()), expected, "{fault:?}");
    }
}
