//! Payloads to visits.
//!
//! [`visit`] takes a JSON object, in UTF-8, with
//! - `user_id`: an integer literal within 64 bits, signed (no text, no fraction, no exponent; `-0` is 0);
//! - `page`: a text;
//! - `event_time`: a text as [`time_ms`] takes it.
//!
//! The last of duplicate fields counts, other fields are ignored; all of them must be JSON. What the document is, is serde_json's word
//! ([`careful`]); [`fast`] knows only plain documents, and leaves all others, and every refusal, to it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// One visit of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit<'a> {
    /// Whose.
    pub user_id: i64,
    /// Of what; in place, but where the document has escapes.
    pub page: Cow<'a, str>,
    /// When; ms since 1970 UTC.
    pub event_time: i64,
}

/// The visit that a payload tells of, or what is wrong with it.
pub fn visit(payload: &[u8]) -> Result<Visit<'_>, String> {
    match fast(payload) {
        Some(visit) => Ok(visit),
        None => careful(payload),
    }
}

// ---- any document

/// [`visit`] by serde_json.
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
        event_time: time_ms(event_time.as_bytes()).ok_or_else(|| not_a_time(&event_time))?,
    })
}

/// The last of each field, as it stands in the document.
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
    let digits = literal.strip_prefix('-').unwrap_or(literal);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{name} is {}, not an integer", kind(literal)));
    }
    literal.parse().map_err(|_| format!("{name} does not fit into 64 bits"))
}

fn text<'a>(name: &str, value: Option<&'a RawValue>) -> Result<Cow<'a, str>, String> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let literal = value.ok_or_else(|| missing(name))?.get();
    if !literal.starts_with('"') {
        return Err(format!("{name} is {}, not a text", kind(literal)));
    }
    let text: Text<'_> = serde_json::from_str(literal).map_err(|error| format!("{name}: {error}"))?;
    Ok(text.0)
}

fn missing(name: &str) -> String {
    format!("{name} is missing")
}

fn kind(literal: &str) -> &'static str {
    match literal.as_bytes().first() {
        Some(b'"') => "a text",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number with a fraction or an exponent",
    }
}

fn not_a_time(text: &str) -> String {
    let shown: String = text.chars().take(64).collect();
    format!("event_time is {shown:?}, not a time as YYYY-MM-DDTHH:MM:SS[.fraction][Z or +HH:MM or -HH:MM]")
}

// ---- plain documents

/// [`visit`] for a flat object of strings without escapes, integers, and words; none for any other document and for whatever is wrong.
pub fn fast(payload: &[u8]) -> Option<Visit<'_>> {
    let mut at = Cursor { bytes: payload, at: 0, ascii: true };
    let (mut user_id, mut page, mut event_time) = (None, None, None);
    at.space();
    at.take(b'{')?;
    loop {
        at.space();
        at.take(b'"')?;
        let name = at.string()?;
        at.space();
        at.take(b':')?;
        at.space();
        match name {
            b"user_id" => user_id = Some(at.integer()?),
            b"page" => page = Some(at.quoted()?),
            b"event_time" => event_time = Some(at.quoted()?),
            _ => at.skip()?,
        }
        at.space();
        match at.next()? {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    at.space();
    let whole = at.at == payload.len() && (at.ascii || std::str::from_utf8(payload).is_ok());
    if !whole {
        return None;
    }
    Some(Visit {
        user_id: user_id?,
        page: Cow::Borrowed(std::str::from_utf8(page?).ok()?),
        event_time: time_ms(event_time?)?,
    })
}

/// A place in a document.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether all strings up to here are ASCII; what is outside of them is.
    ascii: bool,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn quoted(&mut self) -> Option<&'a [u8]> {
        self.take(b'"')?;
        self.string()
    }

    /// The rest of a string, without its quote; none for one with an escape or a control character.
    #[inline]
    fn string(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        while let Some(word) = self.bytes.get(self.at..self.at + 8) {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            let stop = stops(word);
            if stop != 0 {
                let before = stop.trailing_zeros() / 8;
                // Only what stands before the stop is of this string.
                self.ascii &= word & HIGH_BITS & !(u64::MAX << (8 * before)) == 0;
                self.at += before as usize;
                break;
            }
            self.ascii &= word & HIGH_BITS == 0;
            self.at += 8;
        }
        loop {
            match self.next()? {
                b'"' => return Some(&self.bytes[start..self.at - 1]),
                b'\\' | 0..0x20 => return None,
                byte => self.ascii &= byte.is_ascii(),
            }
        }
    }

    /// An integer literal of at most 18 digits.
    #[inline]
    fn integer(&mut self) -> Option<i64> {
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let start = self.at;
        let mut value = 0_i64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            value = value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
            self.at += 1;
        }
        let plain = match self.at - start {
            1 => true,
            2..=18 => self.bytes[start] != b'0',
            _ => false,
        };
        plain.then(|| if negative { -value } else { value })
    }

    /// A value that nobody wants.
    fn skip(&mut self) -> Option<()> {
        let word: &[u8] = match self.peek()? {
            b'"' => return self.quoted().map(drop),
            b't' => b"true",
            b'f' => b"false",
            b'n' => b"null",
            _ => return self.integer().map(drop),
        };
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
    }
}

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// The high bit of each byte that ends a plain string: quote, backslash, control character. Bits above the lowest one may be wrong.
#[inline]
fn stops(word: u64) -> u64 {
    let zeros = |word: u64| word.wrapping_sub(LOW_BITS) & !word;
    let quote = zeros(word ^ (LOW_BITS * b'"' as u64));
    let backslash = zeros(word ^ (LOW_BITS * b'\\' as u64));
    let control = word.wrapping_sub(LOW_BITS * 0x20) & !word;
    (quote | backslash | control) & HIGH_BITS
}

// ---- times

/// `YYYY-MM-DDTHH:MM:SS`, then perhaps a fraction of 1 to 9 digits, then perhaps `Z`, `+HH:MM` or `-HH:MM`; UTC where nothing is said.
/// In ms since 1970 UTC, rounded down. The day must be one of the calendar; there are no leap seconds.
pub fn time_ms(text: &[u8]) -> Option<i64> {
    let (seconds, rest) = text.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| seconds[*at] != *byte) {
        return None;
    }
    let year = two_digits(seconds, 0)? * 100 + two_digits(seconds, 2)?;
    let (month, day) = (two_digits(seconds, 5)?, two_digits(seconds, 8)?);
    if !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    let clock = clock_ms(seconds, 11)? + up_to(two_digits(seconds, 17)?, 59)? * 1000;
    let (fraction_ms, rest) = fraction_ms(rest)?;
    Some(days_since_1970(year, month, day) * 86_400_000 + clock + fraction_ms - offset_ms(rest)?)
}

/// `HH:MM` from `at`.
fn clock_ms(text: &[u8], at: usize) -> Option<i64> {
    Some(up_to(two_digits(text, at)?, 23)? * 3_600_000 + up_to(two_digits(text, at + 3)?, 59)? * 60_000)
}

fn fraction_ms(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(fraction) = text.strip_prefix(b".") else { return Some((0, text)) };
    let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
    if !(1..=9).contains(&digits) {
        return None;
    }
    let digit = |i: usize| if i < digits { i64::from(fraction[i] - b'0') } else { 0 };
    Some((digit(0) * 100 + digit(1) * 10 + digit(2), &fraction[digits..]))
}

/// What a time of this offset is ahead of UTC.
fn offset_ms(text: &[u8]) -> Option<i64> {
    match text {
        [] | [b'Z'] => Some(0),
        [b'+', _, _, b':', _, _] => clock_ms(text, 1),
        [b'-', _, _, b':', _, _] => clock_ms(text, 1).map(|ms| -ms),
        _ => None,
    }
}

#[inline]
fn two_digits(text: &[u8], at: usize) -> Option<i64> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    Some(digit(text[at])? * 10 + digit(text[at + 1])?)
}

fn up_to(value: i64, most: i64) -> Option<i64> {
    (value <= most).then_some(value)
}

fn days_of(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the Gregorian calendar, counted in eras of 400 years that begin on the first of March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
