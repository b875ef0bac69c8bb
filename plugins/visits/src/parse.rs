//! Parses payloads into visits.
//!
//! A payload is a JSON object in UTF-8 with these fields:
//! - `user_id`: a signed 64-bit integer (not a string; no exponent; `-0` is 0). A fraction of zeros is allowed, since programs that keep
//!   numbers as floats, such as pandas, write 1 as `1.0`;
//! - `page`: a string;
//! - `event_time`: a string that [`iso_ms`] accepts: RFC 3339, and what is common beside it.
//!
//! If a field occurs twice, the last one counts. Other fields are ignored, but must be valid JSON. There are two parsers: [`fast`] reads only
//! plain documents. All others, and all invalid ones, go to [`careful`], which uses serde_json and reports what is wrong.

use std::borrow::Cow;
use std::fmt;

use keyfold_sdk::json::Flat;
use keyfold_sdk::time::iso_ms;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// One visit to a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit<'a> {
    /// The user.
    pub user_id: i64,
    /// The page; borrowed from the payload unless it has escapes.
    pub page: Cow<'a, str>,
    /// When the visit happened; ms since 1970 UTC.
    pub event_time: i64,
}

/// Parses a payload. The error says what is wrong with it.
pub fn visit(payload: &[u8]) -> Result<Visit<'_>, String> {
    match fast(payload) {
        Some(visit) => Ok(visit),
        None => careful(payload),
    }
}

// ---- any document

/// Parses any payload, with serde_json.
pub fn careful(payload: &[u8]) -> Result<Visit<'_>, String> {
    if payload.is_empty() {
        return Err("payload is empty".into());
    }
    let text = std::str::from_utf8(payload).map_err(|error| format!("payload is not UTF-8: {error}"))?;
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
        Category::Data => format!("payload is not a JSON object: {error}"),
        _ => format!("payload is not JSON: {error}"),
    })?;
    let event_time = self::text("event_time", fields.event_time)?;
    Ok(Visit {
        user_id: integer("user_id", fields.user_id)?,
        page: self::text("page", fields.page)?,
        event_time: iso_ms(event_time.as_bytes()).ok_or_else(|| not_a_time(&event_time))?,
    })
}

/// The last occurrence of each field, as JSON text.
#[derive(Default)]
struct Fields<'a> {
    user_id: Option<&'a RawValue>,
    page: Option<&'a RawValue>,
    event_time: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    UserId,
    Page,
    EventTime,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with user_id, page and event_time")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key()? {
            match name {
                Name::UserId => fields.user_id = Some(map.next_value()?),
                Name::Page => fields.page = Some(map.next_value()?),
                Name::EventTime => fields.event_time = Some(map.next_value()?),
                Name::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields)
    }
}

fn integer(name: &str, value: Option<&RawValue>) -> Result<i64, String> {
    let literal = value.ok_or_else(|| missing(name))?.get();
    // What pandas makes of an integer: 1.0.
    let whole = literal.split_once('.').filter(|(_, fraction)| fraction.bytes().all(|b| b == b'0'));
    let whole = whole.map_or(literal, |(whole, _)| whole);
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        let found = match kind(literal) {
            "a number" if literal.contains(['e', 'E']) => "a number with an exponent",
            "a number" => "a number with a fraction",
            other => other,
        };
        return Err(format!("{name} is {found}, not an integer"));
    }
    whole.parse().map_err(|_| format!("{name} does not fit into 64 bits"))
}

fn text<'a>(name: &str, value: Option<&'a RawValue>) -> Result<Cow<'a, str>, String> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let literal = value.ok_or_else(|| missing(name))?.get();
    if !literal.starts_with('"') {
        return Err(format!("{name} is {}, not a string", kind(literal)));
    }
    let text: Text<'_> = serde_json::from_str(literal).map_err(|error| format!("{name}: {error}"))?;
    Ok(text.0)
}

fn missing(name: &str) -> String {
    format!("{name} is missing")
}

fn kind(literal: &str) -> &'static str {
    match literal.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

fn not_a_time(text: &str) -> String {
    let shown: String = text.chars().take(64).collect();
    format!("event_time is {shown:?}, not a time of the form YYYY-MM-DDTHH:MM:SS[.fraction][Z or +HH:MM or -HH:MM]")
}

// ---- plain documents

/// Parses a payload that [`Flat`] can read; `None` for any other payload, valid or not.
pub fn fast(payload: &[u8]) -> Option<Visit<'_>> {
    let (mut user_id, mut page, mut event_time) = (None, None, None);
    let mut fields = Flat::of(payload)?;
    while let Some(name) = fields.name()? {
        match name {
            b"user_id" => user_id = Some(fields.integer()?),
            b"page" => page = Some(fields.bytes()?),
            b"event_time" => event_time = Some(fields.bytes()?),
            _ => fields.skip()?,
        }
    }
    Some(Visit {
        user_id: user_id?,
        page: Cow::Borrowed(std::str::from_utf8(page?).ok()?),
        event_time: iso_ms(event_time?)?,
    })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
