//! What a seed picks: the log, the pipeline's settings, and what happens to its hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use keyfold::position::Partition;
use serde_json::json;

use crate::broker::{Appended, Topic};
use crate::scheduler::{BEGAN_MS, Moment};
use crate::settings::{Logic, Version};
use crate::support::generate::TestRecord;
use crate::support::model::folds::Mode;
use crate::support::model::{Late, Time};
use crate::support::random::Random;
use crate::world::Trouble;

/// Everything that a seed decides before the simulation begins.
pub(crate) struct Plan {
    pub(crate) topic: Topic,
    pub(crate) by_partition: bool,
    /// Whether hosts share the lanes through a group.
    pub(crate) shared: bool,
    pub(crate) mode: Mode,
    pub(crate) time: Time,
    /// Whether late events become dead letters, if they are not folded.
    pub(crate) keeps_late: bool,
    /// Whether a deployment on probation is withdrawn by the first strike.
    pub(crate) withdraws_on_strike: bool,
    /// Whether the sink refuses some rows.
    pub(crate) refuses: bool,
    pub(crate) clock_skew_ms: i64,
    /// The least interval of checkpoints, ms. A host that was replaced ends at its next one.
    pub(crate) checkpoints_ms: u64,
    /// What most happens.
    pub(crate) weather: Weather,
    /// Whether two hosts with different configurations begin the pipeline.
    pub(crate) contested: bool,
    /// How long records are written.
    pub(crate) length: Duration,
    pub(crate) trouble: Trouble,
    /// What happens, and when.
    pub(crate) happenings: Vec<(Duration, Happening)>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// The host is killed, and another one started after this time. The lanes' checkpoints may be lost.
    Kill { pause: Duration, loses_checkpoints: bool },
    /// The host dies so many steps from now, each of which is just before or just after an effect on the world. Another one is started after this time.
    Crash { steps: u64, pause: Duration, loses_checkpoints: bool },
    /// The host is stopped as by a signal, and another one started.
    Stop,
    /// The host stands still for this time. Meanwhile another one takes over.
    Freeze { thaws: Duration },
    /// The same, at such a moment, after so many more of them.
    FreezeAt { moment: Moment, after: u64, thaws: Duration },
    /// Another host is started beside it.
    Rival,
    /// Another host joins the group.
    Join,
    /// One of several hosts is stopped as by a signal.
    Leave,
    /// Another host is started beside it, stands still after this time, probably while it opens its lanes, and goes on after that time.
    SlowRival { freezes: Duration, thaws: Duration },
    /// The host's clock is moved, ms.
    Clock(i64),
    /// The checkpoints are deleted as `keyfold reset` does it on a bucket: beside a host at work.
    Reset,
    /// For this time the topic is another one.
    Foreign { how: Foreign, lasts: Duration },
    /// A logic is deployed.
    Deploy(Deploy),
    /// A logic is deployed that holds from the beginning of the log.
    Reprocess(Logic),
    /// This logic, or that in force, is to fold in the shadow; after this time it is promoted, or no longer wanted.
    Shadow { logic: Option<Logic>, lasts: Duration, promoted: bool },
}

/// A deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deploy {
    /// What is deployed.
    pub(crate) logic: Logic,
    /// From when on, ms from now; none if as soon as possible.
    pub(crate) after_ms: Option<i64>,
    /// Whether the client waits until a lane is about to reserve more, and counts from the end of what is reserved.
    pub(crate) while_reserving: bool,
    /// How long it can be withdrawn, ms.
    pub(crate) probation_ms: i64,
    /// What is decided on it, and how long after it was created.
    pub(crate) then: Option<(Duration, Then)>,
}

impl Deploy {
    /// A logic that holds as soon as possible and cannot be withdrawn.
    fn at_once(mark: &'static str) -> Deploy {
        let logic = Logic::marked(mark);
        Deploy { logic, after_ms: None, while_reserving: false, probation_ms: 0, then: None }
    }
}

/// How a topic is another one than that from which the pipeline began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// It was deleted and made anew under its name.
    MadeAnew,
    /// It has one partition more.
    Grown,
    /// Its last records are gone.
    Truncated,
}

/// What is decided on a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It is withdrawn.
    Withdraw,
    /// It is kept.
    Keep,
    /// The host is killed, and it is withdrawn while the next one opens its lanes.
    WithdrawAtRestart,
}

/// The marks of deployments.
pub(crate) const MARKS: [&str; 10] =
    ["a", "b", "c", "d", "e", "f", "mode=timer-now", "mode=state", "mode=timers", "mode=mark"];

/// The same, of few.
pub(crate) const MORE_MARKS: [&str; 1] = ["mode=trap"];

/// The mark of a host that begins the pipeline beside another one.
pub(crate) const CONTENDER: &str = "contender";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Picks by the seed.
pub(crate) fn plan(seed: u64) -> Plan {
    let random = &mut Random::new(seed);
    let weather = *random.pick(&WEATHERS);
    // Hosts can only differ in what they decide: the order of several partitions, and of what becomes visible late.
    let rivals = matches!(weather, Weather::Rivals | Weather::Crashes);
    let by_partition = random.chance(if rivals { 10 } else { 30 });
    let partitions = if rivals { 2 + random.below(2) } else { 1 + random.below(3) };
    let length = ms(10_000 + random.below(30_000));
    let modes = [Mode::State, Mode::Timers, Mode::Mark, Mode::Mark, Mode::Mark, Mode::Mark, Mode::TimerNow, Mode::Trap];
    let of_deployments = matches!(weather, Weather::Swaps | Weather::Restarts | Weather::Races);
    let mode = if of_deployments { Mode::Mark } else { *random.pick(&modes) };
    let time = Time {
        // Rivals write other rows if what is late in one order is not in another.
        out_of_orderness_ms: if rivals { 0 } else { *random.pick(&[0, 500, 3_000]) },
        late: if rivals { Late::Drop } else { *random.pick(&[Late::Drop, Late::Process]) },
        idle_timeout_ms: random.chance(40).then(|| random.between(500, 5_000)),
        ..Time::default()
    };
    let slow: &[u64] = if weather == Weather::Races { &[1, 2] } else { &[0, 0, 1, 10, 30] };
    let topic = log(random, (usize::try_from(partitions).expect("a few"), by_partition), length, weather);
    let mut plan = Plan {
        weather,
        contested: mode == Mode::Mark && random.chance(25),
        topic,
        by_partition,
        shared: false,
        mode,
        time,
        keeps_late: false,
        withdraws_on_strike: false,
        refuses: false,
        clock_skew_ms: random.between(0, 600),
        checkpoints_ms: 100,
        length,
        trouble: Trouble {
            faults: *random.pick(&[0, 5, 40, 150]),
            slow: *random.pick(slow),
            slow_reservations: if weather == Weather::Races { 60 } else { 0 },
        },
        happenings: happenings(random, length, mode, weather),
    };
    more(&mut plan, &mut Random::new(seed ^ 0x00AD_D170));
    plan
}

/// What does not go with the weather.
fn more(plan: &mut Plan, random: &mut Random) {
    plan.keeps_late = random.chance(50);
    if plan.by_partition && plan.topic.partitions.len() > 1 && random.chance(40) {
        let grows = plan.length / u32::try_from(2 + random.below(8)).expect("few");
        plan.topic.grows = Some(grows);
        plan.topic.records.last_mut().expect("more than one").retain(|appended| appended.written >= grows);
    }
    plan.refuses = random.chance(20);
    plan.withdraws_on_strike = random.chance(30);
    if plan.mode == Mode::Trap {
        plan.mode = *random.pick(&[Mode::Trap, Mode::TrapTimer, Mode::Reject]);
    }
    if plan.weather == Weather::Rivals && random.chance(70) {
        plan.checkpoints_ms = 8_000;
    }
    let length_ms = u64::try_from(plan.length.as_millis()).expect("short");
    let others = if random.chance(50) { random.below(4) } else { 0 };
    for _ in 0..others {
        let lasts = ms(500 + random.below(4_000));
        let happening = match random.below(10) {
            0..6 => {
                let most = *random.pick(&[8, 40, 200, 1_000]);
                Happening::Crash {
                    steps: random.below(most),
                    pause: ms(random.below(500)),
                    loses_checkpoints: random.chance(10),
                }
            }
            6 | 7 => Happening::Reset,
            _ => Happening::Foreign {
                how: *random.pick(&[Foreign::MadeAnew, Foreign::Grown, Foreign::Truncated]),
                lasts,
            },
        };
        plan.happenings.push((ms(random.below(length_ms + 4_000)), happening));
    }
    if plan.mode == Mode::Mark && plan.weather != Weather::Rivals && random.chance(12) {
        let logic = Logic::marked(random.pick::<&str>(&MARKS[..6]));
        plan.happenings.push((ms(random.below(length_ms)), Happening::Reprocess(logic)));
    }
    if plan.mode == Mode::Mark && plan.weather != Weather::Rivals && random.chance(50) {
        // The last deployment, so that nothing keeps it, withdrawn before lanes reach its T.
        let after_ms = random.between(1_000, 4_000);
        let then = ms(random.below(after_ms.unsigned_abs()));
        let mark = random.pick::<&str>(&MARKS[..6]);
        let deploy = Deploy { after_ms: Some(after_ms), probation_ms: 5_000, ..Deploy::at_once(mark) };
        let deploy = Deploy { then: Some((then, Then::Withdraw)), ..deploy };
        let at = length_ms.saturating_sub(1_000 + random.below(6_000));
        plan.happenings.push((ms(at), Happening::Deploy(deploy)));
    }
    if plan.mode == Mode::Mark && plan.weather != Weather::Rivals && random.chance(40) {
        let logic = random.chance(60).then(|| Logic::marked(random.pick::<&str>(&MARKS)));
        let (lasts, promoted) = (ms(6_000 + random.below(9_000)), random.chance(50));
        plan.happenings.push((ms(random.below(length_ms)), Happening::Shadow { logic, lasts, promoted }));
    }
    plan.happenings.sort_by_key(|(at, _)| *at);
    for (_, happening) in &mut plan.happenings {
        if let Happening::Freeze { thaws } = *happening
            && random.chance(80)
        {
            let moment = *random.pick(&[Moment::Arrival, Moment::Ask, Moment::Ask, Moment::Write]);
            *happening = Happening::FreezeAt { moment, after: random.below(4), thaws };
        }
    }
    versions(plan, random);
    share(plan, random);
}

/// Lets hosts share the lanes, come and go.
fn share(plan: &mut Plan, random: &mut Random) {
    // What a start does is seen best where there is one.
    plan.shared = random.chance(35) && plan.weather != Weather::Restarts;
    plan.topic.is_shared = plan.shared;
    if !plan.shared {
        return;
    }
    let length_ms = u64::try_from(plan.length.as_millis()).expect("short");
    for _ in 0..1 + random.below(5) {
        let happening = if random.chance(60) { Happening::Join } else { Happening::Leave };
        plan.happenings.push((ms(random.below(length_ms)), happening));
    }
    plan.happenings.sort_by_key(|(at, _)| *at);
}

/// Lets a deployment raise the state version, and those after it keep it.
fn versions(plan: &mut Plan, random: &mut Random) {
    let second_from = random.chance(40).then(|| random.below(6));
    let deployed = plan.happenings.iter_mut().filter_map(|(_, happening)| match happening {
        Happening::Deploy(deploy) => Some(&mut deploy.logic),
        _ => None,
    });
    for (at, logic) in (0..).zip(deployed) {
        if second_from.is_some_and(|from| at >= from) {
            logic.version = Version::Second;
        }
        if random.chance(8) {
            logic.mark = "mode=trap";
        }
        // What a client deploys is not what one of two rivals began with, or that one may start again, and the other one may not.
        if plan.contested && *logic == Logic::marked("mode=mark") {
            logic.mark = "a";
        }
    }
    // Another client deploys the first version at the same moment as the first one that raises it.
    let raises = |happening: &Happening| matches!(happening, Happening::Deploy(deploy) if deploy.logic.version == Version::Second);
    if let Some(at) = plan.happenings.iter().position(|(_, happening)| raises(happening)) {
        let other = Deploy::at_once(random.pick::<&str>(&MARKS[..6]));
        plan.happenings.insert(at, (plan.happenings[at].0, Happening::Deploy(other)));
    }
}

fn log(random: &mut Random, (partitions, by_partition): (usize, bool), length: Duration, weather: Weather) -> Topic {
    let mut records: Vec<Vec<Appended>> = vec![Vec::new(); partitions];
    let skews: Vec<i64> = (0..partitions).map(|_| random.between(-900, 100)).collect();
    let uses_transactions = random.chance(match weather {
        Weather::Crashes => 80,
        Weather::Races => 0,
        _ => 30,
    });
    let busiest = !matches!(weather, Weather::Rivals | Weather::Crashes) && random.chance(40);
    let mut quiet_until = vec![Duration::ZERO; partitions];
    let keys = 1 + random.below(12);
    let pace = 1 + random.below(match weather {
        Weather::Rivals | Weather::Crashes | Weather::Races => 60,
        _ => 250,
    });
    let mut now = ms(random.below(3_000));
    while now < length {
        let at = if busiest && random.chance(90) { 0 } else { random.below(partitions as u64) };
        let mut at = usize::try_from(at).expect("an index");
        // Of a partition that is quiet for a while, two hosts may think differently.
        if weather == Weather::Rivals {
            at = if now < quiet_until[at] { (at + 1) % partitions } else { at };
            if random.chance(5) {
                quiet_until[at] = now + ms(500 + random.below(2_500));
            }
        }
        let now_ms = BEGAN_MS + i64::try_from(now.as_millis()).expect("short");
        let before = records[at].last().cloned();
        let offset = before.as_ref().map_or(random.below(3), |b| b.record.offset + 1 + u64::from(random.chance(3)));
        let timestamp = match random.below(200) {
            0 => -1,
            1 => now_ms * 1000,
            _ => now_ms + skews[at] - random.between(0, 60),
        };
        let key = random.below(keys);
        let key = if by_partition { format!("p{at}-{key}") } else { format!("k{key}") };
        let value = payload(random, &key, now_ms);
        let record =
            TestRecord { partition: u32::try_from(at).expect("few"), offset, timestamp, key: None, value: Some(value) };
        let (ends, committed) = match &before {
            // The same transaction goes on.
            Some(b) if b.ends > now && random.chance(70) => (b.ends, b.committed),
            _ if uses_transactions && random.chance(20) => (now + ms(random.below(2_500)), random.chance(70)),
            _ => (now, true),
        };
        records[at].push(Appended { record, written: now, ends, committed });
        now += match random.below(100) {
            // In a race the lane is where the log ends, and reserves often.
            _ if weather == Weather::Races => ms(20 + random.below(pace)),
            0 => ms(random.below(6_000)),
            1..40 => Duration::ZERO,
            _ => ms(random.below(pace * 2)),
        };
    }
    let partitions = (0..u32::try_from(partitions).expect("few")).map(Partition).collect();
    Topic::new(partitions, records, None)
}

fn payload(random: &mut Random, key: &str, now_ms: i64) -> Vec<u8> {
    if random.chance(2) {
        return b"not json".to_vec();
    }
    let mut event = |key: &str| {
        let time = match random.below(50) {
            0 => now_ms - random.between(3_000, 30_000),
            1..6 => now_ms - random.between(500, 4_000),
            6 => now_ms + 3_700_000,
            _ => now_ms - random.between(0, 500),
        };
        json!({"key": key, "time": time, "v": random.below(70)})
    };
    let one = event(key);
    if one["v"].as_u64().is_some_and(|v| v % 19 == 0) {
        let other = event(key);
        return json!({"events": [one, other]}).to_string().into_bytes();
    }
    one.to_string().into_bytes()
}

/// The weather of seeds; some of it is more frequent.
const WEATHERS: [Weather; 9] = [
    Weather::Mixed,
    Weather::Mixed,
    Weather::Swaps,
    Weather::Swaps,
    Weather::Rivals,
    Weather::Rivals,
    Weather::Restarts,
    Weather::Races,
    Weather::Crashes,
];

/// What most happens to the hosts of a seed: each seed has little of some kinds and much of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Some of everything.
    Mixed,
    /// Deployments follow each other closely.
    Swaps,
    /// Hosts take over from each other.
    Rivals,
    /// Each deployment is in force for a while, and withdrawn while a host starts.
    Restarts,
    /// Deployments are created as early as possible, and requests are slow.
    Races,
    /// Hosts are killed while they decide the order of several partitions.
    Crashes,
}

fn happenings(random: &mut Random, length: Duration, mode: Mode, weather: Weather) -> Vec<(Duration, Happening)> {
    let mut all = Vec::new();
    let length_ms = u64::try_from(length.as_millis()).expect("short");
    let most = match weather {
        Weather::Mixed => 8,
        Weather::Swaps | Weather::Rivals | Weather::Crashes => 12,
        Weather::Restarts | Weather::Races => 3,
    };
    let least = if matches!(weather, Weather::Rivals | Weather::Crashes) { 4 } else { 0 };
    for _ in 0..least + random.below(most) {
        let kind = match weather {
            Weather::Mixed => random.below(12),
            Weather::Swaps | Weather::Restarts | Weather::Races => random.below(6),
            Weather::Rivals => *random.pick(&[6, 6, 6, 6, 8, 9, 10, 10]),
            Weather::Crashes => 0,
        };
        let happening = match kind {
            0..5 => Happening::Kill { pause: ms(random.below(1_500)), loses_checkpoints: random.chance(20) },
            5 => Happening::Stop,
            6 | 7 => Happening::Freeze { thaws: ms(200 + random.below(6_000)) },
            8 => Happening::Rival,
            9 => Happening::Clock(random.between(-20_000, 20_000)),
            _ => {
                let most = *random.pick(&[40, 150, 700]);
                Happening::SlowRival { freezes: ms(random.below(most)), thaws: ms(200 + random.below(4_000)) }
            }
        };
        all.push((ms(random.below(length_ms + 4_000)), happening));
    }
    if weather == Weather::Restarts {
        restarts(random, length_ms, &mut all);
    } else if weather == Weather::Races {
        races(random, length_ms, &mut all);
    } else if mode == Mode::Mark && weather != Weather::Rivals {
        // Without withdrawals each row that a rival sends can be judged.
        deployments(random, length_ms, weather == Weather::Swaps, &mut all);
    }
    all.sort_by_key(|(at, _)| *at);
    all
}

fn deployments(random: &mut Random, length_ms: u64, close: bool, all: &mut Vec<(Duration, Happening)>) {
    let mut at = 500 + random.below(4_000);
    let most = if close { 25 } else { 6 };
    for _ in 0..most / 3 + random.below(most) {
        let mark = *random.pick(&MARKS);
        let probation_ms = if random.chance(70) { random.between(300, 9_000) } else { 0 };
        let then = (probation_ms > 0 && random.chance(70)).then(|| {
            let most = u64::try_from(probation_ms).expect("positive") + 1_000;
            let soon = if random.chance(30) { most } else { 1_200 };
            match random.below(10) {
                0..2 => (ms(random.below(soon)), Then::Keep),
                2..5 => (ms(300 + random.below(most)), Then::WithdrawAtRestart),
                _ => (ms(random.below(soon)), Then::Withdraw),
            }
        });
        let after_ms = match random.below(4) {
            0 => None,
            1 | 2 if close => Some(random.between(-100, 300)),
            1 => Some(random.between(-500, 300)),
            _ => Some(random.between(0, 6_000)),
        };
        all.push((ms(at), Happening::Deploy(Deploy { after_ms, probation_ms, then, ..Deploy::at_once(mark) })));
        let most = if close || random.chance(30) { 2_000 } else { length_ms / 3 };
        at += random.below(most);
    }
}

/// Deployments, each of which is in force and on probation when it is withdrawn.
fn restarts(random: &mut Random, length_ms: u64, all: &mut Vec<(Duration, Happening)>) {
    let mut at = 500 + random.below(3_000);
    while at < length_ms {
        let (mark, after) = (*random.pick(&MARKS), 2_000 + random.below(4_000));
        let then = Some((ms(after), Then::WithdrawAtRestart));
        all.push((ms(at), Happening::Deploy(Deploy { probation_ms: 20_000, then, ..Deploy::at_once(mark) })));
        at += after + 1_000 + random.below(6_000);
    }
}

/// Deployments as early as possible, one after the other.
fn races(random: &mut Random, length_ms: u64, all: &mut Vec<(Duration, Happening)>) {
    let mut at = 1_000 + random.below(2_000);
    while at < length_ms {
        let deploy = Deploy::at_once(random.pick::<&str>(&MARKS));
        // What is ordered as soon as possible holds so late that lanes hear of it before.
        let after_ms = random.chance(80).then(|| random.between(1, 60));
        all.push((ms(at), Happening::Deploy(Deploy { after_ms, while_reserving: true, ..deploy })));
        at += 400 + random.below(1_000);
    }
}

/// A line that describes the plan.
pub(crate) fn describe(plan: &Plan) -> String {
    let counts: BTreeMap<u32, usize> =
        plan.topic.partitions.iter().zip(&plan.topic.records).map(|(p, records)| (p.0, records.len())).collect();
    format!(
        "{:?}: {} in {:.1} s, mode {}, by partition {}, shared {}, {:?}, keeps late {}, refuses {}, skew {}, {:?}, {} happenings",
        plan.weather,
        counts.iter().map(|(p, n)| format!("{p}:{n}")).collect::<Vec<_>>().join(" "),
        plan.length.as_secs_f64(),
        plan.mode.name(),
        plan.by_partition,
        plan.shared,
        plan.time,
        plan.keeps_late,
        plan.refuses,
        plan.clock_skew_ms,
        plan.trouble,
        plan.happenings.len()
    )
}
