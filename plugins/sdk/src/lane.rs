//! A lane in memory, for [`crate::testing`]: it folds batches natively, as the host does.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::columns::{Column as _, bytes, count, item, start, texts};
use crate::glue::Instance;
use crate::raw::{
    ByteColumn, ChangeBatch, Column, ColumnData, FoldBatch, RecordBatch, StateBatch, TableSpec, TimerBatch,
};
use crate::testing::{Late, Outcome};
use crate::{Mapper, NO_TIME};

/// What a lane keeps of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KeyState {
    value: Option<Vec<u8>>,
    items: Vec<Vec<u8>>,
    timer: Option<i64>,
}

/// What a lane keeps of its log: the keys' state and timers, and how far event time has come. For an example, see
/// [`Topic`](crate::testing::Topic).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The state version of what wrote it.
    version: u32,
    watermark: i64,
    keys: BTreeMap<String, KeyState>,
    /// The next offset of each partition, and the greatest append time so far.
    pub(crate) ends: BTreeMap<u32, (u64, i64)>,
}

impl Default for State {
    fn default() -> State {
        State { version: 0, watermark: NO_TIME, keys: BTreeMap::new(), ends: BTreeMap::new() }
    }
}

struct PendingEvent {
    value: Vec<u8>,
    time: i64,
    watermark: i64,
    append_time: i64,
    partition: u32,
    offset: u64,
    index: u32,
}

/// A lane.
pub(crate) struct Lane {
    out_of_orderness_ms: i64,
    late: Late,
    state: State,
    rows: BTreeMap<String, Vec<String>>,
    rejections: Vec<String>,
    dropped: usize,
}

impl Lane {
    /// A lane that goes on with this state. If the mapper has a later state version, all keys are migrated.
    pub(crate) fn of<M: Mapper>(
        instance: &Instance<M>,
        (out_of_orderness_ms, late): (i64, Late),
        state: State,
    ) -> Result<Lane, String> {
        let (rows, rejections) = (BTreeMap::new(), Vec::new());
        let mut lane = Lane { out_of_orderness_ms, late, state, rows, rejections, dropped: 0 };
        let (was, is) = (lane.state.version, M::describe().into_raw().state_version);
        if was > is {
            return Err(format!(
                "the state has version {was}, which the mapper cannot read: its state version is {is}"
            ));
        }
        if was != 0 && was < is {
            lane.migrate(instance, was);
        }
        lane.state.version = is;
        Ok(lane)
    }

    fn migrate<M: Mapper>(&mut self, instance: &Instance<M>, version: u32) {
        for (key, state) in std::mem::take(&mut self.state.keys) {
            match migrated(instance, version, &state) {
                Ok(state) => drop(self.state.keys.insert(key, state)),
                Err(reason) => self.rejections.push(format!("state of {key}: {reason}")),
            }
        }
    }

    pub(crate) fn outcome(mut self, ends: BTreeMap<u32, (u64, i64)>) -> Outcome {
        self.rejections.sort();
        self.state.keys.retain(|_, state| *state != KeyState::default());
        self.state.ends = ends;
        let timers = self.state.keys.iter().filter_map(|(key, state)| Some((key.clone(), state.timer?))).collect();
        let Lane { rows, rejections, dropped, state, .. } = self;
        Outcome { rows, rejections, timers, dropped, state }
    }

    pub(crate) fn fold_batch<M: Mapper>(&mut self, instance: &Instance<M>, records: RecordBatch) {
        let mut pending = self.events(instance, &records);
        while !pending.is_empty() {
            let (batch, keys) = (self.fold_columns(&pending), pending.keys().cloned().collect::<Vec<_>>());
            let changes = instance.fold(&batch);
            for rejection in &changes.rejections {
                let i = rejection.item as usize;
                let place = place(batch.partitions[i], batch.offsets[i], Some(batch.indexes[i]));
                self.rejections.push(format!("event {place}: {}", rejection.reason));
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

    /// Maps records, judges late events and advances the watermark. Returns the events to fold by key.
    fn events<M: Mapper>(
        &mut self,
        instance: &Instance<M>,
        records: &RecordBatch,
    ) -> BTreeMap<String, Vec<PendingEvent>> {
        let events = instance.map_records(records);
        for rejection in events.rejections {
            let i = rejection.item as usize;
            let place = place(records.partitions[i], records.offsets[i], None);
            self.rejections.push(format!("record {place}: {}", rejection.reason));
        }
        let mut pending = BTreeMap::<String, Vec<PendingEvent>>::new();
        let (mut record, mut index, mut before, mut after) = (u32::MAX, 0, self.state.watermark, self.state.watermark);
        for (i, (of, time)) in events.records.iter().zip(&events.event_times).enumerate() {
            if *of != record {
                (record, index, before) = (*of, 0, after);
            }
            let (partition, offset) = (records.partitions[record as usize], records.offsets[record as usize]);
            let is_late = before != NO_TIME && *time <= before;
            match self.late {
                Late::Drop if is_late => self.dropped += 1,
                Late::DeadLetter if is_late => {
                    let place = place(partition, offset, Some(index));
                    self.rejections.push(format!(
                        "event {place}: late: the event time {time} is not after the watermark {before}"
                    ));
                }
                _ => {
                    let event = PendingEvent {
                        value: item(&events.values.data, &events.values.ends, i).to_vec(),
                        time: *time,
                        watermark: before,
                        append_time: records.append_times[record as usize],
                        partition,
                        offset,
                        index,
                    };
                    pending.entry(text(item(&events.keys.data, &events.keys.ends, i))).or_default().push(event);
                    after = after.max(time.saturating_sub(self.out_of_orderness_ms));
                }
            }
            index += 1;
        }
        self.state.watermark = after;
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
            partitions: all().map(|event| event.partition).collect(),
            offsets: all().map(|event| event.offset).collect(),
            indexes: all().map(|event| event.index).collect(),
        };
        let none = KeyState::default();
        for (key, events) in pending {
            let state = self.state.keys.get(key).unwrap_or(&none);
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
        let due = |state: &KeyState| {
            self.state.watermark != NO_TIME && state.timer.is_some_and(|time| time <= self.state.watermark)
        };
        self.state.keys.iter().find(|(_, state)| due(state)).map(|(key, _)| key.clone())
    }

    fn fire<M: Mapper>(&mut self, instance: &Instance<M>, key: &str) {
        let state = self.state.keys.get_mut(key).expect("a key that fires has a timer");
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
        let set = self.state.keys[key].timer;
        assert!(
            set.is_none_or(|next| next > time),
            "the timer of {key} fired at {time}, and on_timer set a timer for {set:?}: it must be later"
        );
    }

    fn apply<M: Mapper>(&mut self, keys: &[String], changes: &ChangeBatch, key_of: impl Fn(u32) -> usize) {
        for (i, key) in keys.iter().enumerate() {
            let state = self.state.keys.entry(key.clone()).or_default();
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
        let tables = M::describe().into_raw().tables;
        let mut rows = Vec::new();
        for batch in &changes.rows {
            for (row, item) in batch.items.iter().enumerate() {
                rows.push((*item, row_text(&tables[batch.table as usize], &batch.columns, row)));
            }
        }
        // Stable: within an event, row-batches and their rows are in order.
        rows.sort_by_key(|(item, _)| *item);
        for (item, row) in rows {
            self.rows.entry(keys[key_of(item)].clone()).or_default().push(row);
        }
    }
}

fn migrated<M: Mapper>(instance: &Instance<M>, version: u32, state: &KeyState) -> Result<KeyState, String> {
    let mut old = StateBatch { values: bytes(1, 0), list_items: bytes(state.items.len(), 0) };
    state.value.iter().for_each(|value| old.values.push(value));
    state.items.iter().for_each(|item| old.list_items.push(item));
    let new = instance.migrate(version, &old)?;
    let all = |column: &ByteColumn| -> Vec<Vec<u8>> {
        (0..column.ends.len()).map(|i| item(&column.data, &column.ends, i).to_vec()).collect()
    };
    Ok(KeyState { value: all(&new.values).pop(), items: all(&new.list_items), timer: state.timer })
}

/// A record or an event of it, as rejections name it.
fn place(partition: u32, offset: u64, event: Option<u32>) -> String {
    let event = event.map(|index| format!(".{index}")).unwrap_or_default();
    match partition {
        0 => format!("{offset}{event}"),
        _ => format!("{offset}{event} of partition {partition}"),
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
