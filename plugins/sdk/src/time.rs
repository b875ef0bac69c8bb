//! Parsing of times.

/// Parses a time in the form of RFC 3339, and returns it in ms since 1970 UTC, rounded down.
///
/// The form is `YYYY-MM-DDTHH:MM:SS`, an optional fraction, and an optional `Z`, `+HH:MM` or `-HH:MM`. As RFC 3339 allows, `T` and `Z` may be
/// in lower case, a space may stand for the `T`, and a leap second (`23:59:60` UTC) is the first second of the next day. Beyond RFC 3339,
/// the offset may be missing, which means UTC, or be written `+HHMM` or `+HH`. Returns `None` for anything else, and for days that do not
/// exist.
///
/// ```
/// use keyfold_sdk::time::iso_ms;
///
/// assert_eq!(iso_ms("2024-10-02T12:51:48.5Z"), Some(1_727_873_508_500));
/// assert_eq!(iso_ms(b"2024-10-02T14:51:48+02:00"), Some(1_727_873_508_000));
/// assert_eq!(iso_ms("2024-10-02 12:51:48+0000"), Some(1_727_873_508_000));
/// assert_eq!(iso_ms("2023-02-29T00:00:00"), None);
/// ```
pub fn iso_ms(text: impl AsRef<[u8]>) -> Option<i64> {
    let text = text.as_ref();
    let (seconds, rest) = text.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| seconds[*at] != *byte) || !matches!(seconds[10], b'T' | b't' | b' ') {
        return None;
    }
    let year = two_digits(seconds, 0)? * 100 + two_digits(seconds, 2)?;
    let (month, day) = (two_digits(seconds, 5)?, two_digits(seconds, 8)?);
    if !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    let second = up_to(two_digits(seconds, 17)?, 60)?;
    let (fraction_ms, rest) = fraction_ms(rest)?;
    let minute = days_since_1970(year, month, day) * DAY_MS + clock_ms(seconds, 11)? - offset_ms(rest)?;
    let time = minute + second * 1000;
    // A leap second ends a day of UTC.
    (second < 60 || time.rem_euclid(DAY_MS) == 0).then_some(time + fraction_ms)
}

const DAY_MS: i64 = 86_400_000;

/// Parses `HH:MM` at index `at`.
fn clock_ms(text: &[u8], at: usize) -> Option<i64> {
    hours_and_minutes_ms(two_digits(text, at)?, two_digits(text, at + 3)?)
}

fn hours_and_minutes_ms(hours: i64, minutes: i64) -> Option<i64> {
    Some(up_to(hours, 23)? * 3_600_000 + up_to(minutes, 59)? * 60_000)
}

fn fraction_ms(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(fraction) = text.strip_prefix(b".") else { return Some((0, text)) };
    let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let digit = |i: usize| if i < digits { i64::from(fraction[i] - b'0') } else { 0 };
    Some((digit(0) * 100 + digit(1) * 10 + digit(2), &fraction[digits..]))
}

/// Parses an offset from UTC, in ms.
fn offset_ms(text: &[u8]) -> Option<i64> {
    let (sign, offset) = match text {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', offset @ ..] => (1, offset),
        [b'-', offset @ ..] => (-1, offset),
        _ => return None,
    };
    let ms = match offset {
        [_, _, b':', _, _] => clock_ms(offset, 0)?,
        [_, _, _, _] => hours_and_minutes_ms(two_digits(offset, 0)?, two_digits(offset, 2)?)?,
        [_, _] => hours_and_minutes_ms(two_digits(offset, 0)?, 0)?,
        _ => return None,
    };
    Some(sign * ms)
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

/// Counts days in the Gregorian calendar. It is computed in eras of 400 years that begin on the first of March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_727_873_508_000;

    #[test]
    fn times_are_parsed_and_rounded_down() {
        for (text, ms) in [
            ("1970-01-01T00:00:00", 0),
            ("1969-12-31T23:59:59.9999", -1),
            ("2024-10-02T12:51:48", NOON),
            ("2024-10-02T12:51:48Z", NOON),
            ("2024-10-02T12:51:48.1", NOON + 100),
            ("2024-10-02T12:51:48.123456789Z", NOON + 123),
            ("2024-10-02T14:51:48+02:00", NOON),
            ("2024-10-02T07:21:48.5-05:30", NOON + 500),
            ("2024-10-02T12:51:48-00:00", NOON),
            ("2024-10-03T12:50:48+23:59", NOON),
            ("2024-10-02 12:51:48", NOON),
            ("2024-10-02t12:51:48z", NOON),
            ("2024-10-02 12:51:48.000000+0000", NOON),
            ("2024-10-02T14:51:48+0200", NOON),
            ("2024-10-02 07:21:48.5-0530", NOON + 500),
            ("2024-10-02 12:51:48+00", NOON),
            ("2024-10-02T12:51:48.12345678901234567890Z", NOON + 123),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000),
            ("2017-01-01T00:59:60.5+01:00", 1_483_228_800_500),
            ("2024-02-29T00:00:00", 1_709_164_800_000),
            ("2000-02-29T00:00:00", 951_782_400_000),
            ("0001-01-01T00:00:00", -62_135_596_800_000),
            ("9999-12-31T23:59:59.999", 253_402_300_799_999),
        ] {
            assert_eq!(iso_ms(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn days_are_consecutive_for_800_years() {
        let mut day = days_since_1970(1600, 1, 1);
        for year in 1600..2400 {
            for month in 1..=12 {
                for of_month in 1..=days_of(year, month) {
                    assert_eq!(days_since_1970(year, month, of_month), day);
                    day += 1;
                }
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "2024-10-02",
            "2024-10-02T12:51",
            "2024-10-02  12:51:48",
            "2024-10-02_12:51:48",
            "2024-10-02T12:51:48 Z",
            "2024-10-02T12:51:48zz",
            "2024-10-02T12:51:48+2",
            "2024-10-02T12:51:48+020",
            "2024-10-02T12:51:48+02000",
            "2024-10-02T12:51:48+2400",
            "2024-10-02T12:51:48+0260",
            "2024-10-02T12:51:48+:200",
            "2024-10-02T23:59:60+01:00",
            "2024-10-02T23:59:61Z",
            "2024-10-02T12:51:48.",
            "2024-10-02T12:51:48.Z",
            "2024-10-02T12:51:48,5",
            "2024-10-02T12:51:48+24:00",
            "2024-10-02T12:51:48+02:60",
            "2024-10-02T12:51:48+02:00Z",
            "2024-10-02T24:00:00",
            "2024-10-02T12:60:00",
            "2024-10-02T12:51:60",
            "2024-13-02T12:51:48",
            "2024-00-02T12:51:48",
            "2024-10-00T12:51:48",
            "2024-10-32T12:51:48",
            "2024-09-31T12:51:48",
            "2023-02-29T12:51:48",
            "1900-02-29T12:51:48",
            "+024-10-02T12:51:48",
            "-024-10-02T12:51:48",
            "12024-10-02T12:51:48",
            "2024-10-02T12:51:4x",
            "2024-1\u{e9}-02T12:51:48",
        ] {
            assert_eq!(iso_ms(text), None, "{text}");
        }
    }
}
