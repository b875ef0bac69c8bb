//! The native side of `keyfold plugin bench`: makes the calls that a host recorded, without a sandbox, and measures how long they take.
//!
//! A recording is the configuration, followed by calls. A call is a byte for its function (0 `map-records`, 1 `fold`, 2 `on-timer`),
//! followed by the columns in the contract's order. The configuration and each list of a column are written as a length (u32) and the items,
//! all little-endian. A byte before the headers says whether there are any (0 or 1).

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::Mapper;
use crate::glue::Instance;
use crate::raw::{ByteColumn, FoldBatch, HeaderColumns, RecordBatch, TextColumn, TimerBatch};

/// Runs the benchmark program that `keyfold plugin bench` builds. Its arguments are the recording's file and the number of runs. It prints
/// as JSON the shortest time of each function, in nanoseconds, and how many events, rows and rejections one run gives.
#[doc(hidden)]
pub fn main<M: Mapper>() {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().expect("the host passes a recording");
    let times: u32 = arguments.next().and_then(|times| times.parse().ok()).expect("the host passes the number of runs");
    let recording = std::fs::read(&file).unwrap_or_else(|error| panic!("cannot read {file}: {error}"));
    println!("{}", run::<M>(&recording, times));
}

fn run<M: Mapper>(recording: &[u8], times: u32) -> String {
    let mut reader = Reader(recording);
    let config = String::from_utf8(reader.bytes()).expect("the host writes UTF-8");
    let calls: Vec<Call> = std::iter::from_fn(|| reader.call()).collect();
    let instance = Instance::<M>::configure(&config).unwrap_or_else(|reason| panic!("configure failed: {reason}"));
    let mut least = [Duration::MAX; 3];
    let mut found = Found::default();
    for _ in 0..times.max(1) {
        let mut sums = [Duration::ZERO; 3];
        found = Found::default();
        for call in &calls {
            let began = Instant::now();
            let function = call.make(&instance, &mut found);
            sums[function] += began.elapsed();
        }
        least.iter_mut().zip(sums).for_each(|(least, sum)| *least = sum.min(*least));
    }
    let [map, fold, timer] = least.map(|time| time.as_nanos());
    let Found { events, rows, rejections } = found;
    format!(
        r#"{{"map-records":{map},"fold":{fold},"on-timer":{timer},"events":{events},"rows":{rows},"rejections":{rejections}}}"#
    )
}

enum Call {
    MapRecords(RecordBatch),
    Fold(FoldBatch),
    OnTimer(TimerBatch),
}

/// How much the calls returned.
#[derive(Default)]
struct Found {
    events: usize,
    rows: usize,
    rejections: usize,
}

impl Call {
    /// Makes the call and returns the number of its function.
    fn make<M: Mapper>(&self, instance: &Instance<M>, found: &mut Found) -> usize {
        let (function, changes) = match self {
            Call::MapRecords(batch) => {
                let events = black_box(instance.map_records(black_box(batch)));
                found.events += events.records.len();
                found.rejections += events.rejections.len();
                return 0;
            }
            Call::Fold(batch) => (1, black_box(instance.fold(black_box(batch)))),
            Call::OnTimer(batch) => (2, black_box(instance.on_timer(black_box(batch)))),
        };
        found.rows += changes.rows.iter().map(|batch| batch.items.len()).sum::<usize>();
        found.rejections += changes.rejections.len();
        function
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn length(&mut self) -> usize {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes")) as usize
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.length();
        self.take(length).to_vec()
    }

    fn numbers<const N: usize, T>(&mut self, number: fn([u8; N]) -> T) -> Vec<T> {
        let length = self.length();
        let items = self.take(length * N).chunks_exact(N);
        items.map(|item| number(item.try_into().expect("chunks of that size"))).collect()
    }

    fn byte_column(&mut self) -> ByteColumn {
        ByteColumn { data: self.bytes(), ends: self.numbers(u32::from_le_bytes) }
    }

    fn text_column(&mut self) -> TextColumn {
        TextColumn { data: self.bytes(), ends: self.numbers(u32::from_le_bytes) }
    }

    fn call(&mut self) -> Option<Call> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.byte() {
            0 => Call::MapRecords(self.records()),
            1 => Call::Fold(self.events()),
            2 => Call::OnTimer(self.timers()),
            other => panic!("the recording has a call of unknown function {other}"),
        })
    }

    fn records(&mut self) -> RecordBatch {
        RecordBatch {
            partitions: self.numbers(u32::from_le_bytes),
            offsets: self.numbers(u64::from_le_bytes),
            append_times: self.numbers(i64::from_le_bytes),
            keys: self.byte_column(),
            payloads: self.byte_column(),
            null_keys: self.numbers(u32::from_le_bytes),
            null_payloads: self.numbers(u32::from_le_bytes),
            headers: (self.byte() == 1).then(|| HeaderColumns {
                ends: self.numbers(u32::from_le_bytes),
                names: self.text_column(),
                values: self.byte_column(),
            }),
        }
    }

    fn events(&mut self) -> FoldBatch {
        FoldBatch {
            keys: self.text_column(),
            value_present: self.bytes(),
            values: self.byte_column(),
            timers: self.numbers(i64::from_le_bytes),
            event_ends: self.numbers(u32::from_le_bytes),
            event_values: self.byte_column(),
            event_times: self.numbers(i64::from_le_bytes),
            watermarks: self.numbers(i64::from_le_bytes),
            append_times: self.numbers(i64::from_le_bytes),
            partitions: self.numbers(u32::from_le_bytes),
            offsets: self.numbers(u64::from_le_bytes),
            indexes: self.numbers(u32::from_le_bytes),
        }
    }

    fn timers(&mut self) -> TimerBatch {
        TimerBatch {
            keys: self.text_column(),
            value_present: self.bytes(),
            values: self.byte_column(),
            list_ends: self.numbers(u32::from_le_bytes),
            list_items: self.byte_column(),
            timers: self.numbers(i64::from_le_bytes),
        }
    }
}
