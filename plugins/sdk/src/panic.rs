//! Stores the text of a panic where the host can find it. A trap ends the call, and a plugin has no import through which it could report why.
//!
//! The text is in a static variable in the data section: the 16 bytes of [`MARKER`], the length of the text (u32, little-endian; 0 until a
//! panic), and at most [`TEXT_BYTES`] bytes of UTF-8. The host looks for the marker in the trap's core dump.
//!
//! A serialized core dump cuts memory into chunks of 4096 bytes, and drops the zeros at both ends of each chunk. Therefore the variable lies
//! within one chunk and ends with a nonzero byte, so that the length always follows the marker in the dump.

use std::panic::PanicHookInfo;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// The bytes that the host looks for.
pub const MARKER: [u8; 16] = *b"%%KEYFOLD-PANIC%";

/// The greatest length of a stored text, in bytes.
pub const TEXT_BYTES: usize = 1024;

#[repr(C, align(2048))]
struct LastWords {
    marker: [u8; 16],
    length: AtomicU32,
    text: [AtomicU8; TEXT_BYTES],
    end: u8,
}

// Atomics allow writing to a static variable without `unsafe`. `used` keeps the compiler from removing writes that this program never reads.
#[used]
static LAST_WORDS: LastWords =
    LastWords { marker: MARKER, length: AtomicU32::new(0), text: [const { AtomicU8::new(0) }; TEXT_BYTES], end: 1 };

/// Installs the panic hook that stores the text. Call it before anything that can panic; calling it again has no effect.
pub fn keep_text() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| write(&text(info)))));
}

fn text(info: &PanicHookInfo<'_>) -> String {
    let message = info.payload_as_str().unwrap_or("panic without a message");
    let message = &with_remedy(message);
    match info.location() {
        Some(at) => format!("{message} ({}:{})", at.file(), at.line()),
        None => message.into(),
    }
}

/// Std's own message for the clock, threads and the like is `time not implemented on this platform`.
fn with_remedy(message: &str) -> String {
    match message.strip_suffix(" not implemented on this platform") {
        Some(what) => format!(
            "a plugin has no {what}, since its results must depend only on the log: use the event's time, the append time or plugin.config"
        ),
        None => message.into(),
    }
}

fn write(text: &str) {
    let kept = &text.as_bytes()[..text.floor_char_boundary(TEXT_BYTES)];
    for (cell, byte) in LAST_WORDS.text.iter().zip(kept) {
        cell.store(*byte, Ordering::Relaxed);
    }
    LAST_WORDS.length.store(u32::try_from(kept.len()).unwrap_or(0).to_le(), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_missing_is_named_with_a_remedy() {
        let text = with_remedy("time not implemented on this platform");
        assert!(text.starts_with("a plugin has no time,") && text.contains("the event's time"), "{text}");
        assert_eq!(with_remedy("index out of bounds"), "index out of bounds");
    }

    #[test]
    fn a_long_text_is_truncated_between_characters() {
        write(&"ä".repeat(TEXT_BYTES));
        assert_eq!(LAST_WORDS.length.load(Ordering::Relaxed), 1024);
        write(&format!("x{}", "ä".repeat(TEXT_BYTES)));
        assert_eq!(LAST_WORDS.length.load(Ordering::Relaxed), 1023);
        write("short");
        assert_eq!(LAST_WORDS.length.load(Ordering::Relaxed), 5);
        let text: Vec<u8> = LAST_WORDS.text[..5].iter().map(|cell| cell.load(Ordering::Relaxed)).collect();
        assert_eq!(text, b"short");
        assert_eq!((LAST_WORDS.marker, LAST_WORDS.end), (MARKER, 1));
        assert!(size_of::<LastWords>() <= align_of::<LastWords>() && 4096 % align_of::<LastWords>() == 0);
    }
}
