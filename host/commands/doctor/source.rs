//! Checks the log: brokers, topic, clocks, keys, and whether the records that the pipeline needs next exist and will stay.
//! [`crate::source::kafka::survey`] asks the brokers; this module judges the answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock;
use crate::commands::check::{self, sample};
use crate::commands::doctor::Options;
use crate::commands::doctor::state::LaneState;
use crate::config::{self, Config, KafkaSource, Ordering, Source};
use crate::deployment::same_topic;
use crate::event_time::{FAR_AHEAD_MS, plausible};
use crate::failure::{Check, Exit, Failure};
use crate::plugin::{Instance, Plugin};
use crate::position::{Offset, Partition};
use crate::record::{Records, iso};
use crate::source::kafka::survey::{self, Age, Keeping, Skew};
use crate::source::kafka::{Timestamps, Topic};
use crate::source::log_source::LogSource;
use crate::source::{Start, file};
use crate::symptom::Symptom;

/// Checks the source.
pub(super) fn examine(
    config: &Config,
    plugin: Option<&Arc<Plugin>>,
    lanes: &[LaneState],
    options: &Options,
) -> Vec<Check> {
    let (line, source) = check::source(config);
    let mut checks = match (&config.source, &source) {
        (Source::Kafka(kafka), Some(LogSource::Kafka(hub))) => {
            let topic = hub.topic();
            let mut checks = broker_checks(kafka, topic, line);
            checks.extend(position_checks(kafka, topic, lanes));
            checks
        }
        (Source::Kafka(kafka), _) => return vec![line.of(trouble(kafka))],
        (Source::File(file), Some(_)) => {
            let mut checks = vec![line];
            checks.extend(same_file(file, lanes));
            checks
        }
        (Source::File(_), None) => return vec![line.of(Symptom::FileUnusable)],
    };
    if let Some((plugin, source)) = plugin.zip(source.as_ref()) {
        checks.extend(sampled(config, plugin, source));
    }
    if let (Source::Kafka(kafka), Some(topic)) = (&config.source, &options.probe_topic) {
        checks.push(match survey::skew(kafka, topic) {
            Ok(skew) => judge_skew(skew, config.time.clock_skew_ms),
            Err(e) => Check::warning("clocks", e.to_string()).of(Symptom::ProbeFailed),
        });
    }
    checks
}

/// Returns why a topic cannot be read.
fn trouble(kafka: &KafkaSource) -> Symptom {
    match survey::brokers(kafka) {
        Err(Failure { exit: Exit::Config, .. }) => Symptom::ConfigWrong,
        Err(_) => Symptom::BrokerUnreachable,
        Ok(brokers) if brokers.has_topic => Symptom::TopicRefused,
        Ok(_) => Symptom::TopicMissing,
    }
}

/// Checks brokers and topic, regardless of the pipeline.
fn broker_checks(kafka: &KafkaSource, topic: &Topic, line: Check) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Ok(brokers) = survey::brokers(kafka) {
        let subject = format!("brokers {}", kafka.brokers);
        let count = format!("{} broker(s)", brokers.count);
        checks.push(match brokers.age {
            Age::AtLeast(release) => {
                Check::fine(subject, format!("{count}, Kafka {release} or later according to their API versions"))
            }
            Age::Older => {
                Check::warning(subject, format!("{count}, older than Kafka 2.8 according to their API versions"))
                    .of(Symptom::BrokerOld)
            }
            Age::Untold => Check::fine(subject, count),
        });
        if !brokers.may_commit {
            let detail = format!(
                "this user lacks the right READ on group {}, so no offsets are committed and lag tools see no progress; rows do not depend on it",
                kafka.group
            );
            checks.push(Check::warning("group", detail).of(Symptom::RightMissing));
        }
    }
    checks.push(line);
    if topic.timestamps == Some(Timestamps::CreateTime) {
        let detail = "message.timestamp.type=CreateTime: append times come from the producers' clocks, so the order between partitions, \
                      time.future_limit, and ids made from an append time (session_id = \"append-second\") depend on those clocks";
        checks.push(Check::warning("timestamps", detail).of(Symptom::ProducerClocks));
    }
    checks
}

/// A partition, and the position of the pipeline in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    partition: Partition,
    /// First offset of the pipeline.
    began: Offset,
    /// Next offset to fold.
    next: Offset,
    /// First offset in the log.
    low: Offset,
    /// Offset after the last record in the log.
    high: Offset,
    /// Timestamp of the record before `next`, ms.
    last_ms: Option<i64>,
}

fn places(topic: &Topic, lanes: &[LaneState]) -> Vec<Place> {
    let partitions = topic.partitions.iter().zip(topic.low.iter().zip(&topic.high));
    let place = |(&partition, (&low, &high)): (&Partition, (&Offset, &Offset))| {
        let lane = lanes.iter().find(|lane| lane.began.contains_key(&partition))?;
        let began = lane.began[&partition];
        let last = lane.checkpoint.as_ref().and_then(|c| c.partitions.get(&partition)).map(|progress| &progress.last);
        let next = last.map_or(began, |last| last.offset.next());
        Some(Place { partition, began, next, low, high, last_ms: last.and_then(|last| last.timestamp) })
    };
    partitions.filter_map(place).collect()
}

fn starts(lanes: &[LaneState]) -> Vec<Start> {
    let of_lane = |lane: &LaneState| {
        let progress =
            |partition: &Partition| lane.checkpoint.as_ref()?.partitions.get(partition).map(|p| p.last.clone());
        let start = |(&partition, &began): (&Partition, &Offset)| {
            let last = progress(&partition);
            Start { partition, next: Some(last.as_ref().map_or(began, |last| last.offset.next())), last }
        };
        lane.began.iter().map(start).collect::<Vec<_>>()
    };
    lanes.iter().flat_map(of_lane).collect()
}

/// Checks the position of the pipeline in the log.
fn position_checks(kafka: &KafkaSource, topic: &Topic, lanes: &[LaneState]) -> Vec<Check> {
    let mut checks: Vec<Check> = grown(kafka.ordering, topic, lanes).into_iter().collect();
    let known = lanes.iter().find_map(|lane| lane.topic.as_ref());
    if let Some(Err(failure)) = known.zip(topic.id.as_ref()).map(|(known, id)| same_topic(known, id)) {
        checks.push(Check::refused("place in the log", failure).of(Symptom::LogReplaced));
        return checks;
    }
    let places = places(topic, lanes);
    let lost: Vec<Check> = places.iter().filter_map(lost).collect();
    if lost.is_empty() && !places.is_empty() {
        let verified = survey::verify(kafka, &starts(lanes), clock::instant() + check::TRY);
        checks.push(match verified {
            Ok(()) => Check::fine("place in the log", behind(&places)),
            Err(e @ Failure { exit: Exit::State, .. }) => {
                Check::refused("place in the log", e).of(Symptom::LogReplaced)
            }
            Err(e) => Check::refused("place in the log", e).of(Symptom::TopicRefused),
        });
    }
    checks.extend(lost);
    if let Some(keeping) = survey::keeping(kafka) {
        checks.extend(kept(&places, keeping, clock::now_ms()));
    }
    checks
}

fn behind(places: &[Place]) -> String {
    let behind: u64 = places.iter().map(|place| place.high.0.saturating_sub(place.next.0)).sum();
    format!("the last folded records are unchanged; {behind} records are waiting")
}

/// Checks for partitions that were added since the pipeline started for the first time.
fn grown(ordering: Ordering, topic: &Topic, lanes: &[LaneState]) -> Option<Check> {
    let known: Vec<Partition> = lanes.iter().flat_map(|lane| lane.began.keys().copied()).collect();
    let new: Vec<Partition> = topic.partitions.iter().copied().filter(|partition| !known.contains(partition)).collect();
    if known.is_empty() || new.is_empty() {
        return None;
    }
    let detail = format!("the topic has new partitions {new:?} that the pipeline did not start with");
    Some(match ordering {
        Ordering::Topic => Check::refused("partitions", Failure::new(Exit::State, detail)),
        Ordering::Partition => Check::warning(
            "partitions",
            format!("{detail}: producers that partition by key now send some keys to other partitions"),
        ),
    })
    .map(|check| check.of(Symptom::PartitionsGrown))
}

/// Checks whether the log still has the record that the pipeline needs next.
fn lost(place: &Place) -> Option<Check> {
    let Place { partition, next, low, high, .. } = *place;
    let (detail, symptom) = if next < low {
        let gone = low.0 - next.0;
        (
            format!("the state continues at offset {next}, but the log begins at {low}: {gone} offsets are gone"),
            Symptom::LogTrimmed,
        )
    } else if next > high {
        (format!("the state continues at offset {next}, but the log ends at {high}"), Symptom::LogReplaced)
    } else {
        return None;
    };
    Some(Check::refused(format!("partition {partition}"), Failure::new(Exit::State, detail)).of(symptom))
}

/// Checks compaction and retention.
fn kept(places: &[Place], keeping: Keeping, now_ms: i64) -> Vec<Check> {
    let mut checks = Vec::new();
    if keeping.is_compacted {
        let detail =
            "cleanup.policy includes compact: folded records are removed, and a replay produces different rows";
        checks.push(Check::warning("compaction", detail).of(Symptom::LogCompacted));
    }
    for place in places.iter().filter(|place| place.next >= place.low) {
        let subject = format!("partition {}", place.partition);
        if let Some(detail) = running_out(place, keeping, now_ms) {
            checks.push(Check::warning(subject, detail).of(Symptom::RetentionClose));
        } else if place.began < place.low {
            let Place { began, low, .. } = place;
            let detail = format!(
                "the pipeline started at offset {began}, but the log begins at {low}: a full replay is impossible, only the checkpoint remains"
            );
            checks.push(Check::warning(subject, detail).of(Symptom::BeginningTrimmed));
        }
    }
    if checks.is_empty() {
        let limit = |limit: Option<i64>, unit: &str| limit.map_or("no limit".into(), |limit| format!("{limit} {unit}"));
        let (time, size) = (limit(keeping.retention_ms, "ms"), limit(keeping.retention_bytes, "bytes"));
        checks.push(Check::fine("retention", format!("{time}, {size}")));
    }
    checks
}

/// Returns a warning if a partition's next records are in the last fifth of their retention time, or in the oldest tenth of a log that is
/// limited by size.
fn running_out(place: &Place, keeping: Keeping, now_ms: i64) -> Option<String> {
    let Place { next, low, high, last_ms, .. } = *place;
    if next >= high {
        return None; // nothing is unread
    }
    if let (Some(limit), Some(last_ms)) = (keeping.retention_ms, last_ms) {
        let age = now_ms.saturating_sub(last_ms);
        if age >= limit / 5 * 4 {
            return Some(format!(
                "records from offset {next} on are waiting; the one before is from {} and retention.ms is {limit}, so they will be deleted soon",
                iso(last_ms)
            ));
        }
    }
    let limit = keeping.retention_bytes.filter(|_| low.0 > 0 && (next.0 - low.0) * 10 < high.0 - low.0)?;
    Some(format!(
        "records from offset {next} on are waiting; the log is limited to {limit} bytes, begins at {low} and ends at {high}, so they \
         will be deleted soon"
    ))
}

fn same_file(config: &config::FileSource, lanes: &[LaneState]) -> Option<Check> {
    let starts = starts(lanes);
    if starts.is_empty() || config.is_standard_input() {
        return None;
    }
    let opened = file::inspect(config).and_then(|index| file::FileSource::open(index, &starts));
    Some(match opened {
        Ok(_) => Check::fine("place in the log", "the last folded records are unchanged"),
        Err(e) => Check::refused("place in the log", e).of(Symptom::LogReplaced),
    })
}

/// Checks some recent records: what the plugin makes of them, their timestamps, and in which partitions the keys of their events are. Nothing if
/// there are none.
fn sampled(config: &Config, plugin: &Arc<Plugin>, source: &LogSource) -> Vec<Check> {
    let Ok(records) = sample::records(config, source, clock::instant() + check::TRY) else { return Vec::new() };
    if records.is_empty() {
        return Vec::new();
    }
    let keys = judge_keys(config.source.ordering(), &records, &events(&plugin.of_trial(&records), &records));
    let mut checks = sample::examine(config, plugin, &records);
    checks.extend(judge_timestamps(&records));
    checks.extend(judge_far_ahead(&records, clock::now_ms()));
    checks.push(keys);
    checks
}

fn judge_timestamps(records: &Records) -> Option<Check> {
    let &(row, timestamp) = records.implausible.first()?;
    let why = plausible(timestamp).err()?;
    let (partition, offset) = (records.partitions[row as usize], records.offsets[row as usize]);
    let detail = format!(
        "{} of {} sampled records: partition {partition}, offset {offset}: {}",
        records.implausible.len(),
        records.len(),
        why.reason(timestamp)
    );
    Some(Check::warning("timestamps", detail).of(Symptom::TimestampsImplausible))
}

/// Returns partition and key of each event that the plugin maps the records to; failures yield none, and so does the rest of a trial that
/// costs too much.
fn events(plugin: &Plugin, records: &Records) -> Vec<(u32, Vec<u8>)> {
    let map = |range: std::ops::Range<usize>| {
        let events = Instance::new(plugin).and_then(|mut instance| instance.map(records, range.clone())).ok()?;
        let of = |(record, key): (&u32, &[u8])| (records.partitions[range.start + *record as usize], key.to_vec());
        Some(events.records.iter().zip(events.keys.iter()).map(of).collect::<Vec<_>>())
    };
    let one_by_one = || (0..records.len()).filter_map(|row| map(row..row + 1)).flatten().collect();
    map(0..records.len()).unwrap_or_else(one_by_one)
}

fn judge_far_ahead(records: &Records, now_ms: i64) -> Option<Check> {
    let far = now_ms.saturating_add(FAR_AHEAD_MS);
    let is_far = |time: &i64| *time > far && plausible(*time).is_ok();
    let row = records.append_times.iter().position(is_far)?;
    let detail = format!(
        "{} of {} sampled records: partition {}, offset {}: {}",
        records.append_times.iter().filter(|time| is_far(time)).count(),
        records.len(),
        records.partitions[row],
        records.offsets[row],
        iso(records.append_times[row])
    );
    Some(Check::warning("timestamps", detail).of(Symptom::TimestampsFarAhead))
}

fn judge_keys(ordering: Ordering, records: &Records, events: &[(u32, Vec<u8>)]) -> Check {
    let keyed = records.len() - records.null_keys.len();
    let seen = format!("{keyed} of {} sampled records have a key", records.len());
    let mut first: BTreeMap<&[u8], u32> = BTreeMap::new();
    let in_two = events.iter().find_map(|(partition, key)| {
        let before = *first.entry(key).or_insert(*partition);
        (before != *partition).then_some((key, before, *partition))
    });
    match (ordering, in_two) {
        (Ordering::Topic, Some(_)) => Check::fine(
            "keys",
            format!("{seen}; the plugin's keys are in several partitions, which ordering = \"topic\" merges"),
        ),
        (Ordering::Topic, None) => Check::fine("keys", seen),
        (Ordering::Partition, Some((key, one, other))) => {
            let detail = format!(
                "ordering = \"partition\" folds each partition separately, but events of the key \"{}\" are in partitions {one} and \
                 {other}: each partition has its own state for the key, and their rows overwrite each other",
                key.escape_ascii()
            );
            Check::warning("keys", detail).of(Symptom::KeyInTwoPartitions)
        }
        (Ordering::Partition, None) if keyed < records.len() => {
            let detail = format!(
                "{seen}, but ordering = \"partition\" folds each partition separately: producers spread records without a key over all \
                 partitions, so one key's events will end up in two of them"
            );
            Check::warning("keys", detail).of(Symptom::RecordsWithoutKey)
        }
        (Ordering::Partition, None) => Check::fine("keys", format!("{seen}; no key has events in two partitions")),
    }
}

fn judge_skew(skew: Skew, allowed_ms: i64) -> Check {
    let Skew { least_ms, most_ms } = skew;
    let surely = least_ms.max(-most_ms).max(0);
    let text = format!("the broker's clock minus this host's is between {least_ms} and {most_ms} ms");
    if surely > allowed_ms {
        let detail = format!("{text}, but time.clock_skew allows {allowed_ms} ms");
        return Check::warning("clocks", detail).of(Symptom::ClockSkew);
    }
    Check::fine("clocks", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordRef;

    const PLACE: Place = Place {
        partition: Partition(0),
        began: Offset(0),
        next: Offset(50),
        low: Offset(0),
        high: Offset(100),
        last_ms: Some(1_000),
    };
    const KEEPING: Keeping = Keeping { retention_ms: Some(10_000), retention_bytes: None, is_compacted: false };

    fn symptoms(checks: &[Check]) -> Vec<Symptom> {
        checks.iter().filter_map(|check| check.symptom).collect()
    }

    #[test]
    fn what_the_log_has_lost_is_refused() {
        assert_eq!(lost(&PLACE), None);
        assert_eq!(
            lost(&Place { low: Offset(51), ..PLACE }).and_then(|check| check.symptom),
            Some(Symptom::LogTrimmed)
        );
        assert_eq!(
            lost(&Place { high: Offset(49), ..PLACE }).and_then(|check| check.symptom),
            Some(Symptom::LogReplaced)
        );
    }

    #[test]
    fn what_is_about_to_be_lost_by_age_or_by_size_is_warned_of() {
        assert_eq!(symptoms(&kept(&[PLACE], KEEPING, 8_999)), []);
        assert_eq!(symptoms(&kept(&[PLACE], KEEPING, 9_000)), [Symptom::RetentionClose]);
        assert_eq!(symptoms(&kept(&[Place { next: Offset(100), ..PLACE }], KEEPING, 99_000)), [], "all is folded");
        let by_size = Keeping { retention_ms: None, retention_bytes: Some(1 << 30), is_compacted: false };
        let place = Place { began: Offset(45), low: Offset(45), ..PLACE };
        assert_eq!(symptoms(&kept(&[place], by_size, 99_000)), [Symptom::RetentionClose]);
        assert_eq!(symptoms(&kept(&[PLACE], by_size, 99_000)), [], "nothing was trimmed yet");
        assert_eq!(symptoms(&kept(&[Place { low: Offset(10), ..PLACE }], KEEPING, 0)), [Symptom::BeginningTrimmed]);
        let compacted = Keeping { is_compacted: true, ..KEEPING };
        assert_eq!(symptoms(&kept(&[], compacted, 0)), [Symptom::LogCompacted]);
    }

    #[test]
    fn new_partitions_are_refused_where_all_are_one_stream_and_warned_of_where_each_is_its_own() {
        let topic = Topic {
            partitions: vec![Partition(0), Partition(1)],
            low: vec![Offset(0); 2],
            high: vec![Offset(0); 2],
            timestamps: None,
            id: None,
        };
        let lanes = [LaneState { began: BTreeMap::from([(Partition(0), Offset(0))]), ..LaneState::default() }];
        let refused = grown(Ordering::Topic, &topic, &lanes).expect("one is new");
        assert_eq!(
            (refused.symptom, refused.finding),
            (Some(Symptom::PartitionsGrown), crate::failure::Finding::Refused(Exit::State))
        );
        let warned = grown(Ordering::Partition, &topic, &lanes).expect("one is new");
        assert_eq!(warned.finding, crate::failure::Finding::Warning);
        assert_eq!(grown(Ordering::Topic, &topic, &[]), None, "the pipeline has not begun");
    }

    #[test]
    fn timestamps_that_order_nothing_are_warned_of() {
        let records = Records { implausible: vec![(0, -1)], ..log_of_two() };
        let check = judge_timestamps(&records).expect("one is wrong");
        assert_eq!(check.symptom, Some(Symptom::TimestampsImplausible));
        assert!(check.detail.starts_with("1 of 2 sampled records: partition 0, offset 0: "), "{}", check.detail);
        assert_eq!(judge_timestamps(&log_of_two()), None);
    }

    #[test]
    fn timestamps_far_ahead_of_the_clock_are_warned_of() {
        let records = log_of_two();
        assert_eq!(judge_far_ahead(&records, -FAR_AHEAD_MS), None);
        let check = judge_far_ahead(&records, -FAR_AHEAD_MS - 1).expect("both are");
        assert_eq!(check.symptom, Some(Symptom::TimestampsFarAhead));
        assert_eq!(check.detail, "2 of 2 sampled records: partition 0, offset 0: 1970-01-01T00:00:00.000Z");
    }

    fn log_of_two() -> Records {
        let mut records = Records::default();
        for offset in 0..2 {
            let (partition, append_time, key, payload, headers) = (0, 0, None, None, None);
            records.push(RecordRef { partition, offset, append_time, key, payload, headers });
        }
        records
    }

    #[test]
    fn keys_are_judged_by_what_the_plugin_keys_by() {
        let mut records = Records::default();
        for (partition, key) in [(0, Some(&b"a"[..])), (1, None)] {
            let (offset, append_time, payload, headers) = (0, 0, None, None);
            records.push(RecordRef { partition, offset, append_time, key, payload, headers });
        }
        let apart = [(0, b"a".to_vec()), (1, b"b".to_vec())];
        let shared = [(0, b"a".to_vec()), (1, b"a".to_vec())];
        let judged = |ordering, events: &[(u32, Vec<u8>)]| judge_keys(ordering, &records, events).symptom;
        assert_eq!(judged(Ordering::Topic, &shared), None);
        assert_eq!(judged(Ordering::Partition, &shared), Some(Symptom::KeyInTwoPartitions));
        assert_eq!(judged(Ordering::Partition, &apart), Some(Symptom::RecordsWithoutKey));
    }

    #[test]
    fn clocks_that_surely_differ_by_more_than_is_allowed_are_warned_of() {
        let judged = |least_ms, most_ms| judge_skew(Skew { least_ms, most_ms }, 200).symptom;
        assert_eq!(judged(-10, 12), None);
        assert_eq!(judged(150, 400), None, "it may be less");
        assert_eq!(judged(201, 400), Some(Symptom::ClockSkew));
        assert_eq!(judged(-900, -300), Some(Symptom::ClockSkew));
    }
}
