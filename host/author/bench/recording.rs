//! The inputs of a plugin's calls, recorded for the same calls in native code. The format is that of `keyfold_sdk::bench`.

use crate::plugin::{FoldInput, Input, TimerInput};
use crate::record::{ByteColumn, Records};

/// Encoded calls, one after another.
pub(super) struct Recording(Vec<u8>);

impl Recording {
    /// Starts a recording with the configuration.
    pub(super) fn new(config: &str) -> Recording {
        let mut recording = Recording(Vec::new());
        recording.bytes_of(config.as_bytes());
        recording
    }

    /// Returns the encoded calls.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Appends a call; `headers` says whether the plugin reads headers.
    pub(super) fn add(&mut self, input: &Input<'_>, headers: bool) {
        match input {
            Input::MapRecords(records, range) => {
                let mut part = Records::default();
                part.append(records, range.clone());
                self.0.push(0);
                self.records(&part, headers);
            }
            Input::Fold(input) => {
                self.0.push(1);
                self.events(input);
            }
            Input::OnTimer(input) => {
                self.0.push(2);
                self.timers(input);
            }
        }
    }

    fn records(&mut self, records: &Records, headers: bool) {
        self.numbers(&records.partitions, |n| n.to_le_bytes());
        self.numbers(&records.offsets, |n| n.to_le_bytes());
        self.numbers(&records.append_times, |n| n.to_le_bytes());
        self.column(&records.keys);
        self.column(&records.payloads);
        self.numbers(&records.null_keys, |n| n.to_le_bytes());
        self.numbers(&records.null_payloads, |n| n.to_le_bytes());
        self.0.push(u8::from(headers));
        if headers {
            self.numbers(&records.headers.ends, |n| n.to_le_bytes());
            self.column(&records.headers.names);
            self.column(&records.headers.values);
        }
    }

    fn events(&mut self, input: &FoldInput) {
        self.column(&input.keys);
        self.bytes_of(&input.value_present);
        self.column(&input.values);
        self.numbers(&input.timers, |n| n.to_le_bytes());
        self.numbers(&input.event_ends, |n| n.to_le_bytes());
        self.column(&input.event_values);
        self.numbers(&input.event_times, |n| n.to_le_bytes());
        self.numbers(&input.watermarks, |n| n.to_le_bytes());
        self.numbers(&input.append_times, |n| n.to_le_bytes());
        self.numbers(&input.partitions, |n| n.to_le_bytes());
        self.numbers(&input.offsets, |n| n.to_le_bytes());
        self.numbers(&input.indexes, |n| n.to_le_bytes());
    }

    fn timers(&mut self, input: &TimerInput) {
        self.column(&input.keys);
        self.bytes_of(&input.value_present);
        self.column(&input.values);
        self.numbers(&input.list_ends, |n| n.to_le_bytes());
        self.column(&input.list_items);
        self.numbers(&input.timers, |n| n.to_le_bytes());
    }

    fn length(&mut self, items: usize) {
        let items = u32::try_from(items).expect("batches are cut by bytes below 4 GiB");
        self.0.extend_from_slice(&items.to_le_bytes());
    }

    fn bytes_of(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn numbers<const N: usize, T>(&mut self, numbers: &[T], bytes: impl Fn(&T) -> [u8; N]) {
        self.length(numbers.len());
        numbers.iter().for_each(|number| self.0.extend_from_slice(&bytes(number)));
    }

    fn column(&mut self, column: &ByteColumn) {
        self.bytes_of(&column.data);
        self.numbers(&column.ends, |n| n.to_le_bytes());
    }
}
