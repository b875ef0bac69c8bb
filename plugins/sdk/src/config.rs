//! Typed configuration: [`config()`] reads it, and [`Duration`] is a length of time in it.

use std::fmt;

use serde::de::{DeserializeOwned, Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Reads the configuration that [`Mapper::configure`](crate::Mapper::configure) receives. The error names the path of the wrong key and
/// says what its value should be.
///
/// ```
/// use keyfold_sdk::config::Duration;
/// use serde::Deserialize;
///
/// #[derive(Debug, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     window: Duration,
///     #[serde(default)]
///     shops: Vec<Shop>,
/// }
///
/// #[derive(Debug, Deserialize)]
/// struct Shop {
///     id: u32,
/// }
///
/// fn configure(config: &str) -> Result<Config, String> {
///     keyfold_sdk::config(config)
/// }
///
/// assert_eq!(configure(r#"{"window": "50s"}"#).unwrap().window.as_ms(), 50_000);
/// let error = configure(r#"{"window": 50, "shops": [{"id": 1}, {"id": "two"}]}"#).unwrap_err();
/// assert!(error.starts_with("shops[1].id: invalid type: string \"two\", expected u32"), "{error}");
/// let error = configure(r#"{"windw": 50}"#).unwrap_err();
/// assert!(error.starts_with("windw: unknown field `windw`, expected `window` or `shops`"), "{error}");
/// ```
pub fn config<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // serde would also accept an array of the fields' values.
    if !text.trim_start().starts_with('{') {
        return Err("the configuration must be a JSON object".into());
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| match error.path() {
        path if path.iter().next().is_none() => error.inner().to_string(),
        path => format!("{path}: {}", without_place(error.inner())),
    })?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// Returns the message without line and column: users write TOML, and never see the JSON that it was converted to.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).map(str::to_owned).unwrap_or(text)
}

/// A length of time in a configuration: a string like `"50s"` (an integer and a unit: ms, s, m or h), or an integer in milliseconds.
///
/// ```
/// use keyfold_sdk::config::Duration;
/// use serde::{Deserialize, Deserializer};
///
/// #[derive(Deserialize)]
/// struct Config {
///     grace: Duration,
///     #[serde(default = "minute", deserialize_with = "window")]
///     window: Duration,
/// }
///
/// fn minute() -> Duration {
///     Duration::from_ms(60_000)
/// }
///
/// fn window<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
///     Duration::within(from, Duration::from_ms(1), Duration::from_ms(24 * 3_600_000))
/// }
///
/// let config: Config = keyfold_sdk::config(r#"{"grace": 1500}"#).unwrap();
/// assert_eq!((config.grace.as_ms(), config.window), (1500, minute()));
/// let error = keyfold_sdk::config::<Config>(r#"{"grace": "0s", "window": "0s"}"#).err().unwrap();
/// assert!(error.contains("window: invalid value: string \"0s\""), "{error}");
/// assert!(error.contains("from 1ms to 24h"), "{error}");
/// assert_eq!(Duration::from_ms(90_000).to_string(), "90s");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(i64);

impl Duration {
    /// Creates a duration from milliseconds. Panics if they are negative.
    pub const fn from_ms(ms: i64) -> Duration {
        assert!(ms >= 0, "a duration cannot be negative");
        Duration(ms)
    }

    /// Returns the duration in milliseconds; never negative.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// Reads a duration and checks that it is from `least` to `most`. For serde's `deserialize_with`.
    pub fn within<'de, D: Deserializer<'de>>(from: D, least: Duration, most: Duration) -> Result<Duration, D::Error> {
        from.deserialize_any(Within { least, most })
    }

    /// Reads a duration and checks that it is from 1 ms to 365 days: the right range for most windows, gaps and timeouts. For serde's
    /// `deserialize_with`.
    ///
    /// ```
    /// use keyfold_sdk::config::Duration;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Config {
    ///     #[serde(deserialize_with = "Duration::up_to_a_year")]
    ///     gap: Duration,
    /// }
    ///
    /// let config: Config = keyfold_sdk::config(r#"{"gap": "30m"}"#).unwrap();
    /// assert_eq!(config.gap.as_ms(), 1_800_000);
    /// assert!(keyfold_sdk::config::<Config>(r#"{"gap": "0s"}"#).is_err());
    /// ```
    pub fn up_to_a_year<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::within(from, Duration(1), Duration(365 * 24 * 3_600_000))
    }
}

/// Written in the largest unit that gives an integer.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ms, unit) = UNITS.iter().rev().find(|(ms, _)| self.0 % ms == 0 && self.0 >= *ms).unwrap_or(&UNITS[0]);
        write!(f, "{}{unit}", self.0 / ms)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::within(from, Duration(0), Duration(i64::MAX))
    }
}

/// Written as a string with a unit.
impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

const UNITS: [(i64, &str); 4] = [(1, "ms"), (1000, "s"), (60_000, "m"), (3_600_000, "h")];

struct Within {
    least: Duration,
    most: Duration,
}

impl Within {
    fn check(&self, ms: Option<i64>) -> Option<Duration> {
        ms.map(Duration).filter(|ms| (self.least..=self.most).contains(ms))
    }
}

impl Visitor<'_> for Within {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string like \"50s\" (units: ms, s, m, h) or an integer in milliseconds")?;
        if self.most.0 == i64::MAX { Ok(()) } else { write!(f, ", from {} to {}", self.least, self.most) }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        self.check(text_ms(text)).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_i64<E: Error>(self, ms: i64) -> Result<Duration, E> {
        self.check(Some(ms)).ok_or_else(|| E::invalid_value(Unexpected::Signed(ms), &self))
    }

    fn visit_u64<E: Error>(self, ms: u64) -> Result<Duration, E> {
        self.check(i64::try_from(ms).ok()).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(ms), &self))
    }
}

fn text_ms(text: &str) -> Option<i64> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (ms, _) = UNITS.iter().find(|(_, name)| *name == &text[unit..])?;
    text[..unit].parse::<i64>().ok()?.checked_mul(*ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_or_is_in_milliseconds() {
        for (json, ms) in [
            (r#""50s""#, Some(50_000)),
            (r#""1ms""#, Some(1)),
            (r#""30m""#, Some(1_800_000)),
            (r#""8760h""#, Some(31_536_000_000)),
            ("1500", Some(1500)),
            ("0", Some(0)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            (r#""9223372036854775807s""#, None),
            (r#""99999999999999999999ms""#, None),
            ("-1", None),
            ("1.5", None),
            (r#""1.5s""#, None),
            (r#""50""#, None),
            (r#""50 s""#, None),
            (r#""s""#, None),
            (r#""1d""#, None),
            ("null", None),
        ] {
            assert_eq!(serde_json::from_str::<Duration>(json).ok().map(Duration::as_ms), ms, "{json}");
        }
    }

    #[test]
    fn a_duration_is_written_so_that_it_can_be_read_back() {
        for (ms, text) in
            [(0, "0ms"), (1, "1ms"), (1500, "1500ms"), (60_000, "1m"), (61_000, "61s"), (86_400_000, "24h")]
        {
            assert_eq!(Duration(ms).to_string(), text);
            assert_eq!(serde_json::from_str::<Duration>(&format!("{text:?}")).ok(), Some(Duration(ms)), "{text}");
        }
    }

    #[test]
    fn a_configuration_must_be_exactly_one_object() {
        for text in ["[]", "", "1", "{", "{}{}", "{} x"] {
            assert!(config::<std::collections::BTreeMap<String, i64>>(text).is_err(), "{text}");
        }
        assert_eq!(config(" {\"a\": 1} "), Ok(std::collections::BTreeMap::from([("a".to_owned(), 1)])));
    }
}
