//! Flat JSON objects, field by field and eight bytes at a time: twice as fast as serde_json on what most topics hold.
//!
//! [`Flat`] reads plain documents only: an object whose fields are texts without escapes, integers, booleans and nulls. It never says what
//! is wrong with a document: on anything unusual it gives up, with `None`, and the document is for serde_json, which knows all of JSON and
//! says what is wrong in words. What it does read it reads as serde_json would.

/// A reader of a flat object. Each name is followed by exactly one call for its value; a document of which `name` has said `Some(None)` is
/// JSON and UTF-8 to its end.
///
/// ```
/// use keyfold_sdk::json::Flat;
/// use serde::Deserialize;
///
/// #[derive(Debug, PartialEq, Deserialize)]
/// struct Action<'a> {
///     user: &'a str,
///     amount: i64,
/// }
///
/// fn action(payload: &[u8]) -> Result<Action<'_>, String> {
///     match fast(payload) {
///         Some(action) => Ok(action),
///         None => serde_json::from_slice(payload).map_err(|error| error.to_string()),
///     }
/// }
///
/// fn fast(payload: &[u8]) -> Option<Action<'_>> {
///     let (mut user, mut amount) = (None, None);
///     let mut fields = Flat::of(payload)?;
///     while let Some(name) = fields.name()? {
///         match name {
///             b"user" => user = Some(fields.text()?),
///             b"amount" => amount = Some(fields.integer()?),
///             _ => fields.skip()?,
///         }
///     }
///     Some(Action { user: user?, amount: amount? })
/// }
///
/// let plain = br#"{"user": "ann", "amount": -5, "more": null}"#;
/// assert_eq!(fast(plain), Some(Action { user: "ann", amount: -5 }));
/// let nested = br#"{"user": "ann", "amount": -5, "more": [1, 2]}"#;
/// assert_eq!((fast(nested), action(nested).unwrap().user), (None, "ann"));
/// ```
///
/// The other two kinds of value:
///
/// ```
/// # use keyfold_sdk::json::Flat;
/// # fn read() -> Option<()> {
/// let mut fields = Flat::of(br#"{"at": "2024-10-02T12:51:48", "new": true}"#)?;
/// assert_eq!(fields.name()?, Some(&b"at"[..]));
/// assert_eq!(fields.bytes()?.len(), 19);
/// assert_eq!(fields.name()?, Some(&b"new"[..]));
/// assert!(fields.boolean()?);
/// assert_eq!(fields.name()?, None);
/// # Some(())
/// # }
/// # read().unwrap();
/// ```
pub struct Flat<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether all strings up to here are ASCII; what is outside of them is.
    ascii: bool,
    /// Whether the next name is the first.
    first: bool,
}

impl<'a> Flat<'a> {
    /// The object that a document is, if it begins like one.
    #[inline]
    pub fn of(document: &'a [u8]) -> Option<Flat<'a>> {
        let mut flat = Flat { bytes: document, at: 0, ascii: true, first: true };
        flat.space();
        flat.take(b'{')?;
        Some(flat)
    }

    /// The next field's name; `Some(None)` at the end of the document.
    #[inline]
    pub fn name(&mut self) -> Option<Option<&'a [u8]>> {
        self.space();
        if !std::mem::take(&mut self.first) {
            match self.next()? {
                b',' => self.space(),
                b'}' => return self.is_whole().then_some(None),
                _ => return None,
            }
        }
        self.take(b'"')?;
        let name = self.string()?;
        self.space();
        self.take(b':')?;
        self.space();
        Some(Some(name))
    }

    /// A text.
    #[inline]
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The bytes of a text; whether they are UTF-8 is known at the end of the document.
    #[inline]
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        self.take(b'"')?;
        self.string()
    }

    /// An integer of at most 18 digits.
    #[inline]
    pub fn integer(&mut self) -> Option<i64> {
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

    /// `true` or `false`.
    #[inline]
    pub fn boolean(&mut self) -> Option<bool> {
        let value = self.peek()? == b't';
        self.word(if value { b"true" } else { b"false" })?;
        Some(value)
    }

    /// A value that nobody wants: a text, an integer, `true`, `false` or `null`.
    #[inline]
    pub fn skip(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.bytes().map(drop),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.integer().map(drop),
        }
    }

    /// Whether nothing but space follows, and all is UTF-8.
    #[inline]
    fn is_whole(&mut self) -> bool {
        self.space();
        self.at == self.bytes.len() && (self.ascii || std::str::from_utf8(self.bytes).is_ok())
    }

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

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
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
