//! Rows in an SQLite file, the embedded default. The sink creates missing tables, compares existing ones, and upserts each batch in one
//! transaction.
//!
//! Booleans are 0 and 1; timestamps and lists are text (ISO 8601 and JSON), so that the file reads well in any SQLite tool; a NaN becomes
//! null, because SQLite has none. The sink waits while another process locks the database, and while the disk is full.
//!
//! Each transaction carries a timestamp of the lane's owner, and the table `_keyfold_lanes` keeps the last one of each lane. A host that was
//! replaced finds a later one there, and writes nothing (I8, D31). A host that is stopped within a transaction holds SQLite's lock: its
//! successor waits, as for any other lock, until that host goes on or ends. If it goes on, it commits; what it wrote is replaced by its
//! successor, which folds again from the checkpoint.

mod images;
mod lanes;
pub(super) mod schema;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::backoff::{Backoff, Outage};
use crate::config::SqliteSink;
use crate::failure::{Check, Failure, TAKEN_OVER};
use crate::paths::refuse_pipe_or_device;
use crate::private;
use crate::row::{Image, Rows, Table};
use crate::sink::sqlite::schema::{create_table, fit, real_columns, upsert};
use crate::sink::sqlite::write::write_batch;
use crate::sink::{ByTables, Owner, Refusal, Sink, refuse_declared_now_columns};
use crate::symptom::Symptom;

/// How long SQLite itself waits for a lock before this sink warns and retries.
const BUSY: Duration = Duration::from_secs(5);

/// Upserts rows into an SQLite file.
#[derive(Debug)]
pub(super) struct Sqlite {
    connection: Connection,
    path: String,
    /// Columns that the host fills with the time of writing.
    now: Vec<String>,
    /// One upsert per table.
    upserts: ByTables<String>,
    /// The last timestamp of a transaction, of any lane.
    last: i64,
    backoff: Backoff,
}

impl Sqlite {
    /// Opens the file, creates missing tables, compares the others.
    pub(super) fn open(config: &SqliteSink, tables: &Arc<[Table]>) -> Result<Sqlite, Failure> {
        refuse_declared_now_columns("sink.sqlite", &config.now, tables)?;
        refuse_no_file(&config.path)?;
        let path = config.path.display().to_string();
        private::create_readable(&config.path);
        let connection = Connection::open(&config.path).map_err(|e| cannot_open(&config.path, &e))?;
        let mut sink = Sqlite {
            connection,
            now: config.now.clone(),
            upserts: ByTables(Vec::new()),
            last: 0,
            backoff: Backoff::new(path.clone()),
            path,
        };
        sink.retry(prepare_file)?;
        sink.retry(|connection| lanes::create_table(connection))?;
        sink.upserts(tables)?;
        Ok(sink)
    }

    /// Returns the upserts of these tables. Creates or compares tables that it sees for the first time.
    fn upserts(&mut self, tables: &Arc<[Table]>) -> Result<Arc<[String]>, Failure> {
        if let Some(upserts) = self.upserts.get(tables) {
            return Ok(upserts);
        }
        let now = self.now.clone();
        refuse_declared_now_columns("sink.sqlite", &now, tables)?;
        for table in tables.iter() {
            self.retry(|c| c.execute_batch(&create_table(table, &now)))?;
            let real = self.retry(|c| real_columns(c, &table.name))?;
            fit(&self.path, table, &now, &real)?;
        }
        Ok(self.upserts.put(tables, tables.iter().map(|t| upsert(t, &now)).collect()))
    }

    /// Runs `work` in transactions until neither a lock nor a full disk prevents it. Fails if a later owner of the lane has written.
    fn transact<T>(
        &mut self,
        owner: &dyn Owner,
        work: impl Fn(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Failure> {
        let timestamp = owner.timestamps(self.last, 1)?;
        self.last = timestamp;
        let done = self.retry(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if !lanes::is_latest(&transaction, owner.lane(), timestamp)? {
                return Ok(None);
            }
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(Some(done))
        })?;
        done.ok_or_else(|| {
            let path = &self.path;
            Failure::fenced(format!("sink.sqlite: cannot write to {path}: {TAKEN_OVER}"))
        })
    }

    /// Runs `work` until neither a lock nor a full disk prevents it.
    fn retry<T>(&mut self, mut work: impl FnMut(&mut Connection) -> rusqlite::Result<T>) -> Result<T, Failure> {
        loop {
            match work(&mut self.connection) {
                Ok(result) => {
                    self.backoff.over();
                    return Ok(result);
                }
                Err(e) if is_transient(&e) => self.backoff.pause(&e),
                Err(e) => return Err(Failure::outside(format!("sink.sqlite: {}: {e}", self.path))),
            }
        }
    }
}

/// Returns the lines of `keyfold check`; creates nothing.
pub(super) fn check(config: &SqliteSink, tables: &Arc<[Table]>) -> Vec<Check> {
    let subject = format!("sqlite {}", config.path.display());
    if let Err(failure) = refuse_declared_now_columns("sink.sqlite", &config.now, tables) {
        return vec![Check::refused(subject, failure)];
    }
    if let Err(failure) = refuse_no_file(&config.path) {
        return vec![Check::refused(subject, failure)];
    }
    if !config.path.exists() && folder(&config.path).is_dir() {
        return vec![Check::fine(subject, "the file and its tables will be created")];
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match Connection::open_with_flags(&config.path, flags) {
        Ok(connection) => connection,
        Err(e) => return vec![Check::refused(subject, cannot_open(&config.path, &e))],
    };
    tables.iter().map(|table| check_table(config, &connection, table)).collect()
}

fn check_table(config: &SqliteSink, connection: &Connection, table: &Table) -> Check {
    let path = config.path.display().to_string();
    let subject = format!("table {} in {path}", table.name);
    let real = match real_columns(connection, &table.name) {
        Ok(real) => real,
        Err(e) => {
            let failure = Failure::outside(format!("sink.sqlite: {path}: {e}"));
            return Check::refused(subject, failure).of(Symptom::SinkUnusable);
        }
    };
    if real.is_empty() {
        return Check::fine(subject, "will be created");
    }
    match fit(&path, table, &config.now, &real) {
        Ok(()) => Check::fine(subject, "has the columns and the primary key that the plugin declares"),
        Err(misfit) => Check::refused(subject, misfit).of(Symptom::TableMisfit),
    }
}

impl Sink for Sqlite {
    fn write(&mut self, rows: &Rows, owner: &dyn Owner) -> Result<Vec<Refusal>, Failure> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let (upserts, now) = (self.upserts(&rows.tables)?, self.now.len());
        self.transact(owner, |transaction| write_batch(transaction, &upserts, now, rows))
    }

    /// Returns none: rows that are written again replace themselves.
    fn length(&mut self) -> Result<Option<u64>, Failure> {
        Ok(None)
    }

    fn truncate(&mut self, _length: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn images(&mut self, rows: &Rows, at: &[usize]) -> Result<Vec<Image>, Failure> {
        self.read_images(rows, at)
    }

    fn restore(&mut self, images: &[Image], owner: &dyn Owner) -> Result<(), Failure> {
        self.put_back(images, owner)
    }

    fn outage(&self) -> Arc<Outage> {
        self.backoff.outage()
    }
}

/// WAL: readers and this writer do not wait for each other. FULL: a commit is on disk when it returns, so that an acknowledged row
/// survives a power cut as well as a killed process; with one commit per batch that costs little.
fn prepare_file(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")
}

fn is_transient(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn refuse_no_file(path: &Path) -> Result<(), Failure> {
    let refused = refuse_pipe_or_device(path, "a database is read and written at any place");
    refused.map_err(|why| Failure::outside(format!("sink.sqlite.path: {why}")))
}

fn cannot_open(path: &Path, error: &rusqlite::Error) -> Failure {
    let (file, folder) = (path.display(), folder(path));
    if folder.is_dir() {
        return Failure::outside(format!("sink.sqlite: cannot open {file}: {error}"));
    }
    let folder = folder.display();
    Failure::outside(format!("sink.sqlite: cannot open {file}: folder {folder} does not exist; create it first"))
}

#[cfg(test)]
mod tests {
    use rusqlite::types::Value;

    use super::*;
    use crate::failure::Exit;
    use crate::sink::samples::{self, Host, OWNER};

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
        let refusals = Sqlite::open(&place.config, &rows.tables).expect("opens").write(&rows, &OWNER).expect("writes");
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
        sink.write(&rows, &OWNER).expect("writes");
        assert_eq!(place.read("SELECT session_id, user_id, pages FROM sessions"), ["1|1|[\"A\",\"C\"]", "2|1|[\"B\"]"]);
        sink.write(&samples::sessions(&[(2, 1, &["D"])]), &OWNER).expect("writes");
        assert_eq!(place.read("SELECT pages FROM sessions WHERE session_id = 2"), ["[\"D\"]"]);
        let time = &place.read("SELECT ingestion_time FROM sessions")[0];
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    }

    #[test]
    fn rows_survive_the_sink_and_the_next_one_finds_them() {
        let place = place(&[]);
        let rows = samples::sessions(&[(1, 1, &["A"])]);
        for _ in 0..2 {
            let mut sink = Sqlite::open(&place.config, &rows.tables).expect("opens");
            sink.write(&rows, &OWNER).expect("writes");
            assert_eq!(sink.length().expect("has none"), None);
        }
        assert_eq!(place.read("SELECT count(*) FROM sessions"), ["1"]);
    }

    #[test]
    fn a_row_that_the_database_refuses_comes_back_and_the_others_stay() {
        let place = place(&[]);
        place.sql("CREATE TABLE sessions (session_id INTEGER, user_id INTEGER CHECK (user_id < 10), pages TEXT, PRIMARY KEY (session_id, user_id))");
        let rows = samples::sessions(&[(1, 1, &["A"]), (2, 20, &["B"]), (3, 3, &["C"])]);
        let refusals = Sqlite::open(&place.config, &rows.tables).expect("opens").write(&rows, &OWNER).expect("writes");
        assert_eq!(place.read("SELECT session_id FROM sessions"), ["1", "3"]);
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].row, rows.order[1]);
        assert_eq!(refusals[0].json, "{\"table\":\"sessions\",\"session_id\":2,\"user_id\":20,\"pages\":[\"B\"]}");
        assert_eq!(refusals[0].reason, "CHECK constraint failed: user_id < 10");
    }

    #[test]
    fn a_null_in_the_primary_key_is_refused_and_no_key_is_generated() {
        let place = place(&[]);
        let mut rows = samples::documents(&["1", "2"]);
        rows.parts[0].columns[0].nulls = vec![1];
        let refusals = Sqlite::open(&place.config, &rows.tables).expect("opens").write(&rows, &OWNER).expect("writes");
        assert_eq!(place.read("SELECT id FROM documents"), ["0"]);
        assert_eq!(refusals[0].reason, "column id of the primary key is null");
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused_with_everything_that_is_wrong_and_one_that_fits() {
        let place = place(&["ingestion_time"]);
        place.sql("CREATE TABLE sessions (session_id TEXT PRIMARY KEY, pages TEXT, \"by\" TEXT NOT NULL, ingestion_time INTEGER)");
        let error = place.refused(&samples::sessions(&[]));
        let path = place.config.path.display();
        assert_eq!(
            error,
            format!(
                "sink.sqlite: table sessions in {path} does not fit the plugin's rows: column session_id is TEXT, but must be INTEGER; \
                 column user_id (INTEGER) is missing; column ingestion_time is INTEGER, but must be TEXT; \
                 column by is NOT NULL without a default, but no row gives it a value; \
                 the primary key is (session_id), but must be (session_id, user_id); change it, or \
                 create one that fits: CREATE TABLE IF NOT EXISTS \"sessions\" (\"session_id\" INTEGER NOT NULL, \"user_id\" INTEGER NOT NULL, \
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
        Sqlite::open(&place.config, &rows.tables).expect("opens").write(&rows, &OWNER).expect("writes");
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
            threads.spawn(|| told.send(sink.write(&rows, &OWNER).map_err(|e| e.to_string())));
            assert!(tells.recv_timeout(Duration::from_millis(300)).is_err(), "it waits");
            other.execute_batch("COMMIT").expect("unlocks");
            assert_eq!(tells.recv_timeout(Duration::from_secs(30)), Ok(Ok(Vec::new())));
        });
    }

    #[test]
    fn i8_a_replaced_host_writes_nothing_once_its_successor_has_written() {
        let place = place(&[]);
        let rows = |page| samples::sessions(&[(1, 1, &[page])]);
        let (first, second) = (Host::after(100), Host::after(200));
        let open = || Sqlite::open(&place.config, &rows("").tables).expect("opens");
        let (mut old, mut new) = (open(), open());
        old.write(&rows("old"), &first).expect("it owns the lane");
        let image = old.images(&rows("old"), &[0]).expect("reads");
        new.write(&rows("new"), &second).expect("it owns the lane");
        for refused in [old.write(&rows("late"), &first).err(), old.restore(&image, &first).err()] {
            let failure = refused.expect("it was replaced");
            assert_eq!(failure.exit, Exit::State);
            assert!(failure.message.contains("rows.db: another host has taken over this lane"), "{failure}");
        }
        assert_eq!(place.read("SELECT pages FROM sessions"), ["[\"new\"]"]);
        new.write(&rows("newer"), &second).expect("it owns the lane");
        assert_eq!(place.read("SELECT pages FROM sessions"), ["[\"newer\"]"]);
        assert_eq!(place.read("SELECT lane FROM _keyfold_lanes"), ["topic"]);
    }

    #[test]
    fn a_file_that_is_not_a_database_or_has_no_folder_is_refused_by_name() {
        let place = place(&[]);
        std::fs::write(&place.config.path, "this is not a database, but it is long enough for SQLite to read")
            .expect("writes");
        let error = place.refused(&samples::sessions(&[]));
        assert!(error.contains("rows.db: file is not a database"), "{error}");

        let config = SqliteSink { path: place.config.path.join("rows.db"), now: Vec::new() };
        let error = Sqlite::open(&config, &samples::sessions(&[]).tables).expect_err("is refused").to_string();
        assert!(error.ends_with("rows.db does not exist; create it first"), "{error}");
    }

    #[test]
    fn a_check_creates_nothing() {
        let place = place(&[]);
        let checks = check(&place.config, &samples::sessions(&[]).tables);
        assert_eq!(checks[0].detail, "the file and its tables will be created");
        assert!(!place.config.path.exists());
    }
}
