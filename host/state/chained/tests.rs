//! A database over a chain: failed and lost writes, other owners, compaction, damage, and the stored bytes.

use std::sync::atomic::Ordering;

use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use sha2::Digest;
use tokio::runtime::Runtime;

use super::*;
use crate::state::scripted::{Fault, Scripted};

const PATH: &str = "log/lanes/0";

/// A store with the runtime for its requests.
struct Place {
    scripted: Arc<Scripted>,
    runtime: Runtime,
}

impl Place {
    fn new() -> Place {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it starts");
        Place { scripted: Arc::default(), runtime }
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.scripted) as Arc<dyn ObjectStore>
    }

    fn open(&self) -> Chained {
        self.open_with(Compaction::default())
    }

    fn open_with(&self, compaction: Compaction) -> Chained {
        Chained::open_with(&self.objects(), PATH, self.runtime.handle(), compaction).expect("it can be opened")
    }

    fn refused(&self) -> String {
        let objects = self.objects();
        let read = Chained::reader(&objects, PATH, self.runtime.handle()).err().expect("it is refused");
        let opened = Chained::open(&objects, PATH, self.runtime.handle()).err().expect("it is refused");
        assert!(matches!((&read, &opened), (Error::Unreadable(_), Error::Unreadable(_))), "{read} {opened}");
        assert_eq!(read.to_string(), opened.to_string());
        read.to_string()
    }

    /// What a reader finds, as text.
    fn text(&self) -> Vec<String> {
        let found = Chained::reader(&self.objects(), PATH, self.runtime.handle()).expect("it is readable");
        text(&found.expect("it exists"))
    }

    /// The numbers of the links that are there, after what is being deleted was deleted.
    fn links(&self) -> Vec<u64> {
        self.runtime.block_on(async {
            for _ in 0..64 {
                tokio::task::yield_now().await; // to what deletes
            }
        });
        let listed = self.runtime.block_on(self.objects().list_with_delimiter(Some(&Path::from(PATH))));
        let names = listed.expect("it is memory").objects.into_iter();
        names.map(|o| o.location.filename().and_then(|name| name.parse().ok()).expect("a number")).collect()
    }

    fn bytes(&self, number: u64) -> Bytes {
        let at = Path::from(format!("{PATH}/{number:020}"));
        self.runtime.block_on(async { self.scripted.get(&at).await?.bytes().await }).expect("it is there")
    }

    fn put(&self, number: u64, bytes: impl Into<PutPayload>) {
        let at = Path::from(format!("{PATH}/{number:020}"));
        self.runtime.block_on(self.scripted.put(&at, bytes.into())).expect("it is memory");
    }

    fn delete(&self, number: u64) {
        let at = Path::from(format!("{PATH}/{number:020}"));
        self.runtime.block_on(self.scripted.delete(&at)).expect("it is memory");
    }
}

fn text(entries: &dyn Entries) -> Vec<String> {
    let mut found = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        found.push(format!("{}={}", key.escape_ascii(), value.escape_ascii()));
        std::ops::ControlFlow::Continue(())
    };
    entries.scan(b"", b"", visit).expect("it is readable");
    found
}

fn put(key: &str, value: &str) -> Change {
    (key.into(), Some(value.into()))
}

#[test]
fn each_write_is_one_object_and_a_start_reads_a_bounded_number_of_them() {
    let place = Place::new();
    let database = place.open();
    for n in 0..2_000 {
        database.write(vec![put("frontier", &n.to_string()), put("head", "x")]).expect("it owns the database");
    }
    assert_eq!(place.scripted.puts.load(Ordering::SeqCst), 2_001, "a claim, and one for each write");
    assert!(place.links().len() <= 66, "{}", place.links().len());
    let before = place.scripted.reads.load(Ordering::SeqCst);
    assert_eq!(text(&place.open()), ["frontier=1999", "head=x"]);
    assert!(place.scripted.reads.load(Ordering::SeqCst) - before <= 66);
}

#[test]
fn large_writes_are_compacted_by_their_bytes() {
    let place = Place::new();
    let database = place.open();
    let large = "x".repeat(MIB / 2);
    for _ in 0..9 {
        database.write(vec![put("image", &large)]).expect("it owns the database");
    }
    assert_eq!(place.links(), [1, 6, 7, 8, 9, 10], "the fifth says all, after four times as much as there is");
    for n in 0..9 {
        database.write(vec![put(&format!("image/{n}"), &large)]).expect("it owns the database");
    }
    let expected: Vec<u64> = std::iter::once(1).chain(11..=19).collect();
    assert_eq!(place.links(), expected, "what is still needed is not written again");
    assert_eq!(text(&place.open()).len(), 10);
}

#[test]
fn a_large_database_is_written_as_a_whole_less_often() {
    let rule = Compaction::default();
    let due = |links, bytes, size| rule.is_due((links, bytes), size);
    assert!(due(64, 0, 0) && !due(63, 0, 0));
    assert!(due(1, MIB, 0) && !due(1, MIB - 1, 0));
    assert!(due(1, 4 * MIB, MIB) && !due(1, 4 * MIB - 1, MIB));
    assert!(due(1_024, 0, MIB) && !due(1_023, 0, MIB));
    assert!(due(4_096, 0, 1_000 * MIB) && !due(4_095, 0, 1_000 * MIB));
}

#[test]
fn starts_that_write_nothing_leave_a_bounded_number_of_links_to_read() {
    let place = Place::new();
    place.open().write(vec![put("k", "v")]).expect("it owns the database");
    for _ in 0..100 {
        place.open_with(Compaction { links: 8 });
    }
    let before = place.scripted.reads.load(Ordering::SeqCst);
    assert_eq!(text(&place.open()), ["k=v"]);
    assert!(place.scripted.reads.load(Ordering::SeqCst) - before <= 48, "some are read ahead");
}

#[test]
fn after_a_write_of_unknown_outcome_the_database_must_be_opened_again() {
    for (links, fault) in [(64, Fault::Lost), (64, Fault::AnswerLost), (1, Fault::Lost), (1, Fault::AnswerLost)] {
        let place = Place::new();
        let database = place.open_with(Compaction { links });
        database.write(vec![put("k", "1"), put("l", "1")]).expect("it owns the database");
        place.scripted.fail_put(0, fault);
        let failed = database.write(vec![put("k", "2"), (b"l".to_vec(), None)]).expect_err("it was made to fail");
        assert!(matches!(failed, Error::Outside(_)), "{failed}");
        for refused in [
            database.write(vec![put("k", "3")]).expect_err("it must be opened again"),
            database.get(&[b"k"]).expect_err("it must be opened again"),
            database.check_ownership().expect_err("it must be opened again"),
        ] {
            assert!(refused.to_string().contains("must be opened again"), "{refused}");
        }
        let expected: &[&str] = if fault == Fault::Lost { &["k=1", "l=1"] } else { &["k=2"] };
        assert_eq!(text(&place.open_with(Compaction { links })), expected, "{links} {fault:?}");
    }
}

#[test]
fn a_failed_start_leaves_the_database_as_it_was() {
    for (links, after) in [(64, 0), (1, 0), (1, 1)] {
        for fault in [Fault::Lost, Fault::AnswerLost] {
            let place = Place::new();
            place.open().write(vec![put("k", "v")]).expect("it owns the database");
            place.scripted.fail_put(after, fault);
            let opened = Chained::open_with(&place.objects(), PATH, place.runtime.handle(), Compaction { links });
            assert!(matches!(opened.err(), Some(Error::Outside(_))));
            assert_eq!(text(&place.open()), ["k=v"], "{links} {after} {fault:?}");
        }
    }
}

#[test]
fn i8_of_two_hosts_only_the_later_one_writes_and_the_former_one_notices_without_writing() {
    let place = Place::new();
    let former = place.open_with(Compaction { links: 2 });
    former.write(vec![put("k", "former")]).expect("it owns the database");
    former.check_ownership().expect("it owns the database");
    let owner = place.open_with(Compaction { links: 2 });
    let puts = place.scripted.puts.load(Ordering::SeqCst);
    let refused = former.check_ownership().expect_err("another host has opened it");
    assert!(matches!(&refused, Error::Fenced(name) if name == PATH), "{refused}");
    assert_eq!(place.scripted.puts.load(Ordering::SeqCst), puts);
    for n in 0..9 {
        owner.write(vec![put("k", &n.to_string())]).expect("it owns the database");
    }
    assert!(place.links().len() < 6, "what was before is deleted");
    for _ in 0..2 {
        assert!(matches!(former.write(vec![put("k", "late")]), Err(Error::Fenced(_))));
        assert!(matches!(former.check_ownership(), Err(Error::Fenced(_))));
    }
    assert_eq!(text(&former), ["k=former"], "it reads what it saw last");
    assert_eq!(text(&owner), ["k=8"]);
    assert_eq!(place.text(), ["k=8"]);
}

#[test]
fn a_reader_changes_nothing_and_sees_nothing_that_is_written_later() {
    let place = Place::new();
    let reader = || Chained::reader(&place.objects(), PATH, place.runtime.handle()).expect("it is readable");
    assert!(reader().is_none(), "there is no database");
    let database = place.open();
    assert!(reader().is_some_and(|found| text(&found).is_empty()));
    database.write(vec![put("k", "1")]).expect("it owns the database");
    let seen = reader().expect("it exists");
    database.write(vec![put("k", "2")]).expect("it owns the database");
    assert_eq!((text(&seen), text(&database)), (vec!["k=1".to_owned()], vec!["k=2".to_owned()]));
    assert_eq!(place.links(), [1, 2, 3]);
}

#[test]
fn links_that_are_missing_damaged_or_in_another_order_are_refused_by_name() {
    let whole = || {
        let place = Place::new();
        let database = place.open();
        for n in 0..3 {
            database.write(vec![put("k", &n.to_string())]).expect("it owns the database");
        }
        place
    };
    let name = |number: u64| format!("{PATH}/{number:020}");

    let place = whole();
    place.delete(3);
    assert!(place.refused().contains(&format!("{} is missing", name(3))), "{}", place.refused());

    let place = whole();
    place.put(3, place.bytes(3).slice(..40));
    assert!(place.refused().contains(&format!("{}: it is not the one that was followed", name(3))));

    let place = whole();
    place.put(4, place.bytes(4).slice(..40));
    assert!(place.refused().contains(&format!("cannot read {}: it is incomplete", name(4))), "{}", place.refused());

    let place = whole();
    let cut = place.bytes(4);
    place.put(4, cut.slice(..cut.len() - 1));
    assert!(place.refused().contains(&format!("cannot read {}: it is damaged", name(4))), "{}", place.refused());
    assert_eq!(place.links(), [1, 2, 3, 4], "a start that is refused leaves nothing behind");
    place.put(4, cut);
    assert_eq!(text(&place.open()), ["k=2"]);

    let place = whole();
    let (third, fourth) = (place.bytes(3), place.bytes(4));
    place.put(3, fourth);
    place.put(4, third);
    assert!(place.refused().contains(&format!("{}: it is not the one that was followed", name(3))));

    let place = whole();
    place.delete(4); // as of an older copy, which checkpoints and deployments tell
    assert_eq!(text(&place.open()), ["k=1"]);
}

#[test]
fn entries_of_a_newer_format_or_of_none_are_refused() {
    for (body, why) in [
        (&[2, 1, 0, 0, 0, 0][..], "its entries have format 2, and this version reads format 1; run a newer keyfold"),
        (&[1, 7, 0, 0, 0, 0], "a change of kind 7"),
        (&[1, 1], "end too early"),
        (&[1, 1, 1, 0, 0, 0, b'k'], "end too early"),
        (&[1, 0, 2, 0, 0, 0, b'k'], "end too early"),
        (&[1, 1, 1, 0, 0, 0, b'k', 255, 255, 255, 255], "end too early"),
    ] {
        let place = Place::new();
        let header = br#"{"format":1,"owner":"x","before":"","check":"%"}"#;
        place.put(1, checked([&header[..], b"\n", body].concat()));
        assert!(place.refused().contains(why), "{}", place.refused());
    }
}

/// Links as they were first written: a claim, a write, and one that says all. Where the digest of the one before belongs, there is a mark.
const STORED: [&[u8]; 3] = [
    b"{\"format\":1,\"owner\":\"00000000000000aa\",\"claim\":true,\"before\":\"#\",\"claims\":[1],\"check\":\"%\"}\n",
    b"{\"format\":1,\"owner\":\"00000000000000aa\",\"before\":\"#\",\"check\":\"%\"}\n\
        \x01\x01\x01\0\0\0k\x02\0\0\0v1\x01\x01\0\0\0l\0\0\0\0\x01\x01\0\0\0m\x01\0\0\0x\0\x01\0\0\0m",
    b"{\"format\":1,\"owner\":\"00000000000000aa\",\"whole\":true,\"before\":\"#\",\"claims\":[1],\"check\":\"%\"}\n\
        \x01\x01\x01\0\0\0k\x02\0\0\0v2\x01\x01\0\0\0l\0\0\0\0",
];

/// The link with its check in the place of the mark.
fn checked(link: Vec<u8>) -> Vec<u8> {
    const CHECK: &[u8] = b",\"check\":\"%\"";
    let at = link.windows(CHECK.len()).position(|bytes| bytes == CHECK).expect("a mark");
    let without = [&link[..at], &link[at + CHECK.len()..]].concat();
    let check = format!(",\"check\":\"{:016x}\"", twox_hash::XxHash3_64::oneshot(&without));
    [&link[..at], check.as_bytes(), &link[at + CHECK.len()..]].concat()
}

#[test]
fn a_stored_journal_is_what_it_always_was() {
    let mut before = String::new();
    let stored = STORED.map(|link| {
        let at = link.iter().position(|byte| *byte == b'#').expect("a mark");
        let bytes = checked([&link[..at], before.as_bytes(), &link[at + 1..]].concat());
        before = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        bytes
    });
    for (links, expected) in [(1, &[][..]), (2, &["k=v1", "l="]), (3, &["k=v2", "l="])] {
        let place = Place::new();
        (1..).zip(&stored[..links]).for_each(|(number, bytes)| place.put(number, bytes.clone()));
        assert_eq!(place.text(), expected);
        assert_eq!(text(&place.open()), expected);
    }

    let place = Place::new();
    let database = place.open_with(Compaction { links: 2 });
    let changes = vec![put("k", "v1"), put("l", ""), put("m", "x"), (b"m".to_vec(), None)];
    database.write(changes).expect("it owns the database");
    database.write(vec![put("k", "v2")]).expect("it owns the database");
    assert_eq!(place.links(), [1, 3]);
    let number = |link: &[u8]| link.iter().position(|byte| *byte == b'\n').expect("a first line");
    for (n, stored) in [(1, &stored[0]), (3, &stored[2])] {
        let written = place.bytes(n);
        assert_eq!(written[number(&written)..], stored[number(stored)..]);
        let shape = |link: &[u8]| -> serde_json::Value {
            let mut header: serde_json::Value = serde_json::from_slice(&link[..number(link)]).expect("JSON");
            (header["owner"], header["before"], header["check"]) = ("".into(), "".into(), "".into());
            header
        };
        assert_eq!(shape(&written), shape(stored));
    }
}
