//! Rows as lines of JSON (see [`crate::row::json`]), in the lane's order, to a file or to standard output. After a crash a file is truncated
//! to the length that the checkpoint covers; standard output is at least once.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::append_file::AppendFile;
use crate::backoff::Outage;
use crate::clock;
use crate::config::NdjsonSink;
use crate::failure::{Check, Failure};
use crate::printable::Printed;
use crate::private;
use crate::record::iso;
use crate::row::json::{begin_row, invalid_json, write_text};
use crate::row::{Image, Rows, Table};
use crate::sink::{Owner, Refusal, Sink, refuse_declared_now_columns};

/// Writes rows as lines of JSON.
#[derive(Debug)]
pub(super) struct Ndjson {
    output: Output,
    /// Columns that the host fills with the time of writing.
    now: Vec<String>,
    /// The lines of one `write`, kept for its capacity.
    lines: Vec<u8>,
}

#[derive(Debug)]
enum Output {
    File(AppendFile),
    Stdout(std::io::Stdout),
}

impl Ndjson {
    /// Opens the file, or standard output.
    pub(super) fn open(config: &NdjsonSink, tables: &Arc<[Table]>) -> Result<Ndjson, Failure> {
        refuse_declared_now_columns("sink.ndjson", &config.now, tables)?;
        let output = if is_stdout(&config.path) {
            Output::Stdout(std::io::stdout())
        } else {
            private::create_readable(&config.path);
            Output::File(AppendFile::open(&config.path).map_err(outside)?)
        };
        Ok(Ndjson { output, now: config.now.clone(), lines: Vec::new() })
    }
}

/// Returns the lines of `keyfold check`.
pub(super) fn check(config: &NdjsonSink, tables: &Arc<[Table]>) -> Vec<Check> {
    let found = refuse_declared_now_columns("sink.ndjson", &config.now, tables).and_then(|()| {
        if is_stdout(&config.path) {
            return Ok("rows go to standard output, at least once".to_owned());
        }
        AppendFile::check(&config.path).map_err(outside)
    });
    vec![match found {
        Ok(detail) => Check::fine("sink", detail),
        Err(failure) => Check::refused("sink", failure),
    }]
}

impl Sink for Ndjson {
    fn claim(&mut self, deadline: Instant) -> Result<(), Failure> {
        match &mut self.output {
            Output::File(file) => file.claim(deadline).map_err(outside),
            Output::Stdout(_) => Ok(()),
        }
    }

    /// Asks no owner: only one host has claimed the file.
    fn write(&mut self, rows: &Rows, _owner: &dyn Owner) -> Result<Vec<Refusal>, Failure> {
        self.lines.clear();
        let mut refusals = Vec::new();
        let now = iso(clock::now_ms());
        for &row in &rows.order {
            if let Some(reason) = invalid_json(rows, row) {
                refusals.push(Refusal::of(rows, row, reason));
                continue;
            }
            begin_row(&mut self.lines, rows, row);
            for name in &self.now {
                self.lines.push(b',');
                write_text(&mut self.lines, name);
                self.lines.push(b':');
                write_text(&mut self.lines, &now);
            }
            self.lines.extend_from_slice(b"}\n");
        }
        match &mut self.output {
            Output::File(file) => file.append(&self.lines).map_err(outside)?,
            Output::Stdout(stdout) => print(stdout, &self.lines)?,
        }
        Ok(refusals)
    }

    fn length(&mut self) -> Result<Option<u64>, Failure> {
        match &mut self.output {
            Output::File(file) => file.sync().map(Some).map_err(outside),
            Output::Stdout(_) => Ok(None),
        }
    }

    fn truncate(&mut self, length: u64) -> Result<(), Failure> {
        match &mut self.output {
            Output::File(file) => file.truncate(length).map_err(outside),
            Output::Stdout(_) => Ok(()),
        }
    }

    fn end_line(&mut self, ours: Option<u64>) -> Result<(), Failure> {
        match &mut self.output {
            Output::File(file) => file.end_line(ours).map_err(outside),
            Output::Stdout(_) => Ok(()),
        }
    }

    /// Returns none: a file is truncated instead, and printed lines cannot be taken back.
    fn images(&mut self, _rows: &Rows, _at: &[usize]) -> Result<Vec<Image>, Failure> {
        Ok(Vec::new())
    }

    fn restore(&mut self, _images: &[Image], _owner: &dyn Owner) -> Result<(), Failure> {
        Ok(())
    }

    fn outage(&self) -> Arc<Outage> {
        match &self.output {
            Output::File(file) => file.outage(),
            Output::Stdout(_) => Arc::default(),
        }
    }
}

fn print(stdout: &mut std::io::Stdout, lines: &[u8]) -> Result<(), Failure> {
    let mut stdout = Printed(stdout.lock());
    stdout.write_all(lines).and_then(|()| stdout.flush()).map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => {
            Failure::outside("cannot write rows to standard output: its reader has closed it")
        }
        _ => Failure::outside(format!("cannot write rows to standard output: {e}")),
    })
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn outside(message: String) -> Failure {
    Failure::outside(format!("sink.ndjson: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use crate::sink::samples::{self, OWNER};

    fn lines(now: &[&str], rows: &Rows) -> (String, Vec<Refusal>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config =
            NdjsonSink { path: folder.path().join("rows.ndjson"), now: now.iter().map(|n| (*n).to_owned()).collect() };
        let mut sink = Ndjson::open(&config, &rows.tables).expect("opens");
        let refusals = sink.write(rows, &OWNER).expect("writes");
        let length = sink.length().expect("syncs").expect("is a file");
        let text = std::fs::read_to_string(&config.path).expect("reads");
        assert_eq!(length, text.len() as u64);
        (text, refusals)
    }

    #[test]
    fn every_type_has_its_form_on_one_line_in_the_lanes_order() {
        let (text, refusals) = lines(&[], &samples::all_types());
        assert_eq!(refusals, []);
        assert_eq!(
            text,
            "{\"table\":\"every type\",\"id\":9223372036854775807,\"yes\":true,\"ratio\":0.1,\"at\":\"2024-10-02T12:55:19.148Z\",\
             \"name\":\"tab\\tand \\\"quote\\\"\",\"bytes\":\"AP8=\",\"pages\":[\"A.html\",\"\"],\"counts\":[-1,2],\"doc\":{ \"a\":[1.50]}}\n\
             {\"table\":\"every type\",\"id\":-1,\"yes\":null,\"ratio\":null,\"at\":null,\"name\":null,\"bytes\":null,\"pages\":null,\
             \"counts\":null,\"doc\":null}\n\
             {\"table\":\"every type\",\"id\":0,\"yes\":false,\"ratio\":null,\"at\":\"-0001-01-01T00:00:00.000Z\",\"name\":\"\",\
             \"bytes\":\"\",\"pages\":[],\"counts\":[],\"doc\":null}\n"
                .replace("-0001-01-01", "-000001-01-01")
        );
    }

    #[test]
    fn the_time_of_writing_comes_last() {
        let (text, _) = lines(&["ingestion_time"], &samples::sessions(&[(1, 1, &["A.html"])]));
        let row: serde_json::Value = serde_json::from_str(&text).expect("one line of JSON");
        let names: Vec<&String> = row.as_object().expect("an object").keys().collect();
        assert_eq!(names, ["table", "session_id", "user_id", "pages", "ingestion_time"]);
        let time: jiff::Timestamp = row["ingestion_time"].as_str().expect("text").parse().expect("ISO");
        assert!((clock::now_ms() - time.as_millisecond()).abs() < 60_000);
    }

    #[test]
    fn a_row_with_invalid_json_is_refused_and_the_others_are_written() {
        let (text, refusals) = lines(&[], &samples::documents(&["{\"a\":1}", "{oops"]));
        assert_eq!(text, "{\"table\":\"documents\",\"id\":0,\"doc\":{\"a\":1}}\n");
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].json, "{\"table\":\"documents\",\"id\":1,\"doc\":\"{oops\"}");
        assert!(refusals[0].reason.starts_with("column doc is not valid JSON: "), "{}", refusals[0].reason);
    }

    #[test]
    fn a_file_that_is_truncated_has_nothing_to_put_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = NdjsonSink { path: folder.path().join("rows.ndjson"), now: Vec::new() };
        let rows = samples::sessions(&[(1, 1, &["A.html"])]);
        let mut sink = Ndjson::open(&config, &rows.tables).expect("opens");
        sink.write(&rows, &OWNER).expect("writes");
        let length = sink.length().expect("syncs");
        assert_eq!(sink.images(&rows, &[0]).expect("reads nothing"), []);
        sink.restore(&[], &OWNER).expect("does nothing");
        assert_eq!(sink.length().expect("syncs"), length);
    }

    #[test]
    fn a_column_of_the_plugin_cannot_be_filled_by_the_host() {
        let config = NdjsonSink { path: "-".into(), now: vec!["pages".to_owned()] };
        let tables = samples::sessions(&[]).tables;
        let error = Ndjson::open(&config, &tables).expect_err("is refused");
        assert_eq!(error.exit, Exit::Config);
        assert_eq!(
            error.to_string(),
            "sink.ndjson.now: the host cannot fill column pages of table sessions: the plugin declares it; remove it from `now`"
        );
    }
}
