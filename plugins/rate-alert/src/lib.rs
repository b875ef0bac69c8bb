//! An alert when a key has more than `limit` events in any `window` of event time, at once and not when the watermark comes.
//!
//! A record is `{"key": <text>, "time": <milliseconds since 1970>}`. Events that lie less than `window` apart share a window. One that
//! comes out of order counts at its own time, in each window that it lies in. A row says by which time the limit was exceeded, with how
//! many events, and since when those. As long as the key stays above its limit, and for `quiet` of event time after that, no further alert
//! is given: a row for each excess, not for each event. The timer only takes away what cannot count any more.

use keyfold_sdk::{ColumnType, Description, Event, Events, Firing, Key, Mapper, Record, Table};
use serde::Deserialize;

mod state;
#[cfg(test)]
mod tests;

use state::Recent;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    limit: u16,
    /// Seconds.
    window: u32,
    /// Seconds.
    #[serde(default)]
    quiet: u32,
}

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "limit": { "type": "integer", "minimum": 1, "maximum": 65535, "description": "events that a window may hold" },
        "window": { "type": "integer", "minimum": 1, "maximum": 31536000, "description": "seconds" },
        "quiet": { "type": "integer", "minimum": 0, "maximum": 31536000, "default": 0, "description": "seconds" }
    },
    "required": ["limit", "window"],
    "additionalProperties": false
}"#;

#[derive(Deserialize)]
struct Sign {
    key: String,
    time: i64,
}

/// The plugin.
pub struct RateAlert {
    limit: usize,
    window_ms: i64,
    quiet_ms: i64,
}

impl Mapper for RateAlert {
    type Event = ();
    type Value = Recent;
    type Item = ();

    fn describe() -> Description {
        // An alert's time is later than that of any alert of the key before.
        let alerts = Table::new("rate_alerts")
            .key("key", ColumnType::Text)
            .key("time", ColumnType::Timestamp)
            .column("events", ColumnType::Integer)
            .column("since", ColumnType::Timestamp);
        Description::new("rate-alert", env!("CARGO_PKG_VERSION")).table(alerts).config_schema(SCHEMA)
    }

    fn configure(config: &str) -> Result<RateAlert, String> {
        let Config { limit, window, quiet } = serde_json::from_str(config).map_err(|error| error.to_string())?;
        let (window_ms, quiet_ms) = (i64::from(window) * 1000, i64::from(quiet) * 1000);
        Ok(RateAlert { limit: limit.into(), window_ms, quiet_ms })
    }

    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = record.payload.ok_or("payload is missing: the record is a tombstone")?;
        let sign: Sign = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        out.push(sign.key, sign.time, &());
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        let watermark = event.watermark.unwrap_or(i64::MIN);
        if event.time <= watermark {
            return Err("late: what it would be counted with is forgotten".into());
        }
        let Recent { mut over, mut times } = key.value().unwrap_or_default();
        // Of what is behind the watermark, only so much can share a too full window with an event that is not.
        times.drain(..times.partition_point(|time| *time <= watermark).saturating_sub(self.limit));
        let at = times.partition_point(|time| *time <= event.time);
        times.insert(at, event.time);
        // Windows that this event is in and that are too full: from an event to the one `limit` places on.
        let windows =
            (at.saturating_sub(self.limit)..=at).filter_map(|i| Some((times[i], *times.get(i + self.limit)?)));
        let full: Vec<(i64, i64)> = windows.filter(|(since, until)| until - since < self.window_ms).collect();
        if let (Some((since, time)), Some((_, last))) = (full.first(), full.last()) {
            if over.is_none_or(|over| *time > over + self.quiet_ms) {
                let events = times.iter().filter(|time| (since..=time).contains(time)).count() as i64;
                let name = key.name();
                let row = key.row(0).text("key", name).timestamp("time", *time);
                row.integer("events", events).timestamp("since", *since).end();
            }
            over = over.max(Some(*last));
        }
        let newest = times.last().map_or(event.time, |time| *time);
        key.set_timer((newest + self.window_ms).max(over.map_or(i64::MIN, |over| over + self.quiet_ms)));
        key.put(&Recent { over, times });
        Ok(())
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
        key.clear();
        Ok(())
    }
}

keyfold_sdk::plugin!(RateAlert);
