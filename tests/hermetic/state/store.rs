//! A lane's keyed state, timers and checkpoint, on objects in memory and in a folder.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use keyfold::event_time::{AppendTime, EventTime, LaneTime};
use keyfold::failure::Exit;
use keyfold::position::{LastRecord, Offset, Partition};
use keyfold::state::chain::Chain;
use keyfold::state::checkpoint::{Checkpoint, FORMAT, PartitionProgress};
use keyfold::state::database::Error;
use keyfold::state::manifest::Manifest;
use keyfold::state::reader::Reader;
use keyfold::state::store::{Store, Stores};
use keyfold::state::{KeyState, Shard, Slot, hash, shard_of};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use tokio::runtime::Runtime;

use super::{PATH, said};

const SHARDS: usize = 3;

/// Runs a check on objects in memory and in a folder, each time with nothing there.
fn on_each_store(check: impl Fn(&Stores)) {
    let runtime = Runtime::new().expect("threads can be started");
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let local = LocalFileSystem::new_with_prefix(folder.path()).expect("the folder exists");
    for objects in [Arc::new(InMemory::new()) as Arc<dyn ObjectStore>, Arc::new(local)] {
        println!("on {objects}:");
        check(&Stores { objects, runtime: runtime.handle().clone() });
    }
}

fn open(stores: &Stores) -> Store {
    stores.open(PATH).expect("the store is readable")
}

/// The names of the objects under a path.
fn under(stores: &Stores, path: &str) -> Vec<Path> {
    use futures::TryStreamExt;
    let found = stores.objects.list(Some(&Path::from(path))).map_ok(|object| object.location);
    let mut found: Vec<Path> = stores.runtime.block_on(found.try_collect()).expect("they are listed");
    found.sort();
    found
}

/// A lane's keys in memory.
struct Keys(Vec<Shard>);

impl Keys {
    fn new() -> Keys {
        Keys((0..SHARDS).map(|_| Shard::default()).collect())
    }

    /// Changes a key whose state is in memory.
    fn change(&mut self, key: &str, change: impl FnOnce(&mut Slot)) {
        let hash = hash(key.as_bytes());
        let shard = &mut self.0[shard_of(hash, SHARDS)];
        let slot = shard.slot_of(hash, key.as_bytes(), true);
        shard.set_version(slot, 1);
        change(shard.change(slot));
    }

    fn set(&mut self, key: &str, value: &str, timer: i64) {
        self.change(key, |slot| {
            slot.set_value(Some(value.as_bytes()));
            slot.set_timer(Some(EventTime::at(timer)));
        });
    }

    fn append(&mut self, key: &str, items: std::ops::Range<u32>) {
        self.change(key, |slot| items.for_each(|i| slot.append([format!("item {i:020}").as_bytes()].into_iter())));
    }

    fn clear(&mut self, key: &str) {
        self.change(key, Slot::clear);
    }

    /// The state of a key that is in memory.
    fn get(&mut self, key: &str) -> Option<KeyState> {
        let hash = hash(key.as_bytes());
        let shard = &mut self.0[shard_of(hash, SHARDS)];
        shard.contains(hash, key.as_bytes()).then(|| {
            let slot = shard.slot_of(hash, key.as_bytes(), false);
            assert!(shard.slot(slot).loaded, "key {key} is in memory without its state");
            shard.slot(slot).state()
        })
    }

    /// Takes a checkpoint.
    fn write(&mut self, store: &mut Store, next: &[u64], probation: Option<u64>) -> Result<u64, Error> {
        store.write(checkpoint(next), &mut self.0, probation)
    }
}

/// The state of these keys as a store holds it, read as a batch reads it.
fn read(store: &Store, keys: &[&str]) -> Vec<KeyState> {
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let found = store.read(&keys).expect("the store is readable");
    found.into_iter().map(|found| found.map(|(state, _)| state).unwrap_or_default()).collect()
}

/// All keys of a store with their state, in key order.
fn all(store: &mut Store) -> Vec<(String, KeyState)> {
    let (mut pages, mut all) = (store.pages(), Vec::new());
    loop {
        let page = pages.next(true).expect("the store is readable").expect("it was waited for");
        if page.is_empty() {
            return all;
        }
        all.extend(page.into_iter().map(|(key, state, _)| (String::from_utf8(key).expect("it is text"), state)));
    }
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
        held: None,
        state_version: None,
    }
}

#[test]
fn a_checkpoint_comes_back_with_the_state_of_its_keys() {
    on_each_store(|stores| {
        let (mut store, mut keys) = (open(stores), Keys::new());
        assert_eq!(store.checkpoint(), None);
        keys.set("a", "1", 10);
        keys.append("a", 0..3);
        for round in 0..5 {
            keys.append("long", round * 100..(round + 1) * 100);
            let bytes = keys.write(&mut store, &[u64::from(round) + 1], None).expect("it is the owner");
            assert!((2_000..4_000).contains(&bytes), "{bytes} bytes: what was appended is written, and no more");
        }
        let bytes = keys.write(&mut store, &[6], None).expect("it is the owner");
        assert_eq!(bytes, 0, "what did not change is not written");
        drop(store); // a crash

        let mut store = open(stores);
        assert_eq!(store.checkpoint(), Some(&checkpoint(&[6])));
        let found = read(&store, &["long", "none", "a"]);
        assert_eq!(found, [keys.get("long").unwrap(), KeyState::default(), keys.get("a").unwrap()]);
        assert_eq!(found[0].list.len(), 500);
        keys.clear("a");
        keys.write(&mut store, &[6, 1], None).expect("it is the owner");
        assert_eq!(read(&open(stores), &["a"]), [KeyState::default()]);
    });
}

#[test]
fn many_checkpoints_are_merged_and_nothing_of_a_key_without_state_is_left() {
    on_each_store(|stores| {
        let (mut store, mut keys) = (open(stores), Keys::new());
        for round in 1..=60u64 {
            (0..40).for_each(|i| keys.set(&format!("key {}", (round * 7 + i) % 100), &round.to_string(), 5));
            keys.append("long", 0..30);
            (0..10).for_each(|i| keys.clear(&format!("key {}", (round * 3 + i) % 100)));
            keys.write(&mut store, &[round], None).expect("it is the owner");
        }
        let mut expected: Vec<(String, KeyState)> = Vec::new();
        for name in (0..100).map(|i| format!("key {i}")).chain(["long".to_owned()]) {
            expected.extend(keys.get(&name).filter(|state| !state.is_empty()).map(|state| (name, state)));
        }
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(expected.len() > 50, "some have state");
        let mut store = open(stores);
        assert_eq!(all(&mut store), expected);
        let names: Vec<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        assert!(read(&store, &names).iter().eq(expected.iter().map(|(_, state)| state)));
        let links = || under(stores, &format!("{PATH}/manifests"));
        assert!((0..10_000).any(|_| links().len() <= 4), "manifests that are not needed are deleted: {:?}", links());
        let runs = manifest(stores).contents.runs;
        assert!(runs.len() < 20, "{} runs of 60 checkpoints", runs.len());
        store.clear().expect("it is the owner");
        assert_eq!((store.checkpoint(), under(stores, &format!("{PATH}/files"))), (None, Vec::new()));
        assert_eq!(all(&mut open(stores)), []);
    });
}

fn manifest(stores: &Stores) -> Manifest {
    let links = stores.runtime.block_on(Chain::read(&stores.objects, &format!("{PATH}/manifests")));
    Manifest::decode(&links.expect("it is readable").last().expect("it was opened").body).expect("it is readable")
}

#[test]
fn what_changes_while_a_checkpoint_is_taken_belongs_to_the_next_one() {
    on_each_store(|stores| {
        let (mut store, mut keys) = (open(stores), Keys::new());
        (0..100).for_each(|i| keys.set(&format!("key {i}"), "first", i));
        keys.append("list", 0..100);
        store.begin(checkpoint(&[1]), None);
        keys.0.iter_mut().for_each(Shard::begin_capture);
        let mut at = 0;
        loop {
            let left: usize = keys.0.iter_mut().map(|shard| shard.capture(5)).sum();
            keys.set(&format!("key {at}"), "second", 7); // of which some were captured before
            keys.append("list", 100..110);
            keys.clear(&format!("key {}", 99 - at));
            keys.set(&format!("new {at}"), "second", 7);
            at += 1;
            if left == 0 {
                break;
            }
        }
        assert!(at > 3, "it took several steps");
        for shard in &mut keys.0 {
            shard.captured(0).map_or(Ok(()), |part| store.add(part)).expect("it is the owner");
        }
        while store.uploads().expect("it is the owner") > 0 {}
        store.commit((None, Some(1)), None).expect("it is the owner");
        while store.committed().expect("it is the owner").is_none() {}
        keys.0.iter_mut().for_each(Shard::free_emptied);
        let mut found = all(&mut open(stores));
        let list = found.pop().expect("it is the last").1;
        assert_eq!(list.list.len(), 100);
        assert!(found.len() == 100 && found.iter().all(|(_, state)| state.value.as_deref() == Some(&b"first"[..])));

        let mut store = open(stores);
        keys.write(&mut store, &[2], None).expect("it is the owner");
        let found = all(&mut open(stores));
        assert!(found.iter().all(|(name, state)| keys.get(name).as_ref() == Some(state)), "{found:?}");
        assert_eq!(found.len(), 100 - at + at + 1, "some have lost their state, and as many are new");
    });
}

/// A store of objects of which one write fails: before it has its effect, or after.
#[derive(Debug)]
struct Failing {
    inner: InMemory,
    /// Writes until it fails; less than 0 once it has failed.
    left: AtomicI64,
    is_late: bool,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Failing")
    }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, to: &Path, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        let fails = self.left.fetch_sub(1, Ordering::SeqCst) == 0;
        let failed = || object_store::Error::Generic { store: "failing", source: "it was made to fail".into() };
        if fails && !self.is_late {
            return Err(failed());
        }
        let put = self.inner.put_opts(to, payload, opts).await;
        if fails { Err(failed()) } else { put }
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, opts).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[test]
fn a_checkpoint_and_its_state_are_written_together_or_not_at_all() {
    let runtime = Runtime::new().expect("threads can be started");
    let mut outcomes = (0, 0);
    for (is_late, at) in [false, true].into_iter().flat_map(|late| (0..4).map(move |at| (late, at))) {
        let failing = Arc::new(Failing { inner: InMemory::new(), left: AtomicI64::new(i64::MAX), is_late });
        let stores = Stores { objects: Arc::clone(&failing) as _, runtime: runtime.handle().clone() };
        let (mut store, mut keys) = (open(&stores), Keys::new());
        (0..100).for_each(|i| keys.set(&format!("key {i}"), "before", i));
        keys.write(&mut store, &[1], None).expect("it is the owner");
        (0..100).for_each(|i| keys.set(&format!("key {i}"), "after", i));
        failing.left.store(at, Ordering::SeqCst);
        let written = keys.write(&mut store, &[2], Some(7));
        drop(store);
        failing.left.store(i64::MAX, Ordering::SeqCst);
        let store = open(&stores);
        let is_after = store.checkpoint() == Some(&checkpoint(&[2]));
        assert!(written.is_err(), "write {at} failed");
        let value = if is_after { "after" } else { "before" };
        let names: Vec<String> = (0..100).map(|i| format!("key {i}")).collect();
        for state in read(&store, &names.iter().map(String::as_str).collect::<Vec<_>>()) {
            assert_eq!(state.value.as_deref(), Some(value.as_bytes()), "late {is_late} at write {at}");
        }
        assert_eq!(store.undo_of(), is_after.then_some(7), "what undoes it is part of the same write");
        outcomes = (outcomes.0 + u32::from(is_after), outcomes.1 + u32::from(!is_after));
    }
    assert_eq!(outcomes, (1, 7), "only the manifest makes it valid: three files, and then that");
}

#[test]
fn i8_a_fenced_host_cannot_write_a_checkpoint() {
    on_each_store(|stores| {
        let (mut old, mut none) = (open(stores), Keys::new());
        old.ask_ownership().expect("it is the owner");
        none.write(&mut old, &[1], None).expect("it is the owner");
        let mut new = open(stores);
        none.write(&mut new, &[2], None).expect("it is the owner");
        let asked = std::iter::repeat_with(|| old.ask_ownership()).find(Result::is_err);
        assert!(matches!(asked, Some(Err(Error::Fenced(_)))));
        let (exit, message) = said(none.write(&mut old, &[3], None).expect_err("it is fenced"));
        assert_eq!(exit, Exit::State);
        assert!(message.contains(PATH) && message.contains("another host has taken over"), "{message}");
        (0..3).for_each(|_| new.ask_ownership().expect("it is the owner"));
        assert_eq!(open(stores).checkpoint(), Some(&checkpoint(&[2])));
    });
}

#[test]
fn i10_taking_a_deployment_back_restores_the_state_before_it_exactly() {
    on_each_store(|stores| {
        let (mut store, mut keys) = (open(stores), Keys::new());
        keys.set("changed", "before", 10);
        keys.set("deleted", "before", 20);
        keys.set("kept", "before", 30);
        keys.append("list", 0..200);
        keys.write(&mut store, &[1], None).expect("it is the owner");
        let before = all(&mut store);
        for round in 2..40u64 {
            keys.set("changed", &round.to_string(), 10 + round.cast_signed());
            keys.set(&format!("new {round}"), "new", 5);
            keys.append("list", 200..300);
            keys.clear("deleted");
            keys.write(&mut store, &[round], Some(7)).expect("it is the owner");
            assert_eq!(store.undo_of(), Some(7));
            if round % 10 == 0 {
                store = open(stores); // what was kept is known after a restart too
                assert_eq!(store.undo_of(), Some(7));
            }
        }
        assert_eq!(read(&store, &["changed"])[0].value.as_deref(), Some(&b"39"[..]));
        store.take_back().expect("it is the owner");
        assert_eq!((store.undo_of(), store.checkpoint()), (None, Some(&checkpoint(&[1]))));
        assert_eq!(
            (all(&mut store), all(&mut open(stores))),
            (before.clone(), before),
            "all of it, however much was merged since"
        );
    });
}

#[test]
fn i10_what_undoes_a_deployment_goes_once_it_stays() {
    on_each_store(|stores| {
        let (mut store, mut keys) = (open(stores), Keys::new());
        keys.set("a", "1", 1);
        keys.write(&mut store, &[1], None).expect("it is the owner");
        keys.set("a", "2", 1);
        keys.write(&mut store, &[2], Some(7)).expect("it is the owner");
        let undo = |stores: &Stores| manifest(stores).undo.map(|(of, contents)| (of, contents.checkpoint));
        assert_eq!(undo(stores), Some((7, Some(checkpoint(&[1])))));
        keys.write(&mut store, &[3], Some(8)).expect("it is the owner");
        assert_eq!(undo(stores), Some((8, Some(checkpoint(&[2])))), "that of the former deployment is gone");
        keys.write(&mut store, &[4], None).expect("it is the owner");
        assert_eq!((undo(stores), store.undo_of()), (None, None));
    });
}

#[test]
fn timers_are_found_in_order_up_to_a_bound() {
    on_each_store(|stores| {
        let (mut store, mut keys) = (open(stores), Keys::new());
        (-50..150i64).for_each(|i| keys.set(&format!("key {i}"), "v", i * 7 % 200));
        keys.write(&mut store, &[1], None).expect("it is the owner");
        let (mut from, mut watermark, mut found) = (None, -350, 0);
        loop {
            let (due, next) = store.timers(from, EventTime::at(watermark)).expect("it is readable");
            let low = from.map_or(i64::MIN, EventTime::ms);
            let expected = (-50..150i64).filter(|i| (low..=watermark).contains(&(i * 7 % 200)));
            let mut expected: Vec<Vec<u8>> = expected.map(|i| format!("key {i}").into_bytes()).collect();
            expected.sort();
            assert_eq!(due, expected, "from {from:?} up to {watermark}");
            found += due.len();
            let Some(next) = next else { break };
            assert!(next > EventTime::at(watermark), "it is due already");
            (from, watermark) = (Some(next), next.ms() + 30);
        }
        assert_eq!(found, 200);
    });
}

#[test]
fn a_timer_that_was_moved_is_found_at_its_new_time_too() {
    on_each_store(|stores| {
        let (mut store, mut keys) = (open(stores), Keys::new());
        keys.set("a", "1", 10);
        keys.write(&mut store, &[1], None).expect("it is the owner");
        keys.set("a", "1", 20);
        keys.write(&mut store, &[2], None).expect("it is the owner");
        let timers = |from, until| store.timers(from, EventTime::at(until)).expect("it is readable");
        assert_eq!(timers(None, 9), (vec![], Some(EventTime::at(10))));
        assert_eq!(timers(Some(EventTime::at(11)), 25), (vec![b"a".to_vec()], None));
        assert_eq!(read(&store, &["a"])[0].timer, Some(EventTime::at(20)), "and its record tells which is right");
    });
}

#[test]
fn a_reader_sees_one_checkpoint_and_fences_nobody() {
    on_each_store(|stores| {
        let (mut store, mut keys) = (open(stores), Keys::new());
        (0..600).for_each(|i| keys.set(&format!("key {i:03}"), "1", i));
        keys.set("", "the empty key", 1);
        keys.append("long", 0..200);
        keys.write(&mut store, &[1], None).expect("it is the owner");
        let reader = Reader::open(&stores.objects, PATH, &stores.runtime).expect("it is readable").expect("it exists");
        keys.set("key 000", "2", 0);
        keys.write(&mut store, &[2], None).expect("it is not fenced");
        assert_eq!(reader.checkpoint(), Some(&checkpoint(&[1])));
        let first = reader.key(b"key 000").unwrap().expect("it has state");
        assert_eq!(first.state.value.as_deref(), Some(&b"1"[..]));
        assert_eq!(reader.key(b"long").unwrap().expect("it has state").state, keys.get("long").unwrap());
        assert!(reader.key(b"key").unwrap().is_none(), "a prefix of a key is another key");
        assert_eq!(reader.keys(4).unwrap().last().expect("four").key, b"key 002");
        assert!(reader.keys(0).unwrap().is_empty());
        let mut found = Vec::new();
        let mut take = |key: keyfold::state::reader::StoredKey| {
            found.push(String::from_utf8(key.key).expect("it is text"));
            true
        };
        reader.each(b"key ", &mut take).expect("it is readable");
        assert!(found.iter().eq((0..600).map(|i| format!("key {i:03}")).collect::<Vec<_>>().iter()));
        assert!(Reader::open(&stores.objects, "lanes/none", &stores.runtime).expect("it is readable").is_none());
    });
}

#[test]
fn damaged_or_missing_files_are_refused_by_name() {
    let runtime = Runtime::new().expect("threads can be started");
    let stores = Stores { objects: Arc::new(InMemory::new()), runtime: runtime.handle().clone() };
    let mut keys = Keys::new();
    (0..100).for_each(|i| keys.set(&format!("key {i}"), "before", i));
    keys.write(&mut open(&stores), &[1], None).expect("it is the owner");
    for file in under(&stores, &format!("{PATH}/files")) {
        let whole = runtime.block_on(async { stores.objects.get(&file).await.expect("it is there").bytes().await });
        let whole = whole.expect("it is memory");
        let mut damaged = vec![None, Some(whole[..whole.len() - 1].to_vec()), Some(whole[1..].to_vec())];
        damaged.extend((0..whole.len()).step_by(97).map(|at| {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 4;
            Some(bytes)
        }));
        for bytes in damaged {
            match bytes {
                Some(bytes) => drop(runtime.block_on(stores.objects.put(&file, bytes.into())).expect("it is memory")),
                None => runtime.block_on(stores.objects.delete(&file)).expect("it is there"),
            }
            let names: Vec<String> = (0..100).map(|i| format!("key {i}")).collect();
            let keys: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
            let refused = stores.open(PATH).and_then(|store| {
                store.read(&keys)?;
                store.timers(None, EventTime::at(99)).map(drop)
            });
            let (exit, message) = said(refused.expect_err("it is not what was written"));
            assert_eq!(exit, Exit::State, "{message}");
            assert!(message.contains(file.as_ref()) && message.contains("keyfold reset"), "{message}");
        }
        runtime.block_on(stores.objects.put(&file, whole.into())).expect("it is memory");
    }
    assert_eq!(read(&open(&stores), &["key 7"])[0].value.as_deref(), Some(&b"before"[..]));
}

#[test]
#[should_panic(expected = "a checkpoint goes back")]
fn a_checkpoint_never_covers_less_than_the_one_before() {
    let runtime = Runtime::new().expect("threads can be started");
    let stores = Stores { objects: Arc::new(InMemory::new()), runtime: runtime.handle().clone() };
    let mut none = Keys::new();
    none.write(&mut open(&stores), &[5, 7], None).expect("it is the owner");
    let mut store = open(&stores);
    none.write(&mut store, &[6, 7], None).expect("it is the owner");
    let _ = none.write(&mut store, &[8, 6], None);
}

#[test]
fn stored_state_is_what_it_always_was() {
    let runtime = Runtime::new().expect("threads can be started");
    let stores = Stores { objects: Arc::new(InMemory::new()), runtime: runtime.handle().clone() };
    let (mut store, mut keys) = (open(&stores), Keys::new());
    keys.set("k", "v", 258);
    keys.write(&mut store, &[1], None).expect("it is the owner");
    keys.append("k", 0..1);
    keys.write(&mut store, &[2], Some(3)).expect("it is the owner");
    assert_eq!(String::from_utf8(manifest(&stores).encode()).expect("it is JSON"), MANIFEST);
    let last = under(&stores, &format!("{PATH}/files")).pop().expect("there are two");
    let bytes = runtime.block_on(async { stores.objects.get(&last).await.expect("it is there").bytes().await });
    assert_eq!(bytes.expect("it is memory").escape_ascii().to_string(), FILE);
}

/// A manifest of format 1, as it was first written.
const MANIFEST: &str = r#"{"format":1,"checkpoint":{"format":1,"partitions":{"0":{"envelope":20,"last":{"offset":1,"timestamp":1,"fingerprint":2}}},"last":null,"time":{"watermark":-9223372036854775808,"last_append_time":-9223372036854775808,"base":-9223372036854775808},"deployment":1,"sink_length":null,"letters_length":2},"runs":[[{"name":"0000000001-0000000001","size":89,"meta":52,"digest":"ce98ec59aa86be44","first":"aw==","last":"aw==","keys":1}],[{"name":"0000000001-0000000000","size":63,"meta":26,"digest":"5f7ab69177b0d758","first":"aw==","last":"aw==","keys":1}]],"undo":[3,{"checkpoint":{"format":1,"partitions":{"0":{"envelope":10,"last":{"offset":0,"timestamp":1,"fingerprint":1}}},"last":null,"time":{"watermark":-9223372036854775808,"last_append_time":-9223372036854775808,"base":-9223372036854775808},"deployment":1,"sink_length":null,"letters_length":1},"runs":[[{"name":"0000000001-0000000000","size":63,"meta":26,"digest":"5f7ab69177b0d758","first":"aw==","last":"aw==","keys":1}]]}]}"#;
/// A file of format 1, as it was first written.
const FILE: &str = r"\x01\'k\x03\x01\x02\x01\x00\x00\x00\x00\x00\x00\x01v\x01\x19item 00000000000000000000\x80\x00\x00\x00\x00\x00\x01\x02\x01k\x01\x01\x01k\x00*^x[\xb5\x92\x9d1!\x01\x08\x80\x00\x00\x00\x00\x00\x01\x02*\n\x16#\x94\xd6I\xf7\xe3C\x02\x0f\xe0";
