//! The adapter between the contract's columns and [`Mapper`]: the functions that a plugin exports. They also run natively.
//!
//! For every mapper, it stops a key's fold when its timer is due (`consumed`), writes the change codes, keeps rows in order, and undoes
//! everything that a rejected record, event or firing did.

use std::ops::Range;
use std::rc::Rc;

use crate::columns::{Column, bytes, count, item, texts};
use crate::draft::Draft;
use crate::key::{Event, Firing, Items, Key, Output};
use crate::raw::{
    self, ByteColumn, ChangeBatch, EventBatch, FoldBatch, RecordBatch, Rejection, StateBatch, TableSpec, TimerBatch,
};
use crate::record::{Events, Records};
use crate::rows::Rows;
use crate::stored::Migrated;
use crate::{Mapper, NO_TIME, Stored};

/// Returns the description of a mapper in the contract's form, with the encodings of its state. For an example, see [`Instance`].
pub fn describe<M: Mapper>() -> raw::Description {
    let mut description = M::describe().into_raw();
    let encodings = [("value", M::Value::encoding()), ("item", M::Item::encoding())];
    description.config_schema = with_encodings(&description.config_schema, &encodings);
    description
}

/// The key of the configuration's schema under which a plugin says how its state is encoded. With it, a plugin also says that `migrate` from
/// its own state version reads state and gives it back.
const ENCODINGS: &str = "x-keyfold-state";

/// Adds the encodings to a schema, which is an object as text. The contract has no place of its own for them.
fn with_encodings(schema: &str, encodings: &[(&str, Option<String>)]) -> String {
    let Some(rest) = schema.trim_start().strip_prefix('{') else { return schema.to_owned() };
    let known = encodings.iter().filter_map(|(name, encoding)| Some((name, encoding.as_ref()?)));
    let pairs: Vec<String> = known.map(|(name, encoding)| format!("\"{name}\":{}", quoted(encoding))).collect();
    let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
    format!("{{\"{ENCODINGS}\":{{{}}}{comma}{rest}", pairs.join(","))
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\0'..='\x1f' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Compiles only for the types that [`plugin!`](crate::plugin) accepts.
#[doc(hidden)]
pub fn is_mapper<M: Mapper>() {}

/// A configured mapper that processes batches. [`plugin!`](crate::plugin) exports it; a plugin that implements the contract itself can build
/// on it.
///
/// ```
/// # use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record};
/// use keyfold_sdk::glue::{Instance, describe};
/// use keyfold_sdk::raw::{ChangeBatch, EventBatch, FoldBatch, RecordBatch, StateBatch, TimerBatch};
/// # struct Plugin { threshold: i64 }
/// # impl Mapper for Plugin {
/// #     type Event = ();
/// #     type Value = ();
/// #     type Item = ();
/// #     fn describe() -> Description { Description::new("plugin", "1.0.0") }
/// #     fn configure(_: &str) -> Result<Plugin, String> { Ok(Plugin { threshold: 3 }) }
/// #     fn map(&self, _: &Record<'_>, _: &mut Events<'_, Self>) -> Result<(), String> { Ok(()) }
/// #     fn on_event(&self, _: &mut Key<'_, Self>, _: &Event<'_, Self>) -> Result<(), String> { Ok(()) }
/// #     fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> { Ok(()) }
/// # }
///
/// // A mapper, and one thing that a mapper cannot do: fail a whole call.
/// struct Exports(Instance<Plugin>);
///
/// impl Exports {
///     fn new(config: &str) -> Result<Exports, String> {
///         Instance::configure(config).map(Exports)
///     }
///
///     fn map_records(&self, records: &RecordBatch) -> EventBatch {
///         self.0.map_records(records)
///     }
///
///     fn fold(&self, batch: &FoldBatch) -> Result<ChangeBatch, String> {
///         let changes = self.0.fold(batch);
///         if changes.rejections.len() as i64 > self.0.mapper().threshold {
///             return Err("too many rejections in one call".into());
///         }
///         Ok(changes)
///     }
///
///     fn on_timer(&self, batch: &TimerBatch) -> ChangeBatch {
///         self.0.on_timer(batch)
///     }
///
///     fn migrate(&self, version: u32, states: &StateBatch) -> Result<StateBatch, String> {
///         self.0.migrate(version, states)
///     }
/// }
///
/// assert_eq!(describe::<Plugin>().name, "plugin");
/// # Exports::new("{}").unwrap();
/// ```
pub struct Instance<M: Mapper> {
    mapper: M,
    tables: Rc<[TableSpec]>,
    state_version: u32,
}

impl<M: Mapper> Instance<M> {
    /// Creates the mapper from its configuration.
    pub fn configure(config: &str) -> Result<Instance<M>, String> {
        let description = M::describe().into_raw();
        let (tables, state_version) = (description.tables.into(), description.state_version);
        Ok(Instance { mapper: M::configure(config)?, tables, state_version })
    }

    /// Returns the mapper.
    pub fn mapper(&self) -> &M {
        &self.mapper
    }

    /// Implements the contract's `map-records`.
    pub fn map_records(&self, batch: &RecordBatch) -> EventBatch {
        let records = batch.offsets.len();
        let mut out = EventBatch {
            records: Vec::with_capacity(records),
            keys: texts(records, records * 16),
            event_times: Vec::with_capacity(records),
            values: bytes(records, batch.payloads.data.len() / 2),
            rejections: Vec::new(),
            logs: Vec::new(),
        };
        for (row, record) in Records::of(batch).enumerate() {
            let (row, events) = (count(row), out.records.len());
            if let Err(reason) = self.mapper.map(&record, &mut Events::of(row, &mut out)) {
                out.records.truncate(events);
                out.event_times.truncate(events);
                out.keys.truncate(events);
                out.values.truncate(events);
                out.rejections.push(Rejection { item: row, reason });
            }
        }
        out
    }

    /// Implements the contract's `fold`.
    pub fn fold(&self, batch: &FoldBatch) -> ChangeBatch {
        let keys = batch.timers.len();
        let mut call = Call::new(&self.tables, keys, batch.event_values.data.len(), batch.event_times.len());
        let mut first = 0;
        for key in 0..keys {
            let end = batch.event_ends[key] as usize;
            call.begin_key(value(&batch.value_present, &batch.values, key), batch.timers[key]);
            let name = item(&batch.keys.data, &batch.keys.ends, key);
            let consumed = self.fold_key(&mut call, name, batch, first..end);
            call.end_key(consumed);
            first = end;
        }
        call.end()
    }

    /// Folds a key's events until its timer is due. Returns how many it folded.
    fn fold_key(&self, call: &mut Call, name: &[u8], batch: &FoldBatch, events: Range<usize>) -> u32 {
        for i in events.clone() {
            if call.draft.is_due(batch.watermarks[i]) {
                return count(i - events.start);
            }
            call.begin_item(count(i));
            let mut key = Key::of(name, &mut call.draft, &mut call.output);
            let result = self.mapper.on_event(&mut key, &Event::of(batch, i));
            call.end_item(count(i), result);
        }
        count(events.len())
    }

    /// Implements the contract's `on-timer`.
    pub fn on_timer(&self, batch: &TimerBatch) -> ChangeBatch {
        let keys = batch.timers.len();
        let mut call = Call::new(&self.tables, keys, 0, 0);
        for i in 0..keys {
            call.begin_key(value(&batch.value_present, &batch.values, i), NO_TIME);
            call.begin_item(count(i));
            let name = item(&batch.keys.data, &batch.keys.ends, i);
            let key = Key::of(name, &mut call.draft, &mut call.output);
            let mut firing = Firing::of(key, Items::of(&batch.list_items, &batch.list_ends, i));
            let result = self.mapper.on_timer(&mut firing, batch.timers[i]);
            if !call.end_item(count(i), result) {
                // A rejected firing clears the key's state.
                call.draft.clear_value();
                call.draft.clear_items();
            }
            call.end_key(0);
        }
        call.end()
    }

    /// Implements the contract's `migrate`. From its own state version, it only checks that the state can be read.
    pub fn migrate(&self, version: u32, states: &StateBatch) -> Result<StateBatch, String> {
        if version == self.state_version {
            readable::<M::Value>("a value state", &states.values)?;
            readable::<M::Item>("a list item", &states.list_items)?;
            return Ok(states.clone());
        }
        Ok(StateBatch {
            values: migrate(&states.values, |old, new| {
                let mut new = Migrated::new(new);
                self.mapper.migrate_value(version, old, &mut new)?;
                new.done()
            })?,
            list_items: migrate(&states.list_items, |old, new| {
                let mut new = Migrated::new(new);
                self.mapper.migrate_item(version, old, &mut new)?;
                new.done()
            })?,
        })
    }
}

fn readable<T: Stored + ?Sized>(what: &str, column: &ByteColumn) -> Result<(), String> {
    for i in 0..column.ends.len() {
        let read = T::read(item(&column.data, &column.ends, i));
        read.map_err(|reason| format!("cannot decode {what}: {reason}"))?;
    }
    Ok(())
}

fn migrate(
    old: &ByteColumn,
    mut one: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), String>,
) -> Result<ByteColumn, String> {
    let mut new = bytes(old.ends.len(), old.data.len());
    for i in 0..old.ends.len() {
        one(item(&old.data, &old.ends, i), &mut new.data)?;
        new.ends.push(count(new.data.len()));
    }
    Ok(new)
}

fn value<'a>(present: &[u8], values: &'a ByteColumn, i: usize) -> Option<&'a [u8]> {
    (present[i] != 0).then(|| item(&values.data, &values.ends, i))
}

/// The answer to a call, while it is built.
struct Call {
    draft: Draft,
    output: Output,
    changes: ChangeBatch,
}

impl Call {
    fn new(tables: &Rc<[TableSpec]>, keys: usize, item_bytes: usize, items: usize) -> Call {
        let changes = ChangeBatch {
            consumed: Vec::with_capacity(keys),
            value_changes: Vec::with_capacity(keys),
            values: bytes(keys, 0),
            list_changes: Vec::with_capacity(keys),
            list_ends: Vec::with_capacity(keys),
            list_items: bytes(0, 0),
            timers: Vec::with_capacity(keys),
            rows: Vec::new(),
            rejections: Vec::new(),
            logs: Vec::new(),
        };
        let output = Output { items: bytes(items, item_bytes), rows: Rows::new(tables.clone()), logs: Vec::new() };
        Call { draft: Draft::new(), output, changes }
    }

    fn begin_key(&mut self, value: Option<&[u8]>, timer: i64) {
        self.draft.begin_key(value, timer, self.output.items.ends.len());
    }

    /// Begins an event or a firing.
    fn begin_item(&mut self, item: u32) {
        self.draft.begin_event();
        self.output.rows.begin_item(item);
    }

    /// Ends an event or a firing, and undoes it if it was rejected. Returns whether it was accepted.
    fn end_item(&mut self, item: u32, result: Result<(), String>) -> bool {
        match result {
            Ok(()) => {
                self.output.rows.end_item();
                true
            }
            Err(reason) => {
                self.draft.undo(&mut self.output.items);
                self.output.rows.undo_item();
                self.changes.rejections.push(Rejection { item, reason });
                false
            }
        }
    }

    fn end_key(&mut self, consumed: u32) {
        let (value_change, list_change, value, timer) = self.draft.end_key(&mut self.output.items);
        self.changes.consumed.push(consumed);
        self.changes.value_changes.push(value_change);
        self.changes.values.push(value);
        self.changes.list_changes.push(list_change);
        self.changes.list_ends.push(count(self.output.items.ends.len()));
        self.changes.timers.push(timer);
    }

    fn end(mut self) -> ChangeBatch {
        self.changes.list_items = self.output.items;
        self.changes.rows = self.output.rows.into_batches();
        self.changes.logs = self.output.logs;
        self.changes
    }
}
