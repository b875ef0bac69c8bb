//! Rows as lines of JSON, to a file or to standard output: `{"table": "sessions", <columns in their order>}`, in the lane's order. A file
//! is cut back at recovery to what the checkpoint covers; standard output is at least once.
//!
//! Integers are numbers with all their 64 bits; a float that is not finite is null, as JSON has no word for it; timestamps are ISO text;
//! blobs are base64; JSON stands inline.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::append_file::AppendFile;
use crate::backoff::Outage;
use crate::clock;
use crate::config::NdjsonSink;
use crate::failure::{Check, Failure};
use crate::record::iso;
use crate::row::Image;
use crate::row::{Cell, RowRef, Rows, Table};
use crate::sink::{Error, Refusal, Sink, now_is_free};

/// Writes rows as lines of JSON.
#[derive(Debug)]
pub(super) struct Ndjson {
    output: Output,
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
    /// Opens the file, or takes standard output.
    pub(super) fn open(config: &NdjsonSink, tables: &Arc<[Table]>) -> Result<Ndjson, Error> {
        now_is_free("sink.ndjson", &config.now, tables)?;
        let output = if is_stdout(&config.path) {
            Output::Stdout(std::io::stdout())
        } else {
            Output::File(AppendFile::open(&config.path).map_err(outside)?)
        };
        Ok(Ndjson { output, now: config.now.clone(), lines: Vec::new() })
    }
}

/// The lines of `keyfold check`.
pub(super) fn check(config: &NdjsonSink, tables: &Arc<[Table]>) -> Vec<Check> {
    let found = now_is_free("sink.ndjson", &config.now, tables).and_then(|()| {
        if is_stdout(&config.path) {
            return Ok("rows go to standard output, at least once".to_owned());
        }
        AppendFile::check(&config.path).map_err(outside)
    });
    vec![match found {
        Ok(detail) => Check::fine("sink", detail),
        Err(e) => Check::refused("sink", Failure::from(e)),
    }]
}

impl Sink for Ndjson {
    fn write(&mut self, rows: &Rows) -> Result<Vec<Refusal>, Error> {
        self.lines.clear();
        let mut refusals = Vec::new();
        let now = (!self.now.is_empty()).then(|| iso(clock::now_ms()));
        for &row in &rows.order {
            if let Some(reason) = bad_json(rows, row) {
                refusals.push(refusal(rows, row, reason));
                continue;
            }
            begin_object(&mut self.lines, rows, row);
            for name in &self.now {
                put_member(&mut self.lines, name, |line| put_text(line, now.as_deref().unwrap_or_default()));
            }
            self.lines.extend_from_slice(b"}\n");
        }
        match &mut self.output {
            Output::File(file) => file.append(&self.lines).map_err(outside)?,
            Output::Stdout(stdout) => print(stdout, &self.lines)?,
        }
        Ok(refusals)
    }

    fn length(&mut self) -> Result<Option<u64>, Error> {
        match &mut self.output {
            Output::File(file) => file.sync().map(Some).map_err(outside),
            Output::Stdout(_) => Ok(None),
        }
    }

    fn truncate(&mut self, length: u64) -> Result<(), Error> {
        match &mut self.output {
            Output::File(file) => file.truncate(length).map_err(outside),
            Output::Stdout(_) => Ok(()),
        }
    }

    /// None: the file is cut back, and nobody takes back what was printed.
    fn images(&mut self, _rows: &Rows, _at: &[usize]) -> Result<Vec<Image>, Error> {
        Ok(Vec::new())
    }

    fn restore(&mut self, _images: &[Image]) -> Result<(), Error> {
        Ok(())
    }

    fn outage(&self) -> Arc<Outage> {
        match &self.output {
            Output::File(file) => file.outage(),
            Output::Stdout(_) => Arc::default(),
        }
    }
}

/// A refused row, in this sink's words whichever sink refused it.
pub(super) fn refusal(rows: &Rows, row: RowRef, reason: String) -> Refusal {
    let mut json = Vec::new();
    put_row(&mut json, rows, row);
    Refusal { row, json: String::from_utf8(json).expect("written from UTF-8 only"), reason }
}

/// Why the row's JSON is none, if so: every sink refuses it, so that a change of sink changes no row.
pub(crate) fn bad_json(rows: &Rows, row: RowRef) -> Option<String> {
    let columns = &rows.table(row).1.columns;
    rows.cells(row).zip(columns).find_map(|(cell, column)| match cell {
        Cell::Json(text) => {
            let error = serde_json::from_str::<&RawValue>(text).err()?;
            Some(format!("column {} is not JSON: {error}", column.name))
        }
        _ => None,
    })
}

/// `["a","b"]`, the text of a list.
pub(super) fn put_list(out: &mut Vec<u8>, mut items: impl Iterator<Item = impl serde::Serialize>) {
    out.push(b'[');
    if let Some(first) = items.next() {
        put(out, &first);
    }
    for item in items {
        out.push(b',');
        put(out, &item);
    }
    out.push(b']');
}

/// A row as this sink writes it, but for the time of writing and the end of the line.
pub(crate) fn put_row(line: &mut Vec<u8>, rows: &Rows, row: RowRef) {
    begin_object(line, rows, row);
    line.push(b'}');
}

/// Some columns of a row as an object, their values as [`put_row`] writes them.
pub(crate) fn put_columns(line: &mut Vec<u8>, rows: &Rows, row: RowRef, columns: &[usize]) {
    let (table, part) = (rows.table(row).1, &rows.parts[row.part as usize]);
    line.push(b'{');
    for (i, &column) in columns.iter().enumerate() {
        if i > 0 {
            line.push(b',');
        }
        put_text(line, &table.columns[column].name);
        line.push(b':');
        put_cell(line, part.columns[column].cell(row.row as usize));
    }
    line.push(b'}');
}

fn begin_object(line: &mut Vec<u8>, rows: &Rows, row: RowRef) {
    let table = rows.table(row).1;
    line.extend_from_slice(b"{\"table\":");
    put_text(line, &table.name);
    for (column, cell) in table.columns.iter().zip(rows.cells(row)) {
        put_member(line, &column.name, |line| put_cell(line, cell));
    }
}

fn put_member(line: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    line.push(b',');
    put_text(line, name);
    line.push(b':');
    value(line);
}

/// A value as [`put_row`] writes it.
pub(super) fn put_cell(line: &mut Vec<u8>, cell: Cell<'_>) {
    match cell {
        Cell::Null => line.extend_from_slice(b"null"),
        Cell::Boolean(value) => put(line, &value),
        Cell::Integer(value) => put(line, &value),
        Cell::Float(value) => put(line, &value),
        Cell::Timestamp(ms) => put_text(line, &iso(ms)),
        Cell::Text(text) => put_text(line, text),
        Cell::Blob(bytes) => {
            write!(line, "\"{}\"", Base64Display::new(bytes, &STANDARD)).expect("a Vec takes all");
        }
        Cell::TextList(list) => put_list(line, list.iter()),
        Cell::IntegerList(list) => put_list(line, list.iter()),
        Cell::Json(text) => put_json(line, text),
    }
}

/// JSON inline on one line: a line break in valid JSON is white space between values. What is no JSON (a refused row) stands as text.
fn put_json(line: &mut Vec<u8>, text: &str) {
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return put_text(line, text);
    }
    line.extend(text.bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
}

/// A JSON string.
pub(super) fn put_text(line: &mut Vec<u8>, text: &str) {
    put(line, text);
}

fn put<T: serde::Serialize + ?Sized>(line: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(line, value).expect("a Vec takes all, and scalars have no keys to refuse");
}

fn print(stdout: &mut std::io::Stdout, lines: &[u8]) -> Result<(), Error> {
    let mut stdout = stdout.lock();
    stdout.write_all(lines).and_then(|()| stdout.flush()).map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Error::Outside("standard output was closed by its reader".to_owned()),
        _ => Error::Outside(format!("standard output: {e}")),
    })
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn outside(message: String) -> Error {
    Error::Outside(format!("sink.ndjson: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::samples;

    fn lines(now: &[&str], rows: &Rows) -> (String, Vec<Refusal>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config =
            NdjsonSink { path: folder.path().join("rows.ndjson"), now: now.iter().map(|n| (*n).to_owned()).collect() };
        let mut sink = Ndjson::open(&config, &rows.tables).expect("opens");
        let refusals = sink.write(rows).expect("writes");
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
    fn a_row_whose_json_is_none_is_refused_and_the_others_are_written() {
        let (text, refusals) = lines(&[], &samples::documents(&["{\"a\":1}", "{oops"]));
        assert_eq!(text, "{\"table\":\"documents\",\"id\":0,\"doc\":{\"a\":1}}\n");
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].json, "{\"table\":\"documents\",\"id\":1,\"doc\":\"{oops\"}");
        assert!(refusals[0].reason.starts_with("column doc is not JSON: "), "{}", refusals[0].reason);
    }

    #[test]
    fn there_is_nothing_to_put_back_in_a_file_that_is_cut_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = NdjsonSink { path: folder.path().join("rows.ndjson"), now: Vec::new() };
        let rows = samples::sessions(&[(1, 1, &["A.html"])]);
        let mut sink = Ndjson::open(&config, &rows.tables).expect("opens");
        sink.write(&rows).expect("writes");
        let length = sink.length().expect("syncs");
        assert_eq!(sink.images(&rows, &[0]).expect("reads nothing"), []);
        sink.restore(&[]).expect("does nothing");
        assert_eq!(sink.length().expect("syncs"), length);
    }

    #[test]
    fn a_column_of_the_plugin_cannot_be_filled_by_the_host() {
        let config = NdjsonSink { path: "-".into(), now: vec!["pages".to_owned()] };
        let tables = samples::sessions(&[]).tables;
        let error = Ndjson::open(&config, &tables).expect_err("is refused");
        assert!(matches!(error, Error::Config(_)));
        assert_eq!(
            error.to_string(),
            "sink.ndjson.now: column pages of table sessions is one of the plugin's own, the host cannot fill it; take it out of `now`"
        );
    }
}
