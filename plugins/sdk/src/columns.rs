//! Reading and writing the contract's columns by item.

use crate::raw::{ByteColumn, TextColumn};

/// Converts a number of items to the contract's type.
pub(crate) fn count(items: usize) -> u32 {
    u32::try_from(items).expect("a batch lies in a 32-bit memory")
}

/// Item `i` of a column.
pub(crate) fn item<'a>(data: &'a [u8], ends: &[u32], i: usize) -> &'a [u8] {
    &data[start(ends, i)..ends[i] as usize]
}

/// Where item `i` starts.
pub(crate) fn start(ends: &[u32], i: usize) -> usize {
    if i == 0 { 0 } else { ends[i - 1] as usize }
}

/// A byte or text column that is being written.
pub(crate) trait Column {
    /// The column's bytes and ends.
    fn parts(&mut self) -> (&mut Vec<u8>, &mut Vec<u32>);

    /// Appends an item.
    fn push(&mut self, item: &[u8]) {
        self.write(|data| data.extend_from_slice(item));
    }

    /// Appends one item: the bytes that `write` appends.
    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let (data, ends) = self.parts();
        write(data);
        ends.push(count(data.len()));
    }

    /// Keeps the first `items` items.
    fn truncate(&mut self, items: usize) {
        let (data, ends) = self.parts();
        ends.truncate(items);
        data.truncate(start(ends, items));
    }

    /// Removes the items `first..until`. It takes time proportional to the items after them.
    fn remove(&mut self, first: usize, until: usize) {
        let (data, ends) = self.parts();
        let (from, to) = (start(ends, first), start(ends, until));
        data.drain(from..to);
        ends.drain(first..until);
        for end in &mut ends[first..] {
            *end -= count(to - from);
        }
    }
}

impl Column for ByteColumn {
    fn parts(&mut self) -> (&mut Vec<u8>, &mut Vec<u32>) {
        (&mut self.data, &mut self.ends)
    }
}

impl Column for TextColumn {
    fn parts(&mut self) -> (&mut Vec<u8>, &mut Vec<u32>) {
        (&mut self.data, &mut self.ends)
    }
}

/// An empty byte column with capacity.
pub(crate) fn bytes(items: usize, data: usize) -> ByteColumn {
    ByteColumn { data: Vec::with_capacity(data), ends: Vec::with_capacity(items) }
}

/// An empty text column with capacity.
pub(crate) fn texts(items: usize, data: usize) -> TextColumn {
    TextColumn { data: Vec::with_capacity(data), ends: Vec::with_capacity(items) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(items: &[&str]) -> ByteColumn {
        let mut column = bytes(0, 0);
        for item in items {
            column.push(item.as_bytes());
        }
        column
    }

    #[test]
    fn items_are_removed_from_the_middle() {
        let mut c = column(&["a", "bc", "", "def", "g"]);
        c.remove(1, 3);
        assert_eq!(c, column(&["a", "def", "g"]));
        c.remove(0, 3);
        assert_eq!(c, column(&[]));
    }

    #[test]
    fn a_column_is_truncated_to_its_first_items() {
        let mut c = column(&["a", "bc", "def"]);
        c.truncate(2);
        assert_eq!(c, column(&["a", "bc"]));
        c.truncate(0);
        assert_eq!(c, column(&[]));
    }
}
