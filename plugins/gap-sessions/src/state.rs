//! What is kept of a user, and its bytes.

use keyfold_sdk::Stored;

/// From the first event of a session to its last, both within; ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first event's time.
    pub start: i64,
    /// The last event's time.
    pub end: i64,
}

/// Open sessions, the earliest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(pub Vec<Span>);

/// A page of an open session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// When it was visited.
    pub time: i64,
    /// Its name.
    pub page: String,
}

impl Stored for Spans {
    type Read<'a> = Spans;

    fn write(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|span| [span.start, span.end].iter().for_each(|time| time.write(out)));
    }

    fn read(bytes: &[u8]) -> Result<Spans, String> {
        let spans = bytes.chunks(16).map(|span| {
            let (start, end) = span.split_at_checked(8).ok_or("a span is cut off")?;
            Ok(Span { start: i64::read(start)?, end: i64::read(end)? })
        });
        spans.collect::<Result<_, String>>().map(Spans)
    }
}

impl Stored for Page {
    type Read<'a> = Page;

    fn write(&self, out: &mut Vec<u8>) {
        self.time.write(out);
        self.page.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Page, String> {
        let (time, page) = bytes.split_at_checked(8).ok_or("a page is cut off")?;
        Ok(Page { time: i64::read(time)?, page: str::read(page)?.into() })
    }
}
