//! Lines of a file as a target of fuzzing.

use std::collections::BTreeMap;

use crate::config::FileFormat;
use crate::failure::Failure;
use crate::record::Records;
use crate::source::file::lines::{Lines, record_of};

/// A file of lines, in both formats.
pub(crate) fn lines(bytes: &[u8]) {
    for format in [FileFormat::Records, FileFormat::Payloads] {
        let lines = Lines { name: "a file".into(), format, timestamp_start: 1_700_000_000_000 };
        let is_refused = lines.check_beginning(bytes).is_err();
        let whole = parsed(&lines, &[bytes]);
        if is_refused {
            continue;
        }
        // Where a block of the file ends changes no record.
        let end = bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| at + 1);
        let (first, rest) = bytes.split_at(end);
        assert_eq!(whole.ok(), parsed(&lines, &[first, rest]).ok());
    }
    let _ = record_of(bytes);
}

fn parsed(lines: &Lines, blocks: &[&[u8]]) -> Result<Records, Failure> {
    let (mut records, mut cursors, mut first_line) = (Records::default(), BTreeMap::new(), 0);
    for block in blocks {
        lines.parse(block, first_line, &mut cursors, |record, _, _| records.push(*record))?;
        first_line += block.iter().filter(|&&byte| byte == b'\n').count() as u64;
    }
    Ok(records)
}
