//! Declared tables against real ones of a CQL database, and the statements that follow. Pure: the database's answers come in as data, so that
//! every refusal is tested without a database.

use crate::failure::Failure;
use crate::row::{ColumnSpec, ColumnType, Table};

/// A column as `system_schema.columns` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RealColumn {
    /// Its name.
    pub(super) name: String,
    /// `partition_key`, `clustering`, `regular` or `static`.
    pub(super) kind: String,
    /// Its type: `list<text>`, `frozen<list<text>>`, `bigint`.
    pub(super) cql_type: String,
}

impl RealColumn {
    /// Whether it belongs to the primary key.
    pub(super) fn in_primary_key(&self) -> bool {
        matches!(self.kind.as_str(), "partition_key" | "clustering")
    }
}

/// Refuses names that no CQL database can have, without asking one: keyspaces and tables are named by letters of ASCII, digits and `_`. How long
/// a name may be, and what a column may be called, is the database's to say: names are quoted wherever they go.
pub(super) fn refuse_impossible_names(keyspace: &str, now: &[String], tables: &[Table]) -> Result<(), Failure> {
    let is_word = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    const WORD: &str = "ASCII letters, digits and '_' only";
    if !is_word(keyspace) {
        return Err(Failure::config(format!(
            "sink.cql.keyspace: {keyspace:?} cannot be the name of a keyspace, which has {WORD}; write it as the database shows it, without quotes"
        )));
    }
    if now.iter().any(String::is_empty) {
        return Err(Failure::config("sink.cql.now: the name of a column is empty; remove it"));
    }
    for Table { name, columns } in tables {
        if !is_word(name) {
            return Err(Failure::plugin(format!(
                "the plugin's table {name:?} cannot be in a CQL database, where the name of a table has {WORD}; rename it in the plugin"
            )));
        }
        if columns.iter().any(|column| column.name.is_empty()) {
            return Err(Failure::plugin(format!(
                "a column of the plugin's table {name} has no name; name it in the plugin"
            )));
        }
    }
    Ok(())
}

/// Checks that rows of `table`, with the host's columns `now`, fit into the real table of these columns. Returns what was found; the failure
/// names everything that is wrong, and a table that would fit.
pub(super) fn fit(keyspace: &str, table: &Table, now: &[String], real: &[RealColumn]) -> Result<String, Failure> {
    let name = format!("{keyspace}.{}", table.name);
    if let Some(column) = real.iter().find(|r| now.contains(&r.name) && r.in_primary_key()) {
        return Err(Failure::config(format!(
            "sink.cql.now: column {} is in the primary key of {name}, so rewriting a row would add another one; remove it from `now`",
            column.name
        )));
    }
    let mut wrong: Vec<String> = table.columns.iter().filter_map(|c| misfit(c, real)).collect();
    wrong.extend(now.iter().filter_map(|n| now_misfit(n, real)));
    wrong.extend(
        real.iter()
            .filter(|r| r.cql_type == "counter")
            .map(|r| format!("column {} is a counter: rewriting a row would increment it again", r.name)),
    );
    let keys = |names: Vec<&str>| names.join(", ");
    let real_key: Vec<&str> = real.iter().filter(|r| r.in_primary_key()).map(|r| r.name.as_str()).collect();
    let key = key_names(table);
    if real_key.len() != key.len() || !key.iter().all(|k| real_key.contains(k)) {
        wrong.push(format!("the primary key is ({}), but must be ({})", keys(real_key), keys(key)));
    }
    if !wrong.is_empty() {
        let wrong = wrong.join("; ");
        let create = create_table(keyspace, table, now);
        return Err(Failure::outside(format!(
            "table {name} does not fit the plugin's rows: {wrong}; change it, or create one that fits: {create}"
        )));
    }
    Ok(found(table, real))
}

fn misfit(column: &ColumnSpec, real: &[RealColumn]) -> Option<String> {
    let ColumnSpec { name, kind, primary_key } = column;
    let Some(found) = real.iter().find(|r| r.name == *name) else {
        let needed = if *kind == ColumnType::Json { "any type" } else { cql_type(*kind) };
        return Some(format!("column {name} is missing: the plugin declares {}, which needs {needed}", kind.name()));
    };
    if found.cql_type == "counter" {
        return None; // named once, with the other counters of the real table
    }
    if found.kind == "static" {
        return Some(format!("column {name} is static: the rows of a partition would overwrite each other's values"));
    }
    if *primary_key && *kind == ColumnType::Json {
        return Some(format!(
            "column {name} is declared json and belongs to the primary key, where two spellings of one value would be two rows"
        ));
    }
    (!takes(*kind, &found.cql_type)).then(|| {
        format!(
            "column {name} is {}, but the plugin declares {}, which needs {}",
            found.cql_type,
            kind.name(),
            cql_type(*kind)
        )
    })
}

fn now_misfit(name: &str, real: &[RealColumn]) -> Option<String> {
    match real.iter().find(|r| r.name == name) {
        None => Some(format!("column {name} is missing: `sink.cql.now` names it, which needs timestamp")),
        Some(r) if r.cql_type != "timestamp" => {
            Some(format!("column {name} is {}, but `sink.cql.now` names it, which needs timestamp", r.cql_type))
        }
        Some(_) => None,
    }
}

/// Describes a table that fits. Mentions lists that are not frozen: equal write timestamps would double them (scylladb/scylladb#3559).
fn found(table: &Table, real: &[RealColumn]) -> String {
    let lists = unfrozen_lists(table, real);
    let fits = "has the columns and the primary key that the plugin declares";
    match lists.as_slice() {
        [] => fits.to_owned(),
        lists => {
            format!(
                "{fits}; not frozen: {} (keyfold writes with rising timestamps, so that no element doubles)",
                lists.join(", ")
            )
        }
    }
}

/// Returns the columns that are lists and not frozen.
pub(super) fn unfrozen_lists<'a>(table: &'a Table, real: &[RealColumn]) -> Vec<&'a str> {
    let unfrozen = |c: &&ColumnSpec| real.iter().any(|r| r.name == c.name && r.cql_type.starts_with("list<"));
    table.columns.iter().filter(unfrozen).map(|c| c.name.as_str()).collect()
}

fn takes(kind: ColumnType, real: &str) -> bool {
    let thawed = real.strip_prefix("frozen<").and_then(|r| r.strip_suffix('>')).unwrap_or(real);
    match kind {
        ColumnType::Json => true,
        ColumnType::TextList | ColumnType::IntegerList => thawed == cql_type(kind),
        ColumnType::Text => matches!(real, "text" | "varchar"),
        ColumnType::Boolean | ColumnType::Integer | ColumnType::Float | ColumnType::Timestamp | ColumnType::Blob => {
            real == cql_type(kind)
        }
    }
}

fn cql_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Boolean => "boolean",
        ColumnType::Integer => "bigint",
        ColumnType::Float => "double",
        ColumnType::Timestamp => "timestamp",
        ColumnType::Text | ColumnType::Json => "text",
        ColumnType::Blob => "blob",
        ColumnType::TextList => "list<text>",
        ColumnType::IntegerList => "list<bigint>",
    }
}

/// Returns the statement that creates a table that fits. The first key column becomes the partition key; the operator may choose another.
pub(in crate::sink) fn create_table(keyspace: &str, table: &Table, now: &[String]) -> String {
    let columns = table.columns.iter().map(|c| format!("{} {}", readable(&c.name), cql_type(c.kind)));
    let now = now.iter().map(|n| format!("{} timestamp", readable(n)));
    let key: Vec<String> = key_names(table).into_iter().map(readable).collect();
    format!(
        "CREATE TABLE {}.{} ({}, PRIMARY KEY ({}))",
        readable(keyspace),
        readable(&table.name),
        columns.chain(now).collect::<Vec<_>>().join(", "),
        key.join(", ")
    )
}

/// Returns the upsert of one row: the plugin's columns in declared order, then the host's. JSON goes through the database's own conversion;
/// it enters a text column unchanged, because there `fromJson` accepts only a JSON string.
pub(super) fn insert(keyspace: &str, table: &Table, now: &[String], real: &[RealColumn]) -> String {
    let text =
        |c: &ColumnSpec| real.iter().any(|r| r.name == c.name && matches!(r.cql_type.as_str(), "text" | "varchar"));
    let marker = |c: &ColumnSpec| if c.kind == ColumnType::Json && !text(c) { "fromJson(?)" } else { "?" };
    let names: Vec<String> = table.columns.iter().map(|c| &c.name).chain(now).map(|n| quoted(n)).collect();
    let markers: Vec<&str> = table.columns.iter().map(marker).chain(now.iter().map(|_| "?")).collect();
    format!(
        "INSERT INTO {}.{} ({}) VALUES ({})",
        quoted(keyspace),
        quoted(&table.name),
        names.join(", "),
        markers.join(", ")
    )
}

/// Returns the statement that reads a row by its primary key: all columns but the static ones, which belong to the partition.
pub(super) fn select_row(keyspace: &str, table: &str, real: &[RealColumn]) -> String {
    let columns = names_of(real, |r| r.kind != "static");
    format!("SELECT {} FROM {} WHERE {}", columns.join(", "), full_name(keyspace, table), key_condition(real))
}

/// Returns the statement that samples when rows were written, by a column that has a write timestamp as a whole; none without such a column.
pub(super) fn sample_write_times(keyspace: &str, table: &str, real: &[RealColumn]) -> Option<String> {
    let in_parts =
        |kind: &str| kind == "counter" || ["list<", "set<", "map<"].iter().any(|part| kind.starts_with(part));
    let column = real.iter().find(|column| column.kind == "regular" && !in_parts(&column.cql_type))?;
    Some(format!("SELECT WRITETIME({}) FROM {} LIMIT 1000", quoted(&column.name), full_name(keyspace, table)))
}

/// Returns a statement that reads a table and finds nothing: no key has the least token.
pub(super) fn read_nothing(keyspace: &str, table: &str, real: &[RealColumn]) -> String {
    let key = names_of(real, |r| r.kind == "partition_key").join(", ");
    format!("SELECT {key} FROM {} WHERE token({key}) = {}", full_name(keyspace, table), i64::MIN)
}

/// Returns a statement that would write to a table and is refused as it stands: no part of a key may be null.
pub(super) fn write_nothing(keyspace: &str, table: &str, real: &[RealColumn]) -> String {
    let key = names_of(real, RealColumn::in_primary_key);
    let nulls = vec!["null"; key.len()].join(", ");
    format!("INSERT INTO {} ({}) VALUES ({nulls})", full_name(keyspace, table), key.join(", "))
}

/// Returns the statement that puts a row back: the columns of [`select_row`] in the same order.
pub(super) fn insert_row(keyspace: &str, table: &str, real: &[RealColumn]) -> String {
    let columns = names_of(real, |r| r.kind != "static");
    let markers = vec!["?"; columns.len()].join(", ");
    format!("INSERT INTO {} ({}) VALUES ({markers})", full_name(keyspace, table), columns.join(", "))
}

/// Returns the statement that deletes a row by its primary key.
pub(super) fn delete_row(keyspace: &str, table: &str, real: &[RealColumn]) -> String {
    format!("DELETE FROM {} WHERE {}", full_name(keyspace, table), key_condition(real))
}

fn full_name(keyspace: &str, table: &str) -> String {
    format!("{}.{}", quoted(keyspace), quoted(table))
}

fn names_of(real: &[RealColumn], which: impl Fn(&RealColumn) -> bool) -> Vec<String> {
    real.iter().filter(|r| which(r)).map(|r| quoted(&r.name)).collect()
}

fn key_condition(real: &[RealColumn]) -> String {
    let condition = |name: String| format!("{name} = ?");
    names_of(real, RealColumn::in_primary_key).into_iter().map(condition).collect::<Vec<_>>().join(" AND ")
}

/// Returns the type that a plugin declares for this column of a primary key; none if no plugin can.
pub(super) fn declared_in_key(real: &RealColumn) -> Option<ColumnType> {
    use ColumnType::{Blob, Boolean, Float, Integer, IntegerList, Text, TextList, Timestamp};
    let kinds = [Boolean, Integer, Float, Timestamp, Text, Blob, TextList, IntegerList];
    kinds.into_iter().find(|kind| takes(*kind, &real.cql_type))
}

fn key_names(table: &Table) -> Vec<&str> {
    table.columns.iter().filter(|c| c.primary_key).map(|c| c.name.as_str()).collect()
}

/// CQL's reserved words in Cassandra and ScyllaDB: as a name they need quotes.
const RESERVED: &str = "add allow alter and apply asc authorize batch begin by columnfamily create default delete desc describe drop \
    entries execute from full grant if in index infinity insert into is keyspace limit materialized mbean mbeans \
    modify nan norecursive not null of on or order primary rename replace revoke schema select set table to token \
    truncate unlogged unset update use using view where with";

/// Returns a name as a person would write it: quoted only where it must be.
pub(super) fn readable(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !RESERVED.split(' ').any(|word| word == name);
    if plain { name.to_owned() } else { quoted(name) }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use crate::sink::samples;

    fn seed(changes: &[(&str, &str, &str)]) -> Vec<RealColumn> {
        let mut columns: Vec<(&str, &str, &str)> = vec![
            ("session_id", "partition_key", "bigint"),
            ("user_id", "clustering", "bigint"),
            ("pages", "regular", "list<text>"),
            ("ingestion_time", "regular", "timestamp"),
        ];
        for change in changes {
            columns.retain(|c| c.0 != change.0);
            columns.push(*change);
        }
        let real = |c: (&str, &str, &str)| RealColumn { name: c.0.into(), kind: c.1.into(), cql_type: c.2.into() };
        columns.into_iter().filter(|c| !c.2.is_empty()).map(real).collect()
    }

    fn check(changes: &[(&str, &str, &str)], expect: &str) {
        let now = ["ingestion_time".to_owned()];
        let table = &samples::sessions(&[]).tables[0];
        let found = fit("ndc_porto", table, &now, &seed(changes)).unwrap_or_else(|e| e.to_string());
        let found = found.strip_prefix("table ndc_porto.sessions does not fit the plugin's rows: ").unwrap_or(&found);
        let create = "; change it, or create one that fits: CREATE TABLE ndc_porto.sessions (session_id bigint, user_id bigint, pages list<text>, \
                      ingestion_time timestamp, PRIMARY KEY (session_id, user_id))";
        assert_eq!(found.strip_suffix(create).unwrap_or(found), expect);
    }

    #[test]
    fn the_seeds_table_fits_and_its_unfrozen_list_is_mentioned() {
        let fits = "has the columns and the primary key that the plugin declares";
        check(
            &[],
            &format!("{fits}; not frozen: pages (keyfold writes with rising timestamps, so that no element doubles)"),
        );
        check(
            &[("pages", "regular", "frozen<list<text>>"), ("note", "regular", "int"), ("team", "static", "text")],
            fits,
        );
    }

    #[test]
    fn a_column_that_is_missing_or_of_another_type_is_named_with_both_types() {
        check(&[("pages", "", "")], "column pages is missing: the plugin declares text-list, which needs list<text>");
        check(
            &[("pages", "regular", "set<text>")],
            "column pages is set<text>, but the plugin declares text-list, which needs list<text>",
        );
        check(
            &[("user_id", "clustering", "int")],
            "column user_id is int, but the plugin declares integer, which needs bigint",
        );
        check(
            &[("pages", "static", "list<text>")],
            "column pages is static: the rows of a partition would overwrite each other's values",
        );
        let two = "column user_id is varint, but the plugin declares integer, which needs bigint; \
                   column pages is text, but the plugin declares text-list, which needs list<text>";
        check(&[("user_id", "clustering", "varint"), ("pages", "regular", "text")], two);
    }

    #[test]
    fn counters_are_refused_wherever_they_are() {
        check(
            &[("visits", "regular", "counter")],
            "column visits is a counter: rewriting a row would increment it again",
        );
    }

    #[test]
    fn another_primary_key_is_refused() {
        check(
            &[("user_id", "regular", "bigint")],
            "the primary key is (session_id), but must be (session_id, user_id)",
        );
        check(
            &[("day", "clustering", "date")],
            "the primary key is (session_id, user_id, day), but must be (session_id, user_id)",
        );
    }

    #[test]
    fn a_now_column_is_a_timestamp_outside_the_primary_key() {
        check(
            &[("ingestion_time", "", "")],
            "column ingestion_time is missing: `sink.cql.now` names it, which needs timestamp",
        );
        check(
            &[("ingestion_time", "regular", "date")],
            "column ingestion_time is date, but `sink.cql.now` names it, which needs timestamp",
        );
        check(
            &[("ingestion_time", "clustering", "timestamp")],
            "sink.cql.now: column ingestion_time is in the primary key of ndc_porto.sessions, so rewriting a row would add another one; \
             remove it from `now`",
        );
    }

    #[test]
    fn json_is_converted_by_the_database_but_enters_a_text_column_unchanged() {
        let table = &samples::documents(&[]).tables[0];
        let real =
            |cql_type: &str| vec![RealColumn { name: "doc".into(), kind: "regular".into(), cql_type: cql_type.into() }];
        let into = "INSERT INTO \"k\".\"documents\" (\"id\", \"doc\") VALUES";
        assert_eq!(insert("k", table, &[], &real("map<text, int>")), format!("{into} (?, fromJson(?))"));
        assert_eq!(insert("k", table, &[], &real("text")), format!("{into} (?, ?)"));
    }

    #[test]
    fn single_rows_are_named_by_the_whole_primary_key_and_leave_static_columns_alone() {
        let real = seed(&[("team", "static", "text")]);
        let of = |statement: fn(&str, &str, &[RealColumn]) -> String| statement("k", "sessions", &real);
        let condition = "\"k\".\"sessions\" WHERE \"session_id\" = ? AND \"user_id\" = ?";
        let columns = "\"session_id\", \"user_id\", \"pages\", \"ingestion_time\"";
        assert_eq!(of(select_row), format!("SELECT {columns} FROM {condition}"));
        assert_eq!(of(insert_row), format!("INSERT INTO \"k\".\"sessions\" ({columns}) VALUES (?, ?, ?, ?)"));
        assert_eq!(of(delete_row), format!("DELETE FROM {condition}"));
    }

    #[test]
    fn a_type_says_whether_a_plugin_can_declare_it_in_a_key() {
        let declared = |cql_type: &str| {
            declared_in_key(&RealColumn { name: "id".into(), kind: "clustering".into(), cql_type: cql_type.into() })
        };
        assert_eq!(declared("bigint"), Some(ColumnType::Integer));
        assert_eq!(declared("text"), Some(ColumnType::Text));
        assert_eq!(declared("frozen<list<bigint>>"), Some(ColumnType::IntegerList));
        assert_eq!(declared("uuid"), None);
    }

    #[test]
    fn names_that_no_database_has_are_refused_and_others_are_left_to_it() {
        let refused = |keyspace: &str, now: &str, table: &str, column: &str| {
            let column = ColumnSpec { name: column.into(), kind: ColumnType::Text, primary_key: true };
            let tables = [Table { name: table.into(), columns: vec![column] }];
            refuse_impossible_names(keyspace, &[now.to_owned()], &tables).map_err(|refused| refused.exit)
        };
        for name in ["a", "A_1", "0", "_", "select", &"n".repeat(100)] {
            assert_eq!(refused(name, "x\"; --", name, "x\"; --"), Ok(()), "{name}");
        }
        for name in ["", "\"a\"", "a.b", "a;b", "a b", "a-b", "ä", "a\0"] {
            assert_eq!(refused(name, "t", "a", "k"), Err(Exit::Config), "{name:?}");
            assert_eq!(refused("a", "t", name, "k"), Err(Exit::Plugin), "{name:?}");
        }
        assert_eq!(refused("a", "", "a", "k"), Err(Exit::Config));
        assert_eq!(refused("a", "t", "a", ""), Err(Exit::Plugin));
    }

    #[test]
    fn names_are_quoted_where_they_must_be() {
        let names = ["pages", "order", "userId", "every type", "a\"b"].map(readable);
        assert_eq!(names, ["pages", "\"order\"", "\"userId\"", "\"every type\"", "\"a\"\"b\""]);
    }
}
