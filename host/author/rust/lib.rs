//! Counts what each user does within a window of event time, which begins with the user's first action in it.
//!
//! A record is `{"user": <text>, "time": <milliseconds since 1970>}`; a row says how many of them a user had in a window.
//! `keyfold plugin test` runs the cases in `golden/`, `keyfold plugin build` makes the file that a host takes.

use keyfold_sdk::{ColumnType, Description, Event, Events, Firing, Key, Mapper, Record, Table};
use serde::Deserialize;

/// What the host's configuration says under `plugin.config`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// How long a window lasts, seconds.
    window: i64,
}

impl Default for Config {
    fn default() -> Config {
        Config { window: 60 }
    }
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

/// The plugin. It must keep nothing but its configuration: what is known of a user lies in the user's key.
pub struct Plugin {
    window_ms: i64,
}

/// The first table of the description.
const COUNTS: usize = 0;

impl Mapper for Plugin {
    /// What an event carries from `map` to `on_event`: nothing but its key and time.
    type Event = ();
    /// What is kept of a key: how many events there were.
    type Value = u64;
    /// What is appended to a key's list: nothing here.
    type Item = ();

    fn describe() -> Description {
        // A row is written by its primary key: folding the log again overwrites it with itself.
        let counts = Table::new("counts")
            .key("user", ColumnType::Text)
            .key("until", ColumnType::Timestamp)
            .column("actions", ColumnType::Integer);
        Description::new("NAME", env!("CARGO_PKG_VERSION")).table(counts).config_schema(SCHEMA)
    }

    fn configure(config: &str) -> Result<Plugin, String> {
        let config: Config = serde_json::from_str(config).map_err(|error| error.to_string())?;
        Ok(Plugin { window_ms: config.window * 1000 })
    }

    /// A record becomes events, each with a key and a time. What it refuses goes to the dead letters with the reason.
    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = record.payload.ok_or("payload is missing")?;
        let action: Action<'_> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        out.push(&*action.user, action.time, &());
        Ok(())
    }

    /// An event is folded into its key. A key has a value, a list and one timer.
    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        key.put(&(key.value().unwrap_or(0) + 1));
        if key.timer().is_none() {
            key.set_timer(event.time.saturating_add(self.window_ms));
        }
        Ok(())
    }

    /// The watermark has passed the timer: no earlier event will come, but late ones, which the host judges.
    fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String> {
        let actions = key.value().ok_or("a window without an action ended")?;
        let user = key.name();
        key.row(COUNTS).text("user", user).timestamp("until", time).integer("actions", actions.cast_signed()).end();
        key.clear();
        Ok(())
    }
}

keyfold_sdk::plugin!(Plugin);
