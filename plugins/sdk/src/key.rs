//! A key as `on_event` and `on_timer` see it.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::columns::{item, start};
use crate::draft::Draft;
use crate::raw::{ByteColumn, FoldBatch, LogLine};
use crate::row::{Row, RowBuilder};
use crate::rows::Rows;
use crate::stored::read;
use crate::{Level, Mapper, NONE, Stored};

/// One event, on its way into its key.
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
///     // By the watermark where there is one: a late event does not keep the key waiting.
///     key.set_timer(event.watermark.unwrap_or(event.time) + 60_000);
///     Ok(())
/// }
/// #     fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> { Ok(()) }
/// # }
/// # let outcome = keyfold_sdk::testing::Log::new(0, &[(7, "")]).fold_lawfully::<Plugin>("{}");
/// # assert_eq!(outcome.timers["ann"], 60_007);
/// ```
pub struct Event<'a, M: Mapper> {
    value: &'a [u8],
    /// When it happened; ms since 1970 UTC.
    pub time: i64,
    /// The watermark before its record; none before the lane's first event.
    pub watermark: Option<i64>,
    /// Append time of its record; ms since 1970.
    pub append_time: i64,
    /// Partition of its record.
    pub partition: u32,
    /// Offset of its record.
    pub offset: u64,
    /// Its place among the events of its record, from 0.
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
            watermark: (watermark != NONE).then_some(watermark),
            append_time: batch.append_times[i],
            partition: batch.partitions[i],
            offset: batch.offsets[i],
            index: batch.indexes[i],
            mapper: PhantomData,
        }
    }

    /// What [`Mapper::map`] gave it.
    pub fn value(&self) -> <M::Event as Stored>::Read<'a> {
        read::<M::Event>("an event's value", self.value)
    }
}

/// What all keys of a call write into.
pub(crate) struct Output {
    pub(crate) items: ByteColumn,
    pub(crate) rows: Rows,
    pub(crate) logs: Vec<LogLine>,
}

/// A key: its state, its timer, and the rows that it emits.
///
/// State is bytes between events: what is read is always what a fresh instance would read.
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
/// const LINES: usize = 1; // the second table
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
/// // An event is a word, a key's value their number, its list the words themselves.
/// fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
///     match event.value() {
///         "" => {
///             key.clear(); // value and list
///             key.clear_timer();
///         }
///         "forget the words" => key.clear_items(),
///         "forget the number" => key.clear_value(),
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
/// # let outcome = keyfold_sdk::testing::Log::new(0, &[(7, "a"), (8, "b"), (9, "now")]).fold_lawfully::<Plugin>("{}");
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

    /// The key's text.
    pub fn name(&self) -> &'a str {
        std::str::from_utf8(self.name).expect("the host gives keys in UTF-8")
    }

    /// The value state, if there is one.
    pub fn value(&self) -> Option<<M::Value as Stored>::Read<'_>> {
        self.draft.value().map(|bytes| read::<M::Value>("a value state", bytes))
    }

    /// Puts the value state, in place of the former one.
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

    /// Clears the list state; items that are appended after this stay.
    pub fn clear_items(&mut self) {
        self.draft.clear_items();
    }

    /// Clears value state and list state. The timer stays.
    pub fn clear(&mut self) {
        self.clear_value();
        self.clear_items();
    }

    /// The time that the timer is set for. None in `on_timer`, until it is set anew: a timer that fires is used up.
    pub fn timer(&self) -> Option<i64> {
        Some(self.draft.timer()).filter(|time| *time != NONE)
    }

    /// Sets the timer, in place of the former one. It fires once the watermark is at or past `time`; one that is due already fires
    /// before the key's next event. In `on_timer` it must be later than the timer that fired.
    pub fn set_timer(&mut self, time: i64) {
        // The least s64 says "none".
        self.draft.set_timer(time.max(NONE + 1));
    }

    /// Takes the timer back.
    pub fn clear_timer(&mut self) {
        self.draft.set_timer(NONE);
    }

    /// Emits a row, of the table that its type names. A table that the description has not is a bug of the plugin, and a panic that names
    /// it.
    #[track_caller]
    pub fn emit<R: Row>(&mut self, row: &R) {
        self.output.rows.emit(row);
    }

    /// Begins a row of the description's table `table`, counted from 0, that is given cell by cell.
    #[track_caller]
    pub fn row(&mut self, table: usize) -> RowBuilder<'_> {
        self.output.rows.begin(table)
    }

    /// Says something in the host's log. It stays said if the event is rejected.
    pub fn log(&mut self, level: Level, message: impl Into<String>) {
        self.output.logs.push(level.line(message));
    }
}

/// A key whose timer fires: the only place where its list state can be read. Beside this it is a [`Key`].
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
///     pages: Items<'a, str>, // a list of texts, written in place
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
/// # let outcome = keyfold_sdk::testing::Log::new(0, &[(7, "A"), (8, "BC"), (9, "D")]).fold_lawfully::<Plugin>("{}");
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

    /// The list state as it was when the timer fired, in the order in which it was appended.
    pub fn items(&self) -> Items<'a, M::Item> {
        self.items.clone()
    }

    /// [`Key::emit`].
    // Not by `DerefMut` alone: so the row may be made of what the key gives.
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

/// The items of a list state, read one by one and in place; a list in a row as it is. The example is at [`Firing`].
pub struct Items<'a, T: ?Sized> {
    column: &'a ByteColumn,
    next: usize,
    end: usize,
    kind: PhantomData<fn(&T)>,
}

impl<'a, T: ?Sized> Items<'a, T> {
    /// Row `i` of lists that end at `ends` in `column`.
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
