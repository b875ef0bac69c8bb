//! Payloads of standard input, delivered as they come. There is one partition, and nothing can be read twice: what a state was built from
//! is compared on the way to where it goes on, and no record is delivered before that.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Arrivals;
use super::blocks::since;
use super::index::{Index, MOST_LINE_BYTES, inspect, last_is, too_short};
use super::lines::Lines;
use crate::config::{self, FileFormat};
use crate::failure::{Exit, Failure};
use crate::position::{LastRecord, Offset, Partition};
use crate::record::Records;
use crate::source::{Arrival, Start};

/// The partition of payloads.
const PARTITION: Partition = Partition(0);

/// Bytes that are read at once, at most.
const BUFFER: usize = 1 << 20;

/// Whether standard input is being read.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What there is to read.
#[derive(Debug)]
pub enum Contents {
    /// A file that was read once.
    Index(Index),
    /// Standard input, of which nothing is known yet.
    Stream(Stream),
}

impl From<Index> for Contents {
    fn from(index: Index) -> Contents {
        Contents::Index(index)
    }
}

impl Contents {
    /// Returns the partitions, ascending.
    pub fn partitions(&self) -> Vec<Partition> {
        match self {
            Contents::Index(index) => index.partitions(),
            Contents::Stream(_) => vec![PARTITION],
        }
    }
}

/// Payloads of standard input.
#[derive(Debug)]
pub struct Stream {
    lines: Lines,
}

/// Looks at a file: reads it once, unless it can be read as it comes.
pub fn contents(config: &config::FileSource) -> Result<Contents, Failure> {
    if config.is_standard_input() && config.format == FileFormat::Payloads {
        return Ok(Contents::Stream(Stream { lines: Lines::new(config)? }));
    }
    inspect(config).map(Contents::Index)
}

impl Stream {
    pub(super) fn name(&self) -> &str {
        &self.lines.name
    }

    pub(super) fn first_offsets(&self, starts: &[Start]) -> Vec<(Partition, Offset)> {
        starts.iter().map(|start| (start.partition, start.next.unwrap_or(Offset(0)))).collect()
    }

    /// Reads standard input to its end, or until nobody takes what arrives.
    pub(super) fn run(self, start: Option<&Start>, out: &Arrivals) {
        if TAKEN.swap(true, Ordering::Relaxed) {
            let message = format!("{} is read once, and it is being read: name a file", self.lines.name);
            return drop(out.send(Err(Failure::new(Exit::Config, message))));
        }
        self.deliver(&mut BufReader::with_capacity(BUFFER, io::stdin()), start, out);
    }

    /// Delivers what comes, and why nothing more does.
    fn deliver(self, input: &mut impl BufRead, start: Option<&Start>, out: &Arrivals) {
        let mut reading = Reading::new(self.lines, start);
        loop {
            let arrival = match reading.next(input) {
                Ok(Some(records)) if records.is_empty() => continue,
                Ok(Some(records)) => Ok(Arrival::Records { partition: PARTITION, records }),
                Ok(None) => Ok(Arrival::End { partition: PARTITION }),
                Err(failure) => Err(failure),
            };
            let goes_on = matches!(arrival, Ok(Arrival::Records { .. }));
            if out.send(arrival).is_err() || !goes_on {
                return;
            }
        }
    }
}

/// A stream, up to the line that it has come to.
struct Reading {
    lines: Lines,
    /// Records before this offset are not wanted.
    from: Offset,
    /// The last record that the state was built from.
    last: Option<LastRecord>,
    /// Lines so far.
    count: u64,
    cursors: BTreeMap<Partition, super::lines::Cursor>,
    /// A line of which the rest is to come.
    begun: Vec<u8>,
}

impl Reading {
    fn new(lines: Lines, start: Option<&Start>) -> Reading {
        let from = start.and_then(|start| start.next).unwrap_or(Offset(0));
        let last = start.and_then(|start| start.last.clone());
        Reading { lines, from, last, count: 0, cursors: BTreeMap::new(), begun: Vec::new() }
    }

    /// The records of the lines that have come, maybe none; nothing at the end.
    fn next(&mut self, input: &mut impl BufRead) -> Result<Option<Records>, Failure> {
        let came = loop {
            match input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                came => break came.map_err(|error| self.lines.unreadable(&error))?,
            }
        };
        let (whole, rest) = match memchr::memrchr(b'\n', came) {
            Some(at) => came.split_at(at + 1),
            None => (&[][..], came),
        };
        let at_end = came.is_empty();
        let mut bytes = Vec::new();
        if at_end || !whole.is_empty() {
            bytes = std::mem::take(&mut self.begun);
            bytes.extend_from_slice(whole);
        }
        self.begun.extend_from_slice(rest);
        let taken = came.len();
        input.consume(taken);
        if self.begun.len() > MOST_LINE_BYTES {
            self.check_beginning(&self.begun)?;
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            return Err(self.lines.too_long(self.count + lines + 1));
        }
        if !bytes.is_empty() {
            return self.records(&bytes).map(Some);
        }
        if !at_end {
            return Ok(Some(Records::default()));
        }
        if self.count < self.from.0 {
            return Err(too_short(&self.lines.name, PARTITION, self.from, Offset(self.count)));
        }
        Ok(None)
    }

    fn check_beginning(&self, bytes: &[u8]) -> Result<(), Failure> {
        if self.count == 0 { self.lines.check_beginning(bytes) } else { Ok(()) }
    }

    fn records(&mut self, bytes: &[u8]) -> Result<Records, Failure> {
        self.check_beginning(bytes)?;
        let (mut records, mut fits) = (Records::default(), Ok(()));
        let (name, last) = (&self.lines.name, &self.last);
        let mut count = 0;
        self.lines.parse(bytes, self.count, &mut self.cursors, |record, _, digest| {
            if let Some(last) = last.as_ref().filter(|last| last.offset.0 == record.offset) {
                fits = last_is(name, last, record, Some(digest));
            }
            records.push_bounded(*record, None);
            records.digests.push(digest);
            count += 1;
        })?;
        self.count += count;
        fits.map(|()| since(self.from, records))
    }
}
