//! Text of others, made safe to print: what a terminal, a log reader or a browser would obey is shown as text instead.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Returns `text` with control characters, and characters that reorder or break lines, written as JSON writes them, such as `\u001b`. Line
/// breaks and tabs stay. In a JSON document such characters can stand only in strings, so JSON stays the same JSON.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(may_begin_obeyed) || !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_obeyed(character) {
            let _ = write!(safe, "\\u{:04x}", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Returns `text` on one line: with line breaks written like the other characters. For text of others in a line that is not the last.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains('\n') { Cow::Owned(printable(&text.replace('\n', "\\n")).into_owned()) } else { printable(text) }
}

/// Returns text whose lines after the first are indented, so that none of them looks like a line of its own.
pub fn one_entry(text: &str) -> Cow<'_, str> {
    let text = printable(text);
    if !text.contains('\n') {
        return text;
    }
    let mut lines = text.split('\n');
    let mut entry = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        entry.push_str(if line.starts_with(' ') { "\n" } else { "\n  " });
        entry.push_str(line);
    }
    Cow::Owned(entry)
}

/// A writer of whole lines, which leave it printable.
#[derive(Debug)]
pub struct Printed<W>(pub W);

impl<W: Write> Write for Printed<W> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.write_all(printable(&String::from_utf8_lossy(lines)).as_bytes())?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether a byte may be the first of a character that is obeyed. Few texts have any, so most are looked at only once, and fast.
fn may_begin_obeyed(byte: u8) -> bool {
    (byte < b' ' && !matches!(byte, b'\n' | b'\t')) || matches!(byte, 0x7f | 0xc2 | 0xd8 | 0xe2 | 0xef)
}

fn is_obeyed(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        // Marks and overrides of direction, separators of lines and paragraphs, and the byte order mark.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => true,
        _ => character.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(printable("user \u{1b}[2Jgone\r\u{7}"), "user \\u001b[2Jgone\\u000d\\u0007");
        assert_eq!(printable("\u{202e}nimda\u{2066}\u{9b}31m"), "\\u202enimda\\u2066\\u009b31m");
    }

    #[test]
    fn text_stays_as_it_is() {
        for text in ["", "two\n\tlines", "Grüße, 日本語, עברית, 🦀, «½»", "back\\slash"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn each_character_that_is_obeyed_begins_with_a_byte_that_is_looked_for() {
        for character in ('\0'..=char::MAX).filter(|&character| is_obeyed(character)) {
            assert!(may_begin_obeyed(character.to_string().as_bytes()[0]), "{character:?}");
            assert!(u32::from(character) <= 0xffff, "{character:?} has one escape in JSON");
        }
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({"a\u{202e}": ["\u{9b}\u{7f}\u{1b}\r\n\t\\\"", "\u{feff}ü"]});
        for text in [value.to_string(), serde_json::to_string_pretty(&value).expect("plain data becomes JSON")] {
            let safe = printable(&text);
            assert!(!safe.chars().any(is_obeyed), "{safe}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).expect("it is JSON"), value);
        }
    }

    #[test]
    fn no_part_of_an_entry_looks_like_another_one() {
        assert_eq!(one_line("a\nb\r"), "a\\nb\\u000d");
        assert_eq!(one_entry("a\nb\n  c\n"), "a\n  b\n  c\n  ");
        let mut out = Vec::new();
        Printed(&mut out).write_all("{\"a\":\"\u{9b}\"}\n{}\n".as_bytes()).expect("a Vec takes all");
        assert_eq!(String::from_utf8(out).expect("it is text"), "{\"a\":\"\\u009b\"}\n{}\n");
    }
}
