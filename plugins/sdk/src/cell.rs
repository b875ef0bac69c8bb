//! The types that a cell of a row can hold, and how a cell is written into its column.

use std::borrow::Cow;

use crate::Stored;
use crate::columns::{Column as _, count};
use crate::key::Items;
use crate::raw::{self, ByteColumn, ColumnData, ColumnType, TextColumn};

/// A type that a column can hold: the type of a field of a [`Row`](crate::Row).
///
/// | Rust type | column type |
/// |---|---|
/// | `bool` | boolean |
/// | `i64` and all integers that fit into it | integer |
/// | `f64`, `f32` | float |
/// | [`Timestamp`] | timestamp |
/// | `&str`, `String`, `Cow<str>` | text |
/// | `&[u8]`, `Vec<u8>` | blob |
/// | slices, arrays and `Vec`s of strings; [`Items`] of a list state of strings | text list |
/// | slices, arrays and `Vec`s of integers (except `u8`, which gives a blob); [`Items`] of a list state of integers | integer list |
/// | [`Json`] | json |
/// | `Option` of one of these | the same, with null for `None` |
///
/// A type of your own can write itself as one of these:
///
/// ```
/// use keyfold_sdk::cell::{Cell, CellWriter, KeyCell};
/// use keyfold_sdk::ColumnType;
///
/// struct UserId(u32);
///
/// impl Cell for UserId {
///     const KIND: ColumnType = ColumnType::Integer;
///
///     fn write_cell(&self, cell: CellWriter<'_>) {
///         self.0.write_cell(cell);
///     }
/// }
///
/// impl KeyCell for UserId {} // allows it in a primary key
///
/// #[derive(keyfold_sdk::Row)]
/// #[row(table = "users")]
/// struct User {
///     #[row(key)]
///     id: UserId,
///     seen: bool,
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a column",
    label = "no column type for this",
    note = "a column holds a `bool`, an integer up to `i64`, a float, a `Timestamp`, a string, bytes, a list of strings or integers, a `Json`, \
            or an `Option` of these",
    note = "`u64` and `usize` do not fit into a column: cast them to `i64`; write a struct as a `Json` or as several columns"
)]
pub trait Cell {
    /// The type of the column.
    const KIND: ColumnType;

    /// Writes the value.
    fn write_cell(&self, cell: CellWriter<'_>);
}

/// A type that a primary key column can hold. It is never null, and each value is written in one way only. For an example, see [`Cell`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a column of the primary key",
    label = "not allowed in a primary key",
    note = "an `Option` can be null, and the same JSON value can be written in several ways, each of which would be another row"
)]
pub trait KeyCell: Cell {}

/// A type that can be in a list column: a string or an integer.
///
/// ```
/// use keyfold_sdk::ColumnType;
/// use keyfold_sdk::cell::{Cell, ListItem};
///
/// fn column_of<T: ListItem>(_items: &[T]) -> ColumnType {
///     <[T]>::KIND
/// }
///
/// assert_eq!(column_of(&["a", "b"]), ColumnType::TextList);
/// assert_eq!(column_of(&[1_i64, 2]), ColumnType::IntegerList);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be in a list in a column",
    label = "lists hold strings or integers",
    note = "write a list of anything else as a `Json`"
)]
pub trait ListItem {
    /// The type of a column of lists of this type.
    #[doc(hidden)]
    const LIST: ColumnType;

    /// Appends the item to the list that is being written.
    #[doc(hidden)]
    fn append(&self, lists: &mut ColumnData);
}

/// Writes one cell, once. For an example, see [`Cell`].
pub struct CellWriter<'a> {
    data: &'a mut ColumnData,
    nulls: &'a mut Vec<u32>,
    row: u32,
}

impl<'a> CellWriter<'a> {
    /// The cell of this row in a column.
    pub(crate) fn of(column: &'a mut raw::Column, row: u32) -> CellWriter<'a> {
        CellWriter { data: &mut column.data, nulls: &mut column.nulls, row }
    }

    /// Writes null.
    pub(crate) fn null(self) {
        self.nulls.push(self.row);
        push_nothing(self.data);
    }

    /// Writes a list of strings.
    pub(crate) fn texts<T: AsRef<str>>(self, items: impl IntoIterator<Item = T>) {
        match self.data {
            ColumnData::TextLists(column) => {
                items.into_iter().for_each(|item| column.items.push(item.as_ref().as_bytes()));
                column.ends.push(count(column.items.ends.len()));
            }
            data => not_of(data, ColumnType::TextList),
        }
    }

    /// Writes a list.
    pub(crate) fn list<T: ListItem>(self, items: impl IntoIterator<Item = T>) {
        items.into_iter().for_each(|item| item.append(self.data));
        match self.data {
            ColumnData::TextLists(lists) => lists.ends.push(count(lists.items.ends.len())),
            ColumnData::IntegerLists(lists) => lists.ends.push(count(lists.items.len())),
            data => not_of(data, T::LIST),
        }
    }
}

/// Panics because of a bug in an author's own [`Cell`]: `write_cell` writes another type than `KIND`.
#[cold]
fn not_of(data: &ColumnData, kind: ColumnType) -> ! {
    let column = match data {
        ColumnData::Booleans(_) => ColumnType::Boolean,
        ColumnData::Integers(_) => ColumnType::Integer,
        ColumnData::Floats(_) => ColumnType::Float,
        ColumnData::Timestamps(_) => ColumnType::Timestamp,
        ColumnData::Texts(_) => ColumnType::Text,
        ColumnData::Blobs(_) => ColumnType::Blob,
        ColumnData::TextLists(_) => ColumnType::TextList,
        ColumnData::IntegerLists(_) => ColumnType::IntegerList,
        ColumnData::Json(_) => ColumnType::Json,
    };
    panic!(
        "cannot write a value of type {kind:?} into a column of type {column:?}: `Cell::KIND` must be the type that `write_cell` writes"
    )
}

/// Appends the placeholder that stands for null in a column.
fn push_nothing(data: &mut ColumnData) {
    match data {
        ColumnData::Booleans(values) => values.push(0),
        ColumnData::Integers(values) | ColumnData::Timestamps(values) => values.push(0),
        ColumnData::Floats(values) => values.push(0.0),
        ColumnData::Texts(TextColumn { data, ends })
        | ColumnData::Json(TextColumn { data, ends })
        | ColumnData::Blobs(ByteColumn { data, ends }) => ends.push(count(data.len())),
        ColumnData::TextLists(lists) => lists.ends.push(count(lists.items.ends.len())),
        ColumnData::IntegerLists(lists) => lists.ends.push(count(lists.items.len())),
    }
}

macro_rules! cells {
    ($($type:ty: $kind:ident in $case:ident, |$value:ident, $column:ident| $push:expr;)*) => {$(
        impl Cell for $type {
            const KIND: ColumnType = ColumnType::$kind;

            #[inline]
            fn write_cell(&self, cell: CellWriter<'_>) {
                let $value = self;
                match cell.data {
                    ColumnData::$case($column) => $push,
                    data => not_of(data, Self::KIND),
                }
            }
        }
    )*};
}

cells! {
    bool: Boolean in Booleans, |value, column| column.push(u8::from(*value));
    i64: Integer in Integers, |value, column| column.push(*value);
    f64: Float in Floats, |value, column| column.push(*value);
    Timestamp: Timestamp in Timestamps, |value, column| column.push(value.0);
    str: Text in Texts, |value, column| column.push(value.as_bytes());
    [u8]: Blob in Blobs, |value, column| column.push(value);
}

/// A point in time: milliseconds since 1970 UTC.
///
/// ```
/// use keyfold_sdk::{Row, Timestamp};
///
/// #[derive(Row)]
/// #[row(table = "alarms")]
/// struct Alarm<'a> {
///     #[row(key)]
///     sensor: &'a str,
///     #[row(key)]
///     at: Timestamp,
///     acknowledged: Option<Timestamp>,
/// }
///
/// let alarm = Alarm { sensor: "door", at: Timestamp(1_727_873_508_000), acknowledged: None };
/// assert_eq!(Timestamp::from(1_727_873_508_000), alarm.at);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Timestamp(pub i64);

impl From<i64> for Timestamp {
    fn from(ms: i64) -> Timestamp {
        Timestamp(ms)
    }
}

/// JSON text. The sink converts it to the type of the column in the database: for maps, sets and user-defined types.
///
/// ```
/// use keyfold_sdk::{Json, Row};
///
/// #[derive(Row)]
/// #[row(table = "baskets")]
/// struct Basket<'a> {
///     #[row(key)]
///     user: &'a str,
///     counts: Json, // Json<String>
///     tags: Json<&'a str>,
/// }
///
/// let basket = Basket { user: "ann", counts: Json(format!(r#"{{"apple": {}}}"#, 3)), tags: Json("[]") };
/// assert_eq!(basket.counts.0, r#"{"apple": 3}"#);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T = String>(pub T);

impl<T: AsRef<str>> Cell for Json<T> {
    const KIND: ColumnType = ColumnType::Json;

    fn write_cell(&self, cell: CellWriter<'_>) {
        match cell.data {
            ColumnData::Json(column) => column.push(self.0.as_ref().as_bytes()),
            data => not_of(data, Self::KIND),
        }
    }
}

macro_rules! cells_of_less {
    ($($less:ty),* => $more:ty) => {$(
        impl Cell for $less {
            const KIND: ColumnType = <$more>::KIND;

            #[inline]
            fn write_cell(&self, cell: CellWriter<'_>) {
                <$more>::from(*self).write_cell(cell);
            }
        }

        impl KeyCell for $less {}
    )*};
}

cells_of_less!(i8, i16, i32, u8, u16, u32 => i64);
cells_of_less!(f32 => f64);

macro_rules! cells_by_deref {
    ($([$($generics:tt)*] $type:ty => $target:ty;)*) => {$(
        impl<$($generics)*> Cell for $type where $target: Cell {
            const KIND: ColumnType = <$target as Cell>::KIND;

            #[inline]
            fn write_cell(&self, cell: CellWriter<'_>) {
                let target: &$target = self;
                target.write_cell(cell);
            }
        }

        impl<$($generics)*> KeyCell for $type where $target: KeyCell {}
    )*};
}

cells_by_deref! {
    [T: ?Sized] &T => T;
    [T: ToOwned + ?Sized] Cow<'_, T> => T;
    [T: ?Sized] Box<T> => T;
    [] String => str;
    [T] Vec<T> => [T];
    [T, const N: usize] [T; N] => [T];
}

impl KeyCell for bool {}
impl KeyCell for i64 {}
impl KeyCell for f64 {}
impl KeyCell for Timestamp {}
impl KeyCell for str {}
impl KeyCell for [u8] {}
impl<T: ListItem> KeyCell for [T] {}

impl<T: Cell> Cell for Option<T> {
    const KIND: ColumnType = T::KIND;

    #[inline]
    fn write_cell(&self, cell: CellWriter<'_>) {
        match self {
            Some(value) => value.write_cell(cell),
            None => cell.null(),
        }
    }
}

impl<T: ListItem> Cell for [T] {
    const KIND: ColumnType = T::LIST;

    fn write_cell(&self, cell: CellWriter<'_>) {
        cell.list(self);
    }
}

impl<'a, T: Stored + ?Sized> Cell for Items<'a, T>
where
    T::Read<'a>: ListItem,
{
    const KIND: ColumnType = <T::Read<'a> as ListItem>::LIST;

    fn write_cell(&self, cell: CellWriter<'_>) {
        cell.list(self.clone());
    }
}

macro_rules! list_items {
    ($([$($generics:tt)*] $text:ty),* ; $($integer:ty),*) => {
        $(impl<$($generics)*> ListItem for $text {
            const LIST: ColumnType = ColumnType::TextList;

            #[inline]
            fn append(&self, lists: &mut ColumnData) {
                match lists {
                    ColumnData::TextLists(column) => column.items.push(self.as_bytes()),
                    data => not_of(data, Self::LIST),
                }
            }
        })*
        $(impl ListItem for $integer {
            const LIST: ColumnType = ColumnType::IntegerList;

            #[inline]
            fn append(&self, lists: &mut ColumnData) {
                match lists {
                    ColumnData::IntegerLists(column) => column.items.push(i64::from(*self)),
                    data => not_of(data, Self::LIST),
                }
            }
        })*
    };
}

list_items!([] str, [] String, [] Cow<'_, str>; i64, i32, u32, i16, u16, i8);

impl<T: ListItem + ?Sized> ListItem for &T {
    const LIST: ColumnType = T::LIST;

    #[inline]
    fn append(&self, lists: &mut ColumnData) {
        (**self).append(lists);
    }
}
