//! `keyfold dead-letters`: lists dead letters and sends their records again. Owns which records are sent, and the promise that none is sent
//! twice without `--again`; where dead letters are kept and how they are read is [`crate::dead_letter`]'s.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::append_file::AppendFile;
use crate::clock;
use crate::commands::cli::groups::DeadLettersCommand;
use crate::config::{self, Config, DeadLetters, FileFormat, Source};
use crate::dead_letter::{self, StoredLetter, redriven_headers, redriven_line, repeats};
use crate::deployment::PipelineLog;
use crate::deployment::redriven::Redrive;
use crate::failure::{Exit, Failure};
use crate::paths::{is_stream, same_file};
use crate::position::Partition;
use crate::printable::one_line;
use crate::record::{NO_TIME, RecordRef, iso};
use crate::report::Output;
use crate::source::kafka;
use crate::source::kafka::produce::{Outgoing, Sender};
use crate::state::objects::{objects, runtime};
use crate::strike::Stage;

/// Characters of a payload that a list shows.
const SHOWN: usize = 60;

/// How long brokers may take to say what a topic is like.
const ANSWER: Duration = Duration::from_secs(10);

/// Performs a subcommand; returns its answer.
pub fn perform(command: DeadLettersCommand) -> Result<String, Failure> {
    match command {
        DeadLettersCommand::List { config, stage, limit, summary: true, output } => {
            summary(&config.load()?, stage, limit, output)
        }
        DeadLettersCommand::List { config, stage, limit, summary: false, output } => {
            list(&config.load()?, stage, limit, output)
        }
        DeadLettersCommand::Redrive { config, stage, to, again, dry_run, output } => {
            redrive(&config.load()?, &Redriving { stage, to, again, dry_run }, output)
        }
    }
}

fn list(config: &Config, stage: Option<Stage>, limit: usize, output: Output) -> Result<String, Failure> {
    let as_json = output == Output::Json;
    let mut lines = Vec::new();
    let mut more = 0_u64;
    read(config, stage, &mut |kept| {
        if lines.len() == limit {
            more += 1;
        } else if as_json {
            let mut object = kept.object();
            object.insert("place".into(), kept.place.clone().into());
            lines.push(serde_json::Value::Object(object).to_string());
        } else {
            lines.push(line(&kept));
        }
        Ok(())
    })?;
    if !as_json && lines.is_empty() {
        lines.push("no dead letters".into());
    }
    if !as_json && more > 0 {
        lines.push(format!("{more} more: raise --limit to show them, or count them by reason with --summary"));
    }
    Ok(lines.join("\n"))
}

/// Counts dead letters by stage and reason, most frequent first.
fn summary(config: &Config, stage: Option<Stage>, limit: usize, output: Output) -> Result<String, Failure> {
    let as_json = output == Output::Json;
    let mut counts: BTreeMap<(&str, String), u64> = BTreeMap::new();
    read(config, stage, &mut |kept| {
        *counts.entry((kept.letter.stage.name(), kept.letter.reason)).or_insert(0) += 1;
        Ok(())
    })?;
    let (all, kinds) = (counts.values().sum::<u64>(), counts.len());
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.truncate(limit);
    let mut lines: Vec<String> = counts
        .iter()
        .map(|((stage, reason), count)| match as_json {
            true => json!({"stage": stage, "reason": reason, "count": count}).to_string(),
            false => format!("{count:>9}  {stage:<7}  {}", one_line(reason)),
        })
        .collect();
    if !as_json {
        lines.push(format!("{all} dead letter(s), {kinds} distinct reason(s)"));
    }
    Ok(lines.join("\n"))
}

fn read(
    config: &Config,
    stage: Option<Stage>,
    take: &mut dyn FnMut(StoredLetter) -> Result<(), Failure>,
) -> Result<(), Failure> {
    dead_letter::read(&config.dead_letters, &mut |kept| {
        if stage.is_none_or(|stage| stage == kept.letter.stage) {
            take(kept)?;
        }
        Ok(true)
    })
}

fn line(kept: &StoredLetter) -> String {
    let record = kept.letter.record.get(0);
    let time = if record.append_time == NO_TIME { "no time".into() } else { iso(record.append_time) };
    let payload = record.payload.map_or_else(|| "no payload".into(), |p| String::from_utf8_lossy(p).into_owned());
    let payload: String = payload.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let (stage, reason) = (kept.letter.stage.name(), one_line(&kept.letter.reason));
    let (partition, offset, place) = (record.partition, record.offset, &kept.place);
    if !kept.letter.stage.names_a_record() {
        let key = String::from_utf8_lossy(record.key.unwrap_or_default());
        return format!("{place}: {stage} of key {key:?}: {reason}: {payload}");
    }
    format!("{place}: {stage} of record {partition}/{offset} ({time}): {reason}: {payload}")
}

/// What to send again, and where to.
#[derive(Clone, Debug, Default)]
struct Redriving {
    /// Only this stage.
    stage: Option<Stage>,
    /// `topic:NAME` or `file:PATH`; without a prefix, the same kind as the source. Default: the source's topic.
    to: Option<String>,
    /// Also records that were sent before.
    again: bool,
    /// Count, send nothing.
    dry_run: bool,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Topic(String),
    File(PathBuf),
}

impl Target {
    fn of(to: Option<&str>, source: &Source) -> Result<Target, Failure> {
        let target = match (to.and_then(|to| to.split_once(':')), to, source) {
            (Some(("topic", name)), _, _) => Target::Topic(name.to_owned()),
            (Some(("file", path)), _, _) => Target::File(path.into()),
            (_, Some(name), Source::Kafka(_)) => Target::Topic(name.to_owned()),
            (_, Some(path), Source::File(_)) => Target::File(path.into()),
            (_, None, Source::Kafka(kafka)) => Target::Topic(kafka.topic.clone()),
            (_, None, Source::File(_)) => {
                return Err(Failure::new(
                    Exit::Config,
                    "--to is missing: the source is a file, so there is no topic to send to; name a file",
                ));
            }
        };
        match (&target, source) {
            (Target::File(path), _) if is_stream(path) => {
                let message = "--to: records cannot be sent to standard output, which does not say whether they were kept; name a file";
                Err(Failure::new(Exit::Config, message))
            }
            (Target::Topic(_), Source::File(_)) => {
                let message = "--to names a topic, but the source is a file and has no brokers; name a file";
                Err(Failure::new(Exit::Config, message))
            }
            (Target::File(path), Source::File(file))
                if file.format == FileFormat::Payloads && same_file(path, &file.path) =>
            {
                let message = "--to names the source's file, whose format `payloads` cannot carry the headers of redriven records; \
                               name another file";
                Err(Failure::new(Exit::Config, message))
            }
            _ => Ok(target),
        }
    }

    /// Refuses to send records to where the dead letters are kept, since they would be read back as dead letters without a reason, and to other
    /// files of the pipeline that hold no records.
    fn refuse_what_is_no_log(&self, config: &Config) -> Result<(), Failure> {
        let key = match (self, &config.dead_letters) {
            (Target::Topic(name), DeadLetters::Topic { topic, .. }) => (name == topic).then_some("dead_letters.topic"),
            (Target::Topic(_), DeadLetters::File(_)) => None,
            (Target::File(path), _) => {
                let others = config.files().into_iter().filter(|(key, _)| *key != "source.file.path");
                others.filter(|(_, file)| same_file(path, file)).map(|(key, _)| key).next()
            }
        };
        let Some(key) = key else { return Ok(()) };
        let what = if key.starts_with("dead_letters.") { "where the dead letters are kept" } else { key };
        Err(Failure::new(Exit::Config, format!("--to names {self}, {what}; name another target")))
    }

    /// Returns the partitions that a record can come from; none if they are not known. In its own log a record goes to its partition, so that
    /// must be there now.
    fn partitions(&self, config: &Config, log: &PipelineLog) -> Result<Option<BTreeSet<u32>>, Failure> {
        let numbers = |partitions: &[Partition]| partitions.iter().map(|partition| partition.0).collect();
        match (self, &config.source) {
            (Target::Topic(topic), Source::Kafka(source)) if *topic == source.topic => {
                Ok(Some(numbers(&kafka::inspect(source, clock::instant() + ANSWER)?.partitions)))
            }
            _ => {
                let begun: Vec<Partition> = log.partitions()?.into_iter().collect();
                Ok((!begun.is_empty()).then(|| numbers(&begun)))
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Topic(name) => write!(f, "topic {name}"),
            Target::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// A record's place in the log: partition and offset.
type Place = (u32, u64);

/// Which records are sent, and why the others are not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Each once, in the order in which they are kept.
    send: Vec<Place>,
    /// Dead letters of a record that is sent for another dead letter.
    repeated: u64,
    /// Dead letters without a record: of timers, migrations and rows.
    without_record: u64,
    /// Dead letters of another topic's records, kept in the same place.
    foreign: u64,
    /// Dead letters of a partition that the source does not have.
    without_partition: u64,
    /// Dead letters whose record is not whole.
    cut: u64,
    /// Dead letters of deployments that were withdrawn: other logic has folded their records since.
    withdrawn: u64,
    /// Sent by a redrive before.
    sent: HashSet<Place>,
    /// Listed by a redrive that was interrupted.
    unsure: HashSet<Place>,
}

impl Plan {
    fn new(redrives: &[Redrive], again: bool) -> (Plan, Former) {
        let of = |is_done: bool| {
            let places = redrives.iter().filter(|redrive| redrive.is_done == is_done).flat_map(|r| &r.records);
            places.copied().collect::<HashSet<Place>>()
        };
        let redriven = redrives.iter().flat_map(|redrive| &redrive.records).copied().collect();
        let (sent, unsure) = if again { Default::default() } else { (of(true), of(false)) };
        (Plan::default(), Former { sent, unsure, redriven, ..Former::default() })
    }

    /// `repeated` is the record that this one repeats: if that was sent, its last repetition stands for it.
    fn take(
        &mut self,
        stage: Stage,
        place: Place,
        repeated: Option<Place>,
        former: &mut Former,
        planned: &mut HashSet<Place>,
    ) {
        if let Some(repeated) = repeated.filter(|repeated| *repeated != place && former.redriven.contains(repeated)) {
            former.superseded.insert(repeated);
            self.repeated += u64::from(planned.remove(&repeated));
        }
        if !stage.keeps_the_record() {
            self.without_record += 1;
        } else if former.sent.contains(&place) {
            self.sent.insert(place);
        } else if former.unsure.contains(&place) {
            self.unsure.insert(place);
        } else if former.superseded.contains(&place) {
            self.repeated += 1;
        } else if planned.insert(place) {
            self.send.push(place);
        } else {
            self.repeated += 1;
        }
    }

    fn lines(&self, target: &Target, dry_run: bool) -> String {
        let verb = if dry_run { "would send" } else { "sent" };
        let mut lines = vec![format!("{verb} to {target}: {} record(s)", self.send.len())];
        let mut skipped = |count: u64, why: &str| {
            if count > 0 {
                lines.push(format!("skipped {count}: {why}"));
            }
        };
        skipped(self.sent.len() as u64, "sent by an earlier redrive; send them again with --again");
        skipped(
            self.unsure.len() as u64,
            "an interrupted redrive may have sent them; look for their header keyfold.redriven.offset in the target, or send them \
             with --again",
        );
        skipped(self.repeated, "their record, or a repetition of it, is sent for another dead letter");
        skipped(self.without_record, "they carry a key's state or a row, not a record (timer, migrate, sink)");
        skipped(self.foreign, "their record comes from another topic than source.kafka.topic");
        skipped(
            self.without_partition,
            "their record names a partition that the source does not have; keyfold did not write them",
        );
        skipped(self.cut, "their record was too large for the topic of dead letters and was cut; copy it from the log");
        skipped(self.withdrawn, "their deployment was withdrawn, and their records were folded by the one before");
        lines.join("\n")
    }

    fn document(&self, target: &Target, dry_run: bool) -> serde_json::Value {
        json!({
            "target": target.to_string(),
            "dry_run": dry_run,
            "records": self.send.len(),
            "skipped": {
                "sent_before": self.sent.len(),
                "unsure": self.unsure.len(),
                "repeated": self.repeated,
                "without_record": self.without_record,
                "foreign": self.foreign,
                "without_partition": self.without_partition,
                "cut": self.cut,
                "withdrawn": self.withdrawn,
            },
        })
    }

    fn answer(&self, target: &Target, dry_run: bool, output: Output) -> String {
        output.render(&self.document(target, dry_run), |_| self.lines(target, dry_run))
    }
}

/// What earlier redrives have sent, or may have sent.
#[derive(Debug, Default)]
struct Former {
    sent: HashSet<Place>,
    unsure: HashSet<Place>,
    /// Both, also if they are to be sent again.
    redriven: HashSet<Place>,
    /// Those of which a repetition is a dead letter too.
    superseded: HashSet<Place>,
}

/// Sends the records of dead letters again, as new records of a log.
fn redrive(config: &Config, wanted: &Redriving, output: Output) -> Result<String, Failure> {
    let target = Target::of(wanted.to.as_deref(), &config.source)?;
    target.refuse_what_is_no_log(config)?;
    let runtime = runtime()?;
    let log = PipelineLog::new(objects(&config.state.url)?, runtime.handle().clone());
    let redrives = log.redrives()?;
    let (mut plan, mut former) = Plan::new(&redrives, wanted.again);
    let mut planned = HashSet::new();
    let partitions = target.partitions(config, &log)?;
    let is_there = |kept: &StoredLetter| partitions.as_ref().is_none_or(|known| known.contains(&place(kept).0));
    let mut withdrawn = Withdrawn { log: &log, known: BTreeMap::new() };
    read(config, wanted.stage, &mut |kept| {
        if kept.letter.stage.keeps_the_record() && withdrawn.made(&kept)? {
            plan.withdrawn += 1;
        } else if is_foreign(&kept, &config.source) {
            plan.foreign += 1;
        } else if kept.letter.stage.keeps_the_record() && !is_there(&kept) {
            plan.without_partition += 1;
        } else if kept.is_cut && kept.letter.stage.keeps_the_record() {
            plan.cut += 1;
        } else {
            plan.take(kept.letter.stage, place(&kept), repeats(&kept), &mut former, &mut planned);
        }
        Ok(())
    })?;
    plan.send.retain(|place| planned.contains(place));
    if wanted.dry_run || plan.send.is_empty() {
        return Ok(plan.answer(&target, wanted.dry_run, output));
    }
    let mut out = Out::open(&target, &config.source)?;
    let to = target.to_string();
    let mut redrive = Redrive { at_ms: clock::now_ms(), to, records: plan.send.clone(), is_done: false };
    if !log.begin_redrive(redrives.len(), &redrive)? {
        let message = "another redrive of this pipeline is running: try again when it is done";
        return Err(Failure::new(Exit::Outside, message));
    }
    read(config, wanted.stage, &mut |kept| {
        // Dead letters written after the plan was made are left for the next redrive.
        let is_whole = kept.letter.stage.keeps_the_record() && !kept.is_cut;
        let is_candidate = is_whole && !is_foreign(&kept, &config.source) && !withdrawn.made(&kept)?;
        if is_candidate && planned.remove(&place(&kept)) { out.send(&kept) } else { Ok(()) }
    })?;
    out.finish()?;
    redrive.is_done = true;
    log.end_redrive(redrives.len(), &redrive)?;
    Ok(plan.answer(&target, false, output))
}

/// Which deployments were withdrawn. What they left in a topic, or in the file of several lanes, stays there, but their records were folded by
/// the logic before: sent again, they would be folded twice.
struct Withdrawn<'a> {
    log: &'a PipelineLog,
    /// The digest of each deployment's plugin, if it was withdrawn.
    known: BTreeMap<u64, Option<String>>,
}

impl Withdrawn<'_> {
    /// Whether a withdrawn deployment made this dead letter.
    fn made(&mut self, kept: &StoredLetter) -> Result<bool, Failure> {
        let Some(n) = kept.letter.deployment else { return Ok(false) };
        if let Entry::Vacant(entry) = self.known.entry(n) {
            let deployment = if self.log.is_withdrawn(n)? { self.log.deployment(n)? } else { None };
            entry.insert(deployment.map(|deployment| deployment.settings.plugin.0));
        }
        Ok(self.known[&n].as_ref() == Some(&kept.letter.plugin))
    }
}

/// Returns whether the record comes from another log: several pipelines may share a dead-letter topic.
fn is_foreign(kept: &StoredLetter, source: &Source) -> bool {
    match (source, &kept.source_topic) {
        (Source::Kafka(kafka), Some(topic)) => *topic != kafka.topic,
        (Source::Kafka(_) | Source::File(_), _) => false,
    }
}

fn place(kept: &StoredLetter) -> Place {
    let record = kept.letter.record.get(0);
    (record.partition, record.offset)
}

/// Opens a file to append records to it. Nobody else may be writing it, and it must end with a whole line: whoever wrote half of one may be
/// about to write the rest.
fn open_whole(path: &Path) -> Result<AppendFile, String> {
    let mut file = AppendFile::open(path)?;
    file.claim(clock::instant())?;
    if file.ends_with_line_break()? {
        return Ok(file);
    }
    let path = path.display();
    Err(format!("the last line of {path} has no line break; wait until it is whole, or end it with one, or remove it"))
}

/// An open target.
enum Out {
    Topic { sender: Sender, topic: String, is_source: bool },
    File(AppendFile),
}

impl Out {
    fn open(target: &Target, source: &Source) -> Result<Out, Failure> {
        Ok(match (target, source) {
            (Target::File(path), _) => {
                Out::File(open_whole(path).map_err(|e| Failure::new(Exit::Outside, format!("--to: {e}")))?)
            }
            (Target::Topic(topic), Source::Kafka(kafka)) => {
                let deadline = clock::instant() + ANSWER;
                let there = config::KafkaSource { topic: topic.clone(), ..kafka.clone() };
                kafka::inspect(&there, deadline)?; // refuses a missing topic before the journal is written
                Out::Topic { sender: Sender::open(kafka)?, topic: topic.clone(), is_source: *topic == kafka.topic }
            }
            (Target::Topic(_), Source::File(_)) => unreachable!("refused when the target was named"),
        })
    }

    fn send(&mut self, kept: &StoredLetter) -> Result<(), Failure> {
        let record = kept.letter.record.get(0);
        let headers = redriven_headers(kept);
        match self {
            Out::Topic { sender, topic, is_source } => {
                // In its own log a record goes to the partition of its key.
                let partition = is_source.then_some(Partition(record.partition));
                let headers = Some((&headers, 0));
                Ok(sender.send(topic, Outgoing { partition, key: record.key, payload: record.payload, headers })?)
            }
            Out::File(file) => {
                // Stamped now, as a broker would.
                let (append_time, headers) = (clock::now_ms(), Some((&headers, 0)));
                let line = redriven_line(RecordRef { append_time, headers, ..record });
                file.append(&line).map_err(|e| Failure::new(Exit::Outside, format!("--to: {e}")))
            }
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        match self {
            Out::Topic { sender, topic, .. } => Ok(sender.finish(topic).map(drop)?),
            Out::File(file) => file.sync().map(drop).map_err(|e| Failure::new(Exit::Outside, format!("--to: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kafka() -> Source {
        Source::Kafka(config::KafkaSource {
            brokers: "localhost:9092".into(),
            topic: "visits".into(),
            group: "g".into(),
            ordering: config::Ordering::Topic,
            hosts: config::Hosts::One,
            properties: BTreeMap::new(),
            secret_files: BTreeMap::new(),
        })
    }

    fn file(format: FileFormat) -> Source {
        let path = "log.ndjson".into();
        let ordering = config::Ordering::Topic;
        Source::File(config::FileSource { path, format, timestamp_start_ms: None, ordering, complete: false })
    }

    #[test]
    fn a_target_is_what_the_source_is_unless_it_says_so() {
        let of = |to, source: &Source| Target::of(to, source).map_err(|e| e.message);
        assert_eq!(of(None, &kafka()), Ok(Target::Topic("visits".into())));
        assert_eq!(of(Some("other"), &kafka()), Ok(Target::Topic("other".into())));
        assert_eq!(of(Some("file:again.ndjson"), &kafka()), Ok(Target::File("again.ndjson".into())));
        assert_eq!(of(Some("log.ndjson"), &file(FileFormat::Records)), Ok(Target::File("log.ndjson".into())));
        for (to, format) in [
            (None, FileFormat::Records),
            (Some("topic:visits"), FileFormat::Records),
            (Some("log.ndjson"), FileFormat::Payloads),
        ] {
            assert!(of(to, &file(format)).expect_err("cannot be").starts_with("--to"), "{to:?}");
        }
    }

    #[test]
    fn each_record_is_sent_once_and_those_of_former_redrives_are_not() {
        let redrive = |records, is_done| Redrive { at_ms: 1, to: "topic visits".into(), records, is_done };
        let former = [redrive(vec![(0, 1)], true), redrive(vec![(0, 2)], false)];
        let letters = [
            (Stage::Map, (0, 1)),
            (Stage::Map, (0, 2)),
            (Stage::Fold, (0, 3)),
            (Stage::Time, (0, 3)),
            (Stage::Timer, (0, 4)),
            (Stage::Map, (1, 3)),
        ];
        let planned = |again| {
            let (mut plan, mut former) = Plan::new(&former, again);
            let mut planned = HashSet::new();
            letters.iter().for_each(|&(stage, place)| plan.take(stage, place, None, &mut former, &mut planned));
            plan
        };
        let plan = planned(false);
        assert_eq!(plan.send, [(0, 3), (1, 3)]);
        assert_eq!((plan.repeated, plan.without_record), (1, 1));
        assert_eq!((plan.sent.len(), plan.unsure.len()), (1, 1));
        let lines = plan.lines(&Target::Topic("visits".into()), true);
        assert!(
            lines.starts_with("would send to topic visits: 2 record(s)\nskipped 1: sent by an earlier redrive"),
            "{lines}"
        );
        assert_eq!(planned(true).send, [(0, 1), (0, 2), (0, 3), (1, 3)]);
    }

    #[test]
    fn of_a_record_that_fails_again_only_the_last_repetition_is_sent() {
        let redrive = Redrive { at_ms: 1, to: "topic visits".into(), records: vec![(0, 1), (0, 7)], is_done: true };
        // 0/7 repeats 0/1, and 0/9 repeats 0/7; 0/8 says that it repeats 0/2, which was never sent.
        let letters =
            [((0, 1), None), ((0, 2), None), ((0, 7), Some((0, 1))), ((0, 8), Some((0, 2))), ((0, 9), Some((0, 7)))];
        let mut backwards = letters;
        backwards.reverse();
        for letters in [letters, backwards] {
            let (mut plan, mut former) = Plan::new(std::slice::from_ref(&redrive), true);
            let mut planned = HashSet::new();
            let stage = Stage::Map;
            letters.iter().for_each(|(place, of)| plan.take(stage, *place, *of, &mut former, &mut planned));
            plan.send.retain(|place| planned.contains(place));
            plan.send.sort_unstable();
            assert_eq!((plan.send, plan.repeated), (vec![(0, 2), (0, 8), (0, 9)], 2));
        }
    }
}
