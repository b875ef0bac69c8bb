//! Keys and events, as `on_event` and `on_timer` see them.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::columns::{item, start};
use crate::draft::Draft;
use crate::raw::{ByteColumn, FoldBatch, LogLine};
use crate::row::{Row, RowBuilder};
use crate::rows::Rows;
use crate::stored::read;
use crate::{Level, Mapper, NO_TIME, Stored};

/// One event to be folded into its key.
///
/// ```
/// # use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record};
/// # struct Plugin;
/// # impl Mapper for Plugin {
/// #     type Event = i64;
/// #     type Value = i64;
/// #     type Item = ();
/// #     fn describe() -> Description { Description::new("plugin", "1.0.0") }
/// #     fn configure(_: &str) -> Result<Plugin, String> { Ok(Plugin) }
/// #     fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
/// #         out.push("ann", record.append_time, &5);
/// #         Ok(())
/// #     }
/// fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
///     let amount = event.value();
///     if amount < 0 {
///         return Err(format!("amount is {amount}, at offset {} of partition {}", event.offset, event.partition));
///     }
///     key.put(&(key.value().unwrap_or(0) + amount));
///     // Counts from the watermark if there is one, so that the time of a single event does not decide when the timer fires.
///     key.set_timer(event.watermark.unwrap_or(event.time) + 60_000);
///     Ok(())
/// }
/// #     fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> { Ok(()) }
/// # }
/// # let outcome = keyfold_sdk::testing::Log::new(0, &[(7, "")]).fold_deterministically::<Plugin>("{}");
/// # assert_eq!(outcome.timers["ann"], 60_007);
/// ```
pub struct Event<'a, M: Mapper> {
    value: &'a [u8],
    /// When the event happened; ms since 1970 UTC.
    pub time: i64,
    /// The watermark before the event's record; `None` before the lane's first event.
    pub watermark: Option<i64>,
    /// Append time of the event's record; ms since 1970 UTC.
    pub append_time: i64,
    /// Partition of the event's record.
    pub partition: u32,
    /// Offset of the event's record.
    pub offset: u64,
    /// The event's index among the events of its record, from 0.
    pub index: u32,
    mapper: PhantomData<fn(&M)>,
}

impl<'a, M: Mapper> Event<'a, M> {
    /// Event `i` of a batch.
    pub(crate) fn of(batch: &'a FoldBatch, i: usize) -> Event<'a, M> {
        let watermark = batch.watermarks[i];
        Event {
            value: item(&batch.event_values.data, &batch.event_values.ends, i),
            time: batch.event_times[i],
            watermark: (watermark != NO_TIME).then_some(watermark),
            append_time: batch.append_times[i],
            partition: batch.partitions[i],
            offset: batch.offsets[i],
            index: batch.indexes[i],
            mapper: PhantomData,
        }
    }

    /// Returns the value that [`Mapper::map`] gave the event.
    pub fn value(&self) -> <M::Event as Stored>::Read<'a> {
        read::<M::Event>("an event's value", self.value)
    }
}

/// The output that all keys of a call share.
pub(crate) struct Output {
    pub(crate) items: ByteColumn,
    pub(crate) rows: Rows,
    pub(crate) logs: Vec<LogLine>,
}

/// A key: its state, its timer, and the rows that it emits.
///
/// State is stored as bytes even between two events of a call, so reading it always gives what a fresh instance would read.
///
/// ```
/// # use keyfold_sdk::{ColumnType, Description, Event, Events, Firing, Key, Level, Mapper, Record, Row, Table};
/// #[derive(Row)]
/// #[row(table = "words")]
/// struct Words<'a> {
///     #[row(key)]
///     user: &'a str,
///     count: u32,
/// }
///
/// const LINES: usize = 1; // index of the second table
///
/// # struct Plugin;
/// # impl Mapper for Plugin {
/// #     type Event = str;
/// #     type Value = u32;
/// #     type Item = str;
/// #     fn describe() -> Description {
/// #         let lines = Table::new("lines").key("user", ColumnType::Text);
/// #         Description::new("plugin", "1.0.0").rows::<Words<'_>>().table(lines)
/// #     }
/// #     fn configure(_: &str) -> Result<Plugin, String> { Ok(Plugin) }
/// #     fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
/// #         out.push("ann", record.append_time, std::str::from_utf8(record.payload.unwrap()).unwrap());
/// #         Ok(())
/// #     }
/// // An event is a word. A key's value counts the words, and its list holds them.
/// fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
///     match event.value() {
///         "" => {
///             key.clear(); // value and list
///             key.clear_timer();
///         }
///         "clear the words" => key.clear_items(),
///         "clear the count" => key.clear_value(),
///         "now" => {
///             let (user, count) = (key.name(), key.value().unwrap_or(0));
///             key.emit(&Words { user, count });
///             key.row(LINES).text("user", user).end();
///         }
///         word => {
///             key.append(word);
///             key.put(&(key.value().unwrap_or(0) + 1));
///             if key.timer().is_none() {
///                 key.set_timer(event.time + 60_000);
///             }
///             key.log(Level::Debug, "one more"); // or keyfold_sdk::log!(key, Debug, "one more: {word}")
///         }
///     }
///     Ok(())
/// }
/// #     fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> { Ok(()) }
/// # }
/// # let outcome = keyfold_sdk::testing::Log::new(0, &[(7, "a"), (8, "b"), (9, "now")]).fold_deterministically::<Plugin>("{}");
/// # assert_eq!(outcome.rows["ann"], [r#"words(user="ann", count=2)"#, r#"lines(user="ann")"#]);
/// # assert_eq!(outcome.timers["ann"], 60_007);
/// ```
pub struct Key<'a, M: Mapper> {
    name: &'a [u8],
    draft: &'a mut Draft,
    output: &'a mut Output,
    mapper: PhantomData<fn(&M)>,
}

impl<'a, M: Mapper> Key<'a, M> {
    pub(crate) fn of(name: &'a [u8], draft: &'a mut Draft, output: &'a mut Output) -> Key<'a, M> {
        Key { name, draft, output, mapper: PhantomData }
    }

    /// Returns the key itself, as text.
    pub fn name(&self) -> &'a str {
        std::str::from_utf8(self.name).expect("the host passes keys in UTF-8")
    }

    /// Returns the value state, if there is one.
    pub fn value(&self) -> Option<<M::Value as Stored>::Read<'_>> {
        self.draft.value().map(|bytes| read::<M::Value>("a value state", bytes))
    }

    /// Sets the value state, and replaces the previous one.
    pub fn put(&mut self, value: &M::Value) {
        self.draft.put_value(|bytes| value.write(bytes));
    }

    /// Clears the value state.
    pub fn clear_value(&mut self) {
        self.draft.clear_value();
    }

    /// Appends an item to the list state.
    pub fn append(&mut self, item: &M::Item) {
        self.draft.append_item(&mut self.output.items, |bytes| item.write(bytes));
    }

    /// Clears the list state. Items that are appended later are kept.
    pub fn clear_items(&mut self) {
        self.draft.clear_items();
    }

    /// Clears the value state and the list state, but not the timer.
    pub fn clear(&mut self) {
        self.clear_value();
        self.clear_items();
    }

    /// Returns the time of the timer, if one is set. In `on_timer`, the timer that fired is no longer set.
    pub fn timer(&self) -> Option<i64> {
        Some(self.draft.timer()).filter(|time| *time != NO_TIME)
    }

    /// Sets the timer, and replaces the previous one. It fires once the watermark is at or past `time`. A timer that is already due fires
    /// before the key's next event. In `on_timer`, it must be later than the timer that fired.
    pub fn set_timer(&mut self, time: i64) {
        // The smallest i64 means "none".
        self.draft.set_timer(time.max(NO_TIME + 1));
    }

    /// Removes the timer.
    pub fn clear_timer(&mut self) {
        self.draft.set_timer(NO_TIME);
    }

    /// Emits a row of the table that its type names. Panics if the description has no such table, or one with other columns.
    #[track_caller]
    pub fn emit<R: Row>(&mut self, row: &R) {
        self.output.rows.emit(row);
    }

    /// Begins a row that is written cell by cell. `table` is the table's index in the description, from 0. Panics if there is no such table.
    #[track_caller]
    pub fn row(&mut self, table: usize) -> RowBuilder<'_> {
        self.output.rows.begin(table)
    }

    /// Writes a line to the host's log, even if the event or firing is rejected later.
    pub fn log(&mut self, level: Level, message: impl Into<String>) {
        self.output.logs.push(level.line(message));
    }
}

/// A key whose timer fires. It has all methods of [`Key`], and is the only place where a key's list state can be read.
///
/// ```
/// # use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record};
/// use keyfold_sdk::{Items, Row};
///
/// #[derive(Row)]
/// #[row(table = "visits")]
/// struct Visit<'a> {
///     #[row(key)]
///     user: &'a str,
///     pages: Items<'a, str>, // a list of strings, written without a copy in between
///     longest: u32,
/// }
///
/// # struct Plugin;
/// # impl Mapper for Plugin {
/// #     type Event = str;
/// #     type Value = ();
/// #     type Item = str;
/// #     fn describe() -> Description { Description::new("plugin", "1.0.0").rows::<Visit<'_>>() }
/// #     fn configure(_: &str) -> Result<Plugin, String> { Ok(Plugin) }
/// #     fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
/// #         out.push("ann", record.append_time, std::str::from_utf8(record.payload.unwrap()).unwrap());
/// #         Ok(())
/// #     }
/// #     fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
/// #         key.append(event.value());
/// #         key.set_timer(9);
/// #         Ok(())
/// #     }
/// fn on_timer(&self, key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
///     let longest = key.items().map(|page| page.len() as u32).max().unwrap_or(0);
///     key.emit(&Visit { user: key.name(), pages: key.items(), longest });
///     key.clear();
///     Ok(())
/// }
/// # }
/// # let outcome = keyfold_sdk::testing::Log::new(0, &[(7, "A"), (8, "BC"), (9, "D")]).fold_deterministically::<Plugin>("{}");
/// # assert_eq!(outcome.rows["ann"], [r#"visits(user="ann", pages=["A", "BC", "D"], longest=2)"#]);
/// ```
pub struct Firing<'a, M: Mapper> {
    key: Key<'a, M>,
    items: Items<'a, M::Item>,
}

impl<'a, M: Mapper> Firing<'a, M> {
    pub(crate) fn of(key: Key<'a, M>, items: Items<'a, M::Item>) -> Firing<'a, M> {
        Firing { key, items }
    }

    /// Returns the list state as it was when the timer fired, in the order in which the items were appended.
    pub fn items(&self) -> Items<'a, M::Item> {
        self.items.clone()
    }

    /// Emits a row, as [`Key::emit`] does.
    // `DerefMut` alone would not let the row borrow from the key.
    #[track_caller]
    pub fn emit<R: Row>(&mut self, row: &R) {
        self.key.emit(row);
    }
}

impl<'a, M: Mapper> Deref for Firing<'a, M> {
    type Target = Key<'a, M>;

    fn deref(&self) -> &Key<'a, M> {
        &self.key
    }
}

impl<'a, M: Mapper> DerefMut for Firing<'a, M> {
    fn deref_mut(&mut self) -> &mut Key<'a, M> {
        &mut self.key
    }
}

/// An iterator over the items of a list state. It reads them one by one, without a copy, and can itself be a list column of a row. For an
/// example, see [`Firing`].
pub struct Items<'a, T: ?Sized> {
    column: &'a ByteColumn,
    next: usize,
    end: usize,
    kind: PhantomData<fn(&T)>,
}

impl<'a, T: ?Sized> Items<'a, T> {
    /// The `i`-th of the lists that end at `ends` in `column`.
    pub(crate) fn of(column: &'a ByteColumn, ends: &[u32], i: usize) -> Items<'a, T> {
        Items { column, next: start(ends, i), end: ends[i] as usize, kind: PhantomData }
    }
}

impl<T: ?Sized> Clone for Items<'_, T> {
    fn clone(&self) -> Self {
        Items { ..*self }
    }
}

impl<'a, T: Stored + ?Sized> Iterator for Items<'a, T> {
    type Item = T::Read<'a>;

    fn next(&mut self) -> Option<T::Read<'a>> {
        if self.next == self.end {
            return None;
        }
        let bytes = item(&self.column.data, &self.column.ends, self.next);
        self.next += 1;
        Some(read::<T>("a list item", bytes))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }
}

impl<T: Stored + ?Sized> ExactSizeIterator for Items<'_, T> {}
