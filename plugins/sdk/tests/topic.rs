//! The small host for tests folds a topic as a lane does: its order, its policies for late events, and state of another version.

use keyfold_sdk::testing::{Late, Sent, Topic};
use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Migrated, Record, Row, Stored};

#[derive(Row)]
#[row(table = "seen")]
struct Seen<'a> {
    #[row(key)]
    user: &'a str,
    place: String,
    count: i64,
}

/// Writes a row for each event. The payload is the event time.
struct Counts<const VERSION: u32>;

impl<const VERSION: u32> Mapper for Counts<VERSION> {
    type Event = str;
    type Value = i64;
    type Item = str;

    fn describe() -> Description {
        Description::new("counts", "1.0.0").rows::<Seen<'_>>().with_headers().state_version(VERSION)
    }

    fn configure(_: &str) -> Result<Self, String> {
        Ok(Counts)
    }

    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let key = record.key.ok_or("no key")?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|error| error.to_string());
        let time = text(record.payload.ok_or("a tombstone")?)?.parse().map_err(|_| "no time")?;
        let headers: Vec<String> = record.headers().map(|(name, value)| format!("{name}={value:?}")).collect();
        out.push(text(key)?, time, &format!("{}/{} {}", record.partition, record.offset, headers.join(",")));
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        let count = key.value().unwrap_or(0) + 1;
        key.put(&count);
        key.append(event.value());
        key.set_timer(event.time + 1_000);
        key.emit(&Seen { user: key.name(), place: format!("{} at {}", event.value(), event.append_time), count });
        Ok(())
    }

    fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> {
        Ok(())
    }

    fn migrate_value(&self, version: u32, old: &[u8], new: &mut Migrated<'_, i64>) -> Result<(), String> {
        match i64::read(old)? {
            13 => Err(format!("13 in version {version}")),
            count => {
                new.put(&(count + 100));
                Ok(())
            }
        }
    }

    fn migrate_item(&self, _: u32, old: &[u8], new: &mut Migrated<'_, str>) -> Result<(), String> {
        new.put(<str>::read(old)?);
        Ok(())
    }
}

fn ann(timestamp: i64, time: i64) -> Sent {
    Sent::new(timestamp, time.to_string()).key("ann")
}

#[test]
fn records_are_folded_by_append_time_and_partition() {
    let topic = Topic::new()
        .send(ann(20, 1).partition(1).header("a", "x"))
        .send(ann(10, 2).partition(1))
        .send(ann(20, 3))
        .send(ann(15, 4).partition(2))
        .out_of_orderness_ms(10);
    let outcome = topic.fold_deterministically::<Counts<1>>("{}");
    let places = ["2/0  at 15", "0/0  at 20", "1/0 a=[120] at 20", "1/1  at 20"];
    let rows = (1..).zip(places).map(|(count, place)| format!("seen(user=\"ann\", place={place:?}, count={count})"));
    assert_eq!(outcome.rows["ann"], rows.collect::<Vec<_>>());
}

#[test]
fn late_events_go_where_the_policy_says() {
    let topic = Topic::new().send(ann(1, 100)).send(ann(2, 100).partition(3)).send(Sent::tombstone(3).key("ann"));
    let counted = |late: Late| {
        let outcome = topic.clone().late(late).fold_deterministically::<Counts<1>>("{}");
        (outcome.rows["ann"].len(), outcome.dropped, outcome.rejections)
    };
    let tombstone = "record 1: a tombstone".to_owned();
    let late = "event 0.0 of partition 3: late: the event time 100 is not after the watermark 100".to_owned();
    assert_eq!(counted(Late::Drop), (1, 1, vec![tombstone.clone()]));
    assert_eq!(counted(Late::DeadLetter), (1, 0, vec![late, tombstone.clone()]));
    assert_eq!(counted(Late::Process), (2, 0, vec![tombstone]));
}

#[test]
fn a_fold_goes_on_with_the_state_of_another() {
    let first = Topic::new().send(ann(1, 100)).send(Sent::new(2, "101").key("bob"));
    let (whole, first) = (first.clone().send(ann(3, 102)), first.fold_deterministically::<Counts<1>>("{}"));
    let then = Topic::new().after(&first.state).send(ann(3, 102)).fold_deterministically::<Counts<1>>("{}");
    assert_eq!(then.state, whole.fold_deterministically::<Counts<1>>("{}").state);

    let migrated = Topic::new().after(&first.state).send(ann(3, 102)).fold_deterministically::<Counts<2>>("{}");
    assert_eq!(migrated.rows["ann"], [r#"seen(user="ann", place="0/2  at 3", count=102)"#]);
    assert_eq!(migrated.timers, [("ann".to_owned(), 1_102), ("bob".to_owned(), 1_101)].into());
    let back = Topic::new().after(&migrated.state).fold::<Counts<1>>("{}", &[1]);
    assert_eq!(
        back.expect_err("the state is newer"),
        "the state has version 2, which the mapper cannot read: its state version is 1"
    );
}

#[test]
fn a_state_that_cannot_be_migrated_is_lost_with_its_timer() {
    let thirteen = (0..13).fold(Topic::new().out_of_orderness_ms(10_000), |topic, i| topic.send(ann(i, 100)));
    let thirteen = thirteen.send(Sent::new(20, "100").key("bob")).fold_deterministically::<Counts<1>>("{}");
    let outcome = Topic::new().after(&thirteen.state).send(ann(21, 101)).fold_deterministically::<Counts<2>>("{}");
    assert_eq!(outcome.rejections, ["state of ann: 13 in version 1"]);
    assert_eq!(outcome.rows["ann"], [r#"seen(user="ann", place="0/14  at 21", count=1)"#]);
}
