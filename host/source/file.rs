//! A file as a source: finite, and never asked. It is read once to know its partitions and refuse what is not of its format, then
//! again, block by block, to deliver.
//!
//! `format = "records"`: one JSON object a line. `value` (text) or `value_base64`, null for a tombstone; `key` or `key_base64`, absent
//! or null for none; `partition` (0); `offset` (one more than the partition's last, ascending, gaps allowed); `timestamp` in ms (the
//! partition's last); `headers`, an object or a list of pairs, each value a text, null, or `{"base64": ...}`. Other fields are ignored:
//! a file of dead letters is such a file. Empty lines are skipped.
//! `format = "payloads"`: each line, without its end, is a payload of partition 0; its offset is its number from 0, its timestamp
//! `timestamp_start` plus that number in ms.
//!
//! Partitions are delivered so that a merge by append time never has to hold more than it must: the next chunk is always one of the
//! partition whose delivered records end earliest, which is the one that such a merge runs out of first. So, for any layout of the
//! file, about one block for each partition is under way, besides [`ARRIVALS`] in the channel and [`CACHED_BLOCKS`] read ahead.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::config::{self, FileFormat};
use crate::observe::ends::Ends;
use crate::position::{LastRecord, fingerprint};
use crate::record::{HeaderColumns, NO_TIME, RecordRef, Records};
use crate::source::{Arrival, Error, Source, Start};

/// Arrivals that wait for the lane.
const ARRIVALS: usize = 4;
/// Lines of one block, at most.
const BLOCK_LINES: usize = 4096;
/// Bytes after which a block is full.
const BLOCK_BYTES: usize = 4 << 20;
/// Blocks of which some partitions are still to be delivered, at most; others are read again.
const CACHED_BLOCKS: usize = 8;

/// A file that was read once: it is of its format, and where its partitions are in it is known.
#[derive(Debug)]
pub struct Index {
    file: File,
    lines: Lines,
    blocks: Vec<Block>,
    extents: BTreeMap<u32, Extent>,
}

/// Some lines of the file.
#[derive(Debug)]
struct Block {
    start: u64,
    length: usize,
    /// Number of its first line, from 0.
    line: u64,
    parts: Vec<Part>,
}

/// One partition's records in a block.
#[derive(Clone, Copy, Debug)]
struct Part {
    partition: u32,
    /// What is known of the partition before the block.
    before: Cursor,
    /// Its last offset in the block.
    last: u64,
}

/// How far a partition has been read: what a line that does not say takes over.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    next_offset: u64,
    timestamp: i64,
}

const BEGINNING: Cursor = Cursor { next_offset: 0, timestamp: NO_TIME };

/// The first and the last offset of a partition, and the blocks that it lies in.
#[derive(Debug)]
struct Extent {
    first: u64,
    last: u64,
    blocks: Vec<usize>,
}

/// Reads the file once. Standard input (`-`) is spooled to a temporary file.
pub fn inspect(config: &config::FileSource) -> Result<Index, Error> {
    let lines = Lines::new(config)?;
    let file = open_file(config).map_err(|e| lines.unreadable(&e))?;
    let mut index = Index { file, lines, blocks: Vec::new(), extents: BTreeMap::new() };
    let mut reader = BufReader::with_capacity(1 << 20, index.file.try_clone().map_err(|e| index.lines.unreadable(&e))?);
    let mut cursors = BTreeMap::new();
    let (mut start, mut line, mut bytes) = (0, 0, Vec::new());
    loop {
        let count = read_block(&mut reader, &mut bytes).map_err(|e| index.lines.unreadable(&e))?;
        if count == 0 {
            return Ok(index);
        }
        index.add(start, line, &bytes, &mut cursors)?;
        start += bytes.len() as u64;
        line += count;
    }
}

fn open_file(config: &config::FileSource) -> io::Result<File> {
    if config.path.as_os_str() != "-" {
        return File::open(&config.path);
    }
    let mut spool = tempfile::tempfile()?;
    io::copy(&mut io::stdin().lock(), &mut spool)?;
    spool.rewind()?;
    Ok(spool)
}

/// Reads the next lines into `bytes`; how many they are, 0 at the end.
fn read_block(reader: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<u64> {
    bytes.clear();
    let mut count = 0;
    while count < BLOCK_LINES as u64 && bytes.len() < BLOCK_BYTES && reader.read_until(b'\n', bytes)? > 0 {
        count += 1;
    }
    Ok(count)
}

impl Index {
    /// The file's partitions, ascending.
    pub fn partitions(&self) -> Vec<u32> {
        self.extents.keys().copied().collect()
    }

    fn add(&mut self, start: u64, line: u64, bytes: &[u8], cursors: &mut BTreeMap<u32, Cursor>) -> Result<(), Error> {
        let number = self.blocks.len();
        let mut parts: BTreeMap<u32, Part> = BTreeMap::new();
        self.lines.parse(bytes, line, cursors, |record, before| {
            let (partition, last) = (record.partition, record.offset);
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
    fn read(&mut self, number: usize) -> Result<BTreeMap<u32, Records>, Error> {
        let block = &self.blocks[number];
        let mut bytes = vec![0; block.length];
        self.file
            .seek(SeekFrom::Start(block.start))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|e| self.lines.unreadable(&e))?;
        let mut cursors = block.parts.iter().map(|part| (part.partition, part.before)).collect();
        let mut records: BTreeMap<u32, Records> = BTreeMap::new();
        self.lines.parse(&bytes, block.line, &mut cursors, |record, _| {
            records.entry(record.partition).or_default().push(*record)
        })?;
        Ok(records)
    }

    fn part(&self, number: usize, partition: u32) -> Option<&Part> {
        self.blocks[number].parts.iter().find(|part| part.partition == partition)
    }

    /// Refuses a file that does not hold what the start needs; the first offset that is delivered.
    fn check(&mut self, start: &Start) -> Result<u64, Error> {
        let name = &self.lines.name;
        let partition = start.partition;
        let extent = self.extents.get(&partition);
        let (first, end) = extent.map_or((0, 0), |e| (e.first, e.last + 1));
        let next = start.next.unwrap_or(first);
        if next > end {
            return Err(Error::State(format!(
                "{name}, partition {partition}: the state goes on at offset {next}, but the file ends at {end}: {ANOTHER_FILE}"
            )));
        }
        if next < first {
            return Err(Error::State(format!(
                "{name}, partition {partition}: the state goes on at offset {next}, but the file begins at {first}: {ANOTHER_FILE}"
            )));
        }
        if let Some(last) = &start.last {
            self.verify(partition, last)?;
        }
        Ok(next)
    }

    fn verify(&mut self, partition: u32, last: &LastRecord) -> Result<(), Error> {
        let Some(extent) = self.extents.get(&partition) else { return Ok(()) };
        let lies_in = |number: &&usize| self.part(**number, partition).is_some_and(|part| part.last >= last.offset);
        let Some(number) = extent.blocks.iter().find(lies_in).copied() else { return Ok(()) };
        let records = self.read(number)?.remove(&partition).unwrap_or_default();
        let Ok(row) = records.offsets.binary_search(&last.offset) else { return Ok(()) };
        let record = records.get(row);
        if record.append_time == last.timestamp && fingerprint(record.key, record.payload) == last.fingerprint {
            return Ok(());
        }
        Err(Error::State(format!(
            "{}, partition {partition}: the record at offset {} is not the one that the state was built from: {ANOTHER_FILE}",
            self.lines.name, last.offset
        )))
    }
}

const ANOTHER_FILE: &str = "it is another file, or was cut; ways out: point source.file.path at the file that the state was built from, or \
                            give this file a state of its own (another state.url)";

/// How a line becomes a record.
#[derive(Debug)]
struct Lines {
    /// The file, as messages name it.
    name: String,
    format: FileFormat,
    timestamp_start: i64,
}

impl Lines {
    fn new(config: &config::FileSource) -> Result<Lines, Error> {
        let name =
            if config.path.as_os_str() == "-" { "standard input".into() } else { config.path.display().to_string() };
        let timestamp_start = match (config.format, config.timestamp_start_ms) {
            (FileFormat::Payloads, None) => {
                return Err(Error::Config(
                    "source.file.timestamp_start is missing: a file of payloads has no timestamps of its own".into(),
                ));
            }
            (_, start) => start.unwrap_or(NO_TIME),
        };
        Ok(Lines { name, format: config.format, timestamp_start })
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        Error::Outside(format!("{}: {error}; see source.file.path", self.name))
    }

    /// Gives each record of a block to `take`, with the cursor of its partition before it.
    fn parse(
        &self,
        bytes: &[u8],
        first_line: u64,
        cursors: &mut BTreeMap<u32, Cursor>,
        mut take: impl FnMut(&RecordRef<'_>, Cursor),
    ) -> Result<(), Error> {
        let mut rest = bytes;
        let mut number = first_line;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let (line, tail) = rest.split_at(end);
            match self.format {
                FileFormat::Payloads => take(&self.payload(line, number), BEGINNING),
                FileFormat::Records if line.trim_ascii().is_empty() => {}
                FileFormat::Records => record(line, cursors, &mut take)
                    .map_err(|reason| Error::Config(format!("{}, line {}: {reason}", self.name, number + 1)))?,
            }
            rest = tail;
            number += 1;
        }
        Ok(())
    }

    fn payload<'a>(&self, line: &'a [u8], number: u64) -> RecordRef<'a> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let append_time = self.timestamp_start.saturating_add_unsigned(number);
        RecordRef { partition: 0, offset: number, append_time, key: None, payload: Some(line), headers: None }
    }
}

/// One line of `records`, its fields not looked into yet, so that a refusal can name the field.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    partition: Option<&'a RawValue>,
    #[serde(borrow, default)]
    offset: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key_base64: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "null_is_present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "null_is_present")]
    value_base64: Option<&'a RawValue>,
    #[serde(borrow, default)]
    headers: Option<&'a RawValue>,
}

/// A value of null is a tombstone, an absent one a mistake.
fn null_is_present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A JSON text, copied only if it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn record(
    line: &[u8],
    cursors: &mut BTreeMap<u32, Cursor>,
    take: &mut impl FnMut(&RecordRef<'_>, Cursor),
) -> Result<(), String> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("not a JSON object of a record".into()); // a list would be taken by the order of the fields
    }
    let line: Line<'_> =
        serde_json::from_slice(line).map_err(|e| format!("not a JSON object of a record: {}", plain(&e)))?;
    let partition = number(line.partition, "partition")?.unwrap_or(0);
    let before = cursors.get(&partition).copied().unwrap_or(BEGINNING);
    let offset: u64 = number(line.offset, "offset")?.unwrap_or(before.next_offset);
    if offset < before.next_offset {
        return Err(format!(
            "field `offset`: {offset} does not ascend, the one before it in partition {partition} is {}",
            before.next_offset - 1
        ));
    }
    let next_offset = offset.checked_add(1).ok_or("field `offset`: too great")?;
    let timestamp = number(line.timestamp, "timestamp")?.unwrap_or(before.timestamp);
    let key = bytes_of(line.key, line.key_base64, "key")?;
    let payload = match (line.value, line.value_base64) {
        (None, None) => return Err("neither field `value` nor `value_base64` is there (null is a tombstone)".into()),
        (text, base64) => bytes_of(text, base64, "value")?,
    };
    let headers = line.headers.map(headers_of).transpose()?;
    let headers = headers.as_ref().map(|headers| (headers, 0));
    take(
        &RecordRef {
            partition,
            offset,
            append_time: timestamp,
            key: key.as_deref(),
            payload: payload.as_deref(),
            headers,
        },
        before,
    );
    cursors.insert(partition, Cursor { next_offset, timestamp });
    Ok(())
}

/// The record of one line of the format `records`, by itself.
pub(crate) fn record_of(line: &[u8]) -> Result<Records, String> {
    let mut records = Records::default();
    record(line, &mut BTreeMap::new(), &mut |record, _| records.push(*record))?;
    Ok(records)
}

/// The parser's words without its own line, which is always 1.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    format!("{reason} (column {})", error.column())
}

fn number<'a, T: Deserialize<'a>>(field: Option<&'a RawValue>, name: &str) -> Result<Option<T>, String> {
    field.map(|raw| serde_json::from_str(raw.get()).map_err(|e| format!("field `{name}`: {}", plain(&e)))).transpose()
}

/// A text or its base64 twin; none if it is null.
fn bytes_of<'a>(
    text: Option<&'a RawValue>,
    base64: Option<&'a RawValue>,
    name: &str,
) -> Result<Option<Cow<'a, [u8]>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("fields `{name}` and `{name}_base64` exclude each other")),
        (None, None) => Ok(None),
        (Some(raw), None) => Ok(text_of(raw, name)?.map(|text| match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })),
        (None, Some(raw)) => {
            let name = format!("{name}_base64");
            let decode =
                |text: Cow<'_, str>| STANDARD.decode(text.as_bytes()).map_err(|e| format!("field `{name}`: {e}"));
            Ok(text_of(raw, &name)?.map(decode).transpose()?.map(Cow::Owned))
        }
    }
}

fn text_of<'a>(raw: &'a RawValue, name: &str) -> Result<Option<Cow<'a, str>>, String> {
    let text: Option<Text<'a>> =
        serde_json::from_str(raw.get()).map_err(|e| format!("field `{name}`: {}", plain(&e)))?;
    Ok(text.map(|text| text.0))
}

/// The headers of one record.
fn headers_of(raw: &RawValue) -> Result<HeaderColumns, String> {
    const SHAPE: &str =
        "field `headers`: not an object or a list of pairs of a name and a text, null or {\"base64\": ...}";
    let mut headers = HeaderColumns::default();
    let value: Value = serde_json::from_str(raw.get()).map_err(|e| format!("field `headers`: {}", plain(&e)))?;
    match value {
        Value::Object(fields) => {
            for (name, value) in &fields {
                headers.push(name.as_bytes(), &header_value(value).ok_or(SHAPE)?);
            }
        }
        Value::Array(pairs) => {
            for pair in &pairs {
                let pair = pair.as_array().filter(|pair| pair.len() == 2).ok_or(SHAPE)?;
                let name = pair[0].as_str().ok_or(SHAPE)?;
                headers.push(name.as_bytes(), &header_value(&pair[1]).ok_or(SHAPE)?);
            }
        }
        _ => return Err(SHAPE.into()),
    }
    headers.end_record();
    Ok(headers)
}

fn header_value(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(fields) if fields.len() == 1 => STANDARD.decode(fields.get("base64")?.as_str()?).ok(),
        _ => None,
    }
}

/// A file that is being read.
pub struct FileSource {
    name: String,
    partitions: Vec<u32>,
    first_offsets: Vec<(u32, u64)>,
    arrivals: Option<Receiver<Result<Arrival, Error>>>,
    thread: Option<JoinHandle<()>>,
}

impl FileSource {
    /// Starts reading the partitions of `starts` of a file that [`inspect`] has read.
    pub fn open(mut index: Index, starts: &[Start]) -> Result<FileSource, Error> {
        let mut first_offsets =
            starts.iter().map(|s| Ok((s.partition, index.check(s)?))).collect::<Result<Vec<_>, Error>>()?;
        first_offsets.sort_unstable();
        let name = index.lines.name.clone();
        let (out, arrivals) = sync_channel(ARRIVALS);
        let reader = Reader::new(index, &first_offsets, out);
        let thread = thread::Builder::new()
            .name("file-read".into())
            .spawn(move || reader.run())
            .map_err(|e| Error::Unexpected(format!("no thread for the source: {e}")))?;
        let partitions = first_offsets.iter().map(|(p, _)| *p).collect();
        Ok(FileSource { name, partitions, first_offsets, arrivals: Some(arrivals), thread: Some(thread) })
    }

    /// The offset at which reading each partition started.
    pub fn first_offsets(&self) -> Vec<(u32, u64)> {
        self.first_offsets.clone()
    }

    /// The thread is gone: after the last arrival, or by a bug.
    fn over(&mut self, timeout: Duration) -> Result<Option<Arrival>, Error> {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            return Err(Error::Unexpected(format!("reading {} has panicked: this is a bug", self.name)));
        }
        thread::sleep(timeout);
        Ok(None)
    }
}

impl Source for FileSource {
    /// Nothing to do: a file is delivered by what each partition lags behind, a few chunks ahead of the merge.
    fn hold(&mut self, _partitions: &[u32]) {}

    fn partitions(&self) -> &[u32] {
        &self.partitions
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Arrival>, Error> {
        let arrivals = self.arrivals.as_ref().expect("the channel lives until the source is dropped");
        match arrivals.recv_timeout(timeout) {
            Ok(arrival) => arrival.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => self.over(timeout),
        }
    }

    fn ask(&mut self, _: &[u32], _: i64) {}

    fn commit(&mut self, _: &[(u32, u64)]) {}

    fn ends(&self) -> Option<Arc<Ends>> {
        None
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.arrivals = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::debug!(event = "source-thread-panicked", file = self.name, "source thread panicked");
        }
    }
}

/// The reading thread.
struct Reader {
    index: Index,
    tracks: Vec<Track>,
    /// Blocks in the order in which they were read, less what was delivered of them.
    cache: Vec<(usize, BTreeMap<u32, Records>)>,
    out: SyncSender<Result<Arrival, Error>>,
}

/// One partition on its way.
struct Track {
    partition: u32,
    /// Records before this offset are not wanted.
    from: u64,
    /// Blocks still to deliver, last first.
    blocks: Vec<usize>,
    /// The append time up to which records were delivered; none before the first.
    delivered: Option<i64>,
    ended: bool,
}

impl Track {
    fn needs(&self, number: usize) -> bool {
        self.blocks.binary_search_by(|block| number.cmp(block)).is_ok()
    }
}

impl Reader {
    fn new(index: Index, first_offsets: &[(u32, u64)], out: SyncSender<Result<Arrival, Error>>) -> Reader {
        let track = |&(partition, from): &(u32, u64)| {
            let wanted = |number: &usize| index.part(*number, partition).is_some_and(|part| part.last >= from);
            let blocks = index.extents.get(&partition).map_or(&[][..], |extent| &extent.blocks);
            Track {
                partition,
                from,
                blocks: blocks.iter().copied().filter(wanted).rev().collect(),
                delivered: None,
                ended: false,
            }
        };
        let tracks = first_offsets.iter().map(track).collect();
        Reader { index, tracks, cache: Vec::new(), out }
    }

    fn run(mut self) {
        while let Some(slot) = self.next_track() {
            let arrival = self.step(slot);
            let failed = arrival.is_err();
            if self.out.send(arrival).is_err() || failed {
                return;
            }
        }
    }

    /// The partition that a merge by (append time, partition) runs out of first.
    fn next_track(&self) -> Option<usize> {
        let running = self.tracks.iter().enumerate().filter(|(_, track)| !track.ended);
        running.min_by_key(|(_, track)| (track.delivered, track.partition)).map(|(slot, _)| slot)
    }

    fn step(&mut self, slot: usize) -> Result<Arrival, Error> {
        let (partition, from) = (self.tracks[slot].partition, self.tracks[slot].from);
        let Some(number) = self.tracks[slot].blocks.pop() else {
            self.tracks[slot].ended = true;
            return Ok(Arrival::End { partition });
        };
        let records = since(from, self.fetch(number, partition)?);
        let greatest = records.append_times.iter().copied().max().unwrap_or(NO_TIME);
        let track = &mut self.tracks[slot];
        track.delivered = Some(track.delivered.map_or(greatest, |before| before.max(greatest)));
        Ok(Arrival::Records { partition, records })
    }

    /// One partition's records of a block; the others' stay in the cache.
    fn fetch(&mut self, number: usize, partition: u32) -> Result<Records, Error> {
        let cached = self.cache.iter().position(|(n, records)| *n == number && records.contains_key(&partition));
        let at = match cached {
            Some(at) => at,
            None => {
                let mut records = self.index.read(number)?;
                records.retain(|p, _| {
                    *p == partition || self.tracks.iter().any(|track| track.partition == *p && track.needs(number))
                });
                self.cache.retain(|(n, _)| *n != number);
                if self.cache.len() == CACHED_BLOCKS {
                    self.cache.remove(0);
                }
                self.cache.push((number, records));
                self.cache.len() - 1
            }
        };
        let records = self.cache[at].1.remove(&partition).unwrap_or_default();
        if self.cache[at].1.is_empty() {
            self.cache.remove(at);
        }
        Ok(records)
    }
}

/// The records from an offset on.
fn since(from: u64, records: Records) -> Records {
    let first = records.offsets.partition_point(|offset| *offset < from);
    if first == 0 {
        return records;
    }
    let mut rest = Records::default();
    for row in first..records.len() {
        rest.push(records.get(row));
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn config(path: &std::path::Path, format: FileFormat) -> config::FileSource {
        config::FileSource {
            path: path.into(),
            format,
            timestamp_start_ms: Some(1_000),
            ordering: config::Ordering::Topic,
        }
    }

    fn indexed(text: impl AsRef<[u8]>, format: FileFormat) -> Result<Index, Error> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_ref()).expect("it can be written");
        inspect(&config(file.path(), format))
    }

    fn start(partition: u32) -> Start {
        Start { partition, ..Start::default() }
    }

    /// Everything that a source delivers, in the order of delivery.
    fn arrivals(index: Index, starts: &[Start]) -> Vec<Arrival> {
        let mut source = FileSource::open(index, starts).expect("the starts fit");
        let mut arrivals = Vec::new();
        let mut open = starts.len();
        while open > 0 {
            let arrival = source.next(PATIENCE).expect("the file is good").expect("it has an end");
            open -= usize::from(matches!(arrival, Arrival::End { .. }));
            arrivals.push(arrival);
        }
        arrivals
    }

    fn records_of(arrivals: &[Arrival], wanted: u32) -> Records {
        let mut all = Records::default();
        for arrival in arrivals {
            if let Arrival::Records { partition, records } = arrival
                && *partition == wanted
            {
                (0..records.len()).for_each(|row| all.push(records.get(row)));
            }
        }
        all
    }

    fn read(text: &str) -> Records {
        records_of(&arrivals(indexed(text, FileFormat::Records).expect("a good file"), &[start(0)]), 0)
    }

    fn refusal(text: impl AsRef<[u8]>) -> String {
        match indexed(text, FileFormat::Records) {
            Err(Error::Config(message)) => message,
            other => panic!("{other:?} is not a refusal"),
        }
    }

    #[test]
    fn a_line_carries_key_value_headers_offset_and_timestamp() {
        let records = read(concat!(
            r#"{"value":"a\nb","key":"k","offset":7,"timestamp":5,"headers":[["x","1"],["x",{"base64":"/w=="}],["y",null]],"reason":"?"}"#,
            "\n\n",
            r#"{"value_base64":"/w==","key_base64":"AA==","headers":{"z":"2"}}"#,
            "\r\n",
            r#"{"value":"","key":""}"#,
            "\n",
            r#"{"value":null,"key":null,"offset":20,"timestamp":4}"#,
        ));
        assert_eq!(records.offsets, [7, 8, 9, 20]);
        assert_eq!(records.append_times, [5, 5, 5, 4]);
        assert_eq!(records.get(0).payload, Some(&b"a\nb"[..]));
        let headers: Vec<_> = records.headers.of(0).collect();
        assert_eq!(headers, [(&b"x"[..], &b"1"[..]), (b"x", b"\xff"), (b"y", b"")]);
        assert_eq!((records.get(1).key, records.get(1).payload), (Some(&b"\0"[..]), Some(&b"\xff"[..])));
        assert_eq!((records.get(2).key, records.get(2).payload), (Some(&b""[..]), Some(&b""[..])));
        assert_eq!((records.get(3).key, records.get(3).payload), (None, None));
    }

    #[test]
    fn a_first_record_without_a_timestamp_has_none() {
        assert_eq!(
            read("{\"value\":\"a\"}\n{\"value\":\"b\",\"timestamp\":3}\n{\"value\":\"c\"}").append_times,
            [NO_TIME, 3, 3]
        );
    }

    #[test]
    fn a_line_that_is_no_record_is_refused_by_line_and_field() {
        let good = "{\"value\":\"a\"}\n";
        for (line, words) in [
            ("nonsense", "not a JSON object"),
            ("[1]", "not a JSON object"),
            (r#"{"value":1}"#, "`value`"),
            (r#"{"key":"k"}"#, "neither field `value`"),
            (r#"{"value":"a","value_base64":""}"#, "exclude"),
            (r#"{"value_base64":"?"}"#, "`value_base64`"),
            (r#"{"value":"a","partition":-1}"#, "`partition`"),
            (r#"{"value":"a","offset":1.5}"#, "`offset`"),
            (r#"{"value":"a","offset":0}"#, "does not ascend"),
            (r#"{"value":"a","timestamp":"now"}"#, "`timestamp`"),
            (r#"{"value":"a","headers":[["x"]]}"#, "`headers`"),
        ] {
            let message = refusal(format!("{good}{line}\n{good}"));
            assert!(message.contains(", line 2: ") && message.contains(words), "{line} gave: {message}");
        }
        assert!(refusal(b"{\"value\":\"\xff\"}").contains("line 1"));
    }

    #[test]
    fn payload_lines_count_offsets_and_timestamps() {
        let index = indexed("a\r\n\nlast", FileFormat::Payloads).expect("any file is one of payloads");
        let records = records_of(&arrivals(index, &[start(0)]), 0);
        assert_eq!(records.payloads.iter().collect::<Vec<_>>(), [&b"a"[..], b"", b"last"]);
        assert_eq!((records.offsets, records.append_times), (vec![0, 1, 2], vec![1_000, 1_001, 1_002]));
    }

    #[test]
    fn payload_lines_need_a_first_timestamp() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let config = config::FileSource { timestamp_start_ms: None, ..config(file.path(), FileFormat::Payloads) };
        let error = inspect(&config).expect_err("there is no timestamp");
        assert!(matches!(&error, Error::Config(text) if text.contains("source.file.timestamp_start")), "{error}");
    }

    #[test]
    fn an_empty_file_has_no_partition_and_a_missing_one_is_named() {
        assert_eq!(indexed("", FileFormat::Records).expect("empty is fine").partitions(), [0; 0]);
        let error =
            inspect(&config(std::path::Path::new("/nowhere/x.ndjson"), FileFormat::Records)).expect_err("no such file");
        assert!(matches!(&error, Error::Outside(text) if text.contains("/nowhere/x.ndjson")), "{error}");
    }

    /// `lines(i)` gives (partition, timestamp) of line `i`.
    fn log(count: u64, lines: impl Fn(u64) -> (u32, u64)) -> String {
        (0..count)
            .map(|i| (i, lines(i)))
            .map(|(i, (p, t))| format!("{{\"value\":\"{i}\",\"partition\":{p},\"timestamp\":{t}}}\n"))
            .collect()
    }

    /// Merges as a lane would, and gives the most records that it had to hold, and all append times in their order.
    fn merged(arrivals: &[Arrival], partitions: u32) -> (usize, Vec<i64>) {
        let mut queues: Vec<std::collections::VecDeque<i64>> = vec![Default::default(); partitions as usize];
        let mut ended = vec![false; partitions as usize];
        let (mut most, mut order) = (0, Vec::new());
        for arrival in arrivals {
            match arrival {
                Arrival::Records { partition, records } => queues[*partition as usize].extend(&records.append_times),
                Arrival::End { partition } => ended[*partition as usize] = true,
                Arrival::Empty { .. } => panic!("a file is not asked"),
            }
            most = most.max(queues.iter().map(|q| q.len()).sum());
            while queues.iter().zip(&ended).all(|(queue, ended)| *ended || !queue.is_empty())
                && let Some(at) = queues.iter().enumerate().filter_map(|(p, q)| Some((*q.front()?, p))).min()
            {
                order.extend(queues[at.1].pop_front());
            }
        }
        (most, order)
    }

    #[test]
    fn a_merge_holds_few_records_whatever_the_layout() {
        const COUNT: u64 = 60_000;
        type Layout = (&'static str, u32, fn(u64) -> (u32, u64));
        fn narrow(n: u64) -> u32 {
            u32::try_from(n).expect("a partition")
        }
        let layouts: [Layout; 4] = [
            ("interleaved", 4, |i| (narrow(i % 4), i)),
            ("one partition after the other", 2, |i| (narrow(i / 30_000), (i % 30_000) * 2)),
            ("the second long after the first", 2, |i| (narrow(i / 30_000), i)),
            ("the second long before the first", 2, |i| (narrow(i / 30_000), COUNT - i + (i % 30_000) * 2)),
        ];
        for (name, partitions, layout) in layouts {
            let index = indexed(log(COUNT, layout), FileFormat::Records).expect("a good file");
            let starts: Vec<Start> = (0..partitions).map(start).collect();
            let (most, order) = merged(&arrivals(index, &starts), partitions);
            assert_eq!(order.len() as u64, COUNT, "{name}");
            assert!(order.is_sorted(), "{name}");
            assert!(most <= 2 * BLOCK_LINES * partitions as usize, "{name}: the merge held {most}");
        }
    }

    #[test]
    fn reading_goes_on_at_the_next_offset() {
        let index = indexed(log(20_000, |i| ((i % 2) as u32, i)), FileFormat::Records).expect("a good file");
        let starts = [
            Start { partition: 0, next: Some(5_001), last: None },
            Start { partition: 1, next: Some(10_000), last: None },
        ];
        let arrivals = arrivals(index, &starts);
        assert_eq!(records_of(&arrivals, 0).offsets, (5_001..10_000).collect::<Vec<u64>>());
        assert!(records_of(&arrivals, 1).is_empty());
    }

    #[test]
    fn another_or_a_shorter_file_is_refused() {
        let text = log(10_000, |i| (0, i));
        let open = |start: Start| {
            FileSource::open(indexed(&text, FileFormat::Records).expect("a good file"), &[start]).map(drop)
        };
        let last = LastRecord { offset: 4_999, timestamp: 4_999, fingerprint: fingerprint(None, Some(b"4999")) };
        let next = Some(5_000);
        open(Start { partition: 0, next, last: Some(last.clone()) }).expect("it is the record");
        for start in [
            Start { partition: 0, next, last: Some(LastRecord { timestamp: 1, ..last.clone() }) },
            Start { partition: 0, next, last: Some(LastRecord { fingerprint: 1, ..last }) },
            Start { partition: 0, next: Some(10_001), last: None },
            Start { partition: 3, next: Some(1), last: None },
        ] {
            let error = open(start).expect_err("it is another file");
            assert!(matches!(error, Error::State(_)), "{error}");
        }
    }
}
