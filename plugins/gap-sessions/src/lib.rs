//! Session windows in event time: events of a user that are at most `gap` apart belong to one session, in whatever order they arrive. An
//! event can merge two sessions. The row of a session is written once, when the watermark reaches the session's end + `gap`.
//!
//! A record is `{"user": <string>, "page": <string>, "time": <milliseconds since 1970>}`. Unless late events are processed, the sessions
//! depend only on the accepted events: sort a user's events by time, and start a new session after each gap longer than `gap`. The plugin
//! `visits` is different: its timeout counts from the watermark, so its sessions also depend on when the events of other users arrived
//! (plugins/README.md, "Sessions").
//!
//! - *Events exactly `gap` apart* belong to one session, as in Kafka Streams. In Flink they do too, unless the watermark closes the window of
//!   the first event before the second one arrives.
//! - *A row is written* when only late events could still extend its session, as in Flink. Kafka Streams by default writes a row at each
//!   event, and retracts it when its session is merged.
//! - *Late events* are those at or before the watermark, and `time.late` decides what the host does with them. With
//!   `time.late = "process"`, the plugin does what Flink and Kafka Streams do: it adds the event to an open session, and rejects it if its
//!   session is already closed.

use std::borrow::Cow;

use keyfold_sdk::config::Duration;
use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record, Row, Stored, Timestamp};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// The plugin with its configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GapSessions {
    #[serde(deserialize_with = "Duration::up_to_a_year")]
    gap: Duration,
}

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": { "gap": { "type": ["string", "integer"], "description": "longest time between consecutive events of a session, like \"30m\" or in milliseconds" } },
    "required": ["gap"],
    "additionalProperties": false
}"#;

#[derive(Deserialize)]
struct Visit<'a> {
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow)]
    page: Cow<'a, str>,
    time: i64,
}

/// The open sessions of a user, each with the times of its first and last event: in order, and more than a gap apart.
#[derive(Default, Serialize, Deserialize, Stored)]
pub struct Open(Vec<(i64, i64)>);

/// The time and the page of an event in an open session. They are in the list state, which grows at constant cost, in order of arrival.
#[derive(Serialize, Deserialize, Stored)]
pub struct Page(i64, String);

/// A closed session. No two sessions of a user have the same end, because a session that is closed later also ends later.
#[derive(Row)]
#[row(table = "gap_sessions")]
struct Session<'a> {
    #[row(key)]
    user: &'a str,
    #[row(key)]
    session_start: Timestamp,
    #[row(key)]
    session_end: Timestamp,
    events: i64,
    pages: Vec<String>,
}

impl Mapper for GapSessions {
    type Event = str;
    type Value = Open;
    type Item = Page;

    fn describe() -> Description {
        Description::new("gap-sessions", env!("CARGO_PKG_VERSION")).rows::<Session<'_>>().config_schema(SCHEMA)
    }

    fn configure(config: &str) -> Result<GapSessions, String> {
        keyfold_sdk::config(config)
    }

    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = record.payload.ok_or("payload is missing: the record is a tombstone")?;
        let visit: Visit<'_> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        out.push(visit.user, visit.time, &visit.page);
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        let Open(mut open) = key.value().unwrap_or_default();
        let (time, gap) = (event.time, self.gap.as_ms());
        // The sessions that the event belongs to, in order: none, one, or two, which it merges.
        let first = open.partition_point(|(_, end)| *end < time - gap);
        let until = open.partition_point(|(start, _)| *start <= time + gap);
        let merged = open[first..until].iter().fold((time, time), |(a, b), (start, end)| (a.min(*start), b.max(*end)));
        if event.watermark.is_some_and(|watermark| merged.1 + gap <= watermark) {
            return Err("late: the event's session is already closed".into());
        }
        open.splice(first..until, [merged]);
        key.set_timer(open[0].1 + gap);
        key.put(&Open(open));
        key.append(&Page(time, event.value().into()));
        Ok(())
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
        let Open(mut open) = key.value().ok_or("the timer of a user without an open session fired")?;
        let (start, end) = open.remove(0);
        let (mut pages, rest): (Vec<Page>, Vec<Page>) = key.items().partition(|Page(time, _)| *time <= end);
        // A stable sort: pages of the same millisecond stay in log order.
        pages.sort_by_key(|Page(time, _)| *time);
        key.emit(&Session {
            user: key.name(),
            session_start: Timestamp(start),
            session_end: Timestamp(end),
            events: pages.len() as i64,
            pages: pages.into_iter().map(|Page(_, page)| page).collect(),
        });
        key.clear();
        if let Some((_, end)) = open.first() {
            key.set_timer(end + self.gap.as_ms());
            key.put(&Open(open));
            rest.iter().for_each(|page| key.append(page));
        }
        Ok(())
    }
}

keyfold_sdk::plugin!(GapSessions);
