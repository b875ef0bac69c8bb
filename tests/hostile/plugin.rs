//! The author of a plugin: code and descriptions that are to cost the host its time or memory, or to reach beyond the sandbox.

use std::net::{SocketAddr, TcpListener};

use serde_json::{Value, json};

use super::forge::{DESCRIBED, Described, LOOPS, beside, call, component, described, leb, module, section};
use super::forge::{of_many_tables, that_refuses_at_length, with_code};
use super::{assert_calm, events, hostile, measured, pipeline};
use crate::support::generate::write_records;
use crate::support::host::{Outcome, Pipeline, plugin_file};
use crate::support::rows::from_sqlite;
use crate::support::settings::Settings;

/// A component of 19 KB whose one function takes the compiler minutes and most of a gigabyte: 2,000 locals that change in 200 loops.
fn expensive() -> Vec<u8> {
    const LOCALS: usize = 2_000;
    const LOOPS: usize = 200;
    let change = |local: usize| [&[0x20][..], &leb(local), &[0x41, 1, 0x6a, 0x21], &leb(local)].concat();
    let changes: Vec<u8> = (0..LOCALS).flat_map(change).collect();
    let body = [
        &[1][..],
        &leb(LOCALS),
        &[0x7f],
        &[0x03, 0x40].repeat(LOOPS),
        &changes,
        &[0x20, 0, 0x0d, 0, 0x0b].repeat(LOOPS),
        &[0x0b],
    ]
    .concat();
    component(&module(&[
        section(1, &[1, 0x60, 0, 0]),
        section(3, &[1, 0]),
        section(10, &[&[1][..], &leb(body.len()), &body].concat()),
    ]))
}

/// Orders the expensive plugin in vain at a pipeline that has folded a log, with these keys under `[plugin]`. Its own plugin was compiled
/// before, under the limits that are usual: how long that takes is a matter of the machine.
#[track_caller]
fn too_expensive(limits: &str, why: &str) {
    let with = |limits: &str| {
        let plugin = "config = { mode = \"ok\" }\ncache = \"cache\"\nmemory = \"16MiB\"";
        let plugin = format!("component = \"{}\"\n{plugin}\n{limits}", plugin_file("hostile"));
        Settings { plugin, ..Settings::default() }.to_toml()
    };
    let pipeline = Pipeline::new(&with(""));
    write_records(&pipeline.path("log.ndjson"), &[]);
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline.configure(&with(limits));
    pipeline.write("expensive.wasm", &expensive());
    let refused = pipeline.call("deployment create", &["--dry-run", "expensive.wasm"]);
    refused.expect_code(4).expect_said(&["FAIL  plugin", why]);
}

#[test]
fn compiling_a_plugin_ends_at_the_limit_of_time() {
    too_expensive("compile_time = \"1s\"", "more than 1 s of CPU time (plugin.compile_time)");
}

#[test]
fn compiling_a_plugin_ends_at_the_limit_of_memory() {
    too_expensive("compile_memory = \"128MiB\"", "134217728 bytes of memory (plugin.compile_memory)");
}

/// A pipeline with the default configuration that has folded a log.
fn folded() -> Pipeline {
    let pipeline = pipeline(&hostile(&json!({"mode": "ok"})), &events(["a", "b", "c"]));
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline
}

/// Orders this file in vain: the plugin is named as what is wrong, in few words, and the host needs little memory for that.
#[track_caller]
fn refused(pipeline: &Pipeline, (attack, file): (&str, &[u8]), more: &[&str], words: &[&str]) -> Outcome {
    pipeline.write("attack.wasm", file);
    let command = pipeline.command("deployment create", &[&["--dry-run", "attack.wasm"], more].concat());
    let (outcome, peak) = measured(attack, pipeline.start(command));
    assert_calm(&outcome);
    outcome.expect_code(4).expect_said(&[&["FAIL  plugin"], words].concat());
    let said = outcome.stdout.len() + outcome.stderr.len();
    assert!(said < 64 << 10, "{attack}: it says {said} bytes");
    assert!(peak < 600, "{attack}: {peak} MiB");
    outcome
}

#[test]
fn loops_in_describe_configure_and_the_start_of_a_module_end_with_their_fuel() {
    let pipeline = folded();
    let of = |name: &str| with_code(&[(&call(name), LOOPS)]);
    refused(&pipeline, ("loop in describe", &of("describe")), &[], &["`describe` failed", "plugin.fuel"]);
    refused(&pipeline, ("loop in configure", &of("configure")), &[], &["`configure` failed", "plugin.fuel"]);
    let code = [&[1][..], &leb(LOOPS.len()), LOOPS].concat();
    let start = module(&[section(1, &[1, 0x60, 0, 0]), section(3, &[1, 0]), section(8, &[0]), section(10, &code)]);
    refused(&pipeline, ("loop in start", &beside(&start)), &[], &["plugin.fuel"]);
}

#[test]
fn memories_and_tables_beyond_a_plugins_share_are_refused() {
    let pipeline = folded();
    let memory = |limits: &[u8]| beside(&module(&[section(5, limits)]));
    let more = "memories";
    refused(&pipeline, ("a memory in another module", &memory(&[1, 0, 1])), &[], &[more]);
    refused(&pipeline, ("two memories in a module", &memory(&[2, 0, 1, 0, 1])), &[], &[more]);
    refused(&pipeline, ("a memory of 64 bits", &memory(&[1, 4, 1])), &[], &[]);
    refused(&pipeline, ("a memory that threads share", &memory(&[1, 3, 1, 1])), &[], &["threads"]);
    let tables = |count: usize, elements: usize| {
        let table = [&[0x70, 0][..], &leb(elements)].concat();
        beside(&module(&[section(4, &[leb(count), table.repeat(count)].concat())]))
    };
    refused(&pipeline, ("a table of ten million elements", &tables(1, 10_000_000)), &[], &["table"]);
    refused(&pipeline, ("twenty tables", &tables(20, 1)), &[], &["tables"]);
    let nothing = module(&[]);
    assert_eq!(sandboxed(&pipeline, &beside(&nothing)).code, Some(0), "what is beside it is what is refused");
}

/// Orders this file.
fn sandboxed(pipeline: &Pipeline, file: &[u8]) -> Outcome {
    pipeline.write("attack.wasm", file);
    pipeline.call("deployment create", &["--dry-run", "attack.wasm"])
}

#[test]
fn texts_of_a_plugin_are_cut_however_long_they_are() {
    let pipeline = folded();
    let long = that_refuses_at_length(200);
    refused(&pipeline, ("200 MB of refusal", &long), &[], &["refuses its configuration"]);
    refused(&pipeline, ("20,000 tables named by the same megabyte", &of_many_tables(20_000)), &[], &[]);
    let name = "n".repeat(50 << 20);
    let named = described(&Described { name: &name, ..DESCRIBED });
    refused(&pipeline, ("a name of 50 MB", &named), &[], &["more than 100 characters"]);
    let table = described(&Described { table: (&name, ["k", "n", "v", "items"]), ..DESCRIBED });
    refused(&pipeline, ("a table's name of 50 MB", &table), &[], &["more than 100 characters"]);
    let column = described(&Described { table: ("out", ["k", "n", &name, "items"]), ..DESCRIBED });
    refused(&pipeline, ("a column's name of 50 MB", &column), &[], &["more than 100 characters"]);
}

fn with_schema(schema: &Value) -> Vec<u8> {
    described(&Described { schema: &schema.to_string(), ..DESCRIBED })
}

#[test]
fn a_schema_costs_the_host_little_and_reaches_no_other_machine() {
    let pipeline = folded();
    let level = |n: i32| {
        let before = json!({"$ref": format!("#/$defs/s{}", n - 1)});
        (format!("s{n}"), if n == 0 { json!({"type": "object"}) } else { json!({"allOf": [before, before]}) })
    };
    let levels: serde_json::Map<String, Value> = (0..=30).map(level).collect();
    let doubling = with_schema(&json!({"$defs": levels, "$ref": "#/$defs/s30"}));
    refused(&pipeline, ("a schema that doubles 30 times", &doubling), &[], &["more than 200000 steps"]);

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}/schema.json", listener.local_addr().expect("it is bound"));
    let remote = with_schema(&json!({"$ref": url}));
    refused(&pipeline, ("a schema on another machine", &remote), &[], &["refers to", "only schemas in it"]);
    let meta = with_schema(&json!({"$schema": url, "$id": url, "properties": {"mode": {"type": "string"}}}));
    assert_calm(&sandboxed(&pipeline, &meta));
    listener.set_nonblocking(true).expect("it can be set");
    assert!(listener.accept().is_err(), "nobody has asked for it");
    let file = with_schema(&json!({"$ref": "file:///etc/hostname"}));
    refused(&pipeline, ("a schema in a file", &file), &[], &["refers to"]);

    for (attack, pattern) in [("ReDoS", "^(a+)+$"), ("ReDoS with a reference back", r"^(a+)+\1$")] {
        let slow = with_schema(&json!({"properties": {"mark": {"pattern": pattern}}}));
        let config = json!({"mark": format!("{}!", "a".repeat(60_000))}).to_string();
        refused(&pipeline, (attack, &slow), &["--plugin-config", &config], &["plugin.config.mark"]);
    }
}

const NAMES: [&str; 4] = [
    "x\"; DROP TABLE victim; --",
    "x\") VALUES (1); DROP TABLE victim; --",
    "x'; DROP TABLE victim; --",
    "x` ] ; DROP TABLE victim; /*",
];

#[test]
fn names_of_tables_and_columns_are_no_sql() {
    let sink = "[sink.sqlite]\npath = \"rows.db\"".to_owned();
    for (i, name) in NAMES.into_iter().enumerate() {
        let columns = [0, 1, 2, 3].map(|n| format!("{n}{}", NAMES[(i + n) % NAMES.len()]));
        let columns = columns.each_ref().map(String::as_str);
        let plugin = "component = \"attack.wasm\"".to_owned();
        let pipeline = pipeline(&Settings { plugin, sink: sink.clone(), ..Settings::default() }, &events(["a", "b"]));
        pipeline.write("attack.wasm", &described(&Described { table: (name, columns), ..DESCRIBED }));
        let database = rusqlite::Connection::open(pipeline.path("rows.db")).expect("the folder is writable");
        database.execute_batch("CREATE TABLE victim (a); INSERT INTO victim VALUES (1)").expect("valid statements");
        drop(database);
        pipeline.call("check", &[]).expect_code(0);
        for _ in 0..2 {
            pipeline.run_to_end(&[]).expect_code(0);
        }
        let database = rusqlite::Connection::open(pipeline.path("rows.db")).expect("it is there");
        let count = |table: &str| -> i64 {
            let quoted = table.replace('"', "\"\"");
            let query = format!("SELECT count(*) FROM \"{quoted}\"");
            database.query_row(&query, [], |row| row.get(0)).expect("the table is there")
        };
        assert_eq!((count(name), count("victim"), count("_keyfold_lanes")), (2, 1, 1), "{name}");
        let named: Vec<String> = database
            .prepare("SELECT name FROM pragma_table_info(?)")
            .and_then(|mut query| query.query_map([name], |row| row.get(0))?.collect())
            .expect("the table is there");
        assert_eq!(named, columns);
        assert_eq!(from_sqlite(&pipeline.path("rows.db"), "victim", &[]).len(), 1);
    }
}

/// What is no name of CQL, whether as a keyspace or as a table, besides what would end one and go on.
const NO_NAMES: [&str; 9] = [
    "",
    "ks.t",
    "a b",
    "größer",
    "日本",
    "$",
    "\"quoted\"",
    "system.peers WHERE key = ''",
    "t (a int PRIMARY KEY); //",
];

/// A pipeline of this plugin into this keyspace, which each command that would ask the database refuses.
#[track_caller]
fn refused_unasked(database: SocketAddr, keyspace: &str, more: &str, file: &[u8], (code, words): (i32, &[&str])) {
    let keyspace = toml::Value::from(keyspace);
    let sink = format!("[sink.cql]\nnodes = [\"{database}\"]\nkeyspace = {keyspace}\n{more}");
    let plugin = "component = \"attack.wasm\"".to_owned();
    let pipeline = pipeline(&Settings { plugin, sink, ..Settings::default() }, &events(["a"]));
    pipeline.write("attack.wasm", file);
    for command in ["check", "run"] {
        let (outcome, peak) =
            measured(&format!("{command}, {words:?}"), pipeline.start(pipeline.command(command, &[])));
        assert_calm(&outcome);
        outcome.expect_code(code).expect_said(words);
        assert!(peak < 600, "{peak} MiB");
    }
}

#[test]
fn names_that_are_no_names_of_cql_are_refused_before_a_database_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.set_nonblocking(true).expect("it can be set");
    let database = listener.local_addr().expect("it is bound");
    let plain = described(&DESCRIBED);
    for name in NAMES.into_iter().chain(NO_NAMES).chain(["nul\0", "\u{202e}"]) {
        refused_unasked(database, name, "", &plain, (2, &["sink.cql.keyspace: "]));
    }
    let of = |table: &str, columns: [&str; 4]| described(&Described { table: (table, columns), ..DESCRIBED });
    let columns = DESCRIBED.table.1;
    let words: [&[&str]; 4] = [
        &["the plugin's table ", "cannot be in a CQL database"],
        &["characters that cannot be printed"],
        &["has no name"],
        &["only tables of the host"],
    ];
    for name in NAMES.into_iter().chain(NO_NAMES) {
        refused_unasked(database, "ks", "", &of(name, columns), (4, words[0]));
    }
    for name in ["nul\0", "\u{202e}", "line\nbreak"] {
        refused_unasked(database, "ks", "", &of(name, columns), (4, words[1]));
        refused_unasked(database, "ks", "", &of("out", ["k", name, "v", "items"]), (4, words[1]));
    }
    refused_unasked(database, "ks", "", &of("out", ["k", "n", "", "items"]), (4, words[2]));
    for own in ["_keyfold_lanes", "_KeyFold"] {
        refused_unasked(database, "ks", "", &of(own, columns), (4, words[3]));
    }
    let injected = "consistency = \"ONE; DROP TABLE victim\"";
    refused_unasked(database, "ks", injected, &plain, (2, &["sink.cql.consistency: "]));
    for now in ["", "v"] {
        refused_unasked(database, "ks", &format!("now = [\"{now}\"]"), &plain, (2, &["sink.cql.now: "]));
    }
    assert!(listener.accept().is_err(), "no database was asked");
}

#[test]
fn tables_of_the_host_itself_are_not_a_plugins() {
    let sink = "[sink.sqlite]\npath = \"rows.db\"".to_owned();
    for name in ["_keyfold_lanes", "_KEYFOLD_LANES"] {
        let file = described(&Described { table: (name, ["lane", "written", "v", "items"]), ..DESCRIBED });
        let settings = Settings { sink: sink.clone(), ..hostile(&json!({"mode": "ok"})) };
        let pipeline = pipeline(&settings, &events(["a"]));
        pipeline.run_to_end(&[]).expect_code(0);
        refused(&pipeline, ("a table of the host", &file), &[], &["only tables of the host"]);
    }
}
