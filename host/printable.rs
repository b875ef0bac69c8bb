//! Text of others, made safe to print: what a terminal, a log reader or a browser would obey is shown as text instead.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns `text` with control characters, and characters that reorder or break lines, written as escapes such as `\u{1b}`. Line breaks and
/// tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_obeyed(character) {
            let _ = write!(safe, "{}", character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
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
        assert_eq!(printable("user \u{1b}[2Jgone\r\u{7}"), "user \\u{1b}[2Jgone\\u{d}\\u{7}");
        assert_eq!(printable("\u{202e}nimda\u{2066}\u{9b}31m"), "\\u{202e}nimda\\u{2066}\\u{9b}31m");
    }

    #[test]
    fn text_stays_as_it_is() {
        for text in ["", "two\n\tlines", "Grüße, 日本語, עברית, 🦀", "back\\slash"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
