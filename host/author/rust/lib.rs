//! Counts what each user does within a window of event time, which begins with the user's first action in it.
//!
//! A record is `{"user": <text>, "time": <milliseconds since 1970>}`; a row says how many of them a user had in a window.
//! `keyfold plugin test` runs the cases in `golden/`, `keyfold plugin build` makes the file that a host takes.

use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record, Row, Timestamp};
use serde::Deserialize;

/// What the host's configuration says under `plugin.config`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How long a window lasts, seconds.
    #[serde(default = "minute")]
    window: i64,
}

fn minute() -> i64 {
    60
}

/// `plugin.config` is held against this before the plugin sees it.
const SCHEMA: &str = r#"{
    "type": "object",
    "properties": { "window": { "type": "integer", "minimum": 1, "description": "seconds" } },
    "additionalProperties": false
}"#;

/// What a record holds.
#[derive(Deserialize)]
struct Action<'a> {
    #[serde(borrow)]
    user: std::borrow::Cow<'a, str>,
    time: i64,
}

/// A row: each field is a column. It is written by its primary key: folding the log again overwrites it with itself.
#[derive(Row)]
#[row(table = "counts")]
struct Count<'a> {
    #[row(key)]
    user: &'a str,
    #[row(key)]
    until: Timestamp,
    actions: i64,
}

/// The plugin. It must keep nothing but its configuration: what is known of a user lies in the user's key.
pub struct Plugin {
    config: Config,
}

impl Mapper for Plugin {
    /// What an event carries from `map` to `on_event`: nothing but its key and time.
    type Event = ();
    /// What is kept of a key: how many events there were. A struct would derive `Serialize`, `Deserialize` and `keyfold_sdk::Stored`.
    type Value = i64;
    /// What is appended to a key's list: nothing here.
    type Item = ();

    fn describe() -> Description {
        Description::new("NAME", env!("CARGO_PKG_VERSION")).rows::<Count<'_>>().config_schema(SCHEMA)
    }

    fn configure(config: &str) -> Result<Plugin, String> {
        Ok(Plugin { config: keyfold_sdk::config(config)? })
    }

    /// A record becomes events, each with a key and a time. What it refuses goes to the dead letters with the reason.
    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = record.payload.ok_or("payload is missing")?;
        let action: Action<'_> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        out.push(action.user, action.time, &());
        Ok(())
    }

    /// An event is folded into its key. A key has a value, a list and one timer.
    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        key.put(&(key.value().unwrap_or(0) + 1));
        if key.timer().is_none() {
            key.set_timer(event.time.saturating_add(self.config.window * 1000));
        }
        Ok(())
    }

    /// The watermark has passed the timer: no earlier event will come, but late ones, which the host judges.
    fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String> {
        let actions = key.value().ok_or("a window without an action ended")?;
        if actions > 1_000_000 {
            keyfold_sdk::log!(key, Warn, "{} did {actions} things in one window", key.name());
        }
        key.emit(&Count { user: key.name(), until: Timestamp(time), actions });
        key.clear();
        Ok(())
    }
}

keyfold_sdk::plugin!(Plugin);
