//! what a schema costs the host: references can make a few hundred bytes as expensive as one likes, so they are followed here first, with
//! every step counted.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// Bytes of a schema.
const BYTES: usize = 1 << 20;
/// How deep a schema may lie, with the schemas that it refers to. JSON itself may be 128 levels deep.
const DEPTH: usize = 128;
/// Pairs of a schema and a value that a check may look at.
const STEPS: u32 = 200_000;

/// Keywords whose schemas apply to the value itself: one, a list, or an object of them.
const IN_PLACE: &[&str] = &["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"];
/// Keywords whose schemas apply to everything in the value.
const INSIDE: &[&str] = &[
    "additionalItems",
    "additionalProperties",
    "contains",
    "items",
    "patternProperties",
    "prefixItems",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Refuses a schema that is too large or too deep, or whose references cannot be followed here.
pub(super) fn check_schema(text: &str, schema: &Value) -> Result<(), String> {
    if text.len() > BYTES {
        return Err(format!("it has {} bytes, and at most {BYTES} are read", text.len()));
    }
    Depth { root: schema, reached: HashMap::new(), path: HashSet::from([std::ptr::from_ref(schema)]) }.walk(schema, 0)
}

/// Refuses a check that would take too many steps. The schema has passed [`check_schema`].
pub(super) fn check_steps(schema: &Value, config: &Value) -> Result<(), String> {
    Steps { root: schema, left: STEPS, open: HashSet::new() }.walk(schema, config)
}

/// The schema that a reference names.
fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = reference.strip_prefix('#').filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))?;
    // A pointer with an escaped byte is not followed; nobody has to write one.
    (!pointer.contains('%')).then(|| root.pointer(pointer)).flatten()
}

struct Depth<'a> {
    root: &'a Value,
    /// The depth at which each target was met.
    reached: HashMap<*const Value, usize>,
    /// The targets whose schemas are being walked.
    path: HashSet<*const Value>,
}

impl<'a> Depth<'a> {
    fn walk(&mut self, schema: &'a Value, depth: usize) -> Result<(), String> {
        if depth > DEPTH {
            return Err(format!("it is more than {DEPTH} levels deep, with the schemas that it refers to"));
        }
        match schema {
            Value::Array(items) => items.iter().try_for_each(|item| self.walk(item, depth + 1)),
            Value::Object(object) => object.iter().try_for_each(|(key, value)| match (key.as_str(), value) {
                ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(reference)) => self.follow(reference, depth),
                // They would give references another meaning.
                ("$id" | "$anchor" | "$dynamicAnchor" | "id", Value::String(name)) if depth > 0 => Err(format!(
                    "it has {key} {name:?} below its root: keyfold follows only references such as \"#/$defs/name\""
                )),
                _ => self.walk(value, depth + 1),
            }),
            _ => Ok(()),
        }
    }

    fn follow(&mut self, reference: &str, depth: usize) -> Result<(), String> {
        let Some(target) = target(self.root, reference) else {
            return Err(format!("it refers to {reference:?}: only schemas in it can be, such as \"#/$defs/name\""));
        };
        let place = std::ptr::from_ref(target);
        let reached = self.reached.get(&place).copied();
        if self.path.contains(&place) || reached.is_some_and(|reached| reached >= depth) {
            return Ok(());
        }
        self.reached.insert(place, depth);
        self.path.insert(place);
        self.walk(target, depth + 1)?;
        self.path.remove(&place);
        Ok(())
    }
}

struct Steps<'a> {
    root: &'a Value,
    left: u32,
    /// The pairs that are being looked at: a schema may refer to itself.
    open: HashSet<(*const Value, *const Value)>,
}

impl<'a> Steps<'a> {
    fn walk(&mut self, schema: &'a Value, value: &'a Value) -> Result<(), String> {
        let too_many =
            || format!("to check it takes more than {STEPS} steps; let it refer to the same schema less often");
        self.left = self.left.checked_sub(1).ok_or_else(too_many)?;
        let Some(object) = schema.as_object() else { return Ok(()) };
        let pair = (std::ptr::from_ref(schema), std::ptr::from_ref(value));
        if !self.open.insert(pair) {
            return Ok(());
        }
        for (key, given) in object {
            self.keyword(key, given, value)?;
        }
        self.open.remove(&pair);
        Ok(())
    }

    fn keyword(&mut self, key: &str, given: &'a Value, value: &'a Value) -> Result<(), String> {
        if let ("$ref" | "$dynamicRef" | "$recursiveRef", Some(reference)) = (key, given.as_str()) {
            return target(self.root, reference).map_or(Ok(()), |target| self.walk(target, value));
        }
        let schemas: Vec<&Value> = match given {
            Value::Array(schemas) => schemas.iter().collect(),
            Value::Object(schemas) if ["dependentSchemas", "dependencies", "patternProperties"].contains(&key) => {
                schemas.values().collect()
            }
            one => vec![one],
        };
        if IN_PLACE.contains(&key) {
            return schemas.into_iter().try_for_each(|schema| self.walk(schema, value));
        }
        if let ("properties", Some(properties), Some(values)) = (key, given.as_object(), value.as_object()) {
            let known = values.iter().filter_map(|(name, value)| Some((properties.get(name)?, value)));
            return known.into_iter().try_for_each(|(schema, value)| self.walk(schema, value));
        }
        if !INSIDE.contains(&key) {
            return Ok(());
        }
        for schema in schemas {
            match value {
                Value::Array(items) => items.iter().try_for_each(|item| self.walk(schema, item))?,
                Value::Object(items) => items.values().try_for_each(|item| self.walk(schema, item))?,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::{Map, json};

    /// Each schema requires the one before twice.
    fn doubling(levels: usize) -> Value {
        let level = |n: usize| {
            let before = json!({"$ref": format!("#/$defs/s{}", n.saturating_sub(1))});
            let schema = if n == 0 { json!({"type": "object"}) } else { json!({"allOf": [before, before]}) };
            (format!("s{n}"), schema)
        };
        let levels: Map<String, Value> = (0..=levels).map(level).collect();
        let last = format!("#/$defs/s{}", levels.len() - 1);
        json!({"$defs": levels, "$ref": last})
    }

    #[test]
    fn a_schema_that_doubles_with_each_reference_is_refused_by_its_steps() {
        assert_eq!(check_steps(&doubling(10), &json!({})), Ok(()));
        let reason = check_steps(&doubling(60), &json!({})).expect_err("it takes years");
        assert!(reason.contains("more than 200000 steps"), "{reason}");
        // It doubles with each level of the value.
        let twice = json!({"properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}});
        let deep = (0..60).fold(json!({}), |inner, _| json!({"a": inner}));
        assert!(check_steps(&twice, &deep).is_err());
        let once = json!({"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "allOf": [{"$ref": "#"}]});
        assert_eq!(check_steps(&once, &deep), Ok(()));
        let wide = json!({"items": {"items": {"allOf": [{}, {}]}}});
        assert!(check_steps(&wide, &json!(vec![vec![0; 1_000]; 1_000])).is_err());
    }

    #[test]
    fn a_schema_is_refused_if_it_is_too_deep_or_its_references_cannot_be_followed() {
        let check = |schema: &Value| check_schema(&schema.to_string(), schema);
        assert_eq!(check(&doubling(30)), Ok(()), "it is only expensive to check");
        assert_eq!(check(&json!({"$id": "https://example.org/x", "properties": {"$ref": {"$ref": "#"}}})), Ok(()));
        let refused = |schema: &Value, words: &str| {
            let reason = check(schema).expect_err("it is refused");
            assert!(reason.contains(words), "{words:?} in {reason}");
        };
        refused(&doubling(60), "more than 128 levels deep");
        refused(&json!({"$ref": "#name"}), "refers to \"#name\"");
        refused(&json!({"$defs": {"a": {"$id": "other"}}}), "$id \"other\" below its root");
        refused(&json!({"description": "x".repeat(BYTES)}), "bytes");
    }
}
