//! Sessions of page visits. A session ends when its user has no visit for `session_timeout` of event time, and gives one row.
//!
//! A record's payload is `{"user_id": <integer>, "page": <string>, "event_time": <ISO 8601>}`; [`parse`] defines the exact format. The key of
//! its event is the user id in decimal, and the value is the page. The table is `sessions (session_id, user_id, pages)`.

pub mod config;
pub mod parse;
pub mod session;

use keyfold_sdk::{Description, Event, Events, Firing, Items, Key, Mapper, Record, Row};

use config::Config;
use session::First;

/// The plugin.
pub struct Visits {
    config: Config,
}

/// A session that has ended.
#[derive(Row)]
#[row(table = "sessions")]
struct Session<'a> {
    #[row(key)]
    session_id: i64,
    #[row(key)]
    user_id: i64,
    pages: Items<'a, str>,
}

impl Mapper for Visits {
    type Event = str;
    type Value = First;
    type Item = str;

    fn describe() -> Description {
        Description::new("visits", env!("CARGO_PKG_VERSION")).rows::<Session<'_>>().config_schema(config::SCHEMA)
    }

    fn configure(config: &str) -> Result<Visits, String> {
        Ok(Visits { config: Config::parse(config)? })
    }

    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = record.payload.ok_or("payload is missing: the record is a tombstone")?;
        let visit = parse::visit(payload)?;
        out.push(visit.user_id, visit.event_time, &visit.page);
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        if key.value().is_none() {
            key.put(&First::of(event));
        }
        key.append(event.value());
        let now = event.watermark.unwrap_or(event.time);
        key.set_timer(now.saturating_add(self.config.session_timeout_ms));
        Ok(())
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
        let first = key.value().ok_or("the timer fired, but the user has no open session")?;
        let session_id = first.session_id(self.config.session_id, key.name());
        let user_id = key.name().parse().map_err(|_| "the key is not a user id: it must be a 64-bit integer")?;
        key.emit(&Session { session_id, user_id, pages: key.items() });
        key.clear();
        Ok(())
    }
}

keyfold_sdk::plugin!(Visits);

#[cfg(test)]
mod walkthrough_tests;
