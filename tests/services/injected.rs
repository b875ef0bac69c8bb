//! Names that are more than names, on a real CQL database: tables and columns as a plugin declares them, keyspaces and columns as the configuration
//! names them. Each is refused before the database is asked, or is a name there and nothing else. What else is in the keyspace stays as it is.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::forge::{DESCRIBED, Described, described};
use crate::support::generate::{START_MS, TestRecord, write_records};
use crate::support::host::{Outcome, Pipeline};
use crate::support::settings::Settings;
use crate::tables::Tables;

const KEYSPACE: &str = "injected";

/// What ends a quoted name or a literal, and goes on with a statement of its own.
const CQL: [&str; 6] = [
    "x\"; DROP TABLE injected.victim; --",
    "x\") VALUES ('a', 1, 1, ['x']); DROP TABLE injected.victim; --",
    "x'; DROP TABLE injected.victim; --",
    "\" text PRIMARY KEY); DROP TABLE injected.victim; //",
    "x /* ? */ = ? \\\" : $$ ; %s",
    "\"",
];
/// What is a name only in quotes, or only in some databases.
const ODD: [&str; 6] = ["Upper", "select", "token", "0", "größer 日本", "with  spaces"];
/// A plugin's names have at most this many characters; CQL's tables long had at most 48.
const LONGEST: usize = 100;

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Four events, of which two have the same key and time; the last makes timers due that these may have set.
fn events() -> Vec<TestRecord> {
    let record = |(offset, key, time): (u64, &str, i64)| {
        let value = json!({"key": key, "time": START_MS + time, "v": offset + 1_000}).to_string().into_bytes();
        TestRecord { partition: 0, offset, timestamp: START_MS + time, key: None, value: Some(value) }
    };
    [(0, "a", 0), (1, "b", 1_000), (2, "b", 1_000), (3, "c", 30_000)].map(record).into()
}

/// A pipeline of a plugin with this table, into this keyspace, whose columns `now` the host fills.
fn pipeline(port: u16, keyspace: &str, table: (&str, [&str; 4]), now: &[&str]) -> Pipeline {
    let text = |text: &str| toml::Value::from(text).to_string();
    let now: Vec<String> = now.iter().map(|name| text(name)).collect();
    let sink = format!(
        "[sink.cql]\nnodes = [\"127.0.0.1:{port}\"]\nkeyspace = {}\nnow = [{}]\nconsistency = \"ONE\"",
        text(keyspace),
        now.join(", ")
    );
    let plugin = "component = \"attack.wasm\"\nprobation = \"1h\"".to_owned();
    let pipeline = Pipeline::new(&Settings { plugin, sink, ..Settings::default() }.to_toml());
    pipeline.write("attack.wasm", &described(&Described { table, ..DESCRIBED }));
    write_records(&pipeline.path("log.ndjson"), &events());
    pipeline
}

#[track_caller]
fn assert_calm(outcome: &Outcome) {
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!said.contains("panicked") && outcome.code != Some(1), "{:?}: {said}", outcome.code);
}

/// The statement that a check prints for a table that is missing.
fn statement(pipeline: &Pipeline) -> String {
    let checked = pipeline.call("check", &["--output", "json"]);
    assert_calm(&checked);
    let document: Value = serde_json::from_str(&checked.expect_code(3).stdout).expect("a document");
    let findings = document["findings"].as_array().expect("they are a list");
    let missing = findings.iter().find(|found| found["id"] == "table-missing").unwrap_or_else(|| panic!("{document}"));
    let found = missing["found"].as_str().expect("it is text");
    found.split_once("create it: ").expect("it says how").1.to_owned()
}

/// The ids of the tables in the keyspace: one that was dropped and created again has another.
fn tables(database: &Tables) -> BTreeMap<String, Value> {
    let rows = database.rows("system_schema", "tables", &["keyspace_name", "table_name", "id"]);
    let rows = rows.iter().filter(|row| row["keyspace_name"] == KEYSPACE);
    rows.map(|row| (row["table_name"].as_str().expect("it is text").to_owned(), row["id"].clone())).collect()
}

/// What must stay as it is.
fn victim(database: &Tables) {
    database.create_keyspace(KEYSPACE);
    database.execute("CREATE TABLE injected.victim (a text PRIMARY KEY, b int)");
    database.execute("INSERT INTO injected.victim (a, b) VALUES ('kept', 1)");
}

/// The rows of a table with the plugin's columns.
fn rows(database: &Tables, keyspace: &str, (table, columns): (&str, [&str; 4])) -> Vec<Vec<Value>> {
    let columns = columns.map(quoted);
    let found = database.rows(&quoted(keyspace), &quoted(table), &columns.each_ref().map(String::as_str));
    let mut rows: Vec<Vec<Value>> =
        found.iter().map(|row| columns.iter().map(|column| row[column].clone()).collect()).collect();
    rows.sort_by_key(|row| row[0].to_string());
    rows
}

/// Whether the database has tables and columns of these names. If so, rows are written to them under exactly these names, read before a
/// deployment replaces them, and put back when it is withdrawn.
fn is_a_name(database: &Tables, port: u16, table: (&str, [&str; 4]), now: &[&str]) -> bool {
    let pipeline = pipeline(port, KEYSPACE, table, now);
    let before = tables(database);
    let create = statement(&pipeline);
    pipeline.run_to_end(&[]).expect_code(3).expect_said(&["does not exist", "create it: "]);
    assert_eq!(tables(database), before, "{table:?}: what is refused changes nothing");
    if let Err(refusal) = database.try_execute(&create) {
        assert_eq!(tables(database), before, "{create}: {refusal}");
        println!("{create}: {refusal}");
        return false;
    }
    let mut after = before;
    let id = tables(database).remove(table.0);
    after.insert(table.0.to_owned(), id.unwrap_or_else(|| panic!("{create} makes it")));
    assert_eq!(tables(database), after, "{create}: one table is created, and nothing else");

    let first: Vec<Vec<Value>> = [("a", 0, 1_000), ("b", 1_000, 1_002), ("c", 30_000, 1_003)]
        .map(|(key, time, v)| vec![json!(key), json!(START_MS + time), json!(v), Value::Null])
        .into();
    for _ in 0..2 {
        pipeline.run_to_end(&[]).expect_code(0);
        assert_eq!(rows(database, KEYSPACE, table), first, "{table:?}");
        pipeline.delete_checkpoints();
    }
    for name in now {
        let column = quoted(name);
        let times = database.rows(KEYSPACE, &quoted(table.0), &[&column]);
        assert!(times.iter().all(|row| row[&column].is_i64()), "{name}: {times:?}");
    }
    assert_calm(&pipeline.call("doctor", &[]));

    if !now.is_empty() {
        replace_and_withdraw(database, port, table, now, &first);
    }
    assert_eq!(tables(database), after, "{table:?}");
    let kept = database.rows(KEYSPACE, "victim", &["a"]);
    assert_eq!(kept.len(), 1, "{kept:?}");
    true
}

/// The same log again, from the second event on by other logic, which adds a row and replaces others until it is withdrawn.
fn replace_and_withdraw(database: &Tables, port: u16, table: (&str, [&str; 4]), now: &[&str], first: &[Vec<Value>]) {
    let again = pipeline(port, KEYSPACE, table, now);
    let (marked, at) = (json!({"mode": "mark", "mark": "x"}).to_string(), (START_MS + 500).to_string());
    again.call("deployment create", &["--plugin-config", &marked, "--at", &at]).expect_code(0);
    again.run_to_end(&[]).expect_code(0);
    let replaced = rows(database, KEYSPACE, table);
    assert_eq!((replaced.len(), &replaced[0]), (4, &first[0]), "{table:?}: {replaced:?}");
    again.call("deployment withdraw", &[]).expect_code(0);
    again.run_to_end(&[]).expect_code(0);
    assert_eq!(rows(database, KEYSPACE, table), first, "{table:?}: they are put back");
}

#[test]
fn names_of_a_plugin_and_of_the_configuration_are_no_cql() {
    let Some(port) = crate::cassandra() else { return };
    let database = Tables::connect(port);
    victim(&database);
    let long = "n".repeat(LONGEST);
    let is_name = |table: &str, columns: [&str; 4], now: &[&str]| is_a_name(&database, port, (table, columns), now);

    // Tables.
    let columns = DESCRIBED.table.1;
    for table in ["Upper", "select", "token", "0"] {
        assert!(is_name(table, columns, &[]), "{table}");
    }
    // How long a name may be is up to the database.
    assert!(is_name(&long[..48], columns, &[]));
    is_name(&long[..49], columns, &[]);
    is_name(&long, columns, &[]);

    // Columns of the key and others, and those of the host.
    for (i, names) in [CQL, ODD].into_iter().enumerate() {
        for turn in [0, 3] {
            let [k, n, v, items, at, other] = [0, 1, 2, 3, 4, 5].map(|at| names[(at + turn) % names.len()]);
            assert!(is_name(&format!("columns_{i}_{turn}"), [k, n, v, items], &[at, other]), "{names:?}");
        }
    }
    is_name("long_columns", [&long, "n", "v", "items"], &[]);
}

#[test]
fn keyspaces_are_no_cql() {
    let Some(port) = crate::cassandra() else { return };
    let database = Tables::connect(port);
    let long = format!("{KEYSPACE}_{}", "n".repeat(48 - KEYSPACE.len() - 1));
    database.create_keyspace("injected_keyspaces");
    for keyspace in ["Injected", "select", &long] {
        let missing = pipeline(port, keyspace, DESCRIBED.table, &[]);
        missing.call("check", &[]).expect_code(3).expect_said(&[&format!("keyspace {keyspace} does not exist")]);
        database.create_keyspace(&quoted(keyspace));
        let pipeline = pipeline(port, keyspace, DESCRIBED.table, &[]);
        database.execute(&statement(&pipeline));
        pipeline.run_to_end(&[]).expect_code(0);
        assert_eq!(rows(&database, keyspace, DESCRIBED.table).len(), 3, "{keyspace}");
        assert_calm(&pipeline.call("doctor", &[]));
    }
    let too_long = pipeline(port, &"n".repeat(LONGEST), DESCRIBED.table, &[]);
    too_long.call("check", &[]).expect_code(3).expect_said(&["does not exist"]);
}

/// That the host refuses such names without asking is right only if no database has them.
#[test]
fn names_that_the_host_refuses_without_asking_are_refused_by_the_database_too() {
    let Some(port) = crate::cassandra() else { return };
    let database = Tables::connect(port);
    database.create_keyspace("injected_refusals");
    for name in CQL.into_iter().chain(["größer", "日本", "a b", "a.b", "a-b", "$", ""]) {
        let name = quoted(name);
        let table = format!("CREATE TABLE injected_refusals.{name} (a text PRIMARY KEY)");
        let keyspace =
            format!("CREATE KEYSPACE {name} WITH REPLICATION = {{'class': 'SimpleStrategy', 'replication_factor': 1}}");
        for statement in [table, keyspace] {
            assert!(database.try_execute(&statement).is_err(), "{statement}");
        }
    }
}
