//! What a plugin says of itself, put together by hand-over-hand calls.

use crate::Row;
use crate::raw::{self, ColumnSpec, ColumnType, TableSpec};

/// Name, version, tables and configuration schema of a plugin.
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
///     .state_version(2) // the former one is read by `Mapper::migrate_value` and `Mapper::migrate_item`
///     .config_schema(r#"{"type": "object", "properties": {"window": {"type": "string"}}}"#)
///     .with_headers();
/// let raw = description.into_raw();
/// assert_eq!((raw.tables[0].name.as_str(), raw.tables[0].columns.len()), ("counts", 2));
/// assert!(raw.wants_headers && raw.state_version == 2);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Description(raw::Description);

impl Description {
    /// A plugin of state version 1 without a table, that takes any JSON object as its configuration and no headers.
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

    /// One more output table, that of a [`Row`]. One of the same name is there already? That is a bug of the plugin, and a panic.
    #[track_caller]
    pub fn rows<R: Row>(self) -> Description {
        let name = R::SHAPE.table;
        assert!(self.0.tables.iter().all(|table| table.name != name), "table {name} is in the description already");
        self.table(Table(R::SHAPE.spec()))
    }

    /// One more output table, for rows that are given cell by cell: [`Key::row`](crate::Key::row) names it by its place, from 0.
    pub fn table(mut self, table: Table) -> Description {
        self.0.tables.push(table.0);
        self
    }

    /// Version of the encoding of value states and list items: raise it with them.
    pub fn state_version(mut self, version: u32) -> Description {
        self.0.state_version = version;
        self
    }

    /// JSON Schema of the configuration.
    pub fn config_schema(mut self, schema: &str) -> Description {
        self.0.config_schema = schema.into();
        self
    }

    /// Asks for the records' headers.
    pub fn with_headers(mut self) -> Description {
        self.0.wants_headers = true;
        self
    }

    /// The contract's form of it.
    pub fn into_raw(self) -> raw::Description {
        self.0
    }
}

/// An output table, for rows that are given cell by cell: its columns in the order in which rows give them.
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
    /// A table without columns.
    pub fn new(name: &str) -> Table {
        Table(TableSpec { name: name.into(), columns: Vec::new() })
    }

    /// A column of the primary key: never null, and made of the input alone, so that the same rows come again in a replay.
    pub fn key(self, name: &str, kind: ColumnType) -> Table {
        self.with(name, kind, true)
    }

    /// A column outside the primary key.
    pub fn column(self, name: &str, kind: ColumnType) -> Table {
        self.with(name, kind, false)
    }

    fn with(mut self, name: &str, kind: ColumnType, primary_key: bool) -> Table {
        self.0.columns.push(ColumnSpec { name: name.into(), kind, primary_key });
        self
    }
}
