//! The glue keeps the contract's rules, whatever a mapper does.

use keyfold_sdk::glue::Instance;
use keyfold_sdk::raw::{
    ByteColumn, ChangeBatch, ColumnData, FoldBatch, HeaderColumns, RecordBatch, StateBatch, TextColumn, TimerBatch,
};
use keyfold_sdk::testing::Log;
use keyfold_sdk::{
    ColumnType, Description, Event, Events, Firing, Key, Level, Mapper, Migrated, NO_TIME, Record, Table,
};

/// A mapper whose events are scripts: it executes them word by word.
struct Script;

impl Mapper for Script {
    type Event = str;
    type Value = str;
    type Item = str;

    fn describe() -> Description {
        let one = Table::new("one").key("k", ColumnType::Text).column("v", ColumnType::TextList);
        let two = Table::new("two").key("k", ColumnType::Text).column("n", ColumnType::Integer);
        Description::new("script", "1").table(one).table(two).state_version(2)
    }

    fn configure(_config: &str) -> Result<Script, String> {
        Ok(Script)
    }

    /// `<key>@<time> <script>`, several of them separated by `|`; `reject` rejects the record.
    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = std::str::from_utf8(record.payload.ok_or("no payload")?).map_err(|error| error.to_string())?;
        for event in payload.split('|') {
            let (head, script) = event.split_once(' ').ok_or("no script")?;
            let (key, time) = head.split_once('@').ok_or("no time")?;
            out.push(key, time.parse().map_err(|_| "no time")?, script);
            if script == "reject" {
                return Err("rejected".into());
            }
        }
        for (name, value) in record.headers() {
            out.push(format_args!("{name}-{}", value.len()), 0, "");
        }
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        event.value().split_whitespace().try_for_each(|word| act(key, event.time, word))
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String> {
        assert_eq!(key.timer(), None, "a timer that fires is used up");
        let (name, items) = (key.name(), key.items());
        assert_eq!(items.len(), key.items().count());
        key.row(0).text("k", name).texts("v", items).end();
        match key.value().unwrap_or("").to_owned().as_str() {
            "err" => return act(key, time, "err"),
            "again" => act(key, time, "timer+5")?,
            _ => key.clear_items(),
        }
        act(key, time, "put:fired")
    }

    fn migrate_item(&self, version: u32, old: &[u8], new: &mut Migrated<'_, str>) -> Result<(), String> {
        assert_eq!(version, 1);
        new.put(&format!("new {}", String::from_utf8_lossy(old)));
        Ok(())
    }
}

fn act(key: &mut Key<'_, Script>, time: i64, word: &str) -> Result<(), String> {
    let name = key.name();
    let (verb, what) = word.split_once([':', '+']).unwrap_or((word, ""));
    match verb {
        "put" => key.put(what),
        "add" => {
            let longer = format!("{}{what}", key.value().unwrap_or(""));
            key.put(&longer);
        }
        "clear" => key.clear_value(),
        "append" => key.append(what),
        "empty" => key.clear_items(),
        "timer" => key.set_timer(time + what.parse::<i64>().expect("a number")),
        "untimer" => key.clear_timer(),
        "one" => {
            let value = key.value().map(String::from);
            key.row(0).text("k", name).texts("v", value).end();
        }
        "two" => key.row(1).text("k", name).integer("n", time).end(),
        "null" => key.row(1).text("k", name).null("n").end(),
        "open" => drop(key.row(1).text("k", name)),
        "short" => key.row(1).text("k", name).end(),
        "long" => key.row(1).text("k", name).integer("n", 1).integer("m", 1).end(),
        "misnamed" => key.row(1).integer("n", 1).end(),
        "mistyped" => key.row(1).text("k", name).text("n", "1").end(),
        "nullkey" => key.row(1).null("k").end(),
        "foreign" => key.row(2).end(),
        "log" => key.log(Level::Warn, what),
        "err" => return Err(format!("err of {name}")),
        other => panic!("no such word: {other}"),
    }
    Ok(())
}

fn bytes(items: &[&str]) -> ByteColumn {
    let mut column = ByteColumn { data: Vec::new(), ends: Vec::new() };
    for item in items {
        column.data.extend_from_slice(item.as_bytes());
        column.ends.push(u32::try_from(column.data.len()).expect("short"));
    }
    column
}

fn texts(items: &[&str]) -> TextColumn {
    let ByteColumn { data, ends } = bytes(items);
    TextColumn { data, ends }
}

/// Key `k` with this value and timer, and events of (watermark, script) at times 0, 1, ...
fn fold(value: Option<&str>, timer: i64, events: &[(i64, &str)]) -> ChangeBatch {
    let n = events.len();
    let count = u32::try_from(n).expect("few");
    Instance::<Script>::configure("{}").expect("any configuration is valid").fold(&FoldBatch {
        keys: texts(&["k"]),
        value_present: vec![u8::from(value.is_some())],
        values: bytes(&[value.unwrap_or("")]),
        timers: vec![timer],
        event_ends: vec![count],
        event_values: bytes(&events.iter().map(|event| event.1).collect::<Vec<_>>()),
        event_times: (0..).take(n).collect(),
        watermarks: events.iter().map(|event| event.0).collect(),
        append_times: vec![0; n],
        partitions: vec![0; n],
        offsets: (0..).take(n).collect(),
        indexes: vec![0; n],
    })
}

/// Returns the change codes, the value, the items and the timer.
fn state(changes: &ChangeBatch) -> (u8, &str, u8, Vec<&str>, i64) {
    let text = |bytes| std::str::from_utf8(bytes).expect("texts");
    let ends = &changes.list_items.ends;
    assert_eq!(
        (changes.list_ends[0] as usize, changes.values.ends[0] as usize),
        (ends.len(), changes.values.data.len())
    );
    let items = ends.iter().enumerate().map(|(i, end)| {
        let start = if i == 0 { 0 } else { ends[i - 1] };
        text(&changes.list_items.data[start as usize..*end as usize])
    });
    (changes.value_changes[0], text(&changes.values.data), changes.list_changes[0], items.collect(), changes.timers[0])
}

#[test]
fn a_key_stops_before_the_event_at_which_its_timer_is_due() {
    for (timer, events, consumed) in [
        (NO_TIME, &[(100, "log"), (200, "log")][..], 2),
        (50, &[(49, "log"), (50, "log")], 1),
        (50, &[(50, "log")], 0),
        (50, &[(NO_TIME, "log"), (49, "log")], 2),
        (NO_TIME, &[(100, "timer+10"), (100, "log")], 1),
        (NO_TIME, &[(9, "timer+10"), (9, "timer+10"), (10, "log"), (11, "log")], 3),
        (50, &[(40, "untimer"), (60, "log")], 2),
        (50, &[(40, "untimer err"), (60, "log")], 1),
    ] {
        assert_eq!(fold(None, timer, events).consumed, [consumed], "{timer} {events:?}");
    }
}

#[test]
fn each_change_has_its_code() {
    let codes = |value, script| {
        let changes = fold(value, 5, &[(NO_TIME, script)]);
        let (value_change, value, list_change, items, timer) = state(&changes);
        (value_change, value.to_owned(), list_change, items.join(","), timer)
    };
    let of = |a, b: &str, c, d: &str, e| (a, b.to_owned(), c, d.to_owned(), e);
    assert_eq!(codes(Some("old"), ""), of(0, "", 0, "", 5));
    assert_eq!(codes(Some("old"), "put:new"), of(1, "new", 0, "", 5));
    assert_eq!(codes(Some("old"), "add:er"), of(1, "older", 0, "", 5));
    assert_eq!(codes(Some("old"), "clear"), of(2, "", 0, "", 5));
    assert_eq!(codes(Some("old"), "clear put:"), of(1, "", 0, "", 5));
    assert_eq!(codes(None, "put:a clear"), of(2, "", 0, "", 5));
    assert_eq!(codes(None, "append:a append:b"), of(0, "", 1, "a,b", 5));
    assert_eq!(codes(None, "append:a empty"), of(0, "", 2, "", 5));
    assert_eq!(codes(None, "append:a append:b empty append:c"), of(0, "", 3, "c", 5));
    assert_eq!(codes(None, "empty append:c empty"), of(0, "", 2, "", 5));
    assert_eq!(codes(None, "timer+7"), of(0, "", 0, "", 7));
    assert_eq!(codes(None, "untimer"), of(0, "", 0, "", NO_TIME));
}

#[test]
fn a_rejected_event_leaves_nothing_behind_but_its_reason_and_its_logs() {
    for undone in ["put:x", "clear", "append:x", "empty append:x", "timer+70", "untimer", "one two", "open", ""] {
        let wrong = format!("log:seen {undone} err");
        let with = fold(Some("old"), 90, &[(1, "add:a append:a two"), (1, &wrong), (1, "add:b append:b one")]);
        let without = fold(Some("old"), 90, &[(1, "add:a append:a two"), (1, ""), (1, "add:b append:b one")]);
        assert_eq!(state(&with), (1, "oldab", 1, vec!["a", "b"], 90), "{undone}");
        assert_eq!((with.consumed[0], &with.rows), (3, &without.rows), "{undone}");
        assert_eq!((with.rejections[0].item, &*with.rejections[0].reason), (1, "err of k"));
        assert_eq!((with.logs[0].level, &*with.logs[0].message), (1, "seen"));
    }
}

#[test]
fn rows_of_an_event_are_in_ascending_row_batches() {
    let changes = fold(None, NO_TIME, &[(1, "two one two"), (1, "one two"), (1, "two one two"), (1, "one err")]);
    let batches: Vec<_> = changes.rows.iter().map(|batch| (batch.table, batch.items.clone())).collect();
    assert_eq!(batches, [(1, vec![0, 2]), (0, vec![0, 1, 2]), (1, vec![0, 1, 2])]);
    for batch in &changes.rows {
        assert!(batch.columns.len() == 2 && batch.columns.iter().all(|column| column.nulls.is_empty()));
    }
    let changes = fold(None, NO_TIME, &[(1, "null"), (1, "two"), (1, "null err"), (1, "null")]);
    assert_eq!(changes.rows[0].columns[1].nulls, [0, 2]);
    assert_eq!(changes.rows[0].columns[1].data, ColumnData::Integers(vec![0, 1, 0]));
}

#[test]
fn a_row_that_does_not_match_its_table_panics_with_the_difference() {
    for (word, text) in [
        ("short", "table two: the row ends before column n"),
        ("long", "table two: the row writes m after the last column"),
        ("misnamed", "table two: column 1 is k (ColumnType::Text), but the row writes n (ColumnType::Integer)"),
        ("mistyped", "table two: column 2 is n (ColumnType::Integer), but the row writes n (ColumnType::Text)"),
        ("nullkey", "table two: k is part of the primary key and cannot be null"),
        ("foreign", "there is no table 2: the description has 2 tables, counted from 0"),
        ("open", "a row was not finished: call `.end()` after its last column"),
        ("open one", "a row was not finished: call `.end()` after its last column"),
    ] {
        let panic = std::panic::catch_unwind(|| fold(None, NO_TIME, &[(1, word)])).expect_err(word);
        let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        assert_eq!(said, Some(text));
    }
}

fn fire(value: &str) -> ChangeBatch {
    Instance::<Script>::configure("{}").expect("any configuration is valid").on_timer(&TimerBatch {
        keys: texts(&["k"]),
        value_present: vec![1],
        values: bytes(&[value]),
        list_ends: vec![2],
        list_items: bytes(&["a", "b"]),
        timers: vec![50],
    })
}

#[test]
fn a_firing_reads_the_list_and_its_timer_is_used_up() {
    let changes = fire("");
    assert_eq!((state(&changes), &changes.consumed[..]), ((1, "fired", 2, vec![], NO_TIME), &[0][..]));
    assert_eq!((changes.rows.len(), &changes.rows[0].items[..]), (1, &[0][..]));
    assert_eq!(state(&fire("again")), (1, "fired", 0, vec![], 55));
}

#[test]
fn a_rejected_firing_clears_the_state() {
    let changes = fire("err");
    assert_eq!(state(&changes), (2, "", 2, vec![], NO_TIME));
    assert!(changes.rows.is_empty());
    assert_eq!((changes.rejections[0].item, &*changes.rejections[0].reason), (0, "err of k"));
}

#[test]
fn a_rejected_record_gives_no_events_and_headers_are_its_own() {
    let events = Instance::<Script>::configure("{}").expect("any configuration is valid").map_records(&RecordBatch {
        partitions: vec![0; 4],
        offsets: vec![0, 1, 2, 3],
        append_times: vec![0; 4],
        keys: bytes(&["", "", "", ""]),
        payloads: bytes(&["a@1 x|b@2 y", "c@1 x|d@2 reject", "", "e@5 z"]),
        null_keys: vec![0, 1, 2, 3],
        null_payloads: vec![2],
        headers: Some(HeaderColumns {
            ends: vec![0, 0, 1, 3],
            names: texts(&["n", "h", "i"]),
            values: bytes(&["", "ab", "c"]),
        }),
    });
    assert_eq!(events.records, [0, 0, 3, 3, 3]);
    assert_eq!(events.keys, texts(&["a", "b", "e", "h-2", "i-1"]));
    assert_eq!(events.values, bytes(&["x", "y", "z", "", ""]));
    let rejected: Vec<_> = events.rejections.iter().map(|rejection| (rejection.item, &*rejection.reason)).collect();
    assert_eq!(rejected, [(1, "rejected"), (2, "no payload")]);
}

#[test]
fn state_is_migrated_item_by_item_or_refused() {
    let instance = Instance::<Script>::configure("{}").expect("any configuration is valid");
    let states = StateBatch { values: bytes(&[]), list_items: bytes(&["a", "", "b"]) };
    let migrated = instance.migrate(1, &states).expect("items are taken");
    assert_eq!(migrated, StateBatch { values: bytes(&[]), list_items: bytes(&["new a", "new ", "new b"]) });
    let states = StateBatch { values: bytes(&["x"]), list_items: bytes(&[]) };
    let reason = instance.migrate(1, &states).expect_err("values are not");
    assert!(reason.contains("state version 1"), "{reason}");
}

#[test]
fn results_do_not_depend_on_batches() {
    let words = [
        "put:a",
        "add:b",
        "clear",
        "append:x",
        "append:y",
        "empty",
        "timer+0",
        "timer+3",
        "timer+20",
        "untimer",
        "one",
        "two",
        "null",
        "err",
        "put:again",
        "put:err",
    ];
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = |n: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).expect("31 bits") % n
    };
    let mut payloads = Vec::new();
    for i in 0..3000 {
        let mut events = Vec::new();
        for _ in 0..1 + below(3) {
            let script: Vec<_> = (0..1 + below(5)).map(|_| words[below(words.len())]).collect();
            events.push(format!("{}@{} {}", below(5), i + below(12), script.join(" ")));
        }
        payloads.push(events.join("|"));
    }
    let log = Log::new(4, &payloads.iter().map(|payload| (0, payload.as_str())).collect::<Vec<_>>());
    let outcome = log.fold_deterministically::<Script>("{}");
    assert_eq!(outcome.rows.len(), 5);
    assert!(outcome.rows.values().all(|rows| rows.len() > 300));
    assert!(outcome.rejections.iter().any(|reason| reason.starts_with("timer of")));
}
