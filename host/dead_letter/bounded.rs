//! Dead letters that their topic does not take as they are, in another form: cut to a size, or with a key. What is cut has headers that say how
//! long it was, and its SHA-256, so that it can be found again in the log; a key that is not the record's has a header that says so.

use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};

use crate::dead_letter::header;
use crate::record::bounded::Digested;

/// What a record needs at least besides what is cut: the headers that say what happened.
const LEAST: usize = 2_048;
/// What Kafka adds to a header's name and value, and to a record, at most.
const FRAME: usize = 16;

/// A record of the topic: key, payload and headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    /// The record's own headers.
    pub(super) own: Vec<(String, Option<Vec<u8>>)>,
    /// The headers that say what happened.
    pub(super) ours: Vec<(String, Option<Vec<u8>>)>,
}

impl Letter {
    /// Takes a letter back that was not delivered.
    pub(super) fn of(message: &OwnedMessage, our_headers: usize) -> Letter {
        let headers = message.headers().map_or_else(Vec::new, |headers| headers.iter().collect());
        let mut own: Vec<_> =
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect();
        let ours = own.split_off(own.len().saturating_sub(our_headers));
        let bytes = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        Letter { key: bytes(message.key()), payload: bytes(message.payload()), own, ours }
    }

    /// Returns its size in bytes, about as Kafka counts it.
    pub(super) fn size(&self) -> usize {
        let part = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let headers = self.own.iter().chain(&self.ours).map(|(name, value)| name.len() + part(value) + FRAME);
        part(&self.key) + part(&self.payload) + headers.sum::<usize>() + FRAME
    }

    /// Returns its headers, its own first.
    pub(super) fn headers(&self) -> OwnedHeaders {
        self.own.iter().chain(&self.ours).fold(OwnedHeaders::new(), |headers, (name, value)| {
            headers.insert(Header { key: name, value: value.as_deref() })
        })
    }

    /// Returns this letter in about `size` bytes; none if it cannot be as small as that. The payload is cut first. If that is not enough,
    /// its own headers are left out, and key and reason are cut.
    pub(super) fn cut_to(&self, size: usize) -> Option<Letter> {
        if size < LEAST {
            return None;
        }
        let mut cut = self.clone();
        let over = |cut: &Letter| (cut.size() + LEAST / 2).saturating_sub(size); // the new headers take room too
        let length = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let least = |part: &Option<Vec<u8>>| length(part).min(size / 8);
        if over(&cut) > length(&cut.payload) - least(&cut.payload) && !cut.own.is_empty() {
            let count = std::mem::take(&mut cut.own).len();
            cut.put(header::CUT_HEADERS, count.to_string());
        }
        if over(&cut) > length(&cut.payload) - least(&cut.payload) {
            if let Some(key) = cut.key.as_mut().filter(|key| key.len() > size / 8) {
                let about = Digested::of(key);
                key.truncate(size / 8);
                cut.put(header::KEY_BYTES, about.bytes.to_string());
                cut.put(header::KEY_SHA256, about.sha256);
            }
            let reason = cut.ours.iter_mut().find(|(name, _)| name == header::REASON);
            if let Some((_, Some(reason))) = reason {
                let text = String::from_utf8_lossy(reason);
                *reason = text[..text.floor_char_boundary(size / 8)].as_bytes().to_vec();
            }
        }
        let too_long = over(&cut);
        if let Some(payload) = cut.payload.as_mut().filter(|_| too_long > 0) {
            let about = Digested::of(payload);
            payload.truncate(payload.len().saturating_sub(too_long));
            cut.put(header::PAYLOAD_BYTES, about.bytes.to_string());
            cut.put(header::PAYLOAD_SHA256, about.sha256);
        }
        Some(cut)
    }

    /// Returns this letter with a key, which no other letter has; none if it has one.
    pub(super) fn keyed(&self) -> Option<Letter> {
        if self.key.is_some() {
            return None;
        }
        let mut keyed = self.clone();
        let names = [header::PARTITION, header::OFFSET, header::STAGE, header::EVENT];
        let values = names.iter().filter_map(|name| self.ours.iter().find(|(known, _)| known == name)?.1.as_deref());
        keyed.key = Some(values.collect::<Vec<_>>().join(&b'/'));
        keyed.put(header::NO_KEY, "true".to_owned());
        Some(keyed)
    }

    /// Adds a header, unless an earlier cut has: that one tells of the original.
    fn put(&mut self, name: &str, value: String) {
        if !self.ours.iter().any(|(known, _)| known == name) {
            self.ours.push((name.to_owned(), Some(value.into_bytes())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> (String, Option<Vec<u8>>) {
        (name.to_owned(), Some(value.as_bytes().to_vec()))
    }

    fn letter(key: usize, payload: usize, own: usize, reason: usize) -> Letter {
        Letter {
            key: Some(vec![b'k'; key]),
            payload: Some(vec![b'p'; payload]),
            own: vec![header("own", &"o".repeat(own))],
            ours: vec![header(header::OFFSET, "42"), header(header::REASON, &"é".repeat(reason / 2))],
        }
    }

    fn value<'a>(letter: &'a Letter, name: &str) -> Option<&'a str> {
        let found = letter.ours.iter().find(|(known, _)| known == name)?;
        found.1.as_deref().map(|value| std::str::from_utf8(value).expect("it is text"))
    }

    #[test]
    fn a_letter_is_cut_to_any_size_and_tells_what_it_was() {
        for (key, payload, own, reason) in
            [(10, 1_000_000, 10, 10), (900_000, 10, 10, 10), (10, 10, 900_000, 10), (10, 10, 10, 900_000)]
        {
            let whole = letter(key, payload, own, reason);
            for size in [500_000, 100_000, 10_000, LEAST] {
                let cut = whole.cut_to(size).expect("it can be as small");
                assert!(cut.size() <= size, "{key} {payload} {own} {reason}: {} of {size}", cut.size());
                assert_eq!(value(&cut, header::OFFSET), Some("42"));
                // A cut of a cut says the same of the original.
                let again = cut.cut_to(LEAST).expect("it can be as small");
                for name in [header::PAYLOAD_BYTES, header::PAYLOAD_SHA256, header::KEY_BYTES, header::CUT_HEADERS] {
                    assert!(value(&cut, name).is_none_or(|told| value(&again, name) == Some(told)), "{name}");
                }
            }
        }
        assert_eq!(letter(10, 1_000_000, 10, 10).cut_to(LEAST - 1), None);
    }

    #[test]
    fn a_letter_without_a_key_is_given_one_of_its_own() {
        let whole = Letter { key: None, ..letter(0, 10, 10, 10) };
        let keyed = whole.keyed().expect("it has none");
        assert_eq!((keyed.key.as_deref(), value(&keyed, header::NO_KEY)), (Some(&b"42"[..]), Some("true")));
        assert_eq!(keyed.keyed(), None);
        assert_eq!(letter(0, 10, 10, 10).keyed(), None, "an empty key is one");
    }

    #[test]
    fn a_payload_is_cut_before_anything_else() {
        let cut = letter(10, 1_000_000, 10, 10).cut_to(500_000).expect("it can be as small");
        assert!(cut.payload.as_ref().is_some_and(|payload| payload.len() > 490_000));
        assert_eq!((cut.key.as_ref().map(Vec::len), cut.own.len()), (Some(10), 1));
        assert_eq!(value(&cut, header::PAYLOAD_BYTES), Some("1000000"));
        assert_eq!(value(&cut, header::PAYLOAD_SHA256).map(str::len), Some(64));
        assert_eq!(value(&cut, header::KEY_BYTES), None);
    }
}
