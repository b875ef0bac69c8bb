//! A small host for unit tests of plugins: it folds a log natively, in batches of any sizes, and checks that the results are the same.
//!
//! It behaves like one lane that drops late events. It has no limits, no sandbox and no checkpoints. It lists rows by key, in the order in
//! which each key emitted them, as text: `sessions(session_id=7, user_id=1, pages=["A"])`.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::columns::{Column as _, bytes, count, item, start, texts};
use crate::glue::{Instance, describe};
use crate::raw::{ByteColumn, ChangeBatch, Column, ColumnData, FoldBatch, RecordBatch, TableSpec, TimerBatch};
use crate::{Mapper, NO_TIME};

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
    /// The rejections, sorted: `record <offset>: <reason>`, `event <offset>.<index>: <reason>`, `timer of <key> at <time>: <reason>`.
    pub rejections: Vec<String>,
    /// The keys whose timer is still set, with its time.
    pub timers: BTreeMap<String, i64>,
}

impl Log {
    /// Creates a log from append times and payloads.
    pub fn new(out_of_orderness_ms: i64, records: &[(i64, &str)]) -> Log {
        let records = records.iter().map(|(time, payload)| (*time, Some(payload.as_bytes().to_vec()))).collect();
        Log { records, out_of_orderness_ms }
    }

    /// Folds the log in batches of these sizes, repeated as often as needed, with a fresh mapper for each batch.
    pub fn fold<M: Mapper>(&self, config: &str, cuts: &[usize]) -> Result<Outcome, String> {
        let mut host = Host::new(self.out_of_orderness_ms);
        let (mut first, mut cuts) = (0, cuts.iter().cycle());
        while first < self.records.len() {
            let size = cuts.next().map_or(1, |cut| (*cut).max(1));
            let end = self.records.len().min(first + size);
            host.fold_batch(&Instance::<M>::configure(config)?, self.batch(first, end));
            first = end;
        }
        Ok(host.outcome())
    }

    /// Folds the log four times: one record at a time, seven at a time, in irregular batches and as one batch. Panics if the outcomes differ;
    /// otherwise returns the outcome.
    pub fn fold_deterministically<M: Mapper>(&self, config: &str) -> Outcome {
        let fold = |cuts: &[usize]| self.fold::<M>(config, cuts).expect("the mapper accepts the configuration");
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

    fn batch(&self, first: usize, end: usize) -> RecordBatch {
        let records = &self.records[first..end];
        let mut payloads = bytes(0, 0);
        records.iter().for_each(|(_, payload)| payloads.push(payload.as_deref().unwrap_or_default()));
        RecordBatch {
            partitions: vec![0; records.len()],
            offsets: (first..end).map(|offset| offset as u64).collect(),
            append_times: records.iter().map(|(time, _)| *time).collect(),
            keys: ByteColumn { data: Vec::new(), ends: vec![0; records.len()] },
            payloads,
            null_keys: (0..count(records.len())).collect(),
            null_payloads: (0..).zip(records).filter(|(_, record)| record.1.is_none()).map(|(i, _)| i).collect(),
            headers: None,
        }
    }
}

#[derive(Default)]
struct KeyState {
    value: Option<Vec<u8>>,
    items: Vec<Vec<u8>>,
    timer: Option<i64>,
    rows: Vec<String>,
}

struct PendingEvent {
    value: Vec<u8>,
    time: i64,
    watermark: i64,
    append_time: i64,
    offset: u64,
    index: u32,
}

struct Host {
    out_of_orderness_ms: i64,
    watermark: i64,
    keys: BTreeMap<String, KeyState>,
    rejections: Vec<String>,
}

impl Host {
    fn new(out_of_orderness_ms: i64) -> Host {
        Host { out_of_orderness_ms, watermark: NO_TIME, keys: BTreeMap::new(), rejections: Vec::new() }
    }

    fn outcome(mut self) -> Outcome {
        self.rejections.sort();
        let timers = self.keys.iter().filter_map(|(key, state)| Some((key.clone(), state.timer?))).collect();
        let rows = self.keys.into_iter().filter(|(_, state)| !state.rows.is_empty());
        Outcome { rows: rows.map(|(key, state)| (key, state.rows)).collect(), rejections: self.rejections, timers }
    }

    fn fold_batch<M: Mapper>(&mut self, instance: &Instance<M>, records: RecordBatch) {
        let mut pending = self.events(instance, &records);
        while !pending.is_empty() {
            let (batch, keys) = (self.fold_columns(&pending), pending.keys().cloned().collect::<Vec<_>>());
            let changes = instance.fold(&batch);
            for rejection in &changes.rejections {
                let i = rejection.item as usize;
                self.rejections.push(format!("event {}.{}: {}", batch.offsets[i], batch.indexes[i], rejection.reason));
            }
            self.apply::<M>(&keys, &changes, |event| batch.event_ends.partition_point(|end| *end <= event));
            for (key, consumed) in keys.iter().zip(&changes.consumed) {
                let events = pending.get_mut(key).expect("each key of the call has events");
                events.drain(..*consumed as usize);
                if events.is_empty() {
                    pending.remove(key);
                } else {
                    self.fire(instance, key);
                }
            }
        }
        while let Some(key) = self.due() {
            self.fire(instance, &key);
        }
    }

    /// Maps records, drops late events and advances the watermark. Returns the other events by key.
    fn events<M: Mapper>(
        &mut self,
        instance: &Instance<M>,
        records: &RecordBatch,
    ) -> BTreeMap<String, Vec<PendingEvent>> {
        let events = instance.map_records(records);
        for rejection in events.rejections {
            self.rejections.push(format!("record {}: {}", records.offsets[rejection.item as usize], rejection.reason));
        }
        let mut pending = BTreeMap::<String, Vec<PendingEvent>>::new();
        let (mut record, mut index, mut before, mut after) = (u32::MAX, 0, self.watermark, self.watermark);
        for (i, (of, time)) in events.records.iter().zip(&events.event_times).enumerate() {
            if *of != record {
                (record, index, before) = (*of, 0, after);
            }
            if before == NO_TIME || *time > before {
                let event = PendingEvent {
                    value: item(&events.values.data, &events.values.ends, i).to_vec(),
                    time: *time,
                    watermark: before,
                    append_time: records.append_times[record as usize],
                    offset: records.offsets[record as usize],
                    index,
                };
                pending.entry(text(item(&events.keys.data, &events.keys.ends, i))).or_default().push(event);
                after = after.max(time.saturating_sub(self.out_of_orderness_ms));
            }
            index += 1;
        }
        self.watermark = after;
        pending
    }

    fn fold_columns(&self, pending: &BTreeMap<String, Vec<PendingEvent>>) -> FoldBatch {
        let all = || pending.values().flatten();
        let mut batch = FoldBatch {
            keys: texts(0, 0),
            value_present: Vec::new(),
            values: bytes(0, 0),
            timers: Vec::new(),
            event_ends: Vec::new(),
            event_values: bytes(0, 0),
            event_times: all().map(|event| event.time).collect(),
            watermarks: all().map(|event| event.watermark).collect(),
            append_times: all().map(|event| event.append_time).collect(),
            partitions: vec![0; all().count()],
            offsets: all().map(|event| event.offset).collect(),
            indexes: all().map(|event| event.index).collect(),
        };
        let none = KeyState::default();
        for (key, events) in pending {
            let state = self.keys.get(key).unwrap_or(&none);
            batch.keys.push(key.as_bytes());
            batch.value_present.push(u8::from(state.value.is_some()));
            batch.values.push(state.value.as_deref().unwrap_or_default());
            batch.timers.push(state.timer.unwrap_or(NO_TIME));
            events.iter().for_each(|event| batch.event_values.push(&event.value));
            batch.event_ends.push(count(batch.event_values.ends.len()));
        }
        batch
    }

    fn due(&self) -> Option<String> {
        let due =
            |state: &KeyState| self.watermark != NO_TIME && state.timer.is_some_and(|time| time <= self.watermark);
        self.keys.iter().find(|(_, state)| due(state)).map(|(key, _)| key.clone())
    }

    fn fire<M: Mapper>(&mut self, instance: &Instance<M>, key: &str) {
        let state = self.keys.get_mut(key).expect("a key that fires has a timer");
        let time = state.timer.take().expect("a key that fires has a timer");
        let (mut keys, mut values, mut items) = (texts(0, 0), bytes(0, 0), bytes(0, 0));
        keys.push(key.as_bytes());
        values.push(state.value.as_deref().unwrap_or_default());
        state.items.iter().for_each(|item| items.push(item));
        let changes = instance.on_timer(&TimerBatch {
            keys,
            value_present: vec![u8::from(state.value.is_some())],
            values,
            list_ends: vec![count(items.ends.len())],
            list_items: items,
            timers: vec![time],
        });
        for rejection in &changes.rejections {
            self.rejections.push(format!("timer of {key} at {time}: {}", rejection.reason));
        }
        self.apply::<M>(&[key.to_owned()], &changes, |_| 0);
        let set = self.keys[key].timer;
        assert!(
            set.is_none_or(|next| next > time),
            "the timer of {key} fired at {time}, and on_timer set a timer for {set:?}: it must be later"
        );
    }

    fn apply<M: Mapper>(&mut self, keys: &[String], changes: &ChangeBatch, key_of: impl Fn(u32) -> usize) {
        for (i, key) in keys.iter().enumerate() {
            let state = self.keys.entry(key.clone()).or_default();
            match changes.value_changes[i] {
                0 => {}
                1 => state.value = Some(item(&changes.values.data, &changes.values.ends, i).to_vec()),
                _ => state.value = None,
            }
            if changes.list_changes[i] >= 2 {
                state.items.clear();
            }
            let appended = start(&changes.list_ends, i)..changes.list_ends[i] as usize;
            let appended = appended.map(|i| item(&changes.list_items.data, &changes.list_items.ends, i).to_vec());
            state.items.extend(appended);
            state.timer = Some(changes.timers[i]).filter(|time| *time != NO_TIME);
        }
        let tables = describe::<M>().tables;
        let mut rows = Vec::new();
        for batch in &changes.rows {
            for (row, item) in batch.items.iter().enumerate() {
                rows.push((*item, row_text(&tables[batch.table as usize], &batch.columns, row)));
            }
        }
        // Stable: within an event, row-batches and their rows are in order.
        rows.sort_by_key(|(item, _)| *item);
        for (item, row) in rows {
            self.keys.entry(keys[key_of(item)].clone()).or_default().rows.push(row);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("a text column is UTF-8")
}

fn row_text(table: &TableSpec, columns: &[Column], row: usize) -> String {
    let mut out = format!("{}(", table.name);
    for (i, (spec, column)) in table.columns.iter().zip(columns).enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        write!(out, "{comma}{}={}", spec.name, cell_text(column, row)).expect("writing to a String cannot fail");
    }
    out.push(')');
    out
}

fn cell_text(column: &Column, row: usize) -> String {
    if column.nulls.contains(&count(row)) {
        return "null".into();
    }
    let range = |ends: &[u32]| start(ends, row)..ends[row] as usize;
    match &column.data {
        ColumnData::Booleans(values) => (values[row] != 0).to_string(),
        ColumnData::Integers(values) | ColumnData::Timestamps(values) => values[row].to_string(),
        ColumnData::Floats(values) => values[row].to_string(),
        ColumnData::Texts(texts) => format!("{:?}", text(item(&texts.data, &texts.ends, row))),
        ColumnData::Json(texts) => text(item(&texts.data, &texts.ends, row)),
        ColumnData::Blobs(blobs) => format!("{:?}", item(&blobs.data, &blobs.ends, row)),
        ColumnData::IntegerLists(lists) => format!("{:?}", &lists.items[range(&lists.ends)]),
        ColumnData::TextLists(lists) => {
            let items = range(&lists.ends).map(|i| text(item(&lists.items.data, &lists.items.ends, i)));
            format!("{:?}", items.collect::<Vec<_>>())
        }
    }
}
