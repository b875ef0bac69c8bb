//! Session windows on event time: events of a user that are at most `gap` apart are one session, in whatever order they come; an event
//! may join two sessions into one. A session's row leaves once, when the watermark has reached its end + `gap`.
//!
//! A record is `{"user": <text>, "page": <text>, "time": <milliseconds since 1970>}`. Unless late events are processed, sessions follow
//! from the accepted events alone: sort those of a user by time, cut where two are more than `gap` apart. `visits` differs: its timeout
//! counts from the watermark, so that what is a session depends on when other users' events came (plugins/README.md, "Sessions").
//!
//! - *Exactly `gap` apart* is one session, as for Kafka Streams; for Flink too, unless the watermark came between.
//! - *A row leaves* when nothing more can come within `gap` of its end but what is late, as for Flink. Kafka Streams writes it at each
//!   event and takes it back when it is joined, unless told to wait for its close.
//! - *Late*: the host takes care of what is at or behind the watermark. With `time.late = "process"` the rule is Flink's and Kafka
//!   Streams': an event belongs to what is open, and is refused if it would be a session that has left already.

use std::borrow::Cow;

use keyfold_sdk::config::Duration;
use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record, Row, Stored, Timestamp};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// The plugin, and its configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GapSessions {
    #[serde(deserialize_with = "Duration::up_to_a_year")]
    gap: Duration,
}

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": { "gap": { "type": ["string", "integer"], "description": "like \"30m\", or in milliseconds" } },
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

/// The open sessions of a user, from first event to last: more than a gap apart, in order.
#[derive(Default, Serialize, Deserialize, Stored)]
pub struct Open(Vec<(i64, i64)>);

/// A page of any of them, and its time. They lie in a list, which grows at constant cost, in the order in which they came.
#[derive(Serialize, Deserialize, Stored)]
pub struct Page(i64, String);

/// No two sessions of a user have one end: what begins after another has left ends after it.
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
        // Those that the event belongs to, in order: none, one, or the two that it joins.
        let first = open.partition_point(|(_, end)| *end < time - gap);
        let until = open.partition_point(|(start, _)| *start <= time + gap);
        let joined = open[first..until].iter().fold((time, time), |(a, b), (start, end)| (a.min(*start), b.max(*end)));
        if event.watermark.is_some_and(|watermark| joined.1 + gap <= watermark) {
            return Err("late: its session would have left already".into());
        }
        open.splice(first..until, [joined]);
        key.set_timer(open[0].1 + gap);
        key.put(&Open(open));
        key.append(&Page(time, event.value().into()));
        Ok(())
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
        let Open(mut open) = key.value().ok_or("the timer of a user without an open session fired")?;
        let (start, end) = open.remove(0);
        let (mut pages, rest): (Vec<Page>, Vec<Page>) = key.items().partition(|Page(time, _)| *time <= end);
        // Stable: pages of one millisecond stay in the order of the log.
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
