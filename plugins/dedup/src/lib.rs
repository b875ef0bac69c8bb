//! Deduplication: keeps the first record of each id, and drops further records with that id that are appended within `ttl` of it.
//!
//! A record is any JSON object with an id: `{"id": <string or integer>, ..}`. The configuration can name another `field`. The row holds the
//! object unchanged, and the position of the first record in the log.
//!
//! The plugin uses append time as event time. Duplicates come from delivery: a producer retries within minutes, whatever event time the
//! record carries. And if `time.out_of_orderness` is above 0, no record is late in append time, so that no first record is lost. (At 0, a
//! record in the same millisecond as the one before it is at the watermark, and therefore late.)
//!
//! A replay finds the same first records, because the log and the journal determine which is first. It overwrites each row with the same
//! content: the primary key is the id and the time when it was first seen. So the table has one row per id and `ttl`, even if records are
//! folded again.

use keyfold_sdk::config::Duration;
use keyfold_sdk::{Description, Event, Events, Firing, Json, Key, Mapper, Record, Row, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value};

#[cfg(test)]
mod tests;

/// The plugin with its configuration.
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
        "ttl": { "type": ["string", "integer"], "description": "how long an id is remembered, like \"24h\" or in milliseconds" },
        "field": { "type": "string", "default": "id", "description": "the field of the payload with the id" }
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
    /// When the id was first seen; ms since 1970 UTC.
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
            _ => return Err(format!("{} must be a string or an integer", self.field)),
        }
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        // The timer alone is not enough: it fires `out_of_orderness` later than `ttl`.
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
