//! The JSON Schema of keyfold.toml, generated from the table of keys: for editors, CI and `keyfold schema`.
//!
//! The schema checks names, types and ranges. It cannot check what depends on other keys, on the environment or on files; loading the
//! configuration does.

use serde_json::{Map, Value, json};

use super::keys::{self, Absent, KEYS, Key, Kind};

/// Returns the schema, JSON Schema draft 2020-12.
pub fn schema() -> Value {
    let mut schema = Map::new();
    schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".into(), "keyfold.toml".into());
    schema.extend(section(""));
    Value::Object(schema)
}

/// Returns the schema of a section; the empty path is the whole file.
fn section(path: &str) -> Map<String, Value> {
    let mut properties = Map::new();
    let mut required: Vec<String> = Vec::new();
    for name in keys::children(path) {
        let inner = keys::join(path, &name);
        let Some(key) = KEYS.iter().find(|key| key.path == inner) else {
            if is_required(&inner) {
                required.push(name.clone());
            }
            properties.insert(name, Value::Object(section(&inner)));
            continue;
        };
        if key.secret {
            let file = json!({"type": "string", "minLength": 1, "description": format!("file that holds the {name}")});
            properties.insert(format!("{name}_file"), file);
        }
        if key.absent == Absent::Required {
            required.push(name.clone());
        }
        properties.insert(name, of_key(key));
    }
    let mut section = Map::new();
    section.insert("type".into(), "object".into());
    section.insert("additionalProperties".into(), false.into());
    section.insert("properties".into(), properties.into());
    if is_choice(path) {
        section.insert("minProperties".into(), 1.into());
        section.insert("maxProperties".into(), 1.into());
    } else if !required.is_empty() {
        section.insert("required".into(), required.into());
    }
    section
}

/// Returns whether exactly one of the section's parts must be given.
fn is_choice(path: &str) -> bool {
    ["source", "sink"].contains(&path)
}

/// Returns whether every configuration has this section.
fn is_required(path: &str) -> bool {
    let prefix = format!("{path}.");
    is_choice(path)
        || !path.contains('.') && KEYS.iter().any(|key| key.absent == Absent::Required && key.path.starts_with(&prefix))
}

fn of_key(key: &Key) -> Value {
    let mut schema = of_kind(key.kind);
    schema.insert("description".into(), key.meaning.into());
    if let Absent::Is(text) = key.absent {
        let value: toml::Value = text.parse().expect("defaults are TOML, as a test sees");
        schema.insert("default".into(), serde_json::to_value(value).expect("defaults are plain"));
    }
    Value::Object(schema)
}

fn of_kind(kind: Kind) -> Map<String, Value> {
    let text = || json!({"type": "string", "minLength": 1});
    let schema = match kind {
        Kind::Text | Kind::Path | Kind::Stream | Kind::Component | Kind::Url => text(),
        Kind::Name(most) => json!({"type": "string", "maxLength": most, "pattern": "^[A-Za-z0-9._-]+$"}),
        Kind::Integer(least, i64::MAX) => json!({"type": "integer", "minimum": least}),
        Kind::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Flag => json!({"type": "boolean"}),
        // A number without a unit is refused.
        Kind::Duration(..) => {
            json!({"type": "string", "pattern": "[0-9].*[A-Za-z]", "examples": ["10s", "200ms", "1h"]})
        }
        Kind::Size(..) => json!({"type": "string", "pattern": "^[0-9.]+ *[A-Za-z]+$", "examples": ["256MiB"]}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Texts => json!({"type": "array", "items": text()}),
        Kind::Nodes => json!({"type": "array", "items": text(), "minItems": 1, "examples": [["localhost:9042"]]}),
        Kind::Properties => properties(),
        Kind::Json => json!({}),
        Kind::Empty => json!({"type": "object", "maxProperties": 0}),
    };
    match schema {
        Value::Object(schema) => schema,
        _ => unreachable!("every schema above is an object"),
    }
}

/// librdkafka properties. `a.b = 1` is a table in a table for TOML, so tables may nest.
fn properties() -> Value {
    let value = json!({"type": ["string", "number", "boolean", "object"]});
    json!({"type": "object", "additionalProperties": value})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let document: toml::Table = text.parse().expect("the text is TOML");
        let document = serde_json::to_value(document).expect("it has no dates");
        let validator = jsonschema::validator_for(&schema()).expect("the schema is valid");
        validator.iter_errors(&document).map(|error| error.to_string()).collect()
    }

    const MINIMAL: &str = "name = \"a\"\n[source.file]\npath = \"-\"\n[plugin]\ncomponent = \"builtin:visits\"\n[state]\nurl = \"state\"\n\
                           [sink.discard]\n";

    #[test]
    fn the_example_configurations_are_valid() {
        assert_eq!(problems(MINIMAL), [""; 0]);
        assert_eq!(problems(include_str!("../../keyfold.example.toml")), [""; 0], "keyfold.example.toml");
        assert_eq!(problems(include_str!("../../docker/keyfold.toml")), [""; 0], "docker/keyfold.toml");
    }

    #[test]
    fn wrong_names_types_and_ranges_are_refused() {
        for (line, part) in [
            ("[tiem]\nlate = \"drop\"\n", "tiem"),
            ("[time]\nlatte = \"drop\"\n", "latte"),
            ("[time]\nlate = \"later\"\n", "later"),
            ("[time]\nout_of_orderness = 10\n", "10"),
            ("[time]\nout_of_orderness = \"10\"\n", "10"),
            ("[run]\nworkers = \"two\"\n", "two"),
            ("[run]\nworkers = 0\n", "0"),
            ("[admin]\ntoken = 1\n", "1"),
            ("[sink.sqlite]\npath = \"a\"\n", "sqlite"),
        ] {
            let found = problems(&format!("{MINIMAL}{line}"));
            assert_eq!(found.len(), 1, "{line}: {found:?}");
            assert!(found[0].contains(part), "{line}: {found:?}");
        }
        assert_eq!(problems("").len(), 5, "name, source, plugin, state and sink are missing");
    }

    #[test]
    fn every_key_is_in_the_schema_with_its_meaning_and_its_default_fits() {
        let schema = schema();
        for key in KEYS {
            let pointer = format!("/properties/{}", key.path.replace('.', "/properties/"));
            let found = schema.pointer(&pointer).unwrap_or_else(|| panic!("{} is not in the schema", key.path));
            assert_eq!(found["description"], key.meaning, "{}", key.path);
            if let Some(default) = found.get("default") {
                assert!(jsonschema::is_valid(found, default), "the default of {}", key.path);
            }
        }
    }
}
