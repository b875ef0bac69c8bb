//! An alert when a key has more than `limit` events in any `window` of event time: at once, not when the watermark comes.
//!
//! A record is `{"key": <text>, "time": <milliseconds since 1970>}`. Events that lie less than `window` apart share a window. One that
//! comes out of order counts at its own time, in each window that it lies in. A row says by which time the limit was exceeded, and with how
//! many events since when. As long as the key stays above its limit, and for `quiet` after that, no further alert is given: a row for
//! each excess, not for each event. The timer only takes away what cannot count any more.

use keyfold_sdk::config::Duration;
use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record, Row, Stored, Timestamp};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// The plugin, and its configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateAlert {
    limit: u16,
    #[serde(deserialize_with = "Duration::up_to_a_year")]
    window: Duration,
    #[serde(default = "none")]
    quiet: Duration,
}

fn none() -> Duration {
    Duration::from_ms(0)
}

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "limit": { "type": "integer", "minimum": 1, "maximum": 65535, "description": "most events in a window" },
        "window": { "type": ["string", "integer"], "description": "like \"1m\", or in milliseconds" },
        "quiet": { "type": ["string", "integer"], "default": 0, "description": "like \"10m\", or in milliseconds" }
    },
    "required": ["limit", "window"],
    "additionalProperties": false
}"#;

#[derive(Deserialize)]
struct Sign {
    key: String,
    time: i64,
}

/// What may count towards an excess that is still to come.
#[derive(Default, Serialize, Deserialize, Stored)]
pub struct Recent {
    /// The latest time by which the limit was exceeded.
    over: Option<i64>,
    /// The times of events, in order.
    times: Vec<i64>,
}

/// An alert's time is later than that of any alert of the key before.
#[derive(Row)]
#[row(table = "rate_alerts")]
struct Alert<'a> {
    #[row(key)]
    key: &'a str,
    #[row(key)]
    time: Timestamp,
    events: i64,
    since: Timestamp,
}

impl Mapper for RateAlert {
    type Event = ();
    type Value = Recent;
    type Item = ();

    fn describe() -> Description {
        Description::new("rate-alert", env!("CARGO_PKG_VERSION")).rows::<Alert<'_>>().config_schema(SCHEMA)
    }

    fn configure(config: &str) -> Result<RateAlert, String> {
        keyfold_sdk::config(config)
    }

    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = record.payload.ok_or("payload is missing: the record is a tombstone")?;
        let sign: Sign = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        out.push(sign.key, sign.time, &());
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        let (limit, watermark) = (usize::from(self.limit), event.watermark.unwrap_or(i64::MIN));
        if event.time <= watermark {
            return Err("late: what it would be counted with is forgotten".into());
        }
        let Recent { mut over, mut times } = key.value().unwrap_or_default();
        // Of what is behind the watermark, only so many can share a window that is too full with an event that is not.
        times.drain(..times.partition_point(|time| *time <= watermark).saturating_sub(limit));
        let at = times.partition_point(|time| *time <= event.time);
        times.insert(at, event.time);
        // Windows with this event in them that are too full: each from an event to the one `limit` places on.
        let windows = (at.saturating_sub(limit)..=at).filter_map(|i| Some((times[i], *times.get(i + limit)?)));
        let full: Vec<(i64, i64)> = windows.filter(|(since, time)| time - since < self.window.as_ms()).collect();
        if let [(since, time), ..] = full[..] {
            if over.is_none_or(|over| time > over.saturating_add(self.quiet.as_ms())) {
                let events = times.iter().filter(|other| (since..=time).contains(*other)).count() as i64;
                key.emit(&Alert { key: key.name(), time: Timestamp(time), events, since: Timestamp(since) });
            }
            over = over.max(full.last().map(|(_, time)| *time));
        }
        let newest = times.last().copied().unwrap_or(event.time);
        let quiet_until = over.map_or(newest, |over| over.saturating_add(self.quiet.as_ms()));
        key.set_timer(quiet_until.max(newest + self.window.as_ms()));
        key.put(&Recent { over, times });
        Ok(())
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
        key.clear();
        Ok(())
    }
}

keyfold_sdk::plugin!(RateAlert);
