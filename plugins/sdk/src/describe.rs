//! A plugin's description, built by chained calls.

use crate::Row;
use crate::raw::{self, ColumnSpec, ColumnType, TableSpec};

/// A plugin's name, version, tables and configuration schema.
///
/// ```
/// use keyfold_sdk::{Description, Row};
///
/// #[derive(Row)]
/// #[row(table = "counts")]
/// struct Count {
///     #[row(key)]
///     user: i64,
///     actions: i64,
/// }
///
/// let description = Description::new("counts", "1.0.0")
///     .rows::<Count>()
///     .state_version(2) // `Mapper::migrate_value` and `Mapper::migrate_item` read version 1
///     .config_schema(r#"{"type": "object", "properties": {"window": {"type": "string"}}}"#)
///     .with_headers();
/// let raw = description.into_raw();
/// assert_eq!((raw.tables[0].name.as_str(), raw.tables[0].columns.len()), ("counts", 2));
/// assert!(raw.wants_headers && raw.state_version == 2);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Description(raw::Description);

impl Description {
    /// Creates a description with state version 1, no tables, a configuration that may be any JSON object, and no headers.
    pub fn new(name: &str, version: &str) -> Description {
        Description(raw::Description {
            name: name.into(),
            version: version.into(),
            state_version: 1,
            tables: Vec::new(),
            config_schema: r#"{"type":"object"}"#.into(),
            wants_headers: false,
        })
    }

    /// Adds the output table of a [`Row`]. Panics if there already is a table of that name.
    #[track_caller]
    pub fn rows<R: Row>(self) -> Description {
        let name = R::SHAPE.table;
        assert!(self.0.tables.iter().all(|table| table.name != name), "table {name} is already in the description");
        self.table(Table(R::SHAPE.spec()))
    }

    /// Adds an output table for rows that are written cell by cell. [`Key::row`](crate::Key::row) refers to it by its index, from 0.
    pub fn table(mut self, table: Table) -> Description {
        self.0.tables.push(table.0);
        self
    }

    /// Sets the version of the encoding of value states and list items. Raise it when that encoding changes.
    pub fn state_version(mut self, version: u32) -> Description {
        self.0.state_version = version;
        self
    }

    /// Sets the JSON Schema of the configuration.
    pub fn config_schema(mut self, schema: &str) -> Description {
        self.0.config_schema = schema.into();
        self
    }

    /// Requests the headers of records.
    pub fn with_headers(mut self) -> Description {
        self.0.wants_headers = true;
        self
    }

    /// Returns the description in the contract's form.
    pub fn into_raw(self) -> raw::Description {
        self.0
    }
}

/// An output table for rows that are written cell by cell, with its columns in the order in which rows write them.
///
/// ```
/// use keyfold_sdk::{ColumnType, Description, Table};
///
/// let counts = Table::new("counts").key("user", ColumnType::Integer).column("actions", ColumnType::Integer);
/// let description = Description::new("counts", "1.0.0").table(counts);
/// # assert!(description.into_raw().tables[0].columns[0].primary_key);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Table(TableSpec);

impl Table {
    /// Creates a table without columns.
    pub fn new(name: &str) -> Table {
        Table(TableSpec { name: name.into(), columns: Vec::new() })
    }

    /// Adds a column of the primary key. It is never null, and must be derived from the input alone, so that a replay writes the same rows.
    pub fn key(self, name: &str, kind: ColumnType) -> Table {
        self.with(name, kind, true)
    }

    /// Adds a column that is not part of the primary key.
    pub fn column(self, name: &str, kind: ColumnType) -> Table {
        self.with(name, kind, false)
    }

    fn with(mut self, name: &str, kind: ColumnType, primary_key: bool) -> Table {
        self.0.columns.push(ColumnSpec { name: name.into(), kind, primary_key });
        self
    }
}
