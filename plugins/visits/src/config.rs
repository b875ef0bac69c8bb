//! The plugin's configuration: `{"session_timeout": "50s", "session_id": "record"}`, both optional.

use keyfold_sdk::config::Duration;
use serde::{Deserialize, Deserializer};

/// JSON Schema of the configuration.
pub const SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "visits",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "session_timeout": {
      "description": "A session ends when its user has no visit for this long, in event time. An integer with a unit (ms, s, m, h) or in milliseconds, from 1 ms to 8760 h.",
      "default": "50s",
      "oneOf": [
        {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
        {"type": "integer", "minimum": 1, "maximum": 31536000000}
      ]
    },
    "session_id": {
      "description": "The input of the hash that is the session's id. record: the user and the session's first record, so that ids are unique. append-second: the second in which the session's first record was appended, for compatibility with older ids; two sessions of one user that begin in the same second get the same id, and the later one overwrites the earlier one.",
      "default": "record",
      "enum": ["record", "append-second"]
    }
  }
}"#;

/// A year: a longer timeout is probably a wrong unit.
const LONGEST_TIMEOUT_MS: i64 = 365 * 24 * 3_600_000;

/// The input of the hash that is a session's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionId {
    /// The user and the session's first record.
    #[default]
    Record,
    /// The second in which the session's first record was appended.
    AppendSecond,
}

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long a user has no visit before the session ends, in event time.
    #[serde(rename = "session_timeout", default = "default_timeout_ms", deserialize_with = "timeout_ms")]
    pub session_timeout_ms: i64,
    /// The input of session ids.
    #[serde(default)]
    pub session_id: SessionId,
}

impl Config {
    /// Reads the JSON document. The error names the wrong key and says what its value should be.
    pub fn parse(json: &str) -> Result<Config, String> {
        keyfold_sdk::config(json).map_err(|error| format!("configuration of visits: {error}"))
    }
}

fn default_timeout_ms() -> i64 {
    50_000
}

fn timeout_ms<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    Duration::within(from, Duration::from_ms(1), Duration::from_ms(LONGEST_TIMEOUT_MS)).map(Duration::as_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(json: &str) -> Result<i64, String> {
        Config::parse(json).map(|config| config.session_timeout_ms)
    }

    #[test]
    fn omitted_keys_have_their_defaults() {
        let config = Config { session_timeout_ms: 50_000, session_id: SessionId::Record };
        assert_eq!(Config::parse("{}"), Ok(config));
    }

    #[test]
    fn a_timeout_has_a_unit_or_is_in_milliseconds() {
        for (json, ms) in [
            (r#"{"session_timeout": "50s"}"#, 50_000),
            (r#"{"session_timeout": "1ms"}"#, 1),
            (r#"{"session_timeout": "30m"}"#, 1_800_000),
            (r#"{"session_timeout": "8760h"}"#, LONGEST_TIMEOUT_MS),
            (r#"{"session_timeout": 1500, "session_id": "append-second"}"#, 1500),
        ] {
            assert_eq!(timeout(json), Ok(ms), "{json}");
        }
    }

    #[test]
    fn an_invalid_value_is_refused_by_name() {
        for (json, word) in [
            (r#"{"session_timeout": "0s"}"#, "session_timeout"),
            (r#"{"session_timeout": "8761h"}"#, "session_timeout"),
            (r#"{"session_timeout": "99999999999999999999h"}"#, "session_timeout"),
            (r#"{"session_timeout": "50"}"#, "session_timeout"),
            (r#"{"session_timeout": "50 s"}"#, "session_timeout"),
            (r#"{"session_timeout": "-50s"}"#, "session_timeout"),
            (r#"{"session_timeout": "s"}"#, "session_timeout"),
            (r#"{"session_timeout": ""}"#, "session_timeout"),
            (r#"{"session_timeout": 0}"#, "session_timeout"),
            (r#"{"session_timeout": -5}"#, "session_timeout"),
            (r#"{"session_timeout": 1.5}"#, "session_timeout"),
            (r#"{"session_timeout": 18446744073709551615}"#, "session_timeout"),
            (r#"{"session_timeout": null}"#, "session_timeout"),
            (r#"{"session_id": "second"}"#, "append-second"),
            (r#"{"sesion_id": "record"}"#, "sesion_id"),
            ("[]", "object"),
            ("", "object"),
            ("{", "EOF"),
        ] {
            let error = Config::parse(json).expect_err(json);
            assert!(error.contains(word), "{json}: {error}");
        }
    }

    #[test]
    fn the_schema_is_json_and_names_every_key() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).expect("a constant");
        assert!(schema["properties"]["session_timeout"].is_object());
        assert!(schema["properties"]["session_id"].is_object());
    }
}
