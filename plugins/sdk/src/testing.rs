//! A small host for unit tests of plugins: it folds a log natively, in batches of any sizes, and checks that the results are the same.
//!
//! [`Log`] is enough for most tests. [`Topic`] has several partitions, keys, headers and a policy for late events, and goes on with the state
//! that another version of the plugin has left.
//!
//! It behaves like one lane. It has no limits, no sandbox, no checkpoints and no `time.future_limit`. It lists rows by key, in the order in
//! which each key emitted them, as text: `sessions(session_id=7, user_id=1, pages=["A"])`.

use std::collections::BTreeMap;

use crate::Mapper;
use crate::columns::{Column as _, bytes, count, texts};
use crate::glue::Instance;
use crate::lane::Lane;
use crate::raw::{HeaderColumns, RecordBatch};

pub use crate::lane::State;

/// The records of one partition, from offset 0 on, and the out-of-orderness of their event times.
///
/// ```
/// # use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record, Row};
/// use keyfold_sdk::testing::{Log, Outcome};
/// # #[derive(Row)]
/// # #[row(table = "seen")]
/// # struct Seen<'a> { #[row(key)] user: &'a str }
/// # struct Plugin;
/// # impl Mapper for Plugin {
/// #     type Event = ();
/// #     type Value = ();
/// #     type Item = ();
/// #     fn describe() -> Description { Description::new("plugin", "1.0.0").rows::<Seen<'_>>() }
/// #     fn configure(_: &str) -> Result<Plugin, String> { Ok(Plugin) }
/// #     fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
/// #         let payload = record.payload.ok_or("payload is missing")?;
/// #         out.push(std::str::from_utf8(payload).unwrap(), record.append_time, &());
/// #         Ok(())
/// #     }
/// #     fn on_event(&self, key: &mut Key<'_, Self>, _: &Event<'_, Self>) -> Result<(), String> {
/// #         let user = key.name();
/// #         key.emit(&Seen { user });
/// #         Ok(())
/// #     }
/// #     fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> { Ok(()) }
/// # }
///
/// let mut log = Log::new(10_000, &[(1_727_873_508_000, "ann")]);
/// log.records.push((1_727_873_509_000, None)); // a tombstone
///
/// // In batches of several sizes, all of which must give the same outcome.
/// let outcome: Outcome = log.fold_deterministically::<Plugin>("{}");
/// assert_eq!(outcome.rows["ann"], [r#"seen(user="ann")"#]);
/// assert_eq!(outcome.rejections, ["record 1: payload is missing"]);
///
/// // In batches of two.
/// assert_eq!(log.fold::<Plugin>("{}", &[2]), Ok(outcome));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Append time (ms since 1970 UTC) and payload of each record; `None` for a tombstone.
    pub records: Vec<(i64, Option<Vec<u8>>)>,
    /// How far the watermark stays behind the greatest event time.
    pub out_of_orderness_ms: i64,
}

/// The results of folding a log. For an example, see [`Log`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The rows of each key, in the order in which they were emitted.
    pub rows: BTreeMap<String, Vec<String>>,
    /// The rejections, sorted: `record <offset>: <reason>`, `event <offset>.<index>: <reason>`, `timer of <key> at <time>: <reason>`. After
    /// the offset, ` of partition <n>` names another partition than 0.
    pub rejections: Vec<String>,
    /// The keys whose timer is still set, with its time.
    pub timers: BTreeMap<String, i64>,
    /// How many late events were dropped.
    pub dropped: usize,
    /// What the lane keeps, with which another [`Topic`] can go on.
    pub state: State,
}

impl Log {
    /// Creates a log from append times and payloads.
    pub fn new(out_of_orderness_ms: i64, records: &[(i64, &str)]) -> Log {
        let records = records.iter().map(|(time, payload)| (*time, Some(payload.as_bytes().to_vec()))).collect();
        Log { records, out_of_orderness_ms }
    }

    /// Folds the log in batches of these sizes, repeated as often as needed, with a fresh mapper for each batch.
    pub fn fold<M: Mapper>(&self, config: &str, cuts: &[usize]) -> Result<Outcome, String> {
        self.topic().fold::<M>(config, cuts)
    }

    /// Folds the log four times: one record at a time, seven at a time, in irregular batches and as one batch. Panics if the outcomes differ;
    /// otherwise returns the outcome.
    pub fn fold_deterministically<M: Mapper>(&self, config: &str) -> Outcome {
        self.topic().fold_deterministically::<M>(config)
    }

    fn topic(&self) -> Topic {
        let sent = |(time, payload): &(i64, Option<Vec<u8>>)| match payload {
            Some(payload) => Sent::new(*time, payload),
            None => Sent::tombstone(*time),
        };
        let topic = Topic::new().out_of_orderness_ms(self.out_of_orderness_ms);
        self.records.iter().fold(topic, |topic, record| topic.send(sent(record)))
    }
}

/// What happens to late events: `time.late` in the pipeline's configuration. For an example, see [`Topic`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Late {
    /// They are dropped; [`Outcome::dropped`] counts them.
    #[default]
    Drop,
    /// They are rejected: `event <offset>.<index>: late: ..`.
    DeadLetter,
    /// `on_event` gets them as it gets others.
    Process,
}

/// A record of a [`Topic`].
///
/// ```
/// use keyfold_sdk::testing::{Sent, Topic};
///
/// let visit = Sent::new(1_727_873_508_000, r#"{"page": "A"}"#).key("ann").header("kind", "visit").partition(1);
/// let topic = Topic::new().send(visit).send(Sent::tombstone(1_727_873_509_000).key("bob"));
/// # drop(topic);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    partition: u32,
    timestamp: i64,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Sent {
    /// Creates a record of partition 0 with this timestamp (ms since 1970 UTC) and payload.
    pub fn new(timestamp: i64, payload: impl AsRef<[u8]>) -> Sent {
        Sent { timestamp, payload: Some(payload.as_ref().to_vec()), ..Sent::default() }
    }

    /// Creates a record without a payload.
    pub fn tombstone(timestamp: i64) -> Sent {
        Sent { timestamp, ..Sent::default() }
    }

    /// Sets the partition.
    pub fn partition(self, partition: u32) -> Sent {
        Sent { partition, ..self }
    }

    /// Sets the key.
    pub fn key(self, key: impl AsRef<[u8]>) -> Sent {
        Sent { key: Some(key.as_ref().to_vec()), ..self }
    }

    /// Adds a header. The plugin sees it if its description has [`with_headers`](crate::Description::with_headers).
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Sent {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }
}

/// A topic with any number of partitions, and the settings of the pipeline that folds it.
///
/// Records are folded in the order of their append times, then of their partitions. The append time of a record is its timestamp, or that
/// of an earlier record of its partition if that is greater.
///
/// ```
/// # use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record, Row};
/// use keyfold_sdk::testing::{Late, Sent, State, Topic};
/// use keyfold_sdk::{Migrated, Stored};
///
/// # #[derive(Row)]
/// # #[row(table = "counts")]
/// # struct Count<'a> { #[row(key)] user: &'a str, count: i64 }
/// # macro_rules! plugin { ($name:ident, $value:ty, $version:literal) => {
/// # struct $name;
/// # impl Mapper for $name {
/// #     type Event = ();
/// #     type Value = $value;
/// #     type Item = ();
/// #     fn describe() -> Description {
/// #         Description::new("plugin", "1.0.0").rows::<Count<'_>>().with_headers().state_version($version)
/// #     }
/// #     fn configure(_: &str) -> Result<$name, String> { Ok($name) }
/// #     fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
/// #         if record.headers().any(|(name, _)| name == "test") { return Err("a test".into()); }
/// #         let user = std::str::from_utf8(record.key.ok_or("no key")?).unwrap();
/// #         out.push(user, std::str::from_utf8(record.payload.unwrap()).unwrap().parse().unwrap(), &());
/// #         Ok(())
/// #     }
/// #     fn on_event(&self, key: &mut Key<'_, Self>, _: &Event<'_, Self>) -> Result<(), String> {
/// #         let count = key.value().unwrap_or(0) + 1;
/// #         key.put(&count);
/// #         let user = key.name();
/// #         key.emit(&Count { user, count: count.into() });
/// #         Ok(())
/// #     }
/// #     fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> { Ok(()) }
/// #     fn migrate_value(&self, _: u32, old: &[u8], new: &mut Migrated<'_, $value>) -> Result<(), String> {
/// #         new.put(&u16::read(old)?.into());
/// #         Ok(())
/// #     }
/// # }
/// # } }
/// # plugin!(Former, u16, 1);
/// # plugin!(Counts, i64, 2); // migrates the u16 of version 1
/// // Each payload is an event time. The first two set the watermark to 90.
/// let topic = Topic::new().out_of_orderness_ms(10).late(Late::DeadLetter);
/// let topic = topic.send(Sent::new(1000, "100").key("ann")).send(Sent::new(1000, "95").key("bob").partition(1));
/// let topic = topic.send(Sent::new(1001, "90").key("ann")).send(Sent::new(1002, "96").key("ann").header("test", ""));
/// let outcome = topic.fold_deterministically::<Former>("{}");
/// assert_eq!(outcome.rows["bob"], [r#"counts(user="bob", count=1)"#]);
/// assert_eq!(outcome.rejections, ["event 1.0: late: the event time 90 is not after the watermark 90", "record 2: a test"]);
///
/// // The next version of the plugin goes on with the state that this one has left, after a migration.
/// let later = Topic::new().late(Late::Process).after(&outcome.state).send(Sent::new(1003, "50").key("ann"));
/// let outcome = later.fold::<Counts>("{}", &[1]).unwrap();
/// assert_eq!(outcome.rows["ann"], [r#"counts(user="ann", count=2)"#]);
/// let state: State = outcome.state;
/// # drop(state);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Topic {
    records: Vec<Sent>,
    out_of_orderness_ms: i64,
    late: Late,
    state: State,
}

impl Topic {
    /// Creates an empty topic.
    pub fn new() -> Topic {
        Topic::default()
    }

    /// Sets how far the watermark stays behind the greatest event time; 0 at first.
    pub fn out_of_orderness_ms(self, ms: i64) -> Topic {
        Topic { out_of_orderness_ms: ms, ..self }
    }

    /// Sets what happens to late events.
    pub fn late(self, late: Late) -> Topic {
        Topic { late, ..self }
    }

    /// Adds a record.
    pub fn send(mut self, record: Sent) -> Topic {
        self.records.push(record);
        self
    }

    /// Goes on with the state that another fold has left: its keys, timers, watermark and offsets. If the mapper that folds this has a
    /// higher state version than the one that left the state, it migrates all keys first. A state that it cannot migrate is removed and
    /// rejected: `state of <key>: <reason>`.
    pub fn after(self, state: &State) -> Topic {
        Topic { state: state.clone(), ..self }
    }

    /// Folds the topic in batches of these sizes, repeated as often as needed, with a fresh mapper for each batch.
    pub fn fold<M: Mapper>(&self, config: &str, cuts: &[usize]) -> Result<Outcome, String> {
        let (records, ends) = self.in_order();
        let settings = (self.out_of_orderness_ms, self.late);
        let mut lane = Lane::of(&Instance::<M>::configure(config)?, settings, self.state.clone())?;
        let (mut first, mut cuts) = (0, cuts.iter().cycle());
        while first < records.len() {
            let size = cuts.next().map_or(1, |cut| (*cut).max(1));
            let end = records.len().min(first + size);
            lane.fold_batch(&Instance::<M>::configure(config)?, batch(&records[first..end]));
            first = end;
        }
        Ok(lane.outcome(ends))
    }

    /// Folds the topic four times: one record at a time, seven at a time, in irregular batches and as one batch. Panics if the outcomes
    /// differ; otherwise returns the outcome.
    pub fn fold_deterministically<M: Mapper>(&self, config: &str) -> Outcome {
        let fold = |cuts: &[usize]| self.fold::<M>(config, cuts).expect("the mapper accepts configuration and state");
        let alone = fold(&[1]);
        for cuts in [&[7][..], &[3, 1, 11, 2, 5, 64], &[self.records.len()]] {
            assert_eq!(
                fold(cuts),
                alone,
                "batches of {cuts:?} give other results than one record at a time (left: in batches, right: one at a time)"
            );
        }
        alone
    }

    /// The records in the lane's order, with append times and offsets, and where the partitions end.
    fn in_order(&self) -> (Vec<Placed<'_>>, BTreeMap<u32, (u64, i64)>) {
        let mut ends = self.state.ends.clone();
        let mut placed = Vec::with_capacity(self.records.len());
        for sent in &self.records {
            let (next, latest) = ends.entry(sent.partition).or_insert((0, i64::MIN));
            *latest = sent.timestamp.max(*latest);
            placed.push(Placed { append_time: *latest, offset: *next, sent });
            *next += 1;
        }
        placed.sort_by_key(|record| (record.append_time, record.sent.partition, record.offset));
        (placed, ends)
    }
}

/// A record at its place in the log.
struct Placed<'a> {
    append_time: i64,
    offset: u64,
    sent: &'a Sent,
}

fn batch(records: &[Placed<'_>]) -> RecordBatch {
    let (mut keys, mut payloads) = (bytes(0, 0), bytes(0, 0));
    let mut headers = HeaderColumns { ends: Vec::new(), names: texts(0, 0), values: bytes(0, 0) };
    for Placed { sent, .. } in records {
        keys.push(sent.key.as_deref().unwrap_or_default());
        payloads.push(sent.payload.as_deref().unwrap_or_default());
        for (name, value) in &sent.headers {
            headers.names.push(name.as_bytes());
            headers.values.push(value);
        }
        headers.ends.push(count(headers.values.ends.len()));
    }
    let nulls = |is_null: fn(&Sent) -> bool| {
        (0..).zip(records).filter(|(_, record)| is_null(record.sent)).map(|(i, _)| i).collect()
    };
    RecordBatch {
        partitions: records.iter().map(|record| record.sent.partition).collect(),
        offsets: records.iter().map(|record| record.offset).collect(),
        append_times: records.iter().map(|record| record.append_time).collect(),
        keys,
        payloads,
        null_keys: nulls(|sent| sent.key.is_none()),
        null_payloads: nulls(|sent| sent.payload.is_none()),
        headers: Some(headers),
    }
}
