//! The CQL sink on a real database: every type, lists that never double, refusals, outages in the middle of a batch, and rows that are put
//! back as they were.

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keyfold::clock::{ManualClock, now_ms};
use keyfold::config;
use keyfold::failure::{Exit, Failure, Finding};
use keyfold::position::{Offset, Partition};
use keyfold::record::ByteColumn;
use keyfold::row::{Column, ColumnData, ColumnSpec, ColumnType, Image, Origin, Part, RowRef, Rows, Table, TextColumn};
use keyfold::sink::{self, Owner, Sink};
use keyfold::state::journal::Journal;
use keyfold::state::memory::MemoryDisk;
use keyfold::state::tenure::Tenure;
use serde_json::{Value, json};

use crate::tables::{SESSIONS, Tables};

/// A keyspace of its own, and the sink's configuration for it.
struct Place {
    tables: Tables,
    keyspace: String,
    config: config::CqlSink,
    runtime: tokio::runtime::Runtime,
}

impl Place {
    /// An empty keyspace, read through `port`, written through `through`.
    fn new(port: u16, through: u16, keyspace: &str) -> Place {
        let tables = Tables::connect(port);
        tables.create_keyspace(keyspace);
        let config = config::CqlSink {
            nodes: vec![format!("127.0.0.1:{through}")],
            keyspace: keyspace.to_owned(),
            now: Vec::new(),
            user: None,
            password: None,
            password_file: None,
            tls: None,
            consistency: "LOCAL_QUORUM".to_owned(),
            in_flight: 64,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Place { tables, keyspace: keyspace.to_owned(), config, runtime: runtime.expect("the system has threads") }
    }

    fn create(&self, table: &str) {
        self.tables.execute(&format!("CREATE TABLE {}.{table}", self.keyspace));
    }

    fn open(&self, tables: &Arc<[Table]>, deadline: Option<Instant>) -> Result<Box<dyn Sink>, Failure> {
        sink::open(&config::Sink::Cql(self.config.clone()), tables, self.runtime.handle(), deadline)
    }

    fn sink(&self, rows: &Rows) -> Box<dyn Sink> {
        self.open(&rows.tables, None).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The refusal, which does not wait for the deadline, and is also what `check` says.
    fn refused(&self, tables: &Arc<[Table]>) -> Failure {
        let begin = Instant::now();
        let error = self.open(tables, Some(begin + Duration::from_secs(600))).err().expect("is refused");
        assert!(begin.elapsed() < Duration::from_secs(300), "nothing was waited for");
        let checks = sink::check(&config::Sink::Cql(self.config.clone()), tables, self.runtime.handle());
        let refused = checks.into_iter().find(|c| matches!(c.finding, Finding::Refused(_))).expect("is refused");
        assert_eq!(refused.detail, error.to_string());
        error
    }
}

/// The only host of its lane.
struct Host;

impl Owner for Host {
    fn lane(&self) -> &str {
        "topic"
    }

    fn timestamps(&self, after: i64, count: usize) -> Result<i64, Failure> {
        static LAST: AtomicI64 = AtomicI64::new(0);
        let count = i64::try_from(count).expect("it is small");
        let next = |last: i64| Some(last.max(after).max(now_ms() * 1_000) + count);
        let last = LAST.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).expect("there is a next one");
        Ok(next(last).expect("there is a next one") - count + 1)
    }
}

/// A way to the database that can be cut.
struct Wire {
    port: u16,
    cut: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    /// Bytes that went through, both ways.
    passed: Arc<AtomicU64>,
}

/// A stream whose bytes are counted as they are read.
struct Counted(TcpStream, Arc<AtomicU64>);

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::SeqCst);
        Ok(read)
    }
}

impl Wire {
    fn to(database: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the system has a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let wire = Wire { port, cut: Arc::default(), connections: Arc::default(), passed: Arc::default() };
        let (cut, connections, passed) = (wire.cut.clone(), wire.connections.clone(), wire.passed.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", database)) else { continue };
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let both = from.try_clone().and_then(|from| Ok((from, into.try_clone()?)));
                    let (from, mut into) = both.expect("the system has descriptors");
                    let mut from = Counted(from, passed.clone());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut into);
                        let _ = into.shutdown(Shutdown::Both);
                    });
                }
                connections.lock().expect("nothing panics under it").extend([near, far]);
            }
        });
        wire
    }

    /// Requests under way lose their answers, new connections are closed at once.
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for connection in self.connections.lock().expect("nothing panics under it").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }

    /// Runs `work`, which sends more than a megabyte, with two outages in the middle of it.
    fn cut_into<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|threads| {
            let work = threads.spawn(work);
            let deadline = Instant::now() + Duration::from_secs(120);
            for _ in 0..2 {
                let enough = self.passed.load(Ordering::SeqCst) + 300_000;
                while self.passed.load(Ordering::SeqCst) < enough {
                    assert!(!work.is_finished() && Instant::now() < deadline, "it is under way");
                    std::thread::sleep(Duration::from_millis(1));
                }
                self.cut();
                self.mend();
            }
            work.join().expect("does not panic")
        })
    }
}

fn texts<S: AsRef<str>>(items: &[S]) -> TextColumn {
    let mut column = ByteColumn::default();
    items.iter().for_each(|item| column.push(item.as_ref().as_bytes()));
    TextColumn::new(column).expect("is UTF-8")
}

fn rows(table: &str, specs: &[(&str, ColumnType, bool)], columns: Vec<(ColumnData, &[u32])>, count: usize) -> Rows {
    let spec =
        |&(name, kind, primary_key): &(&str, ColumnType, bool)| ColumnSpec { name: name.to_owned(), kind, primary_key };
    let origin = Origin { partition: Partition(0), offset: Offset(0), event: None };
    let columns = columns.into_iter().map(|(data, nulls)| Column { data, nulls: nulls.to_vec() }).collect();
    Rows {
        tables: Arc::new([Table { name: table.to_owned(), columns: specs.iter().map(spec).collect() }]),
        parts: vec![Part { table: 0, columns }],
        order: (0..).take(count).map(|row| RowRef { part: 0, row, origin }).collect(),
    }
}

/// Rows of the seed's table: id of session and user, pages.
fn sessions(sessions: &[(i64, Vec<String>)]) -> Rows {
    let specs = [
        ("session_id", ColumnType::Integer, true),
        ("user_id", ColumnType::Integer, true),
        ("pages", ColumnType::TextList, false),
    ];
    let ids: Vec<i64> = sessions.iter().map(|s| s.0).collect();
    let pages: Vec<&String> = sessions.iter().flat_map(|s| &s.1).collect();
    let mut end = 0;
    let ends = sessions.iter().map(|s| {
        end += u32::try_from(s.1.len()).expect("few");
        end
    });
    let lists = ColumnData::TextLists { items: texts(&pages), ends: ends.collect() };
    let columns = vec![(ColumnData::Integers(ids.clone()), &[][..]), (ColumnData::Integers(ids), &[]), (lists, &[])];
    rows("sessions", &specs, columns, sessions.len())
}

fn pages(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Rows with a text as key and a JSON document.
fn documents(ids: &[&str], documents: &[&str], null_ids: &[u32]) -> Rows {
    let specs = [("id", ColumnType::Text, true), ("doc", ColumnType::Json, false)];
    let columns = vec![(ColumnData::Texts(texts(ids)), null_ids), (ColumnData::Json(texts(documents)), &[][..])];
    rows("documents", &specs, columns, ids.len())
}

#[test]
fn rows_of_every_type_are_written_and_read_back() {
    let Some(port) = crate::cassandra() else { return };
    let mut place = Place::new(port, port, "every_type");
    place.config.now = vec!["ingestion_time".to_owned()];
    place.create(
        "\"Things\" (id bigint PRIMARY KEY, yes boolean, ratio double, at timestamp, name text, bytes blob, pages list<text>, \
         \"frozenPages\" frozen<list<text>>, counts list<bigint>, doc map<text, int>, text_doc text, more int, ingestion_time timestamp)",
    );
    use ColumnType::{Blob, Boolean, Float, Integer, IntegerList, Json, Text, TextList, Timestamp};
    let names = ["id", "yes", "ratio", "at", "name", "bytes", "pages", "frozenPages", "counts", "doc", "text_doc"];
    let kinds = [Integer, Boolean, Float, Timestamp, Text, Blob, TextList, TextList, IntegerList, Json, Json];
    let specs: Vec<_> = names.into_iter().zip(kinds).map(|(name, kind)| (name, kind, name == "id")).collect();
    let mut bytes = ByteColumn::default();
    [&b"\x00\xff"[..], b""].iter().for_each(|item| bytes.push(item));
    let lists = || ColumnData::TextLists { items: texts(&["A", "A", ""]), ends: vec![3, 3] };
    let null = &[1][..];
    let columns = vec![
        (ColumnData::Integers(vec![i64::MIN, 2]), &[][..]),
        (ColumnData::Booleans(vec![1, 0]), null),
        (ColumnData::Floats(vec![0.1, 0.0]), null),
        (ColumnData::Timestamps(vec![1_727_873_719_148, 0]), null),
        (ColumnData::Texts(texts(&["größer", ""])), null),
        (ColumnData::Blobs(bytes), null),
        (lists(), null),
        (lists(), null),
        (ColumnData::IntegerLists { items: vec![i64::MAX, -1], ends: vec![2, 2] }, null),
        (ColumnData::Json(texts(&["{\"a\": 1, \"b\": -2}", "{}"])), null),
        (ColumnData::Json(texts(&["{\"a\": 1}", "{}"])), null),
    ];
    let rows = rows("Things", &specs, columns, 2);
    assert_eq!(place.sink(&rows).write(&rows, &Host).expect("writes"), []);
    let quoted = |name: &str| place.tables.rows(&place.keyspace, "\"Things\"", &[name]);
    let column = |name: &str| -> Vec<Value> {
        let column = if name == "frozenPages" { "\"frozenPages\"" } else { name };
        quoted(column).iter().map(|row| row[column].clone()).collect()
    };
    let null_and = |value: Value| {
        let mut both = vec![value, Value::Null];
        both.sort_by_key(Value::to_string);
        both
    };
    let check = |name: &str, expect: Value| {
        let mut got = column(name);
        got.sort_by_key(Value::to_string);
        assert_eq!(got, null_and(expect), "{name}");
    };
    check("yes", json!(true));
    check("ratio", json!("Double(0.1)"));
    check("at", json!(1_727_873_719_148_i64));
    check("name", json!("größer"));
    check("bytes", json!("Blob([0, 255])"));
    check("pages", json!(["A", "A", ""]));
    check("frozenPages", json!(["A", "A", ""]));
    check("counts", json!([i64::MAX, -1]));
    check("doc", json!("Map([(Text(\"a\"), Int(1)), (Text(\"b\"), Int(-2))])"));
    check("text_doc", json!("{\"a\": 1}"));
    let times = column("ingestion_time");
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis())
        .expect("before the year 292 million");
    assert!(times.iter().all(|t| t.as_i64().is_some_and(|t| (now - t).abs() < 600_000)), "{times:?}");
}

#[test]
fn no_page_is_doubled_however_often_and_fast_a_row_is_written() {
    let Some(port) = crate::cassandra() else { return };
    let place = Place::new(port, port, "doubling");
    place.create(SESSIONS);
    let batch: Vec<_> = (0..20).map(|id| (id, pages(&["A", "B", "A"]))).collect();
    let rows = sessions(&batch);
    let mut sink = place.sink(&rows);
    for _ in 0..50 {
        assert_eq!(sink.write(&rows, &Host).expect("writes"), []);
    }
    let found = place.tables.sessions(&place.keyspace);
    assert_eq!(found.len(), 20);
    assert!(found.iter().all(|row| row["pages"] == json!(["A", "B", "A"])), "{found:?}");
}

#[test]
fn the_last_row_of_a_primary_key_wins() {
    let Some(port) = crate::cassandra() else { return };
    let place = Place::new(port, port, "last_wins");
    place.create(SESSIONS);
    let batch: Vec<_> = (0..1000).map(|i| (i % 7, vec![format!("page {i}")])).collect();
    let rows = sessions(&batch);
    place.sink(&rows).write(&rows, &Host).expect("writes");
    let mut found = place.tables.sessions(&place.keyspace);
    found.sort_by_key(|row| row["session_id"].as_i64());
    let last: Vec<Value> = found.iter().map(|row| row["pages"][0].clone()).collect();
    assert_eq!(last, ["page 994", "page 995", "page 996", "page 997", "page 998", "page 999", "page 993"]);
}

#[test]
fn a_row_that_the_database_refuses_comes_back_with_its_reason_and_the_others_are_written() {
    let Some(port) = crate::cassandra() else { return };
    let place = Place::new(port, port, "refused_rows");
    place.create("documents (id text PRIMARY KEY, doc map<text, int>)");
    let long = "x".repeat(70_000);
    let rows = documents(
        &["first", &long, "none", "other type", "no json", "last"],
        &["{\"a\":1}", "{}", "{}", "[1]", "{oops", "{\"a\":2}"],
        &[2],
    );
    let mut sink = place.sink(&rows);
    for _ in 0..2 {
        let refusals = sink.write(&rows, &Host).expect("goes on");
        let refused: Vec<usize> = refusals.iter().map(|r| r.row.row as usize).collect();
        assert_eq!(refused, [1, 2, 3, 4], "{:?}", refusals.iter().map(|r| &r.reason).collect::<Vec<_>>());
        assert_eq!(refusals[2].json, "{\"table\":\"documents\",\"id\":\"other type\",\"doc\":[1]}");
    }
    let ids = place.tables.rows(&place.keyspace, "documents", &["id"]);
    assert_eq!(ids.iter().map(|row| &row["id"]).collect::<Vec<_>>(), ["first", "last"]);
}

#[test]
fn what_is_missing_is_refused_at_once_with_the_table_that_would_fit() {
    let Some(port) = crate::cassandra() else { return };
    let place = Place::new(port, port, "without_table");
    let create = "CREATE TABLE without_table.sessions (session_id bigint, user_id bigint, pages list<text>, PRIMARY KEY (session_id, user_id))";
    let tables = sessions(&[]).tables;
    let error = place.refused(&tables);
    assert_eq!(error.exit, Exit::Outside);
    assert_eq!(error.to_string(), format!("table without_table.sessions does not exist; create it: {create}"));
    place.tables.execute(create);
    assert!(place.open(&tables, None).is_ok(), "the printed table fits");

    let mut place = place;
    place.config.keyspace = "nowhere".to_owned();
    let error = place.refused(&tables);
    assert_eq!(error.exit, Exit::Outside);
    assert!(
        error
            .to_string()
            .starts_with(&format!("keyspace nowhere does not exist on 127.0.0.1:{port}; create it and its tables: ")),
        "{error}"
    );
}

#[test]
fn a_table_that_does_not_fit_is_refused_by_column_and_type() {
    let Some(port) = crate::cassandra() else { return };
    let mut place = Place::new(port, port, "misfits");
    let tables = sessions(&[]).tables;
    let mut check = |table: &str, now: &[&str], expect: &str| {
        place.tables.execute(&format!("DROP TABLE IF EXISTS {}.sessions", place.keyspace));
        place.create(&format!("sessions ({table})"));
        place.config.now = now.iter().map(|n| (*n).to_owned()).collect();
        let error = place.refused(&tables).to_string();
        assert!(error.contains(expect), "{error}");
    };
    let key = "PRIMARY KEY (session_id, user_id)";
    check(
        &format!("session_id bigint, user_id bigint, {key}"),
        &[],
        "column pages is missing: the plugin declares text-list, which needs list<text>",
    );
    check(
        &format!("session_id bigint, user_id int, pages list<bigint>, {key}"),
        &[],
        "column user_id is int, but the plugin declares integer, which needs bigint; \
         column pages is list<bigint>, but the plugin declares text-list, which needs list<text>",
    );
    check(
        "session_id bigint, user_id bigint, pages list<text>, PRIMARY KEY (user_id)",
        &[],
        "the primary key is (user_id), but must be (session_id, user_id)",
    );
    check(
        &format!("session_id bigint, user_id bigint, pages list<text>, {key}"),
        &["ingestion_time"],
        "column ingestion_time is missing: `sink.cql.now` names it, which needs timestamp",
    );
    check(
        "session_id bigint, user_id bigint, pages list<text>, at timestamp, PRIMARY KEY (session_id, user_id, at)",
        &["at"],
        "sink.cql.now: column at is in the primary key of misfits.sessions",
    );
    check(
        &format!("session_id bigint, user_id bigint, visits counter, {key}"),
        &[],
        "column visits is a counter: rewriting a row would increment it again",
    );
}

#[test]
fn a_table_that_changes_under_the_sink_halts_it_and_sends_no_row_to_the_dead_letters() {
    let Some(port) = crate::cassandra() else { return };
    let place = Place::new(port, port, "changes");
    place.create(SESSIONS);
    let rows = sessions(&[(1, pages(&["A"])), (2, pages(&["B"]))]);
    let mut sink = place.sink(&rows);
    sink.write(&rows, &Host).expect("writes");
    place.tables.execute("ALTER TABLE changes.sessions DROP pages");
    let error = sink.write(&rows, &Host).expect_err("halts");
    assert!(error.to_string().contains("column pages is missing"), "{error}");

    place.tables.execute("ALTER TABLE changes.sessions ADD pages list<text>");
    let mut sink = place.sink(&rows);
    sink.write(&rows, &Host).expect("writes");
    place.tables.execute("DROP TABLE changes.sessions");
    let error = sink.write(&rows, &Host).expect_err("halts");
    assert_eq!(error.exit, Exit::Outside);
    assert!(error.to_string().starts_with("table changes.sessions does not exist; "), "{error}");
}

#[test]
fn an_outage_in_the_middle_of_a_batch_is_waited_out_and_nothing_is_lost_or_doubled() {
    let Some(port) = crate::cassandra() else { return };
    let wire = Wire::to(port);
    let place = Place::new(port, wire.port, "outage_of_the_sink");
    place.create(SESSIONS);
    let batch: Vec<_> = (0..20_000).map(|id| (id, pages(&["A", "B"]))).collect();
    let rows = sessions(&batch);
    let mut sink = place.sink(&rows);
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| sink.write(&rows, &Host).map_err(|error| error.to_string()));
        let deadline = Instant::now() + Duration::from_secs(120);
        for written in [1, 5_000] {
            while place.tables.sessions(&place.keyspace).len() < written {
                assert!(Instant::now() < deadline, "rows arrive");
            }
            assert!(!writer.is_finished(), "the batch is under way");
            wire.cut();
            wire.mend();
        }
        assert_eq!(writer.join().expect("does not panic"), Ok(Vec::new()));
    });
    let found = place.tables.sessions(&place.keyspace);
    assert_eq!(found.len(), 20_000);
    assert!(found.iter().all(|row| row["pages"] == json!(["A", "B"])), "no page is doubled");
}

#[test]
fn i8_rows_of_a_replaced_host_that_was_cut_off_never_replace_those_of_its_successor() {
    let Some(port) = crate::cassandra() else { return };
    let wire = Wire::to(port);
    let place = Place::new(port, wire.port, "replaced_host");
    let near = Place::new(port, port, "replaced_host_near");
    place.create(SESSIONS);
    let config = config::CqlSink { keyspace: place.keyspace.clone(), ..near.config.clone() };
    let rows = |page: &str| sessions(&(0..100).map(|id| (id, pages(&[page]))).collect::<Vec<_>>());
    // The successor's clock is behind.
    let (early, late) = (Arc::new(ManualClock::new(now_ms())), Arc::new(ManualClock::new(now_ms() - 60_000)));
    let disk = MemoryDisk::default();
    let begin = |clock: &Arc<ManualClock>| -> Tenure {
        let (journal, _) = Journal::over(Arc::new(disk.open("log/lanes/topic"))).expect("it is readable");
        journal.tenure(clock.clone()).expect("it is readable")
    };
    let first = begin(&early);
    let mut cut_off = place.sink(&rows("first"));
    assert_eq!(cut_off.write(&rows("first"), &first).expect("writes"), []);
    wire.cut();
    std::thread::scope(|threads| {
        let retries = threads.spawn(|| cut_off.write(&rows("late"), &first));
        let second = begin(&late);
        let mut successor = sink::open(&config::Sink::Cql(config), &rows("").tables, near.runtime.handle(), None)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(successor.write(&rows("second"), &second).expect("writes"), []);
        wire.mend();
        assert_eq!(retries.join().expect("does not panic").expect("its timestamps were reserved"), []);
    });
    let found = place.tables.sessions(&place.keyspace);
    assert_eq!(found.len(), 100);
    assert!(found.iter().all(|row| row["pages"] == json!(["second"])), "{:?}", found[0]);
    early.advance(Duration::from_secs(11));
    let error = cut_off.write(&rows("too late"), &first).expect_err("it was replaced");
    assert_eq!(error.exit, Exit::State);
    assert!(error.to_string().contains("another host has taken over this lane"), "{error}");
    wire.cut();
    let error = cut_off.write(&rows("too late"), &first).expect_err("it does not retry for ever");
    assert_eq!(error.exit, Exit::State);
}

#[test]
fn an_unavailable_database_is_waited_for_at_the_start_until_the_deadline() {
    let Some(port) = crate::cassandra() else { return };
    let wire = Wire::to(port);
    let place = Place::new(port, wire.port, "late_start");
    place.create(SESSIONS);
    let tables = sessions(&[]).tables;
    wire.cut();
    let error = place.open(&tables, Some(Instant::now() + Duration::from_secs(1))).err().expect("it is unavailable");
    assert_eq!(error.exit, Exit::Outside);
    let expect = format!("cannot reach any of sink.cql.nodes (127.0.0.1:{}): ", wire.port);
    assert!(error.to_string().starts_with(&expect), "{error}");
    std::thread::scope(|threads| {
        let opens = threads.spawn(|| place.open(&tables, Some(Instant::now() + Duration::from_secs(120))).map(drop));
        wire.mend();
        assert!(opens.join().expect("does not panic").is_ok());
    });
}

/// Places of all rows.
fn all(rows: &Rows) -> Vec<usize> {
    (0..rows.len()).collect()
}

fn images(sink: &mut dyn Sink, rows: &Rows) -> Vec<Image> {
    sink.images(rows, &all(rows)).unwrap_or_else(|error| panic!("{error}"))
}

fn restore(sink: &mut dyn Sink, images: &[Image]) {
    sink.restore(images, &Host).unwrap_or_else(|error| panic!("{error}"));
}

/// What plugins cannot declare, beside what they can.
const EVERYTHING: &[(&str, &str)] = &[
    ("id", "bigint"),
    ("nr", "bigint"),
    ("yes", "boolean"),
    ("ratio", "double"),
    ("at", "timestamp"),
    ("name", "text"),
    ("bytes", "blob"),
    ("pages", "list<text>"),
    ("\"frozenPages\"", "frozen<list<text>>"),
    ("counts", "list<bigint>"),
    ("frozen_counts", "frozen<list<bigint>>"),
    ("tags", "set<text>"),
    ("per_day", "map<timestamp, double>"),
    ("place", "place"),
    ("frozen_place", "frozen<place>"),
    ("deep", "map<text, frozen<tuple<int, set<double>, place>>>"),
    ("text_doc", "text"),
    ("ingestion_time", "timestamp"),
    ("price", "decimal"),
    ("big", "varint"),
    ("spent", "duration"),
    ("host", "inet"),
    ("day", "date"),
    ("clock", "time"),
    ("uid", "uuid"),
    ("tid", "timeuuid"),
    ("pair", "tuple<int, text>"),
    ("vec", "vector<float, 3>"),
    ("small", "smallint"),
    ("tiny", "tinyint"),
    ("single", "float"),
    ("letters", "ascii"),
    ("notes", "set<int>"),
    ("team", "text static"),
];

/// Rows (1, nr) of [`EVERYTHING`] with extreme values, in which `shift` turns each into another row's.
fn everything(shift: usize) -> Rows {
    use ColumnType::{Blob, Boolean, Float, Integer, IntegerList, Json, Text, TextList, Timestamp};
    let ratios = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MAX, 5e-324, 0.1 + 0.2, 0.0];
    let times =
        [-1, 0, i64::MIN, i64::MAX, -62_198_755_200_000, -12_219_292_800_001, 1_727_873_719_148, 253_402_300_800_000];
    let names = ["", "größer", "\"quoted\" 'twice'", "\u{0}\n\t\\", "日本🦀", "\u{feff}", "null", "{}"];
    let docs = ["[]", "[\"\"]", "[\"b\", \"a\"]", "null", "[\"🦀\"]", "[\"x\"]", "[\"y\"]", "[\"z\"]"];
    let days = [
        "{}",
        "{\"0\": 1.5}",
        "{\"-1\": -0.0}",
        "null",
        "{\"9\": 1e300}",
        "{\"1\": 5e-324}",
        "{\"2\": 0.1}",
        "{\"3\": 7}",
    ];
    let place = "{\"city\": \"Köln\", \"code\": null, \"tags\": [\"a\", \"\"]}";
    let places = [place, "null", "{}", "{\"city\": \"\"}", place, "{\"code\": -1}", "null", "{\"tags\": []}"];
    let deep = "{\"k\": [1, [0.5, 1e-300], {\"city\": \"x\"}], \"\": [null, [], null]}";
    let deeps = [deep, "{}", "null", deep, "{\"a\": [1, null, null]}", "{}", deep, "null"];
    fn turned<T: Clone, const N: usize>(mut items: [T; N], shift: usize) -> Vec<T> {
        items.rotate_left(shift % N);
        items.to_vec()
    }
    let json = |items: [&str; 8]| ColumnData::Json(texts(&turned(items, shift)));
    let mut bytes = ByteColumn::default();
    let blobs = [&b""[..], b"\0", b"\xff\xfe", b"text", b"\0\0\0\x01", b"a", b"b", b"c"];
    turned(blobs, shift).into_iter().for_each(|item| bytes.push(item));
    let lists =
        || ColumnData::TextLists { items: texts(&["A", "A", "", "ü", "A"]), ends: vec![0, 2, 3, 3, 4, 5, 5, 5] };
    let numbers =
        || ColumnData::IntegerLists { items: vec![i64::MIN, 0, 0, i64::MAX], ends: vec![1, 1, 3, 4, 4, 4, 4, 4] };
    // What is null before has values afterwards, and the other way round.
    let nulls: &[u32] = if shift == 0 { &[5] } else { &[4] };
    let columns = vec![
        (ColumnData::Integers(vec![1; 8]), &[][..]),
        (ColumnData::Integers((0..8).collect()), &[]),
        (ColumnData::Booleans(turned([0, 1, 0, 1, 0, 1, 0, 1], shift)), nulls),
        (ColumnData::Floats(turned(ratios, shift)), nulls),
        (ColumnData::Timestamps(turned(times, shift)), nulls),
        (ColumnData::Texts(texts(&turned(names, shift))), nulls),
        (ColumnData::Blobs(bytes), nulls),
        (lists(), nulls),
        (lists(), nulls),
        (numbers(), nulls),
        (numbers(), nulls),
        (json(docs), nulls),
        (json(days), nulls),
        (json(places), nulls),
        (json(places), nulls),
        (json(deeps), nulls),
        (json(docs), nulls),
    ];
    let kinds = [Integer, Integer, Boolean, Float, Timestamp, Text, Blob, TextList, TextList, IntegerList, IntegerList];
    let kinds = kinds.into_iter().chain([Json; 6]);
    let unquoted = EVERYTHING.iter().map(|(name, _)| name.trim_matches('"'));
    let specs: Vec<_> = unquoted.zip(kinds).map(|(name, kind)| (name, kind, matches!(name, "id" | "nr"))).collect();
    rows("Things", &specs, columns, 8)
}

#[test]
fn rows_of_every_type_are_put_back_as_they_were_and_new_ones_are_deleted() {
    let Some(port) = crate::cassandra() else { return };
    let mut place = Place::new(port, port, "images_of_every_type");
    place.config.now = vec!["ingestion_time".to_owned()];
    place.tables.execute("CREATE TYPE images_of_every_type.place (city text, code int, tags frozen<list<text>>)");
    let columns: Vec<String> = EVERYTHING.iter().map(|(name, cql_type)| format!("{name} {cql_type}")).collect();
    place.create(&format!("\"Things\" ({}, PRIMARY KEY (id, nr))", columns.join(", ")));
    let all_columns: Vec<&str> = EVERYTHING.iter().map(|(name, _)| *name).collect();
    let found = || place.tables.rows(&place.keyspace, "\"Things\"", &all_columns);

    let mut before = everything(0);
    before.order.truncate(6);
    let mut sink = place.sink(&before);
    assert_eq!(sink.write(&before, &Host).expect("writes"), []);
    let update = "UPDATE images_of_every_type.\"Things\" SET";
    for nr in [0, 5] {
        place.tables.execute(&format!(
            "{update} price = 1.50, big = -123456789012345678901234567890, spent = -1mo2d3ns, host = '::1', day = '-5877641-06-23', \
             clock = '23:59:59.999999999', uid = 5b6962dd-3f90-4c93-8f61-eabfa4a803e2, tid = 50554d6e-29bb-11e5-b345-feff819cdc9f, \
             pair = (1, null), vec = [1.5, NaN, -0.0], small = -32768, tiny = 127, single = Infinity, letters = '~', notes = {{3, 1}} \
             WHERE id = 1 AND nr = {nr}"
        ));
    }
    place.tables.execute("INSERT INTO images_of_every_type.\"Things\" (id, team) VALUES (1, 'before')");
    let first = found();
    assert_eq!(first.len(), 6);

    let after = everything(1);
    let taken = images(&mut *sink, &after);
    assert_eq!(
        taken.iter().map(|image| image.row.is_some()).collect::<Vec<_>>(),
        [[true; 6].as_slice(), &[false; 2]].concat()
    );
    assert_eq!(sink.write(&after, &Host).expect("writes"), []);
    place.tables.execute(&format!("{update} price = 1.5, notes = {{9}}, per_day = null WHERE id = 1 AND nr = 0"));
    let second = found();
    assert_eq!(second.len(), 8);
    assert!(first.iter().all(|row| !second.contains(row)), "each row was changed");
    place.tables.execute("INSERT INTO images_of_every_type.\"Things\" (id, team) VALUES (1, 'after')");
    for _ in 0..20 {
        restore(&mut *sink, &taken);
    }
    let mut expect = first.clone();
    expect.iter_mut().for_each(|row| row["team"] = json!("after"));
    assert_eq!(found(), expect, "all but the static column, which is not the rows'");
    assert_eq!(images(&mut *sink, &after), taken);

    sink.write(&after, &Host).expect("writes");
    restore(&mut *sink, &taken);
    assert_eq!(images(&mut *sink, &after), taken, "as often as it is written");
}

#[test]
fn keys_of_every_type_find_their_rows() {
    let Some(port) = crate::cassandra() else { return };
    let place = Place::new(port, port, "images_of_keys");
    place.create(
        "\"Things\" (id bigint, nr bigint, yes boolean, ratio double, at timestamp, name text, bytes blob, pages frozen<list<text>>, \
         counts frozen<list<bigint>>, note text, PRIMARY KEY ((pages, ratio, name, nr), at, yes, counts, bytes, id))",
    );
    let mut rows = everything(0);
    let mut tables = rows.tables.to_vec();
    let keep = ["id", "nr", "yes", "ratio", "at", "name", "bytes", "pages", "counts"];
    let kept: Vec<usize> =
        (0..tables[0].columns.len()).filter(|&i| keep.contains(&tables[0].columns[i].name.as_str())).collect();
    tables[0].columns = kept.iter().map(|&i| tables[0].columns[i].clone()).collect();
    tables[0].columns.iter_mut().for_each(|column| column.primary_key = true);
    rows.tables = tables.into();
    rows.parts[0].columns = kept.iter().map(|&i| rows.parts[0].columns[i].clone()).collect();
    let mut sink = place.sink(&rows);

    let nothing = images(&mut *sink, &rows);
    assert_eq!(nothing.len(), 7, "but for the row with nulls");
    assert!(nothing.iter().all(|image| image.row.is_none()));
    assert_eq!(sink.write(&rows, &Host).expect("writes").len(), 1, "the row with nulls is refused");
    let found = || place.tables.rows(&place.keyspace, "\"Things\"", &["nr", "ratio", "at", "bytes", "note"]);
    let (first, taken) = (found(), images(&mut *sink, &rows));
    assert_eq!(first.len(), 7);
    assert!(taken.iter().all(|image| image.row.is_some()), "keys are read back as they were written: {taken:?}");
    restore(&mut *sink, &taken);
    assert_eq!(found(), first);
    restore(&mut *sink, &nothing);
    assert_eq!(found(), [Value::Null; 0]);
    restore(&mut *sink, &taken);
    assert_eq!(found(), first, "a row of nothing but its key is there again");
}

#[test]
fn a_sink_that_never_wrote_restores_what_another_has_read() {
    let Some(port) = crate::cassandra() else { return };
    let place = Place::new(port, port, "images_elsewhere");
    place.create(SESSIONS);
    place.create("documents (id text PRIMARY KEY, doc map<text, int>)");
    let rows = documents(&["a", "b", "", &"x".repeat(70_000)], &["{\"a\": 1}", "{}", "{}", "{}"], &[]);
    let mut first = place.sink(&rows);
    first.write(&rows, &Host).expect("writes");
    let found = || place.tables.rows(&place.keyspace, "documents", &["id", "doc"]);
    let (before, mut taken) = (found(), images(&mut *first, &rows));
    assert_eq!(taken.len(), 2, "keys that the database cannot hold have no image");
    assert_eq!(before.len(), 2);
    first.write(&documents(&["b", "a"], &["{\"a\": 2}", "null"], &[]), &Host).expect("writes");
    taken.push(Image { row: None, ..taken[0].clone() });
    let text = serde_json::to_string(&taken).expect("images are kept as JSON");
    let taken: Vec<Image> = serde_json::from_str(&text).expect("and read back");

    place.tables.execute("ALTER TABLE images_elsewhere.documents ADD since text");
    place.tables.execute("UPDATE images_elsewhere.documents SET since = 'now' WHERE id = 'a'");
    let mut second = place.open(&sessions(&[]).tables, None).unwrap_or_else(|error| panic!("{error}"));
    restore(&mut *second, &taken);
    assert_eq!(found(), before, "the first image of a key counts");
    let since: Vec<Value> = place.tables.rows(&place.keyspace, "documents", &["since"]);
    assert!(since.iter().any(|row| row["since"] == "now"), "a column that came later is left alone");
}

#[test]
fn a_column_that_came_with_the_next_plugin_is_in_the_images_of_its_rows() {
    let Some(port) = crate::cassandra() else { return };
    let place = Place::new(port, port, "images_column");
    place.create("documents (id text PRIMARY KEY, doc text)");
    let rows_before = documents(&["a"], &["{}"], &[]);
    let mut sink = place.sink(&rows_before);
    sink.write(&rows_before, &Host).expect("writes");
    images(&mut *sink, &rows_before);
    place.tables.execute("ALTER TABLE images_column.documents ADD title text");
    let found = || place.tables.rows(&place.keyspace, "documents", &["id", "doc", "title"]);
    let before = found();
    let specs = [("id", ColumnType::Text, true), ("title", ColumnType::Text, false)];
    let columns = ["a", "A"].map(|text| (ColumnData::Texts(texts(&[text])), &[][..]));
    let rows_after = rows("documents", &specs, columns.into(), 1);
    let taken = images(&mut *sink, &rows_after);
    sink.write(&rows_after, &Host).expect("writes");
    assert_ne!(found(), before);
    restore(&mut *sink, &taken);
    assert_eq!(found(), before);
}

#[test]
fn a_failed_restore_halts_and_names_the_table_and_the_key() {
    let Some(port) = crate::cassandra() else { return };
    let place = Place::new(port, port, "images_refused");
    place.create("documents (id text PRIMARY KEY, doc map<text, int>)");
    let rows = documents(&["a"], &["{\"a\": 1}"], &[]);
    let mut sink = place.sink(&rows);
    sink.write(&rows, &Host).expect("writes");
    let taken = images(&mut *sink, &rows);
    let check = |sink: &mut dyn Sink, images: &[Image], expect: &str| {
        let error = sink.restore(images, &Host).expect_err("halts");
        assert_eq!(error.exit, Exit::Outside);
        assert!(error.to_string().contains(expect), "{error}");
    };
    let place_of = "sink.cql: cannot put back the row of table documents with key {\"id\":\"a\"}: ";
    let of_another = Image { row: Some("{\"sqlite\":[]}".to_owned()), ..taken[0].clone() };
    check(&mut *sink, &[of_another], &format!("{place_of}the image is not from this kind of sink"));
    let broken = Image { row: Some("{\"cql\":{\"id\":\"YQ==\",\"doc\":\"YQ==\"}}".to_owned()), ..taken[0].clone() };
    check(&mut *sink, &[broken], place_of);
    place.tables.execute("ALTER TABLE images_refused.documents DROP doc");
    let error = sink.images(&rows, &[0]).expect_err("halts").to_string();
    assert!(error.contains("column doc is missing"), "{error}");
    check(&mut *sink, &taken, &format!("{place_of}the table no longer has column doc"));
    place.tables.execute("DROP TABLE images_refused.documents");
    check(&mut *sink, &taken, "table images_refused.documents no longer exists");
}

#[test]
fn images_are_read_with_each_consistency_of_writes() {
    let Some(port) = crate::cassandra() else { return };
    let mut place = Place::new(port, port, "images_consistency");
    place.create(SESSIONS);
    let rows = sessions(&[(1, pages(&["A"]))]);
    for consistency in ["ANY", "EACH_QUORUM", "QUORUM", "LOCAL_ONE", "ALL"] {
        place.config.consistency = consistency.to_owned();
        let mut sink = place.sink(&rows);
        sink.write(&rows, &Host).expect("writes");
        assert!(images(&mut *sink, &rows)[0].row.is_some(), "{consistency}");
    }
}

#[test]
fn an_outage_while_rows_are_read_and_put_back_is_waited_out_and_nothing_is_lost_or_doubled() {
    let Some(port) = crate::cassandra() else { return };
    let wire = Wire::to(port);
    let place = Place::new(port, wire.port, "outage_of_images");
    place.create(SESSIONS);
    let count = 20_000;
    let batch =
        |page: &str, ids: std::ops::Range<i64>| sessions(&ids.map(|id| (id, pages(&[page, "B"]))).collect::<Vec<_>>());
    let (before, after) = (batch("A", 0..count), batch("C", 1_000..count + 1_000));
    let mut sink = place.sink(&before);
    sink.write(&before, &Host).expect("writes");
    let taken = wire.cut_into(|| images(&mut *sink, &after));
    assert_eq!(taken.iter().filter(|image| image.row.is_none()).count(), 1_000);
    assert_eq!(taken.len(), 20_000);
    sink.write(&after, &Host).expect("writes");
    wire.cut_into(|| restore(&mut *sink, &taken));
    let found = place.tables.sessions(&place.keyspace);
    assert_eq!(found.len(), 20_000);
    assert!(found.iter().all(|row| row["pages"] == json!(["A", "B"])), "all are what they were");
}
