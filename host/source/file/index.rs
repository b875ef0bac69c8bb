//! A file that was read once: which blocks it has, which partitions lie in each, and where reading starts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use crate::config;
use crate::event_time::Cell;
use crate::failure::Failure;
use crate::paths::is_pipe_or_device;
use crate::position::{LastRecord, Offset, Partition, fingerprint};
use crate::record::bounded::MOST_BYTES;
use crate::record::{RecordRef, Records};
use crate::source::Start;
use crate::source::file::lines::{Cursor, Lines};

/// Lines of one block, at most.
pub(super) const BLOCK_LINES: usize = 4096;
/// Bytes after which a block is full.
const BLOCK_BYTES: usize = 4 << 20;

/// Bytes of a line: those of the largest record that is handed on whole, in base64, and then some.
pub(super) const MOST_LINE_BYTES: usize = 4 * MOST_BYTES;

/// A file that was read once: it is of its format, and where its partitions are in it is known.
#[derive(Debug)]
pub struct Index {
    pub(super) file: File,
    pub(super) lines: Lines,
    pub(super) blocks: Vec<Block>,
    pub(super) extents: BTreeMap<Partition, Extent>,
}

/// Some lines of the file.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) start: u64,
    pub(super) length: usize,
    /// Number of its first line, from 0.
    pub(super) line: u64,
    pub(super) parts: Vec<Part>,
}

/// One partition's records in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) partition: Partition,
    /// What is known of the partition before the block.
    pub(super) before: Cursor,
    /// Its last offset in the block.
    pub(super) last: Offset,
}

/// The first and the last offset of a partition, and the blocks that it lies in.
#[derive(Debug)]
pub(super) struct Extent {
    pub(super) first: Offset,
    pub(super) last: Offset,
    pub(super) blocks: Vec<usize>,
}

/// Reads the file once. Standard input (`-`) is first copied to a temporary file.
pub fn inspect(config: &config::FileSource) -> Result<Index, Failure> {
    let lines = Lines::new(config)?;
    let file = open_file(config).map_err(|e| lines.unreadable(&e))?;
    let mut index = Index { file, lines, blocks: Vec::new(), extents: BTreeMap::new() };
    let mut reader = BufReader::with_capacity(1 << 20, index.file.try_clone().map_err(|e| index.lines.unreadable(&e))?);
    let mut cursors = BTreeMap::new();
    // What a pipe holds at its end is all that there will be.
    let is_complete = config.complete || config.is_standard_input();
    let (mut start, mut line, mut bytes) = (0, 0, Vec::new());
    loop {
        let count = read_block(&mut reader, &mut bytes).map_err(|e| index.lines.unreadable(&e))?;
        if bytes.len() > BLOCK_BYTES + MOST_LINE_BYTES {
            return Err(index.lines.too_long(line + count));
        }
        if start == 0 {
            index.lines.check_beginning(&bytes)?;
        }
        if !is_complete {
            leave_unfinished(&index.lines.name, &mut bytes);
        }
        if bytes.is_empty() {
            return Ok(index);
        }
        index.add(start, line, &bytes, &mut cursors)?;
        start += bytes.len() as u64;
        line += count;
    }
}

/// Takes off a last line without a line break: who writes the file may be in the middle of it.
fn leave_unfinished(file: &str, bytes: &mut Vec<u8>) {
    let whole = memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
    let left = bytes.len() - whole;
    if left > 0 {
        tracing::warn!(
            event = "line-unfinished",
            file,
            bytes = left,
            "last line has no line break; leaving it for a later run (run with --until-end if the file is complete)"
        );
        bytes.truncate(whole);
    }
}

pub(super) fn open_file(config: &config::FileSource) -> io::Result<File> {
    if config.path.as_os_str() != "-" {
        if is_pipe_or_device(&std::fs::metadata(&config.path)?) {
            // Before it is opened: a pipe is waited for.
            let message =
                "it is a pipe or a device, and a file is read more than once; name a file, or \"-\" for standard input";
            return Err(io::Error::other(message));
        }
        return File::open(&config.path);
    }
    let mut spool = tempfile::tempfile()?;
    io::copy(&mut io::stdin().lock(), &mut spool)?;
    spool.rewind()?;
    Ok(spool)
}

/// Reads the next lines into `bytes`; how many they are, 0 at the end.
pub(super) fn read_block(reader: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<u64> {
    bytes.clear();
    let mut count = 0;
    while count < BLOCK_LINES as u64 && bytes.len() < BLOCK_BYTES {
        // One byte more tells a line that is too long.
        let most = (BLOCK_BYTES + MOST_LINE_BYTES + 1) as u64;
        if reader.by_ref().take(most).read_until(b'\n', bytes)? == 0 {
            break;
        }
        count += 1;
    }
    Ok(count)
}

impl Index {
    /// The file's partitions, ascending.
    pub fn partitions(&self) -> Vec<Partition> {
        self.extents.keys().copied().collect()
    }

    pub(super) fn add(
        &mut self,
        start: u64,
        line: u64,
        bytes: &[u8],
        cursors: &mut BTreeMap<Partition, Cursor>,
    ) -> Result<(), Failure> {
        let number = self.blocks.len();
        let mut parts: BTreeMap<Partition, Part> = BTreeMap::new();
        self.lines.parse(bytes, line, cursors, |record, before, _| {
            let (partition, last) = (Partition(record.partition), Offset(record.offset));
            parts.entry(partition).or_insert(Part { partition, before, last }).last = last;
            let extent =
                self.extents.entry(partition).or_insert_with(|| Extent { first: last, last, blocks: Vec::new() });
            extent.last = last;
            if extent.blocks.last() != Some(&number) {
                extent.blocks.push(number);
            }
        })?;
        self.blocks.push(Block { start, length: bytes.len(), line, parts: parts.into_values().collect() });
        Ok(())
    }

    /// The records of a block, by partition.
    pub(super) fn read(&mut self, number: usize) -> Result<BTreeMap<Partition, Records>, Failure> {
        let block = &self.blocks[number];
        let mut bytes = vec![0; block.length];
        self.file
            .seek(SeekFrom::Start(block.start))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|e| self.lines.unreadable(&e))?;
        let mut cursors = block.parts.iter().map(|part| (part.partition, part.before)).collect();
        let mut records: BTreeMap<Partition, Records> = BTreeMap::new();
        self.lines.parse(&bytes, block.line, &mut cursors, |record, _, digest| {
            let records = records.entry(Partition(record.partition)).or_default();
            records.push_bounded(*record, None);
            records.digests.push(digest);
        })?;
        Ok(records)
    }

    pub(super) fn part(&self, number: usize, partition: Partition) -> Option<&Part> {
        self.blocks[number].parts.iter().find(|part| part.partition == partition)
    }

    /// Refuses a file that does not hold what the start needs; the first offset that is delivered.
    pub(super) fn check(&mut self, start: &Start) -> Result<Offset, Failure> {
        let name = &self.lines.name;
        let partition = start.partition;
        let extent = self.extents.get(&partition);
        let (first, end) = extent.map_or((Offset(0), Offset(0)), |e| (e.first, e.last.next()));
        let next = start.next.unwrap_or(first);
        if next > end {
            return Err(too_short(name, partition, next, end));
        }
        if next < first {
            return Err(Failure::state(format!(
                "{name}, partition {partition}: the state goes on at offset {next}, but the file begins at {first}: {ANOTHER_FILE}"
            )));
        }
        if let Some(last) = &start.last {
            self.verify(partition, last)?;
        }
        Ok(next)
    }

    pub(super) fn verify(&mut self, partition: Partition, last: &LastRecord) -> Result<(), Failure> {
        let Some(extent) = self.extents.get(&partition) else { return Ok(()) };
        let lies_in = |number: &&usize| self.part(**number, partition).is_some_and(|part| part.last >= last.offset);
        let Some(number) = extent.blocks.iter().find(lies_in).copied() else { return Ok(()) };
        let records = self.read(number)?.remove(&partition).unwrap_or_default();
        let row = match records.offsets.binary_search(&last.offset.0) {
            Ok(row) => row,
            Err(_) if last.digest.is_none() => return Ok(()),
            Err(_) => return Err(changed(&self.lines.name, partition, last.offset)),
        };
        last_is(&self.lines.name, last, &records.get(row), records.digests.get(row).copied())
    }
}

/// Refuses a record that is not the one at which the state was kept, or that comes after other records than that did (D9, D36).
pub(super) fn last_is(
    name: &str,
    last: &LastRecord,
    record: &RecordRef<'_>,
    digest: Option<u64>,
) -> Result<(), Failure> {
    let (partition, offset) = (Partition(record.partition), last.offset);
    if Cell::from_cell(record.append_time) != last.timestamp
        || fingerprint(record.key, record.payload) != last.fingerprint
    {
        return Err(Failure::state(format!(
            "{name}, partition {partition}: the record at offset {offset} is not the one that the state was built from: {ANOTHER_FILE}"
        )));
    }
    if last.digest.is_some() && last.digest != digest {
        return Err(changed(name, partition, offset));
    }
    Ok(())
}

fn changed(name: &str, partition: Partition, last: Offset) -> Failure {
    Failure::state(format!(
        "{name}, partition {partition}: the records up to offset {last} are not those that the state was built from: at least one was changed, \
         added or removed since; ways out: put the file back as it was, with new records only at its end, or fold the changed file from its \
         beginning with a state of its own (another state.url, or `keyfold run --fresh` while you develop)"
    ))
}

/// Refuses a file that ends before what the state goes on at.
pub(super) fn too_short(name: &str, partition: Partition, next: Offset, end: Offset) -> Failure {
    Failure::state(format!(
        "{name}, partition {partition}: the state goes on at offset {next}, but the file ends at {end}: {ANOTHER_FILE}"
    ))
}

pub(super) const ANOTHER_FILE: &str = "it is another file, or was cut; ways out: point source.file.path at the file that the state was built from, or \
                            give this file a state of its own (another state.url)";
