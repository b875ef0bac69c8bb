//! Counts each user's actions in windows of event time. Windows follow each other without gaps: with 60 s, each minute is one. An action at
//! the end of a window counts in the next one.
//!
//! A record is `{"user": <text>, "time": <milliseconds since 1970>}`. A row holds the number of a user's actions in one window.
//! `keyfold plugin test` runs the cases in `golden/`. `keyfold plugin build` builds the file that a host runs.

use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record, Row, Timestamp};
use serde::Deserialize;

/// The plugin's configuration, `plugin.config` in the host's configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Length of a window in seconds.
    #[serde(default = "minute")]
    window: i64,
}

fn minute() -> i64 {
    60
}

/// The JSON Schema of `plugin.config`. The host checks it before the plugin sees the configuration.
const SCHEMA: &str = r#"{
    "type": "object",
    "properties": { "window": { "type": "integer", "minimum": 1, "maximum": 31536000, "description": "seconds" } },
    "additionalProperties": false
}"#;

/// The payload of a record.
#[derive(Deserialize)]
struct Action<'a> {
    #[serde(borrow)]
    user: std::borrow::Cow<'a, str>,
    time: i64,
}

/// A row: each field is a column. Rows are upserted by primary key, so folding the log again rewrites the same row.
#[derive(Row)]
#[row(table = "counts")]
struct Count<'a> {
    #[row(key)]
    user: &'a str,
    #[row(key)]
    until: Timestamp,
    actions: i64,
}

/// The plugin. It must keep nothing but its configuration: everything about a user belongs in the state of a key.
pub struct Plugin {
    config: Config,
}

impl Plugin {
    /// Returns the end of the window that contains this time.
    fn until(&self, time: i64) -> i64 {
        let length = self.config.window * 1000;
        time.saturating_sub(time.rem_euclid(length)).saturating_add(length)
    }
}

impl Mapper for Plugin {
    /// The value that an event carries from `map` to `on_event`. Here, key and time are enough.
    type Event = ();
    /// The state of a key: the number of its events. A struct would derive `Serialize`, `Deserialize` and `keyfold_sdk::Stored`.
    type Value = i64;
    /// The items of a key's list. Not used here.
    type Item = ();

    fn describe() -> Description {
        Description::new("NAME", env!("CARGO_PKG_VERSION")).rows::<Count<'_>>().config_schema(SCHEMA)
    }

    fn configure(config: &str) -> Result<Plugin, String> {
        Ok(Plugin { config: keyfold_sdk::config(config)? })
    }

    /// Turns a record into events, each with a key and a time. An error sends the record to the dead letters with that reason.
    ///
    /// The key is a window of a user. With the user alone as key, an event would count in whatever window is open when it arrives, because
    /// a timer fires some time after the window's end, when the watermark has reached it.
    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = record.payload.ok_or("payload is missing")?;
        let action: Action<'_> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        out.push(format_args!("{} {}", self.until(action.time), action.user), action.time, &());
        Ok(())
    }

    /// Folds an event into the state of its key. A key has a value, a list and one timer.
    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        key.put(&(key.value().unwrap_or(0) + 1));
        key.set_timer(self.until(event.time));
        Ok(())
    }

    /// Runs when the watermark has passed the timer. Events that are earlier than this are late, and the host handles them.
    fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String> {
        let actions = key.value().ok_or("a window without an action ended")?;
        let (_, user) = key.name().split_once(' ').ok_or("the key is not a window and a user")?;
        if actions > 1_000_000 {
            keyfold_sdk::log!(key, Warn, "{user} did {actions} things in one window");
        }
        key.emit(&Count { user, until: Timestamp(time), actions });
        key.clear();
        Ok(())
    }
}

keyfold_sdk::plugin!(Plugin);
