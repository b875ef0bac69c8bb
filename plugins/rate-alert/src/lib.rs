//! An alert when a key has more than `limit` events in a `window` of event time. It is written at once, and does not wait for the watermark.
//!
//! A record is `{"key": <string>, "time": <milliseconds since 1970>}`. Events less than `window` apart are in the same window. An event that
//! arrives out of order counts at its own time, in every window that contains it. A row has the start of the window, the time at which the
//! limit was exceeded, and the number of events between them. While the key stays above the limit, and for `quiet` after that, no further
//! alert is written. So there is one row per excess and not one per event. The timer only removes state that is no longer needed.

use keyfold_sdk::config::Duration;
use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record, Row, Stored, Timestamp};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// The plugin with its configuration.
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
        "limit": { "type": "integer", "minimum": 1, "maximum": 65535, "description": "an alert is written when a window has more events than this" },
        "window": { "type": ["string", "integer"], "description": "length of the window, like \"1m\" or in milliseconds" },
        "quiet": { "type": ["string", "integer"], "default": 0, "description": "time without a further alert, like \"10m\" or in milliseconds" }
    },
    "required": ["limit", "window"],
    "additionalProperties": false
}"#;

#[derive(Deserialize)]
struct Signal {
    key: String,
    time: i64,
}

/// The events that can still count towards an alert.
#[derive(Default, Serialize, Deserialize, Stored)]
pub struct Recent {
    /// The latest time at which the limit was exceeded.
    over: Option<i64>,
    /// The times of the events, ascending.
    times: Vec<i64>,
}

/// An alert. Its time is later than that of all earlier alerts of the key.
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
        let signal: Signal = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        out.push(signal.key, signal.time, &());
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        let (limit, watermark) = (usize::from(self.limit), event.watermark.unwrap_or(i64::MIN));
        if event.time <= watermark {
            return Err("late: the events of its window are no longer kept".into());
        }
        let Recent { mut over, mut times } = key.value().unwrap_or_default();
        // A new event that completes a window of `limit` + 1 events is after the watermark. So at most `limit` events up to the watermark count.
        times.drain(..times.partition_point(|time| *time <= watermark).saturating_sub(limit));
        let at = times.partition_point(|time| *time <= event.time);
        times.insert(at, event.time);
        // The windows over the limit that contain this event. Each reaches from an event to the one `limit` places later.
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
