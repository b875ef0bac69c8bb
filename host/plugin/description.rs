//! What a plugin declares about itself: asked for, and checked against the contract's rules.

use std::sync::Arc;

use wasmtime::Engine;

use crate::failure::Failure;
use crate::plugin::bindings::exports::keyfold::mapper::mapper as wit;
use crate::plugin::schema::Schema;
use crate::plugin::{Fault, Limits, bindings, instance};
use crate::printable::printable;
use crate::row::{ColumnSpec, ColumnType, Table};

/// Limit of each name and version, characters: they are labels of metrics and stand in log lines and errors.
const LONGEST_NAME: usize = 100;
/// Tables of a plugin, and columns of a table; SQLite allows 2,000 columns.
const MOST_TABLES: usize = 1_000;
const MOST_COLUMNS: usize = 1_000;
/// How the tables begin that the host itself keeps in a database.
const OWN_TABLES: &str = "_keyfold";

/// What a plugin declares about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The version of its state's encoding; counts from 1.
    pub state_version: u32,
    /// The tables that it emits rows for.
    pub tables: Arc<[Table]>,
    /// How its state is encoded, if it says so.
    pub encodings: Option<Encodings>,
    /// The JSON Schema of its configuration.
    pub config_schema: String,
    /// Whether `map-records` needs the records' headers.
    pub wants_headers: bool,
}

/// The key of a configuration's schema under which a plugin says how its state is encoded; the contract has no place of its own for it.
const ENCODINGS: &str = "x-keyfold-state";

/// How a plugin encodes its state. A plugin that says so also answers `migrate` from its own state version: it reads the state, and gives it
/// back. Each text changes when the encoding does; none is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Encodings {
    /// Of value states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Of list items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
}

impl Encodings {
    /// Returns what differs between this and a former one, naming both; what is not known on both sides is not compared.
    pub fn difference(&self, former: &Encodings) -> Option<String> {
        let parts = [("a value", &former.value, &self.value), ("a list item", &former.item, &self.item)];
        let differs = |(what, was, is): (&str, &Option<String>, &Option<String>)| {
            let (was, is) = was.as_ref().zip(is.as_ref()).filter(|(was, is)| was != is)?;
            Some(format!("{what} is encoded as `{is}`, but was as `{was}`"))
        };
        let found: Vec<String> = parts.into_iter().filter_map(differs).collect();
        (!found.is_empty()).then(|| found.join("; "))
    }
}

/// Takes what a schema says of the state out of it.
fn split_schema(schema: String) -> (Option<Encodings>, String) {
    let Ok(serde_json::Value::Object(mut object)) = serde_json::from_str(&schema) else { return (None, schema) };
    match object.shift_remove(ENCODINGS).and_then(|value| serde_json::from_value(value).ok()) {
        Some(encodings) => (Some(encodings), serde_json::Value::Object(object).to_string()),
        None => (None, schema),
    }
}

/// Asks a plugin for its description, and checks it; returns the schema of its configuration too.
pub(super) fn describe(
    engine: &Engine,
    pre: &bindings::PluginPre<instance::Guest>,
    limits: Limits,
) -> Result<(Description, Schema), Failure> {
    let raw = instance::describe(engine, pre, limits).map_err(|fault| match fault {
        Fault::Plugin(reason) => Failure::plugin(format!("`describe` failed: {reason}")),
        Fault::Host(reason) => Failure::unexpected(reason),
    })?;
    let tables: Arc<[Table]> = raw.tables.into_iter().map(table).collect();
    let (encodings, config_schema) = split_schema(raw.config_schema);
    let description = Description {
        name: raw.name,
        version: raw.version,
        state_version: raw.state_version,
        tables,
        encodings,
        config_schema,
        wants_headers: raw.wants_headers,
    };
    let schema = check_description(&description)?;
    Ok((description, schema))
}

/// Checks a configuration against the schema; the failure names everything that does not fit.
pub(super) fn check_config(schema: &Schema, config: &serde_json::Value) -> Result<(), Failure> {
    match &schema.findings(config)[..] {
        [] => Ok(()),
        [finding] => Err(Failure::plugin(format!("the configuration does not fit its schema: {finding}"))),
        findings => {
            let lines: Vec<String> = findings.iter().map(|finding| format!("\n  {finding}")).collect();
            Err(Failure::plugin(format!("the configuration does not fit its schema:{}", lines.concat())))
        }
    }
}

fn check_description(description: &Description) -> Result<Schema, Failure> {
    let invalid = |what: String| Failure::plugin(format!("its description is invalid: {what}"));
    let refuse = |what: String| Err(invalid(what));
    for (what, text) in [("name", &description.name), ("version", &description.version)] {
        check_name(what, text).map_err(invalid)?;
    }
    if description.state_version == 0 {
        return refuse("state-version is 0, but counts from 1".into());
    }
    if description.tables.len() > MOST_TABLES {
        return refuse(format!("it has {} tables, but at most {MOST_TABLES} are allowed", description.tables.len()));
    }
    for (i, table) in description.tables.iter().enumerate() {
        check_table(table).map_err(invalid)?;
        if description.tables[..i].iter().any(|t| t.name == table.name) {
            return refuse(format!("table {} is declared twice", table.name));
        }
        if !table.columns.iter().any(|c| c.primary_key) {
            return refuse(format!("table {} has no primary key, which makes rows idempotent", table.name));
        }
        for (j, column) in table.columns.iter().enumerate() {
            check_name("column", &column.name).map_err(invalid)?;
            if table.columns[..j].iter().any(|c| c.name == column.name) {
                return refuse(format!("column {}.{} is declared twice", table.name, column.name));
            }
        }
    }
    Schema::read(&description.config_schema).map_err(invalid)
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.chars().count() <= LONGEST_NAME && !name.contains(['\n', '\t']) && printable(name) == name {
        return Ok(());
    }
    let shown: String = name.chars().take(LONGEST_NAME).collect();
    Err(format!(
        "{what} {shown:?} is more than {LONGEST_NAME} characters long or has characters that cannot be printed"
    ))
}

fn check_table(Table { name, columns }: &Table) -> Result<(), String> {
    check_name("table", name)?;
    if name.get(..OWN_TABLES.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_TABLES)) {
        return Err(format!("table {name} has a name that begins with {OWN_TABLES}, as only tables of the host do"));
    }
    if columns.len() > MOST_COLUMNS {
        return Err(format!("table {name} has {} columns, but at most {MOST_COLUMNS} are allowed", columns.len()));
    }
    Ok(())
}

fn table(spec: wit::TableSpec) -> Table {
    use wit::ColumnType as Wit;
    let kind = |kind| match kind {
        Wit::Boolean => ColumnType::Boolean,
        Wit::Integer => ColumnType::Integer,
        Wit::Float => ColumnType::Float,
        Wit::Timestamp => ColumnType::Timestamp,
        Wit::Text => ColumnType::Text,
        Wit::Blob => ColumnType::Blob,
        Wit::TextList => ColumnType::TextList,
        Wit::IntegerList => ColumnType::IntegerList,
        Wit::Json => ColumnType::Json,
    };
    let column = |c: wit::ColumnSpec| ColumnSpec { name: c.name, kind: kind(c.kind), primary_key: c.primary_key };
    Table { name: spec.name, columns: spec.columns.into_iter().map(column).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, primary_key: bool) -> ColumnSpec {
        ColumnSpec { name: name.into(), kind: ColumnType::Integer, primary_key }
    }

    fn described(change: impl FnOnce(&mut Description, &mut Vec<Table>)) -> Result<(), String> {
        let table = |name: &str| Table { name: name.into(), columns: vec![column("id", true), column("v", false)] };
        let mut tables = vec![table("a"), table("b")];
        let mut description = Description {
            name: "sample".into(),
            version: "1".into(),
            state_version: 1,
            tables: Arc::new([]),
            encodings: None,
            config_schema: "{}".into(),
            wants_headers: false,
        };
        change(&mut description, &mut tables);
        description.tables = tables.into();
        check_description(&description).map(drop).map_err(|e| e.to_string())
    }

    #[test]
    fn an_invalid_description_is_refused_with_what_is_wrong() {
        let check = |words: &str, change: &dyn Fn(&mut Description, &mut Vec<Table>)| {
            let reason = described(change).expect_err("it is wrong");
            assert!(
                reason.starts_with("its description is invalid: ") && reason.contains(words),
                "{words:?} in {reason:?}"
            );
        };
        assert_eq!(described(|_, _| ()), Ok(()));
        assert_eq!(described(|_, tables| tables.clear()), Ok(()), "a plugin may emit no rows at all");
        check("name \"a\\u{1b}b\"", &|description, _| description.name = "a\u{1b}b".into());
        check("version", &|description, _| description.version = "1\nforged".into());
        check("name", &|description, _| description.name = "n".repeat(LONGEST_NAME + 1));
        check("state-version", &|description, _| description.state_version = 0);
        check("config-schema", &|description, _| description.config_schema = "{".into());
        check("config-schema", &|description, _| description.config_schema = r#"{"type": "objekt"}"#.into());
        check("table \"a\\tb\"", &|_, tables| tables[0].name = "a\tb".into());
        check("column", &|_, tables| tables[0].columns[1].name = "n".repeat(LONGEST_NAME + 1));
        check("as only tables of the host do", &|_, tables| tables[0].name = "_KeyFold_lanes".into());
        check("1001 tables", &|_, tables| tables.resize(MOST_TABLES + 1, tables[0].clone()));
        check("1001 columns", &|_, tables| tables[0].columns.resize(MOST_COLUMNS + 1, column("c", false)));
        check("table a is declared twice", &|_, tables| tables[1].name = "a".into());
        check("table b has no primary key", &|_, tables| tables[1].columns[0].primary_key = false);
        check("column b.id is declared twice", &|_, tables| tables[1].columns[1].name = "id".into());
    }

    #[test]
    fn what_is_known_of_encodings_is_compared() {
        let of = |schema: &str| split_schema(schema.into());
        let (former, schema) = of(r#"{"x-keyfold-state":{"value":"i64","item":"()"},"type":"object"}"#);
        assert_eq!(schema, r#"{"type":"object"}"#);
        let (other, _) = of(r#"{"x-keyfold-state":{"value":"serde {a: i64}"}}"#);
        let (former, other) = (former.expect("it says so"), other.expect("it says so"));
        assert_eq!(
            other.difference(&former).as_deref(),
            Some("a value is encoded as `serde {a: i64}`, but was as `i64`")
        );
        assert_eq!((former.difference(&former), Encodings::default().difference(&former)), (None, None));
        assert_eq!(of("true"), (None, "true".into()));
        assert_eq!(of(r#"{"x-keyfold-state": 7}"#).0, None);
    }
}
