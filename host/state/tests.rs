//! Shards: hashes, and keys that leave memory and come back.

use std::hash::{BuildHasher, RandomState};

use super::*;

#[test]
fn keys_that_collide_cannot_be_prepared() {
    let of_a_known_seed = foldhash::fast::FixedState::with_seed(0x6b65_7966_6f6c_6421);
    let keys: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
    assert!(keys.iter().any(|key| hash(key) != of_a_known_seed.hash_one(key)), "the seed is in the source");
    let (seed, shared) = &*SEEDS;
    let (other, other_shared) = (RandomState::new().hash_one(1), SharedSeed::from_u64(1));
    let with = |seed: u64, shared: &SharedSeed| {
        let mut hasher = FoldHasher::with_seed(seed, shared);
        b"key"[..].hash(&mut hasher);
        hasher.finish()
    };
    assert_eq!(hash(b"key"), with(*seed, shared), "it is the same throughout a process");
    assert_ne!(with(*seed, shared), with(other, &other_shared));
}

/// A shard with these keys, each captured with a value and a timer.
fn captured(keys: &[&str]) -> Shard {
    let mut shard = Shard::default();
    for (ms, key) in (0..).zip(keys) {
        let slot = shard.slot_of(hash(key.as_bytes()), key.as_bytes(), true);
        shard.change(slot).set_value(Some(b"value"));
        shard.change(slot).set_timer(Some(EventTime::at(ms)));
        shard.schedule(slot);
    }
    shard.begin_capture();
    shard.capture(usize::MAX);
    shard.captured(0);
    shard
}

fn slot(shard: &mut Shard, key: &str) -> SlotId {
    shard.slot_of(hash(key.as_bytes()), key.as_bytes(), false)
}

fn keys(shard: &Shard, of: &[&str]) -> Vec<bool> {
    of.iter().map(|key| shard.contains(hash(key.as_bytes()), key.as_bytes())).collect()
}

#[test]
fn only_what_a_durable_checkpoint_has_is_evicted_and_what_was_met_gets_a_second_chance() {
    let names = ["a", "b", "c", "d"];
    let mut shard = captured(&names);
    let memory = shard.memory();
    let all = |shard: &mut Shard| shard.evict(u64::MAX, 100, None).keys + shard.evict(u64::MAX, 100, None).keys;
    assert_eq!(all(&mut shard), 0, "its checkpoint is not durable");
    shard.end_capture();
    assert_eq!(shard.evict(u64::MAX, 100, None).keys, 0, "each was met when it was made");
    let changed = slot(&mut shard, "b");
    shard.change(changed).set_value(None);
    slot(&mut shard, "c");
    assert_eq!(shard.evict(u64::MAX, 100, Some(EventTime::at(0))).keys, 1);
    assert_eq!(keys(&shard, &names), [true, true, true, false], "one has a timer, one changed, one was met");
    let evicted = shard.evict(u64::MAX, 100, None);
    assert_eq!((evicted.keys, evicted.timer), (2, Some(EventTime::at(0))));
    assert_eq!(keys(&shard, &names), [false, true, false, false]);
    assert_eq!(shard.memory() * 4, memory, "memory is counted");
    assert_eq!((shard.held().keys, shard.moved().1.keys, shard.moved().1.bytes), (1, 3, 18));
    assert_eq!(all(&mut shard), 0, "what changed stays until it is captured again");
    shard.begin_capture();
    shard.capture(usize::MAX);
    assert_eq!(all(&mut shard), 0);
    shard.captured(0);
    shard.end_capture();
    assert_eq!(all(&mut shard), 1);
    assert_eq!((shard.memory(), shard.held()), (0, Held::default()));
}

#[test]
fn an_evicted_key_comes_back_with_its_timer_and_without_being_captured_again() {
    let mut shard = captured(&["a", "b"]);
    shard.end_capture();
    let state = {
        let a = slot(&mut shard, "a");
        shard.slot(a).state()
    };
    assert_eq!((0..2).map(|_| shard.evict(u64::MAX, 100, None).keys).sum::<u64>(), 2);
    for round in 0..3 {
        let back = slot(&mut shard, "a");
        assert!(!shard.slot(back).loaded);
        shard.fill(back, Some((state.clone(), 1)));
        assert!(shard.slot(back).has_state(&state));
        assert_eq!(shard.moved().0.keys, round + 1);
        assert_eq!(shard.evict(u64::MAX, 100, None).keys, 0, "it was met just now");
        assert_eq!(shard.evict(u64::MAX, 100, None).keys, 1);
    }
    let back = slot(&mut shard, "a");
    shard.fill(back, Some((state, 1)));
    shard.begin_capture();
    shard.capture(usize::MAX);
    assert!(shard.captured(0).is_none(), "the store has it");
    assert_eq!(shard.pop_due(Some(EventTime::at(9))), Some(back));
    assert_eq!(shard.pop_due(Some(EventTime::at(9))), None, "places that evicted keys have left are passed over");
}
