//! Lets the first record of each id through, and no other with that id that is appended within `ttl` of it.
//!
//! A record is any JSON object with an id: `{"id": <text or whole number>, ..}`, or another field (`field`). The row holds the object as it
//! is, and where its first record lies in the log.
//!
//! Time is the append time here. That a record comes twice is a matter of its delivery, not of when the thing happened: a producer that
//! sends again does so within minutes, whatever time the record speaks of. And in append time nothing is late, so that no first record
//! is lost (with `time.out_of_orderness` above 0; at 0, what shares its millisecond with a record before is at the watermark).
//!
//! A replay finds the same first records, since what is first follows from the log. It writes the same rows over themselves: the primary
//! key is the id, and when it was first seen. So the table has one row for each id and `ttl`, whatever was folded again.

use keyfold_sdk::config::Duration;
use keyfold_sdk::{Description, Event, Events, Firing, Json, Key, Mapper, Record, Row, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value};

#[cfg(test)]
mod tests;

/// The plugin, and its configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dedup {
    #[serde(deserialize_with = "Duration::up_to_a_year")]
    ttl: Duration,
    #[serde(default = "id")]
    field: String,
}

fn id() -> String {
    "id".into()
}

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "ttl": { "type": ["string", "integer"], "description": "like \"24h\", or in milliseconds" },
        "field": { "type": "string", "default": "id", "description": "the field of the payload that holds the id" }
    },
    "required": ["ttl"],
    "additionalProperties": false
}"#;

#[derive(Row)]
#[row(table = "firsts")]
struct First<'a> {
    #[row(key)]
    id: &'a str,
    #[row(key)]
    first_seen: Timestamp,
    partition: u32,
    offset: i64,
    payload: Json<&'a str>,
}

impl Mapper for Dedup {
    /// The payload.
    type Event = str;
    /// When the id was first seen.
    type Value = i64;
    type Item = ();

    fn describe() -> Description {
        Description::new("dedup", env!("CARGO_PKG_VERSION")).rows::<First<'_>>().config_schema(SCHEMA)
    }

    fn configure(config: &str) -> Result<Dedup, String> {
        keyfold_sdk::config(config)
    }

    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = record.payload.ok_or("payload is missing: the record is a tombstone")?;
        let payload = std::str::from_utf8(payload).map_err(|_| "payload is not UTF-8")?;
        let object: Map<String, Value> = serde_json::from_str(payload).map_err(|error| error.to_string())?;
        match object.get(&self.field) {
            Some(Value::String(id)) => out.push(id, record.append_time, payload),
            Some(Value::Number(id)) if !id.is_f64() => out.push(id.to_string(), record.append_time, payload),
            _ => return Err(format!("{} is not a text or a whole number", self.field)),
        }
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        // The timer is no judge of this: it fires later than `ttl`, by `out_of_orderness`.
        if key.value().is_some_and(|first| event.time - first < self.ttl.as_ms()) {
            return Ok(());
        }
        key.emit(&First {
            id: key.name(),
            first_seen: Timestamp(event.time),
            partition: event.partition,
            offset: event.offset.cast_signed(),
            payload: Json(event.value()),
        });
        key.put(&event.time);
        key.set_timer(event.time + self.ttl.as_ms());
        Ok(())
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
        key.clear();
        Ok(())
    }
}

keyfold_sdk::plugin!(Dedup);
