//! A lane's keyed state, timers and checkpoint.

use keyfold::event_time::{AppendTime, EventTime, LaneTime};
use keyfold::failure::Exit;
use keyfold::position::{LastRecord, Offset, Partition};
use keyfold::state::checkpoint::{Checkpoint, FORMAT, PartitionProgress};
use keyfold::state::database::Error;
use keyfold::state::memory::{Fault, MemoryDisk};
use keyfold::state::store::Store;
use keyfold::state::{KeyState, Shard, ValueBytes, hash, layout, shard_of};

use super::{Form, PATH, on_each_form, put, said};

const SHARDS: usize = 3;

/// A lane's keys in memory.
struct Keys(Vec<Shard>);

impl Keys {
    fn new() -> Keys {
        Keys((0..SHARDS).map(|_| Shard::default()).collect())
    }

    /// Changes a key whose state is in memory.
    fn change(&mut self, key: &str, change: impl FnOnce(&mut KeyState)) {
        let hash = hash(key.as_bytes());
        let shard = &mut self.0[shard_of(hash, SHARDS)];
        let slot = shard.slot_of(hash, key.as_bytes(), true);
        shard.set_version(slot, 1);
        change(&mut shard.change(slot).state);
    }

    fn set(&mut self, key: &str, value: &str, timer: i64) {
        self.change(key, |state| {
            state.value = Some(ValueBytes::from_slice(value.as_bytes()));
            state.timer = Some(EventTime::at(timer));
        });
    }

    fn append(&mut self, key: &str, items: std::ops::Range<u32>) {
        self.change(key, |state| items.for_each(|i| state.list.push(format!("item {i:020}").as_bytes())));
    }

    fn clear(&mut self, key: &str) {
        self.change(key, |state| *state = KeyState::default());
        let hash = hash(key.as_bytes());
        let shard = &mut self.0[shard_of(hash, SHARDS)];
        let slot = shard.slot_of(hash, key.as_bytes(), true);
        shard.change(slot).list_replaced = true;
    }

    /// The state of a key that is in memory.
    fn get(&mut self, key: &str) -> Option<KeyState> {
        let hash = hash(key.as_bytes());
        let shard = &mut self.0[shard_of(hash, SHARDS)];
        shard.contains(hash, key.as_bytes()).then(|| {
            let slot = shard.slot_of(hash, key.as_bytes(), false);
            assert!(shard.slot(slot).loaded, "key {key} is in memory without its state");
            shard.slot(slot).state.clone()
        })
    }

    fn count(&self) -> usize {
        self.0.iter().map(Shard::keys).sum()
    }
}

/// The state of these keys as a store holds it, read as a batch reads it.
fn read(store: &Store, keys: &[&str]) -> Vec<KeyState> {
    let mut shard = Shard::default();
    let slots: Vec<_> = keys.iter().map(|key| shard.slot_of(hash(key.as_bytes()), key.as_bytes(), false)).collect();
    store.fill(&mut shard, &slots).expect("the store is readable");
    slots.into_iter().map(|slot| shard.slot(slot).state.clone()).collect()
}

/// A checkpoint up to these next offsets of partitions 0, 1, ...
fn checkpoint(next: &[u64]) -> Checkpoint {
    let progress = |next: u64| PartitionProgress {
        envelope: AppendTime::at(next.cast_signed() * 10),
        last: LastRecord { offset: Offset(next - 1), timestamp: Some(1), fingerprint: next, digest: None },
    };
    let partitions = (0..).map(Partition).zip(next.iter().map(|&next| progress(next)));
    Checkpoint {
        format: FORMAT,
        partitions: partitions.collect(),
        last: None,
        time: LaneTime::default(),
        deployment: 1,
        sink_length: None,
        letters_length: Some(next[0]),
        journal: None,
    }
}

#[test]
fn a_checkpoint_comes_back_with_the_state_of_its_keys() {
    on_each_form(|form| {
        let (mut store, mut keys) = (form.store(), Keys::new());
        assert_eq!(store.checkpoint().unwrap(), None);
        keys.set("a", "1", 10);
        keys.append("a", 0..3);
        for round in 0..5 {
            keys.append("long", round * 100..(round + 1) * 100);
            let bytes = store.write_checkpoint(&checkpoint(&[u64::from(round) + 1]), &mut keys.0, None).unwrap();
            assert!(bytes > 2_000, "{bytes} bytes");
        }
        let bytes = store.write_checkpoint(&checkpoint(&[6]), &mut keys.0, None).unwrap();
        assert_eq!(bytes, 1 + checkpoint(&[6]).encode().len() as u64, "what did not change is not written");
        drop(store); // a crash

        let mut store = form.store();
        assert_eq!(store.checkpoint().unwrap(), Some(checkpoint(&[6])));
        let found = read(&store, &["long", "none", "a"]);
        assert_eq!(found, [keys.get("long").unwrap(), KeyState::default(), keys.get("a").unwrap()]);
        assert_eq!(found[0].list.len(), 500);
        keys.clear("a");
        store.write_checkpoint(&checkpoint(&[6, 1]), &mut keys.0, None).unwrap();
        store.close().unwrap();
        assert_eq!(read(&form.store(), &["a"]), [KeyState::default()]);
    });
}

#[test]
fn a_checkpoint_and_its_state_are_written_together_or_not_at_all() {
    let mut outcomes = (0, 0);
    for (fault, at) in [Fault::Lost, Fault::AnswerLost].into_iter().flat_map(|f| (0..2).map(move |at| (f, at))) {
        let form = Form::Memory(MemoryDisk::default());
        let Form::Memory(disk) = &form else { unreachable!("it was just made") };
        let (mut store, mut keys) = (form.store(), Keys::new());
        (0..100).for_each(|i| keys.set(&format!("key {i}"), "before", i));
        store.write_checkpoint(&checkpoint(&[1]), &mut keys.0, None).unwrap();
        (0..100).for_each(|i| keys.set(&format!("key {i}"), "after", i));
        disk.fail_after(at, fault);
        let written = store.write_checkpoint(&checkpoint(&[2]), &mut keys.0, Some(7));
        drop(store);
        let mut store = form.store();
        let is_after = store.checkpoint().unwrap() == Some(checkpoint(&[2]));
        assert!(written.is_err() || is_after, "an acknowledged checkpoint is lost");
        let value = if is_after { "after" } else { "before" };
        let names: Vec<String> = (0..100).map(|i| format!("key {i}")).collect();
        for state in read(&store, &names.iter().map(String::as_str).collect::<Vec<_>>()) {
            assert_eq!(state.value.as_deref(), Some(value.as_bytes()), "{fault:?} at call {at}");
        }
        assert_eq!(store.undo_of(), is_after.then_some(7), "what undoes it is part of the same write");
        outcomes = (outcomes.0 + u32::from(is_after), outcomes.1 + u32::from(!is_after));
    }
    assert!(outcomes.0 > 0 && outcomes.1 > 0, "{outcomes:?}");
}

#[test]
fn i8_a_fenced_host_cannot_write_a_checkpoint() {
    on_each_form(|form| {
        let mut old = form.store();
        old.check_ownership().expect("it is the owner");
        old.write_checkpoint(&checkpoint(&[1]), &mut [], None).unwrap();
        let mut new = form.store();
        new.write_checkpoint(&checkpoint(&[2]), &mut [], None).unwrap();
        let (exit, message) = said(old.write_checkpoint(&checkpoint(&[3]), &mut [], None).expect_err("it is fenced"));
        assert_eq!(exit, Exit::State);
        assert!(message.contains(PATH) && message.contains("another host has taken over"), "{message}");
        assert!(matches!(old.check_ownership(), Err(Error::Fenced(_))));
        new.check_ownership().expect("it is the owner");
        assert_eq!(new.checkpoint().unwrap(), Some(checkpoint(&[2])));
    });
}

#[test]
fn i10_taking_a_deployment_back_restores_the_state_before_it_exactly() {
    on_each_form(|form| {
        let (mut store, mut keys) = (form.store(), Keys::new());
        keys.set("changed", "before", 10);
        keys.set("deleted", "before", 20);
        keys.set("kept", "before", 30);
        keys.append("list", 0..200);
        store.write_checkpoint(&checkpoint(&[1]), &mut keys.0, None).unwrap();
        let before = form.dump();
        for (round, value) in [(2, "once"), (3, "twice"), (4, "thrice")] {
            keys.set("changed", value, 10 + i64::try_from(round).unwrap());
            keys.set(&format!("new {round}"), value, 5);
            keys.append("list", 200..300);
            keys.clear("deleted");
            store.write_checkpoint(&checkpoint(&[round]), &mut keys.0, Some(7)).unwrap();
            assert_eq!(store.undo_of(), Some(7));
            store = form.store(); // what was kept is known after a restart too
            assert_eq!(store.undo_of(), Some(7));
        }
        assert_eq!(read(&store, &["changed"])[0].value.as_deref(), Some(&b"thrice"[..]));
        store.take_back().unwrap();
        assert_eq!(store.undo_of(), None);
        assert_eq!(form.dump(), before, "all of it, and no undo entry is left");
        assert_eq!(store.checkpoint().unwrap(), Some(checkpoint(&[1])));
    });
}

#[test]
fn i10_undo_entries_go_once_the_deployment_stays() {
    on_each_form(|form| {
        let (mut store, mut keys) = (form.store(), Keys::new());
        let undo = || form.dump().into_keys().filter(|key| key.starts_with(b"u") || key.starts_with(b"v")).count();
        keys.set("a", "1", 1);
        store.write_checkpoint(&checkpoint(&[1]), &mut keys.0, None).unwrap();
        keys.set("a", "2", 1);
        store.write_checkpoint(&checkpoint(&[2]), &mut keys.0, Some(7)).unwrap();
        assert_eq!(undo(), 3, "the deployment, the checkpoint, the key");
        keys.set("b", "3", 1);
        store.write_checkpoint(&checkpoint(&[3]), &mut keys.0, Some(8)).unwrap();
        assert_eq!(
            undo(),
            4,
            "those of the former deployment are gone: the deployment, the checkpoint, the key, its timer"
        );
        store.write_checkpoint(&checkpoint(&[4]), &mut keys.0, None).unwrap();
        assert_eq!((undo(), store.undo_of()), (0, None));
    });
}

#[test]
fn timers_come_into_memory_in_order_up_to_a_bound() {
    on_each_form(|form| {
        let (mut store, mut keys) = (form.store(), Keys::new());
        (-50..150i64).for_each(|i| keys.set(&format!("key {i}"), "v", i * 7 % 200));
        store.write_checkpoint(&checkpoint(&[1]), &mut keys.0, None).unwrap();
        let mut loaded = Keys::new();
        let (mut from, mut watermark) = (None, -350);
        while let Some(next) = store.load_timers(&mut loaded.0, from, EventTime::at(watermark)).unwrap() {
            assert!(next > EventTime::at(watermark), "it is due already");
            for i in -50..150i64 {
                let (name, timer) = (format!("key {i}"), i * 7 % 200);
                assert_eq!(loaded.get(&name).is_some(), timer <= watermark, "{name}, {timer} at {watermark}");
            }
            (from, watermark) = (Some(next), next.ms() + 30);
        }
        assert_eq!(loaded.count(), 200);
        assert_eq!(loaded.get("key 149"), keys.get("key 149"));
    });
}

#[test]
fn keys_come_into_memory_in_pages() {
    on_each_form(|form| {
        let (mut store, mut keys) = (form.store(), Keys::new());
        (0..150).for_each(|i| keys.set(&format!("key {i:03}"), &i.to_string(), i));
        keys.set("", "the empty key", 1);
        store.write_checkpoint(&checkpoint(&[1]), &mut keys.0, None).unwrap();
        for page in [2, 64, 75, 151, 1_000] {
            let (mut loaded, mut after, mut pages) = (Keys::new(), Vec::new(), 0);
            while let Some(last) = store.load_keys(&mut loaded.0, &after, page).unwrap() {
                assert!(last > after || pages == 0, "a page brings something");
                (after, pages) = (last, pages + 1);
            }
            assert_eq!(loaded.count(), 151, "in pages of {page}");
            for name in ["", "key 000", "key 074", "key 149"] {
                assert_eq!(loaded.get(name), keys.get(name));
            }
        }
    });
}

#[test]
fn a_key_in_memory_is_not_read_again() {
    on_each_form(|form| {
        let (mut store, mut keys) = (form.store(), Keys::new());
        keys.set("a", "stored", 1);
        store.write_checkpoint(&checkpoint(&[1]), &mut keys.0, None).unwrap();
        keys.set("a", "in memory", 2);
        assert_eq!(store.load_keys(&mut keys.0, &[], 10).unwrap(), None);
        assert_eq!(store.load_timers(&mut keys.0, None, EventTime::at(9)).unwrap(), None);
        assert_eq!(keys.get("a").unwrap().value.as_deref(), Some(&b"in memory"[..]));
    });
}

#[test]
fn a_reader_sees_one_checkpoint_and_fences_nobody() {
    on_each_form(|form| {
        let (mut store, mut keys) = (form.store(), Keys::new());
        (0..600).for_each(|i| keys.set(&format!("key {i:03}"), "1", i));
        keys.append("long", 0..200);
        store.write_checkpoint(&checkpoint(&[1]), &mut keys.0, None).unwrap();
        let reader = form.reader();
        keys.set("key 000", "2", 0);
        store.write_checkpoint(&checkpoint(&[2]), &mut keys.0, None).expect("it is not fenced");
        assert_eq!(reader.checkpoint().unwrap(), Some(checkpoint(&[1])));
        let first = reader.key(b"key 000").unwrap().expect("it has state");
        assert_eq!(first.state.value.as_deref(), Some(&b"1"[..]));
        assert_eq!(reader.key(b"long").unwrap().expect("it has state").state, keys.get("long").unwrap());
        assert!(reader.key(b"key").unwrap().is_none(), "a prefix of a key is another key");
        assert_eq!(reader.keys(3).unwrap().last().expect("three").key, b"key 002");
        assert!(reader.keys(0).unwrap().is_empty());
        let mut found = Vec::new();
        reader
            .each(b"key ", |key| {
                found.push(String::from_utf8(key.key).unwrap());
                true
            })
            .unwrap();
        assert!(found.iter().eq((0..600).map(|i| format!("key {i:03}")).collect::<Vec<_>>().iter()));
    });
}

#[test]
fn state_of_a_newer_format_is_refused() {
    on_each_form(|form| {
        let database = form.open();
        database.write(vec![put(layout::CHECKPOINT, br#"{"format":2,"new":[]}"#)]).unwrap();
        database
            .write(vec![put(&layout::record_key(b"newer"), &[9, 0, 1]), put(&layout::record_key(b"short"), &[1])])
            .unwrap();
        let mut store = Store::over(database).expect("it can be opened");
        let refused = |error: Error, parts: &[&str]| {
            let (exit, message) = said(error);
            assert_eq!(exit, Exit::State, "{message}");
            parts.iter().for_each(|part| assert!(message.contains(part), "{message}"));
        };
        refused(store.checkpoint().expect_err("newer"), &[PATH, "has format 2", "run a newer keyfold"]);
        let mut shard = Shard::default();
        let mut fill = |key: &[u8]| {
            let slot = shard.slot_of(hash(key), key, false);
            store.fill(&mut shard, &[slot]).expect_err("it is not readable")
        };
        refused(fill(b"newer"), &[PATH, "\"newer\"", "has format 9", "run a newer keyfold"]);
        refused(fill(b"short"), &[PATH, "\"short\"", "incomplete"]);
    });
}

#[test]
#[should_panic(expected = "a checkpoint goes back")]
fn a_checkpoint_never_covers_less_than_the_one_before() {
    let form = Form::Memory(MemoryDisk::default());
    form.store().write_checkpoint(&checkpoint(&[5, 7]), &mut [], None).unwrap();
    let mut store = form.store();
    store.checkpoint().unwrap();
    store.write_checkpoint(&checkpoint(&[6, 7]), &mut [], None).unwrap();
    let _ = store.write_checkpoint(&checkpoint(&[8, 6]), &mut [], None);
}

#[test]
fn stored_state_is_what_it_always_was() {
    let form = Form::Memory(MemoryDisk::default());
    let (mut store, mut keys) = (form.store(), Keys::new());
    keys.set("k", "v", 258);
    store.write_checkpoint(&checkpoint(&[1]), &mut keys.0, None).unwrap();
    keys.append("k", 0..1);
    store.write_checkpoint(&checkpoint(&[2]), &mut keys.0, Some(3)).unwrap();
    assert_eq!(form.text(), STATE);
}

/// Entries of format 1, as they were first written.
const STATE: [&str; 6] = [
    r#"kk = \x01\x01\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00v\x01\x00\x00\x00\x19\x00\x00\x00item 00000000000000000000"#,
    r#"m = {"format":1,"partitions":{"0":{"envelope":20,"last":{"offset":1,"timestamp":1,"fingerprint":2}}},"last":null,"time":{"watermark":-9223372036854775808,"last_append_time":-9223372036854775808,"base":-9223372036854775808},"deployment":1,"sink_length":null,"letters_length":2}"#,
    r#"t\x80\x00\x00\x00\x00\x00\x01\x02k = "#,
    r#"ukk = \x01\x01\x01\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00v\x00\x00\x00\x00"#,
    r#"um = \x01{"format":1,"partitions":{"0":{"envelope":10,"last":{"offset":0,"timestamp":1,"fingerprint":1}}},"last":null,"time":{"watermark":-9223372036854775808,"last_append_time":-9223372036854775808,"base":-9223372036854775808},"deployment":1,"sink_length":null,"letters_length":1}"#,
    r#"v = \x00\x00\x00\x00\x00\x00\x00\x03"#,
];
