//! Session windows on event time: events of a user that are at most `gap` apart are one session, in whatever order they come; an event
//! may join two sessions into one. A session's row leaves once, when the watermark has reached its end + `gap`.
//!
//! A record is `{"user": <text>, "page": <text>, "time": <milliseconds since 1970>}`. While no late event is processed, sessions are a
//! function of the accepted events alone: sort those of a user by time, cut where two are more than `gap` apart. `visits` differs: its
//! timeout counts from the watermark, so what is a session depends on when other users' events came (plugins/README.md, "Sessions").
//!
//! - *A difference of exactly `gap`* is one session, as for Kafka Streams. For Flink it is one too, unless the watermark came between.
//! - *When it leaves*: once no event can come that is not late and within `gap` of its end, as for Flink. Kafka Streams writes a session at
//!   each event and takes it back when it is joined, unless told to wait for its close.
//! - *Late*: the host drops what is at or behind the watermark. With `time.late = "process"` the rule is Flink's and Kafka Streams': an
//!   event belongs to what is open, and is refused if it would be a session that has left already.

use std::borrow::Cow;

use keyfold_sdk::{ColumnType, Description, Event, Events, Firing, Key, Mapper, Record, Table};
use serde::Deserialize;

mod state;
#[cfg(test)]
mod tests;

use state::{Page, Span, Spans};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Seconds.
    gap: u32,
}

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": { "gap": { "type": "integer", "minimum": 1, "maximum": 31536000, "description": "seconds" } },
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

/// The plugin.
pub struct GapSessions {
    gap_ms: i64,
}

impl Mapper for GapSessions {
    type Event = str;
    /// The open sessions, the earliest first: they are more than a gap apart.
    type Value = Spans;
    /// The pages of all of them, in the order in which they came.
    type Item = Page;

    fn describe() -> Description {
        // No two sessions of a user end at the same time: one that begins after another has left ends later than that.
        let sessions = Table::new("gap_sessions")
            .key("user", ColumnType::Text)
            .key("session_start", ColumnType::Timestamp)
            .key("session_end", ColumnType::Timestamp)
            .column("events", ColumnType::Integer)
            .column("pages", ColumnType::TextList);
        Description::new("gap-sessions", env!("CARGO_PKG_VERSION")).table(sessions).config_schema(SCHEMA)
    }

    fn configure(config: &str) -> Result<GapSessions, String> {
        let config: Config = serde_json::from_str(config).map_err(|error| error.to_string())?;
        Ok(GapSessions { gap_ms: i64::from(config.gap) * 1000 })
    }

    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = record.payload.ok_or("payload is missing: the record is a tombstone")?;
        let visit: Visit<'_> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        out.push(&*visit.user, visit.time, &visit.page);
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        let mut open = key.value().unwrap_or_default();
        let mut joined = Span { start: event.time, end: event.time };
        open.0.retain(|span| {
            let apart = span.start > event.time + self.gap_ms || span.end < event.time - self.gap_ms;
            if !apart {
                joined = Span { start: joined.start.min(span.start), end: joined.end.max(span.end) };
            }
            apart
        });
        if event.watermark.is_some_and(|watermark| joined.end + self.gap_ms <= watermark) {
            return Err("late: a session of this event alone would have left already".into());
        }
        open.0.insert(open.0.partition_point(|span| span.start < joined.start), joined);
        key.append(&Page { time: event.time, page: event.value().into() });
        key.set_timer(open.0[0].end + self.gap_ms);
        key.put(&open);
        Ok(())
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
        let mut open = key.value().ok_or("the timer of a user without an open session fired")?;
        let Span { start, end } = open.0.remove(0);
        let (mut pages, rest): (Vec<Page>, Vec<Page>) = key.items().partition(|page| page.time <= end);
        pages.sort_by_key(|page| page.time);
        let (user, events) = (key.name(), pages.len() as i64);
        let row = key.row(0).text("user", user).timestamp("session_start", start).timestamp("session_end", end);
        row.integer("events", events).texts("pages", pages.iter().map(|page| &page.page)).end();
        key.clear();
        if let Some(next) = open.0.first() {
            key.set_timer(next.end + self.gap_ms);
            rest.iter().for_each(|page| key.append(page));
            key.put(&open);
        }
        Ok(())
    }
}

keyfold_sdk::plugin!(GapSessions);
