//! Rows as the tests compare them: JSON objects in the form of the NDJSON sink, and a readable first difference.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

/// Rows of an NDJSON file. A last line that is cut off (the writer was killed in it) is left out.
pub(crate) fn from_ndjson(path: &Path) -> Vec<Value> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("cannot read {}: {error}", path.display()),
    };
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
    let parse = |(i, line): (usize, &[u8])| {
        serde_json::from_slice(line).unwrap_or_else(|error| {
            panic!("{} line {}: {error}: {}", path.display(), i + 1, String::from_utf8_lossy(line))
        })
    };
    bytes[..whole].split(|&b| b == b'\n').filter(|line| !line.is_empty()).enumerate().map(parse).collect()
}

/// Rows of an SQLite table, all columns but `skip`, in the order of the primary key; lists are read back from their JSON text.
pub(crate) fn from_sqlite(path: &Path, table: &str, skip: &[&str]) -> Vec<Value> {
    let database = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    let mut query = database.prepare(&format!("SELECT * FROM \"{table}\"")).expect("the table exists");
    let names: Vec<String> = query.column_names().map(str::to_owned).collect();
    let row = |row: &rusqlite::Row<'_>| {
        let mut object = json!({"table": table});
        for (i, name) in names.iter().enumerate().filter(|(_, name)| !skip.contains(&name.as_str())) {
            object[name] = sqlite_value(row.get_ref(i)?);
        }
        Ok(object)
    };
    let rows: rusqlite::Result<Vec<Value>> = query.query_map([], row).expect("the table can be read").collect();
    sorted(rows.expect("the table can be read"))
}

fn sqlite_value(value: rusqlite::types::ValueRef<'_>) -> Value {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => json!(n),
        ValueRef::Real(n) => json!(n),
        ValueRef::Blob(bytes) => json!(crate::support::generate::base64_of(bytes)),
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).expect("SQLite text is UTF-8");
            let list = text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten();
            list.unwrap_or_else(|| json!(text))
        }
    }
}

/// The rows in one order, whatever order they came in.
pub(crate) fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.sort_by_cached_key(canonical);
    rows
}

/// A text that is the same for equal rows, whatever order their fields came in.
fn canonical(row: &Value) -> String {
    match row {
        Value::Object(fields) => format!("{:?}", fields.iter().collect::<BTreeMap<_, _>>()),
        other => other.to_string(),
    }
}

/// What a table holds after these rows were written to it one after the other: the last of each primary key.
pub(crate) fn upserted(rows: &[Value], primary_key: &[&str]) -> Vec<Value> {
    let mut table = BTreeMap::new();
    for row in rows {
        let key: Vec<String> = primary_key.iter().map(|column| row[column].to_string()).collect();
        table.insert(key, row.clone());
    }
    sorted(table.into_values().collect())
}

/// Fails with the first difference, a few rows around it, and how many there are on either side.
#[track_caller]
pub(crate) fn assert_same(what: &str, got: &[Value], want: &[Value]) {
    let Some(at) = first_difference(got, want) else { return };
    let around = |rows: &[Value]| {
        let first = at.saturating_sub(2);
        let lines: Vec<String> =
            rows.iter().enumerate().skip(first).take(6).map(|(i, r)| format!("  {i:>7}  {r}")).collect();
        lines.join("\n")
    };
    let (got_rows, want_rows) = (got.len(), want.len());
    panic!(
        "{what}: rows differ from row {at} on\ngot ({got_rows} rows):\n{}\nwant ({want_rows} rows):\n{}",
        around(got),
        around(want)
    );
}

fn first_difference(got: &[Value], want: &[Value]) -> Option<usize> {
    match got.iter().zip(want).position(|(g, w)| g != w) {
        Some(at) => Some(at),
        None => (got.len() != want.len()).then(|| got.len().min(want.len())),
    }
}

/// All pages of session rows, in the rows' order.
pub(crate) fn pages(rows: &[Value]) -> Vec<String> {
    let texts = rows.iter().flat_map(|row| row["pages"].as_array().into_iter().flatten());
    texts.map(|page| page.as_str().expect("pages are texts").to_owned()).collect()
}
