//! Derived rows: every type of column, and the panics for rows that do not match their table.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use keyfold_sdk::testing::{Log, Outcome};
use keyfold_sdk::{
    ColumnType, Description, Event, Events, Firing, Items, Json, Key, Mapper, Record, Row, Table, Timestamp,
};

#[derive(Row)]
#[row(table = "every")]
struct Every<'a> {
    #[row(key)]
    text: &'a str,
    #[row(key, name = "type")]
    kind: Cow<'a, str>,
    owned: String,
    yes: bool,
    big: i64,
    small: u8,
    negative: i32,
    float: f64,
    half: f32,
    at: Timestamp,
    bytes: &'a [u8],
    owned_bytes: Vec<u8>,
    json: Json,
    r#ref: &'a &'a i64,
}

#[derive(Row)]
#[row(table = "lists")]
struct Lists<'a> {
    #[row(key)]
    texts: &'a [&'a str],
    #[row(key)]
    array: [i64; 2],
    owned: Vec<String>,
    small: Vec<u16>,
    state: Items<'a, str>,
    none: Vec<i64>,
}

#[derive(Default, Row)]
#[row(table = "nulls")]
struct Nulls<'a> {
    #[row(key)]
    key: i64,
    text: Option<&'a str>,
    number: Option<u32>,
    list: Option<Vec<String>>,
    json: Option<Json<&'a str>>,
}

#[derive(Row)]
#[row(table = "nulls")]
struct OtherNulls {
    #[row(key)]
    key: i64,
    text: i64,
}

#[derive(Row)]
#[row(table = "foreign")]
struct Foreign {
    #[row(key)]
    key: i64,
}

/// Emits the rows that an event names; a firing emits lists.
struct Plugin;

impl Mapper for Plugin {
    type Event = str;
    type Value = ();
    type Item = str;

    fn describe() -> Description {
        let by_hand = Table::new("by hand").key("key", ColumnType::Integer);
        Description::new("rows", "1").rows::<Every<'_>>().rows::<Lists<'_>>().table(by_hand).rows::<Nulls<'_>>()
    }

    fn configure(_config: &str) -> Result<Plugin, String> {
        Ok(Plugin)
    }

    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let script = std::str::from_utf8(record.payload.ok_or("no payload")?).map_err(|error| error.to_string())?;
        out.push("k", record.append_time, script);
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        for word in event.value().split(' ') {
            match word {
                "every" => every(key),
                "nulls" => key.emit(&Nulls { key: event.time, ..Nulls::default() }),
                "full" => key.emit(&full(event.time)),
                "hand" => key.row(2).integer("key", 1).end(),
                "list" => {
                    key.append("x");
                    key.append("y");
                    key.set_timer(event.time);
                }
                "other" => key.emit(&OtherNulls { key: 1, text: 2 }),
                "foreign" => key.emit(&Foreign { key: 1 }),
                other => return Err(other.into()),
            }
        }
        Ok(())
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
        key.emit(&Lists {
            texts: &["a", "b"],
            array: [1, -2],
            owned: vec![key.name().into()],
            small: vec![7, 65_535],
            state: key.items(),
            none: Vec::new(),
        });
        Ok(())
    }
}

fn every(key: &mut Key<'_, Plugin>) {
    key.emit(&Every {
        text: key.name(),
        kind: "cow".into(),
        owned: "owned".into(),
        yes: true,
        big: i64::MIN,
        small: 255,
        negative: -1,
        float: 0.5,
        half: 0.25,
        at: Timestamp(9),
        bytes: b"ab",
        owned_bytes: vec![1],
        json: Json("{}".into()),
        r#ref: &&7,
    });
}

fn full(time: i64) -> Nulls<'static> {
    Nulls { key: time, text: Some("t"), number: Some(1), list: Some(vec!["l".into()]), json: Some(Json("[]")) }
}

fn outcome(scripts: &[&str]) -> Outcome {
    let records: Vec<_> = (100..).zip(scripts.iter().copied()).collect();
    Log::new(0, &records).fold_deterministically::<Plugin>("{}")
}

#[test]
fn every_type_goes_into_its_column() {
    assert_eq!(
        outcome(&["every"]).rows["k"],
        [concat!(
            r#"every(text="k", type="cow", owned="owned", yes=true, big=-9223372036854775808, small=255, negative=-1, "#,
            r#"float=0.5, half=0.25, at=9, bytes=[97, 98], owned_bytes=[1], json={}, ref=7)"#
        )]
    );
    assert_eq!(
        outcome(&["list"]).rows["k"],
        [r#"lists(texts=["a", "b"], array=[1, -2], owned=["k"], small=[7, 65535], state=["x", "y"], none=[])"#]
    );
}

#[test]
fn none_is_null_and_a_rejected_event_leaves_no_row() {
    let rows = &outcome(&["nulls full", "full nulls err", "hand every", "full", "every nulls hand err"]).rows["k"];
    let heads: Vec<_> = rows.iter().map(|row| &row[..row.find(',').unwrap_or(row.len())]).collect();
    assert_eq!(heads, ["nulls(key=100", "nulls(key=100", "by hand(key=1)", "every(text=\"k\"", "nulls(key=103"]);
    assert_eq!(rows[0], "nulls(key=100, text=null, number=null, list=null, json=null)");
    assert_eq!(rows[1], r#"nulls(key=100, text="t", number=1, list=["l"], json=[])"#);
}

#[test]
fn the_description_has_the_columns_of_the_struct() {
    let tables = Plugin::describe().into_raw().tables;
    let columns = |table: usize| {
        let columns = tables[table].columns.iter();
        columns.map(|column| (column.name.clone(), column.kind, column.primary_key)).collect::<Vec<_>>()
    };
    let of = |name: &str, kind, key| (name.to_owned(), kind, key);
    assert_eq!(
        columns(3),
        [
            of("key", ColumnType::Integer, true),
            of("text", ColumnType::Text, false),
            of("number", ColumnType::Integer, false),
            of("list", ColumnType::TextList, false),
            of("json", ColumnType::Json, false),
        ]
    );
    assert_eq!(columns(0)[1], of("type", ColumnType::Text, true));
    assert_eq!((columns(0)[13].0.as_str(), columns(0)[9].1), ("ref", ColumnType::Timestamp));
}

/// Returns the message of a panic, and the line of this file that it points at.
fn panic(call: impl FnOnce()) -> (String, u32) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    static LINE: Mutex<u32> = Mutex::new(0);
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| {
        let line = info.location().filter(|at| at.file().ends_with("tests/rows.rs")).map_or(0, |at| at.line());
        *LINE.lock().expect("nobody panics with it") = line;
    }));
    let said = catch_unwind(AssertUnwindSafe(call)).expect_err("it panics");
    std::panic::set_hook(before);
    (*said.downcast::<String>().expect("a text"), *LINE.lock().expect("nobody panics with it"))
}

#[test]
fn a_row_that_does_not_match_its_table_panics_at_the_authors_line() {
    let line = |text: &str| {
        let at = include_str!("rows.rs").lines().position(|line| line.contains(text)).expect("it is above");
        u32::try_from(at).expect("a short file") + 1
    };
    for (script, words, place) in [
        (
            "foreign",
            "table foreign is not in the description, which has [every, lists, by hand, nulls]: add it with `.rows::<..>()`",
            "key.emit(&Foreign",
        ),
        ("other", "table nulls: the description has 5 columns, but the row has 2", "key.emit(&OtherNulls"),
    ] {
        let (said, blamed) = panic(|| drop(outcome(&[script])));
        assert_eq!((said.as_str(), blamed), (words, line(place)));
    }
    let twice = || drop(Description::new("twice", "1").rows::<Foreign>().rows::<Foreign>());
    assert_eq!(panic(twice), ("table foreign is already in the description".to_owned(), line("let twice = ")));
}

#[test]
fn a_table_that_is_declared_by_hand_must_match_the_struct() {
    struct ByHand;

    impl Mapper for ByHand {
        type Event = ();
        type Value = ();
        type Item = ();

        fn describe() -> Description {
            Description::new("by hand", "1").table(Table::new("foreign").column("key", ColumnType::Text))
        }

        fn configure(_config: &str) -> Result<ByHand, String> {
            Ok(ByHand)
        }

        fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
            out.push(7_u8, record.append_time, &());
            Ok(())
        }

        fn on_event(&self, key: &mut Key<'_, Self>, _event: &Event<'_, Self>) -> Result<(), String> {
            key.emit(&Foreign { key: 1 });
            Ok(())
        }

        fn on_timer(&self, _key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
            Ok(())
        }
    }

    let (said, _) = panic(|| drop(Log::new(0, &[(0, "")]).fold::<ByHand>("{}", &[1])));
    let words = "table foreign: column 1 is key (ColumnType::Text) in the description, but key (ColumnType::Integer, primary key) in the row";
    assert_eq!(said, words);
}
