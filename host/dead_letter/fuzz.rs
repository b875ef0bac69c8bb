//! Dead letters read back, as a target of fuzzing.

use rdkafka::Timestamp;
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

use crate::dead_letter::read::{parse_line, parse_message};
use crate::dead_letter::{header, redriven_headers, redriven_line};
use crate::source::file::record_of;

/// A line of a file of dead letters; and the same bytes as a record of a topic: `NAME=VALUE` lines are its headers, up to an empty line.
pub(crate) fn letters(bytes: &[u8]) {
    if let Ok(stored) = parse_line(bytes, 1) {
        stored.object();
        let record = stored.letter.record.get(0);
        let again = record_of(&redriven_line(record)).expect("a redriven line is a record");
        let again = again.get(0);
        assert_eq!((again.key, again.payload), (record.key, record.payload), "the record is as it was");
    }
    let mut headers = OwnedHeaders::new();
    let mut lines = bytes.split(|&byte| byte == b'\n');
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let mut parts = line.splitn(2, |&byte| byte == b'=');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        // A digit stands for one of the names that keyfold gives.
        let name = match name {
            [digit @ b'a'..=b'z'] => header::ALL.get(usize::from(digit - b'a')).copied().unwrap_or("x"),
            name => std::str::from_utf8(name).unwrap_or("x"),
        };
        headers = headers.insert(Header { key: name, value });
    }
    let payload = lines.next().map(<[u8]>::to_vec);
    let message = OwnedMessage::new(payload, None, "letters".into(), Timestamp::CreateTime(1), 0, 7, Some(headers));
    if let Ok(stored) = parse_message(&message) {
        stored.object();
        redriven_headers(&stored);
    }
}
