//! Rows in an SQLite file, the embedded default. It makes its tables, compares those that are there, and upserts each batch in one
//! transaction.
//!
//! Booleans are 0 and 1, timestamps and lists text (ISO and JSON), so that the file reads well in any SQLite tool; a float that is not a
//! number becomes null, as SQLite has none. What waits: a database that another process has locked, and a full disk.

mod images;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::backoff::Backoff;
use crate::backoff::Outage;
use crate::clock;
use crate::config::SqliteSink;
use crate::failure::{Check, Failure};
use crate::record::iso;
use crate::row::Image;
use crate::row::{Cell, ColumnType, RowRef, Rows, Table};
use crate::sink::ndjson::{bad_json, put_list, refusal};
use crate::sink::{ByTables, Error, Refusal, Sink, now_is_free};
use crate::symptom::Symptom;

/// How long SQLite itself waits for a lock before this sink warns and tries again.
const BUSY: Duration = Duration::from_secs(5);

/// Upserts rows into an SQLite file.
#[derive(Debug)]
pub(super) struct Sqlite {
    connection: Connection,
    pub(super) path: String,
    now: Vec<String>,
    /// One upsert per table.
    upserts: ByTables<String>,
    backoff: Backoff,
}

impl Sqlite {
    /// Opens the file, makes what tables are missing, compares the others.
    pub(super) fn open(config: &SqliteSink, tables: &Arc<[Table]>) -> Result<Sqlite, Error> {
        now_is_free("sink.sqlite", &config.now, tables)?;
        let path = config.path.display().to_string();
        let connection = Connection::open(&config.path).map_err(|e| cannot_open(&config.path, &e))?;
        let mut sink = Sqlite {
            connection,
            now: config.now.clone(),
            upserts: ByTables(Vec::new()),
            backoff: Backoff::new(path.clone()),
            path,
        };
        sink.patiently(prepare_file)?;
        sink.upserts(tables)?;
        Ok(sink)
    }

    /// The upserts of these tables, which are made or compared when they are met first.
    pub(super) fn upserts(&mut self, tables: &Arc<[Table]>) -> Result<Arc<[String]>, Error> {
        if let Some(upserts) = self.upserts.get(tables) {
            return Ok(upserts);
        }
        let now = self.now.clone();
        now_is_free("sink.sqlite", &now, tables)?;
        for table in tables.iter() {
            self.patiently(|c| c.execute_batch(&create_table(table, &now)))?;
            let real = self.patiently(|c| real_columns(c, &table.name))?;
            fit(&self.path, table, &now, &real)?;
        }
        Ok(self.upserts.put(tables, tables.iter().map(|t| upsert(t, &now)).collect()))
    }

    /// Runs `work` until neither a lock nor a full disk is in its way.
    pub(super) fn patiently<T>(
        &mut self,
        mut work: impl FnMut(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        loop {
            match work(&mut self.connection) {
                Ok(result) => {
                    self.backoff.over();
                    return Ok(result);
                }
                Err(e) if passes(&e) => self.backoff.pause(&e),
                Err(e) => return Err(Error::Outside(format!("sink.sqlite: {}: {e}", self.path))),
            }
        }
    }
}

/// The lines of `keyfold check`: nothing is made.
pub(super) fn check(config: &SqliteSink, tables: &Arc<[Table]>) -> Vec<Check> {
    let subject = format!("sqlite {}", config.path.display());
    if let Err(e) = now_is_free("sink.sqlite", &config.now, tables) {
        return vec![Check::refused(subject, Failure::from(e))];
    }
    if !config.path.exists() && folder(&config.path).is_dir() {
        return vec![Check::fine(subject, "the file and its tables will be made")];
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match Connection::open_with_flags(&config.path, flags) {
        Ok(connection) => connection,
        Err(e) => return vec![Check::refused(subject, Failure::from(cannot_open(&config.path, &e)))],
    };
    tables.iter().map(|table| check_table(config, &connection, table)).collect()
}

fn check_table(config: &SqliteSink, connection: &Connection, table: &Table) -> Check {
    let path = config.path.display().to_string();
    let subject = format!("table {} in {path}", table.name);
    let found = real_columns(connection, &table.name)
        .map_err(|e| (Symptom::SinkUnusable, Error::Outside(format!("sink.sqlite: {path}: {e}"))))
        .and_then(|real| match fit(&path, table, &config.now, &real) {
            _ if real.is_empty() => Ok(true),
            Ok(()) => Ok(false),
            Err(misfit) => Err((Symptom::TableMisfit, misfit)),
        });
    match found {
        Ok(true) => Check::fine(subject, "will be made"),
        Ok(false) => Check::fine(subject, "has the columns and the primary key that the plugin declares"),
        Err((symptom, e)) => Check::refused(subject, Failure::from(e)).of(symptom),
    }
}

impl Sink for Sqlite {
    fn write(&mut self, rows: &Rows) -> Result<Vec<Refusal>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let (upserts, now) = (self.upserts(&rows.tables)?, self.now.len());
        self.patiently(|connection| write_batch(connection, &upserts, now, rows))
    }

    /// None: rows that are written again replace themselves.
    fn length(&mut self) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    fn truncate(&mut self, _length: u64) -> Result<(), Error> {
        Ok(())
    }

    fn images(&mut self, rows: &Rows, at: &[usize]) -> Result<Vec<Image>, Error> {
        self.read_images(rows, at)
    }

    fn restore(&mut self, images: &[Image]) -> Result<(), Error> {
        self.put_back(images)
    }

    fn outage(&self) -> Arc<Outage> {
        self.backoff.outage()
    }
}

/// All rows in one transaction, in order, so that the last of several of one primary key wins.
fn write_batch(c: &mut Connection, upserts: &[String], now: usize, rows: &Rows) -> rusqlite::Result<Vec<Refusal>> {
    let now_text = iso(clock::now_ms());
    let transaction = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut refusals = Vec::new();
    for &row in &rows.order {
        let reason = match bad_json(rows, row).or_else(|| null_in_key(rows, row)) {
            Some(reason) => Some(reason),
            None => write_row(&transaction, upserts, now, &now_text, rows, row)?,
        };
        refusals.extend(reason.map(|reason| refusal(rows, row, reason)));
    }
    transaction.commit()?;
    Ok(refusals)
}

/// Gives back why the database refuses the row, if it does. A refused statement leaves the rest of the transaction as it is.
fn write_row(
    c: &Connection,
    upserts: &[String],
    now: usize,
    now_text: &str,
    rows: &Rows,
    row: RowRef,
) -> rusqlite::Result<Option<String>> {
    let mut statement = c.prepare_cached(&upserts[rows.table(row).0])?;
    let cells = rows.cells(row).map(to_sql);
    let times = std::iter::repeat_n(ToSqlOutput::Borrowed(ValueRef::Text(now_text.as_bytes())), now);
    match statement.execute(rusqlite::params_from_iter(cells.chain(times))) {
        Ok(_) => Ok(None),
        Err(e) if refuses_row(&e) => Ok(Some(e.to_string())),
        Err(e) => Err(e),
    }
}

/// SQLite would take null for "make up a key" in an integer key, so the host refuses it as any other database does.
fn null_in_key(rows: &Rows, row: RowRef) -> Option<String> {
    let columns = &rows.table(row).1.columns;
    let column =
        columns.iter().zip(rows.cells(row)).find(|(column, cell)| column.primary_key && *cell == Cell::Null)?.0;
    Some(format!("column {} of the primary key is null", column.name))
}

pub(super) fn to_sql(cell: Cell<'_>) -> ToSqlOutput<'_> {
    let text = |bytes| ToSqlOutput::Owned(Value::Text(String::from_utf8(bytes).expect("JSON is UTF-8")));
    match cell {
        Cell::Null => ToSqlOutput::Borrowed(ValueRef::Null),
        Cell::Boolean(value) => ToSqlOutput::Borrowed(ValueRef::Integer(i64::from(value))),
        Cell::Integer(value) => ToSqlOutput::Borrowed(ValueRef::Integer(value)),
        Cell::Float(value) => ToSqlOutput::Borrowed(ValueRef::Real(value)),
        Cell::Timestamp(ms) => ToSqlOutput::Owned(Value::Text(iso(ms))),
        Cell::Text(value) | Cell::Json(value) => ToSqlOutput::Borrowed(ValueRef::Text(value.as_bytes())),
        Cell::Blob(value) => ToSqlOutput::Borrowed(ValueRef::Blob(value)),
        Cell::TextList(list) => {
            let mut out = Vec::new();
            put_list(&mut out, list.iter());
            text(out)
        }
        Cell::IntegerList(list) => {
            let mut out = Vec::new();
            put_list(&mut out, list.iter());
            text(out)
        }
    }
}

/// WAL: readers and this writer do not wait for each other. FULL: a commit is on disk when it returns, so that an acknowledged row
/// outlives a power cut as well as a killed process; with one commit per batch that costs little.
fn prepare_file(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")
}

fn passes(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull))
}

fn refuses_row(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
}

/// A column as SQLite describes it.
#[derive(Debug)]
pub(super) struct RealColumn {
    pub(super) name: String,
    pub(super) declared: String,
    /// Neither null nor a default is possible.
    wants_a_value: bool,
    pub(super) primary_key: bool,
}

/// The columns of a table, without generated ones; none if there is no such table. A view is refused when it is written to.
pub(super) fn real_columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<RealColumn>> {
    let mut statement =
        connection.prepare("SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info(?)")?;
    let columns = statement.query_map([table], |row| {
        Ok(RealColumn {
            name: row.get(0)?,
            declared: row.get(1)?,
            wants_a_value: row.get::<_, bool>(2)? && row.get_ref(3)? == ValueRef::Null,
            primary_key: row.get::<_, i64>(4)? > 0,
        })
    })?;
    columns.collect()
}

/// Whether rows of `table` fit into `real`; all that is wrong in one message, with the table that would fit.
fn fit(path: &str, table: &Table, now: &[String], real: &[RealColumn]) -> Result<(), Error> {
    let mut wrong = Vec::new();
    let wanted = table.columns.iter().map(|c| (c.name.as_str(), sql_type(c.kind)));
    for (name, kind) in wanted.chain(now.iter().map(|name| (name.as_str(), "TEXT"))) {
        match real.iter().find(|r| r.name.eq_ignore_ascii_case(name)) {
            None => wrong.push(format!("column {name} ({kind}) is missing")),
            Some(r) if affinity(&r.declared) != kind => {
                wrong.push(format!("column {name} is {}, where {kind} is needed", r.declared));
            }
            Some(_) => {}
        }
    }
    let declared = |name: &str| table.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name));
    let filled = |name: &str| declared(name) || now.iter().any(|n| n.eq_ignore_ascii_case(name));
    for r in real.iter().filter(|r| r.wants_a_value && !filled(&r.name)) {
        wrong.push(format!("column {} wants a value that no row has", r.name));
    }
    let real_key: Vec<&str> = real.iter().filter(|r| r.primary_key).map(|r| r.name.as_str()).collect();
    let key: Vec<&str> = table.columns.iter().filter(|c| c.primary_key).map(|c| c.name.as_str()).collect();
    if real_key.len() != key.len() || !key.iter().all(|k| real_key.iter().any(|r| r.eq_ignore_ascii_case(k))) {
        wrong.push(format!("the primary key is ({}), where ({}) is needed", real_key.join(", "), key.join(", ")));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::Outside(format!(
        "sink.sqlite: table {} in {path} does not fit the plugin's rows: {}; a table that fits: {}",
        table.name,
        wrong.join("; "),
        create_table(table, now)
    )))
}

/// SQLite's own rule for what a declared type means.
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

pub(super) fn create_table(table: &Table, now: &[String]) -> String {
    let columns = table.columns.iter().map(|c| {
        let not_null = if c.primary_key { " NOT NULL" } else { "" };
        format!("{} {}{not_null}", quoted(&c.name), sql_type(c.kind))
    });
    let now = now.iter().map(|name| format!("{} TEXT", quoted(name)));
    let columns: Vec<String> = columns.chain(now).collect();
    format!(
        "CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({}))",
        quoted(&table.name),
        columns.join(", "),
        key_list(table)
    )
}

fn upsert(table: &Table, now: &[String]) -> String {
    let names: Vec<&str> = table.columns.iter().map(|c| &c.name).chain(now).map(String::as_str).collect();
    let key = table.columns.iter().filter(|c| c.primary_key).map(|c| c.name.as_str());
    upsert_of(&table.name, &names, &key.collect::<Vec<_>>())
}

/// The upsert of these columns, those of `key` among them.
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

fn key_list(table: &Table) -> String {
    let key = table.columns.iter().filter(|c| c.primary_key).map(|c| quoted(&c.name));
    key.collect::<Vec<_>>().join(", ")
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn cannot_open(path: &Path, error: &rusqlite::Error) -> Error {
    if !folder(path).is_dir() {
        let folder = folder(path).display();
        return Error::Outside(format!(
            "sink.sqlite: {}: the folder {folder} is not there, make it first",
            path.display()
        ));
    }
    Error::Outside(format!("sink.sqlite: {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::samples;

    struct Place {
        _folder: tempfile::TempDir,
        config: SqliteSink,
    }

    fn place(now: &[&str]) -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let now = now.iter().map(|n| (*n).to_owned()).collect();
        let config = SqliteSink { path: folder.path().join("rows.db"), now };
        Place { _folder: folder, config }
    }

    impl Place {
        fn sql(&self, sql: &str) {
            Connection::open(&self.config.path).and_then(|c| c.execute_batch(sql)).expect("runs");
        }

        /// Every row as text, columns separated by `|`, nulls as `~`.
        fn read(&self, select: &str) -> Vec<String> {
            let connection = Connection::open(&self.config.path).expect("opens");
            let mut statement = connection.prepare(select).expect("prepares");
            let width = statement.column_count();
            let row = |row: &rusqlite::Row<'_>| {
                let cells = (0..width).map(|i| match row.get::<_, Value>(i)? {
                    Value::Null => Ok("~".to_owned()),
                    Value::Integer(i) => Ok(i.to_string()),
                    Value::Real(r) => Ok(r.to_string()),
                    Value::Text(t) => Ok(t),
                    Value::Blob(b) => Ok(format!("{b:?}")),
                });
                Ok(cells.collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
            };
            let rows = statement.query_map([], row).expect("selects");
            rows.collect::<rusqlite::Result<_>>().expect("reads")
        }

        fn refused(&self, rows: &Rows) -> String {
            let error = Sqlite::open(&self.config, &rows.tables).expect_err("is refused").to_string();
            let check = check(&self.config, &rows.tables).remove(0);
            assert_eq!(check.detail, error, "check and open agree");
            error
        }
    }

    #[test]
    fn every_type_is_written_and_read_back() {
        let place = place(&[]);
        let rows = samples::all_types();
        let refusals = Sqlite::open(&place.config, &rows.tables).expect("opens").write(&rows).expect("writes");
        assert_eq!(refusals, []);
        assert_eq!(
            place.read("SELECT * FROM \"every type\" ORDER BY id DESC"),
            [
                "9223372036854775807|1|0.1|2024-10-02T12:55:19.148Z|tab\tand \"quote\"|[0, 255]|[\"A.html\",\"\"]|[-1,2]|{\n\"a\":[1.50]}",
                "0|0|~|-000001-01-01T00:00:00.000Z||[]|[]|[]|null",
                "-1|~|~|~|~|~|~|~|~",
            ]
        );
    }

    #[test]
    fn the_last_of_several_rows_of_one_primary_key_wins_within_a_batch_and_after_it() {
        let place = place(&["ingestion_time"]);
        let rows = samples::sessions(&[(1, 1, &["A"]), (2, 1, &["B"]), (1, 1, &["A", "C"])]);
        let mut sink = Sqlite::open(&place.config, &rows.tables).expect("opens");
        sink.write(&rows).expect("writes");
        assert_eq!(place.read("SELECT session_id, user_id, pages FROM sessions"), ["1|1|[\"A\",\"C\"]", "2|1|[\"B\"]"]);
        sink.write(&samples::sessions(&[(2, 1, &["D"])])).expect("writes");
        assert_eq!(place.read("SELECT pages FROM sessions WHERE session_id = 2"), ["[\"D\"]"]);
        let time = &place.read("SELECT ingestion_time FROM sessions")[0];
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    }

    #[test]
    fn rows_outlive_the_sink_and_are_found_by_the_next() {
        let place = place(&[]);
        let rows = samples::sessions(&[(1, 1, &["A"])]);
        for _ in 0..2 {
            let mut sink = Sqlite::open(&place.config, &rows.tables).expect("opens");
            sink.write(&rows).expect("writes");
            assert_eq!(sink.length().expect("has none"), None);
        }
        assert_eq!(place.read("SELECT count(*) FROM sessions"), ["1"]);
    }

    #[test]
    fn a_row_that_the_database_refuses_comes_back_and_the_others_stay() {
        let place = place(&[]);
        place.sql("CREATE TABLE sessions (session_id INTEGER, user_id INTEGER CHECK (user_id < 10), pages TEXT, PRIMARY KEY (session_id, user_id))");
        let rows = samples::sessions(&[(1, 1, &["A"]), (2, 20, &["B"]), (3, 3, &["C"])]);
        let refusals = Sqlite::open(&place.config, &rows.tables).expect("opens").write(&rows).expect("writes");
        assert_eq!(place.read("SELECT session_id FROM sessions"), ["1", "3"]);
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].row, rows.order[1]);
        assert_eq!(refusals[0].json, "{\"table\":\"sessions\",\"session_id\":2,\"user_id\":20,\"pages\":[\"B\"]}");
        assert_eq!(refusals[0].reason, "CHECK constraint failed: user_id < 10");
    }

    #[test]
    fn a_null_in_the_primary_key_is_refused_and_not_made_up() {
        let place = place(&[]);
        let mut rows = samples::documents(&["1", "2"]);
        rows.parts[0].columns[0].nulls = vec![1];
        let refusals = Sqlite::open(&place.config, &rows.tables).expect("opens").write(&rows).expect("writes");
        assert_eq!(place.read("SELECT id FROM documents"), ["0"]);
        assert_eq!(refusals[0].reason, "column id of the primary key is null");
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused_with_all_that_is_wrong_and_one_that_fits() {
        let place = place(&["ingestion_time"]);
        place.sql("CREATE TABLE sessions (session_id TEXT PRIMARY KEY, pages TEXT, \"by\" TEXT NOT NULL, ingestion_time INTEGER)");
        let error = place.refused(&samples::sessions(&[]));
        let path = place.config.path.display();
        assert_eq!(
            error,
            format!(
                "sink.sqlite: table sessions in {path} does not fit the plugin's rows: column session_id is TEXT, where INTEGER is needed; \
                 column user_id (INTEGER) is missing; column ingestion_time is INTEGER, where TEXT is needed; \
                 column by wants a value that no row has; the primary key is (session_id), where (session_id, user_id) is needed; \
                 a table that fits: CREATE TABLE IF NOT EXISTS \"sessions\" (\"session_id\" INTEGER NOT NULL, \"user_id\" INTEGER NOT NULL, \
                 \"pages\" TEXT, \"ingestion_time\" TEXT, PRIMARY KEY (\"session_id\", \"user_id\"))"
            )
        );
    }

    #[test]
    fn further_columns_outside_the_key_and_other_names_of_a_type_are_fine() {
        let place = place(&[]);
        place.sql("CREATE TABLE sessions (user_id BIGINT, session_id INT, pages VARCHAR(9), note TEXT NOT NULL DEFAULT '', PRIMARY KEY (user_id, session_id))");
        let rows = samples::sessions(&[(1, 2, &[])]);
        assert_eq!(check(&place.config, &rows.tables)[0].finding, crate::failure::Finding::Fine);
        Sqlite::open(&place.config, &rows.tables).expect("opens").write(&rows).expect("writes");
        assert_eq!(place.read("SELECT * FROM sessions"), ["2|1|[]|"]);
    }

    #[test]
    fn a_locked_database_is_waited_for() {
        let place = place(&[]);
        let rows = samples::sessions(&[(1, 1, &["A"])]);
        let mut sink = Sqlite::open(&place.config, &rows.tables).expect("opens");
        sink.connection.busy_timeout(Duration::ZERO).expect("is set");
        let other = Connection::open(&place.config.path).expect("opens");
        other.execute_batch("BEGIN IMMEDIATE").expect("locks");
        let (told, tells) = std::sync::mpsc::channel();
        std::thread::scope(|threads| {
            threads.spawn(|| told.send(sink.write(&rows).map_err(|e| e.to_string())));
            assert!(tells.recv_timeout(Duration::from_millis(300)).is_err(), "it waits");
            other.execute_batch("COMMIT").expect("unlocks");
            assert_eq!(tells.recv_timeout(Duration::from_secs(30)), Ok(Ok(Vec::new())));
        });
    }

    #[test]
    fn what_is_no_database_or_has_no_folder_is_refused_by_name() {
        let place = place(&[]);
        std::fs::write(&place.config.path, "this is no database, but it is long enough to be looked at")
            .expect("writes");
        let error = place.refused(&samples::sessions(&[]));
        assert!(error.contains("rows.db: file is not a database"), "{error}");

        let config = SqliteSink { path: place.config.path.join("rows.db"), now: Vec::new() };
        let error = Sqlite::open(&config, &samples::sessions(&[]).tables).expect_err("is refused").to_string();
        assert!(error.ends_with("is not there, make it first"), "{error}");
    }

    #[test]
    fn looking_makes_nothing() {
        let place = place(&[]);
        let checks = check(&place.config, &samples::sessions(&[]).tables);
        assert_eq!(checks[0].detail, "the file and its tables will be made");
        assert!(!place.config.path.exists());
    }
}
