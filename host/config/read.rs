//! Reads the file and the `KEYFOLD_*` variables: all values, each with its origin. Reports unknown keys; types are checked in
//! [`super::value`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::config::keys::{self, Key, Kind, Place};

/// `KEYFOLD_*` variables that are not configuration keys, besides `KEYFOLD_TEST_*`.
const OTHER_VARIABLES: &[&str] = &["KEYFOLD_CONFIG", "KEYFOLD_LOG", "KEYFOLD_LOG_FORMAT"];

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// A line of the file, from 1.
    Line(usize),
    /// A variable of the environment.
    Variable(String),
    /// The configuration as a whole.
    Whole,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Line(line) => write!(f, "line {line}"),
            Origin::Variable(name) => f.write_str(name),
            Origin::Whole => f.write_str("the configuration"),
        }
    }
}

/// A problem with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    pub(super) origin: Origin,
    pub(super) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Whole => f.write_str(&self.message),
            origin => write!(f, "{origin}: {}", self.message),
        }
    }
}

/// All values, with their origins and the problems so far.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Values by path. The path of a secret's file ends in `_file`; property names keep their dots.
    pub(super) values: BTreeMap<String, toml::Value>,
    /// Origin of each value, of each section, and of each name inside a table value.
    pub(super) origins: BTreeMap<String, Origin>,
    /// Sections with a value that is not a table: their keys are not reported as missing.
    pub(super) broken: BTreeSet<String>,
    /// Problems so far.
    pub(super) problems: Vec<Problem>,
    /// Variables that Kubernetes makes of Services.
    pub(super) of_services: Vec<String>,
}

impl Given {
    /// Reads the file's text, then the variables. If the text is not TOML, only that is reported.
    pub(super) fn read(text: &str, environment: impl Iterator<Item = (String, String)>) -> Result<Given, Vec<Problem>> {
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(errors.iter().map(|error| not_toml(text, error)).collect());
        }
        let mut given = Given::default();
        given.table("", document.get_ref(), &|span| Origin::Line(line(text, span.start)));
        // The order of names puts a variable for a whole table before those for its parts.
        let variables: BTreeMap<String, String> = environment.filter(|(name, _)| is_key(name)).collect();
        for (name, value) in &variables {
            given.variable(name, value);
        }
        Ok(given)
    }

    /// Returns whether anything was given at `path` or below.
    pub(super) fn has(&self, path: &str) -> bool {
        self.origins.contains_key(path)
    }

    /// Returns where `path` was given.
    pub(super) fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or(Origin::Whole)
    }

    /// Adds a problem.
    pub(super) fn problem(&mut self, origin: Origin, message: impl Into<String>) {
        self.problems.push(Problem { origin, message: message.into() });
    }

    fn table(&mut self, section: &str, table: &DeTable<'_>, origin_of: &dyn Fn(Range<usize>) -> Origin) {
        for (name, value) in table.iter() {
            let path = keys::join(section, &quoted(name.get_ref()));
            let origin = origin_of(name.span());
            match (keys::place(&path), value.get_ref()) {
                (Place::Key(key), value) => self.value(key, &path, value, origin, origin_of),
                (Place::SecretFile(key), value) => self.value(key, &path, value, origin, origin_of),
                (Place::Section, DeValue::Table(inner)) => {
                    self.locate(&path, &origin);
                    self.table(&path, inner, origin_of);
                }
                (Place::Section, other) => {
                    let message = format!("{path}: expected a section like [{path}], found {}", found_raw(other));
                    self.locate(&path, &origin);
                    self.broken.insert(path);
                    self.problem(origin, message);
                }
                (Place::Inside(..) | Place::Unknown, _) => self.problem(origin, unknown(&path)),
            }
        }
    }

    fn value(
        &mut self,
        key: &Key,
        path: &str,
        value: &DeValue<'_>,
        origin: Origin,
        origin_of: &dyn Fn(Range<usize>) -> Origin,
    ) {
        self.names_inside(path, value, origin_of);
        match plain(value) {
            Ok(value) => self.keep(key, path, value, origin),
            Err(message) => {
                self.locate(path, &origin);
                self.problem(origin, format!("{path}: {message}"));
            }
        }
    }

    fn keep(&mut self, key: &Key, path: &str, value: toml::Value, origin: Origin) {
        let value = match (key.kind, value) {
            (Kind::Properties, toml::Value::Table(table)) => toml::Value::Table(flat(table)),
            (_, value) => value,
        };
        self.locate(path, &origin);
        self.values.insert(path.to_owned(), value);
    }

    /// Records the origin of `path`, and of its sections unless they have one.
    fn locate(&mut self, path: &str, origin: &Origin) {
        for section in keys::sections(path) {
            self.origins.entry(section.to_owned()).or_insert_with(|| origin.clone());
        }
        self.origins.insert(path.to_owned(), origin.clone());
    }

    /// Records the origins of names inside a table value.
    fn names_inside(&mut self, path: &str, value: &DeValue<'_>, origin_of: &dyn Fn(Range<usize>) -> Origin) {
        let DeValue::Table(table) = value else { return };
        for (name, value) in table.iter() {
            let path = keys::join(path, name.get_ref());
            self.names_inside(&path, value.get_ref(), origin_of);
            self.origins.insert(path, origin_of(name.span()));
        }
    }

    fn variable(&mut self, name: &str, text: &str) {
        let origin = Origin::Variable(name.to_owned());
        if text.contains(char::REPLACEMENT_CHARACTER) {
            return self.problem(origin, "its value is not UTF-8");
        }
        let path = name["KEYFOLD_".len()..].to_lowercase().replace("__", ".");
        match keys::place(&path) {
            Place::Key(key) => self.keep(key, &path, from_text(key.kind, text), origin),
            Place::SecretFile(key) => self.keep(key, &path, toml::Value::String(text.to_owned()), origin),
            Place::Inside(key, rest) => self.inside(key, &rest, text, origin),
            Place::Section => self.section_variable(&path, text, origin),
            Place::Unknown if is_of_service(name, text) => self.of_services.push(name.to_owned()),
            Place::Unknown => self.problem(origin, unknown_variable(name, &path)),
        }
    }

    /// Applies a variable for one name inside a table value.
    fn inside(&mut self, key: &Key, rest: &str, text: &str, origin: Origin) {
        self.locate(key.path, &origin);
        self.origins.insert(format!("{}.{rest}", key.path), origin);
        let whole = self.values.entry(key.path.to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        let toml::Value::Table(table) = whole else { return };
        if key.kind == Kind::Properties {
            table.insert(rest.to_owned(), toml::Value::String(text.to_owned()));
        } else {
            let value = text.parse().unwrap_or_else(|_| toml::Value::String(text.to_owned()));
            put(table, rest, value);
        }
    }

    /// Applies a variable that sets a whole section, as an inline table.
    fn section_variable(&mut self, path: &str, text: &str, origin: Origin) {
        match DeValue::parse(text).map(toml::Spanned::into_inner) {
            Ok(DeValue::Table(table)) => {
                self.locate(path, &origin);
                self.table(path, &table, &|_| origin.clone());
            }
            _ => {
                let example = keys::variable(&keys::join(path, &keys::children(path)[0]));
                self.problem(origin, format!("{path} is a section; set one of its keys, such as {example}"));
            }
        }
    }
}

fn not_toml(text: &str, error: &toml::de::Error) -> Problem {
    let origin = error.span().map_or(Origin::Whole, |span| Origin::Line(line(text, span.start)));
    Problem { origin, message: format!("not TOML: {}", error.message().replace('\n', ", ")) }
}

/// Returns whether a variable is meant for the configuration.
fn is_key(name: &str) -> bool {
    name.starts_with("KEYFOLD_") && !name.starts_with("KEYFOLD_TEST_") && !OTHER_VARIABLES.contains(&name)
}

/// Returns whether a variable has the form of those that Kubernetes sets in every pod for a Service named `keyfold` or `keyfold-...`.
fn is_of_service(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let is_url =
        PROTOCOLS.iter().any(|p| value.strip_prefix(&p.to_lowercase()).is_some_and(|rest| rest.starts_with("://")));
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = name.split('_').collect();
    match parts.as_slice() {
        [.., "SERVICE", "HOST"] => true,
        [.., "SERVICE", "PORT"] => is_port(value),
        [.., "PORT"] if is_url => true,
        [.., "PORT", port, protocol] if is_port(port) && PROTOCOLS.contains(protocol) => is_url,
        [.., "PORT", port, protocol, "PROTO" | "PORT" | "ADDR"] if is_port(port) => PROTOCOLS.contains(protocol),
        // The port of a Service by its name.
        parts => parts.windows(2).any(|pair| pair == ["SERVICE", "PORT"]) && is_port(value),
    }
}

/// Returns the line number, from 1, of a byte offset.
fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// Returns the name as TOML writes it in a path.
fn quoted(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { name.to_owned() } else { format!("{name:?}") }
}

fn unknown(path: &str) -> String {
    if let Some(nearest) = keys::nearest(path) {
        return format!("{path} is not a key; did you mean {nearest}?");
    }
    let section = path.rsplit_once('.').map_or("", |(section, _)| section);
    let names = keys::children(section).join(", ");
    match section {
        "" => format!("{path} is not a key; the top-level keys are {names}"),
        section => format!("{path} is not a key; [{section}] has {names}"),
    }
}

fn unknown_variable(name: &str, path: &str) -> String {
    let like = |other: &&&str| strsim::normalized_damerau_levenshtein(name, other) >= 0.8;
    let other = OTHER_VARIABLES.iter().find(like).map(|other| (**other).to_owned());
    let nearest = other.or_else(|| keys::nearest(path).map(|path| keys::variable(&path)));
    let hint = nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
    format!("this variable matches no key{hint}")
}

/// Parses a variable's text for this kind; text that does not parse stays text, and the type check refuses it.
fn from_text(kind: Kind, text: &str) -> toml::Value {
    let as_text = || toml::Value::String(text.to_owned());
    match kind {
        Kind::Integer(..) | Kind::Flag | Kind::Empty => text.parse().unwrap_or_else(|_| as_text()),
        Kind::Properties => text.parse().unwrap_or_else(|_| as_text()),
        Kind::Json => text.parse().ok().or_else(|| serde_json::from_str(text).ok()).unwrap_or_else(as_text),
        Kind::Texts | Kind::Nodes if text.trim_start().starts_with('[') => text.parse().unwrap_or_else(|_| as_text()),
        Kind::Texts | Kind::Nodes => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            toml::Value::Array(parts.map(|part| toml::Value::String(part.to_owned())).collect())
        }
        Kind::Text
        | Kind::Name(_)
        | Kind::Path
        | Kind::Stream
        | Kind::Component
        | Kind::Url
        | Kind::Duration(..)
        | Kind::Size(..)
        | Kind::Choice(_) => as_text(),
    }
}

/// Returns the value without its positions.
fn plain(value: &DeValue<'_>) -> Result<toml::Value, String> {
    Ok(match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => toml::Value::Integer(
            i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| format!("{number} does not fit in 64 bits"))?,
        ),
        DeValue::Float(number) => {
            toml::Value::Float(number.as_str().parse().map_err(|_| format!("{number} is not a number"))?)
        }
        DeValue::Boolean(flag) => toml::Value::Boolean(*flag),
        DeValue::Datetime(time) => toml::Value::Datetime(*time),
        DeValue::Array(items) => {
            toml::Value::Array(items.iter().map(|item| plain(item.get_ref())).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let inner = |(name, value): (&toml::Spanned<_>, &toml::Spanned<_>)| {
                let name: &std::borrow::Cow<'_, str> = name.get_ref();
                Ok::<_, String>((name.to_string(), plain(value.get_ref())?))
            };
            toml::Value::Table(table.iter().map(inner).collect::<Result<_, _>>()?)
        }
    })
}

/// Flattens nested tables: TOML reads `a.b = 1` as a table in a table, but a property is named `a.b`.
fn flat(table: toml::Table) -> toml::Table {
    let mut whole = toml::Table::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => {
                whole.extend(flat(inner).into_iter().map(|(rest, value)| (format!("{name}.{rest}"), value)));
            }
            value => {
                whole.insert(name, value);
            }
        }
    }
    whole
}

/// Inserts a value at a dotted path inside a table, creating tables on the way.
fn put(table: &mut toml::Table, path: &str, value: toml::Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((name, rest)) => {
            let inner = table.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if !inner.is_table() {
                *inner = toml::Value::Table(toml::Table::new());
            }
            if let toml::Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// Describes a value, for an error message.
fn found_raw(value: &DeValue<'_>) -> String {
    plain(value).map_or_else(|message| message, |value| found(&value))
}

/// Describes a value, for an error message.
pub(super) fn found(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) if text.chars().count() > 60 => {
            format!("the text {:?}…", text.chars().take(60).collect::<String>())
        }
        toml::Value::String(text) => format!("the text {text:?}"),
        toml::Value::Integer(number) => format!("the number {number}"),
        toml::Value::Float(number) => format!("the number {number}"),
        toml::Value::Boolean(flag) => format!("{flag}"),
        toml::Value::Datetime(time) => format!("the date {time}"),
        toml::Value::Array(_) => "a list".to_owned(),
        toml::Value::Table(_) => "a table".to_owned(),
    }
}
