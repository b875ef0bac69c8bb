//! Checks a plugin's configuration against the JSON Schema of its description, before the plugin sees it. Fetches nothing: a schema that
//! refers to another document is refused.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{JsonType, ValidationError, Validator};
use serde_json::Value;

mod cost;

/// How many characters of a value a finding shows.
const SHOWN: usize = 60;

/// The schema of a configuration.
pub(super) struct Schema {
    validator: Validator,
    text: Value,
}

impl Schema {
    /// Reads a schema; the error says why it is invalid.
    pub(super) fn read(text: &str) -> Result<Schema, String> {
        let text: Value = serde_json::from_str(text).map_err(|e| format!("config-schema is not JSON: {e}"))?;
        cost::check_schema(&text.to_string(), &text)
            .map_err(|why| format!("config-schema is not a JSON Schema that keyfold reads: {why}"))?;
        match jsonschema::options().offline().build(&text) {
            Ok(validator) => Ok(Schema { validator, text }),
            Err(e) => Err(format!("config-schema is not a JSON Schema: {}", in_schema(&e))),
        }
    }

    /// Returns everything that does not fit, each finding with its path in the configuration; empty if the configuration fits.
    pub(super) fn findings(&self, config: &Value) -> Vec<String> {
        if let Err(why) = cost::check_steps(&self.text, config) {
            return vec![format!("config-schema is too expensive: {why}")];
        }
        self.validator.iter_errors(config).flat_map(|error| self.finding(&error)).collect()
    }

    fn finding(&self, error: &ValidationError<'_>) -> Vec<String> {
        let at = path(error.instance_path());
        let names = match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => unexpected,
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                return vec![format!("{at}{} is missing", step(name))];
            }
            kind => {
                let found = shown(error.instance());
                return vec![match wanted(kind, &at) {
                    Some(wanted) => format!("{at}: expected {wanted}, found {found}"),
                    None => format!("{at}: {error}"),
                }];
            }
        };
        let known = self.known_beside(error.schema_path());
        names
            .iter()
            .map(|name| format!("{at}{} is not a key of the schema{}", step(name), hint(name, &known)))
            .collect()
    }

    /// Returns the keys that the schema names beside the keyword at `keyword`.
    fn known_beside(&self, keyword: &Location) -> Vec<String> {
        let parent = keyword.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
        let known = self.text.pointer(&format!("{parent}/properties")).and_then(Value::as_object);
        known.map(|known| known.keys().cloned().collect()).unwrap_or_default()
    }
}

/// Suggests the nearest known key, or lists all of them.
fn hint(name: &str, known: &[String]) -> String {
    let likeness = |other: &&String| strsim::normalized_damerau_levenshtein(name, other);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest {
        None => String::new(),
        Some(nearest) if likeness(&nearest) >= 0.6 => format!("; did you mean {nearest}?"),
        Some(_) => format!("; its keys are {}", known.join(", ")),
    }
}

/// Returns what the schema expects instead, where a few words can say it. `at` is the path of the value.
fn wanted(kind: &ValidationErrorKind, at: &str) -> Option<String> {
    use ValidationErrorKind as Kind;
    Some(match kind {
        Kind::Type { kind: TypeKind::Single(kind) } => type_name(*kind).to_owned(),
        Kind::Type { kind: TypeKind::Multiple(kinds) } => {
            alternatives(kinds.into_iter().map(|kind| type_name(kind).to_owned()).collect())
        }
        Kind::Enum { options } => {
            alternatives(options.as_array().into_iter().flatten().map(Value::to_string).collect())
        }
        Kind::Constant { expected_value } => expected_value.to_string(),
        Kind::Minimum { limit } => format!("at least {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("more than {limit}"),
        Kind::Maximum { limit } => format!("at most {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("a multiple of {multiple_of}"),
        Kind::MinLength { limit } => format!("at least {limit} characters"),
        Kind::MaxLength { limit } => format!("at most {limit} characters"),
        Kind::MinItems { limit } => format!("at least {limit} items"),
        Kind::MaxItems { limit } => format!("at most {limit} items"),
        Kind::MinProperties { limit } => format!("at least {limit} keys"),
        Kind::MaxProperties { limit } => format!("at most {limit} keys"),
        Kind::UniqueItems => "items that are all different".to_owned(),
        Kind::Pattern { pattern } => format!("text that matches {pattern}"),
        Kind::Format { format } => format!("text in the form {format:?}"),
        Kind::FalseSchema => "nothing here".to_owned(),
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            alternatives(context.iter().map(|errors| all_of(errors, at)).collect())
        }
        _ => return None,
    })
}

/// Returns what one of several alternatives expects.
fn all_of(errors: &[ValidationError<'static>], at: &str) -> String {
    let one = |error: &ValidationError<'static>| {
        let here = path(error.instance_path());
        match wanted(error.kind(), &here) {
            Some(wanted) if here == at => wanted,
            Some(wanted) => format!("{wanted} in {here}"),
            None => error.to_string(),
        }
    };
    errors.iter().map(one).collect::<Vec<_>>().join(" and ")
}

fn alternatives(mut wanted: Vec<String>) -> String {
    wanted.dedup();
    wanted.join(" or ")
}

fn type_name(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Null => "null",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Number => "a number",
        JsonType::String => "text",
        JsonType::Array => "a list",
        JsonType::Object => "an object",
    }
}

/// Returns the path of a value, starting with `plugin.config`.
fn path(location: &Location) -> String {
    let steps = location.into_iter().map(|segment| match segment {
        LocationSegment::Property(name) => step(&name),
        LocationSegment::Index(index) => format!("[{index}]"),
    });
    std::iter::once("plugin.config".to_owned()).chain(steps).collect()
}

fn step(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { format!(".{name}") } else { format!(".{name:?}") }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Says what is wrong with a schema, and where.
fn in_schema(error: &ValidationError<'_>) -> String {
    match error.instance_path().as_str() {
        "" => error.to_string(),
        at => format!("at {at}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn findings(schema: &Value, config: &Value) -> Vec<String> {
        Schema::read(&schema.to_string()).map(|schema| schema.findings(config)).expect("it is a schema")
    }

    fn visits() -> Value {
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "session_timeout": {"oneOf": [
                    {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
                    {"type": "integer", "minimum": 1, "maximum": 100},
                ]},
                "session_id": {"enum": ["record", "append-second"]},
            },
        })
    }

    #[test]
    fn a_configuration_that_fits_has_no_findings() {
        for schema in [json!({}), json!(true), json!({"type": "object"}), visits()] {
            assert!(findings(&schema, &json!({})).is_empty(), "{schema}");
            assert!(findings(&schema, &json!({"session_timeout": "50s"})).is_empty(), "{schema}");
        }
    }

    #[test]
    fn everything_that_does_not_fit_is_named_by_its_path_with_what_is_expected() {
        let config = json!({"session_timeout": "fifty", "session_id": "second", "session_timout": 5, "x": 1});
        let mut found = findings(&visits(), &config);
        found.sort();
        assert_eq!(
            found,
            [
                "plugin.config.session_id: expected \"record\" or \"append-second\", found \"second\"",
                "plugin.config.session_timeout: expected text that matches ^[0-9]+(ms|s|m|h)$ or a whole number, found \"fifty\"",
                "plugin.config.session_timout is not a key of the schema; did you mean session_timeout?",
                "plugin.config.x is not a key of the schema; its keys are session_timeout, session_id",
            ]
        );
    }

    #[test]
    fn every_kind_of_misfit_says_what_is_expected() {
        let check = |schema: Value, config: Value, words: &str| {
            assert_eq!(findings(&json!({"properties": {"a": schema}}), &json!({"a": config})), [words]);
        };
        check(
            json!({"type": ["integer", "null"]}),
            json!("x"),
            "plugin.config.a: expected null or a whole number, found \"x\"",
        );
        check(json!({"minimum": 1}), json!(0), "plugin.config.a: expected at least 1, found 0");
        check(json!({"exclusiveMaximum": 1}), json!(1), "plugin.config.a: expected less than 1, found 1");
        check(json!({"multipleOf": 5}), json!(7), "plugin.config.a: expected a multiple of 5, found 7");
        check(json!({"minItems": 1}), json!([]), "plugin.config.a: expected at least 1 items, found []");
        check(json!({"maxLength": 1}), json!("ab"), "plugin.config.a: expected at most 1 characters, found \"ab\"");
        check(json!({"const": 1}), json!(2), "plugin.config.a: expected 1, found 2");
        check(json!(false), json!(2), "plugin.config.a: expected nothing here, found 2");
        check(json!({"required": ["b c"]}), json!({}), "plugin.config.a.\"b c\" is missing");
        check(
            json!({"items": {"type": "boolean"}}),
            json!([true, 1]),
            "plugin.config.a[1]: expected true or false, found 1",
        );
        check(
            json!({"anyOf": [{"type": "string"}, {"properties": {"b": {"type": "string"}}, "type": "object"}]}),
            json!({"b": 1}),
            "plugin.config.a: expected text or text in plugin.config.a.b, found {\"b\":1}",
        );
        check(json!({"not": {}}), json!(1), "plugin.config.a: {} is not allowed for 1");
    }

    #[test]
    fn a_whole_configuration_of_another_type_is_named() {
        assert_eq!(
            findings(&json!({"type": "object"}), &json!("ok")),
            ["plugin.config: expected an object, found \"ok\""]
        );
    }

    #[test]
    fn long_values_are_cut() {
        let [finding] = &findings(&json!({"type": "object"}), &json!("é".repeat(1000)))[..] else {
            panic!("one finding")
        };
        assert!(finding.chars().count() < 120 && finding.ends_with('…'), "{finding}");
    }

    #[test]
    fn an_invalid_schema_says_why() {
        let check = |text: &str, words: &[&str]| {
            let Err(reason) = Schema::read(text) else { panic!("{text} is a schema") };
            assert!(words.iter().all(|word| reason.contains(word)), "{words:?} in {reason:?}");
        };
        check("", &["config-schema is not JSON"]);
        check("{", &["config-schema is not JSON"]);
        check("7", &["config-schema is not a JSON Schema"]);
        check(r#"{"type": "objekt"}"#, &["config-schema is not a JSON Schema", "at /type", "objekt"]);
        check(r#"{"properties": {"a": {"pattern": "("}}}"#, &["config-schema is not a JSON Schema", "pattern"]);
        check(r##"{"$ref": "#/$defs/none"}"##, &["config-schema is not a JSON Schema", "none"]);
        check(r#"{"$ref": "https://example.org/schema.json"}"#, &["config-schema is not a JSON Schema", "example.org"]);
        check(r#"{"$ref": "file:///etc/hostname"}"#, &["config-schema is not a JSON Schema", "hostname"]);
    }

    #[test]
    fn a_schema_may_refer_to_itself() {
        let tree = json!({"properties": {"left": {"$ref": "#"}}, "additionalProperties": false});
        let found = findings(&tree, &json!({"left": {"left": {"right": 1}}}));
        assert_eq!(found, ["plugin.config.left.left.right is not a key of the schema; its keys are left"]);
        assert!(findings(&json!({"$ref": "#"}), &json!({})).is_empty());
    }
}
