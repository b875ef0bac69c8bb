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

    /// Emits a row, of the table that its type names. A table that the description has not is a bug of the plugin, and a panic that names it.
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

/// A key whose timer fires: the only place where its list state can be read.
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

/// The items of a list state.
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
