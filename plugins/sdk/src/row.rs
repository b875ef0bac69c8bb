//! Rows: derived from a struct per table, or written cell by cell.

use crate::cell::{Cell, CellWriter, Json, KeyCell, Timestamp};
use crate::columns::count;
use crate::raw::{self, ColumnSpec, ColumnType, RowBatch, TableSpec};

/// A struct that is a row of a table. Its fields are the table's columns, in the same order; [`Cell`] lists the possible types.
///
/// Always derive this trait; do not implement it by hand. `#[row(table = "..")]` above the struct names the table. `#[row(key)]` above a
/// field makes it part of the primary key. `#[row(name = "..")]` above a field gives its column another name.
/// [`Description::rows`](crate::Description::rows) declares the table, and [`Key::emit`](crate::Key::emit) writes a row:
///
/// ```
/// use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record, Row, Timestamp};
///
/// #[derive(Row)]
/// #[row(table = "counts")]
/// struct Count<'a> {
///     #[row(key)]
///     user: &'a str,
///     #[row(key)]
///     until: Timestamp,
///     #[row(name = "how_many")]
///     actions: u32,
///     /// Null if the user has none.
///     nick_name: Option<String>,
/// }
///
/// # struct Counts;
/// impl Mapper for Counts {
/// #     type Event = ();
/// #     type Value = u32;
/// #     type Item = ();
///     fn describe() -> Description {
///         Description::new("counts", "1.0.0").rows::<Count<'_>>()
///     }
/// #     fn configure(_: &str) -> Result<Counts, String> { Ok(Counts) }
/// #     fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
/// #         out.push("ann", record.append_time, &());
/// #         Ok(())
/// #     }
/// #     fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
/// #         key.put(&3);
/// #         key.set_timer(event.time);
/// #         Ok(())
/// #     }
///
///     fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String> {
///         let actions = key.value().unwrap_or(0);
///         key.emit(&Count { user: key.name(), until: Timestamp(time), actions, nick_name: None });
///         Ok(())
///     }
/// }
/// # let outcome = keyfold_sdk::testing::Log::new(0, &[(7, "")]).fold_deterministically::<Counts>("{}");
/// # assert_eq!(outcome.rows["ann"], [r#"counts(user="ann", until=7, how_many=3, nick_name=null)"#]);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a row",
    label = "not a row",
    note = "add `#[derive(keyfold_sdk::Row)]` and `#[row(table = \"..\")]` above the struct"
)]
pub trait Row {
    /// The table and its columns.
    #[doc(hidden)]
    const SHAPE: &'static Shape;

    /// Writes all cells of the row.
    #[doc(hidden)]
    fn write_row(&self, cells: &mut Cells<'_>);
}

/// The table of a derived [`Row`].
#[doc(hidden)]
pub struct Shape {
    pub table: &'static str,
    pub columns: &'static [Column],
}

impl Shape {
    /// Returns the table in the contract's form.
    pub(crate) fn spec(&self) -> TableSpec {
        let columns = self.columns.iter().map(|column| ColumnSpec {
            name: column.name.into(),
            kind: column.kind,
            primary_key: column.key,
        });
        TableSpec { name: self.table.into(), columns: columns.collect() }
    }

    /// Returns the first difference from the declared table of this name, if any.
    pub(crate) fn differs(&self, declared: &TableSpec) -> Option<String> {
        let (spec, table) = (self.spec(), self.table);
        if spec.columns.len() != declared.columns.len() {
            let (has, gives) = (declared.columns.len(), spec.columns.len());
            return Some(format!("table {table}: the description has {has} columns, but the row has {gives}"));
        }
        let of = |column: &ColumnSpec| {
            let key = if column.primary_key { ", primary key" } else { "" };
            format!("{} ({:?}{key})", column.name, column.kind)
        };
        let mut pairs = declared.columns.iter().map(of).zip(spec.columns.iter().map(of)).zip(1..);
        let ((has, gives), place) = pairs.find(|((has, gives), _)| has != gives)?;
        Some(format!("table {table}: column {place} is {has} in the description, but {gives} in the row"))
    }
}

/// A column of a derived [`Row`].
#[doc(hidden)]
pub struct Column {
    name: &'static str,
    kind: ColumnType,
    key: bool,
}

impl Column {
    #[doc(hidden)]
    pub const fn new<T: Cell>(name: &'static str) -> Column {
        Column { name, kind: T::KIND, key: false }
    }

    #[doc(hidden)]
    pub const fn key<T: KeyCell>(name: &'static str) -> Column {
        Column { name, kind: T::KIND, key: true }
    }
}

/// The cells of a row, written from first to last.
#[doc(hidden)]
pub struct Cells<'a> {
    columns: std::slice::IterMut<'a, raw::Column>,
    row: u32,
}

impl<'a> Cells<'a> {
    /// Begins the cells of the last row of a batch.
    pub(crate) fn of(batch: &'a mut RowBatch) -> Cells<'a> {
        Cells { row: count(batch.items.len() - 1), columns: batch.columns.iter_mut() }
    }

    #[doc(hidden)]
    #[inline]
    pub fn put(&mut self, value: &impl Cell) {
        let column = self.columns.next().expect("the row has as many columns as its table");
        value.write_cell(CellWriter::of(column, self.row));
    }
}

/// Writes a row cell by cell: call one method per column, in the order of the description, then [`RowBuilder::end`]. Panics if a name or a
/// type differs from the description. Prefer [`Row`], with which such a mistake cannot happen.
///
/// ```
/// # use keyfold_sdk::{ColumnType, Description, Event, Events, Firing, Key, Mapper, Record};
/// use keyfold_sdk::{RowBuilder, Table};
///
/// const ALL: usize = 0; // index of the first table
///
/// # struct Plugin;
/// # impl Mapper for Plugin {
/// #     type Event = str;
/// #     type Value = ();
/// #     type Item = str;
/// fn describe() -> Description {
///     let all = Table::new("all").key("k", ColumnType::Text).key("at", ColumnType::Timestamp);
///     let all = all.column("yes", ColumnType::Boolean).column("n", ColumnType::Integer).column("x", ColumnType::Float);
///     let all = all.column("bytes", ColumnType::Blob).column("map", ColumnType::Json).column("none", ColumnType::Text);
///     let all = all.column("words", ColumnType::TextList).column("numbers", ColumnType::IntegerList);
///     Description::new("plugin", "1.0.0").table(all)
/// }
/// #     fn configure(_: &str) -> Result<Plugin, String> { Ok(Plugin) }
/// #     fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
/// #         out.push("ann", record.append_time, "");
/// #         Ok(())
/// #     }
///
/// fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
///     let name = key.name();
///     let row: RowBuilder<'_> = key.row(ALL).text("k", name).timestamp("at", event.time).boolean("yes", true).integer("n", 1);
///     let row = row.float("x", 0.5).blob("bytes", b"ab").json("map", "{}").null("none");
///     row.texts("words", ["a", "b"]).integers("numbers", [1, 2]).end();
///     Ok(())
/// }
/// #     fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> { Ok(()) }
/// # }
/// # let outcome = keyfold_sdk::testing::Log::new(0, &[(7, "")]).fold_deterministically::<Plugin>("{}");
/// # assert_eq!(outcome.rows["ann"], [
/// #     r#"all(k="ann", at=7, yes=true, n=1, x=0.5, bytes=[97, 98], map={}, none=null, words=["a", "b"], numbers=[1, 2])"#
/// # ]);
/// ```
#[must_use = "a row must be finished with `.end()`"]
pub struct RowBuilder<'a> {
    spec: &'a TableSpec,
    batch: &'a mut RowBatch,
    column: usize,
    open: &'a mut bool,
}

macro_rules! cells {
    ($($(#[$doc:meta])* $name:ident($value:ty) = $cell:ty;)*) => {$(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(mut self, name: &str, value: $value) -> Self {
            let value: $cell = value.into();
            value.write_cell(self.next(name, <$cell>::KIND));
            self
        }
    )*};
}

impl<'a> RowBuilder<'a> {
    /// Begins a row, which stays open until it is ended.
    pub(crate) fn of(spec: &'a TableSpec, batch: &'a mut RowBatch, open: &'a mut bool) -> RowBuilder<'a> {
        *open = true;
        RowBuilder { spec, batch, column: 0, open }
    }

    cells! {
        /// Writes a boolean.
        boolean(bool) = bool;
        /// Writes a signed 64-bit integer.
        integer(i64) = i64;
        /// Writes a 64-bit float.
        float(f64) = f64;
        /// Writes a time, in milliseconds since 1970 UTC.
        timestamp(i64) = Timestamp;
        /// Writes a string.
        text(&str) = &str;
        /// Writes bytes.
        blob(&[u8]) = &[u8];
    }

    /// Writes JSON text. The sink converts it to the type of the column in the database.
    #[track_caller]
    pub fn json(mut self, name: &str, value: &str) -> Self {
        Json(value).write_cell(self.next(name, ColumnType::Json));
        self
    }

    /// Writes a list of strings.
    #[track_caller]
    pub fn texts<T: AsRef<str>>(mut self, name: &str, items: impl IntoIterator<Item = T>) -> Self {
        self.next(name, ColumnType::TextList).texts(items);
        self
    }

    /// Writes a list of integers.
    #[track_caller]
    pub fn integers(mut self, name: &str, items: impl IntoIterator<Item = i64>) -> Self {
        self.next(name, ColumnType::IntegerList).list(items);
        self
    }

    /// Writes null, whatever the column's type. Panics if the column is part of the primary key.
    #[track_caller]
    pub fn null(mut self, name: &str) -> Self {
        let Some(spec) = self.spec.columns.get(self.column) else { self.too_many(name) };
        assert!(!spec.primary_key, "table {}: {name} is part of the primary key and cannot be null", self.spec.name);
        self.next(name, spec.kind).null();
        self
    }

    /// Finishes the row.
    #[track_caller]
    pub fn end(self) {
        let missing = self.spec.columns.get(self.column);
        assert!(
            missing.is_none(),
            "table {}: the row ends before column {}",
            self.spec.name,
            missing.map_or("", |column| column.name.as_str())
        );
        *self.open = false;
    }

    /// Returns the next cell. Panics if its column has another name or type.
    #[inline]
    #[track_caller]
    fn next(&mut self, name: &str, kind: ColumnType) -> CellWriter<'_> {
        let Some(spec) = self.spec.columns.get(self.column) else { self.too_many(name) };
        if spec.name != name || spec.kind != kind {
            panic!(
                "table {}: column {} is {} ({:?}), but the row writes {name} ({kind:?})",
                self.spec.name,
                self.column + 1,
                spec.name,
                spec.kind
            );
        }
        self.column += 1;
        let row = count(self.batch.items.len() - 1);
        CellWriter::of(&mut self.batch.columns[self.column - 1], row)
    }

    #[track_caller]
    fn too_many(&self, name: &str) -> ! {
        panic!("table {}: the row writes {name} after the last column", self.spec.name)
    }
}
