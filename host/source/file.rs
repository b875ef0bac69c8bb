//! A file as a source: finite, and never asked. It is read once to know its partitions and refuse what is not of its format, then
//! again, block by block, to deliver.
//!
//! `format = "records"`: one JSON object a line. `value` (text) or `value_base64`, null for a tombstone; `key` or `key_base64`, absent
//! or null for none; `partition` (0); `offset` (one more than the partition's last, ascending, gaps allowed); `timestamp` in ms (the
//! partition's last); `headers`, an object or a list of pairs, each value a text, null, or `{"base64": ...}`. Other fields are ignored:
//! a file of dead letters is such a file. Empty lines are skipped.
//! `format = "payloads"`: each line, without its end, is a payload of partition 0; its offset is its number from 0, its timestamp
//! `timestamp_start` plus that number in ms.
//! Of both, a last line without its line break is left for a later run, unless the file is said to be complete.
//!
//! Payloads of standard input are delivered as they come ([`stream`], D59); other input is read to its end first.
//!
//! Partitions are delivered so that a merge by append time never has to hold more than it must: the next chunk is always one of the
//! partition whose delivered records end earliest, which is the one that such a merge runs out of first. So, for any layout of the
//! file, about one block for each partition is under way, besides [`ARRIVALS`] in the channel and [`blocks::CACHED`] read ahead.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

mod blocks;
mod index;
mod lines;
mod stream;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::backoff;
use crate::failure::Failure;
use crate::observe::ends::Ends;
use crate::position::{Offset, Partition, TopicId};
use crate::source::{Arrival, Source, Start};
use blocks::Reader;

pub use index::{Index, inspect};
pub(crate) use lines::record_of;
pub use stream::{Contents, Stream, contents};

/// Arrivals that wait for the lane.
const ARRIVALS: usize = 4;

/// A file that is being read.
pub struct FileSource {
    name: String,
    partitions: Vec<Partition>,
    first_offsets: Vec<(Partition, Offset)>,
    arrivals: Option<Receiver<Result<Arrival, Failure>>>,
    thread: Option<JoinHandle<()>>,
    /// Whether the thread may wait for others without end.
    waits: bool,
}

/// Where a reading thread puts what it has read.
type Arrivals = SyncSender<Result<Arrival, Failure>>;

impl FileSource {
    /// Starts reading the partitions of `starts` of a file.
    pub fn open(contents: impl Into<Contents>, starts: &[Start]) -> Result<FileSource, Failure> {
        match contents.into() {
            Contents::Index(mut index) => {
                let mut first_offsets =
                    starts.iter().map(|s| Ok((s.partition, index.check(s)?))).collect::<Result<Vec<_>, Failure>>()?;
                first_offsets.sort_unstable();
                let (name, from) = (index.lines.name.clone(), first_offsets.clone());
                FileSource::read_by(first_offsets, false, name, move |out| Reader::new(index, &from, out).run())
            }
            Contents::Stream(stream) => {
                let (name, from) = (stream.name().to_owned(), stream.first_offsets(starts));
                let start = starts.first().cloned();
                FileSource::read_by(from, true, name, move |out| stream.run(start.as_ref(), &out))
            }
        }
    }

    fn read_by(
        first_offsets: Vec<(Partition, Offset)>,
        waits: bool,
        name: String,
        read: impl FnOnce(Arrivals) + Send + 'static,
    ) -> Result<FileSource, Failure> {
        let (out, arrivals) = sync_channel(ARRIVALS);
        let thread = thread::Builder::new()
            .name("file-read".into())
            .spawn(move || read(out))
            .map_err(|e| Failure::unexpected(format!("no thread for the source: {e}")))?;
        let partitions = first_offsets.iter().map(|(p, _)| *p).collect();
        Ok(FileSource { name, partitions, first_offsets, arrivals: Some(arrivals), thread: Some(thread), waits })
    }

    /// The offset at which reading each partition started.
    pub fn first_offsets(&self) -> Vec<(Partition, Offset)> {
        self.first_offsets.clone()
    }

    /// The thread is gone: after the last arrival, or by a bug.
    fn over(&mut self, timeout: Duration) -> Result<Option<Arrival>, Failure> {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            return Err(Failure::unexpected(format!("reading {} has panicked: this is a bug", self.name)));
        }
        backoff::pause(timeout);
        Ok(None)
    }
}

impl Source for FileSource {
    /// Nothing to do: a file is delivered by what each partition lags behind, a few chunks ahead of the merge.
    fn hold(&mut self, _partitions: &[Partition]) {}

    fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Arrival>, Failure> {
        let arrivals = self.arrivals.as_ref().expect("the channel lives until the source is dropped");
        match arrivals.recv_timeout(timeout) {
            Ok(arrival) => arrival.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => self.over(timeout),
        }
    }

    fn ask(&mut self, _: &[Partition], _: i64) {}

    fn commit(&mut self, _: &[(Partition, Offset)]) {}

    fn ends(&self) -> Option<Arc<Ends>> {
        None
    }

    fn ask_log_id(&mut self) {}

    fn log_id(&mut self) -> Result<Poll<Option<TopicId>>, Failure> {
        Ok(Poll::Ready(None))
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.arrivals = None;
        if self.waits && self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::debug!(event = "source-thread-panicked", file = self.name, "source thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::index::BLOCK_LINES;
    use super::*;
    use crate::config::{self, FileFormat};
    use crate::failure::Exit;
    use crate::position::{LastRecord, Resume, fingerprint};
    use crate::record::{NO_TIME, Records};
    use crate::source::merge::Merge;
    use std::collections::BTreeMap;
    use std::io::Write;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn config(path: &std::path::Path, format: FileFormat) -> config::FileSource {
        config::FileSource {
            path: path.into(),
            format,
            timestamp_start_ms: Some(1_000),
            ordering: config::Ordering::Topic,
            complete: true,
        }
    }

    fn indexed(text: impl AsRef<[u8]>, format: FileFormat) -> Result<Index, Failure> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_ref()).expect("it can be written");
        inspect(&config(file.path(), format))
    }

    fn start(partition: u32) -> Start {
        Start { partition: Partition(partition), ..Start::default() }
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
                && *partition == Partition(wanted)
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
            Err(Failure { exit: Exit::Config, message, .. }) => message,
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
    fn a_last_line_without_a_line_break_waits_unless_the_file_is_complete() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let offsets = |text: &str, complete: bool| {
            std::fs::write(file.path(), text).expect("it can be written");
            let config = config::FileSource { complete, ..config(file.path(), FileFormat::Records) };
            let index = inspect(&config).expect("a good file");
            let starts: Vec<Start> = index.partitions().iter().map(|p| start(p.0)).collect();
            records_of(&arrivals(index, &starts), 0).offsets
        };
        let one = "{\"value\":\"a\"}";
        assert_eq!(offsets(&format!("{one}\n{{\"val"), false), [0], "half a line is no error");
        assert_eq!(offsets(&format!("{one}\n{one}"), false), [0]);
        assert_eq!(offsets(&format!("{one}\n{one}"), true), [0, 1]);
        assert_eq!(offsets(one, false), [] as [u64; 0]);
        assert_eq!(offsets(&format!("{one}\n{one}\n"), false), [0, 1]);
    }

    #[test]
    fn what_is_not_lines_is_refused_by_name() {
        for (bytes, words) in [
            (&b"\x1f\x8b\x08\0"[..], "gzip"),
            (b"\x28\xb5\x2f\xfd\0", "zstd"),
            (b"BZh91AY", "bzip2"),
            (b"\xfd7zXZ\0\0", "xz"),
            (b"\x04\x22\x4d\x18", "lz4"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"{\0\"\0v\0", "UTF-16"),
            (b"\0{\0\"\0v", "UTF-16"),
            (b"\xff\xfe\0\0{\0\0\0", "UTF-32"),
            (b"{\0\0\0\"\0\0\0", "UTF-32"),
            (b"PK\x03\x04\x14\0", "zip"),
            (b"\xff\x06\0\0sNaPpY", "snappy"),
            (b" \n[{\"value\": 1}]", "JSON array"),
        ] {
            let message = refusal(bytes);
            assert!(message.contains(words) && message.contains("source.file.path"), "{bytes:?} gave: {message}");
        }
        let array = |text: &str| indexed(text, FileFormat::Payloads).map(drop);
        assert!(array("[\n  1,\n  2\n]\n").is_err());
        assert!(array("[{\"a\":1},\n{\"a\":2}]\n").is_err());
        array("[1,2]\n[3]\n").expect("lines may be arrays");
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_first_line() {
        let mark = "\u{feff}";
        assert_eq!(read(&format!("{mark}{{\"value\":\"a\"}}\n")).get(0).payload, Some(&b"a"[..]));
        let index = indexed(format!("{mark}a\nb\n"), FileFormat::Payloads).expect("a good file");
        let records = records_of(&arrivals(index, &[start(0)]), 0);
        assert_eq!(records.payloads.iter().collect::<Vec<_>>(), [&b"a"[..], b"b"]);
    }

    #[test]
    fn payload_lines_need_a_first_timestamp() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let config = config::FileSource { timestamp_start_ms: None, ..config(file.path(), FileFormat::Payloads) };
        let error = inspect(&config).expect_err("there is no timestamp");
        assert!(
            matches!(&error, Failure { exit: Exit::Config, message: text, .. } if text.contains("source.file.timestamp_start")),
            "{error}"
        );
    }

    #[test]
    fn an_empty_file_has_no_partition_and_a_missing_one_is_named() {
        assert_eq!(indexed("", FileFormat::Records).expect("empty is fine").partitions(), [] as [Partition; 0]);
        let error =
            inspect(&config(std::path::Path::new("/nowhere/x.ndjson"), FileFormat::Records)).expect_err("no such file");
        assert!(
            matches!(&error, Failure { exit: Exit::Outside, message: text, .. } if text.contains("/nowhere/x.ndjson")),
            "{error}"
        );
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
                Arrival::Records { partition, records } => queues[partition.0 as usize].extend(&records.append_times),
                Arrival::End { partition } => ended[partition.0 as usize] = true,
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
            Start { partition: Partition(0), next: Some(Offset(5_001)), last: None },
            Start { partition: Partition(1), next: Some(Offset(10_000)), last: None },
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
        let last = LastRecord {
            offset: Offset(4_999),
            timestamp: Some(4_999),
            fingerprint: fingerprint(None, Some(b"4999")),
            digest: None,
        };
        let next = Some(Offset(5_000));
        open(Start { partition: Partition(0), next, last: Some(last.clone()) }).expect("it is the record");
        for start in [
            Start { partition: Partition(0), next, last: Some(LastRecord { timestamp: Some(1), ..last.clone() }) },
            Start { partition: Partition(0), next, last: Some(LastRecord { fingerprint: 1, ..last }) },
            Start { partition: Partition(0), next: Some(Offset(10_001)), last: None },
            Start { partition: Partition(3), next: Some(Offset(1)), last: None },
        ] {
            let error = open(start).expect_err("it is another file");
            assert!(matches!(error, Failure { exit: Exit::State, .. }), "{error}");
        }
    }

    #[test]
    fn a_record_that_was_changed_before_the_last_one_is_refused_in_a_file_that_grew() {
        for (format, text) in [
            (FileFormat::Records, log(10_000, |i| ((i % 2) as u32, i))),
            (FileFormat::Payloads, log(10_000, |i| (0, i))),
        ] {
            // Where a checkpoint was, in the middle of a block.
            let at = Offset(4_500);
            let index = indexed(&text, format).expect("a good file");
            let partitions = index.partitions();
            let starts: Vec<Start> = partitions.iter().map(|p| start(p.0)).collect();
            let arrivals = arrivals(index, &starts);
            let last = |partition: Partition| {
                let mut merge = Merge::new(&[(partition, Resume::default())], 0, None, None, BTreeMap::new());
                for arrival in &arrivals {
                    if let Arrival::Records { partition: p, records } = arrival
                        && *p == partition
                    {
                        merge.push(partition, records.clone());
                    }
                }
                let mut out = Records::default();
                let count = usize::try_from(at.0).expect("small") + 1;
                merge.release(count, usize::MAX, &mut out);
                assert!(out.digests.is_empty(), "a lane's records are of several partitions");
                merge.resume()[0].1.last.clone().expect("it was released")
            };
            let starts: Vec<Start> = partitions
                .iter()
                .map(|&partition| Start { partition, next: Some(at.next()), last: Some(last(partition)) })
                .collect();
            assert!(
                starts
                    .iter()
                    .all(|start| start.last.as_ref().is_some_and(|last| last.offset == at && last.digest.is_some()))
            );
            let open = |text: &str, starts: &[Start]| {
                FileSource::open(indexed(text, format).expect("a good file"), starts)
                    .map(drop)
                    .map_err(|e| e.to_string())
            };
            assert_eq!(open(&text, &starts), Ok(()));
            assert_eq!(open(&format!("{text}{}", log(9_000, |i| (0, 20_000 + i))), &starts), Ok(()), "it grew");
            let changed = text.replacen("{\"value\":\"7\",", "{\"value\":\"x\",", 1);
            let refused = open(&changed, &starts).expect_err("record 7 is another one");
            let named = format!("partition {}: the records up to offset 4500", 7 % partitions.len());
            assert!(refused.contains(&named) && refused.contains("another state.url"), "{refused}");
            // What an earlier version wrote has no digest.
            let former: Vec<Start> = starts
                .iter()
                .map(|start| Start {
                    last: start.last.clone().map(|last| LastRecord { digest: None, ..last }),
                    ..start.clone()
                })
                .collect();
            assert_eq!(open(&changed, &former), Ok(()));
        }
    }
}
