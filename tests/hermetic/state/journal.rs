//! A lane's journal.

use std::collections::BTreeMap;

use keyfold::event_time::AppendTime;
use keyfold::failure::Exit;
use keyfold::position::{Floor, Frontier, Offset, Partition, Position};
use keyfold::row::Image;
use keyfold::state::database::Error;
use keyfold::state::journal::{Beginning, Journal};
use keyfold::state::memory::MemoryDisk;
use keyfold::strike::{Strike, StrikeItem};

use super::{Form, PATH, on_each_form, put, said};

fn position(append_time: i64, partition: u32, offset: u64) -> Position {
    Position { append_time: AppendTime::at(append_time), partition: Partition(partition), offset: Offset(offset) }
}

fn strike(item: StrikeItem, reason: &str) -> Strike {
    Strike { item, key: None, record: None, reason: reason.to_owned() }
}

fn struck(offset: u64) -> StrikeItem {
    StrikeItem::Event { partition: Partition(1), offset: Offset(offset), event: 0 }
}

fn image(table: &str, key: &str, row: Option<&str>) -> Image {
    Image { table: table.to_owned(), key: key.to_owned(), row: row.map(str::to_owned) }
}

#[test]
fn i4_what_the_log_cannot_tell_survives_a_crash() {
    on_each_form(|form| {
        let (mut journal, contents) = form.journal();
        assert!(contents.frontier.is_none() && contents.beginning.is_none() && contents.floors.is_empty());
        let offsets = BTreeMap::from([(Partition(0), Offset(3)), (Partition(1), Offset(0))]);
        let beginning = Beginning { offsets, sink_length: Some(9), letters_length: None };
        journal.write_beginning(&beginning).unwrap();
        let frontier = |offset: u64| Frontier {
            last: position(50, 0, offset),
            next: BTreeMap::from([(Partition(0), Offset(offset + 1))]),
        };
        journal.write_frontier(&frontier(4)).unwrap();
        journal.write_frontier(&frontier(5)).unwrap();
        let floor = |partition, offset, time| Floor {
            partition: Partition(partition),
            offset: Offset(offset),
            append_time: AppendTime::at(time),
        };
        journal.write_floors(&[floor(1, 2, 60), floor(0, 300, 70)]).unwrap();
        journal.write_floors(&[floor(0, 2, -80)]).unwrap();
        journal.write_strikes(&[strike(struck(1), "first"), strike(struck(2), "second")], 1).unwrap();
        drop(journal); // a crash

        let (mut journal, contents) = form.journal();
        assert_eq!(contents.beginning, Some(beginning));
        assert_eq!(contents.frontier, Some(frontier(5)));
        let floors = [((0, 2), -80), ((0, 300), 70), ((1, 2), 60)];
        let floors = floors.map(|((p, o), time)| ((Partition(p), Offset(o)), AppendTime::at(time)));
        assert_eq!(contents.floors, BTreeMap::from(floors));
        let first = BTreeMap::from([(struck(1), "first".to_owned()), (struck(2), "second".to_owned())]);
        assert_eq!(contents.strikes, BTreeMap::from([(1, first.clone())]));

        let record = StrikeItem::Record { partition: Partition(0), offset: Offset(9) };
        journal.write_strikes(&[strike(record.clone(), "third")], 2).unwrap();
        journal.write_strikes(&[strike(struck(2), "of another deployment")], 2).unwrap();
        journal.close().unwrap();
        let second = BTreeMap::from([(record, "third".to_owned()), (struck(2), "of another deployment".to_owned())]);
        assert_eq!(form.journal().1.strikes, BTreeMap::from([(1, first), (2, second)]), "none was written over");
    });
}

#[test]
fn i10_images_are_kept_by_deployment_until_they_are_deleted() {
    on_each_form(|form| {
        let (journal, _) = form.journal();
        let (a, b) = (image("t", r#"{"k":1}"#, Some("{}")), image("t", r#"{"k":2}"#, None));
        let mut notes = journal.images(7, std::slice::from_ref(&a));
        let write = move || {
            assert!(!notes.is_first("t", r#"{"k":1}"#.to_owned()), "it is known from before");
            assert!(notes.is_first("t", r#"{"k":2}"#.to_owned()));
            assert!(!notes.is_first("t", r#"{"k":2}"#.to_owned()));
            assert!(notes.is_first("u", r#"{"k":1}"#.to_owned()), "another table's key is another key");
            notes.write(&[image("t", r#"{"k":2}"#, None), image("t", r#"{"k":1}"#, Some("{}"))]).unwrap();
        };
        std::thread::spawn(write).join().expect("the sink's thread writes images");
        journal.images(8, &[]).write(std::slice::from_ref(&b)).unwrap();
        drop(journal); // a crash

        let (journal, contents) = form.journal();
        assert_eq!(contents.images, BTreeMap::from([(7, vec![a, b.clone()]), (8, vec![b.clone()])]));
        journal.forget_images(7).unwrap();
        journal.forget_images(9).expect("there is nothing to delete");
        assert_eq!(form.journal().1.images, BTreeMap::from([(8, vec![b])]));
    });
}

#[test]
fn i8_a_fenced_host_cannot_write_to_the_journal() {
    on_each_form(|form| {
        let (old, _) = form.journal();
        let (_new, _) = form.journal();
        let floor = Floor { partition: Partition(0), offset: Offset(1), append_time: AppendTime::at(5) };
        assert!(matches!(old.write_floors(&[floor]), Err(Error::Fenced(_))));
        assert!(matches!(old.confirm(), Err(Error::Fenced(_))));
        assert!(form.journal().1.floors.is_empty());
    });
}

#[test]
fn a_journal_of_a_newer_format_is_refused() {
    on_each_form(|form| {
        form.open().write(vec![put(b"frontier", b"{}")]).unwrap();
        let (exit, message) = said(Journal::over(form.open()).err().expect("it is not readable"));
        assert_eq!(exit, Exit::State);
        assert!(message.contains(PATH) && message.contains("or a newer one"), "{message}");
    });
}

#[test]
fn a_stored_journal_is_what_it_always_was() {
    let form = Form::Memory(MemoryDisk::default());
    let (mut journal, _) = form.journal();
    let offsets = BTreeMap::from([(Partition(0), Offset(3))]);
    journal.write_beginning(&Beginning { offsets, sink_length: None, letters_length: Some(2) }).unwrap();
    let next = BTreeMap::from([(Partition(0), Offset(6))]);
    journal.write_frontier(&Frontier { last: position(50, 0, 5), next }).unwrap();
    journal
        .write_floors(&[Floor { partition: Partition(1), offset: Offset(2), append_time: AppendTime::at(60) }])
        .unwrap();
    journal.write_strikes(&[strike(struck(1), "why")], 4).unwrap();
    journal.images(5, &[]).write(&[image("t", "{}", None)]).unwrap();
    assert_eq!(form.text(), JOURNAL);
}

#[test]
fn a_journal_from_which_something_is_missing_is_refused_and_one_of_an_earlier_version_is_read() {
    let whole = || {
        let form = Form::Memory(MemoryDisk::default());
        let (mut journal, _) = form.journal();
        let offsets = BTreeMap::from([(Partition(0), Offset(3))]);
        journal.write_beginning(&Beginning { offsets, sink_length: None, letters_length: None }).unwrap();
        let next = BTreeMap::from([(Partition(0), Offset(6))]);
        journal.write_frontier(&Frontier { last: position(50, 0, 5), next }).unwrap();
        let floor = |time| Floor { partition: Partition(0), offset: Offset(2), append_time: AppendTime::at(time) };
        journal.write_floors(&[floor(60)]).unwrap();
        journal.write_floors(&[floor(70)]).unwrap(); // of the same record
        journal.write_strikes(&[strike(struck(1), "why")], 4).unwrap();
        form
    };
    let floor = b"floor/\0\0\0\0\0\0\0\0\0\0\0\x02";
    let lost: [(&[u8], &str); 4] = [
        (floor, "lacks floors"),
        (b"strike/\0\0\0\0\0\0\0\0", "lacks strikes"),
        (b"beginning", "lacks where the lane began"),
        (b"write-of-frontier", "lacks the last frontier"),
    ];
    for (key, words) in lost {
        let form = whole();
        assert!(form.journal().1.beginning.is_some());
        form.open().write(vec![(key.to_vec(), None)]).unwrap();
        let (exit, message) = said(Journal::over(form.open()).err().expect("it is not whole"));
        assert_eq!(exit, Exit::State);
        assert!(message.contains(PATH) && message.contains(words), "{message}");
    }
    let form = whole();
    form.open().write(vec![(b"head".to_vec(), None), (b"write-of-frontier".to_vec(), None)]).unwrap();
    let (mut journal, contents) = form.journal();
    assert_eq!((contents.floors.len(), contents.head.writes), (1, 0));
    journal.write_strikes(&[strike(struck(2), "why")], 4).unwrap();
    assert_eq!(form.journal().1.strikes[&4].len(), 2);
}

/// Entries as they were first written.
const JOURNAL: [&str; 7] = [
    r#"beginning = {"offsets":{"0":3},"sink_length":null,"letters_length":2}"#,
    r#"floor/\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02 = [[1,2],60]"#,
    r#"frontier = {"last":{"append_time":50,"partition":0,"offset":5},"next":{"0":6}}"#,
    r#"head = {"writes":4,"frontier":2,"floors":1,"strikes":1,"began":true}"#,
    r#"image/\x00\x00\x00\x00\x00\x00\x00\x05t\x00{} = {"table":"t","key":"{}","row":null}"#,
    r#"strike/\x00\x00\x00\x00\x00\x00\x00\x00 = [{"Event":{"partition":1,"offset":1,"event":0}},"why",4]"#,
    r#"write-of-frontier = 2"#,
];
