//! Tables of an SQLite file: what plugins declare, what the file has, whether the two fit, and the statements that follow.

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::failure::Failure;
use crate::row::{ColumnType, Table};

/// A column as SQLite describes it.
#[derive(Debug)]
pub(super) struct RealColumn {
    /// Its name.
    pub(super) name: String,
    /// Its declared type; SQLite derives an affinity from it.
    pub(super) declared: String,
    /// Whether every row must give it a value: it is NOT NULL and has no default.
    pub(super) needs_value: bool,
    /// Whether it belongs to the primary key.
    pub(super) primary_key: bool,
}

/// Returns the columns of a table, without generated ones; none if there is no such table. A view is refused when it is written to.
pub(super) fn real_columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<RealColumn>> {
    let mut statement =
        connection.prepare("SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info(?)")?;
    let columns = statement.query_map([table], |row| {
        Ok(RealColumn {
            name: row.get(0)?,
            declared: row.get(1)?,
            needs_value: row.get::<_, bool>(2)? && row.get_ref(3)? == ValueRef::Null,
            primary_key: row.get::<_, i64>(4)? > 0,
        })
    })?;
    columns.collect()
}

/// Checks that rows of `table` fit into `real`. The failure names everything that is wrong, and a table that would fit.
pub(super) fn fit(path: &str, table: &Table, now: &[String], real: &[RealColumn]) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    let wanted = table.columns.iter().map(|c| (c.name.as_str(), sql_type(c.kind)));
    for (name, kind) in wanted.chain(now.iter().map(|name| (name.as_str(), "TEXT"))) {
        match real.iter().find(|r| r.name.eq_ignore_ascii_case(name)) {
            None => wrong.push(format!("column {name} ({kind}) is missing")),
            Some(r) if affinity(&r.declared) != kind => {
                wrong.push(format!("column {name} is {}, but must be {kind}", r.declared));
            }
            Some(_) => {}
        }
    }
    let declared = |name: &str| table.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name));
    let filled = |name: &str| declared(name) || now.iter().any(|n| n.eq_ignore_ascii_case(name));
    for r in real.iter().filter(|r| r.needs_value && !filled(&r.name)) {
        wrong.push(format!("column {} is NOT NULL without a default, but no row gives it a value", r.name));
    }
    let real_key: Vec<&str> = real.iter().filter(|r| r.primary_key).map(|r| r.name.as_str()).collect();
    let key: Vec<&str> = table.columns.iter().filter(|c| c.primary_key).map(|c| c.name.as_str()).collect();
    if real_key.len() != key.len() || !key.iter().all(|k| real_key.iter().any(|r| r.eq_ignore_ascii_case(k))) {
        wrong.push(format!("the primary key is ({}), but must be ({})", real_key.join(", "), key.join(", ")));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::outside(format!(
        "sink.sqlite: table {} in {path} does not fit the plugin's rows: {}; change it, or create one that fits: {}",
        table.name,
        wrong.join("; "),
        create_table(table, now)
    )))
}

/// Returns the affinity of a declared type, by SQLite's own rule.
pub(super) fn affinity(declared: &str) -> &'static str {
    let declared = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|w| declared.contains(w));
    if has(&["INT"]) {
        "INTEGER"
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        "TEXT"
    } else if has(&["BLOB"]) || declared.is_empty() {
        "BLOB"
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        "REAL"
    } else {
        "NUMERIC"
    }
}

fn sql_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Boolean | ColumnType::Integer => "INTEGER",
        ColumnType::Float => "REAL",
        ColumnType::Blob => "BLOB",
        ColumnType::Timestamp
        | ColumnType::Text
        | ColumnType::TextList
        | ColumnType::IntegerList
        | ColumnType::Json => "TEXT",
    }
}

/// Returns the statement that creates a table for these rows.
pub(in crate::sink) fn create_table(table: &Table, now: &[String]) -> String {
    let columns = table.columns.iter().map(|c| {
        let not_null = if c.primary_key { " NOT NULL" } else { "" };
        format!("{} {}{not_null}", quoted(&c.name), sql_type(c.kind))
    });
    let now = now.iter().map(|name| format!("{} TEXT", quoted(name)));
    let columns: Vec<String> = columns.chain(now).collect();
    let key: Vec<String> = table.columns.iter().filter(|c| c.primary_key).map(|c| quoted(&c.name)).collect();
    format!(
        "CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({}))",
        quoted(&table.name),
        columns.join(", "),
        key.join(", ")
    )
}

/// Returns the upsert of a plugin's rows: its columns in declared order, then the host's.
pub(super) fn upsert(table: &Table, now: &[String]) -> String {
    let names: Vec<&str> = table.columns.iter().map(|c| &c.name).chain(now).map(String::as_str).collect();
    let key = table.columns.iter().filter(|c| c.primary_key).map(|c| c.name.as_str());
    upsert_of(&table.name, &names, &key.collect::<Vec<_>>())
}

/// Returns the upsert of the columns `names`, which include those of `key`.
pub(super) fn upsert_of(table: &str, names: &[&str], key: &[&str]) -> String {
    let values = names.iter().filter(|name| !key.contains(name));
    let sets: Vec<String> = values.map(|name| format!("{0} = excluded.{0}", quoted(name))).collect();
    let action = if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", sets.join(", ")) };
    format!(
        "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO {action}",
        quoted(table),
        names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "),
        vec!["?"; names.len()].join(", "),
        key.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
    )
}

/// Returns a name as SQL quotes it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
