//! The state of one key during a call: its current value, list and timer, and those before the current event, which a rejection restores.

use crate::NO_TIME;
use crate::columns::Column;
use crate::raw::ByteColumn;

const KEEP: u8 = 0;
const PUT: u8 = 1;
const APPEND: u8 = 1;
const CLEAR: u8 = 2;
const CLEAR_THEN_APPEND: u8 = 3;

/// A key's state during a call. One draft serves all keys of a call, so that they share its buffers.
pub(crate) struct Draft {
    /// The value state, if `marks.present`.
    value: Vec<u8>,
    /// The value state before the current event, if that event changed it.
    value_before: Vec<u8>,
    value_touched: bool,
    marks: Marks,
    before: Marks,
    /// Index of this key's first item among the items that the call appends.
    first_item: usize,
}

#[derive(Clone, Copy)]
struct Marks {
    present: bool,
    value_change: u8,
    list_change: u8,
    timer: i64,
    /// Index of this key's first live item: earlier ones were appended in this call and then cleared.
    live_from: usize,
    /// Index of the next item.
    items: usize,
}

impl Draft {
    pub(crate) fn new() -> Draft {
        let marks =
            Marks { present: false, value_change: KEEP, list_change: KEEP, timer: NO_TIME, live_from: 0, items: 0 };
        Draft { value: Vec::new(), value_before: Vec::new(), value_touched: false, marks, before: marks, first_item: 0 }
    }

    /// Begins a key; `items` is how many items the call has appended for earlier keys.
    pub(crate) fn begin_key(&mut self, value: Option<&[u8]>, timer: i64, items: usize) {
        self.value.clear();
        self.value.extend_from_slice(value.unwrap_or_default());
        self.first_item = items;
        self.marks =
            Marks { present: value.is_some(), value_change: KEEP, list_change: KEEP, timer, live_from: items, items };
    }

    /// Begins an event or firing, which `undo` can undo.
    pub(crate) fn begin_event(&mut self) {
        self.before = self.marks;
        self.value_touched = false;
    }

    /// Undoes everything since `begin_event`.
    pub(crate) fn undo(&mut self, items: &mut ByteColumn) {
        if self.value_touched {
            std::mem::swap(&mut self.value, &mut self.value_before);
        }
        self.marks = self.before;
        items.truncate(self.marks.items);
    }

    /// Whether the timer is due at this watermark. Without a watermark, no timer is due.
    pub(crate) fn is_due(&self, watermark: i64) -> bool {
        self.marks.timer != NO_TIME && watermark != NO_TIME && watermark >= self.marks.timer
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.marks.present.then_some(self.value.as_slice())
    }

    pub(crate) fn timer(&self) -> i64 {
        self.marks.timer
    }

    pub(crate) fn set_timer(&mut self, time: i64) {
        self.marks.timer = time;
    }

    pub(crate) fn put_value(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.touch_value();
        write(&mut self.value);
        (self.marks.present, self.marks.value_change) = (true, PUT);
    }

    pub(crate) fn clear_value(&mut self) {
        self.touch_value();
        (self.marks.present, self.marks.value_change) = (false, CLEAR);
    }

    /// Keeps a copy of the value for `undo`, once per event, and empties it.
    fn touch_value(&mut self) {
        if !self.value_touched {
            self.value_touched = true;
            std::mem::swap(&mut self.value, &mut self.value_before);
        }
        self.value.clear();
    }

    pub(crate) fn append_item(&mut self, items: &mut ByteColumn, write: impl FnOnce(&mut Vec<u8>)) {
        items.write(write);
        self.marks.items += 1;
        self.marks.list_change = match self.marks.list_change {
            KEEP | APPEND => APPEND,
            _ => CLEAR_THEN_APPEND,
        };
    }

    pub(crate) fn clear_items(&mut self) {
        self.marks.live_from = self.marks.items;
        self.marks.list_change = CLEAR;
    }

    /// Drops the items that were appended and then cleared. Returns the change codes of the value and the list, the value to put, and the
    /// timer.
    pub(crate) fn end_key(&mut self, items: &mut ByteColumn) -> (u8, u8, &[u8], i64) {
        if self.marks.live_from > self.first_item {
            items.remove(self.first_item, self.marks.live_from);
        }
        let value = if self.marks.value_change == PUT { self.value.as_slice() } else { &[] };
        (self.marks.value_change, self.marks.list_change, value, self.marks.timer)
    }
}
