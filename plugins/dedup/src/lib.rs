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

use keyfold_sdk::{ColumnType, Description, Event, Events, Firing, Key, Mapper, Record, Table};
use serde::Deserialize;
use serde_json::{Map, Value};

#[cfg(test)]
mod tests;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Seconds.
    ttl: u32,
    #[serde(default = "id")]
    field: String,
}

fn id() -> String {
    "id".into()
}

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "ttl": { "type": "integer", "minimum": 1, "maximum": 31536000, "description": "seconds" },
        "field": { "type": "string", "default": "id", "description": "the field of the payload that holds the id" }
    },
    "required": ["ttl"],
    "additionalProperties": false
}"#;

/// The plugin.
pub struct Dedup {
    ttl_ms: i64,
    field: String,
}

impl Mapper for Dedup {
    /// The payload.
    type Event = str;
    /// When the id was first seen.
    type Value = i64;
    type Item = ();

    fn describe() -> Description {
        let firsts = Table::new("firsts")
            .key("id", ColumnType::Text)
            .key("first_seen", ColumnType::Timestamp)
            .column("partition", ColumnType::Integer)
            .column("offset", ColumnType::Integer)
            .column("payload", ColumnType::Json);
        Description::new("dedup", env!("CARGO_PKG_VERSION")).table(firsts).config_schema(SCHEMA)
    }

    fn configure(config: &str) -> Result<Dedup, String> {
        let config: Config = serde_json::from_str(config).map_err(|error| error.to_string())?;
        Ok(Dedup { ttl_ms: i64::from(config.ttl) * 1000, field: config.field })
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
        // The timer comes later than this by `out_of_orderness`: it only clears.
        if key.value().is_some_and(|first| event.time - first < self.ttl_ms) {
            return Ok(());
        }
        let id = key.name();
        let row = key.row(0).text("id", id).timestamp("first_seen", event.time);
        let row = row.integer("partition", event.partition.into()).integer("offset", event.offset.cast_signed());
        row.json("payload", event.value()).end();
        key.put(&event.time);
        key.set_timer(event.time + self.ttl_ms);
        Ok(())
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, _time: i64) -> Result<(), String> {
        key.clear();
        Ok(())
    }
}

keyfold_sdk::plugin!(Dedup);
