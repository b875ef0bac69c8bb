//! What bytes are that no reader of text expects, by how they begin: compressed, of another encoding, framed, or many records in one. It names
//! them, and changes nothing.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

/// What some programs write at the beginning of UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Forms by their first bytes: what to call them, and the program that makes text of them. The longer of two that begin alike comes first.
const MAGIC: [(&[u8], &str, &str); 13] = [
    (b"\x1f\x8b", "compressed by gzip", "gunzip -c"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd -dc"),
    (b"\xfd7zXZ\0", "compressed by xz", "xz -dc"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "lz4 -dc"),
    (b"\xff\x06\0\0sNaPpY", "compressed by snappy", "snzip -dc"),
    (b"\x82SNAPPY\0", "compressed by snappy", "snzip -dc -t snappy-java"),
    (b"PK\x03\x04", "a zip archive", "unzip -p"),
    (b"Obj\x01", "an Avro file", "avro-tools tojson"),
    (b"PAR1\x15", "a Parquet file", "parquet cat"),
    (b"\xff\xfe\0\0", "UTF-32", "iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32", "iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "iconv -f UTF-16 -t UTF-8"),
];

/// Returns what bytes are that are no text of UTF-8, and the program that makes one of them; none if they may be text.
pub(crate) fn of(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    if let Some((_, name, program)) = MAGIC.iter().find(|(magic, _, _)| bytes.starts_with(magic)) {
        return Some((name, program));
    }
    match bytes {
        [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', ..] => Some(("compressed by bzip2", "bunzip2 -c")),
        [0x78, 0x9c | 0xda, third, ..] if !(0x80..=0xbf).contains(third) => Some(("compressed by zlib", "pigz -dcz")),
        [1..=0x7f, 0, 0, 0, 1..=0x7f, 0, 0, 0, ..] => Some(("UTF-32", "iconv -f UTF-32LE -t UTF-8")),
        [0, 0, 0, 1..=0x7f, 0, 0, 0, 1..=0x7f, ..] => Some(("UTF-32", "iconv -f UTF-32BE -t UTF-8")),
        [1..=0x7f, 0, 1..=0x7f, 0, ..] => Some(("UTF-16", "iconv -f UTF-16LE -t UTF-8")),
        [0, 1..=0x7f, 0, 1..=0x7f, ..] => Some(("UTF-16", "iconv -f UTF-16BE -t UTF-8")),
        _ => None,
    }
}

/// Returns what a payload is that a plugin for JSON objects or lines of text cannot read; none if it may be one of them.
pub(crate) fn of_payload(payload: &[u8]) -> Option<&'static str> {
    if let Some((name, _)) = of(payload) {
        return Some(name);
    }
    match payload {
        [0, _, _, _, _, _, ..] => Some("framed for a schema registry: a zero byte and the id of a schema come first"),
        _ if is_array(payload) => Some("a JSON array: keyfold folds one record each"),
        _ => None,
    }
}

/// Whether bytes begin with a JSON array, which need not be complete.
fn is_array(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes).trim_ascii_start();
    text.starts_with(b"[") && is_json(text)
}

/// Whether bytes begin with a JSON value, which need not be complete.
fn is_json(bytes: &[u8]) -> bool {
    let first = serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>().next();
    first.is_none_or(|first| first.map_or_else(|error| error.is_eof(), |_| true))
}

/// Whether a file is one JSON array that goes over several lines. A line that is an array of its own is another thing.
pub(crate) fn is_array_of_lines(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes).trim_ascii_start();
    let line = text.split(|&b| b == b'\n').next().unwrap_or_default();
    is_array(text) && line.len() < text.len() && serde_json::from_slice::<IgnoredAny>(line).is_err_and(|e| e.is_eof())
}

/// How many payloads have a form that none should have, by the form.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forms(BTreeMap<&'static str, u64>);

impl Forms {
    /// Looks at one.
    pub(crate) fn add(&mut self, payload: &[u8]) {
        if let Some(name) = of_payload(payload) {
            *self.0.entry(name).or_default() += 1;
        }
    }

    /// Returns the form that more than half of so many have.
    pub(crate) fn of_most(&self, all: u64) -> Option<&'static str> {
        self.0.iter().find(|(_, count)| **count * 2 > all).map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_named_and_text_is_not() {
        for (bytes, name) in [
            (&b"\x1f\x8b\x08\0"[..], "gzip"),
            (b"\x28\xb5\x2f\xfd\0", "zstd"),
            (b"BZh91AY", "bzip2"),
            (b"\xfd7zXZ\0\0", "xz"),
            (b"\x04\x22\x4d\x18", "lz4"),
            (b"\xff\x06\0\0sNaPpY\x01", "snappy"),
            (b"\x82SNAPPY\0\0", "snappy"),
            (b"\x78\x9c\x01", "zlib"),
            (b"\x78\xda\x4b", "zlib"),
            (b"PK\x03\x04\x14", "zip"),
            (b"Obj\x01\x04", "Avro"),
            (b"PAR1\x15", "Parquet"),
            (b"\xff\xfe\0\0{\0\0\0", "UTF-32"),
            (b"\0\0\xfe\xff\0\0\0{", "UTF-32"),
            (b"{\0\0\0\"\0\0\0", "UTF-32"),
            (b"\0\0\0{\0\0\0\"", "UTF-32"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"\xfe\xff\0{", "UTF-16"),
            (b"{\0\"\0v\0", "UTF-16"),
            (b"\0{\0\"\0v", "UTF-16"),
            (b"\0\0\0\0\x2a\x02", "schema registry"),
            (b" [{\"a\": 1}, {\"a\": 2}]", "JSON array"),
            (b"\xef\xbb\xbf[1]", "JSON array"),
        ] {
            let found = of_payload(bytes);
            assert!(found.is_some_and(|found| found.contains(name)), "{bytes:?}: {found:?}");
        }
        for text in [
            "",
            "{}",
            "{\"a\":[1]}",
            "PK",
            "BZh,1",
            "PAR1,x",
            "x\u{69a}",
            "x",
            "[2024-10-02] started",
            "[warn] x",
            "\u{feff}{}",
            "7",
        ] {
            assert_eq!(of_payload(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn an_array_over_several_lines_is_found_and_lines_of_arrays_are_not() {
        for text in ["[\n1,\n2\n]\n", "[{\n\"a\": 1}]", "[{\"a\":1},\n{\"a\":2}]\n", "[[1],\n[2]]", " \n[{\"a\":1},\n"]
        {
            assert!(is_array_of_lines(text.as_bytes()), "{text}");
        }
        for text in
            ["[1,2]\n[3]\n", "[1,2]", "[1,", "[a]\n[b]\n", "[2024-10-02] up\n[2024-10-03] down\n", "{}\n", "", "["]
        {
            assert!(!is_array_of_lines(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn the_form_of_most_is_named() {
        let mut forms = Forms::default();
        [&b"[1]"[..], b"[2]", b"{}"].into_iter().for_each(|payload| forms.add(payload));
        assert_eq!(forms.of_most(3), Some("a JSON array: keyfold folds one record each"));
        assert_eq!(forms.of_most(4), None);
    }
}
