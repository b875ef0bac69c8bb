//! SlateDB as the host opens it.

use super::*;
use crate::state::scripted::Scripted;

const NOW: i64 = 1_800_000_000_000;
const HOUR: i64 = 3_600_000;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("it starts")
}

fn put(slate: &Slate<Db>, key: &str) {
    slate.write(vec![(key.into(), Some(b"value".to_vec()))]).expect("it is written");
}

fn holds(slate: &impl Entries, keys: [&str; 2]) -> bool {
    slate.get(&keys.map(str::as_bytes)).expect("it is readable").iter().all(Option::is_some)
}

#[test]
fn a_database_whose_clock_goes_back_an_hour_goes_on() {
    let runtime = runtime();
    // A host that closes leaves its last write in a file of the tree; one that is killed leaves it in the write-ahead log.
    for is_killed in [false, true] {
        let objects: Arc<dyn ObjectStore> = Arc::new(Scripted::default());
        let open = |now_ms| Slate::open_at(now_ms, Arc::clone(&objects), "lanes/0", runtime.handle().clone());
        let first = open(NOW + HOUR).expect("it is new");
        put(&first, "a");
        if !is_killed {
            first.close().expect("it closes");
        }
        let second = open(NOW).expect("it opens");
        let last = runtime.block_on(ticks::last_tick("lanes/0", &objects)).expect("it is readable");
        assert!(last.is_some_and(|last| last >= NOW + HOUR), "killed: {is_killed}: {last:?}");
        put(&second, "b");
        second.close().expect("it closes");
        let third = open(NOW - HOUR).expect("it opens");
        assert!(holds(&third, ["a", "b"]), "killed: {is_killed}");
        put(&third, "c");
    }
}

#[test]
fn indexes_are_read_once_and_not_for_each_key() {
    let runtime = runtime();
    let scripted = Arc::new(Scripted::default());
    let objects: Arc<dyn ObjectStore> = Arc::clone(&scripted) as _;
    let key = |n: usize| format!("key {n:08}").into_bytes();
    let slate = Slate::open(Arc::clone(&objects), "lanes/0", runtime.handle().clone()).expect("it is new");
    slate.write((0..20_000).map(|n| (key(n), Some(vec![7; 100]))).collect()).expect("it is written");
    slate.close().expect("it closes");
    let keys: Vec<_> = (5_000..6_000).map(key).collect();
    let keys: Vec<_> = keys.iter().map(Vec::as_slice).collect();
    let check = |slate: &dyn Entries| {
        let before = scripted.reads.load(Ordering::SeqCst);
        assert!(slate.get(&keys).expect("it is readable").iter().all(Option::is_some));
        let reads = scripted.reads.load(Ordering::SeqCst) - before;
        // A thousand keys lie in some thirty blocks. Reads at the same time may each load a block that is not there yet, but no index.
        let most = keys.len() as u64 + 50;
        assert!(reads < most, "{reads} reads for {} keys", keys.len());
    };
    check(&Slate::open(Arc::clone(&objects), "lanes/0", runtime.handle().clone()).expect("it opens"));
    check(&Slate::open_reader(&objects, "lanes/0", runtime.handle()).expect("it opens").expect("it exists"));
}

#[test]
fn a_rising_clock_begins_where_it_is_told_and_never_goes_back() {
    let began = clock::instant();
    let clock = RisingClock::from(NOW);
    let (first, second) = (clock.now().timestamp_millis(), clock.now().timestamp_millis());
    assert!(NOW <= first && first <= second);
    assert!(second - NOW <= i64::try_from(clock::since(began).as_millis()).expect("it is short") + 1);
}
