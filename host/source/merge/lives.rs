//! Many lives of a lane on one log, with crashes: what its journal keeps must give every replay the same order.

use super::tests::{numbers, records};
use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below a usize")
    }

    fn up_to(&mut self, most: i64) -> i64 {
        self.below(most.unsigned_abs() + 1).cast_signed()
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

const PARTITIONS: u32 = 3;
const RECORDS: usize = 300;
const SKEW: i64 = 200;

/// Per partition: (offset, timestamp, when it becomes visible).
fn log(random: &mut Random) -> Vec<Vec<(u64, i64, i64)>> {
    let mut log: Vec<Vec<(u64, i64, i64)>> = vec![Vec::new(); PARTITIONS as usize];
    let mut now = 0;
    for _ in 0..RECORDS {
        now += [0, 5, 40, 300][random.index(4)];
        let partition = random.index(PARTITIONS as usize);
        let queue = &mut log[partition];
        let (offset, visible) = queue.last().map_or((0, 0), |l| (l.0 + 1 + random.below(2), l.2));
        let timestamp = match random.below(40) {
            0 => [i64::MAX, -1, crate::record::NO_TIME][random.index(3)],
            _ => now - if partition == 1 { 400 } else { random.up_to(50) },
        };
        queue.push((offset, timestamp, visible.max(now + random.up_to(2000))));
    }
    log
}

#[derive(Clone, Default)]
struct Durable {
    frontier: Option<Frontier>,
    floors: BTreeMap<(Partition, Offset), AppendTime>,
}

#[derive(Clone)]
struct Saved {
    partitions: Vec<(Partition, Resume)>,
    last: Option<Position>,
    order: Vec<(u32, u64)>,
}

fn nothing_saved() -> Saved {
    let partitions = (0..PARTITIONS).map(|p| (Partition(p), Resume { envelope: None, last: None })).collect();
    Saved { partitions, last: None, order: Vec::new() }
}

/// One life of a lane: what it performs is what `lane.rs` does, as far as the order goes.
struct Life<'a> {
    log: &'a [Vec<(u64, i64, i64)>],
    merge: Merge,
    read: Vec<usize>,
    order: Vec<(u32, u64)>,
    asked: bool,
}

impl<'a> Life<'a> {
    fn new(log: &'a [Vec<(u64, i64, i64)>], saved: &Saved, journal: &Durable) -> Life<'a> {
        let (last, frontier) = (saved.last, journal.frontier.clone());
        let merge = Merge::new(&saved.partitions, SKEW, last, frontier, journal.floors.clone());
        let next = |(p, resume): &(Partition, Resume)| {
            let behind = |l: &LastRecord| log[p.0 as usize].partition_point(|r| r.0 <= l.offset.0);
            resume.last.as_ref().map_or(0, behind)
        };
        Life { log, merge, read: saved.partitions.iter().map(next).collect(), order: saved.order.clone(), asked: true }
    }

    /// Pushes what is visible of a partition, up to `most` records; false if it dies before their floors are durable.
    fn read(&mut self, partition: u32, now: i64, most: usize, dies: bool, journal: &mut Durable, keep: bool) -> bool {
        let queue = &self.log[partition as usize];
        let first = self.read[partition as usize];
        let end = queue.partition_point(|r| r.2 <= now).max(first).min(first.saturating_add(most));
        self.read[partition as usize] = end;
        let items: Vec<_> = queue[first..end].iter().map(|r| (r.0, r.1)).collect();
        let floors = self.merge.push(Partition(partition), records(partition, &items));
        if !floors.is_empty() && dies {
            return false;
        }
        if keep {
            journal.floors.extend(floors.iter().map(|f| ((f.partition, f.offset), f.append_time)));
        }
        true
    }

    /// Asks the partitions for which heads wait, and now and then others with them; false if it dies before their floors are durable.
    fn ask(&mut self, now: i64, random: &mut Random, journal: &mut Durable, keep: bool) -> bool {
        let mut lives = true;
        let waits = self.merge.blocked().map(|b| numbers(&b.partitions)).unwrap_or_default();
        for partition in 0..PARTITIONS {
            if waits.contains(&partition) || random.chance(100) {
                lives &= self.read(partition, now, usize::MAX, random.chance(50), journal, keep);
                self.merge.empty(Partition(partition), now);
            }
        }
        lives
    }

    fn release(&mut self, most: usize) {
        let mut out = Records::default();
        self.asked |= self.merge.release(most, usize::MAX, &mut out).asked;
        self.order.extend((0..out.len()).map(|i| (out.partitions[i], out.offsets[i])));
    }

    fn keep_frontier(&mut self, journal: &mut Durable, keep: bool) {
        if let Some(frontier) = self.merge.frontier().filter(|_| self.asked && keep) {
            journal.frontier = Some(frontier);
            self.asked = false;
        }
    }

    fn saved(&self) -> Saved {
        Saved { partitions: self.merge.resume(), last: self.merge.last(), order: self.order.clone() }
    }
}

#[derive(Default)]
struct Found {
    /// A life folded again, in another order, what rows that had left depended on.
    redone: bool,
    /// A replay of the settled log gives another order.
    replay: bool,
    floors: usize,
    crashes: usize,
}

/// Lives until all is folded, then a replay; `keep` says whether there is a journal.
fn simulate(seed: u64, keep: bool) -> Found {
    let random = &mut Random(seed);
    let log = log(random);
    let (mut journal, mut saved, mut found) = (Durable::default(), nothing_saved(), Found::default());
    let mut left: Vec<(u32, u64)> = Vec::new();
    let mut life = Life::new(&log, &saved, &journal);
    let mut now = 0;
    while life.order.len() < RECORDS {
        now += 10;
        if random.chance(10) {
            found.crashes += 1;
            if random.chance(200) {
                saved = nothing_saved();
            }
            life = Life::new(&log, &saved, &journal);
        }
        let mut lives = true;
        for partition in 0..PARTITIONS {
            let (most, dies) = (random.index(20), random.chance(50));
            lives &= random.chance(300) || life.read(partition, now, most, dies, &mut journal, keep);
        }
        lives &= life.ask(now, random, &mut journal, keep);
        if !lives {
            found.crashes += 1;
            life = Life::new(&log, &saved, &journal);
            continue;
        }
        life.release(1 + random.index(30));
        if random.chance(300) {
            life.keep_frontier(&mut journal, keep);
            if random.chance(20) {
                found.crashes += 1;
                life = Life::new(&log, &saved, &journal);
                continue;
            }
            let common = left.len().min(life.order.len());
            found.redone |= left[..common] != life.order[..common];
            if life.order.len() > left.len() {
                left.clone_from(&life.order);
            }
        }
        if random.chance(20) {
            saved = life.saved();
        }
    }
    life.keep_frontier(&mut journal, keep);
    found.redone |= left[..] != life.order[..left.len()];
    let mut replay = Life::new(&log, &nothing_saved(), &journal);
    for partition in 0..PARTITIONS {
        replay.read(partition, i64::MAX, usize::MAX, false, &mut journal, keep);
        replay.merge.end(Partition(partition));
    }
    replay.release(usize::MAX);
    found.replay = replay.order != life.order;
    found.floors = journal.floors.len();
    found
}

const LOGS: u64 = 300;

#[test]
fn i4_a_replay_of_many_crashing_lives_gives_the_order_in_which_rows_left() {
    let (mut floors, mut crashes) = (0, 0);
    for seed in 0..LOGS {
        let found = simulate(seed, true);
        assert!(!found.redone, "seed {seed}: a life folded again in another order what rows had left of");
        assert!(!found.replay, "seed {seed}: the replay gives another order");
        floors += found.floors;
        crashes += found.crashes;
    }
    assert!(floors > 1000 && crashes > 1000, "{floors} floors and {crashes} crashes");
}

#[test]
fn without_a_journal_most_of_these_replays_differ() {
    let found: Vec<Found> = (0..LOGS).map(|seed| simulate(seed, false)).collect();
    let count = |of: fn(&Found) -> bool| found.iter().filter(|f| of(f)).count() as u64;
    assert!(count(|f| f.replay) > LOGS * 4 / 5, "{} of {LOGS} replays differ", count(|f| f.replay));
    assert!(count(|f| f.redone) > LOGS / 2, "{} of {LOGS} logs were redone in another order", count(|f| f.redone));
}
